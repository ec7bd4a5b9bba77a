//! Tokens of Microsoft Entra ID: what the operator says of an identity, and how `azure_identity` fetches its token.
//!
//! The library keeps tokens itself and would give out an old one although a new one was asked for; each fetch
//! therefore makes a new credential, which also reads its files anew. When to fetch is the token keeper's to say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, AzureDeveloperCliCredential,
    AzureDeveloperCliCredentialOptions, ClientAssertionCredential,
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use http::Uri;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::assertion::Certificate;
use super::credential::{can_be_sent, read_secret};
use super::deployment::DeploymentError;
use super::token_http::{Reroute, TokenHttp, may_be_asked};
use super::token_keeper::{FetchError, FetchedToken, TokenKeeper, TokenSource};

/// The public cloud's authority.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Where Azure's virtual machines and nodes find their metadata service; the library knows no other address.
const METADATA_SERVICE: &str = "http://169.254.169.254";

/// One `[deployments.NAME.entra]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntraConfig {
    /// How the gateway shows who it is.
    pub kind: EntraKind,
    /// The directory; without it, the environment's `AZURE_TENANT_ID`.
    pub tenant_id: Option<String>,
    /// The application or the user-assigned identity; without it, the environment's `AZURE_CLIENT_ID`, or the
    /// system-assigned identity for `managed_identity`.
    pub client_id: Option<String>,
    /// Kubernetes' token; without it, the environment's `AZURE_FEDERATED_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// The application's secret; better one of the two below.
    pub client_secret: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub client_secret_env: Option<String>,
    /// Path of the file that holds it; read for each token.
    pub client_secret_file: Option<PathBuf>,
    /// Path of a PEM file with a certificate and its RSA key; read for each token.
    pub certificate_file: Option<PathBuf>,
    /// Where tokens come from; without it, the environment's `AZURE_AUTHORITY_HOST` or the public cloud. For
    /// `managed_identity`, what stands in for the metadata service.
    pub authority_host: Option<String>,
    /// What the token is for.
    #[serde(default = "cognitive_services")]
    pub scope: String,
    /// How long fetching a token may take. No call waits for it but the first ones.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

/// How the gateway shows Entra who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntraKind {
    /// A token of Kubernetes.
    WorkloadIdentity,
    /// What Azure gives to its machines and App Service.
    ManagedIdentity,
    /// An application's secret.
    ClientSecret,
    /// An application's certificate.
    ClientCertificate,
    /// Whoever is logged in by `az` or `azd`.
    DeveloperCli,
}

/// Scope of the data plane (protocol reference 1.3).
fn cognitive_services() -> String {
    "https://cognitiveservices.azure.com/.default".to_owned()
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Identities by what they are, so that deployments of the same one share a token.
#[derive(Debug, Default)]
pub struct Identities(Vec<(Identity, Arc<TokenKeeper>)>);

impl Identities {
    /// The keeper of that identity's token. `name` is the metric label if it is the first to ask.
    pub(super) fn keeper(
        &mut self,
        name: &str,
        config: &EntraConfig,
    ) -> Result<Arc<TokenKeeper>, DeploymentError> {
        let identity = Identity::new(config, |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })?;
        if let Some((_, keeper)) = self.0.iter().find(|(known, _)| *known == identity) {
            return Ok(Arc::clone(keeper));
        }
        identity.check_files()?;
        let keeper = Arc::new(TokenKeeper::new(
            name,
            Box::new(EntraSource {
                http: TokenHttp::new(identity.reroute()),
                identity: identity.clone(),
            }),
            config.timeout,
            Box::new(SystemTime::now),
        ));
        self.0.push((identity, Arc::clone(&keeper)));
        Ok(keeper)
    }
}

/// A checked configuration with the environment filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    method: Method,
    /// Scheme and authority of whoever gives tokens; `None` for the metadata service's own address, or if a tool knows.
    authority: Option<String>,
    scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Method {
    Workload {
        tenant: String,
        client: String,
        file: PathBuf,
    },
    Managed {
        client: Option<String>,
    },
    Secret {
        tenant: String,
        client: String,
        secret: SecretFrom,
    },
    Certificate {
        tenant: String,
        client: String,
        file: PathBuf,
    },
    Developer {
        tenant: Option<String>,
    },
}

#[derive(Clone, Debug)]
enum SecretFrom {
    Value(SecretString),
    File(PathBuf),
}

