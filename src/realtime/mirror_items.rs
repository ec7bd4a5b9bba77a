//! The conversation as it would be told to another session.

use std::borrow::Cow;

use super::json::{Object, elements, quoted};
use super::mirror_audio::{Companding, Sound};
use super::shape::Shape;
use super::translate_response::item as item_in_shape;

/// Items that are remembered; the oldest are forgotten first. A vendor's session truncates long before.
const MAX_ITEMS: usize = 1_024;

/// What stands for words that nobody knows any more.
const UNKNOWN_WORDS: &str = "(What the user said here is not known any more.)";

/// What one item is.
#[derive(Clone)]
pub(super) enum Body {
    /// As the client made it, in that shape.
    Given {
        /// The shape that it is written in.
        shape: Shape,
        /// The item, a JSON object.
        json: String,
    },
    /// What the user said: as sound, until its words are known.
    Spoken { audio: Sound, words: Option<String> },
    /// What the model said, by content part.
    Answer {
        parts: Vec<String>,
        audio_us: u64,
        /// It is there as a text only, since it came from another session.
        is_retold: bool,
    },
    /// A function call of the model, complete.
    Call {
        call_id: String,
        name: String,
        arguments: String,
    },
    /// What cannot be told, or is not complete.
    Untold,
}

/// One item.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) body: Body,
}

/// All of them, in order.
pub(super) struct Items {
    list: Vec<Item>,
    n_bytes: usize,
    pub(super) n_forgotten: u64,
    companding: Companding,
}

impl Items {
    pub(super) const fn new(companding: Companding) -> Self {
        Self {
            list: Vec::new(),
            n_bytes: 0,
            n_forgotten: 0,
            companding,
        }
    }

