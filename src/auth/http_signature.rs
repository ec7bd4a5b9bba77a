//! HTTP message signatures as AudioHook uses them: an earlier draft of RFC 9421, one HMAC-SHA256 signature over six
//! components (telephony reference 8.2). Pure: the request and the time come in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::Sha256;

use super::authenticator::Denied;

/// What must be signed (telephony reference 8.2).
const COMPONENTS: [&str; 6] = [
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
];

/// How old a signature may be, and how far its clock may run ahead, in seconds.
const MAX_AGE_S: u64 = 10;
const MAX_SKEW_S: u64 = 3;

/// 16 bytes in base64url.
const MIN_NONCE: usize = 22;

/// The longest `Signature-Input` that is read.
const MAX_INPUT_BYTES: usize = 2 * 1024;

/// What the signer says about its signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    label: String,
    components: Vec<String>,
    parameters: Vec<(String, Value)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
}

impl Statement {
    /// Reads `Signature-Input`, if it holds one signature's and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_INPUT_BYTES || !text.is_ascii() {
            return None;
        }
        let (label, rest) = text.trim().split_once("=(")?;
        let (list, mut rest) = rest.split_once(')')?;
        let is_name = |name: &str| {
            let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
            !name.is_empty() && name.bytes().all(is_name_byte)
        };
        let mut components = Vec::new();
        for item in list.split_ascii_whitespace() {
            components.push(item.strip_prefix('"')?.strip_suffix('"')?.to_owned());
        }
        let mut parameters = Vec::new();
        while let Some(parameter) = rest.strip_prefix(';') {
            let (name, value) = parameter.trim_start_matches(' ').split_once('=')?;
            let value = if let Some(quoted) = value.strip_prefix('"') {
                let (text, after) = quoted.split_once('"')?;
                rest = after;
                Value::Text((!text.contains('\\')).then(|| text.to_owned())?)
            } else {
                let end = value.find(';').unwrap_or(value.len());
                rest = &value[end..];
                Value::Number(value[..end].parse().ok()?)
            };
            let is_new = parameters.iter().all(|(other, _)| other != name);
            (is_name(name) && is_new).then(|| parameters.push((name.to_owned(), value)))?;
        }
        (rest.is_empty() && is_name(label)).then(|| Self {
            label: label.to_owned(),
            components,
            parameters,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find_map(|(own, value)| match value {
            Value::Text(text) if own == name => Some(text.as_str()),
            _ => None,
        })
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.parameters.iter().find_map(|(own, value)| match value {
            Value::Number(number) if own == name => Some(*number),
            _ => None,
        })
    }

    /// Whose key it says it used.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.text("keyid")
    }

    /// What makes it unlike all others.
    pub(super) fn nonce(&self) -> Option<&str> {
        self.text("nonce").filter(|nonce| nonce.len() >= MIN_NONCE)
    }

    /// When it says it was made, in seconds since 1970.
    pub(super) fn created(&self) -> Option<u64> {
        self.number("created")
    }

    /// Whether all that matters is signed, in time. `now` is in seconds since 1970.
    pub(super) fn check(&self, now: u64) -> Result<(), Denied> {
        let covers = |wanted: &str| self.components.iter().any(|own| own.as_str() == wanted);
        let is_complete = COMPONENTS.iter().all(|wanted| covers(wanted));
        if !is_complete || self.text("alg") != Some("hmac-sha256") {
            return Err(Denied::BadSignature);
        }
        let created = self.created().ok_or(Denied::BadSignature)?;
        if created > now + MAX_SKEW_S {
            return Err(Denied::NotYetValid);
        }
        let is_over = self.number("expires").is_some_and(|expires| expires < now);
        if created + MAX_AGE_S < now || is_over {
            return Err(Denied::Expired);
        }
        Ok(())
    }

    /// What was signed, of this request. Nothing if a component is missing or there twice.
    pub(super) fn base(
        &self,
        target: &str,
        authority: &str,
        headers: &HeaderMap,
    ) -> Option<String> {
        let mut base = String::new();
        for component in &self.components {
            let value = match component.as_str() {
                "@request-target" => target,
                "@authority" => authority,
                name => {
                    let mut values = headers.get_all(name).iter();
                    let only = values.next()?.to_str().ok()?;
                    values.next().is_none().then_some(only.trim())?
                }
            };
            base.push_str(&format!("\"{component}\": {value}\n"));
        }
        base.push_str(&format!("\"@signature-params\": {}", self.serialised()));
        Some(base)
    }

    fn serialised(&self) -> String {
        let quoted = self.components.iter().map(|name| format!("\"{name}\""));
        let mut text = format!("({})", quoted.collect::<Vec<_>>().join(" "));
        for (name, value) in &self.parameters {
            match value {
                Value::Text(value) => text.push_str(&format!(";{name}=\"{value}\"")),
                Value::Number(value) => text.push_str(&format!(";{name}={value}")),
            }
        }
        text
    }

    /// The signature of that label in the `Signature` header.
    pub(super) fn signature(&self, header: &str) -> Option<Vec<u8>> {
        let (label, value) = header.trim().split_once("=:")?;
        (label == self.label).then(|| STANDARD.decode(value.strip_suffix(':')?).ok())?
    }
}

