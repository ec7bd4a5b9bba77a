//! A `redis-server` of a test's own, on a socket in a folder of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::quota::{FallbackStore, RedisConfig, RedisStore};
use trunkline::telemetry::Metrics;

/// Longer than anything takes on a machine that does other things besides.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&["--port", "0"])
    }

    /// A node of a cluster that is not formed yet, and its port.
    pub(crate) fn start_node() -> (Self, u16) {
        // The node's own bus is at that port and 10,000.
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| fastrand::u16(20_000..50_000))
            .find(|port| is_free(port) && is_free(&(port + 10_000)))
            .expect("there are free ports");
        let port_text = port.to_string();
        let options = [
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--cluster-enabled",
            "yes",
        ];
        (Self::start_with(&options), port)
    }

    fn start_with(arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("trunkline-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let child = Self::spawn(&folder, &arguments);
        let server = Self {
            child,
            folder,
            arguments,
        };
        server.wait_until_it_answers();
        server
    }

    fn spawn(folder: &Path, arguments: &[String]) -> Child {
        Command::new("redis-server")
            .args(arguments)
            .args(["--unixsocket", "socket"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder)
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed: make test does that")
    }

    fn wait_until_it_answers(&self) {
        let started = Instant::now();
        while self.try_command(&["PING"]).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.join("socket").display())
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig {
            url: Some(self.url().into()),
            // Only where a test is about it may an answer come too late.
            deadline: Duration::from_secs(5),
            ..RedisConfig::default()
        }
    }

    /// A connected store.
    pub(crate) async fn store(&self) -> Arc<RedisStore> {
        Self::store_at(self.config()).await
    }

    pub(crate) async fn store_at(config: RedisConfig) -> Arc<RedisStore> {
        let store = RedisStore::new(&config, Metrics::new()).expect("a good address");
        let store = Arc::new(store);
        let kept = Arc::clone(&store);
        TaskTracker::new().spawn(async move { kept.keep().await });
        until("Redis answers", || store.is_up()).await;
        store
    }

    /// What the gateway uses, connected, with what stops it.
    pub(crate) async fn fallback(
        &self,
        config: RedisConfig,
    ) -> (Arc<FallbackStore>, CancellationToken) {
        let store = FallbackStore::new(&config, Metrics::new()).expect("a good address");
        let store = Arc::new(store);
        let (kept, stop) = (Arc::clone(&store), CancellationToken::new());
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move { stopped.run_until_cancelled(kept.keep()).await });
        until("Redis is asked", || store.is_asked()).await;
        (store, stop)
    }

    pub(crate) fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).expect("Redis does as it is told")
    }

    fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// All keys that there are.
    pub(crate) fn keys(&self) -> Vec<String> {
        redis::from_redis_value(self.command(&["KEYS", "*"])).expect("names")
    }

    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("it was our child");
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.folder, &self.arguments);
        self.wait_until_it_answers();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits, without a bound that a slow machine could miss, until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
