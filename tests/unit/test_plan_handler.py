"""The plan stage: what it asks, and what it makes of the replies."""

from typing import Any
from uuid import UUID

import pytest

from consumers.plan.fan_out import fan_out
from consumers.plan.route import route
from consumers.plan.settle import settle
from consumers.plan.write import write_plan
from mia_events import ids
from mia_events.effects import Call, Embed, Memories, ModelReply, Recall, Remembered, Vectors
from mia_events.lifecycle import Kind
from mia_events.steps import ModelChoice, Poison
from schemas.events import (
    QuestionAnswered,
    QuestionFailed,
    QuestionFannedOut,
    QuestionRerouted,
    QuestionRouted,
    QuestionSettling,
    RolloutChosen,
    RolloutFailed,
    RolloutOpened,
    RolloutPlanned,
    RolloutSubmitted,
)
from tests.support.drive import ROLES, VECTOR, drive, rollout, task, views
from tests.support.histories import (
    failed,
    opened,
    planned,
    proposed,
    question_opened,
    question_planned,
    question_routed,
)

MEMORY = UUID(int=7)
NOTHING = Memories(())


def test_a_question_starts_g_rollouts_on_its_generation_and_policy() -> None:
    """Each rollout is created with its number, pinned as the question is."""
    driven = drive(fan_out, task(Kind.QUESTION, question_opened(), rollouts=3))
    assert driven.event == QuestionFannedOut(rollouts=3)
    assert [rollout(number) for number in range(3)] == [o.stream for o in driven.step.orders]
    assert [0, 1, 2] == [order.number for order in driven.step.orders]
    assert RolloutOpened(number=1, generation=3, policy="planner@v2") == driven.step.orders[1].event


def test_a_plan_is_written_from_the_question_and_its_memories() -> None:
    """The event says which memories it rests on and which planner wrote it."""
    memory = Remembered(
        id=MEMORY, version=1, text="1. Try.", question="Who?", outcome="failure", score=0.5
    )
    reply = ModelReply(text="<think>hm</think>\n1. Search Waverley.")
    driven = drive(
        write_plan, task(Kind.ROLLOUT, opened()), Vectors((VECTOR,)), Memories((memory,)), reply
    )
    expected = RolloutPlanned(plan="1. Search Waverley.", memories=(MEMORY,), warnings=(MEMORY,))
    assert expected == driven.event
    assert driven.only(Embed).texts == ("Who wrote Waverley?",)
    user = driven.only(Call).messages[-1].content
    assert "Failed for a similar question:" in user
    assert user.endswith('<data name="question">\nWho wrote Waverley?\n</data>')


def test_planning_is_unconstrained_and_its_tokens_are_kept() -> None:
    """A trained turn is sampled freely by the rollout's own planner version."""
    history = [RolloutOpened(number=2, generation=3, policy="planner@v2")]
    driven = drive(
        write_plan, task(Kind.ROLLOUT, history), Vectors((VECTOR,)), NOTHING, ModelReply(text="1.")
    )
    call = driven.only(Call)
    assert (None, True, "planner@v2") == (call.schema, call.capture_tokens, call.model)
    assert driven.event.policy == "planner@v2"


@pytest.mark.parametrize("mode,expected", [("batch", 3), ("live", None)])
def test_memories_are_read_as_of_the_generation_unless_live(
    mode: str, expected: int | None
) -> None:
    """A batch sees its generation, a live question what is committed."""
    driven = drive(
        write_plan,
        task(Kind.ROLLOUT, opened(), mode=mode),
        Vectors((VECTOR,)),
        NOTHING,
        ModelReply(text="1."),
    )
    recall = driven.only(Recall)
    assert (expected, 2, 2) == (recall.generation, recall.successes, recall.failures)
    assert ("shelf", VECTOR) == (recall.scope, recall.vector)


def test_rollouts_of_a_question_sample_with_different_seeds() -> None:
    """Seeds differ by rollout number and repeat for the same one."""
    replies = (Vectors((VECTOR,)), NOTHING, ModelReply(text="1."))
    seeds = [
        drive(write_plan, task(Kind.ROLLOUT, opened(number)), *replies).only(Call).seed
        for number in (0, 1, 0)
    ]
    assert seeds[0] == seeds[2]
    assert seeds[0] != seeds[1]


def test_a_run_without_a_planner_is_poison() -> None:
    """A manifest that names no model for a role can never succeed."""
    with pytest.raises(Poison, match="names no model for 'embedder'"):
        drive(write_plan, task(Kind.ROLLOUT, opened(), roles={}))


