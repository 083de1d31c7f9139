//! Reading: the file, the environment over it, and one line for whatever cannot be read.
//!
//! The `config` crate merges both and types the result; this module knows its errors and turns each into the key (or the
//! environment variable) at fault. Paths under a key that ends in `_file` are relative to the file's directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use config::{Environment, File, FileFormat, Value, ValueKind};

use super::raw::Raw;
use super::{ConfigError, DEFAULT_PATH, Fingerprint};

/// Every variable that begins with this sets a key: `OUTBOXD__DATABASE__URL` is `database.url`.
const PREFIX: &str = "OUTBOXD__";

/// The environment's part: variables that set keys, by name. Values may be secret.
pub(super) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Picks our variables. An empty value counts as unset.
    pub(super) fn pick(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut picked = BTreeMap::new();
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|name| has_prefix(name)) else {
                continue;
            };
            let problem = |problem: &str| ConfigError::Value {
                key: name.to_owned(),
                problem: problem.to_owned(),
            };
            let value = value.into_string().map_err(|_| problem("the value is not UTF-8"))?;
            if name
                .split("__")
                .any(|part| part.len() > 3 && part.bytes().all(|byte| byte.is_ascii_digit()))
            {
                return Err(problem("the index is too large: routes are numbered from 0 to 999"));
            }
            if !value.is_empty() {
                picked.insert(name.to_owned(), value);
            }
        }
        Ok(Self(picked))
    }

    /// The variable that sets `key`, if one does.
    pub(super) fn name_of(&self, key: &str) -> Option<&str> {
        self.0.keys().map(String::as_str).find(|name| self::key(name) == key)
    }

    fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(name, _)| keep(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    }

    /// As the `config` crate wants it. `try_parsing` stays off: it would turn the password `007` into 7.
    fn source(&self) -> Environment {
        let map = self
            .0
            .iter()
            .map(|(name, value)| (indexed(name), value.clone()))
            .collect();
        Environment::with_prefix("OUTBOXD")
            .prefix_separator("__")
            .separator("__")
            .source(Some(map))
    }
}

fn has_prefix(name: &str) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// `OUTBOXD__ROUTES__0__TOPIC` is written `...ROUTES[0]__TOPIC` for the `config` crate.
fn indexed(name: &str) -> String {
    let mut parts = name.split("__");
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            written.push_str(&format!("[{part}]"));
        } else {
            written.push_str("__");
            written.push_str(part);
        }
    }
    written
}

fn key(name: &str) -> String {
    indexed(&name[PREFIX.len()..]).to_lowercase().replace("__", ".")
}

/// The `config` crate says `routes[0]rate` where one writes `routes[0].rate`.
fn dotted(key: &str) -> String {
    let mut written = String::with_capacity(key.len() + 1);
    let mut after_index = false;
    for c in key.chars() {
        if after_index && !matches!(c, '.' | '[') {
            written.push('.');
        }
        after_index = c == ']';
        written.push(c);
    }
    written
}

/// Reads `path` and the environment over it.
pub(super) fn read(path: &Path, variables: &Variables) -> Result<Raw, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && path == Path::new(DEFAULT_PATH)
                && (variables
                    .name_of("database.url")
                    .or(variables.name_of("database.url_file")))
                .is_some() =>
        {
            String::new()
        }
        Err(source) => {
            return Err(ConfigError::Read {
                what: "--config".to_owned(),
                path: path.to_owned(),
                source,
            });
        }
    };
    parse(&text, path, variables)
}

/// Reads `text` as if it stood in the file `path`.
pub(super) fn parse(text: &str, path: &Path, variables: &Variables) -> Result<Raw, ConfigError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let failed = match merge(text, directory, variables) {
        Ok(raw) => return Ok(raw),
        Err(error) => error,
    };
    let fault = Fault::new(&failed);
    let to_blame = blame(text, directory, variables, &failed.to_string());
    Err(match (to_blame, fault.key) {
        (Some(name), _) => ConfigError::Value {
            key: name,
            problem: fault.problem,
        },
        (None, Some(key)) => ConfigError::Value {
            key: dotted(&key),
            problem: fault.problem,
        },
        (None, None) => ConfigError::Value {
            key: path.display().to_string(),
            problem: fault.problem,
        },
    })
}

