//! `[transports.<name>.redis]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::transport::ConnectError;
use crate::transport::blame::Blame;
use crate::transport::settings::{Section, TlsFiles, duration, optional_number};

/// Everything the Redis Streams transport can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://host:6379/0`, `rediss://` for TLS; `redis://user@host` for a user of the server's ACL.
    #[serde(default)]
    pub url: Option<SecretString>,
    /// File with the URL, when it holds a password.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// File with the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's; needs `rediss://`.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of our certificate; needs `tls_key_file`.
    #[serde(default)]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[serde(default)]
    pub tls_key_file: Option<PathBuf>,
    /// Stands before the name of every stream: rows then reach no other key of the database.
    #[serde(default)]
    pub prefix: String,
    /// Streams are trimmed to about this many entries (`MAXLEN ~`); left out: never.
    #[serde(default, deserialize_with = "optional_number")]
    pub maxlen: Option<u64>,
    /// How long a batch waits for its answers.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
}

/// `ack_timeout` where the file says nothing; a shorter lease shortens it.
pub(super) fn default_ack_timeout() -> Duration {
    Duration::from_secs(5)
}

impl RedisConfig {
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
            (None, Some(path)) => ("url_file", section.secret("url_file", path)?),
            (Some(_), Some(_)) => {
                return Err(section.wrong("url_file", "cannot be combined with url: keep one of them"));
            }
            (None, None) => return Err(section.wrong("url", "is missing: redis://127.0.0.1:6379")),
        };
        // The error is not printed: it could repeat a URL with a password.
        let mut info = url
            .expose_secret()
            .into_connection_info()
            .map_err(|_| section.wrong(key, "not a Redis URL such as redis://127.0.0.1:6379/0"))?;
        if let Some(path) = &self.password_file {
            let password = section.secret("password_file", path)?;
            let settings = info.redis_settings().clone().set_password(password.expose_secret());
            info = info.set_redis_settings(settings);
        }
        // The first command is then one whose answer is read: a server without room says so in answer to it.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        self.open(section, key, info)
    }

    fn open(&self, section: Section<'_>, key: &str, info: ConnectionInfo) -> Result<Client, ConnectError> {
        let files = TlsFiles {
            ca: self.tls_ca_file.as_deref(),
            cert: self.tls_cert_file.as_deref(),
            key: self.tls_key_file.as_deref(),
        };
        section.check_tls(&files)?;
        let read = |key: &str, path: Option<&Path>| path.map(|path| section.read(key, path)).transpose();
        let root_cert = read("tls_ca_file", files.ca)?;
        let client_cert = read("tls_cert_file", files.cert)?;
        let client_key = read("tls_key_file", files.key)?;
        let client_tls = client_cert
            .zip(client_key)
            .map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            });
        let opened = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }),
            _ if root_cert.is_some() || client_tls.is_some() => {
                return Err(section.wrong(key, "must begin with rediss:// where a tls_ key is set"));
            }
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) | _ => Client::open(info),
        };
        opened.map_err(|error| section.wrong(key, error))
    }

    fn has_login(&self) -> bool {
        let in_url = |url: &SecretString| url.expose_secret().contains('@');
        self.password_file.is_some() || self.url_file.is_some() || self.url.as_ref().is_some_and(in_url)
    }

    /// What a refused connection can be blamed on.
    pub(super) fn blame(&self, name: &str) -> Blame {
        let server = if self.url_file.is_some() { "url_file" } else { "url" };
        Blame {
            name: name.to_owned(),
            kind: "redis",
            server,
            login: self.has_login().then_some(if self.password_file.is_some() {
                "password_file"
            } else {
                server
            }),
            to_log_in: (
                "password_file",
                "the server asks for a login: set it, and redis://USER@HOST for a user of its ACL",
            ),
            own_authorities: self.tls_ca_file.is_some(),
            own_certificate: self.tls_cert_file.is_some(),
            waits_for_tls: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::settings::Settings;

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
