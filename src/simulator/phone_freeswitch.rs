//! FreeSWITCH's `mod_audio_stream`, its side of it (telephony reference 10.1), in the edition that plays binary
//! messages by itself.
//!
//! Sends the metadata as its first text, then PCM16 at 8 kHz, or 16 kHz if the address says so. It plays what comes
//! and reports texts to the dialplan, which nothing here waits for: a text is a violation. A call ends by its close
//! frame alone.

use std::collections::BTreeMap;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{decode, encode};
use super::phone_dialect::{FarEnd, Heard, Setting};
use trunkline_media::{AudioFormat, Codec, SampleRate};

#[derive(Debug)]
pub(crate) struct FreeSwitchWire {
    rate: SampleRate,
    parameters: BTreeMap<String, String>,
}

impl FreeSwitchWire {
    pub(crate) fn new(setting: Setting) -> Self {
        let query = setting.uri.query().unwrap_or_default();
        Self {
            rate: match query.contains("rate=16000") {
                true => SampleRate::HZ_16000,
                false => SampleRate::HZ_8000,
            },
            parameters: setting.parameters,
        }
    }
}

impl FarEnd for FreeSwitchWire {
    fn opening(&mut self) -> Vec<Message> {
        vec![Message::text(json!(self.parameters).to_string())]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some("freeswitch".to_owned())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat {
            codec: Codec::Pcm16,
            rate: self.rate,
        }
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        Some(Message::binary(bytes))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let samples = match message {
            Message::Binary(bytes) => decode(Codec::Pcm16, bytes).map_err(|e| e.to_string()),
            Message::Text(_) => Err("a text, which nobody reads".to_owned()),
            _ => return Vec::new(),
        };
        let heard = samples.map(|samples| Heard::Audio {
            samples,
            item: None,
        });
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}
