//! A softphone for the command line, and a load generator made of many: places calls to a realtime voice gateway or
//! straight to a Realtime API deployment, judges what came back, and reports it.
//!
//! In the order in which a run goes: the scenario says what callers do, `run` lets them, `code` tells what became of
//! each 20 ms they said, `measure` counts, `report` shows.

pub mod scenario;

pub mod run;

pub mod code;

pub mod measure;

pub mod report;

pub mod compare;

pub mod capacity;
