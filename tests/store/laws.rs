//! What every store must do. Each law is run in this process, in simulated time, and in Redis.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use trunkline::quota::{
    Ask, Book, Check, Demand, GroupDemand, InProcess, LeaseId, LeaseRenewal, Limit, Shortage,
    Spend, Store, Totals,
};

use crate::server::Server;

macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod in_process {
            $(
                #[tokio::test(start_paused = true)]
                async fn $law() {
                    super::$law(&super::in_process_store()).await;
                }
            )*
        }

        mod in_redis {
            $(
                #[tokio::test]
                async fn $law() {
                    let server = super::Server::start();
                    super::$law(&*server.store().await).await;
                }
            )*
        }
    };
}

laws!(
    a_limit_is_never_exceeded_however_many_ask_at_once,
    a_lease_ends_after_its_life_and_not_before,
    a_release_makes_room_at_once,
    a_renewal_prolongs_and_enters_anew,
    a_call_that_is_refused_changes_nothing,
    the_first_check_that_fails_is_the_answer,
    a_window_rolls_over,
    a_bucket_drains,
    a_bucket_may_be_overdrawn_and_paid_back,
    demand_stays_within_capacity,
    a_short_pool_is_shared_by_weight,
    leases_of_dead_calls_need_nothing,
    an_id_is_used_once_in_its_life,
    a_text_is_there_for_its_life,
    names_are_anything,
    many_leases_are_renewed_at_once,
);

/// In simulated time, windows included.
fn in_process_store() -> InProcess {
    let start = Instant::now();
    InProcess::with_wall_clock(move || Duration::from_secs(1_700_000_000) + start.elapsed())
}

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn ask(lease: &str, life: Duration, checks: Vec<Check>) -> Ask {
    Ask {
        lease: LeaseId(lease.into()),
        life,
        checks,
    }
}

pub(crate) fn calls(name: &str, limit: u32) -> Check {
    Check {
        name: name.into(),
        limit: Limit::Leases { limit },
    }
}

pub(crate) fn bucket(name: &str, per_minute: f64, burst: f64, amount: f64) -> Check {
    Check {
        name: name.into(),
        limit: Limit::Bucket {
            per_minute,
            burst,
            amount,
        },
    }
}

pub(crate) fn window(name: &str, limit: f64, length: Duration) -> Check {
    Check {
        name: name.into(),
        limit: Limit::Window { limit, length },
    }
}

pub(crate) fn demand(name: &str, capacity: f64, group: GroupDemand) -> Check {
    Check {
        name: name.into(),
        limit: Limit::Demand(Book {
            capacity,
            group,
            fair_from: 0.5,
        }),
    }
}

pub(crate) fn group(tenant: &str, now: f64) -> GroupDemand {
    GroupDemand {
        tenant: tenant.into(),
        weight: 1.0,
        kind: "agent".into(),
        mean_minutes: 4.0,
        demand: Demand { now, growth: 0.0 },
    }
}

pub(crate) fn spend_window(name: &str, length: Duration, amount: f64) -> Spend {
    Spend::Window {
        name: name.into(),
        length,
        amount,
    }
}

fn spend_bucket(name: &str, per_minute: f64, amount: f64) -> Spend {
    Spend::Bucket {
        name: name.into(),
        per_minute,
        amount,
    }
}

pub(crate) fn renewal(lease: &str, life: Duration, counted: &[&str]) -> LeaseRenewal {
    LeaseRenewal {
        lease: LeaseId(lease.into()),
        life,
        counted: counted.iter().map(|name| (*name).into()).collect(),
        demands: Vec::new(),
    }
}

async fn admit(store: &dyn Store, ask: Ask) -> Result<f64, Shortage> {
    let answer = store.admit(ask).await.expect("the store answers");
    answer.map(|admitted| admitted.expected)
}

async fn is_admitted(store: &dyn Store, ask: Ask) -> bool {
    admit(store, ask).await.is_ok()
}

