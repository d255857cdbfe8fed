"""What a process of the retrieval service must know, and how it opens its index."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from consumers.effects.model_client import Endpoint, ModelClient
from ops.retrieval.embedding import Embedding
from ops.retrieval.index import Index, prepare_index
from ops.retrieval.passages import find_corpus

__all__ = ["RetrievalConfig", "embedding_of", "open_index"]


class RetrievalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. Without an `embedder` the index has words only. May hold its key: it
    travels on standard input or in memory and is never logged.
    """

    passages: str
    folder: str
    top_k: int
    port: int = 0
    embedder: Endpoint | None = None
    model: str = ""


@asynccontextmanager
async def embedding_of(config: RetrievalConfig) -> AsyncIterator[Embedding | None]:
    """Connect the embedder, if there is to be one."""
    if config.embedder is None:
        yield None
        return
    async with ModelClient({"embedder": config.embedder}) as models:
        yield Embedding(models, config.model)


async def open_index(
    config: RetrievalConfig, embedding: Embedding | None, told: Callable[[str], None]
) -> Index:
    """Open the index, built before or now. Raises `Refused` when there can be none."""
    corpus, folder = find_corpus(Path(config.passages)), Path(config.folder)
    if embedding is None:
        return await prepare_index(corpus, folder, told)

    async def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return await embedding.patiently(texts, told)

    return await prepare_index(corpus, folder, told, embed=embed, embedder=embedding.model)
