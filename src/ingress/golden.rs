//! Golden files: recorded conversations in, what they mean and what is answered out.
//!
//! Each `tests/golden/ingress/<dialect>-<case>.in` is a script of one call. Lines beginning with `<` are
//! messages from the caller (`<#` binary, in hexadecimal), lines with `>` are commands, one with `?` is the query of the
//! request that opened the socket, and with `? NAME: ` one of its headers; others are comments. The file of the same name ending in `.out` is what came of it. To write those anew:
//! `TRUNKLINE_GOLDEN=write cargo test --lib ingress::golden`, then review the difference.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName};

use super::{Dialect, Head, Incoming, Outgoing};
use crate::call::{CallerCommand, CallerEvent, Digit, Mark, Speaker};

#[test]
fn conversations_are_understood_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ingress");
    let write = std::env::var_os("TRUNKLINE_GOLDEN").is_some_and(|value| value == "write");
    let mut scripts: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "in"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for script in scripts {
        let name = script.file_stem().unwrap().to_str().unwrap();
        let (dialect, _) = name.split_once('-').unwrap();
        let got = replay(
            Dialect::by_name(dialect).unwrap(),
            &fs::read_to_string(&script).unwrap(),
        );
        let golden = script.with_extension("out");
        if write {
            fs::write(&golden, got).unwrap();
        } else {
            let expected = fs::read_to_string(&golden).unwrap();
            assert_eq!(got, expected, "{name}");
        }
    }
}

fn replay(mut dialect: Dialect, script: &str) -> String {
    let (mut audio, mut out, mut log) = (Vec::new(), Vec::new(), String::new());
    open(&mut dialect, script);
    for line in script.lines() {
        if let Some(hex) = line.strip_prefix("<#") {
            let bytes = from_hex(hex.trim());
            let event = dialect.decode(Incoming::Binary(&bytes), &mut audio);
            log_event(event, &audio, &mut log);
            log_rest(&mut dialect, &mut log);
        } else if let Some(text) = line.strip_prefix("< ") {
            let event = dialect.decode(Incoming::Text(text), &mut audio);
            log_event(event, &audio, &mut log);
            log_rest(&mut dialect, &mut log);
        } else if let Some(command) = line.strip_prefix("> ") {
            let audio_bytes = command.strip_prefix("audio ").map(from_hex);
            let keys = command.strip_prefix("keys ").unwrap_or_default().chars();
            let keys: Vec<Digit> = keys.map(|key| Digit::new(key).unwrap()).collect();
            let command = to_command(command, audio_bytes.as_deref(), &keys);
            let outgoing = dialect.encode(command, &mut out);
            log_outgoing(outgoing, &out, &mut log);
        }
    }
    for (kind, count) in dialect.ignored().entries() {
        if count > 0 {
            writeln!(log, "ignored {kind} {count}").unwrap();
        }
    }
    log
}

/// Tells the dialect of the request that the script begins with.
fn open(dialect: &mut Dialect, script: &str) {
    let (mut headers, mut query) = (HeaderMap::new(), None);
    let lines = script.lines().filter_map(|line| line.strip_prefix("? "));
    for line in lines {
        match line.split_once(": ") {
            Some((name, value)) => {
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            None => query = Some(line),
        }
    }
    if query.is_some() || !headers.is_empty() {
        let offered = super::upgrade::protocols(&headers).unwrap();
        let offered: Vec<String> = offered.into_iter().map(str::to_owned).collect();
        let subprotocol = dialect.capabilities().subprotocol(&offered);
        dialect.opened(&Head::new(query, &headers).speaking(subprotocol));
    }
}

/// What the dialect answers by itself, and what else the message meant.
fn log_rest(dialect: &mut Dialect, log: &mut String) {
    let (mut audio, mut out) = (Vec::new(), Vec::new());
    loop {
        let outgoing = dialect.answer(&mut out);
        if outgoing == Outgoing::Nothing {
            break;
        }
        log.push_str("  answered ");
        log_outgoing(outgoing, &out, log);
    }
    while let Some(event) = dialect.more(&mut audio) {
        log.push_str("  ");
        log_event(Ok(event), &audio, log);
    }
}

fn log_outgoing(outgoing: Outgoing, out: &[u8], log: &mut String) {
    match outgoing {
        Outgoing::Text => writeln!(log, "text {}", str::from_utf8(out).unwrap()),
        Outgoing::Binary => writeln!(log, "binary {}", to_hex(out)),
        Outgoing::Nothing => writeln!(log, "nothing sent"),
    }
    .unwrap();
}

fn log_event(event: Result<CallerEvent, super::DialectError>, audio: &[u8], log: &mut String) {
    match event {
        Ok(CallerEvent::Started(info)) => {
            let call = info.provider_call_id.as_deref().unwrap_or("-");
            let stream = info.provider_stream_id.as_deref().unwrap_or("-");
            writeln!(
                log,
                "started call={call} stream={stream} input={} output={} parameters={:?}",
                info.input, info.output, info.parameters
            )
        }
        Ok(CallerEvent::Audio) => writeln!(log, "audio {}", to_hex(audio)),
        Ok(CallerEvent::Dtmf(digit)) => writeln!(log, "dtmf {digit}"),
        Ok(CallerEvent::MarkReached(mark)) => writeln!(log, "mark {mark}"),
        Ok(CallerEvent::Paused) => writeln!(log, "paused"),
        Ok(CallerEvent::Resumed) => writeln!(log, "resumed"),
        Ok(CallerEvent::Flow(takes_audio)) => writeln!(log, "takes audio: {takes_audio}"),
        Ok(CallerEvent::Probe) => writeln!(log, "probe"),
        Ok(CallerEvent::Stopped) => writeln!(log, "stopped"),
        Ok(CallerEvent::Nothing) => writeln!(log, "nothing"),
        Err(error) => writeln!(
            log,
            "error {} close={} ends_call={}: {error}",
            error.name(),
            error.close_code(),
            error.ends_call()
        ),
    }
    .unwrap();
}

fn to_command<'a>(
    command: &'a str,
    audio: Option<&'a [u8]>,
    keys: &'a [Digit],
) -> CallerCommand<'a> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "started" => CallerCommand::Started { call_id: rest },
        "audio" => CallerCommand::Audio(audio.unwrap()),
        "mark" => CallerCommand::Mark(Mark::parse(rest).unwrap()),
        "clear" => CallerCommand::Clear,
        "reply-ended" => CallerCommand::ReplyEnded,
        "keys" => CallerCommand::Keys(keys),
        "said" => CallerCommand::Transcript {
            speaker: Speaker::Assistant,
            text: rest,
        },
        "heard" => CallerCommand::Transcript {
            speaker: Speaker::Caller,
            text: rest,
        },
        "error" => CallerCommand::Error {
            code: rest,
            message: "a sentence",
        },
        "end" => CallerCommand::End { reason: rest },
        _ => panic!("no command: {command}"),
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0);
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
