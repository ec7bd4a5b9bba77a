//! The audio of one conducted call, both ways, between the caller's codec and the session's.

use std::time::Duration;

use crate::call::Span;
use crate::media::{
    AudioFormat, CallerDecoder, CallerEncoder, Clip, Codec, FRAME, FrameQueue, MediaError,
    OpusSettings, Piece, Replay, SampleRate, silence_byte,
};
use crate::realtime::{WireFormat, append_bytes_into, append_pcm_into, decode_audio};
use crate::upstream::ModelAudio;

use super::agent::Agent;
use super::scratch::MediaScratch;

/// Caller audio to append events, reply audio to the playout queue.
#[derive(Debug)]
pub(super) struct MediaPath {
    input: AudioFormat,
    output: AudioFormat,
    opus: OpusSettings,
    audio: ModelAudio,
    to_model: ToModel,
    to_caller: ToCaller,
    pub(super) queue: FrameQueue,
    /// Frames that leave together; a reply is a whole number of these.
    chunk_frames: usize,
    /// The queue could not take all of the current reply: its rest is not wanted, because words out of
    /// the middle of it would be noise.
    overflowed: bool,
    /// Audio of overflowed replies that never came to the queue.
    refused: Duration,
    /// First byte of a sample that the deployment cut in two.
    half_sample: Option<u8>,
    /// Caller audio leaves in pieces of so much at least; as it comes if that is nothing.
    append: Duration,
    /// Caller audio that waits for more of it, as the session wants it.
    held: Vec<u8>,
    /// Lent for a wake-up.
    pub(super) scratch: MediaScratch,
}

#[derive(Debug)]
enum ToModel {
    Transcode(CallerDecoder),
    /// The session takes the caller's bytes as they are.
    Pass,
}

#[derive(Debug)]
enum ToCaller {
    Transcode(CallerEncoder),
    /// The session's bytes are the caller's; `begun` is less than a frame of them.
    Pass {
        begun: Vec<u8>,
        silence: u8,
    },
}

/// Bytes of a 20 ms frame of G.711.
const G711_FRAME: usize = 160;

impl MediaPath {
    pub(super) fn new(
        input: AudioFormat,
        output: AudioFormat,
        audio: ModelAudio,
        chunk_frames: usize,
        agent: &Agent,
    ) -> Result<Self, MediaError> {
        let opus = agent.config.opus;
        let chunk = FRAME * u32::try_from(chunk_frames).unwrap_or(u32::MAX);
        let n_chunks = agent.config.playout.max.as_nanos() / chunk.as_nanos().max(1);
        let max = chunk * u32::try_from(n_chunks).unwrap_or(u32::MAX);
        Ok(Self {
            input,
            output,
            opus,
            audio,
            to_model: to_model(input, audio)?,
            to_caller: to_caller(output, audio, opus)?,
            queue: FrameQueue::new(output, max),
            chunk_frames,
            overflowed: false,
            refused: Duration::ZERO,
            half_sample: None,
            append: agent.config.append,
            held: Vec::new(),
            scratch: MediaScratch::default(),
        })
    }

    /// The caller's formats, in and out.
    pub(super) fn caller_formats(&self) -> (AudioFormat, AudioFormat) {
        (self.input, self.output)
    }

    /// The session is one of a deployment that takes audio in that way.
    ///
    /// # Errors
    ///
    /// If there is no such codec, which there was when the call began.
    pub(super) fn serve(&mut self, audio: ModelAudio) -> Result<(), MediaError> {
        if audio != self.audio {
            self.to_model = to_model(self.input, audio)?;
            self.to_caller = to_caller(self.output, audio, self.opus)?;
            self.audio = audio;
        }
        self.half_sample = None;
        // It is among what was kept, which the session is sent.
        self.held.clear();
        Ok(())
    }

    /// Caller audio that was kept, as the session wants it: bytes of its input format.
    ///
    /// # Errors
    ///
    /// If there is no such codec, which there was when the call began.
    pub(super) fn replayed(&self, kept: &mut Replay, span: Span) -> Result<Vec<u8>, MediaError> {
        let mut bytes = Vec::new();
        match &self.to_model {
            ToModel::Transcode(_) => {
                let mut decoder = CallerDecoder::new(self.input, SampleRate::HZ_24000)?;
                let mut pcm = Vec::new();
                kept.play(span.from, span.to, |piece| match piece {
                    // It was decoded before; what cannot be now is left out, as a lost packet is.
                    Piece::Audio(payload) => {
                        let _ = decoder.decode(payload, &mut pcm);
                    }
                    Piece::Silence(duration) => {
                        pcm.resize(pcm.len() + n_samples(SampleRate::HZ_24000, duration), 0);
                    }
                });
                bytes.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
            }
            ToModel::Pass => kept.play(span.from, span.to, |piece| match piece {
                Piece::Audio(payload) => bytes.extend_from_slice(payload),
                Piece::Silence(duration) => {
                    let n_bytes = n_samples(self.input.rate, duration);
                    bytes.resize(bytes.len() + n_bytes, silence_of(self.input));
                }
            }),
        }
        Ok(bytes)
    }

