//! Where lines to the target come from: the network, or, in tests, memory.

use async_trait::async_trait;
use http::Uri;
use trunkline::simulator::phone_dial::{ByteStream, DialError, Dialer};

/// Opens lines.
#[async_trait]
pub trait Lines: Send + Sync {
    /// A line to the host of the address, encrypted if the address says so.
    async fn open(&self, uri: &Uri) -> Result<Box<dyn ByteStream>, DialError>;
}

#[async_trait]
impl Lines for Dialer {
    async fn open(&self, uri: &Uri) -> Result<Box<dyn ByteStream>, DialError> {
        self.dial(uri).await
    }
}
