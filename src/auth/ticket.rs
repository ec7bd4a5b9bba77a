//! Tickets: signed, short-lived, for one call at one place. For where only a URL can be given.
//!
//! A ticket is `tt_`, its content as JSON, a dot, and an HMAC-SHA256 of both, in base64url. It is not stored
//! when it is made; that it is used once, [`OneTimeIds`](super::one_time::OneTimeIds) sees to.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::clock::Now;

/// What a ticket begins with.
pub(super) const PREFIX: &str = "tt_";

/// The longest text that is looked at; names of tenants and agents are far shorter.
const MAX_BYTES: usize = 1024;

/// How much further ahead the clock of the machine that made a ticket may be, in seconds.
const CLOCK_SKEW: u64 = 5;

/// Separates the keys of tickets from those of whatever else may be signed by the same secret.
const PURPOSE: &[u8] = b"trunkline ticket 1";

/// What makes a ticket unlike all others.
pub type OneTimeId = [u8; 16];

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    /// Whose caller may come in.
    #[serde(rename = "t")]
    pub(super) tenant: String,
    /// Whom it may reach: an agent, or in the dialect `realtime` a model.
    #[serde(rename = "a")]
    pub(super) agent: String,
    /// By which dialect.
    #[serde(rename = "d")]
    pub(super) dialect: String,
    /// When it ceases to be good, in Unix seconds.
    #[serde(rename = "e")]
    pub(super) expires: u64,
    /// What is remembered of it once it was used.
    #[serde(rename = "i", with = "id_text")]
    pub(super) id: OneTimeId,
}

/// Why a text is no good ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadTicket {
    /// Not made by us, or changed.
    Forged,
    /// Too late, or so long before its end that nobody here made it.
    Expired,
}

/// Makes and checks tickets.
#[derive(Clone)]
pub(super) struct TicketSigner {
    current: Hmac<Sha256>,
    previous: Option<Hmac<Sha256>>,
    max_life: u64,
}

impl TicketSigner {
    /// Signs by `secret`, and takes what `previous` signed. No ticket lives longer than `max_life` seconds.
    pub(super) fn new(
        secret: &SecretString,
        previous: Option<&SecretString>,
        max_life: u64,
    ) -> Self {
        Self {
            current: derive(secret, PURPOSE),
            previous: previous.map(|secret| derive(secret, PURPOSE)),
            max_life,
        }
    }

    /// The longest life of a ticket, in seconds.
    pub(super) fn max_life(&self) -> u64 {
        self.max_life
    }

    /// The ticket that says this.
    pub(super) fn sign(&self, ticket: &Ticket) -> SecretString {
        let content = serde_json::to_vec(ticket).expect("strings and numbers are JSON");
        let mut text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(content));
        let mut mac = self.current.clone();
        mac.update(text.as_bytes());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(mac.finalize().into_bytes(), &mut text);
        text.into()
    }

    /// What a good ticket says. Nothing of it is looked at before the signature was found good.
    pub(super) fn verify(&self, text: &str, now: Now) -> Result<Ticket, BadTicket> {
        let ticket = self.read(text).ok_or(BadTicket::Forged)?;
        let latest = now.wall.saturating_add(self.max_life + CLOCK_SKEW);
        if ticket.expires <= now.wall || ticket.expires > latest {
            return Err(BadTicket::Expired);
        }
        Ok(ticket)
    }

    fn read(&self, text: &str) -> Option<Ticket> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let (signed, mac) = text.split_once('.')?;
        let content = signed.strip_prefix(PREFIX)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let is_ours = |key: &Hmac<Sha256>| {
            let mut expected = key.clone();
            expected.update(signed.as_bytes());
            expected.verify_slice(&mac).is_ok()
        };
        if !is_ours(&self.current) && !self.previous.as_ref().is_some_and(is_ours) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(content).ok()?).ok()
    }
}

impl fmt::Debug for TicketSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSigner")
            .field("max_life", &self.max_life)
            .finish_non_exhaustive()
    }
}

