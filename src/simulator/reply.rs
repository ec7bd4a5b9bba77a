//! What the stand-in says: parrot, script or tone, and the functions it calls.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::codec::Audio;
use super::config::{ReplyConfig, ScriptOutcome, ScriptTurn, SimulatorConfig};
use super::conversation::{Body, Item, Part, Role, assistant_audio_tokens, text_tokens};
use super::options::ResponseOptions;
use super::synth::{Sound, Synthesiser};
use super::words;
use trunkline_media::SampleRate;

/// What one response will say if nothing stops it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) parts: Vec<ReplyPart>,
    pub(super) outcome: Outcome,
}

/// One output item.
#[derive(Clone, Debug)]
pub(super) enum ReplyPart {
    Message { text: String, audio: Option<Audio> },
    Call { name: String, arguments: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    /// With the reason.
    Incomplete(&'static str),
    /// With the code; none is a generic server fault.
    Failed(Option<String>),
}

/// Makes up replies; keeps the position in the script.
#[derive(Debug)]
pub(super) struct Replier {
    config: Arc<SimulatorConfig>,
    synthesiser: Arc<Synthesiser>,
    turn: usize,
    n_heard: usize,
}

/// Speaking rate for text without a given length: about 16 characters a second.
const MS_PER_CHARACTER: u64 = 60;

impl Replier {
    pub(super) fn new(config: Arc<SimulatorConfig>, synthesiser: Arc<Synthesiser>) -> Self {
        Self {
            config,
            synthesiser,
            turn: 0,
            n_heard: 0,
        }
    }

    /// The scripted turn that the next response will take.
    pub(super) fn upcoming(&self) -> Option<&ScriptTurn> {
        match &self.config.reply {
            ReplyConfig::Script {
                turns,
                repeat: true,
            } => turns.get(self.turn % turns.len().max(1)),
            ReplyConfig::Script { turns, .. } => turns.get(self.turn).or(turns.last()),
            ReplyConfig::Parrot | ReplyConfig::Tone { .. } => None,
        }
    }

    /// What the caller "said" in a stretch of audio.
    pub(super) fn heard(&mut self, audio: &Audio) -> String {
        if let Some(heard) = self.upcoming().and_then(|turn| turn.heard.clone()) {
            return heard;
        }
        if self.config.transcription.recognise {
            return words::recognise(audio.heard(), audio.rate.hz()).join(" ");
        }
        let texts = &self.config.transcription.texts;
        match texts.get(self.n_heard % texts.len().max(1)) {
            Some(text) => {
                self.n_heard += 1;
                text.clone()
            }
            None => format!("{} seconds of speech.", tenths_of_seconds(audio)),
        }
    }

    /// The reply to `context`, the items that the response sees.
    pub(super) fn reply(&mut self, context: &[&Item], options: &ResponseOptions) -> Reply {
        let rate = options.output_format.rate();
        let mut reply = if options.out_of_band {
            Reply::completed(self.say(&format!("I see {} items.", context.len()), None, rate))
        } else if let Some(turn) = self.upcoming().cloned() {
            self.turn += 1;
            self.scripted(&turn, rate)
        } else {
            self.improvised(context, options, rate)
        };
        for part in &mut reply.parts {
            if let ReplyPart::Message { audio, .. } = part
                && options.text_only
            {
                *audio = None;
            }
        }
        if let Some(cap) = options.max_output_tokens {
            reply.cap(cap);
        }
        reply
    }

    fn improvised(&self, context: &[&Item], options: &ResponseOptions, rate: SampleRate) -> Reply {
        if let Some(Body::CallOutput { output, .. }) = context.last().map(|item| &item.body) {
            return Reply::completed(self.say(&format!("The tool answered: {output}"), None, rate));
        }
        if let Some(rest) = unsaid_rest(context, rate) {
            return Reply::completed(rest);
        }
        let turn = UserTurn::of(context);
        if let Some(name) = called_tool(&turn.text, options) {
            return Reply::completed(ReplyPart::Call {
                name,
                arguments: "{}".to_owned(),
            });
        }
        if let ReplyConfig::Tone { hz, length } = self.config.reply {
            let text = format!("A tone of {hz} Hz.");
            return Reply::completed(ReplyPart::Message {
                text,
                audio: Some(self.synthesiser.sound(Sound::Tone(hz), length, rate)),
            });
        }
        Reply::completed(match turn.audio(rate) {
            Some(audio) => {
                let text = parroted(&audio);
                ReplyPart::Message {
                    text,
                    audio: Some(audio),
                }
            }
            None if turn.text.is_empty() => self.say("Hello. How can I help?", None, rate),
            None => self.say(&format!("You said: {}", turn.text), None, rate),
        })
    }

    fn scripted(&self, turn: &ScriptTurn, rate: SampleRate) -> Reply {
        let mut parts: Vec<_> = turn
            .say
            .iter()
            .map(|text| self.say(text, turn.length, rate))
            .collect();
        parts.extend(turn.calls.iter().map(|call| ReplyPart::Call {
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        }));
        if parts.is_empty() && turn.outcome == ScriptOutcome::Completed {
            parts.push(self.say("", Some(Duration::ZERO), rate));
        }
        let mut reply = Reply {
            parts,
            outcome: Outcome::Completed,
        };
        match turn.outcome {
            ScriptOutcome::Completed => {}
            ScriptOutcome::ContentFilter => {
                reply.halve();
                reply.outcome = Outcome::Incomplete("content_filter");
            }
            ScriptOutcome::Unfinished => {
                reply.halve();
                reply.outcome = Outcome::Incomplete("max_output_tokens");
            }
            ScriptOutcome::Failed => {
                reply = Reply {
                    parts: Vec::new(),
                    outcome: Outcome::Failed(turn.code.clone()),
                }
            }
        }
        reply
    }

    fn say(&self, text: &str, length: Option<Duration>, rate: SampleRate) -> ReplyPart {
        let length = length.unwrap_or_else(|| {
            Duration::from_millis(text.chars().count() as u64 * MS_PER_CHARACTER)
        });
        ReplyPart::Message {
            text: text.to_owned(),
            audio: Some(self.synthesiser.sound(Sound::Babble, length, rate)),
        }
    }
}

impl Reply {
    fn completed(part: ReplyPart) -> Self {
        Self {
            parts: vec![part],
            outcome: Outcome::Completed,
        }
    }

    /// Cuts what does not fit `max_output_tokens`: text is generated ahead of its audio.
    fn cap(&mut self, cap: u64) {
        let mut left = cap;
        for n in 0..self.parts.len() {
            let used = self.parts[n].tokens();
            if used <= left {
                left -= used;
                continue;
            }
            let mut n_kept = n + 1;
            match &mut self.parts[n] {
                ReplyPart::Message { text, audio } => {
                    let text_cost = text_tokens(text).min(left);
                    *text = text
                        .chars()
                        .take(usize::try_from(text_cost.saturating_sub(2) * 4).unwrap_or(0))
                        .collect();
                    if let Some(audio) = audio {
                        audio.truncate_ms((left - text_cost) * 50);
                    }
                }
                // A call whose name does not fit was never begun; one that was breaks off in its arguments.
                ReplyPart::Call { name, arguments } => {
                    match left.checked_sub(text_tokens(name) + text_tokens("")) {
                        Some(left) => {
                            let n_chars = usize::try_from(left * 4).unwrap_or(usize::MAX);
                            *arguments = arguments.chars().take(n_chars).collect();
                        }
                        None => n_kept = n,
                    }
                }
            }
            self.parts.truncate(n_kept);
            self.outcome = Outcome::Incomplete("max_output_tokens");
            return;
        }
    }

    fn halve(&mut self) {
        self.parts
            .retain(|part| matches!(part, ReplyPart::Message { .. }));
        for part in &mut self.parts {
            if let ReplyPart::Message { text, audio } = part {
                *text = text.chars().take(text.chars().count() / 2).collect();
                if let Some(audio) = audio {
                    audio.n_samples /= 2;
                }
            }
        }
    }
}

impl ReplyPart {
    fn tokens(&self) -> u64 {
        match self {
            Self::Message { text, audio } => {
                text_tokens(text)
                    + audio
                        .as_ref()
                        .map_or(0, |audio| assistant_audio_tokens(audio.ms()))
            }
            Self::Call { name, arguments } => text_tokens(name) + text_tokens(arguments),
        }
    }
}

/// What the user said since the assistant last did.
struct UserTurn<'a> {
    text: String,
    audio: Vec<&'a Audio>,
}

impl<'a> UserTurn<'a> {
    fn of(context: &[&'a Item]) -> Self {
        let answered = context.iter().rposition(|item| {
            matches!(
                item.body,
                Body::Message {
                    role: Role::Assistant,
                    ..
                } | Body::Call { .. }
            )
        });
        let mut turn = Self {
            text: String::new(),
            audio: Vec::new(),
        };
        for item in &context[answered.map_or(0, |n| n + 1)..] {
            let Body::Message {
                role: Role::User,
                parts,
            } = &item.body
            else {
                continue;
            };
            for part in parts {
                let text = match part {
                    Part::Text(text) => text,
                    Part::Audio { audio, heard, .. } => {
                        turn.audio.push(audio);
                        heard
                    }
                    Part::Image(_) => continue,
                };
                if !turn.text.is_empty() && !text.is_empty() {
                    turn.text.push(' ');
                }
                turn.text.push_str(text);
            }
        }
        turn
    }

    fn audio(&self, rate: SampleRate) -> Option<Audio> {
        match self.audio.as_slice() {
            [] => None,
            [one] => Some(one.at_rate(rate)),
            many => {
                let samples = many
                    .iter()
                    .flat_map(|audio| audio.at_rate(rate).heard().to_vec())
                    .collect();
                Some(Audio::new(samples, rate))
            }
        }
        .filter(|audio| !audio.heard().is_empty())
    }
}

fn parroted(audio: &Audio) -> String {
    format!("You said {} seconds of speech.", tenths_of_seconds(audio))
}

/// Where the conversation ends with the beginning of a parrot's answer, as text that a client put there: the
/// rest of that answer. A model goes on with its own words too.
fn unsaid_rest(context: &[&Item], rate: SampleRate) -> Option<ReplyPart> {
    let mut context = context;
    let mut said = Vec::new();
    while let Some((last, before)) = context.split_last() {
        let Body::Message {
            role: Role::Assistant,
            parts,
        } = &last.body
        else {
            break;
        };
        let [Part::Text(text)] = parts.as_slice() else {
            return None;
        };
        said.insert(0, text.as_str());
        context = before;
    }
    let audio = UserTurn::of(context).audio(rate)?;
    let whole = parroted(&audio);
    let rest = whole.strip_prefix(said.join(" ").as_str())?;
    if said.is_empty() || rest.is_empty() {
        return None;
    }
    let samples = audio.heard();
    let from = samples.len() * (whole.len() - rest.len()) / whole.len();
    Some(ReplyPart::Message {
        text: rest.trim_start().to_owned(),
        audio: Some(Audio::new(samples[from..].to_vec(), rate)),
    })
}

/// The tool that the text asks for by "call <name>", or that `tool_choice` forces.
fn called_tool(text: &str, options: &ResponseOptions) -> Option<String> {
    let names: Vec<_> = options
        .tools
        .as_array()?
        .iter()
        .filter(|tool| tool["type"] == "function")
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    let forced = match &options.tool_choice {
        Value::String(choice) if choice == "none" => return None,
        Value::String(choice) if choice == "required" => names.first().copied(),
        // Three spellings are met in the wild (reference chapter 4.1).
        Value::Object(choice) => ["name", "function"]
            .iter()
            .filter_map(|key| choice.get(*key))
            .find_map(|value| value.as_str().or_else(|| value["name"].as_str())),
        _ => None,
    };
    let asked = || {
        names
            .iter()
            .copied()
            .find(|name| text.contains(&format!("call {name}")))
    };
    forced.or_else(asked).map(str::to_owned)
}

fn tenths_of_seconds(audio: &Audio) -> String {
    format!("{:.1}", audio.ms() as f64 / 1_000.0)
}
