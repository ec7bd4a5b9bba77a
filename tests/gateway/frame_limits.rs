//! Limits on frames and on time, each at the limit and one beyond, on both legs.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use trunkline::call::EndReason;

use crate::harness::{CONFIG, World, not_carried};
use crate::wire::{Deployment, Wire, polite, session_created};

const PHONES: [(&str, &str, &str); 2] = [
    ("audio", "/v1/audio/ga", r#"{"type":"start"}"#),
    (
        "twilio",
        "/twilio/media/ga",
        r#"{"event":"start","streamSid":"MZ1","start":{"streamSid":"MZ1","callSid":"CA1","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#,
    ),
];

const SDK: (&str, &str, &str) = (
    "realtime",
    "/openai/v1/realtime?model=ga",
    r#"{"type":"input_audio_buffer.clear"}"#,
);

/// All kinds of callers, each with a message that it may begin with.
fn callers() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    PHONES.into_iter().chain([SDK])
}

async fn refused(world: &World, wire: &mut Wire, dialect: &str, code: u16, reason: &str) {
    let (close, _) = wire.until_close().await;
    assert_eq!(close, Some((code, reason.to_owned())), "{dialect}");
    let counted = format!(r#"trunkline_bad_input_total{{dialect="{dialect}",reason="{reason}"}}"#);
    assert_eq!(world.metric(&counted), 1.0, "{dialect}");
    let summary = world.ended(1).await;
    assert_eq!(summary.end_reason, EndReason::CallerProtocol, "{dialect}");
}

/// Whether the call is still there: a ping is answered.
async fn assert_alive(wire: &mut Wire, dialect: &str) {
    wire.frame(0x89, b"alive?").await;
    loop {
        match wire.next().await {
            crate::wire::Heard::Pong(payload) if payload == b"alive?" => return,
            crate::wire::Heard::Close { .. } | crate::wire::Heard::Gone => {
                panic!("{dialect}: the call is over")
            }
            _ => {}
        }
    }
}

/// The message in so many fragments, most of them empty.
async fn in_fragments(wire: &mut Wire, message: &str, n: usize) {
    wire.frame(0x01, message.as_bytes()).await;
    for _ in 2..n {
        wire.frame(0x00, b"").await;
    }
    wire.frame(0x80, b"").await;
}

#[tokio::test(start_paused = true)]
async fn fragments_of_a_message() {
    for (dialect, target, begin) in callers() {
        let limit = if dialect == "realtime" { 1024 } else { 64 };
        let world = World::new("");
        let mut wire = Wire::open(&world, target).await;
        in_fragments(&mut wire, begin, limit).await;
        assert_alive(&mut wire, dialect).await;
        in_fragments(&mut wire, begin, limit + 1).await;
        refused(&world, &mut wire, dialect, 1008, "too_many_fragments").await;
    }
}

#[tokio::test(start_paused = true)]
async fn control_frames_a_second() {
    for (dialect, target, begin) in callers() {
        for first in [0x89, 0x8A] {
            let world = World::new("");
            let mut wire = Wire::open(&world, target).await;
            wire.text(begin).await;
            for _ in 0..20 {
                wire.frame(first, b"").await;
            }
            sleep(Duration::from_secs(1)).await;
            // Twenty every second, for ever.
            for _ in 0..200 {
                wire.frame(first, b"").await;
                sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_secs(1)).await;
            for _ in 0..19 {
                wire.frame(first, b"").await;
            }
            assert_alive(&mut wire, dialect).await;
            wire.frame(first, b"").await;
            refused(&world, &mut wire, dialect, 1008, "too_many_control_frames").await;
        }
    }
}

/// Limits small enough to be counted.
const FEW: &str = "[listener.callers.phone]\nmessages_per_second = 10\nmessage_burst = 5\n\
                   [listener.callers.realtime]\nmessages_per_second = 10\nmessage_burst = 5\n";

#[tokio::test(start_paused = true)]
async fn messages_a_second() {
    for (dialect, target, begin) in callers() {
        let world = World::with_config(&format!("{CONFIG}{FEW}"), "");
        let mut wire = Wire::open(&world, target).await;
        // Said again it is ignored, whichever dialect.
        let again = match dialect {
            "audio" => r#"{"type":"weather"}"#,
            _ => begin,
        };
        wire.text(begin).await;
        for _ in 0..4 {
            wire.text(again).await;
        }
        for _ in 0..50 {
            sleep(Duration::from_millis(100)).await;
            wire.text(again).await;
        }
        assert_alive(&mut wire, dialect).await;
        wire.text(again).await;
        refused(&world, &mut wire, dialect, 1008, "too_many_messages").await;
    }
}

/// A media stream that was held back for 40 s, and an SDK client that sends ten minutes of audio at once.
#[tokio::test(start_paused = true)]
async fn what_was_queued_may_come_at_once() {
    for (dialect, target, begin) in callers() {
        let world = World::new("");
        let mut wire = Wire::open(&world, target).await;
        wire.text(begin).await;
        let (n, message) = match dialect {
            "audio" => (1_999, Err(vec![0; 960])),
            "twilio" => (
                1_999,
                Ok(r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8="}}"#),
            ),
            _ => (
                29_999,
                Ok(r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#),
            ),
        };
        for _ in 0..n {
            match &message {
                Ok(text) => wire.text(text).await,
                Err(bytes) => wire.binary(bytes).await,
            }
        }
        assert_alive(&mut wire, dialect).await;
    }
}

/// Byte by byte for ever is no message, and a large one on a slow line is one.
#[tokio::test(start_paused = true)]
async fn a_message_has_an_end() {
    for (dialect, target, begin) in callers() {
        let world = World::new("");
        let mut wire = Wire::open(&world, target).await;
        wire.text(begin).await;
        wire.raw(&[0x81, 0x80 | 100, 0, 0, 0, 0]).await;
        for _ in 0..9 {
            sleep(Duration::from_secs(1)).await;
            wire.raw(b" ").await;
        }
        assert_eq!(world.gateway.calls().active(), 1, "{dialect}");
        refused(&world, &mut wire, dialect, 1008, "message_too_slow").await;
        let lasted = world.ended(1).await.duration;
        assert_eq!(lasted.as_secs(), 10, "{dialect}");

        let world = World::new("");
        let mut wire = Wire::open(&world, target).await;
        wire.text(begin).await;
        wire.frame(0x01, b"{").await;
        sleep(Duration::from_secs(5)).await;
        // Pings and empty fragments are no progress.
        wire.frame(0x89, b"").await;
        wire.frame(0x00, b"").await;
        refused(&world, &mut wire, dialect, 1008, "message_too_slow").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_may_take_its_time() {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let created = session_created();
    let (wire, mut deployment) = tokio::join!(
        Wire::open(&world, SDK.1),
        Deployment::accept(&mut accepted[0], &created)
    );
    let mut stream = wire.into_stream();
    let text = format!(r#"{{"type":"x.y","p":"{}"}}"#, "a".repeat(3 << 20));
    let bytes = crate::wire::frame(0x81, text.as_bytes());
    let upload = async {
        // 48 KiB a second: 64 s, in which no pong can come between.
        for chunk in bytes.chunks(48 * 1024) {
            stream.write_all(chunk).await.expect("taken");
            sleep(Duration::from_secs(1)).await;
        }
    };
    let arrival = async {
        loop {
            let next = deployment.socket.next().await;
            if let Message::Text(text) = next.expect("a session").expect("a message") {
                return text.len();
            }
        }
    };
    let ((), arrived) = tokio::join!(upload, arrival);
    assert_eq!(arrived, text.len());
}

/// The time for which a caller is not read, because the deployment takes nothing, is not held against its message.
#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_reads_is_not_late() {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let created = session_created();
    let (mut wire, mut deployment) = tokio::join!(
        Wire::open(&world, SDK.1),
        Deployment::accept(&mut accepted[0], &created)
    );
    let large = format!(r#"{{"type":"x.y","p":"{}"}}"#, "a".repeat(200_000));
    // More than the pipe to the deployment holds, and the begin of another.
    wire.text(&large).await;
    wire.frame(0x01, br#"{"type":"x.y","#).await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!(deployment.text().await, large);
    sleep(Duration::from_secs(2)).await;
    wire.frame(0x80, br#""p":1}"#).await;
    assert_eq!(deployment.text().await, r#"{"type":"x.y","p":1}"#);
}

#[tokio::test(start_paused = true)]
async fn the_json_of_an_sdk_client() {
    let limits = "[listener.callers.realtime]\njson_depth = 3\njson_keys = 4\n";
    let (dialect, target, _) = SDK;
    // At the limit, and one beyond.
    for (good, bad) in [
        (
            r#"{"type":"x","a":{"b":{}}}"#,
            r#"{"type":"x","a":{"b":{"c":{}}}}"#,
        ),
        (
            r#"{"type":"x","a":1,"b":1,"c":1}"#,
            r#"{"type":"x","a":1,"b":1,"c":1,"d":1}"#,
        ),
    ] {
        let world = World::with_config(&format!("{CONFIG}{limits}"), "");
        let mut wire = Wire::open(&world, target).await;
        wire.text(good).await;
        assert_alive(&mut wire, dialect).await;
        wire.text(bad).await;
        refused(&world, &mut wire, dialect, 1008, "json_too_large").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_sdk_call_has_an_end() {
    let limits = "[listener.callers.realtime]\nidle = '2m'\nmax_duration = '5m'\n";
    let cases = [
        (None, EndReason::CallerSilent, 120),
        (Some(119), EndReason::MaxDuration, 300),
    ];
    for (every, reason, after) in cases {
        let world = World::with_config(&format!("{CONFIG}{limits}"), "");
        let mut socket = polite(Wire::open(&world, SDK.1).await).await;
        let close = loop {
            let every = Duration::from_secs(every.unwrap_or(1_000_000));
            match timeout(every, socket.next()).await {
                Err(_) => socket.send(Message::text(SDK.2)).await.expect("taken"),
                Ok(Some(Ok(Message::Close(frame)))) => break frame.expect("a code"),
                // Pings are answered in reading, and are no event.
                Ok(Some(Ok(Message::Ping(_) | Message::Text(_)))) if every.as_secs() > 1000 => {}
                Ok(Some(Ok(Message::Ping(_)))) => {
                    socket.send(Message::text(SDK.2)).await.expect("taken");
                }
                Ok(Some(Ok(_))) => {}
                Ok(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), reason.close_code());
        let summary = world.ended(1).await;
        assert_eq!(summary.end_reason, reason);
        assert_eq!(summary.duration.as_secs(), after);
        world.assert_quiet().await;
    }
}

/// Nobody who pings and reads no pong makes the gateway hold more than it may.
#[tokio::test(start_paused = true)]
async fn pongs_that_nobody_reads() {
    for (dialect, target, begin) in PHONES {
        let world = World::new("");
        let mut wire = Wire::open(&world, target).await;
        wire.text(begin).await;
        let flood = async {
            loop {
                wire.frame(0x89, &[b'p'; 125]).await;
                if dialect == "audio" {
                    wire.binary(&[0; 2_400]).await;
                } else {
                    let media = r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8="}}"#;
                    wire.text(media).await;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let summary = tokio::select! {
            () = flood => unreachable!("it pings for ever"),
            summary = world.ended(1) => summary,
        };
        assert_eq!(summary.end_reason, EndReason::CallerTooSlow, "{dialect}");
        world.assert_quiet().await;
    }
}

/// What a deployment may do, and one beyond.
#[tokio::test(start_paused = true)]
async fn of_a_deployment() {
    const FRAGMENTS: usize = 16 * 1024;
    for (n_fragments, n_pings, error) in [
        (FRAGMENTS, 99, None),
        (FRAGMENTS + 1, 0, Some("too_many_fragments")),
        (0, 101, Some("too_many_control_frames")),
        (1, 0, Some("message_too_slow")),
    ] {
        let (world, mut accepted) = World::scripted(&not_carried(), "", &["ga"]);
        let created = session_created();
        let (mut wire, deployment) = tokio::join!(
            Wire::open(&world, SDK.1),
            Deployment::accept(&mut accepted[0], &created)
        );
        assert_eq!(wire.event().await["type"], "session.created");
        let mut stream = deployment.socket.into_inner();
        let mut bytes = Vec::new();
        let text = br#"{"type":"x.y"}"#;
        if n_fragments > 0 {
            bytes.extend_from_slice(&[0x01, text.len() as u8]);
            bytes.extend_from_slice(text);
        }
        for n in 2..=n_fragments {
            let is_last = n == n_fragments;
            bytes.extend_from_slice(&[if is_last { 0x80 } else { 0x00 }, 0]);
        }
        bytes.extend([0x89, 0].repeat(n_pings));
        stream.write_all(&bytes).await.expect("taken");
        let Some(error) = error else {
            assert_eq!(wire.event().await["type"], "x.y");
            assert_alive(&mut wire, "realtime").await;
            continue;
        };
        let (close, _) = wire.until_close().await;
        assert_eq!(close, Some((1011, "model_protocol".to_owned())), "{error}");
        let summary = world.ended(1).await;
        assert_eq!(summary.end_reason, EndReason::ModelProtocol);
        if error == "message_too_slow" {
            assert_eq!(summary.duration.as_secs(), 30);
        }
        let counted =
            format!(r#"trunkline_upstream_errors_total{{code="{error}",deployment="ga"}}"#);
        assert_eq!(world.metric(&counted), 1.0, "{error}");
    }
}

/// JSON that would cost more than it says is not read, and not passed on.
#[tokio::test(start_paused = true)]
async fn json_of_a_deployment() {
    let nested = |n: usize| {
        format!(
            r#"{{"type":"x.y","p":{}1{}}}"#,
            "[".repeat(n - 1),
            "]".repeat(n - 1)
        )
    };
    let keys = |n: usize| format!(r#"{{"type":"x.y"{}}}"#, r#","k":0"#.repeat(n - 1));
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let created = session_created();
    let (mut wire, mut deployment) = tokio::join!(
        Wire::open(&world, SDK.1),
        Deployment::accept(&mut accepted[0], &created)
    );
    wire.event().await;
    for (n, (good, bad)) in [(nested(64), nested(65)), (keys(65_536), keys(65_537))]
        .into_iter()
        .enumerate()
    {
        deployment.send(&bad).await;
        deployment.send(&good).await;
        match wire.next().await {
            crate::wire::Heard::Text(text) => assert_eq!(text, good),
            other => panic!("{other:?}"),
        }
        let errors = r#"trunkline_upstream_errors_total{code="malformed_event",deployment="ga"}"#;
        assert_eq!(world.metric(errors), n as f64 + 1.0);
    }
}
