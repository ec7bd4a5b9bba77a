//! Calls that come by AudioSocket: plain TCP on an address of its own, where a UUID is all that is said of a call.
//!
//! Nobody can be told why a call is refused: it is hung up.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::auth::{AUDIOSOCKET_UUID, Purpose, Shown, Signed, SignedRequest};
use crate::bridge::ConductedCall;
use crate::ingress::{AudioSocket, Dialect, Refusal, Speak as _};
use crate::media::{FRAME, SampleRate};
use crate::transport::{Packet, Packets, Transport};

use super::desk::Desk;
use super::door::{Connection, Peer, Unheard};
use super::phone::{MAX_UNSENT, PhoneRequest};
use super::{Gateway, new_call_id};

/// How long the peer may take to hang up too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The `[listener.audiosocket]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioSocketListenerConfig {
    /// Address on which Asterisk calls; without one nobody can. There is no TLS: for private networks only.
    pub address: Option<SocketAddr>,
    /// Who answers a call whose account names no agent.
    pub agent: Option<String>,
    /// The rate of all its calls in Hz: 8000 for Asterisk's application, that of the dial string for its channels.
    /// With it a call starts before anything is heard of the caller; without, with the first audio or key.
    pub rate: Option<u32>,
}

impl AudioSocketListenerConfig {
    /// A call at its beginning; `None` if AudioSocket has no such rate.
    #[must_use]
    pub fn call(&self) -> Option<AudioSocket> {
        match self.rate {
            Some(hz) => AudioSocket::at(SampleRate::new(hz)?),
            None => Some(AudioSocket::default()),
        }
    }
}

impl Gateway {
    /// Accepts calls by AudioSocket until `shutdown`.
    pub async fn serve_audiosocket(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) {
        self.accept(listener, &shutdown, Self::serve_audiosocket_connection)
            .await;
    }

    /// Serves one call by AudioSocket from that address as a task of its own, or closes the connection.
    pub fn serve_audiosocket_connection(self: &Arc<Self>, transport: Transport, from: IpAddr) {
        let connection = match self.take_in(from) {
            Ok(connection) => connection,
            Err(reason) => return self.refusals.note(AudioSocket::NAME, reason, None, None),
        };
        let gateway = Arc::clone(self);
        self.connections.spawn(async move {
            tokio::select! {
                ended = gateway.run_audiosocket(transport, &connection) => {
                    if let Err(reason) = ended {
                        gateway.metrics.door().ended(reason);
                    }
                }
                () = connection.evicted.cancelled() => {}
                () = gateway.closing.cancelled() => {}
            }
        });
    }

    /// Runs a connection until it is a call or is not; the error is why the gateway ended it.
    async fn run_audiosocket(
        self: &Arc<Self>,
        transport: Transport,
        connection: &Arc<Connection>,
    ) -> Result<(), &'static str> {
        let desk = self.desk();
        let limits = &desk.config.limits;
        let max_message = AudioSocket::CAPABILITIES.max_message_bytes;
        let frames = desk.config.callers.phone.frames(max_message);
        let mut packets = Packets::new(transport, frames, MAX_UNSENT);
        let known_by =
            (Instant::now() + limits.unauthenticated).min(connection.accepted + limits.upgrade);
        let first = timeout_at(known_by, packets.next()).await;
        let Packet::Whole(first) = first.map_err(|_| "unauthenticated")? else {
            return Ok(());
        };
        let peer = connection.request(&HeaderMap::new());
        let call_id = new_call_id();
        let silence = desk.config.audiosocket.call();
        let silence = silence.and_then(|call| call.silence()).unwrap_or_default();
        let mut clock = interval_at(Instant::now() + FRAME, FRAME);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A session may take a second to open, and Asterisk waits for each packet.
        let prepared = {
            let mut prepared = pin!(desk.audiosocket_call(&call_id, &first, &peer));
            loop {
                tokio::select! {
                    biased;
                    prepared = &mut prepared => break prepared,
                    _ = clock.tick(), if !silence.is_empty() => {
                        let _ = packets.send(&silence);
                        // Whether it could be written shows when the call runs.
                        let _ = poll_fn(|cx| Poll::Ready(packets.poll_flush(cx))).await;
                    }
                }
            }
        };
        match prepared {
            Ok(call) => {
                let span = tracing::info_span!("call", call_id);
                self.calls().spawn(call.run(packets).instrument(span));
            }
            Err(refusal) => {
                if refusal.status == 401 {
                    peer.failed();
                }
                let tenant = peer.tenant();
                self.refusals
                    .note_caused(AudioSocket::NAME, &refusal, None, tenant);
                drop(peer);
                // An empty buffer takes three bytes.
                let _ = packets.send(&AudioSocket::HANGUP);
                let _ = timeout(CLOSE_TIMEOUT, packets.close()).await;
            }
        }
        Ok(())
    }
}

impl Desk {
    /// The call that begins with this packet.
    async fn audiosocket_call(
        self: &Arc<Self>,
        call_id: &str,
        first: &[u8],
        peer: &Peer,
    ) -> Result<Box<ConductedCall>, Refusal> {
        let received = Instant::now();
        peer.check().map_err(|unheard| {
            let (code, wait) = match unheard {
                Unheard::Blocked(wait) => ("too_many_failures", wait),
                Unheard::TooManyFromSource => ("too_many_from_source", Duration::ZERO),
            };
            Refusal {
                code,
                ..Refusal::too_many_requests(wait)
            }
        })?;
        if let Some(refusal) = self.overload() {
            return Err(refusal);
        }
        let uuid = AudioSocket::uuid(first).ok_or_else(|| {
            Refusal::bad_request("bad_first_packet", "The first packet is no UUID.")
        })?;
        let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut value = HeaderValue::from_str(&digits).expect("hexadecimal digits");
        value.set_sensitive(true);
        let headers =
            HeaderMap::from_iter([(http::HeaderName::from_static(AUDIOSOCKET_UUID), value)]);
        let shown = Shown {
            signed: Some(SignedRequest {
                target: "",
                headers: &headers,
                signed: Signed::Upgrade,
                agent: "",
            }),
            ..Shown::default()
        };
        let purpose = Purpose::Call {
            dialect: AudioSocket::NAME,
            agent: None,
        };
        let identity = self
            .identify(AudioSocket::NAME, shown, purpose, peer)
            .await?;
        let usual = self.config.audiosocket.agent.as_ref();
        let agent = identity.agent.as_ref().or(usual).cloned();
        let agent = agent.ok_or_else(Refusal::not_found)?;
        let call = self.config.audiosocket.call();
        let dialect = Dialect::AudioSocket(Box::new(call.unwrap_or_default()));
        let request = PhoneRequest {
            call_id,
            agent: &agent,
            ticket: None,
            headers: None,
            received,
            peer,
        };
        self.prepare_identified(dialect, request, &identity).await
    }
}
