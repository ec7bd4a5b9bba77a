//! Values that a scenario leaves to chance: one, or anything between two.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A time, or one between two: `"800ms"` or `["500ms", "2s"]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// At least.
    pub from: Duration,
    /// At most.
    pub to: Duration,
}

/// A number, or one between two, both included: `3` or `[2, 5]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// At least.
    pub from: u32,
    /// At most.
    pub to: u32,
}

impl Span {
    /// Always the same.
    #[must_use]
    pub const fn exactly(time: Duration) -> Self {
        Self {
            from: time,
            to: time,
        }
    }

    /// Between two times, in ms.
    #[must_use]
    pub const fn ms(from: u64, to: u64) -> Self {
        Self {
            from: Duration::from_millis(from),
            to: Duration::from_millis(to),
        }
    }

    /// One of them, each as likely.
    #[must_use]
    pub fn draw(&self, random: &mut fastrand::Rng) -> Duration {
        let (from, to) = (self.from.as_micros() as u64, self.to.as_micros() as u64);
        Duration::from_micros(random.u64(from..=to.max(from)))
    }
}

impl Number {
    /// Always the same.
    #[must_use]
    pub const fn exactly(n: u32) -> Self {
        Self { from: n, to: n }
    }

    /// One of them, each as likely.
    #[must_use]
    pub fn draw(&self, random: &mut fastrand::Rng) -> u32 {
        random.u32(self.from..=self.to.max(self.from))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrTwo<T> {
    One(T),
    Two(T, T),
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |_| {
            serde::de::Error::custom(
                "a time is written as \"800ms\" or \"1.5s\", two as [\"1s\", \"2s\"]",
            )
        };
        let parse = |text: String| parse_time(&text);
        let (from, to) = match OneOrTwo::<String>::deserialize(deserializer).map_err(wrong)? {
            OneOrTwo::One(text) => {
                let time = parse(text).map_err(serde::de::Error::custom)?;
                (time, time)
            }
            OneOrTwo::Two(from, to) => (
                parse(from).map_err(serde::de::Error::custom)?,
                parse(to).map_err(serde::de::Error::custom)?,
            ),
        };
        if from > to {
            return Err(serde::de::Error::custom("the first time is the longer one"));
        }
        Ok(Self { from, to })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong =
            |_: D::Error| serde::de::Error::custom("a number is written as 3, two as [2, 5]");
        let (from, to) = match OneOrTwo::<u32>::deserialize(deserializer).map_err(wrong)? {
            OneOrTwo::One(n) => (n, n),
            OneOrTwo::Two(from, to) => (from, to),
        };
        if from > to {
            return Err(serde::de::Error::custom(
                "the first number is the larger one",
            ));
        }
        Ok(Self { from, to })
    }
}

/// A time as people write it: `800ms`, `1.5s`, `2m 30s`, `1h`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    // humantime knows no fractions.
    let fraction = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)]
        .iter()
        .find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?.trim_end();
            let number = number.parse::<f64>().ok()?;
            Duration::try_from_secs_f64(number * seconds).ok()
        });
    match fraction {
        Some(time) => Ok(time),
        None => humantime::parse_duration(text).map_err(|error| format!("{text:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text, ms: Option<u64>| {
            assert_eq!(
                parse_time(text).ok(),
                ms.map(Duration::from_millis),
                "{text}"
            );
        };
        check("800ms", Some(800));
        check("1.5s", Some(1_500));
        check("2m", Some(120_000));
        check("2m 30s", Some(150_000));
        for wrong in ["", "s", "-1s", "NaNs", "infs", "5", "1e400s"] {
            check(wrong, None);
        }
    }

    #[test]
    fn spans_are_drawn_within_their_bounds() {
        #[derive(Deserialize)]
        struct Table {
            one: Span,
            two: Span,
            n: Number,
        }
        let table: Table = toml::from_str("one = '2s'\ntwo = ['1s', '3s']\nn = [2, 4]").unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let mut numbers = [false; 5];
        for _ in 0..100 {
            assert_eq!(table.one.draw(&mut random), Duration::from_secs(2));
            let two = table.two.draw(&mut random);
            assert!((table.two.from..=table.two.to).contains(&two));
            numbers[table.n.draw(&mut random) as usize] = true;
        }
        assert_eq!(numbers, [false, false, true, true, true]);
        assert!(toml::from_str::<Table>("one='3s'\ntwo=['3s','1s']\nn=1").is_err());
    }
}
