//! Trunkline.
pub mod admin;
pub mod auth;
pub mod bridge;
pub mod call;
pub mod cli;
pub mod config;
pub mod ingress;
pub mod listener;
pub mod media;
pub mod realtime;
pub mod simulator;
pub mod telemetry;
pub mod upstream;
