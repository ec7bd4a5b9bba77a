//! Attacks by tokens (JWT): forged ones, those of others, those of another time, floods of unknown keys.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use futures_util::FutureExt;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::outbound::Outbound;

use crate::attacks::{DENIED, GA, Row, ask, door, play};
use crate::harness::World;
use crate::wire::{Wire, upgrade_request};

pub(crate) const ISSUER: &str = "https://idp.example/realm";

/// A token with that header and `good` claims but for these changes; `null` takes one away.
fn token(header: &Value, changes: &Value, signature: &[u8]) -> String {
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let mut claims =
        json!({"iss": ISSUER, "aud": "voice", "sub": "s", "iat": now, "exp": now + 300});
    for (name, value) in changes.as_object().expect("an object") {
        claims[name] = match value.as_i64() {
            // Seconds from now.
            Some(seconds) => json!(now.saturating_add_signed(seconds)),
            None => value.clone(),
        };
    }
    claims
        .as_object_mut()
        .expect("an object")
        .retain(|_, value| !value.is_null());
    token_of(&header.to_string(), &claims.to_string(), signature)
}

fn token_of(header: &str, claims: &str, signature: &[u8]) -> String {
    let parts = [header.as_bytes(), claims.as_bytes(), signature];
    parts.map(|part| BASE64.encode(part)).join(".")
}

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let made = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(kind, made.as_ref(), &random).expect("a key")
});

/// A token that the issuer signed, by the key `k1` whatever the header says.
fn signed(header: &Value, changes: &Value) -> String {
    let unsigned = token(header, changes, b"");
    let message = unsigned.trim_end_matches('.');
    let signature = KEY.sign(&SystemRandom::new(), message.as_bytes());
    format!("{message}.{}", BASE64.encode(signature.expect("signed")))
}

/// The issuer's key set, for as long as the process lives.
pub(crate) fn serve_keys() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (x, y) = KEY.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (BASE64.encode(x), BASE64.encode(y));
    let set =
        json!({"keys": [{"kty": "EC", "kid": "k1", "crv": "P-256", "x": x, "y": y}]}).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let length = set.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all((head + &set).as_bytes());
        }
    });
    address
}

/// While this waits for the real network, simulated time stands still.
async fn with_network<T>(work: impl Future<Output = T>) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    // The clock does not run ahead while there is blocking work.
    let held = tokio::task::spawn_blocking(move || wait.recv().is_ok());
    let result = work.await;
    drop(done);
    held.await.expect("no panic");
    result
}

