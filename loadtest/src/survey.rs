//! `compare` and `capacity`: several runs, from the command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use trunkline::quota::{DeploymentQuota, Expect};
use trunkline_loadtest::capacity::{Budget, Model, Search, helm_values};
use trunkline_loadtest::compare::{Comparison, Comparisons, Round, means, names};
use trunkline_loadtest::report::{RunReport, what_went_wrong};
use trunkline_loadtest::run::Part;
use trunkline_loadtest::scenario::{Arrivals, Scenario, Thresholds, parse_time};

use crate::perform::{Changes, can_hold, can_run, is_folder, no_run, perform};
use crate::show::Show;

/// Run two scenarios in turn, several times, and say how much slower or worse the second is.
///
/// Each round runs both, in alternating order, so that what changes with time touches both alike. A scenario's tokens are
/// for all of its rounds. Told are ratios of times, the second's to the first's, and differences of shares, with bounds of
/// 95 % confidence: the wider ones of redrawing calls and of comparing rounds.
///
/// Exit status: 0 if the second is not shown to be worse, 1 if it is or none of its calls was answered, 2 if there was no run,
/// nothing could be compared, nobody answered in the first, or something named by --judge could not be compared. Shown to be
/// worse is what is so by bounds that hold for all judged comparisons together with 95 % confidence.
#[derive(Args)]
#[command(after_help = "\
Examples:
  Is the second gateway slower, or worse in anything? For people, for programs:
    trunkline-loadtest compare support.toml --url-b ws://other:8080/twilio/media/support --out result.json --out result.csv

  Judge by two things alone, which shows smaller differences:
    trunkline-loadtest compare a.toml b.toml --rounds 8 --judge 'turn_latency p95' --judge lost_frames")]
pub(crate) struct CompareArguments {
    /// The first scenario
    a: PathBuf,

    /// The second; the first again with --url-b if left out
    #[arg(required_unless_present = "url_b")]
    b: Option<PathBuf>,

    /// The second calls this address
    #[arg(long, value_name = "URL")]
    url_b: Option<String>,

    /// How often both are run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    #[command(flatten)]
    changes: Changes,

    /// Let this decide the exit status, and nothing else that is not named so: lost_frames, turn_latency (p50 and p95),
    /// 'turn_latency p95', ...; may be repeated
    #[arg(long, value_name = "NAME", value_parser = comparison)]
    judge: Vec<String>,

    /// Write the comparison to this file: JSON, or CSV by its ending; may be repeated
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,

    /// Write both merged reports to this folder, as a.json and b.json
    #[arg(long, value_name = "FOLDER")]
    reports: Option<PathBuf>,
}

fn comparison(text: &str) -> Result<String, String> {
    let names = names();
    if names.iter().any(|name| means(text, name)) {
        return Ok(text.to_owned());
    }
    Err(format!("compared are {}", names.join(", ")))
}

/// Compares; see [`CompareArguments`] for the exit status.
pub(crate) async fn compare(arguments: &CompareArguments) -> ExitCode {
    match try_compare(arguments).await {
        Ok(is_worse) => ExitCode::from(u8::from(is_worse)),
        Err(error) => no_run(&error),
    }
}

async fn try_compare(arguments: &CompareArguments) -> Result<bool, String> {
    arguments.out.iter().try_for_each(|path| can_hold(path))?;
    if let Some(page) = arguments
        .out
        .iter()
        .find(|it| it.extension() == Some("html".as_ref()))
    {
        let page = page.display();
        return Err(format!(
            "--out {page}: a comparison is JSON or CSV; pages are made of --reports"
        ));
    }
    if let Some(folder) = &arguments.reports {
        is_folder("--reports", folder)?;
    }
    let rounds = run_rounds(arguments).await?;
    if rounds.is_empty() {
        return Err("not one round was run to its end: there is nothing to compare".to_owned());
    }
    let seed = rounds[0][0].seed;
    let found = trunkline_loadtest::compare::compare(&rounds, &arguments.judge, seed);
    let [mut a, mut b] = Round::default();
    for [first, second] in rounds {
        a.merge(first);
        b.merge(second);
    }
    if let Some(folder) = &arguments.reports {
        for (name, report) in [("a.json", &a), ("b.json", &b)] {
            let written = report.write(&folder.join(name));
            written.map_err(|error| error.to_string())?;
        }
    }
    for path in &arguments.out {
        found.write(path).map_err(|error| error.to_string())?;
    }
    say(&format!("\n{}", found.to_text().trim_end()));
    conclude([&a, &b], &found, &arguments.judge)
}

