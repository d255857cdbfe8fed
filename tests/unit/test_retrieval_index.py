"""An index is built once, used while nothing changed, and whole or not there."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ops.errors import Refused
from ops.retrieval.index import Index, prepare_index
from ops.retrieval.passages import find_corpus
from tests.support.scripted_replies import DIMENSIONS, vector_of

_ROWS = (
    ("w", "Waverley\nWaverley is a novel by Walter Scott, published in 1814."),
    ("i", "Ivanhoe\nIvanhoe is another novel by Walter Scott."),
    ("e", "Edinburgh\nEdinburgh is the capital of Scotland."),
    ("g", "Glasgow\nGlasgow is the largest city of Scotland."),
)


class _Embedder:
    """Embeds by hashed words; counts texts, and fails at the text it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.texts: list[str] = []
        self._fails_at = fails_at

    async def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self._fails_at and any(self._fails_at in text for text in texts):
            raise ConnectionError
        self.texts += texts
        return np.array([vector_of(text) for text in texts], dtype=np.float32)


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    """Give a file of four passages."""
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"id": i, "contents": c}) + "\n" for i, c in _ROWS))
    return path


async def _prepared(passages: Path, embed: _Embedder | None = None) -> tuple[Index, list[str]]:
    told: list[str] = []
    index = await prepare_index(
        find_corpus(passages),
        passages.parent / "index",
        told.append,
        embed=embed,
        embedder="hashed" if embed else "",
    )
    return index, told


def _ids(index: Index, query: str, count: int = 4) -> list[str]:
    return [found.passage.id for found in index.search(query, count)]


async def test_passages_are_found_by_their_words(passages: Path) -> None:
    """The best first, whole, with a score; what shares no word is not found."""
    index, _ = await _prepared(passages)
    (found,) = index.search("Waverley 1814", 3)
    assert _ROWS[0] == (found.passage.id, found.passage.contents)
    assert found.score > 0
    assert {"w", "i"} == set(_ids(index, "a novel by Scott"))
    assert ["i"] == _ids(index, "a novel by Scott", 1)  # the shorter of the two


async def test_single_characters_count(passages: Path) -> None:
    """A number or a letter is often all that tells two titles apart."""
    with passages.open("a") as file:
        for name in ("Apollo 8", "Apollo 9"):
            file.write(json.dumps({"id": name, "contents": name}) + "\n")
    index, _ = await _prepared(passages)
    assert ["Apollo 9", "Apollo 8"] == _ids(index, "apollo 9")


@pytest.mark.parametrize("query", ["zebra", "the of is", "?!", "a", "\x00"])
async def test_a_query_without_known_words_finds_nothing(passages: Path, query: str) -> None:
    """Stop words, strange signs and unknown words are no error."""
    index, _ = await _prepared(passages)
    assert [] == _ids(index, query)


async def test_an_index_is_used_again(passages: Path) -> None:
    """The second start reads no passage for the index, and finds the same."""
    first, told_first = await _prepared(passages)
    second, told = await _prepared(passages)
    assert "indexing words" in told_first
    assert ["reading passages"] == told
    assert first.folder == second.folder
    assert _ids(first, "Scotland") == _ids(second, "Scotland")


async def test_a_changed_file_is_indexed_anew(passages: Path) -> None:
    """The old index goes, and the new one has what was added; the old one, open, still answers."""
    old, _ = await _prepared(passages)
    with passages.open("a") as file:
        file.write('{"id": "z", "contents": "Zebra\\nA zebra has stripes."}\n')
    new, told = await _prepared(passages)
    assert "indexing words" in told
    assert ["z"] == _ids(new, "zebra")
    assert not old.folder.exists()
    assert [] == _ids(old, "zebra")
    assert ["w"] == _ids(old, "Waverley")


async def test_an_index_that_was_cut_off_is_built_anew(passages: Path) -> None:
    """A file shorter than it was written is noticed at the start, not at a query."""
    index, _ = await _prepared(passages)
    victim = index.folder / "bm25" / "data.csc.index.npy"
    victim.write_bytes(victim.read_bytes()[:-4])
    again, told = await _prepared(passages)
    assert "indexing words" in told
    assert ["w"] == _ids(again, "Waverley")


async def test_with_vectors_words_and_meaning_are_fused(passages: Path) -> None:
    """What both rankings put first is first; a query of unknown words is found by meaning."""
    index, _ = await _prepared(passages, _Embedder())
    vector = np.array(vector_of("capital of Scotland"), dtype=np.float32)
    found = index.search("capital of Scotland", 2, vector)
    assert ("e", 2 / 61) == (found[0].passage.id, found[0].score)
    by_meaning = index.search("?", 4, vector)
    assert ("e", 4) == (by_meaning[0].passage.id, len(by_meaning))
    assert "hashed" == index.facts.embedder


async def test_vectors_that_were_made_are_not_made_again(
    passages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that broke off goes on with the next passage, and comes to the same index."""
    monkeypatch.setattr("ops.retrieval.dense._BATCH", 1)
    with pytest.raises(ConnectionError):
        await _prepared(passages, _Embedder(fails_at="Edinburgh"))
    (draft,) = (passages.parent / "index").glob("draft-*")
    with (draft / "vectors.f32").open("ab") as file:
        file.write(b"torn")
    embedder = _Embedder()
    index, told = await _prepared(passages, embedder)
    assert "indexing words" not in told
    assert [_ROWS[0][1], _ROWS[2][1], _ROWS[3][1]] == embedder.texts  # the first tells dimensions
    vectors = np.fromfile(index.folder / "vectors.f32", dtype="<f4").reshape(4, DIMENSIONS)
    expected = np.array([vector_of(text) for _, text in _ROWS], dtype=np.float32)
    assert np.array_equal(expected, vectors)


async def test_another_embedder_is_another_index(passages: Path) -> None:
    """Vectors of two models do not compare."""
    plain, _ = await _prepared(passages)
    dense, _ = await _prepared(passages, _Embedder())
    assert plain.folder != dense.folder


async def test_bad_rows_are_counted_and_named(passages: Path) -> None:
    """They stand in the facts that the service and the command show."""
    with passages.open("a") as file:
        file.write("nonsense\n" * 9)
    index, _ = await _prepared(passages)
    assert (4, 9, 5) == (index.facts.passages, index.facts.skipped, len(index.facts.reasons))
    assert index.facts.reasons[0].startswith("passages.jsonl:5: it is not")


@pytest.mark.parametrize(
    "text,said",
    [("", "no passage"), ("nonsense\n", r"passages.jsonl:1"), ('{"text": "a"}', "word")],
)
async def test_a_corpus_without_passages_is_refused(passages: Path, text: str, said: str) -> None:
    """It says why, and leaves no index behind."""
    await asyncio.to_thread(passages.write_text, text)
    with pytest.raises(Refused, match=said):
        await _prepared(passages)
    assert [] == list((passages.parent / "index").glob("*/index.json"))


async def test_a_file_that_changes_under_the_build_is_refused(passages: Path) -> None:
    """An index of half an old file and half a new one is named by neither."""

    def told(message: str) -> None:
        if message == "indexing words":
            passages.write_text('{"id": "n", "contents": "new"}\n')

    with pytest.raises(Refused, match="changed while it was read"):
        await prepare_index(find_corpus(passages), passages.parent / "index", told)
