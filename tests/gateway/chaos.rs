//! Calls of speech go on while their deployments are cut off, refuse, fall silent, reach their caps, change their keys
//! and run out of quota. In simulated time. The seed says who says what when and which deployment suffers what; which of
//! two things that happen at one moment comes first is the runtime's choice.
//!
//! The far end knows the words that callers say, so that nothing needs to be believed: the last session of each call must
//! hold every word of its caller, once and in order, and every tool must have been asked once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use trunkline::bridge::CallSummary;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::words::{UNKNOWN, WORDS, Word, speak};
use trunkline::simulator::{Act, Blow, CallReport, ItemRecord, Mood, SessionRecord, SoftPhone};

use crate::harness::World;
use crate::web;

pub(crate) const DEPLOYMENTS: [&str; 4] = ["a", "b", "c", "d"];

/// How often somebody calls who is not let in, each time when it was told to.
const MAX_REFUSALS: u32 = 10;

/// One run.
struct Plan {
    seed: u64,
    n_calls: usize,
    n_turns: usize,
    /// Calls begin within so long.
    arrivals: Duration,
    standby: bool,
}

/// What came of it.
struct Outcome {
    callers: Vec<Caller>,
    sessions: Vec<SessionRecord>,
    /// How often the tool was asked, by the gateway's id of the call.
    lookups: BTreeMap<String, usize>,
    /// What was done to the deployments, and how often.
    blows: BTreeMap<&'static str, u32>,
    gaps: Gaps,
    standby: bool,
}

/// Somebody who called.
struct Caller {
    words: Vec<&'static str>,
    n_lookups: usize,
    n_refusals: u32,
    report: CallReport,
}

pub(crate) fn config(keys: &std::path::Path, standby: bool) -> String {
    let mut config =
        "[auth]\nmode = \"none\"\n\n[listener.limits]\ncalls_per_second = 0\n".to_owned();
    for name in DEPLOYMENTS {
        config += &format!(
            "\n[deployments.{name}]\nurl = \"ws://127.0.0.1:1\"\nmodel = \"{name}\"\napi_key_file = \"{}\"\n",
            keys.display()
        );
    }
    config += "\n[pools.all]\ndeployments = [\"a\", \"b\", \"c\", \"d\"]\n";
    if standby {
        config += "\n[pools.all.standby]\nmin = 30\nmax = 60\n";
    }
    config
        + r#"
[agents.desk]
deployment = "all"

[agents.desk.session]
transcription = { model = "gpt-4o-mini-transcribe" }

[[agents.desk.session.tools]]
name = "lookup"
description = "Looks something up."
parameters = { type = "object", properties = {} }

[agents.desk.webhooks.lookup]
url = "http://web/lookup"
timeout = "5s"
"#
}

/// Four deployments that say back what they hear. The last one has little quota.
pub(crate) const SIMULATOR: &str = r#"
api_keys = ["key-0"]
azure_session_cap = "75s"
retained_audio = "20s"

[transcription]
recognise = true

[deployments.a]
[deployments.b]
[deployments.c]
[deployments.d.quota]
tokens_per_minute = 40000
enforce = "both"
"#;

impl Plan {
    async fn run(&self) -> Outcome {
        // What the gateway leaves to chance comes from here: it runs in this thread.
        fastrand::seed(self.seed);
        let tasks = TaskTracker::new();
        let lookups = Lookups::default();
        let web = webhook(&lookups);
        let keys = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "chaos-key-{}-{}-{}",
            self.seed,
            self.standby,
            std::process::id()
        ));
        std::fs::write(&keys, "key-0").expect("a temporary file");
        let config = config(&keys, self.standby);
        let world = Arc::new(World::with_web(&config, SIMULATOR, web));
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let chaos = Chaos::new(rng.fork(), keys.clone());
        let blows = Arc::clone(&chaos.blows);
        let mut calls = Vec::new();
        for n in 0..self.n_calls {
            let said = Said::new(&mut rng, self.n_turns);
            let after = self.arrivals.mul_f64(rng.f64());
            let world = Arc::clone(&world);
            calls.push(tasks.spawn(async move {
                sleep(after).await;
                said.call(&world, n).await
            }));
        }
        let chaos = tasks.spawn(chaos.reign(Arc::clone(&world)));
        let ended = Arc::new(Mutex::new(BTreeMap::new()));
        let watch = tasks.spawn(watch(Arc::clone(&world), Arc::clone(&ended)));
        let mut callers = Vec::new();
        for call in calls {
            callers.push(call.await.expect("no panic"));
        }
        chaos.abort();
        let _ = chaos.await;
        sleep(Duration::from_secs(1)).await;
        for name in DEPLOYMENTS {
            world.simulator.set_mood(name, Mood::Well);
        }
        watch.abort();
        let gaps = Gaps::of(
            &ended.lock().expect("no panic while held"),
            n_replaced(&world),
        );
        // Sessions that never end would show after this.
        sleep(Duration::from_secs(120)).await;
        let _ = std::fs::remove_file(keys);
        let lookups = lookups.lock().expect("no panic while held").clone();
        let blows = blows.lock().expect("no panic while held").clone();
        Outcome {
            callers,
            sessions: world.simulator.sessions(),
            lookups,
            blows,
            gaps,
            standby: self.standby,
        }
    }
}

