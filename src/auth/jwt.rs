//! A bearer token (RFC 7519) taken apart and judged by one issuer's rules. Pure: the time comes in.
//!
//! A token is read once, strictly, and every decision is taken on what was read then. Where a header points to keys
//! (`jku`, `jwk`, `x5u`, `x5c`) it is not listened to: keys come from the issuer's own key set only.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::authenticator::Denied;
use super::issuer_config::{IssuerConfig, TenantRule};
use super::json;

/// The longest token that is read. Those with many groups reach some kilobytes.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The longest name of a key.
pub(super) const MAX_KID_BYTES: usize = 256;

/// What a token may say that it is: nothing, a JWT, or an access token (RFC 9068 section 2.1). Others, as logout
/// tokens and proofs of possession, are signed by the same keys and meant for something else (RFC 8725 section 3.11).
const TYPES: &[&str] = &["JWT", "at+jwt", "application/at+jwt", "application/jwt"];

/// Whether a secret has the form of a token: three parts, the first of them an object in base64url.
pub(super) fn is_token(secret: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    secret.starts_with("eyJ")
        && secret.split('.').count() == 3
        && secret
            .bytes()
            .all(|byte| byte == b'.' || is_base64url(byte))
}

/// A token that is well formed. Nothing in it is true before its signature was verified.
pub(super) struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Map<String, Value>,
    /// What is signed.
    message: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// If it is malformed, or says that it is something else than what is understood here.
    pub(super) fn parse(token: &'a str) -> Result<Self, Denied> {
        let malformed = Denied::MalformedToken;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = message.split_once('.').ok_or(malformed)?;
        let header = decode(header).ok_or(malformed)?;
        let claims = decode(claims).ok_or(malformed)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.clone()),
            Some(_) => return Err(malformed),
        };
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(malformed)?;
        check_is_understood(&header)?;
        Ok(Self {
            algorithm: Algorithm::named(algorithm).ok_or(Denied::BadAlgorithm)?,
            kid,
            claims,
            message,
            signature,
        })
    }

    /// Who says that it made it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether that key signed it. The key must be one for the token's algorithm.
    pub(super) fn is_signed_by(&self, key: &jsonwebtoken::DecodingKey) -> bool {
        self.algorithm.verify(key, self.message, self.signature)
    }

    /// A time in seconds since 1970 (RFC 7519 section 2: fractions are allowed).
    fn time(&self, claim: &str) -> Result<Option<f64>, Denied> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(time) => time.as_f64().map(Some).ok_or(Denied::MalformedToken),
        }
    }
}

/// A part of a token that is an object, with no member twice.
pub(super) fn decode(part: &str) -> Option<Map<String, Value>> {
    json::object(&URL_SAFE_NO_PAD.decode(part).ok()?)
}

/// A header whose extensions must be understood is refused (RFC 7515 section 4.1.11): none is understood here.
pub(super) fn check_is_understood(header: &Map<String, Value>) -> Result<(), Denied> {
    if ["crit", "b64", "zip", "enc"]
        .iter()
        .any(|name| header.contains_key(*name))
    {
        return Err(Denied::UnsupportedToken);
    }
    match header.get("typ") {
        None => Ok(()),
        Some(Value::String(typ)) if TYPES.iter().any(|known| known.eq_ignore_ascii_case(typ)) => {
            Ok(())
        }
        Some(_) => Err(Denied::UnsupportedToken),
    }
}

/// What one issuer's tokens must be.
#[derive(Debug)]
pub(super) struct Rules {
    algorithms: Vec<Algorithm>,
    audience: Vec<String>,
    skew: f64,
    required: Vec<(String, String)>,
    tenant: TenantRule,
}

impl Rules {
    /// The rules of a configuration that was checked.
    pub(super) fn new(config: &IssuerConfig, tenant: TenantRule) -> Self {
        Self {
            algorithms: config.algorithms.clone(),
            audience: config.audience.clone(),
            skew: config.skew.as_secs_f64(),
            required: config.required_claims.clone().into_iter().collect(),
            tenant,
        }
    }

    /// Whose caller brings this token, once its signature is verified too. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub(super) fn tenant(&self, token: &Token<'_>, now: u64) -> Result<&str, Denied> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Denied::BadAlgorithm);
        }
        self.check_times(token, now as f64)?;
        let is_ours = |audience: &Value| {
            let audience = audience.as_str();
            audience.is_some_and(|given| self.audience.iter().any(|ours| ours == given))
        };
        match token.claims.get("aud") {
            Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => {}
            Some(audience) if is_ours(audience) => {}
            _ => return Err(Denied::WrongAudience),
        }
        let has = |(name, value): &(String, String)| has_claim(&token.claims, name, value);
        if !self.required.iter().all(has) {
            return Err(Denied::MissingClaim);
        }
        self.tenant.of(&token.claims).ok_or(Denied::NoTenant)
    }

    fn check_times(&self, token: &Token<'_>, now: f64) -> Result<(), Denied> {
        let expires = token.time("exp")?.ok_or(Denied::NoExpiry)?;
        if now >= expires + self.skew {
            return Err(Denied::Expired);
        }
        for begins in ["nbf", "iat"] {
            if token.time(begins)?.is_some_and(|at| at > now + self.skew) {
                return Err(Denied::NotYetValid);
            }
        }
        Ok(())
    }
}

/// Whether a claim is that text or a list that holds it. Scopes are words in one text (RFC 8693 section 4.2).
fn has_claim(claims: &Map<String, Value>, name: &str, value: &str) -> bool {
    match claims.get(name) {
        Some(Value::String(words)) if matches!(name, "scope" | "scp") => {
            words.split(' ').any(|word| word == value)
        }
        Some(Value::String(text)) => text == value,
        Some(Value::Array(list)) => list.iter().any(|member| member.as_str() == Some(value)),
        _ => false,
    }
}
