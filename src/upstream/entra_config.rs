//! What the operator says of an identity at Microsoft Entra ID, checked and with the environment filled in.
//!
//! Reads files only to see that they are there, and asks nobody for a token.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use secrecy::SecretString;
use serde::Deserialize;

use crate::secret::{Given, Source};

use super::assertion::Certificate;
use super::credential::read_secret;
use super::deployment::DeploymentError;
use super::token_http::may_be_asked;

/// The public cloud's authority.
pub(super) const AUTHORITY: &str = "https://login.microsoftonline.com";

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

/// A checked configuration with the environment filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) method: Method,
    /// Scheme and authority of whoever gives tokens; `None` for the metadata service's own address, or if a tool knows.
    pub(super) authority: Option<String>,
    pub(super) scope: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Method {
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
        secret: Given,
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

impl Identity {
    pub(super) fn new(
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
    pub(super) fn check_files(&self) -> Result<(), DeploymentError> {
        let wrong =
            |field: &str, problem: String| DeploymentError::new(format!("entra.{field}"), problem);
        match &self.method {
            Method::Workload { file, .. } => read_secret(file)
                .map(|_| ())
                .map_err(|error| wrong("token_file", format!("{} {error}", file.display()))),
            Method::Secret {
                secret: Given::File(file),
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

    /// The authority as the library wants it.
    pub(super) fn https_authority(&self) -> String {
        let authority = self.authority.as_deref().unwrap_or(AUTHORITY);
        authority.replacen("http://", "https://", 1)
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

    fn secret(&self, env: impl Fn(&str) -> Option<String>) -> Result<Given, DeploymentError> {
        let source = Source {
            name: "client_secret",
            value: self.client_secret.as_ref(),
            env: self.client_secret_env.as_deref(),
            file: self.client_secret_file.as_deref(),
        };
        let found = source
            .find(env)
            .and_then(|given| given.ok_or_else(|| source.missing()));
        found.map_err(|error| DeploymentError::new(format!("entra.{}", error.field), error.problem))
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
        let managed = identity("kind = 'managed_identity'").expect("good");
        assert_eq!(managed.method, Method::Managed { client: None });
        assert_eq!(managed.authority, None);
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
            ("kind = 'client_secret'", "entra.client_secret: one of"),
            (
                "kind = 'client_secret'\nclient_secret = 's'\nclient_secret_file = 'f'",
                "entra.client_secret: give only one of",
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
}
