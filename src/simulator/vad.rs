//! Turn detection by energy on 32 ms frames (reference chapters 4.4 and 5.3).
//!
//! Hears loudness, not speech: whatever is louder than the threshold for two frames is taken for a voice.

use trunkline_media::SampleRate;

/// Buffer time is counted in samples at 24 kHz, of which an 8 kHz sample is worth three.
pub(super) const TICKS_PER_MS: u64 = 24;
const FRAME_TICKS: u64 = 32 * TICKS_PER_MS;
/// Shorter noise is no speech: a click or a plosive of another line.
const ONSET_FRAMES: u64 = 2;

/// What the detector found, at a tick of the buffer clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VadEvent {
    /// Speech began at this tick (a frame boundary), and that is sure at `found_at`.
    Onset { at: u64, found_at: u64 },
    /// Silence lasted long enough at this tick (a frame boundary).
    End { at: u64 },
}

/// The part of the turn detection settings that the detector needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct VadSettings {
    /// 0 to 1.
    pub(super) threshold: f64,
    /// Silence that ends speech.
    pub(super) silence_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Vad {
    clock: u64,
    frame_energy: f64,
    frame_ticks: u64,
    voiced_frames: u64,
    silent_frames: u64,
    in_speech: bool,
}

impl Vad {
    /// Ticks of audio heard since the session began.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }

    pub(super) fn clock_ms(&self) -> u64 {
        self.clock / TICKS_PER_MS
    }

    pub(super) fn in_speech(&self) -> bool {
        self.in_speech
    }

    /// Forgets a begun turn, not the clock.
    pub(super) fn reset(&mut self) {
        *self = Self {
            clock: self.clock,
            frame_ticks: self.frame_ticks,
            ..Self::default()
        };
    }

    /// Hears `samples`; without settings only the clock moves.
    pub(super) fn push(
        &mut self,
        samples: &[i16],
        rate: SampleRate,
        settings: Option<VadSettings>,
        mut found: impl FnMut(VadEvent),
    ) {
        let ticks_per_sample = 24_000 / u64::from(rate.hz());
        for &sample in samples {
            let level = f64::from(sample) / 32_768.0;
            self.frame_energy += level * level * ticks_per_sample as f64;
            self.frame_ticks += ticks_per_sample;
            self.clock += ticks_per_sample;
            if self.frame_ticks >= FRAME_TICKS {
                let rms = (self.frame_energy / FRAME_TICKS as f64).sqrt();
                self.frame_energy = 0.0;
                self.frame_ticks -= FRAME_TICKS;
                if let Some(settings) = settings
                    && let Some(event) = self.end_frame(rms, settings)
                {
                    found(event);
                }
            }
        }
    }

    fn end_frame(&mut self, rms: f64, settings: VadSettings) -> Option<VadEvent> {
        let boundary = self.clock - self.frame_ticks;
        if rms >= rms_threshold(settings.threshold) {
            self.voiced_frames += 1;
            self.silent_frames = 0;
        } else {
            self.silent_frames += 1;
            self.voiced_frames = 0;
        }
        if !self.in_speech && self.voiced_frames >= ONSET_FRAMES {
            self.in_speech = true;
            return Some(VadEvent::Onset {
                at: boundary - ONSET_FRAMES * FRAME_TICKS,
                found_at: boundary,
            });
        }
        if self.in_speech && self.silent_frames * 32 >= settings.silence_ms.max(1) {
            self.in_speech = false;
            self.silent_frames = 0;
            return Some(VadEvent::End { at: boundary });
        }
        None
    }
}

/// 0.5 is -40 dBFS, which speech on a phone exceeds by 15 dB and line noise stays under by 20; the ends of the
/// scale are -60 and -20 dBFS.
fn rms_threshold(threshold: f64) -> f64 {
    10f64.powf((threshold * 40.0 - 60.0) / 20.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: VadSettings = VadSettings {
        threshold: 0.5,
        silence_ms: 200,
    };

    /// Audio described as (level, ms) stretches; returns events in milliseconds, negative for ends.
    fn check(stretches: &[(i16, u64)], chunk_ms: usize, rate: SampleRate, expected: &[i64]) {
        let per_ms = rate.hz() as usize / 1_000;
        let audio: Vec<i16> = stretches
            .iter()
            .flat_map(|&(level, ms)| {
                (0..ms as usize * per_ms).map(move |n| if n % 8 < 4 { level } else { -level })
            })
            .collect();
        let mut vad = Vad::default();
        let mut found = Vec::new();
        for chunk in audio.chunks(chunk_ms * per_ms) {
            vad.push(chunk, rate, Some(SETTINGS), |event| {
                found.push(match event {
                    VadEvent::Onset { at, .. } => (at / TICKS_PER_MS) as i64,
                    VadEvent::End { at } => -((at / TICKS_PER_MS) as i64),
                });
            });
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn turns_lie_on_the_grid_of_the_reference() {
        let turn = [(0, 1_312), (3_000, 1_568), (0, 400)];
        for chunk_ms in [20, 100, 5_000] {
            check(&turn, chunk_ms, SampleRate::HZ_24000, &[1_312, -3_104]);
            check(&turn, chunk_ms, SampleRate::HZ_8000, &[1_312, -3_104]);
        }
    }

    #[test]
    fn several_turns_in_one_chunk() {
        let audio = [(0, 320), (3_000, 640), (0, 320), (3_000, 640), (0, 320)];
        check(
            &audio,
            10_000,
            SampleRate::HZ_24000,
            &[320, -1_184, 1_280, -2_144],
        );
    }

    #[test]
    fn clicks_and_line_noise_are_no_speech() {
        check(
            &[(0, 320), (20_000, 30), (0, 500), (100, 2_000)],
            20,
            SampleRate::HZ_24000,
            &[],
        );
    }

    #[test]
    fn no_end_without_audio() {
        check(&[(3_000, 640)], 20, SampleRate::HZ_24000, &[0]);
    }
}
