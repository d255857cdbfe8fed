"""learn-1: batches become planner versions on real vLLM and verl while questions are answered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from mia_events.learning.versions import BASE
from ops.environments import find_train_environment, train_folder
from ops.errors import Refused
from ops.evidence.pieces import piece
from ops.evidence.record import Claim, Evidence
from ops.evidence.ttrl import Ran, Trial, learning_run
from ops.evidence.updates import Update

__all__ = ["TITLE", "claims", "evidence"]

TITLE: Final = "test-time training on real vLLM and verl: new versions answer, no question waits"
_ITEM: Final = "learn-1"
#: The embedded profile, as far as its first version and the answers of it.
_PROFILE: Final = Trial(batches=3, batch_size=4, anchors=4, weights=False)
#: Many updates, of smaller batches: what is timed does not depend on how many there are.
_UPDATES: Final = Trial(batches=12, batch_size=2)
_SHORT: Final = Trial(batches=3, batch_size=2)
_LEAST, _LEAST_SHORT = 10, 2
_PROMISED_S: Final = 300.0
_MEMORY_GIB: Final = 24.0
#: CPU instructions that make bf16 as fast as it can be: the promised time is for such machines.
_BF16: Final = ("avx512_bf16", "amx_bf16")


async def evidence(*, short: bool = False) -> Evidence:
    """Train on batch after batch of a benchmark, one batch behind the answers.

    Each of the two runs is kept once it was made, so that they may be made one by one.
    """
    if find_train_environment(train_folder()) is None:
        raise Refused("there is no train environment", "Make it with `make env-train`.")
    if short:
        ran = await learning_run(_SHORT)
        return Evidence(figures=_figures(ran), claims=claims(ran, ran, least=_LEAST_SHORT))
    profile = await piece(_ITEM, _PROFILE, Ran, partial(learning_run, _PROFILE))
    ran = await piece(_ITEM, _UPDATES, Ran, partial(learning_run, _UPDATES))
    figures = {"embedded profile": _figures(profile), "many updates": _figures(ran)}
    return Evidence(figures=figures, claims=claims(profile, ran, least=_LEAST))


def _figures(ran: Ran) -> dict[str, Any]:
    return {
        "trial": ran.trial,
        "commit": ran.commit,
        "cpu instructions for bf16": [name for name in _BF16 if name in _cpu_flags()],
        "seconds": ran.seconds,
        "ends": ran.ends,
        "batches": [one.told() for one in ran.made],
        "answers by version": ran.answers,
        "planner replies by version": ran.answered,
        "while an update was made": ran.meanwhile,
        "weights made again": ran.weights,
        "memory, GiB at most": ran.memory,
        "report": ran.report,
        "audit": ran.audit,
    }


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else ()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def claims(profile: Ran, ran: Ran, *, least: int) -> tuple[Claim, ...]:
    """Judge the embedded profile by its first version, and the other run by all of its."""
    trained = [one for one in ran.made if one.candidate]
    promoted = sum(one.training == "promoted" for one in trained)
    return (
        Claim(
            f"{len(trained)} updates were made of {len(ran.made)} batches, {promoted} promoted",
            len(trained) >= least,
        ),
        *_nothing_interrupted([profile, ran] if profile is not ran else [ran]),
        *_versions_used(ran),
        _in_time(profile.made),
        Claim(
            f"{len(ran.weights)} versions made again from the ledger are equal, bit by bit",
            bool(ran.weights) and all(one["verdict"] == "equal" for one in ran.weights),
        ),
        Claim(
            f"all parts together held {ran.memory['together']:.1f} GiB at most",
            0 < max(one.memory["together"] for one in (profile, ran)) < _MEMORY_GIB,
        ),
    )


def _nothing_interrupted(runs: Sequence[Ran]) -> tuple[Claim, ...]:
    asked = sum(one.trial.questions for one in runs)
    due = sum(one.trial.questions * one.trial.rollouts for one in runs)
    ends = {name: sum(one.ends[name] for one in runs) for name in runs[0].ends}
    whole = asked == ends["questions"] == ends["answered"] and all(one.clean for one in runs)
    return (
        Claim(f"{ends['answered']} of {asked} questions ended once, answered; clean", whole),
        Claim(
            f"all {ends['rollouts']} rollouts were graded, {ends['dead_letters']} dead letters",
            ends["rollouts"] == due and not ends["rollouts_not_graded"] + ends["dead_letters"],
        ),
    )


def _versions_used(ran: Ran) -> tuple[Claim, ...]:
    # A batch answers on what the batch before the last one left: the lag is 1.
    due = {one.policy for one in ran.made[:-2]} - {BASE}
    replies = sum(one.replies for one in ran.answered if one.pinned != BASE)
    busy = [one for one in ran.meanwhile if one.replies]
    return (
        Claim(
            f"answers were given by {', '.join(ran.answers)}; each version that was due is there",
            bool(due) and due <= ran.answers.keys(),
        ),
        Claim(
            f"{replies} of the planner's replies came from versions, all from the one that the"
            " rollout is pinned to",
            replies > 0 and all(one.kept for one in ran.answered),
        ),
        Claim(
            f"models replied to rollouts during {len(busy)} of {len(ran.meanwhile)} updates,"
            f" {sum(one.replies for one in busy)} times",
            2 * len(busy) > len(ran.meanwhile),
        ),
    )


def _in_time(made: Sequence[Update]) -> Claim:
    first = next((one for one in made if one.training == "promoted"), None)
    if first is None:
        return Claim("no version came to serve", holds=False)
    parts = {
        "consolidation and merge": first.consolidate_s + first.wait_s + first.merge_s,
        "training": first.train_s,
        "guard": first.guard_s,
        "loading (meanwhile)": first.load_s,
    }
    said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts.items() if seconds)
    return Claim(
        f"the first version served {first.total_s:.0f} s after its batch was complete: {said}",
        first.total_s <= _PROMISED_S,
    )
