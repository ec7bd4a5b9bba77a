//! Whether the process has room for one more call: decides from what was measured. A pure core; `sample` measures.
//!
//! Calls that were admitted are never touched: refusing new ones is all that is done.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// The `[listener.shed]` table (limits reference). Zero switches a signal off.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShedConfig {
    /// No new calls while tasks wake up later than this: the 99th percentile over 2 s.
    #[serde(with = "humantime_serde")]
    pub loop_lag: Duration,
    /// Connections are not kept for a further request while this share of the control group's memory is used.
    pub memory_keep_alive: f64,
    /// No new calls while this share of the control group's memory is used.
    pub memory_calls: f64,
    /// No new calls while fewer file descriptors than this are left.
    pub descriptors: u64,
}

impl Default for ShedConfig {
    fn default() -> Self {
        Self {
            loop_lag: Duration::from_millis(15),
            memory_keep_alive: 0.85,
            memory_calls: 0.92,
            descriptors: 64,
        }
    }
}

impl ShedConfig {
    /// What cannot work: the field and why.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let shares = [
            ("memory_keep_alive", self.memory_keep_alive),
            ("memory_calls", self.memory_calls),
        ];
        let bad = shares
            .into_iter()
            .filter(|(_, share)| !(0.0..=1.0).contains(share));
        bad.map(|(field, _)| (field, "must be a share from 0 to 1".to_owned()))
            .collect()
    }

    /// The signals that are switched off.
    #[must_use]
    pub fn switched_off(&self) -> Vec<&'static str> {
        let signals = [
            ("loop_lag", self.loop_lag.is_zero()),
            ("memory_calls", self.memory_calls == 0.0),
            ("descriptors", self.descriptors == 0),
        ];
        let off = signals.into_iter().filter(|(_, is_off)| *is_off);
        off.map(|(field, _)| field).collect()
    }
}

/// What was measured; what could not be is `None` and says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// How late tasks wake up: the 99th percentile over 2 s.
    pub loop_lag: Option<Duration>,
    /// Share of the control group's memory that is used.
    pub memory: Option<f64>,
    /// File descriptors that are left.
    pub descriptors: Option<u64>,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// File descriptors.
    Descriptors,
}

impl Overload {
    /// All.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Descriptors];

    /// The reason that refused callers and metrics are given.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "overloaded_cpu",
            Self::Memory => "overloaded_memory",
            Self::Descriptors => "overloaded_descriptors",
        }
    }
}

/// How long a signal must have been good before calls are taken again. With the gap between the two thresholds it
/// keeps the door from flapping.
const RECOVERY: Duration = Duration::from_secs(2);

/// The decision, kept between measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shedder {
    config: ShedConfig,
    cpu: Switch,
    memory: Switch,
    keep_alive: Switch,
    descriptors: Switch,
}

impl Shedder {
    pub(super) fn new(config: ShedConfig) -> Self {
        Self {
            config,
            cpu: Switch::default(),
            memory: Switch::default(),
            keep_alive: Switch::default(),
            descriptors: Switch::default(),
        }
    }

    /// Judges by these thresholds from the next measurement on.
    pub(super) fn set_config(&mut self, config: ShedConfig) {
        self.config = config;
    }

    /// Takes a measurement. A signal turns on beyond its threshold and off a fifth (of memory: 5 points) below it.
    pub(super) fn observe(&mut self, signals: Signals, now: Instant) {
        let config = self.config;
        let lag = signals.loop_lag.filter(|_| !config.loop_lag.is_zero());
        self.cpu.set(
            lag.is_some_and(|lag| lag > config.loop_lag),
            lag.is_none_or(|lag| lag <= config.loop_lag * 4 / 5),
            now,
        );
        for (switch, threshold) in [
            (&mut self.memory, config.memory_calls),
            (&mut self.keep_alive, config.memory_keep_alive),
        ] {
            let used = signals.memory.filter(|_| threshold > 0.0);
            switch.set(
                used.is_some_and(|used| used >= threshold),
                used.is_none_or(|used| used < threshold - 0.05),
                now,
            );
        }
        let left = signals.descriptors.filter(|_| config.descriptors > 0);
        self.descriptors.set(
            left.is_some_and(|left| left < config.descriptors),
            left.is_none_or(|left| left >= config.descriptors + config.descriptors / 5),
            now,
        );
    }

