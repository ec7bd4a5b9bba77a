//! HTTP requests that want to become a call: the first line is the target, the others are headers.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use serde_json::Value;
use trunkline::ingress::{Credential, FrontDoor, MintRequest, MintRoute, upgrade};

struct Head<'a> {
    target: &'a str,
    headers: HeaderMap,
}

fn head(bytes: &[u8]) -> Option<Head<'_>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = std::str::from_utf8(lines.next()?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        headers.append(name, value);
    }
    Some(Head { target, headers })
}

/// A secret is found in the same place by both ways to look for it, is not shown by `Debug`, and of two in one
/// header neither counts.
pub(crate) fn front_door(bytes: &[u8]) {
    let Some(Head { target, headers }) = head(bytes) else {
        return;
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    for lenient_api_version in [false, true] {
        let door = FrontDoor {
            lenient_api_version,
        };
        let found = Credential::find(query, &headers);
        match door.parse(path, query, &headers) {
            Ok(request) => {
                assert_eq!(found.expect("the same rules"), request.credential);
                if let Some(credential) = &request.credential {
                    let secret = credential.secret();
                    assert!(!secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()));
                    // Anything shorter may stand there for another reason.
                    let shown = format!("{credential:?}");
                    assert!(secret.len() < 12 || !shown.contains(secret));
                }
                for name in ["api-key", "authorization"] {
                    assert!(headers.get_all(name).iter().count() <= 1);
                }
                assert!(request.subprotocol.is_none_or(|name| name == "realtime"));
            }
            Err(refusal) => assert!((400..500).contains(&refusal.status)),
        }
    }
    if let Some(id) = FrontDoor::request_id(query, &headers) {
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    let _ = FrontDoor::style_of(path);
}

/// What is let through is what RFC 6455 section 4.2.1 asks for, told here once more and more simply.
pub(crate) fn upgrade(bytes: &[u8]) {
    let Some(Head { target, headers }) = head(bytes) else {
        return;
    };
    let Ok(uri) = target.parse::<Uri>() else {
        return;
    };
    let Ok(upgrade) = upgrade::check(&Method::GET, Version::HTTP_11, &uri, &headers) else {
        return;
    };
    let all = |name: &str| -> Vec<_> { headers.get_all(name).iter().collect() };
    assert_eq!(all("host").len(), 1);
    assert_eq!(all("sec-websocket-key").len(), 1);
    assert_eq!(all("sec-websocket-key")[0].len(), 24);
    assert_eq!(all("sec-websocket-version"), ["13"]);
    assert!(
        all("upgrade")[0]
            .as_bytes()
            .eq_ignore_ascii_case(b"websocket")
    );
    assert!(all("transfer-encoding").is_empty());
    assert!(all("content-length").iter().all(|length| *length == "0"));
    assert!(target.starts_with('/'));
    assert_eq!(upgrade.accept.len(), 28);
    assert!(upgrade.origin.is_some() == headers.contains_key("origin"));
    assert!(upgrade::check(&Method::POST, Version::HTTP_11, &uri, &headers).is_err());
    assert!(upgrade::check(&Method::GET, Version::HTTP_10, &uri, &headers).is_err());
}

/// The first line is the target, what follows the body. What is let through lives as long as the vendor allows, is
/// not shown by `Debug`, and comes back in a reply of which nothing but the key's life is the gateway's to invent.
pub(crate) fn mint(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n');
    let (line, body) = bytes.split_at(at.unwrap_or(bytes.len()));
    let Ok(target) = std::str::from_utf8(line) else {
        return;
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Some(route) = MintRoute::of(path) else {
        return;
    };
    let request = match MintRequest::parse(route, query, body, false) {
        Ok(request) => request,
        Err(refusal) => return assert!((400..500).contains(&refusal.status)),
    };
    assert!((10..=7200).contains(&request.life.as_secs()));
    let settings: Value = serde_json::from_str(&request.settings_json()).expect("JSON");
    let settings = settings.as_object().expect("an object");
    for name in ["model", "client_secret", "id", "object", "expires_at"] {
        assert!(!settings.contains_key(name), "{name}");
    }
    let reply: Value = serde_json::from_str(&request.reply("ek_key", 7, "sess_id")).expect("JSON");
    let (secret, session) = match reply.get("value") {
        Some(_) => (&reply, &reply["session"]),
        None => (&reply["client_secret"], &reply),
    };
    assert!(secret["value"] == "ek_key" && secret["expires_at"] == 7);
    assert!(session["id"] == "sess_id" && session["expires_at"] == 0);
    assert!(settings.iter().all(|(name, value)| session[name] == *value));
    if let Some(words) = settings.get("instructions").and_then(Value::as_str) {
        // Anything shorter may stand there for another reason.
        assert!(words.len() < 16 || !format!("{request:?}").contains(words));
    }
}
