//! What the conformance suite talks to: the gateway's listener, or its upstream client, with an echo behind it.
//!
//! `echo listen` prints a port and answers there until killed. `echo dial PORT N` opens N sessions at that port, some
//! at a time, and ends when all are over.
#![allow(clippy::print_stdout, reason = "the suite reads the port")]

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use trunkline::bridge::echo;
use trunkline::listener::{CallersConfig, echo_connection};
use trunkline::telemetry::Metrics;
use trunkline::transport::Transport;
use trunkline::upstream::{Deployment, Dialer};

/// Sessions at a time: most of a case's time is waiting.
const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["listen"] => listen().await,
        ["dial", port, n] => dial(port, n.parse().expect("a number")).await,
        _ => panic!("usage: echo listen | echo dial PORT N"),
    }
}

async fn listen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("bound").port());
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a TCP socket");
        connections.spawn(echo_connection(
            Transport::Tcp(stream),
            CallersConfig::default(),
        ));
    }
}

async fn dial(port: &str, n: usize) {
    let config = toml::from_str(&format!("url = 'ws://127.0.0.1:{port}'\nmodel = 'echo'"));
    let deployment = Deployment::new("echo", config.expect("a deployment")).expect("a deployment");
    let deployment = Arc::new(deployment);
    let dialer = Arc::new(Dialer::with_roots(
        Metrics::new(),
        rustls::RootCertStore::empty(),
    ));
    let mut sessions = JoinSet::new();
    for _ in 0..n {
        if sessions.len() == AT_ONCE {
            sessions.join_next().await;
        }
        let (dialer, deployment) = (Arc::clone(&dialer), Arc::clone(&deployment));
        sessions.spawn(async move {
            let leg = dialer.dial(&deployment, false).await.expect("a session");
            echo(leg.socket).await;
        });
    }
    while sessions.join_next().await.is_some() {}
}
