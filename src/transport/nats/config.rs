//! `[transports.<name>.nats]`.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::transport::ConnectError;
use crate::transport::blame::Blame;
use crate::transport::settings::{Section, TlsFiles, duration, flag, list, number};

/// Everything the NATS JetStream transport can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// One server or several, separated by commas: `nats://host:4222`, `tls://host:4222`.
    /// May hold a user and a password, or a token.
    pub url: SecretString,
    /// A `.creds` file (JWT and seed).
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// File with a token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// User name; needs `password_file`.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password of `user`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// File with an nkey seed.
    #[serde(default)]
    pub nkey_file: Option<PathBuf>,
    /// PEM file of the authorities to trust instead of the system's.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of our certificate; needs `tls_key_file`.
    #[serde(default)]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[serde(default)]
    pub tls_key_file: Option<PathBuf>,
    /// Speak TLS from the first byte, as servers with `handshake_first` want it.
    #[serde(default, deserialize_with = "flag")]
    pub tls_first: bool,
    /// Messages sent and not yet acknowledged, over all batches. A window of 1,000 is about as fast as any.
    #[serde(default = "default_max_in_flight", deserialize_with = "number")]
    pub max_in_flight: u64,
    /// Control headers (`Nats-...`) that rows may set: they empty streams, expire and reject messages.
    #[serde(default, deserialize_with = "list")]
    pub allow_headers: Vec<String>,
    /// How long one message waits for its acknowledgement.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
}

fn default_max_in_flight() -> u64 {
    4096
}

/// `ack_timeout` where the file says nothing; a shorter lease shortens it.
pub(super) fn default_ack_timeout() -> Duration {
    Duration::from_secs(5)
}

/// Reconnecting starts at once and slows down to five tries a second: recovery within a second is promised, and the next
/// probe of a destination is to come too.
const RECONNECT_MAX: Duration = Duration::from_millis(200);

/// A dead peer that never closed its socket is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Commands the client holds before `publish` has to wait for the socket.
const CLIENT_CAPACITY: usize = 8192;

impl NatsConfig {
    /// The servers and the client's options.
    pub(super) fn options(&self, name: &str) -> Result<(Vec<ServerAddr>, ConnectOptions), ConnectError> {
        let section = Section { name, kind: "nats" };
        self.check(section)?;
        let (servers, login) = self.servers(section)?;
        let options = ConnectOptions::new()
            .name(format!("outboxd/{name}"))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|attempt| {
                let steps = u32::try_from(attempt.min(8)).expect("at most 8");
                if attempt <= 1 {
                    Duration::ZERO
                } else {
                    RECONNECT_MAX.min(Duration::from_millis(10) * 2u32.pow(steps))
                }
            })
            .connection_timeout(self.ack_timeout.min(Duration::from_secs(5)))
            .ping_interval(PING_INTERVAL)
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(
                usize::try_from(self.max_in_flight)
                    .unwrap_or(usize::MAX / 4)
                    .saturating_mul(2),
            )
            .request_timeout(Some(self.ack_timeout));
        let options = self.authenticate(section, login, options)?;
        Ok((servers, self.encrypt(section, options)?))
    }

    /// The servers, and the login that stands before the `@` of the first that has one. The client ignores it there, and
    /// prints it.
    fn servers(&self, section: Section<'_>) -> Result<(Vec<ServerAddr>, Option<Login>), ConnectError> {
        let mut servers = Vec::new();
        let mut login = None;
        for url in self.url.expose_secret().split(',').map(str::trim) {
            let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let place = match rest[..end].rsplit_once('@') {
                None => rest,
                Some((own, host)) => {
                    login = login.or(Some(Login::read(section, own)?));
                    &rest[end - host.len()..]
                }
            };
            let server = format!("{scheme}://{place}").parse::<ServerAddr>().map_err(|error| {
                section.wrong("url", format!("not a NATS URL such as nats://127.0.0.1:4222: {error}"))
            })?;
            servers.push(server);
        }
        Ok((servers, login))
    }

    /// What a refused connection can be blamed on.
    pub(super) fn blame(&self, name: &str) -> Blame {
        let login = [
            ("credentials_file", self.credentials_file.is_some()),
            ("token_file", self.token_file.is_some()),
            ("password_file", self.password_file.is_some()),
            ("nkey_file", self.nkey_file.is_some()),
            ("url", self.url.expose_secret().contains('@')),
        ];
        let given = login.into_iter().find(|(_, given)| *given).map(|(key, _)| key);
        Blame {
            name: name.to_owned(),
            kind: "nats",
            server: "url",
            login: given,
            to_log_in: (
                "user",
                "the server asks for a login: set user and password_file, token_file, nkey_file or credentials_file",
            ),
            own_authorities: self.tls_ca_file.is_some(),
            own_certificate: self.tls_cert_file.is_some(),
            waits_for_tls: (self.tls_ca_file.is_some() || self.url.expose_secret().starts_with("tls://"))
                && !self.tls_first,
        }
    }

    fn check(&self, section: Section<'_>) -> Result<(), ConnectError> {
        if self.max_in_flight == 0 {
            return Err(section.wrong("max_in_flight", "must be at least 1"));
        }
        if let Some(name) = self.allow_headers.iter().find(|name| !super::wire::is_control(name)) {
            return Err(section.wrong(
                "allow_headers",
                format!("{name:?} is no control header: only those that begin with Nats- are refused"),
            ));
        }
        if self.ack_timeout < Duration::from_millis(10) {
            return Err(section.wrong("ack_timeout", "must be at least 10ms"));
        }
        let ways = [
            ("credentials_file", self.credentials_file.is_some()),
            ("token_file", self.token_file.is_some()),
            ("user", self.user.is_some()),
            ("nkey_file", self.nkey_file.is_some()),
        ];
        let in_url = ("url", self.url.expose_secret().contains('@'));
        let mut given = std::iter::once(&in_url).chain(&ways).filter(|(_, given)| *given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            return Err(section.wrong(second, format!("cannot be combined with {first}: keep one of them")));
        }
        if self.user.is_some() != self.password_file.is_some() {
            let missing = if self.user.is_some() { "password_file" } else { "user" };
            return Err(section.wrong(missing, "user and password_file go together: set both"));
        }
        Ok(())
    }

    fn authenticate(
        &self,
        section: Section<'_>,
        login: Option<Login>,
        options: ConnectOptions,
    ) -> Result<ConnectOptions, ConnectError> {
        if let Some(login) = login {
            return Ok(login.give(options));
        }
        if let Some(path) = &self.credentials_file {
            let credentials = section.secret("credentials_file", path)?;
            return options
                // The client does not see a last line without its end.
                .credentials(&format!("{}\n", credentials.expose_secret()))
                .map_err(|error| section.wrong("credentials_file", format!("no credentials in it: {error}")));
        }
        if let Some(path) = &self.token_file {
            return Ok(options.token(section.secret("token_file", path)?.expose_secret().to_owned()));
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = section.secret("password_file", path)?;
            return Ok(options.user_and_password(user.clone(), password.expose_secret().to_owned()));
        }
        if let Some(path) = &self.nkey_file {
            return Ok(options.nkey(section.secret("nkey_file", path)?.expose_secret().trim().to_owned()));
        }
        Ok(options)
    }

    fn encrypt(&self, section: Section<'_>, mut options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        section.check_tls(&TlsFiles {
            ca: self.tls_ca_file.as_deref(),
            cert: self.tls_cert_file.as_deref(),
            key: self.tls_key_file.as_deref(),
        })?;
        if let Some(path) = &self.tls_ca_file {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) {
            options = options
                .add_client_certificate(cert.clone(), key.clone())
                .require_tls(true);
        }
        Ok(if self.tls_first { options.tls_first() } else { options })
    }
}

