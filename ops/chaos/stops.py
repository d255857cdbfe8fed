"""Stop a worker in the middle of its work, and wait until nothing of it is under way any more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from ops.chaos.cluster import Cluster
from ops.chaos.crew import Member
from ops.chaos.desk import Desk, until

__all__ = ["stop_still"]

#: From a request's departure until its session has begun to work on it.
_ARRIVES_S: Final = 1.0
_STILL_S: Final = 60.0
_UNDER_WAY: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = $1 AND backend_type = 'client backend' AND state = 'active' AND query_start < $2
"""


async def _nothing() -> None:
    """Look at nothing."""


async def stop_still(
    cluster: Cluster, member: Member, look: Callable[[], Awaitable[None]] = _nothing
) -> None:
    """Send SIGSTOP and return when the database has ended all that the worker had asked of it.

    From then on only others change the ledger. `look` is called again and again meanwhile, the
    first time when the worker has been stopped, the last time when nothing is under way.
    """
    member.signal(signal.SIGSTOP)
    await look()
    await asyncio.sleep(_ARRIVES_S)
    # Only a superuser sees what the sessions of other roles do.
    desk = Desk(cluster.stack.admin_dsn)
    database = urlsplit(cluster.audit_dsn).path.removeprefix("/")
    arrived = await desk.value("SELECT clock_timestamp()")

    async def still() -> bool:
        # What others ask ends too: whose request it is makes no difference.
        busy = bool(await desk.value(_UNDER_WAY, database, arrived))
        await look()
        return not busy

    what = f"nothing that {member.name} asked of the database is under way"
    await until(what, still, limit_s=_STILL_S, every_s=0.2)
