//! `run`: a scenario, from the command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::simulator::Simulator;
use trunkline::simulator::phone_dial::Dialer;
use trunkline_loadtest::report::{RunReport, to_text};
use trunkline_loadtest::run::{Part, Run, Wiretap};
use trunkline_loadtest::scenario::{Scenario, parse_time};

use crate::show::{Push, Show, expose};

/// Let the callers of a scenario call, and report what they heard.
///
/// Exit status: 0 if all thresholds were kept, 1 if one was missed or no call was answered, 2 if there was no run, or its
/// report could not be written or sent.
#[derive(Args)]
#[command(after_help = "\
Examples:
  Run a scenario; report on the terminal and in three files:
    trunkline-loadtest run support.toml --out report.json --out report.csv --out report.html

  The same callers against another gateway, for half a minute:
    trunkline-loadtest run support.toml --url ws://other:8080/twilio/media/support --time 30s

  Four processes (or hosts) share a scenario; afterwards: trunkline-loadtest report part*.json
    trunkline-loadtest run support.toml --part 1/4 --out part1.json

  Watched by Prometheus while it goes on:
    trunkline-loadtest run support.toml --metrics-listen 127.0.0.1:9464")]
pub(crate) struct RunArguments {
    /// The scenario, a TOML file; see loadtest/README.md
    scenario: PathBuf,

    #[command(flatten)]
    changes: Changes,

    /// Write the report to this file: JSON, or CSV or HTML by its ending; may be repeated
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,

    /// Make this process's share of the calls, for example 1/4; limits.calls, .concurrent and .tokens are shared out, too
    #[arg(long, value_name = "N/OF", value_parser = parse_part)]
    part: Option<Part>,

    #[command(flatten)]
    show: Show,

    #[command(flatten)]
    push: Push,
}

/// What the command line changes in a scenario.
#[derive(Args)]
pub(crate) struct Changes {
    /// Call this address instead
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,

    /// Stop after so many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,

    /// Stop when so many tokens were used
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,

    /// Other callers
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Changes {
    pub(crate) fn apply(&self, scenario: &mut Scenario) {
        if let Some(url) = &self.url {
            scenario.target.url.clone_from(url);
        }
        scenario.limits.time = self.time.unwrap_or(scenario.limits.time);
        scenario.limits.calls = self.calls.unwrap_or(scenario.limits.calls);
        scenario.limits.tokens = self.tokens.unwrap_or(scenario.limits.tokens);
        scenario.seed = self.seed.unwrap_or(scenario.seed);
    }
}

/// Runs it; see [`RunArguments`] for the exit status.
pub(crate) async fn run(arguments: &RunArguments) -> ExitCode {
    let mut scenario = match Scenario::read(&arguments.scenario) {
        Ok(scenario) => scenario,
        Err(error) => return no_run(&error.to_string()),
    };
    arguments.changes.apply(&mut scenario);
    // What is found at the end of a long run would be lost.
    if let Err(error) = arguments.out.iter().try_for_each(|path| can_hold(path)) {
        return no_run(&error);
    }
    let part = arguments.part.unwrap_or_default();
    let report = match perform(scenario, part, &arguments.show).await {
        Ok(report) => report,
        Err(error) => return no_run(&error),
    };
    publish(&report, &arguments.out, &arguments.push).await
}

/// Shows, writes and sends a report, and judges it.
async fn publish(report: &RunReport, out: &[PathBuf], push: &Push) -> ExitCode {
    let status = conclude(report, out);
    // Last: whoever cannot be told does not keep the others from it.
    match push.push(report).await {
        Ok(()) => status,
        Err(error) => no_run(&error),
    }
}

/// Whether a report can be written there, as far as can be known without writing.
pub(crate) fn can_hold(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Err(format!(
            "--out {}: is a folder, name a file in it",
            path.display()
        ));
    }
    match path.parent() {
        Some(folder) if folder != Path::new("") => is_folder("--out", folder),
        _ => Ok(()),
    }
}

