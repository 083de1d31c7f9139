//! Redis Streams against a real redis-server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::message::Headers;
use outboxd::transport::redis::Redis;
use outboxd::transport::redis::config::RedisConfig;
use outboxd::transport::{Envelope, Transport};
use redis::AsyncCommands as _;
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen};
use crate::support::redis::RedisServer;

enum Server {
    Shared(&'static RedisServer),
    Own(RedisServer),
}

struct OverRedis {
    server: Server,
    transport: Arc<Redis>,
}

impl OverRedis {
    async fn on(server: Server) -> Self {
        let url = match &server {
            Server::Shared(server) => server.url(),
            Server::Own(server) => server.url(),
        };
        let config: RedisConfig =
            serde_json::from_value(serde_json::json!({ "url": url, "ack_timeout": "1s", "maxlen": "100000" })).unwrap();
        Self {
            server,
            transport: Arc::new(Redis::connect("main", &config).await.unwrap()),
        }
    }

    async fn shared() -> Self {
        Self::on(Server::Shared(RedisServer::shared())).await
    }

    async fn own() -> Self {
        Self::on(Server::Own(RedisServer::start())).await
    }

    fn server(&self) -> &RedisServer {
        match &self.server {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }

    async fn client(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.server().url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap()
    }
}

#[async_trait]
impl Fixture for OverRedis {
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
        let entries: redis::streams::StreamRangeReply = self.client().await.xrange_all(destination).await.unwrap();
        let seen = |entry: redis::streams::StreamId| {
            let fields: HashMap<String, Vec<u8>> = entry
                .map
                .into_iter()
                .map(|(name, value)| (name, redis::from_redis_value(value).unwrap()))
                .collect();
            let text = |name: &str| fields.get(name).map(|bytes| String::from_utf8(bytes.clone()).unwrap());
            let headers: BTreeMap<String, String> = serde_json::from_slice(&fields["headers"]).unwrap();
            Seen {
                id: text("id").unwrap(),
                key: text("key"),
                headers,
                payload: fields["payload"].clone(),
            }
        };
        entries.ids.into_iter().map(seen).collect()
    }

    fn spoil(&self, envelope: &mut Envelope) {
        envelope.message.headers = Headers::parse(b"\"no set of headers\"");
    }

    fn added(&self, _id: &str, _key: Option<&str>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn hang(&self) {
        self.server().signal("STOP");
    }

    async fn stop(&self) {
        self.server().kill();
    }

    async fn heal(&self) {
        let Server::Own(server) = &self.server else {
            panic!("a shared server is never stopped")
        };
        if std::net::TcpStream::connect(("127.0.0.1", server.port())).is_ok() {
            server.signal("CONT");
        } else {
            server.up();
        }
    }

    fn bound(&self) -> Duration {
        Duration::from_millis(1_300)
    }
}

uphold!(OverRedis::shared(), OverRedis::own());

/// A destination that is no stream is nobody's fault; other destinations of the batch go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_no_stream_is_unavailable() {
    use outboxd::delivery::{FailureClass, Order, Outcome};
    let fixture = OverRedis::shared().await;
    let (wrong, right) = (fixture.destination().await, fixture.destination().await);
    let _: () = fixture.client().await.set(&*wrong, "text").await.unwrap();
    let batch = [
        super::message(&wrong, Some("k"), Order::Key),
        super::message(&right, Some("k"), Order::Key),
        super::message(&wrong, Some("k"), Order::Key),
    ];
    let outcomes = fixture.transport.publish(&batch).await;
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        (failure.class, &*failure.code),
        (FailureClass::Unavailable, "WRONGTYPE")
    );
    assert!(super::acknowledged(&outcomes[1]));
    assert_eq!(outcomes[2], Outcome::Withheld);
    assert_eq!(
        fixture.transport.probe(&wrong).await.unwrap_err().class,
        FailureClass::Unavailable
    );
}
