#!/usr/bin/env python3
"""Counts the instructions of the frame path under callgrind, and fails if they grew by more than 5 %.

`count_instructions.py` compares with loadtest/benches/frame_path/baseline.json; `count_instructions.py --renew` writes it.
Counts do not depend on how busy the machine is, but on the compiler and on which instructions the processor has: both
are in the baseline, and named when they differ. Without valgrind nothing is counted, which is said and is no failure.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "loadtest/benches/frame_path/baseline.json"
RENEW = "make instructions RENEW=1"
GROWTH = 0.05
# What is counted, and how it is called on the command line of the bench.
WAYS = {
    "a Twilio frame in, an append out": "up",
    "a delta of 200 ms in, frames out": "down",
}
# Runs of both lengths; their difference is free of what the process does before and after.
FEW, MANY = 500, 1500


def main() -> int:
    if not shutil.which("valgrind"):
        print("instructions: skipped, there is no valgrind here (Debian: apt-get install valgrind)")
        return 0
    bench = build()
    here = {"compiler": said_by("rustc", "--version"), "machine": platform.machine()}
    found = {name: instructions(bench, way) for name, way in WAYS.items()}
    if "--renew" in sys.argv[1:]:
        BASELINE.write_text(json.dumps({**here, "instructions": found}, indent=2) + "\n")
        for name, count in found.items():
            print(f"{name:<36}{count:>10}")
        print(f"instructions: written to {BASELINE.relative_to(ROOT)}")
        return 0
    return compare(json.loads(BASELINE.read_text()), here, found)


def build() -> str:
    """The bench's program, built as the gateway is released."""
    command = ["cargo", "bench", "--quiet", "--no-run", "--package", "trunkline-loadtest", "--bench", "frame_path"]
    command += ["--message-format", "json-render-diagnostics"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    # The package's programs are built with its benches, and told of in any order.
    built = [line for line in map(json.loads, lines) if line.get("target", {}).get("name") == "frame_path"]
    return next(line["executable"] for line in built if line.get("executable"))


def instructions(bench: str, way: str) -> int:
    """Of one frame or one delta."""
    few, many = (counted(bench, way, n) for n in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def counted(bench: str, way: str, n: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", bench, way, str(n)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"Collected : (\d+)", run.stdout)
    if run.returncode != 0 or not found:
        sys.exit(f"instructions: valgrind failed\n{run.stdout}")
    return int(found[1])


def compare(baseline: dict, here: dict, found: dict[str, int]) -> int:
    grown = []
    print(f"{'':<36}{'counted':>10}{'baseline':>10}{'change':>9}")
    for name, count in found.items():
        before = baseline["instructions"].get(name)
        if before is None:
            grown.append(name)
            print(f"{name:<36}{count:>10}{'none':>10}")
            continue
        change = count / before - 1
        if change > GROWTH:
            grown.append(name)
        print(f"{name:<36}{count:>10}{before:>10}{change:>+9.1%}")
    for what, now in here.items():
        if baseline.get(what) != now:
            print(f"instructions: the baseline's {what} is {baseline.get(what)}, here it is {now}")
    if grown:
        print(f"instructions: more than {GROWTH:.0%} above the baseline. If that is meant: {RENEW}")
        return 1
    print(f"instructions: within {GROWTH:.0%} of the baseline (to renew it: {RENEW})")
    return 0


def said_by(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
