//! A web server behind a pipe: what a gateway's webhooks and exports are sent to.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Serves whoever is sent there, by that answer to each request.
pub(crate) fn serve<A, E>(
    answer: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
) -> mpsc::Sender<DuplexStream>
where
    A: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    let (web, mut asked) = mpsc::channel(64);
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Some(stream) = asked.recv().await {
            let service = service_fn(answer.clone());
            connections.spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                // The client may go at any time.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    web
}
