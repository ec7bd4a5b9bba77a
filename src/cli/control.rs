//! `trunkline calls`, `end`, `say`, `deployments` and `drain`: a running gateway, by its control service.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;
use tonic::Status;

use crate::admin::control_json::{call_json, deployment_json};
use crate::admin::control_proto as proto;
use crate::admin::control_proto::watch_calls_response::Event;

use super::channel::{Client, Connect};
use super::control_show as show;
use super::failed;

/// Calls that are asked for at a time.
const PAGE: i32 = 500;

#[derive(Debug, Args)]
pub(super) struct CallsArguments {
    /// One call, with what happened in it of late.
    #[arg(conflicts_with_all = ["watch", "tenant", "route", "deployment", "dialect"])]
    call: Option<String>,
    /// Go on and tell what becomes of them.
    #[arg(long)]
    watch: bool,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
    /// Only this tenant's.
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,
    /// Only those of this agent, or of SDK clients that asked for this model or pool.
    #[arg(long, default_value = "", hide_default_value = true)]
    route: String,
    /// Only those at this deployment.
    #[arg(long, default_value = "", hide_default_value = true)]
    deployment: String,
    /// Only those of this dialect: `twilio`, `audio`, `realtime`, ...
    #[arg(long, default_value = "", hide_default_value = true)]
    dialect: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub(super) struct EndArguments {
    /// Which calls.
    #[arg(required_unless_present = "all", value_name = "CALL")]
    calls: Vec<String>,
    /// All that are there now.
    #[arg(long, conflicts_with = "calls")]
    all: bool,
    /// Why, for the gateway's log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// The model says good-bye first.
    #[arg(long)]
    goodbye: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub(super) struct SayArguments {
    /// In which call.
    call: String,
    /// What.
    text: String,
    /// In which way the model is told it.
    #[arg(long = "as", value_enum, default_value_t)]
    mode: Mode,
    #[command(flatten)]
    connect: Connect,
}

/// See `SayMode` of the contract.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Mode {
    /// It says these words, once it has finished what it is saying.
    #[default]
    Verbatim,
    /// As if the caller had typed it: it answers.
    User,
    /// An instruction for what it says from now on.
    System,
}

#[derive(Debug, Args)]
pub(super) struct DeploymentsArguments {
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    /// The deployment at which no session is opened from now on. Without, the gateway itself is drained, as by SIGTERM, and
    /// its process exits.
    deployment: Option<String>,
    /// Sessions are opened there again.
    #[arg(long, requires = "deployment")]
    undo: bool,
    /// Its live calls go on at another deployment.
    #[arg(long = "move", requires = "deployment", conflicts_with = "undo")]
    move_calls: bool,
    /// How long live calls may take until the gateway exits, such as `30s`; without, as configured.
    #[arg(long, value_parser = humantime::parse_duration, conflicts_with = "deployment")]
    deadline: Option<Duration>,
    #[command(flatten)]
    connect: Connect,
}

/// Why a command came to nothing, in words for its user.
type Outcome = Result<(), String>;

pub(super) async fn calls(arguments: CallsArguments) -> ExitCode {
    exit(calls_told(arguments).await)
}

async fn calls_told(arguments: CallsArguments) -> Outcome {
    let mut client = arguments.connect.client().await?;
    let filter = proto::CallFilter {
        tenant: arguments.tenant,
        route: arguments.route,
        deployment: arguments.deployment,
        dialect: arguments.dialect,
    };
    if let Some(call_id) = arguments.call {
        let asked = client.get_call(proto::GetCallRequest { call_id }).await;
        let call = asked.map_err(refused)?.into_inner();
        return put(&match arguments.json {
            true => format!("{}\n", call_json(&call)),
            false => show::one_call(&call),
        });
    }
    if arguments.watch {
        return watch(client, filter, arguments.json).await;
    }
    let calls = all_calls(&mut client, filter).await?;
    put(&match arguments.json {
        true => lines(calls.iter().map(call_json)),
        false => show::calls(&calls),
    })
}

async fn all_calls(
    client: &mut Client,
    filter: proto::CallFilter,
) -> Result<Vec<proto::Call>, String> {
    let mut calls = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListCallsRequest {
            filter: Some(filter.clone()),
            page_size: PAGE,
            page_token,
        };
        let page = client.list_calls(request).await.map_err(refused)?;
        let page = page.into_inner();
        calls.extend(page.calls);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(calls);
        }
    }
}

