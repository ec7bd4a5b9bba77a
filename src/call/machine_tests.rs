//! The call core against what the protocol and telephony references ask of it: scenes that read as
//! tables. Laws that hold for any order of inputs are in `tests/fuzz/subjects/call_laws.rs`.
//!
//! A line of a scene is `<ms> <input> => <outputs>`; a timer that has something to say stands as
//! `<ms> timer => <outputs>`. What is not at stake (frames, silence, most observations) is left out unless
//! the scene asks for it.

use std::time::{Duration, Instant};

use super::caller_audio::Span;
use super::event::{Digit, Mark};
use super::input::Input;
use super::machine::Call;
use super::model::{ModelCommand, ModelError, ModelEvent, RateLimits, ResponseStatus, Usage};
use super::output::{Observation, Output};
use super::policy::{CallPolicy, CallTimeouts, CarryPolicy, DtmfPolicy, Terminator, TurnPolicy};
use super::replacement::Loss;
use super::{BenignRace, EndReason, SayMode};
use crate::media::GapSettings;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Some moment to count from. Marked as a test once more for the house rule that a pure module reads no
/// clock, which looks at each file by itself.
#[cfg(test)]
fn beginning() -> Instant {
    Instant::now()
}

/// The deployment answers turns and stops for the caller by itself; no greeting, no marks.
pub(super) fn policy() -> CallPolicy {
    CallPolicy {
        lead: ms(100),
        ahead: Duration::ZERO,
        chunk_frames: 1,
        uses_marks: false,
        greeting: None,
        dtmf: DtmfPolicy::default(),
        turns: TurnPolicy {
            silence: ms(200),
            prefix: ms(300),
            creates_response: true,
            interrupts_response: true,
        },
        gap: GapSettings::default(),
        carry: CarryPolicy::default(),
        timeouts: CallTimeouts::default(),
    }
}

/// The gateway asks for every answer and cancels every interrupted one.
pub(super) fn manual() -> CallPolicy {
    let mut policy = policy();
    policy.turns.creates_response = false;
    policy.turns.interrupts_response = false;
    policy
}

pub(super) fn greeting() -> CallPolicy {
    CallPolicy {
        greeting: Some("Say hello.".to_owned()),
        ..policy()
    }
}

// The shell of a call, as far as the core can see it.

/// Whole frames wait in a queue; what is left over waits to become one.
#[derive(Default)]
struct Playout {
    frames: usize,
    begun: u64,
}

impl Playout {
    fn queue(&mut self, duration_ms: u64) -> usize {
        self.begun += duration_ms;
        let frames = (self.begun / 20) as usize;
        self.begun %= 20;
        self.frames += frames;
        frames
    }

    fn pad(&mut self) -> usize {
        let frames = usize::from(self.begun > 0);
        self.begun = 0;
        self.frames += frames;
        frames
    }

    fn play(&mut self, frames: usize) {
        assert!(frames > 0 && frames <= self.frames, "more than is queued");
        self.frames -= frames;
    }
}

struct Scene {
    call: Call,
    start: Instant,
    playout: Playout,
    shows: Vec<&'static str>,
    lines: Vec<String>,
}

