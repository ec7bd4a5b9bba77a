//! A polyphase FIR filter between two rates, on 16-bit samples: the same output samples on every processor.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

use super::SampleRate;
use super::vectors::{BLOCK, LANES, Vectors, Work, do_by_best};

/// Samples of the lower rate that the filter spans. Half of it is the delay: 3 ms at 8 kHz, 1 ms at 24 kHz.
pub(super) const FIR_SPAN: usize = 48;
/// Middle of the filter's slope as a part of the lower Nyquist frequency. At 8 kHz the gain is -0.08 dB at 3.4 kHz,
/// -2.9 at 3.6, -15 at 3.8, and -60 or less from 4 kHz on, which a test measures: nothing of a voice above 4 kHz folds back
/// into the telephone band, not even the 4.0-4.6 kHz that a filter centred on 4 kHz lets through.
const FIR_CUTOFF: f64 = 0.919;
/// Shape of the Kaiser window: 67 dB of stop band before taps are rounded. G.711 itself leaves 37 dB on speech.
const FIR_KAISER_BETA: f64 = 6.05;
/// Fraction bits of a filter tap. No filter's taps of one phase add up to 4 in size, which a test shows, so that with 14 bits every sum is
/// within 32 bits whatever is heard. How they are rounded decides the last decibels: with the cutoff and the window above, all are 61 dB down; from
/// 48 to 8 kHz, where taps are smallest, a cutoff of 0.92 and a window of 6.0 leave 57.
const FIR_TAP_BITS: i32 = 14;
/// Largest number of taps a phase: 48 kHz down to 8 kHz.
const FIR_MAX_TAPS: usize = FIR_SPAN * 6;
/// Samples that are filtered at a time: 20 ms at 24 kHz.
const FIR_PIECE: usize = 480;

/// The taps of one ratio, shared by all calls.
struct Filter {
    /// Output samples for every `down` input samples; also the number of phases.
    up: usize,
    down: usize,
    /// Taps of one phase, a multiple of [`LANES`].
    n_taps: usize,
    /// Phase after phase, each with the tap of the oldest sample first.
    taps: Vec<i16>,
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
        let scale = up as f64 * f64::from(1_i32 << FIR_TAP_BITS) / response.iter().sum::<f64>();
        let taps = (0..up)
            .flat_map(|phase| (0..n_taps).rev().map(move |age| phase + up * age))
            .map(|n| (response[n] * scale).round() as i16)
            .collect();
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

/// Which output is next.
#[derive(Clone, Copy, Default)]
struct Next {
    phase: usize,
    /// How many input samples from now it is due; 0 is the very next.
    skip: usize,
}

/// A filter and what it remembers of one stream.
pub(super) struct FirState {
    filter: Arc<Filter>,
    next: Next,
    /// The last `n_taps - 1` input samples, oldest first.
    history: Box<[i16]>,
}

impl FirState {
    /// Between two rates, with silence behind it.
    pub(super) fn between(from: SampleRate, to: SampleRate) -> Self {
        let filter = Filter::between(from, to);
        Self {
            next: Next::default(),
            history: vec![0; filter.n_taps - 1].into_boxed_slice(),
            filter,
        }
    }

    /// Silence behind it again.
    pub(super) fn reset(&mut self) {
        self.next = Next::default();
        self.history.fill(0);
    }

    /// Appends what `input` gives.
    pub(super) fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        let n_history = self.history.len();
        let mut samples = [0_i16; FIR_MAX_TAPS + FIR_PIECE];
        for piece in input.chunks(FIR_PIECE) {
            let samples = &mut samples[..n_history + piece.len()];
            samples[..n_history].copy_from_slice(&self.history);
            samples[n_history..].copy_from_slice(piece);
            do_by_best(Convolve {
                filter: &self.filter,
                next: &mut self.next,
                samples,
                out,
            });
            self.history.copy_from_slice(&samples[piece.len()..]);
        }
    }
}

/// Appends what is due while the window moves over `samples` one by one, from the first `n_taps` to the last.
struct Convolve<'a> {
    filter: &'a Filter,
    next: &'a mut Next,
    samples: &'a [i16],
    out: &'a mut Vec<i16>,
}

