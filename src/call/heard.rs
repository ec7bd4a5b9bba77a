//! What the caller has really heard of the reply.
//!
//! Audio is accounted for in stream positions: time since the last clear, in whole frames. Three facts
//! are put together. The pacer says what was released and what must still lie unplayed at the caller's
//! side. Marks that come back correct that clock: a far end that stalls acknowledges later than before,
//! one that plays ahead acknowledges earlier. And nothing that was acknowledged can become unheard.
//!
//! The delay that every acknowledgement shares is the network's round trip; it does not count as a
//! stall, because a clear takes just as long to arrive as the audio before it did. Nor does the jitter of
//! a single acknowledgement: a far end that stalled is late with all that follow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::{FRAME, Pacer};

use super::event::Mark;

/// Audio between two marks where the dialect has them; the telephony reference (18.4) says 200-250 ms,
/// finer marks bound the error when a far end stalls.
const MARK_SPACING: Duration = Duration::from_millis(100);

/// How much later than usual a mark may come back before that says anything: jitter of both ways.
const MARK_TOLERANCE: Duration = Duration::from_millis(40);

/// A mark so late is not merely under way: TCP bunches frames by up to 200 ms (telephony reference 16.2).
const MARK_LOST: Duration = Duration::from_millis(200);

/// The least lag of so many acknowledgements tells a stall, which delays all of them, from jitter.
const RECENT_MARKS: usize = 3;

/// Marks that may be on their way; a far end that never echoes any must not make them pile up.
const MAX_PENDING: usize = 64;

/// The ledger of one call's reply audio since the last clear.
#[derive(Debug)]
pub(super) struct Heard {
    pacer: Pacer,
    uses_marks: bool,
    /// Item ids are one session's own.
    session: u32,
    segments: VecDeque<Segment>,
    queued: Duration,
    released: Duration,
    generation: u32,
    next_mark: u32,
    marked: Duration,
    pending: VecDeque<PendingMark>,
    acked: Duration,
    /// What was heard of all that came before the last clear.
    before: Duration,
    /// How far acknowledgements lag behind the playout clock, in microseconds; negative is ahead of it.
    least_offset: Option<i64>,
    recent_offsets: VecDeque<i64>,
}

/// Audio of one content part of one item.
#[derive(Debug)]
struct Segment {
    session: u32,
    item_id: String,
    content_index: u32,
    start: Duration,
    /// How much of the content part came before.
    offset: Duration,
    received: Duration,
    /// Its last frame was completed with silence: what follows does not follow without a gap.
    complete: bool,
}

#[derive(Debug)]
struct PendingMark {
    mark: Mark,
    position: Duration,
    predicted: Instant,
}

/// Frames that leave now, and the mark to put behind them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Play {
    pub(super) frames: usize,
    pub(super) lateness: Option<Duration>,
    pub(super) mark: Option<Mark>,
}

/// An item that was cut short.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Counted from 0.
    pub(super) session: u32,
    pub(super) item_id: String,
    pub(super) content_index: u32,
    pub(super) heard: Duration,
}

impl Segment {
    fn is_of(&self, session: u32, item_id: &str, content_index: u32) -> bool {
        self.session == session && self.item_id == item_id && self.content_index == content_index
    }
}

impl Heard {
    pub(super) fn new(lead: Duration, chunk_frames: usize, uses_marks: bool) -> Self {
        Self {
            pacer: Pacer::new(lead).in_chunks_of(chunk_frames),
            uses_marks,
            session: 0,
            segments: VecDeque::new(),
            queued: Duration::ZERO,
            released: Duration::ZERO,
            generation: 0,
            next_mark: 0,
            marked: Duration::ZERO,
            pending: VecDeque::new(),
            acked: Duration::ZERO,
            before: Duration::ZERO,
            least_offset: None,
            recent_offsets: VecDeque::with_capacity(RECENT_MARKS),
        }
    }

    /// What comes from now on is another session's.
    pub(super) fn next_session(&mut self) {
        self.session += 1;
    }

    /// The session that is written to, from 0.
    pub(super) fn session(&self) -> u32 {
        self.session
    }

