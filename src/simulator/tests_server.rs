//! The shell over an in-memory connection: handshakes, refusals, close codes, ephemeral keys.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

use super::Simulator;
use super::config::{
    DeploymentConfig, Enforcement, FaultKind, FaultRule, QuotaConfig, ReplyConfig, Shape,
    SimulatorConfig,
};

struct Net {
    simulator: Arc<Simulator>,
    tasks: TaskTracker,
}

/// A response's head and, unless it is a 101, its body.
struct Answer {
    head: String,
    body: Value,
    io: DuplexStream,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, v)| v)
    }

    fn code(&self) -> (u16, &str) {
        (
            self.status(),
            self.body["error"]["code"].as_str().unwrap_or_default(),
        )
    }

    async fn socket(self) -> WebSocketStream<DuplexStream> {
        assert_eq!(self.status(), 101, "{}", self.head);
        WebSocketStream::from_raw_socket(self.io, Role::Client, None).await
    }
}

impl Net {
    fn new(config: SimulatorConfig) -> Self {
        Self {
            simulator: Arc::new(Simulator::new(config)),
            tasks: TaskTracker::new(),
        }
    }

    async fn send(&self, request: String) -> Answer {
        let (mut io, far) = tokio::io::duplex(64 << 10);
        let simulator = Arc::clone(&self.simulator);
        self.tasks
            .spawn(async move { simulator.serve_connection(far).await });
        io.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut answer = Answer {
            head,
            body: Value::Null,
            io,
        };
        if let Some(length) = answer
            .header("content-length")
            .map(|length| length.parse().unwrap())
        {
            let mut body = vec![0; length];
            answer.io.read_exact(&mut body).await.unwrap();
            answer.body = serde_json::from_slice(&body).unwrap_or_default();
        }
        answer
    }

