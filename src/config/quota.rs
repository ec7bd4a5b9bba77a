//! What the file says about quota, put together from the tables that it stands in.

use crate::quota::{QuotaMistake, QuotaPlan};

use super::{Config, Mistakes};

impl Config {
    pub(super) fn quota_plan(&self) -> QuotaPlan {
        let deployments = self.deployments.iter();
        let agents = self.agents.iter();
        QuotaPlan {
            config: self.quota.clone(),
            deployments: deployments
                .map(|(name, it)| (name.clone(), (it.quota, it.model.clone())))
                .collect(),
            tenants: self
                .tenants
                .iter()
                .map(|(name, tenant)| (name.clone(), tenant.quota.clone()))
                .collect(),
            agents: agents
                .filter_map(|(name, agent)| Some((name.clone(), agent.expect?)))
                .collect(),
            prices: self.prices.clone(),
        }
    }

    pub(super) fn check_quota(&self, mistakes: &mut Mistakes<'_>) {
        mistakes.add_all(&["quota"], self.quota.mistakes());
        if let Some(redis) = &self.quota.redis {
            for (field, problem) in redis.mistakes() {
                mistakes.add(&["quota", "redis", &field], problem);
            }
        }
        for (name, expect) in &self.quota.models {
            mistakes.add_all(&["quota", "models", name], expect.mistakes());
            let is_known = self.models.contains_key(name)
                || self.pools.contains_key(name)
                || self.deployments.contains_key(name);
            if !is_known {
                let problem = "no SDK caller can ask for a model of that name".to_owned();
                mistakes.add(&["quota", "models", name], problem);
            }
        }
        for (name, deployment) in &self.deployments {
            let path = ["deployments", name, "quota"];
            if let Some(quota) = &deployment.quota {
                mistakes.add_all(&path, quota.mistakes());
            }
        }
        for (name, agent) in &self.agents {
            if let Some(expect) = &agent.expect {
                mistakes.add_all(&["agents", name, "expect"], expect.mistakes());
            }
        }
        for (name, tenant) in &self.tenants {
            for (field, problem) in tenant.quota.mistakes() {
                mistakes.add(&["tenants", name, "quota", field], problem);
            }
        }
        for (model, price) in &self.prices {
            for field in price.mistakes() {
                let problem = "a price for a million tokens was expected".to_owned();
                mistakes.add(&["prices", model, field], problem);
            }
            if !self.deployments.values().any(|it| it.model == *model) {
                let problem = "there is no deployment of that model".to_owned();
                mistakes.add(&["prices", model], problem);
            }
        }
    }
}

impl Mistakes<'_> {
    fn add_all(&mut self, table: &[&str], found: Vec<QuotaMistake>) {
        for (field, problem) in found {
            self.add(&[table, &field].concat(), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mistake;
    use super::*;

    const GOOD: &str = "[auth]\nmode = 'none'\n[deployments.east]\nurl = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\n\
                        [agents.reception]\ndeployment = 'east'\n[tenants.acme]\n";

    fn check(more: &str, expected: &[&str]) {
        let text = format!("{GOOD}{more}");
        let config = Config::parse(&text).map_err(|mistake| mistake.to_string());
        let found = match config.unwrap().build(&text) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
        };
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn mistakes_about_quota_are_named_with_their_lines() {
        check("[quota]\nadmission = 'forecast'\n", &[]);
        check(
            "[quota]\nheadroom = 2.0\n[quota.models.west]\nmean_minutes = -1.0\n",
            &[
                "line 10: quota.headroom: it is a share",
                "line 12: quota.models.west.mean_minutes: no call is like that",
                "line 11: quota.models.west: no SDK caller can ask for",
            ],
        );
        check(
            "[deployments.east.quota]\ntokens_per_minute = 0\n[agents.reception.expect]\nturns_per_minute = 0\n",
            &[
                "line 10: deployments.east.quota.tokens_per_minute: with none",
                "line 12: agents.reception.expect.turns_per_minute: no call",
            ],
        );
        check(
            "[tenants.acme.quota]\nmax_calls = 0\n[prices.gpt-4o]\ninput_text = -1.0\n",
            &[
                "line 10: tenants.acme.quota.max_calls: with zero nobody",
                "line 12: prices.gpt-4o.input_text: a price",
                "line 11: prices.gpt-4o: there is no deployment of that model",
            ],
        );
    }

    #[test]
    fn what_the_example_says_of_quota_is_what_holds_without_it() {
        let example = include_str!("../../deploy/trunkline.toml");
        let config = Config::parse(example).unwrap();
        let quota = crate::quota::QuotaConfig::default();
        assert_eq!(format!("{:?}", config.quota), format!("{quota:?}"));
        let east = config.deployments["east"].quota;
        assert_eq!(east, Some(crate::quota::DeploymentQuota::default()));
        let acme = &config.tenants["acme"].quota;
        assert_eq!(*acme, crate::quota::TenantQuota::default());
    }

    #[test]
    fn the_commented_lines_of_the_example_are_good_ones() {
        let example = include_str!("../../deploy/trunkline.toml");
        let tables = [
            ("[tenants.acme.quota]", 10),
            ("[deployments.east.quota]", 6),
            ("# [agents.reception.expect]", 2),
            ("# [quota.models.gpt-realtime]", 1),
        ];
        let mut all = String::from("[models]\ngpt-realtime = 'east'\n");
        for (table, n_settings) in tables {
            let (_, rest) = example.split_once(&format!("\n{table}\n")).expect(table);
            let (rest, _) = rest.split_once("\n\n").expect("an end");
            let settings: Vec<_> = rest
                .lines()
                .map(|line| line.strip_prefix("# ").unwrap_or(line))
                .filter(|line| line.contains(" = "))
                .collect();
            assert_eq!(settings.len(), n_settings, "{settings:?}");
            let table = table.trim_start_matches("# ");
            all.push_str(&format!("{table}\n{}\n", settings.join("\n")));
        }
        check(&all, &[]);
    }
}
