"""The published system's memory file: one JSON object of modality, category, entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from mia_events.memories import dedupe_key
from producers.hotpot import BadRow
from schemas.events import MemoryCandidate

#: What an entry's label becomes; the published system stores what was not attempted as incorrect.
_OUTCOMES: Final[dict[str, Literal["success", "failure"]]] = {
    "correct": "success",
    "incorrect": "failure",
    "not_attempted": "failure",
}
_JUDGEMENTS: Final = {"success": "correct", "failure": "incorrect"}
_CATEGORY: Final = "others"
_MOST_CHARACTERS: Final = 20_000


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as far as it is kept; the counters start at one use and one win."""

    question: str
    workflow_summary: str
    data_id: str | int = ""
    image_caption: str = ""
    plan: str = ""
    judgement: str = ""
    judgement_nogt: str = ""
    usage_count: int = 1
    success_count: int = 1
    embedding: tuple[float, ...] = ()


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A memory as it is written to a file; `vector` is left out when it is empty."""

    question: str
    text: str
    outcome: str
    plan: str
    category: str
    caption: str
    data_id: str
    uses: int
    wins: int
    vector: tuple[float, ...] = ()


_file: Final = msgspec.json.Decoder(dict[str, dict[str, list[msgspec.Raw]]])
_entry: Final = msgspec.json.Decoder(_Entry)


def read_memories(data: bytes, *, dimensions: int) -> Iterator[MemoryCandidate | BadRow]:
    """The entries of a file in its order, counted from 1. A vector is empty where it has none.

    Raises `ValueError` when the file is not one of memories.
    """
    try:
        modalities = _file.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = (
            "this is no memory file: it must be one JSON object of modality, category, entries "
            f"({error})"
        )
        raise ValueError(message) from error
    rows = (
        (category, row)
        for categories in modalities.values()
        for category, entries in categories.items()
        for row in entries
    )
    for number, (category, row) in enumerate(rows, start=1):
        try:
            yield _candidate(_entry.decode(row), category, dimensions)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            yield BadRow(number=number, reason=str(error))


def _candidate(entry: _Entry, category: str, dimensions: int) -> MemoryCandidate:
    label = entry.judgement or entry.judgement_nogt
    if problem := _problem(entry, label, dimensions):
        raise ValueError(problem)
    outcome, caption = _OUTCOMES[label], entry.image_caption.strip()
    asked = f"{entry.question}\n{caption}" if caption else entry.question
    return MemoryCandidate(
        dedupe_key=dedupe_key(asked, outcome),
        text=entry.workflow_summary,
        question=entry.question,
        outcome=outcome,
        rollout=0,
        plan=entry.plan,
        vector=_unit(entry.embedding),
        trust="imported",
        category="" if category == _CATEGORY else category,
        caption=caption,
        data_id=str(entry.data_id),
        uses=entry.usage_count - 1,
        wins=entry.success_count - 1,
    )


def _problem(entry: _Entry, label: str, dimensions: int) -> str:
    """Why an entry cannot be used, without quoting it; empty when it can."""
    texts = (entry.question, entry.workflow_summary, entry.plan, entry.image_caption)
    size = len(entry.embedding)
    problems = {
        "question and workflow_summary must not be empty": not (
            entry.question.strip() and entry.workflow_summary.strip()
        ),
        "a text has a NUL character": any("\x00" in t for t in (*texts, str(entry.data_id))),
        f"a text has more than {_MOST_CHARACTERS} characters": any(
            len(text) > _MOST_CHARACTERS for text in texts
        ),
        f"judgement must be one of {', '.join(_OUTCOMES)}": label not in _OUTCOMES,
        "counters must be 1 <= success_count <= usage_count": not (
            1 <= entry.success_count <= entry.usage_count < 2**31
        ),
        f"embedding has {size} dimensions, memories have {dimensions}": size not in (0, dimensions),
        "embedding is all zero": size and not any(entry.embedding),
    }
    return next((problem for problem, holds in problems.items() if holds), "")


def _unit(values: tuple[float, ...]) -> tuple[float, ...]:
    length = sum(value * value for value in values) ** 0.5
    return tuple(round(value / length, 6) for value in values)


def write_memories(kept: Iterable[Kept]) -> bytes:
    """The file of some memories, indented, as the published system reads it."""
    file: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for one in kept:
        modality = "text-image" if one.caption else "text-only"
        entries = file.setdefault(modality, {}).setdefault(one.category or _CATEGORY, [])
        entries.append(_row(one))
    return msgspec.json.format(msgspec.json.encode(file), indent=2)


def _row(one: Kept) -> dict[str, Any]:
    used, won = one.uses + 1, one.wins + 1
    row: dict[str, Any] = {
        "data_id": one.data_id,
        "question": one.question,
        "image_caption": one.caption,
        "workflow_summary": one.text,
        "plan": one.plan,
        "judgement": _JUDGEMENTS[one.outcome],
        "usage_count": used,
        "success_count": won,
        "win_rate": round(won / used, 4),
    }
    return {**row, "embedding": one.vector} if one.vector else row


__all__ = ["Kept", "read_memories", "write_memories"]
