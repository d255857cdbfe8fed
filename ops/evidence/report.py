"""Gathers evidence, writes it down, says on the terminal what holds."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from ops.evidence.record import Evidence, Recorded, machine, write
from ops.manifest import code_version

__all__ = ["record"]


async def record(
    item: str,
    title: str,
    command: str,
    gather: Callable[[], Awaitable[Evidence]],
    path: Path | None,
) -> int:
    """Gather, write to `path` (None: nowhere), print; the exit code: 0 if all claims hold."""
    started, began = datetime.now(UTC), time.monotonic()
    evidence = await gather()
    result = Recorded(
        item=item,
        title=title,
        ok=evidence.ok,
        claims=evidence.claims,
        figures=evidence.figures,
        command=command,
        commit=code_version(),
        machine=machine(),
        started_at=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
    )
    if path is not None:
        write(result, path)
    _print(result, path)
    return 0 if result.ok else 1


def _print(result: Recorded, path: Path | None) -> None:
    print(f"{result.item}: {result.title}")
    for claim in result.claims:
        print(f"  {'holds' if claim.holds else 'FAILS'}  {claim.says}")
    print(f"  {result.seconds} s; {f'written to {path}' if path else 'nothing written'}")
