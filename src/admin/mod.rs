//! What operators and their tools look at: `/livez`, `/readyz`, `/metrics`. On a listener of its own,
//! loopback unless said otherwise.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listener::Gateway;

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long open connections may take to end when the process goes away.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Answers operators until `shutdown`.
pub async fn serve(gateway: Arc<Gateway>, listener: TcpListener, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    accept(&gateway, &listener, &connections, &shutdown).await;
    connections.close();
    if tokio::time::timeout(CLOSE_PATIENCE, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!("operators' connections were still open at the end");
    }
}

async fn accept(
    gateway: &Arc<Gateway>,
    listener: &TcpListener,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let gateway = Arc::clone(gateway);
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&gateway, &request);
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
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an operator's connection broke");
            }
        });
    }
}

fn answer(gateway: &Gateway, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => respond(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if gateway.is_draining() => {
            respond(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        }
        "/readyz" => respond(StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => match gateway.metrics().render() {
            Ok(text) => respond(StatusCode::OK, text),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => respond(
            StatusCode::NOT_FOUND,
            "/livez, /readyz or /metrics\n".to_owned(),
        ),
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
