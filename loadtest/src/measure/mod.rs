//! What is measured: names, units, and histograms that can be added up.

mod histogram;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use histogram::{Measured, Measures};

macro_rules! measures {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Something that takes time. All are kept in microseconds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Measure {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Measure {
            /// All of them, in the order of reports.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in scenarios and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it is, in a line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

measures! {
    /// From when the call was due to when it was begun: how late the load generator itself was.
    StartLag = "start_lag",
    /// TCP and TLS.
    Connect = "connect",
    /// From the open line to the answer to the upgrade request.
    Upgrade = "upgrade",
    /// From the upgrade until audio may flow.
    SessionReady = "session_ready",
    /// From when the call was due until audio may flow.
    SetUp = "set_up",
    /// From the answer to the first audio of a greeting.
    Greeting = "greeting",
    /// From the end of the caller's speech to the first audio that was received, be it silence.
    FirstAudio = "first_audio",
    /// From the end of the caller's speech to the first audio that was heard.
    TurnLatency = "turn_latency",
    /// From the first word of an interruption to the order to drop what was not played.
    BargeInClear = "barge_in_clear",
    /// From the first word of an interruption to silence.
    BargeInSilence = "barge_in_silence",
    /// From when a frame was due to be sent until it came back, where what is said comes back at once.
    FrameRoundTrip = "frame_round_trip",
    /// From when a frame was due to be sent until the simulator had it.
    FrameUp = "frame_up",
    /// From the simulator's sending of a reply's first frame until the caller had it.
    FrameDown = "frame_down",
    /// How far the time between two messages of a reply is from the audio of the first of them.
    Jitter = "jitter",
    /// Length of a hole in the middle of a reply.
    Underrun = "underrun",
    /// From when a frame was due to when it was sent: how late the load generator itself was.
    SendLag = "send_lag",
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
