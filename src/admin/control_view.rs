//! Calls and deployments in the words of the control service, and which calls a filter lets through.

use std::time::Duration;

use crate::bridge::{CallSnapshot, Conductor, Happened, LivePhase, Moment};
use crate::call::{SayMode, TurnLatency, Usage};
use crate::listener::{DeploymentStatus, QuotaStatus};

use super::control_proto as proto;

/// Whether a call is among those that are asked for.
pub(super) fn fits(filter: &proto::CallFilter, call: &CallSnapshot) -> bool {
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let facts = &call.facts;
    fits(&filter.tenant, &facts.tenant)
        && fits(&filter.route, &facts.route)
        && fits(&filter.deployment, &call.progress.deployment)
        && fits(&filter.dialect, facts.dialect)
}

impl From<CallSnapshot> for proto::Call {
    fn from(call: CallSnapshot) -> Self {
        let (facts, progress) = (&call.facts, call.progress);
        let conductor = match facts.conductor {
            Conductor::Gateway => proto::Conductor::Gateway,
            Conductor::Caller => proto::Conductor::Caller,
        };
        let state = match progress.phase {
            LivePhase::Connected => proto::CallState::Connected,
            LivePhase::Talking => proto::CallState::Talking,
            LivePhase::Replacing => proto::CallState::Replacing,
            LivePhase::Ending => proto::CallState::Ending,
            LivePhase::Ended => proto::CallState::Ended,
        };
        let end_reason = progress.end_reason.map(|reason| reason.name().to_owned());
        Self {
            call_id: facts.call_id.clone(),
            tenant: facts.tenant.clone(),
            route: facts.route.clone(),
            dialect: facts.dialect.to_owned(),
            conductor: conductor.into(),
            deployment: progress.deployment,
            session_id: progress.session_id,
            sessions: progress.n_sessions,
            began_at: Some(call.began_at.into()),
            lasts: duration(call.lasts),
            state: state.into(),
            turns: progress.n_turns,
            barge_ins: progress.n_barge_ins,
            last_turn: progress.last_turn.map(Into::into),
            first_audio: progress.first_audio.and_then(duration),
            tokens: Some(progress.usage.into()),
            end_reason: end_reason.unwrap_or_default(),
            timeline: progress.timeline.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Moment> for proto::Moment {
    fn from(moment: Moment) -> Self {
        use proto::moment::What;
        let span = |it| duration(it).unwrap_or_default();
        let what = match moment.what {
            Happened::FirstAudio(after) => What::FirstAudio(span(after)),
            Happened::Turn(turn) => What::Turn(turn.into()),
            Happened::BargeIn(unheard) => What::BargeIn(span(unheard)),
            Happened::SessionLost(cause) => What::SessionLost(cause.to_owned()),
            Happened::SessionOpened(deployment) => What::SessionOpened(deployment),
            Happened::Said(mode) => What::Said(proto::SayMode::from(mode).into()),
        };
        Self {
            at: duration(moment.at),
            what: Some(what),
        }
    }
}

impl From<SayMode> for proto::SayMode {
    fn from(mode: SayMode) -> Self {
        match mode {
            SayMode::Verbatim => Self::Verbatim,
            SayMode::User => Self::User,
            SayMode::System => Self::System,
        }
    }
}

impl From<proto::SayMode> for SayMode {
    fn from(mode: proto::SayMode) -> Self {
        match mode {
            proto::SayMode::Unspecified | proto::SayMode::Verbatim => Self::Verbatim,
            proto::SayMode::User => Self::User,
            proto::SayMode::System => Self::System,
        }
    }
}

impl From<TurnLatency> for proto::TurnLatency {
    fn from(turn: TurnLatency) -> Self {
        Self {
            latency: duration(turn.latency),
            model: duration(turn.model),
            gateway: duration(turn.gateway),
        }
    }
}

impl From<Usage> for proto::Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            input_text: usage.input_text,
            input_audio: usage.input_audio,
            input_image: usage.input_image,
            cached_text: usage.cached_text,
            cached_audio: usage.cached_audio,
            output_text: usage.output_text,
            output_audio: usage.output_audio,
        }
    }
}

