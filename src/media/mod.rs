//! Audio as data: formats, codecs, resampling, pacing. Knows nothing of calls, sockets or clocks.

mod format;
mod gap;
mod pacer;

pub use format::{AudioFormat, Codec, SampleRate};
pub use gap::{GapFiller, GapSettings};
pub use pacer::{FRAME, Pacer, Release};
