"""Records of calls, as their receivers get them: signatures by Python's own hmac, restarts, logrotate, the log."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import platform
import signal
import threading
import time
from pathlib import Path

import pytest
from stack import CALLER_KEY, Stack
from test_process import status, wait_for
from websockets.sync.client import connect

KEY = b"twenty-four bytes at least, or more"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Collector:
    """A receiver that holds to Standard Webhooks: whoever signs wrongly gets a 401."""

    def __init__(self):
        self.status = 204
        self.headers: dict[str, str] = {}
        # What was taken, and all ids that were tried.
        self.records: list[dict] = []
        self.tried: list[str] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.take(self.headers, body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/calls"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, headers, body: bytes) -> int:
        identity, at = headers["webhook-id"], headers["webhook-timestamp"]
        signed = f"{identity}.{at}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        if not hmac.compare_digest(headers["webhook-signature"], expected) or abs(time.time() - int(at)) > 300:
            return 401
        record = json.loads(body)
        assert record["call_id"] == identity
        self.tried.append(identity)
        if self.status < 300:
            self.records.append(record)
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def webhook(collector: Collector, spool: Path, secret: str = SECRET) -> str:
    return (
        f'[records]\nsink = "webhook"\n[records.webhook]\nurl = "{collector.url}"\nsecret = "{secret}"\n'
        f'spool = {{ directory = "{spool}" }}\n'
    )


def call(stack: Stack):
    """One call of an SDK client."""
    url = f"ws://{stack.gateway}/v1/realtime?model=ga-parrot"
    with connect(url, additional_headers={"api-key": CALLER_KEY}) as socket:
        assert json.loads(socket.recv(timeout=20))["type"] == "session.created"


def spooled(spool: Path) -> list[Path]:
    return sorted(spool.glob("*.json"))


def test_a_signed_record_comes_for_each_call(tmp_path):
    with Collector() as collector, Stack(more=webhook(collector, tmp_path / "spool")) as stack:
        for _ in range(2):
            call(stack)
        wait_for(lambda: len(collector.records) == 2)
        record = collector.records[0]
        assert (record["version"], record["tenant"], record["model"]) == (1, "acme", "ga-parrot")
        assert record["dialect"] == "realtime"
        assert record["replica"] == platform.node()
        assert record["end_reason"] == "caller_hangup"
        assert record["began_at"].endswith("Z") and record["began_at"] <= record["ended_at"]
        assert not {"caller", "parameters", "transcript"} & record.keys()
        assert len({record["call_id"] for record in collector.records}) == 2
        wait_for(lambda: not spooled(tmp_path / "spool"))
        assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
        assert SECRET not in stack.log("gateway").read_text()


def test_a_record_that_is_signed_wrongly_is_refused_and_kept(tmp_path):
    wrong = "whsec_" + base64.b64encode(b"another secret of enough bytes").decode()
    with Collector() as collector, Stack(more=webhook(collector, tmp_path / "spool", wrong)) as stack:
        call(stack)
        wait_for(lambda: spooled(tmp_path / "spool" / "refused"))
        assert collector.records == []
        assert '"status":401' in stack.log("gateway").read_text()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_waits_comes_after_a_restart(tmp_path, end):
    spool = tmp_path / "spool"
    with Collector() as collector:
        collector.status = 503
        with Stack(more=webhook(collector, spool)) as stack:
            call(stack)
            wait_for(lambda: collector.tried)
            getattr(stack._processes[-1], end)()
            assert len(spooled(spool)) == 1
        collector.status = 200
        with Stack(more=webhook(collector, spool)):
            wait_for(lambda: collector.records)
            assert collector.records[0]["call_id"] == collector.tried[0]
            wait_for(lambda: not spooled(spool))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_record_of_a_call_that_a_signal_ends_is_delivered_before_the_exit(tmp_path, sent):
    now = '[drain]\ngrace = "0s"\n'
    with Collector() as collector, Stack(more=webhook(collector, tmp_path / "spool") + now) as stack:
        url = f"ws://{stack.gateway}/v1/realtime?model=ga-parrot"
        with connect(url, additional_headers={"api-key": CALLER_KEY}) as socket:
            assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
            process = stack._processes[-1]._process
            process.send_signal(sent)
            assert process.wait(timeout=20) == 0
        assert [record["end_reason"] for record in collector.records] == ["drained"]
        assert spooled(tmp_path / "spool") == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_calls_at_once_and_loses_no_record(tmp_path, second):
    file = tmp_path / "calls.jsonl"
    long = f'[records]\nsink = "file"\nfile = {{ path = "{file}" }}\n[drain]\ngrace = "1h"\n'
    with Stack(more=long) as stack:
        url = f"ws://{stack.gateway}/v1/realtime?model=ga-parrot"
        with connect(url, additional_headers={"api-key": CALLER_KEY}) as socket:
            assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
            process = stack._processes[-1]._process
            # Neither of these two ends anything.
            for harmless in (signal.SIGPIPE, signal.SIGHUP):
                process.send_signal(harmless)
            assert status(f"http://{stack.admin}/readyz") == 200
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: status(f"http://{stack.admin}/readyz") == 503)
            socket.ping().wait(20)
            process.send_signal(second)
            assert process.wait(timeout=30) == 0
    assert [json.loads(line)["end_reason"] for line in file.read_text().splitlines()] == ["drained"]


def test_a_file_may_be_moved_away(tmp_path):
    file = tmp_path / "calls.jsonl"
    lines = lambda path: path.read_text().splitlines() if path.exists() else []  # noqa: E731
    with Stack(more=f'[records]\nsink = "file"\nfile = {{ path = "{file}" }}\n') as stack:
        call(stack)
        wait_for(lambda: len(lines(file)) == 1)
        file.rename(tmp_path / "calls.jsonl.1")
        stack._processes[-1]._process.send_signal(signal.SIGHUP)
        call(stack)
        wait_for(lambda: len(lines(file)) == 1)
        assert len(lines(tmp_path / "calls.jsonl.1")) == 1
        ids = [json.loads(lines(path)[0])["call_id"] for path in (file, tmp_path / "calls.jsonl.1")]
        assert len(set(ids)) == 2
        assert os.stat(file).st_mode & 0o077 == 0


def test_the_log_has_a_line_for_each_call():
    with Stack(more='[records]\nsink = "log"\n') as stack:
        call(stack)
        log = stack.log("gateway")
        wait_for(lambda: "call record" in log.read_text())
        line = next(line for line in log.read_text().splitlines() if '"call record"' in line)
        entry = json.loads(line)
        fields = entry.get("fields", entry)
        assert json.loads(fields["record"])["call_id"] == fields["call_id"]
