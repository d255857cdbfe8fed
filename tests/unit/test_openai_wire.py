"""What is sent to a model server and what is taken from it, as bytes."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.effects.openai_wire import chat_request, read_completion, read_embeddings
from mia_events.effect_codec import decode_reply, encode_reply
from mia_events.effects import Call, Embed, Message, ModelReply
from mia_events.steps import Transient

CALL = Call(role="planner", model="m", messages=(Message("user", "?"),), max_tokens=9)
CAPTURING = Call(
    role="planner", model="m", messages=(Message("user", "?"),), max_tokens=9, capture_tokens=True
)
TRAINED = Call(
    role="planner",
    model="planner@v2",
    messages=(Message("user", "?"),),
    max_tokens=9,
    temperature=0.2,
    top_p=0.5,
    capture_tokens=True,
    trained=True,
)


def completion(
    text: str | None = "hello", logprobs: list[Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A chat completion as vLLM sends it."""
    content = [{"token": "t", "logprob": one} for one in logprobs or []]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content} if logprobs is not None else None,
        "token_ids": [5, 6],
    }
    return {"choices": [choice], "model": "m", "prompt_token_ids": [1, 2, 3], **changes}


def read(reply: dict[str, Any], call: Call = CALL) -> ModelReply:
    """Read a reply as a server would send it, through the record."""
    found = read_completion(json.dumps(reply).encode(), call)
    assert found == decode_reply(call, encode_reply(call, found))
    return found


def test_a_plain_request_has_its_sampling_and_nothing_of_a_trainers() -> None:
    """Servers that are not vLLM get no field of vLLM's."""
    assert {
        "model": "m",
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 1.0,
    } == chat_request(CALL)


def test_a_trained_turn_is_sampled_from_the_models_own_distribution() -> None:
    """No temperature, no cut, no penalty, no grammar, whatever the server's defaults are."""
    request = chat_request(TRAINED)
    assert {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
        "logprobs": True,
    } == {name: request[name] for name in request.keys() - {"model", "messages", "max_tokens"}}


def test_a_schema_and_stop_strings_travel() -> None:
    """The server holds the reply to the schema and ends it at a stop string."""
    call = Call(
        role="judge", model="m", messages=(), max_tokens=9, schema={"type": "object"}, stop=("x",)
    )
    request = chat_request(call)
    assert {"name": "judge", "schema": {"type": "object"}, "strict": True} == (
        request["response_format"]["json_schema"]
    )
    assert ["x"] == request["stop"]


def test_tokens_are_kept_when_they_were_asked_for() -> None:
    """Prompt ids, sampled ids and log-probabilities, one per sampled token."""
    found = read(completion(logprobs=[-0.5, -1.5]), CAPTURING)
    assert ((1, 2, 3), (5, 6), (-0.5, -1.5), "") == (
        found.prompt_ids,
        found.token_ids,
        found.logprobs,
        found.uncaptured,
    )
    assert () == read(completion(logprobs=[-0.5, -1.5])).token_ids


@pytest.mark.parametrize(
    "reply,reason",
    [
        (completion(), "no token ids or no log-probabilities"),
        (completion(logprobs=[-0.5, -1.5], prompt_token_ids=None), "no token ids"),
        (completion(logprobs=[-0.5]), "2 tokens have 1 log-probabilities"),
        (completion(logprobs=[-0.5, None]), "no finite number"),
        (completion(logprobs=[-0.5, math.nan]), "no finite number"),
        (completion(logprobs=[-0.5, -math.inf]), "no finite number"),
    ],
)
def test_tokens_that_cannot_be_trained_on_are_left_out_with_the_reason(
    reply: dict[str, Any], reason: str
) -> None:
    """The text stands; no half of a capture does."""
    found = read(reply, CAPTURING)
    assert ("hello", (), (), ()) == (
        found.text,
        found.prompt_ids,
        found.token_ids,
        found.logprobs,
    )
    assert reason in found.uncaptured


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"a\\ud800b"}}]}',
        b'{"choices":[{"message":{"content":"a\xffb"}}]}',
    ],
)
def test_text_that_cannot_be_written_down_is_mended(body: bytes) -> None:
    """A lone surrogate or a broken byte is replaced, and the reply is recorded."""
    found = read_completion(body, CALL)
    assert found.text == "a\ufffdb"
    assert found == decode_reply(CALL, encode_reply(CALL, found))


def test_names_that_a_server_gives_fit_into_a_column() -> None:
    """Postgres takes no NUL in a text."""
    assert "ab" == read(completion(model="a\x00b")).model
    assert 200 == len(read(completion(model="m" * 9_000)).model)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":{"content":7}}]}',
        b'{"choices":[{"message":{"content":"cut',
        b"[" * 100_000,
        b'{"choices":[{"message":{"content":"\x00',
    ],
)
def test_what_is_no_completion_is_transient_and_not_repeated(body: bytes) -> None:
    """The command tries again; the error says nothing of the body, which may hold a label."""
    with pytest.raises(Transient, match="planner's reply") as raised:
        read_completion(body, CALL)
    assert "busy" not in str(raised.value)


@given(st.binary())
def test_any_bytes_are_a_reply_or_transient(body: bytes) -> None:
    """Nothing else is raised."""
    try:
        read_completion(body, CALL)
    except Transient:
        return


def test_a_completion_without_content_is_empty() -> None:
    """A refusal or a tool call of the server's own has no text."""
    assert "" == read(completion(None)).text


def test_vectors_come_in_order_and_have_unit_length() -> None:
    """Whatever order and length the server sends them in."""
    data = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
    found = read_embeddings(json.dumps({"data": data}).encode(), Embed(model="e", texts=("a", "b")))
    assert ((0.6, 0.8), (0.0, 1.0)) == found.vectors


@pytest.mark.parametrize(
    "vector,message",
    [([], "without length"), ([0.0, 0.0], "without length"), ([math.nan, 1], "without length")],
)
def test_a_vector_without_direction_is_transient(vector: list[float], message: str) -> None:
    """It has no place in an index."""
    body = json.dumps({"data": [{"index": 0, "embedding": vector}]}).encode()
    with pytest.raises(Transient, match=message):
        read_embeddings(body, Embed(model="e", texts=("a",)))


def test_a_missing_vector_is_transient() -> None:
    """One for each text, or none."""
    with pytest.raises(Transient, match="0 vectors for 1 texts"):
        read_embeddings(b'{"data":[]}', Embed(model="e", texts=("a",)))
