//! Each rule shown both ways: what passes, and what it finds.

use super::circles::circles;
use super::source::{KINDS, Source};

fn findings(path: &str, text: &str) -> Vec<String> {
    super::findings(&Source::parse(path, text).expect("the snippet parses"))
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(findings(path, text), Vec::<String>::new());
}

#[track_caller]
fn assert_finds(path: &str, text: &str, words: &str) {
    let found = findings(path, text);
    assert!(
        found.len() == 1 && found[0].contains(words),
        "expected one finding with {words:?}, got {found:?}"
    );
}

#[test]
fn edges() {
    assert_clean(
        "src/relay/reading.rs",
        "use crate::store::{Room, Store}; use crate::transport::Transport;",
    );
    assert_clean("src/relay/lanes.rs", "use super::settler::Settler;");
    assert_clean(
        "src/store/postgres/outbox/feed.rs",
        "use super::rows::Topics; use crate::store::StoreError; use crate::store::postgres::link::sql::Names;",
    );
    assert_clean(
        "src/daemon/mod.rs",
        "use crate::store::postgres::outbox::PostgresStore; use crate::transport::nats::Nats;",
    );
    assert_clean("src/config/mod.rs", "use crate::transport::kafka::config::KafkaConfig;");
    assert_finds(
        "src/relay/reading.rs",
        "use crate::store::postgres::outbox::PostgresStore;",
        "not the adapter",
    );
    assert_finds(
        "src/relay/reading.rs",
        "use crate::store::{Room, postgres::sql};",
        "not the adapter",
    );
    assert_finds(
        "src/relay/reading.rs",
        "use crate::config::Config;",
        "must not import config",
    );
    assert_finds(
        "src/store/postgres/outbox/feed.rs",
        "use crate::relay::Relay;",
        "must not import relay",
    );
    assert_finds(
        "src/store/postgres/outbox/feed.rs",
        "use crate::config::Config;",
        "must not import config",
    );
    assert_finds(
        "src/transport/nats/mod.rs",
        "use crate::transport::kafka::x;",
        "adapter transport::kafka",
    );
    assert_finds(
        "src/transport/nats/mod.rs",
        "use super::kafka::x;",
        "adapter transport::kafka",
    );
    assert_finds(
        "src/store/mod.rs",
        "use postgres_is_fine::x; use crate::store::postgres::link;",
        "names its adapter",
    );
    assert_finds(
        "src/config/mod.rs",
        "use crate::transport::kafka::Kafka;",
        "must not import transport::kafka::Kafka",
    );
    assert_finds("src/message.rs", "use crate::delivery::Outcome;", "must not import");
    assert_finds("src/backoff.rs", "fn f() { crate::message::x() }", "must not import");
    assert_finds(
        "src/delivery.rs",
        "fn f() { assert!(crate::route::x()) }",
        "must not import",
    );
}

#[test]
fn rooms_of_an_adapter() {
    let link = "use crate::store::postgres::link::database::Database;";
    let outbox = "use crate::store::postgres::outbox::PostgresStore;";
    let desk = "use crate::store::postgres::desk::status;";
    for room in ["outbox/feed", "schema/rights", "desk/status"] {
        assert_clean(&format!("src/store/postgres/{room}.rs"), link);
    }
    assert_clean("src/store/postgres/desk/status.rs", outbox);
    assert_finds("src/store/postgres/link/way.rs", outbox, "but not the adapter");
    assert_finds("src/store/postgres/schema/rights.rs", outbox, "but not the adapter");
    assert_finds("src/store/postgres/outbox/feed.rs", desk, "but not the adapter");
    assert_clean("src/cli/status.rs", desk);
    assert_clean("src/http/standing.rs", desk);
    for room in ["cli/status", "http/standing"] {
        assert_finds(&format!("src/{room}.rs"), outbox, "but not the adapter");
    }
}

#[test]
fn a_permission_that_nobody_needs() {
    let delivery = Source::parse("src/delivery.rs", "use crate::backoff::Backoff;").expect("parses");
    let found = super::imports::stale(&[delivery]);
    assert!(
        !found
            .iter()
            .any(|line| line.contains("delivery imports nothing of backoff"))
    );
    assert!(
        found
            .iter()
            .any(|line| line.contains("route imports nothing of delivery"))
    );
}

