"""The index asks its embedder with patience, and for no more than it can take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mia_events.effects import Embed, Vectors
from mia_events.steps import Late, Poison, Transient
from ops.retrieval.embedding import Embedding


class _Models:
    """Refuses texts beyond a length; before that it fails as it is told, one error a call."""

    def __init__(self, longest: int = 10_000, errors: Sequence[Exception] = ()) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._longest, self._errors = longest, list(errors)

    async def embed(self, embed: Embed) -> Vectors:
        self.asked.append(embed.texts)
        if self._errors:
            raise self._errors.pop(0)
        if any(len(text) > self._longest for text in embed.texts):
            raise Poison("the embedder answered 400: too long")
        return Vectors(tuple((float(len(text)), 0.0) for text in embed.texts))


def _embedding(models: Any) -> Embedding:
    return Embedding(models, "m")


async def test_a_long_passage_is_cut() -> None:
    """Its beginning says what it is about."""
    models = _Models()
    vectors = await _embedding(models).vectors(["short", "x" * 5_000])
    assert [[5, 0], [1_000, 0]] == vectors.tolist()
    assert np.float32 == vectors.dtype


async def test_what_is_refused_is_cut_further() -> None:
    """A script of one token a character fits too; what is refused even so is an error."""
    models = _Models(longest=256)
    assert [[240, 0]] == (await _embedding(models).vectors(["x" * 5_000])).tolist()
    with pytest.raises(Poison):
        await _embedding(_Models(longest=1)).vectors(["two"])


async def test_an_embedder_that_is_away_is_waited_for() -> None:
    """It starts beside the service, and may be started again while an index is built."""
    told: list[str] = []
    models = _Models(errors=[Late("it is away", 0.0)] * 20)
    found = await _embedding(models).patiently(["a"], told.append)
    assert [[1, 0]] == found.tolist()
    assert ["waiting for the embedder: it is away"] * 20 == told


async def test_an_embedder_that_keeps_failing_ends_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its faults are counted: a build does not hang for ever."""
    monkeypatch.setattr("ops.retrieval.embedding._AGAIN_S", 0.0)
    models = _Models(errors=[Transient("500")] * 99)
    with pytest.raises(Transient):
        await _embedding(models).patiently(["a"], lambda _: None)
    assert 8 == len(models.asked)
