//! A deployment's key in a file, as Kubernetes mounts secrets: replaced without a restart and without ending a call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use trunkline::simulator::{Simulator, SimulatorConfig};
use trunkline::telemetry::Metrics;
use trunkline::transport::Received;
use trunkline::upstream::{Deployment, DialError, Dialer, ModelLeg, keep_credentials};

/// A mounted secret: `key` points to `..data/key`, and `..data` to the folder of the current version.
struct Secret(PathBuf);

impl Secret {
    fn mount(name: &str, content: &str) -> Self {
        let name = format!("trunkline-secret-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let secret = Self(folder);
        secret.swap(content);
        std::os::unix::fs::symlink("..data/key", secret.path()).expect("a link");
        secret
    }

    fn path(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Replaces the content as the kubelet does: a new folder, and a link that is renamed over the old one.
    fn swap(&self, content: &str) {
        let version = self.0.join(format!("..{content}"));
        std::fs::create_dir_all(&version).expect("a folder");
        std::fs::write(version.join("key"), content).expect("written");
        let link = self.0.join("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).expect("a link");
        std::fs::rename(&link, self.0.join("..data")).expect("renamed");
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct World {
    deployment: Arc<Deployment>,
    dialer: Dialer,
    n_dialled: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    keys: mpsc::Sender<Arc<Simulator>>,
    _tasks: JoinSet<()>,
}

/// A simulator that knows these keys.
fn simulator(keys: &[&str]) -> Arc<Simulator> {
    let settings: SimulatorConfig =
        toml::from_str(&format!("api_keys = {keys:?}")).expect("good settings");
    Arc::new(Simulator::new(settings))
}

impl World {
    /// A deployment that knows these keys; `is_watched` as in a process, or as between two looks.
    fn new(kind: &str, path: &Path, keys: &[&str], is_watched: bool) -> Self {
        let config = format!(
            "kind = '{kind}'\nurl = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\napi_key_file = '{}'\n",
            path.display()
        );
        let config = toml::from_str(&config).expect("good");
        let deployment = Arc::new(Deployment::new("east", config).expect("good"));
        let metrics = Metrics::new();
        let (accept, mut accepted) = mpsc::channel(8);
        let dialer = Dialer::with_roots(Arc::clone(&metrics), rustls::RootCertStore::empty())
            .with_memory("east", accept);
        let mut tasks = JoinSet::new();
        let mut serves = simulator(keys);
        let n_dialled = Arc::new(AtomicUsize::new(0));
        let dialled = Arc::clone(&n_dialled);
        let (keys, mut changed) = mpsc::channel(8);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(stream) = accepted.recv().await {
                dialled.fetch_add(1, Ordering::Relaxed);
                while let Ok(simulator) = changed.try_recv() {
                    serves = simulator;
                }
                let simulator = Arc::clone(&serves);
                connections.spawn(async move { simulator.serve_connection(stream).await });
            }
        });
        if is_watched {
            tasks.spawn(keep_credentials(
                [Arc::clone(&deployment)],
                Arc::clone(&metrics),
                CancellationToken::new(),
            ));
        }
        Self {
            deployment,
            dialer,
            n_dialled,
            metrics,
            keys,
            _tasks: tasks,
        }
    }

    /// From now on the deployment knows these keys.
    fn knows(&self, keys: &[&str]) {
        self.keys.try_send(simulator(keys)).expect("room");
    }

    async fn dial(&self) -> Result<ModelLeg, DialError> {
        self.dialer.dial(&self.deployment, false).await
    }

    /// How often the deployment was dialled since the last time that this was asked.
    fn n_dialled(&self) -> usize {
        self.n_dialled.swap(0, Ordering::Relaxed)
    }

    fn counted(&self, line: &str) -> bool {
        let page = self.metrics.render().expect("metrics");
        page.lines().any(|found| found == line)
    }
}

const RELOADED: &str = r#"trunkline_key_file_reloads_total{deployment="east",outcome="ok"} 1"#;
const BROKEN: &str = r#"trunkline_key_file_reloads_total{deployment="east",outcome="failed"} 1"#;
const RETRIED: &str = r#"trunkline_credential_retries_total{deployment="east"} 1"#;

#[tokio::test(start_paused = true)]
async fn a_new_key_is_used_within_five_seconds_and_calls_go_on() {
    let secret = Secret::mount("rotated", "old");
    let world = World::new("azure", &secret.path(), &["old"], true);
    let mut call = world.dial().await.expect("a session").socket;
    secret.swap("new");
    sleep(Duration::from_secs(5)).await;
    assert!(world.counted(RELOADED));
    world.knows(&["new"]);
    world.dial().await.expect("a session with the new key");
    assert!(!world.counted(RETRIED));
    // The call of before goes on.
    let update = r#"{"type":"session.update","session":{"type":"realtime","instructions":"x"}}"#;
    call.send_text(update).expect("room");
    call.flush().await.expect("sent");
    loop {
        match call.next().await {
            Received::Text(text) if text.contains("session.updated") => break,
            Received::Text(_) | Received::SignOfLife => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_holds_no_key_changes_nothing() {
    let secret = Secret::mount("broken", "old");
    let world = World::new("azure", &secret.path(), &["old"], true);
    for _ in 0..3 {
        std::fs::write(secret.path(), "").expect("written");
        sleep(Duration::from_secs(10)).await;
        world.dial().await.expect("a session with the old key");
        assert!(world.counted(BROKEN), "told once");
    }
    std::fs::write(secret.path(), "old").expect("written");
    sleep(Duration::from_secs(5)).await;
    // Each time it is read it is another half of a key.
    for n in 0..6 {
        std::fs::write(secret.path(), format!("half-{n}")).expect("written");
        sleep(Duration::from_secs(2)).await;
    }
    world.dial().await.expect("a session with the old key");
    assert!(!world.counted(RELOADED));
}

/// Azure answers a bad key with 401, OpenAI with an `error` event after the upgrade (protocol reference 1.5).
#[tokio::test(start_paused = true)]
async fn a_refused_key_is_looked_up_at_once() {
    for (kind, refused) in [("azure", "unauthorized"), ("openai", "rejected")] {
        let secret = Secret::mount(kind, "old");
        let world = World::new(kind, &secret.path(), &["old"], false);
        secret.swap("new");
        world.dial().await.expect("the old key still opens");
        assert_eq!(world.n_dialled(), 1);
        world.knows(&["new"]);
        world.dial().await.expect("a session with the new key");
        assert!(world.counted(RETRIED) && world.counted(RELOADED));
        assert_eq!(world.n_dialled(), 2);
        // With nothing newer in the file there is nothing to try.
        world.knows(&["third"]);
        let error = world.dial().await.expect_err("refused");
        assert_eq!(error.name(), refused);
        assert_eq!(world.n_dialled(), 1);
        assert!(world.counted(RETRIED));
    }
}
