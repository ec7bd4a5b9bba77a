"""What runs for the tests: a gateway with two sample calls, and a Prometheus with the rules of deploy/."""

import json
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tools import BINARY, DEPLOY, ENVIRONMENT, PROMETHEUS

# What takes seconds on an idle machine takes far longer on a busy one.
PATIENCE_SECONDS = 240


class Demo:
    """`trunkline demo`: a gateway on a simulator, from `with` to its end."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [BINARY, "demo", "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{free_port()}"],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        # Said when both calls are over.
        self.admin = self._wait_for(r"curl -s http://([\d.]+:\d+)/metrics")
        return self

    def _read(self):
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()

    def _wait_for(self, pattern):
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while time.monotonic() < deadline and self._process.poll() is None:
                for line in self.lines:
                    if found := re.search(pattern, line):
                        return found[1]
                self._news.wait(timeout=0.5)
        self.__exit__()
        raise RuntimeError("\n".join(["the demo never came so far:", *self.lines[-20:]]))

    def metrics(self):
        return get(f"http://{self.admin}/metrics")

    def __exit__(self, *_):
        stop(self._process)


class Prometheus:
    """Scrapes a gateway every second, by the job name that rules and dashboards ask for."""

    def __init__(self, demo):
        self._target = demo.admin

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
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            answer = json.loads(get(url))
        except urllib.error.HTTPError as error:
            raise ValueError(f"{query}: {error.read().decode(errors='replace')}") from error
        return answer["data"]["result"]

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
