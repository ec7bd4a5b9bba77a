//! What answers a phone: the part of the configuration that a conducted call follows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::call::{
    CallPolicy, CallTimeouts, CarryPolicy, DtmfPolicy, HANG_UP_TOOL, ModelCommand, TRANSFER_TOOL,
    TurnPolicy,
};
use crate::ingress::{Capabilities, Marks};
use crate::media::{Clip, FRAME, GapSettings, OpusSettings};
use crate::quota::Expect;
use crate::realtime::{DEFAULT_PREFIX_PADDING, SessionSettings, Tool, TurnDetection};
use crate::upstream::{Deployment, SessionContext, SessionFormats, encode};

use super::press_keys::{self, PRESS_KEYS_TOOL};
use super::tool::WebhookConfig;

/// Silence that ends a turn unless the agent says otherwise; the vendor's documented default (protocol
/// reference 4.4). Sent always, so that turn latency is measured from the same moment everywhere.
const DEFAULT_SILENCE: Duration = Duration::from_millis(500);

/// One `[agents.NAME]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the deployment or pool that serves its calls.
    pub deployment: String,
    /// What it is told to say first; without, it waits for the caller.
    pub greeting: Option<String>,
    /// The session: instructions, voice, turn detection, tools.
    #[serde(default)]
    pub session: SessionSettings,
    /// Where the tools are: name to webhook. `hang_up`, `transfer_to_agent` and `press_keys` are
    /// built in and need none.
    #[serde(default)]
    pub webhooks: BTreeMap<String, WebhookConfig>,
    /// Whether the model may end the call by the tool `hang_up`.
    #[serde(default = "yes")]
    pub may_hang_up: bool,
    /// Whether the model may give the call to a person by the tool `transfer_to_agent`: the phone system is told so where
    /// its wire has a word for it, else the call ends and goes on as the system's flow says.
    #[serde(default)]
    pub may_transfer: bool,
    /// Whether the model may press keys towards the caller's line by the tool `press_keys`, where the phone system
    /// takes any.
    #[serde(default)]
    pub may_press_keys: bool,
    /// What key presses do.
    #[serde(default)]
    pub dtmf: DtmfPolicy,
    /// How replies are paced.
    #[serde(default)]
    pub playout: PlayoutConfig,
    /// When missing caller audio is replaced by silence.
    #[serde(default)]
    pub gap: GapSettings,
    /// Caller audio is sent to the deployment in pieces of so much at least; zero for each message as it comes. Fewer
    /// events cost less, and the first of what is in one is heard by so much later.
    #[serde(default, with = "humantime_serde")]
    pub append: Duration,
    /// How the Opus encoder is set, for callers that speak Opus.
    #[serde(default)]
    pub opus: OpusSettings,
    /// What the caller hears when no deployment is left: a mono 16 bit WAV file, in place of the clip that
    /// comes with the program.
    pub apology: Option<PathBuf>,
    /// Caller audio that is kept for a session that has to take over.
    #[serde(default)]
    pub carry: CarryPolicy,
    /// How long to wait for whom.
    #[serde(default)]
    pub timeouts: CallTimeouts,
    /// What its calls are expected to be like.
    pub expect: Option<Expect>,
}

/// How replies are paced.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlayoutConfig {
    /// Audio is handed to the caller's side at most so long before it is due at the ear.
    #[serde(with = "humantime_serde")]
    pub lead: Duration,
    /// Reply audio that may wait; a model delivers several times faster than it is spoken.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
}

impl Default for PlayoutConfig {
    fn default() -> Self {
        Self {
            lead: Duration::from_millis(100),
            max: Duration::from_secs(300),
        }
    }
}

fn yes() -> bool {
    true
}

/// An agent, checked.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Under what its sessions stand by: its name, and what tells it from agents of that name with other settings.
    pub standby_line: String,
    pub(super) config: AgentConfig,
    pub(super) turns: TurnPolicy,
    pub(super) apology: Clip,
}

/// What is wrong with an agent's configuration.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct AgentError {
    field: String,
    problem: String,
}

