//! Both far ends of a gateway in one thread: phones that call it, and the model's sessions that it opens for them.
//!
//! Audio flows both ways all the time: a frame of 20 ms from each phone, and from each session a piece of the answer
//! at a time; every few seconds the model takes what it heard for a turn and answers anew. Calls are spread over slots of 1 ms. Each piece counts as sent when it was due, so that a slow far end is
//! not mistaken for a fast gateway.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};

use super::messages::{
    SESSION_CREATED, answer_begin, answer_end, append, audio_bytes, delta, session_updated, speech,
    twilio_media, twilio_start,
};
use super::ticker::Ticker;
use super::wire::{
    CLOSE, Frame, PING, PONG, Stream, TEXT, head_end, put_frame, unmask, upgrade_answer,
    upgrade_request,
};

const LISTENER: Token = Token(0);
const TIMER: Token = Token(1);

/// Audio is counted in pieces of this length.
const UNIT: Duration = Duration::from_millis(20);

/// The model hears the end of a turn so often, and answers anew.
const TURN: Duration = Duration::from_secs(5);

/// Samples of the model's audio in one, 24 kHz.
pub(crate) const UNIT_SAMPLES: usize = 480;

/// Bytes of mu-law in one.
pub(crate) const UNIT_ULAW: usize = 160;

/// How phones speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Twilio Media Streams, mu-law.
    Twilio,
    /// An SDK's session, PCM16 at 24 kHz.
    Realtime,
}

/// How the model answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// A piece of audio comes so often.
    pub(crate) every: Duration,
    /// So many units long.
    pub(crate) units: usize,
}

impl Answer {
    /// Speech without a pause.
    pub(crate) const FLOWING: Self = Self {
        every: Duration::from_millis(100),
        units: 5,
    };
    /// Single words, each after a pause: how late the first frame of each is heard is the gateway's doing.
    pub(crate) const WORDS: Self = Self {
        every: Duration::from_secs(1),
        units: 10,
    };
}

/// What was seen since [`Calls::forget`].
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From when a phone's frame was due until it was at the model, microseconds.
    pub(crate) up: Vec<u32>,
    /// From when a piece of the answer was due until its first frame was at the phone, microseconds.
    pub(crate) down: Vec<u32>,
    /// Connections that were refused or ended, before it too.
    pub(crate) failed: usize,
}

impl Seen {
    /// So many per thousand of `latencies` are at most this, in microseconds.
    pub(crate) fn at(latencies: &mut [u32], per_mille: usize) -> u32 {
        latencies.sort_unstable();
        let rank = (latencies.len() * per_mille).div_ceil(1000).max(1) - 1;
        latencies.get(rank).copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Upgrading,
    Open,
    Gone,
}

struct Phone {
    stream: Stream,
    phase: Phase,
    sid: String,
    n_sent: u64,
    /// When the frames were due that have not come through.
    due: VecDeque<Instant>,
    heard: Duration,
    played_until: Instant,
    /// What is to be said of marks, when the audio before them has been played.
    marks: VecDeque<(Instant, String)>,
}

struct Session {
    stream: Stream,
    phase: Phase,
    /// It has been configured and may speak.
    is_ready: bool,
    n_samples: usize,
    /// When the pieces were due that nothing was heard of.
    due: VecDeque<Instant>,
    /// When each piece of the answers was due.
    pieces: Vec<Instant>,
    /// The number of the answer, from 1.
    turn: u32,
}

/// What all calls share.
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) answer: Answer,
    /// The gateway, and the path that is called.
    pub(crate) gateway: SocketAddr,
    pub(crate) path: &'static str,
    /// The model's end asks for TLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// See the module's documentation.
pub(crate) struct Calls {
    settings: Settings,
    poll: Poll,
    listener: TcpListener,
    ticker: Ticker,
    phones: Vec<Phone>,
    sessions: Vec<Session>,
    is_flowing: bool,
    /// A frame's audio in base64, for phones and for the model.
    frame: String,
    piece: String,
    seen: Seen,
}

