//! What operators and their tools look at, and by what they act: `/livez`, `/readyz`, `/metrics`, and the control
//! service by gRPC; the operations page shows the same to people. On a listener of its own, loopback unless said otherwise.

mod access;
mod connection;
mod control;
pub(crate) mod control_json;
pub mod control_proto;
mod control_view;
mod grpc;
mod ops;
mod token;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use crate::listener::{Gateway, TlsConfig, secure};
use crate::telemetry::{OPEN_METRICS, wants_open_metrics};

use access::Right;
use connection::{Stream, Streams};
use grpc::Grpc;
use ops::Ops;

pub use access::Access;
pub use token::AdminTokens;

/// The `[admin]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address of `/livez`, `/readyz`, `/metrics`, the operations page and the control service.
    pub address: SocketAddr,
    /// Whether that may be another than a loopback address although nobody has to show anything there. The control
    /// service is not served then.
    pub public: bool,
    /// What the control service asks for as `Authorization: Bearer`, and `/metrics` and the operations page too; better one of
    /// the two below. `/livez` and `/readyz` never ask.
    pub token: Option<SecretString>,
    /// Name of the environment variable that holds the token.
    pub token_env: Option<String>,
    /// Path of the file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Another token, for who only looks: `/metrics`, the operations page and what of the control service changes nothing.
    pub read_token: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub read_token_env: Option<String>,
    /// Path of the file that holds it.
    pub read_token_file: Option<PathBuf>,
    /// TLS on that address. A client certificate of `client_ca_file` is as good as the token.
    pub tls: Option<TlsConfig>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 9100)),
            public: false,
            token: None,
            token_env: None,
            token_file: None,
            read_token: None,
            read_token_env: None,
            read_token_file: None,
            tls: None,
        }
    }
}

/// How long open connections may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Answers operators until `shutdown`, by the rules of `access`.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    access: Access,
    shutdown: CancellationToken,
) {
    if !access.serves_control() {
        tracing::warn!(
            "nobody can act by the control service: there is neither an admin token nor client certificates, and the \
             address is public or a token is asked for reading"
        );
    }
    let connections = TaskTracker::new();
    let admin = Arc::new(Admin {
        grpc: Grpc::new(&gateway, &shutdown),
        ops: Ops::new(Arc::clone(&gateway)),
        gateway,
        access,
    });
    let watch_files = async {
        if let Some(tls) = admin.access.tls() {
            tls.watch(admin.gateway.metrics(), shutdown.clone()).await;
        }
    };
    tokio::join!(
        connection::accept(&admin, &listener, &connections, &shutdown),
        shutdown.run_until_cancelled(admin.grpc.report()),
        watch_files,
    );
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
    access: Access,
    grpc: Grpc,
    ops: Ops,
}

impl Admin {
    /// The answer, and the stream that it is if an operator keeps the connection by it.
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        has_certificate: bool,
        streams: &Streams,
    ) -> (Response<Body>, Option<Stream>) {
        let pass = self.access.pass(request.headers(), has_certificate);
        let right = pass.right();
        if Grpc::is_for(&request) {
            let is_operator = matches!(right, Right::Full | Right::Read);
            let stream = is_operator.then(|| streams.begin());
            request.extensions_mut().insert(pass);
            return (self.grpc.answer(request, right).await, stream);
        }
        if request.method() == Method::GET {
            let is_guarded = self.access.is_guarded();
            if let Some(answer) = self.ops.answer(&request, right, is_guarded) {
                return (answer, None);
            }
        }
        let mut answer = self.find(&request, right != Right::None);
        secure(answer.headers_mut(), false);
        (answer, None)
    }

    fn find(&self, request: &Request<Incoming>, is_allowed: bool) -> Response<Body> {
        if request.method() != Method::GET {
            return respond(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => respond(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.gateway.is_draining() => {
                respond(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
            }
            "/readyz" if self.gateway.is_stalled() => {
                respond(StatusCode::SERVICE_UNAVAILABLE, "stalled\n".to_owned())
            }
            "/readyz" => respond(StatusCode::OK, "ok\n".to_owned()),
            _ if !is_allowed => {
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
                "/livez, /readyz, /metrics or /ops/\n".to_owned(),
            ),
        }
    }

    /// All metrics, in the format that is asked for.
    fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
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
}

fn respond(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
