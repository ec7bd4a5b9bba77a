//! Notices threads that no longer get anywhere: a deadlock, or work that never pauses (faults reference 40).
//!
//! Each thread that runs tasks has a [`Pulse`], beaten by a task of its own. A thread of the system, which needs none of
//! them, looks whether they go on. One that does not for [`Limits::notice`] is told of in the log with the calls that it
//! has, gets no new ones, and makes the process unready; after [`Limits::give_up`] nothing is left but to begin anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// What shows that a thread goes on.
#[derive(Debug)]
pub struct Pulse {
    /// The thread's name.
    name: String,
    beats: AtomicU64,
    stalled: AtomicBool,
}

impl Pulse {
    /// That of the thread with this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            beats: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        })
    }

    /// It goes on.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it has not gone on for [`Limits::notice`].
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

/// How long a thread may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until it counts as stalled.
    pub notice: Duration,
    /// Until the process is given up; zero is never.
    pub give_up: Duration,
}

impl Limits {
    /// The longest that a thread may take for one step before it is told of (faults reference 40).
    pub const NOTICE: Duration = Duration::from_secs(2);

    /// The watchdog looks so often: often enough to find what lasts as long as the limits.
    fn look_every(&self) -> Duration {
        (self.notice / 8).clamp(Duration::from_millis(1), Duration::from_millis(250))
    }
}

/// What is known of one thread: a pure core.
#[derive(Debug, Default)]
struct Silence {
    beats: u64,
    lasted: Duration,
    noticed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Stalled,
    Recovered(Duration),
    Hopeless,
}

impl Silence {
    /// The thread has beaten so often, and the last look was so long ago. A look that was late itself counts as one in time:
    /// who stopped the whole process, or the machine, stopped the thread as well.
    fn look(&mut self, beats: u64, elapsed: Duration, limits: &Limits) -> Verdict {
        if std::mem::replace(&mut self.beats, beats) != beats {
            let lasted = std::mem::take(&mut self.lasted);
            return match std::mem::take(&mut self.noticed) {
                true => Verdict::Recovered(lasted),
                false => Verdict::Fine,
            };
        }
        self.lasted += elapsed.min(limits.look_every() * 2);
        if self.noticed && !limits.give_up.is_zero() && self.lasted >= limits.give_up {
            return Verdict::Hopeless;
        }
        if !self.noticed && self.lasted >= limits.notice {
            self.noticed = true;
            return Verdict::Stalled;
        }
        Verdict::Fine
    }
}

/// Starts the thread that looks at these pulses until `stop`. `calls` names the calls of a thread, for the log, and must
/// not wait for anybody; `give_up` is what to do when a thread was silent for too long.
///
/// # Errors
///
/// If the system has no more threads.
pub fn watch(
    pulses: Vec<Arc<Pulse>>,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    calls: impl Fn(&str) -> Vec<String> + Send + 'static,
    give_up: impl Fn() + Send + 'static,
) -> io::Result<()> {
    let work = move || {
        let mut silences: Vec<Silence> = pulses.iter().map(|_| Silence::default()).collect();
        let mut looked = Instant::now();
        while !stop.is_cancelled() {
            thread::sleep(limits.look_every());
            let elapsed = looked.elapsed();
            looked += elapsed;
            for (pulse, silence) in pulses.iter().zip(&mut silences) {
                let beats = pulse.beats.load(Ordering::Relaxed);
                let verdict = silence.look(beats, elapsed, &limits);
                tell(pulse, verdict, &metrics, &calls);
                if verdict == Verdict::Hopeless {
                    give_up();
                }
            }
        }
    };
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(work)?;
    Ok(())
}

fn tell(pulse: &Pulse, verdict: Verdict, metrics: &Metrics, calls: &impl Fn(&str) -> Vec<String>) {
    let thread = pulse.name.as_str();
    match verdict {
        Verdict::Fine => {}
        Verdict::Stalled => {
            pulse.stalled.store(true, Ordering::Relaxed);
            metrics.door().stalled(true);
            let (calls, state) = (calls(thread), state_of(thread));
            tracing::error!(thread, state, ?calls, "a thread gets nowhere");
        }
        Verdict::Recovered(after) => {
            pulse.stalled.store(false, Ordering::Relaxed);
            metrics.door().stalled(false);
            let after_s = after.as_secs_f64();
            tracing::warn!(thread, after_s, "the thread goes on again");
        }
        Verdict::Hopeless => {
            tracing::error!(thread, "a thread is stuck: the process begins anew");
        }
    }
}

