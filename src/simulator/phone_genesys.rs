//! Genesys Cloud Audio Connector, Genesys's side of it (telephony reference 8).
//!
//! Sends mu-law in messages of 100 ms, pings after one second and then every five, and signs its request. It is
//! strict where Genesys is: each sequence number follows the last, a ping is answered before the next, nothing comes
//! before `opened`, and more than a few binary messages a second is error 429. `barge_in` empties its queue. It alone
//! closes: after `disconnect` it says `close`, and after `closed` it ends the connection.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Uri};
use ring::hmac;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::phone_codec::{decode, encode};
use super::phone_dialect::{ApiKey, FarEnd, Heard, Setting, excerpt};
use trunkline_media::{AudioFormat, Codec};

/// Samples of one message.
const N_SAMPLES: usize = 800;

/// Binary messages of the gateway in any second beyond which Genesys complains. The telephony reference (8.6) names no
/// number: half of what frames of 20 ms would be, so that a burst after a stall of the network passes.
const MOST_A_SECOND: usize = 25;

#[derive(Debug)]
pub(crate) struct GenesysWire {
    uri: Uri,
    api_key: Option<ApiKey>,
    client_secret: Option<ApiKey>,
    /// Of the organisation, the session, the correlation and the conversation.
    ids: [String; 4],
    seq: u64,
    server_seq: u64,
    is_open: bool,
    is_closing: bool,
    /// The ping that is not answered yet.
    pinged: Option<u64>,
    next_ping: Duration,
    now: Duration,
    /// When binary messages of the last second came.
    arrivals: Vec<Duration>,
    voice: Vec<i16>,
}

impl GenesysWire {
    pub(crate) fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let ids = [(); 4].map(|()| uuid(random.u128(..)));
        Self {
            uri: setting.uri,
            api_key: setting.api_key,
            client_secret: setting.client_secret,
            ids,
            seq: 0,
            server_seq: 0,
            is_open: false,
            is_closing: false,
            pinged: None,
            next_ping: Duration::from_secs(1),
            now: Duration::ZERO,
            arrivals: Vec::new(),
            voice: Vec::new(),
        }
    }

    fn message(&mut self, kind: &str, parameters: &Value) -> Message {
        self.seq += 1;
        let position = format!("PT{:.3}S", self.now.as_secs_f64());
        let message = json!({
            "version": "2",
            "id": self.ids[1],
            "type": kind,
            "seq": self.seq,
            "serverseq": self.server_seq,
            "position": position,
            "parameters": parameters,
        });
        Message::text(message.to_string())
    }

    fn read(&mut self, text: &str) -> Result<Vec<Heard>, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        if message["version"] != "2" || message["id"] != self.ids[1].as_str() {
            return Err(format!("not of this session: {}", excerpt(text)));
        }
        if message["seq"] != self.server_seq + 1 {
            return Err(format!("a gap in seq after {}", self.server_seq));
        }
        self.server_seq += 1;
        if message["clientseq"]
            .as_u64()
            .is_none_or(|seq| seq > self.seq)
        {
            return Err("clientseq of the future".to_owned());
        }
        match message["type"].as_str() {
            Some("opened") if !self.is_open => {
                self.is_open = true;
                let media = message["parameters"]["media"].as_array();
                let [only] = media.map(Vec::as_slice).unwrap_or_default() else {
                    return Err("not exactly one media".to_owned());
                };
                if *only != offer() {
                    return Err("media that was not offered".to_owned());
                }
                Ok(vec![Heard::Answered {
                    call_id: Some(self.ids[3].clone()),
                }])
            }
            Some("pong") if self.pinged.take() == message["clientseq"].as_u64() => Ok(Vec::new()),
            Some("event") => {
                let entities = message["parameters"]["entities"].as_array();
                let mut entities = entities.into_iter().flatten();
                let is_barge_in = entities.any(|entity| entity["type"] == "barge_in");
                Ok(is_barge_in.then_some(Heard::Clear).into_iter().collect())
            }
            Some("disconnect") => {
                let reason = message["parameters"]["reason"].as_str().unwrap_or_default();
                let info = message["parameters"]["info"].as_str().unwrap_or(reason);
                let end = Heard::End {
                    reason: info.to_owned(),
                };
                self.is_closing = true;
                let close = self.message("close", &json!({"reason": "disconnect"}));
                Ok(vec![end, Heard::Say(close)])
            }
            Some("closed") if self.is_closing => Ok(vec![Heard::HangUp]),
            _ => Err(format!("not now: {}", excerpt(text))),
        }
    }

    fn read_audio(&mut self, bytes: &[u8]) -> Result<Heard, String> {
        if !self.is_open {
            return Err("audio before opened".to_owned());
        }
        if bytes.len() > 64_000 {
            return Err(format!("{} bytes of audio in one message", bytes.len()));
        }
        let (now, second) = (self.now, Duration::from_secs(1));
        self.arrivals.retain(|at| *at + second > now);
        self.arrivals.push(now);
        if self.arrivals.len() > MOST_A_SECOND {
            return Err("429: too many messages".to_owned());
        }
        let samples = decode(Codec::Ulaw, bytes).map_err(|e| e.to_string())?;
        Ok(Heard::Audio {
            samples,
            item: None,
        })
    }
}

