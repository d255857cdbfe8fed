"""The published system's memory file: what is read of it, and that what is written is read back."""

import json
from typing import Any

import pytest

from producers.hotpot import BadRow
from producers.memory_file import Kept, read_memories, write_memories
from schemas.events import MemoryCandidate

_ENTRY = {
    "data_id": "17",
    "question": "Which river is longer?",
    "image_caption": "",
    "workflow_summary": "1. Search both rivers.",
    "plan": "Compare.",
    "judgement": "correct",
    "usage_count": 4,
    "success_count": 3,
    "win_rate": 0.75,
}


def _file(*entries: Any, modality: str = "text-only", category: str = "location") -> bytes:
    return json.dumps({modality: {category: list(entries)}}).encode()


def _read(data: bytes) -> list[MemoryCandidate | BadRow]:
    return list(read_memories(data, dimensions=3))


def test_an_entry_becomes_a_memory() -> None:
    """Published counters start at one use and one win; ours at none."""
    (found,) = _read(_file(_ENTRY))
    assert isinstance(found, MemoryCandidate)
    assert ("1. Search both rivers.", "success", "imported", "location", "17", 3, 2, ()) == (
        found.text, found.outcome, found.trust, found.category, found.data_id, found.uses,
        found.wins, found.vector,
    )  # fmt: skip


@pytest.mark.parametrize("label", ["incorrect", "not_attempted"])
def test_what_did_not_succeed_is_a_failure(label: str) -> None:
    """Also under the label of the unsupervised services."""
    without = {name: value for name, value in _ENTRY.items() if name != "judgement"}
    for entry in ({**_ENTRY, "judgement": label}, {**without, "judgement_nogt": label}):
        (found,) = _read(_file(entry))
        assert isinstance(found, MemoryCandidate)
        assert "failure" == found.outcome


def test_a_caption_tells_two_questions_apart() -> None:
    """Equal questions about different images are different memories."""
    keys = {
        found.dedupe_key
        for caption in ("", "a red car", "a blue car")
        for found in _read(_file({**_ENTRY, "image_caption": caption}))
        if isinstance(found, MemoryCandidate)
    }
    assert 3 == len(keys)


def test_a_vector_is_scaled_to_unit_length() -> None:
    """A file may bring its own."""
    (found,) = _read(_file({**_ENTRY, "embedding": [0, 3, 4]}))
    assert isinstance(found, MemoryCandidate)
    assert (0.0, 0.6, 0.8) == found.vector


@pytest.mark.parametrize(
    "wrong",
    [
        "no entry",
        {**_ENTRY, "question": " "},
        {**_ENTRY, "workflow_summary": ""},
        {**_ENTRY, "plan": "a\x00b"},
        {**_ENTRY, "plan": "x" * 20_001},
        {**_ENTRY, "judgement": "maybe"},
        {**_ENTRY, "success_count": 5},
        {**_ENTRY, "usage_count": 2**31, "success_count": 1},
        {**_ENTRY, "embedding": [1, 0]},
        {**_ENTRY, "embedding": [0, 0, 0]},
        {**_ENTRY, "image_caption": ["a", "b"]},
        {"question": "only"},
    ],
)
def test_a_bad_entry_is_reported_by_number_without_its_values(wrong: Any) -> None:
    """The others are read; entries count over all categories."""
    data = json.dumps(
        {"text-only": {"others": [_ENTRY], "time": [wrong]}, "text-image": {"others": [_ENTRY]}}
    )
    first, bad, last = _read(data.encode())
    assert isinstance(first, MemoryCandidate)
    assert isinstance(last, MemoryCandidate)
    assert isinstance(bad, BadRow)
    assert 2 == bad.number
    assert "maybe" not in bad.reason


@pytest.mark.parametrize("data", [b"", b"[]", b'{"text-only": []}', b"\xff\xfe", b"{} {}"])
def test_what_is_no_memory_file_is_refused(data: bytes) -> None:
    """The message says what it must be."""
    with pytest.raises(ValueError, match="modality, category, entries"):
        _read(data)


def test_what_is_written_is_read_back() -> None:
    """All that is kept of an entry: a file of ours is a file of theirs."""
    kept = [
        Kept(
            question="q", text="t", outcome="success", plan="p", category="", caption="",
            data_id="1", uses=0, wins=0,
        ),
        Kept(
            question="q", text="t2", outcome="failure", plan="", category="time", caption="a car",
            data_id="2", uses=3, wins=1, vector=(0.0, 0.6, 0.8),
        ),
    ]  # fmt: skip
    data = write_memories(kept)
    first, second = _read(data)
    for one, found in zip(kept, (first, second), strict=True):
        assert isinstance(found, MemoryCandidate)
        back = {name: getattr(found, name) for name in one.__struct_fields__}
        assert one == Kept(**back)
    entries = json.loads(data)
    assert {"text-only": ["others"], "text-image": ["time"]} == {
        modality: list(categories) for modality, categories in entries.items()
    }
    assert 0.5 == entries["text-image"]["time"][0]["win_rate"]
