//! How a call goes on when its session fails or comes to its cap: what is kept, what another session is
//! told, and what happens where there is none.

use std::time::{Duration, Instant};

use super::deadline::Timer;
use super::end_reason::EndReason;
use super::machine::{Call, Phase, Response, Wanted};
use super::model::ModelCommand;
use super::output::{Observation, Output};
use super::replacement::Loss;

/// A session that comes near its cap is left so long before, whoever speaks.
const ROTATE_LATEST: Duration = Duration::from_secs(5);

/// Where no session was to be had for a rotation, it is tried again after so long.
const ROTATE_AGAIN: Duration = Duration::from_secs(5);

impl Call {
    // The caller's audio.

    /// Caller audio, real or silent, went to the session or is kept for the next.
    pub(super) fn audio_added(&mut self, duration: Duration, now: Instant) {
        self.turn.appended(duration, now);
        self.caller_audio.added(duration);
        if let Some(span) = self.caller_audio.forget_heard() {
            self.outputs.push_back(Output::ForgetAudio(span));
        }
        let room = self.policy.carry.audio.saturating_sub(self.history.audio());
        if let Some(span) = self.caller_audio.forget_beyond(room) {
            self.outputs.push_back(Output::ForgetAudio(span));
            self.observe(Observation::CarriedAudioDropped(span.length()));
        }
    }

    /// A pong says that the connection lives; while the model owes an event, only that says that it does.
    pub(super) fn model_alive(&mut self, now: Instant) {
        if self.sessions.is_up() && !self.is_model_due() {
            self.caller_audio.is_alive(now);
        }
    }

    pub(super) fn turn_committed(&mut self, item_id: &str) {
        let Some((turn, before)) = self.caller_audio.committed(item_id) else {
            return;
        };
        self.outputs.push_back(Output::ForgetAudio(before));
        self.history.caller_spoke(item_id, Some(turn));
        self.trim_carried();
    }

    pub(super) fn caller_words(&mut self, item_id: &str, text: &str) {
        self.history.caller_words(item_id, text);
        self.trim_carried();
    }

    /// Lets go of what is not needed any more, or more than may be kept.
    pub(super) fn trim_carried(&mut self) {
        let carry = self.policy.carry;
        let lost = self.history.bound_audio(carry.answered, carry.audio);
        if !lost.is_zero() {
            self.observe(Observation::CarriedAudioDropped(lost));
        }
        for span in self.history.take_freed() {
            self.outputs.push_back(Output::ForgetAudio(span));
        }
        let n_dropped = self.history.take_dropped();
        if n_dropped > 0 {
            self.observe(Observation::HistoryDropped(n_dropped));
        }
    }

    // A session fails.

    pub(super) fn model_lost(&mut self, loss: Loss, now: Instant) {
        if !self.sessions.is_up() {
            return;
        }
        let is_hopeful = self.sessions.failed(loss, now);
        self.outputs.push_back(Output::LoseSession(loss));
        self.leave_session(now);
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        if self.hang_up_call {
            return self.say_farewell(now);
        }
        if self.phase != Phase::Connected {
            self.phase = Phase::Replacing;
        }
        if !self.deadlines.is_set(Timer::Replacement) {
            let until = now + self.policy.timeouts.replacement;
            self.deadlines.set(Timer::Replacement, until);
        }
        if self.sessions.spare.is_some() {
            self.use_spare(now);
        } else if !is_hopeful {
            self.give_up(now);
        } else if !self.sessions.is_opening {
            self.open_session_later(now);
        }
    }

    /// Nothing more comes of the session: what it still owed is wanted of the next one, and what came of
    /// its answer is played to its end.
    fn leave_session(&mut self, now: Instant) {
        self.wanted = self.owed();
        self.response = Response::None;
        self.answer_due = false;
        self.caller_speaks = false;
        self.retried = false;
        self.close_reply();
        if self.wanted.is_some() {
            self.sessions.silent_from(now + self.heard.remaining(now));
        }
        for timer in [Timer::ModelEvent, Timer::Rotate, Timer::RotateNow] {
            self.deadlines.stop(timer);
        }
    }

    /// The answer that the session owed. A turn that is not an item yet is heard and answered by the next
    /// one; a tool that still runs asks for its answer when it is done.
    fn owed(&mut self) -> Option<Wanted> {
        let wanted = self.wanted.take();
        if self.ends_for.is_some() {
            return Some(Wanted::goodbye());
        }
        if self.caller_audio.has_turn() {
            return None;
        }
        let due = std::mem::take(&mut self.answer_due).then(Wanted::default);
        match std::mem::replace(&mut self.response, Response::None) {
            Response::Requested(asked) if asked.crossed => Some(Wanted::default()),
            Response::Requested(asked) => Some(asked),
            Response::Active {
                asked,
                interrupted: false,
                took_effect: false,
                ..
            } => Some(asked.unwrap_or_default()),
            Response::Active {
                interrupted: false, ..
            } if wanted.is_none() && self.running_tools == 0 => {
                self.history.is_cut_off().then(|| Wanted {
                    continues: true,
                    ..Wanted::default()
                })
            }
            Response::Active { .. } | Response::None => wanted.or(due),
        }
    }

