//! The store that replicas share: Redis 5 or later, or Valkey.
//!
//! Each operation is one script, which Redis runs as one step and by its own clock. What a script costs does not depend
//! on how many leases live: books keep sums for each group. All keys have one hash tag, so that a cluster has them at one
//! node. Decides nothing when Redis does not answer; that does [`FallbackStore`](super::FallbackStore).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::Cmd;
use ::redis::aio::MultiplexedConnection;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tokio::sync::watch;

use crate::secret::SecretError;
use crate::telemetry::Metrics;

use super::bucket::{MAX_KEEP, finite};
use super::config::RedisConfig;
use super::in_process::bounded_retry;
use super::redis_link::{Link, Script, eval};
use super::store::{
    Admitted, Ask, GroupDemand, LeaseRenewal, Limit, Shortage, Spend, Store, StoreError, Totals,
};

static ADMIT: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/admit.lua")
    ))
});
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/renew.lua")
    ))
});
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/release.lua")
    ))
});
static SPEND: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/spend.lua")
    ))
});
pub(super) static ATTEND: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/attend.lua")
    ))
});
pub(super) static TAKE_OVER: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/take_over.lua")
    ))
});
pub(super) static CONFIRM: LazyLock<Script> = LazyLock::new(|| {
    script(concat!(
        include_str!("redis/common.lua"),
        include_str!("redis/confirm.lua")
    ))
});

/// Leases in one script: Redis does nothing else meanwhile, some 15 us a lease (measured on two cores, 20,000 leases).
const LEASES_AT_ONCE: usize = 64;

/// How long Redis remembers which spends it was told of, and so how late one may be said again.
const MARK_LIFE: Duration = Duration::from_secs(900);

/// Counts and leases in Redis.
#[derive(Debug)]
pub struct RedisStore {
    link: Link,
    prefix: String,
}

/// Spends that are to be added once, however often they are said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MarkedSpends {
    /// No other spends have it.
    pub(super) mark: Arc<str>,
    /// How long ago it was.
    pub(super) age: Duration,
    pub(super) spends: Vec<Spend>,
}

/// An admission, with what the buckets and windows of its checks then hold.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) admitted: Admitted,
    pub(super) held: Vec<f64>,
}

impl RedisStore {
    /// A store that is not connected yet: [`Self::keep`] does that.
    ///
    /// # Errors
    ///
    /// If the address cannot be read.
    pub fn new(config: &RedisConfig, metrics: Arc<Metrics>) -> Result<Self, SecretError> {
        let mut probe = redis::cmd("SET");
        probe
            .arg(format!("{{{}}}:probe", config.prefix))
            .arg(1)
            .arg("PX")
            .arg(1_000);
        let scripts = [
            &ADMIT, &RENEW, &RELEASE, &SPEND, &ATTEND, &TAKE_OVER, &CONFIRM,
        ];
        let connection = config.connection()?;
        Ok(Self {
            link: Link::new(
                connection,
                config.deadline,
                probe,
                scripts.map(|script| script.text).to_vec(),
                metrics,
            ),
            prefix: config.prefix.clone(),
        })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn text_key(&self, name: &str) -> String {
        format!("{{{}}}:text:{name}", self.prefix)
    }

    /// Keeps it connected while it is polled.
    pub async fn keep(&self) {
        self.link.keep().await;
    }

    /// Whether it can be asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Whether it can be asked, and when that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.link.watch()
    }

    pub(super) async fn admit_and_tell(
        &self,
        ask: &Ask,
    ) -> Result<Result<Told, Shortage>, StoreError> {
        let mut keys = Keys::new(&self.prefix);
        let checks: Vec<Value> = ask
            .checks
            .iter()
            .map(|check| limit_json(&mut keys, &check.name, &check.limit))
            .collect();
        let argument = json!({
            "lease": &*ask.lease.0,
            "life": micros(ask.life.min(MAX_KEEP)),
            "mean": ask.mean_minutes(),
            "checks": checks,
        });
        let answer = self.eval("admit", &ADMIT, &keys, &argument).await?;
        read_admission(ask, &answer).ok_or_else(nonsense)
    }

    pub(super) async fn spend_marked(
        &self,
        marked: &MarkedSpends,
    ) -> Result<Vec<Totals>, StoreError> {
        let mut keys = Keys::new(&self.prefix);
        keys.index("mark", &marked.mark);
        let spends: Vec<Value> = marked
            .spends
            .iter()
            .map(|spend| spend_json(&mut keys, spend))
            .collect();
        let argument = json!({
            "age": micros(marked.age.min(MAX_KEEP)),
            "keep": MARK_LIFE.as_millis() as u64,
            "spends": spends,
        });
        let answer = self.eval("spend", &SPEND, &keys, &argument).await?;
        read_totals(&answer)
            .filter(|totals| totals.len() == marked.spends.len())
            .ok_or_else(nonsense)
    }

