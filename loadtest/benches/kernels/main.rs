//! What the steps of the frame path cost one by one: `cargo bench --package trunkline-loadtest --bench kernels`, with
//! parts of names to choose. A frame is 20 ms: 160 bytes of mu-law, 480 samples at 24 kHz; a delta is 200 ms.
//!
//! Wall clock: good for comparing two ways to do a thing in one run, not for telling one day from another. That is what
//! `make instructions` is for.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::Duration;

use divan::Bencher;
use trunkline::bridge::FramePath;
use trunkline::call::{CallerCommand, CallerEvent};
use trunkline::ingress::{Dialect, Incoming};
use trunkline::media::{
    AudioFormat, CallerDecoder, CallerEncoder, FrameQueue, OpusSettings, Resampler, SampleRate,
};
use trunkline::realtime::{
    append_audio, append_pcm_into, audio_delta, decode_audio, encode_audio, event_type,
};
use tungstenite::protocol::{Message, Role, WebSocketConfig};
use tungstenite::{Bytes, WebSocket};

fn main() {
    divan::main();
}

const START: &str = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ01","start":{"streamSid":"MZ01","accountSid":"AC01","callSid":"CA01","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;

mod codec {
    use super::*;

    /// Mu-law to PCM16 at 8 kHz.
    #[divan::bench]
    fn ulaw_decode_frame(bencher: Bencher<'_, '_>) {
        let mut decoder =
            CallerDecoder::new(AudioFormat::ULAW_8K, SampleRate::HZ_8000).expect("mu-law");
        let (frame, mut out) = (ulaw(), Vec::new());
        bencher.bench_local(|| {
            out.clear();
            decoder
                .decode(black_box(&frame), &mut out)
                .expect("mu-law is total");
        });
    }

    /// PCM16 at 8 kHz to mu-law frames.
    #[divan::bench]
    fn ulaw_encode_frame(bencher: Bencher<'_, '_>) {
        let mut encoder = CallerEncoder::new(
            SampleRate::HZ_8000,
            AudioFormat::ULAW_8K,
            OpusSettings::default(),
        )
        .expect("mu-law");
        let mut queue = FrameQueue::new(AudioFormat::ULAW_8K, Duration::from_secs(1));
        let samples = sine(160);
        bencher.bench_local(|| {
            encoder
                .encode(black_box(&samples), &mut queue)
                .expect("mu-law is total");
            queue.clear();
        });
    }

    #[divan::bench]
    fn resample_8k_to_24k_frame(bencher: Bencher<'_, '_>) {
        resample(bencher, SampleRate::HZ_8000, SampleRate::HZ_24000, 160);
    }

    #[divan::bench]
    fn resample_24k_to_8k_delta(bencher: Bencher<'_, '_>) {
        resample(bencher, SampleRate::HZ_24000, SampleRate::HZ_8000, 4_800);
    }

    fn resample(bencher: Bencher<'_, '_>, from: SampleRate, to: SampleRate, n: usize) {
        let mut resampler = Resampler::new(from, to);
        let (samples, mut out) = (sine(n), Vec::new());
        bencher.bench_local(|| {
            out.clear();
            resampler.process(black_box(&samples), &mut out);
        });
    }
}

mod base64 {
    use super::*;

    #[divan::bench(args = [160, 960, 9_600])]
    fn encode(bencher: Bencher<'_, '_>, n: usize) {
        let (bytes, mut out) = (vec![0x5a; n], Vec::new());
        bencher.bench_local(|| {
            out.clear();
            encode_audio(black_box(&bytes), &mut out);
        });
    }

    #[divan::bench(args = [160, 960, 9_600])]
    fn decode(bencher: Bencher<'_, '_>, n: usize) {
        let (text, mut out) = (in_base64(&vec![0x5a; n]), Vec::new());
        bencher.bench_local(|| {
            out.clear();
            assert!(decode_audio(black_box(&text), &mut out));
        });
    }
}

mod events {
    use super::*;

    /// The type alone.
    #[divan::bench]
    fn event_type_of_delta(bencher: Bencher<'_, '_>) {
        let text = delta();
        bencher.bench_local(|| event_type(black_box(&text)).map(|it| it.len()));
    }

    #[divan::bench]
    fn scan_delta(bencher: Bencher<'_, '_>) {
        let text = delta();
        bencher.bench_local(|| audio_delta(black_box(&text)).map(|it| it.delta.len()));
    }

    /// As an SDK sends it.
    #[divan::bench]
    fn scan_append(bencher: Bencher<'_, '_>) {
        let mut text = String::new();
        append_pcm_into(&mut text, &sine(480));
        bencher.bench_local(|| append_audio(black_box(&text)).map(|it| it.len()));
    }

    #[divan::bench]
    fn write_append(bencher: Bencher<'_, '_>) {
        let (samples, mut out) = (sine(480), String::new());
        bencher.bench_local(|| {
            out.clear();
            append_pcm_into(&mut out, black_box(&samples));
        });
    }
}

mod twilio {
    use super::*;

