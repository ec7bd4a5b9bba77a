//! What was said in a call, as another session must be told it.
//!
//! The caller's turns by their words or, while these are not known, by their audio; the model's by what
//! the caller heard of them; keys, function calls and their results. Bounded: the oldest goes first.

use std::collections::VecDeque;
use std::time::Duration;

use super::caller_audio::Span;
use super::event::Speaker;
use super::model::ModelCommand;
use super::output::Output;

/// Things that are remembered at most.
const MAX_ENTRIES: usize = 256;

/// Bytes of text that are remembered at most: about 4,000 tokens, an eighth of what a GA model reads
/// (protocol reference 1.6), and small beside a call's audio.
const MAX_BYTES: usize = 16_000;

/// How long a character takes to be said, where an answer broke off before its whole length was known:
/// 15 characters a second, as voices of these models speak English.
const PER_CHARACTER: Duration = Duration::from_millis(65);

/// What is quoted of an answer that is to be continued.
const TAIL: usize = 240;

/// Stands for words that nobody knows any more.
const UNKNOWN: &str = "[The caller spoke here; the words are not known.]";

#[derive(Debug, Default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    n_told: u32,
    n_dropped: u64,
    /// How much audio of turns is needed.
    audio: Duration,
    /// Audio that is needed no more.
    freed: Vec<Span>,
}

#[derive(Debug)]
enum Entry {
    Caller {
        item_id: String,
        words: Option<String>,
        audio: Option<Span>,
    },
    Said(Said),
    /// In place of something that the caller typed.
    Text(String),
    /// A message of the operator's.
    Note(String),
    Call {
        call_id: String,
        name: String,
        arguments: String,
        output: Option<String>,
    },
}

/// An item of the model's.
#[derive(Debug)]
struct Said {
    session: u32,
    item_id: String,
    text: String,
    received: Duration,
    /// All of its audio came.
    complete: bool,
    /// Where the caller stopped it, if it was stopped.
    heard: Option<Duration>,
    /// Its id in a later session, which was told of it.
    told_as: Option<String>,
}

/// What a session must be told of an item of an earlier one that the caller stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Correction {
    /// The item that says too much.
    pub(super) item_id: String,
    /// What was heard of it, if anything, takes its place.
    pub(super) heard: Option<ModelCommand>,
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Caller { words, .. } => words.as_ref().map_or(0, String::len),
            Self::Said(said) => said.text.len(),
            Self::Text(text) | Self::Note(text) => text.len(),
            Self::Call {
                name,
                arguments,
                output,
                ..
            } => name.len() + arguments.len() + output.as_ref().map_or(0, String::len),
        }
    }
}

impl Entry {
    fn tell(&mut self, n_told: &mut u32, told: &mut Vec<Output>) {
        let mut tell = |command| told.push(Output::ToModel(command));
        match self {
            Self::Caller {
                words: Some(text), ..
            }
            | Self::Text(text) => {
                if !text.is_empty() {
                    tell(ModelCommand::AddUserText { text: text.clone() });
                }
            }
            Self::Note(text) => tell(ModelCommand::AddSystemText { text: text.clone() }),
            Self::Caller {
                audio: Some(audio), ..
            } => told.push(Output::ReplayItem(*audio)),
            Self::Caller { .. } => tell(ModelCommand::AddUserText {
                text: UNKNOWN.to_owned(),
            }),
            Self::Said(said) => {
                let text = said.heard_text().to_owned();
                said.told_as = None;
                if !text.is_empty() {
                    *n_told += 1;
                    let item_id = told_id(*n_told);
                    said.told_as = Some(item_id.clone());
                    tell(ModelCommand::AddAssistantText { item_id, text });
                }
            }
            Self::Call {
                call_id,
                name,
                arguments,
                output,
            } => {
                tell(ModelCommand::AddFunctionCall {
                    call_id: call_id.clone(),
                    name: name.clone(),
                    arguments: arguments.clone(),
                });
                if let Some(output) = output {
                    tell(ModelCommand::AddFunctionOutput {
                        call_id: call_id.clone(),
                        output: output.clone(),
                    });
                }
            }
        }
    }
}

