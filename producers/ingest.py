"""Ingesting a benchmark: labels are sealed first, then their questions are published.

Idempotent, hence resumable: a row has the same identity, position and label each time.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

import msgspec

from mia_events import ids, topics
from producers.hotpot import BadRow, Row
from producers.outlet import Outlet

__all__ = ["Ingested", "Run", "Sealer", "ingest"]

_CHUNK: Final = 32


class Sealer(Protocol):
    """The part of a label store that takes labels in."""

    async def seal(self, run_no: int, question: UUID, value: str, *, source: str) -> object:
        """Keep a label; the same again is one label."""
        ...


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The run to fill.

    `positions` says whether they matter to it, since they make its batches; `base` is where this
    source begins in it.
    """

    run_no: int
    id: UUID
    name: str
    positions: bool
    base: int = 0


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """How far an ingest is."""

    sent: int
    bad: int
    total: int


async def ingest(
    rows: Iterable[Row | BadRow],
    source: str,
    run: Run,
    *,
    labels: Sealer,
    outlet: Outlet,
    limit: int | None = None,
    bad: Callable[[BadRow], None] = lambda _: None,
    progress: Callable[[Ingested], None] = lambda _: None,
) -> Ingested:
    """Seal and publish the first `limit` valid rows of `source`; `bad` is told of the bad ones.

    Raises:
        ConnectionError: the database or the log is away; run it again to go on.
    """
    valid, wrong = [], 0
    for row in rows:
        if isinstance(row, BadRow):
            bad(row)
            wrong += 1
        else:
            valid.append(row)
    chosen = valid[:limit]
    done = Ingested(sent=0, bad=wrong, total=len(chosen))
    for start in range(0, len(chosen), _CHUNK):
        chunk = chosen[start : start + _CHUNK]
        await _seal(run, source, chunk, labels)
        await _send(run, source, chunk, outlet)
        done = msgspec.structs.replace(done, sent=start + len(chunk))
        progress(done)
    return done


async def _seal(run: Run, source: str, rows: Sequence[Row], labels: Sealer) -> None:
    await asyncio.gather(
        *(
            labels.seal(
                run.run_no, ids.question_id(run.id, source, row.name), row.label, source="ingest"
            )
            for row in rows
            if row.label is not None
        )
    )


async def _send(run: Run, source: str, rows: Sequence[Row], outlet: Outlet) -> None:
    for row in rows:
        position = run.base + row.position if run.positions else None
        incoming = row.incoming(run.name, source, position)
        key = f"{source}:{row.name}".encode()
        await outlet.put(topics.QUESTION, key, msgspec.json.encode(incoming))
    await outlet.flush()
