"""Carry out a tool call. The adapter behind `UseTool` calls this, within the tool's time limit.

`FUNCTIONS` has what carries out each tool of the registry: with its arguments, as the struct that
the registry names, and the question's own passages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

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
    if request.tool not in FUNCTIONS:
        raise Poison(f"tool {request.tool!r} is declared but nothing carries it out")
    return FUNCTIONS[request.tool](msgspec.convert(request.arguments, tool.arguments), documents)


def _search(arguments: SearchArguments, documents: Sequence[Paragraph]) -> ToolResult:
    return search(arguments.query, documents)


FUNCTIONS: Final[Mapping[str, Callable[[Any, Sequence[Paragraph]], ToolResult]]] = {
    "search": _search,
}

__all__ = ["FUNCTIONS", "decode_documents", "run_tool"]
