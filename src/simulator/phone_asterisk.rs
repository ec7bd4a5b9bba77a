//! Asterisk's `chan_websocket`, Asterisk's side of it (telephony reference 9.1 to 9.5).
//!
//! Says what Asterisk says, in JSON, or in words where the address asks for `f=plain-text`. It is dialled with `n`, so
//! that the gateway has to answer, and strict: a command of more than 128 bytes, a message whose last frame is not
//! whole outside of `START_MEDIA_BUFFERING` and one of more than 65 500 bytes are violations, though Asterisk itself
//! would only log the first two. It never tells of marks that a flush dropped, and closes after `HANGUP`. Where the address
//! asks for `marks=none`, it is one of before 22.8, which only logs them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::CallCodec;
use super::phone_dialect::{FarEnd, Heard, Setting, excerpt};
use trunkline_media::{AudioFormat, Codec, SampleRate};

/// Longest command that is read (telephony reference 9.3).
const MAX_COMMAND_BYTES: usize = 128;

/// Largest message of audio (telephony reference 9.4).
const MAX_AUDIO_BYTES: usize = 65_500;

/// A thousand frames (telephony reference 9.4).
const MAX_QUEUED: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct AsteriskWire {
    channel_id: String,
    connection_id: String,
    variables: Value,
    format: AudioFormat,
    codec: CallCodec,
    is_plain: bool,
    knows_marks: bool,
    is_buffering: bool,
}

impl AsteriskWire {
    /// Of Opus, which Asterisk would only pass through, it makes slin24.
    pub(crate) fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let query = setting.uri.query().unwrap_or_default();
        let format = match setting.format.codec {
            Codec::Opus => AudioFormat::MODEL_PCM,
            _ => setting.format,
        };
        Self {
            channel_id: format!("1767225600.{}", random.u16(..)),
            connection_id: format!("{:032x}", random.u128(..)),
            variables: json!(setting.parameters),
            format,
            codec: CallCodec::new(format.codec).expect("no Opus"),
            is_plain: query.split('&').any(|pair| pair == "f=plain-text"),
            knows_marks: !query.split('&').any(|pair| pair == "marks=none"),
            is_buffering: false,
        }
    }

    fn name(&self) -> &'static str {
        match (self.format.codec, self.format.rate) {
            (Codec::Ulaw, _) => "ulaw",
            (Codec::Alaw, _) => "alaw",
            (Codec::G722, _) => "g722",
            (_, SampleRate::HZ_8000) => "slin",
            (_, SampleRate::HZ_12000) => "slin12",
            (_, SampleRate::HZ_16000) => "slin16",
            (_, SampleRate::HZ_32000) => "slin32",
            (_, SampleRate::HZ_44100) => "slin44",
            (_, SampleRate::HZ_48000) => "slin48",
            _ => "slin24",
        }
    }

    fn frame_bytes(&self) -> usize {
        let n_samples = self.format.rate.hz() as usize / 50;
        self.format.codec.bytes_of(n_samples).unwrap_or(n_samples)
    }

    /// An event with what it says besides the channel's id.
    fn event(&self, name: &str, says: &[(&str, Value)]) -> Message {
        let id = ("channel_id", json!(self.channel_id));
        let says = std::iter::once(&id).chain(says);
        if self.is_plain {
            let mut text = name.to_owned();
            for (name, value) in says.filter(|(_, value)| !value.is_object()) {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                text += &format!(" {name}:{value}");
            }
            return Message::text(text);
        }
        let mut event = json!({"event": name});
        for (name, value) in says {
            event[*name] = value.clone();
        }
        Message::text(event.to_string())
    }

    fn command(&mut self, text: &str) -> Result<Option<Heard>, String> {
        if text.len() > MAX_COMMAND_BYTES {
            return Err(format!("a command of {} bytes", text.len()));
        }
        let (command, id) = if self.is_plain {
            let (command, id) = text.split_once(' ').unwrap_or((text, ""));
            (command.to_owned(), id.to_owned())
        } else {
            let message: Value =
                serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
            let field = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
            (field("command"), field("correlation_id"))
        };
        Ok(match command.as_str() {
            "ANSWER" => Some(Heard::Answered {
                call_id: Some(self.channel_id.clone()),
            }),
            "HANGUP" => Some(Heard::HangUp),
            "MARK_MEDIA" if !self.knows_marks => None,
            "MARK_MEDIA" if !id.is_empty() => Some(Heard::Mark(id)),
            "FLUSH_MEDIA" => {
                self.is_buffering = false;
                Some(Heard::Clear)
            }
            "START_MEDIA_BUFFERING" | "STOP_MEDIA_BUFFERING" => {
                self.is_buffering = command.starts_with("START");
                None
            }
            _ => return Err(format!("no command that is taken: {}", excerpt(text))),
        })
    }

    fn read_audio(&mut self, bytes: &[u8]) -> Result<Heard, String> {
        let is_whole = bytes.len().is_multiple_of(self.frame_bytes()) || self.is_buffering;
        if bytes.is_empty() || bytes.len() > MAX_AUDIO_BYTES || !is_whole {
            return Err(format!("a message of {} bytes", bytes.len()));
        }
        let samples = self.codec.decode(bytes).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }
}

