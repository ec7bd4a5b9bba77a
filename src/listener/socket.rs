//! From an answered upgrade to a WebSocket.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::transport::Transport;

/// Sizes of one caller's socket, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketSizes {
    /// Largest message from the caller.
    pub(super) max_message: usize,
    /// What may wait to be sent to the caller.
    pub(super) max_unsent: usize,
    /// Read at once; the tungstenite default of 128 KiB costs 7 us a message (costs reference 7).
    pub(super) read_buffer: usize,
}

/// Waits until the 101 is written and takes the connection over. `None` if the caller left meanwhile.
pub(super) async fn open(
    upgrade: OnUpgrade,
    sizes: SocketSizes,
) -> Option<WebSocketStream<Transport>> {
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Transport>>().ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(sizes.read_buffer)
        .write_buffer_size(sizes.read_buffer)
        .max_write_buffer_size(sizes.max_unsent)
        .max_message_size(Some(sizes.max_message))
        .max_frame_size(Some(sizes.max_message));
    let transport = parts.io.into_inner();
    Some(
        WebSocketStream::from_partially_read(
            transport,
            parts.read_buf.into(),
            Role::Server,
            Some(config),
        )
        .await,
    )
}
