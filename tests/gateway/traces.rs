//! Traces of calls: one for each that is sampled, whole, in whose trace it belongs; and no call waits for a collector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;
use serde_json::Value as Json;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use trunkline::config::Config;
use trunkline::listener::Unchanged;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, CallReport, speech};
use trunkline::traces::otlp::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue,
    Span, SpanKind, StatusCode, Value,
};

use crate::callers::{listen, phone};
use crate::harness::{CONFIG, World};
use crate::web;
use crate::wire::Wire;

const TRACES: &str = "[traces]\nendpoint = 'http://collector/v1/traces'\ndelay = '1s'\n";

/// What a collector does with what it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Takes,
    TakesAllBut(i64),
    Answers(u16),
    Silent,
    Gone,
}

/// A collector, and a tool beside it, that remember what they were sent.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    mood: Mood,
    n_requests: u32,
    authorization: Option<String>,
    resource: Vec<KeyValue>,
    spans: Vec<Span>,
    traceparents: Vec<(String, String)>,
}

impl Sink {
    fn new(mood: Mood) -> Self {
        let sink = Self::default();
        sink.is(mood);
        sink
    }

    fn is(&self, mood: Mood) {
        self.look(|seen| seen.mood = mood);
    }

    fn look<T>(&self, at: impl FnOnce(&mut Seen) -> T) -> T {
        at(&mut self.0.lock().expect("no panic while held"))
    }

    /// Serves whoever connects.
    fn serve(&self) -> mpsc::Sender<DuplexStream> {
        let served = self.clone();
        web::serve(move |request| served.clone().take(request))
    }

    async fn take(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, std::io::Error> {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map(|it| it.to_str().expect("text").to_owned())
        };
        if request.uri().path() == "/tool" {
            let parent = header("traceparent").unwrap_or_default();
            let state = header("tracestate").unwrap_or_default();
            self.look(|seen| seen.traceparents.push((parent, state)));
            return Ok(http::Response::new(Full::from("sunny")));
        }
        assert_eq!(request.uri().path(), "/v1/traces");
        assert_eq!(
            header("content-type").as_deref(),
            Some("application/x-protobuf")
        );
        let authorization = header("authorization");
        let mood = self.look(|seen| {
            seen.n_requests += 1;
            seen.authorization = authorization;
            seen.mood
        });
        let body = request.into_body().collect().await.expect("a body");
        let sent = ExportTraceServiceRequest::decode(body.to_bytes()).expect("OTLP");
        let (status, answer) = match mood {
            Mood::Silent => std::future::pending().await,
            Mood::Gone => return Err(std::io::ErrorKind::ConnectionReset.into()),
            Mood::Answers(status) => (status, Bytes::from_static(b"no")),
            Mood::Takes => (200, Bytes::new()),
            Mood::TakesAllBut(rejected_spans) => {
                // Only once, however many messages there are.
                self.is(Mood::Takes);
                let partial_success = Some(ExportTracePartialSuccess {
                    rejected_spans,
                    error_message: "too many".to_owned(),
                });
                let answer = ExportTraceServiceResponse { partial_success };
                (200, answer.encode_to_vec().into())
            }
        };
        if status == 200 {
            self.look(|seen| {
                for of in sent.resource_spans {
                    seen.resource = of.resource.expect("a resource").attributes;
                    let scopes = of.scope_spans.into_iter();
                    seen.spans.extend(scopes.flat_map(|scope| scope.spans));
                }
            });
        }
        let answer_of = http::Response::builder().status(status);
        Ok(answer_of.body(Full::from(answer)).expect("an answer"))
    }

    /// The spans of the only trace that came, after all have had their time to come.
    async fn trace(&self) -> Trace {
        tokio::time::sleep(Duration::from_secs(30)).await;
        Trace::of(self.look(|seen| std::mem::take(&mut seen.spans)))
    }
}

/// The spans of one call.
struct Trace(Vec<Span>);

