//! What a peer may send on a WebSocket, judged by its frame headers (RFC 6455, 5.2) as they arrive.
//!
//! The WebSocket library puts fragments together and answers pings by itself, so how many of either came cannot be
//! seen above it, and it judges a frame only when it has all of it. The meter watches the bytes below the library.
//! It reads headers and skips payloads by count: no byte is unmasked, copied or kept. It reads no clock; what it
//! finds is an error for [`super::Metered`] to hand to the library's reader.

use std::time::{Duration, Instant};

/// A peer with a message under way must bring at least so many bytes a second once the message's time is used up.
/// Half of what PCM16 at 24 kHz needs as base64, in which a session's audio travels: a line that cannot carry it cannot
/// carry a call.
const LEAST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// Longest header: two bytes, eight of length, four of mask (RFC 6455, 5.2).
const MAX_HEADER: usize = 14;

/// Longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

/// What a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Which side the peer is: clients mask their frames, servers must not (RFC 6455, 5.1).
    pub from: Peer,
    /// Largest message, all its fragments together, in bytes. Also the largest frame.
    pub max_message: u64,
    /// Most fragments of a message, empty ones included.
    pub max_fragments: u32,
    /// Most pings, pongs and closes.
    pub control: Rate,
    /// Most messages; `None` where the reader's own pace is limit enough.
    pub messages: Option<Rate>,
    /// How long a message may take from its first byte to its last. Large ones on slow lines may take longer, as
    /// long as 32 KiB a second come.
    pub message_timeout: Duration,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Server,
}

/// A rate, and how many may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, at least 1.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// The first thing that a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// A header or an order of frames that the protocol forbids.
    #[error("a frame that the WebSocket protocol forbids")]
    Protocol,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotText,
    /// A frame or a message over the limit, by its own account.
    #[error("a message over the limit")]
    TooLarge,
    /// More fragments than the limit.
    #[error("a message in too many fragments")]
    TooManyFragments,
    /// Control frames came too fast.
    #[error("too many control frames")]
    TooManyControlFrames,
    /// Messages came too fast.
    #[error("too many messages")]
    TooManyMessages,
    /// A message was begun and not brought to its end in time.
    #[error("a message took too long")]
    MessageTooSlow,
}

impl FrameFault {
    /// The name in metrics, and the reason in the close frame.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol | Self::NotText => "websocket",
            Self::TooLarge => "too_large",
            Self::TooManyFragments => "too_many_fragments",
            Self::TooManyControlFrames => "too_many_control_frames",
            Self::TooManyMessages => "too_many_messages",
            Self::MessageTooSlow => "message_too_slow",
        }
    }

    /// The close code (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotText => 1007,
            Self::TooLarge => 1009,
            Self::TooManyFragments
            | Self::TooManyControlFrames
            | Self::TooManyMessages
            | Self::MessageTooSlow => 1008,
        }
    }
}

/// A fault, and how many of the bytes looked at came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFault {
    /// What it is.
    pub fault: FrameFault,
    /// Bytes before the header of the frame that it is in.
    pub before: usize,
}

/// Watches one direction of one connection.
#[derive(Clone, Debug)]
pub struct FrameMeter {
    limits: FrameLimits,
    state: State,
    header: [u8; MAX_HEADER],
    n_header: usize,
    /// The message whose fragments are coming.
    message: Option<Fragments>,
    control: Bucket,
    messages: Bucket,
    /// When what is not complete yet must be.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the head of the answer to an upgrade: so many of its bytes came, and so many of them are the last of
    /// what ends it.
    Head { n: usize, ending: usize },
    /// In a frame's header, or before it.
    Header,
    /// In a frame's payload, of which so much is missing.
    Payload { missing: u64, ends_message: bool },
    /// Nothing more is looked at: the peer has closed, or never became a WebSocket.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Fragments {
    n: u32,
    bytes: u64,
}

