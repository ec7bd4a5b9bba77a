//! Attacks and what comes of each: the status or close code, the counter, what reached a deployment, and that a call
//! beside it was heard and kept its pace.
//!
//! Each row is played in a gateway of its own with the default limits, in simulated time: what is shown is that an
//! attack holds up nothing that the neighbour waits for, not what it costs in CPU time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use trunkline::auth::hash_key;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::attack_tokens::{ISSUER, fetch_keys, serve_keys};
use crate::harness::{CONFIG, World};
use crate::wire::{Wire, upgrade_request};

pub(crate) const ATTACKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

pub(crate) const ALL: &str = "api-key: key-of-all\r\n";
pub(crate) const STRICT: &str = "api-key: key-of-strict\r\n";

pub(crate) const GA: &str = "/openai/v1/realtime?model=ga";
pub(crate) const AUDIO: &str = "/v1/audio/ga";
pub(crate) const TWILIO: &str = "/twilio/media/ga";
pub(crate) const VOICE: &str = "/twilio/voice/ga";
pub(crate) const START: &str = r#"{"type":"start"}"#;

/// Tenants `all`, `few` (of `preview` only), `strict` (with a policy) and `quiet`, whose call is not to be disturbed.
pub(crate) fn config(listener: &str) -> String {
    let key = |tenant: &str, key: &str, more: &str| {
        let hash = hash_key(key);
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n{more}\n")
    };
    let keys = [
        key("all", "key-of-all", ""),
        key("all", "key-of-yesterday", "expires = 2020-01-01T00:00:00Z"),
        key("few", "key-of-few", ""),
        key("strict", "key-of-strict", ""),
        key("quiet", "key-of-quiet", ""),
    ]
    .concat();
    let auth = format!(
        "mode = 'keys'\n[auth.signing]\nsecret = 's3cret-of-exactly-thirty-two-byt'\n{keys}\
         [[auth.issuers]]\nurl = '{ISSUER}'\naudience = ['voice']\ntenant = 'all'\n\
         jwks_url = 'http://127.0.0.1:9/jwks'\n"
    );
    format!(
        "{}\n[listener]\npublic_url = 'wss://voice.example.com'\nallowed_origins = ['https://app.example.com']\n\
         {listener}\n[tenants.all]\n[tenants.quiet]\n[tenants.few]\nagents = ['preview']\nmodels = ['preview']\n\
         [tenants.strict.session]\ninstructions_prefix = 'Be kind.'\nforbidden = ['tracing']\n\
         [tenants.strict.session.pinned]\nvoice = 'marin'\n\
         [[twilio.accounts]]\ntenant = 'all'\nauth_token = '12345'\n",
        CONFIG.replace("mode = \"none\"", &auth)
    )
}

type Play = Box<dyn for<'a> Fn(&'a World) -> LocalBoxFuture<'a, String>>;

pub(crate) struct Row {
    name: &'static str,
    /// Its number in the reference of threats.
    threat: u8,
    /// More of the table `[listener]`, and tables after it.
    listener: &'static str,
    play: Play,
    outcome: &'static str,
    /// What must be counted, and how often.
    counted: Vec<(String, f64)>,
    /// Connections that it may cause at a deployment: none if it is refused.
    dials: usize,
    /// Whether the issuer's keys can be had.
    has_issuer: bool,
    /// The neighbour talks longer than the row lasts: so many questions.
    questions: usize,
}