impl Scene {
    fn new(policy: CallPolicy, shows: &[&'static str]) -> Self {
        let start = beginning();
        Self {
            call: Call::new(policy, start),
            start,
            playout: Playout::default(),
            shows: shows.to_vec(),
            lines: Vec::new(),
        }
    }

    /// Does all that is due up to `at_ms`.
    fn advance(&mut self, at_ms: u64) {
        let end = self.start + ms(at_ms);
        let mut now = self.start;
        let mut idle = 0;
        while let Some(at) = self.call.poll_timeout(now).filter(|at| *at <= end) {
            idle = if at > now { 0 } else { idle + 1 };
            assert!(idle < 10, "the call is busy at {:?}", now - self.start);
            now = now.max(at);
            self.call.handle_timeout(now);
            self.collect("timer", None, now);
        }
    }

    fn feed(&mut self, at_ms: u64, line: &str) {
        let now = self.start + ms(at_ms);
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default();
        let model = |scene: &mut Self, event: ModelEvent<'_>| {
            scene.call.handle_input(Input::Model(&event), now);
            scene.collect(line, Some(&event), now);
        };
        let input = |scene: &mut Self, input: Input<'_>| {
            scene.call.handle_input(input, now);
            scene.collect(line, None, now);
        };
        match word(0) {
            "start" => input(
                self,
                Input::CallerStarted {
                    configured: word(1) == "configured",
                },
            ),
            "lost" => input(self, Input::ModelLost(loss(word(1)))),
            "opened" => input(
                self,
                Input::SessionOpened {
                    configured: word(1) == "configured",
                },
            ),
            "none" => input(self, Input::NoSession),
            "unopened" => input(self, Input::SpareLost),
            "alive" => input(self, Input::ModelAlive),
            "expires" => input(self, Input::SessionExpires(ms(number(word(1))))),
            "audio" => input(self, Input::CallerAudio(ms(number(word(1))))),
            "key" => {
                let digit = word(1).chars().next().and_then(Digit::new);
                input(self, Input::CallerDtmf(digit.expect("a key")));
            }
            "mark" => input(
                self,
                Input::CallerMark(Mark::parse(word(1)).expect("a mark")),
            ),
            "tool" => input(
                self,
                Input::ToolFinished {
                    call_id: word(1).to_owned(),
                    output: "{}".to_owned(),
                },
            ),
            "hangup" => input(self, Input::End(EndReason::CallerHangup)),
            "soon" => input(
                self,
                Input::EndSoon {
                    text: "Soon.".to_owned(),
                },
            ),
            "over" => input(self, Input::EndOrderly(EndReason::BudgetExhausted)),
            "say" => input(
                self,
                Input::Say {
                    text: "Hear this.".to_owned(),
                    mode: match word(1) {
                        "user" => SayMode::User,
                        "system" => SayMode::System,
                        _ => SayMode::Verbatim,
                    },
                },
            ),
            "leave" => input(self, Input::LeaveSession),
            "gone" => input(self, Input::End(EndReason::CallerGone)),
            "updated" => model(self, ModelEvent::SessionUpdated),
            "speech" => model(
                self,
                ModelEvent::SpeechStarted {
                    item_id: "user",
                    audio_start_ms: word(1).parse().unwrap_or_default(),
                },
            ),
            "committed" => model(self, ModelEvent::Committed { item_id: "user" }),
            "stopped" => model(
                self,
                ModelEvent::SpeechStopped {
                    audio_end_ms: word(1).parse().unwrap_or_default(),
                },
            ),
            "heard" => model(
                self,
                ModelEvent::InputTranscript {
                    item_id: "user",
                    text: "yes",
                },
            ),
            "saying" => model(
                self,
                ModelEvent::OutputTranscriptDelta {
                    response_id: word(1),
                    item_id: word(2),
                    text: line.splitn(4, ' ').nth(3).unwrap_or_default(),
                },
            ),
            "said" => model(
                self,
                ModelEvent::OutputTranscript {
                    item_id: word(1),
                    text: "no",
                },
            ),
            "created" | "aside" => model(
                self,
                ModelEvent::ResponseCreated {
                    response_id: word(1),
                    in_conversation: word(0) == "created",
                },
            ),
            "delta" => {
                let (item_id, content_index) = part(word(2));
                model(
                    self,
                    ModelEvent::AudioDelta {
                        response_id: word(1),
                        item_id,
                        content_index,
                        audio: word(3),
                    },
                );
            }
            "spoken" => model(self, ModelEvent::AudioDone { item_id: word(1) }),
            "call" => model(
                self,
                ModelEvent::FunctionCall {
                    call_id: word(1),
                    name: word(2),
                    arguments: "{}",
                },
            ),
            "done" => {
                let (status, error_code) = match word(2) {
                    "" => (ResponseStatus::Completed, None),
                    "cancelled" => (ResponseStatus::Cancelled, None),
                    "incomplete" => (ResponseStatus::Incomplete, None),
                    "failed" => (ResponseStatus::Failed, None),
                    code => (ResponseStatus::Failed, Some(code)),
                };
                model(
                    self,
                    ModelEvent::ResponseDone {
                        response_id: word(1),
                        status,
                        error_code,
                        usage: Usage::default(),
                    },
                );
            }
            "error" => model(self, error(Some(word(1)), "")),
            "uncoded" => model(self, error(None, &line["uncoded ".len()..])),
            "rates" => model(self, ModelEvent::RateLimits(RateLimits::default())),
            "other" => model(self, ModelEvent::Other),
            "wait" => {}
            unknown => panic!("no such input: {unknown}"),
        }
    }

    /// Does what a shell does and writes down what is at stake.
    fn collect(&mut self, cause: &str, event: Option<&ModelEvent<'_>>, now: Instant) {
        let mut seen = Vec::new();
        while let Some(output) = self.call.poll_output() {
            match &output {
                Output::QueueReply => {
                    let Some(ModelEvent::AudioDelta {
                        item_id,
                        content_index,
                        audio,
                        ..
                    }) = event
                    else {
                        panic!("nothing to queue");
                    };
                    let duration = number(audio);
                    let queued = Input::ReplyQueued {
                        item_id,
                        content_index: *content_index,
                        duration: ms(duration),
                        frames: self.playout.queue(duration),
                    };
                    self.call.handle_input(queued, now);
                }
                Output::PadReply => {
                    let padded = Input::ReplyPadded(self.playout.pad());
                    self.call.handle_input(padded, now);
                }
                Output::Play { frames, .. } => self.playout.play(*frames),
                Output::Clear => self.playout = Playout::default(),
                Output::Apologise => {
                    let queued = Input::ReplyQueued {
                        item_id: "",
                        content_index: 0,
                        duration: ms(1_000),
                        frames: self.playout.queue(1_000),
                    };
                    self.call.handle_input(queued, now);
                }
                _ => {}
            }
            let text = render(&output);
            let (kind, _) = text.split_once(' ').unwrap_or((&text, ""));
            let is_quiet = [
                "play", "pad", "append", "silence", "late", "first", "turn", "filled", "barge-in",
                "forget", "keep",
            ]
            .contains(&kind);
            if !is_quiet || self.shows.contains(&kind) {
                seen.push(text);
            }
        }
        if cause != "timer" || !seen.is_empty() {
            let at = now.duration_since(self.start).as_millis();
            self.lines
                .push(format!("{at} {cause} => {}", seen.join("; ")));
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number of milliseconds")
}

/// `a` is the first content part of item `a`, `a/1` the second.
fn part(text: &str) -> (&str, u32) {
    text.split_once('/').map_or((text, 0), |(item, index)| {
        (item, index.parse().expect("an index"))
    })
}

fn error<'a>(code: Option<&'a str>, message: &'a str) -> ModelEvent<'a> {
    ModelEvent::Error(ModelError {
        kind: "invalid_request_error",
        code,
        message,
        event_id: None,
    })
}

fn render(output: &Output) -> String {
    match output {
        Output::ToModel(command) => match command {
            ModelCommand::Configure => "configure".to_owned(),
            ModelCommand::CreateResponse { instructions: None } => "create".to_owned(),
            ModelCommand::CreateResponse {
                instructions: Some(text),
            } => format!("create {text:?}"),
            ModelCommand::ContinueResponse { said } => format!("continue {said:?}"),
            ModelCommand::CancelResponse => "cancel".to_owned(),
            ModelCommand::Truncate {
                item_id,
                content_index: 0,
                audio_end_ms,
            } => format!("truncate {item_id} {audio_end_ms}"),
            ModelCommand::Truncate {
                item_id,
                content_index,
                audio_end_ms,
            } => format!("truncate {item_id}/{content_index} {audio_end_ms}"),
            ModelCommand::DeleteItem { item_id } => format!("delete {item_id}"),
            ModelCommand::AddSystemText { text } => format!("system {text:?}"),
            ModelCommand::AddUserText { text } => format!("text {text}"),
            ModelCommand::AddAssistantText { item_id, text } => {
                let n = item_id.trim_start_matches("item_trunkline_");
                format!("said#{n} {text:?}")
            }
            ModelCommand::AddFunctionCall { call_id, .. } => format!("called {call_id}"),
            ModelCommand::AddFunctionOutput { call_id, .. } => format!("output {call_id}"),
        },
        Output::KeepAudio => "keep".to_owned(),
        Output::KeepSilence(duration) => format!("keep silence {}", duration.as_millis()),
        Output::ForgetAudio(span) => format!("forget {}", render_span(span)),
        Output::ReplayAudio(span) => format!("replay {}", render_span(span)),
        Output::ReplayItem(span) => format!("item {}", render_span(span)),
        Output::LoseSession(loss) => format!("lose {}", loss.name()),
        Output::OpenSession => "open".to_owned(),
        Output::UseSession => "use".to_owned(),
        Output::Apologise => "apologise".to_owned(),
        Output::AppendAudio => "append".to_owned(),
        Output::AppendSilence(duration) => format!("silence {}", duration.as_millis()),
        Output::QueueReply => "queue".to_owned(),
        Output::PadReply => "pad".to_owned(),
        Output::Play { frames, mark: None } => format!("play {frames}"),
        Output::Play {
            frames,
            mark: Some(mark),
        } => format!("play {frames} {mark}"),
        Output::Clear => "clear".to_owned(),
        Output::Transcript(speaker) => format!("words {}", speaker.name()),
        Output::RunTool { call_id, name, .. } => format!("run {call_id} {name}"),
        Output::Observe(observation) => match observation {
            Observation::FirstAudio(after) => format!("first {}", after.as_millis()),
            Observation::Turn(turn) => format!("turn {}", turn.latency.as_millis()),
            Observation::BargeIn { unheard } => format!("barge-in {}", unheard.as_millis()),
            Observation::FrameLate(late) => format!("late {}", late.as_millis()),
            Observation::Underrun => "underrun".to_owned(),
            Observation::SilenceFilled(length) => format!("filled {}", length.as_millis()),
            Observation::CallerAudioDropped(length) => format!("dropped {}", length.as_millis()),
            Observation::BenignRace(race) => format!("race {}", race.name()),
            Observation::ResponseRetried => "retried".to_owned(),
            Observation::SessionReplaced(loss) => format!("replaced {}", loss.name()),
            Observation::SessionNotReplaced(loss) => format!("unavailable {}", loss.name()),
            Observation::SessionRotated => "rotated".to_owned(),
            Observation::SessionGap(gap) => format!("gap {}", gap.as_millis()),
            Observation::CarriedAudioDropped(length) => format!("lost {}", length.as_millis()),
            Observation::HistoryDropped(n) => format!("too old {n}"),
        },
        Output::End(reason) => format!("end {reason}"),
    }
}

fn render_span(span: &Span) -> String {
    format!("{}..{}", span.from.as_millis(), span.to.as_millis())
}

fn loss(name: &str) -> Loss {
    let all = [
        Loss::Closed,
        Loss::Gone,
        Loss::Protocol,
        Loss::Stalled,
        Loss::Rejected,
        Loss::Unauthorized,
        Loss::Expired,
        Loss::ServerError,
        Loss::RateLimited,
    ];
    let found = all.into_iter().find(|loss| loss.name() == name);
    found.unwrap_or_else(|| panic!("no such loss: {name}"))
}

/// Plays a scene and compares what came of it, line by line. Besides the usual, `shows` these outputs.
#[track_caller]
pub(super) fn check_showing(shows: &[&'static str], policy: CallPolicy, script: &str) {
    let mut scene = Scene::new(policy, shows);
    let mut expected = Vec::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (event, outputs) = line.split_once("=>").unwrap_or((line, ""));
        let (at, what) = event.trim().split_once(' ').expect("a time and an input");
        let (at_ms, what) = (number(at), what.trim());
        if what != "wait" {
            expected.push(format!("{at_ms} {what} => {}", outputs.trim()));
        }
        scene.advance(at_ms);
        if what != "timer" {
            scene.feed(at_ms, what);
        }
    }
    let (got, expected) = (scene.lines.join("\n"), expected.join("\n"));
    assert!(got == expected, "expected:\n{expected}\n\ngot:\n{got}\n");
}

#[track_caller]
pub(super) fn check(policy: CallPolicy, script: &str) {
    check_showing(&[], policy, script);
}

/// As [`check`], for a call that is already set up.
#[track_caller]
pub(super) fn check_talking(policy: CallPolicy, script: &str) {
    let script = format!("0 start => configure\n0 updated =>\n{script}");
    check(policy, &script);
}

// Set-up.

#[test]
fn a_call_is_set_up_and_greeted() {
    check_showing(
        &["play", "first", "append", "pad"],
        greeting(),
        r#"
        10   start               => configure
        20   audio 20            => append
        150  updated             => create "Say hello."
        160  created r1          =>
        400  delta r1 a 50       => queue; play 2; first 390
        410  spoken a            => pad; play 1
        420  done r1             =>
        9000 wait
        "#,
    );
}

#[test]
fn without_a_greeting_the_caller_is_awaited() {
    check_talking(policy(), "25000 wait");
}

#[test]
fn a_greeting_yields_to_a_caller_who_speaks_first() {
    check(
        greeting(),
        r#"
        0    start       => configure
        50   speech      =>
        100  updated     =>
        600  stopped     =>
        610  created r1  =>
        "#,
    );
    check(
        greeting(),
        "
        0    start       => configure
        50   speech      =>
        90   stopped     =>
        100  updated     =>
        110  created r1  =>
        200  done r1     =>
        9000 wait
        ",
    );
}

#[test]
fn only_the_first_start_and_the_first_configuration_count() {
    check(
        greeting(),
        r#"
        0    start       => configure
        1    start       =>
        100  updated     => create "Say hello."
        101  updated     =>
        "#,
    );
}

#[test]
fn before_the_caller_began_nothing_is_said_or_sent() {
    check_showing(
        &["append"],
        greeting(),
        r#"
        0    other          =>
        0    audio 20       =>
        0    key 5          =>
        0    created r1     =>
        0    delta r1 a 500 =>
        0    call c1 f      =>
        0    speech         =>
        0    error conversation_already_has_active_response => race active_response
        0    updated        =>
        10   start          => configure
        20   updated        => create "Say hello."
        "#,
    );
}

#[test]
fn a_refused_configuration_costs_the_session() {
    for code in [
        "unknown_parameter",
        "invalid_value",
        "missing_required_parameter",
    ] {
        check(
            policy(),
            &format!(
                "0 start => configure
                 50 error {code} => lose rejected; open
                 60 updated =>"
            ),
        );
    }
}

#[test]
fn fatal_errors_cost_the_session_in_any_phase() {
    for (code, loss) in [
        ("session_expired", "expired"),
        ("invalid_api_key", "unauthorized"),
    ] {
        let lost = format!("error {code} => lose {loss}; open");
        check(policy(), &format!("0 {lost}"));
        check(policy(), &format!("0 start => configure\n1 {lost}"));
        check_talking(policy(), &format!("9 {lost}"));
    }
    check_talking(
        policy(),
        "1 created r1 =>
         2 delta r1 a 900 => queue
         3 call c1 hang_up =>
         4 done r1 =>
         5 error session_expired => lose expired
         902 timer => end assistant_hangup",
    );
}

// Turns.

#[test]
fn the_deployment_answers_a_turn_by_itself() {
    check_talking(
        policy(),
        "
        1000 speech          =>
        3000 stopped         =>
        3001 heard           => words caller
        3020 created r1      =>
        3030 rates           =>
        3300 delta r1 a 100  => queue
        3310 said a          => words assistant
        3320 delta r1 a 500  => queue
        3330 spoken a        =>
        3340 done r1         =>
        20000 wait
        ",
    );
}

#[test]
fn the_gateway_asks_for_the_answer_where_the_deployment_does_not() {
    check_talking(
        manual(),
        "
        1000 speech          =>
        3000 stopped         => create
        3020 created r1      =>
        3300 delta r1 a 100  => queue
        3330 done r1         =>
        20000 wait
        ",
    );
}

#[test]
fn a_turn_is_timed_to_the_first_frame() {
    check_showing(
        &["turn"],
        policy(),
        "
        0    start           => configure
        0    updated         =>
        900  speech          =>
        2000 audio 2000      =>
        2100 stopped 1200    =>
        2110 created r1      =>
        2500 delta r1 a 100  => queue; turn 1500
        2510 spoken a        =>
        2520 done r1         =>
        ",
    );
}

#[test]
fn a_reply_of_no_response_of_ours_is_not_played() {
    check_talking(
        policy(),
        "
        10 delta r1 a 500  =>
        20 aside r9        =>
        30 delta r9 z 500  =>
        40 done r9         =>
        50 created r1      =>
        60 delta r9 z 500  =>
        70 delta r1 a 500  => queue
        80 done r9         =>
        90 delta r1 a 500  => queue
        99 done r1         =>
        ",
    );
}

// Interruption (protocol reference 5.6).

#[test]
fn f1_the_deployment_stops_generating_and_the_rest_is_thrown_away() {
    check_showing(
        &["barge-in"],
        policy(),
        "
        0    start            => configure
        0    updated          =>
        100  created r1       =>
        500  delta r1 a 1000  => queue
        600  delta r1 a 1000  => queue
        1200 speech           => clear; barge-in 1300; truncate a 700
        1201 spoken a         =>
        1202 done r1 cancelled =>
        2000 stopped          =>
        2010 created r2       =>
        2020 delta r2 b 100   => queue
        ",
    );
}

#[test]
fn f2_only_playback_is_stopped_once_generation_is_finished() {
    check_talking(
        policy(),
        "
        100  created r1       =>
        500  delta r1 a 2000  => queue
        510  spoken a         =>
        520  done r1          =>
        1200 speech           => clear; truncate a 700
        ",
    );
    check_talking(
        manual(),
        "
        100  created r1       =>
        500  delta r1 a 2000  => queue
        510  spoken a         =>
        520  done r1          =>
        1200 speech           => clear; truncate a 700
        ",
    );
}

#[test]
fn f3_the_gateway_cancels_where_the_deployment_does_not() {
    check_talking(
        manual(),
        "
        100  created r1       =>
        500  delta r1 a 2000  => queue
        1200 speech           => clear; cancel; truncate a 700
        1210 delta r1 a 500   =>
        1220 spoken a         =>
        1300 done r1 cancelled =>
        2000 stopped          => create
        ",
    );
}

#[test]
fn f4_nothing_is_truncated_before_the_first_audio() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        1200 speech            =>
        1201 done r1 cancelled =>
        ",
    );
    check_talking(
        manual(),
        "
        100  created r1        =>
        1200 speech            => cancel
        1210 delta r1 a 500    => delete a
        1220 delta r1 a 500    =>
        1230 delta r1 b 500    => delete b
        1300 done r1 cancelled =>
        ",
    );
}

