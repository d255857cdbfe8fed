"""Admission, batches, generations, release, and the end of a run."""

import asyncio
from uuid import UUID

import msgspec
import pytest

from mia_events import ids
from mia_events.steps import Manifest, PolicyWrite
from schemas import events as ev
from schemas.envelope import decode_payload
from storage.ports import Emitted
from tests.contract.workbench import Workbench, new_question


def _opened(emitted: list[Emitted] | tuple[Emitted, ...]) -> list[ev.QuestionOpened]:
    payloads = [decode_payload(event.body) for event in emitted]
    return [payload for payload in payloads if isinstance(payload, ev.QuestionOpened)]


def _batches(lag: int, *, size: int = 2, **more: object) -> Manifest:
    return msgspec.convert({"mode": "batch", "batch_size": size, "lag": lag, **more}, type=Manifest)


async def _seal(workbench: Workbench, run: int, number: int) -> tuple[Emitted, ...]:
    learner = ids.learner_id((await workbench.ledger.run(run)).id)
    sealed = ev.LearnerSealed(number=number, generation=number + 1, training="none_configured")
    return (await workbench.step(learner, sealed)).emitted


async def _learner(workbench: Workbench, run: int) -> str:
    learner = ids.learner_id((await workbench.ledger.run(run)).id)
    return (await workbench.stand(learner)).status


async def test_a_question_is_accepted_once(workbench: Workbench) -> None:
    """The same id again is a duplicate, whatever the batch of records looked like."""
    run = await workbench.run()
    view = await workbench.ledger.run(run)
    questions = [new_question(view.id, row) for row in ("a", "b", "a")]
    accepted = await workbench.ledger.accept(run, questions)
    assert ("accepted", "accepted", "duplicate") == accepted.outcomes
    again = await workbench.ledger.accept(run, questions)
    assert ("duplicate",) * 3 == again.outcomes
    assert () == again.emitted


async def test_live_questions_open_at_once(workbench: Workbench) -> None:
    """Without batches there is no barrier; positions count up."""
    run = await workbench.run()
    opened = _opened(await workbench.accept(run, "a", "b"))
    assert [(0, None), (1, None)] == [(event.position, event.batch) for event in opened]


async def test_the_accepted_question_can_be_read(workbench: Workbench) -> None:
    """Text, identity and position come back; an unknown question is a LookupError."""
    run = await workbench.run(questions=1)
    view = await workbench.ledger.question(await workbench.question(run, "0"))
    assert ("question 0?", "s", "0", 0, 0) == (
        view.text, view.source, view.row, view.pass_no, view.position,
    )  # fmt: skip
    with pytest.raises(LookupError):
        await workbench.ledger.question(UUID(int=1))


async def test_runs_are_found_by_number_and_name(workbench: Workbench) -> None:
    """Both ways lead to the same run; unknown ones are a LookupError."""
    run = await workbench.run(Manifest(rollouts=3))
    view = await workbench.ledger.run(run)
    assert (view, "running") == await workbench.ledger.run_named(view.name)
    assert 3 == view.manifest.rollouts
    with pytest.raises(LookupError):
        await workbench.ledger.run(9999)
    with pytest.raises(LookupError):
        await workbench.ledger.run_named("nobody")


async def test_given_positions_are_kept_and_taken_once(workbench: Workbench) -> None:
    """The ingester's count stands; a second question there is refused."""
    run = await workbench.run()
    view = await workbench.ledger.run(run)
    questions = [new_question(view.id, "a", 5), new_question(view.id, "b", 5)]
    questions.append(new_question(view.id, "c"))
    accepted = await workbench.ledger.accept(run, questions)
    assert ("accepted", "position_taken", "accepted") == accepted.outcomes
    assert [5, 6] == sorted(event.position for event in _opened(accepted.emitted))


async def test_a_bound_on_questions_in_flight(workbench: Workbench) -> None:
    """The next question opens when one ends, in order of position."""
    run = await workbench.run(Manifest(max_in_flight=2))
    assert [0, 1] == [event.position for event in _opened(await workbench.accept(run, *"abcd"))]
    result = await workbench.through(await workbench.question(run, "b"))
    assert [2] == [event.position for event in _opened(result.emitted)]


async def test_only_the_first_batch_opens_without_a_generation(workbench: Workbench) -> None:
    """With lag 0 the second batch waits for the first generation."""
    run = await workbench.run(_batches(0))
    opened = _opened(await workbench.accept(run, *"abcd"))
    assert [(0, 0, 0), (1, 0, 0)] == [(e.position, e.batch, e.generation) for e in opened]


