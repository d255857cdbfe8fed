"""The learning loop over a real Kafka and Postgres; trainer and model are scripted."""

from pathlib import Path
from typing import Any

import msgspec

from consumers.guard import anchor_id
from mia_events.learning.guard import Anchor, GuardRules
from mia_events.learning.job import Hyper
from mia_events.steps import RunView
from ops.chaos.cluster import Cluster, cluster, scripted_manifest
from ops.chaos.questions import cities
from ops.chaos.trial import outcome_of
from ops.replay import replay
from ops.worker import KNOWN
from storage.postgres.labels import PostgresLabels
from storage.postgres.pool import open_pool
from storage.postgres.replay import read_recording
from tests.support.scripted_training import STAGES
from tests.support.stack import StackThread
from tests.support.trials import OnThread

_QUESTIONS = 8
_HELD = cities(40)[36:]
_ALL = tuple(Anchor(source="cities", row=str(asked.row), text=asked.text) for asked in _HELD)
_ANCHORS, _HOLDOUT = _ALL[:2], _ALL[2:]
_SEALED = "SELECT body FROM event WHERE run_no = $1 AND type = 'learner.sealed' ORDER BY seq"
_STATES = "SELECT name, state, parent FROM policy WHERE run_no = $1 ORDER BY number"
_PINS = "SELECT DISTINCT policy FROM batch WHERE run_no = $1"
_OPEN = """
SELECT count(*) FROM effect AS f JOIN event AS e ON (e.run_no, e.id) = (f.run_no, f.event_id)
WHERE f.run_no = $1 AND e.type = 'learner.trained' AND f.kind = 'label'
"""


async def _sealed_labels(lab: Cluster, run: RunView) -> None:
    pool = await open_pool(lab.config.dsns["mia_admit"], size=1)
    for anchor, asked in zip(_ALL, _HELD, strict=True):
        labels = PostgresLabels(pool)
        await labels.seal(run.run_no, anchor_id(run, anchor), asked.label, source="anchor")
    await pool.close()


async def test_every_version_is_tried_on_anchors_and_the_ledger_shows_it(
    stack: StackThread, tmp_path: Path
) -> None:
    """Four updates, each decided on with reasons; the audit is clean, a replay decides the same."""
    manifest = scripted_manifest(
        train=True,
        rollouts=3,
        batch_size=2,
        hyper=msgspec.to_builtins(Hyper(row_tokens=4_096)),
        guard="anchors",
        guard_rules=msgspec.to_builtins(GuardRules(margin=0.3)),
        anchors=msgspec.to_builtins(_ANCHORS),
        holdout=msgspec.to_builtins(_HOLDOUT),
    )
    workers: dict[str, Any] = {"handlers": "tests.support.scripted_training"}
    async with cluster(OnThread(stack), tmp_path, **workers) as lab:
        lab.hire("worker", KNOWN)
        run = await lab.create_run("guarded", manifest)
        await _sealed_labels(lab, run)
        await lab.ask(run, cities(_QUESTIONS))
        await lab.until_accepted(run, _QUESTIONS)
        await lab.close_run(run)
        await lab.until_ended(run, limit_s=200.0)
        outcome = await outcome_of(lab, run, lag=0, seconds=0.0)
        bodies = await lab.desk.rows(_SEALED, run.run_no)
        states = await lab.desk.rows(_STATES, run.run_no)
        pinned = {row["policy"] for row in await lab.desk.rows(_PINS, run.run_no)}
        readable = await lab.desk.value(_OPEN, run.run_no)
        replayed = replay(await read_recording(lab.audit_dsn, "guarded"), STAGES)
    assert outcome.clean, outcome.first_faults
    decisions = [msgspec.json.decode(row["body"]) for row in bodies]
    tried = [one for one in decisions if one.get("candidate")]
    assert len(tried) >= 2, decisions
    assert all(one["reasons"] and "candidate.reward" in one["scores"] for one in tried)
    shown = [(name, rewards) for one in tried for name, rewards in one["holdout"].items()]
    assert {"base", *(one["candidate"] for one in tried)} == {name for name, _ in shown}
    assert {len(_HOLDOUT)} == {len(rewards) for _, rewards in shown}
    # The script's judge writes nonsense now and then, which grades nothing: only then once more.
    graded = [name for name, rewards in shown if any(one is not None for one in rewards)]
    assert graded
    assert len(set(graded)) == len(graded), shown
    served = {"base"} | {row["name"] for row in states if row["state"] == "promoted"}
    assert pinned <= served | {row["name"] for row in states if row["state"] == "rolled_back"}
    assert 0 == readable, "labels of anchors lie outside the sealed schema"
    assert replayed.same, replayed.differences
