//! A polyphase FIR filter between two rates, on 16-bit samples.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

use wide::{i16x8, i32x4};

use super::SampleRate;

/// Samples of the lower rate that the filter spans. Half of it is the delay: 3 ms at 8 kHz, 1 ms at 24 kHz.
pub(super) const FIR_SPAN: usize = 48;
/// Middle of the filter's slope as a part of the lower Nyquist frequency. At 8 kHz the gain is -0.06 dB at 3.4 kHz,
/// -2.8 at 3.6, -15 at 3.8, and -60 or less from 4 kHz on (measured): nothing of a voice above 4 kHz folds back into
/// the telephone band, not even the 4.0-4.6 kHz that a filter centred on 4 kHz lets through.
const FIR_CUTOFF: f64 = 0.92;
/// Shape of the Kaiser window: 67 dB of stop band. G.711 itself leaves 37 dB on speech.
const FIR_KAISER_BETA: f64 = 6.0;
/// Fraction bits of a filter tap. Taps stay below 0.93, so 15 bits fit; the stop band then is limited by the window.
const FIR_TAP_BITS: u32 = 15;
/// Samples multiplied at a time.
const LANES: usize = 8;
/// Largest number of taps a phase: 48 kHz down to 8 kHz.
const FIR_MAX_TAPS: usize = FIR_SPAN * 6;

/// The taps of one ratio, shared by all calls.
struct Filter {
    /// Output samples for every `down` input samples; also the number of phases.
    up: usize,
    down: usize,
    /// Taps of one phase, a multiple of [`LANES`].
    n_taps: usize,
    /// Phase after phase, each with the tap of the oldest sample first.
    taps: Vec<i16x8>,
}

impl Filter {
    /// The filter between two rates. One of each ratio is made, when it is first needed, and kept.
    fn between(from: SampleRate, to: SampleRate) -> Arc<Self> {
        static FILTERS: Mutex<BTreeMap<(usize, usize), Arc<Filter>>> = Mutex::new(BTreeMap::new());
        let (from, to) = (from.hz() as usize, to.hz() as usize);
        let divisor = greatest_common_divisor(from, to);
        let (up, down) = (to / divisor, from / divisor);
        // A panic while a filter is made leaves the others as they were.
        let mut filters = FILTERS.lock().unwrap_or_else(PoisonError::into_inner);
        let filter = filters.entry((up, down));
        filter
            .or_insert_with(|| Arc::new(Self::design(up, down)))
            .clone()
    }

    /// A Kaiser-windowed sinc, sampled `max(up, down)` times as densely as the lower rate.
    fn design(up: usize, down: usize) -> Self {
        let density = up.max(down);
        let length = FIR_SPAN * density;
        let n_taps = length.div_ceil(up).next_multiple_of(LANES);
        // The first tap is zero, which makes the delay a whole number of samples of the lower rate.
        let centre = (length / 2) as f64;
        let bandwidth = FIR_CUTOFF / density as f64;
        let response: Vec<f64> = (0..length)
            .map(|n| {
                let x = n as f64 - centre;
                let window = bessel_i0(FIR_KAISER_BETA * (1.0 - (x / centre).powi(2)).sqrt());
                sinc(bandwidth * x) * if n == 0 { 0.0 } else { window }
            })
            // All phases have as many taps, and whole vectors of them.
            .chain(std::iter::repeat_n(0.0, n_taps * up - length))
            .collect();
        // Each phase sums to one, so that a constant keeps its level.
        let scale = up as f64 * f64::from(1_u32 << FIR_TAP_BITS) / response.iter().sum::<f64>();
        let taps: Vec<i16> = (0..up)
            .flat_map(|phase| (0..n_taps).rev().map(move |age| phase + up * age))
            .map(|n| (response[n] * scale).round() as i16)
            .collect();
        let (taps, _) = taps.as_chunks();
        let taps = taps.iter().map(|taps| i16x8::new(*taps)).collect();
        Self {
            up,
            down,
            n_taps,
            taps,
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (PI * x).sin() / (PI * x)
    }
}

/// The modified Bessel function of the first kind and order zero, by its series.
fn bessel_i0(x: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0;
    let mut k = 1.0;
    while term > sum * 1e-12 {
        term *= (x / (2.0 * k)).powi(2);
        sum += term;
        k += 1.0;
    }
    sum
}

/// A filter and what it remembers of one stream.
pub(super) struct FirState {
    filter: Arc<Filter>,
    /// Phase of the next output.
    phase: usize,
    /// How many input samples from now the next output is due; 0 is the very next.
    skip: usize,
    /// The last `n_taps - 1` input samples, oldest first.
    history: Box<[i16]>,
}

impl FirState {
    /// Between two rates, with silence behind it.
    pub(super) fn between(from: SampleRate, to: SampleRate) -> Self {
        let filter = Filter::between(from, to);
        Self {
            phase: 0,
            skip: 0,
            history: vec![0; filter.n_taps - 1].into_boxed_slice(),
            filter,
        }
    }

