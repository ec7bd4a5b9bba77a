//! What replicas tell one another of their live calls, and who takes them over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::listener::StoredRoll;
use trunkline::outbound::Outbound;
use trunkline::quota::{Attendance, Attended, FallbackStore, RedisConfig, TakeOver, TakenOver};
use trunkline::records::{CallRecord, Recorder, RecordsConfig, RollTiming};
use trunkline::telemetry::Metrics;

use crate::laws::HOUR;
use crate::server::{Server, until};

/// Short enough to wait for, long enough for what is done within it.
const LIFE: Duration = Duration::from_millis(1_500);

async fn attend(
    store: &FallbackStore,
    replica: &str,
    life: Duration,
    calls: &[&str],
    ended: &[&str],
) -> Attended {
    let ask = Attendance {
        replica: replica.to_owned(),
        life,
        calls: calls
            .iter()
            .map(|id| ((*id).to_owned(), format!("about {id}")))
            .collect(),
        ended: ended.iter().map(|id| (*id).to_owned()).collect(),
        anew: false,
    };
    store.attend(&ask).await.expect("Redis answers")
}

async fn take_over(store: &FallbackStore, replica: &str, silent: &str, most: usize) -> TakenOver {
    let ask = TakeOver {
        replica: replica.to_owned(),
        silent: silent.to_owned(),
        life: LIFE,
        most,
    };
    store.take_over(&ask).await.expect("Redis answers")
}

fn ids(taken: &TakenOver) -> Vec<&str> {
    let mut ids: Vec<_> = taken.calls.iter().map(|(id, _)| id.as_str()).collect();
    ids.sort_unstable();
    ids
}

/// A silent replica `x` with calls `a`, `b` and `c`, as seen by `y`.
async fn silent(store: &FallbackStore) {
    attend(store, "x", LIFE, &["a", "b", "c"], &[]).await;
    let heard = attend(store, "y", HOUR, &[], &[]).await;
    assert!(heard.silent.is_empty(), "{heard:?}");
    tokio::time::sleep(LIFE + Duration::from_millis(20)).await;
    assert_eq!(attend(store, "y", HOUR, &[], &[]).await.silent, ["x"]);
}

#[tokio::test]
async fn calls_are_counted_as_they_come_and_go() {
    let server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    let heard = attend(&store, "x", HOUR, &["a", "b"], &[]).await;
    assert_eq!(heard.n_calls, 2);
    let heard = attend(&store, "x", HOUR, &["b", "c"], &["a"]).await;
    assert_eq!(heard.n_calls, 2);
    assert!(heard.taken.is_empty() && heard.silent.is_empty());
    // Whose end was not told before.
    let anew = Attendance {
        replica: "x".to_owned(),
        life: HOUR,
        calls: vec![("c".to_owned(), "about c".to_owned())],
        anew: true,
        ..Attendance::default()
    };
    let heard = store.attend(&anew).await.expect("Redis answers");
    assert_eq!(heard.n_calls, 1);
    // One that is heard keeps what it has.
    assert!(take_over(&store, "y", "x", 64).await.calls.is_empty());
    assert!(take_over(&store, "y", "nobody", 64).await.calls.is_empty());
}

#[tokio::test]
async fn calls_of_a_silent_replica_are_taken_over_by_one_other_and_once() {
    let server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    silent(&store).await;
    let asked = ["y", "z"].map(|replica| take_over(&store, replica, "x", 2));
    let taken = futures_util::future::join_all(asked).await;
    assert_eq!(taken[0].calls.len() + taken[1].calls.len(), 2, "{taken:?}");
    let (by, taken) = match taken[0].calls.is_empty() {
        false => ("y", &taken[0]),
        true => ("z", &taken[1]),
    };
    assert!(taken.silent_for >= LIFE);
    for (id, text) in &taken.calls {
        assert_eq!(*text, format!("about {id}"));
    }
    // The answer may have been lost: until it is confirmed, it is told again, to nobody else.
    assert_eq!(ids(&take_over(&store, by, "x", 2).await), ids(taken));
    let done: Vec<String> = taken.calls.iter().map(|(id, _)| id.clone()).collect();
    store.confirm("x", &done).await.expect("Redis answers");
    let rest = take_over(&store, by, "x", 64).await;
    assert_eq!(rest.calls.len(), 1, "{rest:?}");
    assert!(!done.contains(&rest.calls[0].0));
    let done = vec![rest.calls[0].0.clone()];
    store.confirm("x", &done).await.expect("Redis answers");
    assert!(take_over(&store, by, "x", 64).await.calls.is_empty());
    // Nothing is left of it but what was taken.
    assert!(attend(&store, "y", HOUR, &[], &[]).await.silent.is_empty());
}

