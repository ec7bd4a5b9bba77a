//! Which of the two event shapes a connection speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The shape of the events on one Realtime connection.
///
/// The early preview of 2024 counts as [`Shape::Preview`]: its clients ignore the fields that it did not have yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Flat session object, `response.audio.delta`, `conversation.item.created`.
    Preview,
    /// `session.type`, nested `audio`, `response.output_audio.delta`, `conversation.item.added` and `.done`.
    Ga,
}

impl Shape {
    /// The name in the configuration and in metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Ga => "ga",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serde_names() {
        for shape in [Shape::Preview, Shape::Ga] {
            let text = serde_json::to_string(&shape).unwrap();
            assert_eq!(text, format!("\"{shape}\""));
            assert_eq!(serde_json::from_str::<Shape>(&text).unwrap(), shape);
        }
    }
}
