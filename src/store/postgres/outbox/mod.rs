//! The outbox in PostgreSQL: the adapter behind [`Store`] and [`Leases`].
//!
//! Four statements make the hot path: `fetch.sql`, `look.sql` behind it, `mark.sql`, and every few seconds `renew.sql`.
//! Everything about names is decided once, when the statements are filled in.

mod batch;
mod cursor;
mod enlist;
mod feed;
mod identity;
mod isolate;
mod lease;
pub(super) mod listen;
mod look;
mod origin;
mod rows;
mod settle;
mod snapshot;
pub mod stuck;
mod suspicion;
pub mod transactions;
mod twins;
pub(super) mod unreadable;
mod walks;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::message::Seq;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::{
    DuePage, DuePosition, Hold, LaneSet, Lease, Leases, OpenTransaction, Page, Reread, Room, Row, Scope, Settled,
    Settlement, Store, StoreError, Tenancy,
};
use cursor::Cursor;
use enlist::Enlister;
use feed::Feed;
pub use identity::{Identity, InstanceLock};
use lease::Said;
use listen::Channel;
pub use listen::Ears;
use origin::Origin;
use suspicion::Suspicion;

/// What the store needs to know beside names and connections.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// This instance's name, unique among all.
    pub instance: String,
    /// The machine it runs on.
    pub machine: String,
    /// What proves a predecessor of the same name dead: see [`InstanceLock::identity`].
    pub identity: Identity,
    /// `on_relayed = "delete"`.
    pub delete_relayed: bool,
    /// Wait for the WAL flush of each mark.
    pub durable_marks: bool,
    /// Shortest and longest time between two looks for rows of a table that is not ours.
    pub pace: (Duration, Duration),
    /// Who listens for notifications; `None`: polling only.
    pub listen: Option<Ears>,
}

/// The outbox table and its lease.
pub struct PostgresStore {
    database: Database,
    names: Names,
    options: StoreOptions,
    sql: Statements,
    session: Uuid,
    feed: Mutex<Feed>,
    cursor: std::sync::Mutex<Cursor>,
    /// Replaced whenever the store is opened.
    reading: std::sync::Mutex<Arc<Reading>>,
    hint: Arc<Notify>,
    membership: Arc<Notify>,
    questions: Arc<Notify>,
    said: Said,
    suspicion: Suspicion,
    #[expect(dead_code, reason = "dropping the set ends the enlisting task")]
    enlisting: JoinSet<()>,
    #[expect(dead_code, reason = "it is listened to for as long as somebody has it")]
    channel: Option<Arc<Channel>>,
    origin: Origin,
}

/// The statements of the relay, filled in.
struct Statements {
    start: Statement,
    anchors: Statement,
    renumbered: Statement,
    fetch_late: Statement,
    reread: Statement,
    due_look: Statement,
    next_due: Statement,
    urgent: Statement,
    recall: Statement,
    holds: Statement,
    holds_among: Statement,
    relayed: Relayed,
    fail: Statement,
    twins: Statement,
    fail_bare: Statement,
    free: Statement,
    standing: Statement,
    swallowers: Statement,
    locked_by: Statement,
    blocked_by: Statement,
    renew: Statement,
    peers: Statement,
    take_lanes: Statement,
    lanes_held: Statement,
    hand_over: Statement,
    leave: Statement,
}

macro_rules! statement {
    ($names:expr, $file:literal, [$($type:ident),*]) => {
        Statement {
            text: $names.fill(include_str!(concat!("../../../../sql/", $file, ".sql"))),
            types: const { &[$(Type::$type),*] },
        }
    };
}

mod reading;
use reading::Reading;

/// How messages that were relayed end (marked or deleted): those whose numbers lie close together, others, those whose ids are no
/// uuids; and which rows can be ended so at once.
struct Relayed {
    dense: Statement,
    listed: Statement,
    texts: Statement,
    free: Statement,
}

