"""The container of the chart's pod runs in podman by runc, as the chart confines it, and no call is cut when it is told to go.

What is shown: that the program lives with a read-only root, as nobody, without capabilities, under seccomp, within its
memory, on an image of nothing but itself, and with the configuration that the chart makes. What is not: the image is not
that of deploy/Dockerfile, which no container engine builds here, but the binary under test with its shared libraries; and
podman takes the rendered fields as options, so that nothing of Kubernetes takes part, probes and preStop neither.
"""

import hashlib
import json
import re
import shutil
import uuid
from pathlib import Path

import pytest

from charts import find, render
from live import DEPLOYMENT_KEY, GENEROUS_SIMULATOR, KEYS, Output
from tools import BINARY, LOADTEST, check, run

CALLS = 100

CONFIG = {
    "auth": {"keys": [{"tenant": "acme", "sha256": hashlib.sha256(KEYS["acme"].encode()).hexdigest()}]},
    # A busy machine is no reason to refuse a test.
    "listener": {"shed": {"loop_lag": "0s"}},
    "deployments": {
        "east": {
            "url": "ws://127.0.0.1:9000",
            "api_key": DEPLOYMENT_KEY,
            "quota": {"requests_per_minute": 1000000, "tokens_per_minute": 1000000000},
            "timeouts": {"upgrade": "60s", "session": "60s"},
        }
    },
    "agents": {
        "desk": {
            "deployment": "east",
            "session": {"instructions": "Be brief.", "turn_detection": {"type": "server_vad", "silence_duration": "300ms"}},
            "timeouts": {"model_event": "120s"},
        }
    },
}

RUNC = ("--runtime=runc",)
# Podman's own are more than what some machines allow a container.
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=1000:1000")

# Each caller calls once, and is still there when all others are.
SCENARIO = f"""
[target]
url = "ws://127.0.0.1:8080/twilio/media/desk"
api_key_env = "TRUNKLINE_API_KEY"

[arrivals]
process = "hold"
calls = {CALLS}
over = "10s"

[limits]
calls = {CALLS}
time = "10m"
call_time = "5m"

[call]
turns = 1
talk = "1s"
before = "30s"
patience = "3m"
"""


@pytest.fixture
def pod(tmp_path):
    for program in ("podman", "runc"):
        if not shutil.which(program) and not Path("/usr/sbin", program).exists():
            pytest.skip(f"no {program} here")
    for program in (BINARY, LOADTEST):
        if not program.exists():
            pytest.fail(f"{program} is not built")
    pod = Pod(tmp_path)
    try:
        if reason := pod.build():
            pytest.skip(f"podman is of no use here: {reason}")
        yield pod
    finally:
        pod.remove()


def test_the_confined_gateway_drains_and_cuts_no_call(pod):
    manifests = render({"config": CONFIG})
    pod.run("simulator", "/usr/bin/trunkline", ["simulate", "--listen", "127.0.0.1:9000", "--config", "/test/simulator.toml"])
    pod.say("simulator").wait_for(r"(listening) on http://")
    pod.run_rendered(manifests)
    log = pod.say("gateway")
    log.wait_for(r"(admin) on http://")
    assert_confined(*pod.process("gateway"))
    key = ["--env", f"TRUNKLINE_API_KEY={KEYS['acme']}"]
    pod.run("load", "/usr/bin/trunkline-loadtest", ["run", "/test/scenario.toml", "--out", "/test/report.json"], key)
    log.wait_for(r'"message":"(call answered)"', CALLS)
    pod.podman("kill", "--signal", "TERM", pod.name("gateway"))
    assert log.wait_for(r'"message":"draining".*"calls":(\d+)') == str(CALLS)
    assert pod.wait("load") == 0
    assert pod.wait("gateway") == 0, log.text()
    report = json.loads((pod.folder / "report.json").read_text())
    assert report["errors"] == {}
    assert report["counts"]["completed"] == report["counts"]["turns_answered"] == CALLS


def assert_confined(status, mounts, memory):
    """As the kernel sees the process."""
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"65532"}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[kind], 16) == 0, kind
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2", "no filter"
    # Root, how it is mounted.
    assert re.search(r"^\d+ \d+ \S+ \S+ / ro[, ]", mounts, re.MULTILINE), mounts
    assert memory == 1 << 30


