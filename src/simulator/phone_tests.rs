//! Whole calls of the phone with a scripted peer over an in-memory stream, under paused time.

use std::future::Future;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::judge::cross_correlation;
use super::phone_audio::AudioWire;
use super::phone_dialect::{Dialect, FarEnd};
use super::phone_realtime::RealtimeWire;
use super::phone_timeline::{CallReport, CloseReport, MarkReport, Side};
use super::phone_twilio::TwilioWire;
use super::wav::Clip;
use super::{Act, Shape, SoftPhone, speech};
use trunkline_media::{AudioFormat, Codec, SampleRate};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Something voiced of so many milliseconds.
fn noise(n_ms: usize) -> Clip {
    Clip::new(vec![8_000; n_ms * 8], 8_000)
}

/// The other side of a call, by hand.
struct Peer {
    socket: WebSocketStream<DuplexStream>,
    start: Instant,
    stream_sid: String,
}

impl Peer {
    async fn accept(stream: DuplexStream) -> Self {
        Self {
            socket: accept_async(stream).await.unwrap(),
            start: Instant::now(),
            stream_sid: String::new(),
        }
    }

    /// Accepts a Twilio call and reads its opening.
    async fn twilio(stream: DuplexStream) -> Self {
        let mut peer = Self::accept(stream).await;
        assert_eq!(peer.event("connected").await.0["event"], "connected");
        let (start, _) = peer.event("start").await;
        peer.stream_sid = start["streamSid"].as_str().unwrap().to_owned();
        peer
    }

    async fn send(&mut self, value: Value) {
        self.socket
            .send(Message::text(value.to_string()))
            .await
            .unwrap();
    }

    /// Sends mu-law audio in 20 ms frames.
    async fn say(&mut self, n_ms: usize) {
        for _ in 0..n_ms / 20 {
            let payload = STANDARD.encode([0x90; 160]);
            let sid = self.stream_sid.clone();
            self.send(json!({"event":"media","streamSid":sid,"media":{"payload":payload}}))
                .await;
        }
    }

    async fn mark(&mut self, name: &str) {
        let sid = self.stream_sid.clone();
        self.send(json!({"event":"mark","streamSid":sid,"mark":{"name":name}}))
            .await;
    }

    async fn clear(&mut self) {
        let sid = self.stream_sid.clone();
        self.send(json!({"event":"clear","streamSid":sid})).await;
    }

    /// The next message of this event or type, and when it came in ms; others are skipped.
    async fn event(&mut self, name: &str) -> (Value, u64) {
        loop {
            let message = self.socket.next().await.expect("open").expect("sound");
            let Message::Text(text) = message else {
                continue;
            };
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["event"] == name || value["type"] == name {
                return (value, self.start.elapsed().as_millis() as u64);
            }
        }
    }

    /// Reads on until that time of the call.
    async fn until(&mut self, at_ms: u64) {
        let until = sleep_until(self.start + ms(at_ms));
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                message = self.socket.next() => { message.expect("open").expect("sound"); }
            }
        }
    }

    async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.socket.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Reads until the phone closes; answers with the code.
    async fn until_closed(mut self) -> Option<u16> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Close(frame) => return Some(frame?.code.into()),
                _ => continue,
            }
        }
    }
}

async fn call<F>(phone: SoftPhone, peer: impl FnOnce(DuplexStream) -> F) -> CallReport
where
    F: Future<Output = ()>,
{
    let (near, far) = duplex(64 << 10);
    let (report, ()) = tokio::join!(phone.call(near), peer(far));
    report
}

fn phone(url: &str, script: Vec<Act>) -> SoftPhone {
    let dialect = Dialect::guess(url.split_once("//").unwrap().1).unwrap();
    SoftPhone::new(url, dialect).unwrap().script(script)
}

fn waits_for_end() -> Vec<Act> {
    let timeout = Duration::from_secs(60);
    vec![Act::WaitForEnd { timeout }]
}

