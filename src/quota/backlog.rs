//! What the shared store is still to be told: leases, ends of leases, and what was spent. Pure: the time comes in.
//!
//! Bounded. What is too much is dropped, oldest first, and counted by whoever asks [`Backlog::take_lost`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::redis::MarkedSpends;
use super::store::{LeaseId, LeaseRenewal, Spend};

/// Ends of leases that are remembered; beyond that they expire by themselves.
const MAX_RELEASES: usize = 10_000;

/// Spends that are remembered, after those on one name within [`TOGETHER`] were added up.
const MAX_SPENDS: usize = 20_000;

/// Spends of this time are told as one.
const TOGETHER: Duration = Duration::from_secs(5);

/// Spends that are told at once.
const SPENDS_AT_ONCE: usize = 128;

/// What is to be told next.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    /// That these ended.
    Release(Vec<LeaseRenewal>),
    /// That these live.
    Renew(Vec<LeaseRenewal>),
    /// What was spent.
    Spend(MarkedSpends),
}

/// What is to be told, and the leases that live.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    held: HashMap<LeaseId, Held>,
    releases: VecDeque<LeaseRenewal>,
    spends: VecDeque<Batch>,
    n_spends: usize,
    lost: Lost,
    swept: Duration,
}

/// How much was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) releases: u64,
    pub(super) spends: u64,
}

#[derive(Debug)]
struct Held {
    renewal: LeaseRenewal,
    end: Duration,
    /// Whether the store knows it as it is here.
    is_told: bool,
}

#[derive(Debug)]
struct Batch {
    mark: Arc<str>,
    at: Duration,
    spends: BTreeMap<SpendKey, f64>,
    /// Whether the store may know it already, so that nothing may be added.
    may_be_told: bool,
}

/// Of a spend, all but how much. The rate as its bits, so that it can be a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SpendKey {
    Bucket(Arc<str>, u64),
    Window(Arc<str>, Duration),
}

impl Backlog {
    /// A lease lives from now on.
    pub(super) fn hold(&mut self, renewal: LeaseRenewal, is_told: bool, now: Duration) {
        self.sweep(now);
        let end = now.saturating_add(renewal.life);
        let held = Held {
            end,
            is_told,
            renewal,
        };
        self.held.insert(held.renewal.lease.clone(), held);
    }

    /// A lease has ended; `is_told` if the store knows.
    pub(super) fn release(&mut self, renewal: LeaseRenewal, is_told: bool) {
        self.held.remove(&renewal.lease);
        if is_told {
            return;
        }
        self.releases.push_back(renewal);
        if self.releases.len() > MAX_RELEASES {
            self.releases.pop_front();
            self.lost.releases += 1;
        }
    }

    /// The store knows nothing for certain any more.
    pub(super) fn doubt(&mut self) {
        for held in self.held.values_mut() {
            held.is_told = false;
        }
    }

    /// Something was spent that the store was not told.
    pub(super) fn spend(&mut self, spends: Vec<Spend>, now: Duration) {
        for spend in spends {
            let (key, amount) = key_of(spend);
            let is_open = self.spends.back().is_some_and(|batch| {
                !batch.may_be_told
                    && now.saturating_sub(batch.at) < TOGETHER
                    && (batch.spends.len() < SPENDS_AT_ONCE || batch.spends.contains_key(&key))
            });
            if !is_open {
                let batch = Batch::new(MarkedSpends::new(Vec::new()), now, false);
                self.spends.push_back(batch);
            }
            let batch = self.spends.back_mut().expect("one was pushed");
            let before = batch.spends.len();
            *batch.spends.entry(key).or_default() += amount;
            self.n_spends += batch.spends.len() - before;
        }
        self.bound();
    }

    /// Something was spent, and whether the store was told is not known. Said again by the same mark, it counts once.
    pub(super) fn spend_again(&mut self, marked: MarkedSpends, now: Duration) {
        let at = now.saturating_sub(marked.age);
        let batch = Batch::new(marked, at, true);
        self.n_spends += batch.spends.len();
        self.spends.push_back(batch);
        self.bound();
    }

    /// What is to be told next, `at_once` leases of it at most. Whatever could not be told is given back to
    /// [`Self::failed`].
    pub(super) fn next(&mut self, at_once: usize, now: Duration) -> Option<Work> {
        if !self.releases.is_empty() {
            let n = self.releases.len().min(at_once);
            return Some(Work::Release(self.releases.drain(..n).collect()));
        }
        self.held.retain(|_, held| held.end > now);
        let untold = self.held.values_mut().filter(|held| !held.is_told);
        let renewals: Vec<LeaseRenewal> = untold
            .take(at_once)
            .map(|held| {
                held.is_told = true;
                let mut renewal = held.renewal.clone();
                // It has not been renewed since.
                renewal.life = held.end - now;
                renewal
            })
            .collect();
        if !renewals.is_empty() {
            return Some(Work::Renew(renewals));
        }
        let batch = self.spends.pop_front()?;
        self.n_spends -= batch.spends.len();
        Some(Work::Spend(MarkedSpends {
            mark: batch.mark,
            age: now.saturating_sub(batch.at),
            spends: batch.spends.into_iter().map(spend_of).collect(),
        }))
    }

    /// Something could not be told.
    pub(super) fn failed(&mut self, work: Work, now: Duration) {
        match work {
            Work::Release(releases) => self.releases.extend(releases),
            Work::Renew(renewals) => {
                for renewal in renewals {
                    if let Some(held) = self.held.get_mut(&renewal.lease) {
                        held.is_told = false;
                    }
                }
            }
            Work::Spend(marked) => self.spend_again(marked, now),
        }
    }

