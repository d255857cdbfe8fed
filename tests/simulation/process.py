"""A worker process that can die between any two of its round trips, or stand still.

Inside runs the real worker. All it does to the world goes through gates, and a gate is where the
simulation delays it, answers with an error, stops it, or ends it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Any, TypeVar, cast
from uuid import UUID

from consumers.runner.log import LogUnavailable, Place, Record, Revoked
from storage.inmemory.state import Database
from storage.ports import Claimed, TopicState
from tests.simulation.broker import Broker, Member
from tests.simulation.chance import Faults
from tests.simulation.loop import VirtualLoop

__all__ = ["GatedLog", "Process", "Unreachable", "World", "gated"]

P = TypeVar("P")

#: Most round trips of an idle process are of these kinds; few deaths should be spent on them.
_IDLE_GATES = ("poll", "subscribe", "offsets", "states", "topics", "overdue", "due_runs", "unsent")
_IDLE = 0.05
#: Round trips that bring nothing to disk: these read, or do not wait for it.
_RELAXED = (*_IDLE_GATES, "claim", "renew", "release", "effects", "load", "mark_sent", "urgent")

_current: ContextVar["Process | None"] = ContextVar("process", default=None)


class Unreachable(ConnectionError):
    """The ledger does not answer; what was asked may or may not have happened."""


class World:
    """What all processes of a simulation share. `trace` is what happened, for the reader."""

    def __init__(
        self, loop: VirtualLoop, seed: int, faults: Faults, broker: Broker, db: Database
    ) -> None:
        self.loop = loop
        self.random = Random(seed)
        self.faults = faults
        self.broker = broker
        self._db = db
        self.crashes_left = faults.crashes
        self.ledger_away = False
        self._unflushed: dict[UUID, int] = {}  # claims that no commit has brought to disk with it
        self.log_away = False
        self.processes: list[Process] = []
        self.trace: list[str] = []
        self.seen: Counter[str] = Counter()
        loop.set_task_factory(_owned_task)

    def note(self, what: str) -> None:
        """Remember what happened, with the time."""
        self.trace.append(f"{self.loop.time():9.3f} {what}")

    def crash_ledger(self) -> None:
        """Nobody is answered. Claims do not wait for the disk: the last ones are lost."""
        self.ledger_away = True
        for stream, claim in self._unflushed.items():
            row = self._db.active.get(stream)
            if row is not None and row.claim == claim:
                row.claim = row.lease_until = None
                row.attempt -= 1
                self.seen["claims lost"] += 1
        self._unflushed.clear()

    def count(self, name: str, result: Any) -> None:
        """Count what the ledger did, so that a test can say what was reached."""
        if name not in _RELAXED:
            self._unflushed.clear()
        match name:
            case "commit":
                self.seen.update(result.outcomes)
            case "claim":
                self._unflushed.update((claimed.stream, claimed.claim) for claimed in result)
                self.seen["taken over"] += sum(claimed.attempt > 1 for claimed in result)
                self.seen["suspected"] += sum(
                    claimed.attempt - claimed.failures - claimed.isolated_deaths > 2
                    for claimed in result
                )
            case "unsent":
                self.seen["sent again"] += len(result)
            case "overdue":
                self.seen["overdue"] += len(result)

    def recorded(self, event_id: UUID) -> frozenset[int]:
        """The ordinals that are recorded for a command."""
        return frozenset(ordinal for event, ordinal in self._db.effects if event == event_id)

    @property
    def faulty(self) -> bool:
        """True while things still go wrong by chance."""
        return self.loop.time() < 4 * self.faults.within_s

    def chance(self, rate: float) -> bool:
        """True in `rate` of all cases, while things go wrong at all."""
        return rate > 0 and self.faulty and self.random.random() < rate

    def pause(self, mean_s: float) -> float:
        """A random duration."""
        return self.random.expovariate(1 / mean_s) if mean_s > 0 else 0.0


def _owned_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> "asyncio.Task[Any]":
    """Make a task that dies with the process it belongs to."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    process = _current.get()
    if process is not None:
        process.own(task)
    return task


class Process:
    """One incarnation of a worker process."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.alive = True
        self._thaw: asyncio.Event = asyncio.Event()
        self._thaw.set()
        self.known: dict[UUID, frozenset[int]] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they were made
        world.processes.append(self)

    def own(self, task: "asyncio.Task[Any]") -> None:
        """Take a task along when the process dies."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Tasks made here belong to this process."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def kill(self, why: str) -> None:
        """End it as kill -9 does: nothing it does from now on has an effect."""
        if not self.alive:
            return
        self._world.note(f"{self.name} dies: {why}")
        self.alive = False
        self._thaw.set()
        for task in list(self._tasks):
            task.cancel()

    def freeze(self, seconds: float) -> None:
        """Stop it as SIGSTOP does, for a while."""
        self._world.note(f"{self.name} stands still for {seconds:.2f} s")
        self._thaw.clear()
        self._world.loop.call_later(seconds, self._thaw.set)

    def granted(self, claims: Iterable[Claimed]) -> None:
        """Remember which effects were recorded when a command was granted to this process."""
        for claimed in claims:
            self.known[claimed.event_id] = self._world.recorded(claimed.event_id)

    @property
    def frozen(self) -> bool:
        """True while it stands still."""
        return not self._thaw.is_set()

    async def gate(self, where: str) -> None:
        """Pass from the process into the world, or back. Raises `CancelledError` in a dead one."""
        world = self._world
        delay = world.pause(world.faults.latency_s)
        if delay:
            await asyncio.sleep(delay)
        if not self._thaw.is_set():
            await self._thaw.wait()
        rate = world.faults.crash_rate * (_IDLE if where.endswith(_IDLE_GATES) else 1.0)
        if self.alive and world.crashes_left > 0 and world.chance(rate):
            world.crashes_left -= 1
            self.kill(where)
        if not self.alive:
            raise asyncio.CancelledError


