"""Requests as Twilio signs them, signed by Twilio's own library, against a running gateway."""

import base64
import http.client
import re
from urllib.parse import urlencode

import pytest
from stack import DEPLOYMENT_KEY, Stack
from twilio.request_validator import RequestValidator
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

# All invented for this run of tests.
TOKEN = "twilio-0123456789abcdef"
OLD_TOKEN = "twilio-fedcba9876543210"
SIGNING = "signing-0123456789abcdef0123456789abcdef"
PUBLIC = "voice.example.com"
MEDIA = f"wss://{PUBLIC}/twilio/media/desk"


def config(simulator: str, public: str = PUBLIC) -> str:
    return f"""
[listener]
address = "127.0.0.1:0"
public_url = "wss://{public}"
[listener.limits]
calls_per_second_per_tenant = 0
failed_auth_per_minute = 0
[admin]
address = "127.0.0.1:0"
[auth]
mode = "keys"
[auth.signing]
secret = "{SIGNING}"
[tenants.acme]
[[twilio.accounts]]
tenant = "acme"
auth_token = "{TOKEN}"
second_auth_token = "{OLD_TOKEN}"
[deployments.d]
url = "ws://{simulator}"
model = "gpt-realtime"
api_key = "{DEPLOYMENT_KEY}"
[agents.desk]
deployment = "d"
"""


@pytest.fixture(scope="module")
def gateway():
    """The address of a gateway with a Twilio account; at its end nothing secret is in its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUNKLINE_LOG", "trace")
        with Stack(gateway=False) as stack:
            process = stack.start(["serve"], "gateway", config(stack.simulators["parrot"]))
            yield process.address("callers")
            log = stack.log("gateway").read_text()
            assert "made a ticket" in log or "call ended" in log, log[-2000:]
            for secret in (TOKEN, OLD_TOKEN, SIGNING, "tt_", "/twilio/media"):
                assert secret not in log, secret


class Form(dict):
    """Names with all their values, as web frameworks hand them to Twilio's library."""

    def getlist(self, name):
        return self[name]


FORM = Form(
    {
        "CallSid": ["CA0123456789abcdef"],
        "AccountSid": ["AC0123456789abcdef"],
        "From": ["+15550001111"],
        "To": ["+15550002222"],
        "CallerName": ["Jürgen & Söhne"],
        "Empty": [""],
        "Twice": ["b", "a", "b"],
        "a_small_letter": ["1"],
    }
)


def sign(url: str, form: Form | None = None, token: str = TOKEN) -> str:
    return RequestValidator(token).compute_signature(url, form or {})


