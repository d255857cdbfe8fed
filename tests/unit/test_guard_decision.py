"""The guard's decision as a pure function of scores."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.learning.guard import GuardRules, Scores, decide, paired, scores_of
from mia_events.learning.rewards import WEIGHTS
from tests.support.groups import ended

RULES = GuardRules()
shares = st.floats(0, 1)
anchors = st.dictionaries(st.sampled_from("abcdefgh"), shares, min_size=1)
scores = st.builds(
    Scores,
    rewards=anchors,
    means=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("final", "first", "format", "decision", "tool"), shares)
    ),
    agreement=st.none() | shares,
    entropy=st.none() | st.floats(0, 5),
)


def made(*rewards: float, **changes: Any) -> Scores:
    """Scores on anchors named by their place."""
    values = {"means": {"final": 0.5}, "agreement": 0.6, "entropy": 1.0, **changes}
    return Scores(rewards={str(place): value for place, value in enumerate(rewards)}, **values)


def verdict(candidate: Scores, best: Scores, served: Scores | None = None) -> Any:
    """The decision over the anchors of `best`."""
    return decide(candidate, best, served, rules=RULES, anchors=len(best.rewards))


@given(scores)
def test_a_candidate_equal_to_the_best_is_never_held_back(one: Scores) -> None:
    """Learning nothing is no offence, and no new best either."""
    found = verdict(one, one)
    assert ("promoted", False, 0.0) == (found.verdict, found.best, found.difference)


@given(scores, scores, st.none() | scores)
def test_a_candidate_below_the_margin_is_never_promoted(
    candidate: Scores, best: Scores, served: Scores | None
) -> None:
    """Whatever else speaks for it."""
    pairs, difference = paired(candidate, best)
    found = verdict(candidate, best, served)
    if pairs and difference < -RULES.margin:
        assert found.verdict != "promoted"
    assert found.reasons
    assert not found.best or (found.verdict == "promoted" and difference > RULES.margin)


def test_a_mean_that_chance_may_have_made_is_held_back_on_request() -> None:
    """A standard error of the difference over anchors; what all anchors agree on is sure."""
    best = made(0.5, 0.5, 0.5, 0.5)
    lucky, sure = made(1.0, 1.0, 0.2, 0.5), made(0.6, 0.6, 0.6, 0.6)
    rules = GuardRules(margin=0.0, z=1.0)
    assert ["promoted"] * 2 == [
        decide(one, best, rules=GuardRules(margin=0.0), anchors=4).verdict for one in (lucky, sure)
    ]
    found = decide(lucky, best, rules=rules, anchors=4)
    assert "held_back" == found.verdict
    assert "+0.175 against the best on 4 anchors, give or take 1 x 0.197" in found.reasons[0]
    assert "promoted" == decide(sure, best, rules=rules, anchors=4).verdict


@given(scores, scores)
def test_who_asks_for_more_promotes_no_more(candidate: Scores, best: Scores) -> None:
    """Equal versions pass whatever is asked."""
    strict = GuardRules(z=1.5)
    one = decide(candidate, best, rules=strict, anchors=len(best.rewards))
    other = verdict(candidate, best)
    assert one.verdict != "promoted" or other.verdict == "promoted"
    assert "promoted" == decide(best, best, rules=strict, anchors=len(best.rewards)).verdict


def test_one_anchor_is_sure_of_nothing() -> None:
    """It has no spread."""
    rules = GuardRules(z=1.0)
    assert "held_back" == decide(made(1.0), made(0.5), rules=rules, anchors=1).verdict


@given(scores, scores)
def test_a_best_version_that_serves_is_never_rolled_back(candidate: Scores, best: Scores) -> None:
    """There is nothing better to go back to."""
    assert "rolled_back" != verdict(candidate, best).verdict
    assert "rolled_back" != verdict(candidate, best, best).verdict


def test_reasons_are_words_with_numbers() -> None:
    """They go into the event."""
    held = verdict(made(0.4, 0.4), made(0.6, 0.4))
    assert held.reasons == (
        "the candidate is 0.100 below the best on 2 anchors, 0.050 are allowed",
    )
    assert verdict(made(0.6, 0.4), made(0.6, 0.4)).reasons == (
        "+0.000 against the best on 2 anchors",
    )


def test_only_anchors_that_both_answered_are_compared() -> None:
    """An easy anchor that one of them lost to a broken judge is no advantage."""
    candidate, best = made(0.2), made(0.2, 1.0)
    assert (1, 0.0) == paired(candidate, best)
    assert "promoted" == verdict(candidate, best).verdict


def test_too_few_judged_anchors_hold_back() -> None:
    """Nobody is promoted on no evidence."""
    found = verdict(made(1.0), made(0.0, 0.0, 0.0))
    assert ("held_back", ("only 1 of 3 anchors were judged for both versions",)) == (
        found.verdict, found.reasons
    )  # fmt: skip
    assert "held_back" == decide(Scores(), Scores(), rules=RULES, anchors=0).verdict


@pytest.mark.parametrize(
    "changes,sign",
    [
        ({"agreement": 0.9}, "votes collapse: agreement rose from 0.60 to 0.90"),
        ({"entropy": 0.4}, "entropy is lost: 0.400 nats a token after 1.000"),
        ({"kl": 1.5}, "it is 1.500 nats a token from the base, 1 allowed"),
        (
            {"means": {"final": 0.4, "format": 0.3}},
            "it games the reward: form gained 0.100 while answers lost 0.100",
        ),
    ],
)
def test_signs_hold_back_what_the_mean_does_not_show(changes: dict[str, Any], sign: str) -> None:
    """The reward is the same or better in each case."""
    best = made(0.5, 0.5, means={"final": 0.5, "format": 0.2})
    candidate = made(0.6, 0.6, **{"means": best.means, **changes})
    found = verdict(candidate, best)
    assert "held_back" == found.verdict
    assert found.reasons[0].startswith(sign)


def test_agreement_on_better_answers_is_no_collapse() -> None:
    """Those who learn the answer agree on it."""
    best = made(0.5, 0.5)
    candidate = made(0.8, 0.8, agreement=1.0, means={"final": 0.8})
    assert ("promoted", True) == (verdict(candidate, best).verdict, verdict(candidate, best).best)


def test_signs_are_looked_for_against_the_parent() -> None:
    """A version is not charged for what its parent had already lost."""
    best, served = made(0.5, 0.5, entropy=1.0), made(0.5, 0.5, entropy=0.6)
    assert "promoted" == verdict(made(0.5, 0.5, entropy=0.4), best, served).verdict


def test_a_version_that_fell_gives_way_to_the_best() -> None:
    """Later scores of the version that serves undo its promotion."""
    best, served = made(0.6, 0.6), made(0.5, 0.5)
    found = verdict(made(0.3, 0.3), best, served)
    assert "rolled_back" == found.verdict
    assert found.reasons[-1].startswith("the version that serves is 0.100 below the best")
    assert "held_back" == verdict(made(0.3, 0.3), best, made(0.58, 0.58)).verdict


def test_chance_cannot_carry_the_bar_down() -> None:
    """A hundred steps of just under the margin: the best stays what they are compared with."""
    best = made(0.5)
    step = made(0.46)
    assert ("promoted", False) == (verdict(step, best).verdict, verdict(step, best).best)
    assert "held_back" == verdict(made(0.44), best, step).verdict


def test_scores_come_from_rollouts() -> None:
    """Means by anchor over what was judged; agreement and entropy over all."""
    found = scores_of(
        {
            "a": [ended(0, "correct"), ended(1, "incorrect")],
            "b": [ended(0, "correct"), ended(1, "unjudged")],
            "c": [ended(0, "unjudged")],
        },
        WEIGHTS["supervised"],
        kl=0.1,
    )
    assert pytest.approx({"a": 0.525, "b": 1.0}) == found.rewards
    assert pytest.approx(2 / 3) == found.means["final"]
    assert 1.0 == found.agreement
    assert found.entropy == pytest.approx((0.5 + 0.6 + 0.5) / 3)
    told = found.told("candidate")
    assert pytest.approx(0.7625) == told["candidate.reward"]
    assert {"candidate.final", "candidate.kl", "candidate.entropy"} < told.keys()


def test_rules_are_checked_when_they_are_read() -> None:
    """A misspelt rule is an error."""
    with pytest.raises(msgspec.ValidationError, match="margins"):
        msgspec.convert({"margins": 0.1}, GuardRules)
