//! WebSocket frames over a transport, after the handshake (RFC 6455, 5 and 7.1): one side of one connection.
//!
//! Own code, because this is where most of a call's time and memory outside the kernel went (`src/DECISIONS.md`): what
//! is read goes through one buffer of the thread, and a connection keeps no more than the part of a frame that came
//! without its rest. What is sent goes into a bounded buffer and never waits. Headers are judged by the meter below, so
//! that here they are only followed. Extensions are not spoken; the client's handshake is the library's, the server's hyper's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Utf8Bytes};

use super::{FrameFault, FrameLimits, FrameMeter, Metered, Transport};

/// Read at once: more than any message of a call, so that one read takes what is there.
const READ: usize = 64 * 1024;

/// Read at once of the answer to an upgrade.
const HEAD: usize = 4 * 1024;

/// Empty buffers of a thread, for whichever of its connections needs one next.
const MAX_SPARE: usize = 8;

/// Larger ones are given back to the allocator: an append of 20 ms is 1.4 kB, a delta of 200 ms 13.
const MAX_SPARE_BYTES: usize = 16 * 1024;

/// Largest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

thread_local! {
    /// Where this thread reads to. Nothing stays in it from one read to the next.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    /// Buffers are needed for a moment, by one connection after the other: what they share stays in the processor's cache.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// Random bytes for masks, of which the last ones are used first.
    static MASKS: RefCell<Vec<[u8; 4]>> = const { RefCell::new(Vec::new()) };
}

/// Something that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message of text.
    Text(Utf8Bytes),
    /// A message of bytes.
    Binary(Bytes),
    /// A ping, which has been answered, or a pong.
    SignOfLife,
    /// The peer said good-bye, with a code that may be sent if any. The answer waits to be sent; nothing else comes in
    /// or goes out.
    Closed(Option<CloseFrame>),
    /// The connection ended without a good-bye.
    Gone,
    /// The peer broke a rule or a limit; nothing more is read.
    Broken(FrameFault),
}

impl Received {
    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Gone | Self::Broken(_))
    }
}

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// The peer does not take what waits already.
    #[error("the peer does not read")]
    Full,
    /// A good-bye was said.
    #[error("the connection is closed")]
    Closed,
}

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What it sends is masked (RFC 6455, 5.1).
    Client,
    /// What it sends is not.
    Server,
}

/// One side of a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    transport: Metered,
    role: Role,
    /// Read and not yet taken: less than a frame, but while several are taken that came together.
    inbox: Vec<u8>,
    /// So much of the inbox is taken.
    n_taken: usize,
    /// The message whose fragments are coming.
    fragments: Option<Fragments>,
    /// Frames that wait to be sent.
    outbox: Vec<u8>,
    /// So much of the outbox was sent.
    n_sent: usize,
    max_unsent: usize,
    said_goodbye: bool,
    /// Nothing is sent any more: how much of the last frame is on its way is not known.
    cannot_send: bool,
    /// What was last received, if it was the last there will be.
    over: Option<Received>,
}

#[derive(Debug)]
struct Fragments {
    opcode: u8,
    payload: Vec<u8>,
    /// So much of it is known to be UTF-8.
    n_text: usize,
}

impl Fragments {
    /// Appends a fragment. False if the text is none, which is not waited to the end for (RFC 6455, 8.1).
    fn push(&mut self, fragment: &[u8]) -> bool {
        self.payload.extend_from_slice(fragment);
        if self.opcode == BINARY {
            return true;
        }
        match str::from_utf8(&self.payload[self.n_text..]) {
            Ok(_) => self.n_text = self.payload.len(),
            Err(error) if error.error_len().is_some() => return false,
            // A character may be cut in two.
            Err(error) => self.n_text += error.valid_up_to(),
        }
        true
    }
}

/// A frame's header: how long it is, and what it says.
#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    is_final: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    payload: usize,
}

impl Header {
    /// `None` if it is not all there.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload, rest) = match second & !MASKED {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match second & MASKED {
            0 => (None, rest),
            _ => {
                let (mask, rest) = rest.split_first_chunk()?;
                (Some(*mask), rest)
            }
        };
        Some(Self {
            length: bytes.len() - rest.len(),
            is_final: first & FINAL != 0,
            opcode: first & 0xF,
            mask,
            payload: usize::try_from(payload).unwrap_or(usize::MAX),
        })
    }

    /// Length of the whole frame.
    const fn frame(self) -> usize {
        self.length.saturating_add(self.payload)
    }
}

