//! The commands: `serve`, `demo`, `simulate`, `check`, `metrics`, `key`, `ticket`, and those that ask a running gateway:
//! `calls`, `end`, `say`, `deployments`, `drain`. The composition root; the only place that prints.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its user"
)]

mod channel;
mod control;
mod control_show;
mod credentials;
mod demo;
mod log;
mod metrics;
mod process;
mod report;
mod serve;
mod simulate;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Loaded, Mistake};

/// A realtime voice gateway: phones and SDK clients on one side, Realtime deployments on the other.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer callers.
    Serve {
        /// The configuration file.
        #[arg(long, env = "TRUNKLINE_CONFIG")]
        config: PathBuf,
    },
    /// Try it without an account: gateway and simulator in one process, two sample calls, then serve.
    Demo(demo::DemoArguments),
    /// Stand in for the Realtime API.
    Simulate(simulate::SimulateArguments),
    /// Look for mistakes in a configuration file.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print the table of all metrics, as Markdown.
    Metrics(metrics::MetricsArguments),
    /// Make an API key for a tenant and print it with the hash that goes into the configuration.
    Key(credentials::KeyArguments),
    /// Make a ticket for one call, for where only a URL can be given, and print it with that URL.
    Ticket(credentials::TicketArguments),
    /// List the live calls of a running gateway, or watch them.
    Calls(control::CallsArguments),
    /// End calls of a running gateway.
    End(control::EndArguments),
    /// Have the model of a call say something, or tell it something.
    Say(control::SayArguments),
    /// List the deployments of a running gateway with health, quota and sessions.
    Deployments(control::DeploymentsArguments),
    /// Take a deployment of a running gateway out of use, or drain the gateway, whose process then exits.
    Drain(control::DrainArguments),
}

/// Runs the command line.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Serve { config: path } => with_config(&path, |loaded| serve::serve(&path, loaded)),
        Command::Demo(arguments) => in_runtime(demo::demo(arguments)),
        Command::Simulate(arguments) => in_runtime(simulate::simulate(arguments)),
        Command::Check { file } => with_config(&file, |loaded| {
            let config = &loaded.config;
            for warning in config.warnings(loaded.text(), &file) {
                eprintln!("{}: warning: {warning}", file.display());
            }
            println!(
                "{}: good: {} deployments, {} agents",
                file.display(),
                config.deployments.len(),
                config.agents.len()
            );
            ExitCode::SUCCESS
        }),
        Command::Metrics(arguments) => metrics::metrics(&arguments),
        Command::Key(arguments) => credentials::key(&arguments),
        Command::Ticket(arguments) => credentials::ticket(&arguments),
        Command::Calls(arguments) => in_runtime(control::calls(arguments)),
        Command::End(arguments) => in_runtime(control::end(arguments)),
        Command::Say(arguments) => in_runtime(control::say(arguments)),
        Command::Deployments(arguments) => in_runtime(control::deployments(arguments)),
        Command::Drain(arguments) => in_runtime(control::drain(arguments)),
    }
}

/// Loads, checks and hands over a configuration; mistakes are printed one a line.
fn with_config(path: &Path, run: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    match Loaded::load(path) {
        Ok(loaded) => run(loaded),
        Err(mistakes) => {
            print_mistakes(path, &mistakes);
            ExitCode::FAILURE
        }
    }
}

fn print_mistakes(path: &Path, mistakes: &[Mistake]) {
    for mistake in mistakes {
        eprintln!("{}: {mistake}", path.display());
    }
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => failed("cannot start", &error),
    }
}

/// Prints a line for whoever started the process; nobody may be there to read it.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{what}: {error}");
    ExitCode::FAILURE
}

/// Connections that may wait where no configuration says how many.
const BACKLOG: u32 = 1024;

/// Listens, `backlog` connections waiting at most.
fn bind(address: SocketAddr, backlog: u32) -> Result<(TcpListener, SocketAddr), String> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restarted process need not wait for the connections of the one before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(backlog)?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    bound().map_err(|error| format!("cannot listen on {address}: {error}"))
}
