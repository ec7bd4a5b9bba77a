//! A handful of spoken words, and an ear that knows them: so that a run can tell which of a caller's words arrived.
//!
//! No speech recognition: a stretch of sound between two pauses is compared with the clips that callers say, and is a
//! word if it is one of them, whatever codecs and resamplers it went through. A word of which a piece is missing is
//! none.

use std::f32::consts::TAU;
use std::sync::LazyLock;
use std::time::Duration;

use super::wav::Clip;

/// A word that callers say and the stand-in knows.
#[derive(Debug)]
pub struct Word {
    /// As it stands in transcripts.
    pub text: &'static str,
    /// The sound, 8 kHz.
    pub clip: Clip,
    pattern: Pattern,
}

/// All words. The last one asks for the function `lookup`.
pub static WORDS: LazyLock<[Word; 11]> = LazyLock::new(|| {
    [
        word("zero", include_bytes!("speech/words/zero.wav")),
        word("one", include_bytes!("speech/words/one.wav")),
        word("two", include_bytes!("speech/words/two.wav")),
        word("three", include_bytes!("speech/words/three.wav")),
        word("four", include_bytes!("speech/words/four.wav")),
        word("five", include_bytes!("speech/words/five.wav")),
        word("six", include_bytes!("speech/words/six.wav")),
        word("seven", include_bytes!("speech/words/seven.wav")),
        word("eight", include_bytes!("speech/words/eight.wav")),
        word("nine", include_bytes!("speech/words/nine.wav")),
        word(
            "call lookup",
            include_bytes!("speech/words/call_lookup.wav"),
        ),
    ]
});

/// Silence between two words: longer than any pause within one, and too short to end a turn.
pub const PAUSE: Duration = Duration::from_millis(200);

/// What stands in a transcript for a sound that is no known word.
pub const UNKNOWN: &str = "(unclear)";

/// Those words, one after the other, as one stretch of speech.
#[must_use]
pub fn speak(words: impl IntoIterator<Item = &'static Word>) -> Clip {
    let mut samples = Vec::new();
    for word in words {
        if !samples.is_empty() {
            samples.resize(samples.len() + PAUSE.as_millis() as usize * 8, 0);
        }
        samples.extend_from_slice(&word.clip.samples);
    }
    Clip::new(samples, RATE)
}

/// The words in a stretch of audio, in order. What is no known word is [`UNKNOWN`].
#[must_use]
pub fn recognise(samples: &[i16], rate: u32) -> Vec<&'static str> {
    let clip = Clip::new(samples, rate).at_rate(RATE);
    let frames = spectrum(&clip.samples);
    sounds(&frames)
        .into_iter()
        .map(|(from, to)| {
            let pattern = Pattern::of(&frames[from..to]);
            let likeness = WORDS
                .iter()
                .map(|word| (word, pattern.likeness(&word.pattern)));
            let best = likeness.max_by(|a, b| a.1.total_cmp(&b.1));
            best.filter(|(_, likeness)| *likeness >= SAME)
                .map_or(UNKNOWN, |(word, _)| word.text)
        })
        .collect()
}

/// Of the clips, in Hz.
const RATE: u32 = 8_000;

/// Samples from one spectrum to the next, 10 ms, and samples that each is made of.
const HOP: usize = 80;
const WINDOW: usize = 64;

/// Frequencies looked at, from 125 Hz in steps of as much.
const N_BANDS: usize = 26;

/// In dB of full scale: quieter is silence, which codecs fill with hiss.
const FLOOR: f32 = -55.0;

/// Louder than this is sound.
const LOUD: f32 = -42.0;

/// Frames of silence that end a sound. Stops within a word are up to 90 ms long.
const GAP: usize = 13;

/// Sounds shorter than this, in frames, are clicks.
const SHORTEST: usize = 6;

/// Two sounds so much alike are one word: the same word through G.711 and two resamplers is above 0.95, two different
/// words are below 0.8.
const SAME: f32 = 0.88;

/// How far two sounds of the same word may be apart, in frames.
const MAX_LAG: isize = 4;

fn word(text: &'static str, wav: &[u8]) -> Word {
    let clip = Clip::parse_wav(wav).expect("the embedded files are WAV files, a test reads each");
    let frames = spectrum(&clip.samples);
    Word {
        text,
        pattern: Pattern::of(&frames),
        clip,
    }
}

/// Loudness by frequency of one frame, in dB of full scale.
type Frame = [f32; N_BANDS];

