//! What a call will need: each response reads the whole conversation again, so that a call needs more as it ages.
//!
//! With `r` responses a minute, a context of `c` tokens at the next response that grows by `g` a response, and `o`
//! tokens written each time, a call needs `r * (c + o - g / 2)` tokens a minute now, and `r * r * g` more in each
//! minute (protocol reference 6.2; the half is because a minute's responses are on average half a step behind the line).
//! All four are learnt from the call's own responses, and before them from calls of its kind. Pure: time comes in.

use std::time::{Duration, Instant};

use crate::call::Usage;

use super::account::Estimate;
use super::provisioned::{Weights, cached, input, output};
use super::settings::Expect;
use super::store::Demand;

/// Audio of a caller, tokens a second (protocol reference 6.1: one for 100 ms).
const CALLER_TOKENS: f64 = 10.0;

/// Of a reply, tokens a second: 20 of audio (one for 50 ms), and 5 of its words (6.2: 25 for 5 s).
const REPLY_TOKENS: f64 = 25.0;

/// How far back the rate of responses is remembered.
const MEMORY_MINUTES: f64 = 3.0;

/// What is known before the first response counts as much as this of the call itself, in minutes.
const PRIOR_MINUTES: f64 = 0.75;

/// A newer response counts at least this much in an average.
const LEAST_WEIGHT: f64 = 0.2;

/// Calls of a kind that its first figures count as.
const PRIOR_CALLS: f64 = 4.0;

/// What is left of an older call's weight in a kind's average when another one ends.
const FADE: f64 = 0.95;

/// What one call of a kind is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Tokens that the first response reads.
    pub first_input: f64,
    /// Tokens that the context grows by in a response.
    pub growth: f64,
    /// The same of what does not come from the cache.
    pub uncached_growth: f64,
    /// Tokens that a response writes.
    pub output: f64,
    /// Responses a minute.
    pub per_minute: f64,
    /// Tokens that fit the context.
    pub context: f64,
}

impl Profile {
    /// What an operator expects. Nothing is expected of the cache.
    #[must_use]
    pub fn of(expect: &Expect) -> Self {
        let caller = CALLER_TOKENS * expect.caller_seconds_per_turn;
        let reply = REPLY_TOKENS * expect.reply_seconds_per_turn;
        Self {
            first_input: f64::from(expect.instructions_tokens) + caller,
            growth: caller + reply,
            uncached_growth: caller + reply,
            output: reply,
            per_minute: expect.turns_per_minute,
            context: f64::from(expect.context_tokens),
        }
    }
}

/// What calls of one agent or model are like: expected by the operator, then learnt from those that were.
#[derive(Clone, Debug)]
pub struct Kind {
    profile: Profile,
    /// Calls that the profile is the average of.
    n_calls: f64,
    /// Minutes that calls of this kind have been alive, live ones included.
    minutes: f64,
    /// Calls that have ended in these minutes.
    n_ended: f64,
}

impl Kind {
    /// A kind of which only the operator's expectation is known.
    #[must_use]
    pub fn new(expect: &Expect) -> Self {
        Self {
            profile: Profile::of(expect),
            n_calls: PRIOR_CALLS,
            minutes: expect.mean_minutes * PRIOR_CALLS,
            n_ended: PRIOR_CALLS,
        }
    }

    /// What its calls are like.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// How long its calls go on from any moment in them, on average: minutes lived by all calls for each that ended,
    /// so that the calls that are still alive count too and long ones are not overlooked.
    #[must_use]
    pub fn mean_minutes(&self) -> f64 {
        (self.minutes / self.n_ended).max(0.1)
    }

    /// Calls of this kind lived for so long, in all.
    pub fn lived(&mut self, minutes: f64) {
        self.minutes += minutes;
    }

    /// A call ended.
    pub fn ended(&mut self, call: &CallForecast) {
        self.minutes *= FADE;
        self.n_ended = self.n_ended * FADE + 1.0;
        let Some(seen) = call.profile() else {
            return;
        };
        self.n_calls = self.n_calls * FADE + 1.0;
        let weight = 1.0 / self.n_calls;
        let mix = |own: &mut f64, seen: f64| *own += weight * (seen - *own);
        let own = &mut self.profile;
        mix(&mut own.first_input, seen.first_input);
        mix(&mut own.growth, seen.growth);
        mix(&mut own.uncached_growth, seen.uncached_growth);
        mix(&mut own.output, seen.output);
        mix(&mut own.per_minute, seen.per_minute);
    }
}

