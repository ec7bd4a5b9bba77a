//! The least that the work costs: a relay of bare epoll and hand-made framing that does what a gateway does to audio,
//! with the gateway's own codecs and base64, and nothing else. It checks nothing, remembers nothing and cannot fail over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use trunkline::media::{
    AudioFormat, CallerDecoder, CallerEncoder, FrameQueue, OpusSettings, SampleRate,
};
use trunkline::realtime::{decode_audio, encode_audio};

use super::calls::Dialect;
use super::ticker::Ticker;
use super::wire::{
    CLOSE, Frame, Stream, TEXT, head_end, put_frame, unmask, upgrade_answer, upgrade_request,
};

const LISTENER: Token = Token(0);
const TIMER: Token = Token(1);
/// Slots from one frame of a call to the next.
const SLOTS: u64 = 20;

struct Call {
    phone: Stream,
    model: Stream,
    is_model_open: bool,
    /// The phone's request, until it is answered.
    request: Option<Vec<u8>>,
    sid: String,
    decoder: CallerDecoder,
    encoder: CallerEncoder,
    frames: FrameQueue,
}

/// Who is called, by whom and how.
pub(crate) struct Settings {
    pub(crate) dialect: Dialect,
    pub(crate) model: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Serves until it is killed; `say` is told where.
pub(crate) fn serve(settings: &Settings, say: impl FnOnce(SocketAddr)) -> ! {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound");
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new().expect("epoll");
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .expect("registered");
    let mut ticker = Ticker::new(poll.registry(), TIMER);
    say(address);
    let mut calls: Vec<Option<Call>> = Vec::new();
    let mut scratch = Scratch::default();
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None).expect("epoll");
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((phone, _)) = listener.accept() {
                        let call = Call::new(phone, settings, poll.registry(), calls.len());
                        calls.push(Some(call));
                    }
                }
                TIMER => ticker.woke(),
                Token(n) => {
                    let place = &mut calls[(n - 2) / 2];
                    let goes_on = place.as_mut().is_none_or(|call| match n % 2 {
                        0 => call.read_phone(event, settings.dialect, &mut scratch),
                        _ => call.read_model(event, settings.dialect, &mut scratch),
                    });
                    if !goes_on {
                        *place = None;
                    }
                }
            }
        }
        while let Some((slot, _)) = ticker.next() {
            let first = (slot % SLOTS) as usize;
            for call in calls
                .iter_mut()
                .skip(first)
                .step_by(SLOTS as usize)
                .flatten()
            {
                call.play(&mut scratch);
            }
        }
    }
}

/// Buffers that all calls share.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    samples: Vec<i16>,
    message: Vec<u8>,
}

impl Call {
    /// The `n`th.
    fn new(phone: TcpStream, settings: &Settings, registry: &Registry, n: usize) -> Self {
        let tls = settings.tls.as_ref().map(|config| {
            let name = ServerName::try_from("localhost").expect("a name");
            let tls = ClientConnection::new(Arc::clone(config), name);
            tls.expect("a good config").into()
        });
        let (ulaw, pcm) = (AudioFormat::ULAW_8K, SampleRate::HZ_24000);
        let opus = OpusSettings::default();
        let mut call = Self {
            phone: Stream::new(phone, None),
            model: Stream::connect(settings.model, tls).expect("a socket"),
            is_model_open: false,
            request: None,
            sid: String::new(),
            decoder: CallerDecoder::new(ulaw, pcm).expect("mu-law"),
            encoder: CallerEncoder::new(pcm, ulaw, opus).expect("mu-law"),
            frames: FrameQueue::new(ulaw, Duration::from_secs(60)),
        };
        let request = upgrade_request("/v1/realtime?model=gpt-realtime");
        call.model.output().extend_from_slice(request.as_bytes());
        let both = Interest::READABLE | Interest::WRITABLE;
        for (stream, token) in [(&mut call.phone, 2 + 2 * n), (&mut call.model, 3 + 2 * n)] {
            registry
                .register(&mut stream.socket, Token(token), both)
                .expect("registered");
        }
        call
    }