#[tokio::test]
async fn a_replica_that_is_back_learns_what_was_taken_over() {
    let server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    silent(&store).await;
    let taken = take_over(&store, "y", "x", 64).await;
    assert_eq!(ids(&taken), ["a", "b", "c"]);
    let heard = attend(&store, "x", LIFE, &["a", "d"], &["b"]).await;
    assert_eq!(
        (heard.n_calls, heard.taken),
        (1, vec!["a".into(), "b".into()])
    );
    // It is back before they were confirmed: they are who took them's all the same.
    assert_eq!(ids(&take_over(&store, "y", "x", 64).await), ["a", "b", "c"]);
    let done = ["a", "b", "c"].map(str::to_owned);
    store.confirm("x", &done).await.expect("Redis answers");
    assert!(take_over(&store, "y", "x", 64).await.calls.is_empty());
    assert_eq!(attend(&store, "x", LIFE, &[], &["c"]).await.taken, ["c"]);
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_no_calls_of_a_lost_replica() {
    let server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    // As Redis has it of who spoke last before its clock went back by an hour.
    attend(&store, "x", HOUR, &["a"], &[]).await;
    assert!(attend(&store, "y", LIFE, &[], &[]).await.silent.is_empty());
    tokio::time::sleep(LIFE + Duration::from_millis(20)).await;
    assert_eq!(attend(&store, "y", LIFE, &[], &[]).await.silent, ["x"]);
    assert_eq!(ids(&take_over(&store, "y", "x", 64).await), ["a"]);
}

#[tokio::test]
async fn whoever_took_over_and_died_leaves_it_to_others() {
    let server = Server::start();
    let (store, _stop) = server.fallback(server.config()).await;
    silent(&store).await;
    assert_eq!(ids(&take_over(&store, "y", "x", 2).await).len(), 2);
    assert!(take_over(&store, "z", "x", 64).await.calls.is_empty());
    tokio::time::sleep(LIFE + Duration::from_millis(20)).await;
    assert_eq!(ids(&take_over(&store, "z", "x", 64).await), ["a", "b", "c"]);
}

#[tokio::test]
async fn all_of_it_is_at_one_node_of_a_cluster() {
    let ((owner, _), (asked, port)) = (Server::start_node(), Server::start_node());
    owner.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    owner.command(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string()]);
    let config = RedisConfig {
        url: Some(format!("redis://127.0.0.1:{port}").into()),
        ..asked.config()
    };
    let (store, _stop) = asked.fallback(config).await;
    silent(&store).await;
    assert_eq!(take_over(&store, "y", "x", 64).await.calls.len(), 3);
    store.confirm("x", &["a".into()]).await.expect("done");
}

