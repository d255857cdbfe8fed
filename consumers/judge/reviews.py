"""What a reviewer may say: a reason for people, a finding out of a list, a score from 1 to 10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mia_events.grammar import Unparsable, closed_schema, json_object

_REASON_CHARACTERS: Final = 200
_SCORES: Final = tuple(range(1, 11))
#: What each kind of review may find, the good first.
FINDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "logic": ("sound", "gap", "contradiction"),
    "sourcing": ("supported", "misread", "unsupported"),
    "validity": ("answered", "refused", "off_topic"),
}
KINDS: Final = tuple(FINDINGS)


class Review(msgspec.Struct, frozen=True):
    """One review, without its reason: that is model text about pages, and goes no further."""

    finding: str
    score: int


def review_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a review; the reason comes first, to be thought before the score."""
    reason = {"type": "string", "maxLength": _REASON_CHARACTERS}
    finding, score = {"enum": list(FINDINGS[kind])}, {"enum": list(_SCORES)}
    return closed_schema({"reason": reason, "finding": finding, "score": score})


def read_review(kind: str, text: str) -> Review:
    """A review from a model's reply. Raises `Unparsable`."""
    value = json_object(text)
    reason, finding, score = value.get("reason"), value.get("finding"), value.get("score")
    if set(value) != {"reason", "finding", "score"} or not isinstance(reason, str):
        raise Unparsable('send "reason", "finding" and "score", and nothing else')
    if finding not in FINDINGS[kind]:
        raise Unparsable(f'"finding" must be one of: {", ".join(FINDINGS[kind])}')
    if type(score) is not int or score not in _SCORES:
        raise Unparsable('"score" must be a whole number from 1 to 10')
    return Review(finding, score)


__all__ = ["FINDINGS", "KINDS", "Review", "read_review", "review_schema"]
