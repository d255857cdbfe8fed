"""Questions for a scripted model, and a client that sends them whatever happens to Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

__all__ = ["SOURCE", "Asked", "cities", "send"]

SOURCE: Final = "cities"
_AGAIN_S = 0.5


@dataclass(frozen=True)
class Asked:
    """A question as a client sends it, with the label that goes to the sealed store."""

    row: int
    text: str
    label: str
    documents: tuple[tuple[str, str], ...] = ()

    def record(self, run: str) -> bytes:
        """Return the record for `mia.question`."""
        passages = [{"title": title, "text": text} for title, text in self.documents]
        return json.dumps(
            {
                "run": run,
                "question": self.text,
                "source": SOURCE,
                "row": str(self.row),
                "position": self.row,
                "documents": passages,
            }
        ).encode()


def cities(count: int, words: str = "") -> list[Asked]:
    """Return two-hop questions over invented cities; `words` are instructions to the script."""
    return [_city(row, words) for row in range(count)]


def _city(row: int, words: str) -> Asked:
    land = f"Land {row % 7}"
    passages = (
        (f"City {row}", f"City {row} was founded by Person {row}."),
        (f"Person {row}", f"Person {row} was born in {land}."),
        (f"Lake {row}", f"Lake {row} lies near City {row} and is cold."),
    )
    # The words in brackets tell the script which answer half of its executors find.
    text = f"Where was the founder of City {row} born? [[answer {land}]]{words}"
    return Asked(row, text, land, passages)


async def send(
    kafka: Mapping[str, Any], topic: str, records: Sequence[tuple[bytes, bytes]]
) -> None:
    """Send (key, value) pairs until each is acknowledged, with a new producer after an error."""
    left = list(records)
    while left:
        try:
            left = await _send(kafka, topic, left)
        except (KafkaError, OSError, TimeoutError):
            await asyncio.sleep(_AGAIN_S)


async def _send(
    kafka: Mapping[str, Any], topic: str, records: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Try each record once; those that were not acknowledged."""
    producer = AIOKafkaProducer(
        **kafka,
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=60_000,
        max_request_size=8 * 2**20,
    )
    try:
        await producer.start()
        sent = [await producer.send(topic, value, key=key) for key, value in records]
        await producer.flush()
        ends = await asyncio.gather(*sent, return_exceptions=True)
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await producer.stop()
    return [r for r, end in zip(records, ends, strict=True) if isinstance(end, BaseException)]
