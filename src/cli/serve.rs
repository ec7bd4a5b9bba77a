//! `trunkline serve`.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Loaded;

use super::log::Log;
use super::process::{Process, Signals};
use super::{failed, in_runtime, say};

pub(super) fn serve(path: &Path, loaded: Loaded) -> ExitCode {
    let config = &loaded.config;
    let log = match Log::start(&config.log) {
        Ok(log) => log,
        Err(error) => return failed("cannot start", &error),
    };
    let filter = log.filter();
    if !config.process.dumpable {
        forbid_dumps();
    }
    in_runtime(async move {
        // Before the first caller: whoever reloads or stops early must not cut calls.
        let signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return failed("cannot serve", &error),
        };
        let hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return failed("cannot wait for signals", &error),
        };
        let mut process = match Process::start(&loaded.config, loaded.routes.clone()) {
            Ok(process) => process,
            Err(error) => return failed("cannot serve", &error),
        };
        process.reload_from(path, &loaded, filter, hangups);
        let scheme = if loaded.config.listener.tls.is_some() {
            "https"
        } else {
            "http"
        };
        say(format_args!("callers on {scheme}://{}", process.callers));
        if let Some(address) = process.audiosocket {
            say(format_args!("audiosocket on {address}"));
        }
        let scheme = match loaded.config.admin.tls {
            Some(_) => "https",
            None => "http",
        };
        say(format_args!("admin on {scheme}://{}", process.admin));
        process.run_until_told(signals).await;
        ExitCode::SUCCESS
    })
}

/// Keeps keys and calls out of core dumps and from debuggers of the same user (threat 20 of the threats reference).
fn forbid_dumps() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "core dumps of this process may show keys");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

    use super::*;

    #[test]
    fn a_guarded_process_leaves_no_dump() {
        let before = dumpable_behavior().unwrap();
        forbid_dumps();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        set_dumpable_behavior(before).unwrap();
    }
}
