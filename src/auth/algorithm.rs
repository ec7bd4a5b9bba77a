//! Signature algorithms of tokens, checked by ring through jsonwebtoken's hook for other cryptography.
//!
//! Only those where the gateway holds nothing but a public key (RFC 7518 section 3.1, RFC 8037): with a shared secret
//! whoever checks a token could also make one, and a public key taken for such a secret lets everybody in.

use jsonwebtoken::crypto::{self, CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey, DecodingKeyKind};
use ring::signature as ring;
use serde::Deserialize;

/// An algorithm by its JOSE name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519. `Ed25519` is its newer name (RFC 9864).
    #[serde(alias = "Ed25519")]
    EdDSA,
}

/// What a key must be for an algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// The algorithm of that name in a header or a key set, if it is one of these.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::RS256,
            "RS384" => Self::RS384,
            "RS512" => Self::RS512,
            "PS256" => Self::PS256,
            "PS384" => Self::PS384,
            "PS512" => Self::PS512,
            "ES256" => Self::ES256,
            "ES384" => Self::ES384,
            "EdDSA" | "Ed25519" => Self::EdDSA,
            _ => return None,
        })
    }

    pub(super) const fn key_kind(self) -> KeyKind {
        match self {
            Self::RS256 | Self::RS384 | Self::RS512 => KeyKind::Rsa,
            Self::PS256 | Self::PS384 | Self::PS512 => KeyKind::Rsa,
            Self::ES256 => KeyKind::P256,
            Self::ES384 => KeyKind::P384,
            Self::EdDSA => KeyKind::Ed25519,
        }
    }

    /// Whether `signature`, in base64url, is that key's over `message`.
    pub(super) fn verify(self, key: &DecodingKey, message: &str, signature: &str) -> bool {
        // Fails if it was installed before, by an earlier token.
        let _ = RING.install_default();
        let algorithm = match self {
            Self::RS256 => JwtAlgorithm::RS256,
            Self::RS384 => JwtAlgorithm::RS384,
            Self::RS512 => JwtAlgorithm::RS512,
            Self::PS256 => JwtAlgorithm::PS256,
            Self::PS384 => JwtAlgorithm::PS384,
            Self::PS512 => JwtAlgorithm::PS512,
            Self::ES256 => JwtAlgorithm::ES256,
            Self::ES384 => JwtAlgorithm::ES384,
            Self::EdDSA => JwtAlgorithm::EdDSA,
        };
        crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
    }
}

/// The gateway's TLS rests on ring, and so do its tokens: one cryptographic library. It signs nothing.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: RingVerifier::boxed,
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingVerifier {
    algorithm: JwtAlgorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn boxed(algorithm: &JwtAlgorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        Ok(Box::new(Self {
            algorithm: *algorithm,
            key: key.clone(),
        }))
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> JwtAlgorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let parameters = rsa(self.algorithm).ok_or_else(signature::Error::new)?;
                ring::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let curve = curve(self.algorithm).ok_or_else(signature::Error::new)?;
                ring::UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

/// RSA keys below 2048 bits are refused (RFC 7518 section 3.3), and those above 8192, which cost too much.
fn rsa(algorithm: JwtAlgorithm) -> Option<&'static ring::RsaParameters> {
    Some(match algorithm {
        JwtAlgorithm::RS256 => &ring::RSA_PKCS1_2048_8192_SHA256,
        JwtAlgorithm::RS384 => &ring::RSA_PKCS1_2048_8192_SHA384,
        JwtAlgorithm::RS512 => &ring::RSA_PKCS1_2048_8192_SHA512,
        JwtAlgorithm::PS256 => &ring::RSA_PSS_2048_8192_SHA256,
        JwtAlgorithm::PS384 => &ring::RSA_PSS_2048_8192_SHA384,
        JwtAlgorithm::PS512 => &ring::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// JOSE writes an ECDSA signature as two numbers of fixed length, not as DER (RFC 7518 section 3.4).
fn curve(algorithm: JwtAlgorithm) -> Option<&'static dyn ring::VerificationAlgorithm> {
    Some(match algorithm {
        JwtAlgorithm::ES256 => &ring::ECDSA_P256_SHA256_FIXED,
        JwtAlgorithm::ES384 => &ring::ECDSA_P384_SHA384_FIXED,
        JwtAlgorithm::EdDSA => &ring::ED25519,
        _ => return None,
    })
}
