//! The twelve scenarios. Each makes a world of its own, calls in it, and panics with what is wrong.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use trunkline::auth::hash_key;
use trunkline::call::EndReason;
use trunkline::ingress::{Capabilities, Clear, Dialect as Wire};
use trunkline::media::AudioFormat;
use trunkline::simulator::judge::cross_correlation;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::phone_timeline::Side;
use trunkline::simulator::wav::Clip;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::harness::World;
use crate::proofs::{self, KEY};
use crate::rows::Row;

/// Declares the scenarios in the order of the table.
macro_rules! scenarios {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $play:ident;)+) => {
        /// What a dialect goes through.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Scenario { $($(#[$doc])* $variant,)+ }

        impl Scenario {
            pub(crate) const ALL: [Self; 12] = [$(Self::$variant),+];

            /// As the table has it.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub(crate) async fn play(self, row: &Row) {
                match self { $(Self::$variant => $play(row).await,)+ }
            }
        }
    };
}

scenarios! {
    /// The agent speaks first.
    Greeting = "greeting", greeting;
    /// Two turns, and what is said comes back as it was said.
    TwoTurns = "two turns", two_turns;
    /// The caller interrupts at random times; the model is told what was heard.
    BargeIn = "barge-in", barge_in;
    /// Keys reach the model.
    Dtmf = "dtmf", dtmf;
    /// Marks that a clear threw away do not count as heard.
    MarkAfterClear = "mark after clear", mark_after_clear;
    /// The caller hangs up in the middle of a reply.
    CallerHangUp = "caller hangs up", caller_hang_up;
    /// The agent says good-bye and hangs up, and its last word is heard.
    BotHangUp = "bot hangs up", bot_hang_up;
    /// The provider's own keepalives are answered on a quiet line.
    Keepalive = "keepalive", keepalive;
    /// A bad credential and none get a 401 before the upgrade, and no session.
    BadAuth = "bad auth", bad_auth;
    /// Garbage ends this call, in order, and no other.
    Garbage = "garbage", garbage;
    /// Who reads nothing for a while loses audio and not the call; who never reads again is left.
    SlowReader = "slow reader", slow_reader;
    /// Ten minutes of talk.
    TenMinutes = "10 minutes", ten_minutes;
}

/// How far what the model is told may be from what was heard (the project's promise).
const BOUND_MS: f64 = 20.0;

const LONG_REPLIES: &str = r#"
[reply]
mode = "script"
turns = [{ say = "A long answer that nobody wants to hear to its end.", length = "6s" }]
"#;

/// Bytes that fit between the gateway and a reader who is to be slow.
const NARROW: usize = 4 * 1024;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn can(row: &Row) -> &'static Capabilities {
    let dialect = Wire::by_name(row.wire()).expect("a dialect");
    dialect.capabilities()
}

/// The gateway for this row: the agent `desk` of the tenant `acme` with these settings.
async fn world(row: &Row, agent: &str, simulator: &str) -> World {
    let config = format!(
        "[listener]\npublic_url = 'wss://gateway'\n[auth]\nmode = 'keys'\n\
         [[auth.keys]]\ntenant = 'acme'\nsha256 = '{}'\n[tenants.acme]\n\
         [deployments.ga]\nurl = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\napi_key = 'sim-key'\n\
         {}[agents.desk]\ndeployment = 'ga'\n{agent}\n",
        hash_key(KEY),
        (row.accounts)(),
    );
    let mut world = World::with_config(&config, simulator);
    world.is_audiosocket = row.dialect == Dialect::AudioSocket;
    if row.fetches_keys {
        proofs::fetch_keys(&world).await;
    }
    world
}

/// A phone of this row without a credential.
fn bare(row: &Row, acts: impl Into<Vec<Act>>) -> SoftPhone {
    let path = Wire::path_of(row.wire()).expect("a path");
    let (format, query) = row.codec.unwrap_or((AudioFormat::MODEL_PCM, ""));
    let url = format!("ws://gateway{path}/desk{query}");
    SoftPhone::new(&url, row.dialect)
        .expect("a good address")
        .format(format)
        .expect("no Opus")
        .script(acts)
}

fn phone(row: &Row, acts: impl Into<Vec<Act>>) -> SoftPhone {
    (row.good)(bare(row, acts))
}

fn reply() -> Act {
    Act::WaitForReply {
        min_audio: ms(300),
        until_end: true,
        timeout: Duration::from_secs(30),
    }
}

