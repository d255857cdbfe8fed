"""A registry of planner versions and a store of artifacts, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from mia_events.learning.versions import served_name, version_name
from storage.ports import PolicyRow, PolicyState

__all__ = ["MemoryArtifacts", "MemoryPolicies"]


class MemoryArtifacts:
    """The port over a dict."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """See the port."""
        sha = hashlib.sha256(data).hexdigest()
        self.data[sha] = data
        return sha

    async def get(self, sha256: str) -> bytes:
        """See the port."""
        if sha256 not in self.data:
            raise LookupError(f"no artifact {sha256}")
        return self.data[sha256]


class MemoryPolicies:
    """The port over lists; `served` names the versions that are wanted, `base` is whether the base
    model is.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], PolicyRow] = {}
        self.served: set[tuple[int, str]] = set()
        self.reads = 0
        self.base = False
        self.busy = False

    def register(
        self, number: int, adapter_sha256: str, *, run_no: int = 1, state: PolicyState = "promoted"
    ) -> str:
        """Add a version that is wanted; return what servers call it."""
        row = PolicyRow(
            run_no=run_no,
            number=number,
            name=version_name(number),
            parent=version_name(number - 1),
            batch=number - 1,
            state=state,
            adapter_sha256=adapter_sha256,
            optimizer_sha256=adapter_sha256,
            data_sha256=adapter_sha256,
            record=msgspec.json.encode({}),
            event_id=UUID(int=number),
            at=datetime.now(UTC),
        )
        self.rows[run_no, row.name] = row
        self.served.add((run_no, row.name))
        return served_name(row.name, adapter_sha256)

    async def list(self, run_no: int) -> tuple[PolicyRow, ...]:
        """See the port."""
        return tuple(row for key, row in sorted(self.rows.items()) if key[0] == run_no)

    async def get(self, run_no: int, name: str) -> PolicyRow | None:
        """See the port."""
        self.reads += 1
        return self.rows.get((run_no, name))

    async def wanted(self) -> tuple[PolicyRow, ...]:
        """See the port."""
        return tuple(self.rows[key] for key in sorted(self.served))

    async def on_base(self) -> tuple[int, ...]:
        """See the port."""
        return (1,) if self.base else ()

    @asynccontextmanager
    async def levelling(self) -> AsyncIterator[bool]:
        """See the port; `busy`: somebody else is at it."""
        yield not self.busy