impl AgentError {
    /// The field, relative to the agent's table.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl Agent {
    /// Checks an agent's configuration and fills in what it leaves out.
    ///
    /// # Errors
    ///
    /// The first field that cannot be, with the reason.
    pub fn new(name: &str, mut config: AgentConfig) -> Result<Self, AgentError> {
        config
            .session
            .validate()
            .map_err(|error| AgentError::new(format!("session.{}", error.field), error.reason))?;
        let detection = config
            .session
            .turn_detection
            .get_or_insert(TurnDetection::ServerVad {
                threshold: None,
                prefix_padding: None,
                silence_duration: None,
                idle_timeout: None,
                create_response: None,
                interrupt_response: None,
            });
        let turns = turn_policy(detection)?;
        for tool in &config.session.tools {
            let built_in = [HANG_UP_TOOL, TRANSFER_TOOL, PRESS_KEYS_TOOL];
            let is_built_in = built_in.contains(&tool.name.as_str());
            if !is_built_in && !config.webhooks.contains_key(&tool.name) {
                return Err(AgentError::new(
                    format!("session.tools.{}", tool.name),
                    "no webhook of that name, so nobody could answer it",
                ));
            }
        }
        check_limits(&config)?;
        let (may_hang_up, may_press_keys) = (config.may_hang_up, config.may_press_keys);
        let tools = &mut config.session.tools;
        add_built_in(tools, hang_up_tool(), may_hang_up, "may_hang_up")?;
        add_built_in(tools, transfer_tool(), config.may_transfer, "may_transfer")?;
        add_built_in(tools, press_keys::tool(), may_press_keys, "may_press_keys")?;
        Ok(Self {
            name: name.to_owned(),
            standby_line: format!("{name}/{:016x}", fastrand::u64(..)),
            apology: apology(&config)?,
            config,
            turns,
        })
    }

    /// Name of the pool that serves its calls, which may be a deployment's.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.config.deployment
    }

    /// The event that configures a session at a deployment for its calls.
    #[must_use]
    pub fn configuration(&self, deployment: &Deployment, formats: SessionFormats) -> String {
        let context = SessionContext {
            settings: &self.config.session,
            input: formats.input,
            output: formats.output,
            shape: deployment.shape(),
        };
        encode(&ModelCommand::Configure, &context, "configure-standby")
    }

    /// Where turns are put into words, those that are not yet are few, and kept as long as all other audio.
    fn carry(&self) -> CarryPolicy {
        let carry = self.config.carry;
        match self.config.session.transcription {
            Some(_) => CarryPolicy {
                answered: carry.audio,
                ..carry
            },
            None => carry,
        }
    }

    pub(super) fn policy(&self, capabilities: &Capabilities) -> CallPolicy {
        let mut timeouts = self.config.timeouts;
        if capabilities.rests {
            timeouts.caller_media = Duration::ZERO;
        }
        let lead = capabilities.lead.bound(self.config.playout.lead);
        // Where a frame less ahead is no danger, there is a frame's time for the caller's next message to come and take one along.
        let is_long = lead >= MIN_LEAD_FOR_AHEAD && lead >= capabilities.lead.at_least + FRAME;
        let ahead = match is_long && capabilities.chunk_frames == 1 {
            true => FRAME,
            false => Duration::ZERO,
        };
        CallPolicy {
            lead: lead - ahead,
            ahead,
            chunk_frames: capabilities.chunk_frames,
            uses_marks: match capabilities.marks {
                Marks::EchoedAlways | Marks::EchoedWhenPlayed => true,
                Marks::None => false,
            },
            greeting: self.config.greeting.clone(),
            dtmf: self.config.dtmf,
            turns: self.turns,
            gap: self.config.gap,
            carry: self.carry(),
            timeouts,
        }
    }
}

/// Two frames: less, and the caller's jitter buffer runs dry between two of them.
const MIN_LEAD: Duration = Duration::from_millis(40);

/// With less, the two frames of [`MIN_LEAD`] would not be there any more while a message of the caller's is waited for.
const MIN_LEAD_FOR_AHEAD: Duration = Duration::from_millis(80);

