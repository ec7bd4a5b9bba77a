//! What the gateway itself tells an SDK caller, as an `error` event, which every client knows in either shape.

use super::json::{Object, quoted};

/// An `error` event that no client event caused.
#[must_use]
pub fn error_event(event_id: &str, kind: &str, code: &str, message: &str) -> String {
    let mut error = Object::default();
    error.set("type", quoted(kind));
    error.set("code", quoted(code));
    error.set("message", quoted(message));
    error.set("param", "null");
    error.set("event_id", "null");
    let mut event = Object::default();
    event.set("type", "\"error\"");
    event.set("event_id", quoted(event_id));
    event.set("error", error.write());
    event.write()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_an_event_that_clients_know() {
        let event = error_event("event_1", "rate_limit_warning", "budget_warning", "a \"b\"");
        let expected = json!({"type": "error", "event_id": "event_1", "error": {
            "type": "rate_limit_warning", "code": "budget_warning", "message": "a \"b\"", "param": null,
            "event_id": null,
        }});
        assert_eq!(serde_json::from_str::<Value>(&event).unwrap(), expected);
    }
}
