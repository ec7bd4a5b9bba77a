//! What the conversions do to sound, measured as sound: tones in, level and everything else out.
//!
//! Numbers demanded: pass band of 300-3400 Hz within 0.5 dB, images and aliases at least 60 dB down, 70 dB of signal
//! to noise at 1 kHz. Tones enter in 20 ms frames, as calls do.

use proptest::prelude::*;

use super::resample::goes_by_fft;
use super::tone::{Tone, fit_sine, level_dbfs};
use super::{
    AudioFormat, CallerDecoder, CallerEncoder, FrameQueue, OpusSettings, Resampler, SampleRate,
};

/// Level of the test tones, of which all attenuation is counted.
const LEVEL_DBFS: f64 = -6.0;
/// Start of the output that is not looked at: the filters fill.
const SETTLING_MS: usize = 20;
const MEASURED_MS: usize = 80;

/// Every pair with 24 kHz, the model's rate, and the pairs of a G.711 caller with a model on another rate.
fn pairs() -> Vec<(SampleRate, SampleRate)> {
    let (model, phone) = (SampleRate::HZ_24000, SampleRate::HZ_8000);
    SampleRate::ALL
        .into_iter()
        .filter(|&rate| rate != model)
        .flat_map(|rate| [(rate, model), (model, rate)])
        .chain(
            SampleRate::ALL
                .into_iter()
                .filter(|&rate| rate != phone && rate != model)
                .flat_map(|rate| [(rate, phone), (phone, rate)]),
        )
        .collect()
}

fn lower_nyquist(from: SampleRate, to: SampleRate) -> f64 {
    f64::from(from.min(to).hz()) / 2.0
}

/// Steady output for a tone of `hz`.
fn through(from: SampleRate, to: SampleRate, hz: f64) -> Vec<i16> {
    let samples_of = |rate: SampleRate, ms: usize| rate.hz() as usize * ms / 1_000;
    let input =
        Tone::sine(hz, LEVEL_DBFS, from).samples(samples_of(from, SETTLING_MS + MEASURED_MS));
    let mut resampler = Resampler::new(from, to);
    let mut out = Vec::new();
    for frame in input.chunks(samples_of(from, 20)) {
        resampler.process(frame, &mut out);
    }
    out.split_off(samples_of(to, SETTLING_MS))
}

/// Gain of the tone itself, and the level of everything else against the tone that entered.
fn gain_and_rest_db(from: SampleRate, to: SampleRate, hz: f64) -> (f64, f64) {
    let fit = fit_sine(&through(from, to, hz), hz, to);
    (fit.level_dbfs - LEVEL_DBFS, fit.residual_dbfs - LEVEL_DBFS)
}

/// Tones from `first` to `last` Hz that share no simple ratio with any rate.
fn tones(first: f64, last: f64, n_tones: u32) -> impl Iterator<Item = f64> {
    (0..=n_tones).map(move |n| first + (last - first) * f64::from(n) / f64::from(n_tones))
}

#[test]
fn the_pass_band_is_flat() {
    for (from, to) in pairs() {
        // 3400 Hz at 8 kHz, and the same part of the band at other rates.
        for hz in tones(301.0, 0.85 * lower_nyquist(from, to), 16) {
            let (gain, _) = gain_and_rest_db(from, to, hz);
            assert!(gain.abs() <= 0.5, "{from} -> {to}, {hz} Hz: {gain} dB");
        }
    }
}

#[test]
fn images_are_60_db_down_for_the_whole_input_band() {
    for (from, to) in pairs() {
        // Above that the FFT's images come up to -52 dB.
        let part = if goes_by_fft(from, to) { 0.95 } else { 0.99 };
        for hz in tones(51.0, part * lower_nyquist(from, to), 20) {
            let (_, rest) = gain_and_rest_db(from, to, hz);
            assert!(rest <= -60.0, "{from} -> {to}, {hz} Hz: {rest} dB");
        }
    }
}

