//! Webex Contact Center's side of a virtual agent over WebSocket (telephony reference 12.1, and Cisco's public schema and
//! guide, which `src/ingress/webex.rs` names).
//!
//! It holds what it is sent against the schema: members, numbers that rise, one conversation, chunks of 100 bytes to
//! 64 KiB, and a final message without audio after each row of them. `START_OF_INPUT` empties its queue; after
//! `SESSION_END` and `TRANSFER_TO_AGENT` it closes. How much it would hold and how often its audio comes is not documented: no limit, and 20 ms.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{around_base64, decode_base64, encode};
use super::phone_dialect::{FarEnd, Heard, excerpt};
use trunkline_media::{AudioFormat, Codec};

/// Time between two pings. Webex says "periodically".
const PING_EVERY: Duration = Duration::from_secs(8);

#[derive(Debug)]
pub(crate) struct WebexWire {
    conversation: String,
    organisation: String,
    parameters: BTreeMap<String, String>,
    /// Number of the last message to the gateway, and of the last from it.
    n_sent: u64,
    n_heard: u64,
    /// Time since the socket was open.
    now: Duration,
    next_ping: Duration,
    /// The ping that was not answered yet.
    pinged: Option<u64>,
    /// Chunks came, and the final message did not.
    is_open: bool,
    /// The start of input was told, and not its end.
    is_input: bool,
    is_over: bool,
}