async fn spend(store: &dyn Store, spend: Spend) -> Totals {
    store.spend(vec![spend]).await.expect("the store answers")[0]
}

async fn a_limit_is_never_exceeded_however_many_ask_at_once(store: &dyn Store) {
    let asks = (0..300).map(|n| {
        let checks = vec![calls("calls", 37), bucket("rate", 0.001, 1_000.0, 1.0)];
        is_admitted(store, ask(&n.to_string(), HOUR, checks))
    });
    let admitted = join_all(asks).await;
    assert_eq!(admitted.iter().filter(|it| **it).count(), 37);
    let held = spend(store, spend_bucket("rate", 0.001, 0.0)).await.held;
    assert!((held - 37.0).abs() < 0.1, "{held}");
    // The rate is the limit now.
    let asks = (300..600).map(|n| {
        let checks = vec![bucket("rate", 0.001, 50.5, 1.0), calls("more", 100)];
        is_admitted(store, ask(&n.to_string(), HOUR, checks))
    });
    let admitted = join_all(asks).await;
    assert_eq!(admitted.iter().filter(|it| **it).count(), 13);
}

async fn a_lease_ends_after_its_life_and_not_before(store: &dyn Store) {
    let life = Duration::from_millis(1_500);
    let one = |lease: &str| {
        ask(
            lease,
            life,
            vec![calls("calls", 1), demand("pool", 100.0, group("a", 60.0))],
        )
    };
    let started = Instant::now();
    assert!(is_admitted(store, one("1")).await);
    let after_admission = Instant::now();
    for pause in [0, 500, 500] {
        sleep(Duration::from_millis(pause)).await;
        let admitted = is_admitted(store, one("2")).await;
        // A machine that stood still proves nothing.
        assert!(!admitted || started.elapsed() >= life);
    }
    tokio::time::sleep_until(after_admission + life + Duration::from_millis(20)).await;
    assert!(is_admitted(store, one("2")).await);
}

async fn a_release_makes_room_at_once(store: &dyn Store) {
    let one = |lease: &str| {
        ask(
            lease,
            HOUR,
            vec![calls("calls", 1), demand("pool", 100.0, group("a", 60.0))],
        )
    };
    let released = |lease: &str| LeaseRenewal {
        demands: vec![("pool".into(), group("a", 60.0))],
        ..renewal(lease, HOUR, &["calls"])
    };
    assert!(is_admitted(store, one("1")).await);
    assert!(!is_admitted(store, one("2")).await);
    // Not that one's.
    store.release(vec![released("2")]).await.expect("done");
    assert!(!is_admitted(store, one("2")).await);
    store.release(vec![released("1")]).await.expect("done");
    assert!(is_admitted(store, one("2")).await);
    store
        .release(vec![released("2"), released("2")])
        .await
        .expect("done");
    assert_eq!(admit(store, one("3")).await, Ok(0.6));
}

async fn a_renewal_prolongs_and_enters_anew(store: &dyn Store) {
    let life = Duration::from_millis(800);
    let one = |lease: &str| {
        ask(
            lease,
            life,
            vec![calls("calls", 1), demand("pool", 100.0, group("a", 60.0))],
        )
    };
    let prolonged = |demand| LeaseRenewal {
        demands: vec![("pool".into(), group("a", demand))],
        ..renewal("1", HOUR, &["calls"])
    };
    assert!(is_admitted(store, one("1")).await);
    store.renew(vec![prolonged(70.0)]).await.expect("done");
    sleep(life * 2).await;
    assert!(!is_admitted(store, one("2")).await);
    let free = |now| ask("3", life, vec![demand("pool", 100.0, group("a", now))]);
    assert!(!is_admitted(store, free(31.0)).await, "70 are in use");
    assert!(is_admitted(store, free(30.0)).await);
    // One that the store never heard of.
    let unknown = renewal("4", HOUR, &["others"]);
    store.renew(vec![unknown]).await.expect("done");
    assert!(!is_admitted(store, ask("5", HOUR, vec![calls("others", 1)])).await);
    assert!(is_admitted(store, ask("5", HOUR, vec![calls("others", 2)])).await);
}

