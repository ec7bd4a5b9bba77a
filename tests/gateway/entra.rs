//! Tokens of Microsoft Entra ID: the real identity library against a local endpoint that answers as the real ones do.
//!
//! Real sockets and so real time: nothing here depends on how long something takes. What depends on time is tested
//! with a simulated clock beside the token keeper.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trunkline::simulator::{Simulator, SimulatorConfig};
use trunkline::telemetry::Metrics;
use trunkline::upstream::{Deployment, DialError, Dialer, Identities, ModelLeg, keep_credentials};

/// A request for a token, as it came.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    headers: http::HeaderMap,
    form: Vec<(String, String)>,
}

impl Asked {
    fn field(&self, name: &str) -> &str {
        let found = self.form.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}

/// How the endpoint answers once; afterwards it gives `token-N` for an hour to its `N`th visitor.
#[derive(Clone, Debug)]
enum Answers {
    With(u16, &'static [(&'static str, &'static str)], String),
    Never,
}

fn with(status: u16, body: &str) -> Answers {
    Answers::With(status, &[], body.to_owned())
}

struct Endpoint {
    address: SocketAddr,
    asked: Mutex<Vec<Asked>>,
    script: Mutex<VecDeque<Answers>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Endpoint {
    async fn start(script: impl IntoIterator<Item = Answers>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = Arc::new(Self {
            address: listener.local_addr().expect("an address"),
            asked: Mutex::default(),
            script: Mutex::new(script.into_iter().collect()),
            tasks: Mutex::default(),
        });
        let serves = Arc::downgrade(&endpoint);
        endpoint
            .tasks
            .lock()
            .expect("no panic while held")
            .spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Some(endpoint) = serves.upgrade() else {
                        return;
                    };
                    let answering = Arc::downgrade(&endpoint);
                    endpoint
                        .tasks
                        .lock()
                        .expect("no panic while held")
                        .spawn(async move {
                            let service = service_fn(|request| {
                                let endpoint = answering.upgrade().expect("the test holds it");
                                async move { endpoint.answer(request).await }
                            });
                            let connection = hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service);
                            // The client may go at any time.
                            let _ = connection.await;
                        });
                }
            });
        endpoint
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let n = {
            let mut asked = self.asked.lock().expect("no panic while held");
            asked.push(Asked {
                line: format!("{} {}", parts.method, parts.uri),
                headers: parts.headers,
                form: form_urlencoded::parse(&body).into_owned().collect(),
            });
            asked.len()
        };
        let answers = self.script.lock().expect("no panic while held").pop_front();
        let (status, headers, body) = match answers {
            Some(Answers::With(status, headers, body)) => (status, headers, body),
            Some(Answers::Never) => std::future::pending().await,
            None => (200, &[][..], token(n, 3600)),
        };
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Ok(response.body(Full::new(body.into())).expect("a response"))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic while held").clone()
    }
}

/// Entra's answer and the metadata service's in one: each client reads its own fields.
fn token(n: usize, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let expires_on = now.expect("after 1970").as_secs() + seconds;
    json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": format!("token-{n}"),
        "expires_on": expires_on.to_string(),
        "resource": "https://cognitiveservices.azure.com",
    })
    .to_string()
}

/// Deployments with one identity, each a simulator that knows certain tokens only.
struct World {
    deployments: Vec<Arc<Deployment>>,
    n_dialled: Vec<Arc<AtomicUsize>>,
    dialer: Dialer,
    metrics: Arc<Metrics>,
    _tasks: JoinSet<()>,
}

