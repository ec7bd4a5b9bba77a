//! Doors that are not opened for everybody: web pages, tenants' agents, slow forms, one connection too many.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::auth::hash_key;

use crate::harness::{CONFIG, World};
use crate::wire::{Wire, upgrade_request};

const DOORS: [&str; 4] = [
    "/openai/v1/realtime?model=ga",
    "/v1/realtime?model=ga",
    "/twilio/media/ga",
    "/v1/audio/ga",
];

/// Asks for an upgrade that is refused with that status for that reason.
async fn check_refused(world: &World, target: &str, more: &str, status: u16, code: &str) {
    let answer = world.http(&upgrade_request(target, more)).await;
    let start = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&start), "{target} {more}: {answer}");
    let reason = format!("x-trunkline-error: {code}\r\n");
    assert!(answer.contains(&reason), "{target} {more}: {answer}");
}

async fn check_answered(world: &World, target: &str, more: &str) {
    let mut wire = Wire::open_with(world, target, more).await;
    wire.close(1000, "").await;
    wire.until_close().await;
}

#[tokio::test(start_paused = true)]
async fn web_pages_call_only_if_they_are_named() {
    let listed = "[listener]\nallowed_origins = ['https://app.example.com']";
    let world = World::with_config(&format!("{CONFIG}\n{listed}\n"), "");
    for door in DOORS {
        for origin in [
            "null",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://evil.example",
        ] {
            let more = format!("Origin: {origin}\r\n");
            check_refused(&world, door, &more, 403, "origin_refused").await;
        }
        let named = "Origin: https://app.example.com\r\n";
        if door.starts_with("/twilio") {
            // No page calls in the name of a provider.
            check_refused(&world, door, named, 403, "origin_refused").await;
        } else {
            check_answered(&world, door, named).await;
        }
    }
    let refused = r#"trunkline_calls_refused_total{reason="origin_refused",route="audio"}"#;
    assert_eq!(world.metric(refused), 5.0);
    // Nobody is named unless somebody was.
    let world = World::new("");
    for door in DOORS {
        let more = "Origin: http://localhost:8080\r\n";
        check_refused(&world, door, more, 403, "origin_refused").await;
    }
    assert_eq!(world.simulator.n_upgrades(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_reaches_its_agents_only() {
    let key = |tenant: &str| {
        let hash = hash_key(&format!("key-of-{tenant}"));
        format!("[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hash}'\n")
    };
    let keys = format!("mode = \"keys\"\n{}{}", key("all"), key("few"));
    let config = CONFIG.replace("mode = \"none\"", &keys);
    let config = format!("{config}\n[tenants.all]\n[tenants.few]\nagents = ['preview']\n");
    let world = World::with_config(&config, "");
    let few = "api-key: key-of-few\r\n";
    for dialect in ["/v1/audio", "/twilio/media"] {
        let door = |agent: &str| format!("{dialect}/{agent}");
        check_refused(&world, &door("ga"), few, 403, "permission_denied").await;
        // Who may not reach an agent does not learn either whether there is one.
        check_refused(&world, &door("nobody"), few, 403, "permission_denied").await;
        check_answered(&world, &door("preview"), few).await;
        let all = "api-key: key-of-all\r\n";
        check_answered(&world, &door("ga"), all).await;
        check_refused(&world, &door("nobody"), all, 404, "not_found").await;
    }
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_form_that_never_comes_is_not_waited_for() {
    let world = World::new("");
    let asked = Instant::now();
    let request =
        "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100\r\n\r\nCallSid=";
    let answer = world.http(request).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("x-trunkline-error: request_timeout"),
        "{answer}"
    );
    assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
}

/// In real time and on a real socket, because accepting is what is tested.
#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_all_are_closed_at_the_end() {
    let limit = "[listener]\nmax_connections = 1\nmax_calls = 1";
    let world = World::with_config(&format!("{CONFIG}\n{limit}\n"), "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(world.gateway.clone().serve(listener, stop.clone()));

    let mut first = TcpStream::connect(address).await.expect("connected");
    first
        .write_all(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
        .await
        .expect("written");
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut second = TcpStream::connect(address).await.expect("connected");
    let mut refusal = String::new();
    second
        .read_to_string(&mut refusal)
        .await
        .expect("an answer");
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(
        refusal.contains("x-trunkline-error: too_many_connections"),
        "{refusal}"
    );
    let refused = r#"trunkline_calls_refused_total{reason="too_many_connections",route="other"}"#;
    assert_eq!(world.metric(refused), 1.0);

    stop.cancel();
    let began = Instant::now();
    world.gateway.close().await;
    // The first connection was idle: nobody waits for it.
    assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.expect("closed");
    tasks.close();
    tasks.wait().await;
}
