//! Requests for ephemeral keys, in the vendor's words (protocol reference 1.7): which session a key is to open, for
//! how long, and the reply that holds the key.
//!
//! Settings are checked for names and types (protocol reference 4.1) and otherwise kept as they are. It does not
//! decide who may ask, nor whether the model exists, and makes no key.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::realtime::{Shape, check_depth};

use super::{ErrorStyle, Refusal};

/// Nesting and keys of a body (limits reference).
const MAX_DEPTH: usize = 32;
const MAX_KEYS: usize = 512;

/// The longest name that is quoted in an error.
const MAX_QUOTED: usize = 64;

/// Bounds of a key's life, in seconds (protocol reference 1.7).
const LIFE: std::ops::RangeInclusive<u64> = 10..=7200;

/// Lives of keys that nobody chose: of the preview's, and of GA's.
const PREVIEW_LIFE: Duration = Duration::from_secs(60);
const GA_LIFE: Duration = Duration::from_secs(600);

/// The longest model or deployment name, as in a URL.
const MAX_MODEL_BYTES: usize = 256;

/// Where keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintRoute {
    /// `POST /openai/realtimeapi/sessions?api-version=...`
    AzureSessions,
    /// `POST /v1/realtime/sessions`
    Sessions,
    /// `POST /v1/realtime/transcription_sessions`
    TranscriptionSessions,
    /// `POST /openai/v1/realtime/client_secrets`
    AzureClientSecrets,
    /// `POST /v1/realtime/client_secrets`
    ClientSecrets,
}

impl MintRoute {
    /// The route of a path; whatever stands before its known end is the base URL that a client was given.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        match segments[..] {
            [.., "openai", "realtimeapi", "sessions"] => Some(Self::AzureSessions),
            [.., "openai", "v1", "realtime", "client_secrets"] => Some(Self::AzureClientSecrets),
            [.., "v1", "realtime", "client_secrets"] => Some(Self::ClientSecrets),
            // Azure's GA has no other way than the above.
            [.., "openai", "v1", "realtime", _] => None,
            [.., "v1", "realtime", "sessions"] => Some(Self::Sessions),
            [.., "v1", "realtime", "transcription_sessions"] => Some(Self::TranscriptionSessions),
            _ => None,
        }
    }

    /// Whose errors its clients understand.
    #[must_use]
    pub const fn style(self) -> ErrorStyle {
        match self {
            Self::AzureSessions | Self::AzureClientSecrets => ErrorStyle::Azure,
            Self::Sessions | Self::TranscriptionSessions | Self::ClientSecrets => {
                ErrorStyle::OpenAi
            }
        }
    }

    const fn shape(self) -> Shape {
        match self {
            Self::AzureClientSecrets | Self::ClientSecrets => Shape::Ga,
            Self::AzureSessions | Self::Sessions | Self::TranscriptionSessions => Shape::Preview,
        }
    }

    /// Whether the query may be like this: the version is needed on the preview's path of Azure, and on its GA path
    /// the vendor answers 401 to one.
    fn check_version(self, query: &str, lenient: bool) -> Result<(), Refusal> {
        let has_version = form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "api-version" && !value.is_empty());
        match self {
            Self::AzureSessions if !has_version => Err(Refusal::bad_request(
                "missing_required_parameter",
                "Missing required query parameter: 'api-version'.",
            )),
            Self::AzureClientSecrets if has_version && !lenient => Err(Refusal::unauthorized()),
            _ => Ok(()),
        }
    }
}

/// What was asked for.
#[derive(Clone, PartialEq)]
pub struct MintRequest {
    /// The shape of its settings, and of the reply.
    pub shape: Shape,
    /// Whether the key is to open transcription sessions.
    pub transcription: bool,
    /// The model or deployment that it is for.
    pub model: Option<String>,
    /// How long it is to work.
    pub life: Duration,
    settings: Map<String, Value>,
}

