//! Another configuration while the process runs: what is taken, what stays, what is refused.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;
use trunkline::admin::Access;
use trunkline::auth::EphemeralSession;
use trunkline::call::EndReason;
use trunkline::config::{Loaded, Outcome, Reloader};
use trunkline::realtime::Shape;
use trunkline::simulator::phone_dialect::Dialect;
use trunkline::simulator::{Act, Mood, SoftPhone, speech};

use crate::harness::World;
use crate::wire::upgrade_request;

const SECOND: Duration = Duration::from_secs(1);

/// Two deployments and an agent at each.
const CONFIG: &str = "
[auth]
mode = 'none'
[deployments.east]
url = 'ws://127.0.0.1:1'
model = 'east'
api_key = 'sim-key'
[deployments.west]
url = 'ws://127.0.0.1:1'
model = 'west'
api_key = 'sim-key'
[agents.desk]
deployment = 'east'
[agents.night]
deployment = 'west'
";

/// A gateway whose configuration lies in a file.
struct Reloading {
    world: World,
    reloader: Reloader,
    access: Access,
    file: PathBuf,
}

impl Drop for Reloading {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Reloading {
    fn new(config: &str, simulator: &str) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let name = format!("trunkline-reload-{}-{n}.toml", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, config).expect("written");
        let loaded = Loaded::load(&file).expect("a good configuration");
        let world = World::with_config(config, simulator);
        let access = Access::new(&loaded.config.admin).expect("good");
        let gateway = Arc::clone(&world.gateway);
        let reloader = Reloader::new(&file, &loaded, gateway, access.tokens());
        Self {
            world,
            reloader,
            access,
            file,
        }
    }

    fn write(&self, config: &str) {
        fs::write(&self.file, config).expect("written");
    }

    /// What SIGHUP does.
    async fn take(&mut self, config: &str) -> Outcome {
        self.write(config);
        self.reloader.reload().await
    }

