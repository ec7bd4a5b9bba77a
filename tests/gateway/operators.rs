//! The operators' listener: who may read what, and how many at a time. On real sockets, because it has no others.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::control_client::Control;

impl Control {
    async fn get(&self, path: &str, more: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }
}

#[tokio::test]
async fn metrics_ask_for_a_token_and_probes_do_not() {
    let operators = Control::new("token = 'operators-only'").await;
    for (path, more, status) in [
        ("/livez", "", 200),
        ("/readyz", "", 200),
        ("/metrics", "", 401),
        ("/elsewhere", "", 401),
        ("/metrics", "Authorization: Bearer operators-onl\r\n", 401),
        ("/metrics", "Authorization: Bearer operators-only\r\n", 200),
        (
            "/elsewhere",
            "Authorization: Bearer operators-only\r\n",
            404,
        ),
    ] {
        let answer = operators.get(path, more).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{path} {more}: {answer}");
        let head = answer.split("\r\n\r\n").next().expect("a head");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(!head.contains("server:"), "{head}");
        // Only who may read the metrics learns which release it is.
        let is_told = answer.contains(env!("CARGO_PKG_VERSION"));
        assert_eq!(is_told, path == "/metrics" && status == 200, "{answer}");
        assert_eq!(head.contains("www-authenticate: Bearer"), status == 401);
    }
    operators.close().await;
    let operators = Control::new("").await;
    let answer = operators.get("/metrics", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    operators.close().await;
}

#[tokio::test]
async fn the_oldest_operator_makes_room() {
    let operators = Control::new("").await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(
            TcpStream::connect(operators.address)
                .await
                .expect("connected"),
        );
    }
    let mut beyond = TcpStream::connect(operators.address)
        .await
        .expect("connected");
    assert_eq!(held[0].read(&mut [0]).await.expect("closed"), 0);
    beyond
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("written");
    let mut answer = [0; 12];
    beyond.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    drop(held);
    operators.close().await;
}

#[tokio::test]
async fn fifty_scrapers_that_do_not_read_keep_nobody_out() {
    let operators = Control::new("").await;
    let mut hung = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(operators.address)
            .await
            .expect("connected");
        // Of these, more is answered than buffers hold.
        let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
        stream
            .write_all(requests.as_bytes())
            .await
            .expect("written");
        hung.push(stream);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = operators.get(path, "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    drop(hung);
    operators.close().await;
}
