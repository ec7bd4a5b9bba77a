//! Compares the frames that came with those that were sent: what is lost, doubled, late in order, or not ours.
//!
//! What is said between two silences is a turn. Of a turn that comes back, every frame is expected, unless the reply
//! was cut off: then those up to the last that came. Of a turn that nothing came back of, nothing is lost; it is
//! unanswered, which is counted elsewhere.

use std::collections::VecDeque;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::{Found, MODULUS, Stamp};

/// Frames, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Frames with a stamp that were sent.
    pub sent: u64,
    /// Of them, those in turns that came back, up to where the reply was cut off.
    pub expected: u64,
    /// Whole frames that came, whosever they are.
    pub received: u64,
    /// Expected frames that did not come.
    pub lost: u64,
    /// Frames that had come before.
    pub duplicated: u64,
    /// Frames that came after a later one.
    pub reordered: u64,
    /// Sound in the place of a frame that could not be read; the frame counts as lost as well.
    pub damaged: u64,
    /// Sound, in frames, that is no frame and in the place of none: a greeting, another voice.
    pub other: u64,
    /// Frames of other calls, or of none that was sent.
    pub foreign: u64,
}

/// A frame that came as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its number within the call, from 0.
    pub frame: u64,
    /// Its number within its turn, from 0.
    pub in_turn: u64,
    /// The turn, from 0.
    pub turn: u64,
}

/// The judge of one call.
#[derive(Debug)]
pub struct Judge {
    call: u16,
    n_sent: u64,
    is_speaking: bool,
    n_turns: u64,
    turns: VecDeque<Turn>,
    /// The turn that was heard last.
    hearing: Option<u64>,
    /// Sound since then that could not be read.
    n_unread: u64,
    tally: Tally,
}

/// Turns that are remembered: the answer to an older one would come minutes late.
const MAX_TURNS: usize = 4;

#[derive(Debug)]
struct Turn {
    number: u64,
    first: u64,
    /// Whether each frame came.
    came: Vec<bool>,
    /// Behind the last that came.
    end: usize,
    is_cut: bool,
}

impl Judge {
    /// Of the call of this number.
    #[must_use]
    pub fn new(call: u64) -> Self {
        Self {
            call: Stamp::new(call, 0).call,
            n_sent: 0,
            is_speaking: false,
            n_turns: 0,
            turns: VecDeque::new(),
            hearing: None,
            n_unread: 0,
            tally: Tally::default(),
        }
    }

    /// A frame of speech is about to be sent; its stamp.
    pub fn speak(&mut self) -> Stamp {
        if !self.is_speaking {
            self.is_speaking = true;
            if self.turns.len() == MAX_TURNS {
                self.settle_oldest();
            }
            self.turns.push_back(Turn {
                number: self.n_turns,
                first: self.n_sent,
                came: Vec::new(),
                end: 0,
                is_cut: false,
            });
            self.n_turns += 1;
        }
        let stamp = Stamp::new(u64::from(self.call), self.n_sent);
        self.n_sent += 1;
        self.tally.sent += 1;
        if let Some(turn) = self.turns.back_mut() {
            turn.came.push(false);
        }
        stamp
    }

    /// A frame of silence is sent.
    pub fn pause(&mut self) {
        self.is_speaking = false;
    }

    /// Something came. A frame that came for the first time is told more of.
    pub fn hear(&mut self, found: Found) -> Option<Heard> {
        let Found::Frame(stamp) = found else {
            self.n_unread += 1;
            return None;
        };
        self.tally.received += 1;
        let heard = self.place(stamp);
        let Some((n, index)) = heard else {
            self.tally.foreign += 1;
            return None;
        };
        let number = self.turns[n].number;
        self.place_unread(Some((number, index as u64)));
        self.hearing = Some(number);
        let turn = &mut self.turns[n];
        if std::mem::replace(&mut turn.came[index], true) {
            self.tally.duplicated += 1;
            return None;
        }
        if index < turn.end {
            self.tally.reordered += 1;
        }
        turn.end = turn.end.max(index + 1);
        Some(Heard {
            frame: turn.first + index as u64,
            in_turn: index as u64,
            turn: turn.number,
        })
    }

    /// What had not been heard was dropped: of turns that are being answered, no more is expected.
    pub fn cut(&mut self) {
        self.place_unread(None);
        for turn in &mut self.turns {
            turn.is_cut |= turn.end > 0;
        }
    }

    /// The call is over. `is_cut`: a reply was still coming.
    #[must_use]
    pub fn end(mut self, is_cut: bool) -> Tally {
        self.place_unread(None);
        if is_cut {
            self.cut();
        }
        while !self.turns.is_empty() {
            self.settle_oldest();
        }
        self.tally
    }

    /// The turn that a stamp is of, by its place in the list, and the frame within it.
    fn place(&self, stamp: Stamp) -> Option<(usize, usize)> {
        if stamp.call != self.call {
            return None;
        }
        // The latest frame sent that has this number.
        let modulus = u64::from(MODULUS);
        let last = self.n_sent.checked_sub(1)?;
        let back = (last % modulus + modulus - u64::from(stamp.sequence)) % modulus;
        let frame = last.checked_sub(back)?;
        let n = self.turns.iter().rposition(|turn| turn.first <= frame)?;
        let index = (frame - self.turns[n].first) as usize;
        (index < self.turns[n].came.len()).then_some((n, index))
    }

