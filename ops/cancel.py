"""Cancelling: questions are pre-empted one by one, whoever works on them, and end as cancelled."""

from typing import Final
from uuid import UUID

from consumers.plan.preempt import fail_question
from consumers.runner.context import Context
from mia_events.commits import Guard, step_commit
from mia_events.steps import Step, Task
from ops.errors import Refused
from schemas.events import QuestionConsolidated, RolloutFailed
from storage.ports import Claimed, PendingCommit
from storage.postgres.ledger import PostgresLedger
from storage.postgres.runs import PostgresRuns

__all__ = ["cancel_question", "cancel_run"]

_CANCELLED: Final = "cancelled"
_TRIES = 100
#: What brings each state of a run to one in which nothing new is admitted, claimed or released.
_STANDSTILL = {"running": ("pause", "close"), "paused": ("close",), "closing": ("pause",)}


async def cancel_question(ledger: PostgresLedger, runs: PostgresRuns, question: UUID) -> None:
    """End a question that has no answer yet as cancelled; what it leaves is still consolidated.

    Raises:
        LookupError: there is no such question.
        Refused: it has its answer, or its stated failure, already.
    """
    place = await runs.find_question(question)
    for _ in range(_TRIES):
        await runs.wake(question)
        found = await ledger.load(place.run_no, question)
        if not found or found[0].status in {"grading", "consolidating"}:
            raise Refused(
                f"question {question} has its end already", f"See `mia answers --run {place.run}`."
            )
        task = await Context(ledger).task(found[0])
        if await _preempted(ledger, task, fail_question(task, _CANCELLED)):
            return
    raise _too_busy(question)


async def cancel_run(ledger: PostgresLedger, runs: PostgresRuns, name: str) -> int:
    """End a run and every question of it; the number of questions that were cut short.

    Raises:
        LookupError: there is no such run.
        NoTransition: it is over.
    """
    run, state = await ledger.run_named(name)
    for change in _STANDSTILL.get(state, ()):
        await getattr(runs, change)(name)
    cut = 0
    while unfinished := await runs.unfinished(run.run_no):
        for question in unfinished:
            await _end(ledger, runs, run.run_no, question)
        cut += len(unfinished)
    await runs.cancel(name)
    return cut


async def _end(ledger: PostgresLedger, runs: PostgresRuns, run_no: int, question: UUID) -> None:
    """Bring a question to its very end, without any worker."""
    for _ in range(_TRIES):
        await runs.wake(question)
        found = await ledger.load(run_no, question)
        if not found:
            return
        await _one_step(ledger, runs, found[0])
    raise _too_busy(question)


async def _one_step(ledger: PostgresLedger, runs: PostgresRuns, stream: Claimed) -> None:
    task = await Context(ledger).task(stream)
    if stream.status == "consolidating":
        await _preempted(ledger, task, Step(event=QuestionConsolidated(problem=_CANCELLED)))
    elif stream.status == "grading":
        for rollout in await runs.open_rollouts(stream.stream):
            for found in await ledger.load(stream.run_no, rollout):
                await _preempted(
                    ledger,
                    await Context(ledger).task(found),
                    Step(event=RolloutFailed(reason=_CANCELLED)),
                )
    else:
        await _preempted(ledger, task, fail_question(task, _CANCELLED))


async def _preempted(ledger: PostgresLedger, task: Task, step: Step) -> bool:
    commit = step_commit(task, step, claim=0, attempt=0, guard=Guard.VERSION)
    result = await ledger.commit([PendingCommit(step=commit)], lease_s=0)
    return result.outcomes[0] == "committed"


def _too_busy(question: UUID) -> Refused:
    return Refused(f"question {question} moved on {_TRIES} times", "Try again.")
