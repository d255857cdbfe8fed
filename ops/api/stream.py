"""A question's steps as server-sent events, resumable without loss or repeat.

The id of each is a place: the last sequence number sent of the question and of each rollout, such
as `5.7.3`. Streams number their events without gaps, so a place is exact.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from ops.api.guard import Problem
from ops.following import follow, outcome_of, told
from storage.postgres.history import PostgresHistory, place_after

__all__ = ["Limit", "parse_place", "steps"]

_HEARTBEAT_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.4
_RETRY_MS: Final = 2_000
_MOST_PLACES: Final = 1_000
_LARGEST: Final = 2**31 - 1


class Limit:
    """Counts open streams: each asks the database a few times a second."""

    def __init__(self, most: int) -> None:
        self._most, self._open = most, 0

    def __enter__(self) -> None:
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1

    def require_room(self) -> None:
        """Raise `Problem` (503) when no further stream may be opened."""
        if self._open >= self._most:
            raise Problem(
                503, "busy", f"{self._most} streams are open already", {"retry-after": "5"}
            )


def parse_place(text: str) -> tuple[int, ...]:
    """Read the id of an event. Raises `Problem` (400)."""
    parts = text.split(".") if text else []
    good = all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts)  # noqa: PLR2004 - digits of an int
    place = tuple(int(part) for part in parts) if good else (-1,)
    if len(place) > _MOST_PLACES or any(not 0 <= seq <= _LARGEST for seq in place):
        raise Problem(400, "bad_request", "Last-Event-ID is none that this service sent")
    return place


async def steps(
    history: PostgresHistory,
    question: UUID,
    place: Sequence[int],
    limit: Limit,
    *,
    every_s: float = _LOOK_EVERY_S,
) -> AsyncIterator[bytes]:
    """Yield the events after a place, then `end` with the outcome."""
    with limit:
        yield f"retry: {_RETRY_MS}\n\n".encode()
        last = time.monotonic()
        try:
            async for seen in follow(history, question, place, every_s=every_s):
                for event in seen.events:
                    place = place_after(place, [event])
                    yield _message(event.type, told(event), place)
                if seen.events:
                    last = time.monotonic()
                elif time.monotonic() - last > _HEARTBEAT_S:
                    last = time.monotonic()
                    yield b": still here\n\n"
                if seen.state is not None and seen.state.closed:
                    yield _message("end", await outcome_of(history, seen.state), place)
        except ConnectionError:
            # The client comes back by itself, with the id of the last event it has.
            await asyncio.sleep(0)


def _message(name: str, data: dict[str, Any], place: Sequence[int]) -> bytes:
    where = ".".join(map(str, place))
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        where.encode(),
        name.encode(),
        msgspec.json.encode(data),
    )
