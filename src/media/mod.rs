//! Audio as data: formats, codecs, resampling, playout frames, tones. Knows nothing of calls, sockets or clocks.

mod clip;
mod error;
mod fir;
mod format;
mod frame_queue;
mod g711;
mod g722;
mod gap;
mod opus;
mod pacer;
#[cfg(test)]
mod quality;
mod replay;
mod resample;
pub mod tone;
mod transcode;

pub use clip::{Clip, ClipError};
pub use error::{MediaError, OpusPacketError};
pub use format::{AudioFormat, Codec, FRAME, SampleRate};
pub use frame_queue::FrameQueue;
pub use g711::{compand, expand};
pub use g722::{G722Decoder, G722Encoder};
pub use gap::{GapFiller, GapSettings};
pub use opus::{OpusDecoder, OpusEncoder, OpusSettings, packet_duration};
pub use pacer::{Pacer, Release};
pub use replay::{Piece, Replay};
pub use resample::Resampler;
pub use transcode::{CallerDecoder, CallerEncoder, silence_byte};
