//! Every knob of the stand-in. Defaults are what the protocol reference gives as typical.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::quirks::QuirksConfig;

/// Settings of one [`Simulator`](super::Simulator). Durations are written as `250ms`, `30m`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Where ids, latencies, jitter and faults come from; the same seed and input give the same output.
    pub seed: u64,
    /// Unix time in seconds at which the simulator starts; `None` asks the system clock.
    pub epoch: Option<u64>,
    /// Keys that are let in; empty lets any key in (but some credential must be there).
    pub api_keys: Vec<String>,
    /// Bearer tokens accepted on Azure paths beside anything shaped like a JWT; only looked at with `api_keys`.
    pub entra_tokens: Vec<String>,
    /// Deployments (Azure) or models (OpenAI) by name; empty serves any name.
    pub deployments: BTreeMap<String, DeploymentConfig>,
    /// `api-version`s of the Azure preview path; others are 404. Empty accepts all.
    pub api_versions: Vec<String>,
    /// Whether an `api-version` on the Azure GA path and binary frames are tolerated.
    pub lenient: bool,
    /// Refuse the preview shape on OpenAI paths as since May 2026: 101, `error`, close 4000.
    pub beta_sunset: bool,
    /// Custom headers allowed on Azure paths before 431.
    pub max_custom_headers: usize,
    /// Send `conversation.created` after `session.created`.
    pub conversation_created: bool,
    /// How replies are made up.
    pub reply: ReplyConfig,
    /// When deltas come.
    pub latency: LatencyConfig,
    /// How much audio a delta holds.
    pub deltas: DeltaSizes,
    /// Transcripts of the caller's audio.
    pub transcription: TranscriptionConfig,
    /// Session cap on Azure paths.
    #[serde(with = "humantime_serde")]
    pub azure_session_cap: Duration,
    /// Session cap on OpenAI paths.
    #[serde(with = "humantime_serde")]
    pub openai_session_cap: Duration,
    /// A client that sends nothing for so long is pinged, and dropped if it stays silent for as long again.
    #[serde(with = "humantime_serde")]
    pub probe_after: Duration,
    /// Input tokens that fit the context; `None` is 28,672 (GA) or 128,000 (preview).
    pub context_tokens: Option<u64>,
    /// Item audio kept per session for parrot and retrieve; older audio is forgotten, its length is not.
    #[serde(with = "humantime_serde")]
    pub retained_audio: Duration,
    /// Answers to what the reference leaves open.
    pub quirks: QuirksConfig,
    /// Quota of deployments that set none.
    pub quota: QuotaConfig,
    /// Faults, each for some sessions.
    pub faults: Vec<FaultRule>,
    /// Whether a client may ask for a fault by `x-sim-fault: name[=n]`, as header or query parameter.
    pub allow_fault_header: bool,
    /// Keep the appended PCM in the session record.
    pub record_audio: bool,
    /// Session records kept; the oldest finished ones go first.
    pub max_records: usize,
    /// Default `instructions`, visible in `session.created`.
    pub instructions: String,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            epoch: None,
            api_keys: Vec::new(),
            entra_tokens: Vec::new(),
            deployments: BTreeMap::new(),
            api_versions: ["2024-10-01-preview", "2024-12-17", "2025-04-01-preview"]
                .map(str::to_owned)
                .to_vec(),
            lenient: false,
            beta_sunset: false,
            max_custom_headers: 10,
            conversation_created: false,
            reply: ReplyConfig::default(),
            latency: LatencyConfig::default(),
            deltas: DeltaSizes::default(),
            transcription: TranscriptionConfig::default(),
            azure_session_cap: Duration::from_secs(30 * 60),
            openai_session_cap: Duration::from_secs(60 * 60),
            probe_after: Duration::from_secs(60),
            context_tokens: None,
            retained_audio: Duration::from_secs(120),
            quirks: QuirksConfig::default(),
            quota: QuotaConfig::default(),
            faults: Vec::new(),
            allow_fault_header: false,
            record_audio: false,
            max_records: 10_000,
            instructions:
                "You are a friendly stand-in for a voice model. You say back what you hear."
                    .to_owned(),
        }
    }
}

/// One deployment (Azure) or model (OpenAI).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentConfig {
    /// Dated model name shown as `session.model`; `None` derives one.
    pub model: Option<String>,
    /// Shapes served; empty serves both.
    pub shapes: Vec<Shape>,
    /// Quota of this deployment; `None` takes the simulator's.
    pub quota: Option<QuotaConfig>,
}

/// The two wire shapes of the Realtime API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Flat session object, `response.audio.delta`.
    Preview,
    /// Nested session object, `response.output_audio.delta`.
    Ga,
}

