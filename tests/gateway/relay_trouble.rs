//! What SDK callers' sessions tell of their deployments, and how they leave one that gives no answers.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;

use crate::harness::World;
use crate::wire::{Deployment, Wire, session_created};

const TARGET: &str = "/openai/v1/realtime?model=p";
const SECOND: Duration = Duration::from_secs(1);

/// A pool of these deployments, asked in their order; its sessions are set where there is a policy.
fn config(names: &[&str], more: &str) -> String {
    let mut config = "[auth]\nmode = 'none'\n[quota]\nadmission = 'off'\n".to_owned();
    for name in names {
        config += &format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\n"
        );
    }
    let member = |(n, name)| format!("{{ name = '{name}', priority = {n} }}");
    let members: Vec<_> = names.iter().enumerate().map(member).collect();
    format!(
        "{config}[pools.p]\ndeployments = [{}]\n{more}",
        members.join(", ")
    )
}

const POLICY: &str = "[tenants.default.session]\ninstructions_prefix = 'Be brief.'\n";

/// How a deployment takes settings.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Takes {
    All,
    Nothing,
    Closes,
    Refuses(&'static str),
}

/// Deployments without a mind, which answer as their clients ask them to.
fn world(names: &[&str], more: &str, takes: Takes) -> World {
    let (world, accepted) = World::scripted(&config(names, more), "", names);
    for (accepted, name) in accepted.into_iter().zip(names) {
        let takes = if *name == "a" { takes } else { Takes::All };
        TaskTracker::new().spawn(serve(accepted, (*name).to_owned(), takes));
    }
    world
}

async fn serve(mut accepted: Receiver<DuplexStream>, name: String, takes: Takes) {
    let tasks = TaskTracker::new();
    for n in 0.. {
        let Some(stream) = accepted.recv().await else {
            return;
        };
        let (give, mut given) = channel(1);
        give.send(stream).await.expect("taken at once");
        let mut session = Deployment::accept(&mut given, &session_created()).await;
        let name = format!("{name}{n}");
        tasks.spawn(async move {
            let mut n_events = 0;
            while let Some(Ok(message)) = session.socket.next().await {
                let Message::Text(text) = message else {
                    continue;
                };
                let event: Value = serde_json::from_str(&text).expect("JSON");
                for mut answer in answers(&event, &name, takes) {
                    n_events += 1;
                    answer["event_id"] = format!("{name}-{n_events}").into();
                    let text = Message::text(answer.to_string());
                    // Who is gone hears nothing.
                    let _ = session.socket.send(text).await;
                }
                if event["type"] == "session.update" && takes == Takes::Closes {
                    let _ = session.socket.close(None).await;
                }
            }
        });
    }
}

fn answers(event: &Value, name: &str, takes: Takes) -> Vec<Value> {
    let bad = |kind: &str, code: Value| json!({"type": kind, "code": code, "message": "m"});
    match event["type"].as_str() {
        Some("session.update") => match takes {
            Takes::All => vec![json!({"type": "session.updated", "session": event["session"]})],
            Takes::Nothing | Takes::Closes => vec![],
            Takes::Refuses(code) => {
                vec![json!({"type": "error", "error": bad("invalid_request_error", code.into())})]
            }
        },
        Some("response.create") => {
            let id = format!("resp_{name}_{}", event["event_id"].as_str().unwrap_or(""));
            let response = |status: &str, details: Value| json!({"id": id, "object": "realtime.response", "conversation_id": "c", "status": status, "status_details": details, "output": []});
            let error = match event["response"]["metadata"]["how"].as_str() {
                Some("server_error") => Some(bad("server_error", Value::Null)),
                Some("well") | None => None,
                Some(code) => Some(bad("invalid_request_error", code.into())),
            };
            let done = match error {
                None => response("completed", Value::Null),
                Some(error) => response("failed", json!({"type": "failed", "error": error})),
            };
            vec![
                json!({"type": "response.created", "response": response("in_progress", Value::Null)}),
                json!({"type": "response.done", "response": done}),
            ]
        }
        _ => vec![],
    }
}

struct Caller {
    wire: Wire,
    n_asked: usize,
}

impl Caller {
    async fn open(world: &World) -> Self {
        let mut wire = Wire::open(world, TARGET).await;
        assert_eq!(wire.event().await["type"], "session.created");
        Self { wire, n_asked: 0 }
    }

    /// Asks for a response that ends so; where it came from.
    async fn asks(&mut self, how: &str) -> String {
        self.n_asked += 1;
        let event_id = format!("ask{}", self.n_asked);
        self.wire
            .send(json!({"type": "response.create", "event_id": event_id, "response": {"metadata": {"how": how}}}))
            .await;
        let events = [self.wire.event().await, self.wire.event().await];
        let types = events.each_ref().map(|event| event["type"].clone());
        assert_eq!(types, ["response.created", "response.done"], "{events:?}");
        let status = if how == "well" { "completed" } else { "failed" };
        assert_eq!(events[1]["response"]["status"], status, "{events:?}");
        let id = events[1]["response"]["id"].as_str().expect("an id");
        assert!(id.ends_with(&event_id), "{id}");
        let name = id.trim_start_matches("resp_").split('_').next();
        // Another session may be opened and taken meanwhile.
        sleep(SECOND).await;
        name.expect("a name").to_owned()
    }
}

