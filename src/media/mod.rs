//! Audio as data: formats, codecs, resampling, playout frames, tones. Knows nothing of calls, sockets or clocks.

mod format;
mod resample;
pub mod tone;

pub use format::{AudioFormat, Codec, SampleRate};
pub use resample::Resampler;
