//! What a call was like, seen from the phone: for people as a timeline, for programs as JSON.
//!
//! All times are milliseconds since the phone began to dial, all durations milliseconds of audio or of time.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::judge;
use super::phone_dialect::{Dialect, TokenTotals};
use super::wav::Clip;

/// A call's report.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
    /// The address that was called.
    pub url: String,
    /// The wire format.
    pub dialect: Dialect,
    /// The gateway refused before the upgrade.
    pub refusal: Option<Refusal>,
    /// The call could not be made or broke; `None` if it ended in an orderly way.
    pub failure: Option<String>,
    /// When the socket was open.
    pub upgraded_ms: Option<f64>,
    /// When audio could flow.
    pub answered_ms: Option<f64>,
    /// The call's name: the provider's `CallSid` (twilio), the gateway's (audio) or the session's (realtime).
    pub call_id: Option<String>,
    /// What was said back and forth; a greeting is a turn without speech.
    pub turns: Vec<Turn>,
    /// Each order to drop what was not played.
    pub clears: Vec<Clear>,
    /// Each mark.
    pub marks: Vec<MarkReport>,
    /// Keys that the gateway pressed.
    pub keys: Vec<KeysReport>,
    /// What the gateway said was said.
    pub transcripts: Vec<TranscriptReport>,
    /// Failures that the gateway reported.
    pub errors: Vec<ErrorReport>,
    /// Where the gateway broke the rules of the dialect.
    pub violations: Vec<Note>,
    /// Where the script did not go as written.
    pub script_failures: Vec<Note>,
    /// Holes in the middle of a reply.
    pub underruns: Vec<Underrun>,
    /// Was every act of the script done?
    pub script_done: bool,
    /// Why the gateway ended the call, in the dialect's words.
    pub end_reason: Option<String>,
    /// How the socket was closed.
    pub close: Option<CloseReport>,
    /// When the call was over.
    pub ended_ms: f64,
    /// What the phone sent.
    pub sent: Traffic,
    /// What the phone received.
    pub received: Traffic,
    /// Tokens, where the dialect tells.
    pub tokens: Option<TokenTotals>,
    /// What was heard, measured.
    pub heard: HeardAudio,
    /// What was heard, without the holes: every sample that was played. Empty if it was not to be kept.
    #[serde(skip)]
    pub audio: Option<Clip>,
    /// What was heard as it was in time, from the answer on, silence where nothing was played.
    #[serde(skip)]
    pub audio_in_time: Option<Clip>,
}

/// The answer to the upgrade request, if it was not the upgrade.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, if it was sent.
    pub retry_after: Option<String>,
    /// The body, at most 64 KiB of it.
    pub body: String,
}

/// The caller says something, the gateway says something.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Turn {
    /// First voiced frame sent. `None`: the gateway spoke first.
    pub speech_start_ms: Option<f64>,
    /// Last voiced frame sent.
    pub speech_end_ms: Option<f64>,
    /// First frame of the reply received, voiced or not.
    pub first_received_ms: Option<f64>,
    /// First voiced 20 ms of the reply began to sound.
    pub first_heard_ms: Option<f64>,
    /// From the end of speech (greeting: from the answer) to the first voiced 20 ms.
    pub latency_ms: Option<f64>,
    /// Voiced audio of the reply.
    pub reply_voiced_ms: f64,
    /// An older reply still sounded when the caller had finished: latency and reply may be that one's.
    pub overlapped: bool,
    /// The caller began to speak while a reply sounded.
    pub barge_in: Option<BargeIn>,
}

/// An interruption.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BargeIn {
    /// From the first voiced frame sent to the order to drop what was not played.
    pub clear_after_ms: Option<f64>,
    /// From there to silence, whatever brought it.
    pub silence_after_ms: Option<f64>,
}

/// An order to drop what was not played. In the realtime dialect that is the phone's own decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clear {
    /// When it came.
    pub at_ms: f64,
    /// So much of the reply had sounded.
    pub played_ms: f64,
    /// So much of it had been received.
    pub received_ms: f64,
    /// Marks that were thrown away with it.
    pub marks: Vec<String>,
    /// The cut that was reported; realtime dialect only.
    pub truncate: Option<Truncate>,
}

/// A `conversation.item.truncate` that the phone sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truncate {
    /// The item.
    pub item_id: String,
    /// Where it was cut.
    pub audio_end_ms: u64,
}

/// A mark's life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarkReport {
    /// Its name.
    pub name: String,
    /// When it came.
    pub received_ms: f64,
    /// When it was echoed; `None` if it never was, as with a cleared mark of the audio dialect.
    pub echoed_ms: Option<f64>,
    /// Whether what was before it had sounded (else it was cleared). Providers do not tell; the phone knows.
    pub played: bool,
}

/// Keys that the gateway pressed towards the line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeysReport {
    /// When.
    pub at_ms: f64,
    /// Which, in order.
    pub keys: String,
}

