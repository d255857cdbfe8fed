"""What may come from outside: a question or a label, from any Kafka client, in minimal JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

MAX_QUESTION_CHARACTERS: Final = 20_000
#: Field names under which data sets keep their answers. A question with one of them, at any depth
#: and however it is spelled (`Gold-Answer`, `goldAnswer`), is refused.
LABEL_FIELDS: Final = frozenset(
    {
        "answer",
        "answer_alias",
        "answer_aliases",
        "answers",
        "correct_answer",
        "correct_answers",
        "expected",
        "expected_answer",
        "final_answer",
        "gold",
        "gold_answer",
        "gold_answers",
        "golden_answer",
        "golden_answers",
        "ground_truth",
        "ground_truths",
        "label",
        "labels",
        "reference_answer",
        "solution",
        "target",
        "targets",
    }
)

#: Short enough that three of them fit into one entry of a Postgres index in any script.
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_QUESTION_CHARACTERS)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

_T = TypeVar("_T")
_QUESTION_HINT: Final = 'send {"run": "...", "question": "..."}'
_LABEL_HINT: Final = 'send {"run": "...", "id": "...", "label": "..."}'


class Paragraph(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that comes with a question; `text` is data, never instruction."""

    title: str
    text: str


class IncomingQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question for a run. Minimal record: ``{"run": "name", "question": "text"}``.

    `id` (or `source` + `row`) makes repeats one question; `position` is the ingester's count of
    valid rows; `documents` are passages that only this question may search; `urgent` puts it before
    those that nobody is waiting for.
    """

    question: Text
    run: Name = "default"
    id: Name | None = None
    source: Name | None = None
    row: Name | None = None
    pass_no: Count = msgspec.field(default=0, name="pass")
    position: Count | None = None
    images: tuple[str, ...] = ()
    documents: tuple[Paragraph, ...] = ()
    urgent: bool = False


class IncomingLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A gold answer for a question, by the same identity as the question's."""

    label: Text
    run: Name = "default"
    id: Name | None = None
    source: Name | None = None
    row: Name | None = None
    pass_no: Count = msgspec.field(default=0, name="pass")


class Refused(ValueError):
    """An incoming record that is not accepted: why, what to send instead, never a label's value."""


_question_decoder = msgspec.json.Decoder(IncomingQuestion)
_label_decoder = msgspec.json.Decoder(IncomingLabel)
_LABELS_BY_PLAIN_NAME: Final = {name.replace("_", ""): name for name in LABEL_FIELDS}


def decode_question(record: bytes) -> IncomingQuestion:
    """Read a question; `Refused` for bytes that are none, and for one that carries its answer."""
    refuse_labels(record)
    question = _decoded(_question_decoder, record)
    if isinstance(question, str):
        raise Refused(f"not a question: {question}; {_QUESTION_HINT}")
    if not question.question.strip():
        raise Refused(f"the question is empty: {_QUESTION_HINT}")
    if (question.source is None) != (question.row is None):
        raise Refused("source and row identify a question together: send both or neither")
    _refuse_nul(question)
    return question


def decode_label(record: bytes) -> IncomingLabel:
    """Read a label. Raises `Refused` without quoting what was sent."""
    label = _decoded(_label_decoder, record)
    if isinstance(label, str):
        raise Refused(f"not a label: {_LABEL_HINT}")
    if not label.label.strip():
        raise Refused(f"the label is empty: {_LABEL_HINT}")
    if label.id is None and (label.source is None or label.row is None):
        raise Refused("a label needs the question's id, or its source and row")
    _refuse_nul(label)
    return label


def refuse_labels(record: bytes) -> None:
    """Raise `Refused` when a question record has a field that carries its answer, at any depth.

    Every field that was sent is looked at, the repeated and the unknown too. What cannot be read
    cannot be cleared of labels, so it is refused as well.
    """
    found, problem = _label_fields(record)
    if problem:
        raise Refused(f"not a question: {problem}; {_QUESTION_HINT}")
    if found:
        raise Refused(
            f"the question carries its answer in {', '.join(sorted(found))} (value redacted); "
            "send the label to mia.feedback or with `mia ingest`"
        )


# The two readers below give the problem back instead of letting it be raised from: an exception
# that is chained to the decoder's keeps the whole record, and with it the label, for any log.


def _label_fields(record: bytes) -> tuple[set[str], str]:
    found: set[str] = set()

    def look(pairs: list[tuple[str, Any]]) -> None:
        plain = (_plain(name) for name, _ in pairs)
        found.update(_LABELS_BY_PLAIN_NAME[name] for name in plain if name in _LABELS_BY_PLAIN_NAME)

    problem = ""
    try:
        # The standard reader shows every pair; numbers stay text, since nobody looks at them.
        json.loads(record.decode(), object_pairs_hook=look, parse_int=str, parse_float=str)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg} at character {error.pos})"
    except RecursionError:
        problem = "nested too deeply"
    return found, problem


def _decoded(decoder: msgspec.json.Decoder[_T], record: bytes) -> _T | str:
    try:
        return decoder.decode(record)
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "nested too deeply"
    except msgspec.DecodeError as error:
        return str(error)


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())


def _refuse_nul(record: IncomingQuestion | IncomingLabel) -> None:
    for field, text in _texts(msgspec.to_builtins(record)):
        if "\x00" in text:
            raise Refused(f"{field} has a NUL character, which cannot be stored: remove it")


def _texts(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{field}.{name}" if field else name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, field)


__all__ = [
    "LABEL_FIELDS",
    "MAX_QUESTION_CHARACTERS",
    "IncomingLabel",
    "IncomingQuestion",
    "Paragraph",
    "Refused",
    "decode_label",
    "decode_question",
    "refuse_labels",
]
