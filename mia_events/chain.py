"""The hash chain of a stream: each event's hash covers its header, its payload's digest and the
hash before it, so that a payload can be erased and the chain still verifies.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

GENESIS: Final = b"\x00" * 32
_NO_CAUSE: Final = b"\x00" * 16
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def chain_hash(
    previous: bytes,
    *,
    stream: UUID,
    seq: int,
    event_id: UUID,
    cause: UUID | None,
    at: datetime,
    body_sha256: bytes,
    type_: str,
) -> bytes:
    """SHA-256 of previous (32 bytes), stream (16), seq (4, big-endian), id (16), cause (16, zeros
    for none), time (8, microseconds since 2000-01-01 UTC), payload digest (32) and type (UTF-8).
    """
    micros = (at - _EPOCH) // _MICROSECOND
    return sha256(
        previous
        + stream.bytes
        + seq.to_bytes(4, "big")
        + event_id.bytes
        + (cause.bytes if cause is not None else _NO_CAUSE)
        + micros.to_bytes(8, "big", signed=True)
        + body_sha256
        + type_.encode()
    ).digest()


__all__ = ["GENESIS", "chain_hash"]
