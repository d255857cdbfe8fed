"""The log tells where topics end and how far their groups are, without a subscription."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from consumers.runner.kafka_log import KafkaLog
from consumers.runner.log import LogUnavailable
from mia_events import topics
from storage.ports import TopicState

_THERE = frozenset({topics.PLAN, topics.JUDGE})


@pytest.fixture
async def log(bootstrap_servers: str, topic_prefix: str) -> AsyncIterator[KafkaLog]:
    """Give a log with topics of its own."""
    log = KafkaLog({"bootstrap_servers": bootstrap_servers}, prefix=topic_prefix)
    await log.ensure_topics(sorted(_THERE), partitions=2)
    yield log
    await log.close()


async def _states(log: KafkaLog, *names: str) -> Sequence[TopicState]:
    """Ask as a sweeper does: again while a new broker still makes the place for its groups, or has
    not heard from its controller that there are such topics.
    """
    while True:
        try:
            states = await log.states({name: topics.group_of(name) for name in names})
        except LogUnavailable:
            states = ()
        if _THERE & set(names) <= {state.topic for state in states}:
            return states
        await asyncio.sleep(0.2)


async def test_ends_and_committed_offsets_are_known(log: KafkaLog) -> None:
    """What was sent moves an end; nothing was committed yet."""
    sent = await (await log.send(topics.PLAN, key=b"k", value=b"{}"))
    states = await _states(log, topics.PLAN)
    ends = {0: 0, 1: 0} | {sent.partition: 1}
    assert sorted(states, key=lambda state: state.partition) == [
        TopicState(topics.PLAN, number, -1, ends[number]) for number in (0, 1)
    ]


async def test_a_topic_that_is_missing_is_left_out(log: KafkaLog) -> None:
    """The others are told all the same."""
    states = await _states(log, *topics.COMMANDS)
    assert _THERE == {state.topic for state in states}
