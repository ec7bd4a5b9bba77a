//! Credentials that the gateway makes itself, and those of providers: tickets, ephemeral keys, Twilio's signature.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};
use sha1::Sha1;
use tokio::time::sleep;
use trunkline::auth::hash_key;

use crate::harness::{CONFIG, World};
use crate::wire::{Wire, upgrade_request};

const ALL: &str = "api-key: key-of-all\r\n";
const FEW: &str = "authorization: Bearer key-of-few\r\n";

/// Tenants `all` and `few`, who reaches only what is called `preview`; tickets; one call at a time if `max_calls` is 1.
fn config(max_calls: u32, more: &str) -> String {
    let key = |tenant: &str| {
        let hash = hash_key(&format!("key-of-{tenant}"));
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n")
    };
    let auth = format!(
        "mode = 'keys'\n[auth.signing]\nsecret = 's3cret-of-exactly-thirty-two-byt'\n\
         [auth.ephemeral_keys]\nmax_keys_per_tenant = 4\n{}{}",
        key("all"),
        key("few")
    );
    format!(
        "{}\n[listener]\npublic_url = 'wss://voice.example.com'\nmax_calls = {max_calls}\n\
         # All come at the same simulated instant.\n[listener.limits]\ncalls_per_second_per_tenant = 0\n\
         [tenants.all]\n[tenants.few]\nagents = ['preview']\nmodels = ['preview']\n{more}",
        CONFIG.replace("mode = \"none\"", &auth)
    )
}

/// Posts and closes; the answer's status, head and body.
async fn post(world: &World, target: &str, more: &str, body: &str) -> (u16, String, String) {
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    let answer = world.http(&request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head[9..12].parse().expect("a status");
    (status, head.to_owned(), body.to_owned())
}

async fn post_json(world: &World, target: &str, more: &str, body: &Value) -> (u16, Value) {
    let (status, head, body) = post(world, target, more, &body.to_string()).await;
    let is_kept_by_nobody = head.contains("cache-control: no-store");
    assert!(status >= 400 || is_kept_by_nobody, "{head}");
    assert!(
        status < 400 || head.contains("x-trunkline-error: "),
        "{head}"
    );
    (status, serde_json::from_str(&body).expect("JSON"))
}

async fn ticket(world: &World, dialect: &str, agent: &str) -> String {
    let body = json!({"agent": agent, "dialect": dialect});
    let (status, reply) = post_json(world, "/v1/tickets", ALL, &body).await;
    assert_eq!(status, 201, "{reply}");
    reply["ticket"].as_str().expect("a ticket").to_owned()
}

/// Opens a call by an upgrade that is answered, and ends it.
async fn answered(world: &World, target: &str, more: &str) {
    let mut wire = Wire::open_with(world, target, more).await;
    wire.close(1000, "").await;
    wire.until_close().await;
}

/// An upgrade that is refused before anything is dialled.
async fn refused(world: &World, target: &str, more: &str, status: u16) {
    let before = world.simulator.n_upgrades();
    let answer = world.http(&upgrade_request(target, more)).await;
    let start = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&start), "{target} {more}: {answer}");
    assert_eq!(world.simulator.n_upgrades(), before, "{target} {more}");
}

fn denied(world: &World, route: &str, reason: &str) -> f64 {
    world.metric(&format!(
        r#"trunkline_auth_denied_total{{reason="{reason}",route="{route}"}}"#
    ))
}

