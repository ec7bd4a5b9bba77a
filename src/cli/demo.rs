//! `trunkline demo`: the whole path on one machine, without an account.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bridge::CallSummary;
use crate::config::Config;
use crate::simulator::{
    Act, CallReport, Simulator, SimulatorConfig, SoftPhone, phone_dial, phone_dialect, speech,
};

use super::log::Log;
use super::process::{Process, Signals};
use super::report::SampleCall;
use super::{BACKLOG, bind, failed};

/// The demo's configuration file.
const CONFIG: &str = include_str!("demo.toml");

/// How long a sample call waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// End after the sample calls; the status is 0 only if both were heard in both directions.
    #[arg(long)]
    once: bool,
    /// Print one JSON object in place of text.
    #[arg(long)]
    json: bool,
    /// Where callers come in; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where metrics are; another port is taken if this one is in use.
    #[arg(long, default_value = "127.0.0.1:9100")]
    admin: SocketAddr,
}

pub(super) async fn demo(arguments: DemoArguments) -> ExitCode {
    let demo = match Demo::start(&arguments) {
        Ok(demo) => demo,
        Err(error) => return failed("the demo cannot start", &error),
    };
    if !arguments.json {
        println!(
            "Trunkline demo: gateway on {}, Realtime API simulator on {}, no account needed.\n",
            demo.process.callers, demo.simulator
        );
    }
    let calls = match demo.sample_calls(arguments.json).await {
        Ok(calls) => calls,
        Err(error) => return failed("the sample calls cannot be made", &error),
    };
    let all_heard = calls.iter().all(SampleCall::is_heard_both_ways);
    if arguments.json {
        println!("{}", super::report::json(&calls, all_heard));
    }
    if arguments.once {
        demo.stop().await;
        return if all_heard {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if !arguments.json {
        demo.print_how_to_call();
    }
    match Signals::listen() {
        Ok(signals) => demo.process.run_until_told(signals).await,
        Err(error) => return failed("the demo cannot go on", &error),
    }
    ExitCode::SUCCESS
}

/// A gateway on a simulator.
struct Demo {
    process: Process,
    simulator: SocketAddr,
    stop_simulator: CancellationToken,
    simulator_task: TaskTracker,
    _log: Log,
}

impl Demo {
    fn start(arguments: &DemoArguments) -> Result<Self, String> {
        let (listener, simulator) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), BACKLOG)?;
        let stop_simulator = CancellationToken::new();
        let simulator_task = TaskTracker::new();
        let serving = Arc::new(Simulator::new(SimulatorConfig::default()));
        simulator_task.spawn(serving.serve(listener, stop_simulator.clone()));
        let text = CONFIG
            .replace("SIMULATOR", &simulator.to_string())
            .replace("CALLERS", &free(arguments.listen).to_string())
            .replace("ADMIN", &free(arguments.admin).to_string());
        let config = Config::parse(&text).map_err(|mistake| mistake.to_string())?;
        let routes = config.build(&text).map_err(|mistakes| {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            mistakes.join("; ")
        })?;
        let log = Log::start(&config.log).map_err(|error| error.to_string())?;
        Ok(Self {
            process: Process::start(&config, routes)?,
            simulator,
            stop_simulator,
            simulator_task,
            _log: log,
        })
    }

    /// One call from a phone, then one from an SDK client, each printed when it is over.
    async fn sample_calls(&self, quiet: bool) -> Result<Vec<SampleCall>, String> {
        let callers = self.process.callers;
        let phone = SoftPhone::new(
            &format!("ws://{callers}/twilio/media/demo"),
            phone_dialect::Dialect::Twilio,
        );
        let client = SoftPhone::new(
            &format!("ws://{callers}/openai/v1/realtime?model=gpt-realtime"),
            phone_dialect::Dialect::Realtime,
        );
        let mut calls = Vec::new();
        for (title, phone, greeted) in [
            (
                "A phone call: Twilio Media Streams, mu-law 8 kHz",
                phone,
                true,
            ),
            (
                "An SDK client: Realtime API events, PCM16 24 kHz",
                client,
                false,
            ),
        ] {
            let phone = phone.map_err(|error| error.to_string())?;
            let report = self.sample_call(phone.api_key("demo"), greeted).await?;
            let call = SampleCall {
                title,
                report,
                summary: self.last_ended(calls.len() + 1).await,
            };
            if !quiet {
                println!("{call}");
            }
            calls.push(call);
        }
        Ok(calls)
    }

    async fn sample_call(&self, phone: SoftPhone, greeted: bool) -> Result<CallReport, String> {
        let reply = |until_end| Act::WaitForReply {
            min_audio: Duration::from_millis(300),
            until_end,
            timeout: PATIENCE,
        };
        let mut script = Vec::new();
        if greeted {
            script.push(reply(true));
        }
        script.extend([
            Act::Say(speech::hours()),
            reply(true),
            Act::Say(speech::order()),
            Act::BargeInAfter {
                heard: Duration::from_millis(700),
                timeout: PATIENCE,
            },
            Act::Say(speech::wait()),
            reply(true),
            Act::HangUp,
        ]);
        let dialer = phone_dial::Dialer::new(None).map_err(|error| error.to_string())?;
        Ok(phone.script(script).dial_and_call(&dialer).await)
    }

    /// What the gateway says of the `n`th call, once it has ended there too.
    async fn last_ended(&self, n: usize) -> Option<CallSummary> {
        let calls = self.process.gateway.calls();
        for _ in 0..100 {
            if let Some(summary) = calls.ended().get(n - 1) {
                return Some(summary.clone());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    fn print_how_to_call(&self) {
        let callers = self.process.callers;
        println!("Still serving. Call it by hand, from another terminal:\n");
        println!(
            "  cargo run -p trunkline-loadtest -- call ws://{callers}/twilio/media/demo --save heard.wav"
        );
        println!(
            "  cargo run -p trunkline-loadtest -- call ws://{callers}/v1/audio/demo --barge-in 800ms"
        );
        println!(
            "  curl -d 'CallSid=CA1&AccountSid=AC1&From=%2B15550001111&To=%2B15550002222' http://{callers}/twilio/voice"
        );
        println!(
            "  curl -s http://{}/metrics | grep trunkline_turn\n",
            self.process.admin
        );
        println!("OpenAI SDKs work unchanged, for example in Python:\n");
        println!(
            "  AsyncOpenAI(api_key=\"any\", websocket_base_url=\"ws://{callers}/v1\").realtime.connect(model=\"gpt-realtime\")\n"
        );
        println!("Ctrl-C ends.");
    }

    async fn stop(self) {
        self.process.gateway.drain(Duration::from_secs(5)).await;
        self.process.stop().await;
        self.stop_simulator.cancel();
        self.simulator_task.close();
        self.simulator_task.wait().await;
    }
}

/// The address, with a port of the system's choice if its own is in use.
fn free(address: SocketAddr) -> SocketAddr {
    match bind(address, BACKLOG) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}
