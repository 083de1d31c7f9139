//! Where the database is and how the way there is secured: libpq's URLs and `key=value` strings with libpq's meaning.
//!
//! `tokio-postgres` does not know `sslmode=verify-full`, `sslrootcert`, `sslcert`, `sslkey` or `passfile`, and users paste
//! URLs that have them. What it does not know is taken out here and becomes a TLS configuration (`tls`); the rest is
//! its own business. A Unix socket is never encrypted.
//!
//! Several hosts are tried in their order, each for `connect_timeout` at most, the handshake included (as libpq does; the
//! driver limits the TCP connection only, and one host that accepts and says nothing would hide the others). A peer that
//! vanished without a word is noticed by TCP within 30 seconds, where the URL says nothing else.
//!
//! Differences from libpq, all towards the safer: `allow` tries TLS first, as `prefer` does; `verify-full` without
//! `sslrootcert` and without `~/.postgresql/root.crt` trusts the system's authorities; a certificate's name must be in its
//! subjectAltName. As in libpq, `prefer` and `require` check no certificate unless a root certificate is given.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::hosts::{CONNECT_TIMEOUT, limit_waiting, only_host};
use super::tls;

/// A connection's own task: drive it, or poll it for notifications.
pub type Driver = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// How to reach the database. `Debug` shows no password.
#[derive(Clone)]
pub struct Connection {
    /// What `tokio-postgres` is told.
    pub config: Config,
    /// TLS as `sslmode` wants it; not used where the mode is `disable`, and for Unix sockets.
    pub tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// The same way to the database under another `application_name`: for the connection that listens, outside the pools.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        self.config.application_name(application);
        self
    }

    /// Connects once. The caller drives the answer's second half; notifications arrive there. The last host is waited for
    /// as long as the caller likes: limit the whole by [`Self::patience`].
    ///
    /// # Errors
    /// The driver's, of the last host.
    pub async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        let hosts = self.hosts();
        for index in 0..hosts - 1 {
            let attempt = only_host(&self.config, index);
            let connected = tokio::time::timeout(self.limit(), attempt.connect(self.tls.clone())).await;
            if let Ok(Ok(connected)) = connected {
                return Ok(connected);
            }
        }
        only_host(&self.config, hosts - 1).connect(self.tls.clone()).await
    }

    /// How long connecting may take: every host its `connect_timeout`.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.limit() * u32::try_from(self.hosts()).unwrap_or(u32::MAX)
    }

    fn hosts(&self) -> usize {
        self.config.get_hosts().len().max(1)
    }

    fn limit(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }
}

/// What the URL says that `tokio-postgres` does not know.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extra {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    passfile: Option<PathBuf>,
}

/// Reads a libpq URL (`postgres://`, `postgresql://`) or `key=value` string, and the files it names.
///
/// # Errors
/// In words, without the password: what cannot be read or does not fit together.
pub fn parse_url(url: &str) -> Result<Connection, String> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    parse_at(url, home.as_deref())
}

fn parse_at(url: &str, home: Option<&Path>) -> Result<Connection, String> {
    let mut extra = Extra::default();
    let known = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        strip_url(url, &mut extra)?
    } else {
        strip_pairs(url, &mut extra)?
    };
    let mut config = Config::from_str(&known).map_err(|error| words(&error))?;
    if config.get_hosts().is_empty() {
        // The name certificates are checked against; libpq takes the address as well.
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            return Err("names no host: write it like postgres://user@host:5432/database".to_owned());
        }
        for address in addresses {
            config.host(address);
        }
    }
    let mode = Mode::parse(extra.sslmode.as_deref())?;
    let unix_only = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    config.ssl_mode(if unix_only { SslMode::Disable } else { mode.driver() });
    let tls = if unix_only {
        tls::unused()
    } else {
        tls_for(mode, &extra, home)?
    };
    if config.get_password().is_none()
        && let Some(password) = password_from_file(&config, extra.passfile.as_deref(), home)?
    {
        config.password(password);
    }
    limit_waiting(&mut config);
    Ok(Connection { config, tls })
}

