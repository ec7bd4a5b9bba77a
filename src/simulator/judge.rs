//! Measures of heard audio: how loud, how much of it speech, and how like the original.
//!
//! For tests, the demo and the load generator; far too slow and too coarse for the frame path.

/// Level of digital silence, in dBFS. Finite, so that it prints and serialises.
pub const SILENCE_DBFS: f64 = -100.0;

/// Frames above this level count as voiced, in dBFS.
pub const VOICED_DBFS: f64 = -45.0;

/// Where a sound was found in another, and how alike the two are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The recording lags the reference by so many samples; negative if it leads.
    pub lag: isize,
    /// Normalised correlation there: 1 the same up to a positive factor, 0 unrelated, -1 inverted.
    pub peak: f64,
}

/// Root mean square of the samples in dB below full scale (32768), never below [`SILENCE_DBFS`].
#[must_use]
pub fn level_dbfs(samples: &[i16]) -> f64 {
    if samples.is_empty() {
        return SILENCE_DBFS;
    }
    dbfs(energy(samples) / samples.len() as f64)
}

/// Mean square to dBFS.
pub(crate) fn dbfs(mean_square: f64) -> f64 {
    const FULL_SCALE: f64 = 32_768.0;
    (10.0 * (mean_square / (FULL_SCALE * FULL_SCALE)).log10()).max(SILENCE_DBFS)
}

/// How many milliseconds of the audio are louder than [`VOICED_DBFS`], counted in frames of 20 ms.
#[must_use]
pub fn voiced_ms(samples: &[i16], rate: u32) -> u64 {
    20 * frames_voiced(samples, rate).iter().filter(|v| **v).count() as u64
}

/// For each 20 ms, the last one perhaps shorter: is it louder than [`VOICED_DBFS`]?
#[must_use]
pub fn frames_voiced(samples: &[i16], rate: u32) -> Vec<bool> {
    samples
        .chunks((rate as usize / 50).max(1))
        .map(|frame| level_dbfs(frame) > VOICED_DBFS)
        .collect()
}

/// Finds `reference` in `recording`, both at the same rate, trying lags up to `max_lag` samples either way.
///
/// What the recording does not cover of the reference counts as lost, so that a short chance likeness
/// cannot win. Looks at an averaged copy first and at full rate near its best lags only: a wrong lag is
/// possible for sounds that have nothing below about 1 kHz.
#[must_use]
pub fn cross_correlation(reference: &[i16], recording: &[i16], max_lag: usize) -> Match {
    // About 20 million products are a few tenths of a second in a debug build.
    const COARSE_PRODUCTS: usize = 20_000_000;
    let mut factor = 1;
    while factor < 12
        && (reference.len() / factor) * (2 * max_lag.min(recording.len()) / factor)
            > COARSE_PRODUCTS
    {
        factor += 1;
    }
    let (a, b) = (averaged(reference, factor), averaged(recording, factor));
    let reach = (max_lag / factor) as isize;
    let mut coarse: Vec<Match> = correlations(&a, &b, -reach..=reach);
    coarse.sort_by(|x, y| y.peak.total_cmp(&x.peak));
    if factor == 1 {
        return coarse
            .first()
            .copied()
            .unwrap_or(Match { lag: 0, peak: 0.0 });
    }
    let (a, b) = (averaged(reference, 1), averaged(recording, 1));
    let near = factor as isize;
    coarse
        .iter()
        .take(3)
        .flat_map(|m| correlations(&a, &b, (m.lag - 1) * near..=(m.lag + 1) * near))
        .max_by(|x, y| x.peak.total_cmp(&y.peak))
        .unwrap_or(Match { lag: 0, peak: 0.0 })
}

fn correlations(a: &[f32], b: &[f32], lags: std::ops::RangeInclusive<isize>) -> Vec<Match> {
    let energy_a: f64 = a.iter().map(|&x| f64::from(x * x)).sum();
    let energy_before_b: Vec<f64> = std::iter::once(0.0)
        .chain(b.iter().scan(0.0, |sum, &x| {
            *sum += f64::from(x * x);
            Some(*sum)
        }))
        .collect();
    let at = |lag: isize| {
        let skip_a = (-lag).max(0) as usize;
        let skip_b = lag.max(0) as usize;
        let (a, b) = (a.get(skip_a..)?, b.get(skip_b..)?);
        let n = a.len().min(b.len());
        let products: f32 = a[..n].iter().zip(&b[..n]).map(|(x, y)| x * y).sum();
        let energy_b = energy_before_b[skip_b + n] - energy_before_b[skip_b];
        let norm = (energy_a * energy_b).sqrt();
        let peak = if norm > 0.0 {
            f64::from(products) / norm
        } else {
            0.0
        };
        Some(Match { lag, peak })
    };
    lags.filter_map(at).collect()
}

/// Every `factor` samples as their mean, scaled to +-1.
fn averaged(samples: &[i16], factor: usize) -> Vec<f32> {
    samples
        .chunks(factor)
        .map(|c| c.iter().map(|&s| f32::from(s)).sum::<f32>() / (c.len() as f32 * 32_768.0))
        .collect()
}

fn energy(samples: &[i16]) -> f64 {
    samples.iter().map(|&s| f64::from(s) * f64::from(s)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech;

    #[test]
    fn levels() {
        assert_eq!(level_dbfs(&[]), SILENCE_DBFS);
        assert_eq!(level_dbfs(&[0; 160]), SILENCE_DBFS);
        assert!((level_dbfs(&[i16::MIN; 160]) - 0.0).abs() < 1e-9);
        assert!((level_dbfs(&[3_277, -3_277]) + 20.0).abs() < 0.01);
        assert_eq!(
            voiced_ms(&[&[0; 320][..], &[5_000; 480]].concat(), 8_000),
            60
        );
    }

    fn check_found(lag: usize, rate: u32) {
        let said = speech::hours().at_rate(rate);
        let heard = [&vec![0; lag][..], &said.samples, &vec![0; 999]].concat();
        let found = cross_correlation(&said.samples, &heard, 2 * rate as usize);
        assert_eq!(found.lag, lag as isize);
        assert!(found.peak > 0.999, "{found:?}");
        let back = cross_correlation(&heard, &said.samples, 2 * rate as usize);
        assert_eq!(back.lag, -(lag as isize));
    }

    #[test]
    fn a_sound_is_found_where_it_is() {
        check_found(0, 8_000);
        check_found(1_234, 8_000);
        check_found(30_001, 24_000);
    }

    #[test]
    fn unlike_sounds_do_not_match() {
        let (a, b) = (speech::hours(), speech::order());
        let found = cross_correlation(&a.samples, &b.samples, 16_000);
        assert!(found.peak < 0.4, "{found:?}");
        assert_eq!(cross_correlation(&a.samples, &[], 100).peak, 0.0);
        assert_eq!(cross_correlation(&[], &[], 0).peak, 0.0);
    }
}
