"""Three gateways are replaced one after the other behind a real HAProxy while calls come and go: none is refused, none cut.

HAProxy runs with deploy/haproxy/haproxy.cfg, of which only addresses and what needs root are changed. Nothing is timed: each
step waits until the one before it can be seen from outside.
"""

import json
import random
import re
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from live import DEPLOYMENT_KEY, GENEROUS_SIMULATOR, PATIENCE_SECONDS, Output, get
from tools import BINARY, DEPLOY, HAPROXY, HAPROXY_LIBRARIES, LOADTEST

ROUNDS = 5
GATEWAYS = (1, 2, 3)

# Calls at a time. Two cores bear them with debug builds, and four busy loops beside them.
CALLS = 200

GATEWAY = """
[listener]
address = "127.0.0.1:CALLERS"
trusted_proxies = ["127.0.0.1/32"]

# A busy machine is no reason to refuse a test.
[listener.shed]
loop_lag = "0s"

# All callers are on this machine.
[listener.limits]
connections_per_source = 0
calls_per_second = 0

[admin]
address = "127.0.0.1:ADMIN"

[auth]
mode = "none"

[deployments.simulator]
url = "ws://SIMULATOR"
model = "gpt-realtime"
api_key = "KEY"
quota = { requests_per_minute = 1000000, tokens_per_minute = 1000000000 }
timeouts = { connect = "60s", upgrade = "60s", session = "60s" }

[pools.patient]
deployments = ["simulator"]
timeout = "60s"

[agents.desk]
deployment = "patient"
session = { instructions = "Be brief.", turn_detection = { type = "server_vad", silence_duration = "300ms" } }
timeouts = { start = "60s", model_event = "120s" }

[drain]
grace = "5m"
"""

SCENARIO = """
seed = 7

[target]
url = "ws://ADDRESS/twilio/media/desk"

[arrivals]
process = "hold"
calls = CALLS
over = "3s"

# The test says when it is enough.
[limits]
calls = 100000
time = "10m"

[call]
turns = [1, 2]
talk = ["300ms", "1s"]
before = ["100ms", "2s"]
think = ["100ms", "1s"]
patience = "3m"
"""


@pytest.fixture
def site():
    if not HAPROXY.exists():
        pytest.skip("no HAProxy was to be had here: see tests/tools/haproxy.sh")
    for program in (BINARY, LOADTEST):
        if not program.exists():
            pytest.fail(f"{program} is not built")
    with Site() as site:
        yield site


def test_gateways_are_replaced_and_no_call_notices(site):
    load = site.load(CALLS)
    for _ in range(ROUNDS):
        old = []
        for number in GATEWAYS:
            new = site.start(number)
            old.append(site.replace(number, new))
        for gateway in old:
            assert gateway.end() == 0, gateway.process.text()
    report = load.end()
    assert_nobody_noticed(report, CALLS)
    assert_callers_ended_their_calls(site.gateways)
    assert len(site.gateways) == len(GATEWAYS) * (ROUNDS + 1)


def test_calls_go_elsewhere_while_haproxy_has_not_noticed(site):
    """The gateway goes, and no health check says so: 503 while it drains, refused connections afterwards."""
    load = site.load(12)
    gateway = site.running[1]
    site.command(f"disable health gateways/{gateway.place}")
    gateway.drain()
    assert gateway.end() == 0, gateway.process.text()
    while_draining = site.redispatched(gateway.place)
    assert while_draining > 0
    site.wait_until(lambda: site.redispatched(gateway.place) > while_draining + 3)
    assert_nobody_noticed(load.end(), 12)
    assert_callers_ended_their_calls(site.gateways)


def test_webhooks_go_elsewhere_while_haproxy_has_not_noticed(site):
    """A gateway that drains refuses them with 503, as it does calls; HAProxy posts them to another."""
    load = site.load(12)
    gateway = site.running[1]
    site.command(f"disable health gateways/{gateway.place}")
    # It is the one that HAProxy likes best.
    for other in site.running.values():
        site.command(f"set server gateways/{other.place} weight {256 if other is gateway else 1}")
    assert gateway.drain() > 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        webhook(gateway.callers)
    assert (refused.value.code, refused.value.headers["x-trunkline-error"]) == (503, "draining")
    before = site.redispatched(gateway.place)
    answers = [webhook(site.address) for _ in range(12)]
    assert all("<Connect>" in answer for answer in answers), answers
    assert site.redispatched(gateway.place) >= before + 12
    assert gateway.end() == 0, gateway.process.text()
    assert_nobody_noticed(load.end(), 12)


def webhook(address):
    form = f"CallSid=CA{'0' * 32}&AccountSid=AC{'0' * 32}".encode()
    return get(urllib.request.Request(f"http://{address}/twilio/voice/desk", data=form))


def assert_nobody_noticed(report, calls):
    counts = report["counts"]
    assert report["errors"] == {}
    assert (counts["refused"], counts["failed"]) == (0, 0)
    assert counts["completed"] == counts["begun"] > calls
    assert counts["most_live"] == calls


def assert_callers_ended_their_calls(gateways):
    for gateway in gateways:
        reasons = gateway.end_reasons()
        assert reasons <= {"caller_hangup"}, f"{gateway.place}: {reasons}"