/// The driver's error with its cause: `Display` alone says only "invalid configuration".
fn words(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    fn parse(text: Option<&str>) -> Result<Self, String> {
        Ok(match text {
            None | Some("prefer" | "allow") => Self::Prefer,
            Some("disable") => Self::Disable,
            Some("require") => Self::Require,
            Some("verify-ca") => Self::VerifyCa,
            Some("verify-full") => Self::VerifyFull,
            Some(other) => {
                let accepted = "disable, allow, prefer, require, verify-ca or verify-full";
                // A URL pasted twice ends up here, with its password: only what could be a mode's name is repeated.
                let shown = if other.len() > 15 || !other.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
                {
                    String::new()
                } else {
                    format!(" {other:?}")
                };
                return Err(format!("sslmode{shown} is not accepted: one of {accepted}"));
            }
        })
    }

    fn driver(self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => SslMode::Require,
        }
    }
}

fn tls_for(mode: Mode, extra: &Extra, home: Option<&Path>) -> Result<MakeRustlsConnect, String> {
    let standard = |name: &str| {
        home.map(|home| home.join(".postgresql").join(name))
            .filter(|path| path.is_file())
    };
    let roots = match extra.sslrootcert.as_deref() {
        Some("system") if mode == Mode::VerifyFull || extra.sslmode.is_none() => Some(tls::Roots::System),
        Some("system") => {
            return Err(
                "sslrootcert=system needs sslmode=verify-full: anyone can get a certificate it trusts".to_owned(),
            );
        }
        Some(path) => Some(tls::Roots::File(path.into())),
        None => standard("root.crt").map(tls::Roots::File),
    };
    let check = match (mode, roots) {
        (Mode::Disable, _) => return Ok(tls::unused()),
        (Mode::Prefer | Mode::Require, None) => tls::Check::Nothing,
        (Mode::Prefer | Mode::Require, Some(tls::Roots::System)) => tls::Check::Full(tls::Roots::System),
        (Mode::VerifyFull, None) => tls::Check::Full(tls::Roots::System),
        (Mode::VerifyCa, None) => {
            return Err(
                "sslmode=verify-ca needs sslrootcert=FILE, the certificates of the authorities to trust".to_owned(),
            );
        }
        (Mode::Prefer | Mode::Require | Mode::VerifyCa, Some(roots)) => tls::Check::Chain(roots),
        (Mode::VerifyFull, Some(roots)) => tls::Check::Full(roots),
    };
    let certificate = extra.sslcert.clone().or_else(|| standard("postgresql.crt"));
    let key = extra.sslkey.clone().or_else(|| standard("postgresql.key"));
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err("sslcert needs sslkey".to_owned()),
        (None, Some(_)) if extra.sslkey.is_none() => None,
        (None, Some(_)) => return Err("sslkey needs sslcert".to_owned()),
    };
    tls::connector(check, client)
}

/// Takes our parameters out of a URL's query.
fn strip_url(url: &str, extra: &mut Extra) -> Result<String, String> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok(url.to_owned());
    };
    if query.contains('@') && !base.contains('@') {
        return Err("a ? in the user or password is to be written %3F".to_owned());
    }
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| "a parameter after ? has no value".to_owned())?;
        let name = decode(name)?;
        if !is_name(&name) {
            return Err("what stands before a = after ? is no parameter's name".to_owned());
        }
        if !extra.take(&name, &decode(value)?)? {
            kept.push(pair);
        }
    }
    Ok(if kept.is_empty() {
        base.to_owned()
    } else {
        format!("{base}?{}", kept.join("&"))
    })
}

/// Whether `text` can be a parameter's name. What cannot may be part of a mistyped URL, password included, and the driver would
/// repeat it.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
        let value = std::str::from_utf8(&digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(value.ok_or_else(|| "a % in the URL is not followed by two hexadecimal digits".to_owned())?);
    }
    String::from_utf8(bytes).map_err(|_| "a parameter of the URL is not UTF-8".to_owned())
}

