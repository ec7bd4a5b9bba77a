"""Speech-like sound made on the spot, and what is needed to recognise it again. Standard library only.

Mono, signed 16 bits, little endian, 24 kHz: the Realtime API's `pcm16`.
"""

import array
import base64
import math
from functools import cache

RATE = 24_000
BYTES_PER_MS = RATE * 2 // 1000
# A pitch of the human voice; what comes back must have it too.
PITCH_HZ = 150.0


@cache
def voiced(milliseconds: int, pitch_hz: float = PITCH_HZ) -> bytes:
    """Buzz of a dozen harmonics that swells and falls four times a second, as syllables do."""
    samples = array.array("h")
    harmonics = range(1, 13)
    for n in range(RATE * milliseconds // 1000):
        seconds = n / RATE
        syllable = 0.6 + 0.4 * math.sin(2 * math.pi * 4 * seconds)
        buzz = sum(math.sin(2 * math.pi * pitch_hz * h * seconds) / h for h in harmonics)
        samples.append(int(6_000 * syllable * buzz))
    return samples.tobytes()


def silence(milliseconds: int) -> bytes:
    return bytes(BYTES_PER_MS * milliseconds)


def chunks(audio: bytes, milliseconds: int = 20) -> list[str]:
    """Base64 of stretches as a microphone gives them."""
    size = BYTES_PER_MS * milliseconds
    return [
        base64.b64encode(audio[at : at + size]).decode("ascii") for at in range(0, len(audio), size)
    ]


def loudness(audio: bytes) -> float:
    """Root mean square, 0 to 32,767."""
    samples = array.array("h", audio[: len(audio) // 2 * 2])
    return math.sqrt(sum(s * s for s in samples) / len(samples)) if samples else 0.0


def pitch(audio: bytes) -> float:
    """The strongest period between 80 and 400 Hz in the middle of the sound, by autocorrelation."""
    samples = array.array("h", audio[: len(audio) // 2 * 2])
    window = min(2_400, len(samples) // 2)
    start = max(0, (len(samples) - window) // 2 - RATE // 80)
    part = samples[start : start + window]

    def likeness(lag: int) -> float:
        shifted = samples[start + lag : start + lag + window]
        return sum(a * b for a, b in zip(part, shifted))

    return RATE / max(range(RATE // 400, RATE // 80), key=likeness)
