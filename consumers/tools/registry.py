"""What each tool takes and promises, apart from how it works."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

import msgspec

from mia_events.grammar import Unparsable


class SearchArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `search`."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as a run knows it. A tool that is not `idempotent` is never repeated on a guess.

    `purpose` completes "To …" for the model that is to call it.
    """

    name: str
    purpose: str
    arguments: type[msgspec.Struct]
    time_limit_s: float
    idempotent: bool


SEARCH: Final = "search"
TOOLS: Final[Mapping[str, Tool]] = {
    SEARCH: Tool(
        name=SEARCH,
        purpose="search with names from the question",
        arguments=SearchArguments,
        time_limit_s=10.0,
        idempotent=True,
    ),
}


def arguments_of(tool: Tool, encoded: bytes) -> dict[str, Any]:
    """Arguments that fit the tool's schema, from JSON. Raises `Unparsable` with what to send."""
    try:
        arguments = msgspec.json.decode(encoded, type=tool.arguments)
    except (msgspec.DecodeError, RecursionError) as error:
        needs = ", ".join(tool.arguments.__struct_fields__)
        raise Unparsable(f"{tool.name} takes: {needs}. {_reason(error)}") from None
    return {name: getattr(arguments, name) for name in tool.arguments.__struct_fields__}


@cache
def properties_of(name: str) -> Mapping[str, Any]:
    """The JSON Schema of each argument of a tool."""
    kind = TOOLS[name].arguments
    _, components = msgspec.json.schema_components((kind,))
    properties: Mapping[str, Any] = components[kind.__name__]["properties"]
    return properties


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.ValidationError) else "That was not valid JSON."


__all__ = ["SEARCH", "TOOLS", "SearchArguments", "Tool", "arguments_of", "properties_of"]
