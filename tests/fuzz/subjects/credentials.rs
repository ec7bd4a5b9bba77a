//! What callers show to be let in.

use std::sync::LazyLock;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue};
use tokio::runtime::{Builder, Runtime};
use trunkline::auth::{
    Authenticator, Identity, ProviderScheme, Purpose, Shown, Signed, SignedRequest, TwilioAccounts,
};

const PURPOSE: Purpose<'_> = Purpose::Call {
    dialect: "twilio",
    agent: Some("desk"),
};

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let config = "
        [[issuers]]
        url = 'https://idp.example'
        audience = 'voice'
        algorithms = ['RS256', 'ES256', 'EdDSA']
        tenant_claim = 'tenant'
        [[keys]]
        tenant = 'acme'
        sha256 = '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'
        [signing]
        secret = '0123456789abcdef0123456789abcdef'
    ";
    let account = "tenant = 'acme'\nauth_token = '12345'";
    let account = toml::from_str(account).expect("an account");
    let accounts = TwilioAccounts::new("wss://example.com", &[account]).expect("good");
    Authenticator::new(
        &toml::from_str(config).expect("a configuration"),
        vec![ProviderScheme::Twilio(accounts)],
        &["acme".to_owned()].into(),
    )
    .expect("good")
});

/// Waiting for signing keys takes a clock.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
});

/// The only key.
const KEY: &str = "secret";

/// Lines are a key or token, a ticket in the path, a signature, and the target that it signs. Only who shows the key
/// comes in, and nothing that is shown besides helps or is forgiven.
pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text
        .split('\n')
        .map(|line| Some(line).filter(|line| !line.is_empty()));
    let mut line = || lines.next().flatten();
    let (secret, ticket, signature, target) = (line(), line(), line(), line());
    let mut headers = HeaderMap::new();
    if let Some(value) = signature.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert("x-twilio-signature", value);
    }
    let is_signed = !headers.is_empty();
    let signed = SignedRequest {
        target: target.unwrap_or("/"),
        headers: &headers,
        signed: Signed::Upgrade,
        agent: "desk",
    };
    let shown = Shown {
        secret,
        ticket,
        signed: Some(signed),
        ..Shown::default()
    };
    let identified = AUTHENTICATOR.identify(shown, PURPOSE);
    let identified = RUNTIME.block_on(async { identified.now_or_never() });
    let Some(identified) = identified else {
        // It would wait for signing keys, which are never fetched here.
        return;
    };
    let is_known = secret == Some(KEY) && ticket.is_none() && !is_signed;
    match identified {
        Ok(identity) => {
            assert!(is_known, "who is that?");
            assert_eq!(identity, Identity::of("acme"));
        }
        Err(denied) => {
            assert!(!is_known);
            assert!(!denied.name().is_empty());
        }
    }
}
