"""Publishing questions: plain lines or minimal JSON, one a line."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from mia_events import topics
from producers.outlet import Outlet
from schemas.external import IncomingQuestion, Refused, decode_question

__all__ = ["BadLine", "read_lines", "send"]

_FLUSH_EVERY: Final = 200


class BadLine(msgspec.Struct, frozen=True):
    """A line that is no question: its number from 1, and why; no label of it is quoted."""

    number: int
    reason: str


def read_lines(
    lines: Iterable[bytes], run: str, source: str = ""
) -> Iterator[IncomingQuestion | BadLine]:
    """Read questions for `run`: a line that begins with ``{`` is JSON, any other is the question.

    Lines of a `source` are named by it and their number, so that they may be sent again; without
    one, a line without an id is a new question each time.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _question(line.strip(), run, source, number)
        except Refused as error:
            yield BadLine(number, str(error))


async def send(outlet: Outlet, questions: Iterable[IncomingQuestion]) -> int:
    """Publish questions; returns how many, all of them safe in the log."""
    count = 0
    for question in questions:
        await outlet.put(topics.QUESTION, key_of(question), msgspec.json.encode(question))
        count += 1
        if count % _FLUSH_EVERY == 0:
            await outlet.flush()
    await outlet.flush()
    return count


def key_of(question: IncomingQuestion) -> bytes | None:
    """Return the record's key: the question's identity, if it has one."""
    if question.id is None and question.source is None:
        return None
    return (question.id or f"{question.source}:{question.row}").encode()


class _Named(msgspec.Struct):
    run: str | None = None


def _question(line: bytes, run: str, source: str, number: int) -> IncomingQuestion:
    if not line.startswith(b"{"):
        return _identified(IncomingQuestion(question=_text(line), run=run), source, number)
    question = decode_question(line)
    if msgspec.json.decode(line, type=_Named).run is None:
        question = msgspec.structs.replace(question, run=run)
    return _identified(question, source, number)


def _text(line: bytes) -> str:
    question = msgspec.json.encode({"question": line.decode("utf-8", "replace")})
    return decode_question(question).question


def _identified(question: IncomingQuestion, source: str, number: int) -> IncomingQuestion:
    if not source or question.id is not None or question.source is not None:
        return question
    return msgspec.structs.replace(question, source=source, row=str(number))
