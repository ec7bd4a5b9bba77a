//! Between a caller's codec and PCM: one decoder and one encoder for each call, set up once.
//!
//! Both are chains of a codec and a resampler, and print themselves as such. They know no queue limits and no time.

use std::fmt;
use std::time::Duration;

use super::frame_queue::frame_bytes;
use super::g711::Law;
use super::g722;
use super::opus::{MAX_PACKET_BYTES, OpusDecoder, OpusEncoder, OpusSettings};
use super::{
    AudioFormat, Codec, FRAME, FrameQueue, G722Decoder, G722Encoder, MediaError, Resampler,
    SampleRate,
};

/// Turns what a caller sends into PCM.
pub struct CallerDecoder {
    format: AudioFormat,
    codec: DecoderCodec,
    resampler: Resampler,
    /// Decoded audio that waits for the resampler; unused by PCM, G.711, and where libopus writes at the wanted rate.
    scratch: Vec<i16>,
    odd_bytes: u64,
}

enum DecoderCodec {
    /// With the first byte of a sample that was cut in half.
    Pcm16(Option<u8>),
    G711(Law),
    G722(Box<G722Decoder>),
    Opus(OpusDecoder),
}

impl CallerDecoder {
    /// A decoder of `format` that writes samples at `to`.
    ///
    /// The rate of an Opus or G.722 `format` is not looked at: libopus decodes every stream at any of its rates, G.722
    /// has but one.
    ///
    /// # Errors
    /// [`MediaError::OpusLibrary`] if libopus cannot be set up.
    pub fn new(format: AudioFormat, to: SampleRate) -> Result<Self, MediaError> {
        let codec = match format.codec {
            Codec::Pcm16 => DecoderCodec::Pcm16(None),
            Codec::Ulaw => DecoderCodec::G711(Law::Mu),
            Codec::Alaw => DecoderCodec::G711(Law::A),
            Codec::G722 => DecoderCodec::G722(Box::default()),
            Codec::Opus => DecoderCodec::Opus(OpusDecoder::new(native_rate(to))?),
        };
        let from = match format.codec {
            Codec::Opus => native_rate(to),
            Codec::G722 => SampleRate::HZ_16000,
            Codec::Pcm16 | Codec::Ulaw | Codec::Alaw => format.rate,
        };
        Ok(Self {
            format,
            codec,
            resampler: Resampler::new(from, to),
            scratch: Vec::new(),
            odd_bytes: 0,
        })
    }

    /// Appends the audio of one message to `out`.
    ///
    /// PCM16 may be cut anywhere: half a sample waits for the next message.
    ///
    /// # Errors
    /// [`MediaError::MalformedOpus`] if an Opus message is no packet. PCM, G.711 and G.722 cannot fail.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), MediaError> {
        match &mut self.codec {
            DecoderCodec::Pcm16(carry) => {
                self.odd_bytes += (payload.len() % 2) as u64;
                decode_pcm16(payload, carry, &mut self.resampler, out);
            }
            DecoderCodec::G711(law) => {
                let mut block = [0; BLOCK];
                for codes in payload.chunks(BLOCK) {
                    law.decode(codes, &mut block);
                    self.resampler.process(&block[..codes.len()], out);
                }
            }
            DecoderCodec::G722(decoder) => {
                for codes in payload.chunks(BLOCK / 2) {
                    self.scratch.clear();
                    decoder.decode(codes, &mut self.scratch);
                    self.resampler.process(&self.scratch, out);
                }
            }
            DecoderCodec::Opus(decoder) if self.resampler.is_identity() => {
                decoder.decode(payload, out)?;
            }
            DecoderCodec::Opus(decoder) => {
                self.scratch.clear();
                decoder.decode(payload, &mut self.scratch)?;
                self.resampler.process(&self.scratch, out);
            }
        }
        Ok(())
    }

    /// Says that `n_packets` did not arrive before the next one. Only Opus can cover that; other codecs ignore it.
    pub fn lost(&mut self, n_packets: u32) {
        if let DecoderCodec::Opus(decoder) = &mut self.codec {
            decoder.lost(n_packets);
        }
    }

    /// Forgets the stream so far, so that nothing of it is heard in what comes next.
    pub fn reset(&mut self) {
        self.resampler.reset();
        match &mut self.codec {
            DecoderCodec::Pcm16(carry) => *carry = None,
            DecoderCodec::G711(_) => {}
            DecoderCodec::G722(decoder) => decoder.reset(),
            DecoderCodec::Opus(decoder) => decoder.reset(),
        }
    }

    /// Messages of PCM16 that had an odd number of bytes.
    #[must_use]
    pub fn odd_bytes(&self) -> u64 {
        self.odd_bytes
    }

    /// What the chain adds to the way of a sound; an Opus encoder tells the delay of both its sides.
    #[must_use]
    pub fn delay(&self) -> Duration {
        let codec = match &self.codec {
            DecoderCodec::G722(_) => g722::DELAY,
            DecoderCodec::Pcm16(_) | DecoderCodec::G711(_) | DecoderCodec::Opus(_) => {
                Duration::ZERO
            }
        };
        self.resampler.delay() + codec
    }
}

