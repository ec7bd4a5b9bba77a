//! Puts numbered audio back into order, for providers that do not promise it (telephony reference 2.3).
//!
//! It knows no time: a gap is given up once three messages wait behind it, which is 60 ms where they are of 20 ms.

use std::collections::BTreeMap;

/// Messages that wait for one that is missing.
const WINDOW: usize = 3;

/// A number so far behind is not late: they were begun anew.
const RESTART: u64 = 50;

/// What to do with a message's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is next.
    Now,
    /// It waits for one before it, or has just ended the waiting of others; the buffer is empty.
    Waits,
    /// It came too late, or twice; the buffer is empty.
    Late,
}

/// The order of one stream's audio.
#[derive(Clone, Debug, Default)]
pub(super) struct Reorder {
    next: Option<u64>,
    waiting: BTreeMap<u64, Vec<u8>>,
}

impl Reorder {
    /// Takes the message of that number; [`Self::next`] wants to be asked afterwards. Numbers count from 0 or 1, but a stream may also be joined later.
    pub(super) fn take(&mut self, number: u64, audio: &mut Vec<u8>) -> Turn {
        let is_beginning = number <= WINDOW as u64 + 1;
        let first = if is_beginning { number.min(1) } else { number };
        let next = *self.next.get_or_insert(first);
        if number == next || next.saturating_sub(number) > RESTART {
            if number != next {
                self.waiting.clear();
            }
            self.next = Some(number.saturating_add(1));
            return Turn::Now;
        }
        if number < next || self.waiting.contains_key(&number) {
            audio.clear();
            return Turn::Late;
        }
        self.waiting.insert(number, std::mem::take(audio));
        if self.waiting.len() > WINDOW {
            self.next = self.waiting.keys().next().copied();
        }
        Turn::Waits
    }

    /// Puts into the buffer what need not wait any longer, if there is anything.
    pub(super) fn next(&mut self, audio: &mut Vec<u8>) -> bool {
        match (self.waiting.first_entry(), self.next) {
            (Some(first), Some(next)) if *first.key() == next => {
                *audio = first.remove();
                self.next = Some(next.saturating_add(1));
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as they come, and as they go on.
    fn check(come: &[u64], go: &[u64]) {
        let mut order = Reorder::default();
        let mut went = Vec::new();
        for number in come {
            let mut audio = number.to_be_bytes().to_vec();
            let turn = order.take(*number, &mut audio);
            assert_eq!(turn == Turn::Now, !audio.is_empty(), "{number} of {come:?}");
            let mut is_next = turn == Turn::Now;
            while is_next || order.next(&mut audio) {
                went.push(u64::from_be_bytes(audio.as_slice().try_into().unwrap()));
                is_next = false;
            }
        }
        assert_eq!(went, go, "{come:?}");
    }

    #[test]
    fn what_was_swapped_is_put_right() {
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[0, 1, 2], &[0, 1, 2]);
        check(&[2, 1, 3], &[1, 2, 3]);
        check(&[1, 4, 3, 2, 5], &[1, 2, 3, 4, 5]);
        // Joined later.
        check(&[100, 102, 101], &[100, 101, 102]);
    }

    #[test]
    fn what_is_lost_or_late_is_done_without() {
        check(&[1, 3, 4, 5], &[1]);
        check(&[1, 3, 4, 5, 6, 7], &[1, 3, 4, 5, 6, 7]);
        check(&[1, 3, 4, 5, 6, 2, 7], &[1, 3, 4, 5, 6, 7]);
        check(&[1, 1, 2, 2, 4, 4, 3], &[1, 2, 3, 4]);
        check(&[u64::MAX, u64::MAX], &[u64::MAX, u64::MAX]);
    }

    #[test]
    fn a_new_count_is_followed() {
        check(&[100, 101, 1, 2], &[100, 101, 1, 2]);
        check(
            &[100, 500, 501, 502, 503, 504],
            &[100, 500, 501, 502, 503, 504],
        );
    }
}
