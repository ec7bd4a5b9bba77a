//! Tools of an agent: each is a webhook that answers with a text, but for those that are built in.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::Request;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::outbound::{Limits, Outbound, OutboundError, Reach};

use super::trace_tool::ToolContext;

/// The longest answer of a webhook; it becomes part of the conversation and is billed with every turn.
const MAX_ANSWER: usize = 64 * 1024;

/// One `[agents.NAME.webhooks.TOOL]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Is sent a POST with `{"call_id", "tool", "arguments", "parameters"}` and answers with the result.
    #[serde(with = "uri")]
    pub url: http::Uri,
    /// How long it may take; the caller hears nothing meanwhile.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

mod uri {
    use serde::de::{Deserialize, Deserializer, Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<http::Uri, D::Error> {
        let uri: http::Uri = String::deserialize(from)?
            .parse()
            .map_err(D::Error::custom)?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some() => Ok(uri),
            _ => Err(D::Error::custom(
                "the URL of a webhook begins with http:// or https://",
            )),
        }
    }
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Calls webhooks for all calls of the process.
#[derive(Clone, Debug)]
pub struct ToolRunner {
    outbound: Outbound,
}

/// A tool returned.
#[derive(Debug)]
pub(super) struct ToolResult {
    pub(super) call_id: String,
    pub(super) output: String,
    /// The metric label.
    pub(super) outcome: &'static str,
}

impl ToolResult {
    /// What a tool of the gateway's own returned at once, or what was wrong.
    pub(super) fn built_in<E: fmt::Display>(call_id: String, result: Result<&Value, E>) -> Self {
        let (output, outcome) = match result {
            Ok(output) => (output.to_string(), "ok"),
            Err(error) => (error_output(&error.to_string()), "failed"),
        };
        Self {
            call_id,
            output,
            outcome,
        }
    }
}

/// A tool that the model wants to be run.
#[derive(Debug)]
pub(super) struct ToolCall {
    /// The gateway's id of the call.
    pub(super) call: String,
    /// The model's id of the function call.
    pub(super) call_id: String,
    pub(super) name: String,
    /// A JSON text.
    pub(super) arguments: String,
    /// What the caller attached to the call.
    pub(super) parameters: Arc<BTreeMap<String, String>>,
    /// Whose trace its own spans belong to, if the call has one.
    pub(super) trace: Option<ToolContext>,
}

#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error("the tool did not answer in time")]
    Timeout,
    #[error("the tool could not be reached")]
    Unreachable,
    #[error("the tool answered with HTTP status {0}")]
    Status(u16),
    #[error("the tool's answer is too long or not text")]
    Answer,
}

impl ToolRunner {
    /// A runner that reaches webhooks by that client.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        Self { outbound }
    }

    /// Runs a tool among a call's running tools. What goes wrong is told to the model, which can then
    /// tell the caller.
    pub(super) fn start(
        &self,
        running: &mut JoinSet<ToolResult>,
        webhook: Option<&WebhookConfig>,
        call: ToolCall,
    ) {
        let Some(webhook) = webhook.cloned() else {
            running.spawn(async move {
                ToolResult {
                    output: error_output("there is no such tool"),
                    call_id: call.call_id,
                    outcome: "unknown",
                }
            });
            return;
        };
        let outbound = self.outbound.clone();
        running.spawn(async move {
            let answer = post(&outbound, &webhook, &call);
            // A turn waits for all its tools: one that is lost would leave it silent for ever.
            let (output, outcome) = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(Ok(answer)) => (answer, "ok"),
                Ok(Err(error @ ToolError::Timeout)) => {
                    (error_output(&error.to_string()), "timeout")
                }
                Ok(Err(error)) => (error_output(&error.to_string()), "failed"),
                Err(_) => (error_output("the tool failed"), "panicked"),
            };
            ToolResult {
                call_id: call.call_id,
                output,
                outcome,
            }
        });
    }
}

async fn post(
    outbound: &Outbound,
    webhook: &WebhookConfig,
    call: &ToolCall,
) -> Result<String, ToolError> {
    let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments)
        .unwrap_or_else(|_| serde_json::Value::String(call.arguments.clone()));
    let body = serde_json::json!({
        "call_id": call.call,
        "tool": call.name,
        "arguments": arguments,
        "parameters": *call.parameters,
    });
    let mut request = Request::post(webhook.url.clone())
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .map_err(|_| ToolError::Unreachable)?;
    if let Some(trace) = &call.trace {
        trace.add_to(request.headers_mut());
    }
    let limits = Limits {
        timeout: webhook.timeout,
        max_answer: MAX_ANSWER,
    };
    let answer = outbound.send(request, Reach::Any, limits).await?;
    if !answer.status().is_success() {
        return Err(ToolError::Status(answer.status().as_u16()));
    }
    String::from_utf8(answer.into_body().into()).map_err(|_| ToolError::Answer)
}

impl From<OutboundError> for ToolError {
    fn from(error: OutboundError) -> Self {
        match error {
            OutboundError::Timeout => Self::Timeout,
            OutboundError::Redirect(status) => Self::Status(status),
            OutboundError::Answer => Self::Answer,
            OutboundError::Url
            | OutboundError::PlainText
            | OutboundError::Forbidden
            | OutboundError::Unreachable => Self::Unreachable,
        }
    }
}

fn error_output(problem: &str) -> String {
    serde_json::json!({ "error": problem }).to_string()
}
