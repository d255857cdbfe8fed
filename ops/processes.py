"""The worker processes and model servers that `mia up` keeps alive beside Kafka and Postgres."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from consumers.effects.model_client import Endpoint
from consumers.tools.retrieval import RetrievalService
from mia_events import topics
from ops.api.child import api_child
from ops.connect import Connections, connections_to
from ops.database import prepare_database, prepare_topics
from ops.defaults import make_default_run
from ops.embedded.ours import embedded_parts, our_child
from ops.embedded.spec import ChildSpec
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home
from ops.models import embedded_ports, embedded_servers, endpoints, full_weight_servers
from ops.retrieval.child import retrieval_child, retrieval_service
from ops.serving.child import serving_child
from ops.settings import Settings
from ops.training.config import trainer_config, trains_here
from ops.worker import ADMIT, EVERYTHING, STAGE_TOPICS, TRAIN, WorkerConfig

__all__ = ["Preparation", "children", "worker_config"]

_JUDGE = "judge"
_TOOL_CALL = "tool-call"
_WORKERS = tuple(stage for stage in EVERYTHING if stage not in {_JUDGE, ADMIT})
_ASK_AGAIN_S = 0.25
_STABLE = "Stable"


def worker_config(
    settings: Settings,
    connections: Connections,
    models: Mapping[str, Endpoint],
    stages: Sequence[str] = EVERYTHING,
    retrieval: RetrievalService | None = None,
) -> WorkerConfig:
    """Return what a process of these stages must know: no password and no key beyond its need.

    Where planners are trained, the judge's process guards them: it runs whole trials.
    """
    roles = {"mia_judge" if stage == _JUDGE else "mia_worker" for stage in stages if stage != ADMIT}
    roles |= {"mia_admit"} if ADMIT in stages else set()
    guards = settings.training.enabled and _JUDGE in stages
    only_judge = set(stages) <= {_JUDGE} and not guards
    worker = settings.worker
    return WorkerConfig(
        kafka=dict(connections.kafka_options),
        tls=connections.tls,
        dsns={role: connections.dsn(role) for role in sorted(roles)},
        endpoints={r: e for r, e in models.items() if not only_judge or r == _JUDGE},
        retrieval=retrieval if guards or _TOOL_CALL in stages else None,
        trainer=trainer_config(settings) if TRAIN in stages else None,
        full_weights=() if only_judge else full_weight_servers(settings),
        artifacts=str(Path(settings.home).absolute() / "artifacts"),
        stages=tuple(stages),
        partitions=settings.kafka.partitions,
        session_timeout_s=worker.session_timeout_s,
        sweep_every_s=worker.sweep_every_s,
        slots=worker.slots,
        lease_s=worker.lease_s,
        drain_s=worker.drain_s,
        stuck_s=worker.watchdog_s,
        pool_size=settings.postgres.pool_size,
    )


class Preparation:
    """Readies database, topics and the run `default`, once, before the first worker starts."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._settings, self._connections = settings, connections
        self._lock = asyncio.Lock()
        self._done = False

    async def __call__(self) -> None:
        """Prepare, or wait until it is done."""
        async with self._lock:
            if self._done:
                return
            await prepare_database(self._connections)
            kafka = self._settings.kafka
            await prepare_topics(
                self._connections,
                partitions=kafka.partitions,
                replication=kafka.replication_factor,
            )
            await make_default_run(self._settings, self._connections.dsn("mia_admit"))
            self._done = True


def children(settings: Settings, home: Home, where: Endpoints) -> list[ChildSpec]:
    """Return the model servers, the services and the workers that the settings ask for.

    The judge, who reads labels, and admission, which takes them in, are processes of their own.
    """
    servers = embedded_servers(settings, home)
    ports = embedded_ports(servers)
    models = endpoints(settings, ports)
    service = retrieval_child(settings, home, models)
    specs = [*(server.spec() for server in servers), *([service] if service else [])]
    connections = connections_to(settings, where)
    prepare = Preparation(settings, connections)
    if api := api_child(settings, home, connections, prepare):
        specs.append(api)
    if not settings.embedded.workers:
        return specs
    if level := serving_child(settings, home, connections, ports, prepare):
        specs.append(level)
    retrieval = retrieval_service(settings, service.port if service else 0)
    for name, stages in _division(settings).items():
        config = worker_config(settings, connections, models, stages, retrieval)
        specs.append(_spec(name, config, prepare, settings))
    return specs


def _division(settings: Settings) -> dict[str, tuple[str, ...]]:
    processes = settings.worker.processes
    names = ["workers"] if processes == 1 else [f"workers-{n}" for n in range(1, processes + 1)]
    division = {**dict.fromkeys(names, _WORKERS), _JUDGE: (_JUDGE,), ADMIT: (ADMIT,)}
    return {**division, TRAIN: (TRAIN,)} if trains_here(settings) else division


def _spec(name: str, config: WorkerConfig, prepare: Preparation, settings: Settings) -> ChildSpec:
    async def working() -> None:
        await _await_groups(config)

    return replace(
        our_child(name, "ops.worker", config, working),
        prepare=prepare,
        depends_on=embedded_parts(settings),
        stop_patience_s=config.drain_s + 20,
    )


async def _await_groups(config: WorkerConfig) -> None:
    """Raise unless the consumer groups of all its topics have members that may fetch.

    After a kill the dead member counts until its session ends; then the group settles anew.
    """
    names = [STAGE_TOPICS[stage] for stage in config.stages if stage in STAGE_TOPICS]
    names += topics.INBOUND if ADMIT in config.stages else ()
    groups = [config.prefix + topics.group_of(name, "") for name in names]
    admin = AIOKafkaAdminClient(**config.kafka_client(), request_timeout_ms=5_000)
    try:
        await admin.start()
        states = [await _state(admin, group) for group in groups]
    finally:
        await admin.close()
    if states != [_STABLE] * len(groups):
        await asyncio.sleep(_ASK_AGAIN_S)
        raise ConnectionError(f"groups are {states}")


async def _state(admin: AIOKafkaAdminClient, group: str) -> str:
    # One at a time: aiokafka 0.14 reads the reply on several groups with an older schema.
    (reply,) = await admin.describe_consumer_groups([group])
    return str(reply.groups[0][2])
