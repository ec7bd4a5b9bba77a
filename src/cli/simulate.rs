//! `trunkline simulate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::LogConfig;
use crate::simulator::{Simulator, SimulatorConfig};

use super::log::Log;
use super::{BACKLOG, bind, failed, say};

#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// A TOML file with the simulator's settings.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Makes ids, latencies and faults repeatable; overrides the file's.
    #[arg(long)]
    seed: Option<u64>,
}

pub(super) async fn simulate(arguments: SimulateArguments) -> ExitCode {
    let _log = match Log::start(&LogConfig::default()) {
        Ok(log) => log,
        Err(error) => return failed("cannot start", &error),
    };
    let config = match read_config(&arguments) {
        Ok(config) => config,
        Err(error) => return failed("bad simulator settings", &error),
    };
    let (listener, address) = match bind(arguments.listen, BACKLOG) {
        Ok(bound) => bound,
        Err(error) => return failed("cannot simulate", &error),
    };
    say(format_args!("simulator listening on http://{address}"));
    let shutdown = CancellationToken::new();
    let serving = Arc::new(Simulator::new(config)).serve(listener, shutdown.clone());
    let stop = async {
        match (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ => std::future::pending().await,
        }
        shutdown.cancel();
    };
    tokio::join!(serving, stop);
    ExitCode::SUCCESS
}

fn read_config(arguments: &SimulateArguments) -> Result<SimulatorConfig, String> {
    let mut config = match &arguments.config {
        None => SimulatorConfig::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
    };
    if let Some(seed) = arguments.seed {
        config.seed = seed;
    }
    Ok(config)
}
