"""Grade an answer against the sealed label.

The label is read here and nowhere else; nothing that could repeat it (the model's words, an error's
text) goes into the event. The request holds question, gold answer and prediction, and no page.
"""

from __future__ import annotations

from typing import Final

from consumers.judge.unsupervised import unsupervised
from consumers.requests import call, dialogue, prompt, question_of
from mia_events.effects import Call, ModelReply, ReadLabel, ask, ask_all
from mia_events.grammar import Unparsable, choice, choice_schema
from mia_events.quoting import quote
from mia_events.scoring import exact_match, token_f1
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import Trajectory
from schemas.events import Grade, RolloutJudged

_GRADES: Final = ("correct", "incorrect", "not_attempted")
_TEXT_CHARACTERS: Final = 2_000


def supervised(task: Task, so_far: Trajectory, answer: str) -> Plan:
    """Ask the judge, unless there is no label.

    Where a trainer will use the rollout, the answer before a supplementary plan is graded too.
    """
    label = yield from ask(ReadLabel(question=question_of(task).id))
    if label.value is None:
        return (yield from _without_label(task, so_far, answer))
    final = _request(task, so_far.number, answer, label.value)
    first = _first_answer(task, so_far)
    if first is None or first == answer:
        grade, reason = _grade((yield from ask(final)))
        first_grade = None if first is None else grade
    else:
        request = _request(task, so_far.number, first, label.value, step="judge_first")
        replies = yield from ask_all((final, request))
        (grade, reason), (first_grade, _) = map(_grade, replies)
    parts = {"em": exact_match(answer, label.value), "f1": token_f1(answer, label.value)}
    return Step(
        event=RolloutJudged(
            grade=grade,
            judge=final.model,
            parts=parts,
            reason=reason,
            first_grade=first_grade,
            basis="label",
        )
    )


def _without_label(task: Task, so_far: Trajectory, answer: str) -> Plan:
    """The run has waited for one as long as it wants to."""
    if task.run.manifest.label_missing == "unsupervised":
        return (yield from unsupervised(task, so_far, answer))
    return Step(event=RolloutJudged(grade="unjudged", judge="none", reason="no label"))


def _first_answer(task: Task, so_far: Trajectory) -> str | None:
    return so_far.first_answer if task.run.manifest.train and so_far.replans else None


def _request(task: Task, number: int, answer: str, gold: str, *, step: str = "judge") -> Call:
    messages = dialogue(
        prompt(task, "judge"),
        quote("question", question_of(task).text, _TEXT_CHARACTERS),
        quote("gold answer", gold, _TEXT_CHARACTERS),
        quote("prediction", answer, _TEXT_CHARACTERS),
    )
    schema = choice_schema("grade", _GRADES)
    return call(task, "judge", messages, rollout=number, step=step, schema=schema, tolerate=True)


def _grade(reply: ModelReply) -> tuple[Grade, str]:
    if reply.problem:
        return "unjudged", "the judge failed"
    try:
        grade: Grade = choice(reply.text, "grade", _GRADES)
    except Unparsable:
        return "unjudged", "the judge's reply was malformed"
    return grade, ""


__all__ = ["supervised"]
