//! Infobip's media stream of a call (telephony reference 3.4): what Vonage says, without clear and without marks.
//!
//! It reads as [`Vonage`] does, with the same answers to a peer that breaks the rules. Nothing that was sent can be
//! taken back, so that as little as possible is sent ahead; and the line must never be quiet, because Infobip ends
//! calls on a gap. The key or ticket stands in the address: `customData` comes only after the socket was opened.

use super::vonage::Vonage;
use super::{Capabilities, DialectError, Head, Ignored, Incoming, Lead, Outgoing, Speak};
use crate::call::{CallerCommand, CallerEvent};

/// One call by Infobip.
#[derive(Clone, Debug, Default)]
pub struct Infobip(Vonage);

impl Speak for Infobip {
    const NAME: &'static str = "infobip";

    const PATH: &'static str = "/infobip/media";

    /// Sources: telephony reference 3.4 (no clear, no marks, no gaps), 16.3 (lead).
    const CAPABILITIES: Capabilities = Capabilities {
        keys_in: true,
        lead: Lead::between_ms(0, 40),
        fills_silence: true,
        max_message_bytes: Vonage::CAPABILITIES.max_message_bytes,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.0.ignored()
    }

    fn opened(&mut self, head: &Head<'_>) {
        self.0.opened(head);
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        self.0.read(message, audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match command {
            CallerCommand::Audio(audio) if !audio.is_empty() && self.0.is_started() => {
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            _ => Outgoing::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It knows neither clear nor notify (telephony reference 3.4): only audio may be sent.
    #[test]
    fn nothing_but_audio_is_sent() {
        let (mut dialect, mut out) = (Infobip::default(), Vec::new());
        let audio = CallerCommand::Audio(&[1, 2]);
        assert_eq!(dialect.encode(audio, &mut out), Outgoing::Nothing);
        let connected = r#"{"event":"websocket:connected","content-type":"audio/l16;rate=24000","customData":{"queue":"billing"}}"#;
        let event = dialect.decode(Incoming::Text(connected), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        assert_eq!(dialect.encode(audio, &mut out), Outgoing::Binary);
        assert_eq!(out, [1, 2]);
        for command in [CallerCommand::Clear, CallerCommand::ReplyEnded] {
            assert_eq!(dialect.encode(command, &mut out), Outgoing::Nothing);
        }
    }
}
