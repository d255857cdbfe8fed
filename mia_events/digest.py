"""The digest of a run: equal for equal outcomes, whatever happened on the way."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import msgspec

_encoder: Final = msgspec.json.Encoder(order="sorted")


class QuestionLine(msgspec.Struct, frozen=True, kw_only=True):
    """A question's outcome; `official` is the number of the rollout that gave the answer."""

    position: int
    source: str
    row: str
    pass_no: int
    status: str
    official: int | None
    answer: str | None
    grade: str | None


class MemoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """A memory version with its content's hash and the credits of all its versions."""

    dedupe_key: str
    version: int
    content: str
    outcome: str
    from_gen: int
    until_gen: int | None
    uses: int
    wins: int


def content_hash(*, question: str, text: str) -> str:
    """SHA-256 hex of what a memory says."""
    return sha256(f"{question}\x1f{text}".encode()).hexdigest()


def run_digest(questions: Iterable[QuestionLine], memories: Iterable[MemoryLine]) -> str:
    """SHA-256 hex of the questions by position and the memories by key and version.

    Times, attempts, ids and vectors are no part of it.
    """
    by_position = sorted(questions, key=lambda line: line.position)
    by_key = sorted(memories, key=lambda line: (line.dedupe_key, line.version))
    return sha256(_encoder.encode({"questions": by_position, "memories": by_key})).hexdigest()


__all__ = ["MemoryLine", "QuestionLine", "content_hash", "run_digest"]