impl fmt::Debug for MintRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintRequest")
            .field("shape", &self.shape)
            .field("transcription", &self.transcription)
            .field("model", &self.model)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl MintRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// The answer to give instead of a key.
    pub fn parse(
        route: MintRoute,
        query: Option<&str>,
        body: &[u8],
        lenient_api_version: bool,
    ) -> Result<Self, Refusal> {
        route.check_version(query.unwrap_or_default(), lenient_api_version)?;
        let body = read_object(body)?;
        match route.shape() {
            Shape::Ga => Self::of_ga(body),
            Shape::Preview => Self::of_preview(route, body),
        }
    }

    fn of_ga(mut body: Map<String, Value>) -> Result<Self, Refusal> {
        let life = read_life(body.remove("expires_after"), "expires_after", GA_LIFE)?;
        let session = body.remove("session");
        if let Some(name) = body.keys().next() {
            return Err(unknown(name));
        }
        let mut settings = match session {
            Some(Value::Object(session)) => session,
            Some(_) => return Err(wrong_type("session", "an object")),
            None => Map::from_iter([("type".to_owned(), json!("realtime"))]),
        };
        let transcription = match settings.get("type") {
            Some(Value::String(kind)) if kind == "realtime" => false,
            Some(Value::String(kind)) if kind == "transcription" => true,
            Some(_) => return Err(invalid("session.type", "'realtime' or 'transcription'")),
            None => return Err(missing("session.type")),
        };
        let model = if transcription {
            None
        } else {
            read_model(settings.remove("model"), "session.model")?
        };
        let fields = if transcription {
            GA_TRANSCRIPTION
        } else {
            GA_SESSION
        };
        check_fields(&settings, fields, "session.")?;
        Ok(Self {
            shape: Shape::Ga,
            transcription,
            model,
            life,
            settings,
        })
    }

    fn of_preview(route: MintRoute, mut body: Map<String, Value>) -> Result<Self, Refusal> {
        let transcription = route == MintRoute::TranscriptionSessions;
        let life = match body.remove("client_secret") {
            None | Some(Value::Null) => PREVIEW_LIFE,
            Some(Value::Object(mut secret)) => {
                let after = secret.remove("expires_after");
                if let Some(name) = secret.keys().next() {
                    return Err(unknown(&format!("client_secret.{name}")));
                }
                read_life(after, "client_secret.expires_after", PREVIEW_LIFE)?
            }
            Some(_) => return Err(wrong_type("client_secret", "an object")),
        };
        let model = if transcription {
            None
        } else {
            read_model(body.remove("model"), "model")?
        };
        if route == MintRoute::AzureSessions && model.is_none() {
            return Err(missing("model"));
        }
        let fields = if transcription {
            PREVIEW_TRANSCRIPTION
        } else {
            PREVIEW_SESSION
        };
        check_fields(&body, fields, "")?;
        Ok(Self {
            shape: Shape::Preview,
            transcription,
            model,
            life,
            settings: body,
        })
    }

    /// The settings as a `session.update` has them, without the model: a JSON object.
    #[must_use]
    pub fn settings_json(&self) -> String {
        Value::Object(self.settings.clone()).to_string()
    }

    /// The reply, a JSON text. `session_id` is for people only: there is no session yet.
    #[must_use]
    pub fn reply(&self, key: &str, expires_at: u64, session_id: &str) -> String {
        let mut session = self.settings.clone();
        let object = if self.transcription {
            "realtime.transcription_session"
        } else {
            "realtime.session"
        };
        session.insert("id".to_owned(), json!(session_id));
        session.insert("object".to_owned(), json!(object));
        session.insert("expires_at".to_owned(), json!(0));
        if let Some(model) = &self.model {
            session.insert("model".to_owned(), json!(model));
        }
        let secret = json!({"value": key, "expires_at": expires_at});
        match self.shape {
            Shape::Ga => {
                if !self.transcription {
                    set_default(&mut session, "output_modalities", json!(["audio"]));
                }
                json!({"value": key, "expires_at": expires_at, "session": session}).to_string()
            }
            Shape::Preview => {
                if !self.transcription {
                    set_default(&mut session, "modalities", json!(["audio", "text"]));
                }
                session.insert("client_secret".to_owned(), secret);
                Value::Object(session).to_string()
            }
        }
    }
}

fn set_default(session: &mut Map<String, Value>, name: &str, value: Value) {
    session.entry(name).or_insert(value);
}

/// A body's object; no body is an empty one.
fn read_object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let refused = |problem: String| Refusal::bad_request("invalid_json", problem);
    let text = std::str::from_utf8(body)
        .map_err(|_| refused("The body is not UTF-8.".to_owned()))?
        .trim();
    if text.is_empty() {
        return Ok(Map::new());
    }
    check_depth(text, MAX_DEPTH, MAX_KEYS).map_err(|limit| refused(format!("{limit}.")))?;
    serde_json::from_str(text).map_err(|_| refused("The body is not a JSON object.".to_owned()))
}