pub(crate) async fn fetch_keys(world: &World, stop: CancellationToken) {
    let metrics = Arc::clone(world.gateway.metrics());
    let keeper = world.auth.keep_keys_fresh(Outbound::new(), metrics, stop);
    TaskTracker::new().spawn(keeper);
    with_network(async {
        while world.metric(FETCHES) < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

const FETCHES: &str =
    r#"trunkline_signing_key_fetches_total{issuer="https://idp.example/realm",outcome="ok"}"#;

/// Such a token, with the issuer's keys at hand; the outcome is that of the last.
fn with_keys(name: &'static str, outcome: &'static str, fetches: f64, tokens: Vec<String>) -> Row {
    let row = Row::new(8, name, outcome, move |world| {
        let tokens = tokens.clone();
        async move {
            let mut told = String::new();
            for token in tokens {
                let request = upgrade_request(GA, &format!("authorization: Bearer {token}\r\n"));
                told = with_network(ask(world, &request)).await;
            }
            told
        }
        .boxed_local()
    });
    row.with_issuer().counted(FETCHES, fetches)
}

#[tokio::test(start_paused = true)]
async fn by_tokens_of_a_reachable_issuer() {
    let es256 = |kid: &str| json!({"alg": "ES256", "kid": kid});
    let good = signed(&es256("k1"), &json!({}));
    let [header, _, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("a token has three parts");
    };
    let other = token(&es256("k1"), &json!({"sub": "admin"}), b"");
    let tampered = format!(
        "{header}.{}.{signature}",
        other.split('.').nth(1).expect("claims")
    );
    let flood = (0..50).map(|n| signed(&es256(&format!("k{}", 100 + n)), &json!({})));
    let good = format!("authorization: Bearer {good}\r\n");
    let counted = r#"trunkline_auth_denied_total{reason="unknown_signing_key",route="realtime"}"#;
    play(vec![
        with_keys("tampered payload", DENIED, 1.0, vec![tampered])
            .denied("realtime", "bad_signature"),
        with_keys(
            "signature of zeros",
            DENIED,
            1.0,
            vec![token(&es256("k1"), &json!({}), &[0; 64])],
        )
        .denied("realtime", "bad_signature"),
        with_keys(
            "HS256 keyed with the issuer's public key",
            DENIED,
            1.0,
            vec![hs256()],
        )
        .denied("realtime", "bad_algorithm"),
        with_keys(
            "another algorithm than the key's",
            DENIED,
            1.0,
            vec![signed(&json!({"alg": "RS256", "kid": "k1"}), &json!({}))],
        )
        .denied("realtime", "bad_algorithm"),
        with_keys(
            "unknown kid",
            DENIED,
            2.0,
            vec![signed(&es256("k2"), &json!({}))],
        )
        .denied("realtime", "unknown_signing_key"),
        with_keys("50 unknown kids: one fetch", DENIED, 2.0, flood.collect())
            .counted(counted, 50.0),
        Row::new(8, "none: a good token", "101", move |world| {
            let good = good.clone();
            async move {
                drop(Wire::open_with(world, GA, &good).await);
                "101".to_owned()
            }
            .boxed_local()
        })
        .with_issuer()
        .counted(FETCHES, 1.0)
        .dials(1),
    ])
    .await;
}

/// What a careless verifier takes: the public key as the secret of an HMAC.
fn hs256() -> String {
    let unsigned = token(&json!({"alg": "HS256", "kid": "k1"}), &json!({}), b"");
    let message = unsigned.trim_end_matches('.');
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.public_key().as_ref());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", BASE64.encode(signature))
}

#[tokio::test(start_paused = true)]
async fn by_tokens() {
    let es256 = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let jwt = |name, header: &Value, changes: Value, reason: &str| {
        let token = token(header, &changes, &[7; 64]);
        let row = door(8, name, upgrade_request(GA, &bearer(&token)), DENIED);
        row.refused("realtime", "invalid_api_key")
            .denied("realtime", reason)
    };
    let duplicate = token_of(
        &es256.to_string(),
        &format!(
            r#"{{"iss":"{ISSUER}","iss":"https://evil.example","aud":"voice","exp":9999999999}}"#
        ),
        &[7; 64],
    );
    play(vec![
        jwt(
            "alg none",
            &json!({"alg": "none"}),
            json!({}),
            "bad_algorithm",
        ),
        jwt(
            "HS256 keyed with a public key",
            &json!({"alg": "HS256", "kid": "k1"}),
            json!({}),
            "bad_algorithm",
        ),
        jwt(
            "key in the token",
            &json!({"alg": "ES256", "jku": "https://evil.example/jwks", "crit": ["jku"]}),
            json!({}),
            "unsupported_token",
        ),
        jwt(
            "wrong audience",
            &es256,
            json!({"aud": "mail"}),
            "wrong_audience",
        ),
        jwt(
            "wrong issuer",
            &es256,
            json!({"iss": "https://idp.example/other"}),
            "wrong_issuer",
        ),
        jwt("expired token", &es256, json!({"exp": -61}), "expired"),
        jwt(
            "token not yet valid",
            &es256,
            json!({"nbf": 120}),
            "not_yet_valid",
        ),
        jwt(
            "token of the future",
            &es256,
            json!({"iat": 120}),
            "not_yet_valid",
        ),
        jwt(
            "token without end",
            &es256,
            json!({"exp": null}),
            "no_expiry",
        ),
        // No key was ever fetched: nobody comes in on trust.
        door(
            8,
            "token whose key is not known",
            upgrade_request(GA, &bearer(&token(&es256, &json!({}), &[7; 64]))),
            "503 signing_keys_unavailable",
        )
        .refused("realtime", "signing_keys_unavailable")
        .denied("realtime", "keys_unavailable"),
        door(
            8,
            "a claim twice",
            upgrade_request(GA, &bearer(&duplicate)),
            DENIED,
        )
        .refused("realtime", "invalid_api_key")
        .denied("realtime", "malformed_token"),
    ])
    .await;
}
