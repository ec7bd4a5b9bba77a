//! Calls that wait in Asterisk: `Dial(WebSocket/INCOMING/...)` and the like, which somebody tells the gateway to take.
//!
//! Here it is the gateway that dials, and Asterisk's HTTP server that answers (telephony reference 9.1); from then on the
//! call is as any other in that dialect. Whoever asks names a channel by its connection id and one of the servers of
//! the configuration, never an address, so that nobody makes the gateway connect anywhere else.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Uri};
use hyper::body::Incoming as Body;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tracing::Instrument;

use crate::auth::Identity;
use crate::ingress::{Asterisk, Dialect, Head, Refusal, Speak as _};
use crate::outbound::is_loopback;
use crate::transport::{
    FrameLimits, Peer as Sender, Transport, UNACKNOWLEDGED, WebSocket, system_roots, tune,
};
use crate::upstream::Authorities;

use super::answer::{Answer, json, name};
use super::desk::Desk;
use super::door::Peer;
use super::new_call_id;
use super::phone::{MAX_UNSENT, PhoneRequest, STYLE};

/// A few names and the call's parameters.
const MAX_BODY: usize = 16 * 1024;

/// Longest connection id that is taken. Asterisk's are UUIDs.
const MAX_ID_BYTES: usize = 128;

/// The `[listener.asterisk]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsteriskConfig {
    /// The HTTP servers of Asterisk that may be dialled, by name.
    pub servers: BTreeMap<String, AsteriskServerConfig>,
}

/// One table of `[listener.asterisk.servers]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsteriskServerConfig {
    /// Scheme, host and port, and the `prefix` of `http.conf` if there is one: `wss://pbx.example.com:8089`.
    pub url: String,
    /// Whether the way there may be plain text though it is not loopback.
    #[serde(default)]
    pub plaintext: bool,
    /// Path of a PEM file with certificate authorities to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Whose it is: no other tenant may have it dialled. Without, all tenants may.
    #[serde(default)]
    pub tenant: Option<String>,
    /// How long it may take from the look-up of its name to its answer.
    #[serde(default = "usual_timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

/// As long as Asterisk's own dialling at most waits for a gateway on a bad day.
const fn usual_timeout() -> Duration {
    Duration::from_secs(5)
}

/// The servers that may be dialled.
#[derive(Clone, Debug, Default)]
pub struct AsteriskServers {
    by_name: BTreeMap<String, Arc<Server>>,
    /// Where connections come out instead of at the servers.
    in_memory: Option<mpsc::Sender<DuplexStream>>,
}

#[derive(Debug)]
struct Server {
    host: String,
    port: u16,
    /// With a scheme, without a slash at its end.
    base: String,
    /// With TLS: the authorities besides the system's.
    authorities: Option<Authorities>,
    config: AsteriskServerConfig,
}

/// What is wrong with a server of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct AsteriskServerError {
    /// The field.
    pub field: &'static str,
    problem: String,
}

impl AsteriskServers {
    /// Adds one of that name.
    ///
    /// # Errors
    ///
    /// If it cannot be dialled as configured.
    pub fn add(
        &mut self,
        name: &str,
        config: &AsteriskServerConfig,
    ) -> Result<(), AsteriskServerError> {
        let server = Server::new(config)?;
        self.by_name.insert(name.to_owned(), Arc::new(server));
        Ok(())
    }

    /// Reaches them where those of `old` were reached, if that was in memory.
    pub(super) fn take_over(&mut self, old: &Self) {
        self.in_memory.clone_from(&old.in_memory);
    }

    /// Reaches all of them through memory instead of the network.
    pub fn reach_in_memory(&mut self, accept: mpsc::Sender<DuplexStream>) {
        self.in_memory = Some(accept);
    }

