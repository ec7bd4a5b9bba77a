//! What a run found: one value that is written as JSON, added to others, and shown as text, CSV and HTML.

mod chart;
mod csv;
mod html;
mod live;
mod prometheus;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::code::Tally;
use crate::measure::{Measure, Measures};
use crate::scenario::Miss;

pub(crate) use csv::quoted;
pub use csv::to_csv;
pub use html::to_html;
pub use live::{Before, Progress, live_line, live_view};
pub use prometheus::to_prometheus;
pub use text::{to_text, what_went_wrong};

/// The layout of the JSON; another number may not be read by this program.
pub const VERSION: u32 = 2;

/// No count and no time of a run is larger, in whatever unit; thousands of them can be added up.
const MOST: f64 = (1u64 << 50) as f64;

/// Of the year 9999, after which times have no name: Unix time in seconds.
const LAST_SECOND: u64 = 253_402_300_799;

/// Characters that are kept of what a target says.
const MOST_DETAIL: usize = 200;

/// Everything about a run, or about several that were merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// [`VERSION`].
    pub version: u32,
    /// Of the scenario.
    pub name: String,
    /// Who was called, without secrets.
    pub target: String,
    /// In which wire format.
    pub dialect: String,
    /// Of the first process.
    pub seed: u64,
    /// When the first process began, Unix time in seconds.
    pub begun: u64,
    /// From the beginning of the first process to the end of the last, in seconds.
    pub elapsed_s: f64,
    /// The runs that were merged, or the one that it was. What names none is of no run.
    pub runs: Vec<RunIdentity>,
    /// The limits that ended it, and how often: `calls`, `time`, `tokens`, `interrupt`, `trace`.
    pub stopped_by: BTreeMap<String, u32>,
    /// Calls and turns.
    pub counts: Counts,
    /// Frames of coded speech.
    pub frames: Tally,
    /// Tokens that were reported.
    pub tokens: Tokens,
    /// What went wrong, by cause.
    pub errors: BTreeMap<String, u64>,
    /// The first of them in full, by cause: what was said, or which address could not be reached.
    pub first_errors: BTreeMap<String, String>,
    /// What the target said of its rate limits, by name.
    pub rate_limits: BTreeMap<String, LimitState>,
    /// What took how long.
    pub measures: Measures,
    /// Thresholds that were missed.
    pub missed: Vec<Miss>,
    /// Call by call, in the order in which they ended.
    pub calls: Vec<CallRow>,
}

/// Which run it was, wherever its report is copied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunIdentity {
    /// Drawn at random when the run began: 32 hexadecimal digits.
    pub id: String,
    /// Of its scenario.
    pub seed: u64,
    /// When it began, Unix time in seconds.
    pub begun: u64,
    /// Its share of the scenario, as `1/4`.
    pub part: String,
}

impl RunIdentity {
    /// Of a run that begins now, unlike all others.
    #[must_use]
    pub fn draw(seed: u64, begun: u64, part: String) -> Self {
        Self {
            id: format!("{:032x}", fastrand::u128(..)),
            seed,
            begun,
            part,
        }
    }
}

impl fmt::Display for RunIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            seed,
            begun,
            part,
        } = self;
        write!(f, "{id} (seed {seed}, part {part}, begun at {begun})")
    }
}

/// Calls and turns, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Calls that were begun.
    pub begun: u64,
    /// Arrivals that made no call, because as many were live as the scenario allows.
    pub skipped: u64,
    /// Calls in which audio could flow.
    pub answered: u64,
    /// Calls that went as the caller wanted, or that the end of the run cut short.
    pub completed: u64,
    /// Calls refused with an HTTP status.
    pub refused: u64,
    /// Calls that failed otherwise.
    pub failed: u64,
    /// Calls at a time, at most; the sum of several processes.
    pub most_live: u64,
    /// Milliseconds from each answer to the call's end, added up.
    pub call_ms: u64,
    /// Things that callers said and waited for a reply to.
    pub turns: u64,
    /// Of them, those that were replied to.
    pub turns_answered: u64,
    /// Interrupted replies.
    pub barge_ins: u64,
    /// Holes in replies.
    pub underruns: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
}

/// Tokens, as the target reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Responses.
    pub responses: u64,
    /// Read, cached ones included.
    pub input: u64,
    /// From the cache.
    pub cached: u64,
    /// Written.
    pub output: u64,
}

/// What the target said of one rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitState {
    /// What is granted.
    pub limit: f64,
    /// What was left when least was.
    pub least_remaining: f64,
    /// How often it was told.
    pub told: u64,
}