#[test]
fn f6_a_cancel_that_comes_too_late_does_no_harm_in_either_order() {
    for (first, second) in [
        (
            "1210 done r1 =>",
            "1220 error response_cancel_not_active => race nothing_to_cancel",
        ),
        (
            "1210 error response_cancel_not_active => race nothing_to_cancel",
            "1220 done r1 =>",
        ),
    ] {
        check_talking(
            manual(),
            &format!(
                "100  created r1       =>
                 500  delta r1 a 2000  => queue
                 1200 speech           => clear; cancel; truncate a 700
                 {first}
                 {second}
                 2000 stopped          => create
                 2010 created r2       =>
                 2020 delta r2 b 100   => queue"
            ),
        );
    }
}

#[test]
fn everything_unheard_goes_whatever_item_it_belongs_to() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        500  delta r1 a 500    => queue
        510  spoken a          =>
        520  delta r1 b 500    => queue
        530  spoken b          =>
        540  delta r1 c 500    => queue
        550  done r1           =>
        1200 speech            => clear; truncate b 200; delete c
        ",
    );
    check_talking(
        policy(),
        "
        500  created r1        =>
        500  delta r1 a 500    => queue
        510  delta r1 a/1 500  => queue
        700  speech            => clear; truncate a 200
        ",
    );
}

