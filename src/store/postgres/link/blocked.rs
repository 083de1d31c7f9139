//! A statement that gets no answer may be waiting for a lock that somebody else holds. That says nothing about the server: it is
//! found out, the holder is named, and nothing is thrown away.
//!
//! Found out on a connection of its own, made only while some statement has not answered for a second, and kept only while one
//! waits for a lock: which sessions with our `application_name` wait, and for whom (through a pooler that works too). Where
//! it cannot be had, silence is silence, as before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::sql::{Param, code};
use super::way::Way;
use crate::lock::lock;
use crate::trouble::LockWait;

const BLOCKED: &str = include_str!("../../../../sql/blocked.sql");

/// A statement that has not answered for so long is looked after, and again after as long while it waits for a lock; else ever more
/// rarely.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Making the connection and asking may take so long.
const ASKING_MAX: Duration = Duration::from_secs(1);
/// An answer is everybody's for so long.
const FRESH: Duration = Duration::from_millis(400);
/// The end of the name of the table that failed attempts are also written to.
pub(crate) const HISTORY: &str = ".outboxd_attempts";
/// PostgreSQL cuts names there.
const NAME_MAX: usize = 63;

/// What a session waits for.
#[derive(Clone)]
pub(crate) struct Wait {
    pub(crate) lock: LockWait,
    kind: String,
    relation: Option<String>,
}

impl Wait {
    fn is_for_history(&self) -> bool {
        self.relation
            .as_ref()
            .is_some_and(|relation| relation.ends_with(HISTORY))
    }

    /// Whether only some rows of the statement `text` can be to blame: what is waited for is neither one of its tables nor a row of
    /// those that every row of it needs. The history can be done without.
    pub(super) fn is_for_rows(&self, text: &str) -> bool {
        let plain = |name: &str| name.replace('"', "");
        if self.is_for_history() {
            return true;
        }
        match (self.kind.as_str(), &self.relation) {
            ("advisory", _) | ("tuple" | "transactionid", None) => true,
            ("tuple" | "transactionid", Some(relation)) => !plain(relation).contains(".outboxd_"),
            ("relation", Some(relation)) => !plain(text).contains(&plain(relation)),
            _ => false,
        }
    }
}

/// Who waits for a lock, by `application_name`.
type Waits = BTreeMap<String, Wait>;

type Observer = Box<dyn Fn(Option<&LockWait>) + Send + Sync>;

/// A connection and the task that drives it.
struct Asker {
    client: Client,
    #[expect(dead_code, reason = "dropping the set ends the connection")]
    driver: JoinSet<()>,
}

#[derive(Default)]
struct Asked {
    asker: Option<Asker>,
    /// `None`: it was not to be had.
    answer: Option<(Instant, Option<Waits>)>,
}

/// Looks after the statements of a few pools.
pub(super) struct Watch {
    way: Way,
    statement: String,
    /// What every `application_name` of ours begins with.
    ours: String,
    /// The `application_name` of each pool; `None`: the server shows only a part of it, and any of ours is as good.
    applications: Vec<Option<String>>,
    asked: tokio::sync::Mutex<Asked>,
    /// Statements that wait for a lock now, by the number they got here: their pool, and the lock.
    waiting: Mutex<BTreeMap<u64, (usize, LockWait)>>,
    next: AtomicU64,
    observer: OnceLock<Observer>,
}

impl Watch {
    /// `applications`: the names of the pools, all of which begin with `application`.
    pub(super) fn new(way: &Way, application: &str, applications: &[String]) -> Self {
        Self {
            way: way.named(&format!("{application}/locks")),
            statement: code(BLOCKED),
            ours: shown(application),
            applications: applications
                .iter()
                .map(|name| (shown(name) == *name).then(|| name.clone()))
                .collect(),
            asked: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::default(),
            observer: OnceLock::new(),
        }
    }

    /// Tells `observer` of the lock that has been waited for longest, again with each look; `None`: none is any more.
    pub(super) fn observe(&self, observer: Observer) {
        drop(self.observer.set(observer));
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, (usize, LockWait)>> {
        lock(&self.waiting)
    }

    /// Whether a statement on `pool` is known to wait for a lock: then its connection will not be free soon.
    pub(super) fn is_waiting(&self, pool: usize) -> bool {
        self.waiting().values().any(|(at, _)| *at == pool)
    }

    /// A lock that is waited for on `pool`; `None`: none, or it is not known.
    pub(super) async fn look(&self, pool: usize) -> Option<Wait> {
        let mut asked = self.asked.lock().await;
        if asked.answer.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let asking = timeout(ASKING_MAX, self.ask(&mut asked.asker)).await;
            let waits = asking.unwrap_or_default();
            if waits.as_ref().is_none_or(Waits::is_empty) {
                asked.asker = None;
            }
            asked.answer = Some((Instant::now(), waits));
        }
        let waits = asked.answer.as_ref()?.1.as_ref()?;
        match &self.applications[pool] {
            Some(name) => waits.get(name),
            None => waits.values().next(),
        }
        .cloned()
    }