#[tokio::test(start_paused = true)]
async fn twilio_marks_are_echoed_when_what_is_before_them_was_played() {
    let phone = phone("ws://gateway/twilio/media", waits_for_end()).parameter("tok", "abc");
    let report = call(phone, async |far| {
        let mut peer = Peer::twilio(far).await;
        peer.say(200).await;
        peer.mark("a").await;
        peer.say(200).await;
        peer.mark("b").await;
        assert_eq!(peer.event("mark").await.1, 200);
        peer.until(250).await;
        peer.mark("c").await;
        peer.clear().await;
        let (b, at_ms) = peer.event("mark").await;
        assert_eq!((b["mark"]["name"].as_str(), at_ms), (Some("b"), 250));
        assert_eq!(peer.event("mark").await.1, 250);
        peer.mark("d").await;
        assert_eq!(peer.event("mark").await.1, 250, "nothing waits before it");
        peer.until(300).await;
        peer.close(1_000, "done").await;
    })
    .await;
    let mark = |name: &str, received_ms, echoed_ms, played| MarkReport {
        name: name.to_owned(),
        received_ms,
        echoed_ms: Some(echoed_ms),
        played,
    };
    let expected = [
        mark("a", 0.0, 200.0, true),
        mark("b", 0.0, 250.0, false),
        mark("c", 250.0, 250.0, false),
        mark("d", 250.0, 250.0, true),
    ];
    assert_eq!(report.marks, expected);
    let clear = &report.clears[0];
    assert_eq!((clear.played_ms, clear.received_ms), (250.0, 400.0));
    assert_eq!(clear.marks, ["b", "c"]);
    assert_eq!(report.heard.played_ms, 250.0);
    assert_eq!(report.audio.map(|clip| clip.duration()), Some(ms(250)));
    let by_gateway = CloseReport {
        by: Side::Gateway,
        code: Some(1_000),
        reason: "done".into(),
    };
    assert_eq!(report.close, Some(by_gateway));
    assert!(report.script_done && report.failure.is_none() && report.violations.is_empty());
    assert_eq!(report.ended_ms, 300.0);
}

#[tokio::test(start_paused = true)]
async fn twilio_turns_and_barge_in_are_timed() {
    let script = vec![
        Act::Say(noise(200)),
        Act::BargeInAfter {
            heard: ms(300),
            timeout: ms(5_000),
        },
        Act::Say(noise(400)),
        Act::WaitForReply {
            min_audio: ms(100),
            until_end: true,
            timeout: ms(5_000),
        },
        Act::Dtmf('7'),
        Act::HangUp,
    ];
    let report = call(phone("ws://gateway/twilio/media", script), async |far| {
        let mut peer = Peer::twilio(far).await;
        peer.until(500).await;
        peer.say(1_000).await;
        peer.until(860).await;
        peer.clear().await;
        // 15 ms late, in the middle of the second reply.
        peer.until(1_500).await;
        peer.say(100).await;
        peer.until(1_615).await;
        peer.say(100).await;
        assert_eq!(peer.event("dtmf").await.0["dtmf"]["digit"], "7");
        peer.event("stop").await;
        assert_eq!(peer.until_closed().await, Some(1_000));
    })
    .await;
    let [first, second] = &report.turns[..] else {
        panic!("{report}");
    };
    assert_eq!(first.speech_start_ms, Some(0.0));
    assert_eq!(first.speech_end_ms, Some(180.0));
    assert_eq!(first.first_received_ms, Some(500.0));
    assert_eq!(first.latency_ms, Some(320.0));
    assert_eq!(first.reply_voiced_ms, 360.0);
    assert_eq!(second.speech_start_ms, Some(800.0));
    let barge_in = second.barge_in.as_ref().unwrap();
    assert_eq!(barge_in.clear_after_ms, Some(60.0));
    assert_eq!(barge_in.silence_after_ms, Some(60.0));
    assert_eq!(second.latency_ms, Some(1_500.0 - 1_180.0));
    assert_eq!(second.reply_voiced_ms, 200.0);
    let hole = &report.underruns[..];
    assert!(
        matches!(hole, [u] if u.at_ms == 1_600.0 && u.gap_ms == 15.0),
        "{hole:?}"
    );
    // The reply ends at 1715 and counts as over a second later: a key at 2720, hung up one frame after.
    assert_eq!(report.ended_ms, 2_740.0);
    assert_eq!(report.close.as_ref().unwrap().by, Side::Caller);
    assert!(report.is_heard_both_ways() && report.script_done);
    let in_time = report.audio_in_time.unwrap();
    assert_eq!(in_time.duration(), ms(1_715));
    assert_eq!(in_time.samples[499 * 8], 0);
    assert_ne!(in_time.samples[500 * 8], 0);
}

