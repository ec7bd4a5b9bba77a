//! The user's audio in a mirror: what is in no item yet, and what items are made of.
//!
//! It is heard by nobody but a session that takes over, so PCM is kept as a byte a sample (37 dB on speech, costs
//! reference 2), and G.711 as it came. Most of a relayed call's memory is this.

use std::collections::VecDeque;

use super::base64::{audio_len, decode_audio_by, encode_audio};
use super::format::WireFormat;

/// How 16-bit PCM becomes a byte a sample and PCM again. Codecs belong to a layer above.
#[derive(Clone, Copy, Debug)]
pub struct Companding {
    /// Writes a code for each sample (two bytes, little-endian) to the second, which has half as many places.
    pub compand: fn(&[u8], &mut [u8]),
    /// The way back.
    pub expand: fn(&[u8], &mut [u8]),
}

/// Room is made for so much at a time. Doubling it would have each call hold twice of what it needs.
const STEP_BYTES: usize = 4 * 1024;
const STEP_APPENDS: usize = 64;

/// Longest audio of one event that is sent again, in microseconds.
const LONGEST_US: u64 = 1_000_000;

/// Bytes decoded at a time: 20 ms of PCM are 960.
const BLOCK: usize = 1536;

/// Audio in one piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Sound {
    bytes: Vec<u8>,
    is_companded: bool,
}

impl Sound {
    /// Bytes that are kept.
    pub(super) const fn n_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that it has on the wire.
    pub(super) const fn n_wire_bytes(&self) -> usize {
        match self.is_companded {
            true => 2 * self.bytes.len(),
            false => self.bytes.len(),
        }
    }

    fn push(&mut self, bytes: &[u8], is_companded: bool, by: Companding) {
        if self.bytes.is_empty() {
            self.is_companded = is_companded;
        }
        if self.is_companded == is_companded {
            self.bytes.extend_from_slice(bytes);
            return;
        }
        // A client that cuts samples in two, which none is known to do.
        if self.is_companded {
            self.bytes = expanded(&self.bytes, by);
            self.is_companded = false;
        }
        match is_companded {
            true => self.bytes.extend(expanded(bytes, by)),
            false => self.bytes.extend_from_slice(bytes),
        }
    }

    /// As events have it; `None` if there is none.
    pub(super) fn base64(&self, by: Companding) -> Option<String> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut text = Vec::new();
        match self.is_companded {
            true => encode_audio(&expanded(&self.bytes, by), &mut text),
            false => encode_audio(&self.bytes, &mut text),
        }
        String::from_utf8(text).ok()
    }
}

fn expanded(codes: &[u8], by: Companding) -> Vec<u8> {
    let mut pcm = vec![0; 2 * codes.len()];
    (by.expand)(codes, &mut pcm);
    pcm
}

/// One event of audio, at its place among the client's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    /// The how manieth event of the client it is.
    pub(super) n: u64,
    pub(super) at_us: u64,
    pub(super) end_us: u64,
    n_bytes: u32,
    is_companded: bool,
}

/// Audio that is in no item, with what came between.
#[derive(Debug)]
pub(super) struct Pending {
    appends: VecDeque<Append>,
    bytes: VecDeque<u8>,
    companding: Companding,
    /// An event ended within a sample: from then on nobody knows where samples begin.
    is_split: bool,
}

impl Pending {
    pub(super) const fn new(companding: Companding) -> Self {
        Self {
            appends: VecDeque::new(),
            bytes: VecDeque::new(),
            companding,
            is_split: false,
        }
    }

    /// Bytes that are kept, what is known of each event included: a client may send a sample at a time.
    pub(super) fn n_bytes(&self) -> usize {
        self.bytes.len() + self.appends.len() * size_of::<Append>()
    }

    pub(super) fn first(&self) -> Option<&Append> {
        self.appends.front()
    }

