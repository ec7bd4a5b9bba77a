//! Lines with known faults: an echo that speaks Twilio's dialect, and the simulator behind a long way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Uri;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex, split,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::task::TaskTracker;
use trunkline::simulator::phone_dial::{ByteStream, DialError};
use trunkline::simulator::{Simulator, SimulatorConfig};
use trunkline_loadtest::run::{Lines, Wiretap};

/// What a relay does wrong. Numbers are of frames of speech, over all calls; calls are counted from 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Everything comes back so much later.
    pub(crate) delay: Duration,
    /// And every other message by so much more.
    pub(crate) jitter: Duration,
    pub(crate) lose_every: Option<u64>,
    pub(crate) double_every: Option<u64>,
    /// Send it after the next one.
    pub(crate) swap_every: Option<u64>,
    /// Send noise instead.
    pub(crate) damage_every: Option<u64>,
    /// Send what another call said as well.
    pub(crate) cross_every: Option<u64>,
    /// Refuse this call with 503.
    pub(crate) refuse_call: Option<u64>,
    /// Close this call after two seconds with this code.
    pub(crate) close_call: Option<(u64, u16)>,
    /// Break this call's connection after two seconds.
    pub(crate) drop_call: Option<u64>,
    /// Do not answer this call.
    pub(crate) mute_call: Option<u64>,
}

/// What was done wrong, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Injected {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) swapped: u64,
    pub(crate) damaged: u64,
    pub(crate) crossed: u64,
}

/// Lines that lead to an echo.
pub(crate) struct EchoLines {
    faults: Faults,
    n_calls: AtomicU64,
    tasks: TaskTracker,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    injected: Injected,
    n_speech: u64,
    /// What was said last, and in which call.
    last_speech: Option<(u64, String)>,
}

impl EchoLines {
    pub(crate) fn new(faults: Faults) -> Self {
        Self {
            faults,
            n_calls: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            shared: Arc::default(),
        }
    }

    pub(crate) fn injected(&self) -> Injected {
        self.shared
            .lock()
            .expect("no relay panics with it")
            .injected
    }
}

#[async_trait]
impl Lines for EchoLines {
    async fn open(&self, _: &Uri) -> Result<Box<dyn ByteStream>, DialError> {
        let (near, far) = duplex(1 << 20);
        let call = self.n_calls.fetch_add(1, Ordering::Relaxed);
        self.tasks
            .spawn(echo(far, call, self.faults, Arc::clone(&self.shared)));
        Ok(Box::new(near))
    }
}

