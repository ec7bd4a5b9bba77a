//! The gateway under attack, with real sockets in real time: `make siege`. Calls run beside each attack, and how late
//! their frames left is printed. Not part of the tests: what it measures depends on the machine.
#![allow(clippy::print_stdout, reason = "it measures")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use trunkline::auth::hash_key;

/// Calls that run beside the attacks.
const CALLS: usize = 20;

/// How long each attack lasts.
const ATTACK: Duration = Duration::from_secs(8);

const KEY: &str = "key-of-acme";

const SIMULATOR: &str = r#"
[reply]
mode = "script"

[[reply.turns]]
say = "A very long answer."
length = "600s"

[latency]
first_delta = "100ms"
speed = 1.5
"#;

/// A `trunkline` process, ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts it and reads the addresses that it prints after these words.
    fn start(
        name: &str,
        arguments: &[&str],
        config: &str,
        words: &[&str],
    ) -> (Self, Vec<SocketAddr>) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("siege-{name}.toml"));
        fs::write(&path, config).expect("a file");
        let log = fs::File::create(folder.join(format!("siege-{name}.log"))).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .args(arguments)
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let process = Self(child);
        let addresses = words.iter().map(|word| {
            let line = lines
                .find(|line| line.as_ref().is_ok_and(|line| line.contains(word)))
                .expect("it says where it listens")
                .expect("text");
            let address = line.split_once("http://").expect("an address").1;
            address.trim().parse().expect("an address")
        });
        let addresses = addresses.collect();
        (process, addresses)
    }
}

struct Siege {
    gateway: SocketAddr,
    admin: SocketAddr,
    _processes: [Process; 2],
}

impl Siege {
    fn start() -> Self {
        let (simulator, addresses) = Process::start(
            "simulator",
            &["simulate", "--listen", "127.0.0.1:0"],
            SIMULATOR,
            &["listening on http"],
        );
        let config = format!(
            "[listener]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n[auth]\nmode = 'keys'\n\
             [[auth.keys]]\ntenant = 'acme'\nsha256 = '{}'\n[tenants.acme]\n\
             [deployments.sim]\nurl = 'ws://{}'\nmodel = 'gpt-realtime'\napi_key = 'k'\n\
             [agents.desk]\ndeployment = 'sim'\ngreeting = 'Talk for long.'\n[log]\nfilter = 'warn'\n",
            hash_key(KEY),
            addresses[0]
        );
        let (gateway, addresses) =
            Process::start("gateway", &["serve"], &config, &["callers on", "admin on"]);
        Self {
            gateway: addresses[0],
            admin: addresses[1],
            _processes: [simulator, gateway],
        }
    }

    /// A connection from that address of the loopback network.
    async fn connect(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(self.gateway).await
    }

    /// A call whose upgrade was answered, or the head of the answer.
    async fn call(&self, from: Ipv4Addr, path: &str, key: &str) -> Result<TcpStream, String> {
        let mut stream = self
            .connect(from)
            .await
            .map_err(|error| error.to_string())?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\napi-key: {key}\r\n\r\n"
        );
        let answer = async {
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&head).into_owned())
        };
        match answer.await {
            Ok(head) if head.starts_with("HTTP/1.1 101 ") => Ok(stream),
            Ok(head) => Err(head),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).await.expect("an operator");
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("metrics");
        text
    }
}

/// How many frames left at most so late, by the histogram's bounds in seconds.
fn lateness(metrics: &str) -> Vec<(f64, f64)> {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("trunkline_pacer_lateness_seconds_bucket{le=\""))
        .filter_map(|line| line.split_once("\"} "))
        .map(|(bound, count)| {
            let bound = bound.parse().unwrap_or(f64::INFINITY);
            (bound, count.parse().expect("a count"))
        })
        .collect()
}

/// The smallest bound under which 99 of 100 of the frames between two readings lie, and how many they were.
fn p99(before: &[(f64, f64)], after: &[(f64, f64)]) -> (f64, f64) {
    let counts: Vec<_> = after
        .iter()
        .enumerate()
        .map(|(n, (bound, count))| (*bound, count - before.get(n).map_or(0.0, |it| it.1)))
        .collect();
    let total = counts.last().map_or(0.0, |it| it.1);
    let found = counts.iter().find(|(_, count)| *count >= total * 0.99);
    (found.map_or(f64::INFINITY, |it| it.0), total)
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        n @ ..126 => bytes.push(0x80 | n as u8),
        n => {
            bytes.push(0x80 | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
    }
    // A mask of zeros leaves the payload as it is.
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The `n`th source.
fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        127,
        1 + (n / 250 / 250) as u8,
        (n / 250 % 250) as u8,
        1 + (n % 250) as u8,
    )
}

/// Somebody who calls in an orderly way and listens as long as the siege lasts. Counts what was heard.
async fn listen(siege: Arc<Siege>, heard: Arc<AtomicU64>) {
    let path = "/v1/audio/desk";
    let mut stream = siege
        .call(Ipv4Addr::LOCALHOST, path, KEY)
        .await
        .expect("an answered call");
    let start = br#"{"type":"start","format":{"codec":"ulaw","rate":8000}}"#;
    stream.write_all(&frame(0x81, start)).await.expect("sent");
    let (mut read, mut write) = stream.split();
    let speak = async {
        let silence = frame(0x82, &[0xff; 160]);
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            beat.tick().await;
            write.write_all(&silence).await?;
        }
        #[expect(unreachable_code, reason = "says what the block returns")]
        Ok::<(), std::io::Error>(())
    };
    let hear = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = read.read(&mut bytes).await {
            heard.fetch_add(n as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        _ = speak => {}
        () = hear => {}
    }
}

