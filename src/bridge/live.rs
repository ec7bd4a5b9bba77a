//! What others may see of a live call, and what they may tell it.
//!
//! A call writes here when a turn, a session or the call itself begins or ends, never for a frame. Whoever looks takes a
//! copy; whoever watches and does not keep up loses events, and the call waits for nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::call::{EndReason, SayMode, TurnLatency, Usage};
use crate::quota::CallLease;

use super::order::{Order, OrderError, Orders};
use super::registry::Calls;

/// Moments that a live call remembers.
pub const MAX_MOMENTS: usize = 64;

/// Orders that may wait for a call, which takes them as soon as it wakes.
const MAX_ORDERS: usize = 8;

/// Who drives a call's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conductor {
    /// The gateway, for a phone or an audio client.
    Gateway,
    /// The caller, an SDK client.
    Caller,
}

/// How far a live call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivePhase {
    /// The caller's dialect has not begun the call.
    Connected,
    /// The two can talk.
    Talking,
    /// The session failed, and another one is looked for.
    Replacing,
    /// The good-bye is being said.
    Ending,
    /// It is over.
    Ended,
}

/// Something that happened in a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// The first reply audio went out, so long after the answer.
    FirstAudio(Duration),
    /// The reply to a turn began.
    Turn(TurnLatency),
    /// The caller interrupted; so much of the reply was not heard.
    BargeIn(Duration),
    /// The session was lost, for that cause.
    SessionLost(&'static str),
    /// The call went on at that deployment.
    SessionOpened(String),
    /// An operator had something said.
    Said(SayMode),
}

/// When something happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Since the call began.
    pub at: Duration,
    /// What.
    pub what: Happened,
}

/// What stays the same while a call lasts.
#[derive(Clone, Debug)]
pub struct CallFacts {
    /// The gateway's id of the call.
    pub call_id: String,
    /// Whose it is.
    pub tenant: String,
    /// The agent that answers, or the model or pool that was asked for.
    pub route: String,
    /// The caller's dialect.
    pub dialect: &'static str,
    /// Who drives the session.
    pub conductor: Conductor,
}

/// What changes.
#[derive(Clone, Debug)]
pub struct CallProgress {
    /// The deployment that serves it now.
    pub deployment: String,
    /// The vendor's id of the session.
    pub session_id: String,
    /// Sessions so far.
    pub n_sessions: u32,
    /// How far it is.
    pub phase: LivePhase,
    /// Why it is ending or has ended.
    pub end_reason: Option<EndReason>,
    /// How long it took, once it is over.
    pub lasted: Option<Duration>,
    /// Answered turns.
    pub n_turns: u64,
    /// The last of them.
    pub last_turn: Option<TurnLatency>,
    /// From the answer to the first reply audio on the wire.
    pub first_audio: Option<Duration>,
    /// How often the caller interrupted.
    pub n_barge_ins: u64,
    /// Tokens of all responses.
    pub usage: Usage,
    /// The last [`MAX_MOMENTS`] that there were, oldest first.
    pub timeline: VecDeque<Moment>,
}

/// A copy of what is known of a call.
#[derive(Clone, Debug)]
pub struct CallSnapshot {
    /// What stays.
    pub facts: Arc<CallFacts>,
    /// When the call began.
    pub began_at: SystemTime,
    /// For how long it has been there.
    pub lasts: Duration,
    /// What changes.
    pub progress: CallProgress,
}

/// A call in the register.
#[derive(Debug)]
pub struct LiveCall {
    /// Its place in the order of all calls of the process.
    number: u64,
    facts: Arc<CallFacts>,
    began_at: SystemTime,
    began: Instant,
    /// Written by the call itself.
    progress: Mutex<CallProgress>,
    orders: mpsc::Sender<Order>,
    /// The thread that runs it.
    thread: Thread,
}

/// What watchers hear. Of what has become of the call since they see the latest.
#[derive(Clone, Debug)]
pub enum CallNews {
    /// It is there.
    Began(Arc<LiveCall>),
    /// Something about it is other than before.
    Changed(Arc<LiveCall>),
    /// It is over.
    Ended(Arc<LiveCall>),
}

impl LiveCall {
    /// Its place in the order of all calls of the process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What stays the same.
    #[must_use]
    pub fn facts(&self) -> &CallFacts {
        &self.facts
    }

    /// Whether the thread of that name runs it.
    pub(super) fn is_on(&self, thread: &str) -> bool {
        self.thread.name() == Some(thread)
    }

    /// The deployment that serves it now.
    #[must_use]
    pub fn is_at(&self, deployment: &str) -> bool {
        self.lock().deployment == deployment
    }

    /// All that is known now, the timeline only if it is wanted.
    #[must_use]
    pub fn snapshot(&self, with_timeline: bool) -> CallSnapshot {
        let progress = self.lock();
        let timeline = match with_timeline {
            true => progress.timeline.clone(),
            false => VecDeque::new(),
        };
        let progress = CallProgress {
            deployment: progress.deployment.clone(),
            session_id: progress.session_id.clone(),
            timeline,
            ..*progress
        };
        CallSnapshot {
            facts: Arc::clone(&self.facts),
            began_at: self.began_at,
            lasts: progress.lasted.unwrap_or_else(|| self.began.elapsed()),
            progress,
        }
    }