#[test]
fn what_was_heard_out_is_not_interrupted() {
    check_talking(
        policy(),
        "
        100  created r1       =>
        500  delta r1 a 500   => queue
        510  spoken a         =>
        520  done r1          =>
        1001 speech           =>
        ",
    );
}

#[test]
fn a_growing_reply_that_ran_dry_is_interrupted_where_it_stood() {
    // 10 ms of it wait for the rest of their frame: they must not begin the next reply.
    check_talking(
        policy(),
        "
        100  created r1        =>
        500  delta r1 a 50     => queue
        900  speech            => clear; truncate a 40
        910  done r1 cancelled =>
        ",
    );
}

#[test]
fn an_item_that_is_interrupted_before_its_first_frame_is_deleted() {
    check_talking(
        policy(),
        "
        100 created r1        =>
        500 delta r1 a 500    => queue
        500 speech            => clear; delete a
        ",
    );
}

#[test]
fn a_second_interruption_finds_nothing_left() {
    check_talking(
        manual(),
        "
        100  created r1       =>
        500  delta r1 a 2000  => queue
        1200 speech           => clear; cancel; truncate a 700
        1300 stopped          =>
        1400 speech           =>
        1500 done r1 cancelled =>
        1600 stopped          => create
        ",
    );
}

#[test]
fn frames_leave_with_the_callers_if_they_may_soon() {
    check_showing(
        &["play"],
        CallPolicy {
            ahead: ms(20),
            ..policy()
        },
        "
        0   start            => configure
        0   updated          =>
        100 created r1       =>
        200 delta r1 a 300   => queue; play 5
        209 audio 20         => play 1
        229 audio 20         => play 1
        251 audio 20         => play 1
        260 audio 20         => play 1
        265 audio 20         =>
        300 timer            => play 1
        301 audio 20         => play 1
        340 timer            => play 1
        360 timer            => play 1
        380 timer            => play 1
        400 timer            => play 1
        ",
    );
}

