//! Missing sequence numbers: which of them may still turn into rows.
//!
//! A number is taken before its transaction commits, so a row can appear below the cursor. `nextval` locks the sequence to
//! the end of the transaction that called it, so whoever owns a missing number holds that lock. But a list of holders is
//! never the snapshot of a page: it is read before or after it, and a transaction may take a number and commit between the
//! two. So:
//!
//! ```text
//!   page n shows a gap ──> holders A read after it ──> page n+1 looks at the gap, whoever holds what
//!                                                          │ still missing: its owner, if there is one, is among A
//!                                                          v
//!   from then on it is looked at with a page when some of its holders is gone by the list read *after* that page,
//!   and who is gone by the list read *before* a look that still lacks it will never fill it: no holder left, it is dead
//! ```
//!
//! Gaps that the same transactions may own form a cohort, so that a hundred thousand of them beside one long transaction cost
//! one comparison a page. Pure. Holds ranges, never single numbers, so that a jump of the sequence costs one entry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Open transactions that have taken a number: virtual transaction ids, as `pg_locks` shows them.
pub(crate) type Holders = Arc<BTreeSet<Box<str>>>;

/// More cohorts than this, and the two oldest become one that waits for the holders of both.
const MOST_COHORTS: usize = 64;

/// First and last numbers of ranges, in order: as the statements take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) firsts: Vec<i64>,
    pub(crate) lasts: Vec<i64>,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.firsts.len()
    }

    /// Takes away what is past the first `count`.
    pub(crate) fn split_off(&mut self, count: usize) -> Self {
        let count = count.min(self.len());
        Self {
            firsts: self.firsts.split_off(count),
            lasts: self.lasts.split_off(count),
        }
    }

    fn of(mut pairs: Vec<(i64, i64)>) -> Self {
        pairs.sort_unstable();
        let (firsts, lasts) = pairs.into_iter().unzip();
        Self { firsts, lasts }
    }
}

/// Gaps that the same transactions may own.
#[derive(Debug)]
struct Cohort {
    /// Who may own their numbers.
    holders: Holders,
    /// Looked at once since the page that opened them: `holders` misses nobody.
    confirmed: bool,
    /// Looked at with the page under way.
    looked_at: bool,
    /// Last number by first.
    ranges: BTreeMap<i64, i64>,
}

/// The gaps being watched.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    cohorts: Vec<Cohort>,
    /// Those of the page under way, whose holders are yet to be read.
    opening: BTreeMap<i64, i64>,
}

impl Gaps {
    pub(crate) fn is_empty(&self) -> bool {
        self.cohorts.is_empty() && self.opening.is_empty()
    }

    /// Whether this number is missing.
    pub(crate) fn contains(&self, seq: i64) -> bool {
        let mut all = self.cohorts.iter().map(|cohort| &cohort.ranges).chain([&self.opening]);
        all.any(|ranges| range_with(ranges, seq).is_some())
    }

    /// Gaps watched (ranges).
    pub(crate) fn len(&self) -> usize {
        self.cohorts.iter().map(|cohort| cohort.ranges.len()).sum::<usize>() + self.opening.len()
    }

    /// The first missing number.
    pub(crate) fn first(&self) -> Option<i64> {
        let all = self.cohorts.iter().map(|cohort| &cohort.ranges).chain([&self.opening]);
        all.filter_map(|ranges| ranges.first_key_value().map(|(first, _)| *first))
            .min()
    }

    /// Numbers `first..=last` are missing from the page under way.
    pub(crate) fn open(&mut self, first: i64, last: i64) {
        debug_assert!(first <= last, "a gap has a number at least");
        self.opening.insert(first, last);
    }

    /// The page under way ends before `seq`: gaps past there are seen again.
    pub(crate) fn unopen_from(&mut self, seq: i64) {
        drop(self.opening.split_off(&seq));
    }

    /// The holders read after the page under way.
    pub(crate) fn attribute(&mut self, holders: &Holders) {
        if self.opening.is_empty() {
            return;
        }
        self.cohorts.push(Cohort {
            holders: Arc::clone(holders),
            confirmed: super::broken(super::Broken::NotLookedAtOnce),
            looked_at: false,
            ranges: std::mem::take(&mut self.opening),
        });
    }

