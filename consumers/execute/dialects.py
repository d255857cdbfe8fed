"""The two languages of executors: one JSON object a turn, or the tags of published checkpoints.

A dialect says what the model is told of its tools, how its turns are read, and how they are told
back to it. What a model once wrote goes back into a chat template, so it may not spell its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from consumers.tools import Tool, properties_of
from mia_events.grammar import Action, action, action_schema
from mia_events.quoting import clip, escape
from mia_events.tag_grammar import STOP, split_thought, tagged_action
from schemas.events import TurnAnswered, TurnRejected, TurnToolCalled

_TURN_CHARACTERS: Final = 1_000
Said = TurnToolCalled | TurnAnswered | TurnRejected


class Dialect(Protocol):
    """How to speak with an executor. `prompt` and `last_turn` name prompts of the run."""

    prompt: str
    last_turn: str
    stop: tuple[str, ...]

    def declared(self, tools: Sequence[Tool]) -> str:
        """What the prompt says of the tools, in place of ``{tools}``."""
        ...

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any] | None:
        """The grammar of a turn in which `tools` may be called, where the server is to hold it."""
        ...

    def read(self, text: str, names: Collection[str]) -> Action:
        """The action of a turn. Raises `Unparsable`."""
        ...

    def said(self, turn: Said) -> str:
        """A turn as the model is told that it wrote it."""
        ...

    def observed(self, observation: str) -> str:
        """A tool's result, already quoted as data, as a user message."""
        ...


class JsonDialect:
    """One JSON object a turn, held to its schema by structured output."""

    prompt = "execute"
    last_turn = "last_turn"
    stop: tuple[str, ...] = ()

    def declared(self, tools: Sequence[Tool]) -> str:
        """See `Dialect`: an example of each."""
        return "\n".join(f"To {tool.purpose}: {_example_turn(tool)}" for tool in tools)

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any] | None:
        """See `Dialect`."""
        return action_schema({tool.name: properties_of(tool.name) for tool in tools})

    def read(self, text: str, names: Collection[str]) -> Action:
        """See `Dialect`."""
        return action(text, names)

    def said(self, turn: Said) -> str:
        """See `Dialect`: as it was written."""
        return escape(clip(turn.text, _TURN_CHARACTERS))

    def observed(self, observation: str) -> str:
        """See `Dialect`."""
        return observation


class TagDialect:
    """`<think>`, then `<tool_call>` or `<answer>`; results come in `<tool_response>`."""

    prompt = "execute_tags"
    last_turn = "last_turn_tags"
    stop: tuple[str, ...] = STOP

    def declared(self, tools: Sequence[Tool]) -> str:
        """See `Dialect`: the JSON Schemas between `<tools>` tags."""
        return "\n".join(["<tools>", *(_declaration(tool) for tool in tools), "</tools>"])

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any] | None:  # noqa: ARG002 - the port's
        """See `Dialect`: none, the checkpoints were trained without."""
        return None

    def read(self, text: str, names: Collection[str]) -> Action:
        """See `Dialect`."""
        return tagged_action(text, names)

    def said(self, turn: Said) -> str:
        """See `Dialect`: its tags are ours again, what stands between them is text."""
        thought, _ = split_thought(turn.text)
        said = f"<think>\n{escape(clip(thought, _TURN_CHARACTERS))}\n</think>\n" if thought else ""
        match turn:
            case TurnToolCalled():
                call = {"name": turn.tool, "arguments": turn.arguments}
                return f"{said}<tool_call>\n{_plain_json(call)}\n</tool_call>"
            case TurnAnswered(answer=str(answer)):
                return f"{said}<answer>{escape(answer)}</answer>"
            case _:
                return escape(clip(turn.text, _TURN_CHARACTERS))

    def observed(self, observation: str) -> str:
        """See `Dialect`."""
        return f"<tool_response>\n{observation}\n</tool_response>"


DIALECTS: Final[Mapping[str, Dialect]] = {"json": JsonDialect(), "tags": TagDialect()}


def _example_turn(tool: Tool) -> str:
    arguments = {name: _example(kind) for name, kind in properties_of(tool.name).items()}
    return json.dumps({"thought": "...", "action": tool.name, **arguments})


def _example(kind: Mapping[str, Any]) -> object:
    examples = {"integer": 1, "number": 1.0, "boolean": True, "array": ["..."], "object": {}}
    return examples.get(kind.get("type", "string"), "...")


def _declaration(tool: Tool) -> str:
    parameters = {
        "type": "object",
        "properties": properties_of(tool.name),
        "required": list(properties_of(tool.name)),
    }
    function = {"name": tool.name, "description": f"To {tool.purpose}.", "parameters": parameters}
    return json.dumps({"type": "function", "function": function})


def _plain_json(value: object) -> str:
    return escape(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


__all__ = ["DIALECTS", "Dialect", "Said"]