/// The chain, as in `ulaw 8000 Hz -> pcm16 24000 Hz (fir, 3.0 ms)`.
impl fmt::Display for CallerDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.resampler.to_rate();
        write!(f, "{} -> pcm16 {to} ({})", self.format, self.resampler)
    }
}

impl fmt::Debug for CallerDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerDecoder({self})")
    }
}

/// Samples converted at a time, on the stack: 20 ms at 24 kHz.
const BLOCK: usize = 480;

fn decode_pcm16(
    mut payload: &[u8],
    carry: &mut Option<u8>,
    resampler: &mut Resampler,
    out: &mut Vec<i16>,
) {
    if let (Some(low), Some((&high, rest))) = (*carry, payload.split_first()) {
        *carry = None;
        resampler.process(&[i16::from_le_bytes([low, high])], out);
        payload = rest;
    }
    let (samples, rest) = payload.as_chunks::<2>();
    let mut block = [0; BLOCK];
    for samples in samples.chunks(BLOCK) {
        for (value, bytes) in block.iter_mut().zip(samples) {
            *value = i16::from_le_bytes(*bytes);
        }
        resampler.process(&block[..samples.len()], out);
    }
    if let [low] = rest {
        *carry = Some(*low);
    }
}

/// The rate at which libopus serves a leg of `rate`: the same, if it has that, else its highest.
fn native_rate(rate: SampleRate) -> SampleRate {
    match rate.hz() {
        8_000 | 12_000 | 16_000 | 24_000 => rate,
        _ => SampleRate::HZ_48000,
    }
}

/// Turns replies into whole 20 ms frames of what a caller hears.
pub struct CallerEncoder {
    format: AudioFormat,
    codec: EncoderCodec,
    resampler: Resampler,
    /// Resampled audio of the frame that is begun.
    pending: Vec<i16>,
    /// The frame being written.
    frame: Vec<u8>,
    /// Samples of the reply so far, at the rate they came with. Zero between replies.
    n_in: usize,
    /// Samples of the reply that went into frames, at the caller's rate.
    n_framed: usize,
}

enum EncoderCodec {
    Pcm16,
    G711(Law),
    G722(Box<G722Encoder>),
    Opus(OpusEncoder),
}

impl CallerEncoder {
    /// An encoder of `format` for samples at `from`. `opus` matters to Opus callers only.
    ///
    /// The rate of an Opus or G.722 `format` is not looked at: each decoder of Opus picks its own, G.722 has but one.
    ///
    /// # Errors
    /// [`MediaError::OpusSetting`] for a setting out of range, [`MediaError::OpusLibrary`] if libopus cannot be set up.
    pub fn new(
        from: SampleRate,
        format: AudioFormat,
        opus: OpusSettings,
    ) -> Result<Self, MediaError> {
        let (codec, to) = match format.codec {
            Codec::Pcm16 => (EncoderCodec::Pcm16, format.rate),
            Codec::Ulaw => (EncoderCodec::G711(Law::Mu), format.rate),
            Codec::Alaw => (EncoderCodec::G711(Law::A), format.rate),
            Codec::G722 => (EncoderCodec::G722(Box::default()), SampleRate::HZ_16000),
            Codec::Opus => {
                let rate = native_rate(from);
                (EncoderCodec::Opus(OpusEncoder::new(rate, opus)?), rate)
            }
        };
        Ok(Self {
            format,
            codec,
            resampler: Resampler::new(from, to),
            pending: Vec::with_capacity(3 * samples_per_frame(to)),
            frame: Vec::with_capacity(frame_bytes(format).unwrap_or(MAX_PACKET_BYTES)),
            n_in: 0,
            n_framed: 0,
        })
    }

