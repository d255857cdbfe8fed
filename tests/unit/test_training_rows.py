"""From groups to rows: advantages within a group, tokens as they were recorded, and what is left
out.
"""

from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.effects import GroupView
from mia_events.learning.advantages import advantages
from mia_events.learning.job import Hyper
from mia_events.learning.prepare import prepare
from mia_events.learning.rewards import WEIGHTS
from mia_events.learning.rows import Sample, UntrainableTurn, data_sha256, rows_of
from tests.support.groups import ended, group, recorded, reply, turns
from tests.support.histories import judged

rewards = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def prepared(*groups: GroupView, **hyper: Any) -> Any:
    """Rows by the supervised weights."""
    return prepare(groups, weights=WEIGHTS["supervised"], hyper=Hyper(**hyper))


def rows(said: Any, **limits: int) -> Any:
    """The rows of one rollout that said this."""
    one = recorded(0, judged(0, "correct"), said)
    return rows_of(group(one), {0: Sample(1.0, 0.5)}, row_tokens=limits.get("row_tokens", 512))


def test_an_advantage_is_the_distance_to_the_mean_in_sample_deviations() -> None:
    """By hand: mean 0.5, sample standard deviation 0.577350."""
    expected = 0.5 / (0.5773502691896257 + 1e-6)
    assert pytest.approx((expected, -expected, expected, -expected)) == advantages(
        (1.0, 0.0, 1.0, 0.0), normalise=True
    )
    assert (0.5, -0.5) == advantages((1.0, 0.0), normalise=False)


@given(rewards, st.booleans())
def test_advantages_sum_to_nothing_and_keep_the_order(values: list[float], normalise: bool) -> None:
    """What one rollout gains its siblings lose."""
    found = advantages(values, normalise=normalise)
    assert pytest.approx(0.0, abs=1e-9) == sum(found)
    ranked = sorted(range(len(values)), key=values.__getitem__)
    assert sorted(found) == [found[place] for place in ranked]


@given(st.floats(0, 1), st.integers(2, 8), st.booleans())
def test_equal_rewards_teach_nothing(value: float, size: int, normalise: bool) -> None:
    """Exact zeros, not what rounding leaves."""
    assert (0.0,) * size == advantages((value,) * size, normalise=normalise)


def test_a_group_of_one_has_no_advantage() -> None:
    """There is nothing to compare it with."""
    with pytest.raises(ValueError, match="group of 1"):
        advantages((1.0,), normalise=True)


def test_a_row_is_a_turn_token_for_token() -> None:
    """Nothing is added, cut or tokenised again; all turns of a rollout share its advantage."""
    found = prepared(group()).rows
    assert [(0, "plan"), (0, "reflect"), (1, "plan"), (1, "reflect"), (1, "replan")] == [
        (row.rollout, row.step) for row in found
    ]
    assert ((1, 2, 3), (10, 11), (-0.5, -0.6)) == (
        found[0].prompt_ids, found[0].token_ids, found[0].logprobs
    )  # fmt: skip
    assert {(0, 1.0), (1, 0.1)} == {(row.rollout, round(row.reward, 9)) for row in found}
    assert len({row.advantage for row in found}) == 2


@pytest.mark.parametrize(
    "changes,why",
    [
        ({"logprobs": (-0.5,)}, "1 log-probabilities for 2 tokens"),
        ({"logprobs": (-0.5, nan)}, "no finite number"),
        ({"logprobs": (-inf, -0.5)}, "no finite number"),
        ({"prompt_ids": ()}, "without its tokens"),
        ({"token_ids": (), "logprobs": ()}, "without its tokens"),
        ({"uncaptured": "the server has no logprobs"}, "the server has no logprobs"),
        ({"problem": "error"}, "its call failed"),
    ],
)
def test_a_turn_that_does_not_fit_together_is_named(changes: dict[str, Any], why: str) -> None:
    """W-12: it is an error that names the effect, never a row of something else."""
    with pytest.raises(UntrainableTurn, match=f"the plan turn of rollout 0.*effect 2 of.*{why}"):
        rows(turns(0, ("plan", reply("1. Search.", **changes))))


def test_a_row_is_never_cut_to_its_limit() -> None:
    """Five tokens fit into five and not into four."""
    said = turns(0, ("plan", reply("1. Search.")))
    assert len(rows(said, row_tokens=5)) == 1
    with pytest.raises(UntrainableTurn, match="5 tokens, a row holds 4"):
        rows(said, row_tokens=4)


