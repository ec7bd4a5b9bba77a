//! Base64 of audio, as both legs carry it: the standard alphabet with padding, by the SIMD engine. The
//! crate's `STANDARD` constant is four times slower (costs reference 5).

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::PAD;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64: LazyLock<base64::engine::Simd> =
    LazyLock::new(|| base64::engine::Simd::standard(PAD));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static BASE64: LazyLock<base64::engine::GeneralPurpose> =
    LazyLock::new(|| base64::engine::GeneralPurpose::new(&base64::alphabet::STANDARD, PAD));

/// Appends the audio that `text` stands for. False, and nothing appended, if it is not base64.
pub fn decode_audio(text: &str, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    let decoded = BASE64.decode_vec(text, out).is_ok();
    if !decoded {
        out.truncate(begin);
    }
    decoded
}

/// How many bytes `text` stands for, if it is base64.
pub(super) fn audio_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|char| *char == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// Hands on the audio that `text` stands for, up to `N` bytes at a time. False if it is not base64: what was handed on
/// is no audio then.
pub(super) fn decode_audio_by<const N: usize>(text: &str, mut each: impl FnMut(&[u8])) -> bool {
    let mut bytes = [0; N];
    text.as_bytes().chunks(N / 3 * 4).all(|chars| {
        let n_bytes = BASE64.decode_slice(chars, &mut bytes);
        n_bytes.map(|n_bytes| each(&bytes[..n_bytes])).is_ok()
    })
}

/// Appends the base64 of `audio`.
///
/// # Panics
///
/// Never: the room is made before it is used.
pub fn encode_audio(audio: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + audio.len().div_ceil(3) * 4, 0);
    BASE64
        .encode_slice(audio, &mut out[begin..])
        .expect("four characters for every three bytes begun are enough");
}

/// Writes the base64 of `audio` into `chars`, which has room for it, and returns it.
///
/// # Panics
///
/// If `chars` is shorter than four characters for every three bytes begun.
pub(super) fn encode_into<'a>(audio: &[u8], chars: &'a mut [u8]) -> &'a str {
    let length = BASE64
        .encode_slice(audio, chars)
        .expect("the caller made room");
    std::str::from_utf8(&chars[..length]).expect("base64 is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_is_handed_on_in_blocks() {
        let audio: Vec<u8> = (0..=255).collect();
        for n_bytes in [0, 1, 2, 3, 11, 12, 13, 24, 256] {
            let mut text = Vec::new();
            encode_audio(&audio[..n_bytes], &mut text);
            let text = String::from_utf8(text).expect("ASCII");
            assert_eq!(audio_len(&text), n_bytes);
            let mut blocks = Vec::new();
            assert!(decode_audio_by::<12>(&text, |block| blocks.push(block.to_vec())));
            assert_eq!(blocks.len(), n_bytes.div_ceil(12));
            assert_eq!(blocks.concat(), audio[..n_bytes]);
        }
        assert!(!decode_audio_by::<12>("AAAAAAAAAAAAAAAAA", |_| {}));
    }

    #[test]
    fn audio_survives_and_damage_is_noticed() {
        let audio: Vec<u8> = (0..=255).collect();
        let mut text = Vec::new();
        encode_audio(&audio, &mut text);
        let text = String::from_utf8(text).expect("ASCII");
        let mut decoded = b"before".to_vec();
        assert!(decode_audio(&text, &mut decoded));
        assert_eq!(&decoded[6..], audio);
        for damaged in [
            &text[1..],
            &text[..text.len() - 1],
            "AA=A",
            "A",
            "_-__",
            "AAA\n",
        ] {
            assert!(!decode_audio(damaged, &mut decoded), "{damaged}");
            assert_eq!(decoded.len(), 6 + 256);
        }
    }
}
