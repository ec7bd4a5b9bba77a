//! What operators and their tools look at: `/livez`, `/readyz`, `/metrics`. On a listener of its own,
//! loopback unless said otherwise.

mod token;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listener::{Gateway, secure};
use crate::telemetry::{OPEN_METRICS, wants_open_metrics};

pub use token::AdminToken;

/// The `[admin]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of `/livez`, `/readyz` and `/metrics`.
    pub address: SocketAddr,
    /// Whether that may be another than a loopback address although nobody has to show a token there.
    pub public: bool,
    /// What `/metrics` asks for as `Authorization: Bearer`; better one of the two below. `/livez` and `/readyz` never
    /// ask.
    pub token: Option<SecretString>,
    /// Name of the environment variable that holds the token.
    pub token_env: Option<String>,
    /// Path of the file that holds the token.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 9100)),
            public: false,
            token: None,
            token_env: None,
            token_file: None,
        }
    }
}

impl AdminConfig {
    /// Whether a token is asked for.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some() || self.token_env.is_some() || self.token_file.is_some()
    }
}

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last; who reads an answer so slowly does not read it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at a time; the oldest makes room for one more, so that idle ones keep no probe out.
const MAX_CONNECTIONS: usize = 64;

/// How long open connections may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Answers operators until `shutdown`. Without a token, everybody who can connect.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    token: Option<AdminToken>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let admin = Admin { gateway, token };
    accept(&Arc::new(admin), &listener, &connections, &shutdown).await;
    connections.close();
    if tokio::time::timeout(CLOSE_PATIENCE, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!("operators' connections were still open at the end");
    }
}

struct Admin {
    gateway: Arc<Gateway>,
    token: Option<AdminToken>,
}

async fn accept(
    admin: &Arc<Admin>,
    listener: &TcpListener,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _peer)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            tracing::warn!("too many connections of operators: the oldest was closed");
        }
        let connection = connections.spawn(run(Arc::clone(admin), stream, shutdown.clone()));
        open.push_back(connection.abort_handle());
    }
}

async fn run(admin: Arc<Admin>, stream: TcpStream, shutdown: CancellationToken) {
    let service = service_fn(|request| {
        let answer = admin.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = sleep(CONNECTION_TIMEOUT) => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an operator's connection broke");
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut answer = self.find(request);
        secure(answer.headers_mut(), false);
        answer
    }

    fn find(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return respond(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => respond(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.gateway.is_draining() => {
                respond(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
            }
            "/readyz" => respond(StatusCode::OK, "ok\n".to_owned()),
            _ if !self.is_allowed(request) => {
                let mut answer = respond(StatusCode::UNAUTHORIZED, "no\n".to_owned());
                answer.headers_mut().insert(
                    http::header::WWW_AUTHENTICATE,
                    http::HeaderValue::from_static("Bearer"),
                );
                answer
            }
            "/metrics" => self.metrics(request.headers()),
            _ => respond(
                StatusCode::NOT_FOUND,
                "/livez, /readyz or /metrics\n".to_owned(),
            ),
        }
    }

    /// All metrics, in the format that is asked for.
    fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let metrics = self.gateway.metrics();
        let mut accepted = headers.get_all(ACCEPT).iter();
        if accepted.any(|it| it.to_str().is_ok_and(wants_open_metrics)) {
            let mut answer = respond(StatusCode::OK, metrics.render_open());
            let kind = HeaderValue::from_static(OPEN_METRICS);
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            return answer;
        }
        match metrics.render() {
            Ok(text) => respond(StatusCode::OK, text),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn is_allowed(&self, request: &Request<Incoming>) -> bool {
        self.token
            .as_ref()
            .is_none_or(|token| token.is_shown(request.headers()))
    }
}

fn respond(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
