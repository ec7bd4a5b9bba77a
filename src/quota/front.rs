//! What the listener and calls use of quota: who may come in, and where what they use is counted.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::call::Usage;
use crate::telemetry::{Direction, Metrics, Modality};

use super::account::{Account, DEFAULT_OUTPUT};
use super::book::DemandBook;
use super::forecast::{CallForecast, Kind};
use super::lease::{CallLease, Held};
use super::price::Cost;
use super::provisioned::Weights;
use super::settings::{Admission, Expect, QuotaPlan};
use super::store::{
    Ask, Book, Check, GroupDemand, LeaseId, LeaseRenewal, Limit, Shortage, Spend, Store,
};
use super::tenants::{Names, TenantQuota};

/// When to try again if nobody can say: leases of calls that died are free after as long.
const UNKNOWN_RETRY: Duration = Duration::from_secs(5);

/// Quota, as the whole process shares it. Cheap to clone.
#[derive(Clone)]
pub struct Quota(pub(super) Arc<Inner>);

pub(super) struct Inner {
    /// Replaced as a whole, under the lock of the state.
    plan: RwLock<Arc<QuotaPlan>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state: Mutex<State>,
    /// Rung when the keeper has something to tell the store at once.
    pub(super) wake: Notify,
    /// Tells leases of this process from those of others.
    process: u64,
    n_leases: AtomicU64,
}

/// What calls and the keeper write, each in a short section.
pub(super) struct State {
    accounts: BTreeMap<Arc<str>, AccountHandle>,
    pub(super) kinds: HashMap<Arc<str>, Kind>,
    pub(super) live: HashMap<LeaseId, Arc<Held>>,
    pub(super) released: Vec<LeaseRenewal>,
    /// By name; what was used of one name goes to the store as one.
    pub(super) spends: BTreeMap<Arc<str>, Spend>,
    pub(super) blocked: HashSet<Arc<str>>,
    /// By key, the oldest first.
    pub(super) parked: HashMap<String, VecDeque<(CallLease, Instant)>>,
    pub(super) minute: Minute,
}

/// What was expected of the minute that is running, and what was used in it, by pool.
#[derive(Default)]
pub(super) struct Minute {
    pub(super) number: u64,
    pub(super) pools: BTreeMap<Arc<str>, (f64, f64)>,
}

/// Who wants to call.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Whose caller it is.
    pub tenant: &'a str,
    /// Whom it calls.
    pub kind: CallKind<'a>,
    /// The caller's number, where the dialect tells it.
    pub number: Option<&'a str>,
}

/// Whom a call is for. Both are names of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind<'a> {
    /// An agent.
    Agent(&'a str),
    /// A model, of an SDK client.
    Model(&'a str),
}

/// What a pool of deployments can carry at the moment; made by [`Quota::pool`].
#[derive(Clone, Debug)]
pub struct PoolCapacity {
    name: Arc<str>,
    per_minute: f64,
    /// None if any of its deployments does not count them.
    requests_per_minute: Option<f64>,
    deployments: Vec<Arc<str>>,
    /// What tokens count for, if all of it is provisioned throughput.
    weights: Option<Weights>,
}

impl PoolCapacity {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens a minute that its deployments carry; weighted ones if all of them are provisioned.
    #[must_use]
    pub fn per_minute(&self) -> f64 {
        self.per_minute
    }

    pub(super) fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }

    /// Its book in the store.
    pub(super) fn book(&self) -> Arc<str> {
        Arc::from(format!("pool:{}:demand", self.name))
    }

    fn bucket(&self) -> Arc<str> {
        Arc::from(format!("pool:{}:tokens", self.name))
    }

    /// Where its requests are counted, and how many there may be in a minute.
    fn requests(&self) -> Option<(Arc<str>, f64)> {
        let name = || Arc::from(format!("pool:{}:requests", self.name));
        self.requests_per_minute.map(|most| (name(), most))
    }
}

