"""The topics by name, and the consumer group of each stage."""

from __future__ import annotations

from typing import Final

QUESTION: Final = "mia.question"
PLAN: Final = "mia.plan"
EXECUTE: Final = "mia.execute"
TOOL_CALL: Final = "mia.tool-call"
REFLECT: Final = "mia.reflect"
JUDGE: Final = "mia.judge"
FEEDBACK: Final = "mia.feedback"
CONSOLIDATE: Final = "mia.consolidate"
TRAIN: Final = "mia.train"
POLICY: Final = "mia.policy"
ANSWER: Final = "mia.answer"
DEAD_LETTER: Final = "mia.dead-letter"

#: Topics whose records are commands: a stage consumes them and each is one stream's pending event.
COMMANDS: Final = (PLAN, EXECUTE, TOOL_CALL, REFLECT, JUDGE, CONSOLIDATE, TRAIN)
#: Topics that anyone may write to.
INBOUND: Final = (QUESTION, FEEDBACK)
#: Topics for readers outside.
OUTBOUND: Final = (ANSWER, POLICY, DEAD_LETTER)
ALL: Final = (*INBOUND, *COMMANDS, *OUTBOUND)


def group_of(topic: str, prefix: str = "") -> str:
    """The consumer group that works on a topic."""
    return f"{prefix}{topic}.workers"


__all__ = [
    "ALL",
    "ANSWER",
    "COMMANDS",
    "CONSOLIDATE",
    "DEAD_LETTER",
    "EXECUTE",
    "FEEDBACK",
    "INBOUND",
    "JUDGE",
    "OUTBOUND",
    "PLAN",
    "POLICY",
    "QUESTION",
    "REFLECT",
    "TOOL_CALL",
    "TRAIN",
    "group_of",
]
