//! What an agent on the phone can do beside talking, and how its calls end.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use trunkline::call::EndReason;
use trunkline::media::{AudioFormat, Codec, SampleRate};
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::phone_timeline::Side;
use trunkline::simulator::{Act, CallReport, SessionRecord, SoftPhone, speech};

use crate::client::{Client, FRAME_BYTES, What, pcm_frames};
use crate::harness::{CONFIG, World};
use crate::network::{Network, Tap};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const PCM: AudioFormat = AudioFormat::MODEL_PCM;

/// A phone in the `audio` dialect.
fn phone(agent: &str, acts: impl Into<Vec<Act>>) -> SoftPhone {
    SoftPhone::new(&format!("ws://gateway/v1/audio/{agent}"), Dialect::Audio)
        .and_then(|phone| phone.format(PCM))
        .expect("a good address")
        .script(acts)
}

fn twilio(agent: &str, acts: impl Into<Vec<Act>>) -> SoftPhone {
    SoftPhone::new(
        &format!("ws://gateway/twilio/media/{agent}"),
        Dialect::Twilio,
    )
    .expect("a good address")
    .script(acts)
}

fn reply() -> Act {
    Act::WaitForReply {
        min_audio: ms(300),
        until_end: true,
        timeout: Duration::from_secs(30),
    }
}

pub(crate) fn until_end(seconds: u64) -> Act {
    Act::WaitForEnd {
        timeout: Duration::from_secs(seconds),
    }
}

/// An agent named `a` with these settings, beside the usual ones.
fn config(agent: &str) -> String {
    format!("{CONFIG}\n[agents.a]\ndeployment = 'ga'\n{agent}\n")
}

/// Calls and returns what the phone and the deployment saw.
async fn call(world: &World, phone: &SoftPhone) -> (CallReport, SessionRecord) {
    let report = world.call(phone).await;
    assert_eq!(report.failure, None, "{report}");
    assert_eq!(report.violations.len(), 0, "{report}");
    let record = world.simulator.sessions().pop().expect("a session");
    (report, record)
}

fn assert_scripted(report: &CallReport) {
    assert!(report.script_done, "{report}");
    assert_eq!(report.script_failures.len(), 0, "{report}");
}

fn said(report: &CallReport, speaker: &str) -> Vec<String> {
    let of = report.transcripts.iter().filter(|t| t.speaker == speaker);
    of.map(|transcript| transcript.text.clone()).collect()
}

async fn ended(world: &World) -> EndReason {
    world.ended(1).await.end_reason
}

// Talking.