fn merge(text: &str, directory: &Path, variables: &Variables) -> Result<Raw, config::ConfigError> {
    let merged = config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(variables.source())
        .build()?;
    let mut value: Value = merged.try_deserialize()?;
    anchor(&mut value, directory);
    let fingerprints = fingerprints(&value);
    let mut raw: Raw = value.try_deserialize()?;
    raw.fingerprints = fingerprints;
    Ok(raw)
}

/// Of each transport's section.
fn fingerprints(whole: &Value) -> BTreeMap<String, Fingerprint> {
    let ValueKind::Table(sections) = &whole.kind else {
        return BTreeMap::new();
    };
    let Some(ValueKind::Table(transports)) = sections.get("transports").map(|section| &section.kind) else {
        return BTreeMap::new();
    };
    let of = |(name, section): (&String, &Value)| (name.clone(), Fingerprint::of(section));
    transports.iter().map(of).collect()
}

/// Makes relative paths under `*_file` keys relative to `directory`.
fn anchor(value: &mut Value, directory: &Path) {
    if let ValueKind::Array(list) = &mut value.kind {
        list.iter_mut().for_each(|child| anchor(child, directory));
    } else if let ValueKind::Table(table) = &mut value.kind {
        for (key, child) in table.iter_mut() {
            anchor(child, directory);
            if let ValueKind::String(path) = &mut child.kind
                && key.ends_with("_file")
                && !path.is_empty()
            {
                *path = directory.join(&*path).to_string_lossy().into_owned();
            }
        }
    }
}

/// The variable without which everything could be read, or the first that makes matters worse than the file alone.
fn blame(text: &str, directory: &Path, variables: &Variables, failure: &str) -> Option<String> {
    let error = |keep: &dyn Fn(&str) -> bool| {
        merge(text, directory, &variables.only(keep))
            .err()
            .map(|e| e.to_string())
    };
    let names = || variables.0.keys();
    if let Some(name) = names().find(|name| error(&|other| other != name.as_str()).is_none()) {
        return Some(name.clone());
    }
    let alone = error(&|_| false);
    names()
        .find(|name| {
            let with = error(&|other| other == name.as_str());
            with != alone && with.as_deref() == Some(failure)
        })
        .cloned()
}

/// An error of the `config` crate as key and words, on one line, without the origin it cannot know.
struct Fault {
    key: Option<String>,
    problem: String,
}

impl Fault {
    fn new(error: &config::ConfigError) -> Self {
        use config::ConfigError as E;
        match error {
            E::At { error, key, .. } => Self::new(error).under(key.as_deref()),
            E::Type {
                unexpected,
                expected,
                key,
                ..
            } => Self {
                key: key.clone(),
                problem: format!("found {}, expected {expected}", without_secret(&unexpected.to_string())),
            },
            E::NotFound(key) => Self {
                key: Some(key.clone()),
                problem: "is required".to_owned(),
            },
            E::FileParse { cause, .. } => Self {
                key: None,
                problem: syntax(&cause.to_string()),
            },
            E::Frozen | E::PathParse { .. } | E::Message(_) | E::Foreign(_) | _ => Self::words(&error.to_string()),
        }
    }

    /// serde's words for a key it does not know hold the key's name.
    fn words(text: &str) -> Self {
        let text = one_line(text);
        let Some((name, rest)) = text
            .strip_prefix("unknown field `")
            .and_then(|rest| rest.split_once('`'))
        else {
            return Self {
                key: None,
                problem: text,
            };
        };
        let known = rest
            .trim_start_matches(", expected one of ")
            .trim_start_matches(", expected ")
            .replace('`', "");
        Self {
            key: Some(name.to_owned()),
            problem: format!("unknown key; known here: {known}"),
        }
    }

    fn under(self, parent: Option<&str>) -> Self {
        let key = match (parent.filter(|parent| !parent.is_empty()), self.key) {
            (Some(parent), Some(key)) if !key.starts_with(parent) => Some(format!("{parent}.{key}")),
            (Some(parent), None) => Some(parent.to_owned()),
            (_, key) => key,
        };
        Self {
            key,
            problem: self.problem,
        }
    }
}

/// A TOML error quotes the line it means, which may hold a secret: keep the place and the reason.
fn syntax(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or("not TOML").trim();
    match lines.next_back().map(str::trim) {
        Some(reason) if !reason.starts_with('|') => {
            format!("{}: {reason}", first.replace("TOML parse error", "not TOML"))
        }
        _ => first.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    without_secret(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A URL in the wrong place may hold a password.
fn without_secret(text: &str) -> String {
    if text.contains("://") {
        "a text that looks like a URL".to_owned()
    } else {
        text.to_owned()
    }
}