#[tokio::test(start_paused = true)]
async fn twilio_breaches_are_reported_and_survived() {
    let report = call(phone("ws://g/twilio/media", waits_for_end()), async |far| {
        let mut peer = Peer::twilio(far).await;
        peer.send(json!({"event":"media","streamSid":"MZ0","media":{"payload":"/w=="}}))
            .await;
        peer.send(json!({"event":"hangup"})).await;
        peer.socket
            .send(Message::binary(vec![0xFF; 160]))
            .await
            .unwrap();
        peer.say(40).await;
        peer.until(100).await;
        peer.close(1_011, "internal").await;
    })
    .await;
    assert_eq!(report.violations.len(), 3, "{report}");
    assert_eq!(report.heard.played_ms, 40.0);
    assert_eq!(report.close.and_then(|close| close.code), Some(1_011));
}

#[tokio::test(start_paused = true)]
async fn audio_dialect_call() {
    let script = vec![
        Act::Say(noise(100)),
        Act::Dtmf('#'),
        Act::WaitForEnd { timeout: ms(5_000) },
    ];
    let format = AudioFormat {
        codec: Codec::Alaw,
        rate: SampleRate::HZ_8000,
    };
    let phone = phone("ws://gateway/v1/audio/support", script)
        .format(format)
        .unwrap();
    let report = call(phone, async |far| {
        let mut peer = Peer::accept(far).await;
        let (start, _) = peer.event("start").await;
        assert_eq!(start["format"], json!({"codec": "alaw", "rate": 8000}));
        peer.until(30).await;
        peer.send(json!({"type":"started","call_id":"c1"})).await;
        let first = peer.socket.next().await.unwrap().unwrap();
        assert_eq!(first.into_data().len(), 160);
        assert_eq!(peer.event("dtmf").await.0["digit"], "#");
        peer.socket
            .send(Message::binary(vec![0xAA; 8 * 50]))
            .await
            .unwrap();
        peer.send(json!({"type":"mark","name":"g0-0"})).await;
        let sent_at = peer.start.elapsed().as_millis() as u64;
        // The end of 50 ms lies within a step; the mark is told at the end of the step.
        assert_eq!(peer.event("mark").await.1, sent_at + 60);
        peer.send(json!({"type":"transcript","speaker":"caller","text":"hello"}))
            .await;
        peer.send(json!({"type":"end","reason":"completed"})).await;
        peer.close(1_000, "").await;
    })
    .await;
    assert_eq!(report.answered_ms, Some(30.0));
    assert_eq!(report.call_id.as_deref(), Some("c1"));
    assert_eq!(report.end_reason.as_deref(), Some("completed"));
    assert_eq!(report.transcripts[0].text, "hello");
    assert_eq!(report.turns[0].reply_voiced_ms, 50.0);
    assert!(report.script_done, "{report}");
}

#[tokio::test(start_paused = true)]
async fn audio_dialect_marks_that_were_thrown_away_are_not_echoed() {
    let script = vec![Act::Silence(ms(300)), Act::HangUp];
    let report = call(phone("ws://gateway/v1/audio/a", script), async |far| {
        let mut peer = Peer::accept(far).await;
        peer.send(json!({"type":"started","call_id":"c1"})).await;
        peer.socket
            .send(Message::binary(vec![1; 48 * 200]))
            .await
            .unwrap();
        peer.send(json!({"type":"mark","name":"g0-0"})).await;
        peer.until(100).await;
        peer.send(json!({"type":"clear"})).await;
        peer.send(json!({"type":"mark","name":"g1-1"})).await;
        let (mark, at_ms) = peer.event("mark").await;
        assert_eq!((mark["name"].as_str(), at_ms), (Some("g1-1"), 100));
        assert_eq!(peer.event("end").await.1, 300);
        assert_eq!(peer.until_closed().await, Some(1_000));
    })
    .await;
    assert_eq!(report.clears[0].marks, ["g0-0"]);
    assert_eq!(report.marks[0].echoed_ms, None);
    assert_eq!(report.heard.played_ms, 100.0);
}

