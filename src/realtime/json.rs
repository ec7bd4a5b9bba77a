//! Small JSON helpers: lenient scalars, and an object taken apart one level deep.
//!
//! [`Object`] keeps the order of members and the text of every value, so what translation does not touch (tool
//! schemas, numbers, inline audio) leaves as it came. It is no document tree on purpose.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Members of one object that are accepted; the project's limit for a whole message (reference, limits: 512 keys).
const MAX_MEMBERS: usize = 512;

/// A text of an event, borrowed from the message unless it was written with escapes. `null` reads as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Text::default())
    }
}

/// A number that cannot be negative. Fractions are cut, negatives and `null` read as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Count, E> {
        Ok(Count(n))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Count, E> {
        Ok(Count(u64::try_from(n).unwrap_or(0)))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Count, E> {
        // A float to integer cast saturates and maps NaN to 0, which is what is wanted here.
        Ok(Count(n as u64))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Count, E> {
        Ok(Count(0))
    }
}

/// Appends `text` as a JSON string, quotes included.
pub(super) fn push_quoted(out: &mut String, text: &str) {
    // Serialising a `str` into a `String` has no way to fail; the fallback keeps the JSON well formed.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

/// `text` as a JSON string, quotes included.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// The text that a JSON string literal stands for; `None` if `literal` is something else.
pub(super) fn unquoted(literal: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(literal)
        .ok()
        .filter(|_| literal.starts_with('"'))
        .map(|text| text.0)
}

/// The elements of a JSON array, each as its text; `None` if `value` is something else.
pub(super) fn elements(value: &str) -> Option<Vec<&str>> {
    let raw: Vec<&RawValue> = serde_json::from_str(value).ok()?;
    Some(raw.into_iter().map(RawValue::get).collect())
}

/// A JSON object as a list of names and value texts. Names are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Object<'a> {
    /// Takes an object apart. A name that comes twice is an error: nobody can say which value the peer would use.
    pub(super) fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The same for a value that came out of another object; `None` if it is not an object.
    pub(super) fn from_value(value: &Cow<'a, str>) -> Option<Self> {
        match value {
            Cow::Borrowed(text) => Self::parse(text).ok(),
            Cow::Owned(text) => Object::parse(text).ok().map(Object::into_owned),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member's value as JSON text.
    pub(super) fn get(&self, name: &str) -> Option<&Cow<'a, str>> {
        self.members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        unquoted(self.get(name)?)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a member is there and holds the string `text`.
    pub(super) fn is(&self, name: &str, text: &str) -> bool {
        self.text(name).is_some_and(|value| value == text)
    }

    /// Sets a member to a JSON text, in its place if it is there already.
    pub(super) fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        let (name, value) = (name.into(), value.into());
        match self.members.iter_mut().find(|(key, _)| *key == name) {
            Some(member) => member.1 = value,
            None => self.members.push((name, value)),
        }
    }

    /// Sets a member that is not there yet.
    pub(super) fn set_default(&mut self, name: &'static str, value: impl Into<Cow<'a, str>>) {
        if !self.contains(name) {
            self.members.push((Cow::Borrowed(name), value.into()));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.members.retain(|(key, _)| key != name);
    }

    pub(super) fn into_members(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.members.into_iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| &**name)
    }

    pub(super) fn into_owned(self) -> Object<'static> {
        let owned = |(name, value): (Cow<'a, str>, Cow<'a, str>)| {
            (
                Cow::Owned(name.into_owned()),
                Cow::Owned(value.into_owned()),
            )
        };
        Object {
            members: self.members.into_iter().map(owned).collect(),
        }
    }

    /// The object as JSON text.
    pub(super) fn write(&self) -> String {
        let size: usize = self
            .members
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        let mut out = String::with_capacity(size + 2);
        out.push('{');
        for (index, (name, value)) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_quoted(&mut out, name);
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        out
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            if object.contains(&name) {
                return Err(de::Error::custom(format_args!(
                    "duplicate member {:?}",
                    name.as_str()
                )));
            }
            if object.members.len() == MAX_MEMBERS {
                return Err(de::Error::custom(format_args!(
                    "more than {MAX_MEMBERS} members"
                )));
            }
            object.members.push((name.0, Cow::Borrowed(value.get())));
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_keep_order_and_value_text() {
        let text = r#"{"z":1.50,"a":{"y": 1,"x":2},"\u0062":"\/"}"#;
        let object = Object::parse(text).unwrap();
        assert_eq!(object.write(), r#"{"z":1.50,"a":{"y": 1,"x":2},"b":"\/"}"#);
        assert_eq!(object.text("b").as_deref(), Some("/"));
        assert_eq!(object.text("z"), None);
    }

    #[test]
    fn duplicate_names_are_refused_even_when_escaped() {
        assert!(Object::parse(r#"{"a":1,"\u0061":2}"#).is_err());
        assert!(Object::parse("[]").is_err());
        assert!(Object::parse("{} x").is_err());
    }

    #[test]
    fn lenient_scalars() {
        let count = |text| {
            serde_json::from_str::<Count>(text)
                .ok()
                .map(|count| count.0)
        };
        assert_eq!(count("12"), Some(12));
        assert_eq!(count("12.9"), Some(12));
        assert_eq!(count("-3"), Some(0));
        assert_eq!(count("null"), Some(0));
        assert_eq!(count("\"1\""), None);
        assert_eq!(
            serde_json::from_str::<Text<'_>>("null").unwrap().as_str(),
            ""
        );
        assert!(serde_json::from_str::<Text<'_>>("1").is_err());
        assert_eq!(unquoted("null"), None);
    }
}
