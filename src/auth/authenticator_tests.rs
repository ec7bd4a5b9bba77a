//! Tests of `authenticator.rs`, in a file of their own for their length.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::HeaderMap;
use secrecy::ExposeSecret;

use crate::realtime::Shape;

use super::*;
use crate::auth::keys::hash_key;
use crate::auth::provider::TwilioAccounts;
use crate::auth::shared_keys::NoStore;
use crate::auth::twilio_signature::Signed;

/// Of `wss://example.com/media` by the token `12345` (telephony reference 1.2).
const MEDIA: &str = "7PR3qMkpDyEJtMrVOY/LDyNq8J8=";

const AUDIO: Purpose<'_> = Purpose::Call {
    dialect: "audio",
    agent: Some("desk"),
};
const TWILIO: Purpose<'_> = Purpose::Call {
    dialect: "twilio",
    agent: Some("desk"),
};
const REALTIME: Purpose<'_> = Purpose::Call {
    dialect: "realtime",
    agent: Some("m"),
};
const WEBHOOK: Purpose<'_> = Purpose::Webhook { dialect: "twilio" };

fn authenticator(mode: &str, with_twilio: bool) -> Authenticator {
    let key = |tenant: &str, key: &str, more: &str| {
        format!(
            "[[keys]]\ntenant = '{tenant}'\nsha256 = '{}'\n{more}",
            hash_key(key)
        )
    };
    let text = format!(
        "mode = '{mode}'\n{}{}{}[signing]\nsecret = '0123456789abcdef0123456789abcdef'\n",
        key("acme", "k1", ""),
        key("bolt", "k2", ""),
        key("bolt", "old", "expires = 2001-01-01T00:00:00Z\n"),
    );
    let account = toml::from_str("tenant = 'acme'\nauth_token = '12345'").unwrap();
    let accounts = TwilioAccounts::new("wss://example.com", &[account]).unwrap();
    let providers = with_twilio.then_some(ProviderScheme::Twilio(accounts));
    let config = toml::from_str(&text).unwrap();
    Authenticator::new(&config, providers.into_iter().collect(), &BTreeSet::new()).unwrap()
}

fn ticket(auth: &Authenticator, tenant: &str, dialect: &str, agent: &str) -> String {
    let made = auth.make_ticket(tenant, dialect, agent, None).unwrap();
    made.value.expose_secret().to_owned()
}

fn ephemeral_key(auth: &Authenticator, tenant: &str) -> String {
    let session = EphemeralSession {
        shape: Shape::Ga,
        transcription: false,
        model: Some("m".to_owned()),
        settings: "{}".to_owned(),
    };
    let life = Duration::from_secs(60);
    let made = auth.make_ephemeral_key(tenant, session, life);
    let made = made.now_or_never().expect("nothing to wait for").unwrap();
    made.value.expose_secret().to_owned()
}

fn tenant(auth: &Authenticator, shown: Shown<'_>, purpose: Purpose<'_>) -> Result<String, Denied> {
    decide(auth, shown, purpose, auth.clock.now()).map(|identity| identity.tenant)
}

/// Nothing has to be waited for here.
fn decide(
    auth: &Authenticator,
    shown: Shown<'_>,
    purpose: Purpose<'_>,
    now: Now,
) -> Result<Identity, Denied> {
    let decided = auth.decide(shown, purpose, now).now_or_never();
    decided.expect("decided at once")
}

fn secret(secret: &str) -> Shown<'_> {
    Shown {
        secret: Some(secret),
        ..Shown::default()
    }
}

fn in_path(ticket: &str) -> Shown<'_> {
    Shown {
        ticket: Some(ticket),
        ..Shown::default()
    }
}

