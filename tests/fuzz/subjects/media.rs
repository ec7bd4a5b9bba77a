//! Audio as peers send it.

use trunkline::media::{AudioFormat, CallerDecoder, Codec, SampleRate, packet_duration};
use trunkline::realtime::{decode_audio, encode_audio};

/// What was decoded is encoded again as it was; what was not leaves nothing behind.
pub(crate) fn base64(bytes: &[u8]) {
    let mut audio = b"before".to_vec();
    match std::str::from_utf8(bytes) {
        Ok(text) if decode_audio(text, &mut audio) => {
            let mut again = Vec::new();
            encode_audio(&audio[6..], &mut again);
            assert_eq!(again, bytes);
        }
        _ => assert_eq!(audio, b"before"),
    }
    let mut text = Vec::new();
    encode_audio(bytes, &mut text);
    let mut back = Vec::new();
    let text = std::str::from_utf8(&text).expect("ASCII");
    assert!(decode_audio(text, &mut back));
    assert_eq!(back, bytes);
}

const RATES: [u32; 8] = [
    8_000, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000,
];

/// The first byte picks a format, the second where packets end; audio comes out at most as long as went in, but
/// for Opus, whose packets say how long they are.
pub(crate) fn caller_audio(bytes: &[u8]) {
    let [pick, cut, rest @ ..] = bytes else {
        return;
    };
    let codecs = [
        Codec::Pcm16,
        Codec::Ulaw,
        Codec::Alaw,
        Codec::Opus,
        Codec::G722,
    ];
    let codec = codecs[usize::from(*pick) % codecs.len()];
    let hz = RATES[usize::from(*pick) / codecs.len() % RATES.len()];
    let rate = SampleRate::new(match codec {
        Codec::Opus => 48_000,
        Codec::G722 => 16_000,
        _ => hz,
    });
    let to = SampleRate::new(24_000).expect("known");
    let Some(rate) = rate else {
        return;
    };
    let Ok(mut decoder) = CallerDecoder::new(AudioFormat { codec, rate }, to) else {
        return;
    };
    let mut pcm = Vec::new();
    let mut longest = 0_usize;
    for packet in rest.chunks(usize::from(*cut).max(1)) {
        let before = pcm.len();
        let decoded = decoder.decode(packet, &mut pcm);
        longest += match codec {
            Codec::Opus => match packet_duration(packet) {
                Ok(duration) => duration.as_millis() as usize * 24 + 24,
                Err(_) => {
                    assert!(decoded.is_err() && pcm.len() == before);
                    0
                }
            },
            _ => {
                assert!(decoded.is_ok());
                // No codec has more than two samples a byte.
                2 * packet.len() * 24_000 / rate.hz() as usize + 24
            }
        };
        assert!(pcm.len() <= longest, "{} samples of {longest}", pcm.len());
        if packet[0] == 0xa5 {
            decoder.lost(1);
            // What covers the lost packet: as long as the one before it, 120 ms at most.
            longest += 24 * 120;
        } else if packet[0] == 0x5a {
            decoder.reset();
        }
    }
}