/// Whether the second is worse.
fn conclude(
    [a, b]: [&RunReport; 2],
    found: &Comparisons,
    judge: &[String],
) -> Result<bool, String> {
    if a.counts.answered == 0 {
        return Err(
            "no call of the first was answered: there is nothing to compare with".to_owned(),
        );
    }
    if b.is_unanswered() {
        say("no call of the second was answered");
        return Ok(true);
    }
    if found.is_worse {
        return Ok(true);
    }
    let is_there = |named: &&String| {
        let meant = |it: &&Comparison| means(named, &it.name);
        let mut meant = found.comparisons.iter().filter(meant);
        meant.all(|it| it.bounds_together.is_some())
    };
    if let Some(missing) = judge.iter().find(|named| !is_there(named)) {
        return Err(format!(
            "--judge {missing}: could not be compared, or of too few calls to be sure enough"
        ));
    }
    if found.n_judged == 0 {
        return Err("too few calls on a side to compare anything".to_owned());
    }
    Ok(false)
}

/// The rounds that were run to their end.
async fn run_rounds(arguments: &CompareArguments) -> Result<Vec<Round>, String> {
    let read = |path: &PathBuf| Scenario::read(path).map_err(|error| error.to_string());
    let mut scenarios = [
        read(&arguments.a)?,
        read(arguments.b.as_ref().unwrap_or(&arguments.a))?,
    ];
    for scenario in &mut scenarios {
        arguments.changes.apply(scenario);
    }
    if let Some(url) = &arguments.url_b {
        scenarios[1].target.url.clone_from(url);
    }
    // The first is not to be run, and paid for, if the second cannot be.
    scenarios.iter().try_for_each(can_run)?;
    let mut budgets = [0, 1].map(|side| Budget::of(&scenarios[side]));
    let mut rounds: Vec<Round> = Vec::new();
    'rounds: for round in 0..arguments.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut both = Round::default();
        for side in order {
            let mut scenario = in_round(&scenarios[side], scenarios[0].seed, round);
            budgets[side].limit(&mut scenario);
            let report = perform(scenario, Part::default(), &Show::live()).await?;
            say(&format!(
                "round {} of {}, {}: {} calls, {} refused, {} failed",
                round + 1,
                arguments.rounds,
                ["first", "second"][side],
                report.counts.begun,
                report.counts.refused,
                report.counts.failed
            ));
            let wrong = what_went_wrong(&report);
            if !wrong.is_empty() {
                say(wrong.trim_end());
            }
            let is_interrupted = report.stopped_by.contains_key("interrupt");
            if is_interrupted || !budgets[side].spend(&report) {
                let why = match is_interrupted {
                    true => "interrupted",
                    false => "its token budget, which is for all rounds, is used up",
                };
                // Half a round compares nothing, and calls that were cut short are not like the others.
                say(&format!("{why}: what follows is of the rounds before"));
                break 'rounds;
            }
            both[side] = report;
        }
        rounds.push(both);
    }
    Ok(rounds)
}

/// Find how many calls at a time keep an SLO, by running them, or how many fit a quota, by calculation.
///
/// Exit status: 0 if at least one call fits, 1 if none does, 2 if there was no run.
#[derive(Args)]
#[command(after_help = "\
Examples:
  The largest number of callers of a scenario that keeps an SLO, 30 s for each try:
    trunkline-loadtest capacity support.toml --slo slo.toml --most 2000 --calls 20000 --time 30s

  How many calls of five minutes fit 100,000 tokens a minute, and 50 provisioned units:
    trunkline-loadtest capacity --model --tpm 100000 --minutes 5
    trunkline-loadtest capacity --model --ptu 50 --minutes 5 --cached 0.8")]
pub(crate) struct CapacityArguments {
    /// The scenario; its arrivals are replaced by callers that are kept up
    #[arg(required_unless_present = "model")]
    scenario: Option<PathBuf>,

    /// What has to be kept: a file with a scenario's [thresholds] alone; the scenario's own if left out
    #[arg(long, value_name = "FILE")]
    slo: Option<PathBuf>,

    /// Begin with so many calls
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    first: u32,

    /// Try no more than so many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,

