//! The `trunkline` binary: reads the command line, runs what it says, picks the exit code.

use std::process::ExitCode;

/// musl's own costs a quarter of all CPU time (`src/DECISIONS.md`, 64).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    trunkline::cli::run()
}
