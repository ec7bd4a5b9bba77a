//! The registry and the handles of one call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Encoder, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use super::catalogue;
use super::control::ControlMetrics;
use super::door::DoorMetrics;
use super::exemplars::Exemplars;
use super::labels;
use super::log_lines::LogCollector;
use super::metric::Kind;
use super::open_metrics::open_metrics;
use super::process::ProcessCollector;
use super::records::RecordMetrics;
use super::reload::ReloadMetrics;
use super::routing::RoutingMetrics;
use super::store::StoreMetrics;
use super::trace_context::TraceId;
use super::traces::TraceMetrics;
use super::usage::UsageMetrics;

/// A step of setting up a call's model leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupPhase {
    /// Look-up of the name; none where it is an address.
    Resolve,
    /// TCP connection.
    Dial,
    /// TLS handshake.
    Tls,
    /// WebSocket upgrade.
    Upgrade,
    /// Until `session.created`.
    SessionCreated,
    /// From `session.update` to `session.updated`.
    SessionUpdated,
}

impl SetupPhase {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Dial => "dial",
            Self::Tls => "tls",
            Self::Upgrade => "upgrade",
            Self::SessionCreated => "session_created",
            Self::SessionUpdated => "session_updated",
        }
    }
}

/// Which way audio goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the caller to the model.
    ToModel,
    /// From the model to the caller.
    ToCaller,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::ToModel => "to_model",
            Self::ToCaller => "to_caller",
        }
    }
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Words.
    Text,
    /// Sound.
    Audio,
    /// Pictures.
    Image,
}

impl Modality {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Audio => "audio",
            Self::Image => "image",
        }
    }
}

/// Why audio was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDrop {
    /// Caller audio too far ahead of real time.
    CallerAhead,
    /// The playout queue is full.
    PlayoutFull,
    /// The caller does not take it.
    CallerSlow,
    /// The bytes are no audio of the agreed codec.
    Undecodable,
    /// More caller audio had to be kept for another session than may be.
    CarryFull,
}

impl FrameDrop {
    const ALL: [Self; 5] = [
        Self::CallerAhead,
        Self::PlayoutFull,
        Self::CallerSlow,
        Self::Undecodable,
        Self::CarryFull,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CallerAhead => "caller_ahead",
            Self::PlayoutFull => "playout_full",
            Self::CallerSlow => "caller_slow",
            Self::Undecodable => "undecodable",
            Self::CarryFull => "carry_full",
        }
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: IntCounterVec,
    active: IntGaugeVec,
    refused: IntCounterVec,
    denied: IntCounterVec,
    signing_key_fetches: IntCounterVec,
    signing_keys_fetched: IntGaugeVec,
    minted: IntCounterVec,
    bad_input: IntCounterVec,
    ignored: IntCounterVec,
    policy_refused: IntCounterVec,
    setup: HistogramVec,
    turn: HistogramVec,
    turn_model: HistogramVec,
    turn_gateway: HistogramVec,
    first_audio: HistogramVec,
    frame: HistogramVec,
    pacer_late: Histogram,
    barge_in: HistogramVec,
    barge_in_unheard: CounterVec,
    audio_seconds: CounterVec,
    responses: IntCounterVec,
    dropped: CounterVec,
    underruns: IntCounterVec,
    silence: CounterVec,
    upstream_errors: IntCounterVec,
    dial_failures: IntCounterVec,
    token_refreshes: IntCounterVec,
    token_left: GaugeVec,
    key_file_reloads: IntCounterVec,
    credential_retries: IntCounterVec,
    rate_limit: GaugeVec,
    benign_races: IntCounterVec,
    retries: IntCounterVec,
    tools: IntCounterVec,
    replacements: IntCounterVec,
    session_gap: HistogramVec,
    replayed: CounterVec,
    history_dropped: IntCounter,
    panics: IntCounter,
    draining: IntGauge,
    door: DoorMetrics,
    records: RecordMetrics,
    control: ControlMetrics,
    reload: ReloadMetrics,
    routing: RoutingMetrics,
    usage: UsageMetrics,
    store: StoreMetrics,
    traces: TraceMetrics,
    exemplars: Exemplars,
    handles: Mutex<BTreeMap<(String, String), Arc<CallMetrics>>>,
}

