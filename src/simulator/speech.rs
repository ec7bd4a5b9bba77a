//! Spoken sentences that are part of the program, so that a call can be placed without any file.
//!
//! Where they come from and under which licence: `speech/LICENSE.md`.

use std::sync::LazyLock;

use super::wav::Clip;

/// A sentence that is part of the program.
#[derive(Debug)]
pub struct Sample {
    /// Its name on command lines.
    pub name: &'static str,
    /// The words.
    pub text: &'static str,
    /// The sound, 16 kHz.
    pub clip: Clip,
}

/// All sentences; the first is what a caller says when nothing else is asked for.
pub static SAMPLES: LazyLock<[Sample; 3]> = LazyLock::new(|| {
    [
        sample(
            "hours",
            "Could you tell me your opening hours please",
            include_bytes!("speech/hours.wav"),
        ),
        sample(
            "order",
            "I would like to know where my order is",
            include_bytes!("speech/order.wav"),
        ),
        sample(
            "wait",
            "Wait a moment I have another question",
            include_bytes!("speech/wait.wav"),
        ),
    ]
});

/// The sentence of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Sample> {
    SAMPLES.iter().find(|sample| sample.name == name)
}

/// A question, 2.3 s.
#[must_use]
pub fn hours() -> Clip {
    SAMPLES[0].clip.clone()
}

/// A request, 2.2 s.
#[must_use]
pub fn order() -> Clip {
    SAMPLES[1].clip.clone()
}

/// An interruption, 2.2 s.
#[must_use]
pub fn wait() -> Clip {
    SAMPLES[2].clip.clone()
}

fn sample(name: &'static str, text: &'static str, wav: &[u8]) -> Sample {
    let clip = Clip::parse_wav(wav).expect("the embedded files are WAV files, a test reads each");
    Sample { name, text, clip }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{frames_voiced, level_dbfs};

    #[test]
    fn each_sample_is_one_turn_of_speech() {
        for sample in SAMPLES.iter() {
            let clip = &sample.clip;
            assert_eq!(clip.rate, 16_000, "{}", sample.name);
            assert!((1.5..3.0).contains(&clip.duration().as_secs_f64()));
            assert!(level_dbfs(&clip.samples) > -25.0);
            // A default session ends a turn after 200 ms of silence; the reference's default sessions.
            let voiced = frames_voiced(&clip.samples, clip.rate);
            let longest_pause = voiced.split(|v| *v).map(<[bool]>::len).max();
            assert!(
                longest_pause < Some(8),
                "{}: {longest_pause:?}",
                sample.name
            );
            assert_eq!(find(sample.name).map(|s| s.text), Some(sample.text));
        }
        assert!(find("nothing").is_none());
    }
}
