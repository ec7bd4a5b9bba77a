//! What an operator has said in a call, and how a call leaves its session because an operator wants it.

use std::time::{Duration, Instant};

use super::deadline::Timer;
use super::machine::{Call, Phase, Wanted};
use super::model::ModelCommand;

/// A session that is to be left is left by then, whoever speaks.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// How the model is told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SayMode {
    /// It says these words and nothing else, after what it is saying.
    Verbatim,
    /// As if the caller had typed it: it answers.
    User,
    /// It knows it from its next response on.
    System,
}

impl Call {
    /// Whether there is a conversation, and a session to have it with.
    #[must_use]
    pub fn is_talking(&self) -> bool {
        self.phase == Phase::Talking && self.ends_for.is_none()
    }

    /// Whether the caller is speaking, as far as the model hears.
    #[must_use]
    pub fn caller_speaks(&self) -> bool {
        self.caller_speaks
    }

    pub(super) fn say(&mut self, text: String, mode: SayMode, now: Instant) {
        if !self.is_talking() {
            return;
        }
        match mode {
            SayMode::Verbatim => {
                self.wanted = Some(Wanted {
                    instructions: Some(verbatim(&text)),
                    ..Wanted::default()
                });
                self.ask_if_wanted(now);
                self.watch_model(now);
            }
            SayMode::User => {
                self.history.typed(&text);
                self.tell_model(ModelCommand::AddUserText { text });
                self.want_response(now);
            }
            SayMode::System => {
                self.history.noted(&text);
                self.tell_model(ModelCommand::AddSystemText { text });
            }
        }
    }

    /// Goes on at another session as if the cap of this one were near: as soon as nobody is interrupted by it.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.sessions.is_up() && self.sessions.spare.is_none() {
            self.deadlines.set(Timer::Rotate, now);
            self.deadlines
                .set_no_later(Timer::RotateNow, now + LEAVE_WITHIN);
        }
    }
}

fn verbatim(text: &str) -> String {
    format!(
        "Say the following to the caller now, word for word and in its own language, and nothing else: {text}"
    )
}
