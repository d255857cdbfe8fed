"""Brings every server of the planner level with the registry, and keeps it so."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from mia_events.learning.versions import is_served_name
from ops.serving.adapters import AdapterFolders
from ops.serving.levelling import Load, Unload, Wanted, level, wanted_of
from ops.serving.replica import Away, Declined, Replica
from storage.ports import Policies

__all__ = ["Level", "Reconciler", "Standing"]

_log = structlog.get_logger(__name__)
#: What was declined, or cannot be made, is tried again after so long.
_AGAIN_S: Final = 30.0
#: A folder stays that long after nobody wants it: a server may still read it for a late request.
_KEEP_S: Final = 3_600.0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A server after a pass: `problem` says why it is not level; empty when it is."""

    address: str
    serves: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    problem: str = ""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass found wanted, and how every server stands after it."""

    at: datetime
    wanted: tuple[Wanted, ...]
    replicas: tuple[Standing, ...]
    problem: str = ""

    @property
    def is_level(self) -> bool:
        """Every server has what is wanted, and no other version."""
        return not self.problem and not any(one.problem for one in self.replicas)


class Reconciler:
    """Compares and mends. Any number may run: whatever one does, another finds done.

    `room` is how many versions a server was started for; more are loaded all the same, and said.
    """

    def __init__(
        self,
        policies: Policies,
        folders: AdapterFolders,
        replicas: Sequence[Replica],
        *,
        room: int,
    ) -> None:
        self._policies, self._folders, self._replicas = policies, folders, tuple(replicas)
        self._room = room
        self._not_before: dict[tuple[str, str], float] = {}
        self._told: dict[str, str] = {}

    async def once(self) -> Level:
        """Bring all level as far as that goes now. Raises `Unavailable` without the database."""
        wanted = wanted_of(await self._policies.wanted())
        self._tell("registry", self._crowded(wanted))
        standings = await asyncio.gather(*(self._mend(one, wanted) for one in self._replicas))
        if all(not one.problem for one in standings):
            keep = {name for one in standings for name in one.serves} | {w.name for w in wanted}
            await asyncio.to_thread(self._folders.forget, keep, idle_s=_KEEP_S)
        problem = self._crowded(wanted)
        return Level(
            at=datetime.now(UTC), wanted=wanted, replicas=tuple(standings), problem=problem
        )

    async def _mend(self, replica: Replica, wanted: Sequence[Wanted]) -> Standing:
        try:
            found = {name for name in await replica.present() if is_served_name(name)}
            standing = await self._level(replica, wanted, found)
        except Away as error:
            standing = Standing(address=replica.address, problem=f"away: {error}")
        self._tell(replica.address, standing.problem)
        return standing

    async def _level(self, replica: Replica, wanted: Sequence[Wanted], found: set[str]) -> Standing:
        loaded: list[str] = []
        unloaded: list[str] = []
        problems: list[str] = []
        for action in level(wanted, found):
            problem = await self._try(replica, action)
            if problem:
                problems.append(f"{action.name}: {problem}")
            else:
                (loaded if isinstance(action, Load) else unloaded).append(action.name)
        return Standing(
            address=replica.address,
            serves=tuple(sorted({*found, *loaded} - {*unloaded})),
            loaded=tuple(loaded),
            unloaded=tuple(unloaded),
            problem="; ".join(problems),
        )

    async def _try(self, replica: Replica, action: Load | Unload) -> str:
        """Do it; what stands in the way, in words. What cannot be done is left for a while."""
        key, now = (replica.address, action.name), asyncio.get_running_loop().time()
        if self._not_before.get(key, now) > now:
            return "tried again later"
        try:
            await self._act(replica, action)
        except (Declined, LookupError, ValueError, OSError) as error:
            self._not_before[key] = now + _AGAIN_S
            _log.error("a version is not served", replica=replica.address, problem=str(error))
            return str(error)
        self._not_before.pop(key, None)
        _log.info(type(action).__name__.lower(), version=action.name, replica=replica.address)
        return ""

    async def _act(self, replica: Replica, action: Load | Unload) -> None:
        if isinstance(action, Unload):
            await replica.unload(action.name)
            return
        wanted = action.wanted
        folder = await self._folders.ensure(wanted.name, wanted.adapter_sha256)
        await replica.load(wanted.name, folder)

    def _crowded(self, wanted: Sequence[Wanted]) -> str:
        if len(wanted) <= self._room:
            return ""
        return (
            f"{len(wanted)} versions are wanted and servers were started for {self._room}: those"
            " push each other out; start them with more and set serving.max_loras, or let fewer"
            " runs train at once"
        )

    def _tell(self, about: str, problem: str) -> None:
        """Say what changed, once."""
        if problem != self._told.get(about, ""):
            if problem:
                _log.warning("not level", about=about, problem=problem)
            else:
                _log.info("level again", about=about)
        self._told[about] = problem
