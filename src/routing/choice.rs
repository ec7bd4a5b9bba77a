//! In which order a pool's deployments are asked for one call.
//!
//! Those that failed the call come last, and before them those that are full; then the priority counts, then the
//! region, then the policy. Who may not be asked now is not in the order at all, so that a call goes on to the next tier
//! by itself. Full ones are in it: a call that was let in is better served there than not at all.

use std::cmp::Ordering;

use serde::Deserialize;

/// How deployments of equal priority share calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The one that carries least for its weight: in forecast tokens as a share of its grant, or in sessions.
    #[default]
    LeastLoaded,
    /// At random, by weight.
    Weighted,
}

/// A deployment that could be asked.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its place in the pool.
    pub member: usize,
    /// Its name.
    pub name: &'a str,
    /// The lowest number is asked first.
    pub priority: u32,
    /// Its share among those of equal priority; above 0.
    pub weight: u32,
    /// Whether it is in the region that the pool prefers.
    pub is_near: bool,
    /// What it carries.
    pub pressure: f64,
    /// Sessions that are held there, which count where the pressure is the same.
    pub n_sessions: u32,
    /// It cannot carry one more call.
    pub is_full: bool,
    /// It has just failed this call.
    pub is_avoided: bool,
}

/// The order in which `candidates` are asked. Calls with the same `key` have the same order as long as the same ones can
/// be asked, and when one cannot, only its own calls move (rendezvous hashing). `random` gives numbers in 0..1.
pub fn order(
    candidates: &[Candidate<'_>],
    policy: Policy,
    key: Option<&str>,
    mut random: impl FnMut() -> f64,
) -> Vec<usize> {
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|it| {
            let weight = f64::from(it.weight.max(1));
            let held = [it.pressure.max(0.0), f64::from(it.n_sessions)];
            let (load, chance) = match (key, policy) {
                (Some(key), _) => ([0.0; 2], hashed(key, it.name)),
                (None, Policy::LeastLoaded) => (held.map(|held| held / weight), random()),
                (None, Policy::Weighted) => ([0.0; 2], random()),
            };
            // The smallest of exponential draws falls to each in proportion to its weight.
            let draw = -chance.max(f64::MIN_POSITIVE).ln() / weight;
            (it, load, draw)
        })
        .collect();
    ranked.sort_by(|(a, a_load, a_draw), (b, b_load, b_draw)| {
        let tier = |it: &Candidate<'_>| (it.is_avoided, it.is_full, it.priority, !it.is_near);
        let by_load = || a_load.partial_cmp(b_load).unwrap_or(Ordering::Equal);
        tier(a)
            .cmp(&tier(b))
            .then_with(by_load)
            .then_with(|| a_draw.total_cmp(b_draw))
    });
    ranked.into_iter().map(|(it, ..)| it.member).collect()
}

