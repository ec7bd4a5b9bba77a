//! The caller's audio: buffer, turns, barge-in, transcripts (reference chapters 5.2, 5.3, 5.6 and 5.8).

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codec::{Audio, WireFormat, convert};
use super::config::{FaultKind, Shape};
use super::conversation::{Body, Item, Part, Role, text_tokens, user_audio_tokens};
use super::error::ApiError;
use super::events::with;
use super::options::ResponseOptions;
use super::quirks::{BadInput, OddBytes};
use super::schema::{TurnDetection, TurnMode};
use super::session::{Session, SessionKind};
use super::vad::{TICKS_PER_MS, VadEvent, VadSettings};
use trunkline_media::SampleRate;

/// At most 15 MiB of audio in one append.
const MAX_APPEND_BYTES: usize = 15 << 20;
/// Less is refused by commit.
const MIN_COMMIT_MS: f64 = 100.0;
/// Audio that the buffer holds with turn detection off; the vendor states no limit, a process needs one.
const MAX_BUFFERED_MS: u64 = 30 * 60 * 1_000;
/// Silence kept before an onset beyond the prefix, and how much more may pile up between two trims.
const KEPT_SILENCE_MS: u64 = 1_000;
/// Defaults of semantic turn detection, which has no fields for them.
const SEMANTIC_PREFIX_MS: u64 = 300;
const SEMANTIC_SILENCE_MS: u64 = 300;

/// Audio appended and not yet committed.
#[derive(Debug)]
pub(super) struct InputBuffer {
    samples: Vec<i16>,
    rate: SampleRate,
    /// Buffer clock at the first sample.
    start: u64,
    /// First half of a PCM16 sample that an append tore apart.
    odd: Option<u8>,
}

impl Default for InputBuffer {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            rate: SampleRate::HZ_24000,
            start: 0,
            odd: None,
        }
    }
}

impl InputBuffer {
    pub(super) fn change_rate(&mut self, rate: SampleRate) {
        self.samples = convert(&self.samples, self.rate, rate);
        self.rate = rate;
        self.odd = None;
    }

    fn decode(&mut self, mut bytes: Vec<u8>, format: WireFormat) -> Vec<i16> {
        if format == WireFormat::Pcm16 {
            if let Some(odd) = self.odd.take() {
                bytes.insert(0, odd);
            }
            if bytes.len() % 2 == 1 {
                self.odd = bytes.pop();
            }
        }
        format.decode(&bytes)
    }

    fn ticks_per_sample(&self) -> u64 {
        24_000 / u64::from(self.rate.hz())
    }

    fn index_of(&self, tick: u64) -> usize {
        let n = tick.saturating_sub(self.start) / self.ticks_per_sample();
        usize::try_from(n)
            .unwrap_or(usize::MAX)
            .min(self.samples.len())
    }

    /// Takes the stretch between two ticks and forgets what is before it.
    fn take(&mut self, from: u64, to: u64) -> Audio {
        let (from, to) = (self.index_of(from), self.index_of(to));
        let audio = self.samples[from.min(to)..to].to_vec();
        self.forget(to);
        Audio::new(audio, self.rate)
    }

    fn forget(&mut self, n_samples: usize) {
        self.samples.drain(..n_samples);
        self.start += n_samples as u64 * self.ticks_per_sample();
    }

    /// Keeps the last `kept_ms`, once as much again has piled up, so that samples are moved seldom.
    fn trim(&mut self, kept_ms: u64, slack_ms: u64) {
        let per_ms = u64::from(self.rate.hz()) / 1_000;
        let len = self.samples.len() as u64;
        if len > (kept_ms + slack_ms) * per_ms {
            self.forget((len - kept_ms * per_ms) as usize);
        }
    }
}

/// A turn that VAD has heard the beginning of.
#[derive(Debug)]
pub(super) struct SpeechTurn {
    item_id: String,
    /// Onset less prefix.
    start: u64,
}

/// A transcription event that will be sent.
#[derive(Debug)]
pub(super) struct PendingTranscript {
    pub(super) at: Instant,
    item_id: String,
    kind: TranscriptKind,
}

#[derive(Debug)]
enum TranscriptKind {
    Delta(String),
    Completed { text: String, audio_ms: u64 },
    Failed,
}