impl World {
    /// One deployment per list of simulator settings (TOML).
    fn new(entra: &str, simulators: &[&str]) -> Self {
        let metrics = Metrics::new();
        let mut dialer = Dialer::with_roots(Arc::clone(&metrics), rustls::RootCertStore::empty());
        let mut tasks = JoinSet::new();
        let mut identities = Identities::default();
        let mut deployments = Vec::new();
        let mut n_dialled = Vec::new();
        for (n, settings) in simulators.iter().enumerate() {
            let name = format!("d{n}");
            // Long enough for any machine; a dial that needs no token does not wait.
            let config = format!(
                "url = 'ws://127.0.0.1:1'\nmodel = 'gpt-realtime'\ntimeouts = {{ token = '60s' }}\n[entra]\n{entra}"
            );
            let config = toml::from_str(&config).expect("a good configuration");
            let deployment = Deployment::with_identities(&name, config, &mut identities);
            deployments.push(Arc::new(deployment.expect("a good configuration")));
            let settings: SimulatorConfig =
                toml::from_str(&format!("api_keys = ['a-key']\n{settings}")).expect("good");
            let simulator = Arc::new(Simulator::new(settings));
            let (accept, mut accepted) = mpsc::channel(8);
            dialer = dialer.with_memory(&name, accept);
            let dialled = Arc::new(AtomicUsize::new(0));
            n_dialled.push(Arc::clone(&dialled));
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Some(stream) = accepted.recv().await {
                    dialled.fetch_add(1, Ordering::Relaxed);
                    let simulator = Arc::clone(&simulator);
                    connections.spawn(async move { simulator.serve_connection(stream).await });
                }
            });
        }
        let keep = keep_credentials(
            deployments.clone(),
            Arc::clone(&metrics),
            CancellationToken::new(),
        );
        tasks.spawn(keep);
        Self {
            deployments,
            n_dialled,
            dialer,
            metrics,
            _tasks: tasks,
        }
    }

    async fn dial(&self, n: usize) -> Result<ModelLeg, DialError> {
        self.dialer.dial(&self.deployments[n], false).await
    }

    /// How often that deployment was dialled.
    fn n_dialled(&self, n: usize) -> usize {
        self.n_dialled[n].load(Ordering::Relaxed)
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render().expect("metrics");
        text.lines()
            .find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0.0)
    }

    fn refreshes(&self, outcome: &str) -> f64 {
        self.metric(&format!(
            r#"trunkline_token_refreshes_total{{identity="d0",outcome="{outcome}"}}"#
        ))
    }
}

/// A file of this test, gone with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("trunkline-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("written");
        Self(path)
    }

    fn path(&self) -> std::path::Display<'_> {
        self.0.display()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const SCOPE: &str = "https://cognitiveservices.azure.com/.default";

