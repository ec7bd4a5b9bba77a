//! Calls that wait in Asterisk until the gateway is told to take them: then it is the gateway that dials.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use trunkline::auth::hash_key;
use trunkline::call::EndReason;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::phone_timeline::Side;
use trunkline::simulator::{Act, SoftPhone, speech};

use crate::harness::World;
use crate::phone_features::{HANGS_UP, until_end};

const ID: &str = "0b5c6c0e-4c1c-4c0e-8f7b-8f7b0b5c6c0e";

/// Tenants `acme`, whose server `main` is, and `other`; room for two calls.
fn config(more: &str) -> String {
    let key = |tenant: &str| {
        let hash = hash_key(&format!("key-of-{tenant}"));
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n[tenants.{tenant}]\n")
    };
    format!(
        "[listener]\nmax_calls = 2\n[listener.asterisk.servers.main]\nurl = 'ws://127.0.0.1:8088/pbx'\n\
         tenant = 'acme'\ntimeout = '2s'\n[auth]\nmode = 'keys'\n{}{}\
         [deployments.ga]\nurl = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\napi_key = 'sim-key'\n\
         [agents.desk]\ndeployment = 'ga'\n{more}\n",
        key("acme"),
        key("other"),
    )
}

/// A gateway, and the connections that it makes to Asterisk.
fn world(more: &str, simulator: &str) -> (World, mpsc::Receiver<DuplexStream>) {
    let (pbx, dialled) = mpsc::channel(4);
    (World::with_pbx(&config(more), simulator, pbx), dialled)
}

/// The channel that waits.
fn channel(acts: impl Into<Vec<Act>>) -> SoftPhone {
    let url = format!("ws://127.0.0.1:8088/pbx/media/{ID}");
    let phone = SoftPhone::new(&url, Dialect::Asterisk).expect("a good address");
    phone.parameter("QUEUE", "billing").script(acts)
}

fn reply() -> Act {
    Act::WaitForReply {
        min_audio: Duration::from_millis(300),
        until_end: true,
        timeout: Duration::from_secs(30),
    }
}

fn ask() -> Value {
    json!({ "connection_id": ID, "agent": "desk" })
}

