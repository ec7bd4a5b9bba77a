//! Which request is let in and as what: paths, shapes, credentials, refusals (reference chapters 1.1 to 1.5).
//!
//! Pure: takes a request's parts, opens nothing. Quota and faults come after, in the server.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::config::{Shape, SimulatorConfig};
use super::error::ApiError;
use super::session::{Provider, SessionKind};

/// A request as far as it matters here.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: &'a HeaderMap,
    pub(super) is_post: bool,
}

/// What a request asks for, once it is let in.
#[derive(Debug)]
pub(super) enum Route {
    Socket(Accepted),
    Rest(RestCall),
}

#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) provider: Provider,
    pub(super) shape: Shape,
    pub(super) kind: SessionKind,
    pub(super) first_preview: bool,
    pub(super) deployment: String,
    pub(super) model: String,
    pub(super) defaults: Option<Value>,
    /// `error` and close code to send instead of a session.
    pub(super) fatal: Option<(ApiError, u16)>,
    pub(super) select_realtime: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RestCall {
    pub(super) provider: Provider,
    pub(super) endpoint: Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Preview `sessions`.
    Sessions,
    /// Preview `transcription_sessions`.
    TranscriptionSessions,
    /// GA `client_secrets`.
    ClientSecrets,
    /// SDP offers and call control: stubbed.
    Calls,
}

/// An answer before or instead of the 101.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    provider: Provider,
    code: String,
    message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(
        provider: Provider,
        status: u16,
        code: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            provider,
            code: code.to_owned(),
            message: message.into(),
            retry_after: None,
        }
    }

    pub(super) fn after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// The body in the provider's form.
    pub(super) fn body(&self) -> Value {
        match self.provider {
            Provider::Azure => json!({"error": {"code": self.code, "message": self.message}}),
            Provider::OpenAi => {
                let kind = match self.status {
                    429 => "rate_limit_error",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}})
            }
        }
    }
}

/// What a live ephemeral key opens.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// Session fields that become the defaults, checked when the key was made.
    pub(super) session: Value,
    pub(super) shape: Shape,
    pub(super) kind: SessionKind,
}

/// The live ephemeral keys.
pub(super) trait EphemeralKeys {
    fn grant_of(&self, key: &str) -> Option<Grant>;
}

/// Decides on a request.
pub(super) fn route(
    config: &SimulatorConfig,
    request: &Request<'_>,
    keys: &impl EphemeralKeys,
) -> Result<Route, Refusal> {
    let path = collapse_slashes(request.path);
    let target = Target::of(&path, request)
        .ok_or_else(|| Refusal::new(provider_of(&path), 404, "404", "Resource not found"))?;
    if target.provider == Provider::Azure
        && custom_headers(request.headers) > config.max_custom_headers
    {
        return Err(Refusal::new(
            Provider::Azure,
            431,
            "431",
            "Too many custom headers",
        ));
    }
    let azure_ga = target.provider == Provider::Azure && target.shape == Shape::Ga;
    if azure_ga && request.query("api-version").is_some() && !config.lenient {
        return Err(unauthorized(
            target.provider,
            "The api-version parameter is not supported on this path.",
        ));
    }
    let access = authorise(config, &target, request, keys)?;
    match target.endpoint {
        Some(endpoint) => {
            if access.bad_key {
                return Err(unauthorized(target.provider, "Incorrect API key provided."));
            }
            Ok(Route::Rest(RestCall {
                provider: target.provider,
                endpoint,
            }))
        }
        None => accept(config, &target, request, access).map(Route::Socket),
    }
}

struct Target {
    provider: Provider,
    shape: Shape,
    endpoint: Option<Endpoint>,
}

