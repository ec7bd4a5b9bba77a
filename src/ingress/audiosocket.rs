//! AudioSocket, by which Asterisk hands over a call on plain TCP (telephony reference 9.6).
//!
//! A message is one packet: kind, length, payload. The gateway is the clock of the call: Asterisk has no queue, so one
//! packet of 20 ms leaves every 20 ms, silence where there is nothing to say. The kind of the first audio that comes
//! tells the rate, and audio goes back as the same kind. Where the operator tells the rate, the call starts at once;
//! else with the first audio or key.
//!
//! When the peer does not keep to the rules:
//!
//! | what comes | what happens |
//! |---|---|
//! | a key before the first audio | the call starts at 8 kHz, the only rate of Asterisk's application |
//! | audio of a second kind, or of another than the call started with | error, the call ends |
//! | audio at 96 or 192 kHz | error, the call ends |
//! | an error | the call is over: Asterisk sends one when it gives up |
//! | a packet of an unknown kind, or whose length is not its payload's | error, the call ends, as it would at Asterisk |
//! | audio without bytes, another UUID | counted, no effect |
//!
//! The UUID lets the call in, so it is a secret, looked at elsewhere and kept nowhere. Nothing is known of the call.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Capabilities, DialectError, Head, Ignored, Incoming, Lead, Outgoing, Speak, ignore};
use crate::call::{CallInfo, CallerCommand, CallerEvent, Digit};
use crate::media::{AudioFormat, Codec, FRAME, SampleRate};

/// The largest packet: its length is 16 bits.
const MAX_MESSAGE_BYTES: usize = 3 + 0xFFFF;

const HANGUP: u8 = 0x00;
const UUID: u8 = 0x01;
const DTMF: u8 = 0x03;
const KIND_8_KHZ: u8 = 0x10;
const ERROR: u8 = 0xFF;

/// One call by AudioSocket.
#[derive(Clone, Debug, Default)]
pub struct AudioSocket {
    /// Kind of the audio, once it is known.
    kind: Option<u8>,
    /// What followed from the last packet and was not asked for yet.
    waiting: VecDeque<CallerEvent>,
    /// The audio that told the rate.
    first: Vec<u8>,
    is_over: bool,
    ignored: Ignored,
}

impl Speak for AudioSocket {
    const NAME: &'static str = "audiosocket";

    /// It has a listener of its own. Paths of requests begin with a slash, so that none leads here.
    const PATH: &'static str = "audiosocket";

    /// Sources: telephony reference 9.6 (neither marks nor clear, we are the clock), 16.3 (one frame in flight).
    const CAPABILITIES: Capabilities = Capabilities {
        keys_in: true,
        says_end: true,
        peer_closes: Some(Duration::from_secs(2)),
        lead: Lead::between_ms(20, 20),
        fills_silence: true,
        max_message_bytes: MAX_MESSAGE_BYTES,
        ..Capabilities::OF_A_PROVIDER
    };

    fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn opened(&mut self, head: &Head<'_>) {
        let _ = head;
    }

    fn read(
        &mut self,
        message: Incoming<'_>,
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        let Incoming::Binary(packet) = message else {
            return Err(BAD_PACKET);
        };
        let [kind, high, low, payload @ ..] = packet else {
            return Err(BAD_PACKET);
        };
        if payload.len() != usize::from(u16::from_be_bytes([*high, *low])) {
            return Err(BAD_PACKET);
        }
        if self.is_over {
            return Ok(ignore(&mut self.ignored.after_stop));
        }
        match *kind {
            HANGUP | ERROR => {
                self.is_over = true;
                Ok(CallerEvent::Stopped)
            }
            UUID => Ok(ignore(&mut self.ignored.repeated_starts)),
            DTMF => self.key(payload),
            0x10..=0x18 => self.audio(*kind, payload, audio),
            _ => Err(BAD_PACKET),
        }
    }

    fn more(&mut self, audio: &mut Vec<u8>) -> Option<CallerEvent> {
        audio.clear();
        self.kind?;
        let event = self.waiting.pop_front()?;
        if event == CallerEvent::Audio {
            audio.append(&mut self.first);
        }
        Some(event)
    }

