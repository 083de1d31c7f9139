//! The way to the database, which may get another login while connections are made by it.
//!
//! A rotated password counts for every connection made from then on; those there are go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{Connection, Driver};

use crate::lock::lock;

/// See the module. A clone goes the same way, also after a [`Way::renew`] of another.
#[derive(Clone, Debug)]
pub struct Way {
    now: Arc<Mutex<Connection>>,
    application: Option<Arc<str>>,
}

impl From<Connection> for Way {
    fn from(connection: Connection) -> Self {
        Self {
            now: Arc::new(Mutex::new(connection)),
            application: None,
        }
    }
}

impl Way {
    /// The same way under another `application_name`.
    #[must_use]
    pub fn named(&self, application: &str) -> Self {
        Self {
            now: Arc::clone(&self.now),
            application: Some(application.into()),
        }
    }

    /// As it is now.
    #[must_use]
    pub fn current(&self) -> Connection {
        let connection = lock(&self.now).clone();
        match &self.application {
            Some(application) => connection.named(application),
            None => connection,
        }
    }

    /// Connections are made like this from now on. Answers whether that is anything new; certificates are not compared.
    pub fn renew(&self, connection: Connection) -> bool {
        let mut now = lock(&self.now);
        let news = now.config != connection.config;
        *now = connection;
        news
    }

    /// Whether `connection` leads to the same database, whoever logs in.
    #[must_use]
    pub fn leads_where(&self, connection: &Connection) -> bool {
        fn database(config: &Config) -> Option<&str> {
            config.get_dbname().or(config.get_user())
        }
        let now = lock(&self.now);
        let (one, other) = (&now.config, &connection.config);
        one.get_hosts() == other.get_hosts()
            && one.get_hostaddrs() == other.get_hostaddrs()
            && one.get_ports() == other.get_ports()
            && database(one) == database(other)
    }

    /// As [`Connection::connect`].
    ///
    /// # Errors
    /// The driver's, of the last host.
    pub async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        self.current().connect().await
    }

    /// As [`Connection::patience`].
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.current().patience()
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        lock(&self.now).tls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::connect::parse_url;
    use super::*;

    fn at(url: &str) -> Connection {
        parse_url(url).unwrap()
    }

    #[test]
    fn a_renewed_login_is_everybodys_and_keeps_the_names() {
        let way = Way::from(at("postgres://u:old@h:1/db?sslmode=disable"));
        let reader = way.named("outboxd/read");
        assert!(way.renew(at("postgres://v:new@h:1/db?sslmode=disable")));
        let now = reader.current().config;
        assert_eq!(
            (now.get_user(), now.get_password(), now.get_application_name()),
            (Some("v"), Some(&b"new"[..]), Some("outboxd/read"))
        );
        assert!(!way.renew(at("postgres://v:new@h:1/db?sslmode=disable")), "nothing new");
        assert!(!format!("{way:?}").contains("new"), "{way:?}");
    }

    #[test]
    fn another_place_is_told_from_another_login() {
        let way = Way::from(at("postgres://u:old@h:1/db?sslmode=disable"));
        for (url, same) in [
            ("postgres://v:p@h:1/db?sslmode=disable&connect_timeout=9", true),
            ("postgres://u:old@h:2/db?sslmode=disable", false),
            ("postgres://u:old@i:1/db?sslmode=disable", false),
            ("postgres://u:old@h:1/other?sslmode=disable", false),
            ("postgres://u:old@h:1?sslmode=disable", false),
            ("postgres://db@h:1?sslmode=disable", true),
        ] {
            assert_eq!(way.leads_where(&at(url)), same, "{url}");
        }
    }
}
