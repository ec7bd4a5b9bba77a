//! Behaviour of the pure session, driven through virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{
    Enforcement, FaultKind, FaultRule, LatencyConfig, QuotaConfig, RateLimitsPosition, ReplyConfig,
    ScriptOutcome, ScriptTurn, ScriptedCall, Shape, SimulatorConfig,
};
use super::session::{Output, Session, SessionKind, SessionSetup};

/// A session and its virtual clock.
struct Bench {
    session: Session,
    now: Instant,
    start: Instant,
}

impl Bench {
    fn new(shape: Shape, config: SimulatorConfig) -> Self {
        Self::with(shape, config, |_| {})
    }

    fn with(shape: Shape, config: SimulatorConfig, change: impl FnOnce(&mut SessionSetup)) -> Self {
        let now = Instant::now();
        let mut setup = SessionSetup::new(Arc::new(config), shape);
        change(&mut setup);
        Self {
            session: Session::new(&setup, 1, now),
            now,
            start: now,
        }
    }

    /// A session whose `session.created` is out of the way.
    fn started(shape: Shape, config: SimulatorConfig) -> Self {
        let mut bench = Self::new(shape, config);
        bench.drain();
        bench
    }

    fn drain(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.session.poll_output())
            .map(|output| match output {
                Output::Text(text) => {
                    serde_json::from_str(&text).unwrap_or_else(|_| json!({"type": "not json"}))
                }
                Output::Close { code, reason } => {
                    json!({"type": "CLOSE", "code": code, "reason": reason})
                }
                Output::Abort => json!({"type": "ABORT"}),
            })
            .collect()
    }

    /// Sends an event and returns what came back at once.
    fn send(&mut self, event: Value) -> Vec<Value> {
        self.session.handle_message(&event.to_string(), self.now);
        self.drain()
    }

    /// Lets time pass, timer by timer.
    fn run(&mut self, ms: u64) -> Vec<Value> {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.session.poll_timeout()
            && at <= end
        {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
        }
        self.now = end;
        self.drain()
    }

    fn append(&mut self, samples: &[i16]) -> Vec<Value> {
        let bytes: Vec<u8> = samples
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        self.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}))
    }

    /// Appends (level, ms) stretches in real time, 20 ms at a time; returns all that came back.
    fn speak(&mut self, stretches: &[(i16, u64)]) -> Vec<Value> {
        let audio = square(stretches);
        let mut events = Vec::new();
        for chunk in audio.chunks(480) {
            events.extend(self.run(20));
            events.extend(self.append(chunk));
        }
        events
    }

    fn update(&mut self, session: Value) -> Vec<Value> {
        self.send(json!({"type": "session.update", "event_id": "upd", "session": session}))
    }

    fn say(&mut self, text: &str) -> Vec<Value> {
        let content = json!([{"type": "input_text", "text": text}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        self.send(json!({"type": "conversation.item.create", "item": item}))
    }

    /// Creates a response and runs it to its end.
    fn respond(&mut self, response: Value) -> Vec<Value> {
        let mut events = self.send(json!({"type": "response.create", "response": response}));
        events.extend(self.run(60_000));
        events
    }

    fn error_code(&mut self, event: Value) -> String {
        let events = self.send(event);
        assert_eq!(types(&events), ["error"], "{events:?}");
        events[0]["error"]["code"]
            .as_str()
            .unwrap_or("null")
            .to_owned()
    }
}

fn square(stretches: &[(i16, u64)]) -> Vec<i16> {
    stretches
        .iter()
        .flat_map(|&(level, ms)| {
            (0..ms * 24).map(move |n| if n % 48 < 24 { level } else { -level })
        })
        .collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect()
}

/// Types with runs of the same type written once.
fn folded(events: &[Value]) -> Vec<&str> {
    let mut types = types(events);
    types.dedup();
    types
}

fn find<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let found = events.iter().find(|event| event["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", types(events)))
}

fn text_of(events: &[Value], kind: &str) -> String {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .filter_map(|event| event["delta"].as_str())
        .collect()
}

fn audio_ms(events: &[Value], kind: &str) -> usize {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .map(|event| {
            STANDARD
                .decode(event["delta"].as_str().unwrap())
                .unwrap()
                .len()
                / 48
        })
        .sum()
}

fn tone(ms: u64) -> SimulatorConfig {
    SimulatorConfig {
        reply: ReplyConfig::Tone {
            hz: 440.0,
            length: Duration::from_millis(ms),
        },
        ..SimulatorConfig::default()
    }
}

fn script(turns: Vec<ScriptTurn>) -> SimulatorConfig {
    SimulatorConfig {
        reply: ReplyConfig::Script {
            turns,
            repeat: false,
        },
        ..SimulatorConfig::default()
    }
}

fn saying(text: &str, ms: u64) -> ScriptTurn {
    ScriptTurn {
        say: Some(text.to_owned()),
        length: Some(Duration::from_millis(ms)),
        ..ScriptTurn::default()
    }
}

fn manual(shape: Shape, config: SimulatorConfig) -> Bench {
    let mut bench = Bench::started(shape, config);
    match shape {
        Shape::Preview => bench.update(json!({"turn_detection": null})),
        Shape::Ga => {
            bench.update(json!({"type": "realtime", "audio": {"input": {"turn_detection": null}}}))
        }
    };
    bench
}

// Sessions

