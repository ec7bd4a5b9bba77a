//! What callers do, whom they call, and what is asked of the answer: a scenario file, read and checked.
//!
//! Every scenario is bounded: who leaves `[limits]` out gets its defaults.

mod arrivals;
mod script;
mod span;
mod target;
mod thresholds;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use trunkline::simulator::wav::{Clip, WavError};
use trunkline::simulator::{SimulatorConfig, speech};

pub use arrivals::Arrivals;
pub use script::{Saying, Voices};
pub use span::{Number, Span, parse_time};
pub use target::Target;
pub use thresholds::{Miss, Thresholds};

/// Longest turn of a caller, and the most turns of a call: a session lives for an hour (protocol reference 1.6).
const LONGEST_TALK: Duration = Duration::from_secs(600);
const MAX_TURNS: u32 = 10_000;

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What reports call it.
    #[serde(default)]
    pub name: String,
    /// The same seed, the same callers.
    #[serde(default = "one")]
    pub seed: u64,
    /// Who is called.
    pub target: Target,
    /// When callers come.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// When it is enough.
    #[serde(default)]
    pub limits: Limits,
    /// What a caller does.
    #[serde(default)]
    pub call: CallShape,
    /// Run the stand-in of the Realtime API within this process, for a gateway to use.
    #[serde(default)]
    pub simulator: Option<SimulatorTable>,
    /// What is asked of the run.
    #[serde(default)]
    pub thresholds: Thresholds,
}

fn one() -> u64 {
    1
}

/// The `[limits]` table. Nothing goes on for ever, and nothing spends without limit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls in all.
    pub calls: u64,
    /// Calls at a time; an arrival beyond them is counted and makes no call.
    pub concurrent: u32,
    /// After this time no call begins, and live ones hang up.
    #[serde(with = "humantime_serde")]
    pub time: Duration,
    /// A caller hangs up after this time.
    #[serde(with = "humantime_serde")]
    pub call_time: Duration,
    /// Tokens in all, read and written, as the target reports them; then everybody hangs up. A gateway of the phone
    /// dialects reports none: there, only the other limits hold.
    pub tokens: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls: 1_000,
            concurrent: 1_000,
            time: Duration::from_secs(60),
            call_time: Duration::from_secs(120),
            tokens: 100_000,
        }
    }
}

/// The `[call]` table: what a caller does.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallShape {
    /// What is said: `coded`, `samples`, or WAV files.
    pub speech: Speech,
    /// How long a caller of coded speech talks in a turn.
    pub talk: Span,
    /// How often a caller says something and waits for the reply.
    pub turns: Number,
    /// Silence before the first word.
    pub before: Span,
    /// Silence after a reply, before the next word.
    pub think: Span,
    /// What comes back while the caller talks, as from an echo, or as a reply to it.
    pub answer: Answer,
    /// Listen to a greeting first.
    pub listen_first: bool,
    /// How long a caller waits for a reply.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// A reply is over when it was silent for so long.
    #[serde(with = "humantime_serde")]
    pub reply_gap: Duration,
    /// Interrupting replies.
    pub barge_in: Chance,
    /// Hanging up in the middle of a reply.
    pub hang_up: Chance,
    /// Keys that are pressed after the last turn.
    pub dtmf: String,
    /// From the end of a call to the caller's next, where callers are kept up.
    pub pause: Span,
}

impl Default for CallShape {
    fn default() -> Self {
        let none = Span::exactly(Duration::ZERO);
        Self {
            speech: Speech::default(),
            talk: Span::ms(1_000, 3_000),
            turns: Number::exactly(3),
            before: Span::ms(300, 1_000),
            think: Span::ms(500, 2_000),
            answer: Answer::Reply,
            listen_first: false,
            patience: Duration::from_secs(20),
            reply_gap: Duration::from_millis(600),
            barge_in: Chance::default(),
            hang_up: Chance::default(),
            dtmf: String::new(),
            pause: none,
        }
    }
}

/// What a caller says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Speech {
    /// By name.
    Named(Named),
    /// Recordings, one after the other, each call beginning with another.
    Files(Vec<PathBuf>),
}

/// Speech that needs no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// Tones that say what they are: for targets that send them back, as an echo or the simulator does.
    Coded,
    /// The built-in sentences: for targets that understand speech.
    Samples,
}

impl Default for Speech {
    fn default() -> Self {
        Self::Named(Named::Coded)
    }
}

/// What comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A reply once the caller has finished.
    #[default]
    Reply,
    /// What is said, at once.
    Echo,
}

/// Something that happens in a share of the turns.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chance {
    /// Of all turns, 0 to 1.
    pub share: f64,
    /// After so much of the reply was heard.
    pub after: Span,
}

impl Default for Chance {
    fn default() -> Self {
        Self {
            share: 0.0,
            after: Span::ms(200, 2_000),
        }
    }
}

/// The `[simulator]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatorTable {
    /// Where it listens; the gateway's deployment leads here.
    pub listen: std::net::SocketAddr,
    /// Its settings.
    #[serde(default)]
    pub settings: SimulatorConfig,
}

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// It is no scenario.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        reason: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{0}")]
    Value(String),
    /// A recording cannot be used.
    #[error("{}: {reason}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: WavError,
    },
    /// There is no sound in a recording.
    #[error("{}: there is no sound in it", .0.display())]
    Silent(PathBuf),
}