/// Why a call cannot come in for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// A closed name.
    pub code: &'static str,
    /// When to try again; none if that would be in vain.
    pub retry_after: Option<Duration>,
    /// A sentence for people.
    pub message: &'static str,
}

/// The account of one deployment, shared by all who use it.
#[derive(Clone, Debug)]
pub struct AccountHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    account: Mutex<Account>,
    /// The live calls whose sessions are there.
    calls: Mutex<DemandBook>,
}

impl AccountHandle {
    fn new(name: Arc<str>, account: Account) -> Self {
        Self(Arc::new(Shared {
            name,
            account: Mutex::new(account),
            calls: Mutex::default(),
        }))
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Account> {
        let account = &self.0.account;
        account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for itself only, or after the lock of the lease that is entered.
    pub(super) fn calls(&self) -> MutexGuard<'_, DemandBook> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a response that takes so many tokens, its largest output included, could begin now.
    ///
    /// # Errors
    ///
    /// When it could.
    pub fn can_take(&self, tokens: f64) -> Result<(), Duration> {
        self.lock().can_take(tokens, now())
    }

    /// How full it is: 0 for unused, 1 for no room.
    #[must_use]
    pub fn pressure(&self) -> f64 {
        self.lock().pressure(now())
    }

    /// It refused for its quota; nothing is asked of it for so long.
    pub fn refused(&self, retry_after: Option<Duration>) {
        self.lock().refused(retry_after, now());
    }

    /// Tokens a minute that it carries in the long run.
    #[must_use]
    pub fn tokens_per_minute(&self) -> f64 {
        self.lock().tokens_per_minute()
    }

    /// Tokens that are left of those of a minute.
    #[must_use]
    pub fn tokens_left(&self) -> f64 {
        self.lock().tokens_left(now())
    }

    /// Requests that are granted a minute and of these left; a provisioned deployment counts none.
    #[must_use]
    pub fn requests(&self) -> Option<(f64, f64)> {
        let mut account = self.lock();
        let limit = account.requests_per_minute()?;
        Some((limit, account.requests_left(now())))
    }

    pub(super) fn opened_at(&self, now: Instant) {
        self.lock().opened(now);
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Quota {
    /// Quota by that plan, counted in that store. [`Quota::keep`] must run for it.
    #[must_use]
    pub fn new(plan: QuotaPlan, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        let state = State {
            accounts: BTreeMap::new(),
            kinds: HashMap::new(),
            live: HashMap::new(),
            released: Vec::new(),
            spends: BTreeMap::new(),
            blocked: HashSet::new(),
            parked: HashMap::new(),
            minute: Minute::default(),
        };
        Self(Arc::new(Inner {
            plan: RwLock::new(Arc::new(plan)),
            store,
            metrics,
            state: Mutex::new(state),
            wake: Notify::new(),
            process: fastrand::u64(..),
            n_leases: AtomicU64::new(0),
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it goes by at the moment.
    pub(super) fn plan(&self) -> Arc<QuotaPlan> {
        let plan = self.0.plan.read();
        Arc::clone(&plan.unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes by another plan from now on. Calls that are in keep their tenants' limits. A deployment with another grant or
    /// model begins an account, on which its live calls still are; of calls that are expected to be otherwise now,
    /// nothing is known any more.
    pub fn replace(&self, plan: QuotaPlan) {
        let mut state = self.state();
        let old = self.plan();
        state.accounts.retain(|name, account| {
            let Some(grant) = plan.deployments.get(&**name) else {
                self.0.metrics.usage().forget_deployment(name);
                return false;
            };
            if old.deployments.get(&**name) != Some(grant) {
                *account.lock() = Account::new(&grant.0.unwrap_or_default(), now());
            }
            true
        });
        for (name, kind) in &mut state.kinds {
            let expected = plan.expected(name);
            if expected != old.expected(name) {
                *kind = Kind::new(expected);
            }
        }
        *self.0.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// The account of that deployment.
    #[must_use]
    pub fn account(&self, deployment: &str) -> AccountHandle {
        let mut state = self.state();
        if let Some(account) = state.accounts.get(deployment) {
            return account.clone();
        }
        let plan = self.plan();
        let config = plan.deployments.get(deployment);
        let config = config.and_then(|(config, _)| *config).unwrap_or_default();
        let name: Arc<str> = deployment.into();
        let account = AccountHandle::new(Arc::clone(&name), Account::new(&config, now()));
        state.accounts.insert(name, account.clone());
        account
    }

    /// What these deployments can carry together, for calls that any of them may serve.
    #[must_use]
    pub fn pool(&self, name: &str, deployments: &[&str]) -> PoolCapacity {
        let accounts: Vec<_> = deployments.iter().map(|name| self.account(name)).collect();
        let provisioned: Option<Vec<_>> = accounts
            .iter()
            .map(|account| account.lock().weighted_per_minute())
            .collect();
        let provisioned = provisioned.filter(|all| !all.is_empty());
        let (weights, per_minute) = match &provisioned {
            Some(all) => (Some(all[0].0), all.iter().map(|it| it.1).sum()),
            None => (
                None,
                accounts.iter().map(AccountHandle::tokens_per_minute).sum(),
            ),
        };
        let requests = accounts.iter().map(|it| it.lock().requests_per_minute());
        PoolCapacity {
            name: name.into(),
            per_minute,
            requests_per_minute: requests.sum::<Option<f64>>().filter(|most| *most > 0.0),
            deployments: accounts.iter().map(|it| Arc::clone(it.name())).collect(),
            weights,
        }
    }

    /// Lets one more call in, or says why not. Waits for the store only as long as that lets it.
    ///
    /// # Errors
    ///
    /// If the tenant, the caller or the pool has no room.
    pub async fn admit(&self, who: Caller<'_>, pool: PoolCapacity) -> Result<CallLease, Busy> {
        let admitted = self.decide(who, pool).await;
        if let Err(busy) = &admitted {
            let metrics = self.0.metrics.usage();
            metrics.refused(who.tenant, busy.code);
        }
        admitted
    }

    async fn decide(&self, who: Caller<'_>, pool: PoolCapacity) -> Result<CallLease, Busy> {
        let plan = self.plan();
        let tenant: Arc<str> = who.tenant.into();
        let limits = plan.tenants.get(who.tenant).cloned().unwrap_or_default();
        if limits.blocked || self.state().blocked.contains(&tenant) {
            return Err(Busy {
                code: "tenant_blocked",
                retry_after: None,
                message: "No calls are taken for this account.",
            });
        }
        let kind = kind_name(who.kind);
        let (forecast, mean_minutes) = self.newcomer(&kind);
        let names = Names::new(who.tenant, who.number);
        let mut checks = limits.checks(&names);
        if plan.config.admission != Admission::Off {
            self.check_accounts(&pool, &forecast)?;
        }
        let id = self.new_id();
        let held = Arc::new(Held::new(
            id.clone(),
            (tenant, kind),
            (names, Arc::new(limits)),
            who.number.map(Box::from),
            pool,
            forecast,
            now(),
        ));
        checks.extend(self.check_pool(&held, mean_minutes));
        if !checks.is_empty() {
            self.ask_store(&held, id, checks).await?;
        }
        let mut state = self.state();
        state.live.insert(held.id.clone(), Arc::clone(&held));
        drop(state);
        self.0.metrics.usage().leased(held.pool.name(), 1);
        Ok(CallLease {
            held,
            quota: self.clone(),
            trace_context: None,
        })
    }

    /// What a new call of that kind is like, and for how long such calls go on.
    fn newcomer(&self, kind: &Arc<str>) -> (CallForecast, f64) {
        let plan = self.plan();
        let mut state = self.state();
        let known = state.kinds.entry(Arc::clone(kind));
        let kind = known.or_insert_with(|| Kind::new(plan.expected(kind)));
        (
            CallForecast::new(kind.profile(), now()),
            kind.mean_minutes(),
        )
    }

    /// Whether any deployment of the pool could serve a call's first response now.
    fn check_accounts(&self, pool: &PoolCapacity, forecast: &CallForecast) -> Result<(), Busy> {
        let tokens = forecast.next_response(None).input + DEFAULT_OUTPUT;
        let waits: Result<Vec<Duration>, ()> = pool
            .deployments
            .iter()
            .map(|name| self.account(name).can_take(tokens).err().ok_or(()))
            .collect();
        match waits.map(|waits| waits.into_iter().min()) {
            // One has room, or nobody said which they are.
            Err(()) | Ok(None) => Ok(()),
            Ok(Some(wait)) => Err(Busy {
                code: "capacity_exhausted",
                retry_after: Some(wait),
                message: "The quota of the model is used up. Try again later.",
            }),
        }
    }

    /// What must hold in the pool for all replicas.
    fn check_pool(&self, held: &Held, mean_minutes: f64) -> Vec<Check> {
        let (plan, pool) = (self.plan(), &held.pool);
        let config = &plan.config;
        let tokens = match config.admission {
            Admission::Off => return Vec::new(),
            Admission::Reactive => Check {
                name: pool.bucket(),
                limit: Limit::Bucket {
                    per_minute: pool.per_minute,
                    burst: pool.per_minute,
                    amount: 0.0,
                },
            },
            Admission::Forecast => Check {
                name: pool.book(),
                limit: Limit::Demand(Book {
                    capacity: pool.per_minute * config.headroom,
                    group: group(held, mean_minutes, now()),
                    fair_from: config.fair_from,
                }),
            },
        };
        // Opening the call's session is one.
        let requests = pool.requests().map(|(name, most)| Check {
            name,
            limit: Limit::Bucket {
                per_minute: most,
                burst: most,
                amount: 1.0,
            },
        });
        [tokens].into_iter().chain(requests).collect()
    }

    /// Counts a request of a call, other than that its first session is opened.
    pub(super) fn requested(&self, held: &Held) {
        if self.plan().config.admission == Admission::Off {
            return;
        }
        let spend = held.pool.requests().map(|(name, most)| Spend::Bucket {
            name,
            per_minute: most,
            amount: 1.0,
        });
        self.state().spend(spend.into_iter().collect());
    }

    async fn ask_store(&self, held: &Held, lease: LeaseId, checks: Vec<Check>) -> Result<(), Busy> {
        let plan = self.plan();
        let config = &plan.config;
        let ask = Ask {
            lease,
            life: config.lease_life,
            checks,
        };
        let metrics = self.0.metrics.usage();
        match self.0.store.admit(ask).await {
            Ok(Ok(admitted)) => {
                if config.admission == Admission::Forecast {
                    metrics.pool_expected(held.pool.name(), admitted.expected);
                }
                Ok(())
            }
            Ok(Err(shortage)) => Err(refusal(held, &shortage)),
            Err(error) => {
                tracing::debug!(%error, "nobody can say whether there is room");
                // A store that may be replaced by this process's own counts has done that already.
                Err(Busy {
                    code: "quota_unknown",
                    retry_after: Some(UNKNOWN_RETRY),
                    message: "No capacity at the moment. Try again later.",
                })
            }
        }
    }

    fn new_id(&self) -> LeaseId {
        let n = self.0.n_leases.fetch_add(1, Ordering::Relaxed);
        LeaseId(Arc::from(format!("{:016x}-{n}", self.0.process)))
    }

    /// Keeps the lease of a call that is announced and not yet there, under a key that it will come with.
    pub fn park(&self, key: String, lease: CallLease, patience: Duration) {
        let until = now() + patience;
        let mut state = self.state();
        let same = state.parked.entry(key).or_default();
        same.push_back((lease, until));
    }

    /// The oldest lease that is kept under that key.
    #[must_use]
    pub fn claim(&self, key: &str) -> Option<CallLease> {
        let mut state = self.state();
        let same = state.parked.get_mut(key)?;
        let (lease, _) = same.pop_front()?;
        if same.is_empty() {
            state.parked.remove(key);
        }
        Some(lease)
    }

    /// Shuts a tenant out, its live calls included, or lets it in again. What the configuration says stays.
    pub fn block(&self, tenant: &str, is_blocked: bool) {
        let mut state = self.state();
        if is_blocked {
            state.blocked.insert(tenant.into());
        } else {
            state.blocked.remove(tenant);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    /// Tokens that the live calls of a pool are expected to use in the next minute.
    #[must_use]
    pub fn expected_in_minute(&self, pool: &str) -> f64 {
        let state = self.state();
        let now = now();
        let live = state.live.values().filter(|held| *held.pool.name == *pool);
        live.map(|held| state.expected(held, now)).sum()
    }

    /// Counts what a response used.
    pub(super) fn meter(
        &self,
        held: &Held,
        deployment: &str,
        usage: &Usage,
        minute: u64,
    ) -> Option<Cost> {
        let plan = self.plan();
        let metrics = self.0.metrics.usage();
        let labels = (&*held.tenant, deployment);
        count_tokens(usage, |direction, modality, cached, n| {
            metrics.tokens(labels, direction, modality, cached, n);
        });
        let model = plan.deployments.get(deployment).map(|(_, model)| model);
        let price = model.and_then(|model| plan.prices.get(model));
        let cost = price.map(|price| Cost {
            amount: price.of(usage),
            currency: plan.config.currency.clone(),
        });
        if let Some(cost) = &cost {
            metrics.cost(labels, &cost.currency, cost.amount);
        }
        let tokens = usage.total() as f64;
        let mut spends = held.limits.tokens(&held.names, tokens);
        if plan.config.admission == Admission::Reactive {
            let weights = held.pool.weights();
            spends.push(Spend::Bucket {
                name: held.pool.bucket(),
                per_minute: held.pool.per_minute,
                amount: weights.map_or(tokens, |weights| weights.of_usage(usage)),
            });
        }
        let mut state = self.state();
        if minute == state.minute.number
            && let Some((_, used)) = state.minute.pools.get_mut(&held.pool.name)
        {
            *used += tokens;
        }
        state.spend(spends);
        cost
    }

    /// A call is over.
    pub(super) fn release(&self, held: &Held, now: Instant) {
        let mut state = self.state();
        state.live.remove(&held.id);
        state.lived(held, now);
        let of_call = held.state();
        if of_call.is_begun
            && let Some(kind) = state.kinds.get_mut(&held.kind)
        {
            kind.ended(&of_call.forecast);
        }
        drop(of_call);
        let demand = match self.plan().config.admission {
            Admission::Forecast => Some(group(held, 1.0, now)),
            Admission::Off | Admission::Reactive => None,
        };
        let renewal = held.renewal(Duration::ZERO, demand);
        if !renewal.counted.is_empty() || !renewal.demands.is_empty() {
            state.released.push(renewal);
            self.0.wake.notify_one();
        }
    }
}

impl State {
    /// Leaves something to be told to the store.
    pub(super) fn spend(&mut self, spends: Vec<Spend>) {
        for spend in spends {
            let (name, more) = match &spend {
                Spend::Bucket { name, amount, .. } | Spend::Window { name, amount, .. } => {
                    (Arc::clone(name), *amount)
                }
            };
            match self.spends.get_mut(&name) {
                Some(Spend::Bucket { amount, .. } | Spend::Window { amount, .. }) => {
                    *amount += more;
                }
                None => {
                    self.spends.insert(name, spend);
                }
            }
        }
    }

    /// Counts the time that a call has lived since it was last asked. A lease without a session is no call yet.
    pub(super) fn lived(&mut self, held: &Held, now: Instant) {
        let mut of_call = held.state();
        let since = std::mem::replace(&mut of_call.metered, now);
        let is_begun = of_call.is_begun;
        drop(of_call);
        if !is_begun {
            return;
        }
        let minutes = now.saturating_duration_since(since).as_secs_f64() / 60.0;
        if let Some(kind) = self.kinds.get_mut(&held.kind) {
            kind.lived(minutes);
        }
        self.spend(held.limits.minutes(&held.names, minutes));
    }

    pub(super) fn mean_minutes(&self, kind: &Arc<str>) -> f64 {
        self.kinds.get(kind).map_or(1.0, Kind::mean_minutes)
    }

    /// Tokens that a call is expected to use in the next minute.
    pub(super) fn expected(&self, held: &Held, now: Instant) -> f64 {
        let mean_minutes = self.mean_minutes(&held.kind);
        let minute = Duration::from_secs(60);
        held.state().forecast.expected(minute, mean_minutes, now)
    }

    pub(super) fn accounts(&self) -> impl Iterator<Item = &AccountHandle> {
        self.accounts.values()
    }
}

/// What a call adds to its pool's book.
pub(super) fn group(held: &Held, mean_minutes: f64, now: Instant) -> GroupDemand {
    GroupDemand {
        tenant: Arc::clone(&held.tenant),
        weight: held.limits.weight,
        kind: Arc::clone(&held.kind),
        mean_minutes,
        demand: held.demand(mean_minutes, now),
    }
}

impl QuotaPlan {
    /// What calls of the kind of that name are like.
    fn expected(&self, kind: &str) -> &Expect {
        let own = match kind.split_once(':') {
            Some((AGENT, name)) => self.agents.get(name),
            Some((MODEL, name)) => self.config.models.get(name),
            _ => None,
        };
        own.unwrap_or(&self.config.expect)
    }
}

const AGENT: &str = "agent";
const MODEL: &str = "model";

fn kind_name(kind: CallKind<'_>) -> Arc<str> {
    Arc::from(match kind {
        CallKind::Agent(name) => format!("{AGENT}:{name}"),
        CallKind::Model(name) => format!("{MODEL}:{name}"),
    })
}

fn refusal(held: &Held, shortage: &Shortage) -> Busy {
    let of_tenant = TenantQuota::refusal(&held.names, &shortage.name);
    let (code, message) = match of_tenant {
        Some(words) => words,
        None if shortage.unfair => (
            "tenant_share_exceeded",
            "This account has its share of what the model can carry. Try again later.",
        ),
        None => (
            "capacity_exceeded",
            "The model cannot carry one more call. Try again later.",
        ),
    };
    Busy {
        code,
        retry_after: Some(shortage.retry_after),
        message,
    }
}

/// Each count of a usage with what it is a count of.
fn count_tokens(usage: &Usage, mut count: impl FnMut(Direction, Modality, bool, u64)) {
    use Direction::{ToCaller, ToModel};
    let fresh = |all: u64, cached: u64| all.saturating_sub(cached);
    for (direction, modality, cached, n) in [
        (
            ToModel,
            Modality::Text,
            false,
            fresh(usage.input_text, usage.cached_text),
        ),
        (ToModel, Modality::Text, true, usage.cached_text),
        (
            ToModel,
            Modality::Audio,
            false,
            fresh(usage.input_audio, usage.cached_audio),
        ),
        (ToModel, Modality::Audio, true, usage.cached_audio),
        (ToModel, Modality::Image, false, usage.input_image),
        (ToCaller, Modality::Text, false, usage.output_text),
        (ToCaller, Modality::Audio, false, usage.output_audio),
    ] {
        count(direction, modality, cached, n);
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota")
            .field("admission", &self.plan().config.admission)
            .field("store", &self.0.store)
            .finish_non_exhaustive()
    }
}
