//! Several gateways and one Redis.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};
use trunkline::quota::{Store, StoreError};

use crate::laws::{HOUR, ask, bucket, calls, demand, group};
use crate::server::Server;

/// As in a process of its own.
fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

#[test]
fn two_gateways_let_in_exactly_as_many_as_one_would() {
    let server = Server::start();
    let offer = |gateway: &str| {
        in_runtime(async {
            let store = server.store().await;
            let mut n_admitted = 0;
            for tens in 0..10 {
                let asks = (0..50).map(|n| {
                    let checks = vec![
                        calls("calls", 137),
                        bucket("rate", 0.001, 5_000.0, 1.0),
                        demand("pool", 10_000.0, group("a", 1.0)),
                    ];
                    store.admit(ask(&format!("{gateway}-{tens}-{n}"), HOUR, checks))
                });
                let answers = join_all(asks).await;
                n_admitted += answers
                    .iter()
                    .filter(|it| it.as_ref().expect("Redis answers").is_ok())
                    .count();
            }
            n_admitted
        })
    };
    let admitted: Vec<usize> = thread::scope(|scope| {
        let gateways = ["a", "b"].map(|gateway| scope.spawn(move || offer(gateway)));
        gateways.map(|it| it.join().expect("no panic")).into()
    });
    assert_eq!(admitted.iter().sum::<usize>(), 137, "{admitted:?}");
}

#[test]
fn leases_of_a_gateway_that_died_end_after_their_life_and_not_before() {
    let server = Server::start();
    let life = Duration::from_millis(1_500);
    let one = |lease: &str| {
        let checks = vec![calls("calls", 3), demand("pool", 100.0, group("a", 30.0))];
        ask(lease, life, checks)
    };
    let started = Instant::now();
    // Nobody releases or renews what this one holds.
    in_runtime(async {
        let store = server.store().await;
        for n in 0..3 {
            let answer = store.admit(one(&n.to_string())).await;
            assert!(answer.expect("Redis answers").is_ok());
        }
    });
    let died = Instant::now();
    in_runtime(async {
        let store = server.store().await;
        let answer = store.admit(one("next")).await.expect("Redis answers");
        assert!(answer.is_err() || started.elapsed() >= life);
        sleep_until(died + life + Duration::from_millis(20)).await;
        for n in 0..3 {
            let answer = store.admit(one(&format!("next {n}"))).await;
            assert!(answer.expect("Redis answers").is_ok());
        }
    });
}

#[tokio::test]
async fn gateways_with_other_prefixes_share_nothing() {
    let server = Server::start();
    let store = server.store().await;
    let config = trunkline::quota::RedisConfig {
        prefix: "other".to_owned(),
        ..server.config()
    };
    let (other, _stop) = server.fallback(config).await;
    let one = |lease| ask(lease, HOUR, vec![calls("calls", 1)]);
    assert!(store.admit(one("1")).await.expect("an answer").is_ok());
    assert!(other.admit(one("1")).await.expect("an answer").is_ok());
    assert!(store.admit(one("2")).await.expect("an answer").is_err());
}

#[tokio::test]
async fn what_is_not_connected_says_so_at_once() {
    let server = Server::start();
    let metrics = trunkline::telemetry::Metrics::new();
    let store = trunkline::quota::RedisStore::new(&server.config(), metrics).expect("good");
    let store: Arc<dyn Store> = Arc::new(store);
    let answer = store.admit(ask("1", HOUR, Vec::new())).await;
    assert_eq!(answer, Err(StoreError::Unreachable));
}
