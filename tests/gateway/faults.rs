//! What a single deployment does wrong, and what a caller and the books see of it. Phones are kept while it
//! is tried again, and then hear an apology; what becomes of their calls where there are two is in `failover.rs`.

use std::time::Duration;

use trunkline::call::EndReason;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::harness::{CONFIG, World, not_carried};
use crate::wire::Wire;

const DIALECTS: [Dialect; 3] = [Dialect::Twilio, Dialect::Audio, Dialect::Realtime];

fn name(dialect: Dialect) -> &'static str {
    dialect.name()
}

fn phone(dialect: Dialect, script: impl Into<Vec<Act>>) -> SoftPhone {
    let url = match dialect {
        Dialect::Twilio => "ws://gateway/twilio/media/ga",
        Dialect::Realtime => "ws://gateway/openai/v1/realtime?model=ga",
        _ => "ws://gateway/v1/audio/ga",
    };
    SoftPhone::new(url, dialect)
        .expect("a good address")
        .script(script)
}

fn listen(seconds: u64) -> Act {
    Act::WaitForReply {
        min_audio: Duration::from_millis(300),
        until_end: true,
        timeout: Duration::from_secs(seconds),
    }
}

fn patient() -> [Act; 3] {
    let timeout = Duration::from_secs(120);
    [
        Act::Say(speech::hours()),
        listen(6),
        Act::WaitForEnd { timeout },
    ]
}

