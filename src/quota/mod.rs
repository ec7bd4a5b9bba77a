//! What may be used: calls, requests and tokens, of a tenant and of a deployment, now and in the coming minutes.
//!
//! Decides and counts; knows neither audio nor sockets of a call. What several replicas share goes through a
//! [`Store`]; who is to be let in is decided there in one step, so that two replicas cannot both give away the last
//! place.

mod account;
mod backlog;
mod book;
mod bucket;
mod clock;
mod config;
mod fallback;
mod forecast;
mod front;
#[cfg(test)]
mod front_tests;
mod in_process;
mod keep;
mod lease;
mod load;
mod price;
mod provisioned;
mod redis;
mod redis_link;
mod roll;
mod settings;
mod store;
mod tenants;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::secret::SecretError;
use crate::telemetry::Metrics;

pub use account::{Account, DEFAULT_OUTPUT, Estimate, Reservation};
pub use config::{OnStoreFailure, QuotaConfig, RedisConfig};
pub use fallback::FallbackStore;
pub use forecast::{CallForecast, Kind, Profile};
pub use front::{AccountHandle, Busy, CallKind, Caller, PoolCapacity, Quota};
pub use in_process::InProcess;
pub use lease::{CallLease, Notice};
pub use price::{Cost, Price};
pub use provisioned::Weights;
pub use redis::RedisStore;
pub use roll::{Attendance, Attended, TakeOver, TakenOver};
pub use settings::{Admission, DeploymentQuota, Expect, QuotaMistake, QuotaPlan};
pub use store::{
    Admitted, Ask, Book, Check, Demand, GroupDemand, LeaseId, LeaseRenewal, Limit, Shortage, Spend,
    Store, StoreError, Totals,
};
pub use tenants::{Budget, TenantQuota};

/// A store that is open.
#[derive(Clone, Debug)]
pub struct OpenStore {
    /// Where counts and leases are.
    pub store: Arc<dyn Store>,
    /// The same, if replicas share it.
    pub shared: Option<Arc<FallbackStore>>,
}

/// The store of the configuration: Redis with this process in its place while it does not answer, or this process
/// alone. What keeps Redis connected runs among `tasks` until `stop`.
///
/// # Errors
///
/// If the address of Redis cannot be read.
pub fn open_store(
    config: Option<&RedisConfig>,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<OpenStore, SecretError> {
    let Some(config) = config else {
        return Ok(OpenStore {
            store: Arc::new(InProcess::default()),
            shared: None,
        });
    };
    let store = Arc::new(FallbackStore::new(config, Arc::clone(metrics))?);
    let (kept, stop) = (Arc::clone(&store), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(kept.keep()).await });
    Ok(OpenStore {
        store: Arc::clone(&store) as Arc<dyn Store>,
        shared: Some(store),
    })
}
