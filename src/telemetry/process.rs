//! What the system says of this process, under the names that every Prometheus client has for it. Read from `/proc` when
//! somebody asks; where there is no such thing, nothing is told.

use std::fs;

use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use super::catalogue::{
    PROCESS_CPU, PROCESS_MAX_FDS, PROCESS_OPEN_FDS, PROCESS_RESIDENT, PROCESS_START,
    PROCESS_THREADS, PROCESS_VIRTUAL,
};
use super::metric::{Kind, Metric};

/// All that is told.
const ALL: [Metric; 7] = [
    PROCESS_CPU,
    PROCESS_RESIDENT,
    PROCESS_VIRTUAL,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_START,
    PROCESS_THREADS,
];

/// Clock ticks in a second, in which `/proc` counts time: 100 for user space on every architecture that Rust's standard
/// library knows, whatever the kernel itself counts in (time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads and tells.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let describe = |metric: Metric| {
            let description = metric.opts().describe();
            description.expect("names are constants")
        };
        Self {
            descriptions: ALL.map(describe).into(),
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let texts = Texts {
            status: read("/proc/self/status"),
            stat: read("/proc/self/stat"),
            limits: read("/proc/self/limits"),
            boot: read("/proc/stat"),
        };
        let open = fs::read_dir("/proc/self/fd").map(Iterator::count);
        let values = texts.values();
        let open = open.ok().map(|open| (PROCESS_OPEN_FDS, open as f64));
        let known = values.into_iter().chain(open);
        known
            .flat_map(|(metric, value)| family(metric, value))
            .collect()
    }
}

/// A family with one value. It is made anew each time, because what is told replaces what was told before, of a counter
/// too.
pub(super) fn family(metric: Metric, value: f64) -> Vec<MetricFamily> {
    if metric.kind == Kind::Counter {
        let counter = Counter::with_opts(metric.opts()).expect("names are constants");
        counter.inc_by(value);
        return counter.collect();
    }
    let gauge = Gauge::with_opts(metric.opts()).expect("names are constants");
    gauge.set(value);
    gauge.collect()
}

/// Files of `/proc` (proc(5)).
struct Texts {
    /// `/proc/self/status`
    status: String,
    /// `/proc/self/stat`
    stat: String,
    /// `/proc/self/limits`
    limits: String,
    /// `/proc/stat`
    boot: String,
}

impl Texts {
    fn values(&self) -> Vec<(Metric, f64)> {
        // What comes before may have spaces: it is the program's name in parentheses.
        let fields = self.stat.rsplit_once(") ").map_or("", |it| it.1);
        let fields: Vec<f64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(f64::NAN))
            .collect();
        // proc(5) counts fields from 1; here the first is the third.
        let field = |number: usize| fields.get(number - 3).copied();
        let kilobytes = |name| Some(number_after(&self.status, name)? * 1024.0);
        let seconds = |ticks: f64| ticks / TICKS_PER_SECOND;
        let cpu = field(14).zip(field(15));
        let boot = number_after(&self.boot, "btime ");
        let values = [
            (
                PROCESS_CPU,
                cpu.map(|(user, system)| seconds(user + system)),
            ),
            (PROCESS_RESIDENT, kilobytes("VmRSS:")),
            (PROCESS_VIRTUAL, kilobytes("VmSize:")),
            (
                PROCESS_MAX_FDS,
                open_files(&self.limits).map(|most| most as f64),
            ),
            (
                PROCESS_START,
                boot.zip(field(22))
                    .map(|(boot, after)| boot + seconds(after)),
            ),
            (PROCESS_THREADS, number_after(&self.status, "Threads:")),
        ];
        let known = values.into_iter();
        known
            .filter_map(|(metric, value)| Some((metric, value.filter(|value| value.is_finite())?)))
            .collect()
    }
}

/// The number behind the beginning of a line.
fn number_after(text: &str, begin: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(begin))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The soft limit on open files in the text of `/proc/self/limits` (proc(5)).
#[must_use]
pub fn open_files(limits: &str) -> Option<usize> {
    Some(number_after(limits, "Max open files")? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        let texts = Texts {
            status: "Name:\ta) 1 2 3\nVmSize:\t  2000 kB\nVmRSS:\t    1000 kB\nThreads:\t7\n".to_owned(),
            stat: "42 (a) 1 2 (b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 7 0 12345 2048000 250".to_owned(),
            limits: "Limit                     Soft Limit           Hard Limit           Units\n\
                Max open files            1024                 524288               files\n"
                .to_owned(),
            boot: "cpu  1 2 3\nbtime 1700000000\nprocesses 5\n".to_owned(),
        };
        let values: Vec<_> = texts
            .values()
            .iter()
            .map(|(metric, value)| (metric.name, *value))
            .collect();
        let expected = [
            ("process_cpu_seconds_total", 3.0),
            ("process_resident_memory_bytes", 1_024_000.0),
            ("process_virtual_memory_bytes", 2_048_000.0),
            ("process_max_fds", 1024.0),
            ("process_start_time_seconds", 1_700_000_123.45),
            ("process_threads", 7.0),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn what_the_system_does_not_say_is_not_told() {
        let texts = Texts {
            status: "VmRSS:\tmuch\n".to_owned(),
            stat: "42 (a) S 1".to_owned(),
            limits: "Max open files            unlimited            unlimited            files\n"
                .to_owned(),
            boot: String::new(),
        };
        assert!(texts.values().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_tells_all_of_it() {
        let told = ProcessCollector::new().collect();
        let mut names: Vec<_> = told.iter().map(MetricFamily::name).collect();
        let mut all = ALL.map(|metric| metric.name);
        names.sort_unstable();
        all.sort_unstable();
        assert_eq!(names, all);
    }
}
