//! What the operator says of a deployment, and the request that opens a session there.

use std::time::Duration;

use http::{HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::realtime::Shape;

/// One `[deployments.NAME]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentConfig {
    /// Scheme, host and port: `wss://my-resource.openai.azure.com`. `https` and `http` count as `wss` and `ws`.
    pub url: String,
    /// Whose URLs and headers to use.
    #[serde(default)]
    pub kind: Kind,
    /// Shape of its events.
    #[serde(default = "ga")]
    pub shape: Shape,
    /// The model, on Azure the deployment's name there.
    pub model: String,
    /// `api-version` of the preview shape on Azure.
    #[serde(default = "preview_version")]
    pub api_version: String,
    /// The key itself; better one of the two below.
    pub api_key: Option<SecretString>,
    /// Name of the environment variable that holds the key.
    pub api_key_env: Option<String>,
    /// Path of the file that holds the key.
    pub api_key_file: Option<std::path::PathBuf>,
    /// The organization that pays, where a key belongs to several. OpenAI only.
    pub organization: Option<String>,
    /// The project that pays. OpenAI only.
    pub project: Option<String>,
    /// Format of the audio of phone calls.
    #[serde(default)]
    pub audio: ModelAudio,
    /// How long to wait for it.
    #[serde(default)]
    pub timeouts: DialTimeouts,
}

/// Whose endpoint it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Azure OpenAI.
    #[default]
    Azure,
    /// OpenAI.
    #[serde(rename = "openai")]
    OpenAi,
}

/// What audio a session of a phone call is configured for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelAudio {
    /// PCM16 at 24 kHz, for fidelity.
    #[default]
    Pcm16,
    /// The caller's G.711 unchanged, for cost; PCM16 for callers that speak something else.
    Passthrough,
}

/// How long each phase of setting up a session may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DialTimeouts {
    /// Name look-up and TCP connection.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// TLS handshake.
    #[serde(with = "humantime_serde")]
    pub tls: Duration,
    /// WebSocket upgrade.
    #[serde(with = "humantime_serde")]
    pub upgrade: Duration,
    /// `session.created` after the upgrade.
    #[serde(with = "humantime_serde")]
    pub session: Duration,
}

impl Default for DialTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            tls: Duration::from_secs(5),
            upgrade: Duration::from_secs(8),
            session: Duration::from_secs(5),
        }
    }
}

fn ga() -> Shape {
    Shape::Ga
}

fn preview_version() -> String {
    "2025-04-01-preview".to_owned()
}

/// A deployment that can be dialled.
#[derive(Debug)]
pub struct Deployment {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) timeouts: DialTimeouts,
    config: DeploymentConfig,
    key: Option<SecretString>,
}