    /// What there is too little of for one more call.
    pub(super) fn overload(&self) -> Option<Overload> {
        Overload::ALL.into_iter().find(|which| self.is_on(*which))
    }

    /// Whether there is too little of that for one more call.
    pub(super) fn is_on(&self, overload: Overload) -> bool {
        match overload {
            Overload::Cpu => self.cpu.is_on,
            Overload::Memory => self.memory.is_on,
            Overload::Descriptors => self.descriptors.is_on,
        }
    }

    /// Whether connections may be kept for a further request.
    pub(super) fn may_keep_alive(&self) -> bool {
        !self.keep_alive.is_on
    }
}

/// On at once, off after a while.
#[derive(Clone, Copy, Debug, Default)]
struct Switch {
    is_on: bool,
    good_since: Option<Instant>,
}

impl Switch {
    fn set(&mut self, is_bad: bool, is_good: bool, now: Instant) {
        if is_bad {
            self.is_on = true;
        }
        if !is_good {
            self.good_since = None;
            return;
        }
        let since = *self.good_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= RECOVERY {
            self.is_on = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds one measurement each 500 ms and notes whether calls are refused.
    fn check(signals: &[Signals], expected: &[Option<Overload>]) {
        let begin = Instant::now();
        let mut shedder = Shedder::new(ShedConfig::default());
        for (n, (signals, expected)) in signals.iter().zip(expected).enumerate() {
            let now = begin + Duration::from_millis(500) * n as u32;
            shedder.observe(*signals, now);
            assert_eq!(shedder.overload(), *expected, "{n}: {signals:?}");
        }
        assert_eq!(signals.len(), expected.len());
    }

    fn lag(ms: u64) -> Signals {
        Signals {
            loop_lag: Some(Duration::from_millis(ms)),
            ..Signals::default()
        }
    }

    fn memory(used: f64) -> Signals {
        Signals {
            memory: Some(used),
            ..Signals::default()
        }
    }

    fn left(descriptors: u64) -> Signals {
        Signals {
            descriptors: Some(descriptors),
            ..Signals::default()
        }
    }

    #[test]
    fn each_signal_has_its_threshold() {
        check(&[lag(15), lag(16)], &[None, Some(Overload::Cpu)]);
        check(
            &[memory(0.919), memory(0.92)],
            &[None, Some(Overload::Memory)],
        );
        check(&[left(64), left(63)], &[None, Some(Overload::Descriptors)]);
        check(&[Signals::default()], &[None]);
    }

    #[test]
    fn the_door_does_not_flap() {
        let cpu = Some(Overload::Cpu);
        // Between the two thresholds nothing changes, and being good must last for 2 s.
        check(
            &[
                lag(16),
                lag(13),
                lag(12),
                lag(12),
                lag(14),
                lag(12),
                lag(1),
                lag(1),
                lag(1),
                lag(1),
            ],
            &[cpu, cpu, cpu, cpu, cpu, cpu, cpu, cpu, cpu, None],
        );
        let memory_on = Some(Overload::Memory);
        check(
            &[memory(0.93), memory(0.88), memory(0.88), memory(0.86)],
            &[memory_on; 4],
        );
    }

    #[test]
    fn connections_are_no_longer_kept_before_calls_are_refused() {
        let mut shedder = Shedder::new(ShedConfig::default());
        let now = Instant::now();
        shedder.observe(memory(0.849), now);
        assert!(shedder.may_keep_alive());
        shedder.observe(memory(0.85), now);
        assert!(!shedder.may_keep_alive() && shedder.overload().is_none());
    }

    #[test]
    fn what_is_switched_off_sheds_nothing() {
        let config: ShedConfig = toml::from_str(
            "loop_lag = '0s'\nmemory_keep_alive = 0.0\nmemory_calls = 0.0\ndescriptors = 0",
        )
        .unwrap();
        let mut shedder = Shedder::new(config);
        let worst = Signals {
            loop_lag: Some(Duration::from_secs(9)),
            memory: Some(1.0),
            descriptors: Some(0),
        };
        shedder.observe(worst, Instant::now());
        assert!(shedder.overload().is_none() && shedder.may_keep_alive());
        assert_eq!(config.switched_off().len(), 3);
        assert!(config.mistakes().is_empty());
        let config = ShedConfig {
            memory_calls: 92.0,
            ..ShedConfig::default()
        };
        assert_eq!(config.mistakes()[0].0, "memory_calls");
    }
}
