"""What the topics hold, from their first retained record to where they ended when we began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

_POLL_MS: Final = 500
_REQUEST_MS: Final = 10_000
_PATIENCE_S: Final = 30.0


class LogUnreachable(ConnectionError):
    """The broker does not answer, or stopped in the middle."""


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A record's header and the digest of its payload's bytes."""

    id: UUID
    type: str
    run: UUID
    stream: UUID
    seq: int
    occurred_at: datetime
    cause: UUID | None = None
    correlation: UUID | None = None
    data: msgspec.Raw = msgspec.Raw()


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record; `wire` is None when it is no event, `value_sha` the SHA-256 of all its bytes."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    wire: Wire | None
    body_sha: bytes
    value_sha: bytes

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """A topic's contents.

    `since` is when the oldest retained record of a partition that has lost some was written
    (seconds since 1970; None: nothing was lost yet).
    """

    topic: str
    records: tuple[LogRecord, ...]
    since: float | None = None


_decoder: Final = msgspec.json.Decoder(Wire)


async def read_topics(
    kafka: Mapping[str, Any], names: Sequence[str], *, prefix: str = ""
) -> dict[str, Retained]:
    """The contents of those topics that there are. Raises `LogUnreachable`."""
    try:
        places = await _places(kafka, names, prefix)
        everywhere = [place for found in places.values() for place in found]
        if not everywhere:
            return {}
        async with _consumer(kafka) as consumer:
            begins = await consumer.beginning_offsets(everywhere)
            ends = await consumer.end_offsets(everywhere)
            read = await _read(consumer, begins, ends)
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnreachable(str(error) or type(error).__name__) from error
    return {name: _retained(name, found, read, begins) for name, found in places.items()}


@asynccontextmanager
async def _consumer(kafka: Mapping[str, Any]) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **kafka,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=_REQUEST_MS,
        fetch_max_wait_ms=100,
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def _places(
    kafka: Mapping[str, Any], names: Sequence[str], prefix: str
) -> dict[str, list[TopicPartition]]:
    """The partitions of each topic that there is. A consumer knows those of its own topics only."""
    admin = AIOKafkaAdminClient(**kafka, request_timeout_ms=_REQUEST_MS)
    try:
        await admin.start()
        there = set(await admin.list_topics())
        wanted = [name for name in names if prefix + name in there]
        told = await admin.describe_topics([prefix + name for name in wanted]) if wanted else []
    finally:
        await admin.close()
    numbers = {topic["topic"]: [p["partition"] for p in topic["partitions"]] for topic in told}
    return {
        name: [TopicPartition(prefix + name, number) for number in sorted(numbers[prefix + name])]
        for name in wanted
    }


async def _read(
    consumer: AIOKafkaConsumer,
    begins: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, list[Any]]:
    filled = [place for place, end in ends.items() if end > begins[place]]
    read: dict[TopicPartition, list[Any]] = {place: [] for place in filled}
    if filled:
        consumer.assign(filled)
        for place in filled:
            consumer.seek(place, begins[place])
        async for place, message in _until(consumer, filled, ends):
            read[place].append(message)
    return read


def _retained(
    name: str,
    places: Sequence[TopicPartition],
    read: Mapping[TopicPartition, Sequence[Any]],
    begins: Mapping[TopicPartition, int],
) -> Retained:
    # A partition that lost records holds all that were written after its first one.
    lost = [
        min((message.timestamp / 1000 for message in read.get(place, ())), default=float("inf"))
        for place in places
        if begins[place] > 0
    ]
    return Retained(
        topic=name,
        records=tuple(
            _record(name, message) for place in places for message in read.get(place, ())
        ),
        since=max(lost, default=None),
    )


async def _until(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], ends: Mapping[TopicPartition, int]
) -> AsyncIterator[tuple[TopicPartition, Any]]:
    loop = asyncio.get_running_loop()
    left, moved = set(places), loop.time()
    while left:
        batches = await consumer.getmany(timeout_ms=_POLL_MS)
        for place, messages in batches.items():
            moved = loop.time()
            for message in messages:
                if message.offset < ends[place]:
                    yield place, message
        left -= {place for place in left if await consumer.position(place) >= ends[place]}
        if loop.time() - moved > _PATIENCE_S:
            raise LogUnreachable(f"no record came for {_PATIENCE_S:g} s")


def _record(topic: str, message: Any) -> LogRecord:  # noqa: ANN401 - aiokafka is untyped
    value: bytes = message.value or b""
    try:
        wire = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        wire = None
    body = bytes(wire.data) if wire is not None else b""
    if wire is not None:
        wire = msgspec.structs.replace(wire, data=msgspec.Raw())  # its digest is enough
    return LogRecord(
        topic=topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        wire=wire,
        body_sha=sha256(body).digest(),
        value_sha=sha256(value).digest(),
    )


__all__ = ["LogRecord", "LogUnreachable", "Retained", "Wire", "read_topics"]
