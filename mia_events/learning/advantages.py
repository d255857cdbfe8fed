"""Group-relative advantages, as in GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from typing import Final

_EPSILON: Final = 1e-6
_LEAST: Final = 2


def advantages(rewards: Sequence[float], *, normalise: bool) -> tuple[float, ...]:
    """How much better than its group's mean each rollout is: (n,) to (n,), n >= 2.

    With `normalise` in units of the sample standard deviation + 1e-6, else in units of reward
    (arXiv 2503.20783). Equal rewards give exact zeros. Raises `ValueError` for n < 2.
    """
    if len(rewards) < _LEAST:
        raise ValueError(f"a group of {len(rewards)} has nothing to compare; it takes {_LEAST}")
    if min(rewards) == max(rewards):
        return (0.0,) * len(rewards)
    mean = fsum(rewards) / len(rewards)
    if not normalise:
        return tuple(reward - mean for reward in rewards)
    variance = fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    scale = sqrt(variance) + _EPSILON
    return tuple((reward - mean) / scale for reward in rewards)


__all__ = ["advantages"]
