//! Quota at work: who is let in, what a call is told of its budgets, and how well its needs are foreseen.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use trunkline::call::EndReason;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, Mood, SoftPhone, speech};

use crate::client::{Client, pcm_frames};
use crate::harness::{CONFIG, World};
use crate::wire::{Heard, Wire};

const GA: &str = "/openai/v1/realtime?model=ga";

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

/// An SDK client that types: a text of so many characters every so often.
#[derive(Clone, Copy)]
struct Typist {
    every: f64,
    n_chars: usize,
    /// The pauses vary by this share.
    unevenness: f64,
    seed: u64,
}

/// What became of its call.
#[derive(Debug, Default)]
struct Typed {
    n_responses: u32,
    n_refused: u32,
    tokens: u64,
}

impl Typist {
    /// Talks until then, on a call that was let in.
    async fn talk(self, mut wire: Wire, until: Instant) -> Typed {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut typed = Typed::default();
        let instructions = "x".repeat(1_992);
        let session = json!({"type": "realtime", "instructions": instructions, "output_modalities": ["text"]});
        let update = json!({"type": "session.update", "session": session});
        wire.text(&update.to_string()).await;
        loop {
            let off = 1.0 + self.unevenness * (2.0 * random.f64() - 1.0);
            let next = Instant::now() + seconds(self.every * off);
            let part = json!({"type": "input_text", "text": "y".repeat(self.n_chars)});
            let item = json!({"type": "message", "role": "user", "content": [part]});
            let create = json!({"type": "conversation.item.create", "item": item});
            wire.text(&create.to_string()).await;
            wire.text(r#"{"type":"response.create"}"#).await;
            let done = response_done(&mut wire).await;
            typed.n_responses += 1;
            typed.tokens += done["usage"]["total_tokens"].as_u64().unwrap_or(0);
            let code = &done["status_details"]["error"]["code"];
            typed.n_refused += u32::from(code == "rate_limit_exceeded");
            if next >= until {
                break;
            }
            // Listens, to answer pings.
            while timeout_at(next, wire.next()).await.is_ok() {}
        }
        wire.close(1000, "").await;
        typed
    }
}

async fn response_done(wire: &mut Wire) -> Value {
    loop {
        let Heard::Text(text) = wire.next().await else {
            panic!("the call ended");
        };
        let event: Value = serde_json::from_str(&text).expect("JSON");
        if event["type"] == "response.done" {
            return event["response"].clone();
        }
    }
}

/// A phone that talks for so long: a sentence of 2.3 s, then silence, 20 ms at a time.
async fn phone_talks(world: &World, pause: f64, length: Duration) {
    let mut client = Client::connect(world.connect(), "ga").await;
    client.start_pcm().await;
    let frames = pcm_frames(&speech::hours());
    let end = Instant::now() + length;
    while Instant::now() < end {
        client.say(&frames).await;
        client.silence(seconds(pause)).await;
    }
    client.vanish();
}

/// Replies of 125 tokens if written, and of 5 s if spoken.
fn replies(quota: &str) -> String {
    let say = "z".repeat(492);
    format!(
        "reply = {{ mode = 'script', repeat = true, turns = [{{ say = '{say}', length = '5s' }}] }}\n[quota]\n{quota}\n"
    )
}

/// Tokens a minute of a deployment that eight calls do not run over.
const LIMIT: u32 = 280_000;

fn counted(world: &World) -> f64 {
    let counts = world.simulator.quota("gpt-realtime");
    counts.map_or(0.0, |counts| counts.tokens)
}

#[tokio::test(start_paused = true)]
async fn the_coming_minutes_are_foreseen_to_within_a_tenth() {
    // The deployment says nothing of its limits: the account has nothing but its own arithmetic.
    let config = format!("{CONFIG}\n[deployments.ga.quota]\ntokens_per_minute = {LIMIT}\n");
    let simulator = replies(&format!("rate_limits = 'off'\ntokens_per_minute = {LIMIT}"));
    let world = World::with_config(&config, &simulator);
    let begin = Instant::now();
    let minutes = |n: f64| begin + seconds(60.0 * n);
    let typists = [
        (15.0, 120, 0.2, 10.2),
        (20.0, 300, 0.4, 10.2),
        (9.0, 60, 0.3, 10.2),
        (30.0, 800, 0.3, 10.2),
        (12.0, 200, 0.0, 7.4),
    ];
    let typing =
        typists
            .into_iter()
            .zip(1..)
            .map(async |((every, n_chars, unevenness, until), seed)| {
                sleep(seconds(3.0 * seed as f64)).await;
                let typist = Typist {
                    every,
                    n_chars,
                    unevenness,
                    seed,
                };
                typist
                    .talk(Wire::open(&world, GA).await, minutes(until))
                    .await
            });
    let phones = [(7.0, 10.3), (13.0, 10.3), (22.0, 8.3)]
        .map(async |(pause, length)| phone_talks(&world, pause, seconds(60.0 * length)).await);
    let watching = async {
        let (mut off, mut all) = (0.0, 0.0);
        let account = world.gateway.quota().account("ga");
        for n in 1..=9 {
            sleep_until(minutes(f64::from(n))).await;
            let expected = world.gateway.quota().expected_in_minute("ga");
            let before = counted(&world);
            sleep_until(minutes(f64::from(n + 1))).await;
            let used = counted(&world) - before;
            let theirs = world.simulator.quota("gpt-realtime").expect("asked for");
            let ours = f64::from(LIMIT) - account.tokens_left();
            println!(
                "minute {n}: expected {expected:.0}, used {used:.0} tokens; taken {:.0}, we think {ours:.0}",
                theirs.tokens_used
            );
            assert!(
                (ours - theirs.tokens_used).abs() < 2_000.0,
                "the account is off by more than 2 %"
            );
            off += (expected - used).abs();
            all += used;
        }
        off / all
    };
    let (typed, _, error) = tokio::join!(join_all(typing), join_all(phones), watching);
    println!("forecast error {:.1} %", error * 100.0);
    assert!(error < 0.1, "{error}");
    assert!(all_used(&typed) > 100_000);
    let observed = world.metric(r#"trunkline_forecast_error_ratio_count{pool="ga"}"#);
    assert!(observed >= 9.0, "{observed}");
    // Nobody talks any more, so that nothing is open: what was billed is what we counted.
    sleep(seconds(30.0)).await;
    let metered: f64 = tokens_metered(&world);
    assert_eq!(metered, counted(&world));
}

fn all_used(typed: &[Typed]) -> u64 {
    typed.iter().map(|typed| typed.tokens).sum()
}

fn tokens_metered(world: &World) -> f64 {
    let text = world.gateway.metrics().render().expect("metrics");
    text.lines()
        .filter(|line| line.starts_with("trunkline_usage_tokens_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// What came of callers who come every 15 s for 20 minutes, each with the call of the reference (6.2) for 4 to 12.
#[derive(Debug, Default)]
struct Rush {
    n_admitted: u32,
    n_refused: u32,
    n_rate_limited: u32,
    refusals: Vec<String>,
}

async fn rush(admission: &str) -> Rush {
    let config = format!(
        "{CONFIG}\n[quota]\nadmission = '{admission}'\n[quota.expect]\nmean_minutes = 15\n"
    );
    let world = World::with_config(&config, &replies("enforce = 'response'"));
    let rush = rush_to(&world, GA, (4.0, 12.0)).await;
    println!("{admission}: {rush}");
    rush
}

impl std::fmt::Display for Rush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} admitted, {} refused, {} responses refused in band",
            self.n_admitted, self.n_refused, self.n_rate_limited
        )
    }
}

/// Callers of calls between so many minutes.
async fn rush_to(world: &World, target: &str, (shortest, longest): (f64, f64)) -> Rush {
    let callers = (0..80).map(async |n: u64| {
        sleep(seconds(15.0 * n as f64)).await;
        let typist = Typist {
            every: 15.0,
            n_chars: 112,
            unevenness: 0.2,
            seed: n,
        };
        let minutes = shortest + (longest - shortest) * fastrand::Rng::with_seed(n).f64();
        let until = Instant::now() + seconds(60.0 * minutes);
        match Wire::try_open(world, target).await {
            Ok(wire) => Ok(typist.talk(wire, until).await),
            Err(answer) => Err(answer),
        }
    });
    let mut rush = Rush::default();
    for outcome in join_all(callers).await {
        match outcome {
            Ok(typed) => {
                rush.n_admitted += 1;
                rush.n_rate_limited += typed.n_refused;
            }
            Err(answer) => {
                rush.n_refused += 1;
                rush.refusals.push(answer);
            }
        }
    }
    world.assert_quiet().await;
    rush
}

#[tokio::test(start_paused = true)]
async fn without_forecast_calls_are_let_in_that_cannot_be_finished() {
    let rush = rush("reactive").await;
    assert!(rush.n_admitted > 15, "{rush:?}");
    assert!(rush.n_rate_limited > 100, "{rush:?}");
}

#[tokio::test(start_paused = true)]
async fn by_forecast_no_call_that_was_let_in_meets_the_limit() {
    let rush = rush("forecast").await;
    assert!(rush.n_admitted >= 3, "{rush:?}");
    assert_eq!(rush.n_rate_limited, 0);
    assert!(rush.n_refused > 15);
    for answer in &rush.refusals {
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("\r\nretry-after: "), "{answer}");
        assert!(answer.contains("capacity_exceeded"), "{answer}");
    }
}

