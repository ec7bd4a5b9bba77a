//! Callers as most tests have them.

use std::time::Duration;

use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, SoftPhone};

/// A phone that calls the gateway there and does that.
pub(crate) fn phone(url: &str, dialect: Dialect, script: impl Into<Vec<Act>>) -> SoftPhone {
    let phone = SoftPhone::new(&format!("ws://gateway{url}"), dialect);
    phone.expect("a good address").script(script)
}

/// Hears a reply to its end.
pub(crate) fn listen() -> Act {
    Act::WaitForReply {
        min_audio: Duration::from_millis(500),
        until_end: true,
        timeout: Duration::from_secs(20),
    }
}
