//! What serves calls and who answers them: deployments, pools, the names that callers know them by, and agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::Agent;
use crate::upstream::{Deployment, Identities, MemberConfig, Pool, PoolConfig};

use super::{Config, Mistakes};

impl Config {
    pub(super) fn build_deployments(
        &self,
        identities: &mut Identities,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, Arc<Deployment>> {
        if self.deployments.is_empty() {
            mistakes.add(&["deployments"], "there is none".to_owned());
        }
        let mut built = BTreeMap::new();
        for (name, config) in &self.deployments {
            match Deployment::with_identities(name, config.clone(), identities) {
                Ok(deployment) => {
                    built.insert(name.clone(), Arc::new(deployment));
                }
                Err(error) => {
                    let mut path = vec!["deployments", name];
                    path.extend(error.field().split('.'));
                    mistakes.add(&path, error.problem().to_owned());
                }
            }
        }
        built
    }

    /// The pools of the file, and each deployment as a pool of its own.
    pub(super) fn build_pools(
        &self,
        deployments: &BTreeMap<String, Arc<Deployment>>,
        mistakes: &mut Mistakes<'_>,
    ) -> BTreeMap<String, Arc<Pool>> {
        let of_one = |(name, deployment): (&String, &Arc<Deployment>)| {
            let pool = Pool::new(name, vec![Arc::clone(deployment)]);
            (name.clone(), Arc::new(pool))
        };
        let mut built: BTreeMap<_, _> = deployments.iter().map(of_one).collect();
        for (name, config) in &self.pools {
            self.check_pool(name, config, mistakes);
            let members = config.deployments.iter();
            let members = members.filter_map(|member| deployments.get(&member.0.name).cloned());
            let members: Vec<_> = members.collect();
            if members.len() == config.deployments.len() {
                let pool = Pool::with_config(name, config.clone(), members);
                built.insert(name.clone(), Arc::new(pool));
            }
        }
        built
    }

    fn check_pool(&self, name: &str, config: &PoolConfig, mistakes: &mut Mistakes<'_>) {
        let mut add = |field: &[&str], problem: String| {
            let path: Vec<&str> = ["pools", name].iter().chain(field).copied().collect();
            mistakes.add(&path, problem);
        };
        if self.deployments.contains_key(name) {
            add(&[], "there is a deployment of that name".to_owned());
        }
        if config.deployments.is_empty() {
            add(&["deployments"], "it has no deployment".to_owned());
        }
        for (member, n) in config.deployments.iter().zip(1..) {
            let table = &member.0;
            let n = n.to_string();
            if !self.deployments.contains_key(&table.name) {
                let problem = format!("there is no deployment {}", table.name);
                add(&["deployments", &n], problem);
            }
            let is_same = |it: &&MemberConfig| it.0.name == table.name;
            if config.deployments.iter().filter(is_same).count() > 1 {
                let problem = format!("{} is in it more than once", table.name);
                add(&["deployments", &n], problem);
            }
            if table.weight == 0 {
                let problem = "a weight of 0 means never: leave it out instead".to_owned();
                add(&["deployments", &n, "weight"], problem);
            }
        }
        let regions = config.deployments.iter().filter_map(|member| {
            let deployment = self.deployments.get(&member.0.name)?;
            deployment.region.as_deref()
        });
        if let Some(region) = &config.prefer_region
            && !regions.into_iter().any(|it| it == region)
        {
            let problem = format!("none of its deployments has the region {region}");
            add(&["prefer_region"], problem);
        }
        if config.timeout.is_zero() {
            add(&["timeout"], "no session is opened in no time".to_owned());
        }
        let standby = &config.standby;
        if standby.min > standby.max {
            add(&["standby", "min"], "it is above max".to_owned());
        }
        if standby.max > 0 && standby.per_second == 0 {
            let problem = "none would ever be opened; set max = 0 for none".to_owned();
            add(&["standby", "per_second"], problem);
        }
        if standby.max > 0 && standby.max_age < Duration::from_secs(60) {
            let problem = "sessions that stand by for less than a minute cost more than they help";
            add(&["standby", "max_age"], problem.to_owned());
        }
    }

    /// Whether something that serves calls has that name.
    fn is_pool(&self, name: &str) -> bool {
        self.deployments.contains_key(name) || self.pools.contains_key(name)
    }

    pub(super) fn build_agents(&self, mistakes: &mut Mistakes<'_>) -> BTreeMap<String, Arc<Agent>> {
        let mut built = BTreeMap::new();
        for (name, config) in &self.agents {
            if !self.is_pool(&config.deployment) {
                let problem = format!("there is no deployment or pool {}", config.deployment);
                mistakes.add(&["agents", name, "deployment"], problem);
            }
            match Agent::new(name, config.clone()) {
                Ok(agent) => {
                    built.insert(name.clone(), Arc::new(agent));
                }
                Err(error) => {
                    let mut path = vec!["agents", name];
                    path.extend(error.field().split('.'));
                    mistakes.add(&path, error.problem().to_owned());
                }
            }
        }
        built
    }

    pub(super) fn check_models(&self, mistakes: &mut Mistakes<'_>) {
        for (alias, deployment) in &self.models {
            if !self.is_pool(deployment) {
                mistakes.add(
                    &["models", alias],
                    format!("there is no deployment or pool {deployment}"),
                );
            }
        }
        for (name, tenant) in &self.tenants {
            for model in &tenant.models {
                if !self.models.contains_key(model) && !self.is_pool(model) {
                    let problem = format!(
                        "{model} is neither a deployment, nor a pool, nor an alias in [models]"
                    );
                    mistakes.add(&["tenants", name, "models"], problem);
                }
            }
            for agent in &tenant.agents {
                if !self.agents.contains_key(agent) {
                    let problem = format!("there is no agent {agent}");
                    mistakes.add(&["tenants", name, "agents"], problem);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GOOD, check, commented};

    #[test]
    fn pools_are_checked() {
        let pool = |text: &str, expected: &[&str]| {
            check(&format!("{GOOD}[pools.all]\n{text}\n"), expected);
        };
        let east = "deployments = ['east']";
        pool(east, &[]);
        pool(
            "deployments = [{ name = 'east', priority = 2, weight = 3 }]\nsticky = 'caller'",
            &[],
        );
        pool(
            &format!("{east}\n[pools.all.standby]\nmin = 1\nmax = 4"),
            &[],
        );
        pool(
            "deployments = []",
            &["line 12: pools.all.deployments: it has no deployment"],
        );
        pool(
            "deployments = [\n'east',\n'nowhere' ]",
            &["line 14: pools.all.deployments.2: there is no deployment nowhere"],
        );
        pool(
            "deployments = ['east', { name = 'east', weight = 0 }]",
            &[
                "line 12: pools.all.deployments.1: east is in it more than once",
                "line 12: pools.all.deployments.2: east is in it more than once",
                "line 12: pools.all.deployments.2.weight: a weight of 0",
            ],
        );
        pool(
            &format!("{east}\nprefer_region = 'mars'\ntimeout = '0s'"),
            &[
                "line 13: pools.all.prefer_region",
                "line 14: pools.all.timeout",
            ],
        );
        pool(
            &format!(
                "{east}\n[pools.all.standby]\nmin = 5\nmax = 4\nper_second = 0\nmax_age = '9s'"
            ),
            &[
                "line 14: pools.all.standby.min: it is above max",
                "line 16: pools.all.standby.per_second",
                "line 17: pools.all.standby.max_age",
            ],
        );
        pool("deployments = [7]", &["line 12: invalid type: integer"]);
        check(
            &format!("{GOOD}[pools.east]\n{east}\n"),
            &["line 11: pools.east: there is a deployment of that name"],
        );
    }

    #[test]
    fn the_commented_pool_of_the_example_is_a_good_one() {
        let text = commented("# [pools.voice]", "# What SDK callers", 12);
        let west =
            "region = 'westeurope'\n[deployments.west]\nurl = 'ws://127.0.0.1:1'\nmodel = 'm'\n";
        let good = GOOD.replace("[models]", &format!("{west}[models]"));
        check(&format!("{good}[pools.voice]\n{text}\n"), &[]);
    }
}
