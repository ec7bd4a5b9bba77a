//! What a call's trace says of its turns: when each began, what happened in it, and when it was over.
//!
//! A turn begins when the model hears the caller, or when it speaks without having been spoken to, and ends with the
//! last thing that happened before the next one. What was interrupted lingers until the deployment has said what it cost.

use tokio::time::Instant;

use crate::call::{ModelEvent, ResponseStatus, TurnLatency, Usage};
use crate::telemetry::SpanId;

/// Moments of one turn that are kept.
const MAX_EVENTS: usize = 32;

/// One turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) id: SpanId,
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) began: Instant,
    /// When anything last happened in it.
    pub(super) last: Instant,
    /// Whether the caller spoke first.
    pub(super) is_callers: bool,
    /// What happened, in the order in which it was noticed.
    pub(super) events: Vec<(Instant, &'static str)>,
    pub(super) n_left_out: u32,
    pub(super) responses: Vec<String>,
    pub(super) usage: Usage,
    pub(super) status: Option<ResponseStatus>,
    pub(super) error: Option<String>,
    pub(super) latency: Option<TurnLatency>,
    pub(super) barge_in: bool,
    /// The model called a function, so that it will speak again.
    awaits_tool: bool,
    has_audio: bool,
    was_heard: bool,
}

impl Turn {
    fn new(number: u64, is_callers: bool, now: Instant) -> Self {
        Self {
            id: new_span_id(),
            number,
            began: now,
            last: now,
            is_callers,
            events: Vec::new(),
            n_left_out: 0,
            responses: Vec::new(),
            usage: Usage::default(),
            status: None,
            error: None,
            latency: None,
            barge_in: false,
            awaits_tool: false,
            has_audio: false,
            was_heard: false,
        }
    }

    fn note(&mut self, event: &'static str, now: Instant) {
        self.last = self.last.max(now);
        if self.events.len() < MAX_EVENTS {
            self.events.push((now, event));
        } else {
            self.n_left_out += 1;
        }
    }

    fn is_answered(&self) -> bool {
        !self.responses.is_empty()
    }

    /// Nothing more is to come of it, unless somebody speaks.
    fn is_over(&self) -> bool {
        self.status == Some(ResponseStatus::Completed) && !self.awaits_tool
    }

    /// The first reply audio left.
    fn heard(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.was_heard, true) {
            self.note("first_caller_audio", now);
        }
    }
}

/// An id for a span; not a secret.
pub(super) fn new_span_id() -> SpanId {
    SpanId::new(fastrand::u64(1..)).expect("not zero")
}

/// The turns of one call.
#[derive(Debug, Default)]
pub(super) struct Turns {
    n: u64,
    open: Option<Turn>,
    /// What was interrupted by the open one.
    interrupted: Option<Turn>,
    /// Those that are over, to be taken.
    over: Vec<Turn>,
}

impl Turns {
    /// The span that what happens now belongs to, if a turn is open.
    pub(super) fn current(&self) -> Option<SpanId> {
        self.open.as_ref().map(|turn| turn.id)
    }

    /// A turn that is over.
    pub(super) fn take_over(&mut self) -> Option<Turn> {
        self.over.pop()
    }

    /// The call is over, and so are all turns.
    pub(super) fn end(&mut self) {
        self.over.extend(self.interrupted.take());
        self.over.extend(self.open.take());
    }

    fn begin(&mut self, is_callers: bool, now: Instant) -> &mut Turn {
        self.n += 1;
        let turn = Turn::new(self.n, is_callers, now);
        if let Some(before) = self.open.take() {
            self.over.extend(self.interrupted.replace(before));
        }
        self.open.insert(turn)
    }

