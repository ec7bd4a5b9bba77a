//! When reply frames may leave, and what of them must have been heard.
//!
//! The pacer keeps one number: the moment at which everything released so far will have been played.
//! A frame may leave while that moment lies no more than the lead ahead. Deadlines follow from that
//! number and not from the last wake-up, so they do not drift; after an underrun the schedule starts
//! anew, because what was late cannot be caught up with (telephony reference 16.3).

use std::time::{Duration, Instant};

use super::format::FRAME;

/// The playout clock of one call, and the rhythm that follows from it.
#[derive(Clone, Debug)]
pub struct Pacer {
    lead: Duration,
    /// Frames that leave together.
    chunk_frames: usize,
    play_end: Option<Instant>,
}

/// What may leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// So many frames.
    pub frames: usize,
    /// How long after its deadline the first of them leaves; `None` when it starts a new schedule.
    pub lateness: Option<Duration>,
    /// When the last of them will have been played.
    pub play_end: Instant,
}

impl Pacer {
    /// A pacer that lets frames leave at most `lead` before they are due at the ear. A lead shorter than
    /// a frame means one frame in flight.
    #[must_use]
    pub fn new(lead: Duration) -> Self {
        Self {
            lead: lead.max(FRAME),
            chunk_frames: 1,
            play_end: None,
        }
    }

    /// The same, but only so many frames together may leave, or a multiple of them. The lead is at least that long.
    #[must_use]
    pub fn in_chunks_of(mut self, frames: usize) -> Self {
        self.chunk_frames = frames.max(1);
        self.lead = self.lead.max(self.chunk());
        self
    }

    /// Frames that leave together.
    #[must_use]
    pub fn chunk_frames(&self) -> usize {
        self.chunk_frames
    }

    fn chunk(&self) -> Duration {
        FRAME * u32::try_from(self.chunk_frames).unwrap_or(u32::MAX)
    }

    /// Releases what may leave at `now` of the `available` frames.
    pub fn release(&mut self, available: usize, now: Instant) -> Option<Release> {
        self.release_ahead(Duration::ZERO, available, now)
    }

    /// Releases also what might leave within `ahead` from `now`: for somebody who is awake now and would rather not wake
    /// up once more for it.
    pub fn release_ahead(
        &mut self,
        ahead: Duration,
        available: usize,
        now: Instant,
    ) -> Option<Release> {
        // What ends at this very moment is followed without a hole.
        let running = self.play_end.filter(|end| *end >= now);
        let mut play_end = running.unwrap_or(now);
        let chunk = self.chunk();
        let due = play_end + chunk;
        let mut frames = 0;
        let lead = self.lead + ahead;
        while frames + self.chunk_frames <= available && play_end + chunk <= now + lead {
            play_end += chunk;
            frames += self.chunk_frames;
        }
        if frames == 0 {
            return None;
        }
        self.play_end = Some(play_end);
        Some(Release {
            frames,
            lateness: running.map(|_| (now + self.lead).saturating_duration_since(due)),
            play_end,
        })
    }

    /// When the next frame may leave, provided that one waits.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Instant {
        match self.play_end {
            Some(end) if end >= now => end + self.chunk() - self.lead,
            _ => now,
        }
    }

    /// Audio that was released and, by the playout clock, not played yet.
    #[must_use]
    pub fn unplayed(&self, now: Instant) -> Duration {
        self.play_end
            .map_or(Duration::ZERO, |end| end.saturating_duration_since(now))
    }

    /// The caller threw away what was not played.
    pub fn clear(&mut self) {
        self.play_end = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAD: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn fills_the_lead_and_then_keeps_the_frame_rhythm() {
        let start = Instant::now();
        let mut pacer = Pacer::new(LEAD);
        assert_eq!(pacer.release(50, start).map(|r| r.frames), Some(5));
        assert_eq!(pacer.release(45, start), None);
        for step in 1..=45 {
            let due = pacer.deadline(start + ms(20 * (step - 1)));
            assert_eq!(due, start + ms(20 * step));
            assert_eq!(pacer.release(1, due - ms(1)), None, "never early");
            let release = pacer.release(1, due).expect("a frame is due");
            assert_eq!(
                (release.frames, release.lateness),
                (1, Some(Duration::ZERO))
            );
        }
    }

    #[test]
    fn frames_leave_in_whole_chunks() {
        let start = Instant::now();
        let mut pacer = Pacer::new(ms(400)).in_chunks_of(10);
        assert_eq!(pacer.release(9, start), None, "no part of a chunk");
        assert_eq!(pacer.release(29, start).map(|r| r.frames), Some(20));
        let due = pacer.deadline(start);
        assert_eq!(due, start + ms(200));
        assert_eq!(pacer.release(19, due - ms(1)), None, "never early");
        assert_eq!(pacer.release(19, due).map(|r| r.frames), Some(10));
        // A lead shorter than a chunk would hold it for ever.
        let mut pacer = Pacer::new(ms(20)).in_chunks_of(10);
        assert_eq!(pacer.release(10, start).map(|r| r.frames), Some(10));
    }

    #[test]
    fn a_late_wake_up_catches_up_without_drift_and_reports_it() {
        let start = Instant::now();
        let mut pacer = Pacer::new(LEAD);
        pacer.release(5, start);
        let release = pacer.release(10, start + ms(67)).expect("frames are due");
        assert_eq!(release.frames, 3);
        assert_eq!(release.lateness, Some(ms(47)));
        assert_eq!(pacer.deadline(start + ms(67)), start + ms(80));
    }

    #[test]
    fn an_underrun_starts_a_new_schedule() {
        let start = Instant::now();
        let mut pacer = Pacer::new(LEAD);
        pacer.release(1, start);
        assert_eq!(pacer.unplayed(start + ms(5)), ms(15));
        assert_eq!(pacer.unplayed(start + ms(500)), Duration::ZERO);
        let release = pacer.release(100, start + ms(500)).expect("frames wait");
        assert_eq!((release.frames, release.lateness), (5, None));
    }

    #[test]
    fn no_lead_means_one_frame_in_flight() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Duration::ZERO);
        assert_eq!(pacer.release(9, start).map(|r| r.frames), Some(1));
        assert_eq!(pacer.release(9, start + ms(19)), None);
        let release = pacer.release(9, start + ms(20)).expect("a frame is due");
        assert_eq!(release.frames, 1);
        assert_eq!(
            release.lateness,
            Some(Duration::ZERO),
            "in time, no underrun"
        );
    }

    proptest! {
        #[test]
        fn never_more_than_the_lead_ahead(
            wakes in prop::collection::vec((0u64..70, 0usize..12), 1..200),
            lead in 0u64..400,
        ) {
            let mut pacer = Pacer::new(ms(lead));
            let mut now = Instant::now();
            for (pause, available) in wakes {
                now += ms(pause);
                if let Some(release) = pacer.release(available, now) {
                    prop_assert!(release.frames <= available);
                }
                prop_assert!(pacer.unplayed(now) <= ms(lead).max(FRAME));
            }
        }
    }
}
