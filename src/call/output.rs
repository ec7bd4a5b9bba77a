//! What the call core wants done.

use std::time::Duration;

use super::caller_audio::Span;
use super::end_reason::EndReason;
use super::event::{Mark, Speaker};
#[cfg(doc)]
use super::input::Input;
use super::model::ModelCommand;
use super::race::BenignRace;
use super::replacement::Loss;
use super::turn::TurnLatency;

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this to the deployment.
    ToModel(ModelCommand),
    /// Send on the caller audio that was just reported, and keep it.
    AppendAudio,
    /// Only keep it: there is no session now.
    KeepAudio,
    /// Send so much silence to the deployment, and keep it.
    AppendSilence(Duration),
    /// Only keep it.
    KeepSilence(Duration),
    /// That caller audio is needed no more.
    ForgetAudio(Span),
    /// Send that caller audio again, at once.
    ReplayAudio(Span),
    /// Add that caller audio to the conversation as a message.
    ReplayItem(Span),
    /// The session is of no more use: leave it.
    LoseSession(Loss),
    /// Open another session, and report by [`Input::SessionOpened`] or [`Input::NoSession`].
    OpenSession,
    /// Use the session that was opened, in place of the one in use if there is one.
    UseSession,
    /// Put the apology into the playout queue, and say so by [`Input::ReplyQueued`].
    Apologise,
    /// Put the reply audio that was just reported into the playout queue, and say so by [`Input::ReplyQueued`].
    QueueReply,
    /// The reply is complete: pad its last frame, and say so by [`Input::ReplyPadded`].
    PadReply,
    /// Send the first frames of the playout queue to the caller, then the mark.
    Play {
        /// How many frames.
        frames: usize,
        /// A mark to send behind them.
        mark: Option<Mark>,
    },
    /// Tell the caller to throw away what it has not played, then empty the playout queue.
    Clear,
    /// Tell the caller what was said; the words are in the event that was just reported.
    Transcript(Speaker),
    /// Run a tool, and report by [`Input::ToolFinished`].
    RunTool {
        /// Names the function call.
        call_id: String,
        /// The tool.
        name: String,
        /// Its arguments, a JSON text.
        arguments: String,
    },
    /// Count this.
    Observe(Observation),
    /// Close both legs. Comes once, and nothing after it.
    End(EndReason),
}

/// A fact for the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation {
    /// The first reply frame left so long after the call was answered.
    FirstAudio(Duration),
    /// The first frame of an answer left.
    Turn(TurnLatency),
    /// The caller interrupted the reply when so much of it was unheard.
    BargeIn {
        /// Audio that was thrown away.
        unheard: Duration,
    },
    /// A frame left so long after its deadline.
    FrameLate(Duration),
    /// The playout queue ran dry in the middle of a reply.
    Underrun,
    /// Silence was put in place of caller audio.
    SilenceFilled(Duration),
    /// Caller audio was dropped, being too far ahead of real time.
    CallerAudioDropped(Duration),
    /// A race that the protocol makes unavoidable was lost, without harm.
    BenignRace(BenignRace),
    /// A failed response was asked for again.
    ResponseRetried,
    /// Another session took the place of one that failed.
    SessionReplaced(Loss),
    /// None did.
    SessionNotReplaced(Loss),
    /// Another session took the place of one whose cap was near.
    SessionRotated,
    /// An answer was due, and nothing was played for so long, because a session had to be found that could be asked for it.
    SessionGap(Duration),
    /// Caller audio that no session has turned into an item was given up.
    CarriedAudioDropped(Duration),
    /// So many things were left out of what a session is told.
    HistoryDropped(u64),
}
