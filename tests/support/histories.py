"""Histories of rollouts and questions up to the command a test is about."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

from schemas.events import (
    Grade,
    Payload,
    QuestionAsked,
    QuestionFannedOut,
    QuestionOpened,
    QuestionPlanned,
    QuestionRouted,
    RolloutChosen,
    RolloutFailed,
    RolloutFinished,
    RolloutJudged,
    RolloutOpened,
    RolloutPlanned,
    RolloutProposed,
    RolloutSubmitted,
    ToolReturned,
    TurnAnswered,
    TurnToolCalled,
)

Role = Literal["candidate", "sibling"]
SEARCHED = '{"thought": "t", "action": "search", "query": "Waverley"}'
ANSWERED = '{"thought": "t", "action": "answer", "answer": "Scott"}'


def opened(number: int = 0, generation: int = 3) -> list[Payload]:
    """A rollout that needs a plan."""
    return [RolloutOpened(number=number, generation=generation)]


def planned(
    number: int = 0,
    plan: str = "1. Search Waverley.",
    memories: tuple[UUID, ...] = (),
    warnings: tuple[UUID, ...] = (),
) -> list[Payload]:
    """A rollout that waits to be chosen."""
    return [*opened(number), RolloutPlanned(plan=plan, memories=memories, warnings=warnings)]


def chosen(
    number: int = 0, role: Role = "candidate", *, searches: int = 0, memories: tuple[UUID, ...] = ()
) -> list[Payload]:
    """A rollout whose next turn is due, after so many searches."""
    history: list[Payload] = [*planned(number, memories=memories), RolloutChosen(role=role)]
    for turn in range(1, searches + 1):
        history += called(turn)
        history.append(
            ToolReturned(
                turn=turn,
                ok=True,
                observation=f'<data name="result">\nfound {turn}\n</data>',
                sources=(f"Page {turn}", "Shared"),
            )
        )
    return history


def called(turn: int = 1, tool: str = "search", arguments: bytes = b"") -> list[Payload]:
    """An executor turn that asks for a tool."""
    raw = msgspec.Raw(arguments or b'{"query":"Waverley"}')
    return [TurnToolCalled(turn=turn, text=SEARCHED, tool=tool, arguments=raw)]


def answered(
    number: int = 0,
    role: Role = "candidate",
    *,
    answer: str | None = "Scott",
    searches: int = 1,
    memories: tuple[UUID, ...] = (),
) -> list[Payload]:
    """A rollout that reflects on its answer."""
    history = chosen(number, role, searches=searches, memories=memories)
    return [*history, TurnAnswered(turn=searches + 1, text=ANSWERED, answer=answer)]


def proposed(
    number: int = 0, answer: str | None = "Scott", memories: tuple[UUID, ...] = ()
) -> list[Payload]:
    """A candidate that waits for its question."""
    history = answered(number, answer=answer, memories=memories)
    return [*history, RolloutProposed(answer=answer)]


def submitted(answer: str | None = "Scott") -> list[Payload]:
    """A candidate that may be judged."""
    return [*proposed(answer=answer), RolloutSubmitted()]


def judged(
    number: int,
    grade: Grade,
    *,
    searches: int = 1,
    memories: tuple[UUID, ...] = (),
    warnings: tuple[UUID, ...] = (),
    plan: str = "1. Search Waverley.",
) -> list[Payload]:
    """A sibling that has ended with a grade."""
    unplanned = answered(number, "sibling", searches=searches)[2:]
    return [
        *planned(number, plan, memories, warnings),
        *unplanned,
        RolloutFinished(answer="Scott"),
        RolloutJudged(grade=grade, judge="judge-model"),
    ]


def failed(number: int = 0) -> list[Payload]:
    """A rollout that ended before it had a plan."""
    return [*opened(number), RolloutFailed(reason="dead_letter")]


def question_opened() -> list[Payload]:
    """A question that may start, on generation 3 and planner version 2."""
    return [
        QuestionAsked(text="Who wrote Waverley?", source="test", row="1"),
        QuestionOpened(position=0, batch=3, generation=3, policy="planner@v2"),
    ]


def question_planned(rollouts: int = 3) -> list[Payload]:
    """A question whose rollouts all have a plan or have ended."""
    return [*question_opened(), QuestionFannedOut(rollouts=rollouts), QuestionPlanned()]


def question_routed(*order: int) -> list[Payload]:
    """A question whose candidate runs."""
    return [*question_planned(len(order)), QuestionRouted(order=order, method="router")]


__all__ = [
    "ANSWERED", "SEARCHED", "Role", "answered", "called", "chosen", "failed", "judged", "opened",
    "planned", "proposed", "question_opened", "question_planned", "question_routed", "submitted",
]  # fmt: skip
