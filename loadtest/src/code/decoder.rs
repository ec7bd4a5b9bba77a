//! Finds frames in a stream of samples, wherever in it they begin.

use std::f32::consts::TAU;
use std::sync::LazyLock;

use trunkline::media::{Resampler, SampleRate};

use super::symbol::{N_GROUP_TONES, N_GROUPS, N_SOUNDING, N_TONES, Stamp, frequency, read};

/// What a stretch of sound was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole frame.
    Frame(Stamp),
    /// Sound as long as a frame that is none.
    Damaged,
}

/// Everything is looked at with so many samples a second, in Hz.
const RATE: u32 = 8_000;

/// Samples of a frame, of the window within it that is looked at, and from the frame's beginning to the window.
const FRAME: usize = 160;
const WINDOW: usize = 128;
const LEAD: usize = 12;

/// Where no frame is expected, each so many samples are tried: a window may be off by more.
const STEP: usize = 8;

/// The weakest tone that sounds is so many times as strong as the strongest that does not, 6 dB.
const MARGIN: f32 = 4.0;

/// So clear, 20 dB, that no better place need be looked for. The earliest is the best: frames are then known as soon as
/// their window is there, although filters on the way delay them by a few milliseconds.
const CLEAR: f32 = 100.0;

/// Mean square below which there is silence: -45 dBFS, as for everything else that is heard.
const SILENCE: f32 = 184.0 * 184.0;

/// Sound without a frame in it for so long is a damaged frame; less is the rest of one that was cut off.
const DAMAGED: isize = 120;

/// Out of silence, windows hold some sound for so long before one can hold a frame: that is nothing odd.
const ENTRY: isize = WINDOW as isize - 2 * STEP as isize;

/// Reads frames. Samples come as they come, in pieces of any length.
#[derive(Debug)]
pub struct Decoder {
    input: Input,
    samples: Vec<f32>,
    /// Of the samples, so many were looked at.
    at: usize,
    is_locked: bool,
    /// Loud samples since the last frame that none was found in, less those that are to be expected.
    n_odd: isize,
}

#[derive(Debug)]
enum Input {
    /// Each so many samples are averaged. That dulls high tones, all in a group alike.
    Divide {
        by: usize,
        sum: f32,
        n: usize,
    },
    Resample(Box<Resampler>, Vec<i16>),
}

impl Decoder {
    /// Of audio at this rate.
    #[must_use]
    pub fn new(rate: SampleRate) -> Self {
        let input = if rate.hz().is_multiple_of(RATE) {
            Input::Divide {
                by: (rate.hz() / RATE) as usize,
                sum: 0.0,
                n: 0,
            }
        } else {
            let resampler = Resampler::new(rate, SampleRate::HZ_8000);
            Input::Resample(Box::new(resampler), Vec::new())
        };
        Self {
            input,
            samples: Vec::new(),
            at: 0,
            is_locked: false,
            n_odd: -ENTRY,
        }
    }

    /// Takes the next samples and says what was found.
    pub fn push(&mut self, samples: &[i16], mut found: impl FnMut(Found)) {
        self.take(samples);
        loop {
            let step = if self.is_locked {
                self.read_next()
            } else {
                self.search()
            };
            let Some(read) = step else { break };
            if let Some(it) = read {
                found(it);
            }
        }
        // What is left of the last frame may not be there yet.
        let n_seen = self.at.min(self.samples.len());
        self.samples.drain(..n_seen);
        self.at -= n_seen;
    }

    /// What comes next has nothing to do with what came before, as after a clear.
    pub fn reset(&mut self) {
        self.samples.clear();
        self.at = 0;
        self.is_locked = false;
        self.n_odd = -ENTRY;
    }

    fn take(&mut self, samples: &[i16]) {
        match &mut self.input {
            Input::Divide { by: 1, .. } => {
                self.samples.extend(samples.iter().map(|s| f32::from(*s)));
            }
            Input::Divide { by, sum, n } => {
                for sample in samples {
                    *sum += f32::from(*sample);
                    *n += 1;
                    if *n == *by {
                        self.samples.push(*sum / *by as f32);
                        (*sum, *n) = (0.0, 0);
                    }
                }
            }
            Input::Resample(resampler, converted) => {
                converted.clear();
                resampler.process(samples, converted);
                self.samples.extend(converted.iter().map(|s| f32::from(*s)));
            }
        }
    }

    /// The frame that should be where the last one ended. `None`: more samples are needed.
    fn read_next(&mut self) -> Option<Option<Found>> {
        let window = self.window_at(self.at)?;
        if is_silent(window) {
            self.is_locked = false;
            return Some(None);
        }
        match look(window) {
            Some((stamp, _)) => {
                self.at += FRAME;
                self.n_odd = 0;
                Some(Some(Found::Frame(stamp)))
            }
            None => {
                self.is_locked = false;
                Some(None)
            }
        }
    }

