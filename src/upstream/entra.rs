//! Tokens of Microsoft Entra ID, fetched by `azure_identity`.
//!
//! The library keeps tokens itself and would give out an old one although a new one was asked for; each fetch
//! therefore makes a new credential, which also reads its files anew. When to fetch is the token keeper's to say.

use std::sync::Arc;
use std::time::SystemTime;

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
use secrecy::{ExposeSecret, SecretString};

use crate::secret::Given;

use super::assertion::Certificate;
use super::credential::{can_be_sent, read_secret};
use super::deployment::DeploymentError;
use super::entra_config::{EntraConfig, Identity, Method};
use super::token_http::{Reroute, TokenHttp};
use super::token_keeper::{FetchError, FetchedToken, TokenKeeper, TokenSource};

/// Where Azure's virtual machines and nodes find their metadata service; the library knows no other address.
const METADATA_SERVICE: &str = "http://169.254.169.254";

/// Identities by what they are, so that deployments of the same one share a token.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    known: Vec<(Identity, Arc<TokenKeeper>)>,
    /// Those of the configuration before, whose tokens need not be fetched again.
    before: Vec<(Identity, Arc<TokenKeeper>)>,
}

impl Identities {
    /// For the next configuration: whoever is in this one too keeps its token.
    #[must_use]
    pub fn next(&self) -> Self {
        Self {
            known: Vec::new(),
            before: self.known.clone(),
        }
    }

    /// The keeper of that identity's token. `name` is the metric label if it is the first to ask.
    pub(super) fn keeper(
        &mut self,
        name: &str,
        config: &EntraConfig,
    ) -> Result<Arc<TokenKeeper>, DeploymentError> {
        let identity = Identity::new(config, |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })?;
        // Those that are known too: their files may have gone since.
        identity.check_files()?;
        let is_it = |(known, _): &&(Identity, _)| *known == identity;
        if let Some((_, keeper)) = self.known.iter().find(is_it) {
            return Ok(Arc::clone(keeper));
        }
        if let Some(before) = self.before.iter().find(is_it) {
            self.known.push(before.clone());
            return Ok(Arc::clone(&before.1));
        }
        let keeper = Arc::new(TokenKeeper::new(
            name,
            Box::new(EntraSource {
                http: TokenHttp::new(identity.reroute()),
                identity: identity.clone(),
            }),
            config.timeout,
            Box::new(SystemTime::now),
        ));
        self.known.push((identity, Arc::clone(&keeper)));
        Ok(keeper)
    }
}

impl Identity {
    /// What stands between the addresses that the library insists on and those that are meant.
    fn reroute(&self) -> Option<Reroute> {
        let to = self.authority.clone()?;
        let from = match &self.method {
            Method::Managed { .. } => METADATA_SERVICE.to_owned(),
            _ => self.https_authority(),
        };
        (from != to).then_some(Reroute { from, to })
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
                let secret = client_secret(secret)?.expose_secret().to_owned();
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

fn client_secret(given: &Given) -> Result<SecretString, FetchError> {
    match given {
        Given::Value(secret) => Ok(secret.clone()),
        Given::File(path) => read_secret(path).map_err(|error| {
            FetchError::Local(format!("client_secret_file {} {error}", path.display()))
        }),
    }
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
