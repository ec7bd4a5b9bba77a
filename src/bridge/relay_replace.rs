//! How a relayed call's session is replaced: when its deployment fails, or the vendor's cap comes near. The caller's
//! socket stays, what it sends meanwhile waits in the mirror, and the next session is told what the last one knew.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::call::{EndReason, Loss, ModelEvent};
use crate::realtime::{Mirror, Seam, ServerEvent, Shape, Shown, error_event};
use crate::upstream::{Decoder, DialError, Place, Session, SessionRequest, Trouble};

use super::leg::Leg;
use super::legs::End;
use super::opening::SessionSource;
use super::relay::Relay;
use super::summary::ROTATION;

/// A response that is due for so long without a word is not coming (faults reference 6).
const STALL: Duration = Duration::from_secs(8);

/// The caller waits no longer for another session.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Sessions that may fail in a row, without a response between them.
const MAX_FAILURES: u32 = 5;

/// Responses that a deployment may fail to give in a row before it is left.
const MAX_FAULTS: u32 = 2;

/// A session that held for so long did not fail because the one before it did.
const HELD: Duration = Duration::from_secs(30);

/// Waits before the next attempt, by how many failed in a row; the last one repeats.
const BACKOFF_MS: [u64; 4] = [0, 250, 500, 1_000];

/// How long before its cap a session's successor is opened, and when at the latest it takes over; less in sessions
/// that are hardly longer (faults reference 11).
const ROTATE_AHEAD: Duration = Duration::from_secs(60);
const ROTATE_LATEST: Duration = Duration::from_secs(5);

/// What a successor that could not be had is waited for before the next attempt.
const ROTATE_AGAIN: Duration = Duration::from_secs(5);

type Opening = Pin<Box<dyn Future<Output = Result<Opened, DialError>> + Send>>;

/// A session that stands and is set.
struct Opened {
    session: Session,
    early: Vec<Utf8Bytes>,
    /// The event that set it.
    settings: Option<String>,
}

impl Opened {
    fn is_at(&self, deployment: &str) -> bool {
        self.session.place.deployment().name() == deployment
    }
}

/// What it takes to go on at another session.
pub(super) struct Carry {
    source: SessionSource,
    transcribes: bool,
    pub(super) mirror: Mirror<Utf8Bytes>,
    pub(super) seam: Seam,
    /// Since when there is no session, why, and how the call would end.
    lost: Option<(Instant, Loss, End)>,
    /// Dropped with the call.
    opening: Option<Opening>,
    /// Opened ahead of the cap.
    next: Option<Opened>,
    avoid: Vec<String>,
    n_failures: u32,
    up_since: Instant,
    /// Old sessions being taken leave of.
    closing: JoinSet<()>,
    /// When the next one is to be opened, and when it takes over at the latest.
    rotate: Option<(Instant, Instant)>,
    heard_at: Instant,
    due_since: Option<Instant>,
    /// Responses in a row that the present session's deployment could not give.
    n_faults: u32,
    /// Its deployment gives no answers: another session takes over as soon as nothing is disturbed.
    leaves_for: Option<Loss>,
    /// Until when the audio that the caller was sent lasts, if it is played as it comes.
    played_until: Instant,
    /// From when on the caller hears nothing and an answer is due that a lost session owed.
    silent_from: Option<Instant>,
}

