"""The composition root of a worker process: which stages, with which roles, over what."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from consumers.effects.full_weights import FullWeights
from consumers.effects.model_client import Endpoint, ModelClient
from consumers.effects.performer import RealPerformer
from consumers.effects.versions import Versions
from consumers.plan.preempt import dead_letter_step, fail_question
from consumers.runner.admit import Admission
from consumers.runner.committer import Committer
from consumers.runner.context import Context
from consumers.runner.isolate import Isolation, Verdict, attempt_alone, away
from consumers.runner.kafka_log import KafkaLog
from consumers.runner.publisher import Publisher
from consumers.runner.sweeper import Sweeper
from consumers.runner.worker import Lane, Worker, WorkerOptions
from consumers.stages import STAGES
from consumers.tools.retrieval import RetrievalClient, RetrievalService
from mia_events import topics
from mia_events.policies.lease import IsolationPolicy
from mia_events.policies.retry import RetryPolicy
from mia_events.steps import Stage
from ops.errors import Refused
from ops.tls import TlsFiles, client_arguments
from ops.training.config import TrainerConfig
from storage.ports import Claimed
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.labels import PostgresLabels
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import PostgresMemory
from storage.postgres.policies import PostgresPolicies

if TYPE_CHECKING:
    from consumers.runner.log import Record

_log = structlog.get_logger(__name__)

#: What `mia worker` can be asked to run, by the name of the stage.
STAGE_TOPICS: Final[Mapping[str, str]] = {
    "plan": topics.PLAN,
    "execute": topics.EXECUTE,
    "tool-call": topics.TOOL_CALL,
    "reflect": topics.REFLECT,
    "judge": topics.JUDGE,
    "consolidate": topics.CONSOLIDATE,
    "train": topics.TRAIN,
}
_PR_SET_PDEATHSIG: Final = 1
#: Seconds after the drain in which a worker publishes, leaves its groups and closes.
_LEAVE_S: Final = 15.0
ADMIT: Final = "admit"
SWEEP: Final = "sweep"
TRAIN: Final = "train"
#: What a worker runs unless told otherwise: to train takes an environment of its own.
EVERYTHING: Final = (*(name for name in STAGE_TOPICS if name != TRAIN), ADMIT, SWEEP)
KNOWN: Final = (*STAGE_TOPICS, ADMIT, SWEEP)


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker process needs to know. Holds secrets: it travels on standard input or in
    memory, never on a command line, and is never logged. `dsns` are by database role, `tls` are
    the files of a Kafka that speaks it. `full_weights` are the planner's servers, where each holds
    one version. `handlers` is the module that provides `STAGES`; tests name
    one with handlers that misbehave.
    """

    kafka: dict[str, Any]
    tls: TlsFiles | None = None
    dsns: dict[str, str]
    endpoints: dict[str, Endpoint]
    artifacts: str
    retrieval: RetrievalService | None = None
    trainer: TrainerConfig | None = None
    full_weights: tuple[Endpoint, ...] = ()
    stages: tuple[str, ...] = EVERYTHING
    handlers: str = "consumers.stages"
    prefix: str = ""
    partitions: int = 6
    session_timeout_s: float = 10.0
    sweep_every_s: float = 1.0
    grace_s: float = 3.0
    slots: int = 64
    lease_s: float = 30.0
    drain_s: float = 20.0
    stuck_s: float = 60.0
    local_dispatch: bool = True
    isolation: IsolationPolicy = IsolationPolicy()
    retries: RetryPolicy = RetryPolicy()
    pool_size: int = 4

    def handled(self) -> Mapping[str, Stage]:
        """The handlers by topic."""
        stages: Mapping[str, Stage] = importlib.import_module(self.handlers).STAGES
        return stages

    def kafka_client(self) -> dict[str, Any]:
        """Keyword arguments for any aiokafka client."""
        return client_arguments(self.kafka, self.tls)

    def options(self) -> WorkerOptions:
        """The runner's part."""
        return WorkerOptions(
            slots=self.slots,
            lease_s=self.lease_s,
            drain_s=self.drain_s,
            stuck_s=self.stuck_s,
            local_dispatch=self.local_dispatch,
            retries=self.retries,
        )