    /// One step of the search for a frame.
    fn search(&mut self) -> Option<Option<Found>> {
        // Better places are up to three steps ahead.
        self.window_at(self.at + 3 * STEP)?;
        let window = self.window_at(self.at)?;
        if is_silent(window) {
            self.at += STEP;
            let odd = std::mem::replace(&mut self.n_odd, -ENTRY);
            return Some((odd >= DAMAGED).then_some(Found::Damaged));
        }
        let Some((stamp, quality)) = look(window) else {
            self.at += STEP;
            self.n_odd += STEP as isize;
            let is_damaged = self.n_odd >= FRAME as isize;
            if is_damaged {
                self.n_odd -= FRAME as isize;
            }
            return Some(is_damaged.then_some(Found::Damaged));
        };
        let better = (1..=3).filter_map(|n| {
            let (other, quality) = look(self.window_at(self.at + n * STEP)?)?;
            (other == stamp).then_some((n * STEP, quality))
        });
        let best = better.fold((0, quality), |best, it| {
            if best.1 < CLEAR && it.1 > best.1 {
                it
            } else {
                best
            }
        });
        let odd = std::mem::take(&mut self.n_odd);
        self.at += best.0;
        self.is_locked = true;
        // The frame itself is read next.
        Some((odd >= DAMAGED).then_some(Found::Damaged))
    }

    fn window_at(&self, at: usize) -> Option<&[f32]> {
        self.samples.get(at + LEAD..at + LEAD + WINDOW)
    }
}

fn is_silent(window: &[f32]) -> bool {
    window.iter().map(|s| s * s).sum::<f32>() < SILENCE * WINDOW as f32
}

/// The stamp in a window, and how clearly it is there.
fn look(window: &[f32]) -> Option<(Stamp, f32)> {
    let powers = powers(window);
    let mut quality = f32::INFINITY;
    let mut sounding = [0u8; N_GROUPS];
    for (group, powers) in powers.as_chunks::<N_GROUP_TONES>().0.iter().enumerate() {
        let mut sorted = *powers;
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let (weakest, loudest_other) = (sorted[N_SOUNDING - 1], sorted[N_SOUNDING]);
        quality = quality.min(weakest / loudest_other.max(1.0));
        if quality < MARGIN {
            return None;
        }
        for (tone, power) in powers.iter().enumerate() {
            sounding[group] |= u8::from(*power >= weakest) << tone;
        }
    }
    Some((read(sounding)?, quality))
}

