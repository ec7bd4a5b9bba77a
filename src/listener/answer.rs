//! HTTP answers.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

use crate::ingress::upgrade::UpgradeError;
use crate::ingress::{ErrorStyle, Refusal};

/// What every request is answered with.
pub(super) type Answer = Response<Full<Bytes>>;

/// A refusal in the words of that style.
pub(super) fn refuse(refusal: &Refusal, style: ErrorStyle) -> Answer {
    let mut answer = body(refusal.status, refusal.body(style));
    for (name, value) in refusal.headers() {
        insert(&mut answer, name, &value);
    }
    insert(&mut answer, "connection", "close");
    answer
}

/// Why a request cannot become a WebSocket.
pub(super) fn refuse_upgrade(error: UpgradeError, style: ErrorStyle) -> Answer {
    let mut answer = refuse(
        &Refusal::new(error.status(), error.name(), error.to_string()),
        style,
    );
    if let Some((name, value)) = error.header() {
        insert(&mut answer, name, value);
    }
    answer
}

/// The answer that makes the connection a WebSocket.
pub(super) fn switch(accept: &str, subprotocol: Option<&str>) -> Answer {
    let mut answer = body(101, String::new());
    insert(&mut answer, CONNECTION.as_str(), "Upgrade");
    insert(&mut answer, UPGRADE.as_str(), "websocket");
    insert(&mut answer, SEC_WEBSOCKET_ACCEPT.as_str(), accept);
    if let Some(subprotocol) = subprotocol {
        insert(&mut answer, SEC_WEBSOCKET_PROTOCOL.as_str(), subprotocol);
    }
    answer
}

/// Adds the ids by which a caller can ask about this answer, upgrade or refusal: ours, and its own again.
pub(super) fn name(mut answer: Answer, call_id: &str, request_id: Option<&str>) -> Answer {
    insert(&mut answer, "x-request-id", call_id);
    if let Some(request_id) = request_id {
        insert(&mut answer, "x-ms-client-request-id", request_id);
    }
    answer
}

/// JSON that holds a secret, which nobody on the way may keep.
pub(super) fn json(status: u16, text: String) -> Answer {
    let mut answer = body(status, text);
    insert(&mut answer, CONTENT_TYPE.as_str(), "application/json");
    insert(&mut answer, CACHE_CONTROL.as_str(), "no-store");
    answer
}

/// TwiML, which may hold a ticket.
pub(super) fn xml(text: String) -> Answer {
    let mut answer = body(200, text);
    insert(&mut answer, CACHE_CONTROL.as_str(), "no-store");
    insert(
        &mut answer,
        CONTENT_TYPE.as_str(),
        "text/xml; charset=utf-8",
    );
    answer
}

/// Plain text.
pub(super) fn text(status: u16, text: &str) -> Answer {
    let mut answer = body(status, text.to_owned());
    insert(
        &mut answer,
        CONTENT_TYPE.as_str(),
        "text/plain; charset=utf-8",
    );
    answer
}

fn body(status: u16, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

fn insert(answer: &mut Answer, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        answer.headers_mut().insert(name, value);
    }
}
