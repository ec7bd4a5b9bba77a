//! The HTTP client under the identity library: hyper and rustls as everywhere else in the gateway.
//!
//! Follows no redirect, bounds the answer, speaks plain text with this machine and its link only, and turns every
//! refusal into numbers before the library can put the answer's text into an error. Time limits are the caller's.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Method, Request, StatusCode, Url};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use crate::outbound::{is_loopback, retry_after};
use crate::transport::system_roots;

use super::dial_error::label;
use super::token_keeper::FetchError;

/// The longest answer; a token has a few kilobytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Ten years. The identity library adds what the endpoint says to the current time, and panics on absurd numbers.
const MAX_LIFE_SECONDS: i64 = 10 * 365 * 24 * 3600;

/// Sends the identity library's requests.
#[derive(Clone)]
pub(super) struct TokenHttp {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    reroute: Option<Reroute>,
}

/// Requests to one origin go to another: the library takes no address but the metadata service's own, and no authority
/// but by `https`.
#[derive(Clone, Debug)]
pub(super) struct Reroute {
    pub(super) from: String,
    pub(super) to: String,
}

impl fmt::Debug for TokenHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenHttp").finish_non_exhaustive()
    }
}

impl TokenHttp {
    /// A client that trusts the system's certificate authorities.
    ///
    /// # Panics
    ///
    /// Never: ring supports the default protocol versions.
    pub(super) fn new(reroute: Option<Reroute>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(system_roots())
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            reroute,
        }
    }

    async fn send(&self, request: &Request) -> Result<(u16, Bytes), FetchError> {
        let request = self.translate(request)?;
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|_| FetchError::Unreachable)?;
        let status = answer.status().as_u16();
        let retry_after = retry_after(answer.headers());
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|_| FetchError::Answer)?
            .to_bytes();
        if !(200..300).contains(&status) {
            return Err(FetchError::Refused {
                status,
                code: error_code(&body),
                retry_after,
            });
        }
        if !has_sane_life(&body) {
            return Err(FetchError::Answer);
        }
        Ok((status, body))
    }

    fn translate(&self, request: &Request) -> Result<http::Request<Full<Bytes>>, FetchError> {
        let url = request.url();
        let origin = url.origin().ascii_serialization();
        let origin = match &self.reroute {
            Some(reroute) if reroute.from == origin => &reroute.to,
            _ => &origin,
        };
        if !may_be_asked(origin) {
            return Err(FetchError::Plaintext);
        }
        let query = url
            .query()
            .map_or_else(String::new, |query| format!("?{query}"));
        let body = match request.body() {
            Body::Bytes(bytes) => bytes.clone(),
            // Uploads only.
            Body::SeekableStream(_) => return Err(FetchError::Library),
        };
        let method = match request.method() {
            Method::Post => http::Method::POST,
            _ => http::Method::GET,
        };
        let mut builder = http::Request::builder()
            .method(method)
            .uri(format!("{origin}{}{query}", url.path()));
        for (name, value) in request.headers().iter() {
            builder = builder.header(name.as_str(), value.as_str());
        }
        builder
            .body(Full::new(body))
            .map_err(|_| FetchError::Library)
    }
}

#[async_trait::async_trait]
impl HttpClient for TokenHttp {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        match self.send(request).await {
            Ok((status, body)) => Ok(AsyncRawResponse::from_bytes(
                StatusCode::from(status),
                Headers::new(),
                body,
            )),
            // Of a kind that the library does not try again by itself: when to try again is decided in one place.
            Err(error) => Err(azure_core::Error::new(ErrorKind::Other, error)),
        }
    }
}

/// Whether requests, which hold secrets, may go there: by TLS anywhere, in plain text to this machine and to the
/// link-local addresses of metadata services (RFC 3927).
pub(super) fn may_be_asked(origin: &str) -> bool {
    let Ok(url) = Url::parse(origin) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    // The metadata service of a cloud's machines is on the link (169.254.169.254).
    let is_link_local = host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_link_local());
    let is_local = is_loopback(host) || is_link_local;
    match url.scheme() {
        "https" => !host.is_empty(),
        "http" => is_local,
        _ => false,
    }
}

/// Entra's error numbers, or the OAuth error word (RFC 6749, 5.2).
fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        error_codes: Vec<u64>,
        error: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let numbers: Vec<String> = body.error_codes.iter().map(u64::to_string).collect();
    label(&numbers.join(".")).or_else(|| body.error.filter(|word| is_oauth_error(word)))
}

/// The words that Entra and metadata services use; anything else might be what we sent.
fn is_oauth_error(word: &str) -> bool {
    [
        "access_denied",
        "identity_not_found",
        "interaction_required",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_resource",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
    ]
    .contains(&word)
}

fn has_sane_life(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        expires_in: Option<serde_json::Value>,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return false;
    };
    match body.expires_in {
        Some(serde_json::Value::Number(n)) => n
            .as_i64()
            .is_some_and(|n| (0..=MAX_LIFE_SECONDS).contains(&n)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_out_in_plain_text_to_this_machine_only() {
        for (origin, expected) in [
            ("https://login.microsoftonline.com", true),
            ("https://10.0.0.1:8443", true),
            ("http://127.0.0.1:4000", true),
            ("http://[::1]:4000", true),
            ("http://localhost:42356", true),
            ("http://169.254.169.254", true),
            ("http://169.254.131.2:8081", true),
            ("http://login.microsoftonline.com", false),
            ("http://10.0.0.1", false),
            ("http://localhost.example.com", false),
            ("http://[fe80::1]", false),
            ("ftp://127.0.0.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(may_be_asked(origin), expected, "{origin}");
        }
    }

    #[test]
    fn answers_are_read_without_trust() {
        let check = |body: &str, expected: Option<&str>| {
            assert_eq!(error_code(body.as_bytes()).as_deref(), expected, "{body}");
        };
        check(
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: secret","error_codes":[7000215,1]}"#,
            Some("7000215.1"),
        );
        check(r#"{"error":"invalid_request"}"#, Some("invalid_request"));
        check(r#"{"error":"the-secret-that-was-sent"}"#, None);
        check(r#"{"error":{"code":"x"}}"#, None);
        check("<html>", None);
        for (body, expected) in [
            (r#"{"expires_in":3599}"#, true),
            (r#"{"expires_in":"3599"}"#, true),
            (r#"{}"#, true),
            (r#"{"expires_in":-1}"#, false),
            (r#"{"expires_in":9223372036854775807}"#, false),
            (r#"{"expires_in":1e300}"#, false),
            ("[]", false),
            ("", false),
        ] {
            assert_eq!(has_sane_life(body.as_bytes()), expected, "{body}");
        }
    }
}