/// Whether there is a folder to write to.
pub(crate) fn is_folder(option: &str, path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Ok(());
    }
    Err(format!("{option}: there is no folder {}", path.display()))
}

/// Shows and writes a report, and judges it.
fn conclude(report: &RunReport, out: &[PathBuf]) -> ExitCode {
    // A closed pipe on the other side of stdout is no reason to fail.
    let _ = write!(std::io::stdout(), "{}", to_text(report));
    let errors = out.iter().filter_map(|path| report.write(path).err());
    let statuses: Vec<_> = errors.map(|error| no_run(&error.to_string())).collect();
    if let Some(status) = statuses.first() {
        return *status;
    }
    // Nobody asks for this in a threshold, and nobody wants to hear that it went well.
    if report.missed.is_empty() && !report.is_unanswered() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How long the simulator's sessions may take to close.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(6);

/// One run, with the simulator if the scenario has one.
pub(crate) async fn perform(
    scenario: Scenario,
    part: Part,
    show: &Show,
) -> Result<RunReport, String> {
    let metrics = show.metrics_listener().await?;
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let wiretap = match &scenario.simulator {
        Some(table) => {
            let wiretap = Arc::new(Wiretap::default());
            let listener = TcpListener::bind(table.listen).await;
            let listener =
                listener.map_err(|error| format!("simulator.listen: {}: {error}", table.listen))?;
            let simulator = Simulator::new(table.settings.clone());
            let simulator = Arc::new(simulator.listened_by(Arc::clone(&wiretap) as _));
            tasks.spawn(simulator.serve(listener, shutdown.clone()));
            Some(wiretap)
        }
        None => None,
    };
    let thresholds = scenario.thresholds.clone();
    let run = prepare(scenario, part, wiretap.clone())?;
    if let Some(listener) = metrics {
        tasks.spawn(expose(listener, run.clone(), shutdown.clone()));
    }
    let mut report = watch(&run, show).await;
    shutdown.cancel();
    if let Some(wiretap) = wiretap {
        report.measures.add(&wiretap.take());
        // Some of them may be on what was measured there.
        report.missed = thresholds.missed(&report);
    }
    // The next run may want the simulator's address.
    tasks.close();
    let _ = timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await;
    Ok(report)
}

fn prepare(scenario: Scenario, part: Part, wiretap: Option<Arc<Wiretap>>) -> Result<Run, String> {
    let dialer = Dialer::new(scenario.target.ca.as_deref()).map_err(|error| error.to_string())?;
    Run::new(scenario, part, Arc::new(dialer), wiretap).map_err(|error| error.to_string())
}

/// Whether a scenario can be run, as far as can be known without calling anybody.
pub(crate) fn can_run(scenario: &Scenario) -> Result<(), String> {
    prepare(scenario.clone(), Part::default(), None).map(drop)
}

/// Somebody at a terminal, or whoever started the process, wants it to end.
async fn stopped() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// Waits for a run's end, and shows meanwhile how it goes.
async fn watch(run: &Run, show: &Show) -> RunReport {
    let mut screen = show.screen();
    let finish = run.finish();
    tokio::pin!(finish);
    let stopped = stopped();
    tokio::pin!(stopped);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            report = &mut finish => {
                screen.clear();
                return report;
            }
            () = &mut stopped => {
                run.interrupt();
                stopped.set(self::stopped());
            }
            _ = second.tick() => screen.draw(run),
        }
    }
}

/// Make a report of what runs have written as JSON, of several processes or hosts merged into one.
///
/// Exit status: 0 if all thresholds were kept, 1 if one was missed or no call was answered, 2 if a file is no report, two
/// of them are of the same run, or what was asked for could not be written or sent.
#[derive(Args)]
#[command(after_help = "\
Examples:
  The page of a run that was written as JSON:
    trunkline-loadtest report run.json --out run.html

  What four processes found, judged together:
    trunkline-loadtest report part*.json --scenario support.toml --out all.html --out all.json")]
