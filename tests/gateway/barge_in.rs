//! An interrupted model knows what was heard, to 20 ms.

use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::time::Instant;
use trunkline::media::{AudioFormat, Codec, SampleRate};
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::wav::Clip;
use trunkline::simulator::{Act, CallReport, SessionRecord, SoftPhone, speech};

use crate::client::{Client, FRAME_BYTES, What, pcm_frames};
use crate::harness::{CONFIG, World};
use crate::network::{Network, Tap};

/// How far the truncation may be from what was heard (the project's promise).
const BOUND_MS: f64 = 20.0;

/// Replies of six seconds, generated in a bit more than one.
const LONG_REPLIES: &str = r#"
[reply]
mode = "script"
turns = [{ say = "A long answer that nobody wants to hear to its end.", length = "6s" }]
"#;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The beginning of an interruption: long enough for any turn detection, and short.
fn interruption() -> Clip {
    let clip = speech::wait();
    Clip::new(&clip.samples[..clip.rate as usize * 8 / 10], clip.rate)
}

/// What a caller does who interrupts at these points of the replies.
fn script(points_ms: &[u64]) -> Vec<Act> {
    let mut acts = vec![Act::Say(interruption())];
    for point in points_ms {
        acts.push(Act::BargeInAfter {
            heard: ms(*point),
            timeout: Duration::from_secs(20),
        });
        acts.push(Act::Say(interruption()));
    }
    acts.push(Act::HangUp);
    acts
}

/// Random points of a six-second reply, half of them in its first second.
fn random_points(n: usize, seed: u64) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..n)
        .map(|n| {
            if n % 2 == 0 {
                random.u64(1..1_000)
            } else {
                random.u64(1_000..5_200)
            }
        })
        .collect()
}

fn phone(agent: &str, dialect: Dialect, format: AudioFormat) -> SoftPhone {
    let url = match dialect {
        Dialect::Twilio => format!("ws://gateway/twilio/media/{agent}"),
        _ => format!("ws://gateway/v1/audio/{agent}"),
    };
    SoftPhone::new(&url, dialect)
        .and_then(|phone| phone.format(format))
        .expect("a good address")
}

/// Calls over this stream and waits until the gateway is done with it.
async fn call(world: &World, phone: &SoftPhone, stream: DuplexStream) -> CallReport {
    let report = phone.call(stream).await;
    assert_eq!(report.failure, None, "{report}");
    world.ended(1).await;
    report
}

/// Compares what the model was told with what the phone played; returns the largest difference in ms.
fn compare(report: &CallReport, record: &SessionRecord, n: usize) -> f64 {
    assert_eq!(report.script_failures.len(), 0, "{report}");
    assert_eq!(report.violations.len(), 0, "{report}");
    assert_eq!(report.clears.len(), n, "{report}");
    assert_eq!(record.truncates.len(), n, "{:?}", record.truncates);
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    let mut worst: f64 = 0.0;
    for (clear, cut) in report.clears.iter().zip(&record.truncates) {
        assert!(cut.accepted && cut.audio_end_ms > 0, "{cut:?}");
        assert!(cut.audio_end_ms <= cut.sent_ms, "{cut:?}");
        worst = worst.max((clear.played_ms - cut.audio_end_ms as f64).abs());
    }
    worst
}

/// Nothing sounds between a clear and the end of what the caller says.
fn assert_silent_after_clears(report: &CallReport) {
    let audio = report.audio_in_time.as_ref().expect("audio was kept");
    let index = |at_ms: f64| {
        let since_answer = at_ms - report.answered_ms.expect("answered");
        (since_answer * f64::from(audio.rate) / 1_000.0).ceil() as usize
    };
    for clear in &report.clears {
        let spoken = report
            .turns
            .iter()
            .filter_map(|turn| turn.speech_end_ms)
            .find(|end| *end >= clear.at_ms)
            .expect("the caller speaks");
        let len = audio.samples.len();
        let (from, until) = (index(clear.at_ms).min(len), index(spoken).min(len));
        assert!(
            audio.samples[from..until].iter().all(|s| *s == 0),
            "sound after {clear}"
        );
    }
    for turn in &report.turns {
        if let Some(barge_in) = &turn.barge_in {
            assert_eq!(barge_in.silence_after_ms, barge_in.clear_after_ms);
        }
    }
}

