//! Opens a session at one of a pool's deployments: the next one at once when one refuses, a second one beside a slow
//! first, all within one time limit.
//!
//! Everything runs in the caller's own future: whoever goes away takes all dials with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::sleep_until;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::routing::{Backoff, Candidate, DialTimes, Need, Standing, order};

use super::deployment::Deployment;
use super::dial::{Dialer, ModelLeg};
use super::dial_error::DialError;
use super::failed_dials::FailedDial;
use super::pool::{Place, Pool, Session, SessionRequest, Sticky};
use super::state::{Dialling, Held, PAUSE, Verdict, now};

/// A call waits so long for a deployment that is coming back, if it has no other.
const WORTH_WAITING: Duration = Duration::from_secs(2);

/// How often a call looks whether a probe has come to something.
const LOOK: Duration = Duration::from_millis(100);

/// A caller whose session was lost waits for the next one: a second deployment is dialled after so long at most, and
/// looked for again as often.
const LIVE_HEDGE: Duration = Duration::from_millis(250);

/// All deployments are asked so often at most.
const ROUNDS: u32 = 3;

/// Before they are asked again.
const BETWEEN_ROUNDS: Backoff = Backoff {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(1),
};

/// When to ask again where nobody knows.
const SOON: Duration = Duration::from_secs(1);

impl Dialer {
    /// Opens a session at one of a pool's deployments; one that stands by, if there is one.
    ///
    /// # Errors
    ///
    /// If none gives one: what it said if the pool has only one, else when the first of them can be asked again.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves no connection and no task behind.
    pub async fn open_in(
        &self,
        pool: &Pool,
        request: &SessionRequest,
    ) -> Result<Session, DialError> {
        if let Some(session) = self.take_standby(pool, request).await {
            return Ok(session);
        }
        let (member, leg, held) = Opening::new(self, pool, request).run().await?;
        tracing::debug!(deployment = pool.members()[member].name(), "session opened");
        let shown = leg.shown;
        Ok(Session {
            leg,
            place: Place::new(
                held,
                shown,
                pool,
                request.standby_line.clone(),
                &self.metrics,
            ),
            configured: None,
        })
    }

    /// Opens a session that is to stand by: one dial, no hedge, no second try.
    pub(super) async fn open_ahead(
        &self,
        pool: &Pool,
    ) -> Result<(usize, ModelLeg, Held), DialError> {
        let request = SessionRequest::default();
        let mut opening = Opening::new(self, pool, &request);
        opening.is_ahead = true;
        opening.run().await
    }

    /// The members that may be asked now, best first; full ones after those that have room.
    pub(super) fn ranked(&self, pool: &Pool, request: &SessionRequest) -> Vec<usize> {
        let is_usable = |member: usize| {
            let is_well = match pool.members()[member].standing() {
                Standing::Well | Standing::Probe => true,
                Standing::Returning(at) => request.is_live() || at <= now(),
                Standing::Probing | Standing::Open(_) | Standing::Paused(_) | Standing::Out(_) => {
                    false
                }
            };
            is_well && !self.is_ejected(pool, member)
        };
        self.order(pool, request, is_usable)
    }

    /// Those of `ranked` that have room; all of them if none has.
    pub(super) fn with_room(&self, pool: &Pool, ranked: Vec<usize>) -> Vec<usize> {
        let has_room = |member: &usize| self.full(pool, *member).is_none();
        let roomy: Vec<_> = ranked.iter().copied().filter(has_room).collect();
        if roomy.is_empty() { ranked } else { roomy }
    }