#[test]
fn a_far_end_that_stalls_has_not_heard_what_it_did_not_acknowledge() {
    let policy = CallPolicy {
        uses_marks: true,
        ..policy()
    };
    check_showing(
        &["play"],
        CallPolicy {
            lead: ms(200),
            ..policy
        },
        "
        0   start            => configure
        0   updated          =>
        100 created r1       =>
        200 delta r1 a 200   => queue; play 10 g0-0
        210 spoken a         =>
        220 done r1          =>
        400 mark g0-0        =>
        600 created r2       =>
        600 delta r2 b 300   => queue; play 10 g0-1
        620 timer            => play 1
        640 timer            => play 1
        660 timer            => play 1
        680 timer            => play 1
        700 timer            => play 1 g0-2
        1010 speech          => clear; truncate b 200
        1011 mark g0-1       =>
        1012 mark g0-2       =>
        1013 done r2 cancelled =>
        1015 stopped         =>
        1100 created r3      =>
        1100 delta r3 c 200  => queue; play 10 g1-3
        1150 mark g0-1       =>
        1160 mark g7-9       =>
        1180 speech          => clear; truncate c 80
        ",
    );
}

#[test]
fn what_is_not_acknowledged_is_cleared_even_if_the_clock_says_it_was_heard() {
    check_talking(
        CallPolicy {
            uses_marks: true,
            ..policy()
        },
        "
        100 created r1       =>
        200 delta r1 a 100   => queue
        210 spoken a         =>
        220 done r1          =>
        300 mark g0-0        =>
        400 created r2       =>
        500 delta r2 b 100   => queue
        510 spoken b         =>
        520 done r2          =>
        610 speech           => clear
        ",
    );
}

#[test]
fn a_far_end_that_never_acknowledges_is_not_waited_for() {
    check_talking(
        CallPolicy {
            uses_marks: true,
            ..policy()
        },
        "
        100 created r1       =>
        200 delta r1 a 100   => queue
        210 spoken a         =>
        220 done r1          =>
        310 speech           =>
        ",
    );
}

// One response at a time.

#[test]
fn a_wanted_response_waits_for_the_active_one() {
    check_talking(
        policy(),
        "
        100 created r1   =>
        200 call c1 look => run c1 look
        300 tool c1      => output c1
        310 call c1 look =>
        400 done r1      => create
        410 created r2   =>
        500 done r2      =>
        ",
    );
}

#[test]
fn a_wanted_response_waits_for_the_answer_that_is_due() {
    check_talking(
        policy(),
        "
        100 created r1   =>
        200 call c1 look => run c1 look
        300 done r1      =>
        400 speech       =>
        900 stopped      =>
        910 tool c1      => output c1
        920 created r2   =>
        990 done r2      => create
        999 created r3   =>
        1000 done r3     =>
        ",
    );
}

#[test]
fn nothing_is_asked_for_while_the_caller_speaks() {
    for (policy, answer) in [(policy(), ""), (manual(), "create")] {
        check_talking(
            policy,
            &format!(
                "100 created r1   =>
                 200 call c1 look => run c1 look
                 300 done r1      =>
                 400 speech       =>
                 500 tool c1      => output c1
                 900 stopped      => {answer}
                 910 created r2   =>
                 990 done r2      =>"
            ),
        );
    }
}

#[test]
fn what_was_wanted_before_the_caller_spoke_is_answered_with_the_turn() {
    check_talking(
        manual(),
        "
        100 created r1        =>
        200 call c1 look      => run c1 look
        300 tool c1           => output c1
        400 speech            => cancel
        900 stopped           =>
        910 done r1 cancelled => create
        920 created r2        =>
        990 done r2           =>
        ",
    );
    let late = TurnPolicy {
        creates_response: true,
        ..manual().turns
    };
    check_talking(
        CallPolicy {
            turns: late,
            ..policy()
        },
        "
        100 created r1        =>
        200 call c1 look      => run c1 look
        300 tool c1           => output c1
        400 speech            => cancel
        900 stopped           =>
        910 done r1 cancelled =>
        920 created r2        =>
        990 done r2           =>
        ",
    );
}

#[test]
fn a_response_that_crosses_the_caller_is_cancelled() {
    for (policy, answer) in [(policy(), ""), (manual(), "create")] {
        check_talking(
            policy,
            &format!(
                "100 created r1        =>
                 200 call c1 look      => run c1 look
                 300 done r1           =>
                 400 tool c1           => output c1; create
                 410 speech            =>
                 420 created r2        => cancel
                 430 delta r2 a 100    => delete a
                 440 done r2 cancelled =>
                 900 stopped           => {answer}
                 910 created r3        =>
                 920 delta r3 b 100    => queue"
            ),
        );
    }
}

// Benign races (protocol reference 8).

#[test]
fn row_1_a_refused_response_is_asked_for_again_after_the_other_one() {
    // The error comes first.
    check(
        greeting(),
        r#"
        0   start      => configure
        10  updated    => create "Say hello."
        20  error conversation_already_has_active_response => race active_response
        30  created r1 =>
        40  rates      =>
        90  done r1    => create "Say hello."
        91  created r2 =>
        99  done r2    =>
        "#,
    );
    // The other response was taken for ours.
    check(
        greeting(),
        r#"
        0   start      => configure
        10  updated    => create "Say hello."
        20  created r1 =>
        30  error conversation_already_has_active_response => race active_response
        90  done r1    => create "Say hello."
        91  created r2 =>
        99  done r2    =>
        "#,
    );
}

