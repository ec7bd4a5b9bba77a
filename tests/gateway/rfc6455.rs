//! RFC 6455 byte by byte, against what an echo cannot show: the three dialects of callers, and the client of
//! deployments in a call. Every case is sent in one piece and then one byte at a time, and must end alike.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trunkline::call::EndReason;

use crate::harness::{CONFIG, World, not_carried};
use crate::wire::{Deployment, Wire, frame, session_created};

/// What is to come of a case.
#[derive(Clone, Debug)]
enum Expected {
    /// These texts reach the other leg, as they were sent.
    Texts(Vec<String>),
    /// These pongs come, and nothing else.
    Pongs(Vec<Vec<u8>>),
    /// The gateway closes with this code; the name is what the metric says.
    Fails(u16, &'static str),
    /// The peer's close is answered by a close with this code, 1005 for one without, and the connection ends.
    Answers(u16),
}

use Expected::{Answers, Fails, Pongs, Texts};

struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

/// Writes frames as one kind of peer does.
type Frame = fn(u8, &[u8]) -> Vec<u8>;

/// A frame as servers send it.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(first, payload);
    bytes[1] &= 0x7F;
    let header = bytes.len() - payload.len();
    bytes.truncate(header - 4);
    bytes.extend_from_slice(payload);
    bytes
}

/// An event of that many bytes that every deployment and SDK client may send and nobody acts on.
fn event(length: usize) -> String {
    let empty = r#"{"type":"x.y","p":""}"#;
    format!(
        r#"{{"type":"x.y","p":"{}"}}"#,
        "a".repeat(length - empty.len())
    )
}

