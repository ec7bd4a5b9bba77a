//! Audio as data: formats, codecs, resampling, playout frames, tones. Knows nothing of calls, sockets or clocks.

mod error;
mod format;
mod opus;
mod resample;
pub mod tone;

pub use error::{MediaError, OpusPacketError};
pub use format::{AudioFormat, Codec, SampleRate};
pub use opus::{OpusDecoder, OpusEncoder, OpusSettings, packet_duration};
pub use resample::Resampler;