/// More, and who interrupts goes on hearing the reply wherever it cannot be cleared.
const MAX_LEAD: Duration = Duration::from_secs(5);

/// Longest piece of caller audio: the deployment looks at 32 ms at a time (protocol reference 4.4).
const MAX_APPEND: Duration = Duration::from_millis(200);

/// Speech is known of a second late, or later with much padding, and somebody who speaks does so for some seconds.
const MIN_CARRY: Duration = Duration::from_secs(5);

fn apology(config: &AgentConfig) -> Result<Clip, AgentError> {
    let Some(path) = &config.apology else {
        return Ok(Clip::apology());
    };
    let wrong = |problem: String| AgentError::new("apology", problem);
    let bytes = std::fs::read(path)
        .map_err(|error| wrong(format!("cannot read {}: {error}", path.display())))?;
    Clip::parse_wav(&bytes).map_err(|error| wrong(error.to_string()))
}

/// What a session has to do with nothing: sizes and times of the call itself.
fn check_limits(config: &AgentConfig) -> Result<(), AgentError> {
    config
        .opus
        .check()
        .map_err(|error| AgentError::new("opus", error.to_string()))?;
    let playout = &config.playout;
    if playout.max < Duration::from_secs(1) {
        return Err(AgentError::new(
            "playout.max",
            "less than a second of reply cannot work",
        ));
    }
    if !(MIN_LEAD..=MAX_LEAD.min(playout.max)).contains(&playout.lead) {
        return Err(AgentError::new(
            "playout.lead",
            "it must lie between 40ms and 5s, and not above playout.max",
        ));
    }
    if config.append > MAX_APPEND {
        return Err(AgentError::new(
            "append",
            "more than 200ms would be heard as a slow answer",
        ));
    }
    if config.carry.audio < MIN_CARRY {
        return Err(AgentError::new(
            "carry.audio",
            "less than 5s would lose words of a caller whose session fails",
        ));
    }
    let timeouts = &config.timeouts;
    for (name, timeout) in [
        ("start", timeouts.start),
        ("caller_media", timeouts.caller_media),
        ("model_event", timeouts.model_event),
        ("farewell", timeouts.farewell),
        ("replacement", timeouts.replacement),
        ("rotate_before", timeouts.rotate_before),
    ] {
        if timeout.is_zero() {
            return Err(AgentError::new(
                format!("timeouts.{name}"),
                "a call could not live with zero; only max_duration may be zero, for none",
            ));
        }
    }
    Ok(())
}

fn turn_policy(detection: &mut TurnDetection) -> Result<TurnPolicy, AgentError> {
    match detection {
        TurnDetection::ServerVad {
            prefix_padding,
            silence_duration,
            create_response,
            interrupt_response,
            ..
        } => Ok(TurnPolicy {
            silence: *silence_duration.get_or_insert(DEFAULT_SILENCE),
            prefix: prefix_padding.unwrap_or(DEFAULT_PREFIX_PADDING),
            creates_response: create_response.unwrap_or(true),
            interrupts_response: interrupt_response.unwrap_or(true),
        }),
        TurnDetection::SemanticVad {
            create_response,
            interrupt_response,
            ..
        } => Ok(TurnPolicy {
            // It waits as long as it likes and does not say how long that was.
            silence: Duration::ZERO,
            prefix: DEFAULT_PREFIX_PADDING,
            creates_response: create_response.unwrap_or(true),
            interrupts_response: interrupt_response.unwrap_or(true),
        }),
        TurnDetection::None {} => Err(AgentError::new(
            "session.turn_detection",
            "a phone call needs turn detection: nobody else would say when the caller's turn ends",
        )),
    }
}

/// Adds a tool of the gateway's own, if the agent may use it and does not describe it in words of its own.
fn add_built_in(
    tools: &mut Vec<Tool>,
    tool: Tool,
    may: bool,
    field: &str,
) -> Result<(), AgentError> {
    let is_there = tools.iter().any(|own| own.name == tool.name);
    if is_there && !may {
        return Err(AgentError::new(
            format!("session.tools.{}", tool.name),
            format!("{field} is false, so this tool cannot be there"),
        ));
    }
    if may && !is_there {
        tools.push(tool);
    }
    Ok(())
}

