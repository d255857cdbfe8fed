"""The way past the queue: what somebody is waiting for starts even where everything is busy.

The log hands commands out in its own order, and a busy worker stops reading it. So a worker that is
crowded asks the ledger itself for the commands of urgent questions, and starts them in slots kept
for that. Nothing about a claim is different: whoever comes second gets nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from consumers.runner.intake import Offer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.runner.dispatch import Dispatcher
    from storage.ports import Ledger

_log = structlog.get_logger(__name__)
#: An urgent step of a crowded worker waits for half of this, on average.
_LOOK_EVERY_S: Final = 0.2
#: No partition: the offer was never a record, and acknowledges none.
_NOWHERE: Final = -1


class Express:
    """Looks for urgent commands of some topics, for one dispatcher."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, topics: Sequence[str]) -> None:
        self._ledger, self._dispatcher, self._topics = ledger, dispatcher, tuple(topics)

    async def run(self) -> None:
        """Look for ever; without a crowd the log is faster."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            room = self._dispatcher.urgent_room()
            if not self._dispatcher.crowded or room <= 0:
                continue
            try:
                await self._offer(room)
            except ConnectionError as error:
                _log.warning("urgent commands wait for the database", error=str(error))

    async def _offer(self, room: int) -> None:
        for found in await self._ledger.urgent(self._topics, limit=room):
            self._dispatcher.offer_urgent(
                Offer(found.stream, found.version, found.topic, _NOWHERE, 0, 0)
            )


__all__ = ["Express"]
