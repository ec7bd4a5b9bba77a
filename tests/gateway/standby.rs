//! Sessions that stand by: who gets one, and what becomes of those that nobody wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, Blow, Mood, SoftPhone};

use crate::harness::World;
use crate::wire::upgrade_request;

const SECOND: Duration = Duration::from_secs(1);

/// Two deployments, and an agent whose sessions stand by as `standby` says.
fn config(standby: &str) -> String {
    let deployment = |name: &str| {
        format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\n"
        )
    };
    let all: String = ["east", "west"].map(deployment).concat();
    format!(
        "[auth]\nmode = 'none'\n{all}[pools.main]\ndeployments = ['east', 'west']\n\
         [pools.main.standby]\n{standby}\n[agents.desk]\ndeployment = 'main'\n[twilio]\nagent = 'desk'\n"
    )
}

async fn open(world: &World, target: &str) -> (DuplexStream, Duration) {
    let mut stream = world.connect();
    let began = Instant::now();
    let request = upgrade_request(target, "");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    (stream, began.elapsed())
}

fn waiting(world: &World) -> f64 {
    world.metric(r#"trunkline_standby_sessions{agent="desk",pool="main"}"#)
}

fn outcome(world: &World, outcome: &str) -> f64 {
    world.metric(&format!(
        r#"trunkline_standby_total{{outcome="{outcome}",pool="main"}}"#
    ))
}

fn retired(world: &World, reason: &str) -> f64 {
    world.metric(&format!(
        r#"trunkline_standby_retired_total{{pool="main",reason="{reason}"}}"#
    ))
}

/// Sessions that are open at the simulator.
fn n_open(world: &World) -> usize {
    let sessions = world.simulator.sessions();
    sessions.iter().filter(|it| it.closed.is_none()).count()
}

const PHONE: &str = "/v1/audio/desk";

#[tokio::test(start_paused = true)]
async fn a_call_gets_a_session_that_is_configured_already() {
    let world = World::with_config(&config("min = 2\nmax = 4"), "");
    sleep(SECOND).await;
    assert_eq!(waiting(&world), 2.0);
    // They are no calls, and they lie at both deployments.
    assert_eq!(world.gateway.calls().active(), 0);
    let sessions = world.simulator.sessions();
    assert!(sessions.iter().all(|it| it.received["session.update"] == 1));
    let mut places: Vec<_> = sessions.iter().map(|it| it.deployment.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["east", "west"]);
    let phone = SoftPhone::new("ws://gateway/v1/audio/desk", Dialect::Audio).expect("good");
    let report = world.call(&phone.script([Act::HangUp])).await;
    assert!(
        report.refusal.is_none() && report.violations.is_empty(),
        "{report}"
    );
    assert_eq!(outcome(&world, "hit"), 1.0);
    let standby: f64 = ["east", "west"]
        .map(|name| {
            let line = format!(
                r#"trunkline_dial_choices_total{{deployment="{name}",pool="main",reason="standby"}}"#
            );
            world.metric(&line)
        })
        .iter()
        .sum();
    assert!(standby >= 1.0);
    sleep(SECOND).await;
    assert!(waiting(&world) >= 2.0, "replaced");
    world.gateway.drain(Duration::ZERO).await;
    world.assert_quiet().await;
    assert_eq!(waiting(&world), 0.0);
    assert!(retired(&world, "drained") >= 2.0);
}

#[tokio::test(start_paused = true)]
async fn without_a_maximum_none_stands_by() {
    let world = World::with_config(&config(""), "");
    let (_call, _) = open(&world, PHONE).await;
    sleep(2 * SECOND).await;
    assert_eq!(n_open(&world), 1);
    assert_eq!(outcome(&world, "empty"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn dead_ones_are_found_and_replaced() {
    let world = World::with_config(&config("min = 3\nmax = 4"), "");
    sleep(SECOND).await;
    for name in ["east", "west"] {
        world.simulator.strike(name, Blow::Close(1011));
    }
    // Found while they wait.
    sleep(3 * SECOND).await;
    assert_eq!(retired(&world, "dead"), 3.0);
    assert_eq!(waiting(&world), 3.0);
    // Found at the hand-over: the blow and the call come at the same moment.
    for name in ["east", "west"] {
        world.simulator.strike(name, Blow::Cut);
    }
    let (_call, _) = open(&world, PHONE).await;
    assert_eq!(outcome(&world, "hit"), 0.0);
    sleep(3 * SECOND).await;
    let (_other, _) = open(&world, PHONE).await;
    assert_eq!(outcome(&world, "hit"), 1.0);
    // Silence is found by pings.
    let dead = retired(&world, "dead");
    for name in ["east", "west"] {
        world.simulator.set_mood(name, Mood::Silent);
    }
    sleep(25 * SECOND).await;
    assert!(retired(&world, "dead") >= dead + 3.0);
    assert_eq!(waiting(&world), 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_old_ones_go_before_their_cap() {
    let world = World::with_config(&config("min = 2\nmax = 2"), "");
    for _ in 0..120 {
        sleep(60 * SECOND).await;
        assert_eq!(waiting(&world), 2.0);
        for session in world.simulator.sessions() {
            let age = session.started.elapsed();
            // The simulator's cap is 30 min.
            assert!(
                session.closed.is_some() || age < 25 * 60 * SECOND,
                "{age:?}"
            );
        }
    }
    let n = retired(&world, "age");
    assert!((8.0..16.0).contains(&n), "{n}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_makes_room_for_its_call() {
    let world = World::with_config(&config("max = 4"), "");
    sleep(SECOND).await;
    assert_eq!(waiting(&world), 0.0);
    let form = "CallSid=CA1&AccountSid=AC1&From=%2B15550001&To=%2B15550002&CallStatus=ringing";
    let request = format!(
        "POST /twilio/voice HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = world.http(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    sleep(SECOND).await;
    assert_eq!(waiting(&world), 1.0);
    let (_call, _) = open(&world, "/twilio/media/desk").await;
    assert_eq!(outcome(&world, "hit"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn those_of_a_deployment_in_trouble_are_not_used() {
    let world = World::with_config(&config("min = 4\nmax = 4"), "");
    sleep(SECOND).await;
    world.simulator.set_mood("east", Mood::Refusing(500));
    // Callers of the deployment itself notice.
    for _ in 0..7 {
        let answer = world
            .http(&upgrade_request("/v1/realtime?model=east", ""))
            .await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    sleep(2 * SECOND).await;
    assert!(retired(&world, "unhealthy") >= 1.0);
    let sessions = world.simulator.sessions();
    let mut open = sessions.iter().filter(|it| it.closed.is_none());
    assert!(open.all(|it| it.deployment == "west"));
    assert_eq!(waiting(&world), 4.0);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_replaces_them() {
    let file = std::env::temp_dir().join(format!("trunkline-standby-{}", std::process::id()));
    std::fs::write(&file, "old").expect("written");
    let text = config("min = 2\nmax = 2").replace(
        "api_key = 'sim-key'",
        &format!("api_key_file = '{}'", file.display()),
    );
    let world = World::with_config(&text, "api_keys = ['old', 'new']");
    sleep(SECOND).await;
    assert_eq!(waiting(&world), 2.0);
    std::fs::write(&file, "new").expect("written");
    world.simulator.set_api_keys(vec!["new".to_owned()]);
    // The harness keeps no keys fresh: a refused dial does.
    for name in ["east", "west"] {
        let target = format!("/v1/realtime?model={name}");
        let (_call, _) = open(&world, &target).await;
    }
    sleep(3 * SECOND).await;
    assert_eq!(retired(&world, "rotated"), 2.0);
    assert_eq!(waiting(&world), 2.0);
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test(start_paused = true)]
async fn sdk_callers_get_a_fresh_one_as_it_is() {
    let world = World::with_config(&config("max = 8\nsdk = true"), "");
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(open(&world, "/v1/realtime?model=main").await);
        sleep(3 * SECOND).await;
    }
    assert!(outcome(&world, "hit") >= 17.0);
    let sessions = world.simulator.sessions();
    assert!(
        sessions
            .iter()
            .all(|it| !it.received.contains_key("session.update"))
    );
    // Nobody comes: none is kept for longer than a minute.
    sleep(70 * SECOND).await;
    let young = |it: &trunkline::simulator::SessionRecord| {
        it.closed.is_some() || it.started.elapsed() < 61 * SECOND
    };
    let sessions = world.simulator.sessions();
    assert!(sessions[20..].iter().rev().take(3).all(young));
}

/// A second half of a simulated ocean on each dial.
fn slow_link(world_end: DuplexStream) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let (mut from_gateway, mut to_gateway) = tokio::io::split(world_end);
    let (mut from_simulator, mut to_simulator) = tokio::io::split(ours);
    let delay = Duration::from_millis(60);
    TaskTracker::new().spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from_gateway.read(&mut bytes).await {
            sleep(delay).await;
            if to_simulator.write_all(&bytes[..n]).await.is_err() {
                break;
            }
        }
        let _ = to_simulator.shutdown().await;
    });
    TaskTracker::new().spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from_simulator.read(&mut bytes).await {
            sleep(delay).await;
            if to_gateway.write_all(&bytes[..n]).await.is_err() {
                break;
            }
        }
        let _ = to_gateway.shutdown().await;
    });
    theirs
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Calls arrive at a steady rate as if nobody planned them, each of half a minute.
async fn steady(standby: &str) -> (World, Vec<Duration>) {
    let world = World::with_model_link(&config(standby), "", slow_link);
    let mut random = fastrand::Rng::with_seed(11);
    let mut times = Vec::new();
    let mut calls: Vec<(Instant, DuplexStream)> = Vec::new();
    for _ in 0..600 {
        // One call in half a second on average.
        let gap = -random.f64().max(1e-9).ln() / 2.0;
        sleep(Duration::from_secs_f64(gap)).await;
        let (stream, took) = open(&world, PHONE).await;
        times.push(took);
        calls.push((Instant::now(), stream));
        calls.retain(|(began, _)| began.elapsed() < 30 * SECOND);
    }
    (world, times)
}

#[tokio::test(start_paused = true)]
async fn at_a_steady_rate_hardly_a_call_finds_none() {
    let (world, with) = steady("max = 20").await;
    let (none, without) = steady("max = 0").await;
    let hits = outcome(&world, "hit");
    let misses = outcome(&world, "empty") + outcome(&world, "dead") + outcome(&world, "unsuitable");
    let share = hits / (hits + misses);
    let (with, without) = (p50(with), p50(without));
    println!("hit rate {share:.4}; p50 of the set-up {with:?} with standby, {without:?} without");
    assert!(share >= 0.95, "{share}");
    assert_eq!(hits + misses, 600.0);
    assert!(with < Duration::from_millis(5), "{with:?}");
    assert!(without > Duration::from_millis(100), "{without:?}");
    assert_eq!(outcome(&none, "hit"), 0.0);
}

/// The same on sockets: what a hit costs on this machine. Printed, not judged by the clock.
#[tokio::test]
async fn set_up_on_loopback() {
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use trunkline::bridge::ToolRunner;
    use trunkline::config::Config;
    use trunkline::listener::Gateway;
    use trunkline::outbound::Outbound;
    use trunkline::simulator::{Simulator, SimulatorConfig};
    use trunkline::telemetry::Metrics;
    use trunkline::upstream::Dialer;

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()));
    let stop = CancellationToken::new();
    TaskTracker::new().spawn(simulator.serve(listener, stop.clone()));
    for standby in ["min = 30\nmax = 30\nper_second = 1000", "max = 0"] {
        let text = config(standby).replace("127.0.0.1:1'", &format!("{address}'"));
        let parsed = Config::parse(&text).expect("good");
        let routes = parsed.build(&text).expect("good");
        let metrics = Metrics::new();
        let dialer = Dialer::new(Arc::clone(&metrics));
        let tools = ToolRunner::new(Outbound::new());
        let gateway = Gateway::new(parsed.listener, routes, dialer, tools, Arc::clone(&metrics));
        let callers = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let door = callers.local_addr().expect("an address");
        TaskTracker::new().spawn(Arc::clone(&gateway).serve(callers, stop.clone()));
        TaskTracker::new().spawn(Arc::clone(&gateway).keep_standby(stop.clone()));
        let wanted = r#"trunkline_standby_sessions{agent="desk",pool="main"} 30"#;
        while standby != "max = 0" && !metrics.render().expect("metrics").contains(wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut times = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..25 {
            let mut stream = TcpStream::connect(door).await.expect("connected");
            let began = std::time::Instant::now();
            let request = upgrade_request(PHONE, "");
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.expect("an answer");
            times.push(began.elapsed());
            assert_eq!(&head[9..], b"101");
            calls.push(stream);
        }
        println!(
            "{standby:?}: p50 of the set-up on loopback {:?}",
            p50(times)
        );
        let hits = r#"trunkline_standby_total{outcome="hit",pool="main"} 25"#;
        let text = metrics.render().expect("metrics");
        assert_eq!(text.contains(hits), standby != "max = 0", "{text}");
    }
    stop.cancel();
}