    /// All of them but those of the page under way, to be looked at with it.
    pub(crate) fn look_at_all(&mut self) -> Ranges {
        self.look_at(|_| true)
    }

    /// Those that a transaction may have filled in the page's snapshot, given the holders read after it.
    pub(crate) fn look_at_changed(&mut self, after: &Holders) -> Ranges {
        self.look_at(|cohort| !cohort.confirmed || !cohort.holders.is_subset(after))
    }

    fn look_at(&mut self, pick: impl Fn(&Cohort) -> bool) -> Ranges {
        let mut pairs = Vec::new();
        for cohort in &mut self.cohorts {
            cohort.looked_at = pick(cohort);
            if cohort.looked_at {
                pairs.extend(cohort.ranges.iter().map(|(first, last)| (*first, *last)));
            }
        }
        Ranges::of(pairs)
    }

    /// A row has appeared at `seq`.
    pub(crate) fn fill(&mut self, seq: i64) {
        let all = self.cohorts.iter_mut().map(|cohort| &mut cohort.ranges);
        for ranges in all {
            let Some((first, last)) = range_with(ranges, seq) else {
                continue;
            };
            ranges.remove(&first);
            if first < seq {
                ranges.insert(first, seq - 1);
            }
            if seq < last {
                ranges.insert(seq + 1, last);
            }
        }
    }

    /// What was looked at with the page and not filled is still missing: forgets what nobody can fill any more, given the
    /// holders read before that page. `None`: they are not known, or the look was cut short.
    pub(crate) fn looked(&mut self, before: Option<&Holders>) {
        for cohort in &mut self.cohorts {
            if !std::mem::replace(&mut cohort.looked_at, false) {
                continue;
            }
            let Some(before) = before else { continue };
            cohort.confirmed = true;
            if !cohort.holders.is_subset(before) {
                cohort.holders = Arc::new(cohort.holders.intersection(before).cloned().collect());
            }
        }
        self.cohorts.retain(|cohort| {
            let dead = cohort.confirmed && cohort.holders.is_empty();
            !dead && !cohort.ranges.is_empty()
        });
        self.unite_equals();
        while self.cohorts.len() > MOST_COHORTS {
            self.unite_oldest();
        }
    }

    /// Forgets all of them but the newest, because there are too many: answers who may own their numbers, and the first of
    /// them. All, or a transaction would own numbers below that are still watched, and come too late, with others that are not.
    /// Those that were not looked at yet stay: they may have owners that their holders do not name.
    pub(crate) fn forget_known(&mut self) -> Option<(Holders, i64)> {
        let all = std::mem::take(&mut self.cohorts);
        let (known, newest): (Vec<Cohort>, Vec<Cohort>) = all.into_iter().partition(|cohort| cohort.confirmed);
        self.cohorts = newest;
        let first = known.iter().filter_map(|cohort| cohort.ranges.first_key_value());
        let first = first.map(|(first, _)| *first).min()?;
        let holders: BTreeSet<Box<str>> = known.iter().flat_map(|cohort| cohort.holders.iter().cloned()).collect();
        Some((Arc::new(holders), first))
    }

    fn unite_equals(&mut self) {
        let mut united: Vec<Cohort> = Vec::with_capacity(self.cohorts.len());
        for cohort in std::mem::take(&mut self.cohorts) {
            let same = |other: &&mut Cohort| other.confirmed && cohort.confirmed && other.holders == cohort.holders;
            match united.iter_mut().find(same) {
                Some(other) => absorb(&mut other.ranges, cohort.ranges),
                None => united.push(cohort),
            }
        }
        self.cohorts = united;
    }

    fn unite_oldest(&mut self) {
        let second = self.cohorts.remove(1);
        let first = &mut self.cohorts[0];
        first.confirmed &= second.confirmed;
        first.holders = Arc::new(first.holders.union(&second.holders).cloned().collect());
        absorb(&mut first.ranges, second.ranges);
    }
}

/// The range that `seq` is in.
fn range_with(ranges: &BTreeMap<i64, i64>, seq: i64) -> Option<(i64, i64)> {
    let (first, last) = ranges.range(..=seq).next_back()?;
    (seq <= *last).then_some((*first, *last))
}

