//! Whether a deployment may be dialled, by what dials and sessions saw of it.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | well | 7 failures in a row, of dials or of sessions | open, for 1 s to 60 s, longer each time |
//! | well, open, probing | it does not know the credential | out |
//! | open | the time is over, or nobody else is left and 2 s are | half-open |
//! | half-open | one dial is let through | probing |
//! | probing | the probe succeeds, or is told to wait | well; for 10 s at most 20 dials a second for calls that begin |
//! | probing | the probe fails | open, for longer |
//! | probing | the probe is given up | half-open |
//! | out | 15 s to 30 s have passed, or there is a newer credential | half-open |
//!
//! Half-open is not stored: it is open or out whose time is over. Besides, in any state, a deployment that said when it
//! wants to be asked again is left alone exactly until then. What a session or dial tells that began before the state
//! changed does not change it back.

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// Failures in a row that open the breaker (limits reference).
const FAILURES: u32 = 7;

/// How long it stays open (limits reference).
const OPEN: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
};

/// While callers have nobody else, it is tried more often: recovery is noticed within 5 s (faults reference, 13).
const LAST_RESORT: Duration = Duration::from_secs(2);

/// How often a deployment is tried that does not know what it is shown.
const OUT: Backoff = Backoff {
    first: Duration::from_secs(30),
    longest: Duration::from_secs(30),
};

/// Least time between two dials of one that comes back: 20 a second (faults reference, 13).
const RAMP_GAP: Duration = Duration::from_millis(50);

/// How long it is dialled no faster.
const RAMP: Duration = Duration::from_secs(10);

/// A longer wait than this is taken for a mistake.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Sessions that end within so long of the first of them ended at once: a front end restarted, or was lost.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What a failure was seen by. Each has its own count of failures in a row: dials may well succeed at a deployment
/// whose sessions all stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening a session.
    Dial,
    /// An open one.
    Session,
}

/// What may be done with a deployment now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Dial it.
    Well,
    /// Dial it to find out.
    Probe,
    /// It came back, and may be dialled from then on.
    Returning(Instant),
    /// Somebody is finding out.
    Probing,
    /// It failed; not before then.
    Open(Instant),
    /// It wants to be left alone.
    Paused(Refused),
    /// It refuses the credential; not before then.
    Out(Instant),
}

/// A state's name, which is also the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes calls.
    Well,
    /// It said when to come again.
    Paused,
    /// It failed.
    Open,
    /// It is being tried.
    Probing,
    /// It refuses the credential.
    Out,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Well,
        Self::Paused,
        Self::Open,
        Self::Probing,
        Self::Out,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Paused => "paused",
            Self::Open => "open",
            Self::Probing => "probing",
            Self::Out => "out",
        }
    }
}

/// What a dial is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// A call that goes on lost its session. Somebody listens to silence, so it does not wait in line with calls that
    /// have not begun; there cannot be more of them than there are calls.
    pub is_live: bool,
    /// There is nobody else to ask.
    pub is_last_resort: bool,
}

/// The right to dial once. Its outcome must be told, or that it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Grant {
    /// Not before then.
    pub at: Instant,
    /// It is the one dial that finds out.
    pub is_probe: bool,
}

/// Why a deployment may not be dialled, and when that may be otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When to ask again.
    pub until: Instant,
    /// It is well and has too much to do.
    pub is_rate_limited: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Well,
    Open {
        until: Instant,
        /// When it last failed.
        since: Instant,
    },
    Probing,
    Out {
        until: Instant,
    },
}

/// What is known of one deployment, whatever pools it is in.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: State,
    paused: Option<Refused>,
    /// Failures in a row, of dials and of sessions.
    dial_failures: u32,
    session_failures: u32,
    /// When a session last ended of itself.
    ended_at: Option<Instant>,
    /// How often it was opened since it was last well.
    openings: u32,
    /// Until when it is dialled slowly, and when the next dial is due.
    ramp: Option<(Instant, Instant)>,
}