    /// `received` of an item's audio came in and lengthened the playout queue by `frames`.
    pub(super) fn queue(
        &mut self,
        item_id: &str,
        content_index: u32,
        received: Duration,
        frames: usize,
    ) {
        match self.segments.back_mut() {
            Some(last) if last.is_of(self.session, item_id, content_index) && !last.complete => {
                last.received += received;
            }
            _ => self.begin_segment(item_id, content_index, received),
        }
        self.queued += FRAME * frames as u32;
    }

    fn begin_segment(&mut self, item_id: &str, content_index: u32, received: Duration) {
        let before = self
            .segments
            .iter()
            .rfind(|segment| segment.is_of(self.session, item_id, content_index));
        let segment = Segment {
            session: self.session,
            item_id: item_id.to_owned(),
            content_index,
            start: self.queued,
            offset: before.map_or(Duration::ZERO, |segment| segment.offset + segment.received),
            received,
            complete: false,
        };
        self.segments.push_back(segment);
    }

    /// The playout queue was lengthened by `frames` that complete what was received before.
    pub(super) fn complete(&mut self, frames: usize) {
        self.queued += FRAME * frames as u32;
        if let Some(last) = self.segments.back_mut() {
            last.complete |= frames > 0;
        }
    }

    /// Lets go of the frames that are due.
    pub(super) fn release(&mut self, now: Instant) -> Option<Play> {
        self.release_ahead(Duration::ZERO, now)
    }

    /// Lets go of the frames that will be due within `ahead`.
    pub(super) fn release_ahead(&mut self, ahead: Duration, now: Instant) -> Option<Play> {
        let waiting = self.waiting_frames();
        let release = self.pacer.release_ahead(ahead, waiting, now)?;
        self.released += FRAME * release.frames as u32;
        if release.lateness.is_none() {
            self.forget_stall();
        }
        self.forget_heard(now);
        Some(Play {
            frames: release.frames,
            lateness: release.lateness,
            mark: self.place_mark(release.play_end),
        })
    }

