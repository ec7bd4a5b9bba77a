"""A gateway whose agent `desk` answers calls, and callers that the tests write in a vendor's own words.

The stand-in behind `desk` says back what it hears and knows spoken digits, so that a test can tell which of its words
arrived. Standard library and `websockets` only.
"""

import array
import asyncio
import contextlib
import time
import wave
from dataclasses import dataclass, field

from stack import CALLER_KEY, COMMON, DEPLOYMENT_KEY, ROOT, Process, Stack
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

WORDS = ROOT / "src/simulator/speech/words"
# Far beyond what any step takes; a test that waits this long has failed.
STEP_SECONDS = 20

# Hears words instead of saying how long they were.
EAR = COMMON.replace("[transcription]", "[transcription]\nrecognise = true")

# Under which the gateway is known outside.
PUBLIC = "voice.example.com"

DESK = f"""
[listener]
address = "127.0.0.1:0"
public_url = "wss://{PUBLIC}"
[listener.shed]
loop_lag = "0s"
# The tests come one after the other, and most of them to be refused.
[listener.limits]
calls_per_second_per_tenant = 0
failed_auth_per_minute = 0
[admin]
address = "127.0.0.1:0"
[auth]
mode = "keys"
[[auth.keys]]
tenant = "acme"
sha256 = "@KEY@"
[tenants.acme]
[deployments.ear]
url = "ws://@EAR@"
model = "gpt-realtime"
api_key = "{DEPLOYMENT_KEY}"
[agents.desk]
deployment = "ear"
[agents.desk.session]
transcription = {{ model = "gpt-4o-mini-transcribe" }}
[agents.desk.session.turn_detection]
type = "server_vad"
silence_duration = "500ms"
[agents.desk.dtmf]
enabled = true
"""


@dataclass
class Desk:
    address: str
    process: Process

    def upgrade(self, target: str, headers: dict[str, str], **options) -> int:
        """The status that an upgrade is answered with; nothing is said after a 101."""
        try:
            with connect(f"ws://{self.address}{target}", additional_headers=headers, **options):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code


@contextlib.contextmanager
def running(more: str = "", secrets: tuple[str, ...] = ()):
    """Starts both. At its end none of the `secrets` is in the gateway's log."""
    import hashlib

    with Stack(gateway=False, simulators={"ear": EAR}) as stack:
        key = hashlib.sha256(CALLER_KEY.encode()).hexdigest()
        config = DESK.replace("@KEY@", key).replace("@EAR@", stack.simulators["ear"])
        process = stack.start(["serve"], "gateway", config + more)
        yield Desk(process.address("callers"), process)
        log = stack.log("gateway").read_text(errors="replace")
        assert "panicked" not in log, log[-2000:]
        for secret in secrets:
            assert secret not in log, secret


def spoken(*words: str, rate: int = 8000) -> bytes:
    """PCM16 of recorded words, with the pauses by which they are told apart. `rate` is a multiple of 8 kHz."""
    samples = array.array("h")
    for word in words:
        with wave.open(str(WORDS / f"{word}.wav")) as clip:
            assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (8000, 1, 2)
            samples.frombytes(clip.readframes(clip.getnframes()))
        samples.extend([0] * 2000)
    times = rate // 8000
    ends = zip(samples, [*samples[1:], 0])
    return array.array("h", (a + (b - a) * n // times for a, b in ends for n in range(times))).tobytes()


@dataclass
class Handset:
    """Somebody with a microphone that is always on, and an ear that hears in real time.

    A subclass knows the words: it fills in `frame`, `take` and `played`.
    """

    socket: object
    rate: int = 8000
    # What was heard so far, by the playout clock; what was cleared is not.
    heard: bytearray = field(default_factory=bytearray)
    # Everything that is no audio, in order.
    log: list = field(default_factory=list)
    closed: bool = False

    def __post_init__(self):
        self._to_say = bytearray()
        self._waiting: list = []  # Audio, and names of marks behind it.
        self._news = asyncio.Condition()

    def frame(self, pcm: bytes):
        """The message for 20 ms of PCM16."""
        raise NotImplementedError

    async def take(self, message):
        """What a message says: calls `play`, `mark`, `clear` or `note`."""
        raise NotImplementedError

    async def played(self, mark: str):
        """A mark was reached."""

    @contextlib.asynccontextmanager
    async def on(self):
        """While within, it speaks, listens and reads."""
        tasks = [asyncio.create_task(task()) for task in (self._live, self._read)]
        try:
            yield self
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception():
                    raise task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self):
        size = self.rate // 50 * 2
        due = time.monotonic()
        while not self.closed:
            frame = bytes(self._to_say[:size]).ljust(size, b"\0")
            del self._to_say[:size]
            try:
                await self.socket.send(self.frame(frame))
            except ConnectionClosed:
                return
            await self._hear(size)
            due += 0.02
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _hear(self, size: int):
        while size and self._waiting:
            first = self._waiting[0]
            if isinstance(first, str):
                self._waiting.pop(0)
                await self.played(first)
                continue
            part = first[:size]
            self.heard += part
            size -= len(part)
            self._waiting[0] = first[len(part) :]
            if not self._waiting[0]:
                self._waiting.pop(0)
        async with self._news:
            self._news.notify_all()

    async def _read(self):
        try:
            async for message in self.socket:
                await self.take(message)
        except ConnectionClosed:
            pass
        self.closed = True
        async with self._news:
            self._news.notify_all()

    def play(self, pcm: bytes):
        self._waiting.append(pcm)

    def mark(self, name: str):
        self._waiting.append(name)

    def clear(self):
        self._waiting.clear()

    def note(self, *what):
        self.log.append(what)

    def say(self, pcm: bytes):
        self._to_say += pcm

    async def until(self, what: str, condition):
        """Waits until `condition()` holds."""
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(condition), STEP_SECONDS)
            except asyncio.TimeoutError:
                raise AssertionError(f"never: {what}; {len(self.heard)} bytes heard, log {self.log[-20:]}") from None

    async def until_quiet(self):
        """Waits until nothing was said or heard for half a second."""
        since = time.monotonic()

        def is_quiet() -> bool:
            nonlocal since
            if self._waiting or self._to_say:
                since = time.monotonic()
            return time.monotonic() - since > 0.5

        await self.until("quiet", is_quiet)


def likeness(said: bytes, heard: bytes) -> float:
    """How alike the two are at the best of all delays: 1 for the same, near 0 for something else."""
    import numpy

    a, b = (numpy.frombuffer(bytes(pcm), "<i2").astype(float) for pcm in (said, heard))
    if not a.any() or not b.any():
        return 0.0
    n = 1 << (len(a) + len(b)).bit_length()
    product = numpy.fft.irfft(numpy.fft.rfft(b, n) * numpy.conj(numpy.fft.rfft(a, n)), n)
    at = int(numpy.argmax(product))
    part = b[at : at + len(a)] if at < len(b) else b[:0]
    norm = numpy.linalg.norm(a) * numpy.linalg.norm(part)
    return float(product[at] / norm) if norm else 0.0
