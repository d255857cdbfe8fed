"""The executor's turns in tags, as the published checkpoints write them.

`<think>…</think>`, which may be missing, then either ``<tool_call>{"name": …, "arguments": {…}}
</tool_call>`` or ``<answer>…</answer>``, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from mia_events.grammar import ANSWER, Action, Unparsable, checked_answer, is_plain, json_object
from mia_events.quoting import clean

_CALL: Final = "tool_call"
#: A reply ends with its first action: a server leaves the tag out that it stopped at.
STOP: Final = ("</tool_call>", "</answer>", "<tool_response>")
_THOUGHT: Final = re.compile(r"\s*<think>(.*)</think>", re.DOTALL)
_ACTION: Final = re.compile(r"\s*<(tool_call|answer)>(.*?)(</\1>)?\s*", re.DOTALL)
_TAG: Final = re.compile(r"</?(?:think|tool_call|tool_response|answer)>")


def tagged_action(text: str, names: Collection[str]) -> Action:
    """An executor turn that calls one of the tools `names` or answers. Raises `Unparsable`."""
    thought, body = split_thought(text)
    found = _ACTION.fullmatch(body)
    if found is None or _TAG.search(found[2]):
        raise Unparsable(
            "after thinking, send one <tool_call>…</tool_call> or one <answer>…</answer>, no more"
        )
    if found[1] == _CALL:
        return _call(thought, json_object(found[2]), names)
    if not is_plain(found[2]):
        raise Unparsable("the reply has control characters in it; send plain text")
    return Action(thought=thought, name=ANSWER, arguments={ANSWER: checked_answer(found[2])})


def split_thought(text: str) -> tuple[str, str]:
    """The thinking at the start of a reply, without its tags, and what follows it."""
    found = _THOUGHT.match(text)
    return (clean(found[1]).strip(), text[found.end() :]) if found else ("", text)


def _call(thought: str, call: dict[str, Any], names: Collection[str]) -> Action:
    name, arguments = call.get("name"), call.get("arguments")
    if set(call) != {"name", "arguments"} or not isinstance(arguments, dict):
        raise Unparsable('a tool call is {"name": "...", "arguments": {...}} and nothing else')
    if not isinstance(name, str) or name not in names:
        known = ", ".join(sorted(names))
        raise Unparsable(
            f'"name" must be one of: {known}' if known else "no tool can be called now: answer"
        )
    return Action(thought=thought, name=name, arguments=arguments)


__all__ = ["STOP", "split_thought", "tagged_action"]
