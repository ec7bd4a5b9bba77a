//! Records of calls: one for each, whatever ends it, and none is lost on its way to a webhook.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use trunkline::config::Config;
use trunkline::listener::Unchanged;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, speech};

use crate::callers::{listen, phone};
use crate::failover;
use crate::harness::{CONFIG, World};
use crate::web;
use crate::wire::{Wire, upgrade_request};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("trunkline-records-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("calls.jsonl")
    }

    /// `config` with records in a file here, and more of the `[records]` table.
    fn recorded(&self, config: &str, more: &str) -> String {
        let path = self.file();
        format!("{config}\n[records]\nsink = 'file'\n{more}\nfile = {{ path = {path:?} }}\n")
    }

    /// The same with a webhook.
    fn sent(&self, config: &str) -> String {
        let spool = self.0.join("spool");
        format!(
            "{config}\n[records]\nsink = 'webhook'\n[records.webhook]\nurl = 'http://collector/calls'\n\
             secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\nspool = {{ directory = {spool:?} }}\n"
        )
    }

    fn spooled(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.0.join(folder)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|it| it.expect("an entry").file_name().into_string().ok());
        names.filter(|name| name.ends_with(".json")).collect()
    }

    /// The records, once there are so many of them; more have had their time to come.
    async fn records(&self, n: usize) -> Vec<Value> {
        loop {
            let text = std::fs::read_to_string(self.file()).unwrap_or_default();
            if text.lines().count() >= n {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let records = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let records: Vec<Value> = records.collect();
        assert_eq!(records.len(), n, "{text}");
        records
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TWILIO_START: &str = r#"{"event":"start","streamSid":"MZ1","start":{"streamSid":"MZ1","callSid":"CA1","customParameters":{"from":"+15550001111","order":"7","card":"4111"}}}"#;

/// So many milliseconds, as a record has them.
fn ms(record: &Value, of: &str) -> u64 {
    let value = record.pointer(of).unwrap_or(&Value::Null);
    value.as_u64().unwrap_or_else(|| panic!("{of}: {record}"))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_up_has_one_record() {
    let folder = Folder::new("hangup");
    let prices = "[prices.gpt-realtime]\ninput_text = 4.0\noutput_audio = 64.0\n";
    let config = folder.recorded(CONFIG, "") + prices;
    let world = World::with_config(&config, "");
    let script = [Act::Say(speech::hours()), listen(), Act::HangUp];
    let report = world
        .call(&phone("/twilio/media/ga", Dialect::Twilio, script))
        .await;
    assert!(report.script_done, "{report}");
    let record = folder.records(1).await.remove(0);
    let summary = world.ended(1).await;
    assert_eq!(record["version"], 1);
    assert_eq!(record["call_id"], summary.call_id.as_str());
    assert_eq!(record["tenant"], "default");
    assert_eq!(
        (&record["agent"], record.get("model")),
        (&json!("ga"), None)
    );
    assert_eq!(record["dialect"], "twilio");
    assert_eq!(
        (&record["end_reason"], &record["end_side"]),
        (&json!("caller_hangup"), &json!("caller"))
    );
    assert_eq!(record["sessions"][0]["deployment"], "ga");
    assert_eq!(
        record["sessions"][0]["session_id"],
        summary.session_id.as_str()
    );
    assert_eq!(record["sessions"][0]["duration_ms"], record["duration_ms"]);
    assert_eq!(
        ms(&record, "/duration_ms"),
        summary.duration.as_millis() as u64
    );
    assert_eq!(ms(&record, "/turns/count"), summary.n_turns);
    let latency = summary.turns[0].latency.as_millis() as u64;
    assert_eq!(ms(&record, "/turns/latencies/0/latency_ms"), latency);
    assert_eq!(ms(&record, "/tokens/total"), summary.usage.total());
    assert!(summary.usage.total() > 0);
    let usage = summary.usage;
    let cost = (usage.input_text as f64 * 4.0 + usage.output_audio as f64 * 64.0) / 1e6;
    let said = record["cost"]["amount"].as_f64().expect("a cost");
    assert!(
        (said - cost).abs() < 1e-6 && said > 0.0,
        "{said}, not {cost}"
    );
    assert_eq!(record["cost"]["currency"], "USD");
    // The caller heard the whole answer, and the model took what was said for speech.
    let heard = ms(&record, "/heard/reply_ms");
    let played = report.heard.played_ms as u64;
    assert!(
        heard.abs_diff(played) <= 200,
        "{heard} ms, and the phone says {played}"
    );
    let speech = ms(&record, "/heard/caller_speech_ms");
    assert!(
        speech > 500 && speech <= ms(&record, "/heard/caller_audio_ms"),
        "{record}"
    );
    for private in ["caller", "parameters", "transcript"] {
        assert_eq!(record.get(private), None, "{private}");
    }
    assert_eq!(
        world.metric(r#"trunkline_call_records_delivered_total{sink="file"}"#),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_has_no_record() {
    let folder = Folder::new("refused");
    let world = World::with_config(&folder.recorded(CONFIG, ""), "");
    for target in ["/twilio/media/nobody", "/openai/v1/realtime?model=nobody"] {
        let answer = world.http(&upgrade_request(target, "")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    folder.records(0).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_word_there_are_no_records() {
    let world = World::new("");
    let report = world
        .call(&phone("/twilio/media/ga", Dialect::Twilio, [Act::HangUp]))
        .await;
    assert!(report.script_done);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let metrics = world.metrics();
    assert!(!metrics.contains("trunkline_call_records_delivered_total{"));
    assert_eq!(world.metric("trunkline_call_records_queued"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_said_of_callers_is_said_and_nothing_else() {
    for (caller, said) in [
        ("redacted", None),
        ("plain", Some("+15550001111")),
        (
            "hashed",
            Some("hmac-sha256:1c40f8a0903742113a9deb9f52dc77006bfe405221782c80a5a28929a99d82fa"),
        ),
    ] {
        let folder = Folder::new(caller);
        let more = format!(
            "caller = '{caller}'\ncaller_secret = '0123456789abcdef0123456789abcdef'\nparameters = ['order']\n"
        );
        let world = World::with_config(&folder.recorded(CONFIG, &more), "");
        let mut wire = Wire::open(&world, "/twilio/media/ga").await;
        wire.text(TWILIO_START).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(wire);
        let record = folder.records(1).await.remove(0);
        assert_eq!(record["provider_call_id"], "CA1");
        assert_eq!(record["end_reason"], "caller_gone");
        assert_eq!(
            record.get("caller").and_then(Value::as_str),
            said,
            "{caller}"
        );
        assert_eq!(record["parameters"], json!({"order": "7"}));
        assert!(!record.to_string().contains("4111"), "{record}");
        let shows_number = record.to_string().contains("15550001111");
        assert_eq!(shows_number, caller == "plain", "{record}");
    }
}

/// A phone asks something, and after it an SDK client of `model`.
async fn call_of_each_kind(world: &World, model: &str) {
    let sdk = format!("/openai/v1/realtime?model={model}");
    for (url, dialect) in [
        ("/twilio/media/ga", Dialect::Twilio),
        (&*sdk, Dialect::Realtime),
    ] {
        let script = [Act::Say(speech::hours()), listen(), Act::HangUp];
        world.call(&phone(url, dialect, script)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_over_names_both_sessions() {
    let folder = Folder::new("failover");
    let simulator = "[[faults]]\ndeployment = 'east'\nkind = 'close'\ncode = 1011\n";
    let world = World::with_config(&folder.recorded(failover::CONFIG, ""), simulator);
    call_of_each_kind(&world, "both").await;
    for record in folder.records(2).await {
        let sessions = record["sessions"].as_array().expect("sessions");
        let deployments = sessions
            .iter()
            .map(|it| it["deployment"].as_str().unwrap_or_default());
        let deployments: Vec<_> = deployments.collect();
        let n = sessions.len() as u64;
        assert_eq!(ms(&record, "/failovers"), n - 1, "{record}");
        if record["dialect"] == "twilio" {
            assert_eq!(deployments, ["east", "west"]);
        }
        let parts: u64 = (0..sessions.len())
            .map(|n| ms(&record, &format!("/sessions/{n}/duration_ms")))
            .sum();
        assert!(parts.abs_diff(ms(&record, "/duration_ms")) <= n, "{record}");
        assert_eq!(ms(&record, "/rotations"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_the_drain_ends_have_their_records() {
    let folder = Folder::new("drained");
    let world = World::with_config(&folder.recorded(CONFIG, ""), "");
    let mut phone = Wire::open(&world, "/twilio/media/ga").await;
    phone.text(TWILIO_START).await;
    let sdk = Wire::open(&world, "/openai/v1/realtime?model=ga").await;
    world.gateway.drain(Duration::ZERO).await;
    for record in folder.records(2).await {
        assert_eq!(
            (&record["end_reason"], &record["end_side"]),
            (&json!("drained"), &json!("gateway"))
        );
    }
    drop((phone, sdk));
}

const TRANSCRIBED: &str = "[agents.ga.session]\ntranscription = { model = \"whisper-1\" }\n";

#[tokio::test(start_paused = true)]
async fn what_was_said_is_recorded_where_that_is_asked_for() {
    let folder = Folder::new("words");
    let config = folder.recorded(&format!("{CONFIG}{TRANSCRIBED}"), "transcripts = true");
    let world = World::with_config(&config, "");
    call_of_each_kind(&world, "ga").await;
    for record in folder.records(2).await {
        let lines = record["transcript"]["lines"].as_array().expect("lines");
        let said = lines.iter().filter(|line| line["speaker"] == "assistant");
        assert!(said.clone().count() > 0, "{record}");
        assert!(
            said.clone()
                .all(|line| line["text"].as_str().is_some_and(|it| !it.is_empty()))
        );
        assert_eq!(ms(&record, "/transcript/left_out"), 0);
        if record["dialect"] == "twilio" {
            assert_eq!(lines[0]["speaker"], "caller", "{record}");
        } else {
            assert_eq!(
                (&record["model"], record.get("agent")),
                (&json!("ga"), None)
            );
            assert!(ms(&record, "/heard/reply_ms") > 500, "{record}");
        }
    }
}

/// A receiver: what it answers next, and what it was sent, by `webhook-id`.
#[derive(Clone, Default)]
struct Collector {
    status: Arc<Mutex<u16>>,
    seen: Arc<Mutex<BTreeMap<String, Vec<Value>>>>,
}

impl Collector {
    fn new(status: u16) -> Self {
        let collector = Self::default();
        collector.answers(status);
        collector
    }

    fn answers(&self, status: u16) {
        *self.status.lock().expect("no panic while held") = status;
    }

    /// Serves whoever connects.
    fn serve(&self) -> mpsc::Sender<DuplexStream> {
        let served = self.clone();
        web::serve(move |request| served.clone().take(request))
    }

    async fn take(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let header = |name: &str| {
            let value = request
                .headers()
                .get(name)
                .map(|it| it.to_str().expect("text"));
            value.unwrap_or_default().to_owned()
        };
        let id = header("webhook-id");
        assert!(header("webhook-signature").starts_with("v1,"));
        assert!(header("webhook-timestamp").parse::<u64>().is_ok());
        let body = request.into_body().collect().await.expect("a body");
        let record: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        assert_eq!(record["call_id"], id.as_str());
        let mut seen = self.seen.lock().expect("no panic while held");
        seen.entry(id).or_default().push(record);
        let status = *self.status.lock().expect("no panic while held");
        let answer = http::Response::builder().status(status);
        Ok(answer.body(Full::default()).expect("an answer"))
    }

    /// How often each record came, the most often first.
    fn counts(&self) -> Vec<usize> {
        let seen = self.seen.lock().expect("no panic while held");
        let mut counts: Vec<_> = seen.values().map(Vec::len).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }
}

/// Waits until this is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

async fn hang_up(world: &World) {
    let report = world
        .call(&phone("/twilio/media/ga", Dialect::Twilio, [Act::HangUp]))
        .await;
    assert!(report.script_done, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_was_down_gets_every_record_when_it_is_back() {
    let folder = Folder::new("down");
    let collector = Collector::new(503);
    let world = World::with_web(&folder.sent(CONFIG), "", collector.serve());
    for _ in 0..3 {
        hang_up(&world).await;
    }
    until("a try in vain", || collector.counts().len() >= 2).await;
    assert_eq!(folder.spooled("spool").len(), 3);
    assert_eq!(world.metric("trunkline_call_records_spooled"), 3.0);
    assert!(world.metric("trunkline_call_records_oldest_timestamp_seconds") > 0.0);
    assert!(world.metric(r#"trunkline_call_records_retried_total{cause="status_5xx"}"#) >= 2.0);
    collector.answers(204);
    until("an empty spool", || folder.spooled("spool").is_empty()).await;
    let delivered = r#"trunkline_call_records_delivered_total{sink="webhook"}"#;
    until("three delivered", || world.metric(delivered) == 3.0).await;
    assert_eq!(collector.counts().len(), 3);
    assert_eq!(world.metric("trunkline_call_records_spooled"), 0.0);
    assert_eq!(
        world.metric("trunkline_call_records_oldest_timestamp_seconds"),
        0.0
    );
    // With the receiver well, each comes once and at once.
    hang_up(&world).await;
    until("four delivered", || world.metric(delivered) == 4.0).await;
    assert_eq!(collector.counts().last(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_is_put_aside() {
    let folder = Folder::new("aside");
    let collector = Collector::new(422);
    let world = World::with_web(&folder.sent(CONFIG), "", collector.serve());
    hang_up(&world).await;
    until("it is put aside", || {
        !folder.spooled("spool/refused").is_empty()
    })
    .await;
    collector.answers(200);
    hang_up(&world).await;
    let delivered = r#"trunkline_call_records_delivered_total{sink="webhook"}"#;
    until("the next", || world.metric(delivered) == 1.0).await;
    assert_eq!(collector.counts(), [1, 1], "it is not repeated");
    assert_eq!(folder.spooled("spool"), [] as [String; 0]);
    assert_eq!(
        world.metric(r#"trunkline_call_records_failed_total{cause="refused"}"#),
        1.0
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_delivers_what_was_spooled() {
    let folder = Folder::new("restart");
    let config = folder.sent(CONFIG);
    let down = Collector::new(500);
    let before = World::with_web(&config, "", down.serve());
    hang_up(&before).await;
    until("a try in vain", || !down.counts().is_empty()).await;
    before.gateway.drain(Duration::ZERO).await;
    before.gateway.recorder().close();
    assert_eq!(folder.spooled("spool").len(), 1);
    let up = Collector::new(200);
    let _after = World::with_web(&config, "", up.serve());
    until("it came", || up.counts() == [1]).await;
    until("an empty spool", || folder.spooled("spool").is_empty()).await;
    assert_eq!(
        up.seen.lock().expect("no panic while held").keys().next(),
        down.seen.lock().expect("no panic while held").keys().next(),
        "the same record"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_is_for_the_calls_after_it() {
    let folder = Folder::new("reload");
    let world = World::with_config(&folder.recorded(CONFIG, ""), "");
    let mut wire = Wire::open(&world, "/twilio/media/ga").await;
    wire.text(TWILIO_START).await;
    let replace = |text: &str| {
        let config = Config::parse(text).expect("good");
        let routes = config.build(text).expect("good");
        world
            .gateway
            .replace(config.listener, routes, &Unchanged::default());
    };
    replace(&folder.recorded(CONFIG, "caller = 'plain'"));
    drop(wire);
    let record = folder.records(1).await.remove(0);
    assert_eq!(record.get("caller"), None, "it began before");
    let mut wire = Wire::open(&world, "/twilio/media/ga").await;
    wire.text(TWILIO_START).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(wire);
    let record = folder.records(2).await.remove(1);
    assert_eq!(record["caller"], "+15550001111");
    replace(CONFIG);
    hang_up(&world).await;
    folder.records(2).await;
}