impl PartialEq for SecretFrom {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(a), Self::Value(b)) => a.expose_secret() == b.expose_secret(),
            (Self::File(a), Self::File(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for SecretFrom {}

impl Identity {
    fn new(
        config: &EntraConfig,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, DeploymentError> {
        config.check_fields()?;
        let from_env = |field: &str, given: &Option<String>, variable: &str| {
            given.clone().or_else(|| env(variable)).ok_or_else(|| {
                let problem = format!("is needed, and {variable} is not set either");
                DeploymentError::new(format!("entra.{field}"), problem)
            })
        };
        let tenant = || {
            let tenant = from_env("tenant_id", &config.tenant_id, "AZURE_TENANT_ID")?;
            check_word("entra.tenant_id", tenant)
        };
        let client = || {
            let client = from_env("client_id", &config.client_id, "AZURE_CLIENT_ID")?;
            check_word("entra.client_id", client)
        };
        let method = match config.kind {
            EntraKind::WorkloadIdentity => {
                let given = config.token_file.as_ref();
                let given = given.map(|path| path.to_string_lossy().into_owned());
                Method::Workload {
                    tenant: tenant()?,
                    client: client()?,
                    file: from_env("token_file", &given, "AZURE_FEDERATED_TOKEN_FILE")?.into(),
                }
            }
            EntraKind::ManagedIdentity => Method::Managed {
                client: optional_word("entra.client_id", config.client_id.as_ref())?,
            },
            EntraKind::ClientSecret => Method::Secret {
                tenant: tenant()?,
                client: client()?,
                secret: config.secret(&env)?,
            },
            EntraKind::ClientCertificate => Method::Certificate {
                tenant: tenant()?,
                client: client()?,
                file: config.certificate_file.clone().ok_or_else(|| {
                    DeploymentError::new("entra.certificate_file", "is needed".to_owned())
                })?,
            },
            EntraKind::DeveloperCli => Method::Developer {
                tenant: optional_word("entra.tenant_id", config.tenant_id.as_ref())?,
            },
        };
        Ok(Self {
            method,
            authority: config.authority(&env)?,
            scope: config.scope.clone(),
        })
    }

    /// What a fetch reads must be there at start.
    fn check_files(&self) -> Result<(), DeploymentError> {
        let wrong =
            |field: &str, problem: String| DeploymentError::new(format!("entra.{field}"), problem);
        match &self.method {
            Method::Workload { file, .. } => read_secret(file)
                .map(|_| ())
                .map_err(|error| wrong("token_file", format!("{} {error}", file.display()))),
            Method::Secret {
                secret: SecretFrom::File(file),
                ..
            } => read_secret(file).map(|_| ()).map_err(|error| {
                wrong("client_secret_file", format!("{} {error}", file.display()))
            }),
            Method::Certificate { file, client, .. } => {
                Certificate::read(file, client, String::new())
                    .map(|_| ())
                    .map_err(|error| wrong("certificate_file", error.to_string()))
            }
            Method::Managed { .. } | Method::Developer { .. } | Method::Secret { .. } => Ok(()),
        }
    }

    /// What stands between the addresses that the library insists on and those that are meant.
    fn reroute(&self) -> Option<Reroute> {
        let to = self.authority.clone()?;
        let from = match &self.method {
            Method::Managed { .. } => METADATA_SERVICE.to_owned(),
            _ => self.https_authority(),
        };
        (from != to).then_some(Reroute { from, to })
    }

    /// The authority as the library wants it.
    fn https_authority(&self) -> String {
        let authority = self.authority.as_deref().unwrap_or(AUTHORITY);
        authority.replacen("http://", "https://", 1)
    }

    /// A credential that has no token yet.
    fn credential(&self, http: TokenHttp) -> Result<Arc<dyn TokenCredential>, FetchError> {
        let client_options = self.client_options(http);
        Ok(match &self.method {
            Method::Workload {
                tenant,
                client,
                file,
            } => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: Some(client.clone()),
                    tenant_id: Some(tenant.clone()),
                    token_file_path: Some(file.clone()),
                };
                let unreadable =
                    |_| FetchError::Local(format!("token_file {} cannot be read", file.display()));
                WorkloadIdentityCredential::new(Some(options)).map_err(unreadable)?
            }
            Method::Managed { client } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client.clone().map(UserAssignedId::ClientId),
                    client_options,
                };
                ManagedIdentityCredential::new(Some(options)).map_err(|_| {
                    FetchError::Local("this kind of managed identity is not supported".to_owned())
                })?
            }
            Method::Secret {
                tenant,
                client,
                secret,
            } => {
                let secret = secret.read()?.expose_secret().to_owned();
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(
                    tenant,
                    client.clone(),
                    Secret::new(secret),
                    Some(options),
                )
                .map_err(|_| FetchError::Library)?
            }
            Method::Certificate {
                tenant,
                client,
                file,
            } => {
                let audience = format!("{}/{tenant}/oauth2/v2.0/token", self.https_authority());
                let certificate = Certificate::read(file, client, audience)?;
                let options = ClientAssertionCredentialOptions { client_options };
                ClientAssertionCredential::new(
                    tenant.clone(),
                    client.clone(),
                    certificate,
                    Some(options),
                )
                .map_err(|_| FetchError::Library)?
            }
            Method::Developer { tenant } => Arc::new(DeveloperTools {
                tenant: tenant.clone(),
            }),
        })
    }

    fn client_options(&self, http: TokenHttp) -> ClientOptions {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = self.https_authority();
        ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(http))),
            cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
            ..ClientOptions::default()
        }
    }
}

