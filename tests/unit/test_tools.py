"""A tool is one entry and one function; the rest follows from them, as docs/tools.md says."""

import json
import time
from collections.abc import Sequence
from typing import Any, cast
from unittest import mock
from uuid import UUID

import msgspec
import pytest

from consumers.effects.performer import RealPerformer
from consumers.execute.turn import take_turn
from consumers.tool_call.use import use_tool
from consumers.tools import TOOLS, Tool
from consumers.tools.run import FUNCTIONS, run_tool
from mia_events.effects import Call, ModelReply, ToolResult, UseTool
from mia_events.lifecycle import Kind
from mia_events.steps import OutcomeUnknown, Poison
from ops.manifest import manifest_of
from ops.settings import load_settings
from schemas.events import ToolReturned, TurnToolCalled
from schemas.external import Paragraph
from tests.support.drive import drive, drive_with, task
from tests.support.histories import called, chosen


class AddArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `add`."""

    first: int
    second: int


def add(arguments: AddArguments, documents: Sequence[Paragraph]) -> ToolResult:
    """The sum."""
    return ToolResult(ok=True, text=str(arguments.first + arguments.second))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register `add` beside `search`."""
    entry = Tool(
        name="add",
        purpose="add two numbers",
        arguments=AddArguments,
        time_limit_s=0.2,
        idempotent=True,
    )
    monkeypatch.setitem(cast("dict[str, Tool]", TOOLS), "add", entry)
    monkeypatch.setitem(cast("dict[str, Any]", FUNCTIONS), "add", add)


def performer() -> RealPerformer:
    """The adapter, of which only tools are used."""
    port: Any = None
    return RealPerformer(
        models=port, versions=port, memory=port, ledger=port, artifacts=port, labels=None
    )


@pytest.mark.parametrize(
    "grammar,reply",
    [
        ("json", '{"thought": "t", "action": "add", "first": 2, "second": 3}'),
        ("tags", '<tool_call>{"name": "add", "arguments": {"first": 2, "second": 3}}</tool_call>'),
    ],
)
def test_a_registered_tool_is_offered_called_and_answered(grammar: str, reply: str) -> None:
    """From the prompt to the observation, in both languages."""
    tools = ("add", "search")
    todo = task(Kind.ROLLOUT, chosen(), tools=tools, executor_grammar=grammar)
    driven = drive(take_turn, todo, ModelReply(text=reply))
    assert "add two numbers" in driven.only(Call).messages[0].content
    event = driven.event
    assert isinstance(event, TurnToolCalled)
    assert ("add", {"first": 2, "second": 3}) == (event.tool, json.loads(bytes(event.arguments)))
    todo = task(Kind.ROLLOUT, [*chosen(), event], tools=tools)
    returned = drive_with(use_tool, todo, lambda effect: run_tool(effect, ())).event
    expected = ToolReturned(turn=1, ok=True, observation='<data name="result">\n5\n</data>')
    assert expected == returned


def test_the_example_in_the_prompt_is_a_call_that_fits() -> None:
    """A small model copies it."""
    todo = task(Kind.ROLLOUT, chosen(), tools=("add",))
    system = drive(take_turn, todo, ModelReply(text="")).only(Call).messages[0].content
    (line,) = (line for line in system.splitlines() if line.startswith("To add two numbers: "))
    example = line.removeprefix("To add two numbers: ")
    assert isinstance(drive(take_turn, todo, ModelReply(text=example)).event, TurnToolCalled)


def test_a_run_has_the_tools_that_were_there_when_it_was_made() -> None:
    """A new run gets the new tool, an old one neither offers nor calls it."""
    assert ("add", "search") == manifest_of(load_settings(environ={})).tools
    reply = ModelReply(text='{"thought": "", "action": "add", "first": 2, "second": 3}')
    driven = drive(take_turn, task(Kind.ROLLOUT, chosen()), reply)
    assert "add two numbers" not in driven.only(Call).messages[0].content
    assert "must be one of: search, answer" in driven.event.observation
    history = [*chosen(), *called(1, "add", b'{"first": 2, "second": 3}')]
    assert not drive(use_tool, task(Kind.ROLLOUT, history)).event.ok


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_every_tool_can_be_carried_out_and_named_in_the_grammar(name: str) -> None:
    """An entry has its function, and no argument that the grammar keeps for itself."""
    assert name in FUNCTIONS
    assert {"thought", "action"}.isdisjoint(TOOLS[name].arguments.__struct_fields__)


def test_a_tool_without_a_function_is_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry alone is a mistake that no retry mends."""
    monkeypatch.delitem(cast("dict[str, Any]", FUNCTIONS), "add")
    request = UseTool(tool="add", arguments={"first": 1, "second": 2}, question=UUID(int=1))
    with pytest.raises(Poison, match="'add' is declared but nothing carries it out"):
        run_tool(request, ())


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_tool_that_takes_too_long(idempotent: bool) -> None:
    """Its model is told; what may have acted ends the rollout instead."""

    def slow(arguments: AddArguments, documents: Sequence[Paragraph]) -> ToolResult:
        time.sleep(0.4)
        return ToolResult(ok=True, text="late")

    request = UseTool(
        tool="add",
        arguments={"first": 1, "second": 2},
        question=UUID(int=1),
        idempotent=idempotent,
    )
    with mock.patch.dict("consumers.tools.run.FUNCTIONS", add=slow):
        if idempotent:
            found = await performer().perform(request, task(Kind.ROLLOUT, chosen()))
            assert ToolResult(ok=False, text="add gave no result within 0.2 s") == found
        else:
            with pytest.raises(OutcomeUnknown, match="may have acted"):
                await performer().perform(request, task(Kind.ROLLOUT, chosen()))
