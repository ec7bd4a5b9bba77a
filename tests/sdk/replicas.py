"""Two gateway processes, one Redis and one stand-in deployment, each of which can be killed, and calls to them.

Standard library and `websockets` only.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from stack import COMMON, DEPLOYMENT_KEY, Process
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

# Far beyond what any step takes on a machine that does other things besides.
PATIENCE = 60


class Redis:
    """A `redis-server` of the test's own, on a socket in that folder. It keeps nothing on disk."""

    def __init__(self, folder: Path):
        self._socket = folder / "redis"
        self._log = (folder / "redis.log").open("ab")
        self.start()

    @property
    def url(self) -> str:
        return f"redis+unix://{self._socket}"

    def start(self):
        command = shutil.which("redis-server")
        assert command, "redis-server is missing: make test installs the Debian package of that name"
        options = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [command, *options], cwd=self._socket.parent, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._connection = None
        wait_until(lambda: self._try("PING") == "PONG", "Redis answers")

    def kill(self):
        if self._connection:
            self._connection.close()
        self._process.kill()
        self._process.wait()

    def close(self):
        self.kill()
        self._log.close()

    def _try(self, *words: str):
        try:
            return self.command(*words)
        except OSError:
            self._connection = None

    def command(self, *words: str):
        """The answer, as texts and numbers and lists of these."""
        if self._connection is None:
            peer = socket.socket(socket.AF_UNIX)
            peer.settimeout(PATIENCE)
            peer.connect(str(self._socket))
            self._connection = peer.makefile("rwb")
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        self._connection.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
        self._connection.flush()
        return self._answer()

    def _answer(self):
        line = self._connection.readline().rstrip(b"\r\n").decode()
        if not line:
            raise ConnectionError("Redis is gone")
        kind, rest = line[0], line[1:]
        if kind == "-":
            raise AssertionError(rest)
        if kind == "+":
            return rest
        if kind == ":":
            return int(rest)
        if rest == "-1":
            return None
        if kind == "*":
            return [self._answer() for _ in range(int(rest))]
        return self._connection.read(int(rest) + 2)[:-2].decode()

    def now(self) -> int:
        """Its clock, in microseconds."""
        seconds, micros = self.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)

    def leases(self, tenant: str) -> dict[str, int]:
        """The tenant's leases that have not ended, and when they will by that clock."""
        flat = self.command("ZRANGE", f"{{trunkline}}:calls:tenant:{tenant}:calls", "0", "-1", "WITHSCORES")
        ends = {lease: int(end) for lease, end in zip(flat[::2], flat[1::2])}
        now = self.now()
        return {lease: end for lease, end in ends.items() if end > now}

    def tokens_of_day(self, tenant: str) -> float:
        """What was counted of the tenant's tokens."""
        window = self.command("GET", f"{{trunkline}}:window:tenant:{tenant}:tokens-of-day")
        return float(window.split()[1]) if window else 0.0


