//! The operations page as a browser's requests see it: who gets what, by what rules, and what stands in it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use trunkline::auth::hash_key;

use crate::control_client::Control;
use crate::harness::{CONFIG, World};
use crate::wire::Wire;

const AUDIO: &str = "/v1/audio/ga";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.header("cache-control"), "no-store");
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A request with these lines of its head; without a `Host` among them, the address.
async fn ask(control: &Control, method: &str, path: &str, lines: &str) -> Answer {
    let mut stream = TcpStream::connect(control.address).await.expect("a port");
    let host = match lines.contains("Host: ") {
        true => String::new(),
        false => format!("Host: {}\r\n", control.address),
    };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{lines}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    Answer {
        status: head[9..12].parse().expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn get(control: &Control, path: &str) -> Answer {
    ask(control, "GET", path, "").await
}

/// What the page shows, once that is so.
async fn state(control: &Control, is_so: impl Fn(&Value) -> bool) -> Value {
    loop {
        let answer = get(control, "/ops/state").await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        let state = answer.json();
        if is_so(&state) {
            return state;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_page_is_its_own_and_nobody_elses() {
    // Its files hold no data: whoever has no token yet gets them.
    let control = Control::new("token = 'operators-only'").await;
    for path in ["/", "/ops"] {
        let answer = get(&control, path).await;
        assert_eq!((answer.status, answer.header("location")), (307, "ops/"));
    }
    for (path, kind) in [
        ("/ops/", "text/html; charset=utf-8"),
        ("/ops/page.css", "text/css; charset=utf-8"),
        ("/ops/page.js", "text/javascript; charset=utf-8"),
        ("/ops/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(&control, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind));
        let policy = answer.header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.split("; ").any(|it| it == rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(answer.header("set-cookie"), "");
        // Kept, but asked for again.
        assert_eq!(answer.header("cache-control"), "no-cache");
        let tag = answer.header("etag");
        assert!(tag.len() > 10 && !answer.body.is_empty(), "{tag}");
        let known = format!("If-None-Match: {tag}\r\n");
        let again = ask(&control, "GET", path, &known).await;
        assert_eq!((again.status, &*again.body), (304, ""));
        assert_eq!(again.header("etag"), tag);
    }
    assert_eq!(ask(&control, "POST", "/ops/state", "").await.status, 405);
    for path in ["/ops/../Cargo.toml", "/ops/mod.rs", "/ops/state/"] {
        assert_eq!(get(&control, path).await.status, 401, "{path}");
    }
    control.close().await;
}

#[tokio::test]
async fn only_operators_are_shown_calls() {
    let control = Control::new("token = 'operators-only'").await;
    let mut caller = Wire::open(&control.world, AUDIO).await;
    for path in ["/ops/state", "/ops/calls/call-1"] {
        for shown in [
            "",
            "Authorization: Bearer operators-onl\r\n",
            "Cookie: token=operators-only\r\n",
        ] {
            let answer = ask(&control, "GET", path, shown).await;
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (401, "Bearer")
            );
            assert_eq!(answer.json(), serde_json::json!({"error": "unauthorized"}));
        }
        // By whatever name: nobody else knows the token.
        let shown = "Host: trunkline.example\r\nAuthorization: Bearer operators-only\r\n";
        assert_eq!(ask(&control, "GET", path, shown).await.status, 200);
    }
    caller.text("{\"type\":\"stop\"}").await;
    drop(caller);
    control.close().await;
}

#[tokio::test]
async fn who_only_looks_is_shown_metrics_and_calls() {
    let control = Control::new("token = 'operators-only'\nread_token = 'lookers'").await;
    for path in ["/metrics", "/ops/state", "/ops/calls/call-1"] {
        for token in ["lookers", "operators-only"] {
            let shown = format!("Authorization: Bearer {token}\r\n");
            let answer = ask(&control, "GET", path, &shown).await;
            assert_eq!(answer.status, 200, "{path} {token}");
        }
        let mut refusals = Vec::new();
        for shown in ["", "Authorization: Bearer looker\r\n"] {
            let answer = ask(&control, "GET", path, shown).await;
            assert_eq!(answer.status, 401, "{path}");
            refusals.push(answer.body);
        }
        assert_eq!(refusals[0], refusals[1]);
    }
    control.close().await;
}

#[tokio::test]
async fn a_public_address_without_a_secret_shows_nothing() {
    // That it listens on loopback here is not what the configuration says.
    let control = Control::new("address = '0.0.0.0:9100'\npublic = true").await;
    let answer = get(&control, "/ops/state").await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["error"], "public");
    assert_eq!(get(&control, "/ops/").await.status, 200);
    control.close().await;
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_is_shown_nothing() {
    let control = Control::new("").await;
    let by_name = "Host: rebound.example:9100\r\n";
    for (lines, status) in [
        (by_name.to_owned(), 403),
        (format!("{by_name}Authorization: Bearer x\r\n"), 403),
        ("Host: localhost:9100\r\n".to_owned(), 200),
    ] {
        let answer = ask(&control, "GET", "/ops/state", &lines).await;
        assert_eq!(answer.status, status, "{lines}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    // Probes come by any name.
    assert_eq!(ask(&control, "GET", "/readyz", by_name).await.status, 200);
    control.close().await;
}

#[tokio::test]
async fn calls_and_deployments_are_shown() {
    let control = Control::new("").await;
    let nothing = state(&control, |_| true).await;
    assert_eq!(nothing["gateway"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(nothing["gateway"]["draining"], false);
    assert_eq!(nothing["gateway"]["stalled"], false);
    assert_eq!(
        (&nothing["live"], &nothing["refusals"]),
        (&0.into(), &Value::Array(vec![]))
    );
    let names = nothing["deployments"]
        .as_array()
        .expect("deployments")
        .iter();
    let names: Vec<_> = names
        .map(|it| it["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(names, ["ga", "pass", "preview"]);
    let ga = &nothing["deployments"][0];
    assert_eq!(
        (&ga["condition"], &ga["drained"]),
        (&"well".into(), &false.into())
    );
    assert!(
        ga["tokens"]["limit"]
            .as_f64()
            .is_some_and(|limit| limit > 0.0),
        "{ga}"
    );

    let mut caller = Wire::open(&control.world, AUDIO).await;
    caller.text(r#"{"type":"start"}"#).await;
    caller.until("started").await;
    let seen = state(&control, |state| state["calls"][0]["state"] == "talking").await;
    assert_eq!(
        (&seen["gateway"]["calls"], &seen["live"]),
        (&1.into(), &1.into())
    );
    assert!(seen["gateway"]["calls_limit"].as_u64() > Some(1));
    let call = &seen["calls"][0];
    for (key, expected) in [
        ("tenant", "default"),
        ("route", "ga"),
        ("dialect", "audio"),
        ("deployment", "ga"),
    ] {
        assert_eq!(call[key], expected, "{call}");
    }
    let call_id = call["call_id"].as_str().expect("an id");
    let path = format!("/ops/calls/{call_id}");
    let whole = get(&control, &path).await.json();
    assert_eq!(whole["call"]["call_id"], call_id);
    assert!(whole["call"]["timeline"].is_array());
    control.world.gateway.set_drained("ga", true);
    state(&control, |state| state["deployments"][0]["drained"] == true).await;
    drop(caller);
    state(&control, |state| state["live"] == 0).await;
    assert_eq!(get(&control, &path).await.json()["call"], Value::Null);
    control.world.gateway.drain(Duration::ZERO).await;
    state(&control, |state| state["gateway"]["draining"] == true).await;
    control.close().await;
}

#[tokio::test]
async fn who_was_refused_is_remembered_without_what_they_showed() {
    let hash = hash_key("key-of-few");
    let keys = format!("mode = \"keys\"\n[[auth.keys]]\ntenant = 'few'\nsha256 = '{hash}'\n");
    let config =
        CONFIG.replace("mode = \"none\"", &keys) + "\n[tenants.few]\nmodels = ['preview']\n";
    let control = Control::of(World::with_config(&config, ""), "").await;
    let world = &control.world;
    let known = "Authorization: Bearer key-of-few\r\n";
    let refused = async |target: &str, more: &str, n: usize| {
        for _ in 0..n {
            let request = crate::wire::upgrade_request(target, more);
            assert!(
                world.http(&request).await.starts_with("HTTP/1.1 4"),
                "{target}"
            );
        }
    };
    refused(
        "/v1/audio/ga",
        "Authorization: Bearer a-strangers-key\r\n",
        3,
    )
    .await;
    // What was wrong is told to operators, and nobody else.
    refused("/v1/audio/ga", "", 1).await;
    refused("/v1/realtime?model=ga", known, 1).await;
    refused("/somewhere?number=0301234567", "", 1).await;
    let seen = state(&control, |state| {
        state["refusals"]
            .as_array()
            .is_some_and(|all| all.len() == 4)
    })
    .await;
    let refusals = seen["refusals"].as_array().expect("refusals");
    let told: Vec<_> = refusals
        .iter()
        .map(|it| {
            format!(
                "{} {} {} {} {} x{}",
                it["route"], it["tenant"], it["status"], it["reason"], it["cause"], it["times"]
            )
        })
        .collect();
    let expected = [
        r#""other" null 404 "not_found" null x1"#,
        r#""realtime" "few" 403 "permission_denied" null x1"#,
        r#""audio" null 401 "invalid_api_key" "missing" x1"#,
        r#""audio" null 401 "invalid_api_key" "unknown_key" x3"#,
    ];
    assert_eq!(told, expected);
    let all = seen.to_string();
    for secret in ["a-strangers-key", "key-of-few", "0301234567", &hash] {
        assert!(!all.contains(secret), "{secret}");
    }
    // The same are counted.
    let counted = r#"trunkline_calls_refused_total{reason="invalid_api_key",route="audio"}"#;
    assert_eq!(world.metric(counted), 4.0);
    control.close().await;
}
