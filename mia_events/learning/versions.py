"""Planner versions by name: `planner@v3` in events and requests, its own name at every server.

Versions are numbered within a run, so that a request does not depend on the run's id. Servers serve
several runs, hence a name of their own, which says whose weights they are.
"""

from __future__ import annotations

import re
from typing import Final

BASE: Final = "base"
_VERSION: Final = re.compile(r"planner@v([1-9][0-9]*)")
_SERVED: Final = re.compile(r"planner@v[1-9][0-9]*-[0-9a-f]{12}")
_DIGITS: Final = 12


def version_name(number: int) -> str:
    """The name of version `number` of a run: `base` for 0. Raises `ValueError` below 0."""
    if number < 0:
        raise ValueError(f"versions are numbered from 0, not {number}")
    return f"planner@v{number}" if number else BASE


def number_of(name: str) -> int | None:
    """The number of a version by name, 0 for `base`; None for a model that is no version."""
    if name == BASE:
        return 0
    found = _VERSION.fullmatch(name)
    return int(found[1]) if found else None


def served_name(name: str, adapter_sha256: str) -> str:
    """What servers call the version `name` with these weights (SHA-256 in hex)."""
    return f"{name}-{adapter_sha256[:_DIGITS]}"


def is_served_name(name: str) -> bool:
    """Whether a server's model is a version of a planner, of whatever run."""
    return _SERVED.fullmatch(name) is not None


__all__ = ["BASE", "is_served_name", "number_of", "served_name", "version_name"]
