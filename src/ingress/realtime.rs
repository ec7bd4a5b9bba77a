//! The front door for clients that speak the Realtime API themselves, with an SDK or without.
//!
//! From path, query and headers of a request it learns what is asked for (model or deployment), which
//! shape of the protocol the client speaks, and what the client shows to be let in. References: chapter 1
//! of the protocol notes.
//!
//! It does not decide whether the credential is good, whether the model exists, or what goes upstream.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::realtime::Shape;

use super::{CredentialIn, ErrorStyle, Refusal, upgrade};

/// The only subprotocol that is ever selected.
const SUBPROTOCOL: &str = "realtime";

/// Prefix of the subprotocol in which browsers send a key (protocol reference 1.3).
const KEY_SUBPROTOCOL_PREFIX: &str = "openai-insecure-api-key.";

/// Subprotocol that asks for the preview shape (protocol reference 1.2).
const BETA_SUBPROTOCOL: &str = "openai-beta.realtime-v1";

/// Longest model or deployment name. Azure's are at most 64 characters, fine-tuned models' longer.
const MAX_MODEL_BYTES: usize = 256;

/// Longest credential: tokens with many groups reach some kilobytes.
const MAX_SECRET_BYTES: usize = 8 * 1024;

/// Longest request id that is echoed.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Most query parameters that are looked at.
const MAX_QUERY_PAIRS: usize = 64;

/// How Realtime requests are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrontDoor {
    /// Whether an `api-version` on the GA path of Azure is overlooked. The vendor answers 401.
    pub lenient_api_version: bool,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeRequest {
    /// The shape of events that it speaks.
    pub shape: Shape,
    /// Whose errors it understands.
    pub style: ErrorStyle,
    /// The model or deployment, as the client calls it. Transcription sessions may come without, and so may those
    /// whose credential says which it is.
    pub model: Option<String>,
    /// Whether a transcription session is asked for.
    pub transcription: bool,
    /// Whether the client is so old that leftovers of the first preview are to be expected.
    pub first_preview: bool,
    /// What it shows to be let in. Nothing here says that it is good.
    pub credential: Option<Credential>,
    /// The subprotocol to select in the answer.
    pub subprotocol: Option<&'static str>,
}

/// A secret that a client sent, with what is known about it from where it was.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// What it claims to be.
    pub kind: CredentialKind,
    /// Where it was found.
    pub carrier: Carrier,
    secret: String,
}

impl Credential {
    /// Finds what a request shows to be let in, on any route; headers win over subprotocols, those over
    /// the query.
    ///
    /// # Errors
    ///
    /// If a carrier is used in a way that no client uses it.
    pub fn find(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let query = Query::parse(query.unwrap_or_default())?;
        let protocols = upgrade::protocols(headers)
            .map_err(|error| Refusal::bad_request("invalid_subprotocol", error.to_string()))?;
        credential(headers, &protocols, &query)
    }

    /// The same for the callers of a dialect whose provider can show it only there.
    ///
    /// # Errors
    ///
    /// If a carrier is used in a way that no client uses it.
    pub fn find_in(
        place: CredentialIn,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, Refusal> {
        let own = match place {
            CredentialIn::Usual => None,
            CredentialIn::Query => return Self::find(query, &HeaderMap::new()),
            CredentialIn::NotJwt if shows_jwt(headers) => {
                return Self::find(query, &HeaderMap::new());
            }
            CredentialIn::NotJwt => None,
            CredentialIn::Header(name) => header_secret(headers, name)?.map(str::to_owned),
            CredentialIn::Basic => basic_password(headers)?,
        };
        let Some(secret) = own else {
            return Self::find(query, headers);
        };
        let mut usual = HeaderMap::new();
        let value = HeaderValue::from_str(&secret).map_err(|_| Refusal::unauthorized())?;
        usual.insert("api-key", value);
        Self::find(query, &usual)
    }

    /// The secret itself. Never to be logged, labelled or quoted.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("kind", &self.kind)
            .field("carrier", &self.carrier)
            .finish_non_exhaustive()
    }
}

