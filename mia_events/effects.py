"""What a handler may ask for. It yields one of these and is sent the reply; the runner performs the
request, records the reply before the next one is made, and on a repeat reads it back instead.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from mia_events.learning.job import Parent, Trained, TrainJob
from schemas.events import Trust

R = TypeVar("R")


class Effect(msgspec.Struct, Generic[R], frozen=True, kw_only=True, tag_field="effect"):
    """A request whose reply has type R. Equal requests have equal canonical bytes."""


class Message(msgspec.Struct, frozen=True):
    """One chat message; `content` is plain text."""

    role: Literal["system", "user", "assistant"]
    content: str


class ModelReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chat completion. `prompt_ids`, `token_ids` and `logprobs` (natural log, one per sampled
    token) are there when the request asked for them, or `uncaptured` says why not; `problem` is
    set, and `text` empty, when a tolerated call failed for good.
    """

    text: str
    finish_reason: str = "stop"
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    uncaptured: str = ""
    problem: str = ""


class Call(Effect[ModelReply], frozen=True, kw_only=True, tag="call"):
    """A chat completion by the model in `role` (planner, executor, judge, manager, router).

    `model` is the served name pinned by the run (or the planner version). `schema` is a JSON Schema
    for grammar-constrained decoding (untrained roles only), `stop` ends the reply before it.
    `trained`: a trainer will use this turn, so it is sampled from the model's own distribution.
    `tolerate`: a failure for good is a reply with `problem` instead of the step's failure.
    """

    role: str
    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    schema: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()
    capture_tokens: bool = False
    trained: bool = False
    tolerate: bool = False


class Vectors(msgspec.Struct, frozen=True):
    """Unit vectors, one per text."""

    vectors: tuple[tuple[float, ...], ...]


class Embed(Effect[Vectors], frozen=True, kw_only=True, tag="embed"):
    """Embeddings of texts by the embedder."""

    model: str
    texts: tuple[str, ...]


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tool gave; `ok` is false for an error observation.

    `corpus` is the digest of what was searched, where the service tells one.
    """

    ok: bool
    text: str
    sources: tuple[str, ...] = ()
    corpus: str = ""


class UseTool(Effect[ToolResult], frozen=True, kw_only=True, tag="tool"):
    """One tool call with validated arguments, on behalf of a question."""

    tool: str
    arguments: dict[str, Any]
    question: UUID
    documents: str | None = None
    idempotent: bool = True


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A retrieved memory version with its score."""

    id: UUID
    version: int
    text: str
    question: str
    outcome: Literal["success", "failure"]
    score: float


class Memories(msgspec.Struct, frozen=True):
    """The read set of a retrieval: successes then failures, best first in each."""

    items: tuple[Remembered, ...]


class Recall(Effect[Memories], frozen=True, kw_only=True, tag="recall"):
    """The best `successes` + `failures` memories of a scope as of `generation` (None: the newest).

    `scope` is not part of the request's identity, so that runs over equal memories are equal.
    `text`: words of it count beside the vector (empty: the vector alone). `exact`: every memory is
    scored, whatever the size. `frequency`: the weight of the paper's term for memories used
    seldom. `trust`: only memories from there (empty: from anywhere).
    """

    scope: str
    vector: tuple[float, ...]
    generation: int | None
    successes: int = 2
    failures: int = 2
    text: str = ""
    exact: bool = False
    frequency: float = 0.0
    trust: tuple[Trust, ...] = ()


class Label(msgspec.Struct, frozen=True):
    """A gold answer, or None when there is none yet."""

    value: str | None


class ReadLabel(Effect[Label], frozen=True, kw_only=True, tag="label"):
    """The sealed label of a question. Its reply, and every later reply of the same step, is
    sealed.
    """

    question: UUID


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout's stream as its question sees it: `history` holds payload bodies in order."""

    number: int
    id: UUID
    ended: bool
    history: tuple[msgspec.Raw, ...]


class Rollouts(msgspec.Struct, frozen=True):
    """All rollouts of a question, by number."""

    items: tuple[RolloutView, ...]


class ReadRollouts(Effect[Rollouts], frozen=True, kw_only=True, tag="rollouts"):
    """The rollouts of a question from the ledger. Read only where they cannot change under the
    reader (all planned, proposed or ended), hence not recorded.
    """

    question: UUID


class ConsolidatedQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question's contribution to memory: the body of its last event, with its position."""

    question: UUID
    position: int
    body: msgspec.Raw


class Consolidated(msgspec.Struct, frozen=True):
    """A batch's questions by position."""

    items: tuple[ConsolidatedQuestion, ...]


class ReadBatch(Effect[Consolidated], frozen=True, kw_only=True, tag="batch"):
    """What the ended questions of a batch left for memory; immutable, hence not recorded."""

    run: UUID
    number: int


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A group that could be trained on: it has ended, two of its rollouts or more are judged, and
    no batch has used it. `policy` is the version that wrote its plans, `batch` None in live mode.
    """

    question: UUID
    position: int
    batch: int | None
    policy: str


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """Groups by position, and the version that served when they were listed: the next parent."""

    items: tuple[Candidate, ...]
    parent: Parent = Parent()


class ChooseGroups(Effect[Candidates], frozen=True, kw_only=True, tag="groups.choose"):
    """The groups of a run that no batch has used yet, of batches up to `number`. Recorded: a label
    that comes late adds to them.
    """

    run: UUID
    number: int


class PlannerTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A planner's reply, and the effect that it is recorded as: (`event_id`, `ordinal`)."""

    step: Literal["plan", "reflect", "replan"]
    event_id: UUID
    ordinal: int
    reply: ModelReply


class RolloutTurns(msgspec.Struct, frozen=True, kw_only=True):
    """An ended rollout: `history` holds payload bodies in order, `turns` are its planner's."""

    number: int
    id: UUID
    history: tuple[msgspec.Raw, ...]
    turns: tuple[PlannerTurn, ...]


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """All rollouts of an ended question, by number."""

    question: UUID
    position: int
    rollouts: tuple[RolloutTurns, ...]


class Groups(msgspec.Struct, frozen=True):
    """Groups in the order in which they were asked for."""

    items: tuple[GroupView, ...]


class ReadGroups(Effect[Groups], frozen=True, kw_only=True, tag="groups"):
    """What the planner said in ended groups, token for token; immutable, hence not recorded."""

    run: UUID
    questions: tuple[UUID, ...]


class Train(Effect[Trained], frozen=True, kw_only=True, tag="train"):
    """One update of the planner. Its artifacts are durable before the reply is recorded."""

    job: TrainJob


AnyEffect: TypeAlias = (
    Call
    | Embed
    | UseTool
    | Recall
    | ReadLabel
    | ReadRollouts
    | ReadBatch
    | ChooseGroups
    | ReadGroups
    | Train
)
#: Effects that read what can no longer change; performed again on a repeat, never recorded.
UNRECORDED: tuple[type[Any], ...] = (ReadRollouts, ReadBatch, ReadGroups)
#: Effects after which every reply of the step is kept in the sealed schema.
SEALING: tuple[type[Any], ...] = (ReadLabel,)


class Together(msgspec.Struct, frozen=True):
    """Effects to perform at once; they take consecutive ordinals and the reply is a tuple."""

    effects: tuple[AnyEffect, ...]


Wanted: TypeAlias = AnyEffect | Together


def ask(effect: Effect[R]) -> Generator[Wanted, Any, R]:
    """Yield one effect and be sent its reply, typed; used with ``yield from``."""
    reply: R = yield effect  # type: ignore[misc]  # every Effect subclass is in AnyEffect
    return reply


def ask_all(effects: tuple[Effect[R], ...]) -> Generator[Wanted, Any, tuple[R, ...]]:
    """Yield several effects of one kind at once; the replies are in their order."""
    replies: tuple[R, ...] = yield Together(effects)  # type: ignore[arg-type]
    return replies


__all__ = [
    "SEALING",
    "UNRECORDED",
    "AnyEffect",
    "Call",
    "Candidate",
    "Candidates",
    "ChooseGroups",
    "Consolidated",
    "ConsolidatedQuestion",
    "Effect",
    "Embed",
    "GroupView",
    "Groups",
    "Label",
    "Memories",
    "Message",
    "ModelReply",
    "PlannerTurn",
    "ReadBatch",
    "ReadGroups",
    "ReadLabel",
    "ReadRollouts",
    "Recall",
    "Remembered",
    "RolloutTurns",
    "RolloutView",
    "Rollouts",
    "Together",
    "ToolResult",
    "Train",
    "UseTool",
    "Vectors",
    "Wanted",
    "ask",
    "ask_all",
]
