//! The control service as its clients see it: what they are told, and what becomes of what they want done. On real
//! sockets, because the operators' listener has no others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status, Streaming};
use trunkline::admin::control_proto as proto;
use trunkline::admin::control_proto::control_client::ControlClient;
use trunkline::admin::control_proto::watch_calls_response::Event;
use trunkline::admin::{self, Access, AdminTokens};
use trunkline::call::EndReason;
use trunkline::config::Config;
use trunkline::listener::Unchanged;

use crate::harness::{CONFIG, World};
use crate::wire::{Deployment, Heard, Wire, session_created};

const AUDIO: &str = "/v1/audio/ga";
const SDK: &str = "/openai/v1/realtime?model=preview";

pub(crate) struct Control {
    pub(crate) world: World,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) tokens: AdminTokens,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Control {
    pub(crate) async fn new(admin: &str) -> Self {
        Self::of(World::new(""), admin).await
    }

    pub(crate) async fn of(world: World, admin: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let access = Access::new(&toml::from_str(admin).expect("good")).expect("good");
        let tokens = access.tokens();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let gateway = Arc::clone(&world.gateway);
        tasks.spawn(admin::serve(gateway, listener, access, stop.clone()));
        Self {
            world,
            address,
            tokens,
            stop,
            tasks,
        }
    }

    pub(crate) async fn channel(&self, token: &str) -> Channel {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // Whoever does not read is sent little.
        builder.initial_stream_window_size(16 * 1024);
        builder.initial_connection_window_size(64 * 1024);
        let handshake = builder.handshake(TokioIo::new(stream));
        let (send, connection) = handshake.await.expect("HTTP/2");
        self.tasks.spawn(async move { drop(connection.await) });
        Channel {
            send,
            origin: format!("http://{}", self.address),
            token: token.to_owned(),
        }
    }

    async fn client(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel("").await)
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.world.gateway.close().await;
    }
}

#[derive(Clone)]
pub(crate) struct Channel {
    send: http2::SendRequest<Body>,
    origin: String,
    token: String,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let uri = format!("{}{}", self.origin, request.uri().path());
        *request.uri_mut() = uri.parse::<Uri>().expect("an address");
        if !self.token.is_empty() {
            let value = format!("Bearer {}", self.token).parse().expect("a header");
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Box::pin(self.send.send_request(request))
    }
}

/// A phone in conversation at `ga`.
pub(crate) async fn phone(world: &World) -> Wire {
    let mut wire = Wire::open(world, AUDIO).await;
    wire.text(r#"{"type":"start"}"#).await;
    wire.until("started").await;
    wire
}

pub(crate) async fn list(
    client: &mut ControlClient<Channel>,
    filter: proto::CallFilter,
) -> Vec<proto::Call> {
    let request = proto::ListCallsRequest {
        filter: Some(filter),
        ..proto::ListCallsRequest::default()
    };
    let listed = client.list_calls(request).await.expect("calls");
    listed.into_inner().calls
}

async fn get(client: &mut ControlClient<Channel>, call_id: &str) -> Result<proto::Call, Status> {
    let request = proto::GetCallRequest {
        call_id: call_id.to_owned(),
    };
    Ok(client.get_call(request).await?.into_inner())
}

/// Once there are so many calls, those.
async fn calls(client: &mut ControlClient<Channel>, n: usize) -> Vec<proto::Call> {
    loop {
        let calls = list(client, proto::CallFilter::default()).await;
        if calls.len() == n {
            return calls;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn check<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.expect_err("refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{status}");
}

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

fn pool() -> String {
    let deployment = |name: &str| {
        format!(
            "[deployments.{name}]\nurl = 'ws://127.0.0.1:1'\nmodel = '{name}'\napi_key = 'sim-key'\n"
        )
    };
    let all: String = ["east", "west"].map(deployment).concat();
    format!(
        "[auth]\nmode = 'none'\n{all}[pools.main]\ndeployments = [{{ name = 'east' }}, {{ name = 'west', priority = 1 }}]\n\
         [pools.main.standby]\nmin = 1\nmax = 2\n[agents.ga]\ndeployment = 'main'\n[models]\npreview = 'main'\n"
    )
}

#[tokio::test]
async fn a_drained_deployment_gets_no_session() {
    let config = pool();
    let control = Control::of(World::with_config(&config, ""), "").await;
    let world = &control.world;
    let mut client = control.client().await;
    let conducted = phone(world).await;
    let relayed = Wire::open(world, SDK).await;
    let stay = phone(world).await;
    for call in calls(&mut client, 3).await {
        assert_eq!(call.deployment, "east", "{call:?}");
    }
    let drain = |deployment: &str, move_calls| proto::DrainDeploymentRequest {
        deployment: deployment.to_owned(),
        move_calls,
    };
    let drained = client
        .drain_deployment(drain("east", false))
        .await
        .expect("drained");
    assert_eq!(drained.into_inner().calls, 3);
    // Another configuration: what is new under that name is not used either.
    let parsed = Config::parse(&config).expect("good");
    let routes = parsed.build(&config).expect("good");
    world
        .gateway
        .replace(parsed.listener, routes, &Unchanged::default());
    assert_eq!(
        world.metric(r#"trunkline_deployment_drained{deployment="east"}"#),
        1.0
    );
    let newcomer = phone(world).await;
    let all = calls(&mut client, 4).await;
    let places: Vec<_> = all.iter().map(|call| &*call.deployment).collect();
    assert_eq!(places, ["east", "east", "east", "west"]);
    // None stands by there.
    let request = || proto::ListDeploymentsRequest {};
    let east = loop {
        let listed = client
            .list_deployments(request())
            .await
            .expect("deployments");
        let east = listed.into_inner().deployments.remove(0);
        if east.standby == 0 {
            break east;
        }
        sleep(Duration::from_millis(10)).await;
    };
    assert!(east.is_drained && east.name == "east" && east.condition == "well");
    assert!(east.tokens.is_some_and(|quota| quota.limit > 0.0));
    // Nobody is left: refused at the door, by 503.
    client
        .drain_deployment(drain("west", false))
        .await
        .expect("drained");
    let refused = Wire::try_open(world, AUDIO).await.expect_err("refused");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let undrain = proto::UndrainDeploymentRequest {
        deployment: "west".to_owned(),
    };
    client.undrain_deployment(undrain).await.expect("undrained");
    assert_eq!(
        world.metric(r#"trunkline_deployment_drained{deployment="west"}"#),
        0.0
    );
    drop((conducted, relayed, stay, newcomer));
    calls(&mut client, 0).await;
    control.close().await;
}

#[tokio::test]
async fn the_calls_of_a_drained_deployment_go_on_elsewhere() {
    let control = Control::of(World::with_config(&pool(), ""), "").await;
    let mut client = control.client().await;
    let conducted = phone(&control.world).await;
    let relayed = Wire::open(&control.world, SDK).await;
    calls(&mut client, 2).await;
    let request = proto::DrainDeploymentRequest {
        deployment: "east".to_owned(),
        move_calls: true,
    };
    client.drain_deployment(request).await.expect("drained");
    loop {
        let all = calls(&mut client, 2).await;
        if all.iter().all(|call| call.deployment == "west") {
            assert!(all.iter().all(|call| call.sessions == 2), "{all:?}");
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    drop((conducted, relayed));
    calls(&mut client, 0).await;
    control.close().await;
}