/// How strong each tone is.
fn powers(window: &[f32]) -> [f32; N_TONES] {
    // One row for each sample, so that the compiler adds many tones at a time.
    static WAVES: LazyLock<Vec<([f32; N_TONES], [f32; N_TONES])>> = LazyLock::new(|| {
        (0..WINDOW)
            .map(|n| {
                let angle = |tone| TAU * frequency(tone) * n as f32 / RATE as f32;
                (
                    std::array::from_fn(|tone| angle(tone).cos()),
                    std::array::from_fn(|tone| angle(tone).sin()),
                )
            })
            .collect()
    });
    let (mut re, mut im) = ([0.0f32; N_TONES], [0.0f32; N_TONES]);
    for (sample, (cos, sin)) in window.iter().zip(WAVES.iter()) {
        for tone in 0..N_TONES {
            re[tone] += sample * cos[tone];
            im[tone] += sample * sin[tone];
        }
    }
    std::array::from_fn(|tone| (re[tone] * re[tone] + im[tone] * im[tone]) / WINDOW as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Encoder;
    use std::time::Duration;
    use trunkline::media::{
        AudioFormat, CallerDecoder, CallerEncoder, Codec, FrameQueue, OpusSettings,
    };

    const FIRST: u64 = 4_090;

    /// So many frames of call 9, with silence before and after.
    fn speech(rate: u32, n_frames: u64) -> Vec<i16> {
        let encoder = Encoder::new(rate);
        let n = rate as usize / 50;
        let mut samples = vec![0; 5 * n + 37];
        for frame in FIRST..FIRST + n_frames {
            let start = samples.len();
            samples.resize(start + n, 0);
            encoder.write(Stamp::new(9, frame), &mut samples[start..]);
        }
        samples.resize(samples.len() + 5 * n, 0);
        samples
    }

    fn frames(range: std::ops::Range<u64>) -> Vec<Found> {
        range
            .map(|n| Found::Frame(Stamp::new(9, FIRST + n)))
            .collect()
    }

    fn heard(samples: &[i16], rate: SampleRate, piece: usize) -> Vec<Found> {
        let mut decoder = Decoder::new(rate);
        let mut all = Vec::new();
        for piece in samples.chunks(piece) {
            decoder.push(piece, |found| all.push(found));
        }
        all
    }

    fn check_all(samples: &[i16], rate: SampleRate) {
        for piece in [160, 480, 333, 10_000] {
            assert_eq!(
                heard(samples, rate, piece),
                frames(0..40),
                "{rate:?} {piece}"
            );
        }
    }

    fn convert(samples: &[i16], from: SampleRate, to: SampleRate) -> Vec<i16> {
        let mut converted = Vec::new();
        Resampler::new(from, to).process(samples, &mut converted);
        converted
    }

    /// What a gateway makes of the model's audio for a caller, and of that for the model.
    fn there_and_back(samples: &[i16], format: AudioFormat) -> (Vec<i16>, Vec<i16>) {
        let wide = SampleRate::HZ_24000;
        let opus = OpusSettings::default();
        let mut encoder = CallerEncoder::new(wide, format, opus).unwrap();
        let mut queue = FrameQueue::new(format, Duration::from_secs(10));
        encoder.encode(samples, &mut queue).unwrap();
        let mut to_caller = CallerDecoder::new(format, format.rate).unwrap();
        let mut to_model = CallerDecoder::new(format, wide).unwrap();
        let (mut narrow, mut again) = (Vec::new(), Vec::new());
        while let Some(frame) = queue.front() {
            to_caller.decode(frame, &mut narrow).unwrap();
            to_model.decode(frame, &mut again).unwrap();
            queue.pop();
        }
        (narrow, again)
    }

    #[test]
    fn frames_are_read_at_every_rate() {
        for rate in [8_000, 16_000, 24_000, 44_100, 48_000] {
            check_all(&speech(rate, 40), SampleRate::new(rate).unwrap());
        }
    }

    #[test]
    fn frames_survive_g711_and_two_changes_of_rate() {
        let narrow = speech(8_000, 40);
        for codec in [Codec::Ulaw, Codec::Alaw] {
            let format = AudioFormat {
                codec,
                rate: SampleRate::HZ_8000,
            };
            let (narrow, wide) = there_and_back(&speech(24_000, 40), format);
            check_all(&narrow, SampleRate::HZ_8000);
            check_all(&wide, SampleRate::HZ_24000);
        }
        let wide = convert(&narrow, SampleRate::HZ_8000, SampleRate::HZ_24000);
        check_all(&wide, SampleRate::HZ_24000);
        check_all(
            &convert(&wide, SampleRate::HZ_24000, SampleRate::HZ_8000),
            SampleRate::HZ_8000,
        );
    }

    #[test]
    fn holes_and_repetitions_are_seen() {
        let whole = speech(8_000, 40);
        let start = 5 * 160 + 37;
        let mut lossy = whole.clone();
        lossy.drain(start + 10 * 160..start + 12 * 160);
        let expected = [frames(0..10), frames(12..40)].concat();
        assert_eq!(heard(&lossy, SampleRate::HZ_8000, 160), expected);

        let mut doubled = whole.clone();
        let again = whole[start + 10 * 160..start + 11 * 160].to_vec();
        doubled.splice(start + 11 * 160..start + 11 * 160, again);
        let expected = [frames(0..11), frames(10..40)].concat();
        assert_eq!(heard(&doubled, SampleRate::HZ_8000, 160), expected);

        let mut noisy = whole.clone();
        let mut random = fastrand::Rng::with_seed(1);
        for sample in &mut noisy[start + 1_600..start + 1_760] {
            *sample = random.i16(-8_000..8_000);
        }
        let expected = [frames(0..10), vec![Found::Damaged], frames(11..40)].concat();
        assert_eq!(heard(&noisy, SampleRate::HZ_8000, 160), expected);

        // Half a frame is missing: what is left of it is none.
        let mut cut = whole;
        cut.drain(start + 1_600..start + 1_680);
        let expected = [frames(0..10), frames(11..40)].concat();
        assert_eq!(heard(&cut, SampleRate::HZ_8000, 160), expected);
    }

    #[test]
    fn other_sounds_hold_no_frames() {
        let mut random = fastrand::Rng::with_seed(2);
        let noise: Vec<i16> = (0..80_000).map(|_| random.i16(-9_000..9_000)).collect();
        let hours = trunkline::simulator::speech::hours().at_rate(8_000);
        for samples in [&noise[..], &hours.samples[..]] {
            let found = heard(samples, SampleRate::HZ_8000, 160);
            assert!(found.iter().all(|it| *it == Found::Damaged), "{found:?}");
            assert!(!found.is_empty());
        }
        assert!(heard(&vec![20; 80_000], SampleRate::HZ_8000, 160).is_empty());
    }
}
