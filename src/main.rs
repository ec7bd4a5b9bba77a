//! The `trunkline` binary: reads the command line, runs what it says, picks the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    trunkline::cli::run()
}
