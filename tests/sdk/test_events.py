"""Every event fits the SDK's model of it, in runs that provoke as many types as can be.

First what the stand-in sends by itself, then what the gateway makes of it for a client of either shape.
What was seen is listed under the results and must cover what a WebSocket client can meet.
"""

import asyncio

import pytest

import shapes
import sound
from stack import FUNCTION
from talk import CLIENTS, call

# What nobody sends on a WebSocket: WebRTC and SIP only, the MCP client, the diarising transcriber.
OUT_OF_REACH = (
    "output_audio_buffer.",
    "mcp_list_tools.",
    "response.mcp_call",
    "input_audio_buffer.dtmf_event_received",
    "conversation.item.input_audio_transcription.segment",
)
BY_SHAPE = {
    "ga": next(c for c in CLIENTS if c.name == "azure-ga"),
    "preview": next(c for c in CLIENTS if c.name == "azure-preview"),
}


@pytest.mark.parametrize("shape", BY_SHAPE)
def test_every_event_has_a_model(stack, shape, target, note):
    """Nothing is asserted of single events here but that they validate; `Talk.next` does that."""

    async def runs():
        groups = await asyncio.gather(
            speaks_and_manages_items(stack, shape, target),
            calls_a_function(stack, shape, target),
            is_refused_a_transcript(stack, shape, target),
            transcribes_only(stack, shape, target),
            falls_silent(stack, shape, target),
        )
        return {kind for kinds in groups for kind in kinds}

    seen = asyncio.run(runs())
    wanted = {kind for kind in shapes.models(shape) if not kind.startswith(OUT_OF_REACH)}
    wanted -= shapes.NOT_IN_GA if shape == "ga" else set()
    if not has_idle_timeout(shape, target):
        wanted.discard("input_audio_buffer.timeout_triggered")
    note(f"{shape}, {target}: {len(seen)} event types seen: {', '.join(sorted(seen))}")
    assert not wanted - seen, f"never seen: {sorted(wanted - seen)}"


def has_idle_timeout(shape, target):
    """Whether both the client and the deployment speak GA; preview has no such thing."""
    return shape == "ga" and target != "crossed"


async def speaks_and_manages_items(stack, shape, target):
    async with call(BY_SHAPE[shape], stack.target(target, shape, "parrot")) as talk:
        connection = talk.connection
        await talk.configure(vad=shapes.SERVER_VAD, transcribe=True)
        await talk.say(sound.silence(200) + sound.voiced(1_500) + sound.silence(800))
        spoken = await talk.done()
        [item] = spoken["output"]
        completed = "conversation.item.input_audio_transcription.completed"
        talk.of(completed) or await talk.until(completed)

        await connection.conversation.item.retrieve(item_id=item["id"])
        await talk.until("conversation.item.retrieved")
        await connection.conversation.item.truncate(
            item_id=item["id"], content_index=0, audio_end_ms=300
        )
        await talk.until("conversation.item.truncated")
        await connection.conversation.item.delete(item_id=item["id"])
        await talk.until("conversation.item.deleted")

        # By hand: commit, clear, text, cancel, out of band.
        await talk.configure(vad=None)
        await talk.say(sound.voiced(1_500), times_real_time=100)
        await connection.input_audio_buffer.commit()
        await talk.until("input_audio_buffer.committed")
        await connection.input_audio_buffer.clear()
        await talk.until("input_audio_buffer.cleared")
        await talk.respond(**shapes.text_only(shape))
        await connection.response.create()
        await talk.until("response.output_audio.delta")
        await connection.response.cancel()
        assert (await talk.done())["status"] == "cancelled"
        aside = await talk.respond(
            conversation="none", metadata={"purpose": "summary"}, **shapes.text_only(shape)
        )
        assert aside["conversation_id"] is None

        # One error of each kind that a client can cause.
        await connection.response.cancel()
        await talk.until("error")
        await connection.input_audio_buffer.commit()
        await talk.until("error")
        await connection.conversation.item.delete(item_id="item_unknown")
        await talk.until("error")
        await connection.send({"type": "no.such.event", "event_id": "mine"})
        assert (await talk.until("error"))["error"]["event_id"] == "mine"
        return talk.kinds()


async def calls_a_function(stack, shape, target):
    tool = {"type": "function", "name": FUNCTION, "description": "-", "parameters": {"type": "object"}}
    async with call(BY_SHAPE[shape], stack.target(target, shape, "script")) as talk:
        await talk.configure(vad=None, tools=[tool])
        await talk.write("What is the weather like?")
        [item] = (await talk.respond())["output"]
        await talk.connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": item["call_id"], "output": "{}"}
        )
        await talk.until("conversation.item.done")
        await talk.respond()
        return talk.kinds()


async def is_refused_a_transcript(stack, shape, target):
    async with call(BY_SHAPE[shape], stack.target(target, shape, "faulty")) as talk:
        await talk.configure(vad=None, transcribe=True)
        await talk.say(sound.voiced(500), times_real_time=100)
        await talk.connection.input_audio_buffer.commit()
        await talk.until("conversation.item.input_audio_transcription.failed")
        return talk.kinds()


async def transcribes_only(stack, shape, target):
    where = stack.target(target, shape, "parrot")
    intent = {"intent": "transcription"}
    async with call(BY_SHAPE[shape], where, extra_query=intent) as talk:
        await talk.next()
        if shape == "ga":
            audio = {"transcription": {"model": "gpt-4o-transcribe"}, "turn_detection": None}
            await talk.connection.session.update(
                session={"type": "transcription", "audio": {"input": audio}}
            )
            await talk.until("session.updated")
        else:
            await talk.connection.transcription_session.update(
                session={
                    "input_audio_transcription": {"model": "gpt-4o-transcribe"},
                    "turn_detection": None,
                }
            )
            await talk.until("transcription_session.updated")
        await talk.say(sound.voiced(500), times_real_time=100)
        await talk.connection.input_audio_buffer.commit()
        await talk.until("conversation.item.input_audio_transcription.completed")
        assert not [kind for kind in talk.kinds() if kind.startswith("response.")]
        return talk.kinds()


async def falls_silent(stack, shape, target):
    """The idle timeout runs from the end of a reply; five seconds is the shortest that it takes."""
    if not has_idle_timeout(shape, target):
        return []
    async with call(BY_SHAPE[shape], stack.target(target, shape, "parrot")) as talk:
        await talk.configure(vad={**shapes.SERVER_VAD, "idle_timeout_ms": 5_000})
        await talk.write("Hello.")
        await talk.respond()
        await talk.until("input_audio_buffer.timeout_triggered", timeout=25)
        await talk.done()
        return talk.kinds()


def test_a_model_that_does_not_fit_is_found():
    good = b'{"type":"input_audio_buffer.committed","event_id":"e","item_id":"i","previous_item_id":null}'
    for shape in ("ga", "preview"):
        assert shapes.validate(shape, good) == "input_audio_buffer.committed"
        for bad in (
            b'{"type":"input_audio_buffer.committed","event_id":"e"}',
            b'{"type":"input_audio_buffer.committed","event_id":1,"item_id":"i","previous_item_id":"j"}',
            b'{"type":"input_audio_buffer.invented","event_id":"e"}',
        ):
            with pytest.raises((ValueError, AssertionError)):
                shapes.validate(shape, bad)
    with pytest.raises(AssertionError):
        shapes.validate("ga", b'{"type":"response.audio.done","event_id":"e"}')
