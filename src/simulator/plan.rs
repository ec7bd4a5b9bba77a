//! When each piece of a response is sent: transcript ahead of audio, audio at the generation speed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::codec::Audio;
use super::config::{DeltaSizes, FaultKind};
use super::reply::ReplyPart;
use super::response::Response;
use super::session::Session;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    AddItem(usize),
    AddPart(usize),
    /// Text, transcript or arguments up to this byte.
    Text(usize, usize),
    /// Audio up to this sample.
    Audio(usize, usize),
    CloseItem(usize),
    Finish,
}

/// A function call's arguments come in pieces of about this many bytes.
const ARGUMENT_PIECE: usize = 8;

impl Session {
    /// Lays out all steps: transcript ahead of audio, audio at the generation speed.
    pub(super) fn plan(&mut self, response: &Response, now: Instant) -> VecDeque<(Instant, Step)> {
        let slow = response
            .faults
            .iter()
            .find(|fault| fault.kind == FaultKind::SlowFirstAudio);
        let added = slow.map_or(Duration::ZERO, |fault| {
            fault.delay.unwrap_or(Duration::from_secs(5))
        });
        let first = self.source.first_delta(&self.config.latency) + added;
        let mut steps = Vec::new();
        let mut start = first.mul_f64(0.85);
        let mut at = first;
        for (n, output) in response.outputs.iter().enumerate() {
            steps.push((start, Step::AddItem(n)));
            let end = match &output.goal {
                ReplyPart::Message { text, audio } => {
                    steps.push((start, Step::AddPart(n)));
                    match audio {
                        Some(audio) => self.plan_audio(&mut steps, n, text, audio, start, at),
                        None => plan_text(&mut steps, n, token_ends(text), at),
                    }
                }
                ReplyPart::Call { arguments, .. } => {
                    plan_text(&mut steps, n, piece_ends(arguments), at)
                }
            };
            start = end + Duration::from_millis(5);
            steps.push((start, Step::CloseItem(n)));
            at = start + Duration::from_millis(40);
        }
        steps.push((start, Step::Finish));
        steps.sort_by_key(|(at, _)| *at);
        steps
            .into_iter()
            .map(|(at, step)| (now + at, step))
            .collect()
    }

    pub(super) fn plan_audio(
        &mut self,
        steps: &mut Vec<(Duration, Step)>,
        n: usize,
        text: &str,
        audio: &Audio,
        start: Duration,
        first: Duration,
    ) -> Duration {
        let latency = &self.config.latency;
        let speed = if latency.speed > 0.0 {
            latency.speed
        } else {
            5.0
        };
        let mut at = first;
        for (from, to) in delta_spans(audio, &self.config.deltas) {
            if from > 0 {
                let previous = audio.rate.duration_of(from).mul_f64(1.0 / speed) + first;
                // Jitter moves a delta within the gap before it, so that order and overall speed stay.
                let gap = previous.saturating_sub(at);
                at += self.source.jittered(gap, latency.jitter);
            }
            steps.push((at, Step::Audio(n, to)));
        }
        // Five tokens go ahead of the first delta, the others keep ahead of their audio.
        let ends = token_ends(text);
        let n_tokens = ends.len().max(1);
        for (k, end) in ends.into_iter().enumerate() {
            let token_at = if k < 5 {
                start + first.saturating_sub(start).mul_f64((k + 1) as f64 / 6.0)
            } else {
                first
                    + at.saturating_sub(first)
                        .mul_f64(0.8 * (k - 4) as f64 / n_tokens as f64)
            };
            steps.push((token_at, Step::Text(n, end)));
        }
        at
    }
}

fn plan_text(
    steps: &mut Vec<(Duration, Step)>,
    n: usize,
    ends: Vec<usize>,
    first: Duration,
) -> Duration {
    let mut at = first;
    for end in ends {
        steps.push((at, Step::Text(n, end)));
        // Text comes at about 65 tokens a second.
        at += Duration::from_millis(15);
    }
    at
}

/// Ends of word pieces, each with the space before it.
fn token_ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<_> = text
        .match_indices(' ')
        .map(|(at, _)| at)
        .filter(|&at| at > 0)
        .collect();
    if !text.is_empty() {
        ends.push(text.len());
    }
    ends
}

fn piece_ends(text: &str) -> Vec<usize> {
    let inner = (ARGUMENT_PIECE..text.len())
        .step_by(ARGUMENT_PIECE)
        .filter(|&at| text.is_char_boundary(at));
    let mut ends: Vec<_> = inner.collect();
    if !text.is_empty() {
        ends.push(text.len());
    }
    ends
}

/// Where deltas begin and end, in samples.
fn delta_spans(audio: &Audio, sizes: &DeltaSizes) -> Vec<(usize, usize)> {
    let samples =
        |length: Duration| (length.as_millis() as usize * audio.rate.hz() as usize / 1_000).max(1);
    let mut spans = Vec::new();
    let mut from = 0;
    while from < audio.n_samples {
        let size = match spans.len() {
            0 => sizes.first,
            1 => sizes.second,
            _ if audio.n_samples - from <= samples(sizes.last) => sizes.last,
            _ => sizes.steady,
        };
        let to = (from + samples(size)).min(audio.n_samples);
        spans.push((from, to));
        from = to;
    }
    spans
}
