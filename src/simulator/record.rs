//! What a client did to a session, for assertions about the client.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::Shape;

/// Everything one client did in one session. Written by the session as it goes.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// `sess_...`.
    pub id: String,
    /// Number of the accepted connection, from 0.
    pub index: u64,
    /// Deployment or model that the client named.
    pub deployment: String,
    /// The shape spoken.
    pub shape: Shape,
    /// When the session began.
    pub started: Instant,
    /// Appended audio.
    pub appended: AppendRecord,
    /// Truncates, served and refused.
    pub truncates: Vec<TruncateRecord>,
    /// Cancels, served and refused.
    pub cancels: Vec<CancelRecord>,
    /// `error` events sent.
    pub errors: Vec<ErrorRecord>,
    /// Responses of all conversations.
    pub responses: Vec<ResponseRecord>,
    /// The conversation as it was when the session ended, oldest item first.
    pub conversation: Vec<ItemRecord>,
    /// Client events by type.
    pub received: BTreeMap<String, u64>,
    /// Frames sent.
    pub n_sent: u64,
    /// How it ended; `None` while it runs.
    pub closed: Option<CloseRecord>,
}

/// The appended audio as a whole.
#[derive(Clone, Debug, Default)]
pub struct AppendRecord {
    /// Number of `input_audio_buffer.append` that were accepted.
    pub n_appends: u64,
    /// Length of all audio.
    pub audio: Duration,
    /// Longest time between two appends.
    pub longest_gap: Duration,
    /// First append.
    pub first_at: Option<Instant>,
    /// Latest append.
    pub last_at: Option<Instant>,
    /// The audio itself, as samples at the input format's rate, if `record_audio` is on.
    pub pcm: Vec<i16>,
}

/// One `conversation.item.truncate`.
#[derive(Clone, Debug)]
pub struct TruncateRecord {
    /// When it came.
    pub at: Instant,
    /// The item.
    pub item_id: String,
    /// The content part.
    pub content_index: u64,
    /// Where the client cut.
    pub audio_end_ms: u64,
    /// Milliseconds of that item's audio sent so far.
    pub sent_ms: u64,
    /// Whether it was served.
    pub accepted: bool,
}

/// One `response.cancel`.
#[derive(Clone, Debug)]
pub struct CancelRecord {
    /// When it came.
    pub at: Instant,
    /// The response it ended; `None` if there was none.
    pub response_id: Option<String>,
}

/// One `error` event sent.
#[derive(Clone, Debug)]
pub struct ErrorRecord {
    /// `error.code`.
    pub code: Option<String>,
    /// `error.message`.
    pub message: String,
    /// `event_id` of the culprit.
    pub event_id: Option<String>,
}

/// One response.
#[derive(Clone, Debug)]
pub struct ResponseRecord {
    /// `resp_...`.
    pub id: String,
    /// Not part of the default conversation.
    pub out_of_band: bool,
    /// When `response.created` was sent.
    pub created_at: Instant,
    /// When the first audio delta was sent.
    pub first_audio_at: Option<Instant>,
    /// When `response.done` was sent.
    pub done_at: Option<Instant>,
    /// Status in `response.done`; `in_progress` before.
    pub status: &'static str,
    /// Milliseconds of audio sent.
    pub audio_ms: u64,
}

/// One item of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRecord {
    /// `item_...`, or the client's name for it.
    pub id: String,
    /// `system`, `user`, `assistant`, `function_call` or `function_call_output`.
    pub kind: &'static str,
    /// What was written, said or understood; a function call's name and arguments; an output.
    pub text: String,
    /// Of a function call and its output.
    pub call_id: Option<String>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseRecord {
    /// Whether the client closed (or vanished); otherwise the simulator did.
    pub by_client: bool,
    /// Close code; 1006 if there was no close frame.
    pub code: u16,
    /// Close reason.
    pub reason: String,
}

impl SessionRecord {
    pub(super) fn new(
        id: String,
        index: u64,
        deployment: String,
        shape: Shape,
        started: Instant,
    ) -> Self {
        Self {
            id,
            index,
            deployment,
            shape,
            started,
            appended: AppendRecord::default(),
            truncates: Vec::new(),
            cancels: Vec::new(),
            errors: Vec::new(),
            responses: Vec::new(),
            conversation: Vec::new(),
            received: BTreeMap::new(),
            n_sent: 0,
            closed: None,
        }
    }

    pub(super) fn response(&mut self, id: &str) -> Option<&mut ResponseRecord> {
        self.responses
            .iter_mut()
            .rev()
            .find(|response| response.id == id)
    }
}

impl AppendRecord {
    pub(super) fn note(&mut self, now: Instant, audio: Duration) {
        if let Some(last_at) = self.last_at {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(last_at));
        }
        self.n_appends += 1;
        self.audio += audio;
        self.first_at.get_or_insert(now);
        self.last_at = Some(now);
    }
}
