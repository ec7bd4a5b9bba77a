"""Starts what the SDK tests talk to: stand-in deployments and the gateway in front of them.

As a module: `with Stack() as stack`. As a program: prints one JSON line with the addresses and keys, then serves
until its standard input ends; the Node tests use it so. Standard library only.

The gateway's models are named `{shape}-{stand-in}`, so that the name says which shape the deployment speaks: a
client of the other shape that asks for it is translated. `parrot` says back what it heard, `script` calls a
function in its first response and speaks in the second, `faulty` fails to transcribe. `frail` is a pool of two, the
first of which ends its sessions in their first answer.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TRUNKLINE_BIN") or str(
    ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "trunkline"
)
# What starts within this time on an idle machine takes far longer on a busy one.
START_SECONDS = 30

# Both are invented for this run of tests and open nothing else.
DEPLOYMENT_KEY = "sim-0123456789abcdef"
CALLER_KEY = "acme-0123456789abcdef"

FUNCTION = "get_weather"
ARGUMENTS = {"city": "Oslo", "unit": "celsius"}

# Four times real time leaves most of a second to interrupt a reply to the longest speech of the tests.
COMMON = f"""
api_keys = ["{DEPLOYMENT_KEY}"]
seed = 7
conversation_created = true

[latency]
first_delta = "100ms"
speed = 4.0

[transcription]
min_delay = "20ms"
max_delay = "200ms"
"""

SIMULATORS = {
    "parrot": COMMON,
    "script": COMMON
    + f"""
[reply]
mode = "script"

[[reply.turns]]
calls = [{{ name = "{FUNCTION}", arguments = '{json.dumps(ARGUMENTS)}' }}]

[[reply.turns]]
say = "It is four degrees in Oslo, with rain."
""",
    "faulty": COMMON
    + """
[[faults]]
kind = "failed_transcription"
""",
    "frail": COMMON
    + """
[reply]
mode = "script"

[[reply.turns]]
say = "This answer is long enough to be broken off before its end comes near."

[[faults]]
kind = "close"
deployment = "breaks"
after_deltas = 12
""",
}


def gateway_config(simulators: dict[str, str], more: str = "") -> str:
    parts = [
        '[listener]\naddress = "127.0.0.1:0"',
        # A busy machine is no reason to refuse a test.
        '[listener.shed]\nloop_lag = "0s"',
        '[admin]\naddress = "127.0.0.1:0"',
        '[auth]\nmode = "keys"',
        f'[[auth.keys]]\ntenant = "acme"\nsha256 = "{hashlib.sha256(CALLER_KEY.encode()).hexdigest()}"',
        "[tenants.acme]",
    ]
    aliases = ["[models]"]
    for name, address in simulators.items():
        # Each vendor's paths and credentials are used by one stand-in at least.
        kind = "openai" if name == "script" else "azure"
        for shape in ("ga", "preview"):
            alias = f"{shape}-{name}"
            models = {alias: "gpt-realtime"}
            if name == "frail":
                models = {f"{alias}-1": "breaks", f"{alias}-2": "gpt-realtime"}
                members = ", ".join(
                    f'{{ name = "{member}", priority = {priority} }}' for priority, member in enumerate(models)
                )
                parts.append(f"[pools.{alias}]\ndeployments = [{members}]")
            for deployment, model in models.items():
                parts.append(
                    f'[deployments.{deployment}]\nurl = "ws://{address}"\nkind = "{kind}"\nshape = "{shape}"\n'
                    f'model = "{model}"\napi_key = "{DEPLOYMENT_KEY}"'
                )
            aliases.append(f'"{alias}" = "{alias}"')
    return "\n\n".join([*parts, "\n".join(aliases), more]) + "\n"


class Process:
    """A running `trunkline`; its standard output is read for the addresses that it says it listens on."""

    def __init__(self, arguments: list[str], log: Path):
        self.log = log
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._stderr = log.open("wb")
        self._process = subprocess.Popen(
            [BINARY, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def address(self, label: str) -> str:
        """The `host:port` behind `{label} on http://`, or `{label} on`."""
        pattern = re.compile(re.escape(label) + r" on (?:https?://)?([\d.]+:\d+)")
        deadline = time.monotonic() + START_SECONDS
        with self._news:
            while True:
                for line in self.lines:
                    if found := pattern.search(line):
                        return found[1]
                if self._process.poll() is not None or time.monotonic() > deadline:
                    break
                self._news.wait(timeout=0.2)
        self.stop()
        raise RuntimeError(f"`{label}` was never said to listen:\n{self.tail()}")

    def tail(self) -> str:
        stderr = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["stdout:", *self.lines[-20:], "stderr:", *stderr[-20:]])

    def kill(self):
        """Ends it as kill -9 does: it has no time for anything."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._stderr.close()


class Stack:
    """The stand-ins and the gateway, from `with` to its end."""

    def __init__(self, gateway: bool = True, more: str = "", simulators: dict[str, str] | None = None):
        self._with_gateway = gateway
        # Configurations of the stand-ins by name.
        self._configs = simulators or SIMULATORS
        # Further tables of the gateway's configuration.
        self._more = more
        self._processes: list[Process] = []
        self.simulators: dict[str, str] = {}
        self.gateway: str | None = None
        self.admin: str | None = None

    def __enter__(self) -> "Stack":
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-sdk-")
        try:
            for name, config in self._configs.items():
                process = self.start(["simulate", "--listen", "127.0.0.1:0"], name, config)
                self.simulators[name] = process.address("simulator listening")
            if self._with_gateway:
                process = self.start(["serve"], "gateway", gateway_config(self.simulators, self._more))
                self.gateway = process.address("callers")
                self.admin = process.address("admin")
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, arguments: list[str], name: str, config: str) -> Process:
        """Starts one more `trunkline`, which ends with the rest."""
        path = Path(self._folder.name) / f"{name}.toml"
        path.write_text(config)
        log = self.log(name)
        process = Process([*arguments, "--config", str(path)], log)
        self._processes.append(process)
        return process

    def log(self, name: str) -> Path:
        """What that process wrote to its standard error."""
        return Path(self._folder.name) / f"{name}.log"

    def __exit__(self, *_):
        for process in reversed(self._processes):
            process.stop()
        self._folder.cleanup()

    def target(self, name: str, client_shape: str, stand_in: str) -> dict[str, str]:
        """Where a client of that shape reaches the stand-in: `direct`, or through the gateway `same`/`crossed`."""
        if name == "direct":
            return {
                "address": self.simulators[stand_in],
                "model": "gpt-realtime",
                "key": DEPLOYMENT_KEY,
            }
        other = {"ga": "preview", "preview": "ga"}[client_shape]
        shape = client_shape if name == "same" else other
        return {"address": self.gateway, "model": f"{shape}-{stand_in}", "key": CALLER_KEY}


def targets() -> list[str]:
    """Which of the three to test; `TRUNKLINE_SDK_TARGETS=direct` leaves the gateway out."""
    return os.environ.get("TRUNKLINE_SDK_TARGETS", "direct,same,crossed").split(",")


def main():
    with Stack(gateway=targets() != ["direct"]) as stack:
        shapes = ("ga", "preview")
        print(
            json.dumps(
                {
                    "targets": {
                        f"{target}/{shape}/{stand_in}": stack.target(target, shape, stand_in)
                        for target in targets()
                        for shape in shapes
                        for stand_in in SIMULATORS
                    },
                    "names": targets(),
                    "function": FUNCTION,
                    "arguments": ARGUMENTS,
                }
            ),
            flush=True,
        )
        sys.stdin.read()


if __name__ == "__main__":
    main()
