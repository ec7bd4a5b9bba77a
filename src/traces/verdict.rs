//! What a collector's answer means, by the rules of OTLP over HTTP: pure.

use std::time::Duration;

use http::StatusCode;
use prost::Message;

use crate::outbound::OutboundError;

use super::otlp::ExportTraceServiceResponse;

/// Attempts at one batch; after them it is given up, so that newer ones get their turn.
pub(super) const MAX_ATTEMPTS: u32 = 5;

/// Before the first repetition; doubled with each that fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// A collector that asks for more is asked again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The collector has them, but for so many, for the reason it gives.
    Taken { rejected: u64, message: String },
    /// To be tried again.
    Again {
        /// A closed name.
        cause: &'static str,
        /// What the collector said of when.
        retry_after: Option<Duration>,
    },
    /// The collector will never take them.
    Refused(&'static str),
}

impl Verdict {
    /// What that answer means (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Response").
    pub(super) fn of(answer: Result<(StatusCode, Option<Duration>, &[u8]), OutboundError>) -> Self {
        let again = |cause| Self::Again {
            cause,
            retry_after: None,
        };
        let (status, retry_after, body) = match answer {
            Ok(answer) => answer,
            Err(OutboundError::Timeout) => return again("timeout"),
            Err(OutboundError::Unreachable) => return again("unreachable"),
            Err(OutboundError::Answer) => return again("answer"),
            Err(OutboundError::Redirect(_)) => return Self::Refused("redirect"),
            Err(OutboundError::Url | OutboundError::PlainText | OutboundError::Forbidden) => {
                return Self::Refused("forbidden");
            }
        };
        let cause = match status.as_u16() {
            200..=299 => return Self::taken(body),
            429 => "status_429",
            502 => "status_502",
            503 => "status_503",
            504 => "status_504",
            _ => return Self::Refused("status"),
        };
        Self::Again { cause, retry_after }
    }

    /// A body that cannot be read says nothing else than that all were taken.
    fn taken(body: &[u8]) -> Self {
        let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
        let partial = answer.partial_success.unwrap_or_default();
        Self::Taken {
            rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
            message: partial.error_message,
        }
    }
}

/// How long to wait after that many attempts; `chance` from 0 to 1 spreads the waits of many gateways.
pub(super) fn wait(attempts: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    let own = FIRST_WAIT
        .saturating_mul(doubled)
        .mul_f64(0.5 + chance / 2.0);
    own.max(retry_after.unwrap_or_default()).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::otlp::ExportTracePartialSuccess;

    fn of(status: u16, body: &[u8]) -> Verdict {
        let status = StatusCode::from_u16(status).expect("a status");
        Verdict::of(Ok((status, None, body)))
    }

    #[test]
    fn only_what_otlp_names_is_tried_again() {
        for (status, cause) in [
            (429, "status_429"),
            (502, "status_502"),
            (503, "status_503"),
            (504, "status_504"),
        ] {
            let retry_after = None;
            assert_eq!(of(status, b""), Verdict::Again { cause, retry_after });
        }
        for status in [400, 401, 403, 404, 413, 500, 501] {
            assert_eq!(of(status, b""), Verdict::Refused("status"), "{status}");
        }
        let gone = Verdict::of(Err(OutboundError::Unreachable));
        assert!(matches!(
            gone,
            Verdict::Again {
                cause: "unreachable",
                ..
            }
        ));
    }

    #[test]
    fn a_partial_success_is_read() {
        let taken = |rejected, message: &str| Verdict::Taken {
            rejected,
            message: message.to_owned(),
        };
        assert_eq!(of(200, b""), taken(0, ""));
        assert_eq!(of(200, b"{}"), taken(0, ""));
        let partial = |rejected_spans, message: &str| {
            let partial_success = Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: message.to_owned(),
            });
            of(
                200,
                &ExportTraceServiceResponse { partial_success }.encode_to_vec(),
            )
        };
        assert_eq!(partial(3, "too old"), taken(3, "too old"));
        assert_eq!(partial(0, "a hint"), taken(0, "a hint"));
        assert_eq!(partial(-1, ""), taken(0, ""));
    }

    #[test]
    fn waits_grow_and_follow_the_collector() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(1, None, 1.0), seconds(1));
        assert_eq!(wait(1, None, 0.0), seconds(1) / 2);
        assert_eq!(wait(4, None, 1.0), seconds(8));
        assert_eq!(wait(1, Some(seconds(20)), 0.0), seconds(20));
        assert_eq!(wait(1, Some(seconds(9_999)), 0.0), LONGEST_WAIT);
        assert_eq!(wait(u32::MAX, None, 1.0), LONGEST_WAIT);
    }
}
