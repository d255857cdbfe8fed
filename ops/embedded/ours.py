"""Processes of this program as supervised children."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from ops.embedded.spec import ChildSpec
from ops.settings import Settings

__all__ = ["embedded_parts", "our_child"]

_ROOT: Final = Path(__file__).parents[2]


def our_child(
    name: str, module: str, config: msgspec.Struct, ready: Callable[[], Awaitable[object]]
) -> ChildSpec:
    """Return how `python -m MODULE` is run; it reads its configuration from standard input."""
    return ChildSpec(
        name=name,
        argv=[sys.executable, "-P", "-m", module],
        ready=ready,
        env={"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"},
        stdin=msgspec.json.encode(config) + b"\n",
    )


def embedded_parts(settings: Settings) -> tuple[str, ...]:
    """Return which of Kafka and Postgres are children too, and must be there first."""
    own = {"kafka": settings.kafka.mode, "postgres": settings.postgres.mode}
    return tuple(part for part, mode in own.items() if mode == "embedded")
