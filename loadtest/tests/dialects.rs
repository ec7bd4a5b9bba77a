//! Callers of every wire format that the phone speaks, through a real gateway to the simulator, in simulated time: what
//! they say comes back whole, and every turn is answered.
//!
//! Who is let in, and what each wire forbids, is tested where the gateway's dialects are: `tests/dialects`.

#[allow(dead_code, reason = "the gateway's own tests use the rest")]
#[path = "../../tests/gateway/harness.rs"]
mod harness;

use std::sync::Arc;

use async_trait::async_trait;
use http::Uri;
use trunkline::simulator::phone_dial::{ByteStream, DialError};
use trunkline::simulator::phone_dialect::Dialect;
use trunkline_loadtest::report::RunReport;
use trunkline_loadtest::run::{Lines, Part, Run};
use trunkline_loadtest::scenario::Scenario;

use harness::{CONFIG, World};

/// Lines that lead to a gateway.
struct GatewayLines(World);

#[async_trait]
impl Lines for GatewayLines {
    async fn open(&self, _: &Uri) -> Result<Box<dyn ByteStream>, DialError> {
        Ok(Box::new(self.0.connect()))
    }
}

async fn run(dialect: Dialect) -> RunReport {
    let name = dialect.name();
    let config = match dialect {
        // Without authentication every UUID is let in.
        Dialect::AudioSocket => {
            format!("{CONFIG}\n[listener.audiosocket]\naddress = '127.0.0.1:0'\nagent = 'ga'\n")
        }
        _ => CONFIG.to_owned(),
    };
    let mut world = World::with_config(&config, "latency.jitter = 0.0");
    world.is_audiosocket = dialect == Dialect::AudioSocket;
    let path = match dialect {
        Dialect::Realtime => "/v1/realtime?model=ga".to_owned(),
        Dialect::AudioSocket => "/audiosocket".to_owned(),
        _ => {
            let path = trunkline::ingress::Dialect::path_of(name.trim_end_matches("-protobuf"));
            format!(
                "{}/ga",
                path.unwrap_or_else(|| panic!("{name} has no path"))
            )
        }
    };
    let scenario = format!(
        "[target]
        url = 'ws://gateway{path}'
        dialect = '{name}'
        [arrivals]
        process = 'constant'
        rate = 1.0
        [limits]
        calls = 3
        [call]
        turns = 2
        talk = ['1s', '2s']
        think = '500ms'"
    );
    let scenario = Scenario::parse(&scenario).expect("it is one");
    let lines = Arc::new(GatewayLines(world));
    let run = Run::new(scenario, Part::default(), lines, None);
    run.expect("the target is one").finish().await
}

/// Runs it and says what was not as it should be.
fn mistakes(dialect: Dialect) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let report = runtime.block_on(run(dialect));
    let (counts, frames) = (report.counts, report.frames);
    let mut wrong = Vec::new();
    let mut check = |what: &str, is_good: bool| {
        if !is_good {
            wrong.push(format!(
                "{}: {what}: {counts:?} {frames:?} {:?}",
                dialect.name(),
                report.errors
            ));
        }
    };
    check("errors", report.errors.is_empty());
    check("calls", (counts.begun, counts.completed) == (3, 3));
    check("turns", (counts.turns, counts.turns_answered) == (6, 6));
    check("sent", frames.sent >= 300);
    let all_there = frames.lost + frames.duplicated + frames.reordered + frames.damaged;
    check(
        "frames",
        frames.expected > 200 && all_there + frames.foreign == 0,
    );
    wrong
}

#[test]
fn callers_of_every_dialect_are_heard_whole() {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = Dialect::ALL
            .iter()
            .map(|dialect| scope.spawn(|| mistakes(*dialect)))
            .collect();
        all.into_iter()
            .flat_map(|it| it.join().expect("it says what is wrong"))
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