impl WebSocket {
    /// A connection whose handshake is done. Frames of the peer are held to the limits of `meter`; at most `max_unsent`
    /// bytes wait to be sent. `already_read` came behind the handshake.
    #[must_use]
    pub fn new(
        transport: Transport,
        role: Role,
        meter: FrameMeter,
        already_read: Bytes,
        max_unsent: usize,
    ) -> Self {
        let transport = Metered::new(transport, meter, already_read);
        Self::over(transport, role, max_unsent)
    }

    /// Asks a server for a connection and waits for its 101. The answer's headers are not shown, its frames are held to
    /// `limits`.
    ///
    /// # Errors
    ///
    /// What the library says of the handshake: [`WsError::Http`] with the answer if that is another one.
    pub async fn dial(
        transport: Transport,
        request: http::Request<()>,
        limits: FrameLimits,
        max_unsent: usize,
    ) -> Result<Self, WsError> {
        let config = WebSocketConfig::default().read_buffer_size(HEAD);
        let meter = FrameMeter::before_answer(limits);
        let transport = Metered::new(transport, meter, Bytes::new());
        // The library makes the handshake, and is given nothing of what comes behind it.
        let (socket, _) = client_async_with_config(request, transport, Some(config)).await?;
        let transport = socket.into_inner();
        if !transport.is_at_first_frame() {
            // The library takes heads that the meter does not, such as one that begins with an empty line. Frames behind
            // such a one would not be judged.
            let fault = io::Error::new(io::ErrorKind::InvalidData, FrameFault::Protocol);
            return Err(WsError::Io(fault));
        }
        Ok(Self::over(transport, Role::Client, max_unsent))
    }

    fn over(transport: Metered, role: Role, max_unsent: usize) -> Self {
        Self {
            transport,
            role,
            inbox: Vec::new(),
            n_taken: 0,
            fragments: None,
            outbox: Vec::new(),
            n_sent: 0,
            max_unsent,
            said_goodbye: false,
            cannot_send: false,
            over: None,
        }
    }

    /// The next thing that comes in; what waits to be sent is sent meanwhile. Nothing is lost if it is not waited for.
    pub async fn next(&mut self) -> Received {
        poll_fn(|cx| {
            let received = self.poll_next(cx);
            if received.is_pending() && self.has_unsent() {
                // A broken connection is told of by reading.
                let _ = self.poll_flush(cx);
            }
            received
        })
        .await
    }

