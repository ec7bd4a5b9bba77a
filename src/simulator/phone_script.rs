//! What a scripted caller does, 20 ms at a time.
//!
//! Pure: asked for a frame, it gives one, and says what the caller did besides.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::judge::frames_voiced;
use super::phone_playout::STEP;
use super::wav::Clip;

/// One thing that the caller does. A script is a list of them, done in order; at its end the caller hangs up.
#[derive(Clone, Debug)]
pub enum Act {
    /// Speak.
    Say(Clip),
    /// Be silent for so long.
    Silence(Duration),
    /// Listen to what is said back since the caller last spoke.
    WaitForReply {
        /// So much of it must be voiced.
        min_audio: Duration,
        /// Also listen to its end: until nothing was voiced for [`reply_gap`](super::phone::SoftPhone::reply_gap).
        until_end: bool,
        /// Give up after so long; that is noted as a failure, and the script goes on.
        timeout: Duration,
    },
    /// Listen until so much of the reply has sounded, to interrupt it with the next act.
    BargeInAfter {
        /// So much of it, silence within it included.
        heard: Duration,
        /// Give up after so long; that is noted as a failure, and the script goes on.
        timeout: Duration,
    },
    /// Listen until so much of the reply has sounded, or to its end if that comes first.
    ListenFor {
        /// So much of it, silence within it included.
        heard: Duration,
        /// Give up after so long; that is noted as a failure, and the script goes on.
        timeout: Duration,
    },
    /// Press a key. Dialects without keys note a failure.
    Dtmf(char),
    /// Send this text message, whatever it is.
    SendText(String),
    /// Send this binary message, whatever it is.
    SendBinary(Vec<u8>),
    /// Hang up.
    HangUp,
    /// Wait for the other side to end the call.
    WaitForEnd {
        /// Give up after so long; that is noted as a failure, and the script goes on.
        timeout: Duration,
    },
}

/// What the script can hear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ear {
    /// Voiced audio since the caller last spoke.
    pub(crate) voiced: Duration,
    /// All audio since then.
    pub(crate) played: Duration,
    /// Is the reply over?
    pub(crate) is_over: bool,
}

/// What the caller does in the next 20 ms, besides the samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doings {
    /// The first voiced frame of something said.
    pub(crate) speech_began: bool,
    /// The last voiced frame of something said.
    pub(crate) speech_ended: bool,
    pub(crate) dtmf: Option<char>,
    /// To be sent as it is.
    pub(crate) message: Option<Message>,
    pub(crate) hang_up: bool,
    /// A wait that was not rewarded.
    pub(crate) failure: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Script {
    acts: VecDeque<Act>,
    now_doing: Option<Doing>,
    frame_size: usize,
}

#[derive(Debug)]
enum Doing {
    Saying {
        clip: Clip,
        next_frame: usize,
        voiced: Option<(usize, usize)>,
    },
    Waiting {
        act: Act,
        until: Instant,
    },
}

impl Doing {
    fn is_waiting_for_end(&self) -> bool {
        let Self::Waiting { act, .. } = self else {
            return false;
        };
        matches!(act, Act::WaitForEnd { .. })
    }
}

impl Script {
    /// `rate` of the phone, in Hz; what is said is converted here, before the call.
    pub(crate) fn new(acts: &[Act], rate: u32) -> Self {
        let at_rate = |act: &Act| match act {
            Act::Say(clip) => Act::Say(clip.at_rate(rate)),
            other => other.clone(),
        };
        Self {
            acts: acts.iter().map(at_rate).collect(),
            now_doing: None,
            frame_size: (STEP.as_millis() as usize * rate as usize) / 1_000,
        }
    }

    /// Has everything been done?
    pub(crate) fn is_done(&self) -> bool {
        self.acts.is_empty() && self.now_doing.is_none()
    }

    /// The other side ended the call: a script that only waited for that is done.
    pub(crate) fn ended_by_other_side(&mut self) {
        let waiting_for_end = Doing::is_waiting_for_end;
        if self.acts.is_empty() && self.now_doing.as_ref().is_some_and(waiting_for_end) {
            self.now_doing = None;
        }
    }

    /// Fills `frame` with the next 20 ms and says what else happens.
    pub(crate) fn next_frame(&mut self, now: Instant, ear: Ear, frame: &mut Vec<i16>) -> Doings {
        frame.clear();
        let mut doings = Doings::default();
        while !self.proceed(now, ear, frame, &mut doings) {}
        frame.resize(self.frame_size, 0);
        doings
    }

    /// Does one act or a part of it; true when the 20 ms are used up.
    fn proceed(
        &mut self,
        now: Instant,
        ear: Ear,
        frame: &mut Vec<i16>,
        doings: &mut Doings,
    ) -> bool {
        match self.now_doing.take() {
            Some(Doing::Saying {
                clip,
                next_frame,
                voiced,
            }) => self.speak(clip, next_frame, voiced, frame, doings),
            Some(Doing::Waiting { act, until }) => {
                if is_rewarded(&act, ear) {
                    return false;
                }
                if now < until {
                    self.now_doing = Some(Doing::Waiting { act, until });
                    return true;
                }
                doings.failure = disappointment(&act, ear);
                false
            }
            None => self.begin_next(now, doings),
        }
    }

