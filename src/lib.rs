#![doc = include_str!("ARCHITECTURE.md")]

// In the order that audio travels, then what decides, then what holds it together.
pub mod listener;

pub mod ingress;

#[doc(inline)]
pub use trunkline_media as media;

pub mod call;

pub mod bridge;

pub mod upstream;

pub mod realtime;

pub mod auth;

pub mod quota;

pub mod routing;

pub mod records;

pub mod traces;

pub mod telemetry;

pub mod transport;

pub mod outbound;

pub mod secret;

pub mod admin;

pub mod config;

#[doc(inline)]
pub use trunkline_simulator as simulator;

pub mod cli;
