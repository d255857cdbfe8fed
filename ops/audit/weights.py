"""Planner versions made again from the ledger, each in a fresh process, and compared bit by bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from consumers.train.packing import unpack
from consumers.train.trainer import Trainer
from mia_events.learning.job import Determinants, Trained
from mia_events.learning.versions import BASE
from mia_events.steps import Poison, Transient
from ops.replay.jobs import Remade
from ops.serving.compare import weights_apart
from ops.serving.lora import Adapter, Checkpoint, opened
from storage.ports import Artifacts, PolicyRow

__all__ = ["Rebuilt", "Told", "audit_weights", "lineage"]

Verdict = Literal["equal", "different", "not comparable", "another job", "no job", "not made"]
_FAULTS: Final = frozenset({"different", "another job", "no job"})


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one version. `largest` is the largest absolute difference of any weight of the
    model under it, where the bits differ.
    """

    version: str
    parent: str
    verdict: Verdict
    why: str = ""
    recorded: str = ""
    rebuilt: str = ""
    largest: float | None = None
    seconds: float = 0.0

    @property
    def is_fault(self) -> bool:
        """Tell whether the ledger, or what was made of it, is not what it was."""
        return self.verdict in _FAULTS

    @property
    def is_open(self) -> bool:
        """Tell whether this machine cannot say."""
        return not self.is_fault and self.verdict != "equal"


def lineage(rows: Iterable[PolicyRow], to: str) -> tuple[PolicyRow, ...]:
    """Return a version and what it grew from, the first one first.

    Raises:
        LookupError: it is not registered, or something that it grew from is not any more.
    """
    by_name = {row.name: row for row in rows}
    if to not in by_name:
        known = ", ".join(by_name) or "none"
        raise LookupError(f"{to} is no version of this run; there are: {known}")
    return tuple(reversed(list(_upwards(by_name, to))))


def _upwards(by_name: dict[str, PolicyRow], name: str) -> Iterator[PolicyRow]:
    while name != BASE:
        yield by_name[name]
        parent = by_name[name].parent
        if parent != BASE and parent not in by_name:
            raise LookupError(f"{name} grew from {parent}, which the registry has lost")
        name = parent


Told = Callable[[Rebuilt], None]
TrainerAs = Callable[[Determinants, Artifacts], Trainer]


class _Overlay:
    """The stack's artifacts to read; what is made again is kept here and goes nowhere."""

    def __init__(self, under: Artifacts) -> None:
        self._under = under
        self.made: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        name = sha256(data).hexdigest()
        self.made[name] = data
        return name

    async def get(self, sha256: str) -> bytes:
        return self.made[sha256] if sha256 in self.made else await self._under.get(sha256)


async def audit_weights(
    rows: Sequence[PolicyRow],
    remade: Iterable[Remade],
    artifacts: Artifacts,
    trainer: TrainerAs,
    told: Told,
) -> tuple[Rebuilt, ...]:
    """Make the versions of `rows` again, in order, and tell of each.

    `trainer` sets up the machine as determinants say: threads, processes and device are theirs.
    """
    by_name = {one.job.policy: one for one in remade}
    store, found = _Overlay(artifacts), []
    for row in rows:
        found.append(await _again(row, by_name.get(row.name), store, trainer))
        told(found[-1])
    return tuple(found)


async def _again(
    row: PolicyRow,
    made: Remade | None,
    store: _Overlay,
    trainer: TrainerAs,
) -> Rebuilt:
    about = Rebuilt(
        version=row.name, parent=row.parent, verdict="no job", recorded=row.adapter_sha256
    )
    if made is None or made.trained is None:
        why = "what the ledger holds leads to no update: a payload is gone, or was changed"
        return msgspec.structs.replace(about, why=why)
    if not made.same:
        why = "what the ledger holds leads to another job than the one that was trained"
        return msgspec.structs.replace(about, verdict="another job", why=why)
    try:
        trained = await trainer(made.trained.determinants, store).train(made.job)
    except (Poison, Transient) as error:
        return msgspec.structs.replace(about, verdict="not made", why=str(error))
    about = msgspec.structs.replace(
        about, rebuilt=trained.adapter_sha256, seconds=round(trained.seconds, 1)
    )
    return await _judged(about, row, made.trained, trained, store)


async def _judged(
    about: Rebuilt, row: PolicyRow, recorded: Trained, trained: Trained, store: _Overlay
) -> Rebuilt:
    ours = (trained.adapter_sha256, trained.optimizer_sha256)
    if ours == (row.adapter_sha256, row.optimizer_sha256):
        return msgspec.structs.replace(about, verdict="equal")
    excuse = _excuse(recorded.determinants, trained.determinants)
    about = msgspec.structs.replace(
        about,
        verdict="not comparable" if excuse else "different",
        why=excuse or "the bits differ",
    )
    try:
        largest = await _largest(row.adapter_sha256, trained.adapter_sha256, store)
    except (LookupError, ValueError) as error:
        return msgspec.structs.replace(about, why=f"{about.why}; how far is not known: {error}")
    return msgspec.structs.replace(about, largest=largest)


def _excuse(recorded: Determinants, now: Determinants) -> str:
    """Say why bits may differ; empty where they may not."""
    if apart := _apart(recorded, now):
        return f"it was made with another {', another '.join(apart)}"
    return "" if now.device == "cpu" else "a GPU adds in no fixed order"


def _apart(one: Determinants, other: Determinants) -> list[str]:
    flat, others = _flat(one), _flat(other)
    return sorted(name for name in flat | others if flat.get(name) != others.get(name))


def _flat(determinants: Determinants) -> dict[str, object]:
    found = msgspec.structs.asdict(determinants)
    return {**found.pop("builds"), **found}


async def _largest(recorded: str, made: str, store: _Overlay) -> float:
    """Return the largest difference between any weight of two versions."""
    packed = [await store.get(recorded), await store.get(made)]
    with tempfile.TemporaryDirectory(prefix="mia-weights-") as name:
        one, other = (_opened(Path(name) / str(n), data) for n, data in enumerate(packed))
        largest: float = weights_apart(one, other)["largest"]
    return largest


def _opened(folder: Path, packed: bytes) -> Adapter | Checkpoint:
    folder.mkdir()
    for name, data in unpack(packed).items():
        (folder / name).write_bytes(data)
    return opened(folder)
