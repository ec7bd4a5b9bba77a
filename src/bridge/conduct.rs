//! The task of a call that the gateway conducts: a phone or a plain audio client, and an agent.
//!
//! It owns both legs, the call core, the audio path and one timer, and is one loop: wait for whatever
//! happens, tell the core, do what the core says. Nothing in it waits for one leg alone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::call::{
    Call, CallInfo, CallerCommand, CallerEvent, EndReason, Input, ModelCommand, ModelEvent,
    Observation, Output, Speaker, TurnLatency,
};
use crate::ingress::{Dialect, DialectError, Incoming, Outgoing};
use crate::media::FRAME;
use crate::realtime::WireFormat;
use crate::telemetry::{CallMetrics, Direction, FrameDrop};
use crate::transport::Transport;
use crate::upstream::{Decoder, Deployment, ModelLeg, SessionContext, encode};

use super::agent::Agent;
use super::leg::{Leg, LegEvent, SendError};
use super::media_path::{MediaPath, session_format};
use super::model_close_reason;
use super::registry::{CallPermit, Calls};
use super::summary::{CallSummary, Ledger};
use super::tool::{ToolCall, ToolResult, ToolRunner};

/// A caller that takes nothing for so long is given up (faults reference 35).
const CALLER_STALL: Duration = Duration::from_secs(15);

/// Messages read in a row before everything else gets its turn.
const READ_BUDGET: u32 = 32;

/// What the listener hands over.
#[derive(Debug)]
pub struct ConductedCall {
    /// The gateway's id of the call.
    pub call_id: String,
    /// What is spoken there.
    pub dialect: Dialect,
    /// The open session.
    pub model: ModelLeg,
    /// Where it is.
    pub deployment: Arc<Deployment>,
    /// Who answers.
    pub agent: Arc<Agent>,
    /// Runs the agent's tools.
    pub tools: ToolRunner,
    /// Where this kind of call is counted.
    pub metrics: Arc<CallMetrics>,
    /// All calls of the process.
    pub calls: Calls,
    /// The right to be one of them.
    pub permit: CallPermit,
}

impl ConductedCall {
    /// Runs the call to its end on the caller's connection.
    pub async fn run(self, caller: WebSocketStream<Transport>) {
        let Self {
            call_id,
            dialect,
            model,
            deployment,
            agent,
            tools,
            metrics,
            calls,
            permit,
        } = self;
        let session = super::session_id(&model.session_created);
        let ledger = Ledger::new(metrics, call_id, dialect.name(), deployment.name(), session);
        let now = Instant::now();
        let task = Conduct {
            core: Call::new(agent.policy(dialect.capabilities()), now.into_std()),
            caller: Leg::new(caller),
            model: Leg::new(model.socket),
            dialect,
            deployment,
            agent,
            media: None,
            tools,
            running_tools: JoinSet::new(),
            decoder: Decoder::new(),
            ledger,
            formats: None,
            n_commands: 0,
            n_read: 0,
            configured_at: None,
            stamps: Stamps::default(),
            overrun: Duration::ZERO,
            audio: Vec::new(),
            wire: Vec::new(),
            append: String::new(),
            ended: None,
            timer: Box::pin(tokio::time::sleep_until(now)),
            end_now: Box::pin(cancelled(calls.end_now())),
            began: now,
        };
        let summary = task.run().await;
        calls.remember(summary);
        drop(permit);
    }
}

fn cancelled(token: CancellationToken) -> WaitForCancellationFutureOwned {
    token.cancelled_owned()
}

struct Conduct {
    core: Call,
    caller: Leg,
    model: Leg,
    dialect: Dialect,
    deployment: Arc<Deployment>,
    agent: Arc<Agent>,
    /// Known once the caller has begun.
    media: Option<MediaPath>,
    formats: Option<SessionFormats>,
    decoder: Decoder,
    tools: ToolRunner,
    running_tools: JoinSet<ToolResult>,
    ledger: Ledger,
    n_commands: u32,
    /// Messages read since the legs were last flushed.
    n_read: u32,
    configured_at: Option<Instant>,
    stamps: Stamps,
    overrun: Duration,
    /// Audio of the caller's current message.
    audio: Vec<u8>,
    /// The message to the caller being written.
    wire: Vec<u8>,
    /// The append event being written.
    append: String,
    ended: Option<End>,
    timer: Pin<Box<Sleep>>,
    end_now: Pin<Box<WaitForCancellationFutureOwned>>,
    began: Instant,
}