impl Carry {
    pub(super) fn new(
        source: SessionSource,
        transcribes: bool,
        mirror: Mirror<Utf8Bytes>,
        session_id: &str,
        now: Instant,
    ) -> Self {
        Self {
            source,
            transcribes,
            mirror,
            seam: Seam::new(session_id),
            lost: None,
            opening: None,
            next: None,
            avoid: Vec::new(),
            n_failures: 0,
            up_since: now,
            closing: JoinSet::new(),
            rotate: None,
            heard_at: now,
            due_since: None,
            n_faults: 0,
            leaves_for: None,
            played_until: now,
            silent_from: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Opened, DialError>> {
        while let Poll::Ready(Some(_)) = self.closing.poll_join_next(cx) {}
        let Some(opening) = &mut self.opening else {
            return Poll::Pending;
        };
        let opened = std::task::ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(opened)
    }

    fn open(&mut self) {
        let source = self.source.clone();
        let request = SessionRequest {
            transcription: self.transcribes,
            avoid: self.avoid.clone(),
            ..SessionRequest::default()
        };
        let settings = [Shape::Ga, Shape::Preview].map(|shape| self.mirror.update(shape));
        let n_failures = self.n_failures.saturating_sub(1);
        self.opening = Some(Box::pin(open(source, request, settings, n_failures)));
    }

    fn avoid(&mut self, deployment: String) {
        if !self.avoid.contains(&deployment) {
            self.avoid.push(deployment);
        }
    }

    fn leave(&mut self, leg: Option<Leg>, place: Option<Place>) {
        if let Some(leg) = leg {
            self.closing.spawn(async move {
                leg.close(1000, "").await;
                drop(place);
            });
        }
    }

    /// Whether the caller has to wait until there is a session again.
    pub(super) fn holds_caller(&self) -> bool {
        self.lost.is_some() && self.mirror.is_full()
    }

    /// Notes whether an answer is due, since when; says what has to be done next, and when.
    pub(super) fn wake_at(&mut self, now: Instant) -> Option<Instant> {
        if let Some((since, ..)) = &self.lost {
            return Some(*since + GIVE_UP);
        }
        match self.mirror.is_due() {
            true => _ = self.due_since.get_or_insert(now),
            false => self.due_since = None,
        }
        let rotate = self.rotate.map(|(open, latest)| match self.next {
            Some(_) => latest,
            None => open,
        });
        let rotate = rotate.filter(|_| self.opening.is_none());
        self.stall_at().into_iter().chain(rotate).min()
    }

    fn stall_at(&self) -> Option<Instant> {
        Some(self.due_since?.max(self.heard_at) + STALL)
    }

    /// A session began that will end then.
    pub(super) fn began(&mut self, ends_at: Option<Instant>, now: Instant) {
        self.rotate = ends_at.map(|ends_at| {
            let life = ends_at.saturating_duration_since(now);
            let ahead = ROTATE_AHEAD.min(life / 2);
            let latest = ROTATE_LATEST.min(life / 4);
            (ends_at - ahead, ends_at - latest)
        });
    }

    /// Another session takes over as if the cap of this one were near.
    pub(super) fn leave_deployment(&mut self, now: Instant) {
        let latest = now + ROTATE_AHEAD;
        let latest = self.rotate.map_or(latest, |(_, at)| at.min(latest));
        if self.lost.is_none() && self.next.is_none() {
            self.rotate = Some((now, latest));
        }
    }

    /// An event came from the deployment.
    pub(super) fn heard(&mut self, event: &ServerEvent<'_>, text: &str, now: Instant) {
        self.heard_at = now;
        self.mirror.server_event(event, text);
        if let ServerEvent::ResponseDone(response) = event
            && &*response.status == "completed"
        {
            self.succeeded();
        }
    }

    /// Whatever failed before may be asked again.
    fn succeeded(&mut self) {
        self.n_failures = 0;
        self.n_faults = 0;
        self.avoid.clear();
    }

    /// The deployment could not give a response. After one refused for want of quota, and after two in a row that failed,
    /// the next turn is another deployment's (faults reference 12), if there is one.
    fn failed(&mut self, trouble: Trouble, deployment: &str) {
        self.n_faults += 1;
        let loss = match trouble {
            Trouble::RateLimited(_) => Loss::RateLimited,
            Trouble::ServerError if self.n_faults >= MAX_FAULTS => Loss::ServerError,
            _ => return,
        };
        if self.lost.is_some() || self.source.pool.members().len() < 2 {
            return;
        }
        self.avoid(deployment.to_owned());
        self.leaves_for = Some(loss);
        self.next = self.next.take().filter(|next| !next.is_at(deployment));
        if self.next.is_none() && self.opening.is_none() {
            self.open();
        }
    }

    /// A session was opened to leave a deployment, and is at that very deployment: there is no other one.
    fn is_no_way_out(&self, opened: &Opened, deployment: &str, now: Instant) -> bool {
        let is_capped = self.rotate.is_some_and(|(open, _)| open <= now);
        self.leaves_for.is_some() && !is_capped && opened.is_at(deployment)
    }

    /// The caller is sent so much audio.
    fn plays(&mut self, audio: Duration, now: Instant) -> Option<Duration> {
        self.played_until = self.played_until.max(now) + audio;
        let from = self.silent_from.take()?;
        Some(now.saturating_duration_since(from))
    }

    /// The caller plays no more of what it was sent.
    fn stops_playing(&mut self, now: Instant) {
        self.played_until = self.played_until.min(now);
    }

    /// Says good-bye to all that is still there.
    pub(super) async fn close(mut self) {
        self.opening = None;
        if let Some(next) = self.next.take() {
            let leg = Leg::new(next.session.leg.socket);
            self.leave(Some(leg), Some(next.session.place));
        }
        while self.closing.join_next().await.is_some() {}
    }
}

/// Opens a session and sets it; asks again until one stands.
async fn open(
    source: SessionSource,
    mut request: SessionRequest,
    settings: [Option<String>; 2],
    mut n_failures: u32,
) -> Result<Opened, DialError> {
    let deadline = Instant::now() + GIVE_UP;
    loop {
        let wait = BACKOFF_MS[(n_failures as usize).min(BACKOFF_MS.len() - 1)];
        tokio::time::sleep(Duration::from_millis(wait)).await;
        n_failures += 1;
        let error = match source.open(&request).await {
            Ok(session) => {
                let deployment = session.place.deployment().name().to_owned();
                match set(&source, session, &settings).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) => {
                        request.avoid.push(deployment);
                        error
                    }
                }
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "no session yet");
        if Instant::now() >= deadline {
            return Err(error);
        }
    }
}

async fn set(
    source: &SessionSource,
    mut session: Session,
    settings: &[Option<String>; 2],
) -> Result<Opened, DialError> {
    let deployment = session.place.deployment();
    let settings = match deployment.shape() {
        Shape::Ga => settings[0].clone(),
        Shape::Preview => settings[1].clone(),
    };
    let early = source.set(&mut session, settings.clone()).await?;
    Ok(Opened {
        session,
        early,
        settings,
    })
}

/// What the deployment is told to have done; an old session's cap is no trouble, nor is it that the deployment does not
/// take what a client had set elsewhere.
fn trouble(loss: Loss, retry_after: Option<Duration>) -> Option<Trouble> {
    match loss {
        Loss::Closed => Some(Trouble::Closed),
        Loss::Gone => Some(Trouble::Gone),
        Loss::Protocol => Some(Trouble::Protocol),
        Loss::Stalled => Some(Trouble::Stalled),
        Loss::Unauthorized => Some(Trouble::Unauthorized),
        Loss::ServerError => Some(Trouble::ServerError),
        Loss::RateLimited => Some(Trouble::RateLimited(retry_after)),
        Loss::Expired | Loss::Rejected => None,
    }
}

/// What a caller is told before its call ends because no session is left.
const LOST: &str = "The session was lost, and no other one could be had in its place.";

impl Relay {
    /// The model leg is of no more use. The call ends so, unless another session takes over.
    pub(super) fn model_lost(&mut self, loss: Loss, end: End, now: Instant) {
        let Some(carry) = &mut self.carry else {
            self.ended = Some(end);
            return;
        };
        if carry.lost.is_some() {
            return;
        }
        let deployment = self.place.deployment().name().to_owned();
        tracing::info!(
            deployment,
            session_id = self.ledger.session_id(),
            cause = loss.name(),
            "the session is lost, the call goes on"
        );
        if now.duration_since(carry.up_since) >= HELD {
            carry.succeeded();
        }
        self.ledger.listing.session_lost(loss.name());
        if let Some(trouble) = trouble(loss, self.ledger.retry_after) {
            self.place.report(trouble);
        }
        if loss != Loss::Expired {
            carry.avoid(deployment);
        }
        let leg = self.legs.model.take();
        carry.leave(leg, None);
        carry.n_failures += 1;
        carry.due_since = None;
        carry.lost = Some((now, loss, end));
        if let Some(trace) = self.ledger.trace() {
            trace.session_lost(loss.name());
        }
        let is_hopeless = carry.n_failures > MAX_FAILURES;
        self.lose_mirror(now);
        if is_hopeless {
            return self.give_up();
        }
        let Some(carry) = &mut self.carry else {
            return;
        };
        match carry.next.take() {
            Some(next) => self.use_session(next, now),
            None if carry.opening.is_none() => carry.open(),
            None => {}
        }
    }