async def test_lag_lets_the_next_batch_overlap(workbench: Workbench) -> None:
    """With lag 1 two batches open on generation 0, the third on generation 1."""
    run = await workbench.run(_batches(1))
    opened = _opened(await workbench.accept(run, *"abcdef"))
    assert [(0, 0), (0, 0), (1, 0), (1, 0)] == [(e.batch, e.generation) for e in opened]
    for row in "ab":
        await workbench.through(await workbench.question(run, row))
    sealed = _opened(await _seal(workbench, run, 0))
    assert [(2, 1), (2, 1)] == [(e.batch, e.generation) for e in sealed]


async def test_sealing_a_generation_opens_the_next_batch(workbench: Workbench) -> None:
    """The end of a batch wakes the learner; its seal releases what waited for it."""
    run = await workbench.run(_batches(0))
    await workbench.accept(run, *"abcd")
    assert "idle" == await _learner(workbench, run)
    await workbench.through(await workbench.question(run, "a"))
    result = await workbench.through(await workbench.question(run, "b"))
    assert ["learner.batch_ready"] == [event.type for event in result.emitted]
    assert "merging" == await _learner(workbench, run)
    opened = _opened(await _seal(workbench, run, 0))
    assert [(2, 1, 1), (3, 1, 1)] == [(e.position, e.batch, e.generation) for e in opened]


async def test_batches_merge_in_order(workbench: Workbench) -> None:
    """A later batch that ends first waits for the earlier one."""
    run = await workbench.run(_batches(1))
    await workbench.accept(run, *"abcd")
    for row in "cd":
        assert () == (await workbench.through(await workbench.question(run, row))).emitted
    await workbench.through(await workbench.question(run, "a"))
    result = await workbench.through(await workbench.question(run, "b"))
    assert [b'{"type":"learner.batch_ready","number":0}'] == [e.body for e in result.emitted]
    emitted = await _seal(workbench, run, 0)
    assert [b'{"type":"learner.batch_ready","number":1}'] == [e.body for e in emitted]


async def test_a_batch_reads_what_its_questions_left(workbench: Workbench) -> None:
    """Consolidated questions come by position with their last body."""
    run = await workbench.run(_batches(0))
    await workbench.accept(run, "a", "b")
    questions = [await workbench.question(run, row) for row in "ab"]
    for question in reversed(questions):
        await workbench.through(question)
    view = await workbench.ledger.run(run)
    items = (await workbench.ledger.consolidated(view.id, 0)).items
    assert [(0, questions[0]), (1, questions[1])] == [(i.position, i.question) for i in items]
    assert all(b"question.consolidated" in bytes(item.body) for item in items)


async def test_closing_a_run_closes_its_last_batch_and_finishes(workbench: Workbench) -> None:
    """An incomplete batch ends, is sealed, and then the run is over."""
    run = await workbench.run(_batches(0))
    await workbench.accept(run, *"abc")
    view = await workbench.ledger.run(run)
    assert "closing" == await workbench.ports.runs.close(view.name)
    assert () == await workbench.ledger.advance(run)
    for row in "ab":
        await workbench.through(await workbench.question(run, row))
    await _seal(workbench, run, 0)
    await workbench.through(await workbench.question(run, "c"))
    assert "closing" == (await workbench.ledger.run_named(view.name))[1]
    await _seal(workbench, run, 1)
    assert "ended" == (await workbench.ledger.run_named(view.name))[1]
    assert "run.finished" == (await workbench.ports.events(view.id))[-1].type
    closed = await workbench.ports.events(ids.batch_id(view.id, 1))
    assert ["batch.started", "batch.closed", "batch.opened", "batch.ended"] == [
        event.type for event in closed
    ]


async def test_a_closed_run_takes_nothing(workbench: Workbench) -> None:
    """Questions after the close are refused by name."""
    run = await workbench.run(questions=1)
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.close(view.name)
    late = await workbench.ledger.accept(run, [new_question(view.id, "late")])
    assert ("closed",) == late.outcomes


async def test_a_live_run_finishes_when_its_questions_end(workbench: Workbench) -> None:
    """No batch, no learner: the last question's end is the run's."""
    run = await workbench.run(questions=1)
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.close(view.name)
    await workbench.through(await workbench.question(run, "0"))
    assert "ended" == (await workbench.ledger.run_named(view.name))[1]


async def test_an_empty_closed_run_finishes_when_it_is_looked_at(workbench: Workbench) -> None:
    """Closing a run without questions leaves nothing to wait for."""
    run = await workbench.run(_batches(0))
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.close(view.name)
    assert [run] == await workbench.ledger.due_runs()
    await workbench.ledger.advance(run)
    assert "ended" == (await workbench.ledger.run_named(view.name))[1]
    assert [] == await workbench.ledger.due_runs()