#[test]
fn a_caller_is_known_by_its_key() {
    let auth = authenticator("keys", false);
    for purpose in [AUDIO, TWILIO, REALTIME, WEBHOOK, Purpose::Mint] {
        let check = |shown, expected: Result<&str, Denied>| {
            assert_eq!(
                tenant(&auth, shown, purpose),
                expected.map(str::to_owned),
                "{purpose:?}"
            );
        };
        check(secret("k1"), Ok("acme"));
        check(secret("k2"), Ok("bolt"));
        check(secret("k3"), Err(Denied::UnknownKey));
        check(secret("old"), Err(Denied::Expired));
        check(Shown::default(), Err(Denied::Missing));
    }
}

#[test]
fn without_authentication_all_are_one_tenant() {
    let auth = authenticator("none", false);
    let check = |shown, purpose, expected: Result<&str, Denied>| {
        assert_eq!(tenant(&auth, shown, purpose), expected.map(str::to_owned));
    };
    for shown in [Shown::default(), secret("k1"), secret("nonsense")] {
        check(shown, AUDIO, Ok(TENANT_WITHOUT_AUTH));
        check(shown, Purpose::Mint, Ok(TENANT_WITHOUT_AUTH));
    }
    // Who shows a ticket or an ephemeral key is judged by it.
    check(in_path("tt_nonsense"), AUDIO, Err(Denied::BadTicket));
    check(secret("ek_nonsense"), REALTIME, Err(Denied::UnknownKey));
    check(
        in_path(&ticket(&auth, "acme", "audio", "desk")),
        AUDIO,
        Ok("acme"),
    );
}

#[test]
fn a_ticket_is_for_one_agent_and_dialect() {
    let auth = authenticator("keys", false);
    let text = ticket(&auth, "acme", "audio", "desk");
    let other_agent = Purpose::Call {
        dialect: "audio",
        agent: Some("door"),
    };
    for shown in [secret(&text), in_path(&text)] {
        assert_eq!(tenant(&auth, shown, AUDIO), Ok("acme".to_owned()));
        for purpose in [TWILIO, REALTIME, WEBHOOK, Purpose::Mint, other_agent] {
            assert_eq!(
                tenant(&auth, shown, purpose),
                Err(Denied::Misplaced),
                "{purpose:?}"
            );
        }
    }
    let no_model = Purpose::Call {
        dialect: "realtime",
        agent: None,
    };
    let text = ticket(&auth, "acme", "realtime", "m");
    let identity = decide(&auth, secret(&text), no_model, auth.clock.now()).unwrap();
    assert_eq!(identity.agent.as_deref(), Some("m"));
    // Expired, forged, cut short, and of a gateway with another secret or none.
    let later = Now {
        wall: auth.clock.now().wall + 60,
        ..auth.clock.now()
    };
    let decided = decide(&auth, secret(&text), no_model, later);
    assert_eq!(decided, Err(Denied::Expired));
    for bad in ["tt_", "tt_a.b", &text[..text.len() - 1]] {
        assert_eq!(
            tenant(&auth, secret(bad), no_model),
            Err(Denied::BadTicket),
            "{bad}"
        );
    }
    let stranger = Authenticator {
        signer: None,
        ..auth.clone()
    };
    assert_eq!(
        tenant(&stranger, secret(&text), no_model),
        Err(Denied::BadTicket)
    );
}

#[tokio::test]
async fn a_ticket_is_used_up_once() {
    let auth = authenticator("keys", false);
    let text = ticket(&auth, "acme", "audio", "desk");
    let identity = auth.identify(secret(&text), AUDIO).await.unwrap();
    assert_eq!(auth.use_up(&identity).await, Ok(()));
    let again = auth.identify(in_path(&text), AUDIO).await.unwrap();
    assert_eq!(auth.use_up(&again).await, Err(UseError::Replayed));
    let another = ticket(&auth, "acme", "audio", "desk");
    let identity = auth.identify(secret(&another), AUDIO).await.unwrap();
    assert_eq!(auth.use_up(&identity).await, Ok(()));
    let by_key = auth.identify(secret("k1"), AUDIO).await.unwrap();
    assert_eq!(auth.use_up(&by_key).await, Ok(()));
    assert_eq!(auth.use_up(&by_key).await, Ok(()));
}

