"""What is needed of a running stack: settings, connections, adapters as one database role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mia_events.steps import RunView
from ops.connect import Connections, connections
from ops.embedded.state import Home
from ops.errors import Refused
from ops.settings import Settings, load_settings
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.ledger import PostgresLedger
from storage.postgres.runs import PostgresRuns

__all__ = ["Connected", "connected", "home_of", "run_named"]


@dataclass(frozen=True)
class Connected:
    """Adapters that share one pool."""

    settings: Settings
    connections: Connections
    ledger: PostgresLedger

    @property
    def artifacts(self) -> PostgresArtifacts:
        """Large values by content hash."""
        return PostgresArtifacts(self.ledger.pool, home_of(self.settings).root / "artifacts")

    @property
    def runs(self) -> PostgresRuns:
        """Operations on runs."""
        return PostgresRuns(self.ledger.pool)


def home_of(settings: Settings) -> Home:
    """Return the state folder that the settings name."""
    return Home(Path(settings.home).absolute())


@asynccontextmanager
async def connected(role: str) -> AsyncIterator[Connected]:
    """Connect as a database role.

    Raises:
        Refused: the stack is not up, or the database does not answer.
    """
    settings = load_settings()
    where = connections(settings)
    ledger = await PostgresLedger.open(where.dsn(role), sealed=role == "mia_judge", size=2)
    try:
        yield Connected(settings, where, ledger)
    finally:
        await ledger.close()


async def run_named(ledger: PostgresLedger, name: str) -> tuple[RunView, str]:
    """Return a run and its state. Raises `Refused` for one that is not there."""
    try:
        return await ledger.run_named(name)
    except LookupError as error:
        raise Refused(
            f"there is no run {name!r}", f"Make it with `mia run create {name}`."
        ) from error
