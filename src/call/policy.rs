//! What a call is allowed and expected to do: everything the core is told when the call begins.

use std::time::Duration;

use serde::Deserialize;

use crate::media::GapSettings;

/// The rules of one call that the gateway conducts for an agent.
#[derive(Clone, Debug)]
pub struct CallPolicy {
    /// Reply audio is handed over so long before it is due at the ear.
    pub lead: Duration,
    /// So much earlier a frame leaves if the call is awake anyway, because the caller's audio came. A wake-up is the dearest
    /// part of a frame, and both ways have the rhythm of 20 ms, so that hardly one is left for the reply alone.
    pub ahead: Duration,
    /// Reply audio is handed over so many frames at a time.
    pub chunk_frames: usize,
    /// Whether the caller's dialect echoes marks.
    pub uses_marks: bool,
    /// What the agent is told to say first; `None` waits for the caller.
    pub greeting: Option<String>,
    /// What key presses do.
    pub dtmf: DtmfPolicy,
    /// How turns are detected.
    pub turns: TurnPolicy,
    /// When silence is put in place of missing audio.
    pub gap: GapSettings,
    /// What is kept for a session that has to take over.
    pub carry: CarryPolicy,
    /// How long to wait for whom.
    pub timeouts: CallTimeouts,
}

/// Caller audio that is kept in case the session fails; another one is then sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CarryPolicy {
    /// All that may be kept: what the model has not taken for a turn yet, and turns whose words are not
    /// known. It takes what the caller's codec takes, 8 KB a second of G.711.
    #[serde(with = "humantime_serde")]
    pub audio: Duration,
    /// Of it, turns that were answered already, where there are no transcripts of them.
    #[serde(with = "humantime_serde")]
    pub answered: Duration,
}

impl Default for CarryPolicy {
    fn default() -> Self {
        Self {
            audio: Duration::from_secs(60),
            answered: Duration::from_secs(4),
        }
    }
}

/// What the core must know of the session's turn detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnPolicy {
    /// Silence that the detection waits for before it reports the end of speech.
    pub silence: Duration,
    /// Audio before the onset of speech that it counts as part of it.
    pub prefix: Duration,
    /// Whether the deployment answers a turn by itself.
    pub creates_response: bool,
    /// Whether the deployment stops its response by itself when the caller speaks.
    pub interrupts_response: bool,
}

/// What key presses do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DtmfPolicy {
    /// Whether the model is told of keys at all.
    pub enabled: bool,
    /// Keys are told together once none came for so long.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
    /// A key that completes the entry at once; empty for none.
    pub terminator: Terminator,
}

/// The key that completes an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Terminator {
    /// `#`
    #[serde(rename = "#")]
    Pound,
    /// `*`
    #[serde(rename = "*")]
    Star,
    /// Only the pause completes an entry.
    #[serde(rename = "")]
    None,
}

impl Default for DtmfPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            pause: Duration::from_secs(2),
            terminator: Terminator::Pound,
        }
    }
}

impl DtmfPolicy {
    pub(super) fn completes(self, key: char) -> bool {
        match self.terminator {
            Terminator::Pound => key == '#',
            Terminator::Star => key == '*',
            Terminator::None => false,
        }
    }
}

/// How long a call waits for its parties (limits reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallTimeouts {
    /// From the connection to the dialect's first message.
    #[serde(with = "humantime_serde")]
    pub start: Duration,
    /// Without any audio from the caller; zero for no limit, as with callers who send none while they are silent.
    #[serde(with = "humantime_serde")]
    pub caller_media: Duration,
    /// Without any event from the deployment while one is due.
    #[serde(with = "humantime_serde")]
    pub model_event: Duration,
    /// For the last words to be played before the agent hangs up.
    #[serde(with = "humantime_serde")]
    pub farewell: Duration,
    /// For a session in place of one that failed; then the caller hears an apology.
    #[serde(with = "humantime_serde")]
    pub replacement: Duration,
    /// Before the vendor's session cap, for another session to be opened and a pause to come.
    #[serde(with = "humantime_serde")]
    pub rotate_before: Duration,
    /// The longest call; zero for none.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
}

impl Default for CallTimeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(5),
            caller_media: Duration::from_secs(30),
            model_event: Duration::from_secs(8),
            farewell: Duration::from_secs(15),
            replacement: Duration::from_secs(10),
            rotate_before: Duration::from_secs(60),
            max_duration: Duration::ZERO,
        }
    }
}
