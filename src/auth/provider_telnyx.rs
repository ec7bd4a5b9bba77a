//! How Telnyx proves that a webhook is its own: an Ed25519 signature over time and body (telephony reference 2.2).
//!
//! The stream that follows is not signed: the webhook's answer gives it a ticket, or whoever starts it a key.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use serde::Deserialize;

use super::Identity;
use super::authenticator::Denied;
use super::provider::{Mistake, SignedRequest, check_tenant, only_header};
use super::twilio_signature::Signed;

const SIGNATURE: &str = "telnyx-signature-ed25519";

/// Seconds since 1970.
const TIMESTAMP: &str = "telnyx-timestamp";

/// How far the time of a webhook may be from now, in seconds, before or after (telephony reference 2.2).
const TOLERANCE_S: u64 = 300;

/// The `[providers.telnyx]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelnyxConfig {
    /// The accounts whose webhooks are answered.
    pub accounts: Vec<TelnyxAccountConfig>,
}

/// One `[[providers.telnyx.accounts]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelnyxAccountConfig {
    /// Whose account it is.
    pub tenant: String,
    /// The account's public key, base64 of 32 bytes. No secret.
    pub public_key: String,
}

/// The accounts of all tenants.
#[derive(Clone, Debug)]
pub struct TelnyxAccounts(Vec<(String, UnparsedPublicKey<Vec<u8>>)>);

impl TelnyxAccounts {
    /// Reads the accounts. `tenants` are all that there are.
    ///
    /// # Errors
    ///
    /// What cannot work.
    pub(super) fn new(config: &TelnyxConfig, tenants: &BTreeSet<String>) -> Result<Self, Mistake> {
        let mut accounts = Vec::new();
        for (account, n) in config.accounts.iter().zip(1..) {
            check_tenant(n, &account.tenant, tenants)?;
            let key = STANDARD.decode(account.public_key.trim()).ok();
            let key = key.filter(|key| key.len() == ED25519_PUBLIC_KEY_LEN);
            let key = key.ok_or_else(|| {
                Mistake::of_account(n, "public_key", "is not the base64 of a key of 32 bytes")
            })?;
            let key = UnparsedPublicKey::new(&ED25519, key);
            accounts.push((account.tenant.clone(), key));
        }
        Ok(Self(accounts))
    }

    /// Whose account has signed a webhook, if anybody has. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// If there is a signature and it is not good, or not of about now.
    pub(super) fn caller(
        &self,
        request: SignedRequest<'_>,
        now: u64,
    ) -> Result<Option<Identity>, Denied> {
        let Signed::Webhook { body, .. } = request.signed else {
            return Ok(None);
        };
        let Some(signature) = only_header(request.headers, SIGNATURE)? else {
            return Ok(None);
        };
        let time = only_header(request.headers, TIMESTAMP)?.ok_or(Denied::BadSignature)?;
        let signature = STANDARD.decode(signature);
        let signature = signature.map_err(|_| Denied::BadSignature)?;
        let signed = [time.as_bytes(), b"|", body].concat();
        let mut accounts = self.0.iter();
        let signer = accounts.find(|(_, key)| key.verify(&signed, &signature).is_ok());
        let (tenant, _) = signer.ok_or(Denied::BadSignature)?;
        let time: u64 = time.parse().map_err(|_| Denied::BadSignature)?;
        if time.abs_diff(now) > TOLERANCE_S {
            return Err(Denied::Expired);
        }
        Ok(Some(Identity::of(tenant)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    /// Telephony reference 2.2.
    const KEY: &str = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
    const TIME: u64 = 1_735_689_600;
    const BODY: &[u8] = br#"{"data":{"event_type":"call.answered"}}"#;
    const GOOD: &str =
        "Hz1LttxI7LtgGTvg190yewWadQVm0jeQUv7zI1LjzgWYsfp+hKWOBIraE2bQlLV7ujn4kOe5d5yxgh2l1eD+Bg==";

    fn accounts(key: &str) -> Result<TelnyxAccounts, String> {
        let text = format!("[[accounts]]\ntenant = 'acme'\npublic_key = '{key}'");
        let config: TelnyxConfig = toml::from_str(&text).unwrap();
        let tenants = BTreeSet::from(["acme".to_owned()]);
        TelnyxAccounts::new(&config, &tenants).map_err(|mistake| mistake.path.join("."))
    }

    fn check(
        headers: &[(&'static str, &str)],
        body: &[u8],
        now: u64,
        expected: Result<Option<&str>, Denied>,
    ) {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, value.parse().unwrap());
        }
        let request = SignedRequest {
            target: "/telnyx/voice/desk",
            headers: &all,
            signed: Signed::Webhook { body, form: &[] },
            agent: "desk",
        };
        let found = accounts(KEY).unwrap().caller(request, now);
        let found = found.map(|found| found.map(|identity| identity.tenant));
        let expected = expected.map(|tenant| tenant.map(str::to_owned));
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn the_vector_of_the_reference() {
        let time = TIME.to_string();
        let good = [(SIGNATURE, GOOD), (TIMESTAMP, time.as_str())];
        check(&good, BODY, TIME, Ok(Some("acme")));
        check(&good, BODY, TIME + TOLERANCE_S, Ok(Some("acme")));
        check(&good, BODY, TIME - TOLERANCE_S, Ok(Some("acme")));
        check(&good, BODY, TIME + TOLERANCE_S + 1, Err(Denied::Expired));
        check(&good, BODY, TIME - TOLERANCE_S - 1, Err(Denied::Expired));
        let bad = Err(Denied::BadSignature);
        check(&good, b"{}", TIME, bad);
        check(&good[..1], BODY, TIME, bad);
        check(&[good[0], good[0], good[1]], BODY, TIME, bad);
        check(&[good[0], (TIMESTAMP, "1735689601")], BODY, TIME, bad);
        check(&[(SIGNATURE, "AAAA"), good[1]], BODY, TIME, bad);
        check(&[(SIGNATURE, "*"), good[1]], BODY, TIME, bad);
        check(&good[1..], BODY, TIME, Ok(None));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(accounts(KEY).is_ok());
        for bad in ["", "*", "AAAA"] {
            assert_eq!(
                accounts(bad).err().as_deref(),
                Some("accounts.1.public_key")
            );
        }
    }
}
