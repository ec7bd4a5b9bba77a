//! Vobiz, which speaks [`Plivo`]'s dialect (telephony reference 4.2) and can be told that the stream is over.
//!
//! What happens when the peer does not keep to the rules stands in `plivo.rs`. Vobiz would play up to 24 kHz; replies
//! leave in the format in which the caller comes.
//!
//! Its own page (docs.vobiz.ai, "Stream events") names `playAudio`, `checkpoint`, `clearAudio` and `stop` for what it
//! takes, and `start`, `media`, `playedStream` and `clearedAudio` for what it sends: no `stop` at the end of a call, and
//! neither keys in nor `sendDTMF`, nor a subprotocol. Those are spoken as Plivo has them, and echoed if it offers one.

use super::{Capabilities, DialectError, Head, Ignored, Incoming, Outgoing, Plivo, Speak};
use crate::call::{CallerCommand, CallerEvent};

/// One stream by Vobiz.
#[derive(Clone, Debug, Default)]
pub struct Vobiz(Plivo);

impl Speak for Vobiz {
    const NAME: &'static str = "vobiz";

    const PATH: &'static str = "/vobiz/stream";

    const CAPABILITIES: Capabilities = Capabilities {
        says_end: true,
        ..Plivo::CAPABILITIES
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
        let (CallerCommand::End { .. }, Some(id)) = (command, self.0.stream_json()) else {
            return self.0.encode(command, out);
        };
        out.clear();
        out.extend_from_slice(br#"{"event":"stop","streamId":"#);
        out.extend_from_slice(id.as_bytes());
        out.push(b'}');
        Outgoing::Text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: &str = r#"{"event":"start","start":{"callId":"c-1","streamId":"s-1"}}"#;

    /// Vobiz has an outbound `stop`, which Plivo has not (telephony reference 4.2).
    #[test]
    fn the_end_is_said() {
        let mut dialect = Vobiz::default();
        let mut out = Vec::new();
        let end = CallerCommand::End { reason: "r" };
        assert_eq!(dialect.encode(end, &mut out), Outgoing::Nothing);
        let started = dialect.decode(Incoming::Text(START), &mut Vec::new());
        assert!(matches!(started, Ok(CallerEvent::Started(_))));
        assert_eq!(dialect.encode(end, &mut out), Outgoing::Text);
        assert_eq!(out, br#"{"event":"stop","streamId":"s-1"}"#);
        assert_eq!(
            dialect.encode(CallerCommand::Clear, &mut out),
            Outgoing::Text
        );
        assert_eq!(out, br#"{"event":"clearAudio","streamId":"s-1"}"#);
    }

    proptest! {
        #[test]
        fn total(text in any::<String>()) {
            let _ = Vobiz::default().decode(Incoming::Text(&text), &mut Vec::new());
        }
    }
}
