"""What earlier questions left in memory, for the planner and the router: quoted, as notes."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any, Final

from consumers.planner_prompt import Piece
from consumers.requests import embed_question, question_of, setting
from mia_events.effects import Memories, Recall, Remembered, Wanted, ask
from mia_events.quoting import quote
from mia_events.steps import Task

_MEMORY_CHARACTERS: Final = 1_200
_HEADINGS: Final = {
    "success": "Worked for a similar question:",
    "failure": "Failed for a similar question:",
}


def recalled(task: Task, generation: int, *, of_each: int = 2) -> Generator[Wanted, Any, Memories]:
    """The best successes and as many failures, as of a generation unless the run is live."""
    manifest = task.run.manifest
    embedded = yield from ask(embed_question(task))
    request = Recall(
        scope=task.run.scope,
        vector=embedded.vectors[0],
        successes=of_each,
        failures=of_each,
        generation=None if manifest.mode == "live" else generation,
        text=question_of(task).text if manifest.memory_search == "hybrid" else "",
        exact=manifest.deterministic,
        frequency=manifest.memory_frequency,
    )
    return (yield from ask(request))


def notes(task: Task, memories: Memories) -> tuple[Piece, ...]:
    """One note a memory, each fenced as data."""
    limit = setting(task, "memory_characters", _MEMORY_CHARACTERS)
    return tuple(
        Piece(render=partial(_note, memory), most=limit, rank=2) for memory in memories.items
    )


def _note(memory: Remembered, limit: int) -> str:
    text = f"Question: {memory.question}\n{memory.text}"
    return f"{_HEADINGS[memory.outcome]}\n{quote('note', text, limit)}"


__all__ = ["notes", "recalled"]
