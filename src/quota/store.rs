//! Where counts and leases are kept: the one interface of the store in this process and of the shared one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Counts and leases, of one process or shared by several.
///
/// A store keeps four things, each under a name: **buckets**, which drain at a steady rate; **windows**, which count up
/// to the end of a day; **books**, which add up what live leases need; and **texts**, for a while. Every call is one atomic step. Time is the
/// store's own, so that replicas whose clocks differ agree.
pub trait Store: fmt::Debug + Send + Sync {
    /// Lets one call in if every check passes, and gives it a lease in every book that a check names. If one does not
    /// pass, nothing is changed.
    ///
    /// # Errors
    ///
    /// If the store cannot say. What to do then is the caller's policy.
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Result<Admitted, Shortage>, StoreError>>;

    /// Keeps leases alive and brings what they need up to date. A lease that the store does not know (it expired, or
    /// the store lost it) is entered anew: its call is alive.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached; the leases then go on until they expire there.
    fn renew(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends leases.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached; the leases then expire there.
    fn release(&self, leases: Vec<LeaseRenewal>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Adds what was used to buckets and windows, and says what they hold then, in the order asked.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached: nothing was added, and the caller must say it again later.
    fn spend(&self, spends: Vec<Spend>) -> BoxFuture<'_, Result<Vec<Totals>, StoreError>>;

    /// Marks an id as used for so long. False if it is marked already.
    ///
    /// # Errors
    ///
    /// If that cannot be said.
    fn use_once(&self, id: Arc<str>, life: Duration) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Keeps a text for so long, in place of what was kept under that name.
    ///
    /// # Errors
    ///
    /// If that is not certain.
    fn put(
        &self,
        name: Arc<str>,
        text: Arc<str>,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The text that is kept under that name.
    ///
    /// # Errors
    ///
    /// If that cannot be said.
    fn get(&self, name: Arc<str>) -> BoxFuture<'_, Result<Option<String>, StoreError>>;
}

/// Names a lease; not reused while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub Arc<str>);

/// Whether one more call may come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What the call's lease will be called.
    pub lease: LeaseId,
    /// The lease ends so long after it was last renewed.
    pub life: Duration,
    /// All must pass. The first that does not is the answer.
    pub checks: Vec<Check>,
}

/// One condition of an admission.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Bucket, window or book.
    pub name: Arc<str>,
    /// What must hold there.
    pub limit: Limit,
}

/// What must hold for a call to be let in.
#[derive(Clone, Debug, PartialEq)]
pub enum Limit {
    /// A leaky bucket has room for `amount`, which is put into it. It drains by `per_minute` a minute and holds
    /// `burst`. With an amount of zero it only must not be over its brim.
    Bucket {
        /// Drained in a minute.
        per_minute: f64,
        /// What it holds.
        burst: f64,
        /// What the call puts into it.
        amount: f64,
    },
    /// Less than `limit` was counted in the window that is running, which is so long and begins at multiples of that
    /// since 1970 (a day: at midnight, UTC).
    Window {
        /// The most that may be counted.
        limit: f64,
        /// How long the window is.
        length: Duration,
    },
    /// A book holds fewer than `limit` leases; this becomes one of them.
    Leases {
        /// The most at a time.
        limit: u32,
    },
    /// The demand in a book stays within `capacity` with this call in it; the call is entered there.
    Demand(Book),
}

/// The demand on a pool of deployments, forecast from its live calls.
///
/// Calls end at a steady rate, so a call that is alive now is alive in `t` minutes with the probability
/// `exp(-t / mean_minutes)`. The demand of a group in `t` minutes is therefore
/// `exp(-t / mean_minutes) * (now + growth * t)`, summed over its calls; that of the book is the sum over its groups.
/// It must not exceed `capacity` at any of [`Book::HORIZON`].
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    /// Tokens a minute that the pool can carry. Demand of nothing passes whatever it is.
    pub capacity: f64,
    /// Whose call it is: calls of one tenant and one agent last about as long.
    pub group: GroupDemand,
    /// Of the capacity, from which on tenants are held to their share.
    pub fair_from: f64,
}

impl Book {
    /// Minutes ahead at which the demand is looked at.
    pub const HORIZON: [f64; 12] = [
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 30.0,
    ];
}

/// What one call adds to a group of a book.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDemand {
    /// The tenant; its groups together are held to its share where the pool is short.
    pub tenant: Arc<str>,
    /// The tenant's share among the tenants that have calls in the book.
    pub weight: f64,
    /// Agent or model: what calls like it have in common.
    pub kind: Arc<str>,
    /// How long calls of this group go on, on average, from any moment in them.
    pub mean_minutes: f64,
    /// What the call itself needs.
    pub demand: Demand,
}

/// Tokens a minute that a call needs, and how that grows as its context does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Tokens a minute now.
    pub now: f64,
    /// Tokens a minute more in each minute.
    pub growth: f64,
}

/// A call was let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The highest demand that the last book of the checks now expects, as a share of its capacity.
    pub expected: f64,
}

/// Why a call was not let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortage {
    /// The name of the check that did not pass.
    pub name: Arc<str>,
    /// Whether the pool had room, and the tenant has had its share.
    pub unfair: bool,
    /// When to ask again: when the bucket has drained or the window ends; for leases and demand, when one of the
    /// calls can be expected to have ended.
    pub retry_after: Duration,
}

/// A lease with everything it stands for, so that a store that lost it can enter it anew.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRenewal {
    /// Which.
    pub lease: LeaseId,
    /// It ends so long after this.
    pub life: Duration,
    /// The books of [`Limit::Leases`] that it is in.
    pub counted: Vec<Arc<str>>,
    /// The books of [`Limit::Demand`] that it is in, and with what.
    pub demands: Vec<(Arc<str>, GroupDemand)>,
}

/// Something used.
#[derive(Clone, Debug, PartialEq)]
pub enum Spend {
    /// Put into a bucket, or taken out again if negative. It may rise above its brim.
    Bucket {
        /// Its name.
        name: Arc<str>,
        /// Drained in a minute.
        per_minute: f64,
        /// How much.
        amount: f64,
    },
    /// Counted in the window that is running.
    Window {
        /// Its name.
        name: Arc<str>,
        /// How long the window is.
        length: Duration,
        /// How much.
        amount: f64,
    },
}

/// What a bucket or window holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// That much.
    pub held: f64,
    /// Until the window ends; for a bucket, until it is empty.
    pub resets_in: Duration,
}

/// The store cannot say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not answer in time.
    #[error("the store did not answer in time")]
    Timeout,
    /// There is no connection to it.
    #[error("the store cannot be reached")]
    Unreachable,
    /// It answered with an error: the first word of it.
    #[error("the store answered {0}")]
    Answered(String),
}
