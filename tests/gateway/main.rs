//! Whole-gateway tests: real listener, bridge and dialler against the simulator, in simulated time.
#![allow(
    clippy::print_stdout,
    reason = "measured bounds are worth reading in the output"
)]

mod asterisk_dial;
mod attack_sockets;
mod attack_tickets;
mod attack_tokens;
mod attacks;
mod audiosocket;
mod bad_input;
mod barge_in;
mod caller_tls;
mod callers;
mod chaos;
mod chaos_sdk;
mod client;
mod control;
mod control_access;
mod control_client;
mod control_drain;
mod control_orders;
mod credentials;
mod descriptors;
mod doors;
mod drain;
mod entra;
mod failover;
mod faults;
mod frame_limits;
mod harness;
mod key_file;
mod leaks;
mod limits;
mod network;
mod operators;
mod ops;
mod phone_features;
mod policy;
mod providers;
mod quota;
mod records;
mod refusals;
mod relay;
mod relay_failover;
mod relay_trouble;
mod reload;
mod rfc6455;
mod routing;
mod speech;
mod standby;
mod tls;
mod traces;
mod web;
mod wire;
