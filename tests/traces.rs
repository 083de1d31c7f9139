//! Traces: a sampled `traceparent` in a row goes on through the relay to the consumer, one span per attempt; nothing else is
//! touched, and a collector that is away costs no message.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::support::broker::{Broker, Kind};
use crate::support::collector::{Collector, attributes, hex};
use crate::support::consumer::Arrival;
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{alone, eventually, together};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A daemon with `[trace]` and more, and a broker without streams or topics.
struct Setting {
    broker: Broker,
    session: Session,
    site: Site,
    daemon: Daemon,
    _database: Database,
}

impl Setting {
    async fn new(kind: Kind, rest: &str) -> Self {
        let broker = Broker::start(kind);
        let database = Cluster::shared().database().await;
        let site = Site::new(&database, &format!("{}{rest}", broker.section("main")));
        site.migrate();
        Self {
            broker,
            session: database.connect().await,
            daemon: site.start().await,
            site,
            _database: database,
        }
    }

    async fn insert(&self, topic: &str, key: &str, headers: &str) {
        let insert =
            "insert into outbox_messages (topic, key, payload, headers) values ($1, $2, '{}', $3::text::jsonb)";
        let inserted = self.session.execute(insert, &[&topic, &key, &headers]).await;
        assert_eq!(inserted.expect("a row"), 1);
    }

    /// Stops the daemon, which flushes; answers what a consumer got.
    async fn end(self, topics: &[&str]) -> Vec<Arrival> {
        self.session.drained(Duration::from_secs(30)).await;
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
        self.broker.arrivals(topics).await
    }
}

fn arrival<'a>(arrivals: &'a [Arrival], key: &str) -> &'a Arrival {
    let found = arrivals.iter().find(|arrival| arrival.key.as_deref() == Some(key));
    found.unwrap_or_else(|| panic!("{key} arrived"))
}

