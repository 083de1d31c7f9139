//! The systemd units: alike but for names, and true to what the program does.

use std::path::Path;

fn unit(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let body = text.split_once("[Unit]").unwrap().1;
    body.lines().map(str::to_owned).collect()
}

/// `outboxd@NAME` is `outboxd` with another file: what is hardened in one is hardened in both.
#[test]
fn both_units_differ_in_names_only() {
    let named: Vec<String> = unit("outboxd@.service")
        .iter()
        .map(|line| line.replace(" (%i)", "").replace("/%i.toml", "/outboxd.toml"))
        .collect();
    assert_eq!(named, unit("outboxd.service"));
}

/// A clean stop has the time `relay.shutdown_timeout` promises, as `config.example.toml` says.
#[test]
fn a_stop_takes_longer_than_the_drain() {
    let seconds = |lines: &[String], start: &str, end: &str| -> u32 {
        let found = lines
            .iter()
            .find_map(|line| line.strip_prefix(start)?.strip_suffix(end));
        found.unwrap().parse().unwrap()
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let example: Vec<String> = std::fs::read_to_string(example)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let drain = seconds(&example, "#shutdown_timeout = \"", "s\"");
    assert!(seconds(&unit("outboxd.service"), "TimeoutStopSec=", "") > drain);
}

/// The path that the example shows for messages in a file is one that the service may write to.
#[test]
fn the_service_may_write_where_the_example_archives() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let (_, archive) = example.split_once("##[transports.archive.file]").unwrap();
    let path = archive
        .lines()
        .find_map(|line| line.strip_prefix("## path = \""))
        .unwrap();
    let unit = unit("outboxd.service");
    let directory = unit
        .iter()
        .find_map(|line| line.strip_prefix("StateDirectory="))
        .unwrap();
    assert!(path.starts_with(&format!("/var/lib/{directory}/")), "{path}");
}
