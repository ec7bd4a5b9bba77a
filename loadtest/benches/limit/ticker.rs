//! A timer that wakes an event loop every millisecond, exactly: epoll's own timeouts are rounded up.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Calls are spread over slots of this length.
const SLOT: Duration = Duration::from_millis(1);

/// See the module's documentation.
pub(crate) struct Ticker {
    timer: OwnedFd,
    slot: u64,
    due: Instant,
}

impl Ticker {
    /// Wakes with `token` from now on.
    pub(crate) fn new(registry: &Registry, token: Token) -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).expect("a timer");
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
            .expect("registered");
        let slot = Timespec {
            tv_sec: 0,
            tv_nsec: SLOT.subsec_nanos().into(),
        };
        let every = Itimerspec {
            it_interval: slot,
            it_value: slot,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every).expect("set");
        Self {
            timer,
            slot: 0,
            due: Instant::now(),
        }
    }

    /// To be called when it woke somebody.
    pub(crate) fn woke(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    /// The number of the next slot and when it was due, if it is.
    pub(crate) fn next(&mut self) -> Option<(u64, Instant)> {
        let (slot, due) = (self.slot, self.due);
        (due <= Instant::now()).then(|| {
            self.slot += 1;
            self.due += SLOT;
            (slot, due)
        })
    }
}
