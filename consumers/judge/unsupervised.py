"""Grade a prediction without a label: three reviewers, then an area chair.

Pages that the answer rests on stand in the quoted record of two reviewers and nowhere else: what
the chair learns of a review is a finding out of a list and a score, which no page can word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from consumers.judge.reviews import KINDS, Review, read_review, review_schema
from consumers.requests import call, choice_of, dialogue, prompt, question_of
from consumers.trace import trace
from mia_events.effects import Call, Message, ModelReply, ask, ask_all
from mia_events.grammar import Unparsable, choice, choice_schema
from mia_events.quoting import quote
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import Trajectory
from schemas.events import Grade, RolloutJudged

_GRADES: Final = ("correct", "incorrect")
_TEXT_CHARACTERS: Final = 2_000


class _Case(msgspec.Struct, frozen=True):
    """What is judged."""

    task: Task
    so_far: Trajectory
    answer: str

    def quoted(self) -> tuple[str, str]:
        question = question_of(self.task).text
        return (
            quote("question", question, _TEXT_CHARACTERS),
            quote("prediction", self.answer, _TEXT_CHARACTERS),
        )


def unsupervised(task: Task, so_far: Trajectory, answer: str) -> Plan:
    """The chair's verdict; `parts` are the reviewers' scores, from 1 to 10."""
    case = _Case(task, so_far, answer)
    replies = yield from ask_all(tuple(_review(case, kind) for kind in KINDS))
    reviews, reason = _read(replies)
    parts = {kind: float(review.score) for kind, review in reviews.items()}
    if reason:
        return _judged(case, "unjudged", parts, reason)
    reply = yield from ask(_chair(case, tuple(reviews.items())))
    try:
        if reply.problem:
            return _judged(case, "unjudged", parts, "the area chair failed")
        return _judged(case, choice(reply.text, "grade", _GRADES), parts, "")
    except Unparsable:
        return _judged(case, "unjudged", parts, "the area chair's reply was malformed")


def _review(case: _Case, kind: str) -> Call:
    question, prediction = case.quoted()
    seen = {
        "logic": (quote("plan", case.so_far.plan, _TEXT_CHARACTERS), trace(case.so_far)),
        "sourcing": (trace(case.so_far),),
        "validity": (),
    }
    name = f"review_{kind}"
    messages = dialogue(prompt(case.task, name), question, *seen[kind], prediction)
    return _call(case, name, messages=messages, schema=review_schema(kind))


def _read(replies: Sequence[ModelReply]) -> tuple[dict[str, Review], str]:
    """The reviews that can be read, by kind, and what was wrong with one that cannot."""
    reviews: dict[str, Review] = {}
    reason = ""
    for kind, reply in zip(KINDS, replies, strict=True):
        if reply.problem:
            reason = reason or f"the reviewer of {kind} failed"
            continue
        try:
            reviews[kind] = read_review(kind, reply.text)
        except Unparsable:
            reason = reason or f"the review of {kind} was malformed"
    return reviews, reason


def _chair(case: _Case, reviews: Sequence[tuple[str, Review]]) -> Call:
    question, prediction = case.quoted()
    told = [f"{kind}: {review.finding}, {review.score} of 10" for kind, review in reviews]
    messages = dialogue(prompt(case.task, "chair"), question, prediction, "\n".join(told))
    return _call(case, "chair", messages=messages, schema=choice_schema("grade", _GRADES))


def _call(case: _Case, step: str, *, messages: tuple[Message, ...], schema: dict[str, Any]) -> Call:
    number = case.so_far.number
    return call(
        case.task, "judge", messages, rollout=number, step=step, schema=schema, tolerate=True
    )


def _judged(case: _Case, grade: Grade, parts: dict[str, float], reason: str) -> Step:
    model = choice_of(case.task, "judge").model
    return Step(
        event=RolloutJudged(grade=grade, judge=model, parts=parts, reason=reason, basis="review")
    )


__all__ = ["unsupervised"]