impl SecretFrom {
    fn read(&self) -> Result<SecretString, FetchError> {
        match self {
            Self::Value(secret) => Ok(secret.clone()),
            Self::File(path) => read_secret(path).map_err(|error| {
                FetchError::Local(format!("client_secret_file {} {error}", path.display()))
            }),
        }
    }
}

impl EntraConfig {
    /// Fields that only other kinds have are mistakes.
    fn check_fields(&self) -> Result<(), DeploymentError> {
        use EntraKind::{
            ClientCertificate, ClientSecret, DeveloperCli, ManagedIdentity, WorkloadIdentity,
        };
        let applications = &[WorkloadIdentity, ClientSecret, ClientCertificate][..];
        let fields: [(&str, bool, &[&[EntraKind]]); 8] = [
            (
                "tenant_id",
                self.tenant_id.is_some(),
                &[applications, &[DeveloperCli]],
            ),
            (
                "client_id",
                self.client_id.is_some(),
                &[applications, &[ManagedIdentity]],
            ),
            (
                "token_file",
                self.token_file.is_some(),
                &[&[WorkloadIdentity]],
            ),
            (
                "client_secret",
                self.client_secret.is_some(),
                &[&[ClientSecret]],
            ),
            (
                "client_secret_env",
                self.client_secret_env.is_some(),
                &[&[ClientSecret]],
            ),
            (
                "client_secret_file",
                self.client_secret_file.is_some(),
                &[&[ClientSecret]],
            ),
            (
                "certificate_file",
                self.certificate_file.is_some(),
                &[&[ClientCertificate]],
            ),
            (
                "authority_host",
                self.authority_host.is_some(),
                &[applications, &[ManagedIdentity]],
            ),
        ];
        for (field, is_given, kinds) in fields {
            if is_given && !kinds.iter().any(|kinds| kinds.contains(&self.kind)) {
                let problem = "is not for this kind".to_owned();
                return Err(DeploymentError::new(format!("entra.{field}"), problem));
            }
        }
        let is_scope = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        if self.scope.is_empty() || !self.scope.chars().all(is_scope) {
            let problem = "is no scope, like https://cognitiveservices.azure.com/.default";
            return Err(DeploymentError::new("entra.scope", problem.to_owned()));
        }
        Ok(())
    }

    fn secret(&self, env: impl Fn(&str) -> Option<String>) -> Result<SecretFrom, DeploymentError> {
        let wrong = |field: &str, problem: String| {
            Err(DeploymentError::new(format!("entra.{field}"), problem))
        };
        match (
            &self.client_secret,
            &self.client_secret_env,
            &self.client_secret_file,
        ) {
            (Some(secret), None, None) if secret.expose_secret().is_empty() => {
                wrong("client_secret", "is empty".to_owned())
            }
            (Some(secret), None, None) => Ok(SecretFrom::Value(secret.clone())),
            (None, Some(name), None) => match env(name) {
                Some(secret) => Ok(SecretFrom::Value(secret.into())),
                None => wrong(
                    "client_secret_env",
                    format!("no environment variable {name}"),
                ),
            },
            (None, None, Some(path)) => Ok(SecretFrom::File(path.clone())),
            _ => wrong(
                "client_secret",
                "give one of client_secret, client_secret_env and client_secret_file".to_owned(),
            ),
        }
    }

