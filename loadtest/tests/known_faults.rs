//! Whether the load generator can be believed: relays with known faults stand between the callers and what answers
//! them, and the report has to read each fault back. All time is simulated, so tolerances are those of the measure:
//! a millisecond of the timer for times, none for counts.

mod relay;

use std::sync::Arc;
use std::time::Duration;

use relay::{EchoLines, Faults, SimulatorLines};
use trunkline_loadtest::measure::Measure;
use trunkline_loadtest::report::RunReport;
use trunkline_loadtest::run::{Part, Run};
use trunkline_loadtest::scenario::{Answer, Scenario};

const MS: Duration = Duration::from_millis(1);

/// Six callers over the Twilio dialect who hear what they say.
const ECHO: &str = "
[target]
url = 'ws://relay/twilio'
[arrivals]
process = 'constant'
rate = 2.0
[limits]
calls = 6
[call]
answer = 'echo'
turns = 3
talk = ['1s', '2s']
think = '200ms'
";

async fn echo(faults: Faults) -> (RunReport, Arc<EchoLines>) {
    let lines = Arc::new(EchoLines::new(faults));
    let scenario = Scenario::parse(ECHO).expect("it is one");
    let run = Run::new(scenario, Part::default(), Arc::clone(&lines) as _, None);
    let run = run.expect("the target is one");
    (run.finish().await, lines)
}

/// A quantile in ms.
fn ms(report: &RunReport, measure: Measure, quantile: f64) -> f64 {
    let us = report.quantile(measure, quantile);
    us.unwrap_or_else(|| panic!("no {measure} was measured")) as f64 / 1e3
}

