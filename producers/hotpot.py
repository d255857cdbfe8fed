"""HotpotQA's file format: multi-hop questions with paragraphs, as a JSON list or JSON lines."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from schemas.external import IncomingQuestion, Paragraph, Refused, decode_question

__all__ = ["BadRow", "Row", "problem_of", "read_rows", "source_of"]

_Context: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]


class _Hotpot(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    answer: str
    context: _Context
    id: str = msgspec.field(default="", name="_id")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A valid row: `name` identifies it in its source, `position` counts valid rows before it,
    `label` is None where a benchmark has none.
    """

    name: str
    position: int
    question: str
    label: str | None
    documents: tuple[Paragraph, ...]

    def incoming(self, run: str, source: str, position: int | None) -> IncomingQuestion:
        """Return the question to be published; the label stays behind."""
        return IncomingQuestion(
            run=run,
            source=source,
            row=self.name,
            position=position,
            question=self.question,
            documents=self.documents,
        )


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that cannot be used: `number` counts all rows from 1; no value of it is quoted."""

    number: int
    reason: str


_row: Final = msgspec.json.Decoder(_Hotpot)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


def source_of(path: Path) -> str:
    """Name a file by its base name and content, so that another version is another source."""
    return f"{path.name}@{sha256(path.read_bytes()).hexdigest()[:12]}"


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Read a file row by row; what is wrong with one does not stop the others.

    Raises:
        ValueError: the file as a whole is neither a JSON list nor JSON lines.
        OSError: it cannot be read.
    """
    position, names = 0, set[str]()
    for number, raw in enumerate(_raw_rows(path.read_bytes()), 1):
        row = _read(number, position, raw)
        if isinstance(row, Row) and row.name in names:
            row = BadRow(number=number, reason="an earlier row has the same _id")
        if isinstance(row, Row):
            names.add(row.name)
            position += 1
        yield row


def _raw_rows(content: bytes) -> list[bytes]:
    if content.lstrip()[:1] != b"[":
        return [line for line in content.splitlines() if line.strip()]
    try:
        return [bytes(raw) for raw in _list.decode(content)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a JSON list: {error}") from None


def _read(number: int, position: int, raw: bytes) -> Row | BadRow:
    try:
        found = _row.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadRow(number=number, reason=f"{error}; see the format in README.md")
    row = Row(
        name=found.id or str(number),
        position=position,
        question=found.question,
        label=found.answer,
        documents=tuple(
            Paragraph(title=title, text="".join(sentences)) for title, sentences in found.context
        ),
    )
    problem = problem_of(row)
    return BadRow(number=number, reason=problem) if problem else row


def problem_of(row: Row) -> str:
    """Say why admission would refuse the row; empty when it would not."""
    if row.label is not None and not row.label.strip():
        return "the answer is empty"
    if "\x00" in (row.label or ""):
        return "the answer has a NUL character"
    try:
        decode_question(msgspec.json.encode(row.incoming("run", "file", 0)))
    except Refused as error:
        return str(error)
    return ""
