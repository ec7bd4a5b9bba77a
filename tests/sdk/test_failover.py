"""openai-python, unmodified, keeps its session while the deployment behind it is lost in the middle of an answer."""

import asyncio

import pytest

from talk import call


def test_a_session_outlives_its_deployment(client, target, at):
    if target == "direct":
        pytest.skip("nobody is there to find another deployment")

    async def conversation():
        async with call(client, at("frail")) as talk:
            session = await talk.configure(vad=None)
            mine = await talk.write("Good morning.")

            await talk.connection.response.create()
            broken = await talk.done()
            assert broken["status"] == "incomplete"
            [begun] = broken["output"]
            assert begun["status"] == "incomplete"
            rest = await talk.done()
            assert rest["status"] == "completed"
            assert rest["id"] != broken["id"]
            assert len(talk.audio(rest["id"])) > 0

            # Items of the session that is gone are there under their ids.
            await talk.connection.conversation.item.retrieve(item_id=mine["item"]["id"])
            found = await talk.until("conversation.item.retrieved")
            assert found["item"]["content"][0]["text"] == "Good morning."
            await talk.connection.conversation.item.truncate(
                item_id=begun["id"], content_index=0, audio_end_ms=100
            )
            assert (await talk.until("conversation.item.truncated"))["item_id"] == begun["id"]
            await talk.connection.conversation.item.delete(item_id=mine["item"]["id"])
            await talk.until("conversation.item.deleted")

            again = await talk.configure(vad=None)
            assert again["session"]["id"] == session["session"]["id"]
            assert talk.kinds().count("session.created") == 1
            assert (await talk.respond())["status"] == "completed"

    asyncio.run(conversation())
