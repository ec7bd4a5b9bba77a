//! What calls are expected to be like, what deployments are granted, and everything that quota goes by.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::QuotaConfig;
use super::price::Price;
use super::tenants::TenantQuota;

/// When a pool of deployments lets no more calls in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Never: the deployments refuse what is too much.
    Off,
    /// While its deployments' quota is used up.
    #[default]
    Reactive,
    /// As soon as its live calls and the new one would use it up while they last.
    Forecast,
}

/// What a call is expected to be like before it and its like have shown it. Defaults are those of the protocol
/// reference's capacity arithmetic (6.2), and a call of five minutes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Tokens of instructions and tools.
    pub instructions_tokens: u32,
    /// Responses a minute.
    pub turns_per_minute: f64,
    /// How long the caller speaks in a turn.
    pub caller_seconds_per_turn: f64,
    /// How long a reply is.
    pub reply_seconds_per_turn: f64,
    /// How long a call lasts.
    pub mean_minutes: f64,
    /// Input that the model can read; older items are left out of what exceeds it.
    pub context_tokens: u32,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            instructions_tokens: 500,
            turns_per_minute: 4.0,
            caller_seconds_per_turn: 3.0,
            reply_seconds_per_turn: 5.0,
            mean_minutes: 5.0,
            // gpt-realtime on Azure (protocol reference 1.6).
            context_tokens: 28_672,
        }
    }
}

/// One `[deployments.NAME.quota]` table: what the vendor grants it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentQuota {
    /// Requests a minute, unless the deployment says otherwise (protocol reference 6.4).
    pub requests_per_minute: u32,
    /// Tokens a minute, unless the deployment says otherwise.
    pub tokens_per_minute: u32,
    /// Provisioned units; with them utilisation counts, not requests and tokens (protocol reference 6.5).
    pub provisioned_units: Option<u32>,
    /// Input tokens a minute that one unit carries; 2,500 is gpt-4o's.
    pub input_tokens_per_unit: f64,
    /// Input tokens that one output token counts for; 4 is gpt-4o's.
    pub output_weight: f64,
    /// Share of a cached input token that is not counted.
    pub cached_discount: f64,
}

impl Default for DeploymentQuota {
    fn default() -> Self {
        Self {
            requests_per_minute: 1_000,
            tokens_per_minute: 100_000,
            provisioned_units: None,
            input_tokens_per_unit: 2_500.0,
            output_weight: 4.0,
            cached_discount: 1.0,
        }
    }
}

/// Everything that [`Quota`](super::Quota) goes by.
#[derive(Clone, Debug, Default)]
pub struct QuotaPlan {
    /// The `[quota]` table.
    pub config: QuotaConfig,
    /// Each deployment's grant, if the configuration tells it, and model.
    pub deployments: BTreeMap<String, (Option<DeploymentQuota>, String)>,
    /// What tenants may use.
    pub tenants: BTreeMap<String, TenantQuota>,
    /// What agents' calls are like.
    pub agents: BTreeMap<String, Expect>,
    /// What a model costs.
    pub prices: BTreeMap<String, Price>,
}

/// A field that cannot be, by its path below its table, and what is wrong with it.
pub type QuotaMistake = (Vec<&'static str>, String);

impl Expect {
    /// The fields with which no forecast could be made.
    #[must_use]
    pub fn mistakes(&self) -> Vec<QuotaMistake> {
        let above_zero = |value: f64| value.is_finite() && value > 0.0;
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        [
            ("turns_per_minute", above_zero(self.turns_per_minute)),
            (
                "caller_seconds_per_turn",
                not_negative(self.caller_seconds_per_turn),
            ),
            (
                "reply_seconds_per_turn",
                not_negative(self.reply_seconds_per_turn),
            ),
            ("mean_minutes", above_zero(self.mean_minutes)),
            ("context_tokens", self.context_tokens > 0),
        ]
        .into_iter()
        .filter(|(_, is_good)| !is_good)
        .map(|(field, _)| (vec![field], "no call is like that".to_owned()))
        .collect()
    }
}

impl DeploymentQuota {
    /// The fields with which the deployment could carry nothing.
    #[must_use]
    pub fn mistakes(&self) -> Vec<QuotaMistake> {
        let mut found = Vec::new();
        let mut add = |is_wrong: bool, field, problem: &str| {
            if is_wrong {
                found.push((vec![field], problem.to_owned()));
            }
        };
        let none = "with none, it could carry no call";
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        add(self.requests_per_minute == 0, "requests_per_minute", none);
        add(self.tokens_per_minute == 0, "tokens_per_minute", none);
        add(self.provisioned_units == Some(0), "provisioned_units", none);
        add(
            !is_positive(self.input_tokens_per_unit),
            "input_tokens_per_unit",
            none,
        );
        add(
            !is_positive(self.output_weight),
            "output_weight",
            "a number above 0 was expected",
        );
        add(
            !(0.0..=1.0).contains(&self.cached_discount),
            "cached_discount",
            "it is a share, from 0 to 1",
        );
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let check = |found: Vec<QuotaMistake>, expected: &[&[&str]]| {
            let paths: Vec<_> = found.into_iter().map(|it| it.0).collect();
            assert_eq!(paths, expected);
        };
        let quota = |text: &str| toml::from_str::<QuotaConfig>(text).unwrap().mistakes();
        check(quota(""), &[]);
        check(
            quota(
                "headroom = 0\nfair_from = nan\nheartbeat = '8s'\ncurrency = ''\n[expect]\nmean_minutes = 0",
            ),
            &[
                &["headroom"],
                &["fair_from"],
                &["heartbeat"],
                &["currency"],
                &["expect", "mean_minutes"],
            ],
        );
        let deployment = |text: &str| toml::from_str::<DeploymentQuota>(text).unwrap().mistakes();
        check(deployment(""), &[]);
        check(
            deployment("tokens_per_minute = 0\nprovisioned_units = 0\ncached_discount = 1.5"),
            &[
                &["tokens_per_minute"],
                &["provisioned_units"],
                &["cached_discount"],
            ],
        );
    }
}