impl Session {
    pub(super) fn append(&mut self, audio: &str, now: Instant) -> Result<(), ApiError> {
        // Checked before decoding: base64 is four thirds of the audio.
        if audio.len() / 4 * 3 > MAX_APPEND_BYTES + 2 {
            return Err(ApiError::invalid(
                "audio",
                "at most 15 MiB of audio may be appended at once",
            ));
        }
        let Ok(bytes) = STANDARD.decode(audio) else {
            return self.refuse_base64();
        };
        let format = self.settings.input_format;
        if format == WireFormat::Pcm16
            && bytes.len() % 2 == 1
            && self.config.quirks.odd_bytes == OddBytes::Reject
        {
            return Err(ApiError::invalid(
                "audio",
                "expected whole samples of 16 bits",
            ));
        }
        if self.input.rate != format.rate() {
            self.input.change_rate(format.rate());
        }
        let samples = self.input.decode(bytes, format);
        {
            let mut record = self.lock_record();
            record
                .appended
                .note(now, format.rate().duration_of(samples.len()));
            if self.config.record_audio {
                record.appended.pcm.extend_from_slice(&samples);
            }
        }
        if let Some(listener) = &self.listener {
            listener.appended(self.index, now, &samples, format.rate());
        }
        if self.input.samples.is_empty() {
            self.input.start = self.vad.clock();
        }
        self.input.samples.extend_from_slice(&samples);
        let settings = self.vad_settings();
        let mut found = Vec::new();
        self.vad
            .push(&samples, format.rate(), settings, |event| found.push(event));
        for event in found {
            match event {
                VadEvent::Onset { at, .. } => self.speech_started(at, now),
                VadEvent::End { at } => self.speech_stopped(at, now),
            }
        }
        self.trim_input();
        Ok(())
    }

    fn refuse_base64(&mut self) -> Result<(), ApiError> {
        let mut error = ApiError::invalid("audio", "expected base64-encoded audio");
        let code = &self.config.quirks.bad_base64_code;
        error.code = (!code.is_empty()).then(|| code.clone());
        match self.config.quirks.bad_base64 {
            BadInput::Error => Err(error),
            BadInput::Ignore => Ok(()),
            BadInput::Close => {
                self.emit_error(&error, None);
                self.close(1007, &error.close_reason());
                Ok(())
            }
        }
    }

    fn vad_settings(&self) -> Option<VadSettings> {
        let settings = match &self.settings.turn_detection.as_ref()?.mode {
            TurnMode::Server {
                threshold,
                silence_duration_ms,
                ..
            } => VadSettings {
                threshold: *threshold,
                silence_ms: *silence_duration_ms,
            },
            TurnMode::Semantic { eagerness } => {
                let unfinished = self.replier.upcoming().is_some_and(|turn| turn.unfinished);
                let silence_ms = match eagerness.as_str() {
                    _ if !unfinished => SEMANTIC_SILENCE_MS,
                    "low" => 8_000,
                    "high" => 2_000,
                    _ => 4_000,
                };
                VadSettings {
                    threshold: 0.5,
                    silence_ms,
                }
            }
        };
        Some(settings)
    }

    fn prefix_ms(&self) -> u64 {
        match self
            .settings
            .turn_detection
            .as_ref()
            .map(|detection| &detection.mode)
        {
            Some(TurnMode::Server {
                prefix_padding_ms, ..
            }) => *prefix_padding_ms,
            Some(TurnMode::Semantic { .. }) | None => SEMANTIC_PREFIX_MS,
        }
    }

    fn trim_input(&mut self) {
        let kept = match &self.settings.turn_detection {
            Some(_) if self.turn.is_some() => MAX_BUFFERED_MS,
            Some(TurnDetection {
                mode:
                    TurnMode::Server {
                        idle_timeout_ms: Some(ms),
                        ..
                    },
                ..
            }) => ms + KEPT_SILENCE_MS,
            Some(_) => self.prefix_ms() + KEPT_SILENCE_MS,
            None => MAX_BUFFERED_MS,
        };
        self.input.trim(kept, KEPT_SILENCE_MS);
    }

