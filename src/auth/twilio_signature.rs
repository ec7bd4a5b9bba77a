//! How Twilio signs its requests: HMAC-SHA1 of the URL and what was posted (telephony reference 1.2).
//!
//! It does not know which URL a request was sent to; that is built from the configuration, never from a header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The header that carries the signature.
pub(super) const HEADER: &str = "x-twilio-signature";

/// The parameter in which the URL of a JSON webhook carries the hash of the body.
const BODY_HASH: &str = "bodySHA256";

/// What is signed besides the URL.
#[derive(Clone, Copy, Debug)]
pub enum Signed<'a> {
    /// Nothing: the request that opens a WebSocket.
    Upgrade,
    /// What a webhook was posted: the body, and if that is a form its fields, decoded.
    Webhook {
        /// As it was sent.
        body: &'a [u8],
        /// Names and values in any order.
        form: &'a [(String, String)],
    },
}

/// The signature of a header's value, if it can be one.
pub(super) fn decode(value: &str) -> Option<[u8; 20]> {
    STANDARD.decode(value).ok()?.try_into().ok()
}

/// Whether `token` signed one of `urls` with what was posted. Takes as long whether or not it did.
pub(super) fn is_signed(
    token: &SecretString,
    urls: &[String],
    signed: Signed<'_>,
    signature: &[u8; 20],
) -> bool {
    let mut found = false;
    for url in urls {
        found |= mac(token, url, signed).is_some_and(|mac| mac.verify_slice(signature).is_ok());
    }
    found
}

