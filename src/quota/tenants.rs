//! What one tenant, and one of its callers, may use: as conditions of an admission, as counts, and as budgets that a
//! live call can come to the end of.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::store::{Check, Limit, Spend};

/// The window of everything that is counted by day; it begins at midnight, UTC.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// One `[tenants.NAME.quota]` table. What is left out is not limited.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantQuota {
    /// Calls at a time.
    pub max_calls: Option<u32>,
    /// New calls a minute, and at once.
    pub calls_per_minute: Option<u32>,
    /// Tokens a minute; while they are used up, no new call comes in.
    pub tokens_per_minute: Option<u64>,
    /// Tokens a day (UTC); live calls end when they are used up.
    pub tokens_per_day: Option<u64>,
    /// Minutes of all calls in a day; live calls end when they are used up.
    pub minutes_per_day: Option<u32>,
    /// The longest call.
    #[serde(with = "humantime_serde")]
    pub max_call: Option<Duration>,
    /// Calls at a time of one caller's number, where it is known.
    pub calls_per_caller: Option<u32>,
    /// Minutes of one caller's number in a day, where it is known.
    pub minutes_per_caller_per_day: Option<u32>,
    /// Its share of a pool that is short, beside other tenants'.
    pub weight: f64,
    /// Nobody of this tenant comes in.
    pub blocked: bool,
}

impl Default for TenantQuota {
    fn default() -> Self {
        Self {
            max_calls: None,
            calls_per_minute: None,
            tokens_per_minute: None,
            tokens_per_day: None,
            minutes_per_day: None,
            max_call: None,
            calls_per_caller: None,
            minutes_per_caller_per_day: None,
            weight: 1.0,
            blocked: false,
        }
    }
}

impl TenantQuota {
    /// The fields that cannot be, and what is wrong with them.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let zero = "with zero nobody could call; to keep a tenant out, say blocked = true";
        for (field, is_zero) in [
            ("max_calls", self.max_calls == Some(0)),
            ("calls_per_minute", self.calls_per_minute == Some(0)),
            ("tokens_per_minute", self.tokens_per_minute == Some(0)),
            ("tokens_per_day", self.tokens_per_day == Some(0)),
            ("minutes_per_day", self.minutes_per_day == Some(0)),
            ("max_call", self.max_call == Some(Duration::ZERO)),
            ("calls_per_caller", self.calls_per_caller == Some(0)),
            (
                "minutes_per_caller_per_day",
                self.minutes_per_caller_per_day == Some(0),
            ),
        ] {
            if is_zero {
                found.push((field, zero.to_owned()));
            }
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            found.push(("weight", "a number above 0 was expected".to_owned()));
        }
        found
    }
}

/// Something that can run out in the middle of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Budget {
    /// The tenant's tokens of a day.
    TokensPerDay,
    /// The tenant's minutes of a day.
    MinutesPerDay,
    /// The minutes of a day of that caller's number.
    CallerMinutesPerDay,
    /// The longest call.
    MaxCall,
    /// The right to call at all: the tenant was blocked.
    Blocked,
}

impl Budget {
    /// The name in metrics, logs and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokensPerDay => "tokens_per_day",
            Self::MinutesPerDay => "minutes_per_day",
            Self::CallerMinutesPerDay => "caller_minutes_per_day",
            Self::MaxCall => "max_call",
            Self::Blocked => "blocked",
        }
    }

    /// As one bit, to remember which were told of.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Where one call is counted, and what for.
#[derive(Clone, Debug)]
pub(super) struct Names {
    calls: Arc<str>,
    starts: Arc<str>,
    tokens: Arc<str>,
    tokens_of_day: Arc<str>,
    minutes_of_day: Arc<str>,
    /// Of the caller's number.
    caller: Option<CallerNames>,
}

#[derive(Clone, Debug)]
struct CallerNames {
    calls: Arc<str>,
    minutes_of_day: Arc<str>,
}

