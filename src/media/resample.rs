//! Sample rate conversion of one mono stream, state kept from one call of [`Resampler::process`] to the next.
//!
//! Between most rates a polyphase FIR filter works on 16-bit samples: any input length, output as soon as its input is
//! there, 3 ms of delay or less. Whatever touches 44.1 kHz goes through rubato's FFT in blocks of 10 ms.
//! `costs`, chapter 3, compares the alternatives. It does not mix channels, and drifting clocks are not its matter.

use std::fmt;
use std::time::Duration;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use super::SampleRate;
use super::fir::{FIR_SPAN, FirState};

/// Converts a stream of samples from one rate to another.
pub struct Resampler {
    from: SampleRate,
    to: SampleRate,
    method: Method,
}

enum Method {
    Identity,
    Fir(FirState),
    Fft(Box<FftState>),
}

impl Resampler {
    /// A converter with silence behind it.
    ///
    /// A FIR converter is below 700 bytes, because all calls share the filters; an FFT one is about
    /// 30 kB.
    #[must_use]
    pub fn new(from: SampleRate, to: SampleRate) -> Self {
        let method = if from == to {
            Method::Identity
        } else if goes_by_fft(from, to) {
            Method::Fft(Box::new(FftState::new(from, to)))
        } else {
            Method::Fir(FirState::between(from, to))
        };
        Self { from, to, method }
    }

    /// Converts `input` and appends the result to `out`.
    ///
    /// After `n` samples in all, `n * to / from` (rounded up) have been appended; 20 ms always give 20 ms. Only with
    /// 44.1 kHz may up to 10 ms wait for the rest of their block, and only where input is cut off the 10 ms grid.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        match &mut self.method {
            Method::Identity => out.extend_from_slice(input),
            Method::Fir(state) => state.process(input, out),
            Method::Fft(state) => state.process(input, out),
        }
    }

    /// Forgets what came before, so that nothing of it is heard in what comes next.
    pub fn reset(&mut self) {
        match &mut self.method {
            Method::Identity => {}
            Method::Fir(state) => state.reset(),
            Method::Fft(state) => state.reset(),
        }
    }

    /// How much later a sound leaves than it entered, apart from waiting for a block to fill.
    #[must_use]
    pub fn delay(&self) -> Duration {
        match &self.method {
            Method::Identity => Duration::ZERO,
            Method::Fir(_) => self.from.min(self.to).duration_of(FIR_SPAN / 2),
            Method::Fft(_) => FFT_BLOCK / 2,
        }
    }

    /// Whether input and output have the same rate.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.method, Method::Identity)
    }

    /// The rate of the input.
    #[must_use]
    pub fn from_rate(&self) -> SampleRate {
        self.from
    }

    /// The rate of the output.
    #[must_use]
    pub fn to_rate(&self) -> SampleRate {
        self.to
    }
}

/// Whether it is 44.1 kHz and another rate that makes whole blocks of 10 ms with it.
pub(super) fn goes_by_fft(from: SampleRate, to: SampleRate) -> bool {
    let (low, high) = (from.min(to), from.max(to));
    let is_in_whole_blocks = low.hz() % 100 == 0;
    is_in_whole_blocks && (low == SampleRate::HZ_44100 || high == SampleRate::HZ_44100)
}

/// The method and its delay, as in `fir, 3.0 ms`.
impl fmt::Display for Resampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Identity => return f.write_str("direct"),
            Method::Fir(_) => "fir",
            Method::Fft(_) => "fft",
        };
        write!(f, "{method}, {:.1} ms", self.delay().as_secs_f64() * 1e3)
    }
}

impl fmt::Debug for Resampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resampler({} -> {}, {self})", self.from, self.to)
    }
}

/// Block of the FFT converter. 10 ms is the longest block whose delay, half a block, is within 5 ms.
const FFT_BLOCK: Duration = Duration::from_millis(10);

struct FftState {
    fft: Fft<f32>,
    /// Input of the block that is not yet complete, in -1..1.
    pending: Vec<f32>,
    n_block_in: usize,
    block_out: Vec<f32>,
}

impl FftState {
    fn new(from: SampleRate, to: SampleRate) -> Self {
        let [n_block_in, n_block_out] = [from, to].map(|rate| rate.hz() as usize / 100);
        // At such short blocks the default window would take 10 dB off at 3.4 kHz (`costs`, chapter 3).
        let fft = Fft::new_custom(
            from.hz() as usize,
            to.hz() as usize,
            n_block_in,
            1,
            1,
            WindowFunction::Hann,
            FixedSync::Both,
        )
        .expect("rates and block size are not zero");
        debug_assert_eq!(fft.fft_size_in(), n_block_in);
        debug_assert_eq!(fft.fft_size_out(), n_block_out);
        Self {
            fft,
            pending: Vec::with_capacity(n_block_in),
            n_block_in,
            block_out: vec![0.0; n_block_out],
        }
    }