    fn speech_started(&mut self, onset: u64, now: Instant) {
        // What a turn has already earned comes before what interrupts it.
        self.answer_pending(now);
        self.idle = None;
        let start = onset.saturating_sub(self.prefix_ms() * TICKS_PER_MS);
        let item_id = self.source.id("item_");
        let fields = json!({"audio_start_ms": start / TICKS_PER_MS, "item_id": item_id});
        self.emit("input_audio_buffer.speech_started", &fields);
        self.turn = Some(SpeechTurn { item_id, start });
        let interrupts = self
            .settings
            .turn_detection
            .as_ref()
            .is_some_and(|detection| detection.interrupt_response);
        if interrupts && let Some(id) = self.active_response().map(|response| response.id.clone()) {
            self.cancel_response(&id, "turn_detected", now);
        }
    }

    fn speech_stopped(&mut self, end: u64, now: Instant) {
        let Some(turn) = self.turn.take() else { return };
        let fields = json!({"audio_end_ms": end / TICKS_PER_MS, "item_id": turn.item_id});
        self.emit("input_audio_buffer.speech_stopped", &fields);
        let audio = self.input.take(turn.start, end);
        self.commit_item(turn.item_id, audio, now);
        let latency = &self.config.latency;
        let wait = self
            .source
            .between(latency.created_min, latency.created_max);
        self.answer_at = Some(now + wait);
    }

    /// Answers the turn that waits for it, if one does.
    pub(super) fn answer_pending(&mut self, now: Instant) {
        if self.answer_at.take().is_some() {
            self.answer_turn(now);
        }
    }

    fn answer_turn(&mut self, now: Instant) {
        let creates = self
            .settings
            .turn_detection
            .as_ref()
            .is_some_and(|detection| detection.create_response);
        if !creates || self.facts.kind == SessionKind::Transcription {
            return;
        }
        if let Err(error) = self.start_response(ResponseOptions::of_session(&self.settings), now) {
            self.emit_error(&error, None);
        }
    }

    pub(super) fn commit(&mut self, now: Instant) -> Result<(), ApiError> {
        let ms = self.input.samples.len() as f64 * 1_000.0 / f64::from(self.input.rate.hz());
        if ms < MIN_COMMIT_MS {
            let message = format!(
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but buffer \
                 only has {ms:.2}ms of audio."
            );
            return Err(ApiError::request(
                "input_audio_buffer_commit_empty",
                message,
            ));
        }
        let item_id = self.source.id("item_");
        let audio = self.input.take(self.input.start, u64::MAX);
        self.commit_item(item_id, audio, now);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        let n_samples = self.input.samples.len();
        self.input.forget(n_samples);
        self.input.odd = None;
        self.vad.reset();
        self.turn = None;
        self.emit("input_audio_buffer.cleared", &json!({}));
    }

    /// Commits the silence since the last response and lets the model speak up.
    pub(super) fn idle_timeout(&mut self, now: Instant) {
        self.idle = None;
        let Some(TurnDetection {
            mode:
                TurnMode::Server {
                    idle_timeout_ms: Some(timeout),
                    ..
                },
            ..
        }) = self.settings.turn_detection
        else {
            return;
        };
        let end = self.vad.clock_ms() / 32 * 32;
        let start = end.saturating_sub(timeout.div_ceil(32) * 32);
        let item_id = self.source.id("item_");
        let fields = json!({"audio_start_ms": start, "audio_end_ms": end, "item_id": item_id});
        self.emit("input_audio_buffer.timeout_triggered", &fields);
        let audio = self.input.take(start * TICKS_PER_MS, end * TICKS_PER_MS);
        self.commit_item(item_id, audio, now);
        self.answer_turn(now);
    }

    fn commit_item(&mut self, item_id: String, audio: Audio, now: Instant) {
        let previous = self.conversation.last_id();
        self.emit(
            "input_audio_buffer.committed",
            &json!({"previous_item_id": previous, "item_id": item_id}),
        );
        let heard = self.replier.heard(&audio);
        let audio_ms = audio.ms();
        let part = Part::Audio {
            audio,
            transcript: None,
            heard: heard.clone(),
        };
        let item = Item {
            id: item_id.clone(),
            status: "completed",
            body: Body::Message {
                role: Role::User,
                parts: vec![part],
            },
        };
        let rendered = item.render(self.facts.shape, None);
        self.conversation.push(item);
        self.emit_item(previous, &rendered);
        if let Some(transcription) = &self.settings.transcription {
            let whisper = transcription["model"]
                .as_str()
                .is_none_or(|model| model.starts_with("whisper"));
            self.schedule_transcript(item_id, heard, audio_ms, whisper, now);
        }
        if self.facts.kind == SessionKind::Transcription {
            self.conversation
                .forget_audio(self.config.retained_audio.as_millis() as u64);
        }
    }