/// What a secret claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A key.
    ApiKey,
    /// A bearer token: a JWT, or a key sent as one.
    Bearer,
    /// A short-lived key of ours or the vendor's (`ek_...`).
    Ephemeral,
    /// A ticket for one call (`tt_...`).
    Ticket,
}

/// Where a secret was found; headers win over subprotocols, those over the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// `api-key` or `Authorization`.
    Header,
    /// `Sec-WebSocket-Protocol`.
    Subprotocol,
    /// The query string.
    Query,
}

impl FrontDoor {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// The answer to give instead of the upgrade. Its texts quote nothing of the request.
    pub fn parse(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<RealtimeRequest, Refusal> {
        let route = Route::of(path).ok_or_else(Refusal::not_found)?;
        let query = Query::parse(query.unwrap_or_default())?;
        let protocols = upgrade::protocols(headers)
            .map_err(|error| Refusal::bad_request("invalid_subprotocol", error.to_string()))?;
        let api_version = query.get("api-version");
        if route == Route::AzureGa && api_version.is_some() && !self.lenient_api_version {
            return Err(Refusal::unauthorized());
        }
        if query.get("call_id").is_some() {
            return Err(Refusal::new(
                404,
                "call_not_found",
                "Sideband connections to a call are not supported.",
            ));
        }
        let transcription = query.get("intent") == Some("transcription");
        let wants_beta = protocols.contains(&BETA_SUBPROTOCOL) || has_beta_header(headers);
        let credential = credential(headers, &protocols, &query)?;
        let says_model = credential.as_ref().is_some_and(|credential| {
            matches!(
                credential.kind,
                CredentialKind::Ephemeral | CredentialKind::Ticket
            )
        });
        Ok(RealtimeRequest {
            shape: route.shape(wants_beta),
            style: route.style(),
            model: route.model(&query, transcription, says_model)?,
            transcription,
            first_preview: route == Route::AzurePreview
                && api_version.is_some_and(|version| version.starts_with("2024-")),
            credential,
            subprotocol: protocols.contains(&SUBPROTOCOL).then_some(SUBPROTOCOL),
        })
    }

    /// The client's own id of a request, to be echoed in whatever it is answered.
    #[must_use]
    pub fn request_id(query: Option<&str>, headers: &HeaderMap) -> Option<String> {
        let query = Query::parse(query.unwrap_or_default()).unwrap_or(Query(Vec::new()));
        request_id(headers, &query)
    }

    /// Whose errors a path's client understands, for refusals that come before or after `parse`.
    #[must_use]
    pub fn style_of(path: &str) -> ErrorStyle {
        Route::of(path).map_or(ErrorStyle::OpenAi, Route::style)
    }
}

/// The path, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    AzurePreview,
    AzureGa,
    OpenAi,
}

impl Route {
    /// Whatever stands before the known end is the base URL that a client was given.
    fn of(path: &str) -> Option<Self> {
        let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        match segments[..] {
            [.., "openai", "realtime"] => Some(Self::AzurePreview),
            [.., "openai", "v1", "realtime"] => Some(Self::AzureGa),
            [.., "v1", "realtime"] => Some(Self::OpenAi),
            _ => None,
        }
    }

    const fn shape(self, wants_beta: bool) -> Shape {
        match self {
            Self::AzurePreview => Shape::Preview,
            Self::AzureGa => Shape::Ga,
            Self::OpenAi if wants_beta => Shape::Preview,
            Self::OpenAi => Shape::Ga,
        }
    }

    const fn style(self) -> ErrorStyle {
        match self {
            Self::AzurePreview | Self::AzureGa => ErrorStyle::Azure,
            Self::OpenAi => ErrorStyle::OpenAi,
        }
    }

    /// The model or deployment that the query names; it may be missing where something else says which.
    fn model(
        self,
        query: &Query<'_>,
        transcription: bool,
        says_model: bool,
    ) -> Result<Option<String>, Refusal> {
        let (parameter, may_be_missing) = match self {
            Self::AzurePreview => {
                query.required("api-version")?;
                ("deployment", says_model)
            }
            Self::AzureGa | Self::OpenAi => ("model", says_model || transcription),
        };
        let name = match query.get(parameter) {
            None if may_be_missing => None,
            _ => Some(query.required(parameter)?),
        };
        if name.is_some_and(|name| name.len() > MAX_MODEL_BYTES || !is_visible(name)) {
            return Err(Refusal::bad_request(
                "invalid_model",
                "The model or deployment name is not valid.",
            ));
        }
        Ok(name.map(str::to_owned))
    }
}

