//! `trunkline serve`.

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::config::Config;
use crate::listener::Routes;

use super::process::Process;
use super::{failed, in_runtime, start_log};

pub(super) fn serve(config: Config, routes: Routes) -> ExitCode {
    let _log = start_log(&config.log);
    if !config.process.dumpable
        && let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "core dumps of this process may show keys");
    }
    in_runtime(async move {
        let process = match Process::start(&config, routes).await {
            Ok(process) => process,
            Err(error) => return failed("cannot serve", &error),
        };
        let scheme = if config.listener.tls.is_some() {
            "https"
        } else {
            "http"
        };
        println!("callers on {scheme}://{}", process.callers);
        println!("admin on http://{}", process.admin);
        match process.run_until_told().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("cannot wait for signals", &error),
        }
    })
}