async fn watch(mut client: Client, filter: proto::CallFilter, is_json: bool) -> Outcome {
    let request = proto::WatchCallsRequest {
        filter: Some(filter),
    };
    let events = client.watch_calls(request).await.map_err(refused)?;
    let mut events = events.into_inner();
    while let Some(response) = events.message().await.map_err(refused)? {
        let Some(event) = response.event else {
            continue;
        };
        put(&match event {
            event if is_json => lines(show::event_json(&event)),
            Event::Snapshot(snapshot) => show::calls(&snapshot.calls),
            event => format!("{}\n", show::event(&event)),
        })?;
    }
    Ok(())
}

pub(super) async fn end(arguments: EndArguments) -> ExitCode {
    exit(ended(arguments).await)
}

async fn ended(arguments: EndArguments) -> Outcome {
    let mut client = arguments.connect.client().await?;
    let calls = match arguments.all {
        true => {
            let calls = all_calls(&mut client, proto::CallFilter::default()).await?;
            calls.into_iter().map(|call| call.call_id).collect()
        }
        false => arguments.calls,
    };
    let (mut n_ended, mut problems) = (0, Vec::new());
    for call_id in calls {
        let request = proto::EndCallRequest {
            call_id: call_id.clone(),
            reason: arguments.reason.clone(),
            say_goodbye: arguments.goodbye,
        };
        match client.end_call(request).await {
            Ok(_) => n_ended += 1,
            // Whatever ends by itself meanwhile need not be ended.
            Err(status) if arguments.all && status.code() == tonic::Code::NotFound => {}
            Err(status) => problems.push(format!("{call_id}: {}", refused(status))),
        }
    }
    println!("{n_ended} calls told to end");
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n")),
    }
}

pub(super) async fn say(arguments: SayArguments) -> ExitCode {
    exit(said(arguments).await)
}

async fn said(arguments: SayArguments) -> Outcome {
    let mut client = arguments.connect.client().await?;
    let mode = match arguments.mode {
        Mode::Verbatim => proto::SayMode::Verbatim,
        Mode::User => proto::SayMode::User,
        Mode::System => proto::SayMode::System,
    };
    let request = proto::SayRequest {
        call_id: arguments.call,
        text: arguments.text,
        mode: mode.into(),
    };
    client.say(request).await.map_err(refused)?;
    Ok(())
}

pub(super) async fn deployments(arguments: DeploymentsArguments) -> ExitCode {
    exit(deployments_told(arguments).await)
}

async fn deployments_told(arguments: DeploymentsArguments) -> Outcome {
    let mut client = arguments.connect.client().await?;
    let request = proto::ListDeploymentsRequest {};
    let listed = client.list_deployments(request).await.map_err(refused)?;
    let deployments = listed.into_inner().deployments;
    put(&match arguments.json {
        true => lines(deployments.iter().map(deployment_json)),
        false => show::deployments(&deployments),
    })
}

pub(super) async fn drain(arguments: DrainArguments) -> ExitCode {
    exit(drained(arguments).await)
}

async fn drained(arguments: DrainArguments) -> Outcome {
    let mut client = arguments.connect.client().await?;
    match arguments.deployment {
        Some(deployment) if arguments.undo => {
            let request = proto::UndrainDeploymentRequest {
                deployment: deployment.clone(),
            };
            client.undrain_deployment(request).await.map_err(refused)?;
            println!("{deployment}: sessions are opened there again");
        }
        Some(deployment) => {
            let request = proto::DrainDeploymentRequest {
                deployment: deployment.clone(),
                move_calls: arguments.move_calls,
            };
            let answer = client.drain_deployment(request).await.map_err(refused)?;
            let calls = answer.into_inner().calls;
            let they = match arguments.move_calls {
                true => "go on elsewhere as soon as that interrupts nobody",
                false => "stay there until they end",
            };
            println!("{deployment}: no session is opened there; its {calls} calls {they}");
        }
        None => {
            let deadline = arguments.deadline.map(TryInto::try_into).transpose();
            let deadline = deadline.map_err(|_| "--deadline is too long".to_owned())?;
            let request = proto::DrainGatewayRequest { deadline };
            let answer = client.drain_gateway(request).await.map_err(refused)?;
            let calls = answer.into_inner().calls;
            println!("the gateway drains {calls} calls and then exits");
        }
    }
    Ok(())
}

fn lines(values: impl IntoIterator<Item = Value>) -> String {
    let values = values.into_iter();
    values.map(|value| format!("{value}\n")).collect()
}

/// Prints; whoever reads may have had enough.
fn put(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| error.to_string())
}

fn exit(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failed("trunkline", &problem),
    }
}

/// What the gateway said, or that it says nothing any more.
fn refused(status: Status) -> String {
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            format!("the gateway refuses: {}", status.message())
        }
        tonic::Code::Unknown | tonic::Code::Internal => {
            format!("the gateway gives no answer: {}", status.message())
        }
        _ => status.message().to_owned(),
    }
}
