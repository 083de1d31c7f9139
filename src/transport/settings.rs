//! What transports are told: what every kind can be asked ([`Settings`]), and how a kind reads its section, values that may
//! arrive as text (from the environment) and secrets from files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use serde::de::{self, Deserializer, Visitor};

use super::{ConnectError, Transport};

/// The section of one kind of transport, as its folder reads it. Nobody else asks which kind it is.
#[async_trait]
pub trait Settings: Send + Sync {
    /// The kind's name, as in the file: `nats`.
    fn kind(&self) -> &'static str;

    /// Checks everything that can be checked without a server. `name` is the transport's.
    ///
    /// # Errors
    /// The first wrong key.
    fn validate(&self, name: &str) -> Result<(), ConnectError>;

    /// How long one publish may take at most; `None`: it waits for nobody.
    fn ack_timeout(&self) -> Option<Duration> {
        None
    }

    /// The same to be changed, while it is the default: a shorter lease shortens that, and only a value that was asked for can
    /// contradict the lease.
    fn default_ack_timeout(&mut self) -> Option<&mut Duration> {
        None
    }

    /// What stands before every destination.
    fn prefix(&self) -> &str {
        ""
    }

    /// Beginnings of destinations that are the broker's own.
    fn reserved(&self) -> &'static [&'static str] {
        &[]
    }

    /// The transport `name`. It connects by itself: a broker that is away is waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration.
    async fn connect(&self, name: &str) -> Result<Arc<dyn Transport>, ConnectError>;
}

/// A duration written as text: "250ms", "5s", "2min".
///
/// # Errors
/// What is wrong with the text.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"250ms\" or \"5s\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|error| E::custom(format!("{text:?} is no duration: {error}")))
        }
    }
    deserializer.deserialize_str(Text)
}

/// A number, or text that holds one.
///
/// # Errors
/// What is wrong with the value.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            text.parse()
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(Number)
}

/// Like [`number`], for a key that may be left out.
///
/// # Errors
/// What is wrong with the value.
pub fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    number(deserializer).map(Some)
}

/// A list of texts, or one text that holds them, separated by commas.
///
/// # Errors
/// What is wrong with the value.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct List;
    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text.split(',').map(|part| part.trim().to_owned()).collect())
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut texts: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(text) = texts.next_element()? {
                list.push(text);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_any(List)
}

/// `true` or `false`, or text that says so.
///
/// # Errors
/// What is wrong with the value.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }
        fn visit_bool<E: de::Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
            text.parse()
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(Flag)
}

/// A table of texts, any of which may be secret; numbers and booleans are taken as their text.
///
/// # Errors
/// What is wrong with a value.
pub fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let scalars = <BTreeMap<String, Scalar> as de::Deserialize>::deserialize(deserializer)?;
    let secret = |(key, Scalar(value)): (String, Scalar)| (key, value.into());
    Ok(scalars.into_iter().map(secret).collect())
}

struct Scalar(String);

impl<'de> de::Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, true or false")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The files of a transport's TLS keys.
#[derive(Clone, Copy, Debug)]
pub struct TlsFiles<'a> {
    /// `tls_ca_file`
    pub ca: Option<&'a Path>,
    /// `tls_cert_file`
    pub cert: Option<&'a Path>,
    /// `tls_key_file`
    pub key: Option<&'a Path>,
}

/// Makes a [`ConnectError`] for keys of one transport: `section` is its kind (`nats`).
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The transport's name.
    pub name: &'a str,
    /// Its kind, the last part of the section's name.
    pub kind: &'static str,
}

impl Section<'_> {
    /// `key` has `problem`.
    #[must_use]
    pub fn wrong(&self, key: &str, problem: impl fmt::Display) -> ConnectError {
        ConnectError {
            transport: self.name.to_owned(),
            key: format!("{}.{key}", self.kind),
            problem: problem.to_string().replace('\n', " "),
        }
    }

    /// The secret in the file at `path`, without the line end an editor adds.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8 or is empty; named by `key`.
    pub fn secret(&self, key: &str, path: &Path) -> Result<SecretString, ConnectError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| self.wrong(key, format!("cannot read {}: {error}", path.display())))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(self.wrong(key, format!("{} is empty", path.display())));
        }
        Ok(text.to_owned().into())
    }

    /// Checks what `tls_ca_file`, `tls_cert_file` and `tls_key_file` name: libraries that read it later say less clearly
    /// what is wrong with it, or trust nobody.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, certificate and key not given together; named by the key.
    pub fn check_tls(&self, files: &TlsFiles<'_>) -> Result<(), ConnectError> {
        if files.cert.is_some() != files.key.is_some() {
            let missing = if files.cert.is_some() {
                "tls_key_file"
            } else {
                "tls_cert_file"
            };
            return Err(self.wrong(missing, "tls_cert_file and tls_key_file go together: set both"));
        }
        for (key, path) in [("tls_ca_file", files.ca), ("tls_cert_file", files.cert)] {
            let Some(path) = path else { continue };
            let pem = self.read(key, path)?;
            if !matches!(CertificateDer::pem_slice_iter(&pem).next(), Some(Ok(_))) {
                return Err(self.wrong(key, format!("no certificate in {}: it is to be PEM", path.display())));
            }
        }
        if let Some(path) = files.key {
            let pem = self.read("tls_key_file", path)?;
            if PrivateKeyDer::from_pem_slice(&pem).is_err() {
                let problem = format!("no unencrypted key in {}: it is to be PEM", path.display());
                return Err(self.wrong("tls_key_file", problem));
            }
        }
        Ok(())
    }

    /// The content of the file at `path`.
    ///
    /// # Errors
    /// It cannot be read; named by `key`.
    pub fn read(&self, key: &str, path: &Path) -> Result<Vec<u8>, ConnectError> {
        std::fs::read(path).map_err(|error| self.wrong(key, format!("cannot read {}: {error}", path.display())))
    }
}