/// The forecast of one call.
#[derive(Clone, Debug)]
pub struct CallForecast {
    prior: Profile,
    began: Instant,
    /// When the last response ended.
    last: Option<Instant>,
    n_responses: u32,
    first_input: f64,
    /// Responses, and the minutes from each to the next, those longer ago than [`MEMORY_MINUTES`] faded.
    recent: f64,
    recent_minutes: f64,
    /// How much the time between responses varies, as a share of it.
    unevenness: f64,
    input: Growing,
    uncached: Growing,
    output: f64,
}

/// What a response reads, and how that grows.
#[derive(Clone, Copy, Debug)]
struct Growing {
    last: f64,
    growth: f64,
}

impl Growing {
    fn next(&self) -> f64 {
        self.last + self.growth
    }

    /// The `n`th response, from 1, read that much.
    fn read(&mut self, tokens: f64, n: u32) {
        if n > 1 {
            // What was cut off the conversation is no growth; the next responses grow from there.
            let grown = (tokens - self.last).max(0.0);
            self.growth += weight_of(n - 1) * (grown - self.growth);
        }
        self.last = tokens;
    }
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}

/// How much the `n`th of a series counts in its average, from 1, one more being known beforehand.
fn weight_of(n: u32) -> f64 {
    (1.0 / (f64::from(n) + 1.0)).max(LEAST_WEIGHT)
}

impl CallForecast {
    /// A call that begins now and is like others of its kind.
    #[must_use]
    pub fn new(profile: &Profile, now: Instant) -> Self {
        Self {
            prior: *profile,
            began: now,
            last: None,
            n_responses: 0,
            first_input: profile.first_input,
            recent: 0.0,
            recent_minutes: 0.0,
            unevenness: 0.5,
            input: Growing {
                last: profile.first_input - profile.growth,
                growth: profile.growth,
            },
            uncached: Growing {
                last: profile.first_input - profile.uncached_growth,
                growth: profile.uncached_growth,
            },
            output: profile.output,
        }
    }

    /// A response ended. One that used nothing says nothing.
    pub fn responded(&mut self, usage: &Usage, now: Instant) {
        if usage.total() == 0 {
            return;
        }
        self.n_responses += 1;
        let n = self.n_responses;
        let tokens = input(usage) as f64;
        if n == 1 {
            self.first_input = tokens;
        }
        let last = self.last.unwrap_or(self.began);
        let waited = minutes(now.saturating_duration_since(last));
        if n > 1 {
            let usual = 1.0 / self.per_minute(last);
            let off = ((waited - usual).abs() / usual).min(1.0);
            self.unevenness += weight_of(n - 1) * (off - self.unevenness);
        }
        let kept = (-waited / MEMORY_MINUTES).exp();
        self.recent = self.recent * kept + 1.0;
        self.recent_minutes = self.recent_minutes * kept + waited;
        self.last = Some(now);
        self.input.read(tokens, n);
        self.uncached.read(tokens - cached(usage) as f64, n);
        self.output += weight_of(n) * (output(usage) as f64 - self.output);
    }

    /// Responses a minute. Time since the last one counts once it is longer than usual.
    #[must_use]
    pub fn per_minute(&self, now: Instant) -> f64 {
        let last = self.last.unwrap_or(self.began);
        let age = minutes(last.saturating_duration_since(self.began));
        let prior_minutes = PRIOR_MINUTES * (-age / MEMORY_MINUTES).exp();
        let responses = self.recent + self.prior.per_minute * prior_minutes;
        let usual = (self.recent_minutes + prior_minutes) / responses;
        let waited = minutes(now.saturating_duration_since(last));
        let late = (waited - usual).max(0.0);
        responses / (self.recent_minutes + prior_minutes + late).max(1e-3)
    }

    /// What the next response will take.
    #[must_use]
    pub fn next_response(&self, max_output: Option<f64>) -> Estimate {
        let input = self.input.next().clamp(0.0, self.prior.context);
        Estimate {
            input,
            cached: (input - self.uncached.next()).clamp(0.0, input),
            max_output,
        }
    }

    /// What a response that was broken off has probably used.
    #[must_use]
    pub fn likely_usage(&self) -> Usage {
        let next = self.next_response(None);
        Usage {
            input_text: next.input as u64,
            cached_text: next.cached as u64,
            output_audio: self.output as u64,
            ..Usage::default()
        }
    }

