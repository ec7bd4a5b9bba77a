//! What each source of callers takes and fails at, in bounded memory. A pure core: time comes in.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::limits::LimitsConfig;
use super::rate::{Bucket, Rate};

/// Where a caller comes from, as far as sources are told apart: an IPv4 address, or the /64 of an IPv6 address,
/// because whoever has one IPv6 address usually has all of its /64 (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(pub(super) IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Limits of one source; `None` and zero stand for no limit.
#[derive(Clone, Copy, Debug)]
struct SourceLimits {
    connections: u32,
    handshakes: u32,
    all_handshakes: u32,
    failures: Option<Rate>,
    sources: usize,
}

impl SourceLimits {
    fn new(limits: &LimitsConfig) -> Self {
        Self {
            connections: limits.connections_per_source,
            handshakes: limits.handshakes_per_source,
            all_handshakes: limits.handshakes,
            failures: Rate::new(limits.failed_auth_per_minute, Duration::from_secs(60)),
            sources: limits.sources,
        }
    }
}

/// A source that showed something good is listened to for so long, whatever else it shows: behind one address may be
/// many callers, and one of them must not shut the others out.
const TRUST: Duration = Duration::from_secs(600);

/// All sources of which anything is known.
#[derive(Debug)]
pub(super) struct Sources {
    limits: SourceLimits,
    entries: HashMap<Source, Entry>,
    /// Those that have nothing open, the one that was quiet for longest first.
    quiet: BTreeMap<u64, Source>,
    n_touched: u64,
    n_handshakes: u32,
}

#[derive(Debug)]
struct Entry {
    connections: u32,
    handshakes: u32,
    failures: Bucket,
    /// Until when it is listened to whatever it fails at.
    trusted_until: Option<Instant>,
    /// Key in `quiet`.
    quiet: Option<u64>,
}

impl Entry {
    fn is_trusted(&self, now: Instant) -> bool {
        self.trusted_until.is_some_and(|until| now < until)
    }

    /// Whether nothing is lost with it.
    fn is_forgettable(&self, now: Instant) -> bool {
        self.failures.is_full(now) && !self.is_trusted(now)
    }
}

/// Why a handshake may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHandshake {
    /// All together have too many.
    TooMany,
    /// The source has too many.
    TooManyFromSource,
}

