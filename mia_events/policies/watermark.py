"""How far a partition may be committed: up to the first record that is not done."""

from __future__ import annotations

from collections import deque


class Watermark:
    """The contiguous prefix of one partition.

    Records start in order and are done in any order; offsets may have gaps.
    """

    __slots__ = ("_done", "_open", "position")

    def __init__(self, position: int) -> None:
        """Start at `position`, the next offset to be read."""
        self.position = position
        self._open: deque[int] = deque()
        self._done: set[int] = set()

    def follows(self, offset: int) -> bool:
        """Whether a record at `offset` comes after everything that was read."""
        return offset > self._open[-1] if self._open else offset >= self.position

    def started(self, offset: int) -> None:
        """A record was read. Raises `ValueError` when it does not come after the last one."""
        if not self.follows(offset):
            message = f"offset {offset} does not come after what was read before it"
            raise ValueError(message)
        self._open.append(offset)

    def done(self, offset: int) -> None:
        """A record needs nothing more; unknown or repeated offsets change nothing."""
        if offset < self.position:
            return
        self._done.add(offset)
        while self._open and self._open[0] in self._done:
            passed = self._open.popleft()
            self._done.discard(passed)
            self.position = passed + 1

    @property
    def open(self) -> int:
        """Records read and not passed yet."""
        return len(self._open)


__all__ = ["Watermark"]
