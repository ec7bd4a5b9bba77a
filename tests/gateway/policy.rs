//! What a tenant's session policy lets through to the deployment, and what its callers see of it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{self, Receiver};
use trunkline::bridge::{OpenError, OpenedSession, SessionSource, TenantPolicy};
use trunkline::realtime::{PolicyRule, SessionPolicy, SessionPreset, Shape};
use trunkline::telemetry::Metrics;
use trunkline::upstream::{Dialer, FailedDials, Pool};

use crate::harness::{CONFIG, World};
use crate::wire::{Deployment, Heard, Wire, session_created, upgrade_request};

const POLICY: &str = r#"
[tenants.default.session]
instructions_prefix = "Be \"kind\"."
max_output_tokens = 200
forbidden = ["tracing"]
tools = ["weather"]
[tenants.default.session.pinned]
voice = "marin"
[tenants.default.session.defaults]
speed = 1.5
"#;

/// Where a caller of that shape finds that deployment.
fn target(shape: Shape, deployment: &str) -> String {
    match shape {
        Shape::Ga => format!("/openai/v1/realtime?model={deployment}"),
        Shape::Preview => {
            format!("/openai/realtime?api-version=2025-04-01-preview&deployment={deployment}")
        }
    }
}

/// A gateway with that policy before a scripted deployment of that shape.
fn world(policy: &str, shape: Shape) -> (World, Receiver<DuplexStream>) {
    let config = format!("{CONFIG}{policy}");
    let (world, mut accepted) = World::scripted(&config, "", &[shape.name()]);
    (world, accepted.remove(0))
}

/// The session that the scripted deployment has with [`POLICY`], without and with the caller's own instructions.
fn session(shape: Shape, own: &str) -> Value {
    let instructions = match own {
        "" => "Be \"kind\".".to_owned(),
        own => format!("Be \"kind\".\n\n{own}"),
    };
    match shape {
        Shape::Ga => json!({
            "id": "sess_scripted", "type": "realtime", "instructions": instructions, "max_output_tokens": 200,
            "audio": {"output": {"voice": "marin", "speed": 1.5}},
        }),
        Shape::Preview => json!({
            "id": "sess_scripted", "instructions": instructions, "max_response_output_tokens": 200, "voice": "marin",
            "speed": 1.5,
        }),
    }
}

fn updated(shape: Shape, own: &str) -> String {
    json!({"type": "session.updated", "event_id": "e1", "session": session(shape, own)}).to_string()
}

/// A caller whose first event has been read, and the deployment, of which the gateway wanted what [`POLICY`] says.
async fn pair(
    world: &World,
    accepted: &mut Receiver<DuplexStream>,
    caller: Shape,
    deployment: Shape,
) -> (Wire, Deployment, Value) {
    let target = target(caller, deployment.name());
    let created = session_created();
    let serve = async {
        let mut peer = Deployment::accept(accepted, &created).await;
        let update: Value = serde_json::from_str(&peer.text().await).expect("JSON");
        let mut expected = session(deployment, "");
        expected.as_object_mut().expect("an object").remove("id");
        assert_eq!(update["session"], expected);
        assert_eq!(update["type"], "session.update");
        peer.send(
            r#"{"type":"conversation.created","event_id":"e","conversation":{"id":"conv_1"}}"#,
        )
        .await;
        peer.send(&updated(deployment, "")).await;
        peer
    };
    let (mut wire, peer) = tokio::join!(Wire::open(world, &target), serve);
    let first = wire.event().await;
    assert_eq!(wire.event().await["type"], "conversation.created");
    (wire, peer, first)
}

const PAIRS: [(Shape, Shape); 4] = [
    (Shape::Ga, Shape::Ga),
    (Shape::Ga, Shape::Preview),
    (Shape::Preview, Shape::Ga),
    (Shape::Preview, Shape::Preview),
];

