//! A file in a directory of its own, and what a disk, a rotation and another process do to it.

use std::collections::BTreeMap;
use std::fs::File as Handle;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outboxd::delivery::{FailureClass, Order, Outcome};
use outboxd::message::Headers;
use outboxd::transport::file::File;
use outboxd::transport::file::config::FileConfig;
use outboxd::transport::{Envelope, Transport};
use serde_json::Value;
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen, acknowledged, id, message};

const ACK_TIMEOUT: Duration = Duration::from_secs(1);

struct Archive {
    folder: tempfile::TempDir,
    transport: Arc<File>,
    /// Somebody else's lock on the file.
    lock: Mutex<Option<Handle>>,
}

impl Archive {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("here")).unwrap();
        let config = FileConfig {
            path: folder.path().join("here/outbox.jsonl"),
            ack_timeout: ACK_TIMEOUT,
        };
        Self {
            transport: Arc::new(File::new(&config)),
            folder,
            lock: Mutex::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("here/outbox.jsonl")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    async fn send(&self, envelope: &Envelope) {
        let outcomes = self.transport.publish(std::slice::from_ref(envelope)).await;
        assert!(acknowledged(&outcomes[0]), "{outcomes:?}");
    }

    /// The code and the words of a refusal that is an outage of the place.
    async fn refusal(&self) -> (String, String) {
        let batch = [message(&"orders".into(), Some("k"), Order::Key)];
        let outcomes = self.transport.publish(&batch).await;
        let Outcome::Refused(failure) = &outcomes[0] else {
            panic!("{outcomes:?}")
        };
        assert_eq!(failure.class, FailureClass::Unavailable);
        assert_eq!(self.transport.probe("orders").await.as_ref(), Err(failure));
        (failure.code.to_string(), failure.error.clone())
    }
}

#[async_trait]
impl Fixture for Archive {
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
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["topic"] == destination)
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

    async fn hang(&self) {
        let file = Handle::open(self.path()).unwrap();
        file.lock().unwrap();
        *self.lock.lock().unwrap() = Some(file);
    }

    async fn stop(&self) {
        let here = self.folder.path().join("here");
        std::fs::rename(here, self.folder.path().join("elsewhere")).unwrap();
    }

    async fn heal(&self) {
        if self.lock.lock().unwrap().take().is_none() {
            let elsewhere = self.folder.path().join("elsewhere");
            std::fs::rename(elsewhere, self.folder.path().join("here")).unwrap();
        }
    }

    fn bound(&self) -> Duration {
        2 * ACK_TIMEOUT + Duration::from_secs(1)
    }
}

uphold!(Archive::new(), Archive::new());

#[tokio::test]
async fn a_file_that_was_renamed_is_made_anew_without_a_word() {
    let archive = Archive::new().await;
    let [first, second] = [0, 1].map(|_| message(&"orders".into(), None, Order::Key));
    archive.send(&first).await;
    let mode = std::fs::metadata(archive.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    let rotated = archive.path().with_extension("1");
    std::fs::rename(archive.path(), &rotated).unwrap();
    archive.send(&second).await;
    let old = std::fs::read_to_string(rotated).unwrap();
    assert!(old.contains(&id(&first)) && old.lines().count() == 1);
    assert!(archive.text().contains(&id(&second)) && archive.text().lines().count() == 1);
}

#[tokio::test]
async fn what_a_crash_left_of_a_line_is_never_joined_with_the_next_message() {
    let archive = Archive::new().await;
    std::fs::write(archive.path(), "{\"id\": \"torn").unwrap();
    let whole = message(&"orders".into(), None, Order::Key);
    archive.send(&whole).await;
    let text = archive.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "{\"id\": \"torn"));
    assert!(lines[1].contains(&id(&whole)) && text.ends_with('\n'));
}

#[tokio::test]
async fn a_place_that_cannot_be_written_to_is_an_outage_that_names_it() {
    let archive = Archive::new().await;
    let path = archive.path();
    std::fs::create_dir(&path).unwrap();
    let (code, error) = archive.refusal().await;
    assert_eq!(code, "IsADirectory");
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("Is a directory"),
        "{error}"
    );
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("outbox.jsonl", &path).unwrap();
    assert_eq!(archive.refusal().await.0, "FilesystemLoop");
    std::fs::remove_file(&path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(archive.refusal().await.1.contains(path.to_str().unwrap()));
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    archive.stop().await;
    let (code, error) = archive.refusal().await;
    assert_eq!(code, "NotFound");
    assert!(
        error.ends_with("make its directory, writable for the daemon's user"),
        "{error}"
    );
    assert_eq!(archive.transport.inspect(&[]).await.unwrap_err().code, "NotFound");
    archive.heal().await;
    // Looking leaves nothing behind: a file that root made would keep the daemon out.
    assert_eq!(archive.transport.inspect(&[]).await, Ok(vec![]));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    archive.send(&message(&"orders".into(), Some("k"), Order::Key)).await;
    assert_eq!(archive.transport.inspect(&[]).await, Ok(vec![]));
}

#[tokio::test]
async fn what_waits_when_the_lease_is_lost_is_not_written_any_more() {
    let archive = Archive::new().await;
    archive.send(&message(&"orders".into(), None, Order::Key)).await;
    archive.hang().await;
    let late = [message(&"late".into(), None, Order::Key)];
    let lost = async {
        archive.transport.abandon();
        archive.heal().await;
    };
    // In this order: the batch is under way when the lease is lost, and waits for the lock.
    let (outcomes, ()) = tokio::join!(biased; archive.transport.publish(&late), lost);
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        (failure.class, &*failure.code),
        (FailureClass::Unavailable, "Interrupted")
    );
    assert!(archive.visible("late").await.is_empty());
}

/// Two instances on one machine: lines never mix, whatever their length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_do_not_write_into_each_others_lines() {
    let archive = Arc::new(Archive::new().await);
    let config = FileConfig {
        path: archive.path(),
        ack_timeout: Duration::from_secs(10),
    };
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let transport = File::new(&config);
        writers.spawn(async move {
            for round in 0..20 {
                let mut batch: Vec<_> = (0..20).map(|_| message(&"orders".into(), None, Order::Key)).collect();
                for envelope in &mut batch {
                    envelope.message.payload = vec![b'a' + writer; 5000 + round * 500].into();
                }
                let outcomes = transport.publish(&batch).await;
                assert!(outcomes.iter().all(acknowledged), "{outcomes:?}");
            }
        });
    }
    writers.join_all().await;
    let text = archive.text();
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok());
    assert_eq!((whole.count(), text.lines().count()), (800, 800));
}