/// Serves a Realtime session in either shape: one reply, interrupted after 200 ms.
async fn serve_realtime(far: DuplexStream, audio_delta: &str) {
    let mut peer = Peer::accept(far).await;
    let with_id = |mut event: Value| {
        event["event_id"] = json!("event_1");
        event
    };
    peer.send(with_id(
        json!({"type":"session.created","session":{"id":"sess_1"}}),
    ))
    .await;
    peer.event("session.update").await;
    peer.send(with_id(
        json!({"type":"session.updated","session":{"id":"sess_1"}}),
    ))
    .await;
    let (append, _) = peer.event("input_audio_buffer.append").await;
    assert_eq!(append["audio"].as_str().map(str::len), Some(1_280));
    peer.until(500).await;
    let item = json!({"id":"item_1","type":"message"});
    peer.send(with_id(
        json!({"type":"response.output_item.added","item":item}),
    ))
    .await;
    let audio = STANDARD.encode([0, 0x40].repeat(24 * 250));
    let delta = json!({"type":audio_delta,"item_id":"item_1","content_index":0,"delta":audio});
    for _ in 0..4 {
        peer.send(with_id(delta.clone())).await;
    }
    peer.until(707).await;
    let speech = json!({"type":"input_audio_buffer.speech_started","item_id":"item_2"});
    peer.send(with_id(speech)).await;
    let (cut, at_ms) = peer.event("conversation.item.truncate").await;
    assert_eq!((cut["audio_end_ms"].as_u64(), at_ms), (Some(207), 707));
    assert_eq!(cut["item_id"], "item_1");
    peer.send(with_id(delta)).await;
    let usage = json!({"input_tokens": 10, "output_tokens": 20});
    let done = json!({"type":"response.done","response":{"id":"resp_1","usage":usage}});
    peer.send(with_id(done)).await;
    peer.until(1_000).await;
    peer.close(1_001, "session over").await;
}

async fn check_realtime(phone: SoftPhone, audio_delta: &str) {
    let report = call(phone, async |far| serve_realtime(far, audio_delta).await).await;
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.call_id.as_deref(), Some("sess_1"));
    let clear = &report.clears[0];
    assert_eq!((clear.played_ms, clear.received_ms), (207.0, 1_000.0));
    assert_eq!(
        clear.truncate.as_ref().map(|cut| cut.audio_end_ms),
        Some(207)
    );
    assert_eq!(report.heard.played_ms, 207.0);
    let tokens = report.tokens.unwrap();
    assert_eq!((tokens.responses, tokens.input, tokens.output), (1, 10, 20));
    assert_eq!(report.close.and_then(|close| close.code), Some(1_001));
    assert_eq!(report.turns[0].latency_ms, Some(500.0));
}