impl Calls {
    /// Nobody calls yet; the model listens at `listener`.
    pub(crate) fn new(listener: std::net::TcpListener, settings: Settings) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new().expect("epoll");
        let registry = poll.registry();
        registry
            .register(&mut listener, LISTENER, Interest::READABLE)
            .expect("registered");
        let ticker = Ticker::new(registry, TIMER);
        Self {
            frame: speech(settings.dialect, 1),
            piece: speech(Dialect::Realtime, settings.answer.units),
            settings,
            poll,
            listener,
            ticker,
            phones: Vec::new(),
            sessions: Vec::new(),
            is_flowing: false,
            seen: Seen::default(),
        }
    }

    /// Lets `n` more phones call, one after the other: the `n`th session is the `n`th phone's.
    ///
    /// # Panics
    ///
    /// If one is not let in within 10 s.
    pub(crate) fn open(&mut self, n: usize) {
        for _ in 0..n {
            self.dial();
            let phone = self.phones.len() - 1;
            let limit = Instant::now() + Duration::from_secs(10);
            while !self.is_up(phone) {
                assert!(Instant::now() < limit, "call {phone} does not come up");
                self.turn();
            }
        }
    }

    fn is_up(&self, n: usize) -> bool {
        let is_up = self.phones.get(n).is_some_and(|it| it.phase == Phase::Open);
        is_up && self.sessions.get(n).is_some_and(|it| it.is_ready)
    }

    /// One more phone calls.
    fn dial(&mut self) {
        let mut stream = Stream::connect(self.settings.gateway, None).expect("a socket");
        let request = upgrade_request(self.settings.path);
        stream.output().extend_from_slice(request.as_bytes());
        let n = self.phones.len();
        self.poll
            .registry()
            .register(
                &mut stream.socket,
                Token(2 + 2 * n),
                Interest::READABLE | Interest::WRITABLE,
            )
            .expect("registered");
        self.phones.push(Phone {
            stream,
            phase: Phase::Upgrading,
            sid: format!("MZ{n:032x}"),
            n_sent: 0,
            due: VecDeque::new(),
            heard: Duration::ZERO,
            played_until: Instant::now(),
            marks: VecDeque::new(),
        });
    }

    /// From now on audio flows.
    pub(crate) fn flow(&mut self) {
        self.is_flowing = true;
        for session in &mut self.sessions {
            session.take_turn();
        }
    }

    /// Forgets what was seen.
    pub(crate) fn forget(&mut self) {
        self.seen = Seen::default();
    }

    /// What was seen, and how many units of audio are missing that were due 300 ms ago or longer.
    pub(crate) fn seen(&mut self) -> (Seen, usize) {
        let late = Instant::now() - Duration::from_millis(300);
        let count = |due: &VecDeque<Instant>| due.iter().filter(|at| **at < late).count();
        let up = self.phones.iter().map(|it| count(&it.due));
        let piece = UNIT * self.settings.answer.units as u32;
        let down = self
            .phones
            .iter()
            .zip(&self.sessions)
            .map(|(phone, session)| {
                let n_pieces = session.pieces.iter().filter(|at| **at < late).count();
                let sent = piece * n_pieces as u32;
                // The last unit may wait for the samples that complete it.
                let missing = sent.saturating_sub(phone.heard + UNIT);
                (missing.as_micros() / UNIT.as_micros()) as usize
            });
        let missing = up.chain(down).sum();
        // Those that ended while nobody looked count too.
        let is_gone = |phase: Phase| phase == Phase::Gone;
        let phones = self.phones.iter().filter(|it| is_gone(it.phase)).count();
        let sessions = self.sessions.iter().filter(|it| is_gone(it.phase)).count();
        let mut seen = std::mem::take(&mut self.seen);
        seen.failed = phones + sessions;
        (seen, missing)
    }

    /// All go on for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn();
        }
    }

    /// Sends what is due, then waits for something to happen.
    fn turn(&mut self) {
        while let Some((slot, due)) = self.ticker.next() {
            if self.is_flowing {
                self.send_slot(slot, due);
            }
        }
        let mut events = Events::with_capacity(1024);
        self.poll.poll(&mut events, None).expect("epoll");
        for event in &events {
            match event.token() {
                LISTENER => self.accept(),
                TIMER => self.ticker.woke(),
                Token(n) if n % 2 == 0 => self.hear((n - 2) / 2, event),
                Token(n) => self.listen((n - 3) / 2, event),
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            let tls = self.settings.tls.as_ref().map(|config| {
                let session = ServerConnection::new(Arc::clone(config)).expect("a good config");
                session.into()
            });
            let mut stream = Stream::new(socket, tls);
            let token = Token(3 + 2 * self.sessions.len());
            self.poll
                .registry()
                .register(
                    &mut stream.socket,
                    token,
                    Interest::READABLE | Interest::WRITABLE,
                )
                .expect("registered");
            self.sessions.push(Session {
                stream,
                phase: Phase::Upgrading,
                is_ready: false,
                n_samples: 0,
                due: VecDeque::new(),
                pieces: Vec::new(),
                turn: 0,
            });
        }
    }

    /// What is due in this slot.
    fn send_slot(&mut self, slot: u64, due: Instant) {
        let is_due = |n: usize, every: Duration| {
            (slot + n as u64 * 7).is_multiple_of(every.as_millis() as u64)
        };
        let every = self.settings.answer.every;
        for n in 0..self.phones.len() {
            if !is_due(n, UNIT) || !self.is_up(n) {
                continue;
            }
            let phone = &mut self.phones[n];
            phone.n_sent += 1;
            let message = match self.settings.dialect {
                Dialect::Twilio => twilio_media(phone.n_sent, &phone.sid, &self.frame),
                Dialect::Realtime => append(&self.frame),
            };
            put_frame(phone.stream.output(), TEXT, message.as_bytes(), true);
            while phone.marks.front().is_some_and(|(at, _)| *at <= due) {
                let (_, mark) = phone.marks.pop_front().expect("seen");
                put_frame(phone.stream.output(), TEXT, mark.as_bytes(), true);
            }
            phone.due.push_back(due);
            if !phone.stream.flush() {
                phone.phase = Phase::Gone;
            }
        }
        for n in 0..self.sessions.len() {
            if !is_due(n, every) || !self.is_up(n) {
                continue;
            }
            let session = &mut self.sessions[n];
            if is_due(n, TURN) {
                session.take_turn();
            }
            let message = delta(session.turn, &self.piece);
            put_frame(session.stream.output(), TEXT, message.as_bytes(), false);
            session.due.push_back(due);
            session.pieces.push(due);
            if !session.stream.flush() {
                session.phase = Phase::Gone;
            }
        }
    }

    /// Something came to a phone.
    fn hear(&mut self, n: usize, event: &Event) {
        let phone = &mut self.phones[n];
        if phone.phase == Phase::Gone {
            return;
        }
        let mut is_there = phone.stream.fill(event);
        if phone.phase == Phase::Upgrading
            && let Some(end) = head_end(phone.stream.input())
        {
            is_there &= phone.stream.input().starts_with(b"HTTP/1.1 101");
            phone.stream.take(end);
            phone.phase = Phase::Open;
            if self.settings.dialect == Dialect::Twilio {
                for message in twilio_start(&phone.sid) {
                    put_frame(phone.stream.output(), TEXT, message.as_bytes(), true);
                }
            }
        }
        while phone.phase == Phase::Open
            && let Some(frame) = Frame::first_in(phone.stream.input())
        {
            let (opcode, payload) = (frame.opcode, frame.payload);
            match opcode {
                TEXT => {
                    let text = &phone.stream.input()[payload.clone()];
                    let (n_bytes, unit) = match self.settings.dialect {
                        Dialect::Twilio => (audio_bytes(text, b"\"payload\":\""), UNIT_ULAW),
                        Dialect::Realtime => (audio_bytes(text, b"\"delta\":\""), 2 * UNIT_SAMPLES),
                    };
                    let mark = (n_bytes == 0 && memmem::find(text, b"\"mark\"").is_some())
                        .then(|| String::from_utf8_lossy(text).into_owned());
                    phone.heard(n_bytes, unit, mark);
                    // The first audio after a piece was due is its own: what came before was heard before.
                    let due = self.sessions.get_mut(n).map(|it| &mut it.due);
                    if n_bytes > 0 {
                        let due = due.into_iter().flat_map(|due| due.drain(..));
                        self.seen.down.extend(due.map(micros_since));
                    }
                }
                PING => {
                    let said = phone.stream.input()[payload.clone()].to_vec();
                    put_frame(phone.stream.output(), PONG, &said, true);
                }
                CLOSE => is_there = false,
                _ => {}
            }
            phone.stream.take(payload.end);
        }
        if !(is_there && phone.stream.flush()) {
            phone.phase = Phase::Gone;
        }
    }

    /// Something came to a session.
    fn listen(&mut self, n: usize, event: &Event) {
        let session = &mut self.sessions[n];
        if session.phase == Phase::Gone {
            return;
        }
        let mut is_there = session.stream.fill(event);
        if session.phase == Phase::Upgrading
            && let Some(end) = head_end(session.stream.input())
        {
            let answer = upgrade_answer(&session.stream.input()[..end]).unwrap_or_default();
            session.stream.take(end);
            session.phase = Phase::Open;
            session.is_ready = self.settings.dialect == Dialect::Realtime;
            session.stream.output().extend_from_slice(answer.as_bytes());
            put_frame(
                session.stream.output(),
                TEXT,
                SESSION_CREATED.as_bytes(),
                false,
            );
        }
        while session.phase == Phase::Open
            && let Some(frame) = Frame::first_in(session.stream.input())
        {
            let (opcode, payload) = (frame.opcode, frame.payload);
            let bytes = &mut session.stream.input()[payload.clone()];
            if let Some(mask) = frame.mask {
                unmask(bytes, mask);
            }
            match opcode {
                TEXT => {
                    let n_bytes = audio_bytes(bytes, b"\"audio\":\"");
                    if n_bytes > 0 {
                        let before = session.n_samples / UNIT_SAMPLES;
                        session.n_samples += n_bytes / 2;
                        let due = self.phones.get_mut(n).map(|it| &mut it.due);
                        for due in due.into_iter().flat_map(|due| {
                            due.drain(..(session.n_samples / UNIT_SAMPLES - before).min(due.len()))
                        }) {
                            self.seen.up.push(micros_since(due));
                        }
                    } else if memmem::find(bytes, b"\"session.update\"").is_some() {
                        let updated = session_updated(bytes);
                        put_frame(session.stream.output(), TEXT, updated.as_bytes(), false);
                        session.is_ready = true;
                    }
                }
                PING => {
                    let said = bytes.to_vec();
                    put_frame(session.stream.output(), PONG, &said, false);
                }
                CLOSE => is_there = false,
                _ => {}
            }
            session.stream.take(payload.end);
        }
        if !(is_there && session.stream.flush()) {
            session.phase = Phase::Gone;
        }
    }
}

impl Phone {
    /// So many bytes of audio came, of which `unit` are a unit, or a mark.
    fn heard(&mut self, n_bytes: usize, unit: usize, mark: Option<String>) {
        let now = Instant::now();
        let length = UNIT.mul_f64(n_bytes as f64 / unit as f64);
        self.heard += length;
        self.played_until = self.played_until.max(now) + length;
        if let Some(mark) = mark {
            self.marks.push_back((self.played_until, mark));
        }
    }
}

impl Session {
    /// Ends the answer, if there is one, hears the caller's turn and begins the next answer.
    fn take_turn(&mut self) {
        if self.turn > 0 {
            self.say_all(answer_end(self.turn));
        }
        self.turn += 1;
        self.say_all(answer_begin(self.turn));
    }

    fn say_all<const N: usize>(&mut self, events: [String; N]) {
        for event in events {
            put_frame(self.stream.output(), TEXT, event.as_bytes(), false);
        }
    }
}

fn micros_since(due: Instant) -> u32 {
    due.elapsed().as_micros().try_into().unwrap_or(u32::MAX)
}