impl Trace {
    fn of(spans: Vec<Span>) -> Self {
        let traces: BTreeSet<_> = spans.iter().map(|span| span.trace_id.clone()).collect();
        assert_eq!(traces.len(), 1, "{spans:#?}");
        let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!(ids.len(), spans.len(), "each once");
        let servers = spans.iter().filter(|it| it.kind() == SpanKind::Server);
        assert_eq!(servers.count(), 1, "one root");
        for span in &spans {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            assert!(
                span.start_time_unix_nano <= span.end_time_unix_nano,
                "{span:?}"
            );
            let is_inner = span.kind() != SpanKind::Server;
            assert!(
                !is_inner || ids.contains(&span.parent_span_id),
                "an orphan: {span:?}"
            );
            let events = span.events.iter().map(|it| it.time_unix_nano);
            assert!(events.is_sorted(), "{span:?}");
        }
        let trace = Self(spans);
        let root = trace.root();
        for span in &trace.0 {
            let is_within = root.start_time_unix_nano <= span.start_time_unix_nano
                && span.end_time_unix_nano <= root.end_time_unix_nano;
            assert!(is_within, "{span:?}");
        }
        trace
    }

    fn root(&self) -> &Span {
        let mut roots = self.0.iter().filter(|it| it.kind() == SpanKind::Server);
        roots.next().expect("a root")
    }

    fn named(&self, name: &str) -> Vec<&Span> {
        let mut named: Vec<_> = self.0.iter().filter(|span| span.name == name).collect();
        named.sort_by_key(|span| span.start_time_unix_nano);
        named
    }

    fn one(&self, name: &str) -> &Span {
        let named = self.named(name);
        assert_eq!(named.len(), 1, "{name}");
        named[0]
    }
}

fn value<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let mut found = span.attributes.iter().filter(|it| it.key == key);
    let value = found.next()?.value.as_ref()?.value.as_ref();
    assert!(found.next().is_none(), "{key} twice");
    value
}

fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    match value(span, key) {
        Some(Value::String(text)) => text,
        other => panic!("{key} is {other:?} in {span:#?}"),
    }
}

fn count(span: &Span, key: &str) -> i64 {
    match value(span, key) {
        Some(Value::Int(n)) => *n,
        other => panic!("{key} is {other:?} in {span:#?}"),
    }
}

fn events(span: &Span) -> Vec<&str> {
    span.events
        .iter()
        .map(|event| event.name.as_str())
        .collect()
}

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|it| it.code() == StatusCode::Error)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn one_turn() -> [Act; 3] {
    [Act::Say(speech::hours()), listen(), Act::HangUp]
}

const TOOL: &str = "[agents.ga.session.transcription]\nmodel = 'whisper-1'\n\
    [[agents.ga.session.tools]]\nname = 'weather'\ndescription = 'The weather.'\n\
    parameters = { type = 'object', properties = {} }\n\
    [agents.ga.webhooks.weather]\nurl = 'http://tools/tool'\n";

