//! SignalWire's media streams (cXML `<Stream>`, SWML `stream:`), which are [`Twilio`]'s but for the codec (telephony
//! reference 5): besides G.711 there are G.722 and little-endian PCM16 at 16 and 24 kHz, and `start` says which it is.
//!
//! What happens when the peer does not keep to the rules stands in `twilio.rs`. SignalWire does not sign the
//! request but shows the `authBearerToken` that it was told: a key or a ticket of ours.

use super::twilio::Manner;
use super::{Capabilities, DialectError, Ignored, Incoming, Lead, Outgoing, Speak, Twilio};
use crate::call::{CallerCommand, CallerEvent};

/// One stream by SignalWire.
#[derive(Clone, Debug)]
pub struct SignalWire(Twilio);

impl Default for SignalWire {
    fn default() -> Self {
        Self(Twilio::of(Manner::SignalWire))
    }
}

impl Speak for SignalWire {
    const NAME: &'static str = "signalwire";

    const PATH: &'static str = "/signalwire/media";

    /// Source: telephony reference 16.3 (lead: in its `realtime` mode little is held).
    const CAPABILITIES: Capabilities = Capabilities {
        lead: Lead::between_ms(100, 200),
        ..Twilio::CAPABILITIES
    };

    fn ignored(&self) -> Ignored {
        self.0.ignored()
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        self.0.read(message, audio)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        self.0.encode(command, out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::media::{AudioFormat, Codec, SampleRate};

    fn start(encoding: &str, rate: u32) -> String {
        let format = json!({"encoding": encoding, "sampleRate": rate, "channels": 1});
        let start = json!({"streamSid": "s-1", "callSid": "c-1", "mediaFormat": format});
        json!({"event": "start", "streamSid": "s-1", "start": start}).to_string()
    }

    /// `start.mediaFormat` reflects the `codec` attribute: read it, do not assume mu-law (telephony reference 5).
    #[test]
    fn the_format_is_what_start_says() {
        let check = |encoding: &str, rate: u32, expected: Option<(Codec, SampleRate)>| {
            let text = start(encoding, rate);
            let event = SignalWire::default().decode(Incoming::Text(&text), &mut Vec::new());
            let format = match event {
                Ok(CallerEvent::Started(info)) => Some(info.output),
                other => {
                    assert_eq!(other, Err(DialectError::UnsupportedFormat), "{text}");
                    None
                }
            };
            let expected = expected.map(|(codec, rate)| AudioFormat { codec, rate });
            assert_eq!(format, expected, "{text}");
        };
        let pcm = |rate| Some((Codec::Pcm16, rate));
        check("audio/x-l16", 24_000, pcm(SampleRate::HZ_24000));
        check("L16", 16_000, pcm(SampleRate::HZ_16000));
        let phone = SampleRate::HZ_8000;
        check("audio/x-mulaw", 8_000, Some((Codec::Ulaw, phone)));
        check("PCMA", 8_000, Some((Codec::Alaw, phone)));
        // Its clock is 8 kHz, its audio 16 (telephony reference 14.2).
        let wide = Some((Codec::G722, SampleRate::HZ_16000));
        check("G722", 8_000, wide);
        check("audio/g722", 16_000, wide);
        check("G722", 24_000, None);
        check("audio/x-l16", 12_000, None);
        check("audio/x-l16", 22_050, None);
        check("audio/x-l16", 48_000, None);
        check("audio/x-mulaw", 16_000, None);
    }

    /// PCM16 is little-endian, used as it is (telephony reference 5); half a sample is none.
    #[test]
    fn samples_pass_as_they_are() {
        let mut dialect = SignalWire::default();
        let mut audio = Vec::new();
        let text = start("audio/x-l16", 24_000);
        dialect.decode(Incoming::Text(&text), &mut audio).unwrap();
        let media = |payload| format!(r#"{{"event":"media","media":{{"payload":"{payload}"}}}}"#);
        let event = dialect.decode(Incoming::Text(&media("AQID/w==")), &mut audio);
        assert_eq!(
            (event, &audio[..]),
            (Ok(CallerEvent::Audio), &[1, 2, 3, 255][..])
        );
        for odd in [
            media("AQID"),
            media("AQID").replace("media\",", "media\",\n"),
        ] {
            let event = dialect.decode(Incoming::Text(&odd), &mut audio);
            assert_eq!(event, Err(DialectError::OddByteCount));
            assert!(audio.is_empty());
        }
    }

    proptest! {
        #[test]
        fn total(text in any::<String>()) {
            let _ = SignalWire::default().decode(Incoming::Text(&text), &mut Vec::new());
        }
    }
}
