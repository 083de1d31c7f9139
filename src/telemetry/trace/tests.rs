//! What becomes of a message's headers, and what is queued.

use bytes::Bytes;

use super::*;
use crate::delivery::{Failure, FailureClass};
use crate::message::{MessageId, Seq};

const ROW: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn tracer(start_new: bool, room: usize) -> (Tracer, mpsc::Receiver<Span>) {
    let (queue, spans) = mpsc::channel(room);
    let tracer = Tracer {
        queue,
        metrics: Arc::new(Metrics::new()),
        start_new,
    };
    (tracer, spans)
}

fn message(headers: &str) -> Message {
    Message {
        seq: Seq(7),
        id: MessageId::Number(7),
        topic: "orders".into(),
        key: None,
        payload: Bytes::from_static(b"{}"),
        payload_is_null: false,
        headers: Headers::parse(headers.as_bytes()),
        attempt: 2,
        max_attempts: None,
        priority: 0,
        replay: 0,
        origin: None,
        age: Duration::ZERO,
    }
}

fn attempt(outcome: &Outcome) -> Attempt<'_> {
    Attempt {
        system: "kafka",
        destination: "shop.orders",
        outcome,
        took: Duration::from_millis(5),
    }
}

fn traceparent(message: &Message) -> Option<&str> {
    let mut headers = message.headers.iter();
    headers.find(|(name, _)| *name == TRACEPARENT).map(|(_, value)| value)
}

#[test]
fn the_message_names_its_span_while_it_is_out_and_the_row_again_afterwards() {
    let (tracer, mut spans) = tracer(false, 10);
    let row = format!(r#"{{"a": "b", "traceparent": "{ROW}", "tracestate": "x=1", "z": "y"}}"#);
    let mut message = message(&row);
    let before = message.headers.clone();
    let span = tracer.begin(&mut message.headers).expect("sampled");
    let out = Context::parse(traceparent(&message).expect("there is one")).expect("well formed");
    tracer.finish(
        *span,
        &mut message,
        attempt(&Outcome::Acknowledged { duplicate: false }),
    );
    assert_eq!(message.headers, before);
    let span = spans.try_recv().expect("queued");
    let parent = Context::parse(ROW).expect("well formed");
    assert_eq!(
        (&span.trace_id[..], &span.parent_span_id[..]),
        (&parent.trace[..], &parent.span[..])
    );
    assert_eq!(span.span_id, out.span);
    assert_eq!(
        (span.trace_state.as_str(), span.name.as_str()),
        ("x=1", "publish orders")
    );
    assert_eq!(span.end_unix_nanos - span.start_unix_nanos, 5_000_000);
    assert_eq!(span.status, None);
}

#[test]
fn a_refusal_is_an_error_and_what_was_not_sent_is_no_span() {
    let (tracer, mut spans) = tracer(false, 10);
    let mut message = message(&format!(r#"{{"traceparent": "{ROW}"}}"#));
    let refused = Outcome::Refused(Failure::new(FailureClass::Failed, "CODE", "it said no"));
    for outcome in [&refused, &Outcome::Withheld] {
        let span = tracer.begin(&mut message.headers).expect("sampled");
        tracer.finish(*span, &mut message, attempt(outcome));
    }
    let status = spans.try_recv().expect("the refusal").status.expect("a status");
    assert_eq!(
        (status.code, status.message.as_str()),
        (otlp::STATUS_ERROR, "it said no")
    );
    assert!(spans.try_recv().is_err(), "nothing for what was withheld");
    assert_eq!(traceparent(&message), Some(ROW));
}

#[test]
fn what_is_no_sampled_trace_is_left_alone() {
    let (tracer, _spans) = tracer(true, 10);
    for headers in [ROW.replace("-01", "-00"), "00-nonsense".to_owned(), String::new()] {
        let mut message = message(&format!(r#"{{"traceparent": "{headers}"}}"#));
        assert!(tracer.begin(&mut message.headers).is_none(), "{headers:?}");
        assert_eq!(traceparent(&message), Some(headers.as_str()));
    }
    let mut invalid = message("[1]");
    assert!(tracer.begin(&mut invalid.headers).is_none());
}

#[test]
fn a_trace_begins_only_where_that_is_asked_for() {
    let (quiet, _spans) = tracer(false, 10);
    let mut message = message(r#"{"a": "b"}"#);
    assert!(quiet.begin(&mut message.headers).is_none());
    assert_eq!(traceparent(&message), None);
    let (tracer, mut spans) = tracer(true, 10);
    let span = tracer.begin(&mut message.headers).expect("a new trace");
    assert!(traceparent(&message).is_some());
    tracer.finish(*span, &mut message, attempt(&Outcome::Acknowledged { duplicate: true }));
    assert_eq!(traceparent(&message), None);
    assert_eq!(spans.try_recv().expect("queued").parent_span_id, Vec::<u8>::new());
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (tracer, _spans) = tracer(true, 2);
    let mut message = message("{}");
    for _ in 0..5 {
        let span = tracer.begin(&mut message.headers).expect("a new trace");
        tracer.finish(
            *span,
            &mut message,
            attempt(&Outcome::Acknowledged { duplicate: false }),
        );
    }
    assert!(tracer.metrics.encode().contains("outboxd_spans_dropped_total 3\n"));
}
