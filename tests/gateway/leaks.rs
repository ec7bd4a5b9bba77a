//! What a call used is given back.
//!
//! The crate forbids `unsafe`, and with it an allocator that counts. Memory is therefore read from the
//! system, in a process of its own that runs one test in one thread: what was allocated and freed is given
//! back there at once (see [`in_own_process`]), so that what remains is what still lives, to some pages.

use std::process::Command;
use std::time::Duration;

use tokio::runtime::Handle;
use trunkline::media::AudioFormat;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::wav::Clip;
use trunkline::simulator::{Act, CallReport, SoftPhone, speech};

use crate::harness::World;

/// Replies of three seconds; the simulator remembers one session, so that it does not grow either.
const SIMULATOR: &str = r#"
max_records = 1
[reply]
mode = "script"
turns = [{ say = "Three seconds of an answer.", length = "3s" }]
"#;

fn words() -> Act {
    let clip = speech::wait();
    Act::Say(Clip::new(
        &clip.samples[..clip.rate as usize * 8 / 10],
        clip.rate,
    ))
}

/// A caller who interrupts so often.
fn interrupter(dialect: Dialect, n: usize) -> SoftPhone {
    let url = match dialect {
        Dialect::Twilio => "ws://gateway/twilio/media/ga",
        _ => "ws://gateway/v1/audio/ga",
    };
    let mut acts = vec![words()];
    for n in 0..n {
        acts.push(Act::BargeInAfter {
            heard: Duration::from_millis(1 + 37 * n as u64 % 800),
            timeout: Duration::from_secs(20),
        });
        acts.push(words());
    }
    acts.push(Act::HangUp);
    SoftPhone::new(url, dialect)
        .and_then(|phone| phone.format(AudioFormat::MODEL_PCM))
        .expect("a good address")
        .keeps_audio(false)
        .script(acts)
}

/// Makes a call and waits until nothing of it is left.
async fn call(world: &World, phone: &SoftPhone, n_tasks: usize) -> CallReport {
    let report = phone.call(world.connect()).await;
    assert_eq!(report.failure, None, "{report}");
    let alive = || Handle::current().metrics().num_alive_tasks();
    for _ in 0..1_000 {
        if world.gateway.calls().active() == 0 && alive() == n_tasks {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{} tasks of {n_tasks} are left 10 s after the call",
        alive()
    );
}

fn assert_no_active_calls(world: &World) {
    assert_eq!(world.gateway.calls().active(), 0);
    for dialect in ["twilio", "audio", "realtime"] {
        let gauge = format!("trunkline_calls_active{{dialect=\"{dialect}\"}}");
        assert_eq!(world.metric(&gauge), 0.0, "{gauge}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_barge_ins_leave_no_task_and_no_gauge_behind() {
    let world = World::new(SIMULATOR);
    tokio::task::yield_now().await;
    let n_tasks = Handle::current().metrics().num_alive_tasks();
    let n_harness_tasks = world.n_tasks();
    for dialect in [Dialect::Twilio, Dialect::Audio] {
        let report = call(&world, &interrupter(dialect, 100), n_tasks).await;
        assert_eq!(report.clears.len(), 100, "{report}");
        assert_eq!(world.n_tasks(), n_harness_tasks);
        assert_no_active_calls(&world);
        // Nothing waited but the lead: what was received and not played is thrown away by the clear.
        for clear in &report.clears {
            let waiting = clear.received_ms - clear.played_ms;
            assert!(waiting <= 120.0, "{waiting} ms at the phone");
        }
    }
}

/// Runs `test` in a process of its own, single-threaded, where freed memory goes back to the system.
fn in_own_process(name: &str, test: impl Future<Output = ()>) {
    const MARK: &str = "TRUNKLINE_TEST_OWN_PROCESS";
    if std::env::var(MARK).is_ok_and(|value| value == name) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(test);
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_TRIM_THRESHOLD_", "0")
        .env("MALLOC_MMAP_THRESHOLD_", "32768")
        .output()
        .expect("the test runs");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Resident memory of this process, without what files lie behind, in bytes (proc(5), `statm`).
fn memory() -> i64 {
    const PAGE: i64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let mut fields = text.split(' ').map(|n| n.parse::<i64>().expect("a number"));
    let (resident, shared) = (fields.nth(1), fields.next());
    (resident.unwrap_or(0) - shared.unwrap_or(0)) * PAGE
}

/// What may come and go between two equal moments: fragments of the heap.
const TOLERANCE: i64 = 512 * 1024;

#[test]
fn memory_is_flat_over_calls_of_a_hundred_barge_ins() {
    const CALLS: usize = 6;
    let test = async {
        let world = World::new(SIMULATOR);
        tokio::task::yield_now().await;
        let n_tasks = Handle::current().metrics().num_alive_tasks();
        let phone = interrupter(Dialect::Twilio, 100);
        let mut after = Vec::new();
        for _ in 0..CALLS {
            call(&world, &phone, n_tasks).await;
            after.push(memory());
        }
        let grown = after[CALLS - 1] - after[1];
        println!("after each call: {after:?}, grown by {grown} bytes since the second");
        assert!(grown <= TOLERANCE, "{after:?}");
    };
    in_own_process(
        "leaks::memory_is_flat_over_calls_of_a_hundred_barge_ins",
        test,
    );
}

#[test]
fn memory_is_flat_over_hundreds_of_short_calls() {
    // The gateway remembers the last 64 calls; these are past.
    const WARM_UP: usize = 80;
    const CALLS: usize = 400;
    let test = async {
        let world = World::new(SIMULATOR);
        tokio::task::yield_now().await;
        let n_tasks = Handle::current().metrics().num_alive_tasks();
        let phones = [
            interrupter(Dialect::Twilio, 1),
            interrupter(Dialect::Audio, 1),
        ];
        for n in 0..WARM_UP {
            call(&world, &phones[n % 2], n_tasks).await;
        }
        let before = memory();
        for n in 0..CALLS {
            call(&world, &phones[n % 2], n_tasks).await;
        }
        let grown = memory() - before;
        println!("{CALLS} calls: {before} bytes before, grown by {grown}");
        assert!(grown <= TOLERANCE, "{grown} bytes");
        assert_no_active_calls(&world);
    };
    in_own_process("leaks::memory_is_flat_over_hundreds_of_short_calls", test);
}