impl Row {
    pub(crate) fn new(
        threat: u8,
        name: &'static str,
        outcome: &'static str,
        play: impl for<'a> Fn(&'a World) -> LocalBoxFuture<'a, String> + 'static,
    ) -> Self {
        Self {
            name,
            threat,
            listener: "",
            play: Box::new(play),
            outcome,
            counted: Vec::new(),
            dials: 0,
            has_issuer: false,
            questions: 2,
        }
    }

    pub(crate) fn counted(mut self, line: impl Into<String>, n: f64) -> Self {
        self.counted.push((line.into(), n));
        self
    }

    /// The reason of the refusal, as the caller is told it.
    pub(crate) fn refused(self, route: &str, reason: &str) -> Self {
        let line = format!(r#"trunkline_calls_refused_total{{reason="{reason}",route="{route}"}}"#);
        self.counted(line, 1.0)
    }

    /// What was wrong with the credential, of which the caller is not told.
    pub(crate) fn denied(self, route: &str, reason: &str) -> Self {
        let line = format!(r#"trunkline_auth_denied_total{{reason="{reason}",route="{route}"}}"#);
        self.counted(line, 1.0)
    }

    pub(crate) fn ended(self, reason: &str) -> Self {
        self.counted(
            format!(r#"trunkline_connections_ended_total{{reason="{reason}"}}"#),
            1.0,
        )
    }

    pub(crate) fn bad_input(self, dialect: &str, reason: &str) -> Self {
        let line = format!(r#"trunkline_bad_input_total{{dialect="{dialect}",reason="{reason}"}}"#);
        self.counted(line, 1.0)
    }

    pub(crate) fn dials(self, dials: usize) -> Self {
        Self { dials, ..self }
    }

    pub(crate) fn listener(self, listener: &'static str) -> Self {
        Self { listener, ..self }
    }

    pub(crate) fn with_issuer(self) -> Self {
        Self {
            has_issuer: true,
            ..self
        }
    }

    pub(crate) fn questions(self, questions: usize) -> Self {
        Self { questions, ..self }
    }
}

/// Plays the rows and prints the table.
pub(crate) async fn play(rows: Vec<Row>) {
    let (mut table, mut problems) = (String::new(), Vec::new());
    for row in &rows {
        problems.extend(play_one(row).await);
        let counted: Vec<_> = row
            .counted
            .iter()
            .map(|(line, n)| format!("{} +{n}", line.trim_start_matches("trunkline_")))
            .collect();
        let (threat, name, outcome) = (row.threat, row.name, row.outcome);
        table += &format!(
            "{threat:>2} | {name} | {outcome} | {}\n",
            counted.join(", ")
        );
    }
    println!(
        "threat | attack | outcome | counted\n{table}{} rows",
        rows.len()
    );
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Plays a row; what was not as it says.
async fn play_one(row: &Row) -> Option<String> {
    let name = row.name;
    let dials = Arc::new(AtomicUsize::new(0));
    let dialled = Arc::clone(&dials);
    let mut config = config(row.listener);
    if row.has_issuer {
        config = config.replace("127.0.0.1:9/", &format!("{}/", serve_keys()));
    }
    let world = World::with_model_link(&config, "", move |stream| {
        dialled.fetch_add(1, Ordering::Relaxed);
        stream
    });
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    if row.has_issuer {
        fetch_keys(&world, stop).await;
    }
    let attack = async {
        // In the middle of the neighbour's first question.
        sleep(Duration::from_secs(1)).await;
        let outcome = (row.play)(&world).await;
        (outcome, Instant::now())
    };
    let call = async {
        let report = neighbour(&world, row.questions).await;
        (report, Instant::now())
    };
    let ((outcome, attacked), (report, called)) = tokio::join!(attack, call);
    assert!(
        attacked < called,
        "{name}: the neighbour hung up before the end"
    );
    assert_undisturbed(&world, &report, name);
    world.assert_quiet().await;
    let is_counted = row.counted.iter().all(|(line, n)| world.metric(line) == *n);
    // One is the neighbour's.
    let dials = dials.load(Ordering::Relaxed) - 1;
    if outcome == row.outcome && is_counted && dials == row.dials {
        return None;
    }
    let page = world.gateway.metrics().render().expect("metrics");
    let is_count = |line: &&str| COUNTS.iter().any(|count| line.starts_with(count));
    let counts: Vec<_> = page.lines().filter(is_count).collect();
    Some(format!(
        "{name}: {outcome}, {dials} connections to deployments, {counts:?}"
    ))
}

/// Where attacks are counted.
const COUNTS: [&str; 6] = [
    "trunkline_calls_refused_total{",
    "trunkline_auth_denied_total{",
    "trunkline_connections_ended_total{",
    "trunkline_bad_input_total{",
    "trunkline_ignored_messages_total{",
    "trunkline_policy_refused_total{",
];

/// A call of real speech.
async fn neighbour(world: &World, questions: usize) -> CallReport {
    let mut script = Vec::new();
    for n in 0..questions {
        script.push(Act::Say(if n % 2 == 0 {
            speech::hours()
        } else {
            speech::order()
        }));
        script.push(Act::WaitForReply {
            min_audio: Duration::from_millis(500),
            until_end: true,
            timeout: Duration::from_secs(20),
        });
    }
    script.push(Act::HangUp);
    let phone = SoftPhone::new("ws://gateway/v1/audio/ga", Dialect::Audio).expect("a good address");
    let phone = phone.api_key("key-of-quiet").script(script);
    phone.call(world.connect_from(NEIGHBOUR)).await
}

/// The neighbour was heard and answered to the end, no frame was lost, and those of the replies left in time.
fn assert_undisturbed(world: &World, report: &CallReport, name: &str) {
    assert!(
        report.is_heard_both_ways() && report.script_done,
        "{name}: {report}"
    );
    assert!(report.script_failures.is_empty(), "{name}: {report}");
    assert!(report.violations.is_empty(), "{name}: {report}");
    assert!(report.underruns.is_empty(), "{name}: {report}");
    assert!(report.errors.is_empty(), "{name}: {report}");
    let lateness = |line: &str| world.metric(&format!("trunkline_pacer_lateness_seconds_{line}"));
    let (in_time, all) = (lateness(r#"bucket{le="0.005"}"#), lateness("count"));
    assert!(
        all > 50.0 && in_time >= 0.99 * all,
        "{name}: {in_time} of {all}"
    );
}

// --- Rows that are refused at the door.

/// A request that is answered so: status and `x-trunkline-error`, or nothing.
pub(crate) fn door(
    threat: u8,
    name: &'static str,
    request: impl Into<String>,
    outcome: &'static str,
) -> Row {
    let request = request.into();
    Row::new(threat, name, outcome, move |world| {
        let request = request.clone();
        async move { ask(world, &request).await }.boxed_local()
    })
}

/// What a request of the attacker is answered.
pub(crate) async fn ask(world: &World, request: &str) -> String {
    ask_from(world, ATTACKER, request).await
}

pub(crate) async fn ask_from(world: &World, from: Ipv4Addr, request: &str) -> String {
    told(&World::ask(world.connect_from(from), request).await)
}

/// The status and reason of all answers in this.
pub(crate) fn told(answers: &str) -> String {
    let all: Vec<_> = answers
        .lines()
        .filter_map(|line| {
            line.strip_prefix("HTTP/1.")
                .and_then(|rest| rest.get(2..5))
                .or_else(|| line.strip_prefix("x-trunkline-error: "))
        })
        .collect();
    if all.is_empty() {
        return "closed".to_owned();
    }
    all.join(" ")
}

pub(crate) const DENIED: &str = "401 invalid_api_key";

/// A credential that is refused, for that reason, by the SDK route.
fn key(name: &'static str, target: &str, more: &str, reason: &str) -> Row {
    let row = door(26, name, upgrade_request(target, more), DENIED);
    row.refused("realtime", "invalid_api_key")
        .denied("realtime", reason)
}

/// What is good all the same.
fn answered(name: &'static str, target: &'static str, more: &'static str) -> Row {
    Row::new(10, name, "101", move |world| {
        async move {
            drop(Wire::open_with(world, target, more).await);
            "101".to_owned()
        }
        .boxed_local()
    })
    .dials(1)
}

#[tokio::test(start_paused = true)]
async fn by_keys() {
    let protocol =
        |key: &str| format!("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{key}\r\n");
    let twice = "authorization: Bearer key-of-all\r\nauthorization: Bearer key-of-all\r\n";
    let unread = |name, target: &str, more: &str| {
        // Not even looked up.
        door(10, name, upgrade_request(target, more), DENIED).refused("realtime", "invalid_api_key")
    };
    let nine_kib = format!("api-key: {}\r\n", "k".repeat(9 * 1024));
    let mixed = format!("{}api-key: wrong\r\n", protocol("key-of-all"));
    play(vec![
        key("no credential", GA, "", "missing"),
        door(
            1,
            "no credential, phone",
            upgrade_request(AUDIO, ""),
            DENIED,
        )
        .refused("audio", "invalid_api_key")
        .denied("audio", "missing"),
        key("wrong key", GA, "api-key: wrong\r\n", "unknown_key"),
        door(
            30,
            "key of another tenant's model",
            upgrade_request(GA, "api-key: key-of-few\r\n"),
            "403 permission_denied",
        )
        .refused("realtime", "permission_denied"),
        door(
            30,
            "key of another tenant's agent",
            upgrade_request(AUDIO, "api-key: key-of-few\r\n"),
            "403 permission_denied",
        )
        .refused("audio", "permission_denied"),
        key(
            "expired key",
            GA,
            "api-key: key-of-yesterday\r\n",
            "expired",
        ),
        unread("empty key", GA, "api-key:\r\n"),
        key(
            "key with trailing garbage",
            GA,
            "api-key: key-of-all.\r\n",
            "unknown_key",
        ),
        key("cut key", GA, "api-key: key-of-al\r\n", "unknown_key"),
        key(
            "hash of the key",
            GA,
            &format!("api-key: {}\r\n", hash_key("key-of-all")),
            "unknown_key",
        ),
        unread("key of 9 KiB", GA, &nine_kib),
        unread("api-key twice", GA, &format!("{ALL}{ALL}")),
        unread("Authorization twice", GA, twice),
        unread("Basic", GA, "Authorization: Basic a2V5LW9mLWFsbA==\r\n"),
        key(
            "good query, bad header",
            &format!("{GA}&api-key=key-of-all"),
            "api-key: wrong\r\n",
            "unknown_key",
        ),
        key("good subprotocol, bad header", GA, &mixed, "unknown_key"),
        key(
            "bad api-key, good Authorization",
            GA,
            "api-key: wrong\r\nauthorization: Bearer key-of-all\r\n",
            "unknown_key",
        ),
        answered(
            "good api-key, bad Authorization: the former counts",
            GA,
            "api-key: key-of-all\r\nauthorization: Bearer wrong\r\n",
        ),
        answered(
            "bad query, good header: the latter counts",
            "/v1/realtime?model=ga&api-key=wrong",
            ALL,
        ),
        Row::new(
            5,
            "subprotocol with a key is not selected",
            "101 realtime",
            |world| {
                async move {
                    let more =
                        "Sec-WebSocket-Protocol: openai-insecure-api-key.key-of-all, realtime\r\n";
                    let wire = Wire::open_with(world, GA, more).await;
                    let selected = wire
                        .answer
                        .lines()
                        .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
                    format!("101 {}", selected.unwrap_or("-"))
                }
                .boxed_local()
            },
        )
        .dials(1),
    ])
    .await;
}

// --- HTTP.

#[tokio::test(start_paused = true)]
async fn by_requests() {
    let good = upgrade_request(GA, ALL);
    let with = |more: &str| upgrade_request(GA, &format!("{ALL}{more}"));
    let bad = |name, request: String, outcome: &'static str| {
        let code = outcome.split(' ').nth(1).expect("a code");
        door(10, name, request, outcome).refused("realtime", code)
    };
    let origin = |name, target: &str, route: &str, origin: &str| {
        let request = upgrade_request(target, &format!("{ALL}Origin: {origin}\r\n"));
        door(9, name, request, "403 origin_refused").refused(route, "origin_refused")
    };
    let twice = format!("{}{}", upgrade_request(GA, "api-key: wrong\r\n"), good);
    let body_behind = good.replace("Host:", "Content-Length: 4\r\nHost:") + "GET ";
    play(vec![
        origin(
            "page that is not listed",
            GA,
            "realtime",
            "https://evil.example",
        ),
        origin(
            "page whose name begins alike",
            GA,
            "realtime",
            "https://app.example.com.evil.example",
        ),
        origin(
            "page by another scheme",
            GA,
            "realtime",
            "http://app.example.com",
        ),
        origin("page of a file", GA, "realtime", "null"),
        origin(
            "listed page on a provider's route",
            TWILIO,
            "twilio",
            "https://app.example.com",
        ),
        bad(
            "two Origins",
            with("Origin: https://app.example.com\r\nOrigin: https://app.example.com\r\n"),
            "400 bad_origin",
        ),
        bad(
            "no Host",
            good.replace("Host: gateway\r\n", ""),
            "400 bad_host",
        ),
        bad("two Hosts", with("Host: evil.example\r\n"), "400 bad_host"),
        bad(
            "absolute form",
            good.replace(GA, &format!("http://evil.example{GA}")),
            "400 not_origin_form",
        ),
        bad(
            "HTTP/1.0",
            good.replace("HTTP/1.1", "HTTP/1.0"),
            "505 not_http11",
        ),
        bad("POST upgrade", good.replace("GET ", "POST "), "405 not_get"),
        bad("upgrade with a body", body_behind, "400 has_body"),
        bad(
            "chunked upgrade",
            with("Transfer-Encoding: chunked\r\n"),
            "400 has_body",
        ),
        bad(
            "two lengths in one upgrade",
            with("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            "400 has_body",
        ),
        door(
            10,
            "length that is none",
            with("Content-Length: +1\r\n"),
            "400",
        )
        .ended("bad_head"),
        door(
            10,
            "transfer coding that is none",
            with("Transfer-Encoding: xchunked\r\n"),
            "400",
        )
        .ended("bad_head"),
        bad(
            "h2c",
            good.replace("Upgrade: websocket", "Upgrade: h2c"),
            "400 bad_upgrade",
        ),
        bad(
            "websocket or h2c",
            good.replace("Upgrade: websocket", "Upgrade: websocket, h2c"),
            "400 bad_upgrade",
        ),
        door(
            10,
            "HTTP/2 preface",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "closed",
        )
        .ended("bad_head"),
        bad(
            "two keys",
            with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            "400 bad_key",
        ),
        bad(
            "short key",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
            "400 bad_key",
        ),
        bad(
            "version 8",
            good.replace("Version: 13", "Version: 8"),
            "426 bad_version",
        ),
        door(10, "second request behind a refused one", twice, DENIED)
            .refused("realtime", "invalid_api_key"),
        door(10, "65 headers", with(&"x: y\r\n".repeat(59)), "431").ended("head_too_large"),
        door(
            10,
            "head of 17 KiB",
            with(&format!("x: {}\r\n", "y".repeat(17 * 1024))),
            "431",
        )
        .ended("head_too_large"),
        door(
            10,
            "target of 5 KiB",
            upgrade_request(&format!("{GA}&x={}", "y".repeat(5 * 1024)), ALL),
            "414 target_too_long",
        )
        .refused("other", "target_too_long"),
        door(
            10,
            "space before the colon",
            with("Origin : https://evil.example\r\n"),
            "400",
        )
        .ended("bad_head"),
        door(10, "folded header", with("x: a\r\n b\r\n"), "400").ended("bad_head"),
        door(
            29,
            "control character in a header",
            with("x-ms-client-request-id: a\x1b[31m\x00\r\n"),
            "400",
        )
        .ended("bad_head"),
        door(
            29,
            "newline in an id",
            upgrade_request(
                &format!("{GA}&x-ms-client-request-id=a%0d%0aset-cookie:x"),
                "api-key: wrong\r\n",
            ),
            DENIED,
        )
        .refused("realtime", "invalid_api_key"),
        door(
            10,
            "path that climbs",
            upgrade_request("/v1/audio/../../openai/v1/realtime?model=ga", ""),
            DENIED,
        )
        .denied("realtime", "missing"),
        door(
            10,
            "percent-encoded slash",
            upgrade_request("/v1/audio/ga%2f..%2fpreview", ALL),
            "404 not_found",
        )
        .refused("audio", "not_found"),
        door(
            10,
            "percent-encoded path",
            upgrade_request("/v1/%61udio/ga", ""),
            "404 not_found",
        )
        .refused("other", "not_found"),
        door(
            10,
            "doubled slashes get round no check",
            upgrade_request("//v1//audio//ga", ""),
            DENIED,
        )
        .denied("audio", "missing"),
        door(
            28,
            "metrics from outside",
            "GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n",
            "404 not_found",
        )
        .refused("other", "not_found"),
        Row::new(
            11,
            "spoofed X-Forwarded-For",
            "429 too_many_failures",
            |world| {
                async move {
                    for n in 0..60 {
                        let more = format!("X-Forwarded-For: 203.0.113.{n}\r\napi-key: wrong\r\n");
                        assert_eq!(ask(world, &upgrade_request(GA, &more)).await, DENIED);
                    }
                    let more = format!("X-Forwarded-For: 203.0.113.99\r\n{ALL}");
                    ask(world, &upgrade_request(GA, &more)).await
                }
                .boxed_local()
            },
        )
        .refused("other", "too_many_failures"),
        Row::new(21, "names that would be labels", "no label", |world| {
            async move {
                for target in [
                    "/v1/audio/x%22,evil=%221",
                    "/openai/v1/realtime?model=evil%0a",
                    "/evil%0aevil%201",
                    "/v1/audio/evil\"{}",
                    "/twilio/media/evil",
                ] {
                    ask(world, &upgrade_request(target, ALL)).await;
                }
                let page = world.gateway.metrics().render().expect("metrics");
                if page.contains("evil") {
                    "a label"
                } else {
                    "no label"
                }
                .to_owned()
            }
            .boxed_local()
        }),
    ])
    .await;
}