#[tokio::test]
async fn kubernetes_token_is_exchanged_and_read_anew_each_time() {
    let endpoint = Endpoint::start([]).await;
    let file = File::new("federated", "federated-1");
    let entra = format!(
        "kind = 'workload_identity'\ntenant_id = 'tenant-1'\nclient_id = 'client-1'\ntoken_file = '{}'\n\
         authority_host = 'http://{}/'\n",
        file.path(),
        endpoint.address
    );
    let world = World::new(
        &entra,
        &["entra_tokens = ['token-1']", "entra_tokens = ['token-2']"],
    );
    let _kept = world.dial(0).await.expect("a session");
    let _another = world.dial(0).await.expect("a session");
    // The token of the other deployment is the same, and refused there: it is fetched anew, and the dial repeated.
    std::fs::write(&file.0, "federated-2").expect("written");
    let _third = world.dial(1).await.expect("a session");
    assert_eq!(world.n_dialled(1), 2);
    let retries = r#"trunkline_credential_retries_total{deployment="d1"}"#;
    assert_eq!((world.metric(retries), world.refreshes("ok")), (1.0, 2.0));
    let left = world.metric(r#"trunkline_token_expiry_seconds{identity="d0"}"#);
    assert!((1.0..=3600.0).contains(&left), "{left}");
    let asked = endpoint.asked();
    assert_eq!(asked.len(), 2);
    for (asked, assertion) in asked.iter().zip(["federated-1", "federated-2"]) {
        assert_eq!(asked.line, "POST /tenant-1/oauth2/v2.0/token");
        let content_type = asked.headers["content-type"].to_str().expect("text");
        assert!(content_type.starts_with("application/x-www-form-urlencoded"));
        assert_eq!(asked.field("grant_type"), "client_credentials");
        assert_eq!(asked.field("scope"), SCOPE);
        assert_eq!(asked.field("client_id"), "client-1");
        assert_eq!(
            asked.field("client_assertion_type"),
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        assert_eq!(asked.field("client_assertion"), assertion);
    }
    // A file that is gone costs nothing as long as the token lives.
    drop(file);
    assert!(world.dial(1).await.is_ok());
}

#[tokio::test]
async fn the_metadata_service_is_asked_as_it_wants_to_be() {
    let endpoint = Endpoint::start([]).await;
    for (client, expected) in [("", None), ("client_id = 'client-1'\n", Some("client-1"))] {
        let entra = format!(
            "kind = 'managed_identity'\n{client}authority_host = 'http://{}'\n",
            endpoint.address
        );
        let world = World::new(&entra, &["entra_tokens = ['token-1', 'token-2']"]);
        world.dial(0).await.expect("a session");
        let asked = endpoint.asked().pop().expect("a request");
        let (path, query) = asked.line.split_once('?').expect("a query");
        assert_eq!(path, "GET /metadata/identity/oauth2/token");
        let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let field = |name: &str| {
            let found = query.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_ref())
        };
        assert_eq!(
            field("resource"),
            Some("https://cognitiveservices.azure.com")
        );
        assert!(field("api-version").is_some());
        assert_eq!(field("client_id"), expected);
        assert_eq!(asked.headers["metadata"], "true");
    }
}

#[tokio::test]
async fn a_secret_is_read_anew_each_time_too() {
    let endpoint = Endpoint::start([]).await;
    let file = File::new("secret", "secret-1\n");
    let entra = format!(
        "kind = 'client_secret'\ntenant_id = 'tenant-1'\nclient_id = 'client-1'\nclient_secret_file = '{}'\n\
         authority_host = 'http://{}'\nscope = 'https://ai.azure.com/.default'\n",
        file.path(),
        endpoint.address
    );
    let world = World::new(&entra, &["entra_tokens = ['token-2']"]);
    // The first token waits for the first dial; it is refused, and by then there is another secret.
    while endpoint.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    std::fs::write(&file.0, "secret-2").expect("written");
    world.dial(0).await.expect("a session");
    let asked = endpoint.asked();
    let secrets: Vec<_> = asked.iter().map(|it| it.field("client_secret")).collect();
    assert_eq!(secrets, ["secret-1", "secret-2"]);
    assert_eq!(asked[0].line, "POST /tenant-1/oauth2/v2.0/token");
    assert_eq!(asked[0].field("grant_type"), "client_credentials");
    assert_eq!(asked[0].field("scope"), "https://ai.azure.com/.default");
}

/// Made by `openssl req -x509 -newkey rsa:2048 -nodes`; it opens nothing.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/entra/client.pem");
const PUBLIC_KEY: &str = include_str!("../golden/entra/client.pub.pem");

#[tokio::test]
async fn a_certificate_is_proved_by_a_signature() {
    let endpoint = Endpoint::start([]).await;
    let entra = format!(
        "kind = 'client_certificate'\ntenant_id = 'tenant-1'\nclient_id = 'client-1'\n\
         certificate_file = '{CERTIFICATE}'\nauthority_host = 'http://{}'\n",
        endpoint.address
    );
    let world = World::new(&entra, &["entra_tokens = ['token-1']"]);
    world.dial(0).await.expect("a session");
    let asked = endpoint.asked().pop().expect("a request");
    assert_eq!(asked.field("scope"), SCOPE);
    let assertion = asked.field("client_assertion");
    let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("three parts");
    let decode = |part| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let header: Value = serde_json::from_slice(&decode(header)).expect("JSON");
    let claims: Value = serde_json::from_slice(&decode(claims)).expect("JSON");
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("PS256"), &json!("JWT"))
    );
    // `openssl x509 -fingerprint -sha256`, as base64url.
    assert_eq!(
        header["x5t#S256"],
        include_str!("../golden/entra/client.x5t").trim()
    );
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&json!("client-1"), &json!("client-1"))
    );
    let audience = format!("https://{}/tenant-1/oauth2/v2.0/token", endpoint.address);
    assert_eq!(claims["aud"], audience);
    let life = claims["exp"].as_u64().expect("a time") - claims["nbf"].as_u64().expect("a time");
    assert_eq!(life, 600);
    // The bit string within the SubjectPublicKeyInfo of a 2048-bit RSA key begins at its 25th byte.
    let public = SubjectPublicKeyInfoDer::from_pem_slice(PUBLIC_KEY.as_bytes()).expect("a key");
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let (_, pss) = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == rustls::SignatureScheme::RSA_PSS_SHA256)
        .expect("ring verifies PSS");
    pss[0]
        .verify_signature(&public[24..], signed.as_bytes(), &decode(signature))
        .expect("signed by the certificate's key");
}

fn by_secret(endpoint: &Endpoint, more: &str) -> String {
    format!(
        "kind = 'client_secret'\ntenant_id = 't'\nclient_id = 'c'\nclient_secret = 'the-client-secret'\n\
         authority_host = 'http://{}'\n{more}",
        endpoint.address
    )
}

