"""A trainer that is killed at every named point of an update, once each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from consumers.train.points import POINTS, VARIABLE
from mia_events.steps import RunView
from ops.chaos.cluster import Cluster
from ops.chaos.desk import until
from ops.chaos.learner import Learned, learn
from ops.chaos.trial import Load
from ops.worker import TRAIN

__all__ = ["Doom", "Struck", "UpdateStruck", "struck"]

_LIMIT_S: Final = 600.0
_SOON_S: Final = 0.2
_TRAINER: Final = "doomed-trainer"


class UpdateStruck(msgspec.Struct, frozen=True, kw_only=True):
    """Where the trainer died in the making of version `number`, and how many versions there were
    when it had died everywhere.
    """

    number: int
    died: tuple[str, ...]
    versions_then: int

    @property
    def whole(self) -> bool:
        """It died at every point of this update, and of no other."""
        return self.died == POINTS and self.versions_then == self.number - 1


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """A run whose trainer was killed, update by update, and what it came to."""

    run: Learned
    updates: tuple[UpdateStruck, ...]


async def struck(cluster: Cluster, folder: Path, load: Load, *, updates: int) -> Struck:
    """Train with a trainer that dies once at every point of each of the first updates."""
    doom = Doom(folder)
    cluster.hire(_TRAINER, (TRAIN,), doom.variables)

    async def trouble(at: Cluster, run: RunView) -> tuple[UpdateStruck, ...]:
        return tuple([await doom.strike(at, run, number) for number in range(1, updates + 1)])

    run, told = await learn(cluster, "struck", load, trouble)
    await cluster.crew.stop(_TRAINER)
    return Struck(run=run, updates=told)


class Doom:
    """Kills a trainer once at each of the points, update after update: files tell where it died.

    A point whose file is missing kills; so a trainer that starts with `variables` dies at each once
    whenever they are armed.
    """

    def __init__(self, folder: Path, points: Sequence[str] = POINTS) -> None:
        folder.mkdir(parents=True)
        self._markers = {point: folder / point for point in points}
        self.variables = {
            VARIABLE: ",".join(f"{point}@{path}" for point, path in self._markers.items())
        }

    def arm(self) -> None:
        """Let it die at every point again."""
        for marker in self._markers.values():
            marker.unlink(missing_ok=True)

    @property
    def met(self) -> tuple[str, ...]:
        """The points at which it has died since."""
        return tuple(point for point, marker in self._markers.items() if marker.exists())

    async def strike(self, cluster: Cluster, run: RunView, number: int) -> UpdateStruck:
        """Kill at every point of an update, and wait until it is made all the same."""
        self.arm()
        await until("it died at every point", self._spent, limit_s=_LIMIT_S, every_s=_SOON_S)
        then = await _versions(cluster, run)

        async def made() -> bool:
            return await _versions(cluster, run) >= number

        await until("the update is made", made, limit_s=_LIMIT_S, every_s=_SOON_S)
        return UpdateStruck(number=number, died=self.met, versions_then=then)

    async def _spent(self) -> bool:
        return len(await asyncio.to_thread(lambda: self.met)) == len(self._markers)


async def _versions(cluster: Cluster, run: RunView) -> int:
    query = "SELECT count(*) FROM policy WHERE run_no = $1"
    return int(await cluster.desk.value(query, run.run_no))
