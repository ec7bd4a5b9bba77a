//! Who was not let in: counted for metrics, and the last of them remembered for operators.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::ingress::Refusal;
use crate::telemetry::Metrics;

/// How many are remembered.
const REMEMBERED: usize = 100;

/// The same refusal again within so long is one with it, so that a flood of one kind pushes no other out.
const SAME: Duration = Duration::from_secs(60);

/// Callers that were refused alike. Nothing in it came from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCallers {
    /// The metric label: a dialect, or what else was asked for.
    pub route: &'static str,
    /// Whose they were, if that was known by then.
    pub tenant: Option<Arc<str>>,
    /// The HTTP status, where they were told one.
    pub status: Option<u16>,
    /// The metric label.
    pub reason: &'static str,
    /// What exactly was wrong with a credential, which they were not told.
    pub cause: Option<&'static str>,
    /// How often.
    pub times: u64,
    /// When for the first time.
    pub first_at: SystemTime,
    /// When for the last.
    pub last_at: SystemTime,
}

/// The one place where refusals are told.
#[derive(Debug)]
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    recent: Mutex<Recent>,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            recent: Mutex::default(),
        }
    }

    /// A caller was refused before the upgrade.
    pub(super) fn note(
        &self,
        route: &'static str,
        reason: &'static str,
        status: Option<u16>,
        tenant: Option<&Arc<str>>,
    ) {
        self.add(route, (reason, None), status, tenant);
    }

    /// The same, with what the caller was not told. `status` is what it was told, if anything.
    pub(super) fn note_caused(
        &self,
        route: &'static str,
        refusal: &Refusal,
        status: Option<u16>,
        tenant: Option<&Arc<str>>,
    ) {
        self.add(route, (refusal.code, refusal.cause), status, tenant);
    }

    fn add(
        &self,
        route: &'static str,
        (reason, cause): (&'static str, Option<&'static str>),
        status: Option<u16>,
        tenant: Option<&Arc<str>>,
    ) {
        self.metrics.refused(route, reason);
        let now = SystemTime::now();
        let refused = RefusedCallers {
            route,
            tenant: tenant.cloned(),
            status,
            reason,
            cause,
            times: 1,
            first_at: now,
            last_at: now,
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.add(refused);
    }

    /// The latest first.
    pub(super) fn recent(&self) -> Vec<RefusedCallers> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.0.iter().rev().cloned().collect()
    }
}

/// The latest last.
#[derive(Debug, Default)]
struct Recent(VecDeque<RefusedCallers>);

impl Recent {
    fn add(&mut self, mut refused: RefusedCallers) {
        let alike = self.0.iter().rposition(|it| {
            let since = refused.last_at.duration_since(it.last_at);
            (it.route, it.reason, it.status) == (refused.route, refused.reason, refused.status)
                && (&it.tenant, it.cause) == (&refused.tenant, refused.cause)
                // A clock that was set back makes them no others.
                && since.unwrap_or_default() < SAME
        });
        if let Some(before) = alike.and_then(|at| self.0.remove(at)) {
            refused.times = before.times.saturating_add(1);
            refused.first_at = before.first_at;
        } else if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(refused);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn refused(tenant: &str, reason: &'static str, second: u64) -> RefusedCallers {
        let at = UNIX_EPOCH + Duration::from_secs(second);
        RefusedCallers {
            route: "audio",
            tenant: Some(tenant.into()),
            status: Some(503),
            reason,
            cause: None,
            times: 1,
            first_at: at,
            last_at: at,
        }
    }

    fn shown(recent: &Recent) -> Vec<(&str, u64)> {
        let shown = recent.0.iter().map(|it| (it.reason, it.times));
        shown.collect()
    }

    #[test]
    fn those_alike_are_one_for_as_long_as_they_follow_each_other() {
        let mut recent = Recent::default();
        recent.add(refused("a", "draining", 0));
        recent.add(refused("a", "calls_full", 1));
        for second in [2, 61, 120] {
            recent.add(refused("a", "draining", second));
        }
        assert_eq!(shown(&recent), [("calls_full", 1), ("draining", 4)]);
        assert_eq!(recent.0[1].first_at, UNIX_EPOCH);
        recent.add(refused("a", "draining", 180));
        recent.add(refused("b", "draining", 180));
        let expected = [
            ("calls_full", 1),
            ("draining", 4),
            ("draining", 1),
            ("draining", 1),
        ];
        assert_eq!(shown(&recent), expected);
        // The clock was set back.
        recent.add(refused("b", "draining", 10));
        assert_eq!(recent.0.back().map(|it| it.times), Some(2));
        let cause = Some("expired");
        recent.add(RefusedCallers {
            cause,
            ..refused("b", "draining", 10)
        });
        assert_eq!(
            recent.0.back().map(|it| (it.times, it.cause)),
            Some((1, cause))
        );
    }

    #[test]
    fn a_flood_pushes_nobody_out() {
        let mut recent = Recent::default();
        recent.add(refused("a", "draining", 0));
        for _ in 0..10_000 {
            recent.add(refused("b", "calls_full", 1));
        }
        assert_eq!(shown(&recent), [("draining", 1), ("calls_full", 10_000)]);
        for tenant in 0..200 {
            recent.add(refused(&tenant.to_string(), "draining", 2));
        }
        assert_eq!(recent.0.len(), REMEMBERED);
    }
}
