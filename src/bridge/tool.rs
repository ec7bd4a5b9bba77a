//! Tools of an agent: each is a webhook that answers with a text.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::transport::system_roots;

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
#[derive(Clone)]
pub struct ToolRunner {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Default for ToolRunner {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ToolRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolRunner").finish_non_exhaustive()
    }
}

/// A tool returned.
#[derive(Debug)]
pub(super) struct ToolResult {
    pub(super) call_id: String,
    pub(super) output: String,
    /// The metric label.
    pub(super) outcome: &'static str,
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
    /// A runner that trusts the system's certificate authorities. Where there are none, webhooks by `http` work
    /// and the others fail one by one.
    ///
    /// # Panics
    ///
    /// Never: ring supports the default protocol versions.
    #[must_use]
    pub fn new() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(system_roots())
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
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
        let client = self.client.clone();
        running.spawn(async move {
            let answer = tokio::time::timeout(webhook.timeout, post(&client, &webhook, &call));
            // A turn waits for all its tools: one that is lost would leave it silent for ever.
            let (output, outcome) = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(Ok(Ok(answer))) => (answer, "ok"),
                Ok(Ok(Err(error))) => (error_output(&error.to_string()), "failed"),
                Ok(Err(_)) => (error_output(&ToolError::Timeout.to_string()), "timeout"),
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
    client: &Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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
    let request = Request::post(webhook.url.clone())
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .map_err(|_| ToolError::Unreachable)?;
    let response = client
        .request(request)
        .await
        .map_err(|_| ToolError::Unreachable)?;
    if !response.status().is_success() {
        return Err(ToolError::Status(response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|_| ToolError::Answer)?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| ToolError::Answer)
}

fn error_output(problem: &str) -> String {
    serde_json::json!({ "error": problem }).to_string()
}
