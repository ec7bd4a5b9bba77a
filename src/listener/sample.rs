//! Measures what `shed` decides from: how late this process's tasks wake up, memory, file descriptors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::open_files;

use super::Gateway;
use super::shed::Signals;

/// How long the measuring task sleeps; what it oversleeps is the lag.
const NAP: Duration = Duration::from_millis(10);

/// Naps of 2 s (limits reference).
const NAPS: usize = 200;

/// Naps between two decisions: half a second. Memory and descriptors are read then too.
const NAPS_PER_DECISION: usize = 50;

/// Measures until `shutdown`.
pub(super) async fn watch(gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let reading = TaskTracker::new();
    let mut lags = Lags::default();
    loop {
        for _ in 0..NAPS_PER_DECISION {
            let asleep = Instant::now();
            tokio::select! {
                () = sleep(NAP) => {
                    gateway.pulse.beat();
                    let lag = asleep.elapsed().saturating_sub(NAP);
                    lags.add(lag.max(gateway.calls().take_lag()));
                }
                () = shutdown.cancelled() => return,
            }
        }
        let read = reading.spawn_blocking(|| (memory_used(), descriptors_left()));
        let (memory, descriptors) = read.await.unwrap_or_default();
        gateway.observe_load(Signals {
            loop_lag: lags.p99(),
            memory,
            descriptors,
        });
    }
}

/// The last naps' lags, a ring.
#[derive(Debug, Default)]
struct Lags {
    ring: Vec<Duration>,
    n_added: usize,
}

impl Lags {
    fn add(&mut self, lag: Duration) {
        if self.ring.len() < NAPS {
            self.ring.push(lag);
        } else {
            self.ring[self.n_added % NAPS] = lag;
        }
        self.n_added += 1;
    }

    /// `None` until there are 2 s of them: a process that starts is busy.
    fn p99(&self) -> Option<Duration> {
        if self.ring.len() < NAPS {
            return None;
        }
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        Some(sorted[NAPS * 99 / 100 - 1])
    }
}

/// File descriptors that are left below the soft limit.
fn descriptors_left() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = open_files(&limits)?;
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(limit.saturating_sub(open) as u64)
}

/// Share of the control group's memory that is used, in the tightest group from here to the root.
fn memory_used() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    memory_used_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// The same below `root`, for a process in these groups (cgroups(7), `/proc/pid/cgroup`).
fn memory_used_in(root: &Path, groups: &str) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (base, files) = match controllers {
            "" => (root.to_owned(), &V2),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), &V1),
            _ => continue,
        };
        for folder in up_from(&base, path) {
            let used = files.share(&folder);
            tightest = match (tightest, used) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
    }
    tightest
}

/// The group's folder and all above it. Inside a container the path may be one that only the host has.
fn up_from(base: &Path, path: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut path = Path::new(path.trim_start_matches('/'));
    loop {
        folders.push(base.join(path));
        match path.parent() {
            Some(parent) => path = parent,
            None => return folders,
        }
    }
}

/// Names of the files of one version of control groups.
struct Files {
    limit: &'static str,
    used: &'static str,
    inactive: &'static str,
}

const V2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    inactive: "inactive_file ",
};

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file ",
};

impl Files {
    /// The share in use, without the page cache that is given back on demand; `None` without a limit.
    fn share(&self, folder: &Path) -> Option<f64> {
        let number = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            text.trim().parse().ok()
        };
        // Version 1 writes "no limit" as a number of pages that no machine has.
        let limit = number(self.limit).filter(|limit| (1..1 << 60).contains(limit))?;
        let used = number(self.used)?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(self.inactive)?.trim().parse().ok())
            .unwrap_or(0);
        Some(used.saturating_sub(inactive) as f64 / limit as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_of_100_counts() {
        let mut lags = Lags::default();
        for n in 0..NAPS {
            assert_eq!(lags.p99(), None);
            lags.add(Duration::from_millis(if n < 2 { 50 } else { 1 }));
        }
        assert_eq!(lags.p99(), Some(Duration::from_millis(1)));
        lags.add(Duration::from_millis(50));
        // The new one took the place of one that was as long.
        assert_eq!(lags.p99(), Some(Duration::from_millis(1)));
        for _ in 0..3 {
            lags.add(Duration::from_millis(50));
        }
        assert_eq!(lags.p99(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn the_tightest_group_counts_without_its_page_cache() {
        let root = std::env::temp_dir().join(format!("trunkline-cgroup-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("pod/memory.max", "1000\n");
        write("pod/memory.current", "900\n");
        write(
            "pod/memory.stat",
            "anon 1\ninactive_file 100\nactive_file 7\n",
        );
        write("pod/box/memory.max", "max\n");
        write("pod/box/memory.current", "900\n");
        write("memory/old/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/old/memory.usage_in_bytes", "5\n");
        write("memory/memory.limit_in_bytes", "100\n");
        write("memory/memory.usage_in_bytes", "50\n");
        let check = |groups: &str, expected: Option<f64>| {
            assert_eq!(memory_used_in(&root, groups), expected, "{groups}");
        };
        check("0::/pod/box\n", Some(0.8));
        check("0::/\n", None);
        check("0::/not/there\n", None);
        check("5:cpu,memory:/old\n4:pids:/x\n0::/\n", Some(0.5));
        check("nonsense", None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_process_has_descriptors_left() {
        assert!(descriptors_left().is_none_or(|left| left > 0));
    }
}
