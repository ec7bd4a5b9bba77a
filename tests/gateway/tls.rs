//! The model leg over TLS: a good certificate is taken, any other is refused and never bypassed.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use trunkline::simulator::{Simulator, SimulatorConfig};
use trunkline::telemetry::Metrics;
use trunkline::upstream::{Deployment, DialError, Dialer};

/// A simulator behind TLS with a certificate for `name`; its port and the certificate.
async fn serve(name: &str, tasks: &TaskTracker) -> (u16, CertificateDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![name.to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let der = certificate.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![der.clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .expect("key and certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let simulator = Arc::new(Simulator::new(SimulatorConfig::default()));
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                simulator.serve_connection(stream).await;
            }
        }
    });
    (port, der)
}

async fn dial(certificate_for: &str, trusted: bool) -> Result<(), DialError> {
    let tasks = TaskTracker::new();
    let (port, certificate) = serve(certificate_for, &tasks).await;
    let mut roots = RootCertStore::empty();
    if trusted {
        roots.add(certificate).expect("a root");
    }
    let config = format!("url = 'wss://localhost:{port}'\nmodel = 'gpt-realtime'\napi_key = 'k'");
    let config = toml::from_str(&config).expect("good");
    let deployment = Deployment::new("east", config).expect("good");
    let metrics = Metrics::new();
    let dialled = Dialer::with_roots(Arc::clone(&metrics), roots)
        .dial(&deployment, false)
        .await;
    let text = metrics.render().expect("metrics");
    let tls = r#"trunkline_call_setup_seconds_count{deployment="east",phase="tls"} 1"#;
    assert_eq!(text.contains(tls), dialled.is_ok(), "{text}");
    dialled.map(|leg| assert!(leg.session_created.contains("session.created")))
}

#[tokio::test]
async fn a_trusted_certificate_of_the_right_name_is_taken() {
    dial("localhost", true).await.expect("a session");
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let error = dial("localhost", false).await.expect_err("no session");
    assert_eq!((error.name(), error.caller_status().0), ("tls", 502));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let error = dial("elsewhere.example", true)
        .await
        .expect_err("no session");
    assert_eq!((error.name(), error.caller_status().0), ("tls", 502));
}
