"""Free text out of a model's reply: plans and summaries."""

from __future__ import annotations

from mia_events.effects import ModelReply
from mia_events.grammar import after_thinking
from mia_events.quoting import clip, unfenced


def free_text(reply: ModelReply, limit: int) -> str:
    """What a reply says after its thinking, at most `limit` characters; empty when it failed.

    A small model repeats the fences of its request: they are no part of what it says. Of a reply
    that did not end by itself only whole lines are kept, as long as there is one.
    """
    if reply.problem:
        return ""
    text = unfenced(after_thinking(reply.text))
    if reply.finish_reason == "length" and "\n" in text:
        text = text.rpartition("\n")[0].rstrip()
    return clip(text, limit)


__all__ = ["free_text"]