    // Another one takes over.

    fn open_session_later(&mut self, now: Instant) {
        let wait = self.sessions.backoff();
        if wait.is_zero() {
            self.open_session();
        } else {
            self.deadlines.set(Timer::Reopen, now + wait);
        }
    }

    pub(super) fn open_session(&mut self) {
        if !self.sessions.is_opening {
            self.sessions.is_opening = true;
            self.outputs.push_back(Output::OpenSession);
        }
    }

    pub(super) fn session_opened(&mut self, configured: bool, now: Instant) {
        self.sessions.is_opening = false;
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        self.sessions.spare = Some(configured);
        if !self.sessions.is_up() || !self.deadlines.is_set(Timer::RotateNow) {
            self.use_spare(now);
        }
    }

    pub(super) fn no_session(&mut self, now: Instant) {
        self.sessions.is_opening = false;
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        if self.sessions.is_up() {
            self.deadlines.set(Timer::Rotate, now + ROTATE_AGAIN);
        } else {
            self.sessions.refused();
            self.open_session_later(now);
        }
    }

    /// The session that was opened ahead of a rotation ended by itself.
    pub(super) fn spare_lost(&mut self, now: Instant) {
        if self.sessions.spare.take().is_some() {
            self.deadlines.set(Timer::Rotate, now + ROTATE_AGAIN);
        }
    }

    /// The session that was opened takes over, and is told all that it has to know.
    pub(super) fn use_spare(&mut self, now: Instant) {
        let Some(configured) = self.sessions.spare else {
            return;
        };
        if matches!(self.phase, Phase::Farewell { .. } | Phase::Ended) {
            return;
        }
        if self.sessions.is_up() {
            self.leave_session(now);
            if self.hang_up_call {
                return self.say_farewell(now);
            }
        }
        let replaced = self.sessions.replaced(now);
        self.observe(replaced.map_or(Observation::SessionRotated, Observation::SessionReplaced));
        for timer in [Timer::Reopen, Timer::Rotate, Timer::RotateNow] {
            self.deadlines.stop(timer);
        }
        self.heard.next_session();
        self.outputs.push_back(Output::UseSession);
        if self.phase == Phase::Connected {
            self.deadlines.stop(Timer::Replacement);
            return;
        }
        if !configured {
            self.phase = Phase::Configuring;
            self.tell_model(ModelCommand::Configure);
        }
        let told = self.history.tell();
        self.outputs.extend(told);
        let uncommitted = self.caller_audio.replayed(now);
        self.outputs.push_back(Output::ReplayAudio(uncommitted));
        self.turn.restarted(uncommitted.length(), now);
        if configured {
            self.phase = Phase::Configuring;
            self.session_updated(now);
        }
        self.watch_model(now);
    }

    /// Nothing is left: the caller is told so.
    pub(super) fn give_up(&mut self, now: Instant) {
        let Some(loss) = self.sessions.lost else {
            // It came in time, and is slow to take its configuration.
            return self.model_lost(Loss::Stalled, now);
        };
        self.observe(Observation::SessionNotReplaced(loss));
        if self.phase == Phase::Connected {
            return self.end(EndReason::ModelUnavailable);
        }
        if self.ends_for.is_some() {
            return self.say_farewell(now);
        }
        for timer in [Timer::Reopen, Timer::Replacement] {
            self.deadlines.stop(timer);
        }
        self.wanted = None;
        let until = now + self.heard.remaining(now) + self.policy.timeouts.farewell;
        self.phase = Phase::Farewell {
            until,
            reason: EndReason::ModelUnavailable,
        };
        self.deadlines.set(Timer::Farewell, until);
        self.outputs.push_back(Output::Apologise);
    }

    // A session comes to its cap.

    /// The vendor ends the session in use after so long. A short life leaves shorter times.
    pub(super) fn session_expires(&mut self, within: Duration, now: Instant) {
        if !self.sessions.is_up() {
            return;
        }
        let before = self.policy.timeouts.rotate_before.min(within / 2);
        let latest = ROTATE_LATEST.min(within / 4);
        self.deadlines.set(Timer::Rotate, now + within - before);
        self.deadlines.set(Timer::RotateNow, now + within - latest);
    }

    pub(super) fn rotate(&mut self) {
        if !matches!(self.phase, Phase::Farewell { .. }) {
            self.open_session();
        }
    }

    /// The session that was opened ahead takes over while nobody speaks and nothing is under way.
    pub(super) fn rotate_in_a_pause(&mut self, now: Instant) {
        if self.sessions.spare.is_none() || !self.sessions.is_up() {
            return;
        }
        let is_pause = match self.phase {
            Phase::Connected => true,
            Phase::Talking => {
                !self.caller_speaks
                    && !self.caller_audio.has_turn()
                    && !self.is_model_due()
                    && self.running_tools == 0
                    && self.digits.is_empty()
                    && self.heard.remaining(now).is_zero()
            }
            Phase::Configuring | Phase::Replacing | Phase::Farewell { .. } | Phase::Ended => false,
        };
        if is_pause {
            self.use_spare(now);
        }
    }
}
