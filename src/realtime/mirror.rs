//! What is known of a session from the events that pass both ways, so that another session can take its place.
//!
//! [`Mirror`] holds the settings, the conversation by item ids, the user's audio that is in no item yet, what the
//! client asked and the deployment has not answered, and the responses being generated. It decides nothing about when a
//! session is replaced, and sends nothing. Deltas are only counted, and cost a scan.
//! What is kept is bounded in bytes; what had to be forgotten is counted.

use super::format::WireFormat;
use super::json::{Object, quoted};
use super::mirror_asked::{AllUnanswered, Asked, Unanswered};
use super::mirror_audio::{Companding, Pending};
use super::mirror_items::{Body, Items, cut, set_words};
use super::mirror_response::InProgress;
use super::policy_fields::{Field, Settings};
use super::scan::event_type;
use super::server::{ErrorBody, Item, ServerEvent, Session, Speech};
use super::settings::DEFAULT_PREFIX_PADDING;
use super::shape::Shape;
use super::translate_session::SessionKind;

/// How the ids of events begin that the gateway sends of its own when it replaces a session.
pub const OWN_EVENTS: &str = "event_trunkline_";

/// Speech is known of so much later at most, in microseconds: the detection's two frames and a round trip (protocol
/// reference 4.4). Padding comes before it.
const NOTICE_US: u64 = 900_000;

/// Padding of a session that says nothing of it, in milliseconds.
const PADDING_MS: u64 = DEFAULT_PREFIX_PADDING.as_millis() as u64;

/// The most that is believed of it.
const MAX_PADDING_MS: u64 = 10_000;

/// A session seen from the gateway. `T` is the text of an event, cheap to clone.
pub struct Mirror<T> {
    pub(super) caller: Shape,
    pub(super) shape: Shape,
    pub(super) kind: SessionKind,
    pub(super) max_bytes: usize,
    pub(super) settings: Settings,
    pub(super) input: WireFormat,
    pub(super) output: WireFormat,
    pub(super) turns: Turns,
    pub(super) items: Items,
    /// Audio that is in no item.
    pub(super) audio: Pending,
    pub(super) unanswered: AllUnanswered<T>,
    pub(super) n_client_events: u64,
    pub(super) n_own_events: u64,
    /// Microseconds of audio that the client appended, in all sessions.
    pub(super) clock_us: u64,
    /// What of it is not the present session's.
    pub(super) began_us: u64,
    /// Nothing is forgotten before this is reached: a new session has to find the speech in it first.
    pub(super) keep_until_us: u64,
    pub(super) speech: Option<Spoken>,
    pub(super) responses: Vec<InProgress<T>>,
    /// The user's turn is over and the deployment is to answer by itself.
    pub(super) answer_due: bool,
    /// Responses to be asked for in the next session.
    pub(super) ask: Option<Ask>,
    pub(super) is_lost: bool,
    pub(super) n_forgotten: u64,
    /// The voice is an operator's choice.
    pub(super) holds_voice: bool,
}

/// How the session takes turns.
#[derive(Clone, Copy)]
pub(super) struct Turns {
    pub(super) detects: bool,
    pub(super) answers: bool,
    pub(super) interrupts: bool,
    /// Audio kept while nobody speaks, in microseconds.
    pub(super) lead_in_us: u64,
}

/// A stretch of speech that the deployment found, in the client's clock.
pub(super) struct Spoken {
    pub(super) item_id: String,
    pub(super) begin_us: u64,
    pub(super) end_us: Option<u64>,
}

/// A response that the next session is asked for.
#[derive(Clone)]
pub(super) struct Ask {
    /// The client's event, in its shape.
    pub(super) event: String,
    /// The response that the client knows already and nothing of which it has heard.
    pub(super) response: Option<(String, Vec<String>)>,
}

impl<T: AsRef<str> + Clone + From<String>> Mirror<T> {
    /// A session that nothing is known of, for a caller of one shape at a deployment of that other one.
    #[must_use]
    pub fn new(
        caller: Shape,
        shape: Shape,
        transcribes: bool,
        max_bytes: usize,
        companding: Companding,
    ) -> Self {
        Self {
            caller,
            shape,
            kind: match transcribes {
                true => SessionKind::Transcription,
                false => SessionKind::Realtime,
            },
            max_bytes,
            settings: Settings::default(),
            input: WireFormat::Pcm24k,
            output: WireFormat::Pcm24k,
            turns: Turns {
                detects: true,
                answers: true,
                interrupts: true,
                lead_in_us: NOTICE_US + PADDING_MS * 1_000,
            },
            items: Items::new(companding),
            audio: Pending::new(companding),
            unanswered: AllUnanswered::default(),
            n_client_events: 0,
            n_own_events: 0,
            clock_us: 0,
            began_us: 0,
            keep_until_us: 0,
            speech: None,
            responses: Vec::new(),
            answer_due: false,
            ask: None,
            is_lost: false,
            n_forgotten: 0,
            holds_voice: false,
        }
    }

