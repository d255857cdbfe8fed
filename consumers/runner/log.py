"""The event log as the runner needs it: at-least-once, in groups, with committed offsets as a
hint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from storage.ports import TopicState


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read; `timestamp` in milliseconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 0


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where the log put a record."""

    partition: int
    offset: int


Revoked = Callable[[frozenset[tuple[str, int]]], None]


class Subscription(Protocol):
    """One member of a consumer group."""

    async def poll(self, *, timeout_s: float, limit: int) -> Sequence[Record]:
        """Up to `limit` records, after at most `timeout_s` seconds."""
        ...

    def assignment(self) -> frozenset[tuple[str, int]]:
        """The partitions that this member owns now."""
        ...

    def pause(self, partitions: frozenset[tuple[str, int]]) -> None:
        """Fetch nothing from these until resumed."""
        ...

    def resume(self, partitions: frozenset[tuple[str, int]]) -> None:
        """Fetch from these again."""
        ...

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """The next offset to read, per partition. A lost partition is not an error."""
        ...

    async def close(self) -> None:
        """Leave the group."""
        ...


class EventLog(Protocol):
    """The log as a whole."""

    async def subscribe(self, topic: str, group: str, *, revoked: Revoked) -> Subscription:
        """Join a group on one topic; `revoked` is called when partitions are taken away."""
        ...

    async def send(
        self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> asyncio.Future[Place]:
        """Hand a record to the producer; the future is its acknowledgement."""
        ...

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """Where a key goes; None while the topic is not known."""
        ...

    async def states(self, groups: Mapping[str, str]) -> Sequence[TopicState]:
        """Committed and end offsets of every partition, for each topic with its group."""
        ...

    async def flush(self) -> None:
        """Wait until what was handed over is acknowledged or given up."""
        ...

    async def close(self) -> None:
        """Release the connections."""
        ...


class LogUnavailable(ConnectionError):
    """The log does not answer now."""


__all__ = ["EventLog", "LogUnavailable", "Place", "Record", "Revoked", "Subscription"]
