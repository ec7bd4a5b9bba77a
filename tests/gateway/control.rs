//! What the control service tells of calls: as a list, by one's id, and to who watches.

use serde_json::json;
use tonic::{Code, Streaming};
use trunkline::admin::control_proto as proto;
use trunkline::admin::control_proto::watch_calls_response::Event;

use crate::control_client::{Control, SDK, calls, check, get, list, phone};
use crate::harness::{CONFIG, World};
use crate::wire::Wire;

#[tokio::test]
async fn calls_are_listed_filtered_and_paged() {
    let control = Control::new("").await;
    let mut client = control.client().await;
    assert!(
        list(&mut client, proto::CallFilter::default())
            .await
            .is_empty()
    );
    let first = phone(&control.world).await;
    let second = phone(&control.world).await;
    let third = Wire::open(&control.world, SDK).await;
    let all = calls(&mut client, 3).await;
    let ga = &all[0];
    assert_eq!(
        [&*ga.tenant, &*ga.route, &*ga.dialect, &*ga.deployment],
        ["default", "ga", "audio", "ga"]
    );
    assert_eq!(ga.conductor(), proto::Conductor::Gateway);
    assert_eq!(ga.state(), proto::CallState::Talking);
    assert!(ga.session_id.starts_with("sess_"), "{ga:?}");
    assert!(ga.began_at.is_some() && ga.lasts.is_some() && ga.end_reason.is_empty());
    assert_eq!(all[2].conductor(), proto::Conductor::Caller);
    assert_eq!(all[2].route, "preview");
    for (dialect, deployment, n) in [
        ("audio", "", 2),
        ("realtime", "", 1),
        ("", "preview", 1),
        ("audio", "preview", 0),
    ] {
        let filter = proto::CallFilter {
            dialect: dialect.to_owned(),
            deployment: deployment.to_owned(),
            ..proto::CallFilter::default()
        };
        assert_eq!(
            list(&mut client, filter).await.len(),
            n,
            "{dialect} {deployment}"
        );
    }
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListCallsRequest {
            page_size: 2,
            page_token,
            ..proto::ListCallsRequest::default()
        };
        let page = client
            .list_calls(request)
            .await
            .expect("a page")
            .into_inner();
        assert_eq!(page.total_size, 3);
        paged.extend(page.calls.into_iter().map(|call| call.call_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let ids: Vec<_> = all.iter().map(|call| call.call_id.clone()).collect();
    assert_eq!(paged, ids);
    assert_eq!(
        get(&mut client, &ids[1]).await.expect("there").call_id,
        ids[1]
    );
    drop((first, second, third));
    calls(&mut client, 0).await;
    check(get(&mut client, &ids[1]).await, Code::NotFound, &ids[1]);
    control.close().await;
}

#[tokio::test]
async fn bad_arguments_are_refused_by_name() {
    let control = Control::new("").await;
    let mut client = control.client().await;
    check(get(&mut client, "").await, Code::InvalidArgument, "call_id");
    let request = proto::ListCallsRequest {
        page_token: "yesterday".to_owned(),
        ..proto::ListCallsRequest::default()
    };
    check(
        client.list_calls(request).await,
        Code::InvalidArgument,
        "page_token",
    );
    let end = |call_id: &str, reason: String| proto::EndCallRequest {
        call_id: call_id.to_owned(),
        reason,
        say_goodbye: false,
    };
    let long = end("call-0", "x".repeat(201));
    check(client.end_call(long).await, Code::InvalidArgument, "reason");
    let unknown = end("call-0", String::new());
    check(client.end_call(unknown).await, Code::NotFound, "call-0");
    let say = |text: &str, mode| proto::SayRequest {
        call_id: "call-0".to_owned(),
        text: text.to_owned(),
        mode,
    };
    check(client.say(say(" ", 1)).await, Code::InvalidArgument, "text");
    check(
        client.say(say("Hi.", 9)).await,
        Code::InvalidArgument,
        "mode",
    );
    check(client.say(say("Hi.", 1)).await, Code::NotFound, "call-0");
    let drain = |deployment: &str| proto::DrainDeploymentRequest {
        deployment: deployment.to_owned(),
        move_calls: false,
    };
    check(
        client.drain_deployment(drain("")).await,
        Code::InvalidArgument,
        "deployment",
    );
    check(
        client.drain_deployment(drain("nowhere")).await,
        Code::NotFound,
        "nowhere",
    );
    let deadline = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let request = proto::DrainGatewayRequest { deadline };
    check(
        client.drain_gateway(request).await,
        Code::InvalidArgument,
        "deadline",
    );
    assert!(control.world.gateway.drain_wanted().borrow().is_none());
    let counted = |method: &str, code: &str| {
        let line =
            format!(r#"trunkline_control_requests_total{{code="{code}",method="{method}"}}"#);
        control.world.metric(&line)
    };
    assert_eq!(counted("Say", "invalid_argument"), 2.0);
    assert_eq!(counted("Say", "not_found"), 1.0);
    assert_eq!(counted("GetCall", "invalid_argument"), 1.0);
    control.close().await;
}

/// The next event of a watcher.
async fn next(events: &mut Streaming<proto::WatchCallsResponse>) -> Event {
    let response = events.message().await.expect("no error").expect("no end");
    response.event.expect("an event")
}

#[tokio::test]
async fn a_watcher_is_told_what_begins_changes_and_ends() {
    let control = Control::new("").await;
    let mut client = control.client().await;
    let there = phone(&control.world).await;
    let id = calls(&mut client, 1).await[0].call_id.clone();
    let filter = proto::CallFilter {
        dialect: "audio".to_owned(),
        ..proto::CallFilter::default()
    };
    let request = proto::WatchCallsRequest {
        filter: Some(filter),
    };
    let mut events = client
        .watch_calls(request)
        .await
        .expect("a watch")
        .into_inner();
    let Event::Snapshot(snapshot) = next(&mut events).await else {
        panic!("what there is comes first");
    };
    assert_eq!((snapshot.calls.len(), snapshot.has_more), (1, false));
    assert_eq!(snapshot.calls[0].call_id, id);
    // Not of the watched dialect.
    drop(Wire::open(&control.world, SDK).await);
    let second = phone(&control.world).await;
    let Event::Began(began) = next(&mut events).await else {
        panic!("a call began");
    };
    assert_ne!(began.call_id, id);
    drop(second);
    let ended = loop {
        match next(&mut events).await {
            Event::Changed(call) => assert_eq!(call.call_id, began.call_id),
            Event::Ended(call) => break call,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended.call_id, began.call_id);
    assert_eq!(ended.state(), proto::CallState::Ended);
    assert_eq!(ended.end_reason, "caller_gone");
    // The process goes.
    control.stop.cancel();
    let status = events.message().await.expect_err("the end");
    assert_eq!(status.code(), Code::Unavailable);
    drop(there);
    control.close().await;
}

#[tokio::test]
async fn a_slow_watcher_is_told_what_it_missed_and_shown_all_again() {
    let fast = "[listener.callers.realtime]\nmessages_per_second = 1000000";
    let world = World::with_config(&format!("{CONFIG}\n{fast}\n"), "");
    let control = Control::of(world, "").await;
    let mut client = control.client().await;
    let mut caller = Wire::open(&control.world, SDK).await;
    let id = calls(&mut client, 1).await[0].call_id.clone();
    let mut reader = control.client().await;
    let request = proto::WatchCallsRequest::default();
    let mut events = reader
        .watch_calls(request)
        .await
        .expect("a watch")
        .into_inner();
    // A client that stops playing tells so, and each time is one more event for the watcher, who does not read. The call
    // goes on all the while.
    let truncate = json!({
        "type": "conversation.item.truncate", "item_id": "none", "content_index": 0, "audio_end_ms": 0,
    });
    const N: u64 = 2_500;
    for _ in 0..N / 50 {
        for _ in 0..50 {
            caller.send(truncate.clone()).await;
        }
        for _ in 0..50 {
            caller.until("error").await;
        }
    }
    let call = get(&mut client, &id).await.expect("there");
    assert_eq!(call.barge_ins, N);
    assert_eq!(call.timeline.len(), trunkline::bridge::MAX_MOMENTS);
    let (mut n_changed, mut n_missed) = (0, 0);
    loop {
        match next(&mut events).await {
            Event::Snapshot(_) if n_missed == 0 => {}
            Event::Changed(_) => n_changed += 1,
            Event::Missed(missed) => n_missed += missed.events,
            Event::Snapshot(snapshot) => {
                assert_eq!(snapshot.calls[0].barge_ins, N);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(n_missed > 0, "{n_changed} were told");
    assert_eq!(n_changed + n_missed, N, "none is lost in silence");
    drop(caller);
    loop {
        if let Event::Ended(_) = next(&mut events).await {
            break;
        }
    }
    control.close().await;
}