impl Work for Convolve<'_> {
    #[inline(always)]
    fn by(self, vectors: impl Vectors) {
        let Self {
            filter,
            next,
            samples,
            out,
        } = self;
        let n_windows = (samples.len() + 1).saturating_sub(filter.n_taps);
        let n_due = (n_windows * filter.up)
            .saturating_sub(next.skip * filter.up + next.phase)
            .div_ceil(filter.down);
        let start = out.len();
        out.resize(start + n_due, 0);
        let out = &mut out[start..];
        // Where each sample begins a cycle, as when a phone's audio becomes the model's, whole blocks of windows go at once.
        let n_done = match (filter.down, filter.up) {
            (1, 2) => filter.blocks::<2>(vectors, samples, out),
            (1, 3) => filter.blocks::<3>(vectors, samples, out),
            (1, 4) => filter.blocks::<4>(vectors, samples, out),
            (1, 6) => filter.blocks::<6>(vectors, samples, out),
            _ => 0,
        };
        let (samples, out) = (&samples[n_done..], &mut out[n_done * filter.up..]);
        // A sum of a length that the compiler knows takes little more than half the instructions. These are the lengths
        // between 8, 16, 24 and 48 kHz.
        match filter.n_taps / LANES {
            3 => next.sums::<3>(filter, vectors, samples, out),
            5 => next.sums::<5>(filter, vectors, samples, out),
            6 => next.sums::<6>(filter, vectors, samples, out),
            9 => next.sums::<9>(filter, vectors, samples, out),
            18 => next.sums::<18>(filter, vectors, samples, out),
            _ => next.sums::<ANY>(filter, vectors, samples, out),
        }
    }
}

impl Filter {
    /// Writes `UP` outputs for each of whole blocks of windows, and says of how many windows.
    #[inline(always)]
    fn blocks<const UP: usize>(
        &self,
        vectors: impl Vectors,
        samples: &[i16],
        out: &mut [i16],
    ) -> usize {
        let (cycles, _) = out.as_chunks_mut::<UP>();
        let (blocks, _) = cycles.as_chunks_mut::<BLOCK>();
        let n_samples = BLOCK - 1 + self.n_taps;
        for (n, block) in blocks.iter_mut().enumerate() {
            let samples = &samples[n * BLOCK..][..n_samples];
            for (phase, taps) in self.taps.chunks_exact(self.n_taps).enumerate().take(UP) {
                let sums = vectors.convolve::<FIR_TAP_BITS>(samples, taps.as_chunks().0);
                for (cycle, sum) in block.iter_mut().zip(sums) {
                    cycle[phase] = sum;
                }
            }
        }
        blocks.len() * BLOCK
    }
}

impl Next {
    /// Writes to `out` what is due, one sum for each.
    #[inline(always)]
    fn sums<const N_VECTORS: usize>(
        &mut self,
        filter: &Filter,
        vectors: impl Vectors,
        samples: &[i16],
        out: &mut [i16],
    ) {
        let n_windows = (samples.len() + 1).saturating_sub(filter.n_taps);
        let step = Step::of(filter);
        let mut next = *self;
        // Four at a time, because four sums of lanes cost hardly more than one.
        let (fours, rest) = out.as_chunks_mut::<4>();
        for four in fours {
            let mut sums = [vectors.zero(); 4];
            for sum in &mut sums {
                let (window, taps) = next.due(filter, samples);
                *sum = sum_of_products::<N_VECTORS, _>(vectors, window, taps);
                next.go(step);
            }
            *four = vectors.rounded::<FIR_TAP_BITS>(sums);
        }
        for last in rest {
            let (window, taps) = next.due(filter, samples);
            let sum = sum_of_products::<N_VECTORS, _>(vectors, window, taps);
            next.go(step);
            [*last, ..] = vectors.rounded::<FIR_TAP_BITS>([sum; 4]);
        }
        self.phase = next.phase;
        self.skip = next.skip - n_windows;
    }

    /// What is multiplied for this output.
    #[inline(always)]
    fn due<'a>(
        self,
        filter: &'a Filter,
        samples: &'a [i16],
    ) -> (&'a [[i16; LANES]], &'a [[i16; LANES]]) {
        let (window, _) = samples[self.skip..][..filter.n_taps].as_chunks();
        let (taps, _) = filter.taps[self.phase * filter.n_taps..][..filter.n_taps].as_chunks();
        (window, taps)
    }

    /// To the output after this.
    #[inline(always)]
    fn go(&mut self, step: Step) {
        self.phase += step.part;
        self.skip += step.whole;
        if self.phase >= step.up {
            self.phase -= step.up;
            self.skip += 1;
        }
    }
}

/// From one output to the next: so many samples and `part` of `up`.
#[derive(Clone, Copy)]
struct Step {
    whole: usize,
    part: usize,
    up: usize,
}

