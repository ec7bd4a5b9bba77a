//! Keeps the operator's instructions out of what a caller is sent.
//!
//! A deployment repeats a session's instructions in `session.created` and `.updated`, and may in responses and errors.
//! There the caller sees its own part only. What the model says is not looked at: audio and text on their way down
//! cost nothing here, and a model can give its instructions away in its own words whatever a gateway does.

use std::borrow::Cow;

use super::json::{Object, elements, quoted, unquoted};
use super::policy::{JOINT, SessionPolicy};
use super::policy_check::PolicedSession;
use super::scan::check_depth;
use super::server::ServerEvent;

/// Nesting of a deployment's event that is followed; tool schemas are the deepest part of them.
const MAX_DEPTH: usize = 64;

/// Keys of one event; a session with a hundred tools has some thousand.
const MAX_KEYS: usize = 65_536;

/// What is to become of a deployment's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Pass it on as it is.
    Unchanged,
    /// Pass this on instead.
    Replaced(String),
    /// It may repeat what the caller must not see, and cannot be read: pass nothing on.
    Withheld,
}

impl PolicedSession {
    /// Takes the operator's instructions out of an event. `event` is what was read of it, if it could be read.
    #[must_use]
    pub fn echo(&self, text: &str, event: Option<&ServerEvent<'_>>) -> Echo {
        if !self.policy.hides_instructions() {
            return Echo::Unchanged;
        }
        let place = match event {
            Some(ServerEvent::SessionCreated(_) | ServerEvent::SessionUpdated(_)) => {
                Some("session")
            }
            Some(ServerEvent::ResponseCreated(_) | ServerEvent::ResponseDone(_)) => {
                Some("response")
            }
            Some(ServerEvent::Error(_) | ServerEvent::Other) | None => None,
            Some(_) => return Echo::Unchanged,
        };
        if check_depth(text, MAX_DEPTH, MAX_KEYS).is_err() {
            return Echo::Withheld;
        }
        let edited = match place {
            Some(place) => edit_instructions(&self.policy, text, place),
            None => self.policy.without_secret(text),
        };
        match edited {
            Ok(None) => Echo::Unchanged,
            Ok(Some(event)) => Echo::Replaced(event),
            Err(Unreadable) => Echo::Withheld,
        }
    }
}

/// Not one object, or a member is there twice.
struct Unreadable;

fn edit_instructions(
    policy: &SessionPolicy,
    text: &str,
    place: &str,
) -> Result<Option<String>, Unreadable> {
    let mut event = Object::parse(text).map_err(|_| Unreadable)?;
    let Some(value) = event.get(place).filter(|value| **value != *"null") else {
        return Ok(None);
    };
    let mut object = Object::from_value(value).ok_or(Unreadable)?;
    let Some(instructions) = object.get("instructions") else {
        return Ok(None);
    };
    if *instructions == "null" {
        return Ok(None);
    }
    let own =
        unquoted(instructions).map_or_else(String::new, |text| policy.own_part(&text).to_owned());
    object.set("instructions", quoted(&own));
    event.set(place.to_owned(), object.write());
    Ok(Some(event.write()))
}

impl SessionPolicy {
    /// The caller's part of a session's instructions. Nothing, if they are not as the gateway put them together: a
    /// deployment may have cut or reworded them.
    fn own_part<'a>(&self, instructions: &'a str) -> &'a str {
        let Some(prefix) = &self.prefix else {
            return "";
        };
        let rest = instructions.strip_prefix(prefix.as_str());
        rest.and_then(|rest| rest.strip_prefix(JOINT)).unwrap_or("")
    }

    /// A JSON text with every string in it rid of the operator's instructions; `None` if none has them.
    fn without_secret(&self, json: &str) -> Result<Option<String>, Unreadable> {
        let pinned = self.pinned.get("instructions").and_then(unquoted);
        match self.prefix.as_deref().or(pinned.as_deref()) {
            Some(secret) if !secret.is_empty() => without(secret, json),
            _ => Ok(None),
        }
    }
}

fn without(secret: &str, json: &str) -> Result<Option<String>, Unreadable> {
    match json.trim_ascii_start().bytes().next() {
        Some(b'"') => {
            let text = unquoted(json.trim_ascii()).ok_or(Unreadable)?;
            Ok(removed(&text, secret).map(|text| quoted(&text)))
        }
        Some(b'{') => {
            let object = Object::parse(json).map_err(|_| Unreadable)?;
            let mut out = Object::default();
            let mut has_changed = false;
            for (name, value) in object.into_members() {
                let name = match removed(&name, secret) {
                    Some(name) => {
                        has_changed = true;
                        Cow::Owned(name)
                    }
                    None => name,
                };
                match without(secret, &value)? {
                    Some(value) => {
                        has_changed = true;
                        out.set(name, value);
                    }
                    None => out.set(name, value),
                }
            }
            Ok(has_changed.then(|| out.write()))
        }
        Some(b'[') => {
            let elements = elements(json).ok_or(Unreadable)?;
            let mut out = Vec::with_capacity(elements.len());
            let mut has_changed = false;
            for element in elements {
                let edited = without(secret, element)?;
                has_changed |= edited.is_some();
                out.push(edited.map_or(Cow::Borrowed(element), Cow::Owned));
            }
            Ok(has_changed.then(|| format!("[{}]", out.join(","))))
        }
        Some(_) => Ok(None),
        None => Err(Unreadable),
    }
}