/// An event with this text in it.
fn with_text(text: &str) -> String {
    format!(r#"{{"type":"x.y","p":"{text}"}}"#)
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

fn cases(frame: Frame) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, frames: &[Vec<u8>], expected: Expected| {
        cases.push(Case {
            name: name.to_owned(),
            bytes: frames.concat(),
            expected,
        });
    };
    let protocol = || Fails(1002, "websocket");
    let ping = |payload: &[u8]| frame(0x89, payload);

    for length in [40, 125, 126, 127, 128, 65_535, 65_536, 65_537] {
        let text = event(length);
        let sent = [frame(0x81, text.as_bytes())];
        add(
            &format!("a text of {length} bytes"),
            &sent,
            Texts(vec![text]),
        );
    }
    let text = event(100);
    add(
        "two texts",
        &[frame(0x81, text.as_bytes()), frame(0x81, text.as_bytes())],
        Texts(vec![text.clone(), text.clone()]),
    );
    // RFC 6455, 5.2 asks for the shortest form; a longer one does no harm.
    let plain = frame(0x81, text.as_bytes());
    let mut long = plain[..2].to_vec();
    long[1] = (long[1] & 0x80) | 126;
    long.extend_from_slice(&100_u16.to_be_bytes());
    long.extend_from_slice(&plain[2..]);
    add(
        "a length longer than need be",
        &[long],
        Texts(vec![text.clone()]),
    );

    for length in [0, 1, 5, 124, 125] {
        let payload = vec![0xFE; length];
        let sent = [ping(&payload)];
        add(
            &format!("a ping of {length} bytes"),
            &sent,
            Pongs(vec![payload]),
        );
    }
    let many: Vec<_> = (0..10).map(|n| vec![n]).collect();
    let sent: Vec<_> = many.iter().map(|payload| ping(payload)).collect();
    add("ten pings", &sent, Pongs(many));
    add(
        "a pong that nobody asked for",
        &[frame(0x8A, b"")],
        Pongs(vec![]),
    );
    add(
        "another, and a ping",
        &[frame(0x8A, b"me"), ping(b"you")],
        Pongs(vec![b"you".to_vec()]),
    );
    for (opcode, name) in [(0x8, "close"), (0x9, "ping"), (0xA, "pong")] {
        let payload = [&close(1000, b"")[..], &[b'a'; 124]].concat();
        let sent = [frame(0x80 | opcode, &payload)];
        add(&format!("a {name} of 126 bytes"), &sent, protocol());
        let sent = [frame(opcode, &close(1000, b""))];
        add(&format!("a {name} in fragments"), &sent, protocol());
    }

    for bit in [0x10, 0x20, 0x40, 0x70] {
        let sent = [frame(0x81 | bit, text.as_bytes())];
        add(
            &format!("reserved bits {bit:#x} of a text"),
            &sent,
            protocol(),
        );
        let sent = [frame(0x89 | bit, b"")];
        add(
            &format!("reserved bits {bit:#x} of a ping"),
            &sent,
            protocol(),
        );
        let sent = [frame(0x88 | bit, &close(1000, b""))];
        add(
            &format!("reserved bits {bit:#x} of a close"),
            &sent,
            protocol(),
        );
    }
    add(
        "a reserved bit of a continuation",
        &[frame(0x01, b"{"), frame(0xC0, b"}")],
        protocol(),
    );
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        let sent = [frame(0x80 | opcode, b""), ping(b"")];
        add(&format!("opcode {opcode:#x}"), &sent, protocol());
    }

    let (head, tail) = text.as_bytes().split_at(50);
    let whole = || Texts(vec![text.clone()]);
    add(
        "two fragments",
        &[frame(0x01, head), frame(0x80, tail)],
        whole(),
    );
    add(
        "empty fragments before, between and behind",
        &[
            frame(0x01, b""),
            frame(0x00, head),
            frame(0x00, b""),
            frame(0x00, tail),
            frame(0x80, b""),
        ],
        whole(),
    );
    add(
        "control frames between fragments",
        &[
            frame(0x01, head),
            frame(0x8A, b"p"),
            frame(0x8A, b""),
            frame(0x80, tail),
        ],
        whole(),
    );
    add(
        "a ping between fragments is answered before their end",
        &[frame(0x01, head), ping(b"now")],
        Pongs(vec![b"now".to_vec()]),
    );
    let bytewise: Vec<_> = (0..60)
        .map(|n| {
            let first = u8::from(n == 0) | if n == 59 { 0x80 } else { 0 };
            let end = if n == 59 { text.len() } else { n + 1 };
            frame(first, &text.as_bytes()[n..end])
        })
        .collect();
    add("sixty fragments", &bytewise, whole());
    add("the end of nothing", &[frame(0x80, b"{}")], protocol());
    add("the middle of nothing", &[frame(0x00, b"{}")], protocol());
    add(
        "the end of nothing, after a ping",
        &[ping(b""), frame(0x80, b"")],
        protocol(),
    );
    for first in [0x81, 0x01, 0x82, 0x02] {
        let sent = [frame(0x01, head), frame(first, tail)];
        add(&format!("{first:#x} within a text"), &sent, protocol());
    }

    for text in [
        "\u{7f}\u{80}\u{7ff}",
        "\u{800}\u{ffff}€",
        "\u{10000}\u{10ffff}😀",
    ] {
        let text = with_text(text);
        let sent = [frame(0x81, text.as_bytes())];
        add(
            &format!("UTF-8 {}", text.escape_unicode()),
            &sent,
            Texts(vec![text.clone()]),
        );
        let bytes = text.as_bytes();
        let sent: Vec<_> = bytes
            .iter()
            .enumerate()
            .map(|(n, byte)| {
                let first = u8::from(n == 0) | if n + 1 == bytes.len() { 0x80 } else { 0 };
                frame(first, &[*byte])
            })
            .collect();
        add(
            &format!("the same in pieces {}", text.escape_unicode()),
            &sent,
            Texts(vec![text.clone()]),
        );
    }
    let invalid = || Fails(1007, "websocket");
    for (name, bytes) in [
        ("a continuation byte alone", &b"\x80"[..]),
        ("a byte that UTF-8 has not", b"\xff"),
        ("an overlong slash", b"\xc0\xaf"),
        ("half a surrogate pair", b"\xed\xa0\x80"),
        ("a character beyond the last", b"\xf4\x90\x80\x80"),
        ("a character of five bytes", b"\xf8\x88\x80\x80\x80"),
        ("a character cut off", b"\xe2\x82"),
        ("a character cut short", b"\xe2\x82a"),
    ] {
        add(name, &[frame(0x81, bytes)], invalid());
        let sent = [frame(0x01, b"{"), frame(0x80, bytes)];
        add(&format!("{name}, in the last fragment"), &sent, invalid());
    }
    // Not waited for the end of the message (RFC 6455, 8.1 and the Autobahn suite's fail-fast).
    add("a bad first fragment", &[frame(0x01, b"a\xff")], invalid());
    add(
        "a character that goes bad in the second fragment",
        &[frame(0x01, b"\xf4"), frame(0x00, b"\x90")],
        invalid(),
    );

    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999,
    ] {
        let sent = [frame(0x88, &close(code, b""))];
        add(&format!("close {code}"), &sent, Answers(code));
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        let sent = [frame(0x88, &close(code, b""))];
        add(
            &format!("close {code}, which may not be sent"),
            &sent,
            Answers(1002),
        );
    }
    add("a close without a code", &[frame(0x88, b"")], Answers(1005));
    add("a close of one byte", &[frame(0x88, &[3])], protocol());
    add(
        "a close with the longest reason",
        &[frame(0x88, &close(1000, &[b'r'; 123]))],
        Answers(1000),
    );
    add(
        "a close whose reason is no UTF-8",
        &[frame(0x88, &close(1000, b"\xff"))],
        invalid(),
    );
    add(
        "a close whose reason is cut in a character",
        &[frame(0x88, &close(1000, b"\xe2\x82"))],
        invalid(),
    );
    let bye = || frame(0x88, &close(1000, b"bye"));
    add(
        "a close in the middle of a message",
        &[frame(0x01, b"{"), bye()],
        Answers(1000),
    );
    add("two closes", &[bye(), bye()], Answers(1000));
    add(
        "another close after the first",
        &[bye(), frame(0x88, &close(1011, b""))],
        Answers(1000),
    );
    add(
        "a ping after the close",
        &[bye(), ping(b"still")],
        Answers(1000),
    );
    add(
        "a text after the close",
        &[bye(), frame(0x81, b"{")],
        Answers(1000),
    );
    add(
        "garbage after the close",
        &[bye(), vec![0xFF; 40]],
        Answers(1000),
    );

    let claim = |length: u64| {
        let mut header = frame(0x82, b"");
        let mask = header.split_off(2);
        header[1] |= 127;
        [&header[..], &length.to_be_bytes(), &mask].concat()
    };
    add(
        "a length of half the world",
        &[claim(u64::MAX >> 1)],
        Fails(1009, "too_large"),
    );
    add(
        "a length with its first bit set",
        &[claim(1 << 63)],
        protocol(),
    );
    add(
        "a frame of 33 MiB, by its header",
        &[claim(33 << 20)],
        Fails(1009, "too_large"),
    );
    cases
}

