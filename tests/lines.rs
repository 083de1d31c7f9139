//! Failed messages as JSON Lines, and back: `failed export`, `enqueue --lines`.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::command::{Site, finish};
use crate::support::daemon::BINARY;

/// What of a message must survive, in order.
const MESSAGES: &str = "select string_agg(row_to_json(r)::text, E'\\n' order by r.seq - first) from (
    select m.seq, min(m.seq) over () as first, id, topic, key, headers, payload, priority, max_attempts, replay
    from outbox_messages m) r";

/// As [`MESSAGES`], without the numbers.
fn messages(site: &Site) -> String {
    site.one(&format!(
        "select regexp_replace(all_of_them, '\"(seq|first)\":[0-9]+,', '', 'g') from ({MESSAGES}) as all_rows (all_of_them)"
    ))
}

/// Exports everything failed, discards it and inserts it again; answers the lines.
fn there_and_back(site: &Site) -> String {
    let before = messages(site);
    let lines = site.call(&["failed", "export"]).done().to_owned();
    site.call(&["failed", "discard", "--all"]).done();
    let count = lines.lines().count();
    assert_eq!(
        site.call_with(&["enqueue", "--lines"], lines.as_bytes()).done(),
        format!("inserted {count} messages\n")
    );
    assert_eq!(messages(site), before);
    let pending = "select count(*) from outbox_messages where failed_at is null and attempt = 1 and last_error is null";
    assert_eq!(site.one(pending), count.to_string());
    lines
}

#[test]
fn failed_messages_survive_export_discard_and_enqueue() {
    let site = Site::migrated();
    site.fail(3);
    site.one(
        r#"update outbox_messages set payload = '{"n": 12345678901234567890.10, "text": "ä\n\"\\"}' where seq = 1;
           update outbox_messages set key = '', headers = '{"deep": {"n": 1.50}, "h": "x"}', priority = 3, max_attempts = 9 where seq = 2;
           update outbox_messages set key = null, replay = 2, payload = 'null' where seq = 3"#,
    );
    let lines = there_and_back(&site);
    assert!(lines.contains("12345678901234567890.10"), "{lines}");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["topic"], &first["last_error"]),
        (&"orders.1".into(), &"no route".into())
    );
    assert!(first["failed_at"].is_string() && first["seq"] == 1, "{first}");
    let audit = "select count, who <> '' from outboxd_audit where action = 'enqueue'";
    assert_eq!(site.one(audit), "3|t");
}

#[test]
fn bytes_survive_that_json_cannot_say() {
    for (kind, payloads) in [
        ("bytea", ["'\\xff00'", "'plain'", "''"]),
        ("text", ["E'two\\nlines'", "'\"quoted\"'", "''"]),
        ("json", ["E' {\\n\"a\": 1.00}'", "'{\"a\":1,\"a\":2}'", "'null'"]),
    ] {
        let site = Site::empty();
        site.call(&["migrate", "--payload-type", kind]).done();
        for payload in payloads {
            site.one(&format!(
                "insert into outbox_messages (topic, payload, failed_at, last_error, attempt) values ('t', {payload}, now(), 'no', 2)"
            ));
        }
        let lines = there_and_back(&site);
        assert_eq!(lines.lines().count(), 3, "{kind}: {lines}");
        assert_eq!(lines.contains("payload_base64"), kind != "text", "{kind}: {lines}");
    }
}

#[test]
fn filters_choose_what_is_exported() {
    let site = Site::migrated();
    site.fail(30);
    let seqs = |args: &[&str]| -> Vec<i64> {
        let called = site.call(&[&["failed", "export"], args].concat());
        let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap();
        called.done().lines().map(seq).collect()
    };
    assert_eq!(seqs(&[]), (1..=30).collect::<Vec<_>>());
    assert_eq!(seqs(&["--topic", "orders.0", "--error", "10054"]), [6, 12, 18, 24, 30]);
    assert_eq!(seqs(&["7", "--id", "3"]), [3, 7]);
    assert!(site.call(&["failed", "export", "999"]).refused(1).contains("999"));
}

/// 400 MB of payloads, which compress well, by a program that may not have as much memory.
#[test]
fn an_export_takes_constant_memory() {
    let site = Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, failed_at, last_error)
         select 't', to_jsonb(repeat('outbox', 35000)), now(), 'no' from generate_series(1, 2000)",
    );
    let shell = format!("ulimit -v 300000; {BINARY} failed export | wc -lc");
    let mut command = Command::new("sh");
    command
        .args(["-c", &shell])
        .env("OUTBOXD_CONFIG", site.file())
        .stdin(Stdio::null());
    let called = finish(command.output().unwrap());
    let counts: Vec<u64> = called
        .done()
        .split_whitespace()
        .map(|text| text.parse().unwrap())
        .collect();
    assert!(counts[0] == 2000 && counts[1] > 420_000_000, "{counts:?}");
}

#[test]
fn lines_are_inserted_in_order_and_a_thousand_at_a_time() {
    let site = Site::migrated();
    let lines: String = (1..=2500)
        .map(|n| format!("{{\"topic\": \"t\", \"key\": \"k\", \"payload\": {n}}}\n"))
        .collect();
    assert_eq!(
        site.call_with(&["enqueue", "--lines", "--at", "1h"], lines.trim_end().as_bytes())
            .done(),
        "inserted 2,500 messages\n"
    );
    let order = "select bool_and(payload = to_jsonb(seq)), bool_and(available_at > now() + interval '59 min') from outbox_messages";
    assert_eq!(site.one(order), "t|t");
    let audit =
        "select count(*), sum(count), max(count), count(distinct command) from outboxd_audit where action = 'enqueue'";
    assert_eq!(site.one(audit), "3|2500|1000|1");
    assert_eq!(
        site.call_with(&["enqueue", "--lines"], b"\n").done(),
        "inserted 0 messages\n"
    );
}

#[test]
fn a_line_that_is_wrong_is_named_and_ends_it() {
    for (wrong, what) in [
        (
            "{\"topic\": \"t\", \"payload\": 1, \"colour\": 2}",
            "unknown field `colour`",
        ),
        ("{\"topic\": \"t\"", "EOF"),
        (
            "{\"topic\": \"t\", \"payload\": \"\\u0000\"}",
            "the outbox (payload jsonb) refuses it",
        ),
        (
            "{\"topic\": \"t\", \"payload\": 1, \"headers\": 7}",
            "headers must be an object",
        ),
    ] {
        let site = Site::migrated();
        let good = "{\"topic\": \"t\", \"payload\": 1}\n";
        let lines = format!("{good}\n{good}{wrong}\n{good}");
        let called = site.call_with(&["enqueue", "--lines"], lines.as_bytes());
        let line = called.refused(1);
        assert!(
            line.starts_with("outboxd: line 4: 2 messages inserted before it, none after it: ") && line.contains(what),
            "{line}"
        );
        assert_eq!(site.one("select count(*) from outbox_messages"), "2", "{what}");
    }
    let site = Site::migrated();
    assert_eq!(site.call_with(&["enqueue", "t", "--lines"], b"").code, 64);
    assert_eq!(site.call_with(&["enqueue", "--lines", "--key", "k"], b"").code, 64);
}

#[test]
fn a_message_by_hand_is_in_the_audit() {
    let site = Site::migrated();
    let id = site.call_with(&["enqueue", "orders"], b"1").done().trim().to_owned();
    let audit = "select count, filter ->> 'topic', filter -> 'ids' ->> 0, who <> '' from outboxd_audit where action = 'enqueue'";
    assert_eq!(site.one(audit), format!("1|orders|{id}|t"));
}
