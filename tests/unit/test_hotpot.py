"""HotpotQA's file format is read row by row, and a bad row is named without stopping the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from ops.demo import own_questions
from producers.hotpot import BadRow, Row, read_rows, source_of

_GOOD: dict[str, Any] = {
    "_id": "a1",
    "question": "Which river is longer?",
    "answer": "the Osk",
    "context": [["Osk", ["The Osk is long.", " It is cold."]]],
    "level": "easy",
}


def _file(folder: Path, rows: list[Any]) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_row_has_its_paragraphs_joined_and_its_label_apart(tmp_path: Path) -> None:
    """Sentences become one text; the question to be published holds no answer."""
    (row,) = read_rows(_file(tmp_path, [_GOOD]))
    assert isinstance(row, Row)
    assert ("a1", 0, "the Osk") == (row.name, row.position, row.label)
    incoming = row.incoming("run", "source", 7)
    assert "The Osk is long. It is cold." == incoming.documents[0].text
    assert ("run", "source", "a1", 7) == (
        incoming.run,
        incoming.source,
        incoming.row,
        incoming.position,
    )


def test_json_lines_are_read_like_a_list(tmp_path: Path) -> None:
    """One object a line is the same as a list of them."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(_GOOD) + "\n\n" + json.dumps({**_GOOD, "_id": "a2"}) + "\n")
    assert ["a1", "a2"] == [row.name for row in read_rows(path) if isinstance(row, Row)]


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"question": "q"}, "answer"),
        ({**_GOOD, "question": " "}, "the question is empty"),
        ({**_GOOD, "answer": " "}, "the answer is empty"),
        ({**_GOOD, "answer": "a\x00b"}, "NUL"),
        ({**_GOOD, "question": "a\x00b"}, "NUL"),
        ({**_GOOD, "context": [["title"]]}, "context"),
        ({**_GOOD, "question": "x" * 20_001}, "20000"),
        (17, "object"),
    ],
)
def test_a_bad_row_is_named_and_not_counted(tmp_path: Path, row: Any, reason: str) -> None:
    """Positions count valid rows; the reason says what to mend and quotes no answer."""
    found = list(read_rows(_file(tmp_path, [_GOOD, row, {**_GOOD, "_id": "a3"}])))
    bad = found[1]
    assert isinstance(bad, BadRow)
    assert 2 == bad.number
    assert reason in bad.reason
    assert "the Osk" not in bad.reason
    assert [0, 1] == [row.position for row in found if isinstance(row, Row)]


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    """Two rows of one name would be one question with two answers."""
    found = list(read_rows(_file(tmp_path, [_GOOD, {**_GOOD, "answer": "the Lunt"}])))
    assert [Row, BadRow] == [type(row) for row in found]


def test_a_row_without_an_id_is_named_by_its_number(tmp_path: Path) -> None:
    """Its place is an identity too, since the file's content is in the source's name."""
    row = {name: value for name, value in _GOOD.items() if name != "_id"}
    assert ["1", "2"] == [
        r.name for r in read_rows(_file(tmp_path, [row, row])) if isinstance(r, Row)
    ]


def test_a_broken_list_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Without its end nothing can be said about the rows of a list."""
    path = tmp_path / "rows.json"
    path.write_text("[" + json.dumps(_GOOD))
    with pytest.raises(ValueError, match="not a JSON list"):
        list(read_rows(path))


def test_another_content_is_another_source(tmp_path: Path) -> None:
    """A corrected file must not be taken for the one that was ingested before."""
    first = source_of(_file(tmp_path, [_GOOD]))
    second = source_of(_file(tmp_path, [{**_GOOD, "answer": "the Lunt"}]))
    assert first != second
    assert first.startswith("rows.json@")


def test_the_demo_has_ten_valid_questions_with_distractors() -> None:
    """Every question of our own is valid, and at least four passages come with it."""
    rows = list(read_rows(own_questions()))
    assert [Row] * 10 == [type(row) for row in rows]
    assert 4 <= min(len(row.documents) for row in rows if isinstance(row, Row))


def test_each_answer_of_the_demo_stands_in_its_passages() -> None:
    """A question whose answer cannot be found would test nothing (yes and no are compared)."""
    rows = [row for row in read_rows(own_questions()) if isinstance(row, Row)]
    labels = {row.name: row.label or "" for row in rows}
    missing = [
        row.name
        for row in rows
        if labels[row.name] not in {"yes", "no"}
        and labels[row.name].removeprefix("the ")
        not in " ".join(d.title + d.text for d in row.documents)
    ]
    assert [] == missing
