//! What the call core hears from the model leg and says to it, whatever shape the deployment speaks.

/// One thing that happened on the model leg.
///
/// Texts are borrowed from the wire message; audio stays base64 until somebody needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent<'a> {
    /// The session exists.
    SessionCreated {
        /// The vendor's id of the session.
        session_id: &'a str,
        /// When the vendor will end it, seconds since the Unix epoch.
        expires_at: Option<u64>,
    },
    /// A configuration was taken.
    SessionUpdated,
    /// The model heard the caller begin to speak.
    SpeechStarted {
        /// The user item that the speech will become.
        item_id: &'a str,
        /// Position in the audio appended so far, in milliseconds, padding subtracted.
        audio_start_ms: u64,
    },
    /// The model heard the caller stop.
    SpeechStopped {
        /// Position in the audio appended so far, in milliseconds, trailing silence included.
        audio_end_ms: u64,
    },
    /// Caller audio became an item.
    Committed {
        /// That item.
        item_id: &'a str,
    },
    /// The caller's words.
    InputTranscript {
        /// The user item.
        item_id: &'a str,
        /// What was understood.
        text: &'a str,
    },
    /// A response began.
    ResponseCreated {
        /// Its id.
        response_id: &'a str,
        /// Whether it writes to the default conversation (others run in parallel and are not ours to track).
        in_conversation: bool,
    },
    /// An item of a response began.
    OutputItemAdded {
        /// The response.
        response_id: &'a str,
        /// The item.
        item_id: &'a str,
        /// Whether it is something said, and not a function call.
        is_message: bool,
    },
    /// A stretch of reply audio.
    AudioDelta {
        /// The response.
        response_id: &'a str,
        /// The item that it belongs to.
        item_id: &'a str,
        /// The content part of that item.
        content_index: u32,
        /// Base64 of audio in the session's output format.
        audio: &'a str,
    },
    /// The audio of a content part is complete.
    AudioDone {
        /// The item.
        item_id: &'a str,
    },
    /// Some more words of an item, which may be ahead of their audio.
    OutputTranscriptDelta {
        /// The response.
        response_id: &'a str,
        /// The item.
        item_id: &'a str,
        /// The words, as a piece of text.
        text: &'a str,
    },
    /// The words of a content part are complete.
    OutputTranscript {
        /// The item.
        item_id: &'a str,
        /// What was or will be said.
        text: &'a str,
    },
    /// The model calls a function.
    FunctionCall {
        /// Names this call in [`ModelCommand::AddFunctionOutput`].
        call_id: &'a str,
        /// The function.
        name: &'a str,
        /// Its arguments, a JSON text.
        arguments: &'a str,
    },
    /// A response ended, whatever the outcome.
    ResponseDone {
        /// Its id.
        response_id: &'a str,
        /// The outcome.
        status: ResponseStatus,
        /// Why it failed, if it did.
        error_code: Option<&'a str>,
        /// What it cost.
        usage: Usage,
    },
    /// The deployment said what is left of its rate limits.
    RateLimits(RateLimits),
    /// Something that was sent could not be done; the session goes on unless the socket closes.
    Error(ModelError<'a>),
    /// Any other event; it changes nothing for a call.
    Other,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseStatus {
    /// It was said to its end.
    Completed,
    /// The caller or the gateway interrupted it.
    Cancelled,
    /// A cap or a filter cut it.
    Incomplete,
    /// Quota or a fault of the vendor.
    Failed,
}

impl ResponseStatus {
    /// The vendor's name of the status, which is also the metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// An `error` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelError<'a> {
    /// `invalid_request_error`, `server_error`, ...
    pub kind: &'a str,
    /// Stable name, where the vendor gives one.
    pub code: Option<&'a str>,
    /// For people.
    pub message: &'a str,
    /// The client event that caused it, where it had an id.
    pub event_id: Option<&'a str>,
}

impl ModelError<'_> {
    /// Whether it is about one of our commands of that name: their event ids begin with it.
    #[must_use]
    pub fn answers(&self, command: &str) -> bool {
        self.event_id
            .and_then(|id| id.split_once('-'))
            .is_some_and(|(name, _)| name == command)
    }

    /// Whether the deployment itself failed, and not what it was asked.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.kind == "server_error"
    }
}