    /// The client's `n`th event, with audio from one position to another. What is not base64 is no audio.
    pub(super) fn push(&mut self, n: u64, at_us: u64, end_us: u64, base64: &str, of: WireFormat) {
        let is_pcm = of == WireFormat::Pcm24k;
        let n_bytes = audio_len(base64);
        self.is_split |= is_pcm && n_bytes % 2 == 1;
        let is_companded = is_pcm && !self.is_split;
        let before = self.bytes.len();
        let room = if is_companded { n_bytes / 2 } else { n_bytes };
        if before + room > self.bytes.capacity() {
            self.bytes.reserve_exact(room.max(STEP_BYTES));
        }
        let mut codes = [0; BLOCK / 2];
        let is_audio = decode_audio_by::<BLOCK>(base64, |bytes| match is_companded {
            true => {
                let codes = &mut codes[..bytes.len() / 2];
                (self.companding.compand)(bytes, codes);
                self.bytes.extend(&*codes);
            }
            false => self.bytes.extend(bytes),
        });
        if !is_audio {
            self.bytes.truncate(before);
        }
        if self.appends.len() == self.appends.capacity() {
            self.appends.reserve_exact(STEP_APPENDS);
        }
        self.appends.push_back(Append {
            n,
            at_us,
            end_us,
            // No event has gigabytes.
            n_bytes: (self.bytes.len() - before) as u32,
            is_companded,
        });
    }

    /// Forgets the first event.
    pub(super) fn pop(&mut self) -> Option<Append> {
        let append = self.appends.pop_front()?;
        self.bytes.drain(..append.n_bytes as usize);
        self.give_room_back();
        Some(append)
    }

    /// Takes events from the front for as long as they are wanted; the sound is of those that `sounds` says.
    pub(super) fn take(
        &mut self,
        is_taken: impl Fn(&Append) -> bool,
        sounds: impl Fn(&Append) -> bool,
    ) -> Sound {
        let mut sound = Sound::default();
        while let Some(append) = self.appends.pop_front_if(|append| is_taken(append)) {
            let n_bytes = append.n_bytes as usize;
            if sounds(&append) {
                let (bytes, more) = self.front(n_bytes);
                sound.push(bytes, append.is_companded, self.companding);
                sound.push(more, append.is_companded, self.companding);
            }
            self.bytes.drain(..n_bytes);
        }
        self.give_room_back();
        sound
    }

    /// Adds the first so many microseconds of what is at the front, which stays.
    pub(super) fn add_beginning(&self, sound: &mut Sound, us: u64, of: WireFormat) {
        let Some(append) = self.appends.front() else {
            return;
        };
        let n = us.saturating_mul(of.bytes_per_ms() as u64) / 1_000;
        // No format has samples of more than two bytes.
        let n = usize::try_from(n).unwrap_or(usize::MAX) & !1;
        let n = if append.is_companded { n / 2 } else { n };
        let (bytes, more) = self.front(n.min(append.n_bytes as usize));
        sound.push(bytes, append.is_companded, self.companding);
        sound.push(more, append.is_companded, self.companding);
    }

    fn front(&self, n_bytes: usize) -> (&[u8], &[u8]) {
        let (first, second) = self.bytes.as_slices();
        let n_first = n_bytes.min(first.len());
        (&first[..n_first], &second[..n_bytes - n_first])
    }

    /// All of it as events that are to be sent again, each with the number of its last one among the client's: events
    /// with nothing between them are joined. `is_between` says whether the client said something else between two.
    pub(super) fn events(
        &mut self,
        mut is_between: impl FnMut(&Append, &Append) -> bool,
    ) -> Vec<(u64, String)> {
        let bytes: &[u8] = self.bytes.make_contiguous();
        let mut events = Vec::new();
        let mut sound = Sound::default();
        let mut from_us = self.appends.front().map_or(0, |first| first.at_us);
        let mut at = 0;
        let mut appends = self.appends.iter().peekable();
        while let Some(append) = appends.next() {
            let n_bytes = append.n_bytes as usize;
            sound.push(
                &bytes[at..at + n_bytes],
                append.is_companded,
                self.companding,
            );
            at += n_bytes;
            let goes_on = appends.peek().is_some_and(|next| {
                next.end_us <= from_us + LONGEST_US && !is_between(append, next)
            });
            if !goes_on {
                let base64 = std::mem::take(&mut sound).base64(self.companding);
                events.extend(base64.map(|base64| {
                    (
                        append.n,
                        format!(r#"{{"type":"input_audio_buffer.append","audio":"{base64}"}}"#),
                    )
                }));
                from_us = append.end_us;
            }
        }
        events
    }

    /// A long turn does not hold on to its room for the rest of the call.
    fn give_room_back(&mut self) {
        if self.bytes.capacity() > 4 * self.bytes.len().max(4 * STEP_BYTES) {
            self.bytes.shrink_to(2 * self.bytes.len());
            self.appends.shrink_to(2 * self.appends.len());
        }
    }
}