    /// Takes more of a reply, of any length, and pushes the frames that it completes. Returns how many were queued;
    /// the queue counts those that it refused.
    ///
    /// # Errors
    /// [`MediaError::FormatMismatch`] if the queue is for another format, [`MediaError::OpusLibrary`] if libopus fails.
    pub fn encode(&mut self, pcm: &[i16], frames: &mut FrameQueue) -> Result<usize, MediaError> {
        self.check_format(frames)?;
        let mut n_queued = 0;
        // In steps of a frame, so that the begun frame needs no more room however long the reply is.
        for block in pcm.chunks(samples_per_frame(self.resampler.from_rate())) {
            self.n_in += block.len();
            self.resampler.process(block, &mut self.pending);
            n_queued += self.push_whole_frames(frames)?;
        }
        Ok(n_queued)
    }

    /// Ends a reply: pushes what the filters still hold, padded with silence to a whole frame, and forgets the reply.
    /// Returns how many frames were queued; 0 if there was no reply.
    ///
    /// A chain with a delay may need one frame more than the reply is long.
    ///
    /// # Errors
    /// As [`CallerEncoder::encode`].
    pub fn flush(&mut self, frames: &mut FrameQueue) -> Result<usize, MediaError> {
        self.check_format(frames)?;
        if self.n_in == 0 {
            return Ok(0);
        }
        const SILENCE: [i16; BLOCK] = [0; BLOCK];
        let n_samples = self.n_samples_to_flush();
        while self.pending.len() < n_samples {
            let n_frame = samples_per_frame(self.resampler.from_rate());
            self.resampler
                .process(&SILENCE[..n_frame.min(BLOCK)], &mut self.pending);
        }
        self.pending.truncate(n_samples);
        let queued = self.push_whole_frames(frames);
        self.reset();
        queued
    }

    /// Throws the begun frame and what sounds in the filters away, as a barge-in demands.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.n_in = 0;
        self.n_framed = 0;
        self.resampler.reset();
        match &mut self.codec {
            EncoderCodec::Pcm16 | EncoderCodec::G711(_) => {}
            EncoderCodec::G722(encoder) => encoder.cut(),
            EncoderCodec::Opus(encoder) => encoder.reset(),
        }
    }

    /// What the chain adds to the way of a sound, apart from waiting for a frame to fill.
    #[must_use]
    pub fn delay(&self) -> Duration {
        let codec = match &self.codec {
            EncoderCodec::Pcm16 | EncoderCodec::G711(_) => Duration::ZERO,
            EncoderCodec::G722(_) => g722::DELAY,
            EncoderCodec::Opus(encoder) => encoder.delay(),
        };
        self.resampler.delay() + codec
    }

    /// Samples that must be pending for the last sound of the reply to leave, in whole frames.
    fn n_samples_to_flush(&self) -> usize {
        let [from, to] = [self.resampler.from_rate(), self.resampler.to_rate()];
        let [from_hz, to_hz] = [from, to].map(|rate| rate.hz() as usize);
        let n_reply = (self.n_in * to_hz).div_ceil(from_hz);
        let n_delay = (self.delay().as_micros() as usize * to_hz).div_ceil(1_000_000);
        // The begun frame begins where the last one ended, on a frame boundary.
        (n_reply + n_delay - self.n_framed).next_multiple_of(samples_per_frame(to))
    }

    fn check_format(&self, frames: &FrameQueue) -> Result<(), MediaError> {
        if frames.format() == self.format {
            return Ok(());
        }
        Err(MediaError::FormatMismatch {
            encoder: self.format,
            queue: frames.format(),
        })
    }

    fn push_whole_frames(&mut self, frames: &mut FrameQueue) -> Result<usize, MediaError> {
        let mut n_queued = 0;
        let whole = self
            .pending
            .chunks_exact(samples_per_frame(self.resampler.to_rate()));
        let n_rest = whole.remainder().len();
        for pcm in whole {
            self.frame.clear();
            match &mut self.codec {
                EncoderCodec::Pcm16 => self
                    .frame
                    .extend(pcm.iter().flat_map(|sample| sample.to_le_bytes())),
                EncoderCodec::G711(law) => law.encode(pcm, &mut self.frame),
                EncoderCodec::G722(encoder) => encoder.encode(pcm, &mut self.frame),
                EncoderCodec::Opus(encoder) => encoder.encode(pcm, &mut self.frame)?,
            }
            n_queued += usize::from(frames.push(&self.frame));
        }
        let n_framed = self.pending.len() - n_rest;
        self.pending.drain(..n_framed);
        self.n_framed += n_framed;
        Ok(n_queued)
    }
}

