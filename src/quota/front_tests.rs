//! Quota as listener and calls see it, over the store of this process and over one that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::call::{RateLimit, RateLimits, Usage};
use crate::telemetry::Metrics;

/// A store that can be out of reach.
#[derive(Debug)]
struct Flaky {
    store: InProcess,
    is_out: AtomicBool,
}

impl Flaky {
    /// At noon of some day.
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: InProcess::with_wall_clock(|| Duration::from_secs(12 * 60 * 60)),
            is_out: AtomicBool::new(false),
        })
    }

    fn go(&self, is_out: bool) {
        self.is_out.store(is_out, Ordering::Relaxed);
    }

    fn ask<'a, T: Send + 'a>(
        &'a self,
        ask: impl FnOnce(&'a InProcess) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        if self.is_out.load(Ordering::Relaxed) {
            return ready(Err(StoreError::Unreachable)).boxed();
        }
        ask(&self.store)
    }
}

impl Store for Flaky {
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Result<Admitted, Shortage>, StoreError>> {
        self.ask(|store| store.admit(ask))
    }

    fn renew(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|store| store.renew(leases))
    }

    fn release(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|store| store.release(leases))
    }

    fn spend(&self, spends: Vec<Spend>) -> BoxFuture<'_, Result<Vec<Totals>, StoreError>> {
        self.ask(|store| store.spend(spends))
    }

    fn use_once(&self, id: Arc<str>, life: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.ask(|store| store.use_once(id, life))
    }

    fn put(
        &self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|store| store.put(name, text, life))
    }

    fn get(&self, name: Arc<str>) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        self.ask(|store| store.get(name))
    }
}

