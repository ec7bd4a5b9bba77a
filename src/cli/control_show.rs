//! Calls and deployments as tables for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::admin::control_json::{call_json, lasts, say_mode, state};
use crate::admin::control_proto as proto;
use crate::admin::control_proto::moment::What;
use crate::admin::control_proto::watch_calls_response::Event;

/// A table of calls, the oldest first.
pub(super) fn calls(calls: &[proto::Call]) -> String {
    let heads = [
        "CALL",
        "TENANT",
        "ROUTE",
        "DIALECT",
        "DEPLOYMENT",
        "STATE",
        "LASTS",
        "TURNS",
        "LAST TURN",
        "BARGE-INS",
        "TOKENS",
    ];
    table(&heads, calls.iter().map(row))
}

fn row(call: &proto::Call) -> Vec<String> {
    let last = call.last_turn.as_ref().and_then(|turn| turn.latency);
    vec![
        call.call_id.clone(),
        call.tenant.clone(),
        call.route.clone(),
        call.dialect.clone(),
        call.deployment.clone(),
        state(call).to_owned(),
        span(call.lasts),
        call.turns.to_string(),
        last.map_or_else(|| "-".to_owned(), |latency| millis(Some(latency))),
        call.barge_ins.to_string(),
        tokens(call).to_string(),
    ]
}

/// One call with what happened in it.
pub(super) fn one_call(call: &proto::Call) -> String {
    let mut text = calls(std::slice::from_ref(call));
    let sessions = (call.sessions, &call.session_id);
    let _ = writeln!(text, "\nsession {} of the call: {}", sessions.0, sessions.1);
    for moment in &call.timeline {
        let _ = writeln!(text, "{:>9}  {}", span(moment.at), happened(moment));
    }
    text
}

fn happened(moment: &proto::Moment) -> String {
    match &moment.what {
        Some(What::FirstAudio(after)) => format!("first audio after {}", millis(Some(*after))),
        Some(What::Turn(turn)) => format!(
            "answered in {} (model {}, gateway {})",
            millis(turn.latency),
            millis(turn.model),
            millis(turn.gateway)
        ),
        Some(What::BargeIn(unheard)) => {
            format!("interrupted; {} were not heard", millis(Some(*unheard)))
        }
        Some(What::SessionLost(cause)) => format!("session lost: {cause}"),
        Some(What::SessionOpened(deployment)) => format!("went on at {deployment}"),
        Some(What::Said(mode)) => {
            let mode = proto::SayMode::try_from(*mode).unwrap_or_default();
            format!("an operator said something ({})", say_mode(mode))
        }
        None => "something of which this release knows nothing".to_owned(),
    }
}

/// What a watcher is told, but for snapshots.
pub(super) fn event(event: &Event) -> String {
    let line = |what: &str, call: &proto::Call| {
        let mut cells = row(call);
        if !call.end_reason.is_empty() {
            cells.push(call.end_reason.clone());
        }
        format!("{what:<8}{}", cells.join("  "))
    };
    match event {
        Event::Began(call) => line("began", call),
        Event::Changed(call) => line("changed", call),
        Event::Ended(call) => line("ended", call),
        Event::Missed(missed) => format!("missed {} events; all calls again:", missed.events),
        Event::Snapshot(snapshot) => calls(&snapshot.calls),
    }
}

/// The same for programs, an object a line.
pub(super) fn event_json(event: &Event) -> Vec<Value> {
    let line = |what: &str, call: &proto::Call| json!({"event": what, "call": call_json(call)});
    match event {
        Event::Began(call) => vec![line("began", call)],
        Event::Changed(call) => vec![line("changed", call)],
        Event::Ended(call) => vec![line("ended", call)],
        Event::Missed(missed) => vec![json!({"event": "missed", "events": missed.events})],
        Event::Snapshot(snapshot) => {
            let calls = snapshot.calls.iter();
            calls.map(|call| line("present", call)).collect()
        }
    }
}

/// A table of deployments.
pub(super) fn deployments(deployments: &[proto::Deployment]) -> String {
    let heads = [
        "DEPLOYMENT",
        "REGION",
        "CONDITION",
        "SESSIONS",
        "STANDBY",
        "TOKENS/MIN",
        "LEFT",
        "REQUESTS/MIN",
        "LEFT",
        "FULL",
    ];
    let rows = deployments.iter().map(|it| {
        let condition = match it.is_drained {
            true => format!("{}, drained", it.condition),
            false => it.condition.clone(),
        };
        let [tokens, tokens_left] = quota(it.tokens.as_ref());
        let [requests, requests_left] = quota(it.requests.as_ref());
        vec![
            it.name.clone(),
            it.region.clone(),
            condition,
            it.sessions.to_string(),
            it.standby.to_string(),
            tokens,
            tokens_left,
            requests,
            requests_left,
            format!("{:.0}%", it.pressure * 100.0),
        ]
    });
    table(&heads, rows)
}

