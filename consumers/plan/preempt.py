"""Steps that are taken over a stream's head: deadlines, cancels and dead letters.

No IO; the same facts give the same step whoever takes it.
"""

from __future__ import annotations

from consumers.plan import orders
from consumers.requests import sealed_policy
from mia_events.lifecycle import Kind
from mia_events.quoting import clean, clip
from mia_events.steps import OutcomeUnknown, PolicyWrite, Step, Task
from schemas.events import (
    FailureReason,
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerTrained,
    LearnerUntrained,
    QuestionConsolidated,
    QuestionFailed,
    QuestionFannedOut,
    RolloutFailed,
)

_DETAIL_CHARACTERS = 500
_SECRETIVE = frozenset({"judging", "guarding"})


def fail_question(task: Task, reason: FailureReason, detail: str = "") -> Step:
    """End a question that has no answer yet, and all its rollouts with it (there may be none)."""
    fanned = task.last(QuestionFannedOut)
    rollouts = fanned.rollouts if isinstance(fanned, QuestionFannedOut) else 0
    return Step(
        event=QuestionFailed(reason=reason, detail=clip(clean(detail), _DETAIL_CHARACTERS)),
        orders=tuple(orders.fail(task.stream, number, reason) for number in range(rollouts)),
    )


def dead_letter_step(task: Task, error: BaseException) -> Step:
    """The stated end of a stream whose command can never succeed, so that nothing waits for it.

    Raises `LookupError` for a stream that has no such end.
    """
    detail = _detail(task, error)
    match task.kind, task.status:
        case Kind.ROLLOUT, _:
            return Step(event=RolloutFailed(reason=_reason(error), detail=detail))
        case Kind.QUESTION, "opening" | "routing" | "settling":
            return fail_question(task, _reason(error), detail)
        case Kind.QUESTION, "consolidating":
            return Step(event=QuestionConsolidated(problem=detail))
        case Kind.LEARNER, "merging" | "training" | "guarding":
            return _learned_nothing(task, detail)
        case _:
            raise LookupError(
                f"a {task.kind.name.lower()} that is {task.status} has no command to dead-letter"
            )


def _reason(error: BaseException) -> FailureReason:
    return "outcome_unknown" if isinstance(error, OutcomeUnknown) else "dead_letter"


def _detail(task: Task, error: BaseException) -> str:
    # Where labels are read, a message may hold what only the judge may see.
    name = type(error).__name__
    detail = name if task.status in _SECRETIVE else f"{name}: {error}"
    return clip(clean(detail), _DETAIL_CHARACTERS)


def _learned_nothing(task: Task, problem: str) -> Step:
    """Learning goes on with the next batch; what this one could have trained on is used up."""
    number = _batch_of(task)
    return Step(
        event=LearnerSealed(
            number=number,
            generation=number + 1,
            training="failed",
            policy=_serving(task),
            problem=problem,
            candidate=task.command.policy if isinstance(task.command, LearnerTrained) else "",
        ),
        policy=PolicyWrite(batch=number, groups=None)
        if isinstance(task.command, LearnerMerged)
        else None,
    )


def _batch_of(task: Task) -> int:
    match task.command:
        case LearnerBatchReady() | LearnerMerged() | LearnerTrained() | LearnerUntrained():
            return task.command.number
        case _:
            raise LookupError(f"learner {task.stream} has no batch to seal")


def _serving(task: Task) -> str:
    match task.command:
        case LearnerTrained(parent=policy) | LearnerUntrained(policy=policy):
            return policy
    return sealed_policy(task)


__all__ = ["dead_letter_step", "fail_question"]
