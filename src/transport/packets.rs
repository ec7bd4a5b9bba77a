//! Packets over a byte stream, as AudioSocket frames them (telephony reference 9.6): a byte that says what it is, two
//! of length, big-endian, and so much payload.
//!
//! Keeps what is to be sent in a bounded buffer and never waits, as a WebSocket's leg does. What a packet means is not
//! looked at. There are no pings: who vanished is found by what nobody acknowledges.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::Transport;
use super::meter::{Bucket, FrameFault, FrameLimits};

/// Bytes of kind and length.
pub const PACKET_HEAD: usize = 3;

/// Read at once: six frames at 16 kHz.
const READ: usize = 4 * 1024;

/// What reading gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// One packet, its head included.
    Whole(Bytes),
    /// The peer closed between two packets, or closed over what it had not read, which is a reset.
    Closed,
    /// The connection ended in another way.
    Gone,
    /// The peer exceeded a limit; nothing more is read.
    Broken(FrameFault),
}

/// A transport that carries packets.
#[derive(Debug)]
pub struct Packets {
    transport: Transport,
    limits: FrameLimits,
    inbox: BytesMut,
    outbox: VecDeque<u8>,
    max_unsent: usize,
    messages: Bucket,
    heard_at: Instant,
    /// When the packet that has begun must be complete.
    due: Option<Instant>,
}

impl Packets {
    /// Of `limits` rate and timeout count; no packet is larger than 64 KiB. At most `max_unsent` bytes wait to be sent.
    #[must_use]
    pub fn new(transport: Transport, limits: FrameLimits, max_unsent: usize) -> Self {
        Self {
            transport,
            limits,
            inbox: BytesMut::new(),
            outbox: VecDeque::new(),
            max_unsent,
            messages: Bucket::default(),
            heard_at: Instant::now(),
            due: None,
        }
    }

    /// The next packet.
    pub async fn next(&mut self) -> Packet {
        std::future::poll_fn(|cx| self.poll_packet(cx)).await
    }

    /// The next packet, or why there will be none.
    pub fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<Packet> {
        loop {
            if let Some(packet) = self.take_packet() {
                return Poll::Ready(packet);
            }
            let mut chunk = [0; READ];
            let mut buf = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    self.heard_at = Instant::now();
                    self.inbox.extend_from_slice(buf.filled());
                }
                Ok(()) if self.inbox.is_empty() => return Poll::Ready(Packet::Closed),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Poll::Ready(Packet::Closed);
                }
                Ok(()) | Err(_) => return Poll::Ready(Packet::Gone),
            }
        }
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let length = match *self.inbox {
            [_, high, low, ..] => PACKET_HEAD + usize::from(u16::from_be_bytes([high, low])),
            _ => usize::MAX,
        };
        if self.inbox.len() < length {
            let timeout = self.limits.message_timeout;
            let has_begun = !self.inbox.is_empty();
            self.due = has_begun.then(|| self.due.unwrap_or(self.heard_at + timeout));
            return None;
        }
        self.due = None;
        let packet = self.inbox.split_to(length).freeze();
        let now = self.heard_at.into_std();
        let is_too_fast = self
            .limits
            .messages
            .is_some_and(|rate| !self.messages.take(rate, now));
        Some(if is_too_fast {
            Packet::Broken(FrameFault::TooManyMessages)
        } else {
            Packet::Whole(packet)
        })
    }

    /// Appends packets to what is to be sent. False if too much waits already.
    #[must_use]
    pub fn send(&mut self, packets: &[u8]) -> bool {
        if self.outbox.len() + packets.len() > self.max_unsent {
            return false;
        }
        self.outbox.extend(packets);
        true
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Writes out what waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, front))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.drain(..written);
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Writes out what waits, says that nothing more will come, and reads until the peer ends the connection: closing
    /// over unread data would reset it.
    pub async fn close(&mut self) {
        let flushed = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        if flushed.is_err() || self.transport.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 1024];
        while matches!(self.transport.read(&mut rest).await, Ok(n) if n > 0) {}
    }

    /// Has the runtime that calls it watch the socket.
    pub(crate) fn move_here(&mut self) {
        self.transport.move_here();
    }

    /// When any byte was last read.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// When the packet that is under way must be complete; `None` if there is none.
    #[must_use]
    pub fn message_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Nobody wanted to read until now, for which the peer cannot be blamed.
    pub fn was_unread(&mut self) {
        if let Some(due) = &mut self.due {
            *due = Instant::now() + self.limits.message_timeout;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::meter::{Peer, Rate};
    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        from: Peer::Client,
        max_message: 1 << 16,
        max_fragments: 1,
        control: Rate {
            per_second: 1,
            burst: 1,
        },
        messages: Some(Rate {
            per_second: 1,
            burst: 3,
        }),
        message_timeout: Duration::from_secs(10),
    };

    fn pair() -> (Packets, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let packets = Packets::new(Transport::Memory(ours), LIMITS, 8);
        (packets, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn packets_are_whole_however_they_come() {
        let (mut packets, mut peer) = pair();
        peer.write_all(&[3, 0]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_secs(1), packets.next()).await;
        assert_eq!(early.ok(), None);
        let due = packets.message_deadline().unwrap();
        assert_eq!(due, packets.heard_at() + LIMITS.message_timeout);
        peer.write_all(&[1, b'5', 0, 0, 0]).await.unwrap();
        let whole = |bytes: &[u8]| Packet::Whole(Bytes::copy_from_slice(bytes));
        assert_eq!(packets.next().await, whole(&[3, 0, 1, b'5']));
        assert_eq!(packets.next().await, whole(&[0, 0, 0]));
        assert_eq!(packets.message_deadline(), None);
        drop(peer);
        assert_eq!(packets.next().await, Packet::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_are_told_apart() {
        let (mut packets, mut peer) = pair();
        peer.write_all(&[3, 0, 1]).await.unwrap();
        drop(peer);
        assert_eq!(packets.next().await, Packet::Gone);
        let (mut packets, mut peer) = pair();
        peer.write_all(&[0; 12]).await.unwrap();
        for _ in 0..3 {
            assert!(matches!(packets.next().await, Packet::Whole(_)));
        }
        let broken = Packet::Broken(FrameFault::TooManyMessages);
        assert_eq!(packets.next().await, broken);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_sent_before_closing() {
        let (mut packets, mut peer) = pair();
        assert!(packets.send(&[0x10, 0, 2, 1, 2]));
        assert!(!packets.send(&[0x10, 0, 2, 1, 2]));
        assert!(packets.send(&[0, 0, 0]));
        let mut all = Vec::new();
        let read = async {
            peer.read_to_end(&mut all).await.unwrap();
            drop(peer);
        };
        tokio::join!(packets.close(), read);
        assert_eq!(all, [0x10, 0, 2, 1, 2, 0, 0, 0]);
    }
}
