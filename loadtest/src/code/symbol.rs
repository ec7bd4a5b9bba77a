//! One frame's chord: 32 bits as three of six tones in each of eight groups.

use std::f32::consts::TAU;
use std::sync::Arc;

use super::MODULUS;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The call, modulo [`MODULUS`].
    pub call: u16,
    /// The frame within the call, modulo [`MODULUS`].
    pub sequence: u16,
}

/// Groups of tones; each says four bits.
pub(super) const N_GROUPS: usize = 8;

/// Tones of a group, of which three sound.
pub(super) const N_GROUP_TONES: usize = 6;

/// All tones.
pub(super) const N_TONES: usize = N_GROUPS * N_GROUP_TONES;

/// Tones sounding at a time in a group.
pub(super) const N_SOUNDING: usize = 3;

/// Between two tones: whole periods in 16 ms, so that tones do not leak into each other in a window of that length
/// anywhere within the frame's 20 ms.
const SPACING_HZ: f32 = 62.5;

/// The lowest tone is 312.5 Hz and the highest 3,250 Hz: within the telephone's 300 to 3,400 Hz.
const FIRST_TONE: usize = 5;

/// Of one tone. All 24 together peak below 19,200 whatever their phases, and are at -21 dBFS.
const AMPLITUDE: f32 = 800.0;

/// Fading at both ends, in ms: against clicks, which resamplers spread over neighbours.
const FADE_MS: f32 = 1.0;

/// Which tones sound for each of 16 values: three of six, as bits.
const PATTERNS: [u8; 16] = {
    let (mut patterns, mut n, mut bits) = ([0; 16], 0, 0u8);
    while n < 16 {
        if bits.count_ones() == 3 {
            patterns[n] = bits;
            n += 1;
        }
        bits += 1;
    }
    patterns
};

impl Stamp {
    /// A stamp of these numbers, of any size.
    #[must_use]
    pub fn new(call: u64, frame: u64) -> Self {
        let modulus = u64::from(MODULUS);
        Self {
            call: (call % modulus) as u16,
            sequence: (frame % modulus) as u16,
        }
    }

    fn bits(self) -> u32 {
        let body = u32::from(self.call) << 12 | u32::from(self.sequence);
        body << 8 | u32::from(checksum(body))
    }

    fn from_bits(bits: u32) -> Option<Self> {
        let body = bits >> 8;
        (checksum(body) == bits as u8).then_some(Self {
            call: (body >> 12) as u16,
            sequence: (body & 0xFFF) as u16,
        })
    }
}

/// Frequency of a tone, in Hz.
pub(super) fn frequency(tone: usize) -> f32 {
    (FIRST_TONE + tone) as f32 * SPACING_HZ
}

/// For each group, the tones that sound.
fn patterns(stamp: Stamp) -> [u8; N_GROUPS] {
    let bits = stamp.bits();
    std::array::from_fn(|group| PATTERNS[(bits >> (4 * group)) as usize & 0xF])
}

/// The stamp whose chord it is, if it is one.
pub(super) fn read(sounding: [u8; N_GROUPS]) -> Option<Stamp> {
    let mut bits = 0;
    for (group, pattern) in sounding.into_iter().enumerate() {
        let value = PATTERNS.iter().position(|known| *known == pattern)?;
        bits |= (value as u32) << (4 * group);
    }
    Stamp::from_bits(bits)
}

/// CRC-8 of 24 bits, polynomial 0x2F (AUTOSAR): finds up to three wrong bits in a word so short.
fn checksum(body: u32) -> u8 {
    let mut crc = 0xFFu8;
    for byte in body.to_be_bytes().into_iter().skip(1) {
        crc ^= byte;
        for _ in 0..8 {
            crc = if crc & 0x80 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x2F
            };
        }
    }
    !crc
}

/// Writes frames at one sample rate. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// 20 ms of each tone, one after the other.
    tones: Arc<[f32]>,
    n_samples: usize,
}

impl Encoder {
    /// `rate` in Hz.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        let n_samples = rate as usize / 50;
        let n_fade = FADE_MS / 1_000.0 * rate as f32;
        let tone = |tone: usize| {
            // Phases that grow with the square keep the peaks of a chord apart.
            let phase = TAU * (tone * tone) as f32 / (2 * N_TONES) as f32;
            let step = TAU * frequency(tone) / rate as f32;
            (0..n_samples).map(move |n| {
                let from_edge = (n.min(n_samples - 1 - n) as f32 + 0.5) / n_fade;
                let fade = 0.5 - 0.5 * (TAU / 2.0 * from_edge.min(1.0)).cos();
                AMPLITUDE * fade * (step * n as f32 + phase).sin()
            })
        };
        Self {
            tones: (0..N_TONES).flat_map(tone).collect(),
            n_samples,
        }
    }

    /// Fills `frame`, 20 ms at the encoder's rate; what is shorter gets the beginning.
    pub fn write(&self, stamp: Stamp, frame: &mut [i16]) {
        // 20 ms at 48 kHz, the widest that is spoken; it lives on the stack.
        let mut sum = [0.0f32; 960];
        let n = frame.len().min(self.n_samples).min(sum.len());
        let sum = &mut sum[..n];
        for (group, pattern) in patterns(stamp).into_iter().enumerate() {
            for tone in (0..N_GROUP_TONES).filter(|tone| pattern >> tone & 1 == 1) {
                let start = (group * N_GROUP_TONES + tone) * self.n_samples;
                for (sum, tone) in sum.iter_mut().zip(&self.tones[start..start + n]) {
                    *sum += tone;
                }
            }
        }
        for (sample, sum) in frame.iter_mut().zip(sum) {
            *sample = *sum as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_back_and_wrong_ones_refused() {
        for call in [0, 1, 77, 4_095, 4_096] {
            for frame in [0, 1, 2_048, 4_095, 5_000] {
                let stamp = Stamp::new(call, frame);
                assert_eq!(read(patterns(stamp)), Some(stamp));
                for bit in 0..32 {
                    assert_eq!(Stamp::from_bits(stamp.bits() ^ 1 << bit), None);
                }
            }
        }
        assert_eq!(read([0; N_GROUPS]), None);
    }

    #[test]
    fn frames_are_loud_and_never_clip() {
        let encoder = Encoder::new(24_000);
        let mut frame = [0i16; 480];
        for n in 0..500 {
            encoder.write(Stamp::new(n, n * 7), &mut frame);
            let peak = frame.iter().map(|s| s.unsigned_abs()).max();
            assert!(peak < Some(19_200), "{peak:?}");
            let level = trunkline::simulator::judge::level_dbfs(&frame);
            assert!((-24.0..-19.0).contains(&level), "{level}");
        }
    }
}