fn quota(quota: Option<&proto::Quota>) -> [String; 2] {
    match quota {
        Some(quota) => [quota.limit, quota.remaining].map(|it| format!("{it:.0}")),
        None => ["-".to_owned(), "-".to_owned()],
    }
}

fn table<const N: usize>(heads: &[&str; N], rows: impl Iterator<Item = Vec<String>>) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn tokens(call: &proto::Call) -> u64 {
    let it = call.tokens.unwrap_or_default();
    [
        it.input_text,
        it.input_audio,
        it.input_image,
        it.output_text,
        it.output_audio,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Whole seconds, for people.
fn span(span: Option<prost_types::Duration>) -> String {
    let seconds = lasts(span).unwrap_or_default().as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

fn millis(span: Option<prost_types::Duration>) -> String {
    format!("{} ms", lasts(span).unwrap_or_default().as_millis())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::control_json::deployment_json;

    fn duration(millis: u64) -> Option<prost_types::Duration> {
        Duration::from_millis(millis).try_into().ok()
    }

    fn call() -> proto::Call {
        proto::Call {
            call_id: "call-1".to_owned(),
            tenant: "acme".to_owned(),
            route: "support".to_owned(),
            dialect: "twilio".to_owned(),
            conductor: proto::Conductor::Gateway.into(),
            deployment: "east".to_owned(),
            session_id: "sess_1".to_owned(),
            sessions: 2,
            began_at: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            lasts: duration(3_725_000),
            state: proto::CallState::Talking.into(),
            turns: 3,
            barge_ins: 1,
            last_turn: Some(proto::TurnLatency {
                latency: duration(700),
                model: duration(690),
                gateway: duration(10),
            }),
            tokens: Some(proto::Tokens {
                input_audio: 100,
                cached_audio: 40,
                output_audio: 20,
                ..proto::Tokens::default()
            }),
            timeline: vec![proto::Moment {
                at: duration(61_000),
                what: Some(What::SessionOpened("west".to_owned())),
            }],
            ..proto::Call::default()
        }
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let other = proto::Call {
            call_id: "call-22".to_owned(),
            last_turn: None,
            ..call()
        };
        let expected = "\
CALL     TENANT  ROUTE    DIALECT  DEPLOYMENT  STATE    LASTS    TURNS  LAST TURN  BARGE-INS  TOKENS
call-1   acme    support  twilio   east        talking  1:02:05  3      700 ms     1          120
call-22  acme    support  twilio   east        talking  1:02:05  3      -          1          120
";
        assert_eq!(calls(&[call(), other]), expected);
        assert_eq!(calls(&[]).lines().count(), 1);
    }

    #[test]
    fn a_timeline_is_told_in_order() {
        let text = one_call(&call());
        assert!(text.contains("session 2 of the call: sess_1\n"), "{text}");
        assert!(text.ends_with("     1:01  went on at west\n"), "{text}");
    }

    #[test]
    fn programs_get_numbers() {
        let line = call_json(&call());
        assert_eq!(line["began_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(line["lasts_ms"], 3_725_000.0);
        assert_eq!(line["last_turn"]["gateway_ms"], 10.0);
        assert_eq!(line["tokens"]["cached_audio"], 40);
        assert_eq!(line["end_reason"], Value::Null);
        assert_eq!(line["timeline"][0]["session_opened"], "west");
        let ended = Event::Ended(proto::Call {
            end_reason: "operator".to_owned(),
            ..call()
        });
        let lines = event_json(&ended);
        assert_eq!(lines[0]["event"], "ended");
        assert_eq!(lines[0]["call"]["end_reason"], "operator");
        assert!(event(&ended).ends_with("  operator"));
        let missed = Event::Missed(proto::Missed { events: 7 });
        assert_eq!(event_json(&missed)[0]["events"], 7);
    }

    #[test]
    fn deployments_show_what_is_left() {
        let provisioned = proto::Deployment {
            name: "ptu".to_owned(),
            condition: "well".to_owned(),
            is_drained: true,
            tokens: Some(proto::Quota {
                limit: 1000.0,
                used: 250.0,
                remaining: 750.0,
            }),
            pressure: 0.25,
            ..proto::Deployment::default()
        };
        let text = deployments(std::slice::from_ref(&provisioned));
        let line = text.lines().nth(1).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "ptu", "well,", "drained", "0", "0", "1000", "750", "-", "-", "25%"
            ]
        );
        let line = deployment_json(&provisioned);
        assert_eq!(line["tokens"]["used"], 250.0);
        assert_eq!(line["requests"], Value::Null);
        assert_eq!(line["drained"], true);
    }
}
