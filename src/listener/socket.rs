//! From an answered upgrade to a WebSocket.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::transport::{FrameLimits, FrameMeter, Metered, Transport};

/// Limits of one caller's socket; sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketLimits {
    /// What the caller may send.
    pub(super) frames: FrameLimits,
    /// What may wait to be sent to the caller.
    pub(super) max_unsent: usize,
    /// Read at once; the tungstenite default of 128 KiB costs 7 us a message (costs reference 7).
    pub(super) read_buffer: usize,
}

/// Waits until the 101 is written and takes the connection over. `None` if the caller left meanwhile.
pub(super) async fn open(
    upgrade: OnUpgrade,
    limits: SocketLimits,
) -> Option<WebSocketStream<Metered>> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Transport>>().ok()?;
    // Twice the same limit: the meter's is on headers, the library's on what it holds.
    let max_message = usize::try_from(limits.frames.max_message).ok();
    let config = WebSocketConfig::default()
        .read_buffer_size(limits.read_buffer)
        .write_buffer_size(limits.read_buffer)
        .max_write_buffer_size(limits.max_unsent)
        .max_message_size(max_message)
        .max_frame_size(max_message);
    let transport = Metered::new(
        parts.io.into_inner(),
        FrameMeter::new(limits.frames),
        &parts.read_buf,
    );
    Some(
        WebSocketStream::from_partially_read(
            transport,
            // A copy, mostly of nothing: hyper's buffer is larger than ours.
            parts.read_buf.to_vec(),
            Role::Server,
            Some(config),
        )
        .await,
    )
}
