//! Every metric by one name, each emitted by one small function. Takes plain values, imports nothing of ours.
//!
//! Labels come from configuration or from closed sets, never from a caller or a deployment, so that
//! nobody outside can make series.

mod catalogue;
mod control;
mod door;
mod exemplars;
mod labels;
mod log_lines;
mod metric;
mod metrics;
mod open_metrics;
mod process;
mod records;
mod reload;
mod routing;
mod store;
mod trace_context;
mod traces;
mod usage;

pub use catalogue::{CATALOGUE, family, strangers};
pub use control::{CONTROL_METHODS, ControlMetrics};
pub use door::DoorMetrics;
pub use log_lines::{LogEnd, LogLines};
pub use metric::{Kind, Label, Metric, Unit, Values};
pub use metrics::{CallMetrics, Direction, FrameDrop, Metrics, Modality, SetupPhase};
pub use open_metrics::{OPEN_METRICS, wants_open_metrics};
pub use process::open_files;
pub use records::RecordMetrics;
pub use reload::ReloadMetrics;
pub use routing::RoutingMetrics;
pub use store::StoreMetrics;
pub use trace_context::{BadTraceparent, SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId};
pub use traces::TraceMetrics;
pub use usage::UsageMetrics;
