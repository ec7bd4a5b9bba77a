//! One side of a call: a WebSocket, or packets on plain TCP, whose sends never wait.
//!
//! What is sent goes into a bounded buffer, and the call's loop polls the flush, so that no leg can
//! stall the other. Messages of one wake-up leave in one write.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::transport::{FrameFault, Packet, Packets, Received, Unsendable, WebSocket};

/// How long a closing handshake and the last bytes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A silent leg is pinged after so long, and gone after twice as long (threats reference 18).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Something that came in on a leg.
#[derive(Debug)]
pub(super) enum LegEvent {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// The peer said good-bye.
    Closed(Option<CloseFrame>),
    /// The connection ended without a good-bye.
    Gone,
    /// The peer broke the WebSocket protocol or a limit: the name for it, and the close code.
    Broken {
        name: &'static str,
        close_code: u16,
    },
}

/// Why something could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The peer does not take what waits already.
    Full,
    /// There is no peer any more; the leg's events say why.
    Gone,
}

/// A peer that was last heard so long before it is needed may be gone.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// One that is there answers a ping within that time: what is slow for a dial is slow for this too.
const PONG: Duration = Duration::from_millis(1_500);

/// What a leg's messages go over.
#[derive(Debug)]
pub enum Line {
    /// A WebSocket.
    Socket(Box<WebSocket>),
    /// Packets, each a binary message.
    Packets(Box<Packets>),
}

impl From<WebSocket> for Line {
    fn from(socket: WebSocket) -> Self {
        Self::Socket(Box::new(socket))
    }
}

impl From<Packets> for Line {
    fn from(packets: Packets) -> Self {
        Self::Packets(Box::new(packets))
    }
}

impl Line {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LegEvent> {
        let socket = match self {
            Self::Socket(socket) => socket,
            Self::Packets(packets) => return packets.poll_packet(cx).map(LegEvent::from),
        };
        loop {
            return Poll::Ready(match std::task::ready!(socket.poll_next(cx)) {
                Received::Text(text) => LegEvent::Text(text),
                Received::Binary(bytes) => LegEvent::Binary(bytes),
                Received::SignOfLife => continue,
                Received::Closed(frame) => LegEvent::Closed(frame),
                Received::Gone => LegEvent::Gone,
                Received::Broken(fault) => broken_by(fault),
            });
        }
    }

    /// Packets know no texts; nobody sends any there.
    fn send_text(&mut self, text: &str) -> Result<(), SendError> {
        match self {
            Self::Socket(socket) => Ok(socket.send_text(text)?),
            Self::Packets(_) => Ok(()),
        }
    }

    fn send_binary(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self {
            Self::Socket(socket) => Ok(socket.send_binary(bytes)?),
            Self::Packets(packets) => packets.send(bytes).then_some(()).ok_or(SendError::Full),
        }
    }

    /// Nothing where there are no pings.
    fn send_ping(&mut self) -> Result<(), SendError> {
        match self {
            Self::Socket(socket) => Ok(socket.send_ping()?),
            Self::Packets(_) => Ok(()),
        }
    }

    fn has_unsent(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.has_unsent(),
            Self::Packets(packets) => packets.has_unsent(),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A broken connection is told of by reading.
        match self {
            Self::Socket(socket) => socket.poll_flush(cx).map(drop),
            Self::Packets(packets) => packets.poll_flush(cx).map(drop),
        }
    }

    fn move_here(&mut self) {
        match self {
            Self::Socket(socket) => socket.move_here(),
            Self::Packets(packets) => packets.move_here(),
        }
    }

    const fn can_ping(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    fn heard_at(&self) -> Instant {
        match self {
            Self::Socket(socket) => socket.heard_at(),
            Self::Packets(packets) => packets.heard_at(),
        }
    }

    fn message_deadline(&self) -> Option<Instant> {
        match self {
            Self::Socket(socket) => socket.message_deadline(),
            Self::Packets(packets) => packets.message_deadline(),
        }
    }

    fn was_unread(&mut self) {
        match self {
            Self::Socket(socket) => socket.was_unread(),
            Self::Packets(packets) => packets.was_unread(),
        }
    }

    async fn close(&mut self, frame: CloseFrame) {
        match self {
            Self::Socket(socket) => socket.leave(frame).await,
            Self::Packets(packets) => packets.close().await,
        }
    }
}

impl From<Unsendable> for SendError {
    fn from(error: Unsendable) -> Self {
        match error {
            Unsendable::Full => Self::Full,
            Unsendable::Closed => Self::Gone,
        }
    }
}

impl From<Packet> for LegEvent {
    fn from(packet: Packet) -> Self {
        match packet {
            Packet::Whole(bytes) => Self::Binary(bytes),
            Packet::Closed => Self::Closed(None),
            Packet::Gone => Self::Gone,
            Packet::Broken(fault) => broken_by(fault),
        }
    }
}

#[derive(Debug)]
pub(super) struct Leg {
    line: Line,
    keep_alive: Duration,
    /// Since when the peer is listened to. It may have been silent for long, and perfectly well.
    since: Instant,
    /// It has yet to show that it is there.
    is_doubtful: bool,
    blocked_since: Option<Instant>,
    /// When the peer had last been heard as it was pinged.
    pinged_after: Option<Instant>,
    /// The close code for what the peer did wrong.
    broken: Option<u16>,
}

impl Leg {
    /// A leg of a call that runs where this is called.
    pub(super) fn new(line: impl Into<Line>) -> Self {
        let mut line = line.into();
        line.move_here();
        Self {
            line,
            keep_alive: KEEP_ALIVE,
            since: Instant::now(),
            is_doubtful: false,
            blocked_since: None,
            pinged_after: None,
            broken: None,
        }
    }

