//! How a conducted call's session is replaced: opens the next one beside the call, swaps the legs, sends
//! again what the core says, and lets go of the old session without waiting for it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::{EndReason, Input, Loss, Span};
use crate::media::{MediaError, Replay};
use crate::realtime::{append_bytes_into, create_user_audio};
use crate::upstream::{
    Decoder, DialError, Place, Session, SessionFormats, SessionRequest, SessionSetup, Trouble,
};

use super::conduct::{Conduct, Current};
use super::leg::{Leg, LegEvent, SendError};
use super::media_path::session_format;
use super::opening::SessionSource;

/// Audio in one append event when it is sent again: larger ones would hold up what comes after them, and the
/// vendor takes 15 MiB (protocol reference 1.6).
const REPLAY_STEP: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<Session, DialError>> + Send>>;

/// A session that waits until the call wants it. It is read meanwhile, so that its end is noticed and its pings answered.
struct Next {
    leg: Leg,
    place: Place,
    configured: Option<SessionFormats>,
    session_id: String,
    ends_at: Option<Instant>,
    setup: SessionSetup,
}

/// What became of a session that was asked for.
pub(super) enum Came {
    /// It stands, or none does.
    Opened(Box<Result<Session, DialError>>),
    /// It stood, and ended before it was used.
    Lost,
}

/// Where the call's sessions come from and go to.
pub(super) struct Sessions {
    source: SessionSource,
    /// Whose sessions they are.
    standby_line: String,
    /// Dropped with the call: nobody would want what it yields.
    opening: Option<Opening>,
    /// Opened, and not used yet.
    next: Option<Next>,
    /// Deployments that failed since the last good response.
    avoid: Vec<String>,
    /// Old sessions being taken leave of. Their place is held until then.
    closing: JoinSet<()>,
    /// Caller audio, in case the session fails.
    pub(super) kept: Replay,
}

impl Sessions {
    pub(super) fn new(source: SessionSource, standby_line: String) -> Self {
        Self {
            source,
            standby_line,
            opening: None,
            next: None,
            avoid: Vec::new(),
            closing: JoinSet::new(),
            kept: Replay::default(),
        }
    }

    /// Cancel safe.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        while let Poll::Ready(Some(_)) = self.closing.poll_join_next(cx) {}
        if let Some(next) = &mut self.next {
            // It was asked for nothing, so that it has nothing to say.
            while let Poll::Ready(event) = next.leg.poll_event(cx) {
                if !matches!(event, LegEvent::Text(_) | LegEvent::Binary(_)) {
                    self.next = None;
                    return Poll::Ready(Came::Lost);
                }
            }
            let _ = next.leg.poll_flush(cx);
        }
        let Some(opening) = &mut self.opening else {
            return Poll::Pending;
        };
        let opened = std::task::ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(Came::Opened(Box::new(opened)))
    }

    fn open(&mut self) {
        let source = self.source.clone();
        let request = SessionRequest {
            avoid: self.avoid.clone(),
            standby_line: Some(self.standby_line.clone()),
            ..SessionRequest::default()
        };
        self.opening = Some(Box::pin(async move { source.open(&request).await }));
    }

    fn leave(&mut self, leg: Option<Leg>, place: Option<Place>) {
        if let Some(leg) = leg {
            self.closing.spawn(async move {
                leg.close(1000, "").await;
                drop(place);
            });
        }
    }

    /// A response went well: whatever failed before may be asked again.
    pub(super) fn succeeded(&mut self) {
        self.avoid.clear();
    }

    /// Says good-bye to all that is still there.
    pub(super) async fn close(mut self) {
        self.opening = None;
        if let Some(next) = self.next.take() {
            self.leave(Some(next.leg), Some(next.place));
        }
        while self.closing.join_next().await.is_some() {}
    }
}

/// What the deployment is told to have done; an old session's cap is no trouble.
fn trouble(loss: Loss, retry_after: Option<Duration>) -> Option<Trouble> {
    match loss {
        Loss::Closed => Some(Trouble::Closed),
        Loss::Gone => Some(Trouble::Gone),
        Loss::Protocol | Loss::Rejected => Some(Trouble::Protocol),
        Loss::Stalled => Some(Trouble::Stalled),
        Loss::Unauthorized => Some(Trouble::Unauthorized),
        Loss::ServerError => Some(Trouble::ServerError),
        Loss::RateLimited => Some(Trouble::RateLimited(retry_after)),
        Loss::Expired => None,
    }
}

impl Conduct {
    pub(super) fn model_lost(&mut self, loss: Loss, now: Instant) {
        self.input(Input::ModelLost(loss), Current::Other, now);
    }

    /// Tells the core when the session ends by itself.
    pub(super) fn note_cap(&mut self, ends_at: Option<Instant>, now: Instant) {
        if let Some(ends_at) = ends_at {
            let expires = Input::SessionExpires(ends_at.saturating_duration_since(now));
            self.core.handle_input(expires, now.into_std());
        }
    }

