"""The program as its users start it: the demo, a configuration's mistakes, draining, the client of the README."""

import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from stack import BINARY, CALLER_KEY, DEPLOYMENT_KEY, ROOT, Process, Stack
from websockets.sync.client import connect


def test_the_demo_is_heard_both_ways_and_says_so_as_json():
    demo = subprocess.run(
        [BINARY, "demo", "--once", "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    report = json.loads(demo.stdout)
    assert report["heard_both_ways"] is True
    dialects = [call["gateway"]["dialect"] for call in report["calls"]]
    assert dialects == ["twilio", "realtime"]
    for call in report["calls"]:
        gateway = call["gateway"]
        assert gateway["end_reason"] == "caller_hangup"
        assert gateway["barge_ins"] == 1
        assert len(gateway["turns"]) == 3
        assert gateway["tokens"]["total"] > 0
        assert gateway["frame_to_model_ms"]["frames"] > 100


def test_make_demo_prints_one_json_object_and_nothing_else():
    ports = "--listen 127.0.0.1:0 --admin 127.0.0.1:0"
    # As from a shell: below another make it would announce the folders that it enters.
    shell = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    demo = subprocess.run(
        ["make", "demo", f"ARGS=--once --json {ports}"],
        cwd=ROOT,
        env=shell,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert len(demo.stdout.splitlines()) == 1, demo.stdout
    assert json.loads(demo.stdout)["heard_both_ways"] is True


def test_no_key_and_no_word_reaches_the_log_even_when_everything_is_logged(monkeypatch):
    monkeypatch.setenv("TRUNKLINE_LOG", "trace")
    words = "never-to-be-logged"
    with Stack() as stack:
        url = f"ws://{stack.gateway}/openai/v1/realtime?model=ga-parrot"
        for target, headers, subprotocols in (
            (url, {"api-key": CALLER_KEY}, None),
            (url, {"Authorization": f"Bearer {CALLER_KEY}"}, None),
            (f"{url}&api-key={CALLER_KEY}", {}, None),
            (url, {}, ["realtime", f"openai-insecure-api-key.{CALLER_KEY}"]),
        ):
            with connect(target, additional_headers=headers, subprotocols=subprotocols) as socket:
                assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
                session = {"type": "realtime", "instructions": words}
                socket.send(json.dumps({"type": "session.update", "session": session}))
                while json.loads(socket.recv(timeout=20))["type"] != "session.updated":
                    pass
        gateway = stack.log("gateway")
        wait_for(lambda: gateway.read_text().count("call ended") == 4)
        for name in ("gateway", "parrot"):
            log = stack.log(name).read_text()
            for secret in (CALLER_KEY, DEPLOYMENT_KEY, words):
                assert secret not in log, f"in the log of {name}"


class TokenEndpoint(http.server.BaseHTTPRequestHandler):
    """Gives tokens as Entra and App Service do; at first it says no and repeats everything that it was sent."""

    asked: list[str] = []

    def _answer(self, sent: str):
        path = self.path.split("?")[0]
        is_first = path not in self.asked
        self.asked.append(path)
        if is_first:
            status, body = 400, {"error": sent, "error_description": sent, "error_codes": [7000215]}
        else:
            status, body = 200, {
                "access_token": TOKEN,
                "token_type": "Bearer",
                "expires_in": 3600,
                "expires_on": str(int(time.time()) + 3600),
                "resource": "https://cognitiveservices.azure.com",
            }
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["content-length"])).decode())

    def do_GET(self):
        self._answer(self.headers["x-identity-header"])

    def log_message(self, *_):
        pass


TOKEN = "entra-token-0123456789abcdef"
CLIENT_SECRET = "client-secret-0123456789abcdef"
FEDERATED = "federated-0123456789abcdef"
IDENTITY_HEADER = "identity-header-0123456789abcdef"


