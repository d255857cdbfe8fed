"""A learner that has made a version, and a world that answers what the guard asks."""

from __future__ import annotations

from typing import Any

from mia_events import ids
from mia_events.effects import (
    Call,
    Embed,
    Label,
    Memories,
    ModelReply,
    ReadLabel,
    Recall,
    ToolResult,
    UseTool,
    Vectors,
)
from mia_events.learning.guard import Anchor
from mia_events.lifecycle import Kind
from mia_events.steps import Task
from schemas.events import (
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerStarted,
    LearnerTrained,
    Payload,
)
from tests.support.drive import RUN, VECTOR, task
from tests.support.scripted_replies import asked_by, gold_for, logprob_of, reply_to, tokens_of

ANCHORS = tuple(
    Anchor(source="held", row=str(row), text=f"Which river passes town number {row}?")
    for row in range(4)
)
HOLDOUT = tuple(
    Anchor(source="unseen", row=str(row), text=f"Which lake lies near town number {row}?")
    for row in range(3)
)
LABELS = {
    ids.question_id(RUN, f"anchor:{one.source}", one.row): gold_for(one.text)
    for one in (*ANCHORS, *HOLDOUT)
}


def trained(number: int, policy: str, parent: str = "base", **metrics: float) -> list[Payload]:
    """A batch from its beginning to its update."""
    return [
        LearnerBatchReady(number=number),
        LearnerMerged(number=number, generation=number + 1),
        LearnerTrained(
            number=number,
            generation=number + 1,
            policy=policy,
            parent=parent,
            adapter_sha256="a" * 64,
            optimizer_sha256="b" * 64,
            data_sha256="c" * 64,
            groups=4,
            rows=8,
            metrics=metrics,
        ),
    ]


def guarding(*history: Payload, **changes: Any) -> Task:
    """The guard's task after this history of a learner."""
    values = {"train": True, "guard": "anchors", "anchors": ANCHORS, **changes}
    return task(Kind.LEARNER, [LearnerStarted(), *history], **values)


def sealed(number: int, policy: str, best: str = "") -> LearnerSealed:
    """A decision."""
    return LearnerSealed(
        number=number, generation=number + 1, training="promoted", policy=policy, best=best
    )


class World:
    """Answers effects by the script. `right` versions get every question right, `wrong` none, if
    its text has the words `about`; requests for those that are `gone` cannot be answered.
    `asked` is all that was asked for.
    """

    def __init__(
        self,
        *,
        right: frozenset[str] = frozenset(),
        wrong: frozenset[str] = frozenset(),
        about: str = "",
        gone: frozenset[str] = frozenset(),
    ) -> None:
        self.right, self.wrong, self.about, self.gone = right, wrong, about, gone
        self.asked: list[Any] = []

    def __call__(self, effect: Any) -> Any:
        """The reply."""
        self.asked.append(effect)
        match effect:
            case Call():
                return self._said(effect)
            case Embed():
                return Vectors((VECTOR,))
            case Recall():
                return Memories(())
            case UseTool():
                return ToolResult(ok=True, text="Nothing of note.")
            case ReadLabel():
                return Label(LABELS.get(effect.question))
        raise AssertionError(effect)

    def _said(self, call: Call) -> ModelReply:
        if call.model in self.gone and call.tolerate:
            return ModelReply(text="", finish_reason="error", problem="no server takes it")
        asked = asked_by(call, malformed_rate=0.0)
        text = self._verdict(call) or reply_to(asked)
        if asked.task == "plan":
            text = f"1. Search.\n2. Answer as {call.model} does."
        sampled = tokens_of(text)
        return ModelReply(
            text=text,
            model=call.model,
            prompt_ids=(1, 2),
            token_ids=tuple(number for number, _ in sampled),
            logprobs=tuple(logprob_of(piece, place) for place, (_, piece) in enumerate(sampled)),
            completion_tokens=len(sampled),
        )

    def _verdict(self, call: Call) -> str:
        """An executor follows the plan of its version, so a good plan brings a good answer."""
        said = "\n".join(message.content for message in call.messages)
        if call.role == "planner" and "Task: reflect" in said:
            return "no"
        if call.role != "executor" or self.about not in asked_by(call).block("question"):
            return ""
        if any(f"as {policy} does" in said for policy in self.wrong):
            return '{"thought": "", "action": "answer", "answer": "nowhere"}'
        if any(f"as {policy} does" in said for policy in self.right):
            gold = gold_for(asked_by(call).block("question"))
            return f'{{"thought": "", "action": "answer", "answer": "{gold}"}}'
        return ""

    @property
    def policies(self) -> set[str]:
        """The planner's versions that were asked."""
        return {one.model for one in self.asked if isinstance(one, Call) and one.role == "planner"}


__all__ = ["ANCHORS", "HOLDOUT", "LABELS", "World", "guarding", "sealed", "trained"]