/// Tells the gateway to dial: status, code and JSON of the answer.
async fn dial(world: &World, tenant: &str, body: &Value) -> (String, String, Value) {
    let body = body.to_string();
    let request = format!(
        "POST /asterisk/dial HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\napi-key: key-of-{tenant}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = World::ask(world.connect(), &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let code = head
        .lines()
        .find_map(|line| line.strip_prefix("x-trunkline-error: "));
    let code = code.unwrap_or_default().to_owned();
    (status, code, serde_json::from_str(body).unwrap_or_default())
}

async fn check_refused(world: &World, tenant: &str, body: &Value, status: &str, code: &str) {
    let (got, why, _) = dial(world, tenant, body).await;
    assert_eq!((got.as_str(), why.as_str()), (status, code), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_fetched_and_is_as_any_other() {
    let (world, mut dialled) = world("", "");
    let acts = [
        Act::Say(speech::hours()),
        reply(),
        Act::Dtmf('4'),
        Act::Dtmf('#'),
        reply(),
        Act::HangUp,
    ];
    let phone = channel(acts);
    let pbx = async {
        let stream = dialled.recv().await.expect("a connection");
        phone.answer(stream).await
    };
    let body = json!({"connection_id": ID, "agent": "desk", "server": "main", "parameters": {"from": "+15550001111"}});
    let ((status, _, answer), report) = tokio::join!(dial(&world, "acme", &body), pbx);
    assert_eq!(status, "201", "{answer}");
    assert_eq!(report.failure, None, "{report}");
    assert_eq!(report.violations.len(), 0, "{report}");
    assert!(
        report.script_done && report.script_failures.is_empty(),
        "{report}"
    );
    let ended = world.ended(1).await;
    assert_eq!(answer["call_id"], json!(ended.call_id));
    assert_eq!(ended.end_reason, EndReason::CallerHangup);
    let record = world.simulator.sessions().remove(0);
    // The keys, as text.
    assert_eq!(record.received.get("conversation.item.create"), Some(&1));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_agent_hangs_up_and_asterisk_closes() {
    let (world, mut dialled) = world("", HANGS_UP);
    let phone = channel([Act::Say(speech::hours()), until_end(30)]);
    let pbx = async {
        phone
            .answer(dialled.recv().await.expect("a connection"))
            .await
    };
    let body = ask();
    let (_, report) = tokio::join!(dial(&world, "acme", &body), pbx);
    assert_eq!(report.violations.len(), 0, "{report}");
    assert!(report.heard.played_ms >= 3_000.0, "{report}");
    let close = report.close.as_ref().expect("a close");
    assert_eq!(close.by, Side::Caller, "{report}");
    assert_eq!(world.ended(1).await.end_reason, EndReason::AssistantHangup);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn only_what_the_operator_named_is_dialled() {
    let (world, mut dialled) = world("", "");
    check_refused(&world, "nobody", &ask(), "401", "invalid_api_key").await;
    check_refused(&world, "other", &ask(), "404", "server_not_found").await;
    for (field, value, status, code) in [
        ("server", json!("elsewhere"), "404", "server_not_found"),
        ("server", json!("ws://10.0.0.1"), "404", "server_not_found"),
        ("agent", json!("nobody"), "404", "not_found"),
        ("connection_id", json!("../ari"), "400", "bad_connection_id"),
        ("connection_id", json!("a?b"), "400", "bad_connection_id"),
        ("connection_id", json!(""), "400", "bad_connection_id"),
        ("connection_id", json!(7), "400", "invalid_json"),
        ("url", json!("ws://10.0.0.1"), "400", "invalid_json"),
    ] {
        let mut body = ask();
        body[field] = value;
        check_refused(&world, "acme", &body, status, code).await;
    }
    assert!(dialled.try_recv().is_err());
    // Nor did any of them cost a session.
    assert_eq!(world.simulator.n_upgrades(), 0);
    assert_eq!(world.gateway.calls().active(), 0);
}

/// What Asterisk answers the upgrade with (telephony reference 9.1), and what comes of it.
#[tokio::test(start_paused = true)]
async fn what_asterisk_refuses_is_passed_on() {
    let (world, mut dialled) = world("", "");
    for (answer, status, code) in [
        ("404 Not Found", "404", "connection_not_found"),
        ("409 Conflict", "409", "connection_taken"),
        ("403 Forbidden", "502", "asterisk_refused"),
        ("200 OK", "502", "asterisk_refused"),
        ("", "504", "asterisk_timeout"),
    ] {
        let pbx = async {
            let mut stream = dialled.recv().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            if !answer.is_empty() {
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("room");
            }
            (stream, String::from_utf8(request).expect("text"))
        };
        let body = ask();
        let ((), (_, request)) =
            tokio::join!(check_refused(&world, "acme", &body, status, code), pbx);
        let start = format!("GET /pbx/media/{ID} HTTP/1.1\r\n");
        assert!(request.starts_with(&start), "{request}");
        assert!(
            request.contains("Sec-WebSocket-Protocol: media\r\n"),
            "{request}"
        );
    }
    drop(dialled);
    check_refused(&world, "acme", &ask(), "502", "asterisk_unreachable").await;
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_full_or_leaves_dials_nobody() {
    let (world, mut dialled) = world("", "");
    let phone = channel([Act::Silence(Duration::from_secs(5)), Act::HangUp]);
    let body = ask();
    let two = async {
        let (one, other) = tokio::join!(dial(&world, "acme", &body), dial(&world, "acme", &body));
        assert_eq!([one.0, other.0], ["201", "201"]);
        assert_eq!(world.gateway.calls().active(), 2);
        check_refused(&world, "acme", &body, "503", "calls_full").await;
    };
    let pbx = async {
        let one = dialled.recv().await.expect("a connection");
        let other = dialled.recv().await.expect("another");
        tokio::join!(phone.answer(one), phone.answer(other))
    };
    tokio::join!(two, pbx);
    world.assert_quiet().await;
    world.gateway.drain(Duration::ZERO).await;
    check_refused(&world, "acme", &body, "503", "draining").await;
    assert!(dialled.try_recv().is_err());
    assert_eq!(world.simulator.n_upgrades(), 2);
}