    /// The one of that name that `tenant` may have dialled; without a name, the only one there is.
    fn choose(&self, tenant: &str, name: Option<&str>) -> Result<&Arc<Server>, Refusal> {
        let unknown = || {
            let message =
                "There is no such server of Asterisk's, or more than one and none was named.";
            Refusal::new(404, "server_not_found", message)
        };
        let server = match name {
            Some(name) => self.by_name.get(name),
            None if self.by_name.len() == 1 => self.by_name.values().next(),
            None => None,
        };
        // Who may not use it learns as little as who guesses.
        server
            .filter(|it| it.config.tenant.as_deref().is_none_or(|its| its == tenant))
            .ok_or_else(unknown)
    }

    async fn connect(&self, server: &Server) -> Result<Transport, NoAnswer> {
        if let Some(accept) = &self.in_memory {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            accept.send(theirs).await.map_err(refused)?;
            return Ok(Transport::Memory(ours));
        }
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        tune(&stream, UNACKNOWLEDGED)?;
        let Some(authorities) = &server.authorities else {
            return Ok(Transport::Tcp(stream));
        };
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // Read when the first call comes: most gateways never dial anybody by TLS but their deployments.
        let tls = authorities.connector(system_roots);
        let stream = tls.connect(name, Transport::Tcp(stream)).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

impl Server {
    fn new(config: &AsteriskServerConfig) -> Result<Self, AsteriskServerError> {
        let wrong = |field, problem: &str| AsteriskServerError {
            field,
            problem: problem.to_owned(),
        };
        let uri: Uri = config.url.parse().map_err(|_| wrong("url", "not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong("url", "the scheme must be wss or ws")),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("url", "no host"))?;
        if config.url.contains(['@', '?', '#']) {
            return Err(wrong("url", "only scheme, host, port and prefix"));
        }
        if !tls && !is_loopback(host) && !config.plaintext {
            let problem = "plain text is for loopback only: use wss, or say plaintext = true";
            return Err(wrong("url", problem));
        }
        if config.timeout.is_zero() {
            return Err(wrong("timeout", "with zero, none can be dialled"));
        }
        let authorities = match &config.ca_file {
            Some(_) if !tls => return Err(wrong("ca_file", "is for wss only")),
            Some(path) => {
                let read = Authorities::read(path);
                Some(read.map_err(|problem| wrong("ca_file", &problem))?)
            }
            None => tls.then(Authorities::default),
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            base: config.url.trim_end_matches('/').to_owned(),
            authorities,
            config: config.clone(),
        })
    }

    /// The upgrade request for the channel with that connection id.
    fn request(&self, connection_id: &str) -> Option<Request<()>> {
        let uri: Uri = format!("{}/media/{connection_id}", self.base)
            .parse()
            .ok()?;
        let host = uri.authority()?.as_str().to_owned();
        let mut request = Request::new(());
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        for (name, value) in [(UPGRADE, "websocket"), (CONNECTION, "Upgrade")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("media"));
        headers.insert(HOST, host.parse().ok()?);
        headers.insert(SEC_WEBSOCKET_KEY, generate_key().parse().ok()?);
        Some(request)
    }
}

/// Why Asterisk could not be dialled.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("answered with HTTP status {0}")]
    Refused(u16),
    #[error("broke the handshake: {0}")]
    Handshake(Box<WsError>),
    #[error("did not answer in time")]
    Late,
}

impl NoAnswer {
    fn refusal(&self) -> Refusal {
        let (status, code, message) = match self {
            // Telephony reference 9.1.
            Self::Refused(404) => (
                404,
                "connection_not_found",
                "Asterisk has no channel with that connection id.",
            ),
            Self::Refused(409) => (
                409,
                "connection_taken",
                "Somebody has connected to that channel already.",
            ),
            Self::Late => (504, "asterisk_timeout", "Asterisk did not answer in time."),
            Self::Unreachable(_) => (502, "asterisk_unreachable", "Asterisk cannot be reached."),
            Self::Refused(_) | Self::Handshake(_) => {
                (502, "asterisk_refused", "Asterisk refused the connection.")
            }
        };
        Refusal::new(status, code, message)
    }
}

/// The body of `POST /asterisk/dial`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DialRequest {
    /// The channel's `MEDIA_WEBSOCKET_CONNECTION_ID`.
    connection_id: String,
    /// Who is to take the call.
    agent: String,
    /// Where the channel is; may be left out if there is but one server.
    server: Option<String>,
    /// What is known of the call.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

/// A channel that can be dialled, and by whom it is to be taken.
struct Channel {
    server: Arc<Server>,
    request: Request<()>,
    agent: String,
    dialect: Dialect,
}

impl Desk {
    /// Takes a call that waits in Asterisk.
    pub(super) async fn dial_asterisk(
        self: &Arc<Self>,
        request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let call_id = new_call_id();
        let answer = match self.take_waiting(&call_id, request, peer).await {
            Ok(()) => json(201, serde_json::json!({ "call_id": call_id }).to_string()),
            Err(refusal) => self.refused(Asterisk::NAME, &refusal, STYLE, peer),
        };
        name(answer, &call_id, None)
    }

    async fn take_waiting(
        self: &Arc<Self>,
        call_id: &str,
        request: Request<Body>,
        peer: &Peer,
    ) -> Result<(), Refusal> {
        let (received, headers) = (Instant::now(), request.headers().clone());
        let posted = self.posted_by(Asterisk::NAME, request, MAX_BODY, peer);
        let (identity, _, body) = posted.await?;
        let channel = self.channel(&identity, &body)?;
        let dialect = channel.dialect;
        // The session comes first, as for everybody: Asterisk takes the open socket for an answer.
        let request = PhoneRequest {
            call_id,
            agent: &channel.agent,
            ticket: None,
            headers: Some(&headers),
            received,
            peer,
        };
        let call = self.prepare_identified(dialect, request, &identity).await?;
        let limits = FrameLimits {
            from: Sender::Server,
            ..self
                .config
                .callers
                .phone
                .frames(Asterisk::CAPABILITIES.max_message_bytes)
        };
        let dialled = self.open_channel(&channel.server, channel.request, limits);
        let dialled = timeout(channel.server.config.timeout, dialled).await;
        let caller = dialled.unwrap_or(Err(NoAnswer::Late)).map_err(|why| {
            tracing::warn!(%why, call_id, "a call that waits in Asterisk was not reached");
            why.refusal()
        })?;
        let span = tracing::info_span!("call", call_id);
        self.calls.spawn(call.run(caller).instrument(span));
        Ok(())
    }

    /// What is to be dialled by a request with this body.
    fn channel(&self, identity: &Identity, body: &[u8]) -> Result<Channel, Refusal> {
        let asked: DialRequest = serde_json::from_slice(body).map_err(|_| {
            Refusal::bad_request(
                "invalid_json",
                "A JSON object was expected: \"connection_id\" and \"agent\", and if wanted \"server\" and \"parameters\".",
            )
        })?;
        self.routes
            .check_reach(&identity.tenant, Asterisk::NAME, &asked.agent)?;
        let servers = &self.routes.asterisk;
        let server = servers.choose(&identity.tenant, asked.server.as_deref())?;
        let request = is_connection_id(&asked.connection_id)
            .then(|| server.request(&asked.connection_id))
            .flatten();
        let request = request.ok_or_else(|| {
            let message = "The connection id is not one of Asterisk's.";
            Refusal::bad_request("bad_connection_id", message)
        })?;
        let mut dialect = Dialect::Asterisk(Box::default());
        let query: String = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&asked.parameters)
            .finish();
        dialect.opened(&Head::new(Some(&query), &HeaderMap::new()));
        Ok(Channel {
            server: Arc::clone(server),
            request,
            agent: asked.agent,
            dialect,
        })
    }

    async fn open_channel(
        &self,
        server: &Server,
        request: Request<()>,
        limits: FrameLimits,
    ) -> Result<WebSocket, NoAnswer> {
        let transport = self.routes.asterisk.connect(server).await?;
        WebSocket::dial(transport, request, limits, MAX_UNSENT)
            .await
            .map_err(|error| match error {
                WsError::Http(answer) => NoAnswer::Refused(answer.status().as_u16()),
                WsError::Io(error) => NoAnswer::Unreachable(error),
                error => NoAnswer::Handshake(Box::new(error)),
            })
    }
}

/// Whether this is a segment of a path that stays where it is put.
fn is_connection_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(toml: &str) -> Result<Server, AsteriskServerError> {
        Server::new(&toml::from_str(toml).unwrap())
    }

