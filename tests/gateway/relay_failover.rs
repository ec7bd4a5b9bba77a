//! SDK callers whose sessions are replaced: what they see, and what the next session is told.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;
use trunkline::call::EndReason;
use trunkline::simulator::{Blow, Mood, SessionRecord, speech};

use crate::harness::World;
use crate::wire::{Heard, Wire};

/// A pool of two, asked in this order, of these shapes.
fn config(first: &str, second: &str) -> String {
    let deployment = |name: &str, shape: &str| {
        format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\nshape = '{shape}'\napi_key = 'sim-key'\n"
        )
    };
    format!(
        "[auth]\nmode = 'none'\n{}{}[pools.p]\ndeployments = ['a', {{ name = 'b', priority = 1 }}]\n",
        deployment("a", first),
        deployment("b", second)
    )
}

/// The caller's shape, and those of the two deployments.
const SHAPES: [[&str; 3]; 6] = [
    ["ga", "ga", "ga"],
    ["preview", "preview", "preview"],
    ["ga", "preview", "preview"],
    ["preview", "ga", "ga"],
    ["ga", "ga", "preview"],
    ["preview", "ga", "preview"],
];

const SCRIPT: &str = "[reply]\nmode = 'script'\nturns = [{say = 'This is the first answer of them all, and it takes a while to say.'}, {say = 'And this is another one.'}]\n";

/// As fast as it is spoken.
const SLOW: &str = "[latency]\nspeed = 1.0\n";

fn target(shape: &str) -> &'static str {
    match shape {
        "ga" => "/openai/v1/realtime?model=p",
        _ => "/openai/realtime?api-version=2025-04-01-preview&deployment=p",
    }
}

/// A caller that holds the gateway to the protocol.
struct Caller {
    wire: Wire,
    shape: &'static str,
    seen: Vec<Value>,
}

impl Caller {
    async fn open(world: &World, shape: &'static str) -> Self {
        let mut wire = Wire::open(world, target(shape)).await;
        let created = wire.event().await;
        assert_eq!(created["type"], "session.created");
        let seen = vec![created];
        Self { wire, shape, seen }
    }

    /// The same without turns of the deployment's own.
    async fn by_hand(world: &World, shape: &'static str) -> Self {
        let mut caller = Self::open(world, shape).await;
        let session = match shape {
            "ga" => {
                json!({"type": "realtime", "instructions": "Be brief.", "audio": {"input": {"turn_detection": null}}})
            }
            _ => json!({"instructions": "Be brief.", "turn_detection": null}),
        };
        caller
            .send(json!({"type": "session.update", "session": session}))
            .await;
        caller.until("session.updated").await;
        caller
    }

    async fn send(&mut self, event: Value) {
        self.wire.send(event).await;
    }

    async fn until(&mut self, kind: &str) -> Value {
        let events = self.wire.until(kind).await;
        self.seen.extend(events);
        self.seen[self.seen.len() - 1].clone()
    }

    async fn user_says(&mut self, id: &str, text: &str) {
        let content = json!([{"type": "input_text", "text": text}]);
        let item = json!({"id": id, "type": "message", "role": "user", "content": content});
        self.send(json!({"type": "conversation.item.create", "item": item}))
            .await;
    }

    async fn asks(&mut self) {
        self.send(json!({"type": "response.create"})).await;
    }

    fn name(&self, kind: &str) -> String {
        match self.shape {
            "ga" => kind.replace("response.audio", "response.output_audio"),
            _ => kind.to_owned(),
        }
    }

