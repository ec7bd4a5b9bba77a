//! What becomes of what operators want of a live call: that it ends, or that the model is told something.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Code;
use trunkline::admin::control_proto as proto;
use trunkline::call::EndReason;

use crate::control_client::{AUDIO, Control, SDK, calls, check, get, phone};
use crate::harness::{CONFIG, World};
use crate::wire::{Deployment, Heard, Wire, session_created};

#[tokio::test]
async fn a_call_is_ended_with_what_its_dialect_has_for_that() {
    let control = Control::new("").await;
    let mut client = control.client().await;
    let mut program = phone(&control.world).await;
    let mut sdk = Wire::open(&control.world, SDK).await;
    for call in calls(&mut client, 2).await {
        let request = proto::EndCallRequest {
            call_id: call.call_id.clone(),
            reason: "maintenance".to_owned(),
            say_goodbye: false,
        };
        client.end_call(request).await.expect("told");
    }
    let (close, said) = program.until_close().await;
    assert_eq!(close, Some((1000, "operator".to_owned())));
    let last = said.last().expect("an end message");
    assert_eq!(
        (&last["type"], &last["reason"]),
        (&"end".into(), &"operator".into())
    );
    assert_eq!(
        sdk.until_close().await.0,
        Some((1000, "operator".to_owned()))
    );
    drop((program, sdk));
    calls(&mut client, 0).await;
    for n in [1, 2] {
        assert_eq!(control.world.ended(n).await.end_reason, EndReason::Operator);
    }
    control.close().await;
}

/// The next event of the gateway that is not about audio.
async fn heard(model: &mut Deployment) -> Value {
    loop {
        let event: Value = serde_json::from_str(&model.text().await).expect("JSON");
        if event["type"] != "input_audio_buffer.append" {
            return event;
        }
    }
}

#[tokio::test]
async fn the_model_is_told_what_an_operator_says() {
    let (world, mut accepted) = World::scripted(CONFIG, "", &["ga"]);
    let control = Control::of(world, "").await;
    let mut client = control.client().await;
    let created = session_created();
    let (mut caller, mut model) = tokio::join!(
        Wire::open(&control.world, AUDIO),
        Deployment::accept(&mut accepted[0], &created),
    );
    let id = calls(&mut client, 1).await[0].call_id.clone();
    let say = |text: &str, mode: proto::SayMode| proto::SayRequest {
        call_id: id.clone(),
        text: text.to_owned(),
        mode: mode.into(),
    };
    // Nobody has begun the call.
    let early = client.say(say("Hi.", proto::SayMode::Verbatim)).await;
    check(early, Code::FailedPrecondition, "not in conversation");
    caller.text(r#"{"type":"start"}"#).await;
    assert_eq!(heard(&mut model).await["type"], "session.update");
    model
        .send(r#"{"type":"session.updated","event_id":"e1","session":{}}"#)
        .await;
    while get(&mut client, &id)
        .await
        .expect("there")
        .timeline
        .is_empty()
    {
        // Until the session is set, which nobody is told.
        if client
            .say(say("Be brief.", proto::SayMode::System))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(10)).await;
        }
    }
    let system = heard(&mut model).await;
    assert_eq!(system["item"]["role"], "system");
    assert_eq!(system["item"]["content"][0]["text"], "Be brief.");
    client
        .say(say("What is the time?", proto::SayMode::User))
        .await
        .expect("told");
    let user = heard(&mut model).await;
    assert_eq!(user["item"]["role"], "user");
    assert_eq!(user["item"]["content"][0]["text"], "What is the time?");
    assert_eq!(heard(&mut model).await["type"], "response.create");
    // It waits until that answer is over.
    let words = "This line is recorded.";
    client
        .say(say(words, proto::SayMode::Verbatim))
        .await
        .expect("told");
    let response = |kind: &str, status: &str| {
        json!({"type": kind, "event_id": "e", "response": {"id": "resp_1", "object": "realtime.response",
            "conversation_id": "conv_1", "status": status, "output": []}})
        .to_string()
    };
    model
        .send(&response("response.created", "in_progress"))
        .await;
    model.send(&response("response.done", "completed")).await;
    let verbatim = heard(&mut model).await;
    assert_eq!(verbatim["type"], "response.create");
    let instructions = verbatim["response"]["instructions"].as_str();
    assert!(
        instructions.is_some_and(|it| it.ends_with(words)),
        "{verbatim}"
    );
    model
        .send(&response("response.created", "in_progress"))
        .await;
    model.send(&response("response.done", "completed")).await;
    let said: Vec<_> = get(&mut client, &id).await.expect("there").timeline;
    assert_eq!(said.len(), 3, "{said:?}");
    // And a good-bye.
    let request = proto::EndCallRequest {
        call_id: id.clone(),
        reason: String::new(),
        say_goodbye: true,
    };
    client.end_call(request).await.expect("told");
    let goodbye = heard(&mut model).await;
    let instructions = goodbye["response"]["instructions"].as_str();
    assert!(
        instructions.is_some_and(|it| it.contains("good-bye")),
        "{goodbye}"
    );
    let call = get(&mut client, &id).await.expect("there");
    assert_eq!(call.state(), proto::CallState::Ending);
    assert_eq!(call.end_reason, "operator");
    let late = client.say(say("Wait.", proto::SayMode::User)).await;
    check(late, Code::FailedPrecondition, "not in conversation");
    model
        .send(&response("response.created", "in_progress"))
        .await;
    model.send(&response("response.done", "completed")).await;
    while caller.next().await
        != (Heard::Close {
            code: 1000,
            reason: "operator".to_owned(),
        })
    {}
    drop(caller);
    assert_eq!(control.world.ended(1).await.end_reason, EndReason::Operator);
    control.close().await;
}

#[tokio::test]
async fn an_sdk_clients_session_is_its_own() {
    let control = Control::new("").await;
    let mut client = control.client().await;
    let caller = Wire::open(&control.world, SDK).await;
    let request = proto::SayRequest {
        call_id: calls(&mut client, 1).await[0].call_id.clone(),
        text: "Hi.".to_owned(),
        mode: 0,
    };
    check(
        client.say(request).await,
        Code::FailedPrecondition,
        "conducts",
    );
    drop(caller);
    control.close().await;
}
