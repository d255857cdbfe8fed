"""All rollouts of a question have ended: keep what they teach."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from consumers.consolidate.keep import Kept, dedupe_key, keep
from consumers.requests import call, dialogue, embed_question, prompt, question_of, sampling_seed
from consumers.trace import trace
from mia_events.effects import Call, ModelReply, ReadRollouts, Wanted, ask, ask_all
from mia_events.grammar import after_thinking
from mia_events.memories import live_write
from mia_events.quoting import clip, quote
from mia_events.steps import MemoryWrite, Plan, Step, Task
from mia_events.trajectory import Trajectory, follow_all
from schemas.events import Grade, MemoryCandidate, QuestionAnswered, QuestionConsolidated

_MEMORY_CHARACTERS = 2_000
_PLAN_CHARACTERS = 1_500


def consolidate(task: Task) -> Plan:
    """Compress the kept rollouts into memories.

    In live mode they are written at once, else the batch's merge writes them.
    """
    rollouts = yield from ask(ReadRollouts(question=task.stream))
    trajectories = follow_all(rollouts.items)
    kept = keep(trajectories, sampling_seed(task, -1, "keep"))
    candidates, problem = yield from _compressed(task, kept)
    event = QuestionConsolidated(
        grade=_official_grade(task, trajectories),
        memories=candidates,
        uses=kept.uses,
        problem=problem,
    )
    return Step(event=event, memory=_written(task, event))


def _compressed(
    task: Task, kept: Kept
) -> Generator[Wanted, Any, tuple[tuple[MemoryCandidate, ...], str]]:
    if not kept.items:
        return (), ""
    embedded = yield from ask(embed_question(task))
    replies = yield from ask_all(tuple(_request(task, one) for _, one in kept.items))
    question = question_of(task).text
    candidates = tuple(
        MemoryCandidate(
            dedupe_key=dedupe_key(question, outcome),
            text=_summary(reply) or one.plan,
            question=question,
            outcome=outcome,
            rollout=one.number,
            plan=one.plan,
            vector=embedded.vectors[0],
        )
        for (outcome, one), reply in zip(kept.items, replies, strict=True)
    )
    plain = [
        str(one.number)
        for (_, one), reply in zip(kept.items, replies, strict=True)
        if not _summary(reply)
    ]
    return candidates, f"no summary of rollout {', '.join(plain)}: its plan stands" if plain else ""


def _request(task: Task, one: Trajectory) -> Call:
    messages = dialogue(
        prompt(task, "compress"),
        quote("question", question_of(task).text),
        quote("plan", one.plan, _PLAN_CHARACTERS),
        trace(one),
    )
    return call(task, "manager", messages, rollout=one.number, step="compress", tolerate=True)


def _summary(reply: ModelReply) -> str:
    return "" if reply.problem else clip(after_thinking(reply.text), _MEMORY_CHARACTERS)


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
