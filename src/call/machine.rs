//! The state machine of a call that the gateway conducts for an agent: see LIFECYCLE.md beside this file.
//!
//! The shell gives it everything that happens and does everything it says, in order. It owns turns, the
//! one active response, interruption, key presses, tools and the watchdogs. It does not touch audio: it
//! says whether caller audio goes on to the model and reply audio into the playout queue, and when
//! frames leave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::GapFiller;

use super::deadline::{Deadlines, Timer};
use super::end_reason::EndReason;
use super::event::{Digit, Speaker};
use super::heard::{Heard, Play};
use super::input::Input;
use super::model::{ModelCommand, ModelError, ModelEvent, ResponseStatus};
use super::output::{Observation, Output};
use super::policy::CallPolicy;
use super::race::BenignRace;
use super::turn::TurnClock;

/// The name of the tool by which an agent hangs up.
pub const HANG_UP_TOOL: &str = "hang_up";

/// What the model is told to say last where a call is to end in good order.
const GOODBYE: &str = "The call has to end now. Say good-bye to the caller in one short sentence, in the language of the \
                       conversation, and ask nothing.";

/// Keys that are told together at most: longer than any account or card number.
const MAX_DIGITS: usize = 32;

/// Where the call stands as a whole.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The caller has not begun.
    Connected,
    /// The session configuration was sent and not yet taken.
    Configuring,
    /// Both parties are there.
    Talking,
    /// The agent hung up; its last words are still being played, at most until then.
    Farewell { until: Instant },
    /// Nothing more happens.
    Ended,
}

/// The one response that may write to the conversation.
#[derive(Debug, PartialEq, Eq)]
enum Response {
    None,
    /// We asked for one.
    Requested(Wanted),
    /// The deployment is writing one.
    Active {
        id: String,
        /// What we had asked for when it began, if anything.
        asked: Option<Wanted>,
        /// Its audio is no longer wanted.
        interrupted: bool,
        /// The message that began last.
        item: Option<String>,
        /// Whether any of its audio came.
        item_has_audio: bool,
        /// It was heard or ran a tool: to ask for it again would repeat that.
        took_effect: bool,
    },
}

/// A call in progress.
#[derive(Debug)]
pub struct Call {
    policy: CallPolicy,
    phase: Phase,
    answered: Option<Instant>,
    response: Response,
    /// A response to ask for as soon as none is active.
    wanted: Option<Wanted>,
    retried: bool,
    caller_speaks: bool,
    /// The caller's turn is over and the deployment has not begun to answer it by itself.
    answer_due: bool,
    heard: Heard,
    /// The playout queue still grows.
    reply_open: bool,
    /// Some of the growing reply was released: to run dry now is an underrun.
    reply_playing: bool,
    turn: TurnClock,
    gap: GapFiller,
    digits: String,
    running_tools: usize,
    hang_up_call: bool,
    /// The call is to end for that reason, once the model has said good-bye.
    ends_for: Option<EndReason>,
    deadlines: Deadlines,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    instructions: Option<String>,
}

impl Wanted {
    fn goodbye() -> Self {
        Self {
            instructions: Some(GOODBYE.to_owned()),
        }
    }

    fn is_goodbye(&self) -> bool {
        self.instructions.as_deref() == Some(GOODBYE)
    }
}

