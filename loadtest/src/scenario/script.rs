//! One caller's script, drawn from the call's shape.

use std::time::Duration;

use trunkline::simulator::Act;
use trunkline::simulator::wav::Clip;

use super::{Answer, CallShape, Span};
use crate::code::FRAME;

/// What callers say, made once for all of them.
#[derive(Clone, Debug)]
pub struct Voices {
    saying: Saying,
    rate: u32,
}

/// What is said.
#[derive(Clone, Debug)]
pub enum Saying {
    /// Tones take the place of these sounds, which are of all lengths that are said, in order.
    Coded(Vec<Clip>),
    /// Recordings in turn.
    Recorded(Vec<Clip>),
}

impl Voices {
    /// Few lengths, so that a thousand callers share a few sounds.
    pub(super) fn coded(talk: Span, rate: u32) -> Self {
        const N_LENGTHS: u32 = 16;
        let step = (talk.to - talk.from) / (N_LENGTHS - 1);
        let n_lengths = if step.is_zero() { 1 } else { N_LENGTHS };
        let lengths = (0..n_lengths).map(|n| carrier(talk.from + step * n, rate));
        Self {
            saying: Saying::Coded(lengths.collect()),
            rate,
        }
    }

    pub(super) fn recorded(clips: Vec<Clip>, rate: u32) -> Self {
        let clips = clips.iter().map(|clip| clip.at_rate(rate)).collect();
        Self {
            saying: Saying::Recorded(clips),
            rate,
        }
    }

    /// Is what is said to be replaced by tones?
    #[must_use]
    pub fn is_coded(&self) -> bool {
        matches!(self.saying, Saying::Coded(_))
    }

    /// Of the samples, in Hz.
    #[must_use]
    pub fn rate(&self) -> u32 {
        self.rate
    }

    fn say(&self, n: usize, random: &mut fastrand::Rng) -> Clip {
        match &self.saying {
            Saying::Recorded(clips) => clips[n % clips.len().max(1)].clone(),
            Saying::Coded(lengths) => lengths[random.usize(..lengths.len())].clone(),
        }
    }
}

/// As loud as the tones, so that the phone takes each frame for speech.
fn carrier(length: Duration, rate: u32) -> Clip {
    const LEVEL: i16 = 2_800;
    let n_frames = length.as_millis().div_ceil(FRAME.as_millis()) as usize;
    Clip::new(vec![LEVEL; n_frames * rate as usize / 50], rate)
}

impl CallShape {
    /// What one caller does. The same seed, the same caller.
    #[must_use]
    pub fn script(&self, voices: &Voices, random: &mut fastrand::Rng) -> Vec<Act> {
        let wait_for_reply = Act::WaitForReply {
            min_audio: Duration::from_millis(20),
            until_end: true,
            timeout: self.patience,
        };
        let heard = |heard| Act::ListenFor {
            heard,
            timeout: self.patience,
        };
        let mut acts = Vec::new();
        if self.listen_first {
            acts.push(wait_for_reply.clone());
        }
        acts.push(Act::Silence(self.before.draw(random)));
        let first = random.usize(..1_000);
        let n_turns = self.turns.draw(random) as usize;
        for n in 0..n_turns {
            acts.push(Act::Say(voices.say(first + n, random)));
            let hangs_up = random.f64() < self.hang_up.share;
            let barges_in = random.f64() < self.barge_in.share;
            if hangs_up {
                acts.extend([heard(self.hang_up.after.draw(random)), Act::HangUp]);
                return acts;
            }
            // After the last reply there is nothing to interrupt it with.
            if barges_in && n + 1 < n_turns {
                acts.push(heard(self.barge_in.after.draw(random)));
                continue;
            }
            match self.answer {
                Answer::Reply => acts.push(wait_for_reply.clone()),
                // What was said last is under way.
                Answer::Echo => acts.push(Act::Silence(self.reply_gap)),
            }
            acts.push(Act::Silence(self.think.draw(random)));
        }
        for key in self.dtmf.chars() {
            acts.extend([Act::Dtmf(key), Act::Silence(Duration::from_millis(200))]);
        }
        acts.push(Act::HangUp);
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Chance, Number, Span};

    fn names(shape: &CallShape) -> Vec<String> {
        let mut random = fastrand::Rng::with_seed(1);
        let script = shape.script(&Voices::coded(shape.talk, 8_000), &mut random);
        let name = |act: &Act| {
            format!("{act:?}")
                .chars()
                .take_while(|c| c.is_alphabetic())
                .collect()
        };
        script.iter().map(name).collect()
    }

    #[test]
    fn a_caller_does_what_the_shape_says() {
        let always = Chance {
            share: 1.0,
            after: Span::ms(500, 500),
        };
        let shape = CallShape {
            turns: Number::exactly(2),
            ..CallShape::default()
        };
        let turn = ["Say", "WaitForReply", "Silence"];
        let expected = [&["Silence"][..], &turn, &turn, &["HangUp"]].concat();
        assert_eq!(names(&shape), expected);
        let impatient = CallShape {
            barge_in: always,
            listen_first: true,
            dtmf: "1".into(),
            ..shape.clone()
        };
        let expected = [
            &["WaitForReply", "Silence", "Say", "ListenFor"][..],
            &turn,
            &["Dtmf", "Silence", "HangUp"],
        ];
        assert_eq!(names(&impatient), expected.concat());
        let rude = CallShape {
            hang_up: always,
            ..shape
        };
        assert_eq!(names(&rude), ["Silence", "Say", "ListenFor", "HangUp"]);
    }
}
