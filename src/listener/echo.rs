//! The accept path of SDK clients with an echo in the place of the call: for conformance suites. No route leads here.

use std::convert::Infallible;

use http::Request;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use crate::bridge;
use crate::ingress::{ErrorStyle, upgrade};
use crate::transport::Transport;

use super::answer::{Answer, refuse_upgrade, switch};
use super::{CallersConfig, sdk, socket};

/// Answers one connection and returns what it is sent, within the limits of an SDK client.
pub async fn echo_connection(transport: Transport, callers: CallersConfig) {
    let echoes = TaskTracker::new();
    let service = service_fn(|request| {
        let answer = answer(request, callers, &echoes);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(transport), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended before the echo");
    }
}

fn answer(mut request: Request<Body>, callers: CallersConfig, echoes: &TaskTracker) -> Answer {
    let checked = upgrade::check(
        request.method(),
        request.version(),
        request.uri(),
        request.headers(),
    );
    let upgrade = match checked {
        Ok(upgrade) => upgrade,
        Err(error) => return refuse_upgrade(error, ErrorStyle::OpenAi),
    };
    let on_upgrade = hyper::upgrade::on(&mut request);
    let limits = sdk::socket_limits(&callers.realtime);
    echoes.spawn(async move {
        if let Some(socket) = socket::open(on_upgrade, limits).await {
            bridge::echo(socket).await;
        }
    });
    switch(&upgrade.accept, None)
}