    fn begin_next(&mut self, now: Instant, doings: &mut Doings) -> bool {
        let Some(act) = self.acts.pop_front() else {
            doings.hang_up = true;
            return true;
        };
        let patience = match act {
            Act::Say(clip) => {
                let voiced = frames_voiced(&clip.samples, clip.rate);
                let first = voiced.iter().position(|v| *v);
                self.now_doing = Some(Doing::Saying {
                    clip,
                    next_frame: 0,
                    voiced: first.zip(voiced.iter().rposition(|v| *v)),
                });
                return false;
            }
            Act::Dtmf(digit) => {
                doings.dtmf = Some(digit);
                return true;
            }
            Act::SendText(text) => {
                doings.message = Some(Message::text(text));
                return true;
            }
            Act::SendBinary(bytes) => {
                doings.message = Some(Message::binary(bytes));
                return true;
            }
            Act::HangUp => {
                self.acts.clear();
                doings.hang_up = true;
                return true;
            }
            Act::Silence(duration) => duration,
            Act::WaitForReply { timeout, .. }
            | Act::BargeInAfter { timeout, .. }
            | Act::ListenFor { timeout, .. }
            | Act::WaitForEnd { timeout } => timeout,
        };
        self.now_doing = Some(Doing::Waiting {
            act,
            until: now + patience,
        });
        false
    }

    fn speak(
        &mut self,
        clip: Clip,
        index: usize,
        voiced: Option<(usize, usize)>,
        frame: &mut Vec<i16>,
        doings: &mut Doings,
    ) -> bool {
        let Some(samples) = clip.samples.chunks(self.frame_size).nth(index) else {
            return false;
        };
        frame.extend_from_slice(samples);
        doings.speech_began = voiced.is_some_and(|(first, _)| first == index);
        doings.speech_ended = voiced.is_some_and(|(_, last)| last == index);
        self.now_doing = Some(Doing::Saying {
            clip,
            next_frame: index + 1,
            voiced,
        });
        true
    }
}

fn is_rewarded(act: &Act, ear: Ear) -> bool {
    match act {
        Act::WaitForReply {
            min_audio,
            until_end,
            ..
        } => !ear.voiced.is_zero() && ear.voiced >= *min_audio && (ear.is_over || !until_end),
        Act::BargeInAfter { heard, .. } => !ear.played.is_zero() && ear.played >= *heard,
        Act::ListenFor { heard, .. } => {
            !ear.played.is_zero() && (ear.played >= *heard || ear.is_over)
        }
        _ => false,
    }
}

fn disappointment(act: &Act, ear: Ear) -> Option<String> {
    match act {
        Act::WaitForReply {
            min_audio, timeout, ..
        } => Some(format!(
            "waited {timeout:?} for a reply of at least {min_audio:?}, heard {:?} of speech",
            ear.voiced
        )),
        Act::BargeInAfter { heard, timeout } | Act::ListenFor { heard, timeout } => Some(format!(
            "waited {timeout:?} to interrupt after {heard:?}, heard {:?}",
            ear.played
        )),
        Act::WaitForEnd { timeout } => Some(format!("waited {timeout:?}, the call was not ended")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAF: Ear = Ear {
        voiced: Duration::ZERO,
        played: Duration::ZERO,
        is_over: false,
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn speech_begins_and_ends_with_its_voiced_frames() {
        let clip = Clip::new(
            [vec![0; 320], vec![9_000; 330], vec![0; 100]].concat(),
            8_000,
        );
        let mut script = Script::new(&[Act::Say(clip)], 8_000);
        let start = Instant::now();
        let mut frame = Vec::new();
        let mut seen = Vec::new();
        for n in 0..7 {
            let doings = script.next_frame(start + n * STEP, DEAF, &mut frame);
            assert_eq!(frame.len(), 160);
            seen.push((doings.speech_began, doings.speech_ended, doings.hang_up));
        }
        let quiet = (false, false, false);
        let expected = [
            quiet,
            quiet,
            (true, false, false),
            quiet,
            (false, true, false),
            (false, false, true),
            (false, false, true),
        ];
        assert_eq!(seen, expected);
        assert!(script.is_done());
    }

    #[test]
    fn waits_end_by_reward_or_by_time() {
        let acts = [
            Act::Silence(ms(40)),
            Act::BargeInAfter {
                heard: ms(100),
                timeout: ms(1_000),
            },
            Act::Dtmf('5'),
            Act::WaitForEnd { timeout: ms(20) },
        ];
        let mut script = Script::new(&acts, 24_000);
        let start = Instant::now();
        let mut frame = Vec::new();
        let mut step = |n: u32, played| {
            let ear = Ear {
                played: ms(played),
                ..DEAF
            };
            script.next_frame(start + n * STEP, ear, &mut frame)
        };
        assert_eq!(step(0, 0), Doings::default());
        assert_eq!(step(1, 0), Doings::default());
        assert_eq!(step(2, 99), Doings::default());
        assert_eq!(step(3, 100).dtmf, Some('5'));
        assert_eq!(step(4, 0), Doings::default());
        let end = step(5, 0);
        assert!(end.hang_up && end.failure.is_some_and(|f| f.contains("not ended")));
    }
}
