//! How long a deployment wants to be left alone, out of the sentence that an error has for people.
//!
//! Events have no headers, and no member of an error says it. Only what was seen is read; what is written otherwise says
//! nothing.

use std::time::Duration;

/// What stands before the time. OpenAI: `Please try again in 18.642s.`, `579ms`, `1m26.4s` (protocol reference 3.4,
/// openai/openai-agents-js#1022). Azure: `Please retry after 20 seconds.` (jasonacox/TinyLLM#17).
const BEFORE: [&str; 2] = ["try again in ", "retry after "];

/// The time stands in the first sentences; this many bytes are looked at.
const MAX_BYTES: usize = 2 * 1024;

/// Longer times than a day, and with them all numbers that no duration can hold, become this.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What an error's message says of when to try again.
#[must_use]
pub fn retry_after(message: &str) -> Option<Duration> {
    let message = &message[..message.floor_char_boundary(MAX_BYTES)];
    let message = message.to_ascii_lowercase();
    let mut found = BEFORE
        .iter()
        .filter_map(|before| message.split_once(before));
    found.find_map(|(_, rest)| duration(rest))
}

/// One or more numbers with their units at the beginning of a text.
fn duration(mut text: &str) -> Option<Duration> {
    let mut seconds = None;
    while let Some((part, rest)) = part(text) {
        seconds = Some(seconds.unwrap_or(0.0) + part);
        text = rest.trim_start();
    }
    let time = Duration::try_from_secs_f64(seconds?).unwrap_or(LONGEST);
    Some(time.min(LONGEST))
}

/// A number with its unit, in seconds, and what comes after it.
fn part(text: &str) -> Option<(f64, &str)> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c))?);
    let number: f64 = number.parse().ok()?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic());
    let (unit, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let seconds = match unit {
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    };
    Some((number * seconds, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(message: &str, expected: Option<u64>) {
        let expected = expected.map(Duration::from_millis);
        assert_eq!(retry_after(message), expected, "{message}");
    }

    #[test]
    fn what_vendors_write_is_read() {
        let openai = |time: &str| {
            format!(
                "Rate limit reached for gpt-realtime in organization org-1 on tokens per min (TPM): Limit 40000, Used 39500, \
                 Requested 4600. Please try again in {time}. Visit https://platform.openai.com/account/rate-limits to learn more."
            )
        };
        check(&openai("1.2s"), Some(1_200));
        check(&openai("18.642s"), Some(18_642));
        check(&openai("579ms"), Some(579));
        check(&openai("1m26.4s"), Some(86_400));
        check(&openai("6m0s"), Some(360_000));
        check(&openai("1h2m3s"), Some(3_723_000));
        check(&openai("0s"), Some(0));
        check(
            "Rate limit is exceeded. Try again in 30 seconds.",
            Some(30_000),
        );
        check(
            "... pricing tier. Please retry after 1 second. Please go here",
            Some(1_000),
        );
        check("PLEASE RETRY AFTER 2 minutes", Some(120_000));
    }

    #[test]
    fn what_says_nothing_is_not_guessed() {
        for message in [
            "",
            "Please try again later.",
            "Please try again in a moment.",
            "Please try again in ",
            "Please try again in 5",
            "Please retry after 5 apples",
            "Please retry after -5s",
            "Please retry after 1.2.3s",
            "Please retry after .s",
            "You waited 5s.",
        ] {
            check(message, None);
        }
    }

    #[test]
    fn no_time_is_too_long() {
        let day = 24 * 60 * 60 * 1_000;
        check("Please retry after 86400 seconds.", Some(day));
        check("Please retry after 86401 seconds.", Some(day));
        check(&format!("retry after {}s", "9".repeat(400)), Some(day));
        check(&format!("{}retry after 5s", "ä".repeat(2_000)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(before in ".{0,20}", after in "[0-9.smhd ]{0,30}", rest in ".{0,9}") {
            let _ = retry_after(&before);
            let found = retry_after(&format!("{before}try again in {after}{rest}"));
            prop_assert!(found.is_none_or(|found| found <= LONGEST));
        }
    }
}
