//! The time of day for credentials, on a clock that may be set.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The time, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What the wall clock shows, but never less than `floor`. Credentials are judged by it.
    pub wall: u64,
    /// What the wall clock would show had nobody set it since the process began. Never goes back, and thus says
    /// when something will not be accepted ever again and may be forgotten.
    pub floor: u64,
}

/// Reads the wall clock such that setting it back prolongs no credential's life.
///
/// A clock that ran ahead at the start and is set right later stays ahead here until the process restarts:
/// credentials made elsewhere then expire too early, never too late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Instant,
    began_wall: SystemTime,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
            began_wall: SystemTime::now(),
        }
    }

    pub(super) fn now(&self) -> Now {
        self.read(self.began.elapsed(), SystemTime::now())
    }

    fn read(&self, elapsed: Duration, shown: SystemTime) -> Now {
        let floor = self.began_wall + elapsed;
        Now {
            wall: unix_seconds(shown.max(floor)),
            floor: unix_seconds(floor),
        }
    }
}

/// Whole seconds since 1970; a clock before that shows 0.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_never_goes_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let clock = Clock {
            began: Instant::now(),
            began_wall: at(10_000),
        };
        let check = |elapsed, shown, wall, floor| {
            let now = clock.read(Duration::from_secs(elapsed), at(shown));
            assert_eq!(now, Now { wall, floor }, "{elapsed} {shown}");
        };
        check(5, 10_005, 10_005, 10_005);
        // Set ahead by an hour, back by two hours, and to before 1970.
        check(6, 13_606, 13_606, 10_006);
        check(7, 2_807, 10_007, 10_007);
        check(8, 0, 10_008, 10_008);
    }
}
