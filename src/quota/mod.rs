//! What may be used: calls, requests and tokens, of a tenant and of a deployment, now and in the coming minutes.
//!
//! Decides and counts; knows neither audio nor sockets of a call. What several replicas share goes through a
//! [`Store`]; who is to be let in is decided there in one step, so that two replicas cannot both give away the last
//! place.

mod account;
mod book;
mod bucket;
mod clock;
mod config;
mod forecast;
mod front;
#[cfg(test)]
mod front_tests;
mod in_process;
mod keep;
mod lease;
mod price;
mod provisioned;
mod store;
mod tenants;

pub use account::{Account, DEFAULT_OUTPUT, Estimate, Reservation};
pub use config::{
    Admission, DeploymentQuota, Expect, QuotaConfig, QuotaMistake, QuotaPlan, WhenUnknown,
};
pub use forecast::{CallForecast, Kind, Profile};
pub use front::{AccountHandle, Busy, CallKind, Caller, PoolCapacity, Quota};
pub use in_process::InProcess;
pub use lease::{CallLease, Notice};
pub use price::Price;
pub use provisioned::Weights;
pub use store::{
    Admitted, Ask, Book, Check, Demand, GroupDemand, LeaseId, LeaseRenewal, Limit, Shortage, Spend,
    Store, StoreError, Totals,
};
pub use tenants::{Budget, TenantQuota};
