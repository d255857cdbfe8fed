"""All rollouts of a question have ended: keep what they teach."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from consumers.consolidate.classify import category_of, classification
from consumers.consolidate.keep import Kept, credits_of, keep
from consumers.replies import free_text
from consumers.requests import (
    NO_ROLLOUT,
    call,
    dialogue,
    embed_question,
    prompt,
    question_of,
    sampling_seed,
)
from consumers.trace import trace
from mia_events.effects import Call, ReadRollouts, Wanted, ask, ask_all
from mia_events.memories import dedupe_key, live_write
from mia_events.quoting import clean, quote
from mia_events.steps import MemoryWrite, Plan, Step, Task
from mia_events.trajectory import Trajectory, follow_all
from schemas.events import Grade, MemoryCandidate, QuestionAnswered, QuestionConsolidated

_MEMORY_CHARACTERS = 2_000
_PLAN_CHARACTERS = 1_500


def consolidate(task: Task) -> Plan:
    """Compress the kept rollouts into memories, and credit the memories that were used.

    In live mode both are written at once, else the batch's merge writes them.
    """
    rollouts = yield from ask(ReadRollouts(question=task.stream))
    trajectories = follow_all(rollouts.items)
    kept = keep(trajectories, sampling_seed(task, NO_ROLLOUT, "keep"))
    candidates, problem = yield from _distilled(task, kept)
    event = QuestionConsolidated(
        grade=_official_grade(task, trajectories),
        memories=candidates,
        uses=credits_of(trajectories),
        problem=problem,
    )
    return Step(event=event, memory=_written(task, event))


def _distilled(
    task: Task, kept: Kept
) -> Generator[Wanted, Any, tuple[tuple[MemoryCandidate, ...], str]]:
    if not kept.items:
        return (), ""
    embedded = yield from ask(embed_question(task))
    asked = (classification(task), *(_request(task, one) for _, one in kept.items))
    kind, *replies = yield from ask_all(asked)
    texts = [free_text(reply, _MEMORY_CHARACTERS) for reply in replies]
    category = category_of(kind)
    question = question_of(task).text
    candidates = tuple(
        MemoryCandidate(
            dedupe_key=dedupe_key(question, outcome),
            text=text or one.plan,
            question=clean(question),
            outcome=outcome,
            rollout=one.number,
            plan=one.plan,
            vector=embedded.vectors[0],
            category=category,
        )
        for (outcome, one), text in zip(kept.items, texts, strict=True)
        if text or one.plan
    )
    return candidates, _problem(kept, texts, category)


def _problem(kept: Kept, texts: Sequence[str], category: str) -> str:
    """What is missing of a memory, for a reader."""
    pairs = zip(kept.items, texts, strict=True)
    plain = [str(one.number) for (_, one), text in pairs if not text]
    problems = [f"no summary of rollout {', '.join(plain)}: its plan stands"] if plain else []
    return "; ".join(problems if category else [*problems, "the question was not classified"])


def _request(task: Task, one: Trajectory) -> Call:
    messages = dialogue(
        prompt(task, "compress"),
        quote("question", question_of(task).text),
        quote("plan", one.plan, _PLAN_CHARACTERS),
        trace(one),
    )
    return call(task, "manager", messages, rollout=one.number, step="compress", tolerate=True)


def _official_grade(task: Task, trajectories: Sequence[Trajectory]) -> Grade:
    answered = task.last(QuestionAnswered)
    if not isinstance(answered, QuestionAnswered):
        return "unjudged"
    grades = {one.number: one.grade for one in trajectories}
    return grades.get(answered.rollout) or "unjudged"


def _written(task: Task, event: QuestionConsolidated) -> MemoryWrite | None:
    if task.run.manifest.mode != "live":
        return None
    return live_write(task.run.scope, task.stream, event, cap=task.run.manifest.memory_cap)


__all__ = ["consolidate"]
