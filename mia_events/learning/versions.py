"""Planner versions by name: `planner@v3` in events and requests, its own name at every server.

Versions are numbered within a run, so that a request does not depend on the run's id. Servers serve
several runs, hence a name of their own, which says whose weights they are.

A server that holds the weights of one version at a time is labelled with that name and the number
of the load that put them there: equal labels before and after a request mean that nothing was
loaded in between, also not another version and this one again.
"""

from __future__ import annotations

import re
from typing import Final

BASE: Final = "base"
#: What a server that holds one version at a time calls the base model's weights.
SERVED_BASE: Final = "planner@base"
_VERSION: Final = re.compile(r"planner@v([1-9][0-9]*)")
_SERVED: Final = re.compile(r"planner@(?:base|v[1-9][0-9]*-[0-9a-f]{12})")
_LABEL: Final = re.compile(rf"({_SERVED.pattern})\+[0-9a-f]{{8}}(~?)")
_LEAVING: Final = "~"
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


def load_label(served: str, load: str) -> str:
    """The label of a server that holds the weights `served` since a load (eight hex digits)."""
    return f"{served}+{load}"


def leaving(label: str) -> str:
    """The label of a server that will hold other weights soon: it finishes what it has begun."""
    return f"{label}{_LEAVING}"


def held_by(label: str) -> str | None:
    """The name of the weights that a labelled server holds; None where it takes no requests."""
    found = _LABEL.fullmatch(label)
    return found[1] if found and not found[2] else None


def is_same_load(before: str, after: str) -> bool:
    """Whether a server has held the same weights from one label to the other."""
    return before == after or leaving(before) == after


__all__ = [
    "BASE",
    "SERVED_BASE",
    "held_by",
    "is_same_load",
    "is_served_name",
    "leaving",
    "load_label",
    "number_of",
    "served_name",
    "version_name",
]
