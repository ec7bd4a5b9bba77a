//! Responses that are being generated, and how they are brought to their end if nobody else does.

use super::json::{Object, quoted};
use super::mirror::Mirror;
use super::mirror_asked::Asked;
use super::mirror_items::Body;
use super::server::{Part as ContentPart, Response, ServerEvent};
use super::shape::Shape;

/// Responses that are followed at a time; one is in the conversation, others are not.
const MAX_RESPONSES: usize = 8;

/// One of them.
pub(super) struct InProgress<T> {
    pub(super) id: String,
    /// Its `response` as the deployment began it, a JSON object.
    object: String,
    /// The client's event that asked for it; without one, the end of the user's turn did.
    pub(super) request: Option<T>,
    pub(super) in_conversation: bool,
    pub(super) items: Vec<Output>,
    /// Why it was about to be cancelled.
    pub(super) cancelled: Option<&'static str>,
}

/// An item of it.
pub(super) struct Output {
    pub(super) id: String,
    index: u64,
    /// As it was last described, a JSON object.
    json: String,
    pub(super) kind: String,
    parts: Vec<Part>,
    arguments: String,
    /// The arguments are all there.
    pub(super) is_called: bool,
    pub(super) is_done: bool,
}

struct Part {
    index: u64,
    is_audio: bool,
    text: String,
    is_done: bool,
}

/// What the caller is told, and how much of the response there was.
pub(super) struct Ended {
    pub(super) events: Vec<String>,
    pub(super) is_complete: bool,
}

impl<T: AsRef<str> + Clone + From<String>> Mirror<T> {
    pub(super) fn response_event(&mut self, event: &ServerEvent<'_>, text: &str) {
        match event {
            ServerEvent::ResponseCreated(response) => self.response_created(response, text),
            ServerEvent::ResponseDone(done) => {
                self.responses.retain(|response| response.id != *done.id);
            }
            ServerEvent::OutputItemAdded(output) | ServerEvent::OutputItemDone(output) => {
                let is_done = matches!(event, ServerEvent::OutputItemDone(_));
                let json = Object::parse(text).ok();
                let json = json.as_ref().and_then(|event| event.get("item"));
                if let (Some(json), Some(response)) = (json, self.response(&output.response_id)) {
                    response.item(output.output_index.0, json, is_done);
                }
                if let (true, Some(json)) = (is_done, json) {
                    self.call_done(json);
                }
            }
            ServerEvent::TranscriptDelta(part) | ServerEvent::TextDelta(part) => {
                self.said(part, false);
            }
            ServerEvent::TranscriptDone(part) | ServerEvent::TextDone(part) => {
                self.said(part, true);
            }
            ServerEvent::FunctionArguments(call) => {
                if let Some(response) = self.response(&call.response_id) {
                    response.arguments(&call.item_id, &call.arguments, true);
                }
            }
            ServerEvent::Other => self.other(text),
            _ => {}
        }
    }

    fn response(&mut self, id: &str) -> Option<&mut InProgress<T>> {
        self.responses.iter_mut().find(|response| response.id == id)
    }

    fn response_created(&mut self, response: &Response<'_>, text: &str) {
        let in_conversation = response.is_in_conversation();
        let by_itself = in_conversation && std::mem::take(&mut self.answer_due);
        let ask = self.ask.take_if(|_| in_conversation);
        let request = match ask {
            Some(ask) => Some(ask.event.into()),
            None if by_itself => None,
            None => self.answered(Asked::Respond, None).map(|asked| asked.text),
        };
        let object = Object::parse(text).ok();
        let object = object.and_then(|event| Some(event.get("response")?.to_string()));
        if self.responses.len() == MAX_RESPONSES {
            self.responses.remove(0);
        }
        self.responses.push(InProgress::new(
            &response.id,
            object.unwrap_or_default(),
            request,
            in_conversation,
        ));
    }

    fn said(&mut self, part: &ContentPart<'_>, whole: bool) {
        let (index, text) = (part.content_index.0, &part.text);
        if let Some(response) = self.response(&part.response_id) {
            response.text(&part.item_id, index, text, whole);
        }
        self.items.edit(&part.item_id, |body| {
            if let Body::Answer { parts, .. } = body {
                let index = usize::try_from(index).unwrap_or(0).min(parts.len());
                if index == parts.len() {
                    parts.push(String::new());
                }
                if whole {
                    parts[index].clear();
                }
                parts[index].push_str(text);
            }
        });
    }