/// Puts the fewer into the more: `append` would copy both.
fn absorb(ranges: &mut BTreeMap<i64, i64>, mut others: BTreeMap<i64, i64>) {
    if others.len() > ranges.len() {
        std::mem::swap(ranges, &mut others);
    }
    ranges.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(names: &[&str]) -> Holders {
        Arc::new(names.iter().map(|name| (*name).into()).collect())
    }

    fn ranges(pairs: &[(i64, i64)]) -> Ranges {
        Ranges::of(pairs.to_vec())
    }

    /// One page later: everything is looked at and nothing found.
    fn pass(gaps: &mut Gaps, before: &[&str]) {
        gaps.look_at_all();
        gaps.looked(Some(&holders(before)));
    }

    #[test]
    fn a_gap_lives_while_one_of_its_holders_does() {
        let mut gaps = Gaps::default();
        gaps.open(5, 7);
        gaps.attribute(&holders(&["3/1", "4/9"]));
        pass(&mut gaps, &["3/1", "4/9"]);
        pass(&mut gaps, &["4/9"]);
        assert_eq!(gaps.len(), 1);
        pass(&mut gaps, &["5/5"]);
        assert!(gaps.is_empty(), "later transactions do not keep it");
    }

    #[test]
    fn a_new_gap_is_looked_at_once_whoever_holds_what() {
        let mut gaps = Gaps::default();
        gaps.open(5, 5);
        let long = holders(&["1/1"]);
        gaps.attribute(&long);
        assert_eq!(gaps.look_at_changed(&long), ranges(&[(5, 5)]));
        gaps.looked(Some(&long));
        assert!(gaps.look_at_changed(&long).is_empty());
        assert_eq!(gaps.look_at_changed(&holders(&[])), ranges(&[(5, 5)]));
        gaps.looked(Some(&long));
        assert_eq!(gaps.len(), 1, "its holder may have committed after that page");
        gaps.look_at_changed(&holders(&[]));
        gaps.looked(Some(&holders(&[])));
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_row_splits_its_gap() {
        let mut gaps = Gaps::default();
        gaps.open(5, 9);
        gaps.attribute(&holders(&["1/1"]));
        for seq in [7, 5, 9, 20] {
            gaps.fill(seq);
        }
        assert_eq!(gaps.look_at_all(), ranges(&[(6, 6), (8, 8)]));
        assert!(gaps.contains(6) && !gaps.contains(7) && gaps.first() == Some(6));
    }

    #[test]
    fn a_look_cut_short_kills_nothing() {
        let mut gaps = Gaps::default();
        gaps.open(5, 5);
        gaps.attribute(&holders(&[]));
        gaps.look_at_all();
        gaps.looked(None);
        assert_eq!(gaps.len(), 1);
        pass(&mut gaps, &[]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn many_gaps_beside_one_long_transaction_are_one_cohort() {
        let mut gaps = Gaps::default();
        for page in 0..100_i64 {
            gaps.open(page * 10, page * 10);
            let writer = format!("2/{page}");
            gaps.attribute(&holders(&["1/1", &writer]));
            gaps.look_at_changed(&holders(&["1/1"]));
            gaps.looked(Some(&holders(&["1/1", &writer])));
            gaps.look_at_changed(&holders(&["1/1"]));
            gaps.looked(Some(&holders(&["1/1"])));
            assert!(gaps.cohorts.len() <= 2);
        }
        assert_eq!(gaps.len(), 100);
        assert!(gaps.look_at_changed(&holders(&["1/1", "9/9"])).is_empty());
        gaps.looked(None);
        assert_eq!(gaps.look_at_changed(&holders(&["9/9"])).len(), 100);
        gaps.looked(Some(&holders(&["9/9"])));
        assert!(gaps.is_empty());
    }

    #[test]
    fn cohorts_are_bounded_and_wait_for_the_holders_of_both() {
        let mut gaps = Gaps::default();
        let all: Vec<String> = (0..200).map(|n| format!("{n}/1")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for n in 0..200_i64 {
            gaps.open(n * 10, n * 10);
            gaps.attribute(&holders(&[all[usize::try_from(n).unwrap()]]));
            pass(&mut gaps, &all);
        }
        assert!(gaps.cohorts.len() <= MOST_COHORTS && gaps.len() == 200);
        pass(&mut gaps, &all[1..]);
        assert_eq!(gaps.len(), 200, "the first waits with its neighbours");
        pass(&mut gaps, &[]);
        assert!(gaps.is_empty());
    }
}