    /// Renews or releases, some leases at a time. Where a key of one is in the way, the others are done without it.
    async fn for_leases(
        &self,
        operation: &'static str,
        script: &Script,
        leases: &[LeaseRenewal],
    ) -> Result<(), StoreError> {
        // One after the other, so that calls that come in do not wait behind all of them.
        let mut in_the_way = Vec::new();
        for chunk in leases.chunks(LEASES_AT_ONCE) {
            match self.chunk(operation, script, chunk).await {
                Err(error) if error.is_of_the_store() => return Err(error),
                Err(_) => in_the_way.extend(chunk),
                Ok(()) => {}
            }
        }
        let mut outcome = Ok(());
        for lease in in_the_way {
            for part in parts(lease) {
                match self.chunk(operation, script, &[part]).await {
                    Err(error) if error.is_of_the_store() => return Err(error),
                    Err(error) => outcome = Err(error),
                    Ok(()) => {}
                }
            }
        }
        outcome
    }

    async fn chunk(
        &self,
        operation: &'static str,
        script: &Script,
        leases: &[LeaseRenewal],
    ) -> Result<(), StoreError> {
        let mut keys = Keys::new(&self.prefix);
        let leases: Vec<Value> = leases
            .iter()
            .map(|lease| lease_json(&mut keys, lease))
            .collect();
        self.eval(operation, script, &keys, &json!(leases))
            .await
            .map(drop)
    }

    pub(super) async fn eval(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &Keys<'_>,
        argument: &Value,
    ) -> Result<Vec<String>, StoreError> {
        let argument = argument.to_string();
        let work = async |connection: &mut MultiplexedConnection| {
            eval(connection, script, &keys.all, &argument).await
        };
        self.link.run(operation, work).await
    }
}

impl Store for RedisStore {
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Result<Admitted, Shortage>, StoreError>> {
        Box::pin(async move {
            let answer = self.admit_and_tell(&ask).await?;
            Ok(answer.map(|told| told.admitted))
        })
    }

    fn renew(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.for_leases("renew", &RENEW, &leases).await })
    }

    fn release(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.for_leases("release", &RELEASE, &leases).await })
    }

    fn spend(&self, spends: Vec<Spend>) -> BoxFuture<'_, Result<Vec<Totals>, StoreError>> {
        Box::pin(async move { self.spend_marked(&MarkedSpends::new(spends)).await })
    }

    fn use_once(&self, id: Arc<str>, life: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut set: Cmd = redis::cmd("SET");
            set.arg(format!("{{{}}}:once:{id}", self.prefix))
                .arg(1)
                .arg("NX")
                .arg("PX")
                .arg((life.min(MAX_KEEP).as_millis() as u64).max(1));
            let work = async |connection: &mut MultiplexedConnection| {
                set.query_async::<Option<String>>(connection).await
            };
            let set = self.link.run("use_once", work).await?;
            Ok(set.is_some())
        })
    }

    fn put(
        &self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut set: Cmd = redis::cmd("SET");
            set.arg(self.text_key(&name))
                .arg(&*text)
                .arg("PX")
                .arg((life.min(MAX_KEEP).as_millis() as u64).max(1));
            let work = async |connection: &mut MultiplexedConnection| {
                set.query_async::<()>(connection).await
            };
            self.link.run("put", work).await
        })
    }

    fn get(&self, name: Arc<str>) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            let mut get: Cmd = redis::cmd("GET");
            get.arg(self.text_key(&name));
            let work = async |connection: &mut MultiplexedConnection| {
                get.query_async::<Option<String>>(connection).await
            };
            self.link.run("get", work).await
        })
    }
}

impl MarkedSpends {
    /// Of now.
    pub(super) fn new(spends: Vec<Spend>) -> Self {
        Self {
            mark: format!("{:032x}", fastrand::u128(..)).into(),
            age: Duration::ZERO,
            spends,
        }
    }
}

/// The keys of a script, each once, by their place among them (from 1, as in Lua).
pub(super) struct Keys<'a> {
    prefix: &'a str,
    all: Vec<String>,
    places: HashMap<String, usize>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(prefix: &'a str) -> Self {
        Self {
            prefix,
            all: Vec::new(),
            places: HashMap::new(),
        }
    }

    pub(super) fn index(&mut self, kind: &str, name: &str) -> usize {
        let key = format!("{{{}}}:{kind}:{name}", self.prefix);
        *self.places.entry(key).or_insert_with_key(|key| {
            self.all.push(key.clone());
            self.all.len()
        })
    }
}

