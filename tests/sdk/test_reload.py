"""A changed configuration of the real program: told by SIGHUP, and found as Kubernetes swaps it."""

import json
import os
import signal
from pathlib import Path

from stack import CALLER_KEY, Process, Stack
from test_log import make_lines
from test_process import get, upgrade_status, wait_for
from websockets.sync.client import connect

CONFIG = """
[listener]
address = "127.0.0.1:0"
[listener.shed]
loop_lag = "0s"
[admin]
address = "127.0.0.1:0"
[auth]
mode = "none"
[deployments.east]
url = "ws://127.0.0.1:1"
model = "gpt-realtime"
[reload]
watch = "200ms"
"""

AGENT = '[agents.day]\ndeployment = "east"\n'


def reloads(admin: str, outcome: str) -> int:
    line = f'trunkline_config_reloads_total{{outcome="{outcome}"}} '
    lines = get(f"http://{admin}/metrics").splitlines()
    return next(int(found.removeprefix(line)) for found in lines if found.startswith(line))


def hang_up_signal(process: Process):
    process._process.send_signal(signal.SIGHUP)


def test_sighup_takes_what_is_good_and_a_live_call_goes_on():
    with Stack(more='[reload]\nwatch = "0s"\n') as stack:
        gateway = stack._processes[-1]
        file = Path(stack._folder.name) / "gateway.toml"
        good = file.read_text()
        url = f"ws://{stack.gateway}/v1/realtime?model=ga-parrot"
        with connect(url, additional_headers={"api-key": CALLER_KEY}) as socket:
            assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
            hang_up_signal(gateway)
            wait_for(lambda: reloads(stack.admin, "unchanged") == 1)
            file.write_text(good + "[agents.day]\ndeployment = 'nowhere'\n")
            hang_up_signal(gateway)
            wait_for(lambda: reloads(stack.admin, "failed") == 1)
            assert "trunkline_config_last_reload_success 0" in get(f"http://{stack.admin}/metrics")
            log = stack.log("gateway")
            wait_for(lambda: "agents.day.deployment: there is no deployment or pool nowhere" in log.read_text())
            # Another key, under which this call would not be let in, and another address, which cannot be had.
            changed = good.replace("sha256 = \"", 'sha256 = "' + "0" * 64 + '" # ', 1)
            changed = changed.replace('address = "127.0.0.1:0"', 'address = "127.0.0.1:1"', 1)
            file.write_text(changed)
            hang_up_signal(gateway)
            wait_for(lambda: reloads(stack.admin, "applied") == 1)
            wait_for(lambda: "needs restart: listener.address" in log.read_text())
            assert upgrade_status(stack.gateway, f"/v1/realtime?model=ga-parrot&api-key={CALLER_KEY}") == 401
            session = {"type": "realtime", "instructions": "Be brief."}
            socket.send(json.dumps({"type": "session.update", "session": session}))
            while json.loads(socket.recv(timeout=20))["type"] != "session.updated":
                pass
        assert gateway._process.poll() is None


def mount(folder: Path, version: str, text: str):
    """Swaps a mounted ConfigMap as the kubelet does: a new folder, and a link that is renamed over the old one."""
    (folder / version).mkdir()
    (folder / version / "trunkline.toml").write_text(text)
    (folder / "..data_tmp").symlink_to(version)
    os.rename(folder / "..data_tmp", folder / "..data")


def test_a_mounted_file_that_is_swapped_is_taken(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    mount(folder, "..1", CONFIG)
    file = folder / "trunkline.toml"
    file.symlink_to("..data/trunkline.toml")
    gateway = Process(["serve", "--config", str(file)], tmp_path / "log")
    try:
        callers, admin = gateway.address("callers"), gateway.address("admin")
        assert upgrade_status(callers, "/v1/audio/day") == 404
        mount(folder, "..2", CONFIG + AGENT)
        wait_for(lambda: reloads(admin, "applied") == 1)
        # The agent is there, its deployment is not.
        assert upgrade_status(callers, "/v1/audio/day") in (502, 503, 504)
        mount(folder, "..3", CONFIG + AGENT.replace("east", "nowhere"))
        wait_for(lambda: reloads(admin, "failed") == 1)
        assert upgrade_status(callers, "/v1/audio/day") in (502, 503, 504)
        # As an editor does it.
        new = folder / "..new"
        new.write_text(CONFIG)
        os.rename(new, file)
        wait_for(lambda: reloads(admin, "applied") == 2)
        assert upgrade_status(callers, "/v1/audio/day") == 404
    finally:
        gateway.stop()


def test_another_filter_of_the_log_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("TRUNKLINE_LOG", raising=False)
    file, log = tmp_path / "trunkline.toml", tmp_path / "log"
    file.write_text(CONFIG)
    gateway = Process(["serve", "--config", str(file)], log)
    try:
        admin = gateway.address("admin")
        make_lines(admin)
        assert '"level":"TRACE"' not in log.read_text()
        file.write_text(CONFIG + '[log]\nfilter = "trace"\nformat = "text"\n')
        wait_for(lambda: reloads(admin, "applied") == 1)
        wait_for(lambda: "needs restart: log.format" in log.read_text())
        make_lines(admin)
        wait_for(lambda: '"level":"TRACE"' in log.read_text())
        file.write_text(CONFIG + '[log]\nfilter = "trunkline=shout"\n')
        wait_for(lambda: reloads(admin, "failed") == 1)
        assert "log.filter: " in log.read_text()
    finally:
        gateway.stop()