    /// Bytes that are kept.
    pub(super) const fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.position(id).is_some()
    }

    fn position(&self, id: &str) -> Option<usize> {
        // What is asked for is mostly new.
        self.list.iter().rposition(|item| item.id == id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Item> {
        Some(&self.list[self.position(id)?])
    }

    /// The item before that one.
    pub(super) fn before(&self, id: &str) -> Option<&str> {
        let at = self.position(id)?.checked_sub(1)?;
        Some(&self.list[at].id)
    }

    /// Adds an item after that one; at the end where there is none.
    pub(super) fn insert(&mut self, id: &str, previous: Option<&str>, body: Body) {
        if id.is_empty() || self.contains(id) {
            return;
        }
        let item = Item {
            id: id.to_owned(),
            body,
        };
        self.n_bytes += item.n_bytes();
        let at = match previous {
            Some("root") => 0,
            Some(previous) => self.position(previous).map_or(self.list.len(), |at| at + 1),
            None => self.list.len(),
        };
        self.list.insert(at, item);
        if self.list.len() > MAX_ITEMS {
            self.n_bytes -= self.list.remove(0).n_bytes();
            self.n_forgotten += 1;
        }
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(at) = self.position(id) {
            self.n_bytes -= self.list.remove(at).n_bytes();
        }
    }

    pub(super) fn edit(&mut self, id: &str, edit: impl FnOnce(&mut Body)) {
        if let Some(at) = self.position(id) {
            let item = &mut self.list[at];
            self.n_bytes -= item.n_bytes();
            edit(&mut item.body);
            self.n_bytes += item.n_bytes();
        }
    }

    /// Forgets audio, the oldest first, until no more than that many bytes are kept.
    pub(super) fn shrink(&mut self, max_bytes: usize) {
        let mut at = 0;
        while self.n_bytes > max_bytes && at < self.list.len() {
            let item = &mut self.list[at];
            let before = item.n_bytes();
            item.forget_audio();
            let after = item.n_bytes();
            self.n_forgotten += u64::from(after < before);
            self.n_bytes = self.n_bytes - before + after;
            at += 1;
        }
        // What is left are words; the oldest of them have to go.
        while self.n_bytes > max_bytes && !self.list.is_empty() {
            self.n_bytes -= self.list.remove(0).n_bytes();
            self.n_forgotten += 1;
        }
    }

    /// The items that can be told, with their ids, as a deployment of that shape takes them.
    pub(super) fn told(&self, shape: Shape) -> impl Iterator<Item = (&str, String)> {
        self.list
            .iter()
            .filter_map(move |item| Some((item.id.as_str(), self.telling(item, shape)?)))
    }

    /// One of them, if it can be told.
    pub(super) fn telling(&self, item: &Item, shape: Shape) -> Option<String> {
        item.told(shape, self.companding)
    }

    /// Bytes on the wire of audio whose words nobody knows.
    pub(super) fn n_wire_bytes(&self) -> usize {
        let sounds = self.list.iter().map(|item| match &item.body {
            Body::Spoken { audio, words: None } => audio.n_wire_bytes(),
            _ => 0,
        });
        sounds.sum()
    }

    /// From now on all answers are there as texts only.
    pub(super) fn retold(&mut self) {
        for item in &mut self.list {
            if let Body::Answer { is_retold, .. } = &mut item.body {
                *is_retold = true;
            }
        }
        self.list.retain(|item| !matches!(item.body, Body::Untold));
    }
}

impl Item {
    fn n_bytes(&self) -> usize {
        let body = match &self.body {
            Body::Given { json, .. } => json.len(),
            Body::Spoken { audio, words } => {
                audio.n_bytes() + words.as_ref().map_or(0, String::len)
            }
            Body::Answer { parts, .. } => parts.iter().map(String::len).sum(),
            Body::Call {
                call_id,
                name,
                arguments,
            } => call_id.len() + name.len() + arguments.len(),
            Body::Untold => 0,
        };
        self.id.len() + body
    }

    /// Whatever is no text.
    fn forget_audio(&mut self) {
        match &mut self.body {
            Body::Spoken { audio, .. } => *audio = Sound::default(),
            Body::Given { json, .. } if json.len() > 4_096 => {
                let kept = Object::parse(json).ok().and_then(without_media);
                *json = kept.unwrap_or_else(|| "{}".to_owned());
            }
            _ => {}
        }
    }

    fn told(&self, shape: Shape, companding: Companding) -> Option<String> {
        match &self.body {
            Body::Given { shape: from, json } => {
                let json = Cow::Borrowed(json.as_str());
                let item = match *from == shape {
                    true => json,
                    false => item_in_shape(json, shape),
                };
                let mut item = Object::from_value(&item)?;
                if item.is_empty() {
                    return None;
                }
                item.set("id", quoted(&self.id));
                Some(item.write())
            }
            Body::Spoken { audio, words } => Some(match words {
                Some(words) => self.message("user", "input_text", "text", words),
                None => match audio.base64(companding) {
                    Some(audio) => self.message("user", "input_audio", "audio", &audio),
                    None => self.message("user", "input_text", "text", UNKNOWN_WORDS),
                },
            }),
            Body::Answer { parts, .. } => {
                let kind = match shape {
                    Shape::Ga => "output_text",
                    Shape::Preview => "text",
                };
                Some(self.message("assistant", kind, "text", &parts.concat()))
            }
            Body::Call {
                call_id,
                name,
                arguments,
            } => {
                let [id, call_id, name, arguments] =
                    [&self.id, call_id, name, arguments].map(|text| quoted(text));
                Some(format!(
                    r#"{{"id":{id},"type":"function_call","call_id":{call_id},"name":{name},"arguments":{arguments}}}"#
                ))
            }
            Body::Untold => None,
        }
    }

    fn message(&self, role: &str, kind: &str, member: &str, content: &str) -> String {
        let (id, content) = (quoted(&self.id), quoted(content));
        format!(
            r#"{{"id":{id},"type":"message","role":"{role}","content":[{{"type":"{kind}","{member}":{content}}}]}}"#
        )
    }
}

/// A message whose audio and images are gone, and said to be.
fn without_media(mut item: Object<'_>) -> Option<String> {
    let content = item.get("content")?.clone();
    let kept: Vec<_> = elements(&content)?
        .into_iter()
        .map(|part| match Object::parse(part) {
            Ok(of) if of.is("type", "input_audio") => note(UNKNOWN_WORDS),
            Ok(of) if of.is("type", "input_image") => {
                note("(A picture that is not there any more.)")
            }
            _ => part.to_owned(),
        })
        .collect();
    item.set("content", format!("[{}]", kept.join(",")));
    Some(item.write())
}

fn note(text: &str) -> String {
    format!(r#"{{"type":"input_text","text":{}}}"#, quoted(text))
}

/// The words of an item of audio are known: nothing else of it has to be kept.
pub(super) fn set_words(body: &mut Body, said: &str) {
    let is_one_of_audio = |json: &str| {
        let item = Object::parse(json).ok()?;
        let content = item.get("content")?;
        let parts = elements(content)?;
        let [only] = parts.as_slice() else {
            return None;
        };
        Object::parse(only)
            .ok()?
            .is("type", "input_audio")
            .then_some(())
    };
    match body {
        Body::Spoken { audio, words } => {
            *audio = Sound::default();
            *words = Some(said.to_owned());
        }
        Body::Given { json, .. } if is_one_of_audio(json).is_some() => {
            *body = Body::Spoken {
                audio: Sound::default(),
                words: Some(said.to_owned()),
            };
        }
        _ => {}
    }
}

/// Cuts an answer where its audio was cut; words are taken to be spread evenly over it.
pub(super) fn cut(body: &mut Body, audio_end_us: u64) {
    let Body::Answer {
        parts, audio_us, ..
    } = body
    else {
        return;
    };
    if audio_end_us >= *audio_us {
        return;
    }
    let text = parts.concat();
    let n_chars = text.chars().count() as u64;
    let keep = n_chars.saturating_mul(audio_end_us) / (*audio_us).max(1);
    *parts = vec![text.chars().take(keep as usize).collect()];
    *audio_us = audio_end_us;
}

/// Characters that are spoken in a second, at most; words come before their audio.
const SPOKEN_CHARS_PER_SECOND: u64 = 16;

/// Leaves of an answer that was broken off what its audio can have said of it, up to a whole word.
pub(super) fn keep_spoken(body: &mut Body) {
    let Body::Answer {
        parts, audio_us, ..
    } = body
    else {
        return;
    };
    let text = parts.concat();
    let most = audio_us
        .saturating_mul(SPOKEN_CHARS_PER_SECOND)
        .div_ceil(1_000_000) as usize;
    let Some((end, _)) = text.char_indices().nth(most) else {
        return;
    };
    let spoken = &text[..end];
    // Not all languages have spaces between words.
    let in_one = if text.is_ascii() { 0 } else { end };
    let whole = spoken.rfind(char::is_whitespace).unwrap_or(in_one);
    *parts = vec![spoken[..whole].to_owned()];
}
