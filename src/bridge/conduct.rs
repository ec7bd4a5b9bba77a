//! The task of a call that the gateway conducts: a phone or a plain audio client, and an agent.
//!
//! It owns both legs, the call core, the audio path and one timer, and is one loop: wait for whatever
//! happens, tell the core, do what the core says. Nothing in it waits for one leg alone.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::call::{
    Call, CallInfo, CallerCommand, CallerEvent, EndReason, Input, Loss, ModelCommand, ModelEvent,
    Observation, Output, ResponseStatus, Speaker, TurnLatency,
};
use crate::ingress::{Dialect, DialectError, Incoming, Outgoing};
use crate::media::FRAME;
use crate::quota::{CallLease, Notice};
use crate::realtime::MaxOutputTokens;
use crate::telemetry::{CallMetrics, Direction, FrameDrop};
use crate::upstream::{Decoder, Place, Session, SessionContext, SessionFormats, encode};

use super::agent::Agent;
use super::idle::Idle;
use super::leg::{Leg, LegEvent, Line, SendError};
use super::legs::{End, Heard, Legs, Progress, loss_of};
use super::live::Conductor;
use super::media_path::MediaPath;
use super::notice;
use super::opening::SessionSource;
use super::order::{Order, Orders};
use super::press_keys::{self, KeysError, PRESS_KEYS_TOOL};
use super::record::Recording;
use super::registry::{CallPermit, Calls};
use super::replace::{Came, Sessions};
use super::scratch::Scratch;
use super::summary::{Audience, CallSummary, Ledger};
use super::tool::{ToolCall, ToolResult, ToolRunner};
use super::trace::CallTrace;

/// Reply audio is not sent on top of what a caller has not taken for so long (limits reference).
const MAX_BEHIND: Duration = Duration::from_millis(500);

/// What the listener hands over.
#[derive(Debug)]
pub struct ConductedCall {
    /// The gateway's id of the call.
    pub call_id: String,
    /// What is spoken there.
    pub dialect: Dialect,
    /// The open session.
    pub session: Session,
    /// Where others come from, should it fail.
    pub sessions: SessionSource,
    /// Who answers.
    pub agent: Arc<Agent>,
    /// Runs the agent's tools.
    pub tools: ToolRunner,
    /// Where this kind of call is counted.
    pub metrics: Arc<CallMetrics>,
    /// What the call may use.
    pub lease: CallLease,
    /// What its record is made of, if there is to be one.
    pub recording: Option<Box<Recording>>,
    /// Its spans, if it is sampled.
    pub trace: Option<Box<CallTrace>>,
    /// All calls of the process.
    pub calls: Calls,
    /// The right to be one of them.
    pub permit: CallPermit,
}

impl ConductedCall {
    /// Runs the call to its end on the caller's connection.
    pub async fn run(self: Box<Self>, caller: impl Into<Line>) {
        let (task, calls, permit) = self.begin(caller.into());
        let summary = task.run().await;
        calls.remember(summary);
        drop(permit);
    }