#[test]
fn an_ephemeral_key_opens_sessions_only() {
    let auth = authenticator("keys", false);
    let key = ephemeral_key(&auth, "acme");
    let identity = decide(&auth, secret(&key), REALTIME, auth.clock.now()).unwrap();
    assert_eq!(identity.tenant, "acme");
    assert_eq!(identity.session.unwrap().model.as_deref(), Some("m"));
    for purpose in [AUDIO, TWILIO, WEBHOOK, Purpose::Mint] {
        assert_eq!(tenant(&auth, secret(&key), purpose), Err(Denied::Misplaced));
    }
    assert_eq!(
        tenant(&auth, secret("ek_k1"), REALTIME),
        Err(Denied::UnknownKey)
    );
}

/// A store of keys that can be out of reach.
#[derive(Debug, Default)]
struct Shelf {
    texts: Mutex<BTreeMap<String, String>>,
    is_out: AtomicBool,
}

impl KeyStore for Shelf {
    fn keep(
        &self,
        name: String,
        sealed: String,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), NoStore>> {
        assert_eq!(life, Duration::from_secs(60));
        if self.is_out.load(Ordering::Relaxed) {
            return Box::pin(ready(Err(NoStore)));
        }
        self.texts.lock().unwrap().insert(name, sealed);
        Box::pin(ready(Ok(())))
    }

    fn find(&self, name: String) -> BoxFuture<'_, Result<Option<String>, NoStore>> {
        if self.is_out.load(Ordering::Relaxed) {
            return Box::pin(ready(Err(NoStore)));
        }
        Box::pin(ready(Ok(self.texts.lock().unwrap().get(&name).cloned())))
    }
}

#[test]
fn an_ephemeral_key_is_good_at_all_that_share_store_and_secret() {
    let shelf = Arc::new(Shelf::default());
    let sharing = |mut auth: Authenticator| {
        auth.share_ephemeral_keys(Arc::clone(&shelf) as _);
        auth
    };
    let [here, there] = [(); 2].map(|()| sharing(authenticator("keys", false)));
    let alone = authenticator("keys", false);
    let unsigned = format!("[[keys]]\ntenant = 'acme'\nsha256 = '{}'", hash_key("k1"));
    let build = |text: &str| {
        let config = toml::from_str(text).unwrap();
        sharing(Authenticator::new(&config, Vec::new(), &BTreeSet::new()).unwrap())
    };
    let other_secret = "[signing]\nsecret = 'another secret of at least 32 bytes'\n";
    let stranger = build(&format!("{other_secret}{unsigned}"));
    let unsigned = build(&unsigned);
    assert!(here.shares_ephemeral_keys() && !unsigned.shares_ephemeral_keys());

    let key = ephemeral_key(&here, "acme");
    let identity = decide(&there, secret(&key), REALTIME, there.clock.now()).unwrap();
    let own = decide(&here, secret(&key), REALTIME, here.clock.now()).unwrap();
    assert_eq!(identity, own);
    assert_eq!(identity.tenant, "acme");
    let at = |auth: &Authenticator, key: &str| tenant(auth, secret(key), REALTIME);
    for other in [&alone, &stranger, &unsigned] {
        assert_eq!(at(other, &key), Err(Denied::UnknownKey));
    }
    assert_eq!(
        tenant(&there, secret(&key), AUDIO),
        Err(Denied::Misplaced),
        "as where it was made"
    );
    let changed = format!(
        "{}{}",
        &key[..45],
        if key.ends_with('A') { 'B' } else { 'A' }
    );
    assert_eq!(at(&there, &changed), Err(Denied::UnknownKey));
    let now = there.clock.now();
    let later = Now {
        wall: now.wall + 60,
        floor: now.floor + 60,
    };
    let expired = decide(&there, secret(&key), REALTIME, later);
    assert_eq!(expired, Err(Denied::Expired));

    shelf.is_out.store(true, Ordering::Relaxed);
    assert_eq!(at(&here, &key), Ok("acme".to_owned()));
    assert_eq!(at(&there, &key), Err(Denied::StoreUnavailable));
    // What is no key at all is known without the store.
    assert_eq!(at(&there, "ek_k1"), Err(Denied::UnknownKey));
    let session = own.session.unwrap();
    let made = here.make_ephemeral_key("acme", (*session).clone(), Duration::from_secs(60));
    let made = made.now_or_never().expect("nothing to wait for");
    assert!(matches!(made, Err(MintError::NoStore)), "{made:?}");
}