async fn check_random(agent: &str, dialect: Dialect, format: AudioFormat, seed: u64) {
    const N: usize = 100;
    let world = World::new(&format!("seed = {seed}\n{LONG_REPLIES}"));
    let phone = phone(agent, dialect, format).script(script(&random_points(N, seed)));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, N);
    println!(
        "{} {format} {agent}: {N} barge-ins, off by {worst:.2} ms at most",
        dialect.name()
    );
    assert!(worst <= BOUND_MS, "{worst}");
    assert_silent_after_clears(&report);
    assert_eq!(world.ended(1).await.n_barge_ins, N as u64);
}

#[tokio::test(start_paused = true)]
async fn at_random_times_over_twilio() {
    check_random("ga", Dialect::Twilio, AudioFormat::ULAW_8K, 11).await;
}

#[tokio::test(start_paused = true)]
async fn at_random_times_over_twilio_with_passthrough() {
    check_random("pass", Dialect::Twilio, AudioFormat::ULAW_8K, 12).await;
}

#[tokio::test(start_paused = true)]
async fn at_random_times_over_plain_audio() {
    check_random("ga", Dialect::Audio, AudioFormat::MODEL_PCM, 13).await;
}

#[tokio::test(start_paused = true)]
async fn at_random_times_at_a_rate_of_its_own_on_preview() {
    let format = AudioFormat {
        codec: Codec::Pcm16,
        rate: SampleRate::HZ_44100,
    };
    check_random("preview", Dialect::Audio, format, 14).await;
}

/// Which marks a scripted client sends back.
#[derive(Clone, Copy, PartialEq)]
enum Echo {
    Never,
    /// Marks that a clear threw away, in the middle of the next reply.
    ClearedOnesLate,
}

/// Interrupts at these points; returns the difference between model and ear each time, in ms.
async fn interrupt_by_hand(world: &World, points_ms: &[u64], echo: Echo) -> Vec<f64> {
    let mut client = Client::connect(world.connect(), "ga").await;
    client.start_pcm().await;
    let words = pcm_frames(&interruption());
    client.say(&words).await;
    let mut played = Vec::new();
    let mut old_marks: Vec<String> = Vec::new();
    for point in points_ms {
        let begin = client.seen.len();
        let is_audio = |what: &What| matches!(what, What::Audio(_));
        while client.played(client.seen.len(), Instant::now()) < ms(*point)
            || !client.seen[begin..].iter().any(|seen| is_audio(&seen.what))
        {
            client.tick(vec![0; FRAME_BYTES]).await;
        }
        for name in old_marks.drain(..) {
            let mark = serde_json::json!({"type": "mark", "name": name});
            client.text(&mark).await;
        }
        client.say(&words).await;
        let cleared = begin
            + client.seen[begin..]
                .iter()
                .position(|seen| seen.what.is("clear"))
                .expect("a clear");
        played.push(client.played(cleared, client.seen[cleared].at));
        assert!(
            !client.seen[cleared..]
                .iter()
                .any(|seen| is_audio(&seen.what)),
            "the old reply goes on after the clear"
        );
        if echo == Echo::ClearedOnesLate {
            let marks = client.seen[begin..cleared].iter().filter_map(|seen| {
                let What::Text(value) = &seen.what else {
                    return None;
                };
                let name = value["name"].as_str().filter(|_| seen.what.is("mark"));
                name.map(str::to_owned)
            });
            old_marks.extend(marks);
        }
    }
    client.text(&serde_json::json!({"type": "end"})).await;
    world.ended(1).await;
    let record = world.simulator.sessions().remove(0);
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    assert_eq!(record.truncates.len(), points_ms.len());
    let off = played.iter().zip(&record.truncates).map(|(played, cut)| {
        assert!(cut.accepted && cut.audio_end_ms <= cut.sent_ms, "{cut:?}");
        (played.as_secs_f64() * 1_000.0 - cut.audio_end_ms as f64).abs()
    });
    off.collect()
}

#[tokio::test(start_paused = true)]
async fn at_random_times_by_a_client_without_marks() {
    let world = World::new(&format!("seed = 15\n{LONG_REPLIES}"));
    let off = interrupt_by_hand(&world, &random_points(100, 15), Echo::Never).await;
    let worst = off.iter().copied().fold(0.0, f64::max);
    println!("audio without marks: off by {worst:.2} ms at most");
    assert!(worst <= BOUND_MS, "{worst}");
}

#[tokio::test(start_paused = true)]
async fn marks_of_a_cleared_reply_do_not_count_for_the_next() {
    let world = World::new(&format!("seed = 16\n{LONG_REPLIES}"));
    // Long, short, long, short: late marks of a long reply would add to the short one.
    let points = [4_000, 300, 3_000, 150, 2_000, 60];
    let off = interrupt_by_hand(&world, &points, Echo::ClearedOnesLate).await;
    let worst = off.iter().copied().fold(0.0, f64::max);
    assert!(worst <= BOUND_MS, "{off:?}");
}