fn until_end(seconds: u64) -> Act {
    Act::WaitForEnd {
        timeout: Duration::from_secs(seconds),
    }
}

/// The call went as the script says, and the gateway kept to the dialect.
fn assert_clean(report: &CallReport) {
    assert!(report.refusal.is_none(), "{report}");
    assert_eq!(report.failure, None, "{report}");
    assert_eq!(report.violations.len(), 0, "{report}");
    assert_eq!(report.script_failures.len(), 0, "{report}");
    assert!(report.script_done, "{report}");
}

async fn greeting(row: &Row) {
    let world = world(row, "greeting = 'Say hello.'", "").await;
    let report = world.call(&phone(row, [reply(), Act::HangUp])).await;
    assert_clean(&report);
    assert_eq!(report.underruns.len(), 0, "{report}");
    assert_eq!(report.turns.len(), 1, "{report}");
    assert_eq!(report.turns[0].speech_start_ms, None, "{report}");
    world.assert_quiet().await;
}

async fn two_turns(row: &Row) {
    let world = world(row, "", "").await;
    let said = [speech::hours(), speech::wait()];
    let acts = said
        .clone()
        .into_iter()
        .flat_map(|clip| [Act::Say(clip), reply()]);
    let acts: Vec<Act> = acts.chain([Act::HangUp]).collect();
    let report = world.call(&phone(row, acts)).await;
    assert_clean(&report);
    assert_eq!(report.underruns.len(), 0, "{report}");
    assert_eq!(report.turns.len(), 2, "{report}");
    let heard = report.audio.expect("audio was kept");
    for clip in said {
        let clip = clip.at_rate(heard.rate);
        let alike = cross_correlation(&clip.samples, &heard.samples, heard.samples.len());
        assert!(alike.peak >= 0.9, "{alike:?}");
    }
    world.assert_quiet().await;
}

/// The beginning of an interruption: long enough for any turn detection, and short.
fn interruption() -> Clip {
    let clip = speech::wait();
    Clip::new(&clip.samples[..clip.rate as usize * 8 / 10], clip.rate)
}

/// Interrupts six-second replies at these points.
async fn interrupt(row: &Row, points_ms: &[u64]) -> CallReport {
    let world = world(row, "", LONG_REPLIES).await;
    let mut acts = vec![Act::Say(interruption())];
    for point in points_ms {
        acts.push(Act::BargeInAfter {
            heard: ms(*point),
            timeout: Duration::from_secs(20),
        });
        acts.push(Act::Say(interruption()));
    }
    acts.push(Act::HangUp);
    let report = world.call(&phone(row, acts)).await;
    assert_clean(&report);
    let record = world.simulator.sessions().remove(0);
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    assert_eq!(
        record.truncates.len(),
        points_ms.len(),
        "{:?}",
        record.truncates
    );
    if can(row).clear == Clear::Command {
        assert_eq!(report.clears.len(), points_ms.len(), "{report}");
        for (clear, cut) in report.clears.iter().zip(&record.truncates) {
            let off = (clear.played_ms - cut.audio_end_ms as f64).abs();
            assert!(
                cut.accepted && off <= BOUND_MS,
                "{off} ms off: {cut:?} {clear}"
            );
        }
    }
    world.assert_quiet().await;
    report
}

async fn barge_in(row: &Row) {
    let name = row.dialect.name();
    let mut random = fastrand::Rng::with_seed(name.bytes().map(u64::from).sum());
    let points: Vec<u64> = (0..20).map(|_| random.u64(1..5_000)).collect();
    let report = interrupt(row, &points).await;
    // What cannot be cleared sounds on for the lead, which is short then.
    let worst = match can(row).clear {
        Clear::Command => ms(0),
        Clear::None => can(row).lead.at_most,
    };
    for turn in &report.turns {
        let Some(barge_in) = &turn.barge_in else {
            continue;
        };
        let (silence, clear) = (barge_in.silence_after_ms, barge_in.clear_after_ms);
        let after = silence.unwrap_or(f64::INFINITY) - clear.or(silence).unwrap_or(0.0);
        assert!(after <= worst.as_secs_f64() * 1_000.0, "{report}");
    }
}

async fn mark_after_clear(row: &Row) {
    // In quick succession, so that marks of several generations are under way.
    let report = interrupt(row, &[700, 300, 1_200, 100, 900]).await;
    let (played, cleared): (Vec<_>, Vec<_>) = report.marks.iter().partition(|mark| mark.played);
    assert!(!played.is_empty(), "{report}");
    assert!(!cleared.is_empty(), "{report}");
}