    fn reset(&mut self) {
        self.fft.reset();
        self.pending.clear();
    }

    fn process(&mut self, mut input: &[i16], out: &mut Vec<i16>) {
        while !input.is_empty() {
            let n_missing = self.n_block_in - self.pending.len();
            let (taken, rest) = input.split_at(n_missing.min(input.len()));
            self.pending
                .extend(taken.iter().map(|&sample| f32::from(sample) / 32_768.0));
            input = rest;
            if self.pending.len() == self.n_block_in {
                self.process_block(out);
                self.pending.clear();
            }
        }
    }

    fn process_block(&mut self, out: &mut Vec<i16>) {
        const SIZES: &str = "both buffers were made for one block";
        let n_block_out = self.block_out.len();
        let input = InterleavedSlice::new(&self.pending, 1, self.n_block_in).expect(SIZES);
        let mut output =
            InterleavedSlice::new_mut(&mut self.block_out, 1, n_block_out).expect(SIZES);
        self.fft
            .process_into_buffer(&input, &mut output, None)
            .expect(SIZES);
        // The cast saturates and drops the fraction, so half a step away from zero rounds;
        // `f32::round` is a library call on plain x86-64.
        out.extend(self.block_out.iter().map(|&value| {
            let scaled = value * 32_768.0;
            (scaled + 0.5_f32.copysign(scaled)) as i16
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: [SampleRate; 8] = SampleRate::ALL;

    fn all_pairs() -> impl Iterator<Item = (SampleRate, SampleRate)> {
        RATES
            .into_iter()
            .flat_map(|from| RATES.into_iter().map(move |to| (from, to)))
    }

    #[test]
    fn every_20_ms_frame_gives_20_ms() {
        for (from, to) in all_pairs() {
            let mut resampler = Resampler::new(from, to);
            let frame = vec![0; from.hz() as usize / 50];
            let mut out = Vec::new();
            for n_frames in 1..=10 {
                resampler.process(&frame, &mut out);
                assert_eq!(out.len(), n_frames * to.hz() as usize / 50, "{resampler:?}");
            }
        }
    }

    #[test]
    fn any_cut_gives_the_exact_number_in_the_end() {
        for (from, to) in all_pairs() {
            let mut resampler = Resampler::new(from, to);
            let mut out = Vec::new();
            let n_total = from.hz() as usize / 5;
            let mut n_left = n_total;
            for n in (1..).map(|n| n * 7 % 501) {
                let n = n.min(n_left);
                resampler.process(&vec![0; n], &mut out);
                n_left -= n;
                if n_left == 0 {
                    break;
                }
            }
            assert_eq!(out.len(), to.hz() as usize / 5, "{resampler:?}");
        }
    }

    #[test]
    fn delay_is_where_an_impulse_leaves() {
        for (from, to) in all_pairs() {
            let mut resampler = Resampler::new(from, to);
            assert!(resampler.delay() <= Duration::from_millis(5));
            let mut input = vec![0; from.hz() as usize / 50];
            input[0] = 20_000;
            let mut out = Vec::new();
            resampler.process(&input, &mut out);
            let peak = (0..out.len())
                .max_by_key(|&n| out[n].unsigned_abs())
                .unwrap();
            let error = to.duration_of(peak).abs_diff(resampler.delay());
            // A block of 441 samples has no middle sample.
            assert!(error < to.duration_of(2), "{resampler:?}: {peak}");
        }
    }

    #[test]
    fn reset_forgets() {
        for (from, to) in all_pairs() {
            let mut resampler = Resampler::new(from, to);
            let mut out = Vec::new();
            resampler.process(&vec![12_345; from.hz() as usize / 50 - 3], &mut out);
            resampler.reset();
            out.clear();
            resampler.process(&vec![0; from.hz() as usize / 50], &mut out);
            assert_eq!(out, vec![0; to.hz() as usize / 50], "{resampler:?}");
        }
    }

    #[test]
    fn it_says_what_it_is() {
        fn check(from: SampleRate, to: SampleRate, expected: &str) {
            assert_eq!(Resampler::new(from, to).to_string(), expected);
        }
        check(SampleRate::HZ_8000, SampleRate::HZ_8000, "direct");
        check(SampleRate::HZ_8000, SampleRate::HZ_24000, "fir, 3.0 ms");
        check(SampleRate::HZ_24000, SampleRate::HZ_48000, "fir, 1.0 ms");
        check(SampleRate::HZ_44100, SampleRate::HZ_24000, "fft, 5.0 ms");
    }
}
