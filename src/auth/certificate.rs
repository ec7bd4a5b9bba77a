//! Client certificates as identities: by a name that the authority wrote into them.

use serde::Deserialize;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// One `[[auth.certificates]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Whose certificate it is.
    pub tenant: String,
    /// A subject alternative name that it has: a URI if there is a `://` in it, as in `spiffe://example.com/pbx`, else
    /// a DNS name. Wildcards stand for nothing but themselves.
    pub san: String,
}

/// The subject alternative names of a certificate whose chain was verified when the connection was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    dns: Vec<String>,
    uris: Vec<String>,
}

impl ClientCertificate {
    /// Reads a certificate. One that cannot be read has no names.
    #[must_use]
    pub fn parse(der: &[u8]) -> Self {
        let mut found = Self::default();
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return found;
        };
        let Ok(Some(names)) = certificate.subject_alternative_name() else {
            return found;
        };
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => found.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => found.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        found
    }

    fn has(&self, san: &str) -> bool {
        if san.contains("://") {
            self.uris.iter().any(|uri| uri == san)
        } else {
            self.dns.iter().any(|name| name.eq_ignore_ascii_case(san))
        }
    }
}

/// Whose certificates are let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Certificates(Vec<CertificateConfig>);

impl Certificates {
    pub(super) fn new(config: &[CertificateConfig]) -> Self {
        Self(config.to_vec())
    }

    /// The tenant whose certificate this is, if any.
    pub(super) fn tenant(&self, certificate: &ClientCertificate) -> Option<&str> {
        let known = self.0.iter().find(|known| certificate.has(&known.san))?;
        Some(&known.tenant)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(dns: &str, uri: &str) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        let uri = SanType::URI(uri.try_into().unwrap());
        params.subject_alt_names.push(uri);
        ClientCertificate::parse(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn a_tenant_is_known_by_an_exact_name() {
        let known = |tenant: &str, san: &str| CertificateConfig {
            tenant: tenant.to_owned(),
            san: san.to_owned(),
        };
        let all = Certificates::new(&[
            known("acme", "pbx.acme.example"),
            known("bolt", "spiffe://bolt.example/pbx"),
        ]);
        let check = |dns, uri, expected| {
            assert_eq!(
                all.tenant(&certificate(dns, uri)),
                expected,
                "{dns:?} {uri:?}"
            );
        };
        check("PBX.acme.example", "spiffe://x/y", Some("acme"));
        check("x.example", "spiffe://bolt.example/pbx", Some("bolt"));
        check("x.example", "spiffe://bolt.example/PBX", None);
        check("*.acme.example", "spiffe://x/y", None);
        check("evil.pbx.acme.example", "spiffe://x/y", None);
        check("acme.example", "spiffe://bolt.example", None);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        for bytes in [&b""[..], b"\x30\x82\xff\xff", &[0x30; 64]] {
            assert_eq!(
                ClientCertificate::parse(bytes),
                ClientCertificate::default()
            );
        }
    }
}
