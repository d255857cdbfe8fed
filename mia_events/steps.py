"""What a handler is given (a task) and what it gives back (a step)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec

from mia_events.effects import Wanted
from mia_events.learning.guard import Anchor, GuardRules
from mia_events.learning.job import Hyper
from mia_events.learning.rewards import Weights
from mia_events.lifecycle import Kind
from schemas.events import Event, MemoryCandidate, MemoryUse, Payload

E = TypeVar("E", bound=Event)


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role's model and sampling, as pinned by a run. `temperature` 0 is greedy.

    `context_tokens` is what prompt and reply may have together.
    """

    model: str
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    context_tokens: int = 8_192


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run's requests depend on, fixed at its creation.

    `prompts` maps a prompt's name to its text, `roles` a role to its model. `rollouts` is G,
    `batch_size` B, `lag` the generations a batch may be behind. `tools` are those that an executor
    may call, in the language `executor_grammar`; `judge` says who grades. `train`: planner turns
    are sampled as a trainer needs them. `memory_cap` is the most memories that a scope keeps in
    use, `memory_frequency` the weight of the paper's frequency term in a memory's score,
    `memory_search` whether words count beside the vector.

    `label_wait_s` is how long a supervised judge waits for a label that is not there when a rollout
    ends (None: not at all), `label_missing` what becomes of the rollout without one.

    What follows matters to a run that trains: `hyper` is how, `reward` for what (None: the judge's
    published weights), `staleness` the most versions that a group may be older than the one it
    updates; `guard` says whether a new version is compared with the best one before it serves (off:
    it serves at once), by `guard_rules` on the held-back `anchors`. On `holdout` every version is
    measured in the same step, with so many rollouts a question, and no decision depends on it.
    """

    mode: str = "live"
    rollouts: int = 1
    batch_size: int = 1
    lag: int = 0
    seed: int = 0
    deterministic: bool = False
    prompts: dict[str, str] = {}
    roles: dict[str, ModelChoice] = {}
    options: dict[str, Any] = {}
    tools: tuple[str, ...] = ("search",)
    executor_grammar: Literal["json", "tags"] = "json"
    judge: Literal["supervised", "unsupervised", "none"] = "supervised"
    train: bool = False
    hyper: Hyper = Hyper()
    staleness: int = 4
    reward: Weights | None = None
    guard: Literal["off", "anchors"] = "off"
    guard_rules: GuardRules = GuardRules()
    anchors: tuple[Anchor, ...] = ()
    holdout: tuple[Anchor, ...] = ()
    holdout_rollouts: Annotated[int, msgspec.Meta(ge=1)] = 1
    label_wait_s: float | None = None
    label_missing: Literal["unjudged", "unsupervised"] = "unjudged"
    max_turns: int = 6
    max_replans: int = 1
    question_deadline_s: float | None = None
    batch_linger_s: float | None = None
    batch_deadline_s: float | None = None
    max_in_flight: int = 256
    memory_cap: int = 100_000
    memory_frequency: float = 0.0
    memory_search: Literal["hybrid", "vector"] = "hybrid"
    code_version: str = ""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """The run a task belongs to."""

    run_no: int
    id: UUID
    name: str
    scope: str
    manifest: Manifest


class QuestionView(msgspec.Struct, frozen=True, kw_only=True):
    """The question a task serves. `documents` is the content hash of passages of its own."""

    id: UUID
    text: str
    source: str
    row: str
    pass_no: int
    position: int
    documents: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One claimed command: the stream's history up to it, oldest first; the last event is the
    command. `number` is the rollout's number or the learner's batch.
    """

    run: RunView
    question: QuestionView | None
    stream: UUID
    kind: Kind
    status: str
    version: int
    event_id: UUID
    history: tuple[Payload, ...]

    @property
    def command(self) -> Payload:
        """The event to be handled."""
        return self.history[-1]

    def last(self, kind: type[E]) -> E | None:
        """The newest event of a type in the history, or None."""
        found: Any = next((e for e in reversed(self.history) if type(e) is kind), None)
        return cast("E | None", found)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An event for another stream, applied when that stream is in one of `when`, else dropped.
    `when` empty: the stream is created. `number`: the rollout's number, for a creation.
    """

    kind: Kind
    stream: UUID
    event: Event
    when: frozenset[str] = frozenset()
    number: int | None = None


class MemoryWrite(msgspec.Struct, frozen=True, kw_only=True):
    """Memories to write in the same transaction as a generation `generation` (None: the scope's
    next), each with the question it came from, in order. Above `cap` memories (None: no limit) the
    scope retires its weakest.
    """

    scope: str
    generation: int | None
    candidates: tuple[tuple[UUID, MemoryCandidate], ...]
    uses: tuple[tuple[UUID, MemoryUse], ...]
    cap: int | None = None


class NewVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A planner version: number N of ``planner@vN``, its parent's name, its artifacts and data by
    SHA-256 (hex). `record` is JSON: its job without rows, what determined its bits, its metrics.
    """

    number: int
    name: str
    parent: str
    adapter_sha256: str
    optimizer_sha256: str
    data_sha256: str
    record: bytes


class PolicyWrite(msgspec.Struct, frozen=True, kw_only=True):
    """A training decision to register in the same transaction: `groups` are used up by `batch`
    (None: all that it could have used). `version` is what they made, None when nothing was made.
    """

    batch: int
    groups: tuple[UUID, ...] | None
    version: NewVersion | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What should happen: one event on the task's own stream, orders to others, memory, a version
    of the planner.
    """

    event: Event
    orders: tuple[Order, ...] = ()
    memory: MemoryWrite | None = None
    policy: PolicyWrite | None = None


class Poison(Exception):
    """The command can never succeed: dead-letter it now."""


class Transient(Exception):
    """It may succeed later: retry with back-off."""


class Late(Exception):
    """It should be tried again after `delay_s` seconds; not a failure of the command."""

    def __init__(self, message: str, delay_s: float) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class OutcomeUnknown(Poison):
    """A call that is not idempotent may have happened and left no result."""


class NonDeterminism(Poison):
    """A repeated step asked for something other than what was recorded for it."""


Plan: TypeAlias = Generator[Wanted, Any, Step]
Handler: TypeAlias = Callable[[Task], Plan]
#: Handlers of one stage, by the type of the event they handle.
Stage: TypeAlias = Mapping[type[Event], Handler]

__all__ = [
    "Handler",
    "Late",
    "Manifest",
    "MemoryWrite",
    "ModelChoice",
    "NewVersion",
    "NonDeterminism",
    "Order",
    "OutcomeUnknown",
    "Plan",
    "Poison",
    "PolicyWrite",
    "QuestionView",
    "RunView",
    "Stage",
    "Step",
    "Task",
    "Transient",
]
