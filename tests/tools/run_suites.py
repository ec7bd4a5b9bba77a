#!/usr/bin/env python3
"""Runs every suite, lets it print as it likes, and ends with counts: `N passed, N failed` is the last line.

A check without counts of its own (format, lints, documentation) counts as one. A suite that ends badly without
having counted a failure (it did not compile, it was killed) counts as one failed. Status 0 only if nothing failed.
Names on the command line choose suites; none means all. Those that only run what has been built, and wait for most of their
time, run at the same time; what each printed comes when it has ended.
"""

import itertools
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
CARGO = os.environ.get("CARGO") or "cargo"


@dataclass
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass
class Suite:
    name: str
    command: list[str]
    # Adds to the counts what one line of output says; none for a check that counts as one.
    count: Callable[[Counts, str], None] | None = None
    env: dict[str, str] | None = None
    # It may run together with others of which this is so.
    beside: bool = False


def count_cargo(counts: Counts, line: str) -> None:
    """`test result: ok. 12 passed; 0 failed; 1 ignored; ...`, once for each test binary."""
    found = re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", line)
    if found:
        counts.passed += int(found[1])
        counts.failed += int(found[2])
        counts.skipped += int(found[3])


def count_pytest(counts: Counts, line: str) -> None:
    """`== 40 passed, 1 failed, 2 skipped, 1 error in 12.3s ==`, with or without the rules at both ends."""
    if not re.match(r"(=+ )?\d+ \w+(, \d+ \w+)* in [\d.]+s", line):
        return
    for number, word in re.findall(r"(\d+) (\w+)", line.split(" in ")[0]):
        if word in ("passed", "xpassed"):
            counts.passed += int(number)
        elif word in ("failed", "error", "errors"):
            counts.failed += int(number)
        elif word in ("skipped", "xfailed", "deselected"):
            counts.skipped += int(number)


def count_node(counts: Counts, line: str) -> None:
    """`# pass 12` from the TAP reporter, with another sign in front from the spec reporter."""
    found = re.match(r"\S (pass|fail|cancelled|skipped|todo) (\d+)$", line)
    if not found:
        return
    number = int(found[2])
    if found[1] == "pass":
        counts.passed += number
    elif found[1] in ("fail", "cancelled"):
        counts.failed += number
    else:
        counts.skipped += number


# Of tests/sdk, what the gateway does as a process: half of the time, most of it waiting.
PROCESS_TESTS = [
    f"tests/sdk/test_{name}.py"
    for name in ("asterisk", "control", "log", "ops_page", "process", "records", "reload", "replicas", "traces")
]


def suites() -> list[Suite]:
    node_tests = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/sdk/*.test.mjs"))
    return [
        Suite("format", [CARGO, "fmt", "--all", "--check"]),
        Suite("lints", [CARGO, "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Suite(
            "documentation",
            [CARGO, "doc", "--no-deps", "--workspace"],
            env={"RUSTDOCFLAGS": "-D warnings"},
        ),
        Suite("rust", [CARGO, "test", "--workspace", "--no-fail-fast"], count_cargo),
        # With the tests' targets and so their features: without, half of the dependencies would be built once more.
        Suite("build", [CARGO, "build", "--workspace", "--all-targets"]),
        Suite(
            "openai-python",
            [".venv/bin/python", "-m", "pytest", "tests/sdk", *(f"--ignore={path}" for path in PROCESS_TESTS)],
            count_pytest,
            beside=True,
        ),
        Suite("processes", [".venv/bin/python", "-m", "pytest", *PROCESS_TESTS], count_pytest, beside=True),
        Suite("autobahn", [".venv/bin/python", "-m", "pytest", "tests/autobahn"], count_pytest, beside=True),
        Suite("openai-node", ["node", "--test", "--test-reporter=tap", *node_tests], count_node, beside=True),
        Suite("deploy", [".deploy/venv/bin/python", "-m", "pytest", "tests/deploy"], count_pytest),
    ]


@dataclass
class Result:
    counts: Counts
    seconds: float


def run(suite: Suite, show: Callable[[str], None]) -> Result:
    show(f"\n--- {suite.name}: {' '.join(suite.command)}\n")
    counts = Counts()
    status = 1
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            suite.command,
            cwd=ROOT,
            env={**os.environ, **(suite.env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for line in process.stdout:
            show(line)
            if suite.count:
                suite.count(counts, line.strip())
        status = process.wait()
    except OSError as error:
        show(f"{suite.name}: {error}\n")
    if suite.count is None and status == 0:
        counts.passed = 1
    if status != 0 and counts.failed == 0:
        counts.failed = 1
    # A suite that ran nothing has shown nothing.
    if status == 0 and counts.passed == 0:
        show(f"{suite.name}: no test ran\n")
        counts.failed = 1
    return Result(counts, time.monotonic() - started)


def show(text: str) -> None:
    print(text, end="", flush=True)


def run_beside(suites: list[Suite]) -> list[Result]:
    """Runs them at the same time."""

    def run_one(suite: Suite) -> Result:
        shown: list[str] = []
        result = run(suite, shown.append)
        show("".join(shown))
        return result

    with ThreadPoolExecutor(max(len(suites), 1)) as threads:
        return list(threads.map(run_one, suites))


def main() -> int:
    chosen = [suite for suite in suites() if len(sys.argv) < 2 or suite.name in sys.argv[1:]]
    rows = []
    for beside, group in itertools.groupby(chosen, key=lambda suite: suite.beside):
        group = list(group)
        results = run_beside(group) if beside else [run(suite, show) for suite in group]
        rows += zip(group, results)
    print(f"\n{'suite':<16}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for suite, result in rows:
        counts = result.counts
        print(f"{suite.name:<16}{counts.passed:>8}{counts.failed:>8}{counts.skipped:>9}{result.seconds:>9.0f}")
    passed = sum(result.counts.passed for _, result in rows)
    failed = sum(result.counts.failed for _, result in rows)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
