"""What a server lacks and what it has too much of, without IO."""

from collections.abc import Iterable

import msgspec

from mia_events.learning.versions import SERVED_BASE, is_served_name, served_name
from storage.ports import PolicyRow

__all__ = ["Load", "Unload", "Wanted", "level", "wanted_of"]


class Wanted(msgspec.Struct, frozen=True, order=True):
    """A version that servers must have: their name for it, and its weights by SHA-256 (hex)."""

    name: str
    adapter_sha256: str


class Load(msgspec.Struct, frozen=True):
    """Make a server load a version."""

    wanted: Wanted

    @property
    def name(self) -> str:
        """What the server will call it."""
        return self.wanted.name


class Unload(msgspec.Struct, frozen=True):
    """Make a server forget what it calls `name`."""

    name: str


def wanted_of(versions: Iterable[PolicyRow], *, base: bool = False) -> tuple[Wanted, ...]:
    """Return what servers must have, each once: two runs may have come to the same weights. `base`:
    the base model too.
    """
    found = {Wanted(SERVED_BASE, "")} if base else set()
    found |= {
        Wanted(served_name(row.name, row.adapter_sha256), row.adapter_sha256) for row in versions
    }
    return tuple(sorted(found))


def level(wanted: Iterable[Wanted], present: Iterable[str]) -> list[Load | Unload]:
    """Return what makes a server level: what is missing first, for somebody may wait for it.

    A model of the server that is no planner's version is not ours, and is left alone.
    """
    names, there = {one.name for one in wanted}, set(present)
    loads = [Load(one) for one in wanted if one.name not in there]
    unloads = [Unload(name) for name in sorted(there - names) if is_served_name(name)]
    return [*loads, *unloads]
