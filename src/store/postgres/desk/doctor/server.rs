//! The server, its sessions and its replication slots.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::Examination;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::sql::quote_identifier;

/// Clocks may differ by this much, seconds.
const SKEW_MAX: f64 = 1.0;
/// A transaction may be open for this long, seconds.
const OPEN_MAX: f64 = 60.0;
/// A snapshot may lag by this many transactions.
const BEHIND_MAX: i64 = 50_000;
/// A slot nobody reads may keep this much WAL, bytes.
const HELD_MAX: i64 = 256 << 20;

pub(super) async fn look(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_server.sql");
    let before = (examination.clock)();
    let rows = examination.query(file, &[], &[]).await?;
    let after = (examination.clock)();
    let row = rows.first().expect("the current database and role exist");
    let is = |column: &str| row.get::<_, bool>(column);
    let mut found = Vec::new();
    if is("standby") || is("read_only") {
        let what = if is("standby") {
            "is a standby"
        } else {
            "takes no writes: transactions are read-only"
        };
        let fix = if is("standby") {
            "point database.url at the primary, or name all servers with ?target_session_attrs=read-write".to_owned()
        } else {
            format!(
                "alter database {} reset default_transaction_read_only",
                quote_identifier(row.get("database"))
            )
        };
        let why = "no lease can be taken and no mark be written: nothing is relayed";
        found.push(Finding::fault("read_only", format!("the server {what}"), why, fix));
    }
    found.extend(skew(before.as_secs_f64(), row.get("clock"), after.as_secs_f64()));
    if !is("autovacuum") {
        found.push(Finding::warning(
            "autovacuum_off",
            "autovacuum is switched off on the server",
            "every mark leaves a dead row: the table and its indexes swell, and reads slow down",
            "alter system set autovacuum = on; alter system set track_counts = on; select pg_reload_conf()",
        ));
    }
    if !is("durable") {
        found.push(Finding::warning(
            "durability_off",
            "fsync or full_page_writes is off on the server",
            "committed messages can be lost, and the database be damaged, when the machine goes down",
            "alter system set fsync = on; alter system set full_page_writes = on; select pg_reload_conf()",
        ));
    }
    if is("wake_silent") && examination.listen.is_some() {
        found.push(Finding::warning(
            "wake_silent",
            "max_prepared_transactions is above 0, so the wake trigger is silent",
            "a transaction that has notified cannot be prepared; messages wait for the next poll",
            format!(
                "alter database {} set outboxd.wake = on, unless messages are written in prepared transactions",
                quote_identifier(row.get("database"))
            ),
        ));
    }
    found.extend(connections(row, i64::from(examination.connections)));
    Ok(found)
}

fn skew(before: f64, server: f64, after: f64) -> Option<Finding> {
    let ahead = if server > after {
        server - after
    } else {
        server - before
    };
    if (before..=after).contains(&server) || ahead.abs() <= SKEW_MAX {
        return None;
    }
    let (by, direction) = (ahead.abs(), if ahead > 0.0 { "ahead of" } else { "behind" });
    Some(Finding::warning(
        "clock_skew",
        format!("the server's clock is {by:.1} s {direction} this machine's"),
        "times in the outbox are the server's: available_at given by an application with another clock comes early or late",
        "let both follow the same time server: timedatectl set-ntp true",
    ))
}

/// Room for the daemon's connections under each limit.
fn connections(row: &Row, needed: i64) -> Option<Finding> {
    let role: &str = row.get("role");
    let limits = [
        (
            "max_connections",
            "connections_max",
            "connections",
            "raise max_connections".to_owned(),
        ),
        (
            "the database's connection limit",
            "database_max",
            "database_connections",
            format!(
                "alter database {} connection limit -1",
                quote_identifier(row.get("database"))
            ),
        ),
        (
            "the role's connection limit",
            "role_max",
            "role_connections",
            format!("alter role {} connection limit -1", quote_identifier(role)),
        ),
    ];
    limits.into_iter().find_map(|(what, most, used, fix)| {
        let (most, used): (i64, i64) = (row.get(most), row.get(used));
        (most >= 0 && used + needed > most).then(|| {
            Finding::warning(
                "connections",
                format!("{used} connections are open, {what} is {most}, and a daemon takes up to {needed}"),
                "the daemon waits for connections, and so does the application",
                format!("{fix}, or lower database.pool_size"),
            )
        })
    })
}

