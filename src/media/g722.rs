//! ITU-T G.722 in its 64 kbit/s mode: 16 kHz speech in one byte for every two samples.
//!
//! A pair of mirror filters splits the sound into two bands of 8000 samples a second. Each band is predicted, and what
//! the prediction misses is sent in steps whose size adapts: six bits of a byte for the low band, two for the high.
//! Numbers and the saturating 16-bit arithmetic are the Recommendation's (09/2012, clauses 3 to 6), so that bytes and
//! samples are those of any other G.722, bit by bit.
//!
//! RTP counts G.722 by a clock of 8000 Hz although there are 16,000 samples (RFC 3551, 4.5.2), and providers repeat
//! that number as the sample rate; here it is 16 kHz. The modes of 56 and 48 kbit/s, which give the low bits of a byte
//! to data, are not spoken, nor are the annexes. What is lost is not covered.

use std::time::Duration;

use super::SampleRate;

/// The byte to send where nothing is to be heard: the smallest steps, so that predictors calm down.
///
/// It leaves a tone of -58 dBFS at most, whatever came before. The byte that encoders make of zeros at first, FA, would
/// if it were repeated build up a constant of -44 dBFS, and the next words would be heard through it (measured).
pub(crate) const SILENCE: u8 = 0xFF;

/// What either side adds to the way of a sound: half of what both filters do.
pub(crate) const DELAY: Duration = SampleRate::HZ_16000.duration_of(N_TAPS / 2 - 1);

/// Turns bytes into samples. Every byte is valid.
#[derive(Clone, Debug)]
pub struct G722Decoder {
    low: Band,
    high: Band,
    /// Sum and difference of the bands, again and again, oldest first.
    history: [i32; N_TAPS],
}

impl G722Decoder {
    /// A decoder with silence behind it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            low: Band::LOW,
            high: Band::HIGH,
            history: [0; N_TAPS],
        }
    }

    /// Appends the two samples of each byte.
    pub fn decode(&mut self, codes: &[u8], pcm: &mut Vec<i16>) {
        pcm.reserve(2 * codes.len());
        for &code in codes {
            let (low_code, high_code) = (usize::from(code & 0x3F), usize::from(code >> 6));
            let fine = scaled(LOW_FINE[low_code], self.low.step);
            let low = within_15_bits(saturated(self.low.estimate + fine));
            self.low.follow_low(low_code);
            let high = within_15_bits(self.high.follow_high(high_code));
            push(&mut self.history, [low + high, low - high]);
            let [sums, differences] = filtered(&self.history);
            pcm.extend([differences, sums].map(|sample| saturated(sample >> 11) as i16));
        }
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for G722Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns samples at 16 kHz into bytes.
#[derive(Clone, Debug)]
pub struct G722Encoder {
    low: Band,
    high: Band,
    /// The last samples, oldest first.
    history: [i32; N_TAPS],
    /// A sample that waits for the other half of its byte.
    single: Option<i16>,
}

impl G722Encoder {
    /// An encoder with silence behind it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            low: Band::LOW,
            high: Band::HIGH,
            history: [0; N_TAPS],
            single: None,
        }
    }

    /// Appends a byte for every two samples; an odd one waits for the next.
    pub fn encode(&mut self, mut pcm: &[i16], codes: &mut Vec<u8>) {
        codes.reserve(pcm.len() / 2 + 1);
        if let (Some(first), Some((&second, rest))) = (self.single, pcm.split_first()) {
            self.single = None;
            codes.push(self.encode_pair([first, second]));
            pcm = rest;
        }
        let (pairs, rest) = pcm.as_chunks::<2>();
        codes.extend(pairs.iter().map(|&pair| self.encode_pair(pair)));
        if let [single] = rest {
            self.single = Some(*single);
        }
    }

    /// Makes what was encoded so far unheard in what comes next.
    ///
    /// How the bands are predicted stays: whoever decodes the stream has no word for a new one, and would take tens of
    /// milliseconds to follow an encoder that began anew (measured: 10 to 20 dB more of error in the first).
    pub fn cut(&mut self) {
        self.history = [0; N_TAPS];
        self.single = None;
    }

    fn encode_pair(&mut self, pair: [i16; 2]) -> u8 {
        push(&mut self.history, pair.map(i32::from));
        let [early, late] = filtered(&self.history);
        let (low, high) = ((late + early) >> 14, (late - early) >> 14);
        let low_code = low_code(saturated(low - self.low.estimate), self.low.step);
        self.low.follow_low(low_code);
        let high_code = high_code(saturated(high - self.high.estimate), self.high.step);
        self.high.follow_high(high_code);
        ((high_code << 6) | low_code) as u8
    }
}

