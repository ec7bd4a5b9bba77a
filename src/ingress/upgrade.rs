//! Checks the HTTP request that wants to become a WebSocket (RFC 6455 section 4.2.1), strictly.
//!
//! A WebSocket library's own accept function takes requests with no `Host` or two, short or double
//! keys, bodies and transfer encodings; what two parsers read differently, somebody smuggles. Whether
//! an `Origin` may call is policy, and answered elsewhere.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Most subprotocols that are looked at. Known clients offer up to five.
const MAX_PROTOCOLS: usize = 16;

/// A request that may become a WebSocket.
#[derive(Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Accept` to answer with.
    pub accept: String,
    /// The subprotocols offered, in the client's order. They may carry keys: never log them.
    pub protocols: Vec<String>,
    /// Who runs the page that calls, if a browser does.
    pub origin: Option<String>,
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade")
            .field("n_protocols", &self.protocols.len())
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UpgradeError {
    /// Another method than GET.
    #[error("only GET can be upgraded")]
    NotGet,
    /// Another version than HTTP/1.1.
    #[error("only HTTP/1.1 can be upgraded")]
    NotHttp11,
    /// A target with scheme and host, or none that is a path.
    #[error("the request target is not a path")]
    NotOriginForm,
    /// Not exactly one usable `Host`.
    #[error("exactly one valid Host is needed")]
    BadHost,
    /// A body, or a promise of one.
    #[error("an upgrade has no body")]
    HasBody,
    /// No `Upgrade` at all: an ordinary request to a WebSocket's path.
    #[error("this path speaks WebSocket only")]
    NotUpgrade,
    /// An `Upgrade` to something else, or to several things.
    #[error("Upgrade must be websocket, alone")]
    BadUpgrade,
    /// `Connection` does not name `upgrade`.
    #[error("Connection must name upgrade")]
    BadConnection,
    /// Another `Sec-WebSocket-Version` than 13.
    #[error("only version 13 of the WebSocket protocol is spoken")]
    BadVersion,
    /// Not exactly one `Sec-WebSocket-Key` of 16 bytes.
    #[error("exactly one Sec-WebSocket-Key of 16 bytes is needed")]
    BadKey,
    /// `Sec-WebSocket-Protocol` is not a list of different tokens.
    #[error("Sec-WebSocket-Protocol is not a list of tokens")]
    BadProtocols,
    /// More than one `Origin`, or one that is no text.
    #[error("at most one valid Origin is allowed")]
    BadOrigin,
}

impl UpgradeError {
    /// The error's name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotGet => "not_get",
            Self::NotHttp11 => "not_http11",
            Self::NotOriginForm => "not_origin_form",
            Self::BadHost => "bad_host",
            Self::HasBody => "has_body",
            Self::NotUpgrade => "not_upgrade",
            Self::BadUpgrade => "bad_upgrade",
            Self::BadConnection => "bad_connection",
            Self::BadVersion => "bad_version",
            Self::BadKey => "bad_key",
            Self::BadProtocols => "bad_protocols",
            Self::BadOrigin => "bad_origin",
        }
    }

    /// The HTTP status to refuse with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NotGet => 405,
            Self::NotHttp11 => 505,
            Self::NotUpgrade | Self::BadVersion => 426,
            Self::NotOriginForm
            | Self::BadHost
            | Self::HasBody
            | Self::BadUpgrade
            | Self::BadConnection
            | Self::BadKey
            | Self::BadProtocols
            | Self::BadOrigin => 400,
        }
    }

    /// A header that tells the client what would be right (RFC 9110 sections 15.5.6 and 15.5.22,
    /// RFC 6455 section 4.4).
    #[must_use]
    pub const fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::NotGet => Some(("allow", "GET")),
            Self::NotUpgrade => Some(("upgrade", "websocket")),
            Self::BadVersion => Some(("sec-websocket-version", "13")),
            Self::NotHttp11
            | Self::NotOriginForm
            | Self::BadHost
            | Self::HasBody
            | Self::BadUpgrade
            | Self::BadConnection
            | Self::BadKey
            | Self::BadProtocols
            | Self::BadOrigin => None,
        }
    }
}

