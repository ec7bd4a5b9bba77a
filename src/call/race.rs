//! Races that the protocol makes unavoidable: who loses one gets an error that means nothing.

use super::model::ModelError;

/// Errors that the deployment reports although nothing went wrong (protocol reference 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BenignRace {
    /// Our `response.create` crossed a response that the deployment began by itself.
    ActiveResponse,
    /// Our `response.cancel` crossed the response's end.
    NothingToCancel,
    /// The item to be truncated or deleted was gone, had no audio yet, or less than we had.
    StaleTruncate,
    /// A commit crossed the deployment's own.
    EmptyCommit,
}

impl BenignRace {
    /// The metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveResponse => "active_response",
            Self::NothingToCancel => "nothing_to_cancel",
            Self::StaleTruncate => "stale_truncate",
            Self::EmptyCommit => "empty_commit",
        }
    }

    pub(super) fn of(error: &ModelError<'_>) -> Option<Self> {
        let Some(code) = error.code else {
            return Self::of_message(error.message);
        };
        match code {
            "conversation_already_has_active_response" => Some(Self::ActiveResponse),
            "response_cancel_not_active" => Some(Self::NothingToCancel),
            "invalid_value" if error.event_id.is_some() && !error.answers("truncate") => None,
            "unsupported_content_type"
            | "invalid_value"
            | "item_truncate_invalid_item_id"
            | "item_delete_invalid_item_id" => Some(Self::StaleTruncate),
            "input_audio_buffer_commit_empty" => Some(Self::EmptyCommit),
            _ => None,
        }
    }

    /// Deployments of 2024 send these errors without a code (protocol reference 3.4).
    fn of_message(message: &str) -> Option<Self> {
        const MESSAGES: [(&str, BenignRace); 4] = [
            ("already has an active response", BenignRace::ActiveResponse),
            ("no active response found", BenignRace::NothingToCancel),
            ("Only model output audio", BenignRace::StaleTruncate),
            ("is already shorter than", BenignRace::StaleTruncate),
        ];
        let known = |(part, _): &&(&str, Self)| message.contains(part);
        MESSAGES.iter().find(known).map(|(_, race)| *race)
    }
}
