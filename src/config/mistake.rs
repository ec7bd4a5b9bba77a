//! Mistakes in the file, each with its place there.

use std::fmt;

use super::locate;

/// A mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1, if the mistake has a place there.
    pub line: Option<usize>,
    /// Path of the field, as in `agents.reception.session.speed`; empty if the file cannot be read at all.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

pub(super) struct Mistakes<'a> {
    pub(super) text: &'a str,
    pub(super) found: Vec<Mistake>,
}

impl Mistakes<'_> {
    pub(super) fn add(&mut self, path: &[&str], problem: String) {
        self.found.push(Mistake {
            line: locate::line_of(self.text, path),
            field: path.join("."),
            problem,
        });
    }
}

/// A message of serde without the value that it complains of, which may be a secret in the wrong place: `invalid type:
/// string "...", expected u16`. Its kind and what was expected stay.
pub(super) fn without_value(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let is_about_value = ["invalid type: ", "invalid value: "]
        .iter()
        .any(|start| message.starts_with(start));
    // Of several, the last is ours: whatever comes before it may be part of the value.
    let (Some(value), Some(expected)) = (message.find(['"', '`']), message.rfind(EXPECTED)) else {
        return message.to_owned();
    };
    if !is_about_value || value > expected {
        return message.to_owned();
    }
    format!("{}{}", message[..value].trim_end(), &message[expected..])
}