    /// The next thing that comes in.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Some(last) = &self.over {
            return Poll::Ready(match last {
                Received::Closed(_) => Received::Gone,
                last => last.clone(),
            });
        }
        let received = ready!(self.poll_received(cx));
        if received.is_end() {
            self.over = Some(received.clone());
        }
        Poll::Ready(received)
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            while let Some((header, n_read)) = self.whole_in_inbox() {
                // Taken out, so that the frame can be lent to what follows.
                let mut inbox = std::mem::take(&mut self.inbox);
                let received = self.frame(header, &mut inbox[n_read..]);
                self.inbox = inbox;
                self.n_taken = n_read + header.payload;
                self.tidy_inbox();
                if let Some(received) = received {
                    return Poll::Ready(received);
                }
            }
            if let Some(received) = ready!(self.poll_scratch(cx)) {
                return Poll::Ready(received);
            }
        }
    }

    /// The header of the inbox's first frame, if that is whole, and where its payload begins.
    fn whole_in_inbox(&self) -> Option<(Header, usize)> {
        let waiting = &self.inbox[self.n_taken..];
        let header = Header::read(waiting)?;
        (header.frame() <= waiting.len()).then_some((header, self.n_taken + header.length))
    }

    fn tidy_inbox(&mut self) {
        let left = self.inbox.len() - self.n_taken;
        if left > 0 {
            // Somebody who always sends a byte of the next message has it kept, and not all that was there before.
            if self.inbox.capacity() > READ.max(4 * left) {
                self.inbox = self.inbox[self.n_taken..].to_vec();
                self.n_taken = 0;
            }
            return;
        }
        self.n_taken = 0;
        spare(&mut self.inbox);
    }

    /// Reads once. Where nothing waited before, the first frame is taken from where it was read to; what remains goes
    /// into the inbox. Nothing if that was no end and no whole message.
    fn poll_scratch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buf));
            let n = buf.filled().len();
            if let Err(error) = read {
                let fault = Metered::fault_in(&error);
                return Poll::Ready(Some(fault.map_or(Received::Gone, Received::Broken)));
            }
            if n == 0 {
                return Poll::Ready(Some(Received::Gone));
            }
            let mut read = &mut scratch[..n];
            let mut received = None;
            if self.inbox.is_empty() {
                while let Some(header) = Header::read(read).filter(|it| it.frame() <= read.len()) {
                    let (frame, rest) = read.split_at_mut(header.frame());
                    read = rest;
                    received = self.frame(header, &mut frame[header.length..]);
                    if received.is_some() {
                        break;
                    }
                }
            }
            if !read.is_empty() {
                // What was taken is not carried along while a large message comes in.
                self.inbox.drain(..std::mem::take(&mut self.n_taken));
                buffer(&mut self.inbox).extend_from_slice(read);
            }
            Poll::Ready(Some(received)).map(Option::flatten)
        })
    }

    /// Takes a frame whose payload `bytes` begin with. Nothing if it is not the end of a message.
    fn frame(&mut self, header: Header, bytes: &mut [u8]) -> Option<Received> {
        let payload = &mut bytes[..header.payload];
        if let Some(key) = header.mask {
            apply_mask(key, payload);
        }
        match (header.opcode, &mut self.fragments) {
            (opcode @ (TEXT | BINARY), None) if header.is_final => {
                Some(message(opcode, Bytes::copy_from_slice(payload)))
            }
            (opcode @ (TEXT | BINARY), None) => {
                let fragments = self.fragments.insert(Fragments {
                    opcode,
                    payload: Vec::new(),
                    n_text: 0,
                });
                let is_good = fragments.push(payload);
                (!is_good).then_some(Received::Broken(FrameFault::NotText))
            }
            (CONTINUATION, Some(fragments)) => {
                if !fragments.push(payload) {
                    return Some(Received::Broken(FrameFault::NotText));
                }
                let whole = self.fragments.take_if(|_| header.is_final)?;
                Some(message(whole.opcode, whole.payload.into()))
            }
            (CLOSE, _) => Some(self.peer_closed(payload)),
            (PING, _) => {
                // A peer that asks and does not read is not answered without end.
                let _ = self.put(PONG, payload);
                Some(Received::SignOfLife)
            }
            (PONG, _) => Some(Received::SignOfLife),
            // The meter lets nothing else through.
            _ => Some(Received::Broken(FrameFault::Protocol)),
        }
    }

    fn peer_closed(&mut self, payload: &[u8]) -> Received {
        let frame = match payload.split_first_chunk() {
            None if payload.is_empty() => None,
            None => return Received::Broken(FrameFault::Protocol),
            Some((code, reason)) => {
                let code = u16::from_be_bytes(*code);
                let Ok(reason) = Utf8Bytes::try_from(Bytes::copy_from_slice(reason)) else {
                    return Received::Broken(FrameFault::NotText);
                };
                if !is_sendable(code) {
                    // A good-bye all the same. That its code says nothing is all that is said of it.
                    self.goodbye(Some(CloseFrame {
                        code: FrameFault::Protocol.close_code().into(),
                        reason: Utf8Bytes::default(),
                    }));
                    return Received::Closed(None);
                }
                Some(CloseFrame {
                    code: code.into(),
                    reason,
                })
            }
        };
        // The answer has the same code (RFC 6455, 5.5.1).
        self.goodbye(frame.as_ref().map(|frame| CloseFrame {
            code: frame.code,
            reason: Utf8Bytes::default(),
        }));
        Received::Closed(frame)
    }

    /// Appends a message of text to what is to be sent.
    ///
    /// # Errors
    ///
    /// If too much waits already, or a good-bye was said.
    pub fn send_text(&mut self, text: &str) -> Result<(), Unsendable> {
        self.put(TEXT, text.as_bytes())
    }

    /// Appends a message of bytes to what is to be sent.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::send_text`].
    pub fn send_binary(&mut self, bytes: &[u8]) -> Result<(), Unsendable> {
        self.put(BINARY, bytes)
    }

    /// Appends an empty ping to what is to be sent.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::send_text`].
    pub fn send_ping(&mut self) -> Result<(), Unsendable> {
        self.put(PING, &[])
    }

    fn put(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Unsendable> {
        if self.said_goodbye {
            return Err(Unsendable::Closed);
        }
        let is_too_much = |it: &Self| it.outbox.len() - it.n_sent + payload.len() > it.max_unsent;
        if is_too_much(self) {
            // Many messages of one wake-up may be more than a reading peer has to take at once. Nobody needs to be woken:
            // whoever sends flushes afterwards.
            let flushed = pin!(unconstrained(poll_fn(|cx| self.poll_flush(cx))));
            let _ = flushed.poll(&mut Context::from_waker(Waker::noop()));
            if is_too_much(self) {
                return Err(Unsendable::Full);
            }
        }
        self.put_frame(opcode, payload);
        Ok(())
    }

    fn put_frame(&mut self, opcode: u8, payload: &[u8]) {
        if self.cannot_send {
            return;
        }
        let masked = match self.role {
            Role::Client => MASKED,
            Role::Server => 0,
        };
        let outbox = buffer(&mut self.outbox);
        outbox.push(FINAL | opcode);
        match payload.len() {
            short @ 0..126 => outbox.push(masked | short as u8),
            middle @ 126..0x1_0000 => {
                outbox.push(masked | 126);
                outbox.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                outbox.push(masked | 127);
                outbox.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        if self.role == Role::Server {
            return outbox.extend_from_slice(payload);
        }
        let key = new_mask();
        outbox.extend_from_slice(&key);
        let begin = outbox.len();
        outbox.extend_from_slice(payload);
        apply_mask(key, &mut outbox[begin..]);
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// If the connection is broken, now or before. What waits is forgotten then, and so is all that is yet to be put.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cannot_send {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let flushed = ready!(self.poll_outbox(cx));
        self.cannot_send = flushed.is_err();
        self.n_sent = 0;
        spare(&mut self.outbox);
        Poll::Ready(flushed)
    }

    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut transport = Pin::new(&mut self.transport);
        while self.n_sent < self.outbox.len() {
            let unsent = &self.outbox[self.n_sent..];
            let n = ready!(transport.as_mut().poll_write(cx, unsent))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.n_sent += n;
        }
        transport.poll_flush(cx)
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::poll_flush`].
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says good-bye, if that was not done, after all that waits to be sent.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub async fn close(&mut self, frame: Option<CloseFrame>) -> io::Result<()> {
        self.goodbye(frame);
        self.flush().await
    }

    /// Says good-bye and lets the peer read it: keeps the connection open for reading until the peer ends it, because
    /// closing over unread data would reset it.
    pub async fn leave(&mut self, frame: CloseFrame) {
        // Errors mean that there is nobody left to say good-bye to.
        if self.close(Some(frame)).await.is_err() {
            return;
        }
        let transport = self.transport.transport();
        if transport.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 1024];
        while matches!(transport.read(&mut rest).await, Ok(n) if n > 0) {}
    }

    fn goodbye(&mut self, frame: Option<CloseFrame>) {
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        let mut payload = Vec::new();
        if let Some(frame) = frame {
            payload.extend_from_slice(&u16::from(frame.code).to_be_bytes());
            let room = MAX_CONTROL - payload.len();
            let end = frame.reason.floor_char_boundary(room);
            payload.extend_from_slice(&frame.reason.as_bytes()[..end]);
        }
        self.put_frame(CLOSE, &payload);
    }

    /// Has the runtime that calls it watch the socket.
    pub(crate) fn move_here(&mut self) {
        self.transport.transport().move_here();
    }

    /// When any byte was last read.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.transport.heard_at()
    }

    /// When the message that is under way must be complete; `None` if there is none.
    #[must_use]
    pub fn message_deadline(&self) -> Option<Instant> {
        self.transport.message_deadline()
    }

    /// Nobody wanted to read until now, for which the peer cannot be blamed.
    pub fn was_unread(&mut self) {
        self.transport.was_unread();
    }
}

/// The same with memory to spare, if there is any.
fn buffer(own: &mut Vec<u8>) -> &mut Vec<u8> {
    if own.capacity() == 0 {
        *own = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
    own
}

/// Empties it and leaves its memory to others.
fn spare(own: &mut Vec<u8>) {
    let mut buffer = std::mem::take(own);
    if (1..=MAX_SPARE_BYTES).contains(&buffer.capacity()) {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.push(buffer);
            }
        });
    }
}

fn message(opcode: u8, payload: Bytes) -> Received {
    if opcode == BINARY {
        return Received::Binary(payload);
    }
    Utf8Bytes::try_from(payload).map_or(Received::Broken(FrameFault::NotText), Received::Text)
}

/// Whether an endpoint may send that close code (RFC 6455, 7.4).
pub(crate) fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Masks, or unmasks (RFC 6455, 5.3).
fn apply_mask(key: [u8; 4], bytes: &mut [u8]) {
    const BLOCK: usize = 16;
    let mut block = [0; BLOCK];
    for (n, byte) in block.iter_mut().enumerate() {
        *byte = key[n % key.len()];
    }
    let (blocks, rest) = bytes.as_chunks_mut::<BLOCK>();
    for bytes in blocks {
        for (byte, key) in bytes.iter_mut().zip(block) {
            *byte ^= key;
        }
    }
    for (byte, key) in rest.iter_mut().zip(block) {
        *byte ^= key;
    }
}

/// A mask that nobody can foresee (RFC 6455, 10.3): the system's random bytes, many at a time.
fn new_mask() -> [u8; 4] {
    const AT_ONCE: usize = 256;
    MASKS.with_borrow_mut(|masks| {
        if masks.is_empty() {
            let mut bytes = [0; 4 * AT_ONCE];
            // Where the system has none, masks are merely different from each other.
            if getrandom::fill(&mut bytes).is_err() {
                fastrand::fill(&mut bytes);
            }
            masks.extend_from_slice(bytes.as_chunks().0);
        }
        masks.pop().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, SinkExt, StreamExt};
    use proptest::prelude::*;
    use tokio::io::DuplexStream;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role as TheirRole;

    use super::super::meter::{Peer, Rate};
    use super::*;

    const RATE: Rate = Rate {
        per_second: 1_000_000,
        burst: 1_000_000,
    };

    fn limits(from: Peer) -> FrameLimits {
        FrameLimits {
            from,
            max_message: 1 << 20,
            max_fragments: 100,
            control: RATE,
            messages: Some(RATE),
            message_timeout: Duration::from_secs(10),
        }
    }

    /// Our side and the peer's bytes.
    fn pair(role: Role) -> (WebSocket, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 22);
        let meter = FrameMeter::new(limits(match role {
            Role::Client => Peer::Server,
            Role::Server => Peer::Client,
        }));
        let ours = Transport::Memory(ours);
        (
            WebSocket::new(ours, role, meter, Bytes::new(), 1 << 21),
            theirs,
        )
    }

    #[derive(Clone, Debug)]
    struct Frame {
        opcode: u8,
        is_final: bool,
        payload: Vec<u8>,
    }

    impl Frame {
        fn bytes(&self, is_masked: bool) -> Vec<u8> {
            let mut bytes = vec![if self.is_final { FINAL } else { 0 } | self.opcode];
            let masked = if is_masked { MASKED } else { 0 };
            match self.payload.len() {
                short @ 0..126 => bytes.push(masked | short as u8),
                middle @ 126..0x1_0000 => {
                    bytes.push(masked | 126);
                    bytes.extend((middle as u16).to_be_bytes());
                }
                long => {
                    bytes.push(masked | 127);
                    bytes.extend((long as u64).to_be_bytes());
                }
            }
            if is_masked {
                let key = [0x12, 0x9A, 0xF0, 0x47];
                bytes.extend(key);
                let payload = self.payload.iter().enumerate();
                bytes.extend(payload.map(|(n, byte)| byte ^ key[n % 4]));
            } else {
                bytes.extend(&self.payload);
            }
            bytes
        }
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let any_size = prop_oneof![
            8 => 0_usize..300,
            1 => 60_000_usize..70_000,
        ];
        any_size.prop_flat_map(|n| {
            prop_oneof![
                prop::collection::vec(b'a'..=b'z', n..=n),
                "\\PC{0,40}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), n.min(20)..=n.min(20)),
            ]
        })
    }

    /// A message in fragments, with control frames between them.
    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let control = (prop_oneof![Just(PING), Just(PONG)], "\\PC{0,20}");
        let part = (payload(), prop::option::of(control));
        (
            prop_oneof![Just(TEXT), Just(BINARY)],
            prop::collection::vec(part, 1..4),
        )
            .prop_map(|(kind, parts)| {
                let n_parts = parts.len();
                let mut frames = Vec::new();
                for (n, (payload, control)) in parts.into_iter().enumerate() {
                    frames.push(Frame {
                        opcode: if n == 0 { kind } else { CONTINUATION },
                        is_final: n + 1 == n_parts,
                        payload,
                    });
                    frames.extend(control.map(|(opcode, payload)| Frame {
                        opcode,
                        is_final: true,
                        payload: payload.into_bytes(),
                    }));
                }
                frames
            })
    }

    /// A good-bye with any code and reason.
    fn goodbye() -> impl Strategy<Value = Option<Frame>> {
        // The library does not know 1014, which is registered since 2012 (RFC 6455, 11.7).
        let code = prop_oneof![1000_u16..1020, 2999_u16..3002, any::<u16>()];
        let code = code.prop_filter("known to both", |code| *code != 1014);
        let body = (code, prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(code, reason)| {
            let mut payload = code.to_be_bytes().to_vec();
            payload.extend(reason);
            payload
        });
        let payload = prop_oneof![Just(Vec::new()), Just(vec![3]), body];
        prop::option::of(payload.prop_map(|payload| Frame {
            opcode: CLOSE,
            is_final: true,
            payload,
        }))
    }

    /// What the library hears in the same bytes, as far as we tell it.
    async fn as_the_library_has_it(bytes: &[u8], role: Role) -> Vec<Received> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 22);
        theirs.write_all(bytes).await.unwrap();
        let role = match role {
            Role::Client => TheirRole::Client,
            Role::Server => TheirRole::Server,
        };
        let mut socket = WebSocketStream::from_raw_socket(ours, role, None).await;
        let mut received = Vec::new();
        while let Some(next) = socket.next().now_or_never() {
            received.push(match next {
                Some(Ok(Message::Text(text))) => Received::Text(text),
                Some(Ok(Message::Binary(bytes))) => Received::Binary(bytes),
                // This is what it makes of a code that nobody may send.
                Some(Ok(Message::Close(Some(frame)))) if &*frame.reason == "Protocol violation" => {
                    Received::Closed(None)
                }
                Some(Ok(Message::Close(frame))) => Received::Closed(frame),
                Some(Ok(_)) => Received::SignOfLife,
                Some(Err(_)) => Received::Broken(FrameFault::Protocol),
                None => Received::Gone,
            });
            if received.last().is_some_and(Received::is_end) {
                break;
            }
        }
        received
    }

    proptest! {
        #[test]
        fn it_hears_what_the_library_hears_however_it_is_cut(
            messages in prop::collection::vec(frames(), 0..6),
            goodbye in goodbye(),
            cuts in prop::collection::vec(1_usize..3_000, 1..20),
            role in prop_oneof![Just(Role::Client), Just(Role::Server)],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // As many reads as there are bytes, in one poll: the runtime would have the task rest in between.
            runtime.block_on(tokio::task::coop::unconstrained(async {
                let frames = messages.iter().flatten().chain(&goodbye);
                let bytes: Vec<u8> = frames.flat_map(|it| it.bytes(role == Role::Server)).collect();
                let (mut socket, mut peer) = pair(role);
                let mut received = Vec::new();
                let mut left = &bytes[..];
                for n in cuts.iter().cycle() {
                    let (part, rest) = left.split_at(left.len().min(*n));
                    left = rest;
                    peer.write_all(part).await.unwrap();
                    while let Some(next) = socket.next().now_or_never() {
                        received.push(match next {
                            Received::Broken(_) => Received::Broken(FrameFault::Protocol),
                            next => next,
                        });
                        if received.last().is_some_and(Received::is_end) {
                            break;
                        }
                    }
                    if left.is_empty() || received.last().is_some_and(Received::is_end) {
                        break;
                    }
                }
                assert_eq!(received, as_the_library_has_it(&bytes, role).await);
            }));
        }

        #[test]
        fn the_library_hears_what_is_sent(
            payloads in prop::collection::vec(payload(), 1..8),
            role in prop_oneof![Just(Role::Client), Just(Role::Server)],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut socket, peer) = pair(role);
                let their_role = match role {
                    Role::Client => TheirRole::Server,
                    Role::Server => TheirRole::Client,
                };
                let mut peer = WebSocketStream::from_raw_socket(peer, their_role, None).await;
                for payload in &payloads {
                    match str::from_utf8(payload) {
                        Ok(text) => socket.send_text(text).unwrap(),
                        Err(_) => socket.send_binary(payload).unwrap(),
                    }
                }
                socket.close(None).await.unwrap();
                for payload in payloads {
                    let message = peer.next().await.unwrap().unwrap();
                    assert_eq!(message.is_text(), str::from_utf8(&payload).is_ok());
                    assert_eq!(message.into_data(), payload);
                }
                assert_eq!(peer.next().await.unwrap().unwrap(), Message::Close(None));
            });
        }
    }

    #[tokio::test]
    async fn a_goodbye_is_answered_once_and_ends_all() {
        let (mut socket, peer) = pair(Role::Server);
        let mut peer = WebSocketStream::from_raw_socket(peer, TheirRole::Client, None).await;
        let frame = CloseFrame {
            code: 4001.into(),
            reason: "enough".into(),
        };
        peer.close(Some(frame.clone())).await.unwrap();
        assert_eq!(socket.next().await, Received::Closed(Some(frame)));
        assert_eq!(socket.next().await, Received::Gone);
        assert_eq!(socket.send_text("late"), Err(Unsendable::Closed));
        let ours = CloseFrame {
            code: 1000.into(),
            reason: "late".into(),
        };
        let heard = async {
            let answer = peer.next().await.unwrap().unwrap();
            drop(peer);
            answer
        };
        let ((), answer) = tokio::join!(socket.leave(ours), heard);
        let Message::Close(Some(answer)) = answer else {
            panic!("{answer}");
        };
        assert_eq!((u16::from(answer.code), &*answer.reason), (4001, ""));
    }

    #[tokio::test]
    async fn a_long_goodbye_is_cut_between_characters() {
        let (mut socket, peer) = pair(Role::Server);
        let mut peer = WebSocketStream::from_raw_socket(peer, TheirRole::Client, None).await;
        let frame = CloseFrame {
            code: 1000.into(),
            reason: "\u{e4}".repeat(100).into(),
        };
        socket.close(Some(frame)).await.unwrap();
        let Message::Close(Some(heard)) = peer.next().await.unwrap().unwrap() else {
            panic!("no close frame");
        };
        assert_eq!(&*heard.reason, "\u{e4}".repeat(61));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_a_reader_makes_room() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let meter = FrameMeter::new(limits(Peer::Client));
        let ours = Transport::Memory(ours);
        let mut socket = WebSocket::new(ours, Role::Server, meter, Bytes::new(), 100);
        // 64 bytes are on their way, 96 wait.
        assert_eq!(socket.send_binary(&[1; 78]), Ok(()));
        assert_eq!(socket.send_binary(&[2; 78]), Ok(()));
        assert_eq!(socket.send_binary(&[3; 78]), Err(Unsendable::Full));
        let mut read = vec![0; 64];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(socket.send_binary(&[3; 60]), Ok(()));
        let mut rest = vec![0; 80 + 80 + 62 - 64];
        let (flushed, _) = tokio::join!(socket.flush(), theirs.read_exact(&mut rest));
        flushed.unwrap();
        assert!(!socket.has_unsent());
        assert_eq!(rest[rest.len() - 62..][..3], [FINAL | BINARY, 60, 3]);
    }

    #[tokio::test]
    async fn nothing_waits_for_a_connection_that_broke_and_what_came_is_heard() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let meter = FrameMeter::new(limits(Peer::Client));
        let ours = Transport::Memory(ours);
        let mut socket = WebSocket::new(ours, Role::Server, meter, Bytes::new(), 1_000);
        assert_eq!(socket.send_binary(&[1; 200]), Ok(()));
        // The frame's first 64 bytes are on their way.
        assert!(socket.flush().now_or_never().is_none());
        assert_eq!(socket.n_sent, 64);
        let last = Frame {
            opcode: TEXT,
            is_final: true,
            payload: b"bye".to_vec(),
        };
        theirs.write_all(&last.bytes(true)).await.unwrap();
        drop(theirs);
        for _ in 0..2 {
            assert!(socket.flush().await.is_err());
            assert!(!socket.has_unsent());
            assert_eq!(socket.outbox.capacity(), 0);
            // Reading tells of it.
            assert_eq!(socket.send_binary(&[2; 200]), Ok(()));
        }
        assert_eq!(socket.next().await, Received::Text("bye".into()));
        assert_eq!(socket.next().await, Received::Gone);
        assert!(socket.close(None).await.is_err());
    }

    #[tokio::test]
    async fn pings_are_answered_and_nothing_is_kept_when_all_is_taken() {
        let (mut socket, peer) = pair(Role::Server);
        let mut peer = WebSocketStream::from_raw_socket(peer, TheirRole::Client, None).await;
        peer.feed(Message::binary(vec![7; 200_000])).await.unwrap();
        peer.send(Message::Ping(Bytes::from_static(b"there?")))
            .await
            .unwrap();
        assert!(matches!(socket.next().await, Received::Binary(_)));
        assert_eq!(socket.next().await, Received::SignOfLife);
        assert_eq!(socket.inbox.capacity(), 0);
        socket.flush().await.unwrap();
        let pong = peer.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong(Bytes::from_static(b"there?")));
    }

    #[tokio::test]
    async fn a_byte_of_the_next_message_does_not_keep_the_last() {
        let (mut socket, mut peer) = pair(Role::Server);
        let frame = |n: usize| Frame {
            opcode: BINARY,
            is_final: true,
            payload: vec![1; n],
        };
        let (large, small) = (frame(1_000_000).bytes(true), frame(10).bytes(true));
        peer.write_all(&large).await.unwrap();
        peer.write_all(&small[..1]).await.unwrap();
        assert!(matches!(socket.next().await, Received::Binary(_)));
        for _ in 0..3 {
            assert_eq!(socket.next().now_or_never(), None);
            peer.write_all(&small[1..]).await.unwrap();
            peer.write_all(&small[..1]).await.unwrap();
            assert!(matches!(socket.next().await, Received::Binary(_)));
        }
        assert!(
            socket.inbox.capacity() <= READ,
            "{}",
            socket.inbox.capacity()
        );
    }

    #[tokio::test]
    async fn a_ping_is_answered_while_the_next_message_is_waited_for() {
        let (mut socket, peer) = pair(Role::Server);
        let mut peer = WebSocketStream::from_raw_socket(peer, TheirRole::Client, None).await;
        peer.send(Message::Ping(Bytes::new())).await.unwrap();
        assert_eq!(socket.next().await, Received::SignOfLife);
        assert_eq!(socket.next().now_or_never(), None);
        let pong = peer.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(pong, Message::Pong(Bytes::new()));
    }

    #[tokio::test]
    async fn a_head_that_the_meter_does_not_follow_is_refused() {
        let check = async |begin: &str, end: &str, is_good: bool| {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let request = http::Request::get("ws://host/")
                .header("host", "host")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(())
                .unwrap();
            let answer = format!(
                "{begin}HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo={end}"
            );
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs
                .write_all(&[FINAL | TEXT, 2, b'h', b'i'])
                .await
                .unwrap();
            let limits = limits(Peer::Server);
            let dialled = WebSocket::dial(Transport::Memory(ours), request, limits, 100).await;
            match dialled {
                Ok(mut socket) => {
                    assert!(is_good, "{begin:?} {end:?}");
                    assert_eq!(socket.next().await, Received::Text("hi".into()));
                }
                Err(error) => assert!(!is_good, "{begin:?} {end:?}: {error}"),
            }
        };
        check("", "\r\n\r\n", true).await;
        check("\r\n", "\r\n\r\n", false).await;
        check("", "\n\n", false).await;
    }

    #[test]
    fn masks_differ() {
        let masks: std::collections::BTreeSet<_> = (0..1000).map(|_| new_mask()).collect();
        assert!(masks.len() > 990);
    }
}
