//! TLS towards callers and operators: which certificate is shown, whose certificates are asked for, and how both change
//! while the process runs.
//!
//! TLS 1.2 and 1.3 by ring; callers speak HTTP/1.1 only. One certificate for all names: callers need send no SNI.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// How often the files are looked at; a change is to be picked up within 5 s (fault 20 of the faults reference).
const RELOAD_EVERY: Duration = Duration::from_secs(3);

/// The `[listener.tls]` and the `[admin.tls]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those of the authorities between it and the root, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The authorities whose client certificates are taken, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Whether callers are asked for a certificate.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// Whether who connects is asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// They may show one; one that is not good ends the connection.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alpn {
    /// HTTP/1.1, for callers.
    Http1,
    /// HTTP/2 where the other side can, for operators.
    Http2,
}

/// What is wrong with a TLS table or its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The field that names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is no PEM of what it should hold.
    #[error("{}: {problem}", path.display())]
    NotPem {
        /// The field that names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: &'static str,
    },
    /// Certificate and key do not work together.
    #[error("certificate and key cannot be used together: {0}")]
    BadPair(rustls::Error),
    /// The authorities cannot be used.
    #[error("client certificates cannot be verified: {0}")]
    BadAuthorities(String),
    /// Certificates are asked for and no authority is named, or the other way round.
    #[error("client_auth and client_ca_file need each other")]
    HalfClientAuth,
}

impl TlsError {
    /// The field of the table to look at.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Unreadable { field, .. } | Self::NotPem { field, .. } => field,
            Self::BadPair(_) => "certificate_file",
            Self::BadAuthorities(_) => "client_ca_file",
            Self::HalfClientAuth => "client_auth",
        }
    }
}

/// A listener's TLS.
pub struct Tls {
    config: TlsConfig,
    alpn: Alpn,
    current: Mutex<Current>,
}

struct Current {
    server: Arc<ServerConfig>,
    /// Of the files that were looked at last, good or not.
    fingerprint: Fingerprint,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If they cannot be used.
    pub(crate) fn load(config: &TlsConfig, alpn: Alpn) -> Result<Self, TlsError> {
        let files = Files::read(config)?;
        Ok(Self {
            config: config.clone(),
            alpn,
            current: Mutex::new(Current {
                server: files.build(config, alpn)?,
                fingerprint: files.fingerprint(),
            }),
        })
    }

    /// What the next handshake is done with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current().server))
    }

    /// Looks at the files again and again until `shutdown`.
    pub(crate) async fn watch(&self, metrics: &Metrics, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_EVERY) => self.reload(metrics),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Takes changed files if they are good. A pair that is not leaves the old one in use; it is told once.
    pub(super) fn reload(&self, metrics: &Metrics) {
        let files = Files::read(&self.config);
        let fingerprint = files.as_ref().map(Files::fingerprint).unwrap_or_default();
        if self.current().fingerprint == fingerprint {
            return;
        }
        let built = files.and_then(|files| files.build(&self.config, self.alpn));
        metrics.door().tls_reloaded(built.is_ok());
        let mut current = self.current();
        current.fingerprint = fingerprint;
        match built {
            Ok(server) => {
                current.server = server;
                tracing::info!("a listener's changed certificate files are in use");
            }
            Err(error) => tracing::error!(
                %error,
                "a listener's changed certificate files cannot be used, the old ones stay in use"
            ),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().expect("no panic while held")
    }
}

/// SHA-256 of all files; zeros if one cannot be read.
type Fingerprint = [u8; 32];

