//! The call core beside a simpler one that only remembers what was said: laws that hold for any order of inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use trunkline::call::{
    Call, CallPolicy, CallTimeouts, CarryPolicy, Digit, DtmfPolicy, EndReason, HANG_UP_TOOL, Input,
    Loss, Mark, ModelCommand, ModelError, ModelEvent, Output, ResponseStatus, SayMode, Span,
    TurnPolicy, Usage,
};
use trunkline::media::GapSettings;

/// Two bytes say how the call is set up, then each action takes a byte for the pause before it, one that picks it,
/// and what it needs. A set-up comes first unless the first byte's high bit is set.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let (flags, lead) = (bytes.next(), bytes.next());
    let mut laws = Laws::new(policy(flags, lead));
    if flags & 0x80 == 0 {
        laws.act(&Action::Start);
        laws.act(&Action::Updated);
    }
    // More actions than that say nothing new and cost time.
    for _ in 0..400 {
        if bytes.0.is_empty() {
            break;
        }
        laws.pass(pause(bytes.next()));
        laws.act(&bytes.action());
    }
    laws.pass(Duration::from_secs(60));
    assert!(laws.ended, "a call without audio ends");
}

/// Audio before the onset of speech that is part of it.
const PREFIX: Duration = Duration::from_millis(300);

/// Speech is known of so much later at most.
const NOTICE: Duration = Duration::from_millis(900);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy(flags: u8, lead: u8) -> CallPolicy {
    let is_set = |bit: u8| flags & (1 << bit) != 0;
    CallPolicy {
        lead: ms(u64::from(lead) * 300 / 256),
        ahead: ms(if is_set(4) { 20 } else { 0 }),
        chunk_frames: 1,
        uses_marks: is_set(0),
        greeting: is_set(1).then(|| "Say hello.".to_owned()),
        dtmf: DtmfPolicy::default(),
        turns: TurnPolicy {
            silence: ms(200),
            prefix: PREFIX,
            creates_response: is_set(2),
            interrupts_response: is_set(3),
        },
        gap: GapSettings::default(),
        carry: CarryPolicy::default(),
        timeouts: CallTimeouts::default(),
    }
}