/// Writes down all calls that end: the gateway remembers the last few.
async fn watch(world: Arc<World>, ended: Arc<Mutex<BTreeMap<String, CallSummary>>>) {
    loop {
        sleep(Duration::from_millis(100)).await;
        let calls = world.gateway.calls().ended();
        let calls = calls.into_iter().map(|call| (call.call_id.clone(), call));
        ended.lock().expect("no panic while held").extend(calls);
    }
}

/// What one caller says.
struct Said(Vec<Vec<&'static Word>>);

impl Said {
    fn new(rng: &mut fastrand::Rng, n_turns: usize) -> Self {
        let (lookup, digits) = WORDS.split_last().expect("there are words");
        let mut turn = || {
            let mut words: Vec<_> = (0..3).map(|_| &digits[rng.usize(..digits.len())]).collect();
            if rng.u32(..5) == 0 {
                words.push(lookup);
            }
            words
        };
        Self((0..n_turns).map(|_| turn()).collect())
    }

    async fn call(self, world: &World, n: usize) -> Caller {
        let (url, dialect) = match n % 2 {
            0 => ("ws://gateway/twilio/media/desk", Dialect::Twilio),
            _ => ("ws://gateway/v1/audio/desk", Dialect::Audio),
        };
        let mut acts = vec![Act::Silence(Duration::from_millis(300))];
        for words in &self.0 {
            acts.push(Act::Say(speak(words.iter().copied())));
            acts.push(Act::WaitForReply {
                min_audio: Duration::from_millis(300),
                until_end: true,
                timeout: Duration::from_secs(30),
            });
        }
        acts.push(Act::HangUp);
        let phone = SoftPhone::new(url, dialect)
            .expect("a good address")
            .seed(n as u64)
            .script(acts);
        let mut n_refusals = 0;
        let report = loop {
            let report = phone.call(world.connect()).await;
            // Who is not let in has no call yet, and tries again.
            let Some(refusal) = report
                .refusal
                .as_ref()
                .filter(|_| n_refusals < MAX_REFUSALS)
            else {
                break report;
            };
            n_refusals += 1;
            let told = refusal.retry_after.as_deref();
            let seconds = told.and_then(|it| it.parse().ok()).unwrap_or(1);
            sleep(Duration::from_secs(seconds)).await;
        };
        let words: Vec<_> = self.0.iter().flatten().map(|word| word.text).collect();
        Caller {
            n_lookups: words.iter().filter(|word| **word == "call lookup").count(),
            words,
            n_refusals,
            report,
        }
    }
}

/// What happens to the deployments.
pub(crate) struct Chaos {
    rng: fastrand::Rng,
    keys: PathBuf,
    pub(crate) blows: Arc<Mutex<BTreeMap<&'static str, u32>>>,
}

impl Chaos {
    pub(crate) fn new(rng: fastrand::Rng, keys: PathBuf) -> Self {
        Self {
            rng,
            keys,
            blows: Arc::default(),
        }
    }

    /// Does something to one deployment every other second. Two of the four are always well.
    pub(crate) async fn reign(mut self, world: Arc<World>) {
        let mut ill: BTreeMap<&str, Instant> = BTreeMap::new();
        let mut n_keys = 0;
        loop {
            sleep(Duration::from_millis(self.rng.u64(1_000..3_000))).await;
            let now = Instant::now();
            ill.retain(|name, until| {
                if *until <= now {
                    world.simulator.set_mood(name, Mood::Well);
                }
                *until > now
            });
            let name = DEPLOYMENTS[self.rng.usize(..DEPLOYMENTS.len())];
            let may_fall_ill = ill.len() < 2 && !ill.contains_key(name);
            let blow = match self.rng.u32(..8) {
                0 | 1 => {
                    world.simulator.strike(name, Blow::Cut);
                    "cut"
                }
                2 => {
                    world.simulator.strike(name, Blow::Close(1011));
                    "closed 1011"
                }
                3 => {
                    world.simulator.strike(name, Blow::Close(1013));
                    "closed 1013"
                }
                4 | 5 if may_fall_ill => {
                    let status = *self.rng.choice(&[429, 500, 503]).expect("some");
                    world.simulator.set_mood(name, Mood::Refusing(status));
                    ill.insert(name, now + Duration::from_secs(self.rng.u64(3..8)));
                    "refusing"
                }
                6 if may_fall_ill => {
                    world.simulator.set_mood(name, Mood::Silent);
                    ill.insert(name, now + Duration::from_secs(15));
                    "silent"
                }
                7 => {
                    n_keys += 1;
                    let key = format!("key-{n_keys}");
                    std::fs::write(&self.keys, &key).expect("a temporary file");
                    world.simulator.set_api_keys(vec![key]);
                    "new key"
                }
                _ => continue,
            };
            *self
                .blows
                .lock()
                .expect("no panic while held")
                .entry(blow)
                .or_default() += 1;
        }
    }
}

/// How often each function call was run, by the gateway's id of the call.
type Lookups = Arc<Mutex<BTreeMap<String, usize>>>;

/// The way to a web server with the tool on it.
fn webhook(lookups: &Lookups) -> mpsc::Sender<DuplexStream> {
    let lookups = Arc::clone(lookups);
    web::serve(move |request| lookup(request, Arc::clone(&lookups)))
}

async fn lookup(
    request: http::Request<Incoming>,
    lookups: Lookups,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.expect("a body");
    let asked: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    let call = asked["call_id"].as_str().expect("the call's id").to_owned();
    *lookups
        .lock()
        .expect("no panic while held")
        .entry(call)
        .or_default() += 1;
    let answer = Bytes::from_static(b"it is there");
    Ok(http::Response::new(Full::new(answer)))
}

/// Silence that callers heard for each session that was lost, in order: from when the loss was noticed, or from when what
/// there was to be played ran out, until another session was asked for the answer. None where no answer was owed.
struct Gaps(Vec<Duration>);

impl Gaps {
    fn of(calls: &BTreeMap<String, CallSummary>, n_replaced: usize) -> Self {
        let gaps = calls.values().flat_map(|call| &call.gaps);
        let mut gaps: Vec<_> = gaps.copied().collect();
        gaps.resize(gaps.len().max(n_replaced), Duration::ZERO);
        gaps.sort_unstable();
        Self(gaps)
    }

    fn p99(&self) -> Duration {
        let rank = (self.0.len() * 99).div_ceil(100);
        rank.checked_sub(1).map_or(Duration::ZERO, |n| self.0[n])
    }
}

/// Sessions that were lost and replaced.
fn n_replaced(world: &World) -> usize {
    let text = world.gateway.metrics().render().expect("metrics");
    let is_it = |line: &&str| {
        line.starts_with("trunkline_session_replacements_total{")
            && line.contains("outcome=\"replaced\"")
            && !line.contains("cause=\"rotation\"")
    };
    let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter(is_it).filter_map(count).sum::<f64>() as usize
}

/// The user's words in a conversation, however they came there.
pub(crate) fn user_words(conversation: &[ItemRecord]) -> Vec<&'static str> {
    let known = || WORDS.iter().map(|word| word.text).chain([UNKNOWN]);
    let mut words = Vec::new();
    for item in conversation.iter().filter(|item| item.kind == "user") {
        let mut rest = item.text.as_str();
        while !rest.is_empty() {
            match known().find(|word| rest.starts_with(word)) {
                Some(word) => {
                    words.push(word);
                    rest = &rest[word.len()..];
                }
                None => rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..],
            }
        }
    }
    words
}

