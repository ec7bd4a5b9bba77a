//! The sessions of one pool that stand by: what is there, and what is wanted.
//!
//! Holds the hand-over ends only; each session itself is with a task of [`standby`](super::standby) that reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::realtime::WireFormat;
use crate::routing::{Demand, DialTimes};

use super::deployment::{Deployment, ModelAudio};
use super::dial::ModelLeg;
use super::pool::{SessionFormats, StandbyConfig};
use super::standby::{Configure, StandbyLine};
use super::state::{Held, StandsBy, now};

/// The line for SDK callers, whose sessions are not configured.
pub(super) const SDK: &str = "";

/// The metric label of that line.
const SDK_LABEL: &str = "(sdk)";

/// A session for an SDK caller is no older, so that most of its cap is left.
pub(super) const SDK_AGE: Duration = Duration::from_secs(60);

/// Calls by which is learnt what formats an agent's calls have: the last few dozens.
const MEMORY: f64 = 0.97;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) config: StandbyConfig,
    lines: Mutex<BTreeMap<String, Line>>,
    /// There may be something to do.
    pub(super) changed: Notify,
}

/// The sessions for one agent.
pub(super) struct Line {
    /// Whose, as metrics name it.
    pub(super) label: String,
    /// How they are configured, if they are.
    pub(super) configure: Option<Configure>,
    pub(super) demand: Demand,
    pub(super) waiting: Vec<Waiting>,
    /// Sessions being opened.
    pub(super) n_opening: usize,
    /// How long it took to open and configure one of late.
    pub(super) opened_in: DialTimes,
    /// How often each format was asked for of late, where a deployment takes the caller's own.
    formats: [(SessionFormats, f64); 3],
    /// No session is opened before then, and how often it failed.
    pub(super) not_before: Option<Instant>,
    pub(super) failures: u32,
}

/// A session that stands by.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) member: usize,
    pub(super) formats: Option<SessionFormats>,
    /// Of the credential that it was opened with.
    pub(super) rotation: u64,
    pub(super) began: Instant,
    pub(super) held: Held,
    /// Dropped when a call takes it.
    pub(super) _stands_by: StandsBy,
    /// Asks its task for the connection; dropped, the task closes it.
    pub(super) ask: oneshot::Sender<oneshot::Sender<ModelLeg>>,
}

impl Waiting {
    pub(super) fn deployment(&self) -> &Arc<Deployment> {
        &self.held.0
    }

    /// Its task found it dead or too old.
    pub(super) fn is_gone(&self) -> bool {
        self.ask.is_closed()
    }
}

impl Stock {
    pub(super) fn new(config: StandbyConfig) -> Self {
        Self {
            config,
            lines: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn lines(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.lines.lock().expect("no panic while held")
    }

    /// Sessions stand by for these from now on, and for SDK callers if that is wanted; those that stand by already stay.
    /// Returns the lines that are no more.
    pub(super) fn set_lines<'a>(&self, wanted: impl Iterator<Item = &'a StandbyLine>) -> Vec<Line> {
        let sdk = self.config.sdk.then(|| (SDK, Line::new(SDK_LABEL, None)));
        let wanted = wanted.map(|it| {
            let line = Line::new(&it.agent, Some(Arc::clone(&it.configure)));
            (it.line.as_str(), line)
        });
        let mut lines = self.lines();
        let mut old = std::mem::take(&mut *lines);
        for (name, new) in wanted.chain(sdk) {
            let line = old.remove(name).unwrap_or(new);
            lines.insert(name.to_owned(), line);
        }
        drop(lines);
        self.changed.notify_one();
        old.into_values().collect()
    }

    /// No session stands by any more. Returns the lines that did.
    pub(super) fn clear(&self) -> Vec<Line> {
        std::mem::take(&mut *self.lines()).into_values().collect()
    }

    pub(super) fn expect(&self, line: &str) {
        if let Some(line) = self.lines().get_mut(line) {
            line.demand.expect(now());
            self.changed.notify_one();
        }
    }

    pub(super) fn learn(&self, line: &str, audio: ModelAudio, formats: SessionFormats) {
        if audio != ModelAudio::Passthrough {
            return;
        }
        let mut lines = self.lines();
        for (known, count) in lines
            .get_mut(line)
            .into_iter()
            .flat_map(|it| &mut it.formats)
        {
            *count *= MEMORY;
            if *known == formats {
                *count += 1.0;
            }
        }
    }
}

impl Line {
    /// What the next call at a deployment will most likely ask for.
    pub(super) fn formats(&self, audio: ModelAudio) -> SessionFormats {
        let likely = self.formats.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        match audio {
            ModelAudio::Pcm16 => both(WireFormat::Pcm24k),
            ModelAudio::Passthrough => likely.map_or(both(WireFormat::Ulaw), |it| it.0),
        }
    }
}

const fn both(format: WireFormat) -> SessionFormats {
    SessionFormats {
        input: format,
        output: format,
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("label", &self.label)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Line {
    fn new(label: &str, configure: Option<Configure>) -> Self {
        Self {
            label: label.to_owned(),
            configure,
            demand: Demand::default(),
            waiting: Vec::new(),
            n_opening: 0,
            opened_in: DialTimes::default(),
            // Before a call says otherwise, the first is taken: it is what Twilio speaks.
            formats: [
                (both(WireFormat::Ulaw), 1.0),
                (both(WireFormat::Alaw), 0.0),
                (both(WireFormat::Pcm24k), 0.0),
            ],
            not_before: None,
            failures: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_learnt_from_calls() {
        let stock = Stock::new(StandbyConfig {
            sdk: true,
            ..StandbyConfig::default()
        });
        assert!(stock.set_lines(std::iter::empty()).is_empty());
        let check = |audio, expected| {
            assert_eq!(stock.lines()[SDK].formats(audio), both(expected));
        };
        let learn = |n, audio, format| {
            (0..n).for_each(|_| stock.learn(SDK, audio, both(format)));
        };
        check(ModelAudio::Pcm16, WireFormat::Pcm24k);
        check(ModelAudio::Passthrough, WireFormat::Ulaw);
        learn(3, ModelAudio::Passthrough, WireFormat::Alaw);
        check(ModelAudio::Passthrough, WireFormat::Alaw);
        learn(9, ModelAudio::Pcm16, WireFormat::Pcm24k);
        check(ModelAudio::Passthrough, WireFormat::Alaw);
        check(ModelAudio::Pcm16, WireFormat::Pcm24k);
        learn(60, ModelAudio::Passthrough, WireFormat::Ulaw);
        check(ModelAudio::Passthrough, WireFormat::Ulaw);
        stock.learn("nobody", ModelAudio::Passthrough, both(WireFormat::Alaw));
    }
}