impl Metrics {
    /// A fresh registry.
    ///
    /// # Panics
    ///
    /// Never: names and labels are constants, and the registry is new.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let all = Registry::new();
        let registry = &all;
        tell_build(&catalogue::BUILD_INFO.int_gauges(registry));
        registry
            .register(Box::new(ProcessCollector::new()))
            .expect("each name is registered once");
        registry
            .register(Box::new(LogCollector::new()))
            .expect("each name is registered once");
        let metrics = Self {
            calls: catalogue::CALLS.int_counters(registry),
            active: catalogue::CALLS_ACTIVE.int_gauges(registry),
            refused: catalogue::CALLS_REFUSED.int_counters(registry),
            denied: catalogue::AUTH_DENIED.int_counters(registry),
            signing_key_fetches: catalogue::SIGNING_KEY_FETCHES.int_counters(registry),
            signing_keys_fetched: catalogue::SIGNING_KEYS_FETCHED.int_gauges(registry),
            minted: catalogue::CREDENTIALS_MADE.int_counters(registry),
            bad_input: catalogue::BAD_INPUT_MESSAGES.int_counters(registry),
            ignored: catalogue::IGNORED_MESSAGES.int_counters(registry),
            policy_refused: catalogue::POLICY_REFUSED.int_counters(registry),
            setup: catalogue::CALL_SETUP.histograms(registry),
            turn: catalogue::TURN_LATENCY.histograms(registry),
            turn_model: catalogue::TURN_MODEL.histograms(registry),
            turn_gateway: catalogue::TURN_GATEWAY.histograms(registry),
            first_audio: catalogue::FIRST_AUDIO.histograms(registry),
            frame: catalogue::FRAME.histograms(registry),
            pacer_late: catalogue::PACER_LATENESS.histogram(registry),
            barge_in: catalogue::BARGE_IN_CLEAR.histograms(registry),
            barge_in_unheard: catalogue::BARGE_IN_UNHEARD.counters(registry),
            audio_seconds: catalogue::AUDIO_SECONDS.counters(registry),
            responses: catalogue::RESPONSES.int_counters(registry),
            dropped: catalogue::AUDIO_DROPPED.counters(registry),
            underruns: catalogue::UNDERRUNS.int_counters(registry),
            silence: catalogue::SILENCE_FILLED.counters(registry),
            upstream_errors: catalogue::UPSTREAM_ERRORS.int_counters(registry),
            dial_failures: catalogue::DIAL_FAILURES.int_counters(registry),
            token_refreshes: catalogue::TOKEN_REFRESHES.int_counters(registry),
            token_left: catalogue::TOKEN_EXPIRY.gauges(registry),
            key_file_reloads: catalogue::KEY_FILE_RELOADS.int_counters(registry),
            credential_retries: catalogue::CREDENTIAL_RETRIES.int_counters(registry),
            rate_limit: catalogue::RATE_LIMIT.gauges(registry),
            benign_races: catalogue::BENIGN_RACES.int_counters(registry),
            retries: catalogue::RESPONSE_RETRIES.int_counters(registry),
            tools: catalogue::TOOL_CALLS.int_counters(registry),
            replacements: catalogue::SESSION_REPLACEMENTS.int_counters(registry),
            session_gap: catalogue::SESSION_GAP.histograms(registry),
            replayed: catalogue::REPLAYED_AUDIO.counters(registry),
            history_dropped: catalogue::HISTORY_DROPPED.int_counter(registry),
            panics: catalogue::PANICS.int_counter(registry),
            draining: catalogue::DRAINING.int_gauge(registry),
            door: DoorMetrics::new(registry),
            records: RecordMetrics::new(registry),
            control: ControlMetrics::new(registry),
            reload: ReloadMetrics::new(registry),
            routing: RoutingMetrics::new(registry),
            usage: UsageMetrics::new(registry),
            store: StoreMetrics::new(registry),
            traces: TraceMetrics::new(registry),
            exemplars: Exemplars::default(),
            handles: Mutex::default(),
            registry: all,
        };
        Arc::new(metrics)
    }

    /// The handles that calls of this kind write to; the same for all calls with these labels.
    ///
    /// # Panics
    ///
    /// Never: the lock is held for a look-up only.
    #[must_use]
    pub fn call(self: &Arc<Self>, dialect: &str, deployment: &str) -> Arc<CallMetrics> {
        let mut handles = self.handles.lock().expect("no panic while held");
        let key = (dialect.to_owned(), deployment.to_owned());
        Arc::clone(
            handles.entry(key).or_insert_with(|| {
                Arc::new(CallMetrics::new(Arc::clone(self), dialect, deployment))
            }),
        )
    }

    /// What is counted of the records of calls.
    #[must_use]
    pub fn records(&self) -> &RecordMetrics {
        &self.records
    }

    /// What is counted of the traces of calls.
    #[must_use]
    pub fn traces(&self) -> &TraceMetrics {
        &self.traces
    }

    /// What is counted of the store that replicas share.
    #[must_use]
    pub fn store(&self) -> &StoreMetrics {
        &self.store
    }

    /// The series of the control service.
    #[must_use]
    pub fn control(&self) -> &ControlMetrics {
        &self.control
    }

    /// What became of changed configurations.
    #[must_use]
    pub fn reload(&self) -> &ReloadMetrics {
        &self.reload
    }

    /// What is counted at the door.
    #[must_use]
    pub fn door(&self) -> &DoorMetrics {
        &self.door
    }

    /// What is counted about deployments and pools.
    #[must_use]
    pub fn routing(&self) -> &RoutingMetrics {
        &self.routing
    }

    /// What is counted of usage and quota.
    #[must_use]
    pub fn usage(&self) -> &UsageMetrics {
        &self.usage
    }

    /// A caller was refused on that route before the upgrade.
    pub fn refused(&self, route: &str, reason: &str) {
        self.refused.with_label_values(&[route, reason]).inc();
    }

    /// What a caller showed on that route is not good; the reason is told to nobody but the operator.
    pub fn denied(&self, route: &str, reason: &str) {
        self.denied.with_label_values(&[route, reason]).inc();
    }

    /// An issuer of the configuration was asked for its keys; `now` is in seconds since 1970.
    pub fn signing_keys_fetched(&self, issuer: &str, came: bool, now: u64) {
        let outcome = if came { "ok" } else { "failed" };
        self.signing_key_fetches
            .with_label_values(&[issuer, outcome])
            .inc();
        if came {
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            self.signing_keys_fetched
                .with_label_values(&[issuer])
                .set(now);
        }
    }

    /// A ticket or ephemeral key was made for a tenant.
    pub fn minted(&self, tenant: &str, kind: &'static str) {
        self.minted.with_label_values(&[tenant, kind]).inc();
    }

    /// What that configured tenant's caller or server wanted broke that rule of its session policy, a closed name.
    pub fn policy_refused(&self, tenant: &str, rule: &str) {
        self.policy_refused.with_label_values(&[tenant, rule]).inc();
    }

    /// A model leg could not be set up.
    pub fn dial_failed(&self, deployment: &str, reason: &str) {
        self.dial_failures
            .with_label_values(&[deployment, reason])
            .inc();
    }

    /// A token was fetched (`ok`) or not, for a reason of a closed set.
    pub fn token_refreshed(&self, identity: &str, outcome: &'static str) {
        self.token_refreshes
            .with_label_values(&[identity, outcome])
            .inc();
    }

    /// The current token of that identity may be used for so long.
    pub fn token_left(&self, identity: &str, left: Duration) {
        self.token_left
            .with_label_values(&[identity])
            .set(left.as_secs_f64());
    }

    /// A key file's content changed, and is a key or is none.
    pub fn key_file_read(&self, deployment: &str, is_good: bool) {
        let outcome = if is_good { "ok" } else { "failed" };
        self.key_file_reloads
            .with_label_values(&[deployment, outcome])
            .inc();
    }

    /// A dial is tried again with a newer credential.
    pub fn dial_retried(&self, deployment: &str) {
        self.credential_retries
            .with_label_values(&[deployment])
            .inc();
    }

    /// A phase of setting up a model leg took so long.
    pub fn setup(&self, deployment: &str, phase: SetupPhase, took: Duration) {
        self.setup
            .with_label_values(&[deployment, phase.name()])
            .observe(took.as_secs_f64());
    }

    /// The process refuses new calls from now on.
    pub fn draining(&self) {
        self.draining.set(1);
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    ///
    /// If a metric cannot be written, which would be a fault of this module.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// All metrics as OpenMetrics, with exemplars.
    #[must_use]
    pub fn render_open(&self) -> String {
        open_metrics(&self.registry.gather(), &self.exemplars)
    }
}

