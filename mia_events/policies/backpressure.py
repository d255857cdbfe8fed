"""When to stop fetching and when to go on."""

from __future__ import annotations

import msgspec


class Backpressure(msgspec.Struct, frozen=True, kw_only=True):
    """Fetching stops when `high` records wait and goes on when `low` or fewer do.

    Between the two it stays as it is, so that a full queue does not switch with every record.
    """

    high: int
    low: int

    def __post_init__(self) -> None:
        """Refuse thresholds that leave no room between them."""
        if not 0 <= self.low < self.high:
            message = f"low ({self.low}) must lie below high ({self.high}), and not below 0"
            raise ValueError(message)

    def paused(self, *, waiting: int, paused: bool) -> bool:
        """Whether to stand still with `waiting` records in hand, given what was decided last."""
        return waiting > self.low if paused else waiting >= self.high


__all__ = ["Backpressure"]