/// Whether that key signed it. Takes as long whether or not it did.
pub(super) fn is_signed(key: &[u8], base: &str, signature: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(base.as_bytes());
    mac.verify_slice(signature).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The request of the vectors (telephony reference 8.2).
    const INPUT: &str = r#"sig1=("@request-target" "@authority" "audiohook-organization-id" "audiohook-session-id" "audiohook-correlation-id" "x-api-key");keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430"#;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "audiohook.example.com"),
            (
                "audiohook-organization-id",
                "d7934305-0972-4844-938e-9060eef73d05",
            ),
            (
                "audiohook-session-id",
                "30b0e395-84d3-4570-ac13-9a62d8f514c0",
            ),
            (
                "audiohook-correlation-id",
                "e160e428-53e2-487c-977d-96989bf5c99d",
            ),
            ("x-api-key", "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_vectors_of_the_reference() {
        let key = STANDARD
            .decode("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")
            .unwrap();
        let check = |input: &str, signature: &str| {
            let statement = Statement::parse(input).expect("well formed");
            let (target, authority) = ("/api/v1/voicebiometrics/ws", "audiohook.example.com");
            let base = statement.base(target, authority, &headers()).unwrap();
            let signature = statement.signature(&format!("sig1=:{signature}:")).unwrap();
            assert!(is_signed(&key, &base, &signature), "{base}");
            assert!(!is_signed(&key, &base.replace("/ws", "/wx"), &signature));
            assert!(!is_signed(b"another", &base, &signature));
        };
        check(INPUT, "NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=");
        let with_host = INPUT.replace("@authority", "host");
        check(&with_host, "zupMJUMfd/kMuvKc5zhRyfJPE3jTROuz1S1hn8SCTpE=");
        let check = |input: &str| Statement::parse(input).unwrap().check(1_641_013_205);
        assert_eq!(check(INPUT), Ok(()));
        assert_eq!(check(&with_host), Err(Denied::BadSignature));
    }

    #[test]
    fn what_is_not_signed_in_time_is_not_good() {
        let check = |now: u64, expected| {
            assert_eq!(
                Statement::parse(INPUT).unwrap().check(now),
                expected,
                "{now}"
            );
        };
        check(1_641_013_197, Ok(()));
        check(1_641_013_196, Err(Denied::NotYetValid));
        check(1_641_013_210, Ok(()));
        check(1_641_013_211, Err(Denied::Expired));
        let ended = INPUT.replace("3282026430", "1641013204");
        let ended = Statement::parse(&ended).unwrap();
        assert_eq!(ended.check(1_641_013_205), Err(Denied::Expired));
        for (from, to) in [
            (" \"x-api-key\"", ""),
            ("hmac-sha256", "hmac-sha1"),
            ("created", "creation"),
        ] {
            let changed = Statement::parse(&INPUT.replace(from, to)).unwrap();
            assert_eq!(
                changed.check(1_641_013_205),
                Err(Denied::BadSignature),
                "{from}"
            );
        }
        let short = INPUT.replace("VGhpc0lzQVVuaXF1ZU5vbmNl", "short");
        assert_eq!(Statement::parse(&short).unwrap().nonce(), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for text in [
            "",
            "sig1",
            "sig1=(",
            "sig1=(\"a)",
            "sig1=(a)",
            "sig1=();keyid",
            "sig1=();keyid=\"a\";keyid=\"b\"",
            "sig1=();keyid=\"a\\\"b\"",
            "sig1=(), sig2=()",
            "sig1=();created=1x",
            "=()",
        ] {
            assert_eq!(Statement::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn total(text in "[ -~]{0,80}", header in "[ -~]{0,40}") {
            if let Some(statement) = Statement::parse(&text) {
                let _ = statement.check(0);
                let _ = statement.signature(&header);
                let _ = statement.base("/", "a", &HeaderMap::new());
            }
        }
    }
}
