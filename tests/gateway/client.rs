//! A client of the `audio` dialect that does exactly what a test says, 20 ms at a time.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use trunkline::simulator::wav::Clip;

/// 20 ms.
pub(crate) const FRAME: Duration = Duration::from_millis(20);

/// Bytes of 20 ms in [`Client::start_pcm`]'s format.
pub(crate) const FRAME_BYTES: usize = 320;

/// Something that the client received.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Audio(Vec<u8>),
    Text(Value),
    /// The close code, 1006 without a close frame.
    Closed(u16),
}

impl What {
    pub(crate) fn is(&self, kind: &str) -> bool {
        matches!(self, Self::Text(value) if value["type"] == kind)
    }
}

pub(crate) struct Client {
    socket: WebSocketStream<DuplexStream>,
    /// Everything received, oldest first.
    pub(crate) seen: Vec<Seen>,
}

impl Client {
    /// Opens the socket and says nothing.
    pub(crate) async fn connect(stream: DuplexStream, agent: &str) -> Self {
        let url = format!("ws://gateway/v1/audio/{agent}");
        let (socket, _) = client_async(url, stream).await.expect("an upgrade");
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// Begins a call of PCM16 at 8 kHz.
    pub(crate) async fn start_pcm(&mut self) {
        self.start("pcm16", 8_000).await;
    }

    pub(crate) async fn start(&mut self, codec: &str, rate: u32) {
        let format = json!({"codec": codec, "rate": rate});
        self.text(&json!({"type": "start", "format": format})).await;
    }

    pub(crate) async fn text(&mut self, value: &Value) {
        self.send(Message::text(value.to_string())).await;
    }

    pub(crate) async fn audio(&mut self, frame: Vec<u8>) {
        self.send(Message::binary(frame)).await;
    }

    /// Says one frame and listens until the next is due.
    pub(crate) async fn tick(&mut self, frame: Vec<u8>) {
        self.audio(frame).await;
        self.listen(FRAME).await;
    }

    /// Sends so much silence in real time, listening.
    pub(crate) async fn silence(&mut self, duration: Duration) {
        for _ in 0..duration.as_millis() / FRAME.as_millis() {
            self.tick(vec![0; FRAME_BYTES]).await;
        }
    }

    /// Speaks in real time, listening.
    pub(crate) async fn say(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.tick(frame.clone()).await;
        }
    }

    /// Receives for so long, or until the other side closes.
    pub(crate) async fn listen(&mut self, duration: Duration) {
        let until = Instant::now() + duration;
        while !self.is_closed() {
            let Ok(received) = timeout_at(until, self.socket.next()).await else {
                return;
            };
            let what = match received {
                Some(Ok(Message::Binary(bytes))) => What::Audio(bytes.to_vec()),
                Some(Ok(Message::Text(text))) => {
                    What::Text(serde_json::from_str(&text).expect("JSON"))
                }
                Some(Ok(Message::Close(frame))) => {
                    What::Closed(frame.map_or(1005, |frame| frame.code.into()))
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => What::Closed(1006),
            };
            let at = Instant::now();
            self.seen.push(Seen { at, what });
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.close_code().is_some()
    }

    pub(crate) fn close_code(&self) -> Option<u16> {
        self.seen.iter().find_map(|seen| match seen.what {
            What::Closed(code) => Some(code),
            _ => None,
        })
    }

    /// The reason in the gateway's `end` message.
    pub(crate) fn end_reason(&self) -> Option<&str> {
        let end = self.seen.iter().find(|seen| seen.what.is("end"))?;
        match &end.what {
            What::Text(value) => value["reason"].as_str(),
            _ => None,
        }
    }

    /// How much of the reply had sounded at `at`, if it began to sound when it came and runs in real
    /// time: of all audio between the last `clear` before index `until` and that index.
    pub(crate) fn played(&self, until: usize, at: Instant) -> Duration {
        let seen = &self.seen[..until];
        let begin = seen.iter().rposition(|seen| seen.what.is("clear"));
        let mut total = Duration::ZERO;
        let mut end: Option<Instant> = None;
        for seen in &seen[begin.map_or(0, |n| n + 1)..] {
            if let What::Audio(bytes) = &seen.what {
                let duration = FRAME * (bytes.len() / FRAME_BYTES) as u32;
                end = Some(end.map_or(seen.at, |end| end.max(seen.at)) + duration);
                total += duration;
            }
        }
        let unplayed = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(at));
        total.saturating_sub(unplayed)
    }

    /// Hangs up by just ending the connection.
    pub(crate) fn vanish(self) {
        drop(self);
    }

    async fn send(&mut self, message: Message) {
        if !self.is_closed() {
            // A peer that is gone shows when listening.
            let _ = self.socket.send(message).await;
        }
    }
}

/// A clip as messages of 20 ms PCM16 at 8 kHz.
pub(crate) fn pcm_frames(clip: &Clip) -> Vec<Vec<u8>> {
    clip.at_rate(8_000)
        .samples
        .chunks(FRAME_BYTES / 2)
        .map(|samples| {
            let mut frame: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
            frame.resize(FRAME_BYTES, 0);
            frame
        })
        .collect()
}
