//! What a call costs, beside the least that it can cost: `cargo bench --package trunkline-loadtest --bench limit`.
//!
//! Real sockets on loopback, the real `trunkline serve` in a process of its own, the far ends in this one. Each figure
//! stands beside that of a bare relay ([`floor`]) measured seconds before, because machines are shared and noisy: the
//! ratio is what can be compared from day to day. Words after `--` choose rows by parts of their names.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

mod calls;
mod doors;
mod floor;
mod messages;
mod process;
mod ticker;
mod visits;
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use calls::{Answer, Calls, Dialect, Seen, Settings};
use process::Process;

/// Audio flows so long before anything is measured, and while it is.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(8);

/// Microseconds of CPU for a second of each of 1,000 Twilio calls that the bare relay of the costs reference takes, on its machine.
const FLOOR_OF_THOUSAND: f64 = 529.0;

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relay {
    Gateway,
    Floor,
}

/// Calls that go on while something is measured.
#[derive(Clone, Copy)]
struct Load {
    dialect: Dialect,
    n_calls: usize,
    tls: bool,
    answer: Answer,
    /// The agent's `append`, in milliseconds.
    append: u32,
}

impl Load {
    const fn flowing(dialect: Dialect, n_calls: usize, tls: bool) -> Self {
        Self {
            dialect,
            n_calls,
            tls,
            answer: Answer::FLOWING,
            append: 0,
        }
    }
}

/// What a call may cost, where a bare relay takes `floor`: both in microseconds of CPU for a second of a call, on the
/// machine of the costs reference. On another, what counts is their ratio.
#[derive(Clone, Copy)]
struct Bound {
    cpu: f64,
    floor: f64,
}

/// What was measured.
struct Figures {
    /// Microseconds of CPU for one second of one call.
    cpu: f64,
    /// Resident memory for each call beyond what there was without calls, KiB.
    memory: f64,
    seen: Seen,
    missing: usize,
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", dialect, model, ca] => serve_floor(dialect, model, ca),
        _ => {
            let chosen = arguments.iter().filter(|it| !it.starts_with("--"));
            let bench = Bench::new(chosen.cloned().collect());
            std::process::exit(i32::from(!bench.run()));
        }
    }
}

fn serve_floor(dialect: &str, model: &str, ca: &str) -> ! {
    let dialect = match dialect {
        "twilio" => Dialect::Twilio,
        _ => Dialect::Realtime,
    };
    let tls = (!ca.is_empty()).then(|| {
        let mut roots = rustls::RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(ca).expect("a certificate");
        roots.add(certificate).expect("a certificate");
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        Arc::new(config.with_no_client_auth())
    });
    let settings = floor::Settings {
        dialect,
        model: model.parse().expect("an address"),
        tls,
    };
    floor::serve(&settings, |address| println!("callers on http://{address}"))
}

struct Bench {
    chosen: Vec<String>,
    folder: PathBuf,
    server: Arc<rustls::ServerConfig>,
}

