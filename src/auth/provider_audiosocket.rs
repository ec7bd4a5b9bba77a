//! How an Asterisk proves itself by AudioSocket: the UUID that a call begins with is a secret of the dialplan
//! (telephony reference 9.6). It is sent in plain text, so it is no better than the network between the two.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::Identity;
use super::authenticator::Denied;
use super::provider::{Mistake, SignedRequest, check_tenant};
use crate::secret::Source;

/// The header in which the listener shows the UUID, as 32 hexadecimal digits; no request comes with it.
pub const AUDIOSOCKET_UUID: &str = "audiosocket-uuid";

/// The `[providers.audiosocket]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioSocketConfig {
    /// The UUIDs whose calls are let in.
    pub accounts: Vec<AudioSocketAccountConfig>,
}

/// One `[[providers.audiosocket.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioSocketAccountConfig {
    /// Whose calls they are.
    pub tenant: String,
    /// Who answers them; without, that of `[listener.audiosocket]`.
    pub agent: Option<String>,
    /// The UUID; better one of the two below.
    pub uuid: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub uuid_env: Option<String>,
    /// Path of the file that holds it.
    pub uuid_file: Option<PathBuf>,
}

/// The UUIDs of all tenants.
#[derive(Clone)]
pub struct AudioSocketAccounts(Vec<Account>);

#[derive(Clone)]
struct Account {
    tenant: String,
    agent: Option<String>,
    uuid: SecretString,
}

impl AudioSocketAccounts {
    /// Reads the accounts. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(
        config: &AudioSocketConfig,
        tenants: &BTreeSet<String>,
    ) -> Result<Self, Mistake> {
        let mut accounts: Vec<Account> = Vec::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            let mistake = |field: &str, problem: &str| Mistake::of_account(n, field, problem);
            check_tenant(n, &account.tenant, tenants)?;
            let source = Source {
                name: "uuid",
                value: account.uuid.as_ref(),
                env: account.uuid_env.as_deref(),
                file: account.uuid_file.as_deref(),
            };
            let uuid = source.required();
            let uuid = uuid.map_err(|error| mistake(&error.field, &error.problem))?;
            let uuid = digits(uuid.expose_secret()).ok_or_else(|| mistake("uuid", "is no UUID"))?;
            let is_same = |other: &Account| other.uuid.expose_secret() == uuid.expose_secret();
            if accounts.iter().any(is_same) {
                return Err(mistake("uuid", "this UUID stands twice"));
            }
            accounts.push(Account {
                tenant: account.tenant.clone(),
                agent: account.agent.clone(),
                uuid,
            });
        }
        Ok(Self(accounts))
    }

    /// Whose call it is, if there is a UUID.
    ///
    /// # Errors
    ///
    /// If it is nobody's.
    pub(super) fn caller(&self, request: SignedRequest<'_>) -> Result<Option<Identity>, Denied> {
        let Some(shown) = request.headers.get(AUDIOSOCKET_UUID) else {
            return Ok(None);
        };
        let mut found = None;
        // All are compared, so that the time says nothing of which it is.
        for account in &self.0 {
            let is_it = account
                .uuid
                .expose_secret()
                .as_bytes()
                .ct_eq(shown.as_bytes());
            if bool::from(is_it) {
                found = Some(account);
            }
        }
        let account = found.ok_or(Denied::UnknownKey)?;
        let mut identity = Identity::of(account.tenant.as_str());
        identity.agent.clone_from(&account.agent);
        Ok(Some(identity))
    }
}

/// The digits of a UUID in lower case (RFC 9562 section 4).
fn digits(text: &str) -> Option<SecretString> {
    let is_grouped = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_grouped && is_hex).then(|| digits.to_ascii_lowercase().into())
}

impl fmt::Debug for AudioSocketAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants: Vec<_> = self.0.iter().map(|account| &account.tenant).collect();
        f.debug_tuple("AudioSocketAccounts")
            .field(&tenants)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::twilio_signature::Signed;
    use super::*;

    const UUID: &str = "40325EC2-5EFD-4BD3-805F-53576E581D13";

    fn account(uuid: &str, agent: Option<&str>) -> AudioSocketAccountConfig {
        AudioSocketAccountConfig {
            tenant: "acme".to_owned(),
            agent: agent.map(str::to_owned),
            uuid: Some(uuid.into()),
            uuid_env: None,
            uuid_file: None,
        }
    }

    fn build(accounts: Vec<AudioSocketAccountConfig>) -> Result<AudioSocketAccounts, Mistake> {
        let tenants = BTreeSet::from(["acme".to_owned()]);
        AudioSocketAccounts::new(&AudioSocketConfig { accounts }, &tenants)
    }

    #[test]
    fn a_uuid_leads_to_tenant_and_agent() {
        let accounts = build(vec![account(UUID, Some("desk"))]).unwrap();
        let check = |shown: Option<&str>, expected: Result<Option<&str>, Denied>| {
            let mut headers = HeaderMap::new();
            if let Some(shown) = shown {
                headers.insert(AUDIOSOCKET_UUID, shown.parse().unwrap());
            }
            let found = accounts.caller(SignedRequest {
                target: "",
                headers: &headers,
                signed: Signed::Upgrade,
                agent: "",
            });
            let agent = found.map(|it| it.and_then(|it| it.agent));
            assert_eq!(agent, expected.map(|it| it.map(str::to_owned)));
        };
        check(Some("40325ec25efd4bd3805f53576e581d13"), Ok(Some("desk")));
        check(
            Some("40325ec25efd4bd3805f53576e581d14"),
            Err(Denied::UnknownKey),
        );
        check(Some(""), Err(Denied::UnknownKey));
        check(None, Ok(None));
        assert!(
            !format!("{accounts:?}")
                .to_ascii_lowercase()
                .contains("40325")
        );
    }

    #[test]
    fn mistakes_are_named() {
        let check = |accounts, expected: &str| {
            assert_eq!(build(accounts).unwrap_err().problem, expected);
        };
        check(vec![account("40325ec2", None)], "is no UUID");
        let twice = vec![account(UUID, None), account(&UUID.to_lowercase(), None)];
        check(twice, "this UUID stands twice");
        let mut nobody = account(UUID, None);
        nobody.tenant = "bolt".to_owned();
        check(vec![nobody], "there is no such tenant");
    }
}
