"""Pipecat's own serialisers against the gateway: calls by its protobuf frames, and its view of the telephone dialects."""

import asyncio
import base64
import contextlib
import json
import re
import warnings

import pytest
from desk import Handset, likeness, running, spoken
from stack import CALLER_KEY, ROOT
from websockets.asyncio.client import connect

pytest.importorskip("pipecat", reason="Pipecat needs Python 3.11 and tests/sdk/oracles.txt")

with warnings.catch_warnings():
    # The standard library's goodbye to it; where it is gone, audioop-lts has its name.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop  # noqa: E402

import pipecat.processors.frameworks.rtvi.models as rtvi  # noqa: E402
from loguru import logger  # noqa: E402
from pipecat.frames.frames import (  # noqa: E402
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TranscriptionFrame,
)
from pipecat.serializers.exotel import ExotelFrameSerializer  # noqa: E402
from pipecat.serializers.genesys import GenesysAudioHookSerializer  # noqa: E402
from pipecat.serializers.plivo import PlivoFrameSerializer  # noqa: E402
from pipecat.serializers.protobuf import ProtobufFrameSerializer  # noqa: E402
from pipecat.serializers.rtvi_client import RTVIClientSerializer  # noqa: E402
from pipecat.serializers.telnyx import TelnyxFrameSerializer  # noqa: E402
from pipecat.serializers.twilio import TwilioFrameSerializer  # noqa: E402
from pipecat.serializers.vonage import VonageFrameSerializer  # noqa: E402

logger.remove()

RATE = 16_000
GOLDEN = ROOT / "tests/golden/ingress"


@pytest.fixture(scope="module")
def desk():
    with running(secrets=(CALLER_KEY,)) as desk:
        yield desk


class Client(Handset):
    """What Pipecat calls output is what a client sends, and its input is what the gateway says."""

    def __init__(self, socket):
        super().__init__(socket, RATE)
        self.serializer = ProtobufFrameSerializer()
        self.rtvi = RTVIClientSerializer()

    async def tell(self, frame):
        message = await self.serializer.serialize(frame)
        assert message is not None, frame
        await self.socket.send(message)

    async def ready(self, version: str):
        about = rtvi.AboutClientData(library="tests")
        data = rtvi.ClientReadyData(version=version, about=about).model_dump(exclude_none=True)
        message = rtvi.Message(type="client-ready", id="r-1", data=data)
        await self.tell(OutputTransportMessageUrgentFrame(message=message.model_dump(exclude_none=True)))
        await self.until("ready", lambda: self.of("bot-ready"))


    def frame(self, pcm):
        audio = OutputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1)
        # Nothing within it waits for anything, so that one step ends it.
        try:
            self.serializer.serialize(audio).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the serialiser waits")

    async def take(self, message):
        assert isinstance(message, bytes), message
        frame = await self.serializer.deserialize(message)
        if isinstance(frame, InputAudioRawFrame):
            assert (frame.sample_rate, frame.num_channels) == (RATE, 1)
            self.play(frame.audio)
        elif isinstance(frame, InterruptionFrame):
            self.clear()
            self.note("interruption", frame)
        elif isinstance(frame, InputTransportMessageFrame):
            self.note(frame.message["type"], frame.message)
            known = await self.rtvi.deserialize(json.dumps(frame.message))
            if known is not None:
                self.note("known", known)
        else:
            raise AssertionError(f"{frame} of {message.hex()}")

    def of(self, kind: str) -> list:
        return [it for name, it in self.log if name == kind]


@contextlib.asynccontextmanager
async def call(desk):
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    async with connect(f"ws://{desk.address}/pipecat/audio/desk", additional_headers=headers) as socket:
        yield Client(socket)


@pytest.mark.parametrize(("version", "told"), [("1.2.0", "1.2.0"), (rtvi.PROTOCOL_VERSION, rtvi.PROTOCOL_VERSION)])
def test_a_client_hears_its_version(desk, version, told):
    async def run():
        async with call(desk) as client, client.on():
            await client.ready(version)
            ready = rtvi.BotReady.model_validate(client.of("bot-ready")[0])
            assert (ready.id, ready.data.version) == ("r-1", told)

    asyncio.run(run())