    /// Has the call do something. Whether it could, it says itself where that is wanted.
    pub(super) fn order(&self, order: Order) -> Result<(), OrderError> {
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderError::Busy,
            mpsc::error::TrySendError::Closed(_) => OrderError::Ended,
        })
    }

    fn lock(&self) -> MutexGuard<'_, CallProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's own entry in the register, which lasts as long as this.
#[derive(Debug)]
pub(super) struct Listing {
    call: Arc<LiveCall>,
    calls: Calls,
}

impl Calls {
    /// Enters a call that begins now at this session.
    pub(super) fn list(
        &self,
        (call_id, dialect): (&str, &'static str),
        conductor: Conductor,
        lease: &CallLease,
        (deployment, session_id): (&str, &str),
    ) -> (Listing, Orders) {
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let phase = match conductor {
            Conductor::Gateway => LivePhase::Connected,
            Conductor::Caller => LivePhase::Talking,
        };
        let call = LiveCall {
            number: self.next_number(),
            facts: Arc::new(CallFacts {
                call_id: call_id.to_owned(),
                tenant: lease.tenant().to_owned(),
                route: lease.route().to_owned(),
                dialect,
                conductor,
            }),
            began_at: SystemTime::now(),
            began: Instant::now(),
            progress: Mutex::new(CallProgress {
                deployment: deployment.to_owned(),
                session_id: session_id.to_owned(),
                n_sessions: 1,
                phase,
                end_reason: None,
                lasted: None,
                n_turns: 0,
                last_turn: None,
                first_audio: None,
                n_barge_ins: 0,
                usage: Usage::default(),
                timeline: VecDeque::new(),
            }),
            orders,
            thread: thread::current(),
        };
        let call = Arc::new(call);
        self.enter(&call);
        let listing = Listing {
            call,
            calls: self.clone(),
        };
        (listing, Orders::new(self.told_to_end(), ordered))
    }
}

impl Listing {
    /// The caller's dialect began the call.
    pub(super) fn answered(&self) {
        self.change(|call| call.phase = LivePhase::Talking);
    }

    pub(super) fn first_audio(&self, after: Duration) {
        self.happened(Happened::FirstAudio(after), |call| {
            call.first_audio = Some(after);
        });
    }

    pub(super) fn turn(&self, turn: TurnLatency) {
        self.happened(Happened::Turn(turn), |call| {
            call.n_turns += 1;
            call.last_turn = Some(turn);
        });
        self.calls.answered(turn.latency);
    }

    pub(super) fn barged_in(&self, unheard: Duration) {
        self.happened(Happened::BargeIn(unheard), |call| call.n_barge_ins += 1);
    }

    /// A response took so many tokens.
    pub(super) fn used(&self, usage: &Usage) {
        self.change(|call| call.usage.add(usage));
    }

    pub(super) fn session_lost(&self, cause: &'static str) {
        self.happened(Happened::SessionLost(cause), |call| {
            if call.phase == LivePhase::Talking {
                call.phase = LivePhase::Replacing;
            }
        });
    }

    /// The call goes on at another session.
    pub(super) fn moved(&self, deployment: &str, session_id: &str) {
        let opened = Happened::SessionOpened(deployment.to_owned());
        self.happened(opened, |call| {
            deployment.clone_into(&mut call.deployment);
            session_id.clone_into(&mut call.session_id);
            call.n_sessions += 1;
            if call.phase == LivePhase::Replacing {
                call.phase = LivePhase::Talking;
            }
        });
    }

    pub(super) fn said(&self, mode: SayMode) {
        self.happened(Happened::Said(mode), |_| {});
    }

    /// It is to end for that reason, after a good-bye.
    pub(super) fn ends_for(&self, reason: EndReason) {
        self.change(|call| {
            call.phase = LivePhase::Ending;
            call.end_reason = Some(reason);
        });
    }

    /// It ended; watchers hear of it when this is dropped.
    pub(super) fn ended(&self, reason: EndReason) {
        self.call.lock().end_reason = Some(reason);
    }

    fn happened(&self, what: Happened, change: impl FnOnce(&mut CallProgress)) {
        let at = self.call.began.elapsed();
        self.change(|call| {
            if call.timeline.len() == MAX_MOMENTS {
                call.timeline.pop_front();
            }
            call.timeline.push_back(Moment { at, what });
            change(call);
        });
    }

    fn change(&self, change: impl FnOnce(&mut CallProgress)) {
        change(&mut self.call.lock());
        self.calls.tell(CallNews::Changed(Arc::clone(&self.call)));
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        {
            let mut progress = self.call.lock();
            progress.phase = LivePhase::Ended;
            progress.lasted = Some(self.call.began.elapsed());
            // Only a panic, or the end of the whole process, leaves none.
            progress.end_reason.get_or_insert(EndReason::Internal);
        }
        self.calls.leave(&self.call);
    }
}

/// The live calls in the order in which they began, and what becomes of them from then on.
#[derive(Debug)]
pub struct Watched {
    /// Those that are there.
    pub calls: Vec<Arc<LiveCall>>,
    /// Nothing that happens to them or to others is missing, unless it says so.
    pub news: broadcast::Receiver<CallNews>,
}
