//! What the user of an SDK client heard and said, as far as the events tell: the client plays what it is sent, and truncates
//! what it did not play.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;

use crate::call::{History, ModelEvent, Spoken};

/// Items of which it is known how much was sent: clients truncate the last one.
const MAX_ITEMS: usize = 16;

/// All items of a call are as good as one session's: their ids come from one vendor.
const SESSION: u32 = 0;

#[derive(Debug, Default)]
pub(super) struct RelayHeard {
    total: Duration,
    items: VecDeque<(String, Duration)>,
    /// Of calls whose record tells what was said.
    history: Option<History>,
}

/// The part of a client's event that says what it did not play.
#[derive(Deserialize)]
struct Truncate {
    item_id: String,
    audio_end_ms: u64,
}

impl RelayHeard {
    pub(super) fn new(wants_transcript: bool) -> Self {
        Self {
            history: wants_transcript.then(History::default),
            ..Self::default()
        }
    }

    /// An event came from the deployment, with so much reply audio.
    pub(super) fn model_event(&mut self, event: &ModelEvent<'_>, audio: Duration) {
        if let ModelEvent::AudioDelta { item_id, .. } = event {
            self.sent(item_id, audio);
        }
        let Some(history) = &mut self.history else {
            return;
        };
        match event {
            ModelEvent::Committed { item_id } => history.caller_spoke(item_id, None),
            ModelEvent::InputTranscript { item_id, text } => history.caller_words(item_id, text),
            ModelEvent::AudioDelta { item_id, .. } => history.said_audio(SESSION, item_id, audio),
            ModelEvent::OutputTranscriptDelta { item_id, text, .. } => {
                history.said_words(SESSION, item_id, text);
            }
            ModelEvent::OutputTranscript { item_id, text } => {
                history.all_words(SESSION, item_id, text);
            }
            ModelEvent::AudioDone { item_id } => history.said_all(SESSION, item_id),
            _ => {}
        }
    }

    fn sent(&mut self, item_id: &str, audio: Duration) {
        self.total += audio;
        match self.items.iter_mut().rfind(|(id, _)| id == item_id) {
            Some((_, sent)) => *sent += audio,
            None => {
                if self.items.len() == MAX_ITEMS {
                    self.items.pop_front();
                }
                self.items.push_back((item_id.to_owned(), audio));
            }
        }
    }

    /// The client says by this event how much of an item was played.
    pub(super) fn truncated(&mut self, event: &str) {
        let Ok(truncate) = serde_json::from_str::<Truncate>(event) else {
            return;
        };
        let Truncate {
            item_id,
            audio_end_ms,
        } = truncate;
        let mut heard = Duration::from_millis(audio_end_ms);
        if let Some((_, sent)) = self.items.iter_mut().rfind(|(id, _)| *id == item_id) {
            heard = heard.min(*sent);
            self.total -= *sent - heard;
            *sent = heard;
        }
        if let Some(history) = &mut self.history {
            history.cut(SESSION, &item_id, heard);
        }
    }

    pub(super) fn spoken(self) -> Spoken {
        let mut history = self.history.unwrap_or_default();
        Spoken {
            reply_heard: self.total,
            lines: history.lines(),
            left_out: history.take_dropped(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Speaker;

    fn delta(item_id: &str) -> ModelEvent<'_> {
        ModelEvent::AudioDelta {
            response_id: "r",
            item_id,
            content_index: 0,
            audio: "",
        }
    }

    #[test]
    fn what_the_client_did_not_play_was_not_heard() {
        let mut heard = RelayHeard::new(true);
        let ms = Duration::from_millis;
        heard.model_event(&ModelEvent::Committed { item_id: "u" }, ms(0));
        let words = ModelEvent::OutputTranscriptDelta {
            response_id: "r",
            item_id: "a",
            text: "One two three four.",
        };
        heard.model_event(&words, ms(0));
        for _ in 0..10 {
            heard.model_event(&delta("a"), ms(200));
        }
        heard.model_event(&ModelEvent::AudioDone { item_id: "a" }, ms(0));
        let words = ModelEvent::InputTranscript {
            item_id: "u",
            text: "Count.",
        };
        heard.model_event(&words, ms(0));
        heard.truncated(r#"{"item_id":"a","content_index":0,"audio_end_ms":1000}"#);
        // A second word on the same item, and words on items that nobody knows.
        heard.truncated(r#"{"item_id":"a","content_index":0,"audio_end_ms":1500}"#);
        heard.truncated(r#"{"item_id":"x","content_index":0,"audio_end_ms":0}"#);
        heard.truncated("{}");
        heard.model_event(&delta("b"), ms(300));
        let spoken = heard.spoken();
        assert_eq!(spoken.reply_heard, ms(1_300));
        let expected = [
            (Speaker::Caller, "Count.".to_owned()),
            (Speaker::Assistant, "One two".to_owned()),
        ];
        assert_eq!(spoken.lines, expected);
    }

    #[test]
    fn no_words_are_kept_that_nobody_wants() {
        let mut heard = RelayHeard::new(false);
        let words = ModelEvent::OutputTranscriptDelta {
            response_id: "r",
            item_id: "a",
            text: "One",
        };
        heard.model_event(&words, Duration::ZERO);
        heard.model_event(&delta("a"), Duration::from_secs(1));
        let spoken = heard.spoken();
        assert_eq!(
            (spoken.reply_heard.as_secs(), spoken.lines),
            (1, Vec::new())
        );
    }
}
