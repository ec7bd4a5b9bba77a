//! Callers' messages: whole conversations with a dialect, one message a line.

use trunkline::call::CallerEvent;
use trunkline::ingress::{Dialect, Incoming, Outgoing, VoiceWebhook, twiml_connect};

/// Lines that begin with this byte are binary messages.
const BINARY: u8 = 0xff;

/// A subject for every dialect, by its name.
macro_rules! dialects {
    ($($name:ident),+ $(,)?) => {
        $(pub(crate) fn $name(bytes: &[u8]) {
            converse(stringify!($name), bytes);
        })+
    };
}

dialects!(
    twilio,
    audio,
    acs,
    genesys,
    asterisk,
    audiosocket,
    vonage,
    infobip,
    telnyx,
    jambonz,
    freeswitch,
    plivo,
    vobiz,
    signalwire,
    exotel,
    pipecat,
    webex,
);

/// The call starts once, before everything else; audio has bytes, never more than the message; nothing comes after
/// an error that ends the call or after the caller's end.
fn converse(dialect: &str, bytes: &[u8]) {
    let mut dialect = Dialect::by_name(dialect).expect("known");
    let (mut audio, mut answer) = (Vec::new(), Vec::new());
    let (mut started, mut stopped) = (false, false);
    for line in bytes.split(|byte| *byte == b'\n') {
        let message = match line {
            [BINARY, rest @ ..] => Incoming::Binary(rest),
            _ => match std::str::from_utf8(line) {
                Ok(text) => Incoming::Text(text),
                Err(_) => Incoming::Binary(line),
            },
        };
        let mut next = Some(dialect.decode(message, &mut audio));
        let mut is_held = false;
        while let Some(event) = next {
            match event {
                Ok(CallerEvent::Started(info)) => {
                    assert!(!started && !stopped, "started twice, or after the end");
                    assert!(
                        info.parameters.len() <= line.len(),
                        "parameters from nowhere"
                    );
                    started = true;
                }
                Ok(CallerEvent::Audio) => {
                    assert!(started && !stopped, "audio of no call");
                    // What was held before is not of this line.
                    assert!(!audio.is_empty() && (is_held || audio.len() <= line.len()));
                }
                Ok(
                    CallerEvent::Dtmf(_)
                    | CallerEvent::MarkReached(_)
                    | CallerEvent::Paused
                    | CallerEvent::Resumed
                    | CallerEvent::Flow(_),
                ) => {
                    assert!(started && !stopped, "an event of no call");
                }
                Ok(CallerEvent::Probe) => {
                    assert!(!started && !stopped, "a probe in a call");
                }
                Ok(CallerEvent::Stopped) => {
                    assert!(!stopped, "stopped twice");
                    stopped = true;
                }
                Ok(CallerEvent::Nothing) => {}
                Err(error) => {
                    assert!(!error.to_string().is_empty() && !error.name().is_empty());
                    if error.ends_call() {
                        return;
                    }
                }
            }
            is_held = true;
            next = dialect.more(&mut audio).map(Ok);
        }
        while dialect.answer(&mut answer) != Outgoing::Nothing {
            assert!(!answer.is_empty(), "an answer of nothing");
        }
    }
}

/// What a webhook says can be said again in TwiML, or is refused.
pub(crate) fn twilio_voice(bytes: &[u8]) {
    let Ok(webhook) = VoiceWebhook::parse(bytes) else {
        return;
    };
    assert!(!format!("{webhook:?}").is_empty());
    let from = webhook.from.as_deref().unwrap_or_default();
    let to = webhook.to.as_deref().unwrap_or_default();
    if let Ok(twiml) = twiml_connect("wss://a.example/m", &[("from", from), ("to", to)]) {
        let inside = twiml
            .split_once("<Connect>")
            .and_then(|(_, rest)| rest.split_once("</Connect>"))
            .expect("a Connect")
            .0;
        // Nothing of the caller's is markup: one Stream and two Parameters, opened and closed.
        assert_eq!(inside.matches("<Parameter ").count(), 2, "{twiml}");
        assert_eq!(inside.matches('<').count(), 4, "{twiml}");
    }
}