impl Target {
    fn of(path: &str, request: &Request<'_>) -> Option<Self> {
        let socket = |provider, shape| Self {
            provider,
            shape,
            endpoint: None,
        };
        let rest = |provider, shape, endpoint| Self {
            provider,
            shape,
            endpoint: Some(endpoint),
        };
        use Provider::{Azure, OpenAi};
        Some(match (path, request.is_post) {
            ("/openai/realtime", false) => socket(Azure, Shape::Preview),
            ("/openai/v1/realtime", false) => socket(Azure, Shape::Ga),
            ("/v1/realtime", false) => socket(
                OpenAi,
                if request.wants_beta() {
                    Shape::Preview
                } else {
                    Shape::Ga
                },
            ),
            ("/openai/realtimeapi/sessions", true) => {
                rest(Azure, Shape::Preview, Endpoint::Sessions)
            }
            ("/v1/realtime/sessions", true) => rest(OpenAi, Shape::Preview, Endpoint::Sessions),
            ("/v1/realtime/transcription_sessions", true) => {
                rest(OpenAi, Shape::Preview, Endpoint::TranscriptionSessions)
            }
            ("/openai/v1/realtime/client_secrets", true) => {
                rest(Azure, Shape::Ga, Endpoint::ClientSecrets)
            }
            ("/v1/realtime/client_secrets", true) => {
                rest(OpenAi, Shape::Ga, Endpoint::ClientSecrets)
            }
            (path, true) if path.starts_with("/openai/v1/realtime/calls") => {
                rest(Azure, Shape::Ga, Endpoint::Calls)
            }
            (path, true) if path.starts_with("/v1/realtime/calls") => {
                rest(OpenAi, Shape::Ga, Endpoint::Calls)
            }
            _ => return None,
        })
    }
}

impl Request<'_> {
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.headers
            .get_all("sec-websocket-protocol")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
    }

    fn wants_beta(&self) -> bool {
        self.header("openai-beta")
            .is_some_and(|value| value.contains("realtime=v1"))
            || self
                .subprotocols()
                .any(|name| name == "openai-beta.realtime-v1")
    }
}

/// What a credential opened.
#[derive(Default)]
struct Access {
    /// OpenAI lets a bogus key through the upgrade and complains afterwards.
    bad_key: bool,
    grant: Option<Grant>,
}

impl Access {
    fn bad_key() -> Self {
        Self {
            bad_key: true,
            grant: None,
        }
    }
}

fn authorise(
    config: &SimulatorConfig,
    target: &Target,
    request: &Request<'_>,
    keys: &impl EphemeralKeys,
) -> Result<Access, Refusal> {
    let header = request.header("authorization").and_then(bearer);
    let subprotocol = || {
        request
            .subprotocols()
            .find_map(|name| name.strip_prefix("openai-insecure-api-key."))
    };
    let (key, token) = match target.provider {
        Provider::Azure => (
            request
                .header("api-key")
                .or_else(|| request.query("api-key")),
            header.or_else(|| request.query("Authorization").and_then(bearer)),
        ),
        Provider::OpenAi => (header.or_else(subprotocol), None),
    };
    if key.is_none() && token.is_none() {
        let message = "Access denied due to missing credentials. Provide a valid key or token.";
        return Err(unauthorized(target.provider, message));
    }
    let ephemeral = key.or(token).filter(|key| key.starts_with("ek_"));
    if let Some(ephemeral) = ephemeral {
        // Azure takes ephemeral keys of the preview over WebRTC only. Defaults of the other shape fit no session.
        let over_socket = (target.provider, target.shape) != (Provider::Azure, Shape::Preview);
        let grant = keys
            .grant_of(ephemeral)
            .filter(|grant| over_socket && grant.shape == target.shape);
        return match (grant, target.provider) {
            (Some(grant), _) => Ok(Access {
                bad_key: false,
                grant: Some(grant),
            }),
            (None, Provider::OpenAi) => Ok(Access::bad_key()),
            (None, Provider::Azure) => Err(unauthorized(
                target.provider,
                "The ephemeral key is unknown or has expired.",
            )),
        };
    }
    let known = |text: &str, list: &[String]| {
        list.iter().fold(false, |found, key| {
            found | bool::from(key.as_bytes().ct_eq(text.as_bytes()))
        })
    };
    let key_fits =
        key.is_some_and(|key| config.api_keys.is_empty() || known(key, &config.api_keys));
    let token_fits = token.is_some_and(|token| {
        let key_as_bearer = target.shape == Shape::Ga && known(token, &config.api_keys);
        config.api_keys.is_empty()
            || key_as_bearer
            || known(token, &config.entra_tokens)
            || looks_like_jwt(token)
    });
    match (key_fits || token_fits, target.provider) {
        (true, _) => Ok(Access::default()),
        (false, Provider::OpenAi) => Ok(Access::bad_key()),
        (false, Provider::Azure) => {
            let message = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide \
                           a valid key for an active subscription.";
            Err(unauthorized(target.provider, message))
        }
    }
}

