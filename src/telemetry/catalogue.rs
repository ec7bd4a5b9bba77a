//! The catalogue: every metric with its name, kind, unit, labels and meaning. What is not in it cannot be registered.
//!
//! `trunkline metrics` prints it, and `deploy/METRICS.md` is what that prints. What labels may
//! say stands in `labels.rs`.

use super::labels::{
    AGENT, BAD_INPUT, BUDGET, CHOICE, CONDITION, CONNECTION_END, CONTROL_METHOD, DENIED,
    DEPLOYMENT, DIAL_FAILURE, DIALECT, DIRECTION, END_REASON, FAILED_OR_OK, GRPC_CODE, IDENTITY,
    IGNORED, OVERLOAD, POLICY_RULE, POOL, QUOTA_REFUSED, RECORD_DROPS, RECORD_FAILURES,
    RECORD_TAKE_OVERS, REFUSED, REPLACEMENT_CAUSE, ROUTE, SPAN_DROPS, STORE_ERROR, TENANT,
    TOKEN_OUTCOME, TRACE_RETRY, UPSTREAM_ERROR,
};
use super::metric::{Kind, Metric, Unit, closed, names};

/// Buckets from 20 us to 100 ms: work of the gateway itself on one frame.
const FRAME_BUCKETS: &[f64] = &[
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05,
    0.1,
];

/// Buckets from 1 ms to 10 s: what a person or a network takes.
const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0,
    1.25, 1.5, 2.0, 3.0, 5.0, 10.0,
];

/// Buckets from 0.1 ms to 1 s: one round trip to a store nearby, up to where it is given up.
const ROUND_TRIP_BUCKETS: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0,
];

/// Buckets from 1 % to three times as much: how far a forecast was off.
const ERROR_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0,
];