/// One call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallRow {
    /// Its number in its process.
    pub n: u64,
    /// When it was due, in seconds since the run began.
    pub at_s: f64,
    /// `completed`, or why not.
    pub outcome: String,
    /// From when it was due until audio could flow.
    pub set_up_ms: Option<f64>,
    /// From when it was due to its end.
    pub length_ms: f64,
    /// For each turn, when the caller had finished, in seconds since the run began, and how long the reply took.
    pub turns: Vec<(f64, Option<f64>)>,
    /// Turns that were replied to, also those whose latency an older reply hid.
    pub turns_answered: u64,
    /// For each reply that no older one hid, how long until its first audio.
    pub first_audio_ms: Vec<f64>,
    /// For each interruption, how long until silence.
    pub barge_ins_ms: Vec<f64>,
    /// Ways of frames to the simulator in microseconds, and how often each; to a half of a hundredth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames_up_us: Vec<(u64, u64)>,
    /// For each reply, the way of its first frame from the simulator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames_down_ms: Vec<f64>,
    /// Holes in replies.
    pub underruns: u64,
    /// Frames of coded speech.
    pub frames: Tally,
    /// Tokens, read and written.
    pub tokens: u64,
}

/// Why reports cannot be merged or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        reason: std::io::Error,
    },
    /// It is no report.
    #[error("{path} is no report: {reason}")]
    Json {
        /// The file.
        path: String,
        /// Why not.
        reason: serde_json::Error,
    },
    /// Another layout.
    #[error("{path} is a report of version {version}, this program reads {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// A number in it is none that a run can have.
    #[error("{path} is no report: {number} is more than any run can have")]
    Number {
        /// The file.
        path: String,
        /// Its name and value.
        number: String,
    },
    /// It does not say which run it is of.
    #[error("{path} names no run that it is of")]
    NoRun {
        /// The file.
        path: String,
    },
    /// A run is in two of them.
    #[error("{first} and {second} are of the same run, which would count twice: {run}")]
    Twice {
        /// A file.
        first: String,
        /// Another, or the same again.
        second: String,
        /// The run.
        run: Box<RunIdentity>,
    },
}

impl RunReport {
    /// One more value, in microseconds.
    pub fn record(&mut self, measure: Measure, us: u64) {
        self.measures.record(measure, us);
    }

    /// A quantile in microseconds; none without values.
    #[must_use]
    pub fn quantile(&self, measure: Measure, quantile: f64) -> Option<u64> {
        self.measures.quantile(measure, quantile)
    }

    /// Something went wrong. Only the first `detail` of a cause is kept, and of it as much as fits a line or two.
    pub fn error(&mut self, cause: &str, detail: &str) {
        *self.errors.entry(cause.to_owned()).or_default() += 1;
        if !self.first_errors.contains_key(cause) {
            let words: Vec<_> = detail.split_whitespace().collect();
            let line = words.join(" ").chars().take(MOST_DETAIL).collect();
            self.first_errors.insert(cause.to_owned(), line);
        }
    }

    /// Each cause with how often it was met and the first of it in full, which may be empty.
    pub(crate) fn causes(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.errors.iter().map(|(cause, n)| {
            let first = self.first_errors.get(cause);
            (cause.as_str(), *n, first.map_or("", String::as_str))
        })
    }