/// The query's parameters, decoded.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// Parameters of a query that hold a credential, ours or a provider's: no part of what a call is about.
pub(super) const CREDENTIAL_PARAMETERS: [&str; 5] =
    ["api-key", "Authorization", "ticket", "token", "tok"];

/// Parameters that mean something here, and thus must not come twice.
const KNOWN_PARAMETERS: [&str; 9] = [
    "api-version",
    "deployment",
    "model",
    "intent",
    "call_id",
    "api-key",
    "Authorization",
    "ticket",
    "x-ms-client-request-id",
];

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Result<Self, Refusal> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .take(MAX_QUERY_PAIRS + 1)
            .collect();
        let repeats = |name: &&str| pairs.iter().filter(|(key, _)| key == name).count() > 1;
        if pairs.len() > MAX_QUERY_PAIRS || KNOWN_PARAMETERS.iter().any(repeats) {
            return Err(Refusal::bad_request(
                "invalid_query",
                "The query has too many parameters, or one of them twice.",
            ));
        }
        Ok(Self(pairs))
    }

    /// A parameter's value; an empty one counts as none.
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then_some(value)
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::bad_request(
                "missing_required_parameter",
                format!("Missing required query parameter: '{name}'."),
            )
        })
    }
}

fn has_beta_header(headers: &HeaderMap) -> bool {
    headers
        .get_all("openai-beta")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("realtime=v1"))
}

/// The strongest carrier's secret. An empty one is as good as none; an unusable one is refused rather
/// than passed over, lest a weaker carrier decide what the client did not mean.
fn credential(
    headers: &HeaderMap,
    protocols: &[&str],
    query: &Query<'_>,
) -> Result<Option<Credential>, Refusal> {
    let found = if let Some(key) = header_secret(headers, "api-key")? {
        Some((CredentialKind::ApiKey, Carrier::Header, key))
    } else if let Some(value) = header_secret(headers, AUTHORIZATION.as_str())? {
        bearer(value)?.map(|token| (CredentialKind::Bearer, Carrier::Header, token))
    } else {
        None
    };
    let found = found.or_else(|| {
        let key = protocols
            .iter()
            .find_map(|protocol| protocol.strip_prefix(KEY_SUBPROTOCOL_PREFIX))?;
        Some((CredentialKind::ApiKey, Carrier::Subprotocol, key))
    });
    let found = match (found, query.get("api-key"), query.get("Authorization")) {
        (Some(found), _, _) => Some(found),
        (None, Some(key), _) => Some((CredentialKind::ApiKey, Carrier::Query, key)),
        (None, None, Some(value)) => {
            bearer(value)?.map(|token| (CredentialKind::Bearer, Carrier::Query, token))
        }
        (None, None, None) => query
            .get("ticket")
            .map(|ticket| (CredentialKind::Ticket, Carrier::Query, ticket)),
    };
    let Some((kind, carrier, secret)) = found.filter(|(_, _, secret)| !secret.is_empty()) else {
        return Ok(None);
    };
    if secret.len() > MAX_SECRET_BYTES || !is_visible(secret) {
        return Err(Refusal::unauthorized());
    }
    let by_prefix = [
        ("ek_", CredentialKind::Ephemeral),
        ("tt_", CredentialKind::Ticket),
    ]
    .into_iter()
    .find_map(|(prefix, kind)| secret.starts_with(prefix).then_some(kind));
    // Where a ticket belongs, no key is looked for.
    if kind == CredentialKind::Ticket && by_prefix != Some(CredentialKind::Ticket) {
        return Err(Refusal::unauthorized());
    }
    Ok(Some(Credential {
        kind: by_prefix.unwrap_or(kind),
        carrier,
        secret: secret.to_owned(),
    }))
}

