//! `[http]`: where to listen, the names that count as ours, the token's file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::bounds::{at_least, wrong};
use super::machine::{host_name, read_secret};
use super::{ConfigError, Http, Listen, raw};

pub(super) fn http(raw: raw::Http) -> Result<Http, ConfigError> {
    let token = raw.token_file.as_deref().map(http_token).transpose()?;
    let ready_max_age = at_least("http.ready_max_age", raw.ready_max_age, Duration::from_secs(1))?;
    Ok(Http {
        listen: listen(&raw.listen)?,
        hosts: hosts(raw.hosts)?,
        ready_max_age,
        token,
        token_file: raw.token_file,
        host_name: host_name(),
    })
}

/// The token in the file `http.token_file` names.
///
/// # Errors
/// When the file cannot be read or is empty.
pub fn http_token(path: &Path) -> Result<SecretString, ConfigError> {
    read_secret("http.token_file", path)
}

/// "" turns it off; so does "off", because an empty environment variable counts as unset.
fn listen(text: &str) -> Result<Listen, ConfigError> {
    let refuse = || {
        let accepted = "\"127.0.0.1:7117\", \"unix:/run/outboxd/http.sock\" or \"\" (off; \"off\" in the environment)";
        wrong(
            "http.listen",
            format!("{text:?} is not accepted: write it like {accepted}"),
        )
    };
    if text.is_empty() || text == "off" {
        return Ok(Listen::Off);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() && !path.ends_with("..") {
            Ok(Listen::Unix(path))
        } else {
            Err(refuse())
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let accepted = match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    let port = port.parse().map_err(|_| refuse())?;
    if accepted {
        Ok(Listen::Tcp {
            host: bare.unwrap_or(host).to_owned(),
            port,
        })
    } else {
        Err(refuse())
    }
}

/// As a `Host` header is compared: in lower case, without the dot that may end a name.
fn hosts(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let name = |text: String| {
        let name = text.strip_suffix('.').unwrap_or(&text);
        if is_name(name) {
            Ok(name.to_ascii_lowercase())
        } else {
            let accepted = "\"outboxd.example.org\", without scheme, port, path or wildcard";
            let problem = format!("{text:?} is no host name: write it like {accepted}");
            Err(wrong("http.hosts", problem))
        }
    };
    names.into_iter().map(name).collect()
}

/// A host name or an IPv4 address.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(fits)
}