/// Checks a request head. Extensions are not looked at: none is ever negotiated.
///
/// # Errors
///
/// The first rule that is broken. After a refusal the connection should be closed.
pub fn check(
    method: &Method,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Upgrade, UpgradeError> {
    ensure(method == Method::GET, UpgradeError::NotGet)?;
    ensure(version == Version::HTTP_11, UpgradeError::NotHttp11)?;
    let is_path =
        uri.scheme().is_none() && uri.authority().is_none() && uri.path().starts_with('/');
    ensure(is_path, UpgradeError::NotOriginForm)?;
    check_host(headers)?;
    check_no_body(headers)?;
    ensure(headers.contains_key(UPGRADE), UpgradeError::NotUpgrade)?;
    let upgrades = list(headers, &UPGRADE).ok_or(UpgradeError::BadUpgrade)?;
    let is_websocket = matches!(&upgrades[..], [only] if only.eq_ignore_ascii_case("websocket"));
    ensure(is_websocket, UpgradeError::BadUpgrade)?;
    let connection = list(headers, &CONNECTION).ok_or(UpgradeError::BadConnection)?;
    let says_upgrade = connection
        .iter()
        .any(|option| option.eq_ignore_ascii_case("upgrade"));
    ensure(says_upgrade, UpgradeError::BadConnection)?;
    let version = single(headers, &SEC_WEBSOCKET_VERSION);
    ensure(version == Some("13"), UpgradeError::BadVersion)?;
    Ok(Upgrade {
        accept: accept(headers)?,
        protocols: protocols(headers)?.into_iter().map(str::to_owned).collect(),
        origin: origin(headers)?,
    })
}

/// The subprotocols that a client offers, in its order. They may carry keys.
///
/// # Errors
///
/// [`UpgradeError::BadProtocols`] if they are not a short list of different tokens.
pub fn protocols(headers: &HeaderMap) -> Result<Vec<&str>, UpgradeError> {
    let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL).ok_or(UpgradeError::BadProtocols)?;
    let differ = (1..offered.len()).all(|i| !offered[..i].contains(&offered[i]));
    let valid = offered.len() <= MAX_PROTOCOLS && differ && offered.iter().all(|p| is_token(p));
    ensure(valid, UpgradeError::BadProtocols)?;
    Ok(offered)
}

fn check_host(headers: &HeaderMap) -> Result<(), UpgradeError> {
    let host = single(headers, &HOST).ok_or(UpgradeError::BadHost)?;
    let authority: Authority = host.parse().map_err(|_| UpgradeError::BadHost)?;
    let is_plain = !authority.host().is_empty() && !host.contains('@');
    ensure(is_plain, UpgradeError::BadHost)
}

fn check_no_body(headers: &HeaderMap) -> Result<(), UpgradeError> {
    let announces = [TRANSFER_ENCODING, TRAILER]
        .iter()
        .any(|name| headers.contains_key(name));
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    let is_empty = match &lengths[..] {
        [] => true,
        [length] => length.as_bytes() == b"0",
        _ => false,
    };
    ensure(!announces && is_empty, UpgradeError::HasBody)
}

fn accept(headers: &HeaderMap) -> Result<String, UpgradeError> {
    let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(UpgradeError::BadKey)?;
    let n_bytes = STANDARD.decode(key).map(|bytes| bytes.len());
    ensure(n_bytes == Ok(16), UpgradeError::BadKey)?;
    Ok(derive_accept_key(key.as_bytes()))
}

fn origin(headers: &HeaderMap) -> Result<Option<String>, UpgradeError> {
    if !headers.contains_key(ORIGIN) {
        return Ok(None);
    }
    let origin = single(headers, &ORIGIN).ok_or(UpgradeError::BadOrigin)?;
    Ok(Some(origin.to_owned()))
}

/// The value of a header that is there exactly once and is visible ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    (values.next().is_none() && !first.is_empty()).then_some(first)
}

