"""One turn: the model calls a tool, answers, or is told why its reply was neither."""

from __future__ import annotations

from typing import Any

import msgspec

from consumers.execute.conversation import conversation
from consumers.requests import call
from consumers.tools import TOOLS, arguments_of, properties_of
from mia_events.effects import ask
from mia_events.grammar import ANSWER, Action, Unparsable, action, action_schema
from mia_events.quoting import clean, clip
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import follow
from schemas.events import Event, TurnAnswered, TurnRejected, TurnToolCalled

_TEXT_CHARACTERS = 8_000


def take_turn(task: Task) -> Plan:
    """Ask the executor for its next action.

    The last turn of the budget, which all phases of a rollout share, can only answer; when it does
    not, the phase ends without an answer.
    """
    so_far = follow(task.history)
    turn, last = so_far.turns + 1, so_far.turns + 1 >= task.run.manifest.max_turns
    tools = () if last else tuple(sorted(TOOLS))
    request = call(
        task,
        "executor",
        conversation(task, so_far, last=last),
        rollout=so_far.number,
        step="turn",
        schema=_schema(tools),
    )
    reply = yield from ask(request)
    text = clip(clean(reply.text), _TEXT_CHARACTERS)
    try:
        return Step(event=_taken(action(reply.text, tools), turn, text))
    except Unparsable as error:
        return Step(event=_refused(error, turn, text, last=last))


def _taken(taken: Action, turn: int, text: str) -> Event:
    if taken.name == ANSWER:
        return TurnAnswered(turn=turn, text=text, answer=taken.arguments[ANSWER].strip())
    encoded = msgspec.json.encode(taken.arguments)
    arguments_of(TOOLS[taken.name], encoded)
    return TurnToolCalled(turn=turn, text=text, tool=taken.name, arguments=msgspec.Raw(encoded))


def _refused(error: Unparsable, turn: int, text: str, *, last: bool) -> Event:
    if last:
        return TurnAnswered(turn=turn, text=text, answer=None)
    return TurnRejected(turn=turn, text=text, observation=f"Your reply was not used: {error}")


def _schema(tools: tuple[str, ...]) -> dict[str, Any]:
    return action_schema({name: properties_of(name) for name in tools})


__all__ = ["take_turn"]
