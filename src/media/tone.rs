//! Tones and what they measure: sine and DTMF generators, level meters and a sine fit.
//!
//! Levels are in dBFS with the full-scale sine at 0 dBFS (AES17), so a full-scale square wave reads +3 dBFS.
//! The generators serve in-band DTMF, the simulator's tone replies and tests; the meters are not made for the frame path.

use std::f64::consts::TAU;

use super::SampleRate;

/// Peak of a sine at 0 dBFS.
const FULL_SCALE: f64 = 32_767.0;

/// One sine or the sum of two, with phase kept from one [`Tone::append`] to the next.
#[derive(Debug, Clone)]
pub struct Tone {
    partials: [Partial; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Partial {
    peak: f64,
    /// Turns a sample.
    step: f64,
    /// Turns, in 0..1.
    phase: f64,
}

impl Tone {
    /// A sine of `hz` at `level_dbfs`.
    #[must_use]
    pub fn sine(hz: f64, level_dbfs: f64, rate: SampleRate) -> Self {
        Self {
            partials: [Partial::new(hz, level_dbfs, rate), Partial::default()],
        }
    }

    /// The tone pair of a key (`0-9 * # A-D`, ITU-T Q.23), each tone at `level_dbfs`; `None` for any other character.
    #[must_use]
    pub fn dtmf(key: char, level_dbfs: f64, rate: SampleRate) -> Option<Self> {
        let (low_hz, high_hz) = dtmf_frequencies(key)?;
        Some(Self {
            partials: [low_hz, high_hz].map(|hz| Partial::new(hz, level_dbfs, rate)),
        })
    }

    /// Appends the next `n_samples`; sums beyond full scale are clamped.
    pub fn append(&mut self, n_samples: usize, out: &mut Vec<i16>) {
        out.extend((0..n_samples).map(|_| {
            let sum: f64 = self.partials.iter_mut().map(Partial::next_value).sum();
            // The cast saturates.
            sum.round() as i16
        }));
    }

    /// The next `n_samples` as a new vector.
    #[must_use]
    pub fn samples(&mut self, n_samples: usize) -> Vec<i16> {
        let mut out = Vec::with_capacity(n_samples);
        self.append(n_samples, &mut out);
        out
    }
}

impl Partial {
    fn new(hz: f64, level_dbfs: f64, rate: SampleRate) -> Self {
        Self {
            peak: FULL_SCALE * 10_f64.powf(level_dbfs / 20.0),
            step: hz / f64::from(rate.hz()),
            phase: 0.0,
        }
    }

    fn next_value(&mut self) -> f64 {
        if self.peak == 0.0 {
            return 0.0;
        }
        let value = self.peak * (TAU * self.phase).sin();
        self.phase = (self.phase + self.step).fract();
        value
    }
}

/// The two frequencies of a key in Hz, low group first.
#[must_use]
pub fn dtmf_frequencies(key: char) -> Option<(f64, f64)> {
    const LOW_HZ: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
    const HIGH_HZ: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
    const KEYS: &str = "123A456B789C*0#D";
    let position = KEYS.find(key.to_ascii_uppercase())?;
    Some((LOW_HZ[position / 4], HIGH_HZ[position % 4]))
}

/// Root mean square of `samples` in dBFS; negative infinity for digital silence and for no samples.
#[must_use]
pub fn level_dbfs(samples: &[i16]) -> f64 {
    let energy: f64 = samples.iter().map(|&x| f64::from(x).powi(2)).sum();
    power_dbfs(energy / samples.len().max(1) as f64)
}

/// Level of the component at `hz` in dBFS, by the Goertzel recursion.
///
/// Precise to about the inverse of the number of periods in `samples`; neighbours closer than
/// `rate / samples.len()` leak in.
#[must_use]
pub fn tone_level_dbfs(samples: &[i16], hz: f64, rate: SampleRate) -> f64 {
    let coefficient = 2.0 * (TAU * hz / f64::from(rate.hz())).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for &sample in samples {
        (last, before) = (f64::from(sample) + coefficient * last - before, last);
    }
    let squared = last * last + before * before - coefficient * last * before;
    let n_samples = samples.len().max(1) as f64;
    power_dbfs(2.0 * squared / (n_samples * n_samples))
}

/// The sine that fits samples best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SineFit {
    /// Level of the sine.
    pub level_dbfs: f64,
    /// Level of everything that is neither the sine nor a constant.
    pub residual_dbfs: f64,
}

impl SineFit {
    /// Signal to noise and distortion ratio in dB.
    #[must_use]
    pub fn snr_db(&self) -> f64 {
        self.level_dbfs - self.residual_dbfs
    }
}

/// Fits a sine of the known frequency `hz` and a constant to `samples` by least squares.
#[must_use]
pub fn fit_sine(samples: &[i16], hz: f64, rate: SampleRate) -> SineFit {
    let step = TAU * hz / f64::from(rate.hz());
    let basis = |n: usize| {
        let (sin, cos) = (step * n as f64).sin_cos();
        [cos, sin, 1.0]
    };
    let mut normal = [[0.0; 4]; 3];
    for (n, &sample) in samples.iter().enumerate() {
        let b = basis(n);
        for (row, &b_row) in normal.iter_mut().zip(&b) {
            for (cell, &b_col) in row.iter_mut().zip(&b) {
                *cell += b_row * b_col;
            }
            row[3] += b_row * f64::from(sample);
        }
    }
    let [cos, sin, constant] = solve(normal);
    let residual: f64 = samples
        .iter()
        .enumerate()
        .map(|(n, &sample)| {
            let b = basis(n);
            (f64::from(sample) - cos * b[0] - sin * b[1] - constant).powi(2)
        })
        .sum();
    SineFit {
        level_dbfs: power_dbfs((cos * cos + sin * sin) / 2.0),
        residual_dbfs: power_dbfs(residual / samples.len().max(1) as f64),
    }
}

/// Mean square to dBFS.
fn power_dbfs(mean_square: f64) -> f64 {
    10.0 * (mean_square / (FULL_SCALE * FULL_SCALE / 2.0)).log10()
}

/// Solves three linear equations, written as rows of coefficients and right-hand side, by elimination with pivots.
fn solve(mut rows: [[f64; 4]; 3]) -> [f64; 3] {
    for column in 0..3 {
        let pivot = (column..3)
            .max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))
            .unwrap_or(column);
        rows.swap(column, pivot);
        let pivot_row = rows[column];
        if pivot_row[column] == 0.0 {
            continue;
        }
        for (index, row) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot_row[column];
                for (cell, pivot_cell) in row.iter_mut().zip(pivot_row) {
                    *cell -= factor * pivot_cell;
                }
            }
        }
    }
    [0, 1, 2].map(|n| {
        if rows[n][n] == 0.0 {
            0.0
        } else {
            rows[n][3] / rows[n][n]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: SampleRate = SampleRate::HZ_8000;

    #[track_caller]
    fn check_near(value: f64, expected: f64, tolerance: f64) {
        assert!(
            (value - expected).abs() <= tolerance,
            "{value} is not {expected} +- {tolerance}"
        );
    }

    #[test]
    fn a_sine_has_the_level_asked_for() {
        let samples = Tone::sine(1_000.0, -6.0, RATE).samples(8_000);
        check_near(level_dbfs(&samples), -6.0, 0.01);
        check_near(tone_level_dbfs(&samples, 1_000.0, RATE), -6.0, 0.01);
        assert!(tone_level_dbfs(&samples, 1_500.0, RATE) < -80.0);
    }

    #[test]
    fn the_fit_finds_level_and_noise() {
        let samples = Tone::sine(1_004.0, -20.0, RATE).samples(4_000);
        let fit = fit_sine(&samples, 1_004.0, RATE);
        check_near(fit.level_dbfs, -20.0, 0.01);
        // Rounding to 16 bits is 98 dB below a full-scale sine.
        check_near(fit.residual_dbfs, -98.0, 1.0);
        assert!(fit_sine(&samples, 1_100.0, RATE).snr_db() < 0.0);
    }

    #[test]
    fn phase_is_kept_across_calls() {
        let whole = Tone::sine(441.0, -3.0, RATE).samples(400);
        let mut tone = Tone::sine(441.0, -3.0, RATE);
        let mut cut = tone.samples(123);
        tone.append(277, &mut cut);
        assert_eq!(whole, cut);
    }

    #[test]
    fn keys_are_tone_pairs() {
        fn check(key: char, low_hz: f64, high_hz: f64) {
            assert_eq!(dtmf_frequencies(key), Some((low_hz, high_hz)), "{key}");
            let samples = Tone::dtmf(key, -8.0, RATE).unwrap().samples(1_600);
            check_near(tone_level_dbfs(&samples, low_hz, RATE), -8.0, 0.2);
            check_near(tone_level_dbfs(&samples, high_hz, RATE), -8.0, 0.2);
        }
        check('1', 697.0, 1_209.0);
        check('5', 770.0, 1_336.0);
        check('0', 941.0, 1_336.0);
        check('*', 941.0, 1_209.0);
        check('#', 941.0, 1_477.0);
        check('d', 941.0, 1_633.0);
        assert!(Tone::dtmf('x', -8.0, RATE).is_none());
    }

    #[test]
    fn nothing_and_silence_have_no_level() {
        assert_eq!(level_dbfs(&[]), f64::NEG_INFINITY);
        assert_eq!(level_dbfs(&[0; 10]), f64::NEG_INFINITY);
        assert_eq!(tone_level_dbfs(&[0; 10], 100.0, RATE), f64::NEG_INFINITY);
        assert_eq!(fit_sine(&[], 100.0, RATE).level_dbfs, f64::NEG_INFINITY);
    }

    #[test]
    fn too_loud_is_clamped() {
        let samples = Tone::sine(2_000.0, 12.0, RATE).samples(4);
        assert_eq!(samples, [0, i16::MAX, 0, i16::MIN]);
    }
}
