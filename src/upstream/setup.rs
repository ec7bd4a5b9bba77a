//! How long each phase of setting a session up may take, and took.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::telemetry::{Metrics, SetupPhase};

use super::deployment::Deployment;
use super::dial_error::DialError;

/// Phases that one connection can have.
const PHASES: usize = 5;

/// When each phase of a session's connection began and was over.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionSetup([Option<(SetupPhase, Instant, Instant)>; PHASES]);

impl SessionSetup {
    /// When the first of them began.
    #[must_use]
    pub fn began(&self) -> Option<Instant> {
        self.phases().next().map(|(_, from, _)| from)
    }

    /// Whether it had begun by then, as that of a session that stood by has.
    #[must_use]
    pub fn is_before(&self, moment: Instant) -> bool {
        self.began().is_some_and(|began| began < moment)
    }

    /// All that were gone through, in their order.
    pub fn phases(&self) -> impl Iterator<Item = (SetupPhase, Instant, Instant)> + use<> {
        self.0.into_iter().flatten()
    }

    fn note(&mut self, phase: SetupPhase, from: Instant, to: Instant) {
        if let Some(free) = self.0.iter_mut().find(|it| it.is_none()) {
            *free = Some((phase, from, to));
        }
    }
}

/// Times one phase after another.
pub(super) struct PhaseClock<'a> {
    deployment: &'a Deployment,
    metrics: &'a Metrics,
    pub(super) setup: SessionSetup,
}

impl<'a> PhaseClock<'a> {
    pub(super) fn new(deployment: &'a Deployment, metrics: &'a Metrics) -> Self {
        Self {
            deployment,
            metrics,
            setup: SessionSetup::default(),
        }
    }

    pub(super) async fn time<T>(
        &mut self,
        phase: SetupPhase,
        limit: Duration,
        work: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        let began = Instant::now();
        let Ok(result) = timeout(limit, work).await else {
            return Err(DialError::Timeout {
                deployment: self.deployment.name().to_owned(),
                phase,
                limit,
            });
        };
        if result.is_ok() {
            let now = Instant::now();
            self.setup.note(phase, began, now);
            self.metrics
                .setup(self.deployment.name(), phase, now.duration_since(began));
        }
        result
    }
}
