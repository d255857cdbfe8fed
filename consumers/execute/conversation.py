"""The executor's conversation, rebuilt from the rollout's history.

It only grows at its end, as long as it fits into the model's context, so that a model server's
prefix cache serves every turn but the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consumers.execute.dialects import Dialect
from consumers.execute.fitting import Part, fitted
from consumers.requests import choice_of, prompt, question_of
from consumers.tools import Tool
from mia_events.effects import Message
from mia_events.quoting import quote
from mia_events.steps import Task
from mia_events.trajectory import Trajectory, Turn
from schemas.events import (
    RolloutReplanned,
    ToolReturned,
    TurnAnswered,
    TurnRejected,
    TurnToolCalled,
)

_PLAN_CHARACTERS: Final = 4_000


def conversation(
    task: Task, so_far: Trajectory, dialect: Dialect, tools: Sequence[Tool], *, last: bool
) -> tuple[Message, ...]:
    """The messages of the next turn; `last` orders an answer."""
    system = prompt(task, dialect.prompt)
    parts = [
        Part(Message("system", system.replace("{tools}", dialect.declared(tools)))),
        Part(Message("user", _opening(task, so_far))),
    ]
    for step in so_far.steps:
        parts += _told(task, dialect, step)
    if last:
        parts.append(Part(Message("user", prompt(task, dialect.last_turn))))
    executor = choice_of(task, "executor")
    return _merged(fitted(parts, executor.context_tokens - executor.max_tokens))


def _opening(task: Task, so_far: Trajectory) -> str:
    question = quote("question", question_of(task).text)
    plan = quote("plan", so_far.plan, _PLAN_CHARACTERS) if so_far.plan else ""
    return f"{question}\n\n{plan}".strip()


def _told(task: Task, dialect: Dialect, step: Turn) -> list[Part]:
    match step:
        case TurnToolCalled() | TurnAnswered():
            return [Part(Message("assistant", dialect.said(step)), "turn")]
        case TurnRejected():
            turn = Part(Message("assistant", dialect.said(step)), "turn")
            return [turn, Part(Message("user", step.observation))]
        case ToolReturned():
            return [Part(Message("user", dialect.observed(step.observation)), "result")]
        case RolloutReplanned():
            plan = quote("plan", step.plan, _PLAN_CHARACTERS)
            return [Part(Message("user", f"{prompt(task, 'revised')}\n\n{plan}"))]


def _merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbours of one role as one message: some chat templates demand that roles alternate."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            content = f"{merged[-1].content}\n\n{message.content}"
            merged[-1] = Message(message.role, content)
        else:
            merged.append(message)
    return tuple(merged)


__all__ = ["conversation"]
