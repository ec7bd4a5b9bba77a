//! A byte stream whose incoming WebSocket frames are metered.
//!
//! What comes before a fault is handed on, so that messages that were in order are still heard; then reading fails
//! with the [`FrameFault`] inside the error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Transport;
use super::meter::{FrameFault, FrameMeter};

/// A transport and its meter.
#[derive(Debug)]
pub struct Metered {
    transport: Transport,
    meter: FrameMeter,
    fault: Option<FrameFault>,
    /// Came from the transport, and was not handed on yet.
    kept: Bytes,
    heard_at: Instant,
}

impl Metered {
    /// Meters what is read from now on. `already_read` came before; it is what is read first.
    #[must_use]
    pub fn new(transport: Transport, meter: FrameMeter, already_read: Bytes) -> Self {
        Self {
            transport,
            meter,
            fault: None,
            kept: already_read,
            heard_at: Instant::now(),
        }
    }

    /// The fault in an error that reading gave.
    #[must_use]
    pub fn fault_in(error: &io::Error) -> Option<FrameFault> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// When any byte was last read.
    #[must_use]
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// When the message that is under way must be complete; `None` if there is none.
    #[must_use]
    pub fn message_deadline(&self) -> Option<Instant> {
        self.meter.deadline().map(Instant::from_std)
    }

    /// Nobody wanted to read until now, for which the peer cannot be blamed.
    pub fn was_unread(&mut self) {
        self.meter.was_unread(Instant::now().into_std());
    }

    /// Whether the answer to an upgrade was read to its end, and nothing behind it.
    pub(super) fn is_at_first_frame(&self) -> bool {
        self.meter.is_between_frames()
    }

    /// The transport, to read on after a fault.
    pub fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let metered = self.get_mut();
        if let Some(fault) = metered.fault {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
        }
        let begin = buf.filled().len();
        if metered.kept.is_empty() {
            ready!(Pin::new(&mut metered.transport).poll_read(cx, buf))?;
        } else {
            let n = metered.kept.len().min(buf.remaining());
            buf.put_slice(&metered.kept.split_to(n));
        }
        let bytes = &buf.filled()[begin..];
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        metered.heard_at = Instant::now();
        if metered.meter.is_in_head() {
            // Whoever reads the answer to an upgrade gets nothing of what comes behind it.
            let n_head = metered.meter.skip_head(bytes);
            metered.kept = Bytes::copy_from_slice(&bytes[n_head..]);
            buf.set_filled(begin + n_head);
            return Poll::Ready(Ok(()));
        }
        let Err(found) = metered.meter.scan(bytes, metered.heard_at.into_std()) else {
            return Poll::Ready(Ok(()));
        };
        metered.fault = Some(found.fault);
        if found.before == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, found.fault)));
        }
        buf.set_filled(begin + found.before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
