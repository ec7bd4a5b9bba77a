//! What the API answers to an event it cannot serve (reference chapters 3.3 and 3.4).

use serde_json::Value;

/// The inside of an `error` event, before the culprit's `event_id` is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) kind: &'static str,
    pub(super) code: Option<String>,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl ApiError {
    /// An empty code is `null` on the wire.
    pub(super) fn request(code: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "invalid_request_error",
            code: (!code.is_empty()).then(|| code.to_owned()),
            message: message.into(),
            param: None,
        }
    }

    pub(super) fn server(message: impl Into<String>) -> Self {
        Self {
            kind: "server_error",
            code: None,
            message: message.into(),
            param: None,
        }
    }

    pub(super) fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(super) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::request(
            "missing_required_parameter",
            format!("Missing required parameter: '{param}'."),
        )
        .at(param)
    }

    pub(super) fn unknown(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::request(
            "unknown_parameter",
            format!("Unknown parameter: '{param}'."),
        )
        .at(param)
    }

    pub(super) fn invalid(param: impl Into<String>, why: &str) -> Self {
        let param = param.into();
        Self::request(
            "invalid_value",
            format!("Invalid value for '{param}': {why}."),
        )
        .at(param)
    }

    /// A value of the wrong JSON type.
    pub(super) fn wrong_type(param: impl Into<String>, expected: &str, got: &Value) -> Self {
        let param = param.into();
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        let message =
            format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
        Self::request("invalid_type", message).at(param)
    }

    /// Reason text of the close that follows a fatal error: `{type}.{code}`.
    pub(super) fn close_reason(&self) -> String {
        format!("{}.{}", self.kind, self.code.as_deref().unwrap_or("null"))
    }
}