#[test]
fn all_that_is_shown_must_agree() {
    let auth = authenticator("keys", false);
    let ours = ticket(&auth, "acme", "audio", "desk");
    let check = |secret: &str, expected: Result<&str, Denied>| {
        let shown = Shown {
            secret: Some(secret),
            ..in_path(&ours)
        };
        assert_eq!(tenant(&auth, shown, AUDIO), expected.map(str::to_owned));
    };
    check("k1", Ok("acme"));
    check("k2", Err(Denied::Contradictory));
    check("k3", Err(Denied::UnknownKey));
    check(&ours, Err(Denied::Contradictory));
}

#[test]
fn a_provider_lets_its_calls_in_by_its_signature() {
    for mode in ["keys", "none"] {
        let auth = authenticator(mode, true);
        let ours = ticket(&auth, "acme", "twilio", "desk");
        let other = ticket(&auth, "bolt", "twilio", "desk");
        let check = |signature: Option<&str>, ticket, purpose, expected: Result<&str, Denied>| {
            let mut headers = HeaderMap::new();
            if let Some(signature) = signature {
                headers.insert("x-twilio-signature", signature.parse().unwrap());
            }
            let signed = SignedRequest {
                target: "/media",
                headers: &headers,
                signed: Signed::Upgrade,
                agent: "desk",
            };
            let shown = Shown {
                ticket,
                signed: Some(signed),
                ..Shown::default()
            };
            let expected = expected.map(str::to_owned);
            assert_eq!(
                tenant(&auth, shown, purpose),
                expected,
                "{mode} {signature:?}"
            );
        };
        check(Some(MEDIA), None, TWILIO, Ok("acme"));
        check(Some(MEDIA), Some(ours.as_str()), TWILIO, Ok("acme"));
        check(None, Some(&ours), TWILIO, Ok("acme"));
        check(Some("AAAA"), Some(&ours), TWILIO, Err(Denied::BadSignature));
        check(Some(MEDIA), Some("tt_a.b"), TWILIO, Err(Denied::BadTicket));
        check(
            Some(MEDIA),
            Some(&other),
            TWILIO,
            Err(Denied::Contradictory),
        );
        check(None, None, TWILIO, Err(Denied::Missing));
        check(None, None, WEBHOOK, Err(Denied::Missing));
        // Elsewhere the signature means nothing.
        let elsewhere = match mode {
            "keys" => Err(Denied::Missing),
            _ => Ok(TENANT_WITHOUT_AUTH),
        };
        check(Some(MEDIA), None, AUDIO, elsewhere);
    }
    // A key is not enough where the provider signs.
    let auth = authenticator("keys", true);
    let headers = HeaderMap::new();
    let shown = Shown {
        signed: Some(SignedRequest {
            target: "/media",
            headers: &headers,
            signed: Signed::Webhook {
                body: b"",
                form: &[],
            },
            agent: "desk",
        }),
        ..secret("k1")
    };
    assert_eq!(tenant(&auth, shown, WEBHOOK), Err(Denied::Missing));
    assert_eq!(tenant(&auth, shown, TWILIO), Ok("acme".to_owned()));
}

