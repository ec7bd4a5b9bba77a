"""Streams as Plivo signs them, signed and checked by Plivo's own library, against a running gateway; and Vobiz's.

Vobiz has no library; what it signs is what its page "Validating callbacks" says.
"""

import base64
import hashlib
import hmac
from urllib.parse import urlsplit

import pytest
from desk import PUBLIC, running

pytest.importorskip("plivo", reason="plivo is not installed: see tests/tools/setup.sh")

from plivo.exceptions import ValidationError  # noqa: E402
from plivo.utils import validate_v3_signature  # noqa: E402
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3  # noqa: E402

# All invented for this run of tests.
TOKEN = "plivo-0123456789abcdef"
VOBIZ_TOKEN = "vobiz-0123456789abcdef"
NONCE = "05429567804466091622"
TARGET = "/plivo/stream/desk"

ACCOUNTS = f"""
[[providers.plivo.accounts]]
tenant = "acme"
auth_token = "{TOKEN}"
[[providers.vobiz.accounts]]
tenant = "acme"
auth_token = "{VOBIZ_TOKEN}"
"""


@pytest.fixture(scope="module")
def desk():
    with running(ACCOUNTS, secrets=(TOKEN, VOBIZ_TOKEN)) as desk:
        yield desk


def sign(url: str, nonce: str = NONCE, token: str = TOKEN) -> str:
    """Of a GET, which an upgrade is."""
    signature = get_signature_v3(token, construct_get_url(url, {}).decode(), nonce).decode()
    assert validate_v3_signature("GET", url, nonce, token, signature)
    return signature


def headers(signature: str, nonce: str | None = NONCE, name: str = "X-Plivo-Signature-V3") -> dict[str, str]:
    vendor = name.split("-")[1]
    found = {name: signature}
    if nonce is not None:
        found[f"X-{vendor}-Signature-V3-Nonce"] = nonce
    return found


def upgrade(desk, target: str, sent: dict[str, str]) -> int:
    return desk.upgrade(target, sent, subprotocols=["audio.plivo.com"])


def one_bit_off(signature: str) -> str:
    digest = bytearray(base64.b64decode(signature))
    digest[7] ^= 0x10
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    "target",
    [
        TARGET,
        f"{TARGET}?campaign=7",
        f"{TARGET}?zone=b&area=1&zone=a",
        # Sorted by name, in which `a` comes before `a-b`; as text, `a-b=` comes before `a=`.
        f"{TARGET}?a-b=1&a=2",
        f"{TARGET}?empty=&bare&spaced=x%20y+z&plus=%2B&slash=%2F",
    ],
)
@pytest.mark.parametrize("port", ["", ":443"])
def test_what_plivo_signs_comes_in(desk, target, port):
    signature = sign(f"https://{PUBLIC}{port}{target}")
    assert upgrade(desk, target, headers(signature)) == 101
    # By the main account's token; and while a token is changed, beside the signature by the other.
    assert upgrade(desk, target, headers(signature, name="X-Plivo-Signature-Ma-V3")) == 101
    other = sign(f"https://{PUBLIC}{target}", token="other")
    assert upgrade(desk, target, headers(f"{other},{signature}")) == 101
    assert validate_v3_signature("GET", f"https://{PUBLIC}{port}{target}", NONCE, TOKEN, f"{other},{signature}")
    assert upgrade(desk, target, headers(one_bit_off(signature))) == 401


def test_a_nonce_has_no_end(desk):
    """Neither the library nor the gateway remembers one."""
    sent = headers(sign(f"https://{PUBLIC}{TARGET}"))
    assert [upgrade(desk, TARGET, sent) for _ in range(2)] == [101, 101]


def test_a_forged_stream_is_refused(desk):
    url = f"https://{PUBLIC}{TARGET}"
    good = sign(url)
    posted = get_signature_v3(TOKEN, construct_post_url(url, {"CallUUID": "c-1"}).decode(), NONCE).decode()
    for target, sent in (
        (TARGET, {}),
        (TARGET, headers(sign(url, token="wrong"))),
        (TARGET, headers(posted)),
        (TARGET, headers(good, None)),
        (TARGET, headers(good, NONCE[:-1] + "3")),
        (TARGET, headers("")),
        (TARGET, headers(good[:-1])),
        (f"{TARGET}?admin=1", headers(good)),
        (TARGET, headers(sign(f"{url}?a=1"))),
        (TARGET, headers(sign(f"https://other.example{TARGET}"))),
        (TARGET, headers(sign(f"https://{PUBLIC}:8443{TARGET}"))),
        ("/vobiz/stream/desk", headers(sign(f"https://{PUBLIC}/vobiz/stream/desk"))),
    ):
        assert upgrade(desk, target, sent) == 401, (target, sent)


def test_the_library_signs_no_address_of_a_websocket(desk):
    """So an upgrade is signed as `https`. The configured `wss` would be taken as well: it takes the token to make one."""
    url = f"wss://{PUBLIC}{TARGET}"
    signature = get_signature_v3(TOKEN, construct_get_url(url, {}).decode(), NONCE).decode()
    with pytest.raises(ValidationError):
        validate_v3_signature("GET", url, NONCE, TOKEN, signature)
    assert upgrade(desk, TARGET, headers(signature)) == 101


def sign_for_vobiz(url: str) -> str:
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}{parts.path}.{NONCE}"
    return base64.b64encode(hmac.digest(VOBIZ_TOKEN.encode(), base.encode(), hashlib.sha256)).decode()


@pytest.mark.parametrize("query", ["", "?campaign=7&zone=b"])
def test_what_vobiz_signs_comes_in(desk, query):
    target = f"/vobiz/stream/desk{query}"
    url = f"https://{PUBLIC}{target}"
    for signature in (sign_for_vobiz(url), sign(url, token=VOBIZ_TOKEN)):
        for name in ("X-Vobiz-Signature-V3", "X-Vobiz-Signature-MA-V3"):
            assert upgrade(desk, target, headers(signature, name=name)) == 101
            assert upgrade(desk, target, headers(one_bit_off(signature), name=name)) == 401
    other = sign_for_vobiz(f"https://{PUBLIC}/vobiz/stream/door")
    assert upgrade(desk, target, headers(other, name="X-Vobiz-Signature-V3")) == 401