    pub(super) fn lose_session(&mut self, loss: Loss) {
        let deployment = self.place.deployment().name().to_owned();
        tracing::info!(
            deployment,
            session_id = self.ledger.session_id(),
            cause = loss.name(),
            "the session is lost, the call goes on"
        );
        if let Some(trace) = self.ledger.trace() {
            trace.session_lost(loss.name());
        }
        self.ledger.listing.session_lost(loss.name());
        if let Some(trouble) = trouble(loss, self.ledger.retry_after) {
            self.place.report(trouble);
        }
        if !self.sessions.avoid.contains(&deployment) {
            self.sessions.avoid.push(deployment);
        }
        let leg = self.legs.model.take();
        // The place stays with the call until another one takes over: it says where the call was.
        self.sessions.leave(leg, None);
    }

    pub(super) fn open_session(&mut self) {
        self.sessions.open();
    }

    pub(super) fn session_came(&mut self, came: Came, now: Instant) {
        let opened = match came {
            Came::Opened(opened) => *opened,
            Came::Lost => return self.input(Input::SpareLost, Current::Other, now),
        };
        let input = match opened {
            Ok(session) => {
                let configured = self
                    .formats_at(&session.place)
                    .is_some_and(|formats| session.configured == Some(formats));
                self.sessions.next = Some(Next {
                    session_id: super::session_id(&session.leg.session_created),
                    ends_at: session.leg.ends_at,
                    setup: session.leg.setup,
                    leg: Leg::new(session.leg.socket),
                    place: session.place,
                    configured: session.configured,
                });
                Input::SessionOpened { configured }
            }
            Err(error) => {
                tracing::warn!(%error, "no deployment gave another session");
                Input::NoSession
            }
        };
        self.input(input, Current::Other, now);
    }

    /// The formats of this call's audio at a deployment, once they are known.
    pub(super) fn formats_at(&self, place: &Place) -> Option<SessionFormats> {
        let (input, output) = self.media.as_ref()?.caller_formats();
        let audio = place.deployment().audio();
        Some(SessionFormats {
            input: session_format(input, audio),
            output: session_format(output, audio),
        })
    }

    /// From now on the session that was opened is the call's.
    pub(super) fn use_session(&mut self, now: Instant) {
        let Some(next) = self.sessions.next.take() else {
            return;
        };
        let Next {
            leg,
            place,
            configured,
            session_id,
            ends_at,
            setup,
        } = next;
        let from = self.place.deployment().name().to_owned();
        let deployment = place.deployment().name();
        tracing::info!(
            from,
            deployment,
            session_id,
            "the call goes on at another session"
        );
        let metrics = self.ledger.metrics.at(deployment);
        self.ledger
            .moved(metrics, place.deployment(), &setup, session_id);
        let old_leg = self.legs.replace_model(leg);
        let old_place = std::mem::replace(&mut self.place, place);
        self.sessions.leave(old_leg, Some(old_place));
        self.decoder = Decoder::new();
        self.configured_at = None;
        self.formats = self.formats_at(&self.place);
        self.configured = configured;
        let audio = self.place.deployment().audio();
        if let Some(media) = &mut self.media
            && let Err(error) = media.serve(audio)
        {
            tracing::error!(%error, "the caller's codec is there no more");
            self.ended = Some(EndReason::Internal.into());
        }
        self.note_cap(ends_at, now);
    }

    /// Sends caller audio again, faster than it was spoken.
    pub(super) fn replay_audio(&mut self, span: Span) {
        let Some((bytes, step)) = self.replayed(span) else {
            return;
        };
        let mut append = String::new();
        for part in bytes.chunks(step) {
            append.clear();
            append_bytes_into(&mut append, part);
            self.send_model(&append);
        }
    }

    /// Makes a message of caller audio that no session has put into words.
    pub(super) fn replay_item(&mut self, span: Span) {
        let Some((bytes, _)) = self.replayed(span) else {
            return;
        };
        self.n_commands += 1;
        let event = create_user_audio(&bytes, &format!("audio-{}", self.n_commands));
        self.send_model(&event);
    }

    /// Kept audio in the session's form, and how many bytes of it are sent at a time.
    fn replayed(&mut self, span: Span) -> Option<(Vec<u8>, usize)> {
        let media = self.media.as_ref()?;
        match media.replayed(&mut self.sessions.kept, span) {
            Ok(bytes) => {
                self.ledger.metrics.replayed(span.length());
                Some((bytes, media.n_bytes(REPLAY_STEP)))
            }
            Err(error) => {
                tracing::error!(%error, "kept audio cannot be sent again");
                None
            }
        }
    }

    /// Says to the caller that the call cannot go on.
    pub(super) fn apologise(&mut self, now: Instant) {
        let queued = match &mut self.media {
            Some(media) => media.queue_clip(&self.agent.apology),
            None => Ok(0),
        };
        let frames = queued.unwrap_or_else(|error: MediaError| {
            tracing::error!(%error, "the apology cannot be said");
            0
        });
        let queued = Input::ReplyQueued {
            item_id: "",
            content_index: 0,
            duration: self.agent.apology.duration(),
            frames,
        };
        self.core.handle_input(queued, now.into_std());
    }

    pub(super) fn send_model(&mut self, text: &str) {
        // A leg that is gone says so when it is read.
        if self.legs.model.send_text(text) == Err(SendError::Full) {
            self.overfull = true;
        }
    }
}
