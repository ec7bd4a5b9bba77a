//! When callers come: an open stream of arrivals that no answer slows down, or a number of callers kept up.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::span::parse_time;

/// The `[arrivals]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "process", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// So many callers are kept up: each calls again when its call is over.
    Hold {
        /// Callers.
        calls: u32,
        /// The first calls are spread evenly over this time.
        #[serde(default = "ten_seconds", with = "humantime_serde")]
        over: Duration,
    },
    /// One after the other, at even distances.
    Constant {
        /// Calls a second.
        rate: f64,
    },
    /// At random, independent of each other, as callers do.
    Poisson {
        /// Calls a second, on average.
        rate: f64,
    },
    /// At random, at a rate that grows (or falls) evenly, and stays.
    Ramp {
        /// Calls a second at the beginning.
        from: f64,
        /// Calls a second at the end.
        to: f64,
        /// The time between.
        #[serde(with = "humantime_serde")]
        over: Duration,
    },
    /// Many at the same moment, again and again.
    Burst {
        /// Calls at a time.
        size: u32,
        /// From one burst to the next.
        #[serde(with = "humantime_serde")]
        every: Duration,
    },
    /// At these times.
    Trace {
        /// Times since the beginning, in order.
        #[serde(default)]
        at: Vec<String>,
        /// A file with one such time a line; a number without a unit is in seconds.
        #[serde(default)]
        file: Option<PathBuf>,
    },
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::Hold {
            calls: 1,
            over: Duration::ZERO,
        }
    }
}

impl Arrivals {
    /// Reads a trace's file and checks the numbers.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&mut self) -> Result<(), String> {
        let good = |rate: f64| rate.is_finite() && rate > 0.0 && rate <= 100_000.0;
        match self {
            Self::Hold { calls: 0, .. } => Err("arrivals.calls: with none, nothing happens".into()),
            Self::Constant { rate } | Self::Poisson { rate } if !good(*rate) => {
                Err("arrivals.rate: must be above 0 calls a second".into())
            }
            Self::Ramp { from, to, over } => {
                let ends = *from >= 0.0 && *to >= 0.0 && good(from.max(*to));
                (ends && !over.is_zero()).then_some(()).ok_or_else(|| {
                    "arrivals: a ramp leads from one rate to another over a time".into()
                })
            }
            Self::Burst { size, every } if *size == 0 || every.is_zero() => {
                Err("arrivals: a burst has a size and comes every so often".into())
            }
            Self::Trace { at, file } => {
                let mut times = Vec::new();
                for text in &*at {
                    let time = trace_time(text).map_err(|error| format!("arrivals.at: {error}"))?;
                    times.push(time);
                }
                if let Some(file) = file {
                    let shown = file.display();
                    let text = std::fs::read_to_string(&*file)
                        .map_err(|error| format!("{shown}: {error}"))?;
                    let lines = text.lines().map(str::trim).zip(1..);
                    for (line, n) in lines.filter(|(line, _)| !line.is_empty()) {
                        let time =
                            trace_time(line).map_err(|error| format!("{shown}:{n}: {error}"))?;
                        times.push(time);
                    }
                }
                times.sort_unstable();
                *at = times
                    .iter()
                    .map(|time| format!("{}us", time.as_micros()))
                    .collect();
                (!at.is_empty())
                    .then_some(())
                    .ok_or_else(|| "arrivals: the trace is empty".into())
            }
            _ => Ok(()),
        }
    }

    /// The times of an open process, in order, without end but for a trace. A process that holds has none.
    #[must_use]
    pub fn times(&self, seed: u64) -> Box<dyn Iterator<Item = Duration> + Send> {
        let mut random = fastrand::Rng::with_seed(seed);
        let seconds = Duration::from_secs_f64;
        match self.clone() {
            Self::Hold { .. } => Box::new(std::iter::empty()),
            Self::Constant { rate } => Box::new((0u64..).map(move |n| seconds(n as f64 / rate))),
            Self::Poisson { rate } => {
                Box::new(scan(move |at| at + exponential(&mut random) / rate))
            }
            Self::Ramp { from, to, over } => {
                let over = over.as_secs_f64();
                let mut area = 0.0;
                Box::new(scan(move |_| {
                    area += exponential(&mut random);
                    when_area(from, to, over, area)
                }))
            }
            Self::Burst { size, every } => {
                let all =
                    (0u32..).flat_map(move |n| (0..size).map(move |_| every.saturating_mul(n)));
                Box::new(all)
            }
            Self::Trace { at, .. } => {
                Box::new(at.into_iter().filter_map(|text| trace_time(&text).ok()))
            }
        }
    }
}

