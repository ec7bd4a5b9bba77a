//! The `[listener.callers]` table: what callers may send once they are answered.
//!
//! What a phone's call may wait for (its first message, its audio) and how long it may last is in its agent's
//! timeouts, because there it is part of the conversation.

use std::time::Duration;

use serde::Deserialize;

use crate::bridge::RelayLimits;
use crate::transport::{FrameLimits, Peer, Rate};

/// The `[listener.callers]` table. Defaults are those of the limits reference unless a field gives another reason.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallersConfig {
    /// Phones and plain audio clients.
    pub phone: PhoneLimits,
    /// SDK clients.
    pub realtime: RealtimeLimits,
}

/// What a phone or plain audio client may send. The largest message is the dialect's own.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhoneLimits {
    /// Fragments of one message.
    pub max_fragments: u32,
    /// Pings, pongs and closes, in one second and at once.
    pub control_frames_per_second: u32,
    /// Messages in the long run: four times the 50 of a media stream.
    pub messages_per_second: u32,
    /// Messages at once, after a pause. What a line held back comes at once: 40 s of a media stream.
    pub message_burst: u32,
    /// From a message's first byte to its last; longer only while 32 KiB a second come.
    #[serde(with = "humantime_serde")]
    pub message_timeout: Duration,
}

impl Default for PhoneLimits {
    fn default() -> Self {
        Self {
            max_fragments: 64,
            control_frames_per_second: 20,
            messages_per_second: 200,
            message_burst: 2_000,
            message_timeout: Duration::from_secs(10),
        }
    }
}

impl PhoneLimits {
    /// The limits of a dialect whose messages have at most so many bytes.
    pub(super) fn frames(&self, max_message: usize) -> FrameLimits {
        FrameLimits {
            from: Peer::Client,
            max_message: max_message as u64,
            max_fragments: self.max_fragments,
            control: steady(self.control_frames_per_second),
            messages: Some(Rate {
                per_second: self.messages_per_second,
                burst: self.message_burst,
            }),
            message_timeout: self.message_timeout,
        }
    }
}

/// What an SDK client may send, and how long its call may last.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealtimeLimits {
    /// Largest event in bytes. An append may carry 15 MiB of audio, a third more as base64 (protocol reference 1.6).
    pub max_message: u32,
    /// Fragments of one event. Browsers cut large ones into pieces of 16 KiB and more, so they need more than phones.
    pub max_fragments: u32,
    /// Pings, pongs and closes, in one second and at once.
    pub control_frames_per_second: u32,
    /// Events in the long run. Clients may send faster than they speak, up to what the deployment takes.
    pub messages_per_second: u32,
    /// Events at once, after a pause. SDKs queue what is said while they connect, and send files as fast as the
    /// socket takes them: 10 minutes in appends of 20 ms.
    pub message_burst: u32,
    /// From an event's first byte to its last; longer only while 32 KiB a second come.
    #[serde(with = "humantime_serde")]
    pub message_timeout: Duration,
    /// How deep objects and arrays of an event may nest. What needs it is the schema of a tool's parameters.
    pub json_depth: u32,
    /// Keys of an event, all objects together; a session with a hundred tools has some thousand.
    pub json_keys: u32,
    /// Without any event from the client; zero for no limit. There is no event that a client must begin with, and a
    /// vendor lets it be silent until the session's cap, the shortest of which is 30 min.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// The longest call; zero for none but the vendor's session cap, the longest of which is 60 min.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
    /// Whether a call outlives its session: where a deployment fails, or the vendor's cap comes near, another session
    /// takes over with what the last one knew.
    pub carry: bool,
    /// How much is kept of a session for that, in bytes: a minute and a half of speech, or all words of hours.
    pub carry_bytes: u32,
}

impl Default for RealtimeLimits {
    fn default() -> Self {
        Self {
            max_message: 21 * 1024 * 1024,
            max_fragments: 1_024,
            control_frames_per_second: 20,
            messages_per_second: 1_000,
            message_burst: 30_000,
            message_timeout: Duration::from_secs(10),
            json_depth: 32,
            json_keys: 8_192,
            idle: Duration::from_secs(30 * 60),
            max_duration: Duration::from_secs(65 * 60),
            carry: true,
            carry_bytes: 2 * 1024 * 1024,
        }
    }
}

impl RealtimeLimits {
    pub(super) fn frames(&self) -> FrameLimits {
        FrameLimits {
            from: Peer::Client,
            max_message: self.max_message.into(),
            max_fragments: self.max_fragments,
            control: steady(self.control_frames_per_second),
            messages: Some(Rate {
                per_second: self.messages_per_second,
                burst: self.message_burst,
            }),
            message_timeout: self.message_timeout,
        }
    }

    /// How many bytes are kept of a session; `None` where nothing is.
    pub(super) fn carry(&self) -> Option<usize> {
        self.carry.then_some(self.carry_bytes as usize)
    }

    pub(super) fn duration(&self) -> RelayLimits {
        RelayLimits {
            idle: self.idle,
            max_duration: self.max_duration,
            json_depth: self.json_depth as usize,
            json_keys: self.json_keys as usize,
        }
    }
}

/// A rate that allows as many at once as in a second.
fn steady(per_second: u32) -> Rate {
    Rate {
        per_second,
        burst: per_second,
    }
}

impl CallersConfig {
    /// The fields with which nobody could call, each as its path in the table and what is wrong.
    #[must_use]
    pub fn mistakes(&self) -> Vec<([&'static str; 2], String)> {
        let (phone, realtime) = (&self.phone, &self.realtime);
        let counts = [
            (["phone", "max_fragments"], phone.max_fragments),
            (
                ["phone", "control_frames_per_second"],
                phone.control_frames_per_second,
            ),
            (["phone", "messages_per_second"], phone.messages_per_second),
            (["phone", "message_burst"], phone.message_burst),
            (["realtime", "max_message"], realtime.max_message),
            (["realtime", "max_fragments"], realtime.max_fragments),
            (
                ["realtime", "control_frames_per_second"],
                realtime.control_frames_per_second,
            ),
            (
                ["realtime", "messages_per_second"],
                realtime.messages_per_second,
            ),
            (["realtime", "message_burst"], realtime.message_burst),
            (["realtime", "json_depth"], realtime.json_depth),
            (["realtime", "json_keys"], realtime.json_keys),
        ];
        let timeouts = [
            (["phone", "message_timeout"], phone.message_timeout),
            (["realtime", "message_timeout"], realtime.message_timeout),
        ];
        let counts = counts.into_iter().map(|(path, n)| (path, n == 0));
        let timeouts = timeouts
            .into_iter()
            .map(|(path, time)| (path, time.is_zero()));
        counts
            .chain(timeouts)
            .filter(|(_, is_zero)| *is_zero)
            .map(|(path, _)| (path, "with zero, nobody could call".to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_mistake_where_nobody_could_call() {
        let check = |text: &str, expected: &[[&str; 2]]| {
            let config: CallersConfig = toml::from_str(text).unwrap();
            let found: Vec<_> = config.mistakes().into_iter().map(|it| it.0).collect();
            assert_eq!(found, expected);
        };
        check("", &[]);
        check("[realtime]\nidle = '0s'\nmax_duration = '0s'", &[]);
        check(
            "[phone]\nmax_fragments = 0\n[realtime]\nmessage_timeout = '0s'",
            &[["phone", "max_fragments"], ["realtime", "message_timeout"]],
        );
        check(
            "[realtime]\njson_depth = 0\njson_keys = 0",
            &[["realtime", "json_depth"], ["realtime", "json_keys"]],
        );
    }
}
