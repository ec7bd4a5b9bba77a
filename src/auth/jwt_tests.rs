//! Tokens against one issuer: every way to forge one, and its keys through rotation and outage in simulated time.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, Uri};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::outbound::{OutboundError, Reach};
use crate::telemetry::Metrics;

use super::authenticator::Denied;
use super::issuer::{Issuer, Web};
use super::issuer_config::IssuerConfig;
use super::jwks::KeySet;
use super::jwt::{MAX_TOKEN_BYTES, Token, is_token};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://idp.example/realm";
const DISCOVERY: &str = "https://idp.example/realm/.well-known/openid-configuration";
const JWKS: &str = "https://idp.example/jwks";
const CONFIG: &str = "url = 'https://idp.example/realm'\naudience = ['voice', 'phone']\n\
    algorithms = ['RS256', 'RS384', 'PS256', 'ES256', 'ES384', 'EdDSA']\n";

// --- Keys and tokens.

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| {
    // ring makes no RSA keys.
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-outform", "DER"])
        .output()
        .expect("openssl");
    // PKCS #1 or #8, by OpenSSL's version.
    let key = RsaKeyPair::from_der(&made.stdout);
    key.or_else(|_| RsaKeyPair::from_pkcs8(&made.stdout))
        .expect("a key of 2048 bits")
});
static P256: LazyLock<EcdsaKeyPair> = LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING));
static P384: LazyLock<EcdsaKeyPair> = LazyLock::new(|| ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
static ED25519: LazyLock<Ed25519KeyPair> = LazyLock::new(|| {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key")
});

fn ec(kind: &'static ring::signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).expect("a key")
}

fn sign(algorithm: &str, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let rsa: &dyn ring::signature::RsaEncoding = match algorithm {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "PS256" => &RSA_PSS_SHA256,
        "ES256" => return P256.sign(&random, message).unwrap().as_ref().to_vec(),
        "ES384" => return P384.sign(&random, message).unwrap().as_ref().to_vec(),
        "EdDSA" | "Ed25519" => return ED25519.sign(message).as_ref().to_vec(),
        _ => return Vec::new(),
    };
    let mut signature = vec![0; RSA.public().modulus_len()];
    RSA.sign(rsa, &random, message, &mut signature).unwrap();
    signature
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The public keys under the names `rsa`, `p256`, `p384` and `ed`.
fn key_set() -> Value {
    let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(RSA.public());
    let point = |key: &EcdsaKeyPair| {
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        (encode(x), encode(y))
    };
    let (p256, p384) = (point(&P256), point(&P384));
    json!({ "keys": [
        { "kty": "RSA", "kid": "rsa", "use": "sig", "n": encode(rsa.n), "e": encode(rsa.e), "x5c": ["AAAA"] },
        { "kty": "EC", "kid": "p256", "crv": "P-256", "x": p256.0, "y": p256.1, "alg": "ES256" },
        { "kty": "EC", "kid": "p384", "crv": "P-384", "x": p384.0, "y": p384.1, "key_ops": ["verify"] },
        { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": encode(ED25519.public_key()), "alg": "Ed25519" },
    ] })
}

/// The set with the members of its first key, `rsa`, changed.
fn key_set_with(changes: &Value) -> Value {
    let mut set = key_set();
    for (name, value) in changes.as_object().unwrap() {
        set["keys"][0][name] = value.clone();
    }
    set
}

fn good_claims() -> Value {
    json!({ "iss": ISSUER, "aud": "voice", "sub": "s", "iat": NOW, "nbf": NOW, "exp": NOW + 300 })
}

/// `good_claims` with some changed; `null` takes one away.
fn claims(changes: &Value) -> String {
    let mut claims = good_claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims.to_string()
}

fn message(header: &str, claims: &str) -> String {
    format!("{}.{}", encode(header), encode(claims))
}

fn token_of(header: &Value, claims: &str) -> String {
    let message = message(&header.to_string(), claims);
    let signature = sign(header["alg"].as_str().unwrap(), message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// A good token, by that algorithm and key.
fn token_by(algorithm: &str, kid: &str) -> String {
    token_of(
        &json!({ "alg": algorithm, "kid": kid }),
        &claims(&json!({})),
    )
}

/// A token by the P-256 key with some claims changed.
fn token_with(changes: &Value) -> String {
    token_of(&json!({ "alg": "ES256", "kid": "p256" }), &claims(changes))
}

// --- An issuer and its web.

#[derive(Clone, Default)]
struct FakeWeb(Arc<Mutex<FakeWebState>>);

#[derive(Default)]
struct FakeWebState {
    answers: BTreeMap<String, (u16, String)>,
    cache_control: Option<&'static str>,
    asked: Vec<(String, Reach)>,
    latency: Duration,
}

impl Web for FakeWeb {
    async fn get(&self, url: &Uri, reach: Reach) -> Result<Response<Bytes>, OutboundError> {
        let latency = {
            let mut web = self.0.lock().unwrap();
            web.asked.push((url.to_string(), reach));
            web.latency
        };
        tokio::time::sleep(latency).await;
        let web = self.0.lock().unwrap();
        let answer = web.answers.get(&url.to_string());
        let (status, body) = answer.cloned().ok_or(OutboundError::Unreachable)?;
        let mut answer = Response::builder().status(status);
        if let Some(control) = web.cache_control {
            answer = answer.header("cache-control", control);
        }
        Ok(answer.body(body.into()).unwrap())
    }
}

impl FakeWeb {
    fn answer(&self, url: &str, body: &Value) {
        let answer = (200, body.to_string());
        self.0
            .lock()
            .unwrap()
            .answers
            .insert(url.to_owned(), answer);
    }

    fn break_down(&self) {
        self.0.lock().unwrap().answers.clear();
    }

    fn latency(&self, latency: Duration) {
        self.0.lock().unwrap().latency = latency;
    }

    /// How often the key set was asked for.
    fn fetches(&self) -> usize {
        let web = self.0.lock().unwrap();
        web.asked.iter().filter(|(url, _)| url == JWKS).count()
    }
}

struct World {
    issuer: Arc<Issuer>,
    web: FakeWeb,
    metrics: Arc<Metrics>,
    _stop: DropGuard,
}

impl World {
    /// An issuer with all keys, of which the gateway has heard nothing yet.
    fn new(config: &str) -> Self {
        let web = FakeWeb::default();
        web.answer(DISCOVERY, &json!({ "issuer": ISSUER, "jwks_uri": JWKS }));
        web.answer(JWKS, &key_set());
        let tenants = ["acme", "bolt"].map(str::to_owned).into();
        let config: IssuerConfig = toml::from_str(config).expect("good");
        let issuer = Arc::new(Issuer::new(&config, &tenants).expect("good"));
        let stop = CancellationToken::new();
        Self {
            issuer,
            web,
            metrics: Metrics::new(),
            _stop: stop.drop_guard(),
        }
    }

    /// Starts the fetching task.
    fn run(mut self) -> Self {
        let stop = CancellationToken::new();
        self._stop = stop.clone().drop_guard();
        self.issuer.start();
        let (issuer, web) = (Arc::clone(&self.issuer), self.web.clone());
        let metrics = Arc::clone(&self.metrics);
        TaskTracker::new().spawn(async move { issuer.keep_fresh(web, &metrics, stop).await });
        self
    }

    fn start(config: &str) -> Self {
        Self::new(config).run()
    }

    fn acme() -> Self {
        Self::start(&format!("{CONFIG}tenant = 'acme'"))
    }

    async fn at(&self, token: &str, now: u64) -> Result<String, Denied> {
        let token = Token::parse(token)?;
        self.issuer.tenant(&token, now).await.map(str::to_owned)
    }

    async fn shown(&self, token: &str) -> Result<String, Denied> {
        self.at(token, NOW).await
    }

    #[track_caller]
    fn expect(found: &Result<String, Denied>, expected: Result<&str, Denied>, what: &str) {
        assert_eq!(found.as_deref().map_err(|error| *error), expected, "{what}");
    }

    async fn check(&self, token: &str, expected: Result<&str, Denied>) {
        Self::expect(&self.shown(token).await, expected, token);
    }
}

// --- What is let in.

#[tokio::test(start_paused = true)]
async fn every_asymmetric_algorithm_is_known() {
    let world = World::acme();
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed"),
        ("Ed25519", "ed"),
    ] {
        world.check(&token_by(algorithm, kid), Ok("acme")).await;
    }
    assert_eq!(world.web.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_need_not_be_named_if_only_one_fits() {
    let world = World::acme();
    let unnamed = token_of(&json!({ "alg": "ES384" }), &claims(&json!({})));
    world.check(&unnamed, Ok("acme")).await;
    let mut set = key_set();
    let second = set["keys"][2].clone();
    set["keys"].as_array_mut().unwrap().push(second);
    world.web.answer(JWKS, &set);
    tokio::time::sleep(Duration::from_secs(601)).await;
    world.check(&unnamed, Err(Denied::UnknownSigningKey)).await;
}

#[tokio::test(start_paused = true)]
async fn claims_are_checked_to_the_second() {
    let world = World::acme();
    for (changes, expected) in [
        (json!({ "exp": NOW - 59 }), Ok("acme")),
        (json!({ "exp": NOW - 60 }), Err(Denied::Expired)),
        (json!({ "exp": NOW as f64 - 59.5 }), Ok("acme")),
        (json!({ "exp": -1 }), Err(Denied::Expired)),
        (json!({ "exp": null }), Err(Denied::NoExpiry)),
        (json!({ "exp": "soon" }), Err(Denied::MalformedToken)),
        (json!({ "exp": [NOW] }), Err(Denied::MalformedToken)),
        (json!({ "nbf": NOW + 60 }), Ok("acme")),
        (json!({ "nbf": NOW + 61 }), Err(Denied::NotYetValid)),
        (json!({ "nbf": null, "iat": null }), Ok("acme")),
        (json!({ "nbf": "x" }), Err(Denied::MalformedToken)),
        (json!({ "iat": NOW + 61 }), Err(Denied::NotYetValid)),
        (json!({ "aud": "voice " }), Err(Denied::WrongAudience)),
        (json!({ "aud": "Voice" }), Err(Denied::WrongAudience)),
        (json!({ "aud": null }), Err(Denied::WrongAudience)),
        (json!({ "aud": [] }), Err(Denied::WrongAudience)),
        (json!({ "aud": ["other", "phone"] }), Ok("acme")),
        (json!({ "aud": [["voice"]] }), Err(Denied::WrongAudience)),
        (json!({ "aud": { "voice": 1 } }), Err(Denied::WrongAudience)),
    ] {
        let found = world.shown(&token_with(&changes)).await;
        World::expect(&found, expected, &changes.to_string());
    }
    // Years off, either way: no panic, no overflow.
    let good = token_with(&json!({}));
    World::expect(&world.at(&good, 0).await, Err(Denied::NotYetValid), "1970");
    World::expect(
        &world.at(&good, u64::MAX).await,
        Err(Denied::Expired),
        "late",
    );
}

#[tokio::test(start_paused = true)]
async fn claims_lead_to_a_tenant() {
    let claim = format!("{CONFIG}tenant_claim = 'tid'\n");
    let world = World::start(&claim);
    let check = async |world: &World, tid: Value, expected| {
        world
            .check(&token_with(&json!({ "tid": tid })), expected)
            .await;
    };
    check(&world, json!("acme"), Ok("acme")).await;
    check(&world, json!("bolt"), Ok("bolt")).await;
    check(&world, json!("ACME"), Err(Denied::NoTenant)).await;
    check(&world, json!(["acme"]), Err(Denied::NoTenant)).await;
    check(&world, Value::Null, Err(Denied::NoTenant)).await;
    let world = World::start(&format!("{claim}tenants = {{ '72f9' = 'bolt' }}"));
    check(&world, json!("72f9"), Ok("bolt")).await;
    check(&world, json!("bolt"), Err(Denied::NoTenant)).await;
}

#[tokio::test(start_paused = true)]
async fn claims_may_be_required() {
    let world = World::start(&format!(
        "{CONFIG}tenant = 'acme'\nrequired_claims = {{ roles = 'caller', scp = 'call' }}"
    ));
    for (changes, expected) in [
        (json!({ "roles": "caller", "scp": "call" }), Ok("acme")),
        (
            json!({ "roles": ["x", "caller"], "scp": "see call" }),
            Ok("acme"),
        ),
        (
            json!({ "roles": "caller x", "scp": "call" }),
            Err(Denied::MissingClaim),
        ),
        (
            json!({ "roles": "caller", "scp": "recall" }),
            Err(Denied::MissingClaim),
        ),
        (json!({ "roles": "caller" }), Err(Denied::MissingClaim)),
        (
            json!({ "roles": true, "scp": "call" }),
            Err(Denied::MissingClaim),
        ),
    ] {
        let found = world.shown(&token_with(&changes)).await;
        World::expect(&found, expected, &changes.to_string());
    }
}

// --- What is not.

#[tokio::test(start_paused = true)]
async fn forged_headers_are_refused() {
    let world = World::acme();
    for (header, expected) in [
        (json!({ "alg": "none" }), Denied::BadAlgorithm),
        (
            json!({ "alg": "None", "kid": "p256" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "HS256", "kid": "rsa" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "RS512", "kid": "rsa" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "ES256K", "kid": "p256" }),
            Denied::BadAlgorithm,
        ),
        (json!({ "alg": "" }), Denied::BadAlgorithm),
        // Another kind of key, or one that says that it is for another algorithm.
        (
            json!({ "alg": "RS256", "kid": "p256" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "ES256", "kid": "p384" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "ES384", "kid": "p256" }),
            Denied::BadAlgorithm,
        ),
        (
            json!({ "alg": "EdDSA", "kid": "p256" }),
            Denied::BadAlgorithm,
        ),
        // Extensions and other kinds of token.
        (
            json!({ "alg": "ES256", "kid": "p256", "crit": ["exp"] }),
            Denied::UnsupportedToken,
        ),
        (
            json!({ "alg": "ES256", "kid": "p256", "b64": false }),
            Denied::UnsupportedToken,
        ),
        (
            json!({ "alg": "ES256", "kid": "p256", "zip": "DEF" }),
            Denied::UnsupportedToken,
        ),
        (
            json!({ "alg": "ES256", "kid": "p256", "typ": "logout+jwt" }),
            Denied::UnsupportedToken,
        ),
        (
            json!({ "alg": "ES256", "kid": "p256", "typ": 1 }),
            Denied::UnsupportedToken,
        ),
        (json!({ "alg": "ES256", "kid": 1 }), Denied::MalformedToken),
        (
            json!({ "alg": "ES256", "kid": "k".repeat(257) }),
            Denied::MalformedToken,
        ),
    ] {
        let found = world.shown(&token_of(&header, &claims(&json!({})))).await;
        World::expect(&found, Err(expected), &header.to_string());
    }
    let access = json!({ "alg": "ES256", "kid": "p256", "typ": "at+JWT" });
    world
        .check(&token_of(&access, &claims(&json!({}))), Ok("acme"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn keys_that_a_token_brings_along_are_not_listened_to() {
    let world = World::acme();
    world.web.answer("https://evil.example/jwks", &key_set());
    let own = &key_set()["keys"][1];
    for extra in ["jku", "x5u"] {
        let mut header = json!({ "alg": "ES256", "kid": "stranger" });
        header[extra] = "https://evil.example/jwks".into();
        let token = token_of(&header, &claims(&json!({})));
        world.check(&token, Err(Denied::UnknownSigningKey)).await;
    }
    let header = json!({ "alg": "ES256", "kid": "stranger", "jwk": own });
    let token = token_of(&header, &claims(&json!({})));
    world.check(&token, Err(Denied::UnknownSigningKey)).await;
    let web = world.web.0.lock().unwrap();
    let is_known = |(url, _): &(String, Reach)| url == DISCOVERY || url == JWKS;
    assert!(web.asked.iter().all(is_known), "{:?}", web.asked);
}

#[tokio::test(start_paused = true)]
async fn a_public_key_is_no_shared_secret() {
    // Even if an operator could list it, which the configuration refuses.
    let world = World::acme();
    let der = RSA.public().as_ref();
    let base64 = STANDARD.encode(der);
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{base64}\n-----END RSA PUBLIC KEY-----\n");
    for secret in [der, pem.as_bytes(), pem.trim_end().as_bytes()] {
        let message = message(r#"{"alg":"HS256","kid":"rsa"}"#, &claims(&json!({})));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let signature = ring::hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", encode(signature));
        world.check(&token, Err(Denied::BadAlgorithm)).await;
    }
    let listed = format!("{CONFIG}tenant = 'acme'").replace("'RS256'", "'HS256'");
    assert!(toml::from_str::<IssuerConfig>(&listed).is_err());
    let none = format!("{CONFIG}tenant = 'acme'").replace("'RS256'", "'none'");
    assert!(toml::from_str::<IssuerConfig>(&none).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_tampered_with_is_refused() {
    let world = World::acme();
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "p256"),
        ("EdDSA", "ed"),
    ] {
        let good = token_by(algorithm, kid);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let other = encode(claims(&json!({ "sub": "admin" })));
        let n = signature.len();
        let mut flipped = signature.clone();
        flipped[n / 2] ^= 1;
        let bad = Err(Denied::BadSignature);
        for (message, signature) in [
            (format!("{header}.{other}"), &signature[..]),
            (message.to_owned(), &flipped),
            (message.to_owned(), &signature[..n - 1]),
            (message.to_owned(), &[&signature[..], &[0]].concat()),
            (message.to_owned(), &vec![0; n]),
            (message.to_owned(), &[]),
        ] {
            let token = format!("{message}.{}", encode(signature));
            world.check(&token, bad).await;
        }
        world.check(&format!("{good}="), bad).await;
        world.check(&good, Ok("acme")).await;
    }
    // Another algorithm's signature by the same key.
    let message = message(r#"{"alg":"PS256","kid":"rsa"}"#, &claims(&json!({})));
    let signature = encode(sign("RS256", message.as_bytes()));
    let token = format!("{message}.{signature}");
    world.check(&token, Err(Denied::BadSignature)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_malformed() {
    let world = World::acme();
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let good = claims(&json!({}));
    let signed = |header: &str, claims: &str| {
        let message = message(header, claims);
        format!("{message}.{}", encode(sign("ES256", message.as_bytes())))
    };
    world.check(&signed(header, &good), Ok("acme")).await;
    let malformed = Err(Denied::MalformedToken);
    // Members that stand twice, whichever reader would take which.
    let twice = good.replacen('{', "{\"aud\":\"other\",", 1);
    world.check(&signed(header, &twice), malformed).await;
    let escaped = good.replacen('{', "{\"\\u0065xp\":1,", 1);
    world.check(&signed(header, &escaped), malformed).await;
    let alg = r#"{"alg":"none","alg":"ES256","kid":"p256"}"#;
    world.check(&signed(alg, &good), malformed).await;
    let kid = r#"{"alg":"ES256","kid":"p256","kid":"p256"}"#;
    world.check(&signed(kid, &good), malformed).await;
    world
        .check(&signed(r#"{"kid":"p256"}"#, &good), malformed)
        .await;
    world.check(&signed("[]", &good), malformed).await;
    world.check(&signed(header, "null"), malformed).await;
    world.check(&signed(header, "{"), malformed).await;
    for token in [
        "",
        "eyJ",
        "eyJ.eyJ.",
        "..",
        "a.b.c.d",
        "eyJhbGciOiJFUzI1NiJ9.e30",
    ] {
        world.check(token, malformed).await;
    }
    // Encodings that say the same in other letters.
    let token = signed(header, &good);
    world.check(&token.replacen('.', "=.", 1), malformed).await;
    world.check(&token.replacen('.', "\n.", 1), malformed).await;
    let long = |n: usize| token_with(&json!({ "groups": "g".repeat(n) }));
    let n = (MAX_TOKEN_BYTES - token.len()) * 3 / 4 - 16;
    world.check(&long(n), Ok("acme")).await;
    world.check(&long(n + 16), malformed).await;
}

proptest::proptest! {
    /// No bytes of a stranger's, as a token, its parts or a key set, bring the gateway down.
    #[test]
    fn whatever_comes_is_read_or_refused(
        text in "[a-zA-Z0-9_.=-]{0,80}",
        header in "\\{(\"(alg|kid|typ|crit)\":(\"ES256\"|1|null|\\[\\]|\\{\\}),?){0,4}\\}?",
        claims in "\\{(\"(iss|aud|exp|nbf)\":(\"voice\"|1e400|-1|4e9|\\[\\]),?){0,4}\\}?",
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
    ) {
        let world = World::new(&format!("{CONFIG}tenant = 'acme'"));
        for token in [text, format!("{}.AA", message(&header, &claims)), encode(&bytes)] {
            if let Ok(token) = Token::parse(&token) {
                let judged = futures_util::FutureExt::now_or_never(world.issuer.tenant(&token, NOW));
                assert!(judged.is_some_and(|judged| judged.is_err()), "nobody signed it");
            }
        }
        let _ = KeySet::parse(&bytes);
        let _ = KeySet::parse(format!("{{\"keys\":[{header},{claims}]}}").as_bytes());
    }
}

#[test]
fn a_token_is_known_by_its_form() {
    assert!(is_token(&token_by("ES256", "p256")));
    assert!(is_token("eyJ.."));
    for key in [
        "",
        "sk-1",
        "eyJ",
        "eyJ.a",
        "eyJ.a.b.c",
        "eyJ.a b.c",
        "eyJ.a+b.c",
        "ek_a.b.c",
    ] {
        assert!(!is_token(key), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_keys_for_signatures_are_used() {
    let token = token_by("RS256", "rsa");
    for (changes, expected) in [
        (json!({}), Ok("acme")),
        (json!({ "alg": "RS256" }), Ok("acme")),
        (json!({ "alg": "RS384" }), Err(Denied::BadAlgorithm)),
        (json!({ "use": "enc" }), Err(Denied::UnknownSigningKey)),
        (
            json!({ "key_ops": ["encrypt"] }),
            Err(Denied::UnknownSigningKey),
        ),
        (json!({ "alg": "RSA-OAEP" }), Err(Denied::UnknownSigningKey)),
        (json!({ "alg": "ES256" }), Err(Denied::UnknownSigningKey)),
        (json!({ "alg": 5 }), Err(Denied::UnknownSigningKey)),
        (json!({ "kid": "other" }), Err(Denied::UnknownSigningKey)),
        // 1024 bits.
        (
            json!({ "n": encode([0xff; 128]) }),
            Err(Denied::UnknownSigningKey),
        ),
        (json!({ "n": "!" }), Err(Denied::UnknownSigningKey)),
        (
            json!({ "kty": "oct", "k": "c2VjcmV0" }),
            Err(Denied::UnknownSigningKey),
        ),
        (
            json!({ "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" }),
            Err(Denied::UnknownSigningKey),
        ),
        (json!({ "kty": "new" }), Err(Denied::UnknownSigningKey)),
    ] {
        let world = World::new(&format!("{CONFIG}tenant = 'acme'"));
        world.web.answer(JWKS, &key_set_with(&changes));
        let world = world.run();
        World::expect(&world.shown(&token).await, expected, &changes.to_string());
        // What is beside it stays usable.
        world.check(&token_by("ES256", "p256"), Ok("acme")).await;
    }
}

// --- Keys over time.

#[tokio::test(start_paused = true)]
async fn a_rotated_key_costs_one_fetch_and_the_old_one_is_gone() {
    let world = World::acme();
    let (old, new) = (token_by("RS256", "rsa"), token_by("RS256", "rsa-2"));
    world.check(&old, Ok("acme")).await;
    world
        .web
        .answer(JWKS, &key_set_with(&json!({ "kid": "rsa-2" })));
    world.check(&old, Ok("acme")).await;
    assert_eq!(world.web.fetches(), 1);
    world.check(&new, Ok("acme")).await;
    assert_eq!(world.web.fetches(), 2);
    world.check(&old, Err(Denied::UnknownSigningKey)).await;
    world.check(&new, Ok("acme")).await;
    assert_eq!(world.web.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_is_refused_after_ten_minutes_at_most() {
    let world = World::acme();
    let token = token_by("RS256", "rsa");
    world.check(&token, Ok("acme")).await;
    world.web.answer(JWKS, &json!({ "keys": [] }));
    tokio::time::sleep(Duration::from_secs(599)).await;
    world.check(&token, Ok("acme")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.check(&token, Err(Denied::UnknownSigningKey)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_how_long_its_keys_are_good() {
    for (control, after) in [
        (Some("public, max-age=120"), 120),
        (Some("max-age=5"), 60),
        (Some("max-age=86400"), 600),
        (Some("no-store"), 600),
        (None, 600),
    ] {
        let world = World::new(&format!("{CONFIG}tenant = 'acme'"));
        world.web.0.lock().unwrap().cache_control = control;
        let world = world.run();
        tokio::time::sleep(Duration::from_millis(after * 1000 - 100)).await;
        assert_eq!(world.web.fetches(), 1, "{control:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.web.fetches(), 2, "{control:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_costs_one_fetch_in_thirty_seconds() {
    let world = World::acme();
    world.web.latency(Duration::from_secs(1));
    world.check(&token_by("RS256", "rsa"), Ok("acme")).await;
    let flood = async |n: u32, of: &str| {
        let tokens: Vec<_> = (0..n)
            .map(|n| token_by("ES256", &format!("{of}-{n}")))
            .collect();
        let shown = join_all(tokens.iter().map(|token| world.shown(token))).await;
        let refused = Err(Denied::UnknownSigningKey);
        assert!(shown.iter().all(|shown| *shown == refused), "{shown:?}");
    };
    flood(200, "a").await;
    assert_eq!(world.web.fetches(), 2);
    for round in 0..8 {
        flood(20, &format!("b{round}")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(world.web.fetches(), 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    flood(20, "c").await;
    assert_eq!(world.web.fetches(), 3);
    // A token that could not be good anyway causes none.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let token = token_of(
        &json!({ "alg": "ES256", "kid": "d" }),
        &claims(&json!({ "exp": 1 })),
    );
    world.check(&token, Err(Denied::Expired)).await;
    assert_eq!(world.web.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_missing_is_not_asked_for_again_soon() {
    let world = World::acme();
    let token = token_by("ES256", "stale");
    let unknown = Err(Denied::UnknownSigningKey);
    world.check(&token, unknown).await;
    // The first fetch was under way and then one was made for it.
    world.check(&token, unknown).await;
    let fetches = world.web.fetches();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(31)).await;
        world.check(&token, unknown).await;
    }
    assert_eq!(world.web.fetches(), fetches);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.check(&token, unknown).await;
    assert_eq!(world.web.fetches(), fetches + 1);
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_the_first_keys() {
    let world = World::acme();
    world.web.latency(Duration::from_secs(1));
    let began = tokio::time::Instant::now();
    let token = token_by("RS256", "rsa");
    let shown = join_all((0..50).map(|_| world.shown(&token))).await;
    assert!(shown.iter().all(|shown| *shown == Ok("acme".to_owned())));
    assert_eq!(
        began.elapsed(),
        Duration::from_secs(2),
        "discovery and keys"
    );
    assert_eq!(world.web.fetches(), 1);
    // Those that are known are answered at once, whatever is fetched meanwhile.
    tokio::time::sleep(Duration::from_millis(600_500)).await;
    let began = tokio::time::Instant::now();
    world.check(&token, Ok("acme")).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn callers_do_not_wait_for_ever() {
    let world = World::acme();
    world.web.latency(Duration::from_secs(60));
    let began = tokio::time::Instant::now();
    let token = token_by("RS256", "rsa");
    world.check(&token, Err(Denied::KeysUnavailable)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(4));
    // And not at all where nobody fetches.
    let world = World::new(&format!("{CONFIG}tenant = 'acme'"));
    let began = tokio::time::Instant::now();
    world.check(&token, Err(Denied::KeysUnavailable)).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_outage_locks_nobody_out_whose_key_is_known() {
    let world = World::acme();
    let token = token_by("RS256", "rsa");
    world.check(&token, Ok("acme")).await;
    world.web.break_down();
    for _ in 0..24 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        world.check(&token, Ok("acme")).await;
    }
    let unknown = Err(Denied::UnknownSigningKey);
    world.check(&token_by("RS256", "rsa-2"), unknown).await;
    // About once a minute, and the metrics say so.
    let text = world.metrics.render().unwrap();
    let failed = counter(
        &text,
        r#"issuer="https://idp.example/realm",outcome="failed""#,
    );
    assert!((24 * 60..24 * 60 * 2 + 10).contains(&failed), "{failed}");
    assert_eq!(
        counter(&text, r#"issuer="https://idp.example/realm",outcome="ok""#),
        1
    );
    world
        .web
        .answer(DISCOVERY, &json!({ "issuer": ISSUER, "jwks_uri": JWKS }));
    world
        .web
        .answer(JWKS, &key_set_with(&json!({ "kid": "rsa-2" })));
    tokio::time::sleep(Duration::from_secs(61)).await;
    world.check(&token_by("RS256", "rsa-2"), Ok("acme")).await;
}

fn counter(text: &str, labels: &str) -> u64 {
    let series = format!("trunkline_signing_key_fetches_total{{{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |n| n.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_issuer_is_asked_again_soon_if_it_was_down_at_the_start() {
    let world = World::new(&format!("{CONFIG}tenant = 'acme'"));
    world.web.break_down();
    let world = world.run();
    let token = token_by("RS256", "rsa");
    world.check(&token, Err(Denied::KeysUnavailable)).await;
    world
        .web
        .answer(DISCOVERY, &json!({ "issuer": ISSUER, "jwks_uri": JWKS }));
    world.web.answer(JWKS, &key_set());
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.check(&token, Ok("acme")).await;
}

// --- Where keys come from.

#[tokio::test(start_paused = true)]
async fn discovery_leads_only_where_it_may() {
    let check = async |document: Value, config: &str, expected: Option<Reach>| {
        let world = World::new(config);
        let keys = document["jwks_uri"].as_str().unwrap_or_default().to_owned();
        let discovery = format!("{}/.well-known/openid-configuration", world.issuer.url());
        world.web.answer(&discovery, &document);
        let world = world.run();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let web = world.web.0.lock().unwrap();
        let asked = web.asked.iter().find(|(url, _)| *url == keys);
        assert_eq!(asked.map(|(_, reach)| *reach), expected, "{document}");
    };
    let public = format!("{CONFIG}tenant = 'acme'");
    let document = |keys: &str| json!({ "issuer": ISSUER, "jwks_uri": keys });
    check(document(JWKS), &public, Some(Reach::Secure)).await;
    check(
        document("https://idp.example:8443/k"),
        &public,
        Some(Reach::Secure),
    )
    .await;
    check(
        document("https://keys.example/k"),
        &public,
        Some(Reach::Public),
    )
    .await;
    check(document("https://10.0.0.1/k"), &public, Some(Reach::Public)).await;
    check(document("http://keys.example/k"), &public, None).await;
    check(document("http://127.0.0.1/k"), &public, None).await;
    check(document("http://localhost/k"), &public, None).await;
    check(document("https://u:p@keys.example/k"), &public, None).await;
    check(document("file:///etc/passwd"), &public, None).await;
    let other = json!({ "issuer": "https://idp.example/other", "jwks_uri": JWKS });
    check(other, &public, None).await;
    check(json!({ "issuer": ISSUER }), &public, None).await;
    let loopback = public.replace("https://idp.example/realm", "http://127.0.0.1:9");
    let document = |keys: &str| json!({ "issuer": "http://127.0.0.1:9", "jwks_uri": keys });
    check(
        document("http://127.0.0.1:9/k"),
        &loopback,
        Some(Reach::Secure),
    )
    .await;
    check(
        document("http://localhost:8/k"),
        &loopback,
        Some(Reach::Secure),
    )
    .await;
    check(document("http://10.0.0.1/k"), &loopback, None).await;
}

#[tokio::test(start_paused = true)]
async fn the_operator_may_say_where_the_keys_are() {
    let world = World::new(&format!("{CONFIG}tenant = 'acme'\njwks_url = '{JWKS}'"));
    let world = world.run();
    world.check(&token_by("RS256", "rsa"), Ok("acme")).await;
    let web = world.web.0.lock().unwrap();
    assert_eq!(web.asked, [(JWKS.to_owned(), Reach::Secure)]);
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let check = |config: &str, expected: Option<&str>| {
        let config: IssuerConfig = toml::from_str(config).expect("the form is good");
        let tenants = ["acme"].map(str::to_owned).into();
        let found = Issuer::new(&config, &tenants).err();
        assert_eq!(found.map(|(field, _)| field), expected, "{config:?}");
    };
    let base = "url = 'https://idp.example'\naudience = 'voice'\n";
    let fixed = format!("{base}tenant = 'acme'\n");
    check(&fixed, None);
    for url in [
        "idp.example",
        "http://idp.example",
        "http://10.0.0.1",
        "ftp://idp.example",
        "https://u@idp.example",
        "https://idp.example/?a=b",
        "https://idp.example/#a",
        "",
    ] {
        check(&fixed.replace("https://idp.example", url), Some("url"));
    }
    for url in [
        "http://127.0.0.1:8",
        "http://localhost:8",
        "http://[::1]:8/r",
    ] {
        check(&fixed.replace("https://idp.example", url), None);
    }
    check(
        &format!("{fixed}jwks_url = 'http://idp.example/k'"),
        Some("jwks_url"),
    );
    check(&fixed.replace("'voice'", "[]"), Some("audience"));
    check(&fixed.replace("'voice'", "''"), Some("audience"));
    check(&format!("{fixed}algorithms = []"), Some("algorithms"));
    check(&format!("{fixed}skew = '11m'"), Some("skew"));
    check(base, Some("tenant"));
    check(&fixed.replace("acme", "nobody"), Some("tenant"));
    check(
        &format!("{fixed}tenant_claim = 'tid'"),
        Some("tenant_claim"),
    );
    check(
        &format!("{fixed}tenants = {{ a = 'acme' }}"),
        Some("tenants"),
    );
    let claim = format!("{base}tenant_claim = 'tid'\n");
    check(&claim, None);
    check(&format!("{claim}tenants = {{ a = 'acme' }}"), None);
    check(
        &format!("{claim}tenants = {{ a = 'nobody' }}"),
        Some("tenants"),
    );
}
