//! The checker: what was committed against what arrived.
//!
//! Knows neither the daemon nor a broker: two lists in, a [`Verdict`] out. Its own tests show that each kind of damage
//! is seen. The checker program (`examples/check.rs`) is made of this too.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use uuid::Uuid;

use super::arrivals::Arrival;

/// A committed row as the database shows it after the run.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    /// `seq`.
    pub(crate) seq: i64,
    /// Message id.
    pub(crate) id: Uuid,
    /// Topic.
    pub(crate) topic: String,
    /// Key.
    pub(crate) key: Option<String>,
    /// `relayed_at` is set.
    pub(crate) relayed: bool,
    /// `failed_at` is set.
    pub(crate) failed: bool,
    /// `attempt`.
    pub(crate) attempt: i32,
    /// `priority`; order holds within one.
    pub(crate) priority: i16,
    /// The first bytes of the payload's SHA-256.
    pub(crate) digest: Vec<u8>,
}

const DIGEST_BYTES: usize = 8;

/// Reads every row of the outbox, whose payload is json, jsonb or text.
pub(crate) async fn committed(client: &Client) -> Result<Vec<Committed>, tokio_postgres::Error> {
    let query = format!(
        "select seq, id, topic, key, relayed_at is not null, failed_at is not null, attempt,
                substring(sha256(convert_to(payload::text, 'UTF8')) for {DIGEST_BYTES}), greatest(priority, 0::smallint)
         from outbox_messages"
    );
    let rows = client.query(&query, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| Committed {
            seq: row.get(0),
            id: row.get(1),
            topic: row.get(2),
            key: row.get(3),
            relayed: row.get(4),
            failed: row.get(5),
            attempt: row.get(6),
            digest: row.get(7),
            priority: row.get(8),
        })
        .collect())
}

/// What the comparison found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Rows committed.
    pub(crate) committed: usize,
    /// Copies that arrived.
    pub(crate) arrived: usize,
    /// Rows in `failed_at`.
    pub(crate) failed: usize,
    /// Copies beyond the first of each row.
    pub(crate) duplicates: usize,
    /// Rows that neither arrived nor failed, nor are known to wait: `seq`.
    pub(crate) lost: Vec<i64>,
    /// Rows marked relayed that never arrived: `seq`. A part of `lost`.
    pub(crate) marked_unsent: Vec<i64>,
    /// Rows still pending: `seq`.
    pub(crate) pending: Vec<i64>,
    /// Ids that arrived though no such row was committed.
    pub(crate) unknown: Vec<Uuid>,
    /// Copies whose topic, key or payload is not their row's.
    pub(crate) altered: Vec<Uuid>,
    /// First copies that came after a later row of their key and priority: topic, key, `seq` seen before, `seq`.
    pub(crate) disorder: Vec<(String, String, i64, i64)>,
    /// Rows whose `attempt` is above 1.
    pub(crate) attempts_counted: usize,
}

/// Compares `rows` with `arrivals`.
pub(crate) fn compare(rows: &[Committed], arrivals: &[Arrival]) -> Verdict {
    let by_id: HashMap<Uuid, &Committed> = rows.iter().map(|row| (row.id, row)).collect();
    let mut seen: HashMap<Uuid, usize> = HashMap::with_capacity(rows.len());
    let mut last: HashMap<(&str, &str, i16), i64> = HashMap::new();
    let mut verdict = Verdict {
        committed: rows.len(),
        arrived: arrivals.len(),
        ..Verdict::default()
    };
    for arrival in arrivals {
        let Some(row) = by_id.get(&arrival.id) else {
            verdict.unknown.push(arrival.id);
            continue;
        };
        let same_payload = Sha256::digest(&arrival.payload).starts_with(&row.digest);
        if row.topic != arrival.topic || row.key != arrival.key || !same_payload {
            verdict.altered.push(arrival.id);
        }
        let copies = seen.entry(arrival.id).or_default();
        *copies += 1;
        if *copies > 1 {
            verdict.duplicates += 1;
            continue;
        }
        if let Some(key) = row.key.as_deref() {
            let before = last.entry((&row.topic, key, row.priority)).or_insert(row.seq);
            if *before > row.seq {
                verdict
                    .disorder
                    .push((row.topic.clone(), key.to_owned(), *before, row.seq));
            }
            *before = row.seq.max(*before);
        }
    }
    for row in rows {
        let arrived = seen.contains_key(&row.id);
        verdict.failed += usize::from(row.failed);
        verdict.attempts_counted += usize::from(row.attempt > 1);
        if !row.relayed && !row.failed {
            verdict.pending.push(row.seq);
        } else if !arrived && !row.failed {
            verdict.lost.push(row.seq);
            verdict.marked_unsent.push(row.seq);
        }
    }
    verdict
}

