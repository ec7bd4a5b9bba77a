"""openai-python, unmodified, holds a conversation: directly with the stand-in and through the gateway.

Every event on the way is validated against the SDK's models of the client's shape (see `Talk.next`).
"""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import shapes
import sound
from stack import ARGUMENTS, FUNCTION
from talk import call

VAD = shapes.SERVER_VAD
TOOL = {
    "type": "function",
    "name": FUNCTION,
    "description": "Says what the weather is like.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
        "required": ["city"],
    },
}


def test_text_in_audio_out(client, at):
    async def conversation():
        async with call(client, at("parrot")) as talk:
            await talk.configure(vad=None)
            await talk.write("Good morning.")
            response = await talk.respond()

            assert response["status"] == "completed"
            assert response["usage"]["output_token_details"]["audio_tokens"] > 0
            audio = talk.audio(response["id"])
            assert len(audio) >= 200 * sound.BYTES_PER_MS
            assert sound.loudness(audio) > 500
            spoken = "".join(e["delta"] for e in talk.of("response.output_audio_transcript.delta"))
            [complete] = talk.of("response.output_audio_transcript.done")
            assert spoken and spoken == complete["transcript"]
            check_order(talk, response["id"])

    asyncio.run(conversation())


def check_order(talk, response_id):
    """An item of a response is announced before it joins the conversation, and both before its parts."""
    names = (
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    )
    kinds = [talk.name(name) for name in names]
    from_response = talk.kinds()[talk.kinds().index("response.created") :]
    places = [from_response.index(kind) for kind in kinds]
    assert places == sorted(places), from_response
    assert talk.of("response.output_item.added", response_id)[0]["item"]["content"] == []


def test_speech_in_with_server_vad(client, at):
    async def conversation():
        async with call(client, at("parrot")) as talk:
            await talk.configure(vad=VAD, transcribe=True)
            await talk.say(sound.silence(200) + sound.voiced(1_200) + sound.silence(800))
            started = await talk.until("input_audio_buffer.speech_started")
            stopped = await talk.until("input_audio_buffer.speech_stopped")
            committed = await talk.until("input_audio_buffer.committed")
            assert started["item_id"] == stopped["item_id"] == committed["item_id"]
            heard_ms = stopped["audio_end_ms"] - started["audio_start_ms"]
            assert 1_200 <= heard_ms <= 2_000

            response = await talk.done()
            assert response["status"] == "completed"
            reply = talk.audio(response["id"])
            assert len(reply) >= 1_000 * sound.BYTES_PER_MS
            # The stand-in says back what it heard, so the caller's own voice must come home.
            assert sound.pitch(reply) == pytest.approx(sound.PITCH_HZ, rel=0.03)

            name = "conversation.item.input_audio_transcription.completed"
            transcripts = talk.of(name) or [await talk.until(name)]
            assert transcripts[0]["item_id"] == started["item_id"]
            assert transcripts[0]["transcript"]

    asyncio.run(conversation())


def test_function_call_round_trip(client, at):
    async def conversation():
        async with call(client, at("script")) as talk:
            await talk.configure(vad=None, tools=[TOOL], tool_choice="auto")
            await talk.write("What is the weather like in Oslo?")
            response = await talk.respond()

            assert response["status"] == "completed"
            [item] = [item for item in response["output"] if item["type"] == "function_call"]
            assert item["name"] == FUNCTION
            assert json.loads(item["arguments"]) == ARGUMENTS
            pieces = "".join(e["delta"] for e in talk.of("response.function_call_arguments.delta"))
            [complete] = talk.of("response.function_call_arguments.done")
            assert pieces == complete["arguments"] == item["arguments"]
            assert complete["call_id"] == item["call_id"]

            await talk.connection.conversation.item.create(
                item={
                    "type": "function_call_output",
                    "call_id": item["call_id"],
                    "output": json.dumps({"degrees": 4}),
                }
            )
            await talk.until("conversation.item.done")
            answer = await talk.respond()
            assert answer["status"] == "completed"
            assert [item["type"] for item in answer["output"]] == ["message"]
            assert talk.audio(answer["id"])

    asyncio.run(conversation())


def test_barge_in(client, at):
    async def conversation():
        async with call(client, at("parrot")) as talk:
            await talk.configure(vad=VAD)
            await talk.say(sound.voiced(3_500) + sound.silence(600), times_real_time=20)
            first = await talk.until("response.output_audio.delta")
            # The caller speaks while the model does: all at once, for the reply lasts under a second here.
            await talk.say(sound.voiced(600), times_real_time=1_000)
            await talk.until("input_audio_buffer.speech_started")
            response = await talk.done()

            assert response["id"] == first["response_id"]
            assert response["status"] == "cancelled"
            assert response["status_details"]["type"] == "cancelled"
            assert response["status_details"]["reason"] == "turn_detected"
            [item] = response["output"]
            assert item["status"] == "incomplete"

            got_ms = len(talk.audio(response["id"])) // sound.BYTES_PER_MS
            heard_ms = min(80, got_ms)
            await talk.connection.conversation.item.truncate(
                item_id=first["item_id"], content_index=first["content_index"], audio_end_ms=heard_ms
            )
            truncated = await talk.until("conversation.item.truncated")
            assert truncated["item_id"] == first["item_id"]
            assert truncated["audio_end_ms"] == heard_ms

            # The interruption is a turn of its own and is answered.
            await talk.say(sound.silence(800))
            answer = await talk.done()
            assert answer["id"] != response["id"]
            assert answer["status"] == "completed"
            assert talk.audio(answer["id"])

    asyncio.run(conversation())


def test_wrong_key_is_refused(client, at, target):
    async def conversation():
        where = {**at("parrot"), "key": "wrong"}
        if target == "direct" and client.name.startswith("openai-"):
            # The vendor's own way on these paths: the upgrade succeeds, then an error, then close 3000.
            async with call(client, where) as talk:
                error = await talk.until("error")
                assert error["error"]["code"] == "invalid_api_key"
                with pytest.raises(ConnectionClosed) as closed:
                    await talk.next()
                assert closed.value.rcvd.code == 3000
            return
        with pytest.raises(InvalidStatus) as refused:
            async with call(client, where):
                pass
        assert refused.value.response.status_code == 401

    asyncio.run(conversation())
