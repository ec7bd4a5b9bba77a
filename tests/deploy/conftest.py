"""A gateway that had calls, and a Prometheus that looked at it; each started once for the run."""

import pytest

from live import Gateway, Prometheus
from tools import BINARY, LOADTEST, PROMETHEUS


@pytest.fixture(scope="session")
def gateway():
    for program in (BINARY, LOADTEST):
        if not program.exists():
            pytest.fail(f"{program} is not built")
    with Gateway() as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(gateway):
    if not PROMETHEUS.exists():
        pytest.skip("no Prometheus was to be had here: see tests/tools/prometheus.sh")
    with Prometheus(gateway) as running:
        yield running