fn tell_build(info: &IntGaugeVec) {
    use std::env::consts::{ARCH, OS};
    let target = format!("{ARCH}-{OS}");
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let labels = [env!("CARGO_PKG_VERSION"), target.as_str(), profile];
    info.with_label_values(&labels).set(1);
}

/// The series of one kind of call, looked up once.
#[derive(Debug)]
pub struct CallMetrics {
    all: Arc<Metrics>,
    dialect: String,
    deployment: String,
    active: IntGauge,
    turn: Histogram,
    turn_model: Histogram,
    turn_gateway: Histogram,
    first_audio: Histogram,
    frame_to_model: Histogram,
    frame_to_caller: Histogram,
    barge_in: Histogram,
    barge_in_unheard: Counter,
    audio_to_model: Counter,
    audio_to_caller: Counter,
    dropped: [Counter; FrameDrop::ALL.len()],
    underruns: IntCounter,
    silence: Counter,
}

impl CallMetrics {
    fn new(all: Arc<Metrics>, dialect: &str, deployment: &str) -> Self {
        let one = [dialect];
        Self {
            active: all.active.with_label_values(&one),
            turn: all.turn.with_label_values(&one),
            turn_model: all.turn_model.with_label_values(&one),
            turn_gateway: all.turn_gateway.with_label_values(&one),
            first_audio: all.first_audio.with_label_values(&one),
            frame_to_model: all
                .frame
                .with_label_values(&[dialect, Direction::ToModel.name()]),
            frame_to_caller: all
                .frame
                .with_label_values(&[dialect, Direction::ToCaller.name()]),
            barge_in: all.barge_in.with_label_values(&one),
            barge_in_unheard: all.barge_in_unheard.with_label_values(&one),
            audio_to_model: all
                .audio_seconds
                .with_label_values(&[dialect, Direction::ToModel.name()]),
            audio_to_caller: all
                .audio_seconds
                .with_label_values(&[dialect, Direction::ToCaller.name()]),
            dropped: FrameDrop::ALL
                .map(|drop| all.dropped.with_label_values(&[dialect, drop.name()])),
            underruns: all.underruns.with_label_values(&one),
            silence: all.silence.with_label_values(&one),
            dialect: dialect.to_owned(),
            deployment: deployment.to_owned(),
            all,
        }
    }

