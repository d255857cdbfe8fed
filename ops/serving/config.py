"""What a process that keeps servers level must know, and how it opens what it needs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from consumers.effects.model_client import Endpoint
from ops.connect import Connections
from ops.models import base_folder, planner_replicas
from ops.serving.folders import VersionFolders, unpack_adapter, unpack_checkpoint
from ops.serving.full_weights import FullWeightsReplica
from ops.serving.placement import Everywhere, Turns
from ops.serving.reconciler import Reconciler
from ops.serving.replica import Replica, VllmReplica
from ops.settings import Settings
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.policies import PostgresPolicies
from storage.postgres.pool import open_pool

__all__ = [
    "ServingConfig",
    "artifacts_folder",
    "reconciler_of",
    "serving_config",
    "versions_folder",
]

_ROLE: Final = "mia_worker"


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. Holds a password, perhaps a key: it travels on standard input or in
    memory and is never logged. After every pass the file `report` says how all stands.
    `full`: servers hold all weights of one version each, the base model's from its folder `base`.
    """

    dsn: str
    artifacts: str
    versions: str
    replicas: tuple[Endpoint, ...]
    full: bool = False
    base: str = ""
    room: int
    turn_s: float
    poll_s: float
    report: str | None = None


def serving_config(
    settings: Settings,
    connections: Connections,
    ports: Mapping[str, int],
    report: Path | None = None,
) -> ServingConfig:
    """Return it; `ports` are the embedded servers'."""
    return ServingConfig(
        dsn=connections.dsn(_ROLE),
        artifacts=str(artifacts_folder(settings)),
        versions=str(versions_folder(settings)),
        replicas=planner_replicas(settings, ports),
        full=settings.serving.weights == "full",
        base=str(base_folder(settings) or ""),
        room=settings.serving.max_loras,
        turn_s=settings.serving.turn_s,
        poll_s=settings.serving.poll_s,
        report=str(report) if report else None,
    )


def artifacts_folder(settings: Settings) -> Path:
    """Return where large artifacts are."""
    return Path(settings.home).absolute() / "artifacts"


def versions_folder(settings: Settings) -> Path:
    """Return where versions are unpacked."""
    serving = settings.serving
    kind = "checkpoints" if serving.weights == "full" else "adapters"
    named = Path(serving.folder).expanduser() if serving.folder else Path(settings.home) / kind
    return named.absolute()


@asynccontextmanager
async def reconciler_of(config: ServingConfig) -> AsyncIterator[Reconciler]:
    """Connect. Raises `Unavailable` without the database."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(config.dsn, size=2)
        stack.push_async_callback(pool.close)
        kind = FullWeightsReplica if config.full else VllmReplica
        replicas: list[Replica] = [
            await stack.enter_async_context(kind(endpoint)) for endpoint in config.replicas
        ]
        folders = VersionFolders(
            PostgresArtifacts(pool, Path(config.artifacts)),
            Path(config.versions),
            unpacked=unpack_checkpoint if config.full else unpack_adapter,
            base=Path(config.base) if config.base else None,
        )
        placement = Turns(config.turn_s) if config.full else Everywhere(config.room)
        yield Reconciler(PostgresPolicies(pool), folders, replicas, placement)
