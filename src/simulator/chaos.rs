//! What can be done to deployments while they serve: for tests and load runs that want to see who notices.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// How a deployment behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// It refuses upgrades with this HTTP status; sessions go on.
    Refusing(u16),
    /// Nothing of it is heard any more, on new connections and on old ones, and none is closed.
    Silent,
}

/// How live sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The connection breaks, whatever is being said.
    Cut,
    /// With this close code.
    Close(u16),
}

/// What the sessions of a deployment are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    pub(super) mood: Mood,
    /// Grows with each blow.
    n_blows: u64,
    blow: Option<Blow>,
}

impl Condition {
    /// The blow that came since `before`.
    pub(super) fn blow_since(&self, before: &Self) -> Option<Blow> {
        self.blow.filter(|_| self.n_blows > before.n_blows)
    }
}

/// The conditions of all deployments, by name.
#[derive(Debug, Default)]
pub(super) struct Conditions(Mutex<HashMap<String, watch::Sender<Condition>>>);

impl Conditions {
    pub(super) fn watch(&self, deployment: &str) -> watch::Receiver<Condition> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(deployment.to_owned()).or_default().subscribe()
    }

    pub(super) fn mood(&self, deployment: &str) -> Mood {
        self.watch(deployment).borrow().mood
    }

    pub(super) fn set_mood(&self, deployment: &str, mood: Mood) {
        self.change(deployment, |condition| condition.mood = mood);
    }

    pub(super) fn strike(&self, deployment: &str, blow: Blow) {
        self.change(deployment, |condition| {
            condition.n_blows += 1;
            condition.blow = Some(blow);
        });
    }

    fn change(&self, deployment: &str, change: impl FnOnce(&mut Condition)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = all.entry(deployment.to_owned()).or_default();
        condition.send_modify(change);
    }
}