async fn a_call_that_is_refused_changes_nothing(store: &dyn Store) {
    assert!(is_admitted(store, ask("1", HOUR, vec![calls("full", 1)])).await);
    for n in 0..20 {
        let checks = vec![
            bucket("rate", 0.001, 5.5, 1.0),
            calls("free", 5),
            demand("pool", 100.0, group("a", 30.0)),
            calls("full", 1),
        ];
        let shortage = admit(store, ask(&format!("refused {n}"), HOUR, checks)).await;
        assert_eq!(&*shortage.expect_err("full").name, "full");
    }
    assert_eq!(
        spend(store, spend_bucket("rate", 0.001, 0.0)).await.held,
        0.0
    );
    for n in 0..5 {
        assert!(
            is_admitted(
                store,
                ask(&format!("free {n}"), HOUR, vec![calls("free", 5)])
            )
            .await
        );
    }
    let pool = vec![demand("pool", 100.0, group("a", 30.0))];
    assert_eq!(admit(store, ask("pool", HOUR, pool)).await, Ok(0.3));
}

async fn the_first_check_that_fails_is_the_answer(store: &dyn Store) {
    let check = async |checks: Vec<Check>, expected: &str| {
        let shortage = admit(store, ask("1", HOUR, checks))
            .await
            .expect_err(expected);
        assert_eq!(&*shortage.name, expected);
        assert!(!shortage.unfair);
        let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
        assert!(bounds.contains(&shortage.retry_after), "{shortage:?}");
    };
    let none = || demand("pool", 0.0, group("a", 1.0));
    check(vec![calls("a", 1), calls("b", 0), none()], "b").await;
    check(vec![none(), calls("b", 0)], "pool").await;
    check(vec![window("day", 0.0, HOUR), none()], "day").await;
    check(vec![bucket("rate", 60.0, 1.0, 1.5)], "rate").await;
    check(vec![bucket("rate", 0.0, 1.0, 1.5)], "rate").await;
    assert_eq!(admit(store, ask("1", HOUR, Vec::new())).await, Ok(0.0));
}

async fn a_window_rolls_over(store: &dyn Store) {
    let length = Duration::from_secs(2);
    let used = |amount| spend_window("used", length, amount);
    let one = |lease: &str| ask(lease, HOUR, vec![window("used", 5.0, length)]);
    // With most of a window ahead.
    let left = spend(store, used(0.0)).await.resets_in;
    assert!(left <= length);
    sleep(left + Duration::from_millis(20)).await;
    let begun = Instant::now();
    let first = spend(store, used(4.0)).await;
    assert!(is_admitted(store, one("1")).await || begun.elapsed() > length);
    let second = spend(store, used(2.0)).await;
    let is_refused = !is_admitted(store, one("2")).await;
    let is_in_time = begun.elapsed() < Duration::from_millis(1_900);
    if is_in_time {
        assert_eq!((first.held, second.held, is_refused), (4.0, 6.0, true));
    }
    sleep(length).await;
    assert!(is_admitted(store, one("2")).await);
    let third = spend(store, used(1.0)).await;
    assert_eq!(third.held, 1.0);
}

async fn a_bucket_drains(store: &dyn Store) {
    // Ten a second.
    let take = |amount| ask("1", HOUR, vec![bucket("rate", 600.0, 10.0, amount)]);
    let started = Instant::now();
    assert!(is_admitted(store, take(10.0)).await);
    let is_refused = !is_admitted(store, take(9.0)).await;
    assert!(is_refused || started.elapsed() > Duration::from_millis(800));
    let totals = spend(store, spend_bucket("rate", 600.0, 0.0)).await;
    assert!(
        totals.held <= 10.0 && totals.resets_in <= Duration::from_secs(1),
        "{totals:?}"
    );
    sleep(Duration::from_millis(900)).await;
    assert!(is_admitted(store, take(9.0)).await);
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        spend(store, spend_bucket("rate", 600.0, 0.0)).await.held,
        0.0
    );
}