fn spectrum(samples: &[i16]) -> Vec<Frame> {
    static WAVES: LazyLock<Vec<[(f32, f32); WINDOW]>> = LazyLock::new(|| {
        let wave = |band: usize| {
            std::array::from_fn(|n| {
                let hann = 0.5 - 0.5 * (TAU * n as f32 / WINDOW as f32).cos();
                let angle = TAU * (band + 1) as f32 * n as f32 / WINDOW as f32;
                (hann * angle.cos(), hann * angle.sin())
            })
        };
        (0..N_BANDS).map(wave).collect()
    });
    let n_frames = samples.len().saturating_sub(WINDOW) / HOP + 1;
    (0..n_frames)
        .map(|frame| {
            let window = &samples[frame * HOP..samples.len().min(frame * HOP + WINDOW)];
            if window.iter().all(|sample| sample.unsigned_abs() < 32) {
                return [FLOOR; N_BANDS];
            }
            std::array::from_fn(|band| {
                let (mut re, mut im) = (0.0, 0.0);
                for (sample, (cos, sin)) in window.iter().zip(&WAVES[band]) {
                    let sample = f32::from(*sample) / 32_768.0;
                    re += sample * cos;
                    im += sample * sin;
                }
                let power = (re * re + im * im) / (WINDOW * WINDOW) as f32 * 16.0;
                (10.0 * power.max(1e-12).log10()).max(FLOOR)
            })
        })
        .collect()
}

/// Stretches of sound, each from its first frame to behind its last one.
fn sounds(frames: &[Frame]) -> Vec<(usize, usize)> {
    let is_loud = |frame: &Frame| frame.iter().any(|level| *level > LOUD);
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (n, _) in frames.iter().enumerate().filter(|(_, it)| is_loud(it)) {
        match found.last_mut() {
            Some((_, to)) if n - *to < GAP => *to = n + 1,
            _ => found.push((n, n + 1)),
        }
    }
    found.retain(|(from, to)| to - from >= SHORTEST);
    found
}

/// A sound as it is compared: its spectra from the first loud frame to the last, less their mean.
#[derive(Debug)]
struct Pattern {
    frames: Vec<Frame>,
    energy: f32,
}

impl Pattern {
    fn of(frames: &[Frame]) -> Self {
        let bounds = sounds(frames);
        let (from, to) = match (bounds.first(), bounds.last()) {
            (Some((from, _)), Some((_, to))) => (*from, *to),
            _ => (0, frames.len()),
        };
        let mut frames: Vec<Frame> = frames[from..to].to_vec();
        let n = (frames.len() * N_BANDS).max(1) as f32;
        let mean = frames.iter().flatten().sum::<f32>() / n;
        for level in frames.iter_mut().flatten() {
            *level -= mean;
        }
        let energy = frames.iter().flatten().map(|level| level * level).sum();
        Self { frames, energy }
    }

    /// How alike two sounds are, 1 for the same. What one of them lacks counts as unlike.
    fn likeness(&self, other: &Self) -> f32 {
        let scale = (self.energy * other.energy).sqrt().max(f32::MIN_POSITIVE);
        (-MAX_LAG..=MAX_LAG)
            .map(|lag| {
                let (ours, theirs) = (lag.max(0) as usize, (-lag).max(0) as usize);
                let pairs = self
                    .frames
                    .iter()
                    .skip(ours)
                    .zip(other.frames.iter().skip(theirs));
                let product: f32 = pairs
                    .flat_map(|(a, b)| a.iter().zip(b))
                    .map(|(a, b)| a * b)
                    .sum();
                product / scale
            })
            .fold(0.0, f32::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::WireFormat;

    fn check(samples: &[i16], rate: u32, expected: &[&str]) {
        assert_eq!(recognise(samples, rate), expected);
    }

    #[test]
    fn every_word_is_known_and_unlike_the_others() {
        for word in WORDS.iter() {
            check(&word.clip.samples, RATE, &[word.text]);
            for other in WORDS.iter().filter(|other| other.text != word.text) {
                let likeness = word.pattern.likeness(&other.pattern);
                assert!(
                    likeness < SAME - 0.05,
                    "{} {} {likeness}",
                    word.text,
                    other.text
                );
            }
        }
    }

    #[test]
    fn words_are_known_at_any_rate_and_after_mu_law() {
        let all = speak(WORDS.iter());
        let expected: Vec<_> = WORDS.iter().map(|word| word.text).collect();
        for rate in [16_000, 24_000, 48_000] {
            check(&all.at_rate(rate).samples, rate, &expected);
        }
        let telephone = WireFormat::Ulaw.decode(&WireFormat::Ulaw.encode(&all.samples));
        let wide = Clip::new(telephone, RATE).at_rate(24_000);
        check(&wide.samples, 24_000, &expected);
    }

    #[test]
    fn a_mutilated_word_is_none() {
        let two_words = speak([&WORDS[7], &WORDS[3]]);
        let n = WORDS[7].clip.samples.len();
        check(&two_words.samples[n / 3..], RATE, &[UNKNOWN, "three"]);
        let mut hole = two_words.samples.to_vec();
        hole.drain(n / 3..n / 2);
        check(&hole, RATE, &[UNKNOWN, "three"]);
    }
}
