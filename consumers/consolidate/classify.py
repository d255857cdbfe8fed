"""What kind of fact a question asks for, by the memory manager."""

from __future__ import annotations

from typing import Final

from consumers.requests import call, dialogue, prompt, question_of
from mia_events.effects import Call, ModelReply
from mia_events.grammar import Unparsable, choice, choice_schema
from mia_events.quoting import quote
from mia_events.steps import Task

CATEGORIES: Final = (
    "location", "human", "time", "career", "process", "definition", "event", "function",
    "property", "others",
)  # fmt: skip


def classification(task: Task) -> Call:
    """The request: one category out of the list."""
    messages = dialogue(prompt(task, "classify"), quote("question", question_of(task).text))
    schema = choice_schema("category", CATEGORIES)
    return call(task, "manager", messages, step="classify", schema=schema, tolerate=True)


def category_of(reply: ModelReply) -> str:
    """The category, or nothing when the reply is none: `others` is a category, not a guess."""
    try:
        return "" if reply.problem else choice(reply.text, "category", CATEGORIES)
    except Unparsable:
        return ""


__all__ = ["CATEGORIES", "category_of", "classification"]