    /// Notes an event of the deployment. Allocates nothing for audio.
    pub(super) fn model_event(&mut self, event: &ModelEvent<'_>, now: Instant) {
        match event {
            ModelEvent::SpeechStarted { .. } => {
                let turn = match &mut self.open {
                    // The caller went on before anything was answered.
                    Some(turn) if !turn.is_answered() => turn,
                    _ => self.begin(true, now),
                };
                turn.note("speech_started", now);
            }
            ModelEvent::SpeechStopped { .. } => self.note("speech_stopped", now),
            ModelEvent::Committed { .. } => {
                let turn = match &mut self.open {
                    Some(turn) if !turn.is_answered() => turn,
                    // The caller's side decides itself when it has spoken.
                    _ => self.begin(true, now),
                };
                turn.note("committed", now);
            }
            ModelEvent::ResponseCreated {
                response_id,
                in_conversation: true,
            } => {
                let turn = match &mut self.open {
                    Some(turn) if !turn.is_over() => turn,
                    _ => self.begin(false, now),
                };
                turn.awaits_tool = false;
                turn.responses.push((*response_id).to_owned());
                turn.note("response_created", now);
            }
            ModelEvent::AudioDelta { .. } => {
                if let Some(turn) = &mut self.open
                    && !std::mem::replace(&mut turn.has_audio, true)
                {
                    turn.note("first_model_audio", now);
                }
            }
            ModelEvent::FunctionCall { .. } => {
                if let Some(turn) = &mut self.open {
                    turn.awaits_tool = true;
                    turn.note("function_call", now);
                }
            }
            ModelEvent::ResponseDone {
                response_id,
                status,
                error_code,
                usage,
            } => {
                if let Some(turn) = self.of(response_id) {
                    turn.usage.add(usage);
                    turn.status = Some(*status);
                    turn.error = error_code.map(str::to_owned);
                    turn.note("response_done", now);
                }
            }
            _ => {}
        }
    }

    /// The turn that has that response.
    fn of(&mut self, response_id: &str) -> Option<&mut Turn> {
        let all = [&mut self.open, &mut self.interrupted];
        let mut all = all.into_iter().flatten();
        all.find(|turn| turn.responses.iter().any(|it| it == response_id))
    }

    fn note(&mut self, event: &'static str, now: Instant) {
        if let Some(turn) = &mut self.open {
            turn.note(event, now);
        }
    }

    /// Its first audio was written to the caller just now.
    pub(super) fn answered(&mut self, latency: TurnLatency, now: Instant) {
        if let Some(turn) = &mut self.open {
            if let Some(speech_end) = now.checked_sub(latency.latency) {
                turn.note("speech_end", speech_end);
                turn.began = turn.began.min(speech_end);
            }
            turn.heard(now);
            turn.latency = Some(latency);
        }
    }

