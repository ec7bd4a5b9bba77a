//! Deployments that fail clearly more often than the others of their pool, without failing always.
//!
//! The breaker of [`Health`](super::Health) opens after failures in a row; a deployment of which every third session
//! stalls never gets there. Here shares are compared within a pool, so that trouble that all share ejects nobody.

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// Outcomes are counted over so long.
const PART: Duration = Duration::from_secs(10);

/// Parts of the window.
const PARTS: usize = 3;

/// With fewer outcomes in the window, a member is not judged.
const ENOUGH: u32 = 10;

/// A smaller share of failures is nobody's trouble.
const SHARE: f64 = 0.2;

/// How much larger the share must be than that of the others together.
const RATIO: f64 = 3.0;

/// How long a member stays out: longer each time.
const EJECTION: Backoff = Backoff {
    first: Duration::from_secs(20),
    longest: Duration::from_secs(300),
};

/// How many of the dials and sessions of one deployment went well and ill of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    parts: [(u32, u32); PARTS],
    began: Option<Instant>,
}

impl Window {
    /// One went well or not.
    pub fn add(&mut self, is_good: bool, now: Instant) {
        self.turn(now);
        let (good, bad) = &mut self.parts[0];
        *if is_good { good } else { bad } += 1;
    }

    /// How many went well, and how many ill.
    pub fn counts(&mut self, now: Instant) -> (u32, u32) {
        self.turn(now);
        let sum = |sum: (u32, u32), part: &(u32, u32)| (sum.0 + part.0, sum.1 + part.1);
        self.parts.iter().fold((0, 0), sum)
    }

    fn turn(&mut self, now: Instant) {
        let began = self.began.get_or_insert(now);
        for _ in 0..PARTS {
            if now.saturating_duration_since(*began) < PART {
                return;
            }
            self.parts.rotate_right(1);
            self.parts[0] = (0, 0);
            *began += PART;
        }
        if now.saturating_duration_since(*began) >= PART {
            *began = now;
        }
    }
}

/// Who is ejected from one pool. Members are known by their place in it.
#[derive(Clone, Debug, Default)]
pub struct Ejections(Vec<Ejection>);

#[derive(Clone, Copy, Debug, Default)]
struct Ejection {
    until: Option<Instant>,
    /// How often it was ejected and was not well again since.
    n: u32,
}

impl Ejections {
    /// Until when a member is ejected, if it is.
    #[must_use]
    pub fn until(&self, member: usize, now: Instant) -> Option<Instant> {
        let until = self.0.get(member)?.until?;
        (now < until).then_some(until)
    }

    /// Judges all members by their counts of good and bad outcomes; the one that is ejected now, if any. The caller
    /// forgets its outcomes then. `chance` in 0..1.
    pub fn judge(&mut self, counts: &[(u32, u32)], now: Instant, chance: f64) -> Option<usize> {
        self.0.resize(counts.len(), Ejection::default());
        let n_ejected = (0..counts.len())
            .filter(|member| self.until(*member, now).is_some())
            .count();
        if (n_ejected + 1) * 2 > counts.len() {
            return None;
        }
        let share = |(good, bad): (u32, u32)| f64::from(bad) / f64::from((good + bad).max(1));
        let is_bad = |member: &usize| {
            let own = counts[*member];
            let others = counts.iter().zip(0..).filter(|(_, it)| it != member);
            let others = others.fold((0, 0), |sum, (it, _)| (sum.0 + it.0, sum.1 + it.1));
            // Without any outcome of others nobody can say that they fare better.
            let are_known = others.0 + others.1 >= ENOUGH;
            own.0 + own.1 >= ENOUGH
                && are_known
                && share(own) >= SHARE
                && share(own) >= share(others) * RATIO
                && self.until(*member, now).is_none()
        };
        let worst = (0..counts.len())
            .filter(is_bad)
            .max_by(|a, b| share(counts[*a]).total_cmp(&share(counts[*b])))?;
        for (ejection, (good, bad)) in self.0.iter_mut().zip(counts) {
            if good + bad >= ENOUGH && share((*good, *bad)) < SHARE {
                ejection.n = 0;
            }
        }
        let ejection = &mut self.0[worst];
        ejection.until = Some(now + EJECTION.pause(ejection.n, chance));
        ejection.n += 1;
        Some(worst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_ejected() {
        let check = |counts: &[(u32, u32)], expected: Option<usize>| {
            let ejected = Ejections::default().judge(counts, Instant::now(), 1.0);
            assert_eq!(ejected, expected, "{counts:?}");
        };
        check(&[(20, 0), (10, 10)], Some(1));
        check(&[(20, 0), (10, 10), (0, 20), (20, 1)], Some(2));
        // Too little is known, of it or of the others.
        check(&[(20, 0), (1, 8)], None);
        check(&[(3, 0), (5, 20)], None);
        // Everybody has trouble.
        check(&[(10, 10), (10, 10)], None);
        check(&[(18, 4), (10, 10)], None);
        // Alone, there is nobody to be worse than.
        check(&[(0, 50)], None);
        check(&[], None);
    }

    #[test]
    fn an_ejection_ends_and_grows() {
        let now = Instant::now();
        let mut ejections = Ejections::default();
        let counts = [(20, 0), (10, 10)];
        let mut at = now;
        for expected in [20, 40, 80, 160, 300, 300] {
            assert_eq!(ejections.judge(&counts, at, 1.0), Some(1));
            let until = ejections.until(1, at).expect("ejected");
            assert_eq!(until - at, Duration::from_secs(expected));
            assert_eq!(ejections.until(1, until), None);
            at = until;
        }
    }

    #[test]
    fn outcomes_are_forgotten() {
        let now = Instant::now();
        let mut window = Window::default();
        window.add(true, now);
        window.add(false, now + PART);
        assert_eq!(window.counts(now + 2 * PART), (1, 1));
        assert_eq!(window.counts(now + 3 * PART), (0, 1));
        assert_eq!(window.counts(now + 99 * PART), (0, 0));
        window.add(true, now + 99 * PART);
        assert_eq!(window.counts(now + 99 * PART), (1, 0));
    }

    proptest! {
        #[test]
        fn at_most_half_are_out(
            rounds in prop::collection::vec(prop::collection::vec((0u32..40, 0u32..40), 5), 1..60),
            n in 1usize..6,
        ) {
            let now = Instant::now();
            let mut ejections = Ejections::default();
            for (counts, second) in rounds.iter().zip(0..) {
                let at = now + Duration::from_secs(second);
                ejections.judge(&counts[..n], at, 0.5);
                let out = (0..n).filter(|it| ejections.until(*it, at).is_some()).count();
                prop_assert!(out * 2 <= n);
            }
        }
    }
}
