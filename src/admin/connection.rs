//! The operators' connections: HTTP/1.1 and HTTP/2 on one port, how many, and for how long.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::transport::Transport;

use super::Admin;

/// How long a request's head, or a TLS handshake, may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last on which no operator has a stream; who reads an answer so slowly does not read it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long what is under way may take once a connection is to end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Connections at a time; the oldest without a stream makes room for one more, so that idle ones keep no probe out.
const MAX_CONNECTIONS: usize = 64;

/// Requests at a time on a connection.
const MAX_STREAMS: u32 = 32;

/// Header fields of a request, which hold a token and little more.
const MAX_HEADERS: u32 = 16 * 1024;

/// What waits to be written for a stream; a watcher that reads more slowly misses events.
const MAX_UNSENT: usize = 64 * 1024;

/// Whether whoever has a stream is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Takes connections until `shutdown`.
pub(super) async fn accept(
    admin: &Arc<Admin>,
    listener: &TcpListener,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let mut open: VecDeque<(AbortHandle, Streams)> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, _peer)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        open.retain(|(connection, _)| !connection.is_finished());
        if open.len() >= MAX_CONNECTIONS {
            let oldest = open.iter().position(|(_, streams)| !streams.is_any());
            if let Some((oldest, _)) = open.remove(oldest.unwrap_or(0)) {
                oldest.abort();
                tracing::warn!("too many connections of operators: the oldest was closed");
            }
        }
        let streams = Streams::default();
        let connection = Connection {
            admin: Arc::clone(admin),
            streams: streams.clone(),
            tasks: connections.clone(),
            shutdown: shutdown.clone(),
        };
        let connection = connections.spawn(connection.run(stream));
        open.push_back((connection.abort_handle(), streams));
    }
}

struct Connection {
    admin: Arc<Admin>,
    streams: Streams,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let secured = timeout(HEAD_TIMEOUT, self.secure(stream)).await;
        match secured {
            Ok(Ok((transport, has_certificate))) => self.serve(transport, has_certificate).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS with an operator"),
            Err(_) => tracing::debug!("an operator's TLS handshake took too long"),
        }
    }

    /// Begins TLS, if that is wanted; says whether the other side has a certificate, verified by then.
    async fn secure(&self, stream: TcpStream) -> std::io::Result<(Transport, bool)> {
        let Some(tls) = self.admin.access.tls() else {
            return Ok((Transport::Tcp(stream), false));
        };
        let stream = tls.acceptor().accept(Transport::Tcp(stream)).await?;
        let has_certificate = stream.get_ref().1.peer_certificates().is_some();
        Ok((Transport::ServerTls(Box::new(stream)), has_certificate))
    }

    async fn serve(self, transport: Transport, has_certificate: bool) {
        let service = service_fn(|request| {
            let (admin, streams) = (Arc::clone(&self.admin), self.streams.clone());
            async move {
                let (answer, stream) = admin.answer(request, has_certificate, &streams).await;
                let answer = answer.map(|body| Counted {
                    body,
                    _stream: stream,
                });
                Ok::<_, Infallible>(answer)
            }
        });
        let builder = builder(&self.tasks);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(transport), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.is_to_end() => {
                connection.as_mut().graceful_shutdown();
                timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an operator's connection broke");
        }
    }

    /// Is over when the connection has lasted long enough: the process goes away, or no operator has had a stream for a
    /// while.
    async fn is_to_end(&self) {
        tokio::select! {
            () = self.streams.are_over() => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

fn builder(tasks: &TaskTracker) -> auto::Builder<Tracked> {
    let mut builder = auto::Builder::new(Tracked(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_UNSENT)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE / 2);
    builder
}

/// Runs what a connection needs on the tracker of all of them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The streams of one connection that belong to operators who have shown what they had to.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    n_open: AtomicUsize,
    n_begun: watch::Sender<u64>,
}

impl Streams {
    /// Counts one more, until what is returned is dropped.
    pub(super) fn begin(&self) -> Stream {
        self.0.n_open.fetch_add(1, Ordering::Relaxed);
        self.0.n_begun.send_modify(|n| *n += 1);
        Stream(self.clone())
    }

    fn is_any(&self) -> bool {
        self.0.n_open.load(Ordering::Relaxed) > 0
    }

    /// Is over when there has been none for a while.
    async fn are_over(&self) {
        let mut n_begun = self.0.n_begun.subscribe();
        loop {
            n_begun.mark_unchanged();
            sleep(CONNECTION_TIMEOUT).await;
            if !self.is_any() && !n_begun.has_changed().unwrap_or(false) {
                return;
            }
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Stream(Streams);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.0.n_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, whose stream is open until it was written or given up.
struct Counted {
    body: tonic::body::Body,
    _stream: Option<Stream>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_lasts_as_long_as_its_streams_and_a_while() {
        let streams = Streams::default();
        let began = Instant::now();
        streams.are_over().await;
        assert_eq!(began.elapsed(), CONNECTION_TIMEOUT, "nobody asked anything");
        let watch = streams.begin();
        let over = streams.are_over();
        assert!(timeout(CONNECTION_TIMEOUT * 100, over).await.is_err());
        drop(watch);
        assert!(!streams.is_any());
        let began = Instant::now();
        let short = async {
            sleep(CONNECTION_TIMEOUT / 2).await;
            drop(streams.begin());
        };
        tokio::join!(streams.are_over(), short);
        assert!(began.elapsed() > CONNECTION_TIMEOUT, "somebody asked once");
    }
}
