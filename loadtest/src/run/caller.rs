//! One call of a run, from when it is due to its line in the report.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;
use trunkline::simulator::CallReport;
use trunkline::simulator::phone_dial::DialError;
use trunkline::simulator::phone_timeline::{Side, Turn};

use super::Shared;
use super::ear::{Ear, Impression};
use crate::measure::{Measure, Measures};
use crate::report::{CallRow, Counts, RunReport, Tokens};
use crate::scenario::Answer;

impl Shared {
    /// Makes the call with this number and reports it.
    pub(super) async fn place(self: Arc<Self>, n: u64, due: Instant) {
        let live = {
            let mut live = self.live();
            live.insert(n, due);
            live.len() as u64
        };
        {
            let mut report = self.report();
            report.counts.begun += 1;
            report.counts.most_live = report.counts.most_live.max(live);
        }
        let begun = Instant::now();
        // Processes that share a scenario must not share the numbers of calls, nor what callers do and the ids they show.
        let code = n * u64::from(self.part.of) + u64::from(self.part.index);
        let seed = self.scenario.seed ^ (code + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = fastrand::Rng::with_seed(seed);
        let script = self.scenario.call.script(&self.voices, &mut random);
        let phone = self.phone.clone().script(script).seed(seed);
        let line = self.lines.open(phone.uri()).await;
        let connected = Instant::now();
        match line {
            Ok(line) => {
                let (ear, impression) = Ear::new(&self, code, due);
                let call = phone.call_tapped(line, due, Box::new(ear)).await;
                let impression = impression.take();
                self.note(n, due, begun, connected, &call, impression);
            }
            Err(error) => self.note_no_line(n, due, begun, &error),
        }
        self.live().remove(&n);
    }

    fn note_no_line(&self, n: u64, due: Instant, begun: Instant, error: &DialError) {
        let cause = match error {
            DialError::Authorities { .. } => "certificates",
            DialError::Host(_) => "host",
            DialError::Connect { .. } => "connect",
            DialError::Tls { .. } => "tls",
            DialError::Timeout { .. } => "connect timeout",
        };
        let mut report = self.report();
        report.record(Measure::StartLag, us(begun - due));
        report.counts.failed += 1;
        report.error(cause, &error.to_string());
        report.calls.push(CallRow {
            n,
            at_s: (due - self.start).as_secs_f64(),
            outcome: cause.to_owned(),
            length_ms: due.elapsed().as_secs_f64() * 1e3,
            ..CallRow::default()
        });
    }

    fn note(
        &self,
        n: u64,
        due: Instant,
        begun: Instant,
        connected: Instant,
        call: &CallReport,
        impression: Impression,
    ) {
        let outcome = outcome(call, impression.was_told_to_hang_up);
        let mut measures = Measures::default();
        let mut row = CallRow {
            n,
            at_s: (due - self.start).as_secs_f64(),
            set_up_ms: call.answered_ms,
            length_ms: call.ended_ms,
            underruns: call.underruns.len() as u64,
            frames: impression.frames,
            frames_up_us: impression.frames_up_us,
            frames_down_ms: impression.frames_down_ms,
            ..CallRow::default()
        };
        measures.record(Measure::StartLag, us(begun - due));
        measures.record(Measure::Connect, us(connected - begun));
        phases(call, (connected - due).as_secs_f64() * 1e3, &mut measures);
        let mut counts = Counts {
            answered: u64::from(call.answered_ms.is_some()),
            underruns: row.underruns,
            messages_sent: call.sent.messages,
            messages_received: call.received.messages,
            call_ms: call
                .answered_ms
                .map_or(0, |at| (call.ended_ms - at).max(0.0) as u64),
            ..Counts::default()
        };
        for hole in &call.underruns {
            measures.record(Measure::Underrun, us_of(hole.gap_ms));
        }
        let is_echo = self.scenario.call.answer == Answer::Echo;
        if !is_echo {
            let cut_short = impression.was_told_to_hang_up || outcome.is_err();
            self.note_turns(call, cut_short, &mut row, &mut counts, &mut measures);
        }
        let tokens = call.tokens.map(|it| Tokens {
            responses: it.responses,
            input: it.input,
            cached: it.cached,
            output: it.output,
        });
        row.tokens = tokens.map_or(0, |it| it.total());
        row.outcome = match &outcome {
            Ok(()) => "completed".to_owned(),
            Err(ending) => ending.cause.clone(),
        };
        let mut report = self.report();
        match &outcome {
            Ok(()) => counts.completed = 1,
            Err(_) if call.refusal.is_some() => counts.refused = 1,
            Err(_) => counts.failed = 1,
        }
        if let Err(ending) = &outcome {
            report.error(&ending.cause, &ending.detail);
        }
        note_errors(call, &mut report);
        report.counts.add(&counts);
        report.frames += impression.frames;
        report.tokens.add(&tokens.unwrap_or_default());
        report.measures.add(&measures);
        report.calls.push(row);
    }

    fn note_turns(
        &self,
        call: &CallReport,
        cut_short: bool,
        row: &mut CallRow,
        counts: &mut Counts,
        measures: &mut Measures,
    ) {
        let offset_s = row.at_s;
        for (index, turn) in call.turns.iter().enumerate() {
            let Some(end_ms) = turn.speech_end_ms else {
                note_greeting(call, turn, measures);
                continue;
            };
            if let Some(barge_in) = &turn.barge_in {
                counts.barge_ins += 1;
                record(measures, Measure::BargeInClear, barge_in.clear_after_ms);
                record(measures, Measure::BargeInSilence, barge_in.silence_after_ms);
                row.barge_ins_ms.extend(barge_in.silence_after_ms);
            }
            let next = call.turns.get(index + 1);
            let until_ms = next.and_then(|next| next.speech_start_ms);
            let gave_up = waited_in_vain(call, end_ms..until_ms.unwrap_or(f64::INFINITY));
            // An interruption may come before the first voice in a reply. Silence alone is none to who waits for it.
            let came = turn.first_received_ms.is_some() && !gave_up;
            let is_answered = turn.latency_ms.is_some() || came;
            // Who hangs up early, or is hung up on, cannot know whether a reply would have come.
            if !is_answered && !gave_up && cut_short && next.is_none() {
                continue;
            }
            counts.turns += 1;
            counts.turns_answered += u64::from(is_answered);
            row.turns_answered += u64::from(is_answered);
            // What still sounded from before says nothing of this turn.
            let latency = turn.latency_ms.filter(|_| !turn.overlapped);
            record(measures, Measure::TurnLatency, latency);
            let first = turn.first_received_ms.filter(|_| !turn.overlapped);
            let first = first.map(|at| at - end_ms);
            record(measures, Measure::FirstAudio, first);
            row.first_audio_ms.extend(first);
            row.turns.push((offset_s + end_ms / 1e3, latency));
        }
    }
}

fn note_greeting(call: &CallReport, turn: &Turn, measures: &mut Measures) {
    if turn.speech_start_ms.is_none() {
        let greeting = turn.first_received_ms.zip(call.answered_ms);
        record(
            measures,
            Measure::Greeting,
            greeting.map(|(at, answered)| at - answered),
        );
    }
}

/// Set-up by phase; `connected_ms` since the call was due.
fn phases(call: &CallReport, connected_ms: f64, measures: &mut Measures) {
    let upgrade = call.upgraded_ms.map(|at| at - connected_ms);
    record(measures, Measure::Upgrade, upgrade);
    let ready = call.upgraded_ms.zip(call.answered_ms);
    record(
        measures,
        Measure::SessionReady,
        ready.map(|(upgraded, answered)| answered - upgraded),
    );
    record(measures, Measure::SetUp, call.answered_ms);
}

/// Why a call did not go as the caller wanted.
struct Ending {
    /// From a small set.
    cause: String,
    /// In full, in the phone's words or the target's.
    detail: String,
}

impl Ending {
    fn because(cause: impl Into<String>, detail: &str) -> Self {
        Self {
            cause: cause.into(),
            detail: detail.to_owned(),
        }
    }
}

/// How the call went.
fn outcome(call: &CallReport, was_told_to_hang_up: bool) -> Result<(), Ending> {
    if let Some(refusal) = &call.refusal {
        let cause = format!("refused {}", refusal.status);
        return Err(Ending::because(cause, &refusal.body));
    }
    if let Some(failure) = &call.failure {
        return Err(Ending::because(failure_cause(failure), failure));
    }
    if let Some(close) = call
        .close
        .as_ref()
        .filter(|close| close.by == Side::Gateway)
    {
        let code = close
            .code
            .map_or("without code".to_owned(), |code| code.to_string());
        let cause = format!("closed by the target, {code}");
        return Err(Ending::because(cause, &close.reason));
    }
    if waited_in_vain(call, 0.0..f64::INFINITY) && !was_told_to_hang_up {
        return Err(Ending::because("no reply in time", ""));
    }
    Ok(())
}

/// Whether the caller's patience ended in that time, in ms.
fn waited_in_vain(call: &CallReport, when: Range<f64>) -> bool {
    let mut notes = call.script_failures.iter();
    notes.any(|note| note.text.starts_with("waited") && when.contains(&note.at_ms))
}

/// What the phone says in full, in a few words.
fn failure_cause(failure: &str) -> &'static str {
    const CAUSES: [(&str, &str); 7] = [
        ("no answer to the upgrade", "upgrade timeout"),
        ("the upgrade failed", "upgrade"),
        ("the gateway took the socket", "not answered"),
        ("the gateway closed before", "closed before the answer"),
        ("the connection broke", "connection broke"),
        ("the gateway stopped reading", "target stopped reading"),
        ("the phone does not speak", "codec"),
    ];
    let known = CAUSES.iter().find(|(start, _)| failure.starts_with(start));
    known.map_or("other failure", |(_, cause)| cause)
}

/// What did not end the call. Codes are the target's words: only the first hundred different ones are kept apart.
fn note_errors(call: &CallReport, report: &mut RunReport) {
    const MOST: usize = 100;
    let mut note = |cause: String, detail: &str| {
        if report.errors.len() < MOST || report.errors.contains_key(&cause) {
            report.error(&cause, detail);
        } else {
            report.error("other errors", detail);
        }
    };
    for error in &call.errors {
        let code: String = error.code.chars().take(60).collect();
        note(format!("reported: {code}"), &error.message);
    }
    if !call.violations.is_empty() {
        let text: String = call.violations[0].text.chars().take(80).collect();
        note(format!("protocol: {text}"), &call.violations[0].text);
    }
}

fn record(measures: &mut Measures, measure: Measure, ms: Option<f64>) {
    if let Some(ms) = ms {
        measures.record(measure, us_of(ms));
    }
}

fn us_of(ms: f64) -> u64 {
    (ms * 1e3).max(0.0) as u64
}

fn us(time: std::time::Duration) -> u64 {
    time.as_micros() as u64
}