/// An agent whose deployment leaves it to the gateway to stop a reply.
fn gateway_interrupts() -> String {
    format!(
        "{CONFIG}\n[agents.manual]\ndeployment = 'ga'\n[agents.manual.session]\n\
         turn_detection = {{ type = 'server_vad', interrupt_response = false }}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn the_gateway_cancels_where_the_deployment_does_not() {
    const N: usize = 40;
    // As slow as speech: every reply is still being generated when it is interrupted.
    let simulator = format!("{LONG_REPLIES}\n[latency]\nspeed = 1.2\n");
    let world = World::with_config(&gateway_interrupts(), &simulator);
    let points: Vec<u64> = random_points(N, 17).iter().map(|p| p * 8 / 10).collect();
    let phone = phone("manual", Dialect::Twilio, AudioFormat::ULAW_8K).script(script(&points));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, N);
    assert!(worst <= BOUND_MS, "{worst}");
    assert_silent_after_clears(&report);
    assert_eq!(record.cancels.len(), N);
    assert!(record.cancels.iter().all(|c| c.response_id.is_some()));
}

#[tokio::test(start_paused = true)]
async fn late_words_of_an_interrupted_reply_are_not_played() {
    const N: usize = 20;
    let simulator = format!("{LONG_REPLIES}\n[latency]\nspeed = 1.2\n");
    // What the deployment says while the cancel is under way comes late.
    let model = Network::delayed(ms(150));
    let world = World::with_model_link(&gateway_interrupts(), &simulator, move |s| model.link(s));
    let points: Vec<u64> = random_points(N, 18).iter().map(|p| p * 8 / 10).collect();
    let phone = phone("manual", Dialect::Audio, AudioFormat::MODEL_PCM).script(script(&points));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, N);
    assert!(worst <= BOUND_MS, "{worst}");
    assert_silent_after_clears(&report);
    let sent: u64 = record.responses.iter().map(|r| r.audio_ms).sum();
    let received = report.received.audio_ms;
    assert!(sent as f64 > received, "{sent} ms sent, {received} ms came");
}

/// F2 of the faults reference: generation is over, playing is not.
async fn check_generated_and_still_playing(agent: &str) {
    let world = World::with_config(&gateway_interrupts(), LONG_REPLIES);
    let points = [2_500, 4_000, 5_500];
    let phone = phone(agent, Dialect::Twilio, AudioFormat::ULAW_8K).script(script(&points));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, points.len());
    assert!(worst <= BOUND_MS, "{worst}");
    assert_eq!(record.cancels.len(), 0, "there was nothing to cancel");
    let completed = |n: usize| record.responses[n].status == "completed";
    assert!((0..points.len()).all(completed), "{:?}", record.responses);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_generated_and_still_playing_is_cut_without_a_cancel() {
    check_generated_and_still_playing("ga").await;
    check_generated_and_still_playing("manual").await;
}

