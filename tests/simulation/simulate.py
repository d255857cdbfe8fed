"""One simulation from its scenario to the ledger that it leaves behind."""

import asyncio
import itertools
import logging
import random as chance
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import msgspec
import structlog

from consumers.guard import anchor_id
from consumers.plan.preempt import dead_letter_step, fail_question
from consumers.runner.admit import Admission
from consumers.runner.context import Context
from consumers.runner.isolate import Isolation, Verdict, attempt_alone
from consumers.runner.log import Record
from consumers.runner.publisher import Publisher
from consumers.runner.sweeper import Sweeper
from consumers.runner.worker import Lane, Worker, WorkerOptions
from consumers.stages import STAGES
from consumers.tools.registry import TOOLS
from mia_events import ids, topics
from mia_events.policies.lease import IsolationPolicy
from mia_events.policies.retry import RetryPolicy
from storage.inmemory.labels import InMemoryLabels
from storage.inmemory.ledger import InMemoryLedger
from storage.inmemory.memory import InMemoryMemories
from storage.inmemory.runs import InMemoryRuns
from storage.inmemory.state import Database
from storage.ports import Claimed, LabelStore, Ledger, MemoryStore
from tests.simulation.broker import Broker
from tests.simulation.loop import VirtualLoop, run_virtually
from tests.simulation.performer import Account, ChildDied, Performer, alone
from tests.simulation.process import GatedLog, Process, World, gated
from tests.simulation.scenario import Scenario
from tests.support.scripted_replies import gold_for

__all__ = ["Result", "conditions", "simulate"]

RUN = "simulated"
_RETRIES = RetryPolicy(base_s=0.2, cap_s=2.0)
_SUBJECTS = ("river", "mountain", "composer", "bridge", "painter", "island", "treaty")


@dataclass(frozen=True)
class Result:
    """What a simulation left behind. `finished` is None when the run did not end in time."""

    scenario: Scenario
    db: Database
    broker: Broker
    account: Account
    trace: list[str]
    seen: Counter[str]
    errors: list[str]
    finished: float | None


def simulate(scenario: Scenario, *, limit_s: float = 2_000.0) -> Result:
    """Run a scenario to the end of its run, or to `limit_s` virtual seconds."""
    no_watchdog = mock.patch("consumers.runner.worker.Watchdog", _NoWatchdog)
    with _quiet(), no_watchdog, conditions(scenario):
        chance.seed(scenario.seed)  # the sweeper's own jitter
        return run_virtually(lambda loop: _Simulation(loop, scenario).run(limit_s))


@contextmanager
def conditions(scenario: Scenario) -> Iterator[None]:
    """What holds for the scenario's handlers."""
    search = msgspec.structs.replace(TOOLS["search"], idempotent=not scenario.cautious)
    with mock.patch.dict("consumers.tools.registry.TOOLS", search=search):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the worker's log out of the output; the trace says what was done to it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


class _NoWatchdog:
    """The real one watches real time from a thread."""

    def __init__(self, *, limit_s: float) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


class _Isolation(Isolation):
    """Runs an isolated attempt in this process instead of a child; it dies with its parent. As a
    child, it has nothing of the stream at hand.
    """

    def __init__(self, ledger: Ledger, lanes: dict[str, Lane]) -> None:
        super().__init__(
            ledger,
            command=(),
            configuration=b"",
            policy=IsolationPolicy(),
        )
        self._lanes = lanes

    async def _in_child(self, claimed: Claimed) -> Verdict | None:
        lane, token = self._lanes["lane"], alone.set(True)
        lane.context.forget(claimed.stream)
        try:
            return await attempt_alone(claimed, lane.attempts)
        except ChildDied:
            return None
        finally:
            alone.reset(token)


class _Artifacts:
    """No question of a simulation has documents."""

    async def put(self, data: bytes) -> str:
        raise NotImplementedError

    async def get(self, sha256: str) -> bytes:
        raise NotImplementedError


