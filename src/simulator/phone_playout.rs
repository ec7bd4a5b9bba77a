//! The phone's ear: plays what was received in real time, by its own clock.
//!
//! Pure: time is a parameter. Audio starts to sound when it arrives at an idle phone and then runs at its
//! sample rate, sample-exact; there is no jitter buffer, so a hole in the supply is a hole in the sound.
//! Marks are reached when all audio before them has sounded.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::judge::{VOICED_DBFS, dbfs};

/// Granularity of playout and of marks, 20 ms.
pub(crate) const STEP: Duration = Duration::from_millis(20);

/// Something that the ear noticed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Noticed {
    /// All audio before the mark has sounded.
    Mark(String),
    /// A stretch that was louder than the voiced threshold.
    Voiced { from: Instant, until: Instant },
    /// Nothing is left to play since then.
    Dry { at: Instant },
    /// The supply had a hole in the middle of a reply.
    Underrun { from: Instant, until: Instant },
}

/// How much of one reply arrived and sounded, in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) received: u64,
    pub(crate) played: u64,
}

/// A stretch of sound without a hole, as recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) started: Instant,
    pub(crate) n_samples: usize,
}

/// What was heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    /// Every sample that sounded, without the holes between them.
    pub(crate) samples: Vec<i16>,
    /// Where they belong.
    pub(crate) stretches: Vec<Stretch>,
}

#[derive(Debug)]
enum Entry {
    Audio {
        samples: Vec<i16>,
        n_played: usize,
        reply: usize,
    },
    Mark(String),
}

/// Runs while there is something to play.
#[derive(Debug)]
struct Clock {
    started: Instant,
    n_played: u64,
    next_step: Instant,
}

#[derive(Debug)]
pub(crate) struct Playout {
    rate: u32,
    keep: bool,
    queue: VecDeque<Entry>,
    n_queued: u64,
    clock: Option<Clock>,
    dry_since: Option<(Instant, usize)>,
    /// Indexed by reply.
    progress: Vec<Progress>,
    n_played: u64,
    /// Played samples not yet judged, at most a step.
    block: Vec<i16>,
    voiced_energy: f64,
    n_voiced: u64,
    recording: Recording,
}

impl Playout {
    /// `keep`: record what sounds.
    pub(crate) fn new(rate: u32, keep: bool) -> Self {
        Self {
            rate,
            keep,
            queue: VecDeque::new(),
            n_queued: 0,
            clock: None,
            dry_since: None,
            progress: Vec::new(),
            n_played: 0,
            block: Vec::new(),
            voiced_energy: 0.0,
            n_voiced: 0,
            recording: Recording::default(),
        }
    }

    /// Appends audio of a reply. Call [`Playout::advance`] with the same `now` first.
    pub(crate) fn push_audio(
        &mut self,
        now: Instant,
        samples: Vec<i16>,
        reply: usize,
    ) -> Option<Noticed> {
        if samples.is_empty() {
            return None;
        }
        if self.progress.len() <= reply {
            self.progress.resize(reply + 1, Progress::default());
        }
        self.progress[reply].received += samples.len() as u64;
        self.n_queued += samples.len() as u64;
        self.queue.push_back(Entry::Audio {
            samples,
            n_played: 0,
            reply,
        });
        if self.clock.is_some() {
            return None;
        }
        self.clock = Some(Clock {
            started: now,
            n_played: 0,
            next_step: now + STEP,
        });
        let dry = self.dry_since.take();
        match dry {
            Some((from, last)) if from == now && last == reply => None,
            dry => {
                if self.keep {
                    self.recording.stretches.push(Stretch {
                        started: now,
                        n_samples: 0,
                    });
                }
                let (from, last) = dry?;
                (last == reply).then_some(Noticed::Underrun { from, until: now })
            }
        }
    }

    /// Appends a mark; it is reached at once if nothing waits before it.
    pub(crate) fn push_mark(&mut self, name: String) -> Option<Noticed> {
        if self.queue.is_empty() {
            return Some(Noticed::Mark(name));
        }
        self.queue.push_back(Entry::Mark(name));
        None
    }