    /// Whether as many frames wait as are released together.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting_frames() >= self.pacer.chunk_frames()
    }

    /// When the next frame is due, if one waits.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.has_waiting().then(|| self.pacer.deadline(now))
    }

    /// A mark came back. One of an older generation was thrown away by a clear and says nothing.
    pub(super) fn mark_reached(&mut self, mark: Mark, now: Instant) -> bool {
        if mark.generation != self.generation {
            return false;
        }
        let Some(at) = self.pending.iter().position(|pending| pending.mark == mark) else {
            return false;
        };
        let Some(pending) = self.pending.drain(..=at).next_back() else {
            return false;
        };
        self.acked = self.acked.max(pending.position);
        let offset = micros_between(pending.predicted, now);
        self.least_offset = Some(self.least_offset.map_or(offset, |least| least.min(offset)));
        if self.recent_offsets.len() == RECENT_MARKS {
            self.recent_offsets.pop_front();
        }
        self.recent_offsets.push_back(offset);
        true
    }

    /// Whether anything was released that the far end may still hold: where it acknowledges at all, its
    /// queue is only known to be empty once the last mark came back.
    pub(super) fn may_be_buffered(&self, now: Instant) -> bool {
        self.released > Duration::ZERO && (self.awaits_mark() || !self.remaining(now).is_zero())
    }

    /// Whether a far end that is known to acknowledge has yet to acknowledge what was released.
    pub(super) fn awaits_mark(&self) -> bool {
        self.least_offset.is_some() && !self.pending.is_empty()
    }

    /// Until everything that was queued has been heard, by the playout clock.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        self.queued.saturating_sub(self.heard(now))
    }

    /// Throws away what was not heard and says which items that cuts short, in the order of playing.
    /// `grows` says that more of the last item was to come: then it is cut even if what came was heard.
    pub(super) fn clear(&mut self, grows: bool, now: Instant) -> Vec<Cut> {
        let heard = self.heard(now);
        self.before += heard;
        let mut cuts: Vec<Cut> = Vec::new();
        while let Some(segment) = self.segments.pop_front() {
            // What is played after the next one began is not this one's, however much of this one was
            // received and found no room. A frame may hold the end of one and the beginning of the next.
            let next = self.segments.front().map_or(self.queued, |next| next.start);
            let part = heard
                .min(next + FRAME)
                .saturating_sub(segment.start)
                .min(segment.received);
            let is_cut = part < segment.received || (grows && self.segments.is_empty());
            let is_known = cuts
                .iter()
                .any(|cut| segment.is_of(cut.session, &cut.item_id, cut.content_index));
            if is_cut && !is_known {
                cuts.push(Cut {
                    session: segment.session,
                    item_id: segment.item_id,
                    content_index: segment.content_index,
                    heard: segment.offset + part,
                });
            }
        }
        self.pacer.clear();
        self.pending.clear();
        self.generation += 1;
        self.queued = Duration::ZERO;
        self.released = Duration::ZERO;
        self.marked = Duration::ZERO;
        self.acked = Duration::ZERO;
        self.forget_stall();
        cuts
    }

    /// How much was heard since the call began.
    pub(super) fn total(&self, now: Instant) -> Duration {
        self.before + self.heard(now)
    }

    /// The stream position that the caller's ear has reached.
    fn heard(&self, now: Instant) -> Duration {
        let clock = self.released.saturating_sub(self.pacer.unplayed(now));
        let Some(least) = self.least_offset else {
            return clock;
        };
        let round_trip = Duration::from_micros(least.max(0).unsigned_abs());
        let lag = self.recent_offsets.iter().min().copied().unwrap_or(least) - least.max(0);
        let shift = Duration::from_micros(lag.unsigned_abs());
        let (mut position, stalled) = if lag >= 0 {
            (clock.saturating_sub(shift), shift)
        } else {
            (clock + shift, Duration::ZERO)
        };
        if let Some(next) = self.pending.front() {
            let usual = next.predicted + round_trip + stalled;
            let overdue = now.saturating_duration_since(usual);
            if overdue > MARK_LOST {
                position = position.min(next.position);
            } else if overdue > MARK_TOLERANCE {
                // Played at the latest when its echo could not yet be here, and the ear went on since.
                position = position.min(next.position + round_trip + MARK_TOLERANCE);
            }
        }
        position.clamp(self.acked, self.released)
    }

    /// A far end with nothing left to play has caught up.
    fn forget_stall(&mut self) {
        self.recent_offsets.clear();
    }

    fn waiting_frames(&self) -> usize {
        ((self.queued - self.released).as_nanos() / FRAME.as_nanos()) as usize
    }

    fn place_mark(&mut self, predicted: Instant) -> Option<Mark> {
        let is_last = self.released == self.queued;
        if !self.uses_marks || (!is_last && self.released - self.marked < MARK_SPACING) {
            return None;
        }
        let mark = Mark {
            generation: self.generation,
            index: self.next_mark,
        };
        self.next_mark = self.next_mark.wrapping_add(1);
        self.marked = self.released;
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(PendingMark {
            mark,
            position: self.released,
            predicted,
        });
        Some(mark)
    }

    /// Items heard to their end can no longer be cut, unless they may still grow.
    fn forget_heard(&mut self, now: Instant) {
        let heard = self.heard(now);
        while let (Some(first), Some(next)) = (self.segments.front(), self.segments.get(1))
            && next.start <= heard
            && first.start + first.received <= next.start + FRAME
        {
            self.segments.pop_front();
        }
    }
}

