"""Kafka and Postgres answer, and hold what was written through kill -9."""

import asyncio
import os
import shutil
from pathlib import Path

import asyncpg
import msgspec
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.embedded.postgres import Postgres, binaries
from ops.embedded.stack import EmbeddedStack, Endpoints
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from tests.support.stack import StackThread, new_home, small

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


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
async def test_root_keeps_postgres_and_its_data_in_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout under /root is closed to the account that Postgres runs as, and works."""
    package = binaries().parents[1]
    for part in package.parent.glob(f"{package.name}*"):  # its libraries lie beside it
        shutil.copytree(part, tmp_path / part.name, symlinks=True)
    programs = tmp_path / package.name / "pginstall" / "bin"
    monkeypatch.setattr("ops.embedded.postgres.binaries", lambda: programs)
    home = Home(tmp_path / "home")
    home.create()
    assert tmp_path.parent.stat().st_mode & 0o077 == 0
    postgres = Postgres(home, free_port(set()), small())
    account = postgres.account()
    assert account is not None
    assert account.reach
    supervisor = Supervisor(home, [postgres.spec()])
    try:
        await supervisor.start()
        process = psutil.Process(supervisor.child("postgres").pid)
        assert {account.uid} == set(process.uids())
    finally:
        await supervisor.stop()


async def test_a_wiped_kafka_is_empty_and_serves(topic_prefix: str) -> None:
    """All it held is gone; its address stays. Afterwards the other Java of this machine serves."""
    home = new_home()
    java = shutil.which("java")
    try:
        async with EmbeddedStack(home, small(), external=Endpoints(admin_dsn="none")) as stack:
            before = await _topics(stack.bootstrap_servers, f"{topic_prefix}a")
            await stack.wipe_kafka()
            after = await _topics(stack.bootstrap_servers, f"{topic_prefix}b")
        other = msgspec.structs.replace(small(), java=java or "")
        async with EmbeddedStack(home, other, external=Endpoints(admin_dsn="none")) as stack:
            again = await _topics(stack.bootstrap_servers, f"{topic_prefix}c")
    finally:
        shutil.rmtree(home)
    assert [f"{topic_prefix}a"] == before
    assert [f"{topic_prefix}b"] == after
    assert [f"{topic_prefix}b", f"{topic_prefix}c"] == again


async def _topics(bootstrap_servers: str, new: str) -> list[str]:
    """Create a topic, and return all."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(new, 1, 1)])
    found: list[str] = []
    for _ in range(300):  # a broker may tell of it a moment later
        found = sorted(await admin.list_topics())
        if new in found:
            break
        await asyncio.sleep(0.1)
    await admin.close()
    return found
