"""Tokens that PyJWT makes, for callers who prove themselves by one: Azure's, Vonage's, and those of an OpenID issuer."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from desk import Handset, likeness, running, spoken
from websockets.asyncio.client import connect

pytest.importorskip("cryptography", reason="cryptography is not installed: see tests/tools/setup.sh")
vonage_jwt = pytest.importorskip("vonage_jwt", reason="vonage-jwt is not installed: see tests/tools/setup.sh")

from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: E402
from jwt.algorithms import RSAAlgorithm  # noqa: E402

# All invented for this run of tests.
SECRET = "signature-secret-0123456789abcdef-0123456789abcdef-0123456789abcdef"
RESOURCE = "6f1c8a52-0000-4000-8000-0123456789ab"
ACS = "https://acs.example"
LOGIN = "https://login.example"
RATE = 16_000


class Keys:
    """The keys of an issuer, served on loopback."""

    def __init__(self):
        self.by_id: dict[str, rsa.RSAPrivateKey] = {}
        self.newest = ""
        self.rotate()
        keys = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps({"keys": [keys.public(name) for name in keys.by_id]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    def public(self, name: str) -> dict:
        key = RSAAlgorithm.to_jwk(self.by_id[name].public_key(), as_dict=True)
        return {**key, "kid": name, "use": "sig", "alg": "RS256"}

    def rotate(self):
        """Replaces all keys."""
        self.newest = uuid.uuid4().hex
        self.by_id = {self.newest: rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def sign(self, claims: dict, kid: str | None = None, key=None, algorithm: str = "RS256") -> str:
        headers = {"kid": kid or self.newest}
        return jwt.encode(claims, key or self.by_id[self.newest], algorithm=algorithm, headers=headers)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def keys():
    keys = Keys()
    yield keys
    keys.stop()


def accounts(keys: Keys) -> str:
    return f"""
