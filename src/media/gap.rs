//! Silence in place of audio that does not arrive.
//!
//! The model measures pauses in the audio that it got, not in time: if a caller's audio stops (a muted
//! track, Opus DTX, a network stall), the end of the turn is never reached (protocol reference 5.3). So
//! a gap is filled with silence as time passes. The threshold is above the 40-200 ms by which TCP
//! bunches frames (telephony reference 16.2): filling such a bunch would put silence into a word.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// When and for how long to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GapSettings {
    /// Audio is missing when none came for so long beyond what is covered.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// No gap is filled for longer; the slowest turn detection waits 8 s (protocol reference 4.4).
    #[serde(with = "humantime_serde")]
    pub at_most: Duration,
    /// Audio further ahead of real time is dropped.
    #[serde(with = "humantime_serde")]
    pub ahead: Duration,
}

impl Default for GapSettings {
    fn default() -> Self {
        Self {
            after: Duration::from_millis(200),
            at_most: Duration::from_secs(10),
            ahead: Duration::from_secs(30),
        }
    }
}

/// Filling goes in steps of so much, to keep messages few.
const STEP: Duration = Duration::from_millis(100);

/// Watches one caller's audio.
#[derive(Clone, Debug)]
pub struct GapFiller {
    settings: GapSettings,
    /// Audio, real or silent, has been supplied for all time up to here; `None` before the first.
    covered_until: Option<Instant>,
    filled: Duration,
}

impl GapFiller {
    /// Starts to watch.
    #[must_use]
    pub fn new(settings: GapSettings) -> Self {
        Self {
            settings,
            covered_until: None,
            filled: Duration::ZERO,
        }
    }

    /// `duration` of audio arrived. False if it is to be dropped, being too far ahead of real time.
    pub fn audio(&mut self, duration: Duration, now: Instant) -> bool {
        let from = self.covered_until.map_or(now, |until| until.max(now));
        let until = from + duration;
        if until > now + self.settings.ahead {
            return false;
        }
        self.covered_until = Some(until);
        self.filled = Duration::ZERO;
        true
    }

    /// No audio is to be expected until the next comes, and no silence is wanted in its place.
    pub fn pause(&mut self) {
        self.covered_until = None;
        self.filled = Duration::ZERO;
    }

    /// When silence will be due if nothing arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.filled >= self.settings.at_most {
            return None;
        }
        let wait = if self.filled.is_zero() {
            self.settings.after
        } else {
            STEP
        };
        Some(self.covered_until? + wait)
    }

    /// The silence that is due.
    pub fn fill(&mut self, now: Instant) -> Option<Duration> {
        let covered = self.covered_until?;
        if self.deadline()? > now {
            return None;
        }
        let gap = now.duration_since(covered);
        let silence = gap.min(self.settings.at_most - self.filled);
        self.covered_until = Some(now);
        self.filled += silence;
        Some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Sends 20 ms frames at the given times and returns all silence that was put in, with its times.
    fn check(frames_at_ms: &[u64], until_ms: u64, expected: &[(u64, u64)]) {
        let start = Instant::now();
        let mut filler = GapFiller::new(GapSettings {
            at_most: ms(1_000),
            ..GapSettings::default()
        });
        let mut fills = Vec::new();
        for t in 0..until_ms {
            let now = start + ms(t);
            for _ in frames_at_ms.iter().filter(|at| **at == t) {
                assert!(filler.audio(ms(20), now));
            }
            if let Some(silence) = filler.fill(now) {
                fills.push((t, silence.as_millis() as u64));
            }
        }
        assert_eq!(fills, expected);
    }

    #[test]
    fn a_steady_stream_gets_no_silence() {
        let frames: Vec<u64> = (0..50).map(|n| n * 20).collect();
        check(&frames, 1_000, &[]);
    }

    #[test]
    fn bunched_frames_get_no_silence() {
        check(
            &[0, 180, 180, 180, 180, 180, 180, 180, 180, 180, 360],
            560,
            &[],
        );
    }

    #[test]
    fn a_gap_is_filled_as_time_passes_up_to_the_cap() {
        check(
            &[0, 20],
            3_000,
            &[
                (240, 200),
                (340, 100),
                (440, 100),
                (540, 100),
                (640, 100),
                (740, 100),
                (840, 100),
                (940, 100),
                (1040, 100),
            ],
        );
    }

    #[test]
    fn nothing_is_filled_before_the_first_audio() {
        check(&[], 1_000, &[]);
    }

    #[test]
    fn audio_far_ahead_of_time_is_dropped() {
        let start = Instant::now();
        let mut filler = GapFiller::new(GapSettings::default());
        assert!(filler.audio(Duration::from_secs(30), start));
        assert!(!filler.audio(ms(20), start));
        assert!(filler.audio(ms(20), start + ms(20)));
    }
}