    fn encode(&mut self, command: CallerCommand<'_>, out: &mut Vec<u8>) -> Outgoing {
        out.clear();
        match (command, self.kind) {
            // A packet of audio without bytes would end the call (telephony reference 9.6).
            (CallerCommand::Audio([]), _) => Outgoing::Nothing,
            (CallerCommand::Audio(audio), Some(kind)) => {
                let Ok(length) = u16::try_from(audio.len()) else {
                    return Outgoing::Nothing;
                };
                out.push(kind);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(audio);
                Outgoing::Binary
            }
            (CallerCommand::End { .. }, _) => {
                out.extend_from_slice(&[HANGUP, 0, 0]);
                Outgoing::Binary
            }
            (
                CallerCommand::Audio(_)
                | CallerCommand::Started { .. }
                | CallerCommand::Mark(_)
                | CallerCommand::ReplyEnded
                | CallerCommand::Clear
                | CallerCommand::Keys(_)
                | CallerCommand::Transcript { .. }
                | CallerCommand::Error { .. },
                _,
            ) => Outgoing::Nothing,
        }
    }
}

const BAD_PACKET: DialectError = DialectError::WrongShape { message: "packet" };

impl AudioSocket {
    /// A call at that rate, which starts before anything came; `None` if there is no such kind of audio.
    #[must_use]
    pub fn at(rate: SampleRate) -> Option<Self> {
        let mut call = Self::default();
        let kind = (0x10..=0x18).find(|kind| rate_of(*kind) == Some(rate))?;
        let start = call.start(kind, rate);
        call.waiting.push_back(start);
        Some(call)
    }

    /// The UUID in a call's first packet; `None` if the packet is another.
    #[must_use]
    pub fn uuid(packet: &[u8]) -> Option<[u8; 16]> {
        let uuid = packet.strip_prefix(&[UUID, 0, 16])?;
        uuid.try_into().ok()
    }

    /// A packet of silence, 20 ms of it; `None` while the rate is not known.
    #[must_use]
    pub fn silence(&self) -> Option<Vec<u8>> {
        let kind = self.kind?;
        let n_samples = rate_of(kind)?.hz() as usize * FRAME.as_millis() as usize / 1_000;
        let n_bytes = Codec::Pcm16.bytes_of(n_samples)?;
        let length = u16::try_from(n_bytes).ok()?;
        let mut packet = vec![kind];
        packet.extend_from_slice(&length.to_be_bytes());
        packet.resize(3 + n_bytes, 0);
        Some(packet)
    }

    /// What hangs up on a call that was never taken.
    pub const HANGUP: [u8; 3] = [HANGUP, 0, 0];

    fn key(&mut self, payload: &[u8]) -> Result<CallerEvent, DialectError> {
        let digit = str::from_utf8(payload).ok().and_then(Digit::only);
        let key = CallerEvent::Dtmf(digit.ok_or(DialectError::UnknownDigit)?);
        if self.kind.is_some() {
            return Ok(key);
        }
        // Who presses keys is there, though nothing may ever be heard of him.
        self.waiting.push_back(key);
        Ok(self.start(KIND_8_KHZ, SampleRate::HZ_8000))
    }

    /// From now on audio is of that kind.
    fn start(&mut self, kind: u8, rate: SampleRate) -> CallerEvent {
        self.kind = Some(kind);
        let format = AudioFormat {
            codec: Codec::Pcm16,
            rate,
        };
        CallerEvent::Started(Box::new(CallInfo {
            provider_call_id: None,
            provider_stream_id: None,
            input: format,
            output: format,
            parameters: BTreeMap::new(),
        }))
    }

    fn audio(
        &mut self,
        kind: u8,
        payload: &[u8],
        audio: &mut Vec<u8>,
    ) -> Result<CallerEvent, DialectError> {
        if payload.is_empty() {
            return Ok(ignore(&mut self.ignored.empty_audio));
        }
        if !payload.len().is_multiple_of(2) {
            return Err(DialectError::OddByteCount);
        }
        match self.kind {
            Some(known) if known == kind => {
                audio.extend_from_slice(payload);
                return Ok(CallerEvent::Audio);
            }
            Some(_) => return Err(DialectError::SecondStart),
            None => {}
        }
        let rate = rate_of(kind).ok_or(DialectError::UnsupportedFormat)?;
        self.first.extend_from_slice(payload);
        self.waiting.push_back(CallerEvent::Audio);
        Ok(self.start(kind, rate))
    }
}