/// A number in 0..1 of a key and a name, the same in every process: FNV-1a, then the finaliser of SplitMix64, because
/// the high bits of the former differ too little between similar names.
fn hashed(key: &str, name: &str) -> f64 {
    let bytes = key.bytes().chain([0]).chain(name.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // 53 bits are what a float of 64 holds exactly.
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn candidates(n: usize) -> Vec<Candidate<'static>> {
        let candidate = |member: usize| Candidate {
            member,
            name: NAMES[member],
            priority: 0,
            weight: 1,
            is_near: true,
            pressure: 0.0,
            n_sessions: 0,
            is_full: false,
            is_avoided: false,
        };
        (0..n).map(candidate).collect()
    }

    fn check(change: impl Fn(&mut [Candidate<'static>]), expected: &[usize]) {
        let mut all = candidates(expected.len());
        change(&mut all);
        let order = order(&all, Policy::LeastLoaded, None, || 0.5);
        assert_eq!(order, expected);
    }

    #[test]
    fn what_counts_before_what() {
        check(|_| {}, &[0, 1, 2]);
        check(|all| all[0].pressure = 1.0, &[1, 2, 0]);
        check(
            |all| {
                (all[0].pressure, all[0].weight) = (5.0, 10);
                all[1].pressure = 1.0;
            },
            &[0, 1],
        );
        check(|all| all[0].n_sessions = 1, &[1, 2, 0]);
        check(
            |all| {
                all[0].n_sessions = 9;
                all[1].pressure = 0.1;
            },
            &[0, 1],
        );
        check(
            |all| {
                all[0].is_full = true;
                all[1].priority = 9;
            },
            &[1, 0],
        );
        check(
            |all| {
                all[0].is_avoided = true;
                all[1].is_full = true;
            },
            &[1, 0],
        );
        check(
            |all| {
                all[0].is_near = false;
                all[1].pressure = 100.0;
            },
            &[1, 0],
        );
        check(
            |all| {
                all[0].priority = 1;
                all[1].is_near = false;
            },
            &[1, 0],
        );
        check(
            |all| {
                all[0].is_avoided = true;
                all[1].priority = 9;
            },
            &[1, 0],
        );
    }

    #[test]
    fn held_sessions_converge_to_the_weights() {
        let mut all = candidates(3);
        for (candidate, weight) in all.iter_mut().zip([1, 3, 6]) {
            candidate.weight = weight;
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..1_000 {
            let first = order(&all, Policy::LeastLoaded, None, || random.f64())[0];
            all[first].pressure += 1.0;
        }
        let held: Vec<f64> = all.iter().map(|it| it.pressure).collect();
        assert_eq!(held, [100.0, 300.0, 600.0]);
        let mut first = [0u32; 3];
        for _ in 0..20_000 {
            first[order(&all, Policy::Weighted, None, || random.f64())[0]] += 1;
        }
        let near = |n: u32, share: f64| (f64::from(n) / 20_000.0 - share).abs() < 0.02;
        assert!(
            near(first[0], 0.1) && near(first[1], 0.3) && near(first[2], 0.6),
            "{first:?}"
        );
    }

    #[test]
    fn keys_stay_and_only_the_calls_of_one_that_leaves_move() {
        let all = candidates(5);
        let without = |gone: usize| -> Vec<_> {
            all.iter().filter(|it| it.member != gone).copied().collect()
        };
        let mut first = [0u32; 5];
        for n in 0..5_000 {
            let key = format!("+4930{n:06}");
            let ask =
                |all: &[Candidate<'_>]| order(all, Policy::LeastLoaded, Some(&key), || 0.1)[0];
            let home = ask(&all);
            first[home] += 1;
            assert_eq!(ask(&all), home);
            assert_eq!(ask(&without((home + 1) % 5)), home);
            assert_ne!(ask(&without(home)), home);
        }
        assert!(first.iter().all(|n| (900..1_100).contains(n)), "{first:?}");
    }

    proptest! {
        #[test]
        fn everybody_is_asked_once_and_tiers_are_kept(
            given in prop::collection::vec((0u32..3, 0u32..4, any::<bool>(), 0.0f64..9.0, any::<bool>()), 0..5),
            key in prop::option::of("[a-z]{1,4}"),
            seed in any::<u64>(),
        ) {
            let mut all = candidates(given.len());
            for (it, (priority, weight, is_near, pressure, is_avoided)) in all.iter_mut().zip(given) {
                *it = Candidate { priority, weight, is_near, pressure, is_avoided, ..*it };
            }
            let mut random = fastrand::Rng::with_seed(seed);
            let order = order(&all, Policy::Weighted, key.as_deref(), || random.f64());
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..all.len()).collect::<Vec<_>>());
            let tiers: Vec<_> = order
                .iter()
                .map(|it| (all[*it].is_avoided, all[*it].priority, !all[*it].is_near))
                .collect();
            prop_assert!(tiers.is_sorted());
        }
    }
}
