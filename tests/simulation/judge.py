"""The verdict on a seed: simulate, check, compare with the undisturbed run."""

from functools import lru_cache

import msgspec

from tests.simulation.check import digest_of, findings, versions_of
from tests.simulation.scenario import Scenario, undisturbed
from tests.simulation.simulate import simulate

__all__ = ["Verdict", "judge", "judge_scenario"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one simulation."""

    scenario: Scenario
    findings: tuple[str, ...]
    digest: str
    finished: float | None
    trace: tuple[str, ...]
    command: str

    @property
    def headline(self) -> str:
        """One paragraph: what is wrong, and how to see it again."""
        return "\n  ".join([f"FAILED: {self.command}", *self.findings[:5]])


def judge(seed: int, *, hurried: bool = False) -> Verdict:
    """The verdict on a seed's scenario."""
    scenario = Scenario.hurried(seed) if hurried else Scenario.drawn(seed)
    flag = " --hurried" if hurried else ""
    command = f"PYTHONHASHSEED=0 python -m tests.simulation --seed {seed}{flag}"
    return judge_scenario(scenario, command=command, compare=not hurried)


def judge_scenario(
    scenario: Scenario, *, command: str = "", compare: bool = True, limit_s: float = 2_000.0
) -> Verdict:
    """The verdict on any scenario. Outcomes that depend on time are not compared."""
    result = simulate(scenario, limit_s=limit_s)
    found = findings(result)
    digest = digest_of(result.db)
    if compare and result.finished is not None:
        calm = undisturbed(scenario)
        expected, versions, problems = _reference(calm)
        found += [f"undisturbed: {problem}" for problem in problems]
        if digest != expected:
            found.append(f"the digest is {digest[:12]}, undisturbed it is {expected[:12]}")
        if versions_of(result.db) != versions:
            found.append(f"versions are {versions_of(result.db)}, undisturbed {versions}")
    return Verdict(
        scenario=scenario,
        findings=tuple(found),
        digest=digest,
        finished=result.finished,
        trace=tuple(result.trace),
        command=command,
    )


@lru_cache(maxsize=64)
def _reference(calm: Scenario) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    result = simulate(calm)
    return digest_of(result.db), versions_of(result.db), tuple(findings(result))
