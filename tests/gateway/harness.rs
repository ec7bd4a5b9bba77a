//! A whole gateway and its deployments in one process, over pipes in memory, so that time can be simulated.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::auth::Authenticator;
use trunkline::bridge::{CallSummary, ToolRunner};
use trunkline::config::Config;
use trunkline::listener::Gateway;
use trunkline::outbound::Outbound;
use trunkline::simulator::{CallReport, Simulator, SimulatorConfig, SoftPhone};
use trunkline::telemetry::{Metrics, strangers};
use trunkline::transport::Transport;
use trunkline::upstream::Dialer;

/// The deployment `ga`, `preview` and `pass` (G.711 passthrough), an agent on each.
pub(crate) const CONFIG: &str = r#"
[auth]
mode = "none"

[deployments.ga]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
api_key = "sim-key"

[deployments.preview]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
shape = "preview"
api_key = "sim-key"

[deployments.pass]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
audio = "passthrough"
api_key = "sim-key"

[agents.ga]
deployment = "ga"

[agents.preview]
deployment = "preview"

[agents.pass]
deployment = "pass"
"#;

/// [`CONFIG`] where an SDK caller's call ends with its session.
#[allow(dead_code, reason = "for what ends a session")]
pub(crate) fn not_carried() -> String {
    format!("{CONFIG}\n[listener.callers.realtime]\ncarry = false\n")
}

/// Bytes that a pipe holds; a socket's buffers hold about as much.
const PIPE: usize = 256 * 1024;

pub(crate) struct World {
    pub(crate) gateway: Arc<Gateway>,
    /// Who decides who may call; keeps no keys fresh by itself.
    pub(crate) auth: Authenticator,
    #[allow(dead_code, reason = "not every subject asks the far end")]
    pub(crate) simulator: Arc<Simulator>,
    tasks: TaskTracker,
    n_callers: AtomicU32,
    /// Whether callers come by AudioSocket.
    pub(crate) is_audiosocket: bool,
}

impl World {
    /// A gateway of [`CONFIG`] in front of a simulator with these settings (TOML).
    pub(crate) fn new(simulator: &str) -> Self {
        Self::with_config(CONFIG, simulator)
    }

    /// A gateway of `config` in front of a simulator with these settings (TOML).
    pub(crate) fn with_config(config: &str, simulator: &str) -> Self {
        Self::build(
            config,
            simulator,
            &[],
            |stream| stream,
            Outbound::new(),
            None,
        )
        .0
    }

    /// The same where whatever the gateway asks by HTTP comes out of `web`.
    pub(crate) fn with_web(config: &str, simulator: &str, web: mpsc::Sender<DuplexStream>) -> Self {
        let outbound = Outbound::with_memory(web);
        Self::build(config, simulator, &[], |stream| stream, outbound, None).0
    }

    /// The same where every Asterisk that the gateway dials is `pbx`.
    #[allow(dead_code, reason = "for calls that are fetched")]
    pub(crate) fn with_pbx(config: &str, simulator: &str, pbx: mpsc::Sender<DuplexStream>) -> Self {
        let outbound = Outbound::new();
        Self::build(config, simulator, &[], |stream| stream, outbound, Some(pbx)).0
    }

    /// The same with something between the gateway and its deployments: `link` is given the
    /// gateway's end of a new connection and returns the simulator's.
    pub(crate) fn with_model_link(
        config: &str,
        simulator: &str,
        link: impl Fn(DuplexStream) -> DuplexStream + Send + Sync + 'static,
    ) -> Self {
        Self::build(config, simulator, &[], link, Outbound::new(), None).0
    }

    /// The same, but whoever dials one of `scripted` arrives at the test, in that order of deployments.
    pub(crate) fn scripted(
        config: &str,
        simulator: &str,
        scripted: &[&str],
    ) -> (Self, Vec<mpsc::Receiver<DuplexStream>>) {
        Self::build(
            config,
            simulator,
            scripted,
            |stream| stream,
            Outbound::new(),
            None,
        )
    }

