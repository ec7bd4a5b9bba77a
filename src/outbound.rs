//! What the gateway itself asks other services by HTTP: webhooks and signing keys. Access tokens are
//! fetched by `upstream`, whose library wants a client of its own form.
//!
//! One client, so that one set of rules holds: a total time, an answer of bounded size, no redirects, certificates
//! of known authorities, and a [`Reach`] that says which addresses a request may go to. The reach is checked on the
//! addresses that are connected to, so that a name that resolves differently the next time gains nothing. Knows
//! nothing of what is asked, and keeps no cache.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{self, Connected, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tower_service::Service;

use crate::transport::{Transport, system_roots};

/// How long a TCP connection may take, over all addresses of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a request may go. Who wrote its URL decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The operator wrote it, and plain text is the operator's choice: any address, with or without TLS.
    Any,
    /// The operator wrote it, and what comes back must be genuine: any address by TLS, plain text to loopback only.
    Secure,
    /// Somebody else had a say in it: TLS to a public address. What is private can be reached by nobody but the
    /// operator.
    Public,
}

/// Whether the host of a URL, without a port, is this machine: by name, or by an address with or without the brackets of
/// IPv6.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What an answer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the name look-up to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub max_answer: usize,
}

/// Why there is no answer. Says nothing of what was sent or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The URL is no absolute `http` or `https` URL.
    #[error("the URL is not absolute, or neither http nor https")]
    Url,
    /// Plain text, and that is not allowed there.
    #[error("plain text is for loopback only")]
    PlainText,
    /// The name leads to no address that the reach allows.
    #[error("the address is not one that may be asked")]
    Forbidden,
    /// No connection, or none by TLS.
    #[error("cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// It answers with a redirect; none is followed.
    #[error("answers with a redirect (status {0}), and none is followed")]
    Redirect(u16),
    /// The answer is longer than allowed, or breaks off.
    #[error("the answer is too long or breaks off")]
    Answer,
}

/// The client. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Outbound {
    any: HttpClient,
    loopback: HttpClient,
    public: HttpClient,
}

type HttpClient = Client<HttpsConnector<Connector>, Full<Bytes>>;

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbound {
    /// A client that trusts the system's certificate authorities. Where there are none, requests by TLS fail one by
    /// one.
    #[must_use]
    pub fn new() -> Self {
        Self::with_roots(system_roots())
    }

    /// A client that trusts these certificate authorities only.
    #[must_use]
    pub fn with_roots(roots: RootCertStore) -> Self {
        let tls = tls(roots);
        let client = |addresses| {
            let mut tcp = HttpConnector::new_with_resolver(Resolver { addresses });
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
            over(Connector::Tcp(tcp), &tls)
        };
        Self {
            any: client(Addresses::Any),
            loopback: client(Addresses::Loopback),
            public: client(Addresses::Public),
        }
    }

    /// A client whose every connection is a pipe that comes out of `accept`, whatever the URL's host, so that time can
    /// be simulated. Pipes have no addresses: what [`Reach`] says of resolved ones is not checked.
    #[must_use]
    pub fn with_memory(accept: mpsc::Sender<DuplexStream>) -> Self {
        let client = over(Connector::Memory(accept), &tls(RootCertStore::empty()));
        Self {
            any: client.clone(),
            loopback: client.clone(),
            public: client,
        }
    }

    /// Sends a request and takes its whole answer, whatever its status, redirects excepted.
    ///
    /// # Errors
    ///
    /// If there is no answer within the limits and the reach.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        reach: Reach,
        limits: Limits,
    ) -> Result<Response<Bytes>, OutboundError> {
        let addresses = addresses(request.uri(), reach)?;
        let client = match addresses {
            Addresses::Any => &self.any,
            Addresses::Loopback => &self.loopback,
            Addresses::Public => &self.public,
        };
        let answer = exchange(client, request.map(Full::new), limits.max_answer);
        tokio::time::timeout(limits.timeout, answer)
            .await
            .map_err(|_| OutboundError::Timeout)?
    }

    /// Sends a GET, as [`Outbound::send`].
    ///
    /// # Errors
    ///
    /// As [`Outbound::send`].
    pub async fn get(
        &self,
        url: &Uri,
        reach: Reach,
        limits: Limits,
    ) -> Result<Response<Bytes>, OutboundError> {
        let request = Request::get(url.clone())
            .header("accept", "application/json")
            .body(Bytes::new())
            .map_err(|_| OutboundError::Url)?;
        self.send(request, reach, limits).await
    }
}

