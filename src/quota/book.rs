//! Books: who holds a lease, and what the live leases of a pool need. Pure: the time comes in. The scripts in `redis/`
//! compute the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::bucket::{SLACK, finite};
use super::store::{Book, GroupDemand, LeaseId};

/// Demands are kept in steps of this, so that sums of them are exact and nothing is left when all leases have gone.
const STEP: f64 = 1.0 / 1024.0;

/// More tokens a minute than any call needs.
const MAX_DEMAND: f64 = 1e9;

/// The shortest that calls are taken to last, in minutes, and the lightest that a tenant can weigh.
const MIN: f64 = 1e-3;

/// Minutes that a call lasts where nothing is known of it (only for when to ask again).
pub(super) const USUAL_MINUTES: f64 = 3.0;

impl GroupDemand {
    /// With numbers that can be added up and divided by.
    pub(super) fn sane(&self) -> Self {
        let step = |number: f64, least: f64| {
            (finite(number).clamp(least, MAX_DEMAND) / STEP).round() * STEP
        };
        let mut sane = self.clone();
        sane.weight = finite(self.weight).clamp(MIN, MAX_DEMAND);
        sane.mean_minutes = finite(self.mean_minutes).clamp(MIN, MAX_DEMAND);
        sane.demand.now = step(self.demand.now, 0.0);
        sane.demand.growth = step(self.demand.growth, -MAX_DEMAND);
        sane
    }

    /// Whether it asks for nothing, which passes whatever the pool's state is.
    pub(super) fn is_nothing(&self) -> bool {
        self.demand.now == 0.0 && self.demand.growth == 0.0
    }
}

/// Leases until they expire, with whatever belongs to each.
#[derive(Debug)]
pub(super) struct Leases<T> {
    by_id: HashMap<LeaseId, (Duration, T)>,
    by_end: BTreeSet<(Duration, LeaseId)>,
}

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_end: BTreeSet::new(),
        }
    }
}

impl<T> Leases<T> {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Enters a lease, and gives back what it stood for before.
    pub(super) fn enter(&mut self, lease: &LeaseId, end: Duration, what: T) -> Option<T> {
        let before = self.leave(lease);
        self.by_id.insert(lease.clone(), (end, what));
        self.by_end.insert((end, lease.clone()));
        before
    }

    /// Ends a lease, and gives back what it stood for.
    pub(super) fn leave(&mut self, lease: &LeaseId) -> Option<T> {
        let (end, what) = self.by_id.remove(lease)?;
        self.by_end.remove(&(end, lease.clone()));
        Some(what)
    }

    /// Takes out one lease whose time has come.
    pub(super) fn expire(&mut self, now: Duration) -> Option<T> {
        let (end, lease) = self.by_end.first()?;
        if *end > now {
            return None;
        }
        let lease = lease.clone();
        self.leave(&lease)
    }
}

/// What a tenant's calls of one kind need together.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    /// As it was last said.
    weight: f64,
    /// As it was last said.
    mean_minutes: f64,
    leases: usize,
    now: f64,
    growth: f64,
}

type GroupName = (Arc<str>, Arc<str>);

/// What a call was entered with.
#[derive(Debug)]
struct Entry {
    group: GroupName,
    now: f64,
    growth: f64,
}

/// The demand of live calls.
#[derive(Debug, Default)]
pub(super) struct DemandBook {
    leases: Leases<Entry>,
    groups: BTreeMap<GroupName, Group>,
}

/// Whether a call fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It does; the highest demand that is then expected, as a share of the capacity.
    Fits(f64),
    /// There is no room.
    Full,
    /// There is, and the tenant has had its share.
    Unfair,
}

impl DemandBook {
    pub(super) fn is_empty(&self) -> bool {
        self.leases.len() == 0
    }

    /// Calls in it.
    pub(super) fn n_calls(&self) -> usize {
        self.leases.len()
    }

    /// The highest demand at any point of the horizon, with `n` more calls like that one.
    pub(super) fn peak(&self, n: u32, more: &GroupDemand) -> f64 {
        let more = more.sane();
        let mut curve = Curve::default();
        for group in self.groups.values() {
            add(&mut curve, group);
        }
        let more = Group {
            weight: more.weight,
            mean_minutes: more.mean_minutes,
            leases: 0,
            now: f64::from(n) * more.demand.now,
            growth: f64::from(n) * more.demand.growth,
        };
        add(&mut curve, &more);
        curve.into_iter().fold(0.0, f64::max)
    }

