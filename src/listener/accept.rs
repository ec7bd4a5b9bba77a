//! From an accepted socket to HTTP requests: who may connect at all, TLS, and how long somebody unknown may stay.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::auth::ClientCertificate;
use crate::transport::{Transport, tune};

use super::Gateway;
use super::door::Connection;
use super::sample;
use super::sources::NoHandshake;
use super::tls::Tls;

/// How long to wait before accepting again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    /// Accepts callers until `shutdown`, and picks up changed certificates meanwhile.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let reload = async {
            if let Some(tls) = &self.tls {
                tls.watch(&self.metrics, shutdown.clone()).await;
            }
        };
        let accept = self.accept(listener, &shutdown, Self::serve_connection);
        tokio::join!(reload, accept);
    }

    /// Hands each connection and the address that it came from to `serve`, until `shutdown`.
    pub(super) async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        shutdown: &CancellationToken,
        serve: impl Fn(&Arc<Self>, Transport, IpAddr),
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if tune(&stream, self.desk().config.limits.unacknowledged).is_ok() {
                        serve(self, Transport::Tcp(stream), peer.ip());
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Measures what the process has left until `shutdown`, and refuses new calls when that is too little.
    pub async fn watch_load(self: Arc<Self>, shutdown: CancellationToken) {
        sample::watch(self, shutdown).await;
    }

    /// Serves one connection from that address as a task of its own, or turns it away.
    pub fn serve_connection(self: &Arc<Self>, transport: Transport, from: IpAddr) {
        let connection = match self.take_in(from) {
            Ok(connection) => connection,
            Err(reason) => return self.turn_away(transport, reason),
        };
        let gateway = Arc::clone(self);
        self.connections.spawn(async move {
            let evicted = connection.evicted.clone();
            tokio::select! {
                ended = gateway.run_connection(transport, &connection) => {
                    if let Err(reason) = ended {
                        gateway.metrics.door().ended(reason);
                    }
                }
                () = evicted.cancelled() => {}
            }
        });
    }

    /// Counts a connection from that address; the error is why there may be no more.
    pub(super) fn take_in(&self, from: IpAddr) -> Result<Arc<Connection>, &'static str> {
        // An answered call is no longer among the connections.
        let n_open = self.connections.len() + self.calls.active();
        if n_open >= self.desk().connection_limit {
            if !self.door.evict() {
                return Err("too_many_connections");
            }
            self.metrics.door().ended("evicted");
        }
        self.door.open(from).ok_or("too_many_from_source")
    }

    /// Answers and closes without waiting for a request: whoever floods the gateway costs no task. A new socket takes
    /// so few bytes at once; if it does not, or speaks TLS, the caller sees the connection closed.
    fn turn_away(&self, mut transport: Transport, reason: &'static str) {
        self.refusals.note("other", reason, Some(503), None);
        if self.tls.is_some() {
            return;
        }
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nx-trunkline-error: {reason}\r\nretry-after: 5\r\n\
             cache-control: no-store\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let written = match &mut transport {
            // Past tokio, which does not know yet that the socket can be written to.
            Transport::Tcp(stream) => SockRef::from(&*stream).send(answer.as_bytes()).map(drop),
            other => other
                .write_all(answer.as_bytes())
                .now_or_never()
                .unwrap_or(Err(io::ErrorKind::WouldBlock.into())),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a caller was turned away without an answer");
        }
    }

    /// Runs a connection to its end; the error is why the gateway ended it.
    async fn run_connection(
        self: &Arc<Self>,
        transport: Transport,
        connection: &Arc<Connection>,
    ) -> Result<(), &'static str> {
        let transport = match &self.tls {
            Some(tls) => self.handshake(tls, transport, connection).await?,
            None => transport,
        };
        self.run_http(transport, connection).await
    }

    async fn handshake(
        &self,
        tls: &Tls,
        transport: Transport,
        connection: &Arc<Connection>,
    ) -> Result<Transport, &'static str> {
        let _counted = connection.begin_handshake().map_err(|error| match error {
            NoHandshake::TooMany => "too_many_handshakes",
            NoHandshake::TooManyFromSource => "too_many_handshakes_from_source",
        })?;
        let shaken = timeout(
            self.desk().config.limits.tls_handshake,
            tls.acceptor().accept(transport),
        );
        let stream = shaken.await.map_err(|_| "tls_timeout")?.map_err(|error| {
            tracing::debug!(%error, "no TLS with a caller");
            "tls_failed"
        })?;
        let (_, session) = stream.get_ref();
        if let Some([certificate, ..]) = session.peer_certificates() {
            connection.certified(ClientCertificate::parse(certificate));
        }
        Ok(Transport::ServerTls(Box::new(stream)))
    }

    async fn run_http(
        self: &Arc<Self>,
        transport: Transport,
        connection: &Arc<Connection>,
    ) -> Result<(), &'static str> {
        let desk = self.desk();
        let limits = &desk.config.limits;
        let known_by =
            (Instant::now() + limits.unauthenticated).min(connection.accepted + limits.upgrade);
        let service = service_fn(|request| {
            let gateway = Arc::clone(self);
            let connection = Arc::clone(connection);
            // Each request is answered by the configuration of its time, on a kept connection too.
            async move { Ok::<_, Infallible>(gateway.desk().answer(request, &connection).await) }
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(desk.config.head_timeout)
            .max_headers(limits.headers)
            .max_buf_size(limits.head_bytes)
            .serve_connection(TokioIo::new(transport), service)
            .with_upgrades();
        let (mut http, mut overdue) = (pin!(http), pin!(sleep_until(known_by)));
        let (mut is_overdue, mut is_closing) = (false, false);
        loop {
            tokio::select! {
                // What is answered at the last moment is sent.
                biased;
                ended = http.as_mut() => return why_ended(ended, connection),
                () = overdue.as_mut(), if !is_overdue => {
                    is_overdue = true;
                    if connection.is_wasted() {
                        return Err("unauthenticated");
                    }
                }
                () = self.closing.cancelled(), if !is_closing => {
                    is_closing = true;
                    http.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn why_ended(ended: hyper::Result<()>, connection: &Connection) -> Result<(), &'static str> {
    let Err(error) = ended else {
        return Ok(());
    };
    tracing::debug!(%error, "connection ended before a call");
    if error.is_timeout() && connection.n_requests() == 0 {
        Err("head_timeout")
    } else if error.is_timeout() {
        Err("idle")
    } else if error.is_parse_too_large() {
        Err("head_too_large")
    } else if error.is_parse() {
        Err("bad_head")
    } else {
        Ok(())
    }
}