macro_rules! relayed {
    ($names:expr, $dense:literal, $listed:literal, $texts:literal, $free:literal) => {
        Relayed {
            dense: statement!(
                $names,
                $dense,
                [BYTEA, INT4_ARRAY, INT8_ARRAY, TEXT, TEXT, TEXT, INT8, INT8, UUID_ARRAY]
            ),
            listed: statement!(
                $names,
                $listed,
                [
                    INT8_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT, TEXT, TEXT, UUID_ARRAY, INT4_ARRAY
                ]
            ),
            texts: statement!(
                $names,
                $texts,
                [
                    INT8_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT, TEXT, TEXT, TEXT_ARRAY, INT4_ARRAY
                ]
            ),
            free: statement!($names, $free, [INT8_ARRAY]),
        }
    };
}

macro_rules! failure {
    ($names:expr, $file:literal) => {
        statement!(
            $names,
            $file,
            [
                INT8_ARRAY, TEXT_ARRAY, INT4_ARRAY, INT8_ARRAY, INT4_ARRAY, INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY,
                TEXT_ARRAY, INT8_ARRAY, TEXT, INT4_ARRAY, TEXT
            ]
        )
    };
}

/// A statement that has another form where the table is not ours.
macro_rules! either {
    ($names:expr, $foreign:literal, $own:literal, $kind:ident $(, $types:tt)?) => {
        if $names.is_foreign() {
            $kind!($names, $foreign $(, $types)?)
        } else {
            $kind!($names, $own $(, $types)?)
        }
    };
}

impl Statements {
    fn new(names: &Names, delete_relayed: bool) -> Self {
        Self {
            start: statement!(names, "start", [INT8]),
            anchors: statement!(names, "anchors", [INT8, INT8]),
            renumbered: statement!(names, "renumbered", [INT8_ARRAY, TEXT_ARRAY]),
            fetch_late: statement!(
                names,
                "fetch_late",
                [INT8_ARRAY, INT8_ARRAY, BYTEA, INT8, INT8_ARRAY, INT8_ARRAY]
            ),
            reread: statement!(
                names,
                "reread",
                [INT8, INT8, INT8, BYTEA, TEXT_ARRAY, BYTEA, INT8_ARRAY, INT8_ARRAY]
            ),
            due_look: statement!(names, "due_look", []),
            next_due: statement!(names, "next_due", []),
            urgent: statement!(names, "urgent", [INT8, BYTEA, TEXT_ARRAY, INT8_ARRAY, INT8_ARRAY]),
            recall: statement!(names, "recall", [INT8_ARRAY, BYTEA, INT8_ARRAY, INT8_ARRAY]),
            holds: statement!(names, "holds", [BYTEA, BOOL, INT8_ARRAY, INT8_ARRAY]),
            holds_among: statement!(names, "holds_among", [BYTEA, INT8_ARRAY, INT8_ARRAY, INT8_ARRAY]),
            relayed: if names.is_foreign() {
                relayed!(
                    names,
                    "foreign_end",
                    "foreign_end_listed",
                    "foreign_end_texts",
                    "foreign_free_to_update"
                )
            } else if delete_relayed {
                relayed!(names, "delete", "delete_listed", "delete_texts", "free_to_delete")
            } else {
                relayed!(names, "mark", "mark_listed", "mark_texts", "free_to_update")
            },
            fail: either!(names, "foreign_fail", "fail", failure),
            fail_bare: either!(names, "foreign_fail_bare", "fail_bare", failure),
            free: either!(
                names,
                "foreign_free_to_update",
                "free_to_update",
                statement,
                [INT8_ARRAY]
            ),
            standing: either!(
                names,
                "foreign_standing",
                "standing",
                statement,
                [INT8_ARRAY, TEXT_ARRAY, INT4_ARRAY, INT4_ARRAY, BOOL]
            ),
            swallowers: statement!(names, "swallowers", [BOOL]),
            locked_by: either!(names, "foreign_locked_by", "locked_by", statement, [INT8_ARRAY]),
            blocked_by: statement!(names, "blocked_by", [TEXT]),
            twins: statement!(names, "twins", [INT8_ARRAY, TEXT_ARRAY, INT8, INT8]),
            renew: statement!(names, "renew", [TEXT, UUID, TEXT, TEXT, INT4, FLOAT8, TEXT, BOOL, TEXT]),
            peers: statement!(names, "peers", []),
            take_lanes: statement!(names, "take_lanes", [TEXT, BOOL, INT8, UUID]),
            lanes_held: statement!(names, "lanes_held", [TEXT, UUID]),
            hand_over: statement!(names, "hand_over", [INT4_ARRAY, INT8_ARRAY, TEXT]),
            leave: statement!(names, "leave", [TEXT, UUID]),
        }
    }
}

