//! Every dialect in the same twelve scenarios: the real listener and bridge between a phone that speaks it and the
//! simulator, in simulated time. `cargo test --test dialects -- --nocapture` prints the table.
//!
//! A new dialect is one row in `rows.rs`.
#![allow(clippy::print_stdout, reason = "the table is worth reading")]

#[allow(dead_code, reason = "another binary uses the rest")]
#[path = "../gateway/harness.rs"]
mod harness;
mod proofs;
mod rows;
mod scenarios;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use rows::{ROWS, Row};
use scenarios::Scenario;

/// What became of one dialect in one scenario.
enum Cell {
    Passed,
    /// The wire cannot express it, for that reason.
    Limit(&'static str),
    Failed(String),
}

fn run(row: &Row, scenario: Scenario) -> Cell {
    if let Some((_, why)) = row.limits.iter().find(|(limited, _)| *limited == scenario) {
        return Cell::Limit(why);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let played = AssertUnwindSafe(scenario.play(row)).catch_unwind();
    match runtime.block_on(played) {
        Ok(()) => Cell::Passed,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Cell::Failed(text.unwrap_or_default())
        }
    }
}

#[test]
fn every_dialect_in_every_scenario() {
    let cells: Vec<Vec<Cell>> = std::thread::scope(|scope| {
        let rows: Vec<_> = ROWS
            .iter()
            .map(|row| scope.spawn(|| Scenario::ALL.map(|it| run(row, it)).into_iter().collect()))
            .collect();
        rows.into_iter()
            .map(|row| row.join().expect("cells do not panic"))
            .collect()
    });
    let mut table = String::new();
    let (mut limits, mut failures) = (Vec::new(), Vec::new());
    for scenario in std::iter::once("").chain(Scenario::ALL.iter().map(|it| it.name())) {
        table += &format!("{scenario:>17}");
    }
    for (row, cells) in ROWS.iter().zip(&cells) {
        table += &format!("\n{:<17}", row.name());
        for (scenario, cell) in Scenario::ALL.iter().zip(cells) {
            let at = format!("{} {}", row.name(), scenario.name());
            let word = match cell {
                Cell::Passed => "passes",
                Cell::Limit(why) => {
                    limits.push(format!("{at}: {why}"));
                    "limit"
                }
                Cell::Failed(why) => {
                    failures.push(format!("{at}: {why}"));
                    "FAILED"
                }
            };
            table += &format!("{word:>17}");
        }
    }
    println!("{table}\n\nlimits of the wire:\n{}", limits.join("\n"));
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_dialect_of_the_gateway_has_a_row() {
    let mut rows: Vec<&str> = ROWS.iter().map(Row::wire).collect();
    rows.dedup();
    assert_eq!(rows, trunkline::ingress::Dialect::NAMES);
}
