//! The control service: answers operators from the register of calls, and hands on what they want done.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::bridge::{LiveCall, OrderError};
use crate::listener::Gateway;

use super::access::Pass;
use super::control_proto as proto;
use super::control_proto::control_server::Control;
use super::control_view::fits;
use super::watch::Watcher;

/// Calls on a page where nobody says how many, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// Longest text that is said, and longest reason for the log, in bytes.
const MAX_TEXT: usize = 4000;
const MAX_REASON: usize = 200;

/// Whoever lets calls take longer does not want to drain.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 3600);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct ControlService {
    gateway: Arc<Gateway>,
    /// Ends streams.
    shutdown: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;

impl ControlService {
    pub(super) fn new(gateway: Arc<Gateway>, shutdown: CancellationToken) -> Self {
        Self { gateway, shutdown }
    }

    fn find(&self, call_id: &str) -> Result<Arc<LiveCall>, Status> {
        if call_id.is_empty() {
            return Err(invalid("call_id", "must be given"));
        }
        let call = self.gateway.calls().find(call_id);
        call.ok_or_else(|| Status::not_found(format!("there is no live call {call_id:?}")))
    }

    fn set_drained(&self, deployment: &str, is_drained: bool) -> Result<(), Status> {
        if deployment.is_empty() {
            return Err(invalid("deployment", "must be given"));
        }
        match self.gateway.set_drained(deployment, is_drained) {
            true => Ok(()),
            false => Err(Status::not_found(format!(
                "there is no deployment {deployment:?}"
            ))),
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn list_calls(
        &self,
        request: Request<proto::ListCallsRequest>,
    ) -> Answer<proto::ListCallsResponse> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = page_token(&request.page_token)?;
        let filter = request.filter.unwrap_or_default();
        let calls = self.gateway.calls().live();
        let fitting = calls.iter().filter_map(|call| {
            let snapshot = call.snapshot(false);
            fits(&filter, &snapshot).then_some((call.number(), snapshot))
        });
        let fitting: Vec<_> = fitting.collect();
        let total_size = i32::try_from(fitting.len()).unwrap_or(i32::MAX);
        let mut rest = fitting
            .into_iter()
            .skip_while(|(number, _)| *number <= after)
            .peekable();
        let mut response = proto::ListCallsResponse {
            total_size,
            ..proto::ListCallsResponse::default()
        };
        let mut last = after;
        for (number, snapshot) in rest.by_ref().take(size) {
            last = number;
            response.calls.push(snapshot.into());
        }
        if rest.peek().is_some() {
            response.next_page_token = last.to_string();
        }
        Ok(Response::new(response))
    }

    async fn get_call(&self, request: Request<proto::GetCallRequest>) -> Answer<proto::Call> {
        let call = self.find(&request.get_ref().call_id)?;
        Ok(Response::new(call.snapshot(true).into()))
    }

    type WatchCallsStream =
        Pin<Box<dyn Stream<Item = Result<proto::WatchCallsResponse, Status>> + Send>>;

    async fn watch_calls(
        &self,
        request: Request<proto::WatchCallsRequest>,
    ) -> Answer<Self::WatchCallsStream> {
        let pass = request.extensions().get::<Pass>().cloned();
        let pass = pass.ok_or_else(|| Status::unauthenticated("nothing was shown"))?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let calls = self.gateway.calls().clone();
        let watcher = Watcher::new(calls, filter, pass, self.shutdown.clone());
        let events = futures_util::stream::unfold(watcher, async |mut watcher| {
            let event = watcher.next().await?;
            Some((event, watcher))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn end_call(
        &self,
        request: Request<proto::EndCallRequest>,
    ) -> Answer<proto::EndCallResponse> {
        let request = request.into_inner();
        if request.reason.len() > MAX_REASON {
            return Err(invalid("reason", "has more than 200 bytes"));
        }
        let call = self.find(&request.call_id)?;
        call.end(request.say_goodbye).map_err(not_done)?;
        tracing::info!(
            call_id = request.call_id,
            reason = request.reason,
            say_goodbye = request.say_goodbye,
            "an operator ends a call"
        );
        Ok(Response::new(proto::EndCallResponse {}))
    }

    async fn say(&self, request: Request<proto::SayRequest>) -> Answer<proto::SayResponse> {
        let request = request.into_inner();
        let mode = proto::SayMode::try_from(request.mode)
            .map_err(|_| invalid("mode", "is none of SayMode"))?;
        if request.text.trim().is_empty() {
            return Err(invalid("text", "must be given"));
        }
        if request.text.len() > MAX_TEXT {
            return Err(invalid("text", "has more than 4000 bytes"));
        }
        let call = self.find(&request.call_id)?;
        call.say(request.text, mode.into())
            .await
            .map_err(not_done)?;
        tracing::info!(
            call_id = request.call_id,
            mode = mode.as_str_name(),
            "an operator has something said"
        );
        Ok(Response::new(proto::SayResponse {}))
    }

    async fn list_deployments(
        &self,
        _request: Request<proto::ListDeploymentsRequest>,
    ) -> Answer<proto::ListDeploymentsResponse> {
        let deployments = self.gateway.deployments();
        Ok(Response::new(proto::ListDeploymentsResponse {
            deployments: deployments.into_iter().map(Into::into).collect(),
        }))
    }

    async fn drain_deployment(
        &self,
        request: Request<proto::DrainDeploymentRequest>,
    ) -> Answer<proto::DrainDeploymentResponse> {
        let request = request.into_inner();
        self.set_drained(&request.deployment, true)?;
        let mut calls = self.gateway.calls().live();
        calls.retain(|call| call.is_at(&request.deployment));
        if request.move_calls {
            for call in &calls {
                // One that ends meanwhile, or ends because of other orders, leaves too.
                let _ = call.leave_deployment();
            }
        }
        Ok(Response::new(proto::DrainDeploymentResponse {
            calls: u32::try_from(calls.len()).unwrap_or(u32::MAX),
        }))
    }

    async fn undrain_deployment(
        &self,
        request: Request<proto::UndrainDeploymentRequest>,
    ) -> Answer<proto::UndrainDeploymentResponse> {
        self.set_drained(&request.get_ref().deployment, false)?;
        Ok(Response::new(proto::UndrainDeploymentResponse {}))
    }

    async fn drain_gateway(
        &self,
        request: Request<proto::DrainGatewayRequest>,
    ) -> Answer<proto::DrainGatewayResponse> {
        let deadline = request.into_inner().deadline.map(deadline).transpose()?;
        let calls = self.gateway.calls().active();
        self.gateway.ask_to_drain(deadline);
        Ok(Response::new(proto::DrainGatewayResponse {
            calls: u32::try_from(calls).unwrap_or(u32::MAX),
        }))
    }
}

fn invalid(field: &str, problem: &str) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}

fn not_done(error: OrderError) -> Status {
    match error {
        OrderError::Ended => Status::not_found(error.to_string()),
        OrderError::Busy => Status::unavailable(error.to_string()),
        OrderError::CallerConducts | OrderError::NotTalking | OrderError::CallerSpeaks => {
            Status::failed_precondition(error.to_string())
        }
    }
}

fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE),
        Ok(n) => Ok(n.min(LARGEST_PAGE)),
        Err(_) => Err(invalid("page_size", "is negative")),
    }
}

/// The number of the last call of the page before.
fn page_token(token: &str) -> Result<u64, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let number = token.parse();
    number.map_err(|_| invalid("page_token", "is none that a response gave"))
}

fn deadline(asked: prost_types::Duration) -> Result<Duration, Status> {
    let deadline = Duration::try_from(asked).map_err(|_| invalid("deadline", "is negative"))?;
    match deadline > LONGEST_DRAIN {
        true => Err(invalid("deadline", "is more than a day")),
        false => Ok(deadline),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn bad_arguments_name_their_field() {
        let check = |status: Status, field: &str| {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{status}");
        };
        check(page_size(-1).unwrap_err(), "page_size: ");
        check(page_token("x").unwrap_err(), "page_token: ");
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        check(deadline(seconds(-1)).unwrap_err(), "deadline: ");
        check(deadline(seconds(86_401)).unwrap_err(), "deadline: ");
        assert_eq!(deadline(seconds(5)).unwrap(), Duration::from_secs(5));
        assert_eq!(page_size(0).unwrap(), PAGE);
        assert_eq!(page_size(i32::MAX).unwrap(), LARGEST_PAGE);
        assert_eq!(page_token("").unwrap(), 0);
        assert_eq!(page_token("17").unwrap(), 17);
    }
}