type Attack = fn(Arc<Siege>, usize) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Name, attackers at once, and what each does again and again.
const ATTACKS: &[(&str, usize, Attack)] = &[
    ("nobody", 0, |_, _| Box::pin(async {})),
    ("10,000 idle sockets", 10_000, |siege, n| {
        Box::pin(async move {
            if let Ok(mut stream) = siege.connect(source(n / 50)).await {
                let _ = stream.read_u8().await;
            }
            sleep(Duration::from_secs(1)).await;
        })
    }),
    ("slow heads, a byte a second", 2_000, |siege, n| {
        Box::pin(async move {
            if let Ok(mut stream) = siege.connect(source(n / 50)).await {
                for byte in b"GET /v1/realtime HTTP/1.1\r\n" {
                    sleep(Duration::from_secs(1)).await;
                    if stream.write_u8(*byte).await.is_err() {
                        break;
                    }
                }
            }
        })
    }),
    ("connections opened and reset", 50, |siege, n| {
        Box::pin(async move {
            if let Ok(stream) = siege.connect(source(n)).await {
                let _ = stream.set_zero_linger();
            }
        })
    }),
    ("wrong keys", 50, |siege, n| {
        Box::pin(async move {
            let _ = siege.call(source(n), "/v1/audio/desk", "wrong").await;
        })
    }),
    ("bodies and broken heads", 50, |siege, n| {
        Box::pin(async move {
            if let Ok(mut stream) = siege.connect(source(n)).await {
                let _ = stream.write_all(&[b'A'; 20_000]).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
    }),
    ("ping floods on calls", 20, |siege, n| {
        Box::pin(flood(siege, n, frame(0x89, b"ping").repeat(100)))
    }),
    ("empty fragments on calls", 20, |siege, n| {
        Box::pin(flood(siege, n, frame(0x00, b"").repeat(100)))
    }),
    ("frames that claim 2^62 bytes", 20, |siege, n| {
        let mut head = vec![0x82, 0xff];
        head.extend((1_u64 << 62).to_be_bytes());
        Box::pin(flood(siege, n, head))
    }),
    ("nested JSON on calls", 20, |siege, n| {
        Box::pin(flood(siege, n, frame(0x81, &[b'['; 60_000])))
    }),
    ("callers that never read", 50, |siege, n| {
        Box::pin(async move {
            if let Ok(mut stream) = siege.call(source(n), "/v1/audio/desk", KEY).await {
                let start = br#"{"type":"start","format":{"codec":"pcm16","rate":48000}}"#;
                let _ = stream.write_all(&frame(0x81, start)).await;
                sleep(ATTACK).await;
            }
            sleep(Duration::from_millis(100)).await;
        })
    }),
];

/// Opens a call and sends the same bytes until it is cut.
async fn flood(siege: Arc<Siege>, n: usize, bytes: Vec<u8>) {
    if let Ok(mut stream) = siege.call(source(n), "/v1/audio/desk", KEY).await {
        while stream.write_all(&bytes).await.is_ok() {}
    }
    sleep(Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "takes two minutes of real time: make siege"]
async fn calls_keep_their_pace_beside_every_attack() {
    let siege = Arc::new(Siege::start());
    let heard = Arc::new(AtomicU64::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        calls.spawn(listen(Arc::clone(&siege), Arc::clone(&heard)));
        // New calls of one tenant are limited to 20 a second.
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(2)).await;
    println!(
        "{:<32}{:>10}{:>12}{:>10}",
        "attack", "attempts", "p99 late", "frames"
    );
    for (name, n_attackers, attack) in ATTACKS {
        let before = lateness(&siege.metrics().await);
        let n_heard = heard.load(Ordering::Relaxed);
        let attempts = Arc::new(AtomicU64::new(0));
        let mut attackers = JoinSet::new();
        for n in 0..*n_attackers {
            let (siege, attempts) = (Arc::clone(&siege), Arc::clone(&attempts));
            attackers.spawn(async move {
                let until = Instant::now() + ATTACK;
                while Instant::now() < until {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    if timeout(ATTACK, attack(Arc::clone(&siege), n))
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        sleep(ATTACK).await;
        let after = lateness(&siege.metrics().await);
        attackers.shutdown().await;
        let (late, frames) = p99(&before, &after);
        let attempts = attempts.load(Ordering::Relaxed);
        println!(
            "{name:<32}{attempts:>10}{:>9} ms{frames:>10}",
            late * 1_000.0
        );
        assert_eq!(calls.len(), CALLS);
        assert!(calls.try_join_next().is_none(), "{name}: a call ended");
        assert!(heard.load(Ordering::Relaxed) > n_heard, "{name}: silence");
        // What is left of the attack goes away before the next one is measured.
        sleep(Duration::from_secs(2)).await;
    }
    for line in siege.metrics().await.lines() {
        let is_told = [
            "refused_total",
            "denied_total",
            "ended_total",
            "bad_input_total",
        ]
        .iter()
        .any(|name| line.starts_with("trunkline_") && line.contains(name));
        if is_told {
            println!("{line}");
        }
    }
}
