//! The laws. Each takes a fixture of its own or a shared one, and leaves a broker that answers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use outboxd::delivery::{FailureClass, Order, Outcome};
use outboxd::message::Headers;
use outboxd::transport::{Envelope, Probe};
use tokio::task::JoinSet;

use super::{Fixture, Seen, acknowledged, id, message};

/// Writes one test per law for a fixture. `$shared` makes a fixture on a server others use too, `$own` one with a server
/// that may be stopped.
macro_rules! uphold {
    ($shared:expr, $own:expr) => {
        uphold!(@ $shared; durable prefix_per_key strict_order independence identity headers_that_cannot_be_carried cancellation concurrency probe_tells_what_is_missing);
        uphold!(@ $own; bounded_when_the_broker_hangs bounded_when_the_broker_is_gone);
    };
    (@ $fixture:expr; $($law:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $law() {
            crate::conformance::transport::laws::$law(&$fixture.await).await;
        })+
    };
}
pub(super) use uphold;

async fn ids(fixture: &impl Fixture, destination: &str) -> Vec<String> {
    fixture
        .visible(destination)
        .await
        .into_iter()
        .map(|seen| seen.id)
        .collect()
}

fn by_key(seen: &[Seen]) -> HashMap<Option<String>, Vec<String>> {
    let mut keys: HashMap<_, Vec<String>> = HashMap::new();
    for message in seen {
        keys.entry(message.key.clone()).or_default().push(message.id.clone());
    }
    keys
}

fn sent_by_key(batch: &[Envelope]) -> HashMap<Option<String>, Vec<String>> {
    let mut keys: HashMap<_, Vec<String>> = HashMap::new();
    for envelope in batch {
        keys.entry(envelope.message.key.as_deref().map(str::to_owned))
            .or_default()
            .push(id(envelope));
    }
    keys
}

/// What is acknowledged is at the broker, once, and in order per key.
pub async fn durable(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    let batch: Vec<_> = (0..300)
        .map(|n| message(&destination, Some(&format!("key-{}", n % 7)), Order::Key))
        .collect();
    let outcomes = fixture.transport().publish(&batch).await;
    assert_eq!(outcomes.len(), batch.len());
    for outcome in &outcomes {
        assert_eq!(outcome, &Outcome::Acknowledged { duplicate: false });
    }
    let seen = fixture.visible(&destination).await;
    assert_eq!(
        by_key(&seen),
        sent_by_key(&batch),
        "each key complete, in order, without duplicates"
    );
}

/// Behind a message that was not acknowledged nothing of its key is visible; the rest of its key is withheld.
pub async fn prefix_per_key(fixture: &impl Fixture) {
    prefix(fixture, Order::Key).await;
}

/// The same for `Order::Strict`.
pub async fn strict_order(fixture: &impl Fixture) {
    prefix(fixture, Order::Strict).await;
}

async fn prefix(fixture: &impl Fixture, order: Order) {
    let destination = fixture.destination().await;
    let mut batch: Vec<_> = (0..40)
        .map(|n| message(&destination, Some(["a", "b"][n % 2]), order))
        .collect();
    fixture.spoil(&mut batch[10]);
    let outcomes = fixture.transport().publish(&batch).await;
    let Outcome::Refused(failure) = &outcomes[10] else {
        panic!("not refused: {:?}", outcomes[10])
    };
    assert_eq!(failure.class, FailureClass::Rejected, "{failure:?}");
    for (index, outcome) in outcomes.iter().enumerate() {
        match index {
            10 => {}
            behind if behind > 10 && behind % 2 == 0 => assert_eq!(outcome, &Outcome::Withheld, "{behind}"),
            free => assert!(acknowledged(outcome), "{free}: {outcome:?}"),
        }
    }
    let seen = by_key(&fixture.visible(&destination).await);
    let sent = sent_by_key(&batch);
    let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
    assert_eq!(seen[&a], sent[&a][..5]);
    assert_eq!(seen[&b], sent[&b]);
}

