//! What one frame of a Twilio call costs without its sockets and its state machine, each way: for the benches, which
//! would otherwise measure a copy of it. No call goes through here.

use crate::call::{CallerCommand, CallerEvent, ModelEvent};
use crate::ingress::{Dialect, Incoming};
use crate::upstream::{Decoder, ModelAudio};

use super::agent::{Agent, AgentConfig};
use super::media_path::MediaPath;

/// The steps between the two legs of a call, in the order in which a call takes them.
#[derive(Debug)]
pub struct FramePath {
    dialect: Dialect,
    decoder: Decoder,
    media: MediaPath,
    audio: Vec<u8>,
    append: String,
    message: Vec<u8>,
}

impl FramePath {
    /// Of a call that this `start` message begins; none if it begins no call.
    ///
    /// # Panics
    ///
    /// If the built-in agent of a bench is not a good one.
    #[must_use]
    pub fn twilio(start: &str) -> Option<Self> {
        let mut dialect = Dialect::by_name("twilio")?;
        let mut audio = Vec::new();
        let started = dialect.decode(Incoming::Text(start), &mut audio).ok()?;
        let CallerEvent::Started(info) = started else {
            return None;
        };
        let config: AgentConfig =
            toml::from_str("deployment = \"any\"").expect("all else has defaults");
        let agent = Agent::new("bench", config).expect("defaults are good");
        let audio_of_model = ModelAudio::Pcm16;
        let chunk_frames = dialect.capabilities().chunk_frames;
        let media = MediaPath::new(
            info.input,
            info.output,
            audio_of_model,
            chunk_frames,
            &agent,
        );
        Some(Self {
            dialect,
            decoder: Decoder::new(),
            media: media.ok()?,
            audio,
            append: String::new(),
            message: Vec::new(),
        })
    }

    /// From a message of the caller to the event for the model; none if it was no audio.
    pub fn up(&mut self, message: &str) -> Option<&str> {
        let event = self
            .dialect
            .decode(Incoming::Text(message), &mut self.audio)
            .ok()?;
        if event != CallerEvent::Audio {
            return None;
        }
        self.media.take_caller_audio(&self.audio).ok()?;
        self.append.clear();
        self.media.append_event(&mut self.append);
        Some(&self.append)
    }

    /// From an event of the model to messages for the caller, each of which is shown; how many there were.
    pub fn down(&mut self, event: &str, mut send: impl FnMut(&[u8])) -> usize {
        let Ok(decoded) = self.decoder.decode(event) else {
            return 0;
        };
        let ModelEvent::AudioDelta { audio, .. } = decoded.event() else {
            return 0;
        };
        if self.media.queue_reply(audio).is_err() {
            return 0;
        }
        let mut n_sent = 0;
        while let Some(frame) = self.media.queue.front() {
            self.dialect
                .encode(CallerCommand::Audio(frame), &mut self.message);
            send(&self.message);
            self.media.queue.pop();
            n_sent += 1;
        }
        n_sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::encode_audio;

    const START: &str = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ01","start":{"streamSid":"MZ01","accountSid":"AC01","callSid":"CA01","tracks":["inbound"],"customParameters":{},"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;

    fn base64(bytes: &[u8]) -> String {
        let mut text = Vec::new();
        encode_audio(bytes, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_frame_goes_up_and_a_delta_comes_down() {
        let mut path = FramePath::twilio(START).unwrap();
        let media = format!(
            r#"{{"event":"media","sequenceNumber":"2","media":{{"track":"inbound","chunk":"1","timestamp":"0","payload":"{}"}},"streamSid":"MZ01"}}"#,
            base64(&[0x20; 160])
        );
        let append = path.up(&media).unwrap();
        assert!(append.starts_with(r#"{"type":"input_audio_buffer.append","audio":""#));
        assert!(path.up(START).is_none());
        let delta = format!(
            r#"{{"type":"response.output_audio.delta","response_id":"r","item_id":"i","output_index":0,"content_index":0,"delta":"{}"}}"#,
            base64(&[1; 9_600 * 2])
        );
        let mut n_bytes = 0;
        // The resampler holds back the little that it looks ahead.
        let n_frames = path.down(&delta, |message| n_bytes += message.len());
        assert!((19..=20).contains(&n_frames), "{n_frames}");
        assert!(n_bytes > 160 * n_frames);
        assert_eq!(path.down("{}", |_| {}), 0);
    }
}
