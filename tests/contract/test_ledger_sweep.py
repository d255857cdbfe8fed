"""What has to be sent again, and what must not be."""

import asyncio
from uuid import uuid4

from schemas import events as ev
from storage.ports import DeadLetterRow, Sent, TopicState
from tests.contract.workbench import Workbench


def _plan(committed: int, end: int) -> list[TopicState]:
    return [TopicState(topic="mia.plan", partition=0, committed=committed, end=end)]


async def _swept(workbench: Workbench, states: list[TopicState], grace: float = 0.0) -> list[str]:
    return [e.type for e in await workbench.ledger.unsent(states, grace_s=grace, limit=10)]


async def test_a_command_that_was_never_sent_is_found_after_the_grace(
    workbench: Workbench,
) -> None:
    """Its publisher gets the grace; whoever takes it over gets it again."""
    await workbench.run(questions=1)
    assert [] == await _swept(workbench, _plan(0, 0), grace=60.0)
    await asyncio.sleep(0.02)
    assert ["question.opened"] == await _swept(workbench, _plan(0, 0))
    assert [] == await _swept(workbench, _plan(0, 0), grace=60.0)


async def test_a_sent_command_that_still_waits_in_the_topic_is_left_alone(
    workbench: Workbench,
) -> None:
    """The group has not passed it and it is still there: no republish storm under lag."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    await asyncio.sleep(0.02)
    assert [] == await _swept(workbench, _plan(-1, 8))
    assert [] == await _swept(workbench, _plan(7, 8))


async def test_a_command_that_the_group_has_passed_is_sent_again(workbench: Workbench) -> None:
    """Handed out, and nobody holds it: its worker died."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    assert ["question.opened"] == await _swept(workbench, _plan(8, 8))


async def test_a_command_that_the_topic_lost_is_sent_again(workbench: Workbench) -> None:
    """The end of the partition lies before it."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    await asyncio.sleep(0.02)
    assert ["question.opened"] == await _swept(workbench, _plan(-1, 7))


async def test_a_record_that_is_newer_than_what_was_read_of_the_topic_is_not_lost(
    workbench: Workbench,
) -> None:
    """Within the grace an end before the record only says that the end was read first."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    assert [] == await _swept(workbench, _plan(-1, 7), grace=60.0)


async def test_a_mark_for_an_older_command_is_ignored(workbench: Workbench) -> None:
    """A late acknowledgement does not say that the next command was sent."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    (rollout,) = await workbench.fan_out(question, 1)
    await workbench.plan(rollout)
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    await asyncio.sleep(0.02)
    assert ["question.planned"] == await _swept(workbench, _plan(0, 100))


async def test_nothing_is_sent_again_while_a_claim_lives(workbench: Workbench) -> None:
    """Somebody works on it; when the lease is over it is swept."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    await workbench.claimed(question, lease_s=0.5)
    assert [] == await _swept(workbench, _plan(8, 8))
    await asyncio.sleep(0.6)
    assert ["question.opened"] == await _swept(workbench, _plan(8, 8))


async def test_a_command_that_backs_off_is_swept_when_it_is_due(workbench: Workbench) -> None:
    """A release with a delay takes the place of the Kafka copy, which is gone."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.ledger.mark_sent([Sent(stream=question, version=2, partition=0, offset=7)])
    held = await workbench.claimed(question)
    await workbench.ledger.release(question, held.claim, delay_s=0.5, failed=True)
    assert [] == await _swept(workbench, _plan(8, 8))
    await asyncio.sleep(0.6)
    assert ["question.opened"] == await _swept(workbench, _plan(8, 8))


async def test_nothing_of_a_paused_run_is_sent(workbench: Workbench) -> None:
    """Resume republishes."""
    run = await workbench.run(questions=1)
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.pause(view.name)
    await asyncio.sleep(0.02)
    assert [] == await _swept(workbench, _plan(0, 0))
    await workbench.ports.runs.resume(view.name)
    assert ["question.opened"] == await _swept(workbench, _plan(0, 0))


async def test_topics_that_were_not_looked_at_are_not_swept(workbench: Workbench) -> None:
    """A sweeper speaks only for the topics whose state it read."""
    await workbench.run(questions=1)
    await asyncio.sleep(0.02)
    states = [TopicState(topic="mia.judge", partition=0, committed=0, end=0)]
    assert [] == await _swept(workbench, states)


async def test_a_stream_that_waits_is_not_swept(workbench: Workbench) -> None:
    """The rollout's command is found, its waiting question is not."""
    run = await workbench.run(questions=1)
    await workbench.fan_out(await workbench.question(run, "0"), 1)
    await asyncio.sleep(0.02)
    assert ["rollout.opened"] == await _swept(workbench, _plan(0, 0))


async def test_the_sweep_is_bounded(workbench: Workbench) -> None:
    """At most `limit` commands at a time."""
    await workbench.run(questions=3)
    await asyncio.sleep(0.02)
    first = await workbench.ledger.unsent(_plan(0, 0), grace_s=0.0, limit=2)
    assert 2 == len(first)


async def test_a_dead_letter_is_recorded_once_and_leaves_without_its_bytes(
    workbench: Workbench,
) -> None:
    """The fact names class and origin and the digest; a repeat says nothing."""
    run = await workbench.run(questions=1)
    letter = DeadLetterRow(
        id=uuid4(),
        run_no=run,
        error_class="Poison",
        message="cannot",
        origin="mia.plan",
        record=b"secret bytes",
        headers=(("h", b"\x00\xff"),),
        attempts=3,
    )
    (fact,) = await workbench.ledger.dead_letter(letter)
    assert ("dead_letter", "mia.dead-letter", True) == (fact.type, fact.topic, fact.outbound)
    assert b"secret" not in fact.body
    assert () == await workbench.ledger.dead_letter(letter)
    assert [fact.id] == [event.id for event in await workbench.ports.events(letter.id)]


async def test_facts_are_taken_up_again_until_they_are_acknowledged(workbench: Workbench) -> None:
    """An answer that the broker never had is found by a sweeper; one that it has is not."""
    run = await workbench.run(questions=2)
    answers = []
    for row in "01":
        question = await workbench.question(run, row)
        (rollout,) = await workbench.fan_out(question, 1)
        await workbench.plan(rollout)
        await workbench.choose(question, [rollout])
        await workbench.propose(rollout)
        answers.append((await workbench.answer(question, [rollout])).emitted[0])
    await workbench.ledger.acknowledge([answers[0].id])
    assert [] == await _facts(workbench)
    await asyncio.sleep(2.1)
    assert [answers[1]] == await _facts(workbench)
    assert [] == await _facts(workbench)
    assert isinstance(answers[1].body, bytes)
    assert ev.event_type(ev.QuestionAnswered(answer="a", rollout=0)) == answers[1].type


async def _facts(workbench: Workbench) -> list[object]:
    return list(await workbench.ledger.unsent([], grace_s=60.0, limit=10))