/// What stands before the `@` of a URL.
enum Login {
    Password(String, SecretString),
    Token(SecretString),
}

impl Login {
    fn read(section: Section<'_>, text: &str) -> Result<Self, ConnectError> {
        let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(section.wrong("url", "the user or password in it is not UTF-8")),
        };
        Ok(match text.split_once(':') {
            Some((user, password)) => Self::Password(decode(user)?, decode(password)?.into()),
            None => Self::Token(decode(text)?.into()),
        })
    }

    fn give(self, options: ConnectOptions) -> ConnectOptions {
        match self {
            Self::Password(user, password) => options.user_and_password(user, password.expose_secret().to_owned()),
            Self::Token(token) => options.token(token.expose_secret().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::settings::Settings;

    fn parse(json: &str) -> Result<NatsConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn text_from_the_environment_is_as_good_as_a_number() {
        let config =
            parse(r#"{"url":"nats://h:1","max_in_flight":"7","tls_first":"true","ack_timeout":"250ms"}"#).unwrap();
        assert_eq!((config.max_in_flight, config.tls_first), (7, true));
        assert_eq!(config.ack_timeout, Duration::from_millis(250));
        assert_eq!(
            parse(r#"{"url":"nats://h:1"}"#).unwrap().ack_timeout,
            Duration::from_secs(5)
        );
        assert!(
            parse(r#"{"url":"nats://h:1","nope":1}"#)
                .unwrap_err()
                .to_string()
                .contains("nope")
        );
    }

    #[test]
    fn what_is_wrong_names_its_key() {
        for (json, line) in [
            (r#"{"url":"nats://a:b"}"#, "transports.main.nats.url: "),
            (
                r#"{"url":"nats://a:1","user":"u"}"#,
                "transports.main.nats.password_file: ",
            ),
            (
                r#"{"url":"nats://a:1","token_file":"/x","nkey_file":"/y"}"#,
                "transports.main.nats.nkey_file: ",
            ),
            (
                r#"{"url":"nats://a:1","credentials_file":"/nonexistent/creds"}"#,
                "transports.main.nats.credentials_file: cannot read /nonexistent/creds: ",
            ),
            (
                r#"{"url":"nats://a:1","tls_cert_file":"/x"}"#,
                "transports.main.nats.tls_key_file: ",
            ),
            (
                r#"{"url":"nats://a:1","tls_ca_file":"/nonexistent"}"#,
                "transports.main.nats.tls_ca_file: cannot read",
            ),
            (
                r#"{"url":"nats://a:1","max_in_flight":0}"#,
                "transports.main.nats.max_in_flight: ",
            ),
        ] {
            let error = parse(json).unwrap().validate("main").unwrap_err().to_string();
            assert!(error.starts_with(line) && !error.contains('\n'), "{error}");
        }
    }
}