async fn dtmf(row: &Row) {
    let world = world(row, "", "").await;
    let mut acts = vec![Act::Silence(ms(500))];
    acts.extend("421#".chars().map(Act::Dtmf));
    acts.extend([reply(), Act::HangUp]);
    let report = world.call(&phone(row, acts)).await;
    assert_clean(&report);
    let record = world.simulator.sessions().remove(0);
    assert_eq!(record.received.get("conversation.item.create"), Some(&1));
    assert_eq!(record.received.get("response.create"), Some(&1));
    assert_eq!(record.errors.len(), 0, "{:?}", record.errors);
    world.assert_quiet().await;
}

async fn caller_hang_up(row: &Row) {
    let world = world(row, "", LONG_REPLIES).await;
    let barge_in = Act::BargeInAfter {
        heard: ms(1_000),
        timeout: Duration::from_secs(20),
    };
    let report = world
        .call(&phone(
            row,
            [Act::Say(speech::hours()), barge_in, Act::HangUp],
        ))
        .await;
    assert_clean(&report);
    assert_eq!(
        report.close.as_ref().map(|close| close.by),
        Some(Side::Caller),
        "{report}"
    );
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    world.assert_quiet().await;
}

async fn bot_hang_up(row: &Row) {
    let simulator = r#"
        [reply]
        mode = "script"
        turns = [{ say = "Good-bye then.", length = "3s", calls = [{ name = "hang_up" }] }]
    "#;
    let world = world(row, "", simulator).await;
    let report = world
        .call(&phone(row, [Act::Say(speech::hours()), until_end(30)]))
        .await;
    assert_clean(&report);
    // All of it; the last message is filled up with silence.
    let longest = 3_000.0 + 20.0 * can(row).chunk_frames as f64;
    let heard = report.heard.played_ms;
    // Where the line is never quiet, silence is played besides.
    let is_over = heard > longest && !can(row).fills_silence;
    assert!(heard >= 3_000.0 && !is_over, "{heard} ms: {report}");
    let close = report.close.as_ref().expect("a close");
    match can(row).peer_closes {
        None => assert_eq!(
            (close.by, close.code),
            (Side::Gateway, Some(1000)),
            "{report}"
        ),
        Some(_) => assert_eq!(close.by, Side::Caller, "{report}"),
    }
    assert_eq!(world.ended(1).await.end_reason, EndReason::AssistantHangup);
    world.assert_quiet().await;
}

async fn keepalive(row: &Row) {
    let world = world(row, "", "").await;
    let quiet = Act::Silence(Duration::from_secs(60));
    let report = world.call(&phone(row, [quiet, Act::HangUp])).await;
    // The phone reports what was not answered as a violation.
    assert_clean(&report);
    assert!(report.received.messages > 5, "{report}");
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    world.assert_quiet().await;
}

async fn bad_auth(row: &Row) {
    let world = world(row, "", "").await;
    let acts = [Act::Say(speech::hours()), reply(), Act::HangUp];
    for (n, phone) in [(row.bad)(bare(row, acts.clone())), bare(row, acts.clone())]
        .iter()
        .enumerate()
    {
        let report = phone.call(world.connect()).await;
        let status = report.refusal.as_ref().map(|refusal| refusal.status);
        // AudioSocket has no word for it: the call is hung up before anything was said.
        let expected = (row.dialect != Dialect::AudioSocket).then_some(401);
        assert_eq!(status, expected, "{report}");
        assert_eq!(report.received.audio_messages, 0, "{report}");
        let denied = "trunkline_auth_denied_total{";
        let route = format!("route=\"{}\"}} ", row.wire());
        let metrics = world.metrics();
        let counted = metrics
            .lines()
            .filter(|it| it.starts_with(denied) && it.contains(&route));
        let counted: f64 = counted
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert_eq!(counted, n as f64 + 1.0, "{metrics}");
    }
    assert_eq!(world.simulator.sessions().len(), 0);
    // The same door opens for who is let in.
    assert_clean(&world.call(&phone(row, acts)).await);
    world.assert_quiet().await;
}

