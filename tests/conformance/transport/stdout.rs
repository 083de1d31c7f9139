//! Standard output into a real pipe.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outboxd::delivery::{FailureClass, Order, Outcome};
use outboxd::message::Headers;
use outboxd::transport::stdout::Stdout;
use outboxd::transport::{Envelope, Transport};
use serde_json::Value;
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen, message};

/// A pipe with a reader that collects lines for ever.
struct Pipe {
    transport: Arc<Stdout>,
    lines: Arc<Mutex<Vec<String>>>,
}

fn read_lines(pipe: PipeReader) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            into.lock().unwrap().push(line.unwrap());
        }
    });
    lines
}

impl Pipe {
    async fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self {
            transport: Arc::new(Stdout::to(Box::new(writer))),
            lines: read_lines(reader),
        }
    }
}

#[async_trait]
impl Fixture for Pipe {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as Arc<dyn Transport>
    }

    async fn destination(&self) -> Arc<str> {
        Uuid::new_v4().simple().to_string().into()
    }

    fn missing(&self) -> Option<Arc<str>> {
        None
    }

    async fn visible(&self, destination: &str) -> Vec<Seen> {
        // A line of our own at the end tells that everything before it was read.
        let end = message(&"end".into(), None, Order::None);
        let outcome = self.transport.publish(std::slice::from_ref(&end)).await;
        assert!(super::acknowledged(&outcome[0]));
        let id = super::id(&end);
        while !self.lines.lock().unwrap().last().is_some_and(|line| line.contains(&id)) {
            tokio::task::yield_now().await;
        }
        let lines = self.lines.lock().unwrap();
        let seen = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        seen.filter(|line| line["topic"] == destination)
            .map(|line| Seen {
                id: line["id"].as_str().unwrap().to_owned(),
                key: line["key"].as_str().map(str::to_owned),
                headers: serde_json::from_value(line["headers"].clone()).unwrap(),
                payload: format!("{{\"n\": {}}}", line["payload"]["n"]).into_bytes(),
            })
            .collect()
    }

    fn spoil(&self, envelope: &mut Envelope) {
        envelope.message.headers = Headers::parse(b"\"no set of headers\"");
    }

    fn added(&self, _id: &str, _key: Option<&str>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn hang(&self) {}

    async fn stop(&self) {}

    async fn heal(&self) {}

    fn bound(&self) -> Duration {
        Duration::from_secs(11)
    }
}

// A pipe that broke stays broken: what replaces the laws on outages stands below.
uphold!(@ Pipe::new(); durable prefix_per_key strict_order independence identity headers_that_cannot_be_carried concurrency probe_tells_what_is_missing);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pipe_is_an_outage_and_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let transport = Stdout::to(Box::new(writer));
    let batch = [0, 1].map(|_| message(&"orders".into(), Some("k"), Order::Key));
    let outcomes = transport.publish(&batch).await;
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        (failure.class, &*failure.code),
        (FailureClass::Unavailable, "BrokenPipe")
    );
    assert_eq!(outcomes[1], Outcome::Withheld);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_a_bounded_time() {
    let (reader, writer) = std::io::pipe().unwrap();
    let transport = Stdout::to(Box::new(writer));
    let mut large = [message(&"orders".into(), Some("k"), Order::Key)];
    large[0].message.payload = vec![b'x'; 1 << 20].into();
    let start = std::time::Instant::now();
    let outcomes = transport.publish(&large).await;
    crate::support::assert_within("it", start.elapsed(), Duration::from_secs(11));
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(failure.class, FailureClass::TimedOut);
    assert_eq!(
        transport.probe("orders").await.unwrap_err().class,
        FailureClass::Unavailable
    );
    let lines = read_lines(reader);
    while transport.probe("orders").await.is_err() {
        tokio::task::yield_now().await;
    }
    while lines.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}
