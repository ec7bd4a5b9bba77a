//! What a client asked and the deployment has not answered.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::collections::vec_deque::Iter;

use super::json::Object;
use super::server::ErrorBody;

/// Events that are remembered.
const MAX_EVENTS: usize = 512;

/// What a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Update,
    Create,
    Delete,
    Truncate,
    Retrieve,
    Respond,
    Commit,
    Clear,
}

impl Asked {
    pub(super) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "session.update" | "transcription_session.update" => Self::Update,
            "conversation.item.create" => Self::Create,
            "conversation.item.delete" => Self::Delete,
            "conversation.item.truncate" => Self::Truncate,
            "conversation.item.retrieve" => Self::Retrieve,
            "response.create" => Self::Respond,
            "input_audio_buffer.commit" => Self::Commit,
            "input_audio_buffer.clear" => Self::Clear,
            _ => return None,
        })
    }

    /// What an error refuses that does not name the event (protocol reference 3.4).
    fn refused_by(error: &ErrorBody<'_>) -> Option<Self> {
        let code = error.code.as_deref().unwrap_or_default();
        match code {
            "conversation_already_has_active_response" => return Some(Self::Respond),
            "input_audio_buffer_commit_empty" => return Some(Self::Commit),
            "cannot_update_voice" => return Some(Self::Update),
            "invalid_tool_call_id" => return Some(Self::Create),
            "unsupported_content_type" | "item_truncate_invalid_item_id" => {
                return Some(Self::Truncate);
            }
            "item_delete_invalid_item_id" => return Some(Self::Delete),
            "item_retrieve_invalid_item_id" => return Some(Self::Retrieve),
            _ => {}
        }
        // Of 2024, without a code.
        if error.message.contains("already has an active response") {
            return Some(Self::Respond);
        }
        let param = error.param.as_deref()?;
        let names = |object: &str| {
            let rest = param.strip_prefix(object);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if names("response") {
            Some(Self::Respond)
        } else if names("session") {
            Some(Self::Update)
        } else if names("item") {
            Some(Self::Create)
        } else {
            None
        }
    }
}

/// One event.
pub(super) struct Unanswered<T> {
    pub(super) n: u64,
    pub(super) kind: Asked,
    /// The item that it is about.
    item_id: Option<String>,
    event_id: Option<String>,
    pub(super) text: T,
}

impl<T: AsRef<str>> Unanswered<T> {
    /// The `n`th event of a client, if it can be read.
    pub(super) fn new(n: u64, kind: Asked, text: T) -> Option<Self> {
        let event = Object::parse(text.as_ref()).ok()?;
        let item = event.get("item").and_then(Object::from_value);
        let item_id = match &item {
            Some(item) => item.text("id"),
            None => event.text("item_id"),
        };
        let [item_id, event_id] =
            [item_id, event.text("event_id")].map(|id| id.map(Cow::into_owned));
        Some(Self {
            n,
            kind,
            item_id,
            event_id,
            text,
        })
    }

    fn n_bytes(&self) -> usize {
        let ids = [&self.item_id, &self.event_id];
        let ids: usize = ids.into_iter().flatten().map(String::len).sum();
        self.text.as_ref().len() + ids
    }
}

/// All of them, oldest first.
pub(super) struct AllUnanswered<T> {
    list: VecDeque<Unanswered<T>>,
    n_bytes: usize,
}

impl<T> Default for AllUnanswered<T> {
    fn default() -> Self {
        Self {
            list: VecDeque::new(),
            n_bytes: 0,
        }
    }
}

impl<T: AsRef<str>> AllUnanswered<T> {
    /// Bytes that are kept.
    pub(super) const fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MAX_EVENTS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> Iter<'_, Unanswered<T>> {
        self.list.iter()
    }

    pub(super) fn has(&self, kind: Asked) -> bool {
        self.list.iter().any(|event| event.kind == kind)
    }

    pub(super) fn push(&mut self, event: Unanswered<T>) {
        self.n_bytes += event.n_bytes();
        self.list.push_back(event);
    }

    /// Forgets the oldest one.
    pub(super) fn pop(&mut self) -> Option<Unanswered<T>> {
        self.remove(0)
    }

    fn remove(&mut self, at: usize) -> Option<Unanswered<T>> {
        let event = self.list.remove(at)?;
        self.n_bytes -= event.n_bytes();
        Some(event)
    }

    /// The first event of that kind about that item was answered.
    pub(super) fn answered(&mut self, kind: Asked, item_id: Option<&str>) -> Option<Unanswered<T>> {
        let at = self.list.iter().position(|event| {
            let is_about = match (&event.item_id, item_id) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            };
            event.kind == kind && is_about
        })?;
        self.remove(at)
    }

    /// One was refused: it is not asked again.
    pub(super) fn refused(&mut self, error: &ErrorBody<'_>) {
        let find = |is_it: &dyn Fn(&Unanswered<T>) -> bool| self.list.iter().position(is_it);
        let at = match &error.event_id {
            Some(id) => find(&|event| event.event_id.as_deref() == Some(id)),
            // Nobody waits for a cancellation, and faults are not what events are refused with.
            None if error.code.as_deref() == Some("response_cancel_not_active")
                || &*error.kind != "invalid_request_error" =>
            {
                None
            }
            // Events are answered in their order, and those with an id by that mostly.
            None => {
                let kind = Asked::refused_by(error);
                let is_meant = |event: &Unanswered<T>| kind.is_none_or(|kind| event.kind == kind);
                find(&|event| event.event_id.is_none() && is_meant(event))
                    .or_else(|| find(&is_meant))
            }
        };
        if let Some(at) = at {
            self.remove(at);
        }
    }
}
