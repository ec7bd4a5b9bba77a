//! The shell: HTTP, the upgrade, and one task per WebSocket that drives a [`Session`].
//!
//! All time comes from tokio, so that a paused clock rules every latency, cap and quota.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::chaos::{Blow, Condition, Conditions, Mood};
use super::config::{FaultKind, FaultRule, SimulatorConfig};
use super::handshake::{
    Accepted, Endpoint, EphemeralKeys, Grant, Refusal, Request, RestCall, Route, route,
};
use super::ids::Source;
use super::listener::Listener;
use super::quota::{Quota, QuotaCounts};
use super::record::SessionRecord;
use super::rest::{EphemeralKey, create_key};
use super::session::{Output, Session, SessionSetup};
use super::synth::Synthesiser;

/// 15 MiB of audio in base64 is 20 MiB, and its event needs a few bytes more.
const MAX_MESSAGE_BYTES: usize = 21 << 20;
/// Holds one append of 200 ms; larger ones take several reads.
const READ_BUFFER_BYTES: usize = 16 << 10;
const MAX_REST_BODY_BYTES: usize = 1 << 20;
/// How long a peer may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A Realtime API stand-in that serves any number of sessions.
#[derive(Debug)]
pub struct Simulator {
    config: RwLock<Arc<SimulatorConfig>>,
    conditions: Conditions,
    synthesiser: Arc<Synthesiser>,
    listener: Option<Arc<dyn Listener>>,
    epoch: u64,
    started: Instant,
    state: Mutex<State>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    source: Source,
    n_upgrades: u64,
    n_sessions: u64,
    quotas: HashMap<String, Arc<Mutex<Quota>>>,
    keys: Vec<EphemeralKey>,
    records: VecDeque<Arc<Mutex<SessionRecord>>>,
}

