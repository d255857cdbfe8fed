"""Training with real vLLM under kill -9: it samples anew, so what is held are invariants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from consumers.stages import STAGES
from mia_events.learning.job import Row
from ops.audit.weights import Rebuilt
from ops.chaos.desk import Desk
from ops.evidence.hits import hit
from ops.evidence.pieces import piece
from ops.evidence.planning import Plans, Trial, planning
from ops.evidence.record import Claim
from ops.manifest import code_version
from ops.replay.jobs import jobs_of
from storage.postgres.replay import read_recording

__all__ = ["Death", "Shaken", "in_part", "judge_shaken", "shaken"]

_TRIAL: Final = Trial(
    arm="shaken", seed=7, lr=1e-3, updates=4, groups=2, rollouts=8, anchors=2, margin=1.0
)
#: What dies while the learner of the run has which status.
_DEATHS: Final = (
    ("workers", "idle"),
    ("train", "training"),
    ("vllm-chat", "guarding"),
    ("kafka", "idle"),
    ("train", "training"),
    ("postgres", "training"),
)
_SOON_S: Final = 0.3
_GROUPS: Final = """
SELECT count(*) AS groups, count(DISTINCT t.question) AS questions FROM train_group AS t
JOIN run AS u ON u.run_no = t.run_no WHERE u.name = $1
"""
_JUDGED: Final = """
SELECT e.correlation AS question, count(*) AS rollouts FROM event AS e
JOIN run AS u ON u.run_no = e.run_no
WHERE u.name = $1 AND e.type = 'rollout.judged' AND position('"unjudged"'::bytea IN e.body) = 0
GROUP BY 1
"""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """A part that was killed: what the learner was at, and the process; 0 if none was hit."""

    part: str
    learner: str
    pid: int


class Shaken(msgspec.Struct, frozen=True, kw_only=True):
    """What died, and what the run came to.

    `groups` counts the uses of groups by batches, `questions` the groups; `in_part` those of which
    some judged rollout is in no row while another is.
    """

    deaths: tuple[Death, ...]
    versions: tuple[Rebuilt, ...]
    groups: int
    questions: int
    in_part: int
    audit: dict[str, Any]
    clean: bool
    commit: str


async def shaken() -> Shaken:
    """Train on a stack of its own, whose parts die meanwhile; what was made before is taken."""
    return await piece("learn-3", _TRIAL, Shaken, _made)


async def _made() -> Shaken:
    async with planning(_TRIAL) as plans:
        await plans.begin()
        watched = _Watched(plans)
        deaths = [await watched.die(part, status) for part, status in _DEATHS]
        await plans.until()
        return Shaken(
            deaths=tuple(deaths),
            versions=await watched.versions(),
            in_part=await watched.in_part(),
            **dict(await watched.desk.row(_GROUPS, _TRIAL.name)),
            **await watched.audit(),
            commit=code_version(),
        )


class _Watched:
    """The run, and a reader who waits while the database is away."""

    def __init__(self, plans: Plans) -> None:
        self._plans, self._someone = plans, plans.someone
        self.desk = Desk(plans.dsn)

    async def die(self, part: str, status: str) -> Death:
        """Kill a part when the learner next has a status; a run that ended before kills nothing."""
        found = await self._plans.until(status)
        await asyncio.sleep(_SOON_S)
        pid = await asyncio.to_thread(hit, self._someone.home, part) if status == found else 0
        return Death(part=part, learner=found, pid=pid)

    async def versions(self) -> tuple[Rebuilt, ...]:
        """Make every version again."""
        told = await self._someone.told("audit", "weights", "--run", _TRIAL.name, may_fail=True)
        return msgspec.convert(told, tuple[Rebuilt, ...])

    async def in_part(self) -> int:
        """Count the groups of which an update saw some judged rollouts and not all."""
        rows = await self.desk.rows(_JUDGED, _TRIAL.name)
        judged = {row["question"]: row["rollouts"] for row in rows}
        made = jobs_of(await read_recording(self._plans.dsn, _TRIAL.name), STAGES)
        return sum(in_part(one.job.rows, judged) for one in made)

    async def audit(self) -> dict[str, Any]:
        """Audit ledger and topics."""
        found = await self._someone.audited(_TRIAL.name)
        return {"clean": found["clean"], "audit": found["said"]}


def in_part(rows: Sequence[Row], judged: Mapping[UUID, int]) -> int:
    """Count the questions of which fewer rollouts are in the rows than were judged."""
    seen: dict[UUID, set[int]] = {}
    for row in rows:
        seen.setdefault(row.question, set()).add(row.rollout)
    return sum(len(rollouts) != judged.get(question, 0) for question, rollouts in seen.items())


def judge_shaken(found: Shaken) -> list[Claim]:
    """Claim the invariants."""
    equal = [one.version for one in found.versions if one.verdict == "equal"]
    parts = ", ".join(f"{one.part} ({one.learner})" for one in found.deaths)
    return [
        Claim(f"real vLLM: killed with -9: {parts}", all(one.pid for one in found.deaths)),
        Claim(
            f"real vLLM: {found.groups} groups were used, none twice, {found.in_part} in part",
            found.groups == found.questions > 0 and not found.in_part,
        ),
        Claim("real vLLM: the audit of chains, joins and topics is clean", found.clean),
        Claim(
            f"real vLLM: {len(equal)} of {len(found.versions)} versions made again are equal",
            len(equal) == len(found.versions) > 1,
        ),
    ]