async fn echo(line: DuplexStream, call: u64, faults: Faults, shared: Arc<Mutex<Shared>>) {
    if faults.mute_call == Some(call) {
        // Held open, so that the caller waits.
        sleep(Duration::from_secs(60)).await;
        return;
    }
    let refuses = faults.refuse_call == Some(call);
    #[expect(clippy::result_large_err, reason = "the library's own signature")]
    let answer = |_: &Request, response: Response| -> Result<Response, ErrorResponse> {
        if refuses {
            let mut refusal = ErrorResponse::new(Some("busy".to_owned()));
            *refusal.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            return Err(refusal);
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(line, answer).await else {
        return;
    };
    let early = Instant::now() + Duration::from_secs(2);
    let closes = faults.close_call.filter(|(it, _)| *it == call);
    let ends_early = closes.is_some() || faults.drop_call == Some(call);
    let mut relay = Relay {
        call,
        faults,
        shared,
        n_messages: 0,
        held: None,
        queue: VecDeque::new(),
    };
    loop {
        let due = relay.queue.front().map(|(due, _)| *due);
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => relay.take(&text),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = sleep_until(due.unwrap_or(early)), if due.is_some() => {
                if let Some((_, text)) = relay.queue.pop_front() {
                    let _ = socket.send(Message::text(text)).await;
                }
            }
            () = sleep_until(early), if ends_early => {
                if let Some((_, code)) = closes {
                    let frame = CloseFrame { code: code.into(), reason: "".into() };
                    let _ = socket.close(Some(frame)).await;
                    while let Some(Ok(_)) = socket.next().await {}
                }
                return;
            }
        }
    }
}

struct Relay {
    call: u64,
    faults: Faults,
    shared: Arc<Mutex<Shared>>,
    n_messages: u64,
    /// To be sent after the next one.
    held: Option<String>,
    queue: VecDeque<(Instant, String)>,
}

impl Relay {
    fn take(&mut self, text: &str) {
        let event: serde_json::Value = serde_json::from_str(text).expect("the phone speaks JSON");
        if event["event"] != "media" {
            return;
        }
        let sid = event["streamSid"].as_str().unwrap_or_default().to_owned();
        let payload = event["media"]["payload"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for payload in self.spoil(payload) {
            let message = serde_json::json!({
                "event": "media", "streamSid": sid, "media": {"payload": payload},
            });
            self.n_messages += 1;
            let jitter = self.faults.jitter * (self.n_messages % 2) as u32;
            let due = Instant::now() + self.faults.delay + jitter;
            self.queue.push_back((due, message.to_string()));
        }
    }

    /// What is sent in the place of this.
    fn spoil(&mut self, payload: String) -> Vec<String> {
        // Mu-law has two zeros.
        let bytes = STANDARD.decode(&payload).expect("the phone speaks base64");
        if bytes.iter().all(|byte| matches!(byte, 0xFF | 0x7F)) {
            return self.held.take().into_iter().chain([payload]).collect();
        }
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock().expect("no relay panics with it");
        shared.n_speech += 1;
        let n = shared.n_speech;
        let is_due = |every: Option<u64>| every.is_some_and(|every| n.is_multiple_of(every));
        let before = shared.last_speech.replace((self.call, payload.clone()));
        let other = before.filter(|(call, _)| *call != self.call);
        let injected = &mut shared.injected;
        let faults = &self.faults;
        if is_due(faults.lose_every) {
            injected.lost += 1;
            return Vec::new();
        }
        if is_due(faults.double_every) {
            injected.doubled += 1;
            return vec![payload.clone(), payload];
        }
        if is_due(faults.swap_every) && self.held.is_none() {
            injected.swapped += 1;
            self.held = Some(payload);
            return Vec::new();
        }
        if is_due(faults.damage_every) {
            injected.damaged += 1;
            let mut random = fastrand::Rng::with_seed(n);
            // The loud half of the code, so that the noise is as loud as the tones.
            let noise: Vec<u8> = bytes.iter().map(|_| random.u8(..) & 0xBF).collect();
            return vec![STANDARD.encode(noise)];
        }
        if let Some((_, other)) = other.filter(|_| is_due(faults.cross_every)) {
            injected.crossed += 1;
            return vec![other, payload];
        }
        [payload].into_iter().chain(self.held.take()).collect()
    }
}

/// Lines to a simulator a long way off.
pub(crate) struct SimulatorLines {
    simulator: Arc<Simulator>,
    wiretap: Arc<Wiretap>,
    tasks: TaskTracker,
    delay: Duration,
}

impl SimulatorLines {
    /// Everything takes so long, in each direction.
    pub(crate) fn new(delay: Duration) -> Self {
        let wiretap = Arc::new(Wiretap::default());
        let mut config = SimulatorConfig::default();
        config.latency.jitter = 0.0;
        let simulator = Simulator::new(config).listened_by(Arc::clone(&wiretap) as _);
        Self {
            simulator: Arc::new(simulator),
            wiretap,
            tasks: TaskTracker::new(),
            delay,
        }
    }

    pub(crate) fn wiretap(&self) -> Arc<Wiretap> {
        Arc::clone(&self.wiretap)
    }
}

#[async_trait]
impl Lines for SimulatorLines {
    async fn open(&self, _: &Uri) -> Result<Box<dyn ByteStream>, DialError> {
        let (near, far_near) = duplex(1 << 20);
        let (near_far, far) = duplex(1 << 20);
        let (from_caller, to_caller) = split(far_near);
        let (from_simulator, to_simulator) = split(near_far);
        self.tasks
            .spawn(carry(from_caller, to_simulator, self.delay));
        self.tasks
            .spawn(carry(from_simulator, to_caller, self.delay));
        let simulator = Arc::clone(&self.simulator);
        self.tasks
            .spawn(async move { simulator.serve_connection(far).await });
        Ok(Box::new(near))
    }
}

/// Carries bytes, each so much later, until the end.
async fn carry<R, W>(mut from: R, mut to: W, delay: Duration)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut on_the_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 64 << 10];
    let mut is_open = true;
    while is_open || !on_the_way.is_empty() {
        let due = on_the_way.front().map(|(due, _)| *due);
        tokio::select! {
            n = from.read(&mut buffer), if is_open => match n {
                Ok(0) | Err(_) => is_open = false,
                Ok(n) => on_the_way.push_back((Instant::now() + delay, buffer[..n].to_vec())),
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, bytes)) = on_the_way.pop_front()
                    && to.write_all(&bytes).await.is_err()
                {
                    return;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}
