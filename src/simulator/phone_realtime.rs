//! The Realtime API, an SDK client's side of it, in both shapes (protocol reference, chapters 3, 5 and 7).
//!
//! Server VAD, PCM16 at 24 kHz both ways. The client owns its playback: on `speech_started` it drops what has not
//! sounded and truncates the item at what has. It reads events as a picky client would: the first must be
//! `session.created`, each needs a type and an id, audio needs an item that was announced, and a name of the
//! other shape is a violation.

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Uri};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::config::Shape;
use super::phone_codec::{around_base64, decode_base64, encode};
use super::phone_dialect::{ApiKey, FarEnd, Heard, RateLimit, TokenTotals, excerpt};
use trunkline_media::{AudioFormat, Codec};

#[derive(Debug)]
pub(crate) struct RealtimeWire {
    shape: Shape,
    is_azure: bool,
    needs_beta_header: bool,
    api_key: Option<ApiKey>,
    instructions: Option<String>,
    is_created: bool,
    is_configured: bool,
    /// In the order of their announcement; the index is the phone's number of the reply.
    items: Vec<Item>,
    tokens: TokenTotals,
}

#[derive(Debug)]
struct Item {
    id: String,
    content_index: u64,
    is_audio_done: bool,
    is_cut: bool,
}

/// A cut that the phone is about to tell the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub(crate) item_id: String,
    pub(crate) message: Message,
}