    /// A function of its own: what a future moves about it has room for as long as it lives.
    fn begin(self: Box<Self>, caller: Line) -> (Box<Conduct>, Calls, CallPermit) {
        let Self {
            call_id,
            dialect,
            session,
            sessions,
            agent,
            tools,
            metrics,
            lease,
            recording,
            mut trace,
            calls,
            permit,
        } = *self;
        if let Some(MaxOutputTokens::Limit(n)) = agent.config.session.max_output_tokens {
            lease.set_max_output(Some(n));
        }
        let Session {
            leg,
            place,
            configured,
        } = session;
        let session = super::session_id(&leg.session_created);
        if let Some(trace) = &mut trace {
            trace.session(place.deployment(), &session, &leg.setup);
        }
        let deployment = place.deployment().name();
        let name = dialect.name();
        let at = (deployment, session.as_str());
        let (listing, orders) = calls.list((&call_id, name), Conductor::Gateway, &lease, at);
        let audience = Audience {
            metrics,
            lease,
            recording,
            trace,
            listing,
        };
        let ledger = Ledger::new(audience, call_id, name, deployment, session);
        let now = Instant::now();
        let sessions = Sessions::new(sessions, agent.standby_line.clone());
        let mut task = Box::new(Conduct {
            core: Call::new(agent.policy(dialect.capabilities()), now.into_std()),
            legs: Legs::free(caller, leg.socket),
            dialect,
            place,
            agent,
            media: None,
            tools,
            running_tools: JoinSet::new(),
            decoder: Decoder::new(),
            ledger,
            formats: None,
            configured,
            sessions,
            parameters: Arc::default(),
            n_commands: 0,
            configured_at: None,
            clearing: false,
            reply_closed: false,
            takes_audio: true,
            idle: Idle::default(),
            scratch: Scratch::default(),
            first_frame_of: None,
            overrun: Duration::ZERO,
            audio_duration: Duration::ZERO,
            overfull: false,
            alive_at: None,
            ended: None,
            timer: Box::pin(tokio::time::sleep_until(now)),
            orders,
            began: now,
        });
        task.note_cap(leg.ends_at, now);
        (task, calls, permit)
    }
}

pub(super) struct Conduct {
    pub(super) core: Call,
    pub(super) legs: Legs,
    pub(super) dialect: Dialect,
    pub(super) place: Place,
    pub(super) agent: Arc<Agent>,
    /// Known once the caller has begun.
    pub(super) media: Option<MediaPath>,
    pub(super) formats: Option<SessionFormats>,
    /// What the session was configured for before it was this call's.
    pub(super) configured: Option<SessionFormats>,
    pub(super) sessions: Sessions,
    /// What the caller attached to the call, for the agent's tools.
    pub(super) parameters: Arc<BTreeMap<String, String>>,
    pub(super) decoder: Decoder,
    pub(super) tools: ToolRunner,
    pub(super) running_tools: JoinSet<ToolResult>,
    pub(super) ledger: Ledger,
    pub(super) n_commands: u32,
    pub(super) configured_at: Option<Instant>,
    /// A clear is among what is being written to the caller.
    pub(super) clearing: bool,
    /// All audio of the reply is in the playout queue or has left.
    pub(super) reply_closed: bool,
    /// The caller's side has room for audio, as far as it says so.
    pub(super) takes_audio: bool,
    /// How far audio was sent, where the line must never be quiet.
    pub(super) idle: Idle,
    /// Lent for a wake-up.
    pub(super) scratch: Scratch,
    /// The turn whose first frame is among it.
    pub(super) first_frame_of: Option<TurnLatency>,
    pub(super) overrun: Duration,
    /// Length of the caller's current message.
    pub(super) audio_duration: Duration,
    /// The model leg takes nothing any more.
    pub(super) overfull: bool,
    /// When anything was last heard from the deployment, as far as the core knows.
    pub(super) alive_at: Option<Instant>,
    pub(super) ended: Option<End>,
    pub(super) timer: Pin<Box<Sleep>>,
    pub(super) orders: Orders,
    pub(super) began: Instant,
}

enum Wake {
    Heard(Heard),
    Tool(ToolResult),
    Session(Came),
    Timer,
    Notice(Notice),
    Ordered(Order),
}

/// The part of the current event that outputs refer to.
#[derive(Clone, Copy)]
pub(super) enum Current<'a> {
    Model(&'a ModelEvent<'a>),
    Other,
}

