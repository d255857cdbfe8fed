"""A tool call and its result, which is data whatever it says."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from consumers.requests import command, question_of, setting, tools_of
from consumers.tools import arguments_of
from mia_events.effects import ToolResult, UseTool, Wanted, ask
from mia_events.grammar import Unparsable
from mia_events.quoting import clean, quote
from mia_events.steps import Plan, Step, Task
from schemas.events import ToolReturned, TurnToolCalled

_OBSERVATION_CHARACTERS = 2_400


def use_tool(task: Task) -> Plan:
    """Call the tool; an unknown one, or arguments that do not fit, is an error observation."""
    called = command(task, TurnToolCalled)
    try:
        result = yield from _used(task, called)
    except Unparsable as error:
        return _returned(task, called, ToolResult(ok=False, text=str(error)))
    return _returned(task, called, result)


def _used(task: Task, called: TurnToolCalled) -> Generator[Wanted, Any, ToolResult]:
    tools = {tool.name: tool for tool in tools_of(task)}
    tool = tools.get(called.tool)
    if tool is None:
        raise Unparsable(f"no tool has that name; there are: {', '.join(tools)}")
    question = question_of(task)
    return (
        yield from ask(
            UseTool(
                tool=tool.name,
                arguments=arguments_of(tool, bytes(called.arguments)),
                question=question.id,
                documents=question.documents,
                idempotent=tool.idempotent,
            )
        )
    )


def _returned(task: Task, called: TurnToolCalled, result: ToolResult) -> Step:
    limit = setting(task, "observation_characters", _OBSERVATION_CHARACTERS)
    name = "result" if result.ok else "error"
    return Step(
        event=ToolReturned(
            turn=called.turn,
            ok=result.ok,
            observation=quote(name, result.text, limit),
            sources=tuple(clean(source) for source in result.sources),
        )
    )


__all__ = ["use_tool"]
