//! Redis in trouble, and the store that the gateway uses in front of it: it always answers, holds to its share
//! meanwhile, and puts everything right when Redis is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use trunkline::quota::{
    FallbackStore, LeaseId, LeaseRenewal, OnStoreFailure, RedisConfig, RedisStore, Store,
    StoreError,
};

use crate::laws::{HOUR, ask, bucket, calls, demand, group, renewal, spend_window, window};
use crate::server::{Server, until};

/// Long enough to be the same one during a test.
const AGE: Duration = Duration::from_secs(4_000_000_000);

/// A gateway with its store, and another that looks at what is in Redis.
struct World {
    server: Server,
    store: Arc<FallbackStore>,
    other: Arc<RedisStore>,
}

impl World {
    async fn start() -> Self {
        let server = Server::start();
        let config = RedisConfig {
            deadline: Duration::from_millis(500),
            ..server.config()
        };
        let (store, _stop) = server.fallback(config).await;
        let other = server.store().await;
        Self {
            server,
            store,
            other,
        }
    }

    async fn admit(&self, lease: &str, limit: u32) -> bool {
        let checks = vec![
            calls("calls", limit),
            bucket("rate", 0.001, 1_000.0, 1.0),
            demand("pool", 1_000.0, group("a", 1.0)),
        ];
        let answer = self.store.admit(ask(lease, HOUR, checks)).await;
        answer.expect("calls are let in whatever happens").is_ok()
    }

    async fn spend(&self, amount: f64) -> f64 {
        let spends = vec![spend_window("day", AGE, amount)];
        self.store.spend(spends).await.expect("always")[0].held
    }

    /// How many leases Redis has, and what was spent there, as another gateway finds it.
    async fn in_redis(&self) -> (usize, f64) {
        let spends = vec![spend_window("day", AGE, 0.0)];
        let Ok(totals) = self.other.spend(spends).await else {
            return (usize::MAX, f64::NAN);
        };
        let leases = self.server.command(&["ZCARD", "{trunkline}:calls:calls"]);
        let leases = redis::from_redis_value(leases).expect("a number");
        (leases, totals[0].held)
    }

    async fn until_redis_has(&self, expected: (usize, f64)) {
        let started = Instant::now();
        loop {
            let found = self.in_redis().await;
            if found == expected {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "{found:?} and never {expected:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a gateway does while Redis is in trouble: it lets one call in and spends, lets its share in and not more,
    /// and takes no ticket.
    async fn live_through(&self) {
        assert!(self.admit("during", 10).await);
        assert!(
            !self.admit("too many", 4).await,
            "half of four, and three live"
        );
        self.spend(5.0).await;
        let end = renewal("before 2", HOUR, &["calls"]);
        let end = LeaseRenewal {
            demands: vec![("pool".into(), group("a", 1.0))],
            ..end
        };
        self.store.release(vec![end]).await.expect("always");
        assert!(self.store.use_once("ticket".into(), HOUR).await.is_err());
        let put = self.store.put("key".into(), "text".into(), HOUR).await;
        assert!(put.is_err() && self.store.get("key".into()).await.is_err());
    }
}

async fn with_two_calls() -> World {
    let world = World::start().await;
    assert!(world.admit("before 1", 10).await);
    assert!(world.admit("before 2", 10).await);
    assert_eq!(world.spend(100.0).await, 100.0);
    assert_eq!(world.in_redis().await, (2, 100.0));
    world
}

#[tokio::test]
async fn redis_is_killed_and_comes_back_empty() {
    let mut world = with_two_calls().await;
    world.server.kill();
    world.live_through().await;
    assert_eq!(world.spend(0.0).await, 105.0, "what is known is remembered");
    world.server.restart();
    // Two calls live; what was spent before is lost with Redis.
    world.until_redis_has((2, 5.0)).await;
    until("Redis is asked", || world.store.is_asked()).await;
    assert!(world.admit("after", 3).await);
    assert!(!world.admit("too many", 3).await);
}

#[tokio::test]
async fn redis_does_not_answer_for_a_while() {
    let world = with_two_calls().await;
    world.server.stop();
    world.live_through().await;
    // Only those wait that come first; one deadline for each would be a minute and a half.
    let started = Instant::now();
    for n in 0..180 {
        assert!(world.admit(&format!("more {n}"), 1_000).await);
    }
    assert!(started.elapsed() < Duration::from_secs(45));
    world.server.go_on();
    // Whatever Redis did late of what it was told before: nothing counts twice.
    world.until_redis_has((182, 105.0)).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.in_redis().await, (182, 105.0));
}

#[tokio::test]
async fn a_spend_whose_answer_was_lost_counts_once() {
    let world = with_two_calls().await;
    world.server.stop();
    assert_eq!(world.spend(7.0).await, 107.0);
    world.server.go_on();
    world.until_redis_has((2, 107.0)).await;
    until("Redis is asked", || world.store.is_asked()).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.in_redis().await, (2, 107.0));
}

#[tokio::test]
async fn a_call_that_redis_let_in_too_late_gives_its_place_back() {
    let world = with_two_calls().await;
    world.server.stop();
    // Redis will find room when it goes on; this process's share is used up.
    assert!(!world.admit("late", 4).await);
    world.server.go_on();
    until("Redis is asked", || world.store.is_asked()).await;
    world.until_redis_has((2, 100.0)).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.in_redis().await, (2, 100.0));
}