/// What is wrong with a deployment's configuration.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The URL cannot be used.
    #[error("url: {0}")]
    Url(&'static str),
    /// More than one of `api_key`, `api_key_env` and `api_key_file` is given.
    #[error("give only one of api_key, api_key_env and api_key_file")]
    AmbiguousKey,
    /// A setting that goes into a header cannot be used.
    #[error("{field}: {problem}")]
    Header {
        /// `organization` or `project`.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key cannot be had.
    #[error("{0}")]
    Key(String),
}

impl Deployment {
    /// Checks a deployment's configuration and reads its key.
    ///
    /// # Errors
    ///
    /// If the URL or the key cannot be used.
    pub fn new(name: &str, config: DeploymentConfig) -> Result<Self, DeploymentError> {
        let (tls, host, port) = parse_url(&config.url)?;
        if !tls && !is_loopback(&host) {
            return Err(DeploymentError::Url(
                "plain text is for loopback only: use wss or https",
            ));
        }
        check_payer("organization", config.organization.as_deref(), config.kind)?;
        check_payer("project", config.project.as_deref(), config.kind)?;
        Ok(Self {
            name: name.to_owned(),
            host,
            port,
            tls,
            timeouts: config.timeouts,
            key: read_key(&config)?,
            config,
        })
    }

    /// The name in the configuration, which is also the metric label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of its events.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.config.shape
    }

    /// Whether phone calls may keep G.711.
    #[must_use]
    pub fn audio(&self) -> ModelAudio {
        self.config.audio
    }

    /// The upgrade request, without the WebSocket headers.
    pub(super) fn request(&self, transcription: bool) -> http::Request<()> {
        let model = encode_query(&self.config.model);
        let intent = if transcription {
            "&intent=transcription"
        } else {
            ""
        };
        let path = match (self.config.kind, self.config.shape) {
            (Kind::Azure, Shape::Ga) if transcription => {
                "/openai/v1/realtime?intent=transcription".to_owned()
            }
            (Kind::Azure, Shape::Ga) => format!("/openai/v1/realtime?model={model}"),
            (Kind::Azure, Shape::Preview) => format!(
                "/openai/realtime?api-version={}&deployment={model}{intent}",
                encode_query(&self.config.api_version)
            ),
            (Kind::OpenAi, _) if transcription => "/v1/realtime?intent=transcription".to_owned(),
            (Kind::OpenAi, _) => format!("/v1/realtime?model={model}"),
        };
        let scheme = if self.tls { "wss" } else { "ws" };
        let mut request = http::Request::new(());
        // An IPv6 address stands in brackets in a URL (RFC 3986, 3.2.2).
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if let Ok(uri) = format!("{scheme}://{host}:{}{path}", self.port).parse::<Uri>() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if let Some(key) = &self.key {
            let (name, value) = match self.config.kind {
                Kind::Azure => ("api-key", key.expose_secret().to_owned()),
                Kind::OpenAi => ("authorization", format!("Bearer {}", key.expose_secret())),
            };
            if let Ok(mut value) = HeaderValue::from_str(&value) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let payers = [
            ("openai-organization", &self.config.organization),
            ("openai-project", &self.config.project),
        ];
        for (name, payer) in payers {
            if let Some(payer) = payer
                && let Ok(value) = HeaderValue::from_str(payer)
            {
                headers.insert(name, value);
            }
        }
        if self.config.shape == Shape::Preview {
            headers.insert("openai-beta", HeaderValue::from_static("realtime=v1"));
        }
        request
    }
}

fn parse_url(url: &str) -> Result<(bool, String, u16), DeploymentError> {
    let uri: Uri = url.parse().map_err(|_| DeploymentError::Url("not a URL"))?;
    let tls = match uri.scheme_str() {
        Some("wss" | "https") => true,
        Some("ws" | "http") => false,
        _ => {
            return Err(DeploymentError::Url(
                "the scheme must be wss, https, ws or http",
            ));
        }
    };
    if uri.path() != "/" && !uri.path().is_empty() {
        return Err(DeploymentError::Url(
            "only scheme, host and port: the path follows from kind and shape",
        ));
    }
    let host = uri.host().ok_or(DeploymentError::Url("no host"))?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok((tls, host.trim_matches(['[', ']']).to_owned(), port))
}

/// Whether the name of an organization or project can be sent, and to somebody who knows what it is.
fn check_payer(
    field: &'static str,
    payer: Option<&str>,
    kind: Kind,
) -> Result<(), DeploymentError> {
    let problem = match payer {
        None => return Ok(()),
        Some(_) if kind != Kind::OpenAi => "is for kind openai only",
        Some(payer) if payer.is_empty() || !payer.bytes().all(|byte| byte.is_ascii_graphic()) => {
            "is empty or has characters that no header can carry"
        }
        Some(_) => return Ok(()),
    };
    Err(DeploymentError::Header { field, problem })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn read_key(config: &DeploymentConfig) -> Result<Option<SecretString>, DeploymentError> {
    let sources = [
        config.api_key.is_some(),
        config.api_key_env.is_some(),
        config.api_key_file.is_some(),
    ];
    if sources.into_iter().filter(|given| *given).count() > 1 {
        return Err(DeploymentError::AmbiguousKey);
    }
    let key = if let Some(name) = &config.api_key_env {
        let value = std::env::var(name).map_err(|_| {
            DeploymentError::Key(format!("api_key_env: no environment variable {name}"))
        })?;
        Some(SecretString::from(value))
    } else if let Some(path) = &config.api_key_file {
        let value = std::fs::read_to_string(path).map_err(|error| {
            DeploymentError::Key(format!("api_key_file {}: {error}", path.display()))
        })?;
        Some(SecretString::from(value.trim().to_owned()))
    } else {
        config.api_key.clone()
    };
    match &key {
        Some(key)
            if HeaderValue::from_str(key.expose_secret()).is_err()
                || key.expose_secret().is_empty() =>
        {
            Err(DeploymentError::Key(
                "the key is empty or has characters that no header can carry".to_owned(),
            ))
        }
        _ => Ok(key),
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, 2.3).
fn encode_query(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(text: &str) -> Result<Deployment, String> {
        let config = toml::from_str(text).map_err(|error| error.to_string())?;
        Deployment::new("east", config).map_err(|error| error.to_string())
    }

    fn check(text: &str, transcription: bool, expected: &str) {
        let deployment = deployment(text).expect("a good configuration");
        assert_eq!(
            deployment.request(transcription).uri().to_string(),
            expected
        );
    }

    #[test]
    fn urls_follow_from_kind_and_shape() {
        let azure = "url = 'https://r.openai.azure.com'\nmodel = 'my dep'\n";
        check(
            azure,
            false,
            "wss://r.openai.azure.com:443/openai/v1/realtime?model=my%20dep",
        );
        check(
            azure,
            true,
            "wss://r.openai.azure.com:443/openai/v1/realtime?intent=transcription",
        );
        check(
            &format!("{azure}shape = 'preview'"),
            false,
            "wss://r.openai.azure.com:443/openai/realtime?api-version=2025-04-01-preview&deployment=my%20dep",
        );
        check(
            "url = 'wss://api.openai.com'\nmodel = 'gpt-realtime'\nkind = 'openai'",
            false,
            "wss://api.openai.com:443/v1/realtime?model=gpt-realtime",
        );
        check(
            "url = 'ws://127.0.0.1:8090'\nmodel = 'm'",
            false,
            "ws://127.0.0.1:8090/openai/v1/realtime?model=m",
        );
        check(
            "url = 'ws://[::1]:8090'\nmodel = 'm'",
            false,
            "ws://[::1]:8090/openai/v1/realtime?model=m",
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("url = 'ftp://x'\nmodel = 'm'", "scheme"),
            ("url = 'wss://x/openai'\nmodel = 'm'", "path follows"),
            ("url = 'ws://10.0.0.1'\nmodel = 'm'", "loopback only"),
            (
                "url = 'wss://x'\nmodel = 'm'\napi_key = 'a'\napi_key_env = 'B'",
                "only one of",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\napi_key_env = 'NO_SUCH_VARIABLE'",
                "NO_SUCH_VARIABLE",
            ),
            ("url = 'wss://x'\nmodel = 'm'\nshpe = 'ga'", "shpe"),
            (
                "url = 'wss://x'\nmodel = 'm'\nproject = 'p'",
                "project: is for kind openai only",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\nkind = 'openai'\norganization = ''",
                "organization: is empty",
            ),
        ] {
            let error = deployment(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_key_goes_where_the_vendor_wants_it_and_nowhere_else() {
        let azure = deployment("url = 'wss://x'\nmodel = 'm'\napi_key = 'k-123'").expect("good");
        assert_eq!(azure.request(false).headers()["api-key"], "k-123");
        assert!(!format!("{azure:?}{:?}", azure.request(false)).contains("k-123"));
        let openai = deployment(
            "url = 'wss://x'\nmodel = 'm'\napi_key = 'k-123'\nkind = 'openai'\nshape = 'preview'\norganization = 'org-1'\nproject = 'proj_1'",
        )
        .expect("good");
        let request = openai.request(false);
        assert_eq!(request.headers()["authorization"], "Bearer k-123");
        assert_eq!(request.headers()["openai-beta"], "realtime=v1");
        assert_eq!(request.headers()["openai-organization"], "org-1");
        assert_eq!(request.headers()["openai-project"], "proj_1");
    }
}
