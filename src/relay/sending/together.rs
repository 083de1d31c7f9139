//! Rereads for several lags at once: ever so many destinations that recover are as many pages as they have rows.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::relay::waiting::found::DestinationId;

use super::destinations::Destinations;

impl Destinations {
    /// Which of `ready` a reread for `first` is for too: those that stand no further back, as long as they have no more than
    /// `most` topics together. `first` comes first.
    pub(crate) fn read_with(&self, first: DestinationId, ready: &[DestinationId], most: usize) -> Vec<DestinationId> {
        let mut together = vec![first];
        let place = |id: DestinationId| self.get(id).lag.as_ref().map(|lag| lag.next);
        let Some(from) = place(first).filter(|_| !self.get(first).in_commit_order) else {
            return together;
        };
        let mut left = self.get(first).topics().map(|topics| most.saturating_sub(topics.len()));
        for id in ready.iter().copied().filter(|id| *id != first) {
            let destination = self.get(id);
            if destination.in_commit_order || place(id).is_none_or(|next| next < from) {
                continue;
            }
            match (&mut left, destination.topics()) {
                (None, _) => {}
                (Some(left), Some(topics)) if topics.len() <= *left => *left -= topics.len(),
                (Some(_), Some(_) | None) => continue,
            }
            together.push(id);
        }
        together
    }

    /// A reread for these begins.
    pub(crate) fn begin_reading(&mut self, ids: &[DestinationId]) {
        for id in ids {
            if let Some(lag) = &mut self.get_mut(*id).lag {
                lag.begin();
            }
        }
    }

    /// The topics a reread for these looks at; `None`: all.
    pub(crate) fn topics(&self, ids: &[DestinationId]) -> Option<Vec<Arc<str>>> {
        let mut topics = BTreeSet::new();
        for id in ids {
            topics.extend(self.get(*id).topics()?.iter().map(Arc::clone));
        }
        Some(topics.into_iter().collect())
    }
}
