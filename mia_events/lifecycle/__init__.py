"""One transition table per kind of stream."""

from mia_events.lifecycle.tables import BATCH, JOINS, LEARNER, QUESTION, ROLLOUT, RUN, TABLES, Join
from mia_events.lifecycle.transitions import (
    ENDED,
    Kind,
    NoTransition,
    Phase,
    Rule,
    Table,
    advance,
    shared_rule,
)

__all__ = [
    "BATCH",
    "ENDED",
    "JOINS",
    "LEARNER",
    "QUESTION",
    "ROLLOUT",
    "RUN",
    "TABLES",
    "Join",
    "Kind",
    "NoTransition",
    "Phase",
    "Rule",
    "Table",
    "advance",
    "shared_rule",
]
