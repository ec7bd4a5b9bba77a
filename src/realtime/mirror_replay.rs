//! What another session is told by a [`Mirror`], and how what the last one left open is brought to its end.

use super::client::create_response;
use super::json::{Object, quoted, unquoted};
use super::mirror::{Ask, Mirror, OWN_EVENTS};
use super::mirror_asked::Asked;
use super::mirror_items::{Body, cut, keep_spoken};
use super::mirror_response::InProgress;
use super::shape::Shape;

/// What another session is told.
#[derive(Debug, Default)]
pub struct Replay {
    /// Items, in the new deployment's shape.
    pub items: Vec<String>,
    /// Their ids, whose acknowledgements nobody waits for.
    pub item_ids: Vec<String>,
    /// Events in the caller's shape: the response that is owed, unanswered events, audio.
    pub events: Vec<String>,
    /// The response that the client believes to be in progress, of which it heard nothing, and how it would end.
    pub awaited: Option<(String, Vec<String>)>,
    /// Microseconds of the user's audio in all of it.
    pub audio_us: u64,
    /// Where the new session's audio begins in the client's clock, in milliseconds.
    pub clock_ms: u64,
}

const VOICE: &str = "audio.output.voice";

/// Voices that no preview deployment has (protocol reference 4.1).
const GA_VOICES: [&str; 2] = ["\"marin\"", "\"cedar\""];

impl<T: AsRef<str> + Clone + From<String>> Mirror<T> {
    /// The event that sets a session of that shape as this one was; `None` if nothing is known.
    #[must_use]
    pub fn update(&self, shape: Shape) -> Option<String> {
        let id = format!("{OWN_EVENTS}settings");
        let mut settings = self.settings.clone();
        if shape == Shape::Preview && !self.holds_voice {
            // Another voice is better than no session.
            let is_known = !settings
                .get(VOICE)
                .is_some_and(|voice| GA_VOICES.contains(&voice));
            settings.retain(|name| name != VOICE || is_known);
        }
        (!settings.is_empty()).then(|| settings.update(&id, shape, self.kind))
    }

    /// The session is lost. Returns what brings its responses to their end for the caller, in the shape of the
    /// deployment that it was at; the one of which the caller heard nothing is asked for again instead. From now on
    /// nothing is forgotten until the replay.
    pub fn lose(&mut self) -> Vec<String> {
        if std::mem::replace(&mut self.is_lost, true) {
            return Vec::new();
        }
        let mut events = Vec::new();
        for response in std::mem::take(&mut self.responses) {
            self.lose_response(response, &mut events);
        }
        if self.ask.is_none() && std::mem::take(&mut self.answer_due) {
            self.ask = Some(Ask {
                event: self.ask_plainly(None),
                response: None,
            });
        }
        let mut unanswered = std::mem::take(&mut self.unanswered);
        while let Some(event) = unanswered.pop() {
            let cut = match event.kind {
                Asked::Truncate => self.truncate(event.text.as_ref()),
                _ => None,
            };
            match cut {
                Some(cut) => events.push(cut.answer),
                None => self.unanswered.push(event),
            }
        }
        self.speech = None;
        events
    }

    fn lose_response(&mut self, response: InProgress<T>, events: &mut Vec<String>) {
        let in_conversation = response.in_conversation;
        let is_wanted = in_conversation && response.cancelled.is_none();
        let request = response.request.clone();
        let nothing_heard = response.items.is_empty();
        let (id, mut said) = (response.id.clone(), String::new());
        for output in response.items.iter().filter(|output| !output.is_done) {
            self.items.edit(&output.id, |body| {
                if output.is_spoken() {
                    keep_spoken(body);
                }
                if let Body::Answer { parts, .. } = body {
                    said.push_str(&parts.concat());
                }
            });
        }
        let items = &self.items;
        let n_own_events = &mut self.n_own_events;
        let mut event_ids = || {
            *n_own_events += 1;
            format!("{OWN_EVENTS}{n_own_events}")
        };
        let previous = |id: &str| items.before(id).map(str::to_owned);
        let calls: Vec<_> = response
            .items
            .iter()
            .filter(|output| output.is_called && !output.is_done)
            .map(|output| output.id.clone())
            .collect();
        let ended = response.end(self.shape, self.caller, &mut event_ids, previous);
        self.tell_calls(&ended.events, &calls);
        if !is_wanted || ended.is_complete {
            return events.extend(ended.events);
        }
        let event = match said.is_empty() {
            true => self.ask_plainly(request.as_ref().map(T::as_ref)),
            false => self.ask_to_continue(request.as_ref().map(T::as_ref), &said),
        };
        let response = nothing_heard.then_some(id);
        self.ask = Some(match response {
            Some(id) => Ask {
                event,
                response: Some((id, ended.events)),
            },
            None => {
                events.extend(ended.events);
                Ask {
                    event,
                    response: None,
                }
            }
        });
    }

    /// Calls that were complete but for the last events are part of the conversation.
    fn tell_calls(&mut self, events: &[String], calls: &[String]) {
        if calls.is_empty() {
            return;
        }
        for event in events {
            let event = Object::parse(event).unwrap_or_default();
            if event.is("type", "response.output_item.done")
                && let Some(item) = event.get("item")
            {
                self.call_done(item);
            }
        }
    }

    fn own_event_id(&mut self) -> String {
        self.n_own_events += 1;
        format!("{OWN_EVENTS}{}", self.n_own_events)
    }