/// Quota with a keeper, as a process has it.
struct Bench {
    quota: Quota,
    store: Arc<Flaky>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Bench {
    fn new(config: &str, tenants: &[(&str, &str)]) -> Self {
        let mut plan = QuotaPlan {
            config: toml::from_str(config).unwrap(),
            ..QuotaPlan::default()
        };
        for (name, quota) in tenants {
            let quota = toml::from_str(quota).unwrap();
            plan.tenants.insert((*name).to_owned(), quota);
        }
        Self::of(plan, Flaky::new())
    }

    fn of(plan: QuotaPlan, store: Arc<Flaky>) -> Self {
        let metrics = Metrics::new();
        let shared: Arc<dyn Store> = Arc::clone(&store) as _;
        let quota = Quota::new(plan, shared, Arc::clone(&metrics));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(quota.clone().keep(stop.clone()));
        Self {
            quota,
            store,
            metrics,
            stop,
            tasks,
        }
    }

    async fn admit(&self, tenant: &str) -> Result<CallLease, Busy> {
        let caller = Caller {
            tenant,
            kind: CallKind::Agent("a"),
            number: None,
        };
        let pool = self.quota.pool("east", &["east"]);
        self.quota.admit(caller, pool).await
    }

    async fn is_busy(&self, tenant: &str, code: &str) -> Option<Duration> {
        let busy = self.admit(tenant).await.expect_err("no room");
        assert_eq!(busy.code, code);
        busy.retry_after
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().unwrap().contains(line)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn usage(input_text: u64) -> Usage {
    Usage {
        input_text,
        ..Usage::default()
    }
}

fn notices(lease: &CallLease) -> Vec<Notice> {
    std::iter::from_fn(|| lease.notice().now_or_never()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_filled_by_forecast_and_shared_fairly() {
    let config =
        "admission = 'forecast'\nheadroom = 1.0\nfair_from = 0.5\n[expect]\nmean_minutes = 10";
    let bench = Bench::new(config, &[("acme", ""), ("bolt", "")]);
    let first = bench.admit("bolt").await.unwrap();
    let mut leases = Vec::new();
    let busy = loop {
        match bench.admit("acme").await {
            Ok(lease) => leases.push(lease),
            Err(busy) => break busy,
        }
    };
    // A call of ten minutes is expected to need 10,000 a minute at most, nine minutes from now.
    assert_eq!(busy.code, "tenant_share_exceeded");
    assert!(busy.retry_after.is_some());
    assert!((4..8).contains(&leases.len()), "{}", leases.len());
    leases.push(bench.admit("bolt").await.unwrap());
    assert!(bench.metric(r#"trunkline_pool_expected_ratio{pool="east"} 0."#));
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_dropped_is_free_at_once_and_a_held_one_stays() {
    let bench = Bench::new("", &[("acme", "max_calls = 1")]);
    let lease = bench.admit("acme").await.unwrap();
    // Renewed by the keeper for far longer than its life.
    sleep(Duration::from_secs(120)).await;
    assert!(
        bench
            .is_busy("acme", "tenant_calls_exceeded")
            .await
            .is_some()
    );
    drop(lease);
    sleep(Duration::from_millis(1)).await;
    let lease = bench.admit("acme").await.unwrap();
    // The keeper gives back what is dropped until it stops, too.
    drop(lease);
    bench.stop.cancel();
    bench.tasks.close();
    bench.tasks.wait().await;
    assert!(bench.admit("acme").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dead_gateways_places_are_free_after_fifteen_seconds() {
    let bench = Bench::new("", &[("acme", "max_calls = 1")]);
    let _lease = bench.admit("acme").await.unwrap();
    bench.stop.cancel();
    bench.tasks.close();
    bench.tasks.wait().await;
    sleep(Duration::from_secs(14)).await;
    assert!(
        bench
            .is_busy("acme", "tenant_calls_exceeded")
            .await
            .is_some()
    );
    sleep(Duration::from_secs(2)).await;
    assert!(bench.admit("acme").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_store_that_is_out() {
    let limits = "max_calls = 1\ntokens_per_day = 1000";
    let bench = Bench::new("", &[("acme", limits)]);
    let lease = bench.admit("acme").await.unwrap();
    bench.store.go(true);
    assert!(bench.is_busy("acme", "quota_unknown").await.is_some());
    // What is used meanwhile is told when it is back, and told once.
    lease.opened("east", now());
    lease.used("east", &usage(500), now());
    sleep(Duration::from_secs(3)).await;
    lease.used("east", &usage(450), now());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(notices(&lease), []);
    bench.store.go(false);
    sleep(Duration::from_secs(2)).await;
    let told = notices(&lease);
    assert!(
        matches!(
            told[..],
            [Notice::Warning {
                budget: Budget::TokensPerDay,
                ..
            }]
        ),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_limited_asks_nobody() {
    let bench = Bench::new("admission = 'off'", &[]);
    bench.store.go(true);
    let lease = bench.admit("acme").await.unwrap();
    lease.used("east", &usage(1_000_000), now());
    sleep(Duration::from_secs(60)).await;
    drop(lease);
    assert!(bench.admit("acme").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn minutes_of_a_day_run_out_for_all_calls_together() {
    let bench = Bench::new("", &[("acme", "minutes_per_day = 2")]);
    let leases = [
        bench.admit("acme").await.unwrap(),
        bench.admit("acme").await.unwrap(),
    ];
    for lease in &leases {
        lease.opened("east", now());
    }
    // Two calls use two minutes in one. They are counted at every heartbeat.
    sleep(Duration::from_secs(53)).await;
    assert!(leases.iter().all(|lease| notices(lease).is_empty()));
    sleep(Duration::from_secs(6)).await;
    for lease in &leases {
        let told = notices(lease);
        let [Notice::Warning { budget, left }] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(budget, Budget::MinutesPerDay);
        assert!(left <= Duration::from_secs(7), "{left:?}");
    }
    sleep(Duration::from_secs(10)).await;
    let over = Notice::Over {
        budget: Budget::MinutesPerDay,
    };
    assert!(leases.iter().all(|lease| notices(lease) == [over]));
    let code = "tenant_minutes_of_day_exceeded";
    let retry_after = bench.is_busy("acme", code).await.unwrap();
    assert!(retry_after > Duration::ZERO);
    // Another tenant has its own.
    assert!(bench.admit("bolt").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_longest_call_is_warned_once_and_told_once() {
    let bench = Bench::new("", &[("acme", "max_call = '100s'")]);
    let lease = bench.admit("acme").await.unwrap();
    sleep(Duration::from_secs(89)).await;
    assert_eq!(notices(&lease), []);
    let at = Instant::now();
    let Notice::Warning { left, .. } = lease.notice().await else {
        panic!("a warning first");
    };
    assert!(at.elapsed() <= Duration::from_secs(2));
    assert!((8..=10).contains(&left.as_secs()), "{left:?}");
    let over = Notice::Over {
        budget: Budget::MaxCall,
    };
    assert_eq!(lease.notice().await, over);
    assert!(at.elapsed() <= Duration::from_secs(13));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(notices(&lease), []);
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_refuses_is_left_alone_for_as_long_as_it_says() {
    let bench = Bench::new("", &[]);
    let account = bench.quota.account("east");
    account.refused(Some(Duration::from_secs(7)));
    let code = "capacity_exhausted";
    let wait = bench.is_busy("acme", code).await;
    assert_eq!(wait, Some(Duration::from_secs(7)));
    sleep(Duration::from_secs(7)).await;
    assert!(bench.admit("acme").await.is_ok());
    // One of two is enough, and `off` asks none.
    account.refused(Some(Duration::from_secs(7)));
    let pool = bench.quota.pool("both", &["east", "west"]);
    assert_eq!(pool.per_minute(), 200_000.0);
    let caller = Caller {
        tenant: "acme",
        kind: CallKind::Model("m"),
        number: None,
    };
    assert!(bench.quota.admit(caller, pool).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn words_before_a_response_have_its_reservation_in_them() {
    let told = |remaining| RateLimits {
        requests: None,
        tokens: Some(RateLimit {
            limit: 100_000,
            remaining,
            reset_seconds: 0.0,
        }),
    };
    let check = async |is_before: bool| {
        let bench = Bench::new("", &[]);
        let lease = bench.admit("acme").await.unwrap();
        let account = bench.quota.account("east");
        if is_before {
            lease.rate_limits("east", &told(95_000), now());
            lease.began("east", now());
        } else {
            lease.began("east", now());
            lease.rate_limits("east", &told(95_000), now());
        }
        assert_eq!(account.tokens_left(), 95_000.0);
        lease.used("east", &usage(530), now());
        // 4,096 of output were not written; what was read had been foreseen.
        assert_eq!(account.tokens_left(), 95_000.0 + 4_096.0);
    };
    check(true).await;
    check(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_broken_off_counts_what_it_likely_used() {
    let bench = Bench::new("", &[]);
    let lease = bench.admit("acme").await.unwrap();
    lease.set_max_output(Some(1_000));
    lease.began("east", now());
    let account = bench.quota.account("east");
    assert_eq!(account.tokens_left(), 100_000.0 - 530.0 - 1_000.0);
    drop(lease);
    assert_eq!(account.tokens_left(), 100_000.0 - 530.0 - 125.0);
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_provisioned_units_is_counted_in_weighted_tokens() {
    let mut plan = QuotaPlan::default();
    let provisioned = DeploymentQuota {
        provisioned_units: Some(15),
        ..DeploymentQuota::default()
    };
    for name in ["east", "west"] {
        let grant = (Some(provisioned), "gpt-realtime".to_owned());
        plan.deployments.insert(name.to_owned(), grant);
    }
    plan.config.admission = Admission::Forecast;
    let bench = Bench::of(plan, Flaky::new());
    assert_eq!(
        bench.quota.pool("p", &["east", "west"]).per_minute(),
        75_000.0
    );
    // Beside one that is not provisioned, it is what its units carry in tokens.
    let mixed = bench.quota.pool("m", &["east", "south"]);
    assert_eq!(mixed.per_minute(), 137_500.0);
    let lease = bench.admit("acme").await.unwrap();
    lease.used("east", &usage(530), now());
    assert!(bench.quota.account("east").pressure() > 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_each_minute_is_observed() {
    let bench = Bench::new("", &[]);
    let lease = bench.admit("acme").await.unwrap();
    lease.opened("east", now());
    for n in 0..16 {
        lease.used("east", &usage(1_000 + n * 100), now());
        sleep(Duration::from_secs(15)).await;
    }
    sleep(Duration::from_secs(2)).await;
    assert!(bench.quota.expected_in_minute("east") > 8_000.0);
    assert!(bench.metric(r#"trunkline_forecast_error_ratio_count{pool="east"} 3"#));
    assert!(bench.metric(r#"trunkline_forecast_error_ratio_bucket{pool="east",le="0.2"} 3"#));
}

#[tokio::test(start_paused = true)]
async fn announced_calls_find_their_place_until_it_is_given_back() {
    let bench = Bench::new("", &[("acme", "max_calls = 2")]);
    let patience = Duration::from_secs(60);
    for _ in 0..2 {
        let lease = bench.admit("acme").await.unwrap();
        bench.quota.park("k".to_owned(), lease, patience);
    }
    assert!(bench.quota.claim("other").is_none());
    let first = bench.quota.claim("k").expect("kept");
    assert!(
        bench
            .is_busy("acme", "tenant_calls_exceeded")
            .await
            .is_some()
    );
    sleep(Duration::from_secs(62)).await;
    assert!(bench.quota.claim("k").is_none());
    let _second = bench.admit("acme").await.unwrap();
    assert!(
        bench
            .is_busy("acme", "tenant_calls_exceeded")
            .await
            .is_some()
    );
    drop(first);
}

/// Grants of 100,000 and 300,000 tokens a minute, and one that nobody knows.
fn granted(admission: Admission) -> Bench {
    let mut plan = QuotaPlan::default();
    for (name, tokens) in [
        ("east", Some(100_000)),
        ("west", Some(300_000)),
        ("north", None),
    ] {
        let grant = tokens.map(|tokens_per_minute| DeploymentQuota {
            tokens_per_minute,
            ..DeploymentQuota::default()
        });
        let grant = (grant, "gpt-realtime".to_owned());
        plan.deployments.insert(name.to_owned(), grant);
    }
    plan.config.admission = admission;
    Bench::of(plan, Flaky::new())
}

#[tokio::test(start_paused = true)]
async fn shares_are_of_what_is_granted() {
    let bench = granted(Admission::Reactive);
    let share = |name: &str, n| bench.quota.forecast_share(name, n);
    assert_eq!((share("east", 0), share("west", 0)), (Some(0.0), Some(0.0)));
    assert_eq!((share("north", 3), share("nowhere", 3)), (None, None));
    let one = share("east", 1).unwrap();
    assert!((0.05..0.2).contains(&one), "{one}");
    let close = |a: f64, b: f64| (a - b).abs() < 1e-3;
    assert!(close(share("west", 3).unwrap(), one));
    // A call that has begun is no newcomer any more, and needs more as it ages.
    let lease = bench.admit("acme").await.unwrap();
    lease.opened("east", now());
    assert!(close(share("east", 1).unwrap(), one));
    assert!(close(share("east", 2).unwrap(), 2.0 * one));
    for n in 0..12 {
        sleep(Duration::from_secs(15)).await;
        lease.used("east", &usage(3_000 + n * 1_000), now());
    }
    let grown = share("east", 1).unwrap();
    assert!(grown > 4.0 * one, "{grown}");
    // It goes with the call, to another deployment and to its end.
    lease.opened("west", now());
    assert_eq!(share("east", 0), Some(0.0));
    assert!((share("west", 1).unwrap() - grown / 3.0).abs() < 0.02);
    drop(lease);
    assert_eq!(share("west", 0), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn who_is_full_says_until_when() {
    let bench = granted(Admission::Forecast);
    let most = |name: &str| (0..).find(|n| bench.quota.may_take(name, *n).is_err());
    let (east, west) = (most("east").unwrap(), most("west").unwrap());
    assert!((10..20).contains(&east), "{east}");
    assert!((3 * east..=3 * east + 3).contains(&west), "{west}");
    let wait = bench.quota.may_take("east", east).unwrap_err();
    assert!(
        !wait.is_zero() && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
    bench
        .quota
        .account("east")
        .refused(Some(Duration::from_secs(3)));
    assert_eq!(bench.quota.may_take("east", 0), Err(Duration::from_secs(3)));
    assert_eq!(bench.quota.may_take("north", 9_999), Ok(()));
    let off = granted(Admission::Off);
    assert_eq!(off.quota.may_take("east", 9_999), Ok(()));
    assert_eq!(off.quota.forecast_share("east", 9), None);
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_deployment_are_counted_by_all_replicas_together() {
    let plan = || {
        let mut plan = QuotaPlan::default();
        let quota = toml::from_str("requests_per_minute = 60").unwrap();
        let deployment = (Some(quota), "gpt-realtime".to_owned());
        plan.deployments.insert("east".to_owned(), deployment);
        plan
    };
    let store = Flaky::new();
    let benches = [(); 2].map(|()| Bench::of(plan(), Arc::clone(&store)));
    let mut leases = Vec::new();
    for n in 0..56 {
        leases.push(benches[n % 2].admit("acme").await.unwrap());
    }
    // Its first session was counted when the call was let in; another one and two responses were not.
    let lease = &leases[0];
    lease.opened("east", now());
    lease.opened("east", now());
    lease.used("east", &usage(1), now());
    lease.used("east", &usage(1), now());
    sleep(Duration::from_millis(1_001)).await;
    leases.push(benches[1].admit("acme").await.unwrap());
    leases.push(benches[0].admit("acme").await.unwrap());
    // One has drained meanwhile.
    let wait = benches[1].is_busy("acme", "capacity_exceeded").await;
    assert!(wait.is_some_and(|wait| wait <= Duration::from_secs(1)));
}
