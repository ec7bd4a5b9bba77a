//! Whole-gateway tests: real listener, bridge and dialler against the simulator, in simulated time.

mod bad_input;
mod drain;
mod faults;
mod harness;
mod refusals;
mod relay;
mod speech;
mod tls;
mod wire;
