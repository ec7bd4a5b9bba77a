//! How many calls fit: by measurement, as a search over runs, and by the quota model of the gateway. Pure; the runs
//! themselves are made elsewhere.

use trunkline::quota::{DeploymentQuota, Expect, Profile, Weights};

use crate::report::RunReport;
use crate::scenario::Scenario;

/// A search for the largest number of calls at a time that holds: doubling until one does not, then halving the
/// distance, then confirming what was found.
#[derive(Clone, Debug)]
pub struct Search {
    /// The largest that held, 0 if none did yet.
    holds: u32,
    /// The smallest that did not.
    fails: Option<u32>,
    most: u32,
    next: u32,
    /// How often the result has to hold again.
    n_confirm: u32,
    n_confirmed: u32,
}

impl Search {
    /// Begins with `first` calls and never tries more than `most`; what is found has to hold `n_confirm` times more.
    #[must_use]
    pub fn new(first: u32, most: u32, n_confirm: u32) -> Self {
        Self {
            holds: 0,
            fails: None,
            most: most.max(1),
            next: first.clamp(1, most.max(1)),
            n_confirm,
            n_confirmed: 0,
        }
    }

    /// So many calls are to be tried next; none when the search is over.
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        if self.is_narrow() {
            let is_confirmed = self.n_confirmed >= self.n_confirm;
            return (self.holds > 0 && !is_confirmed).then_some(self.holds);
        }
        Some(self.next)
    }

    /// That many were tried: did they hold?
    pub fn note(&mut self, calls: u32, held: bool) {
        match held {
            true if calls == self.holds => self.n_confirmed += 1,
            true => {
                self.holds = self.holds.max(calls);
                self.n_confirmed = 0;
            }
            // What held once and not twice does not hold.
            false => {
                self.fails = Some(self.fails.map_or(calls, |known| known.min(calls)));
                if calls <= self.holds {
                    self.holds = 0;
                    self.n_confirmed = 0;
                }
            }
        }
        self.next = match self.fails {
            None => self.holds.saturating_mul(2).min(self.most),
            Some(fails) => u32::midpoint(self.holds, fails).max(1),
        };
    }

    /// What was found so far.
    #[must_use]
    pub fn holds(&self) -> u32 {
        self.holds
    }

    /// Within two in a hundred, or one call.
    fn is_narrow(&self) -> bool {
        match self.fails {
            Some(fails) => fails - self.holds <= (self.holds / 50).max(1),
            None => self.holds >= self.most,
        }
    }
}

/// Tokens that several runs may use together: each gets what those before it have left.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// What a scenario allows itself, for all of its runs.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            left: scenario.limits.tokens,
        }
    }

    /// Limits a run to what is left.
    pub fn limit(&self, scenario: &mut Scenario) {
        scenario.limits.tokens = self.left;
    }

    /// A run has ended. Is anything left for another, and was there enough for this one?
    pub fn spend(&mut self, report: &RunReport) -> bool {
        self.left = self.left.saturating_sub(report.tokens.total());
        self.left > 0 && !report.stopped_by.contains_key("tokens")
    }
}

/// What the chart of the gateway (`deploy/helm/trunkline`) is to be given for pods that carry so many calls each, and for
/// a deployment that carries no more than what `pods` of them do. Another pod comes when two thirds of the places are
/// taken on average, as in the chart's own defaults: it takes time to start, and one that drains takes no calls.
#[must_use]
pub fn helm_values(calls_per_pod: u32, pods: Option<u32>) -> String {
    let enough = (u64::from(calls_per_pod) * 2 / 3).max(1);
    let most = pods.map_or(String::new(), |pods| format!("  maxReplicas: {pods}\n"));
    format!("gateway:\n  maxCalls: {calls_per_pod}\nautoscaling:\n  callsPerPod: {enough}\n{most}")
}

/// What calls of one shape need of a deployment's grant.
#[derive(Clone, Debug)]
pub struct Model {
    profile: Profile,
    minutes: f64,
    /// Share of what is read again that comes from the cache.
    cached: f64,
    quota: DeploymentQuota,
}

