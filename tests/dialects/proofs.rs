//! How the providers of the dialects prove themselves, made here as they make it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::json;
use sha1::Sha1;
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline::outbound::Outbound;
use trunkline::simulator::SoftPhone;

use crate::harness::World;

/// An API key of the tenant `acme`.
pub(crate) const KEY: &str = "tk_dialects";

/// `Authorization: Basic` (RFC 7617).
pub(crate) fn basic(phone: SoftPhone, password: &str) -> SoftPhone {
    let credentials = STANDARD.encode(format!("trunkline:{password}"));
    let value = format!("Basic {credentials}");
    phone.header("authorization", &value).expect("base64")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

// Twilio: telephony reference 1.2.

pub(crate) const TWILIO_TOKEN: &str = "12345";

pub(crate) fn twilio_accounts() -> String {
    format!("[[twilio.accounts]]\ntenant = 'acme'\nauth_token = '{TWILIO_TOKEN}'\n")
}

pub(crate) fn twilio(phone: SoftPhone, token: &str) -> SoftPhone {
    let url = format!("wss://gateway{}", phone.uri().path());
    let mut mac = Hmac::<Sha1>::new_from_slice(token.as_bytes()).expect("a key of any length");
    mac.update(url.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    phone
        .header("x-twilio-signature", &signature)
        .expect("base64")
}

// Plivo and Vobiz: telephony reference 4.1.

pub(crate) const PLIVO_TOKEN: &str = "secret";

pub(crate) fn plivo_accounts(provider: &str) -> String {
    format!("[[providers.{provider}.accounts]]\ntenant = 'acme'\nauth_token = '{PLIVO_TOKEN}'\n")
}

pub(crate) fn plivo(phone: SoftPhone, provider: &str, token: &str) -> SoftPhone {
    // A signed upgrade is good once.
    static CALLS: AtomicU64 = AtomicU64::new(1_234_567_890);
    let nonce = CALLS.fetch_add(1, Ordering::Relaxed).to_string();
    let text = format!("wss://gateway{}.{nonce}", phone.uri().path());
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length");
    mac.update(text.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let name = format!("x-{provider}-signature-v3");
    phone
        .header(&name, &signature)
        .and_then(|phone| phone.header(&format!("{name}-nonce"), &nonce))
        .expect("base64 and digits")
}

// Genesys: telephony reference 8.2. The phone signs by itself.

pub(crate) const GENESYS_KEY: &str = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";

pub(crate) const GENESYS_SECRET: &str = "TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=";

pub(crate) fn genesys_accounts() -> String {
    format!(
        "[[providers.genesys.accounts]]\ntenant = 'acme'\napi_key = '{GENESYS_KEY}'\n\
         client_secret = '{GENESYS_SECRET}'\n"
    )
}

// AudioSocket: telephony reference 9.6.

pub(crate) const AUDIOSOCKET_UUID: &str = "40325ec2-5efd-4bd3-805f-53576e581d13";

pub(crate) fn audiosocket_accounts() -> String {
    format!(
        "[[providers.audiosocket.accounts]]\ntenant = 'acme'\nagent = 'desk'\n\
         uuid = '{AUDIOSOCKET_UUID}'\n"
    )
}

// Vonage: telephony reference 3.1.

pub(crate) const VONAGE_SECRET: &str = "signature-secret";

pub(crate) fn vonage_accounts() -> String {
    format!(
        "[[providers.vonage.accounts]]\ntenant = 'acme'\napi_key = 'abcd1234'\n\
         signature_secret = '{VONAGE_SECRET}'\n"
    )
}

/// A token of the account by that secret; each is another.
pub(crate) fn vonage_token(secret: &str) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({
        "iss": "Vonage",
        "iat": now(),
        "jti": format!("{:032x}", fastrand::u128(..)),
        "api_key": "abcd1234",
        "application_id": "99999999-8888-4777-8666-555555555555",
    });
    let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = parts.join(".");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Telnyx: telephony reference 2.2.
pub(crate) fn telnyx(phone: SoftPhone, token: &str) -> SoftPhone {
    let name = "x-telnyx-streaming-auth-token";
    phone.header(name, token).expect("a header's value")
}

/// jambonz, and `mod_audio_fork` of FreeSWITCH: telephony reference 10.2.
pub(crate) fn jambonz(phone: SoftPhone, password: &str) -> SoftPhone {
    let value = format!("Basic {}", STANDARD.encode(format!("gateway:{password}")));
    phone.header("authorization", &value).expect("base64")
}

// Azure Communication Services: telephony reference 7.1.

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| {
    let pem = include_str!("../golden/entra/client.pem");
    let (_, key) = pem
        .split_once("-----BEGIN PRIVATE KEY-----")
        .expect("a key");
    let (key, _) = key.split_once("-----END").expect("its end");
    let der = STANDARD.decode(key.split_whitespace().collect::<String>());
    RsaKeyPair::from_pkcs8(&der.expect("base64")).expect("an RSA key")
});

/// The key set, for as long as the process lives.
static KEYS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let public: PublicKeyComponents<Vec<u8>> = RSA.public().into();
    let [n, e] = [public.n, public.e].map(|number| URL_SAFE_NO_PAD.encode(number));
    let key = json!({"kty": "RSA", "kid": "a1", "use": "sig", "alg": "RS256", "n": n, "e": e});
    let set = json!({"keys": [key]}).to_string();
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
});

