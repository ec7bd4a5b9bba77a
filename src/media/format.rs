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
    /// 12 kHz, a rate of Asterisk's.
    pub const HZ_12000: Self = Self(12_000);
    /// 16 kHz, wideband telephony and G.722.
    pub const HZ_16000: Self = Self(16_000);
    /// 22.05 kHz, a rate of Telnyx's L16.
    pub const HZ_22050: Self = Self(22_050);
    /// 24 kHz, the only PCM rate of the Realtime API.
    pub const HZ_24000: Self = Self(24_000);
    /// 32 kHz, a rate of Asterisk's.
    pub const HZ_32000: Self = Self(32_000);
    /// 44.1 kHz, consumer audio.
    pub const HZ_44100: Self = Self(44_100);
    /// 48 kHz, browsers and Opus.
    pub const HZ_48000: Self = Self(48_000);

    /// Every rate the media path converts between.
    pub const ALL: [Self; 8] = [
        Self::HZ_8000,
        Self::HZ_12000,
        Self::HZ_16000,
        Self::HZ_22050,
        Self::HZ_24000,
        Self::HZ_32000,
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
    pub const fn duration_of(self, n_samples: usize) -> Duration {
        Duration::from_nanos(n_samples as u64 * 1_000_000_000 / self.0 as u64)
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
    /// G.722 at 64 kbit/s, one byte for two samples at 16 kHz.
    G722,
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
            Self::G722 => "g722",
            Self::Opus => "opus",
        }
    }

    /// Bytes of `n_samples`, where that is constant; `None` for Opus.
    #[must_use]
    pub const fn bytes_of(self, n_samples: usize) -> Option<usize> {
        match self {
            Self::Pcm16 => Some(2 * n_samples),
            Self::Ulaw | Self::Alaw => Some(n_samples),
            Self::G722 => Some(n_samples.div_ceil(2)),
            Self::Opus => None,
        }
    }

    /// Whole samples in `n_bytes`, where that can be told from the size alone; `None` for Opus.
    #[must_use]
    pub const fn samples_in(self, n_bytes: usize) -> Option<usize> {
        match self {
            Self::Pcm16 => Some(n_bytes / 2),
            Self::Ulaw | Self::Alaw => Some(n_bytes),
            Self::G722 => Some(2 * n_bytes),
            Self::Opus => None,
        }
    }
}

/// Codec and rate of one direction of a leg; always mono.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AudioFormat {
    /// How samples are written.
    pub codec: Codec,
    /// How many of them make a second. G.711 is 8 kHz unless the peer says otherwise, G.722 16 kHz whatever it says.
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
    /// G.722, which has but one rate.
    pub const G722: Self = Self {
        codec: Codec::G722,
        rate: SampleRate::HZ_16000,
    };

    /// How long `n_bytes` last, where that can be told from the size alone; `None` for Opus.
    #[must_use]
    pub fn duration_of(self, n_bytes: usize) -> Option<Duration> {
        Some(self.rate.duration_of(self.codec.samples_in(n_bytes)?))
    }

    /// Whether these are whole samples, where that can be told.
    #[must_use]
    pub fn is_whole(self, bytes: &[u8]) -> bool {
        self.codec != Codec::Pcm16 || bytes.len().is_multiple_of(2)
    }
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.codec.name(), self.rate)
    }
}
