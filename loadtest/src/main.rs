//! `trunkline-loadtest`: a softphone for the command line, and a load generator made of many.

mod call;
mod perform;
mod show;
mod survey;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// musl's own costs a quarter of all CPU time (`src/DECISIONS.md`, 64).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Places calls to a realtime voice gateway or straight to a Realtime API deployment, and reports what was heard.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Call(call::CallArguments),
    Run(perform::RunArguments),
    #[command(visible_alias = "merge")]
    Report(perform::ReportArguments),
    Compare(survey::CompareArguments),
    Capacity(survey::CapacityArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Call(arguments) => call::run(&arguments).await,
        Command::Run(arguments) => perform::run(&arguments).await,
        Command::Report(arguments) => perform::report(&arguments).await,
        Command::Compare(arguments) => survey::compare(&arguments).await,
        Command::Capacity(arguments) => survey::capacity(&arguments).await,
    }
}