impl PostgresStore {
    /// A store over `database`. Has it listened for notifications when the options say who does; must be called inside a tokio
    /// runtime.
    #[must_use]
    pub fn new(database: Database, names: Names, options: StoreOptions) -> Self {
        let hint = Arc::new(Notify::new());
        let membership = Arc::new(Notify::new());
        let questions = Arc::new(Notify::new());
        let channel = options.listen.as_ref().map(|ears| {
            let channel = Arc::new(Channel {
                name: names.channel(),
                sql: names.fill(include_str!("../../../../sql/listen.sql")),
                database: database.clone(),
                probe: statement!(names, "probe_listen", [TEXT]),
                hint: Arc::clone(&hint),
                membership: Arc::clone(&membership),
                questions: Arc::clone(&questions),
            });
            ears.tune(&channel);
            channel
        });
        let mut enlisting = JoinSet::new();
        if let Some(enlister) = Enlister::of(&database, &names, options.pace, &hint) {
            enlisting.spawn(enlister.run());
        }
        Self {
            database,
            sql: Statements::new(&names, options.delete_relayed),
            reading: std::sync::Mutex::new(Arc::new(Reading::new(&names, None))),
            names,
            options,
            session: Uuid::new_v4(),
            feed: Mutex::default(),
            cursor: std::sync::Mutex::default(),
            hint,
            membership,
            questions,
            said: Said::default(),
            suspicion: Suspicion::default(),
            enlisting,
            channel,
            origin: Origin::default(),
        }
    }

    /// Returns when somebody may have asked this instance something. A hint, as [`Store::changed`].
    pub async fn asked(&self) {
        self.questions.notified().await;
    }

    /// Lanes as the statements take them.
    fn mask(&self, lanes: &LaneSet) -> Vec<u8> {
        lanes.mask(self.names.lanes())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn open(&self) -> Result<Seq, StoreError> {
        self.ask_origin().await?;
        self.open_feed().await
    }

    async fn read(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        let mut page = self.read_feed(lanes, room).await?;
        self.origin.put_on(&mut page.rows);
        Ok(page)
    }

    async fn reread(&self, scope: &Scope, after: Seq, upto: Seq, room: Room) -> Result<Reread, StoreError> {
        let mut page = self.reread_rows(scope, after, upto, room).await?;
        self.origin.put_on(&mut page.rows);
        Ok(page)
    }

    async fn due(
        &self,
        lanes: &LaneSet,
        after: Option<DuePosition>,
        upto: Seq,
        room: Room,
    ) -> Result<DuePage, StoreError> {
        let mut page = self.due_rows(lanes, after, upto, room).await?;
        self.origin.put_on(&mut page.rows);
        Ok(page)
    }

    async fn urgent(&self, lanes: &LaneSet, without: &[Arc<str>], room: Room) -> Result<Vec<Row>, StoreError> {
        let mut rows = self.urgent_rows(lanes, without, room).await?;
        self.origin.put_on(&mut rows);
        Ok(rows)
    }

    async fn recall(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError> {
        let mut rows = self.recall_rows(lanes, seqs, room).await?;
        self.origin.put_on(&mut rows);
        Ok(rows)
    }

    async fn holds(&self, lanes: &LaneSet, among: Option<&[Seq]>, failed_too: bool) -> Result<Vec<Hold>, StoreError> {
        self.holding_rows(lanes, among, failed_too).await
    }

    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>, StoreError> {
        transactions::open(&self.database, &self.names).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        self.settle_all(settlement).await
    }

    fn hurry(&self) {
        self.database.hurry();
    }

    async fn changed(&self) {
        self.hint.notified().await;
    }
}

#[async_trait]
impl Leases for PostgresStore {
    async fn renew(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.renew_lease(ttl).await
    }

    async fn hand_over(&self, lanes: &Tenancy) -> Result<(), StoreError> {
        self.hand_over_lanes(lanes).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.leave_lease().await
    }

    async fn membership_changed(&self) {
        self.membership.notified().await;
    }
}