fn trace_time(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>().map(Duration::try_from_secs_f64) {
        Ok(Ok(time)) => Ok(time),
        _ => parse_time(text),
    }
}

/// Seconds, each from the one before.
fn scan(mut next: impl FnMut(f64) -> f64 + Send) -> impl Iterator<Item = Duration> + Send {
    let mut at = 0.0;
    std::iter::repeat_with(move || {
        at = next(at);
        // A rate of almost nothing: later than any run.
        Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX)
    })
}

/// Exponentially distributed with mean 1.
fn exponential(random: &mut fastrand::Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

/// When so many calls have come, at a rate that goes from one to the other over a time and then stays.
fn when_area(from: f64, to: f64, over: f64, area: f64) -> f64 {
    let whole = (from + to) / 2.0 * over;
    if area >= whole {
        return over + (area - whole) / to;
    }
    let slope = (to - from) / over;
    if slope.abs() < 1e-12 {
        return area / from;
    }
    ((from * from + 2.0 * slope * area).sqrt() - from) / slope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(text: &str) -> Arrivals {
        let mut arrivals: Arrivals = toml::from_str(text).unwrap();
        arrivals.check().unwrap();
        arrivals
    }

    /// How many come in each of the first seconds.
    fn per_second(text: &str, n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        let end = Duration::from_secs(n as u64);
        for at in arrivals(text).times(7).take_while(|at| *at < end) {
            counts[at.as_secs() as usize] += 1;
        }
        counts
    }

    #[test]
    fn processes_bring_what_they_say() {
        assert_eq!(per_second("process='constant'\nrate=4.0", 3), [4, 4, 4]);
        assert_eq!(
            per_second("process='burst'\nsize=5\nevery='2s'", 4),
            [5, 0, 5, 0]
        );
        let trace = "process='trace'\nat=['2500ms', '0.5', '2s']";
        assert_eq!(per_second(trace, 4), [1, 0, 2, 0]);
        let poisson: usize = per_second("process='poisson'\nrate=50.0", 20).iter().sum();
        assert!((900..1_100).contains(&poisson), "{poisson}");
        let ramp = per_second("process='ramp'\nfrom=0.0\nto=100.0\nover='10s'", 12);
        for (second, n) in ramp.iter().enumerate() {
            let expected = (10.0 * second as f64 + 5.0).min(100.0);
            assert!(
                (*n as f64 - expected).abs() < 4.0 * expected.sqrt(),
                "{ramp:?}"
            );
        }
        let falling = per_second("process='ramp'\nfrom=40.0\nto=0.0\nover='2s'", 4);
        assert_eq!(falling[2..], [0, 0]);
    }

    #[test]
    fn the_same_seed_brings_the_same_callers() {
        let arrivals = arrivals("process='poisson'\nrate=3.0");
        let times = |seed| arrivals.times(seed).take(50).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    #[test]
    fn a_line_of_a_trace_that_is_no_time_is_named() {
        let name = format!("trunkline-loadtest-trace-{}.txt", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, "0.5\n\nsoon\n").unwrap();
        let mut trace = Arrivals::Trace {
            at: Vec::new(),
            file: Some(file.clone()),
        };
        let error = trace.check().unwrap_err();
        std::fs::remove_file(&file).unwrap();
        let place = format!("{}:3: \"soon\"", file.display());
        assert!(error.starts_with(&place), "{error}");
    }

    #[test]
    fn impossible_processes_are_refused() {
        for text in [
            "process='constant'\nrate=0.0",
            "process='poisson'\nrate=nan",
            "process='hold'\ncalls=0",
            "process='burst'\nsize=1\nevery='0s'",
            "process='trace'",
            "process='trace'\nat=['x']",
            "process='ramp'\nfrom=0.0\nto=0.0\nover='1s'",
        ] {
            let mut arrivals: Arrivals = toml::from_str(text).unwrap();
            assert!(arrivals.check().is_err(), "{text}");
        }
    }
}