/// The files' texts.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let read = |field, path: &Path| {
            fs::read(path).map_err(|source| TlsError::Unreadable {
                field,
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            certificate: read("certificate_file", &config.certificate_file)?,
            key: read("key_file", &config.key_file)?,
            client_ca: config
                .client_ca_file
                .as_deref()
                .map(|path| read("client_ca_file", path))
                .transpose()?,
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for file in [
            &self.certificate,
            &self.key,
            self.client_ca.as_ref().unwrap_or(&Vec::new()),
        ] {
            hash.update((file.len() as u64).to_be_bytes());
            hash.update(file);
        }
        hash.finalize().into()
    }

    fn build(&self, config: &TlsConfig, alpn: Alpn) -> Result<Arc<ServerConfig>, TlsError> {
        let not_pem = |field, path: &Path, problem| TlsError::NotPem {
            field,
            path: path.to_owned(),
            problem,
        };
        let chain = certificates(&self.certificate)
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| {
                let problem = "there is no certificate in it";
                not_pem("certificate_file", &config.certificate_file, problem)
            })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            let problem = "there is no private key in it";
            not_pem("key_file", &config.key_file, problem)
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::BadPair)?;
        let builder = match self.verifier(config, provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder
            .with_single_cert(chain, key)
            .map_err(TlsError::BadPair)?;
        server.alpn_protocols = match alpn {
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(Arc::new(server))
    }

    fn verifier(
        &self,
        config: &TlsConfig,
        provider: Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let ca = match (&self.client_ca, config.client_auth) {
            (None, ClientAuth::None) => return Ok(None),
            (Some(ca), ClientAuth::Optional | ClientAuth::Required) => ca,
            _ => return Err(TlsError::HalfClientAuth),
        };
        let bad = |problem: &str| TlsError::BadAuthorities(problem.to_owned());
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca).ok_or_else(|| bad("the file is no PEM"))? {
            roots
                .add(authority)
                .map_err(|error| bad(&error.to_string()))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match config.client_auth {
            ClientAuth::Optional => builder.allow_unauthenticated(),
            ClientAuth::None | ClientAuth::Required => builder,
        };
        let verifier = builder.build().map_err(|error| bad(&error.to_string()))?;
        Ok(Some(verifier))
    }
}

/// All certificates of a PEM text; `None` if it is broken.
fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    all.ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A folder with a pair of files, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("trunkline-tls-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn config(&self) -> TlsConfig {
            TlsConfig {
                certificate_file: self.0.join("crt"),
                key_file: self.0.join("key"),
                client_ca_file: None,
                client_auth: ClientAuth::None,
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_good_pair_is_taken_and_a_broken_one_keeps_the_old() {
        let folder = Folder::new("reload");
        let (certificate, key) = pair();
        folder.write("crt", &certificate);
        folder.write("key", &key);
        let tls = Tls::load(&folder.config(), Alpn::Http1).unwrap();
        let metrics = Metrics::new();
        let check = |changed: bool, taken: u32, refused: u32| {
            let before = Arc::clone(&tls.current().server);
            tls.reload(&metrics);
            let after = Arc::clone(&tls.current().server);
            assert_eq!(!Arc::ptr_eq(&before, &after), changed);
            let page = metrics.render().unwrap();
            for (outcome, n) in [("taken", taken), ("refused", refused)] {
                let line = format!(r#"trunkline_tls_reloads_total{{outcome="{outcome}"}} {n}"#);
                assert!(n == 0 || page.contains(&line), "{line}\n{page}");
            }
        };
        check(false, 0, 0);
        let (new_certificate, new_key) = pair();
        // Half-written: the new certificate with the old key.
        folder.write("crt", &new_certificate);
        check(false, 0, 1);
        check(false, 0, 1);
        folder.write("key", &new_key);
        check(true, 1, 1);
        folder.write("key", "nonsense");
        check(false, 1, 2);
        fs::remove_file(folder.0.join("key")).unwrap();
        check(false, 1, 3);
        folder.write("key", &new_key);
        check(true, 2, 3);
    }

    #[test]
    fn mistakes_name_their_field() {
        let folder = Folder::new("mistakes");
        let (certificate, key) = pair();
        let check = |config: &TlsConfig, field: &str| {
            let error = Tls::load(config, Alpn::Http1).expect_err("a mistake");
            assert_eq!(error.field(), field, "{error}");
        };
        let config = folder.config();
        check(&config, "certificate_file");
        folder.write("crt", &key);
        check(&config, "key_file");
        folder.write("key", &key);
        check(&config, "certificate_file");
        folder.write("crt", &certificate);
        assert!(Tls::load(&config, Alpn::Http1).is_ok());
        let ca = folder.write("ca", &certificate);
        let asks = |client_auth, client_ca_file: Option<&PathBuf>| TlsConfig {
            client_auth,
            client_ca_file: client_ca_file.cloned(),
            ..config.clone()
        };
        check(&asks(ClientAuth::Required, None), "client_auth");
        check(&asks(ClientAuth::None, Some(&ca)), "client_auth");
        assert!(Tls::load(&asks(ClientAuth::Optional, Some(&ca)), Alpn::Http1).is_ok());
        let empty = folder.write("empty", "");
        check(&asks(ClientAuth::Required, Some(&empty)), "client_ca_file");
    }
}
