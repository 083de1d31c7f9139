//! An application's table, a broker, and a daemon that relays the one to the other.

use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;

use crate::support::arrivals::nats_ordered;
use crate::support::broker::{Broker, Kind, STREAM};
use crate::support::daemon::Site;
use crate::support::eventually;
use crate::support::postgres::{Cluster, Database, Session, bin};
use crate::support::processes::run;

/// Long enough for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One copy of a message, whatever its id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub id: String,
    pub topic: String,
    pub key: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Letter {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str())
    }
}

pub struct Scene {
    pub broker: Broker,
    pub database: Database,
    pub session: Session,
    pub site: Site,
    table: &'static str,
    before: String,
}

impl Scene {
    /// `ddl` makes the application's `table`; `config` is TOML. With a stream over `subjects` of NATS.
    pub async fn new(table: &'static str, ddl: &str, config: &str, subjects: &[&str]) -> Self {
        let broker = Broker::start(Kind::Nats);
        if !subjects.is_empty() {
            broker.prepare(subjects).await;
        }
        Self::with(broker, table, ddl, config).await
    }

    pub async fn with(broker: Broker, table: &'static str, ddl: &str, config: &str) -> Self {
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        session
            .run(&format!(
                "alter database {} set timezone = 'America/New_York'",
                database.name
            ))
            .await;
        let session = {
            drop(session);
            database.connect().await
        };
        session.run(ddl).await;
        let site = Site::with_lease(
            &database,
            "ttl = \"3s\"\n",
            &format!("{}{config}", broker.section("main")),
        );
        let before = dump(&database, table);
        site.migrate();
        let scene = Self {
            broker,
            database,
            session,
            site,
            table,
            before,
        };
        scene.is_untouched();
        scene
    }

    /// Columns, indexes, triggers and options of their table are what they were.
    pub fn is_untouched(&self) {
        assert_eq!(dump(&self.database, self.table), self.before);
    }

    /// Waits until `query` answers `number`.
    pub async fn counts(&self, query: &str, number: i64) {
        eventually(&format!("{query} answers {number}"), DEADLINE, || async {
            (self.session.count(query).await == number).then_some(())
        })
        .await;
    }

    /// The one text that a query answers.
    pub async fn text(&self, query: &str) -> String {
        let row = self.session.query_one(&format!("select ({query})::text"), &[]).await;
        row.unwrap_or_else(|error| panic!("{query}: {error}"))
            .get::<_, Option<String>>(0)
            .unwrap_or_default()
    }

    /// Everything the stream holds, in order.
    pub async fn letters(&self) -> Vec<Letter> {
        letters(&self.broker.address()).await
    }

    /// Waits until it holds so many.
    pub async fn held(&self, count: usize) -> Vec<Letter> {
        eventually(&format!("{count} messages have arrived"), DEADLINE, || async {
            (self.broker.held().await >= count as u64).then_some(())
        })
        .await;
        self.letters().await
    }
}

/// The schema of a table as pg_dump prints it, without rights: those are given by whoever runs `outboxd roles --print`.
fn dump(database: &Database, table: &str) -> String {
    let table = format!("public.\"{table}\"");
    let arguments = ["--schema-only", "-x", "-t", &table, "-d", &database.url()].map(str::to_owned);
    let text = run(Command::new(bin("pg_dump")).args(arguments));
    // \restrict lines hold a random word.
    let lines = text.lines().filter(|line| !line.starts_with('\\'));
    lines.collect::<Vec<_>>().join("\n")
}

/// Everything that the stream at `url` holds, in order.
pub async fn letters(url: &str) -> Vec<Letter> {
    let client = async_nats::connect(url).await.unwrap();
    let mut info = async_nats::jetstream::new(client).get_stream(STREAM).await.unwrap();
    let held = info.info().await.unwrap().state.messages;
    let mut messages = nats_ordered(url, STREAM).await.unwrap();
    let mut letters = Vec::new();
    for _ in 0..held {
        let message = tokio::time::timeout(DEADLINE, messages.next()).await;
        let message = message.expect("a message comes").unwrap().unwrap();
        let headers: Vec<(String, String)> = message
            .headers
            .iter()
            .flat_map(|headers| headers.iter())
            .flat_map(|(name, values)| {
                values
                    .iter()
                    .map(move |value| (name.to_string(), value.as_str().to_owned()))
            })
            .collect();
        let find = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        };
        letters.push(Letter {
            id: find("Outbox-Id").unwrap_or_default(),
            topic: message.subject.to_string(),
            key: find("Outbox-Key"),
            body: String::from_utf8_lossy(&message.payload).into_owned(),
            headers,
        });
    }
    letters
}