/// How many calls fit, and by which limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Tokens a minute (weighted ones under provisioned throughput) of one call, on average over its life.
    pub mean_per_call: f64,
    /// The same in its last minute.
    pub last_minute: f64,
    /// Calls at a time whose ages are spread evenly.
    pub calls: f64,
    /// Calls at a time that all began together, in their last minute.
    pub calls_together: f64,
    /// Calls at a time by requests a minute; without limit under provisioned throughput.
    pub calls_by_requests: f64,
}

impl Model {
    /// Calls of that shape, at a deployment with that grant. `cached`: share of what a response reads again that comes
    /// from the cache, 0 to 1.
    ///
    /// # Errors
    /// What is wrong with the figures.
    pub fn new(expect: &Expect, quota: DeploymentQuota, cached: f64) -> Result<Self, String> {
        let mistakes = expect.mistakes().into_iter().chain(quota.mistakes());
        if let Some((path, problem)) = mistakes.into_iter().next() {
            return Err(format!("{}: {problem}", path.join(".")));
        }
        if !(0.0..=1.0).contains(&cached) {
            return Err("the share that is cached is from 0 to 1".to_owned());
        }
        Ok(Self {
            profile: Profile::of(expect),
            minutes: expect.mean_minutes,
            cached,
            quota,
        })
    }

    /// How many fit.
    #[must_use]
    pub fn fit(&self) -> Fit {
        let n_responses = (self.minutes * self.profile.per_minute).round().max(1.0) as u64;
        let total: f64 = (0..n_responses).map(|n| self.response(n)).sum();
        let per_minute = self.profile.per_minute.ceil().max(1.0) as u64;
        let last = n_responses.saturating_sub(per_minute)..n_responses;
        let last_minute: f64 = last.map(|n| self.response(n)).sum();
        let mean_per_call = total / self.minutes;
        let grant = self.grant();
        let requests = match self.quota.provisioned_units {
            Some(_) => f64::INFINITY,
            // A response counts for one, and so does the upgrade, once in a call (protocol reference 6.4).
            None => {
                f64::from(self.quota.requests_per_minute)
                    / (self.profile.per_minute + 1.0 / self.minutes)
            }
        };
        Fit {
            mean_per_call,
            last_minute,
            calls: grant / mean_per_call,
            calls_together: grant / last_minute,
            calls_by_requests: requests,
        }
    }

    /// Tokens a minute that are granted, weighted as responses are.
    #[must_use]
    pub fn grant(&self) -> f64 {
        match self.quota.provisioned_units {
            Some(units) => f64::from(units) * self.quota.input_tokens_per_unit,
            None => f64::from(self.quota.tokens_per_minute),
        }
    }

    /// What the `n`th response of a call counts for, from 0: it reads the whole conversation again.
    fn response(&self, n: u64) -> f64 {
        let Profile {
            first_input,
            growth,
            output,
            context,
            ..
        } = self.profile;
        let input = (first_input + growth * n as f64).min(context);
        if self.quota.provisioned_units.is_none() {
            return input + output;
        }
        let again = if n == 0 {
            0.0
        } else {
            (input - growth).max(0.0)
        };
        let weights = Weights {
            output: self.quota.output_weight,
            cached_discount: self.quota.cached_discount,
        };
        weights.of(input, self.cached * again, output)
    }
}