/// What the kernel says of this process's thread of that name: whether it runs or waits, and in which system call
/// (`/proc/PID/task/TID`, proc(5)). A thread that runs is busy, one that waits in futex is locked out.
fn state_of(thread: &str) -> Option<String> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let mut folders = tasks.flatten().map(|task| task.path());
    let folder = folders.find(|folder| {
        let name = fs::read_to_string(folder.join("comm"));
        name.is_ok_and(|name| name.trim_end() == thread)
    })?;
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let state = stat.rsplit(") ").next()?.split(' ').next()?;
    let wait = fs::read_to_string(folder.join("wchan")).unwrap_or_default();
    Some(format!("{state} {wait}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMITS: Limits = Limits {
        notice: Limits::NOTICE,
        give_up: Duration::from_secs(10),
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Looks every 250 ms at a thread that beats in these looks only; what was found, and in which look.
    fn check(n_looks: u64, beats_in: impl Fn(u64) -> bool, expected: &[(u64, Verdict)]) {
        let mut silence = Silence::default();
        let mut beats = 1;
        let mut found = Vec::new();
        for look in 0..n_looks {
            beats += u64::from(beats_in(look));
            let verdict = silence.look(beats, ms(250), &LIMITS);
            if verdict != Verdict::Fine {
                found.push((look, verdict));
            }
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn silence_is_noticed_and_given_up() {
        check(100, |_| true, &[]);
        check(100, |look| look % 8 == 0, &[]);
        check(40, |_| false, &[(8, Verdict::Stalled)]);
        let hopeless = [(8, Verdict::Stalled), (40, Verdict::Hopeless)];
        check(41, |_| false, &hopeless);
        let recovered = [(8, Verdict::Stalled), (20, Verdict::Recovered(ms(4_750)))];
        check(60, |look| look >= 20, &recovered);
    }

    #[test]
    fn a_process_that_was_stopped_is_not_a_thread_that_is_stuck() {
        let mut silence = Silence::default();
        silence.look(1, ms(250), &LIMITS);
        for _ in 0..3 {
            assert_eq!(
                silence.look(1, Duration::from_secs(60), &LIMITS),
                Verdict::Fine
            );
        }
        assert_eq!(
            silence.look(1, Duration::from_secs(60), &LIMITS),
            Verdict::Stalled
        );
    }

    #[test]
    fn zero_never_gives_up() {
        let limits = Limits {
            give_up: Duration::ZERO,
            ..LIMITS
        };
        let mut silence = Silence::default();
        let verdicts: Vec<Verdict> = (0..1_000)
            .map(|_| silence.look(1, ms(250), &limits))
            .collect();
        assert!(!verdicts.contains(&Verdict::Hopeless));
    }

    #[test]
    fn a_thread_that_is_stuck_is_told_of_and_given_up() {
        let metrics = Metrics::new();
        let pulse = Pulse::new("stuck");
        let (say, said) = mpsc::channel();
        let (give_up, given_up) = mpsc::channel();
        let limits = Limits {
            notice: ms(8),
            give_up: ms(16),
        };
        let calls = move |thread: &str| {
            say.send(thread.to_owned()).unwrap();
            vec!["call-1".to_owned()]
        };
        let begin_anew = move || _ = give_up.send(());
        let pulses = vec![Arc::clone(&pulse)];
        let stop = CancellationToken::new();
        let told = Arc::clone(&metrics);
        watch(pulses, limits, told, stop.clone(), calls, begin_anew).unwrap();
        assert_eq!(said.recv().unwrap(), "stuck");
        given_up.recv().unwrap();
        assert!(pulse.is_stalled());
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("trunkline_stalled_threads 1")
        );
        stop.cancel();
        while given_up.recv().is_ok() {}
    }

    #[test]
    fn the_kernel_knows_what_a_thread_does() {
        let (end, ended) = mpsc::channel::<()>();
        let sleeper = thread::Builder::new().name("sleeper".to_owned());
        let sleeper = sleeper.spawn(move || ended.recv()).unwrap();
        let mut state = state_of("sleeper");
        while !state.as_ref().is_some_and(|state| state.starts_with('S')) {
            thread::yield_now();
            state = state_of("sleeper");
        }
        drop(end);
        assert!(sleeper.join().unwrap().is_err());
        assert_eq!(state_of("nobody-of-that-name"), None);
    }
}