fn limit_json(keys: &mut Keys<'_>, name: &str, limit: &Limit) -> Value {
    match limit {
        Limit::Bucket {
            per_minute,
            burst,
            amount,
        } => json!({
            "kind": "bucket",
            "key": keys.index("bucket", name),
            "per_minute": finite(*per_minute),
            "burst": finite(*burst).max(0.0),
            "amount": finite(*amount),
        }),
        Limit::Window { limit, length } => json!({
            "kind": "window",
            "key": keys.index("window", name),
            "limit": finite(*limit),
            "length": micros(*length),
        }),
        Limit::Leases { limit } => json!({
            "kind": "leases",
            "key": keys.index("calls", name),
            "limit": limit,
        }),
        Limit::Demand(book) => {
            let mut it = demand_json(keys, name, &book.group);
            it["kind"] = "demand".into();
            it["capacity"] = finite(book.capacity).max(0.0).into();
            it["fair_from"] = finite(book.fair_from).into();
            it
        }
    }
}

fn demand_json(keys: &mut Keys<'_>, name: &str, group: &GroupDemand) -> Value {
    let group = group.sane();
    json!({
        "key": keys.index("ends", name),
        "leases": keys.index("leases", name),
        "groups": keys.index("groups", name),
        "call": {
            "tenant": &*group.tenant,
            "kind": &*group.kind,
            "weight": group.weight,
            "mean": group.mean_minutes,
            "now": group.demand.now,
            "growth": group.demand.growth,
        },
    })
}

fn lease_json(keys: &mut Keys<'_>, lease: &LeaseRenewal) -> Value {
    let counted: Vec<usize> = lease
        .counted
        .iter()
        .map(|name| keys.index("calls", name))
        .collect();
    let demands: Vec<Value> = lease
        .demands
        .iter()
        .map(|(name, group)| demand_json(keys, name, group))
        .collect();
    json!({
        "lease": &*lease.lease.0,
        "life": micros(lease.life.min(MAX_KEEP)),
        "counted": counted,
        "demands": demands,
    })
}

fn spend_json(keys: &mut Keys<'_>, spend: &Spend) -> Value {
    match spend {
        Spend::Bucket {
            name,
            per_minute,
            amount,
        } => json!({
            "kind": "bucket",
            "key": keys.index("bucket", name),
            "per_minute": finite(*per_minute),
            "amount": finite(*amount),
        }),
        Spend::Window {
            name,
            length,
            amount,
        } => json!({
            "kind": "window",
            "key": keys.index("window", name),
            "length": micros(*length),
            "amount": finite(*amount),
        }),
    }
}

/// A lease cut into its books.
fn parts(lease: &LeaseRenewal) -> impl Iterator<Item = LeaseRenewal> + '_ {
    let part = |counted, demands| LeaseRenewal {
        lease: lease.lease.clone(),
        life: lease.life,
        counted,
        demands,
    };
    let counted = lease.counted.iter();
    let counted = counted.map(move |name| part(vec![Arc::clone(name)], Vec::new()));
    let demands = lease.demands.iter();
    counted.chain(demands.map(move |demand| part(Vec::new(), vec![demand.clone()])))
}

fn read_admission(ask: &Ask, answer: &[String]) -> Option<Result<Told, Shortage>> {
    let (what, rest) = answer.split_first()?;
    if what == "1" {
        let mut numbers = rest.iter().map(|it| it.parse::<f64>());
        let expected = numbers.next()?.ok()?;
        return Some(Ok(Told {
            admitted: Admitted { expected },
            held: numbers.collect::<Result<_, _>>().ok()?,
        }));
    }
    let [number, unfair, wait] = rest else {
        return None;
    };
    let number: usize = number.parse().ok()?;
    let check = ask.checks.get(number.checked_sub(1)?)?;
    Some(Err(Shortage {
        name: Arc::clone(&check.name),
        unfair: unfair == "1",
        retry_after: bounded_retry(Duration::from_micros(wait.parse().ok()?)),
    }))
}

fn read_totals(answer: &[String]) -> Option<Vec<Totals>> {
    let (pairs, []) = answer.as_chunks::<2>() else {
        return None;
    };
    let totals = pairs.iter().map(|[held, left]| {
        Some(Totals {
            held: held.parse().ok()?,
            resets_in: Duration::from_micros(left.parse().ok()?),
        })
    });
    totals.collect()
}

pub(super) fn micros(duration: Duration) -> u64 {
    // Exact in a double, which is what Lua has.
    (duration.as_micros() as u64).min(1 << 52)
}

fn script(text: &'static str) -> Script {
    let sha1 = Sha1::digest(text.as_bytes());
    Script {
        text,
        sha1: sha1.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The answer is none of our scripts'.
pub(super) fn nonsense() -> StoreError {
    StoreError::Answered("nonsense".to_owned())
}
