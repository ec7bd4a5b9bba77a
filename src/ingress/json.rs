//! What is asked of a JSON text from the network before a parser builds anything from it.
//!
//! Only structure is looked at; whether the text is valid JSON is the parser's to say.

use std::collections::BTreeMap;
use std::fmt;

use memchr::memchr2;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::DialectError;

/// How deep objects and arrays may nest (limits table of the threat notes).
pub const MAX_DEPTH: usize = 32;

/// How many keys a message may have, all objects together (limits table of the threat notes).
pub const MAX_KEYS: usize = 512;

/// Why a JSON text is not even given to the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More than [`MAX_KEYS`] keys.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// `event` or `type` twice in one object: two readers could understand two different messages.
    #[error("`event` or `type` twice in one object")]
    DuplicateKey,
}

/// Checks depth, number of keys and uniqueness of `event` and `type`, in one pass without allocation
/// (but for keys written with escapes).
///
/// # Errors
///
/// The first fault found. A text that breaks off inside a string passes: it is not JSON anyway.
pub fn check(text: &[u8]) -> Result<(), JsonFault> {
    let mut depth = 0;
    let mut n_keys = 0;
    // Which discriminating keys the open object of each depth has had.
    let mut seen = [0_u8; MAX_DEPTH + 1];
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonFault::TooDeep);
                }
                seen[depth] = 0;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let Some(end) = string_end(text, at) else {
                    return Ok(());
                };
                let (open, content) = (at - 1, &text[at..end]);
                at = end + 1;
                if !is_key(&text[at..]) {
                    continue;
                }
                n_keys += 1;
                if n_keys > MAX_KEYS {
                    return Err(JsonFault::TooManyKeys);
                }
                let flag = discriminator(content, &text[open..=end]);
                if seen[depth] & flag != 0 {
                    return Err(JsonFault::DuplicateKey);
                }
                seen[depth] |= flag;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the closing quote of a string lies that begins at `from`.
fn string_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether what follows a string makes it a key.
fn is_key(rest: &[u8]) -> bool {
    rest.iter()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        == Some(&b':')
}

/// A bit for each key that says what an object is; 0 for all other keys.
fn discriminator(content: &[u8], quoted: &[u8]) -> u8 {
    if content.contains(&b'\\') {
        let plain: String = serde_json::from_slice(quoted).unwrap_or_default();
        return discriminator_bit(plain.as_bytes());
    }
    discriminator_bit(content)
}

fn discriminator_bit(key: &[u8]) -> u8 {
    match key {
        b"event" => 1,
        b"type" => 2,
        _ => 0,
    }
}

/// Parses a JSON object, which has been through [`check`].
///
/// # Errors
///
/// [`DialectError::MalformedJson`], or [`DialectError::WrongShape`] of the `message` so named.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
    message: &'static str,
) -> Result<T, DialectError> {
    // serde would also take an array for a struct, its fields by position.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<&RawValue>(text) {
            Ok(_) => DialectError::WrongShape { message },
            Err(_) => DialectError::MalformedJson,
        });
    }
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            DialectError::WrongShape { message }
        } else {
            DialectError::MalformedJson
        }
    })
}

/// The members of a JSON object, which has been through [`check`], by their names in lower case: some senders
/// capitalise them and some do not.
///
/// # Errors
///
/// As [`parse`]; and [`DialectError::DuplicateKey`], since two readers could take two different ones.
pub(super) fn folded<'a>(
    text: &'a str,
    message: &'static str,
) -> Result<BTreeMap<String, &'a RawValue>, DialectError> {
    let members: Members<'a> = parse(text, message)?;
    let mut folded = BTreeMap::new();
    for (name, value) in members.0 {
        if folded.insert(name.to_ascii_lowercase(), value).is_some() {
            return Err(DialectError::DuplicateKey);
        }
    }
    Ok(folded)
}

