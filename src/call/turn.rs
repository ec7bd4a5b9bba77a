//! When the caller stopped speaking, and how long the answer took to be heard.
//!
//! The model names positions in the audio that it was sent; this clock remembers when that audio came
//! in, so that a position becomes a moment at the gateway (protocol reference 9.1, "perceived turn gap").

use std::time::{Duration, Instant};

/// The latency of one turn. `model + gateway = latency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnLatency {
    /// From the caller's last voiced sample at the gateway to the first reply frame on the caller's wire.
    pub latency: Duration,
    /// The part of it until the first reply audio came in from the model.
    pub model: Duration,
    /// The rest.
    pub gateway: Duration,
}

impl TurnLatency {
    /// The same turn, its first frame having been written so long after it left the queue.
    #[must_use]
    pub fn written_after(self, took: Duration) -> Self {
        Self {
            latency: self.latency + took,
            gateway: self.gateway + took,
            ..self
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct TurnClock {
    appended: Duration,
    appended_at: Option<Instant>,
    speech_end: Option<Instant>,
    first_audio: Option<Instant>,
}

impl TurnClock {
    /// Caller audio, real or silent, went to the model.
    pub(super) fn appended(&mut self, duration: Duration, now: Instant) {
        self.appended += duration;
        self.appended_at = Some(now);
    }

    /// Another session was sent so much audio at once, and counts from there.
    pub(super) fn restarted(&mut self, appended: Duration, now: Instant) {
        self.appended = appended;
        self.appended_at = Some(now);
    }

    /// The model heard the caller stop; its turn detection had waited `silence` to be sure.
    pub(super) fn speech_stopped(&mut self, audio_end: Duration, silence: Duration, now: Instant) {
        let behind = self
            .appended
            .saturating_sub(audio_end.saturating_sub(silence));
        let heard_at = self.appended_at.unwrap_or(now);
        self.speech_end = Some(heard_at.checked_sub(behind).unwrap_or(heard_at));
        self.first_audio = None;
    }

    /// The caller began to speak: whatever was awaited is no longer the answer.
    pub(super) fn speech_started(&mut self) {
        self.speech_end = None;
        self.first_audio = None;
    }

    /// Reply audio came in from the model.
    pub(super) fn reply_arrived(&mut self, now: Instant) {
        if self.speech_end.is_some() {
            self.first_audio.get_or_insert(now);
        }
    }

    /// A reply frame left for the caller. Yields the turn's latency for the first one.
    pub(super) fn reply_left(&mut self, now: Instant) -> Option<TurnLatency> {
        let (speech_end, first_audio) = (self.speech_end?, self.first_audio.take()?);
        self.speech_end = None;
        Some(TurnLatency {
            latency: now.saturating_duration_since(speech_end),
            model: first_audio.saturating_duration_since(speech_end),
            gateway: now.saturating_duration_since(first_audio),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_measured_from_the_last_voiced_sample() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut clock = TurnClock::default();
        for frame in 1..=60 {
            clock.appended(ms(20), start + ms(20 * frame));
        }
        // Speech ended at 900 ms of audio; the model waited 200 ms and reports it 100 ms later.
        clock.speech_stopped(ms(1_100), ms(200), start + ms(1_210));
        clock.reply_arrived(start + ms(1_500));
        clock.reply_arrived(start + ms(1_600));
        assert_eq!(
            clock.reply_left(start + ms(1_503)),
            Some(TurnLatency {
                latency: ms(603),
                model: ms(600),
                gateway: ms(3)
            })
        );
        assert_eq!(clock.reply_left(start + ms(1_520)), None);
    }

    #[test]
    fn a_greeting_is_no_turn() {
        let now = Instant::now();
        let mut clock = TurnClock::default();
        clock.reply_arrived(now);
        assert_eq!(clock.reply_left(now), None);
    }
}