/// The chain, as in `pcm16 24000 Hz -> ulaw 8000 Hz (fir, 3.0 ms)`. With Opus the time includes the encoder's.
impl fmt::Display for CallerEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.resampler.from_rate();
        write!(f, "pcm16 {from} -> {} ({}", self.format, self.resampler)?;
        if let EncoderCodec::Opus(encoder) = &self.codec {
            let ms = encoder.delay().as_secs_f64() * 1e3;
            write!(f, " + opus, {ms:.1} ms")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for CallerEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerEncoder({self})")
    }
}

/// The byte that silence is made of; `None` for Opus, where silence has to be encoded.
#[must_use]
pub const fn silence_byte(codec: Codec) -> Option<u8> {
    match codec {
        Codec::Pcm16 => Some(0),
        Codec::Ulaw => Some(Law::Mu.silence()),
        Codec::Alaw => Some(Law::A.silence()),
        Codec::G722 => Some(g722::SILENCE),
        Codec::Opus => None,
    }
}

fn samples_per_frame(rate: SampleRate) -> usize {
    (u128::from(rate.hz()) * FRAME.as_millis() / 1_000) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tone::{Tone, level_dbfs, tone_level_dbfs};

    const MODEL: SampleRate = SampleRate::HZ_24000;
    const OPUS: OpusSettings = OpusSettings {
        bitrate: 24_000,
        complexity: 0,
        fec: false,
        dtx: false,
    };

    fn format(codec: Codec, rate: SampleRate) -> AudioFormat {
        AudioFormat { codec, rate }
    }

    fn all_formats() -> Vec<AudioFormat> {
        [Codec::Pcm16, Codec::Ulaw, Codec::Alaw, Codec::Opus]
            .into_iter()
            .flat_map(|codec| SampleRate::ALL.map(|rate| format(codec, rate)))
            .chain([AudioFormat::G722])
            .collect()
    }

    fn encoder(format: AudioFormat) -> (CallerEncoder, FrameQueue) {
        (
            CallerEncoder::new(MODEL, format, OPUS).unwrap(),
            FrameQueue::new(format, Duration::from_secs(60)),
        )
    }

    fn decode_all(format: AudioFormat, frames: &mut FrameQueue) -> Vec<i16> {
        let mut decoder = CallerDecoder::new(format, MODEL).unwrap();
        let mut out = Vec::new();
        while let Some(frame) = frames.front() {
            decoder.decode(frame, &mut out).unwrap();
            frames.pop();
        }
        out
    }

    #[test]
    fn a_tone_goes_there_and_back_in_every_format() {
        for format in all_formats() {
            let (mut encoder, mut frames) = encoder(format);
            let pcm = Tone::sine(1_000.0, -10.0, MODEL).samples(24_000);
            // 200 ms at a time, as a model sends it.
            for delta in pcm.chunks(4_800) {
                encoder.encode(delta, &mut frames).unwrap();
            }
            assert_eq!(frames.queued(), Duration::from_secs(1), "{encoder}");
            let out = decode_all(format, &mut frames);
            assert_eq!(out.len(), pcm.len(), "{encoder}");
            let level = tone_level_dbfs(&out[4_800..], 1_000.0, MODEL);
            let tolerance = if format.codec == Codec::Opus {
                2.0
            } else {
                0.1
            };
            assert!((level + 10.0).abs() < tolerance, "{encoder}: {level} dBFS");
        }
    }

    #[test]
    fn flush_lets_the_last_sound_out_and_pads_the_frame() {
        for format in all_formats() {
            let (mut encoder, mut frames) = encoder(format);
            assert_eq!(encoder.flush(&mut frames), Ok(0));
            // 4.5 frames that end in 3 ms of tone.
            let mut pcm = vec![0; 24 * 87];
            Tone::sine(1_000.0, -6.0, MODEL).append(24 * 3, &mut pcm);
            let n_encoded = encoder.encode(&pcm, &mut frames).unwrap();
            assert_eq!(n_encoded, 4, "{encoder}");
            assert_eq!(encoder.flush(&mut frames), Ok(1), "{encoder}");
            assert_eq!(encoder.flush(&mut frames), Ok(0));
            let out = decode_all(format, &mut frames);
            assert_eq!(out.len(), 5 * 480);
            assert!(level_dbfs(&out[4 * 480..]) > -25.0, "{encoder}");
        }
    }

    #[test]
    fn flush_pads_with_the_silence_of_the_codec() {
        fn check(codec: Codec, silence: u8) {
            assert_eq!(silence_byte(codec), Some(silence));
            let (mut encoder, mut frames) = encoder(format(codec, SampleRate::HZ_8000));
            encoder.encode(&[0; 24], &mut frames).unwrap();
            encoder.flush(&mut frames).unwrap();
            let frame = frames.front().unwrap();
            assert!(frame.iter().all(|&byte| byte == silence), "{encoder}");
        }
        check(Codec::Ulaw, 0xFF);
        check(Codec::Alaw, 0xD5);
        check(Codec::Pcm16, 0);
    }

    #[test]
    fn nothing_of_a_cut_reply_is_heard_in_the_next() {
        type End = fn(&mut CallerEncoder, &mut FrameQueue);
        let ends: [End; 2] = [
            |encoder, _| encoder.reset(),
            |encoder, frames| {
                encoder.flush(frames).unwrap();
            },
        ];
        for format in all_formats() {
            for end in ends {
                let (mut encoder, mut frames) = encoder(format);
                let loud = Tone::sine(500.0, -3.0, MODEL).samples(4_900);
                encoder.encode(&loud, &mut frames).unwrap();
                end(&mut encoder, &mut frames);
                frames.clear();
                encoder.encode(&[0; 960], &mut frames).unwrap();
                let out = decode_all(format, &mut frames);
                assert!(level_dbfs(&out) < -60.0, "{encoder}");
            }
        }
    }

    #[test]
    fn half_samples_wait_for_the_next_message() {
        let mut decoder = CallerDecoder::new(AudioFormat::MODEL_PCM, MODEL).unwrap();
        let mut out = Vec::new();
        for message in [&[0x01, 0x02, 0x03][..], &[], &[0x04], &[0x05, 0x06]] {
            decoder.decode(message, &mut out).unwrap();
        }
        assert_eq!(out, [0x0201, 0x0403, 0x0605]);
        assert_eq!(decoder.odd_bytes(), 2);
        decoder.decode(&[0x7F], &mut out).unwrap();
        decoder.reset();
        out.clear();
        decoder.decode(&[0x01, 0x00], &mut out).unwrap();
        assert_eq!(out, [1]);
    }

    #[test]
    fn chains_print_themselves() {
        fn check(format: AudioFormat, decoder: &str, encoder: &str) {
            let caller_decoder = CallerDecoder::new(format, MODEL).unwrap();
            assert_eq!(caller_decoder.to_string(), decoder);
            let caller_encoder = CallerEncoder::new(MODEL, format, OPUS).unwrap();
            assert_eq!(caller_encoder.to_string(), encoder);
        }
        check(
            AudioFormat::ULAW_8K,
            "ulaw 8000 Hz -> pcm16 24000 Hz (fir, 3.0 ms)",
            "pcm16 24000 Hz -> ulaw 8000 Hz (fir, 3.0 ms)",
        );
        check(
            AudioFormat::MODEL_PCM,
            "pcm16 24000 Hz -> pcm16 24000 Hz (direct)",
            "pcm16 24000 Hz -> pcm16 24000 Hz (direct)",
        );
        // Never resampled, whatever the caller calls the rate.
        check(
            format(Codec::Opus, SampleRate::HZ_44100),
            "opus 44100 Hz -> pcm16 24000 Hz (direct)",
            "pcm16 24000 Hz -> opus 44100 Hz (direct + opus, 6.5 ms)",
        );
    }

    #[test]
    fn opus_losses_are_covered() {
        let caller = format(Codec::Opus, SampleRate::HZ_48000);
        let (mut encoder, mut frames) = encoder(caller);
        let pcm = Tone::sine(440.0, -10.0, MODEL).samples(480 * 10);
        encoder.encode(&pcm, &mut frames).unwrap();
        let mut decoder = CallerDecoder::new(caller, MODEL).unwrap();
        let mut out = Vec::new();
        for n in 0..10 {
            if n == 6 {
                decoder.lost(1);
            } else {
                decoder.decode(frames.front().unwrap(), &mut out).unwrap();
            }
            frames.pop();
        }
        assert_eq!(out.len(), pcm.len());
        assert!(level_dbfs(&out[6 * 480..7 * 480]) > -20.0);
    }

    #[test]
    fn a_queue_for_another_format_is_refused() {
        let (mut encoder, _) = encoder(AudioFormat::ULAW_8K);
        let mut frames = FrameQueue::new(AudioFormat::MODEL_PCM, Duration::from_secs(1));
        let refused = MediaError::FormatMismatch {
            encoder: AudioFormat::ULAW_8K,
            queue: AudioFormat::MODEL_PCM,
        };
        assert_eq!(encoder.encode(&[0; 480], &mut frames), Err(refused));
        assert_eq!(encoder.flush(&mut frames), Err(refused));
    }

    #[test]
    fn a_full_queue_refuses_what_is_new() {
        let (mut encoder, _) = encoder(AudioFormat::ULAW_8K);
        let mut frames = FrameQueue::new(AudioFormat::ULAW_8K, Duration::from_millis(60));
        assert_eq!(encoder.encode(&[0; 480 * 5], &mut frames), Ok(3));
        assert_eq!(frames.overrun_frames(), 2);
    }

    proptest! {
        #[test]
        fn any_payload_is_decoded_or_refused(
            codec in 0_usize..5,
            rate in 0..SampleRate::ALL.len(),
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
        ) {
            let codec = [Codec::Pcm16, Codec::Ulaw, Codec::Alaw, Codec::G722, Codec::Opus][codec];
            let mut decoder = CallerDecoder::new(format(codec, SampleRate::ALL[rate]), MODEL).unwrap();
            let mut out = Vec::new();
            for payload in payloads {
                let outcome = decoder.decode(&payload, &mut out);
                prop_assert!(outcome.is_ok() || codec == Codec::Opus);
            }
        }

        #[test]
        fn replies_may_be_cut_anywhere(
            pcm in proptest::collection::vec(any::<i16>(), 1..3_000),
            cuts in proptest::collection::vec(1_usize..700, 1..10),
        ) {
            let (mut whole, mut expected) = encoder(AudioFormat::ULAW_8K);
            whole.encode(&pcm, &mut expected).unwrap();
            whole.flush(&mut expected).unwrap();
            let (mut cut, mut frames) = encoder(AudioFormat::ULAW_8K);
            let mut rest = &pcm[..];
            for n in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*n));
                cut.encode(now, &mut frames).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            cut.flush(&mut frames).unwrap();
            prop_assert_eq!(frames.len(), expected.len());
            while let Some(frame) = frames.front() {
                prop_assert_eq!(Some(frame), expected.front());
                frames.pop();
                expected.pop();
            }
        }
    }
}