impl Outcome {
    /// Every call went to its end, with every word and every tool.
    fn check(&self) {
        let mut dropped = Vec::new();
        let mut incomplete = Vec::new();
        let mut told: Vec<Vec<&str>> = self
            .sessions
            .iter()
            .map(|session| user_words(&session.conversation))
            .collect();
        for (n, caller) in self.callers.iter().enumerate() {
            let report = &caller.report;
            let went_well = report.script_done
                && report.failure.is_none()
                && report.refusal.is_none()
                && report.script_failures.is_empty()
                && report.violations.is_empty();
            if !went_well {
                dropped.push(format!("call {n}: {report}"));
                continue;
            }
            match told.iter().position(|words| *words == caller.words) {
                Some(found) => drop(told.swap_remove(found)),
                None => {
                    let alike = |words: &&Vec<&str>| {
                        words
                            .iter()
                            .zip(&caller.words)
                            .filter(|(a, b)| a == b)
                            .count()
                    };
                    let nearest = told.iter().max_by_key(alike);
                    incomplete.push(format!(
                        "call {n} {:?}\n  said {:?}\n  nearest {nearest:?}",
                        report.call_id, caller.words
                    ));
                }
            }
        }
        let asked: usize = self.lookups.values().sum();
        let said: usize = self.callers.iter().map(|caller| caller.n_lookups).sum();
        let n_words: usize = self.callers.iter().map(|caller| caller.words.len()).sum();
        let n_refusals: u32 = self.callers.iter().map(|caller| caller.n_refusals).sum();
        println!(
            "chaos: {} calls ({n_refusals} times refused before), {n_words} words, {said} lookups, {} sessions, blows {:?}\n\
             chaos: {} dropped, {} with words lost, {asked} lookups run, {} sessions lost, gap p99 {:?}, longest {:?}; turns {}",
            self.callers.len(),
            self.sessions.len(),
            self.blows,
            dropped.len(),
            incomplete.len(),
            self.gaps.0.len(),
            self.gaps.p99(),
            self.gaps.0.last(),
            self.latencies(),
        );
        assert!(dropped.is_empty(), "dropped: {}", dropped.join("\n"));
        assert!(
            incomplete.is_empty(),
            "words lost: {}",
            incomplete.join("\n")
        );
        assert_eq!(asked, said, "every tool is asked once");
        let bound = Duration::from_millis(if self.standby { 400 } else { 1_500 });
        assert!(self.gaps.p99() < bound, "gaps {:?}", self.gaps.0);
        for (call, n) in &self.lookups {
            let caller = self
                .callers
                .iter()
                .find(|caller| caller.report.call_id.as_ref() == Some(call));
            if let Some(caller) = caller {
                assert_eq!(*n, caller.n_lookups, "{call}");
            }
        }
    }

