"""What performs effects: the only thing between a handler and the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mia_events.effect_codec import Reply
    from mia_events.effects import AnyEffect
    from mia_events.steps import Task


class Performer(Protocol):
    """Performs one effect. Raises `Transient`, `Late` or `Poison`; anything else is a defect."""

    async def perform(self, effect: AnyEffect, task: Task) -> Reply:
        """The reply, of the type that the effect is answered with."""
        ...


__all__ = ["Performer"]