/// Half of the pauses are shorter than three frames, a sixth are seconds long.
fn pause(byte: u8) -> Duration {
    let n = u64::from(byte);
    ms(match byte {
        0..128 => n * 60 / 128,
        128..213 => 60 + (n - 128) * 10,
        213.. => 900 + (n - 213) * 72,
    })
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// The next byte, 0 where there is none.
    fn next(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn below(&mut self, n: u8) -> u8 {
        self.next() % n
    }

    /// Up to `max` milliseconds.
    fn length(&mut self, max: u64) -> u64 {
        u64::from(self.next()) * max / 256
    }

    /// The numbers pick among few names, so that they meet. What makes a call go on is more likely than what ends it.
    fn action(&mut self) -> Action {
        match self.below(100) {
            0 => Action::Start,
            1..3 => Action::Updated,
            3..9 => Action::Audio(self.length(200)),
            9..12 => Action::Key(self.below(12)),
            12..16 => Action::Mark(self.next()),
            16..21 => Action::Speech,
            21..26 => Action::Stopped(self.length(5_000)),
            26..34 => Action::Created(self.below(3), self.below(7) > 0),
            34..48 => Action::Delta(
                self.below(3),
                self.below(3),
                u32::from(self.below(2)),
                self.length(700),
            ),
            48..51 => Action::Spoken(self.below(3)),
            51 => Action::Words,
            52..55 => Action::Function(self.below(3), self.below(10) == 0),
            55..58 => Action::Tool(self.below(3)),
            58..66 => Action::Done(self.below(3), self.below(5)),
            66..71 => Action::Error(match self.below(41) {
                40 => 5,
                n => n % 5,
            }),
            71..73 => Action::Other,
            73 if self.below(10) == 0 => Action::End,
            74 if self.below(10) == 0 => Action::EndOrderly,
            75 if self.below(10) == 0 => Action::EndSoon,
            76 if self.below(4) == 0 => Action::Say(self.below(3)),
            77 if self.below(10) == 0 => Action::Leave,
            84..87 => Action::Lost(self.below(9)),
            87..92 => Action::Opened(self.below(2) == 0),
            92 => Action::NoSession,
            93 => Action::Expires(self.length(20_000)),
            94..98 => Action::Committed,
            98 => Action::Alive,
            _ => Action::Quiet,
        }
    }
}

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

/// A random thing that happens, sensible or not. The numbers pick among few names, so that they meet.
#[derive(Clone, Debug)]
enum Action {
    Start,
    Updated,
    Audio(u64),
    Key(u8),
    Mark(u8),
    Speech,
    Stopped(u64),
    Created(u8, bool),
    Delta(u8, u8, u32, u64),
    Spoken(u8),
    Words,
    Function(u8, bool),
    Tool(u8),
    Done(u8, u8),
    Error(u8),
    Other,
    Quiet,
    End,
    Lost(u8),
    Opened(bool),
    NoSession,
    Expires(u64),
    Committed,
    Alive,
    EndOrderly,
    EndSoon,
    Say(u8),
    Leave,
}

const LOSSES: [Loss; 9] = [
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

const ERRORS: [&str; 6] = [
    "conversation_already_has_active_response",
    "response_cancel_not_active",
    "unsupported_content_type",
    "invalid_value",
    "server_error",
    "session_expired",
];

fn error(code: &str) -> ModelEvent<'_> {
    ModelEvent::Error(ModelError {
        kind: "invalid_request_error",
        code: Some(code),
        message: "",
        event_id: None,
    })
}

/// What must be true of a call, told in a simpler way than the core does it: it only remembers what was
/// said to the deployment and by it.
struct Laws {
    call: Call,
    now: Instant,
    playout: Playout,
    started: bool,
    configured: bool,
    hung_up: bool,
    ended: bool,
    speaks: bool,
    requested: bool,
    active: Option<String>,
    /// Audio accepted per content part.
    received: BTreeMap<(String, u32), Duration>,
    /// Audio released since the last clear.
    released: Duration,
    /// Of the caller's current message.
    audio: Duration,
    marks: Vec<Mark>,
    /// There is a session that may be told something.
    up: bool,
    /// One is to be opened; one was, and is configured or not.
    opening: bool,
    spare: Option<bool>,
    /// Caller audio that was accepted, what of it is gone, and where the last item may end.
    position: Duration,
    forgotten: Duration,
    committed: Duration,
    /// Tools that run, function calls that the session knows, and those that it was told the result of.
    running: BTreeSet<String>,
    calls: BTreeSet<String>,
    answered: BTreeSet<String>,
    /// Texts of the model's that the session was told of.
    told: BTreeSet<String>,
}

impl Laws {
    fn new(policy: CallPolicy) -> Self {
        let now = Instant::now();
        Self {
            call: Call::new(policy, now),
            now,
            playout: Playout::default(),
            started: false,
            configured: false,
            hung_up: false,
            ended: false,
            speaks: false,
            requested: false,
            active: None,
            received: BTreeMap::new(),
            released: Duration::ZERO,
            audio: Duration::ZERO,
            marks: Vec::new(),
            up: true,
            opening: false,
            spare: None,
            position: Duration::ZERO,
            forgotten: Duration::ZERO,
            committed: Duration::ZERO,
            running: BTreeSet::new(),
            calls: BTreeSet::new(),
            answered: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut idle = 0;
        while let Some(at) = self.call.poll_timeout(self.now).filter(|at| *at <= end) {
            idle = if at > self.now { 0 } else { idle + 1 };
            assert!(idle < 4, "the call is busy");
            self.now = self.now.max(at);
            self.call.handle_timeout(self.now);
            let n_outputs = self.obey(None);
            let next = self.call.poll_timeout(self.now);
            assert!(
                n_outputs > 0 || next.is_none_or(|next| next > self.now),
                "a timer that does nothing comes back at once"
            );
        }
        self.now = end;
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Start => {
                self.started = true;
                self.input(Input::CallerStarted { configured: false });
            }
            Action::Lost(loss) => self.input(Input::ModelLost(LOSSES[usize::from(*loss)])),
            Action::Opened(configured) if self.opening => {
                self.opening = false;
                self.spare = Some(*configured);
                self.input(Input::SessionOpened {
                    configured: *configured,
                });
            }
            Action::NoSession if self.opening => {
                self.opening = false;
                self.input(Input::NoSession);
            }
            Action::Opened(_) | Action::NoSession => {}
            Action::Expires(within) => self.input(Input::SessionExpires(ms(*within))),
            Action::Alive => self.input(Input::ModelAlive),
            Action::Audio(length) => {
                self.audio = ms(*length);
                self.input(Input::CallerAudio(ms(*length)));
            }
            Action::Key(key) => {
                let digit = Digit::new(char::from(b"0123456789*#"[usize::from(*key)]));
                self.input(Input::CallerDtmf(digit.expect("a key")));
            }
            Action::Mark(pick) => {
                let ours = self.marks.iter().rev().nth(usize::from(*pick) % 4).copied();
                let mark = ours.unwrap_or(Mark {
                    generation: u32::from(*pick),
                    index: 0,
                });
                self.input(Input::CallerMark(mark));
            }
            Action::Tool(call) => {
                if self.running.remove(&call.to_string()) {
                    self.input(Input::ToolFinished {
                        call_id: call.to_string(),
                        output: String::new(),
                    });
                }
            }
            Action::End => self.input(Input::End(EndReason::CallerGone)),
            Action::EndOrderly => self.input(Input::EndOrderly(EndReason::BudgetExhausted)),
            Action::EndSoon => self.input(Input::EndSoon {
                text: String::new(),
            }),
            Action::Say(mode) => self.input(Input::Say {
                text: String::new(),
                mode: [SayMode::Verbatim, SayMode::User, SayMode::System][usize::from(*mode)],
            }),
            Action::Leave => self.input(Input::LeaveSession),
            Action::Quiet => {}
            // Nothing comes of a session that is gone.
            _ if !self.up => {}
            Action::Committed => {
                self.committed = self.position;
                self.model(&ModelEvent::Committed { item_id: "user" });
            }
            Action::Updated => {
                self.configured |= self.started;
                self.model(&ModelEvent::SessionUpdated);
            }
            Action::Speech => {
                self.speaks |= self.started;
                self.model(&ModelEvent::SpeechStarted {
                    item_id: "user",
                    audio_start_ms: 0,
                });
            }
            Action::Stopped(at) => {
                self.speaks = false;
                self.model(&ModelEvent::SpeechStopped { audio_end_ms: *at });
            }
            Action::Created(response, in_conversation) => {
                let id = format!("r{response}");
                if self.started && *in_conversation {
                    self.active = Some(id.clone());
                    self.requested = false;
                }
                self.model(&ModelEvent::ResponseCreated {
                    response_id: &id,
                    in_conversation: *in_conversation,
                });
            }
            Action::Delta(response, item, content_index, length) => {
                self.model(&ModelEvent::AudioDelta {
                    response_id: &format!("r{response}"),
                    item_id: &format!("i{item}"),
                    content_index: *content_index,
                    audio: &length.to_string(),
                });
            }
            Action::Spoken(item) => self.model(&ModelEvent::AudioDone {
                item_id: &format!("i{item}"),
            }),
            Action::Words => self.model(&ModelEvent::OutputTranscriptDelta {
                response_id: "r0",
                item_id: "i0",
                text: "some more words ",
            }),
            Action::Function(call, hangs_up) => {
                self.hung_up |= *hangs_up && self.started;
                self.model(&ModelEvent::FunctionCall {
                    call_id: &call.to_string(),
                    name: if *hangs_up { HANG_UP_TOOL } else { "f" },
                    arguments: "{}",
                });
            }
            Action::Done(response, status) => {
                let id = format!("r{response}");
                if self.active.as_deref() == Some(&*id) {
                    self.active = None;
                }
                let (status, error_code) = match status {
                    0 | 1 => (ResponseStatus::Completed, None),
                    2 => (ResponseStatus::Cancelled, None),
                    3 => (ResponseStatus::Failed, None),
                    _ => (ResponseStatus::Failed, Some("rate_limit_exceeded")),
                };
                self.model(&ModelEvent::ResponseDone {
                    response_id: &id,
                    status,
                    error_code,
                    usage: Usage::default(),
                });
            }
            Action::Error(code) => {
                if *code == 0 {
                    self.requested = false;
                }
                self.model(&error(ERRORS[usize::from(*code)]));
            }
            Action::Other => self.model(&ModelEvent::Other),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.call.handle_input(input, self.now);
        self.obey(None);
    }

    fn model(&mut self, event: &ModelEvent<'_>) {
        self.call.handle_input(Input::Model(event), self.now);
        self.obey(Some(event));
    }

    /// Does all outputs and checks the laws; says how many they were.
    fn obey(&mut self, event: Option<&ModelEvent<'_>>) -> usize {
        let mut n_outputs = 0;
        let mut cut = BTreeSet::new();
        let released = self.released;
        while let Some(output) = self.call.poll_output() {
            assert!(!self.ended, "{output:?} after the end");
            n_outputs += 1;
            match output {
                Output::QueueReply => self.queue(event),
                Output::PadReply => {
                    let padded = Input::ReplyPadded(self.playout.pad());
                    self.call.handle_input(padded, self.now);
                }
                Output::Play { frames, mark } => {
                    self.playout.play(frames);
                    self.released += ms(20) * frames as u32;
                    self.marks.extend(mark);
                }
                Output::Clear => {
                    self.playout = Playout::default();
                    self.released = Duration::ZERO;
                }
                Output::ToModel(
                    ModelCommand::CreateResponse { .. } | ModelCommand::ContinueResponse { .. },
                ) => {
                    assert!(self.up, "there is nobody to ask");
                    assert!(!self.requested, "one was asked for");
                    assert!(self.active.is_none(), "one is active");
                    assert!(!self.speaks, "the caller speaks");
                    assert!(self.configured, "the session is not configured");
                    self.requested = true;
                }
                Output::ToModel(ModelCommand::Truncate {
                    item_id,
                    content_index,
                    audio_end_ms,
                }) => {
                    let at = ms(audio_end_ms);
                    assert!(audio_end_ms > 0);
                    assert!(at <= released + ms(20), "{at:?} of {released:?} released");
                    let key = (item_id, content_index);
                    assert!(at <= self.received[&key], "more than was received");
                    assert!(cut.insert(key), "cut twice");
                }
                Output::ToModel(command) => self.told_of(command),
                Output::RunTool { call_id, .. } => {
                    assert!(self.running.insert(call_id.clone()), "it runs");
                    self.calls.insert(call_id.clone());
                    self.answered.remove(&call_id);
                }
                Output::AppendAudio => self.accepted(true, self.audio),
                Output::KeepAudio => self.accepted(false, self.audio),
                Output::AppendSilence(silence) => self.accepted(true, silence),
                Output::KeepSilence(silence) => self.accepted(false, silence),
                Output::ForgetAudio(span) => self.forget(span),
                Output::ReplayAudio(span) => {
                    assert!(self.up, "there is nobody to hear it");
                    assert_eq!(span.to, self.position);
                    assert!(
                        span.from <= self.forgotten.max(self.committed),
                        "words are lost"
                    );
                }
                Output::ReplayItem(span) => assert!(self.up && span.to <= self.committed),
                Output::LoseSession(_) => {
                    assert!(self.up, "lost twice");
                    self.leave();
                }
                Output::OpenSession => {
                    assert!(!self.opening, "one is being opened");
                    self.opening = true;
                }
                Output::UseSession => {
                    self.leave();
                    self.up = true;
                    let configured = self.spare.take().expect("one was opened");
                    self.configured = configured && self.started;
                }
                Output::Apologise => {
                    let queued = Input::ReplyQueued {
                        item_id: "",
                        content_index: 0,
                        duration: ms(1_000),
                        frames: self.playout.queue(1_000),
                    };
                    self.call.handle_input(queued, self.now);
                    self.hung_up = true;
                }
                Output::End(_) => self.ended = true,
                Output::Transcript(_) | Output::Observe(_) => {}
            }
        }
        self.check_watch();
        n_outputs
    }

    /// The session is gone, and with it all that only it knew.
    fn leave(&mut self) {
        self.up = false;
        self.configured = false;
        self.requested = false;
        self.active = None;
        self.speaks = false;
        self.received.clear();
        self.calls.clear();
        self.answered.clear();
        self.told.clear();
    }

    fn told_of(&mut self, command: ModelCommand) {
        assert!(self.up, "{command:?} to nobody");
        match command {
            ModelCommand::AddFunctionCall { call_id, .. } => {
                self.answered.remove(&call_id);
                self.calls.insert(call_id);
            }
            ModelCommand::AddFunctionOutput { call_id, .. } => {
                assert!(self.calls.contains(&call_id), "of a call that nobody made");
                assert!(self.answered.insert(call_id), "answered twice");
            }
            ModelCommand::AddAssistantText { item_id, text } => {
                assert!(!text.is_empty());
                assert!(self.told.insert(item_id), "told twice");
            }
            ModelCommand::DeleteItem { item_id } if item_id.starts_with("item_trunkline") => {
                assert!(self.told.remove(&item_id), "an item of another session");
            }
            _ => {}
        }
    }

    fn accepted(&mut self, sent: bool, audio: Duration) {
        assert_eq!(sent, self.up, "audio goes where somebody hears it");
        self.position += audio;
    }

    /// What may still turn out to be the beginning of a turn is kept, within the bound.
    fn forget(&mut self, span: Span) {
        let recent = self.position.saturating_sub(PREFIX + NOTICE);
        assert!(
            span.to <= recent.max(self.committed),
            "{span:?} may be needed"
        );
        self.forgotten = self.forgotten.max(span.to);
    }

    fn queue(&mut self, event: Option<&ModelEvent<'_>>) {
        let Some(ModelEvent::AudioDelta {
            response_id,
            item_id,
            content_index,
            audio,
        }) = event
        else {
            panic!("nothing to queue");
        };
        assert_eq!(self.active.as_deref(), Some(*response_id));
        let length = audio.parse().expect("a number of milliseconds");
        let part = ((*item_id).to_owned(), *content_index);
        *self.received.entry(part).or_default() += ms(length);
        let queued = Input::ReplyQueued {
            item_id,
            content_index: *content_index,
            duration: ms(length),
            frames: self.playout.queue(length),
        };
        self.call.handle_input(queued, self.now);
    }

    /// What the deployment owes is waited for, but not for ever.
    fn check_watch(&self) {
        let next = self.call.poll_timeout(self.now);
        if self.ended {
            assert_eq!(next, None);
        } else if self.started && (self.requested || self.active.is_some()) && !self.hung_up {
            let limit = self.now + CallTimeouts::default().model_event;
            assert!(next.is_some_and(|next| next <= limit), "nobody watches");
        }
    }
}