fn micros_between(from: Instant, to: Instant) -> i64 {
    match to.checked_duration_since(from) {
        Some(later) => later.as_micros() as i64,
        None => -(from.duration_since(to).as_micros() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A far end with a buffer: plays in real time from the arrival of the first frame, may stall, and
    /// acknowledges marks `delay` after they were played; what it sends and gets takes `delay` each way.
    struct FarEnd {
        delay: Duration,
        arrivals: Vec<(Instant, usize, Option<Mark>)>,
        stalled: Duration,
    }

    impl FarEnd {
        fn played_at(&self, now: Instant) -> Duration {
            let mut end: Option<Instant> = None;
            let mut total = Duration::ZERO;
            for (at, frames, _) in &self.arrivals {
                let start = end.map_or(*at + self.stalled, |end| end.max(*at));
                end = Some(start + FRAME * *frames as u32);
                total += FRAME * *frames as u32;
            }
            total.saturating_sub(
                end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now)),
            )
        }

        fn acks(&self) -> Vec<(Instant, Mark)> {
            let mut end: Option<Instant> = None;
            let mut acks = Vec::new();
            for (at, frames, mark) in &self.arrivals {
                let start = end.map_or(*at + self.stalled, |end| end.max(*at));
                let played = start + FRAME * *frames as u32;
                end = Some(played);
                acks.extend(mark.map(|mark| (played + self.delay, mark)));
            }
            acks
        }
    }

    /// Plays `reply_ms` of one item and clears it at `cut_ms`; returns what the ledger says and what
    /// the far end had played when the clear arrived there.
    fn cut(
        reply_ms: u64,
        cut_ms: u64,
        marks: bool,
        delay: u64,
        stalled: u64,
    ) -> (Duration, Duration) {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, marks);
        let mut far = FarEnd {
            delay: ms(delay),
            arrivals: Vec::new(),
            stalled: ms(stalled),
        };
        heard.queue("item", 0, ms(reply_ms), (reply_ms / 20) as usize);
        let mut acked = 0;
        for t in 0..cut_ms {
            let now = start + ms(t);
            if let Some(play) = heard.release(now) {
                far.arrivals.push((now + far.delay, play.frames, play.mark));
            }
            let acks = far.acks();
            while let Some((at, mark)) = acks.get(acked).filter(|(at, _)| *at <= now) {
                assert!(heard.mark_reached(*mark, *at));
                acked += 1;
            }
        }
        let now = start + ms(cut_ms);
        let said = heard
            .clear(false, now)
            .first()
            .map_or(ms(reply_ms), |cut| cut.heard);
        (said, far.played_at(now + far.delay))
    }

    fn check(reply_ms: u64, marks: bool, delay: u64, stalled: u64, tolerance_ms: u64) {
        for cut_ms in (1..reply_ms + 300).step_by(7) {
            let (said, true_position) = cut(reply_ms, cut_ms, marks, delay, stalled);
            assert!(
                said.abs_diff(true_position) <= ms(tolerance_ms),
                "cut at {cut_ms} ms: said {said:?}, played {true_position:?}"
            );
        }
    }

    #[test]
    fn a_far_end_without_marks_is_followed_by_the_clock() {
        check(1_000, false, 0, 0, 0);
        check(1_000, false, 80, 0, 0);
    }

    #[test]
    fn marks_agree_with_the_clock_whatever_the_round_trip() {
        check(1_000, true, 0, 0, 0);
        check(1_000, true, 80, 0, 0);
    }

    #[test]
    fn a_far_end_that_acknowledges_on_arrival_is_believed() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, true);
        heard.queue("item", 0, ms(2_000), 100);
        let mut sent = Duration::ZERO;
        for t in 0..777 {
            let now = start + ms(t);
            if let Some(play) = heard.release(now) {
                sent += FRAME * play.frames as u32;
                if let Some(mark) = play.mark {
                    heard.mark_reached(mark, now);
                }
            }
        }
        let cut = heard.clear(false, start + ms(777)).remove(0);
        assert!(cut.heard.abs_diff(sent) <= FRAME, "{cut:?} of {sent:?}");
    }

    #[test]
    fn one_late_acknowledgement_is_no_stall() {
        let (start, round_trip, late) = (Instant::now(), ms(160), ms(60));
        for cut_ms in 400..900 {
            let mut heard = Heard::new(LEAD, 1, true);
            heard.queue("item", 0, ms(2_000), 100);
            let mut acks = VecDeque::new();
            for t in 0..cut_ms {
                let now = start + ms(t);
                if let Some(mark) = heard.release(now).and_then(|play| play.mark) {
                    let jitter = if mark.index == 3 { late } else { ms(0) };
                    acks.push_back((start + heard.released + round_trip + jitter, mark));
                }
                while let Some((_, mark)) = acks.front().filter(|(at, _)| *at <= now) {
                    assert!(heard.mark_reached(*mark, now));
                    acks.pop_front();
                }
            }
            let cut = heard.clear(false, start + ms(cut_ms)).remove(0);
            let off = cut.heard.abs_diff(ms(cut_ms));
            assert!(off <= FRAME, "{cut:?} at {cut_ms} ms");
        }
    }

    #[test]
    fn a_far_end_that_stops_acknowledging_has_stopped_playing() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, true);
        heard.queue("item", 0, ms(3_000), 150);
        let mut last_ack = Duration::ZERO;
        let mut marks = VecDeque::new();
        let mut released = Duration::ZERO;
        for t in 0..1_500 {
            let now = start + ms(t);
            if let Some(play) = heard.release(now) {
                released += FRAME * play.frames as u32;
                marks.extend(play.mark.map(|mark| (released, mark)));
            }
            while let Some((position, mark)) = marks
                .front()
                .copied()
                .filter(|(p, _)| *p <= ms(t) && t < 700)
            {
                assert!(heard.mark_reached(mark, now));
                last_ack = position;
                marks.pop_front();
            }
        }
        let cut = heard.clear(false, start + ms(1_500)).remove(0);
        assert!(
            cut.heard >= last_ack && cut.heard <= last_ack + MARK_SPACING,
            "{cut:?} after {last_ack:?}"
        );
    }

    #[test]
    fn marks_of_an_older_generation_say_nothing() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, true);
        heard.queue("a", 0, ms(100), 5);
        let old = heard
            .release(start)
            .and_then(|play| play.mark)
            .expect("a mark");
        assert_eq!(heard.clear(false, start).len(), 1);
        heard.queue("b", 0, ms(100), 5);
        heard.release(start + ms(1));
        assert!(!heard.mark_reached(old, start + ms(2)));
        assert_eq!(heard.clear(false, start + ms(2))[0].heard, ms(1));
    }

    #[test]
    fn every_item_that_was_not_heard_out_is_cut() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, false);
        heard.queue("a", 0, ms(100), 5);
        heard.queue("b", 0, ms(90), 5);
        heard.queue("b", 1, ms(40), 2);
        heard.queue("c", 0, ms(40), 2);
        for t in 0..150 {
            heard.release(start + ms(t));
        }
        let cut = |item_id: &str, content_index, heard| Cut {
            session: 0,
            item_id: item_id.to_owned(),
            content_index,
            heard: ms(heard),
        };
        assert_eq!(
            heard.clear(false, start + ms(150)),
            [cut("b", 0, 50), cut("b", 1, 0), cut("c", 0, 0)]
        );
    }

    #[test]
    fn the_padding_of_a_last_frame_is_not_speech() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, false);
        heard.queue("a", 0, ms(30), 1);
        heard.complete(1);
        heard.release(start);
        assert_eq!(heard.clear(false, start + ms(35)), []);
    }

    #[test]
    fn an_item_that_goes_on_after_its_padding_keeps_its_own_count() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, false);
        heard.queue("a", 0, ms(30), 1);
        heard.complete(1);
        heard.queue("a", 0, ms(200), 10);
        for t in 0..100 {
            heard.release(start + ms(t));
        }
        // 100 ms were played, of which 10 ms were padding.
        let cut = Cut {
            session: 0,
            item_id: "a".to_owned(),
            content_index: 0,
            heard: ms(90),
        };
        assert_eq!(heard.clear(false, start + ms(100)), [cut]);
    }

    #[test]
    fn an_item_of_which_more_was_to_come_is_cut_at_its_end() {
        let start = Instant::now();
        for (grows, expected) in [(true, vec![ms(40)]), (false, vec![])] {
            let mut heard = Heard::new(LEAD, 1, false);
            heard.queue("a", 0, ms(40), 2);
            heard.release(start);
            let cuts = heard.clear(grows, start + ms(500));
            let heard: Vec<_> = cuts.iter().map(|cut| cut.heard).collect();
            assert_eq!(heard, expected);
        }
    }

    #[test]
    fn what_found_no_room_in_the_queue_was_not_heard() {
        let start = Instant::now();
        let mut heard = Heard::new(LEAD, 1, false);
        heard.queue("a", 0, ms(500), 2);
        heard.queue("b", 0, ms(200), 10);
        for t in 0..100 {
            heard.release(start + ms(t));
        }
        let cuts = heard.clear(false, start + ms(100));
        let heard: Vec<_> = cuts.iter().map(|cut| (&*cut.item_id, cut.heard)).collect();
        assert_eq!(heard, [("a", ms(60)), ("b", ms(60))]);
    }
}
