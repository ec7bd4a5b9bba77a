//! The caller's channel of PCM16 in binary messages of any length, as FreeSWITCH's modules send it (telephony
//! reference 10): alone or mixed, or interleaved with the callee's, and then it comes first.

/// Takes the caller's samples out of what comes.
#[derive(Clone, Debug, Default)]
pub(super) struct Interleaved {
    is_stereo: bool,
    /// The beginning of a frame, whose rest comes with the next message: at most three bytes.
    begun: Vec<u8>,
}

impl Interleaved {
    /// The reader of a stream that was started as `mono`, `mixed` or `stereo`.
    pub(super) fn of(mix: Option<&str>) -> Self {
        Self {
            is_stereo: mix.is_some_and(|mix| mix.eq_ignore_ascii_case("stereo")),
            begun: Vec::new(),
        }
    }

    /// Appends the caller's samples to `audio`, whole ones only.
    pub(super) fn read(&mut self, bytes: &[u8], audio: &mut Vec<u8>) {
        let length = if self.is_stereo { 4 } else { 2 };
        let missing = (length - self.begun.len()) % length;
        let (completes, rest) = bytes.split_at(missing.min(bytes.len()));
        self.begun.extend_from_slice(completes);
        if self.begun.len() == length {
            audio.extend_from_slice(&self.begun[..2]);
            self.begun.clear();
        }
        if rest.is_empty() {
            return;
        }
        let (whole, begun) = rest.split_at(rest.len() - rest.len() % length);
        if self.is_stereo {
            let frames = whole.as_chunks::<4>().0;
            audio.extend(frames.iter().flat_map(|frame| [frame[0], frame[1]]));
        } else {
            audio.extend_from_slice(whole);
        }
        self.begun.extend_from_slice(begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is cut, the same comes out; an odd length shifts nothing (telephony reference 14.4).
    fn check(mix: &str, expected: &[u8]) {
        let bytes: Vec<u8> = (0..16).collect();
        for first in 0..=16 {
            for second in first..=16 {
                let (mut reader, mut audio) = (Interleaved::of(Some(mix)), Vec::new());
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    reader.read(part, &mut audio);
                    assert!(audio.len().is_multiple_of(2));
                }
                assert_eq!(audio, expected, "{mix} {first} {second}");
            }
        }
    }

    #[test]
    fn the_callers_samples_are_taken() {
        check("mono", &(0..16).collect::<Vec<u8>>());
        check("mixed", &(0..16).collect::<Vec<u8>>());
        check("stereo", &[0, 1, 4, 5, 8, 9, 12, 13]);
    }
}
