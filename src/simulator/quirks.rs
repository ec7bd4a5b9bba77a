//! Where the protocol reference has no certain answer (chapter 9.2 and its tags `P` and `W`): one knob each.
//!
//! The defaults are the reference's proposals. Whoever learns what a live endpoint does changes a line of
//! configuration, not code.

use serde::Deserialize;

/// The `[quirks]` table of a [`SimulatorConfig`](super::SimulatorConfig). An empty code is written as `null`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuirksConfig {
    /// `code` of a truncate past the end of the audio (9.2, question 3).
    pub truncate_too_long_code: String,
    /// `code` where an item is unknown; `{verb}` becomes `retrieve`, `truncate` or `delete` (9.2, question 3).
    pub unknown_item_code: String,
    /// What an append of no base64 does (chapter 2).
    pub bad_base64: BadInput,
    /// `code` of the `error` for it.
    pub bad_base64_code: String,
    /// What half a PCM16 sample at the end of an append does (chapter 4.3).
    pub odd_bytes: OddBytes,
    /// What `output_audio_buffer.clear` does on a WebSocket (chapter 2).
    pub output_audio_clear: OutputAudioClear,
    /// Where GA's `conversation.item.done` of a generated item stands (9.2, question 4).
    pub item_done: ItemDone,
    /// How `turn_detection` in an update is merged (9.2, question 6).
    pub turn_detection_merge: Merge,
    /// Whether the preview shape says which tokens were cached; Azure's preview samples do not (chapter 6.1).
    /// API versions of 2024 never do.
    pub preview_cached_details: bool,
    /// Voices served in addition to those of the shape (chapter 4.1).
    pub extra_voices: Vec<String>,
    /// Close code for a binary frame (chapter 1.6).
    pub binary_frame_close: u16,
    /// Close code after `invalid_api_key` (chapter 1.6).
    pub bad_key_close: u16,
}

impl Default for QuirksConfig {
    fn default() -> Self {
        Self {
            truncate_too_long_code: "invalid_value".to_owned(),
            unknown_item_code: "item_{verb}_invalid_item_id".to_owned(),
            bad_base64: BadInput::Error,
            bad_base64_code: "invalid_value".to_owned(),
            odd_bytes: OddBytes::Buffer,
            output_audio_clear: OutputAudioClear::Error,
            item_done: ItemDone::Before,
            turn_detection_merge: Merge::Whole,
            preview_cached_details: true,
            extra_voices: Vec::new(),
            binary_frame_close: 1003,
            bad_key_close: 3000,
        }
    }
}

/// The answer to input that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadInput {
    /// An `error` event.
    #[default]
    Error,
    /// Nothing.
    Ignore,
    /// An `error` event, then close 1007.
    Close,
}

/// The answer to half a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OddBytes {
    /// It waits for the other half in the next append.
    #[default]
    Buffer,
    /// The append is refused as a whole with `invalid_value`.
    Reject,
}

/// The answer to `output_audio_buffer.clear` where there is no such buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputAudioClear {
    /// An `error` event of code `invalid_event`.
    #[default]
    Error,
    /// Nothing.
    Ignore,
    /// `output_audio_buffer.cleared`, as over WebRTC.
    Cleared,
}

/// Where `conversation.item.done` stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemDone {
    /// Just before `response.output_item.done`.
    #[default]
    Before,
    /// Just after it.
    After,
}

/// What an update does to the fields of an object that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// They take the object's own defaults.
    #[default]
    Whole,
    /// They stay, unless the type changes.
    Deep,
}