def webhook(gateway: str, target: str, signature: str | None, form: Form = FORM) -> tuple[int, str]:
    connection = http.client.HTTPConnection(gateway, timeout=20)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if signature is not None:
        headers["X-Twilio-Signature"] = signature
    connection.request("POST", target, urlencode(form, doseq=True), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def stream(gateway: str, target: str, signature: str | None) -> int:
    headers = {} if signature is None else {"X-Twilio-Signature": signature}
    try:
        with connect(f"ws://{gateway}{target}", additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def one_bit_off(signature: str) -> str:
    digest = bytearray(base64.b64decode(signature))
    digest[11] ^= 0x80
    return base64.b64encode(digest).decode()


# Without these two it is no call, whoever signed it.
CALL = {name: FORM[name] for name in ("CallSid", "AccountSid")}
FORMS = [
    Form(),
    Form({"Empty": [""]}),
    Form({"Empty": ["", ""], "Body": ["a=b&c+d %41"]}),
    # Twilio's library takes each value of a name once.
    Form({"MediaUrl": ["https://b.example/?x=1", "https://a.example/", "https://b.example/?x=1"]}),
    Form({"Body": ["Straße 😀 مرحبا"], "zeta": ["1"], "Alpha": ["2"], "_": ["3"], "Äpfel": ["4"]}),
    Form({"SpeechResult": ["line one\r\nline two\t"], "Digits": ["*#"]}),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "+".join(form) or "nothing")
@pytest.mark.parametrize("query", ["", "?", "?a=1&a=2&b=", "?name=J%C3%BCrgen&flag"])
def test_every_form_is_signed_as_the_library_does(gateway, form, query):
    target = f"/twilio/voice/desk{query}"
    form = Form(CALL, **form)
    signature = sign(f"https://{PUBLIC}{target}", form)
    assert webhook(gateway, target, signature, form)[0] == 200
    assert webhook(gateway, target, one_bit_off(signature), form)[0] == 401
    assert webhook(gateway, target, signature, Form(form, Extra=["1"]))[0] == 401
    assert webhook(gateway, f"{target}&" if query else f"{target}?a", signature, form)[0] == 401


def test_a_port_of_its_own_is_signed():
    public = f"{PUBLIC}:8443"
    with Stack(gateway=False) as stack:
        process = stack.start(["serve"], "gateway", config(stack.simulators["parrot"], public))
        gateway = process.address("callers")
        for authority, is_good in ((public, True), (PUBLIC, False), (f"{PUBLIC}:443", False)):
            status, text = webhook(gateway, "/twilio/voice/desk", sign(f"https://{authority}/twilio/voice/desk", FORM))
            assert status == (200 if is_good else 401), text
            signature = sign(f"wss://{authority}/twilio/media/desk")
            assert stream(gateway, "/twilio/media/desk", signature) == (101 if is_good else 401)
            assert stream(gateway, "/twilio/media/desk", one_bit_off(signature)) == 401


@pytest.mark.parametrize("target", ["/twilio/voice/desk", "/twilio/voice/desk?site=1&x=%20y+z"])
@pytest.mark.parametrize("token", [TOKEN, OLD_TOKEN])
@pytest.mark.parametrize("port", ["", ":443"])
def test_a_call_comes_in_by_webhook_and_stream(gateway, target, token, port):
    url = f"https://{PUBLIC}{port}{target}"
    signature = sign(url, FORM, token)
    assert RequestValidator(token).validate(url, FORM, signature)
    status, twiml = webhook(gateway, target, signature)
    assert status == 200, twiml
    address = re.search(r'<Stream url="([^"]+)">', twiml)[1]
    path = address.removeprefix(f"wss://{PUBLIC}")
    assert path.startswith("/twilio/media/desk/tt_"), twiml
    assert stream(gateway, path, sign(address, token="wrong")) == 401
    assert stream(gateway, path, sign(address, token=token)) == 101
    # The address was for one call.
    assert stream(gateway, path, sign(address, token=token)) == 401


def test_a_forged_webhook_is_refused(gateway):
    url = f"https://{PUBLIC}/twilio/voice/desk"
    other = Form(FORM, From=["+15550009999"])
    for signature, form in (
        (None, FORM),
        ("", FORM),
        (sign(url, FORM, "wrong"), FORM),
        (sign(url, FORM), other),
        (sign(url), FORM),
        (sign(f"http://{gateway}/twilio/voice/desk", FORM), FORM),
        (sign(url.replace("desk", "door"), FORM), FORM),
    ):
        status, text = webhook(gateway, "/twilio/voice/desk", signature, form)
        assert status == 401, text


def test_a_stream_without_a_ticket_is_let_in_by_its_signature(gateway):
    assert stream(gateway, "/twilio/media/desk", sign(MEDIA)) == 101
    # With the slash that Twilio may append, in what it signs or in what it asks for.
    assert stream(gateway, "/twilio/media/desk", sign(f"{MEDIA}/")) == 101
    assert stream(gateway, "/twilio/media/desk/", sign(MEDIA)) == 101
    assert stream(gateway, "/twilio/media/desk", None) == 401
    assert stream(gateway, "/twilio/media/desk", sign(MEDIA.replace("wss", "https"))) == 401
    assert stream(gateway, "/twilio/media/desk", sign(f"ws://{gateway}/twilio/media/desk")) == 401