/// One refused message fails alone, wherever it stands; with `Order::None` not even its key notices.
pub async fn independence(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    for spoiled in [0, 17, 29] {
        let mut batch: Vec<_> = (0..30)
            .map(|n| match n % 3 {
                0 => message(&destination, None, Order::Key),
                1 => message(&destination, Some("same"), Order::None),
                _other => message(&destination, Some(&format!("key-{n}")), Order::Key),
            })
            .collect();
        fixture.spoil(&mut batch[spoiled]);
        let outcomes = fixture.transport().publish(&batch).await;
        let seen = ids(fixture, &destination).await;
        for (index, outcome) in outcomes.iter().enumerate() {
            assert_eq!(
                acknowledged(outcome),
                index != spoiled,
                "{index} of {spoiled}: {outcome:?}"
            );
            assert_eq!(seen.contains(&id(&batch[index])), index != spoiled);
        }
        let Outcome::Refused(failure) = &outcomes[spoiled] else {
            panic!("{:?}", outcomes[spoiled])
        };
        assert!(
            failure.error.len() > 20 && !failure.error.contains('\n'),
            "a line that tells: {:?}",
            failure.error
        );
    }
}

/// Id, key, headers and payload arrive with every copy; an empty key is a key; a row's header of ours gives way.
pub async fn identity(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    let mut batch = vec![
        message(&destination, Some("kéy"), Order::Key),
        message(&destination, Some(""), Order::Key),
        message(&destination, None, Order::Key),
        message(&destination, Some("again"), Order::Key),
    ];
    batch[0].message.headers = Headers::Valid(vec![
        (
            "traceparent".into(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        ),
        ("empty".into(), "".into()),
        ("ünï".replace('ü', "u").replace('ï', "i").into(), "välue".into()),
    ]);
    for (name, _) in fixture.added("x", Some("y")) {
        let shouted = name.to_uppercase();
        batch[1].message.headers = Headers::Valid(vec![(shouted.into(), "theirs".into()), ("kept".into(), "1".into())]);
        let outcomes = fixture.transport().publish(&batch).await;
        assert!(outcomes.iter().all(acknowledged), "{outcomes:?}");
        for envelope in &mut batch {
            envelope.message.id = message(&destination, None, Order::None).message.id;
        }
    }
    let outcomes = fixture.transport().publish(&batch).await;
    assert!(outcomes.iter().all(acknowledged), "{outcomes:?}");
    let all = fixture.visible(&destination).await;
    for envelope in &batch {
        let seen = all
            .iter()
            .find(|seen| seen.id == id(envelope))
            .expect("visible by its id");
        let key = envelope.message.key.as_deref();
        assert_eq!(seen.key.as_deref(), key);
        assert_eq!(seen.payload, envelope.message.payload);
        let added = fixture.added(&id(envelope), key);
        let mut expected: BTreeMap<String, String> = envelope
            .message
            .headers
            .iter()
            .filter(|(name, _)| !added.keys().any(|ours| ours.eq_ignore_ascii_case(name)))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        expected.extend(added);
        assert_eq!(seen.headers, expected);
    }
}

/// Headers that are no set of headers reject their message, with the reason.
pub async fn headers_that_cannot_be_carried(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    let mut batch = vec![
        message(&destination, None, Order::Key),
        message(&destination, None, Order::Key),
    ];
    batch[0].message.headers = Headers::parse(b"[1, 2]");
    let outcomes = fixture.transport().publish(&batch).await;
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{:?}", outcomes[0])
    };
    assert_eq!(failure.class, FailureClass::Rejected);
    assert!(failure.error.contains("found an array"), "{failure:?}");
    assert!(acknowledged(&outcomes[1]));
}

/// Dropped futures leave nothing behind that would stop later ones, and never let a later message overtake.
pub async fn cancellation(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    let transport = fixture.transport();
    let dropped: Vec<_> = (0..400).map(|_| message(&destination, Some("k"), Order::Key)).collect();
    for (index, chunk) in dropped.chunks(20).enumerate() {
        let publish = transport.publish(chunk);
        let patience = Duration::from_micros(index as u64 * 100);
        let _answered_or_dropped = tokio::time::timeout(patience, publish).await;
        let again = transport.publish(chunk).await;
        assert!(again.iter().all(acknowledged), "{again:?}");
    }
    let seen = ids(fixture, &destination).await;
    let mut first = Vec::new();
    for id in seen {
        if !first.contains(&id) {
            first.push(id);
        }
    }
    assert_eq!(
        first,
        dropped.iter().map(id).collect::<Vec<_>>(),
        "first occurrences in order"
    );
}

