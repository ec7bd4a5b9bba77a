//! On the line of each call: puts the code into what is said, and judges what comes back, frame by frame.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use trunkline::media::SampleRate;
use trunkline::simulator::phone_dialect::{Dialect, RateLimit, TokenTotals};
use trunkline::simulator::phone_tap::Tap;

use super::{Shared, Wiretap};
use crate::code::{Decoder, FRAME, Found, Judge, Tally};
use crate::measure::Measure;
use crate::report::LimitState;
use crate::scenario::Answer;

/// What came of listening to a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Impression {
    pub(super) frames: Tally,
    /// Where both ends are seen: the ways of frames to the simulator, and how often each took so long.
    pub(super) frames_up_us: Vec<(u64, u64)>,
    /// And those of the first frames of replies from there.
    pub(super) frames_down_ms: Vec<f64>,
    /// The run was over, or the call had lasted as long as calls may.
    pub(super) was_told_to_hang_up: bool,
}

/// Where the ear leaves it when the call is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Impression>>);

impl Slot {
    pub(super) fn take(&self) -> Impression {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Ear {
    shared: Arc<Shared>,
    slot: Slot,
    call: u64,
    hang_up_at: Instant,
    was_told_to_hang_up: bool,
    /// While the call lasts, and speech is coded.
    coded: Option<Coded>,
    arrivals: Option<Rhythm>,
    n_tokens: u64,
    frames_down_ms: Vec<f64>,
    /// Values in microseconds that wait to be added to the run's.
    values: Vec<(Measure, u64)>,
}

struct Coded {
    judge: Judge,
    decoder: Decoder,
    is_echo: bool,
    is_speaking: bool,
    n_turns: u64,
    /// When the first frame of each recent turn was due.
    due: VecDeque<(u64, Instant)>,
    last_heard: Option<Instant>,
}

/// Values are handed over by so many: two seconds of a call's frames.
const BATCH: usize = 200;

/// A reply that was heard so shortly before the end had not ended.
const STILL_COMING: Duration = Duration::from_millis(300);

impl Ear {
    pub(super) fn new(shared: &Arc<Shared>, call: u64, due: Instant) -> (Self, Slot) {
        let slot = Slot::default();
        let rate = SampleRate::new(shared.voices.rate()).unwrap_or(SampleRate::HZ_24000);
        let coded = shared.voices.is_coded().then(|| Coded {
            judge: Judge::new(call),
            decoder: Decoder::new(rate),
            is_echo: shared.scenario.call.answer == Answer::Echo,
            is_speaking: false,
            n_turns: 0,
            due: VecDeque::new(),
            last_heard: None,
        });
        // The realtime dialect sends as fast as it can: there is no rhythm to keep.
        let is_paced = shared.scenario.target.dialect() != Ok(Dialect::Realtime);
        let ear = Self {
            shared: Arc::clone(shared),
            slot: slot.clone(),
            call,
            hang_up_at: due + shared.scenario.limits.call_time,
            was_told_to_hang_up: false,
            coded,
            arrivals: is_paced.then(|| Rhythm::new(rate)),
            n_tokens: 0,
            frames_down_ms: Vec::new(),
            values: Vec::with_capacity(BATCH),
        };
        (ear, slot)
    }

    fn record(&mut self, measure: Measure, time: Duration) {
        self.values.push((measure, time.as_micros() as u64));
        if self.values.len() >= BATCH {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let mut report = self.shared.report();
        for (measure, us) in self.values.drain(..) {
            report.record(measure, us);
        }
    }

    /// Where both ends are seen, the way of a frame in one direction can be timed.
    fn wiretap(&self) -> Option<Arc<Wiretap>> {
        self.shared.wiretap.clone()
    }
}

impl Tap for Ear {
    fn speak(&mut self, due: Instant, now: Instant, samples: &mut [i16]) {
        self.record(Measure::SendLag, now.saturating_duration_since(due));
        let Some(coded) = &mut self.coded else { return };
        if samples.first().is_none_or(|sample| *sample == 0) {
            coded.is_speaking = false;
            coded.judge.pause();
            return;
        }
        let stamp = coded.judge.speak();
        self.shared.encoder.write(stamp, samples);
        if !std::mem::replace(&mut coded.is_speaking, true) {
            coded.due.push_back((coded.n_turns, due));
            coded.n_turns += 1;
            if coded.due.len() > 4 {
                coded.due.pop_front();
            }
            if let Some(wiretap) = &self.shared.wiretap {
                wiretap.speaks(stamp, due);
            }
        }
    }

    fn hear(&mut self, now: Instant, samples: &[i16]) {
        let jitter = self
            .arrivals
            .as_mut()
            .and_then(|rhythm| rhythm.arrived(now, samples.len()));
        if let Some(jitter) = jitter {
            self.record(Measure::Jitter, jitter);
        }
        let Some(mut coded) = self.coded.take() else {
            return;
        };
        let mut found = Vec::new();
        coded.decoder.push(samples, |it| found.push(it));
        for it in found {
            coded.last_heard = Some(now);
            if let (Found::Frame(stamp), Some(wiretap)) = (it, self.wiretap())
                && let Some(took) = wiretap.heard(stamp, now)
            {
                self.record(Measure::FrameDown, took);
                self.frames_down_ms.push(took.as_secs_f64() * 1e3);
            }
            let Some(heard) = coded.judge.hear(it) else {
                continue;
            };
            let due = coded.due.iter().find(|(turn, _)| *turn == heard.turn);
            if let Some((_, due)) = due.filter(|_| coded.is_echo) {
                let due = *due + FRAME * heard.in_turn as u32;
                self.record(Measure::FrameRoundTrip, now.saturating_duration_since(due));
            }
        }
        self.coded = Some(coded);
    }

    fn cleared(&mut self, _now: Instant) {
        if let Some(rhythm) = &mut self.arrivals {
            rhythm.pause();
        }
        if let Some(coded) = &mut self.coded {
            coded.judge.cut();
            coded.decoder.reset();
            coded.last_heard = None;
        }
    }

    fn replied(&mut self, tokens: TokenTotals) {
        let total = tokens.input + tokens.output;
        let new = total.saturating_sub(self.n_tokens);
        self.n_tokens = total;
        let before = self.shared.n_tokens.fetch_add(new, Ordering::Relaxed);
        if before + new >= self.shared.scenario.limits.tokens {
            self.shared.stop("tokens");
        }
    }

    fn limited(&mut self, limit: &RateLimit) {
        let name: String = limit.name.chars().take(40).collect();
        let state = LimitState {
            limit: limit.limit,
            least_remaining: limit.remaining,
            told: 1,
        };
        self.shared.report().limit(&name, state);
    }

    fn wants_to_hang_up(&mut self) -> bool {
        let shared = &self.shared;
        self.was_told_to_hang_up |=
            shared.enough.is_cancelled() || Instant::now() >= self.hang_up_at;
        self.was_told_to_hang_up
    }

    fn ended(&mut self, now: Instant) {
        self.hand_over();
        let wiretap = self.shared.wiretap.as_ref();
        let frames_up_us = wiretap.map_or(Vec::new(), |it| it.hung_up(self.call));
        let frames = self.coded.take().map_or(Tally::default(), |coded| {
            let since = coded
                .last_heard
                .map(|heard| now.saturating_duration_since(heard));
            let still_came = since.is_some_and(|since| since < STILL_COMING);
            coded.judge.end(still_came || self.was_told_to_hang_up)
        });
        let mut slot = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Impression {
            frames,
            frames_up_us,
            frames_down_ms: std::mem::take(&mut self.frames_down_ms),
            was_told_to_hang_up: self.was_told_to_hang_up,
        };
    }
}

/// How even the messages of a reply come: as far apart as they are long, if they are paced.
struct Rhythm {
    rate: SampleRate,
    /// When the last message came, how long it was, and how much of the reply has come.
    last: Option<(Instant, Duration, Duration)>,
}

/// A gateway may send so much ahead at the beginning of a reply, which is no jitter.
const LEAD: Duration = Duration::from_millis(300);

/// A longer pause is between replies.
const PAUSE: Duration = Duration::from_millis(400);

impl Rhythm {
    fn new(rate: SampleRate) -> Self {
        Self { rate, last: None }
    }

    fn pause(&mut self) {
        self.last = None;
    }

    fn arrived(&mut self, now: Instant, n_samples: usize) -> Option<Duration> {
        let length = self.rate.duration_of(n_samples);
        let last = self
            .last
            .filter(|(at, ..)| now.saturating_duration_since(*at) < PAUSE);
        let so_far = last.map_or(Duration::ZERO, |(.., so_far)| so_far);
        self.last = Some((now, length, so_far + length));
        let (at, expected, _) = last?;
        (so_far >= LEAD).then(|| (now - at).abs_diff(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uneven_rhythm_is_told_after_the_lead() {
        let mut rhythm = Rhythm::new(SampleRate::HZ_8000);
        let start = Instant::now();
        let mut arrive = |ms: u64| rhythm.arrived(start + Duration::from_millis(ms), 160);
        for n in 0..15 {
            assert_eq!(arrive(n), None);
        }
        assert_eq!(arrive(34), Some(Duration::ZERO));
        assert_eq!(arrive(61), Some(Duration::from_millis(7)));
        assert_eq!(arrive(74), Some(Duration::from_millis(7)));
        assert_eq!(arrive(600), None);
    }
}