#[tokio::test(start_paused = true)]
async fn a_call_with_turns_a_barge_in_and_a_tool_is_one_whole_trace() {
    let sink = Sink::default();
    let more = "[traces.headers.authorization]\nvalue = 'Bearer t'\n[traces.resource]\n'deployment.environment.name' = 'test'\n";
    let config = format!("{CONFIG}{TOOL}{TRACES}{more}");
    let simulator = r#"
        [reply]
        mode = "script"
        turns = [
            { say = "A long answer that nobody wants to hear to its end.", length = "6s" },
            { calls = [{ name = "weather" }] },
            { say = "It is sunny, and it will be so tomorrow." },
        ]
    "#;
    let world = World::with_web(&config, simulator, sink.serve());
    let interrupt = Act::BargeInAfter {
        heard: Duration::from_millis(400),
        timeout: Duration::from_secs(20),
    };
    let script = [
        Act::Say(speech::hours()),
        interrupt,
        Act::Say(speech::order()),
        listen(),
        Act::HangUp,
    ];
    let phone = phone("/twilio/media/ga", Dialect::Twilio, script)
        .parameter("from", "+15550001111")
        .parameter("order", "4111");
    let report = world.call(&phone).await;
    assert!(report.script_done, "{report}");
    let summary = world.ended(1).await;
    let trace = sink.trace().await;

    let root = trace.root();
    assert_eq!(
        (root.name.as_str(), root.parent_span_id.len()),
        ("call twilio", 0)
    );
    assert_eq!(text(root, "trunkline.call_id"), summary.call_id);
    assert_eq!(text(root, "trunkline.tenant"), "default");
    assert_eq!(text(root, "gen_ai.agent.name"), "ga");
    assert_eq!(text(root, "trunkline.end_reason"), "caller_hangup");
    assert_eq!(count(root, "trunkline.turns") as u64, summary.n_turns);
    assert_eq!(count(root, "trunkline.barge_ins"), 1);
    assert!(!is_error(root));
    for name in ["admit", "open session", "session"] {
        assert_eq!(trace.one(name).parent_span_id, root.span_id, "{name}");
    }
    let opening = trace.one("open session");
    for name in ["websocket upgrade", "session created"] {
        assert_eq!(trace.one(name).parent_span_id, opening.span_id, "{name}");
    }
    let session = trace.one("session");
    assert_eq!(session.kind(), SpanKind::Client);
    assert_eq!(text(session, "trunkline.deployment"), "ga");
    assert_eq!(text(session, "gen_ai.conversation.id"), summary.session_id);
    assert_eq!(text(session, "gen_ai.provider.name"), "azure.ai.openai");
    assert_eq!(text(session, "server.address"), "127.0.0.1");

    let turns = trace.named("turn");
    assert_eq!(turns.len(), 2, "{turns:#?}");
    let first = [
        "speech_end",
        "speech_stopped",
        "committed",
        "response_created",
        "first_model_audio",
        "first_caller_audio",
        "barge_in",
    ];
    let of_first = events(turns[0]);
    for event in first {
        assert!(of_first.contains(&event), "{event} in {of_first:?}");
    }
    let at = |span: &Span, name: &str| {
        let mut found = span.events.iter().filter(|event| event.name == name);
        found.next().expect("there").time_unix_nano
    };
    assert!(at(turns[0], "first_model_audio") <= at(turns[0], "first_caller_audio"));
    // The span of a turn says what the histogram says.
    for (turn, told) in turns.iter().zip(&summary.turns) {
        let Some(Value::Double(latency)) = value(turn, "trunkline.turn.latency") else {
            panic!("no latency: {turn:#?}");
        };
        assert_eq!(*latency, told.latency.as_secs_f64());
        let measured = at(turn, "first_caller_audio") - at(turn, "speech_end");
        assert!(u128::from(measured).abs_diff(told.latency.as_nanos()) < 1_000_000);
    }
    let second = events(turns[1]);
    assert!(!second.contains(&"barge_in"), "{second:?}");
    assert!(second.ends_with(&["reply_ended"]), "{second:?}");
    assert_eq!(
        second
            .iter()
            .filter(|it| **it == "response_created")
            .count(),
        2
    );
    let tokens = turns
        .iter()
        .map(|turn| count(turn, "gen_ai.usage.output_tokens"));
    assert_eq!(
        tokens.sum::<i64>(),
        count(root, "gen_ai.usage.output_tokens")
    );

    let tool = trace.one("execute_tool");
    assert_eq!(tool.parent_span_id, turns[1].span_id);
    assert_eq!(text(tool, "gen_ai.tool.name"), "weather");
    let asked = sink.look(|seen| seen.traceparents.clone());
    let expected = format!("00-{}-{}-01", hex(&root.trace_id), hex(&tool.span_id));
    assert_eq!(asked, [(expected, String::new())]);

    let everything = format!("{:?}", trace.0);
    assert!(
        !everything.contains("5550001111") && !everything.contains("4111"),
        "{everything}"
    );
    assert!(!everything.contains("say something") && !everything.contains("sunny"));
    let (authorization, resource) =
        sink.look(|seen| (seen.authorization.clone(), seen.resource.clone()));
    assert_eq!(authorization.as_deref(), Some("Bearer t"));
    let keys: Vec<_> = resource.iter().map(|it| it.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "service.name",
            "service.version",
            "deployment.environment.name"
        ]
    );
    let n_spans = world.metric("trunkline_trace_spans_exported_total");
    assert_eq!(n_spans as usize, trace.0.len());
    assert_eq!(world.metric("trunkline_trace_spans_queued"), 0.0);

    // A slow turn leads from the histogram to its trace.
    let open = world.gateway.metrics().render_open();
    let id = format!("# {{trace_id=\"{}\"}}", hex(&root.trace_id));
    let lines = open.lines().filter(|line| line.contains(&id));
    let named: BTreeSet<_> = lines.filter_map(|line| line.split('{').next()).collect();
    let expected = ["gateway", "latency", "model"];
    let expected = expected.map(|it| format!("trunkline_turn_{it}_seconds_bucket"));
    assert_eq!(named.into_iter().collect::<Vec<_>>(), expected);
    world.assert_quiet().await;
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A call of a caller that sends these headers, up to its end.
async fn called(world: &World, headers: &str) {
    let mut wire = Wire::open_with(world, "/twilio/media/ga", headers).await;
    wire.text(r#"{"event":"start","streamSid":"MZ1","start":{"streamSid":"MZ1","callSid":"CA1"}}"#)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    wire.text(r#"{"event":"stop","streamSid":"MZ1"}"#).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_joins_the_trace_of_who_calls() {
    let parent =
        |flags: &str| format!("traceparent: 00-{TRACE}-{SPAN}-{flags}\r\ntracestate: a=b\r\n");
    let joined = Some((TRACE.to_owned(), SPAN.to_owned(), "a=b".to_owned()));
    let read = r#"trunkline_trace_contexts_total{outcome="read"}"#;
    let malformed = r#"trunkline_trace_contexts_total{outcome="malformed"}"#;
    let twice = parent("01").repeat(2);
    for (more, headers, expected, counted) in [
        ("", parent("00"), Some(joined.clone()), (read, 1.0)),
        ("sample = 0.0", parent("01"), None, (read, 1.0)),
        (
            "sample = 0.0\ncaller_context = 'follow'",
            parent("01"),
            Some(joined.clone()),
            (read, 1.0),
        ),
        ("caller_context = 'follow'", parent("00"), None, (read, 1.0)),
        (
            "caller_context = 'ignore'",
            parent("01"),
            Some(None),
            (read, 1.0),
        ),
        (
            "",
            "traceparent: 00-none-of-this-01\r\n".to_owned(),
            Some(None),
            (malformed, 1.0),
        ),
        ("", twice, Some(None), (malformed, 1.0)),
        ("", String::new(), Some(None), (malformed, 0.0)),
    ] {
        let sink = Sink::default();
        let config = format!("{CONFIG}{TRACES}{more}\n");
        let world = World::with_web(&config, "", sink.serve());
        called(&world, &headers).await;
        world.ended(1).await;
        let spans = sink.look(|seen| std::mem::take(&mut seen.spans));
        let found = (!spans.is_empty()).then(|| {
            let trace = Trace::of(spans);
            let root = trace.root();
            let is_joined = !root.parent_span_id.is_empty();
            is_joined.then(|| {
                (
                    hex(&root.trace_id),
                    hex(&root.parent_span_id),
                    root.trace_state.clone(),
                )
            })
        });
        assert_eq!(found, expected, "{more} {headers}");
        assert_eq!(world.metric(counted.0), counted.1, "{more} {headers}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parameter_tells_whose_trace_it_is_where_no_header_does() {
    let folder = std::env::temp_dir().join(format!("trunkline-traced-{}", std::process::id()));
    let records = format!("[records]\nsink = 'file'\nfile = {{ path = {folder:?} }}\n");
    let sink = Sink::default();
    let world = World::with_web(&format!("{CONFIG}{TRACES}{records}"), "", sink.serve());
    let phone = phone("/twilio/media/ga", Dialect::Twilio, one_turn())
        .parameter("traceparent", format!("00-{TRACE}-{SPAN}-01"));
    world.call(&phone).await;
    let trace = sink.trace().await;
    assert_eq!(hex(&trace.root().trace_id), TRACE);
    assert_eq!(hex(&trace.root().parent_span_id), SPAN);
    // The record of the call leads there.
    let record = std::fs::read_to_string(&folder).expect("a record");
    std::fs::remove_file(&folder).expect("removed");
    let record: Json = serde_json::from_str(&record).expect("JSON");
    assert_eq!(record["trace_id"], TRACE);
}

/// The webhook of a number tells whose trace the call is that comes by the ticket it answers with.
#[tokio::test(start_paused = true)]
async fn a_webhook_tells_whose_trace_the_call_will_be() {
    let sink = Sink::default();
    let config =
        format!("{CONFIG}{TRACES}[auth.signing]\nsecret = '0123456789abcdef0123456789abcdef'\n");
    let world = World::with_web(&config, "", sink.serve());
    let body = "From=%2B15550001111&To=%2B15550002222&CallSid=CA1&AccountSid=AC1";
    let request = format!(
        "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = world.http(&request).await;
    let parameter = format!("<Parameter name=\"traceparent\" value=\"00-{TRACE}-{SPAN}-01\"/>");
    assert!(answer.contains(&parameter), "{answer}");
    let (_, url) = answer.split_once("wss://gateway").expect("an address");
    let (path, _) = url.split_once('"').expect("its end");
    // The caller brings nothing: it is known by its ticket.
    world.call(&phone(path, Dialect::Twilio, one_turn())).await;
    let trace = sink.trace().await;
    assert_eq!(hex(&trace.root().trace_id), TRACE);
    assert_eq!(hex(&trace.root().parent_span_id), SPAN);
}

const POOL: &str = "[auth]\nmode = 'none'\n\
    [deployments.east]\nurl = 'ws://127.0.0.1:1'\nmodel = 'east'\napi_key = 'sim-key'\n\
    [deployments.west]\nurl = 'ws://127.0.0.1:1'\nmodel = 'west'\napi_key = 'sim-key'\n\
    [pools.both]\ndeployments = ['east', { name = 'west', priority = 1 }]\n\
    [agents.ga]\ndeployment = 'both'\n";

#[tokio::test(start_paused = true)]
async fn the_way_from_session_to_session_is_in_the_trace() {
    let simulator = "[[faults]]\ndeployment = 'east'\nkind = 'drop'\ndelay = '5s'\n";
    for (url, dialect) in [
        ("/twilio/media/ga", Dialect::Twilio),
        ("/openai/v1/realtime?model=both", Dialect::Realtime),
    ] {
        let sink = Sink::default();
        let world = World::with_web(&format!("{POOL}{TRACES}"), simulator, sink.serve());
        let script = [
            Act::Say(speech::hours()),
            listen(),
            Act::Say(speech::hours()),
            listen(),
            Act::HangUp,
        ];
        let report = world.call(&phone(url, dialect, script)).await;
        assert_eq!(world.ended(1).await.n_sessions, 2, "{report}");
        let trace = sink.trace().await;
        let sessions = trace.named("session");
        let deployments: Vec<_> = sessions
            .iter()
            .map(|it| text(it, "trunkline.deployment"))
            .collect();
        assert_eq!(deployments, ["east", "west"]);
        let replaced = trace.one("replace session");
        let cause = text(replaced, "trunkline.replacement.cause");
        let counted = format!(
            "trunkline_session_replacements_total{{cause=\"{cause}\",outcome=\"replaced\"}}"
        );
        assert_eq!(world.metric(&counted), 1.0, "{cause}");
        assert_eq!(text(replaced, "trunkline.replacement.from"), "east");
        assert_eq!(text(replaced, "trunkline.deployment"), "west");
        let upgrades = trace.named("websocket upgrade");
        let parents: Vec<_> = upgrades
            .iter()
            .map(|it| it.parent_span_id.clone())
            .collect();
        let openings = [&trace.one("open session").span_id, &replaced.span_id];
        assert_eq!(parents.iter().collect::<Vec<_>>(), openings);
        assert_eq!(count(trace.root(), "trunkline.sessions"), 2);
        assert!(!trace.named("turn").is_empty());
        world.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_dialled_in_vain_is_in_the_trace() {
    let refuses = |who: &str| format!("[[faults]]\n{who}kind = 'refuse'\nstatus = 503\n");
    for (url, dialect) in [
        ("/twilio/media/ga", Dialect::Twilio),
        ("/openai/v1/realtime?model=both", Dialect::Realtime),
    ] {
        let sink = Sink::default();
        let simulator = refuses("deployment = 'east'\n");
        let world = World::with_web(&format!("{POOL}{TRACES}"), &simulator, sink.serve());
        let report = world.call(&phone(url, dialect, one_turn())).await;
        assert!(report.script_done, "{report}");
        let trace = sink.trace().await;
        let failed = trace.one("failed dial");
        assert_eq!(failed.parent_span_id, trace.one("open session").span_id);
        assert_eq!(failed.kind(), SpanKind::Client);
        assert_eq!(text(failed, "trunkline.deployment"), "east");
        assert_eq!(text(failed, "error.type"), "refused");
        assert_eq!(count(failed, "http.response.status_code"), 503);
        assert!(is_error(failed) && !is_error(trace.root()));

        let sink = Sink::default();
        let world = World::with_web(&format!("{POOL}{TRACES}"), &refuses(""), sink.serve());
        let report = world.call(&phone(url, dialect, one_turn())).await;
        assert!(!report.script_done, "{report}");
        let trace = sink.trace().await;
        let failed = trace.named("failed dial");
        let deployments: BTreeSet<_> = failed
            .iter()
            .map(|it| text(it, "trunkline.deployment"))
            .collect();
        assert_eq!(deployments, BTreeSet::from(["east", "west"]));
        for it in failed {
            assert_eq!(it.parent_span_id, trace.root().span_id);
        }
        assert!(is_error(trace.root()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_relayed_call_is_traced_as_far_as_it_is_known() {
    let sink = Sink::default();
    let world = World::with_web(&format!("{CONFIG}{TRACES}"), "", sink.serve());
    let url = "/openai/v1/realtime?model=ga";
    let report = world.call(&phone(url, Dialect::Realtime, one_turn())).await;
    assert!(report.script_done, "{report}");
    let trace = sink.trace().await;
    assert_eq!(trace.root().name, "call realtime");
    assert_eq!(text(trace.root(), "gen_ai.request.model"), "ga");
    let turn = trace.one("turn");
    assert!(value(turn, "trunkline.turn.latency").is_some());
    let of = events(turn);
    for event in [
        "speech_started",
        "response_created",
        "first_caller_audio",
        "response_done",
    ] {
        assert!(of.contains(&event), "{event} in {of:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_has_a_trace_that_says_why() {
    let sink = Sink::default();
    let simulator = "[[faults]]\nkind = 'refuse'\nstatus = 500\n";
    let world = World::with_web(&format!("{CONFIG}{TRACES}"), simulator, sink.serve());
    let report = phone("/twilio/media/ga", Dialect::Twilio, one_turn());
    let report = report.call(world.connect()).await;
    assert!(report.refusal.is_some(), "{report}");
    let trace = sink.trace().await;
    assert_eq!(trace.0.len(), 2);
    assert_eq!(text(trace.one("failed dial"), "error.type"), "refused");
    assert!(is_error(trace.root()));
    assert!(text(trace.root(), "error.type").starts_with("deployment_"));
}

#[tokio::test(start_paused = true)]
async fn the_collector_follows_a_changed_configuration() {
    let sink = Sink::default();
    let world = World::with_web(CONFIG, "", sink.serve());
    let phone = phone("/twilio/media/ga", Dialect::Twilio, one_turn());
    world.call(&phone).await;
    for config in [format!("{CONFIG}{TRACES}"), CONFIG.to_owned()] {
        let parsed = Config::parse(&config).expect("good");
        let routes = parsed.build(&config).expect("good");
        world
            .gateway
            .replace(parsed.listener, routes, &Unchanged::default());
        world.call(&phone).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    // Of three calls, the one in the middle.
    sink.trace().await;
    assert_eq!(sink.look(|seen| seen.n_requests), 1);
}

/// What a caller heard of a call, without what differs from call to call.
fn heard(report: &CallReport) -> (BTreeMap<String, f64>, usize, usize) {
    let turns = report.turns.iter().enumerate();
    let voiced = turns.map(|(n, turn)| (format!("turn {n}"), turn.reply_voiced_ms));
    (
        voiced.collect(),
        report.underruns.len(),
        report.violations.len(),
    )
}

/// How late the pacer's frames were, in all and by how many.
fn pacing(world: &World) -> (f64, f64) {
    let of = |what: &str| world.metric(&format!("trunkline_pacer_lateness_seconds_{what}"));
    (of("sum"), of("count"))
}

#[tokio::test(start_paused = true)]
async fn no_call_notices_a_collector_that_is_slow_refuses_or_is_not_there() {
    let call = |config: String, sink: Sink| async move {
        let world = World::with_web(&config, "seed = 7\n", sink.serve());
        let mut reports = Vec::new();
        for _ in 0..3 {
            let script = one_turn();
            reports.push(heard(
                &world
                    .call(&phone("/twilio/media/ga", Dialect::Twilio, script))
                    .await,
            ));
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        let dropped = |cause: &str| {
            world.metric(&format!(
                "trunkline_trace_spans_dropped_total{{cause=\"{cause}\"}}"
            ))
        };
        let all = ["queue_full", "refused", "rejected", "not_taken"].map(dropped);
        let exported = world.metric("trunkline_trace_spans_exported_total");
        let paced = pacing(&world);
        world.assert_quiet().await;
        (reports, paced, all, exported)
    };
    let traced = |more: &str| format!("{CONFIG}{TRACES}{more}\n");
    let (usual, paced, _, _) = call(CONFIG.to_owned(), Sink::default()).await;
    let (_, _, _, n_spans) = call(traced(""), Sink::default()).await;
    assert!(n_spans >= 15.0, "{n_spans}");
    assert!(paced.1 > 100.0, "{paced:?}");
    for (mood, more, expected) in [
        (Mood::Takes, "", [0.0, 0.0, 0.0, 0.0]),
        (
            Mood::TakesAllBut(2),
            "batch_spans = 10000",
            [0.0, 0.0, 2.0, 0.0],
        ),
        (Mood::Answers(400), "", [0.0, n_spans, 0.0, 0.0]),
        (Mood::Answers(503), "", [0.0, 0.0, 0.0, n_spans]),
        (Mood::Gone, "", [0.0, 0.0, 0.0, n_spans]),
        (Mood::Silent, "", [0.0, 0.0, 0.0, n_spans]),
        (Mood::Takes, "queue_spans = 1", [n_spans, 0.0, 0.0, 0.0]),
    ] {
        let (reports, lateness, dropped, exported) = call(traced(more), Sink::new(mood)).await;
        assert_eq!(reports, usual, "{mood:?}");
        assert_eq!(lateness, paced, "{mood:?}");
        assert_eq!(dropped, expected, "{mood:?}");
        assert_eq!(dropped.iter().sum::<f64>() + exported, n_spans, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn spans_are_sent_again_once_the_collector_is_back() {
    let sink = Sink::new(Mood::Answers(503));
    let world = World::with_web(&format!("{CONFIG}{TRACES}"), "", sink.serve());
    world
        .call(&phone("/twilio/media/ga", Dialect::Twilio, one_turn()))
        .await;
    let retried = r#"trunkline_trace_export_retries_total{cause="status_503"}"#;
    while world.metric(retried) == 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sink.is(Mood::Takes);
    sink.trace().await;
}

/// At the end of the process, what is there is sent before the task is over, but not for ever.
#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_at_the_end() {
    for (mood, left) in [(Mood::Takes, false), (Mood::Silent, true)] {
        let sink = Sink::new(mood);
        let traces = TRACES.replace("'1s'", "'100s'");
        let world = World::with_web(&format!("{CONFIG}{traces}"), "", sink.serve());
        world
            .call(&phone("/twilio/media/ga", Dialect::Twilio, one_turn()))
            .await;
        assert_eq!(sink.look(|seen| seen.n_requests), 0);
        world.gateway.tracer().close();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let dropped = r#"trunkline_trace_spans_dropped_total{cause="shutdown"}"#;
        assert_eq!(world.metric(dropped) > 0.0, left);
        assert_eq!(sink.look(|seen| seen.spans.is_empty()), left);
    }
}
