"""A complete batch becomes the next memory generation, in the order of its questions."""

from __future__ import annotations

from uuid import UUID

from consumers.requests import BASE_POLICY, command
from mia_events.effects import ConsolidatedQuestion, ReadBatch, ask
from mia_events.steps import MemoryWrite, Plan, Step, Task
from schemas.envelope import decode_payload
from schemas.events import (
    LearnerBatchReady,
    LearnerSealed,
    MemoryCandidate,
    MemoryUse,
    QuestionConsolidated,
)


def merge(task: Task) -> Plan:
    """Write generation k + 1 from batch k and seal it.

    Of two memories with one key the one from the later question stays.
    """
    ready = command(task, LearnerBatchReady)
    batch = yield from ask(ReadBatch(run=task.run.id, number=ready.number))
    generation = ready.number + 1
    candidates: dict[str, tuple[UUID, MemoryCandidate]] = {}
    uses: list[tuple[UUID, MemoryUse]] = []
    for question in sorted(batch.items, key=lambda item: item.position):
        left = _left(question)
        for candidate in left.memories:
            candidates.pop(candidate.dedupe_key, None)
            candidates[candidate.dedupe_key] = (question.question, candidate)
        uses += [(question.question, use) for use in left.uses]
    return Step(
        event=LearnerSealed(
            number=ready.number,
            generation=generation,
            training="none_configured",
            policy=_policy(task),
        ),
        memory=MemoryWrite(
            scope=task.run.scope,
            generation=generation,
            candidates=tuple(candidates.values()),
            uses=tuple(uses),
        ),
    )


def _left(question: ConsolidatedQuestion) -> QuestionConsolidated:
    body = decode_payload(bytes(question.body))
    # A question that an operator cancelled before it was graded leaves nothing.
    return body if isinstance(body, QuestionConsolidated) else QuestionConsolidated()


def _policy(task: Task) -> str:
    sealed = task.last(LearnerSealed)
    return sealed.policy if isinstance(sealed, LearnerSealed) else BASE_POLICY


__all__ = ["merge"]