async def test_a_batch_closes_when_it_lingered(workbench: Workbench) -> None:
    """After the linger time the batch takes nobody in; the next starts at the next position."""
    run = await workbench.run(_batches(1, size=3, batch_linger_s=0.03))
    await workbench.accept(run, "a")
    await asyncio.sleep(0.06)
    assert [run] == await workbench.ledger.due_runs()
    await workbench.ledger.advance(run)
    assert [] == await workbench.ledger.due_runs()
    opened = _opened(await workbench.accept(run, *"bcd"))
    assert [(1, 1), (2, 1), (3, 1)] == [(e.position, e.batch) for e in opened]


async def test_a_question_past_its_deadline_is_overdue(workbench: Workbench) -> None:
    """It is listed while it has no answer, and not while its run is paused."""
    run = await workbench.run(Manifest(question_deadline_s=0.4), questions=1)
    question = await workbench.question(run, "0")
    view = await workbench.ledger.run(run)
    assert [] == await workbench.ledger.overdue(limit=10)
    await asyncio.sleep(0.45)
    assert [(run, question, 2)] == [
        (due.run_no, due.stream, due.version) for due in await workbench.ledger.overdue(limit=10)
    ]
    await workbench.ports.runs.pause(view.name)
    assert [] == await workbench.ledger.overdue(limit=10)


async def test_a_pause_moves_the_deadline(workbench: Workbench) -> None:
    """Time that stood still does not count."""
    run = await workbench.run(Manifest(question_deadline_s=1.0), questions=1)
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.pause(view.name)
    await asyncio.sleep(1.1)
    await workbench.ports.runs.resume(view.name)
    assert [] == await workbench.ledger.overdue(limit=10)


async def test_an_open_rollout_of_an_answered_question_is_overdue(workbench: Workbench) -> None:
    """After the answer the deadline ends the rollouts that are still open."""
    run = await workbench.run(Manifest(question_deadline_s=0.05), questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 2)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.propose(rollouts[0])
    await workbench.answer(question, rollouts)
    await workbench.judge(rollouts[0])
    await asyncio.sleep(0.1)
    overdue = await workbench.ledger.overdue(limit=10)
    assert [rollouts[1]] == [due.stream for due in overdue]


async def test_a_paused_run_accepts_and_releases_nothing(workbench: Workbench) -> None:
    """What is asked during a pause waits for the end of it."""
    run = await workbench.run()
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.pause(view.name)
    assert [] == await workbench.accept(run, "a")
    await workbench.ports.runs.resume(view.name)
    assert [0] == [event.position for event in _opened(await workbench.ledger.advance(run))]


async def test_a_question_that_only_waits_for_its_label_keeps_nobody_out(
    workbench: Workbench,
) -> None:
    """Answered and finished is enough where labels come later; a label makes it work again."""
    run = await workbench.run(Manifest(max_in_flight=1, rollouts=2, label_wait_s=60.0))
    await workbench.accept(run, *"abc")
    question = await workbench.question(run, "a")
    rollouts = await workbench.fan_out(question, 2)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.propose(rollouts[0])
    await workbench.answer(question, rollouts)
    assert run in await workbench.ledger.due_runs()
    assert [] == _opened(await workbench.ledger.advance(run))  # its sibling is at work
    await workbench.step(rollouts[1], ev.TurnAnswered(turn=1, text="t", answer="b"))
    await workbench.step(rollouts[1], ev.RolloutFinished(answer="b"))
    assert [1] == [event.position for event in _opened(await workbench.ledger.advance(run))]
    await workbench.labels.seal(run, question, "Paris", source="late")
    assert [] == _opened(await workbench.ledger.advance(run))
    await workbench.through(await workbench.question(run, "b"), 2)
    assert [] == _opened(await workbench.ledger.advance(run))  # the first is being judged


async def test_a_live_run_opens_no_more_than_it_can_train_from_in_time(
    workbench: Workbench,
) -> None:
    """Two batches of two with staleness 1: open or graded, four are all until some are used."""
    manifest = Manifest(rollouts=2, batch_size=2, staleness=1, train=True)
    run = await workbench.run(manifest)
    assert [0, 1, 2, 3] == [e.position for e in _opened(await workbench.accept(run, *"abcdef"))]
    for row in "ab":
        result = await workbench.through(await workbench.question(run, row), 2)
        assert [] == _opened(result.emitted)
    await workbench.through(await workbench.question(run, "c"), 2)
    used = [await workbench.question(run, row) for row in "ab"]
    learner = ids.learner_id((await workbench.ledger.run(run)).id)
    await workbench.step(learner, ev.LearnerMerged(number=0, generation=1))
    skipped = ev.LearnerSealed(number=0, generation=1, training="skipped", policy="base")
    write = PolicyWrite(batch=0, groups=tuple(used))
    result = await workbench.step(learner, skipped, policy=write)
    assert [4, 5] == [event.position for event in _opened(result.emitted)]