class Site:
    """A deployment, three gateways on it, HAProxy before them."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-rolling-")
        self.folder = Path(self._folder.name)
        self._processes = []
        # Every gateway there was, and by number those that take calls.
        self.gateways = []
        self.running = {}
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        (self.folder / "simulator.toml").write_text(GENEROUS_SIMULATOR)
        options = ["--listen", "127.0.0.1:0", "--config", self.folder / "simulator.toml"]
        simulator = self.run("simulator", BINARY, "simulate", *options)
        self.simulator = simulator.wait_for(r"listening on http://([\d.]+:\d+)")
        self._ports = {f"gateway{number}{side}": (port(), port()) for number in GATEWAYS for side in "ab"}
        self._socket = self.folder / "haproxy.sock"
        self.address = f"127.0.0.1:{port()}"
        (self.folder / "haproxy.cfg").write_text(self._haproxy())
        libraries = {"LD_LIBRARY_PATH": str(HAPROXY_LIBRARIES)}
        self._proxy = self.run("haproxy", HAPROXY, "-db", "-f", self.folder / "haproxy.cfg", env=libraries)
        self.wait_until(self._socket.exists)
        # Each is believed to be there until it was asked.
        for place in self._ports:
            self.wait_for(place, "DOWN")
        for number in GATEWAYS:
            self.running[number] = self.start(number)

    def _haproxy(self):
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
        for what, instead in {
            "log /dev/log local0": "log stdout format raw local0",
            "user haproxy\n": "\n",
            "group haproxy\n": "\n",
            # Two files for each call, of the 1,024 that every machine lets it open.
            "maxconn 20000": "maxconn 500",
            "/run/haproxy/admin.sock": str(self._socket),
            "bind :8080": f"bind {self.address}",
        }.items():
            assert text.count(what) == 1, what
            text = text.replace(what, instead)
        text, n_places = re.subn(r"server (\w+) \S+ check port \d+", self._place, text)
        assert n_places == len(self._ports)
        return text

    def _place(self, found):
        callers, admin = self._ports[found[1]]
        return f"server {found[1]} 127.0.0.1:{callers} check port {admin}"

    def run(self, name, *command, env=None):
        process = Output(name, command, env)
        self._processes.append(process)
        return process

    def start(self, number):
        """A gateway in the empty place of this number, once HAProxy sends calls there."""
        before = self.running.get(number)
        place = f"gateway{number}{'b' if before and before.place.endswith('a') else 'a'}"
        callers, admin = self._ports[place]
        text = GATEWAY.replace("CALLERS", str(callers)).replace("ADMIN", str(admin))
        text = text.replace("SIMULATOR", self.simulator).replace("KEY", DEPLOYMENT_KEY)
        config = self.folder / f"{place}.toml"
        config.write_text(text)
        serving = self.run(place, BINARY, "serve", "--config", config)
        gateway = Gateway(place, serving, f"127.0.0.1:{callers}", f"127.0.0.1:{admin}")
        self.gateways.append(gateway)
        self.wait_for(place, "UP")
        return gateway

    def replace(self, number, new):
        """The old one, which was told to go, and which HAProxy sends no calls to any more."""
        old = self.running[number]
        self.running[number] = new
        assert old.drain() > 0, f"{old.place} had no calls to finish"
        self.wait_for(old.place, "DOWN")
        return old

    def load(self, calls):
        load = Load(self, calls)
        self.wait_until(lambda: int(self.places()["BACKEND"]["scur"]) >= calls)
        return load

    def wait_for(self, place, status):
        self.wait_until(lambda: self.status(place) == status)

    def wait_until(self, is_so):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            in_time = self._proxy.is_running() and time.monotonic() < deadline
            assert in_time, f"it never came to pass; HAProxy said:\n{self._proxy.text()}"
            time.sleep(0.1)

    def status(self, place):
        """`UP 1/2` is on its way down, or the other way round: the state until then."""
        return self.places()[place]["status"].split()[0]

    def redispatched(self, place):
        """Calls that were sent elsewhere after this place did not take them."""
        return int(self.places()[place]["wredis"])

    def places(self):
        header, *rows = self.command("show stat").removeprefix("# ").splitlines()
        rows = [dict(zip(header.split(","), row.split(","))) for row in rows if row]
        return {row["svname"]: row for row in rows if row["pxname"] == "gateways"}

    def command(self, text):
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.settimeout(PATIENCE_SECONDS)
            runtime.connect(str(self._socket))
            runtime.sendall(f"{text}\n".encode())
            return b"".join(iter(lambda: runtime.recv(65536), b"")).decode()

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.stop()
        self._folder.cleanup()


class Gateway:
    def __init__(self, place, process, callers, admin):
        self.place = place
        self.process = process
        self.callers = callers
        self._admin = admin

    def drain(self):
        """How many calls it had when it was told to go."""
        self.process.tell(signal.SIGTERM)
        calls = self.process.wait_for(r'"message":"draining".*"calls":(\d+)')
        # The last of its calls may have ended in between.
        assert self._ready() in (503, None)
        return int(calls)

    def _ready(self):
        try:
            get(f"http://{self._admin}/readyz")
            return 200
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def end(self):
        return self.process.wait()

    def end_reasons(self):
        ended = [json.loads(line) for line in self.process.lines() if '"call ended"' in line]
        assert ended, f"nobody called {self.place}"
        return {line["end_reason"] for line in ended}


class Load:
    """Callers who call again when their calls are over."""

    def __init__(self, site, calls):
        self._report = site.folder / "report.json"
        scenario = site.folder / "scenario.toml"
        scenario.write_text(SCENARIO.replace("ADDRESS", site.address).replace("CALLS", str(calls)))
        self._process = site.run("load", LOADTEST, "run", scenario, "--out", self._report)

    def end(self):
        """Its report; the callers hang up."""
        self._process.tell(signal.SIGINT)
        ended = self._process.wait()
        assert ended == 0, self._process.text()
        return json.loads(self._report.read_text())


def port():
    """None that an outgoing connection may be given while nobody listens there."""
    while True:
        with socket.socket() as bound:
            try:
                bound.bind(("127.0.0.1", random.randrange(20000, 32000)))
            except OSError:
                continue
            return bound.getsockname()[1]
