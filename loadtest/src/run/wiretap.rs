//! At the simulator's end of the line: with the callers' ears at the other end, frames can be timed in each direction.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use trunkline::media::SampleRate;
use trunkline::simulator::listener::Listener;

use crate::code::{Decoder, FRAME, Found, MODULUS, Stamp};
use crate::measure::{Measure, Measures};

/// Listens to all sessions of a simulator within this process.
#[derive(Debug, Default)]
pub struct Wiretap {
    /// Written when a session is first heard.
    sessions: RwLock<HashMap<u64, Arc<Mutex<Session>>>>,
    calls: Mutex<HashMap<u16, Call>>,
    measures: Mutex<Measures>,
}

#[derive(Debug)]
struct Session {
    appended: Decoder,
    said: Decoder,
    last_said: Option<std::time::Instant>,
    last_appended: std::time::Instant,
}

/// What is known of a call at both ends.
#[derive(Debug, Default)]
struct Call {
    /// The first frame of what the caller says, and when it was due.
    turn: Option<(u16, Instant)>,
    /// The first frame of the reply, and when it was sent.
    reply: Option<(u16, std::time::Instant)>,
    /// Ways of frames to here, and how often each took so long.
    ways_up_us: BTreeMap<u64, u64>,
}

/// A pause between two deltas that is longer is between replies.
const PAUSE: Duration = Duration::from_millis(300);

/// With so many sessions, those that were not appended to for so long are forgotten: nobody says when one ends.
const MAX_SESSIONS: usize = 4_096;
const FORGOTTEN: Duration = Duration::from_secs(60);

impl Wiretap {
    /// A caller begins to speak.
    pub(super) fn speaks(&self, stamp: Stamp, due: Instant) {
        let mut calls = lock(&self.calls);
        calls.entry(stamp.call).or_default().turn = Some((stamp.sequence, due));
    }

    /// A caller heard a frame. If it is the first of a reply: how long its way took.
    pub(super) fn heard(&self, stamp: Stamp, now: Instant) -> Option<Duration> {
        let mut calls = lock(&self.calls);
        let call = calls.get_mut(&stamp.call)?;
        let (_, at) = call
            .reply
            .take_if(|(sequence, _)| *sequence == stamp.sequence)?;
        Some(now.into_std().saturating_duration_since(at))
    }

    /// The call is over: the ways of its frames to here in microseconds, and how often each.
    pub(super) fn hung_up(&self, call: u64) -> Vec<(u64, u64)> {
        let call = lock(&self.calls).remove(&Stamp::new(call, 0).call);
        call.map_or(Vec::new(), |it| it.ways_up_us.into_iter().collect())
    }

    /// What was measured here since it was last asked for.
    #[must_use]
    pub fn take(&self) -> Measures {
        std::mem::take(&mut *lock(&self.measures))
    }

    fn session(
        &self,
        number: u64,
        now: std::time::Instant,
        rate: SampleRate,
    ) -> Arc<Mutex<Session>> {
        let known = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = known.get(&number) {
            return Arc::clone(session);
        }
        drop(known);
        let session = Arc::new(Mutex::new(Session {
            appended: Decoder::new(rate),
            said: Decoder::new(rate),
            last_said: None,
            last_appended: now,
        }));
        let mut sessions = self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MAX_SESSIONS {
            let is_live = |it: &Arc<Mutex<Session>>| {
                now.saturating_duration_since(lock(it).last_appended) < FORGOTTEN
            };
            sessions.retain(|_, it| is_live(it));
        }
        Arc::clone(sessions.entry(number).or_insert(session))
    }

    /// How long a frame's way to the simulator took.
    fn way_up(&self, stamp: Stamp, now: std::time::Instant) -> Option<Duration> {
        let mut calls = lock(&self.calls);
        let call = calls.get_mut(&stamp.call)?;
        let (first, due) = call.turn?;
        let n = (stamp.sequence + MODULUS - first) % MODULUS;
        // What is from before this turn is about half a minute "ahead" of it.
        let due = (due + FRAME * u32::from(n)).into_std();
        let way = (n < MODULUS / 2).then(|| now.saturating_duration_since(due))?;
        let us = rounded(way.as_micros() as u64);
        *call.ways_up_us.entry(us).or_default() += 1;
        Some(way)
    }
}

/// In the middle of its bucket, which is no wider than a hundredth of it: a call has few different ones.
fn rounded(us: u64) -> u64 {
    let width = 1 << us.checked_ilog2().unwrap_or_default().saturating_sub(7);
    us / width * width + width / 2
}

impl Listener for Wiretap {
    fn appended(&self, session: u64, now: std::time::Instant, samples: &[i16], rate: SampleRate) {
        let session = self.session(session, now, rate);
        let mut session = lock(&session);
        session.last_appended = now;
        let mut ways = Vec::new();
        session.appended.push(samples, |found| {
            if let Found::Frame(stamp) = found {
                ways.extend(self.way_up(stamp, now));
            }
        });
        if !ways.is_empty() {
            let mut measures = lock(&self.measures);
            for way in ways {
                measures.record(Measure::FrameUp, way.as_micros() as u64);
            }
        }
    }

    fn said(&self, session: u64, now: std::time::Instant, samples: &[i16], rate: SampleRate) {
        let session = self.session(session, now, rate);
        let mut session = lock(&session);
        let is_new = session
            .last_said
            .is_none_or(|last| now.saturating_duration_since(last) > PAUSE);
        if is_new {
            session.said.reset();
        }
        let mut first = None;
        session.said.push(samples, |found| {
            if let Found::Frame(stamp) = found {
                first.get_or_insert(stamp);
            }
        });
        // Silence at the beginning of a reply is not its beginning.
        if first.is_none() && is_new {
            return;
        }
        session.last_said = Some(now);
        if let Some(stamp) = first.filter(|_| is_new)
            && let Some(call) = lock(&self.calls).get_mut(&stamp.call)
        {
            call.reply = Some((stamp.sequence, now));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_rounded_to_half_a_hundredth() {
        for us in (0..2_000).chain([9_999, 123_456, 3_600_000_000]) {
            let error = rounded(us).abs_diff(us) as f64;
            assert!(error <= us as f64 / 200.0, "{us}: {}", rounded(us));
        }
    }
}