fn accept(
    config: &SimulatorConfig,
    target: &Target,
    request: &Request<'_>,
    access: Access,
) -> Result<Accepted, Refusal> {
    let provider = target.provider;
    let bad_request = |message: &str| Refusal::new(provider, 400, "BadRequest", message);
    check_upgrade(request).map_err(bad_request)?;
    // A key's session says itself what it is for; without one the client does.
    let transcribes = match &access.grant {
        Some(grant) => grant.kind == SessionKind::Transcription,
        None => request.query("intent") == Some("transcription"),
    };
    let keyed_model = access
        .grant
        .as_ref()
        .and_then(|grant| grant.session["model"].as_str());
    let api_version = request.query("api-version");
    let deployment = match (provider, target.shape) {
        (Provider::Azure, Shape::Preview) => {
            let version = api_version
                .ok_or_else(|| bad_request("Missing required query parameter: api-version"))?;
            if !config.api_versions.is_empty()
                && !config.api_versions.iter().any(|known| known == version)
            {
                return Err(Refusal::new(provider, 404, "404", "Resource not found"));
            }
            let named = request.query("deployment").or(transcribes.then_some(""));
            named.ok_or_else(|| bad_request("Missing required query parameter: deployment"))?
        }
        _ => {
            let optional = transcribes || request.query("call_id").is_some();
            let named = request
                .query("model")
                .or(keyed_model)
                .or(optional.then_some(""));
            named.ok_or_else(|| bad_request("Missing required query parameter: model"))?
        }
    };
    let mut accepted = Accepted {
        provider,
        shape: target.shape,
        kind: if transcribes {
            SessionKind::Transcription
        } else {
            SessionKind::Conversation
        },
        first_preview: target.shape == Shape::Preview
            && api_version.is_some_and(|version| version.starts_with("2024-")),
        deployment: deployment.to_owned(),
        model: snapshot(config, deployment, target.shape),
        defaults: access.grant.map(|grant| defaults(grant.session)),
        fatal: None,
        select_realtime: request.subprotocols().any(|name| name == "realtime"),
    };
    if access.bad_key {
        let error = ApiError::request("invalid_api_key", "Incorrect API key provided.");
        accepted.fatal = Some((error, config.quirks.bad_key_close));
        return Ok(accepted);
    }
    if config.beta_sunset && provider == Provider::OpenAi && target.shape == Shape::Preview {
        accepted.fatal = Some((beta_disabled(), 4000));
        return Ok(accepted);
    }
    check_deployment(config, &mut accepted)?;
    Ok(accepted)
}

/// What is left to apply: the URL names the model of this session, or has taken it from here.
fn defaults(mut session: Value) -> Value {
    if let Some(fields) = session.as_object_mut() {
        fields.remove("model");
    }
    session
}

fn check_deployment(config: &SimulatorConfig, accepted: &mut Accepted) -> Result<(), Refusal> {
    if config.deployments.is_empty() || accepted.deployment.is_empty() {
        return Ok(());
    }
    let Some(deployment) = config.deployments.get(&accepted.deployment) else {
        return Err(match accepted.provider {
            Provider::Azure => {
                let message = "The API deployment for this resource does not exist. If you created the deployment \
                               within the last 5 minutes, please wait a moment and try again.";
                Refusal::new(Provider::Azure, 404, "DeploymentNotFound", message)
            }
            Provider::OpenAi => {
                let message = format!(
                    "The model '{}' does not exist or you do not have access.",
                    accepted.deployment
                );
                Refusal::new(Provider::OpenAi, 404, "model_not_found", message)
            }
        });
    };
    if deployment.shapes.is_empty() || deployment.shapes.contains(&accepted.shape) {
        return Ok(());
    }
    match (accepted.provider, accepted.shape) {
        (Provider::OpenAi, Shape::Preview) => {
            accepted.fatal = Some((beta_disabled(), 4000));
            Ok(())
        }
        (provider, _) => {
            let message = format!(
                "The realtime operation does not work with the model '{}'.",
                accepted.model
            );
            Err(Refusal::new(
                provider,
                400,
                "OperationNotSupported",
                message,
            ))
        }
    }
}

