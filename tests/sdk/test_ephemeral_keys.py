"""Ephemeral keys as the vendor's SDK asks for them, and the sessions that they open."""

import time

import pytest
from openai import AuthenticationError, BadRequestError, OpenAI
from stack import CALLER_KEY
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


@pytest.fixture
def server(stack):
    """A client on a server, with a real key."""
    with OpenAI(api_key=CALLER_KEY, base_url=f"http://{stack.gateway}/v1", max_retries=0) as client:
        yield client


def first_event(stack, target: str, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    with connect(f"ws://{stack.gateway}{target}", additional_headers=headers) as socket:
        return socket.recv(timeout=20)


def test_a_key_is_made_and_opens_sessions_of_its_model(stack, server):
    made = server.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={
            "type": "realtime",
            "model": "ga-parrot",
            "instructions": "Be brief.",
            "audio": {"output": {"voice": "marin"}, "input": {"turn_detection": None}},
        },
    )
    assert made.value.startswith("ek_")
    assert 50 <= made.expires_at - time.time() <= 61
    session = made.session
    assert (session.type, session.object, session.expires_at) == ("realtime", "realtime.session", 0)
    assert (session.model, session.audio.output.voice) == ("ga-parrot", "marin")
    for target in ("/v1/realtime", "/v1/realtime?model=ga-parrot", "/openai/v1/realtime?model=ga-parrot"):
        assert "session.created" in first_event(stack, target, made.value)
    with pytest.raises(InvalidStatus) as refused:
        first_event(stack, "/v1/realtime?model=ga-script", made.value)
    assert refused.value.response.status_code == 403


def test_a_client_without_a_real_key_makes_none(stack, server):
    key = server.realtime.client_secrets.create().value
    for bad in (key, "ek_nonsense", "nonsense"):
        with pytest.raises(AuthenticationError):
            server.with_options(api_key=bad).realtime.client_secrets.create()


def test_what_is_wrong_is_said_in_the_vendors_way(stack, server):
    with pytest.raises(BadRequestError) as wrong:
        server.realtime.client_secrets.create(session={"type": "realtime", "voice": "marin"})
    assert wrong.value.code == "unknown_parameter"
    with pytest.raises(BadRequestError):
        server.realtime.client_secrets.create(expires_after={"anchor": "created_at", "seconds": 9})