impl Call {
    /// A call whose caller has connected and whose session exists.
    #[must_use]
    pub fn new(policy: CallPolicy, now: Instant) -> Self {
        let mut deadlines = Deadlines::default();
        deadlines.set(Timer::Start, now + policy.timeouts.start);
        if !policy.timeouts.max_duration.is_zero() {
            deadlines.set(Timer::MaxDuration, now + policy.timeouts.max_duration);
        }
        Self {
            heard: Heard::new(policy.lead, policy.uses_marks),
            gap: GapFiller::new(policy.gap),
            policy,
            phase: Phase::Connected,
            answered: None,
            response: Response::None,
            wanted: None,
            retried: false,
            caller_speaks: false,
            answer_due: false,
            reply_open: false,
            reply_playing: false,
            turn: TurnClock::default(),
            digits: String::new(),
            running_tools: 0,
            hang_up_call: false,
            ends_for: None,
            deadlines,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        match input {
            Input::CallerStarted => self.caller_started(now),
            Input::CallerAudio(duration) => self.caller_audio(duration, now),
            Input::CallerDtmf(digit) => self.caller_dtmf(digit, now),
            Input::CallerMark(mark) => {
                self.heard.mark_reached(mark, now);
                self.end_if_said(now);
            }
            Input::Model(event) => self.model_event(event, now),
            Input::ReplyQueued {
                item_id,
                content_index,
                duration,
                frames,
            } => {
                let waited = self.heard.has_waiting();
                self.heard.queue(item_id, content_index, duration, frames);
                self.play(waited, now);
            }
            Input::ReplyPadded(frames) => {
                let waited = self.heard.has_waiting();
                self.heard.complete(frames);
                self.play(waited, now);
            }
            Input::ToolFinished { call_id, output } => self.tool_finished(call_id, output, now),
            Input::EndSoon { text } => self.end_soon(text),
            Input::EndOrderly(reason) => self.end_orderly(reason, now),
            Input::End(reason) => self.end(reason),
        }
        self.check_invariants();
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.phase != Phase::Ended
            && let Some(timer) = self.deadlines.expired(now)
        {
            self.timer_expired(timer, now);
        }
        if self.phase == Phase::Ended {
            return;
        }
        self.play(true, now);
        if let Some(silence) = self.gap.fill(now) {
            self.turn.appended(silence, now);
            self.outputs.push_back(Output::AppendSilence(silence));
            self.observe(Observation::SilenceFilled(silence));
        }
        self.check_invariants();
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Call::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.phase == Phase::Ended {
            return None;
        }
        [
            self.deadlines.earliest(),
            self.heard.deadline(now),
            self.gap.deadline().filter(|_| self.is_live()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Configuring | Phase::Talking | Phase::Farewell { .. }
        )
    }

    // The caller leg.

    fn caller_started(&mut self, now: Instant) {
        if self.phase != Phase::Connected {
            return;
        }
        self.phase = Phase::Configuring;
        self.answered = Some(now);
        self.deadlines.stop(Timer::Start);
        self.expect_caller_media(now);
        self.tell_model(ModelCommand::Configure);
        self.expect_model_event(now);
    }

    fn caller_audio(&mut self, duration: Duration, now: Instant) {
        if !self.is_live() {
            return;
        }
        self.expect_caller_media(now);
        if !self.gap.audio(duration, now) {
            self.observe(Observation::CallerAudioDropped(duration));
            return;
        }
        self.turn.appended(duration, now);
        self.outputs.push_back(Output::AppendAudio);
    }

    fn caller_dtmf(&mut self, digit: Digit, now: Instant) {
        if !self.is_live() || !self.policy.dtmf.enabled {
            return;
        }
        if self.digits.is_empty() {
            self.interrupt(true, now);
        }
        self.digits.push(digit.as_char());
        if self.policy.dtmf.completes(digit.as_char()) || self.digits.len() == MAX_DIGITS {
            self.tell_digits(now);
        } else {
            self.deadlines
                .set(Timer::Dtmf, now + self.policy.dtmf.pause);
        }
    }

    fn tell_digits(&mut self, now: Instant) {
        self.deadlines.stop(Timer::Dtmf);
        let mut spaced = String::new();
        for digit in self.digits.drain(..) {
            spaced.push(' ');
            spaced.push(digit);
        }
        self.tell_model(ModelCommand::AddUserText {
            text: format!("[The caller pressed these keys:{spaced}]"),
        });
        self.want_response(now);
    }

    // The model leg.

    fn model_event(&mut self, event: &ModelEvent<'_>, now: Instant) {
        match event {
            ModelEvent::Error(error) => self.model_error(error, now),
            // Nothing was asked of the model yet.
            _ if self.phase == Phase::Connected => {}
            ModelEvent::SessionUpdated => self.session_updated(now),
            ModelEvent::SpeechStarted { .. } => self.speech_started(now),
            ModelEvent::SpeechStopped { audio_end_ms } => {
                self.speech_stopped(Duration::from_millis(*audio_end_ms), now);
            }
            ModelEvent::InputTranscript { .. } => {
                self.outputs.push_back(Output::Transcript(Speaker::Caller));
            }
            ModelEvent::OutputTranscript { .. } => {
                self.outputs
                    .push_back(Output::Transcript(Speaker::Assistant));
            }
            ModelEvent::ResponseCreated {
                response_id,
                in_conversation: true,
            } => self.response_created(response_id),
            ModelEvent::OutputItemAdded {
                response_id,
                item_id,
                is_message: true,
            } => self.message_begun(response_id, item_id),
            ModelEvent::AudioDelta {
                response_id,
                item_id,
                ..
            } => self.reply_audio(response_id, item_id, now),
            ModelEvent::AudioDone { .. } => self.close_reply(),
            ModelEvent::FunctionCall {
                call_id,
                name,
                arguments,
            } => self.function_call(call_id, name, arguments),
            ModelEvent::ResponseDone {
                response_id,
                status,
                error_code,
                ..
            } => self.response_done(response_id, *status, *error_code, now),
            ModelEvent::SessionCreated { .. }
            | ModelEvent::Committed { .. }
            | ModelEvent::OutputItemAdded { .. }
            | ModelEvent::ResponseCreated { .. }
            | ModelEvent::RateLimits(_)
            | ModelEvent::Other => {}
        }
        self.watch_model(now);
    }

    fn session_updated(&mut self, now: Instant) {
        if self.phase != Phase::Configuring {
            return;
        }
        self.phase = Phase::Talking;
        if let Some(greeting) = self.policy.greeting.take() {
            self.wanted = Some(Wanted {
                instructions: Some(greeting),
            });
        }
        self.ask_if_wanted(now);
    }

    fn speech_started(&mut self, now: Instant) {
        self.caller_speaks = true;
        self.answer_due = false;
        // This turn will be answered anyway, and who speaks first is not greeted.
        self.wanted = None;
        self.policy.greeting = None;
        self.turn.speech_started();
        let cancel = !self.policy.turns.interrupts_response;
        self.interrupt(cancel, now);
    }

    fn speech_stopped(&mut self, audio_end: Duration, now: Instant) {
        self.caller_speaks = false;
        self.retried = false;
        self.turn
            .speech_stopped(audio_end, self.policy.turns.silence, now);
        if self.policy.turns.creates_response {
            self.answer_due = true;
        } else {
            self.want_response(now);
        }
    }

    /// Stops what the caller hears, and makes the model know how much of it that was.
    fn interrupt(&mut self, cancel: bool, now: Instant) {
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        let unheard = self.heard.remaining(now);
        // A reply that still grows may have begun a frame, even if all whole ones were heard.
        if self.heard.may_be_buffered(now) || !unheard.is_zero() || self.reply_open {
            self.outputs.push_back(Output::Clear);
            self.observe(Observation::BargeIn { unheard });
        }
        if let Response::Active {
            interrupted,
            item,
            item_has_audio,
            ..
        } = &mut self.response
        {
            let was_interrupted = std::mem::replace(interrupted, true);
            // A message without audio yet cannot be truncated, and nobody heard it.
            let unheard = item
                .clone()
                .filter(|_| !*item_has_audio && !was_interrupted);
            if cancel && !was_interrupted {
                self.tell_model(ModelCommand::CancelResponse);
            }
            if let Some(item_id) = unheard {
                self.tell_model(ModelCommand::DeleteItem { item_id });
            }
        }
        let grows = std::mem::take(&mut self.reply_open);
        self.reply_playing = false;
        for cut in self.heard.clear(grows, now) {
            let audio_end_ms = cut.heard.as_millis() as u64;
            if audio_end_ms > 0 {
                self.tell_model(ModelCommand::Truncate {
                    item_id: cut.item_id,
                    content_index: cut.content_index,
                    audio_end_ms,
                });
            } else if cut.content_index == 0 {
                // A truncation to nothing is refused; an item of which nothing was heard was not said.
                self.tell_model(ModelCommand::DeleteItem {
                    item_id: cut.item_id,
                });
            }
        }
    }

    fn response_created(&mut self, response_id: &str) {
        let asked = match std::mem::replace(&mut self.response, Response::None) {
            Response::Requested(wanted) => Some(wanted),
            Response::None | Response::Active { .. } => None,
        };
        self.answer_due = false;
        // Ours crossed the caller's next words, whose turn will be answered; after the farewell nothing
        // is said.
        let unwanted =
            (asked.is_some() && self.caller_speaks) || matches!(self.phase, Phase::Farewell { .. });
        self.response = Response::Active {
            id: response_id.to_owned(),
            asked,
            interrupted: unwanted,
            item: None,
            item_has_audio: false,
            took_effect: false,
        };
        if unwanted {
            // Nothing grows any more, should the deployment have begun it without ending the one before.
            self.close_reply();
            self.tell_model(ModelCommand::CancelResponse);
        }
    }

    fn message_begun(&mut self, response_id: &str, item_id: &str) {
        if let Response::Active {
            id,
            interrupted,
            item,
            item_has_audio,
            ..
        } = &mut self.response
            && id == response_id
        {
            *item = Some(item_id.to_owned());
            *item_has_audio = false;
            if *interrupted {
                // It was on its way when the reply was interrupted, and nobody will hear it.
                self.tell_model(ModelCommand::DeleteItem {
                    item_id: item_id.to_owned(),
                });
            }
        }
    }

    fn reply_audio(&mut self, response_id: &str, item_id: &str, now: Instant) {
        let Response::Active {
            id,
            interrupted,
            item,
            item_has_audio,
            took_effect,
            ..
        } = &mut self.response
        else {
            return;
        };
        if id != response_id {
            return;
        }
        *item_has_audio = true;
        let is_new_item = item.as_deref() != Some(item_id);
        if is_new_item {
            *item = Some(item_id.to_owned());
        }
        if !*interrupted {
            *took_effect = true;
            self.reply_open = true;
            self.turn.reply_arrived(now);
            self.outputs.push_back(Output::QueueReply);
        } else if is_new_item {
            // It was on its way when the reply was interrupted, and nobody will hear it.
            self.tell_model(ModelCommand::DeleteItem {
                item_id: item_id.to_owned(),
            });
        }
    }

    /// No more audio of this reply comes: its last frame can be completed.
    fn close_reply(&mut self) {
        if self.reply_open {
            self.reply_open = false;
            self.reply_playing = false;
            self.outputs.push_back(Output::PadReply);
        }
    }

    fn function_call(&mut self, call_id: &str, name: &str, arguments: &str) {
        if let Response::Active {
            interrupted,
            took_effect,
            ..
        } = &mut self.response
        {
            if *interrupted {
                // An interrupted response still completes its events, with arguments cut anywhere.
                return;
            }
            *took_effect = true;
        }
        if name == HANG_UP_TOOL {
            self.hang_up_call = true;
            return;
        }
        self.running_tools += 1;
        self.outputs.push_back(Output::RunTool {
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        });
    }

    fn tool_finished(&mut self, call_id: String, output: String, now: Instant) {
        self.running_tools = self.running_tools.saturating_sub(1);
        self.tell_model(ModelCommand::AddFunctionOutput { call_id, output });
        if self.running_tools == 0 && !self.hang_up_call {
            self.want_response(now);
        }
    }

    fn response_done(
        &mut self,
        response_id: &str,
        status: ResponseStatus,
        error_code: Option<&str>,
        now: Instant,
    ) {
        let is_ours = matches!(&self.response, Response::Active { id, .. } if id == response_id);
        if !is_ours {
            // An out-of-band response, or one that we never saw begin: ours may have lost against that.
            return self.ask_if_wanted(now);
        }
        let response = std::mem::replace(&mut self.response, Response::None);
        self.close_reply();
        if !self.policy.turns.interrupts_response {
            // The deployment's answer may have failed to start while this one ran (protocol reference 4.4).
            self.answer_due = false;
        }
        let was_goodbye = matches!(
            &response,
            Response::Active { asked: Some(wanted), .. } if wanted.is_goodbye()
        );
        if self.hang_up_call || was_goodbye {
            return self.say_farewell(now);
        }
        if self.ends_for.is_some() {
            self.wanted = Some(Wanted::goodbye());
            return self.ask_if_wanted(now);
        }
        if status == ResponseStatus::Failed {
            self.retry(response, error_code);
        } else {
            self.retried = false;
        }
        self.ask_if_wanted(now);
    }

    /// Vendor faults are mostly transient (protocol reference 8, row 36): asks once more for what failed
    /// without a trace.
    fn retry(&mut self, failed: Response, error_code: Option<&str>) {
        if let Response::Active {
            asked,
            interrupted: false,
            took_effect: false,
            ..
        } = failed
            && error_code != Some("rate_limit_exceeded")
            && !self.retried
            && !self.caller_speaks
        {
            self.retried = true;
            self.observe(Observation::ResponseRetried);
            self.wanted.get_or_insert(asked.unwrap_or_default());
        }
    }

    fn model_error(&mut self, error: &ModelError<'_>, now: Instant) {
        match error.code {
            Some("session_expired") => return self.end(EndReason::ModelSessionExpired),
            Some("invalid_api_key") => return self.end(EndReason::ModelUnauthorized),
            _ => {}
        }
        if self.phase == Phase::Configuring {
            return self.end(EndReason::ModelRejectedSession);
        }
        let Some(race) = BenignRace::of(error) else {
            return self.response_not_begun(error, now);
        };
        self.observe(Observation::BenignRace(race));
        if race == BenignRace::ActiveResponse {
            self.response_refused(now);
        }
    }

    /// The deployment failed before it could begin a response that was due: it is asked once more, as after
    /// one that failed later. If that fails too, the caller hears nothing and may speak again.
    fn response_not_begun(&mut self, error: &ModelError<'_>, now: Instant) {
        let lost = match &mut self.response {
            Response::Requested(wanted) if error.answers("create") || error.is_fault() => {
                std::mem::take(wanted)
            }
            // The answer to the caller's turn, which the deployment gives by itself.
            Response::None if self.answer_due && error.is_fault() => Wanted::default(),
            Response::Requested(_) | Response::None | Response::Active { .. } => return,
        };
        self.response = Response::None;
        self.answer_due = false;
        if error.is_fault() && !self.retried {
            self.retried = true;
            self.observe(Observation::ResponseRetried);
            self.wanted.get_or_insert(lost);
        }
        self.ask_if_wanted(now);
    }

    /// A request lost against another response: it is made again after that one.
    fn response_refused(&mut self, now: Instant) {
        if self.phase != Phase::Talking {
            return;
        }
        let lost = match &mut self.response {
            // The other response is about to be heard of, or ends without our having seen it begin.
            Response::Requested(wanted) => {
                let lost = std::mem::take(wanted);
                self.response = Response::None;
                self.wanted = (!self.caller_speaks).then_some(lost);
                return;
            }
            // It was taken for ours; or the deployment's own answer could not start.
            Response::Active { asked, .. } => asked.take(),
            // It has ended meanwhile, and nothing else would make us ask again.
            Response::None => None,
        };
        self.answer_due = false;
        self.wanted.get_or_insert(lost.unwrap_or_default());
        self.ask_if_wanted(now);
    }

    fn want_response(&mut self, now: Instant) {
        self.wanted.get_or_insert_default();
        self.ask_if_wanted(now);
    }

    /// Asks for the wanted response unless another one is there or due. While the caller is speaking
    /// nothing is asked for: that turn will be answered anyway.
    fn ask_if_wanted(&mut self, now: Instant) {
        if self.caller_speaks {
            self.wanted = None;
        }
        if self.response != Response::None || self.answer_due || self.phase != Phase::Talking {
            return;
        }
        if let Some(wanted) = self.wanted.take() {
            self.tell_model(ModelCommand::CreateResponse {
                instructions: wanted.instructions.clone(),
            });
            self.response = Response::Requested(wanted);
            self.expect_model_event(now);
        }
    }

    // Playing.

    /// Releases what is due. Only a frame that `waited` can be late: one that has just come is late by the
    /// model's doing.
    fn play(&mut self, waited: bool, now: Instant) {
        if let Some(play) = self.heard.release(now) {
            self.played(&play, waited, now);
        }
        self.end_if_said(now);
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

    // A call that must end.

    fn end_soon(&mut self, text: String) {
        if matches!(self.phase, Phase::Talking) && self.ends_for.is_none() {
            self.tell_model(ModelCommand::AddSystemText { text });
        }
    }

    /// The model says good-bye after what it is saying, and after the answer to a caller who is speaking. If that takes
    /// longer than a farewell may, the call ends without.
    fn end_orderly(&mut self, reason: EndReason, now: Instant) {
        match self.phase {
            Phase::Connected | Phase::Configuring => self.end(reason),
            Phase::Talking if self.ends_for.is_none() => {
                self.ends_for = Some(reason);
                let until = now + self.policy.timeouts.farewell;
                self.deadlines.set(Timer::Goodbye, until);
                self.wanted = Some(Wanted::goodbye());
                self.ask_if_wanted(now);
                self.watch_model(now);
            }
            // It is on its way.
            Phase::Talking | Phase::Farewell { .. } | Phase::Ended => {}
        }
    }

    fn say_farewell(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        let until = now + self.policy.timeouts.farewell;
        self.phase = Phase::Farewell { until };
        self.wanted = None;
        self.answer_due = false;
        self.deadlines.stop(Timer::Goodbye);
        self.deadlines.set(Timer::Farewell, until);
        self.end_if_said(now);
    }

    fn end_if_said(&mut self, now: Instant) {
        let Phase::Farewell { until } = self.phase else {
            return;
        };
        if self.outputs.contains(&Output::PadReply) {
            return;
        }
        let remaining = self.heard.remaining(now);
        if now >= until || (remaining.is_zero() && !self.heard.awaits_mark()) {
            self.end(self.ends_for.unwrap_or(EndReason::AssistantHangup));
        } else if remaining.is_zero() {
            self.deadlines.set(Timer::Farewell, until);
        } else {
            self.deadlines
                .set(Timer::Farewell, until.min(now + remaining));
        }
    }

    // Watching.

    fn expect_caller_media(&mut self, now: Instant) {
        self.deadlines
            .set(Timer::CallerMedia, now + self.policy.timeouts.caller_media);
    }

    fn expect_model_event(&mut self, now: Instant) {
        self.deadlines
            .set(Timer::ModelEvent, now + self.policy.timeouts.model_event);
    }

    /// Told after each event of the deployment: the next one is awaited for so long, if one is due.
    fn watch_model(&mut self, now: Instant) {
        if self.is_model_due() {
            self.expect_model_event(now);
        } else {
            self.deadlines.stop(Timer::ModelEvent);
        }
    }

    fn is_model_due(&self) -> bool {
        match self.phase {
            Phase::Configuring => true,
            Phase::Talking => {
                self.response != Response::None || self.answer_due || self.wanted.is_some()
            }
            Phase::Connected | Phase::Farewell { .. } | Phase::Ended => false,
        }
    }

    fn timer_expired(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Start => self.end(EndReason::CallerNeverStarted),
            Timer::CallerMedia => self.end(EndReason::CallerSilent),
            Timer::ModelEvent => self.end(EndReason::ModelStalled),
            Timer::Dtmf => self.tell_digits(now),
            Timer::Goodbye => {
                self.say_farewell(now);
                self.watch_model(now);
            }
            Timer::Farewell => self.end_if_said(now),
            Timer::MaxDuration => self.end(EndReason::MaxDuration),
        }
    }

    fn end(&mut self, reason: EndReason) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            self.outputs.push_back(Output::End(reason));
        }
    }

    fn tell_model(&mut self, command: ModelCommand) {
        self.outputs.push_back(Output::ToModel(command));
    }

    fn observe(&mut self, observation: Observation) {
        self.outputs.push_back(Output::Observe(observation));
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.phase != Phase::Connected || self.response == Response::None,
            "no response before the caller began"
        );
        debug_assert!(
            self.digits.is_empty()
                || self.deadlines.is_set(Timer::Dtmf)
                || self.phase == Phase::Ended,
            "pressed keys are told sooner or later"
        );
        debug_assert_eq!(
            self.is_model_due(),
            self.deadlines.is_set(Timer::ModelEvent) && self.phase != Phase::Ended,
            "the deployment is watched while it owes an event, and only then"
        );
        debug_assert!(
            !self.caller_speaks || self.wanted.is_none(),
            "nothing is asked for while the caller speaks"
        );
        debug_assert!(
            !(self.reply_open
                && matches!(
                    &self.response,
                    Response::Active {
                        interrupted: true,
                        ..
                    }
                )),
            "an interrupted reply does not grow"
        );
    }
}
