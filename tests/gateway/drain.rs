//! Going away without cutting anybody off, and what the metrics page tells.

use std::time::Duration;

use tokio::time::Instant;
use trunkline::call::EndReason;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, speech};

use crate::callers::{listen, phone};
use crate::harness::{CONFIG, World};
use crate::wire::{Wire, upgrade_request};

const GRACE: Duration = Duration::from_secs(60);

fn webhook(path: &str) -> String {
    let form = "CallSid=CA1&AccountSid=AC1&From=%2B15550001111&To=%2B15550002222";
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
        form.len()
    )
}

#[tokio::test(start_paused = true)]
async fn live_calls_finish_and_new_ones_are_refused() {
    let world = World::new("");
    let before = world.http(&webhook("/twilio/voice/ga")).await;
    assert!(before.contains("<Connect>"), "{before}");
    let script = [Act::Say(speech::hours()), listen(), Act::HangUp];
    let sdk = "/openai/v1/realtime?model=ga";
    let phone_call = phone("/twilio/media/ga", Dialect::Twilio, script.clone());
    let sdk_call = phone(sdk, Dialect::Realtime, script);
    let began = Instant::now();
    let drain = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.gateway.drain(GRACE).await;
        began.elapsed()
    };
    let newcomers = async {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(world.gateway.is_draining());
        assert_eq!(world.metric("trunkline_draining"), 1.0);
        for target in [sdk, "/twilio/media/ga", "/v1/audio/ga"] {
            let answer = world.http(&upgrade_request(target, "")).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
            assert!(answer.contains("x-trunkline-error: draining"));
        }
        // No busy tone: a balancer, or Twilio by its fallback URL, is to ask another gateway.
        let answer = world.http(&webhook("/twilio/voice/ga")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("x-trunkline-error: draining"), "{answer}");
        assert!(!answer.contains("<Reject"), "{answer}");
        for (route, n) in [("realtime", 1.0), ("audio", 1.0), ("twilio", 2.0)] {
            let refused =
                format!(r#"trunkline_calls_refused_total{{reason="draining",route="{route}"}}"#);
            assert_eq!(world.metric(&refused), n, "{route}");
        }
    };
    let (phone_report, sdk_report, took, ()) = tokio::join!(
        phone_call.call(world.connect()),
        sdk_call.call(world.connect()),
        drain,
        newcomers
    );
    for report in [phone_report, sdk_report] {
        assert!(
            report.is_heard_both_ways() && report.script_done,
            "{report}"
        );
    }
    assert!(
        took < GRACE,
        "the last call's end ended it, not the deadline: {took:?}"
    );
    for n in [1, 2] {
        assert_eq!(world.ended(n).await.end_reason, EndReason::CallerHangup);
    }
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_rest_ends_within_ten_seconds() {
    let world = World::new("");
    let mut phone = Wire::open(&world, "/twilio/media/ga").await;
    phone
        .text(r#"{"event":"start","streamSid":"MZ1","start":{"streamSid":"MZ1","callSid":"CA1"}}"#)
        .await;
    let mut program = Wire::open(&world, "/v1/audio/ga").await;
    program.text(r#"{"type":"start"}"#).await;
    let mut sdk = Wire::open(&world, "/openai/v1/realtime?model=ga").await;
    let grace = Duration::from_secs(20);
    let began = Instant::now();
    let expected = Some((1012, "drained".to_owned()));
    let drain = world.gateway.drain(grace);
    let ends = async {
        assert_eq!(phone.until_close().await.0, expected);
        let (close, said) = program.until_close().await;
        assert_eq!(close, expected);
        let last = said.last().expect("an end message");
        assert_eq!(
            (&last["type"], &last["reason"]),
            (&"end".into(), &"drained".into())
        );
        assert_eq!(sdk.until_close().await.0, expected);
        drop((phone, program, sdk));
    };
    let ((), ()) = tokio::join!(drain, ends);
    let took = began.elapsed();
    assert!(
        took >= grace && took < grace + Duration::from_secs(12),
        "{took:?}"
    );
    for n in 1..=3 {
        assert_eq!(world.ended(n).await.end_reason, EndReason::Drained);
    }
    world.assert_quiet().await;
}

/// A caller that was let in before the drain and is still being connected belongs to those who may finish.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_being_connected_is_a_call() {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let caller = Wire::open(&world, "/openai/v1/realtime?model=ga");
    let deployment = async {
        let stream = accepted[0].recv().await.expect("a connection");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("an upgrade");
        let first = crate::wire::session_created();
        let message = tokio_tungstenite::tungstenite::Message::text(first);
        futures_util::SinkExt::send(&mut socket, message)
            .await
            .expect("sent");
        socket
    };
    let drain = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        world.gateway.drain(GRACE).await;
        began.elapsed()
    };
    let call = async {
        let (mut caller, socket) = tokio::join!(caller, deployment);
        tokio::time::sleep(Duration::from_secs(10)).await;
        caller.close(1000, "").await;
        caller.until_close().await;
        drop((caller, socket));
    };
    let (took, ()) = tokio::join!(drain, call);
    assert!(took > Duration::from_secs(10) && took < GRACE, "{took:?}");
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_metrics_page_tells_of_a_call() {
    let world = World::new("");
    let barge_in = || Act::BargeInAfter {
        heard: Duration::from_millis(800),
        timeout: Duration::from_secs(20),
    };
    let script = [
        Act::Say(speech::hours()),
        listen(),
        Act::Say(speech::order()),
        barge_in(),
        Act::Say(speech::wait()),
        listen(),
        Act::HangUp,
    ];
    let calls = [
        (
            "twilio",
            phone("/twilio/media/ga", Dialect::Twilio, script.clone()),
        ),
        (
            "audio",
            phone("/v1/audio/preview", Dialect::Audio, script.clone()),
        ),
        (
            "realtime",
            phone("/openai/v1/realtime?model=ga", Dialect::Realtime, script),
        ),
    ];
    for (dialect, phone) in calls {
        let report = world.call(&phone).await;
        assert!(report.is_heard_both_ways(), "{report}");
        let deployment = if dialect == "audio" { "preview" } else { "ga" };
        check_call(&world, dialect, deployment, report.sent.audio_ms / 1_000.0);
    }
    check_deployments(&world);
    world.assert_quiet().await;
}

/// Series of one dialect after one call of three turns, one of them interrupted.
fn check_call(world: &World, dialect: &str, deployment: &str, said: f64) {
    let counted = |name: &str, more: &str| {
        world.metric(&format!("trunkline_{name}{{dialect=\"{dialect}\"{more}}}"))
    };
    let total = format!(
        r#"trunkline_calls_total{{deployment="{deployment}",dialect="{dialect}",end_reason="caller_hangup"}}"#
    );
    assert_eq!(world.metric(&total), 1.0, "{dialect}");
    assert_eq!(counted("calls_active", ""), 0.0);
    assert_eq!(counted("turn_latency_seconds_count", ""), 3.0, "{dialect}");
    let whole = counted("turn_latency_seconds_sum", "");
    let shares = counted("turn_model_seconds_sum", "") + counted("turn_gateway_seconds_sum", "");
    assert!((whole - shares).abs() < 1e-6, "{dialect}: {whole} {shares}");
    assert!(whole / 3.0 > 0.2 && whole / 3.0 < 2.0, "{dialect}: {whole}");
    assert_eq!(counted("first_audio_seconds_count", ""), 1.0);
    for direction in ["to_model", "to_caller"] {
        let more = format!(r#",direction="{direction}""#);
        assert!(counted("frame_seconds_count", &more) > 10.0, "{dialect}");
        // Under simulated time the gateway's own work takes none.
        assert!(counted("frame_seconds_sum", &more) < 0.5, "{dialect}");
    }
    if dialect != "realtime" {
        assert_eq!(
            counted("barge_in_clear_seconds_count", ""),
            1.0,
            "{dialect}"
        );
        let heard = counted("audio_seconds_total", r#",direction="to_model""#);
        assert!((heard - said).abs() < 0.1, "{dialect}: {heard} of {said}");
        assert!(counted("audio_seconds_total", r#",direction="to_caller""#) > 4.0);
        assert!(
            counted("barge_in_unheard_seconds_total", "") > 0.0,
            "{dialect}"
        );
    }
    assert_eq!(counted("underruns_total", ""), 0.0, "{dialect}");
}

fn check_deployments(world: &World) {
    for deployment in ["ga", "preview"] {
        let n_calls = if deployment == "ga" { 2.0 } else { 1.0 };
        let phases = if deployment == "ga" { 1.0 } else { n_calls };
        for (phase, expected) in [
            ("upgrade", n_calls),
            ("session_created", n_calls),
            // SDK callers configure their sessions themselves.
            ("session_updated", phases),
        ] {
            let count = format!(
                r#"trunkline_call_setup_seconds_count{{deployment="{deployment}",phase="{phase}"}}"#
            );
            assert_eq!(world.metric(&count), expected, "{phase}");
        }
        for (direction, modality, cached) in [
            ("input", "text", "false"),
            ("input", "audio", "false"),
            ("input", "audio", "true"),
            ("output", "audio", "false"),
            ("output", "text", "false"),
        ] {
            let tokens = format!(
                r#"trunkline_usage_tokens_total{{cached="{cached}",deployment="{deployment}",direction="{direction}",modality="{modality}",tenant="default"}}"#
            );
            assert!(world.metric(&tokens) > 0.0, "{tokens}");
        }
        for name in ["requests", "tokens"] {
            let gauge = |bound| {
                world.metric(&format!(
                    r#"trunkline_rate_limit{{bound="{bound}",deployment="{deployment}",name="{name}"}}"#
                ))
            };
            assert!(gauge("limit") > gauge("remaining") && gauge("remaining") > 0.0);
        }
        let completed =
            format!(r#"trunkline_responses_total{{deployment="{deployment}",status="completed"}}"#);
        assert_eq!(world.metric(&completed), 3.0 * n_calls);
    }
    assert!(world.metric("trunkline_pacer_lateness_seconds_count") > 100.0);
    assert_eq!(world.metric("trunkline_panics_total"), 0.0);
}