def test_identities_work_and_none_of_their_secrets_reaches_the_log(monkeypatch, tmp_path):
    endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenEndpoint)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    authority = f"http://127.0.0.1:{endpoint.server_port}"
    (tmp_path / "federated").write_text(FEDERATED)
    for name, value in {
        "TRUNKLINE_LOG": "trace,azure_core=trace,azure_identity=trace,typespec_client_core=trace",
        "ENTRA_SECRET": CLIENT_SECRET,
        # As in App Service and container apps.
        "IDENTITY_ENDPOINT": f"{authority}/msi/token",
        "IDENTITY_HEADER": IDENTITY_HEADER,
        # As the webhook of workload identity sets them.
        "AZURE_TENANT_ID": "tenant-1",
        "AZURE_CLIENT_ID": "client-1",
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "federated"),
        "AZURE_AUTHORITY_HOST": authority,
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "simulator.toml").write_text(f'api_keys = ["none"]\nentra_tokens = ["{TOKEN}"]\n')
    simulate = ["simulate", "--listen", "127.0.0.1:0", "--config", str(tmp_path / "simulator.toml")]
    simulator = Process(simulate, tmp_path / "simulator.log")
    running = [simulator]
    try:
        identities = {
            "secret": 'kind = "client_secret"\ntenant_id = "tenant-2"\nclient_secret_env = "ENTRA_SECRET"',
            "workload": 'kind = "workload_identity"',
            "managed": 'kind = "managed_identity"',
        }
        parts = [
            '[listener]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n[auth]\nmode = "none"'
        ]
        url = f"ws://{simulator.address('simulator listening')}"
        for name, entra in identities.items():
            parts.append(
                f'[deployments.{name}]\nurl = "{url}"\nmodel = "gpt-realtime"\n'
                f'[deployments.{name}.timeouts]\ntoken = "30s"\n[deployments.{name}.entra]\n{entra}'
            )
        (tmp_path / "gateway.toml").write_text("\n".join(parts))
        gateway = Process(["serve", "--config", str(tmp_path / "gateway.toml")], tmp_path / "gateway.log")
        running.append(gateway)
        callers, admin = gateway.address("callers"), gateway.address("admin")
        for name in identities:
            with connect(f"ws://{callers}/openai/v1/realtime?model={name}") as socket:
                assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
        metrics = get(f"http://{admin}/metrics")
        for name in identities:
            for outcome in ("refused", "ok"):
                labels = f'{{identity="{name}",outcome="{outcome}"}}'
                assert f"trunkline_token_refreshes_total{labels} 1" in metrics
    finally:
        for process in reversed(running):
            process.stop()
        endpoint.shutdown()
    paths = ["/msi/token", "/tenant-1/oauth2/v2.0/token", "/tenant-2/oauth2/v2.0/token"]
    assert sorted(TokenEndpoint.asked) == sorted(paths * 2)
    log = (tmp_path / "gateway.log").read_text()
    assert "code 7000215" in log
    for text in (log, metrics, (tmp_path / "simulator.log").read_text()):
        for secret in (TOKEN, CLIENT_SECRET, FEDERATED, IDENTITY_HEADER):
            assert secret not in text


def test_the_example_configuration_is_good_and_mistakes_are_named():
    good = subprocess.run(
        [BINARY, "check", "deploy/trunkline.toml"], cwd=ROOT, capture_output=True, text=True
    )
    assert good.returncode == 0, good.stderr
    assert "warning: line " in good.stderr and "auth.mode: everybody" in good.stderr
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write('[deployments.a]\nurl = "ws://10.0.0.1"\nmodel = "m"\n')
        file.flush()
        bad = subprocess.run([BINARY, "check", file.name], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "line 2: deployments.a.url:" in bad.stderr
    assert "auth.keys" in bad.stderr


def test_sigterm_drains_lets_a_call_finish_and_ends_with_status_0():
    with tempfile.TemporaryDirectory() as folder:
        demo = Process(
            ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], Path(folder) / "log"
        )
        try:
            callers, metrics = how_to_call(demo)
            caller = start_readme_client(callers, folder)
            wait_for(lambda: "trunkline_calls_active{dialect=\"audio\"} 1" in get(metrics))
            demo._process.send_signal(signal.SIGTERM)
            wait_for(lambda: status(metrics.replace("/metrics", "/readyz")) == 503)
            refused = upgrade_status(callers, "/v1/realtime?model=gpt-realtime")
            assert refused == 503
            output, _ = caller.communicate(timeout=60)
            assert caller.returncode == 0, output
            # The whole sentence came back although the process was told to go in the middle of it.
            heard = float(re.search(r"heard ([\d.]+) s", output)[1])
            assert heard > 1.5, output
            assert demo._process.wait(timeout=30) == 0
        finally:
            demo.stop()


def how_to_call(demo: Process) -> tuple[str, str]:
    """The addresses of callers and metrics that a demo prints once its sample calls are over."""
    wait_for(lambda: any("/metrics" in line for line in demo.lines), seconds=120)
    text = "\n".join(demo.lines)
    callers = re.search(r"gateway on ([\d.]+:\d+)", text)[1]
    metrics = re.search(r"(http://[\d.]+:\d+/metrics)", text)[1]
    return callers, metrics


def start_readme_client(callers: str, folder: str) -> subprocess.Popen:
    """Runs the Python client that the README shows, as it stands there."""
    readme = (ROOT / "README.md").read_text()
    client = next(
        code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "import" in code
    )
    script = Path(folder) / "client.py"
    script.write_text(client)
    sound = next((ROOT / "src/simulator/speech").glob("hours*.wav"))
    return subprocess.Popen(
        [sys.executable, str(script), f"ws://{callers}/v1/audio/demo", str(sound)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.05)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return reply.read().decode()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def upgrade_status(address: str, path: str, more: dict[str, str] | None = None) -> int:
    """The status of the answer to a WebSocket's request."""
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request(
        "GET",
        path,
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            **(more or {}),
        },
    )
    with connection.getresponse() as reply:
        return reply.status
