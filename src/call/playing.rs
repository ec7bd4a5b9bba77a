//! How replies leave for the caller, and the last one before the call ends.

use std::time::Instant;

use super::deadline::Timer;
use super::end_reason::EndReason;
use super::heard::Play;
use super::machine::{Call, Phase, Wanted};
use super::model::ModelCommand;
use super::output::{Observation, Output};

impl Call {
    /// Releases what is due. Only a frame that `waited` can be late: one that has just come is late by the
    /// model's doing.
    pub(super) fn play(&mut self, waited: bool, now: Instant) {
        if let Some(play) = self.heard.release(now) {
            self.played(&play, waited, now);
        }
        self.end_if_said(now);
    }

    /// Releases what would wake the call up soon, see [`CallPolicy::ahead`](super::CallPolicy::ahead).
    pub(super) fn play_ahead(&mut self, now: Instant) {
        if !self.policy.ahead.is_zero()
            && self.heard.has_waiting()
            && let Some(play) = self.heard.release_ahead(self.policy.ahead, now)
        {
            self.played(&play, true, now);
            self.end_if_said(now);
        }
    }

    fn played(&mut self, play: &Play, waited: bool, now: Instant) {
        match play.lateness {
            Some(late) if waited => self.observe(Observation::FrameLate(late)),
            None if self.reply_playing => self.observe(Observation::Underrun),
            Some(_) | None => {}
        }
        self.reply_playing = self.reply_open;
        self.outputs.push_back(Output::Play {
            frames: play.frames,
            mark: play.mark,
        });
        if let Some(answered) = self.answered.take() {
            self.observe(Observation::FirstAudio(
                now.saturating_duration_since(answered),
            ));
        }
        if let Some(turn) = self.turn.reply_left(now) {
            self.observe(Observation::Turn(turn));
        }
    }

    pub(super) fn end_soon(&mut self, text: String) {
        if matches!(self.phase, Phase::Talking | Phase::Replacing) && self.ends_for.is_none() {
            self.history.noted(&text);
            self.tell_model(ModelCommand::AddSystemText { text });
        }
    }

    /// The model says good-bye after what it is saying, and after the answer to a caller who is speaking. If that takes
    /// longer than a farewell may, the call ends without.
    pub(super) fn end_orderly(&mut self, reason: EndReason, now: Instant) {
        match self.phase {
            // Nobody has spoken yet.
            Phase::Connected => self.end(reason),
            Phase::Configuring if self.heard.session() == 0 => self.end(reason),
            Phase::Configuring | Phase::Replacing | Phase::Talking if self.ends_for.is_none() => {
                self.ends_for = Some(reason);
                let until = now + self.policy.timeouts.farewell;
                self.deadlines.set(Timer::Goodbye, until);
                self.wanted = Some(Wanted::goodbye());
                self.ask_if_wanted(now);
                self.watch_model(now);
            }
            // It is on its way.
            Phase::Configuring
            | Phase::Replacing
            | Phase::Talking
            | Phase::Farewell { .. }
            | Phase::Ended => {}
        }
    }

    pub(super) fn say_farewell(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        let until = now + self.policy.timeouts.farewell;
        let usual = match self.transfers {
            true => EndReason::AssistantTransfer,
            false => EndReason::AssistantHangup,
        };
        let reason = self.ends_for.unwrap_or(usual);
        self.phase = Phase::Farewell { until, reason };
        self.wanted = None;
        self.answer_due = false;
        for timer in [Timer::Goodbye, Timer::Reopen, Timer::Replacement] {
            self.deadlines.stop(timer);
        }
        self.deadlines.set(Timer::Farewell, until);
        self.end_if_said(now);
    }

    pub(super) fn end_if_said(&mut self, now: Instant) {
        let Phase::Farewell { until, reason } = self.phase else {
            return;
        };
        if self.outputs.contains(&Output::PadReply) || self.outputs.contains(&Output::Apologise) {
            return;
        }
        let remaining = self.heard.remaining(now);
        if now >= until || (remaining.is_zero() && !self.heard.awaits_mark()) {
            self.end(reason);
        } else if remaining.is_zero() {
            self.deadlines.set(Timer::Farewell, until);
        } else {
            self.deadlines
                .set(Timer::Farewell, until.min(now + remaining));
        }
    }
}
