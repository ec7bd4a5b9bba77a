"""The control service of the real program: found by reflection alone, and by the commands that use it."""

import json
import re
import subprocess

import pytest
from stack import BINARY, CALLER_KEY, SIMULATORS, Stack, gateway_config
from test_process import wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: see tests/tools/setup.sh")

from google.protobuf.descriptor_pool import DescriptorPool  # noqa: E402
from google.protobuf.message_factory import GetMessageClass  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase,
)

TOKEN = "operators-0123456789abcdef"
SERVICE = "trunkline.v1.Control"


class Gateway:
    """A gateway with this in its `[admin]` table, in front of a parrot."""

    def __init__(self, admin: str):
        self._admin = admin
        self._stack = Stack(gateway=False, simulators={"parrot": SIMULATORS["parrot"]})

    def __enter__(self) -> "Gateway":
        self._stack.__enter__()
        config = gateway_config(self._stack.simulators).replace("[admin]\n", f"[admin]\n{self._admin}\n", 1)
        self.process = self._stack.start(["serve"], "gateway", config)
        self.callers = self.process.address("callers")
        self.admin = self.process.address("admin")
        return self

    def __exit__(self, *stack):
        self._stack.__exit__(*stack)

    def call(self):
        url = f"ws://{self.callers}/openai/v1/realtime?model=ga-parrot"
        return connect(url, additional_headers={"api-key": CALLER_KEY})

    def run(self, *arguments: str, scheme: str = "http") -> subprocess.CompletedProcess:
        command, *rest = arguments
        return subprocess.run(
            [BINARY, command, "--address", f"{scheme}://{self.admin}", *rest], capture_output=True, text=True, timeout=60
        )


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return str(path)


class WithToken(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Shows the token with every request, as a plain channel's call credentials may not."""

    def _shown(self, details):
        return details._replace(metadata=[("authorization", f"Bearer {TOKEN}")])

    def intercept_unary_unary(self, continuation, details, request):
        return continuation(self._shown(details), request)

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(self._shown(details), requests)


def test_who_has_nothing_but_the_address_and_the_token_finds_the_calls(token):
    with Gateway(f'token_file = "{token}"') as gateway, gateway.call(), grpc.insecure_channel(gateway.admin) as open:
        health = health_pb2_grpc.HealthStub(open)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        assert health.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        channel = grpc.intercept_channel(open, WithToken())
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        method = DescriptorPool(database).FindServiceByName(SERVICE).methods_by_name["ListCalls"]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        path = f"/{SERVICE}/ListCalls"

        def list_calls(channel):
            ask = channel.unary_unary(path, request.SerializeToString, response.FromString)
            return ask(request(page_size=10), timeout=20)

        listed = list_calls(channel)
        (call,) = listed.calls
        assert (call.tenant, call.dialect, call.deployment) == ("acme", "realtime", "ga-parrot")
        assert listed.total_size == 1
        with pytest.raises(grpc.RpcError) as refused:
            list_calls(open)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_commands_list_end_and_drain(token):
    with Gateway(f'token_file = "{token}"') as gateway:
        shown = ["--token-file", token]
        refused = gateway.run("calls")
        assert refused.returncode == 1 and "token" in refused.stderr, refused
        with gateway.call() as caller:
            table = gateway.run("calls", *shown)
            assert table.returncode == 0, table
            heads, line = table.stdout.splitlines()
            assert heads.split()[:4] == ["CALL", "TENANT", "ROUTE", "DIALECT"]
            call_id = line.split()[0]
            (none,) = gateway.run("calls", "--tenant", "other", *shown).stdout.splitlines()
            assert none.split() == heads.split()
            call = json.loads(gateway.run("calls", call_id, "--json", *shown).stdout)
            assert (call["call_id"], call["conductor"], call["state"]) == (call_id, "caller", "talking")
            unknown = gateway.run("end", "call-unknown", *shown)
            assert unknown.returncode == 1 and "call-unknown" in unknown.stderr, unknown
            ended = gateway.run("end", call_id, "--reason", "a test", *shown)
            assert ended.returncode == 0, ended
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    caller.recv(timeout=20)
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "operator")
        wait_for(lambda: gateway.run("calls", "--json", *shown).stdout == "")
        drained = gateway.run("drain", "ga-parrot", *shown)
        assert drained.returncode == 0, drained
        listed = gateway.run("deployments", "--json", *shown).stdout.splitlines()
        deployments = {it["name"]: it["drained"] for it in map(json.loads, listed)}
        assert deployments == {"ga-parrot": True, "preview-parrot": False}
        assert gateway.run("drain", "ga-parrot", "--undo", *shown).returncode == 0
        with gateway.call() as caller:
            # The deadline is over at once, and the process exits as by SIGTERM.
            assert gateway.run("drain", "--deadline", "0s", *shown).returncode == 0
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    caller.recv(timeout=20)
            assert closed.value.rcvd.code == 1012
        wait_for(lambda: gateway.process._process.poll() is not None)
        assert gateway.process._process.poll() == 0
        gone = gateway.run("calls", *shown)
        assert gone.returncode == 1 and "cannot reach the gateway" in gone.stderr, gone


def certificate(folder, name: str):
    """A key and a certificate that is its own authority."""
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt", "-subj", f"/CN={name}"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
        capture_output=True,
    )
    assert made.returncode == 0, made


def test_a_client_certificate_is_as_good_as_a_token(tmp_path):
    for name in ("gateway", "operator", "stranger"):
        certificate(tmp_path, name)
    files = {name: str(tmp_path / name) for name in ("gateway", "operator", "stranger")}
    tls = (
        f'tls.certificate_file = "{files["gateway"]}.crt"\ntls.key_file = "{files["gateway"]}.key"\n'
        f'tls.client_ca_file = "{files["operator"]}.crt"\ntls.client_auth = "optional"'
    )
    with Gateway(tls) as gateway:
        trust = ["--ca", f"{files['gateway']}.crt"]

        def run(*more: str):
            return gateway.run("calls", *trust, *more, scheme="https")

        operator = ["--cert", f"{files['operator']}.crt", "--key", f"{files['operator']}.key"]
        shown = run(*operator)
        assert shown.returncode == 0, shown
        without = run()
        assert without.returncode == 1 and "refuses" in without.stderr, without
        stranger = run("--cert", f"{files['stranger']}.crt", "--key", f"{files['stranger']}.key")
        assert stranger.returncode == 1, stranger
        untrusted = gateway.run("calls", *operator, scheme="https")
        assert untrusted.returncode == 1 and "cannot reach the gateway" in untrusted.stderr, untrusted
        plain = gateway.run("calls", *trust, *operator)
        assert plain.returncode == 1, plain
        assert re.search(r"^admin on https://", "\n".join(gateway.process.lines), re.MULTILINE)
