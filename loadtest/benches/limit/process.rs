//! A process under measurement: starts it, reads what it used, ends it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child process that ends with this value.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it, and waits until a line of its standard output satisfies `is_ready`.
    pub(crate) fn start(command: &mut Command, is_ready: impl Fn(&str) -> bool) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is there");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(
            lines.any(|line| is_ready(&line)),
            "ended before it was ready"
        );
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it runs");
        let nanoseconds = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        let all = tasks.filter_map(Result::ok).filter_map(nanoseconds).sum();
        Duration::from_nanos(all)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let kib = |line: &str| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        };
        status.lines().find_map(kib).expect("VmRSS") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