    /// What was found has to hold so many times more
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=10))]
    confirm: u32,

    /// How long each try lasts
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    time: Duration,

    /// End the search when so many tokens were used, in all tries together [default: limits.tokens of the scenario]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,

    /// End a try with so many calls in all, and never try more at a time [default: limits.calls of the scenario]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,

    /// Calculate instead, by the quota model that the gateway admits calls by
    #[arg(long, conflicts_with_all = ["scenario", "slo"])]
    model: bool,

    #[command(flatten)]
    shape: ShapeArguments,
}

/// A call's shape and a deployment's grant, for `--model`.
#[derive(Args)]
struct ShapeArguments {
    /// Model: tokens a minute that are granted
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tpm: u32,

    /// Model: requests a minute that are granted
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    rpm: u32,

    /// Model: provisioned units, instead of tokens and requests a minute
    #[arg(long, value_name = "N")]
    ptu: Option<u32>,

    /// Model: tokens of instructions and tools
    #[arg(long, value_name = "N", default_value_t = 500)]
    instructions: u32,

    /// Model: replies a minute
    #[arg(long, value_name = "N", default_value_t = 4.0)]
    turns_per_minute: f64,

    /// Model: seconds that the caller speaks in a turn
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    caller_seconds: f64,

    /// Model: seconds that a reply lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    reply_seconds: f64,

    /// Model: minutes that a call lasts
    #[arg(long, value_name = "MINUTES", default_value_t = 5.0)]
    minutes: f64,

    /// Model: share of what is read again that comes from the cache, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    cached: f64,

    /// Model: pods of the gateway that share the deployment, for the values of its chart
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
}

/// Searches or calculates; see [`CapacityArguments`] for the exit status.
pub(crate) async fn capacity(arguments: &CapacityArguments) -> ExitCode {
    let found = match &arguments.scenario {
        Some(path) => search(path, arguments).await,
        None => calculate(&arguments.shape),
    };
    match found {
        Ok(0) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => no_run(&error),
    }
}

async fn search(path: &Path, arguments: &CapacityArguments) -> Result<u64, String> {
    let mut scenario = Scenario::read(path).map_err(|error| error.to_string())?;
    if let Some(slo) = &arguments.slo {
        let text =
            std::fs::read_to_string(slo).map_err(|error| format!("{}: {error}", slo.display()))?;
        scenario.thresholds =
            Thresholds::parse(&text).map_err(|error| format!("{}: {error}", slo.display()))?;
    }
    if scenario.thresholds.is_empty() {
        return Err(
            "there is nothing to keep: give --slo FILE, or [thresholds] in the scenario".to_owned(),
        );
    }
    scenario.limits.time = arguments.time;
    scenario.limits.calls = arguments.calls.unwrap_or(scenario.limits.calls);
    scenario.limits.tokens = arguments.tokens.unwrap_or(scenario.limits.tokens);
    let mut budget = Budget::of(&scenario);
    let most_calls = scenario.limits.calls;
    let most = most_at_a_time(arguments.most, most_calls);
    if most < arguments.most {
        say(&format!(
            "no more than {most} calls at a time are tried: limits.calls (--calls)"
        ));
    }
    let mut search = Search::new(arguments.first, most, arguments.confirm);
    while let Some(calls) = search.next() {
        let mut one = scenario.clone();
        budget.limit(&mut one);
        // A tenth of the time to come up, as real callers do not all call at once.
        one.arrivals = Arrivals::Hold {
            calls,
            over: arguments.time / 10,
        };
        one.limits.concurrent = calls;
        let report = perform(one, Part::default(), &Show::live()).await?;
        let ended_early = |why: &str| {
            let held = search.holds();
            Err(format!(
                "{why} at {calls} calls; {held} held before, not confirmed"
            ))
        };
        if report.stopped_by.contains_key("interrupt") {
            return ended_early("interrupted");
        }
        // Where the token budget ended the run, its last calls were cut short and prove nothing.
        if !budget.spend(&report) {
            let tokens = scenario.limits.tokens;
            return ended_early(&format!(
                "all {tokens} tokens of the budget were used up, which is for all tries (--tokens)"
            ));
        }
        // Callers who may not call again hold fewer calls at a time than this try is about.
        if report.stopped_by.contains_key("calls") {
            return ended_early(&format!(
                "all {most_calls} calls that a try may make (limits.calls, --calls) were made before its time was over"
            ));
        }
        let held = report.missed.is_empty();
        say(&format!(
            "{calls:>6} calls  {}",
            if held { "held" } else { "did not hold" }
        ));
        for miss in &report.missed {
            say(&format!("              {miss}"));
        }
        let wrong = what_went_wrong(&report);
        if !held && !wrong.is_empty() {
            say(wrong.trim_end());
        }
        search.note(calls, held);
    }
    let found = search.holds();
    if found == 0 {
        say("not even one call holds");
    } else {
        say(&format!(
            "\n{found} calls at a time hold, confirmed {} times",
            arguments.confirm
        ));
        if found == most {
            say("more were not tried, and may hold as well");
        }
        say(&format!(
            "for a gateway like this one, in its configuration:\n[listener]\nmax_calls = {found}"
        ));
        let values = helm_values(found, None);
        say(&format!(
            "or, if it ran as a pod does, in the values of its chart:\n{values}"
        ));
    }
    Ok(u64::from(found))
}

