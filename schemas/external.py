"""What may come from outside: a question or a label, from any Kafka client, in minimal JSON."""

from __future__ import annotations

from typing import Any

import msgspec

LABEL_FIELDS = frozenset(
    {"answer", "answers", "gold", "gold_answer", "golden_answer", "golden_answers", "label",
     "labels", "ground_truth", "target", "expected", "expected_answer", "reference_answer"}
)
MAX_QUESTION_CHARACTERS = 20_000


class Paragraph(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that comes with a question; `text` is data, never instruction."""

    title: str
    text: str


class IncomingQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question for a run. Minimal record: ``{"run": "name", "question": "text"}``.

    `id` (or `source` + `row`) makes repeats one question; `position` is the ingester's count of
    valid rows; `documents` are passages that only this question may search.
    """

    question: str
    run: str = "default"
    id: str | None = None
    source: str | None = None
    row: str | None = None
    pass_no: int = msgspec.field(default=0, name="pass")
    position: int | None = None
    images: tuple[str, ...] = ()
    documents: tuple[Paragraph, ...] = ()


class IncomingLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A gold answer for a question, by the same identity as the question's."""

    label: str
    run: str = "default"
    id: str | None = None
    source: str | None = None
    row: str | None = None
    pass_no: int = msgspec.field(default=0, name="pass")


class Refused(ValueError):  # noqa: N818 - a refusal is the sender's error, named as the reply is
    """An incoming record that is not accepted; the message says why and what to send instead and
    never quotes the value of a label."""


_question_decoder = msgspec.json.Decoder(IncomingQuestion)
_label_decoder = msgspec.json.Decoder(IncomingLabel)


def decode_question(record: bytes) -> IncomingQuestion:
    """Read a question. Raises `Refused` for bytes that are none, and for one that carries its answer."""
    refuse_labels(record)
    try:
        question = _question_decoder.decode(record)
    except msgspec.DecodeError as error:
        message = f'not a question: {error}; send {{"run": "...", "question": "..."}}'
        raise Refused(message) from None
    return _checked(question)


def decode_label(record: bytes) -> IncomingLabel:
    """Read a label. Raises `Refused` without quoting what was sent."""
    try:
        label = _label_decoder.decode(record)
    except msgspec.DecodeError:
        message = 'not a label: send {"run": "...", "id": "...", "label": "..."}'
        raise Refused(message) from None
    if label.id is None and (label.source is None or label.row is None):
        message = "a label needs the question's id, or its source and row"
        raise Refused(message)
    return label


def refuse_labels(record: bytes) -> None:
    """Raise `Refused` when a question record has a field that carries its answer, at any depth."""
    try:
        value = msgspec.json.decode(record)
    except msgspec.DecodeError:
        return
    found = sorted(_label_fields(value))
    if found:
        names = ", ".join(found)
        message = (
            f"the question carries its answer in {names} (value redacted); "
            "send the label to mia.feedback or with `mia ingest`"
        )
        raise Refused(message)


def _label_fields(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {key for key in value if key.lower() in LABEL_FIELDS}
        return own.union(*(_label_fields(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_label_fields(item) for item in value))
    return set()


def _checked(question: IncomingQuestion) -> IncomingQuestion:
    if not question.question.strip():
        message = "the question is empty"
        raise Refused(message)
    if len(question.question) > MAX_QUESTION_CHARACTERS:
        message = f"the question has {len(question.question)} characters; at most {MAX_QUESTION_CHARACTERS}"
        raise Refused(message)
    if (question.source is None) != (question.row is None):
        message = "source and row identify a question together: send both or neither"
        raise Refused(message)
    if question.position is not None and question.position < 0:
        message = f"position counts from 0, got {question.position}"
        raise Refused(message)
    if question.pass_no < 0:
        message = f"pass counts from 0, got {question.pass_no}"
        raise Refused(message)
    if "\x00" in question.question or any("\x00" in (v or "") for v in (question.run, question.id, question.source, question.row)):
        message = "a NUL character cannot be stored: remove it"
        raise Refused(message)
    return question


__all__ = [
    "LABEL_FIELDS",
    "IncomingLabel",
    "IncomingQuestion",
    "Paragraph",
    "Refused",
    "decode_label",
    "decode_question",
    "refuse_labels",
]