    /// Throws away what has not sounded; returns the marks among it, oldest first.
    /// Call [`Playout::advance`] with the same `now` first.
    pub(crate) fn clear(&mut self, now: Instant, noticed: &mut Vec<Noticed>) -> Vec<String> {
        let marks = self.queue.drain(..).filter_map(|entry| match entry {
            Entry::Mark(name) => Some(name),
            Entry::Audio { .. } => None,
        });
        let marks = marks.collect();
        self.n_queued = 0;
        if self.clock.take().is_some() {
            self.judge_block(now, noticed);
        }
        // What comes next is a new beginning, however soon it comes.
        self.dry_since = None;
        marks
    }

    /// Lets everything sound that is due.
    pub(crate) fn advance(&mut self, now: Instant, noticed: &mut Vec<Noticed>) {
        let Some(clock) = &mut self.clock else { return };
        let started = clock.started;
        let due = n_samples_in(now - started, self.rate);
        while clock.next_step <= now {
            clock.next_step += STEP;
        }
        while let Some(entry) = self.queue.front_mut() {
            let position = match &self.clock {
                Some(clock) => clock.n_played,
                None => break,
            };
            match entry {
                Entry::Mark(_) => {
                    if let Some(Entry::Mark(name)) = self.queue.pop_front() {
                        noticed.push(Noticed::Mark(name));
                    }
                }
                Entry::Audio {
                    samples,
                    n_played,
                    reply,
                } => {
                    let n = (due - position).min((samples.len() - *n_played) as u64) as usize;
                    let reply = *reply;
                    let sounded = samples[*n_played..*n_played + n].to_vec();
                    *n_played += n;
                    let finished = *n_played == samples.len();
                    self.sound(&sounded, reply, noticed);
                    if !finished {
                        return;
                    }
                    self.queue.pop_front();
                    if self.n_queued == 0 {
                        self.dry_since = Some((self.position_time(), reply));
                    }
                }
            }
        }
        if let Some((at, _)) = self.dry_since {
            self.judge_block(at, noticed);
            self.clock = None;
            noticed.push(Noticed::Dry { at });
        }
    }

    /// When [`Playout::advance`] should be called next, if nothing arrives before.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        self.clock.as_ref().map(|clock| clock.next_step)
    }

    /// Is there audio that has not sounded?
    pub(crate) fn is_playing(&self) -> bool {
        self.clock.is_some()
    }

    /// What waits to be played.
    pub(crate) fn queued(&self) -> Duration {
        self.time_of(self.n_queued)
    }

    /// What sounded so far.
    pub(crate) fn played(&self) -> Duration {
        self.time_of(self.n_played)
    }

    /// How far a reply got.
    pub(crate) fn progress(&self, reply: usize) -> Progress {
        self.progress.get(reply).copied().unwrap_or_default()
    }

    /// How long so many samples last, rounded down to the nanosecond.
    pub(crate) fn time_of(&self, n_samples: u64) -> Duration {
        Duration::from_nanos(n_samples * 1_000_000_000 / u64::from(self.rate))
    }

    /// How much of what sounded was louder than the voiced threshold, and its level in dBFS.
    pub(crate) fn voiced(&self) -> (Duration, f64) {
        let level = dbfs(self.voiced_energy / self.n_voiced.max(1) as f64);
        (self.time_of(self.n_voiced), level)
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }

    fn sound(&mut self, samples: &[i16], reply: usize, noticed: &mut Vec<Noticed>) {
        let n = samples.len() as u64;
        self.progress[reply].played += n;
        self.n_played += n;
        self.n_queued -= n;
        if self.keep {
            self.recording.samples.extend_from_slice(samples);
            if let Some(stretch) = self.recording.stretches.last_mut() {
                stretch.n_samples += samples.len();
            }
        }
        let block_size = n_samples_in(STEP, self.rate) as usize;
        for &sample in samples {
            self.block.push(sample);
            if let Some(clock) = &mut self.clock {
                clock.n_played += 1;
            }
            if self.block.len() == block_size {
                let until = self.position_time();
                self.judge_block(until, noticed);
            }
        }
    }

    /// The moment up to which the running clock has played.
    fn position_time(&self) -> Instant {
        let clock = self
            .clock
            .as_ref()
            .expect("asked only while the clock runs");
        clock.started + self.time_of(clock.n_played)
    }

    fn judge_block(&mut self, until: Instant, noticed: &mut Vec<Noticed>) {
        if self.block.is_empty() {
            return;
        }
        let energy: f64 = self.block.iter().map(|&s| f64::from(s).powi(2)).sum();
        let n = self.block.len() as u64;
        if dbfs(energy / n as f64) > VOICED_DBFS {
            self.voiced_energy += energy;
            self.n_voiced += n;
            noticed.push(Noticed::Voiced {
                from: until - self.time_of(n),
                until,
            });
        }
        self.block.clear();
    }
}

