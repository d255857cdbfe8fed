"""A complete batch becomes the next memory generation, in the order of its questions."""

from __future__ import annotations

from consumers.requests import command, sealed_policy
from mia_events.effects import ConsolidatedQuestion, ReadBatch, ask
from mia_events.memories import batch_write
from mia_events.steps import Plan, Step, Task
from schemas.envelope import decode_payload
from schemas.events import LearnerBatchReady, LearnerMerged, LearnerSealed, QuestionConsolidated


def merge(task: Task) -> Plan:
    """Write generation k + 1 from batch k, and seal it unless the run trains on the batch too.

    Of two memories with one key the one from the later question stays. In live mode each question
    has written its own: a batch is only to be trained on.
    """
    ready = command(task, LearnerBatchReady)
    if task.run.manifest.mode == "live":
        yield from ()
        return Step(event=_merged(task, ready.number))
    batch = yield from ask(ReadBatch(run=task.run.id, number=ready.number))
    questions = sorted(batch.items, key=lambda item: item.position)
    return Step(
        event=_merged(task, ready.number),
        memory=batch_write(
            task.run.scope,
            ready.number + 1,
            [(question.question, _left(question)) for question in questions],
            cap=task.run.manifest.memory_cap,
        ),
    )


def _merged(task: Task, number: int) -> LearnerMerged | LearnerSealed:
    if task.run.manifest.train:
        return LearnerMerged(number=number, generation=number + 1)
    return LearnerSealed(
        number=number,
        generation=number + 1,
        training="none_configured",
        policy=sealed_policy(task),
    )


def _left(question: ConsolidatedQuestion) -> QuestionConsolidated:
    body = decode_payload(bytes(question.body))
    # A question that an operator cancelled before it was graded leaves nothing.
    return body if isinstance(body, QuestionConsolidated) else QuestionConsolidated()


__all__ = ["merge"]
