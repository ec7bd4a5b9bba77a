//! The labels of metrics and what each may say: a closed set that stands here, or names of the configuration.

use super::control::CONTROL_METHODS;
use super::metric::{Label, closed, names};

pub(super) const AGENT: Label = names("agent", "names of agents");
pub(super) const DEPLOYMENT: Label = names("deployment", "names of deployments");
pub(super) const IDENTITY: Label = names(
    "identity",
    "names of deployments, each the first that uses the identity",
);
pub(super) const POOL: Label = names(
    "pool",
    "names of pools, and of deployments that are asked without one",
);
pub(super) const TENANT: Label = names(
    "tenant",
    "names of tenants; `default` without authentication",
);

/// The dialects, and more.
macro_rules! dialects {
    ($($more:literal),*) => {
        &[
            "twilio",
            "signalwire",
            "exotel",
            "telnyx",
            "jambonz",
            "freeswitch",
            "asterisk",
            "audiosocket",
            "plivo",
            "vobiz",
            "vonage",
            "infobip",
            "acs",
            "genesys",
            "webex",
            "pipecat",
            "audio",
            "realtime",
            $($more),*
        ]
    };
}

/// The dialects of phones, and that of SDK clients.
pub(super) const DIALECT: Label = closed("dialect", dialects!());

/// Where callers come in: by a dialect, or for a credential, or nowhere.
pub(super) const ROUTE: Label = closed("route", dialects!("tickets", "ephemeral_keys", "other"));

/// Why no collector has a span.
pub(super) const SPAN_DROPS: &[&str] = &[
    "span_limit",
    "queue_full",
    "refused",
    "rejected",
    "not_taken",
    "shutdown",
];

/// Why spans are sent again.
pub(super) const TRACE_RETRY: &[&str] = &[
    "timeout",
    "unreachable",
    "answer",
    "status_429",
    "status_502",
    "status_503",
    "status_504",
];

/// Why a call record is not where it was to go.
pub(super) const RECORD_FAILURES: &[&str] = &["refused", "file", "spool"];

/// What a take-over was for the record of a call.
pub(super) const RECORD_TAKE_OVERS: &[&str] = &["written", "superseded"];

/// Why a call record is nowhere.
pub(super) const RECORD_DROPS: &[&str] = &[
    "queue_full",
    "spool_full",
    "unreadable",
    "spool_unwritable",
    "spool_unreadable",
];

pub(super) const DIRECTION: Label = closed("direction", &["to_model", "to_caller"]);

pub(super) const END_REASON: Label = closed(
    "end_reason",
    &[
        "caller_hangup",
        "caller_gone",
        "caller_protocol",
        "probe",
        "caller_never_started",
        "caller_silent",
        "caller_too_slow",
        "assistant_hangup",
        "assistant_transfer",
        "model_rejected_session",
        "model_unauthorized",
        "model_session_expired",
        "model_closed",
        "model_gone",
        "model_stalled",
        "model_protocol",
        "model_unavailable",
        "max_duration",
        "budget_exhausted",
        "operator",
        "drained",
        "internal",
    ],
);

/// What operators ask of the control service; `other` is what there is not.
pub(super) const CONTROL_METHOD: Label = closed("method", CONTROL_METHODS);

/// The codes of gRPC that a request can be answered with; `other` is one that it should not.
pub(super) const GRPC_CODE: Label = closed(
    "code",
    &[
        "ok",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "unauthenticated",
        "other",
    ],
);

/// Why callers are refused. First what the gateway itself has no room for, then quota, deployments, credentials, and
/// requests that are wrong.
pub(super) const REFUSED: Label = closed(
    "reason",
    &[
        "draining",
        "calls_full",
        "overloaded_cpu",
        "overloaded_memory",
        "overloaded_descriptors",
        "call_rate_exceeded",
        "tenant_call_rate_exceeded",
        "too_many_connections",
        "too_many_from_source",
        "too_many_failures",
        "store_unavailable",
        "quota_unknown",
        "capacity_exceeded",
        "capacity_exhausted",
        "tenant_blocked",
        "tenant_share_exceeded",
        "tenant_calls_exceeded",
        "tenant_tokens_exceeded",
        "tenant_tokens_of_day_exceeded",
        "tenant_minutes_of_day_exceeded",
        "caller_calls_exceeded",
        "caller_minutes_exceeded",
        "rate_limit_exceeded",
        "deployment_unavailable",
        "deployment_timeout",
        "deployment_error",
        "invalid_api_key",
        "permission_denied",
        "origin_refused",
        "session_refused",
        "authentication_timeout",
        "signing_keys_unavailable",
        "tickets_off",
        "internal_error",
        "not_found",
        "model_not_found",
        "target_too_long",
        "request_timeout",
        "bad_request",
        "bad_body",
        "bad_form",
        "bad_first_packet",
        "bad_connection_id",
        "invalid_json",
        "invalid_model",
        "invalid_query",
        "invalid_subprotocol",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "unknown_parameter",
        "unknown_dialect",
        "call_not_found",
        "server_not_found",
        "connection_not_found",
        "connection_taken",
        "asterisk_timeout",
        "asterisk_unreachable",
        "asterisk_refused",
        "not_get",
        "not_http11",
        "not_origin_form",
        "bad_host",
        "has_body",
        "not_upgrade",
        "bad_upgrade",
        "bad_connection",
        "bad_version",
        "bad_key",
        "bad_protocols",
        "bad_origin",
    ],
);

