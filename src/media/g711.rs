//! ITU-T G.711, both laws, by table.
//!
//! The mu-law encoder is the 16-bit sign/magnitude variant (reference `telephony-dialects`, 14.1): the magnitude
//! of a negative sample is its absolute value. Two other variants in common use differ from it in 127 and 381 of
//! the 65,536 inputs, all on decision boundaries and inaudible. A-law takes one's-complement negatives, as the ITU does.

use std::sync::LazyLock;

/// One of the two companding laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// North America and Japan.
    Mu,
    /// Europe and international links.
    A,
}

impl Law {
    /// The byte of silence: +0 in mu-law, +8 in A-law, which has no zero.
    pub(crate) const fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xFF,
            Self::A => 0xD5,
        }
    }

    /// Writes the samples of `codes` over the first `codes.len()` places of `pcm`, which must have as many.
    pub(crate) fn decode(self, codes: &[u8], pcm: &mut [i16]) {
        let table = match self {
            Self::Mu => &MU_DECODE,
            Self::A => &A_DECODE,
        };
        debug_assert!(pcm.len() >= codes.len());
        for (sample, &code) in pcm.iter_mut().zip(codes) {
            *sample = table[usize::from(code)];
        }
    }

    /// Appends the codes of `pcm` to `codes`.
    pub(crate) fn encode(self, pcm: &[i16], codes: &mut Vec<u8>) {
        let table: &[u8; N_PCM] = match self {
            Self::Mu => &MU_ENCODE,
            Self::A => &A_ENCODE,
        };
        codes.extend(
            pcm.iter()
                .map(|&sample| table[usize::from(sample.cast_unsigned())]),
        );
    }
}

/// Writes the mu-law code of each sample of `pcm` (two bytes, little-endian) over the first places of `codes`.
///
/// Samples beyond the places, and half of one at the end, are left out.
pub fn compand(pcm: &[u8], codes: &mut [u8]) {
    let table: &[u8; N_PCM] = &MU_ENCODE;
    let (samples, _) = pcm.as_chunks::<2>();
    for (code, sample) in codes.iter_mut().zip(samples) {
        *code = table[usize::from(u16::from_le_bytes(*sample))];
    }
}

/// Writes the sample of each of `codes` over the first places of `pcm`, as [`compand`] reads them.
pub fn expand(codes: &[u8], pcm: &mut [u8]) {
    let (samples, _) = pcm.as_chunks_mut::<2>();
    for (sample, code) in samples.iter_mut().zip(codes) {
        *sample = MU_DECODE[usize::from(*code)].to_le_bytes();
    }
}

/// Values of a 16-bit sample.
const N_PCM: usize = 1 << 16;

static MU_DECODE: [i16; 256] = decode_table(Law::Mu);
static A_DECODE: [i16; 256] = decode_table(Law::A);
static MU_ENCODE: LazyLock<Box<[u8; N_PCM]>> = LazyLock::new(|| encode_table(mu_encode));
static A_ENCODE: LazyLock<Box<[u8; N_PCM]>> = LazyLock::new(|| encode_table(a_encode));

const fn decode_table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = match law {
            Law::Mu => mu_decode(code as u8),
            Law::A => a_decode(code as u8),
        };
        code += 1;
    }
    table
}

fn encode_table(encode: fn(i16) -> u8) -> Box<[u8; N_PCM]> {
    let mut table = Box::new([0; N_PCM]);
    for (index, code) in (0..=u16::MAX).zip(table.iter_mut()) {
        *code = encode(index.cast_signed());
    }
    table
}

/// Added to a mu-law magnitude so that segments begin at powers of two (132 on the 16-bit scale).
const MU_BIAS: i32 = 0x84;
/// The largest magnitude that mu-law tells apart.
const MU_CLIP: i32 = 32_635;
/// A-law inverts the even bits, so that an idle line is rich in ones.
const A_EVEN_BITS: u8 = 0x55;
const SIGN: u8 = 0x80;

const fn mu_decode(code: u8) -> i16 {
    let bits = !code;
    let exponent = (bits >> 4) & 0x07;
    let mantissa = (bits & 0x0F) as i32;
    let magnitude = (((mantissa << 3) + MU_BIAS) << exponent) - MU_BIAS;
    // At most 32,124, so the cast keeps the value.
    (if bits & SIGN == 0 {
        magnitude
    } else {
        -magnitude
    }) as i16
}

const fn a_decode(code: u8) -> i16 {
    let bits = code ^ A_EVEN_BITS;
    let exponent = (bits >> 4) & 0x07;
    let step = ((bits & 0x0F) as i32) << 4;
    let magnitude = match exponent {
        0 => step + 0x08,
        _ => (step + 0x108) << (exponent - 1),
    };
    // At most 32,256, so the cast keeps the value. The sign bit is set on positive samples.
    (if bits & SIGN == 0 {
        -magnitude
    } else {
        magnitude
    }) as i16
}

fn mu_encode(sample: i16) -> u8 {
    let magnitude = i32::from(sample).abs().min(MU_CLIP) + MU_BIAS;
    // The bias makes 128 the least magnitude: its highest bit is bit 7 in segment 0, bit 14 in segment 7.
    let exponent = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    let sign = if sample < 0 { SIGN } else { 0 };
    !(sign | (exponent << 4) as u8 | mantissa as u8)
}

