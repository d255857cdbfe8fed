"""What travels over HTTP, as structs: the description is made of them, and tests hold to them."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from schemas.external import Paragraph, Text
from storage.postgres.watch import MemoryRow

__all__ = ["Answer", "AnswerMemory", "Asked", "Error", "Label", "Memories", "Step"]


class Asked(msgspec.Struct, kw_only=True):
    """A question. It goes before bulk work unless `urgent` is false. A field that carries its
    answer is refused.
    """

    question: Text
    run: str = "default"
    documents: tuple[Paragraph, ...] = ()
    images: tuple[str, ...] = ()
    urgent: bool = True


class Label(msgspec.Struct, kw_only=True):
    """A gold answer for `question` (our UUID), or for the `id` (Idempotency-Key) in `run`."""

    label: Text
    question: UUID | None = None
    run: str = "default"
    id: str | None = None


class AnswerMemory(msgspec.Struct, kw_only=True):
    """A memory that an answer rests on."""

    id: UUID
    outcome: str
    question: str
    text: str


class Answer(msgspec.Struct, kw_only=True):
    """A question as it stands. `status`: published, waiting, open, answered or failed; `ended` once
    it was judged and remembered too.
    """

    id: UUID
    status: str
    run: str | None = None
    question: str | None = None
    ended: bool = False
    answer: str | None = None
    reason: str | None = None
    grade: str | None = None
    rollout: int | None = None
    policy: str | None = None
    memories: list[AnswerMemory] = []
    sources: list[str] = []
    accepted_at: datetime | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None


class Step(msgspec.Struct, kw_only=True):
    """An event of a question (`rollout` None) or of one of its attempts; `data` is its payload."""

    id: UUID
    type: str
    at: datetime
    question: UUID | None
    rollout: int | None
    stream: UUID
    seq: int
    cause: UUID | None
    data: dict[str, Any] | None


class Memories(msgspec.Struct, kw_only=True):
    """Memories, newest first."""

    memories: list[MemoryRow]


class _Reason(msgspec.Struct, kw_only=True):
    code: str
    message: str


class Error(msgspec.Struct, kw_only=True):
    """Why a request was refused."""

    error: _Reason