/// An envelope, with the members that some kinds have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    seq: u64,
    ts: String,
    conversation_id: String,
    payload: Option<Response>,
    code: Option<String>,
    status: Option<u16>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Response {
    #[serde(default)]
    prompts: Vec<Prompt>,
    #[serde(default)]
    output_events: Vec<OutputEvent>,
    input_mode: Option<String>,
    response_type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    audio_content_b64: String,
    is_barge_in_enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputEvent {
    event_type: String,
}

impl WebexWire {
    /// `seed` makes the ids.
    pub(crate) fn new(seed: u64, parameters: BTreeMap<String, String>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            conversation: format!("{:032x}", random.u128(..)),
            organisation: format!("{:032x}", random.u128(..)),
            parameters,
            n_sent: 0,
            n_heard: 0,
            now: Duration::ZERO,
            next_ping: PING_EVERY,
            pinged: None,
            is_open: false,
            is_input: false,
            is_over: false,
        }
    }

    /// An envelope of that kind, with these members besides.
    fn envelope(&mut self, kind: &str, mut more: Value) -> Message {
        self.n_sent += 1;
        more["type"] = json!(kind);
        more["seq"] = json!(self.n_sent);
        more["ts"] = json!(self.time());
        more["conversation_id"] = json!(self.conversation);
        Message::text(more.to_string())
    }

    fn request(&mut self, input: &Value) -> Message {
        let mut payload = json!({
            "conversation_id": self.conversation,
            "customer_org_id": self.organisation,
            "virtual_agent_id": "desk",
            "allow_partial_responses": true,
            "voice_va_input_type": input,
        });
        if input.get("event_input").is_some() {
            payload["additional_info"] = json!(self.parameters);
        }
        self.envelope("VOICE_VA_REQUEST", json!({"payload": payload}))
    }

    fn event(&mut self, name: &str) -> Message {
        self.request(
            &json!({"event_input": {"event_type": name, "name": "entry", "parameters": {}}}),
        )
    }

    /// RFC 3339.
    fn time(&self) -> String {
        let ms = self.now.as_millis();
        let (minutes, seconds) = (ms / 60_000 % 60, ms / 1_000 % 60);
        format!("2026-11-20T08:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000)
    }

    fn read(&mut self, text: &str) -> Result<Vec<Heard>, String> {
        let envelope: Envelope =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        if envelope.conversation_id != self.conversation {
            return Err(format!("another conversation: {}", excerpt(text)));
        }
        if !(envelope.ts.len() >= 20 && envelope.ts.ends_with('Z')) {
            return Err(format!("no time: {}", excerpt(&envelope.ts)));
        }
        if envelope.kind == "PONG" {
            return match self.pinged.take_if(|number| *number == envelope.seq) {
                Some(_) => Ok(Vec::new()),
                None => Err(format!("no ping had the number {}", envelope.seq)),
            };
        }
        if envelope.seq <= self.n_heard {
            return Err(format!("{} after {}", envelope.seq, self.n_heard));
        }
        self.n_heard = envelope.seq;
        match (envelope.kind.as_str(), envelope.payload) {
            ("VOICE_VA_RESPONSE", Some(response)) => self.respond(&response),
            ("ERROR", None) => match (envelope.code, envelope.status, envelope.detail) {
                (Some(code), Some(_), Some(message)) => Ok(vec![Heard::Error { code, message }]),
                _ => Err(format!("an incomplete error: {}", excerpt(text))),
            },
            _ => Err(format!("no such message: {}", excerpt(text))),
        }
    }

    fn respond(&mut self, response: &Response) -> Result<Vec<Heard>, String> {
        let is_known = matches!(
            response.input_mode.as_deref(),
            None | Some("INPUT_VOICE" | "INPUT_EVENT_DTMF" | "INPUT_VOICE_DTMF")
        );
        if !is_known {
            return Err("an unknown input_mode".to_owned());
        }
        let mut heard = Vec::new();
        for event in &response.output_events {
            match (event.event_type.as_str(), self.is_input) {
                ("START_OF_INPUT", false) => {
                    self.is_input = true;
                    heard.push(Heard::Clear);
                }
                ("END_OF_INPUT", true) => self.is_input = false,
                (end @ ("SESSION_END" | "TRANSFER_TO_AGENT"), _) => {
                    self.is_over = true;
                    let reason = end.to_owned();
                    heard.extend([Heard::End { reason }, Heard::HangUp]);
                }
                (other, _) => return Err(format!("not now: {}", excerpt(other))),
            }
        }
        let is_chunk = match response.response_type.as_str() {
            "CHUNK" => true,
            "FINAL" => false,
            other => return Err(format!("not asked for: {}", excerpt(other))),
        };
        for prompt in &response.prompts {
            let samples = decode_base64(Codec::Ulaw, &prompt.audio_content_b64);
            let samples = samples.map_err(|e| e.to_string())?;
            let is_good = match is_chunk {
                true => (100..=65_536).contains(&samples.len()),
                false => samples.is_empty(),
            };
            if !is_good || !prompt.is_barge_in_enabled {
                let kind = &response.response_type;
                return Err(format!("{} bytes in a {kind}", samples.len()));
            }
            if is_chunk {
                let item = None;
                heard.push(Heard::Audio { samples, item });
            }
        }
        let closes_nothing = response.output_events.is_empty() && !self.is_open;
        if !is_chunk && closes_nothing {
            return Err("a second FINAL".to_owned());
        }
        self.is_open = is_chunk;
        Ok(heard)
    }
}

impl FarEnd for WebexWire {
    fn opening(&mut self) -> Vec<Message> {
        vec![self.event("SESSION_START")]
    }

    fn answered_by_upgrade(&self) -> Option<String> {
        Some(self.conversation.clone())
    }

    fn format(&self) -> AudioFormat {
        AudioFormat::ULAW_8K
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Ulaw, samples).expect("mu-law is spoken");
        let time = self.time();
        self.n_sent += 1;
        let conversation = &self.conversation;
        Some(around_base64(
            format_args!(
                r#"{{"type":"VOICE_VA_REQUEST","seq":{},"ts":"{time}","conversation_id":"{conversation}","payload":{{"conversation_id":"{conversation}","customer_org_id":"{}","virtual_agent_id":"desk","allow_partial_responses":true,"voice_va_input_type":{{"audio_input":{{"encoding":"MULAW_FORMAT","sample_rate_hertz":8000,"audio_timestamp":"{time}","language_code":"en-US","is_single_utterance":false,"caller_audio_b64":""#,
                self.n_sent, self.organisation,
            ),
            &bytes,
            format_args!(r#""}}}}}}}}"#),
        ))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        let name = match digit {
            '0' => "ZERO",
            '1' => "ONE",
            '2' => "TWO",
            '3' => "THREE",
            '4' => "FOUR",
            '5' => "FIVE",
            '6' => "SIX",
            '7' => "SEVEN",
            '8' => "EIGHT",
            '9' => "NINE",
            '*' => "STAR",
            '#' => "POUND",
            'A' => "A",
            'B' => "B",
            'C' => "C",
            _ => "D",
        };
        let events = [format!("DTMF_DIGIT_{name}")];
        Some(self.request(&json!({"dtmf_input": {"dtmf_events": events}})))
    }

    fn due(&mut self, since: Duration) -> Vec<Heard> {
        self.now = since;
        if since < self.next_ping || self.is_over {
            return Vec::new();
        }
        self.next_ping = since + PING_EVERY;
        let mut due = Vec::new();
        if self.pinged.is_some() {
            due.push(Heard::Violation("a ping was not answered".to_owned()));
        }
        due.push(Heard::Say(self.envelope("PING", json!({}))));
        self.pinged = Some(self.n_sent);
        due
    }

    fn farewell(&mut self) -> Option<Message> {
        self.is_over = true;
        Some(self.event("SESSION_END"))
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("a binary message".to_owned()),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|reason| vec![Heard::Violation(reason)])
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn wire() -> WebexWire {
        WebexWire::new(1, BTreeMap::from([("tier".to_owned(), "gold".to_owned())]))
    }

    fn value(message: &Message) -> Value {
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    #[test]
    fn says_what_webex_says() {
        let mut wire = wire();
        let start = value(&wire.opening()[0]);
        assert_eq!(
            (&start["type"], &start["seq"]),
            (&json!("VOICE_VA_REQUEST"), &json!(1))
        );
        assert_eq!(
            start["conversation_id"],
            start["payload"]["conversation_id"]
        );
        assert_eq!(start["payload"]["additional_info"]["tier"], "gold");
        let input = |message: &Message| value(message)["payload"]["voice_va_input_type"].clone();
        let audio = input(&wire.audio(&[0; 160]).unwrap());
        assert_eq!(audio["audio_input"]["encoding"], "MULAW_FORMAT");
        let key = input(&wire.dtmf('#').unwrap());
        assert_eq!(
            key["dtmf_input"]["dtmf_events"],
            json!(["DTMF_DIGIT_POUND"])
        );
        let end = input(&wire.farewell().unwrap());
        assert_eq!(end["event_input"]["event_type"], "SESSION_END");
    }

    #[test]
    fn audio_is_what_a_tree_of_it_says() {
        let mut wire = wire();
        wire.due(Duration::from_millis(61_020));
        wire.opening();
        let n_sent = wire.n_sent;
        let said = value(&wire.audio(&[0; 160]).unwrap());
        wire.n_sent = n_sent;
        let tree = wire.request(&json!({"audio_input": {
            "caller_audio_b64": STANDARD.encode([0xFF; 160]),
            "encoding": "MULAW_FORMAT",
            "sample_rate_hertz": 8_000,
            "audio_timestamp": "2026-11-20T08:01:01.020Z",
            "language_code": "en-US",
            "is_single_utterance": false,
        }}));
        assert_eq!(said, value(&tree));
        assert_eq!(said["seq"], n_sent + 1);
    }

    #[test]
    fn takes_what_webex_takes_and_nothing_else() {
        let mut wire = wire();
        let mut say = |seq: u64, payload: Value| {
            let message = json!({
                "type": "VOICE_VA_RESPONSE", "seq": seq, "ts": "2026-11-20T08:00:00Z",
                "conversation_id": wire.conversation, "payload": payload,
            });
            wire.receive(&Message::text(message.to_string()))
        };
        let prompt = |n: usize| json!([{"audio_content_b64": STANDARD.encode(vec![255; n]), "is_barge_in_enabled": true}]);
        let is_fault = |heard: &[Heard]| matches!(heard, [Heard::Violation(_)]);
        let chunk = say(1, json!({"prompts": prompt(160), "response_type": "CHUNK"}));
        assert!(matches!(&chunk[..], [Heard::Audio { samples, .. }] if samples.len() == 160));
        assert_eq!(
            say(2, json!({"prompts": prompt(0), "response_type": "FINAL"})),
            []
        );
        let again = say(3, json!({"prompts": prompt(0), "response_type": "FINAL"}));
        assert!(is_fault(&again), "{again:?}");
        let short = say(4, json!({"prompts": prompt(99), "response_type": "CHUNK"}));
        assert!(is_fault(&short), "{short:?}");
        let event =
            |name: &str| json!({"output_events": [{"event_type": name}], "response_type": "FINAL"});
        assert!(is_fault(&say(5, event("END_OF_INPUT"))));
        assert_eq!(say(6, event("START_OF_INPUT")), [Heard::Clear]);
        assert!(
            is_fault(&say(6, event("END_OF_INPUT"))),
            "the number of the last"
        );
    }
}