    /// Silence behind it again.
    pub(super) fn reset(&mut self) {
        self.phase = 0;
        self.skip = 0;
        self.history.fill(0);
    }

    /// Appends what `input` gives.
    pub(super) fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        let n_history = self.history.len();
        let (head, tail) = input.split_at(n_history.min(input.len()));
        // Windows that reach back into the history are read from a copy that joins both, all others from the input.
        let mut seam = [0_i16; 2 * FIR_MAX_TAPS];
        let seam = &mut seam[..n_history + head.len()];
        seam[..n_history].copy_from_slice(&self.history);
        seam[n_history..].copy_from_slice(head);
        self.convolve(seam, out);
        if tail.is_empty() {
            self.history.copy_from_slice(&seam[head.len()..]);
        } else {
            self.convolve(input, out);
            self.history.copy_from_slice(&input[tail.len()..]);
        }
    }

    /// Appends what is due while the window moves over `samples` one by one, from the first `n_taps` to the last.
    fn convolve(&mut self, samples: &[i16], out: &mut Vec<i16>) {
        // A sum of a length that the compiler knows takes little more than half the instructions. These are the lengths
        // between 8, 16, 24 and 48 kHz.
        match self.filter.n_taps / LANES {
            6 => self.convolve_by(samples, out, sum_of::<6>),
            9 => self.convolve_by(samples, out, sum_of::<9>),
            12 => self.convolve_by(samples, out, sum_of::<12>),
            18 => self.convolve_by(samples, out, sum_of::<18>),
            36 => self.convolve_by(samples, out, sum_of::<36>),
            _ => self.convolve_by(samples, out, sum_of_products),
        }
    }

    #[inline(always)]
    fn convolve_by(
        &mut self,
        samples: &[i16],
        out: &mut Vec<i16>,
        sum_of_products: impl Fn(&[[i16; LANES]], &[i16x8]) -> i32x4,
    ) {
        let Filter {
            up,
            down,
            n_taps,
            ref taps,
        } = *self.filter;
        let n_windows = (samples.len() + 1).saturating_sub(n_taps);
        let n_vectors = n_taps / LANES;
        let (whole, part) = (down / up, down % up);
        let (mut skip, mut phase) = (self.skip, self.phase);
        let start = out.len();
        let n_due = (n_windows * up)
            .saturating_sub(skip * up + phase)
            .div_ceil(down);
        out.resize(start + n_due, 0);
        for four in out[start..].chunks_mut(4) {
            // Four at a time, because four sums of lanes cost hardly more than one.
            let mut sums = [i32x4::ZERO; 4];
            for (sum, _) in sums.iter_mut().zip(&*four) {
                let (window, _) = samples[skip..][..n_taps].as_chunks();
                *sum = sum_of_products(window, &taps[phase * n_vectors..][..n_vectors]);
                phase += part;
                skip += whole;
                if phase >= up {
                    phase -= up;
                    skip += 1;
                }
            }
            // A copy of a length that the compiler does not know is a call.
            for (sample, rounded) in four.iter_mut().zip(rounded(sums)) {
                *sample = rounded;
            }
        }
        (self.skip, self.phase) = (skip - n_windows, phase);
    }
}

/// [`sum_of_products`] of so many vectors.
#[inline(always)]
fn sum_of<const N_VECTORS: usize>(window: &[[i16; LANES]], taps: &[i16x8]) -> i32x4 {
    let lengths = "both are as long as a phase";
    let window: &[[i16; LANES]; N_VECTORS] = window.try_into().expect(lengths);
    let taps: &[i16x8; N_VECTORS] = taps.try_into().expect(lengths);
    sum_of_products(window, taps)
}

/// Half the sum of the products, in four parts.
///
/// Each half of the filter keeps within 32 bits for every input, which a test shows for all filters; both together
/// would not, hence the halving.
#[inline(always)]
fn sum_of_products(window: &[[i16; LANES]], taps: &[i16x8]) -> i32x4 {
    let middle = taps.len().div_ceil(2);
    let (old, new) = window.split_at(middle);
    let (old_taps, new_taps) = taps.split_at(middle);
    let sum = |window: &[[i16; LANES]], taps: &[i16x8]| {
        let products = window.iter().zip(taps);
        // The plain sum over single samples is not what the compiler turns into `pmaddwd` alone.
        products.fold(i32x4::ZERO, |sum, (samples, taps)| {
            sum + i16x8::new(*samples).dot(*taps)
        })
    };
    (sum(old, old_taps) >> 1) + (sum(new, new_taps) >> 1)
}

