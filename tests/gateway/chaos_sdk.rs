//! SDK callers whose deployments suffer what those of phone calls do (see `chaos`): their sessions go on, no word of
//! theirs is lost, what they know by its id is there, and what they ask once is answered once. In simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::task::TaskTracker;
use trunkline::simulator::words::{WORDS, Word, speak};
use trunkline::simulator::{Mood, SessionRecord};

use crate::chaos::{Chaos, DEPLOYMENTS, SIMULATOR, config, user_words};
use crate::harness::World;
use crate::relay_failover::assert_legal;

const N_CALLERS: usize = 60;
const N_TURNS: usize = 4;

/// Audio in one append.
const FRAME: Duration = Duration::from_millis(100);

/// Samples of it, at 24 kHz.
const FRAME_SAMPLES: usize = 2_400;

/// A caller waits no longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a caller takes its turns.
#[derive(Clone, Copy, Debug)]
struct Kind {
    shape: &'static str,
    /// The deployment finds out when it has spoken, and answers by itself.
    detects: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        shape: "ga",
        detects: true,
    },
    Kind {
        shape: "preview",
        detects: true,
    },
    Kind {
        shape: "ga",
        detects: false,
    },
    Kind {
        shape: "preview",
        detects: false,
    },
];

struct Caller {
    socket: WebSocketStream<DuplexStream>,
    kind: Kind,
    words: Vec<&'static str>,
    /// All events but what audio is in them.
    seen: Vec<Value>,
    n_asked: usize,
    closed: Option<u16>,
}

impl Caller {
    async fn open(world: &World, kind: Kind) -> Self {
        let target = match kind.shape {
            "ga" => "/openai/v1/realtime?model=all",
            _ => "/openai/realtime?api-version=2025-04-01-preview&deployment=all",
        };
        let url = format!("ws://gateway{target}");
        let (socket, _) = client_async(url, world.connect())
            .await
            .expect("an upgrade");
        let mut caller = Self {
            socket,
            kind,
            words: Vec::new(),
            seen: Vec::new(),
            n_asked: 0,
            closed: None,
        };
        let transcription = json!({"model": "gpt-4o-mini-transcribe"});
        // The pauses between words end no turn.
        let turns = match kind.detects {
            true => json!({"type": "server_vad", "silence_duration_ms": 500}),
            false => Value::Null,
        };
        let session = match kind.shape {
            "ga" => {
                json!({"type": "realtime", "audio": {"input": {"transcription": transcription, "turn_detection": turns}}})
            }
            _ => json!({"input_audio_transcription": transcription, "turn_detection": turns}),
        };
        caller
            .send(json!({"type": "session.update", "session": session}))
            .await;
        caller
            .wait("its settings", |it| it.count("session.updated") > 0)
            .await;
        caller
    }

    /// The whole call.
    async fn run(mut self, turns: Vec<Vec<&'static Word>>) -> Self {
        for (n, words) in turns.iter().enumerate() {
            self.words.extend(words.iter().map(|word| word.text));
            self.takes_turn(words).await;
            assert_eq!(self.n_completed(), n + 1, "{:?}", self.kind);
            self.says(&[0; FRAME_SAMPLES]).await;
        }
        let ids = self.item_ids();
        for id in &ids {
            self.send(json!({"type": "conversation.item.retrieve", "item_id": id}))
                .await;
        }
        self.wait("its items", |it| {
            it.count("conversation.item.retrieved") == ids.len()
        })
        .await;
        let _ = self.socket.close(None).await;
        self
    }

    /// Speaks and is answered. What fails is asked for again, as an SDK's user would.
    async fn takes_turn(&mut self, words: &[&'static Word]) {
        let said = speak(words.iter().copied()).at_rate(24_000);
        for samples in said.samples.chunks(FRAME_SAMPLES) {
            self.says(samples).await;
        }
        let mut n_done = self.count("response.done");
        let n_completed = self.n_completed();
        if !self.kind.detects {
            self.send(json!({"type": "input_audio_buffer.commit"}))
                .await;
            self.asks().await;
        }
        let until = Instant::now() + PATIENCE;
        while self.n_completed() == n_completed {
            assert!(Instant::now() < until, "no answer: {:#?}", self.tail());
            self.listens(self.kind.detects).await;
            let done = self.seen.iter().filter(|it| it["type"] == "response.done");
            let done: Vec<_> = done.map(|it| it["response"]["status"].clone()).collect();
            let has_failed = done[n_done..].iter().any(|status| status == "failed");
            n_done = done.len();
            if has_failed {
                for _ in 0..10 {
                    self.listens(self.kind.detects).await;
                }
                self.asks().await;
            }
        }
    }

    async fn asks(&mut self) {
        self.n_asked += 1;
        let metadata = json!({"ask": self.n_asked.to_string()});
        self.send(json!({"type": "response.create", "response": {"metadata": metadata}}))
            .await;
    }

    async fn listens(&mut self, speaks: bool) {
        match speaks {
            true => self.says(&[0; FRAME_SAMPLES]).await,
            false => self.hears(FRAME).await,
        }
    }

    async fn says(&mut self, samples: &[i16]) {
        let bytes: Vec<u8> = samples.iter().flat_map(|it| it.to_le_bytes()).collect();
        let audio = STANDARD.encode(bytes);
        self.send(json!({"type": "input_audio_buffer.append", "audio": audio}))
            .await;
        self.hears(FRAME).await;
    }

    async fn send(&mut self, event: Value) {
        let sent = self.socket.send(Message::text(event.to_string())).await;
        assert!(sent.is_ok(), "dropped: {sent:?} {:#?}", self.tail());
    }

    async fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_there(self) {
            assert!(
                Instant::now() < until,
                "no sign of {what}: {:#?}",
                self.tail()
            );
            self.hears(FRAME).await;
        }
    }

