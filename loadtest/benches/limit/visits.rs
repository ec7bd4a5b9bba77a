//! Phones that come and go: each calls when it is due, says a few words, hears the first word of an answer, stays a
//! while and hangs up. Shows how fast calls are set up or refused, and what they leave behind when they are over.
//!
//! Nobody waits for anybody: the next phone calls when it is due, however slow the gateway is, and times count from
//! then.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use super::calls::Dialect;
use super::messages::{
    SESSION_CREATED, answer_begin, audio_bytes, delta, session_updated, speech, twilio_media,
    twilio_start,
};
use super::ticker::Ticker;
use super::wire::{
    CLOSE, Frame, PING, PONG, Stream, TEXT, head_end, put_frame, unmask, upgrade_answer,
    upgrade_request,
};

const LISTENER: Token = Token(0);
const TIMER: Token = Token(1);

/// Who has not heard anything for so long after the last call was due is not set up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Frames that a phone says when it is answered, and units of the model's answer: 100 ms each.
const WORDS: usize = 5;

/// How phones come.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) per_second: u32,
    pub(crate) calls: u32,
    /// So long after the first word they hang up.
    pub(crate) stay: Duration,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    /// From when a call was due until its first word was heard, microseconds.
    pub(crate) set_up: Vec<u32>,
    /// From when a call was due until it was refused with 429 or 503, microseconds.
    pub(crate) refused: Vec<u32>,
    /// Calls that were neither set up nor refused.
    pub(crate) failed: usize,
    /// From when a call was due until it was made, microseconds: how late this program itself was.
    pub(crate) lag: Vec<u32>,
    /// What the first who was not let in was told.
    pub(crate) first_refusal: String,
}

struct Phone {
    stream: Stream,
    due: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asking,
    Open,
    /// It has heard a word, or was refused.
    Served,
}

struct Session {
    stream: Stream,
    is_open: bool,
}

/// See the module's documentation.
pub(crate) struct Visits {
    gateway: SocketAddr,
    path: &'static str,
    poll: Poll,
    /// The model's end; none if nobody is expected to be let in.
    listener: Option<TcpListener>,
    ticker: Ticker,
    /// None when it is over.
    phones: Vec<Option<Phone>>,
    sessions: Vec<Option<Session>>,
    hang_ups: VecDeque<(Instant, usize)>,
    frame: String,
    answer: String,
    visited: Visited,
}

impl Visits {
    pub(crate) fn new(
        gateway: SocketAddr,
        path: &'static str,
        listener: Option<std::net::TcpListener>,
    ) -> Self {
        let poll = Poll::new().expect("epoll");
        let listener = listener.map(|listener| {
            listener.set_nonblocking(true).expect("a socket");
            let mut listener = TcpListener::from_std(listener);
            poll.registry()
                .register(&mut listener, LISTENER, Interest::READABLE)
                .expect("registered");
            listener
        });
        let ticker = Ticker::new(poll.registry(), TIMER);
        Self {
            gateway,
            path,
            poll,
            listener,
            ticker,
            phones: Vec::new(),
            sessions: Vec::new(),
            hang_ups: VecDeque::new(),
            frame: speech(Dialect::Twilio, 1),
            answer: speech(Dialect::Realtime, WORDS),
            visited: Visited::default(),
        }
    }

    /// Lets phones come until all that were due have gone.
    pub(crate) fn run(&mut self, pace: Pace) -> Visited {
        let start = Instant::now();
        let due = |n: u32| start + Duration::from_secs(1) * n / pace.per_second;
        let end = due(pace.calls) + pace.stay + PATIENCE;
        let mut n_begun = 0;
        while n_begun < pace.calls || self.phones.iter().any(Option::is_some) {
            let now = Instant::now();
            if now > end {
                break;
            }
            while n_begun < pace.calls && due(n_begun) <= now {
                self.dial(due(n_begun));
                n_begun += 1;
            }
            while let Some((_, n)) = self.hang_ups.pop_front_if(|(at, _)| *at <= now) {
                self.hang_up(n);
            }
            self.turn(pace.stay);
        }
        let mut visited = std::mem::take(&mut self.visited);
        let left = self.phones.drain(..).flatten();
        visited.failed += left.filter(|it| it.stage != Stage::Served).count();
        self.sessions.clear();
        self.hang_ups.clear();
        visited
    }

    fn turn(&mut self, stay: Duration) {
        while self.ticker.next().is_some() {}
        let mut events = Events::with_capacity(1024);
        self.poll.poll(&mut events, None).expect("epoll");
        for event in &events {
            match event.token() {
                LISTENER => self.accept(),
                TIMER => self.ticker.woke(),
                Token(n) if n % 2 == 0 => self.hear((n - 2) / 2, stay, event),
                Token(n) => self.listen((n - 3) / 2, event),
            }
        }
    }

    fn dial(&mut self, due: Instant) {
        let mut stream = Stream::connect(self.gateway, None).expect("a socket");
        let request = upgrade_request(self.path);
        stream.output().extend_from_slice(request.as_bytes());
        self.register(&mut stream, 2 + 2 * self.phones.len());
        self.visited.lag.push(micros(due.elapsed()));
        self.phones.push(Some(Phone {
            stream,
            due,
            stage: Stage::Asking,
        }));
    }

