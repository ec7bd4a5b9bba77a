//! Traces of calls: the spans of each sampled call, sent when it has ended to a collector by OTLP over HTTP.
//!
//! A call gathers its own spans, hands them to the [`Tracer`] and goes on; one task sends them. What is decided (whether
//! a call is sampled, whose trace it joins, what an answer of the collector means) is pure; `export.rs` is the shell.

mod config;
mod export;
pub mod otlp;
mod tracer;
mod verdict;

pub use config::{CallerContext, HeaderConfig, TracesConfig, TracesPlan};
pub use tracer::{Begun, Tracer};
