//! What a call is told of its budgets, in words for the model and for SDK callers.

use std::time::Duration;

use crate::call::{EndReason, Input};
use crate::quota::{Budget, Notice};
use crate::realtime::error_event;

/// What a notice is to a call that the gateway conducts.
pub(super) fn input(notice: Notice) -> Input<'static> {
    match notice {
        Notice::Warning { left, .. } => Input::EndSoon {
            text: format!(
                "This call must end in {} seconds. Bring the conversation to its end before that, without haste.",
                seconds(left)
            ),
        },
        Notice::Over { .. } => Input::EndOrderly(EndReason::BudgetExhausted),
    }
}

/// What an SDK caller is sent for a notice.
pub(super) fn event(notice: Notice) -> String {
    let event_id = format!("event_trunkline_{:016x}", fastrand::u64(..));
    let (kind, code, message) = match notice {
        Notice::Warning { budget, left } => (
            "rate_limit_warning",
            "budget_warning",
            format!(
                "Nine tenths of {} are used. The session will end in about {} seconds.",
                words(budget),
                seconds(left)
            ),
        ),
        Notice::Over { budget } => (
            "rate_limit_error",
            "budget_exhausted",
            format!("The session ends: {} used up.", is_over(budget)),
        ),
    };
    error_event(&event_id, kind, code, &message)
}

fn seconds(left: Duration) -> u64 {
    left.as_secs().max(1)
}

fn words(budget: Budget) -> &'static str {
    match budget {
        Budget::TokensPerDay => "the tokens of this day",
        Budget::MinutesPerDay => "the minutes of this day",
        Budget::CallerMinutesPerDay => "this caller's minutes of this day",
        Budget::MaxCall => "the time that a session may last",
        Budget::Blocked => "the account's time",
    }
}

fn is_over(budget: Budget) -> &'static str {
    match budget {
        Budget::TokensPerDay => "the tokens of this day are",
        Budget::MinutesPerDay => "the minutes of this day are",
        Budget::CallerMinutesPerDay => "this caller's minutes of this day are",
        Budget::MaxCall => "the time that a session may last is",
        Budget::Blocked => "the account is closed, its time is",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notice_has_words() {
        let budget = Budget::MaxCall;
        let warning = Notice::Warning {
            budget,
            left: Duration::from_millis(61_900),
        };
        let Input::EndSoon { text } = input(warning) else {
            panic!("a warning");
        };
        assert!(text.starts_with("This call must end in 61 seconds."));
        assert!(event(warning).contains(r#""code":"budget_warning""#));
        let over = Notice::Over { budget };
        assert!(matches!(
            input(over),
            Input::EndOrderly(EndReason::BudgetExhausted)
        ));
        assert!(
            event(over).contains("The session ends: the time that a session may last is used up.")
        );
    }
}
