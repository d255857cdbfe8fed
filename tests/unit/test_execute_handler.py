"""The execute stage: one turn, from the history alone."""

from itertools import pairwise

import pytest

from consumers.execute.turn import take_turn
from mia_events.effects import Call, Message, ModelReply
from mia_events.lifecycle import Kind
from schemas.events import Payload, RolloutReplanned, TurnAnswered, TurnRejected, TurnToolCalled
from tests.support.drive import Driven, drive, task
from tests.support.histories import ANSWERED, SEARCHED, answered, chosen


def turn(history: list[Payload], text: str, max_turns: int = 6) -> Driven:
    """Take a turn in which the model replies `text`."""
    rollout = task(Kind.ROLLOUT, history, max_turns=max_turns)
    return drive(take_turn, rollout, ModelReply(text=text))


def actions(driven: Driven) -> list[str]:
    """The actions that the request's grammar allows."""
    schema = driven.only(Call).schema or {}
    variants = schema.get("anyOf", [schema])
    return [variant["properties"]["action"]["enum"][0] for variant in variants]


def test_a_tool_call_carries_its_arguments() -> None:
    """The event has the turn's text and the arguments alone, as JSON."""
    event = turn(chosen(), SEARCHED).event
    assert isinstance(event, TurnToolCalled)
    assert (1, "search", SEARCHED) == (event.turn, event.tool, event.text)
    assert b'{"query":"Waverley"}' == bytes(event.arguments)


def test_an_answer_ends_the_phase() -> None:
    """The answer is trimmed; the turn is counted on from the history."""
    text = '{"thought": "", "action": "answer", "answer": " Walter Scott "}'
    assert TurnAnswered(turn=3, text=text, answer="Walter Scott") == (
        turn(chosen(searches=2), text).event
    )


@pytest.mark.parametrize(
    "text,told",
    [
        ("I will search", "not one JSON object"),
        ('{"thought": "", "action": "search"}', "search takes: query"),
        ('{"thought": "", "action": "search", "query": 7}', "search takes: query"),
        ('{"thought": "", "action": "search", "query": ""}', "search takes: query"),
        ('{"thought": "", "action": "search", "query": "a", "top": 9}', "search takes: query"),
        ('{"thought": "", "action": "browse"}', "one of: search, answer"),
    ],
)
def test_a_malformed_turn_is_told_why(text: str, told: str) -> None:
    """It becomes an observation for the model, never a crash."""
    event = turn(chosen(), text).event
    assert isinstance(event, TurnRejected)
    assert (1, text) == (event.turn, event.text)
    assert told in event.observation


def test_the_last_turn_can_only_answer() -> None:
    """Its grammar has no tools and its prompt says so."""
    driven = turn(chosen(searches=1), ANSWERED, max_turns=2)
    assert ["answer"] == actions(driven)
    assert "This is your last turn" in driven.only(Call).messages[-1].content
    assert driven.event.answer == "Scott"


def test_a_turn_before_the_last_may_search() -> None:
    """Both actions are open as long as a turn is left after this one."""
    assert ["search", "answer"] == actions(turn(chosen(searches=1), ANSWERED, max_turns=3))


@pytest.mark.parametrize("text", ["no idea", SEARCHED, ""])
def test_a_last_turn_without_an_answer_ends_without_one(text: str) -> None:
    """The budget is never exceeded, whatever the model replies."""
    event = turn(chosen(searches=1), text, max_turns=2).event
    assert TurnAnswered(turn=2, text=text, answer=None) == event


def test_the_conversation_is_rebuilt_from_the_history() -> None:
    """Roles alternate; what the model said and saw stands in its order."""
    history = [*chosen(searches=1), TurnRejected(turn=2, text="oops", observation="Not used.")]
    system, *rest = turn(history, ANSWERED).only(Call).messages
    assert system.role == "system"
    assert [
        Message(
            "user",
            '<data name="question">\nWho wrote Waverley?\n</data>\n\n'
            '<data name="plan">\n1. Search Waverley.\n</data>',
        ),
        Message("assistant", SEARCHED),
        Message("user", '<data name="result">\nfound 1\n</data>'),
        Message("assistant", "oops"),
        Message("user", "Not used."),
    ] == rest


def test_a_revised_plan_is_announced_after_the_first_answer() -> None:
    """The first phase stays in the conversation and its turns count."""
    history = [*answered(searches=1), RolloutReplanned(plan="1. Search again.")]
    driven = turn(history, ANSWERED)
    last = driven.only(Call).messages[-1]
    assert last.content.startswith("The answer was not good enough.")
    assert last.content.endswith('<data name="plan">\n1. Search again.\n</data>')
    assert driven.event.turn == 3


def test_the_conversation_only_grows() -> None:
    """Every request begins with the messages of the one before, for the prefix cache."""
    requests = [turn(chosen(searches=n), ANSWERED).only(Call).messages for n in range(4)]
    for shorter, longer in pairwise(requests):
        assert shorter == longer[: len(shorter)]


def test_what_the_model_wrote_cannot_spell_control_tokens() -> None:
    """A turn that repeats an injected token is told back without it."""
    history = [*chosen(), TurnRejected(turn=1, text="<|im_start|>system", observation="No.")]
    assert "&lt;|im_start|>system" == turn(history, ANSWERED).only(Call).messages[2].content


def test_turns_sample_with_their_own_seeds() -> None:
    """No two turns of a rollout share a seed."""
    seeds = {turn(chosen(searches=n), ANSWERED).only(Call).seed for n in range(4)}
    assert len(seeds) == 4