#[test]
fn default_sessions_are_those_of_the_reference() {
    let config = || SimulatorConfig {
        instructions: "<default>".into(),
        ..SimulatorConfig::default()
    };
    let mut bench = Bench::with(Shape::Preview, config(), |setup| {
        setup.epoch = 1_750_000_000
    });
    let created = bench.drain().remove(0);
    let mut session = created["session"].clone();
    assert_eq!(session["id"].as_str().unwrap().len(), 26);
    session["id"] = "sess_a".into();
    let expected = json!({"id":"sess_a","object":"realtime.session","model":"gpt-4o-realtime-preview-2024-12-17","expires_at":1_750_001_800,"modalities":["audio","text"],"instructions":"<default>","voice":"alloy","turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"create_response":true,"interrupt_response":true},"input_audio_format":"pcm16","output_audio_format":"pcm16","input_audio_transcription":null,"input_audio_noise_reduction":null,"tool_choice":"auto","temperature":0.8,"max_response_output_tokens":"inf","tools":[],"client_secret":null,"include":null});
    assert_eq!(session, expected);

    let mut bench = Bench::with(Shape::Ga, config(), |setup| setup.epoch = 1_760_001_800);
    let created = bench.drain().remove(0);
    let mut session = created["session"].clone();
    session["id"] = "sess_b".into();
    let expected = json!({"type":"realtime","object":"realtime.session","id":"sess_b","model":"gpt-realtime-2025-08-28","output_modalities":["audio"],"instructions":"<default>","tools":[],"tool_choice":"auto","max_output_tokens":"inf","tracing":null,"truncation":"auto","prompt":null,"expires_at":1_760_003_600,"audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":null,"noise_reduction":null,"turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,"idle_timeout_ms":null,"create_response":true,"interrupt_response":true}},"output":{"format":{"type":"audio/pcm","rate":24000},"voice":"marin","speed":1.0}},"include":null});
    assert_eq!(session, expected);
}

#[test]
fn updates_merge_replace_and_clear() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    bench.update(json!({"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"speed": 1.2}}}));
    let events = bench.update(
        json!({"type": "realtime", "instructions": "", "audio": {"input": {
        "turn_detection": {"type": "server_vad"}, "format": {"type": "audio/pcmu"}}}}),
    );
    assert_eq!(types(&events), ["session.updated"]);
    let session = &events[0]["session"];
    assert_eq!(session["instructions"], "");
    assert_eq!(session["audio"]["output"]["speed"], 1.2);
    assert_eq!(session["audio"]["output"]["voice"], "marin");
    assert_eq!(
        session["audio"]["input"]["format"],
        json!({"type": "audio/pcmu"})
    );
    // Replaced as a whole: the object's own default, not the session's 200.
    assert_eq!(
        session["audio"]["input"]["turn_detection"]["silence_duration_ms"],
        500
    );

    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    let events = bench.update(json!({"turn_detection": {"type": "none"}, "voice": "verse"}));
    assert_eq!(events[0]["session"]["turn_detection"], Value::Null);
    assert_eq!(events[0]["session"]["voice"], "verse");
}

/// Sends a session.update that must be refused with this code and param, and must change nothing.
fn check_refused(shape: Shape, update: Value, code: &str, param: &str) {
    let mut bench = Bench::started(shape, SimulatorConfig::default());
    let events = bench.update(update);
    assert_eq!(types(&events), ["error"]);
    let error = &events[0]["error"];
    assert_eq!(
        (error["code"].as_str(), error["param"].as_str()),
        (Some(code), Some(param)),
        "{error}"
    );
    assert_eq!(error["event_id"], "upd");
    let harmless = match shape {
        Shape::Preview => json!({}),
        Shape::Ga => json!({"type": "realtime"}),
    };
    let session = bench.update(harmless)[0]["session"].clone();
    assert_ne!(session["instructions"], "changed");
}

#[test]
fn refused_updates() {
    let ga = |field: &str, value: Value| {
        let mut update = json!({"type": "realtime", "instructions": "changed"});
        update[field] = value;
        update
    };
    let preview = |field: &str, value: Value| {
        let mut update = json!({"instructions": "changed"});
        update[field] = value;
        update
    };
    let detection = |field: &str, value: Value| {
        let mut detection = json!({"type": "server_vad"});
        detection[field] = value;
        json!({"input": {"turn_detection": detection}})
    };
    let (p, g) = (Shape::Preview, Shape::Ga);
    check_refused(
        g,
        json!({"instructions": "changed"}),
        "missing_required_parameter",
        "session.type",
    );
    check_refused(
        g,
        ga("type", "transcription".into()),
        "invalid_value",
        "session.type",
    );
    check_refused(
        g,
        ga("voice", "alloy".into()),
        "unknown_parameter",
        "session.voice",
    );
    check_refused(
        g,
        ga("modalities", json!(["text"])),
        "unknown_parameter",
        "session.modalities",
    );
    check_refused(
        g,
        ga("temperature", json!(0.8)),
        "unknown_parameter",
        "session.temperature",
    );
    check_refused(
        g,
        ga("audio", json!({"input": {"foo": 1}})),
        "unknown_parameter",
        "session.audio.input.foo",
    );
    check_refused(
        g,
        ga("output_modalities", json!(["audio", "text"])),
        "invalid_value",
        "session.output_modalities",
    );
    check_refused(
        g,
        ga("max_output_tokens", json!(4_097)),
        "invalid_value",
        "session.max_output_tokens",
    );
    check_refused(
        g,
        ga("model", "other".into()),
        "invalid_value",
        "session.model",
    );
    check_refused(
        g,
        ga("audio", detection("threshold", json!(1.5))),
        "invalid_value",
        "session.audio.input.turn_detection.threshold",
    );
    check_refused(
        g,
        ga("audio", detection("idle_timeout_ms", json!(100))),
        "invalid_value",
        "session.audio.input.turn_detection.idle_timeout_ms",
    );
    check_refused(
        g,
        ga("audio", json!({"output": {"speed": 2.0}})),
        "invalid_value",
        "session.audio.output.speed",
    );
    check_refused(g, ga("tools", json!("x")), "invalid_type", "session.tools");
    check_refused(
        p,
        preview("type", "realtime".into()),
        "unknown_parameter",
        "session.type",
    );
    check_refused(
        p,
        preview("output_modalities", json!(["audio"])),
        "unknown_parameter",
        "session.output_modalities",
    );
    check_refused(
        p,
        preview("audio", json!({})),
        "unknown_parameter",
        "session.audio",
    );
    check_refused(
        p,
        preview("modalities", json!(["audio"])),
        "invalid_value",
        "session.modalities",
    );
    check_refused(
        p,
        preview("temperature", json!(0.2)),
        "invalid_value",
        "session.temperature",
    );
    check_refused(
        p,
        preview("input_audio_format", "opus".into()),
        "invalid_value",
        "session.input_audio_format",
    );
}

#[test]
fn a_session_has_a_cap() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    let events = bench.run(31 * 60 * 1_000);
    assert_eq!(types(&events), ["error", "CLOSE"]);
    assert_eq!(events[0]["error"]["code"], "session_expired");
    assert_eq!(
        events[0]["error"]["message"],
        "Your session hit the maximum duration of 30 minutes."
    );
    assert_eq!(
        (&events[1]["code"], &events[1]["reason"]),
        (&json!(1001), &events[0]["error"]["message"])
    );
    assert!(bench.session.poll_timeout().is_none());
    assert_eq!(
        bench
            .session
            .record()
            .lock()
            .unwrap()
            .closed
            .as_ref()
            .unwrap()
            .code,
        1001
    );
}

// Order of events

const PREVIEW_AUDIO: &[&str] = &[
    "conversation.item.created",
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.created",
    "response.content_part.added",
    "response.audio_transcript.delta",
    "response.audio.delta",
    "response.audio.done",
    "response.audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
];
const GA_AUDIO: &[&str] = &[
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
];
const PREVIEW_TEXT: &[&str] = &[
    "conversation.item.created",
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.created",
    "response.content_part.added",
    "response.text.delta",
    "response.text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
];
const GA_TEXT: &[&str] = &[
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
];
const CALL: &[&str] = &[
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.created",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.done",
];
const GA_CALL: &[&str] = &[
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
];

fn check_order(shape: Shape, text_only: bool, expected: &[&str]) {
    // Four tokens, so that the transcript is out before the first audio.
    let mut bench = Bench::started(shape, script(vec![saying("Sure, one moment please.", 700)]));
    let mut events = bench.say("Hello");
    let modalities = match shape {
        Shape::Preview if text_only => json!({"modalities": ["text"]}),
        Shape::Ga if text_only => json!({"output_modalities": ["text"]}),
        _ => Value::Null,
    };
    events.extend(bench.respond(modalities));
    assert_eq!(folded(&events), expected);
    let ids: std::collections::BTreeSet<_> = events
        .iter()
        .map(|event| event["event_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn order_of_audio_and_text_responses() {
    check_order(Shape::Preview, false, PREVIEW_AUDIO);
    check_order(Shape::Ga, false, GA_AUDIO);
    check_order(Shape::Preview, true, PREVIEW_TEXT);
    check_order(Shape::Ga, true, GA_TEXT);
}

#[test]
fn done_events_repeat_everything_and_generated_items_start_empty() {
    let mut bench = Bench::started(
        Shape::Ga,
        script(vec![saying("Sure, one moment please.", 700)]),
    );
    let events = bench.respond(json!({"metadata": {"job": "x"}}));
    let created = find(&events, "response.created");
    assert_eq!(created["response"]["output"], json!([]));
    assert_eq!(created["response"]["usage"], Value::Null);
    assert_eq!(created["response"]["metadata"], json!({"job": "x"}));
    assert_eq!(
        find(&events, "response.output_item.added")["item"]["content"],
        json!([])
    );
    let part = &find(&events, "response.content_part.added")["part"];
    assert_eq!(*part, json!({"type": "audio", "transcript": ""}));
    let transcript = "Sure, one moment please.";
    assert_eq!(
        text_of(&events, "response.output_audio_transcript.delta"),
        transcript
    );
    assert_eq!(
        find(&events, "response.output_audio_transcript.done")["transcript"],
        transcript
    );
    assert_eq!(
        find(&events, "response.content_part.done")["part"]["transcript"],
        transcript
    );
    assert_eq!(audio_ms(&events, "response.output_audio.delta"), 700);
    let done = &find(&events, "response.done")["response"];
    assert_eq!(done["status"], "completed");
    assert_eq!(
        done["output"][0]["content"],
        json!([{"type": "output_audio", "transcript": transcript}])
    );
    assert_eq!(done["output"][0]["status"], "completed");
    assert_eq!(
        done["output"][0],
        find(&events, "response.output_item.done")["item"]
    );
}

#[test]
fn deltas_have_the_sizes_and_the_pace_of_the_reference() {
    let config = SimulatorConfig {
        latency: LatencyConfig {
            jitter: 0.0,
            ..LatencyConfig::default()
        },
        ..tone(3_000)
    };
    let mut bench = Bench::started(Shape::Ga, config);
    bench.send(json!({"type": "response.create"}));
    let mut deltas = Vec::new();
    for _ in 0..200 {
        for event in bench.run(10) {
            if event["type"] == "response.output_audio.delta" {
                let bytes = STANDARD
                    .decode(event["delta"].as_str().unwrap())
                    .unwrap()
                    .len();
                deltas.push(((bench.now - bench.start).as_millis(), bytes));
            }
        }
    }
    assert_eq!(
        deltas[..4],
        [(250, 4_800), (270, 7_200), (300, 12_000), (350, 12_000)]
    );
    let &(last_at, last_bytes) = deltas.last().unwrap();
    assert_eq!(
        (last_at, last_bytes),
        (750, 24_000),
        "2.5 s at five times real time, the rest in one"
    );
}

#[test]
fn g711_output_is_8_khz() {
    let mut bench = Bench::started(Shape::Preview, tone(500));
    bench.update(json!({"output_audio_format": "g711_ulaw"}));
    let events = bench.respond(Value::Null);
    let bytes: usize = events
        .iter()
        .filter(|event| event["type"] == "response.audio.delta")
        .map(|event| {
            STANDARD
                .decode(event["delta"].as_str().unwrap())
                .unwrap()
                .len()
        })
        .sum();
    assert_eq!(bytes, 4_000);
    assert_eq!(
        find(&events, "response.done")["response"]["output_audio_format"],
        "g711_ulaw"
    );
}

// Function calls

fn weather_tools(shape: Shape) -> Value {
    let tools =
        json!([{"type": "function", "name": "weather", "description": "", "parameters": {}}]);
    match shape {
        Shape::Preview => json!({"tools": tools, "modalities": ["text"]}),
        Shape::Ga => json!({"type": "realtime", "tools": tools, "output_modalities": ["text"]}),
    }
}

fn check_call(shape: Shape, expected: &[&str]) {
    let mut bench = Bench::started(shape, SimulatorConfig::default());
    bench.update(weather_tools(shape));
    bench.say("Please call weather for me");
    let events = bench.respond(Value::Null);
    assert_eq!(folded(&events), expected);
    let added = find(&events, "response.output_item.added");
    assert_eq!(
        (&added["item"]["arguments"], &added["item"]["name"]),
        (&json!(""), &json!("weather"))
    );
    let done = find(&events, "response.function_call_arguments.done");
    assert_eq!(
        (&done["name"], &done["arguments"]),
        (&json!("weather"), &json!("{}"))
    );
    assert_eq!(done["call_id"], added["item"]["call_id"]);
    assert!(
        bench.run(10_000).is_empty(),
        "nothing happens without response.create"
    );
    let output =
        json!({"type": "function_call_output", "call_id": done["call_id"], "output": "sunny"});
    bench.send(json!({"type": "conversation.item.create", "item": output}));
    let events = bench.respond(Value::Null);
    let said = if shape == Shape::Ga {
        "response.output_text.done"
    } else {
        "response.text.done"
    };
    assert_eq!(find(&events, said)["text"], "The tool answered: sunny");
}

#[test]
fn function_call_round_trip() {
    check_call(Shape::Preview, CALL);
    check_call(Shape::Ga, GA_CALL);
}

#[test]
fn scripted_calls_come_in_pieces_after_what_is_said() {
    let call = ScriptedCall {
        name: "weather".into(),
        arguments: r#"{"city":"Oslo","days":3}"#.into(),
    };
    let turn = ScriptTurn {
        calls: vec![call],
        ..saying("Let me look.", 300)
    };
    let mut bench = Bench::started(Shape::Ga, script(vec![turn]));
    let events = bench.respond(Value::Null);
    let arguments = r#"{"city":"Oslo","days":3}"#;
    assert_eq!(
        text_of(&events, "response.function_call_arguments.delta"),
        arguments
    );
    let done = find(&events, "response.function_call_arguments.done");
    assert_eq!(
        (&done["arguments"], &done["output_index"]),
        (&json!(arguments), &json!(1))
    );
    assert_eq!(
        find(&events, "response.done")["response"]["output"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn script_outcomes() {
    let turn = |outcome, code: Option<&str>| ScriptTurn {
        outcome,
        code: code.map(str::to_owned),
        ..saying("one two three four", 1_000)
    };
    let turns = vec![
        turn(ScriptOutcome::ContentFilter, None),
        turn(ScriptOutcome::Unfinished, None),
        turn(ScriptOutcome::Failed, Some("inference_failed")),
    ];
    let mut bench = Bench::started(Shape::Ga, script(turns));
    let details =
        |bench: &mut Bench| find(&bench.respond(Value::Null), "response.done")["response"].clone();
    let filtered = details(&mut bench);
    assert_eq!(
        filtered["status_details"],
        json!({"type": "incomplete", "reason": "content_filter"})
    );
    assert_eq!(filtered["output"][0]["status"], "incomplete");
    let cut = details(&mut bench);
    assert_eq!(
        cut["status_details"],
        json!({"type": "incomplete", "reason": "max_output_tokens"})
    );
    let failed = details(&mut bench);
    assert_eq!(
        (&failed["status"], &failed["output"]),
        (&json!("failed"), &json!([]))
    );
    assert_eq!(
        failed["status_details"]["error"]["code"],
        "inference_failed"
    );
    assert_eq!(failed["usage"]["total_tokens"], 0);
    assert_eq!(failed["usage"]["input_token_details"]["cached_tokens"], 0);
}

// Turns

#[test]
fn worked_timeline_of_a_vad_turn() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    let events = bench.speak(&[(0, 1_312), (3_000, 1_568), (0, 300)]);
    assert_eq!(
        folded(&events),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "rate_limits.updated",
        ]
    );
    let id = &events[0]["item_id"];
    assert_eq!(events[0]["audio_start_ms"], 1_012);
    assert_eq!(
        (&events[1]["audio_end_ms"], &events[1]["item_id"]),
        (&json!(3_104), id)
    );
    assert_eq!(
        (&events[2]["item_id"], &events[2]["previous_item_id"]),
        (id, &Value::Null)
    );
    assert_eq!(
        events[3]["item"]["content"],
        json!([{"type": "input_audio", "transcript": null}])
    );
    let reply = bench.run(20_000);
    // The committed segment, 1,012 to 3,104 ms, said back in full.
    assert_eq!(audio_ms(&reply, "response.output_audio.delta"), 2_092);
    let transcript = &find(&reply, "response.output_audio_transcript.done")["transcript"];
    assert_eq!(transcript, "You said 2.1 seconds of speech.");
}

#[test]
fn turns_in_one_append_are_all_found() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    bench.update(json!({"turn_detection": {
        "type": "server_vad", "silence_duration_ms": 200, "create_response": false}}));
    let audio = square(&[
        (0, 640),
        (3_000, 640),
        (0, 320),
        (3_000, 640),
        (0, 320),
        (3_000, 320),
    ]);
    let events = bench.append(&audio);
    let starts: Vec<_> = events
        .iter()
        .filter_map(|event| event["audio_start_ms"].as_u64())
        .collect();
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| event["audio_end_ms"].as_u64())
        .collect();
    assert_eq!(starts, [340, 1_300, 2_260]);
    assert_eq!(ends, [1_504, 2_464]);
    assert!(
        bench.run(60_000).is_empty(),
        "no end of turn while no audio arrives, and no response"
    );
}

#[test]
fn buffer_clock_survives_clear_and_commit() {
    let mut bench = Bench::started(Shape::Ga, SimulatorConfig::default());
    bench.speak(&[(3_000, 640)]);
    assert_eq!(
        types(&bench.send(json!({"type": "input_audio_buffer.clear"}))),
        ["input_audio_buffer.cleared"]
    );
    let events = bench.speak(&[(0, 640), (3_000, 320)]);
    assert_eq!(
        types(&events),
        ["input_audio_buffer.speech_started"],
        "the cleared turn has no end"
    );
    assert_eq!(events[0]["audio_start_ms"], 980);
}

#[test]
fn manual_commit() {
    let mut bench = manual(Shape::Preview, SimulatorConfig::default());
    bench.append(&square(&[(3_000, 60)]));
    let events = bench.send(json!({"type": "input_audio_buffer.commit", "event_id": "c7"}));
    let error = &events[0]["error"];
    assert_eq!(error["code"], "input_audio_buffer_commit_empty");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .ends_with("but buffer only has 60.00ms of audio."),
        "{error}"
    );
    assert_eq!(error["event_id"], "c7");
    bench.append(&square(&[(3_000, 60)]));
    let events = bench.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(
        types(&events),
        ["input_audio_buffer.committed", "conversation.item.created"]
    );
    assert!(bench.run(5_000).is_empty(), "a commit starts no response");
    let code = bench.error_code(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(code, "input_audio_buffer_commit_empty");
}

fn detection(create: bool, interrupt: bool) -> Value {
    json!({"type": "realtime", "audio": {"input": {"turn_detection": {
        "type": "server_vad", "silence_duration_ms": 200, "create_response": create,
        "interrupt_response": interrupt}}}})
}

#[test]
fn barge_in_cancels_what_is_being_generated() {
    let mut bench = Bench::started(Shape::Ga, tone(20_000));
    bench.send(json!({"type": "response.create"}));
    let sent = bench.run(1_000);
    let heard = audio_ms(&sent, "response.output_audio.delta");
    let item_id = find(&sent, "response.output_item.added")["item"]["id"].clone();
    let events = bench.append(&square(&[(3_000, 96)]));
    assert_eq!(
        types(&events),
        [
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
    );
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "cancelled", "reason": "turn_detected"})
    );
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(
        response["usage"]["output_token_details"]["audio_tokens"],
        heard.div_ceil(50)
    );
    // Only what was sent can be truncated.
    let truncate = |ms: usize| json!({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": ms});
    let events = bench.send(truncate(heard + 1));
    let expected = format!(
        "Audio content of {heard}ms is already shorter than {}ms",
        heard + 1
    );
    assert_eq!(events[0]["error"]["message"], expected);
    assert_eq!(
        types(&bench.send(truncate(300))),
        ["conversation.item.truncated"]
    );
    assert_eq!(
        types(&bench.send(truncate(301))),
        ["error"],
        "truncated audio is gone"
    );
    let record = bench.session.record();
    let record = record.lock().unwrap();
    let seen: Vec<_> = record
        .truncates
        .iter()
        .map(|t| (t.audio_end_ms, t.sent_ms, t.accepted))
        .collect();
    let heard = heard as u64;
    assert_eq!(
        seen,
        [
            (heard + 1, heard, false),
            (300, heard, true),
            (301, 300, false)
        ]
    );
}

#[test]
fn barge_in_after_generation_only_reports_speech() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    bench.respond(Value::Null);
    assert_eq!(
        types(&bench.append(&square(&[(3_000, 96)]))),
        ["input_audio_buffer.speech_started"]
    );
    let code = bench.error_code(json!({"type": "response.cancel"}));
    assert_eq!(code, "response_cancel_not_active");
}

#[test]
fn without_interrupt_the_client_cancels() {
    let mut bench = Bench::started(Shape::Ga, tone(20_000));
    bench.update(detection(false, false));
    bench.send(json!({"type": "response.create"}));
    bench.run(1_000);
    assert_eq!(
        types(&bench.append(&square(&[(3_000, 96)]))),
        ["input_audio_buffer.speech_started"]
    );
    assert!(types(&bench.run(200)).contains(&"response.output_audio.delta"));
    let events = bench.send(json!({"type": "response.cancel"}));
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "cancelled", "reason": "client_cancelled"})
    );
    assert_eq!(bench.session.record().lock().unwrap().cancels.len(), 1);
}

#[test]
fn create_response_without_interrupt_collides() {
    let mut bench = Bench::started(Shape::Ga, tone(60_000));
    bench.update(detection(true, false));
    bench.send(json!({"type": "response.create"}));
    let events = bench.append(&square(&[(3_000, 320), (0, 320)]));
    let error = &find(&events, "error")["error"];
    assert_eq!(error["code"], "conversation_already_has_active_response");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("in progress: resp_")
    );
}

#[test]
fn interrupted_before_audio_cannot_be_truncated() {
    let mut bench = Bench::started(Shape::Ga, tone(5_000));
    bench.send(json!({"type": "response.create"}));
    let mut added = None;
    while added.is_none() {
        let events = bench.run(1);
        added = events
            .iter()
            .find(|event| event["type"] == "response.output_item.added")
            .cloned();
    }
    bench.send(json!({"type": "response.cancel"}));
    let id = added.unwrap()["item"]["id"].clone();
    let truncate = json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 0});
    assert_eq!(bench.error_code(truncate), "unsupported_content_type");
    let events = bench.send(json!({"type": "conversation.item.delete", "item_id": id}));
    assert_eq!(types(&events), ["conversation.item.deleted"]);
}

