//! The events of one output item, from `output_item.added` to `output_item.done`.

use std::time::Instant;

use serde_json::{Value, json};

use super::codec::Audio;
use super::conversation::{Body, Item, Part, Role, assistant_audio_tokens, text_tokens};
use super::events::{audio_delta_text, with};
use super::quirks::ItemDone;
use super::reply::ReplyPart;
use super::response::Response;
use super::session::Session;

/// An item as far as it has been generated, and what it shall become.
#[derive(Debug)]
pub(super) struct OutputItem {
    pub(super) item: Item,
    pub(super) goal: ReplyPart,
    pub(super) phase: Phase,
    pub(super) truncated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Planned,
    Added,
    PartOpen,
    Done,
}

/// What was generated of an item.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Generated {
    pub(super) text_tokens: u64,
    pub(super) audio_tokens: u64,
    pub(super) audio_ms: u64,
}

impl OutputItem {
    pub(super) fn generated(&self) -> Generated {
        let mut generated = Generated::default();
        match &self.item.body {
            Body::Message { parts, .. } => {
                for part in parts {
                    match part {
                        Part::Text(said) => generated.text_tokens += text_tokens(said),
                        Part::Audio {
                            audio, transcript, ..
                        } => {
                            generated.text_tokens += transcript.as_deref().map_or(0, text_tokens);
                            generated.audio_tokens += assistant_audio_tokens(audio.ms());
                            generated.audio_ms += audio.ms();
                        }
                        Part::Image(_) => {}
                    }
                }
            }
            Body::Call {
                name, arguments, ..
            } => {
                generated.text_tokens += text_tokens(name) + text_tokens(arguments);
            }
            Body::CallOutput { .. } | Body::Opaque(_) => {}
        }
        generated
    }
}

impl Session {
    pub(super) fn output_item(&mut self, goal: ReplyPart) -> OutputItem {
        let body = match &goal {
            ReplyPart::Message { .. } => Body::Message {
                role: Role::Assistant,
                parts: Vec::new(),
            },
            ReplyPart::Call { name, .. } => Body::Call {
                call_id: self.source.call_id(),
                name: name.clone(),
                arguments: String::new(),
            },
        };
        let item = Item {
            id: self.source.id("item_"),
            status: "in_progress",
            body,
        };
        OutputItem {
            item,
            goal,
            phase: Phase::Planned,
            truncated: false,
        }
    }

    pub(super) fn add_item(&mut self, response: &mut Response, n: usize) {
        response.outputs[n].phase = Phase::Added;
        let item = &response.outputs[n].item;
        let rendered = item.render(self.facts.shape, None);
        self.emit(
            "response.output_item.added",
            &json!({"response_id": response.id, "output_index": n, "item": rendered}),
        );
        if !response.options.out_of_band {
            let previous = self.conversation.last_id();
            self.conversation.push(item.clone());
            let added = self.facts.shape.names().item_added;
            self.emit(
                added,
                &json!({"previous_item_id": previous, "item": rendered}),
            );
        }
    }

    pub(super) fn add_part(&mut self, response: &mut Response, n: usize) {
        let output = &mut response.outputs[n];
        output.phase = Phase::PartOpen;
        let ReplyPart::Message { audio, .. } = &output.goal else {
            return;
        };
        let (part, rendered) = match audio {
            Some(audio) => {
                let none = Audio {
                    n_samples: 0,
                    ..audio.clone()
                };
                let part = Part::Audio {
                    audio: none,
                    transcript: Some(String::new()),
                    heard: String::new(),
                };
                (part, json!({"type": "audio", "transcript": ""}))
            }
            None => (
                Part::Text(String::new()),
                json!({"type": "text", "text": ""}),
            ),
        };
        if let Body::Message { parts, .. } = &mut output.item.body {
            parts.push(part);
        }
        let place = self.place(response, n);
        self.emit(
            "response.content_part.added",
            &with(place, "part", rendered),
        );
    }

    pub(super) fn send_text(&mut self, response: &mut Response, n: usize, end: usize) {
        let output = &mut response.outputs[n];
        let goal = match &output.goal {
            ReplyPart::Message { text, .. } => text,
            ReplyPart::Call { arguments, .. } => arguments,
        };
        let names = self.facts.shape.names();
        let (sent, kind) = match &mut output.item.body {
            Body::Call { arguments, .. } => (arguments, "response.function_call_arguments.delta"),
            Body::Message { parts, .. } => match parts.first_mut() {
                Some(Part::Text(text)) => (text, names.text_delta),
                Some(Part::Audio {
                    transcript: Some(transcript),
                    ..
                }) => (transcript, names.transcript_delta),
                _ => return,
            },
            Body::CallOutput { .. } | Body::Opaque(_) => return,
        };
        let delta = goal.get(sent.len()..end).unwrap_or_default().to_owned();
        sent.push_str(&delta);
        let place = self.place(response, n);
        self.emit(kind, &with(place, "delta", delta.into()));
        self.store(response, n);
    }