/// A header that holds a secret, if it is there, once, and not empty.
fn header_secret<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| Refusal::unauthorized())?.trim();
    if values.next().is_some() {
        return Err(Refusal::unauthorized());
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// Whether `Authorization` is a bearer token of three parts that begins as a JWT does.
fn shows_jwt(headers: &HeaderMap) -> bool {
    let value = headers.get(AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.trim().split_once(' '));
    token.is_some_and(|(_, token)| {
        let token = token.trim();
        token.starts_with("eyJ") && token.split('.').count() == 3
    })
}

/// The password of `Authorization: Basic` (RFC 7617 section 2). Whose it is, the password alone must tell.
fn basic_password(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = header_secret(headers, AUTHORIZATION.as_str())? else {
        return Ok(None);
    };
    let (scheme, encoded) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = STANDARD.decode(encoded.trim()).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let password = text.as_deref().and_then(|text| text.split_once(':'));
    let (_, password) = password.ok_or_else(Refusal::unauthorized)?;
    Ok(Some(password.to_owned()))
}

/// The token of a `Bearer` value; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(value: &str) -> Result<Option<&str>, Refusal> {
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::unauthorized());
    }
    Ok(Some(token.trim()).filter(|token| !token.is_empty()))
}

fn request_id(headers: &HeaderMap, query: &Query<'_>) -> Option<String> {
    const NAME: &str = "x-ms-client-request-id";
    let in_header = headers.get(NAME).and_then(|value| value.to_str().ok());
    in_header
        .or(query.get(NAME))
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && is_visible(id))
        .map(str::to_owned)
}