    /// Scheme and authority of the token endpoint.
    fn authority(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, DeploymentError> {
        let given = match self.kind {
            EntraKind::DeveloperCli => None,
            EntraKind::ManagedIdentity => self.authority_host.clone(),
            EntraKind::WorkloadIdentity
            | EntraKind::ClientSecret
            | EntraKind::ClientCertificate => self
                .authority_host
                .clone()
                .or_else(|| env("AZURE_AUTHORITY_HOST")),
        };
        let Some(given) = given else {
            return Ok(None);
        };
        let wrong =
            |problem: &str| DeploymentError::new("entra.authority_host", problem.to_owned());
        let uri: Uri = given.parse().map_err(|_| wrong("is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("is not a URL"));
        };
        if !["", "/"].contains(&uri.path()) || uri.query().is_some() {
            return Err(wrong(
                "only scheme, host and port: the path follows from tenant_id",
            ));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("no user name or password"));
        }
        let origin = format!("{scheme}://{authority}").to_ascii_lowercase();
        if !may_be_asked(&origin) {
            return Err(wrong("must be https, because secrets are sent there"));
        }
        // As the library writes it: without the scheme's own port.
        let origin = azure_core::http::Url::parse(&origin)
            .map_err(|_| wrong("is not a URL"))?
            .origin()
            .ascii_serialization();
        Ok(Some(origin))
    }
}

fn check_word(field: &str, word: String) -> Result<String, DeploymentError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    if word.is_empty() || !word.chars().all(is_good) {
        let problem = "is no id: letters, digits, dots and hyphens".to_owned();
        return Err(DeploymentError::new(field, problem));
    }
    Ok(word)
}

fn optional_word(field: &str, word: Option<&String>) -> Result<Option<String>, DeploymentError> {
    word.map(|word| check_word(field, word.clone())).transpose()
}

/// Fetches tokens through the library.
#[derive(Debug)]
struct EntraSource {
    identity: Identity,
    http: TokenHttp,
}

#[async_trait::async_trait]
impl TokenSource for EntraSource {
    async fn fetch(&self) -> Result<FetchedToken, FetchError> {
        let (identity, http) = (self.identity.clone(), self.http.clone());
        // It reads files.
        let credential = tokio::task::spawn_blocking(move || identity.credential(http))
            .await
            .map_err(|_| FetchError::Library)??;
        let fetched = credential
            .get_token(&[&self.identity.scope], None)
            .await
            .map_err(|error| self.identity.fetch_error(&error))?;
        let token = SecretString::from(fetched.token.secret());
        if !can_be_sent(&token) {
            return Err(FetchError::Answer);
        }
        Ok(FetchedToken {
            token,
            expires: fetched.expires_on.into(),
        })
    }
}

impl Identity {
    /// What went wrong, without any text of the library's: it quotes answers.
    fn fetch_error(&self, error: &azure_core::Error) -> FetchError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<FetchError>() {
                return error.clone();
            }
            if error.is::<serde_json::Error>() {
                return FetchError::Answer;
            }
            cause = error.source();
        }
        match (&self.method, error.kind()) {
            (Method::Developer { .. }, _) => FetchError::Tool,
            (_, ErrorKind::DataConversion) => FetchError::Answer,
            _ => FetchError::Library,
        }
    }
}

/// `az`, and `azd` where it has no token.
#[derive(Debug)]
struct DeveloperTools {
    tenant: Option<String>,
}