    /// What the session left open is brought to its end, or is wanted of the next one.
    fn lose_mirror(&mut self, now: Instant) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        let events = carry.mirror.lose();
        if carry.mirror.is_due() {
            let from = now.max(carry.played_until);
            carry.silent_from.get_or_insert(from);
        }
        self.show_own(events);
    }

    /// Notes what the caller hears.
    pub(super) fn note_playout(&mut self, event: &ModelEvent<'_>, audio: Duration, now: Instant) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        match event {
            ModelEvent::AudioDelta { .. } => {
                if let Some(gap) = carry.plays(audio, now) {
                    self.ledger.gap(gap);
                }
            }
            // Clients stop what they play.
            ModelEvent::SpeechStarted { .. } => carry.stops_playing(now),
            // It was not spoken, or it failed.
            ModelEvent::ResponseDone { .. } => carry.silent_from = None,
            _ => {}
        }
    }

    /// Something is due that has to do with sessions.
    pub(super) fn carry_timeout(&mut self, now: Instant) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        if let Some((since, ..)) = &carry.lost {
            if *since + GIVE_UP <= now {
                self.give_up();
            }
            return;
        }
        if carry.stall_at().is_some_and(|at| at <= now) {
            return self.model_lost(Loss::Stalled, EndReason::ModelStalled.into(), now);
        }
        let is_to_open = carry.rotate.is_some_and(|(open, _)| open <= now);
        if is_to_open && carry.next.is_none() && carry.opening.is_none() {
            carry.open();
        }
    }

    /// Where a session is near its cap and the next one stands, changes to it as soon as nothing is disturbed.
    pub(super) fn rotate(&mut self, now: Instant) {
        if self.ended.is_some() {
            return;
        }
        let Some(carry) = &mut self.carry else {
            return;
        };
        let is_late = carry.rotate.is_some_and(|(_, latest)| latest <= now);
        let is_time = is_late || carry.mirror.is_quiet();
        if let Some(next) = carry.next.take_if(|_| is_time) {
            self.lose_mirror(now);
            self.use_session(next, now);
        }
    }

    pub(super) fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<Reopened> {
        match &mut self.carry {
            Some(carry) => carry.poll(cx).map(|opened| Reopened(Box::new(opened))),
            None => Poll::Pending,
        }
    }

    pub(super) fn session_opened(&mut self, Reopened(opened): Reopened, now: Instant) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        match *opened {
            Ok(opened) if carry.lost.is_some() => self.use_session(opened, now),
            Ok(opened) if carry.is_no_way_out(&opened, self.place.deployment().name(), now) => {
                let Session { leg, place, .. } = opened.session;
                carry.leave(Some(Leg::new(leg.socket)), Some(place));
                self.stays();
            }
            Ok(opened) => carry.next = Some(opened),
            Err(error) => {
                tracing::warn!(%error, "no deployment gave another session");
                if carry.lost.is_some() {
                    return self.give_up();
                }
                if let Some((open, _)) = &mut carry.rotate
                    && *open <= now
                {
                    *open = now + ROTATE_AGAIN;
                    self.ledger
                        .metrics
                        .session_replaced(ROTATION, "unavailable");
                }
                self.stays();
            }
        }
    }

    /// There is no better deployment than the one that fails. The next response that does will have another one looked
    /// for.
    fn stays(&mut self) {
        let loss = self.carry.as_mut().and_then(|it| it.leaves_for.take());
        if let Some(loss) = loss {
            let metrics = &self.ledger.metrics;
            metrics.session_replaced(loss.name(), "unavailable");
        }
    }

    /// The deployment could not give a response; the session goes on.
    pub(super) fn response_failed(&mut self, trouble: Trouble) {
        self.place.report(trouble);
        if let Some(carry) = &mut self.carry {
            carry.failed(trouble, self.place.deployment().name());
        }
    }

    /// From now on that session is the call's.
    fn use_session(&mut self, opened: Opened, now: Instant) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        let Opened {
            session: Session { leg, place, .. },
            early,
            settings,
        } = opened;
        let leaves_for = carry.leaves_for.take();
        let cause = match carry.lost.take() {
            Some((_, loss, _)) => loss.name(),
            None => leaves_for.map_or(ROTATION, Loss::name),
        };
        carry.n_faults = 0;
        let created = leg.session_created;
        let session_id = super::session_id(&created);
        let from = self.place.deployment().name().to_owned();
        let deployment = place.deployment().name();
        let shape = place.deployment().shape();
        tracing::info!(
            from,
            deployment,
            session_id,
            cause,
            "the call goes on at another session"
        );
        let metrics = self.ledger.metrics.at(deployment);
        self.ledger.replaced(cause);
        self.ledger
            .moved(metrics, place.deployment(), &leg.setup, session_id);
        let old_leg = self.legs.replace_model(Leg::new(leg.socket));
        let old_place = std::mem::replace(&mut self.place, place);
        carry.leave(old_leg, Some(old_place));
        let update = carry.mirror.update(shape);
        let update = update.filter(|update| settings.as_ref() != Some(update));
        let mut replay = carry.mirror.replay(shape);
        self.ledger
            .metrics
            .replayed(Duration::from_micros(replay.audio_us));
        carry
            .seam
            .begin(shape, &mut replay, u32::from(update.is_some()));
        carry.due_since = None;
        carry.up_since = now;
        carry.began(leg.ends_at, now);
        self.model_shape = shape;
        self.decoder = Decoder::new();
        self.passes = self.caller_shape == shape && !self.is_first_preview;
        for event in update.into_iter().chain(replay.items) {
            self.send_model(&event);
        }
        for event in replay.events {
            self.send_translated(event.into());
        }
        for event in std::iter::once(created).chain(early) {
            self.relay_down(event, now);
        }
    }

    /// Tells the caller what the gateway says in place of a deployment, in that deployment's shape.
    pub(super) fn show_own(&mut self, events: Vec<String>) {
        for event in events {
            let renamed = self.carry.as_ref().and_then(|it| it.seam.own_event(&event));
            self.show(renamed.unwrap_or(event).into(), None);
        }
    }

    /// No session is to be had: the call ends as it would have without looking for one.
    fn give_up(&mut self) {
        let Some(carry) = &mut self.carry else {
            return;
        };
        let Some((_, loss, end)) = carry.lost.take() else {
            return;
        };
        carry.opening = None;
        self.ledger
            .metrics
            .session_replaced(loss.name(), "unavailable");
        let events = carry.seam.give_up();
        let replay = carry.mirror.replay(self.model_shape);
        let awaited = replay.awaited.map_or_else(Vec::new, |(_, end)| end);
        self.show_own(events);
        self.show_own(awaited);
        let lost = error_event("event_trunkline_lost", "server_error", "session_lost", LOST);
        self.send_caller(&lost);
        self.ended = Some(match loss {
            Loss::Gone | Loss::Stalled | Loss::Protocol => EndReason::ModelUnavailable.into(),
            _ => end,
        });
    }

    /// Passes an event on that has been looked at; `kind` is the type of one that another session has to hear of.
    pub(super) fn relay_kept(&mut self, text: Utf8Bytes, kind: Option<String>, translates: bool) {
        let text = match self.as_the_model_names_it(text, kind.as_deref()) {
            Some(text) => text,
            None => return,
        };
        let original = kind.map(|kind| (kind, text.clone()));
        let is_sent = match translates {
            true => self.send_translated(text),
            false => {
                self.send_model(&text);
                true
            }
        };
        if let (Some(carry), Some((kind, text)), true) = (&mut self.carry, original, is_sent) {
            carry.mirror.client_event(&kind, text);
        }
    }

    /// Where sessions changed, the caller may know a response by another id, and truncate what the model has as a
    /// text only; `None` if it is done already.
    fn as_the_model_names_it(&mut self, text: Utf8Bytes, kind: Option<&str>) -> Option<Utf8Bytes> {
        let Some(carry) = &mut self.carry else {
            return Some(text);
        };
        match kind {
            Some("response.cancel") => {
                let renamed = carry.seam.client_event(&text);
                Some(renamed.map_or(text, Utf8Bytes::from))
            }
            Some("conversation.item.truncate") => {
                let Some(cut) = carry.mirror.truncate(&text) else {
                    return Some(text);
                };
                if !cut.events.is_empty() {
                    carry.seam.remade(&cut.item_id);
                }
                for event in cut.events {
                    self.send_model(&event);
                }
                self.send_caller(&cut.answer);
                None
            }
            _ => Some(text),
        }
    }

    /// What the caller sees of an event; `None` if nothing. Says what went wrong with the session, if it did.
    pub(super) fn seen(
        &mut self,
        event: &ServerEvent<'_>,
        text: &str,
        now: Instant,
    ) -> Result<Shown, Loss> {
        let Some(carry) = &mut self.carry else {
            return Ok(Shown::Unchanged);
        };
        if let ServerEvent::Error(error) = event {
            match error.code.as_deref() {
                Some("session_expired") => return Err(Loss::Expired),
                Some("invalid_api_key") => return Err(Loss::Unauthorized),
                _ => {}
            }
        }
        carry.heard(event, text, now);
        self.ledger
            .metrics
            .history_dropped(carry.mirror.take_forgotten());
        match carry.seam.server_event(event, text) {
            Shown::Refused => Err(Loss::Rejected),
            shown => Ok(shown),
        }
    }
}

/// Another session, or why there is none.
pub(super) struct Reopened(Box<Result<Opened, DialError>>);