    fn build(
        config: &str,
        simulator: &str,
        scripted: &[&str],
        link: impl Fn(DuplexStream) -> DuplexStream + Send + Sync + 'static,
        outbound: Outbound,
        pbx: Option<mpsc::Sender<DuplexStream>>,
    ) -> (Self, Vec<mpsc::Receiver<DuplexStream>>) {
        let link = Arc::new(link);
        let mut settings: SimulatorConfig =
            toml::from_str(simulator).expect("good simulator settings");
        // Both read the same time of day, which goes on with the simulated time.
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let epoch = *settings.epoch.get_or_insert(since_1970.as_secs());
        let simulator = Arc::new(Simulator::new(settings));
        let tasks = TaskTracker::new();
        let metrics = Metrics::new();
        let parsed = Config::parse(config).expect("a good configuration");
        let mut routes = parsed.build(config).expect("a good configuration");
        if let Some(pbx) = pbx {
            routes.asterisk.reach_in_memory(pbx);
        }
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
        let start = tokio::time::Instant::now();
        let mut dialer =
            Dialer::new(Arc::clone(&metrics)).with_wall_clock(move || began + start.elapsed());
        let mut ours = Vec::new();
        for deployment in scripted {
            let (accept, accepted) = mpsc::channel(64);
            dialer = dialer.with_memory(deployment, accept);
            ours.push(accepted);
        }
        let simulated = parsed.deployments.keys();
        for deployment in simulated.filter(|name| !scripted.contains(&name.as_str())) {
            let (accept, mut accepted) = mpsc::channel::<DuplexStream>(64);
            dialer = dialer.with_memory(deployment, accept);
            let simulator = Arc::clone(&simulator);
            let connections = tasks.clone();
            let link = Arc::clone(&link);
            tasks.spawn(async move {
                while let Some(stream) = accepted.recv().await {
                    let stream = link(stream);
                    let simulator = Arc::clone(&simulator);
                    connections.spawn(async move { simulator.serve_connection(stream).await });
                }
            });
        }
        let tools = ToolRunner::new(outbound.clone());
        let auth = routes.auth.clone();
        let gateway = Gateway::new(parsed.listener, routes, dialer, tools, metrics);
        tasks.spawn(Arc::clone(&gateway).keep_standby(CancellationToken::new()));
        tasks.spawn(gateway.recorder().clone().deliver(outbound.clone()));
        tasks.spawn(gateway.tracer().clone().export(outbound));
        tasks.spawn(gateway.quota().clone().keep(CancellationToken::new()));
        let world = Self {
            auth,
            gateway,
            simulator,
            tasks,
            n_callers: AtomicU32::new(0),
            is_audiosocket: false,
        };
        (world, ours)
    }

    /// A connection to the gateway, from an address that nobody else has.
    pub(crate) fn connect(&self) -> DuplexStream {
        let n = self.n_callers.fetch_add(1, Ordering::Relaxed);
        let address = u32::from(Ipv4Addr::new(10, 0, 0, 1)) + n;
        self.connect_from(Ipv4Addr::from(address))
    }

    /// A connection to the gateway from that address.
    pub(crate) fn connect_from(&self, address: impl Into<IpAddr>) -> DuplexStream {
        self.connect_through(PIPE, address)
    }

    /// The same by a pipe that holds so many bytes.
    #[allow(dead_code, reason = "for those who read slowly")]
    pub(crate) fn connect_through(&self, pipe: usize, address: impl Into<IpAddr>) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(pipe);
        let transport = Transport::Memory(theirs);
        if self.is_audiosocket {
            let gateway = &self.gateway;
            gateway.serve_audiosocket_connection(transport, address.into());
        } else {
            self.gateway.serve_connection(transport, address.into());
        }
        ours
    }

    /// Makes a call and waits until the gateway has closed its books on it too.
    pub(crate) async fn call(&self, phone: &SoftPhone) -> CallReport {
        let before = self.gateway.calls().ended().len();
        let report = phone.call(self.connect()).await;
        if report.refusal.is_none() {
            self.ended(before + 1).await;
        }
        report
    }

    /// The `n`th call that ended, from 1, once it has.
    pub(crate) async fn ended(&self, n: usize) -> CallSummary {
        loop {
            if let Some(summary) = self.gateway.calls().ended().get(n - 1) {
                return summary.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Sends a raw HTTP request and reads the answer to the end of its head and whatever else is there.
    #[allow(dead_code, reason = "for refusals")]
    pub(crate) async fn http(&self, request: &str) -> String {
        Self::ask(self.connect(), request).await
    }

    /// The same on that connection.
    pub(crate) async fn ask(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &str,
    ) -> String {
        // Whoever was turned away at once has an answer and nobody who listens.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        let read = async {
            while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                answer.extend_from_slice(&chunk[..n]);
            }
        };
        // A kept connection has no end.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(60), read).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// All metrics, as operators read them.
    #[allow(dead_code, reason = "for counts with labels")]
    pub(crate) fn metrics(&self) -> String {
        self.gateway.metrics().render().expect("metrics")
    }

    /// The value of the metric whose line begins so; 0 if there is none.
    #[allow(dead_code, reason = "for counts")]
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.gateway.metrics().render().expect("metrics");
        text.lines()
            .find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0.0)
    }

    /// Nothing of any call is left: no permit, no active call, no session at the simulator, no panic.
    pub(crate) async fn assert_quiet(&self) {
        // The last bytes of a close may still be under way.
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        assert_eq!(self.gateway.calls().active(), 0, "permits");
        let text = self.gateway.metrics().render().expect("metrics");
        for line in text.lines() {
            let is_count = line.starts_with("trunkline_calls_active{")
                || line.starts_with("trunkline_panics_total ");
            assert!(!is_count || line.ends_with(" 0"), "{line}");
        }
        assert_eq!(
            strangers(&text),
            Vec::<String>::new(),
            "not in the catalogue"
        );
        for session in self.simulator.sessions() {
            assert!(session.closed.is_some(), "session {} is open", session.id);
        }
    }

    /// How many tasks of the harness still run, the accepting ones included.
    #[allow(dead_code, reason = "used by leak tests only")]
    pub(crate) fn n_tasks(&self) -> usize {
        self.tasks.len()
    }
}
