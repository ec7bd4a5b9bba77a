//! How a reply is stopped because the caller speaks or presses a key, and what the model is told of it.

use std::time::Instant;

use super::heard::Cut;
use super::machine::{Call, Phase, Response};
use super::model::ModelCommand;
use super::output::{Observation, Output};

impl Call {
    /// Stops what the caller hears, and makes the model know how much of it that was.
    pub(super) fn interrupt(&mut self, cancel: bool, now: Instant) {
        if matches!(self.phase, Phase::Farewell { .. }) {
            return;
        }
        // What the caller stopped is not gone on with.
        self.wanted.take_if(|wanted| wanted.continues);
        let unheard = self.heard.remaining(now);
        // A reply that still grows may have begun a frame, even if all whole ones were heard.
        if self.heard.may_be_buffered(now) || !unheard.is_zero() || self.reply_open {
            self.outputs.push_back(Output::Clear);
            self.observe(Observation::BargeIn { unheard });
        }
        if let Response::Active {
            interrupted,
            item,
            item_has_audio,
            ..
        } = &mut self.response
        {
            let was_interrupted = std::mem::replace(interrupted, true);
            // A message without audio yet cannot be truncated, and nobody heard it.
            let unheard = item
                .clone()
                .filter(|_| !*item_has_audio && !was_interrupted);
            if cancel && !was_interrupted {
                self.tell_model(ModelCommand::CancelResponse);
            }
            if let Some(item_id) = unheard {
                self.history.unsaid(self.heard.session(), &item_id);
                self.tell_model(ModelCommand::DeleteItem { item_id });
            }
        }
        let grows = std::mem::take(&mut self.reply_open);
        self.reply_playing = false;
        for cut in self.heard.clear(grows, now) {
            self.tell_cut(cut);
        }
    }

    /// Makes the model know how much was heard of an item. One of an earlier session is known to this one
    /// as a text, if at all.
    fn tell_cut(&mut self, cut: Cut) {
        if cut.item_id.is_empty() {
            return;
        }
        let correction = self.history.cut(cut.session, &cut.item_id, cut.heard);
        if cut.session != self.heard.session() {
            let Some(correction) = correction else { return };
            let item_id = correction.item_id;
            self.tell_model(ModelCommand::DeleteItem { item_id });
            if let Some(heard) = correction.heard {
                self.tell_model(heard);
            }
            return;
        }
        let audio_end_ms = cut.heard.as_millis() as u64;
        if audio_end_ms > 0 {
            self.tell_model(ModelCommand::Truncate {
                item_id: cut.item_id,
                content_index: cut.content_index,
                audio_end_ms,
            });
        } else if cut.content_index == 0 {
            // A truncation to nothing is refused; an item of which nothing was heard was not said.
            self.history.unsaid(cut.session, &cut.item_id);
            self.tell_model(ModelCommand::DeleteItem {
                item_id: cut.item_id,
            });
        }
    }
}