    async fn streams(&mut self, samples: &[i16]) {
        for samples in samples.chunks(480) {
            let bytes: Vec<u8> = samples.iter().flat_map(|it| it.to_le_bytes()).collect();
            let audio = STANDARD.encode(bytes);
            self.send(json!({"type": "input_audio_buffer.append", "audio": audio}))
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn count(&self, kind: &str) -> usize {
        self.seen.iter().filter(|it| it["type"] == kind).count()
    }

    /// Hangs up; all that was seen was in order, and the call ended by its caller's will.
    async fn leaves(mut self, world: &World) -> Vec<SessionRecord> {
        self.wire.close(1000, "").await;
        let (close, rest) = self.wire.until_close().await;
        assert_eq!(close.map(|(code, _)| code), Some(1000));
        self.seen.extend(rest);
        assert_legal(&self.seen);
        drop(self.wire);
        world.assert_quiet().await;
        let n = world.gateway.calls().ended().len();
        assert_eq!(world.ended(n).await.end_reason, EndReason::CallerHangup);
        let sessions = world.simulator.sessions();
        for session in &sessions {
            assert!(session.errors.is_empty(), "{:?}", session.errors);
        }
        sessions
    }
}

/// What a client may rely on: one session, everything begun is ended once, and nothing comes before its beginning.
pub(crate) fn assert_legal(events: &[Value]) {
    let mut responses = BTreeMap::new();
    let (mut items, mut parts) = (BTreeMap::new(), BTreeMap::new());
    let mut ids = HashSet::new();
    let mut session = None;
    for event in events {
        let kind = event["type"].as_str().expect("a type");
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        assert!(ids.insert(text("event_id")), "twice: {event}");
        assert_ne!(kind, "error", "{event}");
        let part = (text("item_id"), event["content_index"].as_u64());
        match kind {
            "session.created" => assert!(session.is_none(), "{event}"),
            "response.created" => {
                let id = event["response"]["id"].as_str().expect("an id");
                let twice = responses.insert(id.to_owned(), true);
                assert_eq!(twice, None, "{event}");
            }
            "response.done" => {
                let id = event["response"]["id"].as_str().expect("an id");
                assert_eq!(
                    responses.insert(id.to_owned(), false),
                    Some(true),
                    "{event}"
                );
            }
            "response.output_item.added" => {
                let id = event["item"]["id"].as_str().expect("an id").to_owned();
                assert_eq!(items.insert(id, true), None, "{event}");
            }
            "response.output_item.done" => {
                let id = event["item"]["id"].as_str().expect("an id").to_owned();
                assert_eq!(items.insert(id, false), Some(true), "{event}");
            }
            "response.content_part.added" => {
                assert_eq!(items.get(&part.0), Some(&true), "{event}");
                assert_eq!(parts.insert(part, true), None, "{event}");
            }
            "response.content_part.done" => {
                assert_eq!(parts.insert(part, false), Some(true), "{event}");
            }
            kind if kind.starts_with("response.") && kind.ends_with(".delta") => {
                let is_call = kind.contains("arguments");
                assert!(is_call || parts.get(&part) == Some(&true), "{event}");
            }
            _ => {}
        }
        if kind.starts_with("response.") && event["response_id"].is_string() {
            let id = text("response_id");
            assert_eq!(responses.get(&id), Some(&true), "{event}");
        }
        if kind.starts_with("session.") {
            let id = event["session"]["id"].clone();
            assert_eq!(*session.get_or_insert(id.clone()), id, "{event}");
        }
    }
    for (what, open) in [("responses", &responses), ("items", &items)] {
        let open: Vec<_> = open.iter().filter(|(_, is_open)| **is_open).collect();
        assert!(open.is_empty(), "{what} without an end: {open:?}");
    }
    assert!(parts.values().all(|is_open| !is_open), "{parts:?}");
}

fn replaced(world: &World, cause: &str) -> f64 {
    world.metric(&format!(
        r#"trunkline_session_replacements_total{{cause="{cause}",outcome="replaced"}}"#
    ))
}

fn kinds(session: &SessionRecord) -> Vec<&str> {
    session.conversation.iter().map(|item| item.kind).collect()
}

#[tokio::test(start_paused = true)]
async fn between_turns_nothing_is_noticed_and_all_items_are_there() {
    for [shape, first, second] in SHAPES {
        let told = format!("{shape} at {first}, then {second}");
        let world = World::with_config(&config(first, second), SCRIPT);
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.user_says("msg_one", "One.").await;
        caller.asks().await;
        let done = caller.until("response.done").await;
        let answer = done["response"]["output"][0]["id"].clone();
        let conversation = done["response"]["conversation_id"].clone();

        world.simulator.strike("a", Blow::Cut);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(replaced(&world, "gone"), 1.0, "{told}");
        let n_seen = caller.seen.len();
        caller.user_says("msg_two", "Two.").await;
        caller.asks().await;
        let done = caller.until("response.done").await;
        assert_eq!(done["response"]["status"], "completed", "{told}");
        assert_eq!(done["response"]["conversation_id"], conversation, "{told}");
        let next = &caller.seen[n_seen];
        assert_eq!(next["item"]["id"], "msg_two", "{told}: {next}");

        // Old items can be named.
        caller
            .send(json!({"type": "conversation.item.retrieve", "item_id": "msg_one"}))
            .await;
        let event = caller.until("conversation.item.retrieved").await;
        assert_eq!(event["item"]["content"][0]["text"], "One.", "{told}");
        caller
            .send(json!({"type": "conversation.item.truncate", "item_id": answer, "content_index": 0, "audio_end_ms": 1_000}))
            .await;
        let event = caller.until("conversation.item.truncated").await;
        assert_eq!(
            (&event["item_id"], &event["audio_end_ms"]),
            (&answer, &1_000.into())
        );
        caller
            .send(json!({"type": "conversation.item.delete", "item_id": "msg_one"}))
            .await;
        let event = caller.until("conversation.item.deleted").await;
        assert_eq!(event["item_id"], "msg_one", "{told}");
        let session = match shape {
            "ga" => json!({"type": "realtime"}),
            _ => json!({}),
        };
        caller
            .send(json!({"type": "session.update", "session": session}))
            .await;
        let event = caller.until("session.updated").await;
        assert_eq!(event["session"]["instructions"], "Be brief.", "{told}");

        let sessions = caller.leaves(&world).await;
        assert_eq!(sessions[1].deployment, "b", "{told}");
        assert_eq!(kinds(&sessions[1]), ["assistant", "user", "assistant"]);
        let items = &sessions[1].conversation;
        assert_eq!(items[0].id, answer.as_str().expect("an id"), "{told}");
        assert_eq!(items[1].id, "msg_two", "{told}");
        // A second of more than four.
        assert!(
            "This is the first answer".starts_with(&items[0].text),
            "{told}: {items:?}"
        );
        assert!(items[0].text.len() > 8, "{told}: {items:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_spoken_answer_that_breaks_off_is_ended_and_gone_on_with() {
    for [shape, first, second] in SHAPES {
        let told = format!("{shape} at {first}, then {second}");
        let world = World::with_config(&config(first, second), &format!("{SCRIPT}{SLOW}"));
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.user_says("msg_one", "One.").await;
        caller.asks().await;
        let delta = caller.name("response.audio.delta");
        caller.until(&delta).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        world.simulator.strike("a", Blow::Close(1011));
        let cut = caller.until("response.done").await;
        let cut = &cut["response"];
        assert_eq!(cut["status"], "incomplete", "{told}: {cut}");
        assert_eq!(cut["usage"], Value::Null, "{told}: {cut}");
        assert_eq!(cut["output"][0]["status"], "incomplete", "{told}: {cut}");
        let said = cut["output"][0]["content"][0]["transcript"]
            .as_str()
            .expect("words");
        assert!(
            "This is the first answer of them all, and it takes a while to say.".starts_with(said)
        );
        let done = caller.until("response.done").await;
        assert_eq!(done["response"]["status"], "completed", "{told}");
        assert_ne!(done["response"]["id"], cut["id"], "{told}");
        let sessions = caller.leaves(&world).await;
        assert_eq!(replaced(&world, "closed"), 1.0, "{told}");
        let gap = |what: &str| {
            world.metric(&format!(
                r#"trunkline_session_gap_seconds_{what}{{dialect="realtime"}}"#
            ))
        };
        assert_eq!(gap("count"), 1.0, "{told}");
        // What it had been sent was not played out yet.
        assert!(gap("sum") < 0.5, "{told}: {}", gap("sum"));
        assert_eq!(
            kinds(&sessions[1]),
            ["user", "assistant", "assistant"],
            "{told}"
        );
        let part = &sessions[1].conversation[1];
        assert_eq!(part.id, cut["output"][0]["id"].as_str().expect("an id"));
        assert!(
            !part.text.is_empty() && said.starts_with(&part.text),
            "{told}: {part:?}"
        );
        assert_eq!(sessions[1].responses.len(), 1, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_which_nothing_came_is_asked_for_again_unseen() {
    for [shape, first, second] in SHAPES {
        let told = format!("{shape} at {first}, then {second}");
        let world = World::with_config(&config(first, second), SCRIPT);
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.user_says("msg_one", "One.").await;
        let metadata = json!({"k": "v"});
        caller
            .send(json!({"type": "response.create", "response": {"metadata": metadata}}))
            .await;
        let created = caller.until("response.created").await;
        world.simulator.strike("a", Blow::Cut);
        let done = caller.until("response.done").await;
        assert_eq!(done["response"]["status"], "completed", "{told}");
        assert_eq!(done["response"]["id"], created["response"]["id"], "{told}");
        assert_eq!(done["response"]["metadata"], metadata, "{told}");
        assert_eq!(caller.count("response.created"), 1, "{told}");
        let sessions = caller.leaves(&world).await;
        assert_eq!(kinds(&sessions[1]), ["user", "assistant"], "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_and_not_answered_is_asked_again() {
    let world = World::with_config(&config("ga", "ga"), SCRIPT);
    let mut caller = Caller::by_hand(&world, "ga").await;
    world.simulator.strike("a", Blow::Cut);
    caller.user_says("msg_one", "One.").await;
    caller
        .send(json!({"type": "session.update", "session": {"type": "realtime", "instructions": "Be long."}}))
        .await;
    caller.asks().await;
    caller.until("session.updated").await;
    let done = caller.until("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    assert_eq!(caller.count("conversation.item.added"), 2);
    let sessions = caller.leaves(&world).await;
    assert_eq!(kinds(&sessions[1]), ["user", "assistant"]);
}

#[tokio::test(start_paused = true)]
async fn no_word_that_is_being_spoken_is_lost() {
    for [shape, first, second] in SHAPES {
        for cut_ms in [300, 1_000, 1_700] {
            let told = format!("{shape} at {first}, then {second}, {cut_ms} ms");
            let world = World::with_config(&config(first, second), "");
            let mut caller = Caller::open(&world, shape).await;
            let mut said = speech::hours().at_rate(24_000).samples.to_vec();
            // Some time goes by before, so that positions have to go on from there.
            caller.streams(&vec![0; 24_000 * 4]).await;
            let n_samples = said.len() as u64;
            said.resize(said.len() + 24_000 * 2, 0);
            let (before, after) = said.split_at(cut_ms * 24);
            caller.streams(before).await;
            world.simulator.strike("a", Blow::Cut);
            caller.streams(after).await;
            let done = caller.until("response.done").await;
            assert_eq!(done["response"]["status"], "completed", "{told}");
            let at = |kind: &str, name: &str| -> Vec<u64> {
                let events = caller.seen.iter().filter(|it| it["type"] == kind);
                events.filter_map(|event| event[name].as_u64()).collect()
            };
            let begins = at("input_audio_buffer.speech_started", "audio_start_ms");
            let ends = at("input_audio_buffer.speech_stopped", "audio_end_ms");
            assert!(
                begins.iter().all(|at| (3_500..4_500).contains(at)),
                "{told}: {begins:?}"
            );
            let end = 4_000 + n_samples / 24;
            assert!(
                ends.iter().all(|at| (end - 500..end + 700).contains(at)),
                "{told}: {ends:?}"
            );
            assert_eq!(ends.len(), 1, "{told}");
            let replayed =
                world.metric(r#"trunkline_replayed_audio_seconds_total{dialect="realtime"}"#);
            // What was said of the sentence, and what came before it.
            let said_s = f64::from(cut_ms as u32) / 1e3;
            assert!(
                (said_s..said_s + 2.5).contains(&replayed),
                "{told}: {replayed} s"
            );
            let sessions = caller.leaves(&world).await;
            // All of the sentence is said back.
            let reply = sessions[1].responses[0].audio_ms;
            assert!(
                reply + 300 > n_samples / 24,
                "{told}: {reply} of {}",
                n_samples / 24
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_function_call_that_waits_for_its_result_is_carried_over() {
    let script = "[reply]\nmode = 'script'\nturns = [{calls = [{name = 'weather', arguments = '{\"at\":\"sea\"}'}]}]\n";
    for [shape, first, second] in SHAPES {
        let told = format!("{shape} at {first}, then {second}");
        let world = World::with_config(&config(first, second), script);
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.asks().await;
        let done = caller.until("response.done").await;
        let call = done["response"]["output"][0].clone();
        world.simulator.strike("a", Blow::Cut);
        let item =
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
        caller
            .send(json!({"type": "conversation.item.create", "item": item}))
            .await;
        caller.asks().await;
        caller.until("response.done").await;
        let sessions = caller.leaves(&world).await;
        let items = &sessions[1].conversation;
        assert_eq!(
            kinds(&sessions[1]),
            ["function_call", "function_call_output", "function_call"],
            "{told}"
        );
        assert_eq!(items[0].id, call["id"].as_str().expect("an id"), "{told}");
        assert_eq!(items[0].call_id, items[1].call_id, "{told}");
        assert!(
            items[0].text.contains("weather") && items[0].text.contains("sea"),
            "{items:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_falls_silent_is_left() {
    for [shape, first, second] in SHAPES {
        let world = World::with_config(&config(first, second), SCRIPT);
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.user_says("msg_one", "One.").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.simulator.set_mood("a", Mood::Silent);
        let asked = Instant::now();
        caller.asks().await;
        caller.until("response.created").await;
        let took = asked.elapsed();
        assert!((8.0..9.5).contains(&took.as_secs_f64()), "{took:?}");
        caller.until("response.done").await;
        assert_eq!(replaced(&world, "stalled"), 1.0);
        // So that it notices that the session is closed.
        world.simulator.set_mood("a", Mood::Well);
        let sessions = caller.leaves(&world).await;
        assert_eq!(kinds(&sessions[1]), ["user", "assistant"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cap_passes_unseen() {
    for [shape, first, second] in SHAPES {
        let simulator = format!("azure_session_cap = '20s'\n{SCRIPT}");
        let world = World::with_config(&config(first, second), &simulator);
        let mut caller = Caller::by_hand(&world, shape).await;
        for n in 0..6 {
            let n_seen = caller.seen.len();
            caller.user_says(&format!("msg_{n}"), "Hello?").await;
            caller.asks().await;
            let done = caller.until("response.done").await;
            assert_eq!(done["response"]["status"], "completed");
            let created = caller.name("conversation.item.created");
            let created = match shape {
                "ga" => "conversation.item.added",
                _ => created.as_str(),
            };
            assert_eq!(caller.seen[n_seen]["type"], created);
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
        let n_replaced = replaced(&world, "rotation");
        assert!(n_replaced >= 3.0, "{n_replaced}");
        let sessions = caller.leaves(&world).await;
        assert_eq!(sessions.len() as f64, n_replaced + 1.0);
        for session in &sessions {
            let closed = session.closed.as_ref().expect("assert_quiet looked");
            assert_eq!((closed.by_client, closed.code), (true, 1000));
        }
        let last = sessions.last().expect("one");
        assert_eq!(last.conversation.len(), 12, "{:?}", last.conversation);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_where_nothing_is_left() {
    for (blow, expected, code) in [
        (Blow::Close(1011), EndReason::ModelClosed, 1011),
        (Blow::Cut, EndReason::ModelUnavailable, 1013),
    ] {
        let world = World::with_config(&config("ga", "ga"), SCRIPT);
        let mut caller = Caller::by_hand(&world, "ga").await;
        for deployment in ["a", "b"] {
            world.simulator.set_mood(deployment, Mood::Refusing(503));
        }
        let struck = Instant::now();
        world.simulator.strike("a", blow);
        let (close, events) = caller.wire.until_close().await;
        assert!(
            struck.elapsed() < Duration::from_secs(12),
            "{:?}",
            struck.elapsed()
        );
        let [error] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(
            (&error["type"], &error["error"]["code"]),
            (&"error".into(), &"session_lost".into())
        );
        assert_eq!(close.map(|(code, _)| code), Some(code));
        assert_eq!(world.ended(1).await.end_reason, expected);
        drop(caller);
        world.assert_quiet().await;
    }
}

/// The second session fails too, before it said anything, and the third one answers.
#[tokio::test(start_paused = true)]
async fn one_failure_may_follow_another() {
    for [shape, first, second] in SHAPES {
        let told = format!("{shape} at {first}, then {second}");
        let simulator = format!("{SCRIPT}[latency]\nfirst_delta = '2s'\n");
        let world = World::with_config(&config(first, second), &simulator);
        let mut caller = Caller::by_hand(&world, shape).await;
        caller.user_says("msg_one", "One.").await;
        caller.asks().await;
        let created = caller.until("response.created").await;
        for (deployment, other) in [("a", "b"), ("b", "a")] {
            let n_before = world.simulator.sessions().len();
            world.simulator.strike(deployment, Blow::Cut);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let sessions = world.simulator.sessions();
            assert_eq!(sessions.len(), n_before + 1, "{told}");
            assert_eq!(sessions[n_before].deployment, other, "{told}");
            assert_eq!(sessions[n_before].responses.len(), 1, "{told}");
        }
        let done = caller.until("response.done").await;
        assert_eq!(done["response"]["status"], "completed", "{told}");
        assert_eq!(done["response"]["id"], created["response"]["id"], "{told}");
        let sessions = caller.leaves(&world).await;
        assert_eq!(kinds(&sessions[2]), ["user", "assistant"], "{told}");
    }
}

/// Wherever a session breaks in a spoken turn, the caller is answered in the end, and what it sees is in order.
#[tokio::test(start_paused = true)]
async fn a_session_may_break_at_any_moment() {
    for [shape, first, second] in SHAPES {
        for cut_ms in (0..6_500).step_by(130) {
            let told = format!("{shape} at {first}, then {second}, {cut_ms} ms");
            let world = World::with_config(&config(first, second), SLOW);
            let mut caller = Caller::open(&world, shape).await;
            let mut said = speech::hours().at_rate(24_000).samples.to_vec();
            said.resize(24_000 * 8, 0);
            let (before, after) = said.split_at(cut_ms * 24);
            caller.streams(before).await;
            world.simulator.strike("a", Blow::Cut);
            caller.streams(after).await;
            let is_done = |event: &Value| {
                event["type"] == "response.done" && event["response"]["status"] == "completed"
            };
            let mut n_done = 0;
            while !caller.seen.iter().any(is_done) {
                caller.until("response.done").await;
                n_done += 1;
                assert!(n_done < 3, "{told}");
            }
            let sessions = caller.leaves(&world).await;
            assert_eq!(sessions.len(), 2, "{told}");
            let users = |session: &SessionRecord| {
                let items = session.conversation.iter();
                items.filter(|item| item.kind == "user").count()
            };
            assert_eq!(users(&sessions[1]), 1, "{told}: {:?}", sessions[1]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_operators_policy_holds_in_every_session() {
    let policy = "[tenants.default.session]\ninstructions_prefix = 'Never say beans.'\nforbidden = ['tracing']\n";
    let config = format!("{}{policy}", config("ga", "ga"));
    let world = World::with_config(&config, &format!("{SCRIPT}{SLOW}"));
    let mut caller = Caller::by_hand(&world, "ga").await;
    caller.user_says("msg_one", "One.").await;
    caller.asks().await;
    caller.until("response.output_audio.delta").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.simulator.strike("a", Blow::Cut);
    caller.until("response.done").await;
    caller.until("response.done").await;
    let update =
        json!({"type": "session.update", "session": {"type": "realtime", "tracing": "auto"}});
    caller.send(update).await;
    let refused = caller.until("error").await;
    assert_eq!(refused["error"]["param"], "session.tracing", "{refused}");
    caller.seen.pop();
    caller
        .send(json!({"type": "session.update", "session": {"type": "realtime"}}))
        .await;
    let updated = caller.until("session.updated").await;
    assert_eq!(updated["session"]["instructions"], "Be brief.");
    let seen = serde_json::to_string(&caller.seen).expect("JSON");
    assert!(!seen.contains("beans"), "{seen}");
    caller.leaves(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_transcription_goes_on() {
    let simulator = "[transcription]\ntexts = ['these words']\n";
    for shape in ["ga", "preview"] {
        let world = World::with_config(&config(shape, shape), simulator);
        let target = match shape {
            "ga" => "/openai/v1/realtime?intent=transcription&model=p",
            _ => {
                "/openai/realtime?api-version=2025-04-01-preview&deployment=p&intent=transcription"
            }
        };
        let mut wire = Wire::open(&world, target).await;
        let seen = vec![wire.event().await];
        let mut caller = Caller { wire, shape, seen };
        let (update, updated) = match shape {
            "ga" => (
                json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}}),
                "session.updated",
            ),
            _ => (
                json!({"type": "transcription_session.update", "session": {"input_audio_transcription": {"model": "whisper-1"}}}),
                "transcription_session.updated",
            ),
        };
        caller.send(update).await;
        caller.until(updated).await;
        let mut said = speech::hours().at_rate(24_000).samples.to_vec();
        said.resize(said.len() + 24_000, 0);
        let (before, after) = said.split_at(24_000);
        caller.streams(before).await;
        // A session that only transcribes names no model.
        let deployment = world.simulator.sessions()[0].deployment.clone();
        world.simulator.strike(&deployment, Blow::Cut);
        caller.streams(after).await;
        let kind = "conversation.item.input_audio_transcription.completed";
        let heard = caller.until(kind).await;
        assert_eq!(heard["transcript"], "these words");
        let sessions = caller.leaves(&world).await;
        assert_eq!(sessions.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_not_carried_end_with_their_session() {
    let config = format!(
        "{}[listener.callers.realtime]\ncarry = false\n",
        config("ga", "ga")
    );
    let world = World::with_config(&config, SCRIPT);
    let mut caller = Caller::by_hand(&world, "ga").await;
    world.simulator.strike("a", Blow::Close(1011));
    match caller.wire.next().await {
        Heard::Close { code, .. } => assert_eq!(code, 1011),
        other => panic!("{other:?}"),
    }
    drop(caller);
    assert_eq!(world.simulator.sessions().len(), 1);
    world.assert_quiet().await;
}
