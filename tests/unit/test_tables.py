"""Benchmarks as tables: columns by name, the same rows each time, bad rows by number."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.hotpot import BadRow, Row
from producers.tables import Columns, read_table, source_of_table
from schemas.external import Paragraph

_SECRET = "the gold 7f3a"
_COLUMNS = Columns(question="query", answer="gold", id="name", documents="passages")

_SURROGATES: Final[tuple[Literal["Cs"]]] = ("Cs",)  # no file holds one
cells = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=_SURROGATES), min_size=1
).filter(lambda text: bool(text.strip()) and text == text.replace("\r", ""))


def _csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    out = StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path = folder / "bench.csv"
    path.write_bytes(out.getvalue().encode())
    return path


def _lines(folder: Path, *rows: Any) -> Path:
    path = folder / "bench.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def _only(path: Path, columns: Columns = _COLUMNS) -> Row | BadRow:
    (row,) = read_table(path, columns)
    return row


@given(pairs=st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_what_was_written_as_csv_or_json_lines_is_read(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    """Whatever the texts hold: commas, quotes, line ends."""
    rows = [{"query": question, "gold": gold} for question, gold in pairs]
    folder = tmp_path_factory.mktemp("tables")
    for path in (_csv(folder, rows), _lines(folder, *rows)):
        read = list(read_table(path, _COLUMNS))
        assert pairs == [(r.question, r.label) for r in read if isinstance(r, Row)]
        assert [str(n) for n in range(1, len(rows) + 1)] == [
            r.name for r in read if isinstance(r, Row)
        ]


@pytest.mark.parametrize(
    "passages",
    [
        [{"title": "a", "text": "b c"}],
        [["a", ["b ", "c"]]],
        [["a", "b c"]],
    ],
)
def test_passages_come_in_three_shapes(tmp_path: Path, passages: Any) -> None:
    """And in CSV as JSON in a cell."""
    rows: dict[str, Any] = {"query": "q?", "gold": "g", "passages": passages}
    expected = (Paragraph(title="a", text="b c"),)
    found = _only(_lines(tmp_path, rows))
    assert isinstance(found, Row)
    assert expected == found.documents
    found = _only(_csv(tmp_path, [{**rows, "passages": json.dumps(passages)}]))
    assert isinstance(found, Row)
    assert expected == found.documents


@pytest.mark.parametrize(
    "gold,label", [("x", "x"), (7, "7"), (True, "true"), (["x", "y"], "x or y"), (["x"], "x")]
)
def test_a_label_may_be_a_number_or_several(tmp_path: Path, gold: Any, label: str) -> None:
    """Data sets have them all; equally right answers stand beside each other."""
    row = _only(_lines(tmp_path, {"query": "q?", "gold": gold}))
    assert isinstance(row, Row)
    assert label == row.label


@pytest.mark.parametrize(
    "row",
    [
        {"query": 3, "gold": _SECRET},
        {"query": "", "gold": _SECRET},
        {"gold": _SECRET},
        {"query": "q?", "gold": {"text": _SECRET}},
        {"query": "q?", "gold": [_SECRET, 7]},
        {"query": "q?", "gold": f"{_SECRET}\x00"},
        {"query": "q?", "gold": _SECRET, "passages": {"title": 1}},
        {"query": "q?", "gold": _SECRET, "passages": [[1, 2]]},
        {"query": "q?", "gold": " "},
        {"query": "q?"},
        "[]",
        f'{{"query": "q?", "gold": "{_SECRET}',
    ],
)
def test_a_bad_row_is_told_by_number_without_its_label(tmp_path: Path, row: Any) -> None:
    """And the rows around it are taken."""
    good = {"query": "q?", "gold": "g"}
    first, bad, last = read_table(_lines(tmp_path, good, row, good), _COLUMNS)
    assert isinstance(bad, BadRow)
    assert 2 == bad.number
    assert _SECRET not in bad.reason
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert (0, 1) == (first.position, last.position)


def test_a_name_that_is_taken_is_a_bad_row(tmp_path: Path) -> None:
    """Two rows of one name would be one question."""
    row = {"query": "q?", "gold": "g", "name": "same"}
    _, bad = read_table(_lines(tmp_path, row, row), _COLUMNS)
    assert isinstance(bad, BadRow)


def test_a_table_without_labels_has_none(tmp_path: Path) -> None:
    """For judges that need none; the column is not looked at."""
    columns = Columns(question="query", answer=None)
    row = _only(_lines(tmp_path, {"query": "q?", "gold": _SECRET}), columns)
    assert isinstance(row, Row)
    assert row.label is None


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With those that are."""
    path = _csv(tmp_path, [{"q": "?", "gold": "g"}])
    with pytest.raises(ValueError, match="'query'; there are: q, gold"):
        list(read_table(path, _COLUMNS))


def test_other_columns_are_another_source(tmp_path: Path) -> None:
    """The same file read otherwise has other questions under the same names."""
    path = _lines(tmp_path, {"query": "q?", "gold": "g"})
    other = Columns(question="gold", answer="query")
    assert source_of_table(path, _COLUMNS) == source_of_table(path, _COLUMNS)
    assert source_of_table(path, _COLUMNS) != source_of_table(path, other)