    fn order(
        &self,
        pool: &Pool,
        request: &SessionRequest,
        is_usable: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let config = pool.config();
        let pressures = self.pressures(pool);
        let candidate = |member: usize| {
            let deployment = &pool.members()[member];
            let (name, table) = (deployment.name(), pool.table(member));
            let is_near = |region: &str| deployment.region() == Some(region);
            Candidate {
                member,
                name,
                priority: table.priority,
                weight: table.weight,
                is_near: config.prefer_region.as_deref().is_none_or(is_near),
                pressure: pressures.as_ref().map_or(0.0, |all| all[member]),
                n_sessions: deployment.held(),
                is_full: self.full(pool, member).is_some(),
                is_avoided: request.avoid.iter().any(|avoided| avoided == name),
            }
        };
        let members = 0..pool.members().len();
        let is_there = |it: &usize| !pool.members()[*it].is_drained() && is_usable(*it);
        let candidates: Vec<_> = members.filter(is_there).map(candidate).collect();
        let key = match config.sticky {
            Some(Sticky::Caller) => request.caller.as_deref(),
            Some(Sticky::Tenant) => request.tenant.as_deref(),
            None => None,
        };
        order(&candidates, config.policy, key, fastrand::f64)
    }

    /// What each member carries for what it is granted. None unless that is known of all of them, for the known could
    /// not be compared with the unknown.
    fn pressures(&self, pool: &Pool) -> Option<Vec<f64>> {
        let load = self.load.as_ref()?;
        let pressure = |it: &Arc<Deployment>| load.pressure(it.name(), it.held());
        pool.members().iter().map(pressure).collect()
    }

    pub(super) fn is_ejected(&self, pool: &Pool, member: usize) -> bool {
        pool.state().ejections.until(member, now()).is_some()
    }

    /// How long a member is full, if it is.
    pub(super) fn full(&self, pool: &Pool, member: usize) -> Option<Duration> {
        let deployment = &pool.members()[member];
        let load = self.load.as_ref()?;
        load.may_take(deployment.name(), deployment.calls()).err()
    }
}

/// One session being opened.
struct Opening<'a> {
    dialer: &'a Dialer,
    pool: &'a Pool,
    request: &'a SessionRequest,
    /// It is to stand by.
    is_ahead: bool,
    /// Members that were asked in this round.
    tried: Vec<bool>,
    round: u32,
    /// The dials so far; none is left of those whose outcome was told.
    dials: Vec<Option<Dialling>>,
    /// When each of them began.
    dialled: Vec<tokio::time::Instant>,
    /// The first dial that is a hedge.
    hedge: Option<usize>,
    last: Option<DialError>,
}

/// What to do next.
enum Next {
    Dial(usize, Dialling, &'static str),
    /// Somebody comes back soon.
    Wait(Instant),
    Nobody,
}

impl<'a> Opening<'a> {
    fn new(dialer: &'a Dialer, pool: &'a Pool, request: &'a SessionRequest) -> Self {
        Self {
            dialer,
            pool,
            request,
            is_ahead: false,
            tried: vec![false; pool.members().len()],
            round: 0,
            dials: Vec::new(),
            dialled: Vec::new(),
            hedge: None,
            last: None,
        }
    }

