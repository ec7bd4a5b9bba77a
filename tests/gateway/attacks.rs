//! Attacks and what comes of each: the status or close code, the counter, what reached a deployment, and that a call
//! beside it was heard and kept its pace.
//!
//! Each row is played in a gateway of its own with the default limits, in simulated time: what is shown is that an
//! attack holds up nothing that the neighbour waits for, not what it costs in CPU time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::auth::hash_key;
use trunkline::outbound::Outbound;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::credentials::twilio;
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
const FORM: [(&str, &str); 3] = [("CallSid", "CA1"), ("AccountSid", "AC1"), ("From", "+1555")];
const FORM_BODY: &str = "CallSid=CA1&AccountSid=AC1&From=%2B1555";
pub(crate) const START: &str = r#"{"type":"start"}"#;

/// Tenants `all`, `few` (of `preview` only), `strict` (with a policy) and `quiet`, whose call is not to be disturbed.
fn config(listener: &str) -> String {
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
fn door(threat: u8, name: &'static str, request: impl Into<String>, outcome: &'static str) -> Row {
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

const DENIED: &str = "401 invalid_api_key";

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

// --- Tokens.

const ISSUER: &str = "https://idp.example/realm";

/// A token with that header and `good` claims but for these changes; `null` takes one away.
fn token(header: &Value, changes: &Value, signature: &[u8]) -> String {
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let mut claims =
        json!({"iss": ISSUER, "aud": "voice", "sub": "s", "iat": now, "exp": now + 300});
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = match value.as_i64() {
            // Seconds from now.
            Some(seconds) => json!(now.saturating_add_signed(seconds)),
            None => value.clone(),
        };
    }
    claims
        .as_object_mut()
        .expect("an object")
        .retain(|_, value| !value.is_null());
    token_of(&header.to_string(), &claims.to_string(), signature)
}

fn token_of(header: &str, claims: &str, signature: &[u8]) -> String {
    let parts = [header.as_bytes(), claims.as_bytes(), signature];
    parts.map(|part| BASE64.encode(part)).join(".")
}

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let made = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).expect("a key")
});

/// A token that the issuer signed, by the key `k1` whatever the header says.
fn signed(header: &Value, changes: &Value) -> String {
    let unsigned = token(header, changes, b"");
    let message = unsigned.trim_end_matches('.');
    let signature = KEY.sign(&SystemRandom::new(), message.as_bytes());
    format!("{message}.{}", BASE64.encode(signature.expect("signed")))
}

/// The issuer's key set, for as long as the process lives.
fn serve_keys() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (x, y) = KEY.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (BASE64.encode(x), BASE64.encode(y));
    let set =
        json!({"keys": [{"kty": "EC", "kid": "k1", "crv": "P-256", "x": x, "y": y}]}).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let length = set.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all((head + &set).as_bytes());
        }
    });
    address
}

/// While this waits for the real network, simulated time stands still.
async fn with_network<T>(work: impl Future<Output = T>) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    // The clock does not run ahead while there is blocking work.
    let held = tokio::task::spawn_blocking(move || wait.recv().is_ok());
    let result = work.await;
    drop(done);
    held.await.expect("no panic");
    result
}

