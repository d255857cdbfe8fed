"""The event log on Apache Kafka, by aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.partitioner import murmur2

from consumers.runner.log import LogUnavailable, Place, Record, Revoked
from storage.ports import TopicState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_log = structlog.get_logger(__name__)
_STATES_S = 15.0


@lru_cache(maxsize=100_000)
def _hash_of(key: bytes) -> int:
    """Kafka's hash of a key; a stream's key comes back at every step."""
    return int(murmur2(key) & 0x7FFFFFFF)


class KafkaSubscription:
    """One aiokafka consumer. It only fetches: work happens elsewhere, so the poll interval
    holds.
    """

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def poll(self, *, timeout_s: float, limit: int) -> Sequence[Record]:
        """See the port."""
        try:
            batches = await self._consumer.getmany(
                timeout_ms=int(timeout_s * 1000), max_records=limit
            )
        except KafkaError as error:
            raise LogUnavailable(str(error)) from error
        return [
            Record(
                m.topic, m.partition, m.offset, m.key, m.value or b"", tuple(m.headers), m.timestamp
            )
            for batch in batches.values()
            for m in batch
        ]

    def assignment(self) -> frozenset[tuple[str, int]]:
        """See the port."""
        return frozenset((tp.topic, tp.partition) for tp in self._consumer.assignment())

    def pause(self, partitions: frozenset[tuple[str, int]]) -> None:
        """See the port."""
        self._consumer.pause(*self._owned(partitions))

    def resume(self, partitions: frozenset[tuple[str, int]]) -> None:
        """See the port."""
        self._consumer.resume(*self._owned(partitions))

    def _owned(self, partitions: frozenset[tuple[str, int]]) -> list[TopicPartition]:
        return [TopicPartition(*tp) for tp in partitions & self.assignment()]

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """See the port."""
        owned = self.assignment()
        mine = {TopicPartition(*tp): offset for tp, offset in offsets.items() if tp in owned}
        if not mine:
            return
        with contextlib.suppress(KafkaError):  # a hint: the ledger decides what was done
            await self._consumer.commit(mine)

    async def close(self) -> None:
        """See the port."""
        with contextlib.suppress(KafkaError):
            await self._consumer.stop()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # untyped base
    """Tells the runner what it lost. aiokafka swallows what is raised here, so nothing is."""

    def __init__(self, revoked: Revoked) -> None:
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self._revoked(frozenset((tp.topic, tp.partition) for tp in revoked))

    async def on_partitions_assigned(self, assigned: Any) -> None:
        _log.debug("partitions assigned", count=len(assigned))


class KafkaLog:
    """The `EventLog` port. `prefix` is put before topics and groups, so that runs of tests do not
    meet.

    `client` holds aiokafka's connection settings (bootstrap_servers, security_protocol, …).
    """

    def __init__(
        self, client: Mapping[str, Any], *, prefix: str = "", session_timeout_s: float = 10.0
    ) -> None:
        self._client = dict(client)
        self._prefix = prefix
        self._session_ms = int(session_timeout_s * 1000)
        self._producer: AIOKafkaProducer | None = None
        self._producer_lock = asyncio.Lock()
        self._admin: AIOKafkaAdminClient | None = None
        self._offsets: AIOKafkaConsumer | None = None
        self._partitions: dict[str, int] = {}
        self._dropping: asyncio.Future[None] | None = None

    async def ensure_topics(
        self, names: Sequence[str], *, partitions: int, replication: int = 1
    ) -> list[str]:
        """Make the topics that are missing; the names made. Raises `LogUnavailable`."""
        try:
            admin = await self._admin_client()
            there = set(await admin.list_topics())
            missing = [name for name in names if self._prefix + name not in there]
            if missing:
                response = await admin.create_topics(
                    [NewTopic(self._prefix + name, partitions, replication) for name in missing]
                )
                for _, code, *_rest in response.topic_errors:
                    error = for_code(code)
                    if code and error is not TopicAlreadyExistsError:
                        raise LogUnavailable(error.__name__)
        except (KafkaError, OSError) as error:
            await self._drop_admin()
            raise LogUnavailable(str(error)) from error
        self._partitions.update(dict.fromkeys(missing, partitions))
        return missing

    async def subscribe(self, topic: str, group: str, *, revoked: Revoked) -> KafkaSubscription:
        """See the port."""
        consumer = AIOKafkaConsumer(
            **self._client,
            group_id=self._prefix + group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=max(200, self._session_ms // 5),
            rebalance_timeout_ms=self._session_ms,
            max_poll_interval_ms=300_000,
            max_poll_records=1000,
            metadata_max_age_ms=5_000,  # how long a topic that was made anew goes unnoticed
            fetch_max_wait_ms=500,
        )
        consumer.subscribe([self._prefix + topic], listener=_Listener(revoked))
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise LogUnavailable(str(error)) from error
        return KafkaSubscription(consumer)

    async def send(
        self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> asyncio.Future[Place]:
        """See the port. Raises `LogUnavailable`; after an error the producer is made anew."""
        try:
            producer = await self._started_producer()
            future = await producer.send(
                self._prefix + topic,
                value=value,
                key=key,
                headers=list(headers) or None,
                partition=self.partition_of(topic, key),
            )
        except (KafkaError, OSError) as error:
            await self._drop_producer()
            raise LogUnavailable(str(error)) from error
        return self._acknowledged(future)

    def _acknowledged(self, metadata: asyncio.Future[Any]) -> asyncio.Future[Place]:
        """The place of a record once the broker has it; an error makes the producer anew."""
        place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()

        def done(answered: asyncio.Future[Any]) -> None:
            if place.done():
                return
            error = None if answered.cancelled() else answered.exception()
            if answered.cancelled() or error is not None:
                self._dropping = asyncio.ensure_future(self._drop_producer())
                place.set_exception(LogUnavailable(str(error or "cancelled")))
                place.exception()  # whoever does not ask leaves it to the sweeper
            else:
                sent = answered.result()
                place.set_result(Place(sent.partition, sent.offset))

        metadata.add_done_callback(done)
        return place

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """See the port. Kafka's default partitioner, so any client puts a key in the same place."""
        count = self._partitions.get(topic)
        if count is None:
            known = (
                self._producer.client.cluster.partitions_for_topic(self._prefix + topic)
                if (self._producer is not None)
                else None
            )
            if not known:
                return None
            count = self._partitions[topic] = len(known)
        return _hash_of(key) % count

    async def states(self, groups: Mapping[str, str]) -> Sequence[TopicState]:
        """See the port."""
        try:
            async with asyncio.timeout(_STATES_S):
                return await self._states(groups)
        except (KafkaError, OSError, TimeoutError) as error:
            await self._drop_admin()
            raise LogUnavailable(str(error)) from error

    async def _states(self, groups: Mapping[str, str]) -> list[TopicState]:
        admin = await self._admin_client()
        places = await self._places(admin, groups)
        ends = await (await self._offsets_consumer()).end_offsets(
            [tp for tps in places.values() for tp in tps]
        )
        found: list[TopicState] = []
        for topic, tps in places.items():
            group = self._prefix + groups[topic]
            committed = await admin.list_consumer_group_offsets(group, partitions=tps)
            found += [
                TopicState(
                    topic, tp.partition, committed[tp].offset if tp in committed else -1, ends[tp]
                )
                for tp in tps
            ]
        return found

    async def _places(
        self, admin: AIOKafkaAdminClient, names: Iterable[str]
    ) -> dict[str, list[TopicPartition]]:
        """The partitions of those topics that there are. The broker is asked: a consumer that has
        no subscription knows of none.
        """
        described = await admin.describe_topics([self._prefix + name for name in names])
        return {
            topic["topic"].removeprefix(self._prefix): [
                TopicPartition(topic["topic"], partition["partition"])
                for partition in topic["partitions"]
            ]
            for topic in described
            if topic["partitions"]
        }

    async def flush(self) -> None:
        """See the port."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError):
                await self._producer.flush()

    async def close(self) -> None:
        """See the port."""
        await self._drop_producer()
        await self._drop_admin()

    async def _started_producer(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._producer_lock:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._client,
                    acks="all",
                    enable_idempotence=True,
                    request_timeout_ms=10_000,
                    max_batch_size=128 * 1024,
                    max_request_size=4 * 1024 * 1024,
                    metadata_max_age_ms=30_000,
                )
                try:
                    await producer.start()
                except (KafkaError, OSError):
                    await producer.stop()
                    raise
                self._producer = producer
        return self._producer

    async def _admin_client(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            admin = AIOKafkaAdminClient(**self._client, request_timeout_ms=10_000)
            await admin.start()
            self._admin = admin
        return self._admin

    async def _offsets_consumer(self) -> AIOKafkaConsumer:
        if self._offsets is None:
            consumer = AIOKafkaConsumer(
                **self._client, enable_auto_commit=False, metadata_max_age_ms=10_000
            )
            await consumer.start()
            self._offsets = consumer
        return self._offsets

    async def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)

    async def _drop_admin(self) -> None:
        admin, self._admin = self._admin, None
        consumer, self._offsets = self._offsets, None
        with contextlib.suppress(KafkaError, OSError):
            if admin is not None:
                await admin.close()
            if consumer is not None:
                await consumer.stop()


__all__ = ["KafkaLog", "KafkaSubscription"]
