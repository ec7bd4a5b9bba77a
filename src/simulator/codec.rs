//! Audio as the protocol writes it: PCM16 at 24 kHz and G.711 at 8 kHz, to and from samples.
//!
//! G.711 is read here from tables of its own, independent of those that the gateway uses; rates are converted by
//! what the gateway uses, because replies are judged by ear and by correlation.

use std::sync::Arc;

use super::synth::Sound;
use trunkline_media::{AudioFormat, Codec, Resampler, SampleRate};

/// The three formats of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WireFormat {
    Pcm16,
    Ulaw,
    Alaw,
}

impl WireFormat {
    pub(super) fn audio_format(self) -> AudioFormat {
        match self {
            Self::Pcm16 => AudioFormat::MODEL_PCM,
            Self::Ulaw => AudioFormat::ULAW_8K,
            Self::Alaw => AudioFormat {
                codec: Codec::Alaw,
                rate: SampleRate::HZ_8000,
            },
        }
    }

    pub(super) fn rate(self) -> SampleRate {
        self.audio_format().rate
    }

    pub(super) fn from_preview_name(name: &str) -> Option<Self> {
        [Self::Pcm16, Self::Ulaw, Self::Alaw]
            .into_iter()
            .find(|format| format.preview_name() == name)
    }

    pub(super) fn preview_name(self) -> &'static str {
        match self {
            Self::Pcm16 => "pcm16",
            Self::Ulaw => "g711_ulaw",
            Self::Alaw => "g711_alaw",
        }
    }

    pub(super) fn decode(self, bytes: &[u8]) -> Vec<i16> {
        match self {
            Self::Pcm16 => bytes
                .chunks_exact(2)
                .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
            Self::Ulaw => bytes.iter().map(|&byte| ulaw_decode(byte)).collect(),
            Self::Alaw => bytes.iter().map(|&byte| alaw_decode(byte)).collect(),
        }
    }

    pub(super) fn encode(self, samples: &[i16]) -> Vec<u8> {
        match self {
            Self::Pcm16 => samples
                .iter()
                .flat_map(|sample| sample.to_le_bytes())
                .collect(),
            Self::Ulaw => samples.iter().map(|&sample| ulaw_encode(sample)).collect(),
            Self::Alaw => samples.iter().map(|&sample| alaw_encode(sample)).collect(),
        }
    }
}

/// Audio of an item. Cutting it shortens `n_samples`; forgetting it empties `samples` and leaves the length.
#[derive(Clone, Debug)]
pub(super) struct Audio {
    pub(super) samples: Arc<[i16]>,
    pub(super) n_samples: usize,
    pub(super) rate: SampleRate,
    /// Set if every session has the same samples, whose encoding is shared then.
    pub(super) shared: Option<Sound>,
}

impl Audio {
    pub(super) fn new(samples: Vec<i16>, rate: SampleRate) -> Self {
        Self {
            n_samples: samples.len(),
            samples: samples.into(),
            rate,
            shared: None,
        }
    }

    /// Whole milliseconds, rounded down.
    pub(super) fn ms(&self) -> u64 {
        self.n_samples as u64 * 1_000 / u64::from(self.rate.hz())
    }

    pub(super) fn heard(&self) -> &[i16] {
        &self.samples[..self.n_samples.min(self.samples.len())]
    }

    pub(super) fn truncate_ms(&mut self, ms: u64) {
        let n_samples = ms.saturating_mul(u64::from(self.rate.hz())) / 1_000;
        self.n_samples = self
            .n_samples
            .min(usize::try_from(n_samples).unwrap_or(usize::MAX));
    }

    pub(super) fn at_rate(&self, rate: SampleRate) -> Self {
        if rate == self.rate {
            return self.clone();
        }
        Self::new(convert(self.heard(), self.rate, rate), rate)
    }
}

/// A whole sound at another rate, of the same length to the sample and without the converter's delay.
pub(super) fn convert(samples: &[i16], from: SampleRate, to: SampleRate) -> Vec<i16> {
    if from == to {
        return samples.to_vec();
    }
    let mut resampler = Resampler::new(from, to);
    let delay = resampler.delay();
    let within = |rate: SampleRate| delay.as_micros() as usize * rate.hz() as usize / 1_000_000;
    let (n_ahead, n_late) = (within(from), within(to));
    let mut converted = Vec::new();
    resampler.process(samples, &mut converted);
    resampler.process(&vec![0; n_ahead], &mut converted);
    converted.drain(..n_late.min(converted.len()));
    converted
}