def test_one_plan_is_routed_without_a_model() -> None:
    """With one live plan there is nothing to choose."""
    driven = drive(route, task(Kind.QUESTION, question_planned(2)), views(failed(0), planned(1)))
    assert QuestionRouted(order=(1,), method="single") == driven.event
    (order,) = driven.step.orders
    assert (rollout(1), RolloutChosen(role="candidate")) == (order.stream, order.event)
    assert frozenset({"planned"}) == order.when


def test_the_router_chooses_among_live_plans_only() -> None:
    """It sees plan texts with their numbers; the others follow in order of number."""
    driven = drive(
        route,
        task(Kind.QUESTION, question_planned()),
        views(planned(0, "1. A."), failed(1), planned(2, "1. C.")),
        Vectors((VECTOR,)),
        NOTHING,
        ModelReply(text='{"plan": 2}'),
    )
    assert QuestionRouted(order=(2, 0), method="router") == driven.event
    call = driven.only(Call)
    assert [0, 2] == (call.schema or {})["properties"]["plan"]["enum"]
    assert '<data name="plan 2">\n1. C.\n</data>' in call.messages[-1].content


def test_the_router_knows_what_similar_questions_taught() -> None:
    """It reads memories as of the question's generation, and they are quoted as notes."""
    memory = Remembered(
        id=MEMORY, version=1, text="1. Try.", question="Who?", outcome="failure", score=0.5
    )
    driven = drive(
        route,
        task(Kind.QUESTION, question_planned()),
        views(planned(0), planned(1)),
        Vectors((VECTOR,)),
        Memories((memory,)),
        ModelReply(text='{"plan": 1}'),
    )
    assert 3 == driven.only(Recall).generation
    note = 'Failed for a similar question:\n<data name="note">\nQuestion: Who?\n1. Try.\n</data>'
    assert driven.only(Call).messages[-1].content.startswith(note)


def remembered(question: str, outcome: Any, score: float) -> Remembered:
    """A memory whose text says what it is."""
    return Remembered(
        id=ids.memory_id("shelf", f"{outcome} {question}"),
        version=1,
        text=f"{outcome} of {question}",
        question=question,
        outcome=outcome,
        score=score,
    )


def told_to_the_router(*found: Remembered) -> list[str]:
    """The texts of its notes, in their order."""
    driven = drive(
        route,
        task(Kind.QUESTION, question_planned()),
        views(planned(0), planned(1)),
        Vectors((VECTOR,)),
        Memories(found),
        ModelReply(text='{"plan": 1}'),
    )
    recall = driven.only(Recall)
    assert (8, 8) == (recall.successes, recall.failures)
    said = driven.only(Call).messages[-1].content
    known = [one.text for one in found if one.text in said]
    return sorted(known, key=said.index)


def test_the_router_is_told_contrasts_the_nearest_first() -> None:
    """What worked and what failed for one question stand side by side, two pairs at most."""
    names = ("near", "middle", "far")
    found = [
        remembered(name, outcome, 1.0 / place)
        for outcome in ("success", "failure")
        for place, name in enumerate(names, 1)
    ]
    assert told_to_the_router(*found) == [
        "success of near", "failure of near", "success of middle", "failure of middle",
    ]  # fmt: skip


def test_without_contrasts_the_router_is_told_the_best_of_each() -> None:
    """A pair goes before what stands alone, however near that is."""
    found = (
        remembered("near", "success", 0.9),
        remembered("both", "success", 0.5),
        remembered("far", "success", 0.4),
        remembered("other", "failure", 0.8),
        remembered("both", "failure", 0.5),
    )
    assert told_to_the_router(*found) == [
        "success of both", "failure of both", "success of near", "failure of other",
    ]  # fmt: skip
    assert ["success of near", "success of far"] == told_to_the_router(*found[::2][:2])


def test_a_rollout_without_a_plan_is_no_choice_and_stands_last() -> None:
    """The router chooses among plans; what has none runs when all others have failed."""
    driven = drive(
        route,
        task(Kind.QUESTION, question_planned()),
        views(planned(0, ""), planned(1, "1. B."), planned(2, "1. C.")),
        Vectors((VECTOR,)),
        NOTHING,
        ModelReply(text='{"plan": 2}'),
    )
    assert (2, 1, 0) == driven.event.order
    assert [1, 2] == (driven.only(Call).schema or {})["properties"]["plan"]["enum"]


@pytest.mark.parametrize(
    "text,finish_reason,plan,problem",
    [
        ("<think>on and on", "length", "", "the planner's reply had no plan in it"),
        ("", "stop", "", "the planner's reply had no plan in it"),
        ("1. Search.\n2. Comp", "length", "1. Search.", ""),
        ("1. Sear", "length", "1. Sear", ""),
        ("1. Se\x00arch.", "stop", "1. Search.", ""),
    ],
)
def test_a_plan_that_is_missing_or_cut_off(
    text: str, finish_reason: str, plan: str, problem: str
) -> None:
    """No plan is said to be one, and no half step stands in one."""
    reply = ModelReply(text=text, finish_reason=finish_reason)
    driven = drive(write_plan, task(Kind.ROLLOUT, opened()), Vectors((VECTOR,)), NOTHING, reply)
    assert (plan, problem) == (driven.event.plan, driven.event.problem)


