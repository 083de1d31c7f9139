//! Missing sequence numbers: which of them may still turn into rows.
//!
//! A number is taken before its transaction commits, so a row can appear below the cursor. `nextval` locks the sequence to
//! the end of the transaction that called it; whoever owns a missing number is among the holders of that lock read *after*
//! the snapshot that showed the gap. Once all of those are gone, and a *later* snapshot still shows the gap, nobody can fill
//! it: the number was rolled back.
//!
//! ```text
//!   holders H ──> snapshot (fetch: gaps and page) ──> new gaps get the holders read after it
//!       └─ gaps none of whose holders is in H, and that this snapshot still lacks, are dead
//! ```
//!
//! Pure. Holds ranges, never single numbers, so that a jump of the sequence costs one entry.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Open transactions that have taken a number: virtual transaction ids, as `pg_locks` shows them.
pub(super) type Holders = Arc<HashSet<String>>;

/// A prepared transaction shows as this after a server restart, without the id it had: wait for it.
const RESTARTED_PREPARED: &str = "-1/";

#[derive(Debug, Clone)]
struct Gap {
    last: i64,
    /// Who may own its numbers; `None` until read.
    holders: Option<Holders>,
}

/// The gaps being watched, by first number.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    ranges: BTreeMap<i64, Gap>,
}

impl Gaps {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether this number is missing.
    pub(super) fn contains(&self, seq: i64) -> bool {
        let before = self.ranges.range(..=seq).next_back();
        before.is_some_and(|(_, gap)| seq <= gap.last)
    }

    /// Gaps watched (ranges).
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The first missing number.
    pub(super) fn first(&self) -> Option<i64> {
        self.ranges.first_key_value().map(|(first, _)| *first)
    }

    /// Numbers `first..=last` are missing from a snapshot just taken.
    pub(super) fn open(&mut self, first: i64, last: i64) {
        debug_assert!(first <= last);
        self.ranges.insert(first, Gap { last, holders: None });
    }

    /// The holders read after the snapshot in which the newest gaps were opened.
    pub(super) fn attribute(&mut self, holders: &Holders) {
        for gap in self.ranges.values_mut().filter(|gap| gap.holders.is_none()) {
            gap.holders = Some(Arc::clone(holders));
        }
    }

    /// Ranges worth a look, given the holders read before it: those some holder of which has gone, as two arrays of first
    /// and last numbers. While there are few, all of them: a transaction may end between the two statements.
    pub(super) fn worth_a_look(&self, holders: &Holders, few: usize) -> (Vec<i64>, Vec<i64>) {
        let all = self.ranges.len() <= few;
        self.ranges
            .iter()
            .filter(|(_, gap)| all || gap.holders.as_ref().is_none_or(|held| !held.is_subset(holders)))
            .map(|(first, gap)| (*first, gap.last))
            .unzip()
    }

    /// The numbers past `seq` are to be read again.
    pub(super) fn forget_past(&mut self, seq: i64) {
        drop(self.ranges.split_off(&seq.saturating_add(1)));
    }

    /// A row has appeared at `seq`.
    pub(super) fn fill(&mut self, seq: i64) {
        let Some((&first, gap)) = self.ranges.range(..=seq).next_back() else {
            return;
        };
        if seq > gap.last {
            return;
        }
        let gap = self.ranges.remove(&first).expect("the range just found");
        if first < seq {
            self.ranges.insert(
                first,
                Gap {
                    last: seq - 1,
                    holders: gap.holders.clone(),
                },
            );
        }
        if seq < gap.last {
            self.ranges.insert(
                seq + 1,
                Gap {
                    last: gap.last,
                    holders: gap.holders,
                },
            );
        }
    }

    /// The ranges that were looked at and still lack every number up to `seen_upto`, with the holders read before that
    /// look: forgets those nobody can fill any more, and who has gone from the others.
    pub(super) fn still_missing(&mut self, looked_at: &(Vec<i64>, Vec<i64>), seen_upto: i64, holders: &Holders) {
        if holders.iter().any(|holder| holder.starts_with(RESTARTED_PREPARED)) {
            return;
        }
        for (&first, &last) in looked_at.0.iter().zip(&looked_at.1) {
            let within: Vec<i64> = self.ranges.range(first..=last).map(|(start, _)| *start).collect();
            for start in within {
                let gap = self.ranges.get_mut(&start).expect("the range just listed");
                if gap.last > seen_upto {
                    continue;
                }
                let Some(held) = &gap.holders else { continue };
                let left: HashSet<String> = held.intersection(holders).cloned().collect();
                if left.is_empty() {
                    self.ranges.remove(&start);
                } else if left.len() < held.len() {
                    gap.holders = Some(Arc::new(left));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(names: &[&str]) -> Holders {
        Arc::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn look(gaps: &Gaps, before: &Holders) -> (Vec<i64>, Vec<i64>) {
        gaps.worth_a_look(before, 100)
    }

    #[test]
    fn a_gap_lives_while_one_of_its_holders_does() {
        let mut gaps = Gaps::default();
        gaps.open(5, 7);
        gaps.attribute(&holders(&["3/1", "4/9"]));
        let before = holders(&["4/9"]);
        let seen = look(&gaps, &before);
        gaps.still_missing(&seen, i64::MAX, &before);
        assert_eq!(gaps.len(), 1);
        let before = holders(&["5/5"]);
        let seen = look(&gaps, &before);
        gaps.still_missing(&seen, i64::MAX, &before);
        assert!(gaps.is_empty(), "later transactions do not keep it");
    }

    #[test]
    fn a_row_splits_its_gap() {
        let mut gaps = Gaps::default();
        gaps.open(5, 9);
        gaps.attribute(&holders(&["1/1"]));
        for seq in [7, 5, 9, 20] {
            gaps.fill(seq);
        }
        assert_eq!(look(&gaps, &holders(&[])), (vec![6, 8], vec![6, 8]));
    }

    #[test]
    fn a_gap_not_yet_attributed_is_not_dead() {
        let mut gaps = Gaps::default();
        gaps.open(5, 5);
        let before = holders(&[]);
        let seen = look(&gaps, &before);
        gaps.still_missing(&seen, i64::MAX, &before);
        assert_eq!(gaps.len(), 1);
    }

    #[test]
    fn what_a_cut_answer_did_not_reach_is_not_dead() {
        let mut gaps = Gaps::default();
        gaps.open(5, 5);
        gaps.open(50, 60);
        gaps.attribute(&holders(&[]));
        let before = holders(&[]);
        let seen = look(&gaps, &before);
        gaps.still_missing(&seen, 10, &before);
        assert_eq!(look(&gaps, &before), (vec![50], vec![60]));
    }

    #[test]
    fn a_prepared_transaction_of_a_former_server_life_keeps_all() {
        let mut gaps = Gaps::default();
        gaps.open(5, 5);
        gaps.attribute(&holders(&["1/1"]));
        let before = holders(&["-1/77"]);
        let seen = look(&gaps, &before);
        gaps.still_missing(&seen, i64::MAX, &before);
        assert_eq!(gaps.len(), 1);
    }

    #[test]
    fn many_gaps_are_looked_at_only_when_someone_has_gone() {
        let mut gaps = Gaps::default();
        for n in 0..10 {
            gaps.open(n * 10, n * 10);
        }
        gaps.attribute(&holders(&["1/1", "2/2"]));
        assert!(gaps.worth_a_look(&holders(&["1/1", "2/2"]), 5).0.is_empty());
        assert_eq!(gaps.worth_a_look(&holders(&["1/1"]), 5).0.len(), 10);
    }
}
