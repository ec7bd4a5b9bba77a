//! A gateway with its control service, on real sockets because the operators' listener has no others, and its clients.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};
use trunkline::admin::control_proto as proto;
use trunkline::admin::control_proto::control_client::ControlClient;
use trunkline::admin::{self, Access, AdminTokens};

use crate::harness::World;
use crate::wire::Wire;

pub(crate) const AUDIO: &str = "/v1/audio/ga";
pub(crate) const SDK: &str = "/openai/v1/realtime?model=preview";

pub(crate) struct Control {
    pub(crate) world: World,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) tokens: AdminTokens,
    pub(crate) stop: CancellationToken,
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

    pub(crate) async fn client(&self) -> ControlClient<Channel> {
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

pub(crate) async fn get(
    client: &mut ControlClient<Channel>,
    call_id: &str,
) -> Result<proto::Call, Status> {
    let request = proto::GetCallRequest {
        call_id: call_id.to_owned(),
    };
    Ok(client.get_call(request).await?.into_inner())
}

/// Once there are so many calls, those.
pub(crate) async fn calls(client: &mut ControlClient<Channel>, n: usize) -> Vec<proto::Call> {
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