#[test]
fn what_lies_above_the_output_band_does_not_fold_back() {
    for (from, to) in pairs() {
        if to > from {
            continue;
        }
        let edge = lower_nyquist(from, to);
        // Below that the FFT's aliases come up to -43 dB at 12 kHz, -55 dB at 4 kHz.
        let first = if goes_by_fft(from, to) { 1.04 } else { 1.0 } * edge + 3.0;
        for hz in tones(first, f64::from(from.hz()) / 2.0 - 51.0, 30) {
            let alias = level_dbfs(&through(from, to, hz)) - LEVEL_DBFS;
            assert!(alias <= -60.0, "{from} -> {to}, {hz} Hz: {alias} dB");
        }
    }
}

#[test]
fn a_kilohertz_stays_clean() {
    for (from, to) in pairs() {
        let snr = fit_sine(&through(from, to, 1_004.0), 1_004.0, to).snr_db();
        assert!(snr >= 70.0, "{from} -> {to}: {snr} dB");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_cut_of_the_input_does_not_matter(
        input in proptest::collection::vec(any::<i16>(), 0..2_000),
        cuts in proptest::collection::vec(0_usize..400, 0..30),
        pair in any::<proptest::sample::Index>(),
    ) {
        let pairs = pairs();
        let (from, to) = pairs[pair.index(pairs.len())];
        let mut whole = Vec::new();
        Resampler::new(from, to).process(&input, &mut whole);
        let mut resampler = Resampler::new(from, to);
        let mut pieces = Vec::new();
        let mut rest = &input[..];
        for n in cuts {
            let (now, later) = rest.split_at(n.min(rest.len()));
            resampler.process(now, &mut pieces);
            rest = later;
        }
        resampler.process(rest, &mut pieces);
        prop_assert_eq!(whole, pieces);
    }
}

/// Noise with the long-term spectrum and the syllables of speech: most of its energy below 1 kHz, 12 dB less an
/// octave above, swelling four times a second.
fn speech_like(n_samples: usize) -> Vec<i16> {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut low, mut lower, mut hum) = (0.0_f64, 0.0_f64, 0.0_f64);
    let a = (-std::f64::consts::TAU * 700.0 / 24_000.0).exp();
    let b = (-std::f64::consts::TAU * 100.0 / 24_000.0).exp();
    (0..n_samples)
        .map(|n| {
            let white = random.f64() * 2.0 - 1.0;
            low = a * low + (1.0 - a) * white;
            lower = a * lower + (1.0 - a) * low;
            hum = b * hum + (1.0 - b) * lower;
            let syllable = (std::f64::consts::TAU * 4.0 * n as f64 / 24_000.0).sin();
            ((lower - hum) * 40_000.0 * (0.55 + 0.45 * syllable)) as i16
        })
        .collect()
}

fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let sum = |x: &[i16], y: &[i16]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum()
    };
    sum(a, b) / (sum(a, a) * sum(b, b)).sqrt()
}

#[test]
fn speech_comes_back_through_mu_law() {
    check_speech(AudioFormat::ULAW_8K);
}

#[test]
fn speech_comes_back_through_g722() {
    check_speech(AudioFormat::G722);
}

fn check_speech(format: AudioFormat) {
    let model = SampleRate::HZ_24000;
    let mut encoder = CallerEncoder::new(model, format, OpusSettings::default()).unwrap();
    let mut decoder = CallerDecoder::new(format, model).unwrap();
    let mut frames = FrameQueue::new(format, std::time::Duration::from_secs(10));
    let speech = speech_like(48_000);
    assert!((-40.0..-10.0).contains(&level_dbfs(&speech)));
    encoder.encode(&speech, &mut frames).unwrap();
    encoder.flush(&mut frames).unwrap();
    let mut heard = Vec::new();
    while let Some(frame) = frames.front() {
        decoder.decode(frame, &mut heard).unwrap();
        frames.pop();
    }
    let (n_delay, best) = (0..480)
        .map(|n| (n, correlation(&speech[..24_000], &heard[n..n + 24_000])))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    assert!(best >= 0.95, "{best} at {n_delay} samples");
    assert_eq!(
        model.duration_of(n_delay),
        encoder.delay() + decoder.delay()
    );
}