impl Default for G722Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What both sides know of one band after the same codes.
#[derive(Clone, Debug)]
struct Band {
    kind: &'static Kind,
    /// Logarithm of the step, 2048 for each octave.
    log_step: i32,
    /// What a quantised difference is measured by.
    step: i32,
    /// What the next sample is expected to be, and the part of it that comes from the zeros.
    estimate: i32,
    of_zeros: i32,
    poles: [i32; 2],
    zeros: [i32; 6],
    /// Past values, newest first: of the sample, of the sample without the poles' part, of the difference.
    sample: i32,
    partials: [i32; 2],
    differences: [i32; 6],
}

/// In what the bands differ.
#[derive(Debug)]
struct Kind {
    max_log_step: i32,
    /// The octave of `log_step` in which steps are four times [`OCTAVE`].
    octave: i32,
}

impl Band {
    const LOW: Self = Self::silent(
        &Kind {
            max_log_step: 18_432,
            octave: 8,
        },
        32,
    );

    const HIGH: Self = Self::silent(
        &Kind {
            max_log_step: 22_528,
            octave: 10,
        },
        8,
    );

    const fn silent(kind: &'static Kind, step: i32) -> Self {
        Self {
            kind,
            log_step: 0,
            step,
            estimate: 0,
            of_zeros: 0,
            poles: [0; 2],
            zeros: [0; 6],
            sample: 0,
            partials: [0; 2],
            differences: [0; 6],
        }
    }

    /// The low band adapts by the upper four bits of its code alone.
    fn follow_low(&mut self, code: usize) -> i32 {
        let coarse = code >> 2;
        self.follow(LOW_COARSE[coarse], LOW_GROWTH[coarse])
    }

    fn follow_high(&mut self, code: usize) -> i32 {
        self.follow(HIGH[code], HIGH_GROWTH[code])
    }

    /// Moves on by one sample, which is returned; `level` is its difference from the estimate, in steps.
    fn follow(&mut self, level: i32, growth: i32) -> i32 {
        let difference = scaled(level, self.step);
        self.adapt_step(growth);
        let sample = saturated(self.estimate + difference);
        let partial = saturated(self.of_zeros + difference);
        self.adapt_zeros(difference);
        self.adapt_poles(partial);

        self.differences.copy_within(..5, 1);
        self.differences[0] = difference;
        self.partials = [partial, self.partials[0]];
        let samples = [sample, self.sample];
        self.sample = sample;

        // Oldest first: where the sum saturates, its order matters.
        let pairs = self.zeros.iter().zip(&self.differences).rev();
        self.of_zeros = pairs.fold(0, |sum, (&zero, &past)| {
            saturated(sum + scaled(zero, saturated(2 * past)))
        });
        let [near, far] = [0, 1].map(|n| scaled(self.poles[n], saturated(2 * samples[n])));
        self.estimate = saturated(saturated(near + far) + self.of_zeros);
        sample
    }

    fn adapt_step(&mut self, growth: i32) {
        let Kind {
            max_log_step,
            octave,
        } = *self.kind;
        self.log_step = (scaled(self.log_step, 32_512) + growth).clamp(0, max_log_step);
        let mantissa = OCTAVE[((self.log_step >> 6) & 31) as usize];
        let down = octave - (self.log_step >> 11);
        self.step = 4 * if down < 0 {
            mantissa << -down
        } else {
            mantissa >> down
        };
    }

    fn adapt_zeros(&mut self, difference: i32) {
        let push = if difference == 0 { 0 } else { 128 };
        for (zero, past) in self.zeros.iter_mut().zip(self.differences) {
            let push = signed(push, have_one_sign(past, difference));
            *zero = saturated(scaled(*zero, 32_640) + push);
        }
    }