#[test]
fn row_1_without_a_code() {
    check_talking(
        manual(),
        "
        10 speech     =>
        20 stopped    => create
        30 uncoded Conversation already has an active response => race active_response
        40 created r1 =>
        90 done r1    => create
        ",
    );
    check_talking(
        policy(),
        "
        1 uncoded Cancellation failed: no active response found => race nothing_to_cancel
        2 uncoded Only model output audio messages can be truncated => race stale_truncate
        3 uncoded Audio content of 100ms is already shorter than 200ms => race stale_truncate
        4 uncoded Something else =>
        ",
    );
}

#[test]
fn row_2_a_refusal_that_comes_after_the_other_one_has_ended_does_not_stall() {
    check_talking(
        manual(),
        "
        10 speech     =>
        20 stopped    => create
        30 created r1 =>
        40 done r1    =>
        50 error conversation_already_has_active_response => race active_response; create
        60 created r2 =>
        70 done r2    =>
        ",
    );
    // The other one was never seen to begin.
    check_talking(
        manual(),
        "
        10 speech     =>
        20 stopped    => create
        30 error conversation_already_has_active_response => race active_response
        40 done r0    => create
        ",
    );
}

#[test]
fn a_refusal_while_the_caller_speaks_is_forgotten() {
    for (policy, answer) in [(greeting(), ""), (manual(), "create")] {
        let policy = CallPolicy {
            greeting: Some("Hi.".to_owned()),
            ..policy
        };
        check(
            policy,
            &format!(
                "0   start    => configure
                 10  updated  => create \"Hi.\"
                 20  speech   =>
                 30  error conversation_already_has_active_response => race active_response
                 900 stopped  => {answer}"
            ),
        );
    }
}

#[test]
fn the_deployments_answer_that_could_not_start_is_asked_for() {
    let turns = TurnPolicy {
        interrupts_response: false,
        ..policy().turns
    };
    check_talking(
        CallPolicy { turns, ..policy() },
        "
        10 created r1         =>
        20 speech             => cancel
        30 stopped            =>
        31 error conversation_already_has_active_response => race active_response
        40 done r1 cancelled  => create
        ",
    );
}

#[test]
fn rows_3_4_6_25_are_counted_and_change_nothing() {
    for (code, race) in [
        ("response_cancel_not_active", BenignRace::NothingToCancel),
        ("unsupported_content_type", BenignRace::StaleTruncate),
        ("invalid_value", BenignRace::StaleTruncate),
        ("item_truncate_invalid_item_id", BenignRace::StaleTruncate),
        ("item_delete_invalid_item_id", BenignRace::StaleTruncate),
        ("input_audio_buffer_commit_empty", BenignRace::EmptyCommit),
    ] {
        check_talking(
            policy(),
            &format!(
                "10 created r1        =>
                 20 delta r1 a 2000   => queue
                 30 error {code}      => race {}
                 40 delta r1 a 2000   => queue
                 50 done r1           =>",
                race.name()
            ),
        );
    }
    check_talking(policy(), "10 error something_new =>\n25000 wait");
}

// Failed responses.

#[test]
fn a_failed_response_is_asked_for_once_more() {
    check(
        greeting(),
        r#"
        0   start          => configure
        0   updated        => create "Say hello."
        100 created r1     =>
        200 done r1 failed => retried; create "Say hello."
        300 created r2     =>
        400 done r2 failed => lose server_error; open
        "#,
    );
    // The caller's next turn has a retry of its own.
    check_talking(
        policy(),
        "
        100 created r1     =>
        200 done r1 failed => retried; create
        500 speech         =>
        550 created r2     => cancel
        560 done r2 cancelled =>
        600 stopped        =>
        700 created r3     =>
        800 done r3 server_error => retried; create
        900 created r4     =>
        910 done r4        =>
        ",
    );
}

#[test]
fn a_success_makes_the_next_failure_a_first_one() {
    check_talking(
        policy(),
        "
        100 created r1     =>
        200 done r1 failed => retried; create
        300 created r2     =>
        310 call c1 look   => run c1 look
        400 done r2        =>
        410 tool c1        => output c1; create
        420 created r3     =>
        430 done r3 failed => retried; create
        ",
    );
}

#[test]
fn what_must_not_be_repeated_is_not() {
    let once = |failure: &str| {
        check_talking(
            policy(),
            &format!("100 created r1 =>\n{failure}\n25000 wait"),
        );
    };
    once("200 delta r1 a 100 => queue\n300 done r1 failed =>");
    once("200 done r1 incomplete =>");
    once(
        "200 key 1 => cancel\n300 done r1 failed =>\n2200 timer => text [The caller pressed these keys: 1]; create\n2300 created r2 =>\n2400 done r2 =>",
    );
    once("200 done r1 cancelled =>");
    // The tool ran; its result asks for an answer.
    once(
        "200 call c1 f => run c1 f\n300 done r1 failed =>\n400 tool c1 => output c1; create\n500 created r2 =>\n510 done r2 =>",
    );
    // The caller speaks: that turn is answered.
    once("200 speech =>\n300 done r1 failed =>\n400 stopped =>\n500 created r2 =>\n510 done r2 =>");
}

// Tools.

#[test]
fn the_last_of_several_tools_asks_for_the_answer() {
    check_talking(
        policy(),
        "
        100 created r1   =>
        200 call c1 look => run c1 look
        210 call c2 book => run c2 book
        300 done r1      =>
        400 tool c2      => output c2
        500 tool c1      => output c1; create
        ",
    );
}

#[test]
fn a_tool_result_after_an_interruption_is_told_and_answered_with_the_turn() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        200  delta r1 a 2000   => queue
        210  spoken a          =>
        220  call c1 look      => run c1 look
        230  done r1           =>
        700  speech            => clear; truncate a 500
        800  tool c1           => output c1
        1500 stopped           =>
        1510 created r2        =>
        1600 done r2           =>
        ",
    );
}

#[test]
fn a_response_without_audio_watches_nothing_while_its_tool_runs() {
    check_talking(
        policy(),
        "
        100   created r1   =>
        200   call c1 look => run c1 look
        300   done r1      =>
        24000 audio 20     =>
        25000 tool c1      => output c1; create
        33000 timer        => lose stalled; open
        ",
    );
}

// The end of a call.