/// The key for that purpose: HMAC as the extracting half of HKDF (RFC 5869 section 2.2), the purpose as its salt.
pub(super) fn derive(secret: &SecretString, purpose: &[u8]) -> Hmac<Sha256> {
    let mut extract = keyed(purpose);
    extract.update(secret.expose_secret().as_bytes());
    keyed(&extract.finalize().into_bytes())
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The id as base64url.
mod id_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::OneTimeId;

    pub(super) fn serialize<S: Serializer>(
        id: &OneTimeId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(id))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<OneTimeId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| D::Error::custom("not 16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = at(1_000_000);

    const fn at(wall: u64) -> Now {
        Now { wall, floor: wall }
    }

    fn signer(secret: &str, previous: Option<&str>) -> TicketSigner {
        let previous = previous.map(SecretString::from);
        TicketSigner::new(&secret.into(), previous.as_ref(), 60)
    }

    fn ticket(expires: u64) -> Ticket {
        Ticket {
            tenant: "acme".to_owned(),
            agent: "desk".to_owned(),
            dialect: "twilio".to_owned(),
            expires,
            id: *b"0123456789abcdef",
        }
    }

    fn signed(signer: &TicketSigner, expires: u64) -> String {
        let text = signer.sign(&ticket(expires));
        text.expose_secret().to_owned()
    }

    #[test]
    fn a_ticket_says_what_was_signed() {
        let signer = signer("one", None);
        let text = signed(&signer, NOW.wall + 60);
        assert_eq!(signer.verify(&text, NOW), Ok(ticket(NOW.wall + 60)));
        // It stands in a path, a query and a subprotocol as it is.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(text.bytes().all(plain), "{text}");
    }

    #[test]
    fn a_ticket_is_good_until_its_end_and_made_for_no_longer_than_allowed() {
        let signer = signer("one", None);
        let check = |expires: u64, now: u64, expected: Result<(), BadTicket>| {
            let verified = signer.verify(&signed(&signer, expires), at(now));
            assert_eq!(verified.map(|_| ()), expected, "{expires} at {now}");
        };
        check(100, 99, Ok(()));
        check(100, 100, Err(BadTicket::Expired));
        check(100, 101, Err(BadTicket::Expired));
        // 60 s of life and 5 s between clocks.
        check(165, 100, Ok(()));
        check(166, 100, Err(BadTicket::Expired));
        check(u64::MAX, 100, Err(BadTicket::Expired));
        check(0, 0, Err(BadTicket::Expired));
    }

    #[test]
    fn only_our_secrets_sign() {
        let old = signer("old", None);
        let text = signed(&old, NOW.wall + 9);
        let verified = |signer: &TicketSigner| signer.verify(&text, NOW).map(|_| ());
        assert_eq!(verified(&old), Ok(()));
        assert_eq!(verified(&signer("new", Some("old"))), Ok(()));
        assert_eq!(verified(&signer("new", None)), Err(BadTicket::Forged));
        assert_eq!(
            verified(&signer("new", Some("older"))),
            Err(BadTicket::Forged)
        );
        // What is signed by the secret itself, or for another purpose, is no ticket.
        let (content, _) = text.split_once('.').unwrap();
        let mut mac = keyed(b"old");
        mac.update(content.as_bytes());
        let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        let forged = format!("{content}.{mac}");
        assert_eq!(old.verify(&forged, NOW), Err(BadTicket::Forged));
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        let signer = signer("one", None);
        let good = signed(&signer, NOW.wall + 60);
        let (content, mac) = good.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode([0; 32]);
        let empty = URL_SAFE_NO_PAD.encode("{}");
        for text in [
            "",
            "tt_",
            "tt_.",
            ".",
            content,
            mac,
            &format!("{content}."),
            &format!("{content}.{none}"),
            &format!("{content}.{}", &mac[..mac.len() - 1]),
            &format!("{content}.{mac}="),
            &format!("{content}.{mac}.{mac}"),
            &format!("{good} "),
            &format!(" {good}"),
            &good[1..],
            &good.replace("tt_", "tk_"),
            &good.to_uppercase(),
            &format!("tt_{empty}.{mac}"),
            &format!("tt_{}.{mac}", "A".repeat(4096)),
        ] {
            assert_eq!(signer.verify(text, NOW), Err(BadTicket::Forged), "{text}");
        }
        assert_eq!(signer.verify(&good, NOW), Ok(ticket(NOW.wall + 60)));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!("{:?}", signer("s3cret-one", Some("s3cret-two")));
        assert!(!shown.contains("s3cret") && shown.contains("60"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_changed_ticket_is_never_good(at in any::<proptest::sample::Index>(), byte in 0x20_u8..0x7F) {
            let signer = signer("one", Some("two"));
            let good = signed(&signer, NOW.wall + 60);
            let mut changed = good.clone().into_bytes();
            changed[at.index(good.len())] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assume!(changed != good);
            prop_assert_eq!(signer.verify(&changed, NOW), Err(BadTicket::Forged));
        }

        #[test]
        fn a_shortened_or_prolonged_ticket_is_never_good(cut in any::<proptest::sample::Index>(), tail in "[A-Za-z0-9._-]{0,9}") {
            let signer = signer("one", None);
            let good = signed(&signer, NOW.wall + 60);
            let changed = format!("{}{tail}", &good[..cut.index(good.len())]);
            prop_assume!(changed != good);
            prop_assert_eq!(signer.verify(&changed, NOW), Err(BadTicket::Forged));
        }

        #[test]
        fn verifying_is_total(text in any::<String>()) {
            let _ = signer("one", None).verify(&text, NOW);
            let _ = signer("one", None).verify(&format!("tt_{text}"), NOW);
        }
    }
}
