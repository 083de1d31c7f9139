//! The engine on fakes and paused time: what it does with rows, answers, outages and leases, without a database or a broker.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outboxd::backoff::Backoff;
use outboxd::delivery::{Failure, FailureClass, Order};
use outboxd::message::Seq;
use outboxd::relay::plan::{Broker, Plan, Plans};
use outboxd::relay::{Inquiries, Options, Relay, RelayError};
use outboxd::route::{Limits, Route, RouteSpec, Routes, Unrouted};
use outboxd::store::Room;
use outboxd::stuck::StuckReason;
use outboxd::telemetry::Telemetry;
use outboxd::testing::memory_store::{MemoryStore, MemoryTable, NewRow};
use outboxd::testing::scripted_transport::{Answer, ScriptedTransport};
use outboxd::transport::{Envelope, Probe, Transport};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const LANES: u16 = 8;

/// A table, transports and routes, and the relay's limits.
struct World {
    table: Arc<MemoryTable>,
    transports: Vec<Arc<ScriptedTransport>>,
    routes: Vec<Route>,
    commit_order: bool,
    limits: Limits,
    options: Options,
}

impl World {
    /// One transport that shows every copy; everything goes there.
    fn new(order: Order) -> Self {
        let mut world = Self::without_routes();
        world.route("*", 0, order);
        world
    }

    fn without_routes() -> Self {
        Self {
            table: MemoryTable::new(LANES),
            transports: vec![Arc::new(ScriptedTransport::default().without_dedupe())],
            routes: Vec::new(),
            commit_order: false,
            limits: Limits::default(),
            options: Options {
                lanes: LANES,
                batch_size: 50,
                max_in_flight: 200,
                max_in_flight_bytes: 1 << 20,
                poll_interval_min: Duration::from_millis(10),
                poll_interval_max: Duration::from_millis(250),
                count_outages: false,
                unrouted: Unrouted::Wait,
                shutdown_timeout: 30 * SECOND,
                lease_ttl: 15 * SECOND,
                probe_interval: SECOND,
                sweep_interval: 30 * SECOND,
            },
        }
    }

    fn route(&mut self, topic: &str, transport: usize, order: Order) {
        while self.transports.len() <= transport {
            self.transports
                .push(Arc::new(ScriptedTransport::default().without_dedupe()));
        }
        let spec = RouteSpec {
            topic,
            transport,
            destination: "{topic}",
            order,
            max_attempts: 3,
            backoff: Backoff {
                min: SECOND,
                max: MINUTE,
                factor: 2,
            },
            commit_order: self.commit_order,
            limits: self.limits,
            prefix: "",
            reserved: &[],
        };
        self.routes.push(Route::new(&spec).unwrap());
    }

    fn start(&self) -> Running {
        self.start_as("one")
    }

    fn start_as(&self, instance: &str) -> Running {
        self.start_with(instance, Plans::none())
    }

    fn start_with(&self, instance: &str, plans: Plans) -> Running {
        let store = Arc::new(MemoryStore::new(&self.table, instance));
        let relay = Relay {
            leases: Arc::clone(&store) as _,
            store,
            transports: self
                .transports
                .iter()
                .map(|transport| Arc::clone(transport) as Arc<dyn Transport>)
                .collect(),
            routes: Routes::new(self.routes.clone()),
            options: self.options.clone(),
            telemetry: Telemetry::default(),
            plans,
            inquiries: Inquiries::none(),
        };
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(relay.run(stop.clone()));
        Running { stop, task }
    }

    fn insert(&self, row: &NewRow) -> i64 {
        self.table.insert(row).0
    }

    /// Waits, in paused time, until no row is pending.
    async fn drained(&self, limit: Duration) {
        until("no row is pending", limit, || self.table.pending() == 0).await;
    }

    /// Everything a consumer has seen, copies included.
    fn seen(&self, transport: usize) -> Vec<i64> {
        seqs(&self.transports[transport])
    }

    fn relayed(&self, seq: i64) -> bool {
        self.table.row(Seq(seq)).unwrap().relayed_at.is_some()
    }

    fn attempt(&self, seq: i64) -> i32 {
        self.table.row(Seq(seq)).unwrap().message.attempt
    }

    /// No message of a key is seen for the first time after a later one of it.
    fn in_order_per_key(&self, transport: usize) {
        let mut seen = HashSet::new();
        let mut last: HashMap<(Arc<str>, Box<str>), i64> = HashMap::new();
        for visible in self.transports[transport].visible() {
            let message = visible.envelope.message;
            let (Some(key), true) = (message.key, seen.insert(message.seq)) else {
                continue;
            };
            let last = last.entry((message.topic, key)).or_insert(i64::MIN);
            assert!(*last < message.seq.0, "{} was sent after {last}", message.seq);
            *last = message.seq.0;
        }
    }

    /// Copies beyond the first.
    fn duplicates(&self, transport: usize) -> usize {
        let seen = self.seen(transport);
        seen.len() - seen.iter().collect::<BTreeSet<_>>().len()
    }
}

/// A relay under way.
struct Running {
    stop: CancellationToken,
    task: JoinSet<Result<(), RelayError>>,
}

impl Running {
    async fn stop(mut self) -> Result<(), RelayError> {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap()
    }
}

fn seqs(transport: &ScriptedTransport) -> Vec<i64> {
    transport
        .visible()
        .iter()
        .map(|visible| visible.envelope.message.seq.0)
        .collect()
}

/// Moves the clock until `condition`, or panics.
async fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "still not so after {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_bad(envelope: &Envelope) -> bool {
    &*envelope.message.payload == b"bad"
}

fn bad(key: &str) -> NewRow {
    NewRow::new("t").key(key).payload("bad")
}

fn good(key: &str) -> NewRow {
    NewRow::new("t").key(key)
}

#[tokio::test(start_paused = true)]
async fn everything_committed_arrives_once_and_in_order() {
    let world = World::new(Order::Key);
    for n in 0..500 {
        world.insert(&good(&format!("k{}", n % 20)));
    }
    let running = world.start();
    for n in 0..500 {
        let mut late = world.table.begin();
        let mut gone = world.table.begin();
        late.insert(&good("late"));
        gone.insert(&good("gone"));
        world.insert(&good(&format!("k{}", n % 20)));
        world.insert(&NewRow::new("keyless"));
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        gone.rollback();
        late.commit();
    }
    world.drained(5 * SECOND).await;
    let seen = world.seen(0);
    assert_eq!((seen.len(), world.duplicates(0)), (2000, 0));
    world.in_order_per_key(0);
    assert!(seen.iter().all(|seq| world.relayed(*seq)));
    running.stop().await.unwrap();
}

fn broker(name: &str, transport: &Arc<ScriptedTransport>) -> Broker {
    Broker {
        name: name.into(),
        system: "test",
        transport: Arc::clone(transport) as Arc<dyn Transport>,
    }
}