#[test]
fn an_agent_hangs_up_after_its_last_words() {
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 1000 => queue
        210  spoken a        =>
        220  call c1 hang_up =>
        230  done r1         =>
        1200 timer           => end assistant_hangup
        ",
    );
    // Without any words.
    check_talking(
        policy(),
        "
        100  created r1      =>
        220  call c1 hang_up =>
        230  done r1         => end assistant_hangup
        ",
    );
}

#[test]
fn an_agent_gives_the_call_to_a_person_after_its_last_words() {
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 1000 => queue
        210  spoken a        =>
        220  call c1 transfer_to_agent =>
        230  done r1         =>
        1200 timer           => end assistant_transfer
        ",
    );
}

/// What the model is asked for when a call is to end in good order.
const BYE: &str = r#"create "The call has to end now. Say good-bye to the caller in one short sentence, in the language of the conversation, and ask nothing.""#;

#[test]
fn a_call_that_must_end_ends_with_a_good_bye() {
    check_talking(
        policy(),
        &format!(
            r#"
        100  soon            => system "Soon."
        200  over            => {BYE}
        210  over            =>
        220  soon            =>
        300  created r1      =>
        400  delta r1 a 1000 => queue
        410  spoken a        =>
        420  done r1         =>
        1400 timer           => end budget_exhausted
        "#
        ),
    );
    // After what is being said, and after the answer to who is speaking.
    check_talking(
        policy(),
        &format!(
            "
        100  created r1      =>
        200  over            =>
        300  done r1         => {BYE}
        400  created r2      =>
        500  done r2         => end budget_exhausted
        "
        ),
    );
    check_talking(
        policy(),
        &format!(
            "
        100  speech          =>
        200  over            =>
        300  stopped 300     =>
        400  created r1      =>
        500  done r1         => {BYE}
        600  created r2      =>
        700  done r2 failed  => end budget_exhausted
        "
        ),
    );
}

#[test]
fn a_good_bye_that_does_not_come_is_not_waited_for() {
    // The caller speaks on and on.
    check_talking(
        policy(),
        "
        100   speech          =>
        200   over            =>
        15200 timer           => end budget_exhausted
        ",
    );
    // Nobody has begun to talk.
    check(
        policy(),
        "
        0   start          => configure
        10  soon           =>
        20  over           => end budget_exhausted
        ",
    );
    // The agent hangs up by itself.
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 1000 => queue
        210  spoken a        =>
        220  call c1 hang_up =>
        230  done r1         =>
        300  over            =>
        1200 timer           => end assistant_hangup
        ",
    );
}

#[test]
fn short_last_words_are_padded_and_played_before_the_end() {
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 50   => queue
        200  call c1 hang_up =>
        230  done r1         =>
        260  timer           => end assistant_hangup
        ",
    );
    check_talking(
        policy(),
        "
        100  created r1      =>
        200  delta r1 a 10   => queue
        200  call c1 hang_up =>
        230  done r1         =>
        250  timer           => end assistant_hangup
        ",
    );
}

#[test]
fn nothing_stops_a_farewell_or_lengthens_it() {
    let timeouts = CallTimeouts {
        farewell: Duration::from_secs(5),
        ..CallTimeouts::default()
    };
    check_talking(
        CallPolicy {
            timeouts,
            ..policy()
        },
        "
        100  created r1       =>
        200  delta r1 a 20000 => queue
        210  call c1 hang_up  =>
        211  call c2 look     => run c2 look
        230  done r1          =>
        300  speech           =>
        400  stopped          =>
        500  created r2       => cancel
        600  delta r2 b 9000  => delete b
        700  tool c2          => output c2
        800  key #            => text [The caller pressed these keys: #]
        900  done r2          =>
        950  error response_cancel_not_active => race nothing_to_cancel
        5230 timer            => end assistant_hangup
        ",
    );
}

#[test]
fn a_farewell_waits_for_its_last_mark_where_marks_come_back() {
    let marks = || CallPolicy {
        uses_marks: true,
        ..policy()
    };
    let farewell = |acknowledged: &str, end: &str| {
        check_talking(
            marks(),
            &format!(
                "100 created r1      =>
                 200 delta r1 a 100  => queue
                 {acknowledged}
                 400 delta r1 b 100  => queue; underrun
                 401 spoken b        =>
                 402 call c1 hang_up =>
                 403 done r1         =>
                 {end}"
            ),
        );
    };
    farewell("310 mark g0-0 =>", "590 mark g0-1 => end assistant_hangup");
    farewell("310 mark g0-0 =>", "15403 timer => end assistant_hangup");
    // A far end that has never sent a mark back is believed to play on time.
    farewell("310 other =>", "500 timer => end assistant_hangup");
}

#[test]
fn a_call_ends_once() {
    check_talking(
        policy(),
        "
        10    created r1     =>
        20    delta r1 a 900 => queue
        100   hangup         => end caller_hangup
        101   gone           =>
        102   speech         =>
        103   delta r1 a 900 =>
        104   key 5          =>
        105   tool c1        =>
        106   error session_expired =>
        99000 wait
        ",
    );
    check(policy(), "0 gone => end caller_gone");
}

#[test]
fn timers_that_expire_together_end_a_call_once() {
    let mut policy = policy();
    policy.timeouts.caller_media = policy.dtmf.pause;
    policy.timeouts.max_duration = policy.dtmf.pause;
    check(
        policy,
        "
        0    start => configure
        0    key 5 =>
        2000 timer => end caller_silent
        9000 wait
        ",
    );
}

// Keys.

#[test]
fn keys_are_told_together_after_a_pause_or_the_terminator() {
    check_talking(
        policy(),
        "
        100  key 1      =>
        1100 key 2      =>
        2100 key *      =>
        4100 timer      => text [The caller pressed these keys: 1 2 *]; create
        4200 created r1 =>
        4300 done r1    =>
        5000 key 7      =>
        5100 key #      => text [The caller pressed these keys: 7 #]; create
        ",
    );
}

