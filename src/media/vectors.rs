//! Sums of products of 16-bit numbers, by the vectors that the processor has.
//!
//! Everything is exact, so that each kind of vector gives the same samples: sums have to stay within 32 bits.

use wide::{i16x8, i32x4, i32x8};

/// Samples multiplied at a time.
pub(super) const LANES: usize = 16;
/// Outputs that [`Vectors::convolve`] gives at a time.
pub(super) const BLOCK: usize = 16;

/// Work for the best vectors that there are, written once for all kinds.
pub(super) trait Work {
    /// Does it; to be inlined whole, so that it is compiled for these vectors.
    fn by(self, vectors: impl Vectors);
}

/// Has the best vectors of this processor do it.
pub(super) fn do_by_best(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(
            #[inline(always)]
            || work.by(Avx2(avx2)),
        );
    }
    work.by(Baseline);
}

/// A kind of vectors.
pub(super) trait Vectors: Copy {
    /// The parts of a sum.
    type Sum: Copy;

    /// The parts of zero.
    fn zero(self) -> Self::Sum;

    /// `sum` and the products.
    fn add(self, sum: Self::Sum, samples: &[i16; LANES], taps: &[i16; LANES]) -> Self::Sum;

    /// Whole sums with so many bits of fraction, rounded and clamped.
    fn rounded<const BITS: i32>(self, sums: [Self::Sum; 4]) -> [i16; 4];

    /// Sums of products over a window that moves by one sample from each to the next, with so many bits of fraction, rounded and
    /// clamped. `taps` come in pairs; `samples` are one less than taps and sums together.
    fn convolve<const BITS: i32>(self, samples: &[i16], taps: &[[i16; 2]]) -> [i16; BLOCK];
}

/// Windows of `LENGTH` samples for each pair of taps, which begin `first` samples after the first tap's.
#[inline(always)]
fn windows<'a, const LENGTH: usize>(
    samples: &'a [i16],
    taps: &'a [[i16; 2]],
    first: usize,
) -> impl Iterator<Item = (&'a [i16; LENGTH], [i16; 2])> {
    let starts = samples[first..].windows(LENGTH).step_by(2);
    let starts = starts.map(|it| it.try_into().expect("a window of this length"));
    starts.zip(taps.iter().copied())
}

/// As 16 bits, the nearest where there is none.
#[inline(always)]
fn saturated(sums: [i32x4; 2]) -> [[i16; 4]; 2] {
    let [low, high] = sums.map(i32x4::to_array);
    let both: [i32; 8] = std::array::from_fn(|n| if n < 4 { low[n] } else { high[n - 4] });
    let [a, b, c, d, e, f, g, h] = i16x8::from_i32x8_saturate(i32x8::new(both)).to_array();
    [[a, b, c, d], [e, f, g, h]]
}

/// What each target has, 128 bits of it.
#[derive(Clone, Copy)]
struct Baseline;

impl Vectors for Baseline {
    type Sum = i32x4;

    #[inline(always)]
    fn zero(self) -> i32x4 {
        i32x4::ZERO
    }

    #[inline(always)]
    fn add(self, sum: i32x4, samples: &[i16; LANES], taps: &[i16; LANES]) -> i32x4 {
        let halves = samples.as_chunks().0.iter().zip(taps.as_chunks().0);
        // The plain sum over single samples is not what the compiler turns into `pmaddwd` alone.
        halves.fold(sum, |sum, (samples, taps)| {
            sum + i16x8::new(*samples).dot(i16x8::new(*taps))
        })
    }

    #[inline(always)]
    fn rounded<const BITS: i32>(self, sums: [i32x4; 4]) -> [i16; 4] {
        let [a, b, c, d] = i32x4::transpose(sums);
        let sums = (a + b) + (c + d) + i32x4::splat(1 << (BITS - 1));
        let [sums, _] = saturated([sums >> BITS, i32x4::ZERO]);
        sums
    }

    #[inline(always)]
    fn convolve<const BITS: i32>(self, samples: &[i16], taps: &[[i16; 2]]) -> [i16; BLOCK] {
        // A pair of taps meets samples 0 and 1, 2 and 3 and so on for the even sums, 1 and 2, 3 and 4 for the odd ones.
        let sums = |first: usize| {
            let mut sums = [i32x4::splat(1 << (BITS - 1)); 2];
            for (window, [a, b]) in windows::<BLOCK>(samples, taps, first) {
                let taps = i16x8::new([a, b, a, b, a, b, a, b]);
                for (sum, samples) in sums.iter_mut().zip(window.as_chunks().0) {
                    *sum += i16x8::new(*samples).dot(taps);
                }
            }
            saturated(sums.map(|it| it >> BITS))
        };
        let both = [sums(0), sums(1)];
        std::array::from_fn(|n| both[n % 2][n / 8][n / 2 % 4])
    }
}

/// 256 bits, which x86-64 processors of servers have had since 2014 (Intel) and 2017 (AMD), but for some of the smallest.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(pulp::x86::V3);

#[cfg(target_arch = "x86_64")]
impl Vectors for Avx2 {
    type Sum = std::arch::x86_64::__m256i;

    #[inline(always)]
    fn zero(self) -> Self::Sum {
        self.0.avx._mm256_setzero_si256()
    }

    #[inline(always)]
    fn add(self, sum: Self::Sum, samples: &[i16; LANES], taps: &[i16; LANES]) -> Self::Sum {
        let avx2 = self.0.avx2;
        let products = avx2._mm256_madd_epi16(pulp::cast(*samples), pulp::cast(*taps));
        avx2._mm256_add_epi32(sum, products)
    }