class Replicas:
    """From `with` to its end. `tenants` are names with their `quota` tables, `deployments` the same."""

    def __init__(self, tenants: dict[str, str], deployments: dict[str, str] | None = None, redis: str = "", more: str = ""):
        self._tenants = tenants
        # Of a deployment without words of its own, more is granted than anybody uses.
        self._deployments = deployments or {"east": ""}
        self._redis_options = redis
        self._more = more
        self.gateways: list[Process] = []
        self.callers: list[str] = []
        self.admin: list[str] = []

    def __enter__(self) -> "Replicas":
        self._undo = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_):
        self._undo.close()

    def _start(self):
        folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="trunkline-replicas-")))
        self.redis = Redis(folder)
        self._undo.callback(self.redis.close)
        (folder / "simulator.toml").write_text(COMMON + '\n[quota]\nrate_limits = "off"\n')
        simulator = self._process(folder, "simulator", "simulate", "--listen", "127.0.0.1:0")
        (folder / "gateway.toml").write_text(self._config(simulator.address("simulator listening")))
        for number in (1, 2):
            self.gateways.append(self._process(folder, "gateway", "serve", log=f"gateway-{number}"))
        self.callers = [it.address("callers") for it in self.gateways]
        self.admin = [it.address("admin") for it in self.gateways]
        for number in (0, 1):
            wait_until(lambda: self.metric(number, 'trunkline_store_up{store="redis"}') == 1, "Redis is connected")

    def _process(self, folder: Path, name: str, *arguments: str, log: str | None = None) -> Process:
        config = str(folder / f"{name}.toml")
        process = Process([*arguments, "--config", config], folder / f"{log or name}.log")
        self._undo.callback(process.stop)
        return process

    def _config(self, simulator: str) -> str:
        parts = [
            '[listener]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"',
            # A busy machine is no reason to refuse, and all callers are at one address.
            '[listener.shed]\nloop_lag = "0s"',
            "[listener.limits]\ncalls_per_second = 0\ncalls_per_second_per_tenant = 0\nconnections_per_source = 0",
            # As short as may be for a heartbeat that is late on a busy machine.
            '[quota]\nheartbeat = "1s"\nlease_life = "5s"',
            # Only where a test is about it may an answer come too late.
            f'[quota.redis]\nurl = "{self.redis.url}"\ndeadline = "5s"\n{self._redis_options}',
            f'[auth]\nmode = "keys"\n[auth.signing]\nsecret = "{"0123456789abcdef" * 4}"',
        ]
        for tenant, quota in self._tenants.items():
            hashed = hashlib.sha256(key(tenant).encode()).hexdigest()
            parts.append(f'[[auth.keys]]\ntenant = "{tenant}"\nsha256 = "{hashed}"')
            parts.append(f"[tenants.{tenant}.quota]\n{quota}")
        for name, quota in self._deployments.items():
            plenty = "tokens_per_minute = 1000000000" if "requests" in quota else PLENTY
            parts.append(
                f'[deployments.{name}]\nurl = "ws://{simulator}"\nkind = "openai"\nmodel = "gpt-realtime"\n'
                f'api_key = "{DEPLOYMENT_KEY}"\n[deployments.{name}.quota]\n{plenty}\n{quota}'
            )
        return "\n\n".join([*parts, self._more]) + "\n"

    def metric(self, number: int, line: str) -> float | None:
        """One value of what gateway `number` measures."""
        with urllib.request.urlopen(f"http://{self.admin[number]}/metrics", timeout=PATIENCE) as reply:
            text = reply.read().decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def post(self, number: int, path: str, tenant: str, body: dict) -> dict:
        """What gateway `number` answers a server of that tenant."""
        request = urllib.request.Request(
            f"http://{self.callers[number]}{path}",
            data=json.dumps(body).encode(),
            headers={"api-key": key(tenant), "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return json.loads(reply.read())

    async def call(self, number: int, tenant: str, model: str = "east", shown: str | None = None) -> "Try":
        """One attempt at gateway `number`, with the tenant's key or with what is `shown`."""
        sent = time.monotonic()
        try:
            socket = await connect(
                f"ws://{self.callers[number]}/v1/realtime?model={model}",
                additional_headers={"Authorization": f"Bearer {shown or key(tenant)}"},
                open_timeout=PATIENCE,
                ping_interval=None,
                compression=None,
                proxy=None,
            )
        except InvalidStatus as refused:
            response = refused.response
            code = json.loads(response.body)["error"]["code"]
            retry_after = response.headers.get("Retry-After")
            return Try(number, sent, time.monotonic(), None, response.status_code, code, retry_after)
        return Try(number, sent, time.monotonic(), socket)

    async def offer(self, n: int, per_second: float, tenant: str, model: str = "east") -> list["Try"]:
        """That many attempts in that rhythm, at both gateways in turn, without waiting for one another."""
        began = time.monotonic()

        async def one(number: int) -> Try:
            await asyncio.sleep(began + number / per_second - time.monotonic())
            return await self.call(number % 2, tenant, model)

        return await asyncio.gather(*(one(number) for number in range(n)))


PLENTY = "tokens_per_minute = 1000000000\nrequests_per_minute = 1000000000"


@dataclass
class Try:
    """An attempt to call: a socket, or how it was refused."""

    number: int
    sent: float
    answered: float
    socket: ClientConnection | None
    status: int = 101
    code: str | None = None
    retry_after: str | None = None

    @property
    def is_in(self) -> bool:
        return self.socket is not None


async def hang_up(tries: list[Try]):
    await asyncio.gather(*(it.socket.close() for it in tries if it.socket))


async def until(socket: ClientConnection, kind: str) -> dict:
    """The next event of that type; an `error` before it fails."""
    while True:
        event = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
        assert event["type"] != "error", event
        if event["type"] == kind:
            return event


async def turn(socket: ClientConnection) -> int:
    """Says something and hears the whole answer; the tokens that it took."""
    content = [{"type": "input_text", "text": "Good morning."}]
    item = {"type": "message", "role": "user", "content": content}
    await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
    await socket.send(json.dumps({"type": "response.create"}))
    response = (await until(socket, "response.done"))["response"]
    assert response["status"] == "completed", response
    return response["usage"]["total_tokens"]


def key(tenant: str) -> str:
    """Invented, and opens nothing else."""
    return f"{tenant}-0123456789abcdef"


def wait_until(is_so, what: str):
    """Waits in a thread that may block."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        threading.Event().wait(0.02)


async def eventually(is_so, what: str):
    """The same where calls go on meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)