impl From<DeploymentStatus> for proto::Deployment {
    fn from(status: DeploymentStatus) -> Self {
        Self {
            name: status.name,
            region: status.region.unwrap_or_default(),
            condition: status.condition.to_owned(),
            is_drained: status.is_drained,
            sessions: status.n_sessions,
            standby: status.n_standby,
            tokens: Some(status.tokens.into()),
            requests: status.requests.map(Into::into),
            pressure: status.pressure,
        }
    }
}

impl From<QuotaStatus> for proto::Quota {
    fn from(quota: QuotaStatus) -> Self {
        Self {
            limit: quota.limit,
            used: quota.limit - quota.remaining,
            remaining: quota.remaining,
        }
    }
}

/// None is longer than the contract can say.
fn duration(span: Duration) -> Option<prost_types::Duration> {
    span.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::bridge::{CallFacts, CallProgress};
    use crate::call::EndReason;

    fn call() -> CallSnapshot {
        CallSnapshot {
            facts: Arc::new(CallFacts {
                call_id: "call-1".to_owned(),
                tenant: "acme".to_owned(),
                route: "support".to_owned(),
                dialect: "twilio",
                conductor: Conductor::Gateway,
            }),
            began_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            lasts: Duration::from_millis(61_500),
            progress: CallProgress {
                deployment: "east".to_owned(),
                session_id: "sess_1".to_owned(),
                n_sessions: 2,
                phase: LivePhase::Ending,
                end_reason: Some(EndReason::Operator),
                lasted: None,
                n_turns: 3,
                last_turn: Some(TurnLatency {
                    latency: Duration::from_millis(700),
                    model: Duration::from_millis(695),
                    gateway: Duration::from_millis(5),
                }),
                first_audio: None,
                n_barge_ins: 1,
                usage: Usage {
                    input_audio: 10,
                    ..Usage::default()
                },
                timeline: VecDeque::from([Moment {
                    at: Duration::from_secs(3),
                    what: Happened::SessionLost("gone"),
                }]),
            },
        }
    }

    #[test]
    fn a_filter_lets_through_what_fits_all_of_it() {
        let check = |change: fn(&mut proto::CallFilter), expected| {
            let mut filter = proto::CallFilter::default();
            change(&mut filter);
            assert_eq!(fits(&filter, &call()), expected, "{filter:?}");
        };
        check(|_| {}, true);
        check(|it| it.tenant = "acme".to_owned(), true);
        check(|it| it.tenant = "acm".to_owned(), false);
        check(|it| it.route = "support".to_owned(), true);
        check(|it| it.route = "sales".to_owned(), false);
        check(|it| it.deployment = "east".to_owned(), true);
        check(|it| it.deployment = "west".to_owned(), false);
        check(|it| it.dialect = "twilio".to_owned(), true);
        check(|it| it.dialect = "audio".to_owned(), false);
        check(
            |it| (it.tenant, it.dialect) = ("acme".to_owned(), "audio".to_owned()),
            false,
        );
    }

    #[test]
    fn a_call_is_told_whole() {
        let told = proto::Call::from(call());
        assert_eq!(told.state(), proto::CallState::Ending);
        assert_eq!(told.conductor(), proto::Conductor::Gateway);
        assert_eq!(
            (told.end_reason.as_str(), told.sessions, told.turns),
            ("operator", 2, 3)
        );
        assert_eq!(told.began_at.unwrap().seconds, 1_700_000_000);
        let lasts = told.lasts.unwrap();
        assert_eq!((lasts.seconds, lasts.nanos), (61, 500_000_000));
        assert_eq!(told.last_turn.unwrap().gateway.unwrap().nanos, 5_000_000);
        assert_eq!(told.tokens.unwrap().input_audio, 10);
        assert_eq!(told.first_audio, None);
        let lost = proto::moment::What::SessionLost("gone".to_owned());
        assert_eq!(told.timeline[0].what, Some(lost));
    }
}
