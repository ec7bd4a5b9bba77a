//! Several gateways and one Redis.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};
use trunkline::auth::{Now, OneTimeIds, UseError};
use trunkline::listener::StoredIds;
use trunkline::quota::{RedisConfig, Store, StoreError};

use crate::laws::{HOUR, ask, bucket, calls, demand, group, renewal, spend_window, window};
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
    let config = RedisConfig {
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

#[tokio::test]
async fn a_cluster_is_followed_to_where_the_keys_are() {
    let ((owner, owner_port), (asked, port)) = (Server::start_node(), Server::start_node());
    owner.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    owner.command(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string()]);
    let config = RedisConfig {
        url: Some(format!("redis://127.0.0.1:{port}").into()),
        ..asked.config()
    };
    let store = Server::store_at(config).await;
    // Every operation, since a cluster refuses keys of several nodes in one script.
    let checks = vec![
        calls("calls", 2),
        bucket("rate", 1.0, 10.0, 1.0),
        window("day", 10.0, HOUR),
        demand("pool", 100.0, group("a", 1.0)),
    ];
    let answer = store.admit(ask("1", HOUR, checks)).await;
    assert!(answer.expect("the owner answers").is_ok());
    store
        .renew(vec![renewal("2", HOUR, &["calls"])])
        .await
        .expect("done");
    store
        .release(vec![renewal("2", HOUR, &["calls", "more"])])
        .await
        .expect("done");
    let spends = vec![
        spend_window("day", HOUR, 1.0),
        spend_window("month", HOUR, 1.0),
    ];
    store.spend(spends).await.expect("done");
    assert_eq!(store.use_once("id".into(), HOUR).await, Ok(true));
    assert!(owner_port != port && owner.keys().len() >= 8);
}

/// A gateway's view of tickets: what `trunkline serve` uses with Redis.
#[tokio::test]
async fn a_ticket_is_good_once_at_all_gateways_and_nowhere_without_redis() {
    let server = Server::start();
    let (here, _stop) = server.fallback(server.config()).await;
    let (there, _stop) = server.fallback(server.config()).await;
    let (at_once, life) = (1_000, 60);
    let now = Now {
        wall: at_once,
        floor: at_once,
    };
    let ids = [here, there].map(|store| StoredIds::new(store));
    let use_up = async |n: usize, id: u8| ids[n].use_up([id; 16], at_once + life, now).await;
    assert_eq!(use_up(0, 1).await, Ok(()));
    assert_eq!(use_up(1, 1).await, Err(UseError::Replayed));
    assert_eq!(use_up(1, 2).await, Ok(()));
    drop(server);
    assert_eq!(use_up(0, 3).await, Err(UseError::Unknown));
    assert_eq!(use_up(0, 1).await, Err(UseError::Unknown));
}
