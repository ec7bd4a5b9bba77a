//! Stretches of speech as values, and WAV files of PCM16.
//!
//! Reads what people have (any rate, mono or stereo, 16 bit) and writes mono. It converts no other
//! sample formats: `sox in.wav -b 16 out.wav` does that.

use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::phone_codec::resample;

/// Mono PCM16 audio of any rate. Cloning is cheap: the samples are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// The samples.
    pub samples: Arc<[i16]>,
    /// Samples per second, in Hz.
    pub rate: u32,
}

/// Why a WAV file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// The file could not be opened, or is not a WAV file.
    #[error("not a readable WAV file: {0}")]
    File(#[from] hound::Error),
    /// The samples are not 16 bit integers.
    #[error(
        "the samples are {bits} bit {kind}, only 16 bit integers are read; convert with: sox in.wav -b 16 out.wav"
    )]
    SampleFormat {
        /// Bits of one sample.
        bits: u16,
        /// "integer" or "float".
        kind: &'static str,
    },
    /// More than two channels, or none.
    #[error("the file has {0} channels, only mono and stereo are read")]
    Channels(u16),
    /// A rate that nothing here can convert.
    #[error("a sample rate of {0} Hz is not between 4000 and 192000 Hz")]
    Rate(u32),
}

impl Clip {
    /// A clip of these samples; `rate` in Hz, at least 1.
    #[must_use]
    pub fn new(samples: impl Into<Arc<[i16]>>, rate: u32) -> Self {
        Self {
            samples: samples.into(),
            rate: rate.max(1),
        }
    }

    /// How long it lasts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.samples.len() as u64 * 1_000_000_000 / u64::from(self.rate))
    }

    /// The same sound at another rate, in Hz. Costs nothing when the rate is the same.
    #[must_use]
    pub fn at_rate(&self, rate: u32) -> Self {
        if rate == self.rate {
            return self.clone();
        }
        Self::new(resample(&self.samples, self.rate, rate), rate)
    }

    /// Reads a WAV file.
    ///
    /// # Errors
    /// See [`WavError`].
    pub fn read_wav(path: &Path) -> Result<Self, WavError> {
        Self::from_reader(hound::WavReader::open(path)?)
    }

    /// Reads a WAV file that is already in memory.
    ///
    /// # Errors
    /// See [`WavError`].
    pub fn parse_wav(bytes: &[u8]) -> Result<Self, WavError> {
        Self::from_reader(hound::WavReader::new(Cursor::new(bytes))?)
    }

    /// Writes a mono 16 bit WAV file, replacing what is there.
    ///
    /// # Errors
    /// [`WavError::File`] if the file cannot be written.
    pub fn write_wav(&self, path: &Path) -> Result<(), WavError> {
        Ok(self.write_to(hound::WavWriter::create(path, self.spec())?)?)
    }

    fn spec(&self) -> hound::WavSpec {
        hound::WavSpec {
            channels: 1,
            sample_rate: self.rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        }
    }

    fn write_to<W: Write + Seek>(&self, mut writer: hound::WavWriter<W>) -> hound::Result<()> {
        for &sample in self.samples.iter() {
            writer.write_sample(sample)?;
        }
        writer.finalize()
    }

    fn from_reader<R: Read>(reader: hound::WavReader<R>) -> Result<Self, WavError> {
        let spec = reader.spec();
        if spec.bits_per_sample != 16 || spec.sample_format != hound::SampleFormat::Int {
            return Err(WavError::SampleFormat {
                bits: spec.bits_per_sample,
                kind: match spec.sample_format {
                    hound::SampleFormat::Int => "integer",
                    hound::SampleFormat::Float => "float",
                },
            });
        }
        if !(4_000..=192_000).contains(&spec.sample_rate) {
            return Err(WavError::Rate(spec.sample_rate));
        }
        let interleaved = reader
            .into_samples::<i16>()
            .collect::<Result<Vec<_>, _>>()?;
        let samples = match spec.channels {
            1 => interleaved,
            2 => interleaved.chunks_exact(2).map(middle).collect(),
            other => return Err(WavError::Channels(other)),
        };
        Ok(Self::new(samples, spec.sample_rate))
    }
}

/// Left and right as one.
fn middle(pair: &[i16]) -> i16 {
    i16::midpoint(pair[0], pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(clip: &Clip, spec: hound::WavSpec) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        clip.write_to(hound::WavWriter::new(&mut bytes, spec).unwrap())
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_clip_survives_its_file() {
        let clip = Clip::new(vec![0, 1, -1, i16::MAX, i16::MIN], 22_050);
        assert_eq!(Clip::parse_wav(&written(&clip, clip.spec())).unwrap(), clip);
    }

    #[test]
    fn stereo_becomes_mono() {
        let pairs = Clip::new(vec![100, 300, -100, -300], 8_000);
        let spec = hound::WavSpec {
            channels: 2,
            ..pairs.spec()
        };
        let mono = Clip::parse_wav(&written(&pairs, spec)).unwrap();
        assert_eq!(mono, Clip::new(vec![200, -200], 8_000));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(matches!(
            Clip::parse_wav(b"not a wav file at all"),
            Err(WavError::File(_))
        ));
        let clip = Clip::new(vec![1, 2, 3], 8_000);
        let spec = hound::WavSpec {
            channels: 3,
            ..clip.spec()
        };
        assert!(matches!(
            Clip::parse_wav(&written(&clip, spec)),
            Err(WavError::Channels(3))
        ));
    }
}
