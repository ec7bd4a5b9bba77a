//! The session settings that are attached to an ephemeral key when it is minted (protocol reference 1.7).

use super::json::Object;
use super::policy_check::OneReading;
use super::policy_fields::Settings;
use super::shape::Shape;
use super::translate_session::SessionKind;

/// What a session begins with because of the key that its caller shows. The caller may change it afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPreset {
    shape: Shape,
    session: String,
    transcribes: bool,
    settings: Settings,
}

/// Why settings cannot be attached to a key.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// They cannot be read.
    #[error("the session is no JSON object whose members are all different: {0}")]
    NotASession(#[from] serde_json::Error),
}

impl SessionPreset {
    /// Reads the session of the request that mints a key, a JSON object in that shape. GA sessions say themselves
    /// whether they only transcribe; of the preview shape the path says it, by `transcribes`.
    ///
    /// # Errors
    ///
    /// If it is no such object.
    pub fn new(shape: Shape, session: &str, transcribes: bool) -> Result<Self, PresetError> {
        serde_json::from_str::<OneReading>(session)?;
        let object = Object::parse(session)?;
        let kind = match shape {
            Shape::Ga => SessionKind::of_ga(&object),
            Shape::Preview if transcribes => SessionKind::Transcription,
            Shape::Preview => SessionKind::Realtime,
        };
        Ok(Self {
            shape,
            session: session.to_owned(),
            transcribes: kind == SessionKind::Transcription,
            settings: Settings::of_session(object, shape, kind),
        })
    }

    /// The shape that it is written in.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The session as it was given.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Whether the session only transcribes.
    #[must_use]
    pub const fn transcribes(&self) -> bool {
        self.transcribes
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_session_is_known() {
        let check = |shape, session: &str, by_path, expected| {
            let preset = SessionPreset::new(shape, session, by_path).expect("good");
            assert_eq!(preset.transcribes(), expected, "{session}");
        };
        check(Shape::Ga, r#"{"type":"transcription"}"#, false, true);
        check(Shape::Ga, r#"{"type":"realtime"}"#, false, false);
        check(Shape::Ga, "{}", false, false);
        check(Shape::Preview, "{}", true, true);
        check(Shape::Preview, "{}", false, false);
    }

    #[test]
    fn only_sessions_are_taken() {
        for bad in [
            "",
            "[]",
            "null",
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
        ] {
            assert!(SessionPreset::new(Shape::Ga, bad, false).is_err(), "{bad}");
        }
    }
}