pub(crate) struct ReportArguments {
    /// Reports, as JSON
    #[arg(required = true)]
    reports: Vec<PathBuf>,

    /// Write the report to this file: JSON, or CSV or HTML by its ending; may be repeated
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,

    /// Judge it by the thresholds of this scenario; a single report keeps its own verdict without
    #[arg(long, value_name = "SCENARIO")]
    scenario: Option<PathBuf>,

    #[command(flatten)]
    push: Push,
}

/// Reads, merges and shows; see [`ReportArguments`] for the exit status.
pub(crate) async fn report(arguments: &ReportArguments) -> ExitCode {
    let mut all = match RunReport::read_all(&arguments.reports) {
        Ok(all) => all,
        Err(error) => return no_run(&error.to_string()),
    };
    if let Some(path) = &arguments.scenario {
        match Scenario::read(path) {
            Ok(scenario) => all.missed = scenario.thresholds.missed(&all),
            Err(error) => return no_run(&error.to_string()),
        }
    }
    publish(&all, &arguments.out, &arguments.push).await
}

pub(crate) fn no_run(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "trunkline-loadtest: {text}");
    ExitCode::from(2)
}

fn parse_part(text: &str) -> Result<Part, String> {
    let wrong =
        || "say the number of this process and how many there are, for example 1/4".to_owned();
    let (index, of) = text.split_once('/').ok_or_else(wrong)?;
    let (index, of): (u32, u32) = (
        index.parse().map_err(|_| wrong())?,
        of.parse().map_err(|_| wrong())?,
    );
    if index == 0 || index > of {
        return Err(wrong());
    }
    Ok(Part {
        index: index - 1,
        of,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArguments,
    }

    /// A folder of its own with a scenario of one call to where nobody listens; it is removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            let nobody = "[target]\nurl = 'ws://127.0.0.1:1/twilio'\n[limits]\ncalls = 1";
            std::fs::write(path.join("nobody.toml"), nobody).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }

        async fn run(&self, more: &[String]) -> ExitCode {
            let words = ["run".to_owned(), self.path("nobody.toml"), "--quiet".into()];
            let words = words.iter().chain(more);
            run(&Line::try_parse_from(words).unwrap().run).await
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_report_outlives_who_cannot_be_told() {
        let folder = Folder::new("trunkline-loadtest-push");
        let kept = folder.path("kept.json");
        let (push, nobody) = ("--push".to_owned(), "http://127.0.0.1:1".to_owned());
        folder
            .run(&["--out".into(), kept.clone(), push, nobody])
            .await;
        let report = RunReport::read(Path::new(&kept)).unwrap();
        assert_eq!((report.counts.begun, report.counts.failed), (1, 1));
        // What was called and what became of it is told, and is no success.
        assert_eq!(report.target, "ws://127.0.0.1:1/twilio");
        let first = &report.first_errors["connect"];
        assert!(first.contains("127.0.0.1:1: Connection refused"), "{first}");
        let status = |report| format!("{:?}", conclude(report, &[]));
        assert_eq!(status(&report), format!("{:?}", ExitCode::FAILURE));
    }

    #[tokio::test]
    async fn where_a_report_cannot_be_written_nothing_is_run() {
        let folder = Folder::new("trunkline-loadtest-out");
        let kept = folder.path("kept.json");
        let nowhere = folder.path("nowhere/report.html");
        let out = || "--out".to_owned();
        folder.run(&[out(), kept.clone(), out(), nowhere]).await;
        assert!(!Path::new(&kept).exists());
        assert!(can_hold(&folder.0).unwrap_err().contains("is a folder"));
        assert!(can_hold(Path::new("report.json")).is_ok());
    }
}