/// Four output samples, clamped, from the parts of half their sums.
fn rounded(sums: [i32x4; 4]) -> [i16; 4] {
    const BITS: u32 = FIR_TAP_BITS - 1;
    let [a, b, c, d] = i32x4::transpose(sums);
    let sums = (a + b) + (c + d) + i32x4::splat(1 << (BITS - 1));
    (sums >> BITS as i32)
        .to_array()
        .map(|sum| sum.clamp(i16::MIN.into(), i16::MAX.into()) as i16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::goes_by_fft;

    fn all_states() -> impl Iterator<Item = FirState> {
        let pairs = SampleRate::ALL
            .into_iter()
            .flat_map(|from| SampleRate::ALL.map(|to| (from, to)));
        pairs
            .filter(|&(from, to)| from != to && !goes_by_fft(from, to))
            .map(|(from, to)| FirState::between(from, to))
    }

    fn true_sum(window: &[[i16; LANES]], taps: &[i16x8]) -> i64 {
        let taps = taps.iter().flat_map(|taps| taps.to_array());
        let products = window.as_flattened().iter().zip(taps);
        products
            .map(|(&sample, tap)| i64::from(sample) * i64::from(tap))
            .sum()
    }

    #[test]
    fn vectors_give_the_plain_sum_of_products() {
        let mut random = fastrand::Rng::with_seed(7);
        for mut state in all_states() {
            let filter = Arc::clone(&state.filter);
            let n_vectors = filter.n_taps / LANES;
            let samples: Vec<i16> = (0..filter.n_taps + 99).map(|_| random.i16(..)).collect();
            let mut out = Vec::new();
            state.convolve(&samples, &mut out);
            for (n, &found) in out.iter().enumerate() {
                let at = n * filter.down;
                let (window, _) = samples[at / filter.up..][..filter.n_taps].as_chunks();
                let taps = &filter.taps[at % filter.up * n_vectors..][..n_vectors];
                let sum = true_sum(window, taps) as f64 / f64::from(1_u32 << FIR_TAP_BITS);
                let expected = sum.clamp(i16::MIN.into(), i16::MAX.into());
                assert!(
                    (f64::from(found) - expected).abs() <= 0.51,
                    "{found} {expected}"
                );
            }
        }
    }

    #[test]
    fn the_loudest_input_is_clamped_and_stays_within_32_bits() {
        for mut state in all_states() {
            let filter = Arc::clone(&state.filter);
            for taps in filter.taps.chunks(filter.n_taps / LANES) {
                // The worst input has the sign of every tap. Vectors wrap without a word, so that the true sum is
                // compared.
                let worst = |sign: i16| -> Vec<[i16; LANES]> {
                    let far = |tap: i16| if tap * sign < 0 { i16::MIN } else { i16::MAX };
                    taps.iter().map(|taps| taps.to_array().map(far)).collect()
                };
                for sign in [1, -1] {
                    let window = worst(sign);
                    let half = true_sum(&window, taps) / 2;
                    assert!(i32::try_from(half + half.signum() * (1 << FIR_TAP_BITS)).is_ok());
                    let sum = sum_of_products(&window, taps).to_array();
                    let sum = sum.into_iter().fold(0_i32, i32::wrapping_add);
                    assert!((i64::from(sum) - half).abs() <= 8, "{sum} {half}");
                    let clamped = rounded([sum_of_products(&window, taps); 4]);
                    assert_eq!(clamped, [if sign > 0 { i16::MAX } else { i16::MIN }; 4]);
                }
            }
            let square: Vec<i16> = (0..4_800)
                .map(|n| if n / 10 % 2 == 0 { i16::MIN } else { i16::MAX })
                .collect();
            let mut out = Vec::new();
            state.process(&square, &mut out);
            assert_eq!(out.iter().max(), Some(&i16::MAX));
            assert_eq!(out.iter().min(), Some(&i16::MIN));
        }
    }

    #[test]
    fn the_state_of_a_call_is_small() {
        let longest = FirState::between(SampleRate::HZ_48000, SampleRate::HZ_8000);
        let n_bytes = size_of::<FirState>() + size_of_val(&*longest.history);
        assert!(n_bytes < 700, "{n_bytes}");
    }
}