/// The next frame: first byte, whether it was masked, payload. `None` at the end.
async fn read_frame(stream: &mut DuplexStream) -> Option<(u8, bool, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let second = stream.read_u8().await.ok()?;
    let length = match second & 0x7F {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        length => u64::from(length),
    };
    let is_masked = second & 0x80 != 0;
    let mut mask = [0; 4];
    if is_masked {
        stream.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; usize::try_from(length).expect("fits")];
    stream.read_exact(&mut payload).await.ok()?;
    let bytes = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    Some((first, is_masked, bytes.collect()))
}

/// Pongs until the gateway closes or `patience` is over; then the close code, and whether the connection ended.
async fn listen(stream: &mut DuplexStream, masked: bool) -> (Vec<Vec<u8>>, Option<u16>, bool) {
    let (mut pongs, mut code) = (Vec::new(), None);
    loop {
        let read = timeout(Duration::from_secs(1), read_frame(stream));
        let (first, is_masked, payload) = match read.await {
            Err(_) => return (pongs, code, false),
            Ok(None) => return (pongs, code, true),
            Ok(Some(frame)) => frame,
        };
        assert_eq!(is_masked, masked, "only clients mask");
        assert_eq!(code, None, "nothing comes after a close");
        match first {
            0x8A => pongs.push(payload),
            0x88 => {
                let bytes = payload.get(..2).map(|code| [code[0], code[1]]);
                code = Some(bytes.map_or(1005, u16::from_be_bytes));
            }
            // What the call itself says.
            0x81 | 0x82 => {}
            other => panic!("a frame that begins with {other:#x}"),
        }
    }
}

async fn send(stream: &mut DuplexStream, bytes: &[u8], bytewise: bool) {
    // A gateway that has had enough takes no more, which reading will tell.
    if !bytewise {
        let _ = stream.write_all(bytes).await;
        return;
    }
    for byte in bytes {
        let _ = stream.write_all(std::slice::from_ref(byte)).await;
        tokio::task::yield_now().await;
    }
}

/// What a peer that sends the case sees of it.
async fn check(case: &Case, near: &mut DuplexStream, frame: Frame, bytewise: bool, what: &str) {
    let masked = frame(0x81, b"a")[1] & 0x80 == 0;
    // Minutes one byte at a time; lengths are shown by smaller ones.
    if bytewise && case.bytes.len() > 10_000 {
        near.write_all(&case.bytes).await.expect("written");
    } else {
        send(near, &case.bytes, bytewise).await;
    }
    let (pongs, code, has_ended) = listen(near, masked).await;
    match &case.expected {
        Texts(_) => assert_eq!((pongs, code), (vec![], None), "{what}"),
        Pongs(expected) => assert_eq!((&pongs, code), (expected, None), "{what}"),
        Fails(expected, _) => assert_eq!(code, Some(*expected), "{what}"),
        Answers(expected) => {
            assert_eq!((pongs, code), (vec![], Some(*expected)), "{what}");
            // A server ends the connection (RFC 6455, 7.1.1), and a call that is over has no use for one.
            assert!(has_ended, "{what}");
        }
    }
}