    async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nhost: sim\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        self.send(request + "\r\n").await
    }

    async fn post(&self, target: &str, key: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.send(format!(
            "POST {target} HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer {key}\r\napi-key: {key}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    async fn socket(
        &self,
        target: &str,
        headers: &[(&str, &str)],
    ) -> WebSocketStream<DuplexStream> {
        self.get(target, headers).await.socket().await
    }
}

/// The next event, or the close frame as `["CLOSE", code, reason]`.
async fn next(socket: &mut WebSocketStream<DuplexStream>) -> Value {
    let mut message = socket.next().await;
    while let Some(Ok(Message::Ping(_))) = message {
        message = socket.next().await;
    }
    match message {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        Some(Ok(Message::Close(Some(frame)))) => {
            json!(["CLOSE", u16::from(frame.code), frame.reason.as_str()])
        }
        other => json!(["END", format!("{other:?}")]),
    }
}

async fn next_of(socket: &mut WebSocketStream<DuplexStream>, kind: &str) -> Value {
    for _ in 0..1_000 {
        let event = next(socket).await;
        if event["type"] == kind {
            return event;
        }
        assert!(event.is_object(), "{event} instead of {kind}");
    }
    panic!("no {kind}");
}

const PREVIEW: &str = "/openai/realtime?api-version=2025-04-01-preview&deployment=voice";
const GA: &str = "/openai/v1/realtime?model=voice";
const OPENAI: &str = "/v1/realtime?model=gpt-realtime";
const KEY: (&str, &str) = ("api-key", "secret");
const BEARER: (&str, &str) = ("authorization", "Bearer secret");

fn keyed() -> SimulatorConfig {
    SimulatorConfig {
        api_keys: vec!["secret".into()],
        deployments: [
            ("voice", vec![]),
            ("gpt-realtime", vec![]),
            ("old", vec![Shape::Preview]),
        ]
        .into_iter()
        .map(|(name, shapes)| {
            (
                name.to_owned(),
                DeploymentConfig {
                    shapes,
                    ..DeploymentConfig::default()
                },
            )
        })
        .collect(),
        ..SimulatorConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn refused_handshakes() {
    let net = Net::new(keyed());
    let check = async |target: &str, headers: &[(&str, &str)], status: u16, code: &str| {
        let answer = net.get(target, headers).await;
        assert_eq!(answer.code(), (status, code), "{target} {headers:?}");
    };
    check(PREVIEW, &[], 401, "401").await;
    check(PREVIEW, &[("api-key", "wrong")], 401, "401").await;
    check(PREVIEW, &[BEARER], 401, "401").await;
    check(OPENAI, &[KEY], 401, "invalid_api_key").await;
    check(
        "/openai/v1/realtime?model=voice&api-version=2025-04-01-preview",
        &[KEY],
        401,
        "401",
    )
    .await;
    check(
        "/openai/realtime?api-version=2025-04-01-preview&deployment=none",
        &[KEY],
        404,
        "DeploymentNotFound",
    )
    .await;
    check(
        "/openai/v1/realtime?model=none",
        &[KEY],
        404,
        "DeploymentNotFound",
    )
    .await;
    check(
        "/openai/v1/realtime?model=old",
        &[KEY],
        400,
        "OperationNotSupported",
    )
    .await;
    check("/v1/realtime?model=none", &[BEARER], 404, "model_not_found").await;
    check(
        "/openai/realtime?deployment=voice",
        &[KEY],
        400,
        "BadRequest",
    )
    .await;
    check(
        "/openai/realtime?api-version=2025-04-01-preview",
        &[KEY],
        400,
        "BadRequest",
    )
    .await;
    check(
        "/openai/realtime?api-version=2020-01-01&deployment=voice",
        &[KEY],
        404,
        "404",
    )
    .await;
    check("/openai/v1/live", &[KEY], 404, "404").await;
    check("/v1/realtime/translations?model=x", &[BEARER], 404, "404").await;
    let names: Vec<_> = (0..11).map(|n| format!("x-own-{n}")).collect();
    let mut headers: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    headers.push(KEY);
    check(GA, &headers, 431, "431").await;
    check(GA, &headers[1..], 101, "").await;
    let plain = "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer secret\r\n\r\n";
    assert_eq!(net.send(plain.to_owned()).await.status(), 400);
    let answer = net.get(PREVIEW, &[("x-ms-client-request-id", "abc")]).await;
    assert_eq!(answer.header("x-ms-client-request-id"), Some("abc"));
    assert!(answer.header("apim-request-id").is_some());
    let body = &net.get("/v1/realtime?model=none", &[BEARER]).await.body["error"];
    assert_eq!(
        (&body["type"], &body["param"]),
        (&json!("invalid_request_error"), &Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn every_carrier_and_shape_is_accepted() {
    let net = Net::new(keyed());
    let check =
        async |target: &str, headers: &[(&str, &str)], shape: Shape, subprotocol: Option<&str>| {
            let answer = net.get(target, headers).await;
            assert_eq!(
                answer.header("sec-websocket-protocol"),
                subprotocol,
                "{target} {headers:?}"
            );
            assert!(answer.header("sec-websocket-extensions").is_none());
            assert_eq!(
                answer.header("sec-websocket-accept"),
                Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            );
            let created = next(&mut answer.socket().await).await;
            assert_eq!(created["type"], "session.created");
            assert_eq!(
                created["session"].get("voice").is_some(),
                shape == Shape::Preview,
                "{created}"
            );
        };
    let beta = ("openai-beta", "realtime=v1");
    let jwt = ("authorization", "bearer eyJh.eyJi.c2ln");
    check(PREVIEW, &[KEY], Shape::Preview, None).await;
    check(PREVIEW, &[jwt], Shape::Preview, None).await;
    check(
        &format!("{PREVIEW}&api-key=secret"),
        &[],
        Shape::Preview,
        None,
    )
    .await;
    check(
        &format!("{PREVIEW}&Authorization=Bearer%20eyJh.eyJi.c2ln"),
        &[],
        Shape::Preview,
        None,
    )
    .await;
    check(
        "//openai//realtime?api-version=2024-10-01-preview&deployment=old",
        &[KEY],
        Shape::Preview,
        None,
    )
    .await;
    check(GA, &[KEY], Shape::Ga, None).await;
    check(GA, &[BEARER], Shape::Ga, None).await;
    check(
        GA,
        &[jwt, ("sec-websocket-extensions", "permessage-deflate")],
        Shape::Ga,
        None,
    )
    .await;
    check(OPENAI, &[BEARER], Shape::Ga, None).await;
    check(OPENAI, &[BEARER, beta], Shape::Preview, None).await;
    let browser = (
        "sec-websocket-protocol",
        "realtime, openai-insecure-api-key.secret",
    );
    check(OPENAI, &[browser], Shape::Ga, Some("realtime")).await;
    let browser = (
        "sec-websocket-protocol",
        "realtime, openai-insecure-api-key.secret, openai-beta.realtime-v1",
    );
    check(OPENAI, &[browser], Shape::Preview, Some("realtime")).await;
    let transcription = net
        .socket("/v1/realtime?intent=transcription", &[BEARER])
        .await;
    let created = next(&mut { transcription }).await;
    assert_eq!(created["session"]["type"], "transcription");
}

#[tokio::test(start_paused = true)]
async fn openai_complains_after_the_upgrade() {
    let net = Net::new(SimulatorConfig {
        beta_sunset: true,
        ..keyed()
    });
    let mut socket = net
        .socket(OPENAI, &[("authorization", "Bearer bogus")])
        .await;
    assert_eq!(next(&mut socket).await["error"]["code"], "invalid_api_key");
    assert_eq!(
        next(&mut socket).await,
        json!(["CLOSE", 3000, "invalid_request_error.invalid_api_key"])
    );
    let mut socket = net
        .socket(OPENAI, &[BEARER, ("OpenAI-Beta", "realtime=v1")])
        .await;
    assert_eq!(
        next(&mut socket).await["error"]["code"],
        "beta_api_shape_disabled"
    );
    let reason = "invalid_request_error.beta_api_shape_disabled";
    assert_eq!(next(&mut socket).await, json!(["CLOSE", 4000, reason]));
    let answer = net
        .post("/v1/realtime/sessions", "secret", &json!({}))
        .await;
    assert_eq!(answer.code(), (400, "beta_api_shape_disabled"));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_runs_on_the_paused_clock() {
    let config = SimulatorConfig {
        reply: ReplyConfig::Tone {
            hz: 300.0,
            length: Duration::from_secs(10),
        },
        ..SimulatorConfig::default()
    };
    let net = Net::new(config);
    let mut socket = net.socket(GA, &[KEY]).await;
    let started = tokio::time::Instant::now();
    socket
        .send(Message::text(r#"{"type":"response.create"}"#))
        .await
        .unwrap();
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    let mut ponged = false;
    let mut n_bytes = 0;
    loop {
        let Message::Text(text) = socket.next().await.unwrap().unwrap() else {
            ponged = true;
            continue;
        };
        let event: Value = serde_json::from_str(&text).unwrap();
        n_bytes += event["delta"]
            .as_str()
            .filter(|_| event["type"] == "response.output_audio.delta")
            .map_or(0, str::len);
        if event["type"] == "response.done" {
            break;
        }
    }
    let elapsed = started.elapsed();
    assert!(
        (1_900..2_400).contains(&elapsed.as_millis()),
        "10 s at five times real time, not {elapsed:?}"
    );
    assert!(ponged);
    assert!(n_bytes >= 640_000, "{n_bytes} bytes of base64");
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    net.simulator.shutdown().await;
    let record = net.simulator.sessions().remove(0);
    assert_eq!(record.responses[0].audio_ms, 10_000);
    assert!(record.closed.unwrap().by_client);
}

#[tokio::test(start_paused = true)]
async fn cap_drop_and_restart_have_their_close_codes() {
    let config = SimulatorConfig {
        azure_session_cap: Duration::from_secs(120),
        ..SimulatorConfig::default()
    };
    let net = Net::new(config);
    let mut socket = net.socket(GA, &[KEY]).await;
    assert_eq!(
        next_of(&mut socket, "error").await["error"]["code"],
        "session_expired"
    );
    let reason = "Your session hit the maximum duration of 2 minutes.";
    assert_eq!(next(&mut socket).await, json!(["CLOSE", 1001, reason]));

    let fault = FaultRule {
        code: Some(1006),
        deployment: None,
        after_sessions: None,
        first_sessions: Some(1),
        ..FaultRule::new(FaultKind::Drop)
    };
    let net = Net::new(SimulatorConfig {
        faults: vec![fault],
        ..SimulatorConfig::default()
    });
    let mut socket = net.socket(GA, &[KEY]).await;
    next(&mut socket).await;
    assert_eq!(next(&mut socket).await[0], "END");
    let mut socket = net.socket(GA, &[KEY]).await;
    next(&mut socket).await;
    let simulator = Arc::clone(&net.simulator);
    net.tasks.spawn(async move { simulator.shutdown().await });
    assert_eq!(next(&mut socket).await[1], 1012);
}

#[tokio::test(start_paused = true)]
async fn unusable_frames_close_that_session() {
    let net = Net::new(SimulatorConfig::default());
    let mut socket = net.socket(GA, &[KEY]).await;
    next(&mut socket).await;
    socket.send(Message::binary(b"{}".to_vec())).await.unwrap();
    assert_eq!(next(&mut socket).await[1], 1003);
    let net = Net::new(SimulatorConfig {
        lenient: true,
        ..SimulatorConfig::default()
    });
    let mut socket = net.socket(GA, &[KEY]).await;
    next(&mut socket).await;
    socket
        .send(Message::binary(
            br#"{"type":"input_audio_buffer.clear"}"#.to_vec(),
        ))
        .await
        .unwrap();
    assert_eq!(
        next(&mut socket).await["type"],
        "input_audio_buffer.cleared"
    );
}

#[tokio::test(start_paused = true)]
async fn quota_refuses_the_upgrade() {
    let quota = QuotaConfig {
        requests_per_minute: 2,
        enforce: Enforcement::Upgrade,
        ..QuotaConfig::default()
    };
    let net = Net::new(SimulatorConfig {
        quota,
        ..SimulatorConfig::default()
    });
    assert_eq!(net.get(GA, &[KEY]).await.status(), 101);
    assert_eq!(net.get(GA, &[KEY]).await.status(), 101);
    let refused = net.get(GA, &[KEY]).await;
    assert_eq!(refused.code(), (429, "429"));
    assert_eq!(
        (
            refused.header("retry-after"),
            refused.header("retry-after-ms")
        ),
        (Some("30"), Some("30000"))
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(net.get(GA, &[KEY]).await.status(), 101);
}

#[tokio::test(start_paused = true)]
async fn upgrades_are_refused_on_demand() {
    let fault = FaultRule {
        status: Some(503),
        deployment: None,
        after_sessions: None,
        first_sessions: Some(2),
        ..FaultRule::new(FaultKind::Refuse)
    };
    let config = SimulatorConfig {
        faults: vec![fault],
        allow_fault_header: true,
        ..SimulatorConfig::default()
    };
    let net = Net::new(config);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(net.get(GA, &[KEY]).await.status());
    }
    assert_eq!(seen, [503, 503, 101]);
    assert_eq!(
        net.get(GA, &[KEY, ("x-sim-fault", "refuse=500")])
            .await
            .status(),
        500
    );
    assert_eq!(
        net.get(&format!("{GA}&x-sim-fault=refuse=502"), &[KEY])
            .await
            .status(),
        502
    );
}

#[tokio::test(start_paused = true)]
async fn ephemeral_keys_carry_defaults_and_expire() {
    let net = Net::new(keyed());
    let body = json!({"expires_after": {"anchor": "created_at", "seconds": 30},
        "session": {"type": "realtime", "model": "gpt-realtime", "instructions": "Whisper."}});
    let answer = net
        .post("/v1/realtime/client_secrets", "secret", &body)
        .await;
    assert_eq!(answer.status(), 200);
    let value = answer.body["value"].as_str().unwrap().to_owned();
    assert!(value.starts_with("ek_") && value.len() == 35);
    assert_eq!(answer.body["session"]["expires_at"], 0);
    let bearer = format!("Bearer {value}");
    for _ in 0..2 {
        let mut socket = net
            .socket("/v1/realtime", &[("authorization", &bearer)])
            .await;
        assert_eq!(
            next(&mut socket).await["session"]["instructions"],
            "Whisper."
        );
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    // Expired is as good as made up.
    for bearer in [&bearer, "Bearer ek_made_up"] {
        let mut socket = net.socket(OPENAI, &[("authorization", bearer)]).await;
        assert_eq!(next(&mut socket).await["error"]["code"], "invalid_api_key");
        assert_eq!(next(&mut socket).await[1], 3000);
        let answer = net.get(GA, &[("authorization", bearer)]).await;
        assert_eq!(answer.status(), 401);
    }

    let answer = net
        .post(
            "/openai/realtimeapi/sessions?api-version=2025-04-01-preview",
            "secret",
            &json!({
            "model": "voice", "voice": "verse"}),
        )
        .await;
    assert_eq!(
        (answer.status(), &answer.body["voice"]),
        (200, &json!("verse"))
    );
    assert!(
        answer.body["client_secret"]["value"]
            .as_str()
            .unwrap()
            .starts_with("ek_")
    );
    let refused = json!({"expires_after": {"seconds": 5}});
    assert_eq!(
        net.post("/v1/realtime/client_secrets", "secret", &refused)
            .await
            .code(),
        (400, "invalid_value")
    );
    assert_eq!(
        net.post("/v1/realtime/client_secrets", "bogus", &json!({}))
            .await
            .status(),
        401
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_still_heard() {
    let config = SimulatorConfig {
        reply: ReplyConfig::Tone {
            hz: 300.0,
            length: Duration::from_secs(30),
        },
        ..SimulatorConfig::default()
    };
    let net = Net::new(config);
    let mut socket = net.socket(GA, &[KEY]).await;
    socket
        .send(Message::text(r#"{"type":"response.create"}"#))
        .await
        .unwrap();
    // 30 s of audio are 1.9 MB of base64; the pipe holds 64 KiB.
    tokio::time::sleep(Duration::from_secs(3)).await;
    socket
        .send(Message::text(r#"{"type":"response.cancel"}"#))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(net.simulator.sessions()[0].cancels.len(), 1);
    let done = next_of(&mut socket, "response.done").await;
    assert_eq!(done["response"]["status"], "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_is_found_out() {
    let net = Net::new(SimulatorConfig::default());
    let mut alive = net.socket(GA, &[KEY]).await;
    // Never read again: its pongs do not come.
    let _gone = net.socket(GA, &[KEY]).await;
    next(&mut alive).await;
    let reads = async { while next(&mut alive).await.is_object() {} };
    let waited = tokio::time::timeout(Duration::from_secs(150), reads).await;
    assert!(waited.is_err(), "the one that answers pings lives on");
    let records = net.simulator.sessions();
    assert!(records[0].closed.is_none());
    assert_eq!(records[1].closed.as_ref().unwrap().code, 1006);
}

#[tokio::test(start_paused = true)]
async fn ephemeral_keys_say_what_the_session_is_for() {
    let net = Net::new(keyed());
    let secrets = "/v1/realtime/client_secrets";
    let mint = async |body: Value| {
        let answer = net.post(secrets, "secret", &body).await;
        let key = answer.body["value"].as_str().unwrap_or_default().to_owned();
        (key, answer)
    };
    let (key, _) = mint(json!({"session": {"type": "transcription"}})).await;
    let bearer = format!("Bearer {key}");
    let mut socket = net
        .socket("/v1/realtime", &[("authorization", &bearer)])
        .await;
    assert_eq!(next(&mut socket).await["session"]["type"], "transcription");

    // The URL names another model; what else the key brings still holds.
    let session = json!({"type": "realtime", "model": "gpt-realtime", "instructions": "Whisper."});
    let (key, _) = mint(json!({ "session": session })).await;
    let bearer = format!("Bearer {key}");
    let mut socket = net
        .socket("/v1/realtime?model=voice", &[("authorization", &bearer)])
        .await;
    let created = next(&mut socket).await;
    assert_eq!(created["session"]["instructions"], "Whisper.");
    // Its defaults are of the other shape.
    let headers = [
        ("authorization", bearer.as_str()),
        ("OpenAI-Beta", "realtime=v1"),
    ];
    let mut socket = net.socket("/v1/realtime?model=voice", &headers).await;
    assert_eq!(next(&mut socket).await["error"]["code"], "invalid_api_key");

    for (body, code) in [
        (json!({"session": {}}), "missing_required_parameter"),
        (
            json!({"session": {"type": "realtime", "voice": "alloy"}}),
            "unknown_parameter",
        ),
        (
            json!({"session": {"type": "realtime", "audio": {"output": {"voice": "nobody"}}}}),
            "invalid_value",
        ),
        (
            json!({"session": {"type": "transcription", "instructions": "x"}}),
            "unknown_parameter",
        ),
        (json!({"expires_after": 30}), "invalid_type"),
        (
            json!({"expires_after": {"anchor": "last_use"}}),
            "invalid_value",
        ),
        (json!({"seconds": 30}), "unknown_parameter"),
        (json!([]), "invalid_type"),
    ] {
        let (_, answer) = mint(body).await;
        assert_eq!(answer.code(), (400, code));
    }
}

#[tokio::test(start_paused = true)]
async fn request_ids_come_back_from_header_and_query() {
    let net = Net::new(keyed());
    let target = "/v1/realtime?model=m&x-ms-client-request-id=from-query";
    let name = "x-ms-client-request-id";
    let answer = net.get(target, &[BEARER]).await;
    assert_eq!(answer.header(name), Some("from-query"));
    let answer = net.get(target, &[BEARER, (name, "from-header")]).await;
    assert_eq!(answer.header(name), Some("from-header"));
}
