//! Each limit of the door at its edge and one beyond: what is refused, what it is told, what is counted.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use trunkline::auth::hash_key;
use trunkline::listener::Signals;

use crate::harness::{CONFIG, World};
use crate::wire::upgrade_request;

const CALL: &str = "/v1/realtime?model=ga";

const ALICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BOB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const CAROL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n";

fn world(more: &str) -> World {
    World::with_config(&format!("{CONFIG}\n{more}\n"), "")
}

/// Callers `alice` and `bob` with keys `key-of-alice` and `key-of-bob`.
fn world_with_keys(more: &str) -> World {
    let key = |tenant: &str| {
        let hash = hash_key(&format!("key-of-{tenant}"));
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n")
    };
    let keys = format!("mode = \"keys\"\n{}{}", key("alice"), key("bob"));
    let config = CONFIG.replace("mode = \"none\"", &keys);
    World::with_config(
        &format!("{config}\n[tenants.alice]\n[tenants.bob]\n{more}\n"),
        "",
    )
}

/// Asks on a new connection from that address and reads the head of the answer; the connection stays open.
async fn ask(world: &World, from: impl Into<IpAddr>, request: &str) -> (String, DuplexStream) {
    let mut stream = world.connect_from(from);
    let head = head(&mut stream, request).await;
    (head, stream)
}

