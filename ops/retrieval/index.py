"""An index over a corpus: built once, kept beside the state, used again while nothing changed.

Its folder is named by a digest of all that it depends on. It is written aside and renamed when it
is whole; a build that was killed goes on where its last finished part ended.
"""

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ops.embedded.state import write_atomically
from ops.errors import Refused
from ops.retrieval.dense import Dense, Embed, build_dense
from ops.retrieval.lexical import Lexical, build_lexical
from ops.retrieval.passages import Corpus, Passage, Rejected
from ops.retrieval.ranking import fused
from ops.retrieval.store import PassageStore, write_store

__all__ = ["Facts", "Found", "Index", "Progress", "prepare_index"]

#: Raise it when the files of an index change their form or their contents.
_FORMAT: Final = 1
_FACTS: Final = "index.json"
_LEXICAL: Final = "bm25"
_WORDS_DONE: Final = "words.json"
_DRAFT: Final = "draft-"
#: How deep each ranking is read before two are fused.
_DEPTH: Final = 100
_SHOWN: Final = 5


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an index was made of, and in how many seconds.

    `reasons` say why the first of the `skipped` rows were left out. `embedder` names the model of
    its vectors; empty without any. `sizes` are the bytes of each file.
    """

    corpus_sha256: str
    passages: int
    skipped: int
    reasons: tuple[str, ...] = ()
    embedder: str = ""
    seconds: float = 0.0
    sizes: dict[str, int] = {}


class Found(msgspec.Struct, frozen=True):
    """A passage that was found, with its score in the ranking it was found by."""

    passage: Passage
    score: float


Progress = Callable[[str], None]


class Index:
    """Searches an index that is whole."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder, self.facts = folder, facts
        self._store = PassageStore(folder)
        self._lexical = Lexical(folder / _LEXICAL)
        self._dense = Dense(folder, facts.passages) if facts.embedder else None

    def search(
        self, query: str, count: int, vector: npt.NDArray[np.float32] | None = None
    ) -> list[Found]:
        """Return the best passages: by their words, or with `vector` by words and meaning."""
        if self._dense is None or vector is None:
            ranking = self._lexical.search(query, count)
        else:
            depth = max(count, _DEPTH)
            by_words = self._lexical.search(query, depth)
            ranking = fused([by_words, self._dense.search(vector, depth)], count)
        return [Found(self._store[row], score) for row, score in ranking]


async def prepare_index(
    corpus: Corpus, root: Path, told: Progress, *, embed: Embed | None = None, embedder: str = ""
) -> Index:
    """Open the index of a corpus below the folder `root`; build it first where there is none.

    `embed` with its model's name `embedder` adds vectors. `told` hears what is being done.

    Raises:
        Refused: there is no passage, or the corpus changed while it was read.
    """
    told("reading passages")
    digest = await asyncio.to_thread(corpus.digest)
    folder = root / _name(digest, embedder)
    async with _held(root, told):
        facts = _facts(folder)
        if facts is None:
            shutil.rmtree(folder, ignore_errors=True)
            draft = root / f"{_DRAFT}{folder.name}"
            facts = await _build(corpus, digest, draft, told, embed, embedder)
            draft.rename(folder)
            _sync(root)
        _remove_others(root, folder)
        return await asyncio.to_thread(Index, folder, facts)


def _name(digest: str, embedder: str) -> str:
    return sha256(f"{_FORMAT}\n{digest}\n{embedder}".encode()).hexdigest()[:24]


def _facts(folder: Path, name: str = _FACTS) -> Facts | None:
    """Return the facts of a whole index; None when it is not there, or files were cut off."""
    try:
        facts = msgspec.json.decode((folder / name).read_bytes(), type=Facts)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return facts if _sizes(folder).items() >= facts.sizes.items() else None


async def _build(
    corpus: Corpus, digest: str, draft: Path, told: Progress, embed: Embed | None, embedder: str
) -> Facts:
    began = time.monotonic()
    facts = _facts(draft, _WORDS_DONE)
    if facts is None:
        shutil.rmtree(draft, ignore_errors=True)
        facts = await asyncio.to_thread(_by_words, corpus, digest, draft, told)
        await asyncio.to_thread(_save, draft, _WORDS_DONE, facts)
    if embed is not None:
        store = PassageStore(draft)
        await build_dense(
            draft, store, embed, lambda row: told(f"embedding passages {_share(row, len(store))}")
        )
        store.close()
    facts = msgspec.structs.replace(facts, embedder=embedder, seconds=time.monotonic() - began)
    await asyncio.to_thread(_save, draft, _FACTS, facts)
    return facts


def _by_words(corpus: Corpus, digest: str, draft: Path, told: Progress) -> Facts:
    draft.mkdir()
    skipped: list[Rejected] = []
    passages = corpus.read(skipped.append, _counting(corpus.bytes, told))
    build_lexical(draft / _LEXICAL, _texts(write_store(draft, passages), skipped, told))
    if corpus.digest() != digest:
        raise Refused(f"{corpus.root} changed while it was read", "Start again when it is whole.")
    store = PassageStore(draft)
    store.close()
    return Facts(
        corpus_sha256=digest,
        passages=len(store),
        skipped=len(skipped),
        reasons=tuple(f"{one.where}: {one.reason}" for one in skipped[:_SHOWN]),
    )


def _texts(
    passages: Iterable[Passage], skipped: Sequence[Rejected], told: Progress
) -> Iterator[str]:
    passage = None
    for passage in passages:
        yield passage.contents
    if passage is None:
        why = f": {skipped[0].where}: {skipped[0].reason}" if skipped else ""
        raise Refused(f"there is no passage in retrieval.passages{why}", "Correct the rows.")
    told("indexing words")


def _counting(total: int, told: Progress) -> Callable[[int], None]:
    """Return a function that is told bytes as they are read, and tells of every twentieth."""
    read, shown = 0, ""

    def consumed(size: int) -> None:
        nonlocal read, shown
        read += size
        if (share := _share(read, total)) != shown:
            shown = share
            told(f"reading passages {share}")

    return consumed


def _share(done: int, total: int) -> str:
    return f"{5 * (20 * done // max(total, 1))} %"


@asynccontextmanager
async def _held(root: Path, told: Progress) -> AsyncIterator[None]:
    """Hold the folder: one process builds, others wait and use what it built."""
    os.makedirs(root, mode=0o700, exist_ok=True)  # noqa: PTH103 - a moment, as is the next line
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told("waiting for another process that builds the index")
            await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _save(folder: Path, name: str, facts: Facts) -> None:
    """Write what was done so far after everything it speaks of is on the disk."""
    facts = msgspec.structs.replace(facts, sizes=_sizes(folder))
    for path in folder.rglob("*"):
        _sync(path)
    write_atomically(folder / name, msgspec.json.encode(facts))
    _sync(folder / name)
    _sync(folder)


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {_FACTS, _WORDS_DONE}
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_others(root: Path, kept: Path) -> None:
    """Delete indexes of before; a process that has one open reads on in what it mapped."""
    for path in root.iterdir():
        if path.is_dir() and path != kept:
            shutil.rmtree(path)