fn read_life(after: Option<Value>, name: &str, default: Duration) -> Result<Duration, Refusal> {
    let mut after = match after {
        None | Some(Value::Null) => return Ok(default),
        Some(Value::Object(after)) => after,
        Some(_) => return Err(wrong_type(name, "an object")),
    };
    match after.remove("anchor") {
        None => {}
        Some(Value::String(anchor)) if anchor == "created_at" => {}
        Some(_) => return Err(invalid(&format!("{name}.anchor"), "'created_at'")),
    }
    let life = match after.remove("seconds") {
        None => default,
        Some(seconds) => seconds
            .as_u64()
            .filter(|seconds| LIFE.contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| invalid(&format!("{name}.seconds"), "an integer from 10 to 7200"))?,
    };
    match after.keys().next() {
        Some(other) => Err(unknown(&format!("{name}.{other}"))),
        None => Ok(life),
    }
}

fn read_model(model: Option<Value>, name: &str) -> Result<Option<String>, Refusal> {
    match model {
        None => Ok(None),
        Some(Value::String(model))
            if (1..=MAX_MODEL_BYTES).contains(&model.len())
                && model.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(model))
        }
        Some(_) => Err(invalid(name, "the name of a model or deployment")),
    }
}

/// A setting that there is, by its name and what may stand there.
type Field = (&'static str, Kind);

/// What may stand at a name.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    /// A number within these bounds.
    Number(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Tokens: 1 to 4096, or `"inf"`.
    Cap,
    Array,
    Object,
    /// An object with these settings.
    Fields(&'static [Field]),
    TextOrObject,
}

use Kind::{Array, Bool, Cap, Fields, Number, Object, Text, TextOrObject, Word};

/// Of which `null` is a value too.
const NULLABLE: &[&str] = &[
    "include",
    "input_audio_noise_reduction",
    "input_audio_transcription",
    "noise_reduction",
    "prompt",
    "tracing",
    "transcription",
    "turn_detection",
];

const PREVIEW_FORMAT: Kind = Word(&["pcm16", "g711_ulaw", "g711_alaw"]);

const PREVIEW_SESSION: &[Field] = &[
    ("modalities", Array),
    ("instructions", Text),
    ("voice", TextOrObject),
    ("speed", Number(0.25, 1.5)),
    ("input_audio_format", PREVIEW_FORMAT),
    ("output_audio_format", PREVIEW_FORMAT),
    ("input_audio_transcription", Object),
    ("input_audio_noise_reduction", Object),
    ("turn_detection", Object),
    ("tools", Array),
    ("tool_choice", TextOrObject),
    ("temperature", Number(0.6, 1.2)),
    ("max_response_output_tokens", Cap),
    ("tracing", TextOrObject),
    ("truncation", TextOrObject),
    ("prompt", Object),
    ("include", Array),
];

const PREVIEW_TRANSCRIPTION: &[Field] = &[
    ("modalities", Array),
    ("input_audio_format", PREVIEW_FORMAT),
    ("input_audio_transcription", Object),
    ("input_audio_noise_reduction", Object),
    ("turn_detection", Object),
    ("include", Array),
];

const GA_INPUT: Kind = Fields(&[
    ("format", Object),
    ("transcription", Object),
    ("noise_reduction", Object),
    ("turn_detection", Object),
]);

const GA_OUTPUT: Kind = Fields(&[
    ("format", Object),
    ("voice", TextOrObject),
    ("speed", Number(0.25, 1.5)),
]);

const GA_SESSION: &[Field] = &[
    ("type", Text),
    ("output_modalities", Array),
    ("instructions", Text),
    (
        "audio",
        Fields(&[("input", GA_INPUT), ("output", GA_OUTPUT)]),
    ),
    ("tools", Array),
    ("tool_choice", TextOrObject),
    ("parallel_tool_calls", Bool),
    ("reasoning", Object),
    ("max_output_tokens", Cap),
    ("tracing", TextOrObject),
    ("truncation", TextOrObject),
    ("prompt", Object),
    ("include", Array),
];

const GA_TRANSCRIPTION: &[Field] = &[
    ("type", Text),
    ("audio", Fields(&[("input", GA_INPUT)])),
    ("include", Array),
];

fn check_fields(
    settings: &Map<String, Value>,
    fields: &[Field],
    prefix: &str,
) -> Result<(), Refusal> {
    for (name, value) in settings {
        let path = format!("{prefix}{name}");
        let Some((_, kind)) = fields.iter().find(|(known, _)| known == name) else {
            return Err(unknown(&path));
        };
        if value.is_null() && NULLABLE.contains(&name.as_str()) {
            continue;
        }
        check_kind(value, *kind, &path)?;
    }
    Ok(())
}

fn check_kind(value: &Value, kind: Kind, path: &str) -> Result<(), Refusal> {
    let (is_good, wanted) = match kind {
        Text => (value.is_string(), "a string"),
        Bool => (value.is_boolean(), "a boolean"),
        Array => (value.is_array(), "an array"),
        Object => (value.is_object(), "an object"),
        TextOrObject => (
            value.is_string() || value.is_object(),
            "a string or an object",
        ),
        Number(least, most) => match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => (true, ""),
            _ => return Err(invalid(path, &format!("a number from {least} to {most}"))),
        },
        Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => (true, ""),
            _ => return Err(invalid(path, &format!("one of '{}'", words.join("', '")))),
        },
        Cap => match value.as_u64() {
            Some(1..=4096) => (true, ""),
            _ if value == "inf" => (true, ""),
            _ => return Err(invalid(path, "an integer from 1 to 4096, or 'inf'")),
        },
        Fields(fields) => match value {
            Value::Object(object) => return check_fields(object, fields, &format!("{path}.")),
            _ => (false, "an object"),
        },
    };
    if is_good {
        Ok(())
    } else {
        Err(wrong_type(path, wanted))
    }
}

