"""A rollout in the shadow: the real handlers answer an anchor with a given planner version.

Nothing of it is a stream of the ledger: its effects are those of the guard's own step, its history
is built here by the rollout's life cycle and forgotten with the decision.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from consumers import execute, judge, plan, reflect, tool_call
from consumers.plan import dead_letter_step
from mia_events import ids, topics
from mia_events.effects import (
    Call,
    ModelReply,
    PlannerTurn,
    RolloutTurns,
    ToolResult,
    UseTool,
    Wanted,
)
from mia_events.learning.guard import Anchor
from mia_events.lifecycle import ROLLOUT, Kind, advance
from mia_events.steps import Plan, Poison, QuestionView, RunView, Stage, Step, Task
from schemas.envelope import encode_payload
from schemas.events import Payload, RolloutChosen, RolloutOpened, event_type

_STAGES: Final[Mapping[str, Stage]] = {
    topics.PLAN: plan.STAGE,
    topics.EXECUTE: execute.STAGE,
    topics.TOOL_CALL: tool_call.STAGE,
    topics.REFLECT: reflect.STAGE,
    topics.JUDGE: judge.STAGE,
}


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout to try: number `number` on the anchor by `policy`, on memory `generation` (in a
    live run on what there is: equal recalls are one, so no version sees more than another). A
    question of the holdout is tried like an anchor.

    `pass_no` tells rounds apart, where they should differ: the seeds are those of (anchor, round,
    number, step), and the same for every version.
    """

    run: RunView
    anchor: Anchor
    position: int
    pass_no: int
    number: int
    generation: int
    policy: str


def anchor_id(run: RunView, anchor: Anchor) -> UUID:
    """The id under which an anchor's label is sealed."""
    return ids.question_id(run.id, f"anchor:{anchor.source}", anchor.row)


def shadow(trial: Trial) -> Generator[Wanted, Any, RolloutTurns]:
    """Take the rollout from its opening to its end, as a sibling.

    A step that can never succeed ends it unjudged, as it would end a rollout that serves, and so
    does a request that can never be answered: other trials go on.
    """
    history: list[Payload] = []
    turns: list[PlannerTurn] = []
    event: Any = RolloutOpened(
        number=trial.number, generation=trial.generation, policy=trial.policy
    )
    rule = advance(Kind.ROLLOUT, ROLLOUT, None, event_type(event))
    while True:
        history.append(event)
        if rule.terminal:
            return _ended(trial, history, turns)
        if rule.topic is None:
            event = RolloutChosen(role="sibling")
        else:
            task = _task(trial, tuple(history), rule.status)
            handler = _STAGES[rule.topic][type(event)]
            event = (yield from _taken(handler(task), task, turns)).event
        rule = advance(Kind.ROLLOUT, ROLLOUT, rule.status, event_type(event))


def _taken(plan: Plan, task: Task, turns: list[PlannerTurn]) -> Generator[Wanted, Any, Step]:
    """A handler's step; what the planner replies on the way is kept.

    A tool that acts on the world is not called for a trial.
    """
    reply: Any = None
    while True:
        try:
            wanted = plan.send(reply)
        except StopIteration as stop:
            step: Step = stop.value
            return step
        except Poison as error:
            return dead_letter_step(task, error)
        if isinstance(wanted, UseTool) and not wanted.idempotent:
            reply = ToolResult(ok=False, text=f"{wanted.tool} is not there now")
            continue
        if not isinstance(wanted, Call):
            reply = yield wanted
            continue
        reply = yield msgspec.structs.replace(wanted, tolerate=True)
        if reply.problem and not wanted.tolerate:
            return dead_letter_step(task, Poison(reply.problem))
        if wanted.role == "planner":
            turns.append(_turn(task, reply, turns))


def _turn(task: Task, reply: ModelReply, turns: Sequence[PlannerTurn]) -> PlannerTurn:
    again = any(turn.event_id == task.event_id for turn in turns)
    decided: Literal["reflect", "replan"] = "replan" if again else "reflect"
    return PlannerTurn(
        step="plan" if isinstance(task.command, RolloutOpened) else decided,
        event_id=task.event_id,
        ordinal=0,
        reply=reply,
    )


def _task(trial: Trial, history: tuple[Payload, ...], status: str) -> Task:
    anchor, run = trial.anchor, trial.run
    question = QuestionView(
        id=anchor_id(run, anchor),
        text=anchor.text,
        source=f"anchor:{anchor.source}",
        row=anchor.row,
        pass_no=trial.pass_no,
        position=trial.position,
        documents=anchor.documents,
    )
    stream = ids.rollout_id(question.id, trial.number)
    return Task(
        run=run,
        question=question,
        stream=stream,
        kind=Kind.ROLLOUT,
        status=status,
        version=len(history),
        event_id=ids.event_id(stream, len(history)),
        history=history,
    )


def _ended(trial: Trial, history: Sequence[Payload], turns: Sequence[PlannerTurn]) -> RolloutTurns:
    return RolloutTurns(
        number=trial.number,
        id=ids.rollout_id(anchor_id(trial.run, trial.anchor), trial.number),
        history=tuple(msgspec.Raw(encode_payload(event)) for event in history),
        turns=tuple(turns),
    )


__all__ = ["Trial", "anchor_id", "shadow"]
