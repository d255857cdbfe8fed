"""The embedder of the models' settings, as the index and its queries use it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from consumers.effects.model_client import ModelClient
from mia_events.effects import Embed
from mia_events.quoting import clean
from mia_events.steps import Late, Poison, Transient

__all__ = ["Embedding"]

#: An embedder refuses what exceeds its context: so much English is about 220 tokens, of 256.
_CHARACTERS: Final = 1_000
#: Fits in any script: a tokeniser makes hardly more than one token of a character.
_SAFE_CHARACTERS: Final = 240
_AGAIN_S: Final = 2.0
_FAULTS: Final = 8


class Embedding:
    """Unit vectors by the model called `model`."""

    def __init__(self, models: ModelClient, model: str) -> None:
        self._models, self.model = models, model

    async def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one row per text. Raises `Late` or `Transient` while the embedder is away."""
        try:
            return await self._embed(texts, _CHARACTERS)
        except Poison:  # one text is too long for the embedder's context
            return await self._embed(texts, _SAFE_CHARACTERS)

    async def patiently(
        self, texts: Sequence[str], told: Callable[[str], None]
    ) -> npt.NDArray[np.float32]:
        """Do as `vectors`, for work of hours: an embedder that is away is waited for."""
        faults = 0
        while True:
            try:
                return await self.vectors(texts)
            except Late as error:
                told(f"waiting for the embedder: {error}")
                await asyncio.sleep(error.delay_s)
            except Transient:
                faults += 1
                if faults == _FAULTS:
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _embed(self, texts: Sequence[str], limit: int) -> npt.NDArray[np.float32]:
        cut = tuple(clean(text)[:limit] for text in texts)
        found = await self._models.embed(Embed(model=self.model, texts=cut))
        return np.array(found.vectors, dtype=np.float32)
