//! Temperatures that preview clients set. GA has none, and preview clients want to see theirs again.
//!
//! A temperature is kept as the JSON text that it came as.

use std::collections::VecDeque;

use super::json::Object;

/// What the vendor's preview sessions begin with (reference, protocol 4.1).
const DEFAULT: &str = "0.8";

/// Responses that are remembered; few run at a time.
const MAX_RESPONSES: usize = 64;

/// The temperatures of a client's session and of its responses.
#[derive(Debug, Default)]
pub(super) struct Temperatures {
    session: Option<String>,
    /// Responses that the client asked for and that have not begun, oldest first.
    asked: VecDeque<Asked>,
    /// Id and temperature of running responses that have their own.
    running: VecDeque<(String, String)>,
}

/// A response that a client asked for.
#[derive(Debug)]
struct Asked {
    /// The client's id of the event as JSON text.
    event_id: Option<String>,
    temperature: Option<String>,
}

impl Temperatures {
    /// The client set its session's temperature.
    pub(super) fn set_session(&mut self, temperature: &str) {
        let is_number = serde_json::from_str::<f64>(temperature).is_ok();
        self.session = is_number.then(|| temperature.to_owned());
    }

    pub(super) fn session(&self) -> &str {
        self.session.as_deref().unwrap_or(DEFAULT)
    }

    /// The client sent a `response.create`.
    pub(super) fn ask(&mut self, event: &Object<'_>, response: Option<&Object<'_>>) {
        if self.asked.len() == MAX_RESPONSES {
            self.asked.pop_front();
        }
        let temperature = response.and_then(|response| response.get("temperature"));
        self.asked.push_back(Asked {
            event_id: event.get("event_id").map(|id| id.to_string()),
            temperature: temperature
                .filter(|temperature| **temperature != "null")
                .map(|temperature| temperature.to_string()),
        });
    }

    /// The temperature of a response that begins: the next one that was asked for. One that turn detection began
    /// in between takes its place, which costs nothing but a wrong echo.
    pub(super) fn begin(&mut self, response: &Object<'_>) -> String {
        let asked = self.asked.pop_front().and_then(|asked| asked.temperature);
        let Some(temperature) = asked else {
            return self.session().to_owned();
        };
        if self.running.len() == MAX_RESPONSES {
            self.running.pop_front();
        }
        let id = response.text("id").unwrap_or_default().into_owned();
        self.running.push_back((id, temperature.clone()));
        temperature
    }

    /// The temperature of a response that is done.
    pub(super) fn finish(&mut self, response: &Object<'_>) -> String {
        let id = response.text("id").unwrap_or_default();
        let index = self.running.iter().position(|(running, _)| *running == id);
        match index.and_then(|index| self.running.remove(index)) {
            Some((_, temperature)) => temperature,
            None => self.session().to_owned(),
        }
    }

    /// A response that is refused never begins. Errors name the event that they answer if it had an id.
    pub(super) fn refuse(&mut self, error: &Object<'_>) {
        let of_first = || {
            error.is("code", "conversation_already_has_active_response")
                || error
                    .text("param")
                    .is_some_and(|param| param.starts_with("response"))
        };
        let index = match error.get("event_id").filter(|id| **id != "null") {
            Some(id) => self
                .asked
                .iter()
                .position(|asked| asked.event_id.as_deref() == Some(id)),
            None => of_first().then_some(0),
        };
        if let Some(index) = index {
            self.asked.remove(index);
        }
    }

    /// What an earlier deployment was asked for, this one does not know.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }
}