    /// Tokens a minute, as rate limits count them. `mean_minutes`: how long the call goes on, on average.
    #[must_use]
    pub fn demand(&self, mean_minutes: f64, now: Instant) -> Demand {
        let cap = self.prior.context;
        self.line(&self.input, self.output, cap, mean_minutes, now)
    }

    /// Weighted tokens a minute, as provisioned throughput counts them.
    #[must_use]
    pub fn weighted_demand(&self, weights: &Weights, mean_minutes: f64, now: Instant) -> Demand {
        let discount = weights.cached_discount;
        let weigh = |all: f64, uncached: f64| all - discount * (all - uncached);
        let read = Growing {
            last: weigh(self.input.last, self.uncached.last),
            growth: weigh(self.input.growth, self.uncached.growth),
        };
        let written = weights.output * self.output;
        let cap = self.prior.context;
        self.line(&read, written, cap, mean_minutes, now)
    }

    fn line(
        &self,
        read: &Growing,
        written: f64,
        cap: f64,
        mean_minutes: f64,
        now: Instant,
    ) -> Demand {
        let rate = self.per_minute(now);
        let next = read.next().clamp(0.0, cap);
        let steps_left = if read.growth > 0.0 {
            (cap - next) / read.growth
        } else {
            f64::INFINITY
        };
        if steps_left < 1.0 {
            return Demand {
                now: rate * (cap + written),
                growth: 0.0,
            };
        }
        let demand = Demand {
            now: (rate * (next + written - read.growth / 2.0)).max(0.0),
            growth: rate * rate * read.growth,
        };
        bounded(demand, steps_left / rate, mean_minutes)
    }

    /// Tokens that the call's next `horizon` will take, response by response, should it go on for `mean_minutes` on
    /// average.
    #[must_use]
    pub fn expected(&self, horizon: Duration, mean_minutes: f64, now: Instant) -> f64 {
        let every = 60.0 / self.per_minute(now);
        let since = now.saturating_duration_since(self.last.unwrap_or(self.began));
        // Who is late comes soon, and nobody knows when.
        let first = (every - since.as_secs_f64()).max(every / 4.0);
        let horizon = horizon.as_secs_f64();
        let mut total = 0.0;
        let mut read = self.input.next();
        for n in 0_u32.. {
            let at = first + f64::from(n) * every;
            let spread = every * self.unevenness * f64::from(n + 1).sqrt();
            if at - spread > horizon {
                break;
            }
            let is_within = ((horizon - at) / (2.0 * spread.max(0.01)) + 0.5).clamp(0.0, 1.0);
            let is_alive = (-at / 60.0 / mean_minutes).exp();
            total += is_within * is_alive * (read.min(self.prior.context) + self.output);
            read += self.input.growth;
        }
        total
    }

    /// How long it has lasted.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// What the call was like; none without a response.
    fn profile(&self) -> Option<Profile> {
        let last = self.last?;
        let has_growth = self.n_responses > 1;
        let grown = |own: f64, prior: f64| if has_growth { own } else { prior };
        Some(Profile {
            first_input: self.first_input,
            growth: grown(self.input.growth, self.prior.growth),
            uncached_growth: grown(self.uncached.growth, self.prior.uncached_growth),
            output: self.output,
            per_minute: self.per_minute(last),
            context: self.prior.context,
        })
    }
}

