"""What a process that keeps servers level must know, and how it opens what it needs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from consumers.effects.model_client import Endpoint
from ops.connect import Connections
from ops.models import planner_replicas
from ops.serving.adapters import AdapterFolders
from ops.serving.reconciler import Reconciler
from ops.serving.replica import VllmReplica
from ops.settings import Settings
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.policies import PostgresPolicies
from storage.postgres.pool import open_pool

__all__ = [
    "ServingConfig",
    "adapters_folder",
    "artifacts_folder",
    "reconciler_of",
    "serving_config",
]

_ROLE: Final = "mia_worker"


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. Holds a password, perhaps a key: it travels on standard input or in
    memory and is never logged. After every pass the file `report` says
    how all stands.
    """

    dsn: str
    artifacts: str
    adapters: str
    replicas: tuple[Endpoint, ...]
    room: int
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
        adapters=str(adapters_folder(settings)),
        replicas=planner_replicas(settings, ports),
        room=settings.serving.max_loras,
        poll_s=settings.serving.poll_s,
        report=str(report) if report else None,
    )


def artifacts_folder(settings: Settings) -> Path:
    """Return where large artifacts are."""
    return Path(settings.home).absolute() / "artifacts"


def adapters_folder(settings: Settings) -> Path:
    """Return where adapters are unpacked."""
    named = settings.serving.folder
    return (Path(named).expanduser() if named else Path(settings.home) / "adapters").absolute()


@asynccontextmanager
async def reconciler_of(config: ServingConfig) -> AsyncIterator[Reconciler]:
    """Connect. Raises `Unavailable` without the database."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(config.dsn, size=2)
        stack.push_async_callback(pool.close)
        replicas = [
            await stack.enter_async_context(VllmReplica(endpoint)) for endpoint in config.replicas
        ]
        folders = AdapterFolders(
            PostgresArtifacts(pool, Path(config.artifacts)), Path(config.adapters)
        )
        yield Reconciler(PostgresPolicies(pool), folders, replicas, room=config.room)