#[tokio::test(start_paused = true)]
async fn a_session_is_set_before_its_caller_is_answered() {
    for (caller, deployment) in PAIRS {
        let (world, mut accepted) = world(POLICY, deployment);
        let (mut wire, mut peer, first) = pair(&world, &mut accepted, caller, deployment).await;
        // One event tells of the session as it is, but for what is not the caller's to see.
        assert_eq!(first["type"], "session.created");
        let session = &first["session"];
        assert_eq!(session["instructions"], "");
        let (voice, cap) = match caller {
            Shape::Ga => (
                &session["audio"]["output"]["voice"],
                &session["max_output_tokens"],
            ),
            Shape::Preview => (&session["voice"], &session["max_response_output_tokens"]),
        };
        assert_eq!((voice, cap), (&json!("marin"), &json!(200)));
        // Nothing else came of it: the next events are those of caller and deployment.
        wire.text(r#"{"type":"response.cancel"}"#).await;
        assert_eq!(peer.text().await, r#"{"type":"response.cancel"}"#);
        peer.send(r#"{"type":"input_audio_buffer.cleared","event_id":"e"}"#)
            .await;
        assert_eq!(wire.event().await["type"], "input_audio_buffer.cleared");
        drop((wire, peer));
        world.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_refuses_the_settings_refuses_the_caller() {
    let error = r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"invalid_value","message":"m","param":"session.voice","event_id":"event_trunkline_opening"}}"#;
    for (answer, status) in [(Some(error), 502), (None, 504)] {
        let (world, mut accepted) = world(POLICY, Shape::Ga);
        let created = session_created();
        let serve = async {
            let mut peer = Deployment::accept(&mut accepted, &created).await;
            peer.text().await;
            if let Some(answer) = answer {
                peer.send(answer).await;
            }
            peer.until_close().await;
        };
        let request = upgrade_request(&target(Shape::Ga, "ga"), "");
        let (answer, ()) = tokio::join!(world.http(&request), serve);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains("kind"), "{answer}");
        world.assert_quiet().await;
    }
}

/// An event of the caller, and what becomes of it.
enum Then {
    /// This reaches the deployment.
    Passes(Value),
    /// The caller is answered with that code and parameter.
    Refused(&'static str, &'static str),
}

use Then::{Passes, Refused};

async fn check(caller: Shape, deployment: Shape, events: Vec<(&str, Then)>) {
    let (world, mut accepted) = world(POLICY, deployment);
    let (mut wire, mut peer, _) = pair(&world, &mut accepted, caller, deployment).await;
    for (event, then) in events {
        wire.text(event).await;
        match then {
            Passes(expected) => {
                let passed: Value = serde_json::from_str(&peer.text().await).expect("JSON");
                assert_eq!(passed, expected, "{event}");
            }
            Refused(code, param) => {
                let answer = wire.event().await;
                assert_eq!(answer["type"], "error", "{event}");
                assert_eq!(answer["error"]["type"], "invalid_request_error", "{event}");
                assert_eq!(answer["error"]["code"], code, "{event}");
                assert_eq!(answer["error"]["param"], param, "{event}");
                assert_eq!(answer["error"]["event_id"], "mine", "{event}");
            }
        }
    }
    // The call goes on after all that, and nothing of what was refused is on its way.
    wire.text(r#"{"type":"input_audio_buffer.commit"}"#).await;
    assert_eq!(peer.text().await, r#"{"type":"input_audio_buffer.commit"}"#);
    drop((wire, peer));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn callers_of_the_ga_shape_are_held_to_the_policy() {
    let ga = |session: Value| json!({"type": "session.update", "session": session});
    for deployment in [Shape::Ga, Shape::Preview] {
        let is_ga = deployment == Shape::Ga;
        let update = match deployment {
            Shape::Ga => {
                json!({"type": "realtime", "instructions": "Be \"kind\".\n\nSell.", "max_output_tokens": 200})
            }
            Shape::Preview => {
                json!({"instructions": "Be \"kind\".\n\nSell.", "max_response_output_tokens": 200})
            }
        };
        let speed = match is_ga {
            true => json!({"type": "realtime", "audio": {"output": {"speed": 1.0}}}),
            false => json!({"speed": 1.0}),
        };
        check(
            Shape::Ga,
            deployment,
            vec![
                (
                    r#"{"type":"session.update","session":{"type":"realtime","instructions":"Sell.","max_output_tokens":"inf","model":"gpt-5"}}"#,
                    Passes(ga(update)),
                ),
                (
                    r#"{"type":"session.update","session":{"type":"realtime","audio":{"output":{"speed":1.0}}}}"#,
                    Passes(ga(speed)),
                ),
                (
                    r#"{"type":"session.update","event_id":"mine","session":{"type":"realtime","audio":{"output":{"voice":"alloy"}}}}"#,
                    Refused("invalid_value", "session.audio.output.voice"),
                ),
                (
                    r#"{"type":"session.update","event_id":"mine","session":{"type":"realtime","tr\u0061cing":"auto"}}"#,
                    Refused("unknown_parameter", "session.tracing"),
                ),
                (
                    r#"{"type":"response.create"}"#,
                    Passes(json!({"type": "response.create", "response": {"max_output_tokens": 200}})),
                ),
                (
                    r#"{"type":"response.create","response":{"conversation":"none","instructions":"Sell.","input":[],"max_output_tokens":4096}}"#,
                    Passes(json!({"type": "response.create", "response": {
                        "conversation": "none", "instructions": "Be \"kind\".\n\nSell.", "input": [],
                        "max_output_tokens": 200,
                    }})),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"audio":{"output":{"voice":"alloy"}}}}"#,
                    Refused("invalid_value", "response.audio.output.voice"),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"tools":[{"type":"function","name":"pay"}]}}"#,
                    Refused("invalid_value", "response.tools[0].name"),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"tools":[{"type":"mcp","server_url":"https://x.example"}]}}"#,
                    Refused("invalid_value", "response.tools[0].type"),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"input":[{"type":"message","role":"system","content":[]}]}}"#,
                    Refused("invalid_value", "response.input[0].role"),
                ),
                (
                    r#"{"type":"conversation.item.create","event_id":"mine","item":{"type":"message","role":"developer","content":[]}}"#,
                    Refused("invalid_value", "item.role"),
                ),
                (
                    r#"{"type":"session.patch","event_id":"mine","session":{"instructions":"x"}}"#,
                    Refused("invalid_event", "type"),
                ),
            ],
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_the_preview_shape_are_held_to_the_policy() {
    for deployment in [Shape::Ga, Shape::Preview] {
        let session = match deployment {
            Shape::Ga => {
                json!({"type": "realtime", "instructions": "Be \"kind\".\n\nSell.", "max_output_tokens": 9,
                "audio": {"output": {"voice": "marin"}}})
            }
            Shape::Preview => {
                json!({"instructions": "Be \"kind\".\n\nSell.", "max_response_output_tokens": 9,
                "voice": "marin"})
            }
        };
        check(
            Shape::Preview,
            deployment,
            vec![
                (
                    r#"{"type":"session.update","session":{"instructions":"Sell.","max_response_output_tokens":9,"voice":"marin"}}"#,
                    Passes(json!({"type": "session.update", "session": session})),
                ),
                (
                    r#"{"type":"session.update","event_id":"mine","session":{"voice":"alloy"}}"#,
                    Refused("invalid_value", "session.voice"),
                ),
                (
                    r#"{"type":"session.update","event_id":"mine","session":{"audio":{"output":{"voice":"alloy"}}}}"#,
                    Refused("invalid_value", "session.audio.output.voice"),
                ),
                (
                    r#"{"type":"response.create","response":{"max_output_tokens":"inf"}}"#,
                    Passes(json!({"type": "response.create", "response": {"max_output_tokens": 200}})),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"voice":"alloy"}}"#,
                    Refused("invalid_value", "response.voice"),
                ),
                (
                    r#"{"type":"response.create","event_id":"mine","response":{"append_input_items":[{"type":"message","role":"system"}]}}"#,
                    Refused("invalid_value", "response.append_input_items[0].role"),
                ),
            ],
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_counted() {
    let (world, mut accepted) = world(POLICY, Shape::Ga);
    let (mut wire, peer, _) = pair(&world, &mut accepted, Shape::Ga, Shape::Ga).await;
    for event in [
        r#"{"type":"response.create","response":{"voice":"alloy"}}"#,
        r#"{"type":"response.create","response":{"voice":"marin","voice":"alloy"}}"#,
        r#"{"type":"anything"}"#,
        r#"{"type":"something"}"#,
    ] {
        wire.text(event).await;
        assert_eq!(wire.event().await["type"], "error");
    }
    let metrics = world.gateway.metrics().render().expect("renders");
    for (rule, n) in [("pinned", 1), ("malformed", 1), ("unknown_event", 2)] {
        let line =
            format!(r#"trunkline_policy_refused_total{{rule="{rule}",tenant="default"}} {n}"#);
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    drop((wire, peer));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn callers_do_not_see_the_operators_instructions() {
    for (caller, deployment) in PAIRS {
        let (world, mut accepted) = world(POLICY, deployment);
        let (mut wire, mut peer, _) = pair(&world, &mut accepted, caller, deployment).await;
        peer.send(&updated(deployment, "Sell.")).await;
        assert_eq!(wire.event().await["session"]["instructions"], "Sell.");
        let full = r#""Be \u0022kind\".\n\nSell.""#;
        for kind in ["response.created", "response.done"] {
            peer.send(&format!(
                r#"{{"type":"{kind}","event_id":"e","response":{{"id":"r","instructions":{full}}}}}"#
            ))
            .await;
            assert_eq!(wire.event().await["response"]["instructions"], "Sell.");
        }
        peer.send(&format!(
            r#"{{"type":"error","event_id":"e","error":{{"type":"t","message":{full}}}}}"#
        ))
        .await;
        assert_eq!(wire.event().await["error"]["message"], "\n\nSell.");
        // What is not even an event of its type is no way round.
        peer.send(&format!(
            r#"{{"type":"session.updated","event_id":"e","session":{{"id":7,"instructions":{full}}}}}"#
        ))
        .await;
        peer.send(r#"{"type":"input_audio_buffer.cleared","event_id":"e"}"#)
            .await;
        let rest = wire.until("input_audio_buffer.cleared").await;
        assert!(!format!("{rest:?}").contains("kind"), "{rest:?}");
        drop((wire, peer));
        world.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_models_calls_are_answered() {
    let (world, mut accepted) = world(POLICY, Shape::Ga);
    let (mut wire, mut peer, _) = pair(&world, &mut accepted, Shape::Ga, Shape::Ga).await;
    let output = r#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"call_1","output":"{}"}}"#;
    wire.text(output).await;
    let answer = wire.event().await;
    assert_eq!(answer["error"]["code"], "invalid_tool_call_id");
    peer.send(r#"{"type":"response.function_call_arguments.done","event_id":"e","response_id":"r","item_id":"i","output_index":0,"call_id":"call_1","name":"weather","arguments":"{}"}"#)
        .await;
    wire.event().await;
    wire.text(output).await;
    assert_eq!(peer.text().await, output);
    drop((wire, peer));
    world.assert_quiet().await;
}

/// Nothing is sent to the deployment but what the caller sends, and that as it is.
async fn check_untouched(policy: &str, client: &[&str], server: &[&str]) {
    let (world, mut accepted) = world(policy, Shape::Ga);
    let created = session_created();
    let target = target(Shape::Ga, "ga");
    let (mut wire, mut peer) = tokio::join!(
        Wire::open(&world, &target),
        Deployment::accept(&mut accepted, &created)
    );
    assert_eq!(wire.next().await, Heard::Text(created));
    for text in client {
        wire.text(text).await;
        assert_eq!(peer.text().await, *text);
    }
    for text in server {
        peer.send(text).await;
        assert_eq!(wire.next().await, Heard::Text((*text).to_owned()));
    }
    drop((wire, peer));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_a_policy_is_relayed_byte_for_byte() {
    let server = [
        r#"{"type":"session.updated","event_id":"e","session":{"id":"s","type":"realtime","instructions" : "Be \"kind\".\n\nx"}}"#,
        r#"{"type":"response.output_audio.delta","response_id":"r","item_id":"i","output_index":0,"content_index":0,"delta":"AAAA","new":{}}"#,
        r#"{"type":"something.new","x":[]}"#,
    ];
    let others = "[tenants.default]\n[tenants.other.session]\nforbidden = ['tools']\nmax_output_tokens = 1\n";
    check_untouched(
        others,
        &[
            r#"{ "audio" : "AA\/A" ,"event_id":"x", "type":"input_audio_buffer.append" }"#,
            r#"{"type":"session.update", "session":{"type":"realtime","tools":[{"type":"mcp"}],"new":1,"max_output_tokens":"inf"}}"#,
            r#"{"type":"response.create","response":{"instructions":"a","instructions":"b"}}"#,
            r#"{"type":"conversation.item.create","item":{"type":"message","role":"system"}}"#,
            r#"{"type":"something.new","x":{}}"#,
            r#"{"no_type":true}"#,
        ],
        &server,
    )
    .await;
    // A policy that sets nothing asks the deployment for nothing either.
    check_untouched(
        "[tenants.default.session]\n",
        &[
            r#"{ "audio" : "AA\/A" ,"event_id":"x", "type":"input_audio_buffer.append" }"#,
            r#"{"type":"session.update", "session":{"type":"realtime","tools":[{"type":"function","name":"n"}],"max_output_tokens":"inf"}}"#,
        ],
        &server,
    )
    .await;
}

/// What the deployment is asked for because of a caller's key.
async fn check_preset(
    deployment: &str,
    policy: &str,
    preset: &SessionPreset,
    expected: Result<Value, PolicyRule>,
) {
    let metrics = Metrics::new();
    let (accept, mut accepted) = mpsc::channel(1);
    let dialer = Dialer::new(Arc::clone(&metrics)).with_memory("east", accept);
    let config = format!("url = 'ws://127.0.0.1:1'\nmodel = 'm'\nshape = '{deployment}'");
    let config = toml::from_str(&config).expect("good");
    let deployment = trunkline::upstream::Deployment::new("east", config).expect("good");
    let config = toml::from_str(policy).expect("of this form");
    let policy = (!policy.is_empty()).then(|| TenantPolicy {
        tenant: "acme".to_owned(),
        policy: Arc::new(SessionPolicy::new(&config).expect("good")),
    });
    let sessions = SessionSource {
        failed_dials: FailedDials::default(),
        dialer: Arc::new(dialer),
        pool: Arc::new(Pool::new("east", vec![Arc::new(deployment)])),
        tenant: String::new(),
        caller: String::new(),
    };
    let opening = OpenedSession::open(&sessions, false, policy, Some(preset));
    let expected = match expected {
        Ok(expected) => expected,
        Err(rule) => {
            match opening.await {
                Err(OpenError::Preset(refused)) => assert_eq!(refused.rule, rule),
                other => panic!("{other:?}"),
            }
            assert!(accepted.try_recv().is_err(), "the deployment was asked");
            return;
        }
    };
    let serve = async {
        let mut peer = Deployment::accept(&mut accepted, &session_created()).await;
        let update: Value = serde_json::from_str(&peer.text().await).expect("JSON");
        peer.send(&updated(Shape::Ga, "")).await;
        update
    };
    let (opened, update) = tokio::join!(opening, serve);
    opened.expect("a session");
    assert_eq!(update["session"], expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_attached_to_a_key_is_set_in_the_deployments_shape() {
    let preview =
        r#"{"model":"m","voice":"verse","instructions":"Sell.","input_audio_format":"g711_ulaw"}"#;
    let preview = SessionPreset::new(Shape::Preview, preview, false).expect("good");
    let in_ga = |instructions: &str| {
        json!({"type": "realtime", "instructions": instructions,
            "audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"voice": "verse"}}})
    };
    check_preset("ga", "", &preview, Ok(in_ga("Sell."))).await;
    let same =
        json!({"voice": "verse", "instructions": "Sell.", "input_audio_format": "g711_ulaw"});
    check_preset("preview", "", &preview, Ok(same)).await;
    let prefix = "instructions_prefix = 'Be kind.'";
    check_preset("ga", prefix, &preview, Ok(in_ga("Be kind.\n\nSell."))).await;
    let pinned = "pinned = { voice = 'marin' }";
    check_preset("ga", pinned, &preview, Err(PolicyRule::Pinned)).await;
    let ga =
        r#"{"type":"transcription","audio":{"input":{"transcription":{"model":"whisper-1"}}}}"#;
    let ga = SessionPreset::new(Shape::Ga, ga, false).expect("good");
    let transcription = json!({"input_audio_transcription": {"model": "whisper-1"}});
    check_preset("preview", prefix, &ga, Ok(transcription)).await;
}

/// Posts a session in the preview shape and closes; the answer's status line and the key in its body, if any.
async fn mint(world: &World, session: &str) -> (String, Option<String>) {
    let request = format!(
        "POST /openai/realtimeapi/sessions?api-version=2025-04-01-preview HTTP/1.1\r\nHost: gateway\r\n\
         Connection: close\r\napi-key: key-of-acme\r\nContent-Length: {}\r\n\r\n{session}",
        session.len()
    );
    let answer = world.http(&request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let status = head.lines().next().expect("a line").to_owned();
    let key = body["client_secret"]["value"].as_str().map(str::to_owned);
    (status, key)
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_key_opens_the_session_that_it_was_made_for() {
    let hash = trunkline::auth::hash_key("key-of-acme");
    let auth = format!("mode = 'keys'\n[[auth.keys]]\ntenant = 'acme'\nsha256 = '{hash}'");
    let config = CONFIG.replace("mode = \"none\"", &auth);
    let config = format!(
        "{config}\n[tenants.acme.session]\ninstructions_prefix = 'Be kind.'\nforbidden = ['tracing']\n"
    );
    let world = World::with_config(&config, "");
    let (status, _) = mint(&world, r#"{"model":"ga","tracing":"auto"}"#).await;
    assert!(status.starts_with("HTTP/1.1 403 "), "{status}");
    let refused = r#"trunkline_policy_refused_total{rule="forbidden",tenant="acme"}"#;
    assert_eq!(world.metric(refused), 1.0);
    let session = r#"{"model":"ga","voice":"verse","instructions":"Sell."}"#;
    let (status, key) = mint(&world, session).await;
    let key = key.expect(&status);
    let bearer = format!("authorization: Bearer {key}\r\n");
    let mut wire = Wire::open_with(&world, &target(Shape::Ga, "ga"), &bearer).await;
    let first = wire.event().await;
    assert_eq!(first["type"], "session.created");
    assert_eq!(first["session"]["audio"]["output"]["voice"], "verse");
    assert_eq!(first["session"]["instructions"], "Sell.");
    // The settings are defaults, which the caller may change.
    wire.text(r#"{"type":"session.update","session":{"type":"realtime","instructions":"Buy.","audio":{"output":{"voice":"sage"}}}}"#)
        .await;
    let updated = wire.until("session.updated").await;
    let session = &updated.last().expect("one")["session"];
    assert_eq!(session["audio"]["output"]["voice"], "sage");
    assert_eq!(session["instructions"], "Buy.");
    wire.close(1000, "").await;
    wire.until_close().await;
    world.assert_quiet().await;
}