/// Words, as the gateway understood or said them.
#[derive(Clone, Debug, Serialize)]
pub struct TranscriptReport {
    /// When it came.
    pub at_ms: f64,
    /// `caller` or `assistant`.
    pub speaker: String,
    /// The words.
    pub text: String,
}

/// A failure that the gateway reported.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// When it came.
    pub at_ms: f64,
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Note {
    /// When.
    pub at_ms: f64,
    /// What.
    pub text: String,
}

/// A hole in the middle of a reply.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Underrun {
    /// When it began.
    pub at_ms: f64,
    /// How long it lasted.
    pub gap_ms: f64,
}

/// The close of the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CloseReport {
    /// Who closed first.
    pub by: Side,
    /// Close code; `None` if the frame had none.
    pub code: Option<u16>,
    /// Close reason.
    pub reason: String,
}

/// A side of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The phone.
    Caller,
    /// The other side.
    Gateway,
}

/// Messages of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// All data messages.
    pub messages: u64,
    /// Those with audio.
    pub audio_messages: u64,
    /// How much audio.
    pub audio_ms: f64,
}

/// What was heard, measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HeardAudio {
    /// Everything that was played.
    pub played_ms: f64,
    /// Voiced parts of it, louder than -45 dBFS.
    pub voiced_ms: f64,
    /// Level of the voiced parts, in dBFS.
    pub level_dbfs: f64,
}

impl CallReport {
    /// The report of a call of which nothing is known yet.
    pub(crate) fn new(url: String, dialect: Dialect) -> Self {
        Self {
            url,
            dialect,
            refusal: None,
            failure: None,
            upgraded_ms: None,
            answered_ms: None,
            call_id: None,
            turns: Vec::new(),
            clears: Vec::new(),
            marks: Vec::new(),
            keys: Vec::new(),
            transcripts: Vec::new(),
            errors: Vec::new(),
            violations: Vec::new(),
            script_failures: Vec::new(),
            underruns: Vec::new(),
            script_done: false,
            end_reason: None,
            close: None,
            ended_ms: 0.0,
            sent: Traffic::default(),
            received: Traffic::default(),
            tokens: None,
            heard: HeardAudio {
                level_dbfs: judge::SILENCE_DBFS,
                ..HeardAudio::default()
            },
            audio: None,
            audio_in_time: None,
        }
    }

    /// Was the caller heard, and the reply? True if something that the caller said was answered by at least
    /// 300 ms of voiced audio. A greeting alone proves only one direction.
    #[must_use]
    pub fn is_heard_both_ways(&self) -> bool {
        const ENOUGH_MS: f64 = 300.0;
        self.turns.iter().any(|turn| {
            turn.speech_end_ms.is_some() && !turn.overlapped && turn.reply_voiced_ms >= ENOUGH_MS
        })
    }

    fn lines(&self) -> Vec<(f64, String)> {
        let mut lines = vec![(0.0, format!("dial {} ({})", self.url, self.dialect.name()))];
        let mut line = |at: Option<f64>, text: String| lines.extend(at.map(|at| (at, text)));
        line(self.upgraded_ms, "connected".to_owned());
        let id = self.call_id.as_deref();
        let id = id.map_or(String::new(), |id| format!(", call {id}"));
        line(self.answered_ms, format!("answered{id}"));
        for turn in &self.turns {
            turn.describe(&mut line);
        }
        for clear in &self.clears {
            line(Some(clear.at_ms), clear.to_string());
        }
        for KeysReport { at_ms, keys } in &self.keys {
            line(Some(*at_ms), format!("keys pressed: {keys}"));
        }
        for transcript in &self.transcripts {
            let TranscriptReport { speaker, text, .. } = transcript;
            line(Some(transcript.at_ms), format!("{speaker}: \"{text}\""));
        }
        for error in &self.errors {
            let ErrorReport { code, message, .. } = error;
            line(
                Some(error.at_ms),
                format!("gateway reports {code}: {message}"),
            );
        }
        for note in &self.violations {
            line(Some(note.at_ms), format!("PROTOCOL ERROR {}", note.text));
        }
        for note in &self.script_failures {
            line(Some(note.at_ms), note.text.clone());
        }
        for hole in &self.underruns {
            line(
                Some(hole.at_ms),
                format!("underrun of {:.1} ms", hole.gap_ms),
            );
        }
        line(Some(self.ended_ms), self.end());
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines
    }

    fn end(&self) -> String {
        if let Some(refusal) = &self.refusal {
            return format!(
                "refused with HTTP {}: {}",
                refusal.status,
                refusal.body.trim()
            );
        }
        if let Some(failure) = &self.failure {
            return format!("FAILED: {failure}");
        }
        let mut text = "call over".to_owned();
        if let Some(close) = &self.close {
            text += match close.by {
                Side::Caller => ", caller hung up",
                Side::Gateway => ", gateway hung up",
            };
            if let Some(code) = close.code {
                text += &format!(", close code {code} {}", close.reason);
            }
        }
        if let Some(reason) = &self.end_reason {
            text += &format!(", reason: {reason}");
        }
        text.trim_end().to_owned()
    }
}