    /// How long callers waited for answers.
    fn latencies(&self) -> String {
        let turns = self.callers.iter().flat_map(|caller| &caller.report.turns);
        let mut latencies: Vec<f64> = turns.filter_map(|turn| turn.latency_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let n = (latencies.len() as f64 * share) as usize;
            latencies
                .get(n.min(latencies.len().saturating_sub(1)))
                .copied()
                .unwrap_or_default()
        };
        format!(
            "p50 {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        )
    }
}

async fn short(standby: bool) {
    let plan = Plan {
        seed: 4,
        n_calls: 200,
        n_turns: 5,
        arrivals: Duration::from_secs(40),
        standby,
    };
    plan.run().await.check();
}

#[tokio::test(start_paused = true)]
async fn calls_survive_their_deployments() {
    short(false).await;
}

#[tokio::test(start_paused = true)]
async fn calls_survive_their_deployments_with_sessions_that_stand_by() {
    short(true).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "a long run: make soak"]
async fn calls_survive_their_deployments_for_long() {
    for seed in 0..5 {
        for standby in [false, true] {
            let plan = Plan {
                seed,
                n_calls: 200,
                n_turns: 12,
                arrivals: Duration::from_secs(60),
                standby,
            };
            plan.run().await.check();
        }
    }
}
