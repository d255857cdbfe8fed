"""One turn: the model calls a tool, answers, or is told why its reply was neither."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from consumers.execute.conversation import conversation
from consumers.execute.dialects import DIALECTS, Dialect
from consumers.requests import call, tools_of
from consumers.tools import TOOLS, arguments_of
from mia_events.effects import ModelReply, ask
from mia_events.grammar import ANSWER, Action, Unparsable
from mia_events.quoting import clean, clip
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import follow
from schemas.events import Event, TurnAnswered, TurnRejected, TurnToolCalled

_TEXT_CHARACTERS: Final = 8_000


def take_turn(task: Task) -> Plan:
    """Ask the executor for its next action.

    The last turn of the budget, which all phases of a rollout share, can only answer; when it does
    not, the phase ends without an answer.
    """
    so_far, dialect, tools = follow(task.history), _dialect(task), tools_of(task)
    turn, last = so_far.turns + 1, so_far.turns + 1 >= task.run.manifest.max_turns
    request = call(
        task,
        "executor",
        conversation(task, so_far, dialect, tools, last=last),
        rollout=so_far.number,
        step="turn",
        schema=dialect.schema(() if last else tools),
        stop=dialect.stop,
    )
    reply = yield from ask(request)
    allowed = () if last else tuple(tool.name for tool in tools)
    text = clip(clean(reply.text), _TEXT_CHARACTERS)
    try:
        return Step(event=_taken(_read(dialect, reply, allowed), turn, text))
    except Unparsable as error:
        return Step(event=_refused(error, turn, text, last=last))


def _dialect(task: Task) -> Dialect:
    return DIALECTS[task.run.manifest.executor_grammar]


def _read(dialect: Dialect, reply: ModelReply, allowed: Collection[str]) -> Action:
    if reply.finish_reason == "length":
        raise Unparsable("it did not end within the tokens of a turn; send one short action")
    return dialect.read(reply.text, allowed)


def _taken(taken: Action, turn: int, text: str) -> Event:
    if taken.name == ANSWER:
        return TurnAnswered(turn=turn, text=text, answer=taken.arguments[ANSWER])
    encoded = msgspec.json.encode(taken.arguments)
    arguments_of(TOOLS[taken.name], encoded)
    return TurnToolCalled(turn=turn, text=text, tool=taken.name, arguments=msgspec.Raw(encoded))


def _refused(error: Unparsable, turn: int, text: str, *, last: bool) -> Event:
    if last:
        return TurnAnswered(turn=turn, text=text, answer=None)
    return TurnRejected(turn=turn, text=text, observation=f"Your reply was not used: {error}")


__all__ = ["take_turn"]
