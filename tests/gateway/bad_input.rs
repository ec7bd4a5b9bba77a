//! What callers must not send: that call ends with a name for it, or goes on where the dialect says so, it is
//! counted, and the call beside it hears nothing of it.

use std::time::Duration;

use serde_json::Value;
use trunkline::call::EndReason;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::harness::World;
use crate::wire::{Wire, frame};

/// Something to send.
enum Send {
    Text(String),
    Binary(Vec<u8>),
    /// A frame with this first byte.
    Frame(u8, Vec<u8>),
    /// Bytes as they are.
    Raw(Vec<u8>),
}

/// What is to come of it.
enum Expected {
    /// The call ends with this close code; the reason in the close frame is also the metric's.
    Ends(u16, &'static str),
    /// The same, below the dialect: it has no word for it.
    Broken(u16, &'static str),
    /// Nothing happens, but that it may be counted: as bad input.
    Counted(&'static str),
    /// Nothing happens, but that it may be counted: as ignored.
    Ignored(&'static str),
    /// It goes to the deployment, which answers with an error of this code.
    Answered(&'static str),
    /// Nothing happens.
    Nothing,
}

use Expected::{Answered, Broken, Counted, Ends, Ignored, Nothing};

struct Case {
    name: &'static str,
    send: Vec<Send>,
    expected: Expected,
}

fn text(text: impl Into<String>) -> Send {
    Send::Text(text.into())
}

fn case(name: &'static str, send: impl IntoIterator<Item = Send>, expected: Expected) -> Case {
    Case {
        name,
        send: send.into_iter().collect(),
        expected,
    }
}

/// What the WebSocket protocol forbids is the same in all dialects. `limit` is the largest message.
fn protocol_cases(limit: u64) -> Vec<Case> {
    let mut huge = vec![0x81, 0x80 | 127];
    huge.extend_from_slice(&(limit + 1).to_be_bytes());
    huge.extend_from_slice(&[0; 4]);
    let mut absurd = vec![0x82, 0x80 | 127];
    absurd.extend_from_slice(&(u64::MAX >> 1).to_be_bytes());
    absurd.extend_from_slice(&[0; 4]);
    let half = vec![b' '; usize::try_from(limit / 2).expect("fits") + 1];
    vec![
        case(
            "invalid UTF-8",
            [Send::Frame(0x81, b"{\"type\":\"\xff\xfe\"}".to_vec())],
            Broken(1007, "websocket"),
        ),
        case(
            "UTF-8 cut in the middle of a character",
            [Send::Frame(0x81, b"\xe2\x82".to_vec())],
            Broken(1007, "websocket"),
        ),
        case(
            "a reserved bit",
            [Send::Frame(0xC1, b"{}".to_vec())],
            Broken(1002, "websocket"),
        ),
        case(
            "a reserved opcode",
            [Send::Frame(0x83, b"{}".to_vec())],
            Broken(1002, "websocket"),
        ),
        case(
            "a reserved control opcode",
            [Send::Frame(0x8B, Vec::new())],
            Broken(1002, "websocket"),
        ),
        case(
            "an unmasked frame",
            [Send::Raw(b"\x81\x02{}".to_vec())],
            Broken(1002, "websocket"),
        ),
        case(
            "a fragmented ping",
            [Send::Frame(0x09, b"p".to_vec())],
            Broken(1002, "websocket"),
        ),
        case(
            "a ping of 126 bytes",
            [Send::Frame(0x89, vec![b'p'; 126])],
            Broken(1002, "websocket"),
        ),
        case(
            "a continuation of nothing",
            [Send::Frame(0x80, b"{}".to_vec())],
            Broken(1002, "websocket"),
        ),
        case(
            "a message within a message",
            [
                Send::Frame(0x01, b"{".to_vec()),
                Send::Frame(0x81, b"{}".to_vec()),
            ],
            Broken(1002, "websocket"),
        ),
        case(
            "a frame over the limit by its own account",
            [Send::Raw(huge)],
            Broken(1009, "too_large"),
        ),
        case(
            "a frame of half the world by its own account",
            [Send::Raw(absurd)],
            Broken(1009, "too_large"),
        ),
        case(
            "a message over the limit in two frames",
            [Send::Frame(0x01, half.clone()), Send::Frame(0x80, half)],
            Broken(1009, "too_large"),
        ),
        case(
            "bytes that are no frame",
            [Send::Raw(b"GET / HTTP/1.1\r\n\r\n".to_vec())],
            Broken(1002, "websocket"),
        ),
    ]
}

fn nested(depth: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

fn many_keys(n: usize) -> String {
    let pairs: Vec<_> = (0..n).map(|n| format!(r#""k{n}":0"#)).collect();
    format!("{{{}}}", pairs.join(","))
}

const TWILIO_START: &str = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","accountSid":"AC1","callSid":"CA1","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;

fn twilio_media(payload: &str) -> String {
    format!(
        r#"{{"event":"media","sequenceNumber":"2","streamSid":"MZ1","media":{{"track":"inbound","chunk":"1","timestamp":"20","payload":"{payload}"}}}}"#
    )
}

fn twilio_cases() -> Vec<Case> {
    let start = || text(TWILIO_START);
    let with_format = |format: &str| {
        text(TWILIO_START.replace(
            r#"{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}"#,
            format,
        ))
    };
    vec![
        case("an empty message", [text("")], Ends(1007, "malformed_json")),
        case("no JSON", [text("hello")], Ends(1007, "malformed_json")),
        case(
            "cut JSON",
            [start(), text(r#"{"event":"media","streamSid":"MZ1""#)],
            Ends(1007, "malformed_json"),
        ),
        case("an array", [text("[]")], Ends(1008, "wrong_shape")),
        case("no event", [text("{}")], Ends(1008, "missing_field")),
        case(
            "media without its object",
            [start(), text(r#"{"event":"media","streamSid":"MZ1"}"#)],
            Ends(1008, "missing_field"),
        ),
        case(
            "media that is a list",
            [
                start(),
                text(r#"{"event":"media","streamSid":"MZ1","media":[1]}"#),
            ],
            Ends(1008, "wrong_shape"),
        ),
        case(
            "media before start",
            [text(twilio_media("//8="))],
            Ends(1008, "before_start"),
        ),
        case(
            "stop first",
            [text(r#"{"event":"stop","streamSid":"MZ1"}"#)],
            Ends(1008, "before_start"),
        ),
        case(
            "start twice, the same",
            [start(), start()],
            Ignored("repeated_start"),
        ),
        case(
            "start twice, another",
            [start(), text(TWILIO_START.replace("MZ1", "MZ2"))],
            Ends(1008, "second_start"),
        ),
        case(
            "media of another stream",
            [start(), text(twilio_media("//8=").replace("MZ1", "MZ2"))],
            Ends(1008, "wrong_stream"),
        ),
        case(
            "another codec",
            [with_format(
                r#"{"encoding":"audio/opus","sampleRate":8000,"channels":1}"#,
            )],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "another rate",
            [with_format(
                r#"{"encoding":"audio/x-mulaw","sampleRate":16000,"channels":1}"#,
            )],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "two channels",
            [with_format(
                r#"{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":2}"#,
            )],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "a binary message",
            [start(), Send::Binary(vec![0xFF; 160])],
            Ends(1003, "binary_unexpected"),
        ),
        case(
            "truncated base64",
            [start(), text(twilio_media("//8"))],
            Ends(1007, "bad_base64"),
        ),
        case(
            "no base64",
            [start(), text(twilio_media("@@@@"))],
            Ends(1007, "bad_base64"),
        ),
        case(
            "base64 of the URL alphabet",
            [start(), text(twilio_media("_-_-"))],
            Ends(1007, "bad_base64"),
        ),
        case(
            "an empty payload",
            [start(), text(twilio_media(""))],
            Ignored("empty_audio"),
        ),
        case(
            "one byte of audio",
            [start(), text(twilio_media("/w=="))],
            Nothing,
        ),
        case(
            "deep JSON",
            [start(), text(nested(33))],
            Ends(1008, "json_too_deep"),
        ),
        case(
            "many keys",
            [start(), text(many_keys(513))],
            Ends(1008, "json_too_many_keys"),
        ),
        case(
            "the event twice",
            [text(r#"{"event":"connected","event":"start"}"#)],
            Ends(1008, "duplicate_key"),
        ),
        case(
            "an unknown event",
            [start(), text(r#"{"event":"weather","streamSid":"MZ1"}"#)],
            Ignored("unknown_event"),
        ),
        case(
            "a key that no telephone has",
            [
                start(),
                text(
                    r#"{"event":"dtmf","streamSid":"MZ1","dtmf":{"track":"inbound_track","digit":"x"}}"#,
                ),
            ],
            Counted("unknown_digit"),
        ),
        case(
            "a mark that nobody set",
            [
                start(),
                text(r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"mine"}}"#),
            ],
            Ignored("foreign_mark"),
        ),
        case(
            "a mark of the future",
            [
                start(),
                text(r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"g9-999999"}}"#),
            ],
            Nothing,
        ),
        case(
            "audio of the other track",
            [
                start(),
                text(twilio_media("//8=").replace("inbound", "outbound")),
            ],
            Ignored("other_track"),
        ),
    ]
}

fn audio_cases() -> Vec<Case> {
    let start = || text(r#"{"type":"start"}"#);
    let with_format = |format: &str| text(format!(r#"{{"type":"start","format":{format}}}"#));
    let opus = || with_format(r#"{"codec":"opus"}"#);
    vec![
        case("an empty message", [text("")], Ends(1007, "malformed_json")),
        case("no JSON", [text("hello")], Ends(1007, "malformed_json")),
        case(
            "cut JSON",
            [text(r#"{"type":"start""#)],
            Ends(1007, "malformed_json"),
        ),
        case("an array", [text("[]")], Ends(1008, "wrong_shape")),
        case("no type", [text("{}")], Ends(1008, "missing_field")),
        case(
            "audio before start",
            [Send::Binary(vec![0; 960])],
            Ends(1008, "before_start"),
        ),
        case(
            "end first",
            [text(r#"{"type":"end"}"#)],
            Ends(1008, "before_start"),
        ),
        case(
            "start twice",
            [start(), start()],
            Ends(1008, "second_start"),
        ),
        case(
            "another codec",
            [with_format(r#"{"codec":"mp3"}"#)],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "another rate",
            [with_format(r#"{"rate":11025}"#)],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "a rate of none",
            [with_format(r#"{"rate":0}"#)],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "a negative rate",
            [with_format(r#"{"rate":-8000}"#)],
            Ends(1008, "wrong_shape"),
        ),
        case(
            "Opus at 44.1 kHz",
            [with_format(r#"{"codec":"opus","rate":44100}"#)],
            Ends(1003, "unsupported_format"),
        ),
        case(
            "audio as text",
            [start(), text("AAAAAAAA")],
            Ends(1007, "malformed_json"),
        ),
        case(
            "an odd number of bytes",
            [start(), Send::Binary(vec![0; 961])],
            Ends(1007, "odd_byte_count"),
        ),
        case(
            "no bytes",
            [start(), Send::Binary(Vec::new())],
            Ignored("empty_audio"),
        ),
        case(
            "more than a second",
            [start(), Send::Binary(vec![0; 48_002])],
            Ends(1009, "too_large"),
        ),
        case(
            "a text over its limit",
            [start(), text(" ".repeat(64 * 1024 + 1))],
            Ends(1009, "too_large"),
        ),
        case(
            "Opus garbage",
            [opus(), Send::Binary(vec![0xFF; 200])],
            Counted("undecodable_audio"),
        ),
        case(
            "an Opus packet that lies about its frames",
            [opus(), Send::Binary(vec![0x03, 0xFF, 0x00])],
            Counted("undecodable_audio"),
        ),
        case(
            "a lost Opus packet",
            [opus(), Send::Binary(Vec::new())],
            Nothing,
        ),
        case(
            "deep JSON",
            [start(), text(nested(33))],
            Ends(1008, "json_too_deep"),
        ),
        case(
            "many keys",
            [start(), text(many_keys(513))],
            Ends(1008, "json_too_many_keys"),
        ),
        case(
            "the type twice",
            [text(r#"{"type":"end","type":"start"}"#)],
            Ends(1008, "duplicate_key"),
        ),
        case(
            "an unknown type",
            [start(), text(r#"{"type":"weather"}"#)],
            Ignored("unknown_event"),
        ),
        case(
            "a key that no telephone has",
            [start(), text(r#"{"type":"dtmf","digit":"x"}"#)],
            Counted("unknown_digit"),
        ),
    ]
}

fn realtime_cases() -> Vec<Case> {
    let append = |audio: &str| {
        text(format!(
            r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#
        ))
    };
    vec![
        case("an empty message", [text("")], Ends(1007, "malformed_json")),
        case("no JSON", [text("hello")], Ends(1007, "malformed_json")),
        case(
            "cut JSON",
            [text(r#"{"type":"response.create""#)],
            Ends(1007, "malformed_json"),
        ),
        case(
            "a binary message",
            [Send::Binary(
                br#"{"type":"input_audio_buffer.clear"}"#.to_vec(),
            )],
            Ends(1003, "binary_unexpected"),
        ),
        case(
            "deep JSON",
            [text(nested(33))],
            Ends(1008, "json_too_large"),
        ),
        case(
            "many keys",
            [text(many_keys(8_193))],
            Ends(1008, "json_too_large"),
        ),
        case(
            "the type twice",
            [text(
                r#"{"type":"response.create","type":"session.update"}"#,
            )],
            Ends(1008, "duplicate_key"),
        ),
        case(
            "the type twice, the second of them hidden",
            [text(
                r#"{"type":"input_audio_buffer.append","audio":"AAAA","\u0074ype":"session.update"}"#,
            )],
            Ends(1008, "duplicate_key"),
        ),
        case("no type", [text("{}")], Answered("invalid_event")),
        case(
            "an unknown type",
            [text(r#"{"type":"weather"}"#)],
            Answered("invalid_event"),
        ),
        case(
            "truncated base64",
            [append("AAA")],
            Answered("invalid_value"),
        ),
        case("no base64", [append("@@@@")], Answered("invalid_value")),
        case(
            "an odd number of bytes",
            // Half a sample is kept for the next append.
            [append("AAAA")],
            Nothing,
        ),
        case("no audio", [append("")], Nothing),
        case(
            "a commit of nothing",
            [text(r#"{"type":"input_audio_buffer.commit"}"#)],
            Answered("input_audio_buffer_commit_empty"),
        ),
        case(
            "a cancel of nothing",
            [text(r#"{"type":"response.cancel"}"#)],
            Answered("response_cancel_not_active"),
        ),
        case(
            "a setting of the other shape",
            [text(
                r#"{"type":"session.update","session":{"type":"realtime","voice":"alloy"}}"#,
            )],
            Answered("unknown_parameter"),
        ),
    ]
}

/// How one dialect is spoken by hand.
struct Spoken {
    dialect: Dialect,
    name: &'static str,
    target: &'static str,
    /// Largest message, in bytes.
    limit: u64,
    /// Says good-bye once a call has gone on, after having begun it if need be.
    good_bye: &'static [&'static str],
}

async fn check_all(spoken: &Spoken, cases: Vec<Case>) {
    let world = World::new("");
    let n_cases = cases.len();
    let all = async {
        // In the middle of the neighbour's first sentence.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (n, case) in cases.into_iter().enumerate() {
            check(&world, spoken, case, n + 1).await;
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
    };
    let (neighbour, ()) = tokio::join!(neighbour(&world, spoken), all);
    assert!(neighbour.is_heard_both_ways(), "{neighbour}");
    assert!(neighbour.script_done, "{neighbour}");
    assert!(neighbour.script_failures.is_empty(), "{neighbour}");
    assert!(neighbour.violations.is_empty(), "{neighbour}");
    assert!(neighbour.underruns.is_empty(), "{neighbour}");
    assert!(neighbour.errors.is_empty(), "{neighbour}");
    assert_eq!(
        world.ended(n_cases + 1).await.end_reason,
        EndReason::CallerHangup
    );
    world.assert_quiet().await;
}

/// A call of real speech that lasts longer than all cases together.
async fn neighbour(world: &World, spoken: &Spoken) -> CallReport {
    let phone = SoftPhone::new(&format!("ws://gateway{}", spoken.target), spoken.dialect);
    let listen = || Act::WaitForReply {
        min_audio: Duration::from_millis(500),
        until_end: true,
        timeout: Duration::from_secs(20),
    };
    let script = [
        Act::Say(speech::hours()),
        listen(),
        Act::Say(speech::order()),
        listen(),
        Act::Say(speech::wait()),
        listen(),
        Act::HangUp,
    ];
    let phone = phone.expect("a good address").script(script);
    phone.call(world.connect()).await
}

async fn check(world: &World, spoken: &Spoken, case: Case, n: usize) {
    let name = case.name;
    let dialect = spoken.name;
    let bad_input = |reason| {
        world.metric(&format!(
            r#"trunkline_bad_input_total{{dialect="{dialect}",reason="{reason}"}}"#
        ))
    };
    let ignored = |kind| {
        world.metric(&format!(
            r#"trunkline_ignored_messages_total{{dialect="{dialect}",kind="{kind}"}}"#
        ))
    };
    let before = match case.expected {
        Ends(_, reason) | Broken(_, reason) | Counted(reason) => bad_input(reason),
        Ignored(kind) => ignored(kind),
        Answered(_) | Nothing => 0.0,
    };
    let mut wire = Wire::open(world, spoken.target).await;
    for send in &case.send {
        match send {
            Send::Text(text) => wire.text(text).await,
            Send::Binary(bytes) => wire.binary(bytes).await,
            Send::Frame(first, payload) => wire.frame(*first, payload).await,
            Send::Raw(bytes) => wire.raw(bytes).await,
        }
    }
    let goes_on = !matches!(case.expected, Ends(..) | Broken(..));
    if goes_on {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for text in spoken.good_bye {
            wire.text(text).await;
        }
        if spoken.name == "realtime" {
            wire.close(1000, "").await;
        }
    }
    let (close, said) = wire.until_close().await;
    drop(wire);
    let summary = world.ended(n).await;
    match case.expected {
        Ends(code, reason) | Broken(code, reason) => {
            assert_eq!(close, Some((code, reason.to_owned())), "{dialect}: {name}");
            assert_eq!(summary.end_reason, EndReason::CallerProtocol, "{name}");
            assert_eq!(bad_input(reason), before + 1.0, "{dialect}: {name}");
            if dialect == "audio" {
                let word = matches!(case.expected, Ends(..)).then_some(reason);
                assert_told(&said, word, name);
            }
        }
        _ => {
            let code = close.map(|(code, _)| code);
            assert_eq!(code, Some(1000), "{dialect}: {name}");
            assert_eq!(summary.end_reason, EndReason::CallerHangup, "{name}");
        }
    }
    match case.expected {
        Counted(reason) => assert_eq!(bad_input(reason), before + 1.0, "{dialect}: {name}"),
        Ignored(kind) => assert_eq!(ignored(kind), before + 1.0, "{dialect}: {name}"),
        Answered(code) => {
            let error = said.iter().find(|event| event["type"] == "error");
            let found = error.map(|event| event["error"]["code"].clone());
            assert_eq!(found, Some(code.into()), "{name}: {said:?}");
        }
        Ends(..) | Broken(..) | Nothing => {}
    }
}

/// The project's own dialect has words for it.
fn assert_told(said: &[Value], reason: Option<&str>, name: &str) {
    let kinds: Vec<_> = said.iter().map(|event| event["type"].as_str()).collect();
    let (last, before) = said.split_last().expect("an end message");
    assert_eq!(last["type"], "end", "{name}: {kinds:?}");
    assert_eq!(last["reason"], "caller_protocol", "{name}");
    if let Some(reason) = reason {
        let error = before.last().expect("an error message");
        assert_eq!(
            (&error["type"], &error["code"]),
            (&"error".into(), &reason.into()),
            "{name}"
        );
    }
}

const TWILIO: Spoken = Spoken {
    dialect: Dialect::Twilio,
    name: "twilio",
    target: "/twilio/media/ga",
    limit: 64 * 1024,
    good_bye: &[r#"{"event":"stop","streamSid":"MZ1"}"#],
};

const AUDIO: Spoken = Spoken {
    dialect: Dialect::Audio,
    name: "audio",
    target: "/v1/audio/ga",
    limit: 96_000,
    good_bye: &[r#"{"type":"end"}"#],
};

const REALTIME: Spoken = Spoken {
    dialect: Dialect::Realtime,
    name: "realtime",
    target: "/openai/v1/realtime?model=ga",
    limit: 21 * 1024 * 1024,
    good_bye: &[],
};

#[tokio::test(start_paused = true)]
async fn of_the_twilio_dialect() {
    check_all(&TWILIO, twilio_cases()).await;
}

#[tokio::test(start_paused = true)]
async fn of_the_audio_dialect() {
    check_all(&AUDIO, audio_cases()).await;
}

#[tokio::test(start_paused = true)]
async fn of_the_realtime_dialect() {
    check_all(&REALTIME, realtime_cases()).await;
}

#[tokio::test(start_paused = true)]
async fn of_the_websocket_protocol() {
    for spoken in [&TWILIO, &AUDIO, &REALTIME] {
        check_all(spoken, protocol_cases(spoken.limit)).await;
    }
}

/// A message in as many fragments as it has bytes, one of them cut through a character, is whole in the end.
#[tokio::test(start_paused = true)]
async fn fragments_are_no_fault() {
    let world = World::new("");
    let mut wire = Wire::open(&world, "/v1/audio/ga").await;
    let text = r#"{"type":"start","caller":"Jürgen €"}"#.as_bytes();
    for (n, byte) in text.iter().enumerate() {
        let is_last = n + 1 == text.len();
        let first = u8::from(n == 0) | if is_last { 0x80 } else { 0 };
        wire.raw(&frame(first, &[*byte])).await;
        if n == 5 {
            wire.frame(0x89, b"between").await;
        }
    }
    wire.text(r#"{"type":"end"}"#).await;
    let (close, said) = wire.until_close().await;
    assert_eq!(close, Some((1000, "caller_hangup".to_owned())));
    assert_eq!(said[0]["type"], "started");
    world.assert_quiet().await;
}

/// Who connects and says nothing is hung up on after 5 s, and who sends no audio after 30.
#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    let world = World::new("");
    for (target, begin, expected, after) in [
        ("/twilio/media/ga", None, EndReason::CallerNeverStarted, 5),
        ("/v1/audio/ga", None, EndReason::CallerNeverStarted, 5),
        (
            "/twilio/media/ga",
            Some(TWILIO_START),
            EndReason::CallerSilent,
            30,
        ),
        (
            "/v1/audio/ga",
            Some(r#"{"type":"start"}"#),
            EndReason::CallerSilent,
            30,
        ),
    ] {
        let n = world.gateway.calls().ended().len();
        let mut wire = Wire::open(&world, target).await;
        if let Some(begin) = begin {
            wire.text(begin).await;
        }
        let (close, _) = wire.until_close().await;
        drop(wire);
        let name = expected.name().to_owned();
        assert_eq!(close, Some((expected.close_code(), name)), "{target}");
        let summary = world.ended(n + 1).await;
        assert_eq!(summary.end_reason, expected);
        assert_eq!(summary.duration.as_secs(), after, "{target}");
    }
    world.assert_quiet().await;
}
