//! Calls that outlive their sessions: what a phone hears while its deployments fail, and what they hear.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline::call::EndReason;
use trunkline::simulator::judge::cross_correlation;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::wav::Clip;
use trunkline::simulator::words::{WORDS, speak};
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::harness::World;

/// Two deployments behind one name. The first is asked first.
pub(crate) const CONFIG: &str = r#"
[auth]
mode = "none"

[deployments.east]
url = "ws://127.0.0.1:1"
model = "east"
api_key = "sim-key"

[deployments.west]
url = "ws://127.0.0.1:1"
model = "west"
api_key = "sim-key"

[pools.both]
deployments = ["east", { name = "west", priority = 1 }]

[agents.ga]
deployment = "both"
"#;

/// Likeness that every waveform codec keeps, there and back.
const WAVEFORM: f64 = 0.95;

fn phone(script: impl Into<Vec<Act>>) -> SoftPhone {
    SoftPhone::new("ws://gateway/twilio/media/ga", Dialect::Twilio)
        .expect("a good address")
        .script(script)
        .keeps_audio(true)
}

fn listen(seconds: u64) -> Act {
    Act::WaitForReply {
        min_audio: Duration::from_millis(300),
        until_end: true,
        timeout: Duration::from_secs(seconds),
    }
}

fn two_turns(patience: u64) -> Vec<Act> {
    vec![
        Act::Say(speech::hours()),
        listen(patience),
        Act::Say(speech::order()),
        listen(patience),
        Act::HangUp,
    ]
}

