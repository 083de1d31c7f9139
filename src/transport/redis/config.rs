//! `[transports.<name>.redis]`.

use std::path::PathBuf;
use std::time::Duration;

use redis::{Client, IntoConnectionInfo};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::transport::ConnectError;
use crate::transport::settings::{Section, duration, optional_number};

/// Everything the Redis Streams transport can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://host:6379/0`, `rediss://` for TLS with the system's authorities.
    #[serde(default)]
    pub url: Option<String>,
    /// File with the URL, when it holds a password.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// File with the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Streams are trimmed to about this many entries (`MAXLEN ~`); left out: never.
    #[serde(default, deserialize_with = "optional_number")]
    pub maxlen: Option<u64>,
    /// How long a batch waits for its answers.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
}

/// `ack_timeout` where the file says nothing; a shorter lease shortens it.
pub(crate) fn default_ack_timeout() -> Duration {
    Duration::from_secs(5)
}

impl RedisConfig {
    /// Checks everything that can be checked without a server.
    ///
    /// # Errors
    /// The first wrong key.
    pub fn validate(&self, name: &str) -> Result<(), ConnectError> {
        self.client(name).map(drop)
    }

    pub(super) fn client(&self, name: &str) -> Result<Client, ConnectError> {
        let section = Section { name, kind: "redis" };
        if self.maxlen == Some(0) {
            return Err(section.wrong("maxlen", "must be at least 1: 0 would drop every message"));
        }
        if self.ack_timeout < Duration::from_millis(10) {
            return Err(section.wrong("ack_timeout", "must be at least 10ms"));
        }
        let (key, url) = match (&self.url, &self.url_file) {
            (Some(url), None) => ("url", url.clone()),
            (None, Some(path)) => ("url_file", section.secret("url_file", path)?.expose_secret().to_owned()),
            (Some(_), Some(_)) => {
                return Err(section.wrong("url_file", "cannot be combined with url: keep one of them"));
            }
            (None, None) => return Err(section.wrong("url", "is missing: redis://127.0.0.1:6379")),
        };
        // The error is not printed: it could repeat a URL with a password.
        let mut info = url
            .as_str()
            .into_connection_info()
            .map_err(|_| section.wrong(key, "not a Redis URL such as redis://127.0.0.1:6379/0"))?;
        if let Some(path) = &self.password_file {
            let password = section.secret("password_file", path)?;
            let settings = info.redis_settings().clone().set_password(password.expose_secret());
            info = info.set_redis_settings(settings);
        }
        Client::open(info).map_err(|error| section.wrong(key, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_names_its_key() {
        for (json, line) in [
            ("{}", "transports.main.redis.url: is missing"),
            (r#"{"url":"http://h"}"#, "transports.main.redis.url: not a Redis URL"),
            (
                r#"{"url":"redis://h","url_file":"/x"}"#,
                "transports.main.redis.url_file: ",
            ),
            (
                r#"{"url":"redis://h","password_file":"/nonexistent"}"#,
                "transports.main.redis.password_file: cannot read",
            ),
            (r#"{"url":"redis://h","maxlen":"0"}"#, "transports.main.redis.maxlen: "),
        ] {
            let config: RedisConfig = serde_json::from_str(json).unwrap();
            let error = config.validate("main").unwrap_err().to_string();
            assert!(error.starts_with(line) && !error.contains('\n'), "{error}");
        }
    }
}
