//! Golden files: recorded conversations in, what they mean and what is answered out.
//!
//! Each `tests/golden/ingress/<dialect>-<case>.in` is a script of one call. Lines beginning with `<` are
//! messages from the caller (`<#` binary, in hexadecimal), lines with `>` are commands, others are
//! comments. The file of the same name ending in `.out` is what came of it. To write those anew:
//! `TRUNKLINE_GOLDEN=write cargo test --lib ingress::golden`, then review the difference.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Dialect, Incoming, Outgoing};
use crate::call::{CallerCommand, CallerEvent, Mark, Speaker};

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
    for line in script.lines() {
        if let Some(hex) = line.strip_prefix("<#") {
            let bytes = from_hex(hex.trim());
            let event = dialect.decode(Incoming::Binary(&bytes), &mut audio);
            log_event(event, &audio, &mut log);
        } else if let Some(text) = line.strip_prefix("< ") {
            let event = dialect.decode(Incoming::Text(text), &mut audio);
            log_event(event, &audio, &mut log);
        } else if let Some(command) = line.strip_prefix("> ") {
            let audio_bytes = command.strip_prefix("audio ").map(from_hex);
            let outgoing = dialect.encode(to_command(command, audio_bytes.as_deref()), &mut out);
            match outgoing {
                Outgoing::Text => writeln!(log, "text {}", str::from_utf8(&out).unwrap()),
                Outgoing::Binary => writeln!(log, "binary {}", to_hex(&out)),
                Outgoing::Nothing => writeln!(log, "nothing sent"),
            }
            .unwrap();
        }
    }
    for (kind, count) in dialect.ignored().entries() {
        if count > 0 {
            writeln!(log, "ignored {kind} {count}").unwrap();
        }
    }
    log
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

fn to_command<'a>(command: &'a str, audio: Option<&'a [u8]>) -> CallerCommand<'a> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match verb {
        "started" => CallerCommand::Started { call_id: rest },
        "audio" => CallerCommand::Audio(audio.unwrap()),
        "mark" => CallerCommand::Mark(Mark::parse(rest).unwrap()),
        "clear" => CallerCommand::Clear,
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
