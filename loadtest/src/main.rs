//! Softphone and load generator for realtime voice gateways and deployments.

fn main() {}
