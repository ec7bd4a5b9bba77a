//! Why a call ended: a closed set, for metrics, logs and the parties' close codes.

use std::fmt;

macro_rules! end_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $side:ident, $code:literal;)*) => {
        /// Why a call ended. Every call ends with exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EndReason {
            $($(#[$doc])* $variant,)*
        }

        impl EndReason {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in metrics, logs and the `end` message of the `audio` dialect.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// On whose account the call ended.
            #[must_use]
            pub const fn side(self) -> Side {
                match self {
                    $(Self::$variant => Side::$side,)*
                }
            }

            /// Whether somebody may be left on the caller's side who can still be told.
            #[must_use]
            pub const fn is_caller_there(self) -> bool {
                !matches!(self, Self::CallerGone | Self::CallerTooSlow)
            }

            /// The WebSocket close code that the caller sees (RFC 6455, 7.4.1), where the gateway closes.
            #[must_use]
            pub const fn close_code(self) -> u16 {
                match self {
                    $(Self::$variant => $code,)*
                }
            }
        }
    };
}

/// A party to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller's.
    Downstream,
    /// The deployment's.
    Upstream,
    /// The gateway's own.
    Internal,
}

end_reasons! {
    /// The caller hung up and said so.
    CallerHangup = "caller_hangup", Downstream, 1000;
    /// The caller's connection ended without a word.
    CallerGone = "caller_gone", Downstream, 1001;
    /// The caller sent what its dialect does not allow.
    CallerProtocol = "caller_protocol", Downstream, 1008;
    /// The provider tried whether it is answered here; nobody called.
    Probe = "probe", Downstream, 1000;
    /// The caller connected and never began the call.
    CallerNeverStarted = "caller_never_started", Downstream, 1008;
    /// The caller's audio stopped for too long.
    CallerSilent = "caller_silent", Downstream, 1001;
    /// The caller does not take what is sent to it.
    CallerTooSlow = "caller_too_slow", Downstream, 1008;
    /// The model said good-bye by its hang-up tool.
    AssistantHangup = "assistant_hangup", Upstream, 1000;
    /// The model handed the call on by its transfer tool: whoever routes the call finds somebody else.
    AssistantTransfer = "assistant_transfer", Upstream, 1000;
    /// The deployment refused the session that the agent's configuration asks for.
    ModelRejectedSession = "model_rejected_session", Upstream, 1011;
    /// The deployment refused the gateway's credential after the connection stood.
    ModelUnauthorized = "model_unauthorized", Upstream, 1011;
    /// The vendor's session cap was reached.
    ModelSessionExpired = "model_session_expired", Upstream, 1001;
    /// The deployment closed the session.
    ModelClosed = "model_closed", Upstream, 1011;
    /// The connection to the deployment broke.
    ModelGone = "model_gone", Upstream, 1011;
    /// No event came while one was due.
    ModelStalled = "model_stalled", Upstream, 1011;
    /// The deployment sent what the protocol does not allow.
    ModelProtocol = "model_protocol", Upstream, 1011;
    /// No deployment gave a session in place of one that failed.
    ModelUnavailable = "model_unavailable", Upstream, 1013;
    /// The call reached its longest allowed duration.
    MaxDuration = "max_duration", Internal, 1000;
    /// A budget of the caller's tenant ran out.
    BudgetExhausted = "budget_exhausted", Internal, 1000;
    /// An operator ended it.
    Operator = "operator", Internal, 1000;
    /// The gateway is going away and the grace period is over.
    Drained = "drained", Internal, 1012;
    /// A fault of the gateway.
    Internal = "internal", Internal, 1011;
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: HashSet<_> = EndReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), EndReason::ALL.len());
    }
}