impl FarEnd for RealtimeWire {
    /// Azure takes its key as `api-key`, OpenAI as a bearer token (1.3).
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        if let Some(key) = &self.api_key {
            let (name, value) = if self.is_azure {
                (HeaderName::from_static("api-key"), key.reveal().to_owned())
            } else {
                (AUTHORIZATION, format!("Bearer {}", key.reveal()))
            };
            headers.extend(HeaderValue::from_str(&value).map(|value| (name, value)));
        }
        if self.needs_beta_header {
            headers.push((
                HeaderName::from_static("openai-beta"),
                HeaderValue::from_static("realtime=v1"),
            ));
        }
        headers
    }

    fn opening(&mut self) -> Vec<Message> {
        let turn_detection = json!({
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 200,
        });
        let mut session = match self.shape {
            Shape::Ga => json!({
                "type": "realtime",
                "output_modalities": ["audio"],
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "turn_detection": turn_detection,
                    },
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}},
                },
            }),
            Shape::Preview => json!({
                "modalities": ["audio", "text"],
                "input_audio_format": "pcm16",
                "output_audio_format": "pcm16",
                "turn_detection": turn_detection,
            }),
        };
        if let Some(instructions) = &self.instructions {
            session["instructions"] = json!(instructions);
        }
        vec![text(&json!({"type": "session.update", "session": session}))]
    }

    fn audio(&mut self, samples: &[i16]) -> Option<Message> {
        let bytes = encode(Codec::Pcm16, samples).expect("PCM16 is spoken");
        let before = format_args!(r#"{{"type":"input_audio_buffer.append","audio":""#);
        Some(around_base64(before, &bytes, format_args!(r#""}}"#)))
    }

    fn tokens(&self) -> Option<TokenTotals> {
        Some(self.tokens)
    }

    fn receive(&mut self, message: &Message) -> Vec<Heard> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err("a binary message".to_owned()),
            _ => return Vec::new(),
        };
        match heard {
            Ok(heard) => heard,
            Err(reason) => vec![Heard::Violation(reason)],
        }
    }

    fn format(&self) -> AudioFormat {
        AudioFormat::MODEL_PCM
    }

    fn shows_key(&self) -> bool {
        true
    }

    fn as_realtime(&mut self) -> Option<&mut RealtimeWire> {
        Some(self)
    }
}

impl RealtimeWire {
    pub(crate) fn new(
        uri: &Uri,
        shape: Shape,
        api_key: Option<ApiKey>,
        instructions: Option<String>,
    ) -> Self {
        let is_azure = uri.path().contains("/openai/");
        Self {
            shape,
            is_azure,
            needs_beta_header: shape == Shape::Preview && !is_azure,
            api_key,
            instructions,
            is_created: false,
            is_configured: false,
            items: Vec::new(),
            tokens: TokenTotals::default(),
        }
    }

    /// Cuts the newest reply at `played_ms`, unless all of it was heard or it was cut before.
    ///
    /// `is_playing`: some of it waits to be played.
    pub(crate) fn truncate(&mut self, is_playing: bool, played_ms: u64) -> Option<Truncation> {
        let item = self.items.last_mut()?;
        if item.is_cut || (item.is_audio_done && !is_playing) {
            return None;
        }
        item.is_cut = true;
        Some(Truncation {
            item_id: item.id.clone(),
            message: text(&json!({
                "type": "conversation.item.truncate",
                "item_id": item.id,
                "content_index": item.content_index,
                "audio_end_ms": played_ms,
            })),
        })
    }

    /// The phone's number of the newest reply, if it has any audio yet.
    pub(crate) fn newest_item(&self) -> Option<usize> {
        self.items.len().checked_sub(1)
    }

    fn read(&mut self, text: &str) -> Result<Vec<Heard>, String> {
        let event: Value =
            serde_json::from_str(text).map_err(|e| format!("{e} in {}", excerpt(text)))?;
        let kind = str_at(&event, "type")?;
        let lacks_id = event["event_id"].as_str().is_none_or(str::is_empty);
        if lacks_id && kind != "input_audio_buffer.dtmf_event_received" {
            return Err(format!("{kind} has no event_id"));
        }
        if !self.is_created && kind != "session.created" && kind != "error" {
            return Err(format!("{kind} before session.created"));
        }
        let name = self.neutral_name(kind)?;
        if name == "rate_limits.updated" {
            return Ok(limits(&event));
        }
        Ok(self.understand(name, &event)?.into_iter().collect())
    }

    /// The event's name without the difference of the shapes: as the preview has it.
    fn neutral_name<'a>(&self, kind: &'a str) -> Result<&'a str, String> {
        const RENAMED: [(&str, &str); 3] = [
            ("response.audio.", "response.output_audio."),
            (
                "response.audio_transcript.",
                "response.output_audio_transcript.",
            ),
            ("response.text.", "response.output_text."),
        ];
        for (preview, ga) in RENAMED {
            let (own, other) = match self.shape {
                Shape::Ga => (ga, preview),
                Shape::Preview => (preview, ga),
            };
            if kind.starts_with(other) {
                return Err(format!("{kind} is not of the {:?} shape", self.shape));
            }
            if let Some(step) = kind.strip_prefix(own) {
                return Ok(match (preview, step) {
                    ("response.audio.", "delta") => "audio.delta",
                    ("response.audio.", "done") => "audio.done",
                    ("response.audio_transcript.", "done") => "transcript.done",
                    _ => "",
                });
            }
        }
        let of_other_shape = match self.shape {
            Shape::Ga => kind == "conversation.item.created",
            Shape::Preview => matches!(kind, "conversation.item.added" | "conversation.item.done"),
        };
        if of_other_shape {
            return Err(format!("{kind} is not of the {:?} shape", self.shape));
        }
        Ok(kind)
    }

    fn understand(&mut self, name: &str, event: &Value) -> Result<Option<Heard>, String> {
        Ok(match name {
            "session.created" if self.is_created => {
                return Err("a second session.created".to_owned());
            }
            "session.created" => {
                str_at(&event["session"], "id")?;
                self.is_created = true;
                None
            }
            "session.updated" if self.is_configured => None,
            "session.updated" => {
                self.is_configured = true;
                Some(Heard::Answered {
                    call_id: event["session"]["id"].as_str().map(str::to_owned),
                })
            }
            "input_audio_buffer.speech_started" => {
                str_at(event, "item_id")?;
                Some(Heard::SpeechStarted)
            }
            "response.output_item.added" => {
                self.announce(&event["item"])?;
                None
            }
            "audio.delta" => self.read_audio(event)?,
            "audio.done" => {
                let item = self.item(event)?;
                self.items[item].is_audio_done = true;
                None
            }
            "transcript.done" => Some(Heard::Transcript {
                speaker: "assistant".to_owned(),
                text: str_at(event, "transcript")?.to_owned(),
            }),
            "conversation.item.input_audio_transcription.completed" => Some(Heard::Transcript {
                speaker: "caller".to_owned(),
                text: str_at(event, "transcript")?.to_owned(),
            }),
            "response.done" => {
                self.count_tokens(&event["response"])?;
                Some(Heard::ReplyDone)
            }
            "error" => {
                let error = &event["error"];
                let code = error["code"].as_str().or(error["type"].as_str());
                Some(Heard::Error {
                    code: code.unwrap_or_default().to_owned(),
                    message: str_at(error, "message")?.to_owned(),
                })
            }
            _ => None,
        })
    }

    /// Remembers an item that may carry audio.
    fn announce(&mut self, item: &Value) -> Result<(), String> {
        let id = str_at(item, "id")?;
        if item["type"] == "message" {
            self.items.push(Item {
                id: id.to_owned(),
                content_index: 0,
                is_audio_done: false,
                is_cut: false,
            });
        }
        Ok(())
    }

    fn read_audio(&mut self, event: &Value) -> Result<Option<Heard>, String> {
        let item = self.item(event)?;
        self.items[item].content_index = event["content_index"]
            .as_u64()
            .ok_or("audio without content_index")?;
        let delta = str_at(event, "delta")?;
        let samples = decode_base64(Codec::Pcm16, delta).map_err(|e| e.to_string())?;
        // What was under way when the item was cut is no longer wanted.
        Ok((!self.items[item].is_cut).then_some(Heard::Audio {
            samples,
            item: Some(item),
        }))
    }

    fn item(&self, event: &Value) -> Result<usize, String> {
        let id = str_at(event, "item_id")?;
        let known = self.items.iter().rposition(|item| item.id == id);
        known.ok_or_else(|| format!("item {} was not announced", excerpt(id)))
    }

    fn count_tokens(&mut self, response: &Value) -> Result<(), String> {
        str_at(response, "id")?;
        let usage = &response["usage"];
        let at = |pointer| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let totals = &mut self.tokens;
        totals.responses += 1;
        totals.input += at("/input_tokens");
        totals.input_text += at("/input_token_details/text_tokens");
        totals.input_audio += at("/input_token_details/audio_tokens");
        totals.cached += at("/input_token_details/cached_tokens");
        totals.output += at("/output_tokens");
        totals.output_text += at("/output_token_details/text_tokens");
        totals.output_audio += at("/output_token_details/audio_tokens");
        Ok(())
    }
}

