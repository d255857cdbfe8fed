"""What becomes of memories: which writes a generation consists of, which versions they make, and
which memories leave when there are too many.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from mia_events.steps import MemoryWrite
from schemas.events import MemoryCandidate, MemoryImported, MemoryUse, QuestionConsolidated

_TENANT: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version under a key. `text` is None when it is no longer in use; `uses` and `wins`
    are the record that the memory was imported with.
    """

    version: int
    text: str | None
    from_gen: int
    uses: int = 0
    wins: int = 0


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A memory version to insert: the first of its key, or the one after the standing one, whose
    imported record of `uses` and `wins` it keeps.
    """

    version: int
    candidate: MemoryCandidate
    causes: tuple[UUID, ...]
    uses: int
    wins: int


def scope_of(run: UUID, tenant: str, shared: str | None) -> str:
    """Where a run's memories are: in a scope of its own, or in one that runs of its tenant share.

    Scopes of two tenants never have the same name, whatever they are called. Raises `ValueError`
    for a tenant's name that is none.
    """
    if not _TENANT.fullmatch(tenant):
        message = f"{tenant!r} is no tenant: use up to 63 of a-z, 0-9, _ and -, a letter first"
        raise ValueError(message)
    return f"run:{run}" if shared is None else f"{tenant}/{shared}"


def live_write(
    scope: str, question: UUID, left: QuestionConsolidated, *, cap: int | None
) -> MemoryWrite | None:
    """What a question writes at its end in live mode; None when it left nothing."""
    if not (left.memories or left.uses):
        return None
    return MemoryWrite(
        scope=scope,
        generation=None,
        candidates=tuple((question, candidate) for candidate in left.memories),
        uses=tuple((question, use) for use in left.uses),
        cap=cap,
    )


def batch_write(
    scope: str,
    generation: int,
    questions: Iterable[tuple[UUID, QuestionConsolidated]],
    *,
    cap: int | None,
) -> MemoryWrite:
    """What a batch writes as one generation; `questions` come by position.

    Of two memories with one key the one from the later question stays.
    """
    candidates: dict[str, tuple[UUID, MemoryCandidate]] = {}
    uses: list[tuple[UUID, MemoryUse]] = []
    for question, left in questions:
        for candidate in left.memories:
            candidates.pop(candidate.dedupe_key, None)
            candidates[candidate.dedupe_key] = (question, candidate)
        uses += [(question, use) for use in left.uses]
    return MemoryWrite(
        scope=scope,
        generation=generation,
        candidates=tuple(candidates.values()),
        uses=tuple(uses),
        cap=cap,
    )


def imported_write(
    part: MemoryImported, event: UUID, *, generation: int | None, cap: int | None
) -> MemoryWrite:
    """What an import writes: its own event is the cause of each memory."""
    return MemoryWrite(
        scope=part.scope,
        generation=generation,
        candidates=tuple((event, candidate) for candidate in part.memories),
        uses=(),
        cap=cap,
    )


def dedupe_key(question: str, outcome: str) -> str:
    """SHA-256 (hex) of a question, whatever its letter case and spacing, with an outcome."""
    text = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return sha256(f"{text}\x1f{outcome}".encode()).hexdigest()


def better(new: str, old: str) -> bool:
    """Whether `new` replaces `old` under one key: the shorter workflow, in words, wins."""
    return len(new.split()) < len(old.split())


def merge(
    standing: Mapping[str, Standing],
    candidates: Iterable[tuple[UUID, MemoryCandidate]],
    generation: int,
) -> dict[str, Version]:
    """The versions that `generation` adds, by dedupe key.

    `candidates` come in order, each with its cause. Several under one key leave one version, and
    what began in this very generation stays: nothing is overwritten.
    """
    added: dict[str, Version] = {}
    for cause, candidate in candidates:
        key = candidate.dedupe_key
        old, new = standing.get(key), added.get(key)
        if new is not None:
            stays = candidate if better(candidate.text, new.candidate.text) else new.candidate
            added[key] = msgspec.structs.replace(new, candidate=stays, causes=(*new.causes, cause))
        elif old is None:
            added[key] = Version(
                version=1,
                candidate=candidate,
                causes=(cause,),
                uses=candidate.uses,
                wins=candidate.wins,
            )
        elif _replaces(candidate, old, generation):
            added[key] = Version(
                version=old.version + 1,
                candidate=candidate,
                causes=(cause,),
                uses=old.uses,
                wins=old.wins,
            )
    return added


def _replaces(candidate: MemoryCandidate, old: Standing, generation: int) -> bool:
    if old.text is None:
        return True
    return old.from_gen < generation and better(candidate.text, old.text)


def surplus(held: int, cap: int | None) -> int:
    """How many of `held` memories must leave a scope that keeps at most `cap`: when there are more,
    a tenth of the cap is made free at once, so that not every write has to look for the weakest.
    """
    if cap is None or held <= cap:
        return 0
    return held - (cap - cap // 10)


def strength(*, uses: int, wins: int, from_gen: int, key: str) -> tuple[float, int, str]:
    """Sorts memories by who leaves first: what lost more often than it won, then what was never
    used, the older version first.
    """
    return ((wins + 1) / (uses + 2), from_gen, key)


__all__ = [
    "Standing",
    "Version",
    "batch_write",
    "better",
    "dedupe_key",
    "imported_write",
    "live_write",
    "merge",
    "scope_of",
    "strength",
    "surplus",
]
