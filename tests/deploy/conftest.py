"""A gateway that had calls, and a Prometheus that looked at it; each started once for the run."""

import pytest

from live import Demo, Prometheus
from tools import BINARY, PROMETHEUS


@pytest.fixture(scope="session")
def demo():
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built")
    with Demo() as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(demo):
    if not PROMETHEUS.exists():
        pytest.skip("no Prometheus was to be had here: see tests/tools/prometheus.sh")
    with Prometheus(demo) as running:
        yield running