async fn a_bucket_may_be_overdrawn_and_paid_back(store: &dyn Store) {
    let used = |amount| spend_bucket("tokens", 0.001, amount);
    let asked = |amount| ask("1", HOUR, vec![bucket("tokens", 0.001, 100.5, amount)]);
    let spends = vec![used(150.0), used(-30.0), used(1.0)];
    let totals = store.spend(spends).await.expect("done");
    let held: Vec<_> = totals.iter().map(|it| it.held.round()).collect();
    assert_eq!(held, [150.0, 120.0, 121.0]);
    assert!(!is_admitted(store, asked(0.0)).await);
    assert_eq!(spend(store, used(-21.0)).await.held.round(), 100.0);
    assert!(is_admitted(store, asked(0.0)).await);
    assert!(!is_admitted(store, asked(1.0)).await);
    assert_eq!(spend(store, used(-500.0)).await.held, 0.0);
    assert!(is_admitted(store, asked(1.0)).await);
}

async fn demand_stays_within_capacity(store: &dyn Store) {
    let growing = GroupDemand {
        demand: Demand {
            now: 1_000.0,
            growth: 500.0,
        },
        ..group("a", 0.0)
    };
    // Highest in two minutes: 2000 exp(-1/2) for one call.
    let peak = 2_000.0 * (-0.5_f64).exp();
    let one = |n: u32| {
        ask(
            &n.to_string(),
            HOUR,
            vec![demand("pool", 10.1 * peak, growing.clone())],
        )
    };
    for n in 1..=10 {
        let expected = admit(store, one(n)).await.expect("room");
        assert!((expected - f64::from(n) / 10.1).abs() < 1e-9, "{expected}");
    }
    let shortage = admit(store, one(11)).await.expect_err("full");
    assert!(!shortage.unfair);
    // Ten calls of four minutes: one of them ends in 24 s.
    assert_eq!(shortage.retry_after.as_secs_f64().round(), 24.0);
    let nothing = demand("pool", 1.0, group("b", 0.0));
    assert!(is_admitted(store, ask("12", HOUR, vec![nothing])).await);
}

async fn a_short_pool_is_shared_by_weight(store: &dyn Store) {
    let call = async |lease: &str, tenant: &str, weight: f64, kind: &str, now: f64| {
        let group = GroupDemand {
            weight,
            kind: kind.into(),
            ..group(tenant, now)
        };
        let answer = admit(store, ask(lease, HOUR, vec![demand("pool", 100.0, group)])).await;
        answer.map(|_| ()).map_err(|shortage| shortage.unfair)
    };
    assert_eq!(call("1", "a", 1.0, "x", 30.0).await, Ok(()));
    assert_eq!(call("2", "b", 1.0, "x", 10.0).await, Ok(()));
    assert_eq!(call("3", "a", 1.0, "y", 20.0).await, Ok(()), "half is a's");
    assert_eq!(call("4", "a", 1.0, "z", 1.0).await, Err(true));
    assert_eq!(
        call("5", "b", 1.0, "x", 41.0).await,
        Err(false),
        "there is no room"
    );
    assert_eq!(
        call("6", "c", 1.0, "x", 34.0).await,
        Err(true),
        "a third is c's"
    );
    assert_eq!(call("7", "c", 2.0, "x", 34.0).await, Ok(()), "half is");
    assert_eq!(call("8", "b", 1.0, "x", 6.0).await, Ok(()));
}

async fn leases_of_dead_calls_need_nothing(store: &dyn Store) {
    let life = Duration::from_millis(600);
    for n in 0..50 {
        let checks = vec![calls("calls", 50), demand("pool", 100.0, group("a", 0.7))];
        let life = if n % 2 == 0 { life } else { HOUR };
        let admitted = is_admitted(store, ask(&n.to_string(), life, checks)).await;
        assert!(admitted, "{n}");
    }
    sleep(life + Duration::from_millis(20)).await;
    let checks = vec![calls("calls", 26), demand("pool", 100.0, group("a", 2.5))];
    let expected = admit(store, ask("next", HOUR, checks))
        .await
        .expect("25 have gone");
    assert!(
        (expected - (25.0 * 0.7 + 2.5) / 100.0).abs() < 1e-4,
        "{expected}"
    );
}

