"""Every kind of secret, good and bad, in one run that logs everything: none of them may be told to anybody."""

import asyncio
import base64
import hashlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import sound
from openai import AsyncOpenAI
from stack import BINARY, Process
from talk import Talk
from test_oidc import Provider, node_version
from test_process import TOKEN as ENTRA_TOKEN
from test_process import TokenEndpoint, wait_for
from test_twilio_signature import FORM, PUBLIC, sign

# Of one thread: with two on one TLS socket, as in the library's other client, Python at times loses what is sent.
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


def made(name: str) -> str:
    """A secret of that name: always the same, and like nothing else from its first characters on."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


KEY = made("caller key")
UNKNOWN_KEY = made("unknown key")
EXPIRED_KEY = made("expired key")
SIGNING = made("signing")
PREVIOUS_SIGNING = made("previous signing")
TWILIO = made("twilio")
SECOND_TWILIO = made("second twilio")
FOREIGN_TWILIO = made("foreign twilio")
ADMIN = made("admin")
WRONG_ADMIN = made("wrong admin")
UPSTREAM_KEY = made("upstream key")
OLD_FILE_KEY = made("old file key")
NEW_FILE_KEY = made("new file key")
ENTRA_SECRET = made("entra secret")
PREFIX = made("prefix")
# What is said, written and called during the calls.
INSTRUCTIONS = made("instructions")
AGENT_INSTRUCTIONS = made("agent instructions")
GREETING = made("greeting")
WRITTEN = made("written")
HEARD = made("heard")
REPLY = made("reply")
ARGUMENT = made("argument")
RESULT = made("result")
PARAMETER = made("parameter")
# Not a secret: it must be found, or nothing would.
MARKER = "CA" + made("marker")

CREDENTIALS = {
    name: value
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, str) and re.fullmatch("[0-9a-f]{40}", value)
} | {"ENTRA_TOKEN": ENTRA_TOKEN}
WORDS = {
    name: CREDENTIALS.pop(name)
    for name in (
        "INSTRUCTIONS AGENT_INSTRUCTIONS GREETING WRITTEN HEARD REPLY ARGUMENT RESULT PARAMETER".split()
    )
}


def forms(secret: str | bytes) -> set[str]:
    """How the first 12 characters of a secret may stand in a text, and thereby how the whole of it may."""
    start = (secret.encode() if isinstance(secret, str) else secret)[:12]
    found = {
        start.decode("latin-1"),
        urllib.parse.quote(start, safe=""),
        start.hex(),
        start.hex().upper(),
        # As `Debug` shows bytes.
        ", ".join(map(str, start)),
    }
    for n_before in range(3):
        coded = base64.b64encode(bytes(n_before) + start).decode()
        # Less the characters into which neighbours go.
        inner = coded[-(-n_before * 4 // 3) :].rstrip("=")
        inner = inner if (n_before + len(start)) % 3 == 0 else inner[:-1]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def is_in(secret: str | bytes, text: str) -> bool:
    return any(form in text for form in forms(secret))


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_secret_is_found_in_every_form(before):
    secret = "s3cret/+0123456789"
    sent = (before + secret + "...").encode()
    for text in (
        sent.decode(),
        urllib.parse.quote(sent, safe=""),
        base64.b64encode(sent).decode(),
        base64.urlsafe_b64encode(sent).decode(),
        sent.hex(),
        str(list(sent)),
        (before + secret)[: len(before) + 12],
    ):
        assert is_in(secret, text), text
        assert not is_in(secret[::-1], text), text


class Services(TokenEndpoint):
    """Gives Entra's tokens, publishes an issuer's keys, and is an agent's tool."""

    asked: list[str] = []
    looked_up: list[str] = []
    jwk: dict = {}

    def do_GET(self):
        issuer = f"http://127.0.0.1:{self.server.server_port}"
        if self.path.endswith("/openid-configuration"):
            self._json({"issuer": issuer, "jwks_uri": f"{issuer}/jwks"})
        else:
            self._json({"keys": [self.jwk]})

    def do_POST(self):
        if self.path == "/look-up":
            self.looked_up.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self._json({"result": RESULT})
        else:
            super().do_POST()

    def _json(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def openssl(*arguments, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Signer:
    """An issuer's RSA key."""

    def __init__(self, folder: Path, issuer: str):
        self._issuer = issuer
        self._key = folder / "issuer.pem"
        openssl("genrsa", "-out", self._key, "2048")
        modulus = openssl("rsa", "-in", self._key, "-noout", "-modulus").decode().strip()
        n = self._text(bytes.fromhex(modulus.removeprefix("Modulus=")))
        self.jwk = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": n}

    def token(self, **claims) -> str:
        now = int(time.time())
        claims = {"iss": self._issuer, "aud": "voice", "tid": "acme", "iat": now, "exp": now + 600} | claims
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "1"}, claims)
        signed = ".".join(self._text(json.dumps(part).encode()) for part in parts)
        signature = openssl("dgst", "-sha256", "-sign", self._key, stdin=signed.encode())
        return f"{signed}.{self._text(signature)}"

    @staticmethod
    def _text(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")


def make_certificates(folder: Path):
    """The listener's pair, an authority, and a client's pair of that authority."""
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name, names in (("tls", "subjectAltName=IP:127.0.0.1"), ("ca", None)):
        extension = ("-addext", names) if names else ()
        out = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt")
        openssl("req", "-x509", *new, *out, "-days", "2", "-subj", f"/CN={name}", *extension)
    openssl("req", *new, "-keyout", folder / "client.key", "-out", folder / "client.csr", "-subj", "/CN=pbx")
    (folder / "names").write_text("subjectAltName=URI:spiffe://acme.example/pbx\n")
    authority = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial")
    of_client = ("-in", folder / "client.csr", "-out", folder / "client.crt", "-extfile", folder / "names")
    openssl("x509", "-req", *of_client, *authority, "-days", "2")


SIMULATOR = f"""
api_keys = ["{UPSTREAM_KEY}"]
entra_tokens = ["{ENTRA_TOKEN}"]
[latency]
first_delta = "50ms"
speed = 8.0
[transcription]
texts = ["They said {HEARD}."]
min_delay = "20ms"
max_delay = "50ms"
[reply]
mode = "script"
[[reply.turns]]
say = "Well, {REPLY}."
calls = [{{ name = "look_up", arguments = '{{"what": "{ARGUMENT}"}}' }}]
[[reply.turns]]
say = "And {REPLY}."
"""


def config(folder: Path, services: str, issuers: list[str], simulator: str, file_simulator: str) -> str:
    def sha256(key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()

    of_issuers = "".join(
        f'[[auth.issuers]]\nurl = "{url}"\naudience = "voice"\nalgorithms = ["RS256"]\ntenant_claim = "tid"\n'
        for url in issuers
    )
    return f"""
[listener]
address = "127.0.0.1:0"
public_url = "wss://{PUBLIC}"
[listener.tls]
certificate_file = "{folder}/tls.crt"
key_file = "{folder}/tls.key"
client_ca_file = "{folder}/ca.crt"
client_auth = "optional"
[listener.shed]
loop_lag = "0s"
[listener.limits]
failed_auth_per_minute = 0
calls_per_second = 0
calls_per_second_per_tenant = 0
[admin]
address = "127.0.0.1:0"
token = "{ADMIN}"
[auth]
mode = "keys"
[[auth.keys]]
tenant = "acme"
sha256 = "{sha256(KEY)}"
[[auth.keys]]
tenant = "acme"
sha256 = "{sha256(EXPIRED_KEY)}"
expires = 2020-01-01T00:00:00Z
[auth.signing]
secret = "{SIGNING}"
previous_secret = "{PREVIOUS_SIGNING}"
{of_issuers}
[[auth.certificates]]
tenant = "acme"
san = "spiffe://acme.example/pbx"
[tenants.acme]
[tenants.acme.session]
instructions_prefix = "Keep this: {PREFIX}."
[[twilio.accounts]]
tenant = "acme"
auth_token = "{TWILIO}"
second_auth_token = "{SECOND_TWILIO}"
[deployments.value]
url = "ws://{simulator}"
model = "gpt-realtime"
api_key = "{UPSTREAM_KEY}"
[deployments.file]
url = "ws://{file_simulator}"
model = "gpt-realtime"
api_key_file = "{folder}/key"
[deployments.entra]
url = "ws://{simulator}"
model = "gpt-realtime"
[deployments.entra.timeouts]
token = "30s"
[deployments.entra.entra]
kind = "client_secret"
tenant_id = "tenant-3"
client_id = "client-3"
client_secret = "{ENTRA_SECRET}"
authority_host = "{services}"
[agents.desk]
deployment = "value"
greeting = "Say {GREETING}."
[agents.desk.session]
instructions = "You know {AGENT_INSTRUCTIONS}."
transcription = {{ model = "whisper-1" }}
[[agents.desk.session.tools]]
name = "look_up"
description = "Looks up."
parameters = {{ type = "object" }}
[agents.desk.webhooks.look_up]
url = "{services}/look-up"
"""


class Scene:
    """The gateway with all that it needs, and everything that it was heard to say."""

    def __init__(self, folder: Path, gateway: Process, services: str):
        self.folder = folder
        self.services = services
        self.callers = gateway.address("callers")
        self.admin = gateway.address("admin")
        self.pid = gateway._process.pid
        # Secrets that came up in the run.
        self.secrets: dict[str, str | bytes] = dict(CREDENTIALS)
        # What was said where.
        self.said: list[tuple[str, str]] = []
        # Events, in which callers are told their own words again.
        self.events: list[str] = []
        self.tls = ssl.create_default_context(cafile=str(folder / "tls.crt"))
        self.tls.check_hostname = False

    def secret(self, name: str, value: str | bytes):
        self.secrets[f"{name} {len(self.secrets)}"] = value
        return value

    def token(self, name: str, value: str) -> str:
        """A secret of several parts, each of which is one."""
        for part in value.split("."):
            self.secret(name, part.removeprefix("tt_"))
        return value

    def say(self, where: str, text: object, *known: str):
        """Notes what was said; `known` is what had to be in it."""
        text = str(text)
        for secret in known:
            assert secret in text
            text = text.replace(secret, "")
        self.said.append((where, text))

    def knock(self, target: str, headers: dict = {}, subprotocols=None, tls=None) -> int:
        """Asks for a WebSocket; its status. An SDK's session is awaited."""
        name = f"answer to {target[:30]} with {list(headers)}"
        url = f"wss://{self.callers}{target}"
        options = {"additional_headers": headers, "subprotocols": subprotocols, "ssl": tls or self.tls}

        async def ask():
            async with connect(url, **options) as line:
                self.say(name, line.response.headers)
                if "realtime" in target:
                    self.events.append(await asyncio.wait_for(line.recv(), 20))

        try:
            asyncio.run(ask())
            return 101
        except InvalidStatus as refused:
            answer = refused.response
            self.say(name, f"{answer.headers}\n{answer.body}\n{(answer.body or b'').decode()}")
            return answer.status_code

    def request(self, method: str, target: str, body: str = "", headers: dict = {}) -> tuple[int, str, str]:
        connection = http.client.HTTPSConnection(self.callers, timeout=20, context=self.tls)
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, f"{answer.headers}\n{text}"

    def post(self, target: str, body: object, key: str, expected: int, made: str | None = None) -> str:
        """Posts JSON; what is in the reply under the name `made` is for whoever asked."""
        headers = {"api-key": key, "content-type": "application/json"}
        status, text, whole = self.request("POST", target, json.dumps(body), headers)
        assert status == expected, text
        value = json.loads(text)[made] if made else ""
        self.say(f"POST {target}", whole, *filter(None, [value]))
        return value


MODEL = "/v1/realtime?model=value"


def show(scene: Scene, secret: str, expected: int, target: str = MODEL):
    """Shows a caller's secret in every way that it can be."""
    quoted = urllib.parse.quote(secret, safe="")
    for path, headers, subprotocols in (
        (target, {"api-key": secret}, None),
        (target, {"Authorization": f"Bearer {secret}"}, None),
        (f"{target}&api-key={quoted}", {}, None),
        (f"{target}&Authorization=Bearer%20{quoted}", {}, None),
        (target, {}, ["realtime", f"openai-insecure-api-key.{secret}"]),
    ):
        assert scene.knock(path, headers, subprotocols) == expected, (path, headers)


def callers_keys(scene: Scene):
    show(scene, KEY, 101)
    show(scene, UNKNOWN_KEY, 401)
    show(scene, EXPIRED_KEY, 401)
    # With something wrong besides.
    assert scene.knock(f"/nowhere?api-key={KEY}") == 404
    assert scene.knock(f"/v1/realtime?model=none&api-key={KEY}") >= 400
    assert scene.knock(MODEL, {"api-key": f"{KEY} {KEY}"}) == 401
    assert scene.knock(MODEL, {"api-key": KEY, "Origin": "https://evil.example"}) == 403
    assert scene.knock(f"{MODEL}&api-key={KEY}&x={'x' * 5000}") >= 400
    status, _, whole = scene.request("GET", f"{MODEL}&api-key={KEY}", headers={"api-key": KEY})
    assert status >= 400
    scene.say("no upgrade", whole)
    raw = f"GET {MODEL}&api-key={KEY} HTTP/9.9\r\napi-key: {KEY}\r\n\r\n".encode()
    host, port = scene.callers.split(":")
    for tls in (True, False):
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            wire = scene.tls.wrap_socket(plain, server_hostname=host) if tls else plain
            with wire:
                wire.sendall(raw)
                scene.say("no HTTP", wire.recv(10_000))


def tokens(scene: Scene, signer: Signer, provider: Provider | None):
    good = scene.token("JWT", signer.token())
    show(scene, good, 101)
    header, claims, signature = good.split(".")
    for bad in (
        signer.token(aud="other"),
        signer.token(exp=int(time.time()) - 3600),
        signer.token(iss="https://nobody.example"),
        signer.token(tid="nobody"),
        f"{header}.{claims}.{signature[::-1]}",
        f"{header}.{claims}",
    ):
        show(scene, scene.token("bad JWT", bad), 401)
    if provider:
        show(scene, scene.token("provider's JWT", provider.token()), 101)
        show(scene, scene.token("provider's JWT", provider.token(audience="other")), 401)


def ephemeral_keys(scene: Scene):
    target = "/v1/realtime/client_secrets"
    key = scene.post(target, {"session": {"type": "realtime", "model": "value"}}, KEY, 200, "value")
    scene.secret("ephemeral key", key)
    show(scene, key, 101)
    show(scene, key, 403, "/v1/realtime?model=file")
    forged = scene.secret("forged ephemeral key", f"ek_{made('forged')}")
    show(scene, forged, 401)
    for bad in (key, forged, UNKNOWN_KEY):
        scene.post(target, {}, bad, 401)
    scene.post("/v1/realtime/sessions", {"voice": KEY, "model": "none"}, UNKNOWN_KEY, 401)


def ticket_by_command(scene: Scene, dialect: str, agent: str) -> str:
    arguments = ["--tenant", "acme", "--dialect", dialect, "--agent", agent]
    done = subprocess.run(
        [BINARY, "ticket", "--config", str(scene.folder / "gateway.toml"), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ticket = scene.token("ticket", done.stdout.split("\n")[0])
    scene.say("trunkline ticket", done.stdout + done.stderr, ticket)
    return ticket


def tickets(scene: Scene):
    def by_request(dialect: str, agent: str) -> str:
        body = {"dialect": dialect, "agent": agent}
        return scene.token("ticket", scene.post("/v1/tickets", body, KEY, 201, "ticket"))

    def by_command(dialect: str, agent: str) -> str:
        return ticket_by_command(scene, dialect, agent)

    for make in (by_request, by_command):
        for carry in (
            lambda ticket: (f"{MODEL}&ticket={ticket}", {}),
            lambda ticket: (MODEL, {"Authorization": f"Bearer {ticket}"}),
            lambda ticket: (MODEL, {"api-key": ticket}),
        ):
            target, headers = carry(make("realtime", "value"))
            assert [scene.knock(target, headers) for _ in range(2)] == [101, 401]
        path = f"/v1/audio/desk/{make('audio', 'desk')}"
        assert [scene.knock(path) for _ in range(2)] == [101, 401]
        # At the wrong door, changed, and as what it is not.
        ticket = make("audio", "desk")
        changed = scene.token("changed ticket", f"{ticket[:-8]}{made('changed')[:8]}")
        for target in (f"/v1/audio/desk/{changed}", f"{MODEL}&ticket={ticket}", f"/v1/audio/x/{ticket}"):
            assert scene.knock(target) in (401, 403), target
        assert scene.knock(f"/v1/audio/desk/{ticket}", {"api-key": UNKNOWN_KEY}) == 401
        scene.post("/v1/tickets", {"agent": "desk"}, ticket, 401)
    scene.post("/v1/tickets", {"agent": "desk"}, UNKNOWN_KEY, 401)
    scene.post("/v1/tickets", {"agent": KEY, "expires_in": 9999}, KEY, 404)
    scene.post("/v1/tickets", {KEY: KEY}, KEY, 400)


def webhook(scene: Scene, signature: str) -> tuple[int, str, str]:
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}
    form = urllib.parse.urlencode(FORM, doseq=True)
    return scene.request("POST", "/twilio/voice/desk", form, headers)


def twilio(scene: Scene):
    """Webhooks and media streams as Twilio signs them, one of them a whole call."""
    url = f"https://{PUBLIC}/twilio/voice/desk"
    for forged in (sign(url, FORM, FOREIGN_TWILIO), sign(url, token=TWILIO)):
        scene.secret("forged signature", forged)
        status, _, whole = webhook(scene, forged)
        assert status == 401
        scene.say("forged webhook", whole)
    for token in (TWILIO, SECOND_TWILIO):
        signature = scene.secret("signature", sign(url, FORM, token))
        status, twiml, whole = webhook(scene, signature)
        assert status == 200, twiml
        media = re.search(r'<Stream url="([^"]+)">', twiml)[1]
        ticket = scene.token("ticket of TwiML", media.rsplit("/", 1)[1])
        scene.say("TwiML", whole, ticket)
        path = media.removeprefix(f"wss://{PUBLIC}")
        forged = scene.secret("forged signature", sign(media, token=FOREIGN_TWILIO))
        assert scene.knock(path, {"X-Twilio-Signature": forged}) == 401
        good = {"X-Twilio-Signature": scene.secret("signature", sign(media, token=token))}
        asyncio.run(phone_call(scene, path, good))
        assert scene.knock(path, good) == 401
    bare = "/twilio/media/desk"
    for token, expected in ((TWILIO, 101), (FOREIGN_TWILIO, 401)):
        signature = scene.secret("signature", sign(f"wss://{PUBLIC}{bare}", token=token))
        assert scene.knock(bare, {"X-Twilio-Signature": signature}) == expected


def ulaw(audio: bytes) -> bytes:
    """Of 24 kHz, as telephones have it (ITU-T G.711)."""
    coded = bytearray()
    for at in range(0, len(audio) - 5, 6):
        sample = int.from_bytes(audio[at : at + 2], "little", signed=True)
        size = min(abs(sample), 32_635) + 132
        exponent = size.bit_length() - 8
        mantissa = (size >> (exponent + 3)) & 15
        coded.append(~((128 if sample < 0 else 0) | exponent << 4 | mantissa) & 255)
    return bytes(coded)


async def phone_call(scene: Scene, path: str, headers: dict):
    """Hears the greeting until the tool was asked, speaks, hears the answer, hangs up."""
    n_before = len(Services.looked_up)
    async with connect(f"wss://{scene.callers}{path}", additional_headers=headers, ssl=scene.tls) as line:

        async def send(event: str, **more):
            await line.send(json.dumps({"event": event, "streamSid": "MZ1", **more}))

        async def hear(n_media: int, enough=lambda: True):
            while n_media > 0 or not enough():
                message = json.loads(await asyncio.wait_for(line.recv(), 20))
                n_media -= message["event"] == "media"
                if message["event"] == "mark":
                    await send("mark", mark=message["mark"])

        await send("connected", protocol="Call", version="1.0.0")
        start = {
            "accountSid": FORM["AccountSid"][0],
            "callSid": MARKER,
            "tracks": ["inbound"],
            "customParameters": {"note": PARAMETER},
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        }
        await send("start", sequenceNumber="1", start={"streamSid": "MZ1", **start})
        await hear(20, lambda: len(Services.looked_up) > n_before)
        speech = ulaw(sound.voiced(1_500) + sound.silence(1_000))
        for n, at in enumerate(range(0, len(speech), 160)):
            payload = base64.b64encode(speech[at : at + 160]).decode()
            place = {"track": "inbound", "chunk": str(n + 1), "timestamp": str(n * 20)}
            await send("media", sequenceNumber=str(n + 2), media={**place, "payload": payload})
        await hear(60)
        await send("stop", stop={"accountSid": start["accountSid"], "callSid": MARKER})


def sdk_call(scene: Scene):
    """A conversation by the vendor's SDK; the model hears, is heard, and calls a function."""

    async def converse():
        client = AsyncOpenAI(api_key=KEY, websocket_base_url=f"wss://{scene.callers}/v1")
        options = {"websocket_connection_options": {"ssl": scene.tls}}
        async with client.realtime.connect(model="value", **options) as connection:
            talk = Talk(connection, "ga")
            vad = {"type": "server_vad", "silence_duration_ms": 300}
            await talk.configure(vad=vad, transcribe=True, instructions=f"Know {INSTRUCTIONS}.")
            await talk.write(f"I write {WRITTEN}.")
            assert REPLY in json.dumps(await talk.respond())
            await talk.say(sound.voiced(1_500) + sound.silence(800))
            completed = "conversation.item.input_audio_transcription.completed"
            [heard] = talk.of(completed) or [await talk.until(completed)]
            assert HEARD in heard["transcript"]
            # A mistake, so that the deployment sends an error.
            await connection.session.update(session={"type": "realtime", "voice": WRITTEN})
            await talk.until("error", errors=True)
            scene.events.extend(map(json.dumps, talk.events))

    asyncio.run(converse())


def deployments(scene: Scene):
    """An identity's token, and a key file whose first key the deployment does not take."""
    assert scene.knock("/v1/realtime?model=entra", {"api-key": KEY}) == 101
    by_file = "/v1/realtime?model=file"
    assert scene.knock(by_file, {"api-key": KEY}) >= 500
    (scene.folder / "key").write_text(NEW_FILE_KEY)
    wait_for(lambda: scene.knock(by_file, {"api-key": KEY}) == 101)


def client_certificates(scene: Scene):
    def with_pair(name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(scene.folder / "tls.crt"))
        context.load_cert_chain(scene.folder / f"{name}.crt", scene.folder / f"{name}.key")
        return context

    assert scene.knock(MODEL) == 401
    assert scene.knock(MODEL, tls=with_pair("client")) == 101
    with pytest.raises(Exception) as refused:
        scene.knock(MODEL, {"api-key": KEY}, tls=with_pair("tls"))
    assert not isinstance(refused.value, AssertionError)


def metrics(scene: Scene):
    for token, expected in ((None, 401), (WRONG_ADMIN, 401), (ADMIN, 200)):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for target in ("/metrics", f"/metrics?token={token}", f"/{token}"):
            connection = http.client.HTTPConnection(scene.admin, timeout=20)
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            is_known = target.startswith("/metrics")
            assert answer.status == (404 if expected == 200 and not is_known else expected), target
            if answer.status == 200:
                assert "trunkline_calls_total" in text
            scene.say(f"GET {target[:8]}", f"{answer.headers}\n{text}")


def checks(scene: Scene):
    """What `trunkline check` says of the configuration, and of others in which a secret stands at a mistake."""
    good = (scene.folder / "gateway.toml").read_text()
    assert run_check(scene, good) == 0
    for name, line in (
        ("api_key", UPSTREAM_KEY),
        ("client_secret", ENTRA_SECRET),
        ("auth_token", TWILIO),
        ("secret", SIGNING),
        ("token", ADMIN),
        ("instructions_prefix", f"Keep this: {PREFIX}."),
    ):
        right = f'\n{name} = "{line}"'
        assert right in good
        for wrong in (
            f"\n{name} = {line}",
            f'\n{name} = "{line}',
            f'\n{name} = "{line}" "',
            f'\n{name} = ["{line}"]',
            f'\n{name} = {{ value = "{line}" }}',
            f'\n{name}_ = "{line}"',
            f'\n{name}_env = "{line}"\n{name} = "{line}"',
            f'\n{name} = "{line}"\n{name} = "{line}"',
        ):
            assert run_check(scene, good.replace(right, wrong)) == 1, wrong


def run_check(scene: Scene, text: str) -> int:
    (scene.folder / "checked.toml").write_text(text)
    done = subprocess.run(
        [BINARY, "check", str(scene.folder / "checked.toml")], capture_output=True, text=True
    )
    scene.say("trunkline check", done.stdout + done.stderr)
    assert done.stdout + done.stderr
    return done.returncode


IDENTITY_LIBRARY = ("azure_core", "azure_identity", "typespec_client_core")


@pytest.mark.parametrize(
    "log_filter",
    [
        "trace",
        "trace,typespec_client_core::http=trace,azure_identity::x=trace,hyper=trace,rustls=trace",
    ],
    ids=["trace", "longer-targets"],
)
def test_no_secret_is_told_to_anybody(monkeypatch, tmp_path, log_filter):
    monkeypatch.setattr(Services, "asked", [])
    monkeypatch.setattr(Services, "looked_up", [])
    services = ThreadingHTTPServer(("127.0.0.1", 0), Services)
    threading.Thread(target=services.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{services.server_port}"
    signer = Signer(tmp_path, url)
    monkeypatch.setattr(Services, "jwk", signer.jwk)
    make_certificates(tmp_path)
    (tmp_path / "key").write_text(OLD_FILE_KEY)

    with ExitStack() as running:
        running.callback(services.shutdown)
        provider = Provider() if node_version() >= 20 else None
        if provider:
            running.callback(provider.stop)

        def start(name: str, arguments: list[str], text: str) -> Process:
            (tmp_path / f"{name}.toml").write_text(text)
            arguments = [*arguments, "--config", str(tmp_path / f"{name}.toml")]
            process = Process(arguments, tmp_path / f"{name}.log")
            running.callback(process.stop)
            return process

        simulators = []
        for name, text in (("simulator", SIMULATOR), ("other", f'api_keys = ["{NEW_FILE_KEY}"]')):
            process = start(name, ["simulate", "--listen", "127.0.0.1:0"], text)
            simulators.append(process.address("simulator listening"))
        monkeypatch.setenv("TRUNKLINE_LOG", log_filter)
        issuers = [url, *([provider.issuer] if provider else [])]
        gateway = start("gateway", ["serve"], config(tmp_path, url, issuers, *simulators))
        scene = Scene(tmp_path, gateway, url)
        for name in ("tls", "client", "ca"):
            pem = (tmp_path / f"{name}.key").read_text().splitlines()[1:-1]
            scene.token(f"{name}.key", ".".join(pem))
            # The number itself, without what all keys of the kind have before it.
            scene.secret(f"{name}.key", base64.b64decode("".join(pem))[36:68])

        callers_keys(scene)
        tokens(scene, signer, provider)
        ephemeral_keys(scene)
        tickets(scene)
        twilio(scene)
        sdk_call(scene)
        deployments(scene)
        client_certificates(scene)
        metrics(scene)
        checks(scene)
        if sys.platform == "linux":
            scene.say("command line", Path(f"/proc/{scene.pid}/cmdline").read_text())
        log = tmp_path / "gateway.log"
        wait_for(lambda: log.read_text().count('"dialect":"twilio"') >= 2)
    scene.say("standard output", "\n".join(gateway.lines))
    scene.say("log", log.read_text())

    assert len(Services.looked_up) == 2
    assert all(ARGUMENT in sent and PARAMETER in sent for sent in Services.looked_up)
    assert Services.asked == ["/tenant-3/oauth2/v2.0/token"] * 2
    leaks = [
        f"{name} in {where}: {excerpt(secret, text)}"
        for where, text in scene.said
        for name, secret in (scene.secrets | WORDS).items()
        if is_in(secret, text)
    ]
    leaks += [
        f"{name} in an event"
        for name, secret in scene.secrets.items()
        if any(is_in(secret, event) for event in scene.events)
    ]
    assert not leaks, "\n".join(dict.fromkeys(leaks))

    # It would have been seen.
    assert [where for where, text in scene.said if is_in(MARKER, text)] == ["log"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ended = [line["dialect"] for line in lines if line["message"] == "call ended"]
    assert ended.count("twilio") >= 2 and "realtime" in ended
    assert {"TRACE", "DEBUG", "INFO"} <= {line["level"] for line in lines}
    chatter = {
        line["target"]
        for line in lines
        if line["target"].startswith(IDENTITY_LIBRARY) and line["level"] not in ("WARN", "ERROR")
    }
    assert not chatter


def excerpt(secret: str | bytes, text: str) -> str:
    at = min(at for form in forms(secret) if (at := text.find(form)) >= 0)
    return text[max(0, at - 200) : at + 60]