impl Step {
    fn of(filter: &Filter) -> Self {
        Self {
            whole: filter.down / filter.up,
            part: filter.down % filter.up,
            up: filter.up,
        }
    }
}

/// In the place of a number of vectors that the compiler is not to know.
const ANY: usize = 0;

/// Of so many vectors.
#[inline(always)]
fn sum_of_products<const N_VECTORS: usize, V: Vectors>(
    vectors: V,
    window: &[[i16; LANES]],
    taps: &[[i16; LANES]],
) -> V::Sum {
    let n_vectors = if N_VECTORS == ANY {
        taps.len()
    } else {
        N_VECTORS
    };
    let mut sum = vectors.zero();
    for (samples, taps) in window[..n_vectors].iter().zip(&taps[..n_vectors]) {
        sum = vectors.add(sum, samples, taps);
    }
    sum
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

    /// What a filter that has been silent gives, each sum for itself.
    fn plain(filter: &Filter, input: &[i16]) -> Vec<i16> {
        let mut samples = vec![0; filter.n_taps - 1];
        samples.extend(input);
        let n_due = (input.len() * filter.up).div_ceil(filter.down);
        let sum = |n: usize| {
            let at = n * filter.down;
            let window = &samples[at / filter.up..][..filter.n_taps];
            let taps = &filter.taps[at % filter.up * filter.n_taps..];
            let products = window.iter().zip(taps);
            let sum: i64 = products.map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
            let rounded = (sum + (1 << (FIR_TAP_BITS - 1))) >> FIR_TAP_BITS;
            rounded.clamp(i16::MIN.into(), i16::MAX.into()) as i16
        };
        (0..n_due).map(sum).collect()
    }

    #[test]
    fn vectors_give_the_plain_sums_of_products_however_the_input_is_cut() {
        let mut random = fastrand::Rng::with_seed(7);
        for mut state in all_states() {
            let input: Vec<i16> = (0..5_000).map(|_| random.i16(..)).collect();
            let (mut out, mut rest) = (Vec::new(), &input[..]);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(..1_100).min(rest.len()));
                state.process(piece, &mut out);
                rest = after;
            }
            assert_eq!(out, plain(&state.filter, &input));
        }
    }

    #[test]
    fn the_loudest_input_is_clamped_and_stays_within_32_bits() {
        for mut state in all_states() {
            for taps in state.filter.taps.chunks(state.filter.n_taps) {
                // The worst input has the sign of every tap.
                let size: i64 = taps.iter().map(|tap| i64::from(tap.unsigned_abs())).sum();
                assert!(size < 4 << FIR_TAP_BITS, "{size}");
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

    /// The gain at a multiple of the lower rate's Nyquist frequency.
    fn gain_db(filter: &Filter, frequency: f64) -> f64 {
        let turn = PI * frequency / filter.up.max(filter.down) as f64;
        let (sine, cosine) = turn.sin_cos();
        let (mut x, mut y, mut sum) = (1.0, 0.0, (0.0, 0.0));
        for n in 0..filter.n_taps * filter.up {
            // The first in time is the last of the first phase.
            let at = (n % filter.up + 1) * filter.n_taps - 1 - n / filter.up;
            let tap = f64::from(filter.taps[at]);
            sum = (sum.0 + tap * x, sum.1 + tap * y);
            (x, y) = (x * cosine - y * sine, x * sine + y * cosine);
        }
        let unit = filter.up as f64 * f64::from(1_i32 << FIR_TAP_BITS);
        20.0 * (f64::hypot(sum.0, sum.1) / unit).log10()
    }

    #[test]
    fn every_filter_is_60_db_down_from_the_lower_nyquist_frequency_on() {
        for filter in all_states().map(|state| state.filter) {
            let (up, down) = (filter.up, filter.down);
            assert!(gain_db(&filter, 0.0).abs() < 0.02, "{up}/{down}");
            // Beyond that, images and aliases are weaker still.
            let n_nyquist = up.max(down).min(8);
            for n in 100..=100 * n_nyquist {
                let gain = gain_db(&filter, n as f64 / 100.0);
                assert!(gain <= -60.0, "{up}/{down} at {n} %: {gain} dB");
            }
        }
    }

    #[test]
    fn the_state_of_a_call_is_small() {
        let longest = FirState::between(SampleRate::HZ_48000, SampleRate::HZ_8000);
        let n_bytes = size_of::<FirState>() + size_of_val(&*longest.history);
        assert!(n_bytes < 700, "{n_bytes}");
    }
}