async fn an_id_is_used_once_in_its_life(store: &dyn Store) {
    let life = Duration::from_millis(700);
    let used = || store.use_once("id".into(), life);
    let answers = join_all((0..50).map(|_| used())).await;
    let n_good = answers.iter().filter(|it| **it == Ok(true)).count();
    assert_eq!(n_good, 1);
    assert_eq!(store.use_once("another".into(), HOUR).await, Ok(true));
    sleep(life + Duration::from_millis(20)).await;
    assert_eq!(used().await, Ok(true));
    assert_eq!(store.use_once("another".into(), HOUR).await, Ok(false));
}

async fn a_text_is_there_for_its_life(store: &dyn Store) {
    let get = async |name: &str| store.get(name.into()).await.expect("the store answers");
    let put = async |name: &str, text: &str, life| {
        let put = store.put(name.into(), text.into(), life).await;
        put.expect("the store answers");
    };
    assert_eq!(get("a").await, None);
    put("a", "first", HOUR).await;
    put("a", "\0 ü\r\n", HOUR).await;
    put("b", "", HOUR).await;
    assert_eq!(get("a").await.as_deref(), Some("\0 ü\r\n"));
    assert_eq!(get("b").await.as_deref(), Some(""));
    // What is kept under a name has nothing to do with ids that were used.
    assert_eq!(store.use_once("b".into(), HOUR).await, Ok(true));
    let life = Duration::from_millis(100);
    put("a", "last", life).await;
    sleep(life + Duration::from_millis(20)).await;
    assert_eq!(get("a").await, None);
    assert_eq!(get("b").await.as_deref(), Some(""));
}

async fn names_are_anything(store: &dyn Store) {
    let long = "x".repeat(5_000);
    let names = [
        "",
        " ",
        "a b",
        "{x}",
        "ends:1",
        "\0",
        "\"\\'",
        "ü\u{1f600}",
        "]]",
        "%d",
        &long,
    ];
    for name in names {
        let call = GroupDemand {
            kind: name.into(),
            ..group(name, 1.0)
        };
        let checks = vec![calls(name, 1), demand(name, 1.0, call.clone())];
        assert!(
            is_admitted(store, ask(name, HOUR, checks.clone())).await,
            "{name:?}"
        );
        assert!(
            !is_admitted(store, ask("other", HOUR, checks)).await,
            "{name:?}"
        );
        assert_eq!(store.use_once(name.into(), HOUR).await, Ok(true));
        assert_eq!(store.put(name.into(), name.into(), HOUR).await, Ok(()));
        assert_eq!(store.get(name.into()).await, Ok(Some(name.to_owned())));
        assert_eq!(
            spend(store, spend_window(name, HOUR * 1_000_000, 2.0))
                .await
                .held,
            2.0
        );
        let lease = LeaseRenewal {
            demands: vec![(name.into(), call)],
            ..renewal(name, HOUR, &[name])
        };
        store.release(vec![lease]).await.expect("done");
    }
    // A tenant and a kind that are written alike together are two groups.
    let call = |tenant: &str, kind: &str| GroupDemand {
        kind: kind.into(),
        ..group(tenant, 30.0)
    };
    let pool = |group| vec![demand("pool", 100.0, group)];
    assert!(is_admitted(store, ask("1", HOUR, pool(call("ab", "c")))).await);
    assert!(is_admitted(store, ask("2", HOUR, pool(call("a", "bc")))).await);
    let refused = admit(store, ask("3", HOUR, pool(call("ab", "c")))).await;
    assert!(refused.expect_err("half is used").unfair);
}