    /// Did nobody who called get an answer?
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.counts.begun > 0 && self.counts.answered == 0
    }

    /// The deployment said what is left of a limit.
    pub fn limit(&mut self, name: &str, state: LimitState) {
        let entry = self
            .rate_limits
            .entry(name.to_owned())
            .or_insert(LimitState { told: 0, ..state });
        entry.limit = state.limit;
        entry.least_remaining = entry.least_remaining.min(state.least_remaining);
        entry.told += state.told;
    }

    /// Reads reports and adds them up.
    ///
    /// # Errors
    /// See [`ReportError`].
    pub fn read_all(paths: &[PathBuf]) -> Result<Self, ReportError> {
        let mut all = Self::default();
        let mut known: HashMap<String, &PathBuf> = HashMap::new();
        for path in paths {
            let report = Self::read(path)?;
            for run in &report.runs {
                if let Some(first) = known.insert(run.id.clone(), path) {
                    return Err(ReportError::Twice {
                        first: first.display().to_string(),
                        second: path.display().to_string(),
                        run: Box::new(run.clone()),
                    });
                }
            }
            all.merge(report);
        }
        Ok(all)
    }

    /// Adds another process's run. Thresholds are to be asked anew.
    pub fn merge(&mut self, mut other: Self) {
        if self.runs.is_empty() {
            *self = other;
            return;
        }
        self.run_together(&mut other);
        self.runs.append(&mut other.runs);
        for (cause, n) in other.stopped_by {
            *self.stopped_by.entry(cause).or_default() += n;
        }
        self.counts.add(&other.counts);
        self.frames += other.frames;
        self.tokens.add(&other.tokens);
        for (cause, n) in other.errors {
            *self.errors.entry(cause).or_default() += n;
        }
        for (cause, first) in other.first_errors {
            self.first_errors.entry(cause).or_insert(first);
        }
        if self.target.is_empty() {
            self.target = other.target;
        }
        for (name, state) in other.rate_limits {
            self.limit(&name, state);
        }
        self.measures.add(&other.measures);
        self.missed.clear();
        self.calls.extend(other.calls);
    }

    /// Tells the times of both since the first of them began, as their hosts' clocks have it, to the second.
    fn run_together(&mut self, other: &mut Self) {
        let begun = self.begun.min(other.begun);
        for report in [&mut *self, &mut *other] {
            let later = (report.begun - begun) as f64;
            report.elapsed_s += later;
            for call in &mut report.calls {
                call.at_s += later;
                call.turns.iter_mut().for_each(|(at_s, _)| *at_s += later);
            }
        }
        self.begun = begun;
        self.elapsed_s = self.elapsed_s.max(other.elapsed_s);
    }

    /// Reads a report's JSON.
    ///
    /// # Errors
    /// See [`ReportError`].
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|reason| ReportError::File {
            path: shown(),
            reason,
        })?;
        let report: Self = serde_json::from_str(&text).map_err(|reason| ReportError::Json {
            path: shown(),
            reason,
        })?;
        if report.version != VERSION {
            return Err(ReportError::Version {
                path: shown(),
                version: report.version,
            });
        }
        if let Some(number) = report.impossible() {
            return Err(ReportError::Number {
                path: shown(),
                number,
            });
        }
        if report.runs.is_empty() {
            return Err(ReportError::NoRun { path: shown() });
        }
        Ok(report)
    }

    /// A number beyond what a run can have, by name: it was written by no run, and could not be added up or drawn.
    fn impossible(&self) -> Option<String> {
        if self.begun > LAST_SECOND {
            return Some(format!("begun = {}", self.begun));
        }
        let rows = self.calls.iter().map(serde_json::to_value);
        let rows = rows.filter_map(Result::ok);
        let sums = [
            serde_json::to_value(self.elapsed_s),
            serde_json::to_value(self.counts),
            serde_json::to_value(self.frames),
            serde_json::to_value(self.tokens),
            serde_json::to_value(&self.errors),
            serde_json::to_value(&self.stopped_by),
            serde_json::to_value(&self.rate_limits),
            serde_json::to_value(&self.measures),
        ];
        let sums = sums.into_iter().filter_map(Result::ok);
        sums.chain(rows).find_map(|it| too_large("a number", &it))
    }

    /// Writes it as JSON, CSV or HTML, by the file's ending; what has another is JSON.
    ///
    /// # Errors
    /// [`ReportError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let text = match path.extension().and_then(|it| it.to_str()) {
            Some("csv") => to_csv(self),
            Some("html") => to_html(self),
            _ => serde_json::to_string(self).unwrap_or_default() + "\n",
        };
        std::fs::write(path, text).map_err(|reason| ReportError::File {
            path: path.display().to_string(),
            reason,
        })
    }
}

/// The first number in it that is too large, with its name.
fn too_large(name: &str, value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::Number(number) => {
            let is_possible = number.as_f64().is_some_and(|it| it.abs() <= MOST);
            (!is_possible).then(|| format!("{name} = {number}"))
        }
        Value::Array(all) => all.iter().find_map(|it| too_large(name, it)),
        Value::Object(all) => all.iter().find_map(|(name, it)| too_large(name, it)),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.skipped += other.skipped;
        self.answered += other.answered;
        self.completed += other.completed;
        self.refused += other.refused;
        self.failed += other.failed;
        self.most_live += other.most_live;
        self.call_ms += other.call_ms;
        self.turns += other.turns;
        self.turns_answered += other.turns_answered;
        self.barge_ins += other.barge_ins;
        self.underruns += other.underruns;
        self.messages_sent += other.messages_sent;
        self.messages_received += other.messages_received;
    }
}