/// A case that is none to end a call for does not end it, and what comes next is understood.
async fn check_alive(near: &mut DuplexStream, frame: Frame, bytewise: bool, what: &str) {
    let masked = frame(0x81, b"a")[1] & 0x80 == 0;
    send(near, &frame(0x89, b"alive?"), bytewise).await;
    let (pongs, code, _) = listen(near, masked).await;
    assert_eq!((pongs, code), (vec![b"alive?".to_vec()], None), "{what}");
    send(near, &frame(0x88, &close(1000, b"")), bytewise).await;
    let (_, code, _) = listen(near, masked).await;
    assert_eq!(code, Some(1000), "{what}");
}

async fn check_callers(dialect: &str, target: &str) {
    let first = session_created();
    let mut n = 0;
    let is_relayed = dialect == "realtime";
    let all = cases(frame).into_iter();
    // Phones' messages are for the gateway, and what is wrong with one is in `bad_input`.
    let all = all.filter(|case| is_relayed || !matches!(case.expected, Texts(_)));
    for case in all {
        for bytewise in [false, true] {
            let what = format!("{dialect}: {}, bytewise: {bytewise}", case.name);
            let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
            let (wire, mut deployment) = tokio::join!(
                Wire::open(&world, target),
                Deployment::accept(&mut accepted[0], &first)
            );
            let mut stream = wire.into_stream();
            let counted = |reason: &str| {
                let line = format!(
                    r#"trunkline_bad_input_total{{dialect="{dialect}",reason="{reason}"}}"#
                );
                world.metric(&line)
            };
            check(&case, &mut stream, frame, bytewise, &what).await;
            if let Texts(texts) = &case.expected {
                for text in texts {
                    assert_eq!(&deployment.text().await, text, "{what}");
                }
            }
            if matches!(case.expected, Texts(_) | Pongs(_)) {
                check_alive(&mut stream, frame, bytewise, &what).await;
            }
            drop(stream);
            n += 1;
            let summary = world.ended(1).await;
            let reason = match case.expected {
                Fails(_, name) => {
                    assert_eq!(counted(name), 1.0, "{what}");
                    EndReason::CallerProtocol
                }
                _ => EndReason::CallerHangup,
            };
            assert_eq!(summary.end_reason, reason, "{what}");
            // The deployment is never told of what a caller did.
            let closed = deployment.until_close().await.map(|close| close.0);
            assert_eq!(closed, Some(1000), "{what}");
            drop(deployment);
            world.assert_quiet().await;
        }
    }
    assert!(n >= 2 * if is_relayed { 100 } else { 80 }, "{n}");
}

#[tokio::test(start_paused = true)]
async fn sdk_callers() {
    check_callers("realtime", "/openai/v1/realtime?model=ga").await;
}

#[tokio::test(start_paused = true)]
async fn audio_callers() {
    check_callers("audio", "/v1/audio/ga").await;
}

#[tokio::test(start_paused = true)]
async fn twilio_callers() {
    check_callers("twilio", "/twilio/media/ga").await;
}

/// The next connection, answered with 101 by hand and the session opened.
async fn accept(accepted: &mut Receiver<DuplexStream>) -> DuplexStream {
    let mut stream = accepted.recv().await.expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).expect("ASCII");
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut key = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, value)| derive_accept_key(value.as_bytes()));
    let accept = key.next().expect("a key");
    assert!(
        !head.to_lowercase().contains("sec-websocket-extensions"),
        "{head}"
    );
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    // In one piece with the answer, as a deployment may.
    let bytes = [
        answer.as_bytes(),
        &unmasked(0x81, session_created().as_bytes()),
    ]
    .concat();
    stream.write_all(&bytes).await.expect("written");
    stream
}

