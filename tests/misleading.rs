//! Answers that are about something else than they seem: a question that is refused though messages are taken, a right that is
//! missing, a server that is the wrong one. Rows wait, no attempt is counted, the true reason is shown, and relaying goes on by
//! itself once the cause has ended.

use std::time::Duration;

use async_nats::ConnectOptions;
use futures_util::future::join_all;
use serde_json::Value;

use crate::support::daemon::{Daemon, Site};
use crate::support::nats::{NatsServer, programs};
use crate::support::postgres::{Cluster, Session};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::{eventually, throughout, together};

/// A failed send would end the row: nothing of this may count.
const ONE_ATTEMPT: &str = "[relay]\nmax_attempts = 1\n";
const COUNTED: &str = "select count(*) from outbox_messages where failed_at is not null or attempt > 1";
const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null";

/// A daemon, and nothing written yet.
struct Relay {
    site: Site,
    daemon: Daemon,
    session: Session,
}

impl Relay {
    async fn start(section: &str) -> Self {
        let database = Cluster::shared().database().await;
        let site = Site::new(&database, &[section, ONE_ATTEMPT].concat());
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        Self { site, daemon, session }
    }

    async fn insert(&self, topic: &str, rows: usize) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload)
             select '{topic}', 'k' || n % 7, '{{}}' from generate_series(1, {rows}) n"
        );
        self.session.run(&insert).await;
    }

    async fn relayed(&self) {
        let all = eventually("all rows are relayed or counted", Duration::from_secs(40), || async {
            let (pending, counted) = (self.session.count(PENDING).await, self.session.count(COUNTED).await);
            (pending == 0 || counted > 0).then_some(counted)
        });
        assert_eq!(all.await, 0, "attempts counted\n{}", self.site.log());
    }

    /// `rows` wait, and the reason shown has `words` in it.
    async fn waits(&self, rows: i64, words: &str) {
        let shown = std::cell::RefCell::new(String::new());
        let why = async {
            eventually("the reason is shown", Duration::from_secs(30), || async {
                let (_, body) = self.daemon.get("/api/v1/status").await?;
                let status: Value = serde_json::from_str(&body).ok()?;
                let reason = status["paused_destinations"][0]["error"].as_str()?.to_owned();
                *shown.borrow_mut() = reason.clone();
                reason.contains(words).then_some(())
            })
            .await;
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), why).await.is_ok();
        assert!(seen, "no {words:?} in {:?}\n{}", shown.borrow(), self.site.log());
        // Those of other topics are relayed meanwhile.
        eventually("the others are relayed", Duration::from_secs(20), || async {
            (self.session.count(PENDING).await == rows).then_some(())
        })
        .await;
        throughout("the rows wait untouched", Duration::from_secs(4), || async {
            self.session.count(COUNTED).await == 0 && self.session.count(PENDING).await == rows
        })
        .await;
    }

    /// A row that is written now and then is not taken, for a reason with `words` in it.
    async fn refused(&self, words: &str) {
        eventually("the login is refused", Duration::from_secs(30), || async {
            self.insert("orders", 1).await;
            let (_, body) = self.daemon.get("/api/v1/status").await?;
            body.to_lowercase().contains(words).then_some(())
        })
        .await;
    }

    async fn end(self) {
        assert_eq!(self.session.count(COUNTED).await, 0, "{}", self.site.log());
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
    }
}

/// An admin, and the user `relay` with these permissions.
fn users(permissions: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: admin, password: admin }},
         {{ user: relay, password: relay, permissions: {{ {permissions} }} }} ] }}\n"
    )
}

/// `act` with a server of every version that has the user, beside each other.
async fn on_each_nats(permissions: &str, act: impl AsyncFn(NatsServer, String)) {
    let programs = programs();
    let acts = programs.iter().map(async |program| {
        let (nats, section) = nats_with(program, permissions).await;
        act(nats, section).await;
        println!("{program}: ok");
    });
    join_all(acts).await;
}

async fn nats_with(program: &str, permissions: &str) -> (NatsServer, String) {
    let nats = NatsServer::of(program, &users(permissions));
    let admin = ConnectOptions::with_user_and_password("admin".to_owned(), "admin".to_owned());
    nats.create_stream_as(admin).await;
    let section = format!(
        "[transports.main.nats]\nurl = \"nats://relay:relay@127.0.0.1:{}\"\n",
        nats.port()
    );
    (nats, section)
}

