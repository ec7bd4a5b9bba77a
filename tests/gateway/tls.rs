//! The model leg over the network: a good certificate is taken, any other is refused and never bypassed, and nobody
//! else is dialled because a deployment says so.

use std::sync::Arc;

use base64::Engine;
use futures_util::FutureExt;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use trunkline::simulator::{Simulator, SimulatorConfig};
use trunkline::telemetry::Metrics;
use trunkline::upstream::{Deployment, DialError, Dialer};

/// A simulator behind TLS with a certificate for `name`; its port and the certificate.
async fn serve(name: &str, tasks: &TaskTracker) -> (u16, CertificateDer<'static>) {
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    serve_with(params, tasks).await
}

async fn serve_with(
    params: CertificateParams,
    tasks: &TaskTracker,
) -> (u16, CertificateDer<'static>) {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
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
    dial_port(port, roots, "").await
}

async fn dial_port(port: u16, roots: RootCertStore, more: &str) -> Result<(), DialError> {
    let config =
        format!("url = 'wss://localhost:{port}'\nmodel = 'gpt-realtime'\napi_key = 'k'\n{more}");
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

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let tasks = TaskTracker::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (port, certificate) = serve_with(params, &tasks).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let error = dial_port(port, roots, "").await.expect_err("no session");
    assert_eq!((error.name(), error.caller_status().0), ("tls", 502));
    assert!(error.to_string().contains("expired"), "{error}");
}

/// What a server sends that knows nothing newer than TLS 1.1: the `ServerHello` of RFC 4346, section 7.4.1.3, or the
/// alert `protocol_version`.
#[tokio::test]
async fn an_outdated_protocol_is_refused() {
    let mut hello = vec![0x16, 0x03, 0x02, 0, 42, 0x02, 0, 0, 38, 0x03, 0x02];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let alert = vec![0x15, 0x03, 0x02, 0, 2, 2, 70];
    for answer in [hello, alert] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(&answer).await.expect("sent");
            // Until the gateway hangs up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (dialled, ()) = tokio::join!(dial_port(port, RootCertStore::empty(), ""), serve);
        assert_eq!(dialled.expect_err("no session").name(), "tls");
        // Nor was it tried again in another way.
        assert!(listener.accept().now_or_never().is_none());
    }
}

#[tokio::test]
async fn an_authority_of_the_operators_is_trusted_by_its_deployment_only() {
    let tasks = TaskTracker::new();
    let (port, certificate) = serve("localhost", &tasks).await;
    let path = std::env::temp_dir().join(format!("trunkline-ca-{}.pem", std::process::id()));
    let base64 = base64::engine::general_purpose::STANDARD.encode(&certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    std::fs::write(&path, pem).expect("written");
    let ca_file = format!("ca_file = '{}'", path.display());
    let none = RootCertStore::empty;
    let with = dial_port(port, none(), &ca_file).await;
    let without = dial_port(port, none(), "").await;
    std::fs::remove_file(&path).expect("removed");
    with.expect("a session");
    assert_eq!(without.expect_err("no session").name(), "tls");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let elsewhere_port = elsewhere.local_addr().expect("an address").port();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = format!("url = 'ws://127.0.0.1:{port}'\nmodel = 'm'\napi_key = 'k'");
    let deployment = Deployment::new("east", toml::from_str(&config).expect("good"));
    let deployment = deployment.expect("good");
    let dialer = Dialer::with_roots(Metrics::new(), RootCertStore::empty());
    for (status, location) in [
        (301, "/openai/v1/realtime".to_owned()),
        (302, format!("http://127.0.0.1:{port}/openai/v1/realtime")),
        (307, format!("http://127.0.0.1:{elsewhere_port}/")),
        (308, format!("//127.0.0.1:{elsewhere_port}/")),
        (303, format!("wss://localhost:{elsewhere_port}/")),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            let answer =
                format!("HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("sent");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (dialled, ()) = tokio::join!(dialer.dial(&deployment, false), serve);
        let error = dialled.expect_err("no session");
        assert!(matches!(error, DialError::Refused { status: told, .. } if told == status));
        assert_eq!((error.name(), error.caller_status().0), ("refused", 502));
        for listener in [&listener, &elsewhere] {
            assert!(listener.accept().now_or_never().is_none(), "{location}");
        }
    }
}
