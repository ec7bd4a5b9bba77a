//! The rows about calls that come and go: set-ups by the second, overload, idle sockets, and what is left when all
//! have hung up.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::calls::{Answer, Calls, Dialect, Seen, Settings};
use super::process::Process;
use super::visits::{Pace, Visited, Visits};
use super::{Bench, Load, Relay, line, path};

/// Set-ups a second, and for how long.
const SET_UPS: Pace = Pace {
    per_second: 300,
    calls: 300 * 30,
    stay: Duration::from_millis(500),
};

/// Calls set up and torn down while memory must not grow, after as many as warm up the process.
const LASTING: Pace = Pace {
    calls: 20_000,
    ..SET_UPS
};

/// Until what ended calls held has been given back, as far as it will be.
const QUIET: Duration = Duration::from_secs(3);

/// Places for calls in the overload row; three times as many callers want one.
const PLACES: usize = 200;

/// Idle callers.
const IDLE: usize = 1000;

impl Bench {
    /// Whether the bounds of these rows are kept.
    pub(super) fn comings_and_goings(&self) -> bool {
        let is_good = self.set_ups();
        let is_good = self.overload() & is_good;
        self.idle() & is_good
    }

    /// Calls set up each second; then what 20,000 of them leave behind. Resident memory is read after 3 s without any
    /// call, once when the set-ups of the first row have warmed the process up, and again when 20,000 more are over.
    fn set_ups(&self) -> bool {
        let (name, flat) = ("300 set-ups a second", "20000 calls set up and torn down");
        if !self.is_chosen(name) && !self.is_chosen(flat) {
            return true;
        }
        let (_floor, mut visits) = self.visits(Relay::Floor);
        let mut floor = visits.run(Pace {
            calls: SET_UPS.per_second * 5,
            ..SET_UPS
        });
        let (gateway, mut visits) = self.visits(Relay::Gateway);
        let mut came = visits.run(SET_UPS);
        let mut is_good = all_came_in(name, &came, SET_UPS.calls);
        let slowest = |came: &mut Visited| f64::from(Seen::at(&mut came.set_up, 990)) / 1e3;
        // That none fails is what is asked for; who waits for more than a second has been failed too.
        let p99 = slowest(&mut came);
        is_good &= line(
            &format!("{name}, 30 s: first word p99"),
            "ms",
            p99,
            slowest(&mut floor),
            1000.0,
        );
        let n_late = Seen::at(&mut came.lag, 990);
        if n_late > 5_000 {
            println!("  this program itself called {n_late} us late (p99)");
        }
        if !self.is_chosen(flat) {
            return is_good;
        }
        thread::sleep(QUIET);
        let before = gateway.resident();
        let came = visits.run(LASTING);
        thread::sleep(QUIET);
        let grown = gateway.resident().saturating_sub(before);
        is_good &= all_came_in(flat, &came, LASTING.calls);
        is_good
            & line(
                &format!("{flat}: growth"),
                "KiB",
                grown as f64 / 1024.0,
                None,
                4096.0,
            )
    }