pub(super) const QUOTA_REFUSED: Label = closed(
    "reason",
    &[
        "quota_unknown",
        "capacity_exceeded",
        "capacity_exhausted",
        "tenant_blocked",
        "tenant_share_exceeded",
        "tenant_calls_exceeded",
        "tenant_call_rate_exceeded",
        "tenant_tokens_exceeded",
        "tenant_tokens_of_day_exceeded",
        "tenant_minutes_of_day_exceeded",
        "caller_calls_exceeded",
        "caller_minutes_exceeded",
    ],
);

pub(super) const DENIED: Label = closed(
    "reason",
    &[
        "missing",
        "unknown_key",
        "expired",
        "bad_ticket",
        "misplaced",
        "replayed",
        "bad_signature",
        "malformed_token",
        "unsupported_token",
        "bad_algorithm",
        "wrong_issuer",
        "wrong_audience",
        "not_yet_valid",
        "no_expiry",
        "missing_claim",
        "no_tenant",
        "unknown_signing_key",
        "keys_unavailable",
        "store_unavailable",
        "contradictory",
        "unknown_certificate",
        "timeout",
    ],
);

pub(super) const BAD_INPUT: Label = closed(
    "reason",
    &[
        "malformed_json",
        "json_too_deep",
        "json_too_many_keys",
        "json_too_large",
        "duplicate_key",
        "wrong_shape",
        "missing_field",
        "binary_unexpected",
        "text_unexpected",
        "malformed_protobuf",
        "malformed_event",
        "bad_base64",
        "odd_byte_count",
        "before_start",
        "second_start",
        "wrong_stream",
        "out_of_sequence",
        "unsupported_format",
        "unknown_digit",
        "undecodable_audio",
        "websocket",
        "too_large",
        "too_many_fragments",
        "too_many_control_frames",
        "too_many_messages",
        "message_too_slow",
    ],
);

/// Error codes of the Realtime API that get a series of their own (protocol reference 3.4), and the gateway's
/// own names for what it cannot read; any other is counted as `other`, because the text comes from outside.
pub(super) const UPSTREAM_ERROR: Label = closed(
    "code",
    &[
        "beta_api_shape_disabled",
        "binary_message",
        "cannot_update_voice",
        "conversation_already_has_active_response",
        "input_audio_buffer_commit_empty",
        "invalid_api_key",
        "invalid_event",
        "invalid_tool_call_id",
        "invalid_value",
        "malformed_audio",
        "malformed_event",
        "message_too_slow",
        "missing_required_parameter",
        "rate_limit_exceeded",
        "response_cancel_not_active",
        "server_error",
        "session_expired",
        "too_large",
        "too_many_control_frames",
        "too_many_fragments",
        "unknown_parameter",
        "unsupported_content_type",
        "websocket",
        "other",
    ],
);

/// The first words of Redis's errors that get a series of their own; any other is counted as `other`, because the text
/// comes from outside.
pub(super) const STORE_ERROR: Label = closed(
    "kind",
    &[
        "AUTH",
        "BUSY",
        "CLUSTERDOWN",
        "ERR",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "WRONGPASS",
        "WRONGTYPE",
        "timeout",
        "unreachable",
        "other",
    ],
);

pub(super) const OVERLOAD: Label = closed(
    "reason",
    &[
        "overloaded_cpu",
        "overloaded_memory",
        "overloaded_descriptors",
    ],
);

pub(super) const IGNORED: Label = closed(
    "kind",
    &[
        "unknown_event",
        "other_track",
        "foreign_mark",
        "repeated_start",
        "empty_audio",
        "after_stop",
        "late_audio",
        "provider_error",
    ],
);

pub(super) const POLICY_RULE: Label = closed(
    "rule",
    &[
        "malformed",
        "unknown_event",
        "unknown_field",
        "forbidden",
        "pinned",
        "output_tokens",
        "tool",
        "tool_type",
        "stored_prompt",
        "system_item",
        "tool_result",
        "session_kind",
    ],
);

pub(super) const CONNECTION_END: Label = closed(
    "reason",
    &[
        "evicted",
        "idle",
        "unauthenticated",
        "head_timeout",
        "head_too_large",
        "bad_head",
        "tls_timeout",
        "tls_failed",
        "too_many_handshakes",
        "too_many_handshakes_from_source",
    ],
);

pub(super) const DIAL_FAILURE: Label = closed(
    "reason",
    &[
        "no_token",
        "connect",
        "tls",
        "unauthorized",
        "not_found",
        "rate_limited",
        "refused",
        "rejected",
        "closed",
        "handshake",
        "timeout",
        "none_left",
    ],
);

pub(super) const TOKEN_OUTCOME: Label = closed(
    "outcome",
    &[
        "ok",
        "local",
        "unreachable",
        "timeout",
        "refused",
        "answer",
        "expired",
        "tool",
        "library",
    ],
);

pub(super) const REPLACEMENT_CAUSE: Label = closed(
    "cause",
    &[
        "closed",
        "gone",
        "protocol",
        "stalled",
        "rejected",
        "unauthorized",
        "expired",
        "server_error",
        "rate_limited",
        "rotation",
    ],
);

pub(super) const CONDITION: Label =
    closed("condition", &["well", "paused", "open", "probing", "out"]);

pub(super) const CHOICE: Label = closed(
    "reason",
    &[
        "first",
        "probe",
        "spill",
        "next",
        "repeat",
        "hedge",
        "last_resort",
        "standby",
    ],
);

pub(super) const BUDGET: Label = closed(
    "budget",
    &[
        "tokens_per_day",
        "minutes_per_day",
        "caller_minutes_per_day",
        "max_call",
        "blocked",
    ],
);

pub(super) const FAILED_OR_OK: Label = closed("outcome", &["ok", "failed"]);
