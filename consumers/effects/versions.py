"""What servers call the planner versions that requests name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consumers.runner.context import Lru
from mia_events.learning.versions import number_of, served_name
from mia_events.steps import Poison

if TYPE_CHECKING:
    from mia_events.steps import RunView
    from storage.ports import Policies

_KEPT: Final = 4_096


class Versions:
    """Looks names up in the registry, each once: a version's weights never change."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._found: Lru[tuple[int, str], str] = Lru(_KEPT)

    async def served(self, run: RunView, model: str) -> str | None:
        """The name that a version of this run has at servers; None for a model that is none.

        Raises `Poison` for a version that is not registered.
        """
        if not number_of(model):
            return None
        key = (run.run_no, model)
        found = self._found.get(key)
        if found is None:
            row = await self._policies.get(*key)
            if row is None:
                raise Poison(
                    f"{model} is no version of run {run.name}: `mia policy list {run.name}`"
                    " shows what there is"
                )
            found = served_name(model, row.adapter_sha256)
            self._found.put(key, found)
        return found


__all__ = ["Versions"]
