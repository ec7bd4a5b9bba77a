//! The playout queue of one call: whole 20 ms frames in the caller's codec, waiting for the pacer.
//!
//! Frames lie one behind the other in one buffer. It keeps no time: the pacer decides when a frame leaves.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::opus::MAX_PACKET_BYTES;
use super::{AudioFormat, FRAME};

/// Frames of one format, first in, first out, up to a length in time.
pub struct FrameQueue {
    format: AudioFormat,
    max_frames: usize,
    /// Frames that left, then frames that wait.
    bytes: Vec<u8>,
    /// Where in `bytes` the first waiting frame begins.
    head: usize,
    sizes: Sizes,
    overrun_frames: u64,
}

enum Sizes {
    /// PCM, G.711 and G.722.
    Fixed(usize),
    /// Opus: the size of each waiting frame.
    Each(VecDeque<u16>),
}

impl FrameQueue {
    /// An empty queue that holds `max` of audio, rounded down to whole frames.
    #[must_use]
    pub fn new(format: AudioFormat, max: Duration) -> Self {
        let sizes = match frame_bytes(format) {
            Some(n_bytes) => Sizes::Fixed(n_bytes),
            None => Sizes::Each(VecDeque::new()),
        };
        Self {
            format,
            max_frames: usize::try_from(max.as_nanos() / FRAME.as_nanos()).unwrap_or(usize::MAX),
            bytes: Vec::new(),
            head: 0,
            sizes,
            overrun_frames: 0,
        }
    }

    /// What the frames hold.
    #[must_use]
    pub fn format(&self) -> AudioFormat {
        self.format
    }

    /// Appends one frame of 20 ms; `false` and counted as overrun if the queue is full.
    ///
    /// A frame of another size than the format's would shift all later ones and is refused in the same way.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        let fits = match &self.sizes {
            Sizes::Fixed(n_bytes) => frame.len() == *n_bytes,
            Sizes::Each(_) => !frame.is_empty() && frame.len() <= MAX_PACKET_BYTES,
        };
        debug_assert!(
            fits,
            "{} bytes are no frame of {}",
            frame.len(),
            self.format
        );
        if !fits || self.len() >= self.max_frames {
            self.overrun_frames += 1;
            return false;
        }
        self.make_room(frame.len());
        self.bytes.extend_from_slice(frame);
        if let Sizes::Each(sizes) = &mut self.sizes {
            // At most MAX_PACKET_BYTES, checked above.
            sizes.push_back(frame.len() as u16);
        }
        true
    }

    /// The frame to be played next.
    #[must_use]
    pub fn front(&self) -> Option<&[u8]> {
        self.bytes.get(self.head..self.head + self.front_size()?)
    }

    /// Removes the frame to be played next; `false` if there is none.
    pub fn pop(&mut self) -> bool {
        let Some(n_bytes) = self.front_size() else {
            return false;
        };
        self.head += n_bytes;
        if let Sizes::Each(sizes) = &mut self.sizes {
            sizes.pop_front();
        }
        if self.is_empty() {
            self.release();
        }
        true
    }

    /// Throws everything away and says how many frames that were.
    pub fn clear(&mut self) -> usize {
        let n_frames = self.len();
        if let Sizes::Each(sizes) = &mut self.sizes {
            sizes.clear();
        }
        self.release();
        n_frames
    }

    /// Waiting frames.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.sizes {
            Sizes::Fixed(n_bytes) => (self.bytes.len() - self.head) / n_bytes,
            Sizes::Each(sizes) => sizes.len(),
        }
    }

    /// Whether no frame waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head == self.bytes.len()
    }

    /// Waiting audio.
    #[must_use]
    pub fn queued(&self) -> Duration {
        FRAME * u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    /// Frames refused since the queue was made.
    #[must_use]
    pub fn overrun_frames(&self) -> u64 {
        self.overrun_frames
    }

    fn front_size(&self) -> Option<usize> {
        match &self.sizes {
            Sizes::Fixed(n_bytes) => (!self.is_empty()).then_some(*n_bytes),
            Sizes::Each(sizes) => sizes.front().map(|&n_bytes| n_bytes.into()),
        }
    }

    /// Before the buffer grows, moves the waiting frames to its start if that frees at least half of it, so that
    /// a byte is moved less than once on average.
    fn make_room(&mut self, n_bytes: usize) {
        let is_full = self.bytes.len() + n_bytes > self.bytes.capacity();
        if is_full && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Empties the buffer and gives back what a long reply made it grow to.
    fn release(&mut self) {
        self.bytes.clear();
        self.head = 0;
        self.bytes.shrink_to(KEPT_BYTES);
    }
}

/// What waits, never how it sounds: audio stays out of logs.
impl fmt::Debug for FrameQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FrameQueue({}, {:?} of {:?})",
            self.format,
            self.queued(),
            FRAME * u32::try_from(self.max_frames).unwrap_or(u32::MAX)
        )
    }
}