    /// Bytes of so much audio as the session wants it.
    pub(super) fn n_bytes(&self, duration: Duration) -> usize {
        match &self.to_model {
            ToModel::Transcode(_) => 2 * n_samples(SampleRate::HZ_24000, duration),
            ToModel::Pass => n_samples(self.input.rate, duration),
        }
    }

    /// Puts an announcement into the playout queue; says how many frames that is.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded.
    pub(super) fn queue_clip(&mut self, clip: &Clip) -> Result<usize, MediaError> {
        let mut encoder = CallerEncoder::new(clip.rate(), self.output, self.opus)?;
        let frames = encoder.encode(clip.samples(), &mut self.queue)?;
        Ok(frames + encoder.flush(&mut self.queue)? + self.fill_chunk())
    }

    /// Takes in one message of caller audio and says how long it is.
    ///
    /// # Errors
    ///
    /// If the bytes are no audio of the caller's codec.
    pub(super) fn take_caller_audio(&mut self, payload: &[u8]) -> Result<Duration, MediaError> {
        match &mut self.to_model {
            ToModel::Transcode(decoder) => {
                self.scratch.pcm.clear();
                if payload.is_empty() {
                    decoder.lost(1);
                } else {
                    decoder.decode(payload, &mut self.scratch.pcm)?;
                }
                Ok(SampleRate::HZ_24000.duration_of(self.scratch.pcm.len()))
            }
            ToModel::Pass => {
                self.scratch.bytes.clear();
                self.scratch.bytes.extend_from_slice(payload);
                Ok(self.input.duration_of(payload.len()).unwrap_or_default())
            }
        }
    }

    /// Writes the append event for the audio that was taken in, and for what waited. False if it is to wait for more.
    pub(super) fn append_event(&mut self, out: &mut String) -> bool {
        if self.append.is_zero() {
            match &self.to_model {
                ToModel::Transcode(_) => append_pcm_into(out, &self.scratch.pcm),
                ToModel::Pass => append_bytes_into(out, &self.scratch.bytes),
            }
            return true;
        }
        match &self.to_model {
            ToModel::Transcode(_) => {
                let samples = self.scratch.pcm.iter();
                self.held
                    .extend(samples.flat_map(|sample| sample.to_le_bytes()));
            }
            ToModel::Pass => self.held.extend_from_slice(&self.scratch.bytes),
        }
        let is_enough = self.held.len() >= self.n_bytes(self.append);
        if is_enough {
            append_bytes_into(out, &self.held);
            self.held.clear();
        }
        is_enough
    }

    /// Writes the append event for so much silence, after what waited.
    pub(super) fn silence_event(&mut self, duration: Duration, out: &mut String) {
        let silence = match &self.to_model {
            ToModel::Transcode(_) => 0,
            ToModel::Pass => silence_of(self.input),
        };
        let n_bytes = self.n_bytes(duration);
        let bytes = &mut self.scratch.bytes;
        bytes.clear();
        bytes.append(&mut self.held);
        bytes.resize(bytes.len() + n_bytes, silence);
        append_bytes_into(out, bytes);
    }

    /// Puts base64 reply audio into the playout queue; says how long it is and how many frames the queue
    /// became longer.
    ///
    /// # Errors
    ///
    /// If the audio cannot be decoded or encoded.
    pub(super) fn queue_reply(&mut self, base64: &str) -> Result<(Duration, usize), ReplyError> {
        self.scratch.bytes.clear();
        if !decode_audio(base64, &mut self.scratch.bytes) {
            return Err(ReplyError::Base64);
        }
        if self.overflowed {
            let duration = match &self.to_caller {
                ToCaller::Transcode(_) => {
                    SampleRate::HZ_24000.duration_of(self.scratch.bytes.len() / 2)
                }
                ToCaller::Pass { .. } => SampleRate::HZ_8000.duration_of(self.scratch.bytes.len()),
            };
            self.refused += duration;
            return Ok((duration, 0));
        }
        let refused_before = self.queue.overrun_frames();
        let queued = self.encode_reply();
        self.overflowed = self.queue.overrun_frames() > refused_before;
        queued
    }