async fn fetch_keys(world: &World, stop: CancellationToken) {
    let metrics = Arc::clone(world.gateway.metrics());
    let keeper = world.auth.keep_keys_fresh(Outbound::new(), metrics, stop);
    TaskTracker::new().spawn(keeper);
    with_network(async {
        while world.metric(FETCHES) < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

const FETCHES: &str =
    r#"trunkline_signing_key_fetches_total{issuer="https://idp.example/realm",outcome="ok"}"#;

/// Such a token, with the issuer's keys at hand; the outcome is that of the last.
fn with_keys(name: &'static str, outcome: &'static str, fetches: f64, tokens: Vec<String>) -> Row {
    let row = Row::new(8, name, outcome, move |world| {
        let tokens = tokens.clone();
        async move {
            let mut told = String::new();
            for token in tokens {
                let request = upgrade_request(GA, &format!("authorization: Bearer {token}\r\n"));
                told = with_network(ask(world, &request)).await;
            }
            told
        }
        .boxed_local()
    });
    let row = Row {
        has_issuer: true,
        ..row
    };
    row.counted(FETCHES, fetches)
}

#[tokio::test(start_paused = true)]
async fn by_tokens_of_a_reachable_issuer() {
    let es256 = |kid: &str| json!({"alg": "ES256", "kid": kid});
    let good = signed(&es256("k1"), &json!({}));
    let [header, _, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("a token has three parts");
    };
    let other = token(&es256("k1"), &json!({"sub": "admin"}), b"");
    let tampered = format!(
        "{header}.{}.{signature}",
        other.split('.').nth(1).expect("claims")
    );
    let flood = (0..50).map(|n| signed(&es256(&format!("k{}", 100 + n)), &json!({})));
    let good = format!("authorization: Bearer {good}\r\n");
    let counted = r#"trunkline_auth_denied_total{reason="unknown_signing_key",route="realtime"}"#;
    play(vec![
        with_keys("tampered payload", DENIED, 1.0, vec![tampered])
            .denied("realtime", "bad_signature"),
        with_keys(
            "signature of zeros",
            DENIED,
            1.0,
            vec![token(&es256("k1"), &json!({}), &[0; 64])],
        )
        .denied("realtime", "bad_signature"),
        with_keys(
            "HS256 keyed with the issuer's public key",
            DENIED,
            1.0,
            vec![hs256()],
        )
        .denied("realtime", "bad_algorithm"),
        with_keys(
            "another algorithm than the key's",
            DENIED,
            1.0,
            vec![signed(&json!({"alg": "RS256", "kid": "k1"}), &json!({}))],
        )
        .denied("realtime", "bad_algorithm"),
        with_keys(
            "unknown kid",
            DENIED,
            2.0,
            vec![signed(&es256("k2"), &json!({}))],
        )
        .denied("realtime", "unknown_signing_key"),
        with_keys("50 unknown kids: one fetch", DENIED, 2.0, flood.collect())
            .counted(counted, 50.0),
        Row {
            has_issuer: true,
            ..Row::new(8, "none: a good token", "101", move |world| {
                let good = good.clone();
                async move {
                    drop(Wire::open_with(world, GA, &good).await);
                    "101".to_owned()
                }
                .boxed_local()
            })
        }
        .counted(FETCHES, 1.0)
        .dials(1),
    ])
    .await;
}

/// What a careless verifier takes: the public key as the secret of an HMAC.
fn hs256() -> String {
    let unsigned = token(&json!({"alg": "HS256", "kid": "k1"}), &json!({}), b"");
    let message = unsigned.trim_end_matches('.');
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.public_key().as_ref());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", BASE64.encode(signature))
}

#[tokio::test(start_paused = true)]
async fn by_tokens() {
    let es256 = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let jwt = |name, header: &Value, changes: Value, reason: &str| {
        let token = token(header, &changes, &[7; 64]);
        let row = door(8, name, upgrade_request(GA, &bearer(&token)), DENIED);
        row.refused("realtime", "invalid_api_key")
            .denied("realtime", reason)
    };
    let duplicate = token_of(
        &es256.to_string(),
        &format!(
            r#"{{"iss":"{ISSUER}","iss":"https://evil.example","aud":"voice","exp":9999999999}}"#
        ),
        &[7; 64],
    );
    play(vec![
        jwt(
            "alg none",
            &json!({"alg": "none"}),
            json!({}),
            "bad_algorithm",
        ),
        jwt(
            "HS256 keyed with a public key",
            &json!({"alg": "HS256", "kid": "k1"}),
            json!({}),
            "bad_algorithm",
        ),
        jwt(
            "key in the token",
            &json!({"alg": "ES256", "jku": "https://evil.example/jwks", "crit": ["jku"]}),
            json!({}),
            "unsupported_token",
        ),
        jwt(
            "wrong audience",
            &es256,
            json!({"aud": "mail"}),
            "wrong_audience",
        ),
        jwt(
            "wrong issuer",
            &es256,
            json!({"iss": "https://idp.example/other"}),
            "wrong_issuer",
        ),
        jwt("expired token", &es256, json!({"exp": -61}), "expired"),
        jwt(
            "token not yet valid",
            &es256,
            json!({"nbf": 120}),
            "not_yet_valid",
        ),
        jwt(
            "token of the future",
            &es256,
            json!({"iat": 120}),
            "not_yet_valid",
        ),
        jwt(
            "token without end",
            &es256,
            json!({"exp": null}),
            "no_expiry",
        ),
        // No key was ever fetched: nobody comes in on trust.
        jwt(
            "token whose key is not known",
            &es256,
            json!({}),
            "keys_unavailable",
        ),
        door(
            8,
            "a claim twice",
            upgrade_request(GA, &bearer(&duplicate)),
            DENIED,
        )
        .refused("realtime", "invalid_api_key")
        .denied("realtime", "malformed_token"),
    ])
    .await;
}

// --- Tickets, ephemeral keys, Twilio's signature.

/// Posts as a known caller, whose source is not the attacker's; the answer's JSON.
async fn post(world: &World, target: &str, more: &str, body: &str) -> (String, Value) {
    let answer = World::ask(world.connect(), &post_request(target, more, body)).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (
        told(&answer),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn post_request(target: &str, more: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
}

async fn ticket(world: &World, more: &str, agent: &str) -> String {
    let body = json!({"agent": agent, "dialect": "audio", "expires_in": 5}).to_string();
    let (told, reply) = post(world, "/v1/tickets", more, &body).await;
    assert_eq!(told, "201", "{reply}");
    reply["ticket"].as_str().expect("a ticket").to_owned()
}

async fn ephemeral_key(world: &World) -> String {
    let after = json!({"anchor": "created_at", "seconds": 10});
    let body = json!({"session": {"type": "realtime", "model": "ga"}, "expires_after": after});
    let (told, reply) = post(world, "/v1/realtime/client_secrets", ALL, &body.to_string()).await;
    assert_eq!(told, "200", "{reply}");
    reply["value"].as_str().expect("a key").to_owned()
}

/// A ticket of `all` for agent `ga` by audio, and a request made of it by `with`.
fn ticket_row(
    name: &'static str,
    route: &'static str,
    reason: &'static str,
    with: fn(String) -> (String, String),
) -> Row {
    Row::new(4, name, DENIED, move |world| {
        async move {
            let (target, more) = with(ticket(world, ALL, "ga").await);
            ask(world, &upgrade_request(&target, &more)).await
        }
        .boxed_local()
    })
    .refused(route, "invalid_api_key")
    .denied(route, reason)
}

/// The same with an ephemeral key for model `ga`.
fn ephemeral_row(
    name: &'static str,
    outcome: &'static str,
    wait: u64,
    request: fn(&str) -> String,
) -> Row {
    Row::new(4, name, outcome, move |world| {
        async move {
            let key = ephemeral_key(world).await;
            sleep(Duration::from_secs(wait)).await;
            ask(world, &request(&format!("authorization: Bearer {key}\r\n"))).await
        }
        .boxed_local()
    })
}

#[tokio::test(start_paused = true)]
async fn by_tickets() {
    let in_path = |ticket: String| (format!("{AUDIO}/{ticket}"), String::new());
    play(vec![
        ticket_row("forged ticket", "audio", "bad_ticket", |mut ticket| {
            let last = ticket.pop().expect("not empty");
            ticket.push(if last == 'A' { 'B' } else { 'A' });
            (format!("{AUDIO}/{ticket}"), String::new())
        }),
        ticket_row("cut ticket", "audio", "bad_ticket", |ticket| {
            (
                format!("{AUDIO}/{}", &ticket[..ticket.len() - 1]),
                String::new(),
            )
        }),
        ticket_row(
            "ticket with more behind it",
            "audio",
            "bad_ticket",
            |ticket| (format!("{AUDIO}/{ticket}AAAA"), String::new()),
        ),
        ticket_row("ticket of another agent", "audio", "misplaced", |ticket| {
            (format!("/v1/audio/preview/{ticket}"), String::new())
        }),
        ticket_row(
            "ticket of another dialect",
            "twilio",
            "misplaced",
            |ticket| (format!("{TWILIO}/{ticket}"), String::new()),
        ),
        ticket_row(
            "ticket of a phone for an SDK",
            "realtime",
            "misplaced",
            |ticket| (GA.to_owned(), format!("api-key: {ticket}\r\n")),
        ),
        ticket_row(
            "ticket beside another tenant's key",
            "audio",
            "contradictory",
            |ticket| {
                (
                    format!("{AUDIO}/{ticket}"),
                    "api-key: key-of-few\r\n".to_owned(),
                )
            },
        ),
        ticket_row("two tickets", "audio", "contradictory", |ticket| {
            (
                format!("{AUDIO}/{ticket}"),
                format!("api-key: {ticket}\r\n"),
            )
        }),
        Row::new(4, "expired ticket", DENIED, move |world| {
            async move {
                let (target, _) = in_path(ticket(world, ALL, "ga").await);
                sleep(Duration::from_secs(5)).await;
                ask(world, &upgrade_request(&target, "")).await
            }
            .boxed_local()
        })
        .questions(4)
        .refused("audio", "invalid_api_key")
        .denied("audio", "expired"),
        Row::new(
            4,
            "replayed ticket",
            "101, 401 invalid_api_key",
            move |world| {
                async move {
                    let (target, _) = in_path(ticket(world, ALL, "ga").await);
                    let first = Wire::open(world, &target).await;
                    let answer = ask(world, &upgrade_request(&target, "")).await;
                    drop(first);
                    format!("101, {answer}")
                }
                .boxed_local()
            },
        )
        .refused("audio", "invalid_api_key")
        .denied("audio", "replayed")
        .dials(1),
        Row::new(4, "one ticket, 20 at once", "1 of 20", move |world| {
            async move {
                let (target, _) = in_path(ticket(world, ALL, "ga").await);
                let request = upgrade_request(&target, "");
                let all = (0..20).map(|_| ask(world, &request));
                let answers = futures_util::future::join_all(all).await;
                let n_in = answers
                    .iter()
                    .filter(|told| told.starts_with("101"))
                    .count();
                format!("{n_in} of {}", answers.len())
            }
            .boxed_local()
        })
        .counted(
            r#"trunkline_auth_denied_total{reason="replayed",route="audio"}"#,
            19.0,
        )
        .questions(4)
        .dials(1),
        Row::new(4, "ticket signed by another secret", DENIED, move |world| {
            async move {
                let other = config("").replace("s3cret", "S3CRET");
                let foreign = ticket(&World::with_config(&other, ""), ALL, "ga").await;
                ask(world, &upgrade_request(&in_path(foreign).0, "")).await
            }
            .boxed_local()
        })
        .refused("audio", "invalid_api_key")
        .denied("audio", "bad_ticket"),
        Row::new(
            27,
            "200 random tickets",
            "60 401, 140 429, others 101",
            move |world| {
                async move {
                    let mut answers = Vec::new();
                    for n in 0..200 {
                        let target = format!("{AUDIO}/tt_{n:043}");
                        answers.push(ask(world, &upgrade_request(&target, "")).await);
                    }
                    let count =
                        |told: &str| answers.iter().filter(|it| it.as_str() == told).count();
                    let (denied, blocked) = (count(DENIED), count("429 too_many_failures"));
                    let mut other = Wire::open_with(world, AUDIO, ALL).await;
                    other.close(1000, "").await;
                    other.until_close().await;
                    format!("{denied} 401, {blocked} 429, others 101")
                }
                .boxed_local()
            },
        )
        .counted(
            r#"trunkline_auth_denied_total{reason="bad_ticket",route="audio"}"#,
            60.0,
        )
        .counted(
            r#"trunkline_calls_refused_total{reason="too_many_failures",route="other"}"#,
            140.0,
        )
        .dials(1),
        Row::new(4, "ticket that asks for tickets", DENIED, |world| {
            async move {
                let more = format!("api-key: {}\r\n", ticket(world, ALL, "ga").await);
                let body = json!({"agent": "ga"}).to_string();
                ask(world, &post_request("/v1/tickets", &more, &body)).await
            }
            .boxed_local()
        })
        .denied("tickets", "misplaced"),
        ephemeral_row("expired ephemeral key", DENIED, 10, |more| {
            upgrade_request(GA, more)
        })
        .questions(5)
        .refused("realtime", "invalid_api_key")
        .denied("realtime", "expired"),
        ephemeral_row(
            "ephemeral key for another model",
            "403 permission_denied",
            0,
            |more| upgrade_request("/openai/v1/realtime?model=preview", more),
        )
        .refused("realtime", "permission_denied"),
        ephemeral_row("ephemeral key that asks for tickets", DENIED, 0, |more| {
            post_request("/v1/tickets", more, r#"{"agent":"ga"}"#)
        })
        .denied("tickets", "misplaced"),
        ephemeral_row("ephemeral key that asks for keys", DENIED, 0, |more| {
            post_request("/v1/realtime/client_secrets", more, "{}")
        })
        .refused("ephemeral_keys", "invalid_api_key")
        .denied("ephemeral_keys", "misplaced"),
        ephemeral_row("ephemeral key on a phone's route", DENIED, 0, |more| {
            upgrade_request(AUDIO, more)
        })
        .refused("audio", "invalid_api_key")
        .denied("audio", "misplaced"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn by_signatures() {
    let stream = "wss://voice.example.com/twilio/media/ga";
    let voice = "https://voice.example.com/twilio/voice/ga";
    let upgrade = |name, more: String, reason: &str| {
        door(6, name, upgrade_request(TWILIO, &more), DENIED)
            .refused("twilio", "invalid_api_key")
            .denied("twilio", reason)
    };
    let webhook = |name, more: String, body: &str, reason: &str| {
        door(6, name, post_request(VOICE, &more, body), DENIED)
            .refused("twilio", "invalid_api_key")
            .denied("twilio", reason)
    };
    let good = twilio("12345", voice, &FORM);
    let evil = twilio("12345", "https://evil.example/twilio/voice/ga", &FORM);
    play(vec![
        upgrade("stream without signature", String::new(), "missing"),
        upgrade(
            "stream signed by another token",
            twilio("99999", stream, &[]),
            "bad_signature",
        ),
        upgrade(
            "stream signed as https://",
            twilio("12345", &stream.replace("wss", "https"), &[]),
            "bad_signature",
        ),
        upgrade(
            "stream signed for another path",
            twilio("12345", &stream.replace("ga", "preview"), &[]),
            "bad_signature",
        ),
        upgrade(
            "bad signature beside a good key",
            format!("{}{ALL}", twilio("99999", stream, &[])),
            "bad_signature",
        ),
        upgrade(
            "two signatures",
            format!(
                "{}{}",
                twilio("12345", stream, &[]),
                twilio("99999", stream, &[])
            ),
            "bad_signature",
        ),
        upgrade(
            "empty signature",
            "X-Twilio-Signature: \r\n".to_owned(),
            "bad_signature",
        ),
        webhook(
            "webhook without signature",
            String::new(),
            FORM_BODY,
            "missing",
        ),
        webhook(
            "webhook with a key and no signature",
            ALL.to_owned(),
            FORM_BODY,
            "missing",
        ),
        webhook(
            "webhook whose form was changed",
            good.clone(),
            &FORM_BODY.replace("1555", "1666"),
            "bad_signature",
        ),
        webhook(
            "webhook with one field more",
            good,
            &format!("{FORM_BODY}&To=x"),
            "bad_signature",
        ),
        webhook(
            "webhook of another host",
            format!("X-Forwarded-Host: evil.example\r\n{evil}"),
            FORM_BODY,
            "bad_signature",
        ),
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
