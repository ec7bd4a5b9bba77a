//! The HTTP answers that callers get in place of an upgrade.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::json;

/// An HTTP answer in place of the upgrade, in the words that SDKs know (protocol reference 1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// A stable name, in OpenAI's style; also the metric label.
    pub code: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// What exactly was wrong, by a name of a closed set, where the caller is not to know it. For operators.
    pub cause: Option<&'static str>,
}

impl Refusal {
    /// Any refusal that is none of the below.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
            cause: None,
        }
    }

    /// 400: the request itself is wrong.
    #[must_use]
    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, message)
    }

    /// 401: no, wrong or expired credential. All of these get this one answer, so that nobody learns
    /// from it which keys exist.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(
            401,
            "invalid_api_key",
            "Access denied due to an invalid or missing credential, or a wrong API endpoint.",
        )
    }

    /// 403: a good credential, for something else.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(
            403,
            "permission_denied",
            "The credential does not give access to this model or agent.",
        )
    }

    /// 403: a web page that may not call.
    #[must_use]
    pub fn origin_refused() -> Self {
        Self::new(403, "origin_refused", "Pages of this origin may not call.")
    }

    /// 403: the settings attached to an ephemeral key are not what its tenant may set.
    #[must_use]
    pub fn session_refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, "session_refused", message)
    }

    /// 404: no such path.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, "not_found", "Resource not found.")
    }

    /// 404: no such model or deployment.
    #[must_use]
    pub fn model_not_found() -> Self {
        Self::new(
            404,
            "model_not_found",
            "The model or deployment does not exist.",
        )
    }

    /// 429: over a rate or a quota.
    #[must_use]
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(
                429,
                "rate_limit_exceeded",
                "Rate limit reached. Try again later.",
            )
        }
    }

    /// 503: no capacity, here or at the deployments.
    #[must_use]
    pub fn unavailable(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(
                503,
                "server_overloaded",
                "No capacity at the moment. Try again later.",
            )
        }
    }

    /// 503: the process is going away. Whoever tries again at once finds another one, if there is one.
    #[must_use]
    pub fn draining() -> Self {
        Self {
            code: "draining",
            ..Self::unavailable(Duration::from_secs(1))
        }
    }

    /// 503: as many calls as the process takes.
    #[must_use]
    pub fn calls_full() -> Self {
        Self {
            code: "calls_full",
            ..Self::unavailable(Duration::from_secs(5))
        }
    }

    /// 503: what only the shared store knows cannot be known at the moment.
    #[must_use]
    pub fn store_unavailable(retry_after: Duration) -> Self {
        Self {
            code: "store_unavailable",
            ..Self::unavailable(retry_after)
        }
    }

    /// The body, a JSON text.
    #[must_use]
    pub fn body(&self, style: ErrorStyle) -> String {
        let error = match style {
            ErrorStyle::Azure => json!({"code": self.azure_code(), "message": self.message}),
            ErrorStyle::OpenAi => json!({
                "message": self.message,
                "type": self.openai_type(),
                "param": null,
                "code": self.code,
            }),
        };
        json!({ "error": error }).to_string()
    }

    /// The headers. Most WebSocket clients show no body, so what helps is repeated here.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-trunkline-error", self.code.to_owned()),
        ];
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: who comes too early is refused again.
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            headers.push(("retry-after", seconds.to_string()));
            headers.push(("retry-after-ms", wait.as_millis().max(1).to_string()));
        }
        headers
    }

    fn azure_code(&self) -> Cow<'static, str> {
        match self.code {
            "model_not_found" => Cow::Borrowed("DeploymentNotFound"),
            "permission_denied" => Cow::Borrowed("PermissionDenied"),
            _ => Cow::Owned(self.status.to_string()),
        }
    }

    const fn openai_type(&self) -> &'static str {
        match self.status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// Whose conventions a path follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorStyle {
    /// `{"error":{"code":"401","message":"..."}}`
    Azure,
    /// `{"error":{"message":"...","type":"...","param":null,"code":"..."}}`
    OpenAi,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn refusals_speak_both_styles() {
        let check = |refusal: &Refusal, style, expected: Value| {
            let body: Value = serde_json::from_str(&refusal.body(style)).unwrap();
            assert_eq!(body, expected);
        };
        let refusal = Refusal::new(401, "invalid_api_key", "No.");
        check(
            &refusal,
            ErrorStyle::Azure,
            json!({"error":{"code":"401","message":"No."}}),
        );
        check(
            &refusal,
            ErrorStyle::OpenAi,
            json!({"error":{"message":"No.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}),
        );
        let body = Refusal::model_not_found().body(ErrorStyle::Azure);
        assert!(body.contains("DeploymentNotFound"));
        let headers = Refusal::too_many_requests(Duration::from_millis(1_200)).headers();
        assert!(headers.contains(&("retry-after", "2".to_owned())));
        assert!(headers.contains(&("retry-after-ms", "1200".to_owned())));
    }
}
