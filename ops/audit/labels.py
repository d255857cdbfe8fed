"""How often a sealed gold value can be read where roles without labels read.

A count, no verdict: a right answer is the gold value.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ops.audit.book import Book


class LabelCount(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of a run, and how many of their values occur somewhere, word for word.

    In the events and the open effects of their own question, in a memory, in the message of a dead
    letter of the run.
    """

    labels: int
    events: int
    effects: int
    memories: int
    dead_letters: int


def count_labels(book: Book) -> LabelCount:
    """Look for every gold value of the run."""
    texts = _Texts(book)
    hits = [
        (
            _found(gold.value, texts.events.get(gold.question, ())),
            _found(gold.value, texts.effects.get(gold.question, ())),
            _found(gold.value, texts.memories),
            _found(gold.value, texts.letters),
        )
        for gold in book.history.gold
    ]
    sums = [sum(column) for column in zip(*hits, strict=True)] or [0] * 4
    return LabelCount(
        labels=len(hits),
        events=sums[0],
        effects=sums[1],
        memories=sums[2],
        dead_letters=sums[3],
    )


class _Texts:
    """Where to look, by question where a place belongs to one."""

    def __init__(self, book: Book) -> None:
        self.events: dict[object, list[bytes]] = {}
        self.effects: dict[object, list[bytes]] = {}
        self.memories = [msgspec.json.encode(m.text) for m in book.history.memories]
        self.letters = [msgspec.json.encode(row.message) for row in book.history.letters]
        for row in book.history.events:
            if row.body is not None:
                self.events.setdefault(row.correlation, []).append(row.body)
        for effect in book.history.effects:
            entry = book.by_id.get(effect.event_id)
            if entry is not None and effect.result is not None:
                self.effects.setdefault(entry.row.correlation, []).append(effect.result)


def _found(value: str, places: Iterable[bytes]) -> bool:
    needle = msgspec.json.encode(value)[1:-1]
    return bool(needle) and any(needle in place for place in places)


__all__ = ["LabelCount", "count_labels"]