impl Simulator {
    /// A simulator that serves nothing yet. Must be called within a tokio runtime, whose clock it takes.
    #[must_use]
    pub fn new(config: SimulatorConfig) -> Self {
        let system_time = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs())
        };
        let state = State {
            source: Source::new(config.seed),
            n_upgrades: 0,
            n_sessions: 0,
            quotas: HashMap::new(),
            keys: Vec::new(),
            records: VecDeque::new(),
        };
        Self {
            epoch: config.epoch.unwrap_or_else(system_time),
            config: RwLock::new(Arc::new(config)),
            conditions: Conditions::default(),
            synthesiser: Arc::default(),
            listener: None,
            started: Instant::now(),
            state: Mutex::new(state),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The same with somebody who listens to every session.
    #[must_use]
    pub fn listened_by(mut self, listener: Arc<dyn Listener>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Accepts connections until `shutdown`, then closes every session with 1012 and waits for them.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "simulator connection without TCP_NODELAY");
                    }
                    let simulator = Arc::clone(&self);
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = simulator.serve_connection(stream) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: what is open may close meanwhile.
                    tracing::warn!(%error, "simulator cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.shutdown().await;
    }

    /// Serves HTTP/1 on one connection until it is closed or upgraded; an upgraded one lives on in its own task.
    pub async fn serve_connection<I>(self: &Arc<Self>, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| {
            let simulator = Arc::clone(self);
            async move { Ok::<_, Infallible>(simulator.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "simulator connection ended");
        }
    }

    /// Closes every session with 1012 and waits until they are gone.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What the deployment or model of that name keeps of its quota; none before it was first asked for.
    #[must_use]
    pub fn quota(&self, deployment: &str) -> Option<QuotaCounts> {
        let quota = self.lock_state().quotas.get(deployment).cloned()?;
        let now = Instant::now().into_std();
        let mut quota = quota.lock().unwrap_or_else(PoisonError::into_inner);
        Some(quota.counts(now))
    }

    /// What the clients of all sessions did, oldest session first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionRecord> {
        let records: Vec<_> = self.lock_state().records.iter().cloned().collect();
        records
            .iter()
            .map(|record| {
                record
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            })
            .collect()
    }

    /// Upgrades asked for so far, refused ones included.
    #[must_use]
    pub fn n_upgrades(&self) -> u64 {
        self.lock_state().n_upgrades
    }

    /// Changes how a deployment behaves from now on, to new connections and to those that are open.
    pub fn set_mood(&self, deployment: &str, mood: Mood) {
        self.conditions.set_mood(deployment, mood);
    }

    /// Ends all live sessions of a deployment.
    pub fn strike(&self, deployment: &str, blow: Blow) {
        self.conditions.strike(deployment, blow);
    }

    /// Lets in who shows one of these keys, and no longer those that were good before. Sessions go on.
    pub fn set_api_keys(&self, keys: Vec<String>) {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut config).api_keys = keys;
    }

    fn config(&self) -> Arc<SimulatorConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(self: &Arc<Self>, request: hyper::Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().map(parse_query).unwrap_or_default();
        let asked = Request {
            path: parts.uri.path(),
            query,
            headers: &parts.headers,
            is_post: parts.method == Method::POST,
        };
        // Browsers cannot set headers and write it into the query.
        let client_id = parts
            .headers
            .get("x-ms-client-request-id")
            .cloned()
            .or_else(|| HeaderValue::from_str(asked.query("x-ms-client-request-id")?).ok());
        let decision = route(&self.config(), &asked, self.as_ref());
        let mut response = match decision {
            Err(refusal) => refuse(&refusal),
            Ok(Route::Rest(call)) => self.answer_rest(call, body).await,
            Ok(Route::Socket(accepted)) => {
                let faults = self.asked_faults(&asked);
                let request = hyper::Request::from_parts(parts, body);
                self.upgrade(accepted, faults, request)
            }
        };
        self.add_request_ids(&mut response, client_id);
        response
    }

    /// Ids that users quote in support requests, on 101 and refusal alike.
    fn add_request_ids(
        &self,
        response: &mut Response<Full<Bytes>>,
        client_id: Option<HeaderValue>,
    ) {
        let id = self.lock_state().source.id("");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("apim-request-id", id.clone());
            response.headers_mut().insert("x-request-id", id);
        }
        if let Some(client_id) = client_id {
            response
                .headers_mut()
                .insert("x-ms-client-request-id", client_id);
        }
    }

    async fn answer_rest(&self, call: RestCall, body: Incoming) -> Response<Full<Bytes>> {
        if call.endpoint == Endpoint::Calls {
            let id = self.lock_state().source.id("rtc_");
            let mut response =
                text_response(StatusCode::CREATED, "application/sdp", "v=0\r\n".to_owned());
            if let Ok(location) = HeaderValue::from_str(&format!("/v1/realtime/calls/{id}")) {
                response.headers_mut().insert("location", location);
            }
            return response;
        }
        let bytes = match Limited::new(body, MAX_REST_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                return refuse(&Refusal::new(
                    call.provider,
                    413,
                    "413",
                    "The request body is too large.",
                ));
            }
        };
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let Ok(body) = serde_json::from_slice::<Value>(text) else {
            return refuse(&Refusal::new(
                call.provider,
                400,
                "invalid_json",
                "The body is no JSON.",
            ));
        };
        let epoch = self.epoch_now();
        let mut state = self.lock_state();
        match create_key(
            &self.config(),
            call.provider,
            call.endpoint,
            &body,
            &mut state.source,
            epoch,
        ) {
            Ok((reply, key)) => {
                state.keys.retain(|key| key.expires_at > epoch);
                state.keys.push(key);
                text_response(StatusCode::OK, "application/json", reply.to_string())
            }
            Err(error) => {
                let code = error.code.as_deref().unwrap_or("server_error");
                refuse(&Refusal::new(
                    call.provider,
                    400,
                    code,
                    error.message.clone(),
                ))
            }
        }
    }

    fn upgrade(
        self: &Arc<Self>,
        accepted: Accepted,
        asked_faults: Vec<FaultRule>,
        mut request: hyper::Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let now = Instant::now().into_std();
        let provider = accepted.provider;
        let quota = self.quota_of(&accepted.deployment, now);
        if let Mood::Refusing(status) = self.conditions.mood(&accepted.deployment) {
            self.lock_state().n_upgrades += 1;
            return refuse(&Refusal::new(
                provider,
                status,
                &status.to_string(),
                "Refused on demand.",
            ));
        }
        if let Some(status) = self.refusal_fault(&accepted.deployment, &asked_faults) {
            return refuse(
                &Refusal::new(provider, status, &status.to_string(), "Refused on demand.")
                    .after(Duration::from_secs(1)),
            );
        }
        if let Err(exhausted) = quota
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(now)
        {
            let message =
                "Requests have exceeded the rate limit of this deployment. Please retry later.";
            return refuse(
                &Refusal::new(provider, 429, "429", message).after(exhausted.retry_after),
            );
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let key = request
            .headers()
            .get("sec-websocket-key")
            .map_or(&[][..], HeaderValue::as_bytes);
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
            headers.insert("sec-websocket-accept", accept);
        }
        headers.insert("connection", HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        if accepted.select_realtime {
            headers.insert(
                "sec-websocket-protocol",
                HeaderValue::from_static("realtime"),
            );
        }
        let upgraded = hyper::upgrade::on(&mut request);
        let simulator = Arc::clone(self);
        self.tasks.spawn(async move {
            match upgraded.await {
                Ok(io) => {
                    simulator
                        .run(accepted, asked_faults, quota, TokioIo::new(io))
                        .await
                }
                Err(error) => tracing::debug!(%error, "simulator upgrade failed"),
            }
        });
        response
    }

    fn quota_of(&self, deployment: &str, now: std::time::Instant) -> Arc<Mutex<Quota>> {
        let config = self.config();
        let own = config
            .deployments
            .get(deployment)
            .and_then(|deployment| deployment.quota.as_ref());
        let config = own.unwrap_or(&config.quota);
        let mut state = self.lock_state();
        let quota = state
            .quotas
            .entry(deployment.to_owned())
            .or_insert_with(|| Arc::new(Mutex::new(Quota::new(config.clone(), now))));
        Arc::clone(quota)
    }

    fn asked_faults(&self, request: &Request<'_>) -> Vec<FaultRule> {
        if !self.config().allow_fault_header {
            return Vec::new();
        }
        let asked = request
            .header("x-sim-fault")
            .or_else(|| request.query("x-sim-fault"))
            .unwrap_or_default();
        asked.split(',').filter_map(FaultRule::parse).collect()
    }

    /// Counts the upgrade and says whether a fault refuses it.
    fn refusal_fault(&self, deployment: &str, asked: &[FaultRule]) -> Option<u16> {
        let mut state = self.lock_state();
        let n = state.n_upgrades;
        state.n_upgrades += 1;
        let State { source, .. } = &mut *state;
        let config = self.config();
        let configured = config
            .faults
            .iter()
            .filter(|fault| meets(fault, deployment, n, source));
        let all: Vec<_> = asked.iter().chain(configured).collect();
        all.into_iter()
            .find(|fault| fault.kind == FaultKind::Refuse)
            .map(|fault| fault.status.unwrap_or(503))
    }

    async fn run<I>(
        self: Arc<Self>,
        accepted: Accepted,
        mut faults: Vec<FaultRule>,
        quota: Arc<Mutex<Quota>>,
        io: I,
    ) where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let config = self.config();
        let index = {
            let mut state = self.lock_state();
            let index = state.n_sessions;
            state.n_sessions += 1;
            let State { source, .. } = &mut *state;
            faults.extend(
                config
                    .faults
                    .iter()
                    .filter(|fault| meets(fault, &accepted.deployment, index, source))
                    .cloned(),
            );
            index
        };
        let setup = SessionSetup {
            config: Arc::clone(&config),
            shape: accepted.shape,
            provider: accepted.provider,
            kind: accepted.kind,
            first_preview: accepted.first_preview,
            deployment: accepted.deployment,
            model: accepted.model,
            index,
            epoch: self.epoch_now(),
            defaults: accepted.defaults,
            faults,
            fatal: accepted.fatal,
            quota: Some(quota),
            synthesiser: Arc::clone(&self.synthesiser),
            listener: self.listener.clone(),
        };
        // Spreads sessions apart: neighbouring seeds would start neighbouring sequences.
        let seed = config
            .seed
            .wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let session = Session::new(&setup, seed, Instant::now().into_std());
        self.keep_record(session.record());
        let news = self.conditions.watch(&setup.deployment);
        let condition = *news.borrow();
        let connection = Connection {
            condition,
            told: told(news),
            socket,
            session,
            lenient: config.lenient,
            binary_close: config.quirks.binary_frame_close,
            probe: Probe::new(config.probe_after),
            unflushed: false,
            closing: false,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        connection.drive(self.stop.clone()).await;
    }

    fn keep_record(&self, record: Arc<Mutex<SessionRecord>>) {
        let mut state = self.lock_state();
        state.records.push_back(record);
        if state.records.len() > self.config().max_records {
            let finished = |record: &Arc<Mutex<SessionRecord>>| {
                record
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .closed
                    .is_some()
            };
            if let Some(n) = state.records.iter().position(finished) {
                state.records.remove(n);
            }
        }
    }

    fn epoch_now(&self) -> u64 {
        self.epoch + self.started.elapsed().as_secs()
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EphemeralKeys for Simulator {
    /// Compares with every key in full, so that the time taken says nothing about any of them.
    fn grant_of(&self, key: &str) -> Option<Grant> {
        let epoch = self.epoch_now();
        let mut granted = None;
        for known in &self.lock_state().keys {
            let same = bool::from(known.value.as_bytes().ct_eq(key.as_bytes()));
            if same && known.expires_at > epoch {
                granted = Some(known.grant.clone());
            }
        }
        granted
    }
}

fn meets(fault: &FaultRule, deployment: &str, n: u64, source: &mut Source) -> bool {
    fault.first_sessions.is_none_or(|first| n < first)
        && fault.after_sessions.is_none_or(|first| n >= first)
        && fault
            .deployment
            .as_ref()
            .is_none_or(|name| name == deployment)
        && (fault.probability >= 1.0 || source.unit() < fault.probability)
}

/// One WebSocket and its session.
struct Connection<I> {
    /// How the deployment is, and news of that.
    condition: Condition,
    told: Told,
    socket: WebSocketStream<I>,
    session: Session,
    lenient: bool,
    binary_close: u16,
    probe: Probe,
    unflushed: bool,
    /// Our close frame is out; what still comes is read and dropped.
    closing: bool,
    sleep: Pin<Box<Sleep>>,
}

type Told = Pin<Box<dyn Future<Output = watch::Receiver<Condition>> + Send>>;

/// Waits for the next news of a deployment; for ever once the simulator is gone.
fn told(mut condition: watch::Receiver<Condition>) -> Told {
    Box::pin(async move {
        if condition.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        condition
    })
}

enum Event {
    Told(watch::Receiver<Condition>),
    Received(Message),
    Timer,
    Stopped,
    /// The connection is over; a close frame says how.
    Gone(Option<CloseFrame>),
}

impl<I: AsyncRead + AsyncWrite + Unpin> Connection<I> {
    async fn drive(mut self, stop: CancellationToken) {
        let mut stopped = Box::pin(stop.cancelled_owned());
        let mut stopping = false;
        loop {
            self.schedule();
            let event = poll_fn(|cx| {
                if let Poll::Ready(news) = self.told.as_mut().poll(cx) {
                    return Poll::Ready(Event::Told(news));
                }
                if self.condition.mood == Mood::Silent {
                    return Poll::Pending;
                }
                if !stopping && stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Stopped);
                }
                self.poll(cx)
            })
            .await;
            let now = Instant::now().into_std();
            if matches!(event, Event::Received(_)) {
                self.probe.note_heard();
            }
            match event {
                Event::Told(news) => {
                    let before = std::mem::replace(&mut self.condition, *news.borrow());
                    self.told = told(news);
                    match self.condition.blow_since(&before) {
                        None => {}
                        Some(Blow::Cut) => {
                            self.session.end(Output::Abort);
                            return;
                        }
                        Some(Blow::Close(code)) => self.session.close(code, ""),
                    }
                }
                Event::Received(_) if self.closing => {}
                Event::Received(Message::Text(text)) => {
                    self.session.handle_message(text.as_str(), now)
                }
                Event::Received(Message::Binary(bytes)) => match std::str::from_utf8(&bytes) {
                    Ok(text) if self.lenient => self.session.handle_message(text, now),
                    _ => self
                        .session
                        .close(self.binary_close, "binary frames are not supported"),
                },
                Event::Received(Message::Close(frame)) => self.note_close(frame),
                Event::Received(_) => {}
                Event::Timer if self.closing => return,
                Event::Timer => {
                    self.session.handle_timeout(now);
                    match self.probe.due() {
                        None => {}
                        Some(Silence::Ask) => self.ping(),
                        Some(Silence::GiveUp) => return self.note_close(None),
                    }
                }
                Event::Stopped => {
                    stopping = true;
                    self.session.close(1012, "service restart");
                }
                Event::Gone(frame) => return self.note_close(frame),
            }
        }
    }

    fn note_close(&mut self, frame: Option<CloseFrame>) {
        match frame {
            Some(frame) => self
                .session
                .handle_close(frame.code.into(), frame.reason.as_str()),
            None => self.session.handle_close(1006, ""),
        }
    }

    fn schedule(&mut self) {
        if self.closing {
            return;
        }
        let probe_at = self.probe.at();
        let session_at = self.session.poll_timeout().map(Instant::from_std);
        self.sleep
            .as_mut()
            .reset(session_at.map_or(probe_at, |at| at.min(probe_at)));
    }

    fn ping(&mut self) {
        // What cannot be sent shows when it is flushed.
        if Pin::new(&mut self.socket)
            .start_send(Message::Ping(Bytes::new()))
            .is_ok()
        {
            self.unflushed = true;
        }
    }

    /// Writes what it can, then reports what happened. Never waits for a write: a peer that does not read must
    /// still be heard.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone(None)),
            Poll::Ready(Ok(Written::Aborted)) => return Poll::Ready(Event::Gone(None)),
            Poll::Ready(Ok(Written::All)) | Poll::Pending => {}
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                // Reading may have queued a pong or the answer to a close.
                self.unflushed = true;
                return Poll::Ready(Event::Received(message));
            }
            Poll::Ready(Some(Err(WsError::Capacity(_)))) if !self.closing => {
                self.session.close(1009, "message too big");
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Err(WsError::Utf8(_)))) if !self.closing => {
                self.session.close(1007, "invalid UTF-8");
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Gone(None)),
            Poll::Pending => {}
        }
        self.sleep.as_mut().poll(cx).map(|()| Event::Timer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<Written, WsError>> {
        while !self.closing {
            if Pin::new(&mut self.socket).poll_ready(cx)?.is_pending() {
                return Poll::Pending;
            }
            let message = match self.session.poll_output() {
                None => break,
                Some(Output::Text(text)) => Message::text(text),
                Some(Output::Close { code, reason }) => {
                    self.closing = true;
                    self.sleep.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
                    Message::Close(Some(CloseFrame {
                        code: code.into(),
                        reason: reason.into(),
                    }))
                }
                Some(Output::Abort) => return Poll::Ready(Ok(Written::Aborted)),
            };
            Pin::new(&mut self.socket).start_send(message)?;
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(result) => {
                    result?;
                    self.unflushed = false;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(Written::All))
    }
}

/// Finds peers that are gone without a word: nobody else would notice before the session cap.
struct Probe {
    after: Duration,
    heard_at: Instant,
    asked: bool,
}

enum Silence {
    Ask,
    GiveUp,
}

impl Probe {
    fn new(after: Duration) -> Self {
        Self {
            after,
            heard_at: Instant::now(),
            asked: false,
        }
    }

    fn note_heard(&mut self) {
        self.heard_at = Instant::now();
        self.asked = false;
    }

    fn at(&self) -> Instant {
        self.heard_at
            + if self.asked {
                2 * self.after
            } else {
                self.after
            }
    }

    fn due(&mut self) -> Option<Silence> {
        if Instant::now() < self.at() {
            return None;
        }
        let silence = if self.asked {
            Silence::GiveUp
        } else {
            Silence::Ask
        };
        self.asked = true;
        Some(silence)
    }
}

enum Written {
    All,
    Aborted,
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = text_response(status, "application/json", refusal.body().to_string());
    if let Some(retry_after) = refusal.retry_after {
        let headers = response.headers_mut();
        headers.insert(
            "retry-after",
            HeaderValue::from(retry_after.as_secs_f64().ceil() as u64),
        );
        headers.insert(
            "retry-after-ms",
            HeaderValue::from(retry_after.as_millis() as u64),
        );
    }
    response
}

fn text_response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static(kind));
    response
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (percent_decode(key), percent_decode(value)))
        .collect()
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut n = 0;
    while n < bytes.len() {
        let escaped = bytes
            .get(n + 1..n + 3)
            .filter(|_| bytes[n] == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (escaped, bytes[n]) {
            (Some(byte), _) => {
                decoded.push(byte);
                n += 2;
            }
            (None, b'+') => decoded.push(b' '),
            (None, byte) => decoded.push(byte),
        }
        n += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
