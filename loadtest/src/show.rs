//! How a run is shown while it goes on: on the terminal, in plain lines, and to Prometheus.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trunkline_loadtest::report::{Before, RunReport, live_line, live_view, to_prometheus};
use trunkline_loadtest::run::Run;

/// To whom a run is shown.
#[derive(Args, Default)]
pub(crate) struct Show {
    /// Say nothing while the run goes on
    #[arg(long)]
    quiet: bool,

    /// Let Prometheus read how the run goes, at this address, while it lasts
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
}

/// To whom the metrics of a report are sent.
#[derive(Args, Default)]
pub(crate) struct Push {
    /// Send the metrics of the report to this Pushgateway in the end (http://HOST:PORT; the job is trunkline_loadtest
    /// unless a path names another)
    #[arg(long, value_name = "URL", value_parser = pushgateway)]
    push: Option<Uri>,
}

/// How long a Pushgateway, or who asks for metrics, may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request or an answer that are looked at.
const MAX_HEAD: u64 = 8 * 1024;

/// Where nothing can be drawn, a line comes so often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl Show {
    /// On the terminal alone.
    pub(crate) fn live() -> Self {
        Self::default()
    }

    /// Where metrics are to be had, if anywhere.
    pub(crate) async fn metrics_listener(&self) -> Result<Option<TcpListener>, String> {
        let Some(address) = self.metrics_listen else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address).await;
        listener
            .map(Some)
            .map_err(|error| format!("--metrics-listen {address}: {error}"))
    }

    pub(crate) fn screen(&self) -> Screen {
        Screen {
            is_quiet: self.quiet,
            is_terminal: std::io::stderr().is_terminal(),
            n_lines: 0,
            before: Before::default(),
            said_at: Duration::ZERO,
        }
    }
}

impl Push {
    /// Sends what was found to the Pushgateway, if there is to be one.
    pub(crate) async fn push(&self, report: &RunReport) -> Result<(), String> {
        let Some(uri) = &self.push else { return Ok(()) };
        let pushed = timeout(EXCHANGE_TIMEOUT, put(uri, &to_prometheus(report, 0))).await;
        pushed
            .unwrap_or_else(|_| Err("no answer".to_owned()))
            .map_err(|error| format!("--push {uri}: {error}"))
    }
}

fn pushgateway(text: &str) -> Result<Uri, String> {
    let uri: Uri = text
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err("an address of the form http://HOST:PORT is needed".to_owned());
    }
    Ok(uri)
}

async fn put(uri: &Uri, body: &str) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let path = match uri.path() {
        "" | "/" => "/metrics/job/trunkline_loadtest",
        path => path,
    };
    let address = (host.trim_matches(['[', ']']), port);
    let mut stream = TcpStream::connect(address).await.map_err(said)?;
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let head = read_head(&mut stream).await.map_err(said)?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        return Ok(());
    }
    let line: String = head
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect();
    Err(format!("answered {:?}", line))
}

/// Answers whoever asks for metrics, until it is told to stop.
pub(crate) async fn expose(listener: TcpListener, run: Run, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        // One at a time: nobody but Prometheus asks, and what it asks for costs little.
        let _ = timeout(EXCHANGE_TIMEOUT, answer(stream, &run)).await;
    }
}

async fn answer(mut stream: TcpStream, run: &Run) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let mut words = head.split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (Some("GET"), "/metrics") => {
            let now = run.so_far();
            ("200 OK", to_prometheus(&now.report, now.live))
        }
        (Some("GET"), _) => ("404 Not Found", "it is at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What stands before the empty line, or what came before the far end closed.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut stream = stream.take(MAX_HEAD);
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Where a run is shown to whoever started it.
pub(crate) struct Screen {
    is_quiet: bool,
    is_terminal: bool,
    /// Drawn last time.
    n_lines: usize,
    before: Before,
    said_at: Duration,
}

impl Screen {
    /// To be called once a second. A terminal that has gone is no reason to fail.
    pub(crate) fn draw(&mut self, run: &Run) {
        if self.is_quiet {
            return;
        }
        let now = run.so_far();
        if !self.is_terminal {
            if now.elapsed >= self.said_at + PLAIN_EVERY {
                self.said_at = now.elapsed;
                let _ = writeln!(std::io::stderr(), "{}", live_line(&now));
            }
            return;
        }
        let (text, before) = live_view(&now, self.before);
        self.before = before;
        self.clear();
        self.n_lines = text.lines().count();
        // Without wrapping, a line of text is a line of the screen, however narrow it is.
        let _ = write!(std::io::stderr(), "\x1b[?7l{text}\x1b[?7h");
        let _ = std::io::stderr().flush();
    }

    /// Takes away what was drawn.
    pub(crate) fn clear(&mut self) {
        if self.n_lines > 0 {
            let _ = write!(std::io::stderr(), "\x1b[{}A\x1b[0J", self.n_lines);
            self.n_lines = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::task::TaskTracker;
    use trunkline::simulator::phone_dial::Dialer;
    use trunkline_loadtest::run::Part;
    use trunkline_loadtest::scenario::Scenario;

    use super::*;

    #[tokio::test]
    async fn metrics_are_read() {
        let scenario = Scenario::parse("[target]\nurl = 'ws://127.0.0.1:1/twilio'").unwrap();
        let lines = Arc::new(Dialer::new(None).unwrap());
        let run = Run::new(scenario, Part::default(), lines, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(expose(listener, run.clone(), stop.clone()));
        let ask = async |request: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        };
        let metrics = ask("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("\ntrunkline_loadtest_calls_live 0\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").await.contains(" 404 "));
        assert!(
            ask("POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .contains(" 405 ")
        );

        let refused = pushing_to(address, "").push(&RunReport::default()).await;
        assert!(refused.unwrap_err().contains("405"));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn metrics_are_pushed() {
        assert!(pushgateway("https://a").is_err() && pushgateway("a").is_err());
        for (path, expected) in [
            ("", "PUT /metrics/job/trunkline_loadtest HTTP/1.1\r\n"),
            ("/metrics/job/x", "PUT /metrics/job/x HTTP/1.1\r\n"),
        ] {
            let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let push = pushing_to(gateway.local_addr().unwrap(), path);
            let taking = async {
                let (mut stream, _) = gateway.accept().await.unwrap();
                let head = read_head(&mut stream).await.unwrap();
                let answer = b"HTTP/1.1 202 Accepted\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                head
            };
            let report = RunReport::default();
            let (head, pushed) = tokio::join!(taking, push.push(&report));
            assert_eq!(pushed, Ok(()));
            assert!(head.starts_with(expected), "{head}");
        }
    }

    fn pushing_to(address: SocketAddr, path: &str) -> Push {
        Push {
            push: Some(pushgateway(&format!("http://{address}{path}")).unwrap()),
        }
    }
}
