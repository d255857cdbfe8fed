"""Where producers put records: a topic behind an idempotent producer."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

__all__ = ["KafkaOutlet", "Outlet"]


class Outlet(Protocol):
    """Takes records for topics; `flush` returns once all are safe."""

    async def put(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand a record over; may return before it is safe."""
        ...

    async def flush(self) -> None:
        """Wait until every record handed over is acknowledged. Raises `ConnectionError`."""
        ...


class KafkaOutlet:
    """The `Outlet` on Kafka. `client` holds aiokafka's connection settings."""

    def __init__(self, client: Mapping[str, Any], *, prefix: str = "") -> None:
        self._client, self._prefix = dict(client), prefix
        self._pending: list[Any] = []

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            **self._client, acks="all", enable_idempotence=True, max_request_size=4 * 1024 * 1024
        )
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise ConnectionError(f"Kafka does not answer: {error}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def put(self, topic: str, key: bytes | None, value: bytes) -> None:
        """See the port."""
        try:
            future = await self._producer.send(self._prefix + topic, value=value, key=key)
        except KafkaError as error:
            raise ConnectionError(f"Kafka did not take a record: {error}") from error
        self._pending.append(future)

    async def flush(self) -> None:
        """See the port."""
        pending, self._pending = self._pending, []
        try:
            for future in pending:
                await future
        except KafkaError as error:
            raise ConnectionError(f"Kafka did not keep a record: {error}") from error
