//! Which deployment of a pool gets a call, and what callers notice of those that are in trouble: nothing, or when to
//! come again (faults 1 to 5, 13 to 15).

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::config::Config;
use trunkline::routing::Load;
use trunkline::simulator::{Blow, Mood, Simulator, SimulatorConfig};
use trunkline::telemetry::Metrics;
use trunkline::upstream::{Dialer, FailedDials, Pool, Resolve, SessionRequest, Trouble};

use crate::harness::World;
use crate::wire::upgrade_request;

const MAIN: &str = "/v1/realtime?model=main";
const SECOND: Duration = Duration::from_secs(1);

/// Deployments `east`, `west` and `north`, and a pool `main` with these settings.
fn config(pool: &str) -> String {
    let deployment = |name: &str| {
        format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\nregion = '{name}'\n"
        )
    };
    let all: String = ["east", "west", "north"].map(deployment).concat();
    format!(
        "[auth]\nmode = 'none'\n[quota]\nadmission = 'off'\n{all}[pools.main]\n{pool}\n[agents.desk]\ndeployment = 'main'\n"
    )
}

const BOTH: &str = "deployments = [{ name = 'east' }, { name = 'west', priority = 1 }]";

/// What became of one who asked.
#[derive(Debug)]
struct Asked {
    status: u16,
    retry_after: Option<Duration>,
    took: Duration,
    /// The call, as long as it is held.
    _call: Held,
}

struct Held(#[expect(dead_code, reason = "held, and dropped")] DuplexStream);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a call")
    }
}

async fn ask_on(mut stream: DuplexStream, target: &str) -> Asked {
    let began = Instant::now();
    let request = upgrade_request(target, "");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("a head");
    let after = head
        .lines()
        .find_map(|it| it.strip_prefix("retry-after-ms: "));
    Asked {
        status: head[9..12].parse().expect("a status"),
        retry_after: after.map(|it| Duration::from_millis(it.parse().expect("ms"))),
        took: began.elapsed(),
        _call: Held(stream),
    }
}

async fn ask(world: &World) -> Asked {
    ask_on(world.connect(), MAIN).await
}

