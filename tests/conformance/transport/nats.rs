//! NATS JetStream against real nats-servers: Debian's, and the current release.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::transport::nats::Nats;
use outboxd::transport::nats::config::NatsConfig;
use outboxd::transport::{Envelope, Transport};
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen};
use crate::support::nats::{DEBIAN, NatsServer, current};

enum Server {
    Shared(&'static NatsServer),
    Own(NatsServer),
}

struct OverNats {
    server: Server,
    transport: Arc<Nats>,
}

impl OverNats {
    async fn on(server: Server) -> Self {
        let url = match &server {
            Server::Shared(server) => server.url(),
            Server::Own(server) => server.url(),
        };
        let config: NatsConfig = serde_json::from_value(serde_json::json!({
            "url": url, "max_in_flight": 64, "ack_timeout": "1s",
        }))
        .unwrap();
        let transport = Arc::new(Nats::connect("main", &config).await.unwrap());
        let fixture = Self { server, transport };
        let destination = fixture.destination().await;
        while fixture.transport.probe(&destination).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fixture
    }

    async fn shared(server: &'static NatsServer) -> Self {
        Self::on(Server::Shared(server)).await
    }

    async fn own(program: &str) -> Self {
        Self::on(Server::Own(NatsServer::of(program, ""))).await
    }

    fn server(&self) -> &NatsServer {
        match &self.server {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }
}

#[async_trait]
impl Fixture for OverNats {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as Arc<dyn Transport>
    }

    async fn destination(&self) -> Arc<str> {
        let name = Uuid::new_v4().simple().to_string();
        self.server().create_stream(&name, &[&format!("{name}.>")]).await;
        format!("{name}.created").into()
    }

    fn missing(&self) -> Option<Arc<str>> {
        Some("nobody.captures.this".into())
    }

    async fn visible(&self, destination: &str) -> Vec<Seen> {
        let stream = destination.split('.').next().unwrap();
        let mut stream = self.server().jetstream().await.get_stream(stream).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut seen = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(&*message.subject, destination);
            let headers: BTreeMap<String, String> = message
                .headers
                .iter()
                .map(|(name, values)| (name.to_string(), values.iter().map(ToString::to_string).collect()))
                .collect();
            seen.push(Seen {
                id: headers["Nats-Msg-Id"].clone(),
                key: headers.get("Outbox-Key").cloned(),
                headers,
                payload: message.payload.to_vec(),
            });
        }
        seen
    }

    fn spoil(&self, envelope: &mut Envelope) {
        envelope.message.payload = vec![b'x'; 2 << 20].into();
    }

    fn added(&self, id: &str, key: Option<&str>) -> BTreeMap<String, String> {
        let mut added = BTreeMap::from([
            ("Nats-Msg-Id".to_owned(), id.to_owned()),
            ("Outbox-Id".to_owned(), id.to_owned()),
        ]);
        if let Some(key) = key {
            added.insert("Outbox-Key".to_owned(), key.to_owned());
        }
        added
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
        Duration::from_millis(1_700)
    }
}

uphold!(OverNats::shared(NatsServer::shared()), OverNats::own(DEBIAN));

mod current_release {
    use super::super::laws::uphold;
    use super::{NatsServer, OverNats, current};

    uphold!(
        OverNats::shared(NatsServer::shared_current()),
        OverNats::own(&current())
    );
}