#[tokio::test(start_paused = true)]
async fn the_agent_greets_first() {
    let world = World::with_config(&config("greeting = 'Say hello.'"), "");
    let (report, record) = call(&world, &phone("a", [reply(), Act::HangUp])).await;
    assert_scripted(&report);
    assert_eq!(report.turns.len(), 1, "{report}");
    assert_eq!(report.turns[0].speech_start_ms, None);
    assert_eq!(said(&report, "assistant"), ["Hello. How can I help?"]);
    assert_eq!(record.received.get("response.create"), Some(&1));
    assert_eq!(record.responses.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_greeting_the_agent_waits() {
    let world = World::with_config(&config(""), "");
    let (report, record) = call(&world, &phone("a", [Act::Silence(ms(3_000)), Act::HangUp])).await;
    assert_eq!(report.received.audio_messages, 0, "{report}");
    assert_eq!(record.responses.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_words_of_both_reach_the_client() {
    let agent = "[agents.a.session]\ntranscription = { model = 'whisper-1' }";
    let simulator = r#"
        [transcription]
        texts = ["When do you open?"]
    "#;
    let world = World::with_config(&config(agent), simulator);
    let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
    let (report, _) = call(&world, &phone("a", acts)).await;
    assert_scripted(&report);
    assert_eq!(said(&report, "caller"), ["When do you open?"]);
    assert_eq!(said(&report, "assistant").len(), 1, "{report}");
}

// Keys.

async fn check_keys(dialect: Dialect, keys: &str, pause: Duration, message: &str) {
    let world = World::with_config(&config(""), "");
    let mut acts = vec![Act::Silence(ms(500))];
    acts.extend(keys.chars().map(Act::Dtmf));
    acts.extend([Act::Silence(pause), reply(), Act::HangUp]);
    let phone = match dialect {
        Dialect::Twilio => twilio("a", acts),
        _ => phone("a", acts),
    };
    let (report, record) = call(&world, &phone).await;
    assert_scripted(&report);
    assert_eq!(record.received.get("conversation.item.create"), Some(&1));
    assert_eq!(record.received.get("response.create"), Some(&1));
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    if dialect == Dialect::Audio {
        assert_eq!(said(&report, "assistant"), [format!("You said: {message}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_told_together_on_the_pound_key() {
    let message = "[The caller pressed these keys: 4 2 1 #]";
    check_keys(Dialect::Audio, "421#", Duration::ZERO, message).await;
    check_keys(Dialect::Twilio, "421#", Duration::ZERO, message).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_told_together_after_a_pause() {
    let message = "[The caller pressed these keys: 0 * 9]";
    check_keys(Dialect::Audio, "0*9", Duration::ZERO, message).await;
    check_keys(Dialect::Twilio, "0*9", Duration::ZERO, message).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_interrupts_the_reply() {
    let simulator = "[reply]\nmode = 'script'\nturns = [{ say = 'A long one.', length = '8s' }]";
    let world = World::with_config(&config(""), simulator);
    let acts = [
        Act::Say(speech::hours()),
        Act::BargeInAfter {
            heard: ms(1_234),
            timeout: Duration::from_secs(10),
        },
        Act::Dtmf('1'),
        Act::Silence(ms(1_000)),
        Act::Dtmf('#'),
        reply(),
        Act::HangUp,
    ];
    let (report, record) = call(&world, &phone("a", acts)).await;
    assert_scripted(&report);
    assert_eq!(report.clears.len(), 1, "{report}");
    let cut = record.truncates[0].audio_end_ms as f64;
    assert!((cut - report.clears[0].played_ms).abs() <= 20.0, "{cut}");
}

// Tools.

/// What a webhook was asked.
type Asked = Arc<Mutex<Vec<Value>>>;

/// A web server with a tool on it, and its port: `/answer` answers, `/fail` fails, anything else says nothing.
async fn webhook(tasks: &TaskTracker) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            let service = service_fn(move |request| tool(request, Arc::clone(&log)));
            connections.spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, asked)
}

async fn tool(
    request: http::Request<Incoming>,
    asked: Asked,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body");
    let value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    asked.lock().expect("no panic while held").push(value);
    let (status, answer) = match path.as_str() {
        "/answer" => (200, "18 degrees and sunny"),
        "/fail" => (500, "broken"),
        _ => std::future::pending().await,
    };
    let response = http::Response::builder().status(status);
    Ok(response.body(Full::from(answer)).expect("a response"))
}

/// Asks for the weather; returns what the model said about the tool's answer, and the metric's value.
async fn check_tool(path: &str, outcome: &str) -> (String, Vec<Value>) {
    let tasks = TaskTracker::new();
    let (port, asked) = webhook(&tasks).await;
    let agent = format!(
        "[[agents.a.session.tools]]\nname = 'weather'\ndescription = 'The weather.'\n\
         parameters = {{ type = 'object', properties = {{}} }}\n\
         [agents.a.webhooks.weather]\nurl = 'http://127.0.0.1:{port}{path}'\ntimeout = '5s'\n"
    );
    let simulator = "[transcription]\ntexts = ['call weather', 'thank you']";
    let world = World::with_config(&config(&agent), simulator);
    let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
    let (report, record) = call(&world, &phone("a", acts).parameter("plan", "gold")).await;
    assert_scripted(&report);
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    assert_eq!(record.responses.len(), 2, "{:?}", record.responses);
    let metric = format!("trunkline_tool_calls_total{{outcome=\"{outcome}\"}}");
    assert_eq!(world.metric(&metric), 1.0, "{metric}");
    let asked = asked.lock().expect("no panic while held").clone();
    (said(&report, "assistant").join("|"), asked)
}

#[tokio::test(start_paused = true)]
async fn a_tool_answers_by_webhook() {
    let (words, asked) = check_tool("/answer", "ok").await;
    assert_eq!(words, "The tool answered: 18 degrees and sunny");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["tool"], "weather");
    assert_eq!(asked[0]["arguments"], json!({}));
    assert_eq!(asked[0]["parameters"], json!({"plan": "gold"}));
    assert!(
        asked[0]["call_id"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    );
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_fails_or_is_silent_is_told_to_the_model() {
    let (words, _) = check_tool("/fail", "failed").await;
    assert!(words.contains("HTTP status 500"), "{words}");
    let (words, _) = check_tool("/silent", "timeout").await;
    assert!(words.contains("did not answer in time"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_does_not_exist_is_told_to_the_model() {
    let simulator = r#"
        [reply]
        mode = "script"
        turns = [{ calls = [{ name = "fly" }] }, { say = "I cannot fly, sorry about that." }]
    "#;
    let world = World::with_config(&config(""), simulator);
    let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
    let (report, record) = call(&world, &phone("a", acts)).await;
    assert_scripted(&report);
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    let metric = r#"trunkline_tool_calls_total{outcome="unknown"}"#;
    assert_eq!(world.metric(metric), 1.0);
    let words = said(&report, "assistant");
    assert_eq!(words, ["I cannot fly, sorry about that."]);
}

/// Keys are pressed where the wire can say it (telephony reference 15): Plivo's and Vobiz's.
#[tokio::test(start_paused = true)]
async fn the_agent_presses_keys() {
    let simulator = r##"
        [reply]
        mode = "script"
        turns = [
            { calls = [{ name = "press_keys", arguments = '{"digits":"1A*#"}' }] },
            { say = "That was it, it is done now." },
        ]
    "##;
    for dialect in [Dialect::Plivo, Dialect::Vobiz] {
        let world = World::with_config(&config("may_press_keys = true"), simulator);
        let url = format!("ws://gateway/{}/stream/a", dialect.name());
        let phone = SoftPhone::new(&url, dialect).expect("a good address");
        let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
        let (report, record) = call(&world, &phone.script(acts)).await;
        assert_scripted(&report);
        let keys: Vec<&str> = report.keys.iter().map(|it| it.keys.as_str()).collect();
        assert_eq!(keys, ["1A*#"], "{report}");
        assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
        let metric = r#"trunkline_tool_calls_total{outcome="ok"}"#;
        assert_eq!(world.metric(metric), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_pressed_are_told_to_the_model() {
    let simulator = "[transcription]\ntexts = ['call press_keys', 'thank you']";
    let world = World::with_config(&config("may_press_keys = true"), simulator);
    let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
    let (report, _) = call(&world, &phone("a", acts)).await;
    assert_scripted(&report);
    let words = said(&report, "assistant").join("|");
    assert!(words.contains("takes no key presses"), "{words}");
    assert_eq!(report.keys, []);
    let metric = r#"trunkline_tool_calls_total{outcome="failed"}"#;
    assert_eq!(world.metric(metric), 1.0);
}

// Endings.

/// A deployment whose only turn is three seconds of good-bye, after which it hangs up.
pub(crate) const HANGS_UP: &str = r#"
    [reply]
    mode = "script"
    turns = [{ say = "Good-bye then.", length = "3s", calls = [{ name = "hang_up" }] }]
"#;

#[tokio::test(start_paused = true)]
async fn the_agent_hangs_up_after_its_last_word() {
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        for network in [Network::default(), Network::delayed(ms(80))] {
            let world = World::with_config(&config(""), HANGS_UP);
            let acts = [Act::Say(speech::hours()), until_end(30)];
            let phone = match dialect {
                Dialect::Twilio => twilio("a", acts),
                _ => phone("a", acts),
            };
            let report = phone.call(network.link(world.connect())).await;
            assert_scripted(&report);
            // All of it; the last frame is filled up with silence.
            let heard = report.heard.played_ms;
            assert!((3_000.0..=3_020.0).contains(&heard), "{report}");
            let close = report.close.as_ref().expect("a close");
            assert_eq!((close.by, close.code), (Side::Gateway, Some(1000)));
            if dialect == Dialect::Audio {
                assert_eq!(report.end_reason.as_deref(), Some("assistant_hangup"));
            }
            assert_eq!(ended(&world).await, EndReason::AssistantHangup);
        }
    }
}

/// Hangs up in the middle of a reply; how long after that the model leg was closed.
async fn model_closes_after(says_so: bool) -> (Duration, EndReason) {
    let caller = Tap::new(["gateway to caller", "caller"]);
    let model = Network {
        tap: Some(caller.beside(["gateway", "model"])),
        ..Network::default()
    };
    let simulator = "[reply]\nmode = 'script'\nturns = [{ say = 'A long one.', length = '8s' }]";
    let world = World::with_model_link(&config(""), simulator, move |s| model.link(s));
    let mut client = Client::connect(world.connect(), "a").await;
    client.start_pcm().await;
    client.say(&pcm_frames(&speech::hours())).await;
    client.silence(ms(2_000)).await;
    assert!(client.seen.iter().any(|s| matches!(s.what, What::Audio(_))));
    let hung_up = Instant::now();
    if says_so {
        client.text(&json!({"type": "end"})).await;
        client.listen(ms(10)).await;
    }
    client.vanish();
    let reason = ended(&world).await;
    let passed = caller.passed();
    let close = passed
        .iter()
        .find(|p| p.by == "gateway" && p.kind == "close");
    (close.expect("a close").at - hung_up, reason)
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_hangs_up_frees_the_model_at_once() {
    let (after, reason) = model_closes_after(true).await;
    assert_eq!(reason, EndReason::CallerHangup);
    assert!(after <= ms(1), "{after:?}");
    let (after, reason) = model_closes_after(false).await;
    assert_eq!(reason, EndReason::CallerGone);
    assert!(after <= ms(1), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_never_begins_is_let_go_after_five_seconds() {
    let world = World::with_config(&config(""), "");
    let mut client = Client::connect(world.connect(), "a").await;
    let connected = Instant::now();
    client.listen(Duration::from_secs(20)).await;
    assert_eq!(client.close_code(), Some(1008));
    let after = client.seen.last().expect("a close").at - connected;
    assert!(after.abs_diff(ms(5_000)) <= ms(2), "{after:?}");
    assert_eq!(ended(&world).await, EndReason::CallerNeverStarted);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_media_is_let_go_after_thirty_seconds() {
    let world = World::with_config(&config(""), "");
    let mut client = Client::connect(world.connect(), "a").await;
    client.start_pcm().await;
    client.silence(ms(1_000)).await;
    let last = Instant::now();
    client.listen(Duration::from_secs(60)).await;
    assert_eq!(client.close_code(), Some(1001));
    assert_eq!(client.end_reason(), Some("caller_silent"));
    let after = client.seen.last().expect("a close").at - last;
    assert!(after.abs_diff(ms(30_000)) <= ms(25), "{after:?}");
    assert_eq!(ended(&world).await, EndReason::CallerSilent);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stalls_is_given_up_after_eight_seconds() {
    let simulator = "[[faults]]\nkind = 'stall'\nafter_deltas = 2";
    let world = World::with_config(&config(""), simulator);
    let acts = [Act::Say(speech::hours()), until_end(120)];
    let (report, _) = call(&world, &phone("a", acts)).await;
    // Five sessions stall, one after the other, each a moment after it began to answer.
    assert_eq!(
        report.end_reason.as_deref(),
        Some("model_unavailable"),
        "{report}"
    );
    let close = report.close.as_ref().expect("a close");
    assert_eq!((close.by, close.code), (Side::Gateway, Some(1013)));
    let first = report.turns[0].first_received_ms.expect("a beginning");
    let after = report.ended_ms - first;
    // Four times 8 s, with pauses between them, and then there is the apology.
    assert!((35_000.0..39_000.0).contains(&after), "{after}");
    assert_eq!(ended(&world).await, EndReason::ModelUnavailable);
    let stalled = r#"trunkline_session_replacements_total{cause="stalled",outcome="replaced"}"#;
    assert_eq!(world.metric(stalled), 3.0);
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_last_longer_than_it_may() {
    let world = World::with_config(&config("timeouts.max_duration = '10s'"), "");
    let (report, _) = call(&world, &phone("a", [until_end(60)])).await;
    assert_eq!(report.end_reason.as_deref(), Some("max_duration"));
    assert!((report.ended_ms - 10_000.0).abs() <= 25.0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_cap_of_a_session_is_not_noticed() {
    let simulator = "openai_session_cap = '20s'\nazure_session_cap = '20s'";
    let world = World::with_config(&config(""), simulator);
    let acts = [Act::Silence(Duration::from_secs(60)), Act::HangUp];
    let (report, _) = call(&world, &phone("a", acts)).await;
    assert!(report.script_done, "{report}");
    assert_eq!(ended(&world).await, EndReason::CallerHangup);
    let rotated = r#"trunkline_session_replacements_total{cause="rotation",outcome="replaced"}"#;
    // Each after half of its 20 s, which are told in whole seconds.
    assert!((5.0..=6.0).contains(&world.metric(rotated)), "{report}");
}

// Rhythm.

#[tokio::test(start_paused = true)]
async fn a_turn_ends_although_the_audio_stopped() {
    let world = World::with_config(&config(""), "");
    let mut client = Client::connect(world.connect(), "a").await;
    client.start_pcm().await;
    client.say(&pcm_frames(&speech::hours())).await;
    let stopped = Instant::now();
    client.listen(Duration::from_secs(5)).await;
    let is_audio = |what: &What| matches!(what, What::Audio(_));
    let first = client.seen.iter().find(|seen| is_audio(&seen.what));
    let after = first.expect("an answer").at - stopped;
    // 500 ms of silence end a turn, 200 ms pass before it is filled in, the model thinks for 300 ms.
    assert!(after <= ms(1_200), "{after:?}");
    let metric = r#"trunkline_silence_filled_seconds_total{dialect="audio"}"#;
    assert!(world.metric(metric) > 0.3, "{}", world.metric(metric));
}

/// Listens to a reply of `length`; when each frame came, from the first on, and how long it is.
async fn arrivals(world: &World, codec: &str, rate: u32, length: Duration) -> Vec<Duration> {
    let mut client = Client::connect(world.connect(), "a").await;
    client.start(codec, rate).await;
    let frame = |samples: &[i16]| samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    let said = speech::hours().at_rate(rate);
    let frame_size = rate as usize / 50;
    for samples in said.samples.chunks(frame_size) {
        client.tick(frame(samples)).await;
    }
    for _ in 0..(length + ms(1_500)).as_millis() / 20 {
        client.tick(frame(&vec![0; frame_size])).await;
    }
    let mut frames = Vec::new();
    for seen in &client.seen {
        if let What::Audio(bytes) = &seen.what {
            assert_eq!(bytes.len(), 2 * frame_size, "a frame is 20 ms");
            frames.push(seen.at);
        }
    }
    let first = frames[0];
    frames.into_iter().map(|at| at - first).collect()
}

#[tokio::test(start_paused = true)]
async fn frames_come_every_20_ms_and_never_further_ahead_than_the_lead() {
    let simulator = "[reply]\nmode = 'script'\nturns = [{ say = 'A long one.', length = '6s' }]";
    for lead in [40, 100, 200] {
        let agent = format!("playout.lead = '{lead}ms'");
        for rate in [8_000, 44_100] {
            let world = World::with_config(&config(&agent), simulator);
            let frames = arrivals(&world, "pcm16", rate, ms(6_000)).await;
            assert!(
                (300..=301).contains(&frames.len()),
                "{lead} {rate} {}",
                frames.len()
            );
            for (n, at) in frames.iter().enumerate() {
                let received = ms(20) * (n as u32 + 1);
                assert!(
                    received <= *at + ms(lead),
                    "frame {n} at {at:?}, lead {lead}"
                );
                // Never late either: the ear runs dry at the end of what came before.
                assert!(*at <= ms(20) * n as u32, "frame {n} at {at:?}, lead {lead}");
            }
            let metric = r#"trunkline_underruns_total{dialect="audio"}"#;
            assert_eq!(world.metric(metric), 0.0);
            let rhythm = frames.windows(2).skip(20).take(200);
            for pair in rhythm {
                assert!((pair[1] - pair[0]).abs_diff(ms(20)) <= ms(1), "{pair:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_far_too_long_is_cut_and_counted() {
    let simulator = "[reply]\nmode = 'script'\nturns = [{ say = 'Endless.', length = '15s' }]";
    let world = World::with_config(&config("playout.max = '3s'"), simulator);
    let question = || Act::Say(speech::hours());
    let acts = [question(), reply(), question(), reply(), Act::HangUp];
    let (report, record) = call(&world, &phone("a", acts)).await;
    assert_scripted(&report);
    let heard = report.turns[0].reply_voiced_ms;
    // What fits, and what was played while it was filled: its beginning, and nothing out of its middle.
    assert!((3_000.0..4_000.0).contains(&heard), "{report}");
    let metric = r#"trunkline_audio_dropped_seconds_total{dialect="audio",reason="playout_full"}"#;
    let dropped = world.metric(metric);
    let expected = 2.0 * (15.0 - heard / 1_000.0);
    assert!(
        (dropped - expected).abs() <= 0.6,
        "{dropped} s, {expected} s"
    );
    // And the model learns at the next turn how little of it was heard.
    let cut = record.truncates[0].audio_end_ms as f64;
    assert!((cut - heard).abs() <= 20.0, "{cut} of {heard}");
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_a_reply_is_counted() {
    let simulator = "[reply]\nmode = 'script'\nturns = [{ say = 'A long one.', length = '3s' }]\n\
                     [[faults]]\nkind = 'stall'\nafter_deltas = 3\ndelay = '2s'";
    let world = World::with_config(&config(""), simulator);
    let acts = [Act::Say(speech::hours()), reply(), reply(), Act::HangUp];
    let phone = phone("a", acts).reply_gap(Duration::from_secs(3));
    let (report, _) = call(&world, &phone).await;
    assert_eq!(report.underruns.len(), 1, "{report}");
    assert_eq!(report.heard.played_ms, 3_000.0, "{report}");
    let metric = r#"trunkline_underruns_total{dialect="audio"}"#;
    assert_eq!(world.metric(metric), 1.0);
}

// Set-up.

#[tokio::test(start_paused = true)]
async fn a_number_is_connected_with_its_parameters() {
    let config = format!(
        "{}\n[twilio]\nagent = 'a'\n",
        config("greeting = 'Say hello.'")
    );
    let world = World::with_config(&config, "");
    let form = "CallSid=CA1&AccountSid=AC1&From=%2B15550001111&To=%2B15550002222";
    let request = format!(
        "POST /twilio/voice HTTP/1.1\r\nhost: voice.example.com\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{form}",
        form.len()
    );
    let answer = world.http(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let attribute = |tag: &str, name: &str| {
        let tag = answer.split_once(tag)?.1;
        let value = tag.split_once(&format!("{name}=\""))?.1;
        Some(value.split_once('"')?.0.to_owned())
    };
    let url = attribute("<Stream", "url").expect("a stream");
    assert_eq!(url, "wss://voice.example.com/twilio/media/a");
    let from = attribute("<Parameter name=\"from\"", "value");
    assert_eq!(from.as_deref(), Some("+15550001111"), "{answer}");
    let phone = SoftPhone::new(&url, Dialect::Twilio)
        .expect("a good address")
        .parameter("from", "+15550001111")
        .parameter("to", "+15550002222")
        .script([reply(), Act::HangUp]);
    let (report, _) = call(&world, &phone).await;
    assert_scripted(&report);
}

#[tokio::test(start_paused = true)]
async fn formats_may_differ_by_direction() {
    let world = World::with_config(&config("greeting = 'Say hello.'"), "");
    let mut client = Client::connect(world.connect(), "a").await;
    let input = AudioFormat {
        codec: Codec::Alaw,
        rate: SampleRate::HZ_8000,
    };
    let start = json!({"type": "start",
        "format": {"codec": "alaw", "rate": input.rate.hz()},
        "output": {"codec": "pcm16", "rate": 8_000}});
    client.text(&start).await;
    for _ in 0..100 {
        client.tick(vec![0xD5; 160]).await;
    }
    let frames = client.seen.iter().filter_map(|seen| match &seen.what {
        What::Audio(bytes) => Some(bytes.len()),
        _ => None,
    });
    let frames: Vec<usize> = frames.collect();
    assert!(frames.len() > 50 && frames.iter().all(|n| *n == FRAME_BYTES));
}
