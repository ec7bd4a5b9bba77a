"""Callers that show tokens of a real OpenID provider, as clients without a key of the gateway's would."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from stack import Stack
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

PROVIDER = Path(__file__).with_name("oidc_provider.mjs")
ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]


def node_version() -> int:
    if not shutil.which("node"):
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    return int(re.match(r"v(\d+)", said)[1])


pytestmark = pytest.mark.skipif(
    node_version() < 20, reason="oidc-provider is made for Node 22 and known to run on 20"
)


class Provider:
    """The running provider."""

    def __init__(self):
        self._process = subprocess.Popen(
            ["node", str(PROVIDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.issuer = json.loads(self._process.stdout.readline())["issuer"]

    def token(self, algorithm: str = "RS256", audience: str = "voice") -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": "caller",
            "client_secret": "caller-secret",
            "scope": "call",
            "resource": f"https://voice.example/{audience}/{algorithm}",
        }
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.issuer}/token", body, timeout=20) as reply:
            return json.load(reply)["access_token"]

    def rotate(self):
        """Replaces all keys."""
        self._process.stdin.write("rotate\n")
        self._process.stdin.flush()
        assert json.loads(self._process.stdout.readline()) == {"done": "rotate"}

    def stop(self):
        self._process.kill()
        self._process.wait()


@contextmanager
def gateway_for(provider: Provider):
    config = f"""
[[auth.issuers]]
url = "{provider.issuer}"
name = "provider"
audience = "voice"
algorithms = {json.dumps(ALGORITHMS)}
tenant_claim = "tid"
required_claims = {{ scope = "call" }}
"""
    with Stack(more=config) as stack:
        yield stack


@pytest.fixture(scope="module")
def provider():
    running = Provider()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(provider):
    with gateway_for(provider) as running:
        yield running


def is_let_in(stack: Stack, token: str, carrier: str = "header") -> bool:
    """Whether the token opens a session; what it is refused with is a 401."""
    url = f"ws://{stack.gateway}/openai/v1/realtime?model=ga-parrot"
    headers, subprotocols = {}, None
    if carrier == "header":
        headers = {"Authorization": f"Bearer {token}"}
    elif carrier == "subprotocol":
        subprotocols = ["realtime", f"openai-insecure-api-key.{token}"]
    else:
        url += f"&{carrier}=" + urllib.parse.quote(token if carrier == "api-key" else f"Bearer {token}")
    try:
        with connect(url, additional_headers=headers, subprotocols=subprotocols) as socket:
            assert json.loads(socket.recv(timeout=20))["type"] == "session.created"
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code == 401
        return False


def metric(stack: Stack, series: str) -> float:
    with urllib.request.urlopen(f"http://{stack.admin}/metrics", timeout=20) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(series + " "):
                return float(line.split(" ")[1])
    return 0.0


def denied(stack: Stack, reason: str) -> float:
    return metric(stack, f'trunkline_auth_denied_total{{reason="{reason}",route="realtime"}}')


def fetches(stack: Stack, outcome: str) -> float:
    series = "trunkline_signing_key_fetches_total"
    return metric(stack, f'{series}{{issuer="provider",outcome="{outcome}"}}')


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_lets_in_whatever_it_is_signed_by(provider, gateway, algorithm):
    assert is_let_in(gateway, provider.token(algorithm))


@pytest.mark.parametrize("carrier", ["header", "subprotocol", "api-key", "Authorization"])
def test_a_token_lets_in_by_every_carrier(provider, gateway, carrier):
    assert is_let_in(gateway, provider.token("ES256"), carrier)


def test_the_official_sdk_takes_a_token_for_its_key(provider, gateway):
    async def first_event() -> str:
        address = f"ws://{gateway.gateway}/v1"
        client = AsyncOpenAI(api_key=provider.token(), websocket_base_url=address)
        async with client.realtime.connect(model="ga-parrot") as connection:
            return (await connection.recv()).type

    assert asyncio.run(first_event()) == "session.created"


def test_what_is_wrong_with_a_token_is_told_to_the_operator_only(provider, gateway):
    good = provider.token("ES256")
    header, claims, signature = good.split(".")
    other_claims = provider.token("ES256").split(".")[1]
    for token, reason in [
        (provider.token("ES256", audience="other"), "wrong_audience"),
        (f"{header}.{other_claims}.{signature}", "bad_signature"),
        (f"{header}.{claims}.", "bad_signature"),
        (f"{provider.token('RS256').split('.')[0]}.{claims}.{signature}", "bad_signature"),
        ("eyJhbGciOiJub25lIn0." + claims + ".", "bad_algorithm"),
        (f"{header}.e30.{signature}", "wrong_issuer"),
        (f"{header}.{claims}=.{signature}", "unknown_key"),
    ]:
        before = denied(gateway, reason)
        assert not is_let_in(gateway, token), reason
        assert denied(gateway, reason) == before + 1, reason


def test_keys_rotate_while_the_gateway_runs():
    provider = Provider()
    try:
        with gateway_for(provider) as stack:
            old = provider.token()
            assert is_let_in(stack, old)
            assert fetches(stack, "ok") == 1
            provider.rotate()
            assert is_let_in(stack, old)
            new = provider.token()
            assert is_let_in(stack, new)
            assert fetches(stack, "ok") == 2
            # What the provider withdrew is good no longer, and costs no fetch.
            assert not is_let_in(stack, old)
            assert is_let_in(stack, new)
            assert fetches(stack, "ok") == 2
    finally:
        provider.stop()


def test_a_provider_that_is_down_locks_nobody_out():
    provider = Provider()
    try:
        with gateway_for(provider) as stack:
            known = provider.token()
            assert is_let_in(stack, known)
            provider.rotate()
            unknown = provider.token()
            provider.stop()
            # Each for itself, and the failed fetch in between changes nothing.
            assert is_let_in(stack, known)
            assert not is_let_in(stack, unknown)
            assert fetches(stack, "failed") >= 1
            assert is_let_in(stack, known)
            log = stack.log("gateway").read_text()
            assert log.count("signing keys could not be fetched") == 1
            for secret in (known, unknown):
                assert all(part not in log for part in secret.split("."))
    finally:
        provider.stop()