    /// False if the call is over.
    fn read_phone(&mut self, event: &Event, dialect: Dialect, scratch: &mut Scratch) -> bool {
        if !self.phone.fill(event) {
            return false;
        }
        if self.sid.is_empty() && self.request.is_none() {
            let Some(end) = head_end(self.phone.input()) else {
                return true;
            };
            self.request = Some(self.phone.input()[..end].to_vec());
            self.phone.take(end);
            return self.answer(dialect);
        }
        while let Some(frame) = Frame::first_in(self.phone.input()) {
            let end = frame.payload.end;
            let bytes = &mut self.phone.input()[frame.payload];
            unmask(bytes, frame.mask.unwrap_or_default());
            match (frame.opcode, dialect) {
                (CLOSE, _) => return false,
                (TEXT, Dialect::Realtime) => put_frame(self.model.output(), TEXT, bytes, true),
                (TEXT, Dialect::Twilio) => {
                    if let Some(payload) = field(bytes, b"\"payload\":\"") {
                        scratch.bytes.clear();
                        scratch.samples.clear();
                        decode_audio(payload, &mut scratch.bytes);
                        self.decoder
                            .decode(&scratch.bytes, &mut scratch.samples)
                            .expect("mu-law is total");
                        scratch.bytes.clear();
                        let samples = scratch.samples.iter();
                        scratch
                            .bytes
                            .extend(samples.flat_map(|it| it.to_le_bytes()));
                        let message = &mut scratch.message;
                        message.clear();
                        message
                            .extend_from_slice(br#"{"type":"input_audio_buffer.append","audio":""#);
                        encode_audio(&scratch.bytes, message);
                        message.extend_from_slice(b"\"}");
                        put_frame(self.model.output(), TEXT, message, true);
                    } else if let Some(sid) = field(bytes, b"\"streamSid\":\"") {
                        self.sid = sid.to_owned();
                        let update = br#"{"type":"session.update","session":{"type":"realtime"}}"#;
                        put_frame(self.model.output(), TEXT, update, true);
                    }
                }
                _ => {}
            }
            self.phone.take(end);
        }
        self.model.flush()
    }

    fn read_model(&mut self, event: &Event, dialect: Dialect, scratch: &mut Scratch) -> bool {
        if !self.model.fill(event) {
            return false;
        }
        if !self.is_model_open {
            let Some(end) = head_end(self.model.input()) else {
                return true;
            };
            self.model.take(end);
            self.is_model_open = true;
            if !self.answer(dialect) {
                return false;
            }
        }
        while let Some(frame) = Frame::first_in(self.model.input()) {
            let end = frame.payload.end;
            let bytes = &mut self.model.input()[frame.payload];
            match (frame.opcode, dialect) {
                (CLOSE, _) => return false,
                (TEXT, Dialect::Realtime) => put_frame(self.phone.output(), TEXT, bytes, false),
                (TEXT, Dialect::Twilio) => {
                    if let Some(audio) = field(bytes, b"\"delta\":\"") {
                        scratch.bytes.clear();
                        decode_audio(audio, &mut scratch.bytes);
                        scratch.samples.clear();
                        let (samples, _) = scratch.bytes.as_chunks::<2>();
                        let samples = samples.iter().map(|it| i16::from_le_bytes(*it));
                        scratch.samples.extend(samples);
                        self.encoder
                            .encode(&scratch.samples, &mut self.frames)
                            .expect("mu-law is total");
                    }
                }
                _ => {}
            }
            self.model.take(end);
        }
        self.phone.flush()
    }

    /// Answers the phone's request as soon as the model is there.
    fn answer(&mut self, dialect: Dialect) -> bool {
        if self.is_model_open
            && let Some(request) = self.request.take()
        {
            let answer = upgrade_answer(&request).unwrap_or_default();
            self.phone.output().extend_from_slice(answer.as_bytes());
            if dialect == Dialect::Realtime {
                "SDK".clone_into(&mut self.sid);
            } else {
                "unknown".clone_into(&mut self.sid);
            }
        }
        self.phone.flush()
    }

    /// A frame to the phone, if there is one.
    fn play(&mut self, scratch: &mut Scratch) {
        let Some(frame) = self.frames.front() else {
            return;
        };
        let message = &mut scratch.message;
        message.clear();
        message.extend_from_slice(br#"{"event":"media","streamSid":""#);
        message.extend_from_slice(self.sid.as_bytes());
        message.extend_from_slice(br#"","media":{"payload":""#);
        encode_audio(frame, message);
        message.extend_from_slice(b"\"}}");
        self.frames.pop();
        put_frame(self.phone.output(), TEXT, message, false);
        self.phone.flush();
    }
}

/// What follows `key`, until the next quotation mark.
fn field<'a>(message: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let at = memmem::find(message, key)? + key.len();
    let end = memchr::memchr(b'"', &message[at..])?;
    std::str::from_utf8(&message[at..at + end]).ok()
}
