//! What replicas tell one another of their live calls, so that a call has a record also when its process is killed.
//!
//! While replicas share a store, each keeps there, for each of its live calls, the record as it would be now, without
//! anything of the caller's. The record of a call that ends is written once it is known that no other replica has taken the
//! call over; of one that is silent, the others take its calls over, each of them one replica, and write what was told.
//! [`Muster`] decides, and is pure; `recorder.rs` is the shell. No call waits for any of this.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use super::record::{CallRecord, millis};
use super::recorder::Job;
use super::shelf::Key;

/// Why a call ended whose process is gone, in its record.
const REPLICA_LOST: &str = "replica_lost";

/// Calls that are told at once.
pub(super) const AT_ONCE: usize = 64;

/// A record of which the store does not say whether another replica has written it is written after so long: several
/// attempts to connect to the store.
const DOUBT: Duration = Duration::from_secs(10);

/// Records that wait for the store's word; beyond that the oldest is written.
const MAX_ENDED: usize = 1_024;

/// Where replicas tell one another of their calls.
pub trait Roll: fmt::Debug + Send + Sync {
    /// Says that this replica lives, and what is new of its calls. None if nobody can say whether that came through.
    fn attend(&self, ask: Attend) -> BoxFuture<'_, Option<Attended>>;

    /// Takes over calls of a replica that is silent, of which no other replica takes any then. They are told again until
    /// [`Roll::confirm`]. None if nobody can say.
    fn take_over(&self, silent: String) -> BoxFuture<'_, Option<TakenOver>>;

    /// The records of these calls of that replica were handed over. Whether that came through for sure.
    fn confirm(&self, silent: String, calls: Vec<String>) -> BoxFuture<'_, bool>;
}

/// When a replica counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollTiming {
    /// The store takes one for silent that it has not heard for so long.
    pub life: Duration,
    /// Another replica believes it after so long, by a clock that nobody sets: the store's may have been.
    pub watch: Duration,
}

/// What a replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attend {
    /// What is new of which calls.
    pub calls: Vec<(String, String)>,
    /// Calls that have ended.
    pub ended: Vec<String>,
    /// Whatever else the store has of this replica is wrong.
    pub anew: bool,
}

/// What it hears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attended {
    /// How many of its calls the store knows now.
    pub n_calls: usize,
    /// Which of those that it named another replica has taken over.
    pub taken: Vec<String>,
    /// Replicas that the store has not heard for long.
    pub silent: Vec<String>,
}

/// Calls that were taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// For how long nothing has been heard of their replica.
    pub silent_for: Duration,
    /// By their ids, what was told of them.
    pub calls: Vec<(String, String)>,
}

/// What this replica knows of its calls and of the others.
#[derive(Debug)]
pub(super) struct Muster {
    timing: RollTiming,
    live: HashMap<String, Live>,
    /// The oldest first.
    ended: VecDeque<Ended>,
    /// When the store last heard of this replica for sure, and since when without a break.
    heard: Option<Heard>,
    /// Since when each replica is known to be silent.
    silent: HashMap<String, Instant>,
    /// What the store has may be wrong.
    anew: bool,
}

#[derive(Debug)]
struct Live {
    record: CallRecord,
    /// The store may know of the call.
    is_told: bool,
    has_changed: bool,
    is_taken: bool,
}

#[derive(Debug)]
struct Ended {
    job: Job,
    at: Instant,
    is_told: bool,
    is_asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    since: Instant,
    last: Instant,
}

/// Records whose time has come, and how many another replica has written.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) jobs: Vec<Job>,
    pub(super) superseded: Vec<String>,
}

impl Muster {
    pub(super) fn new(timing: RollTiming) -> Self {
        Self {
            timing,
            live: HashMap::new(),
            ended: VecDeque::new(),
            heard: None,
            silent: HashMap::new(),
            // Nobody else has this replica's name, so nothing is there.
            anew: false,
        }
    }