pub(super) fn beta_disabled() -> ApiError {
    let message =
        "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API.";
    ApiError::request("beta_api_shape_disabled", message)
}

/// The dated name of a model or of what a deployment's name suggests.
pub(super) fn snapshot(config: &SimulatorConfig, deployment: &str, shape: Shape) -> String {
    if let Some(model) = config
        .deployments
        .get(deployment)
        .and_then(|deployment| deployment.model.clone())
    {
        return model;
    }
    let is_dated = deployment.len() > 11
        && deployment
            .get(deployment.len() - 11..)
            .is_some_and(|end| end.chars().all(|c| c == '-' || c.is_ascii_digit()));
    match (deployment, shape) {
        (name, _) if is_dated && name.starts_with("gpt-") => name.to_owned(),
        ("gpt-4o-mini-realtime-preview", _) => "gpt-4o-mini-realtime-preview-2024-12-17".to_owned(),
        ("gpt-realtime-mini", _) => "gpt-realtime-mini-2025-10-06".to_owned(),
        ("gpt-realtime", _) | (_, Shape::Ga) => "gpt-realtime-2025-08-28".to_owned(),
        (_, Shape::Preview) => "gpt-4o-realtime-preview-2024-12-17".to_owned(),
    }
}

fn check_upgrade(request: &Request<'_>) -> Result<(), &'static str> {
    let has = |name, wanted: &str| {
        request
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    if !has("connection", "upgrade") || !has("upgrade", "websocket") {
        return Err("Expected a WebSocket upgrade");
    }
    if request.header("sec-websocket-version") != Some("13") {
        return Err("Unsupported WebSocket version");
    }
    // RFC 6455, 4.1: sixteen bytes in base64.
    if request
        .header("sec-websocket-key")
        .is_none_or(|key| key.len() != 24)
    {
        return Err("Malformed Sec-WebSocket-Key");
    }
    Ok(())
}

fn unauthorized(provider: Provider, message: &str) -> Refusal {
    let code = match provider {
        Provider::Azure => "401",
        Provider::OpenAi => "invalid_api_key",
    };
    Refusal::new(provider, 401, code, message)
}

fn provider_of(path: &str) -> Provider {
    if path.starts_with("/openai/") {
        Provider::Azure
    } else {
        Provider::OpenAi
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Nothing here can verify a signature; the form is all that is asked for.
fn looks_like_jwt(token: &str) -> bool {
    token.starts_with("eyJ") && token.matches('.').count() == 2
}

fn collapse_slashes(path: &str) -> String {
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    if collapsed.len() > 1 && collapsed.ends_with('/') {
        collapsed.pop();
    }
    collapsed
}

/// Headers that neither HTTP, WebSocket nor the vendor's SDKs define.
fn custom_headers(headers: &HeaderMap) -> usize {
    const USUAL: &[&str] = &[
        "accept",
        "api-key",
        "authorization",
        "cache-control",
        "connection",
        "cookie",
        "host",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "origin",
        "pragma",
        "upgrade",
        "user-agent",
        "x-ms-client-request-id",
        "x-sim-fault",
    ];
    const USUAL_PREFIXES: &[&str] = &[
        "accept-",
        "content-",
        "sec-",
        "x-stainless-",
        "x-forwarded-",
        "traceparent",
        "tracestate",
    ];
    headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| {
            !USUAL.contains(name) && !USUAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .count()
}