/// Batches of different lanes go in parallel and do not disturb each other.
pub async fn concurrency(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    let mut lanes = JoinSet::new();
    for lane in 0..16 {
        let batch: Vec<_> = (0..100)
            .map(|n| message(&destination, Some(&format!("lane-{lane}-key-{}", n % 3)), Order::Key))
            .collect();
        let transport = fixture.transport();
        lanes.spawn(async move {
            let outcomes = transport.publish(&batch).await;
            (batch, outcomes)
        });
    }
    let mut sent = Vec::new();
    for (batch, outcomes) in lanes.join_all().await {
        assert!(outcomes.iter().all(acknowledged), "{outcomes:?}");
        sent.extend(batch);
    }
    assert_eq!(by_key(&fixture.visible(&destination).await), sent_by_key(&sent));
}

/// A probe sends nothing, and a missing destination is nobody's fault: probe and publish both say `Unavailable`.
pub async fn probe_tells_what_is_missing(fixture: &impl Fixture) {
    let destination = fixture.destination().await;
    assert_eq!(fixture.transport().probe(&destination).await, Ok(Probe::Ready));
    assert_eq!(fixture.visible(&destination).await, []);
    let Some(missing) = fixture.missing() else { return };
    let failure = fixture.transport().probe(&missing).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unavailable, "{failure:?}");
    let outcomes = fixture
        .transport()
        .publish(&[message(&missing, Some("k"), Order::Key)])
        .await;
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(failure.class, FailureClass::Unavailable, "{failure:?}");
}

/// A broker that hangs costs a bounded time; everything works again afterwards and nothing overtakes.
pub async fn bounded_when_the_broker_hangs(fixture: &impl Fixture) {
    outage(fixture, true).await;
}

/// The same for a broker that is gone.
pub async fn bounded_when_the_broker_is_gone(fixture: &impl Fixture) {
    outage(fixture, false).await;
}

async fn outage(fixture: &impl Fixture, hang: bool) {
    let destination = fixture.destination().await;
    let before = [message(&destination, Some("k"), Order::Key)];
    assert!(acknowledged(&fixture.transport().publish(&before).await[0]));
    if hang {
        fixture.hang().await
    } else {
        fixture.stop().await
    }
    let batch: Vec<_> = (0..20)
        .map(|n| message(&destination, Some(["k", "l"][n % 2]), Order::Key))
        .collect();
    for round in 0..2 {
        let start = Instant::now();
        let outcomes = fixture.transport().publish(&batch).await;
        crate::support::assert_within(&format!("round {round}"), start.elapsed(), fixture.bound());
        let mut refused = 0;
        for outcome in &outcomes {
            match outcome {
                Outcome::Withheld => {}
                Outcome::Refused(failure)
                    if matches!(failure.class, FailureClass::Unavailable | FailureClass::TimedOut) =>
                {
                    refused += 1;
                }
                other @ (Outcome::Acknowledged { .. } | Outcome::Refused(_)) => panic!("{other:?}"),
            }
        }
        assert!(refused >= 2, "one per key at least: {outcomes:?}");
        let start = Instant::now();
        let failure = fixture.transport().probe(&destination).await.unwrap_err();
        crate::support::assert_within("the probe", start.elapsed(), fixture.bound());
        assert!(
            matches!(failure.class, FailureClass::Unavailable | FailureClass::TimedOut),
            "{failure:?}"
        );
    }
    fixture.heal().await;
    let mut left: Vec<Envelope> = batch.clone();
    let until = Instant::now() + Duration::from_secs(30);
    while !left.is_empty() {
        let probe = fixture.transport().probe(&destination).await;
        assert!(Instant::now() < until, "no recovery: {probe:?}, {} left", left.len());
        if probe.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let outcomes = fixture.transport().publish(&left).await;
        let mut outcomes = outcomes.iter();
        left.retain(|_| !acknowledged(outcomes.next().expect("one each")));
    }
    let seen = fixture.visible(&destination).await;
    let all: Vec<_> = before.into_iter().chain(batch).collect();
    let mut firsts = by_key(&seen);
    for ids in firsts.values_mut() {
        let mut known = std::collections::HashSet::new();
        ids.retain(|id| known.insert(id.clone()));
    }
    assert_eq!(firsts, sent_by_key(&all), "first occurrences in order");
}