impl Bench {
    fn new(chosen: Vec<String>) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("limit");
        std::fs::create_dir_all(&folder).expect("a folder");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(folder.join("ca.pem"), made.cert.pem()).expect("written");
        std::fs::write(folder.join("key"), "key-0").expect("written");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("they fit");
        Self {
            chosen,
            folder,
            server: Arc::new(server),
        }
    }

    /// Whether all bounds are kept.
    fn run(&self) -> bool {
        println!(
            "{:<44} {:>13} {:>8} {:>7}  verdict",
            "", "gateway", "floor", "ratio"
        );
        let mut is_good = true;
        let bound = |cpu: f64, floor: f64| Some(Bound { cpu, floor });
        let twilio = Load::flowing(Dialect::Twilio, 200, false);
        for (name, load, bound) in [
            ("Twilio, 200 calls", twilio, bound(750.0, 613.0)),
            (
                "Twilio, 200 calls, appends of 40 ms",
                Load {
                    append: 40,
                    ..twilio
                },
                None,
            ),
            (
                "Twilio, 200 calls, TLS to the model",
                Load::flowing(Dialect::Twilio, 200, true),
                // TLS adds 17 % to the reference's lean prototype.
                bound(850.0, 718.0),
            ),
            (
                "PCM16 relay, 200 calls",
                Load::flowing(Dialect::Realtime, 200, false),
                bound(450.0, 292.0),
            ),
        ] {
            is_good &= self.cost(name, load, bound);
        }
        is_good &= self.growth();
        let (p50, p99) = (("p50", 500), ("p99", 990));
        let few = [(p50, 1.0), (p99, 5.0)];
        is_good &= self.latency("Twilio, 300 calls", 300, &few);
        is_good &= self.latency("Twilio, 1000 calls", 1000, &[(p99, 10.0)]);
        is_good &= self.latency_of_thousand_there(p99);
        is_good &= self.comings_and_goings();
        is_good
    }

    fn is_chosen(&self, name: &str) -> bool {
        let is_part = |it: &String| name.contains(it.as_str());
        self.chosen.is_empty() || self.chosen.iter().any(is_part)
    }

    fn cost(&self, name: &str, load: Load, bound: Option<Bound>) -> bool {
        if !self.is_chosen(name) {
            return true;
        }
        let floor = self.measure(Relay::Floor, load);
        let gateway = self.measure(Relay::Gateway, load);
        let cpu = &format!("{name}: CPU");
        let is_good = match bound {
            Some(Bound {
                cpu: most,
                floor: of,
            }) => {
                let here = most.max(floor.cpu * most / of);
                line(cpu, "us/s", gateway.cpu, floor.cpu, here)
            }
            None => line(cpu, "us/s", gateway.cpu, floor.cpu, f64::INFINITY),
        };
        let memory = if load.tls { 80.0 } else { 50.0 };
        line(
            &format!("{name}: memory a call"),
            "KiB",
            gateway.memory,
            floor.memory,
            memory,
        ) & is_good
            & nothing_lost(name, &gateway)
    }

    /// What a call costs among few and among many.
    fn growth(&self) -> bool {
        let name = "Twilio, 10 to 1000 calls";
        if !self.is_chosen(name) {
            return true;
        }
        let load = |n_calls| Load::flowing(Dialect::Twilio, n_calls, false);
        let few = self.measure(Relay::Gateway, load(10));
        let many = self.measure(Relay::Gateway, load(1000));
        let floor = self.measure(Relay::Floor, load(1000));
        let is_good = line(
            "Twilio, 1000 calls: CPU, at most that of 10",
            "us/s",
            many.cpu,
            floor.cpu,
            few.cpu,
        );
        is_good & nothing_lost(name, &many)
    }

    /// `bounds` in milliseconds. Down, the floor waits for the next slot of the call, which the gateway does not.
    fn latency(&self, name: &str, n_calls: usize, bounds: &[((&str, usize), f64)]) -> bool {
        if !self.is_chosen(name) {
            return true;
        }
        let load = Load {
            answer: Answer::WORDS,
            ..Load::flowing(Dialect::Twilio, n_calls, false)
        };
        let mut floor = self.measure(Relay::Floor, load);
        let mut gateway = self.measure(Relay::Gateway, load);
        let mut is_good = nothing_lost(name, &gateway);
        for (way, gateway, floor) in [
            ("up", &mut gateway.seen.up, &mut floor.seen.up),
            ("down", &mut gateway.seen.down, &mut floor.seen.down),
        ] {
            for ((percentile, per_mille), bound) in bounds.iter().copied() {
                let ms = |latencies: &mut Vec<u32>| f64::from(Seen::at(latencies, per_mille)) / 1e3;
                let name = format!("{name}: {way} {percentile}");
                is_good &= line(&name, "ms", ms(gateway), ms(floor), bound);
            }
        }
        is_good
    }

    /// With as many calls as keep this machine's bare relay as busy as 1,000 calls keep that of the costs reference.
    fn latency_of_thousand_there(&self, p99: (&str, usize)) -> bool {
        let name = "Twilio, busy as by 1000 there";
        if !self.is_chosen(name) {
            return true;
        }
        let mut n_calls = 1000;
        // A relay that is busy all the time shows less than it takes, and with fewer calls each costs more.
        for _ in 0..2 {
            let load = Load::flowing(Dialect::Twilio, n_calls, false);
            let here = self.measure(Relay::Floor, load).cpu * n_calls as f64;
            let there = FLOOR_OF_THOUSAND * 1e3;
            n_calls = ((n_calls as f64 * there / here) as usize / 10 * 10).min(1000);
        }
        let name = format!("{name}: {n_calls} calls");
        self.latency(&name, n_calls, &[(p99, 10.0)])
    }

    fn measure(&self, relay: Relay, load: Load) -> Figures {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let model = listener.local_addr().expect("bound");
        let (process, gateway) = match relay {
            Relay::Gateway => self.start_gateway(model, &load, 2000),
            Relay::Floor => self.start_floor(model, load.dialect, load.tls),
        };
        let settings = Settings {
            dialect: load.dialect,
            answer: load.answer,
            gateway,
            path: path(load.dialect),
            tls: load.tls.then(|| Arc::clone(&self.server)),
        };
        let mut calls = Calls::new(listener, settings);
        // What the first call makes is there for all.
        calls.open(1);
        let idle = process.resident();
        calls.open(load.n_calls - 1);
        calls.flow();
        calls.run(WARM_UP);
        calls.forget();
        let (cpu, began) = (process.cpu(), Instant::now());
        calls.run(MEASURED);
        let used = process.cpu() - cpu;
        let call_seconds = began.elapsed().as_secs_f64() * load.n_calls as f64;
        let (seen, missing) = calls.seen();
        let memory = process.resident().saturating_sub(idle) as f64 / 1024.0;
        Figures {
            cpu: used.as_secs_f64() * 1e6 / call_seconds,
            memory: memory / load.n_calls as f64,
            seen,
            missing,
        }
    }

    fn start_gateway(
        &self,
        model: SocketAddr,
        load: &Load,
        max_calls: usize,
    ) -> (Process, SocketAddr) {
        let scheme = if load.tls {
            "wss://localhost"
        } else {
            "ws://127.0.0.1"
        };
        let ca = match load.tls {
            true => format!("ca_file = {:?}\n", self.folder.join("ca.pem")),
            false => String::new(),
        };
        let config = format!(
            "[listener]\naddress = \"127.0.0.1:0\"\nmax_calls = {max_calls}\n\
             [listener.limits]\ncalls_per_second = 0\ncalls_per_second_per_tenant = 0\n\
             [listener.shed]\nloop_lag = \"0s\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[auth]\nmode = \"none\"\n\
             [deployments.gpt-realtime]\nurl = \"{scheme}:{port}\"\nmodel = \"gpt-realtime\"\n\
             api_key_file = {key:?}\n{ca}\
             [deployments.gpt-realtime.quota]\nrequests_per_minute = 1000000\n\
             tokens_per_minute = 1000000000\n\
             [agents.desk]\ndeployment = \"gpt-realtime\"\nappend = \"{append}ms\"\n",
            append = load.append,
            port = model.port(),
            key = self.folder.join("key"),
        );
        let path = self.folder.join("trunkline.toml");
        std::fs::write(&path, config).expect("written");
        start(
            Command::new(trunkline())
                .args(["serve", "--config"])
                .arg(path),
        )
    }

    fn start_floor(&self, model: SocketAddr, dialect: Dialect, tls: bool) -> (Process, SocketAddr) {
        let dialect = match dialect {
            Dialect::Twilio => "twilio",
            Dialect::Realtime => "realtime",
        };
        let ca = match tls {
            true => self.folder.join("ca.pem"),
            false => PathBuf::new(),
        };
        let this = std::env::current_exe().expect("it runs");
        start(
            Command::new(this)
                .args(["floor", dialect, &model.to_string()])
                .arg(ca),
        )
    }
}