/// Ids of the gateway's own, within the vendor's 32 characters (protocol reference 0.4).
fn told_id(n: u32) -> String {
    format!("item_trunkline_{n}")
}

impl Said {
    /// What the caller heard, in whole words, as far as its words are known.
    fn heard_text(&self) -> &str {
        let heard = self.heard.unwrap_or(self.received);
        let n_chars = self.text.chars().count();
        let whole = if self.complete {
            self.received
        } else {
            let said = PER_CHARACTER * u32::try_from(n_chars).unwrap_or(u32::MAX);
            said.max(self.received)
        };
        if heard >= whole && (self.complete || !whole.is_zero()) {
            return self.text.trim_end();
        }
        if heard.is_zero() {
            return "";
        }
        let n_heard = (n_chars as f64 * heard.as_secs_f64() / whole.as_secs_f64()) as usize;
        let end = self.text.char_indices().nth(n_heard);
        let (head, rest) = self
            .text
            .split_at(end.map_or(self.text.len(), |(at, _)| at));
        if rest.starts_with(char::is_whitespace) || !self.text.trim().contains(char::is_whitespace)
        {
            return head.trim_end();
        }
        let last = head.rfind(char::is_whitespace).unwrap_or(0);
        head[..last].trim_end()
    }
}

impl History {
    /// A turn of the caller's became an item.
    pub(crate) fn caller_spoke(&mut self, item_id: &str, audio: Option<Span>) {
        let audio = audio.filter(|span| !span.length().is_zero());
        self.audio += audio.map_or(Duration::ZERO, Span::length);
        self.push(Entry::Caller {
            item_id: item_id.to_owned(),
            words: None,
            audio,
        });
    }

    /// What it said: its audio is needed no more.
    pub(crate) fn caller_words(&mut self, id: &str, text: &str) {
        let found = self.entries.iter_mut().rev().find_map(|entry| match entry {
            Entry::Caller {
                item_id,
                words,
                audio,
            } if item_id == id && words.is_none() => Some((words, audio)),
            _ => None,
        });
        let Some((words, audio)) = found else { return };
        *words = Some(text.to_owned());
        let audio = audio.take();
        self.free(audio);
        self.bound();
    }

    /// Gives up audio, the oldest first: of turns that were answered what is beyond `answered`, and of all
    /// what is beyond `max`. Says how much of it nobody has answered.
    pub(super) fn bound_audio(&mut self, answered: Duration, max: Duration) -> Duration {
        let is_answer = |entry: &Entry| matches!(entry, Entry::Said(_) | Entry::Call { .. });
        let n_answered = self.entries.iter().rposition(is_answer).unwrap_or(0);
        let (mut kept, mut kept_answered) = (Duration::ZERO, Duration::ZERO);
        let mut lost = Duration::ZERO;
        let mut freed = Vec::new();
        for (n, entry) in self.entries.iter_mut().enumerate().rev() {
            let Entry::Caller { audio, .. } = entry else {
                continue;
            };
            let length = audio.map_or(Duration::ZERO, Span::length);
            kept += length;
            if n < n_answered {
                kept_answered += length;
            }
            if kept > max || kept_answered > answered {
                if n >= n_answered {
                    lost += length;
                }
                freed.extend(audio.take());
            }
        }
        freed.into_iter().for_each(|span| self.free(Some(span)));
        lost
    }

    /// How much audio of turns there is.
    pub(super) fn audio(&self) -> Duration {
        self.audio
    }