    /// Takes out what has expired.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some(entry) = self.leases.expire(now) {
            self.subtract(&entry);
        }
    }

    /// Whether one more call fits.
    pub(super) fn judge(&self, book: &Book) -> Verdict {
        let call = book.group.sane();
        let (total, own, weights) = self.curves(&call);
        let peak = total.into_iter().fold(0.0, f64::max);
        let capacity = finite(book.capacity).max(0.0);
        let fits = Verdict::Fits(peak / capacity.max(1.0));
        if call.is_nothing() {
            return fits;
        }
        if peak > capacity * SLACK {
            return Verdict::Full;
        }
        let share = capacity * call.weight / weights;
        let is_short = peak > finite(book.fair_from) * capacity * SLACK;
        if is_short && own.into_iter().any(|own| own > share * SLACK) {
            return Verdict::Unfair;
        }
        fits
    }

    /// The demand at each point of the horizon with one more call, of all and of its tenant, and the sum of the
    /// weights of all tenants that then have calls.
    fn curves(&self, call: &GroupDemand) -> (Curve, Curve, f64) {
        let name = (Arc::clone(&call.tenant), Arc::clone(&call.kind));
        let mut group = self.groups.get(&name).cloned().unwrap_or(Group {
            weight: call.weight,
            mean_minutes: call.mean_minutes,
            leases: 0,
            now: 0.0,
            growth: 0.0,
        });
        group.mean_minutes = call.mean_minutes;
        group.now += call.demand.now;
        group.growth += call.demand.growth;
        let mut own = Curve::default();
        add(&mut own, &group);
        let mut others = Curve::default();
        let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
        weights.insert(&call.tenant, call.weight);
        for (it, group) in &self.groups {
            if *it == name {
                continue;
            }
            if it.0 == call.tenant {
                add(&mut own, group);
            } else {
                add(&mut others, group);
                let weight = weights.entry(&it.0).or_default();
                *weight = weight.max(group.weight);
            }
        }
        let mut total = own;
        for (total, others) in total.iter_mut().zip(others) {
            *total += others;
        }
        (total, own, weights.values().sum())
    }

    /// Enters a call, or enters it anew.
    pub(super) fn enter(&mut self, lease: &LeaseId, end: Duration, call: &GroupDemand) {
        let call = call.sane();
        let name = (Arc::clone(&call.tenant), Arc::clone(&call.kind));
        let entry = Entry {
            group: name.clone(),
            now: call.demand.now,
            growth: call.demand.growth,
        };
        if let Some(before) = self.leases.enter(lease, end, entry) {
            self.subtract(&before);
        }
        let group = self.groups.entry(name).or_insert(Group {
            weight: call.weight,
            mean_minutes: call.mean_minutes,
            leases: 0,
            now: 0.0,
            growth: 0.0,
        });
        group.weight = call.weight;
        group.mean_minutes = call.mean_minutes;
        group.leases += 1;
        group.now += call.demand.now;
        group.growth += call.demand.growth;
    }

    /// Ends a call.
    pub(super) fn leave(&mut self, lease: &LeaseId) {
        if let Some(entry) = self.leases.leave(lease) {
            self.subtract(&entry);
        }
    }

    /// In how many minutes one of the calls can be expected to have ended.
    pub(super) fn next_end(&self) -> f64 {
        let rate: f64 = self
            .groups
            .values()
            .map(|group| group.leases as f64 / group.mean_minutes)
            .sum();
        1.0 / rate.max(f64::MIN_POSITIVE)
    }

    fn subtract(&mut self, entry: &Entry) {
        let Some(group) = self.groups.get_mut(&entry.group) else {
            return;
        };
        group.leases = group.leases.saturating_sub(1);
        group.now -= entry.now;
        group.growth -= entry.growth;
        if group.leases == 0 {
            self.groups.remove(&entry.group);
        }
    }
}

/// Demand at each point of the horizon.
type Curve = [f64; Book::HORIZON.len()];

