"""One stack for the whole run, and the clients and targets that the tests are repeated for."""

import os

import pytest

from stack import Stack, targets
from talk import CLIENTS

# The SDK takes addresses, keys and headers from the environment, `websockets` a proxy; the tests give their own.
for variable in list(os.environ):
    if variable.startswith(("OPENAI_", "AZURE_OPENAI_")) or variable.upper().endswith("_PROXY"):
        del os.environ[variable]


@pytest.fixture(scope="session")
def stack():
    with Stack(gateway=targets() != ["direct"]) as running:
        yield running


@pytest.fixture(params=CLIENTS, ids=str)
def client(request):
    return request.param


@pytest.fixture(params=targets())
def target(request):
    """`direct` to the stand-in, or through the gateway to a deployment of the `same` or the other shape."""
    return request.param


@pytest.fixture
def at(stack, target, client):
    """Where this client finds a stand-in: `at("parrot")`."""
    return lambda stand_in: stack.target(target, client.shape, stand_in)


NOTES = pytest.StashKey[list[str]]()


@pytest.fixture
def note(request):
    """Adds a line to what stands under the results."""
    return request.config.stash.setdefault(NOTES, []).append


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(NOTES, []):
        terminalreporter.write_line(line)