    /// There is nothing to be told of.
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.ended.is_empty()
    }

    /// What the record of a live call would be now. Whether the call is a new one.
    pub(super) fn enter(&mut self, record: CallRecord) -> bool {
        let record = CallRecord {
            caller: None,
            parameters: None,
            transcript: None,
            end_reason: REPLICA_LOST,
            end_side: "gateway",
            ..record
        };
        match self.live.get_mut(&record.call_id) {
            Some(live) => {
                live.record = record;
                live.has_changed = true;
                false
            }
            None => {
                let live = Live {
                    record,
                    is_told: false,
                    has_changed: true,
                    is_taken: false,
                };
                self.live.insert(live.record.call_id.clone(), live);
                true
            }
        }
    }

    /// A call has ended.
    pub(super) fn end(&mut self, job: Job, now: Instant) -> Decided {
        let live = self.live.remove(&job.key.call_id);
        let mut decided = Decided::default();
        if live.as_ref().is_some_and(|live| live.is_taken) {
            decided.superseded.push(job.key.call_id);
            return decided;
        }
        self.ended.push_back(Ended {
            job,
            at: now,
            is_told: live.is_some_and(|live| live.is_told),
            is_asked: false,
        });
        if self.ended.len() > MAX_ENDED {
            decided.jobs.extend(self.ended.pop_front().map(|it| it.job));
            self.anew = true;
        }
        decided
    }

    /// What the store is to hear next.
    pub(super) fn ask(&mut self) -> Attend {
        if self.anew {
            for live in self.live.values_mut() {
                live.has_changed = !live.is_taken;
            }
        }
        let changed = self.live.iter_mut().filter(|(_, live)| live.has_changed);
        let calls = changed.take(AT_ONCE).map(|(id, live)| {
            (live.is_told, live.has_changed) = (true, false);
            (id.clone(), text(&live.record))
        });
        let calls = calls.collect();
        let ended = self.ended.iter_mut().take(AT_ONCE).map(|it| {
            it.is_asked = true;
            it.job.key.call_id.clone()
        });
        Attend {
            calls,
            ended: ended.collect(),
            anew: std::mem::take(&mut self.anew),
        }
    }

    /// The store answered what it was asked at `asked_at`. What is to be said besides is said at once.
    pub(super) fn answered(&mut self, answer: Attended, asked_at: Instant) -> Decided {
        let since = match self.heard {
            Some(heard) if !self.is_silent(heard, asked_at) => heard.since,
            _ => asked_at,
        };
        self.heard = Some(Heard {
            since,
            last: asked_at,
        });
        self.silent = answer
            .silent
            .into_iter()
            .map(|name| {
                let since = self.silent.get(&name).copied().unwrap_or(asked_at);
                (name, since)
            })
            .collect();
        let taken: HashSet<String> = answer.taken.into_iter().collect();
        for id in &taken {
            if let Some(live) = self.live.get_mut(id) {
                live.is_taken = true;
            }
        }
        let mut decided = Decided::default();
        for ended in std::mem::take(&mut self.ended) {
            // Also one that lived when the store was asked.
            match taken.contains(&ended.job.key.call_id) {
                true => decided.superseded.push(ended.job.key.call_id),
                false if ended.is_asked => decided.jobs.push(ended.job),
                false => self.ended.push_back(ended),
            }
        }
        if !self.has_more() {
            let ours = self.live.values().filter(|live| !live.is_taken).count();
            // The store lost something, or was not told of an end.
            self.anew |= answer.n_calls != ours;
        }
        decided
    }

    /// There is more to be told at once than was. Not what the store turned out to have lost: that has a second.
    pub(super) fn has_more(&self) -> bool {
        !self.ended.is_empty() || self.live.values().any(|live| live.has_changed)
    }

    /// The store did not answer: what cannot have been taken over is written now, the rest when that is clear, or after
    /// a while.
    pub(super) fn failed(&mut self, now: Instant) -> Decided {
        self.anew = true;
        // A first word may have come through whose answer did not.
        let is_in_doubt = self.heard.is_none_or(|heard| self.is_silent(heard, now));
        let mut decided = Decided::default();
        let (waiting, due): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.ended)
            .into_iter()
            .partition(|it| is_in_doubt && it.is_told && now < it.at + DOUBT);
        self.ended = waiting;
        for it in &mut self.ended {
            it.is_asked = false;
        }
        decided.jobs.extend(due.into_iter().map(|it| it.job));
        decided
    }

    /// The process ends: all that is left.
    pub(super) fn rest(&mut self) -> Vec<Job> {
        self.ended.drain(..).map(|it| it.job).collect()
    }

    /// Nothing is told any more, until something is again.
    pub(super) fn pause(&mut self) {
        self.heard = None;
        self.silent.clear();
    }

    /// The replicas whose calls are to be taken over: silent for long enough, while this one was heard all the time. A
    /// store that was away for all of them finds them silent, and they have to have time to speak.
    pub(super) fn lost(&self, now: Instant) -> Vec<String> {
        let whole = self.timing.life + self.timing.watch;
        let is_sure = self.heard.is_some_and(|heard| {
            !self.is_silent(heard, now) && now.saturating_duration_since(heard.since) >= whole
        });
        let silent = self.silent.iter().filter(|(_, since)| {
            is_sure && now.saturating_duration_since(**since) >= self.timing.watch
        });
        silent.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the store may have taken this replica for silent since it last heard of it.
    fn is_silent(&self, heard: Heard, now: Instant) -> bool {
        now.saturating_duration_since(heard.last) >= self.timing.life
    }
}

