"""Passages are read from the usual forms of JSON lines; what is none is told, and skipped."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import Refused
from ops.retrieval.passages import Corpus, Passage, Rejected, find_corpus, passage_of

_WHERE = "file.jsonl:7"


def _read(corpus: Corpus) -> tuple[list[Passage], list[Rejected], int]:
    rejected: list[Rejected] = []
    sizes: list[int] = []
    passages = list(corpus.read(rejected.append, sizes.append))
    return passages, rejected, sum(sizes)


@pytest.mark.parametrize(
    "row,expected",
    [
        ({"id": "a", "contents": "Title\ntext"}, Passage("a", "Title\ntext")),
        ({"id": 7, "contents": "Title\ntext", "more": [1]}, Passage("7", "Title\ntext")),
        ({"_id": "b", "title": "A\nname ", "text": "one\ntwo"}, Passage("b", "A name\none\ntwo")),
        ({"text": "no title"}, Passage(_WHERE, "\nno title")),
    ],
)
def test_the_usual_forms_are_read(row: dict[str, object], expected: Passage) -> None:
    """The title is the first line; a row without an id is named by its place."""
    assert expected == passage_of(json.dumps(row).encode(), _WHERE)


@pytest.mark.parametrize(
    "line,reason",
    [
        (b'{"id": "a"', "it is not"),
        (b"[1]", "it is not"),
        (b'{"id": "a", "contents": 7}', "contents"),
        (b'{"id": "a", "contents": "  "}', "it has no text"),
        (b'{"id": "a", "title": "only"}', "it has no text"),
        (b"\xff\xfe", "it is not"),
        (b'{"text": "\xff"}', "it is not"),
        (b"[" * 9_000, "it is not"),
        (b'"' + b"x" * 2**20, "split the passage"),
    ],
)
def test_a_bad_row_says_why(line: bytes, reason: str) -> None:
    """Every kind of bad row is a reason, never a crash."""
    with pytest.raises(ValueError, match=reason):
        passage_of(line, _WHERE)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_passage_or_a_reason(line: bytes) -> None:
    """No line of a file ends the reading of the rest."""
    try:
        passage = passage_of(line, _WHERE)
    except ValueError:
        return
    assert passage is None or passage.contents.strip()


def test_bad_rows_are_told_by_file_and_line_and_the_rest_is_read(tmp_path: Path) -> None:
    """Blank lines are no rows; the second of two equal ids is left out."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": 1, "contents": "a"}\n\nnonsense\n{"id": "1", "contents": "b"}\n')
    passages, rejected, size = _read(find_corpus(path))
    assert [Passage("1", "a")] == passages
    assert ["p.jsonl:3", "p.jsonl:4"] == [one.where for one in rejected]
    assert "its id '1' is taken by another row" == rejected[1].reason
    assert path.stat().st_size == size


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Folders within count; other files do not."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text('{"text": "second"}')
    (tmp_path / "b.jsonl").write_text('{"text": "first"}')
    (tmp_path / "notes.txt").write_text("nothing of ours")
    passages, rejected, _ = _read(find_corpus(tmp_path))
    assert ["b.jsonl:1", "sub/a.jsonl:1"] == [one.id for one in passages]
    assert [] == rejected


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    """The same bytes elsewhere are the same corpus; another byte or name is another."""
    digests = []
    for folder, name, text in (
        ("one", "a.jsonl", "x"),
        ("two", "a.jsonl", "x"),
        ("three", "a.jsonl", "y"),
        ("four", "b.jsonl", "x"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        digests.append(find_corpus(tmp_path / folder).digest())
    assert digests[0] == digests[1]
    assert 3 == len(set(digests))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "empty"])
def test_a_path_without_passages_is_refused_with_the_setting(tmp_path: Path, name: str) -> None:
    """The message names the path and the key to set."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=rf"{name}.*retrieval\.passages"):
        find_corpus(tmp_path / name)
