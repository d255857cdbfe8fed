"""Brings every server of the planner level with the registry, and keeps it so."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from mia_events.learning.versions import SERVED_BASE, is_served_name
from ops.serving.folders import VersionFolders
from ops.serving.levelling import Load, Unload, Wanted, level, wanted_of
from ops.serving.placement import Placement
from ops.serving.replica import Replica
from ops.serving.routes import Away, Declined
from storage.ports import Policies

__all__ = ["Level", "Reconciler", "Standing"]

_log = structlog.get_logger(__name__)
#: What was declined, or cannot be made, is tried again after so long.
_AGAIN_S: Final = 30.0
_ANOTHER: Final = "another process is bringing the servers level"
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


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a server has before a pass; without `names`, why nobody knows."""

    address: str
    names: frozenset[str] | None = None
    problem: str = ""


class Reconciler:
    """Compares and mends, as `placement` wants it. Any number may run: whatever one does, another
    finds done; where a placement is exclusive, one works at a time.
    """

    def __init__(
        self,
        policies: Policies,
        folders: VersionFolders,
        replicas: Sequence[Replica],
        placement: Placement,
    ) -> None:
        self._policies, self._folders, self._replicas = policies, folders, tuple(replicas)
        self._placement = placement
        self._not_before: dict[tuple[str, str], float] = {}
        self._told: dict[str, str] = {}

    async def once(self) -> Level:
        """Bring all level as far as that goes now. Raises `Unavailable` without the database."""
        if not self._placement.exclusive:
            return await self._once(mine=True)
        async with self._policies.levelling() as mine:
            return await self._once(mine=mine)

    async def _once(self, *, mine: bool) -> Level:
        base = self._placement.exclusive and bool(await self._policies.on_base())
        wanted = wanted_of(await self._policies.wanted(), base=base)
        problem = self._placement.problem(wanted)
        self._tell("registry", problem)
        found = await asyncio.gather(*(self._found(one) for one in self._replicas))
        held = {one.address: one.names for one in found if one.names is not None}
        now = asyncio.get_running_loop().time()
        failing = {name for (_, name), until in self._not_before.items() if until > now}
        shares = self._placement.shares(wanted, held, now=now, failing=failing) if mine else {}
        needed = {SERVED_BASE, *(one.name for one in wanted)}
        standings = await _all(
            self._mend(replica, shares.get(replica.address), one, needed)
            for replica, one in zip(self._replicas, found, strict=True)
        )
        if mine and all(not one.problem for one in standings):
            keep = {name for one in standings for name in one.serves} | {w.name for w in wanted}
            await asyncio.to_thread(self._folders.forget, keep, idle_s=_KEEP_S)
        return Level(
            at=datetime.now(UTC),
            wanted=wanted,
            replicas=tuple(standings),
            problem=problem if mine else _ANOTHER,
        )

    async def _found(self, replica: Replica) -> _Found:
        try:
            names = await replica.present()
        except (Away, Declined) as error:
            return _Found(address=replica.address, problem=_why(error))
        return _Found(address=replica.address, names=frozenset(filter(is_served_name, names)))

    async def _mend(
        self, replica: Replica, share: Sequence[Wanted] | None, found: _Found, needed: set[str]
    ) -> Standing:
        """Bring a server level with its share; None: it is left as it is. What is `needed` at
        another one may stay, as may the base model, which somebody may need soon.
        """
        names = found.names
        if names is None:
            standing = Standing(address=replica.address, problem=found.problem)
        elif share is None:
            standing = Standing(address=replica.address, serves=tuple(sorted(names)))
        else:
            try:
                standing = await self._level(replica, share, names, needed)
            except (Away, Declined) as error:
                standing = Standing(address=replica.address, problem=_why(error))
        self._tell(replica.address, standing.problem)
        return standing

    async def _level(
        self, replica: Replica, share: Sequence[Wanted], names: frozenset[str], needed: set[str]
    ) -> Standing:
        loaded: list[str] = []
        unloaded: list[str] = []
        problems: list[str] = []
        for action in level(share, names):
            if isinstance(action, Unload) and action.name in needed:
                continue
            problem = await self._try(replica, action)
            if problem:
                problems.append(f"{action.name}: {problem}")
            else:
                (loaded if isinstance(action, Load) else unloaded).append(action.name)
        if loaded or unloaded:
            names = frozenset(filter(is_served_name, await replica.present()))
        return Standing(
            address=replica.address,
            serves=tuple(sorted(names)),
            loaded=tuple(loaded),
            unloaded=tuple(unloaded),
            problem="; ".join(problems),
        )

    async def _try(self, replica: Replica, action: Load | Unload) -> str:
        """Do it; what stands in the way, in words. What cannot be done is left for a while. The
        database's absence is no version's fault.
        """
        key, now = (replica.address, action.name), asyncio.get_running_loop().time()
        if self._not_before.get(key, now) > now:
            return "tried again later"
        try:
            await self._act(replica, action)
        except ConnectionError:
            raise
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

    def _tell(self, about: str, problem: str) -> None:
        """Say what changed, once."""
        if problem != self._told.get(about, ""):
            if problem:
                _log.warning("not level", about=about, problem=problem)
            else:
                _log.info("level again", about=about)
        self._told[about] = problem


async def _all(works: Iterable[Coroutine[Any, Any, Standing]]) -> list[Standing]:
    """Do all at once. Where one fails, the others have ended too when this does: nothing may go on
    at a server when the lock is let go.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _why(error: Away | Declined) -> str:
    return f"away: {error}" if isinstance(error, Away) else str(error)