/// Nobody can hold more calls at a time than there may be in all.
fn most_at_a_time(most: u32, calls: u64) -> u32 {
    u32::try_from(calls).map_or(most, |calls| calls.min(most))
}

fn calculate(shape: &ShapeArguments) -> Result<u64, String> {
    let expect = Expect {
        instructions_tokens: shape.instructions,
        turns_per_minute: shape.turns_per_minute,
        caller_seconds_per_turn: shape.caller_seconds,
        reply_seconds_per_turn: shape.reply_seconds,
        mean_minutes: shape.minutes,
        ..Expect::default()
    };
    let quota = DeploymentQuota {
        tokens_per_minute: shape.tpm,
        requests_per_minute: shape.rpm,
        provisioned_units: shape.ptu,
        ..DeploymentQuota::default()
    };
    let model = Model::new(&expect, quota, shape.cached)?;
    let fit = model.fit();
    let unit = if shape.ptu.is_some() {
        "weighted tokens"
    } else {
        "tokens"
    };
    say(&format!(
        "granted                      {:>10.0} {unit} a minute",
        model.grant()
    ));
    say(&format!(
        "a call, over its life        {:>10.0} {unit} a minute",
        fit.mean_per_call
    ));
    say(&format!(
        "a call, in its last minute   {:>10.0} {unit} a minute",
        fit.last_minute
    ));
    say(&format!(
        "\n{:.1} calls at a time if their ages are spread evenly",
        fit.calls
    ));
    say(&format!(
        "{:.1} if all began together and are in their last minute",
        fit.calls_together
    ));
    if fit.calls_by_requests.is_finite() {
        say(&format!(
            "{:.0} by requests a minute",
            fit.calls_by_requests
        ));
    }
    let whole = fit.whole_calls();
    if whole == 0 {
        say("\nnot even one call fits");
    } else {
        say(&format!("\n{whole} calls at a time fit"));
        let in_each = u32::try_from(whole / u64::from(shape.pods)).unwrap_or(u32::MAX);
        if in_each == 0 {
            say(&format!("{} pods cannot share them", shape.pods));
        } else {
            let pods = shape.pods;
            let values = helm_values(in_each, Some(pods));
            say(&format!(
                "in the values of its chart, for at most {pods} pods:\n{values}"
            ));
        }
    }
    Ok(whole)
}