class Pod:
    """Containers that share a network which leads nowhere: the first one's."""

    def __init__(self, folder):
        self.folder = folder / "test"
        self._image_folder = folder / "image"
        self._id = f"trunkline-test-{uuid.uuid4().hex[:12]}"
        self._outputs = []
        self._names = []

    def build(self):
        """Why podman cannot be used, if it cannot."""
        programs = self._image_folder / "usr" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(BINARY, programs / "trunkline")
        shutil.copy(LOADTEST, programs / "trunkline-loadtest")
        for library in set(re.findall(r"(/\S+) \(0x", check("ldd", BINARY) + check("ldd", LOADTEST))):
            place = self._image_folder / library[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
        recipe = self._image_folder.with_name("Dockerfile")
        recipe.write_text('FROM scratch\nCOPY . /\nUSER 65532:65532\nENTRYPOINT ["/usr/bin/trunkline"]\n')
        built = run("podman", "build", "--quiet", "--file", recipe, "--tag", self._id, self._image_folder)
        if built.returncode != 0:
            return built.stdout
        # What happens here is the machine's doing, not that of how the pod is confined.
        tried = run("podman", *RUNC, "run", "--rm", "--network=none", "--memory=1g", *LIMITS, self._id, "--version")
        self.folder.mkdir()
        self.folder.chmod(0o777)
        (self.folder / "simulator.toml").write_text(GENEROUS_SIMULATOR)
        (self.folder / "scenario.toml").write_text(SCENARIO)
        return tried.stdout if tried.returncode != 0 else None

    def podman(self, *command):
        return check("podman", *RUNC, *command)

    def name(self, container):
        return f"{self._id}-{container}"

    def run(self, container, program, arguments, options=()):
        network = "none" if not self._names else f"container:{self._names[0]}"
        options = ["--volume", f"{self.folder}:/test", "--entrypoint", program, *options]
        self._start(container, network, options, arguments)

    def run_rendered(self, manifests):
        """The container of the rendered Deployment, by its own fields."""
        spec = find(manifests, "Deployment")["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        (volume,) = spec["volumes"]
        (mount,) = container["volumeMounts"]
        config = self.folder / "config"
        config.mkdir()
        for file, text in find(manifests, "ConfigMap", volume["configMap"]["name"])["data"].items():
            (config / file).write_text(text)
        may = container["securityContext"]
        who = spec["securityContext"]
        assert may["privileged"] is False and who["seccompProfile"] == {"type": "RuntimeDefault"}
        options = [
            f"--user={who['runAsUser']}:{who['runAsGroup']}",
            f"--read-only={json.dumps(may['readOnlyRootFilesystem'])}",
            # Nothing may be written elsewhere either: Kubernetes mounts no such places.
            "--read-only-tmpfs=false",
            *(f"--cap-drop={capability}" for capability in may["capabilities"]["drop"]),
            f"--security-opt=no-new-privileges={json.dumps(not may['allowPrivilegeEscalation'])}",
            f"--memory={container['resources']['limits']['memory'].removesuffix('i').lower()}",
            f"--volume={config}:{mount['mountPath']}:ro",
            f"--stop-timeout={spec['terminationGracePeriodSeconds']}",
        ]
        self._start("gateway", f"container:{self._names[0]}", options, container["args"])

    def _start(self, container, network, options, arguments):
        name = self.name(container)
        start = ["run", "--detach", "--name", name, "--log-driver=k8s-file", f"--network={network}"]
        self.podman(*start, *LIMITS, *options, self._id, *arguments)
        self._names.append(name)

    def say(self, container):
        """What it says, from its beginning."""
        output = Output(container, ["podman", *RUNC, "logs", "--follow", self.name(container)])
        self._outputs.append(output)
        return output

    def process(self, container):
        """The kernel's status of its process, what is mounted there, and the bytes of memory that it may have."""
        pid = self.podman("inspect", "--format", "{{.State.Pid}}", self.name(container)).strip()
        process = Path("/proc", pid)
        return (process / "status").read_text(), (process / "mountinfo").read_text(), memory_limit(process)

    def wait(self, container):
        return int(self.podman("wait", self.name(container)))

    def remove(self):
        for output in self._outputs:
            output.stop()
        for name in reversed(self._names):
            run("podman", *RUNC, "rm", "--force", "--time=5", name)
        run("podman", *RUNC, "rmi", "--force", self._id)




def memory_limit(process):
    """By either version of control groups."""
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for path in (f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes", f"/sys/fs/cgroup{group}/memory.max"):
            if controllers in ("", "memory") and Path(path).exists():
                return int(Path(path).read_text())
    raise AssertionError("it has no limit of memory")