fn check_near(measured: f64, expected: f64, tolerance: f64) {
    assert!(
        (measured - expected).abs() <= tolerance,
        "{measured}, not {expected}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_faults_there_are_none() {
    let (report, _) = echo(Faults::default()).await;
    let frames = report.frames;
    assert!(frames.sent > 500, "{frames:?}");
    assert_eq!(
        (frames.expected, frames.received),
        (frames.sent, frames.sent)
    );
    assert_eq!(
        (frames.lost, frames.duplicated, frames.reordered),
        (0, 0, 0)
    );
    assert_eq!((frames.damaged, frames.foreign), (0, 0));
    assert_eq!((report.counts.begun, report.counts.completed), (6, 6));
    assert!(
        report.errors.is_empty() && report.counts.underruns == 0,
        "{:?}",
        report.errors
    );
    check_near(ms(&report, Measure::FrameRoundTrip, 1.0), 0.0, 1.0);
    check_near(ms(&report, Measure::Jitter, 1.0), 0.0, 1.0);
    check_near(ms(&report, Measure::SendLag, 1.0), 0.0, 1.0);
}

#[tokio::test(start_paused = true)]
async fn delay_is_read_back() {
    for delay in [5, 80, 250] {
        let (report, _) = echo(Faults {
            delay: delay * MS,
            ..Faults::default()
        })
        .await;
        for quantile in [0.0, 0.5, 1.0] {
            check_near(
                ms(&report, Measure::FrameRoundTrip, quantile),
                f64::from(delay),
                1.1,
            );
        }
        assert_eq!(report.frames.lost, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_is_read_back() {
    let (report, _) = echo(Faults {
        delay: 40 * MS,
        jitter: 12 * MS,
        ..Faults::default()
    })
    .await;
    // Every other message comes later by so much: all gaps are too long or too short by it.
    check_near(ms(&report, Measure::Jitter, 0.1), 12.0, 1.1);
    check_near(ms(&report, Measure::Jitter, 0.9), 12.0, 1.1);
    check_near(ms(&report, Measure::FrameRoundTrip, 0.25), 40.0, 1.1);
    check_near(ms(&report, Measure::FrameRoundTrip, 0.75), 52.0, 1.1);
}

#[tokio::test(start_paused = true)]
async fn loss_is_read_back() {
    let (report, lines) = echo(Faults {
        lose_every: Some(37),
        ..Faults::default()
    })
    .await;
    let injected = lines.injected();
    assert!(injected.lost > 10);
    assert_eq!(report.frames.lost, injected.lost);
    assert_eq!(report.frames.expected, report.frames.sent);
    assert_eq!((report.frames.duplicated, report.frames.damaged), (0, 0));
    // Each is a hole of a frame in what is heard.
    assert_eq!(report.counts.underruns, injected.lost);
    check_near(ms(&report, Measure::Underrun, 0.5), 20.0, 1.0);
}

#[tokio::test(start_paused = true)]
async fn duplication_and_disorder_are_read_back() {
    let (report, lines) = echo(Faults {
        double_every: Some(41),
        ..Faults::default()
    })
    .await;
    assert!(lines.injected().doubled > 10);
    assert_eq!(report.frames.duplicated, lines.injected().doubled);
    assert_eq!((report.frames.lost, report.frames.reordered), (0, 0));

    let (report, lines) = echo(Faults {
        swap_every: Some(43),
        ..Faults::default()
    })
    .await;
    assert!(lines.injected().swapped > 10);
    assert_eq!(report.frames.reordered, lines.injected().swapped);
    assert_eq!((report.frames.lost, report.frames.duplicated), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn damage_and_foreign_voices_are_read_back() {
    let (report, lines) = echo(Faults {
        damage_every: Some(53),
        ..Faults::default()
    })
    .await;
    assert!(lines.injected().damaged > 8);
    // A frame that cannot be read is damaged, and the one that it was is lost.
    assert_eq!(report.frames.damaged, lines.injected().damaged);
    assert_eq!(report.frames.lost, lines.injected().damaged);

    let (report, lines) = echo(Faults {
        cross_every: Some(59),
        ..Faults::default()
    })
    .await;
    assert!(lines.injected().crossed > 5);
    assert_eq!(report.frames.foreign, lines.injected().crossed);
    assert_eq!((report.frames.lost, report.frames.damaged), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn early_ends_are_told_by_cause() {
    let (report, _) = echo(Faults {
        refuse_call: Some(1),
        close_call: Some((2, 1_011)),
        drop_call: Some(3),
        mute_call: Some(4),
        ..Faults::default()
    })
    .await;
    let causes: Vec<_> = report
        .errors
        .iter()
        .map(|(cause, n)| (cause.as_str(), *n))
        .collect();
    let expected = [
        ("closed by the target, 1011", 1),
        ("connection broke", 1),
        ("refused 503", 1),
        ("upgrade timeout", 1),
    ];
    assert_eq!(causes, expected);
    // The relay's own words.
    assert_eq!(report.first_errors["refused 503"], "busy");
    let counts = report.counts;
    assert_eq!((counts.completed, counts.refused, counts.failed), (2, 1, 3));
    assert_eq!(report.calls.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn replies_that_do_not_come_are_missed() {
    let mut scenario = Scenario::parse(ECHO).expect("it is one");
    scenario.call.answer = Answer::Reply;
    scenario.call.patience = 3 * MS * 1_000;
    // All that is said is lost on its way, so that nothing ever sounds.
    let lines = EchoLines::new(Faults {
        lose_every: Some(1),
        ..Faults::default()
    });
    let run = Run::new(scenario, Part::default(), Arc::new(lines), None);
    let report = run.expect("the target is one").finish().await;
    assert_eq!(report.errors["no reply in time"], 6, "{:?}", report.errors);
    assert_eq!((report.counts.turns, report.counts.turns_answered), (18, 0));
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_run_are_one_run() {
    let mut scenario = Scenario::parse(ECHO).expect("it is one");
    scenario.limits.calls = 5;
    let part = async |index| {
        let lines = Arc::new(EchoLines::new(Faults::default()));
        let run = Run::new(scenario.clone(), Part { index, of: 2 }, lines, None);
        run.expect("the target is one").finish().await
    };
    let parts = [part(0).await, part(1).await];
    let begun = parts.each_ref().map(|it| it.counts.begun);
    assert_eq!(begun, [3, 2]);
    // Each caller says something else, in whichever part.
    let rows = parts.iter().flat_map(|it| &it.calls);
    let lengths: std::collections::BTreeSet<_> = rows.map(|it| it.frames.sent).collect();
    assert_eq!(lengths.len(), 5, "{lengths:?}");
}

const DIRECT: &str = "
[target]
url = 'ws://simulator/openai/v1/realtime?model=gpt-realtime'
headers = { api-key = 'any' }
[arrivals]
process = 'burst'
size = 4
every = '1h'
[limits]
calls = 4
time = '1m'
[call]
turns = 2
talk = '1s'
";

async fn direct(delay: Duration, change: impl FnOnce(&mut Scenario)) -> RunReport {
    let lines = SimulatorLines::new(delay);
    let wiretap = lines.wiretap();
    let mut scenario = Scenario::parse(DIRECT).expect("it is one");
    change(&mut scenario);
    let run = Run::new(
        scenario,
        Part::default(),
        Arc::new(lines),
        Some(Arc::clone(&wiretap)),
    );
    let run = run.expect("the target is one");
    let mut report = run.finish().await;
    report.measures.add(&wiretap.take());
    report
}

#[tokio::test(start_paused = true)]
async fn the_way_of_frames_is_timed_in_each_direction() {
    let near = direct(Duration::ZERO, |_| {}).await;
    let far = direct(70 * MS, |_| {}).await;
    for report in [&near, &far] {
        assert_eq!(report.counts.completed, 4, "{:?}", report.errors);
        assert_eq!((report.counts.turns, report.counts.turns_answered), (8, 8));
        assert_eq!((report.frames.lost, report.frames.expected), (0, 8 * 50));
        // The rows have what the histograms have, call by call.
        let up = report.calls.iter().flat_map(|call| &call.frames_up_us);
        let n_up = up.map(|(_, n)| n).sum::<u64>();
        assert_eq!(n_up, report.measures.count(Measure::FrameUp));
        let down = report.calls.iter().flat_map(|call| &call.frames_down_ms);
        let n_down = down.count() as u64;
        assert_eq!(n_down, report.measures.count(Measure::FrameDown));
        assert!(n_up > 300 && n_down == 8, "{n_up} {n_down}");
        let answered = report.calls.iter().map(|call| call.turns_answered);
        assert_eq!(answered.sum::<u64>(), 8);
        let first = report.calls.iter().map(|call| call.first_audio_ms.len());
        assert_eq!(first.sum::<usize>(), 8);
    }
    for (report, expected) in [(&near, 0.0), (&far, 70.0)] {
        for quantile in [0.05, 1.0] {
            check_near(ms(report, Measure::FrameUp, quantile), expected, 3.1);
            check_near(ms(report, Measure::FrameDown, quantile), expected, 3.1);
        }
    }
    // The simulator's turn detection looks every 32 ms, and its reply begins within 15 ms either way.
    let more = ms(&far, Measure::FirstAudio, 0.5) - ms(&near, Measure::FirstAudio, 0.5);
    check_near(more, 140.0, 60.0);
    let set_up = ms(&far, Measure::SetUp, 0.5) - ms(&near, Measure::SetUp, 0.5);
    // One way there and back for the upgrade, one for the session's settings.
    check_near(set_up, 280.0, 5.0);
}

#[tokio::test(start_paused = true)]
async fn interrupted_replies_are_cut_and_lose_nothing() {
    let report = direct(20 * MS, |scenario| {
        scenario.call.turns.from = 4;
        scenario.call.turns.to = 4;
        scenario.call.barge_in.share = 1.0;
        scenario.call.barge_in.after.to = 800 * MS;
    })
    .await;
    assert_eq!(report.counts.barge_ins, 4 * 3);
    assert_eq!(
        (
            report.frames.lost,
            report.frames.duplicated,
            report.frames.foreign
        ),
        (0, 0, 0)
    );
    // The simulator is sure of a voice after 64 ms, on frames of 32; then the way there and back.
    check_near(ms(&report, Measure::BargeInSilence, 0.5), 100.0, 40.0);
}

#[tokio::test(start_paused = true)]
async fn the_token_budget_ends_the_run() {
    let report = direct(Duration::ZERO, |scenario| {
        scenario.limits.tokens = 200;
        scenario.limits.calls = 1_000;
        scenario.call.turns.to = 100;
        scenario.call.turns.from = 100;
    })
    .await;
    assert!(
        report.stopped_by.contains_key("tokens"),
        "{:?}",
        report.stopped_by
    );
    // Four replies may be on the way when the budget is used up.
    assert!(
        (200..1_000).contains(&report.tokens.total()),
        "{:?}",
        report.tokens
    );
    assert_eq!(report.counts.failed, 0);
    assert!(report.rate_limits["tokens"].least_remaining < report.rate_limits["tokens"].limit);
}