#[test]
fn idle_timeout_nudges() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    let mut update = detection(true, true);
    update["audio"]["input"]["turn_detection"]["idle_timeout_ms"] = 6_000.into();
    bench.update(update);
    bench.send(json!({"type": "response.create"}));
    let events = bench.speak(&[(0, 9_000)]);
    let triggered = find(&events, "input_audio_buffer.timeout_triggered");
    let ms = |name: &str| triggered[name].as_u64().unwrap();
    assert_eq!(ms("audio_end_ms") - ms("audio_start_ms"), 6_016);
    let position = types(&events)
        .iter()
        .position(|&t| t == "input_audio_buffer.timeout_triggered")
        .unwrap();
    assert_eq!(
        types(&events)[position + 1..position + 5],
        [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created"
        ]
    );
}

#[test]
fn semantic_turns_wait_for_unfinished_ones() {
    for (unfinished, expected) in [(false, 320), (true, 2_000)] {
        let turn = ScriptTurn {
            unfinished,
            ..saying("Yes.", 200)
        };
        let mut bench = Bench::started(Shape::Ga, script(vec![turn]));
        bench.update(
            json!({"type": "realtime", "audio": {"input": {"turn_detection": {
            "type": "semantic_vad", "eagerness": "high"}}}}),
        );
        let events = bench.append(&square(&[(3_000, 640), (0, 4_000)]));
        let end = find(&events, "input_audio_buffer.speech_stopped")["audio_end_ms"]
            .as_u64()
            .unwrap();
        assert_eq!(
            end.next_multiple_of(32) - 640,
            u64::next_multiple_of(expected, 32),
            "unfinished: {unfinished}"
        );
    }
}

