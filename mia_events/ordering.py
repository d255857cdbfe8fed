"""Events of several streams in one order, though the clocks of those who wrote them disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


def by_time(events: Iterable[T], place: Callable[[T], tuple[Any, datetime, int]]) -> list[T]:
    """Events by time, those of a stream by number. `place` tells an event's stream, or its rank
    among streams at the same moment; its time; and its number.
    """
    placed = sorted(((place(event), event) for event in events), key=lambda one: one[0][2])
    latest: dict[Any, datetime] = {}
    ranked: list[tuple[tuple[datetime, Any, int], T]] = []
    for (stream, at, seq), event in placed:
        latest[stream] = max(at, latest.get(stream, at))
        ranked.append(((latest[stream], stream, seq), event))
    return [event for _, event in sorted(ranked, key=lambda one: one[0])]


__all__ = ["by_time"]
