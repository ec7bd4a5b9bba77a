//! SDK callers: what passes as it is, what is translated, and what happens when a side does not play along.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use trunkline::call::EndReason;
use trunkline::simulator::speech;

use crate::harness::{CONFIG, World, not_carried};
use crate::wire::{Deployment, Heard, Wire, polite, session_created};

const GA: &str = "/openai/v1/realtime?model=ga";

/// A caller of the scripted deployment `ga`, and that deployment.
async fn pair(world: &World, accepted: &mut Receiver<DuplexStream>) -> (Wire, Deployment) {
    let created = session_created();
    let (mut wire, deployment) = tokio::join!(
        Wire::open(world, GA),
        Deployment::accept(accepted, &created)
    );
    assert_eq!(wire.next().await, Heard::Text(created));
    (wire, deployment)
}

fn scripted() -> (World, Receiver<DuplexStream>) {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    (world, accepted.remove(0))
}

/// The same where a call ends with its session.
fn scripted_and_not_carried() -> (World, Receiver<DuplexStream>) {
    let (world, mut accepted) = World::scripted(&not_carried(), "", &["ga"]);
    (world, accepted.remove(0))
}

#[tokio::test(start_paused = true)]
async fn the_same_shape_passes_byte_for_byte() {
    let (world, mut accepted) = scripted();
    let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
    for text in [
        r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#,
        r#"{ "audio" : "AA\/A" ,"event_id":"x", "type":"input_audio_buffer.append" }"#,
        "{\n  \"type\": \"session.update\",\n  \"session\": {\"type\": \"realtime\", \"instructions\": \"J\\u00fcrgen \u{20ac} \u{1f600}\"}\n}",
        r#"{"type":"response.create","response":{"metadata":{"k":"v"},"new_field":[1e3,-0.0,1.50]}}"#,
        r#"{"type":"something.new","x":{"type":"nested"}}"#,
        r#"{"no_type":true}"#,
        r#"[1,2]"#,
        r#""a string""#,
    ] {
        wire.text(text).await;
        assert_eq!(deployment.text().await, text);
    }
    for text in [
        r#"{"type":"session.updated","event_id":"e","session":{"id":"s","type":"realtime","voice" : "x"}}"#,
        r#"{"delta":"AA\/A","type":"response.output_audio.delta","item_id":"i","response_id":"r","content_index":0,"output_index":0,"event_id":"e"}"#,
        r#"{"type":"response.output_audio.delta","response_id":"r","item_id":"i","output_index":0,"content_index":0,"delta":"AAAA","new":{}}"#,
        "{\"type\":\"response.output_audio_transcript.delta\",\"delta\":\"\u{1f600}\\ud83d\\ude00\"}",
        r#"{"type":"something.new","x":[]}"#,
        r#"{"type":"error","event_id":"e","error":{"type":"invalid_request_error","code":"invalid_value","message":"m","param":null,"event_id":"x"}}"#,
        r#"{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":20000,"remaining":15482,"reset_seconds":13.554}]}"#,
    ] {
        deployment.send(text).await;
        assert_eq!(wire.next().await, Heard::Text(text.to_owned()));
    }
    wire.close(1000, "").await;
    assert_eq!(
        wire.next().await,
        Heard::Close {
            code: 1000,
            reason: String::new()
        }
    );
    drop(wire);
    deployment.until_close().await.expect("a close frame");
    drop(deployment);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_huge_upload_passes() {
    let (world, mut accepted) = scripted();
    let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
    // 15 MiB of audio, the most that the vendor takes at once (protocol reference 1.6).
    let audio = STANDARD.encode(vec![7; 15 << 20]);
    let event = format!(r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#);
    let ((), received) = tokio::join!(wire.text(&event), deployment.text());
    assert!(received == event, "{} bytes", received.len());
    // And so does a huge item on its way back.
    let item = format!(
        r#"{{"type":"conversation.item.retrieved","event_id":"e","item":{{"audio":"{audio}"}}}}"#
    );
    let ((), heard) = tokio::join!(deployment.send(&item), wire.next());
    assert!(heard == Heard::Text(item));
    drop((wire, deployment));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_on_each_side_by_itself() {
    let (world, mut accepted) = scripted();
    let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
    wire.frame(0x89, b"are you there").await;
    assert_eq!(wire.next().await, Heard::Pong(b"are you there".to_vec()));
    deployment
        .socket
        .send(Message::Ping("and you".into()))
        .await
        .expect("sent");
    let pong = deployment
        .socket
        .next()
        .await
        .expect("a pong")
        .expect("read");
    assert_eq!(pong, Message::Pong("and you".into()));
    // Neither side heard of the other's: the next thing is the next event.
    wire.text(r#"{"type":"response.cancel"}"#).await;
    assert_eq!(deployment.text().await, r#"{"type":"response.cancel"}"#);
    drop((wire, deployment));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployments_good_bye_reaches_the_caller() {
    let (world, mut accepted) = scripted_and_not_carried();
    for (code, reason, expected) in [
        (1000, "OK", EndReason::ModelClosed),
        (
            1001,
            "Your session hit the maximum duration of 60 minutes.",
            EndReason::ModelSessionExpired,
        ),
        (1011, "keepalive ping timeout", EndReason::ModelClosed),
        (1012, "", EndReason::ModelClosed),
        (
            3000,
            "invalid_request_error.invalid_api_key",
            EndReason::ModelUnauthorized,
        ),
        (
            4000,
            "invalid_request_error.beta_api_shape_disabled",
            EndReason::ModelRejectedSession,
        ),
    ] {
        let n = world.gateway.calls().ended().len();
        let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
        let last = r#"{"type":"error","event_id":"e","error":{"type":"t","message":"last words"}}"#;
        deployment.send(last).await;
        deployment.close(code, reason).await;
        assert_eq!(wire.next().await, Heard::Text(last.to_owned()));
        let reason = reason.to_owned();
        assert_eq!(wire.next().await, Heard::Close { code, reason });
        // The deployment gets its own good-bye answered.
        let answer = deployment.until_close().await;
        assert_eq!(answer.map(|(code, _)| code), Some(code));
        drop((wire, deployment));
        assert_eq!(world.ended(n + 1).await.end_reason, expected);
    }
    // Without a word, there is none to pass on.
    let (mut wire, deployment) = pair(&world, &mut accepted).await;
    drop(deployment);
    let close = wire.until_close().await.0;
    assert_eq!(close, Some((1011, "model_gone".to_owned())));
    drop(wire);
    let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
    deployment.socket.close(None).await.expect("closed");
    let close = wire.until_close().await.0;
    assert_eq!(close, Some((1011, "model_closed".to_owned())));
    drop((wire, deployment));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_callers_good_bye_is_answered_and_ends_the_session() {
    let (world, mut accepted) = scripted();
    for (code, reason) in [
        (1000, ""),
        (1000, "OK"),
        (1001, "going away"),
        (4999, "mine"),
    ] {
        let (mut wire, mut deployment) = pair(&world, &mut accepted).await;
        wire.close(code, reason).await;
        let answer = wire.until_close().await.0;
        assert_eq!(answer.map(|(code, _)| code), Some(code));
        drop(wire);
        // The session is the gateway's own, which ends it in good order.
        assert_eq!(deployment.until_close().await, Some((1000, String::new())));
    }
    for summary in world.gateway.calls().ended() {
        assert_eq!(summary.end_reason, EndReason::CallerHangup);
    }
    world.assert_quiet().await;
}

/// Bytes that count: what a closing gateway reads and throws away does not.
fn counted(n_bytes: usize, began: Instant) -> usize {
    let closing = began.elapsed() > Duration::from_secs(14);
    if closing { 0 } else { n_bytes }
}

/// What a caller that reads nothing makes the deployment wait for, and what it costs.
#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_stops_the_deployment() {
    let (world, mut accepted) = scripted();
    let (wire, mut deployment) = pair(&world, &mut accepted).await;
    let caller = polite(wire).await;
    let audio = STANDARD.encode([0; 12_000]);
    let delta = format!(
        r#"{{"type":"response.output_audio.delta","event_id":"e","response_id":"r","item_id":"i","output_index":0,"content_index":0,"delta":"{audio}"}}"#
    );
    let began = Instant::now();
    let mut n_sent = 0;
    let send = async {
        while deployment
            .socket
            .send(Message::text(delta.clone()))
            .await
            .is_ok()
        {
            n_sent += counted(delta.len(), began);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Sends wait once all buffers are full, and fail once the gateway has given up.
    tokio::time::timeout(Duration::from_secs(60), send)
        .await
        .expect("an end");
    let summary = world.ended(1).await;
    assert_eq!(summary.end_reason, EndReason::CallerTooSlow);
    let waited = began.elapsed().as_secs();
    assert!((15..=25).contains(&waited), "{waited} s");
    // The pipes hold 320 KiB; what the gateway holds besides is less than that.
    assert!(n_sent < 700 << 10, "{n_sent} bytes were taken");
    drop((caller, deployment));
    world.assert_quiet().await;
}

/// A deployment that reads nothing stops the caller.
#[tokio::test(start_paused = true)]
async fn a_deployment_that_reads_nothing_stops_the_caller() {
    let (world, mut accepted) = scripted_and_not_carried();
    let (wire, deployment) = pair(&world, &mut accepted).await;
    let mut caller = polite(wire).await;
    let audio = STANDARD.encode([0; 960]);
    let event = format!(r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#);
    let began = Instant::now();
    let mut n_sent = 0;
    let send = async {
        while caller.send(Message::text(event.clone())).await.is_ok() {
            n_sent += counted(event.len(), began);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), send)
        .await
        .expect("an end");
    assert_eq!(world.ended(1).await.end_reason, EndReason::ModelStalled);
    assert!(n_sent < 700 << 10, "{n_sent} bytes were taken");
    drop((caller, deployment));
    world.assert_quiet().await;
}

/// Neither end of a pipe in memory tells that its owner was switched off; only the missing pong does.
#[tokio::test(start_paused = true)]
async fn a_caller_that_vanished_without_a_word_is_noticed() {
    let world = World::new("");
    let began = Instant::now();
    let vanished = Wire::open(&world, GA).await;
    let summary = world.ended(1).await;
    assert_eq!(summary.end_reason, EndReason::CallerGone);
    let noticed = began.elapsed();
    assert!(
        // Two seconds of it are the good-bye that nobody answers.
        (Duration::from_secs(30)..Duration::from_secs(33)).contains(&noticed),
        "{noticed:?}"
    );
    drop(vanished);
}

#[tokio::test(start_paused = true)]
async fn a_silent_caller_that_answers_pings_stays() {
    let world = World::new("");
    let mut wire = Wire::open(&world, GA).await;
    assert!(matches!(wire.next().await, Heard::Text(_)));
    let reading = tokio::time::timeout(Duration::from_secs(55), wire.next()).await;
    assert!(reading.is_err(), "nothing is to be heard");
    assert_eq!(world.gateway.calls().active(), 1);
}

#[tokio::test(start_paused = true)]
async fn subprotocols_are_selected() {
    let world = World::new("");
    for (offered, selected) in [
        ("", None),
        ("Sec-WebSocket-Protocol: realtime\r\n", Some("realtime")),
        (
            "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.k, openai-beta.realtime-v1\r\n",
            Some("realtime"),
        ),
        ("Sec-WebSocket-Protocol: other\r\n", None),
    ] {
        let wire = Wire::open_with(&world, "/v1/realtime?model=ga", offered).await;
        let found = wire.answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-protocol")
                .then_some(value)
        });
        assert_eq!(found, selected, "{offered}");
        assert!(!wire.answer.to_ascii_lowercase().contains("extensions"));
    }
    // Compression is declined.
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let wire = Wire::open_with(&world, GA, offer).await;
    assert!(!wire.answer.to_ascii_lowercase().contains("extensions"));
    drop(wire);
    world.assert_quiet().await;
}

/// Which shape the caller speaks, and which the deployment.
const CROSSINGS: [(Speaks, &str); 4] = [
    (Speaks::Ga, "ga"),
    (Speaks::Ga, "preview"),
    (Speaks::Preview, "preview"),
    (Speaks::Preview, "ga"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Ga,
    Preview,
}

impl Speaks {
    fn target(self, deployment: &str) -> String {
        match self {
            Self::Ga => format!("/openai/v1/realtime?model={deployment}"),
            Self::Preview => {
                format!("/openai/realtime?api-version=2025-04-01-preview&deployment={deployment}")
            }
        }
    }

    fn session(self) -> Value {
        match self {
            Self::Ga => {
                json!({"type": "realtime", "instructions": "Be brief.", "audio": {"input": {
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": true}}}})
            }
            Self::Preview => json!({"instructions": "Be brief.",
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": true}}),
        }
    }

    /// The events of a spoken answer, from `response.created` on (protocol reference 5.4).
    fn answer(self) -> Vec<&'static str> {
        match self {
            Self::Ga => vec![
                "response.created",
                "rate_limits.updated",
                "response.output_item.added",
                "conversation.item.added",
                "response.content_part.added",
                "(deltas)",
                "response.output_audio.done",
                "response.output_audio_transcript.done",
                "response.content_part.done",
                "conversation.item.done",
                "response.output_item.done",
                "response.done",
            ],
            Self::Preview => vec![
                "response.created",
                "rate_limits.updated",
                "response.output_item.added",
                "conversation.item.created",
                "response.content_part.added",
                "(deltas)",
                "response.audio.done",
                "response.audio_transcript.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.done",
            ],
        }
    }

    /// The events of an item that a client or its audio made.
    fn item(self) -> Vec<&'static str> {
        match self {
            Self::Ga => vec!["conversation.item.added", "conversation.item.done"],
            Self::Preview => vec!["conversation.item.created"],
        }
    }

    fn audio_delta(self) -> &'static str {
        match self {
            Self::Ga => "response.output_audio.delta",
            Self::Preview => "response.audio.delta",
        }
    }
}

/// The types of events, any run of audio and transcript deltas written as one, `(deltas)`.
fn order(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<_> = events
        .iter()
        .map(|event| match event["type"].as_str().expect("a type") {
            kind if kind.ends_with("audio.delta") || kind.ends_with("transcript.delta") => {
                "(deltas)"
            }
            kind => kind,
        })
        .collect();
    types.dedup();
    types
}

/// A configured session of a client that speaks so at that deployment.
async fn session(world: &World, speaks: Speaks, deployment: &str) -> Wire {
    let mut wire = Wire::open(world, &speaks.target(deployment)).await;
    // Sent before `session.created` was read, as clients do.
    wire.send(json!({"type": "session.update", "session": speaks.session()}))
        .await;
    let events = wire.until("session.updated").await;
    assert_eq!(order(&events), ["session.created", "session.updated"]);
    let is_ga = events[1]["session"]["audio"].is_object();
    assert_eq!(is_ga, speaks == Speaks::Ga, "{}", events[1]);
    assert_eq!(events[1]["session"]["instructions"], "Be brief.");
    wire
}

async fn good_bye(world: &World, mut wire: Wire) {
    wire.close(1000, "").await;
    assert_eq!(wire.until_close().await.0.map(|(code, _)| code), Some(1000));
    drop(wire);
    world.assert_quiet().await;
    for session in world.simulator.sessions() {
        assert!(session.errors.is_empty(), "{:?}", session.errors);
    }
}

fn concat(parts: &[Vec<&'static str>]) -> Vec<&'static str> {
    parts.concat()
}

#[tokio::test(start_paused = true)]
async fn text_is_answered_in_the_callers_shape() {
    for (speaks, deployment) in CROSSINGS {
        let world = World::new("reply = {mode = 'tone', hz = 440.0, length = '1s'}");
        let mut wire = session(&world, speaks, deployment).await;
        let content = json!([{"type": "input_text", "text": "Hello?"}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        wire.send(json!({"type": "conversation.item.create", "item": item}))
            .await;
        wire.send(json!({"type": "response.create"})).await;
        let events = wire.until("response.done").await;
        let expected = concat(&[speaks.item(), speaks.answer()]);
        assert_eq!(order(&events), expected, "{speaks:?} at {deployment}");
        assert!(events.iter().all(|event| event["event_id"].is_string()));
        let seconds = reply_seconds(&events, speaks);
        assert!((seconds - 1.0).abs() < 0.01, "{seconds}");
        let done = &events[events.len() - 1]["response"];
        assert_eq!(done["status"], "completed");
        let part = &done["output"][0]["content"][0]["type"];
        let expected = if speaks == Speaks::Ga {
            "output_audio"
        } else {
            "audio"
        };
        assert_eq!(part, expected);
        good_bye(&world, wire).await;
    }
}

fn reply_seconds(events: &[Value], speaks: Speaks) -> f64 {
    let deltas = events
        .iter()
        .filter(|event| event["type"] == speaks.audio_delta());
    let bytes: usize = deltas
        .map(|event| {
            let delta = event["delta"].as_str().expect("audio");
            STANDARD.decode(delta).expect("base64").len()
        })
        .sum();
    bytes as f64 / 48_000.0
}

/// Says a sentence as a microphone would, and then nothing for so long.
async fn say(wire: &mut Wire, pause: Duration) {
    let mut clip = speech::hours().at_rate(24_000).samples.to_vec();
    clip.resize(clip.len() + (pause.as_millis() as usize) * 24, 0);
    for samples in clip.chunks(480) {
        let bytes: Vec<u8> = samples
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        let audio = STANDARD.encode(bytes);
        wire.send(json!({"type": "input_audio_buffer.append", "audio": audio}))
            .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn speech_is_answered_in_the_callers_shape() {
    for (speaks, deployment) in CROSSINGS {
        let world = World::new("");
        let mut wire = session(&world, speaks, deployment).await;
        say(&mut wire, Duration::from_millis(600)).await;
        let events = wire.until("response.done").await;
        let turn = vec![
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
        ];
        let expected = concat(&[turn, speaks.item(), speaks.answer()]);
        assert_eq!(order(&events), expected, "{speaks:?} at {deployment}");
        assert!(reply_seconds(&events, speaks) > 1.5);
        good_bye(&world, wire).await;
    }
}

#[tokio::test(start_paused = true)]
async fn functions_are_called_in_the_callers_shape() {
    let script = "[reply]\nmode = 'script'\nturns = [{calls = [{name = 'weather', arguments = '{\"at\":\"sea\"}'}]}, {say = 'It rains.'}]\n";
    for (speaks, deployment) in CROSSINGS {
        let world = World::new(script);
        let mut wire = session(&world, speaks, deployment).await;
        wire.send(json!({"type": "response.create"})).await;
        let events = wire.until("response.done").await;
        let done = if speaks == Speaks::Ga {
            vec!["conversation.item.done"]
        } else {
            vec![]
        };
        let expected = concat(&[
            vec![
                "response.created",
                "rate_limits.updated",
                "response.output_item.added",
            ],
            speaks.item()[..1].to_vec(),
            vec![
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
            ],
            done,
            vec!["response.output_item.done", "response.done"],
        ]);
        assert_eq!(order(&events), expected, "{speaks:?} at {deployment}");
        let call = &events[events.len() - 1]["response"]["output"][0];
        assert_eq!(
            (&call["type"], &call["name"]),
            (&"function_call".into(), &"weather".into())
        );
        let item =
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
        wire.send(json!({"type": "conversation.item.create", "item": item}))
            .await;
        wire.send(json!({"type": "response.create"})).await;
        let events = wire.until("response.done").await;
        let expected = concat(&[speaks.item(), speaks.answer()]);
        assert_eq!(order(&events), expected, "{speaks:?} at {deployment}");
        good_bye(&world, wire).await;
    }
}

#[tokio::test(start_paused = true)]
async fn interruptions_are_told_in_the_callers_shape() {
    let slow = "reply = {mode = 'tone', hz = 440.0, length = '20s'}\nlatency = {speed = 1.0}\n";
    for (speaks, deployment) in CROSSINGS {
        let world = World::new(slow);
        let mut wire = session(&world, speaks, deployment).await;
        wire.send(json!({"type": "response.create"})).await;
        let first = wire.until(speaks.audio_delta()).await;
        let item_id = first[first.len() - 1]["item_id"].clone();
        tokio::time::sleep(Duration::from_secs(1)).await;
        say(&mut wire, Duration::ZERO).await;
        let before = wire.until("input_audio_buffer.speech_started").await;
        assert_eq!(
            order(&before),
            ["(deltas)", "input_audio_buffer.speech_started"]
        );
        // Nothing of the reply comes after that but its end (protocol reference 5.6, F1).
        let events = wire.until("response.done").await;
        let expected = &speaks.answer()[6..];
        assert_eq!(order(&events), expected, "{speaks:?} at {deployment}");
        let response = &events[events.len() - 1]["response"];
        assert_eq!(response["status"], "cancelled");
        assert_eq!(response["status_details"]["reason"], "turn_detected");
        wire.send(json!({"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": 700}))
            .await;
        let events = wire.until("conversation.item.truncated").await;
        let truncated = &events[events.len() - 1];
        assert_eq!(
            (&truncated["item_id"], &truncated["audio_end_ms"]),
            (&item_id, &700.into())
        );
        let session = &world.simulator.sessions()[0];
        assert_eq!(session.truncates.len(), 1);
        assert!(session.truncates[0].accepted);
        good_bye(&world, wire).await;
    }
}

/// An event of the other shape is answered as the caller's own vendor would answer it.
#[tokio::test(start_paused = true)]
async fn events_of_the_wrong_shape_are_answered() {
    for (speaks, deployment) in CROSSINGS {
        let world = World::new("");
        let mut wire = session(&world, speaks, deployment).await;
        let (wrong, code) = match speaks {
            Speaks::Ga => (json!({"voice": "alloy"}), "missing_required_parameter"),
            Speaks::Preview => (json!({"type": "realtime"}), "unknown_parameter"),
        };
        wire.send(json!({"type": "session.update", "event_id": "mine", "session": wrong}))
            .await;
        let error = wire.event().await;
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(
            error["error"]["code"], code,
            "{speaks:?} at {deployment}: {error}"
        );
        assert_eq!(error["error"]["event_id"], "mine");
        assert!(
            wire.next().now_or_never().is_none(),
            "one error, and the session lives"
        );
        wire.send(json!({"type": "session.update", "session": speaks.session()}))
            .await;
        wire.until("session.updated").await;
        drop(wire);
        world.assert_quiet().await;
    }
}

/// openai-python's GA client on `AsyncAzureOpenAI` asks at the preview URL (openai/openai-python#2638).
#[tokio::test(start_paused = true)]
async fn an_operator_knows_better_than_the_url() {
    let config = format!("{CONFIG}\n[tenants.default]\ncaller_shape = \"ga\"\n");
    let (world, mut accepted) = World::scripted(&config, "", &["ga"]);
    let created = session_created();
    let (mut wire, mut deployment) = tokio::join!(
        Wire::open(
            &world,
            "/openai/realtime?api-version=2025-04-01-preview&deployment=ga"
        ),
        Deployment::accept(&mut accepted[0], &created)
    );
    assert_eq!(wire.next().await, Heard::Text(created));
    let update =
        r#"{"type":"session.update","session":{"type":"realtime","output_modalities":["audio"]}}"#;
    wire.text(update).await;
    assert_eq!(deployment.text().await, update);
    drop((wire, deployment));
    world.assert_quiet().await;
}

/// What cannot be read ends nothing: the caller is told, and the session goes on.
#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_read_are_answered_when_they_cross() {
    let world = World::new("");
    let mut wire = session(&world, Speaks::Preview, "ga").await;
    wire.text(r#"{"type":"response.create","response":{},"response":{}}"#)
        .await;
    assert_eq!(wire.event().await["error"]["code"], "invalid_event");
    wire.send(json!({"type": "session.update", "session": {"temperature": 3}}))
        .await;
    assert_eq!(wire.event().await["error"]["param"], "session.temperature");
    wire.send(json!({"type": "session.update", "session": Speaks::Preview.session()}))
        .await;
    wire.until("session.updated").await;
    drop(wire);
    world.assert_quiet().await;
}
