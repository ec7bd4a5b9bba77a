"""What the gateway counts of an SDK caller's call, and that the call leaves nothing open."""

import asyncio
import re
import time
import urllib.request

import pytest

from stack import targets
from talk import CLIENTS, call

pytestmark = pytest.mark.skipif(targets() == ["direct"], reason="no gateway in this run")


def test_a_call_is_counted_and_leaves_nothing_open(stack):
    client = CLIENTS[0]
    where = stack.target("crossed", client.shape, "parrot")
    deployment = where["model"]

    async def conversation():
        async with call(client, where) as talk:
            await talk.configure(vad=None)
            await talk.write("Good morning.")
            assert total(stack, "trunkline_calls_active") >= 1
            await talk.respond()

    before = total(stack, "trunkline_calls_total", deployment)
    asyncio.run(conversation())
    deadline = time.monotonic() + 10
    while total(stack, "trunkline_calls_active") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert total(stack, "trunkline_calls_active") == 0
    assert total(stack, "trunkline_calls_total", deployment) == before + 1


def total(stack, name: str, deployment: str | None = None) -> float:
    """The sum over all labels, or over those of one deployment."""
    with urllib.request.urlopen(f"http://{stack.admin}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    lines = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    label = f'deployment="{deployment}"' if deployment else ""
    return sum(float(value) for labels, value in lines if label in labels)
