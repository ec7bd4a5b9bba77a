//! Hides from a client that its session is not the first one: what the gateway asked of its own is answered to nobody,
//! and ids and positions go on as if nothing had happened.

use std::collections::HashMap;

use memchr::memmem;

use super::json::{Object, quoted};
use super::mirror::OWN_EVENTS;
use super::mirror_replay::Replay;
use super::scan::event_type;
use super::server::ServerEvent;
use super::shape::Shape;

/// What a client is shown of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// The event as it is.
    Unchanged,
    /// This instead.
    Replaced(String),
    /// Several instead.
    Several(Vec<String>),
    /// Nothing.
    Withheld,
    /// Nothing, and the session is not what it has to be.
    Refused,
}

/// The seam between a call's sessions.
#[derive(Debug, Default)]
pub struct Seam {
    session_id: String,
    /// As the client knows it.
    conversation_id: Option<String>,
    is_first: bool,
    clock_ms: u64,
    shape: Option<Shape>,
    /// Items being made, and how many acknowledgements are to come.
    items: HashMap<String, u32>,
    deletions: Vec<String>,
    /// `session.updated`s to come that the client did not ask for.
    n_updates: u32,
    awaited: Option<(String, Vec<String>)>,
    /// A response's id, and the one by which the client knows it.
    renamed: Option<(String, String)>,
}

impl Seam {
    /// No seam yet: a client's first session.
    #[must_use]
    pub fn new(session_id: &str) -> Self {
        Self {
            session_id: session_id.to_owned(),
            is_first: true,
            ..Self::default()
        }
    }

    /// Another session begins, of a deployment of that shape, with `n_updates` settings to be acknowledged.
    pub fn begin(&mut self, shape: Shape, replay: &mut Replay, n_updates: u32) {
        self.is_first = false;
        self.shape = Some(shape);
        self.clock_ms = replay.clock_ms;
        let n = acknowledgements(shape);
        self.items = replay.item_ids.drain(..).map(|id| (id, n)).collect();
        self.deletions.clear();
        self.n_updates = n_updates;
        self.awaited = replay.awaited.take().map(|(id, end)| match &self.renamed {
            Some((ours, known)) if *ours == id => {
                let end = end.into_iter();
                let end = end.map(|event| replaced(&event, ours, known).unwrap_or(event));
                (known.clone(), end.collect())
            }
            _ => (id, end),
        });
        self.renamed = None;
    }

    /// An item is deleted and made anew.
    pub fn remade(&mut self, item_id: &str) {
        let n = self.shape.map_or(1, acknowledgements);
        self.deletions.push(item_id.to_owned());
        *self.items.entry(item_id.to_owned()).or_default() += n;
    }

    /// What brings a response to its end that the client waits for, if no other session is to give it.
    pub fn give_up(&mut self) -> Vec<String> {
        self.awaited.take().map_or_else(Vec::new, |(_, end)| end)
    }

    /// The event of the client that names a response, as the deployment knows that response.
    #[must_use]
    pub fn client_event(&self, text: &str) -> Option<String> {
        let (ours, shown) = self.renamed.as_ref()?;
        replaced(text, shown, ours)
    }

    /// An event that the gateway says in place of the deployment, as the client has to see it.
    #[must_use]
    pub fn own_event(&self, text: &str) -> Option<String> {
        let (ours, known) = self.renamed.as_ref()?;
        replaced(text, ours, known)
    }