/// How the call ends, and what the caller is told by the close frame.
#[derive(Clone, Copy, Debug)]
struct End {
    reason: EndReason,
    close_code: u16,
    close_reason: &'static str,
}

impl From<EndReason> for End {
    fn from(reason: EndReason) -> Self {
        Self {
            reason,
            close_code: reason.close_code(),
            close_reason: reason.name(),
        }
    }
}

/// Audio formats of the session, both ways.
#[derive(Clone, Copy, Debug)]
struct SessionFormats {
    input: WireFormat,
    output: WireFormat,
}

/// When what is now being written was read or due; the metrics are told once it is written.
#[derive(Debug, Default)]
struct Stamps {
    to_model: Option<Instant>,
    to_caller: Option<Instant>,
    clear: Option<Instant>,
    /// The turn whose first frame is being written.
    turn: Option<TurnLatency>,
}

enum Wake {
    Caller(LegEvent),
    Model(LegEvent),
    Tool(ToolResult),
    Timer,
    EndNow,
}

/// The part of the current event that outputs refer to.
#[derive(Clone, Copy)]
enum Current<'a> {
    Model(&'a ModelEvent<'a>),
    Other,
}

impl Conduct {
    async fn run(mut self) -> CallSummary {
        loop {
            self.set_timer();
            let wake = std::future::poll_fn(|cx| self.poll_wake(cx)).await;
            let now = Instant::now();
            match wake {
                Wake::Caller(event) => self.caller_event(event, now),
                Wake::Model(event) => self.model_message(event, now),
                Wake::Tool(result) => self.tool_result(result, now),
                Wake::Timer => self.timeout(now),
                Wake::EndNow => self.input(Input::End(EndReason::Drained), Current::Other, now),
            }
            if let Some(end) = self.ended {
                return self.finish(end).await;
            }
        }
    }