/// `retry-after-ms` if there, else `retry-after` in seconds (protocol reference 1.5).
#[must_use]
pub fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u32>().ok();
    number("retry-after-ms")
        .map(|ms| Duration::from_millis(ms.into()))
        .or_else(|| number("retry-after").map(|seconds| Duration::from_secs(seconds.into())))
}

fn tls(roots: RootCertStore) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn over(connector: Connector, tls: &rustls::ClientConfig) -> HttpClient {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Where connections come from.
#[derive(Clone, Debug)]
enum Connector {
    Tcp(HttpConnector<Resolver>),
    /// The far end of each is sent there.
    Memory(mpsc::Sender<DuplexStream>),
}

/// Bytes that a pipe holds each way.
const PIPE: usize = 64 * 1024;

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_ready(cx).map_err(Into::into),
            Self::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        match self {
            Self::Tcp(tcp) => {
                let connecting = tcp.call(url);
                Box::pin(async move {
                    let tcp = connecting.await?.into_inner();
                    Ok(Connection(TokioIo::new(Transport::Tcp(tcp))))
                })
            }
            Self::Memory(accept) => {
                let accept = accept.clone();
                Box::pin(async move {
                    let (ours, theirs) = tokio::io::duplex(PIPE);
                    accept.send(theirs).await?;
                    Ok(Connection(TokioIo::new(Transport::Memory(ours))))
                })
            }
        }
    }
}

/// A [`Transport`] as the HTTP client wants it.
struct Connection(TokioIo<Transport>);

impl hyper::rt::Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl connect::Connection for Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

async fn exchange(
    client: &HttpClient,
    request: Request<Full<Bytes>>,
    max_answer: usize,
) -> Result<Response<Bytes>, OutboundError> {
    let answer = client.request(request).await.map_err(|error| {
        if is_caused_by::<NoAddress>(&error) {
            OutboundError::Forbidden
        } else {
            OutboundError::Unreachable
        }
    })?;
    let (head, body) = answer.into_parts();
    if head.status.is_redirection() {
        return Err(OutboundError::Redirect(head.status.as_u16()));
    }
    let body = Limited::new(body, max_answer).collect().await;
    let body = body.map_err(|_| OutboundError::Answer)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Which addresses a URL may lead to. Literal addresses are checked here, because they are not looked up.
fn addresses(url: &Uri, reach: Reach) -> Result<Addresses, OutboundError> {
    let host = url.host().ok_or(OutboundError::Url)?;
    let addresses = match (url.scheme_str(), reach) {
        (Some("http" | "https"), Reach::Any) | (Some("https"), Reach::Secure) => Addresses::Any,
        (Some("http"), Reach::Secure) => Addresses::Loopback,
        (Some("https"), Reach::Public) => Addresses::Public,
        (Some("http"), Reach::Public) => return Err(OutboundError::PlainText),
        _ => return Err(OutboundError::Url),
    };
    match host.trim_matches(['[', ']']).parse() {
        Ok(ip) if addresses.allow(ip) => Ok(addresses),
        Ok(_) if addresses == Addresses::Loopback => Err(OutboundError::PlainText),
        Ok(_) => Err(OutboundError::Forbidden),
        Err(_) => Ok(addresses),
    }
}

/// A rule for resolved addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    Any,
    Loopback,
    Public,
}

impl Addresses {
    fn allow(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Loopback => ip.to_canonical().is_loopback(),
            Self::Public => is_public(ip),
        }
    }
}

/// Looks names up and leaves out what its rule does not allow. The connection is made to what is left, not to what
/// a second look-up would say.
#[derive(Clone, Copy, Debug)]
struct Resolver {
    addresses: Addresses,
}

/// A name leads to no address that is allowed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no address of that name may be asked")]
struct NoAddress;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let rule = self.addresses;
        Box::pin(async move {
            // The connector puts the URL's port in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|found| rule.allow(found.ip())).collect();
            if allowed.is_empty() {
                return Err(NoAddress.into());
            }
            Ok(allowed.into_iter())
        })
    }
}