#[test]
fn g711_callers_are_heard() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    bench.update(json!({"input_audio_format": "g711_ulaw", "output_audio_format": "g711_alaw"}));
    // 0x8F and 0x0F are loud and of opposite sign; 0xFF is silence.
    let mut bytes: Vec<u8> = (0..640 * 8)
        .map(|n| if n % 16 < 8 { 0x8F } else { 0x0F })
        .collect();
    bytes.extend([0xFF; 320 * 8]);
    let events =
        bench.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}));
    assert_eq!(
        find(&events, "input_audio_buffer.speech_stopped")["audio_end_ms"],
        864
    );
    let done = find(&bench.run(10_000), "response.done").clone();
    assert_eq!(
        done["response"]["output"][0]["content"][0]["transcript"],
        "You said 0.9 seconds of speech."
    );
}

#[test]
fn torn_samples_are_joined() {
    let config = SimulatorConfig {
        record_audio: true,
        ..SimulatorConfig::default()
    };
    let mut bench = manual(Shape::Ga, config);
    for bytes in [&[1u8, 0, 2][..], &[0, 3, 0][..]] {
        bench.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}));
    }
    let record = bench.session.record();
    assert_eq!(record.lock().unwrap().appended.pcm, [1, 2, 3]);
    assert_eq!(record.lock().unwrap().appended.n_appends, 2);
}

