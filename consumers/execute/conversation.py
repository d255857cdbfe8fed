"""The executor's conversation, rebuilt from the rollout's history.

It only ever grows at its end, so that a model server's prefix cache serves every turn but the
newest.
"""

from __future__ import annotations

from consumers.requests import prompt, question_of
from mia_events.effects import Message
from mia_events.quoting import clip, escape, quote
from mia_events.steps import Task
from mia_events.trajectory import Trajectory, Turn
from schemas.events import (
    RolloutReplanned,
    ToolReturned,
    TurnAnswered,
    TurnRejected,
    TurnToolCalled,
)

_TURN_CHARACTERS = 1_000
_PLAN_CHARACTERS = 4_000


def conversation(task: Task, so_far: Trajectory, *, last: bool) -> tuple[Message, ...]:
    """The messages of the next turn; `last` orders an answer."""
    question = quote("question", question_of(task).text)
    opening = [question, quote("plan", so_far.plan, _PLAN_CHARACTERS)]
    messages = [
        Message("system", prompt(task, "execute")),
        Message("user", "\n\n".join(opening)),
    ]
    for step in so_far.steps:
        messages += _told(task, step)
    if last:
        messages.append(Message("user", prompt(task, "last_turn")))
    return _merged(messages)


def _told(task: Task, step: Turn) -> list[Message]:
    match step:
        case TurnToolCalled() | TurnAnswered():
            return [_said(step.text)]
        case TurnRejected():
            return [_said(step.text), Message("user", step.observation)]
        case ToolReturned():
            return [Message("user", step.observation)]
        case RolloutReplanned():
            plan = quote("plan", step.plan, _PLAN_CHARACTERS)
            return [Message("user", f"{prompt(task, 'revised')}\n\n{plan}")]


def _said(text: str) -> Message:
    # What the model once wrote goes back into a chat template: it may not spell its tokens.
    return Message("assistant", escape(clip(text, _TURN_CHARACTERS)))


def _merged(messages: list[Message]) -> tuple[Message, ...]:
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