macro_rules! metrics {
    ($($metric:ident = $kind:expr, $name:literal, $unit:expr, [$($label:expr),*], $help:literal;)*) => {
        $(pub(super) const $metric: Metric = Metric {
            name: $name,
            kind: $kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All metrics, in the order in which they are documented.
        pub const CATALOGUE: &[Metric] = &[$($metric),*];
    };
}

use Kind::{Gauge as G, Histogram as H};
use Unit::{Bytes, Count, Flag, Ratio, Seconds, Timestamp};

/// In the table below one word a kind keeps a line a line.
const C: Kind = Kind::Counter;

metrics! {
    // Calls.
    CALLS = C, "trunkline_calls_total", Count("calls"), [DIALECT, DEPLOYMENT, END_REASON],
        "Calls that ended.";
    CALLS_ACTIVE = G, "trunkline_calls_active", Count("calls"), [DIALECT],
        "Calls in progress.";
    CALLS_LIMIT = G, "trunkline_calls_limit", Count("calls"), [],
        "Calls at a time that the process takes: listener.max_calls.";
    CALLS_REFUSED = C, "trunkline_calls_refused_total", Count("callers"), [ROUTE, REFUSED],
        "Callers that were refused before the upgrade.";
    AUTH_DENIED = C, "trunkline_auth_denied_total", Count("callers"), [ROUTE, DENIED],
        "Callers that showed nothing by which they may come in, by what was wrong with it.";
    DRAINING = G, "trunkline_draining", Flag, [],
        "1 while the process refuses new calls because it is going away.";
    PANICS = C, "trunkline_panics_total", Count("calls"), [],
        "Calls that ended by a fault of the gateway.";
    BAD_INPUT_MESSAGES = C, "trunkline_bad_input_total", Count("messages"), [DIALECT, BAD_INPUT],
        "Caller messages that the dialect does not allow.";
    IGNORED_MESSAGES = C, "trunkline_ignored_messages_total", Count("messages"), [DIALECT, IGNORED],
        "Caller messages that were well formed and had no effect, counted when the call ends.";
    POLICY_REFUSED = C, "trunkline_policy_refused_total", Count("events"), [TENANT, POLICY_RULE],
        "Events of SDK callers, and settings of keys, that their tenant's session policy does not allow.";
    TOOL_CALLS = C, "trunkline_tool_calls_total", Count("tools"),
        [closed("outcome", &["ok", "failed", "timeout", "unknown", "panicked"])],
        "Tools that agents called.";

    // Latency.
    TURN_LATENCY = H(LATENCY_BUCKETS), "trunkline_turn_latency_seconds", Seconds, [DIALECT],
        "From the caller's last voiced sample to the first reply audio on the caller's wire. For callers of dialect realtime it starts at the deployment's speech_stopped.";
    TURN_MODEL = H(LATENCY_BUCKETS), "trunkline_turn_model_seconds", Seconds, [DIALECT],
        "The model's share of the turn latency.";
    TURN_GATEWAY = H(FRAME_BUCKETS), "trunkline_turn_gateway_seconds", Seconds, [DIALECT],
        "The gateway's share of the turn latency.";
    FIRST_AUDIO = H(LATENCY_BUCKETS), "trunkline_first_audio_seconds", Seconds, [DIALECT],
        "From the answer to the first reply audio on the caller's wire.";
    CALL_SETUP = H(LATENCY_BUCKETS), "trunkline_call_setup_seconds", Seconds,
        [DEPLOYMENT, closed("phase", &["resolve", "dial", "tls", "upgrade", "session_created", "session_updated"])],
        "Time to set up the model leg, by phase.";
    FRAME = H(FRAME_BUCKETS), "trunkline_frame_seconds", Seconds, [DIALECT, DIRECTION],
        "From reading a frame to having written what became of it.";
    PACER_LATENESS = H(FRAME_BUCKETS), "trunkline_pacer_lateness_seconds", Seconds, [],
        "How long after its deadline a reply frame left.";
    BARGE_IN_CLEAR = H(FRAME_BUCKETS), "trunkline_barge_in_clear_seconds", Seconds, [DIALECT],
        "From reading that the caller speaks to having written the clear.";

    // Audio.
    AUDIO_SECONDS = C, "trunkline_audio_seconds_total", Seconds, [DIALECT, DIRECTION],
        "Audio that passed.";
    AUDIO_DROPPED = C, "trunkline_audio_dropped_seconds_total", Seconds,
        [DIALECT, closed("reason", &["caller_ahead", "playout_full", "caller_slow", "undecodable", "carry_full"])],
        "Audio that was thrown away.";
    BARGE_IN_UNHEARD = C, "trunkline_barge_in_unheard_seconds_total", Seconds, [DIALECT],
        "Reply audio thrown away because the caller spoke.";
    UNDERRUNS = C, "trunkline_underruns_total", Count("times"), [DIALECT],
        "Times that the playout queue ran dry within a reply.";
    SILENCE_FILLED = C, "trunkline_silence_filled_seconds_total", Seconds, [DIALECT],
        "Silence sent to the model in place of missing caller audio.";

    // Sessions of a call.
    RESPONSES = C, "trunkline_responses_total", Count("responses"),
        [DEPLOYMENT, closed("status", &["completed", "cancelled", "incomplete", "failed"])],
        "Responses that ended.";
    RESPONSE_RETRIES = C, "trunkline_response_retries_total", Count("responses"), [DEPLOYMENT],
        "Failed responses that were asked for again.";
    UPSTREAM_ERRORS = C, "trunkline_upstream_errors_total", Count("errors"), [DEPLOYMENT, UPSTREAM_ERROR],
        "Error events and failed responses of the deployment.";
    BENIGN_RACES = C, "trunkline_benign_races_total", Count("races"),
        [closed("race", &["active_response", "nothing_to_cancel", "stale_truncate", "empty_commit"])],
        "Protocol races that were lost without harm.";
    SESSION_REPLACEMENTS = C, "trunkline_session_replacements_total", Count("sessions"),
        [REPLACEMENT_CAUSE, closed("outcome", &["replaced", "unavailable"])],
        "Sessions that failed, or came near their cap (rotation), in the middle of a call, and whether another one took over.";
    SESSION_GAP = H(LATENCY_BUCKETS), "trunkline_session_gap_seconds", Seconds, [DIALECT],
        "Silence beyond what was left to be played, from the loss of a session until another one was asked for the answer that it owed.";
    REPLAYED_AUDIO = C, "trunkline_replayed_audio_seconds_total", Seconds, [DIALECT],
        "Caller audio that was sent to another session once more.";
    HISTORY_DROPPED = C, "trunkline_history_dropped_total", Count("entries"), [],
        "Turns, function calls and key entries that were too old to be kept for another session.";

    // Deployments and pools.
    DEPLOYMENT_SESSIONS = G, "trunkline_deployment_sessions", Count("sessions"), [DEPLOYMENT],
        "Sessions that calls use at a deployment.";
    DEPLOYMENT_CONDITION = G, "trunkline_deployment_condition", Flag, [DEPLOYMENT, CONDITION],
        "1 for the condition that a deployment was last seen in.";
    DEPLOYMENT_DRAINED = G, "trunkline_deployment_drained", Flag, [DEPLOYMENT],
        "1 while an operator wants no session to be opened at a deployment.";
    DIAL_CHOICES = C, "trunkline_dial_choices_total", Count("sessions"), [POOL, DEPLOYMENT, CHOICE],
        "Sessions that were asked for, by what made the deployment the choice.";
    DIAL_FAILURES = C, "trunkline_dial_failures_total", Count("dials"), [DEPLOYMENT, DIAL_FAILURE],
        "Model legs that could not be set up.";
    DIAL_RETRIES = C, "trunkline_dial_retries_total", Count("dials"), [POOL, FAILED_OR_OK],
        "Dials after a failed one of the same call.";
    HEDGES = C, "trunkline_hedges_total", Count("dials"), [POOL, closed("outcome", &["won", "lost", "failed"])],
        "Second dials beside a slow first one, by which of them won.";
    RETRY_BUDGET_EXHAUSTED = C, "trunkline_retry_budget_exhausted_total", Count("dials"), [POOL],
        "Repeats and hedges that were not made because there had been too many.";
    DNS_FALLBACKS = C, "trunkline_dns_fallbacks_total", Count("dials"), [DEPLOYMENT],
        "Dials to an address known from before, because the name could not be looked up.";
    POOL_EJECTIONS = C, "trunkline_pool_ejections_total", Count("times"), [POOL, DEPLOYMENT],
        "Times that a deployment was left out of a pool because it failed more often than the others.";
    STANDBY_SESSIONS = G, "trunkline_standby_sessions", Count("sessions"), [POOL, AGENT],
        "Sessions that stand by for a call.";
    STANDBY = C, "trunkline_standby_total", Count("calls"),
        [POOL, closed("outcome", &["hit", "empty", "dead", "unsuitable"])],
        "Calls that asked for a session of a pool with standby, by whether one was there.";
    STANDBY_RETIRED = C, "trunkline_standby_retired_total", Count("sessions"),
        [POOL, closed("reason", &["age", "dead", "drained", "reconfigured", "rotated", "unhealthy", "unwanted"])],
        "Sessions that stood by and were closed unused.";

    // Quota and money.
    USAGE_TOKENS = C, "trunkline_usage_tokens_total", Count("tokens"),
        [
            TENANT, DEPLOYMENT, closed("direction", &["input", "output"]),
            closed("modality", &["text", "audio", "image"]), closed("cached", &["true", "false"])
        ],
        "Tokens as billed by the deployment.";
    USAGE_COST = C, "trunkline_usage_cost_total", Count("currency"),
        [TENANT, DEPLOYMENT, names("currency", "the currency of the prices")],
        "What these tokens cost by the prices of the configuration.";
    RATE_LIMIT = G, "trunkline_rate_limit", Count("requests or tokens per minute"),
        [DEPLOYMENT, closed("name", &["requests", "tokens"]), closed("bound", &["limit", "remaining"])],
        "What the deployment last said of its rate limits, per minute.";
    DEPLOYMENT_USED = G, "trunkline_deployment_used_ratio", Ratio, [DEPLOYMENT],
        "How much of a deployment's quota is used; 1 and more while it refuses.";
    QUOTA_LEASES = G, "trunkline_quota_leases", Count("leases"), [POOL],
        "Rights to call that this process holds: live calls, calls that are being set up, and places kept for calls that a webhook announced.";
    POOL_EXPECTED = G, "trunkline_pool_expected_ratio", Ratio, [POOL],
        "The highest demand that a pool's live calls were expected to have when one was last admitted by forecast, as a share of what it may carry.";
    FORECAST_ERROR = H(ERROR_BUCKETS), "trunkline_forecast_error_ratio", Ratio, [POOL],
        "What a pool's live calls used in a minute against what was expected at its beginning: the difference as a share of what was used.";
    QUOTA_REFUSED_CALLS = C, "trunkline_quota_refused_total", Count("calls"), [TENANT, QUOTA_REFUSED],
        "Calls that were refused for a quota.";
    BUDGET_NOTICES = C, "trunkline_budget_notices_total", Count("notices"),
        [TENANT, BUDGET, closed("kind", &["warning", "over"])],
        "Live calls that were told that a budget nears its end (warning) or is used up (over).";

    // The store that replicas share.
    STORE_UP = G, "trunkline_store_up", Flag, [closed("store", &["redis"])],
        "1 while the shared store answers.";
    STORE_SECONDS = H(ROUND_TRIP_BUCKETS), "trunkline_store_seconds", Seconds,
        [closed("operation", &["admit", "spend", "renew", "release", "use_once", "put", "get", "attend", "take_over", "confirm", "probe"])],
        "Time that an answer of the shared store took, errors included, by operation.";
    STORE_ERRORS = C, "trunkline_store_errors_total", Count("operations"), [STORE_ERROR],
        "Operations that the shared store did not do, by the first word of its answer.";
    STORE_FALLBACKS = C, "trunkline_store_fallbacks_total", Count("operations"),
        [closed("operation", &["admit", "spend"])],
        "Operations that were decided in this process because the shared store could not say.";
    STORE_LOST = C, "trunkline_store_lost_total", Count("messages"), [closed("kind", &["release", "spend"])],
        "What was to be told to the shared store when it is back, and was too much to remember.";

    // Traces.
    SPANS_EXPORTED = C, "trunkline_trace_spans_exported_total", Count("spans"), [],
        "Spans of calls that a collector has taken.";
    SPANS_DROPPED = C, "trunkline_trace_spans_dropped_total", Count("spans"), [closed("cause", SPAN_DROPS)],
        "Spans that no collector has: too many of one call (span_limit), too many that wait (queue_full), refused (refused, rejected), not taken in several attempts (not_taken), or left at the end of the process (shutdown).";
    TRACE_RETRIES = C, "trunkline_trace_export_retries_total", Count("attempts"), [closed("cause", TRACE_RETRY)],
        "Attempts to send spans that failed and were to be repeated.";
    SPANS_QUEUED = G, "trunkline_trace_spans_queued", Count("spans"), [],
        "Spans of ended calls that wait to be sent.";
    TRACE_CONTEXTS = C, "trunkline_trace_contexts_total", Count("requests"), [closed("outcome", &["read", "malformed"])],
        "Requests of known callers that told whose trace they belong to, while traces are on.";

    // Call records.
    RECORDS_DELIVERED = C, "trunkline_call_records_delivered_total", Count("records"),
        [closed("sink", &["log", "file", "webhook"])],
        "Call records that are where they were to go.";
    RECORDS_RETRIED = C, "trunkline_call_records_retried_total", Count("attempts"),
        [closed("cause", &["timeout", "unreachable", "answer", "forbidden", "status_408", "status_429", "status_5xx"])],
        "Attempts to send a call record that failed and are repeated.";
    RECORDS_FAILED = C, "trunkline_call_records_failed_total", Count("records"),
        [closed("cause", RECORD_FAILURES)],
        "Call records that the receiver refused, or that the file or the spool did not take.";
    RECORDS_DROPPED = C, "trunkline_call_records_dropped_total", Count("records"),
        [closed("cause", RECORD_DROPS)],
        "Call records that are nowhere.";
    RECORDS_TAKEN_OVER = C, "trunkline_call_records_taken_over_total", Count("records"),
        [closed("outcome", RECORD_TAKE_OVERS)],
        "Call records that this process wrote for one that was lost (written), or left out because another process had taken it for lost (superseded).";
    RECORDS_QUEUED = G, "trunkline_call_records_queued", Count("records"), [],
        "Call records that wait for the task that delivers them.";
    RECORDS_SPOOLED = G, "trunkline_call_records_spooled", Count("records"), [],
        "Call records that wait in the spool for the receiver.";
    RECORDS_OLDEST = G, "trunkline_call_records_oldest_timestamp_seconds", Timestamp, [],
        "When the call ended whose record has waited longest in the spool; 0 if none waits.";
    RECORDS_SPOOL_BYTES = G, "trunkline_call_records_spool_bytes", Bytes, [],
        "Bytes of the call records that wait in the spool.";

    // Credentials.
    CREDENTIALS_MADE = C, "trunkline_credentials_made_total", Count("credentials"),
        [TENANT, closed("kind", &["ticket", "ephemeral_key"])],
        "Tickets and ephemeral keys that were made.";
    SIGNING_KEY_FETCHES = C, "trunkline_signing_key_fetches_total", Count("times"),
        [names("issuer", "issuers of tokens"), FAILED_OR_OK],
        "Times that an issuer was asked for the keys of its tokens.";
    SIGNING_KEYS_FETCHED = G, "trunkline_signing_keys_fetched_timestamp_seconds", Timestamp, [names("issuer", "issuers of tokens")],
        "When the keys of an issuer last came, in seconds since 1970.";
    TOKEN_REFRESHES = C, "trunkline_token_refreshes_total", Count("tokens"), [IDENTITY, TOKEN_OUTCOME],
        "Tokens that were fetched, or why there is none; identity is the first deployment that uses it.";
    TOKEN_EXPIRY = G, "trunkline_token_expiry_seconds", Seconds, [IDENTITY],
        "How long the current token may still be used; 0 if there is none.";
    KEY_FILE_RELOADS = C, "trunkline_key_file_reloads_total", Count("files"), [DEPLOYMENT, FAILED_OR_OK],
        "Key files whose content changed: ok, or failed if it is no key.";
    CREDENTIAL_RETRIES = C, "trunkline_credential_retries_total", Count("dials"), [DEPLOYMENT],
        "Dials that were refused and tried again with a newer key or token.";
    TLS_RELOADS = C, "trunkline_tls_reloads_total", Count("files"), [closed("outcome", &["taken", "refused"])],
        "Changed certificate files of a listener, by whether they could be taken.";
    CONTROL_REQUESTS = C, "trunkline_control_requests_total", Count("requests"), [CONTROL_METHOD, GRPC_CODE],
        "Requests to the control service and its companions, by how they were answered; streams count when they begin.";
    CONFIG_RELOADS = C, "trunkline_config_reloads_total", Count("configurations"),
        [closed("outcome", &["applied", "unchanged", "failed"])],
        "Configurations that were read again, by what became of them; unchanged only where somebody asked by SIGHUP.";
    CONFIG_LAST_RELOAD_SUCCESS = G, "trunkline_config_last_reload_success", Flag, [],
        "1 unless the configuration, when it was last read, could not be used.";
    CONFIG_LAST_RELOAD = G, "trunkline_config_last_reload_timestamp_seconds", Timestamp, [],
        "When the configuration came into force that is.";

    // The door and the process.
    CONNECTIONS_ENDED = C, "trunkline_connections_ended_total", Count("connections"), [CONNECTION_END],
        "Connections that were ended before they became a call.";
    SHEDDING = G, "trunkline_shedding", Flag, [OVERLOAD],
        "1 while new calls are refused for this reason.";
    LOOP_LAG = G, "trunkline_loop_lag_seconds", Seconds, [],
        "How late tasks wake up: 99th percentile over 2 s.";
    LOG_LINES_LOST = C, "trunkline_log_lines_lost_total", Count("lines"), [],
        "Lines of the log that found no room, because whoever reads it does not, or that could not be written.";
    STALLS = C, "trunkline_stalls_total", Count("stalls"), [],
        "Threads that took more than 2 s for one step.";
    STALLED_THREADS = G, "trunkline_stalled_threads", Count("threads"), [],
        "Threads that have been at one step for more than 2 s. While there is one the process is not ready.";
    MEMORY_USED = G, "trunkline_memory_used_ratio", Ratio, [],
        "Share of the control group's memory that is used; 0 without a limit.";
    DESCRIPTORS_LEFT = G, "trunkline_descriptors_left", Count("descriptors"), [],
        "File descriptors that the process may still open.";
    BUILD_INFO = G, "trunkline_build_info", Flag,
        [
            names("version", "the release"), names("target", "architecture and system, like `x86_64-linux`"),
            closed("profile", &["release", "debug"])
        ],
        "1; which build this is.";
    PROCESS_CPU = C, "process_cpu_seconds_total", Seconds, [],
        "Processor time that the process took, its own and the system's for it.";
    PROCESS_RESIDENT = G, "process_resident_memory_bytes", Bytes, [],
        "Memory of the process that is in RAM.";
    PROCESS_VIRTUAL = G, "process_virtual_memory_bytes", Bytes, [],
        "Addresses that the process has asked for.";
    PROCESS_OPEN_FDS = G, "process_open_fds", Count("descriptors"), [],
        "File descriptors that are open.";
    PROCESS_MAX_FDS = G, "process_max_fds", Count("descriptors"), [],
        "File descriptors that may be open.";
    PROCESS_START = G, "process_start_time_seconds", Timestamp, [],
        "When the process began, in seconds since 1970.";
    PROCESS_THREADS = G, "process_threads", Count("threads"), [],
        "Threads of the process.";
}

/// What a scrape in the Prometheus text format says that the catalogue does not know: series of other names or labels,
/// and values of labels beyond their closed sets. One text each.
#[must_use]
pub fn strangers(scrape: &str) -> Vec<String> {
    let series = scrape.lines().filter(|line| !line.starts_with('#'));
    series
        .filter(|line| !is_known(line))
        .map(str::to_owned)
        .collect()
}

fn is_known(series: &str) -> bool {
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.rsplit_once('}').map_or("", |it| it.0)),
        None => (series.split(' ').next().unwrap_or_default(), ""),
    };
    let Some(metric) = family(name) else {
        return false;
    };
    let mut pairs = labels.split("\",").filter(|pair| !pair.is_empty());
    pairs.all(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap_or((pair, ""));
        let value = value.trim_end_matches('"');
        let known = metric.labels.iter().find(|known| known.name == label);
        match known {
            Some(known) => known.allows(value),
            None => label == "le" && matches!(metric.kind, Kind::Histogram(_)),
        }
    })
}