fn n_samples_in(time: Duration, rate: u32) -> u64 {
    (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: i16 = 8_000;

    struct Ear {
        playout: Playout,
        start: Instant,
    }

    impl Ear {
        fn new() -> Self {
            Self {
                playout: Playout::new(8_000, true),
                start: Instant::now(),
            }
        }

        fn advance(&mut self, ms: u64) -> Vec<Noticed> {
            let mut noticed = Vec::new();
            let now = self.start + Duration::from_millis(ms);
            self.playout.advance(now, &mut noticed);
            noticed
        }

        fn push(&mut self, at_ms: u64, n_ms: usize, reply: usize) -> Option<Noticed> {
            let mut noticed = self.advance(at_ms);
            let now = self.start + Duration::from_millis(at_ms);
            noticed.extend(self.playout.push_audio(now, vec![LOUD; n_ms * 8], reply));
            noticed
                .into_iter()
                .find(|n| matches!(n, Noticed::Underrun { .. }))
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }
    }

    fn marks(noticed: &[Noticed]) -> Vec<&str> {
        let name = |n: &'_ Noticed| matches!(n, Noticed::Mark(_));
        noticed
            .iter()
            .filter(|n| name(n))
            .map(|n| match n {
                Noticed::Mark(name) => name.as_str(),
                _ => "",
            })
            .collect()
    }

    #[test]
    fn marks_are_reached_when_what_is_before_them_has_sounded() {
        let mut ear = Ear::new();
        ear.push(0, 100, 0);
        assert_eq!(ear.playout.push_mark("a".into()), None);
        ear.push(5, 40, 0);
        ear.playout.push_mark("b".into());
        assert!(marks(&ear.advance(99)).is_empty());
        assert_eq!(marks(&ear.advance(100)), ["a"]);
        assert!(marks(&ear.advance(139)).is_empty());
        let last = ear.advance(140);
        assert_eq!(marks(&last), ["b"]);
        assert!(last.contains(&Noticed::Dry { at: ear.at(140) }));
        assert_eq!(
            ear.playout.push_mark("c".into()),
            Some(Noticed::Mark("c".into()))
        );
    }

    #[test]
    fn clear_drops_what_has_not_sounded_and_returns_its_marks() {
        let mut ear = Ear::new();
        ear.push(0, 100, 0);
        ear.playout.push_mark("a".into());
        ear.push(0, 100, 0);
        ear.playout.push_mark("b".into());
        ear.advance(37);
        let mut noticed = Vec::new();
        assert_eq!(ear.playout.clear(ear.at(37), &mut noticed), ["a", "b"]);
        let progress = ear.playout.progress(0);
        assert_eq!((progress.received, progress.played), (1_600, 37 * 8));
        assert_eq!(ear.playout.next_step(), None);
        assert_eq!(ear.playout.played(), Duration::from_millis(37));
        assert_eq!(ear.playout.voiced().0, Duration::from_millis(37));
    }

    #[test]
    fn a_hole_within_a_reply_is_an_underrun_and_one_between_replies_is_not() {
        let mut ear = Ear::new();
        assert_eq!(ear.push(0, 20, 0), None);
        assert_eq!(ear.push(20, 20, 0), None, "just in time");
        let (from, until) = (ear.at(40), ear.at(45));
        assert_eq!(ear.push(45, 20, 0), Some(Noticed::Underrun { from, until }));
        assert_eq!(ear.push(100, 20, 1), None);
        ear.advance(200);
        let recording = ear.playout.into_recording();
        let lengths: Vec<_> = recording
            .stretches
            .iter()
            .map(|s| s.n_samples / 8)
            .collect();
        assert_eq!(lengths, [40, 20, 20]);
        assert_eq!(recording.samples.len(), 80 * 8);
    }

    #[test]
    fn loud_blocks_are_noticed_at_their_time() {
        let mut ear = Ear::new();
        let start = ear.start;
        ear.playout.push_audio(start, vec![0; 160], 0);
        ear.playout.push_audio(start, vec![LOUD; 160], 0);
        let noticed = ear.advance(60);
        let (from, until) = (ear.at(20), ear.at(40));
        assert_eq!(
            noticed,
            [Noticed::Voiced { from, until }, Noticed::Dry { at: until }]
        );
    }
}
