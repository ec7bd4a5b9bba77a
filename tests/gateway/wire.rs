//! Peers that do exactly as they are told: a caller that writes frames by hand, and a deployment without a mind.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use crate::harness::World;

/// Patience with a peer, in simulated time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The head of an upgrade request for this target, with more header lines before its end.
pub(crate) fn upgrade_request(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// Something that a caller was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close { code: u16, reason: String },
    Gone,
}

/// A caller that can break every rule of the WebSocket protocol.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: DuplexStream,
    /// The head of the answer to the upgrade.
    pub(crate) answer: String,
}

impl Wire {
    /// A caller whose upgrade was answered with 101.
    pub(crate) async fn open(world: &World, target: &str) -> Self {
        Self::open_with(world, target, "").await
    }

    /// A caller that was let in, or the head of the answer that turned it away.
    pub(crate) async fn try_open(world: &World, target: &str) -> Result<Self, String> {
        let wire = Self::ask(world, target, "").await;
        if wire.answer.starts_with("HTTP/1.1 101 ") {
            Ok(wire)
        } else {
            Err(wire.answer)
        }
    }

    /// The same, with more header lines.
    pub(crate) async fn open_with(world: &World, target: &str, more: &str) -> Self {
        let wire = Self::ask(world, target, more).await;
        let answer = &wire.answer;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        wire
    }

    async fn ask(world: &World, target: &str, more: &str) -> Self {
        let mut stream = world.connect();
        let request = upgrade_request(target, more);
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let answer = String::from_utf8(head).expect("a head is ASCII");
        Self { stream, answer }
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes()).await;
    }

    pub(crate) async fn binary(&mut self, bytes: &[u8]) {
        self.frame(0x82, bytes).await;
    }

    /// One masked frame with this first byte.
    pub(crate) async fn frame(&mut self, first: u8, payload: &[u8]) {
        self.raw(&frame(first, payload)).await;
    }

    /// Bytes as they are. A gateway that has hung up takes none, which reading will tell.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The connection itself.
    pub(crate) fn into_stream(self) -> DuplexStream {
        self.stream
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Heard {
        match timeout(PATIENCE, self.read()).await {
            Ok(heard) => heard.unwrap_or(Heard::Gone),
            Err(_) => panic!("nothing came for {PATIENCE:?}"),
        }
    }

    /// The next frame but pings, which are answered as the protocol wants it.
    async fn read(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = self.read_frame().await? {
                return Some(heard);
            }
        }
    }

    async fn read_frame(&mut self) -> Option<Option<Heard>> {
        let first = self.stream.read_u8().await.ok()?;
        let length = match self.stream.read_u8().await.ok()? {
            126 => u64::from(self.stream.read_u16().await.ok()?),
            127 => self.stream.read_u64().await.ok()?,
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).expect("fits")];
        self.stream.read_exact(&mut payload).await.ok()?;
        if first == 0x89 {
            self.frame(0x8A, &payload).await;
            return Some(None);
        }
        Some(Some(match first {
            0x81 => Heard::Text(String::from_utf8(payload).expect("UTF-8")),
            0x82 => Heard::Binary(payload),
            0x8A => Heard::Pong(payload),
            0x88 => {
                let (code, reason) = payload.split_at_checked(2).unwrap_or((&[3, 237], &[]));
                Heard::Close {
                    code: u16::from_be_bytes([code[0], code[1]]),
                    reason: String::from_utf8(reason.to_vec()).expect("UTF-8"),
                }
            }
            _ => panic!("the gateway sent a frame that begins with {first:#x}"),
        }))
    }

    /// The close frame's code and reason, and all JSON texts before it.
    pub(crate) async fn until_close(&mut self) -> (Option<(u16, String)>, Vec<Value>) {
        let mut texts = Vec::new();
        loop {
            match self.next().await {
                Heard::Text(text) => texts.push(serde_json::from_str(&text).expect("JSON")),
                Heard::Binary(_) | Heard::Pong(_) => {}
                Heard::Close { code, reason } => return (Some((code, reason)), texts),
                Heard::Gone => return (None, texts),
            }
        }
    }

    /// The next event as JSON.
    pub(crate) async fn event(&mut self) -> Value {
        match self.next().await {
            Heard::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("an event was expected, not {other:?}"),
        }
    }

    /// Events up to and with the first of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            let found = event["type"] == kind;
            events.push(event);
            if found {
                return events;
            }
        }
    }

    pub(crate) async fn send(&mut self, event: Value) {
        self.text(&event.to_string()).await;
    }

    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        self.frame(0x88, &payload).await;
    }
}

/// One masked frame with this first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// A deployment without a mind of its own.
pub(crate) struct Deployment {
    pub(crate) socket: WebSocketStream<DuplexStream>,
}

impl Deployment {
    /// Takes the next connection and opens the session with this event.
    pub(crate) async fn accept(accepted: &mut Receiver<DuplexStream>, first: &str) -> Self {
        let stream = accepted.recv().await.expect("a connection");
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let socket = accept_async_with_config(stream, Some(config)).await;
        let mut socket = socket.expect("an upgrade");
        socket.send(Message::text(first)).await.expect("sent");
        Self { socket }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// The next text.
    pub(crate) async fn text(&mut self) -> String {
        match timeout(PATIENCE, self.socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => text.as_str().to_owned(),
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    /// The close frame's code and reason, after whatever else comes.
    pub(crate) async fn until_close(&mut self) -> Option<(u16, String)> {
        while let Ok(Some(Ok(message))) = timeout(PATIENCE, self.socket.next()).await {
            if let Message::Close(frame) = message {
                let frame = frame?;
                return Some((frame.code.into(), frame.reason.as_str().to_owned()));
            }
        }
        None
    }

    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.socket.close(Some(frame)).await.expect("closed");
    }
}

/// A `session.created` as small as can be.
pub(crate) fn session_created() -> String {
    json!({"type": "session.created", "event_id": "e0", "session": {"id": "sess_scripted", "type": "realtime"}})
        .to_string()
}

/// The socket of a caller that keeps to the rules but reads only when told to.
pub(crate) async fn polite(wire: Wire) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(wire.stream, Role::Client, None).await
}
