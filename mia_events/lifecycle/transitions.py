"""What a life-cycle table is, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

ENDED: Final = "ended"


class Kind(IntEnum):
    """Kinds of stream, in the order in which a commit locks them."""

    ROLLOUT = 1
    QUESTION = 2
    BATCH = 3
    LEARNER = 4
    RUN = 5
    FACT = 6


class Phase(IntEnum):
    """How far a rollout is, as its question counts it."""

    PLANNING = 0
    PLANNED = 1
    PROPOSED = 2
    ENDED = 3


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What an event does: the next status, the topic of the stage that takes over (None: the stream
    waits), the outbound topic that hears of it, the phase a rollout reaches.
    """

    status: str
    topic: str | None = None
    outbox: str | None = None
    phase: Phase | None = None

    @property
    def terminal(self) -> bool:
        """True when the stream is over."""
        return self.status == ENDED


Table: TypeAlias = Mapping[tuple[str | None, str], Rule]


class NoTransition(LookupError):
    """An event that its stream's state does not allow; names both and what would be allowed."""

    def __init__(self, kind: Kind, status: str | None, event: str, allowed: Iterable[str]) -> None:
        names = ", ".join(sorted(allowed)) or "nothing"
        super().__init__(
            f"a {kind.name.lower()} that is {status or 'not there yet'} cannot take {event}; "
            f"it can take {names}"
        )
        self.kind = kind
        self.status = status
        self.event = event


def advance(kind: Kind, table: Table, status: str | None, event: str) -> Rule:
    """The rule for `event` in `status`. Raises `NoTransition`."""
    try:
        return table[status, event]
    except KeyError:
        allowed = [name for state, name in table if state == status]
        raise NoTransition(kind, status, event, allowed) from None


def shared_rule(kind: Kind, table: Table, statuses: Iterable[str], event: str) -> Rule:
    """The one rule that `event` has in every one of `statuses` (an order does not see which it
    is).
    """
    rules = {advance(kind, table, status, event) for status in statuses}
    if len(rules) != 1:
        message = f"{event} does different things to a {kind.name.lower()} in {sorted(statuses)}"
        raise ValueError(message)
    return rules.pop()


__all__ = ["ENDED", "Kind", "NoTransition", "Phase", "Rule", "Table", "advance", "shared_rule"]