fn is_open(world: &World, deployment: &str) -> bool {
    let line =
        format!(r#"trunkline_deployment_condition{{condition="open",deployment="{deployment}"}}"#);
    world.metric(&line) == 1.0
}

fn replaced(world: &World, cause: &str, outcome: &str) -> f64 {
    world.metric(&format!(
        r#"trunkline_session_replacements_total{{cause="{cause}",outcome="{outcome}"}}"#
    ))
}

#[tokio::test(start_paused = true)]
async fn the_breaker_counts_sessions_that_fail_in_a_row() {
    let world = world(&["a"], "", Takes::All);
    // However often one fails, it is one, and what a client asks amiss is none.
    let mut first = Caller::open(&world).await;
    for how in ["server_error", "invalid_value", "content_filter"] {
        for _ in 0..10 {
            first.asks(how).await;
        }
    }
    for _ in 0..5 {
        Caller::open(&world).await.asks("server_error").await;
    }
    assert!(!is_open(&world, "a"));
    // A good one begins the row anew.
    first.asks("well").await;
    for _ in 0..6 {
        Caller::open(&world).await.asks("server_error").await;
    }
    assert!(!is_open(&world, "a"));
    first.asks("server_error").await;
    assert!(is_open(&world, "a"));
}

#[tokio::test(start_paused = true)]
async fn a_session_leaves_a_deployment_that_gives_no_answers() {
    let world = world(&["a", "b"], "", Takes::All);
    let mut caller = Caller::open(&world).await;
    assert_eq!(caller.asks("well").await, "a0");
    assert_eq!(caller.asks("rate_limit_exceeded").await, "a0");
    // Nothing but the failed response is seen of it.
    assert_eq!(caller.asks("well").await, "b0");
    assert_eq!(replaced(&world, "rate_limited", "replaced"), 1.0);
    // One fault may pass, and does not count together with one after a good response.
    assert_eq!(caller.asks("server_error").await, "b0");
    assert_eq!(caller.asks("well").await, "b0");
    assert_eq!(caller.asks("server_error").await, "b0");
    assert_eq!(caller.asks("server_error").await, "b0");
    sleep(5 * SECOND).await;
    assert_eq!(caller.asks("well").await, "a1");
    assert_eq!(replaced(&world, "server_error", "replaced"), 1.0);
    // What the client asks amiss is no reason.
    for _ in 0..5 {
        assert_eq!(caller.asks("invalid_value").await, "a1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_where_no_other_deployment_is_left() {
    let (world, mut accepted) = World::scripted(&config(&["a", "b"], ""), "", &["a", "b"]);
    drop(accepted.pop());
    let a = accepted.pop().expect("two");
    TaskTracker::new().spawn(serve(a, "a".to_owned(), Takes::All));
    let mut caller = Caller::open(&world).await;
    for how in [
        "server_error",
        "server_error",
        "well",
        "rate_limit_exceeded",
        "well",
    ] {
        assert_eq!(caller.asks(how).await, "a0");
        sleep(20 * SECOND).await;
    }
    assert_eq!(replaced(&world, "server_error", "unavailable"), 1.0);
    assert_eq!(replaced(&world, "rate_limited", "unavailable"), 1.0);
}

/// Those that a deployment does not configure are another one's, and counted where that is its fault.
#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_configured_is_opened_elsewhere() {
    for (takes, is_fault) in [
        (Takes::Nothing, true),
        (Takes::Closes, true),
        (Takes::Refuses("server_error"), true),
        (Takes::Refuses("invalid_value"), false),
    ] {
        let world = world(&["a", "b"], POLICY, takes);
        let mut callers = Vec::new();
        for n in 0..7 {
            assert!(!is_open(&world, "a"), "{takes:?}: {n}");
            let began = Instant::now();
            let mut caller = Caller::open(&world).await;
            assert!(
                began.elapsed() < 6 * SECOND,
                "{takes:?}: {:?}",
                began.elapsed()
            );
            assert!(caller.asks("well").await.starts_with('b'), "{takes:?}");
            callers.push(caller);
        }
        assert_eq!(is_open(&world, "a"), is_fault, "{takes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn configuring_has_one_time_limit_in_all() {
    let more = format!("timeout = '7s'\n{POLICY}");
    let names = ["a", "b", "c"];
    let (world, accepted) = World::scripted(&config(&names, &more), "", &names);
    for (accepted, name) in accepted.into_iter().zip(names) {
        TaskTracker::new().spawn(serve(accepted, name.to_owned(), Takes::Nothing));
    }
    let began = Instant::now();
    let refused = Wire::try_open(&world, TARGET)
        .await
        .expect_err("nobody answers");
    assert!(refused.starts_with("HTTP/1.1 504 "), "{refused}");
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_to_stand_by_and_cannot_be_configured_are_counted() {
    let more = "[pools.p.standby]\nmax = 4\nmin = 1\n[agents.desk]\ndeployment = 'p'\n";
    let world = world(&["a"], more, Takes::Closes);
    let began = Instant::now();
    while !is_open(&world, "a") {
        assert!(
            began.elapsed() < 60 * SECOND,
            "{}",
            world.gateway.metrics().render().expect("metrics")
        );
        sleep(SECOND / 10).await;
    }
}