/// Whether a text is visible ASCII, and thus safe in a header, a log line and a URL.
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn parse(target: &str, lines: &[(&str, &str)]) -> Result<RealtimeRequest, Refusal> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        FrontDoor::default().parse(path, query, &headers(lines))
    }

    fn check_shape(target: &str, lines: &[(&str, &str)], shape: Shape, model: Option<&str>) {
        let request = parse(target, lines).unwrap();
        assert_eq!(
            (request.shape, request.model.as_deref()),
            (shape, model),
            "{target}"
        );
    }

    #[test]
    fn all_url_shapes_are_known() {
        use Shape::{Ga, Preview};
        let beta = &[("openai-beta", "realtime=v1")][..];
        let beta_protocol = &[(
            "sec-websocket-protocol",
            "realtime, openai-beta.realtime-v1",
        )][..];
        // U1
        check_shape(
            "/openai/realtime?api-version=2025-04-01-preview&deployment=d",
            &[],
            Preview,
            Some("d"),
        );
        check_shape(
            "//openai//realtime?api-version=2024-10-01-preview&deployment=d",
            &[],
            Preview,
            Some("d"),
        );
        check_shape(
            "/base/openai/realtime?api-version=v&deployment=d&model=m",
            beta,
            Preview,
            Some("d"),
        );
        // U2, U3
        check_shape(
            "/openai/v1/realtime?model=gpt-realtime",
            &[],
            Ga,
            Some("gpt-realtime"),
        );
        check_shape("/openai/v1/realtime?model=d", beta, Ga, Some("d"));
        check_shape("/openai/v1/realtime?intent=transcription", &[], Ga, None);
        // U5, U6
        check_shape("/v1/realtime?model=ft%3Ag%3Ax", &[], Ga, Some("ft:g:x"));
        check_shape("/v1/realtime?model=m", beta, Preview, Some("m"));
        check_shape("/v1/realtime?model=m", beta_protocol, Preview, Some("m"));
        check_shape("/tenant/v1/realtime?model=m&unknown=1", &[], Ga, Some("m"));
        check_shape(
            "/v1/realtime?intent=transcription&model=m",
            beta,
            Preview,
            Some("m"),
        );
    }

    #[test]
    fn first_preview_and_transcription_are_told() {
        let old = parse(
            "/openai/realtime?api-version=2024-10-01-preview&deployment=d",
            &[],
        )
        .unwrap();
        assert!(old.first_preview && old.style == ErrorStyle::Azure && !old.transcription);
        let new = parse(
            "/openai/realtime?api-version=2025-04-01-preview&deployment=d",
            &[],
        )
        .unwrap();
        assert!(!new.first_preview);
        let listener = parse("/v1/realtime?intent=transcription", &[]).unwrap();
        assert!(listener.transcription && listener.style == ErrorStyle::OpenAi);
    }

    #[test]
    fn refusals_are_named() {
        let check = |target: &str, status: u16, code: &str| {
            let refusal = parse(target, &[]).unwrap_err();
            assert_eq!((refusal.status, refusal.code), (status, code), "{target}");
        };
        check("/", 404, "not_found");
        check("/v1/realtime/translations?model=m", 404, "not_found");
        check("/openai/v1/live?model=m", 404, "not_found");
        check("/openai/v1/responses", 404, "not_found");
        check("/v1/realtime?call_id=rtc_1", 404, "call_not_found");
        check("/openai/v1/realtime?call_id=rtc_1", 404, "call_not_found");
        check(
            "/openai/v1/realtime?model=d&api-version=v",
            401,
            "invalid_api_key",
        );
        check(
            "/openai/realtime?deployment=d",
            400,
            "missing_required_parameter",
        );
        check(
            "/openai/realtime?api-version=v",
            400,
            "missing_required_parameter",
        );
        check("/v1/realtime", 400, "missing_required_parameter");
        check("/v1/realtime?model=", 400, "missing_required_parameter");
        check("/v1/realtime?model=a%0Ab", 400, "invalid_model");
        check("/v1/realtime?model=a&model=b", 400, "invalid_query");
        check(
            &format!("/v1/realtime?model=a{}", "&x=1".repeat(64)),
            400,
            "invalid_query",
        );
        let lenient = FrontDoor {
            lenient_api_version: true,
        };
        let query = Some("model=d&api-version=v");
        assert!(
            lenient
                .parse("/openai/v1/realtime", query, &HeaderMap::new())
                .is_ok()
        );
    }

    #[test]
    fn credentials_are_found_in_order() {
        use Carrier::{Header, Query, Subprotocol};
        use CredentialKind::{ApiKey, Bearer, Ephemeral, Ticket};
        let check = |query: &str, lines: &[(&str, &str)], expected| {
            let request = parse(&format!("/v1/realtime?model=m{query}"), lines).unwrap();
            let found = request.credential.as_ref();
            let found = found.map(|found| (found.kind, found.carrier, found.secret()));
            assert_eq!(found, expected, "{query} {lines:?}");
            assert!(!format!("{request:?}").contains("s3cret"));
        };
        let protocol = (
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.s3cret-p",
        );
        check("", &[], None);
        check(
            "",
            &[("api-key", "s3cret")],
            Some((ApiKey, Header, "s3cret")),
        );
        check(
            "",
            &[("authorization", "Bearer s3cret")],
            Some((Bearer, Header, "s3cret")),
        );
        check(
            "",
            &[("authorization", "bearer ek_s3cret")],
            Some((Ephemeral, Header, "ek_s3cret")),
        );
        check("", &[("authorization", "Bearer")], None);
        check("", &[protocol], Some((ApiKey, Subprotocol, "s3cret-p")));
        check(
            "&api-key=s3cret-q",
            &[protocol],
            Some((ApiKey, Subprotocol, "s3cret-p")),
        );
        check(
            "&api-key=s3cret-q",
            &[protocol, ("api-key", "s3cret")],
            Some((ApiKey, Header, "s3cret")),
        );
        check(
            "&api-key=s3cret-q",
            &[("api-key", "")],
            Some((ApiKey, Query, "s3cret-q")),
        );
        check(
            "&Authorization=Bearer%20s3cret",
            &[],
            Some((Bearer, Query, "s3cret")),
        );
        check(
            "&api-key=ek_s3cret",
            &[],
            Some((Ephemeral, Query, "ek_s3cret")),
        );
        check("&ticket=tt_s3cret", &[], Some((Ticket, Query, "tt_s3cret")));
        check(
            "",
            &[("authorization", "Bearer tt_s3cret")],
            Some((Ticket, Header, "tt_s3cret")),
        );
        check(
            "&ticket=tt_s3cret-q",
            &[("api-key", "s3cret")],
            Some((ApiKey, Header, "s3cret")),
        );
        let ephemeral = (
            "sec-websocket-protocol",
            "realtime,openai-insecure-api-key.ek_s3cret",
        );
        check(
            "",
            &[ephemeral],
            Some((Ephemeral, Subprotocol, "ek_s3cret")),
        );
    }

    #[test]
    fn unusable_credentials_are_not_passed_over() {
        let check = |query: &str, lines: &[(&str, &str)]| {
            let target = format!("/v1/realtime?model=m{query}");
            assert_eq!(
                parse(&target, lines),
                Err(Refusal::unauthorized()),
                "{query} {lines:?}"
            );
        };
        check("&api-key=k", &[("authorization", "Basic eDp5")]);
        check("", &[("api-key", "a"), ("api-key", "b")]);
        check("", &[("api-key", "a b")]);
        check("&Authorization=k", &[]);
        check("&ticket=k", &[]);
        check(
            &format!("&api-key={}", "k".repeat(MAX_SECRET_BYTES + 1)),
            &[],
        );
    }

    #[test]
    fn a_credential_may_say_which_model() {
        let azure = "/openai/realtime?api-version=v";
        for (target, key) in [
            ("/v1/realtime", "ek_k"),
            ("/openai/v1/realtime", "ek_k"),
            (azure, "ek_k"),
            ("/v1/realtime", "tt_k"),
        ] {
            let request = parse(target, &[("api-key", key)]).unwrap();
            assert_eq!(request.model, None, "{target}");
            let refusal = parse(target, &[("api-key", "k")]).unwrap_err();
            assert_eq!(refusal.code, "missing_required_parameter", "{target}");
        }
        let named = parse("/v1/realtime?model=m", &[("api-key", "ek_k")]).unwrap();
        assert_eq!(named.model.as_deref(), Some("m"));
        // On Azure's preview path the version is not the key's to say.
        assert!(parse("/openai/realtime?deployment=d", &[("api-key", "ek_k")]).is_err());
    }

    #[test]
    fn a_key_is_never_the_subprotocol() {
        let check = |offer: &str, expected: Option<&str>| {
            let lines = [("sec-websocket-protocol", offer)];
            let request = parse("/v1/realtime?model=m", &lines).unwrap();
            assert_eq!(request.subprotocol, expected, "{offer}");
        };
        check("realtime", Some("realtime"));
        check("openai-insecure-api-key.k, realtime", Some("realtime"));
        check("openai-insecure-api-key.k", None);
        check("openai-beta.realtime-v1", None);
        assert_eq!(
            parse("/v1/realtime?model=m", &[]).unwrap().subprotocol,
            None
        );
        let bad = parse(
            "/v1/realtime?model=m",
            &[("sec-websocket-protocol", "a,,b")],
        );
        assert_eq!(bad.unwrap_err().code, "invalid_subprotocol");
    }

    #[test]
    fn request_ids_are_echoed_if_harmless() {
        let check = |query: &str, lines: &[(&str, &str)], expected: Option<&str>| {
            let id = FrontDoor::request_id(Some(&format!("model=m{query}")), &headers(lines));
            assert_eq!(id.as_deref(), expected);
        };
        check("", &[("x-ms-client-request-id", "a-1")], Some("a-1"));
        check("&x-ms-client-request-id=a-2", &[], Some("a-2"));
        check("&x-ms-client-request-id=a%0D%0Ab", &[], None);
        check("", &[("x-ms-client-request-id", &"a".repeat(129))], None);
    }

    proptest! {
        #[test]
        fn total_over_anything(path in "[/a-z1]{0,20}", query in any::<String>(), value in proptest::collection::vec(any::<u8>(), 0..40), index in 0..3_usize) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.insert(["api-key", "authorization", "sec-websocket-protocol"][index], value);
            }
            let _ = FrontDoor::default().parse(&path, Some(&query), &headers);
            let _ = FrontDoor::default().parse("/v1/realtime", Some(&format!("model=m&{query}")), &headers);
        }
    }
}
