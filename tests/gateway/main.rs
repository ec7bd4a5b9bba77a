//! Whole-gateway tests: real listener, bridge and dialler against the simulator, in simulated time.

mod harness;
mod speech;
mod tls;
