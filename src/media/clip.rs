//! A recorded announcement: mono PCM16 from a WAV file.

use std::fmt;
use std::io::Cursor;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::SampleRate;

/// Longest announcement: longer, and it costs more memory than calls do.
const MAX_LENGTH: Duration = Duration::from_secs(30);

/// What a caller hears where no deployment is left, unless the agent has another text. Where it comes from
/// and under which licence: `clips/LICENSE.md`.
static APOLOGY: LazyLock<Clip> = LazyLock::new(|| {
    Clip::parse_wav(include_bytes!("clips/apology.wav"))
        .expect("the embedded file is a WAV file, a test reads it")
});

/// Mono PCM16 audio. Cloning is cheap: the samples are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Clip {
    samples: Arc<[i16]>,
    rate: SampleRate,
}

/// Why a WAV file cannot be an announcement.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// It is no WAV file.
    #[error("no readable WAV file: {0}")]
    Wav(#[from] hound::Error),
    /// It has more than one channel, or samples of another form.
    #[error("not mono with integer samples of 16 bit; convert with: sox in.wav -c 1 -b 16 out.wav")]
    Form,
    /// Nothing here converts that rate.
    #[error(
        "{0} Hz is none of 8000, 16000, 24000, 44100 and 48000 Hz; convert with: sox in.wav -r 16000 out.wav"
    )]
    Rate(u32),
    /// It says nothing, or too much.
    #[error("not between 1 sample and 30 s long")]
    Length,
}

impl Clip {
    /// Reads a WAV file that is in memory.
    ///
    /// # Errors
    ///
    /// If it cannot be an announcement.
    pub fn parse_wav(bytes: &[u8]) -> Result<Self, ClipError> {
        let mut reader = hound::WavReader::new(Cursor::new(bytes))?;
        let spec = reader.spec();
        let is_pcm16 = spec.sample_format == hound::SampleFormat::Int && spec.bits_per_sample == 16;
        if spec.channels != 1 || !is_pcm16 {
            return Err(ClipError::Form);
        }
        let rate = SampleRate::new(spec.sample_rate).ok_or(ClipError::Rate(spec.sample_rate))?;
        let n_samples = reader.duration() as usize;
        if n_samples == 0 || rate.duration_of(n_samples) > MAX_LENGTH {
            return Err(ClipError::Length);
        }
        let samples = reader.samples::<i16>().collect::<Result<_, _>>()?;
        Ok(Self { samples, rate })
    }

    /// The apology that comes with the program.
    #[must_use]
    pub fn apology() -> Self {
        APOLOGY.clone()
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// Their rate.
    #[must_use]
    pub fn rate(&self) -> SampleRate {
        self.rate
    }

    /// How long it lasts.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.rate.duration_of(self.samples.len())
    }
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clip({:?} at {})", self.duration(), self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tone::level_dbfs;

    fn wav(channels: u16, sample_rate: u32, bits_per_sample: u16, n_samples: usize) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels,
            sample_rate,
            bits_per_sample,
            sample_format: hound::SampleFormat::Int,
        };
        let mut out = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut out, spec).expect("a header");
        (0..n_samples).for_each(|_| writer.write_sample(1).expect("a sample"));
        writer.finalize().expect("an end");
        out.into_inner()
    }

    fn check(bytes: &[u8], expected: &str) {
        match Clip::parse_wav(bytes) {
            Ok(clip) => assert_eq!(format!("{clip:?}"), expected),
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    }

    #[test]
    fn a_file_is_an_announcement_or_says_why_not() {
        check(&wav(1, 16_000, 16, 8_000), "Clip(500ms at 16000 Hz)");
        check(&wav(2, 16_000, 16, 8_000), "sox in.wav -c 1 -b 16");
        check(&wav(1, 16_000, 8, 8_000), "sox in.wav -c 1 -b 16");
        check(&wav(1, 22_050, 16, 11_025), "Clip(500ms at 22050 Hz)");
        check(&wav(1, 11_025, 16, 8_000), "11025 Hz");
        check(&wav(1, 8_000, 16, 0), "1 sample");
        check(&wav(1, 8_000, 16, 240_001), "30 s");
        check(b"hello", "WAV");
        check(&wav(1, 8_000, 16, 80)[..60], "WAV");
    }

    #[test]
    fn the_embedded_apology_is_speech() {
        let clip = Clip::apology();
        assert!(
            (1.5..4.0).contains(&clip.duration().as_secs_f64()),
            "{clip:?}"
        );
        assert!(level_dbfs(clip.samples()) > -25.0);
    }
}