    /// Reply audio was written that answers nobody, or whose turn is not known.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(turn) = &mut self.open {
            turn.heard(now);
        }
    }

    /// All of the reply was written to the caller.
    pub(super) fn reply_ended(&mut self, now: Instant) {
        self.note("reply_ended", now);
    }

    /// The caller interrupted.
    pub(super) fn barged_in(&mut self, now: Instant) {
        // What interrupts has begun a turn, unless it was no speech.
        let is_interrupted = |turn: &&mut Turn| turn.is_answered() && !turn.barge_in;
        let interrupted = self.interrupted.as_mut().filter(is_interrupted);
        if let Some(turn) = interrupted.or(self.open.as_mut()) {
            turn.barge_in = true;
            turn.note("barge_in", now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn done(response_id: &str, status: ResponseStatus) -> ModelEvent<'_> {
        ModelEvent::ResponseDone {
            response_id,
            status,
            error_code: None,
            usage: Usage {
                input_text: 1,
                ..Usage::default()
            },
        }
    }

    fn created(response_id: &str) -> ModelEvent<'_> {
        ModelEvent::ResponseCreated {
            response_id,
            in_conversation: true,
        }
    }

    const STARTED: ModelEvent<'_> = ModelEvent::SpeechStarted {
        item_id: "i",
        audio_start_ms: 0,
    };
    const STOPPED: ModelEvent<'_> = ModelEvent::SpeechStopped { audio_end_ms: 9 };
    const COMMITTED: ModelEvent<'_> = ModelEvent::Committed { item_id: "i" };
    const CALLED: ModelEvent<'_> = ModelEvent::FunctionCall {
        call_id: "f",
        name: "n",
        arguments: "{}",
    };
    const AUDIO: ModelEvent<'_> = ModelEvent::AudioDelta {
        response_id: "r",
        item_id: "i",
        content_index: 0,
        audio: "",
    };

    /// All turns in their order, with their events.
    fn ended(mut turns: Turns) -> Vec<(Turn, Vec<&'static str>)> {
        turns.end();
        let mut all: Vec<_> = std::iter::from_fn(|| turns.take_over()).collect();
        all.sort_by_key(|turn| turn.number);
        let with_events = |turn: Turn| {
            let events = turn.events.iter().map(|(_, name)| *name).collect();
            (turn, events)
        };
        all.into_iter().map(with_events).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_barge_in_belongs_to_what_was_interrupted() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for event in [STARTED, STOPPED, COMMITTED, created("a"), AUDIO, AUDIO] {
            turns.model_event(&event, now);
        }
        let ms = Duration::from_millis;
        let latency = TurnLatency {
            latency: ms(500),
            model: ms(490),
            gateway: ms(10),
        };
        let heard = now + ms(600);
        turns.answered(latency, heard);
        let later = now + ms(900);
        turns.model_event(&STARTED, later);
        turns.barged_in(later);
        turns.model_event(&done("a", ResponseStatus::Cancelled), later);
        for event in [STOPPED, COMMITTED, created("b"), AUDIO] {
            turns.model_event(&event, later);
        }
        turns.model_event(&done("b", ResponseStatus::Completed), later);
        turns.reply_ended(later);
        let all = ended(turns);
        assert_eq!(all.len(), 2);
        let (first, events) = &all[0];
        let expected = [
            "speech_started",
            "speech_stopped",
            "committed",
            "response_created",
            "first_model_audio",
            "speech_end",
            "first_caller_audio",
            "barge_in",
            "response_done",
        ];
        assert_eq!(*events, expected);
        assert_eq!(first.events[5].0, heard - ms(500));
        assert_eq!((first.began, first.last), (now, later));
        assert!(first.barge_in && first.usage.total() == 1);
        let (second, events) = &all[1];
        assert_eq!(events.last(), Some(&"reply_ended"));
        assert!(!second.barge_in && second.is_callers);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_is_part_of_its_turn_and_a_greeting_a_turn_of_its_own() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for event in [created("hello"), AUDIO] {
            turns.model_event(&event, now);
        }
        turns.heard(now);
        turns.heard(now);
        for event in [
            done("hello", ResponseStatus::Completed),
            STARTED,
            STARTED,
            COMMITTED,
            created("a"),
            CALLED,
        ] {
            turns.model_event(&event, now);
        }
        for event in [done("a", ResponseStatus::Completed), created("b"), AUDIO] {
            turns.model_event(&event, now);
        }
        turns.model_event(&done("b", ResponseStatus::Completed), now);
        turns.model_event(&created("unasked"), now);
        turns.model_event(&done("nobody's", ResponseStatus::Failed), now);
        let all = ended(turns);
        let responses = all.iter().map(|(turn, _)| turn.responses.clone());
        let responses: Vec<_> = responses.collect();
        assert_eq!(responses, [vec!["hello"], vec!["a", "b"], vec!["unasked"]]);
        assert_eq!(
            all[0]
                .1
                .iter()
                .filter(|it| **it == "first_caller_audio")
                .count(),
            1
        );
        let callers: Vec<_> = all.iter().map(|(turn, _)| turn.is_callers).collect();
        assert_eq!(callers, [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_has_no_end_of_events() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for _ in 0..100 {
            turns.model_event(&STARTED, now);
        }
        let all = ended(turns);
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].1.len(), all[0].0.n_left_out),
            (MAX_EVENTS, 100 - 32)
        );
    }
}
