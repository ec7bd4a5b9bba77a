"""Calls by a client that is generated from `proto/trunkline/v1/media.proto`, as anybody would generate one."""

import asyncio
import contextlib
import importlib
import sys

import pytest
from desk import Handset, likeness, running, spoken
from stack import CALLER_KEY, ROOT
from websockets.asyncio.client import connect

protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed: see tests/tools/setup.sh")

SUBPROTOCOL = "trunkline.v1.media"
RATE = 16_000


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """The generated module."""
    folder = tmp_path_factory.mktemp("proto")
    proto = ROOT / "proto"
    arguments = ["protoc", f"-I{proto}", f"--python_out={folder}", str(proto / "trunkline/v1/media.proto")]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("trunkline.v1.media_pb2")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def desk():
    with running(secrets=(CALLER_KEY,)) as desk:
        yield desk


class Client(Handset):
    def __init__(self, media, socket):
        super().__init__(socket, RATE)
        self.media = media

    async def tell(self, **message):
        await self.socket.send(self.media.ClientMessage(**message).SerializeToString())

    def frame(self, pcm):
        return self.media.ClientMessage(audio=self.media.Audio(data=pcm)).SerializeToString()

    async def take(self, message):
        assert isinstance(message, bytes), message
        said = self.media.ServerMessage.FromString(message)
        kind = said.WhichOneof("message")
        content = getattr(said, kind)
        if kind == "audio":
            self.play(content.data)
        elif kind == "mark":
            self.mark(content.name)
        else:
            if kind == "clear":
                self.clear()
            self.note(kind, content)

    async def played(self, mark):
        self.note("played", mark)
        await self.tell(mark=self.media.Mark(name=mark))

    def words(self, speaker: str) -> str:
        return " ".join(it.text for kind, it in self.log if kind == "transcript" and it.speaker == speaker)

    def of(self, kind: str) -> list:
        return [it for name, it in self.log if name == kind]


@contextlib.asynccontextmanager
async def call(desk, media, **start):
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    url = f"ws://{desk.address}/v1/audio/desk"
    async with connect(url, additional_headers=headers, subprotocols=[SUBPROTOCOL]) as socket:
        assert socket.subprotocol == SUBPROTOCOL
        client = Client(media, socket)
        codec = media.Format(codec=media.CODEC_PCM16, rate=RATE)
        await client.tell(start=media.Start(format=codec, **start))
        async with client.on():
            await client.until("started", lambda: client.of("started"))
            yield client


def test_a_whole_call(desk, media):
    said = spoken("one", "two", "three", rate=RATE)

    async def run():
        async with call(desk, media, caller="+15550001111", call_id="mine-1", parameters={"queue": "7"}) as client:
            started = client.log[0][1]
            assert client.log[0][0] == "started" and started.call_id
            assert (started.format.codec, started.format.rate) == (media.CODEC_PCM16, RATE)
            assert (started.output.codec, started.output.rate) == (media.CODEC_PCM16, RATE)

            client.say(said)
            await client.until("understood", lambda: client.words("caller") == "one two three")
            await client.until("answered", lambda: len(client.heard) >= len(said) // 2)
            await client.until_quiet()
            assert client.words("assistant")
            assert likeness(said, client.heard) > 0.9
            # Marks come in order, and the last of a reply is behind all of it.
            assert client.of("played") and len(set(client.of("played"))) == len(client.of("played"))

            # A reply that is interrupted: words at once, and then over the answer to them.
            client.say(spoken("four", "five", "six", "seven", "eight", rate=RATE))
            n_heard = len(client.heard)
            await client.until("the second answer", lambda: len(client.heard) > n_heard + RATE)
            client.say(spoken("nine", rate=RATE))
            await client.until("clear", lambda: client.of("clear"))
            await client.until("understood over the reply", lambda: client.words("caller").endswith("nine"))

            # Keys go to the model together, up to the terminator.
            n_log = len(client.log)
            for digit in "42#":
                await client.tell(dtmf=media.Dtmf(digit=digit))
            await client.until(
                "keys answered", lambda: any(kind == "transcript" for kind, _ in client.log[n_log:])
            )
            assert not client.of("error"), client.log

            await client.tell(end=media.End())
            await client.until("over", lambda: client.closed)
            return client

    client = asyncio.run(run())
    assert client.socket.close_code == 1000


def test_what_is_no_call_is_told_why(desk, media):
    async def run(first: bytes):
        headers = {"Authorization": f"Bearer {CALLER_KEY}"}
        url = f"ws://{desk.address}/v1/audio/desk"
        async with connect(url, additional_headers=headers, subprotocols=[SUBPROTOCOL]) as socket:
            await socket.send(first)
            said = media.ServerMessage.FromString(await asyncio.wait_for(socket.recv(), 20))
            assert said.WhichOneof("message") == "error", said
            assert said.error.code and said.error.message
            await asyncio.wait_for(socket.wait_closed(), 20)
            return said.error.code

    codes = [
        asyncio.run(run(media.ClientMessage(audio=media.Audio(data=b"\0\0")).SerializeToString())),
        asyncio.run(run(b"\xff\xff\xff")),
        asyncio.run(
            run(media.ClientMessage(start=media.Start(format=media.Format(rate=12345))).SerializeToString())
        ),
    ]
    assert len(set(codes)) == 3, codes