fn errors(code: &str) -> String {
    format!(r#"trunkline_upstream_errors_total{{code="{code}",deployment="ga"}}"#)
}

/// A call in which the deployment's fault comes in the middle of the first reply, and ends it.
async fn ends(
    dialect: Dialect,
    simulator: &str,
    reason: EndReason,
    code: u16,
) -> (World, CallReport) {
    ends_at(CONFIG, dialect, simulator, reason, code).await
}

async fn ends_at(
    config: &str,
    dialect: Dialect,
    simulator: &str,
    reason: EndReason,
    code: u16,
) -> (World, CallReport) {
    let world = World::with_config(config, simulator);
    let report = world.call(&phone(dialect, patient())).await;
    let summary = world.ended(1).await;
    assert_eq!(summary.end_reason, reason, "{simulator}: {report}");
    let close = report.close.as_ref().expect("a close frame");
    assert_eq!(close.code, Some(code), "{simulator}: {report}");
    if dialect != Dialect::Realtime {
        assert_eq!(close.reason, reason.name());
    }
    if dialect == Dialect::Audio {
        assert_eq!(report.end_reason.as_deref(), Some(reason.name()));
    }
    assert!(report.violations.is_empty(), "{simulator}: {report}");
    let counted = format!(
        r#"trunkline_calls_total{{deployment="ga",dialect="{}",end_reason="{}"}}"#,
        name(dialect),
        reason.name()
    );
    assert_eq!(world.metric(&counted), 1.0, "{simulator}");
    world.assert_quiet().await;
    (world, report)
}

/// How a call of that dialect ends where its deployment fails again and again. SDK callers see the deployment's own
/// code, if it gave one.
fn end_of(dialect: Dialect, reason: EndReason, code: u16) -> (EndReason, u16) {
    match dialect {
        Dialect::Realtime if !matches!(reason, EndReason::ModelGone | EndReason::ModelProtocol) => {
            (reason, code)
        }
        _ => (EndReason::ModelUnavailable, 1013),
    }
}

#[tokio::test(start_paused = true)]
async fn the_deployment_closes_in_mid_word() {
    for (code, reason) in [
        (1000, EndReason::ModelClosed),
        (1001, EndReason::ModelSessionExpired),
        (1011, EndReason::ModelClosed),
        (1012, EndReason::ModelClosed),
        (1013, EndReason::ModelClosed),
        (3000, EndReason::ModelUnauthorized),
        (4000, EndReason::ModelRejectedSession),
        // The connection breaks without a word.
        (1006, EndReason::ModelGone),
    ] {
        for dialect in DIALECTS {
            let shown = if code == 1006 { 1011 } else { code };
            let (reason, shown) = end_of(dialect, reason, shown);
            let simulator = format!("[[faults]]\nkind = 'close'\ncode = {code}\n");
            let (_, report) = ends(dialect, &simulator, reason, shown).await;
            assert!(report.received.audio_ms > 0.0, "{code}: {report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_deployment_stalls_in_mid_word() {
    let stall = "[[faults]]\nkind = 'stall'\n";
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let (_, report) = ends(dialect, stall, EndReason::ModelUnavailable, 1013).await;
        // 250 ms were sent by each of four sessions, 8 s before it was given up.
        assert!(report.received.audio_ms >= 4.0 * 240.0, "{report}");
        let last_word = report.turns[0].speech_end_ms.expect("said");
        let waited = report.ended_ms - last_word;
        assert!((35_000.0..43_000.0).contains(&waited), "{report}");
    }
    // An SDK caller that ends it all first.
    let script = [
        Act::Say(speech::hours()),
        Act::Silence(Duration::from_secs(30)),
        Act::HangUp,
    ];
    let world = World::new(stall);
    let report = world.call(&phone(Dialect::Realtime, script)).await;
    assert_eq!(
        world.ended(1).await.end_reason,
        EndReason::CallerHangup,
        "{report}"
    );
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_session_expires() {
    let cap = "azure_session_cap = '3500ms'\n";
    let (world, report) = ends_at(
        &not_carried(),
        Dialect::Realtime,
        cap,
        EndReason::ModelSessionExpired,
        1001,
    )
    .await;
    assert_eq!(world.metric(&errors("session_expired")), 1.0);
    let close = report.close.as_ref().expect("a close frame");
    assert!(close.reason.starts_with("Your session hit"), "{report}");
    assert_eq!(report.errors[0].code, "session_expired");
    // A phone hears nothing of it, even where sessions are as short as this.
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let (world, report) = goes_on(dialect, cap, CONFIG).await;
        assert_answered(&report, &[true, true]);
        assert!(world.ended(1).await.n_sessions > 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_deployment_sends_more_than_anybody_takes() {
    let oversized = "[[faults]]\nkind = 'oversized'\nbytes = 34_000_000\n";
    for dialect in DIALECTS {
        let (reason, code) = end_of(dialect, EndReason::ModelProtocol, 1011);
        ends(dialect, oversized, reason, code).await;
    }
}

/// A call that goes on: what is said after the fault is answered.
async fn goes_on(dialect: Dialect, simulator: &str, config: &str) -> (World, CallReport) {
    let world = World::with_config(config, simulator);
    let script = [
        Act::Say(speech::hours()),
        listen(8),
        Act::Say(speech::order()),
        listen(8),
        Act::HangUp,
    ];
    let report = world.call(&phone(dialect, script)).await;
    let summary = world.ended(1).await;
    assert_eq!(
        summary.end_reason,
        EndReason::CallerHangup,
        "{simulator}: {report}"
    );
    assert!(report.script_done, "{simulator}: {report}");
    assert!(report.violations.is_empty(), "{simulator}: {report}");
    world.assert_quiet().await;
    (world, report)
}

fn assert_answered(report: &CallReport, turns: &[bool]) {
    let answered: Vec<_> = report
        .turns
        .iter()
        .map(|turn| turn.reply_voiced_ms >= 300.0)
        .collect();
    assert_eq!(answered, turns, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_response_is_asked_for_once_more() {
    let failed = "[[faults]]\nkind = 'failed_response'\n";
    let retries = r#"trunkline_response_retries_total{deployment="ga"}"#;
    let statuses = r#"trunkline_responses_total{deployment="ga",status="failed"}"#;
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let once = format!("{failed}first_responses = 1\n");
        let (world, report) = goes_on(dialect, &once, CONFIG).await;
        assert_answered(&report, &[true, true]);
        assert_eq!((world.metric(retries), world.metric(statuses)), (1.0, 1.0));
        // A deployment that always fails is asked twice in each of eight sessions.
        let (world, _) = ends(dialect, failed, EndReason::ModelUnavailable, 1013).await;
        assert_eq!((world.metric(retries), world.metric(statuses)), (8.0, 16.0));
    }
    let (world, report) = goes_on(Dialect::Realtime, failed, CONFIG).await;
    assert_answered(&report, &[false, false]);
    assert_eq!((world.metric(retries), world.metric(statuses)), (0.0, 2.0));
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_cannot_even_begin() {
    let fault = "[[faults]]\nkind = 'server_error'\n";
    let retries = r#"trunkline_response_retries_total{deployment="ga"}"#;
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let once = format!("{fault}first_responses = 1\n");
        let (world, report) = goes_on(dialect, &once, CONFIG).await;
        assert_answered(&report, &[true, true]);
        assert_eq!(
            (world.metric(retries), world.metric(&errors("server_error"))),
            (1.0, 1.0)
        );
        let (world, _) = ends(dialect, fault, EndReason::ModelUnavailable, 1013).await;
        assert_eq!(
            (world.metric(retries), world.metric(&errors("server_error"))),
            (8.0, 16.0)
        );
    }
    let (_, report) = goes_on(Dialect::Realtime, fault, CONFIG).await;
    assert_answered(&report, &[false, false]);
    assert!(
        report
            .errors
            .iter()
            .all(|error| error.code == "server_error"),
        "{report}"
    );
}

/// To ask the same session again would only be refused again.
#[tokio::test(start_paused = true)]
async fn a_used_up_quota_is_not_asked_again() {
    let quota = "[quota]\nenforce = 'response'\ntokens_per_minute = 1\n";
    let check = |world: &World, n: f64| {
        assert_eq!(world.metric(&errors("rate_limit_exceeded")), n);
        assert_eq!(
            world.metric(r#"trunkline_response_retries_total{deployment="ga"}"#),
            0.0
        );
        let limit = r#"trunkline_rate_limit{bound="limit",deployment="ga",name="tokens"}"#;
        assert_eq!(world.metric(limit), 1.0);
    };
    let (world, report) = goes_on(Dialect::Realtime, quota, CONFIG).await;
    assert_answered(&report, &[false, false]);
    check(&world, 2.0);
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let (world, _) = ends(dialect, quota, EndReason::ModelUnavailable, 1013).await;
        // It says when to come again, which is long after the caller has gone.
        check(&world, 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_event_is_left_out() {
    for dialect in DIALECTS {
        let malformed = "[[faults]]\nkind = 'malformed'\n";
        let (world, report) = goes_on(dialect, malformed, CONFIG).await;
        assert_answered(&report, &[true, true]);
        assert_eq!(world.metric(&errors("malformed_event")), 2.0);
        assert!(report.underruns.is_empty(), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_event_is_borne() {
    for dialect in DIALECTS {
        // Three times what was ever seen of the vendor (protocol reference 1.6).
        let huge = "[[faults]]\nkind = 'oversized'\nbytes = 12_000_000\nfirst_responses = 1\n";
        let (_, report) = goes_on(dialect, huge, CONFIG).await;
        assert_answered(&report, &[true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn transcripts_may_come_as_they_like() {
    let config = format!("{CONFIG}\n[agents.ga.session.transcription]\nmodel = 'whisper-1'\n");
    for (kind, n_transcripts) in [
        ("duplicate_transcription", 4),
        ("reordered_transcription", 2),
        ("failed_transcription", 0),
    ] {
        let fault = format!("[[faults]]\nkind = '{kind}'\n");
        let (_, report) = goes_on(Dialect::Audio, &fault, &config).await;
        assert_answered(&report, &[true, true]);
        let caller = report
            .transcripts
            .iter()
            .filter(|text| text.speaker == "caller");
        assert_eq!(caller.count(), n_transcripts, "{kind}: {report}");
    }
}

/// A caller that stops reading loses audio, whole frames of it, and is given up after 15 s.
#[tokio::test(start_paused = true)]
async fn a_phone_that_takes_nothing() {
    let long = "[reply]\nmode = 'tone'\nhz = 440.0\nlength = '200s'\n";
    let config = CONFIG.replacen(
        "[agents.ga]",
        "[agents.ga]\ngreeting = 'Talk for minutes.'",
        1,
    );
    let world = World::with_config(&config, long);
    let mut wire = Wire::open(&world, "/v1/audio/ga").await;
    wire.text(r#"{"type":"start"}"#).await;
    let silence = vec![0; 960];
    let talk = async {
        loop {
            wire.binary(&silence).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let summary = tokio::select! {
        () = talk => unreachable!("it talks for ever"),
        summary = world.ended(1) => summary,
    };
    assert_eq!(summary.end_reason, EndReason::CallerTooSlow);
    // 256 KiB of pipe are 5.4 s of audio.
    assert_eq!(summary.duration.as_secs(), 20);
    let dropped = r#"trunkline_audio_dropped_seconds_total{dialect="audio",reason="caller_slow"}"#;
    assert!(world.metric(dropped) > 10.0, "{}", world.metric(dropped));
    world.assert_quiet().await;
}

/// A caller that vanishes costs nothing from then on.
#[tokio::test(start_paused = true)]
async fn a_caller_that_vanishes() {
    for target in [
        "/twilio/media/ga",
        "/v1/audio/ga",
        "/openai/v1/realtime?model=ga",
    ] {
        let world = World::new("");
        let wire = Wire::open(&world, target).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(wire);
        let summary = world.ended(1).await;
        assert_eq!(summary.end_reason, EndReason::CallerGone);
        world.assert_quiet().await;
        let close = world.simulator.sessions()[0].closed.clone();
        assert_eq!(close.map(|close| close.code), Some(1000));
    }
}