#[test]
fn the_terminator_is_configurable() {
    let with = |terminator| CallPolicy {
        dtmf: DtmfPolicy {
            terminator,
            ..DtmfPolicy::default()
        },
        ..policy()
    };
    check_talking(
        with(Terminator::Star),
        "1 key # =>
         2 key * => text [The caller pressed these keys: # *]; create",
    );
    check_talking(
        with(Terminator::None),
        "1 key # =>
         2 key * =>
         2002 timer => text [The caller pressed these keys: # *]; create",
    );
}

#[test]
fn disabled_keys_do_nothing() {
    let dtmf = DtmfPolicy {
        enabled: false,
        ..DtmfPolicy::default()
    };
    check_talking(
        CallPolicy { dtmf, ..policy() },
        "
        1    created r1     =>
        2    delta r1 a 500 => queue
        3    key 5          =>
        4    key #          =>
        9    done r1        =>
        9000 wait
        ",
    );
}

#[test]
fn a_key_interrupts_the_reply() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        200  delta r1 a 2000   => queue
        700  key 1             => clear; cancel; truncate a 500
        710  delta r1 a 500    =>
        720  done r1 cancelled =>
        900  key #             => text [The caller pressed these keys: 1 #]; create
        ",
    );
    // Told before the response has ended.
    check_talking(
        policy(),
        "
        100  created r1        =>
        200  delta r1 a 2000   => queue
        700  key #             => clear; cancel; truncate a 500; text [The caller pressed these keys: #]
        720  done r1 cancelled => create
        ",
    );
}

#[test]
fn keys_pressed_while_the_caller_speaks_are_answered_with_the_turn() {
    check_talking(
        policy(),
        "
        100  speech     =>
        200  key #      => text [The caller pressed these keys: #]
        300  stopped    =>
        310  created r1 =>
        400  done r1    =>
        9000 wait
        ",
    );
}

#[test]
fn keys_pressed_before_the_session_is_configured_are_answered() {
    check(
        policy(),
        "
        0   start   => configure
        10  key #   => text [The caller pressed these keys: #]
        100 updated => create
        ",
    );
}

// Watchdogs.

#[test]
fn a_caller_who_never_begins_is_not_awaited_for_ever() {
    check(policy(), "5000 timer => end caller_never_started");
    check(policy(), "4999 start => configure\n5000 wait");
}

#[test]
fn a_caller_without_audio_is_not_kept() {
    check_talking(policy(), "30000 timer => end caller_silent");
    check_talking(
        policy(),
        "29999 audio 20 =>
         59999 timer => end caller_silent",
    );
    let mut policy = policy();
    policy.timeouts.caller_media = Duration::ZERO;
    check_talking(policy, "86400000 wait");
}

#[test]
fn a_deployment_that_owes_an_event_is_not_awaited_for_ever() {
    // A configuration; any event prolongs the wait.
    check(
        policy(),
        "0 start => configure
         8000 timer => lose stalled; open",
    );
    check(
        policy(),
        "0 start => configure
         7000 other =>
         15000 timer => lose stalled; open",
    );
    // A response that was asked for.
    check(
        greeting(),
        "0 start => configure
         0 updated => create \"Say hello.\"
         8000 timer => lose stalled; open",
    );
    // The answer to a turn.
    check_talking(
        policy(),
        "1000 speech =>
         2000 stopped =>
         10000 timer => lose stalled; open",
    );
    // The end of a response.
    check_talking(
        policy(),
        "1000 created r1 =>
         1100 delta r1 a 100 => queue
         9100 timer => lose stalled; open",
    );
    // The other response, which made ours be refused.
    check_talking(
        manual(),
        "1000 speech =>
         2000 stopped => create
         3000 error conversation_already_has_active_response => race active_response
         11000 timer => lose stalled; open",
    );
}

#[test]
fn an_answer_stays_due_when_the_interrupted_response_ends_after_the_turn() {
    check_talking(
        policy(),
        "
        100  created r1        =>
        200  speech            =>
        300  stopped           =>
        310  done r1 cancelled =>
        8310 timer             => lose stalled; open
        ",
    );
}

#[test]
fn a_deployment_that_owes_nothing_may_be_silent() {
    // The caller talks for long.
    check_talking(
        policy(),
        "1000 speech =>
         25000 wait",
    );
    // ... once more, while an answer was due.
    check_talking(
        policy(),
        "1000 speech =>
         2000 stopped =>
         2100 speech =>
         25000 wait",
    );
    // ... during an answer.
    check_talking(
        policy(),
        "1000 created r1 =>
         2000 speech =>
         2001 done r1 cancelled =>
         25000 wait",
    );
    // ... when our request was refused.
    check_talking(
        manual(),
        "1000 speech =>
         2000 stopped => create
         2100 speech =>
         2110 error conversation_already_has_active_response => race active_response
         25000 wait",
    );
    // The answer may have failed to start while another response ran (protocol reference 4.4).
    let turns = TurnPolicy {
        interrupts_response: false,
        ..policy().turns
    };
    check_talking(
        CallPolicy { turns, ..policy() },
        "1000 created r1 =>
         2000 speech => cancel
         3000 stopped =>
         3001 done r1 cancelled =>
         25000 wait",
    );
    // An answer is complete and still being played.
    check_talking(
        policy(),
        "1000 created r1 =>
         1100 delta r1 a 20000 => queue
         1200 done r1 =>
         25000 wait",
    );
}

#[test]
fn a_call_may_have_a_longest_duration() {
    let timeouts = CallTimeouts {
        max_duration: Duration::from_secs(20),
        ..CallTimeouts::default()
    };
    check_talking(
        CallPolicy {
            timeouts,
            ..policy()
        },
        "20000 timer => end max_duration",
    );
}

// Audio.

#[test]
fn silence_stands_in_for_missing_audio() {
    check_showing(
        &["append", "silence", "filled"],
        policy(),
        "
        0   start    => configure
        0   updated  =>
        100 audio 20 => append
        320 timer    => silence 200; filled 200
        420 timer    => silence 100; filled 100
        500 audio 20 => append
        519 audio 20 => append
        600 wait
        ",
    );
}

#[test]
fn audio_far_ahead_of_real_time_is_dropped() {
    check_showing(
        &["append"],
        policy(),
        "
        0  start       => configure
        0  updated     =>
        10 audio 30000 => append
        11 audio 20    => dropped 20
        40 audio 20    => append
        ",
    );
}

#[test]
fn a_reply_that_runs_dry_while_it_grows_is_an_underrun() {
    check_showing(
        &["play"],
        policy(),
        "
        0   start            => configure
        0   updated          =>
        100 created r1       =>
        200 delta r1 a 40    => queue; play 2
        500 delta r1 a 40    => queue; underrun; play 2
        510 spoken a         =>
        520 done r1          =>
        900 created r2       =>
        901 delta r2 b 140   => queue; play 5
        921 timer            => play 1
        941 timer            => play 1
        ",
    );
}
