"""A log that cannot be written: calls go on, what is lost is counted, and the process still ends as it should."""

import os
import re
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from stack import BINARY, CALLER_KEY, Stack, gateway_config
from test_process import get, wait_for

LOADTEST = str(Path(BINARY).with_name("trunkline-loadtest"))
MORE = """
[agents.desk]
deployment = "ga-parrot"
[agents.desk.session.turn_detection]
type = "server_vad"
silence_duration = "300ms"
[log]
filter = "trace"
"""


def make_lines(admin: str):
    subprocess.run([BINARY, "calls", "--address", f"http://{admin}"], check=True, capture_output=True, timeout=60)


class Gateway:
    """One whose standard output is read until it says where it listens, and no further."""

    def __init__(self, config: Path, stderr):
        command = [BINARY, "serve", "--config", str(config)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
        self.callers = self.address(b"callers")
        self.admin = self.address(b"admin")

    def address(self, label: bytes) -> str:
        for line in self.process.stdout:
            if found := re.search(rb"^" + label + rb" on http://([\d.:]+)$", line.strip()):
                return found[1].decode()
        raise AssertionError("it ended")

    def n_lost(self) -> int:
        name = "trunkline_log_lines_lost_total "
        lines = get(f"http://{self.admin}/metrics").splitlines()
        return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))

    def is_losing(self) -> bool:
        """Makes some two hundred lines before it looks: what HTTP/2 does is logged frame by frame."""
        make_lines(self.admin)
        return self.n_lost() > 0

    def call(self):
        """One that is answered twice, or this fails."""
        url = f"ws://{self.callers}/v1/audio/desk"
        command = [LOADTEST, "call", url, "--api-key", CALLER_KEY, "--turns", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def gateway(stderr):
    # What is in the environment would be what is logged.
    assert "TRUNKLINE_LOG" not in os.environ
    with Stack(gateway=False) as stack:
        config = Path(stack._folder.name) / "gateway.toml"
        config.write_text(gateway_config(stack.simulators, MORE))
        gateway = Gateway(config, stderr)
        try:
            yield gateway
        finally:
            gateway.process.kill()
            gateway.process.wait()
            gateway.process.stdout.close()


def test_calls_go_on_while_nobody_reads_the_log():
    # Both into one pipe, which is full when so many lines wait as may.
    with gateway(subprocess.STDOUT) as it:
        wait_for(it.is_losing, seconds=120)
        lost = it.n_lost()
        it.call()
        make_lines(it.admin)
        assert it.n_lost() > lost
        assert it.end() == 0


def test_a_log_that_is_read_again_tells_of_its_gap():
    with gateway(subprocess.STDOUT) as it:
        wait_for(it.is_losing, seconds=120)
        gaps = []

        def read():
            for line in it.process.stdout:
                if b"the log has a gap" in line:
                    gaps.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: it.n_lost() > 0 and gaps, seconds=60)
        assert it.end() == 0
        reader.join()
        assert re.search(rb'"lines":[1-9]', gaps[0])


@pytest.mark.parametrize("what", ["disk full", "closed"])
def test_calls_go_on_while_the_log_cannot_be_written(what):
    if what == "disk full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        unread, stderr = os.pipe()
        os.close(unread)
    with gateway(stderr) as it:
        os.close(stderr)
        # And nobody to read what it prints.
        it.process.stdout.close()
        assert it.is_losing()
        it.call()
        assert it.end() == 0