class _Gated:
    """A port of the ledger's side, as one process reaches it."""

    def __init__(self, process: Process, world: World, inner: object) -> None:
        self._process = process
        self._world = world
        self._inner = inner

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            await self._process.gate(f"before {name}")
            self._answers(name)
            if name == "renew" and self._world.chance(self._world.faults.renewal_loss):
                raise Unreachable("the renewal was lost")
            result = await method(*arguments, **options)
            self._world.count(name, result)
            if name == "claim":
                self._process.granted(result)
            await self._process.gate(f"after {name}")
            self._answers(name)
            return result

        setattr(self, name, call)
        return call

    def _answers(self, name: str) -> None:
        world = self._world
        if world.ledger_away or world.chance(world.faults.ledger_error_rate):
            raise Unreachable(f"no answer to {name}")


def gated(process: Process, world: World, port: P) -> P:
    """A port as one process reaches it."""
    return cast(P, _Gated(process, world, port))


class GatedLog:
    """The log as one process reaches it."""

    def __init__(self, process: Process, world: World) -> None:
        self._process = process
        self._world = world
        self._members: list[Member] = []

    def _answers(self) -> None:
        world = self._world
        if world.log_away or world.chance(world.faults.log_error_rate):
            raise LogUnavailable("the log does not answer")

    async def ensure_topics(
        self, names: Sequence[str], *, partitions: int, replication: int = 1
    ) -> list[str]:
        """See the port."""
        await self._process.gate("before ensure_topics")
        self._answers()
        made = self._world.broker.make(names)
        await self._process.gate("after ensure_topics")
        return made

    async def subscribe(self, topic: str, group: str, *, revoked: Revoked) -> "_Subscription":
        """See the port."""
        await self._process.gate("before subscribe")
        self._answers()
        member = Member(group, topic, revoked)
        self._world.broker.join(member, self._world.loop.time())
        return _Subscription(self._process, self._world, member, self._answers)

    async def send(
        self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> asyncio.Future[Place]:
        """See the port. The record travels on its own: it may arrive although its sender died."""
        await self._process.gate("before send")
        self._answers()
        world = self._world
        place: asyncio.Future[Place] = world.loop.create_future()
        place.add_done_callback(lambda done: done.cancelled() or done.exception())
        delay = world.pause(world.faults.latency_s)
        world.loop.call_later(delay, self._arrive, topic, key, value, place)
        return place

    def _arrive(self, topic: str, key: bytes, value: bytes, place: "asyncio.Future[Place]") -> None:
        world = self._world
        lost = world.log_away or (not self._process.alive and world.random.random() < 0.5)
        where = None if lost else world.broker.append(topic, key, value, world.loop.time())
        if where is not None and world.chance(world.faults.duplicate_rate):
            world.broker.append(topic, key, value, world.loop.time())
        if place.done():
            return
        if where is None or world.chance(world.faults.log_error_rate):
            place.set_exception(LogUnavailable("not acknowledged"))
        else:
            place.set_result(where)

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """See the port."""
        return self._world.broker.partition_of(topic, key)

    async def states(self, groups: Mapping[str, str]) -> Sequence[TopicState]:
        """See the port."""
        await self._process.gate("before states")
        self._answers()
        states = self._world.broker.states(groups)
        await self._process.gate("after states")
        return states

    async def flush(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""


class _Subscription:
    """One member of a group, as its process reaches it."""

    def __init__(
        self, process: Process, world: World, member: Member, answers: Callable[[], None]
    ) -> None:
        self._process = process
        self._world = world
        self._member = member
        self._answers = answers

    async def poll(self, *, timeout_s: float, limit: int) -> Sequence[Record]:
        """See the port."""
        await self._process.gate("before poll")
        self._answers()
        member, broker = self._member, self._world.broker
        self._rejoin()
        member.seen_at = self._world.loop.time()
        found = broker.fetch(member, limit)
        if not found:
            member.wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await member.wake.wait()
            except TimeoutError:
                return []
            await self._process.gate("after poll")
            found = broker.fetch(member, limit)
        return found

    def _rejoin(self) -> None:
        """Whoever was thrown out hears it now, and comes back."""
        member = self._member
        if not member.evicted:
            return
        lost = frozenset(member.owned)
        member.owned.clear()
        if lost:
            member.revoked(lost)
        self._world.broker.join(member, self._world.loop.time())

    def assignment(self) -> frozenset[tuple[str, int]]:
        """See the port."""
        return frozenset(self._member.owned)

    def pause(self, partitions: frozenset[tuple[str, int]]) -> None:
        """See the port."""
        self._member.paused |= partitions

    def resume(self, partitions: frozenset[tuple[str, int]]) -> None:
        """See the port."""
        self._member.paused -= partitions
        self._member.wake.set()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """See the port."""
        await self._process.gate("before offsets")
        if not self._world.log_away:
            self._world.broker.commit(self._member, offsets)

    async def close(self) -> None:
        """See the port."""
        await self._process.gate("before leave")
        self._world.broker.leave(self._member)