async fn many_leases_are_renewed_at_once(store: &dyn Store) {
    let all = |now: f64| -> Vec<LeaseRenewal> {
        let one = |n: u32| LeaseRenewal {
            demands: vec![("pool".into(), group(&format!("tenant {}", n % 7), now))],
            ..renewal(&n.to_string(), HOUR, &["calls"])
        };
        (0..500).map(one).collect()
    };
    store.renew(all(1.0)).await.expect("done");
    store.renew(all(0.125)).await.expect("done");
    let next = |limit| {
        ask(
            "next",
            HOUR,
            vec![
                calls("calls", limit),
                demand("pool", 1_000.0, group("a", 1.0)),
            ],
        )
    };
    assert!(!is_admitted(store, next(500)).await);
    let expected = admit(store, next(501)).await.expect("room");
    assert!((expected - 0.0635).abs() < 1e-9, "{expected}");
    let next = renewal("next", HOUR, &["calls"]);
    store
        .release([all(0.125), vec![next]].concat())
        .await
        .expect("done");
    assert!(is_admitted(store, ask("last", HOUR, vec![calls("calls", 1)])).await);
}

/// What a store answered, in a form that can be compared.
#[derive(Debug)]
enum Answer {
    Admitted(f64),
    Short(Arc<str>, bool, f64),
    Totals(Vec<f64>),
    Used(bool),
    Done,
}

