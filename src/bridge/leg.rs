//! One side of a call: a WebSocket whose sends never wait.
//!
//! What is sent goes into a bounded buffer, and the call's loop polls the flush, so that no leg can
//! stall the other. Messages of one wake-up leave in one write.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use crate::transport::Transport;

/// How long a closing handshake and the last bytes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Something that came in on a leg.
#[derive(Debug)]
pub(super) enum LegEvent {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// The peer said good-bye.
    Closed(Option<CloseFrame>),
    /// The connection ended without a good-bye.
    Gone,
    /// The peer broke the WebSocket protocol or a limit; the code says how.
    Broken {
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

#[derive(Debug)]
pub(super) struct Leg {
    socket: WebSocketStream<Transport>,
    unflushed: bool,
    blocked_since: Option<Instant>,
}

impl Leg {
    pub(super) fn new(socket: WebSocketStream<Transport>) -> Self {
        Self {
            socket,
            unflushed: false,
            blocked_since: None,
        }
    }

    /// The next message, pings and pongs left out: the library answers them.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<LegEvent> {
        loop {
            let event = match std::task::ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => LegEvent::Text(text),
                Some(Ok(Message::Binary(bytes))) => LegEvent::Binary(bytes),
                Some(Ok(Message::Close(frame))) => LegEvent::Closed(frame),
                Some(Ok(Message::Ping(_))) => {
                    self.unflushed = true;
                    continue;
                }
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => broken(&error),
                None => LegEvent::Gone,
            };
            return Poll::Ready(event);
        }
    }

    pub(super) fn send_text(&mut self, text: Utf8Bytes) -> Result<(), SendError> {
        self.send(Message::Text(text))
    }

    pub(super) fn send_binary(&mut self, bytes: Bytes) -> Result<(), SendError> {
        self.send(Message::Binary(bytes))
    }

    fn send(&mut self, message: Message) -> Result<(), SendError> {
        self.unflushed = true;
        match Pin::new(&mut self.socket).start_send(message) {
            Ok(()) => Ok(()),
            Err(WsError::WriteBufferFull(_)) => Err(SendError::Full),
            Err(_) => Err(SendError::Gone),
        }
    }

    /// Writes out what waits. Pending while the peer takes no more; a broken connection counts as
    /// written, since reading will tell of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unflushed {
            return Poll::Ready(());
        }
        if Pin::new(&mut self.socket).poll_flush(cx).is_pending() {
            self.blocked_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        self.unflushed = false;
        self.blocked_since = None;
        Poll::Ready(())
    }

    /// Since when the peer takes nothing.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Says good-bye and lets the peer read it: closes, waits for the answer, and keeps the connection
    /// open for reading until the peer ends it, because closing over unread data would reset it.
    pub(super) async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: Utf8Bytes::from(reason),
        };
        let closing = async {
            // Where the peer was first, the library refuses ours: its own answer only has to be written out.
            // Further errors mean that there is nobody left to say good-bye to.
            if self.socket.close(Some(frame)).await.is_err() && self.socket.flush().await.is_err() {
                return;
            }
            let transport = self.socket.get_mut();
            if transport.shutdown().await.is_err() {
                return;
            }
            let mut rest = [0; 1024];
            while matches!(transport.read(&mut rest).await, Ok(n) if n > 0) {}
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn broken(error: &WsError) -> LegEvent {
    match error {
        WsError::Utf8(_) => LegEvent::Broken { close_code: 1007 },
        WsError::Capacity(_) => LegEvent::Broken { close_code: 1009 },
        WsError::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => LegEvent::Gone,
        WsError::Protocol(_) => LegEvent::Broken { close_code: 1002 },
        _ => LegEvent::Gone,
    }
}