    /// A call began.
    pub fn began(&self) {
        self.active.inc();
    }

    /// The series of the same dialect at another deployment.
    #[must_use]
    pub fn at(&self, deployment: &str) -> Arc<Self> {
        self.all.call(&self.dialect, deployment)
    }

    /// Another session took over, or none did.
    pub fn session_replaced(&self, cause: &str, outcome: &str) {
        self.all
            .replacements
            .with_label_values(&[cause, outcome])
            .inc();
    }

    /// An answer came so much later because its session failed.
    pub fn session_gap(&self, gap: Duration) {
        self.all
            .session_gap
            .with_label_values(&[&self.dialect])
            .observe(gap.as_secs_f64());
    }

    /// So much caller audio was sent once more.
    pub fn replayed(&self, duration: Duration) {
        self.all
            .replayed
            .with_label_values(&[&self.dialect])
            .inc_by(duration.as_secs_f64());
    }

    /// So many things were too old to be kept.
    pub fn history_dropped(&self, n: u64) {
        self.all.history_dropped.inc_by(n);
    }

    /// A call ended.
    pub fn ended(&self, reason: &str) {
        self.active.dec();
        self.all
            .calls
            .with_label_values(&[&self.dialect, &self.deployment, reason])
            .inc();
    }

    /// The session configuration was taken so long after it was sent.
    pub fn session_updated(&self, took: Duration) {
        self.all
            .setup(&self.deployment, SetupPhase::SessionUpdated, took);
    }