/// Memory that an empty queue keeps: 8 s of G.711, 1.3 s of PCM16 at 24 kHz.
const KEPT_BYTES: usize = 64 * 1024;

/// Bytes of one 20 ms frame; `None` for Opus.
pub(crate) fn frame_bytes(format: AudioFormat) -> Option<usize> {
    format.codec.bytes_of(format.rate.hz() as usize / 50)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Codec, SampleRate};

    const OPUS: AudioFormat = AudioFormat {
        codec: Codec::Opus,
        rate: SampleRate::HZ_48000,
    };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn frames_have_20_ms() {
        fn check(codec: Codec, rate: SampleRate, expected: Option<usize>) {
            assert_eq!(frame_bytes(AudioFormat { codec, rate }), expected);
        }
        check(Codec::Ulaw, SampleRate::HZ_8000, Some(160));
        check(Codec::Alaw, SampleRate::HZ_16000, Some(320));
        check(Codec::Pcm16, SampleRate::HZ_24000, Some(960));
        check(Codec::Pcm16, SampleRate::HZ_44100, Some(1_764));
        check(Codec::Pcm16, SampleRate::HZ_22050, Some(882));
        check(Codec::G722, SampleRate::HZ_16000, Some(160));
        check(Codec::Opus, SampleRate::HZ_48000, None);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_counted() {
        let mut queue = FrameQueue::new(AudioFormat::ULAW_8K, Duration::from_millis(59));
        assert!(queue.push(&[1; 160]));
        assert!(queue.push(&[2; 160]));
        assert!(!queue.push(&[3; 160]));
        assert_eq!(queue.overrun_frames(), 1);
        assert_eq!(queue.queued(), Duration::from_millis(40));
        assert_eq!(queue.front(), Some(&[1; 160][..]));
        assert!(queue.pop());
        assert!(queue.push(&[4; 160]));
        let mut out = Vec::new();
        while let Some(frame) = queue.front() {
            out.extend_from_slice(frame);
            queue.pop();
        }
        assert_eq!(out, [[2; 160], [4; 160]].concat());
    }

    #[test]
    fn clear_says_how_much_was_thrown_away() {
        let mut queue = FrameQueue::new(OPUS, SECOND);
        assert_eq!(queue.clear(), 0);
        queue.push(&[1; 3]);
        queue.push(&[2; 70]);
        queue.pop();
        queue.push(&[3; 5]);
        assert_eq!(queue.clear(), 2);
        assert_eq!((queue.len(), queue.front()), (0, None));
        assert!(!queue.pop());
    }

    #[test]
    fn memory_is_given_back_after_a_long_reply() {
        let mut queue = FrameQueue::new(AudioFormat::MODEL_PCM, 60 * SECOND);
        while queue.push(&[0; 960]) {}
        assert!(queue.bytes.capacity() >= 60 * 48_000);
        while queue.pop() {}
        assert!(queue.bytes.capacity() <= KEPT_BYTES);
        while queue.push(&[0; 960]) {}
        queue.clear();
        assert!(queue.bytes.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn a_queue_that_never_runs_empty_does_not_grow() {
        let mut queue = FrameQueue::new(AudioFormat::ULAW_8K, SECOND);
        for n in 0..10_000_u32 {
            assert!(queue.push(&[n as u8; 160]));
            if n >= 4 {
                assert_eq!(queue.front(), Some(&[(n - 4) as u8; 160][..]));
                queue.pop();
            }
        }
        assert!(queue.bytes.capacity() <= 20 * 160);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        Pop,
        Clear,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => proptest::collection::vec(any::<u8>(), 1..200).prop_map(Step::Push),
            4 => Just(Step::Pop),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_bounded_list(steps in proptest::collection::vec(any_step(), 0..200)) {
            let mut queue = FrameQueue::new(OPUS, FRAME * 10);
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push(frame) => {
                        prop_assert_eq!(queue.push(&frame), model.len() < 10);
                        if model.len() < 10 {
                            model.push_back(frame);
                        }
                    }
                    Step::Pop => prop_assert_eq!(queue.pop(), model.pop_front().is_some()),
                    Step::Clear => {
                        prop_assert_eq!(queue.clear(), model.len());
                        model.clear();
                    }
                }
                prop_assert_eq!(queue.front(), model.front().map(Vec::as_slice));
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
        }
    }
}