const MAIN: &str = "/openai/v1/realtime?model=main";

/// Deployments with their grants, as the gateway knows them and as the far end keeps them, in a pool `main`.
fn pool(admission: &str, members: &str, grants: &[(&str, &str)], are_told: bool) -> World {
    let mut config = format!(
        "[auth]\nmode = 'none'\n[quota]\nadmission = '{admission}'\n[quota.expect]\nmean_minutes = 6\n\
         [pools.main]\ndeployments = {members}\n"
    );
    let mut simulator = replies("");
    for (name, grant) in grants {
        config += &format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\n"
        );
        if are_told {
            config += &format!("[deployments.{name}.quota]\n{grant}\n");
        }
        simulator += &format!("[deployments.{name}.quota]\nenforce = 'response'\n{grant}\n");
    }
    World::with_config(&config, &simulator)
}

fn used(world: &World, deployment: &str) -> f64 {
    let counts = world.simulator.quota(deployment);
    counts.map_or(0.0, |counts| counts.tokens)
}

const UNLIKE: [(&str, &str); 2] = [
    ("small", "tokens_per_minute = 100_000"),
    ("large", "tokens_per_minute = 300_000"),
];

#[tokio::test(start_paused = true)]
async fn calls_go_where_their_tokens_will_fit() {
    for (admission, minutes) in [("reactive", (3.0, 10.0)), ("forecast", (4.0, 12.0))] {
        let world = pool(admission, "['small', 'large']", &UNLIKE, true);
        let rush = rush_to(&world, MAIN, minutes).await;
        let share = used(&world, "small") / (used(&world, "small") + used(&world, "large"));
        println!(
            "{admission}: {rush}; {:.1} % of the tokens at the small one",
            share * 100.0
        );
        assert!(rush.n_admitted > 40, "{rush:?}");
        assert!(admission == "forecast" || rush.n_admitted == 80, "{rush:?}");
        assert_eq!(rush.n_rate_limited, 0);
        // A quarter by the grants, half by sessions. Ties are broken by chance.
        assert!((0.18..0.33).contains(&share), "{share}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_fails_carries_nothing() {
    let world = pool("forecast", "['small', 'large']", &UNLIKE, true);
    world.simulator.set_mood("large", Mood::Refusing(503));
    let rush = rush_to(&world, MAIN, (4.0, 12.0)).await;
    println!("without the large one: {rush}");
    assert!((3..25).contains(&rush.n_admitted), "{rush:?}");
    assert_eq!(rush.n_rate_limited, 0);
}

/// What the above is measured against: grants that nobody knows of.
#[tokio::test(start_paused = true)]
async fn by_sessions_the_small_one_is_asked_for_too_much() {
    let world = pool("reactive", "['small', 'large']", &UNLIKE, false);
    let rush = rush_to(&world, MAIN, (3.0, 10.0)).await;
    println!("not told: {rush}");
    // A session that was refused a response goes on at the other one, so that there are not many of them.
    assert!(rush.n_rate_limited > 15, "{rush:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_provisioned_deployment_spills_to_the_next_tier() {
    let members = "['units', { name = 'standard', priority = 1 }]";
    let grants = [
        ("units", "provisioned_units = 15"),
        ("standard", "tokens_per_minute = 300_000"),
    ];
    let world = pool("forecast", members, &grants, true);
    let first = Wire::open(&world, MAIN).await;
    let sessions = |deployment: &str| {
        let all = world.simulator.sessions();
        all.iter().filter(|it| it.deployment == deployment).count()
    };
    assert_eq!((sessions("units"), sessions("standard")), (1, 0));
    drop(first);
    let rush = rush_to(&world, MAIN, (4.0, 12.0)).await;
    let (units, standard) = (sessions("units"), sessions("standard"));
    println!("{rush}; {units} at the units, {standard} spilt");
    assert_eq!(rush.n_rate_limited, 0);
    assert!(units > 10 && standard > 10, "{units}, {standard}");
    let spilt = r#"trunkline_dial_choices_total{deployment="standard",pool="main",reason="spill"}"#;
    assert!(world.metric(spilt) > 10.0);
    // With nobody left there, it is the first again.
    let _again = Wire::open(&world, MAIN).await;
    assert_eq!(sessions("units"), units + 1);
}

/// "Please try again in 2.6s": so long, and no longer, by both who count and who choose.
#[tokio::test(start_paused = true)]
async fn what_a_refusal_in_band_says_of_time_is_believed() {
    let grants = [("one", "tokens_per_minute = 4_200")];
    let world = pool("reactive", "['one']", &grants, true);
    let mut wire = Wire::open(&world, MAIN).await;
    let session = json!({"type": "realtime", "output_modalities": ["text"]});
    let update = json!({"type": "session.update", "session": session});
    wire.text(&update.to_string()).await;
    let create = r#"{"type":"response.create"}"#;
    wire.text(create).await;
    assert_eq!(response_done(&mut wire).await["status"], "completed");
    wire.text(create).await;
    let error = &response_done(&mut wire).await["status_details"]["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    let message = error["message"].as_str().expect("a message");
    let (_, time) = message.rsplit_once("try again in ").expect("a time");
    let time: f64 = time.trim_end_matches("s.").parse().expect("seconds");
    assert!((0.1..4.0).contains(&time), "{message}");
    let account = world.gateway.quota().account("one");
    let left = account.can_take(1.0).expect_err("paused");
    assert!((left.as_secs_f64() - time).abs() < 0.01, "{left:?}, {time}");
    let paused = r#"trunkline_deployment_condition{condition="paused",deployment="one"}"#;
    assert_eq!(world.metric(paused), 1.0);
    assert!(Wire::try_open(&world, MAIN).await.is_err());
    sleep(seconds(time + 0.01)).await;
    assert_eq!(account.can_take(1.0), Ok(()));
    drop(wire);
}

/// The usual configuration with limits of the tenant that everybody is of.
fn limited(quota: &str) -> String {
    format!("{CONFIG}\n[tenants.default.quota]\n{quota}\n")
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_a_tenants_number_are_refused_before_the_upgrade() {
    let world = World::with_config(&limited("max_calls = 1"), "");
    let mut first = Wire::open(&world, GA).await;
    for target in [GA, "/v1/audio/ga", "/twilio/media/ga"] {
        let answer = Wire::try_open(&world, target).await.expect_err("refused");
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("tenant_calls_exceeded"), "{answer}");
        assert!(answer.contains("\r\nretry-after-ms: "), "{answer}");
    }
    let refused =
        r#"trunkline_quota_refused_total{reason="tenant_calls_exceeded",tenant="default"}"#;
    assert_eq!(world.metric(refused), 3.0);
    assert_eq!(
        world.simulator.sessions().len(),
        1,
        "nothing was opened for them"
    );
    first.close(1000, "").await;
    first.until_close().await;
    sleep(seconds(1.0)).await;
    let second = Wire::open(&world, GA).await;
    drop(second);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_blocked_tenant_is_out_at_once() {
    let world = World::new("");
    let mut wire = Wire::open(&world, GA).await;
    world.gateway.quota().block("default", true);
    let (close, texts) = wire.until_close().await;
    assert_eq!(close, Some((1000, "budget_exhausted".to_owned())));
    assert_eq!(
        texts.last().expect("an error")["error"]["code"],
        "budget_exhausted"
    );
    let answer = Wire::try_open(&world, GA).await.expect_err("refused");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    world.gateway.quota().block("default", false);
    drop(Wire::open(&world, GA).await);
}

#[tokio::test(start_paused = true)]
async fn an_sdk_client_is_warned_and_then_taken_leave_of() {
    let world = World::with_config(&limited("tokens_per_day = 5000"), &replies(""));
    let mut wire = Wire::open(&world, GA).await;
    let update = json!({"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"]}});
    wire.text(&update.to_string()).await;
    let mut codes = Vec::new();
    let mut tokens = Vec::new();
    let mut total = 0;
    let (code, reason) = loop {
        wire.text(r#"{"type":"response.create"}"#).await;
        let pause = Instant::now() + seconds(5.0);
        let heard = loop {
            match timeout_at(pause, wire.next()).await {
                Ok(Heard::Text(text)) => {
                    let event: Value = serde_json::from_str(&text).expect("JSON");
                    if event["type"] == "error" {
                        codes.push(event["error"]["code"].as_str().expect("a code").to_owned());
                        tokens.push(total);
                    }
                    total += event["response"]["usage"]["total_tokens"]
                        .as_u64()
                        .unwrap_or(0);
                }
                Ok(other) => break Some(other),
                Err(_) => break None,
            }
        };
        if let Some(Heard::Close { code, reason }) = heard {
            break (code, reason);
        }
    };
    assert_eq!(codes, ["budget_warning", "budget_exhausted"]);
    assert!((4_500..5_000).contains(&tokens[0]), "{tokens:?}");
    assert!((5_000..7_000).contains(&tokens[1]), "{tokens:?}");
    assert_eq!((code, reason.as_str()), (1000, "budget_exhausted"));
    assert_eq!(world.ended(1).await.end_reason, EndReason::BudgetExhausted);
    let told = |kind| {
        format!(
            r#"trunkline_budget_notices_total{{budget="tokens_per_day",kind="{kind}",tenant="default"}}"#
        )
    };
    assert_eq!(world.metric(&told("warning")), 1.0);
    assert_eq!(world.metric(&told("over")), 1.0);
    // Nothing is left for this day.
    let answer = Wire::try_open(&world, GA).await.expect_err("refused");
    assert!(answer.contains("tenant_tokens_of_day_exceeded"), "{answer}");
    drop(wire);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_phone_hears_a_good_bye_when_its_time_is_up() {
    let world = World::with_config(&limited("max_call = '40s'"), "");
    let phone = SoftPhone::new("ws://gateway/v1/audio/ga", Dialect::Audio)
        .expect("a good address")
        .script([
            Act::Say(speech::hours()),
            Act::WaitForEnd {
                timeout: seconds(120.0),
            },
        ]);
    let report = world.call(&phone).await;
    let summary = world.ended(1).await;
    assert_eq!(summary.end_reason, EndReason::BudgetExhausted, "{report}");
    assert_eq!(report.end_reason.as_deref(), Some("budget_exhausted"));
    let record = world.simulator.sessions().pop().expect("a session");
    // The warning, as a system message, and the response that says good-bye.
    assert_eq!(record.received.get("conversation.item.create"), Some(&1));
    assert_eq!(record.received.get("response.create"), Some(&1));
    let length = summary.duration.as_secs_f64();
    assert!((40.0..60.0).contains(&length), "{length}");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_used_costs_what_the_table_says() {
    let prices = "[prices.gpt-realtime]\ninput_text = 4.0\noutput_text = 16.0\n";
    let config = format!("{CONFIG}\n{prices}");
    let world = World::with_config(&config, &replies(""));
    let wire = Wire::open(&world, GA).await;
    let typist = Typist {
        every: 15.0,
        n_chars: 112,
        unevenness: 0.0,
        seed: 1,
    };
    typist.talk(wire, Instant::now() + seconds(60.0)).await;
    world.ended(1).await;
    let tokens = |cached: bool, direction: &str| {
        world.metric(&format!(
            r#"trunkline_usage_tokens_total{{cached="{cached}",deployment="ga",direction="{direction}",modality="text",tenant="default"}}"#
        ))
    };
    let input = tokens(false, "input") + tokens(true, "input");
    let expected = (4.0 * input + 16.0 * tokens(false, "output")) / 1e6;
    let cost = r#"trunkline_usage_cost_total{currency="USD",deployment="ga",tenant="default"}"#;
    assert!(expected > 0.0);
    assert!((world.metric(cost) - expected).abs() < 1e-9);
}

async fn voice(world: &World, from: &str) -> String {
    let form = format!("CallSid=CA1&AccountSid=AC1&From={from}&To=15550002222");
    let head = format!(
        "POST /twilio/voice/ga HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    world.http(&head).await
}

#[tokio::test(start_paused = true)]
async fn a_ringing_phone_holds_its_place_until_its_stream_comes() {
    let world = World::with_config(&limited("max_calls = 1"), "");
    let leases = || world.metric(r#"trunkline_quota_leases{pool="ga"}"#);
    let answer = voice(&world, "15550001111").await;
    assert!(answer.contains("<Stream"), "{answer}");
    assert_eq!(leases(), 1.0, "the place that is kept");
    let busy = voice(&world, "15550003333").await;
    assert!(busy.contains(r#"<Reject reason="busy"/>"#), "{busy}");
    // The stream of the first takes the place that was kept.
    let stream = Wire::open(&world, "/twilio/media/ga").await;
    assert_eq!(leases(), 1.0, "the same");
    drop(stream);
    sleep(seconds(40.0)).await;
    assert_eq!(leases(), 0.0, "the call is over");
    assert!(voice(&world, "15550001111").await.contains("<Stream"));
    // Whose stream does not come gives its place back.
    sleep(seconds(62.0)).await;
    assert!(voice(&world, "15550003333").await.contains("<Stream"));
    sleep(seconds(62.0)).await;
    assert_eq!(leases(), 0.0, "nobody came");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn one_number_has_its_own_limit_and_hears_why() {
    let config = format!(
        "{}[twilio]\nbusy_message = 'All lines are busy.'\n",
        limited("calls_per_caller = 1")
    );
    let world = World::with_config(&config, "");
    assert!(voice(&world, "15550001111").await.contains("<Stream"));
    let busy = voice(&world, "15550001111").await;
    assert!(
        busy.contains("<Say>All lines are busy.</Say><Hangup/>"),
        "{busy}"
    );
    assert!(voice(&world, "15550003333").await.contains("<Stream"));
    let refused =
        r#"trunkline_quota_refused_total{reason="caller_calls_exceeded",tenant="default"}"#;
    assert_eq!(world.metric(refused), 1.0);
}
