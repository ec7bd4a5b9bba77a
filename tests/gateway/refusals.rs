//! Whoever is refused is refused before the upgrade, learns why, and leaves nothing behind.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use trunkline::auth::hash_key;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, SoftPhone};

use crate::harness::{CONFIG, World};
use crate::wire::{Wire, upgrade_request};

/// An answer to an upgrade that is none.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Status, `x-trunkline-error`, and whether the body is OpenAI's and agrees.
    fn check(&self, status: u16, code: &str, is_openai: bool) {
        let head = &self.head;
        assert_eq!(self.status, status, "{head}");
        assert_eq!(self.header("x-trunkline-error"), Some(code), "{head}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("connection"), Some("close"));
        let error = self.body["error"].as_object().expect("an error object");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| text.contains(' '))
        );
        let keys: Vec<_> = error.keys().map(String::as_str).collect();
        if is_openai {
            assert_eq!(keys, ["code", "message", "param", "type"]);
            assert_eq!(error["code"], code);
            assert_eq!(error["param"], Value::Null);
        } else {
            assert_eq!(keys, ["code", "message"]);
        }
    }
}

async fn ask(world: &World, request: &str) -> Answer {
    let answer = world.http(request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    Answer {
        status: head[9..12].parse().expect("a status"),
        head: head.to_owned(),
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}

async fn upgrade(world: &World, target: &str, more: &str) -> Answer {
    ask(world, &upgrade_request(target, more)).await
}

fn with_keys() -> String {
    let key = |tenant: &str, key: &str| {
        let hash = hash_key(key);
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n")
    };
    let keys = key("all", "key-of-all") + &key("few", "key-of-few");
    let config = CONFIG.replace("mode = \"none\"", &format!("mode = \"keys\"\n{keys}"));
    format!("{config}\n[tenants.all]\n[tenants.few]\nmodels = ['preview']\n")
}

const GA: &str = "/openai/v1/realtime?model=ga";
const PREVIEW: &str = "/openai/realtime?api-version=2025-04-01-preview&deployment=preview";
const OPENAI: &str = "/v1/realtime?model=ga";

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_is_not_there() {
    let world = World::new("");
    for (target, status, code, is_openai) in [
        ("/", 404, "not_found", true),
        ("/nowhere", 404, "not_found", true),
        ("/v1/realtime/translations?model=ga", 404, "not_found", true),
        ("/openai/v1/live?model=ga", 404, "not_found", true),
        ("/twilio/media/nobody", 404, "not_found", true),
        ("/v1/audio/nobody", 404, "not_found", true),
        ("/twilio/media", 404, "not_found", true),
        (
            "/openai/v1/realtime?model=nothing",
            404,
            "model_not_found",
            false,
        ),
        (
            "/openai/realtime?api-version=2025-04-01-preview&deployment=nothing",
            404,
            "model_not_found",
            false,
        ),
        ("/v1/realtime?model=nothing", 404, "model_not_found", true),
        ("/v1/realtime?call_id=rtc_1", 404, "call_not_found", true),
        ("/v1/realtime", 400, "missing_required_parameter", true),
        (
            "/openai/realtime?deployment=preview",
            400,
            "missing_required_parameter",
            false,
        ),
        (
            "/openai/realtime?api-version=2025-04-01-preview",
            400,
            "missing_required_parameter",
            false,
        ),
        (
            "/v1/realtime?model=ga&model=preview",
            400,
            "invalid_query",
            true,
        ),
        ("/v1/realtime?model=a%20b", 400, "invalid_model", true),
        // The vendor answers so (protocol reference 1.1, U2).
        (
            "/openai/v1/realtime?model=ga&api-version=2025-04-01-preview",
            401,
            "invalid_api_key",
            false,
        ),
    ] {
        upgrade(&world, target, "")
            .await
            .check(status, code, is_openai);
    }
    let answer = upgrade(&world, "/openai/v1/realtime?model=nothing", "").await;
    assert_eq!(answer.body["error"]["code"], "DeploymentNotFound");
    assert_eq!(world.simulator.n_upgrades(), 0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_may_not() {
    let world = World::with_config(&with_keys(), "");
    let phones = ["/twilio/media/ga", "/v1/audio/ga"];
    let subprotocol = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.wrong\r\n";
    for (target, is_openai) in [
        (GA, false),
        (PREVIEW, false),
        (OPENAI, true),
        (phones[0], true),
        (phones[1], true),
    ] {
        for more in [
            "",
            "api-key: wrong\r\n",
            "api-key:\r\n",
            "api-key: key-of-all\r\napi-key: key-of-all\r\n",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Basic a2V5LW9mLWFsbA==\r\n",
            "api-key: wrong\r\nAuthorization: Bearer key-of-all\r\n",
            subprotocol,
        ] {
            let answer = upgrade(&world, target, more).await;
            answer.check(401, "invalid_api_key", is_openai);
        }
        for more in ["api-key=wrong", "Authorization=Bearer%20wrong"] {
            let join = if target.contains('?') { '&' } else { '?' };
            let answer = upgrade(&world, &format!("{target}{join}{more}"), "").await;
            answer.check(401, "invalid_api_key", is_openai);
            assert!(!answer.head.contains("wrong"));
        }
    }
    for (target, is_openai) in [(GA, false), (OPENAI, true)] {
        let answer = upgrade(&world, target, "api-key: key-of-few\r\n").await;
        answer.check(403, "permission_denied", is_openai);
    }
    assert_eq!(world.simulator.n_upgrades(), 0);
    let refused = r#"trunkline_calls_refused_total{reason="invalid_api_key",route="realtime"}"#;
    assert_eq!(world.metric(refused), 30.0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn and_who_may() {
    let world = World::with_config(&with_keys(), "");
    for (target, more) in [
        (GA, "api-key: key-of-all\r\n"),
        (GA, "Authorization: Bearer key-of-all\r\n"),
        (OPENAI, "Authorization: bearer key-of-all\r\n"),
        (
            OPENAI,
            "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.key-of-all\r\n",
        ),
        ("/openai/v1/realtime?model=ga&api-key=key-of-all", ""),
        (
            "/v1/realtime?model=ga&Authorization=Bearer%20key-of-all",
            "",
        ),
        (PREVIEW, "api-key: key-of-few\r\n"),
        (
            "//openai//realtime?api-version=x&deployment=preview&unknown=1",
            "api-key: key-of-few\r\n",
        ),
        ("/twilio/media/ga?api-key=key-of-few", ""),
        ("/v1/audio/ga", "Authorization: Bearer key-of-few\r\n"),
    ] {
        let mut wire = Wire::open_with(&world, target, more).await;
        assert!(!wire.answer.contains("key-of"), "{}", wire.answer);
        wire.close(1000, "").await;
        wire.until_close().await;
    }
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_ask() {
    let world = World::new("");
    let good = upgrade_request(GA, "");
    for (from, to, status, code) in [
        ("GET ", "POST ", 405, "not_get"),
        ("HTTP/1.1\r\n", "HTTP/1.0\r\n", 505, "not_http11"),
        ("Host: gateway\r\n", "", 400, "bad_host"),
        (
            "Host: gateway\r\n",
            "Host: a\r\nHost: b\r\n",
            400,
            "bad_host",
        ),
        ("Upgrade: websocket\r\n", "", 426, "not_upgrade"),
        ("Upgrade: websocket", "Upgrade: h2c", 400, "bad_upgrade"),
        (
            "Connection: Upgrade",
            "Connection: keep-alive",
            400,
            "bad_connection",
        ),
        ("Version: 13", "Version: 8", 426, "bad_version"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400, "bad_key"),
        ("Host:", "Content-Length: 3\r\nHost:", 400, "has_body"),
        (
            "Host:",
            "Origin: a\r\nOrigin: b\r\nHost:",
            400,
            "bad_origin",
        ),
    ] {
        for (target, is_openai) in [(GA, false), (OPENAI, true), ("/v1/audio/ga", true)] {
            let request = good.replacen(GA, target, 1).replacen(from, to, 1);
            ask(&world, &request).await.check(status, code, is_openai);
        }
    }
    let answer = ask(&world, &good.replace("Version: 13", "Version: 8")).await;
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    // What is no HTTP at all is hyper's to answer, and one who says nothing is cut off.
    let many = "x: y\r\n".repeat(80);
    for request in [
        "\x16\x03\x01\x02\x00\x01",
        "GET\r\n\r\n",
        &upgrade_request(GA, &many),
    ] {
        let answer = world.http(request).await;
        assert!(
            !answer.starts_with("HTTP/1.1 1") && !answer.starts_with("HTTP/1.1 2"),
            "{answer}"
        );
    }
    let asked = Instant::now();
    world.http("GET /v1/realtime HTTP/1.1\r\nHost:").await;
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(world.simulator.n_upgrades(), 0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_all_lines_are_busy() {
    let world = World::with_config(&format!("{CONFIG}\n[listener]\nmax_calls = 2\n"), "");
    let mut first = Wire::open(&world, GA).await;
    let mut second = Wire::open(&world, "/v1/audio/ga").await;
    assert_eq!(world.metric("trunkline_calls_limit"), 2.0);
    for (target, is_openai) in [(GA, false), (OPENAI, true), ("/twilio/media/ga", true)] {
        let answer = upgrade(&world, target, "").await;
        answer.check(503, "calls_full", is_openai);
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    assert_eq!(
        world.simulator.n_upgrades(),
        2,
        "nobody was dialled for the refused"
    );
    first.close(1000, "").await;
    first.until_close().await;
    drop(first);
    world.ended(1).await;
    let mut third = Wire::open(&world, GA).await;
    for wire in [&mut second, &mut third] {
        wire.close(1000, "").await;
        wire.until_close().await;
    }
    world.assert_quiet().await;
}

/// What a deployment does with the connection that the gateway opens.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers the upgrade with this.
    Says(&'static str),
    /// Takes the connection and says nothing.
    Nothing,
    /// Takes the connection and drops it.
    Drops,
}

async fn deployment(mut accepted: Receiver<DuplexStream>, does: Does) {
    while let Some(mut stream) = accepted.recv().await {
        let mut head = vec![0; 4096];
        let n = stream.read(&mut head).await.expect("a request");
        let head = String::from_utf8_lossy(&head[..n]).into_owned();
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then_some(value)
        });
        match does {
            Does::Says(answer) => {
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
                    key.expect("a key").as_bytes(),
                );
                let answer = answer.replace("ACCEPT", &accept);
                stream.write_all(answer.as_bytes()).await.expect("written");
                if answer.starts_with("HTTP/1.1 101 ") {
                    // Held open until the gateway gives up.
                    let _ = stream.read(&mut [0; 64]).await;
                }
            }
            Does::Nothing => {
                let _ = stream.read(&mut [0; 64]).await;
            }
            Does::Drops => {}
        }
    }
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn whom_the_deployment_refuses() {
    let bad_gateway = (502, "deployment_error", None);
    for (does, expected, reason, seconds) in [
        (
            Does::Says("HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n"),
            bad_gateway,
            "unauthorized",
            0,
        ),
        (
            Does::Says("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n"),
            bad_gateway,
            "unauthorized",
            0,
        ),
        (
            Does::Says("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"),
            bad_gateway,
            "not_found",
            0,
        ),
        (
            Does::Says(
                "HTTP/1.1 429 x\r\nretry-after: 7\r\nretry-after-ms: 6500\r\nContent-Length: 0\r\n\r\n",
            ),
            (429, "rate_limit_exceeded", Some("6500")),
            "rate_limited",
            0,
        ),
        (
            Does::Says("HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n"),
            (429, "rate_limit_exceeded", Some("1000")),
            "rate_limited",
            0,
        ),
        (
            Does::Says("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"),
            bad_gateway,
            "refused",
            0,
        ),
        (
            Does::Says("HTTP/1.1 503 x\r\nretry-after: 3\r\nContent-Length: 0\r\n\r\n"),
            (503, "deployment_unavailable", Some("3000")),
            "refused",
            0,
        ),
        (
            Does::Says("HTTP/1.1 302 x\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
            bad_gateway,
            "refused",
            0,
        ),
        (
            Does::Says("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            bad_gateway,
            "refused",
            0,
        ),
        (
            Does::Says(
                "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
            ),
            bad_gateway,
            "handshake",
            0,
        ),
        (Does::Says("SSH-2.0-x\r\n\r\n"), bad_gateway, "handshake", 0),
        (Does::Drops, bad_gateway, "handshake", 0),
        (
            Does::Nothing,
            (504, "deployment_timeout", None),
            "timeout",
            8,
        ),
        (
            Does::Says(SWITCH),
            (504, "deployment_timeout", None),
            "timeout",
            5,
        ),
    ] {
        for (target, is_openai) in [(GA, false), (OPENAI, true), ("/twilio/media/ga", true)] {
            let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
            let asked = Instant::now();
            // The answer closes the connection, which `http` waits for.
            let answer = tokio::select! {
                answer = upgrade(&world, target, "") => answer,
                () = deployment(accepted.remove(0), does) => unreachable!("it serves for ever"),
            };
            let (status, code, retry_after_ms) = expected;
            answer.check(status, code, is_openai);
            assert_eq!(answer.header("retry-after-ms"), retry_after_ms, "{does:?}");
            assert_eq!(asked.elapsed().as_secs(), seconds, "{does:?}");
            let failures =
                format!(r#"trunkline_dial_failures_total{{deployment="ga",reason="{reason}"}}"#);
            assert_eq!(world.metric(&failures), 1.0, "{does:?}");
            let refused = format!(r#"reason="{code}",route="#);
            let page = world.gateway.metrics().render().expect("metrics");
            assert!(page.contains(&refused), "{does:?}");
            world.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whose_deployment_is_not_there() {
    let (world, accepted) = World::scripted(CONFIG, "", &["ga"]);
    drop(accepted);
    for (target, is_openai) in [(GA, false), (OPENAI, true), ("/v1/audio/ga", true)] {
        let answer = upgrade(&world, target, "").await;
        answer.check(503, "deployment_unavailable", is_openai);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let failures = r#"trunkline_dial_failures_total{deployment="ga",reason="connect"}"#;
    assert_eq!(world.metric(failures), 3.0);
    world.assert_quiet().await;
}

/// OpenAI lets a bogus key through the upgrade and complains afterwards (protocol reference 1.5).
#[tokio::test(start_paused = true)]
async fn whose_gateway_has_a_bogus_key() {
    let config = CONFIG.replacen("[deployments.ga]", "[deployments.ga]\nkind = 'openai'", 1);
    let world = World::with_config(&config, "api_keys = ['another']");
    // Who comes after the first is not the reason to show the key once more.
    let (first, next) = ((502, "deployment_error"), (503, "deployment_unavailable"));
    for (target, is_openai, expected) in [
        (GA, false, first),
        (OPENAI, true, next),
        ("/v1/audio/ga", true, next),
    ] {
        let answer = upgrade(&world, target, "").await;
        let (status, code) = expected;
        answer.check(status, code, is_openai);
        assert!(!answer.body.to_string().contains("sim-key"));
    }
    let failures = r#"trunkline_dial_failures_total{deployment="ga",reason="rejected"}"#;
    assert_eq!(world.metric(failures), 1.0);
    world.assert_quiet().await;
}

/// Every refusal by the simulator's quota tells when to come again.
#[tokio::test(start_paused = true)]
async fn who_comes_when_the_quota_is_used_up() {
    let quota = "[quota]\nenforce = 'upgrade'\nrequests_per_minute = 1\n";
    let world = World::new(quota);
    let mut wire = Wire::open(&world, GA).await;
    let answer = upgrade(&world, GA, "").await;
    answer.check(429, "rate_limit_exceeded", false);
    let wait: u64 = answer
        .header("retry-after")
        .and_then(|wait| wait.parse().ok())
        .expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    wire.close(1000, "").await;
    wire.until_close().await;
    world.assert_quiet().await;
}

/// A caller that hangs up while its session is being opened leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn who_leaves_before_the_answer() {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let mut stream = world.connect();
    let request = upgrade_request(GA, "");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut dialled = accepted[0].recv().await.expect("a connection");
    assert_eq!(world.gateway.calls().active(), 1);
    drop(stream);
    let mut rest = Vec::new();
    let left = tokio::time::timeout(Duration::from_secs(1), dialled.read_to_end(&mut rest)).await;
    left.expect("the gateway hangs up too").expect("read");
    world.assert_quiet().await;
}

/// Whatever is answered, the caller's own id of the request and ours stand in it.
#[tokio::test(start_paused = true)]
async fn everybody_is_told_what_to_ask_about() {
    let world = World::new("");
    let id = "x-ms-client-request-id: mine-1\r\n";
    for target in [GA, "/openai/v1/realtime?model=nothing", "/v1/realtime"] {
        let head = if target == GA {
            Wire::open_with(&world, target, id).await.answer.clone()
        } else {
            upgrade(&world, target, id).await.head
        };
        let head = head.to_ascii_lowercase();
        assert!(head.contains(id.trim_end()), "{head}");
        assert!(head.contains("x-request-id: call-"), "{head}");
    }
    let in_query = format!("{GA}&x-ms-client-request-id=mine-2");
    let wire = Wire::open(&world, &in_query).await;
    assert!(wire.answer.contains("x-ms-client-request-id: mine-2"));
    drop(wire);
    world.assert_quiet().await;
}

/// A phone sees the same refusals as a program.
#[tokio::test(start_paused = true)]
async fn a_phone_hears_why() {
    let world = World::new("[[faults]]\nkind = 'refuse'\nstatus = 503\n");
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let url = match dialect {
            Dialect::Twilio => "ws://gateway/twilio/media/ga",
            _ => "ws://gateway/v1/audio/ga",
        };
        let phone = SoftPhone::new(url, dialect).expect("a good address");
        let report = world.call(&phone.script([Act::HangUp])).await;
        let refusal = report.refusal.expect("a refusal");
        assert_eq!(refusal.status, 503);
        assert_eq!(refusal.retry_after.as_deref(), Some("1"));
        assert!(refusal.body.contains("deployment_unavailable"));
    }
    world.assert_quiet().await;
}