pub(crate) fn acs_accounts() -> String {
    let address = *KEYS;
    format!(
        "[providers.acs]\njwks_url = 'http://{address}/calling/keys'\n\
         [[providers.acs.accounts]]\ntenant = 'acme'\nresource_id = 'resource-1'\n"
    )
}

/// A token of Call Automation for that resource, good for so many seconds.
pub(crate) fn acs_token(resource: &str, life: i64) -> String {
    rs256(&json!({
        "iss": "https://acscallautomation.communication.azure.com",
        "aud": resource,
        "iat": now(),
        "nbf": now(),
        "exp": now().saturating_add_signed(life),
    }))
}

fn rs256(claims: &serde_json::Value) -> String {
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "a1"});
    let parts = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = parts.join(".");
    let mut signature = vec![0; RSA.public().modulus_len()];
    RSA.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .expect("signed");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

// Webex Contact Center: what `src/auth/provider_webex.rs` names.

pub(crate) const WEBEX_URL: &str = "https://gateway/webex/va/desk";

pub(crate) fn webex_accounts() -> String {
    let address = *KEYS;
    format!(
        "[providers.webex]\njwks_url = 'http://{address}/idb/oauth2/v2/keys/verificationjwk'\n\
         [[providers.webex.accounts]]\ntenant = 'acme'\nurl = '{WEBEX_URL}'\naudience = 'trunkline'\n"
    )
}

/// The token of the data source with that address.
pub(crate) fn webex_token(url: &str) -> String {
    rs256(&json!({
        "iss": "https://idbroker.webex.com/idb",
        "aud": "trunkline",
        "sub": "VA",
        "jti": format!("{:032x}", fastrand::u128(..)),
        "iat": now(),
        "exp": now() + 86_400,
        "com.cisco.datasource.url": url,
        "com.cisco.datasource.schema.uuid": "a38a10b7-43e4-4676-a076-a7d6dce9387d",
    }))
}

/// Has the gateway fetch the keys; simulated time stands still for that.
pub(crate) async fn fetch_keys(world: &World) {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    // The clock does not run ahead while there is blocking work.
    let held = tokio::task::spawn_blocking(move || wait.recv().is_ok());
    let metrics = std::sync::Arc::clone(world.gateway.metrics());
    let stop = CancellationToken::new();
    let keeper = world
        .auth
        .keep_keys_fresh(Outbound::new(), metrics, stop.clone());
    TaskTracker::new().spawn(keeper);
    while !world
        .metrics()
        .contains("trunkline_signing_key_fetches_total{")
    {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    drop(done);
    held.await.expect("no panic");
}