fn a_encode(sample: i16) -> u8 {
    let (magnitude, sign) = if sample < 0 {
        (!sample, 0)
    } else {
        (sample, SIGN)
    };
    let magnitude = magnitude >> 3;
    let code = if magnitude < 32 {
        magnitude >> 1
    } else {
        let exponent = magnitude.ilog2() - 4;
        ((exponent << 4) as i16) | ((magnitude >> exponent) & 0x0F)
    };
    (code as u8 | sign) ^ A_EVEN_BITS
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn encode_one(law: Law, sample: i16) -> u8 {
        let mut codes = Vec::new();
        law.encode(&[sample], &mut codes);
        codes[0]
    }

    #[test]
    fn pcm_is_companded_to_the_nearest_code() {
        let pcm: Vec<u8> = [0_i16, 8, -8, 1_000, -32_768, 32_767]
            .into_iter()
            .flat_map(i16::to_le_bytes)
            .collect();
        let mut codes = [0; 6];
        compand(&pcm[..11], &mut codes);
        assert_eq!(codes[5], 0, "half a sample is none");
        compand(&pcm, &mut codes);
        let mut again = [0; 12];
        expand(&codes, &mut again);
        let again: Vec<i16> = again
            .chunks(2)
            .map(|it| i16::from_le_bytes([it[0], it[1]]))
            .collect();
        assert_eq!(again, [0, 8, -8, 988, -32_124, 32_124]);
    }

    fn decode_one(law: Law, code: u8) -> i16 {
        let mut pcm = [0];
        law.decode(&[code], &mut pcm);
        pcm[0]
    }

    fn hex_sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[test]
    fn decode_tables_match_the_reference() {
        fn check(law: Law, digest: &str) {
            let bytes: Vec<u8> = (0..=u8::MAX)
                .flat_map(|code| decode_one(law, code).to_le_bytes())
                .collect();
            assert_eq!(hex_sha256(&bytes), digest, "{law:?}");
        }
        check(
            Law::Mu,
            "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827",
        );
        check(
            Law::A,
            "e04788d110e58ff8c70c93b8480190d973e3b67876b6119abbaec766cc75c174",
        );
    }

    #[test]
    fn encode_tables_match_the_reference() {
        fn check(law: Law, digest: &str) {
            let pcm: Vec<i16> = (i16::MIN..=i16::MAX).collect();
            let mut codes = Vec::new();
            law.encode(&pcm, &mut codes);
            assert_eq!(hex_sha256(&codes), digest, "{law:?}");
        }
        check(
            Law::Mu,
            "5ee7cf5f273f842d2234121e4cb0c98d6b20a99ac29026f94e05b36955b195be",
        );
        check(
            Law::A,
            "38488f6fd710f4686360edc4d38639f96c491595ef93f8eb8d62d5e07ca6ce7b",
        );
    }

    #[test]
    fn decode_spot_values() {
        fn check(code: u8, mu: i16, a: i16) {
            assert_eq!(
                (decode_one(Law::Mu, code), decode_one(Law::A, code)),
                (mu, a),
                "{code:02X}"
            );
        }
        check(0x00, -32_124, -5_504);
        check(0x2A, -5_372, -32_256);
        check(0x55, -716, -8);
        check(0x7F, 0, -848);
        check(0x80, 32_124, 5_504);
        check(0xD5, 716, 8);
        check(0xFF, 0, 848);
        assert_eq!(decode_one(Law::Mu, 0x10), -15_996);
        assert_eq!(decode_one(Law::A, 0xAA), 32_256);
    }

    #[test]
    fn encode_spot_values() {
        fn check(sample: i16, mu: u8, a: u8) {
            assert_eq!(
                (encode_one(Law::Mu, sample), encode_one(Law::A, sample)),
                (mu, a),
                "{sample}"
            );
        }
        check(0, 0xFF, 0xD5);
        check(8, 0xFE, 0xD5);
        check(100, 0xF2, 0xD3);
        check(1_000, 0xCE, 0xFA);
        check(8_159, 0x9F, 0x8A);
        check(16_000, 0x90, 0xBA);
        check(32_767, 0x80, 0xAA);
        check(-1, 0x7F, 0x55);
        check(-8, 0x7E, 0x55);
        check(-100, 0x72, 0x53);
        check(-1_000, 0x4E, 0x7A);
        check(-8_159, 0x1F, 0x0A);
        check(-16_000, 0x10, 0x3A);
        check(-32_768, 0x00, 0x2A);
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=u8::MAX {
            // 0x7F is -0, and the encoder knows one zero only.
            let expected = if code == 0x7F { 0xFF } else { code };
            assert_eq!(encode_one(Law::Mu, decode_one(Law::Mu, code)), expected);
            assert_eq!(encode_one(Law::A, decode_one(Law::A, code)), code);
        }
    }

    #[test]
    fn every_sample_comes_back_within_half_a_step_and_settles() {
        fn check(law: Law, sample: i16) {
            let code = encode_one(law, sample);
            let decoded = decode_one(law, code);
            let error = (i32::from(sample) - i32::from(decoded)).abs();
            let magnitude = i32::from(sample).abs();
            // Half of a step, which is 1/16 of where its segment begins; above its clipping point mu-law stays at 32,124.
            let clipped = law == Law::Mu && magnitude > MU_CLIP;
            let tolerance = if clipped { 644 } else { magnitude / 32 + 8 };
            assert!(error <= tolerance, "{law:?} {sample} became {decoded}");
            let again = encode_one(law, decoded);
            let minus_zero = law == Law::Mu && code == 0x7F;
            assert!(again == code || minus_zero, "{law:?} {sample}");
        }
        for sample in i16::MIN..=i16::MAX {
            check(Law::Mu, sample);
            check(Law::A, sample);
        }
    }

    #[test]
    fn silence_bytes_are_the_codes_of_zero() {
        assert_eq!(Law::Mu.silence(), encode_one(Law::Mu, 0));
        assert_eq!(Law::A.silence(), encode_one(Law::A, 0));
    }
}
