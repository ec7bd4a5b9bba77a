//! Caller audio as it came, kept to be decoded once more. Decides nothing about what is kept.
//!
//! In the caller's codec, because that is the smallest form: a second of telephone audio takes 8 KB so,
//! and 48 KB as the PCM that a session is sent.

use std::collections::VecDeque;
use std::time::Duration;

/// Messages of caller audio, each at its position in the call's audio.
#[derive(Debug, Default)]
pub struct Replay {
    bytes: VecDeque<u8>,
    messages: VecDeque<Message>,
    /// Positions are in microseconds.
    end: u64,
}

/// Small, because there are fifty a second.
#[derive(Clone, Copy, Debug)]
struct Message {
    start: u64,
    duration: u32,
    /// [`SILENCE`] where the gateway put silence in place of audio.
    n_bytes: u32,
}

const SILENCE: u32 = u32::MAX;

/// Room is made for so much at a time. Doubling it would have each call hold twice of what it needs.
const STEP_BYTES: usize = 4 * 1024;
const STEP_MESSAGES: usize = 64;

/// A piece of what is kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// One message as it came.
    Audio(&'a [u8]),
    /// So much silence.
    Silence(Duration),
}

impl Replay {
    /// Keeps one message, which is so long.
    pub fn push(&mut self, payload: &[u8], duration: Duration) {
        let n_bytes = match u32::try_from(payload.len()) {
            Ok(SILENCE) | Err(_) => return self.push_silence(duration),
            Ok(n_bytes) => n_bytes,
        };
        if self.bytes.len() + payload.len() > self.bytes.capacity() {
            self.bytes.reserve_exact(payload.len().max(STEP_BYTES));
        }
        self.bytes.extend(payload);
        self.push_message(n_bytes, duration);
    }

    /// Keeps so much silence, which takes no room.
    pub fn push_silence(&mut self, duration: Duration) {
        self.push_message(SILENCE, duration);
    }

    fn push_message(&mut self, n_bytes: u32, duration: Duration) {
        if self.messages.len() == self.messages.capacity() {
            self.messages.reserve_exact(STEP_MESSAGES);
        }
        // No message of audio lasts for an hour.
        let duration = micros(duration).min(u32::MAX.into()) as u32;
        self.messages.push_back(Message {
            start: self.end,
            duration,
            n_bytes,
        });
        self.end += u64::from(duration);
    }

    /// Lets go of all messages that lie between two positions as a whole.
    pub fn forget(&mut self, from: Duration, to: Duration) {
        let (from, to) = (micros(from), micros(to));
        let first = self
            .messages
            .partition_point(|message| message.start < from);
        let last = self.messages.partition_point(|message| message.end() <= to);
        let last = last.max(first);
        let n_before = self.n_bytes(0, first);
        let n_bytes = self.n_bytes(first, last);
        self.messages.drain(first..last);
        self.bytes.drain(n_before..n_before + n_bytes);
        // A long turn does not hold on to its room for the rest of the call.
        if self.bytes.capacity() > 4 * self.bytes.len().max(8 * 1024) {
            self.bytes.shrink_to(2 * self.bytes.len());
            self.messages.shrink_to(2 * self.messages.len());
        }
    }

    fn n_bytes(&self, first: usize, last: usize) -> usize {
        self.messages.range(first..last).map(Message::len).sum()
    }

    /// Yields what is kept between two positions, in order, messages that reach over them included.
    pub fn play(&mut self, from: Duration, to: Duration, mut each: impl FnMut(Piece<'_>)) {
        let (from, to) = (micros(from), micros(to));
        let bytes: &[u8] = self.bytes.make_contiguous();
        let mut at = 0;
        for message in &self.messages {
            let payload = &bytes[at..at + message.len()];
            at += message.len();
            if message.end() <= from || message.start >= to {
                continue;
            }
            each(match message.n_bytes {
                SILENCE => Piece::Silence(Duration::from_micros(message.duration.into())),
                _ => Piece::Audio(payload),
            });
        }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Message {
    fn len(&self) -> usize {
        match self.n_bytes {
            SILENCE => 0,
            n_bytes => n_bytes as usize,
        }
    }

    fn end(&self) -> u64 {
        self.start + u64::from(self.duration)
    }
}

/// A position, or a length. A call has less than half a million years.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn kept(replay: &mut Replay, from: u64, to: u64) -> String {
        let mut text = String::new();
        replay.play(ms(from), ms(to), |piece| match piece {
            Piece::Audio(bytes) => text.push_str(std::str::from_utf8(bytes).expect("ASCII")),
            Piece::Silence(duration) => text.push_str(&format!("({})", duration.as_millis())),
        });
        text
    }

    fn six() -> Replay {
        let mut replay = Replay::default();
        for letter in ["aa", "b", "ccc", "", "e", "f"] {
            match letter {
                "" => replay.push_silence(ms(100)),
                _ => replay.push(letter.as_bytes(), ms(20)),
            }
        }
        replay
    }

    #[test]
    fn what_is_kept_comes_back_in_order() {
        let mut replay = six();
        assert_eq!(kept(&mut replay, 0, 1_000), "aabccc(100)ef");
        assert_eq!(kept(&mut replay, 20, 60), "bccc");
        assert_eq!(kept(&mut replay, 30, 50), "bccc");
        assert_eq!(kept(&mut replay, 160, 180), "e");
    }

    #[test]
    fn forgotten_are_whole_messages_anywhere() {
        let mut replay = six();
        replay.forget(ms(20), ms(60));
        assert_eq!(kept(&mut replay, 0, 1_000), "aa(100)ef");
        replay.forget(ms(0), ms(19));
        assert_eq!(kept(&mut replay, 0, 1_000), "aa(100)ef");
        replay.forget(ms(0), ms(20));
        replay.forget(ms(20), ms(170));
        assert_eq!(kept(&mut replay, 0, 1_000), "ef");
        replay.push(b"g", ms(20));
        assert_eq!(kept(&mut replay, 180, 1_000), "fg");
        replay.forget(ms(0), ms(1_000));
        assert!(replay.is_empty());
        assert_eq!(replay.bytes.len(), 0);
    }

    #[test]
    fn room_is_little_more_than_what_is_kept() {
        let mut replay = Replay::default();
        for _ in 0..1_000 {
            replay.push(&[0; 160], ms(20));
            if replay.len() > 100 * 160 + 8_000 {
                let end = Duration::from_micros(replay.end);
                replay.forget(ms(0), end.saturating_sub(ms(2_000)));
            }
        }
        assert!(replay.bytes.capacity() <= 100 * 160 + 8_000 + 2 * STEP_BYTES);
        assert!(replay.messages.capacity() * size_of::<Message>() <= 4_000);
    }

    #[test]
    fn room_is_given_back() {
        let mut replay = Replay::default();
        for _ in 0..3_000 {
            replay.push(&[0; 160], ms(20));
        }
        replay.forget(ms(0), ms(58_000));
        assert_eq!(replay.len(), 100 * 160);
        assert!(replay.bytes.capacity() <= 64 * 1024);
    }
}