    /// From now on a silent peer is pinged after so long, and gone after twice as long; one that has been silent for a
    /// while is pinged at once, because it may have gone before it was needed.
    pub(super) fn keep_alive_after(&mut self, keep_alive: Duration) {
        self.keep_alive = keep_alive;
        self.since = Instant::now();
        self.pinged_after = None;
        self.is_doubtful = self.line.heard_at() + DOUBTFUL < self.since;
    }

    /// The next message, pings and pongs left out: the socket answers them.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LegEvent> {
        let event = std::task::ready!(self.line.poll_event(cx));
        self.note_broken(&event);
        Poll::Ready(event)
    }

    pub(super) fn send_text(&mut self, text: &str) -> Result<(), SendError> {
        self.line.send_text(text)
    }

    pub(super) fn send_binary(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.line.send_binary(bytes)
    }

    /// Writes out what waits. Pending while the peer takes no more; a broken connection counts as
    /// written, since reading will tell of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.line.has_unsent() {
            self.blocked_since = None;
            return Poll::Ready(());
        }
        if self.line.poll_flush(cx).is_pending() {
            self.blocked_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        self.blocked_since = None;
        Poll::Ready(())
    }

    /// Pings a peer that has been silent. False if it has been silent for too long to be there.
    pub(super) fn keep_alive(&mut self, now: Instant) -> bool {
        if now < self.keep_alive_at() {
            return true;
        }
        if !self.line.can_ping() {
            // What it is sent tells whether it is there: somebody has to acknowledge it.
            self.since = now;
            return true;
        }
        if self.is_pinged() {
            return false;
        }
        self.pinged_after = Some(self.line.heard_at());
        // One that is gone says so when it is read.
        let _ = self.line.send_ping();
        true
    }

    /// When [`Leg::keep_alive`] wants to be called next.
    pub(super) fn keep_alive_at(&self) -> Instant {
        let is_unheard = self.line.heard_at() < self.since;
        match (self.is_pinged(), self.is_doubtful && is_unheard) {
            (false, true) => self.since,
            (true, true) => self.since + PONG,
            (false, false) => self.heard_at() + self.keep_alive,
            (true, false) => self.heard_at() + 2 * self.keep_alive,
        }
    }

    /// When any byte came in: a message on a slow line takes its time, and is a sign of life all the same. Not before
    /// anybody listened.
    pub(super) fn heard_at(&self) -> Instant {
        self.line.heard_at().max(self.since)
    }

    /// Whether it was pinged and has not been heard since.
    fn is_pinged(&self) -> bool {
        self.pinged_after == Some(self.line.heard_at())
    }

    /// When the message that is coming in must be complete.
    pub(super) fn message_deadline(&self) -> Option<Instant> {
        self.line.message_deadline()
    }

    /// What it is if that was not kept.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<LegEvent> {
        if self.message_deadline()? > now {
            return None;
        }
        let event = broken_by(FrameFault::MessageTooSlow);
        self.note_broken(&event);
        Some(event)
    }

    fn note_broken(&mut self, event: &LegEvent) {
        if let LegEvent::Broken { close_code, .. } = event {
            self.broken = Some(*close_code);
        }
    }

    /// The gateway did not want to read until now.
    pub(super) fn was_unread(&mut self) {
        self.line.was_unread();
    }

    /// Since when the peer takes nothing.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Says good-bye and lets the peer read it: closes, waits for the answer, and keeps the connection
    /// open for reading until the peer ends it, because closing over unread data would reset it. A peer that broke
    /// a rule is told that, whatever the call ends with.
    pub(super) async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: self.broken.unwrap_or(code).into(),
            reason: Utf8Bytes::from(reason),
        };
        let _ = timeout(CLOSE_TIMEOUT, self.line.close(frame)).await;
    }
}

fn broken_by(fault: FrameFault) -> LegEvent {
    LegEvent::Broken {
        name: fault.name(),
        close_code: fault.close_code(),
    }
}
