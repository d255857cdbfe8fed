"""What can happen to a stream: one frozen struct per event type, tagged by its name on the wire.

An event is at once the fact ("the plan was written") and, when the life cycle gives it a topic,
the command that the next stage consumes. Fields may be added with a default, never renamed,
retyped or removed while a retained record can hold them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args
from uuid import UUID

import msgspec

Grade: TypeAlias = Literal["correct", "incorrect", "not_attempted", "unjudged"]
#: Where a memory comes from: a run's own trajectories, or a file.
Trust: TypeAlias = Literal["distilled", "imported"]
FailureReason: TypeAlias = Literal[
    "no_answer", "dead_letter", "timed_out", "cancelled", "outcome_unknown", "no_rollout_left"
]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of every payload; unknown fields are tolerated: old readers survive new writers."""


class MemoryCandidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A memory that a question's trajectories support, or that was imported.

    `vector` is a unit vector of the embedder's dimension, `rollout` the number of the rollout it
    was distilled from, `category` the kind of fact that is asked for (empty: not classified). What
    is imported may bring the caption of its image, the id that it had, and a record of `uses`, of
    which `wins` went well.
    """

    dedupe_key: str
    text: str
    question: str
    outcome: Literal["success", "failure"]
    rollout: int
    plan: str = ""
    vector: tuple[float, ...] = ()
    trust: Trust = "distilled"
    category: str = ""
    caption: str = ""
    data_id: str = ""
    uses: int = 0
    wins: int = 0


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Credit for one retrieved memory: `won` when the question it served went well."""

    memory: UUID
    won: bool


# --- question ---------------------------------------------------------------------------------


class QuestionAsked(Event, frozen=True, kw_only=True, tag="question.asked"):
    """A question was accepted. (`source`, `row`, `pass_no`) identifies it within its run."""

    text: str
    source: str
    row: str
    pass_no: int = 0
    images: tuple[str, ...] = ()
    documents: str | None = None


class QuestionOpened(Event, frozen=True, kw_only=True, tag="question.opened"):
    """The question may start, pinned to a memory generation and a planner version.

    `position` is its place in the run, `batch` is None in live mode.
    """

    position: int
    batch: int | None = None
    generation: int
    policy: str = "base"


class QuestionFannedOut(Event, frozen=True, kw_only=True, tag="question.fanned_out"):
    """`rollouts` independent attempts were started."""

    rollouts: int


class QuestionPlanned(Event, frozen=True, kw_only=True, tag="question.planned"):
    """Every rollout has a plan or has ended."""


class QuestionRouted(Event, frozen=True, kw_only=True, tag="question.routed"):
    """The router's order of preference over rollout numbers; the first runs as the candidate."""

    order: tuple[int, ...]
    method: str = "single"


class QuestionSettling(Event, frozen=True, kw_only=True, tag="question.settling"):
    """The candidate rollout came to an end; the question must take its answer or the next one."""

    candidate: int


class QuestionRerouted(Event, frozen=True, kw_only=True, tag="question.rerouted"):
    """The candidate had no answer; rollout number `candidate` runs next."""

    candidate: int
    remaining: tuple[int, ...] = ()


class QuestionAnswered(Event, frozen=True, kw_only=True, tag="question.answered"):
    """The official answer, with the rollout that gave it and what it rests on."""

    answer: str
    rollout: int
    memories: tuple[UUID, ...] = ()
    sources: tuple[str, ...] = ()
    policy: str = "base"


class QuestionFailed(Event, frozen=True, kw_only=True, tag="question.failed"):
    """The question ended without an answer, for a stated reason."""

    reason: FailureReason
    detail: str = ""


class QuestionGraded(Event, frozen=True, kw_only=True, tag="question.graded"):
    """Every rollout of the question has ended."""


class QuestionConsolidated(Event, frozen=True, kw_only=True, tag="question.consolidated"):
    """The question is over: its grade, and what it leaves for memory."""

    grade: Grade = "unjudged"
    memories: tuple[MemoryCandidate, ...] = ()
    uses: tuple[MemoryUse, ...] = ()
    problem: str = ""


# --- rollout ----------------------------------------------------------------------------------


class RolloutOpened(Event, frozen=True, kw_only=True, tag="rollout.opened"):
    """Rollout number `number` (from 0) of its question starts with a plan to be written."""

    number: int
    generation: int
    policy: str = "base"


class RolloutPlanned(Event, frozen=True, kw_only=True, tag="rollout.planned"):
    """A plan was written, from these memories; `warnings` are those of them that told of failures.

    `problem` says why there is no plan.
    """

    plan: str
    memories: tuple[UUID, ...] = ()
    policy: str = "base"
    warnings: tuple[UUID, ...] = ()
    problem: str = ""


class RolloutChosen(Event, frozen=True, kw_only=True, tag="rollout.chosen"):
    """The question orders this rollout to run: before its answer (candidate) or after (sibling)."""

    role: Literal["candidate", "sibling"]


def _no_arguments() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class TurnToolCalled(Event, frozen=True, kw_only=True, tag="turn.tool_called"):
    """An executor turn asked for a tool with arguments that fit its schema (`arguments`: JSON)."""

    turn: int
    text: str
    tool: str
    arguments: msgspec.Raw = msgspec.field(default_factory=_no_arguments)


