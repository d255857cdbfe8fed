"""What a simulation is about: a run's shape, who works on it, and what goes wrong."""

from random import Random
from typing import Any

import msgspec

from consumers import prompts
from mia_events.learning.guard import Anchor, GuardRules
from mia_events.learning.job import Hyper
from mia_events.steps import Manifest, ModelChoice
from tests.simulation.chance import CALM, Faults

__all__ = ["Scenario", "undisturbed"]

_ROLES = ("planner", "executor", "judge", "manager", "router", "embedder")
_PROMPTS = prompts.load()


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A run of `questions` questions, worked on by `processes` processes of `slots` slots each."""

    seed: int
    mode: str
    questions: int
    rollouts: int
    batch_size: int
    lag: int
    max_in_flight: int
    processes: int
    slots: int
    partitions: int
    local_dispatch: bool
    lease_s: float = 4.0
    deadline_s: float | None = None
    moody: bool = False  #: the model answers the same request differently every time
    cautious: bool = False  #: the tool must not be repeated on a guess
    judge: str = "supervised"
    executor_grammar: str = "json"
    train: bool = False  #: batches become planner versions, by a scripted trainer
    anchors: int = 0  #: held-back questions on which versions are compared before they serve
    deadly_rate: float = 0.0  #: executor turns that end the process that handles them, always
    faults: Faults = CALM

    @staticmethod
    def drawn(seed: int) -> "Scenario":
        """The scenario of a seed."""
        random = Random(seed)
        return Scenario(
            seed=seed,
            mode="batch",
            questions=random.randint(2, 7),
            rollouts=random.choice([1, 1, 2, 3]),
            batch_size=random.randint(1, 3),
            lag=random.choice([0, 1]),
            max_in_flight=random.choice([1, 3, 256]),
            processes=random.randint(1, 3),
            slots=random.choice([1, 2, 8]),
            partitions=random.randint(1, 4),
            local_dispatch=random.random() < 0.7,
            lease_s=random.choice([0.5, 1.0, 4.0]),
            deadly_rate=random.choice([0.0, 0.0, 0.0, 0.1]),
            faults=Faults.drawn(random),
            judge=random.choice(["supervised", "supervised", "unsupervised"]),
            executor_grammar=random.choice(["json", "json", "tags"]),
            train=random.random() < 0.5,
        )

    @staticmethod
    def training(seed: int, lag: int) -> "Scenario":
        """As drawn, with a run that trains: groups of three, three or four batches of two."""
        drawn, random = Scenario.drawn(seed), Random(f"training {seed}")
        return msgspec.structs.replace(
            drawn, train=True, lag=lag, rollouts=3, batch_size=2, questions=random.choice([6, 7])
        )

    @staticmethod
    def guarded(seed: int, lag: int) -> "Scenario":
        """As drawn for training; new versions are tried on two anchors first."""
        return msgspec.structs.replace(Scenario.training(seed, lag), anchors=2)

    @staticmethod
    def hurried(seed: int) -> "Scenario":
        """As drawn, but the outcome depends on time and chance.

        Questions may have a deadline, the model may be moody, the tool must not always be repeated.
        """
        random = Random(f"deadline {seed}")
        drawn = Scenario.drawn(seed)
        return msgspec.structs.replace(
            drawn,
            mode=random.choice(["live", "batch"]),
            deadline_s=random.choice([None, 1.0, 5.0, 20.0]),
            moody=random.random() < 0.7,
            cautious=random.random() < 0.5,
        )

    @staticmethod
    def forgetful(seed: int) -> "Scenario":
        """As drawn, but the ledger crashes again and again; each time it has lost the last claims,
        of which the workers live on.
        """
        return msgspec.structs.replace(
            Scenario.drawn(seed), questions=6, rollouts=3, processes=3, slots=16, partitions=3,
            lease_s=4.0, deadly_rate=0.0, train=False, judge="unsupervised",
            faults=Faults(latency_s=0.02, model_s=1.0, ledger_outages=20, within_s=25.0),
        )  # fmt: skip

    @property
    def workload(self) -> tuple[int | str | float | None, ...]:
        """What the outcome depends on; the rest is how it comes about."""
        return (
            self.seed, self.mode, self.questions, self.rollouts, self.batch_size, self.lag,
            self.deadline_s, self.judge, self.executor_grammar, self.train,
            self.anchors,
        )  # fmt: skip

    def manifest(self) -> Manifest:
        """The run's manifest."""
        values: dict[str, Any] = {"judge": self.judge, "executor_grammar": self.executor_grammar}
        return Manifest(
            **values,
            mode=self.mode,
            rollouts=self.rollouts,
            batch_size=self.batch_size,
            lag=self.lag,
            seed=self.seed,
            deterministic=True,
            train=self.train,
            hyper=Hyper(row_tokens=8_192),
            guard="anchors" if self.anchors else "off",
            guard_rules=GuardRules(margin=0.3),
            anchors=tuple(
                Anchor(source="held", row=str(row), text=f"Which lake is held back {row}?")
                for row in range(self.anchors)
            ),
            holdout=tuple(
                Anchor(source="unseen", row=str(row), text=f"Which hill has nobody seen {row}?")
                for row in range(min(self.anchors, 1))
            ),
            prompts=_PROMPTS,
            roles={role: ModelChoice(model=f"{role}-model") for role in _ROLES},
            max_turns=3,
            max_in_flight=self.max_in_flight,
            question_deadline_s=self.deadline_s,
        )


def undisturbed(scenario: Scenario) -> Scenario:
    """The same work by one process, one command at a time, with nothing going wrong."""
    return msgspec.structs.replace(
        scenario, processes=1, slots=1, partitions=1, local_dispatch=False, faults=CALM
    )
