//! What a record may say of a caller: pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::hmac;
use secrecy::{ExposeSecret, SecretString};

/// Where dialects put the caller's number among what is attached to a call.
const NUMBER: &str = "from";

/// What may be said. The default says nothing.
#[derive(Clone, Default)]
pub struct Privacy {
    pub(super) caller: Caller,
    pub(super) parameters: BTreeSet<String>,
    pub(super) transcripts: bool,
}

/// What is said of the caller's number.
#[derive(Clone, Default)]
pub(super) enum Caller {
    #[default]
    Nothing,
    /// What only somebody with this key can find a number by: numbers are so few that a plain hash hides none.
    Hashed(hmac::Key),
    Plain,
}

impl Caller {
    pub(super) fn hashed(secret: &SecretString) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        Self::Hashed(key)
    }
}

impl std::fmt::Debug for Privacy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Privacy")
            .field("parameters", &self.parameters)
            .field("transcripts", &self.transcripts)
            .finish_non_exhaustive()
    }
}

impl Privacy {
    /// What stands for the caller's number: `number` is what the provider's webhook said, and what is attached to the call
    /// itself goes before it.
    #[must_use]
    pub fn caller(
        &self,
        number: Option<&str>,
        parameters: &BTreeMap<String, String>,
    ) -> Option<String> {
        let attached = parameters.get(NUMBER).map(String::as_str);
        let number = attached.or(number).map(str::trim);
        let number = number.filter(|number| !number.is_empty())?;
        match &self.caller {
            Caller::Nothing => None,
            Caller::Plain => Some(number.to_owned()),
            Caller::Hashed(key) => {
                let tag = hmac::sign(key, number.as_bytes());
                let digits = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
                Some(format!("hmac-sha256:{}", digits.collect::<String>()))
            }
        }
    }

    /// What may be said of what is attached to the call; nothing at all where nothing is asked for.
    #[must_use]
    pub fn parameters(&self, all: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
        if self.parameters.is_empty() {
            return None;
        }
        let may = |(name, _): &(&String, &String)| self.parameters.contains(*name);
        let said = all.iter().filter(may);
        Some(said.map(|(name, it)| (name.clone(), it.clone())).collect())
    }

    /// Whether what was said may be.
    #[must_use]
    pub fn transcripts(&self) -> bool {
        self.transcripts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs.map(|(a, b)| ((*a).into(), (*b).into())).collect()
    }

    #[test]
    fn nothing_is_said_unless_it_is_asked_for() {
        let privacy = Privacy::default();
        let all = attached(&[("from", "+1555"), ("order", "7")]);
        assert_eq!(privacy.caller(Some("+1555"), &all), None);
        assert_eq!(privacy.parameters(&all), None);
        assert!(!privacy.transcripts());
    }

    #[test]
    fn a_number_is_hashed_by_the_key() {
        let privacy = Privacy {
            caller: Caller::hashed(&"0123456789abcdef0123456789abcdef".into()),
            ..Privacy::default()
        };
        // printf +15550001111 | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let expected =
            "hmac-sha256:1c40f8a0903742113a9deb9f52dc77006bfe405221782c80a5a28929a99d82fa";
        let none = BTreeMap::new();
        let caller = privacy.caller(Some(" +15550001111"), &none);
        assert_eq!(caller.as_deref(), Some(expected));
        let other = privacy.caller(Some("+15550001112"), &none);
        assert_ne!(other.as_deref(), Some(expected));
        assert_eq!(privacy.caller(None, &none), None);
        assert_eq!(privacy.caller(Some(""), &none), None);
    }

    #[test]
    fn what_is_attached_to_the_call_itself_goes_first() {
        let privacy = Privacy {
            caller: Caller::Plain,
            ..Privacy::default()
        };
        let all = attached(&[("from", "+2")]);
        assert_eq!(privacy.caller(Some("+1"), &all).as_deref(), Some("+2"));
        let none = BTreeMap::new();
        assert_eq!(privacy.caller(Some("+1"), &none).as_deref(), Some("+1"));
    }

    #[test]
    fn parameters_are_let_through_by_name() {
        let privacy = Privacy {
            parameters: ["order".to_owned()].into(),
            ..Privacy::default()
        };
        let all = attached(&[("order", "7"), ("card", "4111")]);
        assert_eq!(privacy.parameters(&all), Some(attached(&[("order", "7")])));
        let none = BTreeMap::new();
        assert_eq!(privacy.parameters(&none), Some(BTreeMap::new()));
    }
}
