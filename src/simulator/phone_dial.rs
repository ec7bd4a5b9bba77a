//! Gets the phone a line: TCP, and TLS for `wss`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long TCP and TLS may each take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A line to the gateway.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// Opens lines. Reads certificates once, so make one and share it.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The file with further authorities cannot be read.
    #[error("cannot read certificates from {path}: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The address's host is no name and no IP address.
    #[error("{0:?} is not a host that can be dialled")]
    Host(String),
    /// Nobody is there, or the network says no.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Host and port.
        target: String,
        /// Why not.
        reason: io::Error,
    },
    /// TCP stands, TLS does not.
    #[error("TLS with {target} failed: {reason}")]
    Tls {
        /// Host and port.
        target: String,
        /// Why not.
        reason: io::Error,
    },
    /// Nobody answered.
    #[error("{target} did not answer within 10 s")]
    Timeout {
        /// Host and port.
        target: String,
    },
}

impl Dialer {
    /// Trusts the machine's authorities, and those in this PEM file if one is given.
    ///
    /// # Errors
    /// [`DialError::Authorities`] if the file cannot be read or holds no certificate.
    pub fn new(further_authorities: Option<&Path>) -> Result<Self, DialError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = further_authorities {
            add_authorities(&mut roots, path).map_err(|reason| DialError::Authorities {
                path: path.to_owned(),
                reason,
            })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Connects to the host of a `ws` or `wss` address.
    ///
    /// # Errors
    /// All of [`DialError`] but [`DialError::Authorities`].
    pub async fn dial(&self, uri: &Uri) -> Result<Box<dyn ByteStream>, DialError> {
        let is_tls = uri.scheme_str() == Some("wss");
        let no_host = || DialError::Host(uri.host().unwrap_or_default().to_owned());
        let host = uri.host().ok_or_else(no_host)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let target = format!("{host}:{port}");

        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
        let timed_out = || DialError::Timeout {
            target: target.clone(),
        };
        let tcp = connected
            .map_err(|_| timed_out())?
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .map_err(|reason| DialError::Connect {
                target: target.clone(),
                reason,
            })?;
        if !is_tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| no_host())?;
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
        match timeout(CONNECT_TIMEOUT, handshake).await {
            Err(_) => Err(timed_out()),
            Ok(Err(reason)) => Err(DialError::Tls { target, reason }),
            Ok(Ok(tls)) => Ok(Box::new(tls)),
        }
    }
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?;
    let mut n_added = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
        n_added += 1;
    }
    if n_added == 0 {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phone_dialect::Dialect;
    use crate::{Act, SoftPhone};
    use futures_util::StreamExt as _;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn phone(url: &str) -> SoftPhone {
        SoftPhone::new(url, Dialect::Twilio)
            .unwrap()
            .script([Act::HangUp])
    }

    #[tokio::test]
    async fn a_call_over_tls_needs_a_trusted_certificate() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pem = std::env::temp_dir().join(format!("trunkline-dial-{port}.pem"));
        std::fs::write(&pem, cert.pem()).unwrap();

        let serve = async {
            let (tcp, _) = listener.accept().await.unwrap();
            acceptor.accept(tcp).await.unwrap_err();
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(tcp).await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(tls).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        };
        let phone = phone(&format!("wss://localhost:{port}/twilio"));
        let calls = async {
            let strangers = Dialer::new(None).unwrap();
            let refused = phone.dial_and_call(&strangers).await;
            let friends = Dialer::new(Some(&pem)).unwrap();
            (refused, phone.dial_and_call(&friends).await)
        };
        let ((refused, made), ()) = tokio::join!(calls, serve);
        std::fs::remove_file(&pem).unwrap();
        let failure = refused.failure.unwrap();
        assert!(failure.starts_with("TLS with localhost:"), "{failure}");
        assert!(made.failure.is_none() && made.script_done, "{made}");
        assert_eq!(made.close.unwrap().code, Some(1_000));
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let report = phone(&format!("ws://127.0.0.1:{port}/twilio"))
            .dial_and_call(&Dialer::new(None).unwrap())
            .await;
        let failure = report.failure.unwrap();
        assert!(
            failure.starts_with("cannot connect to 127.0.0.1:"),
            "{failure}"
        );
        assert!(Dialer::new(Some(Path::new("/nowhere.pem"))).is_err());
    }
}
