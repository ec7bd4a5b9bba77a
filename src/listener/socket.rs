//! From an answered upgrade to a WebSocket.

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::transport::{FrameLimits, FrameMeter, Role, Transport, WebSocket};

/// Limits of one caller's socket; sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketLimits {
    /// What the caller may send.
    pub(super) frames: FrameLimits,
    /// What may wait to be sent to the caller.
    pub(super) max_unsent: usize,
}

/// Waits until the 101 is written and takes the connection over. `None` if the caller left meanwhile.
pub(super) async fn open(upgrade: OnUpgrade, limits: SocketLimits) -> Option<WebSocket> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Transport>>().ok()?;
    Some(WebSocket::new(
        parts.io.into_inner(),
        Role::Server,
        FrameMeter::new(limits.frames),
        // A copy, mostly of nothing: hyper's buffer is larger than that.
        Bytes::copy_from_slice(&parts.read_buf),
        limits.max_unsent,
    ))
}