#[test]
fn somebody_must_be_able_to_call() {
    let check = |text: &str, is_good: bool| {
        let config = toml::from_str(text).unwrap();
        assert_eq!(
            Authenticator::new(&config, Vec::new(), &BTreeSet::new()).is_ok(),
            is_good,
            "{text}"
        );
    };
    check("", false);
    check("mode = 'none'", true);
    check(
        "[signing]\nsecret = '0123456789abcdef0123456789abcdef'",
        true,
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let auth = authenticator("keys", true);
    let ticket = auth.make_ticket("acme", "audio", "desk", None).unwrap();
    let key = ephemeral_key(&auth, "acme");
    let identity = decide(&auth, secret(&key), REALTIME, auth.clock.now());
    let shown = format!("{auth:?} {ticket:?} {identity:?}");
    for secret in [
        "12345",
        "0123456789abcdef0123456789abcdef",
        key.as_str(),
        ticket.value.expose_secret(),
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn tokens_go_to_their_issuer_and_everything_else_to_the_keys() {
    let issuer = "[[issuers]]\nurl = 'https://idp.example'\naudience = 'voice'\ntenant = 'acme'\n";
    let tenants = ["acme".to_owned()].into();
    let build =
        |text: &str| Authenticator::new(&toml::from_str(text).unwrap(), Vec::new(), &tenants);
    let auth = build(issuer).expect("good without a key");
    let check = async |text: &str, expected| {
        let identified = auth.identify(secret(text), REALTIME).await;
        assert_eq!(identified, Err(expected), "{text}");
    };
    check("sk-1", Denied::UnknownKey).await;
    // {"alg":"ES256"} and {"iss":"https://idp.example","aud":"voice","exp":4e9}, then another issuer.
    let good = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiYXVkIjoidm9pY2UiLCJleHAiOjRlOX0.AA";
    check(good, Denied::KeysUnavailable).await;
    let other = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.AA";
    check(other, Denied::WrongIssuer).await;
    check("eyJhbGciOiJFUzI1NiJ9.e30.AA", Denied::WrongIssuer).await;
    check("eyJ..", Denied::MalformedToken).await;
    let error = build(&issuer.repeat(2)).err();
    assert!(
        matches!(error, Some(AuthError::Issuer(2, "url", _))),
        "{error:?}"
    );
    // Where nobody needs a key, a token changes nothing.
    let open = build(&format!("mode = 'none'\n{issuer}")).expect("good");
    let identified = open.identify(secret("eyJ.."), REALTIME).await;
    assert_eq!(identified, Ok(Identity::of(TENANT_WITHOUT_AUTH)));
}

#[tokio::test]
async fn a_certificate_counts_like_everything_else() {
    let config = format!(
        "[[keys]]\ntenant = 'acme'\nsha256 = '{}'\n[[certificates]]\ntenant = 'acme'\nsan = 'pbx.acme'\n\
         [[certificates]]\ntenant = 'bolt'\nsan = 'pbx.bolt'\n",
        hash_key("k1")
    );
    let config = toml::from_str(&config).unwrap();
    let auth = Authenticator::new(&config, Vec::new(), &BTreeSet::new()).unwrap();
    let check = async |name: &str, key: Option<&str>, expected| {
        let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = ClientCertificate::parse(signed.cert.der());
        let shown = Shown {
            secret: key,
            certificate: Some(&certificate),
            ..Shown::default()
        };
        let identified = auth.identify(shown, REALTIME).await;
        assert_eq!(identified.map(|it| it.tenant), expected, "{name} {key:?}");
    };
    check("pbx.bolt", None, Ok("bolt".to_owned())).await;
    check("pbx.acme", Some("k1"), Ok("acme".to_owned())).await;
    check("pbx.bolt", Some("k1"), Err(Denied::Contradictory)).await;
    check("proxy.example", None, Err(Denied::UnknownCertificate)).await;
    check("proxy.example", Some("k1"), Ok("acme".to_owned())).await;
    check("pbx.acme", Some("k2"), Err(Denied::UnknownKey)).await;
}