fn plan(brokers: Vec<Broker>, routes: Vec<Route>) -> Plan {
    Plan {
        brokers,
        routes: Routes::new(routes),
        batch_size: 10,
        unrouted: Unrouted::Wait,
        window: Room {
            rows: 50,
            bytes: 1 << 20,
        },
        in_force: CancellationToken::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_plan_waits_for_what_is_in_flight_by_the_old_one() {
    let mut world = World::new(Order::Key);
    world.route("*", 1, Order::Key);
    for n in 0..500 {
        world.insert(&good(&format!("k{}", n % 20)));
    }
    let (old, new) = (Arc::clone(&world.transports[0]), Arc::clone(&world.transports[1]));
    old.hold();
    let (plans, coming) = Plans::channel(vec!["old".into()]);
    let running = world.start_with("one", coming);
    until("some are in flight", SECOND, || old.published() > 0).await;
    let plan = |transport| plan(vec![broker("new", transport)], vec![world.routes[0].clone()]);
    let unused = Arc::new(ScriptedTransport::default());
    let (first, second) = (plan(&unused), plan(&new));
    let in_force = [first.in_force.clone(), second.in_force.clone()];
    for plan in [first, second] {
        assert!(plans.send(plan).is_ok());
    }
    tokio::time::sleep(SECOND / 10).await;
    assert_eq!(new.published(), 0, "what is in flight comes first");
    assert!(in_force.iter().all(|plan| !plan.is_cancelled()));
    old.release();
    for plan in &in_force {
        tokio::time::timeout(SECOND, plan.cancelled()).await.unwrap();
    }
    let by_the_old = world.seen(0);
    for n in 0..500 {
        world.insert(&good(&format!("k{}", n % 20)));
    }
    world.drained(5 * SECOND).await;
    assert_eq!((unused.published(), &world.seen(0)), (0, &by_the_old));
    let all: BTreeSet<i64> = by_the_old.iter().chain(&world.seen(1)).copied().collect();
    assert_eq!((all.len(), by_the_old.len() + world.seen(1).len()), (1_000, 1_000));
    world.in_order_per_key(1);
    let key = |seq: &i64| world.table.row(Seq(*seq)).unwrap().message.key;
    for seq in &by_the_old {
        let later = world.seen(1).into_iter().filter(|other| key(other) == key(seq)).min();
        assert!(later.is_none_or(|later| *seq < later), "{seq} after {later:?}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_open_at_the_start_is_found_by_the_sweep() {
    let world = World::new(Order::Key);
    let mut open = world.table.begin();
    let late = open.insert(&good("a")).0;
    for _ in 0..200 {
        world.insert(&good("b"));
    }
    let running = world.start();
    until("the others are sent", SECOND, || world.table.pending() == 0).await;
    open.commit();
    until("the late one is sent", SECOND, || world.relayed(late)).await;
    let by_hand = world.table.insert_at(-5, &good("c")).0;
    until("the sweep finds a number written by hand", MINUTE, || {
        world.relayed(by_hand)
    })
    .await;
    assert_eq!(world.duplicates(0), 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_retries_and_holds_only_its_key() {
    let world = World::new(Order::Key);
    let failures = AtomicU32::new(0);
    world.transports[0].script(move |envelope| {
        if is_bad(envelope) && failures.fetch_add(1, Ordering::Relaxed) < 2 {
            Answer::Refuse(FailureClass::Failed)
        } else {
            Answer::Acknowledge
        }
    });
    let ours = [
        world.insert(&bad("k")),
        world.insert(&good("k")),
        world.insert(&good("k")),
    ];
    let others = [world.insert(&good("o")), world.insert(&good("p"))];
    let started = Instant::now();
    let running = world.start();
    until("other keys go on", Duration::from_millis(400), || {
        others.iter().all(|seq| world.relayed(*seq))
    })
    .await;
    until("the first failure is written", Duration::from_millis(100), || {
        world.attempt(ours[0]) == 2
    })
    .await;
    assert!(world.table.row(Seq(ours[0])).unwrap().last_error.is_some());
    world.drained(10 * SECOND).await;
    // Two backoffs: from half to the whole of 1 s, then of 2 s.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1500) && took < 5 * SECOND, "{took:?}");
    let seen: Vec<i64> = world.seen(0).into_iter().filter(|seq| ours.contains(seq)).collect();
    assert_eq!(seen, ours);
    assert_eq!((world.attempt(ours[0]), world.table.attempts().len()), (3, 2));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_on_once_its_message_has_failed() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match is_bad(envelope) {
        true => Answer::Refuse(FailureClass::Failed),
        false => Answer::Acknowledge,
    });
    let ours = [
        world.insert(&bad("k")),
        world.insert(&good("k")),
        world.insert(&good("k")),
    ];
    let own_limit = world.insert(&bad("l").max_attempts(1));
    let running = world.start();
    until("the row's own limit counts", SECOND, || {
        world.table.row(Seq(own_limit)).unwrap().failed_at.is_some()
    })
    .await;
    until("it fails", MINUTE, || {
        world.table.row(Seq(ours[0])).unwrap().failed_at.is_some()
    })
    .await;
    assert!(!world.relayed(ours[1]), "its key was let go too early");
    assert_eq!(world.attempt(ours[0]), 4);
    world.drained(SECOND).await;
    assert_eq!(world.seen(0), ours[1..]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_row_s_limit_of_no_attempts_failed_it_at_once() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match is_bad(envelope) {
        true => Answer::Refuse(FailureClass::Failed),
        false => Answer::Acknowledge,
    });
    let ours = [0, -1].map(|limit| world.insert(&bad("k").max_attempts(limit)));
    let running = world.start();
    for seq in ours {
        until("it fails", MINUTE, || {
            world.table.row(Seq(seq)).unwrap().failed_at.is_some()
        })
        .await;
        assert_eq!(world.attempt(seq), 4, "the route's three attempts");
    }
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_strict_key_waits_for_the_operator() {
    for retried in [true, false] {
        let world = World::new(Order::Strict);
        world.transports[0].script(|envelope| match is_bad(envelope) {
            true => Answer::Refuse(FailureClass::Failed),
            false => Answer::Acknowledge,
        });
        let ours = [
            world.insert(&bad("k")),
            world.insert(&good("k")),
            world.insert(&good("k")),
        ];
        let running = world.start();
        until("it fails", MINUTE, || {
            world.table.row(Seq(ours[0])).unwrap().failed_at.is_some()
        })
        .await;
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(world.seen(0), [0; 0], "the key is held");
        // A restart finds the hold in the table.
        running.stop().await.unwrap();
        let running = world.start();
        tokio::time::sleep(MINUTE).await;
        assert_eq!(world.seen(0), [0; 0], "the key is held after a restart");
        if retried {
            world.transports[0].unscript();
            world.table.retry(Seq(ours[0]));
            world.drained(3 * SECOND).await;
            assert_eq!(world.seen(0), ours);
        } else {
            world.table.discard(Seq(ours[0]));
            world.drained(3 * SECOND).await;
            assert_eq!(world.seen(0), ours[1..]);
        }
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_order_nobody_waits() {
    let world = World::new(Order::None);
    let failures = AtomicU32::new(0);
    world.transports[0].script(move |envelope| {
        if is_bad(envelope) && failures.fetch_add(1, Ordering::Relaxed) < 2 {
            Answer::Refuse(FailureClass::Failed)
        } else {
            Answer::Acknowledge
        }
    });
    let ours = [
        world.insert(&bad("k")),
        world.insert(&good("k")),
        world.insert(&good("k")),
    ];
    let running = world.start();
    until("the later ones are sent", Duration::from_millis(400), || {
        world.relayed(ours[1]) && world.relayed(ours[2])
    })
    .await;
    world.drained(10 * SECOND).await;
    assert_eq!(world.seen(0), [ours[1], ours[2], ours[0]]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_fails_at_once_and_harms_no_other() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match is_bad(envelope) {
        true => Answer::Refuse(FailureClass::Rejected),
        false => Answer::Acknowledge,
    });
    let refused = world.insert(&bad("k"));
    let unfit = world.insert(&good("k").headers("[]"));
    let rest: Vec<i64> = (0..20).map(|_| world.insert(&good("k"))).collect();
    let running = world.start();
    world.drained(SECOND).await;
    assert_eq!(world.seen(0), rest);
    for seq in [refused, unfit] {
        let row = world.table.row(Seq(seq)).unwrap();
        assert!(row.failed_at.is_some() && row.last_error.is_some());
        assert_eq!(row.message.attempt, 2);
    }
    assert_eq!(world.table.attempts().len(), 2);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_nobodys_fault_and_ends_within_a_second() {
    let world = World::new(Order::Key);
    let running = world.start();
    world.transports[0].disconnect();
    for n in 0..1000 {
        world.insert(&good(&format!("k{}", n % 7)));
        if n % 100 == 0 {
            tokio::time::sleep(MINUTE).await;
        }
    }
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!((world.table.pending(), world.table.attempts().len()), (1000, 0));
    world.transports[0].reconnect();
    until("catch-up begins", SECOND + Duration::from_millis(50), || {
        !world.seen(0).is_empty()
    })
    .await;
    world.drained(10 * SECOND).await;
    assert!((1..=1000).all(|seq| world.attempt(seq) == 1));
    assert_eq!(world.duplicates(0), 0);
    world.in_order_per_key(0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn outage_30min_burns_no_attempts() {
    let world = World::new(Order::Key);
    world.transports[0].script(|_| Answer::Slow(Duration::from_millis(5)));
    for n in 0..500 {
        world.insert(&good(&format!("k{}", n % 7)));
    }
    let running = world.start();
    until("it is in full swing", SECOND, || world.seen(0).len() > 100).await;
    world.transports[0].disconnect();
    for n in 0..500 {
        world.insert(&good(&format!("k{}", n % 7)));
        tokio::time::sleep(30 * MINUTE / 500).await;
    }
    assert!(world.table.pending() >= 500);
    world.transports[0].reconnect();
    let seen = world.seen(0).len();
    until("catch-up begins", SECOND, || world.seen(0).len() > seen).await;
    world.drained(10 * SECOND).await;
    assert!(world.table.attempts().is_empty());
    assert!((1..=1000).all(|seq| world.attempt(seq) == 1 && world.relayed(seq)));
    // At most what was on its way when the broker went away.
    assert!(world.duplicates(0) <= world.options.max_in_flight);
    world.in_order_per_key(0);
    running.stop().await.unwrap();
}

/// The rest goes on while `dead` takes nothing, and is not held up by what waits for it.
async fn one_of_two_is_down(world: World, dead: usize, down: impl Fn(bool)) {
    down(true);
    for n in 0..5000 {
        world.insert(&NewRow::new("dead").key(&format!("k{}", n % 50)));
    }
    let running = world.start();
    tokio::time::sleep(SECOND).await;
    let living: Vec<i64> = (0..2000)
        .map(|n| world.insert(&NewRow::new("living").key(&format!("k{}", n % 50))))
        .collect();
    until("the living ones are sent", 60 * SECOND, || {
        living.iter().all(|seq| world.relayed(*seq))
    })
    .await;
    assert_eq!((world.table.pending(), world.table.attempts().len()), (5000, 0));
    let quick = world.insert(&NewRow::new("living").key("quick"));
    until("another one passes at once", SECOND, || world.relayed(quick)).await;
    down(false);
    world.drained(MINUTE).await;
    for transport in 0..world.transports.len() {
        world.in_order_per_key(transport);
    }
    assert_eq!(world.duplicates(dead), 0);
    let again = [
        world.insert(&NewRow::new("dead").key("k1")),
        world.insert(&NewRow::new("living").key("k1")),
    ];
    until("both flow again", SECOND, || {
        again.iter().all(|seq| world.relayed(*seq))
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_transport_with_a_long_backlog_does_not_hold_up_the_other() {
    let mut world = World::without_routes();
    world.route("dead", 0, Order::Key);
    world.route("*", 1, Order::Key);
    world.options.max_in_flight = 100;
    let transport = Arc::clone(&world.transports[0]);
    one_of_two_is_down(world, 0, move |down| match down {
        true => transport.disconnect(),
        false => transport.reconnect(),
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_destination_that_answers_probes_does_not_hold_up_the_other() {
    let mut world = World::new(Order::Key);
    world.options.max_in_flight = 100;
    let transport = Arc::clone(&world.transports[0]);
    one_of_two_is_down(world, 0, move |down| {
        transport.script(move |envelope| match down && &*envelope.destination == "dead" {
            true => Answer::Refuse(FailureClass::Unavailable),
            false => Answer::Acknowledge,
        });
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_behind_by_a_little_does_not_wait_for_one_behind_by_much() {
    let mut world = World::new(Order::Key);
    world.options.max_in_flight = 100;
    let down = Arc::new(AtomicU32::new(2));
    let seen = Arc::clone(&down);
    world.transports[0].script(move |envelope| {
        let down = seen.load(Ordering::Relaxed);
        match &*envelope.destination {
            "far" if down > 1 => Answer::Refuse(FailureClass::Unavailable),
            "near" if down > 0 => Answer::Refuse(FailureClass::Unavailable),
            // A catch-up that takes a while.
            "far" => Answer::Slow(Duration::from_millis(200)),
            _ => Answer::Acknowledge,
        }
    });
    for n in 0..20_000 {
        world.insert(&NewRow::new("far").key(&format!("k{}", n % 50)));
    }
    let running = world.start();
    tokio::time::sleep(2 * MINUTE).await;
    // The far one catches up from now on; the near one falls behind meanwhile.
    down.store(1, Ordering::Relaxed);
    let near: Vec<i64> = (0..10).map(|_| world.insert(&NewRow::new("near").key("n"))).collect();
    tokio::time::sleep(3 * SECOND).await;
    down.store(0, Ordering::Relaxed);
    let third = world.insert(&NewRow::new("third"));
    until("what is near is sent, and so is a third", 10 * SECOND, || {
        near.iter().all(|seq| world.relayed(*seq)) && world.relayed(third)
    })
    .await;
    assert!(world.table.pending() > 10_000);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_database_goes_away_and_nothing_is_lost() {
    let world = World::new(Order::Key);
    for n in 0..3000 {
        world.insert(&good(&format!("k{}", n % 40)));
    }
    let running = world.start();
    for round in 1..5_u64 {
        until("some are sent", MINUTE, || {
            world.transports[0].published() >= 500 * round
        })
        .await;
        world.table.go_away();
        // The last absences outlast the lease.
        tokio::time::sleep(8 * SECOND * u32::try_from(round).unwrap()).await;
        world.table.come_back();
    }
    world.drained(MINUTE).await;
    world.in_order_per_key(0);
    let seen: BTreeSet<i64> = world.seen(0).into_iter().collect();
    assert_eq!(seen.len(), 3000);
    assert!(world.duplicates(0) <= 4 * 200, "{} duplicates", world.duplicates(0));
    assert!(world.table.attempts().is_empty());
    running.stop().await.unwrap();
}

/// Opened anew, the outbox is read beside what a hung broker has not answered for: its rows alone wait for it.
#[tokio::test(start_paused = true)]
async fn a_blip_of_the_database_beside_a_hung_broker_does_not_stop_the_healthy_one() {
    for twice in [false, true] {
        let mut world = World::without_routes();
        world.transports[0] = Arc::new(ScriptedTransport::new(MINUTE).without_dedupe());
        world.route("hung", 0, Order::Key);
        world.route("*", 1, Order::Key);
        world.transports[0].hold();
        let hung: Vec<i64> = (0..60)
            .map(|n| world.insert(&NewRow::new("hung").key(&format!("k{}", n % 7))))
            .collect();
        let running = world.start();
        tokio::time::sleep(SECOND).await;
        for _ in 0..if twice { 2 } else { 1 } {
            world.table.go_away();
            let healthy: Vec<i64> = (0..300).map(|n| world.insert(&good(&format!("k{}", n % 7)))).collect();
            tokio::time::sleep(SECOND).await;
            world.table.come_back();
            until("the healthy one goes on", 3 * SECOND, || {
                healthy.iter().all(|seq| world.relayed(*seq))
            })
            .await;
        }
        assert!(hung.iter().all(|seq| !world.relayed(*seq)));
        let more = world.insert(&NewRow::new("hung").key("k1"));
        world.transports[0].release();
        world.drained(5 * SECOND).await;
        world.in_order_per_key(0);
        world.in_order_per_key(1);
        assert_eq!((world.duplicates(0), world.duplicates(1)), (0, 0));
        assert!(world.relayed(more) && world.table.attempts().is_empty());
        running.stop().await.unwrap();
    }
}

/// A plan comes while a broker hangs: everything stood still until that one had answered.
#[tokio::test(start_paused = true)]
async fn a_new_plan_beside_a_hung_broker_does_not_stop_the_healthy_one() {
    for answers_after in [3 * SECOND, MINUTE] {
        let mut world = World::without_routes();
        world.transports[0] = Arc::new(ScriptedTransport::new(MINUTE).without_dedupe());
        world.route("hung", 0, Order::Key);
        world.route("t", 1, Order::Key);
        world.transports[0].hold();
        for n in 0..30 {
            world.insert(&NewRow::new("hung").key(&format!("k{}", n % 7)));
        }
        let (plans, coming) = Plans::channel(vec!["hung".into(), "healthy".into()]);
        let running = world.start_with("one", coming);
        until("some are in flight", SECOND, || world.transports[0].published() > 0).await;
        // A plan that comes at once drains, and opens anew once the broker is known to hang.
        if answers_after == MINUTE {
            tokio::time::sleep(2 * SECOND).await;
        }
        world.route("new", 1, Order::Key);
        let brokers = [("hung", 0), ("healthy", 1)].map(|(name, at)| broker(name, &world.transports[at]));
        let plan = plan(brokers.into(), world.routes.clone());
        let (in_force, came) = (plan.in_force.clone(), tokio::time::Instant::now());
        assert!(plans.send(plan).is_ok());
        while came.elapsed() < answers_after.min(5 * SECOND) {
            let row = world.insert(&good("k"));
            until("the healthy one goes on", 2 * SECOND, || world.relayed(row)).await;
        }
        assert!(!in_force.is_cancelled());
        let new = world.insert(&NewRow::new("new").key("k"));
        if answers_after == MINUTE {
            // Not for ever: one that is always slow would keep the plan away.
            tokio::time::sleep(11 * SECOND).await;
            let row = world.insert(&good("k"));
            tokio::time::sleep(SECOND).await;
            assert!(!world.relayed(row), "it drains");
        }
        world.transports[0].release();
        tokio::time::timeout(SECOND, in_force.cancelled()).await.unwrap();
        until("the new route is used", SECOND, || world.relayed(new)).await;
        world.drained(5 * SECOND).await;
        for transport in 0..2 {
            world.in_order_per_key(transport);
            assert_eq!(world.duplicates(transport), 0);
        }
        running.stop().await.unwrap();
    }
}

/// A route that is missing is configuration: its rows wait for it, and the others do not.
#[tokio::test(start_paused = true)]
async fn rows_that_no_route_matches_wait_for_one() {
    for unrouted in [Unrouted::Wait, Unrouted::Fail] {
        let mut world = World::without_routes();
        world.options.unrouted = unrouted;
        world.route("t", 0, Order::Key);
        let running = world.start();
        for n in 0..100 {
            world.insert(&good(&format!("k{}", n % 7)));
            world.insert(&NewRow::new("new").key(&format!("k{}", n % 7)));
        }
        until("the others are sent", MINUTE, || world.table.relayed() == 100).await;
        tokio::time::sleep(2 * MINUTE).await;
        running.stop().await.unwrap();
        if unrouted == Unrouted::Fail {
            assert_eq!((world.table.pending(), world.table.attempts().len()), (0, 100));
            continue;
        }
        assert_eq!((world.table.pending(), world.table.attempts().len()), (100, 0));
        world.route("*", 0, Order::Key);
        let running = world.start();
        world.drained(5 * SECOND).await;
        world.in_order_per_key(0);
        assert_eq!((world.seen(0).len(), world.table.attempts().len()), (200, 0));
        running.stop().await.unwrap();
    }
}

/// Ever so many destinations that take nothing: one that lives is as quick as alone, the broker is asked little, and once they are
/// back all of it is sent within seconds.
#[tokio::test(start_paused = true)]
async fn twenty_thousand_dead_destinations_harm_no_other() {
    const DEAD: usize = 20_000;
    let mut world = World::new(Order::Key);
    world.options.batch_size = 1_000;
    world.options.max_in_flight = 10_000;
    world.options.max_in_flight_bytes = 64 << 20;
    let (down, probes, refused) = (
        Arc::new(AtomicU32::new(1)),
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
    );
    let (is_down, tried) = (Arc::clone(&down), Arc::clone(&refused));
    world.transports[0].script(move |envelope| {
        if is_down.load(Ordering::Relaxed) > 0 && &*envelope.destination != "live" {
            tried.fetch_add(1, Ordering::Relaxed);
            return Answer::Refuse(FailureClass::Unavailable);
        }
        Answer::Acknowledge
    });
    let (is_down, asked) = (Arc::clone(&down), Arc::clone(&probes));
    world.transports[0].script_probes(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        match is_down.load(Ordering::Relaxed) {
            0 => Ok(Probe::Ready),
            _ => Err(Failure::new(FailureClass::Unavailable, "gone", "it is not there")),
        }
    });
    for n in 0..DEAD {
        world.insert(&NewRow::new(&format!("dead{n}")).key("k"));
    }
    let running = world.start();
    until("each was tried", MINUTE, || {
        refused.load(Ordering::Relaxed) as usize >= DEAD
    })
    .await;
    probes.store(0, Ordering::Relaxed);
    for _ in 0..60 {
        let row = world.insert(&NewRow::new("live").key("k"));
        let committed = Instant::now();
        until("the live one is sent", SECOND, || world.relayed(row)).await;
        tokio::time::sleep(SECOND.saturating_sub(committed.elapsed())).await;
    }
    let asked = probes.load(Ordering::Relaxed);
    assert!(asked <= 60 * 20, "{asked} probes in a minute");
    assert!(
        (refused.load(Ordering::Relaxed) as usize) < DEAD + 100,
        "rows are not sent in vain"
    );
    for n in 0..DEAD {
        world.insert(&NewRow::new(&format!("dead{n}")).key("k"));
    }
    tokio::time::sleep(SECOND).await;
    down.store(0, Ordering::Relaxed);
    world.drained(10 * SECOND).await;
    world.in_order_per_key(0);
    assert_eq!((world.duplicates(0), world.table.attempts().len()), (0, 0));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_settlement_whose_answer_is_lost_is_neither_lost_nor_sent_twice() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match is_bad(envelope) {
        true => Answer::Refuse(FailureClass::Failed),
        false => Answer::Acknowledge,
    });
    for n in 0..1000 {
        world.insert(&good(&format!("k{}", n % 40)));
    }
    let failing = world.insert(&bad("bad"));
    let running = world.start();
    for _ in 0..5 {
        world.table.lose_answers_of_settlements(2);
        world.insert(&good("k1"));
        tokio::time::sleep(2 * SECOND).await;
        let seen: BTreeSet<i64> = world.seen(0).into_iter().collect();
        assert!((1..=1006).all(|seq| {
            world.table.row(Seq(seq)).is_none_or(|row| row.relayed_at.is_none()) || seen.contains(&seq)
        }));
    }
    world.drained(MINUTE).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (1005, 0));
    world.in_order_per_key(0);
    assert_eq!(world.table.attempts().len(), 3, "each attempt counts once");
    assert_eq!(world.attempt(failing), 4);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_writes_nothing() {
    let world = World::new(Order::Key);
    world.transports[0].hold();
    for n in 0..100 {
        world.insert(&good(&format!("k{n}")));
    }
    let running = world.start();
    until("a page is in flight", SECOND, || world.seen(0).len() >= 50).await;
    world.table.take_over("other", 0..LANES, MINUTE);
    world.transports[0].release();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((world.table.pending(), world.table.relayed()), (100, 0));
    let published = world.transports[0].published();
    for n in 0..100 {
        world.insert(&good(&format!("k{n}")));
    }
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(world.transports[0].published(), published, "sent without a lease");
    // The other one's lease ends: the lanes come back with a new epoch.
    world.drained(2 * MINUTE).await;
    world.in_order_per_key(0);
    assert!(world.duplicates(0) <= 200);
    running.stop().await.unwrap();
    assert_eq!(world.table.lease(0), (None, 3));
}

#[tokio::test(start_paused = true)]
async fn publishing_stops_before_the_lease_could_have_ended() {
    let world = World::new(Order::Key);
    let running = world.start();
    until("it runs", SECOND, || world.table.lease(0).0.is_some()).await;
    world.table.stall_leases(true);
    let stalled = Instant::now();
    let mut last = stalled;
    let mut sent = 0;
    while stalled.elapsed() < 40 * SECOND {
        world.insert(&good("k"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        if world.transports[0].published() > sent {
            sent = world.transports[0].published();
            last = Instant::now();
        }
    }
    let lasted = last - stalled;
    assert!(
        lasted > 2 * SECOND && lasted <= 12 * SECOND + Duration::from_millis(50),
        "{lasted:?}"
    );
    world.table.stall_leases(false);
    world.drained(10 * SECOND).await;
    assert_eq!(world.duplicates(0), 0);
    world.in_order_per_key(0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_sends_nothing_twice() {
    let world = World::new(Order::Key);
    world.transports[0].script(|_| Answer::Slow(Duration::from_millis(20)));
    for n in 0..1000 {
        world.insert(&good(&format!("k{}", n % 40)));
    }
    for round in 1..5_u64 {
        let running = world.start();
        until("some are sent", MINUTE, || {
            world.transports[0].published() >= 100 * round
        })
        .await;
        running.stop().await.unwrap();
        assert_eq!(world.table.relayed(), world.seen(0).len(), "a stop settles everything");
    }
    let running = world.start_as("another");
    world.drained(MINUTE).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (1000, 0));
    world.in_order_per_key(0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_too_long_says_how_many_will_be_sent_again() {
    let mut world = World::new(Order::Key);
    world.options.shutdown_timeout = 3 * SECOND;
    for _ in 0..10 {
        world.insert(&NewRow::new("t"));
    }
    world.transports[0].hold();
    let running = world.start();
    until("all are in flight", SECOND, || world.seen(0).len() == 10).await;
    world.table.hold();
    world.transports[0].release();
    let ended = running.stop().await;
    assert!(matches!(ended, Err(RelayError::ShutdownTimedOut(10))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_an_outage_while_nothing_else_is_acknowledged() {
    let world = World::new(Order::Key);
    world.transports[0].hold();
    let running = world.start();
    for n in 0..50 {
        world.insert(&good(&format!("k{n}")));
    }
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((world.table.pending(), world.table.attempts().len()), (50, 0));
    world.transports[0].release();
    world.drained(10 * SECOND).await;
    assert!((1..=50).all(|seq| world.attempt(seq) == 1));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_while_others_are_acknowledged() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match is_bad(envelope) {
        true => Answer::Lose,
        false => Answer::Acknowledge,
    });
    // One lane, so that one batch carries both.
    let lane = world.table.lane("t", "bad");
    let other = (0..)
        .map(|n| format!("k{n}"))
        .find(|key| world.table.lane("t", key) == lane);
    let lost = world.insert(&bad("bad"));
    let running = world.start();
    until("it fails", MINUTE, || {
        world.insert(&good(other.as_deref().unwrap()));
        world.table.row(Seq(lost)).unwrap().failed_at.is_some()
    })
    .await;
    let classes: HashSet<FailureClass> = world.table.attempts().iter().map(|failed| failed.class).collect();
    assert_eq!(classes, HashSet::from([FailureClass::TimedOut]));
    assert_eq!(world.attempt(lost), 4);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_timeout_counts_once_a_probe_succeeded() {
    let world = World::new(Order::Key);
    // Longer than the transport waits: the message is never acknowledged, while probes are.
    world.transports[0].script(|_| Answer::Slow(MINUTE));
    let lost = world.insert(&good("k"));
    let running = world.start();
    until("it fails", 2 * MINUTE, || {
        world.table.row(Seq(lost)).unwrap().failed_at.is_some()
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delayed_row_is_sent_when_due_and_holds_nobody() {
    let world = World::new(Order::Key);
    for n in 0..3000 {
        world.insert(&good(&format!("k{}", n % 30)).delayed(10 * MINUTE));
    }
    let soon = world.insert(&good("k").delayed(MINUTE));
    let now = world.insert(&good("k"));
    let started = Instant::now();
    let running = world.start();
    until("the later one passes", SECOND, || world.relayed(now)).await;
    until("the delayed one is sent", 2 * MINUTE, || world.relayed(soon)).await;
    let took = started.elapsed();
    assert!(took >= MINUTE && took < MINUTE + Duration::from_millis(200), "{took:?}");
    tokio::time::sleep(8 * MINUTE).await;
    assert_eq!(world.table.pending(), 3000);
    world.drained(2 * MINUTE).await;
    assert_eq!(world.duplicates(0), 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn due_rows_survive_an_outage_and_come_in_order() {
    let world = World::new(Order::Key);
    world.transports[0].script(|envelope| match envelope.message.attempt {
        1 if is_bad(envelope) => Answer::Refuse(FailureClass::Failed),
        _ => Answer::Acknowledge,
    });
    let mut ours = Vec::new();
    for n in 0..20 {
        ours.push(world.insert(&bad(&format!("k{n}"))));
        ours.push(world.insert(&good(&format!("k{n}"))));
    }
    let running = world.start();
    until("all have failed once", SECOND / 4, || {
        world.table.attempts().len() == 20
    })
    .await;
    world.transports[0].disconnect();
    for n in 0..400 {
        world.insert(&good(&format!("k{}", n % 20)));
    }
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.table.attempts().len(), 20);
    world.transports[0].reconnect();
    world.drained(10 * SECOND).await;
    world.in_order_per_key(0);
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (440, 0));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_held_key_longer_than_what_is_remembered_keeps_its_order() {
    let world = World::new(Order::Key);
    let failures = AtomicU32::new(0);
    world.transports[0].script(move |envelope| {
        if is_bad(envelope) && failures.fetch_add(1, Ordering::Relaxed) < 2 {
            Answer::Refuse(FailureClass::Failed)
        } else {
            Answer::Acknowledge
        }
    });
    world.insert(&bad("k"));
    for n in 0..3000 {
        world.insert(&good("k"));
        if n % 10 == 0 {
            world.insert(&good("other"));
        }
    }
    let running = world.start();
    let added = Instant::now();
    until("the key is free", MINUTE, || {
        // New rows of the key keep coming while it is held and released.
        world.insert(&good("k"));
        world.seen(0).contains(&1)
    })
    .await;
    for _ in 0..100 {
        world.insert(&good("k"));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    world.drained(MINUTE).await;
    assert!(
        added.elapsed() < 30 * SECOND,
        "no sweep was needed: {:?}",
        added.elapsed()
    );
    world.in_order_per_key(0);
    assert_eq!(world.duplicates(0), 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_released_while_its_destination_lags_keeps_its_order() {
    let mut world = World::new(Order::Key);
    // One lane: rows of a held key stand in the queue behind a batch in flight when the key is released.
    world.table = MemoryTable::new(1);
    world.options.lanes = 1;
    world.options.batch_size = 20;
    world.transports[0].script(|envelope| match envelope.message.attempt {
        1 | 2 if is_bad(envelope) => Answer::Refuse(FailureClass::Failed),
        _ => Answer::Slow(Duration::from_millis(10)),
    });
    world.insert(&bad("k0"));
    for n in 0..10 {
        world.insert(&good(&format!("k{n}")));
    }
    let running = world.start();
    until("it has failed once", SECOND, || world.table.attempts().len() == 1).await;
    // A short outage, behind which everything lags while the key is released.
    world.transports[0].disconnect();
    for n in 0..3000 {
        world.insert(&good(&format!("k{}", n % 10)));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.transports[0].reconnect();
    world.drained(MINUTE).await;
    world.in_order_per_key(0);
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (3011, 0));
    running.stop().await.unwrap();
}

/// How many lanes each instance owns.
fn lanes_of(world: &World) -> BTreeMap<String, usize> {
    let owners = (0..LANES).filter_map(|lane| world.table.lease(lane).0);
    owners.fold(BTreeMap::new(), |mut lanes, owner| {
        *lanes.entry(owner).or_default() += 1;
        lanes
    })
}

async fn shared_as(world: &World, shares: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = shares
        .iter()
        .map(|(name, lanes)| ((*name).to_owned(), *lanes))
        .collect();
    until(&format!("lanes are shared as {shares:?}"), 3 * SECOND, || {
        lanes_of(world) == expected
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn joining_and_leaving_share_the_lanes_and_duplicate_nothing() {
    let world = World::new(Order::Key);
    world.transports[0].script(|_| Answer::Slow(Duration::from_millis(3)));
    let mut rows = 0;
    let write = |rows: &mut usize| {
        for n in 0..60 {
            world.insert(&good(&format!("k{}", n % 25)));
        }
        *rows += 60;
    };
    write(&mut rows);
    let one = world.start_as("one");
    shared_as(&world, &[("one", 8)]).await;
    write(&mut rows);
    let two = world.start_as("two");
    write(&mut rows);
    shared_as(&world, &[("one", 4), ("two", 4)]).await;
    write(&mut rows);
    let three = world.start_as("three");
    write(&mut rows);
    shared_as(&world, &[("one", 3), ("three", 3), ("two", 2)]).await;
    write(&mut rows);
    one.stop().await.unwrap();
    shared_as(&world, &[("three", 4), ("two", 4)]).await;
    write(&mut rows);
    world.drained(5 * SECOND).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (rows, 0));
    world.in_order_per_key(0);
    three.stop().await.unwrap();
    shared_as(&world, &[("two", 8)]).await;
    two.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_handed_over_only_when_nothing_of_it_is_on_its_way() {
    let world = World::new(Order::Key);
    let one = world.start_as("one");
    shared_as(&world, &[("one", 8)]).await;
    // Answers do not come: rows of most lanes are in flight.
    world.transports[0].hold();
    for n in 0..40 {
        world.insert(&good(&format!("k{n}")));
    }
    until("all are sent", SECOND, || world.seen(0).len() == 40).await;
    let two = world.start_as("two");
    let busy: BTreeSet<u16> = (0..40).map(|n| world.table.lane("t", &format!("k{n}"))).collect();
    assert!(busy.len() > 4, "more lanes than its share");
    tokio::time::sleep(2 * SECOND).await;
    assert!(
        busy.iter()
            .all(|lane| world.table.lease(*lane) == (Some("one".to_owned()), 1))
    );
    world.transports[0].release();
    shared_as(&world, &[("one", 4), ("two", 4)]).await;
    world.drained(5 * SECOND).await;
    assert_eq!(world.duplicates(0), 0);
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lanes_taken_over_bring_their_holds_along() {
    let mut world = World::without_routes();
    world.route("t", 0, Order::Strict);
    world.transports[0].script(|envelope| {
        if is_bad(envelope) {
            Answer::Refuse(FailureClass::Rejected)
        } else {
            Answer::Acknowledge
        }
    });
    let failed: Vec<i64> = (0..16).map(|n| world.insert(&bad(&format!("k{n}")))).collect();
    let one = world.start_as("one");
    until("they have failed", SECOND, || world.table.pending() == 0).await;
    let behind: Vec<i64> = (0..16).map(|n| world.insert(&good(&format!("k{n}")))).collect();
    let two = world.start_as("two");
    shared_as(&world, &[("one", 4), ("two", 4)]).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.seen(0), [0; 0], "every key is held, whoever has its lane");
    // A retried row goes before what waits behind it, and a restart does not change that.
    for seq in &failed {
        world
            .table
            .update(Seq(*seq), |row| row.message.payload = b"mended".as_slice().into());
        world.table.retry(Seq(*seq));
    }
    two.stop().await.unwrap();
    shared_as(&world, &[("one", 8)]).await;
    world.drained(5 * SECOND).await;
    world.in_order_per_key(0);
    assert_eq!(world.seen(0).len(), failed.len() + behind.len());
    one.stop().await.unwrap();
}

/// A world whose only route waits for earlier numbers.
fn in_commit_order() -> World {
    let mut world = World::without_routes();
    world.commit_order = true;
    world.route("*", 0, Order::Key);
    world
}

#[tokio::test(start_paused = true)]
async fn in_commit_order_nothing_goes_before_an_earlier_number() {
    let world = in_commit_order();
    let running = world.start();
    for n in 0..300 {
        let mut late = world.table.begin();
        let mut gone = world.table.begin();
        late.insert(&good("k"));
        gone.insert(&good("k"));
        world.insert(&good("k"));
        world.insert(&good(&format!("k{}", n % 7)));
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        gone.rollback();
        late.commit();
    }
    world.drained(5 * SECOND).await;
    let seen = world.seen(0);
    assert_eq!((seen.len(), world.duplicates(0)), (900, 0));
    // Every key in the order of its numbers, although each pair of transactions overlapped.
    world.in_order_per_key(0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn commit_order_waits_for_what_was_open_at_the_start() {
    let world = in_commit_order();
    let mut open = world.table.begin();
    let first = open.insert(&good("k")).0;
    let mut rows: Vec<i64> = (0..300).map(|_| world.insert(&good("k"))).collect();
    let running = world.start();
    rows.push(world.insert(&good("k")));
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.seen(0), [0; 0], "the first number may still come");
    open.commit();
    world.drained(5 * SECOND).await;
    rows.insert(0, first);
    assert_eq!(world.seen(0), rows);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn commit_order_of_one_route_does_not_hold_up_another() {
    let mut world = World::without_routes();
    world.route("free", 0, Order::Key);
    world.commit_order = true;
    world.route("*", 0, Order::Key);
    let running = world.start();
    let mut open = world.table.begin();
    open.insert(&good("k"));
    for _ in 0..2_000 {
        world.insert(&NewRow::new("free").key("k"));
        world.insert(&good("k"));
    }
    until("the other route is done", 5 * SECOND, || world.table.relayed() == 2_000).await;
    assert_eq!(world.seen(0).len(), 2_000);
    open.commit();
    world.drained(5 * SECOND).await;
    world.in_order_per_key(0);
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (4_001, 0));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_does_not_answer_leaves_room_for_the_others() {
    let mut world = World::without_routes();
    world.route("stuck", 0, Order::Key);
    world.route("*", 1, Order::Key);
    world.transports[0].hold();
    for n in 0..2_000 {
        world.insert(&NewRow::new("stuck").key(&format!("k{n}")));
        world.insert(&good(&format!("k{n}")));
    }
    let running = world.start();
    // Before the first timeout tells that it is an outage.
    until("the others are done", 2 * SECOND, || world.table.relayed() == 2_000).await;
    assert_eq!(world.seen(1).len(), 2_000);
    world.transports[0].release();
    world.drained(MINUTE).await;
    world.in_order_per_key(0);
    world.in_order_per_key(1);
    assert_eq!(world.table.attempts().len(), 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_keeps_up_is_never_made_to_lag() {
    let mut world = World::without_routes();
    world.route("busy", 0, Order::None);
    world.route("*", 0, Order::None);
    world.transports[0].script(|_| Answer::Slow(Duration::from_millis(20)));
    world.insert(&good("k"));
    for _ in 0..5_000 {
        world.insert(&NewRow::new("busy"));
    }
    let started = Instant::now();
    let running = world.start();
    world.drained(5 * SECOND).await;
    // 5,000 rows, at least 150 of them every 20 ms and a settlement.
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_topic_goes_back_to_the_database_and_on_from_there() {
    let mut world = World::without_routes();
    world.route("held", 0, Order::Key);
    world.route("*", 0, Order::Key);
    let running = world.start();
    world.insert(&NewRow::new("held").key("k"));
    world.drained(SECOND).await;
    // What is queued when the pause comes goes back; what is in flight is answered.
    world.transports[0].script(
        |envelope| match (&*envelope.message.topic, envelope.message.seq.0 % 7) {
            ("held", 0) => Answer::Slow(Duration::from_millis(300)),
            _ => Answer::Acknowledge,
        },
    );
    for n in 0..300 {
        world.insert(&NewRow::new("held").key(&format!("k{}", n % 5)));
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    world.table.set_paused("held", true);
    tokio::time::sleep(2 * SECOND).await;
    let before = world.seen(0).len();
    for n in 0..300 {
        world.insert(&NewRow::new("held").key(&format!("k{}", n % 5)));
        world.insert(&good(&format!("k{}", n % 5)));
    }
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        world.seen(0).len(),
        before + 300,
        "the others go on, the paused ones wait"
    );
    assert!(world.table.pending() >= 300);
    world.table.set_paused("held", false);
    for _ in 0..300 {
        world.insert(&NewRow::new("held").key("k1"));
    }
    world.drained(MINUTE).await;
    world.in_order_per_key(0);
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (1_201, 0));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_paused_topic_waits_and_still_holds_its_key() {
    let mut world = World::without_routes();
    world.route("held", 0, Order::Key);
    let refused = NewRow::new("held").key("k");
    let first = world.insert(&refused);
    world.transports[0].script(move |envelope| {
        if envelope.message.seq.0 == first && envelope.message.attempt == 1 {
            Answer::Refuse(FailureClass::Failed)
        } else {
            Answer::Acknowledge
        }
    });
    let running = world.start();
    until("the first attempt failed", SECOND, || world.attempt(first) == 2).await;
    world.table.set_paused("held", true);
    for _ in 0..20 {
        world.insert(&NewRow::new("held").key("k"));
    }
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.seen(0).len(), 0);
    world.table.set_paused("held", false);
    world.drained(5 * SECOND).await;
    world.in_order_per_key(0);
    assert_eq!((world.seen(0).len(), world.attempt(first)), (21, 2));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_limited_route_sends_no_faster_and_lets_the_others_pass() {
    let mut world = World::without_routes();
    world.limits.rate = NonZeroU32::new(100);
    world.route("slow", 0, Order::Key);
    world.limits = Limits::default();
    world.route("*", 0, Order::Key);
    let running = world.start();
    let started = Instant::now();
    for n in 0..1_000 {
        world.insert(&NewRow::new("slow").key(&format!("k{}", n % 5)));
        world.insert(&good(&format!("k{}", n % 5)));
    }
    until("the others are done", 2 * SECOND, || world.table.relayed() >= 1_000).await;
    assert!(world.table.relayed() < 1_300, "{} relayed", world.table.relayed());
    world.drained(MINUTE).await;
    let took = started.elapsed();
    assert!(
        (9 * SECOND..12 * SECOND).contains(&took),
        "1,000 messages at 100/s took {took:?}"
    );
    world.in_order_per_key(0);
    assert_eq!(world.duplicates(0), 0);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_has_no_more_in_flight_than_it_may() {
    let mut world = World::without_routes();
    world.limits.max_in_flight = Some(7);
    world.route("*", 0, Order::None);
    world.transports[0].hold();
    let running = world.start();
    for n in 0..100 {
        world.insert(&good(&format!("k{n}")));
    }
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(world.seen(0).len(), 7);
    world.transports[0].release();
    world.drained(MINUTE).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (100, 0));
    running.stop().await.unwrap();
}

/// A table that is emptied, with its numbers restarted, while messages are on their way: none of the new rows is taken for sent.
#[tokio::test(start_paused = true)]
async fn numbers_that_come_back_are_other_messages() {
    let world = World::new(Order::Key);
    let running = world.start();
    world.insert(&good("k"));
    world.drained(SECOND).await;
    for rows in [1, 30] {
        world.transports[0].hold();
        for _ in 0..rows {
            world.insert(&good("k"));
        }
        tokio::time::sleep(SECOND).await;
        world.table.truncate();
        let new: Vec<i64> = (0..rows + 2).map(|_| world.insert(&good("k"))).collect();
        world.transports[0].release();
        world.drained(5 * SECOND).await;
        let sent = |seq: &i64| {
            let id = world.table.row(Seq(*seq)).unwrap().message.id;
            let visible = world.transports[0].visible();
            visible
                .iter()
                .filter(|visible| visible.envelope.message.id == id)
                .count()
                == 1
        };
        assert!(new.iter().all(sent), "each row of the new table was sent");
    }
    running.stop().await.unwrap();
}

/// Marked by number alone, as it must not be: the test above would notice.
#[tokio::test(start_paused = true)]
async fn settling_by_number_alone_loses_messages() {
    let world = World::new(Order::Key);
    world.table.ignore_identities();
    let running = world.start();
    world.insert(&good("k"));
    world.drained(SECOND).await;
    world.transports[0].hold();
    world.insert(&good("k"));
    tokio::time::sleep(SECOND).await;
    world.table.truncate();
    let new = [
        world.insert(&good("k")),
        world.insert(&good("k")),
        world.insert(&good("k")),
    ];
    world.transports[0].release();
    until("the new rows are marked", MINUTE, || {
        new.iter().all(|seq| world.relayed(*seq))
    })
    .await;
    let ids = new.map(|seq| world.table.row(Seq(seq)).unwrap().message.id);
    let visible = world.transports[0].visible();
    let sent = ids
        .iter()
        .filter(|id| visible.iter().any(|sent| sent.envelope.message.id == **id));
    assert!(sent.count() < 3, "one of them was never sent");
    running.stop().await.unwrap();
}

/// A row that cannot be marked holds its key and nothing else; it is not sent again, and goes once it can.
#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_marked_is_set_aside() {
    for (order, holds) in [(Order::Key, true), (Order::Strict, true), (Order::None, false)] {
        let world = World::new(order);
        let stuck = [world.insert(&good("k")), world.insert(&good("l"))];
        for seq in stuck {
            world.table.set_stuck(Seq(seq), Some(StuckReason::Refused));
        }
        let running = world.start();
        until("they are sent", SECOND, || world.seen(0).len() == 2).await;
        tokio::time::sleep(SECOND).await;
        let behind = [world.insert(&good("k")), world.insert(&good("l"))];
        let others: Vec<i64> = (0..500).map(|n| world.insert(&good(&format!("o{n}")))).collect();
        until("the others are relayed", 5 * SECOND, || {
            others.iter().all(|seq| world.relayed(*seq))
        })
        .await;
        tokio::time::sleep(MINUTE).await;
        let seen = world.seen(0);
        assert_eq!(behind.iter().all(|seq| seen.contains(seq)), !holds, "{order:?}");
        // The database goes away and comes back: what is stuck is known still.
        world.table.go_away();
        tokio::time::sleep(SECOND).await;
        world.table.come_back();
        let more: Vec<i64> = (0..50).map(|n| world.insert(&good(&format!("o{n}")))).collect();
        until("more are relayed", 20 * SECOND, || {
            more.iter().all(|seq| world.relayed(*seq))
        })
        .await;
        tokio::time::sleep(MINUTE).await;
        assert_eq!(world.duplicates(0), 0, "nothing is sent twice");
        assert_eq!(
            world.seen(0).iter().any(|seq| behind.contains(seq)),
            !holds,
            "{order:?}"
        );
        world.table.free_all();
        world.drained(10 * SECOND).await;
        world.in_order_per_key(0);
        assert_eq!(world.duplicates(0), 0);
        running.stop().await.unwrap();
    }
}

/// A stop does not wait for what cannot be written, and a start sends only that again.
#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_stuck_rows() {
    let world = World::new(Order::Key);
    let all: Vec<i64> = (0..100).map(|n| world.insert(&good(&format!("k{n}")))).collect();
    for seq in &all[..3] {
        world.table.set_stuck(Seq(*seq), Some(StuckReason::Locked));
    }
    let running = world.start();
    until("the others are relayed", SECOND, || world.table.pending() == 3).await;
    tokio::time::sleep(10 * SECOND).await;
    let began = Instant::now();
    running.stop().await.unwrap();
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    let running = world.start();
    until("they are sent again", 5 * SECOND, || world.seen(0).len() == 103).await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.duplicates(0), 3);
    world.table.free_all();
    world.drained(10 * SECOND).await;
    running.stop().await.unwrap();
}

/// Nothing can be written: the work stops within the window.
#[tokio::test(start_paused = true)]
async fn when_every_row_is_stuck_the_window_bounds_it() {
    let world = World::new(Order::Key);
    for n in 0..1000 {
        let seq = world.insert(&good(&format!("k{n}")));
        world.table.set_stuck(Seq(seq), Some(StuckReason::Suppressed));
    }
    let running = world.start();
    tokio::time::sleep(MINUTE).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (200, 0));
    let before = world.table.settlements();
    tokio::time::sleep(MINUTE).await;
    assert!(world.table.settlements() - before < 20, "it is not tried all the time");
    world.table.free_all();
    world.drained(30 * SECOND).await;
    assert_eq!((world.seen(0).len(), world.duplicates(0)), (1000, 0));
    running.stop().await.unwrap();
}

/// A lane goes to another instance although a row of it is stuck: the others of the lane do not wait for ever.
#[tokio::test(start_paused = true)]
async fn a_lane_with_a_stuck_row_is_handed_over() {
    let world = World::new(Order::Key);
    let all: Vec<i64> = (0..40).map(|n| world.insert(&good(&format!("k{n}")))).collect();
    for seq in &all[..20] {
        world.table.set_stuck(Seq(*seq), Some(StuckReason::Refused));
    }
    let one = world.start_as("one");
    until("the others are relayed", SECOND, || world.table.pending() == 20).await;
    let two = world.start_as("two");
    tokio::time::sleep(MINUTE).await;
    let owners = (0..LANES).filter_map(|lane| world.table.lease(lane).0);
    assert_eq!(owners.filter(|owner| owner == "two").count(), 4);
    let more: Vec<i64> = (0..40).map(|n| world.insert(&good(&format!("m{n}")))).collect();
    until("new rows of every lane are relayed", 5 * SECOND, || {
        more.iter().all(|seq| world.relayed(*seq))
    })
    .await;
    assert!(world.duplicates(0) <= 20);
    world.table.free_all();
    world.drained(15 * SECOND).await;
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}