#[tokio::test(start_paused = true)]
async fn realtime_client_truncates_at_what_it_played() {
    let ga = phone("ws://g/v1/realtime?model=m", waits_for_end());
    check_realtime(ga, "response.output_audio.delta").await;
    let preview = phone("ws://g/openai/realtime?deployment=d", waits_for_end());
    check_realtime(preview, "response.audio.delta").await;
    let beta = phone("ws://g/v1/realtime?model=m", waits_for_end()).shape(Shape::Preview);
    check_realtime(beta, "response.audio.delta").await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_reported_with_its_body() {
    let phone = phone("ws://gateway/v1/audio/a", waits_for_end()).api_key("key-1");
    let report = call(phone, async |mut far: DuplexStream| {
        let mut request = vec![0; 4_096];
        let n = far.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..n]).to_lowercase();
        assert!(
            request.contains("authorization: bearer key-1\r\n"),
            "{request}"
        );
        let head =
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 14\r\n\r\nno ";
        far.write_all(head.as_bytes()).await.unwrap();
        sleep(ms(10)).await;
        far.write_all(b"deployment!").await.unwrap();
        // The connection stays open: the length alone says where the body ends.
        sleep(ms(1_000)).await;
    })
    .await;
    let refusal = report.refusal.as_ref().unwrap();
    assert_eq!(
        (refusal.status, refusal.body.as_str()),
        (503, "no deployment!")
    );
    assert_eq!(refusal.retry_after.as_deref(), Some("2"));
    assert_eq!(report.ended_ms, 10.0);
    assert!(
        report
            .to_string()
            .contains("refused with HTTP 503: no deployment!")
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_say_why() {
    let check = async |peer: fn(DuplexStream) -> futures_util::future::BoxFuture<'static, ()>,
                       why| {
        let phone = phone("ws://gateway/v1/audio/a", vec![Act::Silence(ms(90_000))]);
        let report = call(phone, peer).await;
        let failure = report.failure.as_deref().unwrap_or_default();
        assert!(failure.contains(why), "{failure}");
        assert!(!report.is_heard_both_ways());
    };
    check(|_far| Box::pin(async {}), "the upgrade failed").await;
    check(
        |far| {
            Box::pin(async move {
                sleep(ms(20_000)).await;
                drop(far);
            })
        },
        "no answer to the upgrade within 10s",
    )
    .await;
    check(
        |far| {
            Box::pin(async move {
                let peer = Peer::accept(far).await;
                peer.until_closed().await;
            })
        },
        "did not answer the call",
    )
    .await;
    check(
        |far| {
            Box::pin(async move {
                Peer::accept(far).await.close(1_013, "later").await;
            })
        },
        "closed before it answered",
    )
    .await;
    check(
        |far| {
            Box::pin(async move {
                let mut peer = Peer::accept(far).await;
                peer.send(json!({"type":"started","call_id":"c"})).await;
                peer.until(100).await;
            })
        },
        "broke without a close frame",
    )
    .await;
    check(
        |far| {
            Box::pin(async move {
                let mut peer = Peer::accept(far).await;
                peer.send(json!({"type":"started","call_id":"c"})).await;
                sleep(ms(120_000)).await;
            })
        },
        "stopped reading",
    )
    .await;
}

#[test]
fn addresses_are_checked_before_the_call() {
    let check = |url, why: &str| {
        let error = SoftPhone::new(url, Dialect::Audio).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    check("", "is not an address");
    check("gateway:8080", "is not an address");
    check("/v1/audio", "is not an address");
    check("http://gateway/v1/audio", "must begin with ws://");
}

/// A peer that says back what it heard, once the caller was silent for 400 ms.
async fn parrot(far: DuplexStream) {
    let mut peer = Peer::twilio(far).await;
    let (mut heard, mut n_silent) = (Vec::new(), 0);
    loop {
        let message = peer.socket.next().await.unwrap().unwrap();
        let Message::Text(text) = message else { return };
        let value: Value = serde_json::from_str(&text).unwrap();
        let Some(payload) = value["media"]["payload"].as_str() else {
            continue;
        };
        let frame = STANDARD.decode(payload).unwrap();
        n_silent = if frame.iter().all(|b| *b == 0xFF) {
            n_silent + 1
        } else {
            0
        };
        if n_silent == 0 || !heard.is_empty() {
            heard.push(payload.to_owned());
        }
        if n_silent == 20 && !heard.is_empty() {
            for payload in std::mem::take(&mut heard) {
                let sid = peer.stream_sid.clone();
                peer.send(json!({"event":"media","streamSid":sid,"media":{"payload":payload}}))
                    .await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn speech_comes_back_as_it_was_said() {
    let said = speech::hours();
    let script = vec![
        Act::Silence(ms(300)),
        Act::Say(said.clone()),
        Act::WaitForReply {
            min_audio: ms(1_000),
            until_end: true,
            timeout: ms(10_000),
        },
    ];
    let report = call(phone("ws://gateway/twilio/media", script), parrot).await;
    assert!(report.is_heard_both_ways(), "{report}");
    let (said, heard) = (said.at_rate(8_000), report.audio_in_time.unwrap());
    let found = cross_correlation(&said.samples, &heard.samples, 8_000 * 10);
    assert!(found.peak > 0.99, "{found:?}");
    // Said from 300 ms on; said back when it had ended and 400 ms of silence had passed.
    let said_back_ms = found.lag as u64 / 8;
    let expected_ms = 300 + said.duration().as_millis() as u64 + 400;
    assert!(said_back_ms.abs_diff(expected_ms) <= 40, "{said_back_ms}");
}

proptest::proptest! {
    /// No message makes a wire panic: valid ones with a stretch replaced, as text and as binary.
    #[test]
    fn any_message_is_survived(which in 0..5_usize, at in 0..120_usize, n in 0..40_usize, junk in ".{0,12}") {
        let messages = [
            r#"{"event":"media","streamSid":"MZ01","media":{"payload":"//7/"}}"#,
            r#"{"type":"session.created","event_id":"e","session":{"id":"s"}}"#,
            r#"{"type":"response.output_item.added","event_id":"e","item":{"id":"i","type":"message"}}"#,
            r#"{"type":"response.output_audio.delta","event_id":"e","item_id":"i","content_index":0,"delta":"AQD//w=="}"#,
            r#"{"type":"response.done","event_id":"e","response":{"id":"r","usage":{"input_tokens":1}}}"#,
        ];
        let valid = messages[which];
        let (from, until) = (at.min(valid.len()), (at + n).min(valid.len()));
        let text = format!("{}{junk}{}", &valid[..from], &valid[until..]);
        let uri = http::Uri::from_static("ws://g/v1/realtime");
        let mut realtime = RealtimeWire::new(&uri, Shape::Ga, None, None);
        let mut audio = AudioWire::new(AudioFormat::MODEL_PCM, Default::default()).unwrap();
        let mut twilio = TwilioWire::new(1, Default::default());
        for text in messages[1..3].iter().map(|m| (*m).to_owned()).chain([text]) {
            for message in [Message::binary(text.clone()), Message::text(text)] {
                realtime.receive(&message);
                audio.receive(&message);
                twilio.receive(&message);
            }
        }
    }
}
