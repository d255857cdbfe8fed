"""Deterministic identities: UUIDv5 of what a thing is, so that a repeat has the same name."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID, uuid5

NAMESPACE = UUID("5b0d3f0e-6f0a-5c1e-9d53-2a6a1c4be7a1")
SYSTEM_RUN = uuid5(NAMESPACE, "system")


def question_id(run: UUID, source: str, row: str, pass_no: int = 0) -> UUID:
    """The question read from `row` of `source` in pass number `pass_no` of a run."""
    return uuid5(run, f"question\x1f{source}\x1f{row}\x1f{pass_no}")


def rollout_id(question: UUID, number: int) -> UUID:
    """Rollout `number` (from 0) of a question."""
    return uuid5(question, f"rollout\x1f{number}")


def named_id(owner: UUID, name: str) -> UUID:
    """The UUID of what the database itself appends: version 8 over SHA-256, since the database has
    no SHA-1 for version 5. The SQL function of the same name agrees.
    """
    digest = bytearray(sha256(owner.bytes + name.encode()).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(digest))


def batch_id(run: UUID, number: int) -> UUID:
    """Batch `number` (from 0) of a run."""
    return named_id(run, f"batch:{number}")


def learner_id(run: UUID) -> UUID:
    """The run's learner stream."""
    return uuid5(run, "learner")


def event_id(stream: UUID, seq: int) -> UUID:
    """Event number `seq` (from 1) that a stream's own step appended."""
    return uuid5(stream, f"event\x1f{seq}")


def join_id(owner: UUID, name: str) -> UUID:
    """The event that says a join is complete: named by the join, not by whoever came last."""
    return uuid5(owner, f"join\x1f{name}")


def order_id(stream: UUID, cause: UUID, kind: str) -> UUID:
    """The event of type `kind` that another stream's step `cause` appended to `stream`."""
    return uuid5(stream, f"order\x1f{cause}\x1f{kind}")


def memory_id(scope: str, dedupe_key: str) -> UUID:
    """The memory with this key in a scope, whatever its version."""
    return uuid5(NAMESPACE, f"memory\x1f{scope}\x1f{dedupe_key}")


def seed(*parts: str | int) -> int:
    """A 31-bit sampling seed from what determines it (run seed, source, row, pass, rollout,
    step).
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


__all__ = [
    "NAMESPACE",
    "SYSTEM_RUN",
    "batch_id",
    "event_id",
    "join_id",
    "learner_id",
    "memory_id",
    "named_id",
    "order_id",
    "question_id",
    "rollout_id",
    "seed",
]
