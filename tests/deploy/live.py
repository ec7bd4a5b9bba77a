"""What runs for the tests: a gateway that had calls, and a Prometheus with the rules of deploy/."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tools import BINARY, DEPLOY, ENVIRONMENT, LOADTEST, PROMETHEUS

# What takes seconds on an idle machine takes far longer on a busy one.
PATIENCE_SECONDS = 240


# Invented for this run of tests; they open nothing else.
KEYS = {tenant: f"{tenant}-0123456789abcdef" for tenant in ("acme", "brief", "blocked")}
DEPLOYMENT_KEY = "sim-0123456789abcdef"

SIMULATOR = f"""
api_keys = ["{DEPLOYMENT_KEY}"]
seed = 7

[latency]
first_delta = "100ms"
speed = 4.0
"""

# The same without limits worth speaking of, where quota is not what is looked at.
GENEROUS_SIMULATOR = (
    SIMULATOR
    + """
[quota]
requests_per_minute = 1000000
tokens_per_minute = 1000000000
"""
)

SIMULATORS = {
    # Says back what it heard, breaks off one model's answers, and fails to give another's.
    "parrot": SIMULATOR
    + """
[[faults]]
kind = "close"
deployment = "breaks"
after_deltas = 12

[[faults]]
kind = "failed_response"
deployment = "fails"
""",
    # Asks for a tool, then says something.
    "script": SIMULATOR
    + """
[reply]
mode = "script"
repeat = true

[[reply.turns]]
calls = [{ name = "opening_hours", arguments = "{}" }]

[[reply.turns]]
say = "We are open from nine to five."
""",
}

GATEWAY = """
[listener]
address = "127.0.0.1:0"

# A busy machine is no reason to refuse a test.
[listener.shed]
loop_lag = "0s"

[admin]
address = "127.0.0.1:0"

[records]
sink = "log"

# Nobody listens there.
[traces]
endpoint = "http://127.0.0.1:9/v1/traces"
delay = "100ms"

[auth]
mode = "keys"

[auth.signing]
secret = "0123456789abcdef0123456789abcdef"

[tenants.acme]

[tenants.brief.quota]
max_call = "6s"

[tenants.blocked.quota]
blocked = true

[quota]
admission = "forecast"

[quota.redis]
url = "redis+unix://REDIS"

[prices.gpt-realtime]
input_text = 4.0
input_audio = 32.0
output_text = 16.0
output_audio = 64.0

[deployments.good]
url = "ws://PARROT"
model = "gpt-realtime"
api_key = "KEY"
quota = { requests_per_minute = 1000, tokens_per_minute = 1000000 }

[deployments.breaks]
url = "ws://PARROT"
model = "breaks"
api_key = "KEY"

[deployments.fails]
url = "ws://PARROT"
model = "fails"
api_key = "KEY"

# Nobody listens there.
[deployments.away]
url = "ws://127.0.0.1:9"
model = "gpt-realtime"
api_key = "KEY"

[deployments.script]
url = "ws://SCRIPT"
model = "gpt-realtime"
api_key = "KEY"

[pools.ready]
deployments = ["good"]
standby = { max = 2, min = 1 }

[pools.frail]
deployments = [
    { name = "away", priority = 0 },
    { name = "breaks", priority = 1 },
    { name = "good", priority = 2 },
]

[agents.desk]
deployment = "ready"
session = { instructions = "Be brief.", turn_detection = { type = "server_vad", silence_duration = "300ms" } }

[agents.frail]
deployment = "frail"
session = { instructions = "Be brief.", turn_detection = { type = "server_vad", silence_duration = "300ms" } }

[agents.fails]
deployment = "fails"
session = { instructions = "Be brief.", turn_detection = { type = "server_vad", silence_duration = "300ms" } }

[agents.clerk]
deployment = "script"
webhooks = { opening_hours = { url = "http://127.0.0.1:9/hours", timeout = "1s" } }

