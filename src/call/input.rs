//! What the call core is told.

use std::time::Duration;

use super::end_reason::EndReason;
use super::event::{Digit, Mark};
use super::model::ModelEvent;
use super::operator::SayMode;
#[cfg(doc)]
use super::output::Output;
use super::replacement::Loss;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The dialect's first message came: formats and parameters are known.
    CallerStarted {
        /// The session is configured already, with these formats.
        configured: bool,
    },
    /// So much audio came from the caller.
    CallerAudio(Duration),
    /// No audio comes from the caller's side for now, which is no sign of trouble.
    CallerPaused,
    /// It comes again.
    CallerResumed,
    /// A key was pressed.
    CallerDtmf(Digit),
    /// A mark came back.
    CallerMark(Mark),
    /// An event came from the deployment.
    Model(&'a ModelEvent<'a>),
    /// Something came in on the model leg, if only a pong.
    ModelAlive,
    /// The model leg failed.
    ModelLost(Loss),
    /// The vendor will end the session in use after so long.
    SessionExpires(Duration),
    /// Another session stands.
    SessionOpened {
        /// It is configured already, with the formats of this call.
        configured: bool,
    },
    /// No deployment gives one now.
    NoSession,
    /// The one that stood ended before it was used.
    SpareLost,
    /// Reply audio, accepted by [`Output::QueueReply`], now waits in the playout queue.
    ReplyQueued {
        /// Its item.
        item_id: &'a str,
        /// Its content part.
        content_index: u32,
        /// How long it is.
        duration: Duration,
        /// How many frames the queue became longer.
        frames: usize,
    },
    /// The begun frame was completed with silence and lengthened the queue by so many frames.
    ReplyPadded(usize),
    /// A tool returned.
    ToolFinished {
        /// The function call that it answers.
        call_id: String,
        /// The result.
        output: String,
    },
    /// The call must end before long: the model is told so, to bring it to an end.
    EndSoon {
        /// In words for the model.
        text: String,
    },
    /// The call is to end in good order and for that reason: the model says good-bye first.
    EndOrderly(EndReason),
    /// An operator wants the model to be told something.
    Say {
        /// What.
        text: String,
        /// In which way.
        mode: SayMode,
    },
    /// The session in use is to be left for another one, as soon as that disturbs nobody.
    LeaveSession,
    /// The caller leg ended, or the shell cannot go on.
    End(EndReason),
}
