"""Runs that train the planner of a real vLLM by verl, on questions that a clerk looks up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.chaos.desk import Desk, until
from ops.connect import connections
from ops.evidence.lookup import World, clerk
from ops.evidence.user import User, user
from ops.settings import Settings

__all__ = ["Learned", "Plans", "Trial", "learned", "planning", "rewards_of"]

_LIMIT_S: Final = 6_000.0
_SOON_S: Final = 0.3
_STATE: Final = """
SELECT u.state, a.status FROM run AS u
LEFT JOIN active AS a ON a.run_no = u.run_no AND a.kind = 4 WHERE u.name = $1
"""
_CLERKS: Final = ("executor", "manager", "judge", "router")


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be made: `groups` questions an update, `rollouts` attempts at each.

    After each update there are `holdout_rollouts` attempts at each question of a holdout, and
    `attempts` at each of a guard's anchors, if there are some. The labels of the batches in
    `flipped` are wrong. `tokens` is the most of a reply.
    """

    arm: str
    seed: int
    lr: float
    updates: int
    groups: int = 3
    rollouts: int = 8
    anchors: int = 0
    attempts: int = 2
    margin: float = 0.0
    z: float = 0.0
    holdout: int = 0
    holdout_rollouts: int = 1
    flipped: tuple[int, ...] = ()
    row_tokens: int = 256
    tokens: int = 32

    def world(self) -> World:
        """Return what there is to look up, and what is asked."""
        world = World.drawn(
            self.seed,
            training=self.updates * self.groups,
            anchors=self.anchors,
            holdout=self.holdout,
        )
        return world.flipped(
            {batch * self.groups + row for batch in self.flipped for row in range(self.groups)}
        )

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.arm.partition(' ')[0]}-{self.seed}"


@dataclass(frozen=True)
class Plans:
    """A trial on a stack that is up; `files` are its questions."""

    trial: Trial
    someone: User
    files: Mapping[str, Path]

    async def begin(self) -> None:
        """Make the run and ask its questions; it ends with the last of them."""
        trial = self.trial
        options: dict[str, Any] = {
            "rollouts": trial.rollouts,
            "batch-size": trial.groups,
            "lag": 0,
            "max-turns": 2,
            "seed": trial.seed,
            "lr": trial.lr,
            "row-tokens": trial.row_tokens,
            "holdout-rollouts": trial.holdout_rollouts,
        }
        if trial.anchors:
            options |= {"anchors": self.files["anchors"], "anchor-limit": trial.anchors}
            options |= {"guard-rollouts": trial.attempts}
            options |= {"guard-margin": trial.margin, "guard-z": trial.z}
        if trial.holdout:
            options |= {"holdout": self.files["holdout"], "holdout-limit": trial.holdout}
        told = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        await self.someone.mia("run", "create", trial.name, "--train", *told)
        await self.someone.mia(
            "ingest", str(self.files["training"]), "--run", trial.name, "--close"
        )

    @property
    def dsn(self) -> str:
        """The auditor's: never print it."""
        return connections(Settings(home=str(self.someone.home))).dsn("mia_audit")

    async def until(self, status: str = "ended") -> str:
        """Wait until the run's learner has a status, or the run has ended; which."""
        desk, seen = Desk(self.dsn), ""

        async def reached() -> bool:
            nonlocal seen
            row = await desk.row(_STATE, self.trial.name)
            seen = "ended" if row["state"] == "ended" else row["status"] or ""
            return seen in {status, "ended"}

        await until(f"{status} or the end", reached, limit_s=_LIMIT_S, every_s=_SOON_S)
        return seen


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What a run told of itself at its end: a line of `mia learn` for each batch. `clean`: so was
    its audit.
    """

    lessons: list[dict[str, Any]]
    clean: bool


def rewards_of(lessons: Iterable[Mapping[str, Any]]) -> dict[str, Sequence[float | None]]:
    """Return the rewards on the holdout by version; each was measured once."""
    return {name: rewards for one in lessons for name, rewards in one["holdout"].items()}


async def learned(trial: Trial) -> Learned:
    """Make a trial on a stack of its own, undisturbed."""
    async with planning(trial) as plans:
        await plans.begin()
        await plans.until()
        lessons = await plans.someone.told("learn", trial.name, "--once")
        report = await plans.someone.audited(trial.name)
    return Learned(lessons=lessons, clean=report["clean"])


@asynccontextmanager
async def planning(trial: Trial) -> AsyncIterator[Plans]:
    """Give a stack of its own for a trial, with vLLM and verl; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="mia-planning-") as name:
        files = await asyncio.to_thread(trial.world().write, Path(name))
        settings = _settings(trial, files["passages"])
        async with clerk() as base_url, user(**settings, **_clerks(base_url)) as someone:
            await someone.mia("up")
            yield Plans(trial, someone, files)


def _clerks(base_url: str) -> dict[str, str]:
    """Return settings that make everyone but the planner a clerk."""
    clerks: dict[str, str] = {}
    for role in _CLERKS:
        clerks[f"MIA_MODELS__{role.upper()}__BASE_URL"] = base_url
        clerks[f"MIA_MODELS__{role.upper()}__MODEL"] = "clerk"
    return clerks


def _settings(trial: Trial, passages: Path) -> dict[str, str]:
    return {
        "MIA_MODELS__PLANNER__SAMPLING__MAX_TOKENS": str(trial.tokens),
        "MIA_RETRIEVAL__PASSAGES": str(passages),
        "MIA_TRAINING__ENABLED": "true",
        "MIA_EMBEDDED__CONTEXT_TOKENS": "2048",
    }