[agents.clerk.session]
instructions = "Be brief."
turn_detection = { type = "server_vad", silence_duration = "300ms" }
tools = [{ name = "opening_hours", description = "Of a day.", parameters = { type = "object", properties = {} } }]
"""


class Gateway:
    """A gateway on simulators that had calls of many kinds, good and bad; from `with` to its end."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-deploy-")
        self._processes = []
        try:
            self._start()
            self._hold_calls()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        folder = Path(self._folder.name)
        redis = shutil.which("redis-server")
        assert redis, "redis-server is missing: make test installs the Debian package of that name"
        options = ["--port", "0", "--unixsocket", f"{folder}/redis", "--save", "", "--appendonly", "no", "--dir", folder]
        self._run("redis", redis, *options).wait_for(r"(.*eady to accept connections)")
        text = GATEWAY.replace("REDIS", f"{folder}/redis").replace('"KEY"', f'"{DEPLOYMENT_KEY}"')
        for tenant, key in KEYS.items():
            text += f'[[auth.keys]]\ntenant = "{tenant}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
        for name, config in SIMULATORS.items():
            (folder / f"{name}.toml").write_text(config)
            arguments = ["simulate", "--listen", "127.0.0.1:0", "--config", folder / f"{name}.toml"]
            address = self._run(name, BINARY, *arguments).wait_for(r"listening on http://([\d.]+:\d+)")
            text = text.replace(name.upper(), address)
        (folder / "gateway.toml").write_text(text)
        gateway = self._run("gateway", BINARY, "serve", "--config", folder / "gateway.toml")
        self.callers = gateway.wait_for(r"callers on http://([\d.]+:\d+)")
        self.admin = gateway.wait_for(r"admin on http://([\d.]+:\d+)")

    def _run(self, name, *command, env=None):
        process = Output(name, command, env)
        self._processes.append(process)
        return process

    def _hold_calls(self):
        """At once; those that should succeed must."""
        calls = [
            # Who calls, what, whether somebody is heard.
            ("acme", "/twilio/media/desk", ["--turns", "2", "--barge-in", "600ms"], True),
            ("acme", "/v1/audio/frail", ["--turns", "2"], None),
            ("acme", "/v1/realtime?model=good", ["--turns", "2"], True),
            ("acme", "/v1/audio/clerk", [], None),
            ("acme", "/v1/audio/fails", [], None),
            ("brief", "/v1/audio/desk", ["--turns", "4"], None),
            ("blocked", "/v1/audio/desk", [], False),
            ("nobody", "/v1/audio/desk", [], False),
        ]
        held = []
        for tenant, path, options, is_heard in calls:
            env = {"TRUNKLINE_API_KEY": KEYS.get(tenant, "nobody-knows-this-key")}
            command = [LOADTEST, "call", f"ws://{self.callers}{path}", *options]
            held.append((self._run(f"{tenant} at {path}", *command, env=env), is_heard))
        asked = urllib.request.Request(
            f"http://{self.callers}/v1/tickets",
            data=b'{"agent": "desk", "dialect": "audio"}',
            headers={"api-key": KEYS["acme"]},
        )
        get(asked)
        for call, is_heard in held:
            ended = call.wait()
            assert is_heard is None or (ended == 0) == is_heard, f"{call.name} ended with {ended}:\n{call.text()}"

    def metrics(self):
        return get(f"http://{self.admin}/metrics")

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.stop()
        self._folder.cleanup()


class Output:
    """A process and what it says, on either of its outputs."""

    def __init__(self, name, command, env=None):
        self.name = name
        self._lines = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env={**ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip())
                self._news.notify_all()

    def wait_for(self, pattern, n_lines=1):
        """The first group of the first line that is like that, once there are so many such lines."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while True:
                found = [found for line in self._lines if (found := re.search(pattern, line))]
                if len(found) >= n_lines:
                    return found[0][1]
                if self._process.poll() is not None or time.monotonic() > deadline:
                    break
                self._news.wait(timeout=0.2)
        raise RuntimeError(f"{self.name} never said {pattern}:\n{self.text()}")

    def wait(self):
        """Its status, once it has ended."""
        status = self._process.wait(timeout=PATIENCE_SECONDS)
        self._reader.join(timeout=5)
        return status

    def lines(self):
        with self._news:
            return list(self._lines)

    def text(self):
        return "\n".join(self._lines[-40:])

    def is_running(self):
        return self._process.poll() is None

    def tell(self, signal):
        self._process.send_signal(signal)

    def stop(self):
        stop(self._process)


class Prometheus:
    """Scrapes a gateway every second, by the job name that rules and dashboards ask for."""

    def __init__(self, gateway):
        self._target = gateway.admin

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-prometheus-")
        folder = Path(self._folder.name)
        # Rules every second: what they record is there soon, and stays until the tests are over.
        for rules in DEPLOY.glob("prometheus/*.rules.yaml"):
            text = rules.read_text().replace("interval: 30s", "interval: 1s")
            (folder / rules.name).write_text(text)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{folder}/*.rules.yaml"],
            "scrape_configs": [{"job_name": "trunkline", "static_configs": [{"targets": [self._target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.address = f"127.0.0.1:{free_port()}"
        log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={self.address}",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        # Rates need a few samples, and rules have to have seen them.
        self._wait_for("count_over_time(trunkline_draining[5m]) > 15")
        self._wait_for("job:trunkline_calls_active:sum")
        return self

    def _wait_for(self, query):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self.query(query):
                    return
            except OSError:
                pass
            time.sleep(0.5)
        log = (Path(self._folder.name) / "log").read_text(errors="replace")
        self.__exit__()
        raise RuntimeError(f"Prometheus never answered {query}:\n{log[-4000:]}")

    def query(self, query):
        """The series that it answers with now."""
        return self._get("query", query)["result"]

    def exemplars(self, query):
        """What it keeps of the last hour, by series."""
        now = time.time()
        return self._get("query_exemplars", query, start=now - 3600, end=now + 60)

    def _get(self, what, query, **more):
        url = f"http://{self.address}/api/v1/{what}?" + urllib.parse.urlencode({"query": query, **more})
        try:
            answer = json.loads(get(url))
        except urllib.error.HTTPError as error:
            raise ValueError(f"{query}: {error.read().decode(errors='replace')}") from error
        return answer["data"]

    def __exit__(self, *_):
        stop(self._process)
        self._folder.cleanup()


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def get(url):
    # Nobody's proxy stands between two programs of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as reply:
        return reply.read().decode()


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
