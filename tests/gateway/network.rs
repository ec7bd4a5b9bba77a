//! What lies between two pipes: delay, jitter, and a tap that notes the messages that pass.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// Bytes that a link holds beside those that are under way.
const PIPE: usize = 256 * 1024;

/// Writes under way; at 50 frames a second each way that is minutes.
const UNDER_WAY: usize = 16 * 1024;

/// A connection on which everything takes time. What was sent first arrives first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// One way.
    pub(crate) delay: Duration,
    /// Added to the delay of each write, anything from zero to this.
    pub(crate) jitter: Duration,
    /// Where jitter comes from.
    pub(crate) seed: u64,
    /// Notes what passes.
    pub(crate) tap: Option<Tap>,
}

impl Network {
    /// A steady delay each way.
    pub(crate) fn delayed(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Puts the network before `near` and returns its far end. The tap's first side is what `near` says.
    pub(crate) fn link(&self, near: DuplexStream) -> DuplexStream {
        let (far, middle) = tokio::io::duplex(PIPE);
        let (near_reader, near_writer) = tokio::io::split(near);
        let (far_reader, far_writer) = tokio::io::split(middle);
        self.carry(0, near_reader, far_writer);
        self.carry(1, far_reader, near_writer);
        far
    }

    fn carry<R, W>(&self, side: usize, mut from: R, mut to: W)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let mut random = fastrand::Rng::with_seed(self.seed * 2 + side as u64);
        let (delay, jitter) = (self.delay, self.jitter);
        let mut watch = self.tap.clone().map(|tap| Watch::new(tap, side));
        tasks.spawn(async move {
            let mut chunk = vec![0; 16 * 1024];
            let mut last = Instant::now();
            loop {
                let n = from.read(&mut chunk).await.unwrap_or(0);
                if let Some(watch) = &mut watch {
                    watch.pass(&chunk[..n]);
                }
                let extra = random.u64(0..=jitter.as_micros() as u64);
                let due = Instant::now() + delay + Duration::from_micros(extra);
                last = last.max(due);
                let sent = sender.send((last, chunk[..n].to_vec())).await;
                if n == 0 || sent.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            while let Some((due, bytes)) = receiver.recv().await {
                sleep_until(due).await;
                if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            let _ = to.shutdown().await;
        });
    }
}

/// One message that passed a tap.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Passed {
    /// When it was sent.
    pub(crate) at: Instant,
    /// Who sent it.
    pub(crate) by: &'static str,
    /// `type` or `event` of a text message; `close` of a close frame.
    pub(crate) kind: String,
}

/// Notes the text messages on one or more connections in the order in which they were sent.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    names: [&'static str; 2],
    log: Arc<Mutex<Vec<Passed>>>,
}

impl Tap {
    /// Names the side that the link is put before, then the other one.
    pub(crate) fn new(names: [&'static str; 2]) -> Self {
        Self {
            names,
            log: Arc::default(),
        }
    }

    /// Another connection into the same notes.
    pub(crate) fn beside(&self, names: [&'static str; 2]) -> Self {
        Self {
            names,
            log: Arc::clone(&self.log),
        }
    }

    /// Everything so far.
    pub(crate) fn passed(&self) -> Vec<Passed> {
        self.log.lock().expect("no panic while held").clone()
    }
}

/// Reads one direction of a WebSocket connection, its upgrade included.
struct Watch {
    tap: Tap,
    side: usize,
    bytes: Vec<u8>,
    is_upgraded: bool,
}

impl Watch {
    fn new(tap: Tap, side: usize) -> Self {
        Self {
            tap,
            side,
            bytes: Vec::new(),
            is_upgraded: false,
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if !self.is_upgraded {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            self.bytes.drain(..end + 4);
            self.is_upgraded = true;
        }
        while let Some((opcode, payload, size)) = frame(&self.bytes) {
            self.bytes.drain(..size);
            let kind = match opcode {
                1 => kind_of(&payload),
                8 => "close".to_owned(),
                _ => continue,
            };
            let passed = Passed {
                at: Instant::now(),
                by: self.tap.names[self.side],
                kind,
            };
            self.tap
                .log
                .lock()
                .expect("no panic while held")
                .push(passed);
        }
    }
}

/// The first frame (RFC 6455, 5.2): opcode, payload, size as a whole.
fn frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (opcode, second) = (bytes.first()? & 0x0F, *bytes.get(1)?);
    let (length, mut at) = match second & 0x7F {
        126 => (
            u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize,
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        short => (usize::from(short), 2),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask.copy_from_slice(bytes.get(at..at + 4)?);
        at += 4;
    }
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().enumerate().map(|(n, b)| b ^ mask[n % 4]);
    Some((opcode, payload.collect(), at + length))
}

fn kind_of(payload: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let kind = value["type"].as_str().or(value["event"].as_str());
    kind.unwrap_or("?").to_owned()
}
