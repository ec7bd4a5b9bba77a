//! Why a session could not be opened, and what follows from it: what the caller is answered, what it says of the
//! deployment, and what the log tells.

use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::telemetry::SetupPhase;
use crate::transport::Received;

use super::deployment::Deployment;
use super::state::Verdict;

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no token to show it, and none came in time.
    #[error("no token for deployment {deployment}")]
    NoToken {
        /// Its name.
        deployment: String,
    },
    /// The name could not be looked up or the connection was refused.
    #[error("cannot connect to deployment {deployment}: {source}")]
    Connect {
        /// Its name.
        deployment: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("no TLS with deployment {deployment}: {source}")]
    Tls {
        /// Its name.
        deployment: String,
        /// What was wrong.
        source: io::Error,
    },
    /// It answered the upgrade with something other than 101.
    #[error(
        "deployment {deployment} refused the session with HTTP status {status}{}{}",
        detail("code", .code.as_deref()),
        detail("request", .request_id.as_deref())
    )]
    Refused {
        /// Its name.
        deployment: String,
        /// The HTTP status.
        status: u16,
        /// `error.code` of the body, for the log only.
        code: Option<String>,
        /// The vendor's id of the request, for the log and for asking the vendor.
        request_id: Option<String>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It took the connection and then reported an error.
    #[error("deployment {deployment} refused the session with error {code}")]
    Rejected {
        /// Its name.
        deployment: String,
        /// The error's code.
        code: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It took the connection and closed it before there was a session. Bad keys come as 3000 and dialects that
    /// are no longer spoken as 4000, both with `TYPE.CODE` for a reason (protocol reference 1.6).
    #[error("deployment {deployment} closed the session with code {code}{}", detail("reason", .reason.as_deref()))]
    Closed {
        /// Its name.
        deployment: String,
        /// The close code, 1005 if there was none.
        code: u16,
        /// What it said, without control characters; for the log only.
        reason: Option<String>,
    },
    /// It broke the protocol or the connection.
    #[error("deployment {deployment} broke the handshake: {source}")]
    Handshake {
        /// Its name.
        deployment: String,
        /// What was wrong.
        source: Box<WsError>,
    },
    /// A phase took too long.
    #[error("deployment {deployment} took longer than {limit:?} in phase {}", phase.name())]
    Timeout {
        /// Its name.
        deployment: String,
        /// The phase.
        phase: SetupPhase,
        /// Its limit.
        limit: Duration,
    },
    /// No deployment of a pool is left to ask.
    #[error("no deployment of pool {pool} can be asked{}", after(.last.as_deref()))]
    NoneLeft {
        /// The pool's name.
        pool: String,
        /// When the first of them can be asked again.
        retry_after: Duration,
        /// All that keeps them is that too much was asked of them.
        is_rate_limited: bool,
        /// What the last one said that was asked.
        last: Option<Box<DialError>>,
    },
    /// No deployment of a pool gave a session in time.
    #[error("no deployment of pool {pool} gave a session within {limit:?}")]
    Late {
        /// The pool's name.
        pool: String,
        /// The limit.
        limit: Duration,
    },
}

fn after(last: Option<&DialError>) -> String {
    last.map_or_else(String::new, |last| format!("; the last one said: {last}"))
}

impl DialError {
    /// The metric label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoToken { .. } => "no_token",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Refused {
                status: 401 | 403, ..
            } => "unauthorized",
            Self::Refused { status: 404, .. } => "not_found",
            Self::Refused { status: 429, .. } => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. }
            | Self::Closed {
                code: 3000 | 4000, ..
            } => "rejected",
            Self::Closed { .. } => "closed",
            Self::Handshake { .. } => "handshake",
            Self::Timeout { .. } | Self::Late { .. } => "timeout",
            Self::NoneLeft { .. } => "none_left",
        }
    }

    /// What a caller is answered: the HTTP status, and when to try again.
    ///
    /// A rate limit is passed on as what it is. Everything that the caller cannot mend is the gateway's
    /// trouble with its deployment: 502, 503 or 504.
    #[must_use]
    pub fn caller_status(&self) -> (u16, Option<Duration>) {
        match self {
            Self::Refused {
                status: 429,
                retry_after,
                ..
            } => (429, Some(retry_after.unwrap_or(Duration::from_secs(1)))),
            Self::Refused {
                status: 503,
                retry_after,
                ..
            } => (503, Some(retry_after.unwrap_or(Duration::from_secs(1)))),
            Self::NoToken { .. } | Self::Connect { .. } => (503, Some(Duration::from_secs(1))),
            Self::NoneLeft {
                retry_after,
                is_rate_limited,
                ..
            } => (if *is_rate_limited { 429 } else { 503 }, Some(*retry_after)),
            Self::Timeout { .. } | Self::Late { .. } => (504, None),
            Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Rejected { .. }
            | Self::Closed { .. }
            | Self::Handshake { .. } => (502, None),
        }
    }
}