#[tokio::test(start_paused = true)]
async fn one_barge_in_after_another() {
    let world = World::new(LONG_REPLIES);
    let points = [1, 1, 20, 40, 1, 60, 1];
    let phone = phone("ga", Dialect::Twilio, AudioFormat::ULAW_8K).script(script(&points));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, points.len());
    assert!(worst <= BOUND_MS, "{worst}");
    assert_silent_after_clears(&report);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_ran_dry_leaves_nothing_to_the_next() {
    // 250 ms come and a hole; the last 10 ms are half a frame.
    let simulator = format!(
        "{LONG_REPLIES}\n[[faults]]\nkind = 'stall'\nafter_deltas = 2\nfirst_responses = 1\n"
    );
    let world = World::new(&simulator);
    let mut acts = script(&[240]);
    let reply = Act::WaitForReply {
        min_audio: ms(300),
        until_end: true,
        timeout: Duration::from_secs(20),
    };
    acts.insert(acts.len() - 1, reply);
    let phone = phone("ga", Dialect::Audio, AudioFormat::MODEL_PCM).script(acts);
    let report = call(&world, &phone, world.connect()).await;
    let worst = compare(&report, &world.simulator.sessions().remove(0), 1);
    assert!(worst <= BOUND_MS, "{worst}");
    assert_eq!(report.heard.played_ms, 240.0 + 6_000.0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_greeting_can_be_interrupted() {
    for interrupt in [true, false] {
        let config = format!(
            "{CONFIG}\n[agents.greeter]\ndeployment = 'ga'\ngreeting = 'Greet the caller.'\n\
             [agents.greeter.session]\n\
             turn_detection = {{ type = 'server_vad', interrupt_response = {interrupt} }}\n"
        );
        let world = World::with_config(&config, LONG_REPLIES);
        let mut acts = script(&[700]);
        acts.remove(0);
        let phone = phone("greeter", Dialect::Audio, AudioFormat::MODEL_PCM).script(acts);
        let report = call(&world, &phone, world.connect()).await;
        let record = world.simulator.sessions().remove(0);
        let worst = compare(&report, &record, 1);
        assert!(worst <= BOUND_MS, "{worst}");
        assert_silent_after_clears(&report);
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_of_which_nothing_was_heard_is_deleted() {
    let simulator = r#"
        [reply]
        mode = "script"
        turns = [
            { say = "Let me look that up for you.", length = "3s", calls = [{ name = "look_up" }] },
            { say = "Here it is, waiting behind the first sentence.", length = "3s" },
        ]
    "#;
    let world = World::new(simulator);
    let phone = phone("ga", Dialect::Twilio, AudioFormat::ULAW_8K).script(script(&[1_500]));
    let report = call(&world, &phone, world.connect()).await;
    let record = world.simulator.sessions().remove(0);
    let worst = compare(&report, &record, 1);
    assert!(worst <= BOUND_MS, "{worst}");
    assert_eq!(record.responses.len(), 2, "{:?}", record.responses);
    assert_eq!(record.received.get("conversation.item.delete"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn the_caller_is_silenced_before_the_model_is_told() {
    let caller = Tap::new(["gateway to caller", "caller"]);
    let model = Network {
        tap: Some(caller.beside(["gateway to model", "model"])),
        ..Network::default()
    };
    let simulator = format!("{LONG_REPLIES}\n[latency]\nspeed = 1.2\n");
    let world = World::with_model_link(&gateway_interrupts(), &simulator, move |s| model.link(s));
    let network = Network {
        tap: Some(caller.clone()),
        ..Network::default()
    };
    let phone =
        phone("manual", Dialect::Twilio, AudioFormat::ULAW_8K).script(script(&[800, 1_700]));
    let report = call(&world, &phone, network.link(world.connect())).await;
    assert_eq!(report.clears.len(), 2, "{report}");
    let passed = caller.passed();
    let order: Vec<&str> = passed
        .iter()
        .map(|passed| passed.kind.as_str())
        .filter(|kind| {
            matches!(
                *kind,
                "clear" | "response.cancel" | "conversation.item.truncate"
            )
        })
        .collect();
    let one = ["clear", "response.cancel", "conversation.item.truncate"];
    assert_eq!(order, [one, one].concat());
    let at = |kind: &str| passed.iter().find(|p| p.kind == kind).map(|p| p.at);
    assert_eq!(at("clear"), at("conversation.item.truncate"), "at once");
}

/// Interrupts over a slow network; returns the largest difference between model and ear in ms.
async fn over(network: &Network, dialect: Dialect, n: usize) -> f64 {
    let world = World::new(&format!("seed = {}\n{LONG_REPLIES}", network.seed));
    let points = random_points(n, network.seed + 100);
    let phone = phone("ga", dialect, AudioFormat::ULAW_8K).script(script(&points));
    let report = call(&world, &phone, network.link(world.connect())).await;
    compare(&report, &world.simulator.sessions().remove(0), n)
}

#[tokio::test(start_paused = true)]
async fn over_a_network_with_delay() {
    for delay in [40, 80, 150] {
        for dialect in [Dialect::Twilio, Dialect::Audio] {
            let worst = over(&Network::delayed(ms(delay)), dialect, 25).await;
            println!("{} {delay} ms each way: {worst:.2} ms", dialect.name());
            assert!(worst <= BOUND_MS, "{} {delay} ms: {worst}", dialect.name());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn over_a_network_with_jitter() {
    for (delay, jitter, seed) in [(40, 20, 1), (80, 40, 2), (150, 60, 3)] {
        for dialect in [Dialect::Twilio, Dialect::Audio] {
            let network = Network {
                delay: ms(delay),
                jitter: ms(jitter),
                seed,
                tap: None,
            };
            let worst = over(&network, dialect, 25).await;
            println!("{} {delay}+{jitter} ms: {worst:.2} ms", dialect.name());
            // The clear may take so much longer than the first frame did, and so may the echoes of marks.
            let bound = BOUND_MS + 2.0 * jitter as f64;
            assert!(
                worst <= bound,
                "{} {delay}+{jitter}: {worst}",
                dialect.name()
            );
        }
    }
}
