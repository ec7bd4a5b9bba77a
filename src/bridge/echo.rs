//! A leg that returns what it is sent: for conformance suites, which expect an echo. No route and no call leads here.

use std::future::poll_fn;
use std::task::Poll;

use crate::transport::WebSocket;

use super::leg::{Leg, LegEvent};

/// Returns every message until the peer closes or breaks a rule, and takes leave as a call would.
pub async fn echo(socket: WebSocket) {
    let mut leg = Leg::new(socket);
    loop {
        let event = poll_fn(|cx| {
            let event = leg.poll_event(cx);
            if event.is_pending() {
                // Like in a call, what cannot be written now is tried again with the next event.
                let _: Poll<()> = leg.poll_flush(cx);
            }
            event
        });
        let sent = match event.await {
            LegEvent::Text(text) => leg.send_text(&text),
            LegEvent::Binary(bytes) => leg.send_binary(&bytes),
            LegEvent::Closed(_) => return leg.close(1000, "").await,
            LegEvent::Broken { name, close_code } => return leg.close(close_code, name).await,
            LegEvent::Gone => return,
        };
        if sent.is_err() {
            return leg.close(1008, "").await;
        }
    }
}
