//! Webex's question which virtual agents there are: a connection of its own, one message each way.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming as Body;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::auth::{Purpose, Shown, Signed, SignedRequest};
use crate::ingress::{Credential, Refusal, Speak as _, Webex, list_virtual_agents};
use crate::transport::{Received, WebSocket};

use super::answer::{Answer, switch};
use super::desk::{Desk, normalise};
use super::door::Peer;
use super::phone::{STYLE, target};
use super::socket::{self, SocketLimits};

/// Longest question, in bytes.
const MAX_QUESTION: usize = 4 * 1024;

/// How long the question, and then the good-bye, are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Desk {
    /// Answers Webex's question for the virtual agents at an address: the agent that it names. No call, and no session.
    pub(super) async fn webex_agents(
        self: &Arc<Self>,
        mut request: Request<Body>,
        peer: &Peer,
    ) -> Answer {
        let upgrade = match self.check_upgrade(Webex::NAME, &request, STYLE, peer) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let agent = match self.webex_agent(&request, peer).await {
            Ok(agent) => agent,
            Err(refusal) => return self.refused(Webex::NAME, &refusal, STYLE, peer),
        };
        let limits = SocketLimits {
            frames: self.config.callers.phone.frames(MAX_QUESTION),
            max_unsent: MAX_QUESTION,
        };
        let on_upgrade = hyper::upgrade::on(&mut request);
        let closing = self.closing.clone();
        self.connections.spawn(async move {
            let answered = async {
                if let Some(mut socket) = socket::open(on_upgrade, limits).await {
                    let close = tell_agents(&mut socket, &agent).await;
                    let _ = timeout(PATIENCE, socket.close(close)).await;
                }
            };
            tokio::select! {
                () = answered => {}
                () = closing.cancelled() => {}
            }
        });
        switch(&upgrade.accept, None)
    }

    /// The agent of the address, if whoever asks may call it.
    async fn webex_agent(&self, request: &Request<Body>, peer: &Peer) -> Result<String, Refusal> {
        let path = normalise(request.uri().path());
        let agent = Webex::listed_agent(&path).ok_or_else(Refusal::not_found)?;
        let can = Webex::CAPABILITIES.credential;
        let credential = Credential::find_in(can, request.uri().query(), request.headers())?;
        let shown = Shown {
            secret: credential.as_ref().map(Credential::secret),
            signed: Some(SignedRequest {
                target: target(request.uri()),
                headers: request.headers(),
                signed: Signed::Upgrade,
                agent,
            }),
            ..Shown::default()
        };
        let purpose = Purpose::Call {
            dialect: Webex::NAME,
            agent: Some(agent),
        };
        let identity = self.identify(Webex::NAME, shown, purpose, peer).await?;
        self.routes.for_agent(&identity.tenant, agent)?;
        Ok(agent.to_owned())
    }
}

/// Reads the question and answers it; returns what to close with.
async fn tell_agents(socket: &mut WebSocket, agent: &str) -> Option<CloseFrame> {
    let until = Instant::now() + PATIENCE;
    let question = loop {
        match timeout_at(until, socket.next()).await {
            Ok(Received::Text(question)) => break question,
            Ok(Received::SignOfLife) => {}
            Ok(Received::Closed(_) | Received::Gone) => return None,
            Ok(Received::Broken(fault)) => return Some(bad(fault.close_code(), fault.name())),
            Ok(Received::Binary(_)) => return Some(bad(1003, "binary_message")),
            Err(_) => return Some(bad(1008, "no_question")),
        }
    };
    match list_virtual_agents(&question, agent) {
        Ok(answer) => {
            if socket.send_text(&answer).is_err() || socket.flush().await.is_err() {
                return None;
            }
        }
        Err(error) => return Some(bad(error.close_code(), error.name())),
    }
    // It closes once it has the answer.
    let goodbye = async { while !socket.next().await.is_end() {} };
    let _ = timeout(PATIENCE, goodbye).await;
    None
}

fn bad(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code: code.into(),
        reason: reason.into(),
    }
}
