//! A frame's header may claim what it likes: memory grows with the bytes that come, never with the claim.
//!
//! A binary of its own, because it measures the whole process.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::task::TaskTracker;
use trunkline::listener::{CallersConfig, echo_connection};
use trunkline::transport::Transport;

const CONNECTIONS: usize = 200;

/// Nearly the largest message of an SDK client.
const CLAIM: u64 = 20 << 20;

/// Resident memory of the process in bytes (proc(5)).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc is there");
    let pages = statm.split(' ').nth(1).expect("a second field");
    pages.parse::<u64>().expect("a number") * 4096
}

async fn connect() -> DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let task = echo_connection(Transport::Memory(theirs), CallersConfig::default());
    TaskTracker::new().spawn(task);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    ours.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(ours.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    ours
}

/// Sends the header of a binary frame and the first bytes of its payload, and waits until they are read.
async fn begin(stream: &mut DuplexStream, n_bytes: usize) {
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend_from_slice(&CLAIM.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.resize(bytes.len() + n_bytes, 0);
    stream.write_all(&bytes).await.expect("written");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn memory_grows_with_what_comes() {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(connect().await);
    }
    let before = resident();
    for stream in &mut streams {
        begin(stream, 10).await;
    }
    let grown = resident().saturating_sub(before);
    // 4 GB were claimed. A few read buffers each are 16 KiB.
    assert!(grown < CONNECTIONS as u64 * 64 * 1024, "{grown} bytes");

    // That it is measured at all: what does come is there.
    let mut one = connect().await;
    let before = resident();
    begin(&mut one, 16 << 20).await;
    let grown = resident().saturating_sub(before);
    assert!(grown > 12 << 20, "{grown} bytes");
}