impl Health {
    /// What may be done now.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        if let Some(paused) = self.paused.filter(|paused| now < paused.until) {
            return Standing::Paused(paused);
        }
        match self.state {
            State::Well => match self.slot(now) {
                Some(slot) if now < slot => Standing::Returning(slot),
                _ => Standing::Well,
            },
            State::Open { until, .. } if now < until => Standing::Open(until),
            State::Out { until } if now < until => Standing::Out(until),
            State::Open { .. } | State::Out { .. } => Standing::Probe,
            State::Probing => Standing::Probing,
        }
    }

    /// What is shown to operators.
    #[must_use]
    pub fn condition(&self, now: Instant) -> Condition {
        match self.state {
            _ if self.paused.is_some_and(|paused| now < paused.until) => Condition::Paused,
            State::Well => Condition::Well,
            State::Open { .. } => Condition::Open,
            State::Probing => Condition::Probing,
            State::Out { .. } => Condition::Out,
        }
    }

    /// Asks to dial.
    ///
    /// # Errors
    ///
    /// If it may not be dialled now.
    pub fn ask(&mut self, now: Instant, need: Need) -> Result<Grant, Refused> {
        let refused = |until| Refused {
            until,
            is_rate_limited: false,
        };
        match self.standing(now) {
            Standing::Returning(_) if need.is_live => Ok(Grant {
                at: now,
                is_probe: false,
            }),
            Standing::Well | Standing::Returning(_) => Ok(Grant {
                at: self.take_slot(now),
                is_probe: false,
            }),
            Standing::Probe => Ok(self.probe(now)),
            Standing::Open(until) if need.is_last_resort => {
                let until = until.min(self.last_resort_at(until));
                if now < until {
                    return Err(refused(until));
                }
                Ok(self.probe(now))
            }
            // Nobody knows how long the probe takes.
            Standing::Probing => Err(refused(now + RAMP_GAP)),
            Standing::Open(until) | Standing::Out(until) => Err(refused(until)),
            Standing::Paused(paused) => Err(paused),
        }
    }

    /// A session ended before its time, which says as much as all that end with it: whatever they were connected to
    /// went away, and the next may well hold. Whether it is the first of them, which is to be told by
    /// [`Health::failed`].
    pub fn ended(&mut self, now: Instant) -> bool {
        let is_first = self.ended_at.is_none_or(|at| now >= at + AT_ONCE);
        if is_first {
            self.ended_at = Some(now);
        }
        is_first
    }

    /// A granted dial brought a session.
    pub fn dialled(&mut self, grant: Grant, now: Instant) {
        self.dial_failures = 0;
        if grant.is_probe {
            self.came_back(now);
        }
    }

    /// A granted dial, or a session, failed. `chance` in 0..1. Whether that opened the breaker.
    pub fn failed(&mut self, of: Failed, now: Instant, chance: f64) -> bool {
        match of {
            Failed::Probe => {
                self.open(now, chance);
                true
            }
            // Many sessions may end at once, and what they tell after the first few is known by now.
            Failed::At(_) if !matches!(self.state, State::Well) => false,
            Failed::At(stage) => {
                let failures = match stage {
                    Stage::Dial => &mut self.dial_failures,
                    Stage::Session => &mut self.session_failures,
                };
                *failures = failures.saturating_add(1);
                let opens = *failures >= FAILURES;
                if opens {
                    self.open(now, chance);
                }
                opens
            }
        }
    }

    /// It has too much to do, and wants to be asked again after so long; if it did not say, after `otherwise`, but not
    /// before what it said earlier. It is there, then.
    pub fn rate_limited(
        &mut self,
        grant: Option<Grant>,
        wait: Option<Duration>,
        otherwise: Duration,
        now: Instant,
    ) {
        let said = self.paused.map(|paused| paused.until);
        self.pause(wait.unwrap_or(otherwise), true, now);
        if let (None, Some(said), Some(paused)) = (wait, said, &mut self.paused) {
            paused.until = paused.until.max(said);
        }
        if grant.is_some_and(|grant| grant.is_probe) {
            self.came_back(now);
        }
    }

    /// It is in trouble, and wants to be asked again after so long.
    pub fn sent_away(&mut self, wait: Duration, now: Instant) {
        self.pause(wait, false, now);
    }

    fn pause(&mut self, wait: Duration, is_rate_limited: bool, now: Instant) {
        self.paused = Some(Refused {
            until: now + wait.min(LONGEST_PAUSE),
            is_rate_limited,
        });
    }

    /// It does not know what it was shown. `chance` in 0..1.
    pub fn unauthorized(&mut self, now: Instant, chance: f64) {
        self.state = State::Out {
            until: now + OUT.pause(0, chance),
        };
    }

    /// There is something else to show it.
    pub fn credential_changed(&mut self, now: Instant) {
        if let State::Out { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// A granted dial was given up before it came to anything.
    pub fn abandoned(&mut self, grant: Grant, now: Instant) {
        if grant.is_probe && matches!(self.state, State::Probing) {
            self.state = State::Open {
                until: now,
                since: now,
            };
        }
        // The last in line went away before its turn.
        if let Some((_, next)) = &mut self.ramp
            && now < grant.at
            && *next == grant.at + RAMP_GAP
        {
            *next = grant.at;
        }
    }

    /// A session went well.
    pub fn session_went_well(&mut self) {
        self.session_failures = 0;
        if matches!(self.state, State::Well) {
            self.openings = 0;
        }
    }

    fn open(&mut self, now: Instant, chance: f64) {
        self.state = State::Open {
            until: now + OPEN.pause(self.openings, chance),
            since: now,
        };
        self.openings = self.openings.saturating_add(1);
        self.dial_failures = 0;
        self.session_failures = 0;
        self.ramp = None;
    }

    fn probe(&mut self, now: Instant) -> Grant {
        self.state = State::Probing;
        Grant {
            at: now,
            is_probe: true,
        }
    }

    fn came_back(&mut self, now: Instant) {
        if matches!(self.state, State::Probing) {
            self.state = State::Well;
            self.dial_failures = 0;
            self.session_failures = 0;
            self.ramp = Some((now + RAMP, now + RAMP_GAP));
        }
    }

    /// From when on a last resort may be tried.
    fn last_resort_at(&self, otherwise: Instant) -> Instant {
        match self.state {
            State::Open { since, .. } => since + LAST_RESORT,
            State::Well | State::Probing | State::Out { .. } => otherwise,
        }
    }

    /// Whether it came back of late, and is dialled slowly.
    #[must_use]
    pub fn is_returning(&self, now: Instant) -> bool {
        self.ramp.is_some_and(|(end, _)| now < end)
    }

    fn slot(&self, now: Instant) -> Option<Instant> {
        let (end, next) = self.ramp?;
        (now < end).then_some(next)
    }

    fn take_slot(&mut self, now: Instant) -> Instant {
        let Some((end, next)) = self.ramp.filter(|(end, _)| now < *end) else {
            self.ramp = None;
            return now;
        };
        let at = next.max(now);
        self.ramp = Some((end, at + RAMP_GAP));
        at
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The dial that was to find out.
    Probe,
    /// Any other.
    At(Stage),
}

impl Failed {
    /// A dial with this grant.
    #[must_use]
    pub fn dial(grant: Grant) -> Self {
        if grant.is_probe {
            Self::Probe
        } else {
            Self::At(Stage::Dial)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    const DIAL: Failed = Failed::At(Stage::Dial);
    const NEW: Need = Need {
        is_live: false,
        is_last_resort: false,
    };
    const LIVE: Need = Need {
        is_live: true,
        ..NEW
    };
    const LAST: Need = Need {
        is_last_resort: true,
        ..NEW
    };
    const SESSION: Failed = Failed::At(Stage::Session);

    /// One that was opened at `now`.
    fn opened(now: Instant) -> Health {
        let mut health = Health::default();
        let opens: Vec<bool> = (0..7).map(|_| health.failed(DIAL, now, 1.0)).collect();
        assert_eq!(opens, [false, false, false, false, false, false, true]);
        health
    }

    #[test]
    fn the_breaker_opens_for_longer_each_time() {
        let mut now = Instant::now();
        let mut health = opened(now);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(
                health.standing(now),
                Standing::Open(now + expected * SECOND)
            );
            assert!(health.ask(now, NEW).is_err());
            now += expected * SECOND;
            let probe = health.ask(now, NEW).expect("half-open");
            assert!(probe.is_probe);
            assert!(health.ask(now, LAST).is_err(), "one probe at a time");
            health.failed(Failed::dial(probe), now, 1.0);
        }
        // Well again, the next trouble begins short.
        now += 60 * SECOND;
        let probe = health.ask(now, NEW).expect("half-open");
        health.dialled(probe, now);
        health.session_went_well();
        for _ in 0..7 {
            health.failed(DIAL, now, 1.0);
        }
        assert_eq!(health.standing(now), Standing::Open(now + SECOND));
    }

    #[test]
    fn failures_count_in_a_row_and_by_stage() {
        let now = Instant::now();
        let mut health = Health::default();
        let dial = |health: &mut Health| {
            let grant = health.ask(now, NEW).expect("well");
            health.dialled(grant, now);
        };
        for _ in 0..20 {
            health.failed(DIAL, now, 0.5);
            health.failed(DIAL, now, 0.5);
            dial(&mut health);
        }
        assert_eq!(health.standing(now), Standing::Well);
        for _ in 0..6 {
            dial(&mut health);
            assert!(!health.failed(SESSION, now, 0.5));
        }
        dial(&mut health);
        assert!(health.failed(SESSION, now, 0.5));
    }

    #[test]
    fn what_is_heard_of_old_sessions_is_not_held_against_one_that_came_back() {
        let now = Instant::now();
        let mut health = opened(now);
        for _ in 0..200 {
            assert!(!health.failed(SESSION, now, 1.0));
        }
        let probe = health.ask(now + SECOND, NEW).expect("half-open");
        health.dialled(probe, now + SECOND);
        assert!(!health.failed(SESSION, now + SECOND, 1.0));
        assert_eq!(health.condition(now + SECOND), Condition::Well);
    }

    #[test]
    fn sessions_that_end_at_once_count_as_one() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for _ in 0..6 {
            let firsts = (0..50).filter(|_| health.ended(now)).count();
            assert_eq!(firsts, 1);
            assert!(!health.ended(now + 999 * MS));
            assert!(!health.failed(SESSION, now, 0.5));
            now += SECOND;
        }
        assert!(health.ended(now) && health.failed(SESSION, now, 0.5));
    }

    #[test]
    fn a_pause_lasts_exactly_as_long_as_was_said() {
        let now = Instant::now();
        let mut health = Health::default();
        let wait = Duration::from_millis(6_543);
        health.rate_limited(None, Some(wait), SECOND, now);
        let expected = Err(Refused {
            until: now + wait,
            is_rate_limited: true,
        });
        assert_eq!(health.ask(now, LAST), expected);
        // Somebody else was refused too, and was not told for how long.
        health.rate_limited(None, None, SECOND, now + MS);
        assert_eq!(health.ask(now, LAST), expected);
        assert_eq!(health.ask(now + wait - MS, LAST), expected);
        assert!(health.ask(now + wait, NEW).is_ok());
        assert_eq!(health.condition(now), Condition::Paused);
    }

    #[test]
    fn an_unknown_credential_is_tried_slowly_or_when_there_is_a_newer_one() {
        let now = Instant::now();
        let mut health = Health::default();
        health.unauthorized(now, 1.0);
        assert!(health.ask(now + 29 * SECOND, LAST).is_err());
        let probe = health.ask(now + 30 * SECOND, NEW).expect("a probe");
        health.unauthorized(now + 30 * SECOND, 1.0);
        assert!(probe.is_probe && health.ask(now + 31 * SECOND, LAST).is_err());
        health.credential_changed(now + 32 * SECOND);
        let probe = health.ask(now + 32 * SECOND, NEW).expect("a probe");
        health.dialled(probe, now + 32 * SECOND);
        assert_eq!(health.condition(now + 32 * SECOND), Condition::Well);
    }

    #[test]
    fn a_last_resort_is_tried_every_two_seconds() {
        let mut now = Instant::now();
        let mut health = opened(now);
        for _ in 0..20 {
            now += 2 * SECOND;
            let probe = health.ask(now, LAST).expect("a last resort");
            health.failed(Failed::dial(probe), now, 1.0);
            assert!(health.ask(now + 999 * MS, LAST).is_err());
        }
    }

    #[test]
    fn who_comes_back_is_dialled_slowly() {
        let now = Instant::now();
        let mut health = opened(now);
        let back = now + SECOND;
        let probe = health.ask(back, NEW).expect("half-open");
        health.dialled(probe, back);
        let at: Vec<u128> = (0..20)
            .map(|_| health.ask(back, NEW).expect("well").at - back)
            .map(|wait| wait.as_millis())
            .collect();
        let expected: Vec<u128> = (1..=20).map(|n| n * 50).collect();
        assert_eq!(at, expected);
        let later = back + RAMP;
        assert_eq!(health.ask(later, NEW).map(|grant| grant.at), Ok(later));
    }

    #[test]
    fn a_call_that_goes_on_does_not_wait_in_line() {
        let now = Instant::now();
        let mut health = opened(now);
        let back = now + SECOND;
        let probe = health.ask(back, LIVE).expect("half-open");
        assert!(probe.is_probe && health.ask(back, LIVE).is_err());
        health.dialled(probe, back);
        let at = |health: &mut Health, need| health.ask(back, need).expect("well").at - back;
        assert_eq!(at(&mut health, NEW), 50 * MS);
        for _ in 0..100 {
            assert_eq!(at(&mut health, LIVE), Duration::ZERO);
        }
        assert_eq!(at(&mut health, NEW), 100 * MS);
    }

    #[test]
    fn who_goes_away_makes_room_in_the_line() {
        let now = Instant::now();
        let mut health = opened(now);
        let probe = health.ask(now + SECOND, NEW).expect("half-open");
        health.dialled(probe, now + SECOND);
        let now = now + SECOND;
        let mut next = || health.ask(now, NEW).expect("well");
        let (first, second, third) = (next(), next(), next());
        health.abandoned(second, now);
        assert_eq!(health.ask(now, NEW).expect("well").at, third.at + 50 * MS);
        health.abandoned(first, first.at);
        let last = health.ask(now, NEW).expect("well");
        health.abandoned(last, now);
        assert_eq!(health.ask(now, NEW), Ok(last));
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_another() {
        let now = Instant::now();
        let mut health = opened(now);
        let probe = health.ask(now + SECOND, NEW).expect("half-open");
        health.abandoned(probe, now + SECOND);
        assert!(health.ask(now + SECOND, NEW).expect("another").is_probe);
    }

    proptest! {
        /// Whatever happens, there is one probe at a time, nothing is granted during a pause or before an open
        /// breaker's time, and time heals.
        #[test]
        fn laws(steps in prop::collection::vec((0u64..3_000, 0u8..9, 0.0f64..1.0), 1..300)) {
            let mut now = Instant::now();
            let mut health = Health::default();
            let mut probe: Option<Grant> = None;
            let mut quiet_until = now;
            for (after, step, chance) in steps {
                now += Duration::from_millis(after);
                match step {
                    0..=2 => {
                        if let Ok(grant) = health.ask(now, [NEW, LIVE, LAST][usize::from(step)]) {
                            prop_assert!(now >= quiet_until);
                            prop_assert!(!grant.is_probe || probe.is_none());
                            if grant.is_probe {
                                probe = Some(grant);
                            } else {
                                health.dialled(grant, now);
                            }
                        }
                    }
                    3 | 4 => { health.failed(DIAL, now, chance); }
                    5 => { health.failed(SESSION, now, chance); }
                    6 => {
                        let wait = Duration::from_secs_f64(chance * 5.0);
                        quiet_until = now + wait;
                        health.rate_limited(probe.take(), Some(wait), SECOND, now);
                    }
                    7 => if let Some(grant) = probe.take() {
                        health.failed(Failed::dial(grant), now, chance);
                    },
                    _ => if let Some(grant) = probe.take() {
                        health.dialled(grant, now);
                    },
                }
            }
            if let Some(grant) = probe {
                health.abandoned(grant, now);
            }
            prop_assert!(health.ask(now + 61 * SECOND, NEW).is_ok());
        }
    }
}
