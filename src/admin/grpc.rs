//! The gRPC side of the operators' listener: which service a request is for, and who may ask it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::listener::Gateway;
use crate::telemetry::CONTROL_METHODS;

use super::access::Right;
use super::control::ControlService;
use super::control_proto::DESCRIPTORS;
use super::control_proto::control_server::{ControlServer, SERVICE_NAME as CONTROL};

const HEALTH: &str = tonic_health::pb::health_server::SERVICE_NAME;
const REFLECTION: &str = tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME;
/// What many clients still ask: grpcio's own knows no other.
const OLD_REFLECTION: &str = tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME;

/// Largest request: a text to be said, and some.
const MAX_REQUEST: usize = 64 * 1024;

/// Until an answer begins. Calls say within 5 s what became of an order.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What reflection tells was checked by the build.
const COMPILED: &str = "the contracts that the build has compiled";

/// The services.
pub(super) struct Grpc {
    gateway: Arc<Gateway>,
    control: Served,
    health: Served,
    reflection: Served,
    old_reflection: Served,
    reporter: HealthReporter,
}

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Served = Box<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

impl Grpc {
    /// Streams end when `shutdown` comes.
    pub(super) fn new(gateway: &Arc<Gateway>, shutdown: &CancellationToken) -> Self {
        let control = ControlService::new(Arc::clone(gateway), shutdown.clone());
        let control = ControlServer::new(control).max_decoding_message_size(MAX_REQUEST);
        let reporter = HealthReporter::new();
        let health = HealthService::from_health_reporter(reporter.clone());
        let health = HealthServer::new(health).max_decoding_message_size(MAX_REQUEST);
        let contracts = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = contracts().build_v1().expect(COMPILED);
        let old_reflection = contracts().build_v1alpha().expect(COMPILED);
        Self {
            gateway: Arc::clone(gateway),
            control: served(control),
            health: served(health),
            reflection: served(reflection.max_decoding_message_size(MAX_REQUEST)),
            old_reflection: served(old_reflection.max_decoding_message_size(MAX_REQUEST)),
            reporter,
        }
    }

    /// Whether a request is for a service, and not for a page.
    pub(super) fn is_for<B>(request: &Request<B>) -> bool {
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        is_grpc && request.version() == Version::HTTP_2
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, right: Right) -> Response<Body> {
        let path = request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        let mut methods = CONTROL_METHODS.iter().copied();
        let known = methods.find(|known| *known == method);
        let (served, name) = match service {
            HEALTH => (Some(&self.health), "health"),
            REFLECTION => (Some(&self.reflection), "reflection"),
            OLD_REFLECTION => (Some(&self.old_reflection), "reflection"),
            CONTROL => (Some(&self.control), known.unwrap_or("other")),
            _ => (None, "other"),
        };
        let answer = match (served, right) {
            (Some(served), _) if service == HEALTH => begun(served(request)).await,
            (_, Right::None) => refused(Status::unauthenticated(
                "show the admin token as authorization: Bearer, or a client certificate",
            )),
            (_, Right::Public) => refused(Status::permission_denied(
                "not served on a public address without a token or client certificates",
            )),
            (Some(_), Right::Read) if service == CONTROL && !is_reading(method) => refused(
                Status::permission_denied("this is the token for who only looks"),
            ),
            (Some(served), Right::Full | Right::Read) => begun(served(request)).await,
            (None, Right::Full | Right::Read) => {
                refused(Status::unimplemented("there is no such service"))
            }
        };
        let code = code(answer.headers());
        self.gateway.metrics().control().answered(name, code);
        answer
    }

    /// Tells health as it changes.
    pub(super) async fn report(&self) {
        let report = async |status| {
            for service in ["", CONTROL] {
                self.reporter.set_service_status(service, status).await;
            }
        };
        report(ServingStatus::Serving).await;
        self.gateway.drain_began().await;
        report(ServingStatus::NotServing).await;
    }
}

/// Whether that method of the control service changes nothing; what is not known may.
fn is_reading(method: &str) -> bool {
    READING_METHODS.contains(&method)
}

const READING_METHODS: [&str; 4] = ["ListCalls", "GetCall", "WatchCalls", "ListDeployments"];

fn served<S>(service: S) -> Served
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            let Ok(answer) = service.call(request).await;
            answer
        })
    })
}

/// The answer, unless the request never comes to its end.
async fn begun(answer: Answer) -> Response<Body> {
    let late = || refused(Status::deadline_exceeded("the request took too long"));
    let answer = timeout(ANSWER_WITHIN, answer).await;
    answer.unwrap_or_else(|_| late())
}

fn refused(status: Status) -> Response<Body> {
    status.into_http()
}

/// The code of an answer as metrics name it. One that goes well, or goes wrong later, does not say it yet.
fn code(headers: &HeaderMap) -> &'static str {
    let code = headers.get(Status::GRPC_STATUS);
    match code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())) {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::Unauthenticated => "unauthenticated",
        Code::Cancelled | Code::Unknown | Code::AlreadyExists | Code::Aborted | Code::DataLoss => {
            "other"
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn metrics_know_every_method() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let methods: Vec<_> = services
            .flat_map(|service| service.method.iter().map(|method| method.name()))
            .collect();
        // Beside them, what is no method of it.
        assert_eq!(methods.len() + 3, CONTROL_METHODS.len());
        for method in &methods {
            assert!(CONTROL_METHODS.contains(method), "{method}");
        }
        let reading: Vec<_> = methods.iter().filter(|it| is_reading(it)).collect();
        assert_eq!(reading.len(), READING_METHODS.len());
        for method in reading {
            let begins = ["List", "Get", "Watch"].map(|verb| method.starts_with(verb));
            assert!(begins.contains(&true), "{method}");
        }
    }
}