    /// An event of the deployment, and what was read of it.
    pub fn server_event(&mut self, event: &ServerEvent<'_>, text: &str) -> Shown {
        if self.is_first {
            if let ServerEvent::ResponseCreated(response) = event
                && self.conversation_id.is_none()
                && let Some(Some(id)) = &response.conversation_id
            {
                self.conversation_id = Some(id.to_string());
            }
            return Shown::Unchanged;
        }
        let shown = match event {
            ServerEvent::AudioDelta(_) => Shown::Unchanged,
            ServerEvent::SessionCreated(_) => Shown::Withheld,
            ServerEvent::SessionUpdated(_) if self.n_updates > 0 => {
                self.n_updates -= 1;
                Shown::Withheld
            }
            ServerEvent::SessionUpdated(_) => {
                self.named(text, "session", "id", Some(&self.session_id))
            }
            ServerEvent::ItemAdded(item) | ServerEvent::ItemDone(item) => {
                self.acknowledged(&item.id)
            }
            ServerEvent::ItemDeleted(item) => self.deleted(&item.item_id),
            ServerEvent::Error(error) => match &error.event_id {
                Some(id) if id.starts_with(OWN_EVENTS) => self.refused(id),
                _ => Shown::Unchanged,
            },
            ServerEvent::SpeechStarted(_) | ServerEvent::SpeechStopped(_) => self.later(text),
            ServerEvent::ResponseCreated(response) => {
                let in_conversation = response.is_in_conversation();
                let id = response.id.to_string();
                match self.awaited.take_if(|_| in_conversation) {
                    Some((known, _)) => {
                        self.renamed = Some((id, known));
                        return Shown::Withheld;
                    }
                    None => self.in_conversation(text, response.conversation_id.as_ref()),
                }
            }
            ServerEvent::ResponseDone(response) => {
                self.in_conversation(text, response.conversation_id.as_ref())
            }
            ServerEvent::Other => self.other(text),
            _ => Shown::Unchanged,
        };
        let Some((ours, known)) = &self.renamed else {
            return shown;
        };
        let renamed = match &shown {
            Shown::Unchanged => replaced(text, ours, known),
            Shown::Replaced(event) => replaced(event, ours, known),
            _ => None,
        };
        if let ServerEvent::ResponseDone(response) = event
            && *response.id == **ours
        {
            self.renamed = None;
        }
        renamed.map_or(shown, Shown::Replaced)
    }

    fn acknowledged(&mut self, item_id: &str) -> Shown {
        let Some(n) = self.items.get_mut(item_id) else {
            return Shown::Unchanged;
        };
        *n -= 1;
        if *n == 0 {
            self.items.remove(item_id);
        }
        Shown::Withheld
    }

    fn deleted(&mut self, item_id: &str) -> Shown {
        match self.deletions.iter().position(|id| id == item_id) {
            Some(at) => {
                self.deletions.swap_remove(at);
                Shown::Withheld
            }
            None => Shown::Unchanged,
        }
    }

    /// Something that the gateway asked of its own was refused.
    fn refused(&mut self, event_id: &str) -> Shown {
        if event_id.ends_with("settings") {
            return Shown::Refused;
        }
        match self.give_up() {
            end if end.is_empty() => Shown::Withheld,
            end => Shown::Several(end),
        }
    }

    fn in_conversation(&mut self, text: &str, id: Option<&Option<super::json::Text<'_>>>) -> Shown {
        let Some(Some(id)) = id else {
            return Shown::Unchanged;
        };
        match &self.conversation_id {
            None => {
                self.conversation_id = Some(id.to_string());
                Shown::Unchanged
            }
            Some(known) => self.named(text, "response", "conversation_id", Some(known)),
        }
    }

    /// The event with another id in one of its objects.
    fn named(
        &self,
        text: &str,
        object: &'static str,
        member: &'static str,
        id: Option<&str>,
    ) -> Shown {
        let edited = Object::parse(text).ok().and_then(|mut event| {
            let mut inner = event.get(object).and_then(Object::from_value)?;
            inner.set(member, quoted(id?));
            event.set(object, inner.write());
            Some(event.write())
        });
        edited.map_or(Shown::Unchanged, Shown::Replaced)
    }

    /// Positions count from the beginning of a session.
    fn later(&self, text: &str) -> Shown {
        let Ok(mut event) = Object::parse(text) else {
            return Shown::Unchanged;
        };
        for name in ["audio_start_ms", "audio_end_ms"] {
            let at = event.get(name).and_then(|at| at.parse::<u64>().ok());
            if let Some(at) = at {
                event.set(name, at.saturating_add(self.clock_ms).to_string());
            }
        }
        Shown::Replaced(event.write())
    }

    fn other(&self, text: &str) -> Shown {
        match event_type(text).as_deref() {
            Ok("conversation.created") => Shown::Withheld,
            Ok("input_audio_buffer.timeout_triggered") => self.later(text),
            _ => Shown::Unchanged,
        }
    }
}

/// Events by which a deployment says that an item was made.
const fn acknowledgements(shape: Shape) -> u32 {
    match shape {
        Shape::Ga => 2,
        Shape::Preview => 1,
    }
}

/// The text with another id, which can only be a whole string in it: quotes in strings are escaped.
fn replaced(text: &str, from: &str, to: &str) -> Option<String> {
    let from = quoted(from);
    memmem::find(text.as_bytes(), from.as_bytes())?;
    Some(text.replace(&from, &quoted(to)))
}