impl Turn {
    fn describe(&self, line: &mut impl FnMut(Option<f64>, String)) {
        let interrupting = if self.barge_in.is_some() {
            ", interrupting"
        } else {
            ""
        };
        line(self.speech_start_ms, format!("caller speaks{interrupting}"));
        let said = self.speech_end_ms.zip(self.speech_start_ms);
        let said = said.map_or(0.0, |(end, start)| end - start);
        line(self.speech_end_ms, format!("caller spoke for {said:.0} ms"));
        let since = match (self.speech_end_ms, self.overlapped) {
            (None, _) => "after the answer",
            (Some(_), false) => "after the caller's last word",
            (Some(_), true) => "after the caller's last word (an older reply still sounded)",
        };
        line(
            self.first_heard_ms,
            format!(
                "first audio heard, {:.0} ms {since}; {:.0} ms of speech follow",
                self.latency_ms.unwrap_or_default(),
                self.reply_voiced_ms
            ),
        );
        if let (Some(barge_in), Some(start)) = (&self.barge_in, self.speech_start_ms) {
            if let Some(after) = barge_in.clear_after_ms {
                line(
                    Some(start + after),
                    format!("cleared {after:.0} ms after barge-in"),
                );
            }
            let silence = barge_in.silence_after_ms;
            if let Some(after) = silence.filter(|_| silence != barge_in.clear_after_ms) {
                line(
                    Some(start + after),
                    format!("silent {after:.0} ms after barge-in"),
                );
            }
        }
    }
}

impl fmt::Display for Clear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "playback dropped at {:.0} ms of {:.0} ms received",
            self.played_ms, self.received_ms
        )?;
        match &self.truncate {
            Some(cut) => write!(f, ", {} truncated at {} ms", cut.item_id, cut.audio_end_ms),
            None => Ok(()),
        }
    }
}

/// The timeline for people.
impl fmt::Display for CallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in self.lines() {
            writeln!(f, "{at:>9.1} ms  {text}")?;
        }
        let (heard, sent, received) = (&self.heard, &self.sent, &self.received);
        writeln!(
            f,
            "sent {} messages ({:.0} ms of audio), received {} ({:.0} ms); heard {:.0} ms, {:.0} ms of it speech at {:.1} dBFS",
            sent.messages,
            sent.audio_ms,
            received.messages,
            received.audio_ms,
            heard.played_ms,
            heard.voiced_ms,
            heard.level_dbfs
        )?;
        let n_played = self.marks.iter().filter(|mark| mark.played).count();
        write!(
            f,
            "{} marks ({n_played} played), {} clears, {} underruns, {} protocol errors",
            self.marks.len(),
            self.clears.len(),
            self.underruns.len(),
            self.violations.len()
        )?;
        if let Some(tokens) = self.tokens {
            write!(
                f,
                "\n{} responses, {} tokens read ({} cached), {} written",
                tokens.responses, tokens.input, tokens.cached, tokens.output
            )?;
        }
        Ok(())
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn in_ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> CallReport {
        let mut report = CallReport::new("ws://h/v1/audio/a".into(), Dialect::Audio);
        report.answered_ms = Some(3.0);
        report.turns.push(Turn {
            speech_start_ms: Some(10.0),
            speech_end_ms: Some(2_010.0),
            first_heard_ms: Some(2_510.0),
            latency_ms: Some(500.0),
            reply_voiced_ms: 300.0,
            ..Turn::default()
        });
        report.ended_ms = 4_000.0;
        report
    }

    #[test]
    fn both_ways_needs_an_answer_to_something_said() {
        let check = |change: fn(&mut Turn), expected| {
            let mut report = report();
            change(&mut report.turns[0]);
            assert_eq!(report.is_heard_both_ways(), expected);
        };
        check(|_| {}, true);
        check(|turn| turn.speech_end_ms = None, false);
        check(|turn| turn.reply_voiced_ms = 299.0, false);
        check(|turn| turn.overlapped = true, false);
    }

    #[test]
    fn the_timeline_is_in_the_order_of_time() {
        let text = report().to_string();
        let positions: Vec<_> = [
            "dial ",
            "answered",
            "caller speaks",
            "500 ms after",
            "call over",
        ]
        .map(|part| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part} in {text}"))
        })
        .into();
        assert!(positions.is_sorted(), "{text}");
    }

    #[test]
    fn json_carries_the_same() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["dialect"], "audio");
        assert_eq!(json["turns"][0]["latency_ms"], 500.0);
        assert!(json.get("audio").is_none());
    }
}
