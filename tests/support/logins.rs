//! Who the program logs in as: the daemon as a member of `outboxd_relay`, people's commands as one of `outboxd_operator`,
//! and only what makes tables and roles as their owner.
//!
//! A configuration file names the owner; the environment puts the login in its place.

use std::path::Path;
use std::process::Command;

/// The tables' owner, as configuration files name it.
const OWNER: &str = "postgres://postgres@";
/// Logins every cluster has; each is a member of the group it is named after.
pub(crate) const LOGINS: [(&str, &str); 3] = [
    ("tests_writer", "outboxd_writer"),
    ("tests_relay", "outboxd_relay"),
    ("tests_operator", "outboxd_operator"),
];

/// SQL that makes the logins and their groups, one statement a line.
pub(crate) fn creation() -> String {
    let made = |(login, group): &(&str, &str)| {
        format!("create role {group} nologin;\ncreate role {login} login in role {group};\n")
    };
    LOGINS.iter().map(made).collect()
}

/// The login `verb` deserves; `None`: the owner.
fn login_of(verb: &str) -> Option<&'static str> {
    match verb {
        "migrate" | "roles" => None,
        "run" | "check" => Some("tests_relay"),
        _people => Some("tests_operator"),
    }
}

/// Has `command`, which calls the program with `arguments`, log in as it should.
pub(crate) fn sign_in(command: &mut Command, config: &Path, arguments: &[&str]) {
    let verb = arguments.iter().find(|argument| !argument.starts_with('-'));
    let Some(login) = verb.and_then(|verb| login_of(verb)) else {
        return;
    };
    for (key, url) in urls(config) {
        command.env(
            format!("OUTBOXD__DATABASE__{}", key.to_uppercase()),
            as_login(&url, login),
        );
    }
}

/// The owner's `url` for another login.
pub(crate) fn as_login(url: &str, login: &str) -> String {
    url.replacen(OWNER, &format!("postgres://{login}@"), 1)
}

/// The URLs of the owner in a configuration file, by key.
pub(crate) fn urls(config: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    let url = |line: &str| {
        let (key, value) = line.split_once(" = ")?;
        let value = value.trim().trim_matches('"');
        value
            .starts_with(OWNER)
            .then(|| (key.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(url).collect()
}