/// How replies are made up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReplyConfig {
    /// Say back the caller's committed audio.
    #[default]
    Parrot,
    /// A sine tone.
    Tone {
        /// Frequency in Hz.
        hz: f32,
        /// How long it sounds.
        #[serde(with = "humantime_serde")]
        length: Duration,
    },
    /// A list of turns, one per response to the default conversation.
    Script {
        /// What to do, in order.
        turns: Vec<ScriptTurn>,
        /// Start over after the last turn; otherwise the last one repeats.
        #[serde(default)]
        repeat: bool,
    },
}

/// One scripted response.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptTurn {
    /// Text of the reply; also its transcript.
    pub say: Option<String>,
    /// Length of the speech-like audio; `None` is 60 ms a character.
    #[serde(with = "humantime_serde")]
    pub length: Option<Duration>,
    /// Functions to call, after what is said.
    pub calls: Vec<ScriptedCall>,
    /// How the response ends.
    pub outcome: ScriptOutcome,
    /// `code` of a failed response; `None` is a generic server fault.
    pub code: Option<String>,
    /// What the caller "said" before this response, for the transcript.
    pub heard: Option<String>,
    /// The caller's turn before this one sounds unfinished: semantic VAD waits its maximum.
    pub unfinished: bool,
}

/// A function call in a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// Function name.
    pub name: String,
    /// Arguments as JSON text.
    #[serde(default = "empty_arguments")]
    pub arguments: String,
}

fn empty_arguments() -> String {
    "{}".to_owned()
}

/// How a scripted response ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptOutcome {
    /// Status `completed`.
    #[default]
    Completed,
    /// Status `incomplete`, reason `content_filter`, after half of the audio.
    ContentFilter,
    /// Status `incomplete`, reason `max_output_tokens`, after half of the audio.
    Unfinished,
    /// Status `failed`, nothing said.
    Failed,
}

/// When deltas come.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyConfig {
    /// Shortest time from `speech_stopped` to `response.created`; a transcript may come in between.
    #[serde(with = "humantime_serde")]
    pub created_min: Duration,
    /// Longest time from `speech_stopped` to `response.created`.
    #[serde(with = "humantime_serde")]
    pub created_max: Duration,
    /// Median time from `response.created` to the first audio or text delta.
    #[serde(with = "humantime_serde")]
    pub first_delta: Duration,
    /// 95th percentile: lognormal if set, else uniform within `jitter` of the median.
    #[serde(with = "humantime_serde")]
    pub first_delta_p95: Option<Duration>,
    /// Share by which latencies and gaps vary, 0 to 1; 0 is fixed.
    pub jitter: f64,
    /// Generation speed in multiples of real time.
    pub speed: f64,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self {
            created_min: Duration::from_millis(5),
            created_max: Duration::from_millis(20),
            first_delta: Duration::from_millis(250),
            first_delta_p95: None,
            jitter: 0.2,
            speed: 5.0,
        }
    }
}

/// How much audio a delta holds (reference chapter 5.10).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaSizes {
    /// First delta.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// Second delta.
    #[serde(with = "humantime_serde")]
    pub second: Duration,
    /// All others.
    #[serde(with = "humantime_serde")]
    pub steady: Duration,
    /// The last delta may grow to this rather than leave a short rest.
    #[serde(with = "humantime_serde")]
    pub last: Duration,
}

impl Default for DeltaSizes {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            first: ms(100),
            second: ms(150),
            steady: ms(250),
            last: ms(500),
        }
    }
}

/// Transcripts of the caller's audio.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscriptionConfig {
    /// Transcribe the words of [`words`](super::words), by listening for them. Goes before `texts`.
    pub recognise: bool,
    /// Texts taken in turn; empty says how long the audio was. A script's `heard` goes before.
    pub texts: Vec<String>,
    /// Shortest time from commit to `completed`; 0 may come before the turn's `response.created`.
    #[serde(with = "humantime_serde")]
    pub min_delay: Duration,
    /// Longest time from commit to `completed`.
    #[serde(with = "humantime_serde")]
    pub max_delay: Duration,
}

impl Default for TranscriptionConfig {
    fn default() -> Self {
        Self {
            recognise: false,
            texts: Vec::new(),
            min_delay: Duration::from_millis(60),
            max_delay: Duration::from_millis(900),
        }
    }
}

/// Where `rate_limits.updated` stands in a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitsPosition {
    /// After `response.created`, with the reservation taken.
    #[default]
    Start,
    /// After `response.done`, with the reservation corrected.
    End,
    /// Never.
    Off,
}

/// Where an exhausted quota bites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Counted and reported only.
    #[default]
    Off,
    /// 429 at the upgrade.
    Upgrade,
    /// `response.done` with status `failed`, code `rate_limit_exceeded`.
    Response,
    /// Both.
    Both,
}

