//! Infobip's media stream, Infobip's side of it (telephony reference 3.4).
//!
//! What [`VonageWire`] says, but it takes nothing but frames of audio, and hangs up when none came for a while. How
//! long is not documented: five seconds here, so that a stall of the network passes. Silence that only fills the line
//! is no reply, and is not reported as one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use super::phone_dialect::{FarEnd, Heard};
use super::phone_vonage::VonageWire;
use trunkline_media::AudioFormat;

/// The longest time without audio.
const MAX_GAP: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct InfobipWire {
    line: VonageWire,
    now: Duration,
    /// When audio came last; nothing is expected before the first.
    last_audio: Option<Duration>,
}

impl InfobipWire {
    pub(crate) fn new(format: AudioFormat, parameters: BTreeMap<String, String>) -> Self {
        Self {
            line: VonageWire::new(format, parameters),
            now: Duration::ZERO,
            last_audio: None,
        }
    }
}

impl FarEnd for InfobipWire {
    fn opening(&mut self) -> Vec<Message> {
        self.line.opening()
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some("infobip".to_owned())
    }

    fn format(&self) -> AudioFormat {
        self.line.format()
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        self.line.audio(samples)
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        self.line.dtmf(digit)
    }

    fn due(&mut self, since: Duration) -> Vec<Heard> {
        self.now = since;
        match self.last_audio {
            Some(last) if since.saturating_sub(last) > MAX_GAP => {
                self.last_audio = None;
                let text = format!("no audio for more than {MAX_GAP:?}");
                vec![Heard::Violation(text), Heard::HangUp]
            }
            _ => Vec::new(),
        }
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Binary(bytes) => {
                self.last_audio = Some(self.now);
                let is_silent = bytes.iter().all(|byte| *byte == 0);
                let heard = self.line.read_audio(bytes);
                if heard.is_ok() && is_silent {
                    return Vec::new();
                }
                heard
            }
            Message::Text(_) => Err("a text, where only audio is taken".to_owned()),
            _ => return Vec::new(),
        };
        vec![heard.unwrap_or_else(Heard::Violation)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_ends_the_call() {
        let mut wire = InfobipWire::new(AudioFormat::MODEL_PCM, BTreeMap::new());
        assert_eq!(wire.receive(&Message::binary(vec![0; 960])), []);
        let frame = Message::binary(vec![1; 960]);
        assert!(matches!(wire.receive(&frame)[0], Heard::Audio { .. }));
        assert_eq!(wire.due(MAX_GAP), []);
        assert_eq!(wire.due(MAX_GAP + Duration::from_millis(20)).len(), 2);
        let clear = Message::text(r#"{"action":"clear"}"#);
        assert!(matches!(wire.receive(&clear)[0], Heard::Violation(_)));
    }
}
