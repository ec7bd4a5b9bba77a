//! What the operator says of a deployment, and the request that opens a session there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderValue, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::SecretString;
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use crate::outbound::is_loopback;
use crate::quota::DeploymentQuota;
use crate::realtime::Shape;
use crate::secret::{Given, Source};

use super::credential::{Credential, KeyFile, Shown, can_be_sent};
use super::entra::Identities;
use super::entra_config::EntraConfig;
use super::state::DeploymentState;

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
    /// Path of the file that holds the key. A new key in it is used from then on.
    pub api_key_file: Option<PathBuf>,
    /// Tokens of Microsoft Entra ID in place of a key. Azure only.
    pub entra: Option<EntraConfig>,
    /// Whether plain text may be spoken with it beyond this machine: keys and voices can then be read on the way.
    #[serde(default)]
    pub plaintext: bool,
    /// Path of a PEM file with certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The organization that pays, where a key belongs to several. OpenAI only.
    pub organization: Option<String>,
    /// The project that pays. OpenAI only.
    pub project: Option<String>,
    /// Format of the audio of phone calls.
    #[serde(default)]
    pub audio: ModelAudio,
    /// Where it is, in any words; pools may prefer a region.
    pub region: Option<String>,
    /// How long to wait for it.
    #[serde(default)]
    pub timeouts: DialTimeouts,
    /// What the vendor grants it.
    pub quota: Option<DeploymentQuota>,
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
    /// A token, where there is none yet or none any more.
    #[serde(with = "humantime_serde")]
    pub token: Duration,
}

impl Default for DialTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            tls: Duration::from_secs(5),
            upgrade: Duration::from_secs(8),
            session: Duration::from_secs(5),
            token: Duration::from_secs(3),
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
    pub(super) state: DeploymentState,
    config: DeploymentConfig,
    credential: Credential,
    authorities: Authorities,
}

/// What is wrong with a deployment's configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct DeploymentError {
    field: String,
    problem: String,
}

impl DeploymentError {
    /// The field, relative to the deployment's table.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl Deployment {
    /// Checks a deployment's configuration and reads its key.
    ///
    /// # Errors
    ///
    /// The first field that cannot be used, with the reason.
    pub fn new(name: &str, config: DeploymentConfig) -> Result<Self, DeploymentError> {
        Self::with_identities(name, config, &mut Identities::default())
    }

    /// The same, sharing tokens with the deployments that were made with the same `identities`.
    ///
    /// # Errors
    ///
    /// The first field that cannot be used, with the reason.
    pub fn with_identities(
        name: &str,
        config: DeploymentConfig,
        identities: &mut Identities,
    ) -> Result<Self, DeploymentError> {
        let (tls, host, port) =
            parse_url(&config.url).map_err(|problem| DeploymentError::new("url", problem))?;
        if !tls && !is_loopback(&host) && !config.plaintext {
            return Err(DeploymentError::new(
                "url",
                "plain text is for loopback only: use wss or https, or say plaintext = true",
            ));
        }
        check_payer("organization", config.organization.as_deref(), config.kind)?;
        check_payer("project", config.project.as_deref(), config.kind)?;
        let authorities = match &config.ca_file {
            Some(path) => Authorities::read(path)
                .map_err(|problem| DeploymentError::new("ca_file", problem))?,
            None => Authorities::default(),
        };
        Ok(Self {
            name: name.to_owned(),
            host,
            port,
            tls,
            timeouts: config.timeouts,
            state: DeploymentState::default(),
            credential: credential(name, &config, identities)?,
            authorities,
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

    /// Where it is, if the operator says so.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.config.region.as_deref()
    }

    /// The model, on Azure the deployment's name there.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.config.model
    }

    /// Whose it is, as OpenTelemetry names providers.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        match self.config.kind {
            Kind::Azure => "azure.ai.openai",
            Kind::OpenAi => "openai",
        }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Whether dials of both lead to one place, and show the same there.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        let (a, b) = (&self.config, &other.config);
        let payers = (&a.organization, &a.project) == (&b.organization, &b.project);
        (a.kind, a.shape) == (b.kind, b.shape)
            && (&self.host, self.port, self.tls) == (&other.host, other.port, other.tls)
            && (&a.model, &a.api_version) == (&b.model, &b.api_version)
            && payers
            && self.authorities.certificates == other.authorities.certificates
            && self.credential.is_same(&other.credential)
    }

    /// Authorities that it needs besides the dialler's own.
    pub(super) fn authorities(&self) -> Option<&Authorities> {
        self.config.ca_file.is_some().then_some(&self.authorities)
    }

    /// The upgrade request, without the WebSocket headers.
    pub(super) fn request(&self, transcription: bool, shown: &Shown) -> http::Request<()> {
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
        headers.extend(shown.header(self.config.kind));
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

/// Certificate authorities of one peer.
#[derive(Default)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    /// Made at the first dial, and kept for its session tickets.
    connector: OnceLock<TlsConnector>,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

impl Authorities {
    /// Those in a PEM file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |problem: &str| format!("{} {problem}", path.display());
        let pem = std::fs::read(path)
            .map_err(|error| wrong(&format!("cannot be read: {}", error.kind())))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("holds something that is no certificate in PEM form"))?;
        let mut roots = RootCertStore::empty();
        let (n_good, n_bad) = roots.add_parsable_certificates(certificates.iter().cloned());
        if n_good == 0 || n_bad > 0 {
            return Err(wrong(
                "holds no certificate, or one that cannot be an authority",
            ));
        }
        Ok(Self {
            certificates,
            connector: OnceLock::new(),
        })
    }

    /// The connector that trusts these and `others`, who are asked for once.
    pub(crate) fn connector(&self, others: impl FnOnce() -> RootCertStore) -> &TlsConnector {
        self.connector.get_or_init(|| {
            let mut roots = others();
            roots.add_parsable_certificates(self.certificates.iter().cloned());
            super::dial::connector(roots)
        })
    }
}

