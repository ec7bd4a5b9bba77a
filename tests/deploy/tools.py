"""Where the programs are that the tests run, and what deploy/ holds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "trunkline"
BINARY = Path(
    os.environ.get("TRUNKLINE_BIN") or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "trunkline"
)
LOADTEST = BINARY.with_name(f"{BINARY.name}-loadtest")
# As their distribution packages them, unpacked by tests/tools/prometheus.sh.
PROMETHEUS = ROOT / ".deploy" / "prometheus" / "root" / "usr" / "bin" / "prometheus"
PROMTOOL = PROMETHEUS.with_name("promtool")
# The same, by tests/tools/haproxy.sh, with the libraries that it runs with.
HAPROXY = ROOT / ".deploy" / "haproxy" / "root" / "usr" / "sbin" / "haproxy"
HAPROXY_LIBRARIES = ROOT / ".deploy" / "haproxy" / "lib"
# Programs of the same Python environment.
BIN = Path(sys.executable).parent

# What the environment says of clouds and registries is not for the tools.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("BC_", "AZURE_", "TRUNKLINE_"))}


def run(*command, cwd=ROOT, env=None):
    """The finished process, both its outputs as one text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
    )


def check(*command, **how):
    """The output of a program that must succeed."""
    done = run(*command, **how)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