    async fn ask(&self, asker: &mut Option<Asker>) -> Option<Waits> {
        if asker.as_ref().is_none_or(|asker| asker.client.is_closed()) {
            let (client, connection) = self.way.connect().await.ok()?;
            let mut driver = JoinSet::new();
            driver.spawn(async move { drop(connection.await) });
            *asker = Some(Asker { client, driver });
        }
        let client = &asker.as_ref()?.client;
        let [ours, anybodys]: [Param<'_>; 2] = [&self.ours, &false];
        let rows = client
            .query_typed_raw(&self.statement, [(ours, Type::TEXT), (anybodys, Type::BOOL)])
            .await
            .ok()?;
        pin_mut!(rows);
        let mut waits = Waits::new();
        while let Some(row) = rows.try_next().await.ok()? {
            let (application, wait) = read(&row).ok()?;
            waits.insert(application, wait);
        }
        Some(waits)
    }

    /// Somebody who has just begun to wait for an answer on `pool`.
    pub(super) fn begun(&self, pool: usize) -> Waiting<'_> {
        let now = Instant::now();
        Waiting {
            watch: self,
            pool,
            number: self.next.fetch_add(1, Ordering::Relaxed),
            next_look: now + PATIENCE,
            pause: PATIENCE,
            locked: None,
            wait: None,
        }
    }

    fn tell(&self) {
        if let Some(observer) = self.observer.get() {
            let first = self.waiting().values().next().map(|(_, lock)| lock.clone());
            observer(first.as_ref());
        }
    }
}

/// A statement under way, as [`Watch`] sees it.
pub(super) struct Waiting<'a> {
    watch: &'a Watch,
    pool: usize,
    number: u64,
    pub(super) next_look: Instant,
    pause: Duration,
    /// The lock it waits for, and since when that is known.
    pub(super) locked: Option<(Instant, LockWait)>,
    wait: Option<Wait>,
}

impl Waiting<'_> {
    /// Looks whether it waits for a lock. To be called at [`Self::next_look`].
    pub(super) async fn look(&mut self) {
        self.wait = self.watch.look(self.pool).await;
        let now = Instant::now();
        self.pause = if self.wait.is_some() { PATIENCE } else { self.pause * 2 };
        self.next_look = now + self.pause;
        match self.wait.as_ref().map(|wait| wait.lock.clone()) {
            Some(lock) => {
                let since = self.locked.take().map_or(now, |(since, _)| since);
                self.watch.waiting().insert(self.number, (self.pool, lock.clone()));
                self.locked = Some((since, lock));
                self.watch.tell();
            }
            None => self.released(),
        }
    }

    /// The lock it waits for, where it is one for rows of the statement `text` only.
    pub(super) fn for_rows(&self, text: &str) -> Option<&LockWait> {
        let wait = self.wait.as_ref().filter(|wait| wait.is_for_rows(text))?;
        Some(&wait.lock)
    }

    fn released(&mut self) {
        if self.locked.take().is_some() {
            self.watch.waiting().remove(&self.number);
            self.watch.tell();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.released();
    }
}

/// An `application_name` as the server shows it, as far as that can be foretold: cut, and without what is not ASCII.
fn shown(name: &str) -> String {
    let printable = |c: &char| (' '..='~').contains(c);
    name.chars().take_while(printable).take(NAME_MAX).collect()
}

/// The `application_name` of a session that waits, and for what.
pub(crate) fn read(row: &Row) -> Result<(String, Wait), tokio_postgres::Error> {
    let (kind, relation): (String, Option<String>) = (row.try_get("kind")?, row.try_get("relation")?);
    let what = match row.try_get::<_, Option<String>>("relation_kind")?.as_deref() {
        Some("S") => "sequence",
        Some("i" | "I") => "index",
        Some(_) | None => "table",
    };
    let object = match (kind.as_str(), &relation) {
        ("relation", Some(relation)) => format!("{what} {relation}"),
        ("tuple" | "transactionid", Some(relation)) => format!("a row of {relation}"),
        ("tuple" | "transactionid", None) => "a row".to_owned(),
        (_, Some(relation)) => format!("{what} {relation} ({kind})"),
        (_, None) => format!("a lock of kind {kind}"),
    };
    let lock = LockWait {
        object,
        pid: row.try_get::<_, Option<i32>>("pid")?.filter(|pid| *pid > 0),
        gid: row.try_get("gid")?,
        who: row.try_get::<_, Option<String>>("who")?.filter(|who| !who.is_empty()),
        state: row.try_get("state")?,
        open_for: row.try_get("open_for")?,
        through: row.try_get("through")?,
    };
    let wait = Wait { lock, kind, relation };
    Ok((row.try_get("application")?, wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_the_statements_own_tables_is_no_rows() {
        let text = r#"update "public"."outbox_messages" m set "relayed_at" = now()"#;
        for (kind, relation, expected) in [
            ("relation", Some("public.outbox_messages"), false),
            ("relation", Some("public.other"), true),
            ("tuple", Some("public.outboxd_lanes"), false),
            ("transactionid", Some("public.other"), true),
            ("transactionid", None, true),
            ("advisory", None, true),
            ("extend", Some("public.other"), false),
            ("relation", Some("public.outboxd_attempts"), true),
        ] {
            let wait = Wait {
                lock: LockWait::default(),
                kind: kind.to_owned(),
                relation: relation.map(str::to_owned),
            };
            assert_eq!(wait.is_for_rows(text), expected, "{kind} {relation:?}");
        }
    }

    #[test]
    fn names_are_compared_as_the_server_shows_them() {
        assert_eq!(shown("outboxd/db1/side"), "outboxd/db1/side");
        assert_eq!(shown("outboxd/café/side"), "outboxd/caf");
        assert_eq!(shown(&"x".repeat(80)).len(), 63);
    }
}
