"""Streams as Plivo signs them, signed and checked by Plivo's own library, against a running gateway; and Vobiz's.

Vobiz has no library; what it signs is what its page "Validating callbacks" says.
"""

import base64
import hashlib
import hmac
import itertools
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
# Signed upgrades are good once, so each has one of its own.
NONCES = itertools.count(int(NONCE) + 1)
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


def fresh() -> str:
    return f"{next(NONCES):020}"


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
    url, nonces = f"https://{PUBLIC}{port}{target}", [fresh() for _ in range(4)]
    signatures = [sign(url, nonce) for nonce in nonces]
    assert upgrade(desk, target, headers(signatures[0], nonces[0])) == 101
    # By the main account's token; and while a token is changed, beside the signature by the other.
    assert upgrade(desk, target, headers(signatures[1], nonces[1], name="X-Plivo-Signature-Ma-V3")) == 101
    both = f"{sign(url, nonces[2], token='other')},{signatures[2]}"
    assert upgrade(desk, target, headers(both, nonces[2])) == 101
    assert validate_v3_signature("GET", url, nonces[2], TOKEN, both)
    assert upgrade(desk, target, headers(one_bit_off(signatures[3]), nonces[3])) == 401


def test_a_signed_upgrade_is_good_once(desk):
    """Under whatever name it is shown. The library remembers none."""
    nonce = fresh()
    signature = sign(f"https://{PUBLIC}{TARGET}", nonce)
    assert upgrade(desk, TARGET, headers(signature, nonce)) == 101
    assert upgrade(desk, TARGET, headers(signature, nonce)) == 401
    assert upgrade(desk, TARGET, headers(signature, nonce, name="X-Plivo-Signature-Ma-V3")) == 401
    assert upgrade(desk, f"{TARGET}/", headers(signature, nonce)) == 401


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


def sign_for_vobiz(url: str, nonce: str = NONCE) -> str:
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}{parts.path}.{nonce}"
    return base64.b64encode(hmac.digest(VOBIZ_TOKEN.encode(), base.encode(), hashlib.sha256)).decode()


@pytest.mark.parametrize("query", ["", "?campaign=7&zone=b"])
def test_what_vobiz_signs_comes_in(desk, query):
    target = f"/vobiz/stream/desk{query}"
    url = f"https://{PUBLIC}{target}"
    for signer in (sign_for_vobiz, lambda url, nonce: sign(url, nonce, VOBIZ_TOKEN)):
        for name in ("X-Vobiz-Signature-V3", "X-Vobiz-Signature-MA-V3"):
            nonce = fresh()
            signature = signer(url, nonce)
            assert upgrade(desk, target, headers(one_bit_off(signature), nonce, name)) == 401
            assert upgrade(desk, target, headers(signature, nonce, name)) == 101
    other = sign_for_vobiz(f"https://{PUBLIC}/vobiz/stream/door")
    assert upgrade(desk, target, headers(other, name="X-Vobiz-Signature-V3")) == 401
