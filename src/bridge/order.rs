//! What a call is told from outside: by operators, and by the process that goes away.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::call::{EndReason, Input, SayMode};

use super::conduct::{Conduct, Current};
use super::live::{Conductor, LiveCall};
use super::registry::ToldToEnd;
use super::relay::Relay;

/// A call that does not say within this what became of an order has no time for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a call is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// End: the process goes away.
    Drain,
    /// End, because an operator wants it; the model says good-bye first where that is asked for and can be.
    End { say_goodbye: bool },
    /// Tell the model something.
    Say {
        text: String,
        mode: SayMode,
        told: oneshot::Sender<Result<(), OrderError>>,
    },
    /// Go on at another deployment.
    LeaveDeployment,
}

/// Why a call does not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It is over.
    #[error("the call has ended")]
    Ended,
    /// It has not yet done what it was told before.
    #[error("the call is busy with other orders")]
    Busy,
    /// An SDK client drives the session.
    #[error("the caller conducts this call itself")]
    CallerConducts,
    /// It has not begun, it ends, or it has no session for now.
    #[error("the call is not in conversation now")]
    NotTalking,
    /// What the model says now would be an answer to the caller.
    #[error("the caller is speaking")]
    CallerSpeaks,
}

impl LiveCall {
    /// Ends the call; with a good-bye of the model's where one is asked for and the gateway conducts the call.
    ///
    /// # Errors
    ///
    /// If it has ended, or has too much to do.
    pub fn end(&self, say_goodbye: bool) -> Result<(), OrderError> {
        self.order(Order::End { say_goodbye })
    }

    /// Tells the model something.
    ///
    /// # Errors
    ///
    /// If that cannot be done now.
    pub async fn say(&self, text: String, mode: SayMode) -> Result<(), OrderError> {
        if self.facts().conductor == Conductor::Caller {
            return Err(OrderError::CallerConducts);
        }
        let (told, answer) = oneshot::channel();
        self.order(Order::Say { text, mode, told })?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(OrderError::Ended),
            Err(_) => Err(OrderError::Busy),
        }
    }

    /// Has the call go on at another deployment, as soon as nobody is interrupted by it and where there is another.
    ///
    /// # Errors
    ///
    /// If it has ended, or has too much to do.
    pub fn leave_deployment(&self) -> Result<(), OrderError> {
        self.order(Order::LeaveDeployment)
    }
}

/// Where a call hears its orders.
pub(super) struct Orders {
    end: ToldToEnd,
    orders: mpsc::Receiver<Order>,
}

impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").finish_non_exhaustive()
    }
}

impl Orders {
    pub(super) fn new(end: ToldToEnd, orders: mpsc::Receiver<Order>) -> Self {
        Self { end, orders }
    }

    /// Cancel safe. Not to be called again after [`Order::Drain`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        // The register holds the sender for as long as there is a call.
        if let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            return Poll::Ready(order);
        }
        self.end.as_mut().poll(cx).map(|()| Order::Drain)
    }
}

impl Conduct {
    pub(super) fn ordered(&mut self, order: Order, now: Instant) {
        match order {
            Order::Drain => self.input(Input::End(EndReason::Drained), Current::Other, now),
            Order::End { say_goodbye: true } => self.end_orderly(EndReason::Operator, now),
            Order::End { say_goodbye: false } => {
                self.input(Input::End(EndReason::Operator), Current::Other, now);
            }
            Order::Say { text, mode, told } => {
                // Whoever does not wait for the answer any more does not get it.
                let _ = told.send(self.say(text, mode, now));
            }
            Order::LeaveDeployment => self.input(Input::LeaveSession, Current::Other, now),
        }
    }

    /// The model says good-bye first.
    pub(super) fn end_orderly(&mut self, reason: EndReason, now: Instant) {
        self.ledger.listing.ends_for(reason);
        self.input(Input::EndOrderly(reason), Current::Other, now);
    }

    fn say(&mut self, text: String, mode: SayMode, now: Instant) -> Result<(), OrderError> {
        if !self.core.is_talking() {
            return Err(OrderError::NotTalking);
        }
        if mode == SayMode::Verbatim && self.core.caller_speaks() {
            return Err(OrderError::CallerSpeaks);
        }
        self.ledger.listing.said(mode);
        self.input(Input::Say { text, mode }, Current::Other, now);
        Ok(())
    }
}

impl Relay {
    pub(super) fn ordered(&mut self, order: Order, now: Instant) {
        match order {
            Order::Drain => self.end(EndReason::Drained),
            Order::End { .. } => self.end(EndReason::Operator),
            // Dropped unsaid, whoever waits hears that nothing comes; `LiveCall::say` sends none here.
            Order::Say { told, .. } => drop(told.send(Err(OrderError::CallerConducts))),
            Order::LeaveDeployment => {
                if let Some(carry) = &mut self.carry {
                    carry.leave_deployment(now);
                }
            }
        }
    }
}
