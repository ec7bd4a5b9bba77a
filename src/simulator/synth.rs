//! Sound for replies that are no parrot's: a voice-like babble and a sine.
//!
//! Shorter stretches are beginnings of longer ones, so that all sessions share one sound per rate.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::codec::{Audio, WireFormat};
use trunkline_media::SampleRate;

/// What it sounds like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sound {
    /// The pitch, the harmonics and the syllables of a voice, at about -15 dBFS.
    Babble,
    /// A sine of so many Hz at about -13 dBFS.
    Tone(f32),
}

/// Makes sounds and keeps the longest of each kind.
#[derive(Debug, Default)]
pub(super) struct Synthesiser {
    made: Mutex<Vec<Made>>,
    encoded: Mutex<Encoded>,
}

/// Base64 of deltas by what they hold. Valid for good, because a longer sound begins like a shorter one.
#[derive(Debug, Default)]
struct Encoded {
    deltas: HashMap<DeltaKey, Arc<str>>,
    n_bytes: usize,
}

/// A sound (the bits of a tone's frequency), its format, and the samples cut out.
type DeltaKey = (Option<u32>, WireFormat, Range<usize>);

/// About 25 minutes of PCM16; what does not fit is encoded anew each time.
const MAX_ENCODED_BYTES: usize = 96 << 20;

#[derive(Debug)]
struct Made {
    sound: Sound,
    rate: SampleRate,
    samples: Arc<[i16]>,
}

impl Synthesiser {
    pub(super) fn sound(&self, sound: Sound, length: Duration, rate: SampleRate) -> Audio {
        let n_samples = (length.as_micros() as u64 * u64::from(rate.hz()) / 1_000_000) as usize;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = made
            .iter()
            .position(|made| (made.sound, made.rate) == (sound, rate))
        {
            if made[n].samples.len() >= n_samples {
                return Audio {
                    samples: Arc::clone(&made[n].samples),
                    n_samples,
                    rate,
                    shared: Some(sound),
                };
            }
            made.swap_remove(n);
        }
        // Whole seconds, so that replies of slowly growing length do not each make the sound anew.
        let samples = sound.samples(n_samples.next_multiple_of(rate.hz() as usize), rate);
        made.push(Made {
            sound,
            rate,
            samples: Arc::clone(&samples),
        });
        Audio {
            samples,
            n_samples,
            rate,
            shared: Some(sound),
        }
    }
}

impl Synthesiser {
    /// Base64 of `span` of `audio`. Sessions cut shared sounds at the same places, so that each piece is encoded
    /// once per process.
    pub(super) fn delta(&self, audio: &Audio, format: WireFormat, span: Range<usize>) -> Arc<str> {
        let encode = || -> Arc<str> {
            let samples = audio.samples.get(span.clone()).unwrap_or_default();
            STANDARD.encode(format.encode(samples)).into()
        };
        let Some(sound) = audio.shared else {
            return encode();
        };
        let key = (sound.frequency_bits(), format, span.clone());
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(delta) = encoded.deltas.get(&key) {
            return Arc::clone(delta);
        }
        let delta = encode();
        if encoded.n_bytes + delta.len() <= MAX_ENCODED_BYTES {
            encoded.n_bytes += delta.len();
            encoded.deltas.insert(key, Arc::clone(&delta));
        }
        delta
    }
}

impl Sound {
    /// Equal for equal sounds.
    fn frequency_bits(self) -> Option<u32> {
        match self {
            Self::Babble => None,
            Self::Tone(hz) => Some(hz.to_bits()),
        }
    }

    fn samples(self, n_samples: usize, rate: SampleRate) -> Arc<[i16]> {
        let step = 1.0 / f64::from(rate.hz());
        let mut phase = 0.0f64;
        (0..n_samples)
            .map(|n| {
                let t = n as f64 * step;
                match self {
                    Self::Tone(hz) => ((TAU * (f64::from(hz) * t).fract()).sin() * 10_000.0) as i16,
                    Self::Babble => {
                        phase = (phase + (125.0 + 20.0 * (TAU * 0.7 * t).sin()) * step).fract();
                        // Four syllables a second that never fall silent, so that a detector hears one utterance.
                        let envelope = 0.55 + 0.45 * (TAU * 4.0 * t).sin();
                        let harmonics = (TAU * phase).sin()
                            + 0.6 * (TAU * 3.0 * phase).sin()
                            + 0.4 * (TAU * 7.0 * phase).sin();
                        (envelope * harmonics * 6_000.0) as i16
                    }
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_are_shared_and_exact_in_length() {
        let synthesiser = Synthesiser::default();
        let make = |ms| {
            synthesiser.sound(
                Sound::Babble,
                Duration::from_millis(ms),
                SampleRate::HZ_24000,
            )
        };
        let (long, short) = (make(1_500), make(250));
        assert!(Arc::ptr_eq(&long.samples, &short.samples));
        assert_eq!((short.ms(), short.heard().len()), (250, 6_000));
        assert!(!Arc::ptr_eq(&make(2_500).samples, &long.samples));
    }

    #[test]
    fn deltas_of_shared_sounds_are_encoded_once() {
        let synthesiser = Synthesiser::default();
        let make = |ms| {
            let length = Duration::from_millis(ms);
            synthesiser.sound(Sound::Babble, length, SampleRate::HZ_24000)
        };
        let (short, long) = (make(500), make(2_500));
        let delta = |audio: &Audio, span| synthesiser.delta(audio, WireFormat::Pcm16, span);
        let first = delta(&short, 0..2_400);
        assert!(Arc::ptr_eq(&first, &delta(&long, 0..2_400)));
        assert_eq!(
            *first,
            STANDARD.encode(WireFormat::Pcm16.encode(&long.samples[..2_400]))
        );
        assert_ne!(first, delta(&long, 2_400..4_800));
        // A caller's own words are nobody else's.
        let own = Audio::new(vec![1; 2_400], SampleRate::HZ_24000);
        assert_ne!(delta(&own, 0..2_400), first);
        assert!(!Arc::ptr_eq(&delta(&own, 0..2_400), &delta(&own, 0..2_400)));
    }

    #[test]
    fn a_tone_has_its_frequency() {
        let rate = SampleRate::HZ_8000;
        let audio = Synthesiser::default().sound(Sound::Tone(440.0), Duration::from_secs(1), rate);
        let crossings = audio
            .heard()
            .windows(2)
            .filter(|pair| pair[0] < 0 && pair[1] >= 0)
            .count();
        assert!((439..=441).contains(&crossings), "{crossings}");
    }
}