/// The metric that has series of that name.
#[must_use]
pub fn family(series: &str) -> Option<&'static Metric> {
    let named = |name: &str| CATALOGUE.iter().find(|metric| metric.name == name);
    named(series).or_else(|| {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| series.strip_suffix(part))?;
        named(base).filter(|metric| matches!(metric.kind, Kind::Histogram(_)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::metric::Values;
    use super::*;

    /// What is wrong with a metric's name, by Prometheus's rules and the house's.
    fn mistakes(metric: &Metric) -> Vec<&'static str> {
        let name = metric.name;
        let is_counter = metric.kind == Kind::Counter;
        let words: Vec<_> = name.split('_').collect();
        let other_units = [
            "ms",
            "us",
            "milliseconds",
            "microseconds",
            "minutes",
            "hours",
            "days",
            "kilobytes",
            "megabytes",
            "bits",
            "percent",
        ];
        let types = ["counter", "gauge", "histogram", "summary"];
        let reserved = ["le", "quantile", "job", "instance"];
        let base = name.strip_suffix("_total").unwrap_or(name);
        let ends_by_unit = match metric.unit {
            Unit::Seconds => base.ends_with("_seconds"),
            Unit::Timestamp => {
                base.ends_with("_timestamp_seconds") || base.ends_with("_time_seconds")
            }
            Unit::Bytes => base.ends_with("_bytes"),
            Unit::Ratio => base.ends_with("_ratio"),
            Unit::Count(_) | Unit::Flag => !["_seconds", "_bytes", "_ratio"]
                .iter()
                .any(|unit| base.ends_with(unit)),
        };
        let is_plain = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && !text.contains("__")
        };
        let has_ours = name.starts_with("trunkline_") || name.starts_with("process_");
        let rules = [
            (
                is_counter != name.ends_with("_total"),
                "_total is for counters, and for all of them",
            ),
            (
                ["_count", "_sum", "_bucket"]
                    .iter()
                    .any(|part| name.ends_with(part)),
                "ends as a part of a histogram",
            ),
            (
                words.iter().any(|word| other_units.contains(word)),
                "not in a base unit",
            ),
            (
                words.iter().any(|word| types.contains(word)),
                "says its type",
            ),
            (!ends_by_unit, "its end is not its unit"),
            (!is_plain(name) || !has_ours, "not of our names"),
            (
                !metric.help.ends_with('.') || metric.help.contains('|'),
                "no sentence for a table",
            ),
            (
                metric
                    .labels
                    .iter()
                    .any(|label| !is_plain(label.name) || reserved.contains(&label.name)),
                "a bad label",
            ),
        ];
        rules
            .iter()
            .filter(|rule| rule.0)
            .map(|rule| rule.1)
            .collect()
    }

    #[test]
    fn names_keep_to_the_rules_of_prometheus() {
        for metric in CATALOGUE {
            assert_eq!(mistakes(metric), Vec::<&str>::new(), "{}", metric.name);
        }
        let names: HashSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn names_against_the_rules_are_noticed() {
        let check = |name, kind, unit| {
            let metric = Metric {
                name,
                kind,
                unit,
                ..CALLS
            };
            assert!(!mistakes(&metric).is_empty(), "{name}");
        };
        check("trunkline_calls", Kind::Counter, Count("calls"));
        check("trunkline_active_total", Kind::Gauge, Count("calls"));
        check("trunkline_turn_ms", Kind::Gauge, Count("ms"));
        check("trunkline_turn", Kind::Gauge, Seconds);
        check("trunkline_turn_seconds", Kind::Gauge, Count("turns"));
        check("trunkline_turn_count", Kind::Gauge, Count("turns"));
        check("trunkline_call_gauge", Kind::Gauge, Count("calls"));
        check("trunkline_callsActive", Kind::Gauge, Count("calls"));
        check("calls_active", Kind::Gauge, Count("calls"));
    }

    #[test]
    fn values_of_a_label_stand_once() {
        for label in CATALOGUE.iter().flat_map(|metric| metric.labels) {
            if let Values::Closed(values) = label.values {
                let distinct: HashSet<_> = values.iter().collect();
                assert_eq!(distinct.len(), values.len(), "{}: {values:?}", label.name);
            }
        }
    }

    #[test]
    fn what_the_catalogue_does_not_know_is_found() {
        let known = "# HELP trunkline_draining 1\n\
            trunkline_draining 0\n\
            trunkline_calls_active{dialect=\"audio\"} 1\n\
            trunkline_frame_seconds_bucket{dialect=\"audio\",direction=\"to_model\",le=\"0.1\"} 1\n\
            trunkline_deployment_sessions{deployment=\"a, b\"} 1\n";
        assert_eq!(strangers(known), Vec::<String>::new());
        let check = |series: &str| assert_eq!(strangers(series), [series]);
        check("trunkline_made_up 1");
        check("trunkline_draining_sum 1");
        check("trunkline_draining{le=\"1\"} 1");
        check("trunkline_calls_active{dialect=\"semaphore\"} 1");
        check("trunkline_calls_active{colour=\"audio\"} 1");
    }
}
