//! AudioSocket, Asterisk's side of it (telephony reference 9.6), and the line that carries its packets.
//!
//! Begins with a UUID, which is the phone's key, or one of nobody. It is strict as Asterisk is: any kind but hang-up
//! and its own audio is a violation, and so is audio without bytes. It has no queue: what comes is heard at once, and a
//! second of it waiting is a violation too. After the gateway's hang-up it closes. The line is never quiet, so a reply is
//! what lies between longer stretches of silence.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::phone_codec::{decode, encode};
use super::phone_dialect::{FarEnd, Heard, Setting};
use trunkline_media::{AudioFormat, Codec, SampleRate};

#[derive(Debug)]
pub(crate) struct AudioSocketWire {
    uuid: [u8; 16],
    rate: SampleRate,
    /// Packets of nothing but silence in a row.
    n_silent: usize,
    /// The reply that is heard now, from 1.
    reply: usize,
}

/// So many silent packets are part of a reply; what follows is what fills the line between two.
const PAUSE: usize = 15;

impl AudioSocketWire {
    /// Whatever the codec that is asked for, it is PCM16.
    pub(crate) fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let key = setting.api_key.as_ref();
        let digits = key.map(|key| key.reveal().replace('-', ""));
        let number = digits.and_then(|digits| u128::from_str_radix(&digits, 16).ok());
        Self {
            uuid: number.unwrap_or_else(|| random.u128(..)).to_be_bytes(),
            rate: setting.format.rate,
            n_silent: PAUSE,
            reply: 0,
        }
    }

    fn kind(&self) -> u8 {
        match self.rate {
            SampleRate::HZ_12000 => 0x11,
            SampleRate::HZ_16000 => 0x12,
            SampleRate::HZ_24000 => 0x13,
            SampleRate::HZ_32000 => 0x14,
            SampleRate::HZ_44100 => 0x15,
            SampleRate::HZ_48000 => 0x16,
            _ => 0x10,
        }
    }

    fn heard(&self, samples: Vec<i16>) -> Heard {
        Heard::Audio {
            samples,
            item: Some(self.reply.saturating_sub(1)),
        }
    }

    fn read(&mut self, packet: &[u8]) -> Result<Vec<Heard>, String> {
        match packet {
            [0, 0, 0] => Ok(vec![
                Heard::End {
                    reason: "hang-up".to_owned(),
                },
                Heard::HangUp,
            ]),
            [kind, _, _, audio @ ..] if *kind == self.kind() && !audio.is_empty() => {
                let samples = decode(Codec::Pcm16, audio).map_err(|e| e.to_string())?;
                if samples.iter().all(|sample| *sample == 0) {
                    self.n_silent += 1;
                    if self.n_silent > PAUSE {
                        return Ok(Vec::new());
                    }
                    return Ok(vec![self.heard(samples)]);
                }
                let begins = self.n_silent >= PAUSE;
                self.reply += usize::from(begins);
                self.n_silent = 0;
                // The last packet of what filled the line is still being played when a reply begins.
                let before = begins.then(|| self.heard(vec![0; samples.len()]));
                let reply = self.heard(samples);
                Ok(before.into_iter().chain([reply]).collect())
            }
            _ => Err(format!(
                "a packet that Asterisk does not take: {:?} of {} bytes",
                packet.first(),
                packet.len()
            )),
        }
    }
}

fn packet(kind: u8, payload: &[u8]) -> Message {
    let length = u16::try_from(payload.len()).expect("a frame").to_be_bytes();
    Message::binary([&[kind], length.as_slice(), payload].concat())
}

impl FarEnd for AudioSocketWire {
    fn shows_key(&self) -> bool {
        true
    }

    fn opening(&mut self) -> Vec<Message> {
        vec![packet(0x01, &self.uuid)]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some("audiosocket".to_owned())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        Some(packet(self.kind(), &bytes))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(packet(0x03, &[u8::try_from(digit).ok()?]))
    }

    fn farewell(&mut self) -> Option<Message> {
        Some(packet(0x00, &[]))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let Message::Binary(bytes) = message else {
            return Vec::new();
        };
        self.read(bytes)
            .unwrap_or_else(|violation| vec![Heard::Violation(violation)])
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        Some((Duration::from_secs(1), "Asterisk has no queue"))
    }
}