impl Conduct {
    /// Boxed, because a future has room for each place to which what it holds is moved.
    async fn run(mut self: Box<Self>) -> CallSummary {
        // A dialect may know all that it needs before the caller says anything.
        self.take_scratch();
        self.more_of_caller(Instant::now());
        loop {
            self.leave_scratch();
            self.set_timer();
            let wake = std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = Instant::now();
            self.take_scratch();
            match wake {
                Wake::Heard(heard) => self.heard(heard, now),
                Wake::Tool(result) => self.tool_result(result, now),
                Wake::Session(came) => self.session_came(came, now),
                Wake::Timer => self.timeout(now),
                Wake::Notice(told) => match notice::input(told) {
                    Input::EndOrderly(reason) => self.end_orderly(reason, now),
                    input => self.input(input, Current::Other, now),
                },
                Wake::Ordered(order) => self.ordered(order, now),
            }
            if std::mem::take(&mut self.overfull) {
                self.model_lost(Loss::Stalled, now);
            }
            if let Some(end) = self.ended.take() {
                return Box::pin(self.finish(&end)).await;
            }
        }
    }

    fn take_scratch(&mut self) {
        self.scratch = Scratch::take();
        if let Some(media) = &mut self.media {
            media.scratch = std::mem::take(&mut self.scratch.media);
        }
    }