/// Whatever the endpoint does once, the first dial waits, and gets its session as soon as there is a token.
#[tokio::test]
async fn whatever_the_endpoint_answers_the_next_token_is_taken() {
    let elsewhere = Endpoint::start([]).await;
    let location: &'static str = format!("http://{}/t/oauth2/v2.0/token", elsewhere.address).leak();
    let redirect: &'static [_] = vec![("location", location)].leak();
    let echo = r#"{"error":"the-client-secret","error_description":"you sent the-client-secret"}"#;
    let mut running = JoinSet::new();
    for (answer, outcome) in [
        (with(500, "<html>"), "refused"),
        (with(401, echo), "refused"),
        (
            with(400, r#"{"error":"invalid_client","error_codes":[7000215]}"#),
            "refused",
        ),
        (
            Answers::With(429, &[("retry-after", "1")], String::new()),
            "refused",
        ),
        (Answers::With(302, redirect, String::new()), "refused"),
        (Answers::With(307, redirect, String::new()), "refused"),
        (Answers::Never, "timeout"),
        (with(200, "<html>the-client-secret"), "answer"),
        (with(200, ""), "answer"),
        (with(200, "{}"), "answer"),
        (with(200, &"x".repeat(70_000)), "answer"),
        (
            with(200, r#"{"access_token":"a\nb","expires_in":3600}"#),
            "answer",
        ),
        (
            with(200, r#"{"access_token":7,"expires_in":3600}"#),
            "answer",
        ),
        (
            with(
                200,
                r#"{"access_token":"t","expires_in":9223372036854775807}"#,
            ),
            "answer",
        ),
        (
            with(200, r#"{"access_token":"t","expires_in":-5}"#),
            "answer",
        ),
        (
            with(200, r#"{"access_token":"t","expires_in":0}"#),
            "expired",
        ),
    ] {
        let name = format!("{answer:?}");
        let is_slow = matches!(answer, Answers::Never);
        running.spawn(async move {
            let endpoint = Endpoint::start([answer]).await;
            let more = if is_slow { "timeout = '1s'" } else { "" };
            let world = World::new(
                &by_secret(&endpoint, more),
                &["entra_tokens = ['token-2', 'token-3']"],
            );
            // While the pause before the next try is longer than a dial waits, dials are refused.
            world.dial(0).await.expect("a session");
            assert_eq!(world.refreshes(outcome), 1.0, "{name}");
            assert_eq!(world.refreshes("ok"), 1.0, "{name}");
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("as expected");
    }
    assert!(elsewhere.asked().is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn a_short_token_is_refreshed_before_it_is_over() {
    let script = [with(200, &token(1, 2)), with(200, &token(2, 2))];
    let endpoint = Endpoint::start(script).await;
    let accepts = "entra_tokens = ['token-1', 'token-2', 'token-3']";
    let world = World::new(&by_secret(&endpoint, ""), &[accepts]);
    while world.refreshes("ok") < 3.0 {
        world.dial(0).await.expect("a session");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        world.metric(r#"trunkline_dial_failures_total{deployment="d0""#),
        0.0
    );
}

#[tokio::test]
async fn a_deployment_that_refuses_every_token_causes_one_refresh() {
    let endpoint = Endpoint::start([]).await;
    let world = World::new(&by_secret(&endpoint, ""), &["entra_tokens = ['another']"]);
    for n_dialled in [2, 3, 4] {
        let error = world.dial(0).await.expect_err("refused");
        assert_eq!(
            (error.name(), error.caller_status().0),
            ("unauthorized", 502)
        );
        assert!(!error.to_string().contains("token-"), "{error}");
        assert_eq!(world.n_dialled(0), n_dialled);
        assert_eq!(endpoint.asked().len(), 2);
    }
}

#[tokio::test]
async fn a_403_is_about_rights_and_needs_no_other_token() {
    let endpoint = Endpoint::start([]).await;
    let refuse = "entra_tokens = ['token-1']\n[[faults]]\nkind = 'refuse'\nstatus = 403\n";
    let world = World::new(&by_secret(&endpoint, ""), &[refuse]);
    let error = world.dial(0).await.expect_err("refused");
    assert_eq!(error.name(), "unauthorized");
    assert_eq!(world.n_dialled(0), 1);
    assert_eq!(endpoint.asked().len(), 1);
}

/// Nobody fetches here, as if the endpoint never answered.
#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_dialled() {
    let config = "url = 'ws://127.0.0.1:1'\nmodel = 'm'\n[entra]\nkind = 'developer_cli'\n";
    let config = toml::from_str(config).expect("good");
    let deployment = Deployment::new("east", config).expect("good");
    let (accept, mut accepted) = mpsc::channel(1);
    let metrics = Metrics::new();
    let dialer = Dialer::with_roots(Arc::clone(&metrics), rustls::RootCertStore::empty())
        .with_memory("east", accept);
    let began = tokio::time::Instant::now();
    let error = dialer.dial(&deployment, false).await.expect_err("no token");
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert_eq!((error.name(), error.caller_status().0), ("no_token", 503));
    assert!(accepted.try_recv().is_err());
    let counted = r#"trunkline_dial_failures_total{deployment="east",reason="no_token"} 1"#;
    assert!(metrics.render().expect("metrics").contains(counted));
}
