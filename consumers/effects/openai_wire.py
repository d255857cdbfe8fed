"""What OpenAI-compatible servers are sent and send back: values to bytes and bytes to values.

A server's reply is as little trusted as the model in it: what cannot be read raises `Transient`,
whose message repeats nothing of it, and what could not be stored is taken out of its text.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeVar

import msgspec

from mia_events.effects import Call, Embed, ModelReply, Vectors
from mia_events.quoting import clean, clip
from mia_events.steps import Transient

T = TypeVar("T")

_NAME_CHARACTERS: Final = 200
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
#: The model's own distribution, whatever a server's defaults for it are.
_UNTOUCHED: Final[dict[str, Any]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


class _Logprob(msgspec.Struct):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] | None = None


class _Text(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Text
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None
    prompt_token_ids: list[int] | None = None


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]


def chat_request(call: Call) -> dict[str, Any]:
    """The body of a chat completion's request."""
    request: dict[str, Any] = {
        "model": call.model,
        "messages": [{"role": m.role, "content": m.content} for m in call.messages],
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
    }
    if call.seed is not None:
        request["seed"] = call.seed
    if call.stop:
        request["stop"] = list(call.stop)
    if call.schema is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": call.role, "schema": call.schema, "strict": True},
        }
    if call.capture_tokens:
        request |= {"return_token_ids": True, "logprobs": True}
    return request | _UNTOUCHED if call.trained else request


def read_completion(body: bytes, call: Call) -> ModelReply:
    """The reply to `call`. Raises `Transient` when `body` is no chat completion."""
    completion = _decoded(body, _Completion, call.role)
    if not completion.choices:
        raise Transient(f"{call.role}'s reply has no choices")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return ModelReply(
        text=_encodable(choice.message.content or ""),
        finish_reason=_name(choice.finish_reason or ""),
        model=_name(completion.model),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        **(_captured(completion, choice) if call.capture_tokens else {}),
    )


def read_embeddings(body: bytes, embed: Embed) -> Vectors:
    """Unit vectors for the texts of `embed`. Raises `Transient` when there are none."""
    data = sorted(_decoded(body, _Embeddings, "embedder").data, key=lambda item: item.index)
    if len(data) != len(embed.texts):
        raise Transient(f"the embedder gave {len(data)} vectors for {len(embed.texts)} texts")
    return Vectors(tuple(_unit(item.embedding) for item in data))


def _decoded(body: bytes, kind: type[T], role: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # Python's reader takes lone surrogates, NaN and broken UTF-8, which servers do send
    try:
        return msgspec.convert(json.loads(body.decode("utf-8", "replace")), kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it is no JSON"
        raise Transient(f"{role}'s reply cannot be read: {reason}") from None


def _captured(completion: _Completion, choice: _Choice) -> dict[str, Any]:
    """Token ids and log-probabilities, all of them or none, with the reason."""
    entries = (choice.logprobs.content if choice.logprobs is not None else None) or []
    logprobs = tuple(entry.logprob for entry in entries)
    prompt_ids, token_ids = completion.prompt_token_ids or (), choice.token_ids or ()
    if not prompt_ids or not token_ids or not logprobs:
        return {"uncaptured": "the server gave no token ids or no log-probabilities"}
    if len(token_ids) != len(logprobs):
        return {"uncaptured": f"{len(token_ids)} tokens have {len(logprobs)} log-probabilities"}
    if not all(logprob is not None and math.isfinite(logprob) for logprob in logprobs):
        return {"uncaptured": "a log-probability is no finite number"}
    return {
        "prompt_ids": tuple(prompt_ids),
        "token_ids": tuple(token_ids),
        "logprobs": logprobs,
    }


def _encodable(text: str) -> str:
    """`text` with a mark for each lone surrogate, which cannot be written down."""
    return _SURROGATE.sub("\ufffd", text)


def _name(text: str) -> str:
    return clip(clean(text), _NAME_CHARACTERS)


def _unit(vector: list[float]) -> tuple[float, ...]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0:
        raise Transient("the embedder gave a vector without length")
    return tuple(round(value / length, 7) for value in vector)


__all__ = ["chat_request", "read_completion", "read_embeddings"]
