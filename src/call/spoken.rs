//! What was said in a call that is over, and how much of the reply was heard.

use std::time::{Duration, Instant};

use super::event::Speaker;
use super::machine::Call;

/// What a record may tell of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Reply audio that the caller heard.
    pub reply_heard: Duration,
    /// The words that are known, in their order; the assistant's as far as they were heard.
    pub lines: Vec<(Speaker, String)>,
    /// How many of the first things were forgotten to make room, beyond those that were observed as such.
    pub left_out: u64,
}

impl Call {
    /// What was said and heard until now. What was not heard by now never will be.
    pub fn spoken(&mut self, now: Instant) -> Spoken {
        let reply_heard = self.heard.total(now);
        for cut in self.heard.clear(self.reply_open, now) {
            self.history.cut(cut.session, &cut.item_id, cut.heard);
        }
        Spoken {
            reply_heard,
            lines: self.history.lines(),
            left_out: self.history.take_dropped(),
        }
    }
}
