//! Who may ask the control service, what it tells of itself, and what everybody may know.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use trunkline::admin::AdminTokens;
use trunkline::admin::control_proto as proto;
use trunkline::admin::control_proto::control_client::ControlClient;
use trunkline::admin::control_proto::watch_calls_response::Event;

use crate::control_client::{Channel, Control, check, list, phone};

async fn health(channel: Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let checked = HealthClient::new(channel).check(request).await;
    checked.expect("health").into_inner().status()
}

#[tokio::test]
async fn draining_is_asked_for_and_shown_as_health() {
    let control = Control::new("token = 'operators-only'").await;
    let mut client = ControlClient::new(control.channel("operators-only").await);
    let service = "trunkline.v1.Control";
    // Probes show no token.
    let probe = control.channel("").await;
    for service in ["", service] {
        while health(probe.clone(), service).await != ServingStatus::Serving {
            sleep(Duration::from_millis(10)).await;
        }
    }
    let deadline = Some(prost_types::Duration {
        seconds: 7,
        nanos: 0,
    });
    client
        .drain_gateway(proto::DrainGatewayRequest { deadline })
        .await
        .expect("told");
    let wanted = *control.world.gateway.drain_wanted().borrow();
    assert_eq!(wanted, Some(Some(Duration::from_secs(7))));
    // Whoever runs the process does so.
    control.world.gateway.drain(Duration::ZERO).await;
    while health(probe.clone(), service).await != ServingStatus::NotServing {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(health(probe, "").await, ServingStatus::NotServing);
    control.close().await;
}

async fn services(channel: Channel) -> Result<Vec<String>, Status> {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(requests).await?;
    let answer = answers.into_inner().message().await?.expect("an answer");
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => Ok(list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_operators_are_let_in() {
    let control = Control::new("token = 'operators-only'").await;
    for token in ["", "operators-onl", "operators-only2"] {
        let channel = control.channel(token).await;
        let mut client = ControlClient::new(channel.clone());
        let request = proto::ListCallsRequest::default();
        check(
            client.list_calls(request).await,
            Code::Unauthenticated,
            "token",
        );
        let request = proto::WatchCallsRequest::default();
        check(
            client.watch_calls(request).await,
            Code::Unauthenticated,
            "token",
        );
        let request = proto::DrainGatewayRequest { deadline: None };
        check(
            client.drain_gateway(request).await,
            Code::Unauthenticated,
            "token",
        );
        check(services(channel).await, Code::Unauthenticated, "token");
    }
    assert!(control.world.gateway.drain_wanted().borrow().is_none());
    let channel = control.channel("operators-only").await;
    let mut client = ControlClient::new(channel.clone());
    assert!(
        list(&mut client, proto::CallFilter::default())
            .await
            .is_empty()
    );
    let mut names = services(channel).await.expect("services");
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "trunkline.v1.Control"
        ]
    );
    // The pages are on the same port, by HTTP/1.1.
    let mut stream = TcpStream::connect(control.address)
        .await
        .expect("connected");
    let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    control.close().await;
}

#[tokio::test]
async fn who_only_looks_sees_everything_and_changes_nothing() {
    let control = Control::new("token = 'operators-only'\nread_token = 'lookers'").await;
    let channel = control.channel("lookers").await;
    let mut client = ControlClient::new(channel.clone());
    let calls = list(&mut client, proto::CallFilter::default()).await;
    assert!(calls.is_empty());
    let request = proto::ListDeploymentsRequest::default();
    client.list_deployments(request).await.expect("shown");
    let request = proto::WatchCallsRequest::default();
    drop(client.watch_calls(request).await.expect("shown"));
    let request = proto::GetCallRequest {
        call_id: "call-1".to_owned(),
    };
    check(client.get_call(request).await, Code::NotFound, "");
    assert_eq!(services(channel).await.expect("services").len(), 3);
    let said = "the token for who only looks";
    let denied = Code::PermissionDenied;
    let request = proto::EndCallRequest::default();
    check(client.end_call(request).await, denied, said);
    let request = proto::SayRequest::default();
    check(client.say(request).await, denied, said);
    let request = proto::DrainDeploymentRequest::default();
    check(client.drain_deployment(request).await, denied, said);
    let request = proto::UndrainDeploymentRequest::default();
    check(client.undrain_deployment(request).await, denied, said);
    let request = proto::DrainGatewayRequest { deadline: None };
    check(client.drain_gateway(request).await, denied, said);
    assert!(control.world.gateway.drain_wanted().borrow().is_none());
    // Whoever has neither is told what everybody is.
    let mut client = ControlClient::new(control.channel("looker").await);
    let request = proto::EndCallRequest::default();
    check(client.end_call(request).await, Code::Unauthenticated, "");
    control.close().await;
}

#[tokio::test]
async fn who_watches_is_sent_away_when_the_token_is_withdrawn() {
    let control = Control::new("token = 'operators-only'\nread_token = 'lookers'").await;
    let mut streams = Vec::new();
    for token in ["operators-only", "lookers"] {
        let mut client = ControlClient::new(control.channel(token).await);
        let request = proto::WatchCallsRequest::default();
        let events = client.watch_calls(request).await.expect("shown");
        let mut events = events.into_inner();
        let event = events.message().await.expect("a snapshot");
        assert!(event.is_some(), "{token}");
        streams.push(events);
    }
    let replace = |text: &str| {
        let config = toml::from_str(text).expect("good");
        let other = AdminTokens::read(&config).expect("good");
        control.tokens.replace(&other);
    };
    // Who shows what is still asked for notices nothing.
    replace("token = 'operators-only'\nread_token = 'others'");
    let [operator, looker] = &mut streams[..] else {
        panic!("two");
    };
    check(looker.message().await, Code::Unauthenticated, "tokens");
    let call = phone(&control.world).await;
    let news = operator
        .message()
        .await
        .expect("goes on")
        .expect("an event");
    assert!(matches!(news.event, Some(Event::Began(_))), "{news:?}");
    drop(call);
    replace("token = 'changed'");
    let refused = loop {
        match operator.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    check(refused, Code::Unauthenticated, "tokens");
    control.close().await;
}

#[tokio::test]
async fn nobody_acts_where_only_looking_asks_a_token() {
    let control = Control::new("read_token = 'lookers'").await;
    for (token, code) in [
        ("", Code::Unauthenticated),
        ("lookers", Code::PermissionDenied),
    ] {
        let mut client = ControlClient::new(control.channel(token).await);
        let request = proto::DrainGatewayRequest { deadline: None };
        check(client.drain_gateway(request).await, code, "");
    }
    control.close().await;
}

#[tokio::test]
async fn a_public_address_without_a_secret_has_probes_and_metrics_only() {
    // That it listens on loopback here is not what the configuration says.
    let control = Control::new("address = '0.0.0.0:9100'\npublic = true").await;
    let channel = control.channel("").await;
    let mut client = ControlClient::new(channel.clone());
    let request = proto::ListCallsRequest::default();
    check(
        client.list_calls(request).await,
        Code::PermissionDenied,
        "public",
    );
    check(
        services(channel.clone()).await,
        Code::PermissionDenied,
        "public",
    );
    assert_ne!(health(channel, "").await, ServingStatus::Unknown);
    control.close().await;
}