/// Quota of one deployment (reference chapters 6.3 to 6.5).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// RPM; the bucket refills continuously.
    pub requests_per_minute: u32,
    /// TPM; the bucket refills continuously.
    pub tokens_per_minute: u32,
    /// Where exhaustion bites.
    pub enforce: Enforcement,
    /// Requests that an upgrade counts for.
    pub upgrade_requests: f64,
    /// Requests that a response counts for.
    pub response_requests: f64,
    /// Where `rate_limits.updated` stands.
    pub rate_limits: RateLimitsPosition,
    /// Report tokens only, as seen in practice.
    pub omit_requests: bool,
    /// Provisioned throughput: account utilisation instead of RPM and TPM for enforcement.
    pub provisioned_units: Option<u32>,
    /// Input tokens a minute that one provisioned unit serves.
    pub input_tpm_per_unit: u32,
    /// Input tokens that one output token counts for under provisioned throughput.
    pub output_weight: f64,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            requests_per_minute: 1_000,
            tokens_per_minute: 100_000,
            enforce: Enforcement::Off,
            upgrade_requests: 1.0,
            response_requests: 1.0,
            rate_limits: RateLimitsPosition::Start,
            omit_requests: false,
            provisioned_units: None,
            input_tpm_per_unit: 2_500,
            output_weight: 4.0,
        }
    }
}

/// A fault and the sessions that meet it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Only sessions of this deployment (Azure) or model (OpenAI) meet it.
    #[serde(default)]
    pub deployment: Option<String>,
    /// Share of the sessions that meet it.
    #[serde(default = "always")]
    pub probability: f64,
    /// Only the first n sessions (upgrade attempts, for `refuse`) meet it.
    #[serde(default)]
    pub first_sessions: Option<u64>,
    /// All but the first n sessions (upgrade attempts, for `refuse`) meet it.
    #[serde(default)]
    pub after_sessions: Option<u64>,
    /// Only the first n responses (or transcripts) of a session meet it.
    #[serde(default)]
    pub first_responses: Option<u64>,
    /// `refuse`: HTTP status, default 503.
    #[serde(default)]
    pub status: Option<u16>,
    /// `close`, `drop`: close code; 1006 drops the connection without one. Default 1011.
    #[serde(default)]
    pub code: Option<u16>,
    /// `slow_first_audio`: added latency, default 5 s; `drop`: after so long, default 10 s; `stall`: for so
    /// long, default for ever.
    #[serde(default, with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// `stall`, `close`, `malformed`, `oversized`: after this many audio (or text) deltas, default 2.
    #[serde(default)]
    pub after_deltas: Option<u32>,
    /// `oversized`: bytes of padding, default 24 MiB.
    #[serde(default)]
    pub bytes: Option<usize>,
}

fn always() -> f64 {
    1.0
}

impl FaultRule {
    /// A fault of this kind for every session, with that kind's defaults.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            deployment: None,
            probability: 1.0,
            first_sessions: None,
            after_sessions: None,
            first_responses: None,
            status: None,
            code: None,
            delay: None,
            after_deltas: None,
            bytes: None,
        }
    }

    /// The fault that `x-sim-fault: name[=n]` asks for; n is the status of `refuse`, the code of `close` and
    /// `drop`, and `after_deltas` otherwise.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let name = name.trim().replace('-', "_");
        let kind = FaultKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)?;
        let mut rule = Self::new(kind);
        if let Ok(n) = argument.trim().parse::<u16>() {
            match kind {
                FaultKind::Refuse => rule.status = Some(n),
                FaultKind::Close | FaultKind::Drop => rule.code = Some(n),
                _ => rule.after_deltas = Some(u32::from(n)),
            }
        }
        Some(rule)
    }
}

/// What can go wrong on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Refuse the upgrade.
    Refuse,
    /// Late first delta.
    SlowFirstAudio,
    /// Deltas stop in the middle of a response.
    Stall,
    /// Close in the middle of a response.
    Close,
    /// An `error` event of type `server_error` where a response is due.
    ServerError,
    /// `response.done` with status `failed`.
    FailedResponse,
    /// A frame that is no JSON, in the middle of a response.
    Malformed,
    /// End the connection after some time.
    Drop,
    /// Each transcript comes twice.
    DuplicateTranscription,
    /// Transcripts come in reverse order, two by two.
    ReorderedTranscription,
    /// `...transcription.failed`.
    FailedTranscription,
    /// A huge frame in the middle of a response.
    Oversized,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Refuse,
        Self::SlowFirstAudio,
        Self::Stall,
        Self::Close,
        Self::ServerError,
        Self::FailedResponse,
        Self::Malformed,
        Self::Drop,
        Self::DuplicateTranscription,
        Self::ReorderedTranscription,
        Self::FailedTranscription,
        Self::Oversized,
    ];

    /// Its name in the configuration and in `x-sim-fault`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::SlowFirstAudio => "slow_first_audio",
            Self::Stall => "stall",
            Self::Close => "close",
            Self::ServerError => "server_error",
            Self::FailedResponse => "failed_response",
            Self::Malformed => "malformed",
            Self::Drop => "drop",
            Self::DuplicateTranscription => "duplicate_transcription",
            Self::ReorderedTranscription => "reordered_transcription",
            Self::FailedTranscription => "failed_transcription",
            Self::Oversized => "oversized",
        }
    }
}