/// ITU-T G.711 mu-law, one byte to 14-bit linear scaled to 16.
fn ulaw_decode(byte: u8) -> i16 {
    let bits = !byte;
    let exponent = (bits >> 4) & 7;
    let magnitude = (((i32::from(bits & 0x0F) << 3) + 0x84) << exponent) - 0x84;
    (if bits & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }) as i16
}

fn ulaw_encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs().min(32_635)) + 0x84;
    // The segment is the position of the leading one above bit 7; 0x84 guarantees that there is one.
    let exponent = (31 - magnitude.leading_zeros() as i32) - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    !(sign | ((exponent as u8) << 4) | mantissa as u8)
}

/// ITU-T G.711 A-law, one byte to 13-bit linear scaled to 16.
fn alaw_decode(byte: u8) -> i16 {
    let bits = byte ^ 0x55;
    let exponent = (bits >> 4) & 7;
    let mantissa = i32::from(bits & 0x0F);
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    (if bits & 0x80 == 0 {
        -magnitude
    } else {
        magnitude
    }) as i16
}

fn alaw_encode(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 {
        (0, !i32::from(sample))
    } else {
        (0x80, i32::from(sample))
    };
    let code = if magnitude < 256 {
        (magnitude >> 4) as u8
    } else {
        let exponent = (31 - magnitude.leading_zeros() as i32) - 7;
        ((exponent as u8) << 4) | ((magnitude >> (exponent + 3)) & 0x0F) as u8
    };
    (sign | code) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_g711_byte_survives_a_round_trip() {
        for byte in 0..=255u8 {
            let back = ulaw_encode(ulaw_decode(byte));
            // Mu-law has two zeros; the negative one comes back as the positive one.
            assert!(
                back == byte || (byte == 0x7F && back == 0xFF),
                "ulaw {byte:#x} {back:#x}"
            );
            assert_eq!(alaw_encode(alaw_decode(byte)), byte, "alaw");
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(ulaw_decode(0x00), -32_124);
        assert_eq!(ulaw_decode(0x80), 32_124);
        assert_eq!(ulaw_decode(0xFF), 0);
        assert_eq!(alaw_decode(0xD5), 8);
        assert_eq!(alaw_decode(0xAA), 32_256);
        assert_eq!(ulaw_encode(i16::MIN), 0x00);
        assert_eq!(alaw_encode(i16::MIN), 0x2A);
    }

    #[test]
    fn conversion_keeps_length_place_and_level() {
        let (low, high) = (SampleRate::HZ_8000, SampleRate::HZ_24000);
        let sine = |rate: SampleRate, n: usize| -> Vec<i16> {
            let step = std::f64::consts::TAU * 1_000.0 / f64::from(rate.hz());
            (0..n)
                .map(|n| ((n as f64 * step).sin() * 10_000.0) as i16)
                .collect()
        };
        for (from, to, n_from, n_to) in [(low, high, 800, 2_400), (high, low, 2_401, 801)] {
            let converted = convert(&sine(from, n_from), from, to);
            assert_eq!(converted.len(), n_to);
            // The ends, where the filter reaches beyond the sound, are left out.
            let expected = sine(to, n_to);
            for n in n_to / 4..n_to * 3 / 4 {
                let off = i32::from(converted[n]) - i32::from(expected[n]);
                assert!(off.abs() < 100, "{n}: {off}");
            }
        }
        assert!(convert(&[], low, high).is_empty());
    }

    #[test]
    fn audio_is_cut_by_milliseconds() {
        let mut audio = Audio::new(vec![1; 24_000], SampleRate::HZ_24000);
        audio.truncate_ms(250);
        assert_eq!((audio.ms(), audio.heard().len()), (250, 6_000));
        assert_eq!(audio.at_rate(SampleRate::HZ_8000).heard().len(), 2_000);
    }
}