    fn adapt_poles(&mut self, partial: i32) {
        let [first, second] = self.poles;
        let [last, before] = self.partials;
        let is_steady = have_one_sign(partial, last);
        let turn = saturated(signed(saturated(4 * first), !is_steady)) >> 7;
        let push = signed(128, have_one_sign(partial, before));
        let second = (turn + push + scaled(second, 32_512)).clamp(-12_288, 12_288);
        // Keeps the poles within the circle in which they ring no longer than they should.
        let most = 15_360 - second;
        let first = signed(192, is_steady) + scaled(first, 32_640);
        self.poles = [first.clamp(-most, most), second];
    }
}

/// The code of a difference in the low band: sign and one of thirty intervals.
fn low_code(difference: i32, step: i32) -> usize {
    let magnitude = magnitude(difference);
    let interval = LOW_BOUNDS.partition_point(|&bound| scaled(bound << 3, step) <= magnitude);
    match (difference < 0, interval) {
        (false, _) => 61 - interval,
        (true, 0 | 1) => 63 - interval,
        (true, _) => 33 - interval,
    }
}

fn high_code(difference: i32, step: i32) -> usize {
    let is_far = magnitude(difference) >= scaled(HIGH_BOUND << 3, step);
    match (difference < 0, is_far) {
        (false, false) => 3,
        (false, true) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

/// In one's complement, as the Recommendation has it.
fn magnitude(difference: i32) -> i32 {
    if difference < 0 {
        !difference
    } else {
        difference
    }
}

/// Taps of the mirror filters.
const N_TAPS: usize = 24;

/// Every second tap of the filters; the others are the same, backwards.
const MIRROR: [i32; N_TAPS / 2] = [3, -11, 12, 32, -210, 951, 3_876, -805, 362, -156, 53, -11];

fn push(history: &mut [i32; N_TAPS], pair: [i32; 2]) {
    history.copy_within(2.., 0);
    history[N_TAPS - 2..].copy_from_slice(&pair);
}

/// Sums over what came first and what came second of each pair. They stay within 30 bits: the taps' magnitudes add up to
/// 6482, and nothing in the history is larger than 32,768.
fn filtered(history: &[i32; N_TAPS]) -> [i32; 2] {
    let mut sums = [0; 2];
    for (n, &[first, second]) in history.as_chunks::<2>().0.iter().enumerate() {
        sums[0] += first * MIRROR[n];
        sums[1] += second * MIRROR[N_TAPS / 2 - 1 - n];
    }
    sums
}

/// A product of two fractions of 15 bits.
fn scaled(a: i32, b: i32) -> i32 {
    saturated((a * b) >> 15)
}

fn saturated(value: i32) -> i32 {
    value.clamp(i16::MIN.into(), i16::MAX.into())
}

fn within_15_bits(value: i32) -> i32 {
    value.clamp(-0x4000, 0x3FFF)
}

fn signed(value: i32, is_positive: bool) -> i32 {
    if is_positive { value } else { -value }
}

fn have_one_sign(a: i32, b: i32) -> bool {
    (a < 0) == (b < 0)
}

/// Where the low band's intervals begin, but for the first, which begins at zero, in 1/4096 of a step.
const LOW_BOUNDS: [i32; 29] = [
    35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1_023,
    1_121, 1_219, 1_339, 1_458, 1_612, 1_765, 1_980, 2_195, 2_557, 2_919,
];

/// What stands for each of the low band's thirty intervals.
const LOW_LEVELS: [i32; 30] = [
    17, 54, 91, 130, 170, 211, 254, 300, 347, 396, 447, 501, 558, 618, 682, 750, 822, 899, 982,
    1_072, 1_170, 1_279, 1_399, 1_535, 1_689, 1_873, 2_088, 2_376, 2_738, 3_101,
];

/// What a code of the low band says, in 1/32,768 of a step. Encoders do not write the codes 0 to 3.
const LOW_FINE: [i32; 64] = {
    let mut levels = [-LOW_LEVELS[0] << 3; 64];
    let mut n = 0;
    while n < 30 {
        let level = LOW_LEVELS[n] << 3;
        levels[61 - n] = level;
        levels[if n < 2 { 63 - n } else { 33 - n }] = -level;
        n += 1;
    }
    levels
};

/// The same of the upper four bits of the code, which is what the band adapts by.
const LOW_COARSE: [i32; 16] = {
    let levels = [150, 323, 530, 786, 1_121, 1_612, 2_557];
    mirrored(levels)
};

/// How the step's logarithm changes with them.
const LOW_GROWTH: [i32; 16] = {
    let growth = [-30, 58, 172, 334, 538, 1_198, 3_042];
    let mut both = [-60; 16];
    let mut n = 0;
    while n < 7 {
        both[7 - n] = growth[n];
        both[14 - n] = growth[n];
        n += 1;
    }
    both
};

const fn mirrored(levels: [i32; 7]) -> [i32; 16] {
    let mut both = [0; 16];
    let mut n = 0;
    while n < 7 {
        both[7 - n] = -levels[n] << 3;
        both[14 - n] = levels[n] << 3;
        n += 1;
    }
    both
}

/// The same of the high band, whose codes tell near from far.
const HIGH_BOUND: i32 = 564;
const HIGH: [i32; 4] = [-926 << 3, -202 << 3, 926 << 3, 202 << 3];
const HIGH_GROWTH: [i32; 4] = [798, -214, 798, -214];

/// An octave of steps: 2048 times two to the power of n/32.
const OCTAVE: [i32; 32] = [
    2_048, 2_093, 2_139, 2_186, 2_233, 2_282, 2_332, 2_383, 2_435, 2_489, 2_543, 2_599, 2_656,
    2_714, 2_774, 2_834, 2_896, 2_960, 3_025, 3_091, 3_158, 3_228, 3_298, 3_371, 3_444, 3_520,
    3_597, 3_676, 3_756, 3_838, 3_922, 4_008,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::Clip;
    use crate::tone::{Tone, fit_sine, level_dbfs};

    const RATE: SampleRate = SampleRate::HZ_16000;

    fn encoded(pcm: &[i16]) -> Vec<u8> {
        let mut codes = Vec::new();
        G722Encoder::new().encode(pcm, &mut codes);
        codes
    }

    fn decoded(codes: &[u8]) -> Vec<i16> {
        let mut pcm = Vec::new();
        G722Decoder::new().decode(codes, &mut pcm);
        pcm
    }

    fn speech() -> Vec<i16> {
        let clip = Clip::parse_wav(include_bytes!("../simulator/speech/hours.wav")).unwrap();
        assert_eq!(clip.rate(), RATE);
        clip.samples().to_vec()
    }

    fn noise() -> impl Iterator<Item = u32> {
        let next = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(1), next).skip(1).take(65_536)
    }

    fn digest(bytes: impl IntoIterator<Item = u8>) -> String {
        let bytes: Vec<u8> = bytes.into_iter().collect();
        let digest = Sha256::digest(&bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn digest_of_pcm(pcm: &[i16]) -> String {
        digest(pcm.iter().flat_map(|sample| sample.to_le_bytes()))
    }

    /// The file and the digests are what libavcodec (by PyAV 18.1.0) and libg722 (by G722 1.2.8) make alike of the same
    /// input; no package has the ITU's own sequences. Noise of full scale and bytes at random saturate everything.
    #[test]
    fn two_others_make_the_same_of_it() {
        let golden = include_bytes!("../../tests/golden/media/hours.g722");
        let codes = encoded(&speech());
        let first_wrong = codes.iter().zip(golden).position(|(a, b)| a != b);
        assert_eq!((first_wrong, codes.len()), (None, golden.len()));
        assert_eq!(
            digest_of_pcm(&decoded(golden)),
            "be03964c30040e60fec95a18524047c776a0f54ef39765dc1192cae411ff94f0"
        );
        let loud: Vec<i16> = noise().map(|x| (x >> 16) as i16).collect();
        assert_eq!(
            digest(encoded(&loud)),
            "3eab126e60b8a9464df9cc280a6b3360fadf26c2d97d93e7d28c1331eec7aa48"
        );
        let random: Vec<u8> = noise().map(|x| (x >> 24) as u8).collect();
        assert_eq!(
            digest_of_pcm(&decoded(&random)),
            "a0c4c5cb982b52261f8f345b88fd2b6dcd0031191ca323e419bef36424a22889"
        );
        let each: Vec<u8> = (0..=u8::MAX).flat_map(|code| [code; 256]).collect();
        assert_eq!(
            digest_of_pcm(&decoded(&each)),
            "5154fee984b0c46a793fe10fa25db0480e1c383d00051ef7e98e01f49f09819c"
        );
    }

    /// Both sides together delay by 22 samples.
    #[test]
    fn speech_and_tones_come_back() {
        let speech = speech();
        let heard = decoded(&encoded(&speech));
        assert_eq!(2 * DELAY, RATE.duration_of(22));
        let pairs = || speech.iter().zip(&heard[22..]);
        let power = |x: f64| x * x;
        let signal: f64 = pairs().map(|(&a, _)| power(a.into())).sum();
        let noise: f64 = pairs()
            .map(|(&a, &b)| power(f64::from(a) - f64::from(b)))
            .sum();
        let snr = 10.0 * (signal / noise).log10();
        assert!(snr > 20.0, "{snr} dB");
        for (hz, least) in [
            (300.0, 25.0),
            (1_004.0, 25.0),
            (3_400.0, 25.0),
            (6_500.0, 15.0),
        ] {
            let tone = Tone::sine(hz, -10.0, RATE).samples(16_000);
            let fit = fit_sine(&decoded(&encoded(&tone))[1_600..], hz, RATE);
            assert!((fit.level_dbfs + 10.0).abs() < 0.5, "{hz} Hz: {fit:?}");
            assert!(fit.snr_db() > least, "{hz} Hz: {} dB", fit.snr_db());
        }
    }

    #[test]
    fn silence_is_silent_whatever_came_before() {
        let mut decoder = G722Decoder::new();
        let mut pcm = Vec::new();
        for loud in [&[][..], &encoded(&speech()[..16_000])] {
            decoder.decode(loud, &mut pcm);
            pcm.clear();
            decoder.decode(&[SILENCE; 8_000], &mut pcm);
            let (settling, rest) = pcm.split_at(640);
            assert!(level_dbfs(settling) < -25.0);
            assert!(level_dbfs(rest) < -55.0, "{} dBFS", level_dbfs(rest));
        }
    }

    /// Level of what is wrong in the first 100 ms and later, for one who heard a part of what was said before.
    fn error_after(cut: fn(&mut G722Encoder)) -> [f64; 2] {
        let speech = speech();
        let (mut encoder, mut decoder) = (G722Encoder::new(), G722Decoder::new());
        let (mut codes, mut heard) = (Vec::new(), Vec::new());
        encoder.encode(&speech[..16_001], &mut codes);
        decoder.decode(&codes[..6_000], &mut heard);
        cut(&mut encoder);
        codes.clear();
        heard.clear();
        encoder.encode(&speech, &mut codes);
        decoder.decode(&codes, &mut heard);
        let alone = decoded(&encoded(&speech));
        assert_eq!(heard.len(), alone.len());
        let pairs = heard.iter().zip(&alone);
        let error: Vec<i16> = pairs.map(|(a, b)| a.saturating_sub(*b)).collect();
        [level_dbfs(&error[..1_600]), level_dbfs(&error[1_600..])]
    }

    #[test]
    fn who_was_cut_off_hears_what_comes_next() {
        let [first, later] = error_after(G722Encoder::cut);
        assert!(first < -28.0, "{first} dBFS");
        assert!(later < -35.0, "{later} dBFS");
        let [anew, _] = error_after(|encoder| *encoder = G722Encoder::new());
        assert!(
            first < anew - 6.0,
            "{first} dBFS, {anew} with a new encoder"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_audio_and_any_cut_is_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000), cut in any::<prop::sample::Index>(),
        ) {
            let whole = decoded(&bytes);
            prop_assert_eq!(whole.len(), 2 * bytes.len());
            let (mut decoder, mut pcm) = (G722Decoder::new(), Vec::new());
            let (first, rest) = bytes.split_at(cut.index(bytes.len() + 1));
            decoder.decode(first, &mut pcm);
            decoder.decode(rest, &mut pcm);
            prop_assert_eq!(&pcm, &whole);
            decoder.reset();
            pcm.clear();
            decoder.decode(&bytes, &mut pcm);
            prop_assert_eq!(pcm, whole);
        }

        #[test]
        fn any_samples_are_bytes_and_any_cut_is_the_same(
            pcm in proptest::collection::vec(any::<i16>(), 0..2_000), cut in any::<prop::sample::Index>(),
        ) {
            let whole = encoded(&pcm);
            prop_assert_eq!(whole.len(), pcm.len() / 2);
            let (mut encoder, mut codes) = (G722Encoder::new(), Vec::new());
            let (first, rest) = pcm.split_at(cut.index(pcm.len() + 1));
            encoder.encode(first, &mut codes);
            encoder.encode(rest, &mut codes);
            prop_assert_eq!(codes, whole);
        }
    }
}
