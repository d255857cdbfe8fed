"""Kafka and Postgres answer, and hold what was written through kill -9."""

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.stack import StackThread

pytestmark = pytest.mark.integration


async def test_a_record_goes_through_kafka(bootstrap_servers: str, topic_prefix: str) -> None:
    """What is produced is consumed, from a topic made for this test."""
    topic = f"{topic_prefix}round-trip"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    await producer.send_and_wait(topic, b"value", key=b"key")
    await producer.stop()
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    record = await consumer.getone()
    await consumer.stop()
    assert (b"key", b"value") == (record.key, record.value)


async def test_postgres_is_18_with_pgvector(database: str) -> None:
    """The wheel's Postgres has pgvector's half vectors."""
    connection = await asyncpg.connect(database)
    await connection.execute("create extension vector")
    version = await connection.fetchval("show server_version")
    distance = await connection.fetchval("select '[1,0]'::halfvec <=> '[0,1]'::halfvec")
    await connection.close()
    assert version.startswith("18.")
    assert distance == pytest.approx(1.0)


async def test_no_one_gets_in_without_the_password(stack: StackThread) -> None:
    """SCRAM is asked of every connection, loopback or not."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(stack.admin_dsn.replace(stack.stack.admin_password, "wrong"))