/// What is left, limit by limit. What is not said is not reported.
fn limits(event: &Value) -> Vec<Heard> {
    let all = event["rate_limits"].as_array().into_iter().flatten();
    let told = all.filter_map(|limit| {
        Some(Heard::Limit(RateLimit {
            name: limit["name"].as_str()?.to_owned(),
            limit: limit["limit"].as_f64()?,
            remaining: limit["remaining"].as_f64()?,
            reset_seconds: limit["reset_seconds"].as_f64().unwrap_or_default(),
        }))
    });
    told.collect()
}

fn str_at<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    value[field]
        .as_str()
        .ok_or_else(|| format!("no {field} in {}", excerpt(&value.to_string())))
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(shape: Shape) -> RealtimeWire {
        let uri = Uri::from_static("ws://gateway/v1/realtime?model=m");
        RealtimeWire::new(&uri, shape, Some(ApiKey::new("k".into())), None)
    }

    fn hear(wire: &mut RealtimeWire, mut event: Value) -> Vec<Heard> {
        event["event_id"] = json!("event_1");
        wire.receive(&text(&event))
    }

    fn open(shape: Shape) -> RealtimeWire {
        let mut wire = wire(shape);
        assert!(
            hear(
                &mut wire,
                json!({"type":"session.created","session":{"id":"s"}})
            )
            .is_empty()
        );
        let item = json!({"type":"response.output_item.added","item":{"id":"i","type":"message"}});
        assert!(hear(&mut wire, item).is_empty());
        wire
    }

    fn delta(kind: &str) -> Value {
        json!({"type": kind, "item_id": "i", "content_index": 0, "delta": "AQD//w=="})
    }

    #[test]
    fn keys_go_where_the_vendor_wants_them() {
        let check = |uri: &'static str, shape, expected: &[(&str, &str)]| {
            let uri = Uri::from_static(uri);
            let wire = RealtimeWire::new(&uri, shape, Some(ApiKey::new("k".into())), None);
            let headers = wire.headers();
            let got: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            assert_eq!(got, expected, "{uri}");
        };
        check(
            "ws://h/v1/realtime",
            Shape::Ga,
            &[("authorization", "Bearer k")],
        );
        check("ws://h/openai/v1/realtime", Shape::Ga, &[("api-key", "k")]);
        check(
            "ws://h/openai/realtime",
            Shape::Preview,
            &[("api-key", "k")],
        );
        check(
            "ws://h/v1/realtime",
            Shape::Preview,
            &[
                ("authorization", "Bearer k"),
                ("openai-beta", "realtime=v1"),
            ],
        );
    }

    #[test]
    fn a_frame_is_appended() {
        let message = open(Shape::Ga).audio(&[1; 480]).unwrap();
        let append: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        let audio = "AQABAAEA".repeat(160);
        let expected = json!({"type": "input_audio_buffer.append", "audio": audio});
        assert_eq!(append, expected);
    }

    #[test]
    fn audio_comes_under_the_name_of_the_shape() {
        let expected = [Heard::Audio {
            samples: vec![1, -1],
            item: Some(0),
        }];
        let (ga, preview) = ("response.output_audio.delta", "response.audio.delta");
        assert_eq!(hear(&mut open(Shape::Ga), delta(ga)), expected);
        assert_eq!(hear(&mut open(Shape::Preview), delta(preview)), expected);
        for (shape, kind) in [(Shape::Ga, preview), (Shape::Preview, ga)] {
            let heard = hear(&mut open(shape), delta(kind));
            assert!(matches!(heard[..], [Heard::Violation(_)]), "{kind}");
        }
    }

    #[test]
    fn a_cut_item_is_cut_once_and_says_no_more() {
        let mut wire = open(Shape::Ga);
        hear(&mut wire, delta("response.output_audio.delta"));
        let cut = wire.truncate(true, 7).unwrap();
        let event: Value = serde_json::from_str(cut.message.to_text().unwrap()).unwrap();
        assert_eq!(event["audio_end_ms"], 7);
        assert_eq!(event["item_id"], "i");
        assert_eq!(wire.truncate(true, 7), None);
        assert!(hear(&mut wire, delta("response.output_audio.delta")).is_empty());

        let mut wire = open(Shape::Ga);
        hear(
            &mut wire,
            json!({"type":"response.output_audio.done","item_id":"i"}),
        );
        assert_eq!(wire.truncate(false, 7), None, "all of it was heard");
    }

    #[test]
    fn names_what_breaks_the_rules() {
        let check = |heard: Vec<Heard>, why: &str| match &heard[..] {
            [Heard::Violation(reason)] => assert!(reason.contains(why), "{reason}"),
            other => panic!("{why}: {other:?}"),
        };
        let mut fresh = wire(Shape::Ga);
        check(fresh.receive(&Message::text("{")), "EOF");
        check(fresh.receive(&Message::text("[1]")), "no type");
        check(fresh.receive(&Message::binary(vec![0])), "binary");
        check(
            fresh.receive(&Message::text(r#"{"type":"session.created"}"#)),
            "no event_id",
        );
        check(
            hear(&mut fresh, json!({"type":"response.done"})),
            "before session.created",
        );
        let mut wire = open(Shape::Ga);
        let mut stranger = delta("response.output_audio.delta");
        stranger["item_id"] = json!("other");
        check(hear(&mut wire, stranger), "not announced");
        let mut odd = delta("response.output_audio.delta");
        odd["delta"] = json!("AQ==");
        check(hear(&mut wire, odd), "16 bit");
        check(
            hear(&mut wire, json!({"type":"conversation.item.created"})),
            "shape",
        );
    }

    #[test]
    fn tokens_are_summed() {
        let mut wire = open(Shape::Ga);
        let done = json!({"type":"response.done","response":{"id":"r","usage":{
            "total_tokens":253,"input_tokens":132,"output_tokens":121,
            "input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64},
            "output_token_details":{"text_tokens":30,"audio_tokens":91}}}});
        assert_eq!(hear(&mut wire, done.clone()), [Heard::ReplyDone]);
        hear(&mut wire, done);
        let totals = wire.tokens().unwrap();
        assert_eq!(
            (totals.responses, totals.input, totals.cached),
            (2, 264, 128)
        );
        assert_eq!((totals.output, totals.output_audio), (242, 182));
    }
}