/// The URLs that Twilio may have signed for one that it was told: a port that goes without saying, said or not, and
/// a slash at the path's end, there or not. `base` is scheme, authority and perhaps a path; `target` is path and
/// query as the request line has them.
pub(super) fn candidates(base: &str, target: &str) -> Vec<String> {
    let base = base.trim_end_matches('/');
    let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
    let (authority, prefix) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let default_port = match scheme {
        "wss" | "https" => ":443",
        _ => ":80",
    };
    let bare = authority.strip_suffix(default_port).unwrap_or(authority);
    let has_port = bare.rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    let mut authorities = vec![bare.to_owned()];
    if !has_port {
        authorities.push(format!("{bare}{default_port}"));
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let other_path = match path.strip_suffix('/') {
        Some(bare) => bare.to_owned(),
        None => format!("{path}/"),
    };
    let mut urls = Vec::with_capacity(4);
    for authority in &authorities {
        for path in [path, &other_path] {
            urls.push(format!("{scheme}://{authority}{prefix}{path}{query}"));
        }
    }
    urls
}

/// The state of an HMAC over everything that is signed; nothing if the body is not the one that the URL names.
fn mac(token: &SecretString, url: &str, signed: Signed<'_>) -> Option<Hmac<Sha1>> {
    let mut mac = Hmac::<Sha1>::new_from_slice(token.expose_secret().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(url.as_bytes());
    let Signed::Webhook { body, form } = signed else {
        return Some(mac);
    };
    match body_hash(url) {
        Some(named) => is_hash_of(&named, body).then_some(mac),
        None => {
            let mut pairs: Vec<_> = form.iter().collect();
            pairs.sort_unstable();
            // A name that comes several times contributes its different values.
            pairs.dedup();
            for (name, value) in pairs {
                mac.update(name.as_bytes());
                mac.update(value.as_bytes());
            }
            Some(mac)
        }
    }
}

fn body_hash(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == BODY_HASH)
        .map(|(_, value)| value.into_owned())
}

fn is_hash_of(named: &str, body: &[u8]) -> bool {
    let hash: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    named
        .to_ascii_lowercase()
        .as_bytes()
        .ct_eq(hash.as_bytes())
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn sign(url: &str, signed: Signed<'_>) -> Option<String> {
        let mac = mac(&"12345".into(), url, signed)?;
        Some(STANDARD.encode(mac.finalize().into_bytes()))
    }

    fn posted<'a>(form: &'a [(String, String)]) -> Signed<'a> {
        Signed::Webhook { body: b"", form }
    }

    #[test]
    fn the_vectors_of_the_reference() {
        let call = [
            ("To", "+15550002222"),
            ("CallSid", "CA0123456789abcdef"),
            ("From", "+15550001111"),
        ];
        assert_eq!(
            sign(
                "https://example.com/twilio/voice?site=1",
                posted(&form(&call))
            )
            .as_deref(),
            Some("mlMcJKowJiGl5YbbRrUD9T+LRWU=")
        );
        let upgrade = |url| sign(url, Signed::Upgrade);
        assert_eq!(
            upgrade("wss://example.com/media").as_deref(),
            Some("7PR3qMkpDyEJtMrVOY/LDyNq8J8=")
        );
        assert_eq!(
            upgrade("wss://example.com/media/").as_deref(),
            Some("T+WBXwUXC0/CyoZ1DA+p9ilZORs=")
        );
    }

    #[test]
    fn repeated_fields_count_once_a_value_and_in_order() {
        let url = "https://example.com/v";
        let signed = |pairs: &[(&str, &str)]| sign(url, posted(&form(pairs)));
        let plain = signed(&[("A", "1"), ("A", "2"), ("B", "x")]);
        assert_eq!(
            signed(&[("B", "x"), ("A", "2"), ("A", "1"), ("A", "2")]),
            plain
        );
        assert_ne!(signed(&[("A", "1"), ("B", "x")]), plain);
        // Byte order: capitals come before small letters.
        assert_eq!(
            signed(&[("a", "1"), ("B", "2")]),
            sign("https://example.com/vB2a1", Signed::Upgrade)
        );
    }

    #[test]
    fn a_json_body_is_covered_by_its_hash_in_the_url() {
        let body = br#"{"CallSid":"CA1"}"#;
        let hash: String = Sha256::digest(body)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let url = format!("https://example.com/v?a=b&bodySHA256={hash}");
        let check = |url: &str, body: &[u8], is_good: bool| {
            let fields = form(&[("not", "counted")]);
            let signed = Signed::Webhook {
                body,
                form: &fields,
            };
            let expected = is_good.then(|| sign(url, Signed::Upgrade)).flatten();
            assert_eq!(sign(url, signed), expected, "{url}");
        };
        check(&url, body, true);
        check(&url.replace(&hash, &hash.to_uppercase()), body, true);
        check(&url, b"{}", false);
        check(&url.replace(&hash, ""), body, false);
        check(&url.replace(&hash, &hash[1..]), body, false);
    }

    #[test]
    fn urls_are_tried_with_and_without_what_goes_without_saying() {
        let check = |base: &str, target: &str, expected: &[&str]| {
            assert_eq!(candidates(base, target), expected, "{base} {target}");
        };
        check(
            "wss://example.com",
            "/media",
            &[
                "wss://example.com/media",
                "wss://example.com/media/",
                "wss://example.com:443/media",
                "wss://example.com:443/media/",
            ],
        );
        check(
            "https://example.com:443/base/",
            "/v/?a=/b",
            &[
                "https://example.com/base/v/?a=/b",
                "https://example.com/base/v?a=/b",
                "https://example.com:443/base/v/?a=/b",
                "https://example.com:443/base/v?a=/b",
            ],
        );
        check(
            "wss://example.com:8443",
            "/m",
            &["wss://example.com:8443/m", "wss://example.com:8443/m/"],
        );
        check(
            "ws://[::1]:8080",
            "/m",
            &["ws://[::1]:8080/m", "ws://[::1]:8080/m/"],
        );
    }

    #[test]
    fn a_signature_is_for_one_token_one_url_and_one_body() {
        let fields = form(&[("CallSid", "CA1")]);
        let urls = candidates("https://example.com", "/v");
        let signature = sign("https://example.com:443/v/", posted(&fields)).unwrap();
        let signature = decode(&signature).unwrap();
        let check = |token: &str, urls: &[String], signed: Signed<'_>, expected: bool| {
            assert_eq!(is_signed(&token.into(), urls, signed, &signature), expected);
        };
        check("12345", &urls, posted(&fields), true);
        check("12346", &urls, posted(&fields), false);
        check("12345", &urls, posted(&[]), false);
        check("12345", &urls, Signed::Upgrade, false);
        check(
            "12345",
            &candidates("wss://example.com", "/v"),
            posted(&fields),
            false,
        );
        check(
            "12345",
            &candidates("https://example.com", "/w"),
            posted(&fields),
            false,
        );
        check(
            "12345",
            &candidates("https://evil.com", "/v"),
            posted(&fields),
            false,
        );
    }

    #[test]
    fn only_twenty_bytes_are_a_signature() {
        assert!(decode("7PR3qMkpDyEJtMrVOY/LDyNq8J8=").is_some());
        for bad in [
            "",
            "7PR3qMkpDyEJtMrVOY/LDyNq8J8",
            "7PR3qMkpDyEJtMrVOY_LDyNq8J8=",
            "AAAA",
            "é",
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
