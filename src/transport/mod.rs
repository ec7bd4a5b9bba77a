//! The byte stream under a leg: TCP, TLS over TCP, or memory; the meter that watches what comes in on it; WebSocket
//! frames, and packets for callers that speak no WebSocket.
//!
//! Memory is for the simulator inside the same process and for tests under simulated time. An enum and
//! not a boxed trait, because every frame passes here.

mod meter;
mod metered;
mod packets;
mod websocket;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

pub use meter::{FoundFault, FrameFault, FrameLimits, FrameMeter, Peer, Rate};
pub use metered::Metered;
pub use packets::{PACKET_HEAD, Packet, Packets};
pub(crate) use websocket::is_sendable;
pub use websocket::{Received, Role, Unsendable, WebSocket};

/// The system's certificate authorities. There may be none: plain text on loopback works without.
pub(crate) fn system_roots() -> rustls::RootCertStore {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "cannot read certificate authorities");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        tracing::warn!("this system has no certificate authorities: no TLS connection can be made");
    }
    roots
}

/// How long sent bytes may stay unacknowledged before the connection is given up (threat 18 of the threats reference).
pub(crate) const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Silence after which the system asks whether the far end is still there, and how often it asks again.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// Sets what a leg's socket needs: small frames do not wait for an acknowledgement, and a far end that vanished
/// without a FIN is noticed.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn tune(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let (after, every) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(after).with_interval(every))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unacknowledged))?;
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    Ok(())
}

/// A connected byte stream.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS that the gateway began.
    Tls(Box<client::TlsStream<Transport>>),
    /// TLS that a caller began, over whatever the caller came by.
    ServerTls(Box<server::TlsStream<Transport>>),
    /// One end of a pipe in memory.
    Memory(DuplexStream),
}

impl Transport {
    /// Has the runtime that calls it watch the socket, whichever did before. What was read and not taken stays; a
    /// connection that cannot be watched ends.
    pub(crate) fn move_here(&mut self) {
        match self {
            Self::Tcp(_) => {
                // A pipe whose other end is gone: nothing comes from it, and nothing is taken.
                let (nothing, _) = tokio::io::duplex(1);
                if let Self::Tcp(stream) = std::mem::replace(self, Self::Memory(nothing)) {
                    match stream.into_std().and_then(TcpStream::from_std) {
                        Ok(stream) => *self = Self::Tcp(stream),
                        Err(error) => tracing::warn!(%error, "a connection is lost"),
                    }
                }
            }
            Self::Tls(stream) => stream.get_mut().0.move_here(),
            Self::ServerTls(stream) => stream.get_mut().0.move_here(),
            Self::Memory(_) => {}
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::ServerTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::ServerTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tuned_socket_notices_who_vanished() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        tune(&stream, UNACKNOWLEDGED).unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }
}
