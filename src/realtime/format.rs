//! The audio formats that a Realtime session can be set to.

use serde::{Deserialize, Serialize};

/// Format of one direction of a session's audio; always mono.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFormat {
    /// Signed 16-bit little-endian at 24 kHz, the only PCM rate there is.
    Pcm24k,
    /// G.711 mu-law at 8 kHz.
    Ulaw,
    /// G.711 A-law at 8 kHz.
    Alaw,
}

impl WireFormat {
    /// The preview shape's name.
    #[must_use]
    pub const fn preview_name(self) -> &'static str {
        match self {
            Self::Pcm24k => "pcm16",
            Self::Ulaw => "g711_ulaw",
            Self::Alaw => "g711_alaw",
        }
    }

    /// The media type in the GA shape's format object.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Pcm24k => "audio/pcm",
            Self::Ulaw => "audio/pcmu",
            Self::Alaw => "audio/pcma",
        }
    }

    /// The GA shape's format object, as JSON text.
    #[must_use]
    pub const fn ga_object(self) -> &'static str {
        match self {
            Self::Pcm24k => r#"{"type":"audio/pcm","rate":24000}"#,
            Self::Ulaw => r#"{"type":"audio/pcmu"}"#,
            Self::Alaw => r#"{"type":"audio/pcma"}"#,
        }
    }

    /// Reads a preview name. Hyphens count as underscores, since the Python `rtclient` writes them.
    #[must_use]
    pub fn from_preview_name(name: &str) -> Option<Self> {
        match name {
            "pcm16" => Some(Self::Pcm24k),
            "g711_ulaw" | "g711-ulaw" => Some(Self::Ulaw),
            "g711_alaw" | "g711-alaw" => Some(Self::Alaw),
            _ => None,
        }
    }

    /// Reads the `type` of a GA format object.
    #[must_use]
    pub fn from_media_type(name: &str) -> Option<Self> {
        match name {
            "audio/pcm" => Some(Self::Pcm24k),
            "audio/pcmu" => Some(Self::Ulaw),
            "audio/pcma" => Some(Self::Alaw),
            _ => None,
        }
    }

    /// Bytes of one millisecond of audio.
    #[must_use]
    pub const fn bytes_per_ms(self) -> usize {
        match self {
            Self::Pcm24k => 48,
            Self::Ulaw | Self::Alaw => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for format in [WireFormat::Pcm24k, WireFormat::Ulaw, WireFormat::Alaw] {
            assert_eq!(
                WireFormat::from_preview_name(format.preview_name()),
                Some(format)
            );
            assert_eq!(
                WireFormat::from_media_type(format.media_type()),
                Some(format)
            );
            assert!(format.ga_object().contains(format.media_type()));
        }
        assert_eq!(
            WireFormat::from_preview_name("g711-ulaw"),
            Some(WireFormat::Ulaw)
        );
        assert_eq!(WireFormat::from_preview_name("opus"), None);
        assert_eq!(WireFormat::from_media_type("audio/opus"), None);
    }
}
