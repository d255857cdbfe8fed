"""Nearest passages by meaning: exact, over unit vectors in one file that is mapped into memory."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ops.errors import Refused
from ops.retrieval.ranking import Scored, best
from ops.retrieval.store import PassageStore

__all__ = ["Dense", "Embed", "build_dense"]

_FILE: Final = "vectors.f32"
_BATCH: Final = 128
_BYTES: Final = 4
#: Gives the unit vectors of texts, one row each.
Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[npt.NDArray[np.float32]]]


async def build_dense(
    folder: Path, store: PassageStore, embed: Embed, done: Callable[[int], None]
) -> None:
    """Embed all passages, in order; what an earlier attempt has written is kept."""
    dimensions = (await embed([store[0].contents])).shape[1]
    with (folder / _FILE).open("ab") as file:
        row = file.tell() // (_BYTES * dimensions)
        file.truncate(row * _BYTES * dimensions)
        while row < len(store):
            done(row)
            batch = range(row, min(row + _BATCH, len(store)))
            vectors = await embed([store[one].contents for one in batch])
            if vectors.shape != (len(batch), dimensions):
                raise Refused(
                    f"the embedder gave vectors of shape {vectors.shape}",
                    f"Use one that gives {dimensions} dimensions for every text.",
                )
            file.write(vectors.astype("<f4").tobytes())
            row = batch.stop


class Dense:
    """The vectors of `count` passages."""

    def __init__(self, folder: Path, count: int) -> None:
        mapped = np.memmap(folder / _FILE, dtype="<f4", mode="r")
        self._vectors: npt.NDArray[np.float32] = np.asarray(mapped).reshape(count, -1)

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._vectors.shape[1])

    def search(self, vector: npt.NDArray[np.float32], count: int) -> list[Scored]:
        """Return the nearest passages by inner product, best first; every passage is compared."""
        return best(self._vectors @ vector, count, above=-np.inf)