impl Tokens {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.responses += other.responses;
        self.input += other.input;
        self.cached += other.cached;
        self.output += other.output;
    }

    /// Read and written.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input + self.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(turn_us: u64, calls: u64) -> RunReport {
        let mut report = RunReport {
            version: VERSION,
            runs: vec![RunIdentity::draw(1, 0, "1/1".to_owned())],
            ..RunReport::default()
        };
        report.counts.begun = calls;
        report.record(Measure::TurnLatency, turn_us);
        report.error("refused 503", &format!("full\n for {turn_us}"));
        report
    }

    #[test]
    fn who_began_later_has_its_calls_later() {
        let run = |begun, elapsed_s| RunReport {
            begun,
            elapsed_s,
            calls: vec![CallRow {
                at_s: 1.0,
                turns: vec![(2.0, None)],
                ..CallRow::default()
            }],
            ..part(1_000, 1)
        };
        for (first, second, expected) in [(100, 107, [1.0, 8.0]), (107, 100, [8.0, 1.0])] {
            let mut all = run(first, 20.0);
            all.merge(run(second, 20.0));
            assert_eq!((all.begun, all.elapsed_s), (100, 27.0));
            let at: Vec<_> = all.calls.iter().map(|it| it.at_s).collect();
            assert_eq!(at, expected);
            assert_eq!(all.calls[1].turns[0].0, expected[1] + 1.0);
        }
    }

    #[test]
    fn processes_are_added_up() {
        let mut all = RunReport::default();
        all.merge(part(1_000, 3));
        let second = serde_json::to_string(&part(3_000, 4)).unwrap();
        all.merge(serde_json::from_str(&second).unwrap());
        assert_eq!((all.runs.len(), all.counts.begun), (2, 7));
        assert_eq!(all.errors["refused 503"], 2);
        assert_eq!(all.first_errors["refused 503"], "full for 1000");
        assert_eq!(all.measures.count(Measure::TurnLatency), 2);
        assert_eq!(all.quantile(Measure::TurnLatency, 0.5), Some(1_000));
    }

    #[test]
    fn a_run_counts_once() {
        let folder = std::env::temp_dir().join(format!("trunkline-runs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [first, second] = [part(1_000, 3), part(1_000, 3)];
        let mut both = first.clone();
        both.merge(second.clone());
        let older = RunReport {
            runs: Vec::new(),
            ..part(1_000, 3)
        };
        let files = [
            ("a", &first),
            ("b", &second),
            ("both", &both),
            ("x", &older),
        ];
        for (name, report) in files {
            report.write(&folder.join(name)).unwrap();
        }
        std::fs::copy(folder.join("a"), folder.join("copy")).unwrap();
        let check = |names: &[&str], expected: Result<u64, [&str; 2]>| {
            let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
            let read = RunReport::read_all(&paths);
            match (read, expected) {
                (Ok(all), Ok(n_begun)) => assert_eq!(all.counts.begun, n_begun, "{names:?}"),
                (Err(ReportError::Twice { first, second, .. }), Err(of)) => {
                    let of = of.map(|name| folder.join(name).display().to_string());
                    assert_eq!([first, second], of, "{names:?}");
                }
                (other, _) => panic!("{names:?}: {:?}", other.map(|it| it.counts)),
            }
        };
        check(&["a", "b"], Ok(6));
        check(&["both"], Ok(6));
        check(&["a", "a"], Err(["a", "a"]));
        check(&["a", "b", "copy"], Err(["a", "copy"]));
        check(&["both", "b"], Err(["both", "b"]));
        let of_no_run = RunReport::read_all(&[folder.join("x")]).unwrap_err();
        assert!(
            of_no_run
                .to_string()
                .ends_with("x names no run that it is of")
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_no_run_can_have_is_no_report() {
        let file = std::env::temp_dir().join(format!("trunkline-odd-{}", std::process::id()));
        let read = |text: &str| {
            let run = r#""version":2,"runs":[{"id":"1","seed":18446744073709551615,"begun":1,"part":"1/1"}]"#;
            std::fs::write(&file, format!("{{{run},{text}}}")).unwrap();
            RunReport::read(&file)
                .map(|report| (to_text(&report), to_html(&report), to_csv(&report)))
        };
        assert!(read(r#""begun":1,"counts":{"begun":1125899906842624}"#).is_ok());
        for (text, name) in [
            (r#""begun":253402300800"#, "begun = 253402300800"),
            (r#""elapsed_s":1e300"#, "a number = 1e+300"),
            (r#""counts":{"begun":18446744073709551615}"#, "begun = 1844"),
            (
                r#""frames":{"received":18446744073709551615}"#,
                "received = 1844",
            ),
            (r#""calls":[{"at_s":-1e300}]"#, "at_s = -1e+300"),
            (r#""calls":[{"turns":[[1e308,1e308]]}]"#, "turns = 1e+308"),
            (
                r#""measures":{"turn_latency":{"unit":"us","count":1,"min":1,"mean":1,"quantiles":{},"max":1,"buckets":[[0,18446744073709551615],[5,1]]}}"#,
                "turn_latency has too many values",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        // Odd, and possible: shown, however it looks.
        for text in [
            r#""elapsed_s":-5,"calls":[{"at_s":-1e15,"length_ms":-3,"turns":[[-7,-1],[1e15,1e15]]}]"#,
            r#""elapsed_s":1e15,"calls":[{"at_s":1e15,"length_ms":1e15}]"#,
            r#""counts":{"turns_answered":5},"measures":{"set_up":{"unit":"us","count":0,"min":1,"mean":1,"quantiles":{},"max":1,"buckets":[]}}"#,
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}