pub(super) async fn sessions(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_sessions.sql");
    let types = const { &[Type::FLOAT8, Type::INT8] };
    let rows = examination.query(file, types, &[&OPEN_MAX, &BEHIND_MAX]).await?;
    Ok(rows.iter().map(session).collect())
}

fn session(row: &Row) -> Finding {
    const WHY: &str =
        "dead rows newer than its snapshot cannot be removed, and messages of commit_order routes and gaps wait for it";
    let (who, state): (String, String) = (row.get("who"), row.get("state"));
    let open_for = row.get::<_, Option<f64>>("open_for").unwrap_or_default();
    let behind = row.get::<_, Option<i64>>("behind").unwrap_or_default();
    let lasts = format!("open for {open_for:.0} s, {behind} transactions behind");
    if let Some(gid) = row.get::<_, Option<String>>("gid") {
        let what = format!("prepared transaction {gid:?} of {who} is {lasts}");
        let fix = format!("rollback prepared '{}', or commit prepared", gid.replace('\'', "''"));
        return Finding::warning("prepared_transaction", what, WHY, fix);
    }
    let pid: i32 = row.get("pid");
    let what = format!("a transaction of {who} (pid {pid}, {state}) is {lasts}");
    let end = format!("select pg_terminate_backend({pid})");
    if state.starts_with("idle in transaction") {
        let fix =
            format!("{end}; and for the next one: alter database ... set idle_in_transaction_session_timeout = '1min'");
        return Finding::warning("idle_in_transaction", what, WHY, fix);
    }
    Finding::warning("long_transaction", what, WHY, format!("let it end, or: {end}"))
}

pub(super) async fn slots(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_slots.sql");
    let rows = examination
        .query(file, const { &[Type::INT8, Type::INT8] }, &[&HELD_MAX, &BEHIND_MAX])
        .await?;
    Ok(rows.iter().map(slot).collect())
}

fn slot(row: &Row) -> Finding {
    let (name, active): (String, bool) = (row.get("name"), row.get("active"));
    let (held, behind): (i64, i64) = (row.get("held"), row.get("behind"));
    let quoted = name.replace('\'', "''");
    let state = if active { "active" } else { "not read by anybody" };
    if behind > BEHIND_MAX {
        return Finding::warning(
            "slot_snapshot",
            format!("replication slot {name} ({state}) keeps a snapshot {behind} transactions old"),
            "dead rows newer than that cannot be removed: the outbox swells",
            format!("let its reader catch up, or: select pg_drop_replication_slot('{quoted}')"),
        );
    }
    Finding::warning(
        "slot_wal",
        format!("replication slot {name} ({state}) keeps {} MB of WAL", held >> 20),
        "the server's disk fills up, and then nobody can write",
        format!("start its reader, or: select pg_drop_replication_slot('{quoted}')"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_only_by_more_than_the_round_trip_explains() {
        for (before, server, after, says) in [
            (100.0, 100.2, 100.4, None),
            (100.0, 109.0, 110.0, None),
            (100.0, 101.3, 100.4, None),
            (100.0, 102.4, 100.4, Some("2.0 s ahead of")),
            (100.0, 97.0, 100.4, Some("3.0 s behind")),
        ] {
            let found = skew(before, server, after).map(|finding| finding.what);
            assert_eq!(found.is_some(), says.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(says.unwrap_or_default()));
        }
    }
}