/// Packets over a stream as if they were messages: a close frame is the end of the stream, a text is sent as it is.
#[derive(Debug)]
pub(crate) struct PacketLine<S> {
    stream: S,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    is_closing: bool,
    is_over: bool,
}

impl<S> PacketLine<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
            is_closing: false,
            is_over: false,
        }
    }

    fn take_packet(&mut self) -> Option<Message> {
        let [_, high, low, ..] = *self.inbox else {
            return None;
        };
        let length = 3 + usize::from(u16::from_be_bytes([high, low]));
        if self.inbox.len() < length {
            return None;
        }
        Some(Message::binary(
            self.inbox.drain(..length).collect::<Vec<_>>(),
        ))
    }
}

impl<S: AsyncRead + Unpin> Stream for PacketLine<S> {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let line = self.get_mut();
        loop {
            if line.is_over {
                return Poll::Ready(None);
            }
            if let Some(message) = line.take_packet() {
                return Poll::Ready(Some(Ok(message)));
            }
            let mut chunk = [0; 4096];
            let mut buf = ReadBuf::new(&mut chunk);
            let read = ready!(Pin::new(&mut line.stream).poll_read(cx, &mut buf));
            line.is_over = read.is_err() || buf.filled().is_empty();
            match read {
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
                Ok(()) if line.is_over => return Poll::Ready(Some(Ok(Message::Close(None)))),
                Ok(()) => line.inbox.extend_from_slice(buf.filled()),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Sink<Message> for PacketLine<S> {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), WsError> {
        let line = self.get_mut();
        match message {
            Message::Close(_) => line.is_closing = true,
            message => line.outbox.extend_from_slice(&message.into_data()),
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let line = self.get_mut();
        while !line.outbox.is_empty() {
            let n = ready!(Pin::new(&mut line.stream).poll_write(cx, &line.outbox))?;
            line.outbox.drain(..n);
        }
        ready!(Pin::new(&mut line.stream).poll_flush(cx))?;
        if line.is_closing {
            ready!(Pin::new(&mut line.stream).poll_shutdown(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Shape;
    use super::super::phone_dialect::ApiKey;
    use super::*;

    fn wire(format: AudioFormat) -> AudioSocketWire {
        let uuid = "40325ec2-5efd-4bd3-805f-53576e581d13";
        AudioSocketWire::new(Setting {
            uri: "ws://a/audiosocket".parse().unwrap(),
            shape: Shape::Ga,
            format,
            api_key: Some(ApiKey::new(uuid.to_owned())),
            client_secret: None,
            parameters: [].into(),
            instructions: None,
            seed: 1,
        })
    }

    /// The bytes of telephony reference 9.6.
    #[test]
    fn says_what_asterisk_says() {
        let mut wire = wire(AudioFormat::MODEL_PCM);
        let first = wire.opening().remove(0).into_data();
        assert_eq!(first[..5], [0x01, 0x00, 0x10, 0x40, 0x32]);
        let audio = wire.audio(&[0; 480]).unwrap().into_data();
        assert_eq!((&audio[..3], audio.len()), (&[0x13, 0x03, 0xC0][..], 963));
        let key = wire.dtmf('5').unwrap().into_data();
        assert_eq!(key[..], [0x03, 0x00, 0x01, 0x35]);
    }

    #[test]
    fn takes_what_asterisk_takes_and_nothing_else() {
        let mut wire = wire(AudioFormat::ULAW_8K);
        let mut is_taken = |bytes: &[u8]| {
            let heard = wire.receive(&Message::binary(bytes.to_vec()));
            !matches!(heard[..], [Heard::Violation(_)])
        };
        assert!(is_taken(&[0, 0, 0]));
        assert!(is_taken(&[0x10, 0, 2, 1, 0]));
        for bad in [&[0x10, 0, 0][..], &[0x12, 0, 2, 1, 0], &[3, 0, 1, 0x35]] {
            assert!(!is_taken(bad), "{bad:?}");
        }
    }
}