impl Sources {
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        Self {
            limits: SourceLimits::new(limits),
            entries: HashMap::new(),
            quiet: BTreeMap::new(),
            n_touched: 0,
            n_handshakes: 0,
        }
    }

    /// Goes by these limits from now on. What is open and was counted stays.
    pub(super) fn set_limits(&mut self, limits: &LimitsConfig) {
        self.limits = SourceLimits::new(limits);
    }

    /// Counts one more connection on which nobody is known yet; false if that is one too many.
    pub(super) fn open(&mut self, source: Source, now: Instant) -> bool {
        let limit = self.limits.connections;
        self.with(source, now, |entry| {
            let may = limit == 0 || entry.connections < limit;
            entry.connections += u32::from(may);
            may
        })
    }

    /// Takes back what [`Self::open`] counted.
    pub(super) fn close(&mut self, source: Source, now: Instant) {
        self.with(source, now, |entry| {
            entry.connections = entry.connections.saturating_sub(1);
        });
    }

    /// Counts one more TLS handshake.
    pub(super) fn begin_handshake(
        &mut self,
        source: Option<Source>,
        now: Instant,
    ) -> Result<(), NoHandshake> {
        let (limit, all) = (self.limits.handshakes, self.limits.all_handshakes);
        if all != 0 && self.n_handshakes >= all {
            return Err(NoHandshake::TooMany);
        }
        let may = source.is_none_or(|source| {
            self.with(source, now, |entry| {
                let may = limit == 0 || entry.handshakes < limit;
                entry.handshakes += u32::from(may);
                may
            })
        });
        if !may {
            return Err(NoHandshake::TooManyFromSource);
        }
        self.n_handshakes += 1;
        Ok(())
    }

    /// Takes back what [`Self::begin_handshake`] counted.
    pub(super) fn end_handshake(&mut self, source: Option<Source>, now: Instant) {
        self.n_handshakes = self.n_handshakes.saturating_sub(1);
        if let Some(source) = source {
            self.with(source, now, |entry| {
                entry.handshakes = entry.handshakes.saturating_sub(1);
            });
        }
    }

    /// A credential was refused.
    pub(super) fn failed(&mut self, source: Source, now: Instant) {
        if let Some(rate) = self.limits.failures {
            self.with(source, now, |entry| {
                // Those that were under way when the last one was used up are not counted.
                let _ = entry.failures.take(rate, now);
            });
        }
    }

    /// A credential was good.
    pub(super) fn succeeded(&mut self, source: Source, now: Instant) {
        if self.limits.failures.is_some() {
            self.with(source, now, |entry| entry.trusted_until = Some(now + TRUST));
        }
    }

    /// How long this source is not listened to because of what it failed at; `None` if it is.
    pub(super) fn blocked(&self, source: Source, now: Instant) -> Option<Duration> {
        let entry = self.entries.get(&source)?;
        if entry.is_trusted(now) {
            return None;
        }
        entry.failures.wait(self.limits.failures?, now)
    }

    /// Changes the entry of a source and keeps the table small.
    fn with<T>(&mut self, source: Source, now: Instant, change: impl FnOnce(&mut Entry) -> T) -> T {
        if !self.entries.contains_key(&source) {
            self.make_room(now);
        }
        self.n_touched += 1;
        let entry = self.entries.entry(source).or_insert_with(|| Entry {
            connections: 0,
            handshakes: 0,
            failures: Bucket::full(now),
            trusted_until: None,
            quiet: None,
        });
        let result = change(entry);
        if let Some(at) = entry.quiet.take() {
            self.quiet.remove(&at);
        }
        if entry.connections == 0 && entry.handshakes == 0 {
            if entry.is_forgettable(now) {
                self.entries.remove(&source);
            } else {
                entry.quiet = Some(self.n_touched);
                self.quiet.insert(self.n_touched, source);
            }
        }
        result
    }

    /// Forgets sources of which there is nothing left to know, and one more if there are too many. Those that have
    /// something open stay: the limit on connections bounds them.
    fn make_room(&mut self, now: Instant) {
        // Two at a time keep up with any number of newcomers.
        for _ in 0..2 {
            let Some((&at, source)) = self.quiet.first_key_value() else {
                return;
            };
            let is_forgiven = self
                .entries
                .get(source)
                .is_none_or(|entry| entry.is_forgettable(now));
            if !is_forgiven && self.entries.len() < self.limits.sources {
                return;
            }
            self.entries.remove(source);
            self.quiet.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::from(IpAddr::from(n.to_be_bytes()))
    }

    fn sources(text: &str) -> Sources {
        Sources::new(&toml::from_str(text).unwrap())
    }

    #[test]
    fn ipv6_is_told_apart_by_its_64() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn each_source_has_its_own_connections() {
        let mut all = sources("connections_per_source = 2");
        let now = Instant::now();
        assert!(all.open(source(1), now) && all.open(source(1), now));
        assert!(!all.open(source(1), now));
        assert!(all.open(source(2), now));
        all.close(source(1), now);
        assert!(all.open(source(1), now));
        assert!(!all.open(source(1), now));
        let mut all = sources("connections_per_source = 0");
        assert!((0..1000).all(|_| all.open(source(1), now)));
    }

    #[test]
    fn who_showed_something_good_is_not_shut_out_by_a_neighbour() {
        let mut all = sources("failed_auth_per_minute = 1");
        let now = Instant::now();
        all.succeeded(source(1), now);
        for n in [1, 2] {
            all.failed(source(n), now);
            all.failed(source(n), now);
        }
        assert_eq!(all.blocked(source(1), now), None);
        assert!(all.blocked(source(2), now).is_some());
        let later = now + TRUST;
        all.failed(source(1), later);
        assert!(all.blocked(source(1), later).is_some());
    }

    #[test]
    fn handshakes_are_bounded_for_one_and_for_all() {
        let mut all = sources("handshakes = 3\nhandshakes_per_source = 2");
        let now = Instant::now();
        assert_eq!(all.begin_handshake(Some(source(1)), now), Ok(()));
        assert_eq!(all.begin_handshake(Some(source(1)), now), Ok(()));
        let too_many = Err(NoHandshake::TooManyFromSource);
        assert_eq!(all.begin_handshake(Some(source(1)), now), too_many);
        assert_eq!(all.begin_handshake(None, now), Ok(()));
        let too_many = Err(NoHandshake::TooMany);
        assert_eq!(all.begin_handshake(Some(source(2)), now), too_many);
        all.end_handshake(Some(source(1)), now);
        assert_eq!(all.begin_handshake(Some(source(2)), now), Ok(()));
    }

    #[test]
    fn whoever_fails_too_often_is_blocked_until_a_failure_is_forgiven() {
        let mut all = sources("failed_auth_per_minute = 60");
        let now = Instant::now();
        for _ in 0..59 {
            all.failed(source(1), now);
        }
        assert_eq!(all.blocked(source(1), now), None);
        all.failed(source(1), now);
        assert_eq!(all.blocked(source(1), now), Some(Duration::from_secs(1)));
        assert_eq!(all.blocked(source(2), now), None);
        all.failed(source(1), now);
        assert_eq!(all.blocked(source(1), now + Duration::from_secs(1)), None);
        let mut all = sources("failed_auth_per_minute = 0");
        (0..1000).for_each(|_| all.failed(source(1), now));
        assert_eq!(all.blocked(source(1), now), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_open_is_not_forgotten() {
        let mut all = sources("sources = 4\nfailed_auth_per_minute = 1");
        let now = Instant::now();
        assert!(all.open(source(100), now));
        for n in 0..1000 {
            all.failed(source(n), now);
            assert!(all.entries.len() <= 4 && all.quiet.len() <= 3);
        }
        // The last ones are still blocked, the first are forgotten.
        assert!(all.blocked(source(999), now).is_some());
        assert!(all.blocked(source(0), now).is_none());
        assert_eq!(all.entries[&source(100)].connections, 1);
        all.close(source(100), now);
        // A minute later nothing is worth remembering.
        let later = now + Duration::from_secs(61);
        for n in 0..4 {
            assert!(all.open(source(n), later));
            all.close(source(n), later);
        }
        assert!(all.entries.is_empty() && all.quiet.is_empty());
    }
}