    /// A caller's message was not what its dialect allows; `reason` is the error's closed name.
    pub fn bad_input(&self, reason: &str) {
        self.all
            .bad_input
            .with_label_values(&[&self.dialect, reason])
            .inc();
    }

    /// An event of a caller of that configured tenant broke that rule of its policy, a closed name.
    pub fn policy_refused(&self, tenant: &str, rule: &str) {
        self.all.policy_refused(tenant, rule);
    }

    /// So many caller messages of that closed `kind` had no effect.
    pub fn ignored(&self, kind: &str, n: u32) {
        if n > 0 {
            self.all
                .ignored
                .with_label_values(&[self.dialect.as_str(), kind])
                .inc_by(n.into());
        }
    }

    /// The call's task panicked.
    pub fn panicked(&self) {
        self.all.panics.inc();
    }

    /// A turn was answered. `model + gateway = latency`. `trace` is the call's, if it is sampled.
    pub fn turn(
        &self,
        latency: Duration,
        model: Duration,
        gateway: Duration,
        trace: Option<TraceId>,
    ) {
        for (histogram, metric, took) in [
            (&self.turn, catalogue::TURN_LATENCY, latency),
            (&self.turn_model, catalogue::TURN_MODEL, model),
            (&self.turn_gateway, catalogue::TURN_GATEWAY, gateway),
        ] {
            histogram.observe(took.as_secs_f64());
            if let (Some(trace), Kind::Histogram(bounds)) = (trace, metric.kind) {
                let series = (metric.name, self.dialect.as_str());
                let value = took.as_secs_f64();
                self.all.exemplars.observe(series, bounds, value, trace);
            }
        }
    }

    /// The first reply audio left so long after the answer.
    pub fn first_audio(&self, after: Duration) {
        self.first_audio.observe(after.as_secs_f64());
    }

    /// A frame took so long from being read (or due) to being written.
    pub fn frame(&self, direction: Direction, took: Duration) {
        match direction {
            Direction::ToModel => self.frame_to_model.observe(took.as_secs_f64()),
            Direction::ToCaller => self.frame_to_caller.observe(took.as_secs_f64()),
        }
    }

    /// So much audio passed.
    pub fn audio(&self, direction: Direction, duration: Duration) {
        match direction {
            Direction::ToModel => self.audio_to_model.inc_by(duration.as_secs_f64()),
            Direction::ToCaller => self.audio_to_caller.inc_by(duration.as_secs_f64()),
        }
    }

    /// A reply frame left so long after its deadline.
    pub fn pacer_late(&self, late: Duration) {
        self.all.pacer_late.observe(late.as_secs_f64());
    }

    /// A clear was written so long after it was heard that the caller speaks.
    pub fn cleared(&self, took: Duration) {
        self.barge_in.observe(took.as_secs_f64());
    }