    #[test]
    fn a_server_is_an_address_and_nothing_more() {
        let check = |toml: &str, expected: Option<&str>| {
            let found = server(toml).err();
            let found = found.map(|error| format!("{}: {error}", error.field));
            assert_eq!(found.as_deref(), expected, "{toml}");
        };
        check("url = 'wss://pbx.example.com:8089'", None);
        check("url = 'ws://[::1]:8088/asterisk/'", None);
        let plain = "url: plain text is for loopback only: use wss, or say plaintext = true";
        check("url = 'ws://10.0.0.5:8088'", Some(plain));
        check("url = 'ws://10.0.0.5:8088'\nplaintext = true", None);
        let scheme = "url: the scheme must be wss or ws";
        check("url = 'https://pbx.example.com'", Some(scheme));
        let more = "url: only scheme, host, port and prefix";
        check("url = 'wss://me:secret@pbx.example.com'", Some(more));
        check("url = 'wss://pbx.example.com/?a=b'", Some(more));
        check("url = 'a b'", Some("url: not a URL"));
        check(
            "url = 'ws://127.0.0.1'\nca_file = '/no'",
            Some("ca_file: is for wss only"),
        );
        check(
            "url = 'ws://127.0.0.1'\ntimeout = '0s'",
            Some("timeout: with zero, none can be dialled"),
        );
    }