    /// Whether there is nothing to tell.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.releases.is_empty()
            && self.spends.is_empty()
            && self.held.values().all(|held| held.is_told)
    }

    /// How much was dropped since the last time.
    pub(super) fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    fn bound(&mut self) {
        while self.n_spends > MAX_SPENDS
            && let Some(batch) = self.spends.pop_front()
        {
            self.n_spends -= batch.spends.len();
            self.lost.spends += batch.spends.len() as u64;
        }
    }

    /// Forgets leases whose holders forgot them.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) >= TOGETHER {
            self.swept = now;
            self.held.retain(|_, held| held.end > now);
        }
    }
}

impl Batch {
    fn new(marked: MarkedSpends, at: Duration, may_be_told: bool) -> Self {
        let mut spends = BTreeMap::new();
        for spend in marked.spends {
            let (key, amount) = key_of(spend);
            *spends.entry(key).or_default() += amount;
        }
        Self {
            mark: marked.mark,
            at,
            spends,
            may_be_told,
        }
    }
}

fn key_of(spend: Spend) -> (SpendKey, f64) {
    match spend {
        Spend::Bucket {
            name,
            per_minute,
            amount,
        } => (SpendKey::Bucket(name, per_minute.to_bits()), amount),
        Spend::Window {
            name,
            length,
            amount,
        } => (SpendKey::Window(name, length), amount),
    }
}

fn spend_of((key, amount): (SpendKey, f64)) -> Spend {
    match key {
        SpendKey::Bucket(name, per_minute) => Spend::Bucket {
            name,
            per_minute: f64::from_bits(per_minute),
            amount,
        },
        SpendKey::Window(name, length) => Spend::Window {
            name,
            length,
            amount,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(name: &str) -> LeaseRenewal {
        LeaseRenewal {
            lease: LeaseId(name.into()),
            life: at(15),
            counted: vec!["calls".into()],
            demands: Vec::new(),
        }
    }

    fn spend(name: &str, amount: f64) -> Spend {
        Spend::Window {
            name: name.into(),
            length: at(60),
            amount,
        }
    }

    fn amounts(work: Option<Work>) -> Vec<f64> {
        let Some(Work::Spend(marked)) = work else {
            panic!("{work:?}");
        };
        let amounts = marked.spends.iter().map(|spend| match spend {
            Spend::Bucket { amount, .. } | Spend::Window { amount, .. } => *amount,
        });
        amounts.collect()
    }

    #[test]
    fn leases_are_told_until_they_are_known() {
        let mut backlog = Backlog::default();
        backlog.hold(lease("a"), true, at(0));
        assert!(backlog.is_empty());
        backlog.doubt();
        backlog.hold(lease("b"), false, at(10));
        backlog.release(lease("c"), false);
        assert_eq!(
            backlog.next(9, at(10)),
            Some(Work::Release(vec![lease("c")]))
        );
        let Some(Work::Renew(renewals)) = backlog.next(9, at(10)) else {
            panic!("two leases");
        };
        let mut lives: Vec<_> = renewals
            .iter()
            .map(|it| (it.lease.0.as_ref(), it.life))
            .collect();
        lives.sort();
        assert_eq!(lives, [("a", at(5)), ("b", at(15))]);
        assert!(backlog.is_empty());
        backlog.failed(Work::Renew(renewals), at(10));
        // The first has expired meanwhile.
        let Some(Work::Renew(renewals)) = backlog.next(9, at(15)) else {
            panic!("one lease");
        };
        assert_eq!(renewals.len(), 1);
        assert_eq!(backlog.next(9, at(15)), None);
        backlog.release(lease("b"), true);
        assert!(backlog.is_empty() && backlog.held.is_empty());
    }

    #[test]
    fn spends_are_added_up_but_for_those_that_may_be_known() {
        let mut backlog = Backlog::default();
        backlog.spend(vec![spend("a", 1.0), spend("a", 2.0)], at(0));
        backlog.spend(vec![spend("a", 4.0)], at(4));
        let marked = MarkedSpends::new(vec![spend("a", 8.0)]);
        backlog.spend_again(marked.clone(), at(4));
        backlog.spend(vec![spend("a", 16.0)], at(4));
        backlog.spend(vec![spend("a", 32.0)], at(9));
        assert_eq!(amounts(backlog.next(9, at(9))), [7.0]);
        let again = backlog.next(9, at(9)).expect("the one that may be known");
        let Work::Spend(it) = &again else {
            panic!("{again:?}");
        };
        assert_eq!((&it.mark, it.age), (&marked.mark, at(5)));
        backlog.failed(again, at(9));
        assert_eq!(amounts(backlog.next(9, at(9))), [16.0]);
        assert_eq!(amounts(backlog.next(9, at(9))), [32.0]);
        let again = backlog.next(9, at(19));
        assert!(
            matches!(&again, Some(Work::Spend(it)) if it.age == at(15) && it.mark == marked.mark)
        );
        assert!(backlog.is_empty() && backlog.n_spends == 0);
    }

    #[test]
    fn the_backlog_is_bounded() {
        let mut backlog = Backlog::default();
        for n in 0..MAX_SPENDS + 1 {
            backlog.spend(vec![spend(&n.to_string(), 1.0)], at(0));
        }
        assert!(backlog.n_spends <= MAX_SPENDS);
        for n in 0..MAX_RELEASES + 3 {
            backlog.release(lease(&n.to_string()), false);
        }
        let lost = backlog.take_lost();
        assert_eq!(lost.releases, 3);
        assert_eq!(lost.spends, SPENDS_AT_ONCE as u64);
        assert_eq!(backlog.take_lost(), Lost::default());
        for n in 0..100 {
            backlog.hold(lease(&n.to_string()), true, at(n));
        }
        assert!(backlog.held.len() <= 21);
    }
}