    /// A barge-in threw so much reply audio away.
    pub fn barged_in(&self, unheard: Duration) {
        self.barge_in_unheard.inc_by(unheard.as_secs_f64());
    }

    /// Audio was thrown away.
    pub fn dropped(&self, reason: FrameDrop, duration: Duration) {
        self.dropped[reason as usize].inc_by(duration.as_secs_f64());
    }

    /// The playout queue ran dry within a reply.
    pub fn underrun(&self) {
        self.underruns.inc();
    }

    /// Silence was sent in place of caller audio.
    pub fn silence_filled(&self, duration: Duration) {
        self.silence.inc_by(duration.as_secs_f64());
    }

    /// A response ended with that status.
    pub fn response(&self, status: &str) {
        self.all
            .responses
            .with_label_values(&[&self.deployment, status])
            .inc();
    }

    /// A failed response was asked for again.
    pub fn response_retried(&self) {
        self.all
            .retries
            .with_label_values(&[&self.deployment])
            .inc();
    }

    /// The deployment reported an error with that code.
    pub fn upstream_error(&self, code: &str) {
        let code = if labels::UPSTREAM_ERROR.allows(code) {
            code
        } else {
            "other"
        };
        self.all
            .upstream_errors
            .with_label_values(&[&self.deployment, code])
            .inc();
    }

    /// The deployment said what is left of its `requests` or `tokens` per minute.
    pub fn rate_limit(&self, name: &'static str, limit: u64, remaining: u64) {
        let gauge = |bound| {
            self.all
                .rate_limit
                .with_label_values(&[self.deployment.as_str(), name, bound])
        };
        gauge("limit").set(limit as f64);
        gauge("remaining").set(remaining as f64);
    }

    /// A protocol race was lost without harm.
    pub fn benign_race(&self, race: &str) {
        self.all.benign_races.with_label_values(&[race]).inc();
    }

    /// A tool returned: `ok`, `failed`, `timeout`, `unknown` or `panicked`.
    pub fn tool(&self, outcome: &'static str) {
        self.all.tools.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_outside_do_not_become_labels() {
        let metrics = Metrics::new();
        let call = metrics.call("twilio", "east");
        call.upstream_error("rate_limit_exceeded");
        call.upstream_error("a code that nobody knows");
        let text = metrics.render().expect("renders");
        assert!(text.contains(
            r#"trunkline_upstream_errors_total{code="rate_limit_exceeded",deployment="east"} 1"#
        ));
        assert!(
            text.contains(r#"trunkline_upstream_errors_total{code="other",deployment="east"} 1"#)
        );
        assert!(!text.contains("nobody knows"));
    }

    #[test]
    fn all_of_the_catalogue_is_registered() {
        let metrics = Metrics::new();
        for metric in catalogue::CATALOGUE {
            let labels: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
            let again = IntGaugeVec::new(metric.opts(), &labels).expect("a good name");
            let again = metrics.registry.register(Box::new(again));
            assert!(again.is_err(), "{} is not registered", metric.name);
        }
    }

    #[test]
    fn the_build_is_told() {
        let text = Metrics::new().render().expect("renders");
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.lines().any(|line| {
            line.starts_with("trunkline_build_info{")
                && line.contains(&format!("version=\"{version}\""))
                && line.ends_with(" 1")
        }));
        assert_eq!(catalogue::strangers(&text), Vec::<String>::new());
    }

    #[test]
    fn a_call_that_ends_is_no_longer_active() {
        let metrics = Metrics::new();
        let call = metrics.call("audio", "east");
        call.began();
        assert!(
            metrics
                .render()
                .expect("renders")
                .contains(r#"trunkline_calls_active{dialect="audio"} 1"#)
        );
        call.ended("caller_hangup");
        let text = metrics.render().expect("renders");
        assert!(text.contains(r#"trunkline_calls_active{dialect="audio"} 0"#));
        assert!(text.contains(r#"trunkline_calls_total{deployment="east",dialect="audio",end_reason="caller_hangup"} 1"#));
    }
}