    /// Waits for the next thing to happen. Legs are read before they are flushed, so that all that came
    /// in together goes out together; a leg that never pauses is put behind the rest now and then.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if self.n_read < READ_BUDGET
            && let Poll::Ready(wake) = self.poll_legs(cx)
        {
            self.n_read += 1;
            return Poll::Ready(wake);
        }
        let was_busy = std::mem::take(&mut self.n_read) == READ_BUDGET;
        self.poll_flush(cx);
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::Timer);
        }
        if let Poll::Ready(Some(Ok(result))) = self.running_tools.poll_join_next(cx) {
            return Poll::Ready(Wake::Tool(result));
        }
        if self.end_now.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Wake::EndNow);
        }
        if was_busy {
            self.poll_legs(cx)
        } else {
            Poll::Pending
        }
    }

    fn poll_legs(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if self.n_read.is_multiple_of(2)
            && let Poll::Ready(event) = self.model.poll_event(cx)
        {
            return Poll::Ready(Wake::Model(event));
        }
        if let Poll::Ready(event) = self.caller.poll_event(cx) {
            return Poll::Ready(Wake::Caller(event));
        }
        self.model.poll_event(cx).map(Wake::Model)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if self.caller.poll_flush(cx).is_ready() {
            if let Some(since) = self.stamps.clear.take() {
                self.ledger.metrics.cleared(since.elapsed());
            }
            if let Some(since) = self.stamps.to_caller.take() {
                let took = since.elapsed();
                self.ledger.frame(Direction::ToCaller, took);
                if let Some(turn) = self.stamps.turn.take() {
                    self.ledger.turn(turn.written_after(took));
                }
            }
        }
        if self.model.poll_flush(cx).is_ready()
            && let Some(since) = self.stamps.to_model.take()
        {
            self.ledger.frame(Direction::ToModel, since.elapsed());
        }
    }

    fn set_timer(&mut self) {
        let now = Instant::now();
        let core = self
            .core
            .poll_timeout(now.into_std())
            .map(Instant::from_std);
        let stall = self
            .caller
            .blocked_since()
            .map(|since| since + CALLER_STALL);
        let deadline = [core, stall].into_iter().flatten().min();
        let deadline = deadline.unwrap_or(now + Duration::from_secs(3600));
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
    }

    fn timeout(&mut self, now: Instant) {
        let is_stalled = |since| now.duration_since(since) >= CALLER_STALL;
        if self.caller.blocked_since().is_some_and(is_stalled) {
            self.input(Input::End(EndReason::CallerTooSlow), Current::Other, now);
            return;
        }
        self.core.handle_timeout(now.into_std());
        self.do_outputs(Current::Other, now);
    }

    fn tool_result(&mut self, result: ToolResult, now: Instant) {
        self.ledger.metrics.tool(result.outcome);
        let finished = Input::ToolFinished {
            call_id: result.call_id,
            output: result.output,
        };
        self.input(finished, Current::Other, now);
    }

    // The caller leg.

    fn caller_event(&mut self, event: LegEvent, now: Instant) {
        let decoded = match &event {
            LegEvent::Text(text) => self.dialect.decode(Incoming::Text(text), &mut self.audio),
            LegEvent::Binary(bytes) => self
                .dialect
                .decode(Incoming::Binary(bytes), &mut self.audio),
            LegEvent::Closed(_) => {
                return self.input(Input::End(EndReason::CallerHangup), Current::Other, now);
            }
            LegEvent::Gone => {
                return self.input(Input::End(EndReason::CallerGone), Current::Other, now);
            }
            LegEvent::Broken { close_code } => {
                return self.break_off("websocket", *close_code);
            }
        };
        match decoded {
            Ok(CallerEvent::Audio) => self.caller_audio(now),
            Ok(CallerEvent::Started(info)) => self.caller_started(&info, now),
            Ok(CallerEvent::Dtmf(digit)) => {
                self.input(Input::CallerDtmf(digit), Current::Other, now)
            }
            Ok(CallerEvent::MarkReached(mark)) => {
                self.input(Input::CallerMark(mark), Current::Other, now)
            }
            Ok(CallerEvent::Stopped) => {
                self.input(Input::End(EndReason::CallerHangup), Current::Other, now)
            }
            Ok(CallerEvent::Nothing) => {}
            Err(error) => self.bad_input(&error),
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
        self.ended = Some(End {
            reason: EndReason::CallerProtocol,
            close_code,
            close_reason: name,
        });
    }

    fn caller_started(&mut self, info: &CallInfo, now: Instant) {
        let audio = self.deployment.audio();
        match MediaPath::new(info.input, info.output, audio, &self.agent) {
            Ok(media) => self.media = Some(media),
            Err(error) => {
                tracing::debug!(%error, "the caller's audio format cannot be served");
                return self.bad_input(&DialectError::UnsupportedFormat);
            }
        }
        self.formats = Some(SessionFormats {
            input: session_format(info.input, audio),
            output: session_format(info.output, audio),
        });
        tracing::info!(
            provider_call_id = info.provider_call_id,
            input = %info.input,
            output = %info.output,
            "call answered"
        );
        let call_id = self.ledger.call_id().to_owned();
        self.tell_caller(CallerCommand::Started { call_id: &call_id });
        self.input(Input::CallerStarted, Current::Other, now);
    }

    fn caller_audio(&mut self, now: Instant) {
        let Some(media) = &mut self.media else {
            return;
        };
        match media.take_caller_audio(&self.audio) {
            Ok(duration) => {
                self.ledger.metrics.audio(Direction::ToModel, duration);
                self.input(Input::CallerAudio(duration), Current::Other, now);
            }
            Err(error) => {
                tracing::debug!(%error, "undecodable audio from the caller");
                self.ledger.metrics.bad_input("undecodable_audio");
                self.ledger.metrics.dropped(FrameDrop::Undecodable, FRAME);
            }
        }
    }

    fn tell_caller(&mut self, command: CallerCommand<'_>) {
        let sent = match self.dialect.encode(command, &mut self.wire) {
            Outgoing::Nothing => Ok(()),
            Outgoing::Binary => self.caller.send_binary(Bytes::copy_from_slice(&self.wire)),
            Outgoing::Text => match Utf8Bytes::try_from(Bytes::copy_from_slice(&self.wire)) {
                Ok(text) => self.caller.send_text(text),
                Err(_) => Ok(()),
            },
        };
        if sent == Err(SendError::Full) && matches!(command, CallerCommand::Audio(_)) {
            self.ledger.metrics.dropped(FrameDrop::CallerSlow, FRAME);
        }
    }

    // The model leg.

    fn model_message(&mut self, event: LegEvent, now: Instant) {
        let text = match event {
            LegEvent::Text(text) => text,
            LegEvent::Binary(_) => return self.ledger.metrics.upstream_error("binary_message"),
            LegEvent::Closed(frame) => {
                let reason = model_close_reason(frame.as_ref());
                return self.input(Input::End(reason), Current::Other, now);
            }
            LegEvent::Gone => {
                return self.input(Input::End(EndReason::ModelGone), Current::Other, now);
            }
            LegEvent::Broken { .. } => {
                return self.input(Input::End(EndReason::ModelProtocol), Current::Other, now);
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
        self.ledger.model_event(&event);
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
            shape: self.deployment.shape(),
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
        self.send_model(Utf8Bytes::from(event));
    }

    fn send_model(&mut self, text: Utf8Bytes) {
        // A leg that is gone says so when it is read.
        if self.model.send_text(text) == Err(SendError::Full) {
            self.ended = Some(EndReason::ModelStalled.into());
        }
    }

    // The core.

    fn input(&mut self, input: Input<'_>, current: Current<'_>, now: Instant) {
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
                self.stamps.to_model.get_or_insert(now);
                self.append(|media, out| media.append_event(out));
            }
            Output::AppendSilence(duration) => {
                self.append(|media, out| media.silence_event(duration, out));
            }
            Output::QueueReply => self.queue_reply(current, now),
            Output::PadReply => self.pad_reply(now),
            Output::Play { frames, mark } => {
                self.play(frames);
                if let Some(mark) = mark {
                    self.tell_caller(CallerCommand::Mark(mark));
                }
                self.stamps.to_caller.get_or_insert(now);
            }
            Output::Clear => {
                self.tell_caller(CallerCommand::Clear);
                self.stamps.clear.get_or_insert(now);
                if let Some(media) = &mut self.media {
                    media.clear();
                }
            }
            Output::Transcript(speaker) => self.transcript(speaker, current),
            Output::RunTool {
                call_id,
                name,
                arguments,
            } => {
                let webhook = self.agent.config.webhooks.get(&name);
                let call = ToolCall {
                    call: self.ledger.call_id().to_owned(),
                    call_id,
                    name,
                    arguments,
                };
                self.tools.start(&mut self.running_tools, webhook, call);
            }
            Output::Observe(Observation::Turn(turn)) => self.stamps.turn = Some(turn),
            Output::Observe(observation) => self.ledger.observe(observation),
            Output::End(reason) => self.ended = Some(reason.into()),
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut MediaPath, &mut String)) {
        let Some(media) = &mut self.media else {
            return;
        };
        self.append.clear();
        write(media, &mut self.append);
        let text = Utf8Bytes::from(self.append.as_str());
        self.send_model(text);
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
        match media.queue_reply(audio) {
            Ok((duration, frames)) => {
                let overrun = media.overrun();
                if overrun > self.overrun {
                    self.ledger
                        .metrics
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

    fn play(&mut self, frames: usize) {
        // Taken out so that a frame can be lent to the dialect while the call is borrowed.
        let Some(mut media) = self.media.take() else {
            return;
        };
        for _ in 0..frames {
            if let Some(frame) = media.queue.front() {
                self.tell_caller(CallerCommand::Audio(frame));
            }
            media.queue.pop();
        }
        self.media = Some(media);
        let duration = FRAME * u32::try_from(frames).unwrap_or(u32::MAX);
        self.ledger.metrics.audio(Direction::ToCaller, duration);
    }

    fn transcript(&mut self, speaker: Speaker, current: Current<'_>) {
        if let Current::Model(
            ModelEvent::InputTranscript { text, .. } | ModelEvent::OutputTranscript { text, .. },
        ) = current
        {
            self.tell_caller(CallerCommand::Transcript { speaker, text });
        }
    }

    async fn finish(mut self, end: End) -> CallSummary {
        self.tell_caller(CallerCommand::End {
            reason: end.reason.name(),
        });
        for (kind, n) in self.dialect.ignored().entries() {
            self.ledger.metrics.ignored(kind, n);
        }
        let duration = self.began.elapsed();
        let summary = self.ledger.end(end.reason, duration);
        tokio::join!(
            self.caller.close(end.close_code, end.close_reason),
            self.model.close(1000, ""),
        );
        summary
    }
}