#[tokio::test(start_paused = true)]
async fn deployments() {
    let mut n = 0;
    for case in cases(unmasked) {
        for bytewise in [false, true] {
            let what = format!("deployment: {}, bytewise: {bytewise}", case.name);
            let (world, mut accepted) = World::scripted(&not_carried(), "", &["ga"]);
            let (mut wire, mut stream) = tokio::join!(
                Wire::open(&world, "/openai/v1/realtime?model=ga"),
                accept(&mut accepted[0])
            );
            assert_eq!(wire.event().await["type"], "session.created");
            let counted = |code: &str| {
                let line =
                    format!(r#"trunkline_upstream_errors_total{{code="{code}",deployment="ga"}}"#);
                world.metric(&line)
            };
            check(&case, &mut stream, unmasked, bytewise, &what).await;
            if let Texts(texts) = &case.expected {
                for text in texts {
                    let expected: serde_json::Value = serde_json::from_str(text).expect("JSON");
                    assert_eq!(wire.event().await, expected, "{what}");
                }
            }
            if matches!(case.expected, Texts(_) | Pongs(_)) {
                check_alive(&mut stream, unmasked, bytewise, &what).await;
            }
            drop(stream);
            let (close, _) = wire.until_close().await;
            drop(wire);
            n += 1;
            let summary = world.ended(1).await;
            if let Fails(_, name) = case.expected {
                assert_eq!(counted(name), 1.0, "{what}");
                assert_eq!(summary.end_reason, EndReason::ModelProtocol, "{what}");
                let expected = Some((1011, "model_protocol".to_owned()));
                assert_eq!(close, expected, "{what}");
            }
            world.assert_quiet().await;
        }
    }
    assert!(n >= 200, "{n}");
}

/// Whose frames must be masked, and whose must not.
#[tokio::test(start_paused = true)]
async fn masks() {
    let (world, mut accepted) = World::scripted(&not_carried(), "", &["ga"]);
    let created = session_created();
    for (first, payload) in [
        (0x81, &b"{}"[..]),
        (0x82, b""),
        (0x89, b"p"),
        (0x88, b"\x03\xe8"),
    ] {
        let (wire, mut deployment) = tokio::join!(
            Wire::open(&world, "/openai/v1/realtime?model=ga"),
            accept(&mut accepted[0])
        );
        let mut caller = wire.into_stream();
        send(&mut caller, &unmasked(first, payload), false).await;
        let (_, code, _) = listen(&mut caller, false).await;
        assert_eq!(code, Some(1002), "an unmasked {first:#x}");
        drop(caller);
        let (_, code, _) = listen(&mut deployment, true).await;
        assert_eq!(code, Some(1000));

        let (wire, mut deployment) = tokio::join!(
            Wire::open(&world, "/openai/v1/realtime?model=ga"),
            accept(&mut accepted[0])
        );
        send(&mut deployment, &frame(first, payload), false).await;
        let (_, code, _) = listen(&mut deployment, true).await;
        assert_eq!(code, Some(1002), "a masked {first:#x}");
        let (_, code, _) = listen(&mut wire.into_stream(), false).await;
        assert_eq!(code, Some(1011));
    }
    for mask in [[0; 4], [0xFF; 4], [0x80, 0, 0x7F, 1]] {
        let (wire, mut deployment) = tokio::join!(
            Wire::open(&world, "/openai/v1/realtime?model=ga"),
            Deployment::accept(&mut accepted[0], &created)
        );
        let text = event(41);
        let masked = text.bytes().zip(mask.into_iter().cycle());
        let mut bytes = vec![0x81, 0x80 | 41];
        bytes.extend_from_slice(&mask);
        bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        let mut caller = wire.into_stream();
        send(&mut caller, &bytes, false).await;
        assert_eq!(deployment.text().await, text, "{mask:?}");
    }
}

/// Compression is offered by browsers and some SDKs; it is not taken up, and its bit stays forbidden.
#[tokio::test(start_paused = true)]
async fn compression_is_declined() {
    let world = World::new("");
    for target in [
        "/openai/v1/realtime?model=ga",
        "/v1/audio/ga",
        "/twilio/media/ga",
    ] {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits; server_no_context_takeover",
            "x-webkit-deflate-frame",
        ] {
            let more = format!("Sec-WebSocket-Extensions: {offer}\r\n");
            let wire = Wire::open_with(&world, target, &more).await;
            let answer = wire.answer.to_lowercase();
            assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
            let mut stream = wire.into_stream();
            // "{}" as permessage-deflate would send it.
            let bytes = frame(0xC1, &[0xAA, 0xAE, 0x05, 0x00]);
            send(&mut stream, &bytes, false).await;
            let (_, code, _) = listen(&mut stream, false).await;
            assert_eq!(code, Some(1002), "{target}: {offer}");
        }
    }
}
