//! The state machine of a call that the gateway conducts for an agent: see LIFECYCLE.md beside this file.
//!
//! The shell gives it everything that happens and does everything it says, in order. It owns turns, the
//! one active response, interruption, key presses, tools and the watchdogs. It does not touch audio: it
//! says whether caller audio goes on to the model and reply audio into the playout queue, and when
//! frames leave. How replies are played is in `playing.rs`, how they are stopped in `interruption.rs`, how
//! one session follows another in `failover.rs`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::GapFiller;

use super::caller_audio::CallerAudio;
use super::deadline::{Deadlines, Timer};
use super::end_reason::EndReason;
use super::event::{Digit, Speaker};
use super::heard::Heard;
use super::history::History;
use super::input::Input;
use super::model::{ModelCommand, ModelError, ModelEvent, ResponseStatus};
use super::output::{Observation, Output};
use super::policy::CallPolicy;
use super::race::BenignRace;
use super::replacement::{Loss, Sessions};
use super::turn::TurnClock;

/// The name of the tool by which an agent hangs up.
pub const HANG_UP_TOOL: &str = "hang_up";

/// The tool by which the model gives a call to a person: it ends as by [`HANG_UP_TOOL`], for another reason.
pub const TRANSFER_TOOL: &str = "transfer_to_agent";

/// What the model is told to say last where a call is to end in good order.
const GOODBYE: &str = "The call has to end now. Say good-bye to the caller in one short sentence, in the language of the \
                       conversation, and ask nothing.";

/// Keys that are told together at most: longer than any account or card number.
const MAX_DIGITS: usize = 32;

/// Where the call stands as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The caller has not begun.
    Connected,
    /// The session configuration was sent and not yet taken.
    Configuring,
    /// The session failed, and there is no other one yet.
    Replacing,
    /// Both parties are there.
    Talking,
    /// The call ends for that reason; its last words are still being played, at most until then.
    Farewell { until: Instant, reason: EndReason },
    /// Nothing more happens.
    Ended,
}

/// The one response that may write to the conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
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
    pub(super) policy: CallPolicy,
    pub(super) phase: Phase,
    pub(super) answered: Option<Instant>,
    pub(super) response: Response,
    /// A response to ask for as soon as none is active.
    pub(super) wanted: Option<Wanted>,
    pub(super) retried: bool,
    pub(super) caller_speaks: bool,
    /// The caller's turn is over and the deployment has not begun to answer it by itself.
    pub(super) answer_due: bool,
    pub(super) heard: Heard,
    /// The playout queue still grows.
    pub(super) reply_open: bool,
    /// Some of the growing reply was released: to run dry now is an underrun.
    pub(super) reply_playing: bool,
    pub(super) turn: TurnClock,
    pub(super) sessions: Sessions,
    pub(super) history: History,
    pub(super) caller_audio: CallerAudio,
    pub(super) gap: GapFiller,
    pub(super) digits: String,
    pub(super) running_tools: usize,
    pub(super) hang_up_call: bool,
    /// It was asked for by [`TRANSFER_TOOL`].
    pub(super) transfers: bool,
    /// The call is to end for that reason, once the model has said good-bye.
    pub(super) ends_for: Option<EndReason>,
    pub(super) deadlines: Deadlines,
    pub(super) outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) instructions: Option<String>,
    /// It goes on where an earlier one broke off.
    pub(super) continues: bool,
    /// The caller began to speak after it was asked for: the answer to that turn does for both.
    pub(super) crossed: bool,
}