    fn schedule_transcript(
        &mut self,
        item_id: String,
        text: String,
        audio_ms: u64,
        whisper: bool,
        now: Instant,
    ) {
        let (low, high) = (
            self.config.transcription.min_delay,
            self.config.transcription.max_delay,
        );
        let mut at = now + self.source.between(low, high);
        let meets = |kind, n| {
            self.faults.iter().any(|fault| {
                fault.kind == kind && fault.first_responses.is_none_or(|first| n < first)
            })
        };
        let n = self.n_transcripts;
        let failed = meets(FaultKind::FailedTranscription, n);
        let twice = meets(FaultKind::DuplicateTranscription, n);
        if meets(FaultKind::ReorderedTranscription, n) && n.is_multiple_of(2) {
            // Late enough for the next turn's transcript to overtake it.
            at += Duration::from_secs(4);
        }
        self.n_transcripts += 1;
        if failed {
            self.transcripts.push(PendingTranscript {
                at,
                item_id,
                kind: TranscriptKind::Failed,
            });
            return;
        }
        let deltas: Vec<String> = match whisper {
            true => vec![text.clone()],
            false => text.split_inclusive(' ').map(str::to_owned).collect(),
        };
        for delta in deltas {
            let kind = TranscriptKind::Delta(delta);
            self.transcripts.push(PendingTranscript {
                at,
                item_id: item_id.clone(),
                kind,
            });
            at += Duration::from_millis(10);
        }
        for _ in 0..if twice { 2 } else { 1 } {
            let kind = TranscriptKind::Completed {
                text: text.clone(),
                audio_ms,
            };
            self.transcripts.push(PendingTranscript {
                at,
                item_id: item_id.clone(),
                kind,
            });
        }
    }

    pub(super) fn send_transcript(&mut self, index: usize) {
        let PendingTranscript { item_id, kind, .. } = self.transcripts.remove(index);
        let place = json!({"item_id": item_id, "content_index": 0});
        let (event, fields) = match kind {
            TranscriptKind::Delta(text) => ("delta", with(place, "delta", text.into())),
            TranscriptKind::Completed { text, audio_ms } => {
                if let Some(Item {
                    body: Body::Message { parts, .. },
                    ..
                }) = self.conversation.get_mut(&item_id)
                    && let Some(Part::Audio { transcript, .. }) = parts.first_mut()
                {
                    *transcript = Some(text.clone());
                }
                let usage = self.transcription_usage(&text, audio_ms);
                let fields = with(place, "transcript", text.into());
                (
                    "completed",
                    if self.facts.first_preview {
                        fields
                    } else {
                        with(fields, "usage", usage)
                    },
                )
            }
            TranscriptKind::Failed => {
                let message = format!("Input transcription failed for item '{item_id}'.");
                let error = json!({"type": "server_error", "code": null, "message": message, "param": null});
                ("failed", with(place, "error", error))
            }
        };
        self.emit(
            &format!("conversation.item.input_audio_transcription.{event}"),
            &fields,
        );
    }

    fn transcription_usage(&self, text: &str, audio_ms: u64) -> Value {
        let whisper = self
            .settings
            .transcription
            .as_ref()
            .is_some_and(|transcription| {
                transcription["model"]
                    .as_str()
                    .is_some_and(|m| m.starts_with("whisper"))
            });
        if whisper && self.facts.shape == Shape::Ga {
            return json!({"type": "duration", "seconds": audio_ms as f64 / 1_000.0});
        }
        let (input, output) = (user_audio_tokens(audio_ms), text_tokens(text));
        json!({
            "type": "tokens", "total_tokens": input + output, "input_tokens": input, "output_tokens": output,
            "input_token_details": {"text_tokens": 0, "audio_tokens": input},
        })
    }
}