    #[divan::bench]
    fn decode_frame(bencher: Bencher<'_, '_>) {
        let mut dialect = started();
        let (text, mut audio) = (media(), Vec::new());
        bencher.bench_local(|| {
            let event = dialect.decode(Incoming::Text(black_box(&text)), &mut audio);
            assert_eq!(event, Ok(CallerEvent::Audio));
        });
    }

    #[divan::bench]
    fn encode_frame(bencher: Bencher<'_, '_>) {
        let mut dialect = started();
        let (frame, mut out) = (ulaw(), Vec::new());
        bencher.bench_local(|| {
            dialect.encode(CallerCommand::Audio(black_box(&frame)), &mut out);
        });
    }

    fn started() -> Dialect {
        let mut dialect = Dialect::by_name("twilio").expect("it is there");
        dialect
            .decode(Incoming::Text(START), &mut Vec::new())
            .expect("it is a start");
        dialect
    }
}

/// All steps between the two sockets of a call.
mod path {
    use super::*;

    #[divan::bench]
    fn frame_up(bencher: Bencher<'_, '_>) {
        let mut path = FramePath::twilio(START).expect("it is a start");
        let text = media();
        bencher.bench_local(|| path.up(black_box(&text)).map(str::len));
    }

    #[divan::bench]
    fn delta_down(bencher: Bencher<'_, '_>) {
        let mut path = FramePath::twilio(START).expect("it is a start");
        let text = delta();
        bencher.bench_local(|| path.down(black_box(&text), |_| {}));
    }
}

/// Framing as the gateway has it: tungstenite with its buffers of 4 KiB towards callers and 16 KiB towards the model.
mod websocket {
    use super::*;

    /// A masked frame of a phone.
    #[divan::bench]
    fn read_frame_of_phone(bencher: Bencher<'_, '_>) {
        read(bencher, Role::Server, 4 * 1024, media());
    }

    /// A delta of the model's.
    #[divan::bench]
    fn read_delta(bencher: Bencher<'_, '_>) {
        read(bencher, Role::Client, 16 * 1024, delta());
    }

    #[divan::bench]
    fn write_frame_to_phone(bencher: Bencher<'_, '_>) {
        write(bencher, Role::Server, 4 * 1024, media());
    }

    /// An append, which has to be masked.
    #[divan::bench]
    fn write_append(bencher: Bencher<'_, '_>) {
        let mut text = String::new();
        append_pcm_into(&mut text, &sine(480));
        write(bencher, Role::Client, 16 * 1024, text);
    }

    fn read(bencher: Bencher<'_, '_>, role: Role, buffer: usize, text: String) {
        let peer = match role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let mut from = socket(peer, buffer, Memory::default());
        from.send(Message::text(text)).expect("memory");
        let wire = std::mem::take(&mut from.get_mut().written);
        let mut to = socket(role, buffer, Memory::default());
        bencher.bench_local(|| {
            let memory = to.get_mut();
            memory.to_read.clear();
            memory.to_read.extend_from_slice(&wire);
            memory.n_read = 0;
            to.read().expect("a message").len()
        });
    }

    fn write(bencher: Bencher<'_, '_>, role: Role, buffer: usize, text: String) {
        let mut socket = socket(role, buffer, Memory::default());
        let bytes = Bytes::from(text);
        bencher.bench_local(|| {
            socket.get_mut().written.clear();
            // A copy is part of it: the gateway writes into buffers of its own.
            let message = tungstenite::Utf8Bytes::try_from(Bytes::copy_from_slice(&bytes));
            socket
                .send(Message::Text(message.expect("UTF-8")))
                .expect("memory");
        });
    }

    fn socket(role: Role, buffer: usize, memory: Memory) -> WebSocket<Memory> {
        let config = WebSocketConfig::default()
            .read_buffer_size(buffer)
            .write_buffer_size(buffer);
        WebSocket::from_raw_socket(memory, role, Some(config))
    }

    #[derive(Default)]
    struct Memory {
        to_read: Vec<u8>,
        n_read: usize,
        written: Vec<u8>,
    }

    impl Read for Memory {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = (&self.to_read[self.n_read..]).read(out)?;
            self.n_read += n;
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

fn ulaw() -> Vec<u8> {
    (0..160).map(|i| (i * 37 % 256) as u8).collect()
}

fn sine(n: usize) -> Vec<i16> {
    (0..n)
        .map(|i| ((i as f32 * 0.13).sin() * 8_000.0) as i16)
        .collect()
}

fn in_base64(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    encode_audio(bytes, &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

/// A frame as Twilio sends it.
fn media() -> String {
    let payload = in_base64(&ulaw());
    format!(
        r#"{{"event":"media","sequenceNumber":"4711","media":{{"track":"inbound","chunk":"4710","timestamp":"94180","payload":"{payload}"}},"streamSid":"MZ01"}}"#
    )
}

/// 200 ms of an answer.
fn delta() -> String {
    let bytes: Vec<u8> = sine(4_800).into_iter().flat_map(i16::to_le_bytes).collect();
    let audio = in_base64(&bytes);
    format!(
        r#"{{"type":"response.output_audio.delta","event_id":"event_CZ9sHhQ2pGn7vKQm3uXoR","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"{audio}"}}"#
    )
}
