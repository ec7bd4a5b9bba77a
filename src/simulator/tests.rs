//! Behaviour of the pure session, driven through virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config::{
    FaultKind, FaultRule, LatencyConfig, ReplyConfig, ScriptOutcome, ScriptTurn, ScriptedCall,
    Shape, SimulatorConfig,
};
use super::session::{Output, Session, SessionSetup};

/// A session and its virtual clock.
pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Instant,
    pub(super) start: Instant,
}

impl Bench {
    pub(super) fn new(shape: Shape, config: SimulatorConfig) -> Self {
        Self::with(shape, config, |_| {})
    }

    pub(super) fn with(
        shape: Shape,
        config: SimulatorConfig,
        change: impl FnOnce(&mut SessionSetup),
    ) -> Self {
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
    pub(super) fn started(shape: Shape, config: SimulatorConfig) -> Self {
        let mut bench = Self::new(shape, config);
        bench.drain();
        bench
    }

    pub(super) fn drain(&mut self) -> Vec<Value> {
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
    pub(super) fn send(&mut self, event: Value) -> Vec<Value> {
        self.session.handle_message(&event.to_string(), self.now);
        self.drain()
    }

    /// Lets time pass, timer by timer.
    pub(super) fn run(&mut self, ms: u64) -> Vec<Value> {
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

    pub(super) fn append(&mut self, samples: &[i16]) -> Vec<Value> {
        let bytes: Vec<u8> = samples
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        self.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}))
    }

    /// Appends (level, ms) stretches in real time, 20 ms at a time; returns all that came back.
    pub(super) fn speak(&mut self, stretches: &[(i16, u64)]) -> Vec<Value> {
        let audio = square(stretches);
        let mut events = Vec::new();
        for chunk in audio.chunks(480) {
            events.extend(self.run(20));
            events.extend(self.append(chunk));
        }
        events
    }

    pub(super) fn update(&mut self, session: Value) -> Vec<Value> {
        self.send(json!({"type": "session.update", "event_id": "upd", "session": session}))
    }

    pub(super) fn say(&mut self, text: &str) -> Vec<Value> {
        let content = json!([{"type": "input_text", "text": text}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        self.send(json!({"type": "conversation.item.create", "item": item}))
    }

    /// Creates a response and runs it to its end.
    pub(super) fn respond(&mut self, response: Value) -> Vec<Value> {
        let mut events = self.send(json!({"type": "response.create", "response": response}));
        events.extend(self.run(60_000));
        events
    }

    pub(super) fn error_code(&mut self, event: Value) -> String {
        let events = self.send(event);
        assert_eq!(types(&events), ["error"], "{events:?}");
        events[0]["error"]["code"]
            .as_str()
            .unwrap_or("null")
            .to_owned()
    }
}

pub(super) fn square(stretches: &[(i16, u64)]) -> Vec<i16> {
    stretches
        .iter()
        .flat_map(|&(level, ms)| {
            (0..ms * 24).map(move |n| if n % 48 < 24 { level } else { -level })
        })
        .collect()
}

pub(super) fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect()
}

/// Types with runs of the same type written once.
pub(super) fn folded(events: &[Value]) -> Vec<&str> {
    let mut types = types(events);
    types.dedup();
    types
}

pub(super) fn find<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let found = events.iter().find(|event| event["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", types(events)))
}

pub(super) fn text_of(events: &[Value], kind: &str) -> String {
    events
        .iter()
        .filter(|event| event["type"] == kind)
        .filter_map(|event| event["delta"].as_str())
        .collect()
}

pub(super) fn audio_ms(events: &[Value], kind: &str) -> usize {
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

pub(super) fn tone(ms: u64) -> SimulatorConfig {
    SimulatorConfig {
        reply: ReplyConfig::Tone {
            hz: 440.0,
            length: Duration::from_millis(ms),
        },
        ..SimulatorConfig::default()
    }
}

pub(super) fn script(turns: Vec<ScriptTurn>) -> SimulatorConfig {
    SimulatorConfig {
        reply: ReplyConfig::Script {
            turns,
            repeat: false,
        },
        ..SimulatorConfig::default()
    }
}

pub(super) fn saying(text: &str, ms: u64) -> ScriptTurn {
    ScriptTurn {
        say: Some(text.to_owned()),
        length: Some(Duration::from_millis(ms)),
        ..ScriptTurn::default()
    }
}

pub(super) fn manual(shape: Shape, config: SimulatorConfig) -> Bench {
    let mut bench = Bench::started(shape, config);
    match shape {
        Shape::Preview => bench.update(json!({"turn_detection": null})),
        Shape::Ga => {
            bench.update(json!({"type": "realtime", "audio": {"input": {"turn_detection": null}}}))
        }
    };
    bench
}

pub(super) fn faulty(kind: FaultKind) -> Bench {
    let mut bench = Bench::with(Shape::Ga, tone(2_000), |setup| {
        setup.faults = vec![FaultRule::new(kind)]
    });
    bench.drain();
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
