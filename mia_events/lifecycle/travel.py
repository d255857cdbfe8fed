"""What travels on which topic: read out of the life-cycle tables, never listed by hand."""

from __future__ import annotations

from typing import Final

import msgspec

from mia_events import topics
from mia_events.lifecycle.tables import TABLES
from mia_events.lifecycle.transitions import Kind

#: What each topic is for. The events on it come from the tables.
PURPOSE: Final[dict[str, str]] = {
    topics.QUESTION: "Questions from outside, in minimal JSON.",
    topics.PLAN: (
        "Fan a question out, write a rollout's plan, route among the plans, settle the answer."
    ),
    topics.EXECUTE: "Go on with a rollout: its first turn, after a tool, after a replan.",
    topics.TOOL_CALL: "One tool call with validated arguments.",
    topics.REFLECT: "A finished phase: is one more plan needed?",
    topics.JUDGE: "Grade a final answer; compare a new planner version with the best one.",
    topics.FEEDBACK: "Labels from outside; sealed on arrival, before anything is recorded.",
    topics.CONSOLIDATE: "Distil an ended question into memory; merge an ended batch.",
    topics.TRAIN: "A merged batch of groups, for the trainer's decision.",
    topics.POLICY: "Planner versions published, promoted, held back or rolled back.",
    topics.ANSWER: "The official answer with its lineage, or the stated failure.",
    topics.DEAD_LETTER: "What could not be handled: its class, where it came from, its digest.",
}


class Travel(msgspec.Struct, frozen=True, kw_only=True):
    """A topic, the event types that travel on it and the kinds of stream whose ids are its keys."""

    topic: str
    events: tuple[str, ...]
    kinds: tuple[Kind, ...]


def travels() -> tuple[Travel, ...]:
    """Every topic of `topics.ALL` with what the tables, or the dead-letter policy, put on it."""
    return tuple(_travel(topic) for topic in topics.ALL)


def _travel(topic: str) -> Travel:
    if topic == topics.DEAD_LETTER:
        return Travel(topic=topic, events=("dead_letter",), kinds=(Kind.FACT,))
    found = [
        (kind, event)
        for kind, table in TABLES.items()
        for (_, event), rule in table.items()
        if topic in (rule.topic, rule.outbox)
    ]
    events = tuple(dict.fromkeys(event for _, event in found))
    return Travel(topic=topic, events=events, kinds=tuple(dict.fromkeys(kind for kind, _ in found)))


__all__ = ["PURPOSE", "Travel", "travels"]