impl Names {
    /// A number is only counted, never kept: what stands in its place cannot be turned back without trying all numbers
    /// with the tenant's name.
    pub(super) fn new(tenant: &str, number: Option<&str>) -> Self {
        let name = |what: &str| Arc::from(format!("tenant:{tenant}:{what}"));
        let caller = number.filter(|number| !number.is_empty()).map(|number| {
            let hash = Sha256::new()
                .chain_update(tenant)
                .chain_update([0])
                .chain_update(number)
                .finalize();
            let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let name = |what: &str| Arc::from(format!("caller:{tenant}:{hash}:{what}"));
            CallerNames {
                calls: name("calls"),
                minutes_of_day: name("minutes"),
            }
        });
        Self {
            calls: name("calls"),
            starts: name("starts"),
            tokens: name("tokens"),
            tokens_of_day: name("tokens-of-day"),
            minutes_of_day: name("minutes-of-day"),
            caller,
        }
    }
}

impl Names {
    /// What stands in the place of the caller's number.
    pub(super) fn caller_key(&self) -> Option<&str> {
        self.caller.as_ref().map(|caller| &*caller.calls)
    }

    /// Whether both are calls of one number.
    pub(super) fn caller_is(&self, other: &Self) -> bool {
        let calls = |names: &Self| names.caller.as_ref().map(|it| Arc::clone(&it.calls));
        calls(self) == calls(other)
    }
}

impl TenantQuota {
    /// What must hold for one more call.
    pub(super) fn checks(&self, names: &Names) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut add = |name: &Arc<str>, limit: Option<Limit>| {
            checks.extend(limit.map(|limit| Check {
                name: Arc::clone(name),
                limit,
            }));
        };
        let day = |limit: f64| Limit::Window { limit, length: DAY };
        let leases = |limit| Limit::Leases { limit };
        add(&names.calls, self.max_calls.map(leases));
        if let Some(caller) = &names.caller {
            let minutes = self.minutes_per_caller_per_day.map(f64::from).map(day);
            add(&caller.calls, self.calls_per_caller.map(leases));
            add(&caller.minutes_of_day, minutes);
        }
        let tokens = self.tokens_per_day.map(|n| n as f64);
        let minutes = self.minutes_per_day.map(f64::from);
        add(&names.tokens_of_day, tokens.map(day));
        add(&names.minutes_of_day, minutes.map(day));
        let tokens = self.tokens_per_minute.map(|n| Limit::Bucket {
            per_minute: n as f64,
            burst: n as f64,
            amount: 0.0,
        });
        add(&names.tokens, tokens);
        // The only one that takes something by itself: last, though nothing is taken unless all pass.
        let starts = self.calls_per_minute.map(|n| Limit::Bucket {
            per_minute: f64::from(n),
            burst: f64::from(n),
            amount: 1.0,
        });
        add(&names.starts, starts);
        checks
    }

    /// The books that count a call.
    pub(super) fn counted(&self, names: &Names) -> Vec<Arc<str>> {
        let tenant = self.max_calls.map(|_| Arc::clone(&names.calls));
        let caller = names.caller.as_ref().zip(self.calls_per_caller);
        let caller = caller.map(|(caller, _)| Arc::clone(&caller.calls));
        tenant.into_iter().chain(caller).collect()
    }

    /// The counts that a call can bring to their end, with how much may be counted.
    pub(super) fn budgets(&self, names: &Names) -> Vec<(Arc<str>, Budget, f64)> {
        let caller = names.caller.as_ref().zip(self.minutes_per_caller_per_day);
        [
            self.tokens_per_day
                .map(|n| (&names.tokens_of_day, Budget::TokensPerDay, n as f64)),
            self.minutes_per_day
                .map(|n| (&names.minutes_of_day, Budget::MinutesPerDay, f64::from(n))),
            caller.map(|(names, n)| {
                let budget = Budget::CallerMinutesPerDay;
                (&names.minutes_of_day, budget, f64::from(n))
            }),
        ]
        .into_iter()
        .flatten()
        .map(|(name, budget, limit)| (Arc::clone(name), budget, limit))
        .collect()
    }

    /// Where tokens are counted.
    pub(super) fn tokens(&self, names: &Names, amount: f64) -> Vec<Spend> {
        let a_minute = self.tokens_per_minute.map(|n| Spend::Bucket {
            name: Arc::clone(&names.tokens),
            per_minute: n as f64,
            amount,
        });
        let a_day = self
            .tokens_per_day
            .map(|_| in_day(&names.tokens_of_day, amount));
        a_minute.into_iter().chain(a_day).collect()
    }

    /// Where time is counted.
    pub(super) fn minutes(&self, names: &Names, amount: f64) -> Vec<Spend> {
        let tenant = self
            .minutes_per_day
            .map(|_| in_day(&names.minutes_of_day, amount));
        let caller = names.caller.as_ref().zip(self.minutes_per_caller_per_day);
        let caller = caller.map(|(names, _)| in_day(&names.minutes_of_day, amount));
        tenant.into_iter().chain(caller).collect()
    }

    /// What to tell a caller who cannot come in for what is counted under that name: a code and a sentence.
    pub(super) fn refusal(names: &Names, name: &str) -> Option<(&'static str, &'static str)> {
        let is = |own: &Arc<str>| **own == *name;
        let caller = names.caller.as_ref();
        Some(if is(&names.calls) {
            ("tenant_calls_exceeded", "Too many calls at a time.")
        } else if is(&names.starts) {
            ("tenant_call_rate_exceeded", "Too many calls in a minute.")
        } else if is(&names.tokens) {
            ("tenant_tokens_exceeded", "Too many tokens in a minute.")
        } else if is(&names.tokens_of_day) {
            (
                "tenant_tokens_of_day_exceeded",
                "The tokens of this day are used up.",
            )
        } else if is(&names.minutes_of_day) {
            (
                "tenant_minutes_of_day_exceeded",
                "The minutes of this day are used up.",
            )
        } else if caller.is_some_and(|caller| is(&caller.calls)) {
            (
                "caller_calls_exceeded",
                "Too many calls of this number at a time.",
            )
        } else if caller.is_some_and(|caller| is(&caller.minutes_of_day)) {
            (
                "caller_minutes_exceeded",
                "The minutes of this number are used up for this day.",
            )
        } else {
            return None;
        })
    }
}