class TurnRejected(Event, frozen=True, kw_only=True, tag="turn.rejected"):
    """An executor turn did not parse; `observation` is what the model is told."""

    turn: int
    text: str
    observation: str


class ToolReturned(Event, frozen=True, kw_only=True, tag="tool.returned"):
    """A tool's result, quoted as data; `ok` is false for an error observation."""

    turn: int
    ok: bool
    observation: str
    sources: tuple[str, ...] = ()


class TurnAnswered(Event, frozen=True, kw_only=True, tag="turn.answered"):
    """The executor ended a phase; `answer` is None when its budget ran out first."""

    turn: int
    text: str
    answer: str | None = None


class RolloutReplanned(Event, frozen=True, kw_only=True, tag="rollout.replanned"):
    """Reflection asked for one supplementary plan."""

    plan: str


class RolloutProposed(Event, frozen=True, kw_only=True, tag="rollout.proposed"):
    """The candidate finished; it waits until its question has committed an answer.

    `problem` says what was wrong with the reflection on it.
    """

    answer: str | None = None
    problem: str = ""


class RolloutSubmitted(Event, frozen=True, kw_only=True, tag="rollout.submitted"):
    """The question has its answer: the proposed rollout may be judged."""


class RolloutFinished(Event, frozen=True, kw_only=True, tag="rollout.finished"):
    """A sibling finished and may be judged. `problem` as in `RolloutProposed`."""

    answer: str | None = None
    problem: str = ""


class RolloutJudged(Event, frozen=True, kw_only=True, tag="rollout.judged"):
    """The grade of the final answer; `parts` are the judge's own scores by name.

    `first_grade` is that of the answer before a supplementary plan, in runs that train; `basis` is
    what the grade rests on.
    """

    grade: Grade
    judge: str
    parts: dict[str, float] = {}
    reason: str = ""
    first_grade: Grade | None = None
    basis: Literal["label", "review", ""] = ""


class RolloutFailed(Event, frozen=True, kw_only=True, tag="rollout.failed"):
    """The rollout ended without a grade. It counts as ended, so that no group waits for it."""

    reason: FailureReason
    detail: str = ""


# --- batch, learner, run ----------------------------------------------------------------------


class BatchStarted(Event, frozen=True, kw_only=True, tag="batch.started"):
    """Batch `number` received its first question."""

    number: int


class BatchOpened(Event, frozen=True, kw_only=True, tag="batch.opened"):
    """The batch's questions may start, all on this memory generation and planner version."""

    number: int
    generation: int
    policy: str = "base"


class BatchClosed(Event, frozen=True, kw_only=True, tag="batch.closed"):
    """No further question joins the batch of `size` questions."""

    number: int
    size: int
    reason: Literal["full", "run_closed", "linger", "deadline"]


class BatchEnded(Event, frozen=True, kw_only=True, tag="batch.ended"):
    """Every question of the batch has ended."""

    number: int


class LearnerStarted(Event, frozen=True, kw_only=True, tag="learner.started"):
    """The run learns from its batches, one at a time, in order."""


class LearnerBatchReady(Event, frozen=True, kw_only=True, tag="learner.batch_ready"):
    """The next batch in order has ended: merge its memories."""

    number: int


class LearnerMerged(Event, frozen=True, kw_only=True, tag="learner.merged"):
    """Memory generation `generation` was written from batch `number`; training may follow."""

    number: int
    generation: int
    inserted: int = 0
    replaced: int = 0


class LearnerTrained(Event, frozen=True, kw_only=True, tag="learner.trained"):
    """Planner version `policy` was made from `groups` groups in `rows` turns; nobody is served by
    it before the guard has looked at it.

    The artifacts go by their SHA-256, as do the data; `metrics` are the trainer's, by name.
    """

    number: int
    generation: int
    policy: str
    parent: str
    adapter_sha256: str
    optimizer_sha256: str
    data_sha256: str
    groups: int
    rows: int
    metrics: dict[str, float] = {}


class LearnerUntrained(Event, frozen=True, kw_only=True, tag="learner.untrained"):
    """Nothing was made from batch `number`, for a reason in words; `policy` serves, and is not the
    best version so far: it is measured against that one.
    """

    number: int
    generation: int
    policy: str
    training: Literal["skipped", "failed"]
    problem: str
    metrics: dict[str, float] = {}


class LearnerSealed(Event, frozen=True, kw_only=True, tag="learner.sealed"):
    """Generation `generation` is final: its merge and its training decision are recorded.

    `policy` is the version that serves from here on, `candidate` the one that was decided on, with
    the guard's `scores` by name and its `reasons`; `best` is the version that the next one will be
    compared with. `holdout` has the mean reward on each question of the holdout, None where none
    was judged, of each version that was measured on it for the first time. `metrics` tell of a
    batch from which nothing was made.
    """

    number: int
    generation: int
    training: Literal["none_configured", "promoted", "held_back", "skipped", "failed", "timed_out"]
    policy: str = "base"
    problem: str = ""
    candidate: str = ""
    scores: dict[str, float] = {}
    reasons: tuple[str, ...] = ()
    best: str = ""
    holdout: dict[str, tuple[float | None, ...]] = {}
    metrics: dict[str, float] = {}


