"""The passages of an index: one file that is mapped into memory, and where each row begins in it.

They are copied, so that an index answers with what it was built from.
"""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ops.retrieval.passages import Passage

__all__ = ["PassageStore", "write_store"]

_ROWS: Final = "passages.jsonl"
_OFFSETS: Final = "offsets.npy"


def write_store(folder: Path, passages: Iterable[Passage]) -> Iterator[Passage]:
    """Write passages as they pass by; the store is whole when the iterator has ended."""
    encoder, ends, position = msgspec.json.Encoder(), [0], 0
    with (folder / _ROWS).open("wb", buffering=2**20) as file:
        for passage in passages:
            position += file.write(encoder.encode(passage) + b"\n")
            ends.append(position)
            yield passage
    np.save(folder / _OFFSETS, np.array(ends, dtype=np.int64))


class PassageStore:
    """Passages by their row, from 0."""

    def __init__(self, folder: Path) -> None:
        self._ends = np.load(folder / _OFFSETS)
        with (folder / _ROWS).open("rb") as file:
            self._rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._decoder = msgspec.json.Decoder(Passage)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Passage:
        return self._decoder.decode(self._rows[self._ends[row] : self._ends[row + 1]])

    def __iter__(self) -> Iterator[Passage]:
        return (self[row] for row in range(len(self)))

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()