    fn accept(&mut self) {
        while let Some(Ok((socket, _))) = self.listener.as_ref().map(TcpListener::accept) {
            let mut stream = Stream::new(socket, None);
            self.register(&mut stream, 3 + 2 * self.sessions.len());
            self.sessions.push(Some(Session {
                stream,
                is_open: false,
            }));
        }
    }

    fn register(&self, stream: &mut Stream, token: usize) {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream.socket, Token(token), both)
            .expect("registered");
    }

    fn hang_up(&mut self, n: usize) {
        if let Some(phone) = self.phones.get_mut(n).and_then(Option::as_mut) {
            let stop = format!(
                r#"{{"event":"stop","streamSid":"{}","stop":{{"accountSid":"AC0"}}}}"#,
                sid(n)
            );
            put_frame(phone.stream.output(), TEXT, stop.as_bytes(), true);
            put_frame(phone.stream.output(), CLOSE, &1000_u16.to_be_bytes(), true);
            phone.stream.flush();
        }
    }

    /// Something came to a phone.
    fn hear(&mut self, n: usize, stay: Duration, event: &Event) {
        let Some(phone) = self.phones.get_mut(n).and_then(Option::as_mut) else {
            return;
        };
        let mut is_there = phone.stream.fill(event);
        if phone.stage == Stage::Asking
            && let Some(end) = head_end(phone.stream.input())
        {
            let answer = phone.stream.input();
            if answer.starts_with(b"HTTP/1.1 101") {
                phone.stage = Stage::Open;
                phone.stream.take(end);
                phone.say_hello(n, &self.frame);
            } else {
                if answer.starts_with(b"HTTP/1.1 429") || answer.starts_with(b"HTTP/1.1 503") {
                    phone.stage = Stage::Served;
                    self.visited.refused.push(micros(phone.due.elapsed()));
                }
                if self.visited.first_refusal.is_empty() {
                    self.visited.first_refusal = String::from_utf8_lossy(answer).into_owned();
                }
                is_there = false;
            }
        }
        while phone.stage != Stage::Asking
            && let Some(frame) = Frame::first_in(phone.stream.input())
        {
            let (opcode, payload) = (frame.opcode, frame.payload);
            let text = &phone.stream.input()[payload.clone()];
            match opcode {
                TEXT if phone.stage == Stage::Open && audio_bytes(text, b"\"payload\":\"") > 0 => {
                    phone.stage = Stage::Served;
                    self.visited.set_up.push(micros(phone.due.elapsed()));
                    self.hang_ups.push_back((Instant::now() + stay, n));
                }
                CLOSE => is_there = false,
                _ => {}
            }
            phone.stream.take(payload.end);
        }
        if !(is_there && phone.stream.flush()) {
            self.visited.failed += usize::from(phone.stage != Stage::Served);
            self.phones[n] = None;
        }
    }

    /// Something came to a session.
    fn listen(&mut self, n: usize, event: &Event) {
        let Some(session) = self.sessions.get_mut(n).and_then(Option::as_mut) else {
            return;
        };
        let mut is_there = session.stream.fill(event);
        if !session.is_open
            && let Some(end) = head_end(session.stream.input())
        {
            let answer = upgrade_answer(&session.stream.input()[..end]).unwrap_or_default();
            session.stream.take(end);
            session.is_open = true;
            session.stream.output().extend_from_slice(answer.as_bytes());
            session.say(SESSION_CREATED);
        }
        while session.is_open
            && let Some(frame) = Frame::first_in(session.stream.input())
        {
            let (opcode, payload) = (frame.opcode, frame.payload);
            let bytes = &mut session.stream.input()[payload.clone()];
            unmask(bytes, frame.mask.unwrap_or_default());
            match opcode {
                TEXT if memchr::memmem::find(bytes, b"\"session.update\"").is_some() => {
                    let updated = session_updated(bytes);
                    session.say(&updated);
                    answer_begin(1).iter().for_each(|it| session.say(it));
                    session.say(&delta(1, &self.answer));
                }
                PING => {
                    let said = bytes.to_vec();
                    put_frame(session.stream.output(), PONG, &said, false);
                }
                CLOSE => {
                    put_frame(
                        session.stream.output(),
                        CLOSE,
                        &1000_u16.to_be_bytes(),
                        false,
                    );
                    is_there = false;
                }
                _ => {}
            }
            session.stream.take(payload.end);
        }
        if !(session.stream.flush() && is_there) {
            self.sessions[n] = None;
        }
    }
}

impl Phone {
    fn say_hello(&mut self, n: usize, frame: &str) {
        let sid = sid(n);
        for message in twilio_start(&sid) {
            put_frame(self.stream.output(), TEXT, message.as_bytes(), true);
        }
        for chunk in 1..=WORDS {
            let message = twilio_media(chunk as u64, &sid, frame);
            put_frame(self.stream.output(), TEXT, message.as_bytes(), true);
        }
    }
}

impl Session {
    fn say(&mut self, event: &str) {
        put_frame(self.stream.output(), TEXT, event.as_bytes(), false);
    }
}

fn sid(n: usize) -> String {
    format!("MZ{n:032x}")
}

fn micros(time: Duration) -> u32 {
    time.as_micros().try_into().unwrap_or(u32::MAX)
}
