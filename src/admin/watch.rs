//! Tells one watcher what becomes of the calls.

use std::collections::{BTreeSet, VecDeque};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::bridge::{CallNews, Calls, LiveCall};

use super::access::Pass;
use super::control_proto as proto;
use super::control_proto::watch_calls_response::Event;
use super::control_view::fits;

/// Calls in one part of a snapshot, so that no message is large.
const PART: usize = 500;

/// See the module's documentation.
pub(super) struct Watcher {
    calls: Calls,
    filter: proto::CallFilter,
    pass: Pass,
    shutdown: CancellationToken,
    news: broadcast::Receiver<CallNews>,
    /// Calls that it was told of. What becomes of them is told also when they fit no more.
    known: BTreeSet<u64>,
    /// What is to be told next.
    ready: VecDeque<Event>,
    is_over: bool,
}

impl Watcher {
    /// One that is told first what there is.
    pub(super) fn new(
        calls: Calls,
        filter: proto::CallFilter,
        pass: Pass,
        shutdown: CancellationToken,
    ) -> Self {
        let watched = calls.watch();
        let mut watcher = Self {
            calls,
            filter,
            pass,
            shutdown,
            news: watched.news,
            known: BTreeSet::new(),
            ready: VecDeque::new(),
            is_over: false,
        };
        watcher.show(&watched.calls);
        watcher
    }

    /// The next event, an error at the end of the process or when what was shown is withdrawn, nothing after it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Result<proto::WatchCallsResponse, Status>> {
        while !self.is_over {
            if let Some(event) = self.ready.pop_front() {
                let event = Some(event);
                return Some(Ok(proto::WatchCallsResponse { event }));
            }
            let news = tokio::select! {
                news = self.news.recv() => news,
                () = self.shutdown.cancelled() => Err(RecvError::Closed),
                () = self.pass.withdrawn() => {
                    self.is_over = true;
                    return Some(Err(Status::unauthenticated("other tokens are asked for now")));
                }
            };
            match news {
                Ok(news) => self.take(&news),
                Err(RecvError::Lagged(events)) => {
                    // What still waits is older than the snapshot.
                    let events = events + self.news.len() as u64;
                    self.ready
                        .push_back(Event::Missed(proto::Missed { events }));
                    let watched = self.calls.watch();
                    self.news = watched.news;
                    self.show(&watched.calls);
                }
                Err(RecvError::Closed) => {
                    self.is_over = true;
                    return Some(Err(Status::unavailable("the gateway stops")));
                }
            }
        }
        None
    }

    /// All calls that there are, as one snapshot in parts.
    fn show(&mut self, calls: &[std::sync::Arc<LiveCall>]) {
        self.known.clear();
        let mut shown = Vec::new();
        for call in calls {
            let snapshot = call.snapshot(false);
            if fits(&self.filter, &snapshot) {
                self.known.insert(call.number());
                shown.push(proto::Call::from(snapshot));
            }
        }
        let mut shown = shown.into_iter().peekable();
        loop {
            let calls: Vec<_> = shown.by_ref().take(PART).collect();
            let has_more = shown.peek().is_some();
            let part = proto::Snapshot { calls, has_more };
            self.ready.push_back(Event::Snapshot(part));
            if !has_more {
                return;
            }
        }
    }

    fn take(&mut self, news: &CallNews) {
        let (CallNews::Began(call) | CallNews::Changed(call) | CallNews::Ended(call)) = news;
        let snapshot = call.snapshot(false);
        let is_known = self.known.contains(&call.number());
        if !is_known && !fits(&self.filter, &snapshot) {
            return;
        }
        let snapshot = proto::Call::from(snapshot);
        let event = match news {
            CallNews::Ended(_) if !self.known.remove(&call.number()) => return,
            CallNews::Ended(_) => Event::Ended(snapshot),
            CallNews::Changed(_) if is_known => Event::Changed(snapshot),
            CallNews::Began(_) | CallNews::Changed(_) => {
                self.known.insert(call.number());
                Event::Began(snapshot)
            }
        };
        self.ready.push_back(event);
    }
}