/// Sessions that were asked for at a deployment, for whatever reason.
fn dials(world: &World, deployment: &str) -> f64 {
    sum(
        world,
        &format!(r#"trunkline_dial_choices_total{{deployment="{deployment}","#),
    )
}

fn sum(world: &World, prefix: &str) -> f64 {
    let text = world.gateway.metrics().render().expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with(prefix));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

fn held(world: &World, deployment: &str) -> f64 {
    let line = format!(r#"trunkline_deployment_sessions{{deployment="{deployment}"}}"#);
    world.metric(&line)
}

fn condition(world: &World, deployment: &str, condition: &str) -> bool {
    let line = format!(
        r#"trunkline_deployment_condition{{condition="{condition}",deployment="{deployment}"}}"#
    );
    world.metric(&line) == 1.0
}

/// A deployment that answers every upgrade so.
async fn says(mut accepted: Receiver<DuplexStream>, answer: impl Fn(u32) -> String) {
    let mut n = 0;
    while let Some(mut stream) = accepted.recv().await {
        let mut head = vec![0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(answer(n).as_bytes()).await;
        n += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_not_there_costs_no_call() {
    let (world, accepted) = World::scripted(&config(BOTH), "", &["east"]);
    drop(accepted);
    let mut calls = Vec::new();
    for _ in 0..30 {
        let asked = ask(&world).await;
        assert_eq!(asked.status, 101);
        assert!(asked.took < SECOND, "{asked:?}");
        calls.push(asked);
    }
    let failures = r#"trunkline_dial_failures_total{deployment="east",reason="connect"}"#;
    assert_eq!(world.metric(failures), 7.0);
    assert!(condition(&world, "east", "open"));
    // One deployment's trouble is not another's.
    assert!(condition(&world, "west", "well"));
    assert_eq!((held(&world, "east"), held(&world, "west")), (0.0, 30.0));
    let retried = r#"trunkline_dial_retries_total{outcome="ok",pool="main"}"#;
    assert_eq!(world.metric(retried), 7.0);
    drop(calls);
    world.assert_quiet().await;
    assert_eq!(held(&world, "west"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn all_at_once_lose_no_call_either() {
    let (world, accepted) = World::scripted(&config(BOTH), "", &["east"]);
    drop(accepted);
    let asked = futures_util::future::join_all((0..60).map(|_| ask(&world))).await;
    assert!(asked.iter().all(|it| it.status == 101));
    drop(asked);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_it_answers_the_next_one_is_asked_at_once() {
    const UPGRADE: &str = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for answer in [
        "HTTP/1.1 500 No\r\n\r\n".to_owned(),
        "HTTP/1.1 502 No\r\nContent-Type: text/html\r\n\r\n<html>no</html>".to_owned(),
        "HTTP/1.1 503 No\r\n\r\n".to_owned(),
        "HTTP/1.1 302 x\r\nLocation: https://elsewhere.example\r\n\r\n".to_owned(),
        format!("{UPGRADE}Sec-WebSocket-Accept: wrong\r\n\r\n"),
        "\u{1}\u{2}\u{3}garbage\r\n\r\n".to_owned(),
        String::new(),
    ] {
        let (world, mut accepted) = World::scripted(&config(BOTH), "", &["east"]);
        let east = says(accepted.remove(0), |_| answer.clone());
        let asked = tokio::select! {
            asked = ask(&world) => asked,
            () = east => unreachable!("it serves for ever"),
        };
        assert_eq!(asked.status, 101, "{answer:?}");
        assert!(asked.took < SECOND, "{answer:?}: {asked:?}");
        assert_eq!(held(&world, "west"), 1.0, "{answer:?}");
        drop(asked);
        world.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_pauses_one_deployment_for_as_long_as_it_says() {
    let (world, mut accepted) = World::scripted(&config(BOTH), "", &["east", "west"]);
    let limit = |wait: u32| move |_| format!("HTTP/1.1 429 x\r\nretry-after-ms: {wait}\r\n\r\n");
    let west = TaskTracker::new().spawn(says(accepted.remove(1), limit(9_500)));
    let east = TaskTracker::new().spawn(says(accepted.remove(0), limit(4_000)));
    let began = Instant::now();
    let asked = ask(&world).await;
    // Both are asked once; the first that can be asked again says when.
    assert_eq!(asked.status, 429);
    let after = asked.retry_after.expect("a time");
    assert!((3_900..=4_000).contains(&after.as_millis()), "{after:?}");
    while began.elapsed() < Duration::from_millis(3_990) {
        assert_eq!(ask(&world).await.status, 429);
        sleep(SECOND / 4).await;
        assert!(dials(&world, "east") == 1.0 || began.elapsed() >= 4 * SECOND);
    }
    sleep(SECOND / 4).await;
    assert_eq!(ask(&world).await.status, 429);
    assert_eq!((dials(&world, "east"), dials(&world, "west")), (2.0, 1.0));
    assert!(condition(&world, "west", "paused"));
    east.abort();
    west.abort();
}

#[tokio::test(start_paused = true)]
async fn a_429_of_one_member_is_in_its_account_too() {
    let pool = "deployments = ['east', 'west']";
    let (world, mut accepted) = World::scripted(&config(pool), "", &["east"]);
    let limit = |_| "HTTP/1.1 429 x\r\nretry-after-ms: 7000\r\n\r\n".to_owned();
    let east = TaskTracker::new().spawn(says(accepted.remove(0), limit));
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(ask(&world).await);
    }
    assert!(calls.iter().all(|call| call.status == 101));
    assert_eq!((dials(&world, "east"), held(&world, "west")), (1.0, 6.0));
    assert!(condition(&world, "east", "paused") && condition(&world, "west", "well"));
    let account = |name: &str| world.gateway.quota().account(name).can_take(1.0);
    let left = account("east").expect_err("paused");
    assert!((6_900..=7_000).contains(&left.as_millis()), "{left:?}");
    assert_eq!(account("west"), Ok(()));
    sleep(7 * SECOND).await;
    assert_eq!(account("east"), Ok(()));
    east.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_takes_a_deployment_out() {
    let (world, mut accepted) = World::scripted(&config(BOTH), "", &["east"]);
    let unauthorized = |_| "HTTP/1.1 401 x\r\n\r\n".to_owned();
    let east = TaskTracker::new().spawn(says(accepted.remove(0), unauthorized));
    let began = Instant::now();
    while began.elapsed() < 60 * SECOND {
        let asked = ask(&world).await;
        assert_eq!(asked.status, 101);
        drop(asked);
        sleep(SECOND / 5).await;
    }
    // One try in 15 s to 30 s.
    let tries = dials(&world, "east");
    assert!((3.0..=5.0).contains(&tries), "{tries}");
    assert!(condition(&world, "east", "out"));
    east.abort();
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_is_overtaken() {
    let world = World::with_config(&config(BOTH), "");
    world.simulator.set_mood("east", Mood::Silent);
    let mut calls = Vec::new();
    for n in 0..12 {
        let asked = ask(&world).await;
        assert_eq!(asked.status, 101);
        println!("call {n}: {:?}", asked.took);
        assert!(asked.took < Duration::from_millis(1_600), "{asked:?}");
        calls.push(asked);
        sleep(SECOND / 10).await;
    }
    // Seven in a row that were too slow open the breaker; callers wait no more.
    let waited = calls.iter().map(|call| call.took >= SECOND);
    assert!(waited.eq((0..12).map(|n| n < 7)), "{calls:?}");
    assert_eq!(held(&world, "west"), 12.0);
    let won = r#"trunkline_hedges_total{outcome="won",pool="main"}"#;
    assert_eq!(world.metric(won), 7.0);
    // The losers' connections are closed.
    world.simulator.set_mood("east", Mood::Well);
    sleep(SECOND).await;
    let sessions = world.simulator.sessions();
    let open = sessions.iter().filter(|it| it.closed.is_none());
    assert!(
        open.clone().all(|it| it.deployment == "west"),
        "{sessions:?}"
    );
    drop(calls);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn hedges_have_a_budget() {
    let world = World::with_config(&config(BOTH), "");
    for _ in 0..10 {
        assert_eq!(ask(&world).await.status, 101);
    }
    world.simulator.set_mood("east", Mood::Silent);
    let asked = futures_util::future::join_all((0..20).map(|_| ask(&world))).await;
    // It was fast before, so it is overtaken early, by a fifth of the dials; for the others it must be slow.
    assert!(asked.iter().all(|it| it.status == 101));
    let count = |ms| asked.iter().filter(|it| it.took.as_millis() == ms).count();
    assert_eq!((count(150), count(1_500)), (6, 14), "{asked:?}");
    let exhausted = r#"trunkline_retry_budget_exhausted_total{pool="main"}"#;
    assert_eq!(world.metric(exhausted), 14.0);
    drop(asked);
    world.simulator.set_mood("east", Mood::Well);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn without_hedges_a_slow_one_is_given_up() {
    let pool = format!("{BOTH}\nhedge = false");
    let world = World::with_config(&config(&pool), "");
    world.simulator.set_mood("east", Mood::Silent);
    let asked = ask(&world).await;
    assert_eq!((asked.status, asked.took.as_secs()), (101, 5));
    assert_eq!(held(&world, "west"), 1.0);
    world.simulator.set_mood("east", Mood::Well);
    drop(asked);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_takes_all_dials_with_him() {
    let (world, mut accepted) = World::scripted(&config(BOTH), "", &["east", "west"]);
    let mut stream = world.connect();
    let request = upgrade_request(MAIN, "");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut east = accepted[0].recv().await.expect("a dial");
    let mut west = accepted[1].recv().await.expect("a hedge");
    drop(stream);
    let mut rest = Vec::new();
    for end in [&mut east, &mut west] {
        let closed = tokio::time::timeout(SECOND, end.read_to_end(&mut rest)).await;
        closed.expect("closed").expect("read");
    }
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_the_limit() {
    let pool = format!("{BOTH}\ntimeout = '6s'");
    let world = World::with_config(&config(&pool), "");
    world.simulator.set_mood("east", Mood::Silent);
    world.simulator.set_mood("west", Mood::Silent);
    let asked = ask(&world).await;
    assert_eq!(asked.status, 504);
    assert_eq!(asked.took.as_secs(), 6);
    for name in ["east", "west"] {
        world.simulator.set_mood(name, Mood::Well);
    }
    world.assert_quiet().await;
}

/// Fault 13: everything is away for 5 min while 20 callers a second come, and comes back.
#[tokio::test(start_paused = true)]
async fn all_are_down_and_come_back() {
    let world = Arc::new(World::with_config(&config(BOTH), ""));
    for name in ["east", "west"] {
        world.simulator.set_mood(name, Mood::Refusing(500));
    }
    let began = Instant::now();
    let down = 300 * SECOND;
    let (mut first_good, mut refused, mut is_back) = (None, 0, false);
    let mut while_down = 0.0;
    while began.elapsed() < down + 30 * SECOND {
        if !is_back && began.elapsed() >= down {
            is_back = true;
            while_down = dials(&world, "east");
            for name in ["east", "west"] {
                world.simulator.set_mood(name, Mood::Well);
            }
        }
        let many = if is_back { 10 } else { 1 };
        let asked = futures_util::future::join_all((0..many).map(|_| ask(&world))).await;
        for asked in asked {
            match asked.status {
                101 => {
                    first_good.get_or_insert(began.elapsed());
                }
                status => {
                    assert_eq!(status, 503);
                    assert!(asked.retry_after.expect("a time") <= 2 * SECOND);
                    refused += 1;
                }
            }
        }
        sleep(SECOND / 20).await;
    }
    let back = first_good
        .expect("recovered")
        .checked_sub(down)
        .expect("not before");
    println!("recovered {back:?} after the return; {refused} refused");
    assert!(back <= 5 * SECOND, "{back:?}");
    let sessions = world.simulator.sessions();
    for name in ["east", "west"] {
        let mut dialled: Vec<_> = sessions
            .iter()
            .filter(|it| it.deployment == name)
            .map(|it| it.started)
            .collect();
        dialled.sort_unstable();
        // In its first ten seconds, no second has more than 20.
        let Some(first) = dialled.first().copied() else {
            // The other one was back before, and took all.
            continue;
        };
        dialled.retain(|at| *at < first + 9 * SECOND);
        let within = |at: &std::time::Instant| {
            let is_within = |other: &&std::time::Instant| **other >= *at && **other < *at + SECOND;
            dialled.iter().filter(is_within).count()
        };
        let worst = dialled.iter().map(within).max().unwrap_or(0);
        println!("{name}: at most {worst} sessions in a second");
        assert!((1..=20).contains(&worst), "{worst}");
    }
    // While it was down it was asked once in 2 s, and 7 times at first.
    assert!((100.0..=160.0).contains(&while_down), "{while_down}");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn calls_spill_to_the_next_tier_and_return() {
    let world = World::with_config(&config(BOTH), "");
    let spilt = r#"trunkline_dial_choices_total{deployment="west",pool="main",reason="spill"}"#;
    let mut calls = vec![ask(&world).await];
    assert_eq!(held(&world, "east"), 1.0);
    world.simulator.set_mood("east", Mood::Refusing(500));
    for _ in 0..20 {
        calls.push(ask(&world).await);
    }
    assert_eq!((held(&world, "east"), held(&world, "west")), (1.0, 20.0));
    assert!(world.metric(spilt) >= 10.0);
    world.simulator.set_mood("east", Mood::Well);
    sleep(3 * SECOND).await;
    for _ in 0..10 {
        calls.push(ask(&world).await);
        sleep(SECOND / 10).await;
    }
    assert_eq!((held(&world, "east"), held(&world, "west")), (11.0, 20.0));
    assert!(calls.iter().all(|call| call.status == 101));
    drop(calls);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn weights_and_regions_share_calls() {
    let check = async |pool: &str, expected: [f64; 3]| {
        let world = World::with_config(&config(pool), "");
        let mut calls = Vec::new();
        for _ in 0..30 {
            calls.push(ask(&world).await);
        }
        let found = ["east", "west", "north"].map(|name| held(&world, name));
        assert_eq!(found, expected, "{pool}");
    };
    check("deployments = ['east', 'west', 'north']", [10.0; 3]).await;
    let weighted = "deployments = [{name = 'east', weight = 2}, 'west']";
    check(weighted, [20.0, 10.0, 0.0]).await;
    let near = "deployments = ['east', 'west', 'north']\nprefer_region = 'north'";
    check(near, [0.0, 0.0, 30.0]).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_stays_where_it_was() {
    let pool = "deployments = ['east', 'west', 'north']\nsticky = 'caller'";
    let world = World::with_config(&config(pool), "");
    let mut homes: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..12 {
        let address = Ipv4Addr::new(10, 9, 0, n);
        for _ in 0..3 {
            let asked = ask_on(world.connect_from(address), MAIN).await;
            assert_eq!(asked.status, 101);
        }
        let sessions = world.simulator.sessions();
        let last: Vec<_> = sessions[sessions.len() - 3..]
            .iter()
            .map(|it| it.deployment.clone())
            .collect();
        assert!(last.iter().all(|it| *it == last[0]), "{last:?}");
        *homes.entry(last[0].clone()).or_default() += 1;
    }
    assert_eq!(homes.len(), 3, "{homes:?}");
}

/// Twilio calls from its own addresses, whoever is on the phone.
#[tokio::test(start_paused = true)]
async fn a_caller_is_known_by_its_number() {
    let pool = "deployments = ['east', 'west', 'north']\nsticky = 'caller'";
    let world = World::with_config(&config(pool), "");
    let mut homes: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..12 {
        let form = format!("CallSid=CA1&AccountSid=AC1&From=%2B1555000{n:04}&To=%2B15550002222");
        let webhook = format!(
            "POST /twilio/voice/desk HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        for address in 1..=3 {
            let stream = world.connect_from(Ipv4Addr::new(10, 9, 0, 9));
            let answer = World::ask(stream, &webhook).await;
            assert!(answer.contains("<Stream"), "{answer}");
            let stream = world.connect_from(Ipv4Addr::new(10, 9, 0, address));
            assert_eq!(ask_on(stream, "/twilio/media/desk").await.status, 101);
        }
        let sessions = world.simulator.sessions();
        let last: Vec<_> = sessions[sessions.len() - 3..]
            .iter()
            .map(|it| it.deployment.clone())
            .collect();
        assert!(last.iter().all(|it| *it == last[0]), "{last:?}");
        *homes.entry(last[0].clone()).or_default() += 1;
    }
    assert_eq!(homes.len(), 3, "{homes:?}");
}

/// Dialler, pools and a simulator without a gateway.
struct Net {
    dialer: Dialer,
    pool: Arc<Pool>,
    simulator: Arc<Simulator>,
    metrics: Arc<Metrics>,
}

impl Net {
    fn new(config: &str) -> Self {
        let parsed = Config::parse(config).expect("good");
        let routes = parsed.build(config).expect("good");
        let metrics = Metrics::new();
        let simulator = Arc::new(Simulator::new(SimulatorConfig::default()));
        let mut dialer = Dialer::with_roots(Arc::clone(&metrics), rustls::RootCertStore::empty());
        for name in parsed.deployments.keys() {
            let (accept, mut accepted) = tokio::sync::mpsc::channel::<DuplexStream>(64);
            dialer = dialer.with_memory(name, accept);
            let simulator = Arc::clone(&simulator);
            TaskTracker::new().spawn(async move {
                while let Some(stream) = accepted.recv().await {
                    let simulator = Arc::clone(&simulator);
                    TaskTracker::new()
                        .spawn(async move { simulator.serve_connection(stream).await });
                }
            });
        }
        Self {
            dialer,
            pool: Arc::clone(&routes.pools["main"]),
            simulator,
            metrics,
        }
    }

    fn with_load(mut self, full: &'static [&'static str]) -> Self {
        self.dialer = self.dialer.with_load(Arc::new(Full(full)));
        self
    }

    async fn open(&self) -> trunkline::upstream::Session {
        let request = SessionRequest::default();
        let opened = self.dialer.open_in(&self.pool, &request).await;
        opened.expect("a session")
    }
}

/// Says that some deployments are full and nothing else.
#[derive(Debug)]
struct Full(&'static [&'static str]);

impl Load for Full {
    fn pressure(&self, _deployment: &str, _n_sessions: u32) -> Option<f64> {
        Some(0.0)
    }

    fn may_take(&self, deployment: &str, _n_calls: u32) -> Result<(), Duration> {
        match self.0.contains(&deployment) {
            true => Err(SECOND),
            false => Ok(()),
        }
    }

    fn refused(&self, _deployment: &str, _retry_after: Duration) {}
}

#[tokio::test(start_paused = true)]
async fn without_load_or_with_the_same_sessions_count() {
    let net = Net::new(&config("deployments = ['east', 'west', 'north']")).with_load(&[]);
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(net.open().await);
    }
    for name in ["east", "west", "north"] {
        let at = sessions
            .iter()
            .filter(|it| it.place.deployment().name() == name);
        assert_eq!(at.count(), 3, "{name}");
    }
}

/// A call that was let in is served, by a full deployment if there is no other.
#[tokio::test(start_paused = true)]
async fn a_full_one_is_better_than_none() {
    let check = async |full, avoid: &[&str], expected: &str| {
        let net = Net::new(&config(BOTH)).with_load(full);
        let request = SessionRequest {
            avoid: avoid.iter().map(|name| (*name).to_owned()).collect(),
            ..SessionRequest::default()
        };
        let session = net.dialer.open_in(&net.pool, &request).await;
        let session = session.expect("a session");
        assert_eq!(
            session.place.deployment().name(),
            expected,
            "{full:?}, {avoid:?}"
        );
    };
    check(&[], &[], "east").await;
    check(&["east"], &[], "west").await;
    check(&["east", "west"], &[], "east").await;
    check(&["west"], &["east"], "west").await;
    check(&["east", "west"], &["east"], "west").await;
    check(&["east", "west"], &["east", "west"], "east").await;
    // One that is full comes before one that is in trouble.
    let net = Net::new(&config(BOTH)).with_load(&["west"]);
    let session = net.open().await;
    session.place.report(Trouble::RateLimited(Some(9 * SECOND)));
    assert_eq!(net.open().await.place.deployment().name(), "west");
}

#[tokio::test(start_paused = true)]
async fn what_calls_report_counts() {
    let net = Net::new(&config(BOTH));
    for n in 0..7 {
        let session = net.open().await;
        assert_eq!(session.place.deployment().name(), "east", "{n}");
        session.place.report(Trouble::Stalled);
    }
    assert_eq!(net.open().await.place.deployment().name(), "west");
    // A rate limit inside a session pauses its deployment for that long.
    sleep(61 * SECOND).await;
    let session = net.open().await;
    assert_eq!(session.place.deployment().name(), "east");
    session.place.report(Trouble::RateLimited(Some(3 * SECOND)));
    assert_eq!(net.open().await.place.deployment().name(), "west");
    sleep(3 * SECOND).await;
    assert_eq!(net.open().await.place.deployment().name(), "east");
    // Those that the call has just had trouble with come last.
    let request = SessionRequest {
        avoid: vec!["east".to_owned()],
        ..SessionRequest::default()
    };
    let session = net.dialer.open_in(&net.pool, &request).await.expect("one");
    assert_eq!(session.place.deployment().name(), "west");
    assert!(net.simulator.n_upgrades() >= 10);
}

#[tokio::test(start_paused = true)]
async fn who_fails_more_often_than_the_others_is_left_out() {
    let net = Net::new(&config("deployments = ['east', 'west', 'north']"));
    // Every third session at east breaks: never seven in a row.
    let mut at_east = 0;
    let mut held = Vec::new();
    for _ in 0..300 {
        let session = net.open().await;
        if session.place.deployment().name() == "east" {
            at_east += 1;
            if at_east % 3 == 0 {
                session.place.report(Trouble::Gone);
            } else {
                session.place.went_well();
            }
        } else {
            session.place.went_well();
        }
        held.push(session);
        if held.len() > 9 {
            held.remove(0);
        }
        sleep(SECOND / 20).await;
    }
    let text = net.metrics.render().expect("metrics");
    let ejected = r#"trunkline_pool_ejections_total{deployment="east",pool="main"}"#;
    assert!(text.contains(ejected), "{text}");
    assert!(!text.contains(r#"trunkline_pool_ejections_total{deployment="west""#));
    println!("{at_east} of 300 calls went to the one that breaks every third");
    assert!(at_east < 60, "{at_east}");
}

#[tokio::test(start_paused = true)]
async fn sessions_of_others_live_on() {
    let net = Net::new(&config("deployments = ['east', 'west']"));
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(net.open().await);
    }
    net.simulator.strike("east", Blow::Cut);
    sleep(SECOND).await;
    let records = net.simulator.sessions();
    let closed: Vec<_> = records.iter().filter(|it| it.closed.is_some()).collect();
    assert_eq!(closed.len(), 3);
    assert!(closed.iter().all(|it| it.deployment == "east"));
}

/// A resolver that answers three times and is then out of order.
#[derive(Debug)]
struct Flaky {
    address: SocketAddr,
    answers: AtomicU32,
}

impl Resolve for Flaky {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        _port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        assert_eq!(host, "voice.example");
        let n = self.answers.fetch_add(1, Ordering::Relaxed);
        let answer = match n {
            0..3 => Ok(vec![self.address]),
            3 => Ok(Vec::new()),
            _ => Err(io::Error::other("SERVFAIL")),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Faults 14 and 15 on real sockets: the name of one deployment is not known any more, another has no TLS.
#[tokio::test]
async fn names_that_are_gone_and_certificates_that_are_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()));
    let stop = CancellationToken::new();
    let serving = TaskTracker::new().spawn(simulator.serve(listener, stop.clone()));
    let port = address.port();
    let config = format!(
        "[auth]\nmode = 'none'\n[deployments.plain]\nurl = 'https://127.0.0.1:{port}'\nmodel = 'm'\napi_key = 'k'\n\
         [deployments.named]\nurl = 'ws://voice.example:{port}'\nplaintext = true\nmodel = 'm'\napi_key = 'k'\n\
         [pools.main]\ndeployments = ['plain', {{ name = 'named', priority = 1 }}]\n"
    );
    let parsed = Config::parse(&config).expect("good");
    let routes = parsed.build(&config).expect("good");
    let metrics = Metrics::new();
    let resolver = Flaky {
        address,
        answers: AtomicU32::new(0),
    };
    let dialer = Dialer::with_roots(Arc::clone(&metrics), rustls::RootCertStore::empty())
        .with_resolver(Arc::new(resolver));
    let failed_dials = FailedDials::kept();
    let request = SessionRequest {
        failed_dials: failed_dials.clone(),
        ..SessionRequest::default()
    };
    for _ in 0..10 {
        let session = dialer.open_in(&routes.pools["main"], &request).await;
        let session = session.expect("a session");
        assert_eq!(session.place.deployment().name(), "named");
    }
    let text = metrics.render().expect("metrics");
    assert!(text.contains(r#"trunkline_dial_failures_total{deployment="plain",reason="tls"} 7"#));
    assert!(
        text.contains(r#"trunkline_dns_fallbacks_total{deployment="named"} 7"#),
        "{text}"
    );
    let failed = failed_dials.take();
    let failed: Vec<_> = failed
        .iter()
        .map(|it| (&*it.deployment, it.cause))
        .collect();
    assert_eq!(failed, [("plain", "tls"); 7]);
    assert!(failed_dials.take().is_empty());
    // An address has nothing to be looked up, and the connection is counted without it.
    for (phase, deployment, n) in [
        ("resolve", "named", 10),
        ("dial", "named", 10),
        ("dial", "plain", 7),
    ] {
        let count = format!(
            "trunkline_call_setup_seconds_count{{deployment=\"{deployment}\",phase=\"{phase}\"}} {n}"
        );
        assert!(text.contains(&count), "{count}: {text}");
    }
    assert!(!text.contains(r#"{deployment="plain",phase="resolve"}"#));
    stop.cancel();
    serving.await.expect("no panic");
}