    #[test]
    fn the_id_is_one_segment_below_media() {
        let server = server("url = 'ws://127.0.0.1:8088/pbx/'").unwrap();
        let request = server.request("0b5c-1_a").unwrap();
        assert_eq!(
            request.uri().to_string(),
            "ws://127.0.0.1:8088/pbx/media/0b5c-1_a"
        );
        assert_eq!(request.headers()["host"], "127.0.0.1:8088");
        assert_eq!(request.headers()["sec-websocket-protocol"], "media");
        assert!(is_connection_id("0b5c6c0e-4c1c-4c0e-8f7b-8f7b0b5c6c0e"));
        let long = "a".repeat(MAX_ID_BYTES + 1);
        for bad in ["", "..", "a/b", "a?b", "a%2f", "a b", "a#", "\u{e4}", &long] {
            assert!(!is_connection_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_tenant_has_its_own_servers_dialled() {
        let add = |servers: &mut AsteriskServers, name: &str, more: &str| {
            let config = format!("url = 'ws://127.0.0.1'\n{more}");
            let config = toml::from_str(&config).unwrap();
            servers.add(name, &config).unwrap();
        };
        let mut servers = AsteriskServers::default();
        add(&mut servers, "ours", "tenant = 'acme'");
        assert!(servers.choose("acme", None).is_ok());
        assert!(servers.choose("other", None).is_err());
        add(&mut servers, "all", "");
        let check = |tenant: &str, name: Option<&str>, expected: bool| {
            let chosen = servers.choose(tenant, name);
            assert_eq!(chosen.is_ok(), expected, "{tenant} {name:?}");
        };
        check("acme", None, false);
        check("acme", Some("ours"), true);
        check("other", Some("ours"), false);
        check("other", Some("all"), true);
        check("acme", Some("none"), false);
    }
}
