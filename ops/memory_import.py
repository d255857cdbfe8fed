"""A memory file brought into a run's scope: read, embedded, ledgered and written in parts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from consumers.effects.model_client import ModelClient
from mia_events.effects import Embed
from mia_events.memories import better
from mia_events.steps import RunView
from ops.connected import Connected, home_of
from ops.errors import Refused
from ops.models import endpoints, ports_in_use
from producers.hotpot import BadRow
from producers.memory_file import read_memories
from schemas.events import MemoryCandidate, MemoryImported
from storage.postgres.memory import DIMENSIONS
from storage.postgres.memory_import import NotNow, import_part

__all__ = ["Imported", "embedding", "import_file"]

#: Memories of one event: with their vectors it stays below two megabytes.
_PART: Final = 200
_BATCH: Final = 64
_Vectors: TypeAlias = Sequence[tuple[float, ...]]
_Embedder: TypeAlias = Callable[[tuple[str, ...]], Awaitable[_Vectors]]


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file: `good` entries, of which `written` now and `known` from an earlier
    import; `repeated` ones said the same as another and were left out.
    """

    file: str
    good: int
    written: int
    known: int
    repeated: int
    bad: tuple[BadRow, ...]


async def import_file(at: Connected, run: RunView, file: Path) -> Imported:
    """Import into the run's scope. Raises `Refused`."""
    try:
        data = file.read_bytes()  # noqa: ASYNC240 - a command's own loop
        rows = list(read_memories(data, dimensions=DIMENSIONS))
    except (OSError, ValueError) as error:
        raise Refused(f"{file} cannot be imported: {error}", "See docs/memory.md.") from error
    found = [row for row in rows if isinstance(row, MemoryCandidate)]
    memories = _distinct(found)
    written = 0
    async with embedding(at, run) as embed:
        for number, start in enumerate(range(0, len(memories), _PART)):
            whole = await _with_vectors(memories[start : start + _PART], embed)
            part = MemoryImported(
                scope=run.scope,
                source=file.name,
                sha256=sha256(data).hexdigest(),
                part=number,
                memories=whole,
            )
            try:
                written += len(whole) if await import_part(at.ledger.pool, run, part) else 0
            except NotNow as error:
                raise Refused(str(error), "See `mia run list`.") from error
    return Imported(
        file=file.name,
        good=len(found),
        written=written,
        known=len(memories) - written,
        repeated=len(found) - len(memories),
        bad=tuple(row for row in rows if isinstance(row, BadRow)),
    )


def _distinct(found: Sequence[MemoryCandidate]) -> list[MemoryCandidate]:
    """One memory per key, in the order of the file: that with the shorter text."""
    kept: dict[str, MemoryCandidate] = {}
    for one in found:
        other = kept.get(one.dedupe_key)
        if other is None or better(one.text, other.text):
            kept[one.dedupe_key] = one
    return list(kept.values())


async def _with_vectors(
    memories: Sequence[MemoryCandidate], embed: _Embedder
) -> tuple[MemoryCandidate, ...]:
    bare = [one.question for one in memories if not one.vector]
    vectors: list[tuple[float, ...]] = []
    for start in range(0, len(bare), _BATCH):
        vectors += await embed(tuple(bare[start : start + _BATCH]))
    made = iter(vectors)
    return tuple(
        one if one.vector else msgspec.structs.replace(one, vector=next(made)) for one in memories
    )


@asynccontextmanager
async def embedding(at: Connected, run: RunView) -> AsyncIterator[_Embedder]:
    """Give what embeds texts with the run's embedder, looked for when it is first needed."""
    where = endpoints(at.settings, ports_in_use(home_of(at.settings)))
    served = {role: endpoint for role, endpoint in where.items() if role == "embedder"}
    async with ModelClient(served) as models:

        async def embed(texts: tuple[str, ...]) -> _Vectors:
            if not served:
                raise Refused("no embedder is served", "Start it (`mia up`), or set its base_url.")
            model = run.manifest.roles["embedder"].model
            vectors = (await models.embed(Embed(model=model, texts=texts))).vectors
            if any(len(vector) != DIMENSIONS for vector in vectors):
                raise Refused(
                    f"the embedder's vectors have {len(vectors[0])} dimensions, not {DIMENSIONS}",
                    "Name another one in models.embedder.",
                )
            return vectors

        yield embed
