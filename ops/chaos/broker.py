"""What trials do with the broker itself: read topics raw, delete one, look at a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from mia_events import topics
from ops.audit.log import LogRecord, read_topics
from ops.chaos.cluster import Cluster

__all__ = ["delete_topic", "group_is", "records_of", "sent_again", "totals"]


async def records_of(cluster: Cluster, *names: str) -> Mapping[str, tuple[LogRecord, ...]]:
    """Return the records that topics hold (all of ours without names)."""
    found = await read_topics(
        cluster.config.kafka, names or topics.ALL, prefix=cluster.config.prefix
    )
    return {name: retained.records for name, retained in found.items()}


async def sent_again(cluster: Cluster) -> dict[str, int]:
    """Return by topic how many of its records repeat an event that lies there already."""
    found = await records_of(cluster, *topics.COMMANDS)
    return {name: again for name, records in found.items() if (again := _repeats(records))}


async def totals(cluster: Cluster) -> dict[str, int]:
    """Return how many records each topic of commands holds."""
    found = await records_of(cluster, *topics.COMMANDS)
    return {name: len(records) for name, records in found.items() if records}


def _repeats(records: tuple[LogRecord, ...]) -> int:
    seen = Counter(record.wire.id for record in records if record.wire is not None)
    return sum(count - 1 for count in seen.values())


async def delete_topic(cluster: Cluster, name: str) -> None:
    """Delete a topic with all it holds."""
    async with _admin(cluster) as admin:
        await admin.delete_topics([cluster.topic(name)])


async def group_is(cluster: Cluster, topic: str) -> tuple[str, int]:
    """Return the state of a topic's group of workers, and how many members it has."""
    async with _admin(cluster) as admin:
        (reply,) = await admin.describe_consumer_groups([cluster.topic(topics.group_of(topic))])
    group: Any = reply.groups[0]
    return str(group[2]), len(group[5])


@asynccontextmanager
async def _admin(cluster: Cluster) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**cluster.config.kafka, request_timeout_ms=10_000)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