impl Wanted {
    pub(super) fn goodbye() -> Self {
        Self {
            instructions: Some(GOODBYE.to_owned()),
            ..Self::default()
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
            heard: Heard::new(policy.lead, policy.chunk_frames, policy.uses_marks),
            gap: GapFiller::new(policy.gap),
            caller_audio: CallerAudio::new(policy.turns.prefix),
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
            sessions: Sessions::new(now),
            history: History::default(),
            digits: String::new(),
            running_tools: 0,
            hang_up_call: false,
            transfers: false,
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
            Input::CallerStarted { configured } => self.caller_started(configured, now),
            Input::CallerAudio(duration) => self.caller_audio(duration, now),
            Input::CallerPaused => {
                self.deadlines.stop(Timer::CallerMedia);
                self.gap.pause();
            }
            Input::CallerResumed if self.is_live() => self.expect_caller_media(now),
            Input::CallerResumed => {}
            Input::CallerDtmf(digit) => self.caller_dtmf(digit, now),
            Input::CallerMark(mark) => {
                self.heard.mark_reached(mark, now);
                self.end_if_said(now);
            }
            Input::Model(event) if self.sessions.is_up() => self.model_event(event, now),
            // Of a session that was given up.
            Input::Model(_) => {}
            Input::ModelAlive => self.model_alive(now),
            Input::ModelLost(loss) => self.model_lost(loss, now),
            Input::SessionExpires(within) => self.session_expires(within, now),
            Input::SessionOpened { configured } => self.session_opened(configured, now),
            Input::NoSession => self.no_session(now),
            Input::SpareLost => self.spare_lost(now),
            Input::ReplyQueued {
                item_id,
                content_index,
                duration,
                frames,
            } => {
                let waited = self.heard.has_waiting();
                self.heard.queue(item_id, content_index, duration, frames);
                let session = self.heard.session();
                if !item_id.is_empty() {
                    self.history.said_audio(session, item_id, duration);
                }
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
            Input::Say { text, mode } => self.say(text, mode, now),
            Input::LeaveSession => self.leave(now),
            Input::End(reason) => self.end(reason),
        }
        self.rotate_in_a_pause(now);
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
            self.outputs.push_back(if self.sessions.is_up() {
                Output::AppendSilence(silence)
            } else {
                Output::KeepSilence(silence)
            });
            self.observe(Observation::SilenceFilled(silence));
            self.audio_added(silence, now);
        }
        self.rotate_in_a_pause(now);
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

    pub(super) fn is_live(&self) -> bool {
        matches!(
            self.phase,
            Phase::Configuring | Phase::Replacing | Phase::Talking | Phase::Farewell { .. }
        )
    }

    // The caller leg.

    fn caller_started(&mut self, configured: bool, now: Instant) {
        if self.phase != Phase::Connected {
            return;
        }
        self.answered = Some(now);
        self.deadlines.stop(Timer::Start);
        self.expect_caller_media(now);
        if self.sessions.is_up() {
            self.configure(configured, now);
        } else {
            self.phase = Phase::Replacing;
        }
    }

    /// Makes the session the agent's, unless it is so already.
    pub(super) fn configure(&mut self, configured: bool, now: Instant) {
        self.phase = Phase::Configuring;
        if configured {
            self.session_updated(now);
        } else {
            self.tell_model(ModelCommand::Configure);
        }
        self.watch_model(now);
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
        self.outputs.push_back(if self.sessions.is_up() {
            Output::AppendAudio
        } else {
            Output::KeepAudio
        });
        self.audio_added(duration, now);
        self.play_ahead(now);
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
        let text = format!("[The caller pressed these keys:{spaced}]");
        self.history.typed(&text);
        self.tell_model(ModelCommand::AddUserText { text });
        self.want_response(now);
    }

    // The model leg.

    fn model_event(&mut self, event: &ModelEvent<'_>, now: Instant) {
        self.caller_audio.is_alive(now);
        match event {
            ModelEvent::Error(error) => self.model_error(error, now),
            // Nothing was asked of the model yet.
            _ if self.phase == Phase::Connected => {}
            ModelEvent::SessionUpdated => self.session_updated(now),
            ModelEvent::SpeechStarted {
                item_id,
                audio_start_ms,
            } => self.speech_started(item_id, Duration::from_millis(*audio_start_ms), now),
            ModelEvent::SpeechStopped { audio_end_ms } => {
                self.speech_stopped(Duration::from_millis(*audio_end_ms), now);
            }
            ModelEvent::Committed { item_id } => self.turn_committed(item_id),
            ModelEvent::InputTranscript { item_id, text } => {
                self.caller_words(item_id, text);
                self.outputs.push_back(Output::Transcript(Speaker::Caller));
            }
            ModelEvent::OutputTranscriptDelta {
                response_id,
                item_id,
                text,
            } => self.said_words(response_id, item_id, text),
            ModelEvent::OutputTranscript { item_id, text } => {
                let session = self.heard.session();
                self.history.all_words(session, item_id, text);
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
            ModelEvent::AudioDone { item_id } => {
                self.history.said_all(self.heard.session(), item_id);
                self.close_reply();
            }
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
            | ModelEvent::OutputItemAdded { .. }
            | ModelEvent::ResponseCreated { .. }
            | ModelEvent::RateLimits(_)
            | ModelEvent::Other => {}
        }
        self.watch_model(now);
    }

    pub(super) fn session_updated(&mut self, now: Instant) {
        if self.phase != Phase::Configuring {
            return;
        }
        self.phase = Phase::Talking;
        self.deadlines.stop(Timer::Replacement);
        if let Some(greeting) = self.policy.greeting.take() {
            self.wanted = Some(Wanted {
                instructions: Some(greeting),
                ..Wanted::default()
            });
        }
        self.ask_if_wanted(now);
    }

    fn speech_started(&mut self, item_id: &str, at: Duration, now: Instant) {
        self.caller_audio.speech_started(item_id, at);
        self.sessions.no_answer_due();
        self.caller_speaks = true;
        self.answer_due = false;
        if let Response::Requested(wanted) = &mut self.response {
            wanted.crossed = true;
        }
        // This turn will be answered anyway, and who speaks first is not greeted.
        self.wanted = None;
        self.policy.greeting = None;
        self.turn.speech_started();
        let cancel = !self.policy.turns.interrupts_response;
        self.interrupt(cancel, now);
    }

    fn speech_stopped(&mut self, audio_end: Duration, now: Instant) {
        self.caller_audio.speech_stopped(audio_end);
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

    /// Words of an answer that is not wanted any more are nobody's.
    fn said_words(&mut self, response_id: &str, item_id: &str, text: &str) {
        let is_wanted = matches!(
            &self.response,
            Response::Active { id, interrupted: false, .. } if id == response_id
        );
        if is_wanted {
            let session = self.heard.session();
            self.history.said_words(session, item_id, text);
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
            if let Some(gap) = self.sessions.answered(now) {
                self.outputs
                    .push_back(Output::Observe(Observation::SessionGap(gap)));
            }
        } else if is_new_item {
            // It was on its way when the reply was interrupted, and nobody will hear it.
            self.tell_model(ModelCommand::DeleteItem {
                item_id: item_id.to_owned(),
            });
        }
    }

    /// No more audio of this reply comes: its last frame can be completed.
    pub(super) fn close_reply(&mut self) {
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
        if [HANG_UP_TOOL, TRANSFER_TOOL].contains(&name) {
            self.hang_up_call = true;
            self.transfers |= name == TRANSFER_TOOL;
            return;
        }
        if self.history.has_call(call_id) {
            // Said twice; it runs once.
            return;
        }
        self.history.called(call_id, name, arguments);
        self.running_tools += 1;
        self.outputs.push_back(Output::RunTool {
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        });
    }

    fn tool_finished(&mut self, call_id: String, output: String, now: Instant) {
        self.running_tools = self.running_tools.saturating_sub(1);
        self.history.returned(&call_id, &output);
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
            return self.response_failed(response, error_code, now);
        }
        self.retried = false;
        self.sessions.succeeded();
        self.trim_carried();
        self.ask_if_wanted(now);
    }

    /// Vendor faults are mostly transient (protocol reference 8, row 36): what failed without a trace is asked
    /// for once more; if that fails too, or the quota is used up, of another deployment.
    fn response_failed(&mut self, failed: Response, error_code: Option<&str>, now: Instant) {
        if let Response::Active {
            asked,
            interrupted: false,
            took_effect: false,
            ..
        } = failed
            && !self.caller_speaks
        {
            self.wanted.get_or_insert(asked.unwrap_or_default());
            if error_code == Some("rate_limit_exceeded") {
                return self.model_lost(Loss::RateLimited, now);
            }
            if std::mem::replace(&mut self.retried, true) {
                return self.model_lost(Loss::ServerError, now);
            }
            self.observe(Observation::ResponseRetried);
        }
        self.ask_if_wanted(now);
    }

    fn model_error(&mut self, error: &ModelError<'_>, now: Instant) {
        match error.code {
            Some("session_expired") => return self.model_lost(Loss::Expired, now),
            Some("invalid_api_key") => return self.model_lost(Loss::Unauthorized, now),
            Some("rate_limit_exceeded") => return self.model_lost(Loss::RateLimited, now),
            _ => {}
        }
        // An error that names another event is about something of the history.
        if self.phase == Phase::Configuring
            && (error.event_id.is_none() || error.answers("configure"))
        {
            return self.model_lost(Loss::Rejected, now);
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
    /// one that failed later, and then another one is. What cannot be asked for is not asked again.
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
        if error.is_fault() {
            self.wanted.get_or_insert(lost);
            if std::mem::replace(&mut self.retried, true) {
                return self.model_lost(Loss::ServerError, now);
            }
            self.observe(Observation::ResponseRetried);
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
                self.wanted = (!self.caller_speaks && !lost.crossed).then_some(lost);
                return;
            }
            // It was taken for ours; or the deployment's own answer could not start.
            Response::Active { asked, .. } => {
                let lost = asked.take();
                if lost.as_ref().is_some_and(|lost| lost.crossed) {
                    return;
                }
                lost
            }
            // It has ended meanwhile, and nothing else would make us ask again.
            Response::None => None,
        };
        self.answer_due = false;
        self.wanted.get_or_insert(lost.unwrap_or_default());
        self.ask_if_wanted(now);
    }

    pub(super) fn want_response(&mut self, now: Instant) {
        self.wanted.get_or_insert_default();
        self.ask_if_wanted(now);
    }

    /// Asks for the wanted response unless another one is there or due. While the caller is speaking
    /// nothing is asked for: that turn will be answered anyway.
    pub(super) fn ask_if_wanted(&mut self, now: Instant) {
        if self.caller_speaks {
            self.wanted = None;
        }
        if self.response != Response::None || self.answer_due || self.phase != Phase::Talking {
            return;
        }
        if let Some(wanted) = self.wanted.take() {
            self.sessions.asked(now);
            self.tell_model(if wanted.continues {
                ModelCommand::ContinueResponse {
                    said: self.history.tail().to_owned(),
                }
            } else {
                ModelCommand::CreateResponse {
                    instructions: wanted.instructions.clone(),
                }
            });
            self.response = Response::Requested(wanted);
            self.expect_model_event(now);
        }
    }

    // Watching.

    fn expect_caller_media(&mut self, now: Instant) {
        let limit = self.policy.timeouts.caller_media;
        if !limit.is_zero() {
            self.deadlines.set(Timer::CallerMedia, now + limit);
        }
    }

    fn expect_model_event(&mut self, now: Instant) {
        self.deadlines
            .set(Timer::ModelEvent, now + self.policy.timeouts.model_event);
    }

    /// Told after each event of the deployment: the next one is awaited for so long, if one is due.
    pub(super) fn watch_model(&mut self, now: Instant) {
        if self.is_model_due() {
            self.expect_model_event(now);
        } else {
            self.deadlines.stop(Timer::ModelEvent);
        }
    }

    pub(super) fn is_model_due(&self) -> bool {
        match self.phase {
            Phase::Configuring => true,
            Phase::Talking => {
                self.response != Response::None || self.answer_due || self.wanted.is_some()
            }
            Phase::Connected | Phase::Replacing | Phase::Farewell { .. } | Phase::Ended => false,
        }
    }

    fn timer_expired(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Start => self.end(EndReason::CallerNeverStarted),
            Timer::CallerMedia => self.end(EndReason::CallerSilent),
            Timer::ModelEvent => self.model_lost(Loss::Stalled, now),
            Timer::Dtmf => self.tell_digits(now),
            Timer::Goodbye => {
                self.say_farewell(now);
                self.watch_model(now);
            }
            Timer::Farewell => self.end_if_said(now),
            Timer::MaxDuration => self.end(EndReason::MaxDuration),
            Timer::Reopen => self.open_session(),
            Timer::Replacement => self.give_up(now),
            Timer::Rotate => self.rotate(),
            Timer::RotateNow => self.use_spare(now),
        }
    }

    pub(super) fn end(&mut self, reason: EndReason) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            self.outputs.push_back(Output::End(reason));
        }
    }

    /// While there is no session nobody is told; the next one is told the history.
    pub(super) fn tell_model(&mut self, command: ModelCommand) {
        if self.sessions.is_up() {
            self.outputs.push_back(Output::ToModel(command));
        }
    }

    pub(super) fn observe(&mut self, observation: Observation) {
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
            self.sessions.is_up()
                || (self.response == Response::None && !self.answer_due && !self.caller_speaks),
            "nothing is going on at a session that failed"
        );
        debug_assert!(
            self.phase != Phase::Replacing
                || (!self.sessions.is_up() && self.deadlines.is_set(Timer::Replacement)),
            "a session that failed is replaced sooner or later"
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