class Parts(AsyncExitStack):
    """Opens what a worker is made of and closes it in reverse."""

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__()
        self.config = config

    async def ledger(self, role: str) -> PostgresLedger:
        """The ledger as a database role."""
        ledger = await PostgresLedger.open(
            self.config.dsns[role], sealed=role == "mia_judge", size=self.config.pool_size
        )
        self.push_async_callback(ledger.close)
        return ledger

    def log(self) -> KafkaLog:
        """The event log."""
        return KafkaLog(
            self.config.kafka_client(),
            prefix=self.config.prefix,
            session_timeout_s=self.config.session_timeout_s,
        )

    async def performer(self, ledger: PostgresLedger, role: str) -> RealPerformer:
        """The performer over a role's connections; only the judge's reads labels."""
        models = await self.enter_async_context(ModelClient(self.config.endpoints))
        artifacts = PostgresArtifacts(ledger.pool, Path(self.config.artifacts))
        trainer, servers = self.config.trainer, self.config.full_weights
        return RealPerformer(
            models=models,
            versions=Versions(PostgresPolicies(ledger.pool)),
            memory=PostgresMemory(ledger.pool),
            ledger=ledger,
            artifacts=artifacts,
            trainer=trainer.trainer(artifacts) if trainer is not None else None,
            labels=PostgresLabels(ledger.pool) if role == "mia_judge" else None,
            retrieval=await self._retrieval(),
            planner=FullWeights(models, servers) if servers else None,
        )

    async def _retrieval(self) -> RetrievalClient | None:
        if self.config.retrieval is None:
            return None
        return await self.enter_async_context(RetrievalClient(self.config.retrieval))


def lanes_of(
    stages: Sequence[str], handlers: Mapping[str, Stage] = STAGES
) -> dict[str, dict[str, Stage]]:
    """The stages to run by the database role that each runs as. Raises `Refused` for an unknown
    one.
    """
    unknown = sorted(set(stages) - set(KNOWN))
    if unknown:
        raise Refused(f"there is no stage {unknown[0]!r}", f"Stages: {', '.join(KNOWN)}.")
    lanes: dict[str, dict[str, Stage]] = {}
    for name in stages:
        if name in STAGE_TOPICS:
            role = "mia_judge" if name == "judge" else "mia_worker"
            lanes.setdefault(role, {})[STAGE_TOPICS[name]] = handlers[STAGE_TOPICS[name]]
    return lanes


async def build(parts: Parts, name: str) -> Worker:
    """Connect and assemble a worker. Raises `Unavailable` while the database is away."""
    config, options = parts.config, parts.config.options()
    log = parts.log()
    by_role = lanes_of(config.stages, config.handled())
    lanes = [await _lane(parts, log, role, stages, name) for role, stages in by_role.items()]
    admission = await _admission(parts, log) if ADMIT in config.stages else None
    sweeper = await _sweeper(parts, log, lanes) if SWEEP in config.stages else None
    return Worker(lanes, log=log, options=options, admission=admission, sweeper=sweeper)


async def _lane(
    parts: Parts, log: KafkaLog, role: str, stages: Mapping[str, Stage], name: str
) -> Lane:
    ledger = await parts.ledger(role)
    refusals = Admission(
        ledger=ledger,
        labels=PostgresLabels(ledger.pool),
        artifacts=PostgresArtifacts(ledger.pool, Path(parts.config.artifacts)),
        log=log,
        publisher=Publisher(log, ledger, run_id=Context(ledger).run_id, mine=lambda *_: False),
    )

    async def malformed(record: Record, reason: str) -> None:
        await refusals.refuse(record, f"not an event: {reason}")

    return Lane(
        ledger=ledger,
        log=log,
        worker_no=await ledger.new_worker(f"{name} {role}"),
        stages=stages,
        performer=await parts.performer(ledger, role),
        options=parts.config.options(),
        dead_letter_step=dead_letter_step,
        malformed=malformed,
        isolation=Isolation(
            ledger,
            command=isolated_command(),
            policy=parts.config.isolation,
            configuration=msgspec.json.encode(parts.config),
        ),
    )


