//! TLS towards callers, over pipes in simulated time: who is let in, how long a handshake may take, how many there
//! may be, and that a new certificate is shown without a restart.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::auth::hash_key;

use crate::harness::{CONFIG, World};
use crate::wire::upgrade_request;

const ALICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BOB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// A certificate that is its own authority.
struct Certificate {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Certificate {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key,
        }
    }
}

/// The listener's files, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(test: &str, server: &Certificate) -> Self {
        let name = format!("trunkline-caller-tls-{test}-{}", std::process::id());
        let files = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&files.0).expect("a folder");
        files.show(server);
        files
    }

    fn show(&self, server: &Certificate) {
        self.write("crt", &server.pem);
        self.write("key", &server.key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("written");
    }

    /// [`CONFIG`] with TLS, and with `tls` in its table and `more` behind.
    fn config(&self, tls: &str, more: &str) -> String {
        let folder = self.0.display();
        format!(
            "{CONFIG}\n[listener.tls]\ncertificate_file = '{folder}/crt'\nkey_file = '{folder}/key'\n{tls}\n{more}\n"
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn connector(server: &Certificate, client: Option<&Certificate>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(server.der.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::Pkcs8(client.key.serialize_der().into());
            builder
                .with_client_auth_cert(vec![client.der.clone()], key)
                .expect("key and certificate")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    world: &World,
    server: &Certificate,
    client: Option<&Certificate>,
) -> std::io::Result<TlsStream<DuplexStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    connector(server, client)
        .connect(name, world.connect_from(ALICE))
        .await
}

/// The head of the answer; empty if the gateway hangs up.
async fn ask(
    world: &World,
    server: &Certificate,
    client: Option<&Certificate>,
    request: &str,
) -> String {
    let Ok(mut stream) = connect(world, server, client).await else {
        return String::new();
    };
    let _ = stream.write_all(request.as_bytes()).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("a head is ASCII")
}

fn ended(world: &World, reason: &str) -> f64 {
    let line = format!(r#"trunkline_connections_ended_total{{reason="{reason}"}}"#);
    world.metric(&line)
}

const CALL: &str = "/v1/realtime?model=ga";

#[tokio::test(start_paused = true)]
async fn a_caller_comes_by_tls_and_speaks_http_1_only() {
    let server = Certificate::new("localhost");
    let files = Files::new("plain", &server);
    let world = World::with_config(&files.config("", ""), "");
    let stream = connect(&world, &server, None).await.expect("TLS");
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&world, &server, None, &upgrade_request(CALL, "")).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let answer = ask(&world, &server, None, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let hsts = "strict-transport-security: max-age=31536000\r\n";
    assert!(answer.contains(hsts), "{answer}");
    // Plain text is no handshake.
    let answer = World::ask(world.connect(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!answer.contains("HTTP"), "{answer}");
    assert_eq!(ended(&world, "tls_failed"), 1.0);
    world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_five_seconds_and_all_before_the_call_eight() {
    let server = Certificate::new("localhost");
    let files = Files::new("slow", &server);
    let world = World::with_config(&files.config("", ""), "");
    let mut silent = world.connect_from(ALICE);
    let asked = Instant::now();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.expect("closed");
    assert_eq!(asked.elapsed().as_secs(), 5);
    assert_eq!(ended(&world, "tls_timeout"), 1.0);
    // Four seconds late with the handshake, and then silent: the head alone would have until the ninth.
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = world.connect_from(ALICE);
    let asked = Instant::now();
    sleep(Duration::from_secs(4)).await;
    let stream = connector(&server, None).connect(name, stream).await;
    let mut stream = stream.expect("TLS");
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(asked.elapsed().as_secs(), 8);
    assert_eq!(ended(&world, "unauthenticated"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_bounded_for_a_source_and_for_all() {
    let server = Certificate::new("localhost");
    let files = Files::new("many", &server);
    let limits = "[listener.limits]\nhandshakes = 3\nhandshakes_per_source = 2";
    let world = World::with_config(&files.config("", limits), "");
    let _held = [world.connect_from(ALICE), world.connect_from(ALICE)];
    sleep(Duration::from_secs(1)).await;
    let mut third = world.connect_from(ALICE);
    assert_eq!(third.read(&mut [0]).await.expect("closed"), 0);
    assert_eq!(ended(&world, "too_many_handshakes_from_source"), 1.0);
    let _bobs = world.connect_from(BOB);
    sleep(Duration::from_secs(1)).await;
    let mut fifth = world.connect_from(BOB);
    assert_eq!(fifth.read(&mut [0]).await.expect("closed"), 0);
    assert_eq!(ended(&world, "too_many_handshakes"), 1.0);
    // Their time over, there is room.
    sleep(Duration::from_secs(5)).await;
    connect(&world, &server, None).await.expect("TLS");
}

#[tokio::test(start_paused = true)]
async fn a_client_certificate_is_an_identity() {
    let server = Certificate::new("localhost");
    let (acme, stranger) = (
        Certificate::new("pbx.acme.example"),
        Certificate::new("x.example"),
    );
    let unknown = Certificate::new("pbx.acme.example");
    let files = Files::new("mutual", &server);
    files.write("ca", &format!("{}{}", acme.pem, stranger.pem));
    let keys = format!(
        "mode = \"keys\"\nkeys = [{{ tenant = 'acme', sha256 = '{}' }}]\n\
         certificates = [{{ tenant = 'acme', san = 'pbx.acme.example' }}]",
        hash_key("k")
    );
    for (client_auth, without) in [("optional", "HTTP/1.1 401 "), ("required", "")] {
        let tls = format!(
            "client_ca_file = '{}/ca'\nclient_auth = '{client_auth}'",
            files.0.display()
        );
        let config = files.config(&tls, "[tenants.acme]");
        let config = config.replace("mode = \"none\"", &keys);
        let world = World::with_config(&config, "");
        let check = async |client: Option<&Certificate>, more: &str, expected: &str| {
            let answer = ask(&world, &server, client, &upgrade_request(CALL, more)).await;
            assert!(
                if expected.is_empty() {
                    answer.is_empty()
                } else {
                    answer.starts_with(expected)
                },
                "{client_auth} {more}: {answer}"
            );
        };
        check(Some(&acme), "", "HTTP/1.1 101 ").await;
        check(Some(&stranger), "", "HTTP/1.1 401 ").await;
        check(Some(&stranger), "api-key: k\r\n", "HTTP/1.1 101 ").await;
        // A wrong key is not made good by a certificate.
        check(Some(&acme), "api-key: wrong\r\n", "HTTP/1.1 401 ").await;
        check(None, "", without).await;
        check(Some(&unknown), "", "").await;
        let denied =
            r#"trunkline_auth_denied_total{reason="unknown_certificate",route="realtime"}"#;
        assert_eq!(world.metric(denied), 1.0);
        assert!(ended(&world, "tls_failed") >= 1.0);
        world.assert_quiet().await;
    }
}

/// With a real listener, because only a gateway that accepts looks at its files. Nobody comes in by it.
#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_shown_without_a_restart() {
    let (old, new) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let files = Files::new("rotate", &old);
    let world = World::with_config(&files.config("", ""), "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(world.gateway.clone().serve(listener, stop.clone()));
    let shown = async || connect(&world, &old, None).await.is_ok();
    assert!(shown().await);
    // Half of a pair changes nothing, the other half does.
    files.write("crt", &new.pem);
    sleep(Duration::from_secs(4)).await;
    assert!(shown().await);
    files.show(&new);
    sleep(Duration::from_secs(4)).await;
    assert!(!shown().await);
    connect(&world, &new, None).await.expect("TLS");
    for (outcome, n) in [("refused", 1.0), ("taken", 1.0)] {
        let line = format!(r#"trunkline_tls_reloads_total{{outcome="{outcome}"}}"#);
        assert_eq!(world.metric(&line), n, "{outcome}");
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
