//! The operations page: its files, which everybody may have because they hold no data, and what it shows, which only
//! those get who may also ask the control service for it. Only reading: nothing here changes anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, HeaderName, IF_NONE_MATCH,
    LOCATION,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tonic::body::Body;

use crate::bridge::{TURN_STEP, TurnStep};
use crate::listener::{Gateway, RefusedCallers, secure};

use super::access::Right;
use super::control_json::{call_json, deployment_json};
use super::control_proto as proto;

/// Calls that are told at a time, the latest; whoever wants all asks the control service.
const MAX_CALLS: usize = 1000;

/// For so long the same picture is shown to everybody, so that many pages cost the gateway no more than one.
const PICTURE_LIFE: Duration = Duration::from_millis(500);

/// The page loads its own files and asks its own gateway, and makes no text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page, as it is in the binary.
struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const FILES: [File; 6] = [
    File {
        name: "",
        kind: "text/html; charset=utf-8",
        content: include_str!("page/index.html"),
    },
    File {
        name: "page.css",
        kind: "text/css; charset=utf-8",
        content: include_str!("page/page.css"),
    },
    File {
        name: "page.js",
        kind: SCRIPT,
        content: include_str!("page/page.js"),
    },
    File {
        name: "tables.js",
        kind: SCRIPT,
        content: include_str!("page/tables.js"),
    },
    File {
        name: "charts.js",
        kind: SCRIPT,
        content: include_str!("page/charts.js"),
    },
    File {
        name: "icon.svg",
        kind: "image/svg+xml",
        content: include_str!("page/icon.svg"),
    },
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// See the module's documentation.
pub(super) struct Ops {
    gateway: Arc<Gateway>,
    /// What was shown last, and when.
    picture: Mutex<Option<(Instant, Bytes)>>,
}

impl Ops {
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            picture: Mutex::default(),
        }
    }

    /// The answer to a GET, if it is for the page. Whether anything had to be shown decides by what name it may be asked.
    pub(super) fn answer<B>(
        &self,
        request: &Request<B>,
        right: Right,
        is_guarded: bool,
    ) -> Option<Response<Body>> {
        let path = request.uri().path();
        if path == "/" || path == "/ops" {
            return Some(redirect());
        }
        let name = path.strip_prefix("/ops/")?;
        if let Some(file) = FILES.iter().find(|file| file.name == name) {
            return Some(file.answer(request.headers()));
        }
        let call_id = name.strip_prefix("calls/");
        if name != "state" && call_id.is_none() {
            return None;
        }
        let wrong = match right {
            Right::Read => None,
            Right::Full if is_guarded || !is_asked_by_name(request) => None,
            Right::Full => Some((StatusCode::FORBIDDEN, "misdirected")),
            Right::None => Some((StatusCode::UNAUTHORIZED, "unauthorized")),
            Right::Public => Some((StatusCode::FORBIDDEN, "public")),
        };
        let body = match (wrong, call_id) {
            (Some((_, error)), _) => json!({ "error": error }).to_string().into(),
            (None, Some(call_id)) => self.call(call_id).to_string().into(),
            (None, None) => self.picture(),
        };
        let status = wrong.map_or(StatusCode::OK, |(status, _)| status);
        Some(data(status, body))
    }

    /// A live call with its timeline; null if there is none of that id any more.
    fn call(&self, call_id: &str) -> Value {
        let call = self.gateway.calls().find(call_id);
        let call = call.map(|call| call_json(&proto::Call::from(call.snapshot(true))));
        json!({ "call": call })
    }

    /// What there is to see, at most [`PICTURE_LIFE`] old.
    fn picture(&self) -> Bytes {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        match &*picture {
            Some((made, bytes)) if made.elapsed() < PICTURE_LIFE => bytes.clone(),
            _ => {
                let bytes = Bytes::from(state(&self.gateway).to_string());
                *picture = Some((Instant::now(), bytes.clone()));
                bytes
            }
        }
    }
}

impl File {
    /// It is kept by the browser, which asks each time whether it is another: a new release has its own page.
    fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let tag = Sha256::digest(self.content.as_bytes());
        let tag: String = tag[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = format!("\"{tag}\"");
        let known = headers.get(IF_NONE_MATCH);
        let is_known = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut answer = Response::new(match is_known {
            true => Body::empty(),
            false => Body::new(Full::from(self.content)),
        });
        if is_known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        secure(headers, false);
        set(headers, CONTENT_TYPE, self.kind);
        set(headers, CONTENT_SECURITY_POLICY, POLICY);
        set(headers, CACHE_CONTROL, "no-cache");
        set(headers, SAME_ORIGIN_RESOURCE, "same-origin");
        set(headers, SAME_ORIGIN_OPENER, "same-origin");
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        answer
    }
}

const SAME_ORIGIN_RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const SAME_ORIGIN_OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

fn redirect() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    secure(answer.headers_mut(), false);
    // Relative, so that it holds behind a path of somebody's choice.
    set(answer.headers_mut(), LOCATION, "ops/");
    answer
}

