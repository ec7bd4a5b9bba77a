//! What may be used: calls, requests and tokens, of a tenant and of a deployment, now and in the coming minutes.
//!
//! Decides and counts; knows neither audio nor sockets of a call. What several replicas share goes through a
//! [`Store`]; who is to be let in is decided there in one step, so that two replicas cannot both give away the last
//! place.

mod store;

pub use store::{
    Admitted, Ask, Book, Check, Demand, GroupDemand, LeaseId, LeaseRenewal, Limit, Shortage, Spend,
    Store, StoreError, Totals,
};