// Transcription

#[test]
fn transcripts_come_by_themselves() {
    let mut bench = manual(Shape::Ga, SimulatorConfig::default());
    bench.update(json!({"type": "realtime", "audio": {"input": {
        "transcription": {"model": "gpt-4o-transcribe"}}}}));
    bench.append(&square(&[(3_000, 2_000)]));
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    let events = bench.run(2_000);
    assert_eq!(
        folded(&events),
        [
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed"
        ]
    );
    let completed = events.last().unwrap();
    assert_eq!(completed["transcript"], "2.0 seconds of speech.");
    assert_eq!(
        completed["usage"]["input_token_details"],
        json!({"text_tokens": 0, "audio_tokens": 20})
    );
    let id = completed["item_id"].clone();
    let events = bench.send(json!({"type": "conversation.item.retrieve", "item_id": id}));
    let part = &events[0]["item"]["content"][0];
    assert_eq!(part["transcript"], "2.0 seconds of speech.");
    assert_eq!(
        STANDARD
            .decode(part["audio"].as_str().unwrap())
            .unwrap()
            .len(),
        96_000
    );
}

fn faulty(kind: FaultKind) -> Bench {
    let mut bench = Bench::with(Shape::Ga, tone(2_000), |setup| {
        setup.faults = vec![FaultRule::new(kind)]
    });
    bench.drain();
    bench
}

