//! Student's t and the normal distribution, as far as bounds need them.

/// What Student's t with that many degrees of freedom is beyond, to either side, in so many of 1.
pub(super) fn student_t(freedom: usize, beyond: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if 1.0 - student_within(middle, freedom) > beyond {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// How often Student's t is within `t` of 0 (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn student_within(t: f64, freedom: usize) -> f64 {
    // More are hardly another distribution, and this is the wider.
    let freedom = freedom.clamp(1, 1_000);
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let is_odd = freedom % 2 == 1;
    let mut term = if is_odd { cosine } else { 1.0 };
    let mut sum = if freedom == 1 { 0.0 } else { term };
    let mut n = if is_odd { 3 } else { 2 };
    while n < freedom {
        term *= (n - 1) as f64 / n as f64 * cosine * cosine;
        sum += term;
        n += 2;
    }
    match is_odd {
        true => (angle + sine * sum) * std::f64::consts::FRAC_2_PI,
        false => sine * sum,
    }
}

/// How much of the normal distribution lies above `x`, which is not negative (Abramowitz and Stegun 26.2.17; the error is
/// below 7.5e-8).
pub(super) fn normal_tail(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let factors = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let polynomial = factors.iter().rev().fold(0.0, |sum, it| (sum + it) * t);
    polynomial * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        assert!((normal_tail(0.0) - 0.5).abs() < 1e-6);
        assert!((normal_tail(1.96) - 0.025).abs() < 1e-5);
        // From any table of Student's t.
        for (freedom, beyond, t) in [
            (1, 0.05, 12.706),
            (2, 0.05, 4.303),
            (3, 0.05, 3.182),
            (3, 0.01, 5.841),
            (8, 0.001, 5.041),
            (19, 0.05, 2.093),
            (120, 0.05, 1.980),
        ] {
            assert!(
                (student_t(freedom, beyond) - t).abs() < 1e-3,
                "{freedom} {beyond}"
            );
        }
    }
}