impl FarEnd for AsteriskWire {
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let media = HeaderValue::from_static("media");
        vec![(header::SEC_WEBSOCKET_PROTOCOL, media)]
    }

    fn opening(&mut self) -> Vec<Message> {
        let channel = format!("WebSocket/trunkline/{}", self.channel_id);
        vec![self.event(
            "MEDIA_START",
            &[
                ("connection_id", json!(self.connection_id)),
                ("channel", json!(channel)),
                ("format", json!(self.name())),
                ("optimal_frame_size", json!(self.frame_bytes())),
                ("ptime", json!(20)),
                ("channel_variables", self.variables.clone()),
            ],
        )]
    }

    fn format(&self) -> AudioFormat {
        self.format
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = self.codec.encode(samples);
        Some(Message::binary(bytes))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(self.event("DTMF_END", &[("digit", json!(digit.to_string()))]))
    }

    fn mark(&mut self, name: &str, was_played: bool) -> Option<Message> {
        if !was_played {
            return None;
        }
        if self.is_plain {
            return Some(Message::text(format!("MEDIA_MARK_PROCESSED {name}")));
        }
        Some(self.event("MEDIA_MARK_PROCESSED", &[("correlation_id", json!(name))]))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.command(text),
            Message::Binary(bytes) => self.read_audio(bytes).map(Some),
            _ => return Vec::new(),
        };
        match heard {
            Ok(heard) => heard.into_iter().collect(),
            Err(violation) => vec![Heard::Violation(violation)],
        }
    }

    fn most_queued(&self) -> Option<(Duration, &'static str)> {
        Some((MAX_QUEUED, "its queue holds 1000 frames"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Shape;
    use super::*;

    fn wire(url: &str, format: AudioFormat) -> AsteriskWire {
        AsteriskWire::new(Setting {
            uri: url.parse().unwrap(),
            shape: Shape::Ga,
            format,
            api_key: None,
            client_secret: None,
            parameters: [("QUEUE".to_owned(), "billing".to_owned())].into(),
            instructions: None,
            seed: 1,
        })
    }

    const PLAIN: &str = "ws://a/asterisk/media/desk?f=plain-text";

    #[test]
    fn says_what_asterisk_says() {
        let mut json = wire("ws://a/asterisk/media/desk", AudioFormat::MODEL_PCM);
        let start: Value = serde_json::from_str(json.opening()[0].to_text().unwrap()).unwrap();
        assert_eq!(start["format"], "slin24");
        assert_eq!(start["optimal_frame_size"], 960);
        assert_eq!(start["channel_variables"]["QUEUE"], "billing");
        assert_eq!(json.mark("g0-1", false), None);
        let mut plain = wire(PLAIN, AudioFormat::ULAW_8K);
        let start = plain.opening().remove(0);
        let start = start.to_text().unwrap();
        assert!(start.ends_with(" format:ulaw optimal_frame_size:160 ptime:20"));
        assert_eq!(
            plain.mark("g0-1", true).unwrap().to_text().unwrap(),
            "MEDIA_MARK_PROCESSED g0-1"
        );
    }

    #[test]
    fn takes_what_asterisk_takes_and_nothing_else() {
        let mut wire = wire(PLAIN, AudioFormat::ULAW_8K);
        let mut is_taken = |message: Message| {
            let heard = wire.receive(&message);
            !matches!(heard[..], [Heard::Violation(_)])
        };
        assert!(is_taken(Message::text("MARK_MEDIA g0-1")));
        assert!(is_taken(Message::binary(vec![0; 320])));
        assert!(!is_taken(Message::binary(vec![0; 161])));
        assert!(is_taken(Message::text("START_MEDIA_BUFFERING")));
        assert!(is_taken(Message::binary(vec![0; 161])));
        assert!(is_taken(Message::text("FLUSH_MEDIA")));
        assert!(!is_taken(Message::binary(vec![0; 161])));
        for text in [
            "MARK_MEDIA",
            "hangup",
            "",
            &format!("MARK_MEDIA {:0128}", 1),
        ] {
            assert!(!is_taken(Message::text(text)), "{text}");
        }
    }
}