    async fn run(mut self) -> Result<(usize, ModelLeg, Held), DialError> {
        let began = now();
        let limit = self.pool.config().timeout;
        let deadline = began + limit;
        let mut under_way = FuturesUnordered::new();
        let mut second_at: Option<Instant> = None;
        let mut dialled_at = began;
        if !self.is_ahead {
            self.pool.state().budget.dialled(began);
        }
        loop {
            if under_way.is_empty() {
                match self.next() {
                    Next::Dial(member, dialling, reason) => {
                        let deployment = dialling.deployment();
                        dialled_at = dialling.grant().at;
                        second_at = self.second_at(deployment, dialled_at);
                        under_way.push(self.dial(member, dialling, reason));
                    }
                    Next::Wait(until) if until < deadline && until - began <= WORTH_WAITING => {
                        sleep_until(until.into()).await;
                        continue;
                    }
                    Next::Wait(_) | Next::Nobody => {
                        let Some(pause) = self.another_round() else {
                            return Err(self.nobody_left());
                        };
                        if now() + pause >= deadline {
                            return Err(self.nobody_left());
                        }
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                }
            }
            let wake_at = second_at.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                Some((n, member, result)) = under_way.next() => match result {
                    Ok(leg) => {
                        let held = self.won(n);
                        while let Some(Some((_, _, Ok(leg)))) = under_way.next().now_or_never() {
                            close_now(leg);
                        }
                        return Ok((member, leg, held));
                    }
                    Err(error) => {
                        self.lost(n, error);
                        // Who is still under way is slow, so the next one is not kept waiting either.
                        if !under_way.is_empty()
                            && let Next::Dial(member, dialling, reason) = self.next()
                        {
                            under_way.push(self.dial(member, dialling, reason));
                        }
                    }
                },
                () = sleep_until(wake_at.into()) => {
                    if now() >= deadline {
                        return Err(self.late(limit));
                    }
                    second_at = None;
                    if !self.pool.config().hedge {
                        under_way.clear();
                        self.give_up_on_slow();
                    } else if let Some((member, dialling)) = self.second(dialled_at) {
                        self.hedge = Some(self.dials.len());
                        under_way.push(self.dial(member, dialling, "hedge"));
                        second_at = Some(now() + DialTimes::SLOW);
                    } else if !self.request.is_live() && now() < dialled_at + DialTimes::SLOW {
                        second_at = Some(dialled_at + DialTimes::SLOW);
                    } else if let Next::Dial(member, dialling, reason) = self.next() {
                        under_way.push(self.dial(member, dialling, reason));
                        second_at = Some(now() + DialTimes::SLOW);
                    } else {
                        // Whoever failed or was left out before may be well by now.
                        self.ask_others_again();
                        second_at = Some(now() + LIVE_HEDGE);
                    }
                }
            }
        }
    }

    /// The dial of a member, as a future that knows its number.
    fn dial(
        &mut self,
        member: usize,
        dialling: Dialling,
        reason: &'static str,
    ) -> impl Future<Output = (usize, usize, Result<ModelLeg, DialError>)> + use<'a> {
        let n = self.dials.len();
        let at = dialling.grant().at;
        let deployment = Arc::clone(dialling.deployment());
        let routing = self.dialer.metrics.routing();
        routing.chosen(self.pool.name(), deployment.name(), reason);
        self.tried[member] = true;
        self.dials.push(Some(dialling));
        self.dialled.push(at.into());
        let (dialer, transcription) = (self.dialer, self.request.transcription);
        async move {
            sleep_until(at.into()).await;
            (n, member, dialer.dial(&deployment, transcription).await)
        }
    }

    /// Whom to ask next.
    fn next(&self) -> Next {
        let metrics = &self.dialer.metrics;
        let is_new = |it: &usize| !self.tried[*it];
        let ranked = self.dialer.ranked(self.pool, self.request);
        for member in ranked.into_iter().filter(is_new) {
            let deployment = &self.pool.members()[member];
            let is_full = self.dialer.full(self.pool, member).is_some();
            if self.is_ahead && (is_full || deployment.is_returning()) {
                continue;
            }
            if let Ok(dialling) = Dialling::begin(deployment, metrics, self.need(false)) {
                if self.round > 0 && !self.pool.state().budget.take(now()) {
                    let routing = metrics.routing();
                    routing.budget_exhausted(self.pool.name());
                    return Next::Nobody;
                }
                let reason = match is_full {
                    true => "last_resort",
                    false => self.reason(member, &dialling),
                };
                return Next::Dial(member, dialling, reason);
            }
        }
        if self.is_ahead {
            return Next::Nobody;
        }
        // Nobody else is left: those that are left out or that failed, if it is time, and those that come back.
        let others = self.dialer.order(self.pool, self.request, |_| true);
        let mut earliest: Option<Instant> = None;
        for member in others.into_iter().filter(is_new) {
            let deployment = &self.pool.members()[member];
            let waits_until = match deployment.standing() {
                Standing::Returning(at)
                    if !self.request.is_live() && at > now() + WORTH_WAITING =>
                {
                    continue;
                }
                Standing::Probing => Some(now() + LOOK.mul_f64(0.5 + fastrand::f64())),
                Standing::Well
                | Standing::Probe
                | Standing::Returning(_)
                | Standing::Open(_)
                | Standing::Paused(_)
                | Standing::Out(_) => None,
            };
            if let Some(until) = waits_until {
                earliest = Some(earliest.map_or(until, |at| at.min(until)));
            } else if let Ok(dialling) = Dialling::begin(deployment, metrics, self.need(true)) {
                return Next::Dial(member, dialling, "last_resort");
            }
        }
        earliest.map_or(Next::Nobody, Next::Wait)
    }