    fn n_reloads(&self, outcome: &str) -> f64 {
        let line = format!(r#"trunkline_config_reloads_total{{outcome="{outcome}"}}"#);
        self.world.metric(&line)
    }

    fn is_good(&self) -> bool {
        self.world.metric("trunkline_config_last_reload_success") == 1.0
    }

    /// The status of a caller who wants that; one who gets through hangs up.
    async fn status(&self, target: &str) -> String {
        self.open(target).await.0
    }

    async fn open(&self, target: &str) -> (String, DuplexStream) {
        let mut stream = self.world.connect();
        let request = upgrade_request(target, "");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("an answer");
        (String::from_utf8_lossy(&head[9..]).into_owned(), stream)
    }
}

fn applied() -> Outcome {
    Outcome::Applied {
        needs_restart: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_is_reached_and_an_old_one_is_not() {
    let mut it = Reloading::new(CONFIG, "");
    assert_eq!(it.status("/v1/audio/day").await, "404");
    let config = CONFIG.replace("[agents.night]", "[agents.day]");
    assert_eq!(it.take(&config).await, applied());
    assert_eq!(it.status("/v1/audio/day").await, "101");
    assert_eq!(it.status("/v1/audio/desk").await, "101");
    assert_eq!(it.status("/v1/audio/night").await, "404");
    assert_eq!(it.n_reloads("applied"), 1.0);
    assert!(
        it.world
            .metric("trunkline_config_last_reload_timestamp_seconds")
            > 1.7e9
    );
    assert_eq!(it.reloader.reload().await, Outcome::Unchanged);
    assert_eq!(
        (it.n_reloads("unchanged"), it.n_reloads("failed")),
        (1.0, 0.0)
    );
    it.world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_good_changes_nothing() {
    let mut it = Reloading::new(CONFIG, "");
    let config = CONFIG.replace("deployment = 'west'", "deployment = 'nowhere'");
    let config = format!("{config}[agents.day]\ndeployment = 'east'\n");
    let Outcome::Failed(mistakes) = it.take(&config).await else {
        panic!("it is not good");
    };
    let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    let line = "line 15: agents.night.deployment: there is no deployment or pool nowhere";
    assert_eq!(told, [line]);
    assert!(!it.is_good());
    assert_eq!(it.n_reloads("failed"), 1.0);
    assert_eq!(it.status("/v1/audio/day").await, "404");
    assert_eq!(it.status("/v1/audio/night").await, "101");
    for broken in ["[", "", "[agents]\nspeed = 1\n"] {
        let outcome = it.take(broken).await;
        assert!(
            matches!(outcome, Outcome::Failed(_)),
            "{broken}: {outcome:?}"
        );
    }
    fs::remove_file(&it.file).expect("it is there");
    assert!(matches!(it.reloader.reload().await, Outcome::Failed(_)));
    assert_eq!(it.n_reloads("failed"), 5.0);
    assert_eq!(it.status("/v1/audio/night").await, "101");
    // Back to what is in force.
    assert_eq!(it.take(CONFIG).await, Outcome::Unchanged);
    assert!(it.is_good());
    it.world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_twice_before_it_is_taken() {
    let mut it = Reloading::new(CONFIG, "");
    assert_eq!(it.reloader.look().await, None);
    it.write("[agents.d");
    assert_eq!(it.reloader.look().await, None);
    let config = format!("{CONFIG}[agents.day]\ndeployment = 'east'\n");
    // What was half-written is never tried.
    it.write(&config);
    assert_eq!(it.reloader.look().await, None);
    assert_eq!(it.reloader.look().await, Some(applied()));
    assert_eq!(it.reloader.look().await, None);
    assert_eq!(it.status("/v1/audio/day").await, "101");
    // What is not good is told once, and forgotten when it is gone.
    it.write("[");
    assert_eq!(it.reloader.look().await, None);
    assert!(matches!(it.reloader.look().await, Some(Outcome::Failed(_))));
    for _ in 0..3 {
        assert_eq!(it.reloader.look().await, None);
    }
    assert_eq!((it.n_reloads("failed"), it.is_good()), (1.0, false));
    it.write(&config);
    assert_eq!(it.reloader.look().await, None);
    assert!(it.is_good());
    assert_eq!(it.n_reloads("applied"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_secret_in_a_file_is_taken_as_the_file_changes() {
    let secret = std::env::temp_dir().join(format!("trunkline-reload-ca-{}", std::process::id()));
    fs::write(&secret, "an-old-secret-of-thirty-two-bytes").expect("written");
    let signing = format!("[auth.signing]\nsecret_file = '{}'\n", secret.display());
    let mut it = Reloading::new(
        &CONFIG.replace(
            "[deployments.east]",
            &format!("{signing}[deployments.east]"),
        ),
        "",
    );
    assert_eq!(it.reloader.look().await, None);
    fs::write(&secret, "a-new-secret-of-thirty-two-bytes.").expect("written");
    assert_eq!(it.reloader.look().await, None);
    assert_eq!(it.reloader.look().await, Some(applied()));
    fs::write(&secret, "short").expect("written");
    assert_eq!(it.reloader.look().await, None);
    assert!(matches!(it.reloader.look().await, Some(Outcome::Failed(_))));
    fs::remove_file(&secret).expect("it is there");
}

#[tokio::test(start_paused = true)]
async fn a_running_call_keeps_what_it_began_with() {
    let mut it = Reloading::new(CONFIG, "");
    let listen = Act::WaitForReply {
        min_audio: Duration::from_millis(500),
        until_end: true,
        timeout: Duration::from_secs(20),
    };
    let phone = SoftPhone::new("ws://gateway/v1/audio/night", Dialect::Audio).expect("good");
    let say = || Act::Say(speech::hours());
    let script = [say(), listen.clone(), say(), listen, Act::HangUp];
    let phone = phone.script(script);
    let stream = it.world.connect();
    let call = phone.call(stream);
    let change = async {
        sleep(SECOND).await;
        assert_eq!(it.world.gateway.calls().active(), 1);
        let (begin, rest) = CONFIG
            .split_once("[deployments.west]")
            .expect("it is there");
        let (_, agents) = rest.split_once("[agents.desk]").expect("it is there");
        let (desk, _) = agents.split_once("[agents.night]").expect("it is there");
        let config = format!("{begin}[listener]\nmax_calls = 1\n[agents.desk]{desk}");
        it.write(&config);
        assert_eq!(it.reloader.reload().await, applied());
        // Neither agent nor deployment is there any more, and the new limit is reached.
        assert_eq!(it.world.gateway.calls().active(), 1);
        assert_eq!(it.status("/v1/audio/night").await, "404");
        assert_eq!(it.status("/v1/audio/desk").await, "503");
    };
    let (report, ()) = tokio::join!(call, change);
    assert!(
        report.is_heard_both_ways() && report.script_done,
        "{report}"
    );
    assert_eq!(it.world.ended(1).await.end_reason, EndReason::CallerHangup);
    assert_eq!(it.status("/v1/audio/desk").await, "101");
    it.world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_not_changed_keeps_what_it_has_learnt() {
    let grants = |west: u32| {
        format!(
            "{CONFIG}[deployments.east.quota]\ntokens_per_minute = 50_000\n\
             [deployments.west.quota]\ntokens_per_minute = {west}\n"
        )
    };
    let mut it = Reloading::new(&grants(50_000), "");
    let condition = |it: &Reloading, name: &str| {
        let line =
            format!(r#"trunkline_deployment_condition{{condition="open",deployment="{name}"}}"#);
        it.world.metric(&line)
    };
    for (deployment, agent) in [("east", "desk"), ("west", "night")] {
        let simulator = &it.world.simulator;
        simulator.set_mood(deployment, Mood::Refusing(500));
        for _ in 0..20 {
            assert_ne!(it.status(&format!("/v1/audio/{agent}")).await, "101");
        }
        assert_eq!(condition(&it, deployment), 1.0, "{deployment}");
        simulator.set_mood(deployment, Mood::Well);
    }
    // The same one, of which something else is said.
    let said = "model = 'west'\nregion = 'there'\ntimeouts = { connect = '2s' }";
    let said = grants(50_000).replace("model = 'west'", said);
    assert_eq!(it.take(&said).await, applied());
    assert_eq!((condition(&it, "east"), condition(&it, "west")), (1.0, 1.0));
    assert_ne!(it.status("/v1/audio/night").await, "101");
    // Another deployment by the name of west, as far as anybody knows.
    let (east, west) = said.split_once("[deployments.west]").expect("it is there");
    let moved = format!(
        "{east}[deployments.west]{}",
        west.replacen("sim-key", "other-key", 1)
    );
    assert_eq!(it.take(&moved).await, applied());
    assert_eq!((condition(&it, "east"), condition(&it, "west")), (1.0, 0.0));
    assert_ne!(it.status("/v1/audio/desk").await, "101");
    assert_eq!(it.status("/v1/audio/night").await, "101");
    // The same with what is left of their quota.
    let account = |it: &Reloading, name| it.world.gateway.quota().account(name);
    for name in ["east", "west"] {
        account(&it, name).refused(Some(60 * SECOND));
    }
    let more = moved.replace(
        "[agents.desk]",
        "[agents.day]\ndeployment = 'east'\n[agents.desk]",
    );
    assert_eq!(it.take(&more).await, applied());
    assert!(account(&it, "east").can_take(1.0).is_err());
    assert!(account(&it, "west").can_take(1.0).is_err());
    let granted = grants(90_000);
    assert_eq!(it.take(&granted).await, applied());
    assert!(account(&it, "east").can_take(1.0).is_err());
    assert!(account(&it, "west").can_take(1.0).is_ok());
    assert_eq!(account(&it, "west").tokens_per_minute(), 90_000.0);
}

#[tokio::test(start_paused = true)]
async fn what_was_used_up_stays_so_and_what_was_made_stays_good() {
    let config = CONFIG.replace("mode = 'none'", "mode = 'keys'");
    let tenant = |name: &str| format!("[tenants.{name}]\n");
    let signing = "[auth.signing]\nsecret = 'a-secret-of-thirty-two-bytes-now'\n";
    let both = format!("{config}{signing}{}{}", tenant("acme"), tenant("other"));
    let mut it = Reloading::new(&both, "");
    let tickets = [(); 2].map(|()| {
        let made = it.world.auth.make_ticket("acme", "audio", "desk", None);
        let value = made.expect("a ticket").value;
        format!("/v1/audio/desk/{}", value.expose_secret())
    });
    let session = EphemeralSession {
        shape: Shape::Ga,
        transcription: false,
        model: None,
        settings: "{}".to_owned(),
    };
    let made = it
        .world
        .auth
        .make_ephemeral_key("other", session, 600 * SECOND);
    let key = made.await.expect("a key").value;
    let key = format!("/v1/realtime?model=east&api-key={}", key.expose_secret());
    assert_eq!(it.status(&tickets[0]).await, "101");
    assert_eq!(it.status(&key).await, "101");
    let more = format!("{both}[agents.day]\ndeployment = 'east'\n");
    assert_eq!(it.take(&more).await, applied());
    assert_eq!(it.status(&tickets[0]).await, "401", "it was used before");
    assert_eq!(it.status(&tickets[1]).await, "101");
    assert_eq!(it.status(&key).await, "101");
    // Its tenant is no more.
    let one = format!("{config}{signing}{}", tenant("acme"));
    assert_eq!(it.take(&one).await, applied());
    assert_eq!(it.status(&key).await, "401");
    it.world.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_shown_by_the_next_dial() {
    let config = CONFIG.replace("sim-key", "old-key");
    let mut it = Reloading::new(&config, "api_keys = ['sim-key']");
    assert_ne!(it.status("/v1/audio/desk").await, "101");
    let out = r#"trunkline_deployment_condition{condition="out",deployment="east"}"#;
    assert_eq!(it.world.metric(out), 1.0);
    assert_eq!(it.take(CONFIG).await, applied());
    assert_eq!(it.world.metric(out), 0.0);
    assert_eq!(it.status("/v1/audio/desk").await, "101");
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_restart_is_named_and_the_rest_is_taken() {
    let mut it = Reloading::new(CONFIG, "");
    let more = "
[listener]
address = '127.0.0.1:8081'
backlog = 5
public_url = 'wss://voice.example.com'
[listener.audiosocket]
address = '127.0.0.1:9092'
[admin]
address = '127.0.0.1:9101'
token = 'operators-only'
[quota.redis]
url = 'redis://127.0.0.1:6379'
[log]
filter = 'warn'
format = 'text'
[process]
dumpable = true
[drain]
grace = '7s'
[agents.day]
deployment = 'east'
";
    let config = it.reloader.config();
    let expected = [
        "listener.address",
        "listener.backlog",
        "listener.audiosocket.address",
        "admin.address",
        "quota.redis",
        "log.format",
        "process",
    ];
    let changed = format!("{CONFIG}{more}");
    for text in [changed.clone(), format!("{changed}# again\n")] {
        let Outcome::Applied { needs_restart } = it.take(&text).await else {
            panic!("it is good");
        };
        assert_eq!(needs_restart, expected);
    }
    assert_eq!(config.borrow().drain.grace, 7 * SECOND);
    assert_eq!(it.status("/v1/audio/day").await, "101");
    // And back: what the process has is what it began with.
    assert_eq!(it.take(CONFIG).await, applied());
}

#[tokio::test(start_paused = true)]
async fn operators_tokens_come_and_go() {
    let mut it = Reloading::new(CONFIG, "");
    for (text, serves_control) in [
        ("token = 'a'", true),
        ("token = 'b'\nread_token = 'c'", true),
        // Nobody can show the other one.
        ("read_token = 'd'", false),
        ("", true),
    ] {
        let config = format!("{CONFIG}[admin]\n{text}\n");
        assert_eq!(it.take(&config).await, applied(), "{text}");
        assert_eq!(it.access.serves_control(), serves_control, "{text}");
    }
    let same = format!("{CONFIG}[admin]\ntoken = 'a'\nread_token = 'a'\n");
    let Outcome::Failed(mistakes) = it.take(&same).await else {
        panic!("whoever looks could act");
    };
    let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    assert!(
        told[0].contains("admin.read_token: is the same"),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_good_on_another_address_only_is_not_taken() {
    let config = CONFIG.replace("mode = 'none'", "mode = 'keys'");
    let key = "[[auth.keys]]\ntenant = 'acme'\nsha256 = '2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'\n[tenants.acme]\n";
    let public = format!("{config}{key}[listener]\naddress = '0.0.0.0:8080'\n");
    let mut it = Reloading::new(&public, "");
    // Good for a new process, which would be on loopback. This one is not.
    let Outcome::Failed(mistakes) = it.take(CONFIG).await else {
        panic!("everybody could call");
    };
    let told = mistakes[0].to_string();
    assert!(
        told.contains("authentication may be off on a loopback address only"),
        "{told}"
    );
    assert_eq!(it.status("/v1/audio/desk").await, "401");
}

fn standby(instructions: &str) -> String {
    format!(
        "{CONFIG}[agents.day]\ndeployment = 'main'\nsession.instructions = '{instructions}'\n\
         [agents.eve]\ndeployment = 'main'\n[pools.main]\ndeployments = ['east', 'west']\n\
         [pools.main.standby]\nmin = 2\nmax = 8\n"
    )
}

fn waiting(it: &Reloading, agent: &str) -> f64 {
    let line = format!(r#"trunkline_standby_sessions{{agent="{agent}",pool="main"}}"#);
    it.world.metric(&line)
}

fn retired(it: &Reloading, reason: &str) -> f64 {
    let line = format!(r#"trunkline_standby_retired_total{{pool="main",reason="{reason}"}}"#);
    it.world.metric(&line)
}

#[tokio::test(start_paused = true)]
async fn sessions_stand_by_for_agents_as_they_are_now() {
    let mut it = Reloading::new(&standby("Be brief."), "");
    sleep(SECOND).await;
    let n_opened = |it: &Reloading| it.world.simulator.sessions().len();
    assert_eq!(
        (waiting(&it, "day"), waiting(&it, "eve"), n_opened(&it)),
        (2.0, 2.0, 4)
    );
    // Nothing that concerns them.
    let more = format!("{}[listener]\nmax_calls = 9\n", standby("Be brief."));
    assert_eq!(it.take(&more).await, applied());
    sleep(2 * SECOND).await;
    assert_eq!(n_opened(&it), 4);
    // One of the agents: those of the other stay.
    assert_eq!(it.take(&standby("Be kind.")).await, applied());
    sleep(2 * SECOND).await;
    assert_eq!(
        (waiting(&it, "day"), waiting(&it, "eve"), n_opened(&it)),
        (2.0, 2.0, 6)
    );
    assert_eq!(retired(&it, "reconfigured"), 2.0);
    // A deployment of the pool: all are opened anew.
    let rotated = standby("Be kind.").replacen("sim-key", "sim-key-2", 1);
    assert_eq!(it.take(&rotated).await, applied());
    sleep(3 * SECOND).await;
    assert_eq!(
        (waiting(&it, "day"), waiting(&it, "eve"), n_opened(&it)),
        (2.0, 2.0, 10)
    );
    assert_eq!(it.status("/v1/audio/day").await, "101");
    let hit = r#"trunkline_standby_total{outcome="hit",pool="main"}"#;
    assert_eq!(it.world.metric(hit), 1.0);
    // No pool, no sessions.
    assert_eq!(it.take(CONFIG).await, applied());
    sleep(2 * SECOND).await;
    assert_eq!((waiting(&it, "day"), waiting(&it, "eve")), (0.0, 0.0));
    it.world.assert_quiet().await;
}