    /// The same where no other voice will do, even at a deployment that does not have this one.
    #[must_use]
    pub fn holding_voice(self) -> Self {
        Self {
            holds_voice: true,
            ..self
        }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.items.n_bytes() + self.audio.n_bytes() + self.unanswered.n_bytes()
    }

    /// Whether as much is kept as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.n_bytes() >= self.max_bytes || self.unanswered.is_full()
    }

    /// How many items, or stretches of audio, had to be forgotten since this was last asked.
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.n_forgotten) + std::mem::take(&mut self.items.n_forgotten)
    }

    /// Whether the deployment owes a response, or more of one.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.answer_due
            || self.ask.is_some()
            || self.responses.iter().any(|response| !response.runs_tools())
            || self.unanswered.has(Asked::Respond)
    }

    /// Whether nothing is going on that a change of sessions would disturb.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let speaks = self.speech.is_some();
        !speaks && !self.is_due() && self.responses.is_empty() && self.unanswered.is_empty()
    }

    /// Audio goes up: the base64 of an append.
    pub fn append(&mut self, base64: &str) {
        let n = self.next_event();
        let at_us = self.clock_us;
        self.clock_us += base64_us(base64, self.input);
        self.audio.push(n, at_us, self.clock_us, base64, self.input);
        if self.turns.detects && self.speech.is_none() && !self.is_lost {
            self.trim();
        }
        // A session that is being looked for has heard none of it: then the client is made to wait.
        if !self.is_lost {
            self.shrink();
        }
    }

    /// Forgets what was said, or not said, before anything of interest.
    fn trim(&mut self) {
        if self.clock_us < self.keep_until_us || self.unanswered.has(Asked::Commit) {
            return;
        }
        let from = self.clock_us.saturating_sub(self.turns.lead_in_us);
        while self.audio.first().is_some_and(|audio| audio.at_us < from) {
            self.audio.pop();
        }
    }

    fn shrink(&mut self) {
        if self.n_bytes() <= self.max_bytes {
            return;
        }
        let others = self.audio.n_bytes() + self.unanswered.n_bytes();
        self.items.shrink(self.max_bytes.saturating_sub(others));
        while self.n_bytes() > self.max_bytes && self.audio.pop().is_some() {
            self.n_forgotten += 1;
        }
        while self.n_bytes() > self.max_bytes && self.unanswered.pop().is_some() {
            self.n_forgotten += 1;
        }
    }

    fn next_event(&mut self) -> u64 {
        self.n_client_events += 1;
        self.n_client_events
    }

    /// Any other event of the client goes up. `kind` is its type.
    pub fn client_event(&mut self, kind: &str, text: T) {
        if kind == "response.cancel" {
            return self.cancelled(text.as_ref());
        }
        let Some(asked) = Asked::of(kind) else {
            return;
        };
        let n = self.next_event();
        let Some(unanswered) = Unanswered::new(n, asked, text) else {
            return;
        };
        if self.unanswered.is_full() && self.unanswered.pop().is_some() {
            self.n_forgotten += 1;
        }
        self.unanswered.push(unanswered);
        // A session that is being looked for has heard none of it: then the client is made to wait.
        if !self.is_lost {
            self.shrink();
        }
    }

    fn cancelled(&mut self, text: &str) {
        let event = Object::parse(text).unwrap_or_default();
        let id = event.text("response_id").filter(|id| !id.is_empty());
        for response in &mut self.responses {
            let is_meant = match &id {
                Some(id) => response.id == **id,
                None => response.in_conversation,
            };
            if is_meant {
                response.cancelled = Some("client_cancelled");
            }
        }
    }

    /// The first unanswered event of that kind about that item was answered.
    pub(super) fn answered(&mut self, kind: Asked, item_id: Option<&str>) -> Option<Unanswered<T>> {
        self.unanswered.answered(kind, item_id)
    }

    /// An event of the deployment comes down, as it is, and what was read of it.
    pub fn server_event(&mut self, event: &ServerEvent<'_>, text: &str) {
        match event {
            ServerEvent::AudioDelta(delta) => {
                let more = base64_us(&delta.delta, self.output);
                self.items.edit(&delta.item_id, |body| {
                    if let Body::Answer { audio_us, .. } = body {
                        *audio_us = audio_us.saturating_add(more);
                    }
                });
            }
            ServerEvent::SessionCreated(session) => self.session(session, text),
            ServerEvent::SessionUpdated(session) => {
                self.answered(Asked::Update, None);
                self.session(session, text);
            }
            ServerEvent::SpeechStarted(speech) => self.speech_started(speech),
            ServerEvent::SpeechStopped(speech) => {
                let end_us = self.position_us(speech.audio_end_ms.0);
                if let Some(spoken) = &mut self.speech {
                    spoken.end_us = Some(end_us);
                }
            }
            ServerEvent::Committed(item) => self.committed(&item.item_id, text),
            ServerEvent::ItemAdded(item) => self.item_added(item, text),
            ServerEvent::ItemTruncated(item) => {
                self.answered(Asked::Truncate, Some(&item.item_id));
                let end = Object::parse(text).ok();
                let end = end.and_then(|event| event.get("audio_end_ms")?.parse::<u64>().ok());
                let end_us = end.unwrap_or(0).saturating_mul(1_000);
                self.items.edit(&item.item_id, |body| cut(body, end_us));
            }
            ServerEvent::ItemDeleted(item) => {
                self.answered(Asked::Delete, Some(&item.item_id));
                self.items.remove(&item.item_id);
            }
            ServerEvent::InputTranscript(part) => {
                let words = &part.text;
                self.items
                    .edit(&part.item_id, |body| set_words(body, words));
            }
            ServerEvent::Error(error) => self.refused(error),
            _ => self.response_event(event, text),
        }
    }

    fn session(&mut self, session: &Session<'_>, text: &str) {
        self.input = session.input.unwrap_or(WireFormat::Pcm24k);
        self.output = session.output.unwrap_or(WireFormat::Pcm24k);
        let Ok(event) = Object::parse(text) else {
            return;
        };
        let Some(object) = event.get("session").and_then(Object::from_value) else {
            return;
        };
        self.settings = Settings::of_session(object, self.shape, self.kind);
        const TURN_DETECTION: &str = "audio.input.turn_detection";
        // A null says what a session without it does, but for this one.
        let nulls: Vec<_> = self
            .settings
            .names()
            .filter(|name| *name != TURN_DETECTION)
            .filter(|name| self.settings.get(name) == Some("null"))
            .map(str::to_owned)
            .collect();
        let transcribes = self.kind == SessionKind::Transcription;
        self.settings.retain(|name| {
            let is_null = nulls.iter().any(|null| null == name);
            !is_null && (!transcribes || Field::is_of_transcription(name))
        });
        let detection = self.settings.get(TURN_DETECTION);
        let detection_object = detection.and_then(|json| Object::parse(json).ok());
        let is_on = |name: &str| {
            detection_object
                .as_ref()
                .is_none_or(|object| object.get(name).is_none_or(|value| value != "false"))
        };
        let padding = detection_object
            .as_ref()
            .and_then(|object| object.get("prefix_padding_ms")?.parse().ok())
            .unwrap_or(PADDING_MS);
        // A session that says nothing of it has the default, which is on.
        let detects = detection != Some("null");
        self.turns = Turns {
            detects,
            answers: detects && !transcribes && is_on("create_response"),
            interrupts: detects && is_on("interrupt_response"),
            lead_in_us: NOTICE_US + padding.min(MAX_PADDING_MS) * 1_000,
        };
    }

    /// A position in the session's audio, in the client's clock.
    fn position_us(&self, ms: u64) -> u64 {
        self.began_us.saturating_add(ms.saturating_mul(1_000))
    }

    fn speech_started(&mut self, speech: &Speech<'_>) {
        self.speech = Some(Spoken {
            item_id: speech.item_id.to_string(),
            begin_us: self.position_us(speech.audio_start_ms.0),
            end_us: None,
        });
        if self.turns.interrupts {
            for response in &mut self.responses {
                if response.in_conversation {
                    response.cancelled.get_or_insert("turn_detected");
                }
            }
        }
    }

    /// Audio became an item.
    fn committed(&mut self, item_id: &str, text: &str) {
        let speech = self.speech.take_if(|speech| speech.item_id == item_id);
        let audio = match speech {
            Some(Spoken {
                begin_us, end_us, ..
            }) => {
                self.answer_due |= self.turns.answers;
                let end_us = end_us.unwrap_or(self.clock_us);
                let mut sound = self.audio.take(
                    |audio| audio.end_us <= end_us,
                    |audio| audio.end_us > begin_us,
                );
                // The next turn may have begun in the same append.
                if let Some(shared) = self.audio.first().filter(|next| next.at_us < end_us) {
                    let us = end_us - shared.at_us;
                    self.audio.add_beginning(&mut sound, us, self.input);
                }
                sound
            }
            None => {
                let commit = self.answered(Asked::Commit, None);
                let n = commit.map_or(u64::MAX, |commit| commit.n);
                self.audio.take(|audio| audio.n < n, |_| true)
            }
        };
        if self.kind == SessionKind::Transcription {
            return;
        }
        let event = Object::parse(text).unwrap_or_default();
        let previous = event.text("previous_item_id");
        let body = Body::Spoken { audio, words: None };
        self.items.insert(item_id, previous.as_deref(), body);
        self.shrink();
    }

    fn item_added(&mut self, item: &Item<'_>, text: &str) {
        if self.kind == SessionKind::Transcription || self.items.contains(&item.id) {
            return;
        }
        let event = Object::parse(text).unwrap_or_default();
        let previous = event.text("previous_item_id");
        let is_generated = self
            .responses
            .iter()
            .any(|response| response.items.iter().any(|output| output.id == *item.id))
            || item.status.as_deref() == Some("in_progress");
        let body = if is_generated {
            match &*item.kind {
                "message" => Body::Answer {
                    parts: Vec::new(),
                    audio_us: 0,
                    is_retold: false,
                },
                _ => Body::Untold,
            }
        } else {
            let ours = self.answered(Asked::Create, Some(&item.id));
            let given = ours.as_ref().and_then(|ours| {
                let event = Object::parse(ours.text.as_ref()).ok()?;
                Some(event.get("item")?.to_string())
            });
            match (given, event.get("item")) {
                (Some(json), _) => Body::Given {
                    shape: self.caller,
                    json,
                },
                (None, Some(json)) => Body::Given {
                    shape: self.shape,
                    json: json.to_string(),
                },
                (None, None) => return,
            }
        };
        self.items.insert(&item.id, previous.as_deref(), body);
        self.shrink();
    }

    /// An event of the client was refused: it is not asked again.
    fn refused(&mut self, error: &ErrorBody<'_>) {
        self.unanswered.refused(error);
        if let Some(id) = &error.event_id {
            let id = quoted(id);
            self.ask.take_if(|ask| ask.event.contains(&id));
        }
        if error.code.as_deref() == Some("conversation_already_has_active_response") {
            self.answer_due = false;
        }
    }

    /// Events that nobody else reads.
    pub(super) fn other(&mut self, text: &str) {
        let Ok(kind) = event_type(text) else {
            return;
        };
        match &*kind {
            "input_audio_buffer.cleared" => {
                if let Some(clear) = self.answered(Asked::Clear, None) {
                    self.audio.take(|audio| audio.n < clear.n, |_| false);
                }
                self.speech = None;
            }
            "input_audio_buffer.timeout_triggered" => {
                if let Ok(event) = Object::parse(text)
                    && let Some(item_id) = event.text("item_id")
                {
                    self.speech = Some(Spoken {
                        item_id: item_id.into_owned(),
                        begin_us: self.began_us,
                        end_us: Some(self.clock_us),
                    });
                }
            }
            "conversation.item.retrieved" => {
                let event = Object::parse(text).ok();
                let item = event.and_then(|event| Object::from_value(event.get("item")?));
                let id = item.as_ref().and_then(|item| item.text("id"));
                self.answered(Asked::Retrieve, id.as_deref());
            }
            "response.content_part.added"
            | "response.content_part.done"
            | "response.function_call_arguments.delta" => self.part(&kind, text),
            _ => {}
        }
    }
}

/// How long audio in base64 lasts, in microseconds, padding left out of account.
pub(super) fn base64_us(base64: &str, format: WireFormat) -> u64 {
    base64.len() as u64 * 3 / 4 * 1_000 / format.bytes_per_ms() as u64
}