fn text(record: &CallRecord) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

/// The record of a call whose replica has not been heard for so long. None if it is none.
pub(super) fn finish(text: &str, silent_for: Duration, now: SystemTime) -> Option<Job> {
    let mut record: Value = serde_json::from_str(text).ok()?;
    let fields = record.as_object_mut()?;
    let call_id = fields.get("call_id")?.as_str()?.to_owned();
    let began_at = humantime::parse_rfc3339(fields.get("began_at")?.as_str()?).ok()?;
    // Clocks of replicas may differ.
    let ended_at = now.checked_sub(silent_for)?.max(began_at);
    let duration = ended_at.duration_since(began_at).unwrap_or_default();
    let ended = humantime::format_rfc3339_millis(ended_at).to_string();
    fields.insert("ended_at".to_owned(), ended.into());
    fields.insert("duration_ms".to_owned(), millis(duration).into());
    let since = ended_at.duration_since(SystemTime::UNIX_EPOCH);
    Some(Job {
        key: Key {
            ended_ms: millis(since.unwrap_or_default()),
            call_id,
        },
        body: serde_json::to_vec(&record).ok()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: RollTiming = RollTiming {
        life: Duration::from_secs(10),
        watch: Duration::from_secs(4),
    };

    fn record(id: &str) -> CallRecord {
        CallRecord {
            call_id: id.to_owned(),
            began_at: "2026-03-02T09:15:04.000Z".to_owned(),
            caller: Some("+1".to_owned()),
            end_reason: "internal",
            ..CallRecord::default()
        }
    }

    fn job(id: &str) -> Job {
        Job {
            key: Key {
                ended_ms: 1,
                call_id: id.to_owned(),
            },
            body: "{}".into(),
        }
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Asks, and is answered that.
    fn attend(
        muster: &mut Muster,
        at: Instant,
        n_calls: usize,
        taken: &[&str],
        silent: &[&str],
    ) -> Decided {
        muster.ask();
        let texts = |them: &[&str]| them.iter().map(|&it| it.to_owned()).collect();
        let answer = Attended {
            n_calls,
            taken: texts(taken),
            silent: texts(silent),
        };
        muster.answered(answer, at)
    }

    fn ids(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.key.call_id.as_str()).collect()
    }

    #[test]
    fn a_call_is_told_when_something_is_new_and_without_what_is_the_callers() {
        let mut muster = Muster::new(TIMING);
        assert!(muster.enter(record("a")));
        let ask = muster.ask();
        let [(id, text)] = &ask.calls[..] else {
            panic!("{ask:?}");
        };
        let told: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(
            (id.as_str(), &told["end_reason"]),
            ("a", &REPLICA_LOST.into())
        );
        assert!(!ask.anew && !text.contains("+1"));
        assert_eq!(muster.ask(), Attend::default());
        assert!(!muster.enter(record("a")));
        assert_eq!(muster.ask().calls.len(), 1);
    }

    #[test]
    fn a_record_is_written_when_the_store_says_that_nobody_has() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        for id in ["a", "b"] {
            muster.enter(record(id));
        }
        attend(&mut muster, now, 2, &[], &[]);
        for id in ["a", "b"] {
            assert!(muster.end(job(id), now).jobs.is_empty());
        }
        let decided = attend(&mut muster, now, 0, &["b"], &[]);
        assert_eq!(
            (ids(&decided.jobs), decided.superseded),
            (vec!["a"], vec!["b".to_owned()])
        );
        assert!(muster.is_empty() && !muster.has_more());
    }

    #[test]
    fn what_was_taken_over_while_the_call_lived_on_is_not_written_twice() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        muster.enter(record("a"));
        attend(&mut muster, now, 1, &[], &[]);
        muster.enter(record("a"));
        attend(&mut muster, now, 0, &["a"], &[]);
        // Nor is it told again.
        assert!(!muster.ask().anew && muster.ask().calls.is_empty());
        assert_eq!(muster.end(job("a"), now).superseded, ["a"]);
    }

    #[test]
    fn a_call_that_ends_while_the_store_says_that_it_was_taken_is_not_written() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        for id in ["a", "b"] {
            muster.enter(record(id));
        }
        muster.ask();
        for id in ["a", "b"] {
            muster.end(job(id), now);
        }
        let answer = Attended {
            taken: vec!["a".to_owned()],
            ..Attended::default()
        };
        let decided = muster.answered(answer, now);
        assert_eq!(
            (decided.jobs.len(), decided.superseded),
            (0, vec!["a".to_owned()])
        );
        // Of the other one the store has not been asked yet.
        assert_eq!(muster.ask().ended, ["b"]);
    }

    #[test]
    fn without_the_stores_word_it_is_written_at_once_unless_it_may_be_written_already() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        for id in ["a", "b", "c"] {
            muster.enter(record(id));
        }
        // Never told of.
        muster.end(job("c"), now);
        assert_eq!(ids(&muster.failed(now).jobs), ["c"]);
        // Whether the first word came through, nobody knows.
        muster.enter(record("d"));
        muster.ask();
        muster.end(job("d"), now);
        assert!(muster.failed(now).jobs.is_empty());
        assert_eq!(ids(&muster.failed(now + DOUBT).jobs), ["d"]);
        attend(&mut muster, now, 2, &[], &[]);
        let soon = now + TIMING.life - after(1);
        muster.end(job("a"), soon);
        assert_eq!(ids(&muster.failed(soon).jobs), ["a"]);
        // Now another replica may have it.
        let late = now + TIMING.life;
        muster.end(job("b"), late);
        assert!(muster.failed(late).jobs.is_empty());
        assert!(muster.failed(late + DOUBT - after(1)).jobs.is_empty());
        assert_eq!(ids(&muster.failed(late + DOUBT).jobs), ["b"]);
        assert!(muster.ask().anew, "the store was not told of the ends");
    }

    #[test]
    fn whoever_does_not_wait_for_ever_holds_so_many() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        for n in 0..MAX_ENDED {
            assert!(muster.end(job(&n.to_string()), now).jobs.is_empty());
        }
        assert_eq!(ids(&muster.end(job("one more"), now).jobs), ["0"]);
        assert_eq!(muster.rest().len(), MAX_ENDED);
    }

    #[test]
    fn a_store_that_lost_calls_is_told_all_of_them() {
        let (mut muster, now) = (Muster::new(TIMING), Instant::now());
        for n in 0..=AT_ONCE {
            muster.enter(record(&n.to_string()));
        }
        attend(&mut muster, now, AT_ONCE, &[], &[]);
        assert!(muster.has_more());
        attend(&mut muster, now, AT_ONCE + 1, &[], &[]);
        assert_eq!(muster.ask(), Attend::default());
        attend(&mut muster, now, 0, &[], &[]);
        let ask = muster.ask();
        assert!(ask.anew && ask.calls.len() == AT_ONCE && muster.has_more());
        let ask = muster.ask();
        assert!(!ask.anew && ask.calls.len() == 1 && !muster.has_more());
    }

    #[test]
    fn a_replica_is_lost_when_it_is_silent_while_this_one_was_heard() {
        let (mut muster, start) = (Muster::new(TIMING), Instant::now());
        // Silent from the first word on: this one may have been away with it.
        for second in 0..14 {
            let now = start + after(second);
            attend(&mut muster, now, 0, &[], &["x"]);
            assert!(muster.lost(now).is_empty(), "{second}");
        }
        let now = start + after(14);
        attend(&mut muster, now, 0, &[], &["x", "y"]);
        assert_eq!(muster.lost(now), ["x"]);
        attend(&mut muster, now, 0, &[], &["y"]);
        assert!(muster.lost(now + after(3)).is_empty(), "x is back");
        assert_eq!(muster.lost(now + after(4)), ["y"]);
        // The store was away for as long as a replica may be.
        let now = now + TIMING.life;
        assert!(muster.lost(now).is_empty());
        attend(&mut muster, now, 0, &[], &["y"]);
        assert!(muster.lost(now).is_empty());
    }

    #[test]
    fn the_record_of_a_lost_call_ends_when_its_replica_was_last_heard() {
        let now = humantime::parse_rfc3339("2026-03-02T09:16:00Z").expect("a time");
        let job = finish(&text(&record("a")), after(16), now).expect("a record");
        assert_eq!(job.key.call_id, "a");
        let record: Value = serde_json::from_slice(&job.body).expect("JSON");
        assert_eq!(record["ended_at"], "2026-03-02T09:15:44.000Z");
        assert_eq!(record["duration_ms"], 40_000);
        let early = finish(&text(&self::record("a")), after(3_600), now).expect("a record");
        let record: Value = serde_json::from_slice(&early.body).expect("JSON");
        assert_eq!(record["duration_ms"], 0);
        for bad in ["", "[]", "{}", r#"{"call_id":"a","began_at":"soon"}"#] {
            assert!(finish(bad, after(1), now).is_none(), "{bad}");
        }
    }
}
