//! How many dials may be made that no caller asked for: repeats and hedges.
//!
//! A share of the dials that callers did ask for, so that trouble at the deployments is not answered by a multiple of
//! the usual load. Trying the next deployment after a refusal is not counted: a pool's members bound it.

use std::time::{Duration, Instant};

/// Dials are counted over so long.
const WINDOW: Duration = Duration::from_secs(10);

/// Parts of the window; what is older falls out part by part.
const PARTS: usize = 10;

/// Extra dials for each dial (limits reference).
const SHARE: f64 = 0.2;

/// Extra dials in a window however few the dials are (limits reference).
const LEAST: u32 = 3;

/// The budget of one pool.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    parts: [(u32, u32); PARTS],
    /// The part that `now` was last in, counted from `began`.
    part: u64,
    began: Option<Instant>,
}

impl RetryBudget {
    /// A caller's own dial.
    pub fn dialled(&mut self, now: Instant) {
        self.turn(now);
        let part = &mut self.parts[index(self.part)];
        part.0 = part.0.saturating_add(1);
    }

    /// Takes an extra dial, if there is one.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.turn(now);
        let (dials, extra) = self.sums();
        let allowed = f64::from(LEAST).max(f64::from(dials) * SHARE);
        let may = f64::from(extra) + 1.0 <= allowed;
        if may {
            self.parts[index(self.part)].1 += 1;
        }
        may
    }

    fn sums(&self) -> (u32, u32) {
        let sum = |(dials, extra): (u32, u32), part: &(u32, u32)| {
            (dials.saturating_add(part.0), extra.saturating_add(part.1))
        };
        self.parts.iter().fold((0, 0), sum)
    }

    /// Forgets what is older than the window.
    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let length = WINDOW.as_millis() / PARTS as u128;
        let passed = now.saturating_duration_since(began).as_millis() / length;
        let part = u64::try_from(passed).unwrap_or(u64::MAX).max(self.part);
        if part - self.part >= PARTS as u64 {
            self.parts = [(0, 0); PARTS];
        } else {
            for old in self.part + 1..=part {
                self.parts[index(old)] = (0, 0);
            }
        }
        self.part = part;
    }
}

fn index(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn few_dials_have_three() {
        let now = Instant::now();
        let mut budget = RetryBudget::default();
        budget.dialled(now);
        let taken: Vec<bool> = (0..4).map(|_| budget.take(now)).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert!(!budget.take(now + 9 * SECOND));
        assert!(budget.take(now + 10 * SECOND));
    }

    #[test]
    fn many_dials_have_a_fifth() {
        let now = Instant::now();
        let mut budget = RetryBudget::default();
        (0..100).for_each(|_| budget.dialled(now));
        assert_eq!((0..100).filter(|_| budget.take(now)).count(), 20);
        // An hour later nothing of it counts.
        assert_eq!(
            (0..9).filter(|_| budget.take(now + 3600 * SECOND)).count(),
            3
        );
    }

    proptest! {
        /// In no window are there more than three, or a fifth of its dials and of those just before it.
        #[test]
        fn the_budget_is_never_exceeded(steps in prop::collection::vec((0u64..800, any::<bool>()), 1..400)) {
            let start = Instant::now();
            let mut budget = RetryBudget::default();
            let mut at = 0;
            let (mut dials, mut extra): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
            for (after, is_dial) in steps {
                at += after;
                let now = start + Duration::from_millis(at);
                if is_dial {
                    budget.dialled(now);
                    dials.push(at);
                } else if budget.take(now) {
                    extra.push(at);
                    let since = at.saturating_sub(9_000);
                    let n_extra = extra.iter().filter(|it| **it >= since).count();
                    let n_dials = dials.iter().filter(|it| **it + 1_000 >= since).count();
                    prop_assert!(n_extra as f64 <= 3f64.max(0.2 * n_dials as f64));
                }
            }
        }
    }
}