#[tokio::test(start_paused = true)]
async fn a_ticket_opens_one_call_whatever_carries_it() {
    let world = World::with_config(&config(100, ""), "");
    type Carry = fn(&str, &str) -> (String, String);
    let in_path: Carry = |path, ticket| (format!("{path}/{ticket}"), String::new());
    let others: [Carry; 4] = [
        |path, ticket| (format!("{path}?ticket={ticket}"), String::new()),
        |path, ticket| (path.to_owned(), format!("api-key: {ticket}\r\n")),
        |path, ticket| {
            (
                path.to_owned(),
                format!("authorization: Bearer {ticket}\r\n"),
            )
        },
        |path, ticket| {
            let protocols = format!("realtime, openai-insecure-api-key.{ticket}");
            (
                path.to_owned(),
                format!("sec-websocket-protocol: {protocols}\r\n"),
            )
        },
    ];
    for (dialect, path) in [
        ("twilio", "/twilio/media/ga"),
        ("audio", "/v1/audio/ga"),
        ("realtime", "/v1/realtime"),
    ] {
        let path_too = [in_path].into_iter().filter(|_| dialect != "realtime");
        let mut n = 0.0;
        for carry in others.into_iter().chain(path_too) {
            let (target, more) = carry(path, &ticket(&world, dialect, "ga").await);
            answered(&world, &target, &more).await;
            refused(&world, &target, &more, 401).await;
            n += 1.0;
            assert_eq!(denied(&world, dialect, "replayed"), n, "{target}");
        }
    }
    let made = r#"trunkline_credentials_made_total{kind="ticket",tenant="all"}"#;
    assert_eq!(world.metric(made), 14.0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_who_come_with_one_ticket_one_gets_in() {
    let world = World::with_config(&config(100, ""), "");
    let target = format!("/v1/audio/ga/{}", ticket(&world, "audio", "ga").await);
    let request = upgrade_request(&target, "");
    let ask = async || world.http(&request).await.starts_with("HTTP/1.1 101 ");
    let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
    let n_in = [a, b, c, d].into_iter().filter(|&is_in| is_in).count();
    assert_eq!((n_in, world.simulator.n_upgrades()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_at_its_place_only_and_not_spent_elsewhere() {
    let world = World::with_config(&config(100, ""), "");
    let ticket = ticket(&world, "audio", "ga").await;
    let header = format!("api-key: {ticket}\r\n");
    refused(&world, &format!("/v1/audio/preview/{ticket}"), "", 401).await;
    refused(&world, &format!("/twilio/media/ga/{ticket}"), "", 401).await;
    refused(&world, "/v1/realtime?model=ga", &header, 401).await;
    for target in ["/v1/tickets", "/v1/realtime/client_secrets"] {
        let (status, _) = post_json(&world, target, &header, &json!({"agent": "ga"})).await;
        assert_eq!(status, 401, "{target}");
    }
    let (status, ..) = post(
        &world,
        "/twilio/voice/ga",
        &header,
        "CallSid=C&AccountSid=A",
    )
    .await;
    assert_eq!(status, 401);
    // Neither is it good beside somebody else's key, or a second one.
    refused(&world, &format!("/v1/audio/ga/{ticket}"), FEW, 401).await;
    refused(&world, &format!("/v1/audio/ga/{ticket}"), &header, 401).await;
    assert_eq!(denied(&world, "audio", "misplaced"), 1.0);
    assert_eq!(denied(&world, "audio", "contradictory"), 2.0);
    answered(&world, &format!("/v1/audio/ga/{ticket}"), ALL).await;
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn bad_and_old_tickets_open_nothing() {
    let world = World::with_config(&config(100, ""), "");
    let good = ticket(&world, "audio", "ga").await;
    let mut forged = good.clone();
    let last = forged.pop().expect("not empty");
    forged.push(if last == 'A' { 'B' } else { 'A' });
    for bad in [
        &good[..good.len() - 1],
        &forged,
        "tt_",
        "tt_a.b",
        "nonsense",
    ] {
        refused(&world, &format!("/v1/audio/ga/{bad}"), "", 401).await;
    }
    assert_eq!(denied(&world, "audio", "bad_ticket"), 5.0);
    sleep(Duration::from_secs(60)).await;
    refused(&world, &format!("/v1/audio/ga/{good}"), "", 401).await;
    assert_eq!(denied(&world, "audio", "expired"), 1.0);
    // Another gateway, with another secret.
    let other = World::with_config(&config(100, "").replace("s3cret", "S3CRET"), "");
    let foreign = ticket(&other, "audio", "ga").await;
    refused(&world, &format!("/v1/audio/ga/{foreign}"), "", 401).await;
    // After a rotation its tickets are good for their time.
    let rotated = "[auth.signing]\nprevious_secret = 'S3CRET-of-exactly-thirty-two-byt'";
    let rotated = config(100, "").replace("[auth.signing]", rotated);
    let world = World::with_config(&rotated, "");
    answered(&world, &format!("/v1/audio/ga/{foreign}"), "").await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_keeps_the_ticket() {
    let world = World::with_config(&config(1, ""), "");
    let target = format!("/v1/audio/ga/{}", ticket(&world, "audio", "ga").await);
    let mut first = Wire::open_with(&world, "/v1/audio/ga", ALL).await;
    refused(&world, &target, "", 503).await;
    first.close(1000, "").await;
    first.until_close().await;
    world.ended(1).await;
    answered(&world, &target, "").await;
    refused(&world, &target, "", 401).await;
}

#[tokio::test(start_paused = true)]
async fn tickets_are_made_for_those_who_may() {
    let world = World::with_config(&config(100, ""), "");
    let check = async |more: &str, body: Value, status: u16| {
        let (found, reply) = post_json(&world, "/v1/tickets", more, &body).await;
        assert_eq!(found, status, "{more} {body}: {reply}");
    };
    let body = json!({"agent": "preview", "dialect": "audio", "expires_in": 30});
    check(FEW, body.clone(), 201).await;
    check("", body.clone(), 401).await;
    check("api-key: key-of-nobody\r\n", body.clone(), 401).await;
    check(
        "api-key: key-of-all\r\nOrigin: https://app.example.com\r\n",
        body,
        403,
    )
    .await;
    check(FEW, json!({"agent": "ga"}), 403).await;
    check(FEW, json!({"agent": "ga", "dialect": "realtime"}), 403).await;
    check(FEW, json!({"agent": "preview", "dialect": "realtime"}), 201).await;
    check(ALL, json!({"agent": "nobody"}), 404).await;
    check(ALL, json!({"agent": "nothing", "dialect": "realtime"}), 404).await;
    check(ALL, json!({"agent": "ga", "dialect": "smoke"}), 400).await;
    for life in [json!(0), json!(61), json!(-1), json!(1.5), json!("30")] {
        check(ALL, json!({"agent": "ga", "expires_in": life}), 400).await;
    }
    check(ALL, json!({"agent": "ga", "tenant": "few"}), 400).await;
    check(ALL, json!({}), 400).await;
    check(ALL, json!(["x".repeat(5000)]), 400).await;
    let body = json!({"agent": "ga", "expires_in": 60});
    let (_, reply) = post_json(&world, "/v1/tickets", ALL, &body).await;
    let ticket = reply["ticket"].as_str().expect("a ticket");
    let url = format!("wss://voice.example.com/twilio/media/ga/{ticket}");
    assert_eq!(reply["url"], url);
    assert!(reply["expires_at"].is_u64());
    // Without a secret there are none.
    let world = World::new("");
    let (status, _) = post_json(&world, "/v1/tickets", "", &body).await;
    assert_eq!(status, 404);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_key_opens_its_model_until_it_expires() {
    let world = World::with_config(&config(100, ""), "");
    let after = json!({"anchor": "created_at", "seconds": 30});
    let ga = json!({"session": {"type": "realtime", "model": "ga"}, "expires_after": after});
    let preview =
        json!({"model": "ga", "voice": "verse", "client_secret": {"expires_after": after}});
    for (target, body) in [
        ("/v1/realtime/client_secrets", &ga),
        ("/openai/v1/realtime/client_secrets", &ga),
        ("/v1/realtime/sessions", &preview),
        (
            "/openai/realtimeapi/sessions?api-version=2025-04-01-preview",
            &preview,
        ),
    ] {
        let (status, reply) = post_json(&world, target, ALL, body).await;
        assert_eq!(status, 200, "{reply}");
        let secret = if reply["value"].is_string() {
            &reply
        } else {
            &reply["client_secret"]
        };
        let key = secret["value"].as_str().expect("a key");
        assert!(
            key.starts_with("ek_") && secret["expires_at"].is_u64(),
            "{reply}"
        );
        let bearer = format!("authorization: Bearer {key}\r\n");
        let protocol =
            format!("sec-websocket-protocol: realtime, openai-insecure-api-key.{key}\r\n");
        answered(&world, "/v1/realtime", &bearer).await;
        answered(&world, "/v1/realtime?model=ga", &protocol).await;
        answered(
            &world,
            &format!("/openai/v1/realtime?model=ga&api-key={key}"),
            "",
        )
        .await;
        refused(&world, "/v1/realtime?model=preview", &bearer, 403).await;
        refused(
            &world,
            "/v1/realtime?model=ga&intent=transcription",
            &bearer,
            403,
        )
        .await;
        for phone in ["/v1/audio/ga", "/twilio/media/ga"] {
            refused(&world, phone, &bearer, 401).await;
        }
        for mint in ["/v1/tickets", "/v1/realtime/client_secrets"] {
            let (status, _) = post_json(&world, mint, &bearer, &json!({"agent": "ga"})).await;
            assert_eq!(status, 401, "{mint}");
        }
        // A session that it opened outlives it.
        let mut running = Wire::open_with(&world, "/v1/realtime", &bearer).await;
        running.until("session.created").await;
        tokio::select! {
            // Who reads answers pings.
            heard = running.next() => panic!("{heard:?}"),
            () = sleep(Duration::from_secs(30)) => {}
        }
        refused(&world, "/v1/realtime", &bearer, 401).await;
        running
            .send(json!({"type": "input_audio_buffer.clear"}))
            .await;
        running.until("input_audio_buffer.cleared").await;
        running.close(1000, "").await;
        running.until_close().await;
    }
    assert_eq!(denied(&world, "realtime", "expired"), 4.0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn ephemeral_keys_are_made_for_those_who_may_and_not_without_end() {
    let world = World::with_config(&config(100, ""), "");
    let secrets = "/v1/realtime/client_secrets";
    let body = |model: &str| json!({"session": {"type": "realtime", "model": model}});
    let check = async |more: &str, body: Value, status: u16| {
        let (found, reply) = post_json(&world, secrets, more, &body).await;
        assert_eq!(found, status, "{more} {body}: {reply}");
        reply
    };
    check("", body("ga"), 401).await;
    check(FEW, body("ga"), 403).await;
    check(ALL, body("nothing"), 404).await;
    check("api-key: key-of-all\r\nOrigin: null\r\n", body("ga"), 403).await;
    let reply = check(
        ALL,
        json!({"session": {"type": "realtime", "voice": "a"}}),
        400,
    )
    .await;
    assert_eq!(reply["error"]["code"], "unknown_parameter");
    let reply = post_json(&world, &format!("/openai{secrets}"), "", &body("ga")).await;
    assert_eq!(reply.1["error"]["code"], "401", "Azure's style");
    // Without a model it is for any that the tenant may use, and the caller has to say which.
    let reply = check(FEW, json!({}), 200).await;
    let key = format!("api-key: {}\r\n", reply["value"].as_str().expect("a key"));
    refused(&world, "/v1/realtime", &key, 400).await;
    refused(&world, "/v1/realtime?model=ga", &key, 403).await;
    answered(&world, "/v1/realtime?model=preview", &key).await;
    for _ in 0..3 {
        check(FEW, body("preview"), 200).await;
    }
    check(FEW, body("preview"), 429).await;
    check(ALL, body("preview"), 200).await;
    let made = r#"trunkline_credentials_made_total{kind="ephemeral_key",tenant="few"}"#;
    assert_eq!(world.metric(made), 4.0);
    sleep(Duration::from_secs(600)).await;
    check(FEW, body("preview"), 200).await;
}

/// What Twilio signs by that token.
pub(crate) fn twilio(token: &str, url: &str, form: &[(&str, &str)]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(token.as_bytes()).expect("any length");
    mac.update(url.as_bytes());
    let mut form = form.to_vec();
    form.sort_unstable();
    for (name, value) in form {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    format!("X-Twilio-Signature: {signature}\r\n")
}

const FORM: [(&str, &str); 3] = [("CallSid", "CA1"), ("AccountSid", "AC1"), ("From", "+1555")];
const FORM_BODY: &str = "CallSid=CA1&AccountSid=AC1&From=%2B1555";
const ACCOUNTS: &str = "[[twilio.accounts]]\ntenant = 'all'\nauth_token = '12345'\nsecond_auth_token = '12346'\n\
    [[twilio.accounts]]\ntenant = 'few'\nagents = ['preview']\nauth_token = '54321'\n";

/// The address of the stream in an answer.
fn stream(twiml: &str) -> &str {
    let (_, rest) = twiml
        .split_once("<Stream url=\"wss://voice.example.com")
        .expect("a stream");
    rest.split_once('"').expect("a URL").0
}

/// The headers of a webhook that Telnyx sends at that time, by the key of the telephony reference (2.2).
fn telnyx(seconds: u64, body: &str) -> String {
    let seed: Vec<u8> = (0..32).collect();
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes");
    let signature = STANDARD.encode(key.sign(format!("{seconds}|{body}").as_bytes()));
    format!("telnyx-signature-ed25519: {signature}\r\ntelnyx-timestamp: {seconds}\r\n")
}

#[tokio::test(start_paused = true)]
async fn telnyx_is_known_by_its_signature() {
    let account = "[[providers.telnyx.accounts]]\ntenant = 'few'\n\
                   public_key = 'A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg='\n";
    let world = World::with_config(&config(100, account), "");
    let webhook = async |target: &str, more: &str| post(&world, target, more, FORM_BODY).await;
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_secs();
    let good = telnyx(now, FORM_BODY);
    let (status, _, texml) = webhook("/telnyx/voice/preview", &good).await;
    assert_eq!(status, 200, "{texml}");
    assert!(
        texml.contains(r#"" bidirectionalMode="rtp" bidirectionalCodec="PCMU"/>"#),
        "{texml}"
    );
    let target = stream(&texml);
    assert!(target.starts_with("/telnyx/media/preview/tt_"), "{texml}");
    answered(&world, target, "").await;
    refused(&world, target, "", 401).await;
    assert_eq!(denied(&world, "telnyx", "replayed"), 1.0);
    for (headers, reason) in [
        (String::new(), "missing"),
        (telnyx(now, "CallSid=CA2"), "bad_signature"),
        (telnyx(now - 1_000, FORM_BODY), "expired"),
    ] {
        let (status, _, _) = webhook("/telnyx/voice/preview", &headers).await;
        assert_eq!(status, 401, "{headers}");
        assert_eq!(denied(&world, "telnyx", reason), 1.0, "{reason}");
    }
    // The tenant may not reach this one, and nobody is there by default.
    assert_eq!(webhook("/telnyx/voice/ga", &good).await.0, 403);
    assert_eq!(webhook("/telnyx/voice", &good).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn twilio_is_known_by_its_signature() {
    let world = World::with_config(&config(100, ACCOUNTS), "");
    let webhook = async |target: &str, more: &str| post(&world, target, more, FORM_BODY).await;
    let voice = "https://voice.example.com/twilio/voice/ga";
    for url in [
        voice,
        "https://voice.example.com:443/twilio/voice/ga",
        "https://voice.example.com/twilio/voice/ga/",
    ] {
        let (status, head, twiml) = webhook("/twilio/voice/ga", &twilio("12345", url, &FORM)).await;
        assert_eq!(status, 200, "{twiml}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let target = stream(&twiml);
        let (path, ticket) = target.rsplit_once('/').expect("a path");
        assert!(
            path == "/twilio/media/ga" && ticket.starts_with("tt_"),
            "{twiml}"
        );
        // Twilio signs the stream as well; both must be good.
        let url = format!("wss://voice.example.com{target}");
        refused(&world, target, &twilio("54321", &url, &[]), 401).await;
        answered(&world, target, &twilio("12345", &url, &[])).await;
        refused(&world, target, &twilio("12345", &url, &[]), 401).await;
    }
    assert_eq!(denied(&world, "twilio", "replayed"), 3.0);
    let (status, _, twiml) = webhook("/twilio/voice/ga", &twilio("12346", voice, &FORM)).await;
    assert_eq!(status, 200);
    answered(&world, stream(&twiml), "").await;
    // No signature, another's, of another address, of another form, of an agent that the account may not reach.
    let evil = "https://evil.example/twilio/voice/ga";
    let spoofed = format!(
        "X-Forwarded-Host: evil.example\r\n{}",
        twilio("12345", evil, &FORM)
    );
    for headers in [
        String::new(),
        ALL.to_owned(),
        twilio("99999", voice, &FORM),
        twilio("12345", evil, &FORM),
        spoofed,
        twilio("12345", voice, &FORM[..2]),
        twilio("12345", &voice.replace("https", "wss"), &FORM),
        twilio("54321", voice, &FORM),
        "X-Twilio-Signature: \r\n".to_owned(),
    ] {
        let (status, _, body) = webhook("/twilio/voice/ga", &headers).await;
        assert_eq!(status, 401, "{headers}: {body}");
    }
    let preview = "https://voice.example.com/twilio/voice/preview";
    let (status, _, twiml) =
        webhook("/twilio/voice/preview", &twilio("54321", preview, &FORM)).await;
    assert_eq!(status, 200);
    answered(&world, stream(&twiml), "").await;
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_let_in_by_signature_or_ticket_or_key() {
    let world = World::with_config(&config(100, ACCOUNTS), "");
    let media = "wss://voice.example.com/twilio/media/ga";
    answered(&world, "/twilio/media/ga", &twilio("12345", media, &[])).await;
    answered(
        &world,
        "/twilio/media/ga",
        &twilio("12345", &format!("{media}/"), &[]),
    )
    .await;
    answered(&world, "/twilio/media/ga/", &twilio("12345", media, &[])).await;
    answered(&world, "/twilio/media/ga", ALL).await;
    refused(&world, "/twilio/media/ga", "", 401).await;
    let https = media.replace("wss", "https");
    for signature in [
        twilio("99999", media, &[]),
        twilio("12345", &https, &[]),
        twilio("54321", media, &[]),
    ] {
        refused(&world, "/twilio/media/ga", &signature, 401).await;
        // What else is good makes a bad signature no better.
        refused(
            &world,
            "/twilio/media/ga",
            &format!("{ALL}{signature}"),
            401,
        )
        .await;
    }
    assert_eq!(denied(&world, "twilio", "bad_signature"), 6.0);
    // For another dialect it is no proof.
    let audio = twilio("12345", "wss://voice.example.com/v1/audio/ga", &[]);
    refused(&world, "/v1/audio/ga", &audio, 401).await;
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn without_accounts_a_webhook_needs_a_key() {
    let world = World::with_config(&config(100, ""), "");
    let (status, head, _) = post(&world, "/twilio/voice/ga", "", FORM_BODY).await;
    assert_eq!(status, 401, "{head}");
    // Twilio can be given a key in the webhook's address, and the stream then comes with a ticket.
    let (status, _, twiml) =
        post(&world, "/twilio/voice/ga?api-key=key-of-all", "", FORM_BODY).await;
    assert_eq!(status, 200);
    answered(&world, stream(&twiml), "").await;
    let (status, ..) = post(&world, "/twilio/voice/ga?api-key=key-of-few", "", FORM_BODY).await;
    assert_eq!(status, 403);
    let (status, ..) = post(
        &world,
        "/twilio/voice/ga",
        "Origin: https://a.example\r\n",
        FORM_BODY,
    )
    .await;
    assert_eq!(status, 403);
}
