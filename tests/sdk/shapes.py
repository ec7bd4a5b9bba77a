"""What differs between the two wire shapes, for clients: session fields, event names, and the SDK's event models."""

import json
from functools import cache
from typing import Any, Literal, get_args, get_origin

from openai.types.beta.realtime import RealtimeServerEvent as PreviewServerEvent
from openai.types.beta.realtime.transcription_session import TranscriptionSession
from openai.types.realtime import RealtimeServerEvent as GaServerEvent
from pydantic import BaseModel, TypeAdapter

# In the SDK's GA union for the benefit of old servers; a GA deployment sends `added` and `done` in its place.
NOT_IN_GA = {"conversation.item.created"}
# Sent by preview transcription sessions, but the SDK's preview union knows only `...updated`.
PREVIEW_WITHOUT_MODEL = {"transcription_session.created"}

# Short enough for a test, long enough not to split the syllables of `sound.voiced`.
SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 300}


def event_name(shape: str, ga_name: str) -> str:
    """The name in `shape` of the event that GA calls `ga_name`."""
    if shape == "ga":
        return ga_name
    if ga_name in ("conversation.item.added", "conversation.item.done"):
        return "conversation.item.created"
    if ga_name.startswith("response.output_item."):
        return ga_name
    return ga_name.replace("response.output_", "response.")


def session(shape: str, *, vad: dict | None = None, transcribe: bool = False, **common: Any) -> dict:
    """A session update: `common` holds what both shapes call the same."""
    transcription = {"model": "whisper-1"} if transcribe else None
    if shape == "preview":
        return {
            "modalities": ["text", "audio"],
            "turn_detection": vad,
            "input_audio_transcription": transcription,
            **common,
        }
    return {
        "type": "realtime",
        "output_modalities": ["audio"],
        "audio": {"input": {"turn_detection": vad, "transcription": transcription}},
        **common,
    }


def text_only(shape: str) -> dict:
    return {"output_modalities": ["text"]} if shape == "ga" else {"modalities": ["text"]}


@cache
def models(shape: str) -> dict[str, type[BaseModel]]:
    """The SDK's model of each server event by its type."""
    union = get_args(GaServerEvent if shape == "ga" else PreviewServerEvent)[0]
    found = {}
    for model in get_args(union):
        kind = model.model_fields["type"].annotation
        assert get_origin(kind) is Literal, model
        for name in get_args(kind):
            found[name] = model
    assert len(found) > 30, found
    return found


@cache
def _adapter(model: type[BaseModel]) -> TypeAdapter:
    return TypeAdapter(model)


def validate(shape: str, raw: bytes) -> str:
    """Raises unless the SDK has a model for this very event and the event fills it; returns its type."""
    event = json.loads(raw)
    kind = event["type"]
    if shape == "ga":
        assert kind not in NOT_IN_GA, f"{kind} does not belong to GA"
    if shape == "preview" and kind.startswith("transcription_session."):
        # The SDK's model describes the REST reply, which has a secret; over the WebSocket it is null.
        fields = {**event["session"], "client_secret": {"value": "-", "expires_at": 0}}
        _adapter(TranscriptionSession).validate_json(json.dumps(fields), strict=True)
        if kind in PREVIEW_WITHOUT_MODEL:
            return kind
        raw = json.dumps({**event, "session": fields}).encode()
    model = models(shape).get(kind)
    assert model is not None, f"the SDK knows no {shape} event {kind}"
    _adapter(model).validate_json(raw, strict=True)
    return kind