fn hang_up_tool() -> Tool {
    Tool {
        name: HANG_UP_TOOL.to_owned(),
        description: "Ends the phone call. Say good-bye first, then call this.".to_owned(),
        parameters: serde_json::json!({"type": "object", "properties": {}}),
    }
}

fn transfer_tool() -> Tool {
    Tool {
        name: TRANSFER_TOOL.to_owned(),
        description: "Hands the phone call over to a human. Tell the caller first, then call this."
            .to_owned(),
        parameters: serde_json::json!({"type": "object", "properties": {}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::Dialect;

    fn agent(text: &str) -> Result<Agent, String> {
        let config = toml::from_str(text).map_err(|error| error.to_string())?;
        Agent::new("a", config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_silence_that_ends_a_turn_is_always_known() {
        let agent = agent("deployment = 'd'").expect("good");
        assert_eq!(agent.turns.silence, DEFAULT_SILENCE);
        assert!(matches!(
            agent.config.session.turn_detection,
            Some(TurnDetection::ServerVad {
                silence_duration: Some(DEFAULT_SILENCE),
                ..
            })
        ));
        assert!(
            agent
                .config
                .session
                .tools
                .iter()
                .any(|tool| tool.name == HANG_UP_TOOL)
        );
    }

    #[test]
    fn a_frame_less_is_kept_ahead_where_that_is_no_danger() {
        let check = |dialect: &str, lead: &str, expected: (u64, u64)| {
            let agent = agent(&format!("deployment = 'd'\n[playout]\nlead = '{lead}'"));
            let dialect = Dialect::by_name(dialect).expect("it is one");
            let policy = agent.expect("it is good").policy(dialect.capabilities());
            let found = [policy.lead, policy.ahead].map(|it| it.as_millis() as u64);
            assert_eq!(found, [expected.0, expected.1], "{lead}");
        };
        check("twilio", "100ms", (80, 20));
        check("twilio", "80ms", (60, 20));
        check("twilio", "79ms", (79, 0));
        // It takes no more than 40 ms.
        check("infobip", "100ms", (40, 0));
        // It wants 200 ms at a time.
        check("genesys", "400ms", (400, 0));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("deployment = 'd'\n[session]\nspeed = 9.0", "session.speed"),
            (
                "deployment = 'd'\n[session]\nturn_detection = {type = 'none'}",
                "session.turn_detection",
            ),
            (
                "deployment = 'd'\n[[session.tools]]\nname = 'weather'",
                "session.tools.weather",
            ),
            ("deployment = 'd'\ngreting = 'Hi'", "greting"),
            ("deployment = 'd'\n[opus]\nbitrate = 5", "opus: "),
            ("deployment = 'd'\n[playout]\nlead = '39ms'", "playout.lead"),
            (
                "deployment = 'd'\n[playout]\nlead = '2s'\nmax = '1s'",
                "playout.lead",
            ),
            ("deployment = 'd'\n[playout]\nlead = '6s'", "playout.lead"),
            (
                "deployment = 'd'\n[timeouts]\nmodel_event = '0s'",
                "timeouts.model_event",
            ),
            (
                "deployment = 'd'\napology = '/none.wav'",
                "apology: cannot read",
            ),
            (
                "deployment = 'd'\napology = 'Cargo.toml'",
                "apology: no readable WAV",
            ),
            ("deployment = 'd'\n[carry]\naudio = '4s'", "carry.audio"),
            (
                "deployment = 'd'\nmay_hang_up = false\n[[session.tools]]\nname = 'hang_up'",
                "session.tools.hang_up",
            ),
            (
                "deployment = 'd'\n[[session.tools]]\nname = 'transfer_to_agent'",
                "session.tools.transfer_to_agent",
            ),
            (
                "deployment = 'd'\n[[session.tools]]\nname = 'press_keys'",
                "session.tools.press_keys",
            ),
        ] {
            let error = agent(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
