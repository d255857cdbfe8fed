"""The generated parts of hand-written documents, between two markers each."""

from __future__ import annotations

import re
from typing import Final

from mia_events import topics
from mia_events.lifecycle import TABLES, Kind
from mia_events.lifecycle.diagram import state_diagram
from mia_events.lifecycle.travel import PURPOSE, Travel, travels
from schemas.export import Channel

#: What travels on a topic from outside, and the key that a client should give it.
_INBOUND: Final = {
    topics.QUESTION: ("incoming.question",),
    topics.FEEDBACK: ("incoming.label",),
}
_INBOUND_KEY: Final = "any; the question's id spreads the load"
_SECTION: Final = re.compile(
    r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL
)


class UnknownSection(LookupError):
    """A document asks for a generated section that there is none of, or lacks one."""


def channels() -> tuple[Channel, ...]:
    """Every topic, with what the life-cycle tables put on it."""
    return tuple(_channel(travel) for travel in travels())


def sections() -> dict[str, str]:
    """The generated sections by name: a diagram per kind of stream, and the table of topics."""
    diagrams = {
        f"life-cycle-{kind.name.lower()}": f"```mermaid\n{state_diagram(kind)}\n```"
        for kind in TABLES
    }
    return {**diagrams, "topics": _topics_table()}


def filled(document: str, replacements: dict[str, str]) -> str:
    """The document with each section's text replaced.

    Raises `UnknownSection` unless the document has exactly the sections in `replacements`.
    """
    names = [match["name"] for match in _SECTION.finditer(document)]
    if sorted(names) != sorted(replacements):
        odd = sorted(set(names) ^ set(replacements)) or sorted(names)
        raise UnknownSection(
            f"the sections in the document and those generated differ in {', '.join(odd)}: "
            "each needs one pair of markers, <!-- generated: NAME --> and <!-- end -->"
        )
    return _SECTION.sub(lambda m: f"{m[1]}\n{replacements[m['name']]}\n\n{m[3]}", document)


def _channel(travel: Travel) -> Channel:
    topic = travel.topic
    inbound = topic in topics.INBOUND
    consumed = topic in (*topics.INBOUND, *topics.COMMANDS)
    return Channel(
        topic=topic,
        description=PURPOSE[topic],
        key=_INBOUND_KEY if inbound else _key(travel.kinds),
        messages=_INBOUND.get(topic, travel.events),
        group=topics.group_of(topic) if consumed else None,
        inbound=inbound,
    )


def _key(kinds: tuple[Kind, ...]) -> str:
    names = " or ".join(kind.name.lower() for kind in kinds if kind is not Kind.FACT)
    return f"the {names}'s id" if names else "the id of the stream concerned"


def _topics_table() -> str:
    rows = [
        "| topic | what it is for | messages | key | read by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for channel in channels():
        names = (f"`{name}`" for name in channel.messages)
        messages = ", ".join(names) or "none"
        group = f"`{channel.group}`" if channel.group is not None else "users and operators"
        rows.append(
            f"| `{channel.topic}` | {channel.description} | {messages} | {channel.key} | {group} |"
        )
    return "\n".join(rows)


__all__ = ["UnknownSection", "channels", "filled", "sections"]
