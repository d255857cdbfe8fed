"""Trials on the session's stack, which lives in a thread of its own."""

from pathlib import Path

from ops.evidence.record import Evidence
from tests.support.stack import StackThread

__all__ = ["OnThread", "failed_claims"]


class OnThread:
    """The session's stack as trials want it: its coroutines run on its own loop."""

    def __init__(self, thread: StackThread) -> None:
        self._thread = thread

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin."""
        return self._thread.bootstrap_servers

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN."""
        return self._thread.admin_dsn

    def kill(self, name: str) -> int:
        """Kill `kafka` or `postgres`."""
        return self._thread.stack.kill(name)

    async def wipe_kafka(self) -> None:
        """Delete all that Kafka holds."""
        await self._thread.call(self._thread.stack.wipe_kafka())


def failed_claims(evidence: Evidence, folder: Path) -> list[str]:
    """Return the claims that do not hold; the figures are left in `folder` for whoever looks."""
    (folder / "figures.txt").write_text(repr(evidence))
    return evidence.broken