impl Verdict {
    /// P1: every committed row arrived or is in `failed_at`, and nothing arrived that was not committed.
    pub(crate) fn assert_nothing_lost(&self) {
        assert!(
            self.pending.is_empty(),
            "{self}: still pending {:?}",
            few(&self.pending)
        );
        assert!(
            self.lost.is_empty(),
            "{self}: marked but never sent {:?}",
            few(&self.lost)
        );
        assert!(
            self.unknown.is_empty(),
            "{self}: never committed {:?}",
            few(&self.unknown)
        );
        assert!(
            self.altered.is_empty(),
            "{self}: topic, key or payload altered {:?}",
            few(&self.altered)
        );
    }

    /// P2: at most `bound` copies too many.
    pub(crate) fn assert_duplicates_within(&self, bound: usize) {
        assert!(self.duplicates <= bound, "{self}: more than {bound} duplicates");
    }

    /// P3: first copies in `seq` order per (topic, key).
    pub(crate) fn assert_ordered(&self) {
        assert!(
            self.disorder.is_empty(),
            "{self}: out of order (topic, key, after, seq) {:?}",
            few(&self.disorder)
        );
    }
}

fn few<T>(list: &[T]) -> &[T] {
    &list[..list.len().min(10)]
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} committed, {} arrived, {} failed, {} duplicates, {} lost, {} pending, {} unknown, {} altered, \
             {} out of order, {} with attempts counted",
            self.committed,
            self.arrived,
            self.failed,
            self.duplicates,
            self.lost.len(),
            self.pending.len(),
            self.unknown.len(),
            self.altered.len(),
            self.disorder.len(),
            self.attempts_counted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64, key: &str) -> Committed {
        let (topic, key) = ("t".to_owned(), Some(key.to_owned()));
        Committed {
            seq,
            id: Uuid::from_u128(seq as u128),
            topic,
            key,
            relayed: true,
            failed: false,
            attempt: 1,
            priority: 0,
            digest: Sha256::digest(b"{}")[..DIGEST_BYTES].to_vec(),
        }
    }

    fn copy(row: &Committed) -> Arrival {
        let (topic, key) = (row.topic.clone(), row.key.clone());
        Arrival {
            id: row.id,
            topic,
            key,
            headers: Vec::new(),
            payload: b"{}".to_vec(),
        }
    }

    #[test]
    fn a_perfect_run_passes() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a")];
        let verdict = compare(&rows, &[copy(&rows[1]), copy(&rows[0]), copy(&rows[2])]);
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        verdict.assert_duplicates_within(0);
    }

    #[test]
    fn a_row_marked_but_never_sent_is_lost() {
        let rows = [row(1, "a"), row(2, "a")];
        assert_eq!(compare(&rows, &[copy(&rows[0])]).lost, [2]);
    }

    #[test]
    fn a_failed_row_is_not_lost_and_a_pending_one_is_seen() {
        let rows = [
            Committed {
                relayed: false,
                failed: true,
                ..row(1, "a")
            },
            Committed {
                relayed: false,
                ..row(2, "a")
            },
        ];
        let verdict = compare(&rows, &[]);
        assert!(verdict.lost.is_empty());
        assert_eq!((verdict.failed, verdict.pending), (1, vec![2]));
    }

    #[test]
    fn order_holds_within_a_priority() {
        let urgent = |seq| Committed {
            priority: 1,
            ..row(seq, "a")
        };
        let rows = [row(1, "a"), urgent(2), urgent(3)];
        let [one, two, three] = rows.each_ref().map(copy);
        assert!(
            compare(&rows, &[two.clone(), three.clone(), one.clone()])
                .disorder
                .is_empty()
        );
        assert_eq!(compare(&rows, &[one, three, two]).disorder.len(), 1);
    }

    #[test]
    fn copies_are_counted_and_do_not_disturb_the_order() {
        let rows = [row(1, "a"), row(2, "a")];
        let verdict = compare(&rows, &[copy(&rows[0]), copy(&rows[1]), copy(&rows[0]), copy(&rows[1])]);
        assert_eq!(verdict.duplicates, 2);
        verdict.assert_ordered();
    }

    #[test]
    fn an_overtaken_row_is_out_of_order_within_its_key_only() {
        let rows = [row(1, "a"), row(2, "a"), row(3, "b")];
        let verdict = compare(&rows, &[copy(&rows[2]), copy(&rows[1]), copy(&rows[0])]);
        assert_eq!(verdict.disorder, [("t".to_owned(), "a".to_owned(), 2, 1)]);
    }

    #[test]
    fn what_was_never_committed_is_seen() {
        let rows = [row(1, "a")];
        let verdict = compare(&rows, &[copy(&rows[0]), copy(&row(9, "z"))]);
        assert_eq!(verdict.unknown, [Uuid::from_u128(9)]);
    }

    #[test]
    fn another_key_than_the_row_s_is_seen() {
        let rows = [row(1, "a")];
        let verdict = compare(
            &rows,
            &[Arrival {
                key: None,
                ..copy(&rows[0])
            }],
        );
        assert_eq!(verdict.altered.len(), 1);
    }

    #[test]
    fn another_payload_than_the_row_s_is_seen() {
        let rows = [row(1, "a")];
        let damaged = Arrival {
            payload: b"{} ".to_vec(),
            ..copy(&rows[0])
        };
        assert_eq!(compare(&rows, &[damaged]).altered, [rows[0].id]);
    }
}