fn replacements(cause: &str, outcome: &str) -> String {
    format!(r#"trunkline_session_replacements_total{{cause="{cause}",outcome="{outcome}"}}"#)
}

/// The mean of the gaps that were counted.
fn gap_ms(world: &World) -> f64 {
    let sum = world.metric(r#"trunkline_session_gap_seconds_sum{dialect="twilio"}"#);
    let n = world.metric(r#"trunkline_session_gap_seconds_count{dialect="twilio"}"#);
    1_000.0 * sum / n.max(1.0)
}

/// How alike a stretch of what was heard is to what was said.
fn likeness(report: &CallReport, said: &Clip) -> f64 {
    let heard = report.audio.as_ref().expect("audio was kept");
    let said = said.at_rate(heard.rate);
    cross_correlation(&said.samples, &heard.samples, heard.samples.len()).peak
}

/// A call that the caller ends, after all that it wanted.
async fn goes_on(config: &str, simulator: &str, script: Vec<Act>) -> (World, CallReport) {
    let world = World::with_config(config, simulator);
    let report = world.call(&phone(script)).await;
    let summary = world.ended(1).await;
    assert_eq!(
        summary.end_reason,
        EndReason::CallerHangup,
        "{simulator}: {report}"
    );
    assert!(report.script_done, "{simulator}: {report}");
    assert!(report.violations.is_empty(), "{simulator}: {report}");
    for session in world.simulator.sessions() {
        let refused = session.truncates.iter().filter(|cut| !cut.accepted).count();
        assert_eq!(refused, 0, "{simulator}: of a foreign item");
    }
    world.assert_quiet().await;
    (world, report)
}

/// Faults 6, 7, 9, 10 and 12: the first deployment fails in the middle of its first answer, or before.
#[tokio::test(start_paused = true)]
async fn a_call_survives_whatever_its_deployment_does() {
    for (fault, cause) in [
        ("kind = 'close'\ncode = 1000", "closed"),
        ("kind = 'close'\ncode = 1011", "closed"),
        ("kind = 'close'\ncode = 1012", "closed"),
        ("kind = 'close'\ncode = 1001", "expired"),
        ("kind = 'close'\ncode = 3000", "unauthorized"),
        ("kind = 'close'\ncode = 4000", "rejected"),
        ("kind = 'close'\ncode = 1006", "gone"),
        ("kind = 'drop'\ncode = 1006\ndelay = '900ms'", "gone"),
        ("kind = 'drop'\ncode = 1011\ndelay = '2500ms'", "closed"),
        ("kind = 'stall'", "stalled"),
        ("kind = 'server_error'", "server_error"),
        ("kind = 'failed_response'", "server_error"),
        ("kind = 'oversized'\nbytes = 34_000_000", "protocol"),
    ] {
        let simulator = format!("[[faults]]\ndeployment = 'east'\n{fault}\n");
        let (world, report) = goes_on(CONFIG, &simulator, two_turns(15)).await;
        let summary = world.ended(1).await;
        assert_eq!(summary.deployment, "west", "{fault}");
        assert_eq!(summary.n_sessions, 2, "{fault}");
        assert_eq!(
            world.metric(&replacements(cause, "replaced")),
            1.0,
            "{fault}"
        );
        let counted = r#"trunkline_calls_total{deployment="west",dialect="twilio",end_reason="caller_hangup"}"#;
        assert_eq!(world.metric(counted), 1.0, "{fault}");
        let voiced: Vec<_> = report
            .turns
            .iter()
            .map(|turn| turn.reply_voiced_ms)
            .collect();
        println!(
            "{fault:?}: gap {:.0} ms, heard {voiced:.0?} ms, the second turn at {:.3}",
            gap_ms(&world),
            likeness(&report, &speech::order()),
        );
        // 2.3 and 2.2 s were said, and come back: the first in two pieces or in one.
        assert_eq!(voiced.len(), 2, "{fault}: {report}");
        assert!((1_600.0..2_500.0).contains(&voiced[0]), "{fault}: {report}");
        assert!(likeness(&report, &speech::order()) >= WAVEFORM, "{fault}");
        if !fault.contains("stall") {
            assert!(gap_ms(&world) < 1_500.0, "{fault}: {}", gap_ms(&world));
        }
    }
}

/// What was said to a session that then fails is heard by the next, whenever that happens.
#[tokio::test(start_paused = true)]
async fn no_word_of_the_caller_is_lost() {
    for delay in (200..3_400).step_by(400) {
        let simulator = format!(
            "[[faults]]\ndeployment = 'east'\nkind = 'drop'\ndelay = '{delay}ms'\ncode = 1006\n"
        );
        let script = vec![Act::Say(speech::hours()), listen(15), Act::HangUp];
        let (world, report) = goes_on(CONFIG, &simulator, script).await;
        let alike = likeness(&report, &speech::hours());
        println!(
            "lost after {delay} ms: {alike:.3}, gap {:.0} ms",
            gap_ms(&world)
        );
        assert_eq!(world.ended(1).await.n_sessions, 2);
        // Where an answer had begun it comes in two pieces.
        if delay < 2_800 {
            assert!(alike >= WAVEFORM, "{delay}: {report}");
        }
    }
}

/// One deployment is asked again, and again, before the call is given up.
#[tokio::test(start_paused = true)]
async fn a_single_deployment_gets_another_chance() {
    let config = CONFIG.replace("deployment = \"both\"", "deployment = \"east\"");
    let simulator = "[[faults]]\nkind = 'close'\nfirst_sessions = 2\n";
    let (world, report) = goes_on(&config, simulator, two_turns(15)).await;
    assert_eq!(world.ended(1).await.n_sessions, 3);
    assert!(likeness(&report, &speech::order()) >= WAVEFORM, "{report}");
}

/// Fault 13: nothing is left.
#[tokio::test(start_paused = true)]
async fn when_all_are_dead_the_caller_hears_so() {
    let simulator = "[[faults]]\nkind = 'close'\n[[faults]]\nkind = 'refuse'\nafter_sessions = 1\n";
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let world = World::with_config(CONFIG, simulator);
        let url = match dialect {
            Dialect::Twilio => "ws://gateway/twilio/media/ga",
            _ => "ws://gateway/v1/audio/ga",
        };
        let timeout = Duration::from_secs(60);
        let phone = SoftPhone::new(url, dialect)
            .expect("a good address")
            .script([Act::Say(speech::hours()), Act::WaitForEnd { timeout }])
            .keeps_audio(true);
        let report = world.call(&phone).await;
        let summary = world.ended(1).await;
        assert_eq!(summary.end_reason, EndReason::ModelUnavailable, "{report}");
        let close = report.close.as_ref().expect("a close frame");
        assert_eq!(close.code, Some(1013), "{report}");
        let apology = trunkline::media::Clip::apology();
        let apology = Clip::new(apology.samples(), apology.rate().hz());
        let alike = likeness(&report, &apology);
        println!(
            "{dialect:?}: the apology at {alike:.3}, {:.0} ms",
            report.ended_ms
        );
        assert!(alike >= WAVEFORM, "{report}");
        assert_eq!(world.metric(&replacements("closed", "unavailable")), 1.0);
        world.assert_quiet().await;
    }
}

/// Answers every request of a tool after a while, and counts them.
async fn tool(calls: tokio::net::TcpListener, n_calls: tokio::sync::watch::Sender<u32>) {
    while let Ok((mut stream, _)) = calls.accept().await {
        n_calls.send_modify(|n| *n += 1);
        let mut head = [0; 4_096];
        let _ = stream.read(&mut head).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone";
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// The tool runs once, and its answer is told to the session that is there then.
#[tokio::test(start_paused = true)]
async fn a_pending_tool_call_is_carried_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    let (n_calls, counted) = tokio::sync::watch::channel(0);
    let mut server = tokio::task::JoinSet::new();
    server.spawn(tool(listener, n_calls));
    let config = format!(
        "{CONFIG}
[agents.ga.session.transcription]
model = 'whisper-1'
[[agents.ga.session.tools]]
name = 'look'
description = 'Looks.'
parameters = {{ type = 'object', properties = {{}} }}
[agents.ga.webhooks.look]
url = 'http://{address}/'
"
    );
    let simulator = "[transcription]\ntexts = ['call look']\n[[faults]]\ndeployment = 'east'\nkind = 'drop'\ndelay = '5s'\n";
    let script = vec![Act::Say(speech::hours()), listen(20), Act::HangUp];
    let (world, report) = goes_on(&config, simulator, script).await;
    server.abort_all();
    assert_eq!(*counted.borrow(), 1, "{report}");
    assert_eq!(world.ended(1).await.n_sessions, 2);
    let sessions = world.simulator.sessions();
    assert_eq!(sessions[1].errors.len(), 0, "{:?}", sessions[1].errors);
    // The call and its output, and what the caller said.
    assert_eq!(sessions[1].received["conversation.item.create"], 3);
    assert!(report.turns[0].reply_voiced_ms > 500.0, "{report}");
}

/// Fault 11: the session's cap passes unnoticed, between turns and while the caller speaks.
#[tokio::test(start_paused = true)]
async fn a_session_that_comes_to_its_cap_is_replaced_unheard() {
    let simulator = "azure_session_cap = '20s'\nrecord_audio = true\n";
    let mut script = Vec::new();
    for _ in 0..12 {
        script.extend([Act::Say(speech::hours()), listen(8)]);
    }
    script.push(Act::HangUp);
    let (world, report) = goes_on(CONFIG, simulator, script).await;
    let n_sessions = world.ended(1).await.n_sessions;
    println!(
        "{n_sessions} sessions in {:.0} s",
        report.ended_ms / 1_000.0
    );
    assert!(n_sessions >= 4, "{report}");
    assert_eq!(
        world.metric(&replacements("rotation", "replaced")),
        f64::from(n_sessions - 1)
    );
    assert!(report.underruns.is_empty(), "{report}");
    assert_eq!(report.turns.len(), 12, "{report}");
    for turn in &report.turns {
        assert!(turn.reply_voiced_ms > 1_500.0, "{report}");
        assert!(turn.latency_ms.is_some_and(|ms| ms < 2_000.0), "{report}");
    }
    for session in world.simulator.sessions() {
        let closed = session.closed.expect("assert_quiet looked");
        assert_eq!((closed.by_client, closed.code), (true, 1000));
    }
}

/// What the sessions took for the caller's words, turn by turn; each turn once, though several were told of it.
fn understood(world: &World) -> Vec<String> {
    let mut turns: Vec<String> = Vec::new();
    for session in world.simulator.sessions() {
        let users = session
            .conversation
            .iter()
            .filter(|item| item.kind == "user");
        for (n, item) in users.enumerate() {
            match turns.get(n) {
                Some(known) => assert_eq!(*known, item.text, "told otherwise"),
                None => turns.push(item.text.clone()),
            }
        }
    }
    turns
}

const RECOGNISE: &str = "[transcription]\nrecognise = true\n";

fn transcribed(config: &str) -> String {
    format!("{config}\n[agents.ga.session.transcription]\nmodel = 'whisper-1'\n")
}

/// The n words from there on, of those that only mean themselves.
fn words_from(first: usize, n: usize) -> (Clip, String) {
    let words: Vec<_> = WORDS[..10].iter().cycle().skip(first).take(n).collect();
    let texts: Vec<_> = words.iter().map(|word| word.text).collect();
    (speak(words), texts.join(" "))
}

#[tokio::test(start_paused = true)]
async fn who_speaks_without_a_pause_is_heard_over_the_cap() {
    let (said, words) = words_from(0, 50);
    let simulator = format!("azure_session_cap = '20s'\nretained_audio = '10m'\n{RECOGNISE}");
    let script = vec![
        Act::Say(said.clone()),
        Act::WaitForReply {
            min_audio: Duration::from_secs(20),
            until_end: true,
            timeout: Duration::from_secs(60),
        },
        Act::HangUp,
    ];
    let (world, report) = goes_on(&transcribed(CONFIG), &simulator, script).await;
    let n_sessions = world.ended(1).await.n_sessions;
    println!(
        "{:.1} s without a pause in {n_sessions} sessions: {:.3}",
        said.duration().as_secs_f64(),
        likeness(&report, &said)
    );
    assert!(n_sessions >= 3);
    assert_eq!(understood(&world), [words], "{report}");
}

/// Sentence by sentence, while the sessions fail at any time.
#[tokio::test(start_paused = true)]
async fn all_words_of_a_conversation_arrive() {
    for seed in 0..6_u64 {
        let delay = 3_700 + 500 * seed;
        let simulator = format!(
            "seed = {seed}\n{RECOGNISE}[[faults]]\nkind = 'drop'\ndelay = '{delay}ms'\nfirst_sessions = 4\n"
        );
        let mut script = Vec::new();
        let mut expected = Vec::new();
        for turn in 0..8 {
            let (clip, words) = words_from(3 * turn, 4);
            script.extend([Act::Say(clip), listen(15)]);
            expected.push(words);
        }
        script.push(Act::HangUp);
        for config in [CONFIG.to_owned(), transcribed(CONFIG)] {
            let (world, report) = goes_on(&config, &simulator, script.clone()).await;
            let n_sessions = world.ended(1).await.n_sessions;
            println!(
                "seed {seed}: {n_sessions} sessions, gap {:.0} ms",
                gap_ms(&world)
            );
            assert_eq!(n_sessions, 5, "{report}");
            for turn in &report.turns {
                assert!(turn.reply_voiced_ms > 500.0, "{report}");
            }
            if config != CONFIG {
                assert_eq!(understood(&world), expected, "seed {seed}: {report}");
            }
        }
    }
}

/// The caller hangs up, or the gateway goes away, while another session is looked for: nothing is left.
#[tokio::test(start_paused = true)]
async fn a_call_may_end_while_its_session_is_replaced() {
    let simulator = "[[faults]]\nkind = 'drop'\ndelay = '1s'\n[[faults]]\nkind = 'refuse'\nafter_sessions = 1\n";
    let world = World::with_config(CONFIG, simulator);
    let script = [Act::Silence(Duration::from_secs(4)), Act::HangUp];
    let report = world.call(&phone(script)).await;
    assert_eq!(
        world.ended(1).await.end_reason,
        EndReason::CallerHangup,
        "{report}"
    );
    world.assert_quiet().await;

    let world = World::with_config(CONFIG, simulator);
    let timeout = Duration::from_secs(60);
    let call = async { world.call(&phone([Act::WaitForEnd { timeout }])).await };
    let drain = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.gateway.calls().drain(Duration::from_secs(1)).await;
    };
    let (report, ()) = tokio::join!(call, drain);
    assert_eq!(
        world.ended(1).await.end_reason,
        EndReason::Drained,
        "{report}"
    );
    world.assert_quiet().await;
}