    async fn hears(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(message) = timeout_at(until, self.socket.next()).await {
            match message {
                Some(Ok(Message::Text(text))) => {
                    let mut event: Value = serde_json::from_str(&text).expect("JSON");
                    if event["type"]
                        .as_str()
                        .is_some_and(|it| it.ends_with("audio.delta"))
                    {
                        event["delta"] = "".into();
                    }
                    self.seen.push(event);
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                    panic!("dropped: {:?} {:#?}", self.closed, self.tail());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => panic!("dropped: {:#?}", self.tail()),
            }
        }
    }

    fn count(&self, kind: &str) -> usize {
        self.seen.iter().filter(|it| it["type"] == kind).count()
    }

    /// Responses that were said to their end.
    fn completed(&self) -> impl Iterator<Item = &Value> {
        let done = self.seen.iter().filter(|it| it["type"] == "response.done");
        let responses = done.map(|it| &it["response"]);
        responses.filter(|response| response["status"] == "completed")
    }

    fn n_completed(&self) -> usize {
        self.completed().count()
    }

    /// All items that it was ever told of.
    fn item_ids(&self) -> BTreeSet<String> {
        let kinds = ["conversation.item.added", "conversation.item.created"];
        let told = self.seen.iter().filter(|it| {
            let kind = it["type"].as_str().unwrap_or_default();
            kinds.contains(&kind)
        });
        told.map(|it| it["item"]["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    fn tail(&self) -> &[Value] {
        &self.seen[self.seen.len().saturating_sub(12)..]
    }

    fn check(&self) {
        assert_legal(&self.seen);
        // One that was cut off has been gone on with, and only the last part of it is complete.
        let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
        for response in self.completed() {
            if let Some(ask) = response["metadata"]["ask"].as_str() {
                *answers.entry(ask).or_default() += 1;
            }
        }
        assert!(answers.values().all(|n| *n == 1), "{answers:?}");
        assert_eq!(self.n_completed(), N_TURNS);
    }
}

#[tokio::test(start_paused = true)]
async fn sdk_callers_survive_their_deployments() {
    for seed in 0..3 {
        survive(seed).await;
    }
}

async fn survive(seed: u64) {
    // What the gateway leaves to chance comes from here: it runs in this thread.
    fastrand::seed(seed);
    let tasks = TaskTracker::new();
    let keys = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("chaos-sdk-key-{seed}-{}", std::process::id()));
    std::fs::write(&keys, "key-0").expect("a temporary file");
    let world = Arc::new(World::with_config(&config(&keys, false), SIMULATOR));
    let mut rng = fastrand::Rng::with_seed(seed);
    let chaos = Chaos::new(rng.fork(), keys.clone());
    let blows = Arc::clone(&chaos.blows);
    let digits = &WORDS[..WORDS.len() - 1];
    let mut calls = Vec::new();
    for n in 0..N_CALLERS {
        let mut turn = || (0..3).map(|_| &digits[rng.usize(..digits.len())]).collect();
        let turns: Vec<Vec<&Word>> = (0..N_TURNS).map(|_| turn()).collect();
        let after = Duration::from_secs(20).mul_f64(rng.f64());
        let world = Arc::clone(&world);
        calls.push(tasks.spawn(async move {
            sleep(after).await;
            let caller = Caller::open(&world, KINDS[n % KINDS.len()]).await;
            caller.run(turns).await
        }));
    }
    let chaos = tasks.spawn(chaos.reign(Arc::clone(&world)));
    let mut callers = Vec::new();
    for call in calls {
        callers.push(call.await.expect("a call that goes to its end"));
    }
    chaos.abort();
    let _ = chaos.await;
    for name in DEPLOYMENTS {
        world.simulator.set_mood(name, Mood::Well);
    }
    sleep(Duration::from_secs(120)).await;
    let _ = std::fs::remove_file(keys);
    let sessions = world.simulator.sessions();
    println!(
        "chaos: {N_CALLERS} SDK callers, {} sessions, blows {:?}",
        sessions.len(),
        blows.lock().expect("no panic while held")
    );
    assert!(sessions.len() > N_CALLERS + 10, "there was chaos");
    for caller in &callers {
        caller.check();
        // The one that knows most of what this caller was told of.
        let known = |session: &&SessionRecord| {
            let is_told = |id: &&String| session.conversation.iter().any(|item| item.id == **id);
            caller.item_ids().iter().filter(is_told).count()
        };
        let last = sessions.iter().max_by_key(known).expect("there are some");
        assert_eq!(
            (known(&last), user_words(&last.conversation)),
            (caller.item_ids().len(), caller.words.clone()),
            "{:?}: {:#?}",
            caller.kind,
            last.conversation
        );
    }
    world.assert_quiet().await;
}