    fn ask_plainly(&mut self, request: Option<&str>) -> String {
        let event_id = self.own_event_id();
        match request.map(Object::parse) {
            Some(Ok(mut request)) => {
                request.set("event_id", quoted(&event_id));
                request.write()
            }
            _ => create_response(None, &event_id),
        }
    }

    /// Instructions of a response replace the session's, so those are repeated.
    fn ask_to_continue(&mut self, request: Option<&str>, said: &str) -> String {
        let event_id = self.own_event_id();
        let mut request = request
            .and_then(|request| Object::parse(request).ok())
            .map(Object::into_owned)
            .unwrap_or_default();
        let mut response = request
            .get("response")
            .and_then(Object::from_value)
            .unwrap_or_default();
        let before = response
            .get("instructions")
            .map(|json| json.to_string())
            .or_else(|| self.settings.get("instructions").map(str::to_owned));
        let before = before.as_deref().and_then(unquoted).unwrap_or_default();
        let instructions = format!(
            "{before}{}Your last answer was broken off. The user has heard this much of it: {}. Go on exactly where it \
             broke off, in the same language. Do not repeat any of it, do not greet, and do not mention the break.",
            if before.is_empty() { "" } else { "\n\n" },
            quoted(said)
        );
        response.set("instructions", quoted(&instructions));
        request.set("type", "\"response.create\"");
        request.set("event_id", quoted(&event_id));
        request.set("response", response.write());
        request.write()
    }

    /// What a session of that shape is told so that it can go on, once it is set by [`Mirror::update`]. From now on
    /// the mirror is that session's.
    pub fn replay(&mut self, shape: Shape) -> Replay {
        let event_id = self.own_event_id();
        let told = self.items.told(shape).map(|(id, item)| {
            let event = format!(
                r#"{{"type":"conversation.item.create","event_id":"{event_id}","item":{item}}}"#
            );
            (id.to_owned(), event)
        });
        let (item_ids, items) = told.unzip();
        self.items.retold();
        // Should this session fail before it answers, the next one is asked.
        let mut events = Vec::new();
        let awaited = self.ask.clone().and_then(|ask| {
            events.push(ask.event);
            ask.response
        });
        // The client's own events, in their order.
        let asked = &self.unanswered;
        let audio = self
            .audio
            .events(|one, next| asked.iter().any(|event| (one.n..next.n).contains(&event.n)));
        let mut unanswered = asked.iter().peekable();
        for (n, audio) in audio {
            while let Some(event) = unanswered.next_if(|event| event.n < n) {
                events.push(event.text.as_ref().to_owned());
            }
            events.push(audio);
        }
        events.extend(unanswered.map(|event| event.text.as_ref().to_owned()));
        let began_us = self
            .audio
            .first()
            .map_or(self.clock_us, |audio| audio.at_us);
        self.began_us = began_us;
        self.keep_until_us = self.clock_us + self.turns.lead_in_us;
        self.shape = shape;
        self.is_lost = false;
        let per_ms = self.input.bytes_per_ms();
        let of_items = (self.items.n_wire_bytes() * 1_000 / per_ms) as u64;
        Replay {
            audio_us: (self.clock_us - began_us).saturating_add(of_items),
            items,
            item_ids,
            events,
            awaited,
            clock_ms: began_us / 1_000,
        }
    }
}

/// The audio of an answer that the deployment never spoke.
#[derive(Debug)]
pub struct Cut {
    /// What the client is told, the same in both shapes.
    pub answer: String,
    /// What the deployment is told.
    pub events: Vec<String>,
    /// The item, whose acknowledgements nobody waits for.
    pub item_id: String,
}

impl<T: AsRef<str> + Clone + From<String>> Mirror<T> {
    /// Truncates an answer that the present session has as a text only, which its deployment would refuse: it is made
    /// anew, shorter, under the same id. `None` if the deployment can do it, or there is no such answer.
    pub fn truncate(&mut self, text: &str) -> Option<Cut> {
        let event = Object::parse(text).ok()?;
        let item_id = event.text("item_id")?.into_owned();
        let end_ms: u64 = event.get("audio_end_ms")?.parse().ok()?;
        let content_index: u64 = event.get("content_index")?.parse().ok()?;
        let item = self.items.get(&item_id)?;
        let is_ours =
            matches!(item.body, Body::Answer { is_retold, .. } if is_retold || self.is_lost);
        if !is_ours {
            return None;
        }
        self.items
            .edit(&item_id, |body| cut(body, end_ms.saturating_mul(1_000)));
        let id = quoted(&item_id);
        let mut events = Vec::new();
        if !self.is_lost {
            let event_id = self.own_event_id();
            let item = self.items.get(&item_id)?;
            let item = self.items.telling(item, self.shape)?;
            let previous = quoted(self.items.before(&item_id).unwrap_or("root"));
            events.push(format!(
                r#"{{"type":"conversation.item.delete","event_id":"{event_id}","item_id":{id}}}"#
            ));
            events.push(format!(
                r#"{{"type":"conversation.item.create","event_id":"{event_id}","previous_item_id":{previous},"item":{item}}}"#
            ));
        }
        let event_id = self.own_event_id();
        let answer = format!(
            r#"{{"type":"conversation.item.truncated","event_id":"{event_id}","item_id":{id},"content_index":{content_index},"audio_end_ms":{end_ms}}}"#
        );
        Some(Cut {
            answer,
            events,
            item_id,
        })
    }
}
