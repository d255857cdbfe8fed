"""Groups as a trainer reads them: histories, and the planner's turns token for token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mia_events import ids
from mia_events.effects import GroupView, ModelReply, PlannerTurn, RolloutTurns
from schemas.envelope import encode_payload
from schemas.events import (
    Event,
    Grade,
    RolloutFinished,
    RolloutJudged,
    RolloutPlanned,
    RolloutReplanned,
    TurnAnswered,
)
from tests.support.drive import QUESTION, rollout
from tests.support.histories import answered

Said = Literal["plan", "reflect", "replan"]


def reply(text: str, **changes: Any) -> ModelReply:
    """A captured reply: a token for each word, with ids and log-probabilities of its own."""
    words = text.split() or [""]
    values: dict[str, Any] = {
        "text": text,
        "prompt_ids": (1, 2, 3),
        "token_ids": tuple(10 + place for place in range(len(words))),
        "logprobs": tuple(-0.5 - place / 10 for place in range(len(words))),
        "completion_tokens": len(words),
        **changes,
    }
    return ModelReply(**values)


def turns(number: int, *said: tuple[Said, ModelReply]) -> tuple[PlannerTurn, ...]:
    """The planner's turns of a rollout, each an effect of an event of its own."""
    return tuple(
        PlannerTurn(
            step=step, event_id=ids.event_id(rollout(number), place), ordinal=2, reply=given
        )
        for place, (step, given) in enumerate(said, 1)
    )


def ended(
    number: int = 0,
    grade: Grade = "correct",
    *,
    said: str = "no",
    first_grade: Grade | None = None,
    policy: str = "base",
    searches: int = 1,
) -> RolloutTurns:
    """A judged rollout whose planner said `said` when asked whether to go on."""
    history: list[Event] = []
    for event in answered(number, "sibling", searches=searches):
        planned = isinstance(event, RolloutPlanned)
        history.append(msgspec.structs.replace(event, policy=policy) if planned else event)
    spoken: list[tuple[Said, ModelReply]] = [
        ("plan", reply("1. Search.")),
        ("reflect", reply(said)),
    ]
    if said == "yes":
        history += [
            RolloutReplanned(plan="1. More."),
            TurnAnswered(turn=searches + 2, text="", answer="Sir Walter"),
        ]
        spoken.append(("replan", reply("1. More.")))
    history += [
        RolloutFinished(answer="Scott"),
        RolloutJudged(grade=grade, judge="judge-model", first_grade=first_grade),
    ]
    return recorded(number, history, turns(number, *spoken))


def recorded(number: int, history: Sequence[Event], said: tuple[PlannerTurn, ...]) -> RolloutTurns:
    """A rollout with this history and these turns."""
    bodies = tuple(msgspec.Raw(encode_payload(event)) for event in history)
    return RolloutTurns(number=number, id=rollout(number), history=bodies, turns=said)


def group(*rollouts: RolloutTurns, position: int = 0) -> GroupView:
    """A group at a position; without rollouts one right and one wrong."""
    return GroupView(
        question=ids.question_id(QUESTION.id, "group", str(position)),
        position=position,
        rollouts=rollouts or (ended(0), ended(1, "incorrect", said="yes", first_grade="incorrect")),
    )


__all__ = ["Said", "ended", "group", "recorded", "reply", "turns"]