impl Answer {
    /// The stores do not run at the same moment.
    fn is_like(&self, other: &Self) -> bool {
        let is_near = |a: &f64, b: &f64| (a - b).abs() < 0.01 + b.abs() * 1e-6;
        match (self, other) {
            (Self::Admitted(a), Self::Admitted(b)) => is_near(a, b),
            (Self::Short(a, a_unfair, a_wait), Self::Short(b, b_unfair, b_wait)) => {
                a == b && a_unfair == b_unfair && (a_wait - b_wait).abs() < 5.0
            }
            (Self::Totals(a), Self::Totals(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_near(a, b))
            }
            (Self::Used(a), Self::Used(b)) => a == b,
            (Self::Done, Self::Done) => true,
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit(Ask),
    Renew(Vec<LeaseRenewal>),
    Release(Vec<LeaseRenewal>),
    Spend(Vec<Spend>),
    UseOnce(Arc<str>),
}

async fn answer(store: &dyn Store, step: Step) -> Answer {
    match step {
        Step::Admit(ask) => match admit(store, ask).await {
            Ok(expected) => Answer::Admitted(expected),
            Err(it) => Answer::Short(it.name, it.unfair, it.retry_after.as_secs_f64()),
        },
        Step::Renew(leases) => {
            store.renew(leases).await.expect("the store answers");
            Answer::Done
        }
        Step::Release(leases) => {
            store.release(leases).await.expect("the store answers");
            Answer::Done
        }
        Step::Spend(spends) => {
            let totals = store.spend(spends).await.expect("the store answers");
            Answer::Totals(totals.iter().map(|it| it.held).collect())
        }
        Step::UseOnce(id) => {
            Answer::Used(store.use_once(id, HOUR).await.expect("the store answers"))
        }
    }
}

/// Names, amounts and limits that meet often, and nothing that depends on a few milliseconds.
struct Dice(fastrand::Rng);

/// Long enough to be the same one during the test.
const AGE: Duration = Duration::from_secs(4_000_000_000);

impl Dice {
    fn name(&mut self) -> &'static str {
        ["a", "b", "c"][self.0.usize(..3)]
    }

    fn lease(&mut self) -> String {
        self.0.u8(..12).to_string()
    }

    /// One that has ended at once is one that has expired.
    fn life(&mut self) -> Duration {
        if self.0.u8(..5) == 0 {
            Duration::ZERO
        } else {
            HOUR
        }
    }

    fn amount(&mut self) -> f64 {
        f64::from(self.0.i8(-3..12))
    }

    fn group(&mut self) -> GroupDemand {
        GroupDemand {
            tenant: self.name().into(),
            weight: f64::from(self.0.u8(1..4)),
            kind: ["x", "y"][self.0.usize(..2)].into(),
            mean_minutes: 0.5 + f64::from(self.0.u8(..8)),
            demand: Demand {
                now: f64::from(self.0.u8(..40)) / 3.0,
                growth: f64::from(self.0.i8(-20..40)) / 7.0,
            },
        }
    }

    fn check(&mut self) -> Check {
        let name = self.name();
        match self.0.u8(..4) {
            0 => bucket(
                name,
                0.01,
                20.5 + f64::from(self.0.u8(..9)),
                self.amount().max(0.0),
            ),
            1 => window(name, 10.5 + f64::from(self.0.u8(..30)), AGE),
            2 => calls(name, self.0.u32(..9)),
            _ => {
                let group = self.group();
                demand(name, 20.0 + f64::from(self.0.u8(..80)), group)
            }
        }
    }

    fn renewal(&mut self) -> LeaseRenewal {
        let demands = (0..self.0.u8(..3))
            .map(|_| (self.name().into(), self.group()))
            .collect();
        let counted = (0..self.0.u8(..3)).map(|_| self.name().into()).collect();
        LeaseRenewal {
            lease: LeaseId(self.lease().into()),
            life: self.life(),
            counted,
            demands,
        }
    }

    fn spend(&mut self) -> Spend {
        let (name, amount) = (self.name(), self.amount());
        if self.0.bool() {
            spend_bucket(name, 0.01, amount)
        } else {
            spend_window(name, AGE, amount)
        }
    }

    fn step(&mut self) -> Step {
        match self.0.u8(..10) {
            0..=4 => {
                let (lease, life) = (self.lease(), self.life());
                let checks = (0..self.0.u8(..5)).map(|_| self.check()).collect();
                Step::Admit(ask(&lease, life, checks))
            }
            5 => Step::Renew((0..self.0.u8(..4)).map(|_| self.renewal()).collect()),
            6 => Step::Release((0..self.0.u8(..4)).map(|_| self.renewal()).collect()),
            7 | 8 => Step::Spend((0..self.0.u8(..4)).map(|_| self.spend()).collect()),
            _ => Step::UseOnce(self.lease().into()),
        }
    }
}

#[tokio::test]
async fn both_stores_answer_the_same() {
    let server = Server::start();
    let shared = server.store().await;
    for seed in 0..60 {
        server.command(&["FLUSHALL"]);
        let own = InProcess::default();
        let mut dice = Dice(fastrand::Rng::with_seed(seed));
        for n in 0..80 {
            let step = dice.step();
            let one = answer(&own, step.clone()).await;
            let other = answer(&*shared, step.clone()).await;
            assert!(
                one.is_like(&other),
                "seed {seed}, step {n}: {step:?}\n{one:?}\n{other:?}"
            );
        }
    }
}

#[tokio::test]
async fn redis_forgets_what_has_run_out() {
    let server = Server::start();
    let store = server.store().await;
    let life = Duration::from_millis(300);
    for n in 0..20 {
        let checks = vec![
            calls("calls", 100),
            demand("pool", 1_000.0, group("a", 1.0)),
            bucket("rate", 60_000.0, 1_000.0, 1.0),
        ];
        assert!(is_admitted(&*store, ask(&n.to_string(), life, checks)).await);
        spend(
            &*store,
            spend_window(&n.to_string(), Duration::from_secs(1), 1.0),
        )
        .await;
        store
            .use_once(n.to_string().into(), life)
            .await
            .expect("done");
    }
    let is_ours = |key: &String| !key.contains(":mark:") && !key.contains(":probe");
    crate::server::until("all keys have expired", || {
        server.keys().iter().filter(|key| is_ours(key)).count() == 0
    })
    .await;
    // What a call needs once, it needs once.
    assert!(
        server
            .keys()
            .iter()
            .all(|key| key.starts_with("{trunkline}:"))
    );
}