#[tokio::test]
async fn a_nats_user_who_may_only_publish_is_relayed_to_after_a_hiccup() {
    let _guard = together().await;
    on_each_nats(
        "publish: [ \"orders\" ], subscribe: [ \"_INBOX.>\" ]",
        async |nats, section| {
            let relay = Relay::start(&section).await;
            relay.insert("orders", 20).await;
            relay.relayed().await;
            nats.kill();
            relay.insert("orders", 20).await;
            relay.waits(20, "not connected").await;
            nats.up();
            relay.relayed().await;
            relay.end().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_nats_user_who_may_not_publish_there_waits_for_the_right() {
    let _guard = together().await;
    let rights =
        |subject: &str| format!("publish: [ {subject} \"other\", \"$JS.API.>\" ], subscribe: [ \"_INBOX.>\" ]");
    on_each_nats(&rights(""), async |nats, section| {
        let relay = Relay::start(&section).await;
        relay.insert("other", 20).await;
        relay.relayed().await;
        relay.insert("orders", 20).await;
        relay.waits(20, "may not publish on \"orders\"").await;
        relay.insert("other", 20).await;
        relay.waits(20, "may not publish on \"orders\"").await;
        nats.reload(&users(&rights("\"orders\",")));
        relay.relayed().await;
        relay.end().await;
    })
    .await;
}

/// Neither the right to publish nor to ask.
#[tokio::test]
async fn a_nats_user_with_no_right_at_all_waits_for_them() {
    let _guard = together().await;
    on_each_nats(
        "publish: [ \"other\" ], subscribe: [ \"_INBOX.>\" ]",
        async |nats, section| {
            let relay = Relay::start(&section).await;
            relay.insert("orders", 20).await;
            relay.waits(20, "may not publish on \"orders\"").await;
            nats.reload(&users("publish: [ \"orders\" ], subscribe: [ \"_INBOX.>\" ]"));
            relay.relayed().await;
            relay.end().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_nats_user_who_may_not_hear_acknowledgements_waits_for_the_right() {
    let _guard = together().await;
    on_each_nats(
        "publish: [ \">\" ], subscribe: [ \"elsewhere\" ]",
        async |nats, section| {
            let relay = Relay::start(&section).await;
            relay.insert("orders", 20).await;
            relay.waits(20, "no acknowledgement can come").await;
            nats.reload(&users("publish: [ \">\" ], subscribe: [ \"_INBOX.>\" ]"));
            relay.relayed().await;
            relay.end().await;
        },
    )
    .await;
}

/// The server ends the connection with `Authorization Violation`, and refuses new ones until the password is right again.
#[tokio::test]
async fn a_nats_login_that_is_taken_away_and_given_back_is_an_outage() {
    let _guard = together().await;
    let rights = "publish: [ \">\" ], subscribe: [ \"_INBOX.>\" ]";
    on_each_nats(rights, async |nats, section| {
        let relay = Relay::start(&section).await;
        relay.insert("orders", 20).await;
        relay.relayed().await;
        nats.reload(&users(rights).replace("password: relay", "password: another"));
        relay.insert("orders", 20).await;
        // The row may go before the server has read its configuration.
        relay.refused("authorization violation").await;
        nats.reload(&users(rights));
        relay.relayed().await;
        relay.end().await;
    })
    .await;
}

/// A user with these rules works, and goes on after the server was away.
async fn redis_user(rules: &str) {
    let redis = RedisServer::with_options(&format!("--user relay on >relay ~* {rules}"));
    let section = format!(
        "[transports.main.redis]\nurl = \"redis://relay:relay@127.0.0.1:{}\"\n",
        redis.port()
    );
    let relay = Relay::start(&section).await;
    relay.insert("orders", 20).await;
    relay.relayed().await;
    redis.kill();
    relay.insert("orders", 20).await;
    relay.waits(20, "redis").await;
    redis.up();
    relay.relayed().await;
    println!("{rules}: relayed again");
    relay.end().await;
}

#[tokio::test]
async fn a_redis_user_who_may_not_ask_is_relayed_to_after_a_hiccup() {
    let _guard = together().await;
    tokio::join!(
        redis_user("+@all -@dangerous"),
        redis_user("+xadd"),
        redis_user("+@all -type -role -ping")
    );
}

fn order(redis: &RedisServer, words: &[&str]) {
    let mut client = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    redis::cmd(words[0]).arg(&words[1..]).exec(&mut client).unwrap();
}

fn to_redis(port: u16) -> String {
    format!("[transports.main.redis]\nurl = \"redis://127.0.0.1:{port}\"\n")
}

/// A Sentinel's port, a proxy, a server too old.
#[tokio::test]
async fn a_redis_without_the_command_is_an_outage() {
    let _guard = together().await;
    let (wrong, right) = (
        RedisServer::with_options("--rename-command XADD nothing"),
        RedisServer::start(),
    );
    let proxy = Proxy::to(wrong.port());
    let relay = Relay::start(&to_redis(proxy.port())).await;
    relay.insert("orders", 20).await;
    relay.waits(20, "unknown command").await;
    proxy.aim(right.port());
    relay.relayed().await;
    relay.end().await;
}

/// A name that leads to a new primary, while the old one lives on as its replica.
#[tokio::test]
async fn a_redis_name_that_leads_to_a_new_primary_is_followed() {
    let _guard = together().await;
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::to(old.port());
    let relay = Relay::start(&to_redis(proxy.port())).await;
    relay.insert("orders", 20).await;
    relay.relayed().await;
    order(&old, &["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    relay.insert("orders", 20).await;
    relay.waits(20, "replica").await;
    proxy.aim(new.port());
    relay.relayed().await;
    relay.end().await;
}

#[tokio::test]
async fn a_redis_without_room_for_clients_says_so_and_is_waited_for() {
    let _guard = together().await;
    let redis = RedisServer::start();
    let mut client = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut tell = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec(&mut client).unwrap();
    let relay = Relay::start(&to_redis(redis.port())).await;
    relay.insert("orders", 20).await;
    relay.relayed().await;
    tell(&["CONFIG", "SET", "maxclients", "1"]);
    tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    relay.insert("orders", 20).await;
    relay.waits(20, "max number of clients").await;
    tell(&["CONFIG", "SET", "maxclients", "100"]);
    relay.relayed().await;
    relay.end().await;
}