/// A line that has the same highest point as a demand that stops growing after `minutes`, both of them weighed by how
/// probable it is that the call still lives then. A call that fills its context would else seem to grow for ever.
fn bounded(demand: Demand, minutes: f64, mean_minutes: f64) -> Demand {
    let Demand { now, growth } = demand;
    // Where the weighed line is highest.
    let peak_at = mean_minutes - now / growth.max(f64::MIN_POSITIVE);
    if growth <= 0.0 || peak_at <= minutes {
        return demand;
    }
    let peak = (-minutes / mean_minutes).exp() * (now + growth * minutes);
    let peak_of = |growth: f64| {
        let at = (mean_minutes - now / growth).max(0.0);
        (-at / mean_minutes).exp() * (now + growth * at)
    };
    let (mut low, mut high) = (now / mean_minutes, growth);
    for _ in 0..32 {
        let middle = f64::midpoint(low, high);
        if peak_of(middle) < peak {
            low = middle;
        } else {
            high = middle;
        }
    }
    Demand { now, growth: high }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER_ENDS: f64 = 1e9;

    /// Minutes that a call goes on, on average: few enough for the context not to fill before most calls end.
    const MEAN: f64 = 40.0;

    fn after(minutes: f64) -> Duration {
        Duration::from_secs_f64(minutes * 60.0)
    }

    /// The call of the reference (6.2) after so many minutes: 4 turns each, the last just now.
    fn call_of_the_reference(age: u32, now: Instant) -> CallForecast {
        let mut call = CallForecast::new(&Profile::of(&Expect::default()), now);
        for n in 0..age * 4 {
            let at = now + after(f64::from(n + 1) / 4.0);
            call.responded(&turn(n), at);
        }
        call
    }

    /// Its `n`th response, from 0: 500 of instructions, 155 of each turn before, 30 of the caller.
    fn turn(n: u32) -> Usage {
        let n = u64::from(n);
        Usage {
            input_text: 500 + 25 * n,
            input_audio: 130 * n + 30,
            output_text: 25,
            output_audio: 100,
            ..Usage::default()
        }
    }

    /// What a line gives for the minute after `from`.
    fn in_minute(demand: Demand, from: f64) -> f64 {
        demand.now + demand.growth * (from + 0.5)
    }

    #[test]
    fn the_capacity_table_of_the_reference() {
        let now = Instant::now();
        let call = call_of_the_reference(0, now);
        let demand = call.demand(MEAN, now);
        for (minute, tokens, calls) in [
            (1.0, 3_550.0, 28.0),
            (5.0, 13_470.0, 7.0),
            (10.0, 25_870.0, 3.9),
            (30.0, 75_470.0, 1.3),
        ] {
            let expected = in_minute(Demand { ..demand }, minute - 1.0);
            assert!((expected - tokens).abs() < 1e-6, "{minute}: {expected}");
            assert!((100_000.0 / tokens - calls).abs() < 0.5, "{minute}");
        }
        // And the same from the responses themselves.
        for (minute, tokens) in [(1, 3_550), (5, 13_470), (10, 25_870), (30, 75_470)] {
            let turns = (minute - 1) * 4..minute * 4;
            let total: u64 = turns.map(|n| turn(n).total()).sum();
            assert_eq!(total, tokens);
        }
    }

    #[test]
    fn the_next_minute_is_known_at_any_age() {
        let now = Instant::now();
        for age in [1_u32, 2, 5, 10, 20] {
            let call = call_of_the_reference(age, now);
            // Half a turn after the last one.
            let then = now + after(f64::from(age) + 0.125);
            let next: u64 = (age * 4..age * 4 + 4).map(|n| turn(n).total()).sum();
            let demand = call.demand(MEAN, then);
            let by_line = in_minute(demand, 0.0);
            let by_steps = call.expected(after(1.0), NEVER_ENDS, then);
            for expected in [by_line, by_steps] {
                let error = (expected - next as f64).abs() / next as f64;
                assert!(error < 0.05, "after {age} min: {expected} for {next}");
            }
        }
    }

    #[test]
    fn a_call_that_talks_less_than_its_kind_is_believed() {
        let now = Instant::now();
        let mut call = CallForecast::new(&Profile::of(&Expect::default()), now);
        let at_first = call.demand(MEAN, now);
        for n in 0..6 {
            call.responded(&turn(n), now + after(f64::from(n + 1)));
        }
        let then = now + after(6.0);
        assert!((call.per_minute(then) - 1.0).abs() < 0.45);
        assert!(call.demand(MEAN, then).growth < at_first.growth / 4.0);
        // Whoever falls silent needs less and less.
        assert!(call.per_minute(then + after(5.0)) < 0.5);
    }

    #[test]
    fn a_full_context_no_longer_grows() {
        let now = Instant::now();
        let mut call = CallForecast::new(&Profile::of(&Expect::default()), now);
        let full = Usage {
            input_text: 28_672,
            output_audio: 125,
            ..Usage::default()
        };
        for n in 1..=8 {
            call.responded(&full, now + after(f64::from(n) / 4.0));
        }
        let demand = call.demand(NEVER_ENDS, now + after(2.0));
        let rate = call.per_minute(now + after(2.0));
        assert_eq!(demand.growth, 0.0);
        assert!((demand.now - rate * (28_672.0 + call.output)).abs() < 1e-6);
        assert_eq!(call.next_response(None).input, 28_672.0);
    }

    #[test]
    fn a_line_keeps_the_highest_point_of_a_demand_that_stops_growing() {
        let weighed_peak = |demand: Demand, until: f64, mean: f64| {
            let steps = (0..20_000).map(|n| f64::from(n) * 0.01);
            steps
                .map(|at| (-at / mean).exp() * (demand.now + demand.growth * at.min(until)))
                .fold(0.0, f64::max)
        };
        for (now, growth, until, mean) in [
            (2_310.0, 2_480.0, 45.0, 5.0),
            (2_310.0, 2_480.0, 15.0, 60.0),
            (2_310.0, 2_480.0, 4.5, 30.0),
            (60_000.0, 2_480.0, 10.0, 30.0),
        ] {
            let demand = Demand { now, growth };
            let line = bounded(demand, until, mean);
            let wanted = weighed_peak(demand, until, mean);
            let found = weighed_peak(line, f64::INFINITY, mean);
            assert!(
                (found / wanted - 1.0).abs() < 0.01,
                "{now} {growth} {until} {mean}: {found} for {wanted}"
            );
        }
    }

    #[test]
    fn cached_tokens_count_less_where_throughput_is_provisioned() {
        let now = Instant::now();
        let mut call = CallForecast::new(&Profile::of(&Expect::default()), now);
        for n in 0..8 {
            let mut usage = turn(n);
            // All but the newest turn comes from the cache.
            usage.cached_text = usage.input_text;
            usage.cached_audio = usage.input_audio.saturating_sub(155);
            call.responded(&usage, now + after(f64::from(n + 1) / 4.0));
        }
        let then = now + after(2.0);
        let weights = Weights {
            output: 4.0,
            cached_discount: 1.0,
        };
        let weighted = call.weighted_demand(&weights, MEAN, then);
        let rate = call.per_minute(then);
        // 155 that are new, and four times 125.
        assert!((weighted.now / rate - 655.0).abs() < 40.0, "{weighted:?}");
        let all = Weights {
            output: 1.0,
            cached_discount: 0.0,
        };
        let counted = call.weighted_demand(&all, MEAN, then);
        assert_eq!(counted, call.demand(MEAN, then));
        assert!(weighted.growth < counted.growth);
    }

    #[test]
    fn kinds_learn_from_calls_that_ended_and_from_those_that_have_not() {
        let now = Instant::now();
        let mut kind = Kind::new(&Expect::default());
        assert_eq!(kind.mean_minutes(), 5.0);
        // Ten calls live for half an hour, and none has ended.
        kind.lived(300.0);
        assert_eq!(kind.mean_minutes(), 80.0);
        for _ in 0..200 {
            let mut call = CallForecast::new(kind.profile(), now);
            for n in 0..4 {
                let mut usage = turn(n);
                usage.input_text += 1_000;
                call.responded(&usage, now + after(f64::from(n + 1) / 2.0));
            }
            kind.lived(2.0);
            kind.ended(&call);
        }
        assert!(
            (kind.mean_minutes() - 2.0).abs() < 0.2,
            "{}",
            kind.mean_minutes()
        );
        let profile = kind.profile();
        assert!((profile.first_input - 1_530.0).abs() < 10.0);
        assert!((profile.growth - 155.0).abs() < 1.0);
        assert!((profile.per_minute - 2.0).abs() < 0.3, "{profile:?}");
        // A call without a response tells only how long it was.
        let before = *kind.profile();
        kind.ended(&CallForecast::new(&before, now));
        assert_eq!(*kind.profile(), before);
    }

    proptest! {
        /// Whatever a deployment says it used, what is forecast is a number, not negative, and not above what fits.
        #[test]
        fn forecasts_are_numbers(responses in proptest::collection::vec((0_u64..40_000, 0_u64..40_000, 0_u64..5_000, 0_u64..100_000), 0..40)) {
            let began = Instant::now();
            let mut now = began;
            let mut call = CallForecast::new(&Profile::of(&Expect::default()), began);
            for (input_text, cached_text, output_audio, ms) in responses {
                now += Duration::from_millis(ms);
                call.responded(&Usage { input_text, cached_text, output_audio, ..Usage::default() }, now);
                let weights = Weights { output: 4.0, cached_discount: 1.0 };
                for demand in [call.demand(5.0, now), call.weighted_demand(&weights, 5.0, now)] {
                    prop_assert!(demand.now.is_finite() && demand.now >= 0.0, "{demand:?}");
                    prop_assert!(demand.growth.is_finite() && demand.growth >= 0.0, "{demand:?}");
                }
                let next = call.next_response(None);
                prop_assert!(next.input <= 28_672.0 && next.cached <= next.input && next.cached >= 0.0);
                prop_assert!(call.expected(Duration::from_secs(60), 5.0, now).is_finite());
            }
        }
    }
}
