//! What single providers do beside calling: probes, silence, good-byes that take long.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use trunkline::auth::hash_key;
use trunkline::call::EndReason;

use crate::harness::{CONFIG, World};
use crate::wire::{Heard, Wire};

const GENESYS: &str = "/genesys/audiohook/ga";

const NULL_ID: &str = "00000000-0000-0000-0000-000000000000";

fn genesys(kind: &str, seq: u64, parameters: &Value) -> String {
    json!({"version": "2", "id": "s-1", "type": kind, "seq": seq, "serverseq": 0,
           "position": "PT0S", "parameters": parameters})
    .to_string()
}

fn open(conversation: &str) -> String {
    let media =
        json!([{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}]);
    genesys(
        "open",
        1,
        &json!({"conversationId": conversation, "media": media}),
    )
}

/// The next text, which is of that type.
async fn said(wire: &mut Wire, kind: &str) -> Value {
    loop {
        match wire.next().await {
            Heard::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(message["type"], kind, "{text}");
                return message["parameters"].clone();
            }
            Heard::Binary(_) => {}
            other => panic!("{other:?} in place of {kind}"),
        }
    }
}

fn session_is_closed(world: &World) -> bool {
    let sessions = world.simulator.sessions();
    sessions.iter().all(|session| session.closed.is_some())
}

/// Each save of a flow's settings sends one (telephony reference 8.6): it holds no session while Genesys takes its time.
#[tokio::test(start_paused = true)]
async fn a_probe_gives_its_session_back() {
    let world = World::new("");
    let mut wire = Wire::open_with(&world, GENESYS, "").await;
    wire.text(&open(NULL_ID)).await;
    assert_eq!(said(&mut wire, "opened").await["media"], json!([]));
    // It closes within 10 s.
    sleep(Duration::from_secs(1)).await;
    assert!(session_is_closed(&world));
    let counted = r#"trunkline_calls_total{deployment="ga",dialect="genesys",end_reason="probe"}"#;
    assert_eq!(world.metric(counted) as u64, 1);
    wire.text(&genesys("close", 2, &json!({"reason": "end"})))
        .await;
    said(&mut wire, "closed").await;
    drop(wire);
    assert_eq!(world.ended(1).await.end_reason, EndReason::Probe);
    world.assert_quiet().await;
}

/// Whoever hangs up, the flow is told why (telephony reference 8.6).
#[tokio::test(start_paused = true)]
async fn a_flow_is_told_why_the_call_ended() {
    let world = World::new("");
    let mut wire = Wire::open_with(&world, GENESYS, "").await;
    wire.text(&open("c-1")).await;
    said(&mut wire, "opened").await;
    wire.text(&genesys("close", 2, &json!({"reason": "end"})))
        .await;
    let closed = said(&mut wire, "closed").await;
    assert_eq!(closed["outputVariables"]["end_reason"], "caller_hangup");
    drop(wire);

    // The model hands the call on: the flow may look for a person.
    let config = format!(
        "{CONFIG}\n[agents.a]\ndeployment = 'ga'\nmay_transfer = true\ngreeting = 'Hello.'\n"
    );
    let simulator = r#"
        [reply]
        mode = "script"
        turns = [{ say = "One moment.", length = "1s", calls = [{ name = "transfer_to_agent" }] }]
    "#;
    let world = World::with_config(&config, simulator);
    let mut wire = Wire::open_with(&world, "/genesys/audiohook/a", "").await;
    wire.text(&open("c-2")).await;
    said(&mut wire, "opened").await;
    let disconnect = said(&mut wire, "disconnect").await;
    let expected = json!({"end_reason": "assistant_transfer"});
    assert_eq!(disconnect["reason"], "completed");
    assert_eq!(disconnect["outputVariables"], expected);
    // It takes its time, and the session is others' already.
    sleep(Duration::from_secs(5)).await;
    assert!(session_is_closed(&world));
    wire.text(&genesys("close", 2, &json!({"reason": "disconnect"})))
        .await;
    let closed = said(&mut wire, "closed").await;
    assert_eq!(closed["outputVariables"], expected);
    drop(wire);
    assert_eq!(
        world.ended(1).await.end_reason,
        EndReason::AssistantTransfer
    );
}

/// Asterisk and Webex send nothing while their line is silent (telephony reference 16.1): the connection tells.
#[tokio::test(start_paused = true)]
async fn a_caller_who_may_rest_is_kept_as_long_as_the_connection() {
    let world = World::new("");
    let mut wire = Wire::open_with(&world, "/asterisk/media/ga", "").await;
    wire.text(
        "MEDIA_START connection_id:1 channel:a channel_id:1 format:ulaw optimal_frame_size:160",
    )
    .await;
    assert_eq!(wire.next().await, Heard::Text("ANSWER".to_owned()));
    // Pings are answered meanwhile.
    for _ in 0..20 {
        tokio::select! {
            heard = wire.next() => panic!("{heard:?}"),
            () = sleep(Duration::from_secs(15)) => {}
        }
    }
    wire.text("DTMF_END digit:5 channel_id:1").await;
    assert_eq!(world.gateway.calls().active(), 1);
    // And nobody answers them any more.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.ended(1).await.end_reason, EndReason::CallerGone);
}

const LISTING: &str = "/webex/va/ga/v1/listVirtualAgents";

/// What is said to this question.
async fn listed(world: &World, question: &str) -> Heard {
    let mut wire = Wire::open(world, LISTING).await;
    wire.text(question).await;
    let heard = wire.next().await;
    // Webex closes once it has the answer; whoever does not is closed on.
    if matches!(heard, Heard::Text(_)) {
        let close = wire.next().await;
        assert!(
            matches!(
                close,
                Heard::Close {
                    code: 1000 | 1005,
                    ..
                }
            ),
            "{close:?}"
        );
    }
    heard
}

/// Cisco's schema `VoiceVirtualAgent_WsListVASchema.json`: bare objects on a connection of their own.
#[tokio::test(start_paused = true)]
async fn webex_finds_the_agent_of_an_address() {
    let world = World::new("");
    let question = r#"{"customer_org_id":"o-1","is_default_virtual_agent_enabled":false}"#;
    let agents = json!({"virtual_agents": [{"id": "ga", "name": "ga"}]});
    assert_eq!(
        listed(&world, question).await,
        Heard::Text(agents.to_string())
    );
    let refused = |reason: &str| Heard::Close {
        code: 1008,
        reason: reason.to_owned(),
    };
    assert_eq!(listed(&world, "{}").await, refused("missing_field"));
    let silent = Wire::open(&world, LISTING).await.next().await;
    assert_eq!(silent, refused("no_question"));
    let other = Wire::try_open(&world, &LISTING.replace("/ga/", "/nobody/")).await;
    assert!(other.unwrap_err().starts_with("HTTP/1.1 404 "));
    // It is no call: neither session nor permit.
    assert_eq!(world.simulator.sessions().len(), 0);
    assert_eq!(world.gateway.calls().ended().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn webex_shows_who_it_is_before_it_finds_anybody() {
    let hash = hash_key("tk_test");
    let keys = format!("mode = 'keys'\n[[auth.keys]]\ntenant = 'acme'\nsha256 = '{hash}'\n");
    let config = CONFIG.replace("mode = \"none\"", &keys) + "\n[tenants.acme]\n";
    let world = World::with_config(&config, "");
    let refused = Wire::try_open(&world, LISTING).await.unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    Wire::open(&world, &format!("{LISTING}?api-key=tk_test")).await;
}
