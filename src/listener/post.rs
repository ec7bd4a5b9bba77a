//! Requests that are no upgrades: what they must be like, and their body.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming as Body};
use tokio::time::Instant;

use crate::auth::{Identity, Purpose, Shown};
use crate::ingress::{Credential, Refusal};

use super::desk::Desk;
use super::door::Peer;

impl Desk {
    /// Who asks for a credential by `request`, at what address, and its body, up to `max` bytes.
    ///
    /// # Errors
    ///
    /// The answer to give instead.
    pub(super) async fn posted_by(
        &self,
        route: &'static str,
        request: Request<Body>,
        max: usize,
        peer: &Peer,
    ) -> Result<(Identity, Uri, Bytes), Refusal> {
        let (head, body) = request.into_parts();
        if let Some(overload) = self.overload() {
            return Err(overload);
        }
        let credential = Credential::find(head.uri.query(), &head.headers)?;
        let shown = Shown {
            secret: credential.as_ref().map(Credential::secret),
            ..Shown::default()
        };
        let identity = self.identify(route, shown, Purpose::Mint, peer).await?;
        let by = Instant::now() + self.config.head_timeout;
        let body = self.read_post(&head.headers, body, max, by).await?;
        Ok((identity, head.uri, body))
    }

    /// The body of what a server has posted, up to `max` bytes, within the time for a request's head and no later
    /// than `by`.
    ///
    /// # Errors
    ///
    /// The answer to give instead.
    pub(super) async fn read_post(
        &self,
        headers: &HeaderMap,
        body: Body,
        max: usize,
        by: Instant,
    ) -> Result<Bytes, Refusal> {
        check_post(headers)?;
        let body = Limited::new(body, max).collect();
        let by = by.min(Instant::now() + self.config.head_timeout);
        match tokio::time::timeout_at(by, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(_)) => Err(Refusal::bad_request(
                "bad_body",
                "The body is too large or was cut off.",
            )),
            Err(_) => Err(Refusal::new(
                408,
                "request_timeout",
                "The body came too slowly.",
            )),
        }
    }
}

/// Only servers post here, so no page of whatever origin may; and what two parsers read differently, somebody
/// smuggles.
fn check_post(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::origin_refused());
    }
    let count = |name: &HeaderName| headers.get_all(name).iter().count();
    let is_strict = count(&HOST) == 1
        && count(&CONTENT_TYPE) <= 1
        && count(&CONTENT_LENGTH) + count(&TRANSFER_ENCODING) <= 1;
    if is_strict {
        Ok(())
    } else {
        Err(Refusal::bad_request(
            "bad_request",
            "Host, Content-Type or what says how long the body is came twice, or there is no Host.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let check = |lines: &[(&str, &str)], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let refused = check_post(&headers).err();
            assert_eq!(refused.map(|refusal| refusal.code), expected, "{lines:?}");
        };
        let host = ("host", "a");
        check(&[host], None);
        check(
            &[host, ("content-length", "2"), ("content-type", "a/b")],
            None,
        );
        check(&[host, ("transfer-encoding", "chunked")], None);
        check(&[], Some("bad_request"));
        check(&[host, host], Some("bad_request"));
        check(
            &[host, ("content-length", "2"), ("content-length", "2")],
            Some("bad_request"),
        );
        check(
            &[
                host,
                ("content-length", "2"),
                ("transfer-encoding", "chunked"),
            ],
            Some("bad_request"),
        );
        check(
            &[host, ("content-type", "a/b"), ("content-type", "c/d")],
            Some("bad_request"),
        );
        check(
            &[host, ("origin", "https://a.example")],
            Some("origin_refused"),
        );
    }
}
