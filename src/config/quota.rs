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
            mistakes.add_all(&path, deployment.quota.mistakes());
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