    fn leave_scratch(&mut self) {
        if let Some(media) = &mut self.media {
            self.scratch.media = std::mem::take(&mut media.scratch);
        }
        std::mem::take(&mut self.scratch).leave();
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        match self.legs.poll(cx, &mut self.ledger) {
            Progress::Heard(heard) => return Poll::Ready(Wake::Heard(heard)),
            Progress::Idle { wrote_to_caller } => {
                if let Some(took) = wrote_to_caller {
                    self.written(took);
                }
            }
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::Timer);
        }
        if let Poll::Ready(came) = self.sessions.poll(cx) {
            return Poll::Ready(Wake::Session(came));
        }
        while let Poll::Ready(Some(finished)) = self.running_tools.poll_join_next(cx) {
            if let Ok(result) = finished {
                return Poll::Ready(Wake::Tool(result));
            }
        }
        if let Poll::Ready(told) = self.ledger.lease.poll_notice(cx) {
            return Poll::Ready(Wake::Notice(told));
        }
        self.orders.poll(cx).map(Wake::Ordered)
    }

    /// All that was for the caller left, the first of it so long after it was read or due.
    fn written(&mut self, took: Duration) {
        if std::mem::take(&mut self.clearing) {
            self.ledger.metrics.cleared(took);
        }
        if let Some(turn) = self.first_frame_of.take() {
            self.ledger.turn(turn.written_after(took));
        }
    }

    fn set_timer(&mut self) {
        let core = self.core.poll_timeout(Instant::now().into_std());
        let watch = self.legs.watch_at();
        let due = [core, self.idle.due()];
        let due = due.into_iter().flatten().map(Instant::from_std);
        let deadline = due.fold(watch, Instant::min);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
    }

    fn heard(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Caller(event) => self.caller_event(event, now),
            Heard::Model(event) => self.model_message(event, now),
        }
    }

    fn timeout(&mut self, now: Instant) {
        if let Some(heard) = self.legs.overdue(now) {
            return self.heard(heard, now);
        }
        match self.legs.watch(now) {
            None => {}
            Some(EndReason::ModelStalled) => return self.model_lost(Loss::Stalled, now),
            Some(EndReason::ModelGone) => return self.model_lost(Loss::Gone, now),
            Some(reason) => return self.input(Input::End(reason), Current::Other, now),
        }
        self.core.handle_timeout(now.into_std());
        self.do_outputs(Current::Other, now);
        if self.idle.take(now.into_std()) {
            self.send_silence();
        }
    }

    /// What keeps a line from being quiet.
    fn send_silence(&mut self) {
        let frame = self.media.as_ref().map(MediaPath::silent_frame);
        // Silence that waited would come in the way of what is said next.
        let takes_audio = self.takes_audio && self.legs.caller.blocked_since().is_none();
        if let Some(frame) = frame.filter(|_| takes_audio) {
            self.tell_caller(CallerCommand::Audio(&frame));
        }
    }

    fn tool_result(&mut self, result: ToolResult, now: Instant) {
        self.ledger.metrics.tool(result.outcome);
        if let Some(trace) = self.ledger.trace() {
            trace.tool_ended(&result.call_id, result.outcome);
        }
        let finished = Input::ToolFinished {
            call_id: result.call_id,
            output: result.output,
        };
        self.input(finished, Current::Other, now);
    }

    // The caller leg.

    fn caller_event(&mut self, event: LegEvent, now: Instant) {
        let decoded = match &event {
            LegEvent::Text(text) => self
                .dialect
                .decode(Incoming::Text(text), &mut self.scratch.audio),
            LegEvent::Binary(bytes) => self
                .dialect
                .decode(Incoming::Binary(bytes), &mut self.scratch.audio),
            LegEvent::Closed(_) => {
                return self.input(Input::End(EndReason::CallerHangup), Current::Other, now);
            }
            LegEvent::Gone => {
                return self.input(Input::End(EndReason::CallerGone), Current::Other, now);
            }
            LegEvent::Broken { name, close_code } => {
                return self.break_off(name, *close_code);
            }
        };
        self.answer_caller();
        match decoded {
            Ok(event) => self.caller_said(event, now),
            Err(error) => return self.bad_input(&error),
        }
        self.more_of_caller(now);
    }

    fn more_of_caller(&mut self, now: Instant) {
        while self.ended.is_none()
            && let Some(event) = self.dialect.more(&mut self.scratch.audio)
        {
            self.caller_said(event, now);
        }
    }

    /// Sends what the protocol itself wants sent because of the caller's message.
    fn answer_caller(&mut self) {
        loop {
            match self.dialect.answer(&mut self.scratch.wire) {
                Outgoing::Nothing => return,
                kind => self.send_caller(kind),
            }
        }
    }

    fn caller_said(&mut self, event: CallerEvent, now: Instant) {
        match event {
            CallerEvent::Audio => self.caller_audio(now),
            CallerEvent::Started(info) => self.caller_started(&info, now),
            CallerEvent::Dtmf(digit) => self.input(Input::CallerDtmf(digit), Current::Other, now),
            CallerEvent::MarkReached(mark) => {
                self.input(Input::CallerMark(mark), Current::Other, now);
            }
            CallerEvent::Paused => self.input(Input::CallerPaused, Current::Other, now),
            CallerEvent::Resumed => self.input(Input::CallerResumed, Current::Other, now),
            CallerEvent::Flow(takes_audio) => self.takes_audio = takes_audio,
            CallerEvent::Stopped => {
                self.input(Input::End(EndReason::CallerHangup), Current::Other, now);
            }
            CallerEvent::Probe => self.ended = Some(EndReason::Probe.into()),
            CallerEvent::Nothing => {}
        }
    }

    fn bad_input(&mut self, error: &DialectError) {
        tracing::debug!(error = error.name(), "bad message from the caller");
        if !error.ends_call() {
            return self.ledger.metrics.bad_input(error.name());
        }
        self.tell_caller(CallerCommand::Error {
            code: error.name(),
            message: &error.to_string(),
        });
        self.break_off(error.name(), error.close_code());
    }

    /// Ends the call because of what the caller sent. The close frame says what that was: most dialects
    /// have no other words for it.
    fn break_off(&mut self, name: &'static str, close_code: u16) {
        self.ledger.metrics.bad_input(name);
        self.ended = Some(End::bad_input(name, close_code));
    }

    fn caller_started(&mut self, info: &CallInfo, now: Instant) {
        let audio = self.place.deployment().audio();
        let can = self.dialect.capabilities();
        match MediaPath::new(
            info.input,
            info.output,
            audio,
            can.chunk_frames,
            &self.agent,
        ) {
            Ok(media) => self.media = Some(media),
            Err(error) => {
                tracing::debug!(%error, "the caller's audio format cannot be served");
                return self.bad_input(&DialectError::UnsupportedFormat);
            }
        }
        self.ledger.listing.answered();
        self.parameters = Arc::new(info.parameters.clone());
        self.ledger
            .attached(info.provider_call_id.as_deref(), &info.parameters);
        self.formats = self.formats_at(&self.place);
        if let Some(formats) = self.formats {
            self.place.asks_for(formats);
        }
        tracing::info!(
            provider_call_id = info.provider_call_id,
            input = %info.input,
            output = %info.output,
            "call answered"
        );
        let call_id = self.ledger.call_id().to_owned();
        self.tell_caller(CallerCommand::Started { call_id: &call_id });
        if can.fills_silence {
            self.idle.start(now.into_std());
        }
        let configured = self.configured.is_some() && self.configured == self.formats;
        self.input(Input::CallerStarted { configured }, Current::Other, now);
    }

    fn caller_audio(&mut self, now: Instant) {
        let Some(media) = &mut self.media else {
            return;
        };
        match media.take_caller_audio(&self.scratch.audio) {
            // A lost packet is covered when the next one comes; a short one waits in the resampler.
            Ok(Duration::ZERO) => {}
            Ok(duration) => {
                self.ledger.caller_audio(duration);
                self.audio_duration = duration;
                self.note_life(now);
                self.input(Input::CallerAudio(duration), Current::Other, now);
            }
            Err(error) => {
                tracing::debug!(%error, "undecodable audio from the caller");
                self.ledger.metrics.bad_input("undecodable_audio");
                self.ledger.dropped(FrameDrop::Undecodable, FRAME);
            }
        }
    }

    /// Whether anything came from the deployment since the caller's last audio.
    fn note_life(&mut self, now: Instant) {
        let heard_at = self.legs.model.heard_at();
        if heard_at != self.alive_at {
            self.alive_at = heard_at;
            self.core.handle_input(Input::ModelAlive, now.into_std());
        }
    }

    fn tell_caller(&mut self, command: CallerCommand<'_>) {
        let kind = self.dialect.encode(command, &mut self.scratch.wire);
        self.send_caller(kind);
    }

    /// Sends the message that was written.
    fn send_caller(&mut self, kind: Outgoing) {
        if send(&mut self.legs.caller, kind, &self.scratch.wire) == Err(SendError::Full) {
            // A clear or a mark that does not arrive would make what the model knows untrue.
            self.ended
                .get_or_insert_with(|| EndReason::CallerTooSlow.into());
        }
    }

    // The model leg.

    fn model_message(&mut self, event: LegEvent, now: Instant) {
        let text = match event {
            LegEvent::Text(text) => text,
            LegEvent::Binary(_) => return self.ledger.metrics.upstream_error("binary_message"),
            LegEvent::Closed(frame) => {
                tracing::info!(
                    code = frame.as_ref().map(|frame| u16::from(frame.code)),
                    reason = frame.as_ref().map(|frame| frame.reason.as_str()),
                    "the deployment closed the session"
                );
                return self.model_lost(loss_of(frame.as_ref()), now);
            }
            LegEvent::Gone => return self.model_lost(Loss::Gone, now),
            LegEvent::Broken { name, .. } => {
                self.ledger.metrics.upstream_error(name);
                return self.model_lost(Loss::Protocol, now);
            }
        };
        let decoded = match self.decoder.decode(&text) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::debug!(%error, "unreadable event from the deployment");
                return self.ledger.metrics.upstream_error("malformed_event");
            }
        };
        let event = decoded.event();
        self.ledger.model_event(&decoded);
        if let ModelEvent::ResponseDone {
            status: ResponseStatus::Completed,
            ..
        } = &event
        {
            self.sessions.succeeded();
            self.place.went_well();
        }
        if let ModelEvent::Error(error) = &event {
            tracing::warn!(
                code = error.code,
                kind = error.kind,
                caused_by = error.event_id,
                "the deployment reported an error"
            );
        }
        if matches!(event, ModelEvent::SessionUpdated)
            && let Some(since) = self.configured_at.take()
        {
            self.ledger
                .metrics
                .session_updated(now.duration_since(since));
        }
        self.input(Input::Model(&event), Current::Model(&event), now);
    }

    fn tell_model(&mut self, command: &ModelCommand, now: Instant) {
        let Some(formats) = self.formats else {
            return;
        };
        let session = SessionContext {
            settings: &self.agent.config.session,
            input: formats.input,
            output: formats.output,
            shape: self.place.deployment().shape(),
        };
        if *command == ModelCommand::Configure {
            self.configured_at = Some(now);
        }
        self.n_commands += 1;
        let event = encode(
            command,
            &session,
            &format!("{}-{}", command.name(), self.n_commands),
        );
        self.send_model(&event);
    }

    // The core.

    pub(super) fn input(&mut self, input: Input<'_>, current: Current<'_>, now: Instant) {
        self.core.handle_input(input, now.into_std());
        self.do_outputs(current, now);
    }

    fn do_outputs(&mut self, current: Current<'_>, now: Instant) {
        while let Some(output) = self.core.poll_output() {
            self.do_output(output, current, now);
        }
    }

    fn do_output(&mut self, output: Output, current: Current<'_>, now: Instant) {
        match output {
            Output::ToModel(command) => self.tell_model(&command, now),
            Output::AppendAudio => {
                self.sessions
                    .kept
                    .push(&self.scratch.audio, self.audio_duration);
                if self.append(MediaPath::append_event) {
                    self.legs.to_model.get_or_insert(now);
                }
            }
            Output::KeepAudio => self
                .sessions
                .kept
                .push(&self.scratch.audio, self.audio_duration),
            Output::KeepSilence(duration) => self.sessions.kept.push_silence(duration),
            Output::ForgetAudio(span) => self.sessions.kept.forget(span.from, span.to),
            Output::ReplayAudio(span) => self.replay_audio(span),
            Output::ReplayItem(span) => self.replay_item(span),
            Output::LoseSession(loss) => self.lose_session(loss),
            Output::OpenSession => self.open_session(),
            Output::UseSession => self.use_session(now),
            Output::Apologise => self.apologise(now),
            Output::AppendSilence(duration) => {
                self.sessions.kept.push_silence(duration);
                self.append(|media, out| {
                    media.silence_event(duration, out);
                    true
                });
            }
            Output::QueueReply => self.queue_reply(current, now),
            Output::PadReply => {
                self.pad_reply(now);
                self.reply_closed = true;
                self.tell_reply_ended();
            }
            Output::Play { frames, mark } => {
                self.play(frames, now);
                if let Some(mark) = mark {
                    self.tell_caller(CallerCommand::Mark(mark));
                }
                self.tell_reply_ended();
                self.legs.to_caller.get_or_insert(now);
            }
            Output::Clear => {
                self.tell_caller(CallerCommand::Clear);
                self.answer_caller();
                self.legs.to_caller.get_or_insert(now);
                self.clearing = true;
                self.reply_closed = false;
                self.idle.cleared(now.into_std());
                if let Some(media) = &mut self.media {
                    media.clear();
                }
            }
            Output::Transcript(speaker) => self.transcript(speaker, current),
            Output::RunTool {
                call_id,
                name,
                arguments,
            } if name == PRESS_KEYS_TOOL => {
                if let Some(trace) = self.ledger.trace() {
                    trace.tool_began(&call_id, &name);
                }
                self.press_keys(call_id, &arguments);
            }
            Output::RunTool {
                call_id,
                name,
                arguments,
            } => {
                let webhook = self.agent.config.webhooks.get(&name);
                let trace = self.ledger.trace();
                let call = ToolCall {
                    trace: trace.and_then(|trace| trace.tool_began(&call_id, &name)),
                    call: self.ledger.call_id().to_owned(),
                    call_id,
                    name,
                    arguments,
                    parameters: Arc::clone(&self.parameters),
                };
                self.tools.start(&mut self.running_tools, webhook, call);
            }
            Output::Observe(Observation::Turn(turn)) => self.first_frame_of = Some(turn),
            Output::Observe(observation) => self.ledger.observe(observation),
            Output::End(reason) => self.ended = Some(reason.into()),
        }
    }

    /// Presses keys towards the caller's line, now and not after what waits to be played, and tells the model.
    fn press_keys(&mut self, call_id: String, arguments: &str) {
        let keys = match self.agent.config.may_press_keys {
            true => press_keys::keys(arguments, self.dialect.capabilities()),
            false => Err(KeysError::NotTaken),
        };
        if let Ok(keys) = &keys {
            self.tell_caller(CallerCommand::Keys(keys));
        }
        let output = serde_json::json!({"pressed": keys.as_ref().map_or(0, Vec::len)});
        let result = ToolResult::built_in(call_id, keys.map(|_| &output));
        self.running_tools.spawn(async move { result });
    }

    /// Sends the append event that is written, if one is.
    fn append(&mut self, write: impl FnOnce(&mut MediaPath, &mut String) -> bool) -> bool {
        let Some(media) = &mut self.media else {
            return false;
        };
        // Taken out so that it can be lent to the leg.
        let mut event = std::mem::take(&mut self.scratch.append);
        event.clear();
        let is_written = write(media, &mut event);
        if is_written {
            self.send_model(&event);
        }
        self.scratch.append = event;
        is_written
    }

    fn queue_reply(&mut self, current: Current<'_>, now: Instant) {
        let (
            Current::Model(ModelEvent::AudioDelta {
                item_id,
                content_index,
                audio,
                ..
            }),
            Some(media),
        ) = (current, &mut self.media)
        else {
            return;
        };
        self.reply_closed = false;
        match media.queue_reply(audio) {
            Ok((duration, frames)) => {
                let overrun = media.overrun();
                if overrun > self.overrun {
                    self.ledger
                        .dropped(FrameDrop::PlayoutFull, overrun - self.overrun);
                    self.overrun = overrun;
                }
                let queued = Input::ReplyQueued {
                    item_id,
                    content_index: *content_index,
                    duration,
                    frames,
                };
                self.core.handle_input(queued, now.into_std());
            }
            Err(error) => {
                tracing::debug!(%error, "unusable reply audio");
                self.ledger.metrics.upstream_error("malformed_audio");
            }
        }
    }

    fn pad_reply(&mut self, now: Instant) {
        let padded = self.media.as_mut().map(MediaPath::pad_reply);
        let frames = match padded {
            Some(Ok(frames)) => frames,
            Some(Err(error)) => {
                tracing::debug!(%error, "the reply's last frame was lost");
                0
            }
            None => 0,
        };
        self.core
            .handle_input(Input::ReplyPadded(frames), now.into_std());
    }

    /// Says that a reply was sent to its end, once it was.
    fn tell_reply_ended(&mut self) {
        let is_sent = self
            .media
            .as_ref()
            .is_some_and(|media| media.queue.is_empty());
        if self.reply_closed && is_sent {
            self.reply_closed = false;
            if let Some(trace) = self.ledger.trace() {
                trace.reply_ended();
            }
            self.tell_caller(CallerCommand::ReplyEnded);
        }
    }

    fn play(&mut self, frames: usize, now: Instant) {
        // Taken out so that a frame can be lent to the dialect while the call is borrowed.
        let Some(mut media) = self.media.take() else {
            return;
        };
        let duration = FRAME * u32::try_from(frames).unwrap_or(u32::MAX);
        let is_late = |since: Instant| since.elapsed() >= MAX_BEHIND;
        let is_blocked = self.legs.caller.blocked_since().is_some_and(is_late);
        if is_blocked || !self.takes_audio {
            self.ledger.dropped(FrameDrop::CallerSlow, duration);
            for _ in 0..frames {
                media.queue.pop();
            }
        } else {
            self.send_frames(&mut media, frames);
            self.idle.sent(duration, now.into_std());
            self.ledger.metrics.audio(Direction::ToCaller, duration);
        }
        self.media = Some(media);
    }

    /// Sends the first frames of the queue, as many in a message as the dialect wants.
    fn send_frames(&mut self, media: &mut MediaPath, frames: usize) {
        let chunk_frames = self.dialect.capabilities().chunk_frames;
        if chunk_frames == 1 {
            for _ in 0..frames {
                if let Some(frame) = media.queue.front() {
                    self.tell_caller(CallerCommand::Audio(frame));
                }
                media.queue.pop();
            }
            return;
        }
        let mut chunk = std::mem::take(&mut self.scratch.chunk);
        for _ in 0..frames.div_ceil(chunk_frames) {
            chunk.clear();
            for _ in 0..chunk_frames {
                chunk.extend_from_slice(media.queue.front().unwrap_or_default());
                media.queue.pop();
            }
            self.tell_caller(CallerCommand::Audio(&chunk));
        }
        self.scratch.chunk = chunk;
    }

    fn transcript(&mut self, speaker: Speaker, current: Current<'_>) {
        if let Current::Model(
            ModelEvent::InputTranscript { text, .. } | ModelEvent::OutputTranscript { text, .. },
        ) = current
        {
            self.tell_caller(CallerCommand::Transcript { speaker, text });
        }
    }

    async fn finish(mut self: Box<Self>, end: &End) -> CallSummary {
        self.running_tools.abort_all();
        self.tell_caller(CallerCommand::End {
            reason: end.reason.name(),
        });
        self.leave_scratch();
        for (kind, n) in self.dialect.ignored().entries() {
            self.ledger.metrics.ignored(kind, n);
        }
        if let Some(recording) = self.ledger.recording() {
            let now = Instant::now().into_std();
            recording.spoken(self.core.spoken(now));
        }
        let Self {
            mut legs,
            mut dialect,
            sessions,
            ledger,
            began,
            ..
        } = *self;
        // However long the caller's side takes to close: what the call used is others' from now on.
        let summary = ledger.end(end.reason, began.elapsed());
        let model = legs.model.take();
        let leave_model = async {
            if let Some(model) = model {
                model.close(1000, "").await;
            }
        };
        let leave_caller = async {
            if let Some(patience) = dialect.capabilities().peer_closes
                && end.reason.is_caller_there()
            {
                // Whoever does not keep to it is closed on.
                let leave = take_leave(&mut legs.caller, &mut dialect);
                let _ = tokio::time::timeout(patience, leave).await;
            }
            legs.close(end).await;
        };
        tokio::join!(leave_caller, leave_model, sessions.close());
        summary
    }
}