fn say(text: &str) {
    // A closed pipe on the other side of stdout is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Both sides of a round have the same callers, each round has others; and so do the delays and faults of the simulator, or
/// rounds would resemble each other more than those of a real target.
fn in_round(scenario: &Scenario, seed: u64, round: u32) -> Scenario {
    let mut scenario = scenario.clone();
    scenario.seed = seed.wrapping_add(u64::from(round));
    if let Some(simulator) = &mut scenario.simulator {
        let settings = &mut simulator.settings;
        settings.seed = settings.seed.wrapping_add(u64::from(round));
    }
    scenario
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use trunkline_loadtest::compare::compare;
    use trunkline_loadtest::report::CallRow;

    use super::*;

    #[derive(Parser)]
    struct CapacityLine {
        #[command(flatten)]
        capacity: CapacityArguments,
    }

    /// Searches with a scenario whose calls all fail at once, which is allowed.
    async fn capacity_of_nobody(name: &str, limits: &str, more: &str) -> Result<u64, String> {
        let name = format!("trunkline-loadtest-{name}-{}.toml", std::process::id());
        let file = std::env::temp_dir().join(name);
        let text = format!(
            "[target]\nurl = 'ws://127.0.0.1:1/twilio'\n[limits]\n{limits}\n[thresholds]\nfailed_calls = 1.0"
        );
        std::fs::write(&file, text).unwrap();
        let words = ["capacity", file.to_str().unwrap()];
        let words = words.into_iter().chain(more.split_whitespace());
        let arguments = CapacityLine::try_parse_from(words).unwrap().capacity;
        let found = search(&file, &arguments).await;
        std::fs::remove_file(&file).unwrap();
        found
    }

    #[tokio::test]
    async fn a_search_keeps_to_the_calls_of_its_scenario() {
        let error = capacity_of_nobody("bound", "calls = 3", "--first 1 --time 1h")
            .await
            .unwrap_err();
        assert!(error.starts_with("all 3 calls"), "{error}");
        assert!(error.contains("at 1 calls; 0 held before"), "{error}");
        let most = |most, calls| most_at_a_time(most, calls);
        assert_eq!([most(10, 3), most(2, 3), most(9, u64::MAX)], [3, 2, 9]);
    }

    #[derive(Parser)]
    struct CompareLine {
        #[command(flatten)]
        compare: CompareArguments,
    }

    #[tokio::test]
    async fn the_first_is_not_called_if_the_second_cannot_be() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        first.set_nonblocking(true).unwrap();
        let name = format!("trunkline-loadtest-second-{}.toml", std::process::id());
        let file = std::env::temp_dir().join(name);
        let address = first.local_addr().unwrap();
        let text =
            format!("[target]\nurl = 'ws://{address}/twilio'\n[limits]\ncalls = 1\ntime = '100ms'");
        std::fs::write(&file, text).unwrap();
        let words = [
            "compare",
            file.to_str().unwrap(),
            "--url-b",
            "ws://nowhere/",
        ];
        let arguments = CompareLine::try_parse_from(words).unwrap().compare;
        let error = try_compare(&arguments).await.unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(error.starts_with("target"), "{error}");
        assert!(first.accept().is_err());
    }

    /// A report of calls, of which so many were answered, that all took as long.
    fn answered(n_answered: u64, turn_ms: f64) -> RunReport {
        let call = CallRow {
            outcome: "completed".to_owned(),
            turns: vec![(0.0, Some(turn_ms))],
            turns_answered: 1,
            ..CallRow::default()
        };
        let mut report = RunReport {
            calls: vec![call; 20],
            ..RunReport::default()
        };
        (report.counts.begun, report.counts.answered) = (20, n_answered);
        report
    }

    #[test]
    fn the_exit_status_of_compare() {
        let check = |a: RunReport, b: RunReport, judge: &[&str], expected: Result<bool, &str>| {
            let judge: Vec<String> = judge.iter().map(|it| comparison(it).unwrap()).collect();
            let found = compare(&[[a.clone(), b.clone()]], &judge, 1);
            match (conclude([&a, &b], &found, &judge), expected) {
                (Err(error), Err(why)) => assert!(error.contains(why), "{error}"),
                (other, expected) => assert_eq!(other.ok(), expected.ok(), "{judge:?}"),
            }
        };
        let (fast, slow) = (|| answered(20, 500.0), || answered(20, 600.0));
        check(fast(), fast(), &[], Ok(false));
        check(fast(), slow(), &[], Ok(true));
        check(slow(), fast(), &[], Ok(false));
        check(fast(), slow(), &["failed_calls"], Ok(false));
        check(fast(), slow(), &["turn_latency p50"], Ok(true));
        // What was to decide and cannot is no success.
        check(
            fast(),
            fast(),
            &["turn_latency"],
            Err("--judge turn_latency"),
        );
        check(fast(), fast(), &["lost_frames"], Err("--judge lost_frames"));
        check(answered(0, 500.0), fast(), &[], Err("of the first"));
        check(fast(), answered(0, 500.0), &[], Ok(true));
        let few = || RunReport {
            calls: Vec::new(),
            ..fast()
        };
        check(few(), few(), &[], Err("too few calls"));
        assert!(
            comparison("latency")
                .unwrap_err()
                .contains("turn_latency p95, ")
        );
    }

    #[test]
    fn no_round_repeats_the_callers_or_the_faults_of_another() {
        let text = "seed = 4\n[target]\nurl = 'ws://127.0.0.1:1/twilio'\n[simulator]\nlisten = '127.0.0.1:0'\n[simulator.settings]\nseed = 7";
        let scenario = Scenario::parse(text).unwrap();
        let seeds = |round| {
            let scenario = in_round(&scenario, 4, round);
            (scenario.seed, scenario.simulator.unwrap().settings.seed)
        };
        assert_eq!([seeds(0), seeds(1), seeds(2)], [(4, 7), (5, 8), (6, 9)]);
    }
}
