//! The last steps of a dial: the upgrade, and the session's first event.

use std::time::Duration;

use serde::Deserialize;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::{Error as WsError, Utf8Bytes};

use crate::call::ModelEvent;
use crate::outbound::retry_after;
use crate::realtime::ErrorBody;
use crate::transport::{FrameLimits, Peer, Rate, Received, Transport, WebSocket};

use super::credential::Shown;
use super::decode::{Decoded, Decoder};
use super::deployment::Deployment;
use super::dial_error::{DialError, closed, handshake_error, label, lost};

/// The largest event taken from a deployment; items with inline audio of 3.5 MB were seen (protocol reference 1.6).
const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// Unsent bytes towards the deployment: one upload of 15 MiB of audio as base64, twice.
const MAX_UNSENT: usize = 48 * 1024 * 1024;

/// What a deployment may send. It is trusted with more than callers are, but a broken one must not take the memory
/// or the time of the others' calls. Its messages are not counted: they are relayed or queued within bounds, and it is
/// read no faster than that.
const FRAMES: FrameLimits = FrameLimits {
    from: Peer::Server,
    max_message: MAX_MESSAGE as u64,
    // The largest message in fragments of 2 KiB.
    max_fragments: 16 * 1024,
    control: Rate {
        per_second: 100,
        burst: 100,
    },
    messages: None,
    message_timeout: Duration::from_secs(30),
};

pub(super) async fn upgrade(
    deployment: &Deployment,
    transport: Transport,
    transcription: bool,
    shown: &Shown,
) -> Result<WebSocket, DialError> {
    let mut request = deployment.request(transcription, shown);
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let headers = request.headers_mut();
    for (name, value) in [
        ("host", authority.unwrap_or_default()),
        ("connection", "Upgrade".to_owned()),
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        ("sec-websocket-key", generate_key()),
    ] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    match WebSocket::dial(transport, request, FRAMES, MAX_UNSENT).await {
        Ok(socket) => Ok(socket),
        Err(WsError::Http(response)) => Err(DialError::Refused {
            deployment: deployment.name.clone(),
            status: response.status().as_u16(),
            code: response.body().as_deref().and_then(body_code),
            request_id: request_id(response.headers()),
            retry_after: retry_after(response.headers()),
        }),
        Err(source) => Err(handshake_error(deployment, source)),
    }
}

/// `error.code` of a refusal's body, both vendors' forms (protocol reference 1.5). Only as much of the body is here
/// as came together with the headers.
fn body_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        error: ErrorBody<'a>,
    }
    // The body may be sent in chunks; the first one has a length before it.
    let begin = body.iter().position(|byte| *byte == b'{')?;
    let mut values = serde_json::Deserializer::from_slice(&body[begin..]).into_iter::<Body<'_>>();
    let error = values.next()?.ok()?.error;
    label(&error.code?)
}

/// The vendor's id of a refused request (protocol reference 1.4).
fn request_id(headers: &http::HeaderMap) -> Option<String> {
    let value = headers
        .get("apim-request-id")
        .or_else(|| headers.get("x-request-id"))?;
    label(value.to_str().ok()?)
}

/// The session's first event, and when it will end by the vendor's clock.
pub(super) async fn session_created(
    deployment: &Deployment,
    socket: &mut WebSocket,
) -> Result<(Utf8Bytes, Option<u64>), DialError> {
    loop {
        let text = match socket.next().await {
            Received::Text(text) => text,
            Received::Binary(_) | Received::SignOfLife => continue,
            Received::Closed(frame) => return Err(closed(deployment, frame.as_ref())),
            ended => return Err(handshake_error(deployment, lost(ended))),
        };
        let decoded = Decoder::new().decode(&text);
        let retry_after = decoded.as_ref().ok().and_then(Decoded::retry_after);
        match decoded.as_ref().map(Decoded::event) {
            Ok(ModelEvent::SessionCreated { expires_at, .. }) => {
                // Zero means that no session exists yet.
                let expires_at = expires_at.filter(|at| *at > 0);
                return Ok((text, expires_at));
            }
            Ok(ModelEvent::Error(error)) => {
                return Err(DialError::Rejected {
                    deployment: deployment.name.clone(),
                    code: label(error.code.unwrap_or(error.kind)).unwrap_or_default(),
                    retry_after,
                });
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::mpsc;
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    use crate::telemetry::Metrics;

    use super::super::dial::Dialer;
    use super::*;

    /// Dials a deployment in memory whose side of the connection is `serve`; why there was no session.
    async fn fail<F: Future<Output = ()>>(serve: impl FnOnce(DuplexStream) -> F) -> DialError {
        let config = toml::from_str("url = 'ws://127.0.0.1:1'\nmodel = 'm'").expect("good");
        let deployment = Deployment::new("east", config).expect("good");
        let (accept, mut accepted) = mpsc::channel(1);
        let dialer = Dialer::with_roots(Metrics::new(), rustls::RootCertStore::empty())
            .with_memory("east", accept);
        let serve = async { serve(accepted.recv().await.expect("a connection")).await };
        let (dialled, ()) = tokio::join!(dialer.dial(&deployment, false), serve);
        dialled.expect_err("no session")
    }

    async fn refuse(answer: &str) -> DialError {
        fail(async |mut stream: DuplexStream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("room");
        })
        .await
    }

    #[tokio::test]
    async fn refusals_keep_what_the_vendor_can_be_asked_about() {
        let check = async |answer: &str, expected: &str| {
            let error = refuse(answer).await;
            assert_eq!(
                error.to_string(),
                format!("deployment east refused the session with HTTP status {expected}")
            );
        };
        check(
            "HTTP/1.1 404 Not Found\r\napim-request-id: 1-a\r\nx-request-id: 2\r\n\r\n{\"error\":{\"code\":\"DeploymentNotFound\",\"message\":\"m\"}}",
            "404, code DeploymentNotFound, request 1-a",
        )
        .await;
        check(
            "HTTP/1.1 429 Too Many\r\nx-request-id: a b\\\"c\r\n\r\n1f\r\n{\"error\":{\"code\":\"x\\ny<z\"}}\r\n0\r\n",
            "429, code xyz, request abc",
        )
        .await;
        check("HTTP/1.1 500 No\r\n\r\n{\"error\":{\"co", "500").await;
        check("HTTP/1.1 500 No\r\n\r\n{\"error\":{\"code\":null}}", "500").await;
        check("HTTP/1.1 500 No\r\n\r\n", "500").await;
    }

    #[tokio::test]
    async fn a_close_before_the_session_is_told_apart() {
        let check = async |code: u16, reason: &str, name: &str, expected: &str| {
            let error = fail(async |stream: DuplexStream| {
                let mut socket = accept_async(stream).await.expect("an upgrade");
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                socket.close(Some(frame)).await.expect("room");
                while let Some(Ok(_)) = socket.next().await {}
            })
            .await;
            assert_eq!((error.name(), error.caller_status().0), (name, 502));
            assert_eq!(
                error.to_string(),
                format!("deployment east closed the session with code {expected}")
            );
        };
        check(
            3000,
            "invalid_request_error.invalid_api_key",
            "rejected",
            "3000, reason invalid_request_error.invalid_api_key",
        )
        .await;
        check(4000, "", "rejected", "4000").await;
        check(1013, "try\n\u{1b}later", "closed", "1013, reason trylater").await;
    }
}