/// Takes our parameters out of `key=value` pairs (PostgreSQL manual, 34.1.1.1: quotes and backslashes).
fn strip_pairs(text: &str, extra: &mut Extra) -> Result<String, String> {
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest
            .split_once('=')
            .filter(|(name, _)| is_name(name.trim()))
            .ok_or_else(|| {
                "is neither a URL (postgres://user@host:5432/database) nor a list of key=value pairs".to_owned()
            })?;
        let (value, after) = pair_value(after.trim_start())?;
        if !extra.take(name.trim(), &value)? {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{}='{quoted}' ", name.trim()));
        }
        rest = after.trim_start();
    }
    Ok(kept)
}

fn pair_value(text: &str) -> Result<(String, &str), String> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            char if !quoted && char.is_whitespace() => return Ok((value, &text[at..])),
            char => value.push(char),
        }
    }
    if quoted {
        Err("a quoted value has no closing quote".to_owned())
    } else {
        Ok((value, ""))
    }
}

impl Extra {
    /// Whether `name` is ours; then it is kept here. An empty value counts as not given, as in libpq.
    ///
    /// # Errors
    /// A URL where a file's name is expected: what is said of a file names it, and the URL may have a password.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let is_file = matches!(name, "sslrootcert" | "sslcert" | "sslkey" | "passfile");
        if is_file && value.contains("://") {
            return Err(format!("{name} is the name of a file, not a URL"));
        }
        let text = (!value.is_empty()).then(|| value.to_owned());
        match name {
            "sslmode" => self.sslmode = text,
            "sslrootcert" => self.sslrootcert = text,
            "sslcert" => self.sslcert = text.map(PathBuf::from),
            "sslkey" => self.sslkey = text.map(PathBuf::from),
            "passfile" => self.passfile = text.map(PathBuf::from),
            // Ours is outboxd/<instance>/<role>, and operators search for it.
            "application_name" | "fallback_application_name" => {}
            // Compression was removed from PostgreSQL; old URLs still carry it.
            "sslcompression" | "gssencmode" | "client_encoding" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The password of the first host that the password file knows (PostgreSQL manual, 34.16).
fn password_from_file(config: &Config, file: Option<&Path>, home: Option<&Path>) -> Result<Option<String>, String> {
    let standard = home.map(|home| home.join(".pgpass"));
    let text = match (file, standard) {
        (Some(file), _) => std::fs::read_to_string(file)
            .map_err(|error| format!("passfile: cannot read {}: {error}", file.display()))?,
        (None, Some(standard)) => match std::fs::read_to_string(standard) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    let ports = config.get_ports();
    for (index, host) in config.get_hosts().iter().enumerate() {
        let host = match host {
            Host::Tcp(name) => name.as_str(),
            Host::Unix(_) => "localhost",
        };
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432).to_string();
        let wanted = [host, &port, database, user];
        if let Some(password) = text.lines().find_map(|line| matching_password(line, &wanted)) {
            return Ok(Some(password));
        }
    }
    Ok(None)
}

/// `host:port:database:user:password`, each `*` or with `\:` and `\\` escaped.
fn matching_password(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => fields.last_mut()?.extend(chars.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            char => fields.last_mut()?.push(char),
        }
    }
    let password = fields.pop()?;
    let matches = fields.len() == 4
        && fields
            .iter()
            .zip(wanted)
            .all(|(field, wanted)| field == "*" || field == wanted);
    matches.then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        parse_at(url, None)
            .unwrap_or_else(|error| panic!("{url}: {error}"))
            .config
    }