impl FrameMeter {
    /// A meter for a peer whose frames begin with the next byte.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            state: State::Header,
            header: [0; MAX_HEADER],
            n_header: 0,
            message: None,
            control: Bucket::default(),
            messages: Bucket::default(),
            due: None,
        }
    }

    /// A meter for a server that has yet to answer the upgrade. What is no 101 is not looked at.
    #[must_use]
    pub fn before_answer(limits: FrameLimits) -> Self {
        Self {
            state: State::Head { n: 0, ending: 0 },
            ..Self::new(limits)
        }
    }

    /// Looks at the next bytes, which arrived at `now`.
    ///
    /// # Errors
    ///
    /// The first fault; the meter is of no use afterwards.
    pub fn scan(&mut self, bytes: &[u8], now: Instant) -> Result<(), FoundFault> {
        let mut at = match self.state {
            State::Head { .. } => self.skip_head(bytes),
            _ => 0,
        };
        if at < bytes.len() && self.state != State::Ended {
            self.prolong(bytes.len() - at, now);
        }
        while at < bytes.len() {
            match self.state {
                State::Head { .. } | State::Ended => return Ok(()),
                State::Payload {
                    missing,
                    ends_message,
                } => {
                    let here = missing.min((bytes.len() - at) as u64);
                    at += here as usize;
                    self.state = State::Payload {
                        missing: missing - here,
                        ends_message,
                    };
                    self.end_frame(now, at < bytes.len());
                }
                State::Header => {
                    // Of a header that began with bytes looked at before, all of these are part.
                    let before = at;
                    at += self.take_header(&bytes[at..]);
                    if self.n_header == self.header_length() {
                        self.begin_frame(now)
                            .map_err(|fault| FoundFault { fault, before })?;
                        self.end_frame(now, at < bytes.len());
                    }
                }
            }
        }
        Ok(())
    }

    /// When what the peer has begun must be complete; `None` if nothing is under way.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Starts the time of what is under way anew: nobody read it until `now`.
    pub fn was_unread(&mut self, now: Instant) {
        if let Some(due) = &mut self.due {
            *due = now + self.limits.message_timeout;
        }
    }

    /// Every byte prolongs what is under way, but to no more than a whole time from now: who sends much at once may not
    /// be slow with the rest for long, and keep memory meanwhile.
    fn prolong(&mut self, n_bytes: usize, now: Instant) {
        let whole = now + self.limits.message_timeout;
        let for_bytes = Duration::from_micros(n_bytes as u64 * 1_000_000 / LEAST_BYTES_PER_SECOND);
        self.due = Some(self.due.map_or(whole, |due| whole.min(due + for_bytes)));
    }

    /// Whether the next byte begins a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.state == State::Header && self.n_header == 0
    }

    /// Whether the answer to an upgrade is not all there yet.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Skips the rest of the answer's head. How many bytes that was.
    pub(super) fn skip_head(&mut self, bytes: &[u8]) -> usize {
        const SWITCHED: &[u8] = b"HTTP/1.1 101";
        const END: &[u8] = b"\r\n\r\n";
        let State::Head { mut n, mut ending } = self.state else {
            return 0;
        };
        for (at, &byte) in bytes.iter().enumerate() {
            if SWITCHED.get(n).is_some_and(|expected| *expected != byte) {
                self.state = State::Ended;
                return bytes.len();
            }
            n += 1;
            ending = match byte {
                byte if byte == END[ending] => ending + 1,
                b'\r' => 1,
                _ => 0,
            };
            if ending == END.len() {
                self.state = State::Header;
                return at + 1;
            }
        }
        self.state = State::Head { n, ending };
        bytes.len()
    }

    /// Takes what belongs to the header. How many bytes that was.
    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        // The second byte says how long the header is, so the length is asked for once more after two.
        while taken < bytes.len() && self.n_header < self.header_length() {
            let here = (self.header_length() - self.n_header).min(bytes.len() - taken);
            let end = self.n_header + here;
            self.header[self.n_header..end].copy_from_slice(&bytes[taken..taken + here]);
            self.n_header = end;
            taken += here;
        }
        taken
    }

    fn header_length(&self) -> usize {
        if self.n_header < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_length(&self) -> u64 {
        let [_, second, rest @ ..] = self.header;
        match second & 0x7F {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => rest[..8]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => u64::from(short),
        }
    }

    /// Judges the header that is complete now.
    fn begin_frame(&mut self, now: Instant) -> Result<(), FrameFault> {
        self.n_header = 0;
        let [first, second, ..] = self.header;
        let (is_final, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        let is_masked = second & 0x80 != 0;
        let length = self.payload_length();
        let is_forbidden =
            reserved != 0 || is_masked != (self.limits.from == Peer::Client) || length >> 63 != 0;
        if is_forbidden {
            return Err(FrameFault::Protocol);
        }
        let ends_message = match opcode {
            0..=2 => self.begin_fragment(opcode, is_final, length, now)?,
            0x8..=0xA => {
                if !is_final || length > MAX_CONTROL {
                    return Err(FrameFault::Protocol);
                }
                if !self.control.take(self.limits.control, now) {
                    return Err(FrameFault::TooManyControlFrames);
                }
                self.message.is_none()
            }
            _ => return Err(FrameFault::Protocol),
        };
        self.state = State::Payload {
            missing: length,
            ends_message,
        };
        Ok(())
    }

    /// Judges a frame of data. Whether it is the last of its message.
    fn begin_fragment(
        &mut self,
        opcode: u8,
        is_final: bool,
        length: u64,
        now: Instant,
    ) -> Result<bool, FrameFault> {
        // A message begins where none is under way, and is continued where one is (RFC 6455, 5.4).
        if (opcode == 0) != self.message.is_some() {
            return Err(FrameFault::Protocol);
        }
        let so_far = self.message.unwrap_or(Fragments { n: 0, bytes: 0 });
        // No overflow: what came before is within the limit, and the highest bit of a length is zero.
        let message = Fragments {
            n: so_far.n + 1,
            bytes: so_far.bytes + length,
        };
        if message.bytes > self.limits.max_message {
            return Err(FrameFault::TooLarge);
        }
        if message.n > self.limits.max_fragments {
            return Err(FrameFault::TooManyFragments);
        }
        if opcode != 0
            && let Some(rate) = self.limits.messages
            && !self.messages.take(rate, now)
        {
            return Err(FrameFault::TooManyMessages);
        }
        self.message = (!is_final).then_some(message);
        Ok(is_final)
    }

    /// Goes on to the next frame if this one is complete. `more` of it, or of others, came with it.
    fn end_frame(&mut self, now: Instant, more: bool) {
        let State::Payload {
            missing: 0,
            ends_message,
        } = self.state
        else {
            return;
        };
        const CLOSE: u8 = 0x8;
        self.state = if self.header[0] & 0x0F == CLOSE {
            State::Ended
        } else {
            State::Header
        };
        if ends_message || self.state == State::Ended {
            self.due =
                (more && self.state == State::Header).then_some(now + self.limits.message_timeout);
        }
    }
}

/// A token bucket that counts in time: it holds the moment at which it would be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes a token. False if there is none.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let per_token = Duration::from_secs(1) / rate.per_second.max(1);
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + per_token;
        let is_there = full_at.duration_since(now) <= per_token.saturating_mul(rate.burst);
        if is_there {
            self.full_at = Some(full_at);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        from: Peer::Client,
        max_message: 1000,
        max_fragments: 4,
        control: Rate {
            per_second: 2,
            burst: 3,
        },
        messages: Some(Rate {
            per_second: 10,
            burst: 5,
        }),
        message_timeout: Duration::from_secs(10),
    };

    /// One masked frame of zeros.
    fn frame(first: u8, length: u64) -> Vec<u8> {
        let mut bytes = header(first, length);
        bytes.resize(bytes.len() + length as usize, 0);
        bytes
    }

    /// Its header.
    fn header(first: u8, length: u64) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..0x1_0000 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes
    }

    /// What a meter finds in these bytes, the same whether they come at once or one at a time: the fault, and how
    /// many bytes come before the frame that it is in.
    fn check_with(limits: FrameLimits, bytes: &[u8], expected: Option<(FrameFault, usize)>) {
        let now = Instant::now();
        let found = FrameMeter::new(limits).scan(bytes, now).err();
        assert_eq!(found.map(|found| (found.fault, found.before)), expected);
        let mut meter = FrameMeter::new(limits);
        let at = bytes.iter().position(|byte| {
            let found = meter.scan(std::slice::from_ref(byte), now);
            // The fault is found at the latest byte of a header, whose earlier bytes passed.
            found.is_err()
        });
        match expected {
            None => assert_eq!(at, None),
            Some((_, before)) => {
                let at = at.expect("a fault");
                assert!((before..before + MAX_HEADER).contains(&at), "{at}");
            }
        }
    }

    fn check(frames: &[Vec<u8>], expected: Option<FrameFault>) {
        let before = frames[..frames.len() - 1].iter().map(Vec::len).sum();
        check_with(
            LIMITS,
            &frames.concat(),
            expected.map(|fault| (fault, before)),
        );
    }

    #[test]
    fn lengths_are_read_at_every_boundary() {
        for length in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 65_537] {
            let limits = FrameLimits {
                max_message: length,
                ..LIMITS
            };
            let good = [frame(0x82, length), frame(0x81, 0)].concat();
            check_with(limits, &good, None);
            let fault = (FrameFault::TooLarge, good.len());
            let bytes = [good, frame(0x82, length + 1)].concat();
            check_with(limits, &bytes, Some(fault));
        }
    }

    #[test]
    fn a_length_counts_by_the_header() {
        check(&[header(0x82, 1001)], Some(FrameFault::TooLarge));
        check(&[header(0x82, u64::MAX >> 1)], Some(FrameFault::TooLarge));
        check(&[header(0x82, 1 << 63)], Some(FrameFault::Protocol));
        check(&[header(0x82, u64::MAX)], Some(FrameFault::Protocol));
        check(&[frame(0x02, 600), header(0x80, 400)], None);
        check(
            &[frame(0x02, 600), header(0x80, 401)],
            Some(FrameFault::TooLarge),
        );
        check(
            &[frame(0x02, 1000), header(0x80, u64::MAX >> 1)],
            Some(FrameFault::TooLarge),
        );
    }

    #[test]
    fn fragments_are_counted_empty_or_not() {
        let begin = frame(0x01, 0);
        let more = frame(0x00, 0);
        let end = frame(0x80, 1);
        let ping = frame(0x89, 0);
        check(
            &[
                begin.clone(),
                more.clone(),
                ping.clone(),
                more.clone(),
                end.clone(),
                begin.clone(),
                end.clone(),
            ],
            None,
        );
        check(
            &[begin, more.clone(), more.clone(), more, ping, end],
            Some(FrameFault::TooManyFragments),
        );
    }

    #[test]
    fn the_protocol_forbids() {
        let bad = |frame: Vec<u8>| check(&[frame], Some(FrameFault::Protocol));
        for reserved in [0x10, 0x20, 0x40, 0x70] {
            bad(frame(0x81 | reserved, 2));
            bad(frame(0x89 | reserved, 2));
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            bad(frame(0x80 | opcode, 0));
        }
        for control in [8, 9, 10] {
            bad(frame(control, 0));
            bad(header(0x80 | control, 126));
            check(&[frame(0x80 | control, 125)], None);
        }
        bad(vec![0x81, 2]);
        bad(frame(0x80, 1));
        bad(frame(0x00, 1));
        check(
            &[frame(0x01, 1), frame(0x81, 1)],
            Some(FrameFault::Protocol),
        );
        check(
            &[frame(0x81, 1), frame(0x80, 1)],
            Some(FrameFault::Protocol),
        );
        let from_server = FrameLimits {
            from: Peer::Server,
            ..LIMITS
        };
        check_with(from_server, &[0x81, 1, 0], None);
        let fault = (FrameFault::Protocol, 0);
        check_with(from_server, &frame(0x81, 1), Some(fault));
    }

    #[test]
    fn after_a_close_nothing_counts() {
        check(&[frame(0x88, 2), frame(0xFF, 5), vec![0; 100]], None);
    }

    #[test]
    fn rates_allow_a_burst_and_then_their_rate() {
        let begin = Instant::now();
        for (first, burst, period, fault) in [
            (0x8A, 3, 500, FrameFault::TooManyControlFrames),
            (0x82, 5, 100, FrameFault::TooManyMessages),
        ] {
            let mut meter = FrameMeter::new(LIMITS);
            let mut send = |ms| meter.scan(&frame(first, 1), begin + Duration::from_millis(ms));
            for _ in 0..burst {
                assert_eq!(send(0), Ok(()));
            }
            let found = FoundFault { fault, before: 0 };
            assert_eq!(send(period - 1), Err(found));
            for n in 1..100 {
                assert_eq!(send(period * n), Ok(()), "{n}");
            }
            assert_eq!(send(period * 99), Err(found));
            // After a pause as much as at first, and no more.
            for _ in 0..burst {
                assert_eq!(send(1_000_000), Ok(()));
            }
            assert_eq!(send(1_000_000), Err(found));
        }
    }

    #[test]
    fn a_message_has_its_time_from_its_first_byte() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut meter = FrameMeter::new(FrameLimits {
            max_message: 1 << 20,
            ..LIMITS
        });
        let scan = |meter: &mut FrameMeter, bytes: &[u8], at| {
            meter.scan(bytes, begin + at * second).expect("no fault");
            meter.deadline().map(|at| (at - begin).as_millis())
        };
        assert_eq!(scan(&mut meter, &frame(0x81, 10), 0), None);
        // Half a header counts, and what belongs to the message before does not.
        let mut bytes = frame(0x81, 10);
        bytes.push(0x01);
        assert_eq!(scan(&mut meter, &bytes, 1), Some(11_000));
        assert_eq!(scan(&mut meter, &[0x85, 0, 0, 0, 0], 2), Some(11_000));
        assert_eq!(scan(&mut meter, &[1, 2, 3, 4, 5], 3), Some(11_000));
        assert_eq!(scan(&mut meter, &frame(0x89, 0), 4), Some(11_000));
        assert_eq!(scan(&mut meter, &frame(0x80, 0), 5), None);
        // A large one has more time, but what came at once does not buy time to be slow with the rest.
        assert_eq!(scan(&mut meter, &header(0x82, 131_072), 6), Some(16_000));
        assert_eq!(scan(&mut meter, &[0; 65_536], 7), Some(17_000));
        meter.was_unread(begin + 8 * second);
        assert_eq!(scan(&mut meter, &[0; 65_535], 9), Some(19_000));
        assert_eq!(scan(&mut meter, &[0], 10), None);
        // So has a ping that is not brought to its end.
        assert_eq!(scan(&mut meter, &[0x89], 20), Some(30_000));
        assert_eq!(scan(&mut meter, &[0x80, 0, 0, 0, 0], 21), None);
    }

    #[test]
    fn frames_begin_after_the_answer() {
        let now = Instant::now();
        let limits = FrameLimits {
            from: Peer::Server,
            ..LIMITS
        };
        let good = b"HTTP/1.1 101 Switching\r\nA: b\r\r\n\r\n\x81\x01a";
        let bad = [&good[..], b"\x83\x00"].concat();
        for chunk in [1, 2, 3, 7, 100] {
            let scan = |bytes: &[u8]| {
                let mut meter = FrameMeter::before_answer(limits);
                bytes
                    .chunks(chunk)
                    .map(|bytes| meter.scan(bytes, now))
                    .filter(Result::is_err)
                    .count()
            };
            assert_eq!(scan(good), 0, "{chunk}");
            assert!(scan(&bad) > 0, "{chunk}");
            // A body is no frame.
            let refusal = String::from_utf8_lossy(&bad).replacen("101", "404", 1);
            assert_eq!(scan(refusal.as_bytes()), 0, "{chunk}");
        }
    }
}
