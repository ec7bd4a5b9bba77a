//! What operators asked of the control service.

use prometheus::{IntCounterVec, Registry};

use super::catalogue;

/// What may be asked: the methods of the control service, the services beside it, and `other`.
pub const CONTROL_METHODS: &[&str] = &[
    "ListCalls",
    "GetCall",
    "WatchCalls",
    "EndCall",
    "Say",
    "ListDeployments",
    "DrainDeployment",
    "UndrainDeployment",
    "DrainGateway",
    "health",
    "reflection",
    "other",
];

/// The series of the control service.
#[derive(Debug)]
pub struct ControlMetrics {
    requests: IntCounterVec,
}

impl ControlMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: catalogue::CONTROL_REQUESTS.int_counters(registry),
        }
    }

    /// A request to that method, a closed name, was answered with that code, another one.
    pub fn answered(&self, method: &'static str, code: &'static str) {
        self.requests.with_label_values(&[method, code]).inc();
    }
}
