//! The signed request of a record, as Standard Webhooks (standardwebhooks.com, 1.0) has it.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri};
use ring::hmac;

use crate::outbound::{Limits, Outbound, OutboundError, Reach, retry_after};

use super::schedule::Verdict;

/// What a secret for HMAC begins with there.
pub(super) const SECRET_PREFIX: &str = "whsec_";

/// What the receiver says beside its status is not read; more than this is no answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Where records are sent.
#[derive(Clone)]
pub(super) struct Webhook {
    url: Uri,
    key: hmac::Key,
    timeout: Duration,
}

impl fmt::Debug for Webhook {
    /// Without the key; and a URL may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Webhook {
    pub(super) fn new(url: Uri, secret: &[u8], timeout: Duration) -> Self {
        Self {
            url,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            timeout,
        }
    }

    /// Sends a record once. `unix_seconds` is the time of the attempt.
    pub(super) async fn send(
        &self,
        outbound: &Outbound,
        id: &str,
        body: Bytes,
        unix_seconds: u64,
    ) -> Verdict {
        let Ok(request) = self.request(id, body, unix_seconds) else {
            return Verdict::of(Err(OutboundError::Url));
        };
        let limits = Limits {
            timeout: self.timeout,
            max_answer: MAX_ANSWER,
        };
        let answer = outbound.send(request, Reach::Any, limits).await;
        Verdict::of(answer.map(|answer| (answer.status(), retry_after(answer.headers()))))
    }

    fn request(&self, id: &str, body: Bytes, at: u64) -> http::Result<Request<Bytes>> {
        Request::post(self.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", "trunkline")
            .header("webhook-id", id)
            .header("webhook-timestamp", at)
            .header("webhook-signature", self.signature(id, at, &body))
            .body(body)
    }

    fn signature(&self, id: &str, at: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(format!("{id}.{at}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> Webhook {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let url = Uri::from_static("https://collector.example/calls?token=t");
        Webhook::new(url, &secret.expect("base64"), Duration::from_secs(1))
    }

    /// The vector of the reference libraries (standard-webhooks/standard-webhooks, `libraries/*/test`).
    #[test]
    fn the_signature_is_the_one_of_the_reference_libraries() {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = webhook().signature(id, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_request_says_whose_record_it_is() {
        let body = Bytes::from_static(b"{}");
        let request = webhook().request("call-1", body, 7).expect("a request");
        let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("webhook-id"), "call-1");
        assert_eq!(header("webhook-timestamp"), "7");
        assert!(header("webhook-signature").starts_with("v1,"));
        assert_eq!(header("content-type"), "application/json");
    }

    #[test]
    fn neither_key_nor_address_is_shown() {
        let shown = format!("{:?}", webhook());
        assert!(
            !shown.contains("token") && !shown.contains("key"),
            "{shown}"
        );
    }
}
