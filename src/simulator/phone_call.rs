//! One call of the phone as a state machine: script, ear and wire put together, every event reported.
//!
//! Pure: messages and times in, messages out.

use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::phone::{CLOSE_TIMEOUT, SoftPhone};
use super::phone_dialect::{Dialect, FarEnd, Heard};
use super::phone_playout::{Noticed, Playout, Recording, STEP};
use super::phone_script::{Ear, Script};
use super::phone_tap::Tap;
use super::phone_timeline::{
    BargeIn, CallReport, Clear, CloseReport, ErrorReport, HeardAudio, KeysReport, MarkReport, Note,
    Side, TranscriptReport, Truncate, Turn, Underrun, in_ms,
};
use super::wav::Clip;

pub(crate) struct PhoneCall {
    wire: Box<dyn FarEnd>,
    opened: Instant,
    script: Script,
    playout: Playout,
    tap: Option<Box<dyn Tap>>,
    report: CallReport,
    outbox: Vec<Message>,
    dialled: Instant,
    reply_gap: Duration,
    state: State,
    answered: Option<Instant>,
    frame: Vec<i16>,
    /// Of the report's marks, so many were reached or thrown away.
    n_marks_settled: usize,
    /// The reply that audio belongs to now; `None` when the next audio begins another.
    reply: Option<usize>,
    n_replies: usize,
    spoke_since_audio: bool,
    reply_is_done: bool,
    dry_since: Option<Instant>,
    voiced_until: Option<Instant>,
    /// Of the reply to what the caller said last.
    voiced: Duration,
    played_before: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Ringing {
        until: Instant,
    },
    Talking {
        next_frame: Instant,
    },
    /// The farewell was said and has to be answered.
    TakingLeave {
        until: Instant,
    },
    HungUp {
        until: Instant,
    },
    Over,
}

impl PhoneCall {
    /// `script` is made for the wire's sample rate.
    pub(crate) fn new(
        wire: Box<dyn FarEnd>,
        script: Script,
        phone: &SoftPhone,
        report: CallReport,
        dialled: Instant,
    ) -> Self {
        let rate = wire.format().rate.hz();
        let (reply_gap, answer_timeout) = phone.timing();
        Self {
            wire,
            opened: dialled,
            script,
            playout: Playout::new(rate, phone.is_keeping_audio()),
            tap: None,
            report,
            outbox: Vec::new(),
            dialled,
            reply_gap,
            state: State::Ringing {
                until: dialled + answer_timeout,
            },
            answered: None,
            frame: Vec::new(),
            n_marks_settled: 0,
            reply: None,
            n_replies: 0,
            spoke_since_audio: false,
            reply_is_done: false,
            dry_since: None,
            voiced_until: None,
            voiced: Duration::ZERO,
            played_before: Duration::ZERO,
        }
    }

    /// The same call with somebody on the line.
    pub(crate) fn tapped(mut self, tap: Option<Box<dyn Tap>>) -> Self {
        self.tap = tap;
        self
    }

    /// The socket is open.
    pub(crate) fn open(&mut self, now: Instant) {
        self.report.upgraded_ms = Some(self.at(now));
        self.opened = now;
        for message in self.wire.opening() {
            self.send(message);
        }
        if let Some(call_id) = self.wire.answered_by_upgrade() {
            self.answer(now, Some(call_id));
        }
    }

    /// A message came, control frames included.
    pub(crate) fn handle_message(&mut self, now: Instant, message: &Message) {
        if let Message::Close(frame) = message {
            return self.closed(now, frame.as_ref());
        }
        if !matches!(message, Message::Text(_) | Message::Binary(_)) {
            return;
        }
        self.report.received.messages += 1;
        // Nobody listens after hanging up.
        if matches!(self.state, State::HungUp { .. } | State::Over) {
            return;
        }
        self.play(now);
        for heard in self.wire.receive(message) {
            self.handle_heard(now, heard);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Ringing { until } if until <= now => {
                self.fail("the gateway took the socket and did not answer the call".to_owned());
                self.hang_up(now);
            }
            State::Talking { .. } => {
                self.play(now);
                self.talk(now);
            }
            State::TakingLeave { until } if until <= now => {
                self.violation(now, "the farewell was not answered".to_owned());
                self.close_socket(now);
            }
            State::HungUp { until } if until <= now => {
                self.violation(now, "the close frame was not answered".to_owned());
                self.state = State::Over;
            }
            State::Ringing { .. }
            | State::TakingLeave { .. }
            | State::HungUp { .. }
            | State::Over => {}
        }
    }