[[auth.issuers]]
url = "{LOGIN}"
name = "login"
audience = "voice"
algorithms = ["RS256"]
tenant = "acme"
jwks_url = "{keys.url}"
[providers.acs]
issuer = "{ACS}"
jwks_url = "{keys.url}"
[[providers.acs.accounts]]
tenant = "acme"
resource_id = "{RESOURCE}"
[[providers.vonage.accounts]]
tenant = "acme"
api_key = "abcd1234"
signature_secret = "{SECRET}"
"""


@pytest.fixture(scope="module")
def desk(keys):
    with running(accounts(keys), secrets=(SECRET,)) as desk:
        yield desk


def of_acs(**changes) -> dict:
    now = int(time.time())
    return {"iss": ACS, "aud": RESOURCE, "iat": now, "nbf": now, "exp": now + 3600, **changes}


def of_login(**changes) -> dict:
    return of_acs(iss=LOGIN, aud="voice", sub="u-1", **changes)


def of_vonage(**changes) -> dict:
    claims = {
        "iss": "Vonage",
        "iat": int(time.time()),
        "jti": str(uuid.uuid4()),
        "api_key": "abcd1234",
        "application_id": str(uuid.uuid4()),
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def is_let_in(desk, target: str, token: str) -> bool:
    status = desk.upgrade(target, {"Authorization": f"Bearer {token}"})
    assert status in (101, 401), status
    return status == 101


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def by_public_key(keys: Keys, claims: dict) -> str:
    """HS256 by the text of the RSA key that everybody knows, which PyJWT refuses to make."""
    public = keys.by_id[keys.newest].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(jwt.InvalidKeyError):
        jwt.encode(claims, public, algorithm="HS256")
    header = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": keys.newest}).encode())
    message = f"{header}.{encoded(json.dumps(claims).encode())}"
    return f"{message}.{encoded(hmac.digest(public, message.encode(), hashlib.sha256))}"


def one_bit_off(token: str) -> str:
    message, signature = token.rsplit(".", 1)
    digest = bytearray(base64.urlsafe_b64decode(signature + "=="))
    digest[9] ^= 0x04
    return f"{message}.{encoded(bytes(digest))}"


@pytest.mark.parametrize(("target", "claims"), [("/acs/media/desk", of_acs), ("/v1/audio/desk", of_login)])
def test_tokens_by_public_keys(desk, keys, target, claims):
    good = keys.sign(claims())
    assert is_let_in(desk, target, good)
    assert is_let_in(desk, target, keys.sign(claims(exp=int(time.time()) - 5))), "clocks may differ a little"
    now = int(time.time())
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for name, token in {
        "audience": keys.sign(claims() | {"aud": "somebody-else"}),
        "issuer": keys.sign(claims() | {"iss": "https://evil.example"}),
        "expired": keys.sign(claims(exp=now - 120)),
        "not yet": keys.sign(claims(nbf=now + 600)),
        "no end": keys.sign({k: v for k, v in claims().items() if k != "exp"}),
        "unsigned": jwt.encode(claims(), None, algorithm="none", headers={"kid": keys.newest}),
        "stranger": keys.sign(claims(), key=stranger),
        "unknown key": keys.sign(claims(), kid="nobody"),
        "other hash": keys.sign(claims(), algorithm="RS512"),
        "confused": by_public_key(keys, claims()),
        "changed": one_bit_off(good),
    }.items():
        assert not is_let_in(desk, target, token), name


def test_keys_rotate():
    """At a gateway that has not been shown a strange key just before: those are asked for only so often."""
    keys = Keys()
    try:
        with running(accounts(keys)) as desk:
            old = keys.sign(of_acs())
            assert is_let_in(desk, "/acs/media/desk", old)
            keys.rotate()
            new = keys.sign(of_acs())
            assert is_let_in(desk, "/acs/media/desk", new)
            assert not is_let_in(desk, "/acs/media/desk", old)
    finally:
        keys.stop()


def test_tokens_by_the_signature_secret(desk):
    target = "/vonage/media/desk"

    def sign(claims: dict, secret: str = SECRET, algorithm: str = "HS256") -> str:
        return jwt.encode(claims, secret, algorithm=algorithm)

    good = sign(of_vonage())
    assert vonage_jwt.verify_signature(good, SECRET)
    assert is_let_in(desk, target, good)
    assert not is_let_in(desk, target, good), "it was for one call"
    nothing = hashlib.sha256(b"").hexdigest()
    assert is_let_in(desk, target, sign(of_vonage(payload_hash=nothing, exp=int(time.time()) + 60)))

    now = int(time.time())
    body = hashlib.sha256(b'{"uuid":"aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}').hexdigest()
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for name, token in {
        "of a webhook": sign(of_vonage(payload_hash=body)),
        "issuer": sign(of_vonage(iss="Nexmo")),
        "old": sign(of_vonage(iat=now - 400)),
        "of the future": sign(of_vonage(iat=now + 400)),
        "expired": sign(of_vonage(exp=now - 1)),
        "other account": sign(of_vonage(api_key="dcba4321")),
        "no id": sign(of_vonage(jti=None)),
        "other secret": sign(of_vonage(), SECRET[::-1]),
        "unsigned": jwt.encode(of_vonage(), None, algorithm="none"),
        "other hash": sign(of_vonage(), algorithm="HS512"),
        "other kind": jwt.encode(of_vonage(), rsa_key, algorithm="RS256"),
        "changed": one_bit_off(sign(of_vonage())),
    }.items():
        assert not is_let_in(desk, target, token), name


class Acs(Handset):
    def frame(self, pcm):
        audio = {"timestamp": "2026-01-01T10:00:00Z", "data": base64.b64encode(pcm).decode(), "silent": False}
        return json.dumps({"kind": "AudioData", "audioData": audio})

    async def take(self, message):
        said = json.loads(message)
        if said["kind"] == "AudioData":
            self.play(base64.b64decode(said["audioData"]["data"], validate=True))
        else:
            assert said["kind"] == "StopAudio", said
            self.clear()
            self.note("clear")

    first = {
        "kind": "AudioMetadata",
        "audioMetadata": {
            "subscriptionId": "s-1",
            "encoding": "PCM",
            "sampleRate": RATE,
            "channels": 1,
            "length": 640,
        },
    }


class Vonage(Handset):
    def frame(self, pcm):
        return pcm

    async def take(self, message):
        if isinstance(message, bytes):
            assert len(message) == RATE // 50 * 2, "whole frames"
            self.play(message)
            return
        said = json.loads(message)
        if said["action"] == "notify":
            self.mark(json.dumps({"event": "websocket:notify", "payload": said["payload"]}))
        else:
            assert said == {"action": "clear"}
            self.clear()
            self.note("clear")
            await self.socket.send('{"event":"websocket:cleared"}')

    async def played(self, mark):
        await self.socket.send(mark)

    first = {"event": "websocket:connected", "content-type": f"audio/l16;rate={RATE}", "queue": "billing"}


def test_calls_that_were_let_in_run(desk, keys):
    said = spoken("one", "two", "three", rate=RATE)
    tokens = {
        Acs: ("/acs/media/desk", keys.sign(of_acs())),
        Vonage: ("/vonage/media/desk", jwt.encode(of_vonage(), SECRET, algorithm="HS256")),
    }

    async def run(kind):
        target, token = tokens[kind]
        url = f"ws://{desk.address}{target}"
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
            await socket.send(json.dumps(kind.first))
            async with kind(socket, RATE).on() as phone:
                phone.say(said)
                await phone.until("answered", lambda: len(phone.heard) >= len(said) // 2)
                await phone.until_quiet()
                assert likeness(said, phone.heard) > 0.9, kind
                phone.say(spoken("four", "five", "six", "seven", "eight", rate=RATE))
                n_heard = len(phone.heard)
                await phone.until("the second answer", lambda: len(phone.heard) > n_heard + RATE)
                phone.say(spoken("nine", rate=RATE))
                await phone.until("clear", lambda: phone.log)

    async def both():
        await asyncio.gather(*(run(kind) for kind in tokens))

    asyncio.run(both())