impl Fit {
    /// Whole calls at a time that every limit lets in, ages spread evenly.
    #[must_use]
    pub fn whole_calls(&self) -> u64 {
        self.calls.min(self.calls_by_requests).floor() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where up to `limit` calls hold; how many were found, and in how many runs.
    fn search(first: u32, most: u32, limit: u32) -> (u32, u32) {
        let mut search = Search::new(first, most, 2);
        let mut n_runs = 0;
        while let Some(calls) = search.next() {
            search.note(calls, calls <= limit);
            n_runs += 1;
            assert!(n_runs < 60, "{search:?}");
        }
        (search.holds(), n_runs)
    }

    #[test]
    fn the_limit_is_found() {
        for limit in 1..100 {
            assert_eq!(search(4, 1_000, limit).0, limit);
        }
        let (found, n_runs) = search(10, 10_000, 3_000);
        assert!(
            (2_940..=3_000).contains(&found) && n_runs < 20,
            "{found} {n_runs}"
        );
        assert_eq!(search(10, 100, 100_000).0, 100);
        assert_eq!(search(10, 100, 0).0, 0);
    }

    #[test]
    fn what_holds_only_once_is_not_the_answer() {
        let mut search = Search::new(64, 1_000, 1);
        let mut n_at_64 = 0;
        while let Some(calls) = search.next() {
            n_at_64 += u32::from(calls == 64);
            search.note(calls, calls < 64 || (calls == 64 && n_at_64 == 1));
        }
        assert!((60..64).contains(&search.holds()), "{search:?}");
    }

    #[test]
    fn runs_share_a_budget() {
        let mut scenario =
            Scenario::parse("[target]\nurl = 'ws://h/twilio'\n[limits]\ntokens = 1000").unwrap();
        let mut budget = Budget::of(&scenario);
        let mut report = RunReport::default();
        (report.tokens.input, report.tokens.output) = (500, 100);
        assert!(budget.spend(&report));
        budget.limit(&mut scenario);
        assert_eq!(scenario.limits.tokens, 400);
        assert!(!budget.spend(&report));
        // Of calls that were given up nobody knows what they used.
        let mut budget = Budget { left: 1_000 };
        report.stopped_by.insert("tokens".into(), 1);
        assert!(!budget.spend(&report));
    }

    #[test]
    fn helm_is_told() {
        assert_eq!(
            helm_values(300, None),
            "gateway:\n  maxCalls: 300\nautoscaling:\n  callsPerPod: 200\n"
        );
        assert_eq!(
            helm_values(1, Some(4)),
            "gateway:\n  maxCalls: 1\nautoscaling:\n  callsPerPod: 1\n  maxReplicas: 4\n"
        );
    }

    fn model(minutes: f64, quota: DeploymentQuota, cached: f64) -> Fit {
        let expect = Expect {
            mean_minutes: minutes,
            ..Expect::default()
        };
        Model::new(&expect, quota, cached).unwrap().fit()
    }

    #[test]
    fn the_capacity_table_of_the_reference() {
        for (minutes, tokens, calls) in [
            (1.0, 3_550.0, 28.0),
            (5.0, 13_470.0, 7.0),
            (10.0, 25_870.0, 3.9),
        ] {
            let fit = model(minutes, DeploymentQuota::default(), 0.0);
            assert!((fit.last_minute - tokens).abs() < 1e-6, "{fit:?}");
            assert!((fit.calls_together - calls).abs() < 0.5, "{fit:?}");
        }
        let fit = model(5.0, DeploymentQuota::default(), 0.0);
        // The mean of the five minutes: 3,550, 6,030, 8,510, 10,990 and 13,470.
        assert!((fit.mean_per_call - 8_510.0).abs() < 1e-6);
        assert_eq!(fit.whole_calls(), 11);
        let few = DeploymentQuota {
            requests_per_minute: 21,
            ..DeploymentQuota::default()
        };
        assert_eq!(model(5.0, few, 0.0).whole_calls(), 5);
    }

    #[test]
    fn provisioned_units_count_weighted_tokens() {
        let quota = DeploymentQuota {
            provisioned_units: Some(50),
            ..DeploymentQuota::default()
        };
        // A call of one response: 530 read, 125 written at four each.
        let expect = Expect {
            mean_minutes: 1.0,
            turns_per_minute: 1.0,
            ..Expect::default()
        };
        let fit = Model::new(&expect, quota, 0.0).unwrap().fit();
        assert!(
            (fit.mean_per_call - (530.0 + 500.0)).abs() < 1e-6,
            "{fit:?}"
        );
        assert_eq!(fit.whole_calls(), (50.0 * 2_500.0 / 1_030.0) as u64);
        let cached = model(5.0, quota, 1.0);
        assert!(
            cached.calls > 2.0 * model(5.0, quota, 0.0).calls,
            "{cached:?}"
        );
    }
}