    /// Audio that was given up since this was last asked.
    pub(super) fn take_freed(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.freed)
    }

    fn free(&mut self, audio: Option<Span>) {
        if let Some(span) = audio {
            self.audio = self.audio.saturating_sub(span.length());
            self.freed.push(span);
        }
    }

    /// The model's words came, ahead of their audio.
    pub(crate) fn said_words(&mut self, session: u32, item_id: &str, text: &str) {
        self.said(session, item_id).text.push_str(text);
        self.bound();
    }

    /// All words of an item that is known.
    pub(crate) fn all_words(&mut self, session: u32, item_id: &str, text: &str) {
        if let Some(said) = self.find(session, item_id) {
            said.text.clear();
            said.text.push_str(text);
            self.bound();
        }
    }

    /// So much audio of an item waits to be played, or was.
    pub(crate) fn said_audio(&mut self, session: u32, item_id: &str, duration: Duration) {
        self.said(session, item_id).received += duration;
    }

    /// No more audio of it comes.
    pub(crate) fn said_all(&mut self, session: u32, item_id: &str) {
        if let Some(said) = self.find(session, item_id) {
            said.complete |= said.heard.is_none();
        }
    }

    /// The caller stopped it, having heard so much. The session in use is told what follows.
    pub(crate) fn cut(
        &mut self,
        session: u32,
        item_id: &str,
        heard: Duration,
    ) -> Option<Correction> {
        let n_told = self.n_told + 1;
        let said = self.find(session, item_id)?;
        said.heard = Some(heard);
        let was_told_as = said.told_as.take()?;
        let text = said.heard_text().to_owned();
        let told_as = (!text.is_empty()).then(|| told_id(n_told));
        said.told_as.clone_from(&told_as);
        self.n_told = n_told;
        Some(Correction {
            item_id: was_told_as,
            heard: told_as.map(|item_id| ModelCommand::AddAssistantText { item_id, text }),
        })
    }

    /// Nothing of it was heard.
    pub(super) fn unsaid(&mut self, session: u32, item_id: &str) {
        self.entries.retain(|entry| {
            !matches!(entry, Entry::Said(said) if said.session == session && said.item_id == item_id)
        });
    }

    /// Whether the last thing said broke off before its end.
    pub(super) fn is_cut_off(&self) -> bool {
        let last = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Said(said) => Some(said),
            _ => None,
        });
        last.is_some_and(|said| !said.complete && said.heard.is_none())
    }

    /// The end of what the caller heard last.
    pub(super) fn tail(&self) -> &str {
        let said = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Said(said) => Some(said.heard_text()).filter(|text| !text.is_empty()),
            _ => None,
        });
        let text = said.unwrap_or_default();
        let start = text.char_indices().nth_back(TAIL - 1);
        let Some((start, _)) = start.filter(|(at, _)| *at > 0) else {
            return text;
        };
        let word = text[start..].find(char::is_whitespace).unwrap_or(0);
        text[start + word..].trim_start()
    }

    /// In place of what the caller typed.
    pub(super) fn typed(&mut self, text: &str) {
        self.push(Entry::Text(text.to_owned()));
    }

    /// The operator told the model something.
    pub(super) fn noted(&mut self, text: &str) {
        self.push(Entry::Note(text.to_owned()));
    }

    pub(super) fn called(&mut self, call_id: &str, name: &str, arguments: &str) {
        self.push(Entry::Call {
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            output: None,
        });
    }

    /// The result of a function call.
    pub(super) fn returned(&mut self, id: &str, result: &str) {
        let found = self.entries.iter_mut().rev().find_map(|entry| match entry {
            Entry::Call {
                call_id, output, ..
            } if call_id == id && output.is_none() => Some(output),
            _ => None,
        });
        if let Some(output) = found {
            *output = Some(result.to_owned());
            self.bound();
        }
    }

    /// Whether that call is known, with its result or without.
    pub(super) fn has_call(&self, id: &str) -> bool {
        let is_it = |entry: &Entry| matches!(entry, Entry::Call { call_id, .. } if call_id == id);
        self.entries.iter().any(is_it)
    }

    /// How many things were forgotten to make room, since it was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.n_dropped)
    }

    /// All of it, for a session that knows nothing. What it is told of the model's words can be corrected
    /// later, should the caller stop them.
    pub(super) fn tell(&mut self) -> Vec<Output> {
        let mut told = Vec::new();
        let n_told = &mut self.n_told;
        for entry in &mut self.entries {
            entry.tell(n_told, &mut told);
        }
        told
    }

    /// What either side said, as far as the words are known and were heard.
    pub(crate) fn lines(&self) -> Vec<(Speaker, String)> {
        let lines = self.entries.iter().filter_map(|entry| match entry {
            Entry::Caller {
                words: Some(text), ..
            }
            | Entry::Text(text) => Some((Speaker::Caller, text.as_str())),
            Entry::Said(said) => Some((Speaker::Assistant, said.heard_text())),
            Entry::Caller { .. } | Entry::Note(_) | Entry::Call { .. } => None,
        });
        let lines = lines.map(|(speaker, text)| (speaker, text.trim().to_owned()));
        lines.filter(|(_, text)| !text.is_empty()).collect()
    }

    fn said(&mut self, session: u32, item_id: &str) -> &mut Said {
        if self.find(session, item_id).is_none() {
            self.push(Entry::Said(Said {
                session,
                item_id: item_id.to_owned(),
                text: String::new(),
                received: Duration::ZERO,
                complete: false,
                heard: None,
                told_as: None,
            }));
        }
        self.find(session, item_id).expect("it was just put there")
    }

    fn find(&mut self, session: u32, item_id: &str) -> Option<&mut Said> {
        self.entries.iter_mut().rev().find_map(|entry| match entry {
            Entry::Said(said) if said.session == session && said.item_id == item_id => Some(said),
            _ => None,
        })
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        self.bound();
    }

    /// The newest always stays, and so does a call that is not answered: its result could not be told.
    fn bound(&mut self) {
        let mut bytes: usize = self.entries.iter().map(Entry::bytes).sum();
        while self.entries.len() > MAX_ENTRIES || bytes > MAX_BYTES {
            let is_pending = |entry: &Entry| matches!(entry, Entry::Call { output: None, .. });
            let oldest = self.entries.iter().position(|entry| !is_pending(entry));
            let Some(oldest) = oldest.filter(|at| at + 1 < self.entries.len()) else {
                return;
            };
            let Some(entry) = self.entries.remove(oldest) else {
                return;
            };
            bytes -= entry.bytes();
            self.n_dropped += 1;
            if let Entry::Caller { audio, .. } = entry {
                self.free(audio);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// What is told of an item of which so much came and so much was heard.
    fn check(text: &str, received: u64, complete: bool, heard: Option<u64>, expected: &str) {
        let said = Said {
            session: 0,
            item_id: String::new(),
            text: text.to_owned(),
            received: ms(received),
            complete,
            heard: heard.map(ms),
            told_as: None,
        };
        assert_eq!(said.heard_text(), expected, "{text}");
    }

    #[test]
    fn what_was_heard_ends_with_a_word() {
        let text = "We are open from nine to five.";
        check(text, 3_000, true, None, text);
        check(text, 3_000, true, Some(3_000), text);
        check(text, 3_000, true, Some(1_000), "We are");
        check(text, 3_000, true, Some(1_100), "We are open");
        check(text, 3_000, true, Some(2_999), "We are open from nine to");
        check(text, 3_000, true, Some(100), "");
        check(text, 3_000, true, Some(0), "");
        check("", 3_000, true, Some(1_000), "");
        check("", 0, true, None, "");
        // Its words run ahead of its audio: the whole would last 1,950 ms.
        check(text, 500, false, None, "We are");
        check(text, 0, false, None, "");
        check(text, 2_500, false, None, text);
        check(
            "Größe ändern können",
            1_000,
            true,
            Some(700),
            "Größe ändern",
        );
        // A script without spaces has no words to end with.
        check("我们每天九点开门", 800, true, Some(400), "我们每天");
    }

    fn render(told: &[Output]) -> Vec<String> {
        told.iter()
            .map(|output| match output {
                Output::ToModel(ModelCommand::AddUserText { text }) => format!("user {text}"),
                Output::ToModel(ModelCommand::AddAssistantText { item_id, text }) => {
                    format!("{item_id} {text}")
                }
                Output::ToModel(ModelCommand::AddFunctionCall { call_id, .. }) => {
                    format!("call {call_id}")
                }
                Output::ToModel(ModelCommand::AddFunctionOutput { call_id, .. }) => {
                    format!("output {call_id}")
                }
                Output::ReplayItem(span) => format!("audio {}", span.length().as_millis()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn span(from: u64, to: u64) -> Option<Span> {
        Some(Span {
            from: ms(from),
            to: ms(to),
        })
    }

    #[test]
    fn a_session_is_told_all_in_order() {
        let mut history = History::default();
        history.caller_spoke("u1", span(0, 2_000));
        history.said_words(0, "a1", "Let me see.");
        history.said_audio(0, "a1", ms(900));
        history.said_all(0, "a1");
        history.called("c1", "look", "{}");
        history.called("c2", "book", "{}");
        history.caller_words("u1", "My order?");
        assert_eq!(history.take_freed(), [span(0, 2_000).expect("one")]);
        history.returned("c1", "found");
        history.typed("[keys]");
        history.caller_spoke("u2", span(3_000, 4_500));
        history.caller_spoke("u3", None);
        let told = render(&history.tell());
        let expected = [
            "user My order?",
            "item_trunkline_1 Let me see.",
            "call c1",
            "output c1",
            "call c2",
            "user [keys]",
            "audio 1500",
            &format!("user {UNKNOWN}"),
        ];
        assert_eq!(told, expected);
        assert!(history.has_call("c2") && history.has_call("c1") && !history.has_call("c3"));
    }

    #[test]
    fn what_a_session_was_told_too_much_of_is_corrected() {
        let mut history = History::default();
        history.said_words(0, "a", "One two three four.");
        history.said_audio(0, "a", ms(2_000));
        history.said_all(0, "a");
        assert_eq!(history.cut(0, "other", ms(1)), None);
        history.tell();
        let correction = history.cut(0, "a", ms(1_000)).expect("it was told");
        assert_eq!(correction.item_id, "item_trunkline_1");
        let heard = Output::ToModel(correction.heard.expect("some of it"));
        assert_eq!(render(&[heard]), ["item_trunkline_2 One two"]);
        assert_eq!(history.tail(), "One two");
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let mut history = History::default();
        for n in 0..400 {
            history.typed(&n.to_string());
        }
        assert_eq!(history.take_dropped(), 400 - MAX_ENTRIES as u64);
        history.typed(&"x".repeat(MAX_BYTES - 2));
        assert_eq!(render(&history.tell()).len(), 1);
        history.typed(&"y".repeat(2 * MAX_BYTES));
        assert_eq!(render(&history.tell()).len(), 1);
    }

    #[test]
    fn audio_of_answered_turns_is_given_up_first() {
        let mut history = History::default();
        for n in 0..3 {
            let from = n * 3_000;
            history.caller_spoke(&n.to_string(), span(from, from + 2_000));
            if n < 2 {
                history.said_audio(0, &n.to_string(), ms(100));
            }
        }
        assert_eq!(history.bound_audio(ms(2_500), ms(9_000)), ms(0));
        assert_eq!(history.take_freed(), [span(0, 2_000).expect("one")]);
        assert_eq!(history.audio(), ms(4_000));
        assert_eq!(history.bound_audio(ms(2_500), ms(1_000)), ms(2_000));
        assert_eq!(history.take_freed().len(), 2);
        assert_eq!(history.audio(), ms(0));
    }

    #[test]
    fn the_tail_begins_with_a_word() {
        let mut history = History::default();
        assert_eq!(history.tail(), "");
        history.said_words(0, "a", &"word ".repeat(100));
        history.said_audio(0, "a", ms(60_000));
        let tail = history.tail();
        assert!(tail.starts_with("word ") && tail.ends_with("word"));
        assert!((200..=TAIL).contains(&tail.len()), "{}", tail.len());
    }
}