class RunCreated(Event, frozen=True, kw_only=True, tag="run.created"):
    """A run with its manifest, by the manifest's digest."""

    name: str
    manifest_sha256: str


class RunPaused(Event, frozen=True, kw_only=True, tag="run.paused"):
    """Admission, claims, timers and deadlines stand still."""


class RunResumed(Event, frozen=True, kw_only=True, tag="run.resumed"):
    """The run goes on; deadlines moved by `paused_seconds`."""

    paused_seconds: float


class RunClosed(Event, frozen=True, kw_only=True, tag="run.closed"):
    """No further question is admitted."""


class RunPolicySet(Event, frozen=True, kw_only=True, tag="run.policy_set"):
    """Batches that open from here on are served by `policy`: an operator's or the guard's order."""

    policy: str
    previous: str
    by: Literal["operator", "guard"]
    reason: str = ""


class RunFinished(Event, frozen=True, kw_only=True, tag="run.finished"):
    """Every accepted question has ended."""

    questions: int


class RunCancelled(Event, frozen=True, kw_only=True, tag="run.cancelled"):
    """The run was abandoned; what was open ended as cancelled."""


# --- facts of their own ------------------------------------------------------------------------


class LabelReceived(Event, frozen=True, kw_only=True, tag="label.received"):
    """A label for `question` was sealed; `commitment` is the salted SHA-256 of its value."""

    question: UUID
    commitment: str


class MemoryImported(Event, frozen=True, kw_only=True, tag="memory.imported"):
    """Memories came from a file: part `part` (from 0) of the file with this SHA-256.

    They were written to `scope` in the same transaction.
    """

    scope: str
    source: str
    sha256: str
    part: int
    memories: tuple[MemoryCandidate, ...]


# --- facts for users --------------------------------------------------------------------------


class DeadLetter(Event, frozen=True, kw_only=True, tag="dead_letter"):
    """What could not be handled, without its bytes: they are kept sealed under `sha256`."""

    error_class: str
    message: str
    origin: str
    sha256: str
    attempts: int = 0


Payload: TypeAlias = (
    QuestionAsked
    | QuestionOpened
    | QuestionFannedOut
    | QuestionPlanned
    | QuestionRouted
    | QuestionSettling
    | QuestionRerouted
    | QuestionAnswered
    | QuestionFailed
    | QuestionGraded
    | QuestionConsolidated
    | RolloutOpened
    | RolloutPlanned
    | RolloutChosen
    | TurnToolCalled
    | TurnRejected
    | ToolReturned
    | TurnAnswered
    | RolloutReplanned
    | RolloutProposed
    | RolloutSubmitted
    | RolloutFinished
    | RolloutJudged
    | RolloutFailed
    | BatchStarted
    | BatchOpened
    | BatchClosed
    | BatchEnded
    | LearnerStarted
    | LearnerBatchReady
    | LearnerMerged
    | LearnerTrained
    | LearnerUntrained
    | LearnerSealed
    | RunCreated
    | RunPaused
    | RunResumed
    | RunClosed
    | RunPolicySet
    | RunFinished
    | RunCancelled
    | LabelReceived
    | MemoryImported
    | DeadLetter
)

EVENT_TYPES: dict[str, type[Event]] = {
    str(cls.__struct_config__.tag): cls for cls in get_args(Payload)
}


def event_type(payload: Event) -> str:
    """The wire name of a payload, such as ``rollout.planned``."""
    return str(payload.__struct_config__.tag)


__all__ = [
    "EVENT_TYPES",
    "BatchClosed",
    "BatchEnded",
    "BatchOpened",
    "BatchStarted",
    "DeadLetter",
    "Event",
    "FailureReason",
    "Grade",
    "LabelReceived",
    "LearnerBatchReady",
    "LearnerMerged",
    "LearnerSealed",
    "LearnerStarted",
    "LearnerTrained",
    "LearnerUntrained",
    "MemoryCandidate",
    "MemoryImported",
    "MemoryUse",
    "Payload",
    "QuestionAnswered",
    "QuestionAsked",
    "QuestionConsolidated",
    "QuestionFailed",
    "QuestionFannedOut",
    "QuestionGraded",
    "QuestionOpened",
    "QuestionPlanned",
    "QuestionRerouted",
    "QuestionRouted",
    "QuestionSettling",
    "RolloutChosen",
    "RolloutFailed",
    "RolloutFinished",
    "RolloutJudged",
    "RolloutOpened",
    "RolloutPlanned",
    "RolloutProposed",
    "RolloutReplanned",
    "RolloutSubmitted",
    "RunCancelled",
    "RunClosed",
    "RunCreated",
    "RunFinished",
    "RunPaused",
    "RunPolicySet",
    "RunResumed",
    "ToolReturned",
    "Trust",
    "TurnAnswered",
    "TurnRejected",
    "TurnToolCalled",
    "event_type",
]