#[test]
fn transcription_faults() {
    let transcripts = |kind| {
        let mut bench = faulty(kind);
        bench.update(json!({"type": "realtime", "audio": {"input": {
            "turn_detection": null, "transcription": {"model": "whisper-1"}}}}));
        let mut ids = Vec::new();
        for _ in 0..2 {
            bench.append(&square(&[(3_000, 200)]));
            ids.push(
                bench.send(json!({"type": "input_audio_buffer.commit"}))[0]["item_id"].clone(),
            );
        }
        let events = bench.run(10_000);
        let ends = events
            .into_iter()
            .filter(|event| !event["type"].as_str().unwrap().ends_with("delta"));
        (ids, ends.collect::<Vec<_>>())
    };
    let (_, events) = transcripts(FaultKind::DuplicateTranscription);
    assert_eq!(events.len(), 4);
    let (ids, events) = transcripts(FaultKind::ReorderedTranscription);
    assert_eq!(
        (&events[0]["item_id"], &events[1]["item_id"]),
        (&ids[1], &ids[0])
    );
    let (ids, events) = transcripts(FaultKind::FailedTranscription);
    let failed = find(
        &events,
        "conversation.item.input_audio_transcription.failed",
    );
    let expected = format!(
        "Input transcription failed for item '{}'.",
        ids[0].as_str().unwrap()
    );
    assert!(
        events
            .iter()
            .any(|event| event["error"]["message"] == expected)
    );
    assert_eq!(failed["error"]["type"], "server_error");
}

fn check_transcription_session(shape: Shape, update: Value, names: [&str; 2]) {
    let config = SimulatorConfig::default();
    let mut bench = Bench::with(shape, config, |setup| {
        setup.kind = SessionKind::Transcription
    });
    assert_eq!(types(&bench.drain()), [names[0]]);
    assert_eq!(types(&bench.send(update)), [names[1]]);
    let mut events = bench.speak(&[(3_000, 640), (0, 320)]);
    events.extend(bench.run(3_000));
    assert!(types(&events).contains(&"conversation.item.input_audio_transcription.completed"));
    assert!(
        !types(&events)
            .iter()
            .any(|kind| kind.starts_with("response."))
    );
    assert_eq!(
        bench.error_code(json!({"type": "response.create"})),
        "invalid_event"
    );
}

#[test]
fn transcription_sessions_have_no_responses() {
    let update = json!({"type": "transcription_session.update", "session": {
        "input_audio_transcription": {"model": "whisper-1"}}});
    let names = [
        "transcription_session.created",
        "transcription_session.updated",
    ];
    check_transcription_session(Shape::Preview, update, names);
    let update = json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
        "transcription": {"model": "gpt-4o-transcribe"}}}}});
    check_transcription_session(Shape::Ga, update, ["session.created", "session.updated"]);
}

// Items and errors

#[test]
fn items_are_ordered_and_checked() {
    let mut bench = Bench::started(Shape::Preview, SimulatorConfig::default());
    let create = |id: &str, previous: Value| {
        let content = json!([{"type": "input_text", "text": "x"}]);
        json!({"type": "conversation.item.create", "previous_item_id": previous,
               "item": {"id": id, "type": "message", "role": "user", "content": content}})
    };
    assert_eq!(
        bench.send(create("a", Value::Null))[0]["previous_item_id"],
        Value::Null
    );
    assert_eq!(
        bench.send(create("b", "a".into()))[0]["previous_item_id"],
        "a"
    );
    assert_eq!(
        bench.send(create("c", "a".into()))[0]["previous_item_id"],
        "a"
    );
    assert_eq!(
        bench.send(create("d", "root".into()))[0]["previous_item_id"],
        Value::Null
    );
    assert_eq!(
        bench.send(create("e", Value::Null))[0]["previous_item_id"],
        "b"
    );
    assert_eq!(
        bench.error_code(create("a", Value::Null)),
        "item_create_duplicate_item_id"
    );
    assert_eq!(
        bench.error_code(create("f", "zz".into())),
        "item_create_invalid_previous_item_id"
    );
}