/// What is called.
fn path(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Twilio => "/twilio/media/desk",
        Dialect::Realtime => "/v1/realtime?model=gpt-realtime",
    }
}

/// Starts a process that says where it is called.
fn start(command: &mut Command) -> (Process, SocketAddr) {
    let address = std::cell::Cell::new(None);
    let process = Process::start(command, |line| {
        let said = line.strip_prefix("callers on http://");
        address.set(said.and_then(|it| it.parse().ok()));
        address.get().is_some()
    });
    (process, address.get().expect("said"))
}

/// The gateway, built beside this program.
fn trunkline() -> PathBuf {
    let this = std::env::current_exe().expect("it runs");
    let folder = this
        .parent()
        .and_then(Path::parent)
        .expect("target/release/deps");
    let program = folder.join("trunkline");
    assert!(program.exists(), "build it first: cargo build --release");
    program
}

/// Prints a row. `floor` is what the bare relay has, where it can have anything to compare.
fn line(name: &str, unit: &str, gateway: f64, floor: impl Into<Option<f64>>, bound: f64) -> bool {
    let is_good = gateway <= bound;
    let verdict = if is_good { "holds" } else { "MISSED" };
    let (floor, ratio) = match floor.into() {
        Some(floor) => (format!("{floor:.1}"), format!("{:.2}", gateway / floor)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let verdict = match bound.is_finite() {
        true => format!("at most {bound:.0}: {verdict}"),
        false => String::new(),
    };
    println!("{name:<44} {gateway:>8.1}{unit:>5} {floor:>8} {ratio:>7}  {verdict}");
    is_good
}

fn nothing_lost(name: &str, figures: &Figures) -> bool {
    let is_good = figures.missing == 0 && figures.seen.failed == 0;
    if !is_good {
        println!(
            "{name}: {} pieces of audio missing, {} connections lost: MISSED",
            figures.missing, figures.seen.failed
        );
    }
    is_good
}