/// The rate of a kind of audio, where it is spoken here.
const fn rate_of(kind: u8) -> Option<SampleRate> {
    match kind {
        0x10 => Some(SampleRate::HZ_8000),
        0x11 => Some(SampleRate::HZ_12000),
        0x12 => Some(SampleRate::HZ_16000),
        0x13 => Some(SampleRate::HZ_24000),
        0x14 => Some(SampleRate::HZ_32000),
        0x15 => Some(SampleRate::HZ_44100),
        0x16 => Some(SampleRate::HZ_48000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), payload].concat()
    }

    fn check(
        dialect: &mut AudioSocket,
        packet: &[u8],
        expected: Result<CallerEvent, DialectError>,
    ) {
        let event = dialect.decode(Incoming::Binary(packet), &mut Vec::new());
        assert_eq!(event, expected, "{packet:?}");
    }

    fn started(kind: u8) -> AudioSocket {
        let mut dialect = AudioSocket::default();
        let first = packet(kind, &[0; 2]);
        let event = dialect.decode(Incoming::Binary(&first), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        assert_eq!(dialect.more(&mut Vec::new()), Some(CallerEvent::Audio));
        assert_eq!(dialect.more(&mut Vec::new()), None);
        dialect
    }

    /// The application is 8 kHz only, the channel driver says the rate by the kind: the answer must be of the same
    /// (telephony reference 9.6).
    #[test]
    fn audio_goes_back_as_it_came() {
        for (kind, hz) in [
            (0x10, 8_000),
            (0x11, 12_000),
            (0x12, 16_000),
            (0x13, 24_000),
            (0x14, 32_000),
            (0x15, 44_100),
            (0x16, 48_000),
        ] {
            assert_eq!(rate_of(kind).unwrap().hz(), hz);
            let (mut dialect, mut out) = (started(kind), Vec::new());
            let audio = vec![1; hz as usize / 50 * 2];
            let outgoing = dialect.encode(CallerCommand::Audio(&audio), &mut out);
            assert_eq!(outgoing, Outgoing::Binary);
            assert_eq!(out, packet(kind, &audio));
            let other = packet(kind ^ 1, &[0; 2]);
            check(&mut dialect, &other, Err(DialectError::SecondStart));
        }
        for kind in [0x17, 0x18] {
            let first = packet(kind, &[0; 2]);
            let mut dialect = AudioSocket::default();
            check(&mut dialect, &first, Err(DialectError::UnsupportedFormat));
        }
    }

    /// The bytes of telephony reference 9.6.
    #[test]
    fn bytes_are_those_of_the_reference() {
        let mut dialect = started(0x10);
        let five = Digit::new('5').unwrap();
        check(&mut dialect, &[3, 0, 1, 0x35], Ok(CallerEvent::Dtmf(five)));
        let mut out = Vec::new();
        dialect.encode(CallerCommand::Audio(&[0; 320]), &mut out);
        assert_eq!(out[..3], [0x10, 0x01, 0x40]);
        dialect.encode(CallerCommand::End { reason: "x" }, &mut out);
        assert_eq!(out, [0, 0, 0]);
        let mut first = vec![1, 0, 16];
        first.extend(0..16);
        let uuid = AudioSocket::uuid(&first).unwrap();
        assert_eq!(uuid.as_slice(), &first[3..]);
        assert_eq!(AudioSocket::uuid(&first[..18]), None);
        assert_eq!(AudioSocket::uuid(&out), None);
    }

    /// Asterisk ends the call on an audio packet without bytes, and on any kind but audio and hang-up (telephony
    /// reference 9.6).
    #[test]
    fn nothing_is_sent_that_ends_the_call() {
        let (mut dialect, mut out) = (started(0x10), Vec::new());
        for command in [
            CallerCommand::Audio(&[]),
            CallerCommand::Clear,
            CallerCommand::ReplyEnded,
            CallerCommand::Started { call_id: "c" },
        ] {
            assert_eq!(dialect.encode(command, &mut out), Outgoing::Nothing);
        }
        let early = CallerCommand::Audio(&[0; 320]);
        let outgoing = AudioSocket::default().encode(early, &mut out);
        assert_eq!(outgoing, Outgoing::Nothing);
    }

    #[test]
    fn a_key_starts_the_call_where_nothing_is_heard() {
        let mut dialect = AudioSocket::default();
        let hash = packet(DTMF, b"#");
        let event = dialect.decode(Incoming::Binary(&hash), &mut Vec::new());
        assert!(matches!(event, Ok(CallerEvent::Started(_))), "{event:?}");
        let pressed = CallerEvent::Dtmf(Digit::new('#').unwrap());
        assert_eq!(dialect.more(&mut Vec::new()), Some(pressed.clone()));
        assert_eq!(dialect.more(&mut Vec::new()), None);
        check(&mut dialect, &hash, Ok(pressed));
        check(&mut dialect, &packet(0x10, &[0; 2]), Ok(CallerEvent::Audio));
        let other = packet(0x12, &[0; 2]);
        check(&mut dialect, &other, Err(DialectError::SecondStart));
    }

    /// Asterisk's thread waits for our next packet, so silence is due from the first moment (telephony reference 9.6).
    #[test]
    fn a_rate_that_is_told_starts_the_call() {
        let (mut dialect, mut out) = (AudioSocket::at(SampleRate::HZ_16000).unwrap(), Vec::new());
        let event = dialect.more(&mut Vec::new());
        let Some(CallerEvent::Started(info)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(info.input.to_string(), "pcm16 16000 Hz");
        assert_eq!(dialect.more(&mut Vec::new()), None);
        dialect.encode(CallerCommand::Audio(&[0; 640]), &mut out);
        assert_eq!(out[..3], [0x12, 0x02, 0x80]);
        check(&mut dialect, &packet(0x12, &[0; 2]), Ok(CallerEvent::Audio));
        assert!(AudioSocket::at(SampleRate::HZ_22050).is_none());
    }

    #[test]
    fn errors_and_faults_are_told_apart() {
        for over in [&[0, 0, 0][..], &[0xFF, 0, 1, 2]] {
            let mut dialect = started(0x10);
            check(&mut dialect, over, Ok(CallerEvent::Stopped));
            check(&mut dialect, over, Ok(CallerEvent::Nothing));
        }
        for bad in [
            &[][..],
            &[0, 0],
            &[2, 0, 0],
            &[0x19, 0, 0],
            &[3, 0, 2, b'5'],
        ] {
            check(&mut started(0x10), bad, Err(BAD_PACKET));
        }
        let mut dialect = started(0x10);
        check(
            &mut dialect,
            &[3, 0, 1, b'E'],
            Err(DialectError::UnknownDigit),
        );
        check(
            &mut dialect,
            &[0x10, 0, 1, 0],
            Err(DialectError::OddByteCount),
        );
        check(&mut dialect, &[0x10, 0, 0], Ok(CallerEvent::Nothing));
    }

    proptest! {
        #[test]
        fn total_and_audio_only_with_bytes(packets in proptest::collection::vec(
            (prop_oneof![Just(0x10), Just(0x12), Just(3), any::<u8>()], proptest::collection::vec(any::<u8>(), 0..6)),
            1..8,
        ), cut in 0..3_usize) {
            let (mut dialect, mut audio) = (AudioSocket::default(), Vec::new());
            for (kind, payload) in packets {
                let packet = packet(kind, &payload);
                let packet = &packet[..packet.len() - cut.min(payload.len())];
                let mut event = dialect.decode(Incoming::Binary(packet), &mut audio).ok();
                while let Some(found) = event {
                    prop_assert_eq!(found == CallerEvent::Audio, !audio.is_empty());
                    event = dialect.more(&mut audio);
                }
            }
        }
    }
}