    #[test]
    fn sslmode_becomes_what_the_driver_knows() {
        for (parameters, mode) in [
            ("", SslMode::Prefer),
            ("?sslmode=allow", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=require&application_name=x", SslMode::Require),
            (
                "?sslmode=verify-full&sslrootcert=system&connect_timeout=3",
                SslMode::Require,
            ),
            ("?ssl%6dode=verify-full&sslrootcert=system", SslMode::Require),
        ] {
            let config = config(&format!("postgresql://u:p%40w@h1:1,h2:2/db{parameters}"));
            assert_eq!(config.get_ssl_mode(), mode, "{parameters}");
            assert_eq!(config.get_password(), Some(&b"p@w"[..]));
            assert_eq!((config.get_hosts().len(), config.get_ports()), (2, &[1, 2][..]));
            assert_eq!(config.get_application_name(), None);
        }
        let pairs = config("host=h user=u password='a b\\'c\\\\' dbname=db sslmode='verify-full' sslrootcert=system");
        assert_eq!(
            (pairs.get_ssl_mode(), pairs.get_password()),
            (SslMode::Require, Some(&b"a b'c\\"[..]))
        );
        let attrs = config("postgres://h/db?target_session_attrs=read-write");
        assert_eq!(
            attrs.get_target_session_attrs(),
            tokio_postgres::config::TargetSessionAttrs::ReadWrite
        );
    }

    #[test]
    fn unix_sockets_are_never_encrypted_and_addresses_are_names() {
        assert_eq!(
            config("host=/run/postgresql sslmode=require user=u").get_ssl_mode(),
            SslMode::Disable
        );
        let config = config("hostaddr=127.0.0.1 user=u");
        assert_eq!(config.get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, part) in [
            ("postgres://u:secret@h/db?sslmode=strict", "sslmode \"strict\""),
            ("postgres://u:secret@h/db?sslmode=verify-ca", "sslrootcert=FILE"),
            (
                "postgres://u:secret@h/db?sslmode=require&sslrootcert=system",
                "verify-full",
            ),
            (
                "postgres://u:secret@h/db?sslmode=verify-full&sslrootcert=/nonexistent/ca",
                "/nonexistent/ca",
            ),
            (
                "postgres://u:secret@h/db?sslmode=require&sslcert=/nonexistent/c",
                "needs sslkey",
            ),
            ("postgres://u:secret@h/db?sslkey=/nonexistent/k", "needs sslcert"),
            ("postgres://u:secret@h/db?nonsense=1", "nonsense"),
            ("postgres://u:secret@h/db?sslmode", "no value"),
            ("postgres://u:secret@h/db?sslmode=%zz", "hexadecimal"),
            ("postgres://u:secret@h/db?passfile=/nonexistent/p", ""),
            ("postgres:///db", "no host"),
            ("secret", "neither"),
            ("host=h password='secret", "closing quote"),
        ] {
            match parse_at(url, None) {
                Err(error) => assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}"),
                Ok(_) => assert!(part.is_empty(), "{url}"),
            }
        }
        assert!(
            parse_at("postgres://u@h/db?passfile=/nonexistent/p", None)
                .unwrap_err()
                .contains("passfile")
        );
        let shown = format!("{:?}", parse_at("postgres://u:secret@h/db", None).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn passwords_come_from_the_password_file() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".pgpass");
        std::fs::write(
            &file,
            "# h:*:*:*:no\nh:5432:other:u:no\nh2:*:db:u:p\\:w\\\\x:y\n*:*:*:v:any\n",
        )
        .unwrap();
        let password = |url: &str| {
            parse_at(url, Some(home.path()))
                .unwrap()
                .config
                .get_password()
                .map(<[u8]>::to_vec)
        };
        assert_eq!(password("postgres://u@h,h2/db"), Some(b"p:w\\x:y".to_vec()));
        assert_eq!(password("postgres://v@h/db"), Some(b"any".to_vec()));
        assert_eq!(password("postgres://u@h/db"), None);
        assert_eq!(password("postgres://v:own@h/db"), Some(b"own".to_vec()));
        let named = format!("host=h2 user=u dbname=db passfile={}", file.display());
        assert_eq!(
            parse_at(&named, None).unwrap().config.get_password(),
            Some(&b"p:w\\x:y"[..])
        );
    }
}