    #[inline(always)]
    fn rounded<const BITS: i32>(self, [a, b, c, d]: [Self::Sum; 4]) -> [i16; 4] {
        let avx2 = self.0.avx2;
        let (ab, cd) = (avx2._mm256_hadd_epi32(a, b), avx2._mm256_hadd_epi32(c, d));
        let [low, high]: [[i32; 4]; 2] = pulp::cast(avx2._mm256_hadd_epi32(ab, cd));
        let sums = i32x4::new(low) + i32x4::new(high) + i32x4::splat(1 << (BITS - 1));
        let [sums, _] = saturated([sums >> BITS, i32x4::ZERO]);
        sums
    }

    #[inline(always)]
    fn convolve<const BITS: i32>(self, samples: &[i16], taps: &[[i16; 2]]) -> [i16; BLOCK] {
        let Self(pulp::x86::V3 { avx, avx2, .. }) = self;
        let mut even = avx._mm256_set1_epi32(1 << (BITS - 1));
        let mut odd = even;
        let windows = windows::<LANES>(samples, taps, 0).zip(windows::<LANES>(samples, taps, 1));
        for ((even_samples, taps), (odd_samples, _)) in windows {
            let taps = avx._mm256_set1_epi32(pulp::cast(taps));
            let products = avx2._mm256_madd_epi16(pulp::cast(*even_samples), taps);
            even = avx2._mm256_add_epi32(even, products);
            let products = avx2._mm256_madd_epi16(pulp::cast(*odd_samples), taps);
            odd = avx2._mm256_add_epi32(odd, products);
        }
        let (even, odd) = (
            avx2._mm256_srai_epi32::<BITS>(even),
            avx2._mm256_srai_epi32::<BITS>(odd),
        );
        // Four even ones, then the four odd ones that stand between and after them; twice.
        let packed: [[[i16; 4]; 2]; 2] = pulp::cast(avx2._mm256_packs_epi32(even, odd));
        std::array::from_fn(|n| packed[n / 8][n % 2][n / 2 % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: i32 = 14;

    /// Does it by both kinds of vectors, if this processor has two.
    fn each(mut check: impl FnMut(&dyn Fn(&[i16], &[i16]) -> [i16; BLOCK])) {
        struct Convolve<'a>(&'a [i16], &'a [i16], &'a mut [i16; BLOCK]);

        impl Work for Convolve<'_> {
            #[inline(always)]
            fn by(self, vectors: impl Vectors) {
                *self.2 = vectors.convolve::<BITS>(self.0, self.1.as_chunks().0);
            }
        }

        check(&|samples, taps| Baseline.convolve::<BITS>(samples, taps.as_chunks().0));
        check(&|samples, taps| {
            let mut sums = [0; BLOCK];
            do_by_best(Convolve(samples, taps, &mut sums));
            sums
        });
    }

    #[test]
    fn a_window_that_moves_meets_all_its_taps() {
        let mut random = fastrand::Rng::with_seed(3);
        each(|convolve| {
            for n_taps in [2, 16, 48] {
                let taps: Vec<i16> = (0..n_taps).map(|_| random.i16(-900..900)).collect();
                let samples: Vec<i16> = (0..n_taps + BLOCK - 1).map(|_| random.i16(..)).collect();
                let expected = samples.windows(n_taps).map(|window| {
                    let products = window.iter().zip(&taps);
                    let sum: i64 = products.map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
                    let rounded = (sum + (1 << (BITS - 1))) >> BITS;
                    rounded.clamp(i16::MIN.into(), i16::MAX.into()) as i16
                });
                assert_eq!(
                    convolve(&samples, &taps).to_vec(),
                    expected.collect::<Vec<_>>()
                );
            }
        });
    }

    #[test]
    fn sums_of_each_kind_are_the_same() {
        struct Sums<'a>([&'a [i16; LANES]; 5], &'a mut [i16; 4]);

        impl Work for Sums<'_> {
            #[inline(always)]
            fn by(self, vectors: impl Vectors) {
                let Self([taps, samples @ ..], found) = self;
                let mut sums = [vectors.zero(); 4];
                for (sum, samples) in sums.iter_mut().zip(samples) {
                    *sum = vectors.add(*sum, samples, taps);
                    *sum = vectors.add(*sum, taps, taps);
                }
                *found = vectors.rounded::<BITS>(sums);
            }
        }

        let mut random = fastrand::Rng::with_seed(4);
        for loudness in [90, 3_000] {
            let rows: [[i16; LANES]; 5] =
                std::array::from_fn(|_| std::array::from_fn(|_| random.i16(-loudness..loudness)));
            let rows = rows.each_ref();
            let (mut plain, mut best) = ([0; 4], [1; 4]);
            Sums(rows, &mut plain).by(Baseline);
            do_by_best(Sums(rows, &mut best));
            assert_eq!(plain, best);
            let dot = |a: &[i16; LANES], b: &[i16; LANES]| -> i64 {
                let products = a.iter().zip(b);
                products.map(|(&a, &b)| i64::from(a) * i64::from(b)).sum()
            };
            for (row, found) in rows[1..].iter().zip(plain) {
                let sum = dot(row, rows[0]) + dot(rows[0], rows[0]);
                let rounded = (sum + (1 << (BITS - 1))) >> BITS;
                assert_eq!(i64::from(found), rounded.clamp(-32_768, 32_767));
            }
        }
    }
}
