//! Whole-gateway tests: real listener, bridge and dialler against the simulator, in simulated time.

mod barge_in;
mod client;
mod harness;
mod leaks;
mod network;
mod phone_features;
mod speech;
mod tls;