/// Tokens of one response. `input` = text + audio + image; `cached` is a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Text tokens read.
    pub input_text: u64,
    /// Audio tokens read.
    pub input_audio: u64,
    /// Image tokens read.
    pub input_image: u64,
    /// Text tokens among those read that came from the cache.
    pub cached_text: u64,
    /// Audio tokens among those read that came from the cache.
    pub cached_audio: u64,
    /// Text tokens written.
    pub output_text: u64,
    /// Audio tokens written.
    pub output_audio: u64,
}

impl Usage {
    /// All tokens, as the vendor's rate limit counts them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.input_text
            .saturating_add(self.input_audio)
            .saturating_add(self.input_image)
            .saturating_add(self.output_text)
            .saturating_add(self.output_audio)
    }

    /// Adds another response's tokens.
    pub fn add(&mut self, other: &Self) {
        self.input_text = self.input_text.saturating_add(other.input_text);
        self.input_audio = self.input_audio.saturating_add(other.input_audio);
        self.input_image = self.input_image.saturating_add(other.input_image);
        self.cached_text = self.cached_text.saturating_add(other.cached_text);
        self.cached_audio = self.cached_audio.saturating_add(other.cached_audio);
        self.output_text = self.output_text.saturating_add(other.output_text);
        self.output_audio = self.output_audio.saturating_add(other.output_audio);
    }
}

/// What a deployment says is left. An entry that it did not send is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateLimits {
    /// Requests per minute.
    pub requests: Option<RateLimit>,
    /// Tokens per minute.
    pub tokens: Option<RateLimit>,
}

/// One rate limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Per minute.
    pub limit: u64,
    /// Of that, now.
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset_seconds: f64,
}

/// One thing to tell the model leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelCommand {
    /// Send the session configuration of the call's agent.
    Configure,
    /// Begin a response.
    CreateResponse {
        /// Instructions for this response only.
        instructions: Option<String>,
    },
    /// Begin a response that goes on where an earlier session's broke off.
    ContinueResponse {
        /// The end of what the caller heard of that; empty where its words are not known.
        said: String,
    },
    /// Stop the active response.
    CancelResponse,
    /// Cut an assistant item to what was heard.
    Truncate {
        /// The item.
        item_id: String,
        /// Its content part.
        content_index: u32,
        /// Milliseconds of it that were heard.
        audio_end_ms: u64,
    },
    /// Remove an item of which nothing was heard.
    DeleteItem {
        /// The item.
        item_id: String,
    },
    /// Add a message as if the caller had typed it.
    AddUserText {
        /// The message.
        text: String,
    },
    /// Add what the model said in an earlier session.
    AddAssistantText {
        /// The item's id.
        item_id: String,
        /// The words.
        text: String,
    },
    /// Add a function call that the model made in an earlier session.
    AddFunctionCall {
        /// The call's id.
        call_id: String,
        /// The function.
        name: String,
        /// Its arguments, a JSON text.
        arguments: String,
    },
    /// Add a message of the operator's, which the caller does not hear.
    AddSystemText {
        /// The message.
        text: String,
    },
    /// Answer a function call.
    AddFunctionOutput {
        /// The call's id, from [`ModelEvent::FunctionCall`].
        call_id: String,
        /// The result, usually a JSON text.
        output: String,
    },
}

impl ModelCommand {
    /// The command's name, with which its event ids begin.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::CreateResponse { .. } => "create",
            Self::ContinueResponse { .. } => "create",
            Self::CancelResponse => "cancel",
            Self::Truncate { .. } => "truncate",
            Self::DeleteItem { .. } => "delete",
            Self::AddUserText { .. } => "text",
            Self::AddAssistantText { .. } => "said",
            Self::AddFunctionCall { .. } => "called",
            Self::AddSystemText { .. } => "system",
            Self::AddFunctionOutput { .. } => "output",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_too_large_to_be_added_up() {
        let usage = Usage {
            input_text: u64::MAX,
            input_audio: u64::MAX,
            cached_text: u64::MAX,
            cached_audio: 1,
            output_text: 1,
            output_audio: u64::MAX,
            ..Usage::default()
        };
        assert_eq!(usage.total(), u64::MAX);
    }
}
