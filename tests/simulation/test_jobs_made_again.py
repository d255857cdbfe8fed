"""The job of every planner version follows from what the ledger holds, and from nothing else."""

from functools import cache

import msgspec

from consumers.stages import STAGES
from mia_events.learning.rows import data_sha256
from ops.replay.jobs import Remade, jobs_of
from schemas.envelope import decode_payload, encode_payload
from schemas.events import RolloutJudged
from storage.inmemory.state import Database
from storage.postgres.replay import RecordedEvent, Recording
from tests.simulation.chance import CALM
from tests.simulation.scenario import Scenario
from tests.simulation.simulate import simulate
from tests.support.fake_trainer import trained_by
from tests.support.recordings import recording_of


@cache
def _run() -> Database:
    """A run that made four versions, undisturbed."""
    scenario = msgspec.structs.replace(Scenario.training(8, 1), questions=8, faults=CALM)
    return simulate(scenario).db


def _jobs(recording: Recording) -> tuple[Remade, ...]:
    return jobs_of(recording, STAGES)


def test_jobs_are_made_again_byte_for_byte() -> None:
    """Each leads to the artifacts that are registered."""
    db = _run()
    jobs = _jobs(recording_of(db))
    rows = list(db.policies.values())
    assert len(rows) >= 3
    assert [row.name for row in rows] == [made.job.policy for made in jobs]
    assert [row.data_sha256 for row in rows] == [data_sha256(made.job.rows) for made in jobs]
    assert [row.adapter_sha256 for row in rows] == [
        trained_by(made.job).adapter_sha256 for made in jobs
    ]
    assert {True} == {made.same for made in jobs}


def test_another_grade_shows_at_exactly_its_version() -> None:
    """A reward that was changed afterwards makes another job of its own batch, and of no other."""
    db, recording = _run(), recording_of(_run())
    second = list(db.policies.values())[1]
    trained = next(made.job for made in _jobs(recording) if made.job.policy == second.name)
    question = trained.rows[0].question
    stream = next(
        events
        for events in recording.streams.values()
        if events[0].question == question and events[-1].type == "rollout.judged"
    )
    changed = {**recording.streams, stream[0].stream: (*stream[:-1], _flipped(stream[-1]))}
    jobs = _jobs(msgspec.structs.replace(recording, streams=changed))
    assert [second.name] == [made.job.policy for made in jobs if not made.same]


def _flipped(event: RecordedEvent) -> RecordedEvent:
    judged = decode_payload(event.body or b"")
    assert isinstance(judged, RolloutJudged)
    other = msgspec.structs.replace(
        judged, grade="incorrect" if judged.grade == "correct" else "correct"
    )
    return msgspec.structs.replace(event, body=encode_payload(other))