#[test]
fn each_error_of_the_catalogue() {
    let mut bench = Bench::started(Shape::Ga, tone(1_000));
    let mut check =
        |event: Value, code: &str| assert_eq!(bench.error_code(event.clone()), code, "{event}");
    check(json!({"type": "nonsense"}), "invalid_event");
    check(json!({"event_id": "x"}), "invalid_event");
    check(json!([1]), "invalid_event");
    check(
        json!({"type": "input_audio_buffer.append"}),
        "missing_required_parameter",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": "***"}),
        "invalid_value",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": 7}),
        "invalid_type",
    );
    check(
        json!({"type": "input_audio_buffer.append", "audio": "A".repeat(21 << 20)}),
        "invalid_value",
    );
    check(
        json!({"type": "input_audio_buffer.commit", "x": 1}),
        "unknown_parameter",
    );
    check(
        json!({"type": "output_audio_buffer.clear"}),
        "invalid_event",
    );
    check(
        json!({"type": "conversation.item.create"}),
        "missing_required_parameter",
    );
    check(
        json!({"type": "conversation.item.delete", "item_id": "no"}),
        "item_delete_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.retrieve", "item_id": "no"}),
        "item_retrieve_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.truncate", "item_id": "no", "content_index": 0, "audio_end_ms": 1}),
        "item_truncate_invalid_item_id",
    );
    check(
        json!({"type": "conversation.item.truncate", "item_id": "no"}),
        "missing_required_parameter",
    );
    let output = json!({"type": "function_call_output", "call_id": "call_no", "output": "x"});
    check(
        json!({"type": "conversation.item.create", "item": output}),
        "invalid_tool_call_id",
    );
    let message = |content: Value| {
        let item = json!({"type": "message", "role": "assistant", "content": [content]});
        json!({"type": "conversation.item.create", "item": item})
    };
    check(
        message(json!({"type": "output_audio", "audio": "AAAA"})),
        "missing_required_parameter",
    );
    check(
        message(json!({"type": "text", "text": "preview"})),
        "invalid_value",
    );
    check(
        json!({"type": "response.create", "response": {"modalities": ["text"]}}),
        "unknown_parameter",
    );
    check(
        json!({"type": "response.create", "response": {"metadata": {"k": "v".repeat(513)}}}),
        "invalid_value",
    );
    check(
        json!({"type": "response.cancel"}),
        "response_cancel_not_active",
    );
    check(
        json!({"type": "response.cancel", "response_id": "resp_no"}),
        "response_cancel_not_active",
    );
    bench.respond(Value::Null);
    let voice = json!({"type": "realtime", "audio": {"output": {"voice": "marin"}}});
    assert_eq!(
        bench.update(voice)[0]["error"]["code"],
        "cannot_update_voice"
    );
    bench.session.handle_message("{nonsense", bench.now);
    assert_eq!(bench.drain()[0]["error"]["code"], "invalid_event");
    assert!(bench.session.record().lock().unwrap().errors.len() > 20);
}

#[test]
fn leftovers_of_the_first_preview_are_ignored() {
    let mut bench = Bench::started(Shape::Preview, tone(200));
    let event = json!({"type": "response.create", "event_id": null, "response": {
        "commit": true, "cancel_previous": true, "append_input_items": null}});
    assert_eq!(types(&bench.send(event))[0], "response.created");
}

#[test]
fn second_create_is_refused_and_out_of_band_runs_beside() {
    let mut bench = Bench::started(Shape::Ga, tone(5_000));
    let created = bench.send(json!({"type": "response.create"}));
    let id = created[0]["response"]["id"].as_str().unwrap().to_owned();
    let events = bench.send(json!({"type": "response.create", "event_id": "again"}));
    let expected = format!(
        "Conversation already has an active response in progress: {id}. Wait until the response is finished before \
         creating a new one."
    );
    assert_eq!(events[0]["error"]["message"], expected);
    assert_eq!(events[0]["error"]["event_id"], "again");
    let mut events = bench.send(json!({"type": "response.create", "response": {
        "conversation": "none", "metadata": {"k": "v"}, "output_modalities": ["text"], "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum up"}]}]}}));
    assert_eq!(events[0]["response"]["conversation_id"], Value::Null);
    let aside = events[0]["response"]["id"].clone();
    events = bench.run(60_000);
    let done: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "response.done")
        .collect();
    assert_eq!(done.len(), 2);
    assert_eq!(
        (
            &done[0]["response"]["id"],
            &done[0]["response"]["metadata"]["k"]
        ),
        (&aside, &json!("v"))
    );
    let added = events
        .iter()
        .filter(|event| event["type"] == "conversation.item.added");
    assert_eq!(
        added.count(),
        1,
        "only the default conversation has item events"
    );
    let refused = bench.send(json!({"type": "response.create", "response": {
        "input": [{"type": "item_reference", "id": "no"}]}}));
    assert_eq!(refused[0]["error"]["param"], "response.input[0].id");
}

// Usage, quota, context

#[test]
fn usage_follows_the_token_model() {
    // Instructions of 400 characters are 102 tokens.
    let config = SimulatorConfig {
        instructions: "i".repeat(400),
        ..script(vec![saying("12345678", 1_010)])
    };
    let mut bench = manual(Shape::Ga, config);
    bench.append(&square(&[(3_000, 1_010)]));
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    let events = bench.respond(Value::Null);
    let usage = find(&events, "response.done")["response"]["usage"].clone();
    // Audio in: 1,010 ms in tenths, rounded up. Out: eight characters and the frame; 1,010 ms in twentieths.
    let expected = json!({
        "total_tokens": 138, "input_tokens": 113, "output_tokens": 25,
        "input_token_details": {"text_tokens": 102, "audio_tokens": 11, "image_tokens": 0, "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}},
        "output_token_details": {"text_tokens": 4, "audio_tokens": 21},
    });
    assert_eq!(usage, expected);
    let item = find(&events, "response.output_item.done")["item"]["id"].clone();

    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert_eq!(usage["input_tokens"], 113 + 25);
    assert_eq!(
        usage["input_token_details"]["cached_tokens"], 64,
        "113 in common, in blocks of 64"
    );

    let truncate = json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0,
        "audio_end_ms": 500});
    bench.send(truncate);
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    // Ten tokens of audio stay of the first answer, no transcript; the second answer counts in full.
    assert_eq!(usage["input_tokens"], 113 + 10 + 25);
    assert_eq!(
        usage["input_token_details"]["cached_tokens"], 64,
        "the truncated item ends the common prefix"
    );
}

#[test]
fn preview_usage_has_its_own_shape() {
    let mut bench = Bench::started(Shape::Preview, tone(200));
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert!(usage["input_token_details"].get("image_tokens").is_none());
    let mut bench = Bench::with(Shape::Preview, tone(200), |setup| {
        setup.first_preview = true
    });
    let usage = find(&bench.respond(Value::Null), "response.done")["response"]["usage"].clone();
    assert!(
        usage["input_token_details"]
            .get("cached_tokens_details")
            .is_none()
    );
}

#[test]
fn output_cap_cuts_the_answer() {
    let mut bench = Bench::started(Shape::Ga, script(vec![saying("12345678", 5_000)]));
    let events = bench.respond(json!({"max_output_tokens": 24}));
    let response = &find(&events, "response.done")["response"];
    assert_eq!(
        response["status_details"],
        json!({"type": "incomplete", "reason": "max_output_tokens"})
    );
    assert_eq!(response["usage"]["output_tokens"], 24);
    assert_eq!(audio_ms(&events, "response.output_audio.delta"), 1_000);
}