/// What a gateway has of records, until it is stopped.
struct Replica {
    recorder: Recorder,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Replica {
    async fn start(server: &Server, file: &Path) -> Self {
        let config = format!("sink = 'file'\nfile = {{ path = '{}' }}", file.display());
        let config: RecordsConfig = toml::from_str(&config).expect("good");
        let plan = Arc::new(config.plan().expect("good"));
        let metrics = Metrics::new();
        let recorder = Recorder::new(plan, Arc::clone(&metrics));
        let (store, stop) = server.fallback(server.config()).await;
        let timing = RollTiming {
            life: LIFE,
            watch: Duration::ZERO,
        };
        let roll = StoredRoll::new(store, Some("gateway"), LIFE);
        let tasks = TaskTracker::new();
        let work = [
            Box::pin(recorder.share(Arc::new(roll), timing)) as futures_util::future::BoxFuture<_>,
            Box::pin(recorder.clone().deliver(Outbound::new())),
        ];
        for work in work {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(work).await });
        }
        tasks.close();
        Self {
            recorder,
            metrics,
            tasks,
            stop,
        }
    }

    /// As if it were killed.
    async fn kill(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    fn taken_over(&self, outcome: &str) -> u64 {
        let text = self.metrics.render().expect("renders");
        let series = format!("trunkline_call_records_taken_over_total{{outcome=\"{outcome}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |value| value.parse().expect("a number"))
    }
}

fn record(call_id: &str, end_reason: &'static str) -> CallRecord {
    CallRecord {
        call_id: call_id.to_owned(),
        tenant: "acme".to_owned(),
        began_at: "2026-03-02T09:15:04.120Z".to_owned(),
        caller: Some("+15550001111".to_owned()),
        end_reason,
        ..CallRecord::default()
    }
}

fn records(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut records: Vec<_> = text
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let word = |name: &str| record[name].as_str().expect("a text").to_owned();
            (word("call_id"), word("end_reason"))
        })
        .collect();
    records.sort();
    records
}

fn file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("trunkline-roll-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn every_call_of_a_replica_that_died_has_one_record() {
    let (server, file) = (Server::start(), file("died"));
    let first = Replica::start(&server, &file).await;
    let others = [
        Replica::start(&server, &file).await,
        Replica::start(&server, &file).await,
    ];
    for id in ["a", "b", "c"] {
        first.recorder.tell(record(id, "internal"));
    }
    let own = record("a", "caller_hangup");
    first.recorder.record(&own, 1);
    until("its own record", || records(&file).len() == 1).await;
    let mut flat = String::new();
    until("its calls are told", || {
        let keys = server.keys();
        let key = keys.iter().find(|key| key.contains("roll-calls"));
        let values = key.map(|key| server.command(&["HVALS", key]));
        flat = values
            .map(|values| format!("{values:?}"))
            .unwrap_or_default();
        flat.contains("\\\"b\\\"") && flat.contains("\\\"c\\\"")
    })
    .await;
    assert!(
        !flat.contains("+1555") && !flat.contains("\\\"a\\\""),
        "{flat}"
    );
    first.kill().await;
    until("the others' records", || records(&file).len() >= 3).await;
    for other in &others {
        other.recorder.close();
        other.tasks.wait().await;
    }
    let text = |id: &str, reason: &str| (id.to_owned(), reason.to_owned());
    let expected = [
        text("a", "caller_hangup"),
        text("b", "replica_lost"),
        text("c", "replica_lost"),
    ];
    assert_eq!(records(&file), expected);
    let written: u64 = others.iter().map(|it| it.taken_over("written")).sum();
    assert_eq!(written, 2);
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn records_go_on_without_redis() {
    let (mut server, file) = (Server::start(), file("away"));
    let replica = Replica::start(&server, &file).await;
    for id in ["a", "b"] {
        replica.recorder.tell(record(id, "internal"));
    }
    replica.recorder.record(&record("a", "caller_hangup"), 1);
    until("a record by Redis's word", || records(&file).len() == 1).await;
    server.kill();
    replica.recorder.tell(record("c", "internal"));
    replica.recorder.record(&record("c", "caller_hangup"), 1);
    until("a record without it", || records(&file).len() == 2).await;
    replica.recorder.record(&record("b", "caller_hangup"), 1);
    // What is in doubt is written at the latest when the process ends.
    replica.recorder.close();
    replica.tasks.wait().await;
    assert_eq!(records(&file).len(), 3);
    std::fs::remove_file(&file).expect("removed");
}
