"""Made-up memories: vectors around centres, words by Zipf's law, a third with a record of use."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np

from mia_events import ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from numpy.typing import NDArray

_DIMENSION: Final = 384
_NOISE: Final = 0.7
_VOCABULARY: Final = 30_000
_TOPIC_WORDS: Final = 8
_COLUMNS: Final = (
    "id", "version", "scope", "dedupe_key", "outcome", "text", "question", "plan", "category",
    "caption", "data_id", "trust", "embedding", "words", "brought_uses", "brought_wins", "causes",
    "from_gen", "until_gen", "at",
)  # fmt: skip
#: Scopes and their share of all memories, in per cent.
_SHARES: Final = (("large", 80), ("middle", 15), ("small", 5))
_GENERATIONS: Final = 20


@dataclass(frozen=True)
class Made:
    """A scene: the rows of the tables, and questions (vector, text) for each scope."""

    columns: tuple[str, ...]
    lines: list[list[Any]]
    credits: list[tuple[UUID, UUID, bool]]
    scopes: list[tuple[str, int, int]]
    questions: dict[str, list[tuple[tuple[float, ...], str]]]

    async def rows(self) -> AsyncIterator[bytes]:
        """The memories as CSV, a thousand at a time."""
        for start in range(0, len(self.lines), 1000):
            out = io.StringIO()
            csv.writer(out).writerows(self.lines[start : start + 1000])
            yield out.getvalue().encode()


class _World:
    """Centres with words of their own, and a generator that everything is drawn from."""

    def __init__(self, count: int) -> None:
        self.chance = np.random.default_rng(7)
        self.centres = self.chance.standard_normal((max(20, count // 50), _DIMENSION))
        self.topics = self.chance.integers(200, _VOCABULARY, (len(self.centres), _TOPIC_WORDS))

    def vectors(self, centres: NDArray[Any]) -> NDArray[Any]:
        """A unit vector near each centre."""
        noise = self.chance.standard_normal((len(centres), _DIMENSION))
        found = self.centres[centres] + _NOISE * noise
        unit: NDArray[Any] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def text(self, centre: int, topical: int, others: int) -> str:
        """Words of a centre, and words that anyone uses."""
        own = self.chance.choice(self.topics[centre], topical, replace=False)
        common = self.chance.zipf(1.3, others) % _VOCABULARY
        return " ".join(f"w{word}" for word in (*own, *common))


def make(count: int, asked: int) -> Made:
    """`count` memories in three scopes, and `asked` questions for each scope; always the same."""
    world = _World(count)
    scopes = [scope for scope, share in _SHARES for _ in range(count * share // 100)]
    homes = world.chance.integers(0, len(world.centres), len(scopes))
    vectors = world.vectors(homes)
    lines = [
        _line(world, number, scope, int(home), vector)
        for number, (scope, home, vector) in enumerate(zip(scopes, homes, vectors, strict=True))
    ]
    return Made(
        columns=_COLUMNS,
        lines=lines,
        credits=list(_credits(world, lines)),
        scopes=[(scope, _GENERATIONS, scopes.count(scope)) for scope, _ in _SHARES],
        questions={scope: list(_questions(world, asked)) for scope, _ in _SHARES},
    )


def _line(world: _World, number: int, scope: str, home: int, vector: NDArray[Any]) -> list[Any]:
    key = str(number)
    question, text = world.text(home, 4, 6), world.text(home, 6, 60)
    words = " ".join(f"'{word}'" for word in {*question.split(), *text.split()})
    outcome = "success" if number % 10 < 7 else "failure"  # noqa: PLR2004 - 7 of 10
    embedding = "[" + ",".join(f"{value:.5f}" for value in vector) + "]"
    trust = "imported" if number % 100 == 0 else "distilled"
    from_gen = 1 + number % _GENERATIONS
    return [
        ids.memory_id(scope, key), 1, scope, key, outcome, text, question, "-", "-", "-", "-",
        trust, embedding, words, 0, 0, "{}", from_gen, None, "2026-01-01",
    ]  # fmt: skip


def _credits(world: _World, lines: list[list[Any]]) -> Iterator[tuple[UUID, UUID, bool]]:
    """Up to six uses for a third of the memories."""
    for line in lines[::3]:
        for asker in range(int(world.chance.integers(1, 7))):
            yield line[0], UUID(int=asker), bool(world.chance.random() < 0.5)  # noqa: PLR2004 - half


def _questions(world: _World, asked: int) -> Iterator[tuple[tuple[float, ...], str]]:
    homes = world.chance.integers(0, len(world.centres), asked)
    for home, vector in zip(homes, world.vectors(homes), strict=True):
        yield tuple(float(value) for value in vector), world.text(int(home), 4, 6)


__all__ = ["Made", "make"]