fn add(curve: &mut Curve, group: &Group) {
    for (sum, minutes) in curve.iter_mut().zip(Book::HORIZON) {
        let alive = (-minutes / group.mean_minutes).exp();
        *sum += alive * (group.now + group.growth * minutes).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::store::Demand;

    fn call(tenant: &str, now: f64, growth: f64) -> GroupDemand {
        GroupDemand {
            tenant: tenant.into(),
            weight: 1.0,
            kind: "agent".into(),
            mean_minutes: 4.0,
            demand: Demand { now, growth },
        }
    }

    fn id(name: &str) -> LeaseId {
        LeaseId(name.into())
    }

    const END: Duration = Duration::from_secs(10);

    fn judge(book: &DemandBook, capacity: f64, group: GroupDemand) -> Verdict {
        book.judge(&Book {
            capacity,
            group,
            fair_from: 0.5,
        })
    }

    #[test]
    fn demand_grows_before_it_falls() {
        let book = DemandBook::default();
        // 1000 now, 500 more a minute: exp(-t/4) (1000 + 500 t) is highest at 2 minutes, with 2000 exp(-1/2).
        let peak = 2000.0 * (-0.5_f64).exp();
        let verdict = judge(&book, 2000.0, call("a", 1000.0, 500.0));
        assert_eq!(verdict, Verdict::Fits(peak / 2000.0));
        assert_eq!(
            judge(&book, peak - 0.1, call("a", 1000.0, 500.0)),
            Verdict::Full
        );
        assert_eq!(judge(&book, 0.0, call("a", 1.0, 0.0)), Verdict::Full);
        assert_eq!(judge(&book, 0.0, call("a", 0.0, 0.0)), Verdict::Fits(0.0));
    }

    #[test]
    fn the_peak_is_of_all_calls_and_those_to_come() {
        let mut book = DemandBook::default();
        assert_eq!(book.peak(0, &call("a", 1000.0, 500.0)), 0.0);
        let peak = 2000.0 * (-0.5_f64).exp();
        assert_eq!(book.peak(1, &call("a", 1000.0, 500.0)), peak);
        book.enter(&id("1"), END, &call("a", 1000.0, 500.0));
        book.enter(&id("2"), END, &call("b", 1000.0, 500.0));
        assert_eq!(book.peak(2, &call("c", 1000.0, 500.0)), 4.0 * peak);
        assert_eq!(book.n_calls(), 2);
    }

    #[test]
    fn what_has_gone_leaves_nothing() {
        let mut book = DemandBook::default();
        let odd = |n: u32| call("a", 0.1 * f64::from(n), 1.0 / 3.0 * f64::from(n));
        for n in 0..1000 {
            book.enter(&id(&n.to_string()), END, &odd(n));
        }
        for n in 1..1000 {
            book.leave(&id(&n.to_string()));
        }
        let group = book.groups.values().next().expect("one is left");
        assert_eq!((group.leases, group.now, group.growth), (1, 0.0, 0.0));
        book.expire(END);
        assert!(book.is_empty() && book.groups.is_empty());
        assert_eq!(book.leases.by_end.len(), 0);
    }

    #[test]
    fn a_lease_lives_until_its_end_and_is_entered_once() {
        let mut book = DemandBook::default();
        book.enter(&id("1"), END, &call("a", 100.0, 0.0));
        book.enter(&id("1"), END, &call("b", 50.0, 0.0));
        assert_eq!(book.groups.len(), 1);
        book.expire(END - Duration::from_nanos(1));
        assert_eq!(
            judge(&book, 100.0, call("a", 50.0, 0.0)),
            Verdict::Fits(1.0)
        );
        assert_eq!(judge(&book, 100.0, call("a", 51.0, 0.0)), Verdict::Full);
        book.expire(END);
        assert_eq!(
            judge(&book, 100.0, call("b", 60.0, 0.0)),
            Verdict::Fits(0.6)
        );
    }

    #[test]
    fn a_short_pool_is_shared() {
        let mut book = DemandBook::default();
        book.enter(&id("1"), END, &call("a", 30.0, 0.0));
        book.enter(&id("2"), END, &call("b", 10.0, 0.0));
        // Up to half the capacity, nobody is held back.
        assert!(matches!(
            judge(&book, 100.0, call("a", 10.0, 0.0)),
            Verdict::Fits(_)
        ));
        // Beyond, each has half.
        assert!(matches!(
            judge(&book, 100.0, call("a", 20.0, 0.0)),
            Verdict::Fits(_)
        ));
        assert_eq!(judge(&book, 100.0, call("a", 21.0, 0.0)), Verdict::Unfair);
        assert!(matches!(
            judge(&book, 100.0, call("b", 40.0, 0.0)),
            Verdict::Fits(_)
        ));
        assert_eq!(judge(&book, 100.0, call("b", 61.0, 0.0)), Verdict::Full);
        // A third makes shares smaller, a heavier one larger.
        assert_eq!(judge(&book, 100.0, call("c", 34.0, 0.0)), Verdict::Unfair);
        let heavy = GroupDemand {
            weight: 2.0,
            ..call("c", 34.0, 0.0)
        };
        assert!(matches!(judge(&book, 100.0, heavy), Verdict::Fits(_)));
    }

    #[test]
    fn numbers_that_are_none_do_no_harm() {
        let mut book = DemandBook::default();
        let wild = GroupDemand {
            weight: f64::NAN,
            mean_minutes: 0.0,
            ..call("a", f64::INFINITY, f64::NAN)
        };
        book.enter(&id("1"), END, &wild);
        assert_eq!(
            judge(&book, 10.0, call("a", 10.0, -20.0)),
            Verdict::Fits(1.0)
        );
        assert_eq!(judge(&book, f64::NAN, call("a", 1.0, 0.0)), Verdict::Full);
        assert!(book.next_end() > 0.0);
    }
}
