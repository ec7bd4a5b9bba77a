//! WebSocket frames: the meter that judges them, and the socket that puts messages together.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use trunkline::transport::{
    FoundFault, FrameFault, FrameLimits, FrameMeter, Peer, Rate, Received, Role, Transport,
    WebSocket,
};

/// Longest header (RFC 6455, 5.2).
const MAX_HEADER: usize = 14;

/// However a stream is cut, its first fault is the same, and lies in the same frame. The first byte says how it is
/// cut, and who sends it.
pub(super) fn run(bytes: &[u8]) {
    let Some((mode, bytes)) = bytes.split_first() else {
        return;
    };
    let is_server = mode & 1 != 0;
    let rate = Rate {
        per_second: 5,
        burst: 5,
    };
    let limits = FrameLimits {
        from: if is_server {
            Peer::Server
        } else {
            Peer::Client
        },
        max_message: 70_000,
        max_fragments: 8,
        control: rate,
        messages: (mode & 2 == 0).then_some(rate),
        message_timeout: Duration::from_secs(10),
    };
    let new = || match is_server {
        true => FrameMeter::before_answer(limits),
        false => FrameMeter::new(limits),
    };
    let now = Instant::now();
    let whole = new().scan(bytes, now).err();
    let cut = cut(&mut new(), bytes, usize::from(mode >> 2) + 1, now);
    match (whole, cut) {
        (None, None) => {}
        (Some(whole), Some((fault, at))) => {
            assert_eq!(whole.fault, fault);
            assert!((whole.before..whole.before + MAX_HEADER).contains(&at));
        }
        (whole, cut) => panic!("{whole:?} and {cut:?}"),
    }
    let role = if is_server {
        Role::Client
    } else {
        Role::Server
    };
    let meter = || FrameMeter::new(limits);
    let together = messages(role, meter(), bytes, bytes.len().max(1));
    assert_eq!(
        together,
        messages(role, meter(), bytes, usize::from(mode >> 2) + 1)
    );
}

/// What a socket hears in bytes that come in such pieces. What it answers goes nowhere.
fn messages(role: Role, meter: FrameMeter, bytes: &[u8], size: usize) -> Vec<Received> {
    let mut cx = Context::from_waker(Waker::noop());
    let (ours, mut theirs) = tokio::io::duplex(bytes.len() + 1);
    let mut socket = WebSocket::new(Transport::Memory(ours), role, meter, Bytes::new(), 1_000);
    let mut received = Vec::new();
    for chunk in bytes.chunks(size) {
        let written = Pin::new(&mut theirs).poll_write(&mut cx, chunk);
        assert!(matches!(written, Poll::Ready(Ok(n)) if n == chunk.len()));
        while let Poll::Ready(next) = socket.poll_next(&mut cx) {
            let is_end = next.is_end();
            received.push(next);
            if is_end {
                return received;
            }
        }
    }
    received
}

/// The fault, and where the frame that it is in began or was cut.
fn cut(
    meter: &mut FrameMeter,
    bytes: &[u8],
    size: usize,
    now: Instant,
) -> Option<(FrameFault, usize)> {
    for (n, chunk) in bytes.chunks(size).enumerate() {
        if let Err(FoundFault { fault, before }) = meter.scan(chunk, now) {
            assert!(before <= chunk.len());
            return Some((fault, n * size + before));
        }
        // Whatever is under way has its time.
        assert!(
            meter
                .deadline()
                .is_none_or(|at| at >= now + Duration::from_secs(10))
        );
    }
    None
}