def test_a_call(desk):
    said = spoken("one", "two", "three", rate=RATE)

    async def run():
        async with call(desk) as client, client.on():
            await client.ready(rtvi.PROTOCOL_VERSION)
            client.say(said)
            await client.until("understood", lambda: client.of("user-transcription"))
            message = rtvi.UserTranscriptionMessage.model_validate(client.of("user-transcription")[0])
            assert (message.data.text, message.data.final) == ("one two three", True)
            # And as a Pipecat client would take it.
            assert [it.text for it in client.of("known") if isinstance(it, TranscriptionFrame)] == ["one two three"]
            await client.until("answered", lambda: len(client.heard) >= len(said) // 2)
            await client.until_quiet()
            assert likeness(said, client.heard) > 0.9
            await client.until("what was said", lambda: client.of("bot-transcription"))
            for message in client.of("bot-transcription"):
                assert rtvi.BotTranscriptionMessage.model_validate(message).data.text

            # Frames that mean nothing to a gateway do no harm.
            await client.tell(TextFrame(text="hello"))
            await client.tell(TranscriptionFrame(text="hello", user_id="u", timestamp="t"))
            await client.tell(InterruptionFrame())
            await client.tell(OutputTransportMessageUrgentFrame(message={"label": "rtvi-ai", "type": "x", "id": "1"}))
            await client.tell(OutputTransportMessageUrgentFrame(message={"data": {"deep": [{"er": 1}]}}))

            n_heard = len(client.heard)
            client.say(spoken("four", "five", "six", "seven", "eight", rate=RATE))
            await client.until("the second answer", lambda: len(client.heard) > n_heard + RATE)
            client.say(spoken("nine", rate=RATE))
            await client.until("interruption", lambda: client.of("interruption"))
            assert not client.of("error") and not client.closed, client.log

    asyncio.run(run())


def test_a_client_is_told_why_its_call_ends(desk):
    async def run():
        async with call(desk) as client, client.on():
            await client.ready("2.0.0")
            await client.tell(OutputAudioRawFrame(audio=bytes(960), sample_rate=24_000, num_channels=1))
            await client.until("over", lambda: client.closed)
            error = rtvi.Error.model_validate(client.of("error")[0])
            assert error.data.fatal and error.data.error

    asyncio.run(run())


# The rates and codecs of the golden calls; nothing is resampled.
def of_twilio():
    params = TwilioFrameSerializer.InputParams(auto_hang_up=False, sample_rate=8000)
    return TwilioFrameSerializer("MZ01", params=params)


def of_telnyx():
    # Pipecat's names are the call's: inbound is what it sends. The golden call hears A-law and says L16, which Pipecat's
    # serialiser does not speak; A-law stands in for it.
    params = TelnyxFrameSerializer.InputParams(
        auto_hang_up=False, sample_rate=8000, inbound_encoding="PCMA", outbound_encoding="PCMA"
    )
    return TelnyxFrameSerializer("s-1", "PCMA", "PCMA", params=params)


def of_plivo():
    params = PlivoFrameSerializer.InputParams(auto_hang_up=False, sample_rate=8000)
    return PlivoFrameSerializer("20170ada", params=params)


def of_exotel():
    params = ExotelFrameSerializer.InputParams(exotel_sample_rate=RATE, sample_rate=RATE)
    return ExotelFrameSerializer("s-1", params=params)


def of_vonage():
    return VonageFrameSerializer(VonageFrameSerializer.InputParams(vonage_sample_rate=RATE, sample_rate=RATE))


def of_genesys():
    return GenesysAudioHookSerializer(GenesysAudioHookSerializer.InputParams(sample_rate=8000))


BOTH_CHANNELS = '{"type":"audio","format":"PCMU","channels":["external","internal"],"rate":8000},'


def recorded(name: str) -> tuple[list, list[str]]:
    """The messages of a golden call's far end, and all that came of it."""
    messages = []
    for line in (GOLDEN / f"{name}-call.in").read_text().splitlines():
        if line.startswith("<#"):
            messages.append(bytes.fromhex(line[2:].strip()))
        elif line.startswith("< "):
            # Two channels or one are offered. Pipecat takes what comes first and we what we want, so one is offered here.
            messages.append(line[2:].replace(BOTH_CHANNELS, ""))
    return messages, (GOLDEN / f"{name}-call.out").read_text().splitlines()


AS_PCM = {
    "twilio": lambda audio: audioop.ulaw2lin(audio, 2),
    "telnyx": lambda audio: audioop.alaw2lin(audio, 2),
    "exotel": bytes,
    "vonage": bytes,
    "genesys": lambda audio: audioop.ulaw2lin(audio, 2),
}


class Setup:
    audio_in_sample_rate = 8000


@pytest.mark.parametrize("serializer", [of_twilio, of_telnyx, of_plivo, of_exotel, of_vonage, of_genesys])
def test_recorded_calls_say_to_pipecat_what_they_say_to_us(serializer):
    name = serializer.__name__.removeprefix("of_")
    messages, ours = recorded(name)

    async def theirs():
        pipecat = serializer()
        await pipecat.setup(Setup())
        frames = [await pipecat.deserialize(message) for message in messages]
        return [frame for frame in frames if frame is not None]

    frames = asyncio.run(theirs())
    digits = [frame.button.value for frame in frames if isinstance(frame, InputDTMFFrame)]
    # Vonage's old shape of a key, without a type, is one that Pipecat does not know.
    expected = [line.split()[1] for line in ours if line.startswith("dtmf ")][: 1 if name == "vonage" else None]
    assert digits == expected and digits
    # Plivo's golden call is L16, which Pipecat takes for mu-law; that payloads are found is what counts here.
    heard = [frame for frame in frames if isinstance(frame, InputAudioRawFrame)]
    first = next(bytes.fromhex(line.split()[1]) for line in ours if line.startswith("audio "))
    assert heard and (name == "plivo" or heard[0].audio == AS_PCM[name](first)), name


def shape(message):
    """A message without what differs from call to call: names, and the kinds of what they stand for."""
    if isinstance(message, dict):
        return {name: shape(value) for name, value in message.items()}
    if isinstance(message, list):
        return [shape(value) for value in message]
    return type(message).__name__


# What we say beyond Pipecat, or do not say, and why it is no mistake.
MORE = {
    # Exotel's documentation numbers what it is sent.
    ("exotel", "media"): {"sequence_number": "str", "media": {"chunk": "str", "timestamp": "str"}},
    ("exotel", "clear"): {"sequence_number": "str"},
}
LESS = {
    # Plivo's documentation has none in `playAudio`.
    ("plivo", "playAudio"): {"streamId"},
    # Genesys gives a position in what a client sends only, and takes either.
    ("genesys", "event"): {"position"},
}


def added(base, more):
    return {**base, **{name: added(base.get(name, {}), it) if isinstance(it, dict) else it for name, it in more.items()}}


@pytest.mark.parametrize("serializer", [of_twilio, of_telnyx, of_plivo, of_exotel, of_vonage, of_genesys])
def test_audio_and_clear_are_written_as_pipecat_writes_them(serializer):
    name = serializer.__name__.removeprefix("of_")
    _, lines = recorded(name)
    texts = [json.loads(line.split("text ", 1)[1]) for line in lines if re.match(r"(  answered )?text ", line)]
    # An empty payload has no shape to compare.
    binary = [line for line in lines if line.startswith("binary ")]

    async def theirs():
        pipecat = serializer()
        await pipecat.setup(Setup())
        rate = RATE if name in ("exotel", "vonage") else 8000
        if name == "genesys":
            # It says nothing before the session is open.
            await pipecat.deserialize(next(m for m in recorded(name)[0] if isinstance(m, str)))
        audio = OutputAudioRawFrame(audio=b"\1\2" * (rate // 5), sample_rate=rate, num_channels=1)
        return await pipecat.serialize(audio), await pipecat.serialize(InterruptionFrame())

    for message in asyncio.run(theirs()):
        if isinstance(message, bytes):
            assert binary, name
            continue
        assert message, name
        message = json.loads(message)
        kind = message.get("event") or message.get("action") or message.get("type")
        ours = [it for it in texts if kind in (it.get("event"), it.get("action"), it.get("type"))]
        assert ours, (name, kind)
        expected = shape(message)
        for field in LESS.get((name, kind), ()):
            expected.pop(field, None)
        assert shape(ours[0]) == added(expected, MORE.get((name, kind), {})), (name, kind)
        if "payload" in message.get("media", {}):
            base64.b64decode(ours[0]["media"]["payload"], validate=True)
