//! Proof of a certificate to Microsoft Entra ID: a JWT signed with its key, in place of a secret.
//!
//! The identity library can do this as well, but with OpenSSL; the key here is used by the same ring as TLS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use sha2::{Digest, Sha256};

use super::token_keeper::FetchError;

/// How long an assertion may be used; Microsoft recommends 5 to 10 min
/// (learn.microsoft.com/entra/identity-platform/certificate-credentials, August 2026).
const LIFE: Duration = Duration::from_secs(600);

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Certificate {
    /// SHA-256 of the certificate, by which Entra finds it.
    thumbprint: String,
    key: Arc<dyn SigningKey>,
    client_id: String,
    audience: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a PEM file with a certificate and its RSA key. `audience` is the address of the token endpoint.
    pub(super) fn read(path: &Path, client_id: &str, audience: String) -> Result<Self, FetchError> {
        let wrong = |problem: &str| FetchError::Local(format!("{}: {problem}", path.display()));
        let pem = std::fs::read(path).map_err(|error| wrong(&error.kind().to_string()))?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|_| wrong("holds no certificate in PEM form"))?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| wrong("holds no unencrypted private key in PEM form"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .ok()
            .filter(|key| key.choose_scheme(SCHEME).is_some())
            .ok_or_else(|| wrong("its key is no RSA key of 2048 bits or more"))?;
        Ok(Self {
            thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate)),
            key,
            client_id: client_id.to_owned(),
            audience,
        })
    }

    /// An assertion that may be used from `now` on.
    fn assert(&self, now: SystemTime) -> Option<String> {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).ok()?;
        let header = serde_json::json!({
            "alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint,
        });
        let claims = serde_json::json!({
            "aud": self.audience,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": URL_SAFE_NO_PAD.encode(id),
            "iat": since_epoch.as_secs(),
            "nbf": since_epoch.as_secs(),
            "exp": (since_epoch + LIFE).as_secs(),
        });
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = signed.join(".");
        let signature = self
            .key
            .choose_scheme(SCHEME)?
            .sign(signed.as_bytes())
            .ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// PS256 of RFC 7518, section 3.5.
const SCHEME: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];

#[async_trait::async_trait]
impl ClientAssertion for Certificate {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.assert(SystemTime::now()).ok_or_else(|| {
            let error = FetchError::Local("the certificate's key cannot sign".to_owned());
            azure_core::Error::new(azure_core::error::ErrorKind::Other, error)
        })
    }
}
