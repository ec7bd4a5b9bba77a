//! Audio as data: formats, codecs, resampling, pacing. Knows nothing of calls, sockets or clocks.

mod format;

pub use format::{AudioFormat, Codec, SampleRate};
