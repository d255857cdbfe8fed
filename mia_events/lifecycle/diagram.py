"""Mermaid state diagrams, drawn from the tables so that they cannot be out of date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mia_events.lifecycle.tables import JOINS, TABLES
from mia_events.lifecycle.transitions import ENDED, Kind, Rule, Table

_EVERYWHERE = 3  #: an event to one end from at least this many states is drawn once, from all


def state_diagram(kind: Kind) -> str:
    """The Mermaid `stateDiagram-v2` of a kind of stream; `KeyError` for a kind without a table.

    A state that has a command pending names its topic; an arrow of a join says when it is complete.
    """
    table = TABLES[kind]
    lines = ["stateDiagram-v2", *_states(table), *_arrows(kind, table), *_endings(table)]
    return "\n".join([lines[0], *(f"    {line}" for line in lines[1:])])


def pending_topics(table: Table) -> dict[str, str | None]:
    """Each state's topic: where the command of a stream in that state travels; None: it waits.

    Raises `ValueError` when two rules into one state disagree, since a state says what is pending.
    """
    found: dict[str, str | None] = {}
    for rule in table.values():
        if found.setdefault(rule.status, rule.topic) != rule.topic:
            raise ValueError(f"{rule.status} is reached with {found[rule.status]} and {rule.topic}")
    return found


def _states(table: Table) -> Iterator[str]:
    for status, topic in pending_topics(table).items():
        if topic is not None:
            yield f'state "{status} · {topic}" as {status}'


def _arrows(kind: Kind, table: Table) -> Iterator[str]:
    shared = _shared_endings(table)
    for (status, event), rule in table.items():
        if event not in shared:
            source = "[*]" if status is None else status
            yield f"{source} --> {rule.status} : {_label(kind, status, event, rule)}"
    for event, (sources, rule) in shared.items():
        yield f"note right of {rule.status}"
        yield f"    {_label(kind, None, event, rule)} leads here from {_and(sources)}"
        yield "end note"


def _shared_endings(table: Table) -> dict[str, tuple[list[str], Rule]]:
    """Events that take many states to one, such as a failure: a note, not a web of arrows."""
    by_event: dict[str, list[tuple[str, Rule]]] = {}
    for (status, event), rule in table.items():
        if status is not None:
            by_event.setdefault(event, []).append((status, rule))
    return {
        event: ([status for status, _ in found], found[0][1])
        for event, found in by_event.items()
        if len(found) >= _EVERYWHERE and len({rule for _, rule in found}) == 1
    }


def _label(kind: Kind, status: str | None, event: str, rule: Rule) -> str:
    joins = JOINS if kind is Kind.QUESTION else ()
    notes = [f"join, {_readable(j.when)}" for j in joins if (j.status, j.event) == (status, event)]
    if rule.outbox is not None:
        notes.append(f"also to {rule.outbox}")
    return f"{event} ({', '.join(notes)})" if notes else event


def _endings(table: Table) -> Iterator[str]:
    if any(rule.terminal for rule in table.values()):
        yield f"{ENDED} --> [*]"


def _readable(condition: str) -> str:
    return condition.replace(">=", "≥")


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}"


__all__ = ["pending_topics", "state_diagram"]