class _Simulation:
    def __init__(self, loop: VirtualLoop, scenario: Scenario) -> None:
        self._loop = loop
        self._scenario = scenario
        self._db = Database(clock=loop.clock)
        self._broker = Broker(partitions=scenario.partitions, session_s=1.5)
        self._world = World(loop, scenario.seed, scenario.faults, self._broker, self._db)
        self._account = Account()
        self._runs = InMemoryRuns(self._db)
        self._names = itertools.count(1)
        self._numbers = itertools.count(1)
        self._workers: dict[Process, Worker] = {}
        self._errors: list[str] = []
        self._over = False

    async def run(self, limit_s: float) -> Result:
        """Start everything, wait for the run's end, stop everything."""
        self._loop.set_exception_handler(self._remember)
        run_no = await self._runs.create(RUN, self._scenario.manifest(), scope="simulated")
        self._broker.make(topics.ALL)
        work = [self._keep_working() for _ in range(self._scenario.processes)]
        parts = [asyncio.ensure_future(part) for part in (*work, self._ask(), self._evict())]
        parts += [asyncio.ensure_future(part) for part in self._misfortunes()]
        finished = None
        while self._loop.time() < limit_s:
            await asyncio.sleep(0.5)
            if self._db.runs[run_no].state == "ended" and not self._db.outbox:
                finished = self._loop.time()
                break
        await self._stop(parts)
        return Result(
            self._scenario, self._db, self._broker, self._account, self._world.trace,
            self._world.seen, self._errors, finished,
        )  # fmt: skip

    def _remember(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self._errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def _stop(self, parts: "list[asyncio.Task[None]]") -> None:
        self._over = True
        for process, worker in self._workers.items():
            if process.alive:
                worker.stop()
        for part in parts[self._scenario.processes :]:
            part.cancel()
        self._world.ledger_away = self._world.log_away = False
        done = asyncio.gather(*parts, return_exceptions=True)
        outcomes = await asyncio.wait_for(done, timeout=600)
        self._errors += [repr(error) for error in outcomes if isinstance(error, Exception)]

    # --- the world outside -----------------------------------------------------------------------

    async def _ask(self) -> None:
        """Publish the questions, seal their labels, close the run once all are in."""
        run = self._db.runs[1]
        labels = InMemoryLabels(self._db)
        view = (await InMemoryLedger(self._db).run_named(RUN))[0]
        for anchor in (*view.manifest.anchors, *view.manifest.holdout):
            name = anchor_id(view, anchor)
            await labels.seal(1, name, gold_for(anchor.text), source="anchor")
        random = chance.Random(f"questions {self._scenario.seed}")
        for row in range(self._scenario.questions):
            text = f"Which {random.choice(_SUBJECTS)} is near the {random.choice(_SUBJECTS)} {row}?"
            question = ids.question_id(run.id, "simulated", str(row))
            await labels.seal(1, question, gold_for(text), source="simulated")
            await self._publish(row, text)
        while run.accepted < self._scenario.questions or run.state != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # virtual seconds cost nothing
        await self._runs.close(RUN)

    async def _publish(self, row: int, text: str) -> None:
        """Send a question as any client does: again until it is in, and now and then twice."""
        record = msgspec.json.encode(
            {
                "run": RUN,
                "question": text,
                "source": "simulated",
                "row": str(row),
                "position": row,
            }
        )
        question = ids.question_id(self._db.runs[1].id, "simulated", str(row))
        while question not in self._db.questions:
            if not self._world.log_away:
                self._broker.append(topics.QUESTION, str(row).encode(), record, self._loop.time())
            await asyncio.sleep(1.0 + self._world.pause(self._scenario.faults.latency_s))

    async def _evict(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._broker.evict_silent(self._loop.time())

    # --- processes -------------------------------------------------------------------------------

    async def _keep_working(self) -> None:
        """Run one process after the other until the simulation is over."""
        while not self._over:
            process = Process(self._world, f"process {next(self._names)}")
            with process.inside():
                worker = self._worker(process)
                task = asyncio.ensure_future(worker.run())
            self._workers[process] = worker
            try:
                await task
            except asyncio.CancelledError:
                if process.alive:
                    raise
            except Exception as error:  # noqa: BLE001 - a worker that ends by itself is a finding
                self._errors.append(f"{process.name} ended with {error!r}")
            process.alive = False
            del self._workers[process]
            await asyncio.sleep(self._world.pause(1.0))

    def _worker(self, process: Process) -> Worker:
        """The same parts as a real process has, over gated ports."""
        world = self._world
        ledger: Ledger = gated(process, world, InMemoryLedger(self._db))
        labels: LabelStore = gated(process, world, InMemoryLabels(self._db))
        memory: MemoryStore = gated(process, world, InMemoryMemories(self._db))
        log = GatedLog(process, world)
        options = WorkerOptions(
            slots=self._scenario.slots, lease_s=self._scenario.lease_s, drain_s=4.0,
            local_dispatch=self._scenario.local_dispatch, retries=_RETRIES,
        )  # fmt: skip
        context = Context(ledger)
        publisher = Publisher(log, ledger, run_id=context.run_id, mine=lambda *_: False)
        admission = Admission(
            ledger=ledger, labels=labels, artifacts=_Artifacts(), log=log, publisher=publisher
        )
        performer = Performer(
            process, world, self._db, self._account, ledger, memory, labels,
            moody=self._scenario.moody, deadly_rate=self._scenario.deadly_rate,
        )  # fmt: skip
        lanes = [
            self._lane(process, ledger, log, performer, options, names, admission)
            for names in ({topics.JUDGE}, set(STAGES) - {topics.JUDGE})
        ]
        sweeper = Sweeper(
            ledger=ledger, log=log, publisher=lanes[1].publisher, committer=lanes[1].committer,
            context=Context(ledger),
            fail_question=lambda task: fail_question(task, "timed_out", "the deadline passed"),
            partitions=self._scenario.partitions, every_s=1.0, grace_s=1.5,
        )  # fmt: skip
        return Worker(lanes, log=log, options=options, admission=admission, sweeper=sweeper)

    def _lane(
        self,
        process: Process,
        ledger: Ledger,
        log: GatedLog,
        performer: Performer,
        options: WorkerOptions,
        names: set[str],
        admission: Admission,
    ) -> Lane:
        number = next(self._numbers)
        lanes: dict[str, Lane] = {}
        lanes["lane"] = Lane(
            ledger=ledger,
            log=log,
            worker_no=number,
            stages={name: STAGES[name] for name in sorted(names)},
            performer=performer,
            options=options,
            dead_letter_step=dead_letter_step,
            malformed=partial(_malformed, admission),
            isolation=_Isolation(ledger, lanes),
        )
        return lanes["lane"]

    # --- misfortunes -----------------------------------------------------------------------------

    def _misfortunes(self) -> list[Coroutine[Any, Any, None]]:
        faults = self._scenario.faults
        plan: list[tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = [
            (faults.kills, self._kill), (faults.freezes, self._freeze),
            (faults.drains, self._drain), (faults.ledger_outages, self._ledger_outage),
            (faults.log_outages, self._log_outage), (faults.wipes, self._wipe),
            (faults.floods, self._flood), (faults.pauses, self._pause),
        ]  # fmt: skip
        return [self._later(strike) for count, strike in plan for _ in range(count)]

    async def _later(self, strike: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(self._world.random.uniform(0, self._scenario.faults.within_s))
        await strike()

    def _some_process(self) -> Process | None:
        living = [process for process in self._workers if process.alive]
        return self._world.random.choice(living) if living else None

    async def _kill(self) -> None:
        process = self._some_process()
        if process is not None:
            process.kill("killed")

    async def _freeze(self) -> None:
        process = self._some_process()
        if process is not None and not process.frozen:
            process.freeze(self._world.random.uniform(0.2, 12.0))

    async def _drain(self) -> None:
        process = self._some_process()
        if process is not None:
            self._world.note(f"{process.name} is asked to end")
            self._workers[process].stop()

    async def _ledger_outage(self) -> None:
        self._world.note("the ledger is away")
        self._world.crash_ledger()
        await asyncio.sleep(self._world.pause(1.5))
        self._world.ledger_away = False
        self._world.note("the ledger is back")

    async def _log_outage(self) -> None:
        self._world.note("the log is away")
        self._world.log_away = True
        await asyncio.sleep(self._world.pause(3.0))
        self._world.log_away = False
        self._world.note("the log is back")

    async def _wipe(self) -> None:
        topic = self._world.random.choice(topics.COMMANDS)
        self._world.note(f"{topic} is lost")
        self._broker.drop(topic)

    async def _flood(self) -> None:
        self._world.note("every topic is lost")
        for topic in topics.ALL:
            self._broker.drop(topic)

    async def _pause(self) -> None:
        run = self._db.runs[1]
        if run.state not in {"running", "closing"}:
            return
        self._world.note("the run is paused")
        await self._runs.pause(RUN)
        await asyncio.sleep(self._world.pause(3.0))
        await self._runs.resume(RUN)
        self._world.note("the run goes on")


async def _malformed(admission: Admission, record: Record, reason: str) -> None:
    await admission.refuse(record, reason)
