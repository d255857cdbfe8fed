"""Carry out a tool call. The adapter behind `UseTool` calls this, within the tool's time limit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consumers.tools.registry import TOOLS, SearchArguments
from consumers.tools.search import decode_documents, search
from mia_events.effects import ToolResult, UseTool
from mia_events.steps import Poison
from schemas.external import Paragraph


def run_tool(request: UseTool, documents: Sequence[Paragraph]) -> ToolResult:
    """The tool's result over the question's own passages. Raises `Poison` for an unknown tool."""
    tool = TOOLS.get(request.tool)
    if tool is None:
        raise Poison(f"no tool is called {request.tool!r}; there are: {', '.join(TOOLS)}")
    arguments = msgspec.convert(request.arguments, tool.arguments)
    match arguments:
        case SearchArguments(query=query):
            return search(query, documents)
        case _:
            raise Poison(f"tool {request.tool!r} is declared but nothing carries it out")


__all__ = ["decode_documents", "run_tool"]
