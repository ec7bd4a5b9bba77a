//! `call`: one call of real speech, reported as a timeline.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use trunkline::media::{AudioFormat, Codec, SampleRate};
use trunkline::simulator::phone::PhoneError;
use trunkline::simulator::phone_dial::DialError;
use trunkline::simulator::phone_dial::Dialer;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::wav::{Clip, WavError};
use trunkline::simulator::{Act, CallReport, Shape, SoftPhone, speech};

/// How long the phone waits for each reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Place one call: say something, listen to the reply, print what happened when.
///
/// The phone sends 20 ms frames in real time, silence included, and plays what comes back by its own clock, so the
/// timeline shows what a caller would have heard. Times are milliseconds since the phone began to dial.
///
/// Exit status: 0 if the call was heard both ways (something said was answered by at least 300 ms of audio louder
/// than -45 dBFS), 1 if not, 2 if the arguments make no call.
#[derive(Args)]
#[command(after_help = "\
Examples:
  One question through the Twilio dialect, the reply saved:
    trunkline-loadtest call ws://localhost:8080/twilio/media/support --save heard.wav

  Your own recording through the plain audio dialect, in G.711 A-law:
    trunkline-loadtest call ws://localhost:8080/v1/audio/support --wav question.wav --codec alaw

  Three turns as a Realtime SDK client, each reply interrupted after 800 ms of it were heard:
    trunkline-loadtest call 'ws://localhost:8080/v1/realtime?model=gpt-realtime' --turns 3 --barge-in 800ms

  Straight to an Azure OpenAI deployment, for comparison (the key is read from TRUNKLINE_API_KEY):
    trunkline-loadtest call 'wss://NAME.openai.azure.com/openai/v1/realtime?model=DEPLOYMENT'")]
pub(crate) struct CallArguments {
    /// Where to call: ws://host:port/path or wss://host/path
    url: String,

    /// Wire format; guessed from a path segment of the same name if not given
    #[arg(long, value_name = "NAME", value_parser = parse_dialect)]
    dialect: Option<Dialect>,

    /// Say this recording: 16 bit WAV, mono or stereo, any rate
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    wav: Option<PathBuf>,

    /// Say one of the built-in sentences: hours, order, wait [default: hours and order in turn]
    #[arg(long, value_name = "NAME")]
    sample: Option<String>,

    /// Write what was heard to this WAV file, from the answer on, as it was in time
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Key, sent as `api-key` on Azure paths of the realtime dialect, else as a bearer token
    #[arg(
        long,
        value_name = "KEY",
        env = "TRUNKLINE_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,