    fn encode_reply(&mut self) -> Result<(Duration, usize), ReplyError> {
        match &mut self.to_caller {
            ToCaller::Transcode(encoder) => {
                self.scratch.pcm.clear();
                if let Some(half) = self.half_sample.take() {
                    self.scratch.bytes.insert(0, half);
                }
                let (samples, rest) = self.scratch.bytes.as_chunks::<2>();
                self.half_sample = rest.first().copied();
                self.scratch
                    .pcm
                    .extend(samples.iter().map(|bytes| i16::from_le_bytes(*bytes)));
                let frames = encoder.encode(&self.scratch.pcm, &mut self.queue)?;
                Ok((
                    SampleRate::HZ_24000.duration_of(self.scratch.pcm.len()),
                    frames,
                ))
            }
            ToCaller::Pass { begun, .. } => {
                let mut frames = 0;
                for byte in &self.scratch.bytes {
                    begun.push(*byte);
                    if begun.len() == G711_FRAME {
                        frames += usize::from(self.queue.push(begun));
                        begun.clear();
                    }
                }
                Ok((
                    SampleRate::HZ_8000.duration_of(self.scratch.bytes.len()),
                    frames,
                ))
            }
        }
    }

    /// Completes the begun frame with silence; says how many frames the queue became longer.
    ///
    /// # Errors
    ///
    /// If the audio cannot be encoded.
    pub(super) fn pad_reply(&mut self) -> Result<usize, ReplyError> {
        if std::mem::take(&mut self.overflowed) {
            self.forget_begun();
            return Ok(0);
        }
        let padded = match &mut self.to_caller {
            ToCaller::Transcode(encoder) => encoder.flush(&mut self.queue)?,
            ToCaller::Pass { begun, .. } if begun.is_empty() => 0,
            ToCaller::Pass { begun, silence } => {
                begun.resize(G711_FRAME, *silence);
                let queued = self.queue.push(begun);
                begun.clear();
                usize::from(queued)
            }
        };
        Ok(padded + self.fill_chunk())
    }

    /// Completes the last chunk with silence; says how many frames that were. Frames leave by chunks, so the queue
    /// holds whole ones but for the last.
    fn fill_chunk(&mut self) -> usize {
        let rest = self.queue.len() % self.chunk_frames;
        let missing = if rest == 0 {
            0
        } else {
            self.chunk_frames - rest
        };
        let silence = silent_frame(self.output);
        (0..missing).filter(|_| self.queue.push(&silence)).count()
    }

    /// A frame in which nothing is heard, in the caller's format; empty for Opus, which has no fixed one.
    pub(super) fn silent_frame(&self) -> Vec<u8> {
        silent_frame(self.output)
    }

    /// Throws away what was not played.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.overflowed = false;
        self.forget_begun();
    }

    fn forget_begun(&mut self) {
        self.half_sample = None;
        match &mut self.to_caller {
            ToCaller::Transcode(encoder) => encoder.reset(),
            ToCaller::Pass { begun, .. } => begun.clear(),
        }
    }

    /// Audio that the full queue refused so far.
    pub(super) fn overrun(&self) -> Duration {
        self.refused + FRAME * u32::try_from(self.queue.overrun_frames()).unwrap_or(u32::MAX)
    }
}

fn silent_frame(format: AudioFormat) -> Vec<u8> {
    let n_bytes = format.codec.bytes_of(n_samples(format.rate, FRAME));
    vec![silence_of(format); n_bytes.unwrap_or(0)]
}

fn to_model(input: AudioFormat, audio: ModelAudio) -> Result<ToModel, MediaError> {
    Ok(match session_format(input, audio) {
        WireFormat::Pcm24k => ToModel::Transcode(CallerDecoder::new(input, SampleRate::HZ_24000)?),
        WireFormat::Ulaw | WireFormat::Alaw => ToModel::Pass,
    })
}

fn to_caller(
    output: AudioFormat,
    audio: ModelAudio,
    opus: OpusSettings,
) -> Result<ToCaller, MediaError> {
    Ok(match session_format(output, audio) {
        WireFormat::Pcm24k => {
            ToCaller::Transcode(CallerEncoder::new(SampleRate::HZ_24000, output, opus)?)
        }
        WireFormat::Ulaw | WireFormat::Alaw => ToCaller::Pass {
            begun: Vec::with_capacity(G711_FRAME),
            silence: silence_of(output),
        },
    })
}

fn n_samples(rate: SampleRate, duration: Duration) -> usize {
    (duration.as_micros() * u128::from(rate.hz()) / 1_000_000) as usize
}

/// Why reply audio could not be queued.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("the reply audio is not base64")]
    Base64,
    #[error(transparent)]
    Media(#[from] MediaError),
}

/// The byte of silence, where the codec has one.
fn silence_of(format: AudioFormat) -> u8 {
    silence_byte(format.codec).unwrap_or_default()
}

/// The session's format for callers of this one.
pub(super) fn session_format(caller: AudioFormat, audio: ModelAudio) -> WireFormat {
    match (audio, caller.codec) {
        (ModelAudio::Passthrough, Codec::Ulaw) if caller.rate == SampleRate::HZ_8000 => {
            WireFormat::Ulaw
        }
        (ModelAudio::Passthrough, Codec::Alaw) if caller.rate == SampleRate::HZ_8000 => {
            WireFormat::Alaw
        }
        _ => WireFormat::Pcm24k,
    }
}