/// A member's value.
///
/// # Errors
///
/// [`DialectError::WrongShape`] of the `message` so named.
pub(super) fn value<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    message: &'static str,
) -> Result<T, DialectError> {
    serde_json::from_str(raw.get()).map_err(|_| DialectError::WrongShape { message })
}

/// The value of a member that may be missing or `null`.
///
/// # Errors
///
/// As [`value`].
pub(super) fn optional<'a, T: Deserialize<'a>>(
    raw: Option<&&'a RawValue>,
    message: &'static str,
) -> Result<Option<T>, DialectError> {
    raw.map_or(Ok(None), |raw| value(raw, message))
}

/// A member that somebody attached to a call, as a parameter of it: a scalar as its text, anything larger as JSON.
/// `null` is nothing.
pub(super) fn as_parameter((name, raw): (String, &RawValue)) -> Option<(String, String)> {
    let value = match serde_json::from_str::<Option<Scalar>>(raw.get()) {
        Ok(scalar) => scalar?.0,
        Err(_) => raw.get().to_owned(),
    };
    Some((name, value))
}

/// Every member as it was written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// A string, or a number or truth value taken as its text: some senders quote them and some do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a truth value")
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Scalar, E> {
        Ok(Scalar(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }
}

/// Appends `text` as a JSON string, quotes included.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_text(text: &str, expected: Result<(), JsonFault>) {
        assert_eq!(check(text.as_bytes()), expected, "{text}");
    }

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    fn with_keys(n: usize) -> String {
        let pairs: Vec<_> = (0..n).map(|i| format!(r#""k{i}":{i}"#)).collect();
        format!("{{{}}}", pairs.join(","))
    }

    #[test]
    fn depth_and_keys_have_limits() {
        check_text(&nested(MAX_DEPTH), Ok(()));
        check_text(&nested(MAX_DEPTH + 1), Err(JsonFault::TooDeep));
        check_text(&with_keys(MAX_KEYS), Ok(()));
        check_text(&with_keys(MAX_KEYS + 1), Err(JsonFault::TooManyKeys));
        // Brackets, quotes and colons inside strings are text.
        check_text(&format!(r#"{{"a":"{}"}}"#, "[".repeat(99)), Ok(()));
        check_text(r#"["a\":\"b", "\\", "event", "event"]"#, Ok(()));
    }

    #[test]
    fn discriminating_keys_are_unique_in_their_object() {
        let twice = Err(JsonFault::DuplicateKey);
        check_text(r#"{"event":"a","event":"b"}"#, twice);
        check_text(r#"{"type":1,"x":{"type":2},"type" : 3}"#, twice);
        check_text(r#"{"x":[{"type":2,"type":3}]}"#, twice);
        check_text(r#"{"event":1,"ev\u0065nt":2}"#, twice);
        check_text(
            r#"{"type":1,"event":2,"x":[{"type":2},{"type":3}]}"#,
            Ok(()),
        );
        check_text(r#"{"a":1,"a":2}"#, Ok(()));
    }

    #[test]
    fn what_is_no_json_is_left_to_the_parser() {
        for text in ["", "}}}}", "{\"", "{\"a\\", "\"\\", "nul", "]{"] {
            check_text(text, Ok(()));
        }
    }

    #[test]
    fn scalars_are_taken_as_text() {
        let check = |json: &str, text: &str| {
            let scalar: Scalar = serde_json::from_str(json).unwrap();
            assert_eq!(scalar.0, text);
        };
        check(r#""8000""#, "8000");
        check("8000", "8000");
        check("-1", "-1");
        check("0.5", "0.5");
        check("true", "true");
        check(r#""a\/b""#, "a/b");
        assert!(serde_json::from_str::<Scalar>("{}").is_err());
    }

    proptest! {
        #[test]
        fn total_over_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&bytes);
        }

        #[test]
        fn total_over_json_like_text(text in r#"[{}\[\]"\\:,a \u{e9}]{0,200}"#) {
            let _ = check(text.as_bytes());
        }
    }
}
