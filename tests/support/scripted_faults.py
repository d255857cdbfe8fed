"""How the scripted model misbehaves on demand: by its options, or by words in a question.

A question may say ``[[sleep 0.2]]``, ``[[status 500 x2]]`` (the first two attempts of a request),
``[[hang x1]]``, ``[[malformed]]`` or ``[[drop x1]]`` (the connection breaks), each with the name of
a stage to restrict it to: ``[[status 429 x3 plan]]``. Without a count it is every attempt.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Literal

_MAGIC = re.compile(r"\[\[(sleep|status|hang|malformed|drop)((?: [\w.]+)*)\]\]")
_COUNT = re.compile(r"x(\d+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Faults:
    """What the whole server does.

    Rates are per attempt, chosen by the request's hash and the number of the attempt, so that a
    retry has its own luck and a repeated run the same.
    """

    latency: Literal["none", "fixed", "exponential"] = "none"
    latency_s: float = 0.0
    error_rate: float = 0.0
    busy_rate: float = 0.0
    drop_rate: float = 0.0
    hang_rate: float = 0.0
    malformed_rate: float = 0.08
    seed: int = 0


@dataclass(frozen=True)
class Fate:
    """What happens to one attempt of one request."""

    sleep_s: float = 0.0
    status: int = 200
    hang: bool = False
    drop: bool = False
    malformed: bool = False


def fate_of(faults: Faults, digest: str, attempt: int, task: str, question: str) -> Fate:
    """Decide from the options, then from the words in the question. `attempt` counts from 1."""
    luck = partial(_luck, faults.seed, digest, attempt)
    sleep_s = _latency(faults, luck("latency"))
    status = 200
    if luck("busy") < faults.busy_rate:
        status = 429
    if luck("error") < faults.error_rate:
        status = 500
    fate = Fate(
        sleep_s=sleep_s,
        status=status,
        hang=luck("hang") < faults.hang_rate,
        drop=luck("drop") < faults.drop_rate,
    )
    for name, words in _MAGIC.findall(question):
        fate = _told(fate, name, words.split(), attempt, task)
    return fate


def _told(fate: Fate, name: str, words: list[str], attempt: int, task: str) -> Fate:
    counts = [int(found.group(1)) for word in words if (found := _COUNT.fullmatch(word))]
    numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
    stages = [word for word in words if word.isalpha()]
    if (counts and attempt > counts[0]) or (stages and task not in stages):
        return fate
    return Fate(
        sleep_s=fate.sleep_s + (numbers[0] if name == "sleep" else 0.0),
        status=int(numbers[0]) if name == "status" else fate.status,
        hang=fate.hang or name == "hang",
        drop=fate.drop or name == "drop",
        malformed=fate.malformed or name == "malformed",
    )


def _latency(faults: Faults, luck: float) -> float:
    if faults.latency == "exponential":
        return -faults.latency_s * math.log(1.0 - luck)
    return faults.latency_s if faults.latency == "fixed" else 0.0


def _luck(*parts: object) -> float:
    text = "|".join(map(str, parts))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") / 2**64


__all__ = ["Fate", "Faults", "fate_of"]
