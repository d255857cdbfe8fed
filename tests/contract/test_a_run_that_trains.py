"""Real handlers over a ledger, step by step: what is trained on is what was sampled and graded."""

from typing import Any

import pytest

from consumers import prompts
from mia_events import topics
from mia_events.effect_codec import Reply
from mia_events.effects import Train
from mia_events.learning.job import Hyper, TrainJob
from mia_events.steps import Manifest, ModelChoice
from storage.ports import TopicState
from tests.contract.workbench import Workbench
from tests.simulation.performer import reply_of
from tests.support.fake_trainer import trained_by
from tests.support.ports import in_memory_ports
from tests.support.reads import Outside
from tests.support.scripted_replies import gold_for

__all__ = ["trained"]

_ROLES = ("planner", "executor", "judge", "manager", "router", "embedder")
_EVERYWHERE = [TopicState(topic, 0, -1, 0) for topic in topics.COMMANDS]


def _manifest(mode: str) -> Manifest:
    return Manifest(
        mode=mode, rollouts=3, batch_size=2, seed=3, deterministic=mode == "batch",
        prompts=prompts.load(), roles={role: ModelChoice(model=f"{role}-m") for role in _ROLES},
        train=True, hyper=Hyper(row_tokens=8_192), max_turns=3,
    )  # fmt: skip


class _Crew:
    """Handles whatever command there is until none is left, in the order of their streams."""

    def __init__(self, workbench: Workbench) -> None:
        self.bench = workbench
        self.jobs: list[TrainJob] = []

    async def work(self, run_no: int) -> None:
        ledger = self.bench.ledger
        while True:
            unsent = await ledger.unsent(_EVERYWHERE, grace_s=0.0, limit=500)
            mine = [event for event in unsent if event.run_no == run_no and not event.outbound]
            if not mine:
                return
            for event in sorted(mine, key=lambda event: (event.topic, str(event.id))):
                await self.bench.handle(await self.bench.claimed(event.stream), self._reply)

    def _reply(self, effect: Outside) -> Reply:
        if not isinstance(effect, Train):
            return reply_of(effect)
        self.jobs.append(effect.job)
        return trained_by(effect.job)


async def trained(workbench: Workbench, mode: str) -> tuple[int, list[TrainJob]]:
    """A run of five questions, worked on to its end."""
    run = await workbench.run(_manifest(mode))
    for row in "01234":
        question = await workbench.question(run, row)
        await workbench.labels.seal(run, question, gold_for(f"question {row}?"), source="t")
    await workbench.accept(run, *"01234")
    crew = _Crew(workbench)
    await crew.work(run)
    await workbench.ports.runs.close((await workbench.ledger.run(run)).name)
    await workbench.ledger.advance(run)
    await crew.work(run)
    return run, crew.jobs


def _samples(job: TrainJob) -> list[tuple[Any, ...]]:
    """A job's rows without the ids of their questions, which are the run's own."""
    return [
        (row.rollout, row.step, row.policy, row.prompt_ids, row.token_ids, row.advantage)
        for row in job.rows
    ]


@pytest.mark.parametrize("mode", ["batch", "live"])
async def test_versions_are_made_and_used(workbench: Workbench, mode: str) -> None:
    """Each update starts from the version that served; its children's rows name it."""
    run, jobs = await trained(workbench, mode)
    rows = await workbench.policies.list(run)
    assert len(jobs) >= 2
    assert [job.policy for job in jobs] == [row.name for row in rows]
    assert [trained_by(job).adapter_sha256 for job in jobs] == [row.adapter_sha256 for row in rows]
    assert ["base", *(row.name for row in rows[:-1])] == [row.parent for row in rows]
    assert {"promoted"} == {row.state for row in rows}
    name = (await workbench.ledger.run(run)).name
    assert "ended" == (await workbench.ledger.run_named(name))[1]
    if mode == "batch":
        assert {"base"} == {row.policy for row in jobs[0].rows}
        assert {jobs[0].policy} == {row.policy for row in jobs[1].rows}


async def test_another_implementation_trains_on_the_same_samples(workbench: Workbench) -> None:
    """Token for token, advantage for advantage: what the twins make, Postgres makes."""
    _, jobs = await trained(workbench, "batch")
    async with in_memory_ports() as twins:
        _, others = await trained(Workbench(twins), "batch")
    assert list(map(_samples, others)) == list(map(_samples, jobs))