    /// A function call is part of the conversation once it is complete.
    pub(super) fn call_done(&mut self, json: &str) {
        let Ok(item) = Object::parse(json) else {
            return;
        };
        if !item.is("type", "function_call") || item.is("status", "incomplete") {
            return;
        }
        let [id, call_id, name, arguments] =
            ["id", "call_id", "name", "arguments"].map(|name| item.text(name).unwrap_or_default());
        self.items.edit(&id, |body| {
            *body = Body::Call {
                call_id: call_id.into_owned(),
                name: name.into_owned(),
                arguments: arguments.into_owned(),
            };
        });
    }

    pub(super) fn part(&mut self, kind: &str, text: &str) {
        let Ok(event) = Object::parse(text) else {
            return;
        };
        let response_id = event.text("response_id").unwrap_or_default();
        let item_id = event.text("item_id").unwrap_or_default();
        let index = event.get("content_index");
        let index = index.and_then(|index| index.parse().ok()).unwrap_or(0);
        let Some(response) = self.response(&response_id) else {
            return;
        };
        match kind {
            "response.content_part.added" => {
                let part = event.get("part").and_then(Object::from_value);
                let is_audio = part.is_some_and(|part| {
                    part.text("type").is_some_and(|kind| kind.contains("audio"))
                });
                response.part(&item_id, index, is_audio);
            }
            "response.content_part.done" => response.part_done(&item_id, index),
            _ => {
                let delta = event.text("delta").unwrap_or_default();
                response.arguments(&item_id, &delta, false);
            }
        }
    }
}

impl<T> InProgress<T> {
    pub(super) fn new(id: &str, object: String, request: Option<T>, in_conversation: bool) -> Self {
        Self {
            id: id.to_owned(),
            object,
            request,
            in_conversation,
            items: Vec::new(),
            cancelled: None,
        }
    }

    /// An item of it was begun or brought to its end.
    pub(super) fn item(&mut self, index: u64, json: &str, is_done: bool) {
        let Ok(item) = Object::parse(json) else {
            return;
        };
        let id = item.text("id").unwrap_or_default().into_owned();
        let kind = item.text("type").unwrap_or_default().into_owned();
        let at = self.items.iter().position(|output| output.id == id);
        let at = at.unwrap_or_else(|| {
            self.items.push(Output {
                id,
                index,
                json: String::new(),
                kind,
                parts: Vec::new(),
                arguments: String::new(),
                is_called: false,
                is_done: false,
            });
            self.items.len() - 1
        });
        json.clone_into(&mut self.items[at].json);
        self.items[at].is_done |= is_done;
    }

    fn output(&mut self, item_id: &str) -> Option<&mut Output> {
        self.items.iter_mut().rev().find(|item| item.id == item_id)
    }

    /// A content part of an item was begun.
    pub(super) fn part(&mut self, item_id: &str, index: u64, is_audio: bool) {
        if let Some(output) = self.output(item_id) {
            output.parts.push(Part {
                index,
                is_audio,
                text: String::new(),
                is_done: false,
            });
        }
    }

    /// More of a part's words; all of them if they are `whole`.
    pub(super) fn text(&mut self, item_id: &str, index: u64, text: &str, whole: bool) {
        let part = self
            .output(item_id)
            .and_then(|output| output.parts.iter_mut().find(|part| part.index == index));
        if let Some(part) = part {
            if whole {
                part.text.clear();
            }
            part.text.push_str(text);
        }
    }

    pub(super) fn part_done(&mut self, item_id: &str, index: u64) {
        let part = self
            .output(item_id)
            .and_then(|output| output.parts.iter_mut().find(|part| part.index == index));
        if let Some(part) = part {
            part.is_done = true;
        }
    }

    /// More of a call's arguments; all of them if they are `whole`.
    pub(super) fn arguments(&mut self, item_id: &str, text: &str, whole: bool) {
        if let Some(output) = self.output(item_id) {
            if whole {
                output.arguments.clear();
                output.is_called = true;
            }
            output.arguments.push_str(text);
        }
    }

    /// The vendor is busy elsewhere for it, and says nothing meanwhile.
    pub(super) fn runs_tools(&self) -> bool {
        self.items
            .iter()
            .any(|item| item.kind.starts_with("mcp_") && !item.is_done)
    }

