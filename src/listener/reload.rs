//! Another configuration while the process runs: what is taken from the one before, and what follows the change.
//!
//! Whoever is being answered, and each call, keeps the configuration that it began with.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::ingress::FrontDoor;
use crate::outbound::Outbound;
use crate::upstream::{Standby, StandbyLine, keep_credentials};

use super::config::ListenerConfig;
use super::desk::Desk;
use super::routes::Routes;
use super::{Gateway, connections};

/// Of what a configuration says the same as the one before it, by name: there nothing is to be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unchanged {
    /// Deployments.
    pub deployments: BTreeSet<String>,
    /// Pools, apart from what is said of their deployments.
    pub pools: BTreeSet<String>,
    /// Agents.
    pub agents: BTreeSet<String>,
}

impl Gateway {
    /// Answers by another configuration from the next request on. Calls go on by their own. Health, standing sessions
    /// and accounts of deployments that are `unchanged` stay, as do all calls, tickets and counts.
    ///
    /// Addresses and TLS stay as they are: sockets are opened at the start.
    pub fn replace(&self, config: ListenerConfig, mut routes: Routes, unchanged: &Unchanged) {
        let old = self.desk();
        routes.take_over(&old.routes, unchanged);
        for (name, deployment) in &old.routes.deployments {
            let new = routes.deployments.get(name);
            if new.is_some_and(|new| Arc::ptr_eq(new, deployment)) {
                continue;
            }
            deployment.forget_condition(&self.metrics);
            let Some(new) = new else {
                continue;
            };
            new.go_on_from(deployment, &self.metrics);
            // What an operator wants of a deployment holds for what takes its name.
            if deployment.is_drained() {
                new.set_drained(true, &self.metrics);
            }
        }
        self.quota.replace(routes.quota.clone());
        self.recorder.replace(Arc::clone(&routes.records));
        self.tracer.replace(Arc::clone(&routes.traces));
        self.door.set_rules(&config);
        self.capacity.set_config(config.shed);
        self.calls.set_limit(config.max_calls);
        self.metrics.door().calls_limit(config.max_calls);
        self.desk.send_replace(Arc::new(Desk {
            front_door: FrontDoor {
                lenient_api_version: config.lenient_api_version,
            },
            connection_limit: connections(&config),
            config,
            routes,
            ..Desk::clone(&old)
        }));
    }

    /// Keeps sessions ready at the pools that are configured for it, until the gateway drains or is told to stop.
    pub async fn keep_standby(self: Arc<Self>, stop: CancellationToken) {
        let mut desks = self.desk.subscribe();
        let mut standby = Standby::new(Arc::clone(&self.dialer));
        loop {
            let routes = &Arc::clone(&desks.borrow_and_update()).routes;
            standby.keep(routes.pools.values().cloned(), &routes.standby_lines());
            tokio::select! {
                changed = desks.changed() => {
                    if changed.is_ok() {
                        continue;
                    }
                }
                () = self.standing_down.cancelled() => {}
                () = stop.cancelled() => {}
            }
            break standby.close().await;
        }
    }

    /// Keeps keys and tokens of deployments, and the signing keys of who issues tokens to callers, fresh until `stop`.
    /// From the call on, callers wait for signing keys that are not there yet.
    pub fn keep_credentials(
        self: &Arc<Self>,
        outbound: Outbound,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let gateway = Arc::clone(self);
        let mut desks = self.desk.subscribe();
        let desk = Arc::clone(&desks.borrow_and_update());
        let mut keeping = gateway.fresh(&desk, &outbound, &stop);
        drop(desk);
        async move {
            loop {
                tokio::select! {
                    () = keeping => return,
                    changed = desks.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
                let desk = Arc::clone(&desks.borrow_and_update());
                keeping = gateway.fresh(&desk, &outbound, &stop);
            }
        }
    }

    /// Keeps fresh what one configuration names, until `stop`.
    fn fresh(
        &self,
        desk: &Desk,
        outbound: &Outbound,
        stop: &CancellationToken,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let deployments: Vec<_> = desk.routes.deployments.values().cloned().collect();
        let metrics = || Arc::clone(&self.metrics);
        let auth = &desk.routes.auth;
        let signing = auth.keep_keys_fresh(outbound.clone(), metrics(), stop.clone());
        let own = keep_credentials(deployments, metrics(), stop.clone());
        let stop = stop.clone();
        Box::pin(async move {
            tokio::join!(signing, own, stop.cancelled());
        })
    }
}

impl Routes {
    /// Whose sessions may stand by, and where.
    fn standby_lines(&self) -> Vec<StandbyLine> {
        let lines = self.agents.values().filter_map(|agent| {
            let pool = Arc::clone(self.pools.get(agent.pool())?);
            let (name, line) = (agent.name.clone(), agent.standby_line.clone());
            let agent = Arc::clone(agent);
            Some(StandbyLine {
                pool,
                agent: name,
                line,
                configure: Arc::new(move |deployment, formats| {
                    agent.configuration(deployment, formats)
                }),
            })
        });
        lines.collect()
    }

    /// Keeps what `old` has of what is the same.
    fn take_over(&mut self, old: &Self, unchanged: &Unchanged) {
        for (name, deployment) in &mut self.deployments {
            if unchanged.deployments.contains(name)
                && let Some(old) = old.deployments.get(name)
            {
                *deployment = Arc::clone(old);
            }
        }
        for (name, pool) in &mut self.pools {
            let members = pool.members().iter();
            let members = members.filter_map(|it| self.deployments.get(it.name()).cloned());
            let members: Vec<_> = members.collect();
            // A deployment is a pool too.
            let is_same = unchanged.pools.contains(name) || unchanged.deployments.contains(name);
            let same = old.pools.get(name).filter(|old| {
                let pairs = || old.members().iter().zip(&members);
                let n = old.members().len();
                is_same && n == members.len() && pairs().all(|(a, b)| Arc::ptr_eq(a, b))
            });
            *pool = same.cloned().unwrap_or_else(|| Arc::new(pool.of(members)));
        }
        for (name, agent) in &mut self.agents {
            if unchanged.agents.contains(name)
                && let Some(old) = old.agents.get(name)
            {
                *agent = Arc::clone(old);
            }
        }
        self.auth.take_over(&old.auth);
        self.asterisk.take_over(&old.asterisk);
        self.tls.clone_from(&old.tls);
    }
}