fn traceparent<'a>(arrivals: &'a [Arrival], key: &str) -> Option<&'a str> {
    arrival(arrivals, key).header("traceparent")
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// What each row's header becomes, and the one span there is.
async fn one_of_four_is_a_span(kind: Kind, system: &str) {
    let _guard = together().await;
    let collector = Collector::start().await;
    let setting = Setting::new(kind, &collector.section()).await;
    setting.broker.prepare(&["orders"]).await;
    let (sampled, unsampled) = (format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-00"));
    let traced = format!(r#"{{"traceparent": "{sampled}", "tracestate": "shop=1", "a": "b"}}"#);
    setting.insert("orders", "sampled", &traced).await;
    let not_sampled = format!(r#"{{"traceparent": "{unsampled}"}}"#);
    setting.insert("orders", "unsampled", &not_sampled).await;
    setting
        .insert("orders", "malformed", r#"{"traceparent": "00-what"}"#)
        .await;
    setting.insert("orders", "none", r#"{"a": "b"}"#).await;
    let instance = setting.site.instance();
    let arrivals = setting.end(&["orders"]).await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    assert_eq!(
        (hex(&span.trace_id), hex(&span.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(
        (span.name.as_str(), span.kind),
        ("publish orders", SpanKind::Producer as i32)
    );
    assert_eq!(span.trace_state, "shop=1");
    assert!(!is_error(span), "{span:?}");
    let now = jiff::Timestamp::now().as_nanosecond();
    let (start, end) = (
        i128::from(span.start_time_unix_nano),
        i128::from(span.end_time_unix_nano),
    );
    assert!(
        start <= end && end <= now && now - end < 120_000_000_000,
        "{start} {end} {now}"
    );
    let said = attributes(&span.attributes);
    let id = arrival(&arrivals, "sampled").id.to_string();
    for (name, value) in [
        ("messaging.system", system),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders"),
        ("messaging.message.id", &id),
        ("outboxd.attempt", "1"),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name} in {said:?}");
    }
    let resource = collector.resource();
    assert_eq!(resource.get("service.name").map(String::as_str), Some("outboxd"));
    assert_eq!(resource.get("service.instance.id"), Some(&instance));

    let goes_on = format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert_eq!(traceparent(&arrivals, "sampled"), Some(goes_on.as_str()));
    assert_eq!(arrival(&arrivals, "sampled").header("tracestate"), Some("shop=1"));
    assert_eq!(traceparent(&arrivals, "unsampled"), Some(unsampled.as_str()));
    assert_eq!(traceparent(&arrivals, "malformed"), Some("00-what"));
    assert_eq!(traceparent(&arrivals, "none"), None);
}

#[tokio::test]
async fn a_trace_goes_on_through_nats() {
    one_of_four_is_a_span(Kind::Nats, "nats").await;
}

#[tokio::test]
async fn a_trace_goes_on_through_kafka() {
    one_of_four_is_a_span(Kind::Kafka, "kafka").await;
}

/// No stream takes the subject at first, and outages count here: each attempt is a span, all of them children of the row's.
#[tokio::test]
async fn each_attempt_is_a_span_and_failed_ones_say_why() {
    let _guard = together().await;
    let collector = Collector::start().await;
    let relay = "[relay]\ncount_outages = true\nmax_attempts = 1000\nbackoff_min = \"50ms\"\nbackoff_max = \"100ms\"\n";
    let setting = Setting::new(Kind::Nats, &(collector.section() + relay)).await;
    let headers = format!(r#"{{"traceparent": "00-{TRACE}-{PARENT}-01"}}"#);
    setting.insert("orders", "k", &headers).await;
    let twice = "select count(*) from outbox_messages where attempt > 2";
    eventually("two attempts failed", Duration::from_secs(20), || async {
        (setting.session.count(twice).await == 1).then_some(())
    })
    .await;
    setting.broker.prepare(&["orders"]).await;
    let arrivals = setting.end(&["orders"]).await;

    let spans = collector.spans();
    let (failed, relayed): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| is_error(span));
    assert_eq!(relayed.len(), 1, "{spans:?}");
    assert!(failed.len() >= 2, "{spans:?}");
    let family = |span: &Span| (hex(&span.trace_id), hex(&span.parent_span_id));
    assert!(spans.iter().all(|span| family(span) == (TRACE.into(), PARENT.into())));
    let mut attempts: Vec<String> = Vec::new();
    for span in &failed {
        let said = attributes(&span.attributes);
        assert_eq!(
            said.get("outboxd.failure.class").map(String::as_str),
            Some("unavailable")
        );
        assert!(said.get("error.type").is_some_and(|code| !code.is_empty()), "{said:?}");
        assert!(span.status.as_ref().is_some_and(|status| !status.message.is_empty()));
        attempts.push(said["outboxd.attempt"].clone());
    }
    attempts.dedup();
    assert_eq!(attempts.len(), failed.len(), "each of another attempt: {attempts:?}");
    let goes_on = format!("00-{TRACE}-{}-01", hex(&relayed[0].span_id));
    assert_eq!(traceparent(&arrivals, "k"), Some(goes_on.as_str()));
}

#[tokio::test]
async fn a_message_begins_a_trace_where_that_is_asked_for() {
    let _guard = together().await;
    let collector = Collector::start().await;
    let setting = Setting::new(Kind::Nats, &(collector.section() + "start_new = true\n")).await;
    setting.broker.prepare(&["orders"]).await;
    setting.insert("orders", "k", "{}").await;
    let arrivals = setting.end(&["orders"]).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert!(spans[0].parent_span_id.is_empty());
    let goes_on = format!("00-{}-{}-01", hex(&spans[0].trace_id), hex(&spans[0].span_id));
    assert_eq!(traceparent(&arrivals, "k"), Some(goes_on.as_str()));
}

/// Many spans go together, and none is lost on the way to a collector that keeps up.
#[tokio::test]
async fn spans_go_in_batches() {
    let _guard = together().await;
    let collector = Collector::start().await;
    let setting = Setting::new(Kind::Nats, &collector.section()).await;
    setting.broker.prepare(&["orders"]).await;
    setting.session.run(&traced_rows(1_500)).await;
    let arrivals = setting.end(&["orders"]).await;
    assert_eq!(arrivals.len(), 1_500);
    assert_eq!(collector.spans().len(), 1_500);
    assert!(
        (3..=20).contains(&collector.requests()),
        "{} requests",
        collector.requests()
    );
}

fn traced_rows(count: usize) -> String {
    format!(
        "insert into outbox_messages (topic, key, payload, headers)
         select 'orders', 'k' || n % 50, to_jsonb(n), jsonb_build_object('traceparent', '00-{TRACE}-{PARENT}-01')
         from generate_series(1, {count}) as n"
    )
}

/// Relays 10,000 traced rows while nothing takes spans at `port`; answers the daemon's log.
async fn relays_without_a_collector(port: u16) -> String {
    let _guard = alone().await;
    let section = format!("[trace]\notlp_endpoint = \"http://127.0.0.1:{port}\"\n");
    let setting = Setting::new(Kind::Nats, &section).await;
    setting.broker.prepare(&["orders"]).await;
    setting.session.run(&traced_rows(10_000)).await;
    setting.session.drained(Duration::from_secs(30)).await;
    let dropped = setting.daemon.metrics().await["outboxd_spans_dropped_total"];
    // The queue holds 2,048, and the batch under way 512.
    assert!((7_000.0..10_000.0).contains(&dropped), "{dropped}");
    let stopping = Instant::now();
    assert!(setting.daemon.terminate(Duration::from_secs(30)).await.success());
    crate::support::assert_within("stopping", stopping.elapsed(), Duration::from_secs(6));
    assert_eq!(setting.broker.held().await, 10_000);
    setting.site.log()
}

#[tokio::test]
async fn an_unreachable_collector_stops_nothing_and_is_said_once() {
    let nobody = crate::support::ports::free();
    let log = relays_without_a_collector(nobody).await;
    assert_eq!(
        log.matches("spans do not reach the trace collector").count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_up_nothing() {
    // The kernel takes connections for it, and nobody reads them.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    relays_without_a_collector(silent.local_addr().expect("bound").port()).await;
}