    /// Secret that the request is signed with, in dialects whose provider signs
    #[arg(
        long,
        value_name = "SECRET",
        env = "TRUNKLINE_CLIENT_SECRET",
        hide_env_values = true
    )]
    client_secret: Option<String>,

    /// One more header of the upgrade request, as NAME:VALUE; may be repeated
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,

    /// A custom parameter of the call, in dialects that have them, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    parameter: Vec<String>,

    /// How many times the caller says something and waits for the reply
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,

    /// Interrupt each reply after so much of it was heard, for example 800ms or 1.5s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    barge_in: Option<Duration>,

    /// Press these keys after the last turn, in dialects that have keys
    #[arg(long, value_name = "DIGITS", value_parser = parse_keys)]
    dtmf: Option<Keys>,

    /// Listen to a greeting first
    #[arg(long)]
    listen_first: bool,

    /// Codec of both directions, in dialects that have several
    #[arg(long, value_enum, default_value = "pcm16")]
    codec: CodecName,

    /// Sample rate, in dialects that have several: 8000, 16000, 24000, 44100 or 48000 [default: 24000, G.711: 8000]
    #[arg(long, value_name = "HZ")]
    rate: Option<u32>,

    /// Event shape in the realtime dialect [default: preview for /openai/realtime, else ga]
    #[arg(long, value_enum)]
    shape: Option<ShapeName>,

    /// Trust the certificates in this PEM file besides the machine's own
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum CodecName {
    Pcm16,
    Ulaw,
    Alaw,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeName {
    Ga,
    Preview,
}

/// Telephone keys.
#[derive(Clone)]
struct Keys(String);

/// Why no call was made.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("the path of {0} names no dialect; say which with --dialect: {names}", names = names())]
    Dialect(String),
    #[error("there is no built-in sentence {0:?}; there are hours, order and wait")]
    Sample(String),
    #[error("{0} Hz is none of 8000, 16000, 24000, 44100 and 48000")]
    Rate(u32),
    #[error("{0:?} is not of the form {1}")]
    Pair(String, &'static str),
    #[error("{}: {reason}", path.display())]
    Wav { path: PathBuf, reason: WavError },
    #[error("{}: there is no sound in it", .0.display())]
    Silent(PathBuf),
    #[error(transparent)]
    Phone(#[from] PhoneError),
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// Makes the call; see [`CallArguments`] for the exit status.
pub(crate) async fn run(arguments: &CallArguments) -> ExitCode {
    let (phone, dialer) = match set_up(arguments) {
        Ok(ready) => ready,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    let report = phone.dial_and_call(&dialer).await;
    let is_saved = save(arguments, &report);
    let is_heard = report.is_heard_both_ways();
    show(arguments, &report, is_heard);
    if is_heard && is_saved {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn set_up(arguments: &CallArguments) -> Result<(SoftPhone, Dialer), SetupError> {
    let path = || arguments.url.parse::<http::Uri>().ok();
    let guessed = || Dialect::guess(path()?.path());
    // A wrong address is a better complaint than a missing dialect.
    let asked = arguments.dialect.or_else(guessed);
    let mut phone = SoftPhone::new(&arguments.url, asked.unwrap_or(Dialect::Audio))?;
    if asked.is_none() {
        return Err(SetupError::Dialect(arguments.url.clone()));
    }
    phone = phone
        .format(arguments.format()?)?
        .script(script(arguments)?);
    if let Some(key) = &arguments.api_key {
        phone = phone.api_key(key);
    }
    if let Some(secret) = &arguments.client_secret {
        phone = phone.client_secret(secret);
    }
    if let Some(shape) = arguments.shape {
        phone = phone.shape(shape.into());
    }
    for pair in &arguments.header {
        let (name, value) = split(pair, ':', "NAME:VALUE")?;
        phone = phone.header(name, value.trim_start())?;
    }
    for pair in &arguments.parameter {
        let (name, value) = split(pair, '=', "NAME=VALUE")?;
        phone = phone.parameter(name, value);
    }
    Ok((phone, Dialer::new(arguments.ca.as_deref())?))
}

impl CallArguments {
    fn format(&self) -> Result<AudioFormat, SetupError> {
        let (codec, usual) = match self.codec {
            CodecName::Pcm16 => (Codec::Pcm16, SampleRate::HZ_24000),
            CodecName::Ulaw => (Codec::Ulaw, SampleRate::HZ_8000),
            CodecName::Alaw => (Codec::Alaw, SampleRate::HZ_8000),
        };
        let asked = |hz| SampleRate::new(hz).ok_or(SetupError::Rate(hz));
        let rate = self.rate.map_or(Ok(usual), asked)?;
        Ok(AudioFormat { codec, rate })
    }

    /// What the caller says, in turn.
    fn sayings(&self) -> Result<Vec<Clip>, SetupError> {
        if let Some(path) = &self.wav {
            let clip = Clip::read_wav(path).map_err(|reason| SetupError::Wav {
                path: path.clone(),
                reason,
            })?;
            if trunkline::simulator::judge::voiced_ms(&clip.samples, clip.rate) == 0 {
                return Err(SetupError::Silent(path.clone()));
            }
            return Ok(vec![clip]);
        }
        match &self.sample {
            None => Ok(vec![speech::hours(), speech::order()]),
            Some(name) => match speech::find(name) {
                Some(sample) => Ok(vec![sample.clip.clone()]),
                None => Err(SetupError::Sample(name.clone())),
            },
        }
    }
}

fn script(arguments: &CallArguments) -> Result<Vec<Act>, SetupError> {
    let wait_for_reply = Act::WaitForReply {
        min_audio: Duration::from_millis(300),
        until_end: true,
        timeout: REPLY_TIMEOUT,
    };
    let mut acts = Vec::new();
    if arguments.listen_first {
        acts.push(wait_for_reply.clone());
    }
    acts.push(Act::Silence(Duration::from_millis(300)));
    let sayings = arguments.sayings()?;
    for clip in sayings.iter().cycle().take(arguments.turns as usize) {
        acts.push(Act::Say(clip.clone()));
        if let Some(heard) = arguments.barge_in {
            acts.push(Act::BargeInAfter {
                heard,
                timeout: REPLY_TIMEOUT,
            });
            acts.push(Act::Say(speech::wait()));
        }
        acts.push(wait_for_reply.clone());
    }
    for key in arguments.dtmf.iter().flat_map(|keys| keys.0.chars()) {
        acts.push(Act::Dtmf(key));
        acts.push(Act::Silence(Duration::from_millis(200)));
    }
    acts.push(Act::HangUp);
    Ok(acts)
}

fn save(arguments: &CallArguments, report: &CallReport) -> bool {
    let Some(path) = &arguments.save else {
        return true;
    };
    let Some(clip) = &report.audio_in_time else {
        complain("nothing was heard, so there is nothing to save");
        return true;
    };
    match clip.write_wav(path) {
        Ok(()) => true,
        Err(error) => {
            complain(&format!("cannot write {}: {error}", path.display()));
            false
        }
    }
}

fn show(arguments: &CallArguments, report: &CallReport, is_heard: bool) {
    let text = if arguments.json {
        let mut json = serde_json::to_value(report).unwrap_or_default();
        json["heard_both_ways"] = is_heard.into();
        json.to_string()
    } else {
        let verdict = if is_heard {
            "heard both ways"
        } else {
            "NOT heard both ways"
        };
        format!("{report}\n{verdict}")
    };
    // A closed pipe on the other side of stdout is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "trunkline-loadtest: {text}");
}

fn split<'a>(
    pair: &'a str,
    at: char,
    form: &'static str,
) -> Result<(&'a str, &'a str), SetupError> {
    let parts = pair.split_once(at).filter(|(name, _)| !name.is_empty());
    parts.ok_or_else(|| SetupError::Pair(pair.to_owned(), form))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1_000.0),
        (None, None) => (text, 1.0),
    };
    let ms = number.trim().parse::<f64>().map(|n| n * unit_ms);
    match ms {
        Ok(ms) if (20.0..=600_000.0).contains(&ms) => Ok(Duration::from_millis(ms as u64)),
        _ => Err("say a time from 20ms to 600s, for example 800ms or 1.5s".to_owned()),
    }
}

fn parse_dialect(name: &str) -> Result<Dialect, String> {
    Dialect::from_name(name).ok_or_else(|| format!("the phone speaks {}", names()))
}

/// Of all dialects.
fn names() -> String {
    let names: Vec<_> = Dialect::ALL.iter().map(|it| it.name()).collect();
    names.join(", ")
}

fn parse_keys(text: &str) -> Result<Keys, String> {
    let is_key = |key: char| key.is_ascii_digit() || matches!(key, '*' | '#' | 'A'..='D');
    match text.chars().find(|key| !is_key(*key)) {
        None => Ok(Keys(text.to_owned())),
        Some(other) => Err(format!("{other:?} is not a telephone key (0-9 * # A-D)")),
    }
}

impl From<ShapeName> for Shape {
    fn from(name: ShapeName) -> Self {
        match name {
            ShapeName::Ga => Self::Ga,
            ShapeName::Preview => Self::Preview,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        call: CallArguments,
    }

    fn arguments(line: &str) -> CallArguments {
        let words = std::iter::once("call").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().call
    }

    fn check_refused(line: &str, why: &str) {
        let error = set_up(&arguments(line)).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn wrong_arguments_are_explained() {
        check_refused("localhost", "not an address of the form");
        check_refused("http://h/twilio", "must begin with ws://");
        check_refused("ws://h/stream", "--dialect");
        check_refused("ws://h/twilio --sample hello", "hours, order and wait");
        check_refused("ws://h/v1/audio --rate 12345", "12345 Hz is none of");
        check_refused("ws://h/twilio --parameter x", "NAME=VALUE");
        check_refused("ws://h/twilio --wav /nowhere.wav", "/nowhere.wav");
        check_refused("ws://h/twilio --ca /nowhere.pem", "/nowhere.pem");
        for dialect in Dialect::ALL {
            let line = format!("ws://h:1/stream --dialect {}", dialect.name());
            assert_eq!(arguments(&line).dialect, Some(*dialect));
        }
        assert!(set_up(&arguments("ws://h/stream --dialect twilio")).is_ok());
        assert!(parse_dialect("sip").unwrap_err().contains("genesys"));
    }

    #[test]
    fn a_script_is_made_of_turns() {
        let acts = script(&arguments(
            "ws://h/twilio --turns 2 --barge-in 1.5s --dtmf 1# --listen-first",
        ))
        .unwrap();
        let names: Vec<String> = acts
            .iter()
            .map(|act| {
                format!("{act:?}")
                    .chars()
                    .take_while(|c| c.is_alphabetic())
                    .collect()
            })
            .collect();
        let turn = ["Say", "BargeInAfter", "Say", "WaitForReply"];
        let expected = [
            &["WaitForReply", "Silence"][..],
            &turn,
            &turn,
            &["Dtmf", "Silence", "Dtmf", "Silence", "HangUp"],
        ]
        .concat();
        assert_eq!(names, expected);
    }

    #[test]
    fn times() {
        let check = |text, expected: Option<u64>| {
            let got = parse_time(text).ok();
            assert_eq!(got, expected.map(Duration::from_millis), "{text}");
        };
        check("800ms", Some(800));
        check("1.5s", Some(1_500));
        check("800", Some(800));
        for wrong in ["", "ms", "-1s", "5ms", "1h", "NaN", "infs"] {
            check(wrong, None);
        }
    }
}