async fn garbage(row: &Row) {
    let world = world(row, "", "").await;
    let other = phone(
        row,
        [
            Act::Say(speech::hours()),
            Act::Silence(Duration::from_secs(3)),
            reply(),
            Act::HangUp,
        ],
    );
    let spoilt = phone(
        row,
        [
            Act::Say(speech::hours()),
            Act::SendText("{\"what is this".to_owned()),
            until_end(20),
        ],
    );
    let (other, spoilt) = tokio::join!(other.call(world.connect()), spoilt.call(world.connect()));
    assert_clean(&other);
    assert_eq!(spoilt.violations.len(), 0, "{spoilt}");
    assert!(spoilt.script_failures.is_empty(), "{spoilt}");
    let ended = [world.ended(1).await, world.ended(2).await].map(|summary| summary.end_reason);
    assert_eq!(ended, [EndReason::CallerProtocol, EndReason::CallerHangup]);
    let metrics = world.metrics();
    // Where only binary is spoken, no text is read at all.
    let name = match row.dialect {
        Dialect::AudioSocket => "wrong_shape",
        Dialect::Pipecat | Dialect::AudioProtobuf => "text_unexpected",
        _ => "malformed_json",
    };
    let named = metrics
        .lines()
        .any(|line| line.contains(name) && line.ends_with(" 1"));
    assert!(named, "{metrics}");
    world.assert_quiet().await;
}

/// Passes everything on, but for so long after `from` nothing of what the gateway says.
fn stall(near: DuplexStream, from: Duration, length: Duration) -> DuplexStream {
    let (far, middle) = tokio::io::duplex(NARROW);
    let (mut near_reader, mut near_writer) = tokio::io::split(near);
    let (mut far_reader, mut far_writer) = tokio::io::split(middle);
    let tasks = TaskTracker::new();
    let start = Instant::now();
    tasks.spawn(async move {
        let mut chunk = vec![0; 1024];
        while let Ok(n @ 1..) = near_reader.read(&mut chunk).await {
            if (from..from + length).contains(&start.elapsed()) {
                tokio::time::sleep_until(start + from + length).await;
            }
            if far_writer.write_all(&chunk[..n]).await.is_err() {
                break;
            }
        }
        let _ = far_writer.shutdown().await;
    });
    tasks.spawn(async move {
        let _ = tokio::io::copy(&mut far_reader, &mut near_writer).await;
        let _ = near_writer.shutdown().await;
    });
    far
}

async fn slow_reader(row: &Row) {
    let world = world(row, "", LONG_REPLIES).await;
    let narrow = |n: u8| world.connect_through(NARROW, std::net::Ipv4Addr::new(10, 9, 0, n));
    let acts = [
        Act::Say(speech::hours()),
        Act::Silence(Duration::from_secs(9)),
        Act::Say(speech::wait()),
        Act::Silence(Duration::from_secs(9)),
        Act::HangUp,
    ];
    let stalled = stall(narrow(1), ms(4_000), ms(3_000));
    let report = phone(row, acts.clone()).call(stalled).await;
    assert_clean(&report);
    let ended = world.ended(1).await;
    assert_eq!(ended.end_reason, EndReason::CallerHangup, "{report}");
    assert!(report.turns[1].first_heard_ms.is_some(), "{report}");
    let gone = stall(narrow(2), ms(4_000), Duration::from_secs(600));
    // The phone hears of its end only when it reads again; the gateway does not wait for that.
    let phone = phone(row, acts);
    let left = async {
        let before = Instant::now();
        let ended = world.ended(2).await;
        (ended, before.elapsed())
    };
    let (_, (ended, after)) = tokio::join!(phone.call(gone), left);
    // Infobip itself hangs up a line on which nothing comes.
    let expected = match row.dialect {
        Dialect::Infobip => EndReason::CallerHangup,
        _ => EndReason::CallerTooSlow,
    };
    assert_eq!(ended.end_reason, expected);
    assert!(after < Duration::from_secs(60), "{after:?}");
    world.assert_quiet().await;
}

async fn ten_minutes(row: &Row) {
    const N: usize = 24;
    let world = world(row, "greeting = 'Say hello.'", "").await;
    let mut acts = vec![reply()];
    for n in 0..N {
        let clip = if n % 2 == 0 {
            speech::hours()
        } else {
            speech::wait()
        };
        acts.extend([
            Act::Say(clip),
            reply(),
            Act::Silence(Duration::from_secs(20)),
        ]);
    }
    acts.push(Act::HangUp);
    let report = world.call(&phone(row, acts).keeps_audio(false)).await;
    assert_clean(&report);
    assert!(report.ended_ms >= 600_000.0, "{report}");
    assert_eq!(report.underruns.len(), 0, "{report}");
    assert_eq!(report.turns.len(), N + 1, "{report}");
    for turn in &report.turns {
        assert!(turn.first_heard_ms.is_some(), "{report}");
    }
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerHangup);
    world.assert_quiet().await;
}