    pub(super) fn send_audio(
        &mut self,
        response: &mut Response,
        n: usize,
        end: usize,
        now: Instant,
    ) {
        let format = response.options.output_format;
        let output = &mut response.outputs[n];
        let Body::Message { parts, .. } = &mut output.item.body else {
            return;
        };
        let Some(Part::Audio { audio, .. }) = parts.first_mut() else {
            return;
        };
        let delta = self.synthesiser.delta(audio, format, audio.n_samples..end);
        if let Some(listener) = &self.listener {
            let said = audio.samples.get(audio.n_samples..end).unwrap_or_default();
            listener.said(self.index, now, said, audio.rate);
        }
        audio.n_samples = end;
        let audio_ms = audio.ms();
        let event_id = self.source.id("event_");
        let kind = self.facts.shape.names().audio_delta;
        let text = audio_delta_text(kind, &event_id, &response.id, &output.item.id, n, &delta);
        self.push_raw(text);
        if let Some(record) = self.lock_record().response(&response.id) {
            record.first_audio_at.get_or_insert(now);
            record.audio_ms = record.audio_ms.max(audio_ms);
        }
        self.has_assistant_audio |= !response.options.out_of_band;
        self.store(response, n);
    }

    /// Brings the conversation's copy of an item up to date.
    pub(super) fn store(&mut self, response: &Response, n: usize) {
        let output = &response.outputs[n];
        if !response.options.out_of_band
            && !output.truncated
            && let Some(item) = self.conversation.get_mut(&output.item.id)
        {
            item.clone_from(&output.item);
        }
    }

    /// Every `.done` event of an item, with what was really sent.
    pub(super) fn close_item(&mut self, response: &mut Response, n: usize, status: &'static str) {
        let names = self.facts.shape.names();
        let had_part = response.outputs[n].phase == Phase::PartOpen;
        response.outputs[n].phase = Phase::Done;
        response.outputs[n].item.status = status;
        let place = self.place(response, n);
        match response.outputs[n].item.body.clone() {
            Body::Message { parts, .. } if had_part => match parts.into_iter().next() {
                Some(Part::Audio { transcript, .. }) => {
                    self.emit(names.audio_done, &place);
                    self.emit(
                        names.transcript_done,
                        &with(place.clone(), "transcript", json!(transcript)),
                    );
                    let part = json!({"type": "audio", "transcript": transcript});
                    self.emit("response.content_part.done", &with(place, "part", part));
                }
                Some(Part::Text(text)) => {
                    self.emit(
                        names.text_done,
                        &with(place.clone(), "text", text.as_str().into()),
                    );
                    self.emit(
                        "response.content_part.done",
                        &with(place, "part", json!({"type": "text", "text": text})),
                    );
                }
                _ => {}
            },
            Body::Call {
                name, arguments, ..
            } => {
                let place = with(
                    with(place, "name", name.into()),
                    "arguments",
                    arguments.into(),
                );
                self.emit("response.function_call_arguments.done", &place);
            }
            _ => {}
        }
        self.store(response, n);
        let out_of_band = response.options.out_of_band;
        if !out_of_band && let Some(item) = self.conversation.get_mut(&response.outputs[n].item.id)
        {
            item.status = status;
        }
        let rendered = response.outputs[n].item.render(self.facts.shape, None);
        let place = self.config.quirks.item_done;
        let done = names.item_done.filter(|_| !out_of_band).map(|done| {
            let previous = self.previous_of(&response.outputs[n].item.id);
            let fields = json!({"previous_item_id": previous, "item": rendered});
            (done, fields)
        });
        if let Some((done, fields)) = done.as_ref().filter(|_| place == ItemDone::Before) {
            self.emit(done, fields);
        }
        self.emit(
            "response.output_item.done",
            &json!({"response_id": response.id, "output_index": n, "item": rendered}),
        );
        if let Some((done, fields)) = done.as_ref().filter(|_| place == ItemDone::After) {
            self.emit(done, fields);
        }
    }

    pub(super) fn previous_of(&self, id: &str) -> Option<String> {
        let items = self.conversation.items();
        let position = items.iter().position(|item| item.id == id)?;
        position.checked_sub(1).map(|n| items[n].id.clone())
    }

    /// Where an event belongs; argument events name the call instead of the part.
    pub(super) fn place(&self, response: &Response, n: usize) -> Value {
        let item = &response.outputs[n].item;
        let mut place = json!({"response_id": response.id, "item_id": item.id, "output_index": n});
        match &item.body {
            Body::Call { call_id, .. } => place["call_id"] = call_id.as_str().into(),
            _ => place["content_index"] = 0.into(),
        }
        place
    }
}
