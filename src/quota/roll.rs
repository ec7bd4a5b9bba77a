//! The roll: which replicas there are, and of each what others are to know if it is gone.
//!
//! What is told of a call is text that nobody here reads. A replica is silent when it has not been heard for as long as it
//! said; whoever takes its calls over has them alone, and it learns of that when it is back. Time is the store's own.

use std::time::Duration;

use serde_json::json;

use super::redis::{ATTEND, CONFIRM, Keys, RedisStore, TAKE_OVER, micros, nonsense};
use super::store::StoreError;

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attendance {
    /// Which; no other process has ever had that name.
    pub replica: String,
    /// It counts as silent when nothing is heard of it for so long.
    pub life: Duration,
    /// Calls of which there is something new, by their ids.
    pub calls: Vec<(String, String)>,
    /// Calls that have ended.
    pub ended: Vec<String>,
    /// Whatever else is known of its calls is wrong.
    pub anew: bool,
}

/// What it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attended {
    /// How many of its calls are known now.
    pub n_calls: usize,
    /// Which of those that it named were taken over while it was silent.
    pub taken: Vec<String>,
    /// Replicas that are silent.
    pub silent: Vec<String>,
}

/// Who wants to take over whose calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// Who.
    pub replica: String,
    /// Whose.
    pub silent: String,
    /// When a replica counts as silent, as for [`Attendance`]; so long, what was taken is kept for who took it.
    pub life: Duration,
    /// How many calls at once.
    pub most: usize,
}

/// Calls that were taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// For how long nothing has been heard of their replica.
    pub silent_for: Duration,
    /// By their ids, what was told of them.
    pub calls: Vec<(String, String)>,
}

impl RedisStore {
    pub(super) async fn attend(&self, ask: &Attendance) -> Result<Attended, StoreError> {
        let mut keys = Keys::new(self.prefix());
        keys.index("roll", "replicas");
        keys.index("roll-calls", &ask.replica);
        keys.index("roll-taken", &ask.replica);
        let argument = json!({
            "replica": ask.replica,
            "life": micros(ask.life),
            "calls": ask.calls,
            "ended": ask.ended,
            "anew": ask.anew,
        });
        let answer = self.eval("attend", &ATTEND, &keys, &argument).await?;
        read_attended(answer).ok_or_else(nonsense)
    }

    pub(super) async fn take_over(&self, ask: &TakeOver) -> Result<TakenOver, StoreError> {
        let mut keys = Keys::new(self.prefix());
        keys.index("roll", "replicas");
        keys.index("roll-calls", &ask.silent);
        keys.index("roll-taken", &ask.silent);
        keys.index("roll-taker", &ask.silent);
        let argument = json!({
            "replica": ask.replica,
            "silent": ask.silent,
            "life": micros(ask.life),
            "most": ask.most,
        });
        let answer = self.eval("take_over", &TAKE_OVER, &keys, &argument).await?;
        read_taken_over(answer).ok_or_else(nonsense)
    }

    pub(super) async fn confirm(&self, silent: &str, calls: &[String]) -> Result<(), StoreError> {
        let mut keys = Keys::new(self.prefix());
        keys.index("roll-taken", silent);
        let done = self.eval("confirm", &CONFIRM, &keys, &json!(calls)).await;
        done.map(drop)
    }
}

fn read_attended(answer: Vec<String>) -> Option<Attended> {
    let mut words = answer.into_iter();
    let n_calls = words.next()?.parse().ok()?;
    let n_taken = words.next()?.parse().ok()?;
    let taken: Vec<String> = words.by_ref().take(n_taken).collect();
    (taken.len() == n_taken).then(|| Attended {
        n_calls,
        taken,
        silent: words.collect(),
    })
}

fn read_taken_over(answer: Vec<String>) -> Option<TakenOver> {
    let (silent_for, rest) = answer.split_first()?;
    let (pairs, []) = rest.as_chunks::<2>() else {
        return None;
    };
    Some(TakenOver {
        silent_for: Duration::from_micros(silent_for.parse().ok()?),
        calls: pairs
            .iter()
            .map(|[id, text]| (id.clone(), text.clone()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn answers_are_read_strictly() {
        let read = read_attended(words("3 1 a b c")).expect("good");
        assert_eq!(
            (read.n_calls, read.taken, read.silent),
            (3, words("a"), words("b c"))
        );
        let read = read_attended(words("0 0")).expect("good");
        assert_eq!(read, Attended::default());
        for bad in ["", "3", "x 0", "3 2 a"] {
            assert_eq!(read_attended(words(bad)), None, "{bad}");
        }
        let read = read_taken_over(words("1500000 a {} b []")).expect("good");
        assert_eq!(read.silent_for, Duration::from_millis(1_500));
        let text = |id: &str, text: &str| (id.to_owned(), text.to_owned());
        assert_eq!(read.calls, [text("a", "{}"), text("b", "[]")]);
        for bad in ["", "x", "0 a"] {
            assert_eq!(read_taken_over(words(bad)), None, "{bad}");
        }
    }
}