def test_a_broken_turn_costs_its_group_where_equal_rewards_count_too() -> None:
    """With divergence in the loss, equal rewards are used beside a group with a difference."""
    broken = recorded(0, judged(0, "correct"), turns(0, ("plan", reply("1. Search.", logprobs=()))))
    flat = group(broken, ended(1, "correct"), position=1)
    found = prepared(group(), flat, kl=0.1)
    assert (1, 0) == (found.trained, found.flat)
    assert prepared(group(), kl=0.1).rows == found.rows
    assert ["0 log-probabilities" in problem for problem in found.problems] == [True]


def test_a_turn_that_hit_its_limit_trains() -> None:
    """It says so, and is not gone."""
    found = rows(turns(0, ("plan", reply("1. Search", finish_reason="length"))))
    assert ["truncated"] == [row.status for row in found]


def test_a_turn_that_sampled_nothing_has_no_row() -> None:
    """There is no token to train."""
    silent = reply("", token_ids=(), logprobs=(), completion_tokens=0)
    assert ["plan"] == [
        row.step for row in rows(turns(0, ("plan", reply("1. Go.")), ("reflect", silent)))
    ]


def test_rows_keep_the_version_that_sampled_them() -> None:
    """W-34: a batch may hold groups of several versions, and each row knows its own."""
    old = group(ended(0, policy="planner@v1"), ended(1, "incorrect", policy="planner@v1"))
    new = group(
        ended(0, policy="planner@v2"), ended(1, "incorrect", policy="planner@v2"), position=1
    )
    assert ["planner@v1"] * 4 + ["planner@v2"] * 4 == [
        row.policy for row in prepared(new, old).rows
    ]


def test_an_incomplete_batch_trains_with_what_it_has() -> None:
    """W-07, W-34: the size of a batch is no condition."""
    assert (1, 5) == (prepared(group()).trained, len(prepared(group()).rows))


def test_unjudged_rollouts_leave_the_comparison() -> None:
    """W-12: the mean is that of the judged ones, and the others have no rows."""
    mixed = group(ended(0), ended(1, "unjudged"), ended(2, "incorrect"))
    found = prepared(mixed)
    assert ({0, 2}, 1) == ({row.rollout for row in found.rows}, found.unjudged)
    assert pytest.approx((1.0 + 0.05) / 2) == found.means["reward"]


def test_groups_without_a_difference_are_left_out() -> None:
    """They are counted, and named as the reason when there is nothing else."""
    flat = group(ended(0), ended(1))
    lonely = group(ended(0), ended(1, "unjudged"), position=1)
    found = prepared(flat, lonely)
    assert ((), 0, 1, 1) == (found.rows, found.trained, found.flat, found.small)
    assert found.problem == (
        "nothing to compare: 1 groups with equal rewards, 1 with fewer than 2 judged rollouts"
    )
    assert prepared().problem == "the batch has no groups"
    assert prepared(group(position=2), flat).problem == ""


def test_a_flat_group_stays_where_divergence_counts() -> None:
    """With a KL term it has a gradient, as long as something else is to be learnt."""
    flat = group(ended(0), ended(1), position=1)
    assert [1, 2] == [prepared(group(), flat, kl=kl).trained for kl in (0.0, 0.1)]
    assert prepared(flat, kl=0.1).rows == ()


@given(st.permutations(range(4)))
def test_what_is_trained_does_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    """W-30: groups go by position, rollouts by number, and the digest with them."""
    groups = [group(ended(0), ended(1, "incorrect"), position=place) for place in range(4)]
    digest = data_sha256(prepared(*groups).rows)
    assert digest == data_sha256(prepared(*(groups[place] for place in order)).rows)
    backwards = group(ended(1, "incorrect"), ended(0))
    assert prepared(groups[0]).rows == prepared(backwards).rows


def test_siblings_share_nothing() -> None:
    """W-14: changing what one rollout said changes only the rows of that one."""
    one, other = ended(0), ended(1, "incorrect")
    said = turns(1, ("plan", reply("2. Another plan.")), ("reflect", reply("no")))
    changed = msgspec.structs.replace(other, turns=said)
    before, after = prepared(group(one, other)).rows, prepared(group(one, changed)).rows
    assert before[:2] == after[:2]
    assert before[2:] != after[2:]


def test_the_digest_notices_one_reward() -> None:
    """It covers every field of every row."""
    found = prepared(group()).rows
    flipped = (msgspec.structs.replace(found[0], reward=0.0), *found[1:])
    assert data_sha256(found) != data_sha256(flipped)
