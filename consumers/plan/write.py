"""A rollout's plan, from its question and what earlier questions left in memory."""

from __future__ import annotations

from consumers.requests import dialogue, embed_question, planner_call, prompt, question_of, setting
from mia_events.effects import Memories, Recall, Remembered, ask
from mia_events.grammar import after_thinking
from mia_events.quoting import clip, quote
from mia_events.steps import Plan, Poison, Step, Task
from schemas.events import RolloutOpened, RolloutPlanned

_MEMORY_CHARACTERS = 1_200
_PLAN_CHARACTERS = 4_000
_HEADINGS = {
    "success": "Worked for a similar question:",
    "failure": "Failed for a similar question:",
}


def write_plan(task: Task) -> Plan:
    """Recall two successes and two failures, then let the planner write."""
    opened = _opened(task)
    embedded = yield from ask(embed_question(task))
    memories = yield from ask(_recall(task, opened, embedded.vectors[0]))
    reply = yield from ask(
        planner_call(
            task,
            dialogue(
                prompt(task, "plan"),
                *_notes(task, memories),
                quote("question", question_of(task).text),
            ),
            rollout=opened.number,
            step="plan",
            policy=opened.policy,
        )
    )
    return Step(
        event=RolloutPlanned(
            plan=clip(after_thinking(reply.text), _PLAN_CHARACTERS),
            memories=tuple(memory.id for memory in memories.items),
            policy=opened.policy,
        )
    )


def _opened(task: Task) -> RolloutOpened:
    opened = task.last(RolloutOpened)
    if not isinstance(opened, RolloutOpened):
        raise Poison(f"rollout {task.stream} was never opened")
    return opened


def _recall(task: Task, opened: RolloutOpened, vector: tuple[float, ...]) -> Recall:
    manifest = task.run.manifest
    return Recall(
        scope=task.run.scope,
        vector=vector,
        generation=None if manifest.mode == "live" else opened.generation,
        text=question_of(task).text if manifest.memory_search == "hybrid" else "",
        exact=manifest.deterministic,
        frequency=manifest.memory_frequency,
    )


def _notes(task: Task, memories: Memories) -> list[str]:
    limit = setting(task, "memory_characters", _MEMORY_CHARACTERS)
    return [_note(memory, limit) for memory in memories.items]


def _note(memory: Remembered, limit: int) -> str:
    text = f"Question: {memory.question}\n{memory.text}"
    return f"{_HEADINGS[memory.outcome]}\n{quote('note', text, limit)}"


__all__ = ["write_plan"]