/// Whether an address belongs to the public internet: not this machine, its link, a private network, a carrier's
/// (RFC 6598), nor anything else that the IANA special-purpose registries keep from global reach. An IPv6 address
/// that stands for an IPv4 address is what that is.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        // This network, carriers' NAT, protocol assignments, benchmarks, reserved and broadcast.
        (0 | 240..=255, _, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _)
    );
    !(special
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match ip.segments() {
        // Mapped, compatible (`::` and `::1` among them), and NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        // Local NAT64 (RFC 8215), Teredo, documentation.
        [0x64, 0xff9b, ..] | [0x2001, 0 | 0xdb8, ..] => false,
        // What is global unicast: not unique local, link-local, site-local, multicast or unassigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::task::TaskTracker;

    use super::*;

    const LIMITS: Limits = Limits {
        timeout: Duration::from_secs(20),
        max_answer: 16,
    };

    #[test]
    fn private_addresses_are_known() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::",
            "2606:4700::1111",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn who_wrote_a_url_decides_where_it_may_lead() {
        let check = |url: &str, reach, expected| {
            assert_eq!(addresses(&url.parse().unwrap(), reach), expected, "{url}");
        };
        check("http://10.0.0.1/x", Reach::Any, Ok(Addresses::Any));
        check("https://10.0.0.1/x", Reach::Secure, Ok(Addresses::Any));
        check("http://127.0.0.1/x", Reach::Secure, Ok(Addresses::Loopback));
        check("http://[::1]/x", Reach::Secure, Ok(Addresses::Loopback));
        check(
            "http://idp.example/x",
            Reach::Secure,
            Ok(Addresses::Loopback),
        );
        check("https://idp.example", Reach::Public, Ok(Addresses::Public));
        let plain = Err(OutboundError::PlainText);
        check("http://10.0.0.1/x", Reach::Secure, plain);
        check("http://idp.example/x", Reach::Public, plain);
        let forbidden = Err(OutboundError::Forbidden);
        check("https://169.254.169.254/x", Reach::Public, forbidden);
        check("https://[::ffff:10.0.0.1]/", Reach::Public, forbidden);
        check("ftp://idp.example/x", Reach::Any, Err(OutboundError::Url));
        check("/x", Reach::Any, Err(OutboundError::Url));
    }

    /// Answers every request on a loopback port with these bytes; gives that port.
    async fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        TaskTracker::new().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
        });
        port
    }

    async fn get(url: String, reach: Reach, limits: Limits) -> Result<(u16, Bytes), OutboundError> {
        let outbound = Outbound::with_roots(RootCertStore::empty());
        let answer = outbound.get(&url.parse().unwrap(), reach, limits).await?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }

    #[tokio::test]
    async fn an_answer_comes_whole_whatever_its_status() {
        let port = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let url = format!("http://127.0.0.1:{port}/");
        let answer = get(url, Reach::Secure, LIMITS).await;
        assert_eq!(answer, Ok((200, Bytes::from("hi"))));
        let port = serve("HTTP/1.1 400 No\r\ncontent-length: 3\r\n\r\nbad").await;
        let url = format!("http://localhost:{port}/");
        let answer = get(url, Reach::Secure, LIMITS).await;
        assert_eq!(answer, Ok((400, Bytes::from("bad"))));
    }

    #[tokio::test]
    async fn redirects_and_long_answers_are_refused() {
        let port = serve(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let url = format!("http://127.0.0.1:{port}/");
        let answer = get(url, Reach::Any, LIMITS).await;
        assert_eq!(answer, Err(OutboundError::Redirect(302)));
        let port = serve("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n0123456789abcdefX").await;
        let url = format!("http://127.0.0.1:{port}/");
        let answer = get(url, Reach::Any, LIMITS).await;
        assert_eq!(answer, Err(OutboundError::Answer));
    }

    #[tokio::test]
    async fn silence_ends_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let limits = Limits {
            timeout: Duration::from_millis(20),
            ..LIMITS
        };
        let url = format!("http://127.0.0.1:{port}/");
        let answer = get(url, Reach::Any, limits).await;
        assert_eq!(answer, Err(OutboundError::Timeout));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused_at_the_connection() {
        let port = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let url = format!("https://localhost:{port}/");
        let answer = get(url, Reach::Public, LIMITS).await;
        assert_eq!(answer, Err(OutboundError::Forbidden));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let answer = get("http://127.0.0.1:1/".to_owned(), Reach::Any, LIMITS).await;
        assert_eq!(answer, Err(OutboundError::Unreachable));
    }

    #[test]
    fn milliseconds_are_preferred() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", http::HeaderValue::from_static("7"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after-ms", http::HeaderValue::from_static("6500"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(6500)));
    }
}