async fn head(stream: &mut DuplexStream, request: &str) -> String {
    // Whoever was turned away at once has an answer and nobody who listens.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(head).expect("a head is ASCII");
    let length = header(&head, "content-length").map_or(0, |it| it.parse().expect("a number"));
    let mut body = vec![0; length];
    if !head.starts_with("HTTP/1.1 101 ") {
        stream.read_exact(&mut body).await.expect("a body");
    }
    head
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[track_caller]
fn check(head: &str, status: u16, code: &str) {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let expected = (!code.is_empty()).then_some(code);
    assert_eq!(header(head, "x-trunkline-error"), expected, "{head}");
}

/// From 1 to 5 s, because whoever is refused together should not come again together.
#[track_caller]
fn check_jitter(head: &str) {
    let wait = header(head, "retry-after-ms").and_then(|wait| wait.parse().ok());
    assert!(
        wait.is_some_and(|ms: u64| (1000..=5000).contains(&ms)),
        "{head}"
    );
}

#[track_caller]
fn check_refused(world: &World, route: &str, reason: &str, n: f64) {
    let line = format!(r#"trunkline_calls_refused_total{{reason="{reason}",route="{route}"}}"#);
    assert_eq!(world.metric(&line), n, "{line}");
}

#[track_caller]
fn check_ended(world: &World, reason: &str, n: f64) {
    let line = format!(r#"trunkline_connections_ended_total{{reason="{reason}"}}"#);
    assert_eq!(world.metric(&line), n, "{line}");
}

/// How long it takes until the gateway closes the connection.
async fn closed_after(mut stream: DuplexStream) -> Duration {
    let asked = Instant::now();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(100), stream.read_to_end(&mut rest));
    closed.await.expect("it is closed").expect("readable");
    asked.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_request_has_a_size() {
    let world = world("");
    let target = |n: usize| format!("/{}", "x".repeat(n - 1));
    let get =
        |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n{more}\r\n");
    let (at_limit, _) = ask(&world, ALICE, &get(&target(4096), "")).await;
    check(&at_limit, 404, "not_found");
    let (beyond, _) = ask(&world, ALICE, &get(&target(4097), "")).await;
    check(&beyond, 414, "target_too_long");
    let query = format!("/?{}", "x".repeat(4095));
    check(
        &ask(&world, ALICE, &get(&query, "")).await.0,
        414,
        "target_too_long",
    );
    check_refused(&world, "other", "target_too_long", 2.0);
    // With `Host`, 64 and 65.
    for (n, status, code) in [(63, 404, "not_found"), (64, 431, "")] {
        let (answer, _) = ask(&world, ALICE, &get("/", &"x: y\r\n".repeat(n))).await;
        check(&answer, status, code);
    }
    for (n, status, code) in [(15, 404, "not_found"), (17, 431, "")] {
        let big = format!("x: {}\r\n", "y".repeat(n * 1024));
        check(&ask(&world, ALICE, &get("/", &big)).await.0, status, code);
    }
    sleep(Duration::from_secs(1)).await;
    check_ended(&world, "head_too_large", 2.0);
}

#[tokio::test(start_paused = true)]
async fn nobody_unknown_stays() {
    for (config, request, expected, reason) in [
        // Who says nothing, or begins and does not end.
        ("", "", 5, "head_timeout"),
        (
            "[listener]\nhead_timeout = '2s'",
            "GET /",
            2,
            "head_timeout",
        ),
        (
            "[listener.limits]\nunauthenticated = '3s'",
            "GET /",
            3,
            "unauthenticated",
        ),
        (
            "[listener]\nhead_timeout = '30s'\n[listener.limits]\nunauthenticated = '30s'\nupgrade = '4s'",
            "GET /",
            4,
            "unauthenticated",
        ),
        // Who has been answered and is still nobody.
        (
            "[listener.limits]\nunauthenticated = '3s'",
            LIVEZ,
            3,
            "unauthenticated",
        ),
        ("[listener]\nhead_timeout = '2s'", LIVEZ, 2, "idle"),
    ] {
        let world = world(config);
        let mut stream = world.connect_from(ALICE);
        stream.write_all(request.as_bytes()).await.expect("written");
        assert_eq!(
            closed_after(stream).await.as_secs(),
            expected,
            "{config} {request}"
        );
        check_ended(&world, reason, 1.0);
    }
    // A byte each second does not help.
    let world = world("");
    let (mut reader, mut writer) = tokio::io::split(world.connect_from(ALICE));
    let asked = Instant::now();
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reader.read_to_end(&mut answer) => {}
    }
    assert_eq!(asked.elapsed().as_secs(), 5);
    assert_eq!(world.simulator.n_upgrades(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_number_of_requests() {
    let world = world("[listener.limits]\nrequests_per_connection = 3");
    let mut stream = world.connect_from(ALICE);
    for n in 1..=3 {
        let answer = head(&mut stream, LIVEZ).await;
        check(&answer, 200, "");
        let connection = header(&answer, "connection");
        assert_eq!(connection, (n == 3).then_some("close"), "{n}: {answer}");
    }
    assert_eq!(closed_after(stream).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_source_has_a_number_of_connections() {
    let world = world("[listener.limits]\nconnections_per_source = 2");
    let first = world.connect_from(ALICE);
    let _second = world.connect_from(ALICE);
    let (refused, _) = ask(&world, ALICE, LIVEZ).await;
    check(&refused, 503, "too_many_from_source");
    check_refused(&world, "other", "too_many_from_source", 1.0);
    check(&ask(&world, BOB, LIVEZ).await.0, 200, "");
    drop(first);
    sleep(Duration::from_secs(1)).await;
    check(&ask(&world, ALICE, LIVEZ).await.0, 200, "");
    // All of a /64 is one source.
    let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
    let _third = world.connect_from(v6("2001:db8::1"));
    let _fourth = world.connect_from(v6("2001:db8::2"));
    let (refused, _) = ask(&world, v6("2001:db8::3"), LIVEZ).await;
    check(&refused, 503, "too_many_from_source");
    check(&ask(&world, v6("2001:db8:0:1::1"), LIVEZ).await.0, 200, "");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_known_does_not_count() {
    let world = world("[listener.limits]\nconnections_per_source = 1");
    let mut calls = Vec::new();
    for _ in 0..5 {
        let (answer, stream) = ask(&world, ALICE, &upgrade_request(CALL, "")).await;
        check(&answer, 101, "");
        calls.push(stream);
    }
    drop(calls);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_may_fail_so_often() {
    let world = world_with_keys("[listener.limits]\nfailed_auth_per_minute = 3");
    let with = |key: &str| upgrade_request(CALL, &format!("api-key: {key}\r\n"));
    // What is good does not count.
    for _ in 0..10 {
        check(&ask(&world, ALICE, &with("key-of-alice")).await.0, 101, "");
    }
    for from in [CAROL, ALICE] {
        for _ in 0..3 {
            let (answer, _) = ask(&world, from, &with("guess")).await;
            check(&answer, 401, "invalid_api_key");
        }
    }
    // Somebody behind that address showed a good key just before: the others there are still listened to.
    check(&ask(&world, ALICE, &with("key-of-alice")).await.0, 101, "");
    for key in ["guess", "key-of-alice"] {
        let (answer, _) = ask(&world, CAROL, &with(key)).await;
        check(&answer, 429, "too_many_failures");
        assert_eq!(header(&answer, "retry-after"), Some("20"), "{answer}");
    }
    check_refused(&world, "other", "too_many_failures", 2.0);
    check(&ask(&world, CAROL, LIVEZ).await.0, 200, "");
    check(&ask(&world, BOB, &with("key-of-bob")).await.0, 101, "");
    sleep(Duration::from_secs(20)).await;
    check(&ask(&world, CAROL, &with("key-of-alice")).await.0, 101, "");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn calls_come_at_a_rate() {
    let world = world("[listener.limits]\ncalls_per_second = 3");
    let call = upgrade_request(CALL, "");
    for _ in 0..3 {
        check(&ask(&world, ALICE, &call).await.0, 101, "");
    }
    let (refused, _) = ask(&world, BOB, &call).await;
    check(&refused, 503, "call_rate_exceeded");
    check_jitter(&refused);
    check_refused(&world, "realtime", "call_rate_exceeded", 1.0);
    sleep(Duration::from_millis(400)).await;
    check(&ask(&world, BOB, &call).await.0, 101, "");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn each_tenant_has_its_own_rate() {
    let world = world_with_keys("[listener.limits]\ncalls_per_second_per_tenant = 2");
    let call = |key: &str| upgrade_request("/v1/audio/ga", &format!("api-key: {key}\r\n"));
    for _ in 0..2 {
        check(&ask(&world, ALICE, &call("key-of-alice")).await.0, 101, "");
    }
    // From wherever it calls.
    let (refused, _) = ask(&world, BOB, &call("key-of-alice")).await;
    check(&refused, 503, "tenant_call_rate_exceeded");
    check_jitter(&refused);
    check_refused(&world, "audio", "tenant_call_rate_exceeded", 1.0);
    check(&ask(&world, ALICE, &call("key-of-bob")).await.0, 101, "");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_idle_connection_makes_room() {
    let world = world("[listener]\nmax_connections = 2\nmax_calls = 2");
    let oldest = world.connect_from(ALICE);
    sleep(Duration::from_secs(1)).await;
    let younger = world.connect_from(ALICE);
    sleep(Duration::from_secs(1)).await;
    let (call, first) = ask(&world, BOB, &upgrade_request(CALL, "")).await;
    check(&call, 101, "");
    assert_eq!(closed_after(oldest).await, Duration::ZERO);
    check_ended(&world, "evicted", 1.0);
    let (call, second) = ask(&world, BOB, &upgrade_request(CALL, "")).await;
    check(&call, 101, "");
    assert_eq!(closed_after(younger).await, Duration::ZERO);
    // Calls make no room.
    let (refused, _) = ask(&world, BOB, LIVEZ).await;
    check(&refused, 503, "too_many_connections");
    check_refused(&world, "other", "too_many_connections", 1.0);
    check_ended(&world, "evicted", 2.0);
    drop((first, second));
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn only_a_trusted_proxy_says_who_calls() {
    let proxy = Ipv4Addr::new(10, 1, 0, 1);
    let limits = "[listener]\ntrusted_proxies = ['10.1.0.0/16']\n\
                  [listener.limits]\nfailed_auth_per_minute = 2";
    let world = world_with_keys(limits);
    let with = |from: &str, key: &str| {
        let more = format!("X-Forwarded-For: {from}\r\napi-key: {key}\r\n");
        upgrade_request(CALL, &more)
    };
    for _ in 0..2 {
        let (answer, _) = ask(&world, proxy, &with("192.0.2.1", "guess")).await;
        check(&answer, 401, "invalid_api_key");
    }
    let (blocked, _) = ask(&world, proxy, &with("192.0.2.1", "key-of-alice")).await;
    check(&blocked, 429, "too_many_failures");
    // What the caller itself wrote stands further left.
    let spoofed = with("203.0.113.9, 192.0.2.1", "key-of-alice");
    check(
        &ask(&world, proxy, &spoofed).await.0,
        429,
        "too_many_failures",
    );
    // Everybody else behind the same proxy is listened to.
    let (answer, _) = ask(&world, proxy, &with("198.51.100.7", "key-of-bob")).await;
    check(&answer, 101, "");
    // Who is no proxy speaks for itself only.
    for _ in 0..2 {
        let (answer, _) = ask(&world, BOB, &with("192.0.2.77", "guess")).await;
        check(&answer, 401, "invalid_api_key");
    }
    let (blocked, _) = ask(&world, BOB, &with("192.0.2.78", "key-of-bob")).await;
    check(&blocked, 429, "too_many_failures");
    let (answer, _) = ask(&world, proxy, &with("192.0.2.77", "key-of-bob")).await;
    check(&answer, 101, "");
    // A proxy that does not tell for whom it asks is a source like any other.
    for status in [401, 401, 429] {
        let request = upgrade_request(CALL, "api-key: guess\r\n");
        let (answer, _) = ask(&world, proxy, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn requests_through_a_proxy_are_counted_for_their_source() {
    let proxy = Ipv4Addr::new(10, 1, 0, 1);
    let limits = "[listener]\ntrusted_proxies = ['10.1.0.0/16']\n\
                  [listener.limits]\nconnections_per_source = 1";
    let world = world(limits);
    let form = |from: &str| {
        format!(
            "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\nX-Forwarded-For: {from}\r\nContent-Length: 22\r\n\r\n"
        )
    };
    // The form never comes.
    let mut first = world.connect_from(proxy);
    first
        .write_all(form("192.0.2.1").as_bytes())
        .await
        .expect("written");
    sleep(Duration::from_secs(1)).await;
    let (refused, _) = ask(&world, proxy, &form("192.0.2.1")).await;
    check(&refused, 429, "too_many_from_source");
    let other = format!("{}CallSid=x&AccountSid=y", form("192.0.2.2"));
    let (answer, _) = ask(&world, proxy, &other).await;
    assert_eq!(header(&answer, "x-trunkline-error"), None, "{answer}");
    drop(first);
    sleep(Duration::from_secs(1)).await;
    let again = format!("{}CallSid=x&AccountSid=y", form("192.0.2.1"));
    let (answer, _) = ask(&world, proxy, &again).await;
    assert_eq!(header(&answer, "x-trunkline-error"), None, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn new_calls_are_refused_before_live_ones_suffer() {
    let call = upgrade_request(CALL, "");
    let good = Signals {
        loop_lag: Some(Duration::from_millis(15)),
        memory: Some(0.84),
        descriptors: Some(64),
    };
    let too_late = Some(Duration::from_millis(16));
    for (bad, code) in [
        (
            Signals {
                loop_lag: too_late,
                ..good
            },
            "overloaded_cpu",
        ),
        (
            Signals {
                memory: Some(0.92),
                ..good
            },
            "overloaded_memory",
        ),
        (
            Signals {
                descriptors: Some(63),
                ..good
            },
            "overloaded_descriptors",
        ),
    ] {
        let world = world("");
        world.gateway.observe_load(good);
        let (answer, live) = ask(&world, ALICE, &call).await;
        check(&answer, 101, "");
        world.gateway.observe_load(bad);
        for target in [CALL, "/twilio/media/ga"] {
            let (refused, _) = ask(&world, ALICE, &upgrade_request(target, "")).await;
            check(&refused, 503, code);
            check_jitter(&refused);
        }
        check_refused(&world, "realtime", code, 1.0);
        check_refused(&world, "twilio", code, 1.0);
        // Whose phone rings hears the busy tone.
        let form = "CallSid=x&AccountSid=y";
        let webhook = format!(
            "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        check(&ask(&world, ALICE, &webhook).await.0, 200, "");
        check_refused(&world, "twilio", code, 2.0);
        let shedding = format!(r#"trunkline_shedding{{reason="{code}"}}"#);
        assert_eq!(world.metric(&shedding), 1.0);
        assert_eq!(world.gateway.calls().active(), 1, "the live call lives");
        check(&ask(&world, ALICE, LIVEZ).await.0, 200, "");
        // Good for 2 s.
        world.gateway.observe_load(Signals::default());
        check(&ask(&world, ALICE, &call).await.0, 503, code);
        sleep(Duration::from_secs(2)).await;
        world.gateway.observe_load(Signals::default());
        check(&ask(&world, ALICE, &call).await.0, 101, "");
        assert_eq!(world.metric(&shedding), 0.0);
        drop(live);
        world.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_not_kept_when_memory_is_short() {
    let world = world("");
    for (used, connection) in [(0.849, None), (0.85, Some("close"))] {
        world.gateway.observe_load(Signals {
            memory: Some(used),
            ..Signals::default()
        });
        let (answer, _) = ask(&world, ALICE, LIVEZ).await;
        check(&answer, 200, "");
        assert_eq!(header(&answer, "connection"), connection, "{used}");
    }
    assert_eq!(world.metric("trunkline_memory_used_ratio"), 0.85);
}

#[tokio::test(start_paused = true)]
async fn answers_tell_a_browser_nothing_and_nobody_the_version() {
    let world = world_with_keys("");
    let form = "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\napi-key: key-of-alice\r\n\
                Content-Length: 22\r\n\r\nCallSid=x&AccountSid=y";
    for (request, status) in [
        (LIVEZ, 200),
        (form, 200),
        ("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n", 404),
        (&upgrade_request(CALL, ""), 401),
        (&upgrade_request("/v1/audio/ga", "Origin: null\r\n"), 403),
    ] {
        let (answer, _) = ask(&world, ALICE, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        for (name, value) in [
            ("x-content-type-options", Some("nosniff")),
            ("cache-control", Some("no-store")),
            ("content-security-policy", Some("default-src 'none'")),
            ("referrer-policy", Some("no-referrer")),
            ("strict-transport-security", None),
            ("server", None),
        ] {
            assert_eq!(header(&answer, name), value, "{name}: {answer}");
        }
        assert!(!answer.contains(env!("CARGO_PKG_VERSION")), "{answer}");
    }
}
