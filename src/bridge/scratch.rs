//! Buffers that the calls of a thread share.
//!
//! A wake-up of a call runs to its end before another one's begins, and what it writes on the way is of no use after it.
//! Buffers of their own would be a few kilobytes for each call, and no longer in the processor's cache when they are
//! needed again.

use std::cell::Cell;

/// Larger ones are not kept: a delta of 200 ms of PCM is 10 kB.
const MAX_KEPT: usize = 64 * 1024;

/// What a wake-up writes on the way, empty or left over from another call's.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Audio of the caller's current message.
    pub(super) audio: Vec<u8>,
    /// The message to the caller being written.
    pub(super) wire: Vec<u8>,
    /// The frames of one message.
    pub(super) chunk: Vec<u8>,
    /// The append event being written.
    pub(super) append: String,
    /// Of the way that audio takes.
    pub(super) media: MediaScratch,
}

/// What audio is written to on its way.
#[derive(Debug, Default)]
pub(super) struct MediaScratch {
    pub(super) pcm: Vec<i16>,
    pub(super) bytes: Vec<u8>,
}

thread_local! {
    static SHARED: Cell<Option<Scratch>> = const { Cell::new(None) };
}

impl Scratch {
    /// Takes the thread's.
    pub(super) fn take() -> Self {
        SHARED.take().unwrap_or_default()
    }

    /// Leaves it to the next one.
    pub(super) fn leave(mut self) {
        let Self {
            audio,
            wire,
            chunk,
            append,
            media: MediaScratch { pcm, bytes },
        } = &mut self;
        for buffer in [audio, wire, chunk, bytes] {
            if buffer.capacity() > MAX_KEPT {
                *buffer = Vec::new();
            }
        }
        if append.capacity() > MAX_KEPT {
            *append = String::new();
        }
        if pcm.capacity() > MAX_KEPT / 2 {
            *pcm = Vec::new();
        }
        SHARED.set(Some(self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_leaves_the_next_one_takes_unless_it_is_large() {
        let mut scratch = Scratch::take();
        scratch.append.push_str("left");
        scratch.wire = Vec::with_capacity(MAX_KEPT + 1);
        scratch.media.pcm = Vec::with_capacity(MAX_KEPT / 2 + 1);
        scratch.leave();
        let again = Scratch::take();
        assert_eq!(again.append, "left");
        assert_eq!(again.wire.capacity() + again.media.pcm.capacity(), 0);
        assert_eq!(Scratch::take().append, "", "taken by one at a time");
    }
}