impl DialError {
    /// Whether what was shown is unknown there. OpenAI says so after the upgrade only (protocol reference 1.5); a 403 is
    /// about what a known key or identity may do.
    pub(super) fn is_unauthorized(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 401,
            Self::Rejected { code, .. } => code == "invalid_api_key",
            Self::Closed { code, reason, .. } => {
                let reason = reason.as_deref().unwrap_or_default();
                *code == 3000 && reason.ends_with("invalid_api_key")
            }
            _ => false,
        }
    }
}

impl DialError {
    /// Nobody can be asked, for a reason of the gateway's own.
    pub(super) fn none_left(pool: &str) -> Self {
        Self::NoneLeft {
            pool: pool.to_owned(),
            retry_after: Duration::from_secs(1),
            is_rate_limited: false,
            last: None,
        }
    }

    /// What it says of the deployment.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::NoToken { .. } | Self::Refused { status: 403, .. } => Verdict::Unauthorized,
            _ if self.is_unauthorized() => Verdict::Unauthorized,
            Self::Refused {
                status: 429,
                retry_after,
                ..
            } => Verdict::RateLimited(*retry_after),
            Self::Refused { retry_after, .. } => Verdict::Failed(*retry_after),
            Self::Rejected {
                code, retry_after, ..
            } if code == "rate_limit_exceeded" => Verdict::RateLimited(*retry_after),
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Rejected { .. }
            | Self::Closed { .. }
            | Self::Handshake { .. }
            | Self::Timeout { .. }
            | Self::NoneLeft { .. }
            | Self::Late { .. } => Verdict::Failed(None),
        }
    }
}

/// A detail of a log message, if it is known.
fn detail(name: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!(", {name} {value}"))
}

/// What it is that nothing more can be received.
pub(super) fn lost(ended: Received) -> WsError {
    match ended {
        Received::Broken(fault) => io::Error::new(io::ErrorKind::InvalidData, fault).into(),
        _ => WsError::ConnectionClosed,
    }
}

pub(super) fn handshake_error(deployment: &Deployment, source: WsError) -> DialError {
    DialError::Handshake {
        deployment: deployment.name.clone(),
        source: Box::new(source),
    }
}

/// Longest code or request id that is kept; ids are UUIDs of 36 characters.
const MAX_LABEL: usize = 64;

/// Longest close reason (RFC 6455, 5.5).
const MAX_REASON: usize = 123;

/// The characters of a word that can do no harm in a log; `None` if there are none.
pub(super) fn label(text: &str) -> Option<String> {
    let is_harmless = |c: &char| c.is_ascii_alphanumeric() || "_.-".contains(*c);
    let kept: String = text.chars().filter(is_harmless).take(MAX_LABEL).collect();
    (!kept.is_empty()).then_some(kept)
}

pub(super) fn closed(deployment: &Deployment, frame: Option<&CloseFrame>) -> DialError {
    let reason = frame.map_or("", |frame| frame.reason.as_str());
    let mut reason: String = reason.chars().filter(|c| !c.is_control()).collect();
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    DialError::Closed {
        deployment: deployment.name.clone(),
        code: frame.map_or(1005, |frame| frame.code.into()),
        reason: (!reason.is_empty()).then_some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ids_are_bounded() {
        assert_eq!(
            label(&"a".repeat(200)).map(|label| label.len()),
            Some(MAX_LABEL)
        );
        assert_eq!(label("\u{e4}\n"), None);
    }
}
