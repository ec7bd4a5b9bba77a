//! One HTTP/2 connection to a gateway's admin listener, for the commands that ask its control service.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use http::header::AUTHORIZATION;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower_service::Service;

use crate::admin::control_proto::control_client::ControlClient;
use crate::secret::Source;
use crate::transport::{Transport, system_roots};

/// The token is taken from there where nothing else is said.
const TOKEN_VARIABLE: &str = "TRUNKLINE_ADMIN_TOKEN";

/// How long a connection, its TLS included, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the gateway is still there while it has nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Which gateway, and what it is shown.
#[derive(Debug, Args)]
pub(super) struct Connect {
    /// The gateway's admin address; `https://` where it has a certificate.
    #[arg(long, env = "TRUNKLINE_ADMIN", default_value = "http://127.0.0.1:9100")]
    address: String,
    /// Name of the environment variable that holds the admin token; `TRUNKLINE_ADMIN_TOKEN` where that is set.
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Path of the file that holds the admin token.
    #[arg(long, value_name = "PATH", conflicts_with = "token_env")]
    token_file: Option<PathBuf>,
    /// The authorities that the gateway's certificate is checked against, PEM; without, the system's.
    #[arg(long, value_name = "PATH")]
    ca: Option<PathBuf>,
    /// A client certificate to show, PEM.
    #[arg(long, value_name = "PATH", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "PATH", requires = "cert")]
    key: Option<PathBuf>,
}

/// What asks the control service.
pub(super) type Client = ControlClient<Channel>;

impl Connect {
    /// Connects; the error is a sentence for the user.
    pub(super) async fn client(&self) -> Result<Client, String> {
        let (is_tls, origin) = self.origin()?;
        let token = self.token()?;
        let unreachable =
            |error: &dyn Display| format!("cannot reach the gateway at {}: {error}", self.address);
        let connected = timeout(CONNECT_TIMEOUT, self.transport(is_tls, &origin)).await;
        let transport = connected
            .map_err(|_| unreachable(&"it took too long"))?
            .map_err(|error| unreachable(&error))?;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .handshake(TokioIo::new(transport));
        let (send, connection) = handshake.await.map_err(|error| unreachable(&error))?;
        // What goes wrong there, requests are told.
        TaskTracker::new().spawn(connection);
        Ok(ControlClient::new(Channel {
            send,
            origin,
            token,
        }))
    }

    fn origin(&self) -> Result<(bool, Uri), String> {
        let bad = || {
            format!(
                "--address {}: something like http://127.0.0.1:9100 was expected",
                self.address
            )
        };
        let address: Uri = self.address.parse().map_err(|_| bad())?;
        let is_tls = match address.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let is_bare = matches!(address.path(), "/" | "") && address.query().is_none();
        if address.host().is_none() || !is_bare {
            return Err(bad());
        }
        Ok((is_tls, address))
    }

    fn token(&self) -> Result<Option<HeaderValue>, String> {
        let usual = std::env::var_os(TOKEN_VARIABLE).map(|_| TOKEN_VARIABLE);
        let usual = usual.filter(|_| self.token_file.is_none());
        let source = Source {
            name: "token",
            value: None,
            env: self.token_env.as_deref().or(usual),
            file: self.token_file.as_deref(),
        };
        let Some(token) = source.read().map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let value = format!("Bearer {}", token.expose_secret());
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| "the token holds what no header may hold".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn transport(&self, is_tls: bool, origin: &Uri) -> Result<Transport, String> {
        let host = origin.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let port = origin.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = is_tls.then(|| self.tls()).transpose()?;
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let Some(tls) = tls else {
            return Ok(Transport::Tcp(stream));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, Transport::Tcp(stream)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    fn tls(&self) -> Result<TlsConnector, String> {
        let roots = match &self.ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    let added = roots.add(authority);
                    added.map_err(|error| format!("{}: {error}", path.display()))?;
                }
                roots
            }
            None => system_roots(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, private)
                    .map_err(|error| format!("{}: {error}", cert.display()))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |problem: &dyn Display| format!("{}: {problem}", path.display());
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| bad(&error))?
        .collect();
    let all = all.map_err(|error| bad(&error))?;
    match all.is_empty() {
        true => Err(bad(&"there is no certificate in it")),
        false => Ok(all),
    }
}

/// The connection, with what each request on it has to have.
#[derive(Clone)]
pub(super) struct Channel {
    send: SendRequest<Body>,
    origin: Uri,
    token: Option<HeaderValue>,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = self.origin.clone().into_parts();
        let path = request.uri().path_and_query().cloned();
        parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
        parts.scheme.get_or_insert(Scheme::HTTP);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Box::pin(self.send.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        connect: Connect,
    }

    fn connect(arguments: &[&str]) -> Result<Connect, clap::Error> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(arguments));
        line.map(|line| line.connect)
    }

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        for (address, expected) in [
            ("http://127.0.0.1:9100", Some(false)),
            ("https://gateway.example:9100/", Some(true)),
            ("http://[::1]:9100", Some(false)),
            ("127.0.0.1:9100", None),
            ("ftp://x", None),
            ("http://x/metrics", None),
            ("http://", None),
        ] {
            let connect = connect(&["--address", address]).unwrap();
            let is_tls = connect.origin().map(|(is_tls, _)| is_tls);
            assert_eq!(is_tls.ok(), expected, "{address}");
        }
    }

    #[test]
    fn a_certificate_and_its_key_need_each_other() {
        assert!(connect(&["--cert", "c"]).is_err());
        assert!(connect(&["--key", "k"]).is_err());
        assert!(connect(&["--cert", "c", "--key", "k"]).is_ok());
        assert!(connect(&["--token-env", "A", "--token-file", "b"]).is_err());
    }
}