    /// What could not be read is damaged as far as frames are missing there: between two of a turn, at the end of the
    /// turn that was heard, at the beginning of the turn that is heard `now`, of which this frame came first.
    fn place_unread(&mut self, now: Option<(u64, u64)>) {
        let n_unread = std::mem::take(&mut self.n_unread);
        if n_unread == 0 {
            return;
        }
        let heard = self.hearing;
        let is_within = heard.is_some() && now.map(|(turn, _)| turn) == heard;
        let heard = self.turns.iter().find(|turn| Some(turn.number) == heard);
        let missing = match heard {
            _ if is_within => n_unread,
            Some(turn) if !turn.is_cut => (turn.came.len() - turn.end) as u64,
            Some(_) | None => 0,
        };
        let missing = missing + now.filter(|_| !is_within).map_or(0, |(_, index)| index);
        let n_damaged = n_unread.min(missing);
        self.tally.damaged += n_damaged;
        self.tally.other += n_unread - n_damaged;
    }

    fn settle_oldest(&mut self) {
        let Some(turn) = self.turns.pop_front() else {
            return;
        };
        if turn.end == 0 {
            return;
        }
        let end = if turn.is_cut {
            turn.end
        } else {
            turn.came.len()
        };
        let n_came = turn.came.iter().filter(|came| **came).count();
        self.tally.expected += end as u64;
        self.tally.lost += (end - n_came) as u64;
    }
}

impl Tally {
    /// Frames that came twice, damaged, or out of order.
    #[must_use]
    pub fn faulty(&self) -> u64 {
        self.duplicated + self.damaged + self.reordered
    }

    /// What faulty frames are a share of: all that came, readable or not.
    #[must_use]
    pub fn came(&self) -> u64 {
        self.received + self.damaged
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.other += other.other;
        self.foreign += other.foreign;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: u64 = 5;

    /// Two turns of ten frames are said, then these come, each by its number in the call.
    fn tally(came: &[u64], change: impl FnOnce(&mut Judge)) -> Tally {
        let mut judge = Judge::new(CALL);
        for _ in 0..2 {
            for _ in 0..10 {
                let _ = judge.speak();
            }
            judge.pause();
        }
        for n in came {
            judge.hear(Found::Frame(Stamp::new(CALL, *n)));
        }
        change(&mut judge);
        judge.end(false)
    }

    fn check(came: &[u64], change: impl FnOnce(&mut Judge), expected: Tally) {
        let expected = Tally {
            sent: 20,
            ..expected
        };
        assert_eq!(tally(came, change), expected, "{came:?}");
    }

    #[test]
    fn frames_are_counted_by_their_fate() {
        let counts = |expected, received| Tally {
            expected,
            received,
            ..Tally::default()
        };
        let all: Vec<u64> = (0..20).collect();
        check(&all, |_| {}, counts(20, 20));
        check(&[], |_| {}, counts(0, 0));
        let second = &all[10..];
        check(second, |_| {}, counts(10, 10));
        let lost = Tally {
            lost: 3,
            ..counts(10, 7)
        };
        check(&[10, 11, 13, 14, 15, 17, 18], |_| {}, lost);
        let twice = Tally {
            duplicated: 1,
            ..counts(10, 11)
        };
        check(&[&second[..5], &second[4..]].concat(), |_| {}, twice);
        let swapped = Tally {
            reordered: 1,
            ..counts(10, 10)
        };
        check(&[&[11, 10], &second[2..]].concat(), |_| {}, swapped);
        let foreign = Tally {
            foreign: 2,
            ..counts(0, 2)
        };
        check(
            &[30],
            |judge| {
                judge.hear(Found::Frame(Stamp::new(CALL + 1, 3)));
            },
            foreign,
        );
    }

    #[test]
    fn what_cannot_be_read_is_damaged_where_a_frame_is_missing() {
        let check = |came: &[Option<u64>], damaged, other| {
            let tally = tally(&[], |judge| {
                for n in came {
                    let frame = |n| Found::Frame(Stamp::new(CALL, n));
                    judge.hear(n.map_or(Found::Damaged, frame));
                }
            });
            assert_eq!((tally.damaged, tally.other), (damaged, other), "{came:?}");
        };
        check(&[None, None], 0, 2);
        check(&[None, None, Some(1)], 1, 1);
        check(&[Some(3), None, Some(5)], 1, 0);
        check(&[Some(8), None, None], 1, 1);
        check(&[Some(9), None], 0, 1);
        check(&[Some(8), None, None, None, Some(11)], 2, 1);
    }

    #[test]
    fn what_was_cut_off_is_not_lost() {
        let cut = Tally {
            expected: 5,
            received: 4,
            lost: 1,
            ..Tally::default()
        };
        check(&[10, 11, 12, 14], Judge::cut, cut);
        let whole = Tally {
            expected: 10,
            lost: 6,
            ..cut
        };
        check(&[10, 11, 12, 14], |_| {}, whole);
    }

    #[test]
    fn numbers_may_wrap() {
        let mut judge = Judge::new(CALL);
        let n_frames = u64::from(MODULUS) + 100;
        for _ in 0..n_frames {
            let _ = judge.speak();
        }
        let heard = judge.hear(Found::Frame(Stamp::new(CALL, n_frames - 1)));
        assert_eq!(heard.map(|it| it.frame), Some(n_frames - 1));
        let heard = judge.hear(Found::Frame(Stamp::new(CALL, 200)));
        assert_eq!(heard.map(|it| it.frame), Some(200));
    }
}