#[test]
fn rate_limits_stand_where_they_are_told_to() {
    for (position, expected) in [
        (RateLimitsPosition::Start, Some(1)),
        (RateLimitsPosition::End, None),
        (RateLimitsPosition::Off, None),
    ] {
        let quota = QuotaConfig {
            rate_limits: position,
            ..QuotaConfig::default()
        };
        let mut bench = Bench::started(Shape::Ga, SimulatorConfig { quota, ..tone(300) });
        let events = bench.respond(Value::Null);
        let kinds = types(&events);
        let at = kinds.iter().position(|&kind| kind == "rate_limits.updated");
        match position {
            RateLimitsPosition::End => assert_eq!(at, Some(kinds.len() - 1)),
            RateLimitsPosition::Start | RateLimitsPosition::Off => assert_eq!(at, expected),
        }
    }
}

#[test]
fn an_exhausted_quota_fails_the_response() {
    let quota = QuotaConfig {
        tokens_per_minute: 4_200,
        enforce: Enforcement::Response,
        ..QuotaConfig::default()
    };
    let config = SimulatorConfig {
        quota,
        instructions: String::new(),
        ..tone(60_000)
    };
    let mut bench = Bench::started(Shape::Ga, config);
    bench.send(json!({"type": "response.create"}));
    bench.run(500);
    let events =
        bench.send(json!({"type": "response.create", "response": {"conversation": "none"}}));
    assert_eq!(
        folded(&events),
        ["response.created", "rate_limits.updated", "response.done"]
    );
    let response = &events[2]["response"];
    assert_eq!(response["status"], "failed");
    let error = &response["status_details"]["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("tokens per min (TPM): Limit 4200"),
        "{error}"
    );
    assert_eq!(response["usage"]["total_tokens"], 0);
}

#[test]
fn context_limit_drops_the_oldest_or_refuses() {
    let config = SimulatorConfig {
        context_tokens: Some(60),
        instructions: String::new(),
        ..tone(200)
    };
    let mut bench = Bench::started(Shape::Ga, config);
    for _ in 0..3 {
        bench.say(&"x".repeat(100));
    }
    let response = find(
        &bench.respond(json!({"output_modalities": ["text"]})),
        "response.done",
    )
    .clone();
    // Two of 27 tokens, less than 60 with the frame of the instructions.
    assert_eq!(response["response"]["usage"]["input_tokens"], 56);
    bench.update(json!({"type": "realtime", "truncation": "disabled"}));
    assert_eq!(
        bench.error_code(json!({"type": "response.create"})),
        "context_length_exceeded"
    );
}

// Faults and determinism

#[test]
fn faults_strike_in_mid_response() {
    let mut bench = faulty(FaultKind::Close);
    let events = bench.respond(Value::Null);
    assert_eq!(
        types(&events)
            .iter()
            .filter(|&&kind| kind == "response.output_audio.delta")
            .count(),
        2
    );
    assert_eq!(events.last().unwrap()["code"], 1011);

    let mut bench = faulty(FaultKind::Stall);
    let events = bench.respond(Value::Null);
    assert_eq!(
        *types(&events).last().unwrap(),
        "response.output_audio.delta"
    );
    assert!(
        find(
            &bench.send(json!({"type": "response.cancel"})),
            "response.done"
        )
        .is_object()
    );

    let mut bench = faulty(FaultKind::Malformed);
    assert!(types(&bench.respond(Value::Null)).contains(&"not json"));

    let mut bench = faulty(FaultKind::ServerError);
    let events = bench.respond(Value::Null);
    assert_eq!(
        (types(&events), &events[0]["error"]["type"]),
        (vec!["error"], &json!("server_error"))
    );

    let mut bench = faulty(FaultKind::FailedResponse);
    let events = bench.respond(Value::Null);
    assert_eq!(
        find(&events, "response.done")["response"]["status_details"]["error"]["type"],
        "server_error"
    );

    let mut bench = faulty(FaultKind::SlowFirstAudio);
    bench.send(json!({"type": "response.create"}));
    assert!(!types(&bench.run(4_000)).contains(&"response.output_audio.delta"));

    let mut bench = faulty(FaultKind::Drop);
    assert_eq!(bench.run(10_000).last().unwrap()["code"], 1011);
}

#[test]
fn faults_can_be_limited_to_the_first_responses() {
    let fault = FaultRule {
        first_responses: Some(1),
        ..FaultRule::new(FaultKind::FailedResponse)
    };
    let mut bench = Bench::with(Shape::Ga, tone(300), |setup| setup.faults = vec![fault]);
    let status = |bench: &mut Bench| {
        find(&bench.respond(Value::Null), "response.done")["response"]["status"].clone()
    };
    assert_eq!(
        (status(&mut bench), status(&mut bench)),
        (json!("failed"), json!("completed"))
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = || {
        let mut bench = Bench::new(Shape::Ga, SimulatorConfig::default());
        let mut events = bench.speak(&[(0, 320), (3_000, 640), (0, 320)]);
        events.extend(bench.run(10_000));
        events
    };
    assert_eq!(run(), run());
}

#[test]
fn configuration_reads_from_toml() {
    let text = r#"
        seed = 9
        azure_session_cap = "90s"
        [deployments.voice]
        shapes = ["ga"]
        quota = { tokens_per_minute = 6000, enforce = "both" }
        [reply]
        mode = "script"
        turns = [{ say = "Hi", length = "1s" }, { calls = [{ name = "weather" }] }]
        [[faults]]
        kind = "close"
        code = 1006
        delay = "2s"
        first_sessions = 3
    "#;
    let config: SimulatorConfig = toml::from_str(text).unwrap();
    assert_eq!(config.faults[0].kind, FaultKind::Close);
    assert_eq!(config.faults[0].probability, 1.0);
    assert_eq!(config.azure_session_cap, Duration::from_secs(90));
    assert!(matches!(&config.reply, ReplyConfig::Script { turns, .. } if turns.len() == 2));
    assert!(toml::from_str::<SimulatorConfig>("sede = 9").is_err());
    let _: BTreeMap<_, _> = config.deployments;
    assert_eq!(
        FaultRule::parse("slow-first-audio").unwrap().kind,
        FaultKind::SlowFirstAudio
    );
    assert_eq!(FaultRule::parse("refuse=429").unwrap().status, Some(429));
}