#[async_trait::async_trait]
impl TokenCredential for DeveloperTools {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<azure_core::credentials::TokenRequestOptions<'_>>,
    ) -> azure_core::Result<azure_core::credentials::AccessToken> {
        let az = AzureCliCredential::new(Some(AzureCliCredentialOptions {
            tenant_id: self.tenant.clone(),
            ..AzureCliCredentialOptions::default()
        }))?;
        if let Ok(token) = az.get_token(scopes, options.clone()).await {
            return Ok(token);
        }
        let azd = AzureDeveloperCliCredential::new(Some(AzureDeveloperCliCredentialOptions {
            tenant_id: self.tenant.clone(),
            ..AzureDeveloperCliCredentialOptions::default()
        }))?;
        azd.get_token(scopes, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a configuration comes to in the environment that the workload identity webhook makes.
    fn identity(text: &str) -> Result<Identity, String> {
        let config: EntraConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        let env = |name: &str| {
            let value = match name {
                "AZURE_TENANT_ID" => "tenant-env",
                "AZURE_CLIENT_ID" => "client-env",
                "AZURE_FEDERATED_TOKEN_FILE" => {
                    "/var/run/secrets/azure/tokens/azure-identity-token"
                }
                "AZURE_AUTHORITY_HOST" => "https://login.microsoftonline.com/",
                "SECRET" => "s-1",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Identity::new(&config, env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_fills_in_what_is_left_out() {
        let workload = identity("kind = 'workload_identity'").expect("good");
        assert_eq!(
            workload.method,
            Method::Workload {
                tenant: "tenant-env".to_owned(),
                client: "client-env".to_owned(),
                file: "/var/run/secrets/azure/tokens/azure-identity-token".into(),
            }
        );
        assert_eq!(workload.https_authority(), AUTHORITY);
        assert!(workload.reroute().is_none());
        let managed = identity("kind = 'managed_identity'").expect("good");
        assert_eq!(managed.method, Method::Managed { client: None });
        assert!(managed.reroute().is_none());
        let secret = identity("kind = 'client_secret'\nclient_secret_env = 'SECRET'");
        let value = "kind = 'client_secret'\nclient_secret = 's-1'\ntenant_id = 'tenant-env'";
        assert_eq!(secret, identity(value));
        assert!(!format!("{secret:?}").contains("s-1"));
    }

    #[test]
    fn authorities_are_https_or_local() {
        let check = |given: &str, expected: Result<&str, &str>| {
            let text = format!("kind = 'workload_identity'\nauthority_host = '{given}'");
            let authority = identity(&text).map(|it| it.authority.expect("given"));
            match (authority, expected) {
                (Ok(authority), Ok(expected)) => assert_eq!(authority, expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (authority, _) => panic!("{given}: {authority:?}"),
            }
        };
        check(
            "https://login.microsoftonline.us/",
            Ok("https://login.microsoftonline.us"),
        );
        check("https://LOGIN.example:443", Ok("https://login.example"));
        check("http://127.0.0.1:4000", Ok("http://127.0.0.1:4000"));
        check("http://login.microsoftonline.com", Err("must be https"));
        check("http://10.0.0.1", Err("must be https"));
        check("ftp://127.0.0.1", Err("must be https"));
        check("https://a/tenant", Err("only scheme, host and port"));
        check("https://user:secret@a", Err("no user name"));
        check("login.microsoftonline.com", Err("is not a URL"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            (
                "kind = 'client_secret'\nclient_secret_env = 'NONE'",
                "entra.client_secret_env: no environment variable NONE",
            ),
            ("kind = 'client_secret'", "entra.client_secret: give one of"),
            (
                "kind = 'client_secret'\nclient_secret = 's'\nclient_secret_file = 'f'",
                "entra.client_secret: give one of",
            ),
            (
                "kind = 'client_secret'\nclient_secret = ''",
                "entra.client_secret: is empty",
            ),
            (
                "kind = 'client_certificate'",
                "entra.certificate_file: is needed",
            ),
            (
                "kind = 'workload_identity'\ntenant_id = '../x'",
                "entra.tenant_id: is no id",
            ),
            (
                "kind = 'developer_cli'\nauthority_host = 'https://a'",
                "entra.authority_host: is not for this kind",
            ),
            (
                "kind = 'developer_cli'\nscope = 'a b'",
                "entra.scope: is no scope",
            ),
            (
                "kind = 'managed_identity'\ntenant_id = 't'",
                "entra.tenant_id: is not for this kind",
            ),
        ] {
            let error = identity(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        let config: EntraConfig = toml::from_str("kind = 'developer_cli'").expect("good");
        assert_eq!(
            Identity::new(&config, |_| None).map(|it| it.scope),
            Ok(cognitive_services())
        );
        let config: EntraConfig = toml::from_str("kind = 'workload_identity'").expect("good");
        let error = Identity::new(&config, |_| None).expect_err("no tenant");
        assert!(
            error
                .to_string()
                .contains("AZURE_TENANT_ID is not set either")
        );
    }

    #[test]
    fn what_is_read_later_must_be_there_at_start() {
        let check = |text: &str, expected: &str| {
            let error = identity(text).expect("good").check_files();
            let error = error.expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "kind = 'workload_identity'\ntoken_file = '/no/token'",
            "entra.token_file: /no/token cannot be read",
        );
        check(
            "kind = 'client_secret'\nclient_secret_file = '/no/secret'",
            "entra.client_secret_file: /no/secret cannot",
        );
        check(
            "kind = 'client_certificate'\ncertificate_file = '/no/pem'",
            "entra.certificate_file: /no/pem: entity not found",
        );
        check(
            "kind = 'client_certificate'\ncertificate_file = '/dev/null'",
            "holds no certificate",
        );
    }

    #[test]
    fn the_same_identity_has_one_keeper() {
        let mut identities = Identities::default();
        let mut keeper = |name: &str, text: &str| {
            let config: EntraConfig = toml::from_str(text).expect("good");
            identities.keeper(name, &config).expect("good")
        };
        let managed = "kind = 'managed_identity'\nclient_id = 'c'";
        let first = keeper("east", managed);
        assert!(Arc::ptr_eq(&first, &keeper("west", managed)));
        let another = format!("{managed}\nscope = 'https://ai.azure.com/.default'");
        assert!(!Arc::ptr_eq(&first, &keeper("north", &another)));
    }
}
