//! Asking a running relay about one message: where does it stand, and why was it not sent yet?

use tokio::sync::{mpsc, oneshot};

use crate::store::Row;
use crate::whereabouts::Whereabouts;

/// Questions that may wait for their answers.
const WAITING: usize = 32;

/// What is asked about: a pending row, which waits for no time any more.
#[derive(Clone, Debug)]
pub struct About {
    /// As it stands in the database; its payload and headers are of no matter.
    pub row: Row,
    /// It waited for a time, which has come.
    pub waited: bool,
}

/// A question.
pub(super) struct Inquiry {
    pub(super) about: About,
    pub(super) answer: oneshot::Sender<Whereabouts>,
}

/// Whoever asks.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Inquiry>);

/// The engine's end.
pub struct Inquiries(Option<mpsc::Receiver<Inquiry>>);

/// An asker, and the questions of it.
#[must_use]
pub fn inquiries() -> (Asker, Inquiries) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Asker(sender), Inquiries(Some(receiver)))
}

impl Asker {
    /// Where this row stands. `None`: the relay has ended.
    pub async fn ask(&self, about: About) -> Option<Whereabouts> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Inquiry { about, answer }).await.ok()?;
        answered.await.ok()
    }
}

impl Inquiries {
    /// Nobody will ask.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// The next question; never, where nobody asks.
    pub(super) async fn next(&mut self) -> Inquiry {
        if let Some(questions) = &mut self.0
            && let Some(question) = questions.recv().await
        {
            return question;
        }
        self.0 = None;
        std::future::pending().await
    }
}
