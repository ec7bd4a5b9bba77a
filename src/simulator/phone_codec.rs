//! The phone's own G.711 and its own resampler.
//!
//! They share nothing with the gateway's, so that an error of the one is not covered by the same error
//! of the other. Made for whole clips, before a call: the resampler keeps no state between calls. G.722 is the gateway's:
//! its bytes are those of two other implementations, which its tests hold it to.

use std::f64::consts::PI;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::Message;

use trunkline_media::{Codec, G722Decoder, G722Encoder};

/// Audio bytes that are no whole number of samples, or a codec that the phone does not speak.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// PCM16 with half a sample at the end.
    #[error("{0} bytes are not a whole number of 16 bit samples")]
    OddBytes(usize),
    /// The phone does not speak Opus; G.722 only as [`CallCodec`].
    #[error("the phone does not speak {0}")]
    NotSpoken(&'static str),
    /// Where base64 was due.
    #[error("not base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

/// The codec of both directions of one call.
#[derive(Clone, Debug)]
pub(crate) struct CallCodec {
    codec: Codec,
    encoder: G722Encoder,
    decoder: G722Decoder,
}

impl CallCodec {
    /// # Errors
    /// [`CodecError::NotSpoken`] for Opus.
    pub(crate) fn new(codec: Codec) -> Result<Self, CodecError> {
        if codec == Codec::Opus {
            return Err(CodecError::NotSpoken(codec.name()));
        }
        Ok(Self {
            codec,
            encoder: G722Encoder::new(),
            decoder: G722Decoder::new(),
        })
    }

    /// Samples as bytes on the wire.
    pub(crate) fn encode(&mut self, samples: &[i16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.codec == Codec::G722 {
            self.encoder.encode(samples, &mut bytes);
            return bytes;
        }
        encode(self.codec, samples).expect("checked when it was made")
    }

    /// Bytes from the wire as samples.
    ///
    /// # Errors
    /// [`CodecError::OddBytes`] for half a sample.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<Vec<i16>, CodecError> {
        let mut samples = Vec::new();
        if self.codec == Codec::G722 {
            self.decoder.decode(bytes, &mut samples);
            return Ok(samples);
        }
        decode(self.codec, bytes)
    }
}

/// Samples as bytes on the wire, in a codec that remembers nothing.
///
/// # Errors
/// [`CodecError::NotSpoken`] for Opus and G.722.
pub(crate) fn encode(codec: Codec, samples: &[i16]) -> Result<Vec<u8>, CodecError> {
    match codec {
        Codec::Pcm16 => Ok(samples.iter().flat_map(|s| s.to_le_bytes()).collect()),
        Codec::Ulaw => Ok(samples.iter().map(|&s| ulaw_from_pcm(s)).collect()),
        Codec::Alaw => Ok(samples.iter().map(|&s| alaw_from_pcm(s)).collect()),
        Codec::Opus | Codec::G722 => Err(CodecError::NotSpoken(codec.name())),
    }
}

/// Bytes from the wire as samples, in a codec that remembers nothing.
///
/// # Errors
/// See [`CodecError`].
pub(crate) fn decode(codec: Codec, bytes: &[u8]) -> Result<Vec<i16>, CodecError> {
    match codec {
        Codec::Pcm16 if bytes.len() % 2 == 1 => Err(CodecError::OddBytes(bytes.len())),
        Codec::Pcm16 => Ok(bytes
            .chunks_exact(2)
            .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
            .collect()),
        Codec::Ulaw => Ok(bytes.iter().map(|&b| pcm_from_ulaw(b)).collect()),
        Codec::Alaw => Ok(bytes.iter().map(|&b| pcm_from_alaw(b)).collect()),
        Codec::Opus | Codec::G722 => Err(CodecError::NotSpoken(codec.name())),
    }
}

/// Base64 from the wire as samples.
///
/// # Errors
/// See [`CodecError`].
pub(crate) fn decode_base64(codec: Codec, text: &str) -> Result<Vec<i16>, CodecError> {
    decode(codec, &STANDARD.decode(text)?)
}

/// A message of JSON with one frame as base64 in it. `before` and `after` are written as they stand, so that what is in
/// them has to need no escaping. A phone among a thousand says it 50 times a second, which a tree of values makes dear.
pub(crate) fn around_base64(
    before: fmt::Arguments<'_>,
    bytes: &[u8],
    after: fmt::Arguments<'_>,
) -> Message {
    /// The longest of what stands around a frame, so that it is allocated once.
    const AROUND: usize = 512;
    let mut text = String::with_capacity(AROUND + bytes.len().div_ceil(3) * 4);
    let _ = text.write_fmt(before);
    STANDARD.encode_string(bytes, &mut text);
    let _ = text.write_fmt(after);
    Message::text(text)
}

/// ITU-T G.711 mu-law, the 16 bit sign and magnitude variant.
fn ulaw_from_pcm(sample: i16) -> u8 {
    const BIAS: u32 = 132;
    const CLIP: u32 = 32_635;
    let magnitude = u32::from(sample.unsigned_abs()).min(CLIP) + BIAS;
    let exponent = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

fn pcm_from_ulaw(code: u8) -> i16 {
    let code = !code;
    let exponent = (code >> 4) & 7;
    let mantissa = i32::from(code & 0x0F);
    let magnitude = (((mantissa << 3) + 132) << exponent) - 132;
    (if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }) as i16
}

/// ITU-T G.711 A-law, negative samples in one's complement.
fn alaw_from_pcm(sample: i16) -> u8 {
    let (mask, magnitude) = if sample >= 0 {
        (0xD5, sample >> 3)
    } else {
        (0x55, !sample >> 3)
    };
    let segment = (magnitude.max(16).ilog2() - 4) as u8;
    let mantissa = (magnitude >> segment.max(1)) as u8 & 0x0F;
    ((segment << 4) | mantissa) ^ mask
}

fn pcm_from_alaw(code: u8) -> i16 {
    let code = code ^ 0x55;
    let segment = (code >> 4) & 7;
    let step = (i16::from(code & 0x0F) << 4) + 8;
    let magnitude = match segment {
        0 => step,
        _ => (step + 0x100) << (segment - 1),
    };
    if code & 0x80 != 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Converts a whole clip from one rate to another, both in Hz and at least 1.
///
/// A Kaiser-windowed sinc of 32 zero crossings a side, one row of weights per phase: flat to 0.92 of the
/// lower Nyquist frequency, images and aliases about 80 dB down. No delay: the first sample stays first.
pub(crate) fn resample(samples: &[i16], from: u32, to: u32) -> Vec<i16> {
    if from == to || samples.is_empty() {
        return samples.to_vec();
    }
    let divisor = greatest_common_divisor(from, to);
    let (n_phases, stride) = ((to / divisor) as usize, (from / divisor) as usize);
    // Relative to the input rate; 0.96 leaves the transition band below the lower Nyquist frequency.
    let cutoff = 0.96 * (f64::from(to) / f64::from(from)).min(1.0);
    let half = (32.0 / cutoff).ceil() as usize;
    let rows: Vec<Vec<f64>> = (0..n_phases)
        .map(|phase| weights(phase as f64 / n_phases as f64, cutoff, half))
        .collect();

    let n_out = (samples.len() * n_phases).div_ceil(stride);
    (0..n_out)
        .map(|n| {
            let position = n * stride;
            let (index, row) = (position / n_phases, &rows[position % n_phases]);
            // Row entry k weighs input sample `index + k + 1 - half`.
            let first = (index + 1).checked_sub(half);
            let skipped = if first.is_none() { half - index - 1 } else { 0 };
            let window = samples[first.unwrap_or(0)..].iter().zip(&row[skipped..]);
            let sum: f64 = window.map(|(&s, w)| f64::from(s) * w).sum();
            sum.round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
        })
        .collect()
}

/// The filter's weights for an output that lies `fraction` after an input sample, summing to one.
fn weights(fraction: f64, cutoff: f64, half: usize) -> Vec<f64> {
    const KAISER_BETA: f64 = 8.0;
    let mut row: Vec<f64> = (0..2 * half)
        .map(|k| {
            let distance = (k as f64 + 1.0 - half as f64) - fraction;
            let x = PI * cutoff * distance;
            let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
            let edge = 1.0 - (distance / half as f64).powi(2);
            sinc * bessel_i0(KAISER_BETA * edge.max(0.0).sqrt())
        })
        .collect();
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|w| *w /= sum);
    row
}

/// The modified Bessel function of order zero, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..40 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn hex_digest(bytes: impl IntoIterator<Item = u8>) -> String {
        let bytes: Vec<u8> = bytes.into_iter().collect();
        Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    /// Digests of the whole tables, as the telephony reference (14.1) gives them.
    #[test]
    fn g711_tables_are_the_published_ones() {
        let table = |decode: fn(u8) -> i16| (0..=255).flat_map(move |c| decode(c).to_le_bytes());
        let every = || i16::MIN..=i16::MAX;
        assert_eq!(
            hex_digest(table(pcm_from_ulaw)),
            "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827"
        );
        assert_eq!(
            hex_digest(table(pcm_from_alaw)),
            "e04788d110e58ff8c70c93b8480190d973e3b67876b6119abbaec766cc75c174"
        );
        assert_eq!(
            hex_digest(every().map(ulaw_from_pcm)),
            "5ee7cf5f273f842d2234121e4cb0c98d6b20a99ac29026f94e05b36955b195be"
        );
        assert_eq!(
            hex_digest(every().map(alaw_from_pcm)),
            "38488f6fd710f4686360edc4d38639f96c491595ef93f8eb8d62d5e07ca6ce7b"
        );
    }

    fn tone(hz: f64, rate: u32) -> Vec<i16> {
        (0..rate)
            .map(|n| (10_000.0 * (2.0 * PI * hz * f64::from(n) / f64::from(rate)).sin()) as i16)
            .collect()
    }

    /// Error of a converted tone against the same tone made at the target rate, in dB below the tone.
    fn check_tone(hz: f64, from: u32, to: u32) {
        let (got, ideal) = (resample(&tone(hz, from), from, to), tone(hz, to));
        assert_eq!(got.len(), ideal.len(), "{from} -> {to}");
        // The edges of a clip that begins and ends in the middle of a tone are not comparable.
        let inner = to as usize / 20..got.len() - to as usize / 20;
        let power = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>();
        let wanted: Vec<f64> = ideal[inner.clone()].iter().map(|&s| s.into()).collect();
        let error: Vec<f64> = got[inner.clone()]
            .iter()
            .zip(&wanted)
            .map(|(&g, w)| f64::from(g) - w)
            .collect();
        let ratio = 10.0 * (power(&wanted) / power(&error).max(1e-9)).log10();
        assert!(ratio > 65.0, "{hz} Hz, {from} -> {to}: {ratio:.1} dB");
    }

    #[test]
    fn tones_keep_their_shape() {
        for from in [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000] {
            for to in [8_000, 16_000, 24_000] {
                check_tone(300.0, from, to);
                check_tone(3_400.0, from, to);
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_disappears() {
        let out = resample(&tone(5_000.0, 24_000), 24_000, 8_000);
        let worst = out[400..7_600].iter().map(|s| s.unsigned_abs()).max();
        assert!(worst <= Some(3), "{worst:?}");
        assert!(resample(&[], 8_000, 24_000).is_empty());
        assert_eq!(resample(&[7], 8_000, 24_000).len(), 3);
    }
}