#[track_caller]
fn assert_circles(files: &[(&str, &str)], expected: &[&str]) {
    let parse = |(path, text): &(&str, &str)| Source::parse(path, text).expect("parses");
    let sources: Vec<Source> = files.iter().map(parse).collect();
    assert_eq!(circles(&sources), expected);
}

#[test]
fn circles_are_found_in_any_folder() {
    let one = ("src/store/a.rs", "use super::b::B;");
    assert_circles(&[one, ("src/store/b.rs", "use crate::message::Seq;")], &[]);
    assert_circles(
        &[one, ("src/store/b.rs", "\nfn f() { crate::store::a::g() }")],
        &["src/store/b.rs:2: an import circle in store: a -> b -> a"],
    );
    assert_circles(
        &[
            one,
            ("src/store/b/mod.rs", "mod deep;"),
            ("src/store/b/deep.rs", "use super::super::c::C;"),
            ("src/store/c.rs", "use crate::store::a::A;"),
        ],
        &["src/store/c.rs:1: an import circle in store: a -> b -> c -> a"],
    );
    assert_circles(
        &[
            ("src/http/x.rs", "use crate::cli::Y;"),
            ("src/cli/y.rs", "use crate::http::X;"),
        ],
        &["src/http/x.rs:1: an import circle in src: cli -> http -> cli"],
    );
    assert_circles(
        &[
            one,
            ("src/store/b.rs", "#[cfg(test)] mod tests { use crate::store::a::A; }"),
        ],
        &[],
    );
}

#[test]
fn what_a_folder_passes_on_belongs_to_whoever_made_it() {
    let parts = [
        ("src/store/a.rs", "use super::{Shared, B};"),
        ("src/store/b.rs", "use super::A;"),
    ];
    let with = |door: &'static str| [("src/store/mod.rs", door), parts[0], parts[1]];
    assert_circles(&with("mod a; mod b; pub struct Shared; pub use b::B; struct A;"), &[]);
    assert_circles(
        &with("mod a; mod b; pub struct Shared; pub use b::B; use self::a::A;"),
        &["src/store/b.rs:1: an import circle in store: a -> b -> a"],
    );
}

#[test]
fn every_folder_of_transport_is_a_kind() {
    assert!(KINDS.len() > 3, "{KINDS:?}");
    for kind in KINDS.iter() {
        let (inside, other) = (format!("src/transport/{kind}/x.rs"), format!("transport::{kind}"));
        assert_clean(&inside, "use super::y; use crate::transport::chain::Ledger;");
        assert_finds(&inside, "use crate::relay::Relay;", "must not import relay");
        assert_finds(&inside, "use crate::config::Config;", "must not import config");
        assert_finds(
            "src/transport/x.rs",
            &format!("use super::{kind}::y;"),
            &format!("a port and names its adapter {other}"),
        );
        assert_clean("src/config/x.rs", &format!("use crate::{other}::config::X;"));
        assert_finds("src/config/x.rs", &format!("use crate::{other}::X;"), "must not import");
    }
    assert_finds(
        "src/transport/kafka/x.rs",
        "use percent_encoding::y;",
        "whose home is transport::nats",
    );
}

#[test]
fn tests_may_import_anything() {
    assert_clean(
        "src/message.rs",
        "#[cfg(test)] mod tests { use crate::relay::Relay; fn f() { x.unwrap() } }",
    );
    assert_finds(
        "src/message.rs",
        "#[cfg(not(test))] mod tests { use crate::relay::Relay; }",
        "must not import",
    );
    assert_finds(
        "src/message.rs",
        "#[cfg(feature = \"testing\")] use crate::relay::Relay;",
        "must not import",
    );
}