fn unknown(name: &str) -> Refusal {
    let message = format!("Unknown parameter: '{}'.", quotable(name));
    Refusal::bad_request("unknown_parameter", message)
}

fn missing(name: &str) -> Refusal {
    let message = format!("Missing required parameter: '{name}'.");
    Refusal::bad_request("missing_required_parameter", message)
}

fn wrong_type(name: &str, wanted: &str) -> Refusal {
    let message = format!(
        "Invalid type for '{}': {wanted} was expected.",
        quotable(name)
    );
    Refusal::bad_request("invalid_type", message)
}

fn invalid(name: &str, wanted: &str) -> Refusal {
    let message = format!(
        "Invalid value for '{}': {wanted} was expected.",
        quotable(name)
    );
    Refusal::bad_request("invalid_value", message)
}

/// A name that a client invented, as far as it can be said again.
fn quotable(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_graphic)
        .take(MAX_QUOTED)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AZURE: Option<&str> = Some("api-version=2025-04-01-preview");

    fn parse(route: MintRoute, body: &Value) -> Result<MintRequest, Refusal> {
        let query = AZURE.filter(|_| route == MintRoute::AzureSessions);
        MintRequest::parse(route, query, body.to_string().as_bytes(), false)
    }

    fn refused(route: MintRoute, body: &Value, code: &str, name: &str) {
        let refusal = parse(route, body).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (400, code), "{body}");
        assert!(
            refusal.message.contains(name),
            "{body}: {}",
            refusal.message
        );
    }

    #[test]
    fn routes_are_known_by_their_end() {
        use MintRoute::*;
        for (path, expected) in [
            ("/openai/realtimeapi/sessions", Some(AzureSessions)),
            ("/base/openai/realtimeapi/sessions", Some(AzureSessions)),
            ("/v1/realtime/sessions", Some(Sessions)),
            (
                "/v1/realtime/transcription_sessions",
                Some(TranscriptionSessions),
            ),
            (
                "/openai/v1/realtime/client_secrets",
                Some(AzureClientSecrets),
            ),
            ("/v1/realtime/client_secrets", Some(ClientSecrets)),
            ("/openai/v1/realtime/sessions", None),
            ("/v1/realtime", None),
            ("/v1/realtime/client_secrets/x", None),
            ("/", None),
        ] {
            assert_eq!(MintRoute::of(path), expected, "{path}");
        }
    }

    #[test]
    fn the_version_is_needed_on_one_path_and_wrong_on_another() {
        let status = |route, query, lenient| {
            let body = br#"{"model":"m"}"#;
            MintRequest::parse(route, query, body, lenient)
                .map_or_else(|refusal| refusal.status, |_| 200)
        };
        assert_eq!(status(MintRoute::AzureSessions, AZURE, false), 200);
        assert_eq!(status(MintRoute::AzureSessions, None, false), 400);
        assert_eq!(
            status(MintRoute::AzureSessions, Some("api-version="), false),
            400
        );
        assert_eq!(status(MintRoute::Sessions, AZURE, false), 200);
        let ga = |query, lenient| {
            MintRequest::parse(MintRoute::AzureClientSecrets, query, b"{}", lenient)
                .map_or_else(|refusal| refusal.status, |_| 200)
        };
        assert_eq!(ga(None, false), 200);
        assert_eq!(ga(AZURE, false), 401);
        assert_eq!(ga(AZURE, true), 200);
    }

    #[test]
    fn a_preview_key_is_asked_for_and_answered() {
        let body = json!({"model": "dep", "voice": "verse", "turn_detection": null});
        let request = parse(MintRoute::AzureSessions, &body).unwrap();
        assert_eq!(request.model.as_deref(), Some("dep"));
        assert!(!format!("{request:?}").contains("verse"));
        assert_eq!(request.life, Duration::from_secs(60));
        assert_eq!(
            request.settings_json(),
            r#"{"turn_detection":null,"voice":"verse"}"#
        );
        let reply: Value = serde_json::from_str(&request.reply("ek_k", 160, "sess_a")).unwrap();
        let expected = json!({
            "id": "sess_a", "object": "realtime.session", "model": "dep", "voice": "verse",
            "turn_detection": null, "modalities": ["audio", "text"], "expires_at": 0,
            "client_secret": {"value": "ek_k", "expires_at": 160}
        });
        assert_eq!(reply, expected);
        let body = json!({"input_audio_format": "g711_ulaw", "client_secret": {"expires_after": {"anchor": "created_at", "seconds": 30}}});
        let request = parse(MintRoute::TranscriptionSessions, &body).unwrap();
        assert!(request.transcription && request.life == Duration::from_secs(30));
        let reply: Value = serde_json::from_str(&request.reply("ek_k", 1, "s")).unwrap();
        assert_eq!(reply["object"], "realtime.transcription_session");
        assert_eq!(reply["client_secret"]["value"], "ek_k");
    }

    #[test]
    fn a_ga_key_is_asked_for_and_answered() {
        let body = json!({
            "expires_after": {"anchor": "created_at", "seconds": 7200},
            "session": {"type": "realtime", "model": "m", "audio": {"output": {"voice": "marin"}}}
        });
        let request = parse(MintRoute::ClientSecrets, &body).unwrap();
        assert_eq!(request.life, Duration::from_secs(7200));
        assert_eq!(
            request.settings_json(),
            r#"{"audio":{"output":{"voice":"marin"}},"type":"realtime"}"#
        );
        let reply: Value = serde_json::from_str(&request.reply("ek_k", 160, "sess_b")).unwrap();
        let expected = json!({"value": "ek_k", "expires_at": 160, "session": {
            "type": "realtime", "object": "realtime.session", "id": "sess_b", "model": "m", "expires_at": 0,
            "output_modalities": ["audio"], "audio": {"output": {"voice": "marin"}}
        }});
        assert_eq!(reply, expected);
        for empty in [&b""[..], b"{}", b" {} "] {
            let request = MintRequest::parse(MintRoute::ClientSecrets, None, empty, false).unwrap();
            assert_eq!(request.life, Duration::from_secs(600));
            assert_eq!((request.model, request.transcription), (None, false));
        }
        let listens = json!({"session": {"type": "transcription", "audio": {"input": {"transcription": {"model": "w"}}}}});
        let request = parse(MintRoute::ClientSecrets, &listens).unwrap();
        assert!(request.transcription);
        let reply: Value = serde_json::from_str(&request.reply("ek_k", 160, "s")).unwrap();
        assert_eq!(reply["session"]["object"], "realtime.transcription_session");
    }

    #[test]
    fn what_a_session_cannot_be_is_refused() {
        let ga = |session: Value, code: &str, name: &str| {
            refused(
                MintRoute::ClientSecrets,
                &json!({"session": session}),
                code,
                name,
            );
        };
        ga(json!(5), "invalid_type", "'session'");
        ga(json!({}), "missing_required_parameter", "'session.type'");
        ga(json!({"type": "video"}), "invalid_value", "'session.type'");
        ga(
            json!({"type": "realtime", "voice": "alloy"}),
            "unknown_parameter",
            "'session.voice'",
        );
        ga(
            json!({"type": "realtime", "model": ""}),
            "invalid_value",
            "'session.model'",
        );
        ga(
            json!({"type": "realtime", "model": "a\nb"}),
            "invalid_value",
            "'session.model'",
        );
        ga(
            json!({"type": "realtime", "instructions": null}),
            "invalid_type",
            "'session.instructions'",
        );
        ga(
            json!({"type": "realtime", "tools": {}}),
            "invalid_type",
            "'session.tools'",
        );
        ga(
            json!({"type": "realtime", "max_output_tokens": 0}),
            "invalid_value",
            "4096",
        );
        ga(
            json!({"type": "realtime", "audio": {"output": {"speed": 9}}}),
            "invalid_value",
            "'session.audio.output.speed'",
        );
        ga(
            json!({"type": "transcription", "audio": {"output": {}}}),
            "unknown_parameter",
            "'session.audio.output'",
        );
        ga(
            json!({"type": "transcription", "tools": []}),
            "unknown_parameter",
            "'session.tools'",
        );
        let preview =
            |body: Value, code: &str, name: &str| refused(MintRoute::Sessions, &body, code, name);
        preview(json!({"type": "realtime"}), "unknown_parameter", "'type'");
        preview(
            json!({"input_audio_format": "mp3"}),
            "invalid_value",
            "'input_audio_format'",
        );
        preview(
            json!({"client_secret": "ek_mine"}),
            "invalid_type",
            "'client_secret'",
        );
        preview(
            json!({"client_secret": {"value": "ek_mine"}}),
            "unknown_parameter",
            "'client_secret.value'",
        );
        refused(
            MintRoute::AzureSessions,
            &json!({}),
            "missing_required_parameter",
            "'model'",
        );
        refused(
            MintRoute::ClientSecrets,
            &json!({"voice": 1}),
            "unknown_parameter",
            "'voice'",
        );
        refused(
            MintRoute::ClientSecrets,
            &json!([]),
            "invalid_json",
            "object",
        );
    }

    #[test]
    fn lives_are_bounded() {
        let check = |after: Value, expected: Option<u64>| {
            let parsed = parse(MintRoute::ClientSecrets, &json!({"expires_after": after}));
            let life = parsed.ok().map(|request| request.life.as_secs());
            assert_eq!(life, expected, "{after}");
        };
        check(json!({"seconds": 10}), Some(10));
        check(json!({"seconds": 7200}), Some(7200));
        check(json!({"anchor": "created_at"}), Some(600));
        check(json!(null), Some(600));
        for bad in [
            json!(9),
            json!(7201),
            json!(60.5),
            json!("60"),
            json!(-60),
            json!(null),
        ] {
            check(json!({"seconds": bad}), None);
        }
        check(json!({"anchor": "now", "seconds": 60}), None);
        check(json!({"seconds": 60, "minutes": 1}), None);
        check(json!(60), None);
    }

    #[test]
    fn bodies_are_bounded_in_depth_and_keys() {
        let deep = format!(r#"{{"session":{}{}}}"#, "[".repeat(32), "]".repeat(32));
        let many: Map<_, _> = (0..513).map(|n| (n.to_string(), json!(0))).collect();
        for body in [
            deep,
            Value::Object(many).to_string(),
            "{".to_owned(),
            "\u{1}".to_owned(),
        ] {
            let refusal =
                MintRequest::parse(MintRoute::ClientSecrets, None, body.as_bytes(), false);
            assert_eq!(refusal.unwrap_err().code, "invalid_json");
        }
        let not_text = MintRequest::parse(MintRoute::ClientSecrets, None, b"\xFF", false);
        assert_eq!(not_text.unwrap_err().code, "invalid_json");
    }

    proptest! {
        #[test]
        fn total_over_anything(body in proptest::collection::vec(any::<u8>(), 0..80), query in any::<String>()) {
            for route in [MintRoute::AzureSessions, MintRoute::ClientSecrets, MintRoute::TranscriptionSessions] {
                let _ = MintRequest::parse(route, Some(&query), &body, false);
            }
        }
    }
}
