//! A process that has no file descriptor left: it waits instead of spinning, and goes on when there are some again.
//!
//! The limit is the process's, so this runs the binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Enough to start, and soon used up.
const DESCRIPTORS: u32 = 60;

const CONFIG: &str = r#"
[listener]
address = "127.0.0.1:0"
# More than there are descriptors, so that the system's limit is the one that is met.
max_connections = 1000
[listener.limits]
connections_per_source = 0
[admin]
address = "127.0.0.1:0"
[auth]
mode = "none"
[deployments.east]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
"#;

/// How long `accept` is left alone after it failed.
const PAUSE: Duration = Duration::from_millis(50);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_descriptors_it_waits_and_goes_on() {
    let file = std::env::temp_dir().join(format!("trunkline-nofile-{}.toml", std::process::id()));
    std::fs::write(&file, CONFIG).expect("written");
    let script = format!(r#"ulimit -n {DESCRIPTORS} && exec "$0" serve --config "$1""#);
    let mut process = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_trunkline")])
        .arg(&file)
        .env_remove("TRUNKLINE_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Killed)
        .expect("started");
    let (stdout, stderr) = (process.0.stdout.take(), process.0.stderr.take());
    let mut said = BufReader::new(stdout.expect("piped")).lines();
    let address = said.next().expect("a line").expect("a text");
    let address = address
        .strip_prefix("callers on http://")
        .expect("where")
        .to_owned();
    let (sender, log) = mpsc::sync_channel(100_000);
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(stderr.expect("piped")).lines();
        let failed = lines
            .map_while(Result::ok)
            .filter(|line| line.contains("cannot accept"));
        failed
            .map_while(|_| sender.send(Instant::now()).ok())
            .count()
    });

    let connections: Vec<_> = (0..2 * DESCRIPTORS)
        .map(|_| TcpStream::connect(&address).expect("the system takes it"))
        .collect();
    let patience = Duration::from_secs(60);
    let first = log.recv_timeout(patience).expect("accept fails");
    let mut n_failed = 1;
    let mut last = first;
    while n_failed < 20 {
        last = log.recv_timeout(patience).expect("accept fails again");
        n_failed += 1;
    }
    // Never faster than the pause; the log is written by another thread, which may bunch lines.
    assert!(last - first >= PAUSE * (n_failed - 5), "{:?}", last - first);

    drop(connections);
    let answered = |address: &str| -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 200")
    };
    assert!(answered(&address).expect("an answer"));
    drop(process);
    reader.join().expect("no panic");
    std::fs::remove_file(&file).expect("removed");
}
