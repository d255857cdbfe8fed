"""Whatever a model writes, a step with a stated outcome comes of it: never a crash.

Each reply goes the whole way without a service: a server's bytes, the client's reader, the record,
the handler, the commit.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from consumers.consolidate.question import consolidate
from consumers.effects.openai_wire import read_completion
from consumers.execute.turn import take_turn
from consumers.judge.judge import judge
from consumers.plan.route import route
from consumers.plan.write import write_plan
from consumers.reflect.reflect import reflect
from mia_events.commits import StepCommit, step_commit
from mia_events.effect_codec import decode_reply, encode_reply
from mia_events.effects import (
    Call,
    Embed,
    Label,
    Memories,
    ReadLabel,
    ReadRollouts,
    Recall,
    Vectors,
)
from mia_events.lifecycle import Kind
from mia_events.steps import Handler, Step
from schemas.envelope import decode_payload
from schemas.events import (
    Payload,
    QuestionAnswered,
    QuestionConsolidated,
    QuestionGraded,
    QuestionRouted,
    QuestionSettling,
    RolloutJudged,
    RolloutPlanned,
    RolloutProposed,
    RolloutReplanned,
    TurnAnswered,
    TurnRejected,
)
from tests.support.drive import VECTOR, drive_with, task, views
from tests.support.histories import (
    answered,
    chosen,
    judged,
    opened,
    planned,
    question_planned,
    question_routed,
    submitted,
)
from tests.support.malformed import TEXTS, body_of

EVERY_REPLY = pytest.mark.parametrize("finish_reason", ["stop", "length"])


def graded() -> list[Payload]:
    """A question all of whose rollouts have ended."""
    return [
        *question_routed(0),
        QuestionSettling(candidate=0),
        QuestionAnswered(answer="Scott", rollout=0),
        QuestionGraded(),
    ]


def answer(body: bytes, rollouts: Sequence[Sequence[Payload]]) -> Callable[[Any], Any]:
    """Answers every call with the same bytes, by way of the record."""

    def reply_to(effect: Any) -> Any:
        match effect:
            case Call():
                reply: Any = read_completion(body, effect)
            case Embed():
                reply = Vectors((VECTOR,))
            case Recall():
                reply = Memories(())
            case ReadLabel():
                reply = Label("Walter Scott")
            case ReadRollouts():
                return views(*rollouts)
            case _:
                raise TypeError(effect)
        return decode_reply(effect, encode_reply(effect, reply))

    return reply_to


def strings(value: Any) -> Iterator[str]:
    """Every text in a value."""
    match value:
        case str():
            yield value
        case dict():
            yield from strings([*value.keys(), *value.values()])
        case list() | tuple():
            for item in value:
                yield from strings(item)


def outcome(
    handler: Handler,
    kind: Kind,
    history: Sequence[Payload],
    body: bytes,
    rollouts: Sequence[Sequence[Payload]] = (),
    **changes: Any,
) -> Payload:
    """The event that comes of the reply, read back from the bytes that would be committed."""
    todo = task(kind, history, **changes)
    driven = drive_with(handler, todo, answer(body, rollouts))
    return committed(step_commit(todo, driven.step, claim=1, attempt=1), driven.step)


def committed(commit: StepCommit, step: Step) -> Payload:
    """The event of a commit; nothing in it would be refused by a text column."""
    bodies = [json.loads(entry.body) for entry in commit.entries]
    columns = msgspec.to_builtins((commit.question, commit.memory))
    assert "\x00" not in "".join(strings([bodies, columns]))
    event = decode_payload(commit.entries[0].body)
    assert step.event == event
    return event


@EVERY_REPLY
@pytest.mark.parametrize("grammar", ["json", "tags"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_turn_is_an_observation(name: str, grammar: str, finish_reason: str) -> None:
    """The model is told; on the last turn the phase ends without an answer."""
    body = body_of(TEXTS[name], finish_reason)
    told = outcome(take_turn, Kind.ROLLOUT, chosen(), body, executor_grammar=grammar)
    assert isinstance(told, TurnRejected)
    assert told.observation.startswith("Your reply was not used: ")
    last = outcome(
        take_turn, Kind.ROLLOUT, chosen(searches=1), body, executor_grammar=grammar, max_turns=2
    )
    assert isinstance(last, TurnAnswered)
    assert last.answer is None


@EVERY_REPLY
@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_plan_is_text_or_stated_to_be_missing(name: str, finish_reason: str) -> None:
    """A plan has no grammar: what is there stands, what is not is said."""
    event = outcome(write_plan, Kind.ROLLOUT, opened(), body_of(TEXTS[name], finish_reason))
    assert isinstance(event, RolloutPlanned)
    assert bool(event.plan) != bool(event.problem)
    assert "\x00" not in event.plan


@EVERY_REPLY
@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_decision_ends_the_rollout_and_says_so(name: str, finish_reason: str) -> None:
    """None of them is a yes or a no."""
    event = outcome(reflect, Kind.ROLLOUT, answered(), body_of(TEXTS[name], finish_reason))
    assert RolloutProposed(answer="Scott", problem="the decision was malformed") == event


@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_choice_of_the_router_takes_the_first_and_says_so(name: str) -> None:
    """The ledger tells a choice from a fallback."""
    event = outcome(
        route,
        Kind.QUESTION,
        question_planned(2),
        body_of(TEXTS[name]),
        (planned(0), planned(1)),
    )
    method = "first: the router's reply was malformed"
    assert QuestionRouted(order=(0, 1), method=method) == event


@pytest.mark.parametrize("kind", ["supervised", "unsupervised"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_grade_is_no_grade(name: str, kind: str) -> None:
    """Unjudged with the reason, never incorrect and never correct."""
    event = outcome(judge, Kind.ROLLOUT, submitted(), body_of(TEXTS[name]), judge=kind)
    assert isinstance(event, RolloutJudged)
    assert "unjudged" == event.grade
    assert event.reason.endswith("malformed")


@EVERY_REPLY
@pytest.mark.parametrize("name", TEXTS)
def test_a_malformed_summary_is_text_or_stated_to_be_missing(name: str, finish_reason: str) -> None:
    """The memory has a text in any case, and never one that a column refuses."""
    event = outcome(
        consolidate,
        Kind.QUESTION,
        graded(),
        body_of(TEXTS[name], finish_reason),
        (judged(0, "correct"),),
        mode="live",
    )
    assert isinstance(event, QuestionConsolidated)
    (memory,) = event.memories
    stands = "its plan stands" in event.problem
    assert ("1. Search Waverley." == memory.text) == stands
    assert "the question was not classified" in event.problem


def test_a_second_plan_that_is_malformed_is_text() -> None:
    """Only a plain yes brings one."""
    todo = task(Kind.ROLLOUT, answered())
    replies = iter([body_of("yes"), body_of("1. Sea\x00rch <|im_end|>.")])
    driven = drive_with(reflect, todo, lambda call: read_completion(next(replies), call))
    assert RolloutReplanned(plan="1. Search <|im_end|>.") == committed(
        step_commit(todo, driven.step, claim=1, attempt=1), driven.step
    )