#[test]
fn crates_have_homes() {
    assert_clean("src/store/postgres/link/database.rs", "use tokio_postgres::Row;");
    assert_clean("src/transport/mod.rs", "pub mod redis;");
    assert_finds(
        "src/store/mod.rs",
        "use tokio_postgres::Row;",
        "whose home is store::postgres",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "use rdkafka::ClientConfig;",
        "whose home is transport::kafka",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "fn f() -> anyhow::Result<()> { Ok(()) }",
        "whose home is cli or daemon or main",
    );
    assert_finds(
        "src/delivery.rs",
        "async fn f() { tokio::time::sleep(d).await }",
        "is pure",
    );
    assert_clean("src/relay/lanes.rs", "async fn f() { tokio::time::sleep(d).await }");
}

#[test]
fn sql_lives_in_files() {
    assert_finds(
        "src/relay/lanes.rs",
        "const A: &str = \"select seq from outbox_messages\";",
        "SQL in a string",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "const A: &str = r#\"\n  UPDATE x\n SET y = 1\"#;",
        "SQL in a string",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "fn f() { run(format!(\"delete from {t}\")) }",
        "SQL in a string",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "fn f() { run(\"listen outboxd\") }",
        "SQL in a string",
    );
    assert_clean(
        "src/relay/lanes.rs",
        "/// select seq from x\nconst A: &str = \"cannot update the row: set a key\";",
    );
    assert_clean(
        "src/config/mod.rs",
        "const A: &str = \"select a transport with routes\";",
    );
    for elsewhere in [
        "-- all of them\\nselect seq from x",
        "(select count(*) from {lanes} l where l.owner = $4) = 1",
        "coalesce((select f() from x), 0)",
        "exists (select 1)",
        "begin; update x m set y = 1",
        "explain analyze delete from x",
        "lock it, with old as (select 1)",
    ] {
        let text = format!("const A: &str = \"{elsewhere}\";");
        assert_finds("src/relay/lanes.rs", &text, "SQL in a string");
    }
    for prose in [
        "end it, or: select pg_terminate_backend({pid})",
        "cannot listen on {address}",
        "relay.notify = false to say that polling is meant",
        "the update of it has set nothing",
    ] {
        assert_clean("src/relay/lanes.rs", &format!("const A: &str = \"{prose}\";"));
    }
    let advice = "const A: &str = \"alter table x set logged\";";
    assert_clean("src/store/postgres/desk/doctor/table.rs", advice);
    assert_finds("src/store/postgres/outbox/settle.rs", advice, "SQL in a string");
}

#[test]
fn what_must_not_be_left_behind() {
    assert_finds("src/relay/lanes.rs", "fn f() { x.unwrap(); }", "unwrap outside tests");
    assert_finds(
        "src/relay/lanes.rs",
        "fn f() { assert!(x.unwrap()); }",
        "unwrap outside tests",
    );
    assert_clean(
        "src/relay/lanes.rs",
        "fn f() { x.unwrap_or(1); x.unwrap_or_default(); }",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "#[allow(dead_code)] fn f() {}",
        "use expect with a reason",
    );
    assert_finds("src/relay/lanes.rs", "#![allow(dead_code)]", "use expect with a reason");
    assert_clean(
        "src/relay/lanes.rs",
        "#[expect(dead_code, reason = \"x\")] fn f() { allow(1) }",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "// TODO later\nfn f() {}",
        "do it or open an issue",
    );
    assert_finds(
        "src/relay/lanes.rs",
        "const A: &str = \"/home/me/x\";",
        "machine's path",
    );
}

#[test]
fn lengths_are_counted_without_tests() {
    let long = format!("fn f() {{\n{}}}", "    g();\n".repeat(69));
    assert_finds("src/relay/lanes.rs", &long, "function f has 71 lines");
    let fits = format!("fn f() {{\n{}}}", "    g();\n".repeat(68));
    assert_clean("src/relay/lanes.rs", &fits);
    let file = "const A: u8 = 1;\n".repeat(401);
    assert_finds("src/relay/lanes.rs", &file, "401 lines outside tests");
    let tested = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        "const A: u8 = 1;\n".repeat(400),
        "const B: u8 = 1;\n".repeat(99)
    );
    assert_clean("src/relay/lanes.rs", &tested);
}