fn parse_url(url: &str) -> Result<(bool, String, u16), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "not a URL")?;
    let tls = match uri.scheme_str() {
        Some("wss" | "https") => true,
        Some("ws" | "http") => false,
        _ => {
            return Err("the scheme must be wss, https, ws or http");
        }
    };
    if uri.path() != "/" && !uri.path().is_empty() {
        return Err("only scheme, host and port: the path follows from kind and shape");
    }
    let host = uri.host().ok_or("no host")?;
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
    Err(DeploymentError::new(field, problem))
}

/// The credential that the configuration names: one at most.
fn credential(
    name: &str,
    config: &DeploymentConfig,
    identities: &mut Identities,
) -> Result<Credential, DeploymentError> {
    let key = Source {
        name: "api_key",
        value: config.api_key.as_ref(),
        env: config.api_key_env.as_deref(),
        file: config.api_key_file.as_deref(),
    };
    let key = key
        .find(|name| std::env::var(name).ok())
        .map_err(|error| DeploymentError::new(error.field, error.problem))?;
    match (key, &config.entra) {
        (None, None) => Ok(Credential::None),
        (Some(Given::Value(key)), None) if can_be_sent(&key) => Ok(Credential::Key(key)),
        (Some(Given::Value(_)), None) => Err(DeploymentError::new(
            "api_key",
            "the key has characters that no header can carry",
        )),
        (Some(Given::File(path)), None) => KeyFile::open(name, &path)
            .map(|file| Credential::KeyFile(Arc::new(file)))
            .map_err(|error| {
                DeploymentError::new("api_key_file", format!("{} {error}", path.display()))
            }),
        (None, Some(_)) if config.kind != Kind::Azure => {
            Err(DeploymentError::new("entra", "is for kind azure only"))
        }
        (None, Some(entra)) => identities.keeper(name, entra).map(Credential::Token),
        (Some(_), Some(_)) => Err(DeploymentError::new(
            "entra",
            "give only one of api_key, api_key_env, api_key_file and entra",
        )),
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
    use futures_util::FutureExt;

    use super::*;

    fn deployment(text: &str) -> Result<Deployment, String> {
        let config = toml::from_str(text).map_err(|error| error.to_string())?;
        Deployment::new("east", config).map_err(|error| error.to_string())
    }

    fn request(deployment: &Deployment, transcription: bool) -> http::Request<()> {
        let shown = deployment.credential().show(Duration::ZERO);
        let shown = shown.now_or_never().expect("a key is at hand");
        deployment.request(transcription, &shown.expect("a key"))
    }

    fn check(text: &str, transcription: bool, expected: &str) {
        let deployment = deployment(text).expect("a good configuration");
        assert_eq!(
            request(&deployment, transcription).uri().to_string(),
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
    fn plain_text_is_a_decision() {
        let text = "url = 'ws://10.0.0.1'\nmodel = 'm'\nplaintext = true";
        check(text, false, "ws://10.0.0.1:80/openai/v1/realtime?model=m");
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
                "url = 'wss://x'\nmodel = 'm'\napi_key = 'a'\n[entra]\nkind = 'managed_identity'",
                "only one of",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\nkind = 'openai'\n[entra]\nkind = 'managed_identity'",
                "entra: is for kind azure only",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\napi_key = ''",
                "api_key: is empty",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\napi_key_file = '/no/such/file'",
                "api_key_file: /no/such/file cannot be read: entity not found",
            ),
            (
                "url = 'wss://x'\nmodel = 'm'\nca_file = '/dev/null'",
                "ca_file: /dev/null holds no certificate",
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
        assert_eq!(request(&azure, false).headers()["api-key"], "k-123");
        assert!(!format!("{azure:?}{:?}", request(&azure, false)).contains("k-123"));
        let openai = deployment(
            "url = 'wss://x'\nmodel = 'm'\napi_key = 'k-123'\nkind = 'openai'\nshape = 'preview'\norganization = 'org-1'\nproject = 'proj_1'",
        )
        .expect("good");
        let request = request(&openai, false);
        assert_eq!(request.headers()["authorization"], "Bearer k-123");
        assert_eq!(request.headers()["openai-beta"], "realtime=v1");
        assert_eq!(request.headers()["openai-organization"], "org-1");
        assert_eq!(request.headers()["openai-project"], "proj_1");
    }
}
