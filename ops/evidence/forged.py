"""Copies of a ledger in which one reward was changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec

from consumers.stages import STAGES
from mia_events import ids
from ops.chaos.desk import execute
from ops.errors import Refused
from ops.replay.jobs import jobs_of
from storage.postgres.replay import read_recording

__all__ = ["FORGERIES", "Forgery", "copied", "database_of", "forge"]

#: Events of some rollouts, in the order of questions.
_ROLLOUTS: Final = """
FROM run AS r
JOIN event AS e ON e.run_no = r.run_no AND e.stream = ANY($2)
JOIN question AS q ON q.id = e.correlation
"""
_GRADES: Final = f"""
SELECT e.run_no, e.id, 0 AS ordinal, e.body AS held {_ROLLOUTS}
WHERE r.name = $1 AND e.type = 'rollout.judged' AND position($3 IN e.body) > 0
ORDER BY q.pos, e.id LIMIT 1
"""
_REPLIES: Final = f"""
SELECT f.run_no, f.event_id AS id, f.ordinal, f.result AS held {_ROLLOUTS}
JOIN effect AS f ON f.run_no = r.run_no AND f.event_id = e.id AND f.kind = 'call'
WHERE r.name = $1 AND e.type = 'rollout.opened' AND position($3 IN f.result) > 0
ORDER BY q.pos, e.id LIMIT 1
"""
_PUT_GRADE: Final = "UPDATE event SET body = $4 WHERE run_no = $1 AND id = $2 AND 0 = $3"
_PUT_REPLY: Final = (
    "UPDATE effect SET result = $4 WHERE run_no = $1 AND event_id = $2 AND ordinal = $3"
)


class Forgery(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed: the first `before` that `find` finds becomes `after`, by `put`."""

    find: str
    put: str
    before: bytes
    after: bytes

    @property
    def bytes_changed(self) -> int:
        """How many bytes differ, with those by which it became longer."""
        apart = sum(a != b for a, b in zip(self.before, self.after, strict=False))
        return apart + abs(len(self.before) - len(self.after))


#: The second is a lie that can be read, the third costs a reply its well-formedness.
FORGERIES: Final[dict[str, Forgery]] = {
    "one byte of a grade": Forgery(
        find=_GRADES, put=_PUT_GRADE, before=b'"grade":"correct"', after=b'"grade":"borrect"'
    ),
    "a grade turned round": Forgery(
        find=_GRADES, put=_PUT_GRADE, before=b'"grade":"correct"', after=b'"grade":"incorrect"'
    ),
    "one byte of a planner's reply": Forgery(
        find=_REPLIES, put=_PUT_REPLY, before=b"</think>", after=b"<.think>"
    ),
}


def database_of(dsn: str) -> str:
    """Return the name of a DSN's database."""
    return urlsplit(dsn).path.lstrip("/")


@asynccontextmanager
async def copied(admin_dsn: str, database: str) -> AsyncIterator[str]:
    """Give the superuser's DSN of a copy of a database that nobody is connected to."""
    name = f"{database}_copy"
    await execute(admin_dsn, f"CREATE DATABASE {name} TEMPLATE {database}")
    try:
        yield urlsplit(admin_dsn)._replace(path=f"/{name}").geturl()
    finally:
        await execute(admin_dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def forge(dsn: str, run: str, version: str, forgery: Forgery) -> dict[str, Any]:
    """Change something that a version was trained on; where, and by how many bytes.

    Raises:
        Refused: there is nothing of the kind to change.
    """
    rollouts = await _trained_rollouts(dsn, run, version)
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchrow(forgery.find, run, rollouts, forgery.before)
        if found is None:
            raise Refused(f"{version} was made from nothing that has {forgery.before!r}", "")
        held = found["held"].replace(forgery.before, forgery.after, 1)
        keys = (found["run_no"], found["id"], found["ordinal"])
        changed = await connection.execute(forgery.put, *keys, held)
    finally:
        await connection.close()
    if changed != "UPDATE 1":
        raise RuntimeError(f"a change of one row was {changed}")
    return {"event": found["id"], "of": version, "bytes": forgery.bytes_changed}


async def _trained_rollouts(dsn: str, run: str, version: str) -> list[UUID]:
    """Return the streams of the rollouts that a version's rows are of: not all of its groups, for
    nothing is trained on where all are rewarded alike.
    """
    jobs = [one.job for one in jobs_of(await read_recording(dsn, run), STAGES)]
    rows = [row for job in jobs if job.policy == version for row in job.rows]
    return sorted({ids.rollout_id(row.question, row.rollout) for row in rows})