#[tokio::test]
async fn redis_is_somebodys_replica() {
    let world = with_two_calls().await;
    world.server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    world.live_through().await;
    until("Redis is not asked", || !world.store.is_asked()).await;
    world.server.command(&["REPLICAOF", "NO", "ONE"]);
    world.until_redis_has((2, 105.0)).await;
}

#[tokio::test]
async fn redis_is_full() {
    let world = with_two_calls().await;
    world.server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    world.live_through().await;
    world.server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    world.until_redis_has((2, 105.0)).await;
}

#[tokio::test]
async fn redis_is_flushed() {
    let world = with_two_calls().await;
    world.server.command(&["FLUSHALL"]);
    // Nobody is told. The next heartbeat enters the calls anew.
    let heartbeat = ["before 1", "before 2"].map(|lease| LeaseRenewal {
        demands: vec![("pool".into(), group("a", 1.0))],
        ..renewal(lease, HOUR, &["calls"])
    });
    world.store.renew(heartbeat.to_vec()).await.expect("always");
    world.until_redis_has((2, 0.0)).await;
    assert!(world.admit("after", 3).await);
    assert!(!world.admit("too many", 3).await);
}

#[tokio::test]
async fn redis_forgets_its_scripts() {
    let world = with_two_calls().await;
    world.server.command(&["SCRIPT", "FLUSH"]);
    assert!(world.admit("after", 3).await);
    world.server.command(&["SCRIPT", "FLUSH"]);
    assert!(!world.admit("too many", 3).await);
    assert!(world.store.is_asked());
    assert_eq!(world.spend(1.0).await, 101.0);
    assert_eq!(world.in_redis().await, (3, 101.0));
}

#[tokio::test]
async fn a_key_of_another_type_is_in_the_way() {
    let world = with_two_calls().await;
    let wrong = "{trunkline}:calls:wrong";
    world.server.command(&["SET", wrong, "planted"]);
    world
        .server
        .command(&["SADD", "{trunkline}:window:wrong", "planted"]);
    let one = |lease: &str| ask(lease, HOUR, vec![calls("calls", 10), calls("wrong", 2)]);
    let admitted = async |lease: &str| {
        let answer = world.store.admit(one(lease)).await;
        answer.expect("calls are let in").is_ok()
    };
    assert!(admitted("1").await);
    assert!(!admitted("2").await, "half of two");
    let spends = vec![
        spend_window("wrong", AGE, 7.0),
        spend_window("day", AGE, 1.0),
    ];
    let totals = world.store.spend(spends).await.expect("always");
    assert_eq!((totals[0].held, totals[1].held), (7.0, 101.0));
    // What has nothing to do with that key goes on in Redis.
    assert!(world.store.is_asked());
    assert_eq!(world.store.use_once("ticket".into(), HOUR).await, Ok(true));
    assert!(world.admit("3", 10).await);
    world.until_redis_has((4, 101.0)).await;
    world
        .server
        .command(&["DEL", wrong, "{trunkline}:window:wrong"]);
    let spent = async || {
        world
            .other
            .spend(vec![spend_window("wrong", AGE, 0.0)])
            .await
    };
    let started = Instant::now();
    while spent().await.expect("Redis answers")[0].held != 7.0 {
        assert!(started.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(50)).await;
    }
    let n_wrong = world.server.command(&["ZCARD", wrong]);
    assert_eq!(
        redis::from_redis_value::<usize>(n_wrong).expect("a number"),
        1
    );
    assert_eq!(world.in_redis().await, (4, 101.0));
}