    fn need(&self, is_last_resort: bool) -> Need {
        Need {
            is_live: self.request.is_live(),
            is_last_resort,
        }
    }

    fn reason(&self, member: usize, dialling: &Dialling) -> &'static str {
        let best = |it: usize| self.pool.table(it).priority;
        let first_tier = (0..self.pool.members().len()).map(best).min();
        if self.is_ahead {
            "standby"
        } else if self.round > 0 {
            "repeat"
        } else if !self.dials.is_empty() {
            "next"
        } else if dialling.grant().is_probe {
            "probe"
        } else if Some(best(member)) != first_tier {
            "spill"
        } else {
            "first"
        }
    }

    /// When a second deployment is dialled, if there is one: beside the first, or where that is not wanted, in its
    /// place.
    fn second_at(&self, deployment: &Deployment, at: Instant) -> Option<Instant> {
        let config = self.pool.config();
        let after = match (config.hedge, self.request.is_live()) {
            (true, true) => deployment.hedge_after().min(LIVE_HEDGE),
            (true, false) => deployment.hedge_after(),
            (false, _) => config.timeout / 2,
        };
        let has_others = self.tried.len() > 1;
        (has_others && !self.is_ahead).then(|| at + after)
    }

    /// All may be asked once more but those that are being dialled.
    fn ask_others_again(&mut self) {
        let members = self.pool.members();
        let dials = &self.dials;
        let is_dialled = |member: &Arc<Deployment>| {
            let mut under_way = dials.iter().flatten();
            under_way.any(|dialling| Arc::ptr_eq(dialling.deployment(), member))
        };
        self.tried = members.iter().map(is_dialled).collect();
    }

    /// Another deployment to dial beside the one that was dialled then. It is taken from the budget where the first is
    /// merely slower than usual and nobody is on the line; who is slow by any measure has failed, and the next one is
    /// asked.
    fn second(&self, dialled_at: Instant) -> Option<(usize, Dialling)> {
        let ranked = self.dialer.ranked(self.pool, self.request);
        let is_slow = now() >= dialled_at + DialTimes::SLOW;
        let is_wanted = |member: &usize| {
            let may_be_full = is_slow || self.dialer.full(self.pool, *member).is_none();
            !self.tried[*member] && may_be_full
        };
        let mut others = ranked.into_iter().filter(is_wanted).peekable();
        others.peek()?;
        if !is_slow && !self.request.is_live() && !self.pool.state().budget.take(now()) {
            let routing = self.dialer.metrics.routing();
            routing.budget_exhausted(self.pool.name());
            return None;
        }
        let metrics = &self.dialer.metrics;
        others.find_map(|member| {
            let deployment = &self.pool.members()[member];
            let dialling = Dialling::begin(deployment, metrics, self.need(false)).ok()?;
            Some((member, dialling))
        })
    }

    /// Whether all are asked once more, and after what pause.
    fn another_round(&mut self) -> Option<Duration> {
        let may_come = self.pool.members().len() > 1
            && !self.is_ahead
            && self.last.is_some()
            && self.round + 1 < ROUNDS
            && !self.dialer.ranked(self.pool, self.request).is_empty();
        if !may_come {
            return None;
        }
        let pause = BETWEEN_ROUNDS.pause(self.round, fastrand::f64());
        self.round += 1;
        self.tried.fill(false);
        Some(pause)
    }

    /// The `n`th dial brought a session; those that are still under way lost.
    fn won(&mut self, n: usize) -> Held {
        let held = self.dials[n].take().expect("told once").succeeded();
        let routing = self.dialer.metrics.routing();
        let name = self.pool.name();
        let failed = self.dials[..n].iter().any(Option::is_none);
        if failed && self.hedge != Some(n) {
            routing.retried(name, "ok");
        }
        for (other, dialling) in self.dials.iter_mut().enumerate() {
            let Some(dialling) = dialling.take() else {
                continue;
            };
            // Whoever began before the winner and is still not there is slow; who began later had no time.
            if other < n {
                self.request
                    .failed_dials
                    .add(too_slow(&dialling, self.dialled[other]));
                dialling.too_slow();
            }
        }
        match self.hedge {
            Some(hedge) if hedge == n => routing.hedged(name, "won"),
            Some(_) => routing.hedged(name, "lost"),
            None => {}
        }
        self.pool.judge(&self.dialer.metrics);
        held
    }

    fn lost(&mut self, n: usize, error: DialError) {
        if let Some(dialling) = self.dials[n].take() {
            let name = dialling.deployment().name();
            if let (Verdict::RateLimited(wait), Some(load)) = (error.verdict(), &self.dialer.load) {
                load.refused(name, wait.unwrap_or(PAUSE));
            }
            let http_status = match &error {
                DialError::Refused { status, .. } => Some(*status),
                _ => None,
            };
            self.request.failed_dials.add(FailedDial {
                deployment: name.to_owned(),
                cause: error.name(),
                http_status,
                from: self.dialled[n],
                to: tokio::time::Instant::now(),
            });
            dialling.failed(&error);
        }
        let routing = self.dialer.metrics.routing();
        if n > 0 && self.hedge != Some(n) {
            routing.retried(self.pool.name(), "failed");
        }
        if self.hedge == Some(n) {
            routing.hedged(self.pool.name(), "failed");
            self.hedge = None;
        }
        tracing::debug!(%error, pool = self.pool.name(), "no session, the next one is asked");
        self.pool.judge(&self.dialer.metrics);
        self.last = Some(error);
    }

    /// Whoever is under way counts as failed.
    fn give_up_on_slow(&mut self) {
        for (dialling, from) in self.dials.iter_mut().zip(&self.dialled) {
            if let Some(dialling) = dialling.take() {
                let failed_dials = &self.request.failed_dials;
                failed_dials.add(too_slow(&dialling, *from));
                dialling.too_slow();
            }
        }
        self.pool.judge(&self.dialer.metrics);
    }

    fn late(mut self, limit: Duration) -> DialError {
        self.give_up_on_slow();
        DialError::Late {
            pool: self.pool.name().to_owned(),
            limit,
        }
    }

    fn nobody_left(&mut self) -> DialError {
        let last = match (self.last.take(), self.pool.members()) {
            (Some(only), [_]) => return only,
            (last, _) => last,
        };
        let now = now();
        let mut retry_after: Option<Duration> = None;
        let mut is_rate_limited = true;
        for (member, deployment) in self.pool.members().iter().enumerate() {
            let (wait, is_limit) = match deployment.standing() {
                Standing::Paused(paused) => (paused.until - now, paused.is_rate_limited),
                Standing::Open(until) => ((until - now).min(WORTH_WAITING), false),
                Standing::Out(until) => (until - now, false),
                Standing::Well | Standing::Probe | Standing::Probing | Standing::Returning(_) => {
                    match self.dialer.full(self.pool, member) {
                        Some(wait) => (wait, true),
                        None => (SOON, false),
                    }
                }
            };
            retry_after = Some(retry_after.map_or(wait, |it| it.min(wait)));
            is_rate_limited &= is_limit;
        }
        DialError::NoneLeft {
            pool: self.pool.name().to_owned(),
            retry_after: retry_after.unwrap_or(SOON),
            is_rate_limited,
            last: last.map(Box::new),
        }
    }
}

/// A dial that is given up for another, or because there is no time left.
fn too_slow(dialling: &Dialling, from: tokio::time::Instant) -> FailedDial {
    FailedDial {
        deployment: dialling.deployment().name().to_owned(),
        cause: "too_slow",
        http_status: None,
        from,
        to: tokio::time::Instant::now(),
    }
}

/// Says good-bye without waiting for an answer.
fn close_now(mut leg: ModelLeg) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _ = leg.socket.close(Some(frame)).now_or_never();
}