    fn visits(&self, relay: Relay) -> (Process, Visits) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let model = listener.local_addr().expect("bound");
        let (process, address) = match relay {
            Relay::Gateway => {
                self.start_gateway(model, &Load::flowing(Dialect::Twilio, 0, false), 2000)
            }
            Relay::Floor => self.start_floor(model, Dialect::Twilio, false),
        };
        let visits = Visits::new(address, path(Dialect::Twilio), Some(listener));
        (process, visits)
    }

    /// Every place is taken, and twice as many callers as there are places try to come in, each once a second. What
    /// those inside notice of it, compared with the same calls a moment before; the two take turns.
    fn overload(&self) -> bool {
        let name = "overload, 3 x 200 calls";
        if !self.is_chosen(name) {
            return true;
        }
        let (process, mut calls, address) =
            self.calls(Dialect::Twilio, PLACES, PLACES, Answer::WORDS);
        calls.flow();
        calls.run(Duration::from_secs(3));
        let tries = Pace {
            per_second: 2 * PLACES as u32,
            calls: 2 * PLACES as u32 * 6,
            stay: Duration::ZERO,
        };
        let (mut calm, mut crowded) = (Seen::default(), Seen::default());
        let mut came = Visited::default();
        let mut n_missing = 0;
        for _ in 0..2 {
            calls.forget();
            calls.run(Duration::from_secs(6));
            add(&mut calm, calls.seen().0);
            calls.forget();
            // In a thread of its own: who is refused must not be held up by those who speak.
            let crowd =
                thread::spawn(move || Visits::new(address, path(Dialect::Twilio), None).run(tries));
            calls.run(Duration::from_secs(6));
            let (seen, missing) = calls.seen();
            add(&mut crowded, seen);
            n_missing += missing;
            let some = crowd.join().expect("it counts");
            came.refused.extend(some.refused);
            came.set_up.extend(some.set_up);
            came.failed += some.failed;
        }
        drop(process);
        let mut is_good = all_were_refused(name, &came);
        if n_missing + crowded.failed > 0 {
            println!(
                "{name}: {n_missing} pieces of audio missing, {} connections lost: MISSED",
                crowded.failed
            );
            is_good = false;
        }
        for (way, calm, crowded) in [
            ("up", &mut calm.up, &mut crowded.up),
            ("down", &mut calm.down, &mut crowded.down),
        ] {
            let ms = |latencies: &mut Vec<u32>| f64::from(Seen::at(latencies, 990)) / 1e3;
            let (calm, crowded) = (ms(calm), ms(crowded));
            let name = format!("{name}: {way} p99 (floor: without)");
            is_good &= line(&name, "ms", crowded, calm, 1.5 * calm);
        }
        let refused = f64::from(Seen::at(&mut came.refused, 990)) / 1e3;
        is_good & line(&format!("{name}: refused p99"), "ms", refused, None, 20.0)
    }

    /// A caller who is in, whose session with the model is configured, and nothing flows: two sockets, the caller's
    /// and the model's.
    fn idle(&self) -> bool {
        let name = "idle socket";
        if !self.is_chosen(name) {
            return true;
        }
        let mut is_good = true;
        for (what, dialect) in [("Twilio", Dialect::Twilio), ("SDK", Dialect::Realtime)] {
            let (process, mut calls, _) = self.calls(dialect, 1, 2000, Answer::WORDS);
            calls.run(Duration::from_secs(1));
            let before = process.resident();
            calls.open(IDLE);
            calls.run(Duration::from_secs(2));
            let grown = process.resident().saturating_sub(before) as f64 / 1024.0;
            let name = format!("{name} ({what} caller and session: 2)");
            is_good &= line(&name, "KiB", grown / (2 * IDLE) as f64, None, 16.0);
        }
        is_good
    }

    /// A gateway with `max` places, and `n` calls in it.
    fn calls(
        &self,
        dialect: Dialect,
        n: usize,
        max: usize,
        answer: Answer,
    ) -> (Process, Calls, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let model = listener.local_addr().expect("bound");
        let (process, gateway) = self.start_gateway(model, &Load::flowing(dialect, n, false), max);
        let settings = Settings {
            dialect,
            answer,
            gateway,
            path: path(dialect),
            tls: None::<Arc<_>>,
        };
        let mut calls = Calls::new(listener, settings);
        calls.open(n);
        (process, calls, gateway)
    }
}

fn add(all: &mut Seen, some: Seen) {
    all.up.extend(some.up);
    all.down.extend(some.down);
    all.failed += some.failed;
}

fn all_came_in(name: &str, came: &Visited, calls: u32) -> bool {
    let is_good = came.set_up.len() == calls as usize;
    if !came.first_refusal.is_empty() {
        println!("  somebody was told: {}", came.first_refusal.trim_end());
    }
    told(name, came, is_good)
}

/// Everybody was refused as those are who find no place.
fn all_were_refused(name: &str, came: &Visited) -> bool {
    let is_good = came.failed == 0 && came.set_up.is_empty() && !came.refused.is_empty();
    told(name, came, is_good)
}

fn told(name: &str, came: &Visited, is_good: bool) -> bool {
    let verdict = if is_good { "holds" } else { "MISSED" };
    println!(
        "{name}: {} set up, {} refused, {} failed: {verdict}",
        came.set_up.len(),
        came.refused.len(),
        came.failed
    );
    is_good
}