impl Scenario {
    /// Reads and checks a file. Paths in it are relative to where it lies.
    ///
    /// # Errors
    /// See [`ScenarioError`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|reason| ScenarioError::File {
            path: path.to_owned(),
            reason,
        })?;
        let mut scenario: Self = toml::from_str(&text).map_err(|reason| ScenarioError::Syntax {
            path: path.to_owned(),
            reason: Box::new(reason),
        })?;
        if scenario.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            scenario.name = stem.to_string_lossy().into_owned();
        }
        scenario.resolve(path.parent().unwrap_or(Path::new("")));
        scenario.check()?;
        Ok(scenario)
    }

    /// Parses and checks the text of a scenario.
    ///
    /// # Errors
    /// [`ScenarioError::Value`].
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let wrong = |error: toml::de::Error| ScenarioError::Value(error.to_string());
        let mut scenario: Self = toml::from_str(text).map_err(wrong)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn resolve(&mut self, folder: &Path) {
        if let Speech::Files(files) = &mut self.call.speech {
            for file in files {
                *file = folder.join(&*file);
            }
        }
        if let Arrivals::Trace {
            file: Some(file), ..
        } = &mut self.arrivals
        {
            *file = folder.join(&*file);
        }
        if let Some(ca) = &mut self.target.ca {
            *ca = folder.join(&*ca);
        }
    }

    fn check(&mut self) -> Result<(), ScenarioError> {
        let wrong = |text: &str| Err(ScenarioError::Value(text.to_owned()));
        self.arrivals.check().map_err(ScenarioError::Value)?;
        self.thresholds.check().map_err(ScenarioError::Value)?;
        let (call, limits) = (&self.call, &self.limits);
        for (name, chance) in [("barge_in", &call.barge_in), ("hang_up", &call.hang_up)] {
            if !(0.0..=1.0).contains(&chance.share) {
                return wrong(&format!("call.{name}.share: a share is from 0 to 1"));
            }
        }
        if call.talk.from < Duration::from_millis(100) {
            return wrong("call.talk: less than 100ms is taken for a click");
        }
        if call.talk.to > LONGEST_TALK {
            return wrong("call.talk: more than 10min is more than a session hears");
        }
        if call.turns.to > MAX_TURNS {
            return wrong("call.turns: more than 10000 are more than a session lives for");
        }
        if limits.calls == 0
            || limits.concurrent == 0
            || limits.tokens == 0
            || limits.time.is_zero()
        {
            return wrong("limits: with a limit of nothing, nothing happens");
        }
        if let Arrivals::Hold { calls, .. } = self.arrivals
            && calls > limits.concurrent
        {
            return wrong("limits.concurrent: fewer than the calls that arrivals keep up");
        }
        if call.speech == Speech::Files(Vec::new()) {
            return wrong("call.speech: name \"coded\", \"samples\" or WAV files");
        }
        if let Some(key) = call
            .dtmf
            .chars()
            .find(|key| !"0123456789*#ABCD".contains(*key))
        {
            return wrong(&format!(
                "call.dtmf: {key:?} is not a telephone key (0-9 * # A-D)"
            ));
        }
        self.target.check().map_err(ScenarioError::Value)
    }

    /// What callers say, at the rate of their phones.
    ///
    /// # Errors
    /// [`ScenarioError::Wav`], [`ScenarioError::Silent`].
    pub fn voices(&self, rate: u32) -> Result<Voices, ScenarioError> {
        let clips = match &self.call.speech {
            Speech::Named(Named::Coded) => {
                return Ok(Voices::coded(self.call.talk, rate));
            }
            Speech::Named(Named::Samples) => vec![speech::hours(), speech::order()],
            Speech::Files(files) => files
                .iter()
                .map(|path| read_wav(path))
                .collect::<Result<_, _>>()?,
        };
        Ok(Voices::recorded(clips, rate))
    }
}

fn read_wav(path: &Path) -> Result<Clip, ScenarioError> {
    let clip = Clip::read_wav(path).map_err(|reason| ScenarioError::Wav {
        path: path.to_owned(),
        reason,
    })?;
    if trunkline::simulator::judge::voiced_ms(&clip.samples, clip.rate) == 0 {
        return Err(ScenarioError::Silent(path.to_owned()));
    }
    Ok(clip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, why: &str) {
        let text = format!("{text}\n[target]\nurl = 'ws://h/twilio'");
        let error = Scenario::parse(&text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_target_is_enough() {
        let scenario = Scenario::parse("[target]\nurl = 'ws://h:1/twilio/media/a'").unwrap();
        assert_eq!(scenario.limits.calls, 1_000);
        assert_eq!(scenario.arrivals, Arrivals::default());
    }

    #[test]
    fn mistakes_are_explained() {
        check_refused("[call]\nbarge_in = { share = 2.0 }", "call.barge_in.share");
        check_refused("[call]\ntalk = '50ms'", "call.talk");
        check_refused("[call]\ndtmf = '12x'", "'x' is not a telephone key");
        check_refused("[call]\nspeech = []", "call.speech");
        check_refused(
            "[arrivals]\nprocess = 'hold'\ncalls = 1001",
            "limits.concurrent",
        );
        check_refused("[limits]\ncalls = 0", "limits");
        check_refused("[call]\nturn = 3", "unknown field `turn`");
        check_refused("[thresholds]\nlost_frames = -1.0", "thresholds.lost_frames");
        check_refused("[call]\nturns = 4000000000", "call.turns: more than 10000");
        check_refused("[call]\ntalk = '1h'", "call.talk: more than 10min");
        let strange = Scenario::parse("[target]\nurl = 'ws://h/stream'").unwrap_err();
        assert!(strange.to_string().contains("target.dialect"), "{strange}");
    }
}
