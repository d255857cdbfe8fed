"""Which server is to hold which versions, without IO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Protocol

import msgspec

from ops.serving.levelling import Wanted

__all__ = ["Everywhere", "Placement", "Turns"]

#: What servers hold, by their addresses.
Held = Mapping[str, frozenset[str]]


class Placement(Protocol):
    """A way to share versions out among servers. `exclusive`: a version takes the place of another,
    so that the base model is one of them, and one process at a time may change what servers hold.
    """

    exclusive: ClassVar[bool]

    def shares(
        self, wanted: Sequence[Wanted], held: Held, *, now: float, failing: Collection[str]
    ) -> dict[str, tuple[Wanted, ...]]:
        """What each server that answers is to hold. `now`: seconds of a clock that never goes back;
        `failing`: what could not be loaded a short while ago.
        """
        ...

    def problem(self, wanted: Sequence[Wanted]) -> str:
        """What an operator should change, in words; empty when nothing."""
        ...


class Everywhere(msgspec.Struct, frozen=True):
    """Every server holds all that is wanted, beside its own model: adapters. `room` is how many a
    server was started for; more are loaded all the same, and said.
    """

    exclusive: ClassVar[bool] = False
    room: int

    def shares(
        self, wanted: Sequence[Wanted], held: Held, *, now: float, failing: Collection[str]
    ) -> dict[str, tuple[Wanted, ...]]:
        """See the port."""
        del now, failing
        return dict.fromkeys(held, tuple(wanted))

    def problem(self, wanted: Sequence[Wanted]) -> str:
        """See the port."""
        if len(wanted) <= self.room:
            return ""
        return (
            f"{len(wanted)} versions are wanted and servers were started for {self.room}: those"
            " push each other out; start them with more and set serving.max_loras, or let fewer"
            " runs train at once"
        )


class Turns:
    """Every server holds the weights of one version. Where more are wanted than there are servers,
    they take turns of `turn_s` seconds; where fewer, a version has several.

    A server keeps what it holds as long as that is wanted and its turn is not over, or nobody waits
    for one. Who has been held by none for longest comes first.
    """

    exclusive: ClassVar[bool] = True

    def __init__(self, turn_s: float) -> None:
        self._turn_s = turn_s
        self._since: dict[tuple[str, str], float] = {}
        self._last: dict[str, float] = {}

    def shares(
        self, wanted: Sequence[Wanted], held: Held, *, now: float, failing: Collection[str]
    ) -> dict[str, tuple[Wanted, ...]]:
        """See the port."""
        by_name = {one.name: one for one in wanted}
        holds = {server: self._kept(names, by_name) for server, names in held.items()}
        away = {key: since for key, since in self._since.items() if key[0] not in held}
        self._since = away | {
            (server, name): self._since.get((server, name), now)
            for server, name in holds.items()
            if name is not None
        }
        self._last = {name: at for name, at in self._last.items() if name in by_name}
        self._last |= dict.fromkeys((name for name in holds.values() if name), now)
        waiting = by_name.keys() - set(holds.values())
        for name in sorted(waiting, key=lambda name: (name in failing, *self._waited_since(name))):
            server = self._free(holds, now)
            if server is None:
                break
            holds[server] = name
        for server in [server for server, name in holds.items() if name is None and by_name]:
            copies = Counter(name for name in holds.values() if name)
            holds[server] = min(by_name, key=lambda name: (copies[name], name))
        return {server: (by_name[name],) if name else () for server, name in holds.items()}

    def problem(self, wanted: Sequence[Wanted]) -> str:
        """See the port: to take turns is slow, and no fault."""
        del wanted
        return ""

    def _kept(self, names: frozenset[str], by_name: Mapping[str, Wanted]) -> str | None:
        return next((name for name in sorted(names) if name in by_name), None)

    def _waited_since(self, name: str) -> tuple[float, str]:
        return self._last.get(name, float("-inf")), name

    def _free(self, holds: Mapping[str, str | None], now: float) -> str | None:
        """The server that can best do without what it holds; None where none can."""
        copies = Counter(holds.values())
        free = [
            (
                name is not None,
                copies[name] == 1,
                self._since.get((server, name or ""), now),
                server,
            )
            for server, name in holds.items()
            if name is None
            or (
                (server, name) in self._since  # not given to somebody in this very pass
                and (copies[name] > 1 or self._since[server, name] + self._turn_s <= now)
            )
        ]
        return min(free)[-1] if free else None