impl FarEnd for GenesysWire {
    fn shows_key(&self) -> bool {
        true
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let key = self.api_key.as_ref().map(|key| key.reveal().to_owned());
        let named = [
            ("audiohook-organization-id", Some(self.ids[0].clone())),
            ("audiohook-session-id", Some(self.ids[1].clone())),
            ("audiohook-correlation-id", Some(self.ids[2].clone())),
            ("x-api-key", key.clone()),
        ];
        let mut headers: Vec<(&'static str, String)> = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        if let (Some(secret), Some(key)) = (&self.client_secret, key) {
            let created = SystemTime::now().duration_since(UNIX_EPOCH);
            let created = created.map_or(0, |since| since.as_secs());
            let nonce = STANDARD.encode(fastrand::u128(..).to_be_bytes());
            let names: Vec<_> = headers
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            let parameters = format!(
                "(\"@request-target\" \"@authority\" {});keyid=\"{key}\";nonce=\"{nonce}\";\
                 alg=\"hmac-sha256\";created={created};expires={}",
                names.join(" "),
                created + 10,
            );
            let target = self
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str());
            let authority = self
                .uri
                .authority()
                .map_or("", |authority| authority.as_str());
            let mut base = format!("\"@request-target\": {target}\n\"@authority\": {authority}\n");
            for (name, value) in &headers {
                base += &format!("\"{name}\": {value}\n");
            }
            base += &format!("\"@signature-params\": {parameters}");
            let secret = STANDARD.decode(secret.reveal()).unwrap_or_default();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), base.as_bytes());
            headers.push(("signature-input", format!("sig1={parameters}")));
            headers.push(("signature", format!("sig1=:{}:", STANDARD.encode(tag))));
        }
        let value = |(name, value): (&'static str, String)| {
            Some((
                HeaderName::from_static(name),
                HeaderValue::from_str(&value).ok()?,
            ))
        };
        headers.into_iter().filter_map(value).collect()
    }

    fn opening(&mut self) -> Vec<Message> {
        let parameters = json!({
            "organizationId": self.ids[0],
            "conversationId": self.ids[3],
            "participant": {"id": self.ids[2], "ani": "+15550001111", "aniName": "", "dnis": "+15550002222"},
            "media": [offer()],
            "inputVariables": {"queue": "billing"},
        });
        vec![self.message("open", &parameters)]
    }

    fn format(&self) -> AudioFormat {
        AudioFormat::ULAW_8K
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        self.voice.extend_from_slice(samples);
        if self.voice.len() < N_SAMPLES || !self.is_open {
            return None;
        }
        let bytes = encode(Codec::Ulaw, &self.voice).expect("mu-law is spoken");
        self.voice.clear();
        Some(Message::binary(bytes))
    }

    fn dtmf(&mut self, digit: char) -> Option<Message> {
        Some(self.message("dtmf", &json!({"digit": digit.to_string()})))
    }

    fn playing(&mut self, is_playing: bool) -> Option<Message> {
        let kind = if is_playing {
            "playback_started"
        } else {
            "playback_completed"
        };
        (!self.is_closing).then(|| self.message(kind, &json!({})))
    }

    fn due(&mut self, since: Duration) -> Vec<Heard> {
        self.now = since;
        if since < self.next_ping || !self.is_open {
            return Vec::new();
        }
        self.next_ping = since + Duration::from_secs(5);
        let mut due = Vec::new();
        if self.pinged.is_some() {
            due.push(Heard::Violation("408: a ping was not answered".to_owned()));
        }
        let ping = self.message("ping", &json!({}));
        self.pinged = Some(self.seq);
        due.push(Heard::Say(ping));
        due
    }

    fn farewell(&mut self) -> Option<Message> {
        self.is_closing = true;
        Some(self.message("close", &json!({"reason": "end"})))
    }

    fn waits_for_farewell(&self) -> bool {
        true
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(bytes) => self.read_audio(bytes).map(|heard| vec![heard]),
            _ => return Vec::new(),
        };
        heard.unwrap_or_else(|reason| vec![Heard::Violation(reason)])
    }
}

/// What is offered, and has to be taken as it is.
fn offer() -> Value {
    json!({"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000})
}

fn uuid(random: u128) -> String {
    let hex = format!("{random:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