    /// When [`PhoneCall::handle_timeout`] should be called next.
    pub(crate) fn next_wake(&self) -> Instant {
        match self.state {
            State::Ringing { until } | State::TakingLeave { until } | State::HungUp { until } => {
                until
            }
            // With somebody on the line there may be a thousand calls: they wake once for each frame, and marks are
            // told up to a frame later.
            State::Talking { next_frame } if self.tap.is_some() => next_frame,
            State::Talking { next_frame } => self
                .playout
                .next_step()
                .map_or(next_frame, |step| step.min(next_frame)),
            State::Over => self.dialled,
        }
    }

    /// The socket ended without a close frame, or after the phone's own.
    pub(crate) fn disconnected(&mut self, now: Instant, error: Option<String>) {
        match self.state {
            State::HungUp { .. } => self.state = State::Over,
            State::Ringing { .. } | State::Talking { .. } | State::TakingLeave { .. } => {
                let why = error.map_or(String::new(), |error| format!(": {error}"));
                self.broken(
                    now,
                    format!("the connection broke without a close frame{why}"),
                );
            }
            State::Over => {}
        }
    }

    /// The call cannot go on.
    pub(crate) fn broken(&mut self, now: Instant, failure: String) {
        self.play(now);
        self.fail(failure);
        self.end(now);
        self.state = State::Over;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(crate) fn take_outbox(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    pub(crate) fn into_report(self) -> CallReport {
        let mut report = self.report;
        let (voiced, level_dbfs) = self.playout.voiced();
        report.heard = HeardAudio {
            played_ms: in_ms(self.playout.played()),
            voiced_ms: in_ms(voiced),
            level_dbfs,
        };
        report.script_done = self.script.is_done();
        report.tokens = self.wire.tokens();
        let rate = self.wire.format().rate.hz();
        let recording = self.playout.into_recording();
        if let Some(answered) = self.answered.filter(|_| !recording.samples.is_empty()) {
            report.audio_in_time = Some(in_time(&recording, answered, rate));
            report.audio = Some(Clip::new(recording.samples, rate));
        }
        report
    }

    fn answer(&mut self, now: Instant, call_id: Option<String>) {
        if self.answered.is_some() {
            return;
        }
        self.answered = Some(now);
        self.report.answered_ms = Some(self.at(now));
        self.report.call_id = call_id;
        self.state = State::Talking { next_frame: now };
    }

    fn handle_heard(&mut self, now: Instant, heard: Heard) {
        let at_ms = self.at(now);
        match heard {
            Heard::Answered { call_id } => self.answer(now, call_id),
            Heard::Audio { samples, item } => self.hear_audio(now, samples, item),
            Heard::Mark(name) => {
                self.report.marks.push(MarkReport {
                    name: name.clone(),
                    received_ms: at_ms,
                    echoed_ms: None,
                    played: false,
                });
                if let Some(reached) = self.playout.push_mark(name) {
                    self.notice(now, reached);
                }
            }
            Heard::Clear => self.clear(now, None),
            Heard::Keys(keys) => self.report.keys.push(KeysReport { at_ms, keys }),
            Heard::SpeechStarted => self.stop_playback(now),
            Heard::Limit(limit) => {
                if let Some(tap) = &mut self.tap {
                    tap.limited(&limit);
                }
            }
            Heard::ReplyDone => {
                self.reply_is_done = true;
                if let (Some(tap), Some(tokens)) = (&mut self.tap, self.wire.tokens()) {
                    tap.replied(tokens);
                }
            }
            Heard::Transcript { speaker, text } => self.report.transcripts.push(TranscriptReport {
                at_ms,
                speaker,
                text,
            }),
            Heard::Error { code, message } => self.report.errors.push(ErrorReport {
                at_ms,
                code,
                message,
            }),
            Heard::End { reason } => self.report.end_reason = Some(reason),
            Heard::Say(message) => self.send(message),
            Heard::HangUp => {
                self.play(now);
                self.close_socket(now);
            }
            Heard::Violation(text) => self.violation(now, text),
        }
    }

    fn hear_audio(&mut self, now: Instant, samples: Vec<i16>, item: Option<usize>) {
        let received = &mut self.report.received;
        received.audio_messages += 1;
        received.audio_ms += in_ms(self.playout.time_of(samples.len() as u64));
        if let Some(tap) = &mut self.tap {
            tap.hear(now, &samples);
        }
        if let Some((most, text)) = self.wire.most_queued()
            && self.playout.queued() > most
        {
            return self.violation(now, text.to_owned());
        }
        let reply = item.unwrap_or_else(|| self.reply_of_audio_now(now));
        self.reply = Some(reply);
        self.spoke_since_audio = false;
        self.reply_is_done = false;
        let at_ms = self.at(now);
        self.turn_being_answered()
            .first_received_ms
            .get_or_insert(at_ms);
        let was_playing = self.playout.is_playing();
        if let Some(hole) = self.playout.push_audio(now, samples, reply) {
            self.notice(now, hole);
        }
        if !was_playing && self.playout.is_playing() {
            let told = self.wire.playing(true);
            told.into_iter().for_each(|message| self.send(message));
        }
    }

    /// Dialects that do not say what audio belongs to: another reply begins after a clear, and after a pause
    /// in which the caller spoke or that lasted longer than the gap.
    fn reply_of_audio_now(&mut self, now: Instant) -> usize {
        let paused = !self.playout.is_playing()
            && (self.spoke_since_audio
                || self
                    .dry_since
                    .is_some_and(|dry| now - dry >= self.reply_gap));
        match self.reply {
            Some(reply) if !paused => reply,
            _ => {
                self.n_replies += 1;
                self.n_replies - 1
            }
        }
    }

    /// What a client does that owns its playback: the caller speaks, so be silent and say how far it got.
    fn stop_playback(&mut self, now: Instant) {
        let is_playing = self.playout.is_playing();
        let Some(wire) = self.wire.as_realtime() else {
            return;
        };
        let Some(item) = wire.newest_item() else {
            return;
        };
        let progress = self.playout.progress(item);
        if progress.received == 0 {
            return;
        }
        let audio_end_ms = self.playout.time_of(progress.played).as_millis() as u64;
        let cut = wire.truncate(is_playing, audio_end_ms);
        if cut.is_none() && !is_playing {
            return;
        }
        self.reply = Some(item);
        let truncate = cut.map(|cut| {
            self.send(cut.message);
            Truncate {
                item_id: cut.item_id,
                audio_end_ms,
            }
        });
        self.clear(now, truncate);
    }

    fn clear(&mut self, now: Instant, truncate: Option<Truncate>) {
        let at_ms = self.at(now);
        if let Some(tap) = &mut self.tap {
            tap.cleared(now);
        }
        if self.playout.is_playing() {
            let told = self.wire.playing(false);
            told.into_iter().for_each(|message| self.send(message));
        }
        let progress = self.reply.take().map(|reply| self.playout.progress(reply));
        let progress = progress.unwrap_or_default();
        let mut noticed = Vec::new();
        let marks = self.playout.clear(now, &mut noticed);
        for noticed in noticed {
            self.notice(now, noticed);
        }
        for name in &marks {
            self.echo(now, name, false);
        }
        self.report.clears.push(Clear {
            at_ms,
            played_ms: in_ms(self.playout.time_of(progress.played)),
            received_ms: in_ms(self.playout.time_of(progress.received)),
            marks,
            truncate,
        });
        self.interrupted(at_ms, |barge_in, after| {
            barge_in.clear_after_ms.get_or_insert(after);
            barge_in.silence_after_ms.get_or_insert(after);
        });
    }

    /// Plays what is due and reports what the ear noticed.
    fn play(&mut self, now: Instant) {
        let mut noticed = Vec::new();
        self.playout.advance(now, &mut noticed);
        for noticed in noticed {
            self.notice(now, noticed);
        }
    }

    fn notice(&mut self, now: Instant, noticed: Noticed) {
        match noticed {
            Noticed::Mark(name) => self.echo(now, &name, true),
            Noticed::Voiced { from, until } => self.hear_voice(from, until),
            Noticed::Dry { at } => {
                self.dry_since = Some(at);
                let told = self.wire.playing(false);
                told.into_iter().for_each(|message| self.send(message));
                let at_ms = self.at(at);
                self.interrupted(at_ms, |barge_in, after| {
                    barge_in.silence_after_ms.get_or_insert(after);
                });
            }
            Noticed::Underrun { from, until } => self.report.underruns.push(Underrun {
                at_ms: self.at(from),
                gap_ms: in_ms(until - from),
            }),
        }
    }

    fn hear_voice(&mut self, from: Instant, until: Instant) {
        let (from_ms, answered_ms) = (self.at(from), self.report.answered_ms);
        self.voiced += until - from;
        self.voiced_until = Some(until);
        let turn = self.turn_being_answered();
        turn.reply_voiced_ms += in_ms(until - from);
        if turn.first_heard_ms.is_none() {
            turn.first_heard_ms = Some(from_ms);
            let since = turn.speech_end_ms.or(answered_ms);
            turn.latency_ms = since.map(|since| round_to_us(from_ms - since));
        }
    }

    /// The turn that replies belong to: the last that the caller has finished, or the greeting.
    fn turn_being_answered(&mut self) -> &mut Turn {
        let turns = &mut self.report.turns;
        let is_answered =
            |turn: &Turn| turn.speech_end_ms.is_some() || turn.speech_start_ms.is_none();
        let index = turns.iter().rposition(is_answered).unwrap_or_else(|| {
            turns.insert(0, Turn::default());
            0
        });
        &mut turns[index]
    }

    fn interrupted(&mut self, at_ms: f64, note: impl FnOnce(&mut BargeIn, f64)) {
        let Some(turn) = self.report.turns.last_mut() else {
            return;
        };
        if let (Some(barge_in), Some(start)) = (&mut turn.barge_in, turn.speech_start_ms) {
            note(barge_in, round_to_us(at_ms - start));
        }
    }

    fn echo(&mut self, now: Instant, name: &str, played: bool) {
        let at_ms = self.at(now);
        let message = self.wire.mark(name, played);
        // Marks are reached and thrown away in the order in which they came.
        if let Some(mark) = self.report.marks.get_mut(self.n_marks_settled) {
            self.n_marks_settled += 1;
            mark.echoed_ms = message.is_some().then_some(at_ms);
            mark.played = played;
        }
        if let Some(message) = message {
            self.send(message);
        }
    }

    /// Sends the frames that are due.
    fn talk(&mut self, now: Instant) {
        while let State::Talking { next_frame } = self.state
            && next_frame <= now
        {
            self.state = State::Talking {
                next_frame: next_frame + STEP,
            };
            self.talk_once(next_frame, now);
        }
    }

    /// Latencies count from when a frame was due: a phone that comes late must not make the gateway look fast.
    fn talk_once(&mut self, due: Instant, now: Instant) {
        if self.tap.as_mut().is_some_and(|tap| tap.wants_to_hang_up()) {
            return self.hang_up(now);
        }
        let ear = self.ear(now);
        let mut frame = std::mem::take(&mut self.frame);
        let doings = self.script.next_frame(now, ear, &mut frame);
        if let Some(text) = doings.failure {
            let at_ms = self.at(now);
            self.report.script_failures.push(Note { at_ms, text });
        }
        if doings.hang_up {
            return self.hang_up(now);
        }
        for heard in self.wire.due(now - self.opened) {
            self.handle_heard(now, heard);
        }
        if let Some(tap) = &mut self.tap {
            tap.speak(due, now, &mut frame);
        }
        if let Some(message) = self.wire.audio(&frame) {
            self.send(message);
            self.report.sent.audio_messages += 1;
        }
        self.frame = frame;
        self.report.sent.audio_ms += in_ms(STEP);
        if doings.speech_began {
            self.begin_speech(due);
        }
        if doings.speech_ended {
            self.end_speech(due);
        }
        if let Some(message) = doings.message {
            self.send(message);
        }
        if let Some(digit) = doings.dtmf {
            self.press(now, digit);
        }
    }

    fn begin_speech(&mut self, now: Instant) {
        let turn = Turn {
            speech_start_ms: Some(self.at(now)),
            barge_in: self.playout.is_playing().then(BargeIn::default),
            ..Turn::default()
        };
        self.report.turns.push(turn);
    }

    fn end_speech(&mut self, now: Instant) {
        let at_ms = self.at(now);
        let is_playing = self.playout.is_playing();
        if let Some(turn) = self.report.turns.last_mut() {
            turn.speech_end_ms = Some(at_ms);
            turn.overlapped = is_playing;
        }
        self.spoke_since_audio = true;
        self.voiced = Duration::ZERO;
        self.voiced_until = None;
        self.played_before = self.playout.played();
    }

    fn press(&mut self, now: Instant, digit: char) {
        match self.wire.dtmf(digit) {
            Some(message) => self.send(message),
            None => {
                let at_ms = self.at(now);
                let text = format!("this dialect has no keys, {digit} was not sent");
                self.report.script_failures.push(Note { at_ms, text });
            }
        }
    }

    fn ear(&self, now: Instant) -> Ear {
        let is_quiet = self
            .voiced_until
            .is_some_and(|until| now.saturating_duration_since(until) >= self.reply_gap);
        // A realtime server says when it has said all; elsewhere only silence tells.
        let may_go_on = self.report.dialect == Dialect::Realtime
            && (!self.reply_is_done || self.playout.is_playing());
        Ear {
            voiced: self.voiced,
            played: self.playout.played() - self.played_before,
            is_over: is_quiet && !may_go_on,
        }
    }

    fn hang_up(&mut self, now: Instant) {
        if let Some(farewell) = self.wire.farewell() {
            self.send(farewell);
        }
        if self.wire.waits_for_farewell() {
            self.report.close = Some(CloseReport {
                by: Side::Caller,
                code: None,
                reason: String::new(),
            });
            self.state = State::TakingLeave {
                until: now + CLOSE_TIMEOUT,
            };
            return;
        }
        self.close_socket(now);
    }

    fn close_socket(&mut self, now: Instant) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.outbox.push(Message::Close(Some(frame)));
        self.report.close = Some(CloseReport {
            by: Side::Caller,
            code: None,
            reason: String::new(),
        });
        self.end(now);
        self.state = State::HungUp {
            until: now + CLOSE_TIMEOUT,
        };
    }

    /// The gateway's close frame: its own, or the answer to the phone's.
    fn closed(&mut self, now: Instant, frame: Option<&CloseFrame>) {
        let by = match self.state {
            State::HungUp { .. } => Side::Caller,
            State::TakingLeave { .. } => Side::Caller,
            State::Ringing { .. } | State::Talking { .. } | State::Over => Side::Gateway,
        };
        if by == Side::Gateway {
            self.play(now);
            self.end(now);
        }
        self.report.close = Some(CloseReport {
            by,
            code: frame.map(|frame| frame.code.into()),
            reason: frame.map_or(String::new(), |frame| frame.reason.to_string()),
        });
        if self.answered.is_none() && by == Side::Gateway {
            self.fail("the gateway closed before it answered the call".to_owned());
        }
        // A script that only waited for this end has come to its own.
        self.script.ended_by_other_side();
        self.state = State::Over;
    }

    fn end(&mut self, now: Instant) {
        self.report.ended_ms = self.at(now);
        if let Some(mut tap) = self.tap.take() {
            tap.ended(now);
        }
        // What waited is heard by nobody.
        let mut noticed = Vec::new();
        self.playout.clear(now, &mut noticed);
        for noticed in noticed {
            self.notice(now, noticed);
        }
    }

    fn send(&mut self, message: Message) {
        self.report.sent.messages += 1;
        self.outbox.push(message);
    }

    fn fail(&mut self, failure: String) {
        self.report.failure.get_or_insert(failure);
    }

    fn violation(&mut self, now: Instant, text: String) {
        let at_ms = self.at(now);
        self.report.violations.push(Note { at_ms, text });
    }

    fn at(&self, now: Instant) -> f64 {
        in_ms(now.saturating_duration_since(self.dialled))
    }
}

/// The recording with its holes as silence, beginning at the answer.
fn in_time(recording: &Recording, answered: Instant, rate: u32) -> Clip {
    let mut samples = Vec::new();
    let mut rest = &recording.samples[..];
    for stretch in &recording.stretches {
        let offset = stretch.started.saturating_duration_since(answered);
        let start = (offset.as_secs_f64() * f64::from(rate)).round() as usize;
        samples.resize(start.max(samples.len()), 0);
        let (sounded, later) = rest.split_at(stretch.n_samples.min(rest.len()));
        samples.extend_from_slice(sounded);
        rest = later;
    }
    Clip::new(samples, rate)
}

/// Differences of times that are exact to the microsecond, without the noise of floating point.
fn round_to_us(ms: f64) -> f64 {
    (ms * 1_000.0).round() / 1_000.0
}