async def _admission(parts: Parts, log: KafkaLog) -> Admission:
    ledger = await parts.ledger("mia_admit")
    context = Context(ledger)
    return Admission(
        ledger=ledger,
        labels=PostgresLabels(ledger.pool),
        artifacts=PostgresArtifacts(ledger.pool, Path(parts.config.artifacts)),
        log=log,
        publisher=Publisher(log, ledger, run_id=context.run_id, mine=lambda *_: False),
    )


async def _sweeper(parts: Parts, log: KafkaLog, lanes: Sequence[Lane]) -> Sweeper:
    ledger = await parts.ledger("mia_worker")
    context = Context(ledger)
    publisher = (
        lanes[0].publisher
        if lanes
        else Publisher(log, ledger, run_id=context.run_id, mine=lambda *_: False)
    )
    committer = (
        lanes[0].committer
        if lanes
        else Committer(ledger, lease_s=parts.config.lease_s, emit=publisher.publish)
    )
    return Sweeper(
        ledger=ledger,
        log=log,
        publisher=publisher,
        committer=committer,
        context=context,
        fail_question=lambda task: fail_question(task, "timed_out", "the deadline passed"),
        partitions=parts.config.partitions,
        every_s=parts.config.sweep_every_s,
        grace_s=parts.config.grace_s,
        alone=not lanes,
    )


def die_with_parent() -> None:
    """End this process when the worker that started it ends (Linux; elsewhere it ends its attempt,
    which commits only under a claim that still holds).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def isolated_command() -> tuple[str, ...]:
    """How a process for one command is started."""
    return (sys.executable, "-m", "ops.worker", "--isolated")


async def work(config: WorkerConfig, *, name: str) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal ends it at once."""
    async with Parts(config) as parts:
        worker = await _patiently(parts, name)
        loop = asyncio.get_running_loop()
        asked = False

        def stop() -> None:
            nonlocal asked
            if asked:
                os._exit(1)
            asked = True
            worker.stop()
            # Whatever a client that lost its server waits for: what counts is in the ledger.
            loop.call_later(config.drain_s + _LEAVE_S, os._exit, 1)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        _log.info("working", stages=list(config.stages), name=name)
        await worker.run()


async def _patiently(parts: Parts, name: str) -> Worker:
    while True:
        try:
            return await build(parts, name)
        except ConnectionError as error:
            _log.warning("waiting for the database", error=str(error))
            await asyncio.sleep(0.5)


async def isolated(config: WorkerConfig, claimed: Claimed) -> bytes:
    """One attempt in this process; the verdict's JSON. What it appends the sweeper publishes.

    A ledger that is away is no fault of the command.
    """
    try:
        verdict = await _alone(config, claimed)
    except ConnectionError as error:
        verdict = away(error)
    return msgspec.json.encode(verdict)


async def _alone(config: WorkerConfig, claimed: Claimed) -> Verdict:
    role = "mia_judge" if claimed.topic == topics.JUDGE else "mia_worker"
    async with Parts(config) as parts:
        stages = {claimed.topic: config.handled()[claimed.topic]}
        lane = await _lane(parts, parts.log(), role, stages, "isolated")
        committing = asyncio.ensure_future(lane.committer.run())
        try:
            return await attempt_alone(claimed, lane.attempts)
        finally:
            committing.cancel()


def calm_collector() -> None:
    """Collect garbage rarely: what a worker drops is freed by reference counts, and the collector's
    walks over what it keeps (histories, queues) took a fifth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def main(arguments: Sequence[str]) -> None:
    """Run a worker whose configuration comes on standard input."""
    if "--isolated" in arguments:
        die_with_parent()
        config = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
        claimed = msgspec.json.decode(sys.stdin.buffer.readline(), type=Claimed)
        sys.stdout.write(asyncio.run(isolated(config, claimed)).decode() + "\n")
        return
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
    name = f"{socket.gethostname()}:{os.getpid()}"
    calm_collector()
    asyncio.run(work(config, name=name))


if __name__ == "__main__":
    main(sys.argv[1:])
