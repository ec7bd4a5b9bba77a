//! What can be wrong with audio. Only Opus can be malformed: every byte is a valid G.711 or PCM16 byte.

use super::{AudioFormat, SampleRate};

/// Why audio could not be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// libopus runs at 8, 12, 16, 24 and 48 kHz only.
    #[error("Opus cannot run at {0}")]
    UnsupportedRate(SampleRate),
    /// A frame queue was made for another format than the encoder that fills it.
    #[error("the encoder writes {encoder}, the queue holds {queue}")]
    FormatMismatch {
        /// What the encoder writes.
        encoder: AudioFormat,
        /// What the queue was made for.
        queue: AudioFormat,
    },
    /// An encoder setting is outside of what libopus takes.
    #[error("Opus setting {name} cannot be {value}")]
    OpusSetting {
        /// The setting's name in the configuration.
        name: &'static str,
        /// The refused value.
        value: u32,
    },
    /// The peer sent a packet that is not Opus.
    #[error("malformed Opus packet: {0}")]
    MalformedOpus(#[from] OpusPacketError),
    /// libopus failed on valid input; an internal fault rather than the peer's.
    #[error("libopus failed to {step}: {source}")]
    OpusLibrary {
        /// What was attempted.
        step: &'static str,
        /// What the library said.
        source: audiopus::Error,
    },
}

/// Which rule of RFC 6716, section 3, an Opus packet breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpusPacketError {
    /// No TOC byte (requirement R1).
    #[error("no bytes")]
    Empty,
    /// A code 3 packet without its frame count byte (R6, R7).
    #[error("the frame count is missing")]
    NoFrameCount,
    /// A code 3 packet that announces no frame (R5).
    #[error("zero frames announced")]
    ZeroFrames,
    /// More than 120 ms of audio (R5).
    #[error("longer than 120 ms")]
    TooLong,
    /// The TOC byte is sound, the rest is not: frame lengths that do not add up.
    #[error("frame lengths do not add up")]
    Corrupt,
}
