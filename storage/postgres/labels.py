"""Sealed labels: written by whoever takes them in, read by the judge alone."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import uuid5

from mia_events import ids
from schemas.envelope import encode_payload
from schemas.events import LabelReceived
from storage.postgres.pool import answering

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from storage.ports import Emitted

_SEAL = """
WITH kept AS (
    INSERT INTO sealed.label (id, question, value, salt, source, at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT DO NOTHING
), fact AS (
    INSERT INTO label (id, run_no, question, commitment, at) VALUES ($1, $7, $2, $8, $6)
    ON CONFLICT DO NOTHING RETURNING id
), woken AS (
    UPDATE active AS a SET due_at = clock_timestamp()
    FROM (
        -- One that is being worked on asks for the label itself, after its pause at the latest.
        SELECT w.stream FROM active AS w JOIN rollout AS r ON r.id = w.stream
        WHERE r.question = $2 AND w.status = 'judging' AND w.due_at > clock_timestamp()
        ORDER BY w.stream FOR UPDATE OF w
    ) AS late WHERE a.stream = late.stream
)
SELECT append_event($7, f.id, 6::smallint, 1, decode(repeat('00', 32), 'hex'), $9,
'label.received', NULL, $10,
                    $6, NULL, $2) FROM fact AS f
"""
_WAITED = """
SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM event WHERE run_no = $1 AND id = $2
"""
_READ = "SELECT value FROM sealed.label WHERE question = $1 ORDER BY at DESC, id LIMIT 1"


class PostgresLabels:
    """The `LabelStore` port, as far as the connection's role allows."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def seal(
        self, run_no: int, question: UUID, value: str, *, source: str
    ) -> tuple[Emitted, ...]:
        """See the port. The ledger learns only SHA-256(salt ‖ value)."""
        label = uuid5(question, f"label\x1f{source}")
        salt = os.urandom(16)
        commitment = sha256(salt + value.encode()).digest()
        body = encode_payload(LabelReceived(question=question, commitment=commitment.hex()))
        async with answering():
            await self._pool.execute(
                _SEAL,
                label,
                question,
                value,
                salt,
                source,
                datetime.now(UTC),
                run_no,
                commitment,
                ids.event_id(label, 1),
                body.decode(),
            )
        return ()

    async def label(self, question: UUID) -> str | None:
        """See the port."""
        async with answering():
            value: str | None = await self._pool.fetchval(_READ, question)
        return value

    async def waited(self, run_no: int, event_id: UUID) -> float:
        """See the port."""
        async with answering():
            seconds: float | None = await self._pool.fetchval(_WAITED, run_no, event_id)
        if seconds is None:
            message = f"no event {event_id}"
            raise LookupError(message)
        return seconds


__all__ = ["PostgresLabels"]
