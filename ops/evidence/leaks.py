"""Where a text occurs: in what a database role can read, in log lines, in topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from mia_events import topics
from ops.chaos.cluster import Cluster

__all__ = ["in_logs", "in_tables", "in_topics"]

#: Every column that can hold text, of every table that the role may read.
_COLUMNS: Final = """
SELECT format('%I.%I', n.nspname, c.relname) AS "table", quote_ident(a.attname) AS "column",
       format_type(a.atttypid, NULL) AS type
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'v')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
  AND format_type(a.atttypid, NULL) IN
      ('text', 'bytea', 'json', 'jsonb', 'tsvector', 'character varying', 'text[]')
ORDER BY 1, 2
"""


async def in_tables(dsn: str, text: str) -> tuple[int, dict[str, int]]:
    """Return how many columns the role may read, and rows with `text` by column."""
    connection = await asyncpg.connect(dsn)
    found: dict[str, int] = {}
    try:
        columns = await connection.fetch(_COLUMNS)
        for row in columns:
            rows = await connection.fetchval(*_search(row, text))
            if rows:
                found[f"{row['table']}.{row['column']}"] = rows
    finally:
        await connection.close()
    return len(columns), found


def _search(row: asyncpg.Record, text: str) -> tuple[str, object]:
    table, column = row["table"], row["column"]  # quoted by the database
    if row["type"] == "bytea":
        found = f"position($1::bytea IN {column}) > 0"
        return f"SELECT count(*) FROM {table} WHERE {found}", text.encode()  # noqa: S608
    found = f"position(lower($1) IN lower({column}::text)) > 0"
    return f"SELECT count(*) FROM {table} WHERE {found}", text  # noqa: S608


def in_logs(files: Iterable[Path], text: str) -> int:
    """Return how many lines of the files have `text`."""
    wanted = text.encode()
    return sum(line.count(wanted) > 0 for file in files for line in file.read_bytes().splitlines())


async def in_topics(lab: Cluster, text: str) -> dict[str, int]:
    """Return how many records have `text` in their value, key or headers, by topic."""
    consumer = AIOKafkaConsumer(
        **lab.config.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    found: Counter[str] = Counter()
    await consumer.start()
    try:
        for name in topics.ALL:
            found[name] += await _matching(consumer, lab.topic(name), text.encode(), lab)
    finally:
        await consumer.stop()
    return {name: count for name, count in found.items() if count}


async def _matching(consumer: AIOKafkaConsumer, topic: str, text: bytes, lab: Cluster) -> int:
    places = [TopicPartition(topic, number) for number in range(lab.config.partitions)]
    ends = await consumer.end_offsets(places)
    left = {place for place in places if ends[place] > 0}
    if not left:
        return 0
    consumer.assign(list(left))
    await consumer.seek_to_beginning()
    found = 0
    while left:
        for messages in (await consumer.getmany(timeout_ms=500)).values():
            for message in messages:
                parts = (message.key, message.value, *(value for _, value in message.headers))
                found += any(text in (part or b"") for part in parts)
        left = {place for place in left if await consumer.position(place) < ends[place]}
    return found