@pytest.mark.parametrize("train,expected", [(True, (1.0, 1.0, True)), (False, (0.3, 0.9, False))])
def test_a_run_that_trains_samples_plans_from_the_models_own_distribution(
    train: bool, expected: tuple[float, float, bool]
) -> None:
    """Whatever the planner's own sampling is."""
    roles = {**ROLES, "planner": ModelChoice(model="p", temperature=0.3, top_p=0.9)}
    rollout = task(Kind.ROLLOUT, opened(), train=train, roles=roles)
    driven = drive(write_plan, rollout, Vectors((VECTOR,)), NOTHING, ModelReply(text="1."))
    call = driven.only(Call)
    assert expected == (call.temperature, call.top_p, call.trained)


@pytest.mark.parametrize(
    "reply,method",
    [
        (ModelReply(text='{"plan": 1}'), "first: the router's reply was malformed"),
        (ModelReply(text="Plan two"), "first: the router's reply was malformed"),
        (ModelReply(text="", problem="503"), "first: the router failed"),
    ],
)
def test_a_router_that_fails_leaves_the_first_and_says_so(reply: ModelReply, method: str) -> None:
    """The ledger tells a choice from a fallback."""
    driven = drive(
        route,
        task(Kind.QUESTION, question_planned()),
        views(planned(0), failed(1), planned(2)),
        Vectors((VECTOR,)),
        NOTHING,
        reply,
    )
    assert QuestionRouted(order=(0, 2), method=method) == driven.event
    assert driven.only(Call).tolerate


def test_a_question_without_a_plan_fails() -> None:
    """When every rollout ended while planning, no answer can come."""
    driven = drive(route, task(Kind.QUESTION, question_planned(2)), views(failed(0), failed(1)))
    assert (QuestionFailed, "no_rollout_left") == (type(driven.event), driven.event.reason)


def test_the_candidates_answer_becomes_the_official_one() -> None:
    """It is committed with its lineage; the candidate is judged and the siblings run."""
    history = [*question_routed(1, 0, 2), QuestionSettling(candidate=1)]
    driven = drive(
        settle,
        task(Kind.QUESTION, history),
        views(planned(0), proposed(1, memories=(MEMORY,)), failed(2)),
    )
    expected = QuestionAnswered(
        answer="Scott", rollout=1, memories=(MEMORY,), sources=("Page 1", "Shared")
    )
    assert expected == driven.event
    assert [
        (rollout(0), RolloutChosen(role="sibling"), frozenset({"planned"})),
        (rollout(1), RolloutSubmitted(), frozenset({"proposed"})),
    ] == [(order.stream, order.event, order.when) for order in driven.step.orders]


def test_without_an_answer_the_next_in_the_routers_order_runs() -> None:
    """Ended rollouts are passed over; nothing else starts yet."""
    history = [*question_routed(1, 2, 0), QuestionSettling(candidate=1)]
    driven = drive(
        settle, task(Kind.QUESTION, history), views(planned(0), proposed(1, None), failed(2))
    )
    assert QuestionRerouted(candidate=0) == driven.event
    (order,) = driven.step.orders
    assert (rollout(0), RolloutChosen(role="candidate")) == (order.stream, order.event)


def test_the_answer_of_a_later_candidate_releases_earlier_ones() -> None:
    """A rollout that proposed nothing is judged too, as not attempted."""
    history = [
        *question_routed(1, 0),
        QuestionSettling(candidate=1),
        QuestionRerouted(candidate=0),
        QuestionSettling(candidate=0),
    ]
    driven = drive(settle, task(Kind.QUESTION, history), views(proposed(0), proposed(1, None)))
    assert driven.event.rollout == 0
    assert [RolloutSubmitted(), RolloutSubmitted()] == [o.event for o in driven.step.orders]


def test_with_no_rollout_left_the_question_fails() -> None:
    """The failure is stated, and no rollout stays open behind it."""
    history = [*question_routed(1), QuestionSettling(candidate=1)]
    driven = drive(
        settle, task(Kind.QUESTION, history), views(failed(0), proposed(1, None), opened(2))
    )
    assert driven.event.reason == "no_rollout_left"
    assert [
        (rollout(1), RolloutSubmitted()),
        (rollout(2), RolloutFailed(reason="no_rollout_left")),
    ] == [(order.stream, order.event) for order in driven.step.orders]