    /// Brings it to its end, in the order of events that a deployment keeps (protocol reference 5.4). `previous` names
    /// the item before another one.
    pub(super) fn end(
        mut self,
        shape: Shape,
        caller: Shape,
        event_ids: &mut impl FnMut() -> String,
        previous: impl Fn(&str) -> Option<String>,
    ) -> Ended {
        let mut events = Vec::new();
        // A call that the caller can see whole is one.
        let is_complete =
            !self.items.is_empty() && self.items.iter().all(|item| item.is_done || item.is_called);
        for output in &mut self.items {
            if output.is_done {
                continue;
            }
            for part in output.parts.iter().filter(|part| !part.is_done) {
                part.end(&self.id, output, shape, event_ids, &mut events);
            }
            let item = output.ended(shape);
            if shape == Shape::Ga && self.in_conversation {
                let previous = previous(&output.id).map_or("null".to_owned(), |id| quoted(&id));
                events.push(format!(
                    r#"{{"type":"conversation.item.done","event_id":"{}","previous_item_id":{previous},"item":{item}}}"#,
                    event_ids()
                ));
            }
            events.push(format!(
                r#"{{"type":"response.output_item.done","event_id":"{}","response_id":{},"output_index":{},"item":{item}}}"#,
                event_ids(),
                quoted(&self.id),
                output.index
            ));
            output.json = item;
        }
        let mut response = Object::parse(&self.object).unwrap_or_default();
        let (status, details) = match self.cancelled {
            Some(reason) => (
                "\"cancelled\"",
                format!(r#"{{"type":"cancelled","reason":"{reason}"}}"#),
            ),
            None if is_complete => ("\"completed\"", "null".to_owned()),
            // Strict clients of the preview know two reasons only, and it was neither.
            None if caller == Shape::Preview => ("\"incomplete\"", "null".to_owned()),
            None => ("\"incomplete\"", r#"{"type":"incomplete"}"#.to_owned()),
        };
        response.set("status", status);
        response.set("status_details", details);
        let items: Vec<_> = self.items.iter().map(|item| item.json.as_str()).collect();
        response.set("output", format!("[{}]", items.join(",")));
        response.set("usage", "null");
        events.push(format!(
            r#"{{"type":"response.done","event_id":"{}","response":{}}}"#,
            event_ids(),
            response.write()
        ));
        Ended {
            events,
            is_complete,
        }
    }
}

impl Part {
    fn end(
        &self,
        response_id: &str,
        output: &Output,
        shape: Shape,
        event_ids: &mut impl FnMut() -> String,
        events: &mut Vec<String>,
    ) {
        let place = format!(
            r#""response_id":{},"item_id":{},"output_index":{},"content_index":{}"#,
            quoted(response_id),
            quoted(&output.id),
            output.index,
            self.index
        );
        let text = quoted(&self.text);
        let mut event = |kind: &str, more: &str| {
            events.push(format!(
                r#"{{"type":"{kind}","event_id":"{}",{place}{more}}}"#,
                event_ids()
            ));
        };
        let [audio_done, transcript_done, text_done] = match shape {
            Shape::Ga => [
                "response.output_audio.done",
                "response.output_audio_transcript.done",
                "response.output_text.done",
            ],
            Shape::Preview => [
                "response.audio.done",
                "response.audio_transcript.done",
                "response.text.done",
            ],
        };
        let part = if self.is_audio {
            event(audio_done, "");
            event(transcript_done, &format!(r#","transcript":{text}"#));
            format!(r#","part":{{"type":"audio","transcript":{text}}}"#)
        } else {
            event(text_done, &format!(r#","text":{text}"#));
            format!(r#","part":{{"type":"text","text":{text}}}"#)
        };
        event("response.content_part.done", &part);
    }
}

impl Output {
    /// Its words are those of audio.
    pub(super) fn is_spoken(&self) -> bool {
        self.parts.iter().any(|part| part.is_audio)
    }

    /// The item as it is in the end.
    fn ended(&self, shape: Shape) -> String {
        let mut item = Object::parse(&self.json).unwrap_or_default();
        let status = if self.is_called {
            "\"completed\""
        } else {
            "\"incomplete\""
        };
        item.set("status", status);
        if self.kind == "function_call" {
            item.set("arguments", quoted(&self.arguments));
        } else {
            let parts: Vec<_> = self
                .parts
                .iter()
                .map(|part| {
                    let text = quoted(&part.text);
                    match (part.is_audio, shape) {
                        (true, Shape::Ga) => {
                            format!(r#"{{"type":"output_audio","transcript":{text}}}"#)
                        }
                        (true, Shape::Preview) => {
                            format!(r#"{{"type":"audio","transcript":{text}}}"#)
                        }
                        (false, Shape::Ga) => format!(r#"{{"type":"output_text","text":{text}}}"#),
                        (false, Shape::Preview) => format!(r#"{{"type":"text","text":{text}}}"#),
                    }
                })
                .collect();
            if self.kind == "message" {
                item.set("content", format!("[{}]", parts.join(",")));
            }
        }
        item.write()
    }
}