/// Sends the message that was written.
fn send(caller: &mut Leg, kind: Outgoing, wire: &[u8]) -> Result<(), SendError> {
    match kind {
        Outgoing::Nothing => Ok(()),
        Outgoing::Binary => caller.send_binary(wire),
        Outgoing::Text => match str::from_utf8(wire) {
            Ok(text) => caller.send_text(text),
            Err(_) => Ok(()),
        },
    }
}

/// Writes out what was said last, and answers, until the caller's side has closed.
async fn take_leave(caller: &mut Leg, dialect: &mut Dialect) {
    let (mut audio, mut wire) = (Vec::new(), Vec::new());
    loop {
        let event = std::future::poll_fn(|cx| {
            let event = caller.poll_event(cx);
            if event.is_pending() {
                let _: Poll<()> = caller.poll_flush(cx);
            }
            event
        });
        let message = match event.await {
            LegEvent::Text(text) => dialect.decode(Incoming::Text(&text), &mut audio),
            LegEvent::Binary(_) => continue,
            LegEvent::Closed(_) | LegEvent::Gone | LegEvent::Broken { .. } => return,
        };
        loop {
            match dialect.answer(&mut wire) {
                Outgoing::Nothing => break,
                kind if send(caller, kind, &wire).is_err() => return,
                _ => {}
            }
        }
        if message.is_err() {
            return;
        }
    }
}
