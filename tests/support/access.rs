//! A table of ways to reach one kind of broker, each with what comes of it: one daemon with a transport for each way, one
//! row for each, and its log.

use std::fmt::Write as _;
use std::time::Duration;

use super::daemon::Site;
use super::eventually;
use super::postgres::Cluster;

/// Trust in who signed the servers of [`Certificates`](super::certificates::Certificates).
pub(crate) const CA: &str = "tls_ca_file = \"{ca.crt}\"\n";

/// The same, and the certificate and key called `name` as our own.
pub(crate) fn pair(name: &str) -> String {
    format!("{CA}tls_cert_file = \"{{{name}.crt}}\"\ntls_key_file = \"{{{name}.key}}\"\n")
}

/// One way to reach a broker.
pub(crate) struct Way {
    /// The transport's name, and the topic of its row.
    pub(crate) name: &'static str,
    /// The keys of its section, TOML.
    pub(crate) keys: String,
    /// `None`: the row arrives. Else the key that is named, and what is said of it.
    pub(crate) refused: Option<(&'static str, &'static str)>,
}

impl Way {
    /// A way that works.
    pub(crate) fn open(name: &'static str, keys: impl Into<String>) -> Self {
        Self {
            name,
            keys: keys.into(),
            refused: None,
        }
    }

    /// A way that is refused: the log names `key` and says `why` of it.
    pub(crate) fn refused(name: &'static str, keys: impl Into<String>, key: &'static str, why: &'static str) -> Self {
        Self {
            name,
            keys: keys.into(),
            refused: Some((key, why)),
        }
    }
}

/// Runs a daemon with all `ways`. Rows of those that work are relayed; of each of the others one line of the log names the key,
/// and its row waits without having used up an attempt. None of `secrets` is in the log.
pub(crate) async fn assert_ways(kind: &str, ways: &[Way], secrets: &[&str]) {
    let database = Cluster::shared().database().await;
    let mut sections = String::new();
    for way in ways {
        let Way { name, keys, .. } = way;
        writeln!(sections, "[transports.{name}.{kind}]\n{keys}\n").expect("writing into a string");
        writeln!(sections, "[[routes]]\ntopic = \"{name}\"\ntransport = \"{name}\"\n").expect("writing into a string");
    }
    let site = Site::new(&database, &sections);
    site.migrate();
    let session = database.connect().await;
    for way in ways {
        let insert = "insert into outbox_messages (topic, key, payload) values ($1, 'k', '1')";
        session.execute(insert, &[&way.name]).await.expect("a row");
    }
    let daemon = site.launch();
    for way in ways {
        let what = format!("{kind}, {}: {:?}", way.name, way.refused);
        eventually(&what, Duration::from_secs(30), || async {
            match way.refused {
                None => {
                    let relayed = "select count(*) from outbox_messages where topic = $1 and relayed_at is not null";
                    let row = session.query_one(relayed, &[&way.name]).await.expect("a count");
                    (row.get::<_, i64>(0) == 1).then_some(())
                }
                Some((key, why)) => {
                    let named = format!("transports.{}.{kind}.{key}: ", way.name);
                    let log = site.log();
                    let mut lines = log.lines().filter(|line| line.contains(&named));
                    lines.any(|line| line.contains(why)).then_some(())
                }
            }
        })
        .await;
    }
    let spent = "select count(*) from outbox_messages
                 where relayed_at is null and (attempt <> 1 or failed_at is not null or last_error is not null)";
    assert_eq!(
        session.count(spent).await,
        0,
        "a refusal is an outage: no attempt is counted"
    );
    let open = ways.iter().filter(|way| way.refused.is_none()).count();
    let relayed = "select count(*) from outbox_messages where relayed_at is not null";
    assert_eq!(session.count(relayed).await, open as i64, "nobody else gets through");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let log = site.log();
    for secret in secrets {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
}