/// The members of a header that is a list, from all its lines; `None` if one of them is no text.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    let mut members = Vec::new();
    for value in headers.get_all(name) {
        members.extend(value.to_str().ok()?.split(',').map(str::trim));
    }
    Some(members)
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn ensure(holds: bool, error: UpgradeError) -> Result<(), UpgradeError> {
    if holds { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("host", "voice.example.com:8443"),
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers<'a>(lines: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn check_headers(lines: &[(&str, &str)]) -> Result<Upgrade, UpgradeError> {
        check(
            &Method::GET,
            Version::HTTP_11,
            &Uri::from_static("/v1/audio/desk?x=1"),
            &headers(lines),
        )
    }

    /// A good request with one header replaced, or left out if the value is empty.
    fn check_with(name: &str, value: &str, expected: Result<(), UpgradeError>) {
        let mut lines: Vec<_> = GOOD.iter().copied().filter(|line| line.0 != name).collect();
        if !value.is_empty() {
            lines.push((name, value));
        }
        assert_eq!(
            check_headers(&lines).map(|_| ()),
            expected,
            "{name}: {value}"
        );
    }

    /// A good request with one line more.
    fn check_more(name: &str, value: &str, expected: Result<(), UpgradeError>) {
        let lines = [GOOD, &[(name, value)]].concat();
        assert_eq!(
            check_headers(&lines).map(|_| ()),
            expected,
            "{name}: {value}"
        );
    }

    #[test]
    fn a_good_request_is_accepted() {
        let lines = [
            GOOD,
            &[
                ("origin", "https://shop.example.com"),
                (
                    "sec-websocket-protocol",
                    "realtime, openai-insecure-api-key.sk-1",
                ),
                ("sec-websocket-protocol", "openai-beta.realtime-v1"),
            ],
        ]
        .concat();
        let upgrade = check_headers(&lines).unwrap();
        // The example of RFC 6455 section 1.3.
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(upgrade.origin.as_deref(), Some("https://shop.example.com"));
        assert_eq!(upgrade.protocols.len(), 3);
        assert!(!format!("{upgrade:?}").contains("sk-1"));
    }

    #[test]
    fn each_header_is_needed_once_and_right() {
        use UpgradeError::*;
        check_with("host", "", Err(BadHost));
        check_with("host", "a b", Err(BadHost));
        check_with("host", "user@a", Err(BadHost));
        check_with("host", "[::1]:80", Ok(()));
        check_more("host", "voice.example.com:8443", Err(BadHost));
        check_with("upgrade", "", Err(NotUpgrade));
        check_with("upgrade", "h2c", Err(BadUpgrade));
        check_with("upgrade", "websocket, h2c", Err(BadUpgrade));
        check_more("upgrade", "h2c", Err(BadUpgrade));
        check_with("connection", "", Err(BadConnection));
        check_with("connection", "keep-alive", Err(BadConnection));
        check_with("connection", "upgraded", Err(BadConnection));
        check_with("sec-websocket-version", "", Err(BadVersion));
        check_with("sec-websocket-version", "8", Err(BadVersion));
        check_more("sec-websocket-version", "13", Err(BadVersion));
        check_with("sec-websocket-key", "", Err(BadKey));
        check_with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", Err(BadKey));
        check_with("sec-websocket-key", "c2hvcnQ=", Err(BadKey));
        check_with("sec-websocket-key", "!!!!IHNhbXBsZSBub25jZQ==", Err(BadKey));
        check_more("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==", Err(BadKey));
    }

    #[test]
    fn bodies_and_odd_lists_are_refused() {
        use UpgradeError::*;
        check_more("content-length", "0", Ok(()));
        check_more("content-length", "1", Err(HasBody));
        check_more("content-length", "00", Err(HasBody));
        check_more("transfer-encoding", "chunked", Err(HasBody));
        check_more("trailer", "x", Err(HasBody));
        check_more("sec-websocket-protocol", "a,,b", Err(BadProtocols));
        check_more("sec-websocket-protocol", "a, a", Err(BadProtocols));
        check_more("sec-websocket-protocol", "a b", Err(BadProtocols));
        let many: Vec<_> = (0..=MAX_PROTOCOLS).map(|i| format!("p{i}")).collect();
        check_more("sec-websocket-protocol", &many[1..].join(","), Ok(()));
        check_more("sec-websocket-protocol", &many.join(","), Err(BadProtocols));
        let lines = [GOOD, &[("origin", "https://a"), ("origin", "https://b")]].concat();
        assert_eq!(check_headers(&lines), Err(BadOrigin));
    }

    #[test]
    fn the_request_line_is_checked() {
        let run = |method: Method, version, uri: &'static str| {
            check(&method, version, &Uri::from_static(uri), &headers(GOOD)).map(|_| ())
        };
        let v11 = Version::HTTP_11;
        assert_eq!(run(Method::GET, v11, "/"), Ok(()));
        assert_eq!(run(Method::POST, v11, "/"), Err(UpgradeError::NotGet));
        assert_eq!(
            run(Method::GET, Version::HTTP_10, "/"),
            Err(UpgradeError::NotHttp11)
        );
        assert_eq!(
            run(Method::GET, Version::HTTP_2, "/"),
            Err(UpgradeError::NotHttp11)
        );
        assert_eq!(
            run(Method::GET, v11, "http://a/"),
            Err(UpgradeError::NotOriginForm)
        );
        assert_eq!(
            run(Method::GET, v11, "a:80"),
            Err(UpgradeError::NotOriginForm)
        );
        assert_eq!(run(Method::GET, v11, "*"), Err(UpgradeError::NotOriginForm));
    }

    proptest! {
        #[test]
        fn total_over_header_values(index in 0..GOOD.len(), value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut headers = headers(GOOD);
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.insert(GOOD[index].0, value.clone());
                headers.insert(SEC_WEBSOCKET_PROTOCOL, value.clone());
                headers.insert(ORIGIN, value);
                let _ = check(&Method::GET, Version::HTTP_11, &Uri::from_static("/"), &headers);
            }
        }
    }
}
