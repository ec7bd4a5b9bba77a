//! What a stretch of audio is: codec and sample rate.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A frame: the stretch of audio that is released to a caller at once.
pub const FRAME: Duration = Duration::from_millis(20);

/// Samples per second of one channel. Not an RTP clock rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleRate(u32);

impl SampleRate {
    /// 8 kHz, the rate of G.711.
    pub const HZ_8000: Self = Self(8_000);
    /// 16 kHz, wideband telephony.
    pub const HZ_16000: Self = Self(16_000);
    /// 24 kHz, the only PCM rate of the Realtime API.
    pub const HZ_24000: Self = Self(24_000);
    /// 44.1 kHz, consumer audio.
    pub const HZ_44100: Self = Self(44_100);
    /// 48 kHz, browsers and Opus.
    pub const HZ_48000: Self = Self(48_000);

    /// Every rate the media path converts between.
    pub const ALL: [Self; 5] = [
        Self::HZ_8000,
        Self::HZ_16000,
        Self::HZ_24000,
        Self::HZ_44100,
        Self::HZ_48000,
    ];

    /// A rate in Hz, if it is one of [`SampleRate::ALL`].
    #[must_use]
    pub fn new(hz: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rate| rate.0 == hz)
    }

    /// The rate in Hz.
    #[must_use]
    pub const fn hz(self) -> u32 {
        self.0
    }

    /// How long `n_samples` of one channel last.
    #[must_use]
    pub fn duration_of(self, n_samples: usize) -> Duration {
        Duration::from_nanos(n_samples as u64 * 1_000_000_000 / u64::from(self.0))
    }
}

impl fmt::Display for SampleRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz", self.0)
    }
}

/// How samples are written on a caller's wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Signed 16-bit little-endian, mono.
    Pcm16,
    /// G.711 mu-law, one byte a sample.
    Ulaw,
    /// G.711 A-law, one byte a sample.
    Alaw,
    /// Opus, one raw packet a message.
    Opus,
}

impl Codec {
    /// The codec's name in the `audio` dialect, in the configuration and in metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcm16 => "pcm16",
            Self::Ulaw => "ulaw",
            Self::Alaw => "alaw",
            Self::Opus => "opus",
        }
    }

    /// Bytes of one sample, where that is constant; `None` for Opus.
    #[must_use]
    pub const fn bytes_per_sample(self) -> Option<usize> {
        match self {
            Self::Pcm16 => Some(2),
            Self::Ulaw | Self::Alaw => Some(1),
            Self::Opus => None,
        }
    }
}

/// Codec and rate of one direction of a leg; always mono.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AudioFormat {
    /// How samples are written.
    pub codec: Codec,
    /// How many of them make a second. G.711 is 8 kHz unless the peer says otherwise.
    pub rate: SampleRate,
}

impl AudioFormat {
    /// PCM16 at 24 kHz, what the Realtime API speaks by default.
    pub const MODEL_PCM: Self = Self {
        codec: Codec::Pcm16,
        rate: SampleRate::HZ_24000,
    };
    /// Mu-law at 8 kHz, what phones in North America and Twilio speak.
    pub const ULAW_8K: Self = Self {
        codec: Codec::Ulaw,
        rate: SampleRate::HZ_8000,
    };

    /// How long `n_bytes` last, where that can be told from the size alone; `None` for Opus.
    #[must_use]
    pub fn duration_of(self, n_bytes: usize) -> Option<Duration> {
        let bytes_per_sample = self.codec.bytes_per_sample()?;
        Some(self.rate.duration_of(n_bytes / bytes_per_sample))
    }

    /// Whether these are whole samples, where that can be told.
    #[must_use]
    pub fn is_whole(self, bytes: &[u8]) -> bool {
        let size = self.codec.bytes_per_sample();
        size.is_none_or(|size| bytes.len().is_multiple_of(size))
    }
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.codec.name(), self.rate)
    }
}
