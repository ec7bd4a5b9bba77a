"""A conversation over an SDK connection: sends by the SDK's own methods, reads and validates every event."""

import asyncio
import base64
import contextlib
import json
import time
from dataclasses import dataclass

from openai import AsyncAzureOpenAI, AsyncOpenAI, omit
from websockets.exceptions import ConnectionClosed

import shapes
import sound

# Far beyond what any step takes; a test that waits this long has failed.
STEP_SECONDS = 15


@dataclass(frozen=True)
class Client:
    """One way to open a connection with openai-python."""

    name: str
    shape: str
    # Called with `address`, `model`, `key` and what else `connect` takes; gives the SDK's connection manager.
    connect: object

    def __str__(self) -> str:
        return self.name


def azure_preview(address, model, key, **options):
    """`/openai/realtime?api-version=&deployment=`, header `api-key`, `OpenAI-Beta`."""
    client = AsyncAzureOpenAI(
        azure_endpoint=f"http://{address}",
        # The SDK makes wss of any endpoint; only this option keeps ws.
        websocket_base_url=f"ws://{address}/openai",
        api_key=key,
        api_version="2025-04-01-preview",
    )
    return client.beta.realtime.connect(model=model, **options)


def openai_preview(address, model, key, **options):
    """`/v1/realtime?model=`, bearer, `OpenAI-Beta`."""
    client = AsyncOpenAI(websocket_base_url=f"ws://{address}/v1", api_key=key)
    return client.beta.realtime.connect(model=model, **options)


def azure_ga(address, model, key, **options):
    """`/openai/v1/realtime?model=`, the key as bearer: what Microsoft advises."""
    client = AsyncOpenAI(websocket_base_url=f"ws://{address}/openai/v1", api_key=key)
    return client.realtime.connect(model=model, **options)


def azure_ga_api_key(address, model, key, extra_headers=None, **options):
    """The same with header `api-key` and no bearer."""
    client = AsyncOpenAI(websocket_base_url=f"ws://{address}/openai/v1", api_key="unused")
    headers = {"Authorization": omit, "api-key": key, **(extra_headers or {})}
    return client.realtime.connect(model=model, extra_headers=headers, **options)


def openai_ga(address, model, key, **options):
    """`/v1/realtime?model=`, bearer."""
    client = AsyncOpenAI(websocket_base_url=f"ws://{address}/v1", api_key=key)
    return client.realtime.connect(model=model, **options)


CLIENTS = [
    Client("azure-preview", "preview", azure_preview),
    Client("openai-preview", "preview", openai_preview),
    Client("azure-ga", "ga", azure_ga),
    Client("azure-ga-api-key", "ga", azure_ga_api_key),
    Client("openai-ga", "ga", openai_ga),
]


class Talk:
    def __init__(self, connection, shape: str):
        self.connection = connection
        self.shape = shape
        self.events: list[dict] = []

    def name(self, ga_name: str) -> str:
        return shapes.event_name(self.shape, ga_name)

    async def next(self, timeout: float = STEP_SECONDS) -> dict:
        raw = await asyncio.wait_for(self.connection.recv_bytes(), timeout)
        shapes.validate(self.shape, raw)
        # What an application sees: the SDK's typed object, which is lenient by itself.
        parsed = self.connection.parse_event(raw)
        event = json.loads(raw)
        assert parsed.type == event["type"]
        self.events.append(event)
        return event

    async def until(self, ga_name: str, *, errors: bool = False, timeout: float = STEP_SECONDS) -> dict:
        """Reads on to the next event of that name; an `error` before it fails unless it is wanted."""
        wanted = self.name(ga_name)
        deadline = time.monotonic() + timeout
        while True:
            try:
                event = await self.next(max(0.0, deadline - time.monotonic()))
            except (asyncio.TimeoutError, ConnectionClosed) as error:
                raise AssertionError(f"{wanted} never came; last {self.kinds()[-20:]}") from error
            if event["type"] == wanted:
                return event
            assert errors or event["type"] != "error", event

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of(self, ga_name: str, response_id: str | None = None) -> list[dict]:
        return [
            event
            for event in self.events
            if event["type"] == self.name(ga_name)
            and (response_id is None or event["response_id"] == response_id)
        ]

    def audio(self, response_id: str) -> bytes:
        deltas = self.of("response.output_audio.delta", response_id)
        return b"".join(base64.b64decode(event["delta"], validate=True) for event in deltas)

    async def configure(self, **options):
        """Takes `session.created`, sets the session, waits until it is in force."""
        if not self.events:
            first = await self.next()
            assert first["type"] == "session.created", "session.created comes before anything else"
        await self.connection.session.update(session=shapes.session(self.shape, **options))
        return await self.until("session.updated")

    async def write(self, text: str) -> dict:
        await self.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        )
        return await self.until("conversation.item.done")

    async def say(self, audio: bytes, times_real_time: float = 10):
        """Appends as a microphone does, only faster; everything still passes the VAD sample by sample."""
        for chunk in sound.chunks(audio):
            await self.connection.input_audio_buffer.append(audio=chunk)
            await asyncio.sleep(0.020 / times_real_time)

    async def respond(self, **response) -> dict:
        await self.connection.response.create(**({"response": response} if response else {}))
        return await self.done()

    async def done(self) -> dict:
        return (await self.until("response.done"))["response"]


@contextlib.asynccontextmanager
async def call(client: Client, where: dict, **options):
    async with client.connect(**where, **options) as connection:
        yield Talk(connection, client.shape)