#[tokio::test]
async fn keys_are_evicted() {
    let world = with_two_calls().await;
    for key in ["ends", "leases", "groups"] {
        world
            .server
            .command(&["DEL", &format!("{{trunkline}}:{key}:pool")]);
        assert!(world.admit(&format!("after {key}"), 100).await);
        let heartbeat = LeaseRenewal {
            lease: LeaseId("before 1".into()),
            demands: vec![("pool".into(), group("a", 500.0))],
            ..renewal("before 1", HOUR, &["calls"])
        };
        world.store.renew(vec![heartbeat]).await.expect("always");
        let checks = vec![demand("pool", 1_000.0, group("a", 501.0))];
        let answer = world.other.admit(ask("too much", HOUR, checks)).await;
        assert!(answer.expect("Redis answers").is_err(), "{key}");
    }
}

#[tokio::test]
async fn new_calls_are_refused_where_that_is_wanted() {
    let mut server = Server::start();
    let config = RedisConfig {
        on_store_failure: OnStoreFailure::Closed,
        ..server.config()
    };
    let (store, _stop) = server.fallback(config).await;
    let one = |lease| ask(lease, HOUR, vec![calls("calls", 10)]);
    assert!(store.admit(one("1")).await.expect("an answer").is_ok());
    server.kill();
    assert!(store.admit(one("2")).await.is_err());
    assert_eq!(store.admit(one("3")).await, Err(StoreError::Unreachable));
    // What lives is not touched.
    store
        .renew(vec![renewal("1", HOUR, &["calls"])])
        .await
        .expect("always");
    server.restart();
    until("Redis is asked", || store.is_asked()).await;
    assert!(store.admit(one("4")).await.expect("an answer").is_ok());
    let leases = server.command(&["ZCARD", "{trunkline}:calls:calls"]);
    assert_eq!(
        redis::from_redis_value::<usize>(leases).expect("a number"),
        2
    );
}

#[tokio::test]
async fn the_share_is_of_what_was_left() {
    let mut server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    let other = server.store().await;
    // Another gateway spends most of the day's budget, and takes most of the rate.
    let spends = vec![spend_window("day", AGE, 80.0)];
    other.spend(spends).await.expect("Redis answers");
    let rate = |amount| bucket("rate", 0.001, 100.0, amount);
    let one = |lease, amount| ask(lease, HOUR, vec![window("day", 100.0, AGE), rate(amount)]);
    other
        .admit(ask("0", HOUR, vec![rate(60.0)]))
        .await
        .expect("Redis answers")
        .expect("room");
    store
        .admit(one("1", 0.0))
        .await
        .expect("an answer")
        .expect("room");
    server.kill();
    // Half of the 40 that are left.
    assert!(
        store
            .admit(one("2", 21.0))
            .await
            .expect("an answer")
            .is_err()
    );
    assert!(
        store
            .admit(one("3", 19.0))
            .await
            .expect("an answer")
            .is_ok()
    );
    assert!(
        store
            .admit(one("4", 2.0))
            .await
            .expect("an answer")
            .is_err()
    );
    // Half of the 20.
    let spends = vec![spend_window("day", AGE, 9.0)];
    let held = store.spend(spends).await.expect("always")[0].held;
    assert_eq!(held, 89.0, "which is told as it is");
    assert!(store.admit(one("5", 0.0)).await.expect("an answer").is_ok());
    store
        .spend(vec![spend_window("day", AGE, 1.0)])
        .await
        .expect("always");
    assert!(
        store
            .admit(one("6", 0.0))
            .await
            .expect("an answer")
            .is_err()
    );
}

#[tokio::test]
async fn trouble_is_seen_before_a_caller_meets_it() {
    let world = World::start().await;
    world.server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    until("it was probed", || !world.store.is_asked()).await;
    world.server.command(&["REPLICAOF", "NO", "ONE"]);
    until("it was probed", || world.store.is_asked()).await;
}
