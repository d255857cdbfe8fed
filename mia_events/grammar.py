"""Model output, parsed strictly.

It is never trusted: what does not fit raises `Unparsable`, whose message tells the model what to
send instead and quotes nothing of what it sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from mia_events.quoting import clean

T = TypeVar("T")

ANSWER: Final = "answer"
#: Long enough for any answer, too short to hand a page to the judge.
ANSWER_CHARACTERS: Final = 1_000
_END_OF_THINKING: Final = "</think>"
_THINKING: Final = "<think>"
_MAX_JSON: Final = 100_000
_DECORATION: Final = " \t\n.!*'\"`"


class Unparsable(ValueError):
    """A reply that does not fit its grammar."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One executor turn: a tool's name with its arguments, or ``answer`` with ``{"answer": …}``."""

    thought: str
    name: str
    arguments: dict[str, Any]


def after_thinking(text: str) -> str:
    """What follows a reasoning block; nothing when the block was never closed."""
    return clean(_said(text)).strip()


def one_word(text: str, allowed: Collection[str]) -> str:
    """The single word that `text` is, in lower case. Raises `Unparsable`."""
    word = after_thinking(text).strip(_DECORATION).lower()
    if word not in allowed:
        raise Unparsable(f"reply with exactly one word: {' or '.join(sorted(allowed))}")
    return word


def json_object(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is, after its thinking. Raises `Unparsable`.

    No text may stand around it, no key twice, no control or broken character in it.
    """
    body = _said(text).strip()
    if len(body) > _MAX_JSON:
        raise Unparsable(f"the reply has {len(body)} characters; send one short JSON object")
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
        msgspec.json.encode(value)  # what cannot be written cannot become an event
        plain = all(is_plain(part) for part in _strings(value))
    except (ValueError, RecursionError, OverflowError):
        raise Unparsable("the reply is not one JSON object; send the object and no more") from None
    if not isinstance(value, dict):
        raise Unparsable("the reply is JSON but no object; send one object in braces")
    if not plain:
        raise Unparsable("the reply has control characters in it; send plain text")
    return value


def is_plain(text: str) -> bool:
    """Whether a model's text has neither control characters nor the mark of broken ones."""
    return clean(text) == text and "\ufffd" not in text


def choice(text: str, key: str, allowed: Collection[T]) -> T:
    """The value of the only key of an object, one of `allowed`. Raises `Unparsable`."""
    value = json_object(text)
    # True == 1 and 1.0 == 1, but neither is the number that was asked for.
    chosen = [o for o in allowed if type(value.get(key)) is type(o) and value[key] == o]
    if set(value) != {key} or not chosen:
        raise Unparsable(f'send {{"{key}": ...}} with one of: {", ".join(map(str, allowed))}')
    return chosen[0]


def action(text: str, names: Collection[str]) -> Action:
    """An executor turn that calls one of the tools `names` or answers. Raises `Unparsable`."""
    value = json_object(text)
    thought, name = value.pop("thought", ""), value.pop("action", None)
    if not isinstance(thought, str) or not isinstance(name, str):
        raise Unparsable('"thought" and "action" must both be text')
    if name != ANSWER and name not in names:
        raise Unparsable(f'"action" must be one of: {", ".join([*sorted(names), ANSWER])}')
    if name == ANSWER:
        value = {ANSWER: _only_answer(value)}
    return Action(thought=thought, name=name, arguments=value)


def checked_answer(text: str) -> str:
    """An answer without white space around it. Raises `Unparsable` for none, or a whole page."""
    answer = text.strip()
    if not answer:
        raise Unparsable("to answer, send the answer as text; yours is empty")
    if len(answer) > ANSWER_CHARACTERS:
        raise Unparsable(f"an answer has at most {ANSWER_CHARACTERS} characters; send less")
    return answer


def action_schema(tools: Mapping[str, Mapping[str, Any]], *, limit: int = 200) -> dict[str, Any]:
    """The JSON Schema of an executor turn.

    `tools` maps a name to the properties of its arguments; strings are bounded by `limit`
    characters, so that a small model cannot ramble.
    """
    answer = {ANSWER: {"type": "string", "minLength": 1, "maxLength": limit}}
    variants = [_variant(name, properties, limit) for name, properties in sorted(tools.items())]
    variants.append(_variant(ANSWER, answer, limit))
    return variants[0] if len(variants) == 1 else {"anyOf": variants}


def choice_schema(key: str, allowed: Collection[Any]) -> dict[str, Any]:
    """The JSON Schema of an object whose only key has one of the values `allowed`."""
    return closed_schema({key: {"enum": list(allowed)}})


def _said(text: str) -> str:
    _, end, tail = text.rpartition(_END_OF_THINKING)
    return tail if end or _THINKING not in text else ""


def closed_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an object with just these properties, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _variant(name: str, properties: Mapping[str, Any], limit: int) -> dict[str, Any]:
    thought = {"type": "string", "maxLength": limit}
    return closed_schema({"thought": thought, "action": {"enum": [name]}, **properties})


def _only_answer(value: dict[str, Any]) -> str:
    answer = value.get(ANSWER)
    if set(value) != {ANSWER} or not isinstance(answer, str):
        raise Unparsable('to answer, send "answer" with the answer as text and nothing else')
    return checked_answer(answer)


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from value
            for item in value.values():
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


__all__ = [
    "ANSWER",
    "ANSWER_CHARACTERS",
    "Action",
    "Unparsable",
    "action",
    "action_schema",
    "after_thinking",
    "checked_answer",
    "choice",
    "choice_schema",
    "closed_schema",
    "is_plain",
    "json_object",
    "one_word",
]