fn in_day(name: &Arc<str>, amount: f64) -> Spend {
    Spend::Window {
        name: Arc::clone(name),
        length: DAY,
        amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> TenantQuota {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_limited_is_not_asked_for() {
        let none = TenantQuota::default();
        let names = Names::new("acme", Some("+15550001111"));
        assert!(none.checks(&names).is_empty());
        assert!(none.counted(&names).is_empty());
        assert!(none.budgets(&names).is_empty());
        assert!(none.tokens(&names, 1.0).is_empty() && none.minutes(&names, 1.0).is_empty());
    }

    const ALL: &str = "max_calls = 2\ncalls_per_minute = 30\ntokens_per_minute = 1000\ntokens_per_day = 5000\n\
                       minutes_per_day = 60\nmax_call = '1h'\ncalls_per_caller = 1\nminutes_per_caller_per_day = 10\n";

    #[test]
    fn every_limit_is_a_condition_and_has_its_words() {
        let all = quota(ALL);
        let check = |number: Option<&str>, n_checks: usize, n_counted: usize, n_budgets: usize| {
            let names = Names::new("acme", number);
            let checks = all.checks(&names);
            assert_eq!(checks.len(), n_checks);
            let mut codes: Vec<_> = checks
                .iter()
                .map(|check| TenantQuota::refusal(&names, &check.name).unwrap().0)
                .collect();
            codes.sort_unstable();
            codes.dedup();
            assert_eq!(codes.len(), n_checks, "{codes:?}");
            assert_eq!(all.counted(&names).len(), n_counted);
            assert_eq!(all.budgets(&names).len(), n_budgets);
            assert_eq!(TenantQuota::refusal(&names, "pool:x"), None);
        };
        check(None, 5, 1, 2);
        check(Some(""), 5, 1, 2);
        check(Some("+15550001111"), 7, 2, 3);
    }

    #[test]
    fn numbers_are_not_kept_and_tenants_do_not_share_them() {
        let number = "+15550001111";
        let name = |tenant| Names::new(tenant, Some(number)).caller.unwrap().calls;
        assert!(!name("acme").contains("5550001111"));
        assert_ne!(name("acme")[12..], name("bolt")[12..]);
        assert_eq!(name("acme"), name("acme"));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<_> = quota(text).mistakes().into_iter().map(|it| it.0).collect();
            assert_eq!(found, expected);
        };
        check(ALL, &[]);
        check("", &[]);
        check(
            "max_calls = 0\nmax_call = '0s'\nweight = 0",
            &["max_calls", "max_call", "weight"],
        );
    }
}