fn data(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    secure(headers, false);
    set(headers, CONTENT_TYPE, "application/json");
    set(headers, SAME_ORIGIN_RESOURCE, "same-origin");
    if status == StatusCode::UNAUTHORIZED {
        set(headers, http::header::WWW_AUTHENTICATE, "Bearer");
    }
    answer
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// Whether a name of somebody's choice stands where this machine's address or `localhost` should. Where nothing has to be
/// shown, a page of that name in a browser on this machine may have had the name resolved to loopback, and would be
/// of the same origin (DNS rebinding).
fn is_asked_by_name<B>(request: &Request<B>) -> bool {
    let uri = request.uri().host();
    let host = request.headers().get(HOST);
    let host = uri.or_else(|| host.and_then(|host| host.to_str().ok()));
    let Some(host) = host else {
        return true;
    };
    let Ok(host) = host.parse::<http::uri::Authority>() else {
        return true;
    };
    let host = host.host().trim_matches(['[', ']']);
    !host.eq_ignore_ascii_case("localhost") && host.parse::<std::net::IpAddr>().is_err()
}

/// Everything but the timelines.
fn state(gateway: &Gateway) -> Value {
    let live = gateway.calls().live();
    let calls: Vec<_> = latest(&live)
        .iter()
        .map(|call| call_json(&proto::Call::from(call.snapshot(false))))
        .collect();
    let deployments = gateway.deployments().into_iter();
    let deployments: Vec<_> = deployments
        .map(|deployment| deployment_json(&deployment.into()))
        .collect();
    let now = SystemTime::now();
    let refusals = gateway.refusals();
    let refusals: Vec<_> = refusals.iter().map(|it| refusal_json(it, now)).collect();
    let turns = gateway.calls().recent_turns();
    let turns: Vec<_> = turns.iter().map(turn_step_json).collect();
    json!({
        "gateway": {
            "version": env!("CARGO_PKG_VERSION"),
            "draining": gateway.is_draining(),
            "stalled": gateway.is_stalled(),
            "calls": gateway.calls().active(),
            "calls_limit": gateway.calls().limit(),
        },
        "live": live.len(),
        "calls": calls,
        "deployments": deployments,
        "refusals": refusals,
        "turn_step_ms": TURN_STEP.as_millis(),
        "turns": turns,
    })
}

/// Of calls in the order in which they began, as many of the last as are told.
fn latest<T>(calls: &[T]) -> &[T] {
    &calls[calls.len().saturating_sub(MAX_CALLS)..]
}

/// Ages instead of moments, because the page's clock is another.
fn refusal_json(refused: &RefusedCallers, now: SystemTime) -> Value {
    let ago = |then: SystemTime| now.duration_since(then).unwrap_or_default().as_secs();
    json!({
        "route": refused.route,
        "tenant": refused.tenant.as_deref(),
        "status": refused.status,
        "reason": refused.reason,
        "cause": refused.cause,
        "times": refused.times,
        "first_s": ago(refused.first_at),
        "last_s": ago(refused.last_at),
    })
}

fn turn_step_json(step: &TurnStep) -> Value {
    json!({
        "ago_s": step.began_ago.as_secs_f64(),
        "turns": step.n_turns,
        "p50_ms": step.p50.as_millis(),
        "p95_ms": step.p95.as_millis(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_name_for_this_machine_is_seen() {
        let check = |host: &str, expected| {
            let mut request = Request::new(());
            if !host.is_empty() {
                let host = host.parse().expect("a header");
                request.headers_mut().insert(HOST, host);
            }
            assert_eq!(is_asked_by_name(&request), expected, "{host:?}");
        };
        for host in [
            "127.0.0.1:9100",
            "localhost:9100",
            "LOCALHOST",
            "[::1]:9100",
            "10.0.0.7",
        ] {
            check(host, false);
        }
        for host in ["", "rebound.example:9100", "localhost.example", "a b"] {
            check(host, true);
        }
    }

    #[test]
    fn the_latest_calls_are_told() {
        let check = |n: usize, expected: std::ops::Range<usize>| {
            let calls: Vec<usize> = (0..n).collect();
            assert_eq!(latest(&calls), Vec::from_iter(expected), "{n}");
        };
        check(0, 0..0);
        check(999, 0..999);
        check(1000, 0..1000);
        check(1001, 1..1001);
        check(5000, 4000..5000);
    }

    #[test]
    fn what_the_page_loads_is_in_the_binary() {
        let page = &FILES[0];
        let named = |text: &'static str, around: [&'static str; 2]| {
            let parts = text.split(around[0]).skip(1);
            parts.filter_map(move |part| part.split_once(around[1]).map(|(name, _)| name))
        };
        let loaded: Vec<_> = named(page.content, ["src=\"", "\""])
            .chain(named(page.content, ["href=\"", "\""]))
            .filter(|name| !name.starts_with('#'))
            .chain(
                FILES
                    .iter()
                    .flat_map(|it| named(it.content, ["from \"./", "\""])),
            )
            .collect();
        assert!(loaded.len() >= 5, "{loaded:?}");
        for name in loaded {
            assert!(FILES.iter().any(|file| file.name == name), "{name}");
        }
        for file in &FILES {
            let risky = [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "style=\"",
                "onclick=",
            ];
            for word in risky {
                assert!(!file.content.contains(word), "{} {word}", file.name);
            }
        }
    }
}
