"""Benchmarks as tables: CSV or JSON lines, with the names of the columns that matter."""

import csv
import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any, Final

import msgspec

from producers.hotpot import BadRow, Row, problem_of
from schemas.external import Paragraph

__all__ = ["Columns", "read_table", "source_of_table"]

_MAX_CELL: Final = 16 * 2**20


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which column is what. `answer` None: the questions have no labels; `id` and `documents` may
    be missing from the file.
    """

    question: str = "question"
    answer: str | None = "answer"
    id: str = "id"
    documents: str = "documents"


def source_of_table(path: Path, columns: Columns) -> str:
    """Name a file by its base name, its content and what its columns are taken for."""
    digest = sha256(path.read_bytes() + msgspec.json.encode(columns)).hexdigest()
    return f"{path.name}@{digest[:12]}"


def read_table(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """Read a .csv file, or JSON lines, row by row; what is wrong with one does not stop the others.

    Raises:
        ValueError: the file has no such column for questions, or for answers.
        OSError: it cannot be read.
    """
    cells = _csv(path, columns) if path.suffix == ".csv" else _json_lines(path)
    position, names = 0, set[str]()
    for number, found in enumerate(cells, 1):
        row = _row(number, position, found, columns)
        if isinstance(row, Row) and row.name in names:
            row = BadRow(number=number, reason=f"an earlier row has the same {columns.id}")
        if isinstance(row, Row):
            names.add(row.name)
            position += 1
        yield row


def _csv(path: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_MAX_CELL)
    reader = csv.DictReader(StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
    there = reader.fieldnames or []
    for name in filter(None, (columns.question, columns.answer)):
        if name not in there:
            raise ValueError(f"there is no column {name!r}; there are: {', '.join(there)}")
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV: {error}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield None


def _row(number: int, position: int, cells: Any, columns: Columns) -> Row | BadRow:  # noqa: ANN401
    if not isinstance(cells, Mapping):
        return BadRow(number=number, reason="not a JSON object")
    try:
        row = Row(
            name=_name(cells.get(columns.id)) or str(number),
            position=position,
            question=_text(cells, columns.question),
            label=_label(cells, columns.answer) if columns.answer else None,
            documents=_documents(cells.get(columns.documents)),
        )
    except ValueError as error:
        return BadRow(number=number, reason=str(error))
    problem = problem_of(row)
    return BadRow(number=number, reason=problem) if problem else row


def _name(value: object) -> str:
    return "" if value is None else str(value)


def _text(cells: Mapping[str, Any], column: str) -> str:
    value = cells.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{column} is no text")  # noqa: TRY004 - a row's fault, not a caller's
    return value


def _label(cells: Mapping[str, Any], column: str) -> str:
    """Return the label; of several that are equally right, all of them. No fault quotes one."""
    value = cells.get(column)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return " or ".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{column} is no text, number or list of texts")  # noqa: TRY004 - as above
    return value


def _documents(value: Any) -> tuple[Paragraph, ...]:  # noqa: ANN401 - as JSON has it
    """Return passages: objects with title and text, texts, or HotpotQA's pairs; in CSV as JSON."""
    if value is None or value == "":
        return ()
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, list):
            raise TypeError("no list")  # noqa: TRY301 - told below, as every other fault
        return tuple(_passage(number, one) for number, one in enumerate(found, 1))
    except (ValueError, TypeError, KeyError):
        raise ValueError("the documents are no list of passages") from None


def _passage(number: int, value: Any) -> Paragraph:  # noqa: ANN401 - as JSON has it
    if isinstance(value, str):
        return Paragraph(title=f"passage {number}", text=value)
    if isinstance(value, Mapping):
        return msgspec.convert(dict(value), Paragraph)
    title, sentences = value
    text = sentences if isinstance(sentences, str) else "".join(sentences)
    return msgspec.convert({"title": title, "text": text}, Paragraph)