/// A text without `secret`, until it is nowhere in it; `None` if it is not to begin with.
fn removed(text: &str, secret: &str) -> Option<String> {
    let mut out = text.contains(secret).then(|| text.replace(secret, ""))?;
    while out.contains(secret) {
        out = out.replace(secret, "");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::shape::Shape;
    use super::*;

    fn session(toml: &str) -> PolicedSession {
        let policy = SessionPolicy::new(&toml::from_str(toml).expect("of this form"));
        PolicedSession::new(Arc::new(policy.expect("good")), Shape::Ga, false)
    }

    fn check(policed: &PolicedSession, event: &str, expected: Option<&str>) {
        let parsed = ServerEvent::parse(event).ok();
        let expected = expected.map_or(Echo::Unchanged, |text| Echo::Replaced(text.to_owned()));
        assert_eq!(policed.echo(event, parsed.as_ref()), expected, "{event}");
    }

    #[test]
    fn callers_see_their_own_part() {
        let policed = session("instructions_prefix = \"Say \\\"é\\\".\"");
        for (instructions, own) in [
            (r#""Say \"é\".\n\nMine""#, r#""Mine""#),
            (
                r#""S\u0061y \u0022\u00e9\u0022.\u000a\nMi\u006ee""#,
                r#""Mine""#,
            ),
            (r#""Say \"é\".""#, r#""""#),
            (r#""Say \"é\". Mine""#, r#""""#),
            (r#""Say \"é""#, r#""""#),
            (r#""the vendor's own""#, r#""""#),
            ("7", r#""""#),
        ] {
            for (kind, place) in [
                ("session.created", "session"),
                ("session.updated", "session"),
                ("transcription_session.updated", "session"),
                ("response.created", "response"),
                ("response.done", "response"),
            ] {
                check(
                    &policed,
                    &format!(
                        r#"{{"type":"{kind}","{place}":{{"id":"x","instruct\u0069ons":{instructions},"z":1.50}}}}"#
                    ),
                    Some(&format!(
                        r#"{{"type":"{kind}","{place}":{{"id":"x","instructions":{own},"z":1.50}}}}"#
                    )),
                );
            }
        }
        check(
            &policed,
            r#"{"type":"session.updated","session":{"id":"x"}}"#,
            None,
        );
        check(
            &policed,
            r#"{"type":"response.done","response":{"instructions":null}}"#,
            None,
        );
    }

    #[test]
    fn errors_and_unknown_events_are_searched() {
        let policed = session("instructions_prefix = 'Be kind.'");
        check(
            &policed,
            r#"{"type":"error","error":{"message":"'Be k\u0069nd.\n\nx' is too long","n":1.0}}"#,
            Some(r#"{"type":"error","error":{"message":"'\n\nx' is too long","n":1.0}}"#),
        );
        check(
            &policed,
            r#"{"type":"new","x":[1,{"Be kind.":["Be Be kind.kind."]}]}"#,
            Some(r#"{"type":"new","x":[1,{"":[""]}]}"#),
        );
        check(
            &policed,
            r#"{"type":"new","x":[1,{"y":"Be unkind."}]}"#,
            None,
        );
        // What the model says is its own.
        check(
            &policed,
            r#"{"type":"response.output_text.delta","delta":"Be kind."}"#,
            None,
        );
    }

    #[test]
    fn what_cannot_be_read_is_withheld() {
        let policed = session("instructions_prefix = 'Be kind.'");
        for text in [
            r#"{"type":"session.updated","session":{"instructions":"Be kind.","instructions":"x"}}"#,
            r#"{"type":"error","error":{"a":"Be kind.","a":"x"}}"#,
        ] {
            let parsed = ServerEvent::parse(text).ok();
            assert_eq!(
                policed.echo(text, parsed.as_ref()),
                Echo::Withheld,
                "{text}"
            );
        }
        let deep = format!(
            r#"{{"type":"new","x":{}{}}}"#,
            "[".repeat(99),
            "]".repeat(99)
        );
        assert_eq!(
            policed.echo(&deep, Some(&ServerEvent::Other)),
            Echo::Withheld
        );
    }

    #[test]
    fn pinned_instructions_are_not_seen_at_all() {
        let policed = session("pinned = { instructions = 'Sell.' }");
        check(
            &policed,
            r#"{"type":"session.updated","session":{"instructions":"Sell."}}"#,
            Some(r#"{"type":"session.updated","session":{"instructions":""}}"#),
        );
        let open = session("pinned = { voice = 'marin' }");
        check(
            &open,
            r#"{"type":"session.updated","session":{"instructions":"Mine"}}"#,
            None,
        );
    }
}
